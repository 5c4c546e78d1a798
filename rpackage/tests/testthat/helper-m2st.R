skip_if_no_m2st <- function() {
    skip_if_not(m2stAvailable(), "the Python module m2st is available")
}

# A STAND-IN for Python, so that reading and writing can be tested without it: domain and confidence
# of a spot follow from its first coordinate only, and the embeddings hold that coordinate. It keeps
# the last request in `fake$request`.
fake <- new.env()

fakeWorker <- function(what, request, callback) {
    fake$request <- request
    fake$what <- what
    if (what == "cluster") {
        return(list(warnings = list(), results = lapply(request$n_domains, function(k) {
            request$n_domains <- k
            fakeAnswer(what, request)
        })))
    }
    fakeAnswer(what, request)
}

fakeAnswer <- function(what, request) {
    if (what == "run") {
        n <- request$shape[1L]
        first <- readBin(request$coordinates, "double", n)
        dims <- if (is.null(request$autoencoder$scale_dims)) {
            c(4L, 2L)
        } else {
            unlist(request$autoencoder$scale_dims)
        }
        members <- request$autoencoder$n_members
        members <- if (is.null(members)) 1L else members
        scales <- if (isTRUE(request$keep_scales)) {
            lapply(dims * members, function(d) fakeBuffer(matrix(first, n, d)))
        }
    } else {
        shape <- request$scales[[1L]]$shape
        n <- shape[1L]
        first <- readBin(request$scales[[1L]]$data, "double", n)
        scales <- NULL
    }
    answer <- list(
        warnings = list(), scales = scales,
        record = list(graph = list(
            reason = "made up by the stand-in", n_between_samples = 0L,
            n_edges = 100L * n + length(request$sample_names)
        ))
    )
    if (what == "run") {
        wanted <- if (is.null(request$n_pcs)) 15L else request$n_pcs
        answer$record$prepare <- list(
            n_features = request$shape[2L], n_pcs = min(wanted, request$shape[2L])
        )
        answer$record$n_members <- members
        answer$record$embed <- list(params = list(scale_dims = as.list(dims)))
    }
    k <- request$n_domains
    if (!is.null(k)) {
        cuts <- ceiling(rank(first, ties.method = "max", na.last = "keep") / n * k)
        cuts[is.na(cuts)] <- 0L
        answer$domains <- as.list(as.character(seq_len(k)))
        answer$labels <- writeBin(as.integer(cuts), raw())
        answer$embedding <- fakeBuffer(matrix(first, n, k))
        answer$confidence <- writeBin(stats::plogis(first), raw())
        answer$record$cluster <- list(n_domains = k)
        if (isTRUE(fake$second)) {
            other <- as.integer(rev(cuts))
            answer$second <- list(
                domains = answer$domains, labels = writeBin(other, raw())
            )
            answer$record$cluster$solutions <- list(
                camps = list(1L, 1L, 1L, 2L, 2L), shares = list(0.6, 0.4), between = 0.2
            )
        }
    }
    answer
}

fakeBuffer <- function(matrix) {
    list(data = writeBin(as.double(matrix), raw(), size = 4L), shape = as.list(dim(matrix)))
}

# A list of class m2st with its record by name: where the clustering stands in it does not matter.
byName <- function(result) {
    result$record <- result$record[order(names(result$record))]
    result
}

withFake <- function(code, worker = fakeWorker) {
    before <- state$call
    on.exit(state$call <- before)
    state$call <- worker
    force(code)
}

# Sixty genes that tell the upper from the lower half of a 10 x 12 array.
toyCoords <- function() {
    as.matrix(expand.grid(row = 1:10, col = 1:12)) * 1
}

toyCounts <- function(sparse = TRUE) {
    set.seed(3)
    upper <- toyCoords()[, "col"] > 6
    rates <- outer(1:60, upper, function(gene, upper) ifelse((gene > 30) == upper, 5, 1))
    counts <- matrix(
        rpois(7200L, rates), 60L,
        dimnames = list(paste0("gene", 1:60), paste0("spot", 1:120))
    )
    if (sparse) as(counts, "CsparseMatrix") else counts
}

quickParams <- function() {
    m2stParams(n_members = 2, n_epochs = 5, hidden_dim = 16, scale_dims = c(8, 4), n_init = 2)
}

# Runs Python code on the counts and coordinates in a folder, as a user of Python would.
inPython <- function(folder, code) {
    python <- reticulate::py_config()$python
    script <- file.path(folder, "run.py")
    writeLines(c(
        "import sys, numpy as np, anndata, m2st",
        "folder = sys.argv[1]",
        "shape = np.fromfile(folder + '/shape', dtype=np.int32)",
        "counts = np.fromfile(folder + '/counts', dtype=np.float64).reshape(shape)",
        "adata = anndata.AnnData(counts.astype(np.float32))",
        "adata.obsm['spatial'] = np.fromfile(folder + '/coords').reshape(2, -1).T.copy()",
        code,
        "labels = adata.obs['m2st_domain'].cat.codes.to_numpy().astype(np.int32) + 1",
        "labels.tofile(folder + '/labels')",
        "adata.obs['m2st_confidence'].to_numpy().tofile(folder + '/confidence')",
        "adata.obsm['X_m2st'].astype('<f4').tofile(folder + '/embedding')",
        "adata.obsm['X_m2st_scale1'].astype('<f4').tofile(folder + '/scale1')"
    ), script)
    status <- system2(
        python, c(shQuote(script), shQuote(folder)),
        env = c("LD_LIBRARY_PATH=", "PYTHONWARNINGS=ignore"), stdout = FALSE
    )
    expect_identical(status, 0L)
}

bits <- function(matrix) writeBin(as.double(t(matrix)), raw(), size = 4L)

# What a new R says that has run some code, with a value for RETICULATE_PYTHON.
inNewR <- function(code, python = "") {
    rscript <- file.path(R.home("bin"), "Rscript")
    libs <- paste(.libPaths(), collapse = .Platform$path.sep)
    env <- c(paste0("R_LIBS=", libs), if (nzchar(python)) paste0("RETICULATE_PYTHON=", python))
    out <- suppressWarnings(
        system2(rscript, c("-e", shQuote(code)), stdout = TRUE, stderr = TRUE, env = env)
    )
    paste(out, collapse = "\n")
}

# What Python was asked to write, without Python.
asked <- function(...) {
    worker <- function(what, request, callback) {
        fake$what <- what
        fake$request <- request
        list(warnings = list())
    }
    path <- tempfile(fileext = ".html")
    returned <- withFake(reportM2ST(..., path = path), worker)
    expect_identical(fake$what, "report")
    expect_identical(returned, fake$request$path)
    fake$request
}
