# Lists of objects, one for each section.

# The toy section, and the same with other names of the spots, fewer genes and another order of them.
twoSections <- function(make) {
    other <- toyCounts()[60:11, ]
    colnames(other) <- paste0("cell", 1:120)
    list(a = make(toyCounts()), b = make(other))
}

makeSeurat <- function(counts) {
    object <- SeuratObject::CreateSeuratObject(counts)
    object$row <- toyCoords()[, 1]
    object$col <- toyCoords()[, 2]
    object
}

makeSCE <- function(counts) {
    SingleCellExperiment::SingleCellExperiment(
        list(counts = counts),
        colData = S4Vectors::DataFrame(
            row = toyCoords()[, 1], col = toyCoords()[, 2], row.names = colnames(counts)
        )
    )
}

# The two sections as one matrix, of the genes that both have.
joined <- function(...) {
    x <- twoSections(identity)
    genes <- rownames(toyCounts())[11:60]
    runM2ST(
        cbind(x$a[genes, ], x$b[genes, ]), rbind(toyCoords(), toyCoords()), k = 2,
        sample_id = rep(c("a", "b"), each = 120), params = quickParams(), device = "cpu", ...
    )
}

test_that("a list gives what its sections give as one object, in each class", {
    skip_if_no_m2st()
    skip_if_not_installed("SeuratObject")
    skip_if_not_installed("SingleCellExperiment")
    expected <- suppressMessages(joined(keep = "scales"))
    expect_message(
        result <- runM2ST(twoSections(identity), k = 2, coords = list(
            a = toyCoords(), b = toyCoords()
        ), params = quickParams(), device = "cpu"),
        "Using the 50 genes that all 2 sections have, of 50 to 60."
    )
    expect_identical(names(result), c("a", "b"))
    expect_identical(unname(result$b$domain), unname(expected$domain)[121:240])
    expect_identical(names(result$b$domain), paste0("cell", 1:120))
    expect_identical(unname(result$a$embedding), unname(expected$embedding)[1:120, ])
    expect_null(result$a$sample_id)

    seurat <- suppressMessages(RunM2ST(
        twoSections(makeSeurat), k = 2, params = quickParams(), device = "cpu", keep = "scales"
    ))
    expect_identical(names(seurat), c("a", "b"))
    expect_s4_class(seurat$b, "Seurat")
    expect_identical(colnames(seurat$b), paste0("cell", 1:120))
    expect_equal(dim(seurat$b), c(50, 120))
    expect_identical(unname(seurat$a$m2st_domain), unname(expected$domain)[1:120])
    expect_identical(unname(SeuratObject::Idents(seurat$b)), unname(expected$domain)[121:240])
    expect_identical(
        unname(SeuratObject::Embeddings(seurat$b, "m2st.scale1")),
        unname(expected$scales$scale1)[121:240, ]
    )
    command <- SeuratObject::Command(seurat$b)
    expect_match(command, "RunM2ST")

    sce <- suppressMessages(runM2ST(
        twoSections(makeSCE), k = 2, name = "zone", params = quickParams(), device = "cpu",
        keep = "scales"
    ))
    expect_s4_class(sce$a, "SingleCellExperiment")
    expect_identical(sce$b$zone_confidence, unname(expected$confidence)[121:240])
    expect_identical(S4Vectors::metadata(sce$a)$zone$n_members, 2L)

    other <- suppressMessages(clusterM2ST(sce, k = 3, name = "three", embedding_name = "zone"))
    again <- suppressMessages(clusterM2ST(expected, k = 3))
    expect_identical(other$a$three_domain, unname(again$domain)[1:120])
    expect_identical(other$b$three_domain, unname(again$domain)[121:240])
    expect_identical(other$b$zone_domain, sce$b$zone_domain)
    several <- suppressMessages(clusterM2ST(seurat, k = 2:3))
    expect_identical(unname(several$b$m2st_k3_domain), unname(again$domain)[121:240])
})

test_that("a model and labels are carried to each section of a list", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    folder <- tempfile("model")
    runM2ST(
        toyCounts(), toyCoords(), k = 2, params = quickParams(), device = "cpu", save = folder
    )
    sections <- twoSections(makeSCE)
    quietly <- function(code) suppressWarnings(suppressMessages(code))
    found <- quietly(applyM2ST(sections, folder))
    expect_identical(names(found), c("a", "b"))
    expect_identical(found$b$m2st_domain, quietly(applyM2ST(sections$b, folder))$m2st_domain)
    half <- ifelse(toyCoords()[, "col"] > 6, "upper", "lower")
    carried <- quietly(annotateM2ST(
        sections, 2 * toyCounts(), half, reference.args = list(coords = toyCoords())
    ))
    expect_identical(levels(carried$b$m2st_domain), c("lower", "upper"))
    expect_gt(mean(carried$b$m2st_domain == half, na.rm = TRUE), 0.9)
})

test_that("sections within an object stay apart, and places of each are asked for", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoSections(makeSCE)
    x$b$sample_id <- rep(c("left", "right"), 60)
    found <- withFake(suppressMessages(runM2ST(x, k = 2)))
    expect_identical(unlist(fake$request$sample_names), c("a", "b_left", "b_right"))
    expect_identical(levels(found$b$m2st_domain), c("1", "2"))
    x <- unname(twoSections(makeSCE))
    found <- withFake(suppressMessages(runM2ST(x, k = 2, coords = c("col", "row"))))
    expect_identical(unlist(fake$request$sample_names), c("1", "2"))
    expect_null(names(found))
    single <- withFake(suppressMessages(runM2ST(twoSections(makeSCE)["a"], k = 2)))
    expect_identical(names(single), "a")
    expect_identical(dim(single$a), c(60L, 120L))
})

test_that("batches of a list are a column of each object", {
    skip_if_not_installed("SeuratObject")
    skip_if_not_installed("SingleCellExperiment")
    batches <- function() {
        codes <- readBin(fake$request$batch$codes, "integer", 240L)
        unlist(fake$request$batch$levels)[codes + 1L]
    }
    for (make in list(makeSCE, makeSeurat)) {
        x <- twoSections(make)
        x$a$donor <- rep("first", 120)
        x$b$donor <- rep(c("second", "first"), each = 60)
        withFake(suppressMessages(runM2ST(x, k = 2, batch_id = "donor")))
        expect_identical(batches(), c(x$a$donor, x$b$donor), ignore_attr = TRUE)
        x$b$donor[3] <- NA
        expect_error(
            withFake(suppressMessages(runM2ST(x, k = 2, batch_id = "donor"))),
            "Expected `batch_id` to give the batch of every spot, found 1 missing"
        )
        x$b$donor <- NULL
        expect_error(
            runM2ST(x, k = 2, batch_id = "donor"),
            "Section 'b': Expected `batch_id` to name a column of .*, found \"donor\""
        )
    }
})

test_that("what is no list of sections is refused with its reason", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoSections(makeSCE)
    expect_error(runM2ST(list(), k = 2), "Expected a list of sections, found an empty list")
    expect_error(runM2ST(list(x$a, NULL), k = 2), "found NULL as element 2")
    expect_error(runM2ST(list(x$a, "b"), k = 2), "found character as element 2")
    expect_error(
        runM2ST(list(x$a, toyCounts()), k = 2),
        "objects of one kind in the list, found SummarizedExperiment and matrix"
    )
    expect_error(runM2ST(list(a = x$a, a = x$b), k = 2), "found 'a' twice")
    expect_error(runM2ST(list(a = x$a, x$b), k = 2), "found none for element 2")
    expect_error(runM2ST(x, k = 2, asay = "counts"), "not known here: 'asay'")
    expect_error(runM2ST(x), "Expected `k`, the number of domains")
    expect_error(runM2ST(x, k = 2, assay.type = "none"), "Section 'a': Expected an assay 'none'")
    expect_error(
        runM2ST(x, k = 2, coords = toyCoords()), "for each section, found one table"
    )
    expect_error(
        runM2ST(x, k = 2, coords = list(a = toyCoords())), "found 1 for 2 sections"
    )
    deep <- cbind(toyCoords(), z = 1)
    expect_error(
        suppressMessages(runM2ST(x, k = 2, coords = list(a = toyCoords(), b = deep))),
        "one number of axes in all sections, found 2, 3"
    )
    expect_error(
        suppressMessages(runM2ST(x, k = 2, coords = list(a = toyCoords(), b = deep[1:3, ]))),
        "Section 'b': Expected coordinates of 120 spots, found 3 rows"
    )
    expect_error(clusterM2ST(list(a = 1), 2), "found numeric as element 1")
    expect_error(suppressMessages(clusterM2ST(x, 2)), "Section 'a': Found no embeddings")
    joint <- x
    joint$b$sample_id <- rep(c("a", "b"), 60)
    names(joint) <- c("b_a", "b")
    expect_error(suppressMessages(runM2ST(joint, k = 2)), "different sections .* found 'b_a' twice")
    result <- structure(list(domain = factor(1:2)), class = "m2st")
    expect_error(clusterM2ST(list(result), 2), "found results of matrices")
})

test_that("genes are found by name, or what is wrong with their names is told", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoSections(makeSCE)
    rownames(x$b) <- toupper(rownames(x$b))
    expect_error(
        suppressMessages(runM2ST(x, k = 2)),
        "found 0 that all have, of 50 or more. Section 'a' .* 'gene1', .* section 'b' 'GENE60'"
    )
    x <- twoSections(makeSCE)
    rownames(x$b)[2] <- rownames(x$b)[1]
    expect_error(suppressMessages(runM2ST(x, k = 2)), "of section 'b', found 1 repeated")
    x <- twoSections(makeSCE)
    rownames(x$a) <- NULL
    expect_error(suppressMessages(runM2ST(x, k = 2)), "of section 'a', found none")
    x <- twoSections(makeSCE)
    dense <- SummarizedExperiment::assay(x$b, "counts")
    SummarizedExperiment::assay(x$b, "counts") <- as.matrix(dense)
    withFake(suppressMessages(runM2ST(x, k = 2)))
    expect_identical(fake$request$shape, c(240L, 50L))
})

test_that("ready features of a list are joined", {
    skip_if_not_installed("SingleCellExperiment")
    x <- twoSections(makeSCE)
    for (name in names(x)) {
        SingleCellExperiment::reducedDim(x[[name]], "PCA") <- matrix(rnorm(600), 120)
    }
    withFake(suppressMessages(runM2ST(x, k = 2, dimred = "PCA")))
    expect_identical(fake$request$shape, c(240L, 5L))
    SingleCellExperiment::reducedDim(x$b, "PCA") <- matrix(rnorm(480), 120)
    expect_error(
        suppressMessages(runM2ST(x, k = 2, dimred = "PCA")), "same columns .* found 5, 4 columns"
    )
})

test_that("SpatialExperiments of a list keep their coordinates, and a model is saved of all", {
    skip_if_no_m2st()
    useSpatialExperiment()
    x <- list(a = toySPE(), b = toySPE(coords = toyCoords()[, 2:1], sample_id = "two"))
    folder <- tempfile("model")
    found <- suppressMessages(runM2ST(
        x, k = 2, params = quickParams(), device = "cpu", save = folder
    ))
    expect_identical(unique(vapply(found, class, "")), "SpatialExperiment")
    expect_identical(
        SpatialExperiment::spatialCoords(found$b), SpatialExperiment::spatialCoords(x$b)
    )
    expect_identical(S4Vectors::metadata(found$a)$m2st$graph$n_between_samples, 0L)
    expect_true(file.exists(file.path(folder, "model.json")))
    again <- suppressMessages(applyM2ST(x["b"], folder))
    expect_gt(mean(again$b$m2st_domain == found$b$m2st_domain), 0.8)
    expect_identical(unique(domainComposition(found)$sample), c("a", "b"))
    embedded <- suppressMessages(embedM2ST(x, params = quickParams(), device = "cpu"))
    expect_null(embedded$a$m2st_domain)
})
