# One name for each concept, and results side by side; with the stand-in for Python.

quiet <- function(code) suppressMessages(withFake(code))
byRow <- function(k) as.integer(ceiling(toyCoords()[, 1] / 10 * k))

exported <- function() {
    methods <- ls(asNamespace("m2st")$.__S3MethodsTable__.)
    functions <- c(getNamespaceExports("m2st"), methods)
    functions <- setdiff(functions, methods[startsWith(methods, "print.")])
    stats::setNames(lapply(functions, function(name) get(name, asNamespace("m2st"))), functions)
}

test_that("every function calls a concept by the same name", {
    known <- c(
        "x", "k", "...", "coords", "sample_id", "batch_id", "name", "seed", "params", "device",
        "verbose", "normalized", "n_pcs", "assay.type", "assay", "layer", "dimred", "reduction", "image",
        "subset.row", "features", "set.ident", "truth", "confidence", "by", "metrics", "path",
        "columns", "counts", "markers", "title", "overwrite", "array", "platform", "nrep",
        "burn.in", "methods", "options", "embedding_name", "further", "folder", "a", "b", "model",
        "save", "keep", "reference", "reference.args", "reference.assay", "labels", "names", "n_top_genes",
        "n.cores", "checkpoint", "to", "pixel_size", "condition", "min_obs",
        "feature", "tissue", "n_new", "parts", "domain_name", "cell_types"
    )
    settings <- c("m2stParams", "paperParams", "m2stSetup")
    own <- list(RunM2ST = c("object", names(seuratSpellings)))
    functions <- exported()
    for (name in setdiff(names(functions), settings)) {
        arguments <- as.character(names(formals(functions[[name]])))
        expect_identical(setdiff(arguments, c(known, own[[name]])), character(), label = name)
    }
    # What two methods both have has the same default.
    runs <- functions[grep("^(run|cluster|apply)M2ST[.](matrix|S|m2st)", names(functions))]
    expect_gt(length(runs), 5L)
    for (argument in c(
        "seed", "params", "verbose", "name", "sample_id", "batch_id", "cell_types"
    )) {
        defaults <- unique(Filter(Negate(is.null), lapply(runs, function(run) {
            if (argument %in% names(formals(run))) deparse(formals(run)[[argument]])
        })))
        expect_length(unique(unlist(defaults)), 1L)
    }
})

test_that("RunM2ST() is runM2ST(), for every class", {
    same <- function(x, ...) {
        expect_identical(quiet(RunM2ST(x, 3, ...)), quiet(runM2ST(x, 3, ...)))
    }
    same(toyCounts(), toyCoords(), sample_id = rep(c("a", "b"), 60), seed = 2)
    object <- toySeurat()
    object$who <- rep(c("a", "b"), 60)
    arguments <- list(
        k = 3, coords = c("row", "col"), sample_id = "who", features = paste0("gene", 1:50),
        assay = "RNA", layer = "counts", normalized = FALSE, n_pcs = 4, name = "zone",
        set.ident = FALSE, seed = 3, params = quickParams(), device = "cpu", verbose = FALSE
    )
    ours <- quiet(do.call(runM2ST, c(list(object), arguments)))
    request <- fake$request
    theirs <- quiet(do.call(RunM2ST, c(list(object), arguments)))
    expect_identical(fake$request, request)
    expect_identical(theirs[[]], ours[[]])
    embeddings <- function(x) SeuratObject::Embeddings(x, "zone")
    expect_identical(embeddings(theirs), embeddings(ours))
    expect_identical(SeuratObject::Misc(theirs, "zone"), SeuratObject::Misc(ours, "zone"))
    skip_if_not_installed("SingleCellExperiment")
    same(toySCE(), coords = c("col", "row"), subset.row = 1:50, name = "zone")
    expect_error(quiet(RunM2ST(1:3)), "found integer")
    expect_error(quiet(RunM2ST(toySeurat())), "Expected `k`")
    expect_error(quiet(RunM2ST(toySeurat(), k = 2, key = "a")), "not known here: 'key'")
})

test_that("RunM2ST() takes Seurat's spellings", {
    object <- toySeurat()
    object$who <- rep(c("a", "b"), 60)
    ours <- quiet(runM2ST(object, k = 3, name = "zone", seed = 5, sample_id = "who"))
    request <- fake$request
    theirs <- quiet(RunM2ST(
        object, k = 3, reduction.name = "zone", cluster.name = "zone_domain", seed.use = 5,
        sample.by = "who", seed = 5L
    ))
    expect_identical(fake$request, request)
    expect_identical(theirs[[]], ours[[]])
    expect_identical(SeuratObject::Reductions(theirs), SeuratObject::Reductions(ours))
    expect_match(methods::slot(theirs[["RunM2ST.RNA.zone"]], "call.string"), "^RunM2ST\\(object, ")
    expect_match(methods::slot(ours[["RunM2ST.RNA.zone"]], "call.string"), "^runM2ST.*\\(object, ")
    run <- function(...) quiet(RunM2ST(object, k = 2, ...))
    expect_error(run(seed = 1, seed.use = 2), "`seed`, which `seed.use` is another name of")
    expect_error(run(name = "a", reduction.name = "b"), "found \"a\" and \"b\". Leave one out")
    expect_error(run(reduction.name = "a", cluster.name = "b_domain"), "found \"a\" and \"b\"")
    expect_error(run(sample_id = "who", sample.by = "row"), "Expected one value of `sample_id`")
    expect_error(run(cluster.name = "zone"), "to end in '_domain'.*which writes .* 'zone_domain'")
    expect_error(quiet(runM2ST(object, k = 2, seed.use = 1)), "not known here: 'seed.use'")
})

test_that("two results live side by side in a Seurat object, each with its record", {
    object <- quiet(runM2ST(toySeurat(), k = 3, keep = "scales"))
    before <- object
    object <- quiet(runM2ST(object, k = 5, name = "fine", seed = 4, keep = "scales"))
    object <- quiet(clusterM2ST(object, k = 6, name = "fine"))
    expect_identical(as.integer(object$fine_domain), byRow(6))
    expect_identical(object$m2st_domain, before$m2st_domain)
    expect_identical(object$m2st_confidence, before$m2st_confidence)
    expect_setequal(SeuratObject::Reductions(object), c(
        "m2st", "m2st.scale1", "m2st.scale2", "fine", "fine.scale1", "fine.scale2"
    ))
    expect_identical(SeuratObject::Key(object[["fine"]]), "FINE_", ignore_attr = TRUE)
    expect_identical(SeuratObject::Misc(object, "m2st"), SeuratObject::Misc(before, "m2st"))
    expect_identical(SeuratObject::Misc(object, "fine")$cluster$n_domains, 6L)
    several <- quiet(clusterM2ST(object, k = 2:3, name = "fine"))
    expect_true(all(c("fine_k2_domain", "fine_k3_confidence") %in% names(several[[]])))
    expect_true(all(c("fine_k2", "fine_k3") %in% SeuratObject::Reductions(several)))
    expect_identical(SeuratObject::Misc(several, "fine"), SeuratObject::Misc(object, "fine"))
    record <- SeuratObject::Misc(several, "fine_k2")
    expect_identical(record$cluster$n_domains, 2L)
    expect_identical(record$cluster$embedding_key, "fine")
    expect_identical(record$embed, SeuratObject::Misc(object, "fine")$embed)
    # A new run of one leaves the other.
    again <- quiet(runM2ST(several, k = 3))
    expect_identical(again$fine_k2_domain, several$fine_k2_domain)
    # Without embeddings of its own, a result is of those of the default name.
    coarse <- quiet(clusterM2ST(object, 2, name = "coarse"))
    expect_identical(SeuratObject::Misc(coarse, "coarse")$cluster$embedding_key, "m2st")
    expect_identical(as.integer(coarse$coarse_domain), byRow(2))
    expect_identical(coarse$m2st_domain, object$m2st_domain)
    other <- quiet(clusterM2ST(object, 2, name = "coarse", embedding_name = "fine"))
    expect_identical(SeuratObject::Misc(other, "coarse")$cluster$embedding_key, "fine")
    expect_error(
        clusterM2ST(object, 2, name = "fine", embedding_name = "m2st"),
        "no other embeddings than those to be clustered, 'm2st', found some of 'fine'"
    )
    for (name in c("m2st", "a")) {
        expect_error(
            clusterM2ST(object, 2, name = name, embedding_name = "none"),
            "to name a result with embeddings, found none of 'none'"
        )
    }
    expect_error(clusterM2ST(object, 2, embedding_name = 1), "`embedding_name` to be one name")
    expect_error(quiet(runM2ST(object, 2, name = "f.ine")), "key, found 'FINE_', .* 'fine' has")
})

test_that("two results live side by side in a SingleCellExperiment, each with its record", {
    skip_if_not_installed("SingleCellExperiment")
    x <- quiet(runM2ST(toySCE(), k = 3, keep = "scales"))
    before <- x
    x <- quiet(runM2ST(x, k = 5, name = "fine", seed = 4, keep = "scales"))
    x <- quiet(clusterM2ST(x, k = 6, name = "fine"))
    expect_identical(as.integer(x$fine_domain), byRow(6))
    expect_identical(x$m2st_domain, before$m2st_domain)
    expect_setequal(SingleCellExperiment::reducedDimNames(x), c(
        "M2ST", "M2ST_scale1", "M2ST_scale2", "FINE", "FINE_scale1", "FINE_scale2"
    ))
    expect_identical(S4Vectors::metadata(x)$m2st, S4Vectors::metadata(before)$m2st)
    expect_identical(S4Vectors::metadata(x)$fine$cluster$n_domains, 6L)
    expect_error(quiet(runM2ST(x, 2, name = "Fine")), "from 'fine' by more than capitals")
    several <- quiet(clusterM2ST(x, k = 2:3, name = "fine"))
    expect_true("FINE_K3" %in% SingleCellExperiment::reducedDimNames(several))
    expect_identical(S4Vectors::metadata(several)$fine_k3$cluster$n_domains, 3L)
    expect_identical(S4Vectors::metadata(several)$fine_k3$cluster$embedding_key, "fine")
    expect_identical(quiet(runM2ST(several, k = 3))$fine_k2_domain, several$fine_k2_domain)
    coarse <- quiet(clusterM2ST(x, 2, name = "coarse"))
    expect_identical(S4Vectors::metadata(coarse)$coarse$cluster$embedding_key, "m2st")
})

test_that("what is not from m2ST is not written over", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    SingleCellExperiment::reducedDim(x, "PCA") <- matrix(sin(1:240), 120)
    S4Vectors::metadata(x)$study <- "mine"
    expect_error(quiet(runM2ST(x, 2, name = "pca")), "free for embeddings, found 'PCA', not")
    expect_error(quiet(runM2ST(x, 2, name = "study")), "in metadata\\(x\\), found something else")
    x$zone_domain <- "mine"
    expect_error(quiet(runM2ST(x, 2, name = "zone")), "free for columns, found 'zone_domain', not")
    object <- toySeurat()
    object$zone_confidence <- 1
    expect_error(quiet(runM2ST(object, 2, name = "zone")), "found 'zone_confidence', not made by")
    values <- matrix(sin(1:240), 120, dimnames = list(colnames(object), c("PC_1", "PC_2")))
    object[["pca"]] <- SeuratObject::CreateDimReducObject(values, key = "PC_", assay = "RNA")
    SeuratObject::Misc(object, "study") <- "mine"
    expect_error(quiet(runM2ST(object, 2, name = "pca")), "free for embeddings, found 'pca'")
    expect_error(quiet(runM2ST(object, 2, name = "study")), "in Misc\\(x\\), found something else")
    # BayesSpace's results have names, too.
    taken <- "free for the record in .*, found something else there under 'm2st'"
    expect_error(runBayesSpaceFor(quiet(runM2ST(toySCE(), k = 2)), 2, name = "m2st"), taken)
    expect_error(runBayesSpaceFor(quiet(runM2ST(toySeurat(), k = 2)), 2, name = "m2st"), taken)
})

test_that("a result is drawn and compared by its name", {
    spots <- data.frame(
        row = toyCoords()[, 1], col = toyCoords()[, 2], truth = byRow(3), m2st_domain = byRow(3),
        fine_domain = byRow(6), fine_k4_domain = byRow(4), zone = byRow(2)
    )
    expect_identical(
        compareDomains(spots, "truth")$label, c("m2st_domain", "fine_domain", "fine_k4_domain")
    )
    expect_identical(
        compareDomains(spots, "truth", c("fine", "zone", "m2st"))$label,
        c("fine_domain", "zone", "m2st_domain")
    )
    skip_if_not_installed("ggplot2")
    title <- function(...) {
        plotDomains(spots, ..., coords = c("row", "col"))$scales$get_scales("fill")$name
    }
    expect_identical(title(), "m2st_domain")
    expect_identical(title("fine"), "fine_domain")
    expect_identical(title("fine_k4"), "fine_k4_domain")
    expect_identical(title("zone"), "zone")
})

test_that("the page of a result has its own confidence and record", {
    skip_if_not_installed("SingleCellExperiment")
    x <- quiet(runM2ST(runM2ST(toySCE(), k = 3), k = 5, name = "fine"))
    x$layer <- byRow(2)
    worker <- function(what, request, callback) {
        fake$request <- request
        list()
    }
    withFake({
        reportM2ST(x, tempfile(), "fine", markers = 0, coords = c("row", "col"))
    }, worker)
    expect_identical(fake$request$record$cluster$n_domains, 5L)
    expect_length(fake$request$columns[[1L]]$levels, 5L)
    withFake({
        reportM2ST(x, tempfile(), "layer", markers = 0, coords = c("row", "col"))
    }, worker)
    expect_length(fake$request$record, 0L)
    expect_null(fake$request$confidence)
})
