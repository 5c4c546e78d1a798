# Everything the package says goes through here.

stopM2ST <- function(...) {
    stop(..., call. = FALSE)
}

say <- function(..., verbose = TRUE) {
    if (verbose) {
        message(...)
    }
}

quoted <- function(x) {
    if (length(x) == 0L) "none" else paste0("'", x, "'", collapse = ", ")
}

requirePackage <- function(package, purpose) {
    if (!requireNamespace(package, quietly = TRUE)) {
        stopM2ST(
            "The package '", package, "' is needed ", purpose, ". ",
            "Install it with BiocManager::install(\"", package, "\")."
        )
    }
}
