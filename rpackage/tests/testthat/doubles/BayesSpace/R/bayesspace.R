spatialPreprocess <- function(sce, platform = c("Visium", "VisiumHD", "ST"), n.PCs = 15) {
    # As in the real one, which stops at spots without counts.
    stopifnot(all(colSums(as.matrix(SingleCellExperiment::counts(sce))) > 0))
    scores <- matrix(stats::runif(ncol(sce) * n.PCs), ncol(sce))
    SingleCellExperiment::reducedDim(sce, "PCA") <- scores
    sce
}

# A band of rows for each but the last cluster, which is lost. Each version reads its own names.
spatialCluster <- function(sce, q, d = 15, platform, nrep = 50000, burn.in = 1000) {
    stopifnot(
        identical(sce$row, sce$array_row), identical(sce$col, sce$array_col),
        ncol(SingleCellExperiment::reducedDim(sce, "PCA")) >= d, burn.in < nrep
    )
    bands <- seq_len(max(q - 1, 1))
    rows <- rank(sce$array_row, ties.method = "min") / ncol(sce)
    sce$spatial.cluster <- pmin(1 + floor(rows * length(bands)), length(bands))
    sce
}
