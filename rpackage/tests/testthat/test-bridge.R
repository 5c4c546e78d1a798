# With Python itself.

sameInBoth <- function(call, params, ...) {
    folder <- tempfile("m2st")
    dir.create(folder)
    writeBin(rev(dim(toyCounts())), file.path(folder, "shape"))
    writeBin(as.double(toyCounts(sparse = FALSE)), file.path(folder, "counts"))
    writeBin(as.double(toyCoords()), file.path(folder, "coords"))
    inPython(folder, call)
    result <- runM2ST(
        toyCounts(), toyCoords(), k = 3, seed = 11, device = "cpu", params = params, keep = "scales",
        ...
    )
    read <- function(name) readBin(file.path(folder, name), "raw", 1e7)
    expect_identical(writeBin(as.integer(result$domain), raw()), read("labels"))
    expect_identical(bits(result$embedding), read("embedding"))
    expect_identical(bits(result$scales$scale1), read("scale1"))
    list(confidence = result$confidence, python = read("confidence"), record = result$record)
}

test_that("R and Python give the same labels and the same bits", {
    skip_if_no_m2st()
    found <- sameInBoth(
        c(
            "m2st.run(adata, 3, random_state=11, device='cpu', progress=False,",
            "    autoencoder=m2st.AutoencoderParams(n_members=2, n_epochs=30),",
            "    clustering=m2st.ClusteringParams(n_init=3))"
        ),
        m2stParams(n_members = 2, n_epochs = 30, n_init = 3)
    )
    expect_identical(writeBin(unname(found$confidence), raw()), found$python)
})

test_that("batches are aligned as in Python", {
    skip_if_no_m2st()
    expect_no_warning(found <- sameInBoth(
        c(
            "adata.obs['donor'] = ['one', 'two'] * 60",
            "m2st.run(adata, 3, batch_key='donor', random_state=11, device='cpu', progress=False,",
            "    autoencoder=m2st.AutoencoderParams(n_members=2, n_epochs=5),",
            "    clustering=m2st.ClusteringParams(n_init=3))"
        ),
        m2stParams(n_members = 2, n_epochs = 5, n_init = 3),
        batch_id = rep(c("one", "two"), 60)
    ))
    expect_identical(writeBin(unname(found$confidence), raw()), found$python)
    expect_identical(found$record$prepare$batch_key, "batch")
    expect_null(found$record$prepare$sample_key)
})

test_that("R and Python give the same bits of the published method", {
    skip_if_no_m2st()
    found <- sameInBoth(
        c(
            "import dataclasses",
            "few = dataclasses.replace(m2st.paper.AUTOENCODER, n_epochs=5)",
            "dual = m2st.paper.DualParams(specific_dim=4, solver='published')",
            "m2st.paper.run(adata, 3, random_state=11, device='cpu', progress=False,",
            "    autoencoder=few, clustering=dual)"
        ),
        paperParams(n_epochs = 5, specific_dim = 4, solver = "published")
    )
    expect_true(all(is.na(found$confidence)))
    expect_identical(found$record$prepare$recipe, "paper")
    expect_identical(found$record$cluster$method, "dual")
})

test_that("a run finds the planted halves and leaves R's random numbers alone", {
    skip_if_no_m2st()
    counts <- toyCounts()
    before <- .Random.seed
    result <- runM2ST(
        counts, toyCoords(), k = 2, device = "cpu",
        params = m2stParams(n_members = 2, n_epochs = 30)
    )
    expect_identical(.Random.seed, before)
    upper <- toyCoords()[, "col"] > 6
    expect_gte(max(mean((result$domain == "1") == upper), mean((result$domain == "2") == upper)), 1)
    expect_identical(result$record$graph$method, "lattice")
})

test_that("stages, dense and sparse agree with a run", {
    skip_if_no_m2st()
    arguments <- list(coords = toyCoords(), params = quickParams(), device = "cpu")
    whole <- do.call(runM2ST, c(list(toyCounts(), k = 3, keep = "scales"), arguments))
    dense <- do.call(runM2ST, c(list(toyCounts(sparse = FALSE), k = 3), arguments))
    expect_identical(dense$embedding, whole$embedding)
    embedded <- do.call(embedM2ST, c(list(toyCounts()), arguments))
    again <- clusterM2ST(embedded, k = 3, params = quickParams())
    expect_identical(byName(again), byName(whole))
})

test_that("stages agree with a run where spots are outside, empty, and in sections", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    SingleCellExperiment::counts(x)[, 7] <- 0
    x$in_tissue <- rep(c(0, 1), c(4, 116))
    x$side <- rep(c("left", "right"), each = 60)
    stage <- function(call, x, ...) {
        suppressMessages(suppressWarnings(
            call(x, sample_id = "side", params = quickParams(), ...), classes = "warning"
        ))
    }
    whole <- stage(runM2ST, x, k = 3, device = "cpu")
    embedded <- stage(embedM2ST, x, device = "cpu")
    again <- stage(clusterM2ST, embedded, k = 3)
    expect_identical(which(is.na(again$m2st_domain)), c(1:4, 7L))
    expect_identical(which(is.na(again$m2st_confidence)), c(1:4, 7L))
    expect_identical(SummarizedExperiment::colData(again), SummarizedExperiment::colData(whole))
    expect_identical(S4Vectors::metadata(again), S4Vectors::metadata(whole))
    expect_warning(
        suppressMessages(clusterM2ST(embedded, 3, params = quickParams())),
        "^The spatial graph has"
    )
})

test_that("sections share no edge, and each is as if it were alone", {
    skip_if_no_m2st()
    sample <- rep(c("left", "right"), each = 60)
    result <- suppressWarnings(runM2ST( # sections of noise share little, and are told so
        toyCounts(), toyCoords(), k = 2, sample_id = sample, params = quickParams(), device = "cpu"
    ))
    graph <- result$record$graph
    expect_identical(graph$n_between_samples, 0L)
    expect_identical(graph$n_components, 2L)
    # A 10 x 6 array has 10 * 5 + 9 * 6 edges.
    expect_identical(graph$n_edges, 2L * 2L * (10L * 5L + 9L * 6L))
})

test_that("shuffled spots get the same domains, shuffled", {
    skip_if_no_m2st()
    skip_if_not_installed("mclust")
    order <- sample(120)
    params <- m2stParams(n_members = 2, n_epochs = 30)
    plain <- runM2ST(toyCounts(), toyCoords(), k = 2, params = params, device = "cpu")
    shuffled <- runM2ST(
        toyCounts()[, order], toyCoords()[order, ], k = 2, params = params, device = "cpu"
    )
    expect_identical(names(shuffled$domain), names(plain$domain)[order])
    # Masks and starts are drawn by position, so that single spots may differ.
    expect_gte(mclust::adjustedRandIndex(shuffled$domain, plain$domain[order]), 0.95)
})

test_that("what Python objects to or warns of arrives once", {
    skip_if_no_m2st()
    expect_error(
        runM2ST(toyCounts(), toyCoords(), k = 2, device = "abacus"),
        "^Expected a `device` that torch can use here, such as auto, cpu.*, found 'abacus'. Choose"
    )
    counts <- toyCounts()
    counts[, 7] <- 0
    warnings <- capture_warnings(
        result <- runM2ST(counts, toyCoords(), k = 2, params = quickParams(), device = "cpu")
    )
    expect_length(warnings, 1L)
    expect_match(warnings, "^1 of 120 spots have no counts")
    expect_identical(unname(which(is.na(result$domain))), 7L)
    expect_true(all(is.na(result$embedding[7, ])))
})

test_that("progress is reported by messages, on request", {
    skip_if_no_m2st()
    run <- function(verbose) {
        runM2ST(toyCounts(), toyCoords(), k = 2, verbose = verbose, device = "cpu",
            params = m2stParams(n_members = 2, n_epochs = 50, min_delta = 0))
    }
    said <- testthat::capture_messages(run(TRUE))
    steps <- c(
        "Spatial graph: ", "Model 1 of 2: epoch 50 of at most 50, loss", "Model 2 of 2: ",
        "Clustering into 2 domains"
    )
    at <- vapply(steps, function(step) which(startsWith(said, step))[1L], integer(1L))
    expect_false(is.unsorted(at))
    expect_false(anyNA(at))
    expect_silent(run(FALSE))
})

test_that("results hold no Python object and survive a new session", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- suppressMessages(
        runM2ST(toySCE(), k = 2, params = quickParams(), device = "cpu", keep = "scales")
    )
    kinds <- rapply(S4Vectors::metadata(x)$m2st, typeof, how = "unlist")
    expect_true(all(kinds %in% c("character", "integer", "double", "logical")))
    file <- tempfile(fileext = ".rds")
    saveRDS(x, file)
    expect_identical(readRDS(file), x)
    code <- sprintf(
        "x <- readRDS('%s'); x <- m2st::clusterM2ST(x, k = 3); cat(nlevels(x$m2st_domain))", file
    )
    libs <- paste(.libPaths(), collapse = .Platform$path.sep)
    out <- system2(
        file.path(R.home("bin"), "Rscript"), c("-e", shQuote(code)), stdout = TRUE, stderr = FALSE,
        env = paste0(c("R_LIBS=", "RETICULATE_PYTHON="), c(libs, reticulate::py_config()$python))
    )
    expect_identical(utils::tail(out, 1L), "3")
})

test_that("Ctrl-C stops a run within two seconds, and object and session are intact", {
    skip_if_no_m2st()
    skip_on_os("windows")
    script <- tempfile(fileext = ".R")
    go <- tempfile()
    writeLines(c(
        "library(m2st)",
        "set.seed(1)",
        "x <- matrix(rpois(6e5, 3), 300)",
        "coords <- as.matrix(expand.grid(1:40, 1:50))",
        "x0 <- x",
        "params <- m2stParams(n_epochs = 100000, min_delta = 0)",
        "message('pid ', Sys.getpid())",
        "handler <- function(m) file.create(commandArgs(TRUE)[1])",
        "began <- NULL",
        "result <- tryCatch(",
        "    withCallingHandlers(",
        "        runM2ST(x, coords, k = 3, params = params, device = 'cpu', verbose = TRUE),",
        "        message = handler",
        "    ),",
        "    interrupt = function(condition) 'interrupted'",
        ")",
        "cat('stopped:', format(Sys.time(), '%s'), '\\n')",
        "stopifnot(identical(result, 'interrupted'), identical(x, x0))",
        "small <- m2stParams(n_members = 1, n_epochs = 3, n_init = 2)",
        "again <- runM2ST(x, coords, k = 3, params = small, device = 'cpu')",
        "cat('again:', nlevels(again$domain), '\\n')"
    ), script)
    libs <- paste(.libPaths(), collapse = .Platform$path.sep)
    out <- tempfile()
    environment <- c(
        paste0("R_LIBS=", libs), paste0("RETICULATE_PYTHON=", reticulate::py_config()$python)
    )
    system2(
        file.path(R.home("bin"), "Rscript"), c(script, go), stdout = out, stderr = out,
        env = environment, wait = FALSE
    )
    waitFor <- function(done, seconds) {
        end <- Sys.time() + seconds
        while (!done() && Sys.time() < end) Sys.sleep(0.1)
    }
    waitFor(function() file.exists(go), 120)
    expect_true(file.exists(go))
    pid <- as.integer(sub("pid ", "", grep("^pid ", readLines(out), value = TRUE)))
    sent <- floor(as.numeric(Sys.time()))
    tools::pskill(pid, tools::SIGINT)
    waitFor(function() any(grepl("^again:|Error|halted", readLines(out))), 60)
    lines <- readLines(out)
    expect_true("again: 3 " %in% lines)
    stopped <- as.numeric(sub("stopped: *", "", grep("^stopped:", lines, value = TRUE)))
    expect_lte(stopped - sent, 2)
})

# Two sections of 10 x 6 spots, the second shifted by less than the distance of neighbours.
overlaid <- function() {
    counts <- toyCounts()
    at <- unname(toyCoords())
    at[61:120, ] <- at[61:120, ] - rep(c(0.4, 6 - 0.3), each = 60)
    colnames(counts) <- rep(colnames(counts)[1:60], 2L)
    list(counts = counts, coords = at, section = rep(c("s1", "s2"), each = 60))
}

test_that("sections on top of each other are a warning with the argument that helps", {
    skip_if_no_m2st()
    skip_if_not(reticulate::py_module_available("m2st._sections"))
    two <- overlaid()
    skip_if_not_installed("SingleCellExperiment")
    warned <- function(...) capture_warnings(suppressMessages(runM2ST(..., k = 2,
        params = quickParams(), device = "cpu")))
    x <- SingleCellExperiment::SingleCellExperiment(
        list(counts = two$counts),
        colData = S4Vectors::DataFrame(
            x = two$coords[, 1], y = two$coords[, 2], sample_name = two$section
        )
    )
    warnings <- warned(x)
    expect_length(warnings, 1L)
    expect_match(warnings, "column 'sample_name' lie on top of each other in the coordinates")
    expect_match(warnings, "Pass `sample_id = \"sample_name\"`", fixed = TRUE)
    expect_no_match(c("", warned(x, sample_id = "sample_name")), "lie on top of each other")
    colnames(two$counts) <- NULL
    object <- toySeurat(meta = FALSE)
    object$x <- two$coords[, 1]
    object$y <- two$coords[, 2]
    object$orig.ident <- two$section
    expect_match(warned(object), "Pass `sample_id = \"orig.ident\"`", fixed = TRUE)
})

test_that("columns that may name sections are those of Python", {
    skip_if_no_m2st()
    skip_if_not(reticulate::py_module_available("m2st._sections"))
    pattern <- reticulate::import("m2st._sections")$`_COLUMN`$pattern
    expect_identical(sectionNames, pattern)
    counts <- list(sample_name = rep(1:2, 30), Slide = rep(c("a", NA), each = 30), layer = 1:60,
        orig.ident = rep("a", 60), cell_id = 1:60)
    expect_identical(names(sectionColumns(data.frame(counts))), "sample_name")
})

test_that("fractional counts are taken as counts, and logarithms are not", {
    skip_if_no_m2st()
    run <- function(counts, ...) runM2ST(
        counts, toyCoords(), k = 2, params = quickParams(), device = "cpu", ...
    )
    counts <- toyCounts()
    expect_warning(
        found <- run(counts * 0.93), "^`x` holds fractional values such as .* taken as counts"
    )
    expect_false(anyNA(found$domain))
    logs <- counts
    logs@x <- log1p(logs@x)
    expect_error(run(logs), "in `x`, found values on a log scale.*pass `normalized = TRUE`")
    expect_warning(run(counts, normalized = TRUE), "log scale in `x` with `normalized = TRUE`")
    expect_warning(run(counts * 46.5, normalized = TRUE), "found values up to")
    expect_no_warning(run(logs, normalized = TRUE))
})
