# Finding Python and saying what is wrong with it.

#' The Python side: is it there, which one, and what is missing
#'
#' Python is looked for by reticulate's usual rules: the variable `RETICULATE_PYTHON`, a call of
#' `reticulate::use_python()` or `use_virtualenv()`, what the package declares with
#' `py_require()` (reticulate 1.41 and later), the environment `r-m2st` that `m2stSetup()` makes.
#' Nothing is started until one of these functions or `runM2ST()` is called.
#'
#' @param envname Name or path of the virtual environment.
#' @param packages What to install there, as pip understands it.
#' @param x Object of class `m2stInfo`.
#' @param ... Nothing.
#' @return `m2stAvailable()` returns `TRUE` or `FALSE`. `m2stInfo()` returns a list of class
#'   `m2stInfo`: `available`, `python`, `chosen_by`, `versions` (`NA` where missing), `missing`,
#'   and `fix`, the command that mends it. `m2stSetup()` makes a virtual environment, installs the
#'   Python package there and returns the path of its Python, invisibly; nothing else in this
#'   package installs anything.
#' @examples
#' m2stAvailable()
#' m2stInfo()
#' \dontrun{
#' # downloads the Python package and what it needs
#' m2stSetup()
#' }
#' @export
m2stInfo <- function() {
    config <- tryCatch(reticulate::py_config(), error = function(e) NULL)
    if (is.null(config)) {
        return(structure(
            list(
                available = FALSE, python = NA_character_, chosen_by = "no Python was found",
                versions = c(reticulate = format(packageVersion("reticulate"))),
                missing = "python", fix = fixCommand(NULL)
            ),
            class = "m2stInfo"
        ))
    }
    needed <- c("m2st", "torch", "numpy", "scanpy", "anndata", "torch-geometric")
    versions <- vapply(needed, pythonVersion, character(1L))
    missing <- needed[is.na(versions)]
    structure(
        list(
            available = length(missing) == 0L,
            python = config$python,
            chosen_by = chosenBy(config),
            versions = c(
                python = as.character(config$version), versions,
                reticulate = format(packageVersion("reticulate"))
            ),
            missing = missing,
            fix = if (length(missing)) fixCommand(config$python) else NA_character_
        ),
        class = "m2stInfo"
    )
}

#' @rdname m2stInfo
#' @export
m2stAvailable <- function() {
    tryCatch(
        !is.null(reticulate::import("importlib.util")$find_spec("m2st")),
        error = function(e) FALSE
    )
}

#' @rdname m2stInfo
#' @export
m2stSetup <- function(envname = "r-m2st", packages = "m2st") {
    if (!reticulate::virtualenv_exists(envname)) {
        reticulate::virtualenv_create(envname)
    }
    reticulate::virtualenv_install(envname, packages)
    say(
        "Ready. In a new R session, before Python starts, call\n  reticulate::use_virtualenv(\"",
        envname, "\")"
    )
    invisible(reticulate::virtualenv_python(envname))
}

#' @rdname m2stInfo
#' @export
print.m2stInfo <- function(x, ...) {
    cat("m2ST is ", if (x$available) "ready" else "not ready", "\n", sep = "")
    cat("  Python:    ", x$python, "\n  chosen by: ", x$chosen_by, "\n", sep = "")
    shown <- ifelse(is.na(x$versions), "missing", x$versions)
    cat(paste0("  ", format(paste0(names(shown), ":")), " ", shown, "\n"), sep = "")
    if (!is.na(x$fix)) {
        cat("To mend it:\n  ", x$fix, "\n", sep = "")
    }
    invisible(x)
}

pythonVersion <- function(package) {
    tryCatch(
        reticulate::import("importlib.metadata")$version(package),
        error = function(e) NA_character_
    )
}

chosenBy <- function(config) {
    if (nzchar(Sys.getenv("RETICULATE_PYTHON"))) {
        return("the environment variable RETICULATE_PYTHON")
    }
    forced <- config$forced
    if (length(forced) == 1L && nzchar(forced)) {
        return(forced)
    }
    "reticulate's own order of discovery"
}

# The package is on no index yet: what it would be called there, and what to write until then.
fixCommand <- function(python) {
    command <- if (is.null(python)) {
        "m2st::m2stSetup(packages = \"m2st\")"
    } else {
        paste(shQuote(python), "-m pip install m2st")
    }
    paste0(command, "\n(until m2st is published, the path of your clone in place of m2st)")
}

# The original error of Python, which Python it was, and what to do.
explainMissing <- function(e) {
    info <- tryCatch(m2stInfo(), error = function(e) NULL)
    stopM2ST(
        "The Python package m2st could not be loaded: ", conditionMessage(e),
        "\nPython: ", info$python, " (chosen by ", info$chosen_by, ")",
        if (length(info$missing)) paste0("\nMissing: ", paste(info$missing, collapse = ", ")),
        if (!is.null(info) && !is.na(info$fix)) paste0("\nTo mend it: ", info$fix),
        "\nSee m2stInfo()."
    )
}
