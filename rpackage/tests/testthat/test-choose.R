# Three zones side by side, which genes tell apart.
zonedCounts <- function() {
    set.seed(4)
    zone <- (toyCoords()[, "col"] - 1) %/% 4
    rates <- outer(1:60, zone, function(gene, zone) ifelse(gene %% 3 == zone, 6, 1))
    matrix(rpois(7200L, rates), 60L, dimnames = list(paste0("g", 1:60), paste0("s", 1:120)))
}

embedded <- function(...) {
    suppressMessages(embedM2ST(
        zonedCounts(), coords = toyCoords(), params = quickParams(), device = "cpu", ...
    ))
}

test_that("the number that the data speak for is chosen, and its evidence kept", {
    skip_if_no_m2st()
    x <- embedded()
    choice <- chooseDomains(x, k = c(5, 2:4))
    expect_s3_class(choice, "m2stChoice")
    expect_identical(choice$k, 3L)
    expect_identical(choice$peaks[1L], 3L)
    expect_identical(choice$evidence$k, 2:5)
    expect_named(choice$evidence, c("k", "stability", "gain", "score"))
    expect_lte(choice$p_value, 0.01)
    expect_output(print(choice), "The evidence speaks for 3 domains (structure in space: p = 0.005)",
        fixed = TRUE)
    if (requireNamespace("ggplot2", quietly = TRUE)) {
        drawn <- plot(choice)$labels
        expect_identical(drawn$title, "The evidence speaks for 3 domains")
        expect_identical(drawn$subtitle, "structure in space: p = 0.005")
    }
    found <- clusterM2ST(x, k = choice)
    expect_identical(nlevels(found$domain), 3L)
    expect_identical(found$domain, clusterM2ST(x, k = 3)$domain)
    expect_identical(found$record$n_domains$chosen, 3L)
    expect_identical(names(found$record)[length(found$record)], "cluster")
    expect_null(clusterM2ST(found, k = 4)$record$n_domains)

    page <- tempfile(fileext = ".html")
    suppressMessages(reportM2ST(found, page))
    text <- paste(readLines(page, encoding = "UTF-8", warn = FALSE), collapse = " ")
    expect_match(text, "<strong id=\"chosen\">3</strong>", fixed = TRUE)
})

test_that("a run chooses the same number by itself", {
    skip_if_no_m2st()
    params <- quickParams()
    params$clustering$n_init <- 12L  # too few starts miss what a further domain explains
    expect_message(
        found <- runM2ST(zonedCounts(), toyCoords(), k = "auto", params = params,
            device = "cpu", verbose = TRUE),
        "Chosen: 3 domains"
    )
    choice <- chooseDomains(embedded(), params = params)
    expect_identical(nlevels(found$domain), 3L)
    expect_identical(unlist(found$record$n_domains$score), choice$evidence$score)
    expect_identical(found$record$n_domains$p_value, choice$p_value)
})

test_that("noise has one domain", {
    skip_if_no_m2st()
    set.seed(1)
    noise <- matrix(rpois(7200L, 3), 60L)
    x <- suppressMessages(embedM2ST(
        noise, coords = toyCoords(), params = quickParams(), device = "cpu"
    ))
    expect_warning(choice <- chooseDomains(x, k = 2:3), "no structure in space, so 1 domain")
    expect_identical(choice$k, 1L)
    expect_output(print(choice), "No structure in space")
    expect_identical(nlevels(clusterM2ST(x, k = choice)$domain), 1L)
})

test_that("objects keep what a choice needs, also under another name", {
    skip_if_no_m2st()
    expected <- chooseDomains(embedded(), k = 2:4)
    skip_if_not_installed("SingleCellExperiment")
    sce <- SingleCellExperiment::SingleCellExperiment(list(counts = zonedCounts()))
    arguments <- list(coords = toyCoords(), params = quickParams(), device = "cpu", name = "zone")
    sce <- suppressMessages(do.call(embedM2ST, c(list(sce), arguments)))
    expect_identical(chooseDomains(sce, 2:4, coords = toyCoords(), name = "zone"), expected)
    sce <- clusterM2ST(sce, expected, coords = toyCoords(), name = "zone")
    expect_identical(S4Vectors::metadata(sce)$zone$n_domains$chosen, 3L)
    skip_if_not_installed("SeuratObject")
    object <- suppressWarnings(SeuratObject::CreateSeuratObject(as(zonedCounts(), "dgCMatrix")))
    object <- suppressMessages(do.call(embedM2ST, c(list(object), arguments)))
    expect_identical(chooseDomains(object, 2:4, coords = toyCoords(), name = "zone"), expected)
    object <- clusterM2ST(object, expected, coords = toyCoords(), name = "zone")
    expect_identical(SeuratObject::Misc(object, "zone")$n_domains$chosen, 3L)
    expect_identical(nlevels(SeuratObject::Idents(object)), 3L)
})

test_that("a choice is drawn", {
    skip_if_not_installed("ggplot2")
    choice <- structure(
        list(
            k = 3L, peaks = c(3L, 5L), p_value = 0.005,
            evidence = data.frame(
                k = 2:6, stability = c(0.9, 1, 0.8, 0.9, 0.7), gain = 5:1,
                score = c(0.2, 0.9, 0.1, 0.4, 0)
            )
        ),
        class = "m2stChoice"
    )
    expect_identical(peaksOf(choice$evidence), choice$peaks)
    expect_output(print(choice), "Other peaks of the score: 5")
    drawn <- ggplot2::ggplot_build(plot(choice))
    expect_setequal(drawn$data[[1L]]$xintercept, 3)
    expect_identical(nrow(drawn$data[[3L]]), 10L)
})

test_that("several cores and a checkpoint change nothing of the result", {
    skip_if_no_m2st()
    run <- function(...) {
        suppressMessages(runM2ST(
            zonedCounts(), toyCoords(), k = 3, params = quickParams(), device = "cpu", ...
        ))
    }
    expected <- run()
    file <- tempfile("state")
    expect_identical(run(checkpoint = file)$embedding, expected$embedding)
    expect_true(all(file.exists(paste0(file, ".", 1:2))))
    expect_identical(run(checkpoint = file)$embedding, expected$embedding)
    expect_message(
        found <- runM2ST(zonedCounts(), toyCoords(), k = 3, params = quickParams(),
            device = "cpu", n.cores = 2, verbose = TRUE),
        "Training on 2 cores"
    )
    expect_identical(found$embedding, expected$embedding)
    expect_identical(found$domain, expected$domain)
})

test_that("what cannot be chosen from is refused before the work", {
    x <- withFake(embedM2ST(toyCounts(), coords = toyCoords()))
    withFake({
        expect_error(chooseDomains(x), "Call embedM2ST() again", fixed = TRUE)
        x$record$embed$structure_p_value <- 0.005
        expect_error(chooseDomains(x, k = 1:4), "whole numbers of at least 2")
        expect_error(chooseDomains(x, k = "auto"), "whole numbers of at least 2")
        expect_error(chooseDomains(x, k = c(2, 119)), "fewer domains than spots")
        expect_error(chooseDomains(x, params = paperParams()), "made by m2stParams()", fixed = TRUE)
        expect_error(chooseDomains(x, n.cores = 0), "`n.cores` to be one whole number above 0")
        expect_error(chooseDomains(x, cores = 2), "not known here: 'cores'")
        expect_error(clusterM2ST(x, k = "auto"), "k = chooseDomains(x)", fixed = TRUE)
        expect_error(runM2ST(toyCounts(), toyCoords(), k = 3, n.cores = "all"), "`n.cores`")
        expect_error(runM2ST(toyCounts(), toyCoords(), k = 3, checkpoint = 1), "name of one file")
        expect_error(runM2ST(toyCounts(), toyCoords(), k = 3, checkpoint = NA_character_), "one file")
    })
    expect_error(chooseDomains(1:3), "an object that runM2ST() or embedM2ST() returned", fixed = TRUE)
})

test_that("a list of sections is chosen for as one object", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    half <- rep(c("a", "b"), each = 60)
    section <- function(which) {
        SingleCellExperiment::SingleCellExperiment(
            list(counts = zonedCounts()[, half == which]),
            colData = as.data.frame(toyCoords()[half == which, ])
        )
    }
    x <- list(a = section("a"), b = section("b"))
    x <- suppressMessages(embedM2ST(x, params = quickParams(), device = "cpu"))
    choice <- suppressMessages(chooseDomains(x, k = 2:4))
    expect_s3_class(choice, "m2stChoice")
    found <- suppressMessages(clusterM2ST(x, k = choice))
    expect_identical(S4Vectors::metadata(found$b)$m2st$n_domains$chosen, choice$k)
})

test_that("each number is told, and several at once are as each by itself", {
    skip_if_no_m2st()
    x <- embedded()
    said <- function(code) vapply(capture_messages(code), trimws, "", USE.NAMES = FALSE)
    told <- said(several <- clusterM2ST(x, 2:3, params = quickParams(), verbose = TRUE))
    expect_identical(told, paste("Clustering into", 2:3, "domains"))
    one <- clusterM2ST(x, 3, params = quickParams(), verbose = FALSE)
    expect_identical(several$domains$m2st_k3_domain, unname(one$domain))
    expect_identical(several$domains$m2st_k3_confidence, unname(one$confidence))
    told <- said(chooseDomains(x, 2:3, params = quickParams(), verbose = TRUE))
    expect_identical(told, paste0("Number of domains: trying ", 1:4, ", up to 4"))
    expect_identical(said(chooseDomains(x, 2:3, params = quickParams(), verbose = FALSE)), character())
    expect_identical(said(clusterM2ST(x, 2:3, params = quickParams())), character())
})
