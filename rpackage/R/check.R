# Checks in R's words, before Python is started.

minSpots <- 50L

checkNoMore <- function(...) {
    names <- ...names()
    if (...length() > 0L) {
        names <- if (is.null(names)) "without a name" else quoted(names)
        stopM2ST("Found arguments that are not known here: ", names,
            ". See the help page of the function.")
    }
}

# R 4.0's ...names() does not exist and that of 4.1.0 to 4.1.2 differs: one that does not.
...names <- function() {
    names(eval.parent(quote(list(...))))
}

isWhole <- function(x, low) {
    is.numeric(x) && length(x) == 1L && isTRUE(x == round(x) & x >= low & x < 2^31)
}

# Finds it missing too where a method has handed on a `k` that it was not given itself.
checkHasK <- function(k) {
    if (missing(k)) {
        stopM2ST("Expected `k`, the number of domains, found none. Set one, such as k = 7.")
    }
}

# A matrix has no place for them.
checkHasCoords <- function(coords) {
    if (missing(coords)) {
        stopM2ST("Expected `coords`, the coordinates of the spots, found none. Pass a matrix ",
            "with a row for each spot: coords = ...")
    }
}

checkK <- function(k, n = Inf) {
    checkHasK(k)
    if (is.null(k)) {
        return(NULL)
    }
    if (!isWhole(k, 1)) {
        stopM2ST(
            "Expected `k`, the number of domains, to be one whole number above 0, found ",
            shorten(k), if (length(k) > 1L) {
                ". For several, call embedM2ST() once and then clusterM2ST(k = ...)"
            }, "."
        )
    }
    if (k >= n) {
        stopM2ST("Expected fewer domains than spots, found k = ", k, " and ", n, " spots.")
    }
    as.integer(k)
}

# The largest number that is tried where none is given.
mostChosen <- 12L

checkComponents <- function(n_pcs) {
    if (is.null(n_pcs)) {
        return(NULL)
    }
    if (!isWhole(n_pcs, 1)) {
        stopM2ST(
            "Expected `n_pcs` to be NULL or one whole number above 0, found ", shorten(n_pcs), "."
        )
    }
    as.integer(n_pcs)
}

checkSeed <- function(seed) {
    if (!isWhole(seed, 0)) {
        stopM2ST("Expected the seed to be one whole number from 0, found ", shorten(seed), ".")
    }
    as.integer(seed)
}

checkParams <- function(params) {
    if (!inherits(params, "m2stParams")) {
        stopM2ST("Expected `params` to be made by m2stParams() or paperParams(), found ",
            class(params)[1L], ".")
    }
    params
}

# Settings of m2ST's own method: the published one `lacks` something.
checkOwn <- function(params, lacks) {
    if (inherits(checkParams(params), "paperParams")) {
        stopM2ST("Expected settings made by m2stParams(), found those of paperParams(). The ",
            "published method ", lacks, ".")
    }
    params
}

# A folder for the fitted model, which knows genes by name.
checkSave <- function(save, input) {
    if (is.null(save)) {
        return(NULL)
    }
    checkPathName(save, "save")
    if (is.null(input$features)) {
        checkGenes(input)
    }
    path.expand(save)
}

# Whether the embeddings of the scales stay beside the domains.
checkKeep <- function(keep) {
    if (!is.null(keep) && !identical(keep, "scales")) {
        stopM2ST("Expected `keep` to be \"scales\" or NULL, found ", shorten(keep), ".")
    }
    !is.null(keep)
}

# The folder of a saved model.
checkModel <- function(model) {
    if (missing(model)) {
        stopM2ST("Expected `model`, the folder of a saved model, found none. Save one: ",
            "runM2ST(..., save = \"folder\").")
    }
    checkPathName(model, "model")
    if (!dir.exists(model)) {
        stopM2ST("Expected `model` to be the folder of a saved model, found no folder ",
            quoted(model), ". Save one: runM2ST(..., save = \"folder\").")
    }
    if (!file.exists(file.path(model, "model.json"))) {
        stopM2ST("Expected `model` to be the folder of a saved model, found another folder, ",
            quoted(model), ". Save one: runM2ST(..., save = \"folder\").")
    }
    path.expand(model)
}

checkPathName <- function(value, argument, kind = "folder") {
    if (!is.character(value) || length(value) != 1L || is.na(value) || !nzchar(value)) {
        stopM2ST("Expected `", argument, "` to be the name of one ", kind, ", found ",
            shorten(value), ".")
    }
}

# Numbers may measure something: they are no labels.
checkNames <- function(labels) {
    if (is.numeric(labels)) {
        stopM2ST("Expected names as labels, found numbers. If each number stands for a domain, ",
            "write factor(labels).")
    }
}

checkGenes <- function(input) {
    genes <- input$genes
    if (is.null(genes)) {
        stopM2ST("Expected names of genes as row names of ", input$what, ", found none. Set them.")
    }
    doubled <- sum(duplicated(genes))
    if (doubled) {
        stopM2ST("Expected unique names of genes in ", input$what, ", found ", doubled,
            " repeated. Make them unique: rownames(x) <- make.unique(rownames(x)).")
    }
}

checkSpots <- function(n) {
    if (n < minSpots) {
        stopM2ST(
            "Expected at least ", minSpots, " spots or cells, found ", n, ": too few to learn ",
            "spatial domains from. Pass the whole tissue section, not a subset of it."
        )
    }
}

# Expression as a dense matrix or a dgCMatrix of finite, non-negative numbers. Whether fractional
# values are counts is found in Python; other methods, which do not look, get `whole` numbers.
checkExpression <- function(x, what, whole = FALSE) {
    x <- asExpression(x, what)
    if (nrow(x) == 0L || ncol(x) == 0L) {
        stopM2ST("Expected genes in rows and spots in columns in ", what, ", found ",
            nrow(x), " x ", ncol(x), ".")
    }
    values <- if (is.matrix(x)) x else x@x
    if (length(values) > 2^29 - 1) {
        stopM2ST("Too many values in ", what, " for one call. Pass fewer genes.")
    }
    if (!all(is.finite(values))) {
        stopM2ST("Expected finite values in ", what, ", found missing or infinite ones. ",
            "Repair or remove the genes or spots concerned.")
    }
    if (length(values) && min(values) < 0) {
        stopM2ST("Expected counts in ", what, ", found values down to ", signif(min(values), 3L),
            ". Scaled data cannot be used: name the raw counts instead.")
    }
    if (whole && !all(values == round(values))) {
        stopM2ST("Expected raw counts (whole numbers) in ", what, ", found values such as ",
            signif(values[values != round(values)][1L], 4L), ". Name the raw counts; corrected ",
            "counts can be used after round().")
    }
    x
}

# A damaged sparse matrix ends the process in compiled code; its own check finds what is wrong.
checkSparse <- function(x, what) {
    if (is(x, "sparseMatrix")) {
        tryCatch(methods::validObject(x), error = function(e) {
            reason <- sub("^invalid class .* object: ", "", conditionMessage(e))
            stopM2ST("Expected a valid sparse matrix in ", what, ", found a damaged one (", reason,
                "). Read the data again, or build the matrix with Matrix::sparseMatrix().")
        })
    }
    x
}

asExpression <- function(x, what) {
    checkSparse(x, what)
    if (is.matrix(x)) {
        if (!is.numeric(x) && !is.logical(x)) {
            stopM2ST("Expected numbers in ", what, ", found ", typeof(x), ".")
        }
        return(x)
    }
    if (is(x, "dgCMatrix")) {
        return(x)
    }
    if (is(x, "Matrix")) {
        return(as(as(as(x, "dMatrix"), "generalMatrix"), "CsparseMatrix"))
    }
    # DelayedMatrix, BPCells and their like know how to become a dgCMatrix.
    tryCatch(
        as(x, "dgCMatrix"),
        error = function(e) {
            stopM2ST("Expected ", what, " to be a matrix, found ", class(x)[1L],
                ", which cannot be turned into a sparse matrix: ", conditionMessage(e))
        }
    )
}

# Coordinates as a numeric matrix in the order of the spots; matched by name where there are names.
checkCoords <- function(coords, names, n) {
    if (is.data.frame(coords) || is(coords, "DataFrame")) {
        coords <- frameAsCoords(as.data.frame(coords), names)
    }
    if (!is.matrix(coords) || !is.numeric(coords) || !ncol(coords) %in% 2:3) {
        stopM2ST("Expected coordinates as a numeric matrix with a row for each spot and 2 or 3 ",
            "columns, found ", class(coords)[1L],
            if (is.matrix(coords)) paste0(" of ", typeof(coords), ", ", ncol(coords), " columns"),
            ".")
    }
    if (nrow(coords) != n) {
        stopM2ST("Expected coordinates of ", n, " spots, found ", nrow(coords), " rows.")
    }
    coords <- matchRows(coords, names)
    valid <- rowSums(!is.finite(coords)) == 0L
    if (!any(valid)) {
        stopM2ST("Expected coordinates of the spots, found them all missing.")
    }
    at <- coords[valid, , drop = FALSE]
    if (nrow(at) > 1L && all(at == rep(at[1L, ], each = nrow(at)))) {
        stopM2ST("Expected coordinates that differ between spots, found all spots in one place. ",
            "Check that the coordinates were read.")
    }
    coords
}

# Numbers of a data frame such as GetTissueCoordinates() returns, in which a column of texts holds
# the names of the spots, and others than coordinates may stand beside them.
frameAsCoords <- function(frame, names) {
    rows <- if (.row_names_info(frame) > 0L) rownames(frame)
    texts <- vapply(frame, function(column) is.character(column) || is.factor(column), logical(1L))
    known <- c("cell", "cells", "cell_id", "barcode", "barcodes")
    for (column in names(frame)[texts]) {
        values <- as.character(frame[[column]])
        if (any(values %in% names) || (is.null(names) && tolower(column) %in% known)) {
            rows <- values
        }
    }
    numbers <- frame[vapply(frame, is.numeric, logical(1L))]
    usual <- usualColumns(names(numbers))
    if (length(usual) && !(ncol(numbers) == 3L && "z" %in% tolower(names(numbers)))) {
        numbers <- numbers[usual]
    }
    if (!ncol(numbers) %in% 2:3) {
        stopM2ST("Expected 2 or 3 columns of numbers in the data frame of coordinates, found ",
            ncol(numbers), " (columns: ", quoted(names(frame)), "). Choose those with the ",
            "coordinates.")
    }
    coords <- as.matrix(numbers)
    rownames(coords) <- rows
    coords
}

matchRows <- function(coords, names) {
    rows <- rownames(coords)
    named <- !is.null(rows) && !is.null(names)
    # Numbers of the rows of a data frame, not names of spots.
    if (named && all(grepl("^[0-9]+$", rows)) && !any(rows %in% names)) {
        rownames(coords) <- NULL
        return(coords)
    }
    if (!named || identical(rows, names) || anyDuplicated(names) || anyDuplicated(rows)) {
        return(coords)
    }
    others <- setdiff(rows, names)
    if (length(others)) {
        stopM2ST("Expected the row names of the coordinates to be the names of the spots, found ",
            length(others), " others, such as ", quoted(others[1L]),
            ". Rename them, or remove the row names if the order is right.")
    }
    coords[match(names, rows), , drop = FALSE]
}

# Sections as a factor in order of appearance; those of spots that take no part do not matter.
checkSample <- function(sample, valid, what = "section", argument = "sample_id") {
    sample <- checkEach(sample, length(valid), what, argument)
    if (is.null(sample)) {
        return(NULL)
    }
    missing <- sum(is.na(sample[valid]))
    if (missing) {
        stopM2ST("Expected `", argument, "` to give the ", what, " of every spot, found ", missing,
            " missing. Fill them in or remove these spots.")
    }
    factor(as.character(sample), levels = unique(as.character(sample[valid])))
}

# A value for each of n spots as a factor; NULL stays NULL.
checkEach <- function(values, n, what, argument) {
    if (is.null(values)) {
        return(NULL)
    }
    if (length(values) != n) {
        stopM2ST("Expected `", argument, "` to give the ", what, " of each of ", n,
            " spots, found ", length(values), ".")
    }
    factor(as.character(values))
}
