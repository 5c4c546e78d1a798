# Where coordinates come from, and what is no coordinate: with the stand-in for Python.

quiet <- function(code) suppressMessages(withFake(code))
sent <- function() matrix(readBin(fake$request$coordinates, "double", 1e4), ncol = 2L)

test_that("a data frame of coordinates brings its names and leaves out what is none", {
    at <- unname(toyCoords())
    names <- colnames(toyCounts())
    order <- c(61:120, 1:60)
    frame <- data.frame(x = at[, 1], y = at[, 2], cell = names)
    quiet(runM2ST(toyCounts(), frame[order, ], k = 2))
    expect_identical(sent(), at)
    rownames(frame) <- NULL
    frame$in_tissue <- 1L
    quiet(runM2ST(toyCounts(), frame[order, c("in_tissue", "x", "y", "cell")], k = 2))
    expect_identical(sent(), at)
    frame$cell <- factor(frame$cell)
    quiet(runM2ST(toyCounts(), frame, k = 2))
    expect_identical(sent(), at)
    expect_error(
        runM2ST(toyCounts(), data.frame(u = at[, 1], cell = names), k = 2),
        "2 or 3 columns of numbers in the data frame of coordinates, found 1 .columns: 'u', 'cell'"
    )
})

test_that("numbers of rows are no names of spots", {
    at <- data.frame(row = toyCoords()[, 1], col = toyCoords()[, 2])
    order <- order(at$row)
    counts <- toyCounts()[, order]
    quiet(runM2ST(counts, at[order, ], k = 2))
    expect_identical(sent(), unname(toyCoords())[order, ])
    quiet(runM2ST(counts, as.matrix(at[order, ]), k = 2))
    expect_identical(sent(), unname(toyCoords())[order, ])
    # Spots that do have such names are matched by them.
    colnames(counts) <- as.character(order)
    at <- as.matrix(at)
    rownames(at) <- 1:120
    quiet(runM2ST(counts, at, k = 2))
    expect_identical(sent(), unname(toyCoords())[order, ])
})

test_that("coordinate columns are known by the names of each platform, in any case", {
    found <- function(...) suppressMessages(findColumns(c("a", ...), "x"))
    expect_identical(found("y_centroid", "x_centroid"), c("x_centroid", "y_centroid"))
    expect_identical(found("center_x", "center_y", "x", "y"), c("center_x", "center_y"))
    expect_identical(
        found("CenterX_local_px", "CenterY_local_px", "CenterX_global_px", "CenterY_global_px"),
        c("CenterX_global_px", "CenterY_global_px")
    )
    expect_identical(found("sdimx", "sdimy"), c("sdimx", "sdimy"))
    expect_identical(found("X", "Y"), c("X", "Y"))
    expect_identical(found("X", "x", "y"), c("x", "y"))
    expect_identical(found("imagerow", "imagecol", "x", "y"), c("imagerow", "imagecol"))
    expect_error(
        found("CenterX_local_px", "CenterY_local_px"),
        "'CenterX_local_px', 'CenterY_local_px' of x start anew in each field of view"
    )
    expect_error(found("b"), "none of the usual columns")
})

test_that("coordinates are neither offered nor taken as features", {
    skip_if_not_installed("SingleCellExperiment")
    at <- toyCoords()
    x <- SingleCellExperiment::SingleCellExperiment(
        list(X = toyCounts()), reducedDims = list(spatial = at, other = cbind(at[, 2] * 3 + 1, -at))
    )
    message <- tryCatch(runM2ST(x, k = 2), error = conditionMessage)
    expect_match(message, "found 'X'. If it holds raw counts, pass assay.type = \"X\"")
    expect_no_match(message, "'spatial'")
    refused <- "Expected features of the spots, found their coordinates in reducedDim "
    expect_error(quiet(runM2ST(x, k = 2, dimred = "spatial")), paste0(refused, "'spatial'"))
    expect_error(quiet(runM2ST(x, k = 2, dimred = "other")), paste0(refused, "'other'"))
    expect_error(
        quiet(runM2ST(x, k = 2, assay.type = NULL)), "Expected an assay none, found 'X'"
    )
    quiet(runM2ST(x, k = 2, assay.type = "X"))
    expect_identical(sent(), unname(at))
})

test_that("a converted Seurat object keeps its coordinates in a reduction", {
    object <- toySeurat(meta = FALSE)
    at <- toyCoords()
    dimnames(at) <- list(colnames(object), c("spatial_1", "spatial_2"))
    object[["spatial"]] <- SeuratObject::CreateDimReducObject(at, key = "spatial_", assay = "RNA")
    expect_message(object <- withFake(RunM2ST(object, k = 5)), "Coordinates: reduction 'spatial'")
    expect_identical(sent(), unname(at))
    expect_error(
        quiet(RunM2ST(object, k = 2, reduction = "spatial")),
        "found their coordinates in reduction 'spatial'"
    )
})

test_that("a column of texts is no column of coordinates", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$place <- "here"
    expect_error(
        quiet(runM2ST(x, k = 2, coords = c("place", "row"))),
        "Expected coordinates in the column 'place' of colData.x., found 'here'"
    )
    x$text <- as.character(x$col)
    quiet(runM2ST(x, k = 2, coords = c("row", "text")))
    expect_identical(sent(), unname(toyCoords()))
})

test_that("in_tissue may be texts, and others than yes and no are refused", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    for (no in list("0", "false", "FALSE", "No", 0, FALSE, factor("0"))) {
        yes <- list(character = "TRUE", numeric = 1, logical = TRUE, factor = factor("1"))
        x$in_tissue <- c(rep(no, 2L), rep(yes[[class(no)]], 118L))
        expect_identical(which(is.na(quiet(runM2ST(x, k = 2))$m2st_domain)), 1:2)
    }
    x$in_tissue <- rep(c("tissue", "background"), 60)
    expect_error(
        quiet(runM2ST(x, k = 2)), "or 1 and 0, in the column 'in_tissue', found 'tissue'"
    )
})

namedFOV <- function(cells, at, key) {
    SeuratObject::CreateFOV(
        data.frame(x = at[, 1], y = at[, 2], cell = cells), type = "centroids", assay = "RNA",
        key = key
    )
}

test_that("an image of other names is named, and a section without a place is a warning", {
    object <- toySeurat(meta = FALSE)
    object$orig.ident <- rep(c("s1", "s2"), each = 60)
    cells <- colnames(object)
    at <- toyCoords()
    object[["one"]] <- namedFOV(cells[1:60], at[1:60, ], "one_")
    expect_warning(
        one <- quiet(RunM2ST(object, k = 2)),
        "^No spot of 's2' .column 'orig.ident'. has a place in the tissue: its domain is NA"
    )
    expect_identical(which(is.na(unname(one$m2st_domain))), 61:120)
    expect_no_warning(quiet(RunM2ST(object, k = 2, image = "one")))
    # SeuratObject 5 refuses images with other cells.
    skip_if(seurat5())
    object[["two"]] <- namedFOV(cells[61:120], at[61:120, ], "two_")
    rename <- function(object, image) {
        found <- object@images[[image]]
        found@boundaries$centroids@cells <- paste0("cell", 1:60)
        object@images[[image]] <- found
        object
    }
    warnings <- capture_warnings(quiet(RunM2ST(rename(object, "two"), k = 2)))
    expect_length(warnings, 1L)
    expect_match(
        warnings, paste0("^Image 'two': found no cell of the object; its names are like 'cell1', ",
            "the object's like 'spot61'.*RenameCells")
    )
    expect_error(
        RunM2ST(rename(rename(object, "two"), "one"), k = 2), "^Images 'one', 'two': found no cell"
    )
})

test_that("a sketch gives way to the assay with all cells, said aloud", {
    skip_if_not_installed("SeuratObject", "5.0.0")
    object <- toySeurat()
    object[["sketch"]] <- SeuratObject::CreateAssay5Object(counts = toyCounts()[, 1:60])
    SeuratObject::DefaultAssay(object) <- "sketch"
    expect_message(
        all <- withFake(RunM2ST(object, k = 2)),
        "'sketch' holds 60 of 120 cells: using 'RNA', which holds 120"
    )
    expect_false(anyNA(all$m2st_domain))
    expect_message(
        some <- withFake(RunM2ST(object, k = 2, assay = "sketch")),
        "60 are not in layer 'counts' of assay 'sketch'"
    )
    expect_identical(sum(is.na(some$m2st_domain)), 60L)
})

test_that("of genes and proteins in one assay the genes are used", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    types <- rep(c("Gene Expression", "Protein Expression"), c(55, 5))
    SummarizedExperiment::rowData(x)$Type <- types
    expect_message(
        withFake(runM2ST(x, k = 2)), "the 55 rows of type 'Gene Expression' .*'Protein Expression'"
    )
    expect_identical(fake$request$shape, c(120L, 55L))
    quiet(runM2ST(x, k = 2, subset.row = rownames(x)))
    expect_identical(fake$request$shape, c(120L, 60L))
})
