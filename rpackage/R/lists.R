# Lists of objects, one for each section: they become one input, and the result goes back into them.

#' @rdname runM2ST
#' @export
runM2ST.list <- function(
    x, k, coords = NULL, ..., normalized = FALSE, n_pcs = NULL, params = m2stParams(), seed = 0L,
    device = "auto", n.cores = 1L, checkpoint = NULL, save = NULL, keep = NULL,
    verbose = NULL
) {
    call <- sys.call()
    hushed(verbose, {
        opened <- openList(x, coords, ...)
        checkHasK(k)
        arguments <- list(...)
        arguments <- c(arguments, mget(setdiff(names(formals()), c("x", "coords", "..."))))
        write <- function(result) {
            found <- opened$write(result)
            for (i in which(vapply(found, inherits, logical(1L), "Seurat"))) {
                found[[i]] <- logRun(found[[i]], call, arguments, opened$assays[[i]])
            }
            found
        }
        computeDomains(opened$input, k, arguments[workArguments], verbose, write)
    })
}

#' @rdname clusterM2ST
#' @export
clusterM2ST.list <- function(
    x, k, coords = NULL, sample_id = NULL, ..., params = m2stParams(), seed = 0L, n.cores = 1L,
    verbose = NULL
) {
    checkHasK(k)
    hushed(verbose, {
        opened <- openEmbedded(x, k, coords, sample_id, ...)
        results <- computeClusters(opened$input, k, params, seed, n.cores, verbose)
        Map(function(one, at) {
            one$write(lapply(results, partOfResult, at))
        }, opened$each, rowsOfSections(opened$each))
    })
}

#' @rdname chooseDomains
#' @export
chooseDomains.list <- function(
    x, k = 2:12, coords = NULL, sample_id = NULL, ..., params = m2stParams(), seed = 0L,
    n.cores = 1L, verbose = NULL
) {
    hushed(verbose, {
        opened <- openEmbedded(x, 2L, coords, sample_id, ...)
        computeChoice(opened$input, k, params, seed, n.cores, verbose)
    })
}

# Embeddings of one run in all sections as one `input`, and `each` of them.
openEmbedded <- function(x, k, coords, sample_id, ...) {
    checkSections(x)
    if (inherits(x[[1L]], "m2st")) {
        stopM2ST("Expected a list of Seurat objects or SingleCellExperiments, found results of ",
            "matrices. Join the matrices for runM2ST() and tell `sample_id`.")
    }
    opened <- eachSection(x, coords, function(one, coords) {
        openClusters(one, k, coords, sample_id, ...)
    })
    input <- joinPlaces(lapply(opened, `[[`, "input"))
    scales <- lapply(opened, function(one) one$input$scales)
    if (length(unique(lapply(scales, vapply, ncol, integer(1L)))) > 1L) {
        stopM2ST("Expected embeddings of one run in all sections, found different widths. ",
            "Run the list together: embedM2ST(list(...)).")
    }
    input$scales <- do.call(Map, c(list(f = rbind), unname(scales)))
    input[c("record", "slots")] <- opened[[1L]]$input[c("record", "slots")]
    list(input = input, each = opened)
}

#' @rdname applyM2ST
#' @export
applyM2ST.list <- function(x, model, coords = NULL, ...) {
    checkSections(x)
    model <- checkModel(model)
    eachSection(x, coords, function(one, coords) {
        if (is.null(coords)) applyM2ST(one, model, ...) else {
            applyM2ST(one, model, coords = coords, ...)
        }
    })
}

# One input of all sections, and how the result is written back into each of them.
openList <- function(x, coords, ...) {
    checkSections(x)
    arguments <- list(...)
    known <- setdiff(unlist(lapply(x, function(one) names(formals(openMethod(one))))), "...")
    others <- setdiff(names(arguments), known)
    if (length(others) || length(arguments) != sum(nzchar(names(arguments)))) {
        checkNoMore(...)
    }
    opened <- eachSection(x, coords, function(one, coords) {
        opened <- do.call(
            openObject, c(list(one), if (!is.null(coords)) list(coords = coords), arguments),
            quote = TRUE
        )
        if (is.null(opened$input$features)) {
            opened$input$counts <- asExpression(opened$input$counts, opened$input$what)
        }
        opened
    })
    inputs <- lapply(opened, `[[`, "input")
    input <- c(joinPlaces(inputs), joinExpression(inputs))
    rows <- rowsOfSections(opened)
    write <- function(result) {
        Map(function(one, at) one$write(partOfResult(result, at)), opened, rows)
    }
    list(input = input, write = write, assays = lapply(opened, `[[`, "assay"))
}

openMethod <- function(x) {
    kind <- kindOf(x)
    if (kind == "Seurat object") {
        openObject.Seurat
    } else if (kind == "matrix") {
        openObject.matrix
    } else {
        openObject.SummarizedExperiment
    }
}

# What an element of a list is; NULL for what can be no section.
kindOf <- function(x) {
    if (inherits(x, "Seurat")) {
        "Seurat object"
    } else if (is(x, "SummarizedExperiment")) {
        "SummarizedExperiment"
    } else if (is.matrix(x) || is(x, "Matrix")) {
        "matrix"
    } else if (inherits(x, "m2st")) {
        "result of a matrix"
    }
}

checkSections <- function(x) {
    if (length(x) == 0L) {
        stopM2ST("Expected a list of sections, found an empty list.")
    }
    kinds <- lapply(unname(x), kindOf)
    bad <- which(vapply(kinds, is.null, logical(1L)))
    if (length(bad)) {
        found <- x[[bad[1L]]]
        stopM2ST("Expected Seurat objects, SummarizedExperiments or matrices in the list, found ",
            if (is.null(found)) "NULL" else class(found)[1L], " as element ", bad[1L], ".")
    }
    if (length(unique(kinds)) > 1L) {
        stopM2ST("Expected objects of one kind in the list, found ",
            paste0(unique(unlist(kinds)), collapse = " and "), ". Convert some of them.")
    }
    given <- names(x)
    if (!is.null(given) && (anyNA(given) || !all(nzchar(given)))) {
        stopM2ST("Expected a name for each section in the list, or none at all, found none for ",
            "element ", which(is.na(given) | !nzchar(given))[1L], ".")
    }
    doubled <- given[duplicated(given)]
    if (length(doubled)) {
        stopM2ST("Expected a name of its own for each section in the list, found ",
            quoted(doubled[1L]), " twice.")
    }
    invisible()
}

sectionsOf <- function(x) {
    if (is.null(names(x))) as.character(seq_along(x)) else names(x)
}

# Applies a function of a section and its coordinates to each; an error tells which section it is of.
eachSection <- function(x, coords, do) {
    several <- is.list(coords) && !is.data.frame(coords)
    if (several && (length(coords) != length(x) || !identical(names(coords), names(x)))) {
        stopM2ST("Expected `coords` as a list like `x`, with the coordinates of each section ",
            "under its name, found ", length(coords), " for ", length(x), " sections (names: ",
            quoted(names(coords)), ").")
    }
    if (!several && isTable(coords)) {
        stopM2ST("Expected coordinates for each section, found one table. Pass a list of tables ",
            "like `x`, or names of columns.")
    }
    found <- Map(function(one, name, at) {
        tryCatch(do(one, at), error = function(e) {
            stopM2ST("Section ", quoted(name), ": ", conditionMessage(e))
        })
    }, x, sectionsOf(x), if (several) coords else list(coords))
    names(found) <- names(x)
    found
}

# Places of all sections, one below the other.
joinPlaces <- function(inputs) {
    names <- sectionsOf(inputs)
    for (i in seq_along(inputs)) {
        one <- inputs[[i]]
        coords <- tryCatch(
            checkCoords(one$coords, one$names, length(one$inside)),
            error = function(e) stopM2ST("Section ", quoted(names[i]), ": ", conditionMessage(e))
        )
        inputs[[i]]$coords <- unname(coords)
        inputs[[i]]$section <- if (is.null(one$sample)) {
            rep(names[i], length(one$inside))
        } else {
            ifelse(is.na(one$sample), NA, paste(names[i], one$sample, sep = "_"))
        }
    }
    widths <- vapply(inputs, function(one) ncol(one$coords), integer(1L))
    if (length(unique(widths)) > 1L) {
        stopM2ST("Expected coordinates of one number of axes in all sections, found ",
            toString(unique(widths)), ".")
    }
    sections <- lapply(inputs, function(one) unique(stats::na.omit(one$section)))
    doubled <- unlist(sections)[duplicated(unlist(sections))]
    if (length(doubled)) {
        stopM2ST("Expected different sections in the list, found ", quoted(doubled[1L]), " twice. ",
            "Give the list other names.")
    }
    together <- function(part) unlist(lapply(unname(inputs), `[[`, part))
    measured <- lapply(unname(inputs), function(one) {
        if (is.null(one$measured)) rep(TRUE, length(one$inside)) else one$measured
    })
    sample <- together("section")
    list(
        coords = do.call(rbind, lapply(unname(inputs), `[[`, "coords")), sample = sample,
        batch = together("batch"), types = together("types"), inside = together("inside"), measured = unlist(measured),
        chosen = any(unlist(together("chosen"))), candidates = list(section = sample),
        names = NULL, words = inputs[[1L]]$words
    )
}

# Expression of all sections side by side: of the genes that all have.
joinExpression <- function(inputs) {
    first <- inputs[[1L]]
    what <- unique(vapply(inputs, `[[`, character(1L), "what"))
    what <- if (length(what) == 1L) what else "the expression"
    if (!is.null(first$features)) {
        widths <- vapply(inputs, function(one) ncol(one$features), integer(1L))
        if (length(unique(widths)) > 1L) {
            stopM2ST("Expected features with the same columns in all sections, found ",
                toString(unique(widths)), " columns.")
        }
        features <- do.call(rbind, lapply(unname(inputs), function(one) unname(one$features)))
        return(list(features = features, what = what))
    }
    genes <- sharedGenes(inputs)
    parts <- lapply(inputs, function(one) {
        counts <- one$counts
        if (!identical(one$genes, genes)) {
            counts <- counts[match(genes, one$genes), , drop = FALSE]
        }
        dimnames(counts) <- list(NULL, NULL)
        counts
    })
    if (!all(vapply(parts, is.matrix, logical(1L)))) {
        parts <- lapply(parts, as, "CsparseMatrix")
    }
    rows <- if (!is.null(first$rows)) {
        lapply(first$rows, function(column) column[match(genes, first$genes)])
    }
    list(counts = do.call(cbind, unname(parts)), what = what, genes = genes, rows = rows)
}

# Names of the genes that all sections have, in the order of the first.
sharedGenes <- function(inputs) {
    names <- sectionsOf(inputs)
    for (i in seq_along(inputs)) {
        inputs[[i]]$what <- paste0(inputs[[i]]$what, " of section '", names[i], "'")
        checkGenes(inputs[[i]])
    }
    all <- lapply(inputs, `[[`, "genes")
    shared <- Reduce(intersect, all)
    sizes <- lengths(all)
    if (2 * length(shared) < min(sizes)) {
        other <- which.min(vapply(all, function(genes) sum(genes %in% all[[1L]]), integer(1L)))
        stopM2ST("Expected sections with the same genes, found ", length(shared), " that all have, ",
            "of ", min(sizes), " or more. Section ", quoted(names[1L]), " has names such as ",
            quoted(utils::head(all[[1L]], 2L)), ", section ", quoted(names[other]), " ",
            quoted(utils::head(all[[other]], 2L)), ". Use the same names in all, or leave out a ",
            "section with other genes.")
    }
    if (any(sizes != length(shared))) {
        say("Using the ", length(shared), " genes that all ", length(inputs), " sections have, of ",
            paste(unique(range(sizes)), collapse = " to "), ".")
    }
    shared
}

# Rows of each section in what is joined.
rowsOfSections <- function(opened) {
    sizes <- vapply(opened, function(one) length(one$input$inside), integer(1L))
    ends <- cumsum(sizes)
    Map(function(end, size) seq_len(size) + end - size, ends, sizes)
}

# The part of a result that belongs to some spots.
partOfResult <- function(result, at) {
    rows <- function(matrix) matrix[at, , drop = FALSE]
    result$scales <- lapply(result$scales, rows)
    for (part in intersect(c("embedding", "coords"), names(result))) {
        result[[part]] <- rows(result[[part]])
    }
    for (part in intersect(c("domain", "confidence", "second_domain"), names(result))) {
        result[[part]] <- result[[part]][at]
    }
    if (!is.null(result$sample)) {
        result$sample <- oneOrMore(result$sample[at])
    }
    result
}
