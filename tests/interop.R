# Objects for the tests of the converters, and their comparison, slot by slot, in R itself.

suppressPackageStartupMessages({
    library(Matrix)
    library(SingleCellExperiment)
})

names_of <- function(kind, n) {
    switch(kind,
        plain = sprintf("n%d", seq_len(n)),
        unicode = paste0(rep_len(c("é", "µ 1", "日本", "a/b", "'q'"), n), seq_len(n)),
        repeated = rep_len(c("x", "y", "x", "x-1"), n),
        none = NULL
    )
}

# Values with missing ones of every kind among them.
some <- function(values, n) sample(values, n, replace = TRUE)

column_of <- function(kind, n, names) {
    holes <- function(x) {
        x[some(c(TRUE, FALSE, FALSE), n)] <- NA
        x
    }
    switch(kind,
        double = some(c(-1.5, 0, 1e300, NaN, Inf, NA), n),
        integer = holes(some(c(-5L, 0L, .Machine$integer.max), n)),
        whole = some(0:4, n),
        logical = holes(some(c(TRUE, FALSE), n)),
        flag = some(c(TRUE, FALSE), n),
        character = holes(some(c("a", "NA", "", "é"), n)),
        distinct = sprintf("id%d", seq_len(n)),
        factor = factor(holes(some(c("b", "a"), n)), levels = c("b", "unused", "a")),
        ordered = factor(some(c("low", "high"), n), levels = c("low", "high"), ordered = TRUE),
        empty = factor(rep(NA_character_, n), levels = character()),
        missing = rep(NA_character_, n),
        na_level = addNA(factor(holes(some(c("b", "a"), n)), levels = c("a", "b"))),
        large = some(c(2^31, 2^40, -2^33, 0), n),
        rle = S4Vectors::Rle(some(c("u", "v"), n)),
        named = stats::setNames(some(c(0.5, 1.5), n), names)
    )
}

matrix_of <- function(kind, n_genes, n_obs) {
    n <- n_genes * n_obs
    dense <- matrix(some(c(0, 0, 0, 1, 2, 2^33), n), n_genes, n_obs)
    sparse <- methods::as(dense, "CsparseMatrix")
    sparse <- methods::as(sparse, "generalMatrix")
    switch(kind,
        dgCMatrix = sparse,
        dgTMatrix = methods::as(sparse, "TsparseMatrix"),
        dgRMatrix = methods::as(sparse, "RsparseMatrix"),
        lgCMatrix = {
            sparse <- methods::as(sparse, "lMatrix")
            sparse@x[] <- some(c(TRUE, NA), length(sparse@x))
            sparse
        },
        ngCMatrix = methods::as(sparse, "nMatrix"),
        double = dense + 0.5,
        missing = matrix(some(c(0.5, NA), n), n_genes, n_obs),
        integer = matrix(some(c(0L, 7L, NA), n), n_genes, n_obs),
        logical = matrix(some(c(TRUE, FALSE, NA), n), n_genes, n_obs)
    )
}

metadata_of <- function() {
    list(
        number = 1.5, whole = 3L, flag = NA, text = "é", none = NULL, several = c(1, NA, NaN),
        integers = c(1L, NA), strings = c("a", NA, "a"), named = c(a = 1, b = 2),
        factor = factor(c("x", NA), levels = c("y", "x")), one = array(5), two = array(1:2),
        matrix = matrix(1:6, 2, dimnames = list(NULL, c("a", "b", "c"))),
        cube = array(as.numeric(1:8), c(2, 2, 2)), empty = list(), vector0 = numeric(),
        sparse = methods::as(methods::as(matrix(c(0, 1, 2, 0), 2), "CsparseMatrix"),
            "generalMatrix"),
        frame = data.frame(a = 1:2, b = c("u", "u"), row.names = c("r", "s")),
        plain = data.frame(a = c(1.5, 2)),
        table = S4Vectors::DataFrame(x = 1:2, y = c("p", NA)),
        nested = list(list(1L, "a"), deeper = list(x = TRUE))
    )
}

picture <- function(h, w, channels = 3L) {
    grDevices::as.raster(array(some(0:255, h * w * channels), c(h, w, channels)), max = 255L)
}

image_table <- function(samples) {
    pictures <- lapply(samples, function(sample) {
        methods::new(
            structure("LoadedSpatialImage", package = "SpatialExperiment"), image = picture(4L, 3L)
        )
    })
    frame <- S4Vectors::DataFrame(sample_id = samples, image_id = rep("lowres", length(samples)))
    frame$data <- pictures
    frame$scaleFactor <- rep(0.25, length(samples))
    frame
}

make_experiment <- function(
    seed, class, n_genes, n_obs, assays, columns, gene_names = "plain", spot_names = "plain",
    axes = 2L, images = FALSE, metadata = FALSE
) {
    set.seed(seed)
    spots <- names_of(spot_names, n_obs)
    frame <- function(n, names) {
        made <- S4Vectors::make_zero_col_DFrame(n)
        rownames(made) <- names
        for (kind in columns) made[[kind]] <- column_of(kind, n, names)
        made
    }
    col_data <- frame(n_obs, spots)
    samples <- sprintf("s%d", seq_len(min(2L, n_obs)))
    col_data$sample_id <- rep_len(rev(samples), n_obs)
    values <- stats::setNames(
        lapply(assays, matrix_of, n_genes = n_genes, n_obs = n_obs),
        make.unique(c("counts", rep("other", 8L)))[seq_along(assays)]
    )
    reduced <- list(
        PCA = matrix(stats::rnorm(n_obs * 2L), n_obs, 2L, dimnames = list(spots, c("PC1", "PC2"))),
        custom = matrix(seq_len(n_obs), n_obs, 1L, dimnames = if (!is.null(spots)) {
            list(spots, NULL)
        })
    )
    x <- SingleCellExperiment::SingleCellExperiment(
        values, colData = col_data, rowData = frame(n_genes, names_of(gene_names, n_genes)),
        reducedDims = reduced, metadata = if (metadata) metadata_of() else list()
    )
    if (class == "SingleCellExperiment") {
        return(x)
    }
    coords <- matrix(
        stats::runif(n_obs * axes, 0, 100), n_obs, axes,
        dimnames = if (axes > 0L) list(spots, c("px", "py", "pz")[seq_len(axes)])
    )
    SingleCellExperiment::int_colData(x)$spatialCoords <- coords
    table <- if (images) image_table(samples) else S4Vectors::DataFrame()
    SingleCellExperiment::int_metadata(x)$imgData <- table
    methods::new("SpatialExperiment", x)
}

# Names of the slots in which two objects differ; the rest is identical.
differences <- function(a, b) {
    parts <- list(
        class = function(x) class(x), dimnames = dimnames,
        assayNames = SummarizedExperiment::assayNames,
        colData = SummarizedExperiment::colData, rowData = SummarizedExperiment::rowData,
        reducedDims = function(x) as.list(SingleCellExperiment::reducedDims(x)),
        metadata = S4Vectors::metadata,
        coords = function(x) SingleCellExperiment::int_colData(x)$spatialCoords,
        images = function(x) SingleCellExperiment::int_metadata(x)$imgData
    )
    same <- vapply(parts, function(part) identical(part(a), part(b)), NA)
    found <- names(parts)[!same]
    for (name in SummarizedExperiment::assayNames(a)) {
        u <- SummarizedExperiment::assay(a, name)
        v <- SummarizedExperiment::assay(b, name)
        triplets <- methods::is(u, "TsparseMatrix") # whose order within the matrix is free
        equal <- if (triplets) {
            identical(class(u), class(v)) &&
                identical(methods::as(u, "CsparseMatrix"), methods::as(v, "CsparseMatrix"))
        } else {
            identical(u, v)
        }
        if (!equal) found <- c(found, paste("assay", name))
    }
    methods::validObject(b, complete = TRUE)
    found
}

# ---- Seurat

make_seurat <- function(
    seed, n_genes, n_obs, columns, images = character(), gene_names = "plain",
    spot_names = "plain", normalised = TRUE, reductions = TRUE, misc = FALSE
) {
    set.seed(seed)
    genes <- names_of(gene_names, n_genes)
    cells <- names_of(spot_names, n_obs)
    counts <- matrix_of("dgCMatrix", n_genes, n_obs)
    dimnames(counts) <- list(genes, cells)
    object <- SeuratObject::CreateSeuratObject(counts, assay = "Spatial", project = "p")
    if (normalised) {
        object <- SeuratObject::SetAssayData(object, slot = "data", new.data = log1p(counts))
        SeuratObject::VariableFeatures(object) <- sample(genes, min(2L, n_genes))
    }
    for (kind in columns) {
        object@meta.data[[kind]] <- column_of(kind, n_obs, cells)
    }
    object@active.ident <- stats::setNames(factor(some(c("u", "v"), n_obs)), cells)
    assay <- object@assays$Spatial
    assay@meta.features <- data.frame(
        gene = sprintf("id%d", seq_len(n_genes)), score = some(c(NA, 1.5), n_genes),
        row.names = genes
    )
    object@assays$Spatial <- assay
    if (reductions) {
        values <- matrix(stats::rnorm(n_obs * 2L), n_obs, 2L, dimnames = list(
            cells, c("PC_1", "PC_2")
        ))
        object[["pca"]] <- SeuratObject::CreateDimReducObject(
            values, key = "PC_", assay = "Spatial", stdev = c(2.5, 0.1)
        )
        colnames(values) <- c("MX_1", "MX_2")
        object[["m2st.scale1"]] <- SeuratObject::CreateDimReducObject(
            values, key = "MX_", assay = "Spatial", global = TRUE
        )
    }
    # Each image has its share of the cells.
    parts <- split(cells, rep_len(seq_along(images), n_obs))
    for (at in seq_along(images)) {
        object[[paste0("image", at)]] <- image_of(images[at], parts[[at]], paste0("im", at, "_"))
    }
    if (misc) object@misc <- metadata_of()[c("number", "text", "nested", "strings")]
    object
}

image_of <- function(kind, cells, key) {
    n <- length(cells)
    x <- stats::runif(n, 0, 1000)
    y <- stats::runif(n, 0, 1000)
    if (kind == "FOV") {
        points <- SeuratObject::CreateCentroids(
            data.frame(x = x, y = y, cell = cells), nsides = 6L, radius = 2.5, theta = 0.5
        )
        return(SeuratObject::CreateFOV(
            list(points = points), type = "centroids", assay = "Spatial", key = key
        ))
    }
    class <- structure(kind, package = "Seurat")
    if (kind %in% c("SlideSeq", "STARmap")) {
        table <- data.frame(x = x, y = y, row.names = cells)
        return(methods::new(class, coordinates = table, assay = "Spatial", key = key))
    }
    table <- data.frame(
        tissue = some(0:1, n), row = some(0:9, n), col = some(0:9, n), imagerow = y, imagecol = x,
        row.names = cells
    )
    methods::new(
        class, image = array(some(0:255, 4 * 5 * 3) / 255, c(4, 5, 3)),
        scale.factors = Seurat::scalefactors(spot = 89.5, fiducial = 144.5, hires = 0.17,
            lowres = 0.05),
        coordinates = table, spot.radius = 0.0124, assay = "Spatial", key = key
    )
}

seurat_differences <- function(a, b) {
    assay <- function(x) x@assays$Spatial
    parts <- list(
        class = function(x) class(x), dimnames = dimnames, meta.data = function(x) x@meta.data,
        active.ident = SeuratObject::Idents, active.assay = SeuratObject::DefaultAssay,
        project = SeuratObject::Project, misc = function(x) x@misc,
        counts = function(x) assay(x)@counts, data = function(x) assay(x)@data,
        key = function(x) assay(x)@key, features = function(x) assay(x)@meta.features,
        variable = SeuratObject::VariableFeatures, reductions = function(x) x@reductions,
        images = function(x) x@images
    )
    same <- vapply(parts, function(part) identical(part(a), part(b)), NA)
    methods::validObject(b, complete = TRUE)
    names(parts)[!same]
}

# ---- files, read by R itself

object_in <- function(path) {
    if (grepl("rds$", path, ignore.case = TRUE)) {
        return(readRDS(path))
    }
    holder <- new.env()
    get(load(path, holder)[1L], holder)
}

# Dimensions, and row, column and value of each count, from 0, and the names of the columns.
counts_of <- function(path) {
    x <- object_in(path)
    counts <- if (methods::is(x, "Seurat")) {
        SeuratObject::GetAssayData(x, slot = "counts")
    } else {
        SummarizedExperiment::assay(x, "counts")
    }
    triplets <- methods::as(counts, "TsparseMatrix")
    list(dim(counts), triplets@i, triplets@j, triplets@x, colnames(counts))
}

# x and y of each column of the object, missing where it has none.
coords_of <- function(path) {
    x <- object_in(path)
    if (!methods::is(x, "Seurat")) {
        return(SingleCellExperiment::int_colData(x)$spatialCoords + 0)
    }
    image <- x@images[[1L]]
    found <- if (methods::is(image, "FOV")) {
        SeuratObject::GetTissueCoordinates(image[["centroids"]], full = FALSE)
    } else {
        SeuratObject::GetTissueCoordinates(image, scale = NULL, cols = c("imagecol", "imagerow"))
    }
    cells <- if (is.null(found$cell)) rownames(found) else found$cell
    names <- if (is.null(found$cell)) c("imagecol", "imagerow") else c("x", "y")
    as.matrix(found[match(colnames(x), cells), names])
}
