# Several methods on one object, each in a process of its own, in one table.

#' Methods side by side on the same object
#'
#' Finds domains by m2ST, BayesSpace, Seurat and BANKSY. All have the same spots, counts, number of
#' domains and scores. Each runs in a separate R process on one thread. If a method fails or is not
#' installed, its row of the table says why.
#'
#' Each method follows its own documentation:
#'
#' * `m2ST`: [runM2ST()] with its defaults.
#' * `BayesSpace`: [runBayesSpaceFor()] with its defaults, for spots on a lattice only.
#' * `Seurat`: its vignette on spatial data, which ignores coordinates. It calls `SCTransform()`,
#'   takes 30 principal components, and searches the resolution of `FindClusters()` that gives `k`.
#' * `BANKSY`: the Python package `pybanksy`, installed beside `m2st` (`pip install pybanksy`). It
#'   follows its notebooks. On lattices it takes 6 neighbours and a weight of 0.2 ("DLPFC"),
#'   otherwise 15 neighbours with gradients and 0.8 ("STARmap"). It searches the resolution that
#'   gives `k`.
#'
#' Only the scores read the annotation. `ARI`, `NMI` and `purity` are computed as in
#' [compareDomains()], over spots with an annotation. `CHAOS` and `PAS` use coordinates. `CHAOS` is
#' the mean distance to the nearest spot of the same domain, in standardised coordinates. `PAS` is
#' the share of spots whose ten nearest spots mostly have another domain. The lower, the smoother,
#' which is not the same as better. The Python package computes both.
#'
#' @param x A SummarizedExperiment or an object of a class that extends it, a Seurat object, or a
#'   matrix of counts with genes in rows.
#' @param k Number of domains, the same for all.
#' @param truth Annotation: the name of a column or, for a matrix, a label for each spot. `NULL` for
#'   none.
#' @param methods Which methods to run, in this order.
#' @param seed Seeds; each method runs once with each.
#' @param options A list of arguments for each method, such as
#'   `list(m2ST = list(n_members = 3), BayesSpace = list(nrep = 10000))`. m2ST takes the arguments
#'   of [m2stParams()], BayesSpace takes the arguments of [runBayesSpaceFor()]. Seurat takes `dims`.
#'   BANKSY takes `n_neighbors`, `share` and `max_m`.
#' @param further Other methods: a named list of functions of `counts` (genes x spots), `coords`,
#'   `k` and `seed`. Each returns a label for each spot. Each runs in a new R process, and must name
#'   packages as `package::function()`.
#' @param coords,array Coordinates as in [runM2ST()], and places on the lattice as in
#'   [runBayesSpaceFor()].
#' @param sample_id,assay.type,assay,layer,image Where sections and counts are, as in [runM2ST()].
#' @param verbose Whether to say which method runs.
#' @param ... Arguments of the methods for classes.
#' @return A list of class `m2stComparison`:
#'
#'   * `table`: a data frame with a row for each method and seed, and these columns. `method`,
#'     `version`, `seed` and `k` describe the run. `n_domains` were found. `n_spots` took part, and
#'     `n_scored` of them have an annotation. The scores follow. `ARI_m2ST`, `ARI_BayesSpace` and so
#'     on are the agreement with the other methods at the same seed. `seconds` is the time from
#'     counts to domains, `cpu_seconds` the time at work. `peak_mb` is the largest memory of the
#'     process, with R and the data (Linux only). `note` names lost domains, or says why the method
#'     failed.
#'   * `domains`: a data frame with a row for each spot and a factor for each method and seed.
#'     [matchDomains()] named the domains after the ones of the first method.
#'   * `machine`: cores, memory, threads of each method, R and operating system.
#'
#'   Spots off the tissue, without coordinates or without counts get `NA` from all methods.
#' @seealso [compareDomains()] for columns of labels that an object has already.
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' set.seed(1)
#' counts <- matrix(rpois(3000, outer(1:30, 1:100, function(gene, spot) {
#'     ifelse((gene > 15) == (spot > 50), 4, 1)
#' })), 30)
#' if (m2stAvailable() && requireNamespace("callr", quietly = TRUE)) {
#'     quick <- list(m2ST = list(n_members = 2, n_epochs = 20))
#'     compareMethods(counts, 2, rep(1:2, each = 50), methods = "m2ST", options = quick,
#'         coords = coords)
#' }
#' @export
compareMethods <- function(
    x, k, truth = NULL, methods = c("m2ST", "BayesSpace", "Seurat", "BANKSY"), seed = 0L,
    options = list(), further = list(), ...
) {
    UseMethod("compareMethods")
}

#' @export
compareMethods.default <- function(x, ...) {
    stopM2ST("Expected a SummarizedExperiment, a Seurat object or a matrix of counts, found ",
        class(x)[1L], ".")
}

#' @rdname compareMethods
#' @export
compareMethods.SummarizedExperiment <- function(
    x, k, truth = NULL, methods = c("m2ST", "BayesSpace", "Seurat", "BANKSY"), seed = 0L,
    options = list(), further = list(), coords = NULL, array = NULL, sample_id = NULL,
    assay.type = "counts", verbose = interactive(), ...
) {
    checkNoMore(...)
    columns <- SummarizedExperiment::colData(x)
    input <- c(expressionSE(x, assay.type, NULL, NULL), placeSE(x, coords, sample_id))
    input$array <- latticeColumns(columns, array, "colData(x)")
    truth <- if (!is.null(truth)) labelColumn(as.list(columns), truth, "colData(x)")
    compareAll(input, k, truth, methods, seed, options, further, verbose)
}

#' @rdname compareMethods
#' @export
compareMethods.SpatialExperiment <- function(x, ..., coords = NULL) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    compareMethods.SummarizedExperiment(x, ..., coords = coords)
}

#' @rdname compareMethods
#' @export
compareMethods.Seurat <- function(
    x, k, truth = NULL, methods = c("m2ST", "BayesSpace", "Seurat", "BANKSY"), seed = 0L,
    options = list(), further = list(), coords = NULL, array = NULL, sample_id = NULL,
    image = NULL, assay = NULL, layer = "counts", verbose = interactive(), ...
) {
    checkNoMore(...)
    loadClasses(x)
    input <- c(
        expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL),
        placeSeurat(x, image, coords, sample_id)
    )
    input$array <- latticeSeurat(x, array)$array
    truth <- if (!is.null(truth)) labelColumn(as.list(x[[]]), truth, "meta.data")
    compareAll(input, k, truth, methods, seed, options, further, verbose)
}

#' @rdname compareMethods
#' @export
compareMethods.matrix <- function(
    x, k, truth = NULL, methods = c("m2ST", "BayesSpace", "Seurat", "BANKSY"), seed = 0L,
    options = list(), further = list(), coords, array = NULL, sample_id = NULL,
    verbose = interactive(), ...
) {
    checkNoMore(...)
    checkSparse(x, "`x`")
    checkHasCoords(coords)
    if (!is.null(truth) && length(truth) != ncol(x)) {
        stopM2ST("Expected an annotation of each of ", ncol(x), " spots in `truth`, found ",
            length(truth), ".")
    }
    input <- list(
        counts = x, what = "`x`", coords = coords, array = array, sample = sample_id,
        names = colnames(x), inside = rep(TRUE, ncol(x))
    )
    truth <- if (!is.null(truth)) asLabels(truth)
    compareAll(input, k, truth, methods, seed, options, further, verbose)
}

#' @rdname compareMethods
#' @export
compareMethods.Matrix <- compareMethods.matrix

#' @rdname compareMethods
#' @export
compareMethods.dgCMatrix <- compareMethods.matrix

#' @rdname compareMethods
#' @export
print.m2stComparison <- function(x, ...) {
    columns <- c(
        "method", "seed", "n_domains", "k", "ARI", "NMI", "purity", "CHAOS", "PAS", "seconds",
        "peak_mb"
    )
    shown <- x$table[columns]
    numbers <- vapply(shown, is.double, logical(1L))
    shown[numbers] <- lapply(shown[numbers], signif, digits = 3L)
    print(shown, row.names = FALSE)
    noted <- x$table$note != ""
    cat("\n", sprintf("%s, seed %d: %s\n", x$table$method, x$table$seed, x$table$note)[noted],
        machineText(x$machine), "\n", sep = "")
    invisible(x)
}

compareAll <- function(input, k, truth, methods, seed, options, further, verbose) {
    requirePackage("callr", "to run each method in a process of its own")
    checkFurther(further)
    known <- all(methods %in% names(methodRuns)) && !anyDuplicated(methods)
    if (length(methods) + length(further) == 0L || !known) {
        stopM2ST("Expected `methods` among ", quoted(names(methodRuns)), ", each once, found ",
            shorten(methods), ".")
    }
    checkOptions(options)
    seed <- vapply(seed, checkSeed, integer(1L))
    checkSpots(length(input$inside))
    input$counts <- checkExpression(input$counts, input$what, whole = TRUE)
    input <- checkPlace(input)
    input$valid <- input$valid & Matrix::colSums(input$counts) > 0
    checkSpots(sum(input$valid))
    k <- checkK(k, sum(input$valid))
    kept <- keepSpots(input)
    runs <- expand.grid(method = c(methods, names(further)), seed = seed, stringsAsFactors = FALSE)
    results <- Map(function(method, seed) {
        say("Running ", method, ", seed ", seed, verbose = verbose)
        runApart(method, kept, k, seed, options[[method]], further[[method]])
    }, runs$method, runs$seed)
    makeComparison(input, kept, k, truth, runs, results)
}

checkOptions <- function(options) {
    known <- names(options) %in% names(methodRuns)
    if (!is.list(options) || length(known) != length(options) || !all(known)) {
        stopM2ST("Expected `options` to be a list with names among ", quoted(names(methodRuns)),
            ", found ", shorten(names(options)), ".")
    }
}

checkFurther <- function(further) {
    fit <- is.list(further) && all(vapply(further, is.function, logical(1L)))
    known <- c(names(methodRuns), "")
    if (!fit || length(further) && (is.null(names(further)) || any(names(further) %in% known) ||
        anyDuplicated(names(further)))) {
        stopM2ST("Expected `further` to be a list of functions with names other than ",
            quoted(names(methodRuns)), ", found ", shorten(further), ".")
    }
}

# One thread, for whichever library a method uses.
oneThread <- c(
    OMP_NUM_THREADS = "1", OPENBLAS_NUM_THREADS = "1", MKL_NUM_THREADS = "1",
    VECLIB_MAXIMUM_THREADS = "1", NUMBA_NUM_THREADS = "1"
)

# The result of a method in a new process, or a note that says why there is none.
runApart <- function(method, input, k, seed, options, own = NULL) {
    python <- tryCatch(reticulate::py_config()$python, error = function(e) NULL)
    tryCatch(
        callr::r(
            runTimed, list(method, input, k, seed, options, own), package = "m2st",
            env = c(callr::rcmd_safe_env(), oneThread, RETICULATE_PYTHON = python)
        ),
        # What stopped the process itself: no memory left, a crash of compiled code.
        error = function(e) list(note = paste("failed:", conditionMessage(e)))
    )
}

# Runs in the new process.
runTimed <- function(method, input, k, seed, options, own = NULL) {
    started <- proc.time()
    result <- tryCatch(
        suppressWarnings(suppressMessages(
            if (is.null(own)) {
                do.call(methodRuns[[method]], c(list(input, k, seed), options))
            } else {
                runFunction(own, input, k, seed)
            }
        )),
        error = function(e) list(note = paste("failed:", conditionMessage(e)))
    )
    spent <- proc.time() - started
    result$seconds <- spent[["elapsed"]]
    result$cpu_seconds <- sum(spent[c("user.self", "sys.self")])
    result$peak_mb <- peakMemory()
    result
}

# Highest resident memory of this process so far; only Linux tells.
peakMemory <- function() {
    status <- "/proc/self/status"
    line <- if (file.exists(status)) grep("^VmHWM:", readLines(status), value = TRUE)
    if (length(line)) as.numeric(gsub("[^0-9]", "", line)) / 1024 else NA_real_
}

runFunction <- function(own, input, k, seed) {
    labels <- own(input$counts, input$coords, k, seed)
    if (length(labels) != ncol(input$counts)) {
        stopM2ST("Expected ", ncol(input$counts), " labels, found ", length(labels), ".")
    }
    list(labels = as.integer(factor(labels)))
}

runSelf <- function(input, k, seed, ...) {
    work <- list(params = m2stParams(...), seed = seed, device = "cpu", normalized = FALSE)
    result <- computeDomains(input, k, work, verbose = FALSE)
    list(labels = as.integer(result$domain), version = packageLabel("m2st"))
}

runSeurat <- function(input, k, seed, dims = 30L) {
    requirePackage("Seurat", "to run it")
    object <- SeuratObject::CreateSeuratObject(namedCounts(input$counts))
    object <- Seurat::SCTransform(object, seed.use = seed, verbose = FALSE)
    dims <- min(dims, length(SeuratObject::VariableFeatures(object)) - 1L, ncol(object) - 1L)
    object <- Seurat::RunPCA(
        object, npcs = dims, approx = dims < nrow(object) / 2, seed.use = seed, verbose = FALSE
    )
    object <- Seurat::FindNeighbors(object, dims = seq_len(dims), verbose = FALSE)
    labels <- searchResolution(k, function(resolution) {
        found <- Seurat::FindClusters(
            object, resolution = resolution, random.seed = seed, verbose = FALSE
        )
        as.integer(found$seurat_clusters)
    })
    list(labels = labels, version = packageLabel("Seurat"))
}

# Bisects for the resolution that gives k clusters; of those tried, the closest.
searchResolution <- function(k, cluster, low = 0, high = 4, n_tries = 30L) {
    best <- NULL
    for (i in seq_len(n_tries)) {
        middle <- (low + high) / 2
        labels <- cluster(middle)
        n <- max(labels)
        if (is.null(best) || abs(n - k) < abs(max(best) - k)) {
            best <- labels
        }
        if (n == k) {
            break
        }
        if (n < k) low <- middle else high <- middle
    }
    best
}

runBanksy <- function(input, k, seed, ...) {
    lattice <- !is.null(input$array)
    settings <- utils::modifyList(
        if (lattice) {
            list(n_neighbors = 6L, share = 0.2, max_m = 0L)
        } else {
            list(n_neighbors = 15L, share = 0.8, max_m = 1L)
        },
        list(...)
    )
    request <- c(
        expressionRequest(input), placeRequest(input), settings,
        list(n_domains = k, random_state = seed)
    )
    answer <- askComparison("banksy", request)
    list(labels = readBin(answer$labels, "integer", ncol(input$counts)), version = answer$version)
}

methodRuns <- list(m2ST = runSelf, BayesSpace = bayesSpace, Seurat = runSeurat, BANKSY = runBanksy)

# Functions of m2st.compare take and return what those of m2st.bridge do.
askComparison <- function(what, request) {
    answer <- reticulate::import("m2st.compare")[[what]](request)
    if (!is.null(answer$error)) {
        stopM2ST(answer$error)
    }
    answer
}

makeComparison <- function(input, kept, k, truth, runs, results) {
    labels <- lapply(results, function(result) {
        full <- rep(NA_integer_, length(input$valid))
        full[input$valid] <- if (is.null(result$labels)) NA_integer_ else result$labels
        factor(full)
    })
    spatial <- spatialScores(kept, lapply(labels, function(found) found[input$valid]))
    rows <- lapply(seq_along(results), function(i) {
        scoreRow(runs[i, ], results[[i]], labels[[i]], k, truth, spatial[i, ])
    })
    table <- do.call(rbind, rows)
    same <- outer(runs$seed, runs$seed, "==")
    for (method in unique(runs$method)) {
        table[[paste0("ARI_", method)]] <- vapply(seq_along(labels), function(i) {
            with <- labels[[which(runs$method == method & same[i, ])]]
            compareTwo(with, labels[[i]], "ARI")$ARI
        }, double(1L))
    }
    last <- c("seconds", "cpu_seconds", "peak_mb", "note")
    structure(
        list(
            table = table[c(setdiff(names(table), last), last)],
            domains = alignDomains(labels, runs, input$names), machine = describeMachine()
        ),
        class = "m2stComparison"
    )
}

scoreRow <- function(run, result, labels, k, truth, spatial) {
    or <- function(value, otherwise) if (is.null(value)) otherwise else value
    annotated <- if (is.null(truth)) factor(rep(NA, length(labels))) else truth
    scores <- compareTwo(annotated, labels, c("ARI", "NMI", "purity"))
    found <- nlevels(labels)
    note <- if (!is.null(result$labels) && found != k) paste(found, "of", k, "domains found")
    data.frame(
        method = run$method, version = or(result$version, NA_character_), seed = run$seed, k = k,
        n_domains = found, n_spots = sum(!is.na(labels)), n_scored = scores$n,
        scores[c("ARI", "NMI", "purity")], spatial,
        seconds = or(result$seconds, NA_real_), cpu_seconds = or(result$cpu_seconds, NA_real_),
        peak_mb = or(result$peak_mb, NA_real_), note = or(result$note, or(note, "")),
        row.names = NULL
    )
}

# CHAOS and PAS of each labelling of the spots that took part; missing where there is no labelling.
spatialScores <- function(input, labels) {
    scores <- data.frame(CHAOS = rep(NA_real_, length(labels)), PAS = NA_real_)
    ran <- which(!vapply(labels, anyNA, logical(1L)))
    if (length(ran)) {
        request <- c(placeRequest(input), list(
            labels = unname(lapply(labels[ran], function(found) toBuffer(as.integer(found), 4L)))
        ))
        tryCatch(
            {
                answer <- askComparison("spatial_scores", request)
                scores$CHAOS[ran] <- unlist(answer$chaos)
                scores$PAS[ran] <- unlist(answer$pas)
            },
            error = function(e) {
                say("CHAOS and PAS were not computed: ", conditionMessage(e))
            }
        )
    }
    scores
}

# Domains of each run, named after those of the first that gave some.
alignDomains <- function(labels, runs, names) {
    ran <- which(vapply(labels, nlevels, integer(1L)) > 0L)
    if (length(ran)) {
        labels[ran] <- lapply(labels[ran], matchDomains, b = labels[[ran[1L]]])
    }
    several <- length(unique(runs$seed)) > 1L
    columns <- paste0(runs$method, if (several) paste0("_seed", runs$seed))
    domains <- data.frame(stats::setNames(labels, columns), check.names = FALSE)
    if (!is.null(names) && !anyDuplicated(names)) {
        rownames(domains) <- names
    }
    domains
}

describeMachine <- function() {
    memory <- "/proc/meminfo"
    total <- if (file.exists(memory)) grep("^MemTotal:", readLines(memory), value = TRUE)
    list(
        cores = parallel::detectCores(),
        memory_gb = if (length(total)) {
            round(as.numeric(gsub("[^0-9]", "", total)) / 1024^2)
        } else {
            NA_real_
        },
        threads = 1L, r = format(getRversion()),
        system = paste(Sys.info()[["sysname"]], Sys.info()[["machine"]])
    )
}

machineText <- function(machine) {
    paste0(machine$system, ", ", machine$cores, " cores, ", machine$memory_gb, " GB, ",
        machine$threads, " thread for each method; R ", machine$r)
}

#' The comparison from files
#'
#' For the Python package, which leaves counts and coordinates in a folder, and reads the tables
#' from there. [compareMethods()] is for people.
#'
#' @param folder The folder.
#' @return Nothing; `table.csv` and `domains.csv` in the folder.
#' @keywords internal
#' @examples
#' try(compareFiles(tempdir()))  # nothing was left there
#' @export
compareFiles <- function(folder) {
    at <- function(name) file.path(folder, name)
    read <- function(name, what, size) {
        if (file.exists(at(name))) readBin(at(name), what, file.size(at(name)) / size, size)
    }
    request <- jsonlite::fromJSON(at("request.json"))
    n <- request$shape[2L]
    places <- function(name) {
        values <- read(name, "double", 8L)
        if (length(values)) matrix(values, n)
    }
    counts <- methods::new(
        "dgCMatrix", x = read("data", "double", 8L), i = read("indices", "integer", 4L),
        p = read("indptr", "integer", 4L), Dim = request$shape,
        Dimnames = list(NULL, as.character(seq_len(n)))
    )
    # Found already; each process looks up those of the spots that it is given.
    further <- lapply(seq_along(request$further), function(i) {
        names <- paste0("further_", i - 1L, "_", request$seed)
        found <- lapply(names, read, what = "integer", size = 4L)
        names(found) <- request$seed
        eval(substitute(
            function(counts, coords, k, seed) {
                found[[as.character(seed)]][as.integer(colnames(counts))]
            },
            list(found = found)
        ), globalenv())
    })
    names(further) <- unlist(request$further)
    result <- compareMethods(
        counts, request$k, read("truth", "integer", 4L), as.character(unlist(request$methods)),
        request$seed,
        request$options, further, coords = places("coordinates"), array = places("array"),
        sample_id = read("sample", "integer", 4L), verbose = TRUE
    )
    table <- cbind(result$table, machine = machineText(result$machine))
    utils::write.csv(table, at("table.csv"), row.names = FALSE, na = "")
    utils::write.csv(result$domains, at("domains.csv"), row.names = FALSE)
}
