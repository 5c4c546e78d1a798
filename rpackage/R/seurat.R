# Reading from and writing to Seurat objects of versions 3 to 5.

seurat5 <- function() {
    packageVersion("SeuratObject") >= "5.0.0"
}

# Functions that only one of the generations has.
fromSeuratObject <- function(name) {
    getExportedValue("SeuratObject", name)
}

# Classes of Seurat (SCTAssay, VisiumV1, ...) must be known before anything looks at the object:
# R would otherwise load Seurat in the middle of a dispatch, where it fails.
loadClasses <- function(object) {
    parts <- c(methods::slot(object, "assays"), methods::slot(object, "images"))
    packages <- lapply(parts, function(part) attr(class(part), "package"))
    for (package in unique(unlist(packages))) {
        requirePackage(package, "to read this object")
    }
}

openObject.Seurat <- function(
    x, coords = NULL, sample_id = NULL, image = NULL, assay = NULL, layer = "counts",
    reduction = NULL, features = NULL, name = "m2st", set.ident = TRUE,
    batch_id = NULL, cell_types = NULL
) {
    loadClasses(x)
    checkNameSeurat(x, name)
    assay <- resolveAssay(x, assay)
    input <- c(
        expressionSeurat(x, assay, layer, features, reduction),
        placeSeurat(x, image, coords, sample_id)
    )
    input$batch <- namedColumn(x[[]], batch_id, "meta.data", "batch_id")
    input$types <- namedColumn(x[[]], cell_types, "meta.data", "cell_types")
    write <- function(result) writeSeurat(x, result, name, set.ident, assay)
    list(input = input, write = write, assay = assay)
}

# Assays of raw counts by their usual names, best first, as Python's converters have them.
rawAssays <- c("Spatial", "RNA", "Xenium", "Vizgen", "Nanostring")

# The assay to use: of an SCTAssay that is only the default, the one it was made from; of a sketch,
# the one that holds more of the cells.
resolveAssay <- function(object, assay) {
    present <- SeuratObject::Assays(object)
    if (!is.null(assay)) {
        if (!isTRUE(assay %in% present)) {
            stopM2ST("Expected an assay ", quoted(assay), ", found ", quoted(present), ".")
        }
        return(assay)
    }
    default <- wholeAssay(object, SeuratObject::DefaultAssay(object))
    if (!inherits(object[[default]], "SCTAssay")) {
        return(default)
    }
    origin <- SeuratObject::DefaultAssay(object[[default]])
    raw <- setdiff(c(origin, rawAssays), default)
    raw <- intersect(raw, present)
    if (length(raw) == 0L) {
        stopM2ST("The default assay '", default, "' holds counts corrected by SCTransform, and ",
            "the raw assay they were made from", if (length(origin)) paste0(" (", quoted(origin),
            ")"), " is not in the object. Load the object with the raw assay, or pass assay = \"",
            default, "\" to use the corrected counts.")
    }
    say("The default assay '", default, "' holds counts corrected by SCTransform: using the raw ",
        "assay '", raw[1L], "'. Pass assay = \"", default, "\" for the corrected ones.")
    raw[1L]
}

# SketchData() makes a sample of the cells the default assay: its graph would be full of holes.
wholeAssay <- function(object, default) {
    present <- setdiff(SeuratObject::Assays(object), default)
    held <- ncol(object[[default]])
    cells <- length(colnames(object))
    sizes <- vapply(present, function(name) as.integer(ncol(object[[name]])), integer(1L))
    if (held == cells || max(0L, sizes) <= held) {
        return(default)
    }
    fuller <- present[which.max(sizes)]
    say("The default assay '", default, "' holds ", held, " of ", cells, " cells: using '", fuller,
        "', which holds ", max(sizes), ". Pass assay = \"", default, "\" for these cells only.")
    fuller
}

# Expression with a column for each cell of the object; `measured` tells which the assay has.
expressionSeurat <- function(object, assay, layer, features, reduction) {
    cells <- colnames(object)
    if (!is.null(reduction)) {
        if (!isTRUE(reduction %in% SeuratObject::Reductions(object))) {
            stopM2ST("Expected a reduction ", quoted(reduction), ", found ",
                quoted(SeuratObject::Reductions(object)), ". To use the counts, leave ",
                "`reduction` out.")
        }
        values <- SeuratObject::Embeddings(object, reduction)
        what <- paste0("reduction '", reduction, "'")
        if (namesPlaces(reduction) && ncol(values) <= 3L) {
            stopPlaces(what)
        }
        return(list(
            features = values[match(cells, rownames(values)), , drop = FALSE],
            what = what, measured = cells %in% rownames(values)
        ))
    }
    what <- paste0("layer '", layer, "' of assay '", assay, "'")
    counts <- checkSparse(countsSeurat(object[[assay]], assay, layer), what)
    all <- rownames(counts)
    rows <- featureTypes(object[[assay]], all)
    if (is.null(features)) {
        features <- geneRows(rows, what, "features")
    }
    if (!is.null(features)) {
        counts <- chooseGenes(counts, features)
    }
    found <- match(cells, colnames(counts))
    measured <- !is.na(found)
    found[!measured] <- 1L
    if (!identical(found, seq_len(ncol(counts)))) {
        counts <- counts[, found, drop = FALSE]
    }
    genes <- rownames(counts)
    list(
        counts = counts, what = what, measured = measured, genes = genes,
        rows = if (!is.null(rows)) rowsOf(rows, genes, all)
    )
}

# Values of a layer; NULL where there is none.
layerSeurat <- function(object, assay, layer) {
    tryCatch(
        suppressWarnings(countsSeurat(object[[assay]], assay, layer)),
        error = function(e) NULL
    )
}

# What the assay knows of the rows.
featureTypes <- function(assay, rows) {
    known <- tryCatch(assay[[]], error = function(e) NULL)
    if (is.data.frame(known) && identical(rownames(known), rows)) known
}

countsSeurat <- function(assay, name, layer) {
    counts <- if (seurat5()) {
        countsSeurat5(assay, layer)
    } else {
        SeuratObject::GetAssayData(assay, slot = layer)
    }
    if (is.null(counts) || nrow(counts) == 0L || ncol(counts) == 0L) {
        stopM2ST("The assay '", name, "' has no '", layer, "'. Name an assay with raw counts, ",
            "assay = ..., or the layer that holds them, layer = ...")
    }
    counts
}

# An Assay5 may keep the counts of each sample in a layer of its own: counts.1, counts.2, ...
countsSeurat5 <- function(assay, layer) {
    layers <- fromSeuratObject("Layers")(assay)
    split <- layers[startsWith(layers, paste0(layer, "."))]
    if (!layer %in% layers && length(split)) {
        assay <- fromSeuratObject("JoinLayers")(assay, layers = layer)
        layers <- fromSeuratObject("Layers")(assay)
    }
    if (layer %in% layers) {
        fromSeuratObject("LayerData")(assay, layer = layer)
    }
}

# Coordinates, section, and whether inside the tissue, of every cell.
placeSeurat <- function(object, image, coords, sample_id) {
    cells <- colnames(object)
    images <- imagesSeurat(object, image)
    place <- list(
        names = cells, inside = rep(TRUE, length(cells)), chosen = !is.null(image),
        candidates = sectionColumns(object[[]]), words = wordsOf$Seurat
    )
    if (is.null(coords) && length(images) == 0L) {
        coords <- reducedPlace(object)
    }
    if (isTable(coords)) {
        place$coords <- coords
    } else if (is.null(coords) && length(images)) {
        found <- placeImages(object, images)
        place$chosen <- place$chosen || found$strange
        place[c("coords", "inside", "sample")] <- found[c("coords", "inside", "sample")]
    } else {
        if (is.null(coords)) {
            coords <- findColumns(names(object[[]]), "meta.data")
        }
        place$coords <- columnsAsCoords(object[[]], coords, "meta.data")
        place$inside <- insideTissue(object[[]])
    }
    if (!is.null(sample_id)) {
        place$sample <- sampleColumn(object[[]], sample_id, "meta.data")
    }
    place
}

# Coordinates that a converted object keeps as a reduction, for all cells; NULL if there are none.
reducedPlace <- function(object) {
    for (name in Filter(namesPlaces, SeuratObject::Reductions(object))) {
        values <- SeuratObject::Embeddings(object, name)
        if (ncol(values) %in% 2:3) {
            say("Coordinates: reduction '", name, "'.")
            values <- values[match(colnames(object), rownames(values)), , drop = FALSE]
            rownames(values) <- NULL
            return(values)
        }
    }
}

# Coordinates as (right, down) and section of every cell, and the images that they are from.
drawnPlaceSeurat <- function(object, image, coords) {
    place <- placeSeurat(object, image, coords, NULL)
    images <- if (is.null(coords)) imagesSeurat(object, image)
    at <- checkCoords(place$coords, colnames(object), ncol(object))
    at <- if (length(images)) orientImages(object, images, at, place$sample) else orientColumns(at)
    list(coords = at, sample = place$sample, images = images)
}

imagesSeurat <- function(object, image) {
    present <- SeuratObject::Images(object)
    if (is.null(image)) {
        return(present)
    }
    if (!all(image %in% present)) {
        stopM2ST("Expected `image` to name images of the object, found ",
            quoted(setdiff(image, present)), ". Images: ", quoted(present), ".")
    }
    image
}

# Each image keeps its own frame and is a section; a cell of two images has no single place.
placeImages <- function(object, images) {
    cells <- colnames(object)
    coords <- matrix(NA_real_, length(cells), 2L)
    inside <- rep(TRUE, length(cells))
    sample <- rep(NA_character_, length(cells))
    strange <- theirs <- NULL
    for (image in images) {
        found <- imageCoords(object[[image]], image)
        at <- match(rownames(found), cells)
        if (all(is.na(at))) {
            strange <- c(strange, image)
            theirs <- rownames(found)[1L]
            next
        }
        found <- found[!is.na(at), , drop = FALSE]
        at <- at[!is.na(at)]
        twice <- sum(!is.na(sample[at]))
        if (twice) {
            stopM2ST("Expected each cell in one image, found ", twice, " cells of image '", image,
                "' in another one too. Choose with image = \"", image, "\".")
        }
        coords[at, ] <- as.matrix(found[, c("x", "y")])
        inside[at] <- found$inside
        sample[at] <- image
    }
    if (length(strange)) {
        text <- paste0(
            if (length(strange) > 1L) "Images " else "Image ", quoted(strange), ": found no cell ",
            "of the object; its names are like '", theirs, "', the object's like '",
            cells[utils::head(c(which(is.na(sample)), 1L), 1L)], "'. Give both the same names, ",
            "for example with RenameCells()."
        )
        if (length(strange) == length(images)) {
            stopM2ST(text)
        }
        warning(text, call. = FALSE)
    }
    list(
        coords = coords, inside = inside, strange = length(strange) > 0L,
        sample = if (length(images) > 1L) sample
    )
}

# Data frame of x, y and inside, with cells as row names, in the image's own full resolution.
imageCoords <- function(image, name) {
    if (inherits(image, "VisiumV1")) {
        found <- SeuratObject::GetTissueCoordinates(image, scale = NULL, cols = NULL)
        return(data.frame(
            x = found$imagecol, y = found$imagerow,
            inside = if (is.null(found$tissue)) TRUE else found$tissue != 0,
            row.names = rownames(found)
        ))
    }
    found <- if (inherits(image, "FOV")) {
        fovCoords(image, name)
    } else {
        SeuratObject::GetTissueCoordinates(image)
    }
    if (!all(c("x", "y") %in% names(found))) {
        stopM2ST("Could not read coordinates of image '", name, "' (", class(image)[1L],
            "): found columns ", quoted(names(found)), ". Give them: coords = ...")
    }
    cells <- if (is.null(found$cell)) rownames(found) else found$cell
    data.frame(x = found$x, y = found$y, inside = TRUE, row.names = as.character(cells))
}

# The default boundary of a FOV may be outlines, with many rows for a cell: take the centres.
fovCoords <- function(image, name) {
    boundaries <- SeuratObject::Boundaries(image)
    centroids <- Filter(
        function(boundary) inherits(image[[boundary]], "Centroids"),
        boundaries
    )
    if (length(centroids)) {
        return(SeuratObject::GetTissueCoordinates(image[[centroids[1L]]], full = FALSE))
    }
    outline <- SeuratObject::GetTissueCoordinates(image[[boundaries[1L]]], full = TRUE)
    centre <- stats::aggregate(outline[c("x", "y")], outline["cell"], mean)
    say("Image '", name, "' has outlines only: using the mean of each.")
    centre
}

writeSeurat <- function(object, result, name, set.ident, assay) {
    for (old in intersect(staleReductions(object, name), SeuratObject::Reductions(object))) {
        object[[old]] <- NULL
    }
    for (scale in names(result$scales)) {
        object <- setReduction(
            object, paste0(name, ".", scale), keyOf(name, scale), result$scales[[scale]], assay
        )
    }
    writeClusterSeurat(object, result, name, set.ident, assay = assay)
}

staleReductions <- function(object, name) {
    staleNames(as.character(SeuratObject::Reductions(object)), name, ".")
}

# What a Seurat object calls by one name only, and the keys of what will be written.
checkNameSeurat <- function(object, name) {
    checkName(name)
    reductions <- as.character(SeuratObject::Reductions(object))
    others <- setdiff(names(object), reductions)
    taken <- c(intersect(c(domainName(name), name), others), intersect(domainName(name), reductions))
    if (length(taken)) {
        stopM2ST("Expected `name` to leave the names of assays, reductions, graphs and images, ",
            "found ", quoted(taken[1L]), ". Choose another name.")
    }
    if (grepl("[.]scale[0-9]+$", name)) {
        stopM2ST("Expected `name` without '.scale' and a number at the end, as embeddings have ",
            "them, found '", name, "'. Choose another name.")
    }
    columns <- names(object[[]])
    record <- SeuratObject::Misc(object, slot = name)
    checkNotTaken(name, intersect(name, reductions), columns, record, "Misc(x)")
    for (reduction in setdiff(reductions, staleReductions(object, name))) {
        if (SeuratObject::Key(object[[reduction]]) == keyOf(name)) {
            stopM2ST("Expected `name` to give a new key, found '",
                SeuratObject::Key(object[[reduction]]), "', which the reduction '", reduction,
                "' has. Choose another name.")
        }
    }
}

# The call for the log of commands, without what is large in it; a result that is not called as
# usual has an entry of its own.
logRun <- function(object, call, arguments, assay) {
    call[] <- lapply(call, function(part) {
        if (is.language(part) || (is.atomic(part) && length(part) < 10L)) part else as.name("...")
    })
    parts <- c("RunM2ST", assay, setdiff(arguments$name, "m2st"))
    command <- methods::new(
        methods::getClass("SeuratCommand", where = asNamespace("SeuratObject")),
        name = paste(parts, collapse = "."), time.stamp = Sys.time(), assay.used = assay,
        call.string = paste(deparse(call), collapse = " "), params = arguments
    )
    object[[methods::slot(command, "name")]] <- command
    object
}

writeClusterSeurat <- function(
    object, result, name, set.ident, assay = SeuratObject::DefaultAssay(object)
) {
    domain <- domainName(name)
    confidence <- confidenceName(name)
    second <- secondName(name)
    for (column in intersect(c(domain, confidence, second), names(object[[]]))) {
        if (column == domain) {
            say("Overwriting the column '", domain, "'.")
        }
        object[[column]] <- NULL
    }
    if (!is.null(result$domain)) {
        columns <- data.frame(result$domain, row.names = colnames(object))
        names(columns) <- domain
        columns[[confidence]] <- result$confidence
        columns[[second]] <- result$second_domain
        object <- SeuratObject::AddMetaData(object, columns)
        if (!is.null(result$embedding)) {
            object <- setReduction(object, name, keyOf(name), result$embedding, assay)
        }
        if (set.ident) {
            SeuratObject::Idents(object) <- domain
        }
    }
    setMisc(object, name, result$record)
}

setReduction <- function(object, name, key, matrix, assay) {
    dimnames(matrix) <- list(colnames(object), paste0(key, seq_len(ncol(matrix))))
    if (name %in% SeuratObject::Reductions(object)) {
        object[[name]] <- NULL
    }
    object[[name]] <- SeuratObject::CreateDimReducObject(matrix, key = key, assay = assay)
    object
}

# Keys are letters and digits with an underscore at the end, and each may occur once.
keyOf <- function(name, suffix = "") {
    letters <- function(text) gsub("[^[:alnum:]]", "", text)
    paste0(toupper(letters(name)), letters(suffix), "_")
}

setMisc <- function(object, name, record) {
    # Only the warning that there was a record before is silenced: that it is replaced is wanted.
    withCallingHandlers(
        SeuratObject::Misc(object, slot = name) <- record,
        warning = function(condition) {
            if (startsWith(conditionMessage(condition), "Overwriting")) {
                invokeRestart("muffleWarning")
            }
        }
    )
    object
}

# Which cells the assay has that the embeddings are from.
measuredSeurat <- function(object, name) {
    assay <- SeuratObject::DefaultAssay(object[[paste0(name, ".scale1")]])
    colnames(object) %in% colnames(object[[assay]])
}

scalesSeurat <- function(object, name) {
    cells <- colnames(object)
    scalesIn(SeuratObject::Reductions(object), paste0(name, "."), function(key) {
        values <- SeuratObject::Embeddings(object, key)
        values[match(cells, rownames(values)), , drop = FALSE]
    })
}
