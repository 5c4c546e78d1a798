# Domains beside the labels of a reference, and names for them.

# The two halves of the array under numbers of domains, and by name.
halves <- function(spots = 1:120) {
    upper <- toyCoords()[spots, "col"] > 6
    list(
        domain = factor(ifelse(upper, "2", "1"), levels = c("1", "2")),
        half = ifelse(upper, "upper", "lower")
    )
}

toyLabelled <- function() {
    x <- toySCE()
    SummarizedExperiment::colData(x)$m2st_domain <- halves()$domain
    SummarizedExperiment::colData(x)$half <- halves()$half
    x
}

test_that("domains are named after the labels of a reference, in each container", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    sce <- toyLabelled()
    table <- registerDomains(sce, sce, "half")
    expect_identical(rownames(table), c("1", "2"))
    expect_identical(names(table), c("lower", "upper", "suggested", "margin"))
    expect_identical(table$suggested, c("lower", "upper"))
    expect_equal(table$margin, c(2, 2))
    skip_if_not_installed("SeuratObject")
    seurat <- toySeurat()
    seurat$m2st_domain <- halves()$domain
    seurat$half <- halves()$half
    expect_equal(registerDomains(seurat, sce, "half"), table)
    expect_equal(registerDomains(sce, seurat, "half"), table)
    result <- suppressMessages(
        runM2ST(toyCounts(), toyCoords(), k = 2, params = quickParams(), device = "cpu")
    )
    result$domain[] <- halves()$domain
    expect_equal(registerDomains(result, seurat, "half", counts = toyCounts()), table)
})

test_that("a reference of logarithms, with missing labels and one label too many, will do", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- toyLabelled()
    reference <- toyLabelled()
    expected <- registerDomains(x, reference, "half")
    counts <- SummarizedExperiment::assay(reference, "counts")
    sizes <- Matrix::colSums(counts) / stats::median(Matrix::colSums(counts))
    logs <- log1p(as.matrix(counts) / rep(sizes, each = nrow(counts)))
    SummarizedExperiment::assays(reference) <- list(logcounts = logs)
    half <- factor(SummarizedExperiment::colData(reference)$half, c("lower", "none", "upper"))
    SummarizedExperiment::colData(reference)$half <- half
    SummarizedExperiment::colData(x)$m2st_domain <- factor(halves()$domain, 1:3)
    found <- registerDomains(x, reference, "half")
    expect_equal(found[1:2, ], expected, tolerance = 1e-4)
    expect_identical(found["3", "suggested"], "3")
    expect_identical(found["3", "margin"], NA_real_)
    half[1:5] <- NA
    SummarizedExperiment::colData(reference)$half <- half
    expect_equal(registerDomains(x, reference, "half")[1:2, 1:2], expected[, 1:2], tolerance = 0.05)
})

test_that("what is asked of Python has codes, genes and words", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toyLabelled()
    asked <- NULL
    worker <- function(what, request, callback) {
        asked <<- c(request, what = what)
        list(
            warnings = list(), correlation = writeBin(c(1, -1, NaN, 0.5), raw()),
            labels = list("lower", "upper"), suggested = list("lower", "2"),
            margin = writeBin(c(NaN, 0.5), raw())
        )
    }
    SummarizedExperiment::colData(x)$half[2] <- NA
    table <- withFake(registerDomains(x, x, "half", n_top_genes = 12), worker)
    expect_identical(table$upper, c(NA, 0.5))
    expect_identical(table$margin, c(NA, 0.5))
    expect_identical(asked$what, "register")
    expect_identical(readBin(asked$labels$codes, "integer", 3L), c(0L, -1L, 0L))
    expect_identical(asked$labels$levels, list("lower", "upper"))
    expect_identical(asked$n_top_genes, 12L)
    expect_match(asked$reference$genes, "gene59\ngene60$")
})

test_that("what does not fit is refused in words of R", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toyLabelled()
    expect_error(registerDomains(1, x, "half"), "Expected an object that runM2ST\\(\\) returned")
    expect_error(registerDomains(x, x), "Expected `labels`, the column of `reference`")
    expect_error(registerDomains(x), "Expected `reference`, an object with labels, found none")
    expect_error(renameDomains(x), "Expected `names`, new names of domains, found none")
    numbered <- x
    numbered$depth <- seq_len(ncol(x)) / 2
    expect_error(registerDomains(x, numbered, "depth"), "names as labels, found numbers. If each")
    expect_error(registerDomains(x, 1, "half"), "Expected `reference` to be a Seurat object")
    expect_error(registerDomains(x, x, "no"), "column of colData\\(reference\\), found \"no\"")
    expect_error(registerDomains(x, x, "half", n_top_genes = 3), "from 10, found 3")
    expect_error(registerDomains(x, x, "half", reference.assay = "no"), "reference.assay = ...")
    result <- structure(list(domain = halves()$domain), class = "m2st")
    expect_error(registerDomains(result, x, "half"), "Expected `counts`, which the result does")
    expect_error(registerDomains(result, x, "half", counts = toyCounts()[, 1:60]),
        "counts of 120 spots in columns, found 60 columns")
    expect_error(registerDomains(structure(list(), class = "m2st"), x, "half"), "Found no domains")
    one <- x
    SummarizedExperiment::colData(one)$half <- "lower"
    expect_error(registerDomains(x, one, "half"), "at least two labels in `reference`, found 1")
    rownames(one) <- rep(c("A", "B"), 30)
    expect_error(registerDomains(x, one, "m2st_domain"),
        "assay 'counts' of `reference`, found 58 repeated")
    plain <- SingleCellExperiment::SingleCellExperiment(
        list(counts = unname(as.matrix(toyCounts()))), colData = list(m2st_domain = halves()$domain)
    )
    expect_error(registerDomains(plain, x, "half"), "row names of assay 'counts', found none")
})

test_that("what Python finds is said in words of R", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- toyLabelled()
    other <- x
    rownames(other) <- sprintf("ENSG%011d", 1:60)
    said <- tryCatch(registerDomains(x, other, "half"), error = conditionMessage)
    expect_match(said, "reference's genes among the row names, found 0. The reference has Ensembl",
        fixed = TRUE)
    SummarizedExperiment::rowData(other)$symbol <- rownames(x)
    said <- c(said, tryCatch(registerDomains(x, other, "half"), error = conditionMessage))
    expect_match(said[2], "The column 'symbol' of the rows of `reference` fits.", fixed = TRUE)
    said <- c(said, tryCatch(registerDomains(other, x, "half"), error = conditionMessage))
    expect_match(said[3], "The column 'symbol' of the rows fits.", fixed = TRUE)
    expect_false(any(grepl("adata|var_names|[.]var", said)))
})

test_that("names change, and nothing else", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toyLabelled()
    SummarizedExperiment::colData(x)$m2st_domain[3] <- NA
    renamed <- renameDomains(x, c("2" = "core"))
    found <- SummarizedExperiment::colData(renamed)$m2st_domain
    expect_identical(levels(found), c("1", "core"))
    expect_identical(as.integer(found), as.integer(SummarizedExperiment::colData(x)$m2st_domain))
    SummarizedExperiment::colData(renamed)$m2st_domain <-
        SummarizedExperiment::colData(x)$m2st_domain
    expect_identical(renamed, x)
    table <- data.frame(suggested = c("white", "grey"), row.names = c("1", "2"))
    found <- SummarizedExperiment::colData(renameDomains(x, table))$m2st_domain
    expect_identical(levels(found), c("white", "grey"))
    result <- structure(list(domain = halves()$domain), class = "m2st")
    expect_identical(levels(renameDomains(result, list("1" = "a"))$domain), c("a", "2"))
})

test_that("active identities of a Seurat object follow, and no others", {
    skip_if_not_installed("SeuratObject")
    seurat <- toySeurat()
    seurat$m2st_domain <- halves()$domain
    before <- SeuratObject::Idents(seurat)
    renamed <- renameDomains(seurat, c("1" = "core"))
    expect_identical(levels(renamed$m2st_domain), c("core", "2"))
    expect_identical(SeuratObject::Idents(renamed), before)
    SeuratObject::Idents(seurat) <- "m2st_domain"
    renamed <- renameDomains(seurat, c("1" = "core"))
    expect_identical(levels(SeuratObject::Idents(renamed)), c("core", "2"))
})

test_that("names that do not fit are refused", {
    result <- structure(list(domain = halves()$domain), class = "m2st")
    expect_error(renameDomains(1, "a"), "Expected an object that runM2ST\\(\\) returned")
    expect_error(renameDomains(result, "a"), "such as c\\(\"1\" = \"white matter\"\\)")
    expect_error(renameDomains(result, c("9" = "a")), "\\('1', '2'\\), found '9'")
    expect_error(renameDomains(result, c("1" = " ")), "that are not empty, found \" \"")
    expect_error(renameDomains(result, c("1" = "2")), "found '2' for '1', '2'. Domains are not")
    expect_error(renameDomains(result, data.frame(a = 1)), "without the column 'suggested'")
    expect_error(renameDomains(structure(list(), class = "m2st"), "a"), "Found no domains")
})
