# BayesSpace on the object at hand: what it needs, checked before it runs.

#' BayesSpace on the same object
#'
#' Runs BayesSpace as its vignette does, on the counts that [runM2ST()] would take: 2,000 variable
#' genes, 15 principal components, 50,000 iterations.
#'
#' BayesSpace sees only the places of spots on their lattice. It does not check them, and wrong
#' places change its result. `runBayesSpaceFor()` therefore does this:
#'
#' * It writes places under both names, `array_row`, `array_col` (BayesSpace 1.15 and later) and
#'   `row`, `col` (earlier versions). Every version then reads the same ones.
#' * It moves sections apart, so that no two of them have neighbouring spots.
#' * It refuses a lattice with more than six neighbours of a spot (Visium), or four (ST). Most spots
#'   must have a neighbour.
#'
#' Spots off the tissue, without a place or without counts take no part and get `NA`.
#'
#' @param x A SummarizedExperiment or an object of a class that extends it, or a Seurat object.
#' @param k Number of domains.
#' @param array The places on the lattice: names of two columns, rows first, or a matrix of them.
#'   `NULL` takes `array_row` and `array_col`, or `row` and `col`, or the places in a Seurat image.
#' @param platform `"Visium"`, `"VisiumHD"` or `"ST"`. `NULL` takes `"Visium"` if every other place
#'   of the lattice is empty, like the black squares of a chessboard, and `"ST"` otherwise.
#' @param name Name of the result: the column of domains is called `<name>_domain`.
#' @param assay.type,assay,layer,sample_id Where the counts and the sections are, as in [runM2ST()].
#' @param seed Seed; the random numbers of the session are left as they were.
#' @param nrep,burn.in Iterations, and how many of the first are left out.
#' @param ... Further arguments of `BayesSpace::spatialCluster()`.
#' @return The object with the column `<name>_domain`, a factor with levels `1` to `k`. BayesSpace
#'   may lose domains: then a level has no spot, and a warning says so. The record is in
#'   `metadata(x)[[name]]` or `Misc(x, name)`. It has the version, the settings, and the number of
#'   neighbours.
#' @references
#' Zhao E et al. (2021). Spatial transcriptomics at subspot resolution with BayesSpace. *Nature
#' Biotechnology* 39, 1375-1384.
#' @seealso [compareMethods()], [compareDomains()]
#' @examples
#' if (requireNamespace("BayesSpace", quietly = TRUE)) {
#'     sce <- BayesSpace::exampleSCE()
#'     sce <- runBayesSpaceFor(sce, k = 3, nrep = 200, burn.in = 50)
#'     table(sce$bayesspace_domain)
#' }
#' @export
runBayesSpaceFor <- function(x, k, ...) {
    UseMethod("runBayesSpaceFor")
}

#' @export
runBayesSpaceFor.default <- function(x, k, ...) {
    stopM2ST("Expected a SummarizedExperiment or Seurat object, found ", class(x)[1L], ".")
}

#' @rdname runBayesSpaceFor
#' @export
runBayesSpaceFor.SummarizedExperiment <- function(
    x, k, array = NULL, platform = NULL, sample_id = NULL, name = "bayesspace",
    assay.type = "counts", seed = 0L, nrep = 50000L, burn.in = 1000L, ...
) {
    checkName(name)
    columns <- SummarizedExperiment::colData(x)
    record <- S4Vectors::metadata(x)[[name]]
    checkNotTaken(name, NULL, names(columns), record, "metadata(x)", "burn.in")
    input <- c(expressionSE(x, assay.type, NULL, NULL), list(
        array = latticeColumns(columns, array, "colData(x)"), sample = sampleSE(x, sample_id),
        names = colnames(x), inside = insideTissue(columns)
    ))
    result <- computeBayesSpace(input, k, seed, platform, nrep, burn.in, ...)
    SummarizedExperiment::colData(x)[[domainName(name)]] <- result$domain
    S4Vectors::metadata(x)[[name]] <- result$record
    x
}

#' @rdname runBayesSpaceFor
#' @export
runBayesSpaceFor.Seurat <- function(
    x, k, array = NULL, platform = NULL, sample_id = NULL, name = "bayesspace", assay = NULL,
    layer = "counts", seed = 0L, nrep = 50000L, burn.in = 1000L, ...
) {
    loadClasses(x)
    checkName(name)
    if (domainName(name) %in% names(x)) {
        stopM2ST("Expected `name` to leave the names of assays, reductions, graphs and images, ",
            "found '", domainName(name), "'. Choose another name.")
    }
    record <- SeuratObject::Misc(x, slot = name)
    checkNotTaken(name, NULL, names(x[[]]), record, "Misc(x)", "burn.in")
    input <- expressionSeurat(x, resolveAssay(x, assay), layer, NULL, NULL)
    lattice <- latticeSeurat(x, array)
    input$array <- lattice$array
    input$sample <- sampleSeurat(x, sample_id, lattice$sample)
    input$names <- colnames(x)
    input$inside <- insideTissue(x[[]]) & input$measured
    result <- computeBayesSpace(input, k, seed, platform, nrep, burn.in, ...)
    x[[domainName(name)]] <- stats::setNames(result$domain, colnames(x))
    # To replace an earlier record is wanted; Seurat warns of it.
    suppressWarnings(SeuratObject::Misc(x, slot = name) <- result$record)
    x
}

# Domains of all spots, and the record.
computeBayesSpace <- function(input, k, seed, platform, nrep, burn.in, ...) {
    k <- checkK(k, length(input$inside))
    seed <- checkSeed(seed)
    requirePackage("BayesSpace", "to run it")
    input$counts <- checkExpression(input$counts, input$what, whole = TRUE)
    on <- rowSums(!is.finite(checkLattice(input$array))) == 0L
    input$valid <- input$inside & on & Matrix::colSums(input$counts) > 0
    input$sample <- checkSample(input$sample, input$valid)
    found <- bayesSpace(keepSpots(input), k, seed, nrep, platform, burn.in = burn.in, ...)
    labels <- rep(NA_integer_, length(input$valid))
    labels[input$valid] <- found$labels
    lost <- k - length(unique(found$labels))
    if (lost > 0L) {
        warning("BayesSpace found ", k - lost, " of ", k, " domains.", call. = FALSE)
    }
    list(domain = factor(labels, levels = seq_len(k)), record = c(
        list(version = found$version, k = k, seed = seed, nrep = nrep, burn.in = burn.in),
        found$lattice
    ))
}

# Labels of spots that all take part, from their counts and lattice.
bayesSpace <- function(input, k, seed, nrep = 50000L, platform = NULL, burn.in = 1000L, ...) {
    requirePackage("BayesSpace", "to run it")
    lattice <- prepareLattice(input$array, input$sample, platform)
    place <- lattice$place
    sce <- SingleCellExperiment::SingleCellExperiment(
        list(counts = namedCounts(input$counts)),
        colData = S4Vectors::DataFrame(
            array_row = place[, "row"], array_col = place[, "col"],
            row = place[, "row"], col = place[, "col"]
        )
    )
    platform <- lattice$platform
    d <- min(15L, dim(sce) - 1L)
    sce <- withr::with_seed(seed, suppressMessages({
        sce <- BayesSpace::spatialPreprocess(sce, platform = platform, n.PCs = d)
        BayesSpace::spatialCluster(
            sce, q = k, d = d, platform = platform, nrep = nrep, burn.in = burn.in, ...
        )
    }))
    list(
        labels = as.integer(sce$spatial.cluster), version = packageLabel("BayesSpace"),
        lattice = lattice[c("platform", "most_neighbors", "median_neighbors")]
    )
}

packageLabel <- function(package) {
    paste(package, format(packageVersion(package)))
}

# Genes and spots need names, each once; those of the object may be repeated.
namedCounts <- function(counts) {
    dimnames(counts) <- list(
        paste0("gene", seq_len(nrow(counts))), paste0("spot", seq_len(ncol(counts)))
    )
    counts
}

# Whole places with sections apart, the platform, and how many neighbours BayesSpace will find.
prepareLattice <- function(array, sample, platform = NULL) {
    array <- checkLattice(array)
    if (!all(is.finite(array))) {
        stopM2ST("Expected the row and column of every spot on its lattice, found ",
            sum(rowSums(!is.finite(array)) > 0L), " spots without. Remove these spots first.")
    }
    if (is.null(sample)) {
        sample <- factor(rep("", nrow(array)))
    }
    if (is.null(platform)) {
        platform <- guessPlatform(array, sample)
    }
    place <- separateSections(array, sample)
    n <- countNeighbors(place, platform)
    limit <- nrow(latticeSteps(platform))
    again <- sum(duplicated(place))
    if (again || max(n) > limit) {
        stopM2ST("Expected one spot at each place of a section's lattice, so that none has more ",
            "than ", limit, " neighbours, found ", again, " repeated places and up to ", max(n),
            " neighbours. Name the column of sections, or correct the places.")
    }
    if (mean(n == 0L) > 0.5) {
        stopM2ST("Expected rows and columns of a ", platform, " lattice, found ", sum(n == 0L),
            " of ", length(n), " spots without any neighbour. Name the columns that count rows ",
            "and columns, array = ..., not those of pixels.")
    }
    list(
        place = place, platform = platform, most_neighbors = max(n),
        median_neighbors = stats::median(n)
    )
}

checkLattice <- function(array) {
    if (is.null(array)) {
        stopM2ST("BayesSpace needs the row and column of each spot on its lattice, found none. ",
            "Pass array = the names of two columns, or a matrix. It is not made for cells.")
    }
    array <- as.matrix(array)
    if (!is.numeric(array) || ncol(array) != 2L) {
        stopM2ST("Expected two columns of numbers in `array`, found ", ncol(array), " of type ",
            typeof(array), ".")
    }
    fraction <- which(array != round(array))
    if (length(fraction)) {
        stopM2ST("Expected whole rows and columns in `array`, found values such as ",
            format(array[fraction[1L]]), ". Name the columns that count rows and columns.")
    }
    array
}

# On a hexagonal lattice rows are shifted by half a step: only every other place exists.
guessPlatform <- function(array, sample) {
    odd <- (array[, 1L] + array[, 2L]) %% 2
    alike <- vapply(split(odd, sample, drop = TRUE), function(one) all(one == one[1L]), logical(1L))
    if (all(alike)) "Visium" else "ST"
}

# Sections one below the other with rows between them; by even steps, which a hexagonal lattice
# bears.
separateSections <- function(array, sample) {
    place <- matrix(as.double(array), ncol = 2L, dimnames = list(NULL, c("row", "col")))
    start <- 0
    for (at in split(seq_len(nrow(place)), sample, drop = TRUE)) {
        rows <- place[at, "row"]
        place[at, "row"] <- rows + 2 * ceiling((start - min(rows)) / 2)
        start <- max(place[at, "row"]) + 4
    }
    place
}

# Steps to neighbours as BayesSpace takes them.
latticeSteps <- function(platform) {
    if (platform == "Visium") {
        cbind(row = c(0, 0, -1, -1, 1, 1), col = c(-2, 2, -1, 1, -1, 1))
    } else {
        cbind(row = c(-1, 0, 0, 1), col = c(0, 1, -1, 0))
    }
}

countNeighbors <- function(place, platform) {
    name <- function(row, col) paste(row, col)
    present <- table(name(place[, "row"], place[, "col"]))
    steps <- latticeSteps(platform)
    found <- vapply(seq_len(nrow(steps)), function(i) {
        at <- name(place[, "row"] + steps[i, "row"], place[, "col"] + steps[i, "col"])
        n <- as.integer(present[match(at, names(present))])
        ifelse(is.na(n), 0L, n)
    }, integer(nrow(place)))
    as.integer(rowSums(matrix(found, nrow(place))))
}

# Names under which rows and columns of a lattice are kept, those that are read first ahead.
latticeNames <- list(c("array_row", "array_col"), c("row", "col"))

# NULL where there are none, unless they were named.
latticeColumns <- function(columns, array, where) {
    if (is.matrix(array) || is.data.frame(array)) {
        return(as.matrix(array))
    }
    if (is.null(array)) {
        array <- Filter(function(names) all(names %in% names(columns)), latticeNames)
        if (length(array) == 0L) {
            return(NULL)
        }
        array <- array[[1L]]
    }
    columnsAsCoords(columns, array, where)
}

# Images of the class VisiumV1 keep rows and columns; later ones do not.
latticeSeurat <- function(object, array) {
    found <- list(array = latticeColumns(object[[]], array, "meta.data"))
    if (!is.null(found$array)) {
        return(found)
    }
    for (name in SeuratObject::Images(object)) {
        image <- object[[name]]
        if (inherits(image, "VisiumV1")) {
            place <- SeuratObject::GetTissueCoordinates(image, scale = NULL, cols = NULL)
            if (is.null(found$array)) {
                found$array <- matrix(NA_real_, ncol(object), 2L)
                found$sample <- rep(NA_character_, ncol(object))
            }
            at <- match(rownames(place), colnames(object))
            found$array[at, ] <- cbind(place$row, place$col)
            found$sample[at] <- name
        }
    }
    found
}

sampleSeurat <- function(object, sample_id, images) {
    if (!is.null(sample_id)) {
        return(sampleColumn(object[[]], sample_id, "meta.data"))
    }
    if (length(unique(stats::na.omit(images))) > 1L) images
}

# What a method gets: the spots that take part.
keepSpots <- function(input) {
    kept <- input$valid
    input$measured <- input$candidates <- NULL
    input$names <- input$names[kept]
    input$inside <- input$inside[kept]
    input$counts <- input$counts[, kept, drop = FALSE]
    input$coords <- input$coords[kept, , drop = FALSE]
    input$array <- input$array[kept, , drop = FALSE]
    input$sample <- input$sample[kept, drop = TRUE]
    input$candidates <- lapply(input$candidates, function(values) values[kept])
    input$measured <- NULL # all of them are
    input
}
