# Genes 1 to 30 are higher in spots 1 to 60, genes 31 to 60 in the others.
planted <- factor(rep(c("west", "east", NA), c(60, 59, 1)), levels = c("west", "east"))

expectPlanted <- function(found) {
    expect_named(found, c("domain", "gene", "log_fc", "p_value", "p_adjusted"))
    expect_identical(levels(found$domain), levels(planted))
    expect_identical(as.integer(table(found$domain)), c(5L, 5L))
    number <- as.integer(sub("gene", "", found$gene))
    expect_true(all((number > 30) == (found$domain == "east")))
    expect_true(all(found$log_fc > 0 & found$p_adjusted < 0.01))
    expect_false(is.unsorted(found$p_value[found$domain == "west"]))
}

test_that("markers of a Seurat object are those that were planted", {
    skip_if_not_installed("Seurat")
    object <- toySeurat()
    object$m2st_domain <- planted
    before <- object
    found <- suppressMessages(domainMarkers(object, n_top_genes = 5))
    expectPlanted(found)
    expect_identical(object, before)
    ready <- Seurat::NormalizeData(object, verbose = FALSE)
    expect_equal(suppressMessages(domainMarkers(ready, n_top_genes = 5)), found)
})

test_that("markers of a SingleCellExperiment are those that were planted", {
    skip_if_not_installed("SingleCellExperiment")
    skip_if_not_installed("scran")
    x <- toySCE()
    x$zone_domain <- planted
    found <- domainMarkers(x, name = "zone", n_top_genes = 5)
    expectPlanted(found)
    SummarizedExperiment::assay(x, "logcounts") <- scuttle::normalizeCounts(toyCounts())
    expect_identical(domainMarkers(x, name = "zone", n_top_genes = 5), found)
    expect_gt(nrow(domainMarkers(x, name = "zone", n_top_genes = NULL)), 40L)
    expect_error(domainMarkers(x, name = "zone", n_top_genes = 0), "`n_top_genes`")
    x$one <- factor("a")
    expect_error(domainMarkers(x, name = "one"), "at least two domains of three spots")
    expect_error(domainMarkers(x), "Found no column 'm2st_domain'")
})

test_that("what holds no genes is refused", {
    expect_error(domainMarkers(toyCounts()), "Seurat object or a SingleCellExperiment")
})
