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
