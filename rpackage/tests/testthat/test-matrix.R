test_that("a matrix gives a list of class m2st in the order of the spots", {
    small <- withFake(runM2ST(toyCounts(), toyCoords(), k = 5))
    expect_named(small, c("domain", "confidence", "embedding", "coords", "record"))
    expect_output(print(small), "m2ST: 120 spots\nSpots per domain")
    result <- withFake(runM2ST(toyCounts(), toyCoords(), k = 5, keep = "scales"))
    expect_identical(result[names(small)], unclass(small))
    expect_s3_class(result, "m2st")
    expect_named(result, c("domain", "confidence", "embedding", "scales", "coords", "record"))
    expect_identical(levels(result$domain), as.character(1:5))
    expect_identical(names(result$domain), colnames(toyCounts()))
    expect_identical(unname(as.integer(result$domain)), as.integer(rep(rep(1:5, each = 2), 12)))
    expect_identical(colnames(result$embedding), paste0("M2ST_", 1:5))
    expect_identical(colnames(result$scales$scale2), paste0("M2ST_scale2_", 1:2))
    expect_identical(unname(result$embedding[, 1]), unname(toyCoords()[, 1]))
    expect_equal(unname(result$confidence), unname(plogis(toyCoords()[, 1])))
    expect_identical(names(result$confidence), colnames(toyCounts()))
    expect_output(print(result), "120 spots, embedded at 2 scales")
})

test_that("levels of more than nine domains are in numeric order", {
    result <- withFake(runM2ST(toyCounts(), toyCoords(), k = 10))
    expect_identical(levels(result$domain), as.character(1:10))
})

test_that("dense, sparse and other sparse forms carry the same numbers over", {
    dense <- toyCounts(sparse = FALSE)
    withFake({
        runM2ST(dense, toyCoords(), k = 2)
        expect_identical(readBin(fake$request$dense, "double", 7200, size = 4), as.double(dense))
        for (counts in list(toyCounts(), as(toyCounts(), "TsparseMatrix"),
            as(toyCounts(), "RsparseMatrix"))) {
            runM2ST(counts, toyCoords(), k = 2)
            request <- fake$request
            expect_identical(request$shape, c(120L, 60L))
            expect_identical(readBin(request$data, "double", 1e4, size = 4), toyCounts()@x)
            expect_identical(readBin(request$indices, "integer", 1e4), toyCounts()@i)
            expect_identical(readBin(request$indptr, "integer", 1e4), toyCounts()@p)
        }
    })
})

test_that("a matrix in a file, or with steps to be done, is taken as it is", {
    skip_if_not_installed("DelayedArray")
    withFake({
        expected <- runM2ST(toyCounts(), toyCoords(), k = 2)
        request <- fake$request
        delayed <- DelayedArray::DelayedArray(toyCounts(sparse = FALSE)) * 1
        expect_s4_class(delayed, "DelayedMatrix")
        expect_identical(runM2ST(delayed, toyCoords(), k = 2), expected)
        expect_identical(fake$request, request)
        if (requireNamespace("SingleCellExperiment", quietly = TRUE)) {
            x <- SingleCellExperiment::SingleCellExperiment(list(counts = delayed))
            x <- runM2ST(x, k = 2, coords = toyCoords())
            expect_identical(x$m2st_domain, unname(expected$domain))
            expect_identical(fake$request[c("data", "indices", "indptr")],
                request[c("data", "indices", "indptr")])
        }
        skip_if_not_installed("HDF5Array")
        file <- HDF5Array::writeHDF5Array(toyCounts(), tempfile(fileext = ".h5"), "counts",
            with.dimnames = TRUE)
        expect_identical(runM2ST(file, toyCoords(), k = 2), expected)
        expect_identical(fake$request, request)
    })
})

test_that("settings, seed and sections cross as integers and codes", {
    sample <- factor(rep(c("b", "a"), each = 60), levels = c("a", "b"))
    withFake(runM2ST(
        toyCounts(), toyCoords(), k = 2, sample_id = sample, seed = 7,
        params = m2stParams(loss_exponent = NA, n_epochs = 3)
    ))
    request <- fake$request
    expect_identical(request$random_state, 7L)
    expect_identical(request$n_domains, 2L)
    expect_identical(request$autoencoder, list(loss_exponent = NULL, n_epochs = 3L))
    expect_identical(readBin(request$sample, "integer", 120), rep(0:1, each = 60))
    expect_identical(request$sample_names, list("b", "a"))
})

test_that("spots without coordinates stay, with NA and one message", {
    coords <- toyCoords()
    coords[c(3, 50), 1] <- NA
    expect_message(
        result <- withFake(runM2ST(toyCounts(), coords, k = 2)),
        "2 of 120 spots get no domain (NA): 2 have no coordinates.", fixed = TRUE
    )
    expect_identical(unname(which(is.na(result$domain))), c(3L, 50L))
    expect_identical(unname(which(is.na(result$confidence))), c(3L, 50L))
    expect_true(all(is.na(result$embedding[c(3, 50), ])))
    expect_false(anyNA(result$embedding[-c(3, 50), ]))
    expect_identical(fake$request$shape, c(118L, 60L))
    expect_identical(result$record$r$n_invalid, 2L)
})

test_that("shuffled spots get shuffled domains", {
    order <- sample(120)
    plain <- withFake(runM2ST(toyCounts(), toyCoords(), k = 4))
    shuffled <- withFake(runM2ST(toyCounts()[, order], toyCoords()[order, ], k = 4))
    expect_identical(shuffled$domain, plain$domain[order])
})

test_that("coordinates are matched to spots by name", {
    coords <- toyCoords()
    rownames(coords) <- colnames(toyCounts())
    plain <- withFake(runM2ST(toyCounts(), coords, k = 4))
    matched <- withFake(runM2ST(toyCounts(), as.data.frame(coords[120:1, ]), k = 4))
    expect_identical(matched$domain, plain$domain)
    rownames(coords)[1] <- "elsewhere"
    expect_error(runM2ST(toyCounts(), coords, k = 4), "1 others, such as 'elsewhere'")
})

test_that("embeddings can be clustered for one or several numbers", {
    embedded <- withFake(embedM2ST(toyCounts(), toyCoords()))
    expect_null(embedded$domain)
    expect_output(print(embedded), "No domains yet")
    one <- withFake(clusterM2ST(embedded, 3))
    whole <- withFake(runM2ST(toyCounts(), toyCoords(), k = 3, keep = "scales"))
    expect_identical(byName(one), byName(whole))
    several <- withFake(clusterM2ST(one, c(2, 5)))
    expect_named(several$domains, c(
        "m2st_k2_domain", "m2st_k2_confidence", "m2st_k5_domain", "m2st_k5_confidence"
    ))
    expect_identical(several$domains$m2st_k2_domain, unname(withFake(clusterM2ST(one, 2))$domain))
    expect_identical(several$domains$m2st_k5_confidence, unname(one$confidence))
    expect_identical(rownames(several$domains), colnames(toyCounts()))
})

test_that("clustering sends members, coordinates and sections of the valid spots", {
    coords <- toyCoords()
    coords[c(3, 50), 1] <- NA
    sample <- rep(c("b", "a"), each = 60)
    params <- m2stParams(n_members = 3)
    embedded <- suppressMessages(
        withFake(embedM2ST(toyCounts(), coords, sample_id = sample, params = params))
    )
    place <- fake$request[c("coordinates", "n_axes", "sample", "sample_names")]
    expect_silent(found <- withFake(clusterM2ST(embedded, 2)))
    expect_identical(fake$what, "cluster")
    expect_identical(fake$request[names(place)], place)
    expect_identical(fake$request$n_members, 3L)
    expect_identical(fake$request$scales[[1]]$shape, c(118L, 12L))
    expect_identical(unname(which(is.na(found$domain))), c(3L, 50L))
})

test_that("embeddings without the record of their run are refused, another graph is told", {
    embedded <- withFake(embedM2ST(toyCounts(), toyCoords()))
    other <- embedded
    other$record$n_members <- 2L
    expect_error(clusterM2ST(other, 2), "found that of another run. Call embedM2ST")
    other$record <- NULL
    expect_error(clusterM2ST(other, 2), "record of the run .* found none. Call embedM2ST")
    embedded$sample_id <- factor(rep(c("b", "a"), each = 60))
    expect_warning(
        withFake(clusterM2ST(embedded, 2:3)),
        "graph has 12002 entries, that of the embeddings had 12000. Pass the same coordinates"
    )
})

test_that("errors are found in R, in R's words", {
    counts <- toyCounts()
    coords <- toyCoords()
    expect_error(runM2ST("counts"), "Expected a matrix with genes in rows.*found character")
    expect_error(runM2ST(data.frame(a = 1)), "as.matrix")
    expect_error(runM2ST(counts, coords, k = 2, q = 7), "not known here: 'q'")
    expect_error(runM2ST(counts, coords, k = 2, seed = 1.5), "Expected the seed")
    expect_error(runM2ST(counts, coords, k = 2, params = list()), "paperParams\\(\\), found list")
    expect_error(runM2ST(counts, 2), "Expected `coords`, the coordinates of the spots, found none")
    small <- withFake(runM2ST(counts, coords, k = 2))
    none <- "Found no embeddings of the scales .the result.*again with keep = \"scales\", or call emb"
    expect_error(clusterM2ST(small, 2), none)
    expect_error(chooseDomains(small, 2), none)
    expect_error(
        runM2ST(counts, coords, k = 2, keep = TRUE), "`keep` to be \"scales\" or NULL, found TRUE"
    )
    expect_error(runM2ST(counts, coords = coords), "Expected `k`, the number of domains, found no")
    embedded <- withFake(embedM2ST(counts, coords))
    expect_error(clusterM2ST(embedded), "Expected `k`, the number of domains, found none")
    expect_error(runM2ST(counts, coords, k = 0), "one whole number above 0, found 0")
    expect_error(runM2ST(counts, coords, k = 2:3), "embedM2ST\\(\\) once")
    expect_error(runM2ST(counts, coords, k = 120), "fewer domains than spots")
    expect_error(runM2ST(counts[, 1:20], coords[1:20, ], k = 2), "at least 50 spots.*found 20")
    expect_error(runM2ST(counts, coords[-1, ], k = 2), "of 120 spots, found 119 rows")
    expect_error(runM2ST(counts, coords[, 1, drop = FALSE], k = 2), "2 or 3 columns")
    expect_error(runM2ST(counts, coords * NA, k = 2), "found them all missing")
    expect_error(runM2ST(counts, coords * 0, k = 2), "all spots in one place")
    expect_error(runM2ST(counts, coords, k = 2, sample_id = "a"), "of 120 spots, found 1")
    expect_error(runM2ST(counts, coords, k = 2, sample_id = rep(NA, 120)), "120 missing")
    expect_error(runM2ST(counts, coords, k = 2, batch_id = "a"), "batch of each of 120 spots")
    expect_error(runM2ST(-counts, coords, k = 2), "values down to")
    counts[1, 1] <- Inf
    expect_error(runM2ST(counts, coords, k = 2), "finite values")
    expect_error(runM2ST(matrix("a", 2, 120), coords, k = 2), "found character")
    expect_error(runM2ST(matrix(0, 0, 120), coords, k = 2), "found 0 x 120")
    expect_error(clusterM2ST(1, 2), "found numeric")
})

test_that("an error or a warning of Python arrives once, as its message", {
    worker <- function(what, request, callback) {
        list(error = "no such thing", warnings = list("mind the gap"))
    }
    expect_warning(
        expect_error(
            withFake(runM2ST(toyCounts(), toyCoords(), k = 2), worker), "^no such thing$"
        ),
        "^mind the gap$"
    )
})

test_that("an interrupt is told to Python and then to R", {
    interrupt <- structure(class = c("interrupt", "condition"), list(message = "", call = NULL))
    worker <- function(what, request, callback) {
        # Signalled while the callback looks at its argument.
        if (callback(signalCondition(interrupt))) {
            stop("the callback went on")
        }
        list(interrupted = TRUE, warnings = list())
    }
    caught <- tryCatch(
        withFake(runM2ST(toyCounts(), toyCoords(), k = 2, verbose = TRUE), worker),
        interrupt = function(condition) conditionMessage(condition)
    )
    expect_match(caught, "nothing was changed")
    callback <- progressCallback(TRUE)
    expect_message(expect_true(callback("Epoch 50")), "Epoch 50")
    expect_null(progressCallback(FALSE))
})

test_that("averages are kept beside the scales, and sent with them", {
    skip_if_no_m2st()
    few <- m2stParams(
        n_members = 2, n_epochs = 2, scale_dims = c(8, 4), hidden_dim = 16, average_hops = 2,
        equal_sizes = 0.1
    )
    counts <- toyCounts()
    whole <- runM2ST(counts, toyCoords(), k = 3, params = few, keep = "scales", verbose = FALSE)
    expect_named(whole$scales, c("scale1", "scale2", "averages"))
    expect_identical(dim(whole$scales$averages)[1L], ncol(counts))
    expect_output(print(whole), "embedded at 2 scales \\(16, 8 columns\\)")
    again <- clusterM2ST(whole, 3, params = few, verbose = FALSE)
    expect_identical(again$domain, whole$domain)
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x <- runM2ST(x, k = 3, params = few, keep = "scales", verbose = FALSE)
    expect_true("M2ST_averages" %in% SingleCellExperiment::reducedDimNames(x))
    again <- clusterM2ST(x, 3, params = few, verbose = FALSE)
    expect_identical(again$m2st_domain, x$m2st_domain)
    x <- runM2ST(x, k = 3, params = m2stParams(n_members = 1, n_epochs = 2), verbose = FALSE)
    expect_false("M2ST_averages" %in% SingleCellExperiment::reducedDimNames(x))
})
