skip_if_not_installed("SingleCellExperiment")

domains <- function(x) as.integer(x$m2st_domain)
byRow <- function(k) as.integer(ceiling(toyCoords()[, 1] / 10 * k))

test_that("a SingleCellExperiment gets all results, with coordinates from usual columns", {
    expect_message(x <- withFake(runM2ST(toySCE(), k = 5)), "columns 'row', 'col' of colData")
    expect_s4_class(x, "SingleCellExperiment")
    expect_identical(domains(x), byRow(5))
    expect_identical(levels(x$m2st_domain), as.character(1:5))
    expect_equal(x$m2st_confidence, plogis(x$row))
    expect_identical(SingleCellExperiment::reducedDimNames(x), "M2ST")
    kept <- suppressMessages(withFake(runM2ST(x, k = 5, keep = "scales")))
    expect_setequal(
        SingleCellExperiment::reducedDimNames(kept), c("M2ST_scale1", "M2ST_scale2", "M2ST")
    )
    small <- suppressMessages(withFake(runM2ST(kept, k = 5)))
    expect_identical(SingleCellExperiment::reducedDimNames(small), "M2ST")
    expect_error(
        suppressMessages(clusterM2ST(small, 3)), "scales .M2ST_scale1.: the run kept only what is"
    )
    embedding <- SingleCellExperiment::reducedDim(x, "M2ST")
    expect_identical(dimnames(embedding), list(colnames(x), paste0("M2ST_", 1:5)))
    record <- S4Vectors::metadata(x)$m2st
    expect_identical(record$cluster$n_domains, 5L)
    expect_true(methods::validObject(x))
    expect_identical(RunM2ST(x, k = 5) |> withFake() |> domains(), domains(x))
})

test_that("coordinates can be named, given, or lie in a reducedDim", {
    x <- toySCE()
    named <- withFake(runM2ST(x, k = 4, coords = c("col", "row")))
    expect_identical(domains(named), as.integer(ceiling(toyCoords()[, 2] / 12 * 4)))
    given <- withFake(runM2ST(x, k = 5, coords = toyCoords()))
    expect_identical(domains(given), byRow(5))
    SingleCellExperiment::reducedDim(x, "spatial") <- toyCoords()[, 2:1]
    expect_identical(domains(withFake(runM2ST(x, k = 4))), domains(named))
    expect_error(runM2ST(x, k = 4, coords = c("a", "b")), "columns of colData\\(x\\).*'row', 'col'")
    x <- toySCE()
    x$row <- NULL
    expect_error(runM2ST(x, k = 4), "Found no coordinates.*row/col.*coords = ")
})

test_that("names of results can be chosen, and old results make room", {
    x <- toySCE()
    x <- suppressMessages(withFake({
        x <- clusterM2ST(runM2ST(x, k = 3, keep = "scales"), k = c(2, 4))
        expect_true(all(c("m2st_k2_domain", "m2st_k4_confidence") %in% names(x@colData)))
        expect_true("M2ST_K4" %in% SingleCellExperiment::reducedDimNames(x))
        expect_identical(S4Vectors::metadata(x)$m2st_k4$cluster$n_domains, 4L)
        embedM2ST(x)
    }))
    kept <- c("m2st_k2_domain", "m2st_k2_confidence", "m2st_k4_domain", "m2st_k4_confidence")
    expect_identical(names(SummarizedExperiment::colData(x)), c("row", "col", kept))
    expect_setequal(
        SingleCellExperiment::reducedDimNames(x),
        c("M2ST_K2", "M2ST_K4", "M2ST_scale1", "M2ST_scale2")
    )
    expect_null(S4Vectors::metadata(x)$m2st$cluster)
    x <- suppressMessages(withFake(runM2ST(x, k = 3, name = "zone", keep = "scales")))
    expect_true(all(c("zone_domain", "zone_confidence") %in% names(x@colData)))
    expect_true(all(c("ZONE", "ZONE_scale1") %in% SingleCellExperiment::reducedDimNames(x)))
    expect_message(withFake(clusterM2ST(x, 2, name = "zone")), "Overwriting .*'zone_domain'")
    expect_error(clusterM2ST(toySCE(), 2), "Call embedM2ST\\(\\) first, or runM2ST")
    expect_error(clusterM2ST(x, c(2, 2), name = "zone"), "different whole numbers")
})

test_that("clustering again gives what a run gives", {
    x <- suppressMessages(withFake(runM2ST(toySCE(), k = 3)))
    again <- suppressMessages(withFake(clusterM2ST(embedM2ST(toySCE()), k = 3)))
    expect_identical(again$m2st_domain, x$m2st_domain)
})

test_that("a SummarizedExperiment comes back able to hold embeddings", {
    x <- SummarizedExperiment::SummarizedExperiment(
        list(counts = toyCounts()), colData = SummarizedExperiment::colData(toySCE())
    )
    expect_message(y <- withFake(runM2ST(x, k = 5)), "returning a SingleCellExperiment")
    expect_s4_class(y, "SingleCellExperiment")
    expect_identical(domains(y), byRow(5))
})

test_that("sections, tissue, genes and ready features are read", {
    x <- toySCE()
    x$sample_id <- rep(c("s1", "s2"), each = 60)
    x$in_tissue <- rep(c(0, 1), c(4, 116))
    SingleCellExperiment::reducedDim(x, "PCA") <- matrix(sin(1:360), 120)
    withFake({
        expect_message(
            y <- runM2ST(x, k = 2, subset.row = c("gene2", "gene9"), keep = "scales"),
            "4 of 120 spots get no domain (NA): 4 lie outside the tissue.", fixed = TRUE
        )
        expect_identical(which(is.na(y$m2st_domain)), 1:4)
        expect_identical(fake$request$shape, c(116L, 2L))
        expect_identical(fake$request$sample_names, list("s1", "s2"))
        place <- fake$request[c("coordinates", "n_axes", "sample", "sample_names")]
        again <- suppressMessages(clusterM2ST(y, k = 2))
        expect_identical(again$m2st_domain, y$m2st_domain)
        expect_identical(fake$request[names(place)], place)
        suppressMessages(clusterM2ST(y, k = 2, coords = toyCoords()[, 2:1]))
        expect_identical(readBin(fake$request$coordinates, "double", 1), 1)
        suppressMessages(runM2ST(x, k = 2, dimred = "PCA"))
        expect_identical(readBin(fake$request$features, "double", 3), sin(5:7))
        expect_identical(fake$request$shape, c(116L, 3L))
        expect_null(fake$request$n_pcs)
        expect_message(
            runM2ST(x, k = 2, dimred = "PCA", n_pcs = 2, verbose = TRUE),
            "Features: 2 components of 3 columns"
        )
        expect_identical(fake$request$n_pcs, 2L)
    })
    x$in_tissue <- NULL
    expect_error(
        runM2ST(x, k = 2, dimred = "UMAP"), "reducedDim 'UMAP', found 'PCA'.*leave `dimred` out"
    )
    expect_error(runM2ST(x, k = 2, n_pcs = 0), "`n_pcs` to be NULL or one whole number above 0")
    expect_error(
        runM2ST(x, k = 2, sample_id = "who"),
        "`sample_id` to name a column of colData\\(x\\), found \"who\""
    )
    expect_error(runM2ST(x, k = 2, sample_id = x$sample_id), "`sample_id` to name a column")
    expect_error(runM2ST(x, k = 2, batch_id = "who"), "`batch_id` to name a column of colData")
    SingleCellExperiment::reducedDim(x, "PCA") <- matrix(sin(1:360), 120)
    x$who <- "one"
    expect_error(
        runM2ST(x, k = 2, batch_id = "who", dimred = "PCA"),
        "found `batch_id` with ready features, reducedDim 'PCA'"
    )
    expect_error(runM2ST(x, k = 2, subset.row = "gene0"), "1 others, such as 'gene0'")
    expect_error(runM2ST(x, k = 2, assay.type = "raw"), "assay 'raw', found 'counts'.*dimred")
    SummarizedExperiment::assay(x, "counts") <- NULL
    expect_error(runM2ST(x, k = 2), "no expression values.*'PCA'.*dimred = \"PCA\"")
})

test_that("names of spots that occur twice do no harm", {
    x <- toySCE()[, rep(1:120, 2)]
    x$sample_id <- rep(c("s1", "s2"), each = 120)
    y <- suppressMessages(withFake(runM2ST(x, k = 5)))
    expect_identical(domains(y), rep(byRow(5), 2))
    expect_identical(colnames(y), colnames(x))
})

test_that("shuffled spots get shuffled domains and nothing else changes", {
    order <- sample(120)
    plain <- suppressMessages(withFake(runM2ST(toySCE(), k = 4)))
    shuffled <- suppressMessages(withFake(runM2ST(toySCE()[, order], k = 4)))
    expect_equal(shuffled, plain[, order])
})
