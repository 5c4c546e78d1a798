# What Python wrote into the file is what R does.

shared <- jsonlite::fromJSON(
    system.file("extdata", "shared.json", package = "m2st"),
    simplifyDataFrame = FALSE, simplifyMatrix = FALSE
)

agrees <- function(door, rules) {
    expect_identical(names(formals(door)), names(rules))
    shown <- paste(utils::capture.output(print(door())), collapse = "\n")
    accepts <- function(name, value) {
        !inherits(try(do.call(door, stats::setNames(list(value), name)), TRUE), "try-error")
    }
    for (name in names(rules)) {
        rule <- rules[[name]]
        expect_match(shown, paste0("\n  ", name, " = "), fixed = TRUE)
        expect_identical(accepts(name, NA), isTRUE(rule$none), label = name)
        if (!is.null(rule$default)) {
            given <- do.call(door, stats::setNames(list(rule$default), name))
            kept <- unlist(c(given$autoencoder, given$clustering), use.names = FALSE)
            expect_equal(kept, rule$default, label = name)
        }
        if (rule$kind %in% c("flag", "choice")) next
        expect_identical(accepts(name, rule$low), rule$closed[1L], label = paste(name, "low"))
        expect_false(accepts(name, rule$low - 1), label = paste(name, "below"))
        if (!is.null(rule$high)) {
            expect_identical(accepts(name, rule$high), rule$closed[2L], label = paste(name, "high"))
            expect_false(accepts(name, rule$high + 1), label = paste(name, "above"))
        }
        expect_identical(accepts(name, 1.5), rule$kind == "real" && is.null(rule$high))
        expect_identical(accepts(name, c(1, 1)), isTRUE(rule$several), label = name)
    }
}

test_that("settings have the names, ranges and defaults of Python", {
    agrees(m2stParams, c(shared$settings$autoencoder, shared$settings$clustering))
    agrees(paperParams, c(shared$settings$paper_autoencoder, shared$settings$paper_clustering))
})

test_that("colours are those of Python", {
    expect_identical(firstColours, shared$colours$first[seq_along(firstColours)])
    expect_identical(domainColours(30L), shared$colours$first)
    expect_identical(domainColours(3L), shared$colours$first[1:3])
    expect_identical(missingColour, shared$colours$missing)
})

test_that("spots have the sizes and shapes of Python", {
    for (spots in shared$spots) {
        shape <- spotShape(do.call(rbind, spots$points))
        expect_equal(shape, spots[c("size", "square", "angle")], label = spots$name)
    }
})

test_that("coordinates are known by the names of Python", {
    pairs <- Filter(function(names) length(names) == 2L, coordinateColumns)
    oriented <- lapply(pairs, function(names) {
        at <- matrix(1:2, 1L, dimnames = list(NULL, names))
        names[orientColumns(at)]
    })
    expect_identical(oriented, shared$coordinate_columns)
})

test_that("sections are known by the names of Python", {
    expect_identical(sectionNames, shared$section_columns$pattern)
    expect_identical(namePattern, shared$result_names$pattern)
    expect_identical(reservedNames, shared$result_names$reserved)
})

test_that("raw assays are known by the names of Python", {
    expect_identical(rawAssays, shared$raw_assays)
})
