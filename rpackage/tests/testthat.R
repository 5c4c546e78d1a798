library(testthat)
library(m2st)

test_check("m2st")
