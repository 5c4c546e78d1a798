# Nothing of the user's is lost, and nothing is left changed; with the stand-in for Python.

quiet <- function(code) suppressMessages(withFake(code))

# Whether Python was called by the code, which is to fail.
worked <- function(code) {
    fake$request <- NULL
    try(suppressWarnings(quiet(code)), silent = TRUE)
    !is.null(fake$request)
}

test_that("what cannot be written fails before the work", {
    object <- toySeurat()
    object[["SCT"]] <- SeuratObject::CreateAssayObject(toyCounts())
    expect_error(quiet(RunM2ST(object, k = 2, name = "SCT")), "names of assays, .*, found 'SCT'")
    expect_error(quiet(RunM2ST(object, k = 2, name = "..")), "with a letter or a digit first, found")
    expect_error(quiet(RunM2ST(object, k = 2, name = "m2st.scale5")), "without '.scale' and a number")
    expect_error(quiet(RunM2ST(object, k = 2, name = "m2st_pca")), "a name of its own, found")
    expect_error(quiet(RunM2ST(object, k = 2, name = "a/b")), "of letters, digits, .* found 'a/b'")
    expect_error(quiet(RunM2ST(object, k = 2, name = c("a", "b"))), "to be one name, found")
    expect_false(worked(RunM2ST(object, k = 2, name = "SCT")))
    skip_if_not_installed("SingleCellExperiment")
    expect_error(quiet(runM2ST(toySCE(), k = 2, name = NA)), "`name` to be one name, found NA")
    expect_error(quiet(runM2ST(toySCE(), k = 2, name = 1)), "`name` to be one name, found 1")
    # Whatever else a container objects to.
    broken <- toySCE()
    broken@colData <- broken@colData[1:100, ]
    broken$row <- broken$col <- NULL
    expect_false(worked(runM2ST(broken, k = 2, coords = toyCoords())))
})

test_that("a Seurat object comes back from any way of calling, and logs the call in short", {
    object <- toySeurat()
    inner <- function(object) do.call(RunM2ST, list(object, k = 2, params = quickParams()))
    called <- quiet(inner(object))
    log <- called[["RunM2ST.RNA"]]
    expect_s4_class(log, "SeuratCommand")
    expect_lt(nchar(methods::slot(log, "call.string")), 400L)
    expect_identical(methods::slot(log, "params")$k, 2)
    listed <- quiet(lapply(list(object), RunM2ST, k = 2, params = m2stParams(n_epochs = 5)))
    expect_identical(listed[[1L]]$m2st_domain, called$m2st_domain)
})

test_that("the user's embeddings and columns that look like ours stay", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    own <- c("M2ST_scale_mine", "M2ST_kmeans", "M2STscale1")
    for (name in own) {
        SingleCellExperiment::reducedDim(x, name) <- matrix(1, 120, 2)
    }
    SingleCellExperiment::reducedDim(x, "M2ST_scale7") <- matrix(1, 120, 2)
    x$m2st_domain_kmeans <- x$m2st_domain_2 <- "mine"
    x$m2st_k4_domain <- "of another result"
    y <- quiet(runM2ST(x, k = 2))
    expect_setequal(
        SingleCellExperiment::reducedDimNames(y), c(own, "M2ST")
    )
    expect_identical(y$m2st_domain_kmeans, x$m2st_domain_kmeans)
    expect_identical(y$m2st_domain_2, x$m2st_domain_2)
    expect_identical(y$m2st_k4_domain, x$m2st_k4_domain)
    # Names are no patterns.
    x$m2stX_domain <- 1
    expect_identical(quiet(runM2ST(x, k = 2, name = "m2st."))$m2stX_domain, rep(1, 120))
    object <- toySeurat()
    values <- matrix(sin(1:240), 120, dimnames = list(colnames(object), c("K_1", "K_2")))
    object[["m2st.kmeans"]] <- SeuratObject::CreateDimReducObject(values, key = "K_", assay = "RNA")
    expect_true("m2st.kmeans" %in% SeuratObject::Reductions(quiet(RunM2ST(object, k = 2))))
})

test_that("the session is as before, after a result and after an error", {
    state <- function() {
        list(
            seed = get0(".Random.seed", globalenv(), inherits = FALSE), kind = RNGkind(),
            options = options(), folder = getwd(), devices = grDevices::dev.list(),
            locale = Sys.getlocale()
        )
    }
    object <- toySeurat()
    counts <- toyCounts()
    rm(list = intersect(".Random.seed", ls(globalenv(), all.names = TRUE)), envir = globalenv())
    before <- state()
    quiet(RunM2ST(object, k = 2))
    try(RunM2ST(object, k = 2, assay = "none"), silent = TRUE)
    quiet(runM2ST(counts, toyCoords(), k = 2))
    failing <- function(...) list(error = "no")
    try(withFake(runM2ST(counts, toyCoords(), k = 2), failing), silent = TRUE)
    expect_identical(state(), before)
    set.seed(3)
    before <- state()
    quiet(runM2ST(counts, toyCoords(), k = 2))
    expect_identical(state(), before)
})

test_that("verbose = FALSE is silent, and what is said is said before the work", {
    said <- character()
    note <- function(what, request, callback) {
        said <<- c(said, "work")
        fakeWorker(what, request, callback)
    }
    withCallingHandlers(
        withFake(object <- RunM2ST(toySeurat(), k = 2, verbose = FALSE), note),
        message = function(condition) said <<- c(said, conditionMessage(condition))
    )
    expect_identical(said, "work")
    said <- character()
    suppressMessages(withCallingHandlers(
        withFake(object <- RunM2ST(object, k = 2, keep = "scales", verbose = TRUE), note),
        message = function(condition) said <<- c(said, conditionMessage(condition))
    ))
    expect_match(said[1L], "^Coordinates: columns")
    expect_match(said[2L], "^Overwriting the column")
    expect_identical(said[3L], "work")
    expect_silent(withFake(clusterM2ST(object, k = 2, verbose = FALSE)))
    skip_if_not_installed("SingleCellExperiment")
    expect_silent(x <- withFake(runM2ST(toySCE(), k = 2, keep = "scales", verbose = FALSE)))
    expect_silent(withFake(clusterM2ST(x, k = 2:3, verbose = FALSE)))
    expect_message(withFake(runM2ST(toySCE(), k = 2)), "^Coordinates: columns")
})

test_that("a damaged sparse matrix is an error, whatever holds it", {
    damage <- function(counts) {
        counts@i[5L] <- 10000L
        counts
    }
    broken <- "Expected a valid sparse matrix in .*, found a damaged one .*Read the data again"
    expect_error(runM2ST(damage(toyCounts()), toyCoords(), k = 2), broken)
    pointers <- toyCounts()
    pointers@p[length(pointers@p)] <- 100000L
    expect_error(runM2ST(pointers, toyCoords(), k = 2), broken)
    triplets <- as(toyCounts(), "TsparseMatrix")
    triplets@j[1L] <- -5L
    expect_error(runM2ST(triplets, toyCoords(), k = 2), broken)
    object <- toySeurat()
    # As an .rds file would bring it.
    if (!seurat5()) {
        object@assays$RNA@counts <- damage(object@assays$RNA@counts)
        expect_error(quiet(RunM2ST(object, k = 2)), broken)
        expect_error(quiet(RunM2ST(object, k = 2, features = "gene1")), broken)
    }
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x@assays@data@listData$counts <- damage(toyCounts())
    expect_error(quiet(runM2ST(x, k = 2)), broken)
    expect_error(quiet(runM2ST(x, k = 2, subset.row = 1:9)), broken)
})

test_that("the result of a matrix is drawn and compared", {
    result <- quiet(runM2ST(toyCounts(), toyCoords(), k = 2, sample_id = rep(c("a", "b"), 60)))
    truth <- stats::setNames(as.character(result$domain), names(result$domain))
    expect_identical(compareDomains(result, truth)$ARI, 1)
    expect_identical(compareDomains(result, rev(truth))$ARI, 1) # by name
    expect_identical(compareDomains(result, unname(truth), by = "sample_id")$n, c(60L, 60L))
    expect_error(compareDomains(result, "layer"), "each of 120 spots in `truth`, found \"layer\"")
    sections <- rep(c("a", "b"), 60)
    several <- quiet(clusterM2ST(
        runM2ST(toyCounts(), toyCoords(), k = 2, sample_id = sections, keep = "scales"), k = 2:3
    ))
    expect_identical(
        compareDomains(several, truth)$label, c("m2st_domain", "m2st_k2_domain", "m2st_k3_domain")
    )
    expect_error(
        compareDomains(quiet(embedM2ST(toyCounts(), toyCoords())), truth), "Found no domains"
    )
    skip_if_not_installed("ggplot2")
    plot <- plotDomains(result, confidence = "m2st_confidence", truth = truth)
    expect_s3_class(plot, "ggplot")
    expect_identical(nlevels(plot$data$panel), 4L)
    expect_s3_class(plotDomains(several, "m2st_k3_domain"), "ggplot")
})
