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
    expect_match(fixCommand("/a b/python"), "'/a b/python' -m pip install m2st")
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
    rscript <- file.path(R.home("bin"), "Rscript")
    libs <- paste(.libPaths(), collapse = .Platform$path.sep)
    out <- system2(rscript, c("-e", shQuote(code)), stdout = TRUE, env = paste0("R_LIBS=", libs))
    expect_match(paste(out, collapse = ""), "FALSE")
})
