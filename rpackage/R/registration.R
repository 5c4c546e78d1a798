# Names for domains: suggested by an annotated reference (m2st.tl.register), or given by the user.

#' Compare domains with the labels of an annotated reference
#'
#' spatialLIBD calls this spatial registration. For each domain and each label, a t statistic per
#' gene compares log expression inside with all other spots. The table holds the correlation of
#' these statistics, over the genes that tell the labels apart. Nothing is trained, and no domain
#' changes. [renameDomains()] takes the table.
#'
#' The suggested name is the label with the highest correlation. If several domains have one label,
#' the one with the highest correlation has its name, and the others get a number behind it: `WM`,
#' `WM (2)`. If no correlation reaches 0.25, spatialLIBD's threshold, the domain keeps its name. A
#' small margin means that the domain fits two labels.
#'
#' Genes are matched by their row names. Counts are divided by library sizes, and logarithms are
#' taken. Values on a log scale are recognised and used as they are.
#'
#' spatialLIBD sums counts over each pair of label and section first, and needs several sections.
#' Here spots are compared, so that one section is enough. Neighbours are no independent samples: the
#' statistics rank genes and test nothing.
#'
#' @param x An object that [runM2ST()] returned.
#' @param reference An annotated Seurat object, SummarizedExperiment or a class that extends it, of
#'   the same tissue and species. The technology may be another.
#' @param labels Name of the column of `reference` with the labels. Spots may lack one.
#' @param name Name of the result, whose domains are in the column `<name>_domain`, or name of a
#'   column of domains, such as `"m2st_k5_domain"`.
#' @param reference.assay Assay of `reference` with the expression. `NULL` takes the counts, or else
#'   the assay `logcounts` of a SummarizedExperiment.
#' @param n_top_genes Number of genes with the highest statistic to take for each label, at least
#'   10.
#' @param counts For the result of a matrix: the counts that [runM2ST()] was given.
#' @param assay.type,assay,layer As in [runM2ST()].
#' @param ... Arguments of the methods.
#' @return A data frame with a row for each domain and a column for each label, which holds the
#'   correlation, `NA` for a domain without spots. Two further columns are `suggested`, a different
#'   name for each domain, and `margin`, how far the highest correlation is ahead of the second.
#' @references
#' Maynard KR, Collado-Torres L, et al. (2021). Transcriptome-scale spatial gene expression in the
#' human dorsolateral prefrontal cortex. *Nature Neuroscience* 24, 425-436.
#'
#' Pardo B, et al. (2022). spatialLIBD: an R/Bioconductor package to visualize spatially-resolved
#' transcriptomics data. *BMC Genomics* 23, 434.
#' @seealso [renameDomains()], [compareDomains()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' rates <- outer(1:30, coords[, "row"] > 5, function(gene, upper) {
#'     ifelse((gene > 15) == upper, 4, 1)
#' })
#' counts <- matrix(rpois(3000, rates), 30, dimnames = list(paste0("gene", 1:30), NULL))
#' if (m2stAvailable() && requireNamespace("SingleCellExperiment", quietly = TRUE)) {
#'     reference <- SingleCellExperiment::SingleCellExperiment(
#'         list(counts = counts),
#'         colData = list(half = ifelse(coords[, "row"] > 5, "upper", "lower"))
#'     )
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     table <- registerDomains(result, reference, labels = "half", counts = counts)
#'     levels(renameDomains(result, table)$domain)
#' }
#' @export
registerDomains <- function(x, reference, labels, ...) {
    if (missing(reference)) {
        stopM2ST("Expected `reference`, an object with labels, found none.")
    }
    UseMethod("registerDomains")
}

#' @export
registerDomains.default <- function(x, reference, labels, ...) {
    stopM2ST("Expected an object that runM2ST() returned, found ", class(x)[1L], ".")
}

#' @rdname registerDomains
#' @export
registerDomains.m2st <- function(
    x, reference, labels, counts, reference.assay = NULL, n_top_genes = 100L, ...
) {
    checkNoMore(...)
    if (is.null(x$domain)) {
        stopM2ST("Found no domains in `x`. Call clusterM2ST(x, k = ...) first.")
    }
    if (missing(counts)) {
        stopM2ST("Expected `counts`, which the result does not hold. Pass the matrix that ",
            "runM2ST() was given.")
    }
    counts <- countsOfResult(x, counts)
    ours <- list(
        counts = counts, what = "`counts`", genes = rownames(counts), labels = x$domain
    )
    computeRegistration(ours, reference, labels, reference.assay, n_top_genes)
}

#' @rdname registerDomains
#' @export
registerDomains.SummarizedExperiment <- function(
    x, reference, labels, name = "m2st", assay.type = "counts", reference.assay = NULL,
    n_top_genes = 100L, ...
) {
    checkNoMore(...)
    column <- resolveColumn(name, names(SummarizedExperiment::colData(x)))
    ours <- labelledSE(x, assay.type, column, "colData(x)")
    computeRegistration(ours, reference, labels, reference.assay, n_top_genes)
}

#' @rdname registerDomains
#' @export
registerDomains.Seurat <- function(
    x, reference, labels, name = "m2st", assay = NULL, layer = "counts", reference.assay = NULL,
    n_top_genes = 100L, ...
) {
    checkNoMore(...)
    loadClasses(x)
    ours <- labelledSeurat(x, assay, layer, resolveColumn(name, names(x[[]])), "meta.data")
    computeRegistration(ours, reference, labels, reference.assay, n_top_genes)
}

# Counts of the spots of the result of a matrix.
countsOfResult <- function(x, counts) {
    counts <- checkExpression(counts, "`counts`")
    if (ncol(counts) != length(x$domain)) {
        stopM2ST("Expected counts of ", length(x$domain), " spots in columns, found ",
            ncol(counts), " columns. Pass the matrix that runM2ST() was given.")
    }
    counts
}

# Expression with its genes, what it is called, and a label for each spot.
labelledSE <- function(x, assay.type, column, where) {
    labels <- drawnColumn(as.list(SummarizedExperiment::colData(x)), column, where)
    c(expressionSE(x, assay.type, NULL, NULL), list(labels = labels))
}

labelledSeurat <- function(x, assay, layer, column, where) {
    labels <- drawnColumn(as.list(x[[]]), column, where)
    found <- expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL)
    labels[!found$measured] <- NA
    c(found, list(labels = labels))
}

labelledReference <- function(reference, labels, assay) {
    if (is(reference, "SummarizedExperiment")) {
        present <- SummarizedExperiment::assayNames(reference)
        if (is.null(assay)) {
            assay <- intersect(c("counts", "logcounts"), present)[1L]
        }
        if (!isTRUE(assay %in% present)) {
            stopM2ST("Expected an assay with expression in `reference`, found ", quoted(present),
                ". Name one: reference.assay = ...")
        }
        columns <- as.list(SummarizedExperiment::colData(reference))
        checkNames(chosenColumn(columns, labels, "colData(reference)"))
        return(labelledSE(reference, assay, labels, "colData(reference)"))
    }
    if (inherits(reference, "Seurat")) {
        loadClasses(reference)
        checkNames(chosenColumn(as.list(reference[[]]), labels, "meta.data of `reference`"))
        return(labelledSeurat(reference, assay, "counts", labels, "meta.data of `reference`"))
    }
    stopM2ST("Expected `reference` to be a Seurat object or a SummarizedExperiment, found ",
        class(reference)[1L], ".")
}

computeRegistration <- function(ours, reference, labels, assay, n_top_genes) {
    if (missing(labels)) {
        stopM2ST("Expected `labels`, the column of `reference` with the labels, found none.")
    }
    if (!isWhole(n_top_genes, 10)) {
        stopM2ST("Expected `n_top_genes` to be one whole number from 10, found ",
            shorten(n_top_genes), ".")
    }
    theirs <- labelledReference(reference, labels, assay)
    theirs$what <- paste(theirs$what, "of `reference`")
    ours$counts <- checkExpression(ours$counts, ours$what)
    theirs$counts <- checkExpression(theirs$counts, theirs$what)
    checkGenes(ours)
    checkGenes(theirs)
    checkTwo(ours$labels, "domains in `x`")
    checkTwo(theirs$labels, "labels in `reference`")
    request <- list(
        expression = c(expressionRequest(ours), genesRequest(ours, columns = TRUE)),
        reference = c(expressionRequest(theirs), genesRequest(theirs, columns = TRUE)),
        domains = labelsRequest(ours$labels), labels = labelsRequest(theirs$labels),
        label_key = labels, n_top_genes = as.integer(n_top_genes),
        words = list(X = ours$what, reference.X = theirs$what)
    )
    answer <- askPython("register", request, FALSE)
    table <- readBin(answer$correlation, "double", length(answer$correlation) / 8)
    table <- matrix(table, ncol = length(answer$labels))
    table[is.nan(table)] <- NA_real_
    colnames(table) <- unlist(answer$labels)
    margin <- readBin(answer$margin, "double", nrow(table))
    margin[is.nan(margin)] <- NA_real_
    data.frame(
        table, suggested = unlist(answer$suggested), margin = margin, check.names = FALSE,
        row.names = levels(ours$labels)
    )
}

checkTwo <- function(labels, what) {
    found <- nlevels(droplevels(labels))
    if (found < 2L) {
        stopM2ST("Expected at least two ", what, ", found ", if (found) found else "none", ".")
    }
}

#' Rename domains
#'
#' Gives domains other names. Their order, confidence and record stay. The report and plots show the
#' new names. Other columns, such as other numbers of domains, keep their names.
#'
#' @param x An object that [runM2ST()] returned.
#' @param names New names by present ones, such as `c("1" = "white matter")`, or the table from
#'   [registerDomains()]. Other domains keep their names.
#' @param name Name of the result, whose domains are in the column `<name>_domain`, or name of a
#'   column of domains, such as `"m2st_k5_domain"`.
#' @param ... Arguments of the methods.
#' @return The object with the same domains, in the same order, under the new names. If the domains
#'   are the active identities of a Seurat object, these have the new names, too. Two domains never
#'   get one name: domains are not merged.
#' @seealso [registerDomains()]
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     table(renameDomains(result, c("1" = "core", "2" = "border"))$domain)
#' }
#' @export
renameDomains <- function(x, names, ...) {
    if (missing(names)) {
        stopM2ST("Expected `names`, new names of domains, found none. Give them by present ones, ",
            "such as c(\"1\" = \"white matter\").")
    }
    UseMethod("renameDomains")
}

#' @export
renameDomains.default <- function(x, names, ...) {
    stopM2ST("Expected an object that runM2ST() returned, found ", class(x)[1L], ".")
}

#' @rdname renameDomains
#' @export
renameDomains.m2st <- function(x, names, ...) {
    checkNoMore(...)
    if (is.null(x$domain)) {
        stopM2ST("Found no domains in `x`. Call clusterM2ST(x, k = ...) first.")
    }
    renamed <- renameLevels(x$domain, names)
    x$second_domain <- renameSecond(x$second_domain, x$domain, renamed)
    x$domain <- renamed
    x
}

#' @rdname renameDomains
#' @export
renameDomains.SummarizedExperiment <- function(x, names, name = "m2st", ...) {
    checkNoMore(...)
    columns <- SummarizedExperiment::colData(x)
    column <- resolveColumn(name, names(columns))
    labels <- storedLabels(as.list(columns), column, "colData(x)")
    columns[[column]] <- renameLevels(labels, names)
    second <- secondOf(column)
    columns[[second]] <- renameSecond(as.list(columns)[[second]], labels, columns[[column]])
    SummarizedExperiment::colData(x) <- columns
    x
}

#' @rdname renameDomains
#' @export
renameDomains.Seurat <- function(x, names, name = "m2st", ...) {
    checkNoMore(...)
    loadClasses(x)
    columns <- as.list(x[[]])
    column <- resolveColumn(name, names(columns))
    labels <- storedLabels(columns, column, "meta.data")
    renamed <- data.frame(renameLevels(labels, names), row.names = colnames(x))
    names(renamed) <- column
    second <- secondOf(column)
    renamed[[second]] <- renameSecond(columns[[second]], labels, renamed[[column]])
    active <- identical(unname(as.character(SeuratObject::Idents(x))), as.character(labels))
    x <- SeuratObject::AddMetaData(x, renamed)
    if (active) {
        SeuratObject::Idents(x) <- column
    }
    x
}

# A column of labels, a factor with its levels in the order that they have.
storedLabels <- function(columns, column, where) {
    labels <- drawnColumn(columns, column, where)
    if (is.factor(columns[[column]])) columns[[column]] else labels
}

# The column of the second solution beside that of the domains.
secondOf <- function(column) {
    secondName(sub(domainPattern, "\\1", column))
}

# The second solution with the new names of the domains, unless two of its own would have one name.
renameSecond <- function(second, old, renamed) {
    if (is.factor(second)) {
        new <- levels(second)
        known <- new %in% levels(old)
        new[known] <- levels(renamed)[match(new[known], levels(old))]
        if (!anyDuplicated(new)) {
            levels(second) <- new
        }
    }
    second
}

# The factor with new names of its levels; names of its elements stay.
renameLevels <- function(labels, names) {
    if (is.data.frame(names)) {
        if (!"suggested" %in% names(names)) {
            stopM2ST("Expected a table that registerDomains() returned, found one without the ",
                "column 'suggested'.")
        }
        names <- stats::setNames(names$suggested, rownames(names))
    }
    names <- if (is.list(names)) unlist(names) else names
    if (!is.character(names) || is.null(names(names))) {
        stopM2ST("Expected `names` to give new names by present ones, such as c(\"",
            levels(labels)[1L], "\" = \"white matter\"), found ", shorten(unname(names)), ".")
    }
    unknown <- setdiff(names(names), levels(labels))
    if (length(unknown)) {
        stopM2ST("Expected present names of domains (", quoted(levels(labels)), "), found ",
            quoted(unknown[1L]), ".")
    }
    if (anyNA(names) || !all(nzchar(trimws(names)))) {
        stopM2ST("Expected new names of domains that are not empty, found ",
            shorten(names[is.na(names) | !nzchar(trimws(names))][[1L]]), ".")
    }
    new <- levels(labels)
    new[match(names(names), new)] <- names
    doubled <- new[duplicated(new)]
    if (length(doubled)) {
        stopM2ST("Expected a name of its own for each domain, found ", quoted(doubled[1L]), " for ",
            quoted(levels(labels)[new == doubled[1L]]), ". Domains are not merged: choose other ",
            "names.")
    }
    levels(labels) <- new
    labels
}
