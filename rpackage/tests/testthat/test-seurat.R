skip_if_not_installed("SeuratObject")
message("SeuratObject: ", utils::packageVersion("SeuratObject"))

byRow <- function(k) as.integer(ceiling(toyCoords()[, 1] / 10 * k))
quiet <- function(code) suppressMessages(withFake(code))

fovSeurat <- function(cells = 1:120) {
    object <- toySeurat(meta = FALSE)
    coords <- data.frame(
        x = toyCoords()[cells, 1], y = toyCoords()[cells, 2], cell = colnames(object)[cells]
    )
    object[["left"]] <- SeuratObject::CreateFOV(coords, type = "centroids", assay = "RNA")
    object
}

keyed <- function(image, key) {
    SeuratObject::Key(image) <- key
    image
}

test_that("results land where Seurat users look", {
    expect_message(object <- withFake(RunM2ST(toySeurat(), k = 5)), "'row', 'col' of meta.data")
    expect_identical(as.integer(object$m2st_domain), byRow(5))
    expect_identical(levels(object$m2st_domain), as.character(1:5))
    expect_equal(unname(object$m2st_confidence), unname(plogis(object$row)))
    expect_identical(levels(SeuratObject::Idents(object)), as.character(1:5))
    expect_identical(as.integer(SeuratObject::Idents(object)), byRow(5))
    expect_identical(SeuratObject::Reductions(object), "m2st")
    kept <- quiet(RunM2ST(object, k = 5, keep = "scales"))
    expect_setequal(SeuratObject::Reductions(kept), c("m2st", "m2st.scale1", "m2st.scale2"))
    again <- quiet(RunM2ST(kept, k = 5))
    expect_identical(SeuratObject::Reductions(again), "m2st")
    expect_error(quiet(clusterM2ST(again, k = 3)), "scales .m2st.scale1.: the run kept only")
    expect_identical(colnames(SeuratObject::Embeddings(object, "m2st")), paste0("M2ST_", 1:5))
    expect_identical(SeuratObject::Misc(object, "m2st")$cluster$n_domains, 5L)
    expect_match(SeuratObject::Command(object), "^RunM2ST")
    expect_true(methods::validObject(object))
})

test_that("idents stay if asked", {
    object <- quiet(runM2ST(toySeurat(), k = 5, set.ident = FALSE, name = "zone"))
    expect_identical(as.integer(object$zone_domain), byRow(5))
    expect_false("1" %in% levels(SeuratObject::Idents(object)))
})

test_that("ten domains are in numeric order", {
    object <- quiet(RunM2ST(toySeurat(), k = 10))
    expect_identical(levels(object$m2st_domain), as.character(1:10))
    expect_identical(levels(SeuratObject::Idents(object)), as.character(1:10))
})

test_that("several numbers of domains come from stored embeddings", {
    object <- quiet(RunM2ST(toySeurat(), k = 3, keep = "scales"))
    several <- quiet(clusterM2ST(object, k = c(2, 5)))
    expect_identical(as.integer(several$m2st_k5_domain), byRow(5))
    expect_equal(several$m2st_k2_confidence, object$m2st_confidence)
    expect_true(all(c("m2st_k2", "m2st_k5") %in% SeuratObject::Reductions(several)))
    expect_identical(SeuratObject::Idents(several), SeuratObject::Idents(object))
    one <- quiet(clusterM2ST(object, k = 5))
    expect_identical(one$m2st_domain, quiet(RunM2ST(toySeurat(), k = 5))$m2st_domain)
    embedded <- quiet(embedM2ST(several))
    expect_false("m2st_domain" %in% names(embedded[[]]))
    expect_identical(embedded$m2st_k2_domain, several$m2st_k2_domain)
    expect_setequal(
        SeuratObject::Reductions(embedded), c("m2st_k2", "m2st_k5", "m2st.scale1", "m2st.scale2")
    )
    expect_error(clusterM2ST(toySeurat(), k = 2), "Found no embeddings")
})

test_that("a FOV is used before meta.data; cells outside of it get NA", {
    object <- fovSeurat(1:100)
    object$x <- object$y <- 1
    expect_message(object <- withFake(RunM2ST(object, k = 5, keep = "scales")), "20 of 120")
    expect_identical(unname(which(is.na(object$m2st_domain))), 101:120)
    expect_identical(sum(is.na(SeuratObject::Idents(object))), 20L)
    expect_true(all(is.na(SeuratObject::Embeddings(object, "m2st")[101:120, ])))
    again <- withFake(clusterM2ST(object, k = 5))
    expect_identical(again$m2st_domain, object$m2st_domain)
    expect_length(fake$request$coordinates, 8L * 200L)
})

test_that("a FOV with outlines only gives their centres", {
    object <- toySeurat(meta = FALSE)
    corners <- data.frame(dx = c(-0.2, 0.2, 0.2, -0.2), dy = c(-0.2, -0.2, 0.2, 0.2))
    outlines <- merge(data.frame(cell = colnames(object), toyCoords()), corners)
    outlines <- outlines[order(match(outlines$cell, colnames(object))), ]
    outlines <- data.frame(
        x = outlines$row + outlines$dx, y = outlines$col + outlines$dy, cell = outlines$cell
    )
    image <- SeuratObject::CreateFOV(outlines, type = "segmentation", assay = "RNA")
    # SeuratObject 5 says that outlines sort the cells.
    object <- suppressWarnings({
        object[["left"]] <- image
        object
    })
    expect_message(object <- withFake(RunM2ST(object, k = 5)), "using the mean of each")
    expect_identical(as.integer(object$m2st_domain), byRow(5))
})

test_that("several images are several sections", {
    object <- fovSeurat(1:60)
    object[["right"]] <- keyed(fovSeurat(61:120)[["left"]], "right_")
    quiet(clusterM2ST(embedM2ST(object), k = 3))
    expect_identical(fake$request$sample_names, list("left", "right"))
    expect_identical(readBin(fake$request$sample, "integer", 120), rep(0:1, each = 60))
    expect_message(one <- withFake(RunM2ST(object, k = 2, image = "left")), "60 of 120")
    expect_null(fake$request$sample)
    expect_error(RunM2ST(object, k = 2, image = "top"), "found 'top'. Images: 'left', 'right'")
    object[["again"]] <- keyed(object[["right"]], "again_")
    expect_error(RunM2ST(object, k = 2), "60 cells of image 'again' in another one")
})

test_that("SlideSeq and STARmap images are read", {
    skip_if_not_installed("Seurat")
    for (class in c("SlideSeq", "STARmap")) {
        object <- toySeurat(meta = FALSE)
        coordinates <- data.frame(x = toyCoords()[, 1], y = toyCoords()[, 2])
        rownames(coordinates) <- colnames(object)
        slots <- list(class, assay = "RNA", key = "image_", coordinates = coordinates)
        if (class == "STARmap") {
            slots$qhulls <- data.frame(x = 0, y = 0, cell = colnames(object)[1L])
        }
        classes <- getClass(class, where = asNamespace("Seurat"))
        object[["image"]] <- do.call(methods::new, c(list(classes), slots[-1L]))
        object <- quiet(RunM2ST(object, k = 5))
        expect_identical(as.integer(object$m2st_domain), byRow(5))
    }
})

test_that("sample_id tells sections apart", {
    object <- toySeurat()
    object$who <- rep(c("s2", "s1"), each = 60)
    quiet(clusterM2ST(embedM2ST(object, sample_id = "who"), k = 3, sample_id = "who"))
    expect_identical(fake$request$sample_names, list("s2", "s1"))
    expect_error(
        quiet(RunM2ST(object, k = 2, sample_id = "when")),
        "Expected `sample_id` to name a column of meta.data, found \"when\""
    )
})

test_that("an SCTAssay gives way to the raw assay, said aloud", {
    skip_if_not_installed("Seurat")
    object <- toySeurat()
    data <- SeuratObject::CreateAssayObject(toyCounts())
    object[["SCT"]] <- methods::new(
        "SCTAssay", counts = data@counts, data = data@data, key = "sct_", assay.orig = "RNA",
        meta.features = data.frame(row.names = rownames(data)), SCTModel.list = list()
    )
    SeuratObject::DefaultAssay(object) <- "SCT"
    expect_message(object <- withFake(RunM2ST(object, k = 2)), "using the raw assay 'RNA'")
    expect_identical(SeuratObject::DefaultAssay(object[["m2st"]]), "RNA")
    chosen <- quiet(RunM2ST(object, k = 2, assay = "SCT"))
    expect_identical(SeuratObject::DefaultAssay(chosen[["m2st"]]), "SCT")
    object[["m2st"]] <- NULL
    object[["RNA"]] <- NULL
    expect_error(RunM2ST(object, k = 2), "corrected by SCTransform.*'RNA'.*is not in the object")
})

test_that("split layers of an Assay5 are joined", {
    skip_if_not_installed("SeuratObject", "5.0.0")
    object <- toySeurat()
    object[["RNA"]] <- split(object[["RNA"]], f = rep(c("b", "a"), 60))
    expect_setequal(SeuratObject::Layers(object), c("counts.a", "counts.b"))
    quiet(object <- RunM2ST(object, k = 5))
    expect_identical(as.integer(object$m2st_domain), byRow(5))
    expect_identical(readBin(fake$request$data, "double", 1e4, size = 4), toyCounts()@x)
})

test_that("VisiumV1 and VisiumV2 are read in full resolution", {
    skip_if_not_installed("Seurat")
    object <- toySeurat(meta = FALSE)
    scale <- Seurat::scalefactors(spot = 1, fiducial = 1, hires = 0.5, lowres = 0.1)
    coords <- data.frame(
        tissue = rep(c(0L, 1L), c(2, 118)), row = 1L, col = 1L,
        imagerow = toyCoords()[, 2] * 100, imagecol = toyCoords()[, 1] * 100,
        row.names = colnames(object)
    )
    object[["slice"]] <- methods::new(
        "VisiumV1", image = array(1, c(4, 4, 3)), scale.factors = scale, coordinates = coords,
        spot.radius = 0.1, assay = "RNA", key = "slice_"
    )
    expect_message(object <- withFake(RunM2ST(object, k = 5)), "2 of 120 spots")
    sent <- readBin(fake$request$coordinates, "double", 236)
    expect_identical(sent, c(toyCoords()[-(1:2), 1], toyCoords()[-(1:2), 2]) * 100)
})

test_that("VisiumV2 is read in full resolution", {
    skip_if_not_installed("Seurat", "5.1.0")
    loadNamespace("Seurat")
    object <- toySeurat(meta = FALSE)
    coords <- data.frame(
        x = toyCoords()[, 1] * 100, y = toyCoords()[, 2] * 100, cell = colnames(object)
    )
    parts <- list(
        Class = methods::getClass("VisiumV2", where = asNamespace("Seurat")), molecules = list(),
        boundaries = list(centroids = SeuratObject::CreateCentroids(coords)), assay = "RNA",
        key = "slice_", image = array(1, c(4, 4, 3)),
        scale.factors = Seurat::scalefactors(spot = 1, fiducial = 1, hires = 0.5, lowres = 0.1)
    )
    object[["slice"]] <- do.call(methods::new, parts)
    quiet(object <- RunM2ST(object, k = 5))
    expect_identical(as.integer(object$m2st_domain), byRow(5))
    expect_identical(readBin(fake$request$coordinates, "double", 240), c(toyCoords()) * 100)
})

test_that("what is missing is named", {
    object <- toySeurat()
    expect_error(RunM2ST(object, k = 2, assay = "Spatial"), "assay 'Spatial', found 'RNA'")
    expect_error(RunM2ST(object, k = 2, layer = "scale.data"), "has no 'scale.data'")
    expect_error(
        RunM2ST(object, k = 2, reduction = "pca"),
        "reduction 'pca', found none.*leave `reduction` out"
    )
    expect_error(RunM2ST(object, k = 2, features = "gene0"), "such as 'gene0'")
    expect_error(RunM2ST(object, k = 2, q = 2), "not known here")
    object$row <- NULL
    expect_error(RunM2ST(object, k = 2), "meta.data has none of the usual columns")
})

test_that("a reduction and chosen genes can be used", {
    object <- toySeurat()
    values <- matrix(sin(1:240), 120, dimnames = list(colnames(object), c("PC_1", "PC_2")))
    object[["pca"]] <- SeuratObject::CreateDimReducObject(values, key = "PC_", assay = "RNA")
    quiet(RunM2ST(object, k = 2, reduction = "pca"))
    expect_identical(fake$request$shape, c(120L, 2L))
    expect_length(fake$request$features, 8L * 240L)
    quiet(RunM2ST(object, k = 2, features = c("gene1", "gene4")))
    expect_identical(fake$request$shape, c(120L, 2L))
})
