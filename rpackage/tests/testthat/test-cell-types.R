# Cell types as one more view of the tissue.

# Nearly all cells of the upper half are of one type, those of the lower half of another one.
toyTypes <- function() {
    types <- ifelse(toyCoords()[, "col"] > 6, "neuron", "glia")
    types[c(3, 90)] <- types[c(90, 3)]
    types
}

sentTypes <- function() {
    codes <- readBin(fake$request$cell_types$codes, "integer", 1000L)
    c(unlist(fake$request$cell_types$levels), NA)[ifelse(codes < 0L, NA, codes + 1L)]
}

test_that("types are a column of each class, or a vector, and may be missing", {
    types <- toyTypes()
    types[5] <- NA
    run <- function(x, ...) withFake(suppressMessages(runM2ST(x, k = 2, ...)))
    run(toyCounts(), toyCoords(), cell_types = types)
    expect_identical(sentTypes(), types)
    run(toyCounts(), toyCoords(), cell_types = factor(types, levels = c("neuron", "glia", "none")))
    expect_identical(sentTypes(), types)
    run(toyCounts(), toyCoords(), cell_types = match(types, c("neuron", "glia")))
    expect_identical(sentTypes(), c("1", "2")[match(types, c("neuron", "glia"))])
    run(toyCounts(), toyCoords())
    expect_null(fake$request$cell_types)
    skip_if_not_installed("SingleCellExperiment")
    for (x in list(toySCE(), toySeurat())) {
        x$type <- types
        run(x, coords = c("row", "col"), cell_types = "type")
        expect_identical(sentTypes(), types)
        expect_error(
            run(x, coords = c("row", "col"), cell_types = "kind"),
            "Expected `cell_types` to name a column of .*, found \"kind\""
        )
        sections <- list(a = x, b = x)
        sections$b$type <- "other"
        run(sections, coords = c("row", "col"), cell_types = "type")
        expect_identical(sentTypes(), c(types, rep("other", 120)))
    }
    # Of spots off the tissue nothing is sent.
    x <- toySCE()
    x$type <- types
    x$in_tissue <- seq_len(120) <= 100
    run(x, cell_types = "type")
    expect_identical(sentTypes(), types[1:100])
})

test_that("unfit types are told in R's words", {
    counts <- toyCounts()
    expect_error(
        withFake(runM2ST(counts, toyCoords(), k = 2, cell_types = "a")),
        "`cell_types` to give the cell type of each of 120 spots, found 1"
    )
    expect_error(
        runM2ST(counts, toyCoords(), k = 2, cell_types = toyTypes(), params = paperParams()),
        "Expected no `cell_types` with paperParams\\(\\)"
    )
    skip_if_no_m2st()
    refused <- function(types, message) {
        expect_error(
            runM2ST(counts, toyCoords(), k = 2, cell_types = types, params = quickParams()), message
        )
    }
    refused(rep("a", 120), "at least two cell types in `cell_types`, found 'a' only")
    refused(paste0("cell", 1:120), "found 120 different values of 120 spots")
    refused(c("a", "b", rep(NA, 118)), "for at least 10% of the spots in `cell_types`")
})

test_that("types are a view that is kept beside the scales, and sent with them", {
    skip_if_no_m2st()
    counts <- toyCounts()
    whole <- runM2ST(
        counts, toyCoords(), k = 3, cell_types = toyTypes(), params = quickParams(), device = "cpu",
        keep = "scales", verbose = FALSE
    )
    expect_named(whole$scales, c("scale1", "scale2", "averages", "cell_types"))
    expect_identical(dim(whole$scales$cell_types), c(120L, 2L))
    expect_output(print(whole), "embedded at 2 scales \\(16, 8 columns\\)")
    expect_identical(unlist(whole$record$embed$cell_types), c("glia", "neuron"))
    again <- clusterM2ST(whole, 3, params = quickParams(), verbose = FALSE)
    expect_identical(again$domain, whole$domain)
    skip_if_not_installed("SingleCellExperiment")
    names <- function(x) {
        if (is(x, "Seurat")) SeuratObject::Reductions(x) else {
            SingleCellExperiment::reducedDimNames(x)
        }
    }
    for (x in list(toySCE(), toySeurat())) {
        x$type <- toyTypes()
        run <- function(x, ...) {
            suppressMessages(runM2ST(
                x, k = 3, coords = c("row", "col"), params = quickParams(), device = "cpu", ...
            ))
        }
        x <- run(x, cell_types = "type", keep = "scales")
        expect_true(any(c("M2ST_cell_types", "m2st.cell_types") %in% names(x)))
        expect_identical(unname(x$m2st_domain), unname(whole$domain))
        again <- suppressMessages(
            clusterM2ST(x, 3, coords = c("row", "col"), params = quickParams())
        )
        expect_identical(again$m2st_domain, x$m2st_domain)
        expect_false(any(grepl("cell_types", names(run(x)))))
    }
})

test_that("a model with types places other spots by theirs", {
    skip_if_no_m2st()
    counts <- toyCounts()
    folder <- tempfile("model")
    fitted <- runM2ST(
        counts, toyCoords(), k = 2, cell_types = toyTypes(), params = quickParams(),
        device = "cpu", save = folder
    )
    again <- applyM2ST(counts, folder, toyCoords(), cell_types = toyTypes())
    expect_gt(mean(again$domain == fitted$domain), 0.95)
    expect_error(
        applyM2ST(counts, folder, toyCoords()),
        "Expected cell types in `cell_types`, as the model was fitted with, found none"
    )
    expect_warning(
        applyM2ST(counts, folder, toyCoords(), cell_types = replace(toyTypes(), 1, "new")),
        "found others, new, of 1 spots"
    )
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$kind <- toyTypes()
    for (one in list(x, list(a = x))) {
        found <- suppressMessages(applyM2ST(one, folder, c("row", "col"), cell_types = "kind"))
        found <- if (is.list(found)) found$a else found
        expect_identical(found$m2st_domain, unname(again$domain))
    }
})
