# Labels of an annotated section, carried to another one.

twoLayers <- function() {
    coords <- as.matrix(expand.grid(row = 1:16, col = 1:16))
    layer <- ifelse(coords[, "row"] > 8, "upper", "lower")
    rates <- outer(1:60, layer == "upper", function(gene, upper) ifelse((gene > 30) == upper, 4, 1))
    section <- function() {
        counts <- matrix(as.double(rpois(60 * 256, rates)), 60)
        dimnames(counts) <- list(paste0("gene", 1:60), paste0("spot", 1:256))
        counts
    }
    set.seed(7)
    list(coords = coords, layer = layer, old = section(), new = section())
}

test_that("labels reach another section, whatever holds the two", {
    skip_if_no_m2st()
    two <- twoLayers()
    where <- list(coords = two$coords)
    found <- annotateM2ST(
        two$new, two$old, two$layer, coords = two$coords, reference.args = where
    )
    expect_identical(levels(found$domain), c("lower", "upper"))
    expect_gt(mean(found$domain == two$layer, na.rm = TRUE), 0.9)
    expect_true(all(found$confidence >= 0 & found$confidence <= 1))
    # A part of an object keeps the levels of the whole.
    expect_message(
        again <- annotateM2ST(
            two$new, two$old, factor(two$layer, c("lower", "deep", "upper")), coords = two$coords,
            reference.args = where
        ),
        "Of the reference: No spot has a label of 'deep'"
    )
    expect_identical(again$domain, found$domain)

    if (requireNamespace("DelayedArray", quietly = TRUE)) {
        delayed <- annotateM2ST(
            DelayedArray::DelayedArray(two$new), DelayedArray::DelayedArray(two$old), two$layer,
            coords = two$coords, reference.args = where
        )
        expect_identical(delayed$domain, found$domain)
    }

    skip_if_not_installed("SeuratObject")
    old <- SeuratObject::CreateSeuratObject(two$old)
    old$layer <- two$layer
    folder <- tempfile("labels")
    known <- annotateM2ST(
        two$new, old, "layer", save = folder, coords = two$coords, reference.args = where
    )
    expect_identical(known$domain, found$domain)
    expect_identical(applyM2ST(two$new, folder, coords = two$coords)$domain, found$domain)
    new <- SeuratObject::CreateSeuratObject(two$new)
    new <- suppressMessages(
        annotateM2ST(new, old, "layer", coords = two$coords, reference.args = where)
    )
    expect_identical(unname(new$m2st_domain), unname(found$domain))
    # Its result is m2ST's own: another one may take its place.
    again <- suppressMessages(
        annotateM2ST(new, old, "layer", coords = two$coords, reference.args = where)
    )
    expect_identical(again$m2st_domain, new$m2st_domain)
    expect_error(clusterM2ST(new, k = 2, coords = two$coords), "found a result of applyM2ST")

    skip_if_not_installed("SingleCellExperiment")
    other <- SingleCellExperiment::SingleCellExperiment(list(counts = two$new))
    other <- annotateM2ST(other, old, "layer", coords = two$coords, reference.args = where)
    expect_identical(unname(other$m2st_domain), unname(found$domain))
})

test_that("labels that cannot be learned from are an error", {
    skip_if_no_m2st()
    two <- twoLayers()
    learn <- function(labels, reference = two$old) {
        annotateM2ST(
            two$new, reference, labels, coords = two$coords,
            reference.args = list(coords = two$coords)
        )
    }
    expect_error(learn(seq_len(256)), "found numbers")
    expect_error(learn("layer"), "a label or NA for each of 256 spots, found 1")
    expect_error(learn(rep("lower", 256)), "at least two names")
    expect_error(learn(ifelse(two$layer == "upper", "", "lower")), "to be NA, found the text ''")
    expect_error(learn(rep(c("NA", "lower"), 128)), "to be NA, found the text 'NA'")
    expect_error(learn(two$layer, "folder"), "found a text. For the folder of a model, call applyM2ST")
    expect_error(annotateM2ST("a", two$old, two$layer), "Expected a matrix with genes in rows")
    expect_error(annotateM2ST(unname(two$new), two$old, two$layer), "row names of `x`, found none")
    expect_error(
        annotateM2ST(two$new, two$old, two$layer, reference.args = list(foo = 1)), "found 'foo'"
    )
    other <- two$old
    rownames(other) <- paste0("ENSG", 1:60)
    expect_error(learn(two$layer, other), "found 0")
    skip_if_not_installed("SeuratObject")
    object <- SeuratObject::CreateSeuratObject(two$old)
    object$depth <- seq_len(256)
    expect_error(learn("layers", object), "the name of a column of reference")
    expect_error(learn("depth", object), "Of the reference: .*found numbers")
})

test_that("what is missing is told before Python starts", {
    two <- twoLayers()
    expect_error(annotateM2ST(two$new), "Expected `reference`, an object with labels, found none")
    expect_error(annotateM2ST(two$new, two$old), "Expected `labels`, found none. Name the column")
    expect_error(applyM2ST(two$new, coords = two$coords), "Expected `model`, the folder of a saved")
})

test_that("what is said of the reference names it and its arguments", {
    skip_if_no_m2st()
    two <- twoLayers()
    expect_error(
        annotateM2ST(two$new, two$old, two$layer, coords = two$coords),
        "Of the reference: Expected `coords`.*goes into reference.args = list\\(coords ="
    )
    skip_if_not_installed("SingleCellExperiment")
    old <- SingleCellExperiment::SingleCellExperiment(
        list(counts = two$old),
        colData = S4Vectors::DataFrame(two$coords, layer = two$layer)
    )
    told <- "^Of the reference: Coordinates: columns 'row', 'col' of colData\\(reference\\)."
    expect_message(annotateM2ST(two$new, old, "layer", coords = two$coords), told)
    expect_silent(
        annotateM2ST(two$new, old, "layer", coords = two$coords, verbose = FALSE)
    )
    names(SummarizedExperiment::colData(old))[1:2] <- c("up", "right")
    expect_error(
        annotateM2ST(two$new, old, "layer", coords = two$coords),
        "Of the reference: Found no coordinates: colData\\(reference\\) has.*list\\(coords ="
    )
})

test_that("a section of the reference is none to be annotated, whatever its names", {
    skip_if_no_m2st()
    two <- twoLayers()
    same <- "Of the reference: Expected another section .* found the same spots in both"
    learn <- function(x, coords = two$coords) {
        annotateM2ST(
            x, two$old, two$layer, coords = coords, reference.args = list(coords = two$coords)
        )
    }
    expect_error(learn(two$old), same)
    renamed <- two$old[60:1, 256:1]
    colnames(renamed) <- paste0("cell", 1:256)
    expect_error(learn(renamed, 55 * two$coords[256:1, ]), same)
    expect_error(learn(as(two$old, "CsparseMatrix")[, 1:200], two$coords[1:200, ]), same)
    skip_if_not_installed("SeuratObject")
    seurat <- SeuratObject::CreateSeuratObject(two$old)
    expect_error(learn(seurat), same)
    skip_if_not_installed("SingleCellExperiment")
    sce <- SingleCellExperiment::SingleCellExperiment(list(counts = two$old))
    expect_error(learn(sce), same)
})

test_that("a saved model gives the same bits from another path, in a new session", {
    skip_if_no_m2st()
    two <- twoLayers()
    folder <- tempfile("labels")
    found <- annotateM2ST(
        two$new, two$old, two$layer, coords = two$coords, save = folder,
        reference.args = list(coords = two$coords)
    )
    moved <- file.path(withr::local_tempdir(), "elsewhere")
    dir.create(moved)
    file.copy(dir(folder, full.names = TRUE), moved)
    unlink(folder, recursive = TRUE)
    saveRDS(list(two$new, two$coords), file.path(moved, "../new.rds"))
    said <- inNewR(paste0(
        "setwd('", moved, "/..'); new <- readRDS('new.rds');",
        "found <- m2st::applyM2ST(new[[1]], 'elsewhere', coords = new[[2]]);",
        "saveRDS(unclass(found)[1:4], 'found.rds')"
    ))
    again <- readRDS(file.path(moved, "../found.rds"))
    expect_identical(again, unclass(found)[1:4])
})

test_that("a domain without a label is found", {
    skip_if_no_m2st()
    two <- twoLayers()
    where <- list(coords = two$coords)
    layer <- cut(two$coords[, "col"], c(0, 5, 10, 16), c("left", "middle", "right"))
    rates <- outer(1:60, as.integer(layer), function(gene, one) ifelse(gene %% 3 == one - 1, 6, 1))
    section <- function() {
        counts <- matrix(as.double(rpois(60 * 256, rates)), 60)
        dimnames(counts) <- list(paste0("gene", 1:60), paste0("spot", 1:256))
        counts
    }
    old <- section()[, layer != "right"]
    known <- list(coords = two$coords[layer != "right", ])
    found <- annotateM2ST(
        section(), old, as.character(layer[layer != "right"]), n_new = 1, coords = two$coords,
        reference.args = known
    )
    expect_identical(levels(found$domain), c("left", "middle", "new 1"))
    expect_gt(mean(found$domain[layer == "right"] == "new 1", na.rm = TRUE), 0.8)
    expect_error(
        annotateM2ST(two$new, two$old, two$layer, n_new = 0.5, reference.args = where),
        "whole number, 0 or more, found 0.5"
    )
})
