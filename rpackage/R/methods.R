#' Find spatial domains
#'
#' Prepares the counts, builds the spatial graph from the coordinates, learns embeddings with an
#' ensemble of multi-scale masked graph autoencoders and finds domains from them: the consensus of
#' its members. `runM2ST()` and `RunM2ST()` are the same; the latter has the argument names that
#' Seurat's users know. `embedM2ST()` stops before the domains: follow it with [clusterM2ST()].
#'
#' The confidence of a spot estimates the probability that a run with another seed puts it into the
#' same domain, from how far the members agree. It does not tell whether the domain is right: a
#' domain may be confidently misplaced. With a single member it is less: the membership that this
#' one found.
#'
#' Spots are never reordered or dropped. Those without coordinates, outside the tissue
#' (`in_tissue`) or without counts get `NA`, and one message or warning states how many.
#'
#' Several tissue sections in one object are told apart by `sample_id`, `sample` or `sample.by`,
#' or by the images of a Seurat object; no edge of the graph joins two sections. Coordinates need
#' not be shifted by hand.
#'
#' Where coordinates come from, unless `coords` is given: of a SpatialExperiment
#' `spatialCoords(x)`; of a Seurat object its images, else columns of `meta.data`; of other
#' objects columns of `colData(x)`. Before columns an embedding named after coordinates counts, such
#' as the reducedDim or reduction `spatial` of converted objects. Columns are looked for by their usual
#' names, such as `imagerow` and `imagecol`, `x_centroid` and `y_centroid` (Xenium), `center_x` and
#' `center_y` (MERSCOPE), `CenterX_global_px` and `CenterY_global_px` (CosMx), `sdimx` and `sdimy`
#' (Giotto), `array_row` and `array_col`, `x` and `y`.
#'
#' With an `SCTAssay` as default assay, Seurat's corrected counts are passed over for the assay
#' that they were made from; a sketch is passed over for the assay that holds more of the cells.
#' Where rows are of several types by 10x's names, those of type "Gene Expression" are used.
#'
#' What will be written is tried before the work, so that no result is lost for the sake of a name.
#'
#' The same `seed` gives the same labels and embeddings as in Python, to the bit, on a CPU.
#'
#' @param x,object A matrix or sparse matrix of counts (genes in rows, spots in columns), a
#'   SummarizedExperiment, SingleCellExperiment or SpatialExperiment, or a Seurat object of
#'   version 3 to 5.
#' @param coords Coordinates: a matrix or data frame with a row for each spot and 2 or 3 columns, or
#'   the names of such columns of `colData(x)` or `meta.data`. Any unit. Give array indices as (row,
#'   column). Rows are matched by their names, or by a column of names such as `cell`, as of
#'   `GetTissueCoordinates()`.
#' @param k Number of domains; `NULL` for embeddings only.
#' @param sample Section of each spot, or `NULL` for one section.
#' @param normalized The values are already normalised and on a log scale.
#' @param n_pcs Number of components of the expression or of ready features; `NULL` takes 15, or as
#'   many as domains if these are more.
#' @param params Settings made by [m2stParams()].
#' @param seed,seed.use Seed of all stages. R's own random numbers are left alone.
#' @param device `"auto"`, `"cpu"`, `"cuda"`, or another name that torch knows.
#' @param verbose `TRUE` reports by messages what was chosen, and progress; `FALSE` says nothing,
#'   but still warns. `NULL` leaves progress out where R is not used interactively.
#' @param assay.type Name of the assay with counts.
#' @param dimred,reduction Name of ready features to use in place of the counts, such as `"PCA"`. Of
#'   more than `n_pcs` columns it takes so many components of spots and of their surroundings
#'   together, as of counts, after spots far from all others were moved closer.
#'   Differences between sections are taken to be out of them already.
#' @param sample_id Column of `colData(x)` that names the section; `NULL` takes `"sample_id"` if
#'   there is one.
#' @param subset.row Rows (genes) to use.
#' @param name Name of the embeddings among the `reducedDims`.
#' @param label Name of the column for the domains.
#' @param assay,layer Assay and layer (slot, before Seurat 5) with counts. Split layers are joined.
#' @param features Genes to use.
#' @param image Images to use; `NULL` takes all, one section each.
#' @param sample.by Column of `meta.data` that names the section.
#' @param reduction.name,reduction.key Name and key of the embeddings.
#' @param cluster.name Name of the column for the domains.
#' @param set.ident Make the domains the active identities.
#' @param ... Arguments of the methods.
#' @return An object of the class of the input with
#'   * the domain of each spot, a factor with levels `"1"` to `k` in this order: the column
#'     `m2st_domain` of `colData` or `meta.data`, and `Idents`;
#'   * its confidence, from 0 to 1: the column `m2st_confidence`;
#'   * the representation that all scales and members share: `reducedDim(x, "M2ST")` or the
#'     reduction `m2st`;
#'   * the embedding of each scale: `reducedDim(x, "M2ST_scale1")` or the reduction
#'     `m2st.scale1`, and so on, with the members of the ensemble side by side;
#'   * the record of the run, a plain list: `metadata(x)$m2st` or `Misc(object, "m2st")`.
#'
#'   Of a matrix, a list of class `m2st` with these elements, and with the coordinates and sections
#'   that [clusterM2ST()] needs. A SummarizedExperiment, which cannot hold embeddings, comes back
#'   as a SingleCellExperiment.
#' @seealso [clusterM2ST()], [m2stParams()], [m2stInfo()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' rates <- outer(1:30, coords[, "row"] > 5, function(gene, upper) {
#'     ifelse((gene > 15) == upper, 4, 1)
#' })
#' counts <- matrix(rpois(3000, rates), 30)
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     table(result$domain, coords[, "row"] > 5)
#' }
#' @export
runM2ST <- function(x, ...) {
    UseMethod("runM2ST")
}

#' @rdname runM2ST
#' @export
RunM2ST <- function(object, ...) {
    UseMethod("RunM2ST")
}

#' @rdname runM2ST
#' @export
embedM2ST <- function(x, ...) {
    runM2ST(x, k = NULL, ...)
}

#' @rdname runM2ST
#' @export
RunM2ST.default <- function(object, ...) {
    runM2ST(object, ...)
}

#' @rdname runM2ST
#' @export
runM2ST.default <- function(x, ...) {
    stopM2ST(
        "Expected a matrix with genes in rows and spots in columns, a SummarizedExperiment, ",
        "SingleCellExperiment, SpatialExperiment or Seurat object, found ", class(x)[1L], ".",
        if (is.data.frame(x)) " Use as.matrix(x)."
    )
}

#' @rdname runM2ST
#' @export
runM2ST.matrix <- function(
    x, coords, k, sample = NULL, normalized = FALSE, n_pcs = NULL, params = m2stParams(), seed = 0L,
    device = "auto", verbose = NULL, ...
) {
    checkNoMore(...)
    checkSparse(x, "`x`")
    input <- list(
        counts = x, what = "`x`", coords = coords, sample = sample, names = colnames(x),
        inside = rep(TRUE, ncol(x)), words = wordsOf$matrix
    )
    write <- function(result) newM2ST(result, colnames(x))
    hushed(verbose, computeDomains(
        input, k, params, seed, device, normalized, n_pcs, verbose, write
    ))
}

#' @rdname runM2ST
#' @export
runM2ST.Matrix <- runM2ST.matrix

#' @rdname runM2ST
#' @export
runM2ST.dgCMatrix <- runM2ST.matrix

#' @rdname runM2ST
#' @export
runM2ST.SummarizedExperiment <- function(
    x, k, coords = NULL, assay.type = "counts", dimred = NULL, sample_id = NULL,
    subset.row = NULL, normalized = FALSE, n_pcs = NULL, name = "M2ST", label = "m2st_domain",
    params = m2stParams(), seed = 0L, device = "auto", verbose = NULL, ...
) {
    checkNoMore(...)
    checkSpots(ncol(x))
    checkName(name, "name")
    checkName(label, "label")
    write <- function(result) writeSE(x, result, name, label)
    hushed(verbose, {
        input <- c(
            expressionSE(x, assay.type, dimred, subset.row), placeSE(x, coords, sample_id)
        )
        computeDomains(input, k, params, seed, device, normalized, n_pcs, verbose, write)
    })
}

#' @rdname runM2ST
#' @export
runM2ST.SpatialExperiment <- function(x, k, coords = NULL, ...) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    runM2ST.SummarizedExperiment(x, k, coords, ...)
}

#' @rdname runM2ST
#' @export
runM2ST.Seurat <- function(x, ...) {
    RunM2ST(x, ...)
}

#' @rdname runM2ST
#' @export
RunM2ST.Seurat <- function(
    object, k, assay = NULL, layer = "counts", features = NULL, reduction = NULL, image = NULL,
    coords = NULL, sample.by = NULL, normalized = FALSE, n_pcs = NULL, reduction.name = "m2st",
    reduction.key = keyOf(reduction.name), cluster.name = "m2st_domain", set.ident = TRUE,
    seed.use = 0L, params = m2stParams(), device = "auto", verbose = TRUE, ...
) {
    checkNoMore(...)
    loadClasses(object)
    checkSpots(ncol(object))
    checkNamesSeurat(object, cluster.name, reduction.name, reduction.key)
    call <- sys.call()
    known <- setdiff(names(formals()), c("object", "..."))
    hushed(verbose, {
        assay <- resolveAssay(object, assay)
        input <- c(
            expressionSeurat(object, assay, layer, features, reduction),
            placeSeurat(object, image, coords, sample.by)
        )
        checkHasK(k)
        arguments <- mget(known)
        computeDomains(
            input, k, params, seed.use, device, normalized, n_pcs, verbose,
            write = function(result) {
                object <- writeSeurat(
                    object, result, reduction.name, reduction.key, cluster.name, set.ident, assay
                )
                logRun(object, call, arguments, assay)
            }
        )
    })
}

#' Domains for other numbers, from the embeddings at hand
#'
#' Takes seconds: nothing is trained again. The spatial graph is built again, as domains are smooth
#' over it: pass the coordinates and sections that [runM2ST()] was given, if any. A warning tells
#' when the graph is another than before. The list of class `m2st` of a matrix holds its own.
#'
#' @param x An object that [runM2ST()] or [embedM2ST()] returned.
#' @param k Number of domains; several at once are possible.
#' @inheritParams runM2ST
#' @return The object with the domains in the column `label` (`cluster.name`), their confidence
#'   beside it, and the common representation in `name` (`reduction.name`) for one `k`; in
#'   `m2st_domain_k5`, `m2st_confidence_k5`, `M2ST_k5` (`m2st.k5`) and so on for several. The list
#'   of class `m2st` of a matrix gets a data frame `domains` for several. `clusterM2ST(k = )` gives
#'   the same as `runM2ST(k = )`.
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     embedded <- embedM2ST(counts, coords = coords, params = params, device = "cpu")
#'     clusterM2ST(embedded, k = 2:3)$domains
#' }
#' @export
clusterM2ST <- function(x, k, ...) {
    UseMethod("clusterM2ST")
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.default <- function(x, k, ...) {
    stopM2ST(
        "Expected an object that runM2ST() or embedM2ST() returned, found ", class(x)[1L], "."
    )
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.m2st <- function(x, k, params = m2stParams(), seed = 0L, verbose = NULL, ...) {
    checkNoMore(...)
    spots <- rownames(x$scales[[1L]])
    input <- c(x, list(inside = rep(TRUE, nrow(x$scales[[1L]])), words = wordsOf$matrix))
    results <- computeClusters(input, k, params, seed)
    if (length(k) > 1L) {
        domains <- lapply(results, function(result) result[c("domain", "confidence")])
        names <- outer(c("m2st_domain", "m2st_confidence"), clusterSuffix(k), paste0)
        x$domains <- data.frame(stats::setNames(unlist(domains, recursive = FALSE), names),
            row.names = spots)
        return(x)
    }
    result <- results[[1L]]
    result$scales <- x$scales
    result$coords <- x$coords
    result$sample <- x$sample
    result$record <- mergeRecord(x$record, result$record)
    newM2ST(result, spots)
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.SingleCellExperiment <- function(
    x, k, coords = NULL, sample_id = NULL, name = "M2ST", label = "m2st_domain",
    params = m2stParams(), seed = 0L, verbose = NULL, ...
) {
    checkNoMore(...)
    checkName(name, "name")
    checkName(label, "label")
    hushed(verbose, {
        input <- c(
            list(scales = scalesSE(x, name), record = S4Vectors::metadata(x)$m2st),
            placeSE(x, coords, sample_id)
        )
        results <- computeClusters(input, k, params, seed)
        suffix <- clusterSuffix(k)
        for (i in seq_along(k)) {
            x <- writeClusterSE(x, results[[i]], paste0(name, suffix[i]), label, suffix[i])
        }
        x
    })
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.SpatialExperiment <- function(x, k, coords = NULL, ...) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    clusterM2ST.SingleCellExperiment(x, k, coords, ...)
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.Seurat <- function(
    x, k, image = NULL, coords = NULL, sample.by = NULL, reduction.name = "m2st",
    reduction.key = keyOf(reduction.name), cluster.name = "m2st_domain",
    set.ident = length(k) == 1L, seed.use = 0L, params = m2stParams(), verbose = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    checkNamesSeurat(x, cluster.name, reduction.name, reduction.key)
    hushed(verbose, {
        input <- c(
            list(scales = scalesSeurat(x, reduction.name), record = SeuratObject::Misc(x, "m2st")),
            placeSeurat(x, image, coords, sample.by)
        )
        input$measured <- measuredSeurat(x, reduction.name)
        results <- computeClusters(input, k, params, seed.use)
        suffix <- clusterSuffix(k)
        for (i in seq_along(k)) {
            x <- writeClusterSeurat(
                x, results[[i]], paste0(reduction.name, clusterSuffix(k, ".")[i]),
                sub("_$", paste0(toupper(gsub("_", "", suffix[i])), "_"), reduction.key),
                cluster.name, set.ident, suffix[i]
            )
        }
        x
    })
}
