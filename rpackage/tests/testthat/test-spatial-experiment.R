useSpatialExperiment()

test_that("spatialCoords are used, and kept with everything else", {
    x <- toySPE()
    y <- withFake(runM2ST(x, k = 5, keep = "scales"))
    expect_s4_class(y, "SpatialExperiment")
    expect_identical(as.integer(y$m2st_domain), as.integer(ceiling(toyCoords()[, 1] / 10 * 5)))
    expect_identical(SpatialExperiment::spatialCoords(y), SpatialExperiment::spatialCoords(x))
    expect_identical(nrow(SpatialExperiment::imgData(y)), nrow(SpatialExperiment::imgData(x)))
    expect_true("M2ST" %in% SingleCellExperiment::reducedDimNames(y))
    expect_true(methods::validObject(y))
    expect_identical(clusterM2ST(y, 5) |> suppressMessages() |> withFake(), y)
})

test_that("sample_id tells sections apart", {
    withFake(runM2ST(toySPE(sample_id = rep(c("a", "b"), each = 60)), k = 2))
    expect_identical(fake$request$sample_names, list("a", "b"))
    withFake(runM2ST(toySPE(), k = 2))
    expect_null(fake$request$sample)
})

test_that("an object without coordinates is refused with what could be used", {
    x <- toySPE(coords = toyCoords()[, integer()])
    expect_error(runM2ST(x, k = 2), "spatialCoords\\(x\\) has no columns.*array_row.*coords = c\\(")
    y <- withFake(runM2ST(x, k = 5, coords = c("array_row", "array_col")))
    expect_identical(as.integer(y$m2st_domain), as.integer(ceiling(toyCoords()[, 1] / 10 * 5)))
    x$array_row <- NULL
    expect_error(runM2ST(x, k = 2), "coords = a matrix")
})

test_that("classes derived from SpatialExperiment work, as SpatialFeatureExperiment does", {
    methods::setClass("DerivedExperiment", contains = "SpatialExperiment", where = globalenv())
    on.exit(methods::removeClass("DerivedExperiment", where = globalenv()))
    x <- methods::as(toySPE(), "DerivedExperiment")
    y <- withFake(runM2ST(x, k = 5, keep = "scales"))
    expect_s4_class(y, "DerivedExperiment")
    expect_identical(as.integer(y$m2st_domain), as.integer(ceiling(toyCoords()[, 1] / 10 * 5)))
})
