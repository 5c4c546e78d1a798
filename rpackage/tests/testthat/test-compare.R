scores <- function(truth, labels, ...) {
    found <- compareDomains(data.frame(truth, labels), "truth", "labels", ...)
    unlist(found[names(found) %in% c("ARI", "NMI", "purity")])
}

test_that("the metrics are those computed by hand", {
    # Pairs of spots together in both: 2; in the classes: 6; in the domains: 7; of 15 in all.
    truth <- c("a", "a", "a", "b", "b", "b")
    labels <- c(1, 1, 2, 2, 2, 2)
    expected <- 6 * 7 / 15
    ari <- (4 - expected) / (6.5 - expected)
    information <- 2 / 6 * log(2 / 6 / (3 / 6 * 2 / 6)) + 1 / 6 * log(1 / 6 / (3 / 6 * 4 / 6)) +
        3 / 6 * log(3 / 6 / (3 / 6 * 4 / 6))
    entropies <- c(log(2), -(2 / 6 * log(2 / 6) + 4 / 6 * log(4 / 6)))
    expect_equal(
        scores(truth, labels),
        c(ARI = ari, NMI = information / mean(entropies), purity = 5 / 6), tolerance = 1e-14
    )
})

test_that("the metrics are those of Python's m2st.metrics", {
    expect_equal(
        scores(
            c("a", "a", "a", "b", "b", "c", "c", "c", NA, "c"), c(1, 1, 2, 2, 2, 3, 3, 1, 1, NA)
        ),
        c(ARI = 0.23809523809523808, NMI = 0.5588730382170324, purity = 0.75), tolerance = 1e-14
    )
    expect_equal(
        scores(rep(1:3, each = 4), c("x", "x", "x", "y", "y", "y", "y", "z", "z", "z", "w", "w")),
        c(ARI = 0.3726235741444867, NMI = 0.6122622451534346, purity = 0.8333333333333334),
        tolerance = 1e-14
    )
})

test_that("partitions without structure get what scikit-learn gives", {
    expect_identical(scores(c(1, 1, 1), c(2, 2, 2)), c(ARI = 1, NMI = 1, purity = 1))
    expect_equal(scores(c(1, 1, 2), c(2, 2, 2)), c(ARI = 0, NMI = 0, purity = 2 / 3))
    expect_equal(scores(1:3, 3:1), c(ARI = 1, NMI = 1, purity = 1))
    expect_equal(scores(1:3, c(1, 1, 1), metrics = "ARI"), c(ARI = 0))
    expect_equal(scores(c(1, 1, 2, 2), c("x", "y", "x", "y"), metrics = "NMI"), c(NMI = 0))
})

test_that("the adjusted Rand index is that of mclust", {
    skip_if_not_installed("mclust")
    withr::local_seed(1)
    for (n in c(5, 60, 300)) {
        truth <- sample(4, n, TRUE)
        labels <- sample(letters[1:7], n, TRUE)
        found <- scores(truth, labels, metrics = "ARI")
        expect_equal(found[["ARI"]], mclust::adjustedRandIndex(truth, labels), tolerance = 1e-12)
    }
})

spots <- data.frame(
    section = rep(c("s2", "s10"), c(4, 5)),
    layer = c("a", "a", "b", "b", "a", "b", "b", NA, "a"),
    m2st_domain = factor(c(1, 1, 2, 2, 1, 1, 2, 2, NA)),
    m2st_k3_domain = c(1, 2, 3, 3, NA, 1, 1, 1, 2),
    other = 1
)

test_that("columns of domains are found, and missing labels are left out and counted", {
    found <- compareDomains(spots, "layer")
    expect_identical(found$label, c("m2st_domain", "m2st_k3_domain"))
    expect_identical(found$n, c(7L, 7L))
    expect_identical(found$n_missing, c(2L, 2L))
    expect_identical(found$n_domains, c(2L, 3L))
    expect_equal(found$purity, c(6 / 7, 6 / 7))
    expect_identical(names(compareDomains(spots, "layer", "other", c("purity", "ARI"))), c(
        "label", "n", "n_missing", "n_domains", "purity", "ARI"
    ))
    expect_identical(compareDomains(spots, "m2st_domain")$label, "m2st_k3_domain")
})

test_that("groups are compared one by one, in order", {
    found <- compareDomains(spots, "layer", by = "section", metrics = "ARI")
    expect_identical(as.character(found$group), c("s10", "s2", "s10", "s2"))
    expect_identical(found$n, c(3L, 4L, 3L, 4L))
    expect_identical(found$n_missing, c(2L, 0L, 2L, 0L))
    expect_equal(found$ARI[2], 1)
    spots$number <- rep(c(10, 2), c(4, 5))
    by_number <- compareDomains(spots, "layer", "m2st_domain", by = "number")
    expect_identical(as.character(by_number$group), c("2", "10"))
})

test_that("a group with nothing to compare gets NA", {
    spots$layer[1:4] <- NA
    found <- compareDomains(spots, "layer", "m2st_domain", by = "section")
    expect_identical(found$n, c(3L, 0L))
    expect_identical(is.na(found$NMI), c(FALSE, TRUE))
})

test_that("containers give what their columns give", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$layer <- rep(c("a", "b", NA), 40)
    x$m2st_domain <- factor(rep(1:4, 30))
    columns <- data.frame(layer = x$layer, m2st_domain = x$m2st_domain)
    expect_identical(compareDomains(x, "layer"), compareDomains(columns, "layer"))
    object <- toySeurat()
    object$layer <- x$layer
    object$m2st_domain <- x$m2st_domain
    expect_identical(compareDomains(object, "layer"), compareDomains(columns, "layer"))
    expect_error(compareDomains(x, "class"), "column of colData\\(x\\), found \"class\"")
    expect_error(compareDomains(object, "class"), "column of meta.data, found \"class\"")
})

test_that("wrong columns and metrics are named", {
    expect_error(compareDomains(1:3, "a"), "Expected a data frame.* found integer")
    expect_error(compareDomains(spots, "class"), "found \"class\". Columns: 'section', 'layer'")
    expect_error(compareDomains(spots, "layer", c("other", "x")), "column of x, found \"x\"")
    expect_error(compareDomains(spots, "layer", by = "x"), "column of x, found \"x\"")
    expect_error(compareDomains(spots, "layer", metrics = "F1"), "among 'ARI', 'NMI', 'purity'")
    expect_error(compareDomains(spots[1:2], "layer"), "no column of domains in x")
    expect_error(compareDomains(spots, "layer", method = 1), "not known here: 'method'")
    spots$layer <- NA_character_
    expect_error(compareDomains(spots, "layer"), "a label in 'layer' and in 'm2st_domain',.*none")
    spots$list <- as.list(1:9)
    expect_error(compareDomains(spots, "list"), "labels in the column 'list' of x, found list")
})

test_that("domains take the names of those that they overlap", {
    # Greedily x would get 1 (3 spots) and y nothing; together x = 2, y = 1 is better.
    a <- c("x", "x", "x", "x", "x", "y", "y", "y", "z")
    b <- c(1, 1, 1, 2, 2, 1, 1, 1, 1)
    expect_identical(
        matchDomains(a, b), factor(c(2, 2, 2, 2, 2, 1, 1, 1, 3), levels = 1:3)
    )
})

test_that("nothing is merged, missing stays missing, names of spots are kept", {
    a <- c(s1 = "5", s2 = "5", s3 = NA, s4 = "4", s5 = "3")
    b <- factor(c("B", "B", "A", "A", "A"), levels = c("B", "A", "C"))
    expect_identical(
        matchDomains(a, b),
        stats::setNames(factor(c("B", "B", NA, "4", "A"), levels = c("B", "A", "C", "4")), names(a))
    )
    expect_identical(levels(matchDomains(c("A", "B", "B"), c("A", "A", "A"))), c("A", "A.1"))
    expect_identical(levels(matchDomains(c(10, 9, 2), c(NA, 2, 10))), c("2", "10", "11"))
})

test_that("domains without overlap are new", {
    expect_identical(matchDomains(c(1, 1, 2), c(1, 1, NA)), factor(c(1, 1, 2), levels = 1:2))
    expect_identical(as.character(matchDomains(c(1, 2), c(NA, NA))), c("1", "2"))
    expect_length(matchDomains(character(), character()), 0L)
})

test_that("matching is undone by matching back", {
    withr::local_seed(2)
    b <- factor(sample(9, 300, TRUE))
    a <- b
    levels(a) <- sample(levels(b))
    expect_identical(matchDomains(a, b), b)
})

test_that("different spots are refused", {
    expect_error(matchDomains(1:3, 1:2), "same spots in `a` and `b`, found 3 and 2")
    expect_error(matchDomains(c(a = 1, b = 2), c(b = 1, a = 2)), "found different names")
})

allOrders <- function(n) {
    if (n == 1L) {
        return(matrix(1L))
    }
    shorter <- allOrders(n - 1L)
    do.call(rbind, lapply(seq_len(n), function(first) {
        rest <- seq_len(n)[-first]
        cbind(first, matrix(rest[shorter], nrow(shorter)), deparse.level = 0)
    }))
}

test_that("the assignment is as good as the best of all", {
    withr::local_seed(3)
    for (n in c(1:6, 6, 6, 6)) {
        cost <- matrix(sample(-9:9, n * n, TRUE), n)
        total <- function(columns) sum(cost[cbind(seq_len(n), columns)])
        found <- solveAssignment(cost)
        expect_setequal(found, seq_len(n))
        expect_identical(total(found), min(apply(allOrders(n), 1L, total)))
    }
})
