# Tables of domains by section (m2st.tl.composition and its kin).

#' Share of each domain in each section
#'
#' Neighbours in tissue are alike, so that 4,000 spots are not 4,000 independent ones. The interval
#' is Wilson's, of the effective number of spots. Each section is cut into eight blocks of equal
#' numbers of spots. The variance of the shares between blocks tells how many independent spots the
#' section is worth (Kish's design effect).
#'
#' The interval is about the tissue around the section: what share would another piece of it have?
#' Layers that cross the whole section occur once in each: only further sections can tell how their
#' shares vary. Whether the domains are right is another question, for the confidence.
#'
#' @param x An object that [runM2ST()] returned, or a list of them, one for each section.
#' @param name Name of the result, whose domains are in the column `<name>_domain`, or name of a
#'   column of domains, such as `"m2st_k5_domain"`.
#' @param sample_id Name of the column with the section of each spot, as in [runM2ST()].
#' @param ... Where the spots are, as in [runM2ST()]: `coords`, and `image` of a Seurat object.
#' @return A data frame with a row for each section and domain, absent domains included: `sample`,
#'   `domain`, `n_obs` (spots of the domain), its `share` of the section from 0 to 1 and the interval
#'   at 95 %, `low` and `high`, and `n_effective`, the independent spots that the section is worth. A
#'   single section without a name is called `"all"`.
#' @references
#' Kish L (1965). *Survey Sampling*. Wiley.
#'
#' Korn EL, Graubard BI (1998). Confidence intervals for proportions with small expected number of
#' positive counts estimated from survey data. *Survey Methodology* 24, 193-201.
#' @seealso [compareComposition()], [pseudobulkDomains()]
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     domainComposition(result)
#' }
#' @export
domainComposition <- function(x, name = "m2st", sample_id = NULL, ...) {
    found <- readDomains(x, name, sample_id, ...)
    answer <- askPython("composition", compositionRequest(found), FALSE)
    tableOf(answer)
}

#' Compare the shares of domains between conditions
#'
#' Sections are the replicates. Shares sum to 1, so they are compared as centred log-ratios: the
#' logarithm of the share of a domain over the geometric mean of all domains of the section. Each
#' domain gets a moderated t test, as limma has it. P-values are adjusted over all rows by Benjamini
#' and Hochberg.
#'
#' Half an effective spot (see [domainComposition()]) is added to each domain of a section, because
#' zeros have no logarithm.
#'
#' The effect is relative. If one domain grows, the shares of all others fall, and so do their
#' log-ratios: hardly with many domains, by half of the growth with three. Look for the domain with
#' the largest effect. Sections of the groups may differ in their size, not in how they were cut: a
#' field with more white matter has more of it.
#'
#' @inheritParams domainComposition
#' @param condition Name of the column with the condition of each spot, the same for all spots of a
#'   section; or the condition of each section by its name: `c(a = "control", b = "treated")`.
#' @param reference Condition that all others are compared with. `NULL` takes the first one.
#' @param sample_id Name of the column with the replicate, as in [runM2ST()]. If donors have several
#'   sections each, these are no independent replicates: give the column of the donor here.
#' @return A data frame with a row for each other condition and each domain: `condition`,
#'   `reference`, `domain`; the mean shares `share` and `share_reference`; `log_ratio`, the
#'   difference of the mean log-ratios, and its interval at 95 %, `low` and `high`; `t`, `p_value` and
#'   `p_adjusted`. A domain that no section has gets `NA`.
#' @references
#' Smyth GK (2004). Linear models and empirical Bayes methods for assessing differential expression
#' in microarray experiments. *Statistical Applications in Genetics and Molecular Biology* 3.
#'
#' Phipson B, et al. (2022). propeller: testing for differences in cell type proportions in single
#' cell data. *Bioinformatics* 38, 4720-4726.
#' @seealso [domainComposition()]
#' @examples
#' set.seed(1)
#' spots <- expand.grid(x = 1:12, y = 1:12, section = c("a", "b", "c", "d"))
#' border <- c(a = 3, b = 3.4, c = 7, d = 7.5)[spots$section]
#' spots$m2st_domain <- factor(1 + (spots$y + rnorm(576) > border))
#' spots$group <- ifelse(spots$section %in% c("a", "b"), "control", "treated")
#' if (m2stAvailable() && requireNamespace("SingleCellExperiment", quietly = TRUE)) {
#'     x <- SingleCellExperiment::SingleCellExperiment(
#'         list(counts = matrix(1, 1, 576)), colData = spots
#'     )
#'     compareComposition(x, "group", sample_id = "section")
#' }
#' @export
compareComposition <- function(
    x, condition, reference = NULL, name = "m2st", sample_id = NULL, ...
) {
    found <- readDomains(x, name, sample_id, ...)
    values <- conditionOf(condition, found)
    named <- is.null(names(condition))
    found$slots$condition <- if (named) columnWord(condition) else "`condition`"
    if (!is.null(reference) && !isTRUE(as.character(reference) %in% levels(values))) {
        stopM2ST("Expected `reference` to be a condition, found ", shorten(reference),
            ". Conditions: ", quoted(levels(values)), ".")
    }
    request <- compositionRequest(found)
    request$conditions <- labelsRequest(values)
    request$reference <- if (!is.null(reference)) as.character(reference)
    tableOf(askPython("compare_composition", request, FALSE))
}

#' Sums of counts by domain and section
#'
#' For edgeR, limma and DESeq2: sections are the replicates, not spots. Test one domain at a time
#' between conditions. A test of genes between domains has p-values that are too small, because the
#' same expression found the domains.
#'
#' @inheritParams domainComposition
#' @param min_obs Least number of spots of a domain in a section. Sums over fewer are left out.
#' @param sample_id Name of the column with the replicate: the section, as in [runM2ST()], or the
#'   donor.
#' @param ... Where the counts are, as in [runM2ST()]: `assay.type` of a SummarizedExperiment, or
#'   `assay` and `layer` of a Seurat object. For the result of a matrix: `counts`, the matrix that
#'   [runM2ST()] was given.
#' @return A list with two elements, as edgeR's `DGEList()` takes them:
#'   * `counts`, a matrix of whole numbers, with a row for each gene and a column for each sum
#'   * `samples`, a data frame with a row for each sum: `sample`, `domain`, `n_obs` (spots), and the
#'     columns that have one value in each section, such as the condition
#'
#'   Sections without a name are called `"all"`. Of a list of objects, genes that all have are used.
#' @seealso [compareComposition()]
#' @examples
#' coords <- as.matrix(expand.grid(row = 1:10, col = 1:10))
#' counts <- outer(1:30, 1:100, function(gene, spot) (gene * spot) %% 7 + gene %% (1 + spot %/% 34))
#' rownames(counts) <- paste0("gene", 1:30)
#' if (m2stAvailable()) {
#'     params <- m2stParams(n_members = 2, n_epochs = 20)
#'     result <- runM2ST(counts, coords, k = 2, params = params, device = "cpu")
#'     sums <- pseudobulkDomains(result, counts = counts)
#'     sums$samples
#' }
#' # do.call(edgeR::DGEList, sums)
#' # DESeq2::DESeqDataSetFromMatrix(sums$counts, sums$samples, ~ condition)
#' @export
pseudobulkDomains <- function(x, min_obs = 10L, name = "m2st", sample_id = NULL, ...) {
    if (!isWhole(min_obs, 1)) {
        stopM2ST("Expected `min_obs` to be one whole number from 1, found ", shorten(min_obs), ".")
    }
    found <- readDomains(x, name, sample_id, ..., expression = TRUE)
    counts <- checkExpression(found$counts, found$what, whole = TRUE)
    sections <- factor(found$sample, unique(found$sample[!is.na(found$domain)]))
    lost <- sum(is.na(sections) & !is.na(found$domain))
    if (lost) {
        stopM2ST("Expected `sample_id` to give the section of every spot, found ", lost,
            " missing. Fill them in or remove these spots.")
    }
    # By section first.
    n <- nlevels(found$domain)
    pairs <- (as.integer(sections) - 1L) * n + as.integer(found$domain)
    sizes <- tabulate(pairs, n * nlevels(sections))
    kept <- which(sizes >= min_obs)
    if (length(kept) == 0L) {
        stopM2ST("Expected a domain with at least min_obs = ", min_obs, " spots in a section, ",
            "found at most ", max(0L, sizes), ". Pass a smaller number.")
    }
    column <- match(pairs, kept)
    taken <- which(!is.na(column))
    members <- Matrix::sparseMatrix(
        i = taken, j = column[taken], x = 1, dims = c(length(pairs), length(kept))
    )
    sums <- as.matrix(counts %*% members)
    samples <- data.frame(
        sample = factor(levels(sections)[(kept - 1L) %/% n + 1L], levels(sections)),
        domain = factor(levels(found$domain)[(kept - 1L) %% n + 1L], levels(found$domain)),
        n_obs = sizes[kept]
    )
    first <- match(levels(sections), as.character(sections))
    for (name in setdiff(names(found$columns), names(samples))) {
        values <- found$columns[[name]]
        if (isConstant(values, sections, first)) {
            samples[[name]] <- values[first][as.integer(samples$sample)]
        }
    }
    rownames(samples) <- make.unique(paste(samples$sample, samples$domain, sep = "_"))
    dimnames(sums) <- list(found$genes, rownames(samples))
    if (max(0, sums) <= .Machine$integer.max) {
        storage.mode(sums) <- "integer"
    }
    list(counts = sums, samples = samples)
}

# Whether a column has one value in each section.
isConstant <- function(values, sections, first) {
    is.atomic(values) && length(values) == length(sections) && {
        codes <- match(values, unique(values))
        known <- !is.na(sections)
        all(codes[known] == codes[first[as.integer(sections[known])]])
    }
}

# `domain`, `coords` and `sample` of each spot, and further `columns`; with `expression`, `counts`,
# `what` they are called, and `genes`.
readDomains <- function(x, ...) {
    UseMethod("readDomains")
}

readDomains.default <- function(x, ...) {
    stopM2ST("Expected an object that runM2ST() returned, or a list of them, found ", class(x)[1L],
        ".")
}

readDomains.m2st <- function(x, name, sample_id, counts = NULL, expression = FALSE, ...) {
    checkNoMore(...)
    columns <- columnsM2ST(x)
    column <- resolveColumn(name, names(columns))
    found <- list(
        domain = storedLabels(columns, column, "the result"), coords = x$coords,
        sample = if (is.null(sample_id)) x$sample_id else sample_id, words = wordsOf$matrix,
        slots = list(m2st_domain = columnWord(column), sample = "`sample_id`")
    )
    found$domain <- unname(found$domain)
    if (length(found$sample) && length(found$sample) != length(found$domain)) {
        stopM2ST("Expected `sample_id` to give the section of each of ", length(found$domain),
            " spots, found ", length(found$sample), ".")
    }
    if (expression) {
        if (is.null(counts)) {
            stopM2ST("Expected `counts`, which the result does not hold. Pass the matrix that ",
                "runM2ST() was given.")
        }
        if (length(dim(counts)) != 2L || ncol(counts) != length(found$domain)) {
            stopM2ST("Expected counts of ", length(found$domain), " spots, found ", ncol(counts),
                ".")
        }
        found <- c(found, list(counts = counts, what = "`counts`", genes = rownames(counts)))
    }
    nameSections(found)
}

readDomains.SummarizedExperiment <- function(
    x, name, sample_id, coords = NULL, assay.type = "counts", expression = FALSE, ...
) {
    checkNoMore(...)
    columns <- as.list(SummarizedExperiment::colData(x))
    column <- resolveColumn(name, names(columns))
    sections <- if (is.null(sample_id)) "sample_id" else sample_id
    found <- list(
        domain = storedLabels(columns, column, "colData(x)"), columns = columns,
        sample = sampleSE(x, sample_id), words = wordsOf$SummarizedExperiment,
        slots = list(m2st_domain = columnWord(column), sample = columnWord(sections))
    )
    found <- c(found, if (expression) {
        expressionSE(x, assay.type, NULL, NULL)
    } else {
        list(coords = checkCoords(coordsSE(x, coords), colnames(x), ncol(x)))
    })
    nameSections(found, columns[[sections]])
}

readDomains.SpatialExperiment <- function(
    x, name, sample_id, coords = NULL, ..., expression = FALSE
) {
    if (is.null(coords) && !expression) {
        coords <- coordsSPE(x)
    }
    readDomains.SummarizedExperiment(x, name, sample_id, coords, ..., expression = expression)
}

readDomains.Seurat <- function(
    x, name, sample_id, coords = NULL, image = NULL, assay = NULL, layer = "counts",
    expression = FALSE, ...
) {
    checkNoMore(...)
    loadClasses(x)
    columns <- as.list(x[[]])
    column <- resolveColumn(name, names(columns))
    found <- list(
        domain = storedLabels(columns, column, "meta.data"), columns = columns,
        words = wordsOf$Seurat, slots = list(m2st_domain = columnWord(column))
    )
    found$slots$sample <- if (!is.null(sample_id)) columnWord(sample_id)
    known <- SeuratObject::Images(x)
    if (expression && !is.null(sample_id)) {
        found$sample <- sampleColumn(x[[]], sample_id, "meta.data")
        known <- columns[[sample_id]]
    } else {
        place <- placeSeurat(x, image, coords, sample_id)
        found$sample <- place$sample
        found$coords <- checkCoords(place$coords, colnames(x), ncol(x))
        known <- if (is.null(sample_id)) known else columns[[sample_id]]
    }
    if (expression) {
        expressed <- expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL)
        found$domain[!expressed$measured] <- NA
        found <- c(found, expressed)
    }
    nameSections(found, known)
}

readDomains.list <- function(x, name, sample_id, coords = NULL, ..., expression = FALSE) {
    checkSections(x)
    found <- eachSection(x, coords, function(one, coords) {
        do.call(readDomains, c(
            list(one, name, sample_id), if (!is.null(coords)) list(coords = coords), list(...),
            list(expression = expression)
        ), quote = TRUE)
    })
    names <- sectionsOf(x)
    levels <- unique(unlist(lapply(found, function(one) levels(one$domain))))
    together <- function(part) unlist(lapply(unname(found), part))
    sample <- unlist(Map(function(one, name) {
        several <- length(unique(one$sample)) > 1L
        if (several) {
            ifelse(is.na(one$sample), NA, paste(name, one$sample, sep = "_"))
        } else {
            rep(name, length(one$domain))
        }
    }, unname(found), names))
    shared <- Reduce(intersect, lapply(found, function(one) names(one$columns)))
    joined <- list(
        domain = factor(together(function(one) as.character(one$domain)), levels),
        sample = sample, words = found[[1L]]$words, slots = found[[1L]]$slots["m2st_domain"],
        columns = stats::setNames(lapply(shared, function(name) {
            together(function(one) {
                values <- one$columns[[name]]
                if (is.factor(values)) as.character(values) else values
            })
        }), shared)
    )
    if (expression) {
        parts <- lapply(found, function(one) {
            one$counts <- asExpression(one$counts, one$what)
            one
        })
        return(c(joined, joinExpression(parts)))
    }
    joined$coords <- do.call(rbind, lapply(unname(found), function(one) unname(one$coords)))
    joined
}

# A single section has the name that the object knows, if it is one.
nameSections <- function(found, name = NULL) {
    if (is.null(found$sample)) {
        name <- unique(as.character(name))
        found$sample <- rep(if (length(name) == 1L) name else "all", length(found$domain))
    }
    found$domain <- as.factor(found$domain)
    found$sample <- as.character(found$sample)
    found
}

# Condition of each spot: of a column, or of its section.
conditionOf <- function(condition, found) {
    if (missing(condition)) {
        stopM2ST("Expected `condition`, the column with the condition of each spot, found none.")
    }
    single <- is.character(condition) && length(condition) == 1L && is.null(names(condition))
    if (single && condition %in% names(found$columns)) {
        values <- chosenColumn(found$columns, condition, "the spots")
        return(if (is.factor(values)) values else factor(values))
    }
    conditionOfSections(condition, found)
}

conditionOfSections <- function(condition, found) {
    sections <- unique(stats::na.omit(found$sample))
    if (is.null(names(condition)) || is.list(condition)) {
        stopM2ST("Expected `condition` to name a column of the spots, or to give the condition of ",
            "each section by its name, such as c(", sections[1L], " = \"control\"), found ",
            shorten(condition), ". Columns: ", quoted(names(found$columns)), ".")
    }
    unknown <- setdiff(names(condition), sections)
    if (length(unknown)) {
        stopM2ST("Expected conditions of the sections ", quoted(sections), ", found one of ",
            quoted(unknown[1L]), ".")
    }
    values <- if (is.factor(condition)) condition else factor(condition, unique(condition))
    values[match(found$sample, names(condition))]
}

compositionRequest <- function(found) {
    found$sample <- factor(found$sample, unique(found$sample))
    c(
        placeRequest(list(coords = found$coords, sample = codesOfMissing(found$sample))),
        list(
            domains = labelsRequest(found$domain), words = wordsRequest(found[c("words", "slots")])
        )
    )
}

# Missing sections have the code -1, which Python reads as missing.
codesOfMissing <- function(sample) {
    structure(ifelse(is.na(sample), 0L, as.integer(sample)), levels = levels(sample))
}

# A table that Python returned, column by column.
tableOf <- function(answer) {
    columns <- lapply(answer$columns, function(column) {
        if (!is.null(column$texts)) {
            return(as.character(unlist(column$texts)))
        }
        values <- readBin(column$numbers, "double", answer$n_rows)
        values[is.nan(values)] <- NA_real_
        if (isTRUE(column$whole)) as.integer(values) else values
    })
    names(columns) <- vapply(answer$columns, `[[`, character(1L), "name")
    as.data.frame(columns)
}
