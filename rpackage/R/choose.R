# How many domains: the evidence for each number, from embeddings that an object holds.

#' Choose a number of domains
#'
#' Clusters the embeddings into each number of domains, and says which number the data speak for. A
#' number scores high if the models agree on its domains, and if one domain less explains much less.
#' Nothing is trained, and each number takes as long as for [clusterM2ST()]. `runM2ST(k = "auto")`
#' does the same within a run.
#'
#' The number is a guide, not a truth: tissue has domains within domains. Look at the curve, and at
#' other peaks of the score.
#'
#' A test comes first. It asks whether neighbours are more alike than any two spots. If they are not,
#' the choice is 1, with a warning.
#'
#' @param x An object, or a list of objects, that [embedM2ST()] or `runM2ST(keep = "scales")`
#'   returned; for `print()` and `plot()` a choice.
#' @param k Numbers of domains to choose from, at least 2. Their neighbours are tried, too.
#' @param name Name of the result with the embeddings.
#' @inheritParams runM2ST
#' @param params Settings made by [m2stParams()]. Its smoothness is left out: it would count as
#'   something that domains explain.
#' @return A list of class `m2stChoice`:
#'   * `k`, the number of domains;
#'   * `peaks`, all numbers at which the score has a peak, the highest first;
#'   * `p_value`, of the test for structure in space;
#'   * `evidence`, a data frame with a row for each number `k`: `stability` (mean adjusted Rand index
#'     between models), `gain` (nats per spot over one domain less) and `score`.
#'
#'   Give it to [clusterM2ST()] as `k`: the evidence then stands in the record, and in the report.
#'   `plot()` returns a ggplot object.
#' @seealso [clusterM2ST()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:12))
#' rates <- outer(1:30, coords[, "col"] %/% 4.1, function(gene, zone) 1 + 4 * (gene %% 3 == zone))
#' counts <- matrix(rpois(3600, rates), 30)
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     x <- embedM2ST(counts, coords = coords, params = params, device = "cpu")
#'     choice <- chooseDomains(x, k = 2:5)
#'     choice
#'     x <- clusterM2ST(x, k = choice)
#' }
#' @export
chooseDomains <- function(x, k = 2:12, ...) {
    UseMethod("chooseDomains")
}

#' @rdname chooseDomains
#' @export
chooseDomains.default <- function(x, k = 2:12, ...) {
    stopM2ST(
        "Expected an object that runM2ST() or embedM2ST() returned, found ", class(x)[1L], "."
    )
}

#' @rdname chooseDomains
#' @export
chooseDomains.m2st <- function(
    x, k = 2:12, params = m2stParams(), seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    hushed(verbose, computeChoice(embeddedM2ST(x), k, params, seed, n.cores, verbose))
}

#' @rdname chooseDomains
#' @export
chooseDomains.SingleCellExperiment <- function(
    x, k = 2:12, coords = NULL, sample_id = NULL, name = "m2st", params = m2stParams(), seed = 0L,
    n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    checkName(name)
    hushed(verbose, {
        computeChoice(embeddedSE(x, name, coords, sample_id), k, params, seed, n.cores, verbose)
    })
}

#' @rdname chooseDomains
#' @export
chooseDomains.SpatialExperiment <- function(x, k = 2:12, coords = NULL, ...) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    chooseDomains.SingleCellExperiment(x, k, coords, ...)
}

#' @rdname chooseDomains
#' @export
chooseDomains.Seurat <- function(
    x, k = 2:12, coords = NULL, sample_id = NULL, image = NULL, name = "m2st",
    params = m2stParams(), seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    checkName(name)
    hushed(verbose, {
        input <- embeddedSeurat(x, name, image, coords, sample_id)
        computeChoice(input, k, params, seed, n.cores, verbose)
    })
}

computeChoice <- function(input, k, params, seed, n.cores, verbose) {
    checkRecord(input$scales, input$record)
    p_value <- input$record$embed$structure_p_value
    if (is.null(p_value)) {
        stopM2ST("Expected embeddings that this version of m2ST made, found those of another one, ",
            "or of Python. Call embedM2ST() again.")
    }
    params <- checkOwn(params, "has no choice of a number")
    input <- checkPlace(input)
    k <- checkCandidates(k, sum(input$valid & !is.na(input$scales[[1L]][, 1L])))
    seed <- checkSeed(seed)
    n.cores <- checkCores(n.cores)
    kept <- keepValid(input)
    request <- c(
        scalesRequest(kept$scales, input$record$n_members), placeRequest(kept),
        settingsRequest(NULL, params, seed, "cpu"),
        list(
            words = wordsRequest(input), candidates = as.list(k), p_value = p_value,
            n_jobs = n.cores
        )
    )
    verbose <- if (is.null(verbose)) interactive() else isTRUE(verbose)
    found <- askPython("choose", request, verbose)$evidence
    evidence <- data.frame(lapply(found[c("candidates", "stability", "gain", "score")], unlist))
    names(evidence)[1L] <- "k"
    structure(
        list(
            k = found$chosen, peaks = if (found$chosen > 1L) peaksOf(evidence),
            p_value = found$p_value, evidence = evidence
        ),
        class = "m2stChoice"
    )
}

checkCandidates <- function(k, n) {
    if (!is.numeric(k) || length(k) == 0L || !all(vapply(k, isWhole, logical(1L), low = 2))) {
        stopM2ST("Expected `k` to be whole numbers of at least 2 to choose from, such as 2:12, ",
            "found ", shorten(k), ".")
    }
    k <- sort(unique(as.integer(k)))
    checkK(k[length(k)] + 1L, n)
    k
}

checkCores <- function(n.cores) {
    if (!isWhole(n.cores, 1)) {
        stopM2ST("Expected `n.cores` to be one whole number above 0, found ", shorten(n.cores), ".")
    }
    as.integer(n.cores)
}

# Numbers whose score is above that of the numbers beside them, the highest first.
peaksOf <- function(evidence) {
    n <- nrow(evidence)
    score <- evidence$score
    is_peak <- score > c(-Inf, score[-n]) & score >= c(score[-1L], -Inf)
    peaks <- which(is_peak)
    evidence$k[peaks[order(-score[peaks])]]
}

# The entry of the record that a report draws.
choiceRecord <- function(choice) {
    curves <- as.list(choice$evidence[c("stability", "gain", "score")])
    c(list(candidates = choice$evidence$k), curves, p_value = choice$p_value, chosen = choice$k)
}

#' @rdname chooseDomains
#' @export
print.m2stChoice <- function(x, ...) {
    words <- inWords(x)
    cat(words[["choice"]], " (", words[["test"]], ")\n", sep = "")
    others <- setdiff(x$peaks, x$k)
    if (length(others)) {
        cat("Other peaks of the score: ", toString(others), "\n", sep = "")
    }
    shown <- x$evidence
    shown[-1L] <- lapply(shown[-1L], function(values) format(round(values, 3L), nsmall = 3L))
    print(shown, row.names = FALSE)
    invisible(x)
}

inWords <- function(choice) {
    found <- if (choice$k == 1L) {
        "No structure in space: 1 domain"
    } else {
        paste("The evidence speaks for", choice$k, "domains")
    }
    c(choice = found, test = paste0("structure in space: p = ", format(choice$p_value, digits = 2L)))
}

#' @rdname chooseDomains
#' @export
plot.m2stChoice <- function(x, ...) {
    requirePackage("ggplot2", "to draw")
    lines <- c(stability = "agreement of models (ARI)", score = "score")
    data <- data.frame(
        k = rep(x$evidence$k, 2L), value = unlist(x$evidence[names(lines)], use.names = FALSE),
        line = factor(rep(lines, each = nrow(x$evidence)), levels = lines)
    )
    aes <- function(...) do.call(ggplot2::aes, lapply(c(...), as.name))
    ggplot2::ggplot(data, aes(x = "k", y = "value", colour = "line", shape = "line")) +
        ggplot2::geom_vline(xintercept = x$k, linetype = "dashed") +
        ggplot2::geom_line() +
        ggplot2::geom_point() +
        ggplot2::scale_colour_manual(values = stats::setNames(firstColours[1:2], lines)) +
        ggplot2::scale_x_continuous(breaks = x$evidence$k) +
        ggplot2::scale_y_continuous(limits = c(0, 1.05)) +
        ggplot2::labs(
            x = "number of domains", y = NULL, colour = NULL, shape = NULL,
            title = inWords(x)[["choice"]], subtitle = inWords(x)[["test"]]
        ) +
        ggplot2::theme_classic() +
        ggplot2::theme(legend.position = "top")
}
