# Tests of the installed package, with one line of counts:
#   Rscript rpackage/tests/report.R [folder of the tests]
here <- sub("^--file=", "", grep("^--file=", commandArgs(FALSE), value = TRUE))
folder <- c(commandArgs(TRUE), file.path(dirname(here), "testthat"))[1L]
results <- as.data.frame(testthat::test_dir(
    folder, package = "m2st", load_package = "installed", stop_on_failure = FALSE
))
failed <- sum(results$failed) + sum(results$error)
cat(sprintf(
    "\n%d passed, %d failed, %d skipped\n", sum(results$passed), failed, sum(results$skipped)
))
quit(status = as.integer(failed > 0L))
