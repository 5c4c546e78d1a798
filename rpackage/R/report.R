# A result as one page. R takes out what is shown, Python writes the page (m2st.report).

#' A result as one HTML page
#'
#' Writes a single HTML file that opens in any browser and needs neither a network nor R.
#'
#' The page shows:
#'
#' * domains and confidence in space, with a panel for each section, over the tissue image if there
#'   is one
#' * both solutions beside each other, if models fall into two camps
#' * sizes, stability and markers of the domains
#' * the expression of the markers on the same map
#' * training and scale weights
#' * the record of the run
#' * in words, what deserves a second look
#'
#' It is the page that `m2st report` writes in Python. The object is not changed, and no annotation
#' is needed.
#'
#' Markers are genes that are higher inside a domain than outside, on normalised counts. The page
#' shows no p-values. The same expression found the domains, so p-values would be small even without
#' any domains (double dipping).
#'
#' @param x An object that [runM2ST()] returned.
#' @param path File to write; its name ends in `.html`.
#' @param name Name of the result, whose domains are in the column `<name>_domain`, or name of a
#'   column of domains.
#' @param columns Names of further columns to show on the map, such as an annotation or other
#'   numbers of domains, with at most 1000 categories each. They are compared with nothing.
#' @param markers Most genes to list for each domain. With 0, the counts are not read.
#' @param title Heading of the page.
#' @param overwrite Whether an existing file may be replaced.
#' @param counts For the result of a matrix: the counts that [runM2ST()] was given, for the markers.
#' @param coords,sample_id,assay.type,assay,layer,image As in [runM2ST()].
#' @param ... Arguments of the methods.
#' @return The path of the file, invisibly.
#' @seealso [plotDomains()] for a picture alone.
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     page <- reportM2ST(result, tempfile(fileext = ".html"), counts = counts)
#'     if (interactive()) utils::browseURL(page)
#' }
#' @export
reportM2ST <- function(x, path, ...) {
    if (missing(path)) {
        stopM2ST("Expected `path`, the HTML file to write, found none. Name one.")
    }
    UseMethod("reportM2ST")
}

#' @export
reportM2ST.default <- function(x, path, ...) {
    stopM2ST("Expected an object that runM2ST() returned, found ", class(x)[1L], ".")
}

#' @rdname reportM2ST
#' @export
reportM2ST.m2st <- function(
    x, path, counts = NULL, markers = 5L, title = "Spatial domains", overwrite = FALSE, ...
) {
    checkNoMore(...)
    if (is.null(x$domain)) {
        stopM2ST("Found no domains in `x`. Call clusterM2ST(x, k = ...) first.")
    }
    shown <- list(
        names = rownames(x$coords), coords = orientColumns(x$coords), sample = x$sample_id,
        columns = Filter(length, list(
            m2st_domain = x$domain, m2st_second_domain = x$second_domain
        )),
        confidence = unname(x$confidence),
        record = x$record
    )
    shown$counts <- if (!is.null(counts) && markers > 0) countsOfResult(x, counts)
    writeReport(shown, path, markers, title, overwrite)
}

#' @rdname reportM2ST
#' @export
reportM2ST.SummarizedExperiment <- function(
    x, path, name = "m2st", columns = NULL, coords = NULL, sample_id = NULL,
    assay.type = "counts", markers = 5L, title = "Spatial domains", overwrite = FALSE, ...
) {
    checkNoMore(...)
    shown <- shownSE(x, name, columns, coords, sample_id, if (markers > 0) assay.type)
    writeReport(shown, path, markers, title, overwrite)
}

#' @rdname reportM2ST
#' @export
reportM2ST.SpatialExperiment <- function(
    x, path, name = "m2st", columns = NULL, coords = NULL, sample_id = NULL,
    assay.type = "counts", markers = 5L, title = "Spatial domains", overwrite = FALSE, ...
) {
    checkNoMore(...)
    own <- is.null(coords)
    coords <- if (own) coordsSPE(x) else coords
    shown <- shownSE(x, name, columns, coords, sample_id, if (markers > 0) assay.type)
    shown$images <- if (own) imagesSPE(x)
    writeReport(shown, path, markers, title, overwrite)
}

#' @rdname reportM2ST
#' @export
reportM2ST.Seurat <- function(
    x, path, name = "m2st", columns = NULL, coords = NULL, sample_id = NULL, image = NULL,
    assay = NULL, layer = "counts", markers = 5L, title = "Spatial domains", overwrite = FALSE, ...
) {
    checkNoMore(...)
    loadClasses(x)
    place <- drawnPlaceSeurat(x, image, coords)
    held <- as.list(x[[]])
    shown <- shownColumns(held, name, columns, "meta.data")
    shown$names <- colnames(x)
    shown$coords <- place$coords
    shown$slots$sample <- if (!is.null(sample_id)) columnWord(sample_id)
    shown$sample <- if (is.null(sample_id)) {
        place$sample
    } else {
        sampleColumn(held, sample_id, "meta.data")
    }
    shown$record <- if (!is.null(shown$owner)) SeuratObject::Misc(x, slot = shown$owner)
    names(place$images) <- place$images
    shown$images <- lapply(place$images, function(one) pixelsSeurat(x[[one]]))
    if (markers > 0) {
        found <- expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL)
        shown$counts <- checkExpression(found$counts, found$what)
    }
    writeReport(shown, path, markers, title, overwrite)
}

# What is shown of an object: `names`, `coords` (right, down), `sample`, `columns` (factors, the
# first of them the domains), `confidence`, `record`, and, if there are any, `images` and `counts`.
shownSE <- function(x, name, columns, coords, sample_id, assay.type) {
    held <- as.list(SummarizedExperiment::colData(x))
    shown <- shownColumns(held, name, columns, "colData(x)")
    shown$names <- colnames(x)
    shown$coords <- orientColumns(checkCoords(coordsSE(x, coords), colnames(x), ncol(x)))
    shown$sample <- sampleSE(x, sample_id)
    shown$slots$sample <- columnWord(if (is.null(sample_id)) "sample_id" else sample_id)
    shown$record <- if (!is.null(shown$owner)) S4Vectors::metadata(x)[[shown$owner]]
    if (isTRUE(assay.type %in% SummarizedExperiment::assayNames(x))) {
        found <- expressionSE(x, assay.type, NULL, NULL)
        if (!is.null(found$genes)) {
            rownames(found$counts) <- found$genes
        }
        shown$counts <- checkExpression(found$counts, found$what)
    }
    shown
}

shownColumns <- function(held, name, columns, where) {
    domain <- resolveColumn(name, names(held))
    owner <- ownerOf(domain)
    second <- if (!is.null(owner)) intersect(secondName(owner), names(held))
    others <- setdiff(columns, c(domain, second))
    shown <- lapply(others, function(name) drawnColumn(held, name, where))
    names(shown) <- others
    if (length(second)) {
        shown <- c(list(m2st_second_domain = drawnColumn(held, second, where)), shown)
    }
    shown <- c(list(m2st_domain = drawnColumn(held, domain, where)), shown)
    confidence <- if (!is.null(owner)) held[[confidenceName(owner)]]
    slots <- list(m2st_domain = columnWord(domain))
    slots$m2st_confidence <- if (!is.null(owner)) columnWord(confidenceName(owner))
    list(
        columns = shown, confidence = if (is.numeric(confidence)) confidence, owner = owner,
        slots = slots
    )
}

# Tissue image of a Seurat image that has one: pixels (height x width x 3, from 0 to 1), and how
# many of them there are to a unit of the coordinates.
pixelsSeurat <- function(image) {
    has <- c("image", "scale.factors") %in% methods::slotNames(image)
    pixels <- if (all(has)) methods::slot(image, "image")
    if (length(dim(pixels)) != 3L) {
        return(NULL)
    }
    list(pixels = pixels, scale = methods::slot(image, "scale.factors")$lowres)
}

# The first image of each section that a SpatialExperiment holds itself: not in a file, nor remote.
imagesSPE <- function(x) {
    present <- SpatialExperiment::imgData(x)
    held <- vapply(present$data, methods::.hasSlot, logical(1L), name = "image")
    present <- present[held, , drop = FALSE]
    first <- which(!duplicated(present$sample_id))
    images <- lapply(first, function(row) {
        raster <- as.matrix(methods::slot(present$data[[row]], "image"))
        list(pixels = rasterPixels(raster), scale = present$scaleFactor[row])
    })
    names(images) <- present$sample_id[first]
    images
}

# Colours, row by row, as height x width x 3 numbers from 0 to 1.
rasterPixels <- function(raster) {
    array(t(grDevices::col2rgb(raster)) / 255, c(dim(raster), 3L))
}

writeReport <- function(shown, path, markers, title, overwrite) {
    path <- checkFile(path, overwrite)
    if (!isWhole(markers, 0)) {
        stopM2ST("Expected `markers` to be one whole number from 0, found ", shorten(markers), ".")
    }
    askPython("report", reportRequest(shown, path, markers, title), FALSE)
    invisible(path)
}

# A file that may be written, by its full name: Python may be in another folder.
checkFile <- function(path, overwrite) {
    if (!is.character(path) || length(path) != 1L || is.na(path)) {
        stopM2ST("Expected `path` to name one file, found ", shorten(path), ".")
    }
    path <- normalizePath(path, mustWork = FALSE)
    if (file.exists(path) && !isTRUE(overwrite)) {
        stopM2ST("Expected no file at ", path, ", found one. Pass overwrite = TRUE to replace it.")
    }
    path
}

reportRequest <- function(shown, path, markers, title) {
    n <- nrow(shown$coords)
    sample <- if (!is.null(shown$sample)) factor(shown$sample, unique(shown$sample))
    list(
        path = path, title = title, n_markers = as.integer(markers),
        words = wordsRequest(list(words = wordsOf$matrix, slots = shown$slots)),
        names = as.list(if (is.null(shown$names)) as.character(seq_len(n)) else shown$names),
        columns = unname(Map(function(name, values) {
            c(list(name = name), labelsRequest(values))
        }, names(shown$columns), shown$columns)),
        confidence = if (!is.null(shown$confidence)) toBuffer(as.double(shown$confidence), 8L),
        coordinates = toBuffer(as.double(shown$coords), 8L), n_axes = 2L,
        sample = if (!is.null(sample)) labelsRequest(sample)$codes, sample_names = as.list(levels(sample)),
        record = shown$record,
        images = lapply(Filter(length, shown$images), function(image) {
            list(
                pixels = toBuffer(as.integer(round(255 * image$pixels)), 1L),
                shape = dim(image$pixels), scale = image$scale
            )
        }),
        expression = if (!is.null(shown$counts)) {
            genes <- rownames(shown$counts)
            genes <- if (is.null(genes)) paste("gene", seq_len(nrow(shown$counts))) else genes
            c(expressionRequest(shown), genesRequest(list(genes = genes)))
        }
    )
}
