# SpatialExperiment where it is installed, else the test double, installed in a temporary library.
useSpatialExperiment <- function() {
    skip_if_not_installed("SingleCellExperiment")
    if (!requireNamespace("SpatialExperiment", quietly = TRUE)) {
        library <- file.path(tempdir(), "doubles")
        dir.create(library, showWarnings = FALSE)
        utils::install.packages(
            test_path("doubles", "SpatialExperiment"), lib = library, repos = NULL,
            type = "source", quiet = TRUE
        )
        .libPaths(c(library, .libPaths()))
    }
    skip_if_not_installed("SpatialExperiment")
    version <- utils::packageVersion("SpatialExperiment")
    kind <- if (version == "0.0.0.9000") "the test double" else paste("the real package,", version)
    message("SpatialExperiment: ", kind)
}

toySPE <- function(coords = toyCoords(), sample_id = "one") {
    colnames(coords) <- c("pxl_col_in_fullres", "pxl_row_in_fullres")[seq_len(ncol(coords))]
    counts <- toyCounts()
    SpatialExperiment::SpatialExperiment(
        assays = list(counts = counts),
        colData = S4Vectors::DataFrame(
            array_row = toyCoords()[, 1], array_col = toyCoords()[, 2],
            row.names = colnames(counts)
        ),
        spatialCoords = coords, sample_id = sample_id
    )
}

toySCE <- function() {
    counts <- toyCounts()
    SingleCellExperiment::SingleCellExperiment(
        list(counts = counts),
        colData = S4Vectors::DataFrame(
            row = toyCoords()[, 1], col = toyCoords()[, 2], row.names = colnames(counts)
        )
    )
}

toySeurat <- function(meta = TRUE) {
    skip_if_not_installed("SeuratObject")
    object <- SeuratObject::CreateSeuratObject(toyCounts())
    if (meta) {
        object$row <- toyCoords()[, 1]
        object$col <- toyCoords()[, 2]
    }
    object
}
