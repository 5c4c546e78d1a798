exported <- function(...) {
    path <- tempfile(fileext = ".csv")
    worker <- function(what, request, callback) {
        fake$what <- what
        fake$request <- request
        list(warnings = list())
    }
    returned <- withFake(exportM2ST(..., path = path), worker)
    expect_identical(fake$what, "export")
    expect_identical(returned, fake$request$path)
    fake$request
}

twoDomains <- function() {
    x <- toySCE()
    x$m2st_domain <- factor(rep(c("1", "2", NA), c(60, 59, 1)))
    x$m2st_confidence <- c(rep(0.9, 119), NA)
    x
}

test_that("domains are sent as they are, and coordinates only for outlines", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoDomains()
    request <- exported(x, "loupe")
    expect_identical(request[c("to", "name")], list(to = "loupe", name = "m2st"))
    expect_identical(unlist(request$names), colnames(x))
    expect_identical(request$domains, labelsRequest(x$m2st_domain))
    expect_identical(readBin(request$confidence, "double", 120L), x$m2st_confidence)
    expect_null(request$coordinates)
    x$sample_id <- rep(c("b", "a"), each = 60)
    expect_message(request <- exported(x, "geojson", pixel_size = 2), "'row', 'col'")
    expect_identical(readBin(request$coordinates, "double", 240L), as.double(c(x$col, x$row)))
    expect_identical(request$sample_names, list("b", "a"))
    expect_identical(request$pixel_size, 2)
})

test_that("another result has its own name", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoDomains()
    x$fine_domain <- x$m2st_domain
    request <- exported(x, name = "fine")
    expect_identical(request$name, "fine")
    expect_null(request$confidence)
})

test_that("Seurat and SpatialExperiment have outlines at their coordinates", {
    useSpatialExperiment()
    x <- toySPE()
    x$m2st_domain <- factor(1)
    request <- exported(x, "geojson")
    expect_identical(readBin(request$coordinates, "double", 240L), as.vector(unname(toyCoords())))
    skip_if_not_installed("Seurat")
    object <- toySeurat()
    object$m2st_domain <- factor(1)
    request <- suppressMessages(exported(object, "geojson", coords = c("row", "col")))
    expect_identical(
        readBin(request$coordinates, "double", 240L), as.vector(unname(toyCoords()[, 2:1]))
    )
})

test_that("what cannot be exported is refused", {
    skip_if_not_installed("SingleCellExperiment")
    file <- tempfile(fileext = ".csv")
    expect_error(exportM2ST(1:3, file), "that runM2ST\\(\\) returned, found integer")
    expect_error(exportM2ST(toySCE(), file), "no column 'm2st_domain' in colData\\(x\\)")
    expect_error(exportM2ST(twoDomains(), c("a", "b")), "`path` to name one file")
    expect_error(exportM2ST(structure(list(), class = "m2st"), file), "Found no domains in `x`")
    writeLines("mine", file)
    expect_error(exportM2ST(twoDomains(), file), "found one. Pass overwrite = TRUE")
    expect_identical(readLines(file), "mine")
})

test_that("Python writes the files", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- twoDomains()
    file <- exportM2ST(x, tempfile(fileext = ".csv"))
    found <- utils::read.csv(file, colClasses = "character")
    expect_identical(names(found), c("observation", "m2st_domain", "m2st_confidence"))
    expect_identical(found$m2st_domain, c(rep(c("1", "2"), c(60, 59)), ""))
    expect_error(exportM2ST(x, file, "loupe", overwrite = TRUE), "barcodes of Space Ranger")
    expect_error(exportM2ST(x, file, "cloupe", overwrite = TRUE), "`to` to be one of")
    colnames(x) <- paste0("ACGT", chartr("0123456789", "ACGTAACCGG", seq_len(120)), "-", 1:120)
    exportM2ST(x, file, "loupe", overwrite = TRUE)
    expect_identical(utils::read.csv(file)$Barcode, colnames(x)[1:119])
})
