# The one place where R and Python meet. Requests and answers are described in m2st/bridge.py:
# plain values and raw buffers only, so that no conversion of reticulate takes part.

callPython <- function(what, request, callback) {
    # Here Python starts, if there is one and it has the package.
    ask <- tryCatch(
        {
            if (is.null(state$module)) {
                state$module <- reticulate::import("importlib")$import_module("m2st.bridge")
            }
            state$module[[what]]
        },
        error = function(e) {
            # Asked again for a module that it lacks, reticulate prints all that it knows of Python.
            state$module <- NULL
            explainMissing(e)
        }
    )
    ask(request, callback)
}

# Send a request, follow it, and return the answer; an error of Python becomes one of R, and an
# interrupt is signalled only here, once Python has come to rest.
askPython <- function(what, request, verbose) {
    say("Loading Python and its libraries", verbose = verbose && is.null(state$loaded))
    state$loaded <- TRUE
    answer <- state$call(what, request, progressCallback(verbose))
    for (text in unlist(answer$warnings)) {
        warning(text, call. = FALSE)
    }
    if (isTRUE(answer$interrupted)) {
        signalInterrupt()
    }
    if (!is.null(answer$error)) {
        stopM2ST(answer$error)
    }
    answer
}

# Python is told of an interrupt rather than left by a jump. Without a callback there is no R code
# to be interrupted: reticulate then passes the interrupt on, and Python comes to rest by itself.
progressCallback <- function(verbose) {
    if (!verbose) {
        return(NULL)
    }
    function(text) {
        tryCatch(
            {
                say(text)
                TRUE
            },
            error = function(condition) TRUE,
            interrupt = function(condition) FALSE
        )
    }
}

signalInterrupt <- function() {
    condition <- structure(
        class = c("interrupt", "condition"),
        list(message = "The run was interrupted; nothing was changed.", call = NULL)
    )
    signalCondition(condition)
    message("The run was interrupted; nothing was changed.")
    invokeRestart("abort")
}

# A genes x spots dgCMatrix is, as it lies in memory, a spots x genes CSR matrix.
expressionRequest <- function(input) {
    if (!is.null(input$features)) {
        return(list(
            shape = dim(input$features),
            features = toBuffer(as.double(input$features), 8L)
        ))
    }
    counts <- input$counts
    shape <- rev(dim(counts))
    if (is.matrix(counts)) {
        return(list(shape = shape, dense = toBuffer(as.double(counts), 4L)))
    }
    list(
        shape = shape,
        data = toBuffer(counts@x, 4L),
        indices = toBuffer(counts@i, 4L),
        indptr = toBuffer(counts@p, 4L)
    )
}

# Codes of a factor from 0, -1 where missing, and its levels.
labelsRequest <- function(values) {
    codes <- as.integer(values) - 1L
    list(
        codes = toBuffer(ifelse(is.na(codes), -1L, codes), 4L), levels = as.list(levels(values))
    )
}

placeRequest <- function(input) {
    list(
        coordinates = toBuffer(as.double(input$coords), 8L),
        n_axes = ncol(input$coords),
        sample = if (!is.null(input$sample)) toBuffer(as.integer(input$sample) - 1L, 4L),
        sample_names = as.list(levels(input$sample))
    )
}

# What is shifted, if it is not the section.
batchRequest <- function(input) {
    if (!is.null(input$batch)) list(batch = labelsRequest(input$batch))
}

# Types of the cells, for a view of their own.
typesRequest <- function(input) {
    if (!is.null(input$types)) list(cell_types = labelsRequest(input$types))
}

# Everything of a section but the names of its genes.
sectionRequest <- function(input, normalized) {
    c(
        expressionRequest(input), placeRequest(input), overlayRequest(input), typesRequest(input),
        list(normalized = normalized)
    )
}

# Names of the genes, and other names that they may have.
genesRequest <- function(input, columns = FALSE) {
    others <- if (columns) {
        texts <- Filter(function(values) is.character(values) || is.factor(values), input$rows)
        Map(function(name, values) {
            list(name = name, values = paste(values, collapse = "\n"))
        }, names(texts), texts)
    }
    list(genes = paste(input$genes, collapse = "\n"), gene_columns = unname(others))
}

# What tells sections apart that lie on top of each other: columns that may name them, and barcodes.
overlayRequest <- function(input) {
    columns <- Map(function(name, values) {
        c(list(name = name), labelsRequest(factor(values)))
    }, names(input$candidates), input$candidates)
    list(candidates = unname(columns), names = paste(input$names, collapse = "\n"))
}

settingsRequest <- function(k, params, seed, device) {
    list(
        n_domains = k,
        autoencoder = params$autoencoder,
        clustering = params$clustering,
        paper = inherits(params, "paperParams"),
        random_state = seed,
        device = device,
        every = 50L
    )
}

scalesRequest <- function(scales, n_members) {
    scales <- lapply(scales, function(scale) {
        scale[is.na(scale)] <- NaN
        list(data = toBuffer(as.double(scale), 8L), shape = dim(scale))
    })
    list(
        scales = unname(scalesOf(scales)), views = viewsOf(scales),
        n_members = as.integer(n_members)
    )
}

# What the user calls what Python's messages speak of.
wordsRequest <- function(input) {
    c(
        input$words, if (!is.null(input$what)) list(X = input$what, features = input$what),
        if (length(input$slots)) list(slots = input$slots)
    )
}

columnWord <- function(name) paste0("column '", name, "'")

wordsOf <- list(
    matrix = list(sample_key = "`sample_id`"),
    SummarizedExperiment = list(
        sample_key = "`sample_id`", layer = "`assay.type`", use_rep = "`dimred`"
    ),
    Seurat = list(sample_key = "`sample_id`", layer = "`layer`", use_rep = "`reduction`")
)

toBuffer <- function(x, size) {
    writeBin(x, raw(), size = size)
}

fromBuffer <- function(part) {
    shape <- as.integer(unlist(part$shape))
    values <- readBin(part$data, "double", prod(shape), size = 4L)
    values[is.nan(values)] <- NA_real_
    matrix(values, shape[1L], shape[2L])
}

labelsFromBuffer <- function(buffer, n) {
    labels <- readBin(buffer, "integer", n, size = 4L)
    labels[labels == 0L] <- NA_integer_
    labels
}
