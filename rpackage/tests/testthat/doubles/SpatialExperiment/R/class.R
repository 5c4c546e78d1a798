# The class as the real package defines it; coordinates and images lie where it keeps them.
setClass("SpatialExperiment", contains = "SingleCellExperiment")

SpatialExperiment <- function(assays, colData, spatialCoords, sample_id = "sample01") {
    colData$sample_id <- sample_id
    x <- SingleCellExperiment::SingleCellExperiment(assays, colData = colData)
    SingleCellExperiment::int_colData(x)$spatialCoords <- spatialCoords
    SingleCellExperiment::int_metadata(x)$imgData <- S4Vectors::DataFrame()
    new("SpatialExperiment", x)
}

spatialCoords <- function(x) {
    SingleCellExperiment::int_colData(x)$spatialCoords
}

imgData <- function(x) {
    SingleCellExperiment::int_metadata(x)$imgData
}

# As in the real one, the images follow the sections: without images a column of no rows is left.
setMethod("colData<-", c("SpatialExperiment", "DataFrame"), function(x, ..., value) {
    sections <- unique(SummarizedExperiment::colData(x)$sample_id)
    if (is.null(value$sample_id)) {
        value$sample_id <- SummarizedExperiment::colData(x)$sample_id
    }
    at <- match(imgData(x)$sample_id, sections)
    SingleCellExperiment::int_metadata(x)$imgData$sample_id <- unique(value$sample_id)[at]
    BiocGenerics:::replaceSlots(x, colData = value, check = FALSE)
})
