test_that("what is wrong with Python is said with the command that mends it", {
    info <- structure(
        list(
            available = FALSE, python = "/usr/bin/python3", chosen_by = "somebody",
            versions = c(python = "3.11", torch = NA), missing = "torch", fix = "pip install m2st"
        ),
        class = "m2stInfo"
    )
    expect_output(print(info), "not ready.*chosen by: somebody.*torch: +missing.*pip install m2st")
    expect_match(fixCommand(NULL), "m2stSetup")
    expect_match(fixCommand("/a b/python"), "'/a b/python' -m pip install CLONE\n.CLONE is the")
    expect_match(chosenBy(list(forced = "use_python()")), "use_python|RETICULATE_PYTHON")
})

test_that("the Python at hand is described", {
    skip_if_no_m2st()
    info <- m2stInfo()
    expect_true(info$available)
    expect_length(info$missing, 0L)
    expect_true(nzchar(info$versions[["torch"]]))
    expect_error(
        explainMissing(simpleError("No module named 'm2st'")),
        "could not be loaded: No module named 'm2st'.*chosen by"
    )
})

test_that("loading the package does not start Python", {
    code <- "loadNamespace('m2st'); cat(reticulate::py_available(initialize = FALSE))"
    expect_match(inNewR(code), "FALSE")
})

test_that("another Python that runs already is no error of library(), and is explained", {
    skip_on_os("windows")
    python <- "/usr/bin/python3"
    skip_if_not(file.exists(python))
    said <- inNewR(paste(
        "Sys.unsetenv(c('RETICULATE_PYTHON', 'PYTHONPATH'));",
        "reticulate::use_python('/usr/bin/python3', required = TRUE);",
        "started <- try(reticulate::py_run_string('x = 1'), silent = TRUE);",
        "if (inherits(started, 'try-error')) cat('cannot start') else {",
        "library(m2st); print(m2stInfo()); print(m2stAvailable());",
        "try(runM2ST(matrix(1, 50, 60), cbind(1:60, sin(1:60)), k = 2)) }"
    ))
    skip_if(grepl("cannot start|m2ST is ready", said))
    expect_match(said, "chosen by: code that started it before m2st was loaded")
    expect_match(said, "To mend it:.*R can have one Python only.*Start R anew")
    expect_match(said, "FALSE.*Error : The Python package m2st could not be loaded: .*m2st'")
    expect_no_match(said, "pip install")
})

test_that("a Python of the operating system is never told to install", {
    local_mocked <- function(protected) {
        before <- isProtected
        utils::assignInNamespace("isProtected", function() protected, "m2st")
        withr::defer(utils::assignInNamespace("isProtected", before, "m2st"), parent.frame())
    }
    local_mocked(TRUE)
    expect_match(fixMissing("/usr/bin/python3", "use_python()"), "^m2st::m2stSetup")
    local_mocked(FALSE)
    expect_match(fixMissing("/a/python", "use_python()"), "^'/a/python' -m pip install CLONE")
    expect_match(fixMissing("/a/python", ownOrder), "^m2st::m2stSetup")
})

test_that("nothing is installed from an index that nobody named", {
    expect_error(m2stSetup(), "Expected `packages`.*name the folder of your clone")
    expect_match(fixCommand(NULL), "^m2st::m2stSetup\\(packages = \"CLONE\"\\)")
})

test_that("a second failing call says the same as the first", {
    skip_on_os("windows")
    skip_if_not(file.exists("/usr/bin/python3"))
    said <- inNewR(paste(
        "Sys.unsetenv('PYTHONPATH'); library(m2st);",
        "for (i in 1:3) try(runM2ST(matrix(1, 50, 60), cbind(1:60, sin(1:60)), k = 2))"
    ), "/usr/bin/python3")
    skip_if_not(grepl("could not be loaded", said))
    expect_no_match(said, "List of|Detected Python configuration")
    expect_length(gregexpr("No module named 'm2st'", said)[[1L]], 3L)
})

test_that("without any Python the error says what to do", {
    said <- inNewR("m2st:::askPython('run', list(), FALSE)", file.path(tempdir(), "no-python"))
    expect_match(said, "m2st could not be loaded: .*To mend it: m2st::m2stSetup\\(")
})

test_that("an environment is made from a Python that can install into it", {
    skip_on_os("windows")
    folder <- withr::local_tempdir()
    put <- function(name, status) {
        path <- file.path(folder, name)
        writeLines(c("#!/bin/sh", paste("exit", status)), path)
        Sys.chmod(path, "755")
        path
    }
    broken <- put("python3", 1)
    good <- put("python3.12", 0)
    withr::local_path(folder, action = "prefix")
    expect_identical(findPython(), good)
    expect_error(findPython(broken), paste0("tried ", broken, "\\. .*python3-venv"))
    expect_error(findPython(file.path(folder, "none")), "3.11 or newer .*install_python")
})

test_that("programs of another Python do not find the system's libraries first", {
    withr::local_envvar(LD_LIBRARY_PATH = "/usr/lib/R/lib:/usr/lib/x86_64-linux-gnu:/opt/own/lib")
    before <- Sys.getenv("LD_LIBRARY_PATH")
    expect_identical(withoutSystemLibraries(Sys.getenv("LD_LIBRARY_PATH")), "/opt/own/lib")
    expect_error(withoutSystemLibraries(stop("pip failed")), "pip failed")
    expect_identical(Sys.getenv("LD_LIBRARY_PATH"), before)
})
