# Labels of an annotated section, carried to another one.

#' Labels of annotated spots, carried to another section
#'
#' Learns the labels of one section and finds them in another. No network is trained: it takes
#' seconds. The two objects may be of different classes. They need genes of the same names: at least
#' half of those of the smaller set.
#'
#' The confidence is the probability that an annotator would give the label. It was calibrated on
#' published sections. Spots unlike all that is labelled have no label. A section unlike the reference
#' gets a warning, low confidence and few labels.
#'
#' @param x The new section: an object of any class that [runM2ST()] takes, or a list of them.
#' @param reference The annotated section: another object of any such class, with at least two spots
#'   of each label.
#' @param labels Name of the column of the reference with the labels; for a matrix, a factor or
#'   character vector. `NA` where a spot has none. Numbers are no labels.
#' @param save Folder to save the fitted model in, for [applyM2ST()]. `NULL` saves nothing.
#' @param n_new Number of domains in the new section that no label knows. They are found without
#'   labels and called "new 1" and so on. The saved model does not keep them.
#' @param reference.args Further arguments that say how to read the reference, as a list: `coords`,
#'   `sample_id`, `assay.type`, `image`, `assay`, `layer`.
#' @param normalized The values of both are already normalised and on a log scale.
#' @param verbose As for [runM2ST()]. What is said of the reference begins with "Of the reference".
#' @param ... Further arguments of [applyM2ST()] for `x`, such as `coords` or `sample_id`.
#' @return As for [applyM2ST()]; the levels of the domains are those of the labels. Embeddings are the
#'   components of the expression that labels are found from.
#' @seealso [applyM2ST()]
#' @examples
#' set.seed(1)
#' coords <- as.matrix(expand.grid(row = 1:12, col = 1:12))
#' layer <- ifelse(coords[, "row"] > 6, "upper", "lower")
#' rates <- outer(1:30, layer == "upper", function(gene, upper) {
#'     ifelse((gene > 15) == upper, 4, 1)
#' })
#' section <- function() {
#'     counts <- matrix(rpois(30 * 144, rates), 30)
#'     rownames(counts) <- paste0("gene", 1:30)
#'     counts
#' }
#' if (m2stAvailable()) {
#'     found <- suppressWarnings(annotateM2ST(
#'         section(), section(), layer, coords = coords, reference.args = list(coords = coords)
#'     ))
#'     table(found$domain, layer)
#' }
#' @export
annotateM2ST <- function(
    x, reference, labels, save = NULL, n_new = 0, reference.args = list(), normalized = FALSE,
    verbose = NULL, ...
) {
    if (missing(reference)) {
        stopM2ST("Expected `reference`, an object with labels, found none. To apply a saved model, ",
            "call applyM2ST(x, model).")
    }
    if (missing(labels)) {
        stopM2ST("Expected `labels`, found none. Name the column of the reference with the labels, ",
            "such as labels = \"layer\". Those of a matrix are a factor.")
    }
    unknown <- setdiff(names(reference.args), argumentsOfReference)
    if (length(unknown) || length(reference.args) != length(names(reference.args))) {
        stopM2ST("Expected `reference.args` to be a list with names among ",
            quoted(argumentsOfReference), ", found ",
            if (length(unknown)) quoted(unknown[1L]) else "one without a name", ".")
    }
    sections <- list(x)
    if (is.list(x) && is.null(kindOf(x))) {
        checkSections(x)
        sections <- x
    }
    others <- lapply(sections, expressionOf, ...)
    if (!is.numeric(n_new) || length(n_new) != 1L || !isTRUE(n_new >= 0 && n_new %% 1 == 0)) {
        stopM2ST("Expected `n_new` to be a whole number, 0 or more, found ",
            paste(format(n_new), collapse = ", "), ".")
    }
    folder <- if (is.null(save)) tempfile("model") else save
    if (is.null(save)) {
        on.exit(unlink(folder, recursive = TRUE))
    }
    known <- list(reference, labels = labels, others = others, save = folder)
    hushed(verbose, ofReference(
        do.call(learnLabels, c(known, reference.args, list(normalized = normalized)))
    ))
    # Of this call, and no argument of applyM2ST(): the model knows of no new domain.
    applyM2ST(x, structure(folder, n_new = n_new), normalized = normalized, verbose = verbose, ...)
}

argumentsOfReference <- c("coords", "sample_id", "assay.type", "image", "assay", "layer")

# Runs the code; what it says is of the reference, whose arguments have a list of their own.
ofReference <- function(code) {
    told <- function(condition) {
        text <- sub("\n$", "", conditionMessage(condition))
        text <- gsub("(colData|rownames)\\(x\\)", "\\1(reference)", text)
        paste0("Of the reference: ", gsub("`x`", "`reference`", text, fixed = TRUE))
    }
    withCallingHandlers(
        tryCatch(code, error = function(e) {
            text <- told(e)
            names <- gsub(".", "[.]", argumentsOfReference, fixed = TRUE)
            pattern <- paste0("\\b(", paste(names, collapse = "|"), ")(?= = |`)")
            argument <- regmatches(text, regexpr(pattern, text, perl = TRUE))
            stopM2ST(text, if (length(argument)) {
                paste0(" This goes into reference.args = list(", argument, " = ...).")
            })
        }),
        m2stMessage = function(condition) {
            say(told(condition))
            invokeRestart("muffleMessage")
        },
        warning = function(condition) {
            warning(told(condition), call. = FALSE)
            invokeRestart("muffleWarning")
        }
    )
}

learnLabels <- function(reference, labels, ...) {
    UseMethod("learnLabels")
}

learnLabels.default <- function(reference, labels, ...) {
    if (is.character(reference)) {
        stopM2ST("Expected an object with labels, found a text. For the folder of a model, call ",
            "applyM2ST(x, model). For spatialLIBD, pass spatialLIBD::fetch_data(\"spe\").")
    }
    runM2ST.default(reference)
}

learnLabels.matrix <- function(
    reference, labels, others, save, normalized, coords, sample_id = NULL
) {
    input <- c(inputMatrix(reference, coords, sample_id), list(slots = list(labels = "`labels`")))
    learnModel(input, labels, others, save, normalized)
}

learnLabels.Matrix <- learnLabels.matrix

learnLabels.DelayedMatrix <- learnLabels.matrix

learnLabels.IterableMatrix <- learnLabels.matrix

learnLabels.SummarizedExperiment <- function(
    reference, labels, others, save, normalized, coords = NULL, sample_id = NULL,
    assay.type = "counts"
) {
    values <- chosenColumn(
        as.list(SummarizedExperiment::colData(reference)), labels, "colData(reference)"
    )
    input <- c(
        expressionSE(reference, assay.type, NULL, NULL), placeSE(reference, coords, sample_id),
        list(slots = list(labels = columnWord(labels)))
    )
    learnModel(input, values, others, save, normalized)
}

learnLabels.SpatialExperiment <- function(reference, labels, ..., coords = NULL) {
    if (is.null(coords)) {
        coords <- coordsSPE(reference)
    }
    learnLabels.SummarizedExperiment(reference, labels, ..., coords = coords)
}

learnLabels.Seurat <- function(
    reference, labels, others, save, normalized, coords = NULL, sample_id = NULL, image = NULL,
    assay = NULL, layer = "counts"
) {
    loadClasses(reference)
    values <- chosenColumn(as.list(reference[[]]), labels, "reference[[]]")
    input <- c(
        expressionSeurat(reference, resolveAssay(reference, assay), layer, NULL, NULL),
        placeSeurat(reference, image, coords, sample_id),
        list(slots = list(labels = columnWord(labels)))
    )
    learnModel(input, values, others, save, normalized)
}

learnModel <- function(input, labels, others, save, normalized) {
    if (length(labels) != length(input$inside)) {
        stopM2ST("Expected a label or NA for each of ", length(input$inside), " spots, found ",
            length(labels), ".")
    }
    checkNames(labels)
    written <- intersect(trimws(labels), c("", "NA", "NaN", "nan", "None", "<NA>"))
    if (length(written)) {
        stopM2ST("Expected missing labels to be NA, found the text ", quoted(written[1L]),
            ". Write labels[labels == \"", written[1L], "\"] <- NA.")
    }
    unused <- setdiff(levels(labels), as.character(labels))
    if (length(unused)) {
        # A part of an object keeps the levels of the whole.
        say("No spot has a label of ", quoted(unused), ".")
        labels <- droplevels(labels)
    }
    save <- checkSave(save, input)
    input <- checkInput(input)
    lapply(others, checkOther, input, !is.na(labels))
    genes <- Reduce(intersect, lapply(others, `[[`, "genes"))
    kept <- keepValid(input)
    request <- c(
        sectionRequest(kept, normalized), genesRequest(kept, columns = TRUE),
        list(
            labels = labelsRequest(as.factor(labels)[input$valid]),
            others = paste(genes, collapse = "\n"), save = save
        )
    )
    request$words <- wordsRequest(input)
    askPython("learn", request, FALSE)
}

# Expression of a new section and its genes. Further arguments are those of applyM2ST().
expressionOf <- function(x, assay.type = "counts", assay = NULL, layer = "counts", ...) {
    found <- if (is(x, "SummarizedExperiment")) {
        expressionSE(x, assay.type, NULL, NULL)
    } else if (inherits(x, "Seurat")) {
        loadClasses(x)
        expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL)
    } else if (length(dim(x)) == 2L && !is.data.frame(x)) {
        list(counts = x, genes = rownames(x), what = "`x`")
    } else {
        runM2ST.default(x)
    }
    found$counts <- asExpression(found$counts, found$what)
    checkGenes(found)
    found
}

# A new section is none of the labelled spots under other names: their values are others.
checkOther <- function(new, input, labelled) {
    shared <- intersect(input$genes, new$genes)
    fingerprints <- function(counts, genes) {
        # Whole numbers, so that the order of the genes changes no sum of counts.
        weights <- numeric(length(genes))
        weights[match(shared, genes)] <- (seq_along(shared) * 2654435761) %% 2^31
        as.numeric(weights %*% counts)
    }
    known <- fingerprints(input$counts, input$genes)[labelled]
    found <- fingerprints(new$counts, new$genes)
    if (isTRUE(mean(found %in% known[known > 0]) > 0.5)) {
        stopM2ST("Expected another section than the new one, found the same spots in both. Pass ",
            "a section that is not annotated yet.")
    }
}
