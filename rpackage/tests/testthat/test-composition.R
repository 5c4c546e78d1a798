# Tables of domains by section.

# Six sections of 100 spots in one object: in the last three the second domain is larger.
tableOfSpots <- function(n = 6L) {
    set.seed(1)
    spots <- expand.grid(x = 1:10, y = 1:10, section = paste0("s", seq_len(n)))
    border <- seq(3, 8, length.out = 2 * n)[c(seq_len(n / 2), 1.5 * n + seq_len(n / 2))]
    late <- spots$y > 11 - border[spots$section] + runif(nrow(spots), -1, 1)
    spots$m2st_domain <- factor(1 + late, levels = 1:3)
    spots$group <- ifelse(spots$section %in% paste0("s", seq_len(n / 2)), "control", "treated")
    rownames(spots) <- paste0("spot", seq_len(nrow(spots)))
    spots
}

spotsSCE <- function(spots = tableOfSpots()) {
    set.seed(2)
    counts <- matrix(rpois(5 * nrow(spots), 3), 5)
    dimnames(counts) <- list(paste0("gene", 1:5), rownames(spots))
    SingleCellExperiment::SingleCellExperiment(
        list(counts = as(counts, "CsparseMatrix")), colData = S4Vectors::DataFrame(spots)
    )
}

spotsSeurat <- function(spots = tableOfSpots()) {
    counts <- SummarizedExperiment::assay(spotsSCE(spots), "counts")
    SeuratObject::CreateSeuratObject(counts, meta.data = spots)
}

# The object as a list of its sections.
bySection <- function(x, sections) {
    names <- unique(as.character(sections))
    stats::setNames(lapply(names, function(name) x[, sections == name]), names)
}

test_that("shares of domains are those of the table, in each class", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    spots <- tableOfSpots()
    x <- spotsSCE()
    found <- suppressMessages(domainComposition(x, sample_id = "section"))
    expect_identical(
        names(found), c("sample", "domain", "n_obs", "share", "low", "high", "n_effective")
    )
    expected <- as.vector(t(table(spots$section, spots$m2st_domain)))
    expect_identical(found$n_obs, expected)
    expect_equal(found$share, expected / 100)
    expect_true(all(found$low <= found$share & found$share <= found$high))
    expect_identical(found$low[found$domain == "3"], rep(0, 6))
    expect_gt(min(found$high), 0)

    expect_equal(suppressMessages(domainComposition(bySection(x, x$section))), found)
    skip_if_not_installed("SeuratObject")
    seurat <- spotsSeurat()
    expect_equal(suppressMessages(domainComposition(seurat, sample_id = "section")), found)
    parts <- bySection(seurat, seurat$section)
    expect_equal(suppressMessages(domainComposition(parts)), found)
    result <- structure(class = "m2st", list(
        domain = spots$m2st_domain, coords = as.matrix(spots[c("x", "y")]),
        scales = list(as.matrix(spots["x"])), sample_id = spots$section
    ))
    expect_equal(domainComposition(result), found)
    result$sample_id <- NULL
    expect_identical(unique(domainComposition(result)$sample), "all")
    useSpatialExperiment()
    single <- toySPE()
    single$m2st_domain <- factor(rep(1:2, 60))
    expect_identical(domainComposition(single)$sample, c("one", "one"))
})

test_that("conditions are compared with sections as replicates", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- spotsSCE()
    found <- suppressMessages(compareComposition(x, "group", sample_id = "section"))
    expect_identical(names(found), c(
        "condition", "reference", "domain", "share", "share_reference", "log_ratio", "low", "high",
        "t", "p_value", "p_adjusted"
    ))
    expect_identical(found$condition, rep("treated", 3))
    expect_lt(found$p_adjusted[2], 0.05)
    expect_gt(found$log_ratio[2], 0)
    expect_identical(found$p_value[3], NA_real_)
    other <- suppressMessages(
        compareComposition(x, "group", reference = "treated", sample_id = "section")
    )
    expect_equal(other$log_ratio, -found$log_ratio)
    sections <- bySection(x, x$section)
    groups <- stats::setNames(rep(c("control", "treated"), each = 3), names(sections))
    expect_equal(suppressMessages(compareComposition(sections, groups)), found)
    expect_equal(suppressMessages(compareComposition(sections, "group")), found)
    left <- suppressMessages(compareComposition(sections, groups[-6]))
    expect_equal(left, suppressMessages(compareComposition(sections[-6], groups[-6])))
})

test_that("what cannot be compared is told in words of R", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- spotsSCE()
    compare <- function(...) suppressMessages(compareComposition(..., sample_id = "section"))
    expect_error(compareComposition(x), "Expected `condition`, the column with the condition")
    expect_error(compare(x, "dose"), "to name a column of the spots, .* Columns: 'x', 'y'")
    expect_error(compare(x, c(s9 = "a")), "of the sections 's1', .* found one of 's9'")
    expect_error(compare(x, "group", reference = "none"), "Conditions: 'control', 'treated'")
    one <- x[, !x$section %in% c("s5", "s6")]
    error <- expect_error(compare(one, "group"), "found 1 of 'treated'. The spots of one section")
    expect_no_match(conditionMessage(error), "m2st|adata")
    x$group[1] <- "treated"
    error <- expect_error(compare(x, "group"), "found 2 in 's1': 'control', 'treated'")
    expect_match(conditionMessage(error), "Check column 'group' and column 'section'.", fixed = TRUE)
    x$section[1] <- NA
    expect_error(suppressMessages(domainComposition(x, sample_id = "section")),
        "Expected a section for each spot in column 'section', found none for 1 of 600")
    expect_error(domainComposition(1), "Expected an object that runM2ST\\(\\) returned, or a list")
    expect_error(domainComposition(x, smple = 1), "not known here: 'smple'")
    expect_error(domainComposition(x, "none"), "Expected the name of a column")
    result <- structure(class = "m2st", list(scales = list(matrix(1, 2, 1))))
    expect_error(domainComposition(result), "Found no domains in the result")
    result$domain <- factor(1:2)
    expect_error(domainComposition(result, sample_id = "a"), "section of each of 2 spots, found 1")
})

test_that("counts are summed by domain and section", {
    skip_if_not_installed("SingleCellExperiment")
    spots <- tableOfSpots()
    x <- spotsSCE()
    sums <- suppressMessages(pseudobulkDomains(x, sample_id = "section"))
    expect_identical(names(sums), c("counts", "samples"))
    expect_type(sums$counts, "integer")
    expect_identical(dim(sums$counts), c(5L, nrow(sums$samples)))
    expect_identical(colnames(sums$counts), rownames(sums$samples))
    expect_identical(rownames(sums$samples)[1:2], c("s1_1", "s1_2"))
    expect_identical(names(sums$samples), c("sample", "domain", "n_obs", "section", "group"))
    counts <- as.matrix(SummarizedExperiment::assay(x, "counts"))
    for (name in c("s1_2", "s6_1")) {
        at <- paste(spots$section, spots$m2st_domain, sep = "_") == name
        expect_equal(sums$counts[, name], rowSums(counts[, at]))
        expect_identical(sums$samples[name, "n_obs"], sum(at))
    }
    expect_identical(sums$samples["s6_1", "group"], "treated")
    most <- pseudobulkDomains(x, min_obs = 60, sample_id = "section")
    expect_true(all(most$samples$n_obs >= 60))

    sections <- bySection(x, x$section)
    expect_equal(pseudobulkDomains(sections)$counts, sums$counts)
    sections$s2 <- sections$s2[5:2, ]
    expect_message(fewer <- pseudobulkDomains(sections), "4 genes that all 6 sections have")
    expect_identical(fewer$counts, sums$counts[2:5, ])
    skip_if_not_installed("SeuratObject")
    seurat <- spotsSeurat()
    expect_equal(pseudobulkDomains(seurat, sample_id = "section")$counts, sums$counts)
    result <- structure(class = "m2st", list(
        domain = spots$m2st_domain, coords = as.matrix(spots[c("x", "y")]),
        scales = list(as.matrix(spots["x"])), sample_id = spots$section
    ))
    expect_equal(pseudobulkDomains(result, counts = counts)$counts, sums$counts)
    expect_error(pseudobulkDomains(result), "Expected `counts`, which the result does not hold")
    expect_error(pseudobulkDomains(result, counts = counts[, 1:3]), "of 600 spots, found 3")
})

test_that("sums that cannot be made are refused", {
    skip_if_not_installed("SingleCellExperiment")
    x <- spotsSCE()
    sums <- function(...) suppressMessages(pseudobulkDomains(..., sample_id = "section"))
    expect_error(sums(x, min_obs = 0), "Expected `min_obs` to be one whole number from 1, found 0")
    expect_error(sums(x, min_obs = 500), "at least min_obs = 500 spots in a section, found at most")
    SummarizedExperiment::assay(x, "counts")[1, 1] <- 0.5
    expect_error(sums(x), "Expected raw counts \\(whole numbers\\) .* found values such as 0.5")
    x <- spotsSCE()
    x$section[1:2] <- NA
    expect_error(sums(x), "`sample_id` to give the section of every spot, found 2 missing")
})
