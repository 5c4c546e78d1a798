# BayesSpace where it is installed, else the test double, installed in a temporary library.
useBayesSpace <- function() {
    skip_if_not_installed("SingleCellExperiment")
    if (!requireNamespace("BayesSpace", quietly = TRUE)) {
        library <- file.path(tempdir(), "doubles")
        dir.create(library, showWarnings = FALSE)
        utils::install.packages(
            test_path("doubles", "BayesSpace"), lib = library, repos = NULL, type = "source",
            quiet = TRUE
        )
        .libPaths(c(library, .libPaths()))
    }
    skip_if_not_installed("BayesSpace")
}

isDouble <- function() {
    utils::packageVersion("BayesSpace") == "0.0.0.9000"
}

# Six rows of a hexagonal lattice, as Visium counts them: every other place exists.
hexagons <- function(rows = 0:5, cols = 0:13) {
    place <- as.matrix(expand.grid(row = rows, col = cols))
    place[rowSums(place) %% 2 == 0, ]
}

# Neighbours by distance, each row of hexagons sqrt(3) / 2 of the step between neighbours apart.
neighborsByDistance <- function(place) {
    apart <- as.matrix(dist(cbind(place[, 1] * sqrt(3), place[, 2])))
    unname(rowSums(apart > 0 & apart < 2.1))
}

test_that("a hexagonal lattice is told from a square one, and has six neighbours at most", {
    place <- hexagons()
    found <- prepareLattice(place, NULL)
    expect_identical(found$platform, "Visium")
    expect_identical(found$most_neighbors, 6L)
    expect_equal(countNeighbors(place, "Visium"), neighborsByDistance(place))
    square <- as.matrix(expand.grid(row = 3:7, col = 1:4))
    found <- prepareLattice(square, NULL)
    expect_identical(found$platform, "ST")
    expect_identical(found$most_neighbors, 4L)
    apart <- as.matrix(dist(square))
    expect_equal(countNeighbors(square, "ST"), unname(rowSums(apart == 1)))
    expect_identical(prepareLattice(square, NULL, "VisiumHD")$platform, "VisiumHD")
})

test_that("sections are moved apart, and keep their neighbours", {
    # The second starts on an odd row, and a step by an odd number would break its lattice.
    one <- hexagons()
    two <- hexagons(1:6)
    place <- rbind(one, two, one)
    section <- factor(rep(c("b", "a", "c"), c(nrow(one), nrow(two), nrow(one))))
    found <- prepareLattice(place, section)
    expect_identical(found$platform, "Visium")
    expect_equal(
        countNeighbors(found$place, "Visium"),
        c(neighborsByDistance(one), neighborsByDistance(two), neighborsByDistance(one))
    )
    expect_equal((rowSums(found$place) - rowSums(place)) %% 2, rep(0, nrow(place)))
    rows <- lapply(split(found$place[, "row"], section), range)
    expect_gt(rows$b[1] - rows$a[2], 2)
    expect_gt(rows$c[1] - rows$b[2], 2)
    expect_identical(found$place[, "col"], as.double(place[, "col"]))
})

test_that("places that BayesSpace would misread are refused", {
    place <- hexagons()
    expect_error(prepareLattice(rbind(place, place), NULL), "found 42 repeated places and up to 12")
    expect_error(prepareLattice(place * 100, NULL), "without any neighbour.*not those of pixels")
    expect_error(prepareLattice(place + 0.5, NULL), "whole rows and columns.*such as 0.5")
    expect_error(prepareLattice(NULL, NULL), "needs the row and column of each spot.*found none")
    expect_error(prepareLattice(cbind("a", "b"), NULL), "found 2 of type character")
    place[2, 1] <- NA
    expect_error(prepareLattice(place, NULL), "every spot on its lattice, found 1 spots without")
})

test_that("rows and columns of the lattice are found under both names, and in images", {
    columns <- data.frame(row = 1:2, col = 3:4, array_row = 5:6, array_col = 7:8)
    expect_equal(unname(latticeColumns(columns, NULL, "x")), cbind(5:6, 7:8))
    expect_equal(unname(latticeColumns(columns[1:2], NULL, "x")), cbind(1:2, 3:4))
    expect_equal(unname(latticeColumns(columns, c("row", "col"), "x")), cbind(1:2, 3:4))
    expect_equal(latticeColumns(columns, cbind(1, 2), "x"), cbind(1, 2))
    expect_null(latticeColumns(columns[1], NULL, "x"))
    expect_error(latticeColumns(columns, c("row", "y"), "colData(x)"), "columns of colData")
})

test_that("a package that is not there is a row that says so", {
    skip_if(requireNamespace("BayesSpace", quietly = TRUE), "BayesSpace is there")
    skip_if_not_installed("callr")
    found <- compareMethods(toyCounts(), 2, coords = toyCoords(), methods = "BayesSpace")
    expect_identical(found$table$n_domains, 0L)
    expect_match(found$table$note, "^failed: The package 'BayesSpace' is needed to run it.*Install")
    expect_true(all(is.na(found$table[c("ARI", "CHAOS", "ARI_BayesSpace")])))
    expect_true(all(is.na(found$domains)))
    expect_error(runBayesSpaceFor(toySCE(), 2), "The package 'BayesSpace' is needed")
})

test_that("BayesSpace runs on each class, and its record is kept", {
    useBayesSpace()
    useSpatialExperiment()
    short <- list(nrep = 200L, burn.in = 50L)
    x <- toySPE()
    x$in_tissue <- c(FALSE, rep(TRUE, 119))
    SummarizedExperiment::assay(x)[, 7] <- 0
    run <- function(x) do.call(runBayesSpaceFor, c(list(x, k = 3, seed = 4), short))
    withr::local_seed(1)
    before <- .Random.seed
    found <- suppressWarnings(run(x))
    expect_identical(.Random.seed, before)
    expect_s4_class(found, "SpatialExperiment")
    expect_identical(levels(found$bayesspace_domain), c("1", "2", "3"))
    expect_identical(which(is.na(found$bayesspace_domain)), c(1L, 7L))
    record <- S4Vectors::metadata(found)$bayesspace
    expect_match(record$version, "^BayesSpace [0-9.]+$")
    expect_identical(
        record[c("k", "seed", "nrep", "platform", "most_neighbors")],
        list(k = 3L, seed = 4L, nrep = 200L, platform = "ST", most_neighbors = 4L)
    )
    object <- toySeurat()
    object$in_tissue <- x$in_tissue
    object <- object[, -7]
    again <- suppressWarnings(run(object))
    expect_equal(
        as.character(again$bayesspace_domain), as.character(found$bayesspace_domain)[-7]
    )
    expect_identical(SeuratObject::Misc(again, "bayesspace"), record)
    expect_error(runBayesSpaceFor(toyCounts(), 2), "SummarizedExperiment or Seurat object, found")
})

test_that("lost domains are reported", {
    useBayesSpace()
    skip_if_not(isDouble(), "the test double, which loses a domain")
    expect_warning(found <- runBayesSpaceFor(toySCE(), 3), "BayesSpace found 2 of 3 domains")
    expect_identical(nlevels(found$bayesspace_domain), 3L)
    skip_if_not_installed("callr")
    found <- compareMethods(toySCE(), 3, methods = "BayesSpace", seed = 2:3)$table
    expect_identical(found$note, rep("2 of 3 domains found", 2))
    expect_identical(found$n_domains, c(2L, 2L))
    expect_identical(found$seed, 2:3)
    # The bands do not depend on the seed.
    expect_equal(found$ARI_BayesSpace, c(1, 1))
})

test_that("sections that lie on top of each other do not meet", {
    useBayesSpace()
    counts <- toyCounts()
    x <- SingleCellExperiment::SingleCellExperiment(
        list(counts = cbind(counts, counts)),
        colData = S4Vectors::DataFrame(
            row = rep(toyCoords()[, 1], 2), col = rep(toyCoords()[, 2], 2),
            section = rep(c("s1", "s2"), each = 120)
        )
    )
    expect_error(runBayesSpaceFor(x, 2), "found 120 repeated places.*Name the column of sections")
    run <- function() {
        runBayesSpaceFor(x, 2, sample_id = "section", nrep = 200, burn.in = 50)
    }
    found <- suppressWarnings(run())
    expect_identical(S4Vectors::metadata(found)$bayesspace$most_neighbors, 4L)
})

test_that("the same spots go to Seurat and m2ST, from every class, and the scores are kept", {
    skip_if_no_m2st()
    skip_if_not_installed("callr")
    skip_if_not_installed("Seurat")
    useSpatialExperiment()
    half <- ifelse(toyCoords()[, "col"] > 6, "upper", "lower")
    half[3] <- NA
    options <- list(
        m2ST = list(n_members = 2, n_epochs = 20, hidden_dim = 16, scale_dims = c(8, 4)),
        Seurat = list(dims = 5)
    )
    compare <- function(x, ..., methods = "m2ST") {
        compareMethods(x, 2, methods = methods, options = options, ...)
    }
    x <- toySPE()
    x$layer <- half
    x$in_tissue <- c(rep(TRUE, 119), FALSE)
    found <- compare(x, "layer", methods = c("m2ST", "Seurat", "BANKSY"))
    expect_s3_class(found, "m2stComparison")
    table <- found$table
    expect_identical(table$method, c("m2ST", "Seurat", "BANKSY"))
    expect_match(table$version[1:2], "^(m2st|Seurat) [0-9.]+$")
    expect_identical(table$n_spots[1:2], c(119L, 119L))
    expect_identical(table$n_scored[1:2], c(118L, 118L))
    expect_gt(min(table$ARI[1:2]), 0.9)
    expect_true(all(table$seconds[1:2] > 0 & table$CHAOS[1:2] > 0 & table$PAS[1:2] < 0.2))
    expect_identical(is.na(table$peak_mb[1]), !file.exists("/proc/self/status"))
    expect_equal(table$ARI_Seurat[1], table$ARI_m2ST[2])
    expect_identical(rownames(found$domains), colnames(x))
    expect_identical(which(is.na(found$domains$m2ST)), 120L)
    columns <- data.frame(layer = half, found$domains)
    scores <- compareDomains(columns, "layer", c("m2ST", "Seurat"))
    expect_equal(table$ARI[1:2], scores$ARI)
    expect_output(print(found), "1 thread for each method")
    if (is.na(table$version[3])) {
        expect_match(table$note[3], "pip install pybanksy")
    } else {
        expect_identical(table$n_spots[3], 119L)
    }

    object <- toySeurat()
    object$layer <- half
    object$in_tissue <- x$in_tissue
    expect_identical(compare(object, "layer")$domains, found$domains["m2ST"])
    plain <- compare(toyCounts()[, -120], half[-120], coords = toyCoords()[-120, ])
    expect_identical(plain$domains$m2ST, found$domains$m2ST[-120])
})

test_that("a process that ends is a row too", {
    skip_if_not_installed("callr")
    # Without its library the new process cannot load m2st.
    before <- .libPaths()
    on.exit(.libPaths(before))
    .libPaths(character())
    own <- nzchar(system.file(package = "m2st", lib.loc = .libPaths()))
    skip_if(own, "m2st is in R's own library")
    expect_match(runApart("m2ST", list(), 2L, 0L, NULL)$note, "^failed: ")
})

test_that("the table has a row for each run, and agreement is at the same seed", {
    input <- list(valid = c(TRUE, TRUE, FALSE, TRUE, TRUE), names = letters[1:5])
    kept <- list(coords = cbind(1:4, c(1, 2, 1, 2)))
    runs <- expand.grid(method = c("m2ST", "Seurat"), seed = 0:1, stringsAsFactors = FALSE)
    results <- list(
        list(labels = c(1L, 1L, 2L, 2L), version = "m2st 1", seconds = 1.5, peak_mb = 3),
        list(labels = c(2L, 2L, 1L, 1L), version = "Seurat 4"),
        list(labels = c(3L, 1L, 1L, 1L), version = "m2st 1"),
        list(note = "failed: because")
    )
    truth <- factor(c("x", "x", "x", "y", NA))
    found <- suppressMessages(makeComparison(input, kept, 2L, truth, runs, results))
    expect_identical(found$table$method, rep(c("m2ST", "Seurat"), 2))
    expect_identical(found$table$n_scored, c(3L, 3L, 3L, 0L))
    expect_equal(found$table$ARI[1:3], c(1, 1, compareTwo(
        factor(c(1, 1, 2)), factor(c(3, 1, 1)), "ARI"
    )$ARI))
    expect_identical(found$table$ARI_m2ST, c(1, 1, 1, NA))
    expect_identical(found$table$ARI_Seurat, c(1, 1, NA, NA))
    expect_identical(found$table$note, c("", "", "", "failed: because"))
    expect_identical(
        names(found$domains), c("m2ST_seed0", "Seurat_seed0", "m2ST_seed1", "Seurat_seed1")
    )
    expect_identical(found$domains$m2ST_seed0, found$domains$Seurat_seed0)
    expect_identical(rownames(found$domains), letters[1:5])
    bare <- suppressMessages(makeComparison(input, kept, 3L, NULL, runs[1, ], results[1]))
    expect_identical(bare$table$ARI, NA_real_)
    expect_identical(bare$table$note, "2 of 3 domains found")
})

test_that("the resolution is searched for", {
    tried <- NULL
    steps <- function(resolution) {
        tried <<- c(tried, resolution)
        seq_len(1 + floor(resolution * 3))
    }
    expect_length(searchResolution(4, steps), 4)
    expect_equal(tried, c(2, 1))
    # Where no resolution gives k, the closest that was seen.
    jump <- function(resolution) seq_len(if (resolution > 0.7) 9 else 3)
    expect_length(searchResolution(5, jump), 3)
})

test_that("files of Python are read as they were written", {
    skip_if_not_installed("callr")
    folder <- withr::local_tempdir()
    write <- function(name, values, size = 8L) {
        writeBin(values, file.path(folder, name), size = size)
    }
    counts <- toyCounts()
    write("data", counts@x)
    write("indices", counts@i, 4L)
    write("indptr", counts@p, 4L)
    write("coordinates", as.double(toyCoords()))
    write("truth", rep(c(0L, NA), 60), 4L)
    writeLines(c(
        '{"shape": [60, 120], "k": 2, "seed": [3], "methods": ["BayesSpace"],',
        '"options": {"BayesSpace": {"nrep": 2000}}}'
    ), file.path(folder, "request.json"))
    suppressMessages(compareFiles(folder))
    table <- utils::read.csv(file.path(folder, "table.csv"))
    expect_identical(table[c("method", "seed", "k")], data.frame(
        method = "BayesSpace", seed = 3L, k = 2L
    ))
    # No lattice came along, or the package is not there: either is said.
    expect_match(table$note, "^failed: (BayesSpace needs the row|The package 'BayesSpace')")
    expect_identical(nrow(utils::read.csv(file.path(folder, "domains.csv"))), 120L)
})

test_that("wrong requests are refused before anything runs", {
    skip_if_not_installed("callr")
    run <- function(...) compareMethods(toyCounts(), coords = toyCoords(), ...)
    expect_error(run(2, methods = "SpaGCN"), "Expected `methods` among 'm2ST'.*found \"SpaGCN\"")
    expect_error(run(2, methods = c("m2ST", "m2ST")), "each once")
    expect_error(run(2, options = list(nrep = 5)), "names among 'm2ST'.*found \"nrep\"")
    expect_error(run(120), "fewer domains than spots")
    expect_error(run(2, truth = 1:3), "each of 120 spots in `truth`, found 3")
    expect_error(run(2, seed = -1), "seed to be one whole number")
    expect_error(run(2, nrep = 5), "not known here: 'nrep'")
    expect_error(compareMethods(1:3, 2), "a Seurat object or a matrix of counts, found integer")
})

test_that("a further method is a function of counts and coordinates", {
    skip_if_not_installed("callr")
    mine <- function(counts, coords, k, seed) ifelse(coords[, "col"] > 6, "right", "left")
    few <- function(counts, coords, k, seed) "one"
    found <- compareMethods(
        toyCounts(), 2, rep(1:2, each = 60), methods = character(), coords = toyCoords(),
        further = list(mine = mine, few = few)
    )
    expect_identical(found$table$method, c("mine", "few"))
    expect_equal(found$table$ARI[1], 1)
    expect_match(found$table$note[2], "Expected 120 labels, found 1")
    expect_error(
        compareMethods(toyCounts(), 2, coords = toyCoords(), further = list(Seurat = mine)),
        "Expected `further` to be a list of functions with names other than"
    )
})
