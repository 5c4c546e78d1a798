# Marker genes of the domains, by the packages that their users know.

#' Marker genes of the domains
#'
#' Compares the expression of each domain with that of the others. Seurat objects are compared by
#' `Seurat::FindAllMarkers()` with its Wilcoxon test. A SingleCellExperiment is compared by
#' `scran::findMarkers()` with its t tests between pairs of domains. One of the two packages has to
#' be installed. Only genes that are higher in the domain are listed.
#'
#' Log-normalised values are used where the object has some: the layer `data` or the assay
#' `logcounts`. Else the counts are normalised for this, and the object stays as it is.
#'
#' The domains were found from the same genes. p-values are therefore too small: they rank genes, and
#' are no evidence that a domain is real.
#'
#' @param x A Seurat object, or a SingleCellExperiment or a class that extends it.
#' @param name Name of the result, or of any column of labels.
#' @param n_top_genes Most genes for each domain; `NULL` for all.
#' @param assay Assay of a Seurat object; `NULL` takes the default one.
#' @param assay.type Assay with counts, used where there are no `logcounts`.
#' @param ... Nothing.
#' @return A data frame with a row for each gene of a domain, the best first: `domain`, a factor;
#'   `gene`; `log_fc`, the logarithm to base 2 of how much higher it is; `p_value`; and
#'   `p_adjusted`, by Bonferroni's method for Seurat and by Benjamini and Hochberg's for scran.
#' @seealso [plotDomains()], which maps a gene with `feature`
#' @examples
#' if (requireNamespace("scran", quietly = TRUE)) {
#'     set.seed(1)
#'     counts <- matrix(rpois(3000, 2), 30, dimnames = list(paste0("gene", 1:30), NULL))
#'     counts[1:3, 1:50] <- counts[1:3, 1:50] + 5
#'     x <- SingleCellExperiment::SingleCellExperiment(list(counts = counts))
#'     x$m2st_domain <- factor(rep(1:2, each = 50))
#'     domainMarkers(x, n_top_genes = 3)
#' }
#' @export
domainMarkers <- function(x, name = "m2st", n_top_genes = 10L, ...) {
    UseMethod("domainMarkers")
}

#' @rdname domainMarkers
#' @export
domainMarkers.default <- function(x, name = "m2st", n_top_genes = 10L, ...) {
    stopM2ST("Expected a Seurat object or a SingleCellExperiment, found ", class(x)[1L], ".")
}

#' @rdname domainMarkers
#' @export
domainMarkers.Seurat <- function(x, name = "m2st", n_top_genes = 10L, assay = NULL, ...) {
    checkNoMore(...)
    loadClasses(x)
    requirePackage("Seurat", "to find markers in a Seurat object")
    domain <- comparedDomains(as.list(x[[]]), name, "meta.data", n_top_genes)
    assay <- resolveAssay(x, assay)
    keep <- !is.na(domain)
    values <- countsSeurat(x[[assay]], assay, "counts")
    ready <- layerSeurat(x, assay, "data")
    object <- SeuratObject::CreateSeuratObject(values, assay = "RNA")
    object <- if (length(ready) && !identical(ready, values)) {
        SeuratObject::SetAssayData(object, "data", ready)
    } else {
        Seurat::NormalizeData(object, verbose = FALSE)
    }
    SeuratObject::Idents(object) <- domain[match(colnames(object), colnames(x))]
    object <- object[, colnames(object) %in% colnames(x)[keep]]
    # Seurat would take means of logarithms where it has not normalised the values itself.
    found <- suppressWarnings(Seurat::FindAllMarkers(
        object, only.pos = TRUE, verbose = FALSE,
        mean.fxn = function(part) log2(Matrix::rowMeans(expm1(part)) + 1)
    ))
    asMarkers(
        factor(as.character(found$cluster), levels(domain)), found$gene, found$avg_log2FC,
        found$p_val, found$p_val_adj, n_top_genes
    )
}

#' @rdname domainMarkers
#' @export
domainMarkers.SingleCellExperiment <- function(
    x, name = "m2st", n_top_genes = 10L, assay.type = "counts", ...
) {
    checkNoMore(...)
    requirePackage("scran", "to find markers in a SingleCellExperiment")
    columns <- as.list(SummarizedExperiment::colData(x))
    domain <- comparedDomains(columns, name, "colData(x)", n_top_genes)
    if (is.null(rownames(x))) {
        stopM2ST("Expected names of genes as row names, found none. Set them.")
    }
    keep <- !is.na(domain)
    values <- if ("logcounts" %in% SummarizedExperiment::assayNames(x)) {
        SummarizedExperiment::assay(x, "logcounts")
    } else {
        counts <- expressionSE(x, assay.type, NULL, seq_len(nrow(x)))$counts
        scuttle::normalizeCounts(counts)
    }
    tables <- scran::findMarkers(
        values[, keep, drop = FALSE], groups = droplevels(domain[keep]), direction = "up"
    )
    tables <- lapply(tables, function(table) table[table$summary.logFC > 0, , drop = FALSE])
    column <- function(name) unlist(lapply(tables, `[[`, name), use.names = FALSE)
    asMarkers(
        factor(rep(names(tables), vapply(tables, nrow, integer(1L))), levels(domain)),
        unlist(lapply(tables, rownames), use.names = FALSE), column("summary.logFC"),
        column("p.value"), column("FDR"), n_top_genes
    )
}

# The domains, of which at least two can be compared, before the work.
comparedDomains <- function(columns, name, where, n_top_genes) {
    if (!is.null(n_top_genes) && !isWhole(n_top_genes, 1)) {
        stopM2ST("Expected `n_top_genes` to be NULL or one whole number above 0, found ",
            shorten(n_top_genes), ".")
    }
    name <- resolveColumn(name, names(columns))
    domain <- drawnColumn(columns, name, where)
    if (sum(table(domain) >= 3L) < 2L) {
        stopM2ST("Expected at least two domains of three spots to compare, found fewer in '", name,
            "'.")
    }
    domain
}

asMarkers <- function(domain, gene, log_fc, p_value, p_adjusted, n_top_genes) {
    found <- data.frame(domain, gene, log_fc, p_value, p_adjusted)
    found <- found[order(found$domain, found$p_value, -found$log_fc), ]
    rank <- stats::ave(found$p_value, found$domain, FUN = seq_along)
    found <- found[if (is.null(n_top_genes)) TRUE else rank <= n_top_genes, ]
    rownames(found) <- NULL
    found
}
