# Domains within domains: a tree, groups and parts, the same as in Python.

# Four zones side by side; the first two share most genes, and the last two.
nestedCoords <- function() as.matrix(expand.grid(row = 1:10, col = 1:16)) * 1

nestedCounts <- function() {
    set.seed(4)
    zone <- (nestedCoords()[, "col"] - 1) %/% 4
    rates <- outer(1:60, zone, function(gene, zone) {
        1 + 5 * (gene %% 4 == zone) + 3 * (gene %% 3 == zone %/% 2)
    })
    matrix(rpois(9600L, rates), 60L, dimnames = list(paste0("g", 1:60), paste0("s", 1:160)))
}

found <- function(x = nestedCounts(), ...) {
    suppressMessages(runM2ST(
        x, k = 4, params = quickParams(), device = "cpu", keep = "scales",
        coords = if (is.list(x)) NULL else nestedCoords(), ...
    ))
}

# Python's own result of a matrix: a line for each spot, and the merges.
nestedInPython <- function(code) {
    folder <- tempfile()
    dir.create(folder)
    on.exit(unlink(folder, recursive = TRUE))
    counts <- t(nestedCounts())
    writeBin(dim(counts), file.path(folder, "shape"))
    writeBin(as.double(t(counts)), file.path(folder, "counts"))
    writeBin(as.double(nestedCoords()), file.path(folder, "coords"))
    settings <- paste0("n_members=2, n_epochs=5, hidden_dim=16, scale_dims=(8, 4)")
    inPython(folder, c(
        paste0("m2st.run(adata, 4, autoencoder=m2st.AutoencoderParams(", settings, "),"),
        "    clustering=m2st.ClusteringParams(n_init=2), device='cpu', progress=False)",
        code
    ))
    lapply(c(values = "values", names = "names"), function(name) readLines(file.path(folder, name)))
}

test_that("the tree is an hclust with Python's merges", {
    skip_if_no_m2st()
    x <- found()
    tree <- domainTree(x)
    expect_s3_class(tree, "hclust")
    expect_identical(tree$labels, as.character(1:4))
    expect_setequal(tree$order, 1:4)
    expect_false(is.unsorted(tree$height))
    theirs <- nestedInPython(c(
        "merges = m2st.tl.domain_tree(adata)",
        "text = [repr(float(value)) for value in merges[:, 2]]",
        "open(folder + '/values', 'w').write('\\n'.join(text) + '\\n')",
        "text = [f'{int(a)} {int(b)}' for a, b in merges[:, :2]]",
        "open(folder + '/names', 'w').write('\\n'.join(text) + '\\n')"
    ))
    expect_identical(tree$height, as.numeric(theirs$values))
    pairs <- as.matrix(utils::read.table(text = theirs$names))
    expect_equal(tree$merge, ifelse(pairs < 4, -pairs - 1, pairs - 3), ignore_attr = TRUE)
    # What R's own functions do with a tree.
    expect_setequal(labels(stats::as.dendrogram(tree)), as.character(1:4))
    zone <- (nestedCoords()[, "col"] - 1) %/% 8
    groups <- stats::cutree(tree, 2)[as.character(x$domain)]
    expect_gt(compareDomains(data.frame(zone, groups), "zone", "groups")$ARI, 0.95)
    expect_output(print(tree), "Number of objects: 4")
    path <- tempfile(fileext = ".png")
    grDevices::png(path)
    plot(tree)
    grDevices::dev.off()
    expect_gt(file.size(path), 1000)
})

test_that("groups and parts are results of their own", {
    skip_if_no_m2st()
    x <- found()
    joined <- mergeDomains(x, 2)
    expect_identical(joined[names(x)], unclass(x)[names(x)])
    groups <- stats::cutree(domainTree(x), 2)
    expect_identical(as.integer(joined$domains$m2st_joined_domain), unname(groups[x$domain]))
    levels <- vapply(split(names(groups), groups), paste, "", collapse = "+")
    expect_identical(levels(joined$domains$m2st_joined_domain), unname(levels))
    expect_true(all(is.na(joined$domains$m2st_joined_confidence)))
    expect_identical(nlevels(mergeDomains(x, 1)$domains$m2st_joined_domain), 1L)

    parts <- splitDomains(joined, c("2" = 2), params = quickParams())
    expect_identical(parts$domains[1:2], joined$domains)
    theirs <- nestedInPython(c(
        "m2st.tl.split_domains(adata, {'2': 2}, m2st.ClusteringParams(n_init=2), key_added='p')",
        "text = [repr(float(value)) for value in adata.obs['p_confidence']]",
        "open(folder + '/values', 'w').write('\\n'.join(text) + '\\n')",
        "open(folder + '/names', 'w').write('\\n'.join(adata.obs['p_domain']) + '\\n')"
    ))
    expect_identical(as.character(parts$domains$m2st_parts_domain), theirs$names)
    expect_identical(levels(parts$domains$m2st_parts_domain), c("1", "2.1", "2.2", "3", "4"))
    expect_identical(parts$domains$m2st_parts_confidence, as.numeric(theirs$values))
    # Without settings, parts are taken as equally large.
    params <- m2stParams(equal_sizes = NA)
    expect_identical(splitDomains(x, c("2" = 2)), splitDomains(x, c("2" = 2), params = params))
    finer <- splitDomains(
        parts, list("2.1" = 2), name = "finer", domain_name = "m2st_parts", params = quickParams()
    )
    expect_identical(levels(finer$domains$finer_domain), c("1", "2.1.1", "2.1.2", "2.2", "3", "4"))
    expect_error(domainTree(finer, "finer"), "no common representation of the domains of 'finer'")
    skip_if_not_installed("ggplot2")
    expect_s3_class(plotDomains(finer, "m2st_joined"), "ggplot")
})

test_that("a SingleCellExperiment and a list of them hold them", {
    skip_if_no_m2st()
    skip_if_not_installed("SingleCellExperiment")
    expected <- splitDomains(mergeDomains(found(), 3), c("1" = 2), params = quickParams())$domains
    x <- SingleCellExperiment::SingleCellExperiment(
        list(counts = nestedCounts()), colData = S4Vectors::DataFrame(nestedCoords())
    )
    x <- found(x)
    expect_identical(domainTree(x), domainTree(found()))
    both <- function(x) {
        suppressMessages(splitDomains(mergeDomains(x, 3), c("1" = 2), params = quickParams()))
    }
    nested <- both(x)
    columns <- SummarizedExperiment::colData(nested)
    for (column in names(expected)) {
        expect_identical(unname(columns[[column]]), unname(expected[[column]]))
    }
    expect_identical(nested$m2st_domain, x$m2st_domain)
    expect_identical(
        SingleCellExperiment::reducedDimNames(nested), SingleCellExperiment::reducedDimNames(x)
    )
    records <- S4Vectors::metadata(nested)
    expect_identical(records$m2st, S4Vectors::metadata(x)$m2st)
    expect_identical(records$m2st_joined$embed, records$m2st$embed)
    entry <- records$m2st_joined$cluster
    expect_identical(entry[c("n_domains", "parent")], list(n_domains = 3L, parent = "m2st"))
    entry <- records$m2st_parts$cluster
    expect_identical(entry$embedding_key, "m2st")
    expect_identical(entry$parent, "m2st")
    expect_identical(unlist(entry$n_parts), 2L)
    # Again, in place of the earlier ones.
    again <- mergeDomains(nested, 2)
    expect_identical(nlevels(again$m2st_joined_domain), 2L)
    page <- tempfile(fileext = ".html")
    for (name in c("m2st_joined", "m2st_parts")) {
        suppressMessages(reportM2ST(nested, page, name, overwrite = TRUE))
    }
    expect_match(paste(readLines(page, warn = FALSE), collapse = " "), "1.1", fixed = TRUE)

    sections <- list(left = x[, 1:80], right = x[, 81:160])
    expect_identical(domainTree(sections), domainTree(x))
    several <- both(sections)
    expect_named(several, c("left", "right"))
    expect_identical(
        c(several$left$m2st_joined_domain, several$right$m2st_joined_domain),
        nested$m2st_joined_domain
    )
    expect_identical(levels(several$left$m2st_parts_domain), levels(nested$m2st_parts_domain))
    other <- sections$right
    other$m2st_domain <- droplevels(other$m2st_domain)
    expect_error(domainTree(list(sections$left, other)), "the same domains in all sections")
    expect_error(mergeDomains(sections, 2, verbos = 1), "unused argument")
})

test_that("a SpatialExperiment holds them", {
    skip_if_no_m2st()
    useSpatialExperiment()
    x <- toySPE()
    x <- suppressMessages(
        runM2ST(x, k = 3, params = quickParams(), device = "cpu", keep = "scales")
    )
    x <- mergeDomains(x, 2)
    x <- splitDomains(x, c("1" = 2), params = quickParams(), verbose = FALSE)
    expect_s4_class(x, "SpatialExperiment")
    expect_identical(nlevels(x$m2st_joined_domain), 2L)
    expect_identical(levels(x$m2st_parts_domain), c("1.1", "1.2", "2", "3"))
})

test_that("a Seurat object holds them", {
    skip_if_no_m2st()
    object <- toySeurat()
    object <- suppressMessages(
        RunM2ST(object, k = 3, params = quickParams(), device = "cpu", keep = "scales")
    )
    joined <- mergeDomains(object, 2)
    expect_identical(levels(SeuratObject::Idents(joined)), levels(joined$m2st_joined_domain))
    expect_identical(SeuratObject::Misc(joined, "m2st_joined")$cluster$n_domains, 2L)
    expect_identical(SeuratObject::Reductions(joined), SeuratObject::Reductions(object))
    split <- function(...) {
        suppressMessages(splitDomains(object, c("1" = 2), params = quickParams(), ...))
    }
    parts <- split(set.ident = FALSE, name = "zone")
    expect_identical(SeuratObject::Idents(parts), SeuratObject::Idents(object))
    expect_identical(levels(parts$zone_domain), c("1.1", "1.2", "2", "3"))
    expect_identical(SeuratObject::Misc(parts, "zone")$cluster$parent, "m2st")
    again <- suppressMessages(splitDomains(
        joined, c("1" = 3), domain_name = "m2st", params = quickParams(), verbose = FALSE
    ))
    expect_identical(levels(SeuratObject::Idents(again)), c("1.1", "1.2", "1.3", "2", "3"))
    # Groups can be split, too: on the embeddings that their domains are of.
    whole <- levels(joined$m2st_joined_domain)[1L]
    again <- suppressMessages(splitDomains(
        joined, stats::setNames(2, whole), domain_name = "m2st_joined", params = quickParams()
    ))
    expect_identical(
        SeuratObject::Misc(again, "m2st_joined_parts")$cluster$parent, "m2st_joined"
    )
    expect_error(split(name = "m2st"), "`name` to be another than `domain_name`")
    other <- suppressMessages(clusterM2ST(object, 2, name = "two", params = quickParams()))
    expect_error(
        mergeDomains(other, 1, name = "m2st", domain_name = "two"),
        "`name` of a result without embeddings of scales, found 'm2st'"
    )
})

test_that("what cannot be joined or split is said in words of R", {
    for (call in list(domainTree, mergeDomains, splitDomains)) {
        expect_error(call(1:3), "an object that runM2ST() returned, found integer", fixed = TRUE)
    }
    x <- withFake(runM2ST(toyCounts(), coords = toyCoords(), k = 3, keep = "scales"))
    expect_error(mergeDomains(x), "Expected `k`")
    expect_error(mergeDomains(x, 3), "`k` to be one whole number below the 3 domains of 'm2st'")
    expect_error(mergeDomains(x, "2"), "below the 3 domains of 'm2st', found \"2\"")
    expect_error(mergeDomains(x, 2, key = 1), "not known here: 'key'")
    expect_error(mergeDomains(x, 2, "m2st", "other"), "`name` to be another than 'm2st'")
    expect_error(mergeDomains(x, 2, "a b"), "Expected `name` of letters")
    expect_error(domainTree(x, "zone"), "no domains 'zone_domain' in the result. Call runM2ST")
    expect_error(domainTree(x, 3), "`name` to be one name")
    expect_error(mergeDomains(x, 2, domain_name = NA), "`domain_name` to be one name")
    split <- function(...) splitDomains(x, ...)
    expect_error(split(), "Expected `parts`.*c\\(\"1\" = 2\\), found none")
    expect_error(split(2), "Expected `parts`, numbers of parts by domain.*found 2")
    expect_error(split(list()), "Expected `parts`.*found NULL")
    expect_error(split(c("9" = 2)), "domains of 'm2st' ('1', '2', '3'), found '9'", fixed = TRUE)
    expect_error(split(c("1" = 2, "1" = 3)), "each domain in `parts` once, found '1' twice")
    expect_error(split(c("1" = 1)), "parts of domain '1', at least 2, found 1")
    expect_error(split(list("1" = "two")), "parts of domain '1', at least 2, found \"two\"")
    expect_error(split(c("1" = 90)), "than its 36 spots, found 90. Give a smaller number")
    expect_error(split(c("1" = 2), params = paperParams()), "published method splits no domains")
    expect_error(split(c("1" = 2), seed = -1), "seed")
    named <- renameDomains(x, c("2" = "1.2"))
    expect_error(
        splitDomains(named, c("1" = 2)), "found a domain '1.2'. Rename it first with renameDomains"
    )
    none <- x
    levels(none$domain) <- c(levels(none$domain), "4")
    expect_error(mergeDomains(none, 2), "spots in each domain of 'm2st', found none in '4'. Call x.domain <- drop")
    one <- x
    one$domain <- factor(rep("1", 120))
    expect_error(domainTree(one), "at least two domains of 'm2st', found 1")
    few <- withFake(runM2ST(toyCounts(), coords = toyCoords(), k = 3))
    expect_error(splitDomains(few, c("1" = 2)), "kept only what is common")
    expect_error(domainTree(withFake(embedM2ST(toyCounts(), coords = toyCoords()))), "no domains")
})
