skip_if_not_installed("ggplot2")

# Centre of each spot as (right, down), and its width, from what ggplot2 would draw.
drawn <- function(plot) {
    corners <- ggplot2::layer_data(plot)
    corners$y <- -corners$y # y is reversed
    spot <- interaction(corners$PANEL, corners$group, drop = TRUE, lex.order = TRUE)
    first <- !duplicated(spot)
    data.frame(
        panel = as.integer(corners$PANEL[first]), spot = corners$group[first],
        right = as.vector(tapply(corners$x, spot, mean)),
        down = as.vector(tapply(corners$y, spot, mean)),
        width = as.vector(tapply(corners$x, spot, function(x) diff(range(x)))),
        fill = corners$fill[first]
    )
}

lattice <- function(columns = 12, rows = 10) {
    grid <- expand.grid(column = seq_len(columns), row = seq_len(rows))
    data.frame(x = grid$column + grid$row %% 2 / 2, y = grid$row * sqrt(0.75))
}

test_that("spots of a hexagonal array are circles of 0.55 of the pitch, in their places", {
    spots <- lattice()
    spots$m2st_domain <- rep(1:3, 40)
    plot <- plotDomains(spots, coords = c("x", "y"))
    expect_s3_class(plot, "ggplot")
    found <- drawn(plot)
    expect_equal(found$right, spots$x)
    expect_equal(found$down, spots$y)
    expect_equal(found$width, rep(0.55, 120), tolerance = 1e-2)
    expect_identical(found$fill, rep(firstColours[1:3], 40))
    expect_equal(plot$coordinates$ratio, 1)
    expect_identical(plot$scales$get_scales("fill")$name, "m2st_domain")
})

test_that("bins of a square array fill it, turned as it is", {
    grid <- as.matrix(expand.grid(1:8, 1:8)) * 3
    shape <- spotShape(grid)
    expect_equal(shape, list(size = 3, square = TRUE, angle = 0))
    turned <- spotShape(grid %*% rbind(c(cos(0.3), sin(0.3)), c(-sin(0.3), cos(0.3))))
    expect_equal(turned, list(size = 3, square = TRUE, angle = 0.3))
    corners <- outlineSpots(grid, 1:64, shape)
    first <- corners[corners$spot == 1, c("x", "y")]
    expect_setequal(round(first$x, 9), c(1.5, 4.5))
    expect_setequal(round(first$y, 9), c(1.5, 4.5))
})

test_that("cells anywhere are as wide as the way to the second nearest", {
    line <- cbind(c(0, 1, 3, 6, 10, 15, 21, 28, 36, 45), 0)
    # second nearest of each: 3, 2, 3, 4, 5, 6, 7, 8, 9, 17
    expect_equal(spotShape(line), list(size = 5.5, square = FALSE, angle = 0))
    expect_identical(spotShape(line[c(1, 1), ])$size, 1)
    expect_equal(spotShape(line[1:2, ])$size, 1)
})

test_that("the shape of many spots follows from a part of them", {
    many <- as.matrix(expand.grid(1:60, 1:60)) * 1
    expect_equal(spotShape(many), list(size = 1, square = TRUE, angle = 0))
    expect_identical(dim(nearPlaces(many)$distances), c(7L, 500L))
})

test_that("rows go down and columns go right, whatever their order", {
    spots <- data.frame(array_row = c(0, 0, 1, 5), array_col = c(0, 9, 1, 2), zone = 1:4)
    found <- drawn(plotDomains(spots, "zone", coords = c("array_col", "array_row")))
    expect_equal(found$right, spots$array_col)
    expect_equal(found$down, spots$array_row)
    expect_identical(drawn(plotDomains(spots, "zone", coords = c("array_row", "array_col"))), found)
    expect_message(again <- plotDomains(spots, "zone"), "'array_row', 'array_col' of x")
    expect_identical(drawn(again), found)
})

test_that("indices of a hexagonal array are drawn as the array", {
    index <- expand.grid(row = 0:9, col = 0:19)
    index <- index[(index$row + index$col) %% 2 == 0, ]
    index$zone <- "a"
    found <- drawn(suppressMessages(plotDomains(index, "zone")))
    expect_equal(found$down, index$row * sqrt(3))
    expect_equal(found$width, rep(1.1, 100), tolerance = 1e-2)
    even <- as.matrix(expand.grid(0:5, 0:5)) * 2
    expect_identical(fromArray(even), even)
})

test_that("sections and a reference have panels of their own", {
    spots <- rbind(lattice(6, 4), lattice(6, 4) * 100)
    spots$section <- rep(c("second", "first"), each = 24)
    spots$m2st_domain <- 1
    spots$layer <- "a"
    plot <- plotDomains(spots, coords = c("x", "y"), sample_id = "section")
    found <- drawn(plot)
    expect_identical(found$panel, rep(1:2, each = 24))
    expect_equal(found$right[1:24], found$right[25:48])
    expect_equal(max(found$right), 0.5)
    layout <- ggplot2::ggplot_build(plot)$layout$layout
    expect_identical(as.character(layout$panel), c("second", "first"))
    both <- plotDomains(spots, truth = "layer", sample_id = "section", coords = c("x", "y"))
    layout <- ggplot2::ggplot_build(both)$layout$layout
    expect_identical(
        as.character(layout$panel),
        c("second | m2st_domain", "second | layer", "first | m2st_domain", "first | layer")
    )
    expect_identical(layout$COL, c(1L, 2L, 1L, 2L))
    one <- plotDomains(spots[1:24, ], truth = "layer", coords = c("x", "y"))
    layout <- ggplot2::ggplot_build(one)$layout$layout
    expect_identical(as.character(layout$panel), c("m2st_domain", "layer"))
    spots$section[3] <- NA
    expect_error(
        plotDomains(spots, coords = c("x", "y"), sample_id = "section"), "section of every spot"
    )
})

test_that("a reference has the colours of the domains it overlaps, and others for the rest", {
    domain <- factor(c(1, 1, 2, 2, 2, 3))
    truth <- factor(c("b", "b", "a", "a", "c", NA))
    found <- colourDomains(domain, truth)
    names <- c("1 | b", "2 | a", "3 | -", "- | c", "missing")
    expect_identical(names(found$colours), names)
    expect_identical(unname(found$colours), c(firstColours[1:4], missingColour))
    expect_identical(as.character(found$keys[[1]]), names[c(1, 1, 2, 2, 2, 3)])
    expect_identical(as.character(found$keys[[2]]), names[c(1, 1, 2, 2, 4, 5)])
})

test_that("spots of low confidence are pale, those of a reference or without one are not", {
    spots <- lattice()
    spots$m2st_domain <- spots$layer <- rep(1:3, 40)
    spots$m2st_confidence <- c(NA, 0, 1, rep(0.5, 117))
    plot <- plotDomains(
        spots, truth = "layer", confidence = "m2st_confidence", coords = c("x", "y")
    )
    corners <- ggplot2::layer_data(plot)
    corners <- corners[!duplicated(corners[c("PANEL", "group")]), ]
    expect_equal(corners$alpha[corners$PANEL == 1], c(NA, 0.1, 1, rep(0.55, 117)))
    expect_true(all(is.na(corners$alpha[corners$PANEL == 2])))
    expect_error(
        plotDomains(spots, confidence = "sure", coords = c("x", "y")),
        "column of numbers in x, found \"sure\""
    )
    spots$m2st_confidence <- NA_real_
    expect_message(
        plot <- plotDomains(spots, confidence = "m2st_confidence", coords = c("x", "y")),
        "'m2st_confidence' has no values: the labels of a single model may have no probabilities"
    )
    expect_null(plot$data$confidence)
})

test_that("the legend is in numeric order, and missing domains are light grey", {
    spots <- lattice()
    spots$m2st_domain <- as.character(c(NA, rep(1:17, 7)))
    plot <- plotDomains(spots, coords = c("x", "y"))
    expect_identical(levels(plot$data$key), c(1:17, "missing"))
    expect_identical(drawn(plot)$fill[1:2], c("#dcdcdc", "#0072b2"))
    spots$m2st_domain <- "missing"
    expect_identical(levels(plotDomains(spots, coords = c("x", "y"))$data$key)[1], "missing")
})

test_that("a SingleCellExperiment is drawn with rows down and a panel for each section", {
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    x$m2st_domain <- factor(rep(1:2, 60))
    found <- drawn(suppressMessages(plotDomains(x)))
    expect_equal(found$right, x$col)
    expect_equal(found$down, x$row)
    x$sample_id <- rep(c("a", "b"), each = 60)
    expect_identical(range(drawn(suppressMessages(plotDomains(x)))$panel), 1:2)
    x$who <- "one"
    one <- suppressMessages(plotDomains(x, sample_id = "who"))
    expect_identical(unique(drawn(one)$panel), 1L)
    expect_error(suppressMessages(plotDomains(x, sample_id = "when")), "a column of colData")
})

test_that("a SpatialExperiment is drawn at its spatialCoords", {
    useSpatialExperiment()
    x <- toySPE()
    x$m2st_domain <- 1
    found <- drawn(plotDomains(x))
    expect_equal(found$right, unname(toyCoords()[, 1]))
    expect_equal(found$down, unname(toyCoords()[, 2]))
    turned <- drawn(plotDomains(x, coords = c("array_row", "array_col")))
    expect_equal(turned$right, unname(toyCoords()[, 2]))
})

test_that("a FOV is drawn as Seurat draws it: x up, y to the right", {
    object <- toySeurat(meta = FALSE)
    at <- data.frame(toyCoords()[1:110, ], cell = colnames(object)[1:110])
    names(at)[1:2] <- c("x", "y")
    object[["left"]] <- SeuratObject::CreateFOV(at, type = "centroids", assay = "RNA")
    object$m2st_domain <- 1
    expect_message(plot <- plotDomains(object), "10 of 120 spots have no coordinates")
    found <- drawn(plot)
    expect_equal(found$spot, 1:110)
    expect_equal(found$right, at$y)
    expect_equal(found$down, -at$x)
})

test_that("images are panels, each in its own frame", {
    object <- toySeurat(meta = FALSE)
    for (half in 1:2) {
        cells <- 60 * (half - 1) + 1:60
        at <- data.frame(
            x = toyCoords()[cells, 1] * half, y = toyCoords()[cells, 2] * half,
            cell = colnames(object)[cells]
        )
        object[[c("left", "right")[half]]] <- SeuratObject::CreateFOV(
            at, type = "centroids", assay = "RNA", key = c("left_", "right_")[half]
        )
    }
    object$m2st_domain <- 1
    object$who <- "one"
    found <- drawn(plotDomains(object))
    expect_identical(found$panel, rep(1:2, each = 60))
    expect_equal(found$right[1:60], found$right[61:120])
    only <- suppressMessages(drawn(plotDomains(object, image = "right")))
    expect_equal(only$right, toyCoords()[61:120, 2] * 2, ignore_attr = TRUE)
    expect_identical(unique(drawn(plotDomains(object, sample_id = "who"))$panel), 1L)
})

test_that("images of Visium have columns to the right", {
    coords <- cbind(c(1, 2), c(30, 40))
    old <- structure(list(), class = c("VisiumV2", "FOV"))
    new <- structure(list(), class = c("VisiumV2", "FOV"), coords_x_orientation = "horizontal")
    none <- structure(list(), class = c("VisiumV2", "FOV"), coords_x_orientation = character())
    expect_identical(orientImage(old, coords), coords[, 2:1])
    expect_identical(orientImage(none, coords), coords[, 2:1])
    expect_identical(orientImage(new, coords), coords)
    expect_identical(orientImage(structure(list(), class = "VisiumV1"), coords), coords)
    expect_identical(orientImage(structure(list(), class = "SlideSeq"), coords), coords)
})

test_that("a VisiumV2 of Seurat itself has columns to the right", {
    skip_if_not_installed("Seurat", "5.1.0")
    object <- toySeurat(meta = FALSE)
    at <- data.frame(x = toyCoords()[, 2], y = toyCoords()[, 1], cell = colnames(object))
    fields <- list(
        "VisiumV2", assay = "RNA", key = "slice_", molecules = list(), image = array(1, c(4, 4, 3)),
        boundaries = list(centroids = SeuratObject::CreateCentroids(at)),
        scale.factors = Seurat::scalefactors(spot = 1, fiducial = 1, hires = 0.5, lowres = 0.1)
    )
    says <- "coords_x_orientation" %in% methods::slotNames(methods::getClass("VisiumV2"))
    fields$coords_x_orientation <- if (says) "horizontal"
    object[["slice"]] <- do.call(methods::new, fields)
    object$m2st_domain <- 1
    found <- drawn(plotDomains(object))
    expect_equal(found$right, unname(if (says) at$x else at$y))
    expect_equal(found$down, unname(if (says) at$y else at$x))
})

test_that("a Seurat object without images is drawn from meta.data or given coordinates", {
    object <- toySeurat()
    object$m2st_domain <- 1
    expect_message(plot <- plotDomains(object), "'row', 'col' of meta.data")
    expect_equal(drawn(plot)$right, unname(object$col))
    given <- drawn(plotDomains(object, coords = unname(toyCoords())))
    expect_equal(given$right, unname(object$row))
})

test_that("what is missing or wrong is named", {
    spots <- lattice()
    expect_error(plotDomains(1:3), "Expected a Seurat object.* found integer")
    at <- c("x", "y")
    expect_error(plotDomains(spots, coords = at), "no column 'm2st_domain' in x. Call runM2ST")
    many <- spots[rep(seq_len(nrow(spots)), length.out = 1200), ]
    many$m2st_domain <- seq_len(1200)
    expect_error(plotDomains(many, coords = at), "at most 1000 different labels.* found 1200")
    spots$m2st_domain <- 1
    expect_error(plotDomains(spots, "zone", coords = at), "column of x, found \"zone\"")
    expect_error(plotDomains(spots, truth = "m2st_domain", coords = at), "another column than")
    expect_error(plotDomains(spots, coords = c("x", "z")), "names of columns of x")
    expect_error(plotDomains(spots, coords = at, colour = 1), "not known here: 'colour'")
    expect_error(plotDomains(spots["m2st_domain"]), "Found no coordinates: x has none")
})

test_that("many domains are drawn, with a legend as long as it can be read", {
    spots <- expand.grid(x = 1:20, y = 1:20)
    for (n in c(120L, 300L)) {
        spots$m2st_domain <- rep_len(seq_len(n), 400L)
        plot <- plotDomains(spots, coords = c("x", "y"))
        expect_length(unique(ggplot2::ggplot_build(plot)$data[[1L]]$fill), n)
        scale <- plot$scales$get_scales("fill")
        if (n > 150L) {
            expect_identical(scale$guide, "none")
        } else {
            expect_false(identical(scale$guide, "none"))
        }
    }
})

test_that("a gene or a column of numbers is mapped in place of the domains", {
    spots <- lattice()
    spots$depth <- seq_len(120) / 7
    plot <- plotDomains(spots, coords = c("x", "y"), feature = "depth")
    expect_identical(plot$scales$get_scales("fill")$name, "depth")
    expect_identical(order(plot$data$value[!duplicated(plot$data$spot)]), 1:120)
    expect_gt(length(unique(drawn(plot)$fill)), 100L)
    expect_error(plotDomains(spots, coords = c("x", "y"), feature = "MOBP"), "called 'MOBP'")
    expect_error(plotDomains(spots, coords = c("x", "y"), feature = 3), "name one gene")
    expect_error(plotDomains(spots, coords = c("x", "y"), feature = "depth", truth = "x"),
        "no `truth` or `confidence` beside `feature`")
    result <- withFake(runM2ST(toyCounts(), toyCoords(), k = 3))
    expect_error(plotDomains(result, feature = "gene1"), "holds no genes")
    plot <- plotDomains(result, feature = toyCounts()["gene1", ])
    expect_equal(plot$data$value[!duplicated(plot$data$spot)], unname(toyCounts()["gene1", ]))

    object <- toySeurat()
    plot <- plotDomains(object, feature = "gene7", coords = c("row", "col"))
    expect_equal(plot$data$value[!duplicated(plot$data$spot)], unname(toyCounts()["gene7", ]))
    skip_if_not_installed("SingleCellExperiment")
    x <- toySCE()
    SummarizedExperiment::rowData(x)$symbol <- paste0("S", 1:60)
    plot <- plotDomains(x, feature = "S9")
    expect_equal(plot$data$value[!duplicated(plot$data$spot)], unname(toyCounts()["gene9", ]))
    expect_match(plot$scales$get_scales("fill")$name, "(counts)", fixed = TRUE)
    SummarizedExperiment::assay(x, "logcounts") <- log1p(as.matrix(toyCounts()))
    plot <- plotDomains(x, feature = "gene9")
    values <- plot$data$value[!duplicated(plot$data$spot)]
    expect_equal(values, log1p(unname(toyCounts()["gene9", ])))
})

test_that("the tissue lies behind the spots, where they are", {
    pixels <- array(rep(c(1, 0), each = 6), c(4, 6, 3))
    images <- drawnImages(list(one = list(pixels = pixels, scale = 0.5)))
    expect_equal(images$one$extent, c(12, 8))
    expect_message(drawnImages(list(one = NULL)), "holds no tissue image")
    frames <- list(a = list(centre = c(0, 0), extent = 1))
    layer <- imageLayers(images, frames, matrix("a"))[[1L]]
    expect_equal(unlist(layer$geom_params[c("xmin", "xmax", "ymin", "ymax")]),
        c(xmin = 0, xmax = 12, ymin = -8, ymax = 0))
    # Two sections: the one with an image is shifted as its spots are.
    frames <- list(one = list(centre = c(6, 4), extent = 12), two = frames$a)
    layers <- imageLayers(images, frames, matrix(c("one", "two")))
    expect_length(layers, 1L)
    expect_equal(unlist(layers[[1L]]$geom_params[c("xmin", "xmax", "ymin", "ymax")]),
        c(xmin = -0.5, xmax = 0.5, ymin = -1 / 3, ymax = 1 / 3))
})

# Width and height of each spot that is drawn.
spotSizes <- function(plot) {
    by <- list(plot$data$spot, plot$data$panel)
    across <- tapply(plot$data$x, by, function(x) diff(range(x)))
    unique(round(stats::na.omit(as.vector(across)), 6L))
}

test_that("a part of an object is drawn with the spots of the whole", {
    skip_if_not_installed("ggplot2")
    skip_if_not_installed("SingleCellExperiment")
    quiet <- function(code) suppressMessages(withFake(code))
    few <- c(1, 3, 5, 25, 27, 51, 78, 120)
    x <- quiet(runM2ST(toySCE(), k = 2))
    x$other <- rep(c("a", "b"), 60)
    size <- function(x, ...) spotSizes(suppressMessages(plotDomains(x, ...)))
    expect_identical(size(x), 1)
    expect_identical(size(x[, few]), 1)
    expect_identical(size(x[, 7]), 1)
    expect_identical(size(x[, few], "other"), 1)
    expect_identical(size(x[, few], feature = "gene3"), 1)
    # Without the record of the run, and in another unit, the places tell.
    bare <- x[, few]
    S4Vectors::metadata(bare) <- list()
    expect_gt(size(bare), 1.5)
    expect_gt(size(x[, few], coords = toyCoords()[few, ] * 100), 150)
    # Each section has its own.
    coords <- toyCoords() * rep(c(1, 3), each = 60)
    x <- toySCE()
    x$row <- coords[, 1]
    x$col <- coords[, 2]
    x$sample_id <- rep(c("near", "far"), each = 60)
    x <- quiet(runM2ST(x, k = 2))
    expect_identical(size(x[, which(x$sample_id == "near")[few[1:5]]]), 1)
    both <- size(x)
    expect_identical(size(x[, c(1:60, 1:20 * 3 + 60)]), both)
    skip_if_not_installed("SeuratObject")
    object <- quiet(RunM2ST(toySeurat(), k = 2))
    expect_identical(size(object[, few]), size(object))
})

test_that("a saved picture has a white ground", {
    skip_if_not_installed("ggplot2")
    spots <- data.frame(x = c(1, 2, 1, 2), y = c(1, 1, 2, 2), m2st_domain = c("1", "1", "2", "2"))
    ground <- plotDomains(spots, coords = c("x", "y"))$theme$plot.background
    expect_identical(ground$fill, "white")
})
