# Input of all methods: `coords`, `sample` (or NULL), `inside` (logical) and `names` of the spots.
# With it, `counts` (genes x spots) or `features` (spots x columns) and `what` they are called in
# messages; or `scales`, embeddings at hand (spots x columns), and the `record` of their run.

# Domains (unless k is NULL) and embeddings of all spots, in their order.
computeDomains <- function(input, k, params, seed, device, normalized, n_pcs, verbose) {
    n <- length(input$inside)
    checkSpots(n)
    params <- checkParams(params)
    seed <- checkSeed(seed)
    n_pcs <- checkComponents(n_pcs)
    if (is.null(input$features)) {
        input$counts <- checkExpression(input$counts, input$what, normalized)
    }
    input <- checkPlace(input)
    placed <- input$placed
    k <- checkK(k, sum(placed))
    checkSpots(sum(placed))
    if (!all(placed)) {
        say(sum(!placed), " of ", n, " spots have no coordinates or lie outside the tissue: ",
            "their domain is NA.")
    }
    kept <- keepPlaced(input)
    request <- c(
        expressionRequest(kept), placeRequest(kept),
        settingsRequest(k, params, seed, device), list(normalized = normalized, n_pcs = n_pcs)
    )
    answer <- askPython("run", request, verbose)
    say("Spatial graph: ", answer$record$graph$reason, verbose = verbose)
    prepared <- answer$record$prepare
    if (!is.null(input$features) && prepared$n_pcs < prepared$n_features) {
        say("Features: ", prepared$n_pcs, " components of ", prepared$n_features, " columns.",
            verbose = verbose)
    }
    result <- readAnswer(answer, placed)
    result$coords <- input$coords
    result$sample <- input$sample
    result
}

# The input with coordinates and sections checked, and which spots are `placed`.
checkPlace <- function(input) {
    input$coords <- checkCoords(input$coords, input$names, length(input$inside))
    input$placed <- input$inside & rowSums(!is.finite(input$coords)) == 0L
    input$sample <- checkSample(input$sample, input$placed)
    input
}

# What is sent of the input: the placed spots.
keepPlaced <- function(input) {
    placed <- input$placed
    if (all(placed)) {
        return(input)
    }
    input$counts <- input$counts[, placed, drop = FALSE]
    input$features <- input$features[placed, , drop = FALSE]
    input$scales <- lapply(input$scales, function(scale) scale[placed, , drop = FALSE])
    input$coords <- input$coords[placed, , drop = FALSE]
    input$sample <- input$sample[placed]
    input
}

# The answer in R's terms; spots that took no part get NA.
readAnswer <- function(answer, placed) {
    spread <- function(matrix) {
        full <- matrix(NA_real_, length(placed), ncol(matrix))
        full[placed, ] <- matrix
        full
    }
    result <- list(
        scales = lapply(answer$scales, function(scale) spread(fromBuffer(scale))),
        record = answer$record
    )
    result$record$r <- list(
        m2st = format(packageVersion("m2st")),
        reticulate = format(packageVersion("reticulate")),
        R = format(getRversion()),
        n_unplaced = sum(!placed)
    )
    if (!is.null(answer$labels)) {
        labels <- rep(NA_integer_, length(placed))
        labels[placed] <- labelsFromBuffer(answer$labels, sum(placed))
        k <- answer$record$cluster$n_domains
        result$domain <- factor(labels, levels = seq_len(k))
        result$embedding <- spread(fromBuffer(answer$embedding))
        confidence <- readBin(answer$confidence, "double", sum(placed))
        confidence[is.nan(confidence)] <- NA_real_
        result$confidence <- spread(matrix(confidence))[, 1L]
    }
    result
}

# Domains for each number in k, from embeddings that an object holds.
computeClusters <- function(input, k, params, seed) {
    checkRecord(input$scales, input$record)
    checkHasK(k)
    if (!is.numeric(k) || length(k) == 0L || anyDuplicated(k)) {
        stopM2ST("Expected `k` to be different whole numbers, found ", shorten(k), ".")
    }
    input <- checkPlace(input)
    k <- lapply(k, checkK, n = sum(input$placed & !is.na(input$scales[[1L]][, 1L])))
    seed <- checkSeed(seed)
    params <- checkParams(params)
    kept <- keepPlaced(input)
    known <- c(scalesRequest(kept$scales, input$record$n_members), placeRequest(kept))
    answers <- lapply(k, function(one) {
        askPython("cluster", c(known, settingsRequest(one, params, seed, "cpu")), FALSE)
    })
    warnOtherGraph(answers[[1L]]$record$graph, input$record$graph)
    lapply(answers, readAnswer, placed = input$placed)
}

# Without the record the members of the ensemble cannot be told apart.
checkRecord <- function(scales, record) {
    expected <- record$n_members * unlist(record$embed$params$scale_dims)
    if (!isTRUE(all.equal(expected, vapply(unname(scales), ncol, integer(1L))))) {
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

# What distinguishes the results for several k in names; nothing for one.
clusterSuffix <- function(k, separator = "_") {
    if (length(k) == 1L) "" else paste0(separator, "k", k)
}
