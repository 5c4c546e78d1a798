# A saved model, and other sections.

savedModel <- function(...) {
    folder <- tempfile("model")
    fitted <- runM2ST(
        toyCounts(), toyCoords(), k = 2, params = quickParams(), device = "cpu", save = folder, ...
    )
    list(folder = folder, fitted = fitted)
}

otherSection <- function() {
    set.seed(4)
    counts <- toyCounts(sparse = FALSE)
    counts[] <- rpois(length(counts), counts)
    counts <- counts[sample(60), ]
    as(counts, "CsparseMatrix")
}

test_that("a saved model places other spots, in every class to the same bits", {
    skip_if_no_m2st()
    saved <- savedModel()
    expect_true(all(c("model.json", "network_2.safetensors") %in% dir(saved$folder)))
    again <- applyM2ST(toyCounts(), saved$folder, coords = toyCoords())
    expect_identical(levels(again$domain), c("1", "2"))
    expect_gt(mean(again$domain == saved$fitted$domain), 0.95)
    counts <- otherSection()
    known <- applyM2ST(counts, saved$folder, coords = toyCoords() * 55)
    expect_s3_class(known, "m2st")
    expect_identical(names(known$record$apply)[1L], "model")
    moved <- tempfile("elsewhere")
    dir.create(moved)
    file.copy(dir(saved$folder, full.names = TRUE), moved)
    expect_identical(applyM2ST(counts, moved, coords = toyCoords() * 55)[1:4], known[1:4])

    skip_if_not_installed("SeuratObject")
    seurat <- SeuratObject::CreateSeuratObject(counts)
    seurat <- suppressMessages(applyM2ST(seurat, saved$folder, coords = toyCoords() * 55))
    expect_identical(unname(seurat$m2st_domain), unname(known$domain))
    expect_identical(unname(SeuratObject::Idents(seurat)), unname(known$domain))
    expect_identical(
        unname(SeuratObject::Embeddings(seurat, "m2st")), unname(known$embedding)
    )

    skip_if_not_installed("SingleCellExperiment")
    sce <- SingleCellExperiment::SingleCellExperiment(list(counts = counts))
    sce <- applyM2ST(sce, saved$folder, toyCoords() * 55, name = "zone", verbose = FALSE)
    expect_identical(sce$zone_domain, unname(known$domain))
    expect_identical(sce$zone_confidence, unname(known$confidence))
    expect_identical(SingleCellExperiment::reducedDimNames(sce), "ZONE")

    useSpatialExperiment()
    spe <- suppressMessages(applyM2ST(toySPE(), saved$folder))
    expect_identical(spe$m2st_domain, unname(again$domain))
})

test_that("what Python finds with the model, R finds to the bit", {
    skip_if_no_m2st()
    saved <- savedModel()
    folder <- tempfile("m2st")
    dir.create(folder)
    counts <- as.matrix(otherSection())
    writeBin(rev(dim(counts)), file.path(folder, "shape"))
    writeBin(as.double(counts), file.path(folder, "counts"))
    writeBin(as.double(toyCoords()), file.path(folder, "coords"))
    writeLines(rownames(counts), file.path(folder, "genes"))
    inPython(folder, c(
        "adata.var_names = open(folder + '/genes').read().split()",
        paste0("m2st.load('", saved$folder, "').apply(adata)")
    ))
    result <- applyM2ST(counts, saved$folder, coords = toyCoords())
    read <- function(name) readBin(file.path(folder, name), "raw", 1e7)
    expect_identical(writeBin(as.integer(result$domain), raw()), read("labels"))
    expect_identical(writeBin(unname(result$confidence), raw()), read("confidence"))
    expect_identical(bits(result$embedding), read("embedding"))
})

test_that("names of another kind, and folders that are no models, are told", {
    skip_if_no_m2st()
    saved <- savedModel()
    counts <- otherSection()
    rownames(counts) <- sprintf("ENSG%011d", 1:60)
    expect_error(
        applyM2ST(counts, saved$folder, coords = toyCoords()),
        "among the row names, found 0. The model has gene symbols, and this section has Ensembl",
        fixed = TRUE
    )
    expect_error(
        runM2ST(toyCounts(), toyCoords(), k = 2, params = quickParams(), save = saved$folder),
        "Expected no model at .*, found one"
    )
    unlink(file.path(saved$folder, "domains_1.safetensors"))
    expect_error(
        applyM2ST(otherSection(), saved$folder, coords = toyCoords()),
        "Expected domains_1.safetensors in"
    )
    skip_if_not_installed("SingleCellExperiment")
    saved <- savedModel()
    sce <- SingleCellExperiment::SingleCellExperiment(
        list(counts = counts), rowData = list(symbol = rownames(otherSection()))
    )
    expect_error(
        applyM2ST(sce, saved$folder, coords = toyCoords()),
        "The column 'symbol' of the rows fits.", fixed = TRUE
    )
    skip_if_not_installed("SeuratObject")
    seurat <- SeuratObject::CreateSeuratObject(counts)
    symbols <- data.frame(symbol = rownames(otherSection()), row.names = rownames(counts))
    seurat[["RNA"]] <- SeuratObject::AddMetaData(seurat[["RNA"]], symbols)
    expect_error(
        applyM2ST(seurat, saved$folder, coords = toyCoords()),
        "The column 'symbol' of the rows fits.", fixed = TRUE
    )
})

test_that("a model of ready features wants features", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    sce <- SingleCellExperiment::SingleCellExperiment(
        list(counts = toyCounts()),
        reducedDims = list(PCA = stats::prcomp(t(as.matrix(log1p(toyCounts()))))$x[, 1:10])
    )
    folder <- tempfile("model")
    fitted <- runM2ST(
        sce, k = 2, coords = toyCoords(), dimred = "PCA", params = quickParams(), save = folder,
        verbose = FALSE
    )
    again <- applyM2ST(sce, folder, coords = toyCoords(), dimred = "PCA")
    expect_identical(again$m2st_domain, fitted$m2st_domain)
    expect_error(
        applyM2ST(sce, folder, coords = toyCoords()), "Expected ready features, as the model was"
    )
})

test_that("arguments are checked before Python starts", {
    noPython <- function(...) stop("started")
    bare <- toyCounts()
    rownames(bare) <- NULL
    twice <- toyCounts()
    rownames(twice)[2L] <- rownames(twice)[1L]
    withFake(worker = noPython, {
        for (save in list(1, character(), NA_character_, "")) {
            expect_error(
                runM2ST(toyCounts(), toyCoords(), k = 2, save = save), "the name of one folder"
            )
        }
        expect_error(
            runM2ST(bare, toyCoords(), k = 2, save = "folder"), "names of genes as row names"
        )
        expect_error(
            runM2ST(twice, toyCoords(), k = 2, save = "folder"), "unique names of genes in `x`"
        )
        expect_error(applyM2ST(toyCounts(), 1, coords = toyCoords()), "the name of one folder")
        expect_error(
            applyM2ST(toyCounts(), tempfile(), coords = toyCoords()), "found no folder"
        )
        expect_error(applyM2ST(toyCounts(), tempdir()), "Expected `coords`")
        expect_error(applyM2ST("a", tempdir()), "Expected a matrix with genes in rows")
        expect_error(applyM2ST(toyCounts(), tempdir(), toyCoords(), k = 3), "not known here: 'k'")
    })
})
