# Coordinates in space.

test_that("three coordinates are taken in each class, to the same bits", {
    skip_if_no_m2st()
    skip_if_not_installed("SeuratObject")
    skip_if_not_installed("SingleCellExperiment")
    skip_if_not_installed("ggplot2")
    set.seed(1)
    places <- cbind(x = runif(120), y = runif(120), z = runif(120) / 3)
    run <- function(x, ...) {
        suppressMessages(runM2ST(x, k = 2, params = quickParams(), device = "cpu", ...))
    }
    result <- run(toyCounts(), coords = places)
    expect_match(result$record$graph$reason, "positions in space")
    expect_identical(dim(result$coords), c(120L, 3L))
    expect_s3_class(plotDomains(result), "ggplot")
    expect_identical(domainComposition(result)$n_obs, as.vector(table(result$domain)))
    columns <- data.frame(places, row.names = colnames(toyCounts()))
    seurat <- SeuratObject::CreateSeuratObject(toyCounts(), meta.data = columns)
    seurat <- run(seurat, coords = c("x", "y", "z"))
    expect_identical(unname(seurat$m2st_domain), unname(result$domain))
    sce <- SingleCellExperiment::SingleCellExperiment(
        list(counts = toyCounts()), colData = S4Vectors::DataFrame(columns)
    )
    sce <- run(sce, coords = c("x", "y", "z"))
    expect_identical(sce$m2st_domain, unname(result$domain))
    page <- tempfile(fileext = ".html")
    reportM2ST(sce, page, coords = c("x", "y", "z"))
    expect_true(file.exists(page))
})
