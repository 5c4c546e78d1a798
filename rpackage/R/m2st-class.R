newM2ST <- function(result, spots) {
    name <- function(matrix, prefix) {
        dimnames(matrix) <- list(spots, paste0(prefix, seq_len(ncol(matrix))))
        matrix
    }
    if (length(result$scales)) {
        prefixes <- paste0("M2ST_", names(result$scales), "_")
        result$scales <- Map(name, result$scales, prefixes)
    } else {
        result$scales <- NULL
    }
    if (!is.null(result$embedding)) {
        result$embedding <- name(result$embedding, "M2ST_")
        names(result$domain) <- spots
        names(result$confidence) <- spots
    }
    if (!is.null(result$second_domain)) {
        names(result$second_domain) <- spots
    }
    rownames(result$coords) <- spots
    result$sample_id <- result$sample
    order <- c(
        "domain", "confidence", "second_domain", "embedding", "scales", "coords", "sample_id", "record"
    )
    structure(result[intersect(order, names(result))], class = "m2st")
}

# What of the result of a matrix has a value for each spot, as columns.
columnsM2ST <- function(x) {
    if (is.null(x$domain) && is.null(x$domains)) {
        stopM2ST("Found no domains in the result. Call clusterM2ST(x, k = ...) first.")
    }
    columns <- list(
        m2st_domain = x$domain, m2st_confidence = x$confidence,
        m2st_second_domain = x$second_domain, sample_id = x$sample_id
    )
    c(Filter(length, columns), as.list(x$domains))
}

# A label for each spot, by the spots' names where both have some.
labelsM2ST <- function(x, labels, argument) {
    spots <- rownames(x$coords)
    if (length(labels) != nrow(x$coords)) {
        stopM2ST("Expected a label for each of ", nrow(x$coords), " spots in `", argument,
            "`, found ", if (length(labels) == 1L) shorten(labels) else length(labels),
            ". The result of a matrix holds no columns to name.")
    }
    if (!is.null(names(labels)) && !is.null(spots) && setequal(names(labels), spots) &&
            !anyDuplicated(spots)) {
        labels <- labels[match(spots, names(labels))]
    }
    asLabels(unname(labels))
}

#' @export
print.m2st <- function(x, ...) {
    widths <- vapply(scalesOf(x$scales), ncol, integer(1L))
    cat("m2ST: ", nrow(x$coords), " spots", if (length(widths)) {
        paste0(", embedded at ", length(widths), " scales (", toString(widths), " columns)")
    }, "\n", sep = "")
    if (is.null(x$domain)) {
        cat("No domains yet: call clusterM2ST(x, k = ...)\n")
    } else {
        cat("Spots per domain:\n")
        print(table(x$domain, useNA = "ifany", dnn = NULL))
    }
    invisible(x)
}
