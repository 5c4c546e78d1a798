# Agreement of labels, in plain R: nothing here needs Python, and no label enters a run.

#' Agreement of domains with a reference
#'
#' Compares columns of labels with a column of reference labels, spot by spot. A spot that lacks one
#' of the two labels is left out of that comparison, and counted.
#'
#' * `ARI`: adjusted Rand index, 1 for equal partitions and 0 on average for random ones.
#' * `NMI`: normalised mutual information. It is divided by the *arithmetic mean* of the two
#'   entropies, as in scikit-learn. Division by the larger entropy or by the geometric mean gives
#'   other numbers. Do not mix them in one table.
#' * `purity`: share of the spots that belong to the commonest class of their domain. It grows with
#'   the number of domains. Compare it at equal numbers only.
#'
#' The Python package computes the same numbers.
#'
#' @param x A Seurat object, a SummarizedExperiment or a class that extends it, a data frame with a
#'   row for each spot, or the result of [runM2ST()] on a matrix.
#' @param truth Name of the column with the reference labels. For the result of a matrix, a label
#'   for each spot.
#' @param name Names of the results to compare, whose domains are in the columns `<name>_domain`, or
#'   names of any columns of labels. `NULL` takes all columns whose names end in `_domain`.
#' @param metrics Which of the three to compute.
#' @param by Name of a column of groups, such as sections, to compare one by one. In the result of a
#'   matrix, the sections are called `"sample_id"`.
#' @param ... Nothing.
#' @return A data frame with a row for each column of labels and each group. Its columns are `label`
#'   and, with `by`, `group`, then `n`, `n_missing`, `n_domains` and the metrics. `n` spots and
#'   `n_domains` domains were compared, and `n_missing` spots were left out. A metric is `NA` if
#'   there was nothing to compare.
#' @references
#' Hubert L, Arabie P (1985). Comparing partitions. *Journal of Classification* 2, 193-218.
#' @seealso [matchDomains()], [plotDomains()]
#' @examples
#' spots <- data.frame(
#'     layer = c("L1", "L1", "L1", "L2", "L2", "L2", NA),
#'     m2st_domain = c(1, 1, 2, 2, 2, 2, 1)
#' )
#' compareDomains(spots, truth = "layer")
#' @export
compareDomains <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    UseMethod("compareDomains")
}

#' @export
compareDomains.default <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    stopM2ST("Expected a data frame, a Seurat object, a SummarizedExperiment or the result of ",
        "runM2ST() on a matrix, found ", class(x)[1L], ".")
}

#' @rdname compareDomains
#' @export
compareDomains.data.frame <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    checkNoMore(...)
    compareColumns(as.list(x), "x", truth, name, metrics, by)
}

#' @rdname compareDomains
#' @export
compareDomains.m2st <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    checkNoMore(...)
    columns <- columnsM2ST(x)
    columns$truth <- labelsM2ST(x, truth, "truth")
    compareColumns(columns, "the result", "truth", name, metrics, by)
}

#' @rdname compareDomains
#' @export
compareDomains.Seurat <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    compareColumns(as.list(x[[]]), "meta.data", truth, name, metrics, by)
}

#' @rdname compareDomains
#' @export
compareDomains.SummarizedExperiment <- function(
    x, truth, name = NULL, metrics = c("ARI", "NMI", "purity"), by = NULL, ...
) {
    checkNoMore(...)
    columns <- as.list(SummarizedExperiment::colData(x))
    compareColumns(columns, "colData(x)", truth, name, metrics, by)
}

#' Name domains after the domains of another result
#'
#' Pairs each domain of `a` with one domain of `b`, so that the overlap of all pairs together is as
#' large as possible. A domain of `a` then takes the name of its partner. Pictures of the two share
#' their colours. Domains are never merged or split.
#'
#' @param a Labels to rename.
#' @param b Labels of the same spots in the same order, whose names `a` takes.
#' @return A factor with the labels of `a`, missing where `a` is. Its levels are the levels of `b`,
#'   then new levels for domains of `a` that have no partner or no overlap. The new levels are the
#'   next whole numbers if the levels of `b` are whole numbers, else the names in `a`.
#' @seealso [compareDomains()], [plotDomains()]
#' @examples
#' matchDomains(c("x", "x", "y", "y", "z"), c(1, 1, 2, 2, 2))
#' @export
matchDomains <- function(a, b) {
    checkSameSpots(a, b)
    spots <- names(a)
    a <- asLabels(a)
    b <- asLabels(b)
    new <- levels(b)[matchLevels(a, b)]
    extra <- is.na(new)
    new[extra] <- if (wholeNames(levels(b))) {
        max(0, as.numeric(levels(b))) + seq_len(sum(extra))
    } else {
        utils::tail(make.unique(c(levels(b), levels(a)[extra])), sum(extra))
    }
    matched <- factor(new[as.integer(a)], levels = c(levels(b), new[extra]))
    names(matched) <- spots
    matched
}

checkSameSpots <- function(a, b) {
    if (length(a) != length(b)) {
        stopM2ST("Expected labels of the same spots in `a` and `b`, found ", length(a), " and ",
            length(b), ".")
    }
    if (!is.null(names(a)) && !is.null(names(b)) && !identical(names(a), names(b))) {
        stopM2ST("Expected labels of the same spots in the same order in `a` and `b`, found ",
            "different names. Reorder one, or remove the names if the order is right.")
    }
}

# Labels as a factor; levels that are whole numbers stand in numeric order.
asLabels <- function(values) {
    if (!is.factor(values)) {
        values <- factor(as.vector(values))
    }
    names <- levels(values)
    if (wholeNames(names)) {
        names <- names[order(as.numeric(names))]
    }
    factor(as.character(values), levels = names)
}

wholeNames <- function(names) {
    all(grepl("^[0-9]+$", names))
}

# A column as it is, which has a value for each spot.
chosenColumn <- function(columns, name, where) {
    if (!is.character(name) || length(name) != 1L || !name %in% names(columns)) {
        stopM2ST("Expected the name of a column of ", where, ", found ", shorten(name),
            ". Columns: ", quoted(names(columns)), ".")
    }
    values <- columns[[name]]
    if (length(dim(values)) || is.list(values)) {
        stopM2ST("Expected labels in the column '", name, "' of ", where, ", found ",
            class(values)[1L], ".")
    }
    values
}

labelColumn <- function(columns, name, where) {
    asLabels(chosenColumn(columns, name, where))
}

compareColumns <- function(columns, where, truth, name, metrics, by) {
    if (length(metrics) == 0L || !all(metrics %in% names(agreement))) {
        stopM2ST("Expected `metrics` among ", quoted(names(agreement)), ", found ",
            shorten(metrics), ".")
    }
    labels <- if (is.null(name)) {
        setdiff(grep(domainPattern, names(columns), value = TRUE), truth)
    } else {
        vapply(as.list(name), resolveColumn, name[1L], present = names(columns))
    }
    if (length(labels) == 0L) {
        stopM2ST("Found no column of domains in ", where, ", such as 'm2st_domain'. Name the ",
            "results or columns to compare, name = ..., or call runM2ST() first.")
    }
    reference <- labelColumn(columns, truth, where)
    groups <- if (!is.null(by)) labelColumn(columns, by, where) else rep("", length(reference))
    groups <- split(seq_along(reference), groups)
    rows <- lapply(labels, function(label) {
        found <- labelColumn(columns, label, where)
        scores <- lapply(groups, function(at) compareTwo(reference[at], found[at], metrics))
        group <- if (!is.null(by)) list(group = factor(names(groups), levels = names(groups)))
        do.call(data.frame, c(list(label = label), group, list(do.call(rbind, scores))))
    })
    rows <- do.call(rbind, rows)
    rownames(rows) <- NULL
    if (all(rows$n == 0L)) {
        stopM2ST("Expected spots with a label in '", truth, "' and in ", quoted(labels),
            ", found none.")
    }
    rows
}

compareTwo <- function(truth, labels, metrics) {
    both <- !is.na(truth) & !is.na(labels)
    counts <- unclass(table(droplevels(truth[both]), droplevels(labels[both]))) * 1
    row <- data.frame(n = sum(both), n_missing = sum(!both), n_domains = ncol(counts))
    for (metric in metrics) {
        row[[metric]] <- if (any(both)) agreement[[metric]](counts) else NA_real_
    }
    row
}

# Of a table of counts, classes x domains.
agreement <- list(
    ARI = function(counts) {
        pairs <- function(n) sum(n * (n - 1) / 2)
        both <- pairs(counts)
        classes <- pairs(rowSums(counts))
        domains <- pairs(colSums(counts))
        if (both == classes && both == domains) {
            return(1)
        }
        expected <- classes * domains / pairs(sum(counts))
        (both - expected) / ((classes + domains) / 2 - expected)
    },
    NMI = function(counts) {
        joint <- counts / sum(counts)
        entropy <- function(p) -sum(p[p > 0] * log(p[p > 0]))
        classes <- entropy(rowSums(joint))
        domains <- entropy(colSums(joint))
        if (classes == 0 && domains == 0) {
            return(1)
        }
        information <- classes + domains - entropy(joint)
        min(max(2 * information / (classes + domains), 0), 1)
    },
    purity = function(counts) {
        sum(apply(counts, 2L, max)) / sum(counts)
    }
)

# For each level of a the number of the level of b that it stands for, NA for those left over.
matchLevels <- function(a, b) {
    overlap <- unclass(table(a, b))
    size <- max(dim(overlap))
    padded <- matrix(0, size, size)
    padded[seq_len(nrow(overlap)), seq_len(ncol(overlap))] <- overlap
    partner <- solveAssignment(-padded)[seq_len(nrow(overlap))]
    shared <- padded[cbind(seq_along(partner), partner)]
    ifelse(shared > 0, partner, NA_integer_)
}

# For each row of a square matrix its column, at the least total cost: the Hungarian algorithm
# with potentials, which adds one row after the other by a shortest augmenting path. Column 1 of
# the bookkeeping stands for "the row that is being added".
solveAssignment <- function(cost) {
    n <- nrow(cost)
    of_row <- numeric(n)
    of_column <- numeric(n + 1L)
    row_in <- integer(n + 1L)
    for (row in seq_len(n)) {
        row_in[1L] <- row
        column <- 1L
        slack <- rep(Inf, n + 1L)
        before <- integer(n + 1L)
        done <- logical(n + 1L)
        while (row_in[column] != 0L) {
            done[column] <- TRUE
            free <- which(!done)
            reduced <- cost[row_in[column], free - 1L] - of_row[row_in[column]] - of_column[free]
            better <- reduced < slack[free]
            slack[free[better]] <- reduced[better]
            before[free[better]] <- column
            column <- free[which.min(slack[free])]
            step <- slack[column]
            of_row[row_in[done]] <- of_row[row_in[done]] + step
            of_column[done] <- of_column[done] - step
            slack[!done] <- slack[!done] - step
        }
        while (column != 1L) {
            row_in[column] <- row_in[before[column]]
            column <- before[column]
        }
    }
    match(seq_len(n), row_in[-1L])
}
