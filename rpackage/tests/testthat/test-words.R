# A user of R meets no word that only users of Python know.

python <- paste0(
    "m2st\\.(pp|tl|pl|io|run|report|metrics|load|annotate|datasets)\\b|Params\\.|\\badata\\b|",
    "\\b(obs[mp]?|uns|var_names|None|True|False|AnnData|DataFrame|ndarray|kwargs|h5ad)\\b|",
    "\\bNaN\\b|\\b(scanpy|squidpy|scipy|numpy|NumPy|pandas|np)\\b|",
    "(sample|spatial|label|batch)_key|use_rep|n_domains\\b|random_state|n_jobs|key_added|_names_make_unique|",
    "\\bpip install (?!CLONE|pybanksy)"
)

test_that("help pages have no words of Python", {
    pages <- tools::Rd_db("m2st")
    skip_if(length(pages) == 0L, "the package was installed without help pages")
    texts <- vapply(pages, function(page) {
        paste(utils::capture.output(tools::Rd2txt(page, options = list(underline_titles = FALSE))),
            collapse = "\n")
    }, character(1L))
    # A column of the table of compareMethods() is called n_domains.
    texts <- gsub("n_domains", "", texts)
    expect_identical(names(texts)[grepl(python, texts, perl = TRUE)], character())
})

# All texts that the functions of the package hold.
textsOf <- function(code) {
    if (is.character(code)) {
        return(code)
    }
    if (is.function(code)) {
        code <- list(formals(code), body(code))
    }
    if (is.call(code) || is.list(code) || is.pairlist(code)) {
        return(unlist(lapply(as.list(code), function(part) {
            if (!identical(part, quote(expr = ))) textsOf(part)
        })))
    }
}

test_that("messages have no words of Python", {
    functions <- as.list(asNamespace("m2st"))
    texts <- unlist(lapply(Filter(is.function, functions), textsOf))
    # Entries of requests and records, and names of Python's packages, are not shown as messages.
    texts <- unname(texts[grepl(" ", texts)])
    expect_gt(length(texts), 300L)
    expect_identical(texts[grepl(python, texts, perl = TRUE)], character())
})

test_that("what Python warns of is said in words of R", {
    skip_if_no_m2st()
    said <- function(...) {
        capture_warnings(suppressMessages(runM2ST(..., k = 2, params = quickParams())))
    }
    twice <- cbind(toyCounts(), toyCounts())
    colnames(twice) <- NULL
    expect_match(said(twice, rbind(toyCoords(), toyCoords())), "tell them apart with `sample_id`",
        all = FALSE, fixed = TRUE)
    empty <- toyCounts()
    empty[, 7] <- 0
    expect_match(said(empty, toyCoords()), "no counts: their features are missing", all = FALSE)
    skip_if_not_installed("SingleCellExperiment")
    x <- SingleCellExperiment::SingleCellExperiment(
        list(counts = twice), reducedDims = list(spatial = rbind(toyCoords(), toyCoords()))
    )
    warnings <- said(x)
    expect_match(warnings, "tell them apart with `sample_id`", all = FALSE, fixed = TRUE)
    expect_false(any(grepl(python, warnings, perl = TRUE)))
})

test_that("the page of a result names calls of R, and genes may occur twice", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    rownames(x) <- rep(c("A", "B"), 30)
    x <- suppressMessages(runM2ST(x, k = 2, params = quickParams(), device = "cpu"))
    page <- tempfile(fileext = ".html")
    expect_no_warning(suppressMessages(reportM2ST(x, page)))
    text <- paste(readLines(page, encoding = "UTF-8", warn = FALSE), collapse = " ")
    expect_match(text, "chooseDomains(x)", fixed = TRUE)
    text <- gsub("<(script|style).*?</\\1>", "", text, perl = TRUE)
    # The record has the versions of what ran, and the names of its entries.
    entries <- "(scanpy|numpy|scipy) [0-9.]+|versions[.]\\w+|n_domains|random_state|id=\"[^\"]*\""
    text <- gsub(entries, "", text)
    expect_identical(regmatches(text, gregexpr(python, text, perl = TRUE))[[1L]], character())
})

test_that("the page of sections that lie on each other says what helps in R", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    counts <- cbind(toyCounts(), toyCounts())
    colnames(counts) <- NULL
    coords <- rbind(toyCoords(), toyCoords())
    x <- SingleCellExperiment::SingleCellExperiment(
        list(counts = counts), colData = S4Vectors::DataFrame(coords, slide = rep(1:2, each = 120))
    )
    x <- suppressWarnings(suppressMessages(runM2ST(x, k = 2, params = quickParams())))
    page <- tempfile(fileext = ".html")
    suppressMessages(reportM2ST(x, page))
    text <- paste(readLines(page, encoding = "UTF-8", warn = FALSE), collapse = " ")
    expect_match(text, "sections or fields of view of column &#39;slide&#39; lie on top of each")
    expect_match(text, "Pass `sample_id = &#34;slide&#34;`", fixed = TRUE)
    expect_false(grepl("adata|sample_key", gsub("<(script|style).*?</\\1>", "", text, perl = TRUE)))
})

test_that("the help of the settings has Python's defaults", {
    skip_if_no_m2st()
    pages <- tools::Rd_db("m2st")
    skip_if(length(pages) == 0L, "the package was installed without help pages")
    text <- paste(utils::capture.output(tools::Rd2txt(pages[["m2stParams.Rd"]])), collapse = " ")
    text <- gsub("_\b|[[:space:]]+", " ", text)
    m2st <- reticulate::import("m2st")
    defaults <- c(
        unlist(m2st$AutoencoderParams()$to_dict()), unlist(m2st$ClusteringParams()$to_dict())
    )
    defaults <- defaults[defaults != 0]
    shown <- vapply(format(defaults, scientific = FALSE, trim = TRUE, drop0trailing = TRUE),
        grepl, logical(1L), x = text, fixed = TRUE)
    expect_identical(names(defaults)[!shown], character())
})

test_that("columns and embeddings have the names that the user wrote", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$slide <- rep(c("a", "b"), each = 60)
    x$layer <- ifelse(toyCoords()[, "col"] > 6, "upper", "lower")
    x <- suppressWarnings(suppressMessages(runM2ST(
        x, k = 2, params = quickParams(), device = "cpu", keep = "scales", name = "zone",
        sample_id = "slide", batch_id = "slide"
    )))
    said <- function(code) conditionMessage(expect_error(suppressMessages(code)))
    with <- function(x, column, values) {
        x[[column]] <- values
        x
    }
    rare <- c("odd", x$layer[-1])
    expect_match(said(annotateM2ST(toyCounts() + 1, with(x, "layer", rare), "layer",
        coords = toyCoords())), "2 spots with each label in column 'layer', found one of odd")
    where <- list(coords = toyCoords())
    expect_match(said(annotateM2ST(toyCounts() + 1, toyCounts(), rare, coords = toyCoords(),
        reference.args = where)), "2 spots with each label in `labels`, found one of odd")

    missing <- with(x, "slide", c(NA, x$slide[-1]))
    composition <- function(x) {
        domainComposition(x, name = "zone", sample_id = "slide", coords = c("row", "col"))
    }
    expect_match(said(composition(missing)), "section for each spot in column 'slide', found none")
    none <- with(x, "zone_domain", factor(rep(NA, 120), 1:2))
    expect_match(said(composition(none)), "Expected domains in column 'zone_domain', found none")
    x$dose <- "high"
    expect_match(said(compareComposition(x, "dose", name = "zone", sample_id = "slide")),
        "at least 2 conditions in column 'dose', found 1")
    expect_match(said(compareComposition(with(x, "dose", I(as.list(1:120))), "dose", name = "zone",
        sample_id = "slide")), "Expected labels in the column 'dose' of the spots, found AsIs")
    page <- tempfile(fileext = ".html")
    report <- function(x) reportM2ST(x, page, "zone", sample_id = "slide")
    expect_match(said(report(with(x, "zone_confidence", 5))), "column 'zone_confidence' in [0, 1]",
        fixed = TRUE)
    expect_match(said(report(missing)), "section for each spot in column 'slide'")

    infinite <- function(name) {
        values <- SingleCellExperiment::reducedDim(x, name)
        values[3L, 1L] <- Inf
        SingleCellExperiment::reducedDim(x, name) <- values
        x
    }
    expect_match(said(clusterM2ST(infinite("ZONE_scale2"), 2, name = "zone", sample_id = "slide")),
        "reducedDim 'ZONE_scale2' to be finite, .* in 1 of 120 spots")
    expect_match(said(domainTree(infinite("ZONE"), "zone")), "the representation of 'zone' to be")
    matrix <- suppressMessages(embedM2ST(
        toyCounts(), coords = toyCoords(), params = quickParams(), device = "cpu"
    ))
    matrix$scales$scale1[2L, 2L] <- NA
    expect_match(said(clusterM2ST(matrix, 2)), "Expected `x$scales$scale1` to be finite",
        fixed = TRUE)
    object <- suppressMessages(embedM2ST(
        toySeurat(), params = quickParams(), device = "cpu", name = "zone"
    ))
    values <- SeuratObject::Embeddings(object, "zone.scale1")
    values[2L, 2L] <- Inf
    object[["zone.scale1"]] <- SeuratObject::CreateDimReducObject(
        values, key = "ZONEscale1_", assay = "RNA"
    )
    expect_match(said(chooseDomains(object, 2:3, name = "zone")), "reduction 'zone.scale1' to be")
})

test_that("a batch is a group of spots, and its argument is named", {
    skip_if_no_m2st()
    run <- function(...) {
        suppressMessages(runM2ST(toyCounts(), toyCoords(), k = 2, params = quickParams(), ...))
    }
    expect_error(run(batch_id = 1:120), "several spots in `batch_id`, found 120 values among 120")
    expect_error(run(batch_id = c(NA, rep("a", 119))), "`batch_id` to give the batch of every spot")
    expect_error(run(batch_id = "a"), "`batch_id` to give the batch of each of 120 spots, found 1")
    expect_error(run(sample_id = c(NA, rep("a", 119))), "`sample_id` to give the section of every")
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$bad <- I(as.list(1:120))
    expect_error(runM2ST(x, 2, batch_id = "bad"), "labels in the column 'bad' of colData\\(x\\)")
})
