# Input of all methods: `coords`, `sample`, `batch` and `types` (or NULL), `inside` (logical) and
# `names` of the spots;
# `measured` (logical), if an assay has not all of them; `candidates`, columns that may name
# sections; `chosen`, if the user asked for some sections only; `words`, what arguments of Python
# are called.
# With it, `counts` (genes x spots) or `features` (spots x columns) and `what` they are called in
# messages; or `scales`, embeddings at hand (spots x columns), and the `record` of their run.

# Arguments of all methods of runM2ST() that say how to work, with `verbose`.
workArguments <- c(
    "normalized", "n_pcs", "params", "seed", "device", "n.cores", "checkpoint", "save", "keep"
)

# Domains (unless k is NULL) and embeddings of all spots, in their order. `work` has the arguments
# above, checked here. `write` puts a result into the user's object: it is tried before the work.
computeDomains <- function(input, k, work, verbose, write = identity) {
    params <- checkParams(work$params)
    checkPaper(params, input, work$normalized, work$save)
    checkBatch(params, input)
    checkTypes(params, input)
    seed <- checkSeed(work$seed)
    n_pcs <- checkComponents(work$n_pcs)
    n.cores <- if (is.null(work$n.cores)) 1L else checkCores(work$n.cores)
    checkpoint <- work$checkpoint
    if (!is.null(checkpoint)) {
        checkPathName(checkpoint, "checkpoint", "file")
        checkpoint <- path.expand(checkpoint)
    }
    save <- checkSave(work$save, input)
    keep <- checkKeep(work$keep)
    input <- checkInput(input)
    checkHasK(k)
    keepScales <- is.null(k) || keep
    k <- if (isAuto(k)) k else checkK(k, sum(input$valid))
    kept <- readyInput(input, if (isAuto(k)) mostChosen else k, write, keepScales)
    request <- c(
        sectionRequest(kept, work$normalized), batchRequest(kept),
        settingsRequest(k, params, seed, work$device),
        list(n_pcs = n_pcs, n_jobs = n.cores, checkpoint = checkpoint, save = save,
            keep_scales = keepScales),
        if (!is.null(save)) genesRequest(kept)
    )
    finishRun(input, "run", request, verbose, write)
}

# The same by a model in the folder `model`.
applyModel <- function(input, model, normalized, verbose, write = identity) {
    folder <- checkModel(model)
    if (is.null(input$features)) {
        checkGenes(input)
    }
    input <- checkInput(input)
    kept <- readyInput(input, 1L, write)
    request <- c(
        sectionRequest(kept, normalized), genesRequest(kept, columns = TRUE),
        list(model = folder), n_new = attr(model, "n_new")
    )
    finishRun(input, "apply", request, verbose, write)
}

# The input with its values checked, and which spots are `valid`.
checkInput <- function(input) {
    checkSpots(length(input$inside))
    if (is.null(input$features)) {
        input$counts <- checkExpression(input$counts, input$what)
    }
    input <- checkPlace(input)
    checkNoPlaces(input)
    input
}

# What is sent of a checked input, once it is known that k domains can be written.
readyInput <- function(input, k, write, keepScales = FALSE) {
    tryWriting(write, length(input$inside), k, keepScales)
    sayInvalid(input)
    checkSpots(sum(input$valid))
    keepValid(input)
}

# Asks Python, and writes its answer.
finishRun <- function(input, what, request, verbose, write) {
    verbose <- if (is.null(verbose)) interactive() else isTRUE(verbose)
    request$words <- wordsRequest(input)
    answer <- askPython(what, request, verbose)
    prepared <- answer$record$prepare
    if (!is.null(input$features) && prepared$n_pcs < prepared$n_features) {
        say("Features: ", prepared$n_pcs, " components of ", prepared$n_features, " columns.",
            verbose = verbose)
    }
    unassigned <- answer$record$apply$n_unassigned
    if (isTRUE(unassigned > 0)) {
        say(unassigned, " of ", length(input$inside), " spots are unlike all that is labelled: ",
            "their domain is NA.")
    }
    result <- readAnswer(answer, input$valid)
    result$coords <- input$coords
    result$sample <- input$sample
    result$record$r$spots <- spotsOf(input$coords, input$sample, input$valid)
    hushed(FALSE, write(result))
}

# The published method makes its features of counts.
checkPaper <- function(params, input, normalized, save) {
    if (inherits(params, "paperParams") && !is.null(save)) {
        stopM2ST("Expected no `save` with paperParams(): a model of the published method applies to ",
            "no other section. Leave it out.")
    }
    if (inherits(params, "paperParams") && (!is.null(input$features) || isTRUE(normalized))) {
        found <- if (is.null(input$features)) "normalized = TRUE" else input$what
        stopM2ST("Expected counts for the published method, found ", found, ". Leave it out, or ",
            "take other settings: params = m2stParams().")
    }
}

# Batches are aligned where features are made of counts by m2ST's own recipe.
checkBatch <- function(params, input) {
    if (is.null(input$batch)) {
        return(invisible())
    }
    if (inherits(params, "paperParams")) {
        stopM2ST("Expected no `batch_id` with paperParams(): the published method aligns nothing. ",
            "Leave it out.")
    }
    if (!is.null(input$features)) {
        stopM2ST("Expected counts to align batches, found `batch_id` with ready features, ",
            input$what, ". Leave one of them out.")
    }
}

# The published method has no views beside its scales.
checkTypes <- function(params, input) {
    if (!is.null(input$types) && inherits(params, "paperParams")) {
        stopM2ST("Expected no `cell_types` with paperParams(): the published method has no view of ",
            "them. Leave it out.")
    }
}

# Writes a stand-in of the result, so that what cannot be written fails before hours of work, and
# what writing has to say is said before them.
tryWriting <- function(write, n, k, keepScales) {
    column <- matrix(seq_len(n) / n, n, 1L)
    standIn <- list(
        scales = if (keepScales) list(scale1 = column), record = list(), coords = cbind(column, column)
    )
    if (!is.null(k)) {
        standIn$domain <- factor(rep(1L, n), levels = seq_len(k))
        standIn$confidence <- rep(1, n)
        standIn$embedding <- column
    }
    suppressWarnings(tryCatch(write(standIn), error = function(e) {
        stopM2ST("The result could not be written: ", conditionMessage(e))
    }))
    invisible()
}

# Says how many spots get no domain, and why; warns where it is all of a section.
sayInvalid <- function(input) {
    valid <- input$valid
    if (all(valid)) {
        return(invisible())
    }
    missing <- rowSums(!is.finite(input$coords)) > 0L
    measured <- if (is.null(input$measured)) rep(TRUE, length(valid)) else input$measured
    counts <- c(
        sum(!measured), sum(measured & !input$inside), sum(measured & input$inside & missing)
    )
    reasons <- c(
        paste("are not in", input$what), "lie outside the tissue", "have no coordinates"
    )
    say(sum(!valid), " of ", length(valid), " spots get no domain (NA): ",
        toString(paste(counts, reasons)[counts > 0L]), ".")
    if (isTRUE(input$chosen)) {
        return(invisible())
    }
    lost <- lostSections(input$candidates, valid)
    if (length(lost)) {
        warning("No spot of ", lost, " has a place in the tissue: its domain is NA throughout. ",
            "Check its coordinates or its image.", call. = FALSE)
    }
}

# Sections by the first column that may name them and has some without any valid spot.
lostSections <- function(candidates, valid) {
    for (name in names(candidates)) {
        values <- as.character(candidates[[name]])
        lost <- setdiff(values[!valid], c(values[valid], NA))
        if (length(lost)) {
            return(paste0(quoted(utils::head(lost, 5L)), " (column '", name, "')"))
        }
    }
}

# Coordinates are no features: of 2 or 3 columns, are they all a linear function of the coordinates?
checkNoPlaces <- function(input) {
    features <- input$features
    if (is.null(features) || !ncol(features) %in% 2:3) {
        return(invisible())
    }
    use <- input$valid & rowSums(!is.finite(features)) == 0L
    values <- scale(features[use, , drop = FALSE])
    explained <- qr(cbind(1, input$coords[use, , drop = FALSE]))
    if (all(is.finite(values)) && all(abs(qr.resid(explained, values)) < 1e-3)) {
        stopPlaces(input$what)
    }
}

stopPlaces <- function(what) {
    stopM2ST("Expected features of the spots, found their coordinates in ", what, ". Leave it out ",
        "to use the counts: coordinates are taken besides them.")
}

# The input with coordinates and sections checked, and which spots are `valid`.
checkPlace <- function(input) {
    input$coords <- checkCoords(input$coords, input$names, length(input$inside))
    input$valid <- input$inside & rowSums(!is.finite(input$coords)) == 0L
    if (!is.null(input$measured)) {
        input$valid <- input$valid & input$measured
    }
    input$sample <- checkSample(input$sample, input$valid)
    input$batch <- checkSample(input$batch, input$valid, "batch", "batch_id")
    input$types <- checkEach(input$types, length(input$valid), "cell type", "cell_types")
    input
}

# What is sent of the input: the valid spots.
keepValid <- function(input) {
    valid <- input$valid
    if (all(valid)) {
        return(input)
    }
    input$counts <- input$counts[, valid, drop = FALSE]
    input$features <- input$features[valid, , drop = FALSE]
    input$scales <- lapply(input$scales, function(scale) scale[valid, , drop = FALSE])
    input$coords <- input$coords[valid, , drop = FALSE]
    input$sample <- input$sample[valid]
    input$batch <- input$batch[valid]
    input$types <- input$types[valid]
    input$names <- input$names[valid]
    input$candidates <- lapply(input$candidates, function(values) values[valid])
    input
}

# The answer in R's terms; spots that took no part get NA.
readAnswer <- function(answer, valid) {
    spread <- function(matrix) {
        full <- matrix(NA_real_, length(valid), ncol(matrix))
        full[valid, ] <- matrix
        full
    }
    scales <- as.list(answer$scales)
    names(scales) <- sprintf("scale%d", seq_along(scales))
    scales[names(answer$views)] <- answer$views
    result <- list(
        scales = lapply(scales, function(scale) spread(fromBuffer(scale))),
        record = answer$record
    )
    result$record$r <- list(
        m2st = format(packageVersion("m2st")),
        reticulate = format(packageVersion("reticulate")),
        R = format(getRversion()),
        n_invalid = sum(!valid)
    )
    # Last, as where a clustering follows later.
    steps <- names(result$record)
    result$record <- result$record[c(setdiff(steps, "cluster"), intersect(steps, "cluster"))]
    if (!is.null(answer$labels)) {
        label <- function(found) {
            labels <- rep(NA_integer_, length(valid))
            labels[valid] <- labelsFromBuffer(found$labels, sum(valid))
            names <- unlist(found$domains)
            factor(labels, levels = seq_along(names), labels = names)
        }
        result$domain <- label(answer)
        result$second_domain <- if (!is.null(answer$second)) label(answer$second)
        result$embedding <- if (!is.null(answer$embedding)) spread(fromBuffer(answer$embedding))
        confidence <- readBin(answer$confidence, "double", sum(valid))
        confidence[is.nan(confidence)] <- NA_real_
        result$confidence <- spread(matrix(confidence))[, 1L]
    }
    result
}

# Domains for each number in k, from embeddings that an object holds.
computeClusters <- function(input, k, params, seed, n.cores, verbose) {
    checkRecord(input$scales, input$record)
    checkHasK(k)
    choice <- if (inherits(k, "m2stChoice")) choiceRecord(k)
    k <- numbersIn(k)
    if (isAuto(k)) {
        stopM2ST("Expected `k` to be a number of domains, found 'auto'. To choose one: ",
            "clusterM2ST(x, k = chooseDomains(x)).")
    }
    if (!is.numeric(k) || length(k) == 0L || anyDuplicated(k)) {
        stopM2ST("Expected `k` to be different whole numbers, found ", shorten(k), ".")
    }
    input <- checkPlace(input)
    k <- lapply(k, checkK, n = sum(input$valid & !is.na(input$scales[[1L]][, 1L])))
    seed <- checkSeed(seed)
    params <- checkParams(params)
    n.cores <- checkCores(n.cores)
    verbose <- if (is.null(verbose)) interactive() else isTRUE(verbose)
    kept <- keepValid(input)
    request <- c(
        scalesRequest(kept$scales, input$record$n_members), placeRequest(kept),
        settingsRequest(k, params, seed, "cpu"),
        list(words = wordsRequest(input), n_jobs = n.cores)
    )
    answers <- askPython("cluster", request, verbose)$results
    warnOtherGraph(answers[[1L]]$record$graph, input$record$graph)
    lapply(answers, function(answer) {
        result <- readAnswer(answer, input$valid)
        result$record$n_domains <- choice
        result
    })
}

isAuto <- function(k) identical(k, "auto")

# The number that was chosen; numbers stay as they are.
numbersIn <- function(k) {
    if (inherits(k, "m2stChoice")) k$k else k
}

# Embeddings of the scales, which a run with domains keeps on request only; `where` the first is.
checkScales <- function(scales, record, where) {
    if (is.null(record$embed) && !is.null(record$apply)) {
        stopM2ST("Expected embeddings of a run, found a result of applyM2ST() or annotateM2ST(), ",
            "whose domains are those of the model. Call runM2ST() to find others.")
    }
    if (length(scales) == 0L && !is.null(record$embed)) {
        stopM2ST("Found no embeddings of the scales (", where, "): the run kept only what is common ",
            "to all. Run it again with keep = \"scales\", or call embedM2ST().")
    }
    if (length(scales) == 0L) {
        stopM2ST("Found no embeddings of the scales (", where, "). Call embedM2ST() first, or ",
            "runM2ST(keep = \"scales\"), or pass the `name` that was given there.")
    }
}

# Without the record the members of the ensemble cannot be told apart.
checkRecord <- function(scales, record) {
    expected <- record$n_members * unlist(record$embed$params$scale_dims)
    widths <- vapply(unname(scalesOf(scales)), ncol, integer(1L))
    if (!isTRUE(all.equal(expected, widths))) {
        stopM2ST("Expected the record of the run that made the embeddings, found ",
            if (length(expected)) "that of another run" else "none", ". Call embedM2ST() again.")
    }
}

warnOtherGraph <- function(graph, before) {
    if (isTRUE(graph$n_edges != before$n_edges)) {
        warning("The spatial graph has ", graph$n_edges, " entries, that of the embeddings had ",
            before$n_edges, ". Pass the same coordinates and sections as to the run.",
            call. = FALSE)
    }
}
