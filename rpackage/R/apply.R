# Applying a saved model to another section.

#' Domains of another section, from a saved model
#'
#' Places the spots of a section among the domains of a model that was fitted on another one. Nothing
#' is trained.
#'
#' Genes are found by name, in any order. A gene that is missing counts as having its mean in the
#' section that the model was fitted on. With fewer than half of the genes, it is an error, which
#' names the likely cause, such as Ensembl ids in place of symbols.
#'
#' Coordinates may be in any unit, and on any lattice or none. Depth and technology differ between
#' sections. So each component of the expression gets, in each section, the mean and the deviation
#' that it had where the model was fitted. If a section holds only part of the tissue, this takes
#' away part of what sets it apart.
#'
#' A model that was saved in Python or on the command line works in R, and the other way round. The
#' results are the same to the bit.
#'
#' @inheritParams runM2ST
#' @param x The new section: an object of any class that [runM2ST()] takes. It may be another class
#'   than the object that the model was fitted on. Or a list of objects, one for each section: the
#'   result is the same list.
#' @param model Folder of the model, which `runM2ST(save = )` or `annotateM2ST(save = )` wrote.
#' @param normalized The values are already normalised and on a log scale. If the model was fitted on
#'   counts, natural logarithms are taken back first.
#' @param cell_types For a model that was fitted with cell types: types of the same names, as for
#'   [runM2ST()]. A spot of a type that the model does not know counts as one without a type.
#' @param dimred,reduction Name of ready features, for a model that was fitted on such.
#' @return As for [runM2ST()]. The domains have the levels of the model, and some may have no spots.
#'   The record tells which model was applied.
#' @seealso [runM2ST()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' rates <- outer(1:30, coords[, "row"] > 5, function(gene, upper) {
#'     ifelse((gene > 15) == upper, 4, 1)
#' })
#' section <- function() {
#'     counts <- matrix(rpois(3000, rates), 30)
#'     rownames(counts) <- paste0("gene", 1:30)
#'     counts
#' }
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     folder <- tempfile("model")
#'     runM2ST(section(), coords, k = 2, params = params, device = "cpu", save = folder)
#'     other <- applyM2ST(section(), folder, coords = coords)
#'     table(other$domain, coords[, "row"] > 5)
#' }
#' @export
applyM2ST <- function(x, model, ...) {
    UseMethod("applyM2ST")
}

#' @export
applyM2ST.default <- function(x, model, ...) {
    runM2ST.default(x)
}

#' @rdname applyM2ST
#' @export
applyM2ST.matrix <- function(
    x, model, coords, sample_id = NULL, cell_types = NULL, normalized = FALSE, verbose = NULL, ...
) {
    checkNoMore(...)
    opened <- openObject(x, coords, sample_id, cell_types = cell_types)
    hushed(verbose, applyModel(opened$input, model, normalized, verbose, opened$write))
}

#' @rdname applyM2ST
#' @export
applyM2ST.Matrix <- applyM2ST.matrix

#' @rdname applyM2ST
#' @export
applyM2ST.dgCMatrix <- applyM2ST.matrix

#' @rdname applyM2ST
#' @export
applyM2ST.DelayedMatrix <- applyM2ST.matrix

#' @rdname applyM2ST
#' @export
applyM2ST.IterableMatrix <- applyM2ST.matrix

#' @rdname applyM2ST
#' @export
applyM2ST.SummarizedExperiment <- function(
    x, model, coords = NULL, sample_id = NULL, cell_types = NULL, assay.type = "counts",
    dimred = NULL, subset.row = NULL, normalized = FALSE, name = "m2st", verbose = NULL, ...
) {
    checkNoMore(...)
    checkSpots(ncol(x))
    hushed(verbose, {
        opened <- openObject(
            x, coords, sample_id, assay.type, dimred, subset.row, name, cell_types = cell_types
        )
        applyModel(opened$input, model, normalized, verbose, opened$write)
    })
}

#' @rdname applyM2ST
#' @export
applyM2ST.SpatialExperiment <- function(x, model, coords = NULL, ...) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    applyM2ST.SummarizedExperiment(x, model, coords, ...)
}

#' @rdname applyM2ST
#' @export
applyM2ST.Seurat <- function(
    x, model, coords = NULL, sample_id = NULL, cell_types = NULL, image = NULL, assay = NULL,
    layer = "counts", reduction = NULL, features = NULL, normalized = FALSE, name = "m2st",
    set.ident = TRUE, verbose = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    checkSpots(ncol(x))
    hushed(verbose, {
        opened <- openObject(
            x, coords, sample_id, image, assay, layer, reduction, features, name, set.ident,
            cell_types = cell_types
        )
        applyModel(opened$input, model, normalized, verbose, opened$write)
    })
}
