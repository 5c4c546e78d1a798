# Finding Python and saying what is wrong with it.

#' The Python that m2ST uses, and what it lacks
#'
#' `m2stInfo()` says which Python is used and what it lacks. `m2stSetup()` makes an environment for
#' it.
#'
#' reticulate looks for Python by its usual rules:
#'
#' * the variable `RETICULATE_PYTHON`
#' * a call of `reticulate::use_python()` or `use_virtualenv()`
#' * the packages that m2st declares with `py_require()` (reticulate 1.41 and later)
#' * the environment `r-m2st`, which `m2stSetup()` makes
#'
#' Python starts when one of these functions or `runM2ST()` is called, not before.
#'
#' @param packages What to install, as pip names it: the folder of your clone of the repository,
#'   because the Python package is on no index yet.
#' @param envname Name or path of the virtual environment.
#' @param python Path of a Python, 3.11 or newer, to make the environment from. `NULL` takes the
#'   first one on the PATH that is new enough. An existing environment keeps its Python.
#' @param x Object of class `m2stInfo`.
#' @param ... Nothing.
#' @return `m2stAvailable()` returns `TRUE` or `FALSE`. `m2stInfo()` returns a list of class
#'   `m2stInfo`: `available`, `python`, `chosen_by`, `versions` (`NA` where missing), `missing`, and
#'   `fix`, the command that installs what is missing. `m2stSetup()` makes a virtual environment,
#'   installs the Python package there and returns the path of its Python, invisibly. No other
#'   function installs anything. On Linux without an NVIDIA GPU, it takes PyTorch's build for the
#'   CPU.
#' @examples
#' m2stAvailable()
#' m2stInfo()
#' \dontrun{
#' # downloads what the Python package needs; R was started in the folder of the clone
#' m2stSetup(packages = getwd())
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
    chosen_by <- chosenBy(config)
    structure(
        list(
            available = length(missing) == 0L,
            python = config$python,
            chosen_by = chosen_by,
            versions = c(
                python = as.character(config$version), versions,
                reticulate = format(packageVersion("reticulate"))
            ),
            missing = missing,
            fix = if (length(missing)) fixMissing(config$python, chosen_by) else NA_character_
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
m2stSetup <- function(packages, envname = "r-m2st", python = NULL) {
    if (missing(packages)) {
        stopM2ST("Expected `packages`, what to install, found none. The Python package m2st is on no ",
            "index yet: name the folder of your clone, such as packages = getwd().")
    }
    withoutSystemLibraries({
        if (!reticulate::virtualenv_exists(envname)) {
            reticulate::virtualenv_create(envname, findPython(python))
        }
        reticulate::virtualenv_install(envname, packages, pip_options = torchOptions())
    })
    say(
        "Ready. Start R anew. If m2stInfo() then names another Python, begin with\n",
        "  reticulate::use_virtualenv(\"", envname, "\")"
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

# The first Python that can make an environment and install into it: on Debian venv is a package of
# its own, and without ssl pip reaches no index.
findPython <- function(python = NULL) {
    if (is.null(python)) {
        named <- Sys.which(c("python3", paste0("python3.", 14:11), "python"))
        python <- unique(c(named[nzchar(named)], "/usr/bin/python3"))
    }
    probe <- "import ensurepip, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))"
    for (path in path.expand(python[file.exists(python)])) {
        status <- suppressWarnings( # of pyenv's stand-ins for what is not there
            system2(path, c("-c", shQuote(probe)), stdout = FALSE, stderr = FALSE)
        )
        if (status == 0L) {
            return(path)
        }
    }
    stopM2ST(
        "Expected a Python of version 3.11 or newer with venv and ssl, found none; tried ",
        toString(python), ". Install one (on Debian with python3-venv) and name it, ",
        "m2stSetup(packages, python = \"/path/to/python3\"), or let reticulate build one: ",
        "m2stSetup(packages, python = reticulate::install_python(\"3.12:latest\"))."
    )
}

# Without a GPU of NVIDIA's, Linux would get gigabytes of its libraries beside torch for nothing.
torchOptions <- function() {
    gpu <- nzchar(Sys.which("nvidia-smi")) || file.exists("/dev/nvidia0")
    if (Sys.info()[["sysname"]] == "Linux" && !gpu) {
        "--extra-index-url=https://download.pytorch.org/whl/cpu"
    } else {
        character()
    }
}

# R puts the system's folders first where programs that it starts look for libraries. A Python that
# is not the system's then loads the system's libpython in place of its own, and breaks. They are
# searched last anyway.
withoutSystemLibraries <- function(code) {
    before <- Sys.getenv("LD_LIBRARY_PATH")
    if (nzchar(before)) {
        on.exit(Sys.setenv(LD_LIBRARY_PATH = before))
        folders <- strsplit(before, ":", fixed = TRUE)[[1L]]
        own <- folders[!grepl("^/(usr/)?lib", folders)]
        Sys.setenv(LD_LIBRARY_PATH = paste(own, collapse = ":"))
    }
    force(code)
}

pythonVersion <- function(package) {
    tryCatch(
        reticulate::import("importlib.metadata")$version(package),
        error = function(e) NA_character_
    )
}

# Nothing is installed into a Python that nobody chose, that other code has started, or that belongs
# to the operating system.
fixMissing <- function(python, chosen_by) {
    if (isTRUE(state$late)) {
        return(paste0("R can have one Python only, and other code has started this one. ",
            "Start R anew and load m2st first; if m2st is not installed yet:\n  ",
            fixCommand(NULL)))
    }
    fixCommand(if (chosen_by != ownOrder && !isProtected()) python)
}

# Whether the Python that runs refuses installations, as Debian's does (PEP 668).
isProtected <- function() {
    tryCatch(
        {
            system <- reticulate::import("sys")
            library <- reticulate::import("sysconfig")$get_path("stdlib")
            system$prefix == system$base_prefix &&
                file.exists(file.path(library, "EXTERNALLY-MANAGED"))
        },
        error = function(e) FALSE
    )
}

chosenBy <- function(config) {
    if (isTRUE(state$late)) {
        return("code that started it before m2st was loaded")
    }
    if (nzchar(Sys.getenv("RETICULATE_PYTHON"))) {
        return("the environment variable RETICULATE_PYTHON")
    }
    forced <- config$forced
    if (length(forced) == 1L && nzchar(forced)) {
        return(forced)
    }
    ownOrder
}

ownOrder <- "reticulate's own order of discovery"

# The package is on no index yet.
fixCommand <- function(python) {
    command <- if (is.null(python)) {
        "m2st::m2stSetup(packages = \"CLONE\"), then start R anew"
    } else {
        paste(shQuote(python), "-m pip install CLONE")
    }
    paste0(command, "\n(CLONE is the folder of your clone of the repository of m2ST)")
}

# The original error of Python, which Python it was, and what to do.
explainMissing <- function(e) {
    info <- m2stInfo()
    stopM2ST(
        "The Python package m2st could not be loaded: ", conditionMessage(e),
        if (!is.na(info$python)) {
            paste0("\nPython: ", info$python, " (chosen by ", info$chosen_by, ")")
        },
        if (length(info$missing)) paste0("\nMissing: ", toString(info$missing)),
        if (!is.na(info$fix)) paste0("\nTo mend it: ", info$fix),
        "\nSee m2stInfo()."
    )
}
