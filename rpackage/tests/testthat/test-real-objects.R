# Real objects, oddities included; they are not part of the repository.
sharedData <- function() {
    default <- file.path(test_path(), "..", "..", "..", "..", "shared", "data")
    folder <- file.path(Sys.getenv("M2ST_SHARED_DATA", default), "robjects")
    skip_if_not(dir.exists(folder), paste0(
        "real objects found at ", folder, "; set M2ST_SHARED_DATA"
    ))
    folder
}

realObject <- function(name) {
    file <- file.path(sharedData(), name)
    if (grepl("rds$", name, ignore.case = TRUE)) {
        return(readRDS(file))
    }
    holder <- new.env()
    get(load(file, holder)[1L], holder)
}

quick <- function() m2stParams(n_members = 2, n_epochs = 5, n_init = 2, max_iter = 50)

expectSeurat <- function(object, k) {
    expect_identical(levels(object$m2st_domain), as.character(seq_len(k)))
    expect_identical(levels(SeuratObject::Idents(object)), as.character(seq_len(k)))
    expect_identical(is.na(object$m2st_confidence), is.na(object$m2st_domain))
    expect_identical(dim(SeuratObject::Embeddings(object, "m2st")), c(ncol(object), 15L))
    expect_false("m2st.scale1" %in% SeuratObject::Reductions(object))
    expect_identical(SeuratObject::Misc(object, "m2st")$cluster$n_domains, as.integer(k))
    expect_true(any(grepl("^RunM2ST", SeuratObject::Command(object))))
}

expectSCE <- function(x, k) {
    expect_identical(levels(x$m2st_domain), as.character(seq_len(k)))
    expect_false(anyNA(x$m2st_domain))
    reduced <- SingleCellExperiment::reducedDim(x, "M2ST")
    expect_identical(dimnames(reduced), list(colnames(x), paste0("M2ST_", 1:15)))
    expect_true(all(x$m2st_confidence >= 0 & x$m2st_confidence <= 1))
    expect_false("M2ST_scale1" %in% SingleCellExperiment::reducedDimNames(x))
    expect_identical(S4Vectors::metadata(x)$m2st$cluster$n_domains, as.integer(k))
}

test_that("Seurat 4 without an image: DRSC_dlpfc151510_Seurat.rda", {
    skip_if_not_installed("SeuratObject")
    object <- realObject("DRSC_dlpfc151510_Seurat.rda")
    skip_if_no_m2st()
    result <- suppressMessages(RunM2ST(object, k = 7, params = quick(), device = "cpu"))
    expectSeurat(result, 7)
    graph <- SeuratObject::Misc(result, "m2st")$graph
    expect_match(graph$reason, "^hexagonal")
    expect_identical(colnames(result), colnames(object))
})

test_that("Seurat 3 with VisiumV1: SFE_seu_anterior1_visium.rds", {
    skip_if_not_installed("Seurat")
    object <- realObject("SFE_seu_anterior1_visium.rds")
    skip_if_no_m2st()
    expect_warning(
        result <- runM2ST(object, k = 8, params = quick(), device = "cpu", verbose = FALSE),
        "18 of 2696 spots have no counts"
    )
    expectSeurat(result, 8)
    expect_identical(sum(is.na(result$m2st_domain)), 18L)
})

test_that("Seurat 5 with a FOV: SFE_seu_vz_toy.rds", {
    skip_if_not_installed("SeuratObject")
    object <- realObject("SFE_seu_vz_toy.rds")
    skip_if_no_m2st()
    expect_message(
        result <- runM2ST(object, k = 4, params = quick(), device = "cpu"),
        "12 of 1058 spots get no domain .NA.: 12 have no coordinates"
    )
    expectSeurat(result, 4)
})

test_that("20 spots with corrected counts only: stJoincount_humanBC.rda", {
    skip_if_not_installed("Seurat")
    object <- realObject("stJoincount_humanBC.rda")
    expect_error(RunM2ST(object, k = 3), "at least 50 spots or cells, found 20.*whole tissue")
    loadClasses(object)
    expect_error(resolveAssay(object, NULL), "raw assay.*'Spatial'.*is not in the object")
})

test_that("SingleCellExperiment with row and col: BayesSpace_tools_data_SCE.RDS", {
    skip_if_not_installed("SingleCellExperiment")
    x <- realObject("BayesSpace_tools_data_SCE.RDS")
    skip_if_no_m2st()
    result <- suppressMessages(runM2ST(x, k = 4, params = quick(), device = "cpu"))
    expectSCE(result, 4)
    expect_match(S4Vectors::metadata(result)$m2st$graph$reason, "^square")
})

test_that("SpatialExperiment: SpotSweeper_DLPFC_artifact_SPE.rda", {
    useSpatialExperiment()
    x <- realObject("SpotSweeper_DLPFC_artifact_SPE.rda")
    skip_if_no_m2st()
    result <- runM2ST(x, k = 7, params = quick(), device = "cpu", verbose = FALSE)
    expectSCE(result, 7)
    expect_s4_class(result, "SpatialExperiment")
    expect_identical(
        SpatialExperiment::spatialCoords(result), SpatialExperiment::spatialCoords(x)
    )
    expect_match(S4Vectors::metadata(result)$m2st$graph$reason, "^hexagonal")
})

test_that("SpatialExperiment with triplet counts of 20 spots: stJoincount_SpeBC.rda", {
    useSpatialExperiment()
    expect_error(runM2ST(realObject("stJoincount_SpeBC.rda"), k = 3), "at least 50 spots")
})

test_that("empty coordinates: DESpace_LIBD_subset_SPE.RData", {
    useSpatialExperiment()
    x <- realObject("DESpace_LIBD_subset_SPE.RData")
    expect_error(runM2ST(x, k = 7), "has no coordinates.*coords = c\\(\"array_row\", \"array_col\"")
    skip_if_no_m2st()
    expect_warning(
        result <- runM2ST(
            x, k = 7, coords = c("array_row", "array_col"), params = quick(), device = "cpu",
            verbose = FALSE
        ),
        "1 of 3639 spots have no neighbour"
    )
    expectSCE(result, 7)
})

test_that("no assay: SpaceHack2023_bass_spe.rds", {
    useSpatialExperiment()
    x <- realObject("SpaceHack2023_bass_spe.rds")
    expect_error(runM2ST(x, k = 7), "no expression values.*dimred = \"reducedDim\"")
})
