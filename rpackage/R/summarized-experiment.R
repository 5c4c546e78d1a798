# Reading from and writing to Bioconductor's containers.

# Names under which coordinates are usually kept, best first.
coordinateColumns <- list(
    c("imagerow", "imagecol"), c("pxl_row_in_fullres", "pxl_col_in_fullres"),
    c("array_row", "array_col"), c("row", "col"), c("x", "y"), c("x", "y", "z")
)

expressionSE <- function(x, assay.type, dimred, subset.row) {
    if (!is.null(dimred)) {
        return(list(features = reducedSE(x, dimred), what = paste0("reducedDim '", dimred, "'")))
    }
    present <- SummarizedExperiment::assayNames(x)
    if (length(SummarizedExperiment::assays(x, withDimnames = FALSE)) == 0L) {
        stopM2ST("The object has no expression values: its list of assays is empty. Load the ",
            "object with its counts", otherwiseReduced(x), ".")
    }
    if (!assay.type %in% present) {
        stopM2ST("Expected an assay '", assay.type, "', found ", quoted(present),
            ". Name the one with raw counts: assay.type = ...", otherwiseReduced(x), ".")
    }
    counts <- SummarizedExperiment::assay(x, assay.type, withDimnames = FALSE)
    if (!is.null(subset.row)) {
        rownames(counts) <- rownames(x)
        counts <- chooseGenes(counts, subset.row)
    }
    list(counts = counts, what = paste0("assay '", assay.type, "'"))
}

otherwiseReduced <- function(x) {
    reduced <- if (is(x, "SingleCellExperiment")) SingleCellExperiment::reducedDimNames(x)
    reduced <- grep("^M2ST", reduced, value = TRUE, invert = TRUE)
    if (length(reduced)) {
        paste0(", or use ready features (", quoted(reduced), ") with dimred = \"", reduced[1L],
            "\"")
    }
}

reducedSE <- function(x, dimred) {
    present <- if (is(x, "SingleCellExperiment")) SingleCellExperiment::reducedDimNames(x)
    if (!dimred %in% present) {
        stopM2ST("Expected a reducedDim '", dimred, "', found ", quoted(present), ". To ",
            "use the counts, leave `dimred` out.")
    }
    as.matrix(SingleCellExperiment::reducedDim(x, dimred, withDimnames = FALSE))
}

chooseGenes <- function(counts, genes) {
    if (is.character(genes) && !all(genes %in% rownames(counts))) {
        absent <- setdiff(genes, rownames(counts))
        stopM2ST("Expected genes that are in the object, found ", length(absent),
            " others, such as ", quoted(absent[1L]), ".")
    }
    counts[genes, , drop = FALSE]
}

placeSE <- function(x, coords, sample_id) {
    list(
        coords = coordsSE(x, coords), sample = sampleSE(x, sample_id), names = colnames(x),
        inside = insideTissue(SummarizedExperiment::colData(x))
    )
}

coordsSE <- function(x, coords) {
    if (is.matrix(coords) || is.data.frame(coords)) {
        return(coords)
    }
    columns <- SummarizedExperiment::colData(x)
    if (is.null(coords) && is(x, "SingleCellExperiment") &&
            "spatial" %in% SingleCellExperiment::reducedDimNames(x)) {
        return(as.matrix(SingleCellExperiment::reducedDim(x, "spatial", withDimnames = FALSE)))
    }
    if (is.null(coords)) {
        coords <- findColumns(names(columns), "colData(x)")
    }
    columnsAsCoords(columns, coords, "colData(x)")
}

findColumns <- function(present, where) {
    for (candidate in coordinateColumns) {
        if (all(candidate %in% present)) {
            say("Coordinates: columns ", quoted(candidate), " of ", where, ".")
            return(candidate)
        }
    }
    stopM2ST("Found no coordinates: ", where, " has none of the usual columns (",
        paste(vapply(coordinateColumns, paste, character(1L), collapse = "/"), collapse = ", "),
        "). Name the columns, or give a matrix: coords = ...")
}

columnsAsCoords <- function(columns, coords, where) {
    if (!is.character(coords) || !all(coords %in% names(columns))) {
        stopM2ST("Expected `coords` to be a matrix or names of columns of ", where, ", found ",
            shorten(coords), ". Columns: ", quoted(names(columns)), ".")
    }
    found <- lapply(coords, function(column) as.numeric(as.character(columns[[column]])))
    matrix(unlist(found), ncol = length(coords), dimnames = list(NULL, coords))
}

coordsSPE <- function(x) {
    coords <- SpatialExperiment::spatialCoords(x)
    if (ncol(coords) > 0L) {
        rownames(coords) <- NULL
        return(coords)
    }
    present <- names(SummarizedExperiment::colData(x))
    usable <- Filter(function(candidate) all(candidate %in% present), coordinateColumns)
    advice <- if (length(usable)) {
        paste0("colData(x) has ", quoted(usable[[1L]]), ": if these are the positions, pass ",
            "coords = c(", paste0("\"", usable[[1L]], "\"", collapse = ", "), ")")
    } else {
        "Give them: coords = a matrix with a row for each spot"
    }
    stopM2ST("The object has no coordinates: spatialCoords(x) has no columns. ", advice, ".")
}

sampleSE <- function(x, sample_id) {
    columns <- SummarizedExperiment::colData(x)
    if (is.null(sample_id)) {
        sample_id <- intersect("sample_id", names(columns))
    } else if (!sample_id %in% names(columns)) {
        stopM2ST("Expected a column '", sample_id, "' in colData(x), found ",
            quoted(names(columns)), ".")
    }
    if (length(sample_id)) oneOrMore(columns[[sample_id]])
}

# A single section needs no name.
oneOrMore <- function(sample) {
    if (length(unique(sample)) > 1L) sample
}

# Only an explicit no puts a spot outside.
insideTissue <- function(columns) {
    inside <- columns[["in_tissue"]]
    if (is.null(inside)) {
        return(rep(TRUE, nrow(columns)))
    }
    !(as.character(inside) %in% c("0", "FALSE"))
}

writeSE <- function(x, result, name, label) {
    if (!is(x, "SingleCellExperiment")) {
        requirePackage("SingleCellExperiment", "to hold embeddings")
        say("A SummarizedExperiment cannot hold embeddings: returning a SingleCellExperiment.")
        x <- as(x, "SingleCellExperiment")
    }
    stale <- grep(paste0("^", name, "(_scale[0-9]+|_k[0-9]+)?$"),
        SingleCellExperiment::reducedDimNames(x), value = TRUE)
    for (old in stale) {
        SingleCellExperiment::reducedDim(x, old) <- NULL
    }
    columns <- SummarizedExperiment::colData(x)
    SummarizedExperiment::colData(x) <- columns[!staleColumns(names(columns), label)]
    for (m in seq_along(result$scales)) {
        x <- setReduced(x, paste0(name, "_scale", m), result$scales[[m]])
    }
    S4Vectors::metadata(x)$m2st <- result$record[setdiff(names(result$record), "cluster")]
    writeClusterSE(x, result, name, label, "")
}

writeClusterSE <- function(x, result, name, label, suffix) {
    columns <- SummarizedExperiment::colData(x)
    confidence <- confidenceName(label, suffix)
    label <- paste0(label, suffix)
    if (label %in% names(columns)) {
        say("Overwriting the column '", label, "'.")
    }
    columns[[label]] <- result$domain
    columns[[confidence]] <- result$confidence
    SummarizedExperiment::colData(x) <- columns
    if (!is.null(result$embedding)) {
        x <- setReduced(x, name, result$embedding)
    }
    record <- S4Vectors::metadata(x)$m2st
    S4Vectors::metadata(x)$m2st <- mergeRecord(record, result$record, suffix)
    x
}

confidenceName <- function(label, suffix) {
    paste0(sub("_domain$", "", label), "_confidence", suffix)
}

# Which columns hold results for several numbers of domains.
staleColumns <- function(present, label) {
    grepl(paste0("^(", label, "|", confidenceName(label, ""), ")_k[0-9]+$"), present)
}

# The record with the clustering of a result, under a name of its own if there are several.
mergeRecord <- function(record, other, suffix = "") {
    record[[paste0("cluster", suffix)]] <- other$cluster
    record
}

setReduced <- function(x, name, matrix) {
    dimnames(matrix) <- list(colnames(x), paste0(name, "_", seq_len(ncol(matrix))))
    SingleCellExperiment::reducedDim(x, name) <- matrix
    x
}

scalesSE <- function(x, name) {
    numbered(SingleCellExperiment::reducedDimNames(x), paste0(name, "_scale"), function(key) {
        SingleCellExperiment::reducedDim(x, key, withDimnames = FALSE)
    })
}

# Embeddings that are stored under prefix1, prefix2, ...
numbered <- function(present, prefix, get) {
    found <- list()
    while ((key <- paste0(prefix, length(found) + 1L)) %in% present) {
        found[[length(found) + 1L]] <- unname(get(key))
    }
    if (length(found) == 0L) {
        stopM2ST("Found no embeddings of m2ST in the object. Call embedM2ST() or runM2ST() first.")
    }
    found
}
