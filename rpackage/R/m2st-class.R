newM2ST <- function(result, spots) {
    name <- function(matrix, prefix) {
        dimnames(matrix) <- list(spots, paste0(prefix, seq_len(ncol(matrix))))
        matrix
    }
    scales <- result$scales
    names(scales) <- paste0("scale", seq_along(scales))
    result$scales <- Map(name, scales, paste0("M2ST_", names(scales), "_"))
    if (!is.null(result$embedding)) {
        result$embedding <- name(result$embedding, "M2ST_")
        names(result$domain) <- spots
        names(result$confidence) <- spots
    }
    rownames(result$coords) <- spots
    order <- c("domain", "confidence", "embedding", "scales", "coords", "sample", "record")
    structure(result[intersect(order, names(result))], class = "m2st")
}

#' @export
print.m2st <- function(x, ...) {
    widths <- vapply(x$scales, ncol, integer(1L))
    cat("m2ST: ", nrow(x$scales[[1L]]), " spots, embedded at ", length(widths), " scales (",
        paste(widths, collapse = ", "), " columns)\n", sep = "")
    if (is.null(x$domain)) {
        cat("No domains yet: call clusterM2ST(x, k = ...)\n")
    } else {
        cat("Spots per domain:\n")
        print(table(x$domain, useNA = "ifany", dnn = NULL))
    }
    invisible(x)
}
