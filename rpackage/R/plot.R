# Pictures of domains. Colours, sizes and shapes are those of the Python package (m2st.pl).

#' Draw domains in space
#'
#' Draws every spot at its place, in its size and shape, with one panel for each section. The first
#' axis points right and the second one down, as in an image. Images of class `FOV` are drawn as
#' Seurat draws them.
#'
#' A part of an object that [runM2ST()] returned is drawn with spots as large as in the whole: the
#' record of the run knows their size.
#'
#' Spots of a hexagonal array are circles of 0.55 of its pitch, the proportion of Visium. Spots of a
#' square array are squares that fill it. Other cells are circles as wide as the median distance to
#' the second nearest neighbour, so that tissue looks filled. Indices of a hexagonal array (row +
#' column always even, or always odd) are drawn as a hexagonal array.
#'
#' With `feature`, spots have the colour of a value in place of their domain: the expression of a
#' gene, or a column of numbers. A gene is looked up among the row names, then in the columns that
#' tell of the rows. Values are those of the assay `logcounts` or the layer `data` if there is one,
#' else the counts.
#'
#' With `truth`, a second panel stands beside each. A class has the colour of the domain that it
#' overlaps most, see [matchDomains()]. Equal colours mean agreement.
#'
#' A single section keeps its coordinates, so that you can add layers. Several sections are each
#' shifted and scaled to a panel.
#'
#' @param x A Seurat object, a SummarizedExperiment or a class that extends it, a data frame with
#'   labels and coordinates, or the result of [runM2ST()] on a matrix.
#' @param name Name of the result, whose domains are in the column `<name>_domain`; or the name of
#'   any column of labels.
#' @param truth Name of a column with a reference to draw too. For the result of a matrix, a label
#'   for each spot.
#' @param confidence Name of a column of numbers from 0 to 1, such as `"m2st_confidence"`: the
#'   lower, the paler a spot is drawn.
#' @param feature Name of a gene or of a column of numbers, drawn in place of the domains. For the
#'   result of a matrix, a number for each spot.
#' @param tissue Draw the tissue image behind the spots, where the object holds one.
#' @param sample_id Name of the column that names the section. `NULL` takes the sections of
#'   [runM2ST()].
#' @param coords,image As in [runM2ST()].
#' @param ... Nothing.
#' @return A ggplot object. Missing domains and values are light grey. Whole numbers stand in numeric order.
#' @seealso [compareDomains()]
#' @examples
#' spots <- expand.grid(x = 1:20, y = 1:10)
#' spots$m2st_domain <- factor(ceiling(spots$x / 7))
#' if (requireNamespace("ggplot2", quietly = TRUE)) {
#'     plotDomains(spots, coords = c("x", "y"))
#' }
#' @export
plotDomains <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL, ...
) {
    UseMethod("plotDomains")
}

#' @export
plotDomains.default <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL, ...
) {
    stopM2ST("Expected a Seurat object, a SummarizedExperiment, a data frame with coordinates or ",
        "the result of runM2ST() on a matrix, found ", class(x)[1L], ".")
}

#' @rdname plotDomains
#' @export
plotDomains.data.frame <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL,
    coords = NULL, ...
) {
    checkNoMore(...)
    if (is.null(coords)) {
        coords <- findColumns(names(x), "x")
    }
    if (is.character(coords)) {
        coords <- columnsAsCoords(x, coords, "x")
    }
    coords <- orientColumns(checkCoords(coords, NULL, nrow(x)))
    columns <- as.list(x)
    value <- if (!is.null(feature)) featureOf(columns, feature, "x")
    drawDomains(columns, "x", coords, NULL, name, truth, confidence, sample_id, value)
}

#' @rdname plotDomains
#' @export
plotDomains.m2st <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL, ...
) {
    checkNoMore(...)
    columns <- if (is.null(feature)) columnsM2ST(x) else list()
    if (!is.null(truth)) {
        columns$truth <- labelsM2ST(x, truth, "truth")
        truth <- "truth"
    }
    value <- if (!is.null(feature)) list(values = featureM2ST(x, feature), title = "feature")
    drawDomains(
        columns, "the result", orientColumns(x$coords), x$sample_id, name, truth, confidence,
        sample_id, value, spots = x$record$r$spots
    )
}

#' @rdname plotDomains
#' @export
plotDomains.SummarizedExperiment <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL,
    tissue = FALSE, coords = NULL, ...
) {
    checkNoMore(...)
    coords <- orientColumns(checkCoords(coordsSE(x, coords), colnames(x), ncol(x)))
    columns <- as.list(SummarizedExperiment::colData(x))
    sample <- sampleSE(x, sample_id)
    sections <- columns[[if (is.null(sample_id)) "sample_id" else sample_id]]
    value <- if (!is.null(feature)) {
        featureOf(columns, feature, "colData(x)", function(gene) geneSE(x, gene))
    }
    images <- if (isTRUE(tissue)) drawnImages(if (is(x, "SpatialExperiment")) imagesSPE(x))
    drawDomains(
        columns, "colData(x)", coords, sample, name, truth, confidence, value = value,
        images = images,
        spots = recordedSpots(name, sections, function(one) S4Vectors::metadata(x)[[one]])
    )
}

#' @rdname plotDomains
#' @export
plotDomains.SpatialExperiment <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL,
    tissue = FALSE, coords = NULL, ...
) {
    if (is.null(coords)) {
        coords <- coordsSPE(x)
    }
    plotDomains.SummarizedExperiment(
        x, name, truth, confidence, sample_id, feature, tissue, coords, ...
    )
}

#' @rdname plotDomains
#' @export
plotDomains.Seurat <- function(
    x, name = "m2st", truth = NULL, confidence = NULL, sample_id = NULL, feature = NULL,
    tissue = FALSE, coords = NULL, image = NULL, ...
) {
    checkNoMore(...)
    loadClasses(x)
    place <- drawnPlaceSeurat(x, image, coords)
    columns <- as.list(x[[]])
    value <- if (!is.null(feature)) {
        featureOf(columns, feature, "meta.data", function(gene) geneSeurat(x, gene))
    }
    images <- if (isTRUE(tissue)) {
        names(place$images) <- place$images
        drawnImages(lapply(place$images, function(one) pixelsSeurat(x[[one]])))
    }
    drawDomains(
        columns, "meta.data", place$coords, place$sample, name, truth, confidence, sample_id,
        value, images,
        recordedSpots(name, place$images, function(one) SeuratObject::Misc(x, slot = one))
    )
}

# What is mapped in place of the domains: `values` of the spots and a `title`. `geneOf` looks a
# gene up and returns the same, or NULL.
featureOf <- function(columns, feature, where, geneOf = function(gene) NULL) {
    if (!is.character(feature) || length(feature) != 1L || is.na(feature)) {
        stopM2ST("Expected `feature` to name one gene or column of numbers, found ",
            shorten(feature), ".")
    }
    if (isTRUE(is.numeric(columns[[feature]]))) {
        return(list(values = columns[[feature]], title = feature))
    }
    found <- geneOf(feature)
    if (is.null(found)) {
        stopM2ST("Expected `feature` to name a gene or a column of numbers in ", where, ", found ",
            "neither called ", quoted(feature), ". Check its spelling.")
    }
    found
}

featureM2ST <- function(x, feature) {
    if (!is.numeric(feature) || length(feature) != nrow(x$coords)) {
        stopM2ST("Expected `feature` to be a number for each of ", nrow(x$coords),
            " spots, found ", shorten(feature), ". The result of a matrix holds no genes.")
    }
    unname(feature)
}

geneSE <- function(x, gene) {
    row <- rowNamed(gene, rownames(x), as.list(SummarizedExperiment::rowData(x)))
    present <- SummarizedExperiment::assayNames(x)
    assay <- c(intersect(c("logcounts", "counts"), present), present, NA)[1L]
    if (is.na(row) || is.na(assay)) {
        return(NULL)
    }
    values <- SummarizedExperiment::assay(x, assay, withDimnames = FALSE)[row, ]
    list(values = as.numeric(values), title = paste0(gene, "\n(", assay, ")"))
}

geneSeurat <- function(x, gene) {
    assay <- SeuratObject::DefaultAssay(x)
    for (layer in c("data", "counts")) {
        values <- layerSeurat(x, assay, layer)
        row <- if (length(values)) rowNamed(gene, rownames(values), list())
        if (isTRUE(row > 0L)) {
            at <- match(colnames(x), colnames(values))
            title <- paste0(gene, "\n(", layer, ")")
            return(list(values = as.numeric(values[row, ])[at], title = title))
        }
    }
}

# Row of a gene by its name, else by a column of names; NA if there is none, or not one.
rowNamed <- function(gene, names, columns) {
    texts <- Filter(function(column) is.character(column) || is.factor(column), columns)
    for (known in c(list(names), texts)) {
        row <- which(as.character(known) == gene)
        if (length(row) == 1L) {
            return(row)
        }
    }
    NA_integer_
}

# Tissue images by section, as rasters with their extent in units of the coordinates.
drawnImages <- function(images) {
    images <- Filter(length, images)
    if (length(images) == 0L) {
        say("The object holds no tissue image: the spots are drawn alone.")
    }
    lapply(images, function(image) {
        extent <- dim(image$pixels)[2:1] / image$scale
        list(raster = grDevices::as.raster(image$pixels), extent = extent)
    })
}

# Coordinates as (right, down): columns that are named after rows come second.
orientColumns <- function(coords) {
    rows <- grepl("row", colnames(coords), ignore.case = TRUE)
    across <- if (identical(rows, c(TRUE, FALSE))) 2:1 else 1:2
    unname(coords[, across, drop = FALSE])
}

orientImages <- function(object, images, coords, sample) {
    for (image in images) {
        at <- if (is.null(sample)) seq_len(nrow(coords)) else which(sample == image)
        coords[at, ] <- orientImage(object[[image]], coords[at, , drop = FALSE])
    }
    unname(coords)
}

# VisiumV2 had x for rows until Seurat 5.4 said which it is; a FOV is drawn with x up and y right.
orientImage <- function(image, coords) {
    if (inherits(image, "VisiumV2")) {
        right <- isTRUE(attr(image, "coords_x_orientation") == "horizontal")
        return(if (right) coords else coords[, 2:1, drop = FALSE])
    }
    if (inherits(image, "FOV")) cbind(coords[, 2L], -coords[, 1L]) else coords
}

drawDomains <- function(
    columns, where, coords, sample, name, truth, confidence, sample_id = NULL, value = NULL,
    images = NULL, spots = NULL
) {
    requirePackage("ggplot2", "to draw")
    if (is.null(value)) {
        coloured <- labelLayers(columns, where, name, truth, confidence)
    } else {
        if (!is.null(truth) || !is.null(confidence)) {
            stopM2ST("Expected no `truth` or `confidence` beside `feature`, which is drawn alone. ",
                "Leave one of them out.")
        }
        coloured <- list(list(value = value$values))
    }
    if (!is.null(sample_id)) {
        sample <- labelColumn(columns, sample_id, where)
    }
    valid <- rowSums(!is.finite(coords)) == 0L
    if (!all(valid)) {
        say(sum(!valid), " of ", length(valid), " spots have no coordinates: they are not drawn.")
    }
    sample <- checkSample(if (is.null(sample)) rep("", length(valid)) else sample, valid)
    rows <- split(which(valid), sample[valid])
    places <- lapply(rows, function(at) fromArray(coords[at, , drop = FALSE]))
    frames <- lapply(places, frameOf, several = nlevels(sample) > 1L)
    outlines <- Map(function(points, frame, at, section) {
        shape <- spotShape(points, knownSpots(spots, section))
        shape$size <- shape$size / frame$extent
        outlineSpots(intoFrame(points, frame), at, shape)
    }, places, frames, rows, names(rows))
    outlines <- do.call(rbind, unname(outlines))
    layers <- lapply(seq_along(coloured), function(layer) {
        outlines$section <- as.integer(sample)[outlines$spot]
        outlines$layer <- layer
        cbind(outlines, lapply(coloured[[layer]], `[`, outlines$spot))
    })
    titles <- if (is.null(value)) c(resolveColumn(name, names(columns)), truth) else value$title
    panels <- namePanels(levels(sample), titles)
    data <- do.call(rbind, layers)
    data$panel <- factor(panels[cbind(data$section, data$layer)], levels = t(panels))
    fill <- if (is.null(value)) {
        colours <- attr(coloured, "colours")
        ggplot2::scale_fill_manual(
            values = colours, name = paste(titles, collapse = " | "),
            guide = legendOf(length(colours) - 1L)
        )
    } else {
        ggplot2::scale_fill_viridis_c(name = titles, na.value = missingColour)
    }
    behind <- if (length(images)) imageLayers(images, frames, panels)
    drawOutlines(data, fill, dim(panels), behind)
}

# For each panel of a section, a key for the colour of each spot, and its confidence in the first.
labelLayers <- function(columns, where, name, truth, confidence) {
    name <- resolveColumn(name, names(columns))
    domain <- drawnColumn(columns, name, where)
    if (identical(truth, name)) {
        stopM2ST("Expected `truth` to name another column than `name`, found '", truth, "' twice.")
    }
    reference <- if (!is.null(truth)) drawnColumn(columns, truth, where)
    certain <- if (!is.null(confidence)) numberColumn(columns, confidence, where)
    if (!is.null(certain) && all(is.na(certain))) {
        say("'", confidence, "' has no values: the labels of a single model may have no ",
            "probabilities. All spots are drawn alike.")
        certain <- NULL
    }
    found <- colourDomains(domain, reference)
    layers <- lapply(seq_along(found$keys), function(layer) {
        shown <- if (layer == 1L) certain else rep(NA_real_, length(domain))
        c(list(key = found$keys[[layer]]), if (!is.null(certain)) list(confidence = shown))
    })
    structure(layers, colours = found$colours)
}

# Images behind the spots of their sections; an image of one section needs no name.
imageLayers <- function(images, frames, panels) {
    at <- if (length(frames) > 1L) match(names(images), names(frames)) else 1L
    unlist(Map(function(image, section) {
        ends <- intoFrame(rbind(c(0, 0), image$extent), frames[[section]])
        lapply(panels[section, ], function(panel) {
            # The axis that points down has been turned already.
            ggplot2::layer(
                geom = ggplot2::GeomRasterAnn, stat = "identity", position = "identity",
                data = data.frame(panel = factor(panel, levels = t(panels))), inherit.aes = FALSE,
                params = list(
                    raster = image$raster, interpolate = TRUE, xmin = ends[1L, 1L],
                    xmax = ends[2L, 1L], ymin = -ends[2L, 2L], ymax = -ends[1L, 2L]
                )
            )
        })
    }, images[!is.na(at)], at[!is.na(at)]), recursive = FALSE)
}

drawnColumn <- function(columns, name, where, most = 1000L) {
    if (identical(name, "m2st") && !name %in% names(columns)) {
        stopM2ST("Found no column 'm2st_domain' in ", where, ". Call runM2ST(x, k = ...) first, ",
            "or name another result or column: name = ...")
    }
    values <- labelColumn(columns, name, where)
    if (nlevels(values) > most) {
        stopM2ST("Expected at most ", most, " different labels in '", name, "', found ",
            nlevels(values), ". Name a column of domains.")
    }
    values
}

numberColumn <- function(columns, name, where) {
    if (!isTRUE(name %in% names(columns)) || !is.numeric(columns[[name]])) {
        stopM2ST("Expected the name of a column of numbers in ", where, ", found ", shorten(name),
            ". Name the one with the confidence.")
    }
    columns[[name]]
}

# Section x layer; a name says what there is more than one of.
namePanels <- function(sections, layers) {
    outer(sections, layers, function(section, layer) {
        if (length(layers) == 1L) {
            section
        } else {
            paste0(section, ifelse(section == "", "", " | "), layer)
        }
    })
}

# Keys (one factor for each layer, on the same levels) and the colour of each level.
colourDomains <- function(domain, truth) {
    names <- levels(domain)
    keys <- list(as.integer(domain))
    if (!is.null(truth)) {
        own <- matchLevels(truth, domain)
        own[is.na(own)] <- length(names) + seq_len(sum(is.na(own)))
        keys[[2L]] <- own[as.integer(truth)]
        other <- rep("-", max(own, length(names)))
        other[own] <- levels(truth)
        names <- paste(c(names, rep("-", length(other) - length(names))), other, sep = " | ")
    }
    levels <- make.unique(c(names, "missing"))
    keys <- lapply(keys, function(key) {
        factor(ifelse(is.na(key), length(levels), key), seq_along(levels), levels)
    })
    colours <- c(domainColours(length(names)), missingColour)
    names(colours) <- levels
    list(keys = keys, colours = colours)
}

# Columns that can be read beside a map; beyond 150 labels they are no longer told apart.
legendOf <- function(n) {
    if (n > 150L) "none" else ggplot2::guide_legend(ncol = ceiling(n / 20))
}

drawOutlines <- function(data, fill, shape, behind) {
    shown <- if ("value" %in% names(data)) "value" else "key"
    mapping <- do.call(
        ggplot2::aes, lapply(c(x = "x", y = "y", group = "spot", fill = shown), as.name)
    )
    plot <- ggplot2::ggplot(data, mapping) +
        behind +
        ggplot2::geom_polygon(colour = NA) +
        fill +
        ggplot2::scale_y_reverse() +
        ggplot2::coord_equal() +
        ggplot2::theme_void() +
        ggplot2::theme(
            strip.text = ggplot2::element_text(hjust = 0, margin = ggplot2::margin(3, 3, 3, 3)),
            legend.margin = ggplot2::margin(5, 5, 5, 5),
            plot.margin = ggplot2::margin(5, 5, 5, 5),
            # A saved picture is else transparent, and its text black on the black of a viewer.
            plot.background = ggplot2::element_rect(fill = "white", colour = NA)
        )
    if ("confidence" %in% names(data)) {
        plot <- plot + do.call(ggplot2::aes, list(alpha = as.name("confidence"))) +
            ggplot2::scale_alpha(limits = c(0, 1), range = c(0.1, 1))
    }
    if (prod(shape) == 1L) {
        return(plot)
    }
    # With a reference the two panels of a section stand side by side.
    across <- if (shape[2L] > 1L) 2L * ceiling(sqrt(shape[1L] / 2))
    plot + ggplot2::facet_wrap("panel", ncol = across)
}

# Where a section is drawn: with several, each is shifted and scaled to [-0.5, 0.5].
frameOf <- function(points, several) {
    if (!several) {
        return(list(centre = c(0, 0), extent = 1))
    }
    ends <- apply(points, 2L, range)
    extent <- max(ends[2L, ] - ends[1L, ])
    list(centre = colMeans(ends), extent = if (extent > 0) extent else 1)
}

intoFrame <- function(points, frame) {
    sweep(points, 2L, frame$centre) / frame$extent
}

# Corners of the spots of a section.
outlineSpots <- function(points, spots, shape) {
    corners <- if (shape$square) 4L else if (nrow(points) > 20000L) 8L else 24L
    turn <- shape$angle + pi / corners + 2 * pi * seq_len(corners) / corners
    radius <- shape$size / if (shape$square) sqrt(2) else 2
    data.frame(
        x = as.vector(outer(radius * cos(turn), points[, 1L], "+")),
        y = as.vector(outer(radius * sin(turn), points[, 2L], "+")),
        spot = rep(spots, each = corners)
    )
}

# Places on a hexagonal array from (column, row) with a constant parity; all else as it is.
fromArray <- function(points) {
    whole <- all(points == round(points))
    if (whole && length(unique(rowSums(points) %% 2)) == 1L &&
            length(unique(points[, 1L] %% 2)) == 2L) {
        points[, 2L] <- points[, 2L] * sqrt(3)
    }
    points
}

# The spots of each section in a run, for parts of them that are drawn later.
spotsOf <- function(coords, sample, valid) {
    points <- orientColumns(coords)
    sample <- if (is.null(sample)) rep("", nrow(points)) else as.character(sample)
    rows <- split(which(valid), sample[valid])
    spots <- lapply(rows, function(at) {
        places <- unique(fromArray(points[at, , drop = FALSE]))
        as.data.frame(c(spotShape(places), sizesOf(places)))
    })
    c(list(section = names(rows)), as.list(do.call(rbind, unname(spots))))
}

# Number of places, how far they lie apart, and how far they reach in the longer and other direction.
sizesOf <- function(places) {
    reach <- sort(apply(apply(places, 2L, range), 2L, diff))
    step <- if (nrow(places) > 1L) stats::median(nearPlaces(places)$distances[1L, ]) else Inf
    list(n = nrow(places), step = step, shorter = reach[1L], longer = reach[2L])
}

# What the record of the result `name` knows of its spots, else that of the result "m2st": of those
# in the sections of these names, if there are some.
recordedSpots <- function(name, sections, recordOf) {
    names <- if (is.character(name) && length(name) == 1L && !is.na(name)) name
    for (one in c(names, "m2st")) {
        record <- recordOf(one)
        if (is.list(record) && is.list(record$r) && is.list(record$r$spots)) {
            spots <- record$r$spots
            present <- spots$section %in% as.character(sections)
            return(if (any(present)) lapply(spots, `[`, present) else spots)
        }
    }
}

# The spots that a section may be a part of: its own, or any where it has no name or another one.
knownSpots <- function(spots, section) {
    at <- match(section, spots$section)
    at <- if (is.na(at)) seq_along(spots$section) else at
    lapply(at, function(i) lapply(spots, `[`, i))
}

# Whether places are a part of what was known, in the same unit.
arePartOf <- function(places, known) {
    own <- sizesOf(places)
    own$n < known$n && own$step > known$step / 2 && own$longer <= 1.001 * known$longer &&
        own$shorter <= 1.001 * known$shorter
}

# Size, whether square, and rotation of spots that look right at these places, or of those `known`
# which the places are a part of.
spotShape <- function(points, known = list()) {
    places <- unique(points)
    whole <- Filter(function(one) arePartOf(places, one), known)
    if (length(whole)) {
        return(whole[[1L]][c("size", "square", "angle")])
    }
    if (nrow(places) < 2L) {
        return(list(size = 1, square = FALSE, angle = 0))
    }
    near <- nearPlaces(places)
    typical <- apply(near$distances, 1L, stats::median)
    isRing <- function(n) {
        n < length(typical) && typical[n] < 1.25 * typical[1L] &&
            typical[n + 1L] > 1.15 * typical[n]
    }
    ring <- Filter(isRing, c(6L, 4L))
    if (length(ring) == 0L) {
        return(list(size = typical[min(2L, length(typical))], square = FALSE, angle = 0))
    }
    if (ring[1L] == 4L && typical[4L] < 1.02 * typical[1L]) {
        angle <- Arg(mean(exp(4i * near$direction))) / 4
        return(list(size = typical[1L], square = TRUE, angle = angle))
    }
    pitch <- stats::median(near$distances[seq_len(ring[1L]), ])
    list(size = 0.55 * pitch, square = FALSE, angle = 0)
}

# Distances of up to 500 places, spread evenly over the rows, to the 7 nearest others (in
# columns), and the direction of the nearest.
nearPlaces <- function(places, most = 500L) {
    n <- min(7L, nrow(places) - 1L)
    from <- unique(round(seq(1, nrow(places), length.out = min(most, nrow(places)))))
    steps <- complex(real = places[, 1L], imaginary = places[, 2L])
    found <- lapply(from, function(i) {
        distance <- Mod(steps - steps[i])
        distance[i] <- Inf
        list(
            distances = sort(sort(distance, partial = n)[seq_len(n)]),
            direction = Arg(steps[which.min(distance)] - steps[i])
        )
    })
    list(
        distances = matrix(unlist(lapply(found, `[[`, "distances")), nrow = n),
        direction = vapply(found, `[[`, numeric(1L), "direction")
    )
}

missingColour <- "#dcdcdc"

# Okabe and Ito without black, yellow last: apart for colour-blind readers, and on white.
firstColours <- c("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")

# Colours that stay apart: after the first ones each is the one of a grid that is farthest from
# all before and from the background, as seen with full and with deuteranopic sight.
domainColours <- function(n) {
    chosen <- utils::head(firstColours, n)
    if (length(chosen) == n) {
        return(chosen)
    }
    levels <- seq(0, 1, length.out = 12L)
    grid <- as.matrix(expand.grid(blue = levels, red = levels, green = levels))
    grid <- unname(grid[, c("red", "green", "blue")])
    seen <- asSeen(grid)
    usable <- seen[, 1L] > 0.38 & seen[, 1L] < 0.92
    grid <- grid[usable, ]
    seen <- seen[usable, ]
    known <- asSeen(fromHex(c("#ffffff", missingColour, chosen)))
    to <- function(colour) sqrt(rowSums(sweep(seen, 2L, colour)^2))
    gap <- do.call(pmin, lapply(seq_len(nrow(known)), function(i) to(known[i, ])))
    while (length(chosen) < n) {
        farthest <- which.max(gap)
        levels <- round(255 * grid[farthest, ])
        chosen <- c(chosen, sprintf("#%02x%02x%02x", levels[1L], levels[2L], levels[3L]))
        gap <- pmin(gap, to(seen[farthest, ]))
    }
    chosen
}

fromHex <- function(colours) {
    parts <- vapply(c(2L, 4L, 6L), function(at) {
        strtoi(substr(colours, at, at + 1L), 16L)
    }, integer(length(colours)))
    matrix(parts, length(colours)) / 255
}

# sRGB colours in a space of seen difference: OKLab, then OKLab without green cones, with more
# weight as there is less room (Ottosson 2020; Machado et al., IEEE TVCG 15, 2009).
asSeen <- function(rgb) {
    linear <- ifelse(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055)^2.4)
    without_green <- rbind(
        c(0.367322, 0.860646, -0.227968),
        c(0.280085, 0.672501, 0.047413),
        c(-0.011820, 0.042940, 0.968881)
    )
    cones <- rbind(
        c(0.4122214708, 0.5363325363, 0.0514459929),
        c(0.2119034982, 0.6806995451, 0.1073969566),
        c(0.0883024619, 0.2817188376, 0.6299787005)
    )
    lab <- rbind(
        c(0.2104542553, 0.7936177850, -0.0040720468),
        c(1.9779984951, -2.4285922050, 0.4505937099),
        c(0.0259040371, 0.7827717662, -0.8086757660)
    )
    place <- function(light) (light %*% t(cones))^(1 / 3) %*% t(lab)
    reduced <- pmin(pmax(linear %*% t(without_green), 0), 1)
    cbind(place(linear), 1.5 * place(reduced))
}
