# Domains for other viewers. R takes them out, Python writes the file (m2st.io.export).

#' Domains for Loupe Browser, Xenium Explorer or QuPath
#'
#' Writes the domains of a result into a file that another program imports. The object is not
#' changed.
#'
#' | `to` | file | what is in it |
#' |---|---|---|
#' | `"csv"` | `.csv` | name, domain and confidence of every spot |
#' | `"loupe"` | `.csv` | `Barcode` and domain, to import as a category in Loupe Browser |
#' | `"xenium-explorer"` | `.csv` | `cell_id`, `group` and `color`, to import as cell groups |
#' | `"geojson"` | `.geojson` | the outline of each domain, with its name and colour, for QuPath |
#'
#' Loupe Browser and Xenium Explorer find spots and cells by the column names of the object. In a
#' Loupe file of several libraries, barcodes end in `-1`, `-2` and so on. Spots without a domain are
#' left out. They are then unassigned.
#'
#' An outline joins the cells of the spots of a domain: what is nearer to a spot than to all others,
#' and not far from it. On a Visium slide, cells are hexagons. Outlines need the Python package
#' shapely.
#'
#' @param x An object that [runM2ST()] returned.
#' @param path File to write. Its name ends as the table says.
#' @param to Format, as in the table.
#' @param name Name of the result, whose domains are in the column `<name>_domain`.
#' @param pixel_size For `"geojson"`: size of a pixel of the full-resolution image, in the unit of
#'   the coordinates. By default the coordinates are pixels. For Xenium it is 0.2125.
#' @param overwrite Whether an existing file may be replaced.
#' @param coords,sample_id,image As in [runM2ST()]; only for `"geojson"`.
#' @param ... Arguments of the methods.
#' @return The path of the file, invisibly.
#' @seealso [reportM2ST()] for a page that needs no other program.
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     file <- exportM2ST(result, tempfile(fileext = ".csv"))
#'     head(read.csv(file))
#' }
#' @export
exportM2ST <- function(x, path, to = "csv", ...) {
    UseMethod("exportM2ST")
}

#' @export
exportM2ST.default <- function(x, path, to = "csv", ...) {
    stopM2ST("Expected an object that runM2ST() returned, found ", class(x)[1L], ".")
}

#' @rdname exportM2ST
#' @export
exportM2ST.m2st <- function(x, path, to = "csv", pixel_size = NULL, overwrite = FALSE, ...) {
    checkNoMore(...)
    if (is.null(x$domain)) {
        stopM2ST("Found no domains in `x`. Call clusterM2ST(x, k = ...) first.")
    }
    found <- list(
        columns = list(m2st_domain = x$domain), confidence = unname(x$confidence), owner = "m2st",
        names = rownames(x$coords), coords = orientColumns(x$coords), sample = x$sample_id
    )
    writeExport(found, path, to, pixel_size, overwrite)
}

#' @rdname exportM2ST
#' @export
exportM2ST.SummarizedExperiment <- function(
    x, path, to = "csv", name = "m2st", coords = NULL, sample_id = NULL, pixel_size = NULL,
    overwrite = FALSE, ...
) {
    checkNoMore(...)
    found <- shownColumns(as.list(SummarizedExperiment::colData(x)), name, NULL, "colData(x)")
    found$names <- colnames(x)
    if (identical(to, "geojson")) {
        if (is.null(coords) && methods::is(x, "SpatialExperiment")) {
            coords <- coordsSPE(x)
        }
        found$coords <- orientColumns(checkCoords(coordsSE(x, coords), colnames(x), ncol(x)))
        found$sample <- sampleSE(x, sample_id)
    }
    writeExport(found, path, to, pixel_size, overwrite)
}

#' @rdname exportM2ST
#' @export
exportM2ST.Seurat <- function(
    x, path, to = "csv", name = "m2st", coords = NULL, sample_id = NULL, image = NULL,
    pixel_size = NULL, overwrite = FALSE, ...
) {
    checkNoMore(...)
    loadClasses(x)
    held <- as.list(x[[]])
    found <- shownColumns(held, name, NULL, "meta.data")
    found$names <- colnames(x)
    if (identical(to, "geojson")) {
        place <- drawnPlaceSeurat(x, image, coords)
        found$coords <- place$coords
        named <- !is.null(sample_id)
        found$sample <- if (named) sampleColumn(held, sample_id, "meta.data") else place$sample
    }
    writeExport(found, path, to, pixel_size, overwrite)
}

writeExport <- function(found, path, to, pixel_size, overwrite) {
    path <- checkFile(path, overwrite)
    n <- length(found$columns[[1L]])
    sample <- if (!is.null(found$sample)) factor(found$sample, unique(found$sample))
    request <- list(
        path = path, to = to, pixel_size = pixel_size,
        words = wordsRequest(list(words = wordsOf$matrix, slots = found$slots)),
        name = if (is.null(found$owner)) names(found$columns) else found$owner,
        names = as.list(if (is.null(found$names)) as.character(seq_len(n)) else found$names),
        domains = labelsRequest(found$columns[[1L]]),
        confidence = if (!is.null(found$confidence)) toBuffer(as.double(found$confidence), 8L),
        coordinates = if (!is.null(found$coords)) toBuffer(as.double(found$coords), 8L),
        n_axes = 2L, sample = if (!is.null(sample)) labelsRequest(sample)$codes,
        sample_names = as.list(levels(sample))
    )
    askPython("export", request, FALSE)
    invisible(path)
}
