#' Find spatial domains
#'
#' Prepares the counts and builds the spatial graph from the coordinates. Several multi-scale masked
#' graph autoencoders learn embeddings. The domains are the consensus of their clusterings.
#' `embedM2ST()` stops before the domains: follow it with [clusterM2ST()].
#'
#' `RunM2ST()` is `runM2ST()` under a name in Seurat's style. It takes the same objects and
#' arguments and gives the same result. Its first argument is called `object`. It also accepts four
#' of Seurat's spellings: `reduction.name`, `cluster.name`, `seed.use` and `sample.by`. If you give
#' both spellings of an argument, their values must be equal.
#'
#' Everything that is written starts with `name`. Results with different names live side by side in
#' one object, each with its record.
#'
#' The confidence of a spot estimates the probability that a run with another seed puts it into the
#' same domain. It comes from the agreement of the models. It does not say that the domain is right:
#' a domain may be misplaced with a high confidence. With a single model, it is the probability that
#' this model gives, which is too high.
#'
#' Spots are never reordered or dropped. Spots without coordinates, off the tissue (`in_tissue`) or
#' without counts get `NA`, and one message or warning says how many.
#'
#' `sample_id`, or the images of a Seurat object, tell tissue sections apart. No edge of the graph
#' joins two sections. Coordinates of sections may overlap. Features get the same mean and variance
#' in each section, or in each batch if you give `batch_id`.
#'
#' Some arguments have the names that Bioconductor and Seurat use. `assay.type` is an assay of a
#' SummarizedExperiment, `assay` and `layer` belong to a Seurat object. `dimred` is one of the
#' `reducedDims`, `reduction` is a reduction. `subset.row` and `features` choose genes.
#'
#' Without `coords`, coordinates come from these places:
#'
#' * SpatialExperiment: `spatialCoords(x)`
#' * Seurat: the images, else columns of `meta.data`
#' * other objects: columns of `colData(x)`
#'
#' A reducedDim or reduction named after coordinates, such as `spatial` in converted objects, comes
#' before columns. Columns have their usual names: `imagerow` and `imagecol`, `x_centroid` and
#' `y_centroid` (Xenium), `center_x` and `center_y` (MERSCOPE), `CenterX_global_px` and
#' `CenterY_global_px` (CosMx), `sdimx` and `sdimy` (Giotto), `array_row` and `array_col`, `x` and
#' `y`, and others.
#'
#' If the default assay is an `SCTAssay`, the assay that it was made from is used. If it is a
#' sketch, the assay with more of the cells is used. If 10x's names give rows of several types, only
#' rows of the type "Gene Expression" are used.
#'
#' A list holds one object for each section, all of one kind: `runM2ST(list(a = x, b = y), k = 7)`.
#' The names of the list are the names of the sections. Genes that all have are used, by name. The
#' result is the same list, with the part of each section in its object. Other arguments are those
#' of the class. `coords` are names of columns, or a list of coordinates. If an object has several
#' sections itself, each is a section.
#'
#' Writing is tried before the work, so that no result is lost because of a name.
#'
#' The same `seed` gives the same labels and embeddings as in Python, to the bit, on a CPU.
#'
#' @param x,object A Seurat object of version 3 to 5, a SpatialExperiment, SingleCellExperiment or
#'   SummarizedExperiment, or a matrix of counts. A matrix may be sparse, or lie in a file, such as
#'   an HDF5Matrix or a matrix of BPCells: it is read block by block and stays sparse. It has genes
#'   in rows and spots in columns. Or a list of such objects, one for each section, see below.
#' @param coords Coordinates in any unit: a table with a row for each spot and 2 or 3 columns, or
#'   names of columns of `colData(x)` or `meta.data`. Give array indices as (row, column). Rows are
#'   matched by their names, or by a column of names such as `cell` in the result of
#'   `GetTissueCoordinates()`.
#' @param k Number of domains; `"auto"` to choose it as [chooseDomains()] does; `NULL` for embeddings
#'   only.
#' @param normalized The values are already normalised and on a log scale.
#' @param n_pcs Number of components, of the expression or ready features. `NULL` takes 15, or the
#'   number of domains if that is more.
#' @param params Settings made by [m2stParams()], or by [paperParams()] for the published method.
#' @param seed Seed of all stages. R's own random numbers are left alone.
#' @param device `"auto"`, `"cpu"`, `"cuda"`, or another name that torch knows.
#' @param n.cores Models to work on at a time, each on one core. The result is the same for any
#'   number. With several, the progress of single epochs is not shown.
#' @param checkpoint File from which an interrupted run resumes; each model has its own, numbered.
#'   Call again with the same arguments. `NULL` writes none.
#' @param save Folder to save the fitted model in, for [applyM2ST()]. It must not exist yet. `NULL`
#'   saves nothing.
#' @param keep `"scales"` keeps the embedding of each scale in the object, too. [clusterM2ST()] and
#'   [chooseDomains()] need them. They are large: 480 to 1,920 columns, or 18 MB for 4,634 spots.
#'   Without domains they are always kept.
#' @param verbose `TRUE` shows messages about choices and progress. `FALSE` shows only warnings.
#'   `NULL` shows progress only in an interactive session.
#' @param assay.type Name of the assay with counts.
#' @param dimred,reduction Name of ready features to use in place of the counts, such as `"PCA"`. If
#'   they have more than `n_pcs` columns, m2ST takes their first `n_pcs` components, of spots and
#'   their neighbours together. Outliers are moved closer first. Differences between sections must
#'   already be removed.
#' @param sample_id Section of each spot: the name of a column of `colData(x)` or `meta.data`, or
#'   for a matrix a vector. `NULL` takes the column `sample_id` of `colData(x)`, or the images of a
#'   Seurat object. If there are none, all spots are one section.
#' @param batch_id What is shifted, such as the donor, the slide or the chemistry: the name of a
#'   column, or for a matrix a vector. Features get the same mean and variance in each batch. `NULL`
#'   takes the sections.
#' @param cell_types Cell type of each spot, if types are known: the name of a column, or for a matrix
#'   a vector. The shares of the types around each spot are then one more view of the tissue. A spot
#'   whose type is `NA` takes part, and adds nothing to these shares. `NULL` uses no types.
#' @param subset.row,features Rows (genes) to use, by name or number.
#' @param name Name of the result. The columns are called `<name>_domain` and `<name>_confidence`.
#'   The embeddings have names with `name` too, see below.
#' @param assay,layer Assay and layer (slot, before Seurat 5) with counts. Split layers are joined.
#' @param image Images to use; `NULL` takes all, one section each.
#' @param set.ident Make the domains the active identities.
#' @param reduction.name Seurat's spelling of `name`: the reduction is called `name`.
#' @param cluster.name The column of domains, `<name>_domain`: `cluster.name = "zone_domain"` is
#'   Seurat's spelling of `name = "zone"`.
#' @param seed.use Seurat's spelling of `seed`.
#' @param sample.by Seurat's spelling of `sample_id`.
#' @param ... Arguments of the methods.
#' @return An object of the class of the input with
#'   * the domain of each spot, a factor with levels `"1"` to `k` in this order: the column
#'     `m2st_domain` of `colData` or `meta.data`, and `Idents`;
#'   * its confidence, from 0 to 1: the column `m2st_confidence`;
#'   * only if models fall into two camps, each of which agrees on other domains: those of the second
#'     one, in the column `m2st_second_domain`, with a warning. A domain has the name of the one that
#'     it shares most with. `plotDomains(x, "m2st_second")` draws them, and [reportM2ST()] both;
#'   * the representation common to all scales and models: `reducedDim(x, "M2ST")` or the reduction
#'     `m2st`;
#'   * with `keep = "scales"`, and from `embedM2ST()`, the embedding of each scale:
#'     `reducedDim(x, "M2ST_scale1")` or the reduction `m2st.scale1`, and so on, with the models side
#'     by side; with `average_hops`, the averages of the features: `"M2ST_averages"` or
#'     `m2st.averages`; and with `cell_types`, square roots of the shares of the types around each
#'     spot: `"M2ST_cell_types"` or `m2st.cell_types`;
#'   * the record of the run, a plain list: `metadata(x)$m2st` or `Misc(x, "m2st")`.
#'
#'   With `name = "zone"` the columns are `zone_domain`, `zone_confidence` and, if there is one,
#'   `zone_second_domain`. The embeddings are
#'   `"ZONE"` and `"ZONE_scale1"`, or `zone` and `zone.scale1`. The record is `metadata(x)$zone` or
#'   `Misc(x, "zone")`. The key of a reduction is `name` in capitals, letters and digits only.
#'
#'   For a matrix, the result is a list of class `m2st` with these elements. It also has the
#'   coordinates and sections, which [clusterM2ST()] needs. A SummarizedExperiment cannot hold
#'   embeddings, and comes back as a SingleCellExperiment.
#' @seealso [clusterM2ST()], [chooseDomains()], [m2stParams()], [m2stInfo()]
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
RunM2ST <- function(
    object, ..., reduction.name = NULL, cluster.name = NULL, seed.use = NULL, sample.by = NULL
) {
    theirs <- list(
        reduction.name = reduction.name, cluster.name = cluster.name, seed.use = seed.use,
        sample.by = sample.by
    )
    do.call("runM2ST", c(list(object), translateSeurat(list(...), theirs)), quote = TRUE)
}

#' @rdname runM2ST
#' @export
embedM2ST <- function(x, ...) {
    runM2ST(x, k = NULL, ...)
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
    x, k, coords, sample_id = NULL, batch_id = NULL, cell_types = NULL, normalized = FALSE,
    n_pcs = NULL, params = m2stParams(), seed = 0L, device = "auto", n.cores = 1L,
    checkpoint = NULL, save = NULL, keep = NULL, verbose = NULL, ...
) {
    checkNoMore(...)
    opened <- openObject(x, coords, sample_id, batch_id = batch_id, cell_types = cell_types)
    work <- mget(workArguments)
    hushed(verbose, computeDomains(opened$input, k, work, verbose, opened$write))
}

# What is read from an object, as `input`, and a function that writes a result into it, `write`.
openObject <- function(x, ...) {
    UseMethod("openObject")
}

openObject.matrix <- function(x, coords, sample_id = NULL, batch_id = NULL, cell_types = NULL) {
    further <- list(batch = batch_id, types = cell_types)
    list(
        input = c(inputMatrix(x, coords, sample_id), further),
        write = function(result) newM2ST(result, colnames(x))
    )
}

openObject.Matrix <- openObject.matrix

openObject.DelayedMatrix <- openObject.matrix

openObject.IterableMatrix <- openObject.matrix

inputMatrix <- function(x, coords, sample_id) {
    checkSparse(x, "`x`")
    checkHasCoords(coords)
    list(
        counts = x, what = "`x`", coords = coords, sample = sample_id, names = colnames(x),
        genes = rownames(x), inside = rep(TRUE, ncol(x)), words = wordsOf$matrix
    )
}

#' @rdname runM2ST
#' @export
runM2ST.Matrix <- runM2ST.matrix

#' @rdname runM2ST
#' @export
runM2ST.dgCMatrix <- runM2ST.matrix

#' @rdname runM2ST
#' @export
runM2ST.DelayedMatrix <- runM2ST.matrix

# That of BPCells.
#' @rdname runM2ST
#' @export
runM2ST.IterableMatrix <- runM2ST.matrix

#' @rdname runM2ST
#' @export
runM2ST.SummarizedExperiment <- function(
    x, k, coords = NULL, sample_id = NULL, batch_id = NULL, cell_types = NULL,
    assay.type = "counts", dimred = NULL, subset.row = NULL, normalized = FALSE, n_pcs = NULL,
    name = "m2st", params = m2stParams(), seed = 0L, device = "auto", n.cores = 1L,
    checkpoint = NULL, save = NULL, keep = NULL, verbose = NULL, ...
) {
    checkNoMore(...)
    checkSpots(ncol(x))
    work <- mget(workArguments)
    hushed(verbose, {
        opened <- openObject(
            x, coords, sample_id, assay.type, dimred, subset.row, name, batch_id = batch_id,
            cell_types = cell_types
        )
        computeDomains(opened$input, k, work, verbose, opened$write)
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
runM2ST.Seurat <- function(
    x, k, coords = NULL, sample_id = NULL, batch_id = NULL, cell_types = NULL, image = NULL,
    assay = NULL, layer = "counts", reduction = NULL, features = NULL, normalized = FALSE,
    n_pcs = NULL, name = "m2st", set.ident = TRUE, params = m2stParams(), seed = 0L,
    device = "auto", n.cores = 1L, checkpoint = NULL, save = NULL, keep = NULL, verbose = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    checkSpots(ncol(x))
    caller <- sys.parent()
    byName <- caller > 0L && identical(sys.function(caller), RunM2ST)
    call <- if (byName) sys.call(caller) else sys.call()
    known <- setdiff(names(formals()), c("x", "..."))
    hushed(verbose, {
        opened <- openObject(
            x, coords, sample_id, image, assay, layer, reduction, features, name, set.ident,
            batch_id = batch_id, cell_types = cell_types
        )
        checkHasK(k)
        assay <- opened$assay
        arguments <- mget(known)
        computeDomains(opened$input, k, arguments[workArguments], verbose, function(result) {
            logRun(opened$write(result), call, arguments, assay)
        })
    })
}

#' Other numbers of domains, from the same embeddings
#'
#' Clusters the embeddings of the scales again. Nothing is trained. A Visium section of 4,634 spots
#' takes 3 to 7 seconds on one core for each number from 5 to 9, and training it took 11.
#'
#' The spatial graph is built again, because domains are smooth over it. If you gave [runM2ST()]
#' coordinates or sections, give them here too. A warning says when the graph differs from before.
#' The result of a matrix holds its coordinates and sections.
#'
#' @param x An object that [embedM2ST()] or `runM2ST(keep = "scales")` returned.
#' @param k Number of domains, or several; or what [chooseDomains()] returned.
#' @param name Name of the result, for one `k`. For several, `name = "m2st"` gives the results
#'   `m2st_k5`, `m2st_k7` and so on.
#' @param embedding_name Name of the result whose embeddings are clustered. `NULL` takes `name` if
#'   it has embeddings, else `"m2st"`.
#' @inheritParams runM2ST
#' @return The object with new results. For one `k`, the domains are in the column `<name>_domain`,
#'   with their confidence and the common representation beside them. For several, each is a result
#'   with its name: `m2st_k5_domain`, `m2st_k5_confidence`, `M2ST_K5` (`m2st_k5` in Seurat) and the
#'   record `m2st_k5`. Embeddings of the scales are not copied. The result of a matrix gets a data
#'   frame `domains` for several. `clusterM2ST(k = )` gives the same as `runM2ST(k = )`.
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
clusterM2ST.m2st <- function(
    x, k, params = m2stParams(), seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    spots <- rownames(x$coords)
    results <- hushed(verbose, computeClusters(embeddedM2ST(x), k, params, seed, n.cores, verbose))
    if (length(results) > 1L) {
        columns <- Map(function(result, name) {
            columns <- list(result$domain, result$confidence, result$second_domain)
            names(columns) <- c(domainName(name), confidenceName(name), secondName(name))[
                seq_along(columns)
            ]
            Filter(length, columns)
        }, results, resultNames("m2st", k))
        x$domains <- data.frame(unlist(unname(columns), recursive = FALSE), row.names = spots)
        return(x)
    }
    result <- results[[1L]]
    result$scales <- x$scales
    result$coords <- x$coords
    result$sample <- x$sample_id
    result$record <- clusterRecord(x$record, result$record, "m2st", "m2st")
    newM2ST(result, spots)
}

# The embeddings of a result, their record, and the places of the spots.
embeddedM2ST <- function(x) {
    checkScales(x$scales, x$record, "the result")
    c(x[c("scales", "coords", "record")], list(
        sample = x$sample_id, inside = rep(TRUE, nrow(x$coords)), words = wordsOf$matrix,
        slots = scaleSlots(x$scales, function(scale) paste0("`x$scales$", scale, "`"))
    ))
}

# What the user calls the embeddings of the scales.
scaleSlots <- function(scales, word) {
    stats::setNames(lapply(names(scales), word), paste0("X_m2st_", names(scales)))
}

embeddedSE <- function(x, name, coords, sample_id) {
    embedded <- list(scales = scalesSE(x, name), record = S4Vectors::metadata(x)[[name]])
    checkScales(embedded$scales, embedded$record, reducedName(name, "_scale1"))
    embedded$slots <- scaleSlots(embedded$scales, function(scale) {
        paste0("reducedDim '", reducedName(name, paste0("_", scale)), "'")
    })
    c(embedded, placeSE(x, coords, sample_id))
}

embeddedSeurat <- function(x, name, image, coords, sample_id) {
    embedded <- list(
        scales = scalesSeurat(x, name), record = SeuratObject::Misc(x, slot = name)
    )
    checkScales(embedded$scales, embedded$record, paste0(name, ".scale1"))
    embedded$measured <- measuredSeurat(x, name)
    embedded$slots <- scaleSlots(embedded$scales, function(scale) {
        paste0("reduction '", name, ".", scale, "'")
    })
    c(embedded, placeSeurat(x, image, coords, sample_id))
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.SingleCellExperiment <- function(
    x, k, coords = NULL, sample_id = NULL, name = "m2st", embedding_name = NULL,
    params = m2stParams(), seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    checkHasK(k)
    hushed(verbose, {
        opened <- openClusters(x, k, coords, sample_id, name, embedding_name)
        opened$write(computeClusters(opened$input, k, params, seed, n.cores, verbose))
    })
}

# Embeddings and places of an object, as `input`, and a function that writes a result for each k.
openClusters <- function(x, ...) {
    UseMethod("openClusters")
}

openClusters.default <- function(x, ...) {
    clusterM2ST.default(x)
}

openClusters.SingleCellExperiment <- function(
    x, k, coords = NULL, sample_id = NULL, name = "m2st", embedding_name = NULL
) {
    numbers <- numbersIn(k)
    names <- resultNames(name, numbers)
    lapply(names, function(one) {
        checkName(one)
        checkNameSE(x, one)
    })
    from <- embeddingName(name, numbers, embedding_name, function(one) {
        reducedName(one, "_scale1") %in% SingleCellExperiment::reducedDimNames(x)
    })
    input <- embeddedSE(x, from, coords, sample_id)
    write <- function(results) {
        for (i in seq_along(names)) {
            results[[i]]$record <- clusterRecord(input$record, results[[i]]$record, names[i], from)
            x <- writeClusterSE(x, results[[i]], names[i])
        }
        x
    }
    list(input = input, write = write)
}

openClusters.SpatialExperiment <- function(x, k, coords = NULL, ...) {
    openClusters.SingleCellExperiment(x, k, if (is.null(coords)) coordsSPE(x) else coords, ...)
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
    x, k, coords = NULL, sample_id = NULL, image = NULL, name = "m2st", embedding_name = NULL,
    set.ident = length(numbersIn(k)) == 1L, params = m2stParams(), seed = 0L, n.cores = 1L,
    verbose = NULL, ...
) {
    checkNoMore(...)
    checkHasK(k)
    hushed(verbose, {
        opened <- openClusters(x, k, coords, sample_id, image, name, embedding_name, set.ident)
        opened$write(computeClusters(opened$input, k, params, seed, n.cores, verbose))
    })
}

openClusters.Seurat <- function(
    x, k, coords = NULL, sample_id = NULL, image = NULL, name = "m2st", embedding_name = NULL,
    set.ident = length(numbersIn(k)) == 1L
) {
    loadClasses(x)
    numbers <- numbersIn(k)
    names <- resultNames(name, numbers)
    lapply(names, function(one) checkNameSeurat(x, one))
    from <- embeddingName(name, numbers, embedding_name, function(one) {
        paste0(one, ".scale1") %in% SeuratObject::Reductions(x)
    })
    input <- embeddedSeurat(x, from, image, coords, sample_id)
    write <- function(results) {
        for (i in seq_along(names)) {
            results[[i]]$record <- clusterRecord(input$record, results[[i]]$record, names[i], from)
            x <- writeClusterSeurat(x, results[[i]], names[i], set.ident)
        }
        x
    }
    list(input = input, write = write)
}
