integers <- function(buffer) {
    readBin(buffer, "integer", length(buffer) / 4L, size = 4L)
}

doubles <- function(buffer) {
    readBin(buffer, "double", length(buffer) / 8L)
}

labelledSCE <- function() {
    x <- toySCE()
    x$m2st_domain <- factor(rep(c("1", "2", NA), c(60, 59, 1)), levels = 1:3)
    x$m2st_confidence <- c(rep(0.9, 119), NA)
    x$layer <- rep(c("b", "a"), 60)
    S4Vectors::metadata(x)$m2st <- list(n_members = 2L, cluster = list(converged = TRUE))
    x
}

test_that("what a SingleCellExperiment holds is sent as it is", {
    skip_if_not_installed("SingleCellExperiment")
    x <- labelledSCE()
    expect_message(request <- asked(x, columns = "layer", title = "Mine"), "'row', 'col'")
    expect_identical(unlist(request$names), colnames(x))
    expect_identical(request$title, "Mine")
    expect_identical(vapply(request$columns, `[[`, "", "name"), c("m2st_domain", "layer"))
    expect_identical(integers(request$columns[[1L]]$codes), rep(c(0L, 1L, -1L), c(60, 59, 1)))
    expect_identical(request$columns[[1L]]$levels, list("1", "2", "3"))
    expect_identical(integers(request$columns[[2L]]$codes), rep(1:0, 60))
    expect_identical(doubles(request$confidence), x$m2st_confidence)
    expect_identical(doubles(request$coordinates), c(x$col, x$row))
    expect_null(request$sample)
    expect_identical(request$record, S4Vectors::metadata(x)$m2st)
    expect_identical(request$expression$shape, c(120L, 60L))
    expect_identical(request$expression$genes, paste(rownames(x), collapse = "\n"))
})

test_that("sections are named, and counts are left out where they are not wanted", {
    skip_if_not_installed("SingleCellExperiment")
    x <- labelledSCE()
    x$sample_id <- rep(c("second", "first"), each = 60)
    request <- suppressMessages(asked(x, markers = 0))
    expect_identical(integers(request$sample), rep(0:1, each = 60))
    expect_identical(request$sample_names, list("second", "first"))
    expect_null(request$expression)
    SummarizedExperiment::assayNames(x) <- "logcounts"
    expect_null(suppressMessages(asked(x))$expression)
})

test_that("one of several numbers of domains comes with its own confidence and record", {
    skip_if_not_installed("SingleCellExperiment")
    x <- labelledSCE()
    x$m2st_k5_domain <- x$m2st_domain
    x$m2st_k5_confidence <- 0.5
    S4Vectors::metadata(x)$m2st_k5 <- list(n_members = 2L, cluster = list(n_domains = 5L))
    request <- suppressMessages(asked(x, name = "m2st_k5", columns = "m2st_domain"))
    expect_identical(doubles(request$confidence), rep(0.5, 120))
    expect_identical(request$record$cluster, list(n_domains = 5L))
})

test_that("a SpatialExperiment is shown at its spatialCoords", {
    useSpatialExperiment()
    x <- toySPE()
    x$m2st_domain <- factor(1)
    request <- asked(x)
    expect_identical(doubles(request$coordinates), as.vector(unname(toyCoords())))
    expect_length(request$images, 0L)
    turned <- asked(x, coords = c("array_row", "array_col"))
    expect_identical(doubles(turned$coordinates), as.vector(unname(toyCoords()[, 2:1])))
})

test_that("an image that a SpatialExperiment holds is sent, one elsewhere is not", {
    useSpatialExperiment()
    x <- toySPE(sample_id = rep(c("one", "two"), each = 60))
    x$m2st_domain <- factor(1)
    raster <- grDevices::as.raster(rbind(c("#FF0000", "#00FF00"), c("#0000FF", "#333333")))
    SingleCellExperiment::int_metadata(x)$imgData <- S4Vectors::DataFrame(
        sample_id = c("two", "one", "two"), image_id = "lowres", scaleFactor = c(0.1, 0.2, 0.3),
        data = I(list(
            structure(list(), image = raster, class = "LoadedSpatialImage"),
            structure(list(), url = "https://example.org", class = "RemoteSpatialImage"),
            structure(list(), image = raster, class = "LoadedSpatialImage")
        ))
    )
    request <- asked(x)
    expect_identical(request$sample_names, list("one", "two"))
    expect_identical(names(request$images), "two")
    expect_identical(request$images$two$scale, 0.1)
    sent <- readBin(request$images$two$pixels, "integer", 12L, size = 1L, signed = FALSE)
    expect_identical(sent, c(255L, 0L, 0L, 51L, 0L, 0L, 255L, 51L, 0L, 255L, 0L, 51L))
})

test_that("colours of a raster are numbers, row by row", {
    raster <- rbind(c("#FF0000", "#00FF00"), c("#0000FF", "#333333"))
    pixels <- rasterPixels(raster)
    expect_identical(dim(pixels), c(2L, 2L, 3L))
    expect_equal(pixels[1L, 2L, ], c(0, 1, 0))
    expect_equal(pixels[2L, 1L, ], c(0, 0, 1))
    expect_equal(pixels[2L, 2L, ], rep(0.2, 3))
})

test_that("a Seurat object is sent with the image below its spots", {
    skip_if_not_installed("Seurat")
    object <- toySeurat(meta = FALSE)
    at <- toyCoords() * 10
    pixels <- array(seq(0, 1, length.out = 4 * 5 * 3), c(4, 5, 3))
    object[["slice"]] <- methods::new(
        methods::getClass("VisiumV1", where = asNamespace("Seurat")),
        image = pixels, assay = "RNA", key = "slice_", spot.radius = 0.01,
        scale.factors = Seurat::scalefactors(spot = 1, fiducial = 1, hires = 0.5, lowres = 0.1),
        coordinates = data.frame(
            tissue = 1, row = 1, col = 1, imagerow = at[, 1], imagecol = at[, 2],
            row.names = colnames(object)
        )
    )
    object$m2st_domain <- factor(rep(1:2, 60))
    request <- asked(object)
    expect_identical(doubles(request$coordinates), as.vector(at[, 2:1]))
    expect_identical(names(request$images), "slice")
    expect_identical(request$images$slice$scale, 0.1)
    expect_identical(request$images$slice$shape, c(4L, 5L, 3L))
    sent <- readBin(request$images$slice$pixels, "integer", 60L, size = 1L, signed = FALSE)
    expect_identical(sent, as.integer(round(255 * pixels)))
    expect_null(request$confidence)
    expect_length(asked(object, coords = unname(at))$images, 0L)
})

test_that("a SpatialExperiment without an image has a page without one", {
    useSpatialExperiment()
    x <- withFake(runM2ST(toySPE(), k = 2))
    expect_identical(dim(SpatialExperiment::imgData(x)), 0:1)
    expect_length(asked(x)$images, 0L)
})

test_that("what is missing or wrong is named", {
    page <- tempfile(fileext = ".html")
    expect_error(reportM2ST(1:3, page), "that runM2ST\\(\\) returned, found integer")
    skip_if_not_installed("SingleCellExperiment")
    x <- labelledSCE()
    expect_error(reportM2ST(x, page, colour = 1), "not known here: 'colour'")
    expect_error(suppressMessages(reportM2ST(x, c("a", "b"))), "`path` to name one file")
    expect_error(suppressMessages(reportM2ST(x, page, markers = -1)), "`markers` to be one whole")
    expect_error(reportM2ST(x, page, columns = "zone"), "column of colData\\(x\\), found \"zone\"")
    expect_error(reportM2ST(toySCE(), page), "no column 'm2st_domain' in colData\\(x\\)")
    file.create(page)
    expect_error(suppressMessages(reportM2ST(x, page)), "found one. Pass overwrite = TRUE")
    embedded <- withFake(embedM2ST(toyCounts(), toyCoords(), params = quickParams()))
    expect_error(reportM2ST(embedded, page), "Found no domains")
    expect_error(reportM2ST(embedded), "Expected `path`, the HTML file to write, found none")
    result <- withFake(runM2ST(toyCounts(), toyCoords(), k = 2, params = quickParams()))
    turned <- as.matrix(toyCounts())[, 1:50]
    expect_error(
        reportM2ST(result, tempfile(fileext = ".html"), counts = t(turned)),
        "Expected counts of 120 spots in columns, found 60 columns"
    )
})

test_that("the page has the numbers of the object, and the object stays as it was", {
    skip_if_no_m2st()
    result <- runM2ST(toyCounts(), toyCoords(), k = 2, params = quickParams(), device = "cpu")
    page <- tempfile(fileext = ".html")
    expect_identical(reportM2ST(result, page, counts = toyCounts(), title = "<Mine>"), page)
    text <- paste(readLines(page, encoding = "UTF-8"), collapse = "\n")
    says <- function(...) grepl(sprintf(...), text, fixed = TRUE)
    expect_true(says("<h1>&lt;Mine&gt;</h1>"))
    expect_true(says("id=\"n-obs\">120</dd>"))
    expect_true(says("id=\"n-members\">2</dd>"))
    expect_true(says("id=\"median-confidence\">%.2f</dd>", median(result$confidence)))
    expect_true(says("<td>%.2f</td>", result$record$cluster$agreement[1L]))
    expect_true(says("reticulate</th><td class=\"text\">%s</td>", packageVersion("reticulate")))
    expect_length(gregexpr("class=\"gene\">(<button [^>]*>)?gene[0-9]+<", text)[[1L]], 10L)
    expect_error(reportM2ST(result, page), "overwrite = TRUE")
    expect_error(reportM2ST(result, sub("html$", "pdf", page)), "ends in `.html`")
    skip_if_not_installed("SingleCellExperiment")
    x <- suppressMessages(runM2ST(toySCE(), k = 2, params = quickParams(), device = "cpu"))
    before <- x
    expect_identical(suppressMessages(reportM2ST(x, page, overwrite = TRUE)), page)
    expect_identical(x, before)
})
