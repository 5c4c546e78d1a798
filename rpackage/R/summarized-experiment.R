# Reading from and writing to Bioconductor's containers.

# Names under which coordinates are usually kept, best first, in upper or lower case: of Visium,
# Xenium, MERSCOPE, CosMx, Giotto, Slide-seq, and of others.
coordinateColumns <- list(
    c("imagerow", "imagecol"), c("pxl_row_in_fullres", "pxl_col_in_fullres"),
    c("x_centroid", "y_centroid"), c("center_x", "center_y"), c("centroid_x", "centroid_y"),
    c("x_slide_mm", "y_slide_mm"), c("CenterX_global_px", "CenterY_global_px"),
    c("x_global_px", "y_global_px"), c("sdimx", "sdimy"), c("xcoord", "ycoord"),
    c("x_coord", "y_coord"), c("coord_x", "coord_y"), c("spatial_x", "spatial_y"),
    c("spatial_1", "spatial_2"), c("x_location", "y_location"),
    c("array_row", "array_col"), c("row", "col"), c("x", "y"), c("x", "y", "z")
)

# These start anew in each field of view, so that cells of different ones would lie over each other.
localColumns <- list(
    c("CenterX_local_px", "CenterY_local_px"), c("x_FOV_px", "y_FOV_px"),
    c("x_local_px", "y_local_px")
)

# The first usual columns as they are spelt in `present`; NULL if there are none.
usualColumns <- function(present, candidates = coordinateColumns) {
    for (candidate in candidates) {
        at <- match(tolower(candidate), tolower(present))
        at <- ifelse(candidate %in% present, match(candidate, present), at)
        if (!anyNA(at)) {
            return(present[at])
        }
    }
}

# Whether an embedding's name says that it holds coordinates: "spatial", "X_spatial", "coords", ...
namesPlaces <- function(name) {
    grepl("^(x_)?((spatial|tissue|cell)?[._]?(coord|coords|coordinates|positions?)|spatial|xy)_?$",
        name, ignore.case = TRUE)
}

openObject.SummarizedExperiment <- function(
    x, coords = NULL, sample_id = NULL, assay.type = "counts", dimred = NULL, subset.row = NULL,
    name = "m2st", batch_id = NULL, cell_types = NULL
) {
    checkName(name)
    input <- c(expressionSE(x, assay.type, dimred, subset.row), placeSE(x, coords, sample_id))
    columns <- SummarizedExperiment::colData(x)
    input$batch <- namedColumn(columns, batch_id, "colData(x)", "batch_id")
    input$types <- namedColumn(columns, cell_types, "colData(x)", "cell_types")
    checkNameSE(x, name)
    list(input = input, write = function(result) writeSE(x, result, name))
}

openObject.SpatialExperiment <- function(x, coords = NULL, ...) {
    openObject.SummarizedExperiment(x, if (is.null(coords)) coordsSPE(x) else coords, ...)
}

expressionSE <- function(x, assay.type, dimred, subset.row) {
    if (!is.null(dimred)) {
        return(list(features = reducedSE(x, dimred), what = paste0("reducedDim '", dimred, "'")))
    }
    present <- SummarizedExperiment::assayNames(x)
    if (length(SummarizedExperiment::assays(x, withDimnames = FALSE)) == 0L) {
        stopM2ST("The object has no expression values: its list of assays is empty. Load the ",
            "object with its counts", otherwiseReduced(x), ".")
    }
    if (!isTRUE(assay.type %in% present)) {
        stopM2ST("Expected an assay ", quoted(assay.type), ", found ", quoted(present),
            if (length(present) == 1L) {
                paste0(". If it holds raw counts, pass assay.type = \"", present, "\"")
            } else {
                ". Name the one with raw counts: assay.type = ..."
            }, otherwiseReduced(x), ".")
    }
    counts <- SummarizedExperiment::assay(x, assay.type, withDimnames = FALSE)
    what <- paste0("assay '", assay.type, "'")
    checkSparse(counts, what)
    rows <- SummarizedExperiment::rowData(x)
    genes <- rownames(x)
    if (is.null(subset.row)) {
        subset.row <- geneRows(rows, what, "subset.row")
    }
    if (!is.null(subset.row)) {
        rownames(counts) <- genes
        counts <- chooseGenes(counts, subset.row)
        genes <- rownames(counts)
    }
    list(counts = counts, what = what, genes = genes, rows = rowsOf(rows, genes, rownames(x)))
}

# Columns that tell of some genes, as a list.
rowsOf <- function(rows, genes, all) {
    if (!is.null(genes)) as.list(rows[match(genes, all), , drop = FALSE])
}

# Rows of genes, where the rows are of several types by 10x's names of these; else NULL.
geneRows <- function(rows, what, argument) {
    for (column in as.list(rows)) {
        types <- if (is.character(column) || is.factor(column)) as.character(column)
        genes <- which(types == "Gene Expression")
        if (length(genes) && length(genes) < length(types)) {
            others <- unique(types[-genes])
            say("Using the ", length(genes), " rows of type 'Gene Expression' of ", what, ", not ",
                "the ", length(types) - length(genes), " others (", quoted(others), "). Choose ",
                "rows with `", argument, "`.")
            return(genes)
        }
    }
}

otherwiseReduced <- function(x) {
    reduced <- if (is(x, "SingleCellExperiment")) SingleCellExperiment::reducedDimNames(x)
    reduced <- reduced[!grepl("^M2ST", reduced) & !namesPlaces(reduced)]
    if (length(reduced)) {
        paste0(", or use ready features (", quoted(reduced), ") with dimred = \"", reduced[1L],
            "\"")
    }
}

reducedSE <- function(x, dimred) {
    present <- if (is(x, "SingleCellExperiment")) SingleCellExperiment::reducedDimNames(x)
    if (!isTRUE(dimred %in% present)) {
        stopM2ST("Expected a reducedDim ", quoted(dimred), ", found ", quoted(present), ". To ",
            "use the counts, leave `dimred` out.")
    }
    values <- as.matrix(SingleCellExperiment::reducedDim(x, dimred, withDimnames = FALSE))
    if (namesPlaces(dimred) && ncol(values) <= 3L) {
        stopPlaces(paste0("reducedDim '", dimred, "'"))
    }
    values
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
    columns <- SummarizedExperiment::colData(x)
    list(
        coords = coordsSE(x, coords), sample = sampleSE(x, sample_id), names = colnames(x),
        inside = insideTissue(columns), candidates = sectionColumns(columns),
        words = wordsOf$SummarizedExperiment
    )
}

coordsSE <- function(x, coords) {
    if (isTable(coords)) {
        return(coords)
    }
    columns <- SummarizedExperiment::colData(x)
    if (is.null(coords) && is(x, "SingleCellExperiment")) {
        for (name in Filter(namesPlaces, SingleCellExperiment::reducedDimNames(x))) {
            values <- as.matrix(SingleCellExperiment::reducedDim(x, name, withDimnames = FALSE))
            if (ncol(values) %in% 2:3) {
                say("Coordinates: reducedDim '", name, "'.")
                return(values)
            }
        }
    }
    if (is.null(coords)) {
        coords <- findColumns(names(columns), "colData(x)")
    }
    columnsAsCoords(columns, coords, "colData(x)")
}

isTable <- function(coords) {
    is.matrix(coords) || is.data.frame(coords) || is(coords, "DataFrame")
}

findColumns <- function(present, where) {
    found <- usualColumns(present)
    if (length(found)) {
        say("Coordinates: columns ", quoted(found), " of ", where, ".")
        return(found)
    }
    local <- usualColumns(present, localColumns)
    if (length(local)) {
        stopM2ST("Found no coordinates: ", quoted(local), " of ", where, " start anew in each ",
            "field of view. Add the global coordinates, and name them: coords = ...")
    }
    stopM2ST("Found no coordinates: ", where, " has none of the usual columns (",
        paste(vapply(coordinateColumns, paste, character(1L), collapse = "/"), collapse = ", "),
        "). Name the columns, or give a matrix: coords = ...")
}

# Letters of the names of columns that tell sections or fields of view apart, as Python has them.
sectionNames <- paste0(
    "(animal|array|batch|capturearea|core|dataset|donor|image|individual|library|mouse|origident",
    "|patient|puck|region|replicate|roi|runtissue|sample|section|slice|slide|specimen|subject",
    "|tissuesection)(id|key|name|no|number)?|(field|fieldofview|fov)(id|name|no|number)?"
)

# Columns that are the section by their names, where they tell spots apart.
sectionColumns <- function(columns) {
    plain <- gsub("[^a-z0-9]", "", tolower(names(columns)))
    columns <- as.list(columns[grepl(paste0("^(", sectionNames, ")$"), plain)])
    Filter(function(values) {
        labels <- is.factor(values) || is.character(values) || is.numeric(values)
        n <- if (labels) length(unique(stats::na.omit(values))) else 0L
        n > 1L && n <= length(values) / 10
    }, columns)
}

columnsAsCoords <- function(columns, coords, where) {
    if (!is.character(coords) || !all(coords %in% names(columns))) {
        stopM2ST("Expected `coords` to be a matrix or names of columns of ", where, ", found ",
            shorten(coords), ". Columns: ", quoted(names(columns)), ".")
    }
    found <- lapply(coords, function(column) columnAsNumbers(columns[[column]], column, where))
    matrix(unlist(found), ncol = length(coords), dimnames = list(NULL, coords))
}

columnAsNumbers <- function(values, name, where) {
    numbers <- suppressWarnings(as.numeric(as.character(values)))
    bad <- which(is.na(numbers) & !is.na(values) & !values %in% c("", "NA", "NaN"))
    if (length(bad)) {
        stopM2ST("Expected coordinates in the column '", name, "' of ", where, ", found ",
            quoted(values[bad[1L]]), ". Name the columns with the coordinates: coords = ...")
    }
    numbers
}

coordsSPE <- function(x) {
    coords <- SpatialExperiment::spatialCoords(x)
    if (ncol(coords) > 0L) {
        rownames(coords) <- NULL
        return(coords)
    }
    usable <- usualColumns(names(SummarizedExperiment::colData(x)))
    advice <- if (length(usable)) {
        paste0("colData(x) has ", quoted(usable), ": if these are the positions, pass ",
            "coords = c(", paste0("\"", usable, "\"", collapse = ", "), ")")
    } else {
        "Give them: coords = a matrix with a row for each spot"
    }
    stopM2ST("The object has no coordinates: spatialCoords(x) has no columns. ", advice, ".")
}

sampleSE <- function(x, sample_id) {
    columns <- SummarizedExperiment::colData(x)
    if (is.null(sample_id) && "sample_id" %in% names(columns)) {
        sample_id <- "sample_id"
    }
    sampleColumn(columns, sample_id, "colData(x)")
}

# Sections by the column that names them; NULL where there is one section only.
sampleColumn <- function(columns, sample_id, where) {
    oneOrMore(namedColumn(columns, sample_id, where, "sample_id"))
}

# Texts of the column that an argument names; NULL where it names none.
namedColumn <- function(columns, name, where, argument) {
    if (is.null(name)) {
        return(NULL)
    }
    if (!(is.character(name) && length(name) == 1L && name %in% names(columns))) {
        stopM2ST("Expected `", argument, "` to name a column of ", where, ", found ",
            shorten(name), ". Columns: ", quoted(names(columns)), ".")
    }
    as.character(chosenColumn(columns, name, where))
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
    values <- tolower(trimws(as.character(inside)))
    no <- values %in% c("0", "0.0", "false", "f", "no")
    known <- no | is.na(values) | values %in% c("1", "1.0", "true", "t", "yes", "", "na")
    if (!all(known)) {
        stopM2ST("Expected TRUE and FALSE, or 1 and 0, in the column 'in_tissue', found ",
            quoted(inside[!known][1L]), ". Recode or remove the column.")
    }
    !no
}

# Names of the embeddings, and whether they and the record can be written.
reducedName <- function(name, suffix = "") {
    paste0(toupper(name), suffix)
}

checkNameSE <- function(x, name) {
    records <- S4Vectors::metadata(x)
    present <- if (is(x, "SingleCellExperiment")) SingleCellExperiment::reducedDimNames(x)
    twins <- setdiff(names(records)[toupper(names(records)) == toupper(name)], name)
    if (length(twins) && any(startsWith(present, reducedName(name)))) {
        stopM2ST("Expected `name` to differ from ", quoted(twins), " by more than capitals, ",
            "found '", name, "': reducedDims would have the same names. Choose another name.")
    }
    checkNotTaken(
        name, intersect(reducedName(name), present), names(SummarizedExperiment::colData(x)),
        records[[name]], "metadata(x)"
    )
}

writeSE <- function(x, result, name) {
    if (!is(x, "SingleCellExperiment")) {
        requirePackage("SingleCellExperiment", "to hold embeddings")
        say("A SummarizedExperiment cannot hold embeddings: returning a SingleCellExperiment.")
        x <- as(x, "SingleCellExperiment")
    }
    for (old in staleNames(SingleCellExperiment::reducedDimNames(x), reducedName(name), "_")) {
        SingleCellExperiment::reducedDim(x, old) <- NULL
    }
    for (scale in names(result$scales)) {
        x <- setReduced(x, reducedName(name, paste0("_", scale)), result$scales[[scale]])
    }
    writeClusterSE(x, result, name)
}

writeClusterSE <- function(x, result, name) {
    columns <- SummarizedExperiment::colData(x)
    domain <- domainName(name)
    if (domain %in% names(columns)) {
        say("Overwriting the column '", domain, "'.")
    }
    columns[[domain]] <- result$domain
    columns[[confidenceName(name)]] <- result$confidence
    columns[[secondName(name)]] <- result$second_domain
    SummarizedExperiment::colData(x) <- columns
    if (!is.null(result$embedding)) {
        x <- setReduced(x, reducedName(name), result$embedding)
    }
    S4Vectors::metadata(x)[[name]] <- result$record
    x
}

setReduced <- function(x, name, matrix) {
    dimnames(matrix) <- list(colnames(x), paste0(name, "_", seq_len(ncol(matrix))))
    SingleCellExperiment::reducedDim(x, name) <- matrix
    x
}

scalesSE <- function(x, name) {
    scalesIn(SingleCellExperiment::reducedDimNames(x), reducedName(name, "_"), function(key) {
        SingleCellExperiment::reducedDim(x, key, withDimnames = FALSE)
    })
}

# Embeddings that are stored under a prefix and scale1, scale2, ..., and views if there are any.
scalesIn <- function(present, prefix, get) {
    names <- sprintf("scale%d", seq_along(present))
    names <- names[cumprod(paste0(prefix, names) %in% present) == 1]
    if (length(names)) {
        names <- c(names, viewNames[paste0(prefix, viewNames) %in% present])
    }
    sapply(names, function(name) unname(get(paste0(prefix, name))), simplify = FALSE)
}
