# What Python asks of R: small helpers, and the constructors of the objects. Sourced into an
# environment of its own; nothing of the user's is touched.

# Answers a call with its value, the texts of its warnings, and those of its error.
answer <- function(f, args) {
    said <- character()
    tryCatch(
        withCallingHandlers(
            list(value = do.call(f, args, quote = TRUE), warnings = said, error = NULL),
            warning = function(w) {
                said <<- c(said, conditionMessage(w))
                invokeRestart("muffleWarning")
            },
            message = function(m) invokeRestart("muffleMessage")
        ),
        error = function(e) {
            list(value = NULL, warnings = said, error = c(conditionMessage(e), class(e)))
        }
    )
}

need <- function(package, source) {
    tryCatch(
        loadNamespace(package),
        packageNotFoundError = function(e) {
            stop(structure(
                class = c("packageNotFoundError", "error", "condition"),
                list(message = sprintf("%s %s", package, source), call = NULL)
            ))
        }
    )
    invisible(TRUE)
}

needBioconductor <- function(package) need(package, "BiocManager::install")
needCran <- function(package) need(package, "install.packages")

# Distinct strings and where they occur: Python then converts each string once.
distinct <- function(x) {
    found <- unique(as.vector(x))
    list(enc2utf8(found), match(x, found) - 1L)
}

repeated <- function(strings, at) strings[at]

asSparse <- function(x) {
    package <- attr(class(x), "package")
    if (!is.null(package) && package != ".GlobalEnv") loadNamespace(package)
    for (target in c("dMatrix", "generalMatrix", "CsparseMatrix")) {
        if (!methods::is(x, "Matrix")) {
            x <- methods::as(x, "dgCMatrix")
        }
        x <- methods::as(x, target)
    }
    x
}

# Outlines of cells as sp has them: names, numbers of corners, and all corners.
outlines <- function(polygons) {
    corners <- lapply(polygons, function(one) {
        do.call(rbind, lapply(attr(one, "Polygons"), attr, "coords"))
    })
    list(
        vapply(polygons, attr, "", "ID"), vapply(corners, nrow, 0L),
        unname(do.call(rbind, c(corners, list(matrix(0, 0L, 2L)))))
    )
}

readObjects <- function(path) {
    if (grepl("[.]rds$", path, ignore.case = TRUE)) {
        return(list(readRDS(path)))
    }
    holder <- new.env(parent = emptyenv())
    names <- load(path, envir = holder)
    mget(names, envir = holder)
}

writeObjects <- function(object, name, path, target) {
    if (grepl("[.]rds$", target, ignore.case = TRUE)) {
        saveRDS(object, path)
    } else {
        assign(name, object)
        save(list = name, file = path)
    }
}

sparse <- function(i, p, x, dim, dimnames, class) {
    loadNamespace("Matrix")
    logical <- is.logical(x)
    built <- methods::new(
        if (logical) "lgCMatrix" else "dgCMatrix", i = i, p = p, x = x, Dim = dim,
        Dimnames = dimnames
    )
    wanted <- switch(substr(class, 3L, 3L),
        T = "TsparseMatrix", R = "RsparseMatrix", "CsparseMatrix"
    )
    built <- methods::as(built, wanted)
    if (startsWith(class, "n")) methods::as(built, "nMatrix") else built
}

dataFrame <- function(columns, n, names) {
    frame <- S4Vectors::make_zero_col_DFrame(n)
    methods::slot(frame, "listData") <- columns
    rownames(frame) <- names
    frame
}

baseFrame <- function(columns, n, names) {
    structure(columns, class = "data.frame", row.names = if (is.null(names)) seq_len(n) else names)
}

rle <- function(x) S4Vectors::Rle(x)

# parts: assays, rows, columns, row_names, column_names, reduced, coordinates, images, metadata.
buildExperiment <- function(class, dim, parts) {
    needBioconductor("SingleCellExperiment")
    if (class == "SpatialExperiment") needBioconductor("SpatialExperiment")
    arguments <- list(
        assays = parts$assays,
        rowData = dataFrame(parts$rows, dim[1L], parts$row_names),
        colData = dataFrame(parts$columns, dim[2L], parts$column_names),
        metadata = parts$metadata
    )
    if (class == "SummarizedExperiment") {
        return(do.call(SummarizedExperiment::SummarizedExperiment, arguments))
    }
    reduced <- lapply(parts$reduced, function(values) {
        rownames(values) <- parts$column_names
        values
    })
    x <- do.call(
        SingleCellExperiment::SingleCellExperiment, c(arguments, list(reducedDims = reduced))
    )
    if (class == "SingleCellExperiment") {
        return(x)
    }
    coordinates <- parts$coordinates
    if (is.null(coordinates)) {
        coordinates <- matrix(numeric(), dim[2L], 0L)
    } else {
        rownames(coordinates) <- parts$column_names
    }
    SingleCellExperiment::int_colData(x)$spatialCoords <- coordinates
    SingleCellExperiment::int_metadata(x)$imgData <- imageData(parts$images, parts$image_columns)
    methods::new("SpatialExperiment", x)
}

# `columns`: those of a table without rows; objects differ in which they have.
imageData <- function(images, columns) {
    frame <- S4Vectors::DataFrame(
        sample_id = as.character(images$sample_id), image_id = as.character(images$image_id)
    )
    frame$data <- lapply(as.list(images$pixels), loadedImage, lower = images$lower)
    frame$scaleFactor <- as.numeric(images$scale)
    if (is.null(images)) frame[columns] else frame
}

# pixels: height x width x 3 or 4 channels, 0 to 255.
loadedImage <- function(pixels, lower) {
    image <- grDevices::as.raster(pixels, max = 255L)
    if (lower) image[] <- tolower(image)
    methods::new(
        structure("LoadedSpatialImage", package = "SpatialExperiment"), image = image
    )
}

seurat5 <- function() utils::packageVersion("SeuratObject") >= "5.0.0"

seuratObject <- function(name) getExportedValue("SeuratObject", name)

# texts: name, class and key of the assay, and the project. parts: cells, genes, layers (named),
# columns, features, variable, ident, reductions, images, misc; exact: the columns are all of them.
buildSeurat <- function(texts, parts) {
    needCran("SeuratObject")
    layers <- lapply(parts$layers, function(layer) {
        dimnames(layer) <- list(parts$genes, parts$cells)
        layer
    })
    assay <- buildAssay(layers, texts[2L])
    # Named before it is added, or Seurat warns that it makes up a key.
    key <- if (is.na(texts[3L])) paste0(tolower(keyOf(texts[1L])), "_") else texts[3L]
    methods::slot(assay, "key") <- key
    object <- SeuratObject::CreateSeuratObject(
        assay, assay = texts[1L], project = if (is.na(texts[4L])) "SeuratProject" else texts[4L]
    )
    columns <- baseFrame(parts$columns, length(parts$cells), parts$cells)
    if (!parts$exact) {
        made <- methods::slot(object, "meta.data")
        columns <- cbind(made[setdiff(names(made), names(columns))], columns)
    }
    methods::slot(object, "meta.data") <- columns
    if (!is.null(parts$ident)) {
        ident <- parts$ident
        names(ident) <- parts$cells
        methods::slot(object, "active.ident") <- ident
    }
    object <- describeFeatures(object, texts, parts)
    for (name in names(parts$reductions)) {
        object[[name]] <- buildReduction(parts$reductions[[name]], parts$cells)
    }
    for (name in names(parts$images)) {
        object[[name]] <- buildImage(parts$images[[name]])
    }
    methods::slot(object, "misc") <- parts$misc
    object
}

buildAssay <- function(layers, class) {
    extra <- setdiff(names(layers), c("counts", "data"))
    five <- seurat5() && !(class %in% c("Assay", "SCTAssay"))
    if (length(extra) && !five) {
        warning("Assays of Seurat before version 5 have no place for the layers ",
            paste(extra, collapse = ", "), ".")
    }
    if (!five) {
        first <- intersect(c("counts", "data"), names(layers))[1L]
        assay <- do.call(SeuratObject::CreateAssayObject, layers[first])
        if (first == "counts" && !is.null(layers$data)) {
            assay <- SeuratObject::SetAssayData(assay, slot = "data", new.data = layers$data)
        }
        return(assay)
    }
    known <- layers[intersect(c("counts", "data"), names(layers))]
    assay <- do.call(seuratObject("CreateAssay5Object"), known)
    for (name in extra) {
        assay <- seuratObject("LayerData<-")(assay, layer = name, value = layers[[name]])
    }
    assay
}

keyOf <- function(name) gsub("[^[:alnum:]]", "", name)

describeFeatures <- function(object, texts, parts) {
    assay <- methods::slot(object, "assays")[[texts[1L]]]
    slot <- if (methods::.hasSlot(assay, "meta.features")) "meta.features" else "meta.data"
    names <- if (slot == "meta.features") parts$genes
    methods::slot(assay, slot) <- baseFrame(parts$features, length(parts$genes), names)
    if (length(parts$variable)) {
        SeuratObject::VariableFeatures(assay) <- parts$variable
    }
    methods::slot(object, "assays")[[texts[1L]]] <- assay
    object
}

buildReduction <- function(part, cells) {
    embedding <- part$embedding
    dimnames(embedding) <- list(cells, part$columns)
    SeuratObject::CreateDimReducObject(
        embedding, key = part$key, assay = part$assay, stdev = part$stdev, global = part$global
    )
}

buildImage <- function(part) {
    known <- c("VisiumV1", "VisiumV2", "SlideSeq", "STARmap")
    if (part$class %in% known) {
        needCran("Seurat")
    }
    if (part$class %in% c("VisiumV1", "SlideSeq", "STARmap")) tableImage(part) else fovImage(part)
}

tableImage <- function(part) {
    coordinates <- baseFrame(
        c(part$array, list(
            imagerow = part$coordinates[, 2L], imagecol = part$coordinates[, 1L],
            x = part$coordinates[, 1L], y = part$coordinates[, 2L], cells = part$cells
        )),
        length(part$cells), part$cells
    )
    visium <- part$class == "VisiumV1"
    axes <- part$axes
    if (length(axes) == 0L) {
        axes <- if (visium) c("tissue", "row", "col", "imagerow", "imagecol") else c("x", "y")
    }
    coordinates <- coordinates[intersect(axes, names(coordinates))]
    for (at in seq_along(part$types)) {
        column <- axes[at]
        if (part$types[at] == "integer" && all(coordinates[[column]] %% 1 == 0, na.rm = TRUE)) {
            coordinates[[column]] <- as.integer(coordinates[[column]])
        } else if (part$types[at] == "double") {
            coordinates[[column]] <- as.double(coordinates[[column]])
        }
    }
    class <- structure(part$class, package = "Seurat")
    arguments <- list(class, coordinates = coordinates, assay = part$assay, key = part$key)
    if (visium) {
        scales <- scaleFactors(part$factors)
        radius <- part$radius
        if (is.null(radius)) {
            radius <- scales$fiducial * scales$lowres / max(dim(part$picture))
        }
        arguments <- c(arguments, list(
            image = part$picture, scale.factors = scales, spot.radius = radius
        ))
    }
    do.call(methods::new, arguments)
}

scaleFactors <- function(factors) {
    getExportedValue("Seurat", "scalefactors")(
        spot = factors[1L], fiducial = factors[2L], hires = factors[3L], lowres = factors[4L]
    )
}

fovImage <- function(part) {
    x <- part$coordinates
    horizontal <- part$orientation %in% "horizontal"
    if (part$class == "VisiumV2" && !horizontal) {
        x <- x[, 2:1, drop = FALSE]
    }
    table <- data.frame(x = x[, 1L], y = x[, 2L], cell = part$cells)
    # Those that are not known are left out, for Seurat to choose.
    known <- Filter(Negate(is.null), part[c("nsides", "radius", "theta")])
    if (is.null(known$radius) && !any(apply(x, 2L, function(axis) diff(range(axis))) > 0)) {
        known$radius <- 1 # of a single place, Seurat makes one of nothing, and refuses it
    }
    points <- do.call(seuratObject("CreateCentroids"), c(list(table), known))
    boundaries <- list(points)
    names(boundaries) <- part$boundary
    arguments <- list(boundaries, type = "centroids", assay = part$assay, key = part$key)
    fov <- do.call(seuratObject("CreateFOV"), arguments)
    if (part$class != "VisiumV2") {
        return(fov)
    }
    visium <- methods::new(
        structure("VisiumV2", package = "Seurat"),
        boundaries = methods::slot(fov, "boundaries"), molecules = list(), assay = part$assay,
        key = part$key, image = part$picture, scale.factors = scaleFactors(part$factors)
    )
    if (horizontal && methods::.hasSlot(visium, "coords_x_orientation")) {
        methods::slot(visium, "coords_x_orientation") <- part$orientation
    }
    visium
}

# ---- data sets

fetchSpatialLIBD <- function() {
    needBioconductor("spatialLIBD")
    getExportedValue("spatialLIBD", "fetch_data")(type = "spe")
}

fetchExample <- function(name) {
    needBioconductor("STexampleData")
    known <- getNamespaceExports("STexampleData")
    if (!name %in% known) {
        stop("STexampleData has no data set ", name, ", but ", paste(sort(known), collapse = ", "))
    }
    getExportedValue("STexampleData", name)()
}

# The record of ExperimentHub with exactly this title, and what the hub says of its origin.
fetchHub <- function(title) {
    needBioconductor("ExperimentHub")
    hub <- getExportedValue("ExperimentHub", "ExperimentHub")()
    found <- hub[hub$title == title]
    if (length(found) != 1L) {
        similar <- unique(grep(title, hub$title, value = TRUE, ignore.case = TRUE, fixed = FALSE))
        stop("ExperimentHub has ", length(found), " records with this title. Similar: ",
            paste(utils::head(similar, 10L), collapse = ", "))
    }
    list(found[[1L]], c(names(found), found$dataprovider, found$sourceurl))
}
