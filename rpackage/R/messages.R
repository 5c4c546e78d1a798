# Everything the package says goes through here.

stopM2ST <- function(...) {
    stop(..., call. = FALSE)
}

# `...` as in message(); what is said in hushed(FALSE, ...) is not heard.
say <- function(..., verbose = TRUE) {
    if (verbose) {
        message(structure(
            class = c("m2stMessage", "message", "condition"),
            list(message = paste0(..., "\n"), call = NULL)
        ))
    }
}

# Runs the code; with `verbose = FALSE` without the messages of this package.
hushed <- function(verbose, code) {
    withCallingHandlers(code, m2stMessage = function(condition) {
        if (isFALSE(verbose)) {
            invokeRestart("muffleMessage")
        }
    })
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
