# Domains within domains: a tree over them, groups that it joins, and parts of some.

#' Domains within domains
#'
#' `domainTree()` arranges the domains in a tree: the nearest are merged first. `mergeDomains()`
#' joins the nearest to groups, and `splitDomains()` cuts some domains into parts. Both write a new
#' result, and the domains stay as they are.
#'
#' Domains stand for their centres in the common representation, and distances are in units of the
#' covariance that they share. Each merge is the one that costs least: Ward's criterion. The height
#' of a merge is its cost in nats per spot. If small merges are hard to see in a plot, write
#' `tree$height <- sqrt(tree$height)` first.
#'
#' A group has the names of its domains, such as `1+4`. In place of domain `3` stand its parts
#' `3.1` and `3.2`, by decreasing size. They are found on the embeddings of the scales: nothing is
#' trained.
#' Any domain can be split, as any tissue can be cut further. Look at the confidence.
#'
#' Another number of domains, by [clusterM2ST()], may cut elsewhere.
#'
#' @param x An object that [runM2ST()] returned, or a list of them. `splitDomains()` needs the
#'   embeddings that [embedM2ST()] or `runM2ST(keep = "scales")` keep.
#' @param k Number of groups, fewer than there are domains.
#' @param parts Number of parts, at least 2, by the name of the domain: `c("3" = 2)`.
#' @param name Name of the new result; for `domainTree()` of the one with the domains.
#' @param domain_name Name of the result whose domains are joined or split.
#' @param params Settings made by [m2stParams()]. `NULL` takes the defaults, but for
#'   `equal_sizes = NA`: parts of any size are often a few spots and the rest.
#' @inheritParams clusterM2ST
#' @param coords,sample_id,image As for [clusterM2ST()]: what you gave [runM2ST()].
#' @return `domainTree()` returns an object of class `hclust`, with the domains as leaves. `plot()`,
#'   [stats::cutree()] and [stats::as.dendrogram()] take it.
#'
#'   The others return the object with a new result: the column `<name>_domain`, its confidence, and
#'   the record. The result of a matrix gets columns of the data frame `domains`. The confidence of
#'   a group is `NA`: it is not below the confidence in its domain. That of a part is the confidence
#'   in the domain, times the mean probability of the part over the models. The new results have no
#'   representation of their own.
#' @references
#' Ward JH (1963). Hierarchical grouping to optimize an objective function. *Journal of the American
#' Statistical Association* 58, 236-244.
#' @seealso [clusterM2ST()], [renameDomains()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:12))
#' rates <- outer(1:30, coords[, "col"] %/% 4.1, function(gene, zone) 1 + 4 * (gene %% 3 == zone))
#' counts <- matrix(rpois(3600, rates), 30)
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     x <- runM2ST(counts, coords, k = 3, params = params, device = "cpu", keep = "scales")
#'     tree <- domainTree(x)
#'     plot(tree, hang = -1)
#'     x <- mergeDomains(x, k = 2)
#'     x <- splitDomains(x, parts = c("1" = 2))
#'     table(x$domains$m2st_parts_domain, x$domains$m2st_joined_domain)
#' }
#' @export
domainTree <- function(x, name = "m2st") {
    treeOf(openDomains(x, name), name)
}

#' @rdname domainTree
#' @export
mergeDomains <- function(x, k, ...) {
    UseMethod("mergeDomains")
}

#' @rdname domainTree
#' @export
mergeDomains.default <- function(x, k, ...) {
    openDomains.default(x)
}

#' @rdname domainTree
#' @export
mergeDomains.m2st <- function(
    x, k, name = paste0(domain_name, "_joined"), domain_name = "m2st", ...
) {
    checkNoMore(...)
    joinDomains(openDomains(x, domain_name, name), k, name, domain_name)
}

#' @rdname domainTree
#' @export
mergeDomains.SingleCellExperiment <- mergeDomains.m2st

#' @rdname domainTree
#' @export
mergeDomains.Seurat <- function(
    x, k, name = paste0(domain_name, "_joined"), domain_name = "m2st", set.ident = TRUE, ...
) {
    checkNoMore(...)
    joinDomains(openDomains(x, domain_name, name, set.ident), k, name, domain_name)
}

#' @rdname domainTree
#' @export
mergeDomains.list <- function(
    x, k, name = paste0(domain_name, "_joined"), domain_name = "m2st", ...
) {
    joinDomains(openDomains(x, domain_name, name, ...), k, name, domain_name)
}

#' @rdname domainTree
#' @export
splitDomains <- function(x, parts, ...) {
    UseMethod("splitDomains")
}

#' @rdname domainTree
#' @export
splitDomains.default <- function(x, parts, ...) {
    openDomains.default(x)
}

#' @rdname domainTree
#' @export
splitDomains.m2st <- function(
    x, parts, name = paste0(domain_name, "_parts"), domain_name = "m2st", params = NULL,
    seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    opened <- openDomains(x, domain_name, name)
    hushed(verbose, {
        opened$input <- embeddedM2ST(x)
        cutDomains(opened, parts, name, domain_name, params, seed, n.cores)
    })
}

#' @rdname domainTree
#' @export
splitDomains.SingleCellExperiment <- function(
    x, parts, coords = NULL, sample_id = NULL, name = paste0(domain_name, "_parts"),
    domain_name = "m2st", params = NULL, seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    opened <- openDomains(x, domain_name, name)
    hushed(verbose, {
        opened$input <- embeddedSE(x, opened$from, coords, sample_id)
        cutDomains(opened, parts, name, domain_name, params, seed, n.cores)
    })
}

#' @rdname domainTree
#' @export
splitDomains.SpatialExperiment <- function(x, parts, coords = NULL, ...) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    splitDomains.SingleCellExperiment(x, parts, coords, ...)
}

#' @rdname domainTree
#' @export
splitDomains.Seurat <- function(
    x, parts, coords = NULL, sample_id = NULL, image = NULL,
    name = paste0(domain_name, "_parts"), domain_name = "m2st", set.ident = TRUE,
    params = NULL, seed = 0L, n.cores = 1L, verbose = NULL, ...
) {
    checkNoMore(...)
    opened <- openDomains(x, domain_name, name, set.ident)
    hushed(verbose, {
        opened$input <- embeddedSeurat(x, opened$from, image, coords, sample_id)
        cutDomains(opened, parts, name, domain_name, params, seed, n.cores)
    })
}

#' @rdname domainTree
#' @export
splitDomains.list <- function(
    x, parts, coords = NULL, sample_id = NULL, name = paste0(domain_name, "_parts"),
    domain_name = "m2st", ..., params = NULL, seed = 0L, n.cores = 1L, verbose = NULL
) {
    opened <- openDomains(x, domain_name, name, ...)
    hushed(verbose, {
        opened$input <- openEmbedded(x, 2L, coords, sample_id, name = opened$from)$input
        cutDomains(opened, parts, name, domain_name, params, seed, n.cores)
    })
}

# The domains of the result `from` as a factor `domain`, which stands `at` some place, their
# `confidence` and `embedding`, NULL where there is none, and their `record`; the result that has the
# embeddings of the scales, `from`; and a function that writes a result as `name`, unless it is NULL.
openDomains <- function(x, ...) {
    UseMethod("openDomains")
}

openDomains.default <- function(x, ...) {
    stopM2ST("Expected an object that runM2ST() returned, found ", class(x)[1L], ".")
}

openDomains.m2st <- function(x, from, name = NULL) {
    checkNested(name, from, FALSE)
    if (identical(name, "m2st")) {
        stopM2ST("Expected `name` to be another than 'm2st', the domains of the result itself. ",
            "Choose another name.")
    }
    opened <- domainsOf(columnsM2ST(x), from, "the result")
    opened$embedding <- if (from == "m2st") x$embedding
    opened$at <- "x$domain"  # no other has an embedding
    opened$record <- x$record
    opened$from <- "m2st"
    opened$write <- function(result) {
        columns <- as.list(x$domains)
        columns[[domainName(name)]] <- result$domain
        columns[[confidenceName(name)]] <- result$confidence
        columns[[secondName(name)]] <- NULL  # of other domains
        x$domains <- data.frame(columns, row.names = rownames(x$coords), check.names = FALSE)
        x
    }
    opened
}

openDomains.SingleCellExperiment <- function(x, from, name = NULL) {
    present <- SingleCellExperiment::reducedDimNames(x)
    checkNested(name, from, reducedName(name, "_scale1") %in% present)
    if (!is.null(name)) {
        checkNameSE(x, name)
    }
    opened <- domainsOf(as.list(SummarizedExperiment::colData(x)), from, "colData(x)")
    opened$embedding <- if (reducedName(from) %in% present) {
        SingleCellExperiment::reducedDim(x, reducedName(from), withDimnames = FALSE)
    }
    opened$record <- S4Vectors::metadata(x)[[from]]
    opened$from <- sourceOf(opened$record, from)
    opened$write <- function(result) writeSE(x, result, name)
    opened
}

openDomains.Seurat <- function(x, from, name = NULL, set.ident = TRUE) {
    loadClasses(x)
    present <- SeuratObject::Reductions(x)
    checkNested(name, from, paste0(name, ".scale1") %in% present)
    if (!is.null(name)) {
        checkNameSeurat(x, name)
    }
    opened <- domainsOf(as.list(x[[]]), from, "meta.data")
    opened$embedding <- if (from %in% present) {
        values <- SeuratObject::Embeddings(x, from)
        values[match(colnames(x), rownames(values)), , drop = FALSE]
    }
    opened$record <- SeuratObject::Misc(x, slot = from)
    opened$from <- sourceOf(opened$record, from)
    opened$write <- function(result) {
        writeSeurat(x, result, name, set.ident, SeuratObject::DefaultAssay(x))
    }
    opened
}

openDomains.list <- function(x, from, name = NULL, ...) {
    checkSections(x)
    each <- eachSection(x, NULL, function(one, coords) openDomains(one, from, name, ...))
    first <- each[[1L]]
    levels <- lapply(each, function(one) levels(one$domain))
    widths <- lapply(each, function(one) ncol(one$embedding))
    if (length(unique(levels)) > 1L || length(unique(widths)) > 1L) {
        stopM2ST("Expected the same domains in all sections, found those of different runs. Run ",
            "the list together: runM2ST(list(...), k = ...).")
    }
    together <- function(part) unname(lapply(each, `[[`, part))
    ends <- cumsum(vapply(each, function(one) length(one$domain), integer(1L)))
    write <- function(result) {
        Map(function(one, end) {
            one$write(partOfResult(result, seq_along(one$domain) + end - length(one$domain)))
        }, each, ends)
    }
    list(
        domain = factor(unlist(lapply(together("domain"), as.character)), levels(first$domain)),
        confidence = unlist(together("confidence")),
        embedding = do.call(rbind, together("embedding")), record = first$record,
        from = first$from, at = paste0("x[[1]]$", domainName(from)), write = write
    )
}

# What `from` has of domains, among the columns of an object.
domainsOf <- function(columns, from, where) {
    column <- domainName(from)
    if (!column %in% names(columns)) {
        stopM2ST("Found no domains '", column, "' in ", where, ". Call runM2ST(x, k = ...) first, ",
            "or name another result.")
    }
    domain <- storedLabels(columns, column, where)
    confidence <- columns[[confidenceName(from)]]
    list(
        domain = unname(domain), confidence = if (is.numeric(confidence)) unname(confidence),
        at = paste0("x$", column)
    )
}

# The result whose embeddings of the scales the domains were found on.
sourceOf <- function(record, from) {
    known <- record$cluster$embedding_key
    if (is.null(known)) from else known
}

# A new result has another name than the one that it is made of, and replaces no embeddings.
checkNested <- function(name, from, hasScales) {
    checkName(from, if (is.null(name)) "name" else "domain_name")
    if (is.null(name)) {
        return(invisible())
    }
    checkName(name)
    if (identical(name, from)) {
        stopM2ST("Expected `name` to be another than `domain_name`, found '", name, "' for both. ",
            "Choose another name: the domains stay as they are.")
    }
    if (isTRUE(hasScales)) {
        stopM2ST("Expected `name` of a result without embeddings of scales, found '", name, "', ",
            "which would lose them. Choose another name.")
    }
}

treeOf <- function(opened, from) {
    domain <- opened$domain
    if (is.null(opened$embedding)) {
        stopM2ST("Found no common representation of the domains of '", from, "', which a tree ",
            "needs. Take the domains that they were made of, or call clusterM2ST(x, k = ...) ",
            "with one number, which writes it.")
    }
    domain[rowSums(is.na(opened$embedding)) > 0L] <- NA
    if (nlevels(domain) < 2L) {
        stopM2ST("Expected at least two domains of '", from, "', found ", nlevels(domain), ".")
    }
    empty <- setdiff(levels(domain), domain)
    if (length(empty)) {
        stopM2ST("Expected spots in each domain of '", from, "', found none in ",
            quoted(empty[1L]), ". Call ", opened$at, " <- droplevels(", opened$at, ") first.")
    }
    values <- opened$embedding
    values[is.na(values)] <- NaN
    embedding <- list(data = toBuffer(as.double(values), 8L), shape = dim(values))
    words <- list(slots = list(X_m2st = paste0("the representation of '", from, "'")))
    request <- list(labels = labelsRequest(domain), embedding = embedding, words = words)
    answer <- askPython("tree", request, FALSE)
    asHclust(answer$pairs, unlist(answer$costs), levels(domain))
}

# Merges as in Python, leaves from 0 and unions behind them, as R has them: leaves below 0.
asHclust <- function(pairs, height, labels) {
    n <- length(labels)
    pairs <- matrix(as.integer(unlist(pairs)), ncol = 2L, byrow = TRUE)
    merge <- ifelse(pairs < n, -pairs - 1L, pairs - n + 1L)
    leaves <- function(node) {
        if (node < 0L) -node else unlist(lapply(merge[node, ], leaves))
    }
    structure(
        list(
            merge = merge, height = height, order = leaves(n - 1L), labels = labels,
            method = "ward", call = quote(domainTree(x)), dist.method = "Mahalanobis"
        ),
        class = "hclust"
    )
}

joinDomains <- function(opened, k, name, from) {
    checkHasK(k)
    known <- nlevels(opened$domain)
    if (!isWhole(k, 1) || k >= known) {
        stopM2ST("Expected `k` to be one whole number below the ", known, " domains of '", from,
            "', found ", shorten(k), ". Give a smaller number.")
    }
    groups <- stats::cutree(treeOf(opened, from), k = k)
    names <- tapply(names(groups), groups, paste, collapse = "+")
    opened$write(list(
        domain = factor(groups[as.integer(opened$domain)], seq_len(k), names),
        confidence = rep(NA_real_, length(opened$domain)),
        record = nestedRecord(opened, list(n_domains = as.integer(k), parent = from))
    ))
}

cutDomains <- function(opened, parts, name, from, params, seed, n.cores) {
    input <- opened$input
    checkRecord(input$scales, input$record)
    input <- checkPlace(input)
    placed <- input$valid & !is.na(input$scales[[1L]][, 1L])
    parts <- checkParts(parts, opened$domain, placed, from)
    seed <- checkSeed(seed)
    if (!is.null(params)) {
        checkOwn(params, "splits no domains")
    }
    n.cores <- checkCores(n.cores)
    kept <- keepValid(input)
    confidence <- opened$confidence[input$valid]
    request <- c(
        scalesRequest(kept$scales, input$record$n_members), placeRequest(kept),
        settingsRequest(NULL, params, seed, "cpu"),
        list(
            words = wordsRequest(input), n_jobs = n.cores, parts = as.list(parts),
            labels = labelsRequest(opened$domain[input$valid]),
            confidence = if (length(confidence)) {
                toBuffer(ifelse(is.na(confidence), NaN, confidence), 8L)
            }
        )
    )
    answer <- askPython("split", request, FALSE)
    result <- readAnswer(answer, input$valid)
    entry <- answer$record$cluster
    entry$embedding_key <- opened$from
    entry$parent <- from
    result$record <- nestedRecord(opened, entry)
    opened$write(result)
}

# Numbers of parts by domain, as whole numbers.
checkParts <- function(parts, domain, placed, from) {
    known <- levels(domain)
    if (missing(parts) || length(parts) == 0L || is.null(names(parts)) ||
            !all(nzchar(names(parts)))) {
        stopM2ST("Expected `parts`, numbers of parts by domain, such as c(\"", known[1L],
            "\" = 2), found ", if (missing(parts)) "none" else shorten(unlist(unname(parts))), ".")
    }
    unknown <- setdiff(names(parts), known)
    if (length(unknown)) {
        stopM2ST("Expected domains of '", from, "' (", quoted(known), "), found ",
            quoted(unknown[1L]), ". Check the present names.")
    }
    if (anyDuplicated(names(parts))) {
        stopM2ST("Expected each domain in `parts` once, found ",
            quoted(names(parts)[duplicated(names(parts))][1L]), " twice.")
    }
    Map(checkPart, parts, names(parts), list(domain), list(placed))
    vapply(parts, as.integer, integer(1L))
}

# The number of parts of `one` domain.
checkPart <- function(number, one, domain, placed) {
    if (!isWhole(number, 2)) {
        stopM2ST("Expected a whole number of parts of domain ", quoted(one), ", at least 2, found ",
            shorten(number), ".")
    }
    n <- sum(domain == one & placed, na.rm = TRUE)
    if (number > n) {
        stopM2ST("Expected no more parts of domain ", quoted(one), " than its ", n, " spots, ",
            "found ", number, ". Give a smaller number.")
    }
    taken <- intersect(paste0(one, ".", seq_len(number)), levels(domain))
    if (length(taken)) {
        stopM2ST("Expected new names for the parts of domain ", quoted(one), ", found a domain ",
            quoted(taken[1L]), ". Rename it first with renameDomains().")
    }
}

# The record of domains that were made of others: a copy of theirs, without what tells of these.
nestedRecord <- function(opened, entry) {
    record <- as.list(opened$record)
    before <- record$cluster
    kept <- before[intersect(c("method", "params"), names(before))]
    kept$embedding_key <- opened$from
    kept[names(entry)] <- NULL
    record[c("cluster", "register", "tree", "n_domains")] <- NULL
    if (is.null(record$n_members)) {
        record$n_members <- 1L
    }
    record$cluster <- c(kept, entry)
    record
}
