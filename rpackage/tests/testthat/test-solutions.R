# Models that fall into two camps: the second solution is kept, drawn, renamed, and makes room.

withTwo <- function(code) {
    fake$second <- TRUE
    on.exit(fake$second <- NULL)
    suppressMessages(withFake(code))
}

test_that("the result of a matrix has the second solution", {
    x <- withTwo(runM2ST(toyCounts(), toyCoords(), k = 3, keep = "scales"))
    expect_s3_class(x$second_domain, "factor")
    expect_identical(names(x$second_domain), colnames(toyCounts()))
    expect_identical(as.integer(x$second_domain), rev(as.integer(x$domain)))
    skip_if_not_installed("ggplot2")
    expect_s3_class(plotDomains(x, "m2st_second"), "ggplot")
    several <- withTwo(clusterM2ST(x, k = 2:3))
    expect_identical(names(several$domains), c(
        "m2st_k2_domain", "m2st_k2_confidence", "m2st_k2_second_domain",
        "m2st_k3_domain", "m2st_k3_confidence", "m2st_k3_second_domain"
    ))
    renamed <- renameDomains(x, c("1" = "core"))
    expect_identical(levels(renamed$second_domain), c("core", "2", "3"))
    levels(x$second_domain)[3L] <- "4"
    expect_identical(levels(renameDomains(x, c("1" = "4"))$second_domain), c("1", "2", "4"))
    expect_null(withFake(clusterM2ST(x, k = 3))$second_domain)
})

test_that("a SingleCellExperiment has it in a column, which goes with its domains", {
    skip_if_not_installed("SingleCellExperiment")
    x <- withTwo(runM2ST(toySCE(), k = 3, name = "zone", keep = "scales"))
    expect_identical(as.integer(x$zone_second_domain), rev(as.integer(x$zone_domain)))
    expect_identical(levels(renameDomains(x, c("2" = "a"), "zone")$zone_second_domain)[2L], "a")
    again <- suppressMessages(withFake(clusterM2ST(x, k = 3, name = "zone")))
    expect_null(again$zone_second_domain)
    expect_null(suppressMessages(withFake(embedM2ST(x, name = "zone")))$zone_second_domain)
    request <- suppressMessages(asked(x, name = "zone", columns = "zone_second_domain"))
    expect_identical(
        vapply(request$columns, `[[`, "", "name"), c("m2st_domain", "m2st_second_domain")
    )
    expect_identical(request$record$cluster$solutions$between, 0.2)
    parts <- suppressMessages(withTwo(runM2ST(list(a = toySCE(), b = toySCE()), k = 3)))
    expect_length(parts$b$m2st_second_domain, 120L)
    other <- toySCE()
    other$mine_second_domain <- "a"
    expect_error(runM2ST(other, k = 3, name = "mine"), "found 'mine_second_domain', not made by m2ST")
    expect_error(runM2ST(other, k = 3, name = "m2st_second"), "ends like a name of m2ST")
})

test_that("a Seurat object has it in its meta.data", {
    skip_if_not_installed("SeuratObject")
    x <- withTwo(runM2ST(toySeurat(), k = 3, keep = "scales"))
    expect_identical(
        as.integer(x$m2st_second_domain), rev(as.integer(x$m2st_domain)), ignore_attr = TRUE
    )
    renamed <- suppressMessages(renameDomains(x, c("1" = "core")))
    expect_identical(levels(renamed$m2st_second_domain), c("core", "2", "3"))
    again <- suppressMessages(withFake(clusterM2ST(x, k = 3)))
    expect_false("m2st_second_domain" %in% names(again[[]]))
})

test_that("Python's two solutions come as a warning in words of R, and as a column", {
    skip_if_no_m2st()
    # Halves of a square of four quarters: members see the one cut or the other.
    coords <- as.matrix(expand.grid(row = 1:12, col = 1:12)) * 1
    quarters <- (coords > 6) * 4
    set.seed(1)
    views <- do.call(cbind, lapply(1:8, function(i) quarters + rnorm(288L)))
    x <- withFake(runM2ST(matrix(1, 5L, 144L), coords, k = 2, keep = "scales"))
    x$scales <- list(scale1 = views)
    x$record$n_members <- 8L
    x$record$embed$params$scale_dims <- list(2L)
    x$record$graph$n_edges <- NULL
    params <- m2stParams(common_dim = 2, n_init = 4)
    texts <- testthat::capture_warnings(found <- clusterM2ST(x, k = 2, params = params))
    expect_match(texts, "Two solutions, [0-9]+ : [0-9]+. Of 8 members", all = FALSE)
    expect_match(
        texts, "others are in column `<name>_second_domain`: look at both", all = FALSE, fixed = TRUE
    )
    expect_lt(compareDomains(found, truth = found$second_domain, name = "m2st")$ARI, 0.1)
    page <- reportM2ST(found, tempfile(fileext = ".html"))
    expect_match(paste(readLines(page), collapse = "\n"), "id=\"solutions\"", fixed = TRUE)
})
