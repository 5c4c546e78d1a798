# Input of all methods: `counts` (genes x spots) or `features` (spots x columns), `what` they are
# called in messages, `coords`, `sample` and `inside` (logical, or NULL), `names` of the spots.

# Domains (unless k is NULL) and embeddings of all spots, in their order.
computeDomains <- function(input, k, params, seed, device, normalized, verbose) {
    n <- length(input$inside)
    checkSpots(n)
    params <- checkParams(params)
    seed <- checkSeed(seed)
    if (is.null(input$features)) {
        input$counts <- checkExpression(input$counts, input$what, normalized)
    }
    input$coords <- checkCoords(input$coords, input$names, n)
    placed <- input$inside & rowSums(!is.finite(input$coords)) == 0L
    input$sample <- checkSample(input$sample, placed)
    k <- checkK(k, sum(placed))
    checkSpots(sum(placed))
    if (!all(placed)) {
        say(sum(!placed), " of ", n, " spots have no coordinates or lie outside the tissue: ",
            "their domain is NA.")
        input <- keepSpots(input, placed)
    }
    request <- c(
        expressionRequest(input), placeRequest(input),
        settingsRequest(k, params, seed, device), list(normalized = normalized)
    )
    answer <- askPython("run", request, verbose)
    say("Spatial graph: ", answer$record$graph$reason, verbose = verbose)
    readAnswer(answer, placed)
}

keepSpots <- function(input, placed) {
    if (is.null(input$features)) {
        input$counts <- input$counts[, placed, drop = FALSE]
    } else {
        input$features <- input$features[placed, , drop = FALSE]
    }
    input$coords <- input$coords[placed, , drop = FALSE]
    if (!is.null(input$sample)) {
        input$sample <- input$sample[placed]
    }
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
    }
    if (!is.null(answer$confidence)) {
        result$confidence <- rep(NA_real_, length(placed))
        confidence <- readBin(answer$confidence, "double", sum(placed))
        confidence[is.nan(confidence)] <- NA_real_
        result$confidence[placed] <- confidence
    }
    result
}

# Domains for each number in k, from embeddings that an object holds.
computeClusters <- function(scales, k, params, seed) {
    if (length(scales) == 0L) {
        stopM2ST("Found no embeddings of m2ST in the object. Call embedM2ST() or runM2ST() first.")
    }
    if (!is.numeric(k) || length(k) == 0L || anyDuplicated(k)) {
        stopM2ST("Expected `k` to be different whole numbers, found ", shorten(k), ".")
    }
    placed <- !is.na(scales[[1L]][, 1L])
    k <- lapply(k, checkK, n = sum(placed))
    seed <- checkSeed(seed)
    params <- checkParams(params)
    embeddings <- scalesRequest(scales)
    lapply(k, function(one) {
        request <- c(embeddings, settingsRequest(one, params, seed, "cpu"))
        readAnswer(askPython("cluster", request, FALSE), rep(TRUE, length(placed)))
    })
}

# What distinguishes the results for several k in names; nothing for one.
clusterSuffix <- function(k, separator = "_") {
    if (length(k) == 1L) "" else paste0(separator, "k", k)
}
