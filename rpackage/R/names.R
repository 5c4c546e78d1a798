# What a result is called. All that `name = "m2st"` writes starts with that name, so that results
# with different names live side by side in one object.

domainName <- function(name) paste0(name, "_domain")

confidenceName <- function(name) paste0(name, "_confidence")

# Domains of the second solution, where there are two.
secondName <- function(name) domainName(paste0(name, "_second"))

# The result for each k: of several, each has a name of its own.
resultNames <- function(name, k) {
    if (length(k) < 2L) name else paste0(name, "_k", k)
}

# Columns of domains, of whatever name.
domainPattern <- "^(.+)_domain$"

# The column that `name` stands for: the domains of the result of that name, else the column itself.
resolveColumn <- function(name, present) {
    domain <- if (is.character(name) && length(name) == 1L) domainName(name)
    if (isTRUE(domain %in% present)) domain else name
}

# The result that a column of domains belongs to; NULL if to none.
ownerOf <- function(column) {
    if (grepl(domainPattern, column)) sub(domainPattern, "\\1", column)
}

# What a result can be called, and what not, as in Python (`key_added`).
namePattern <- "[^\\W_][\\w.-]*"
reservedNames <- paste0(
    "spatial|spatial_neighbors|spatialdata_attrs|m2st_(r|python)",
    "|.*_(pca|pca_no_neighbors|averages|cell_types|scale\\d*|domain|confidence|second|colors)"
)

checkName <- function(value, argument = "name") {
    if (!is.character(value) || length(value) != 1L || is.na(value) || !nzchar(value)) {
        stopM2ST("Expected `", argument, "` to be one name, found ", shorten(value), ".")
    }
    fits <- function(pattern) grepl(paste0("(*UCP)^(", pattern, ")$"), value, perl = TRUE)
    if (!fits(namePattern)) {
        stopM2ST("Expected `", argument, "` of letters, digits, '_', '-' and '.', with a letter or ",
            "a digit first, found '", value, "'. Choose another name.")
    }
    if (fits(reservedNames)) {
        stopM2ST("Expected `", argument, "` to be a name of its own, found '", value, "', which ",
            "stands for something else or ends like a name of m2ST. Choose another name.")
    }
}

# The result whose embeddings are clustered, by Python's rule: `chosen`, else `name` if it `has` some,
# else the default.
embeddingName <- function(name, k, chosen, has) {
    if (is.null(chosen)) {
        chosen <- if (has(name)) name else "m2st"
    } else {
        checkName(chosen, "embedding_name")
        if (!has(chosen)) {
            stopM2ST("Expected `embedding_name` to name a result with embeddings, found none of '",
                chosen, "'. Name what embedM2ST() or runM2ST(keep = \"scales\") was given as ",
                "`name`.")
        }
    }
    others <- Filter(has, setdiff(resultNames(name, k), chosen))
    if (length(others)) {
        stopM2ST("Expected `name` to name no other embeddings than those to be clustered, '",
            chosen, "', found some of '", others[1L], "'. Choose another name.")
    }
    chosen
}

# What stands where a result would be written, and is not from an earlier run, stays: another
# `record`; `embeddings` and a column of domains, unless both are there, or the record shows a run.
# Records of a run, or of a model that was applied, have one of these entries.
checkNotTaken <- function(
    name, embeddings, columns, record, where, entry = c("n_members", "apply")
) {
    known <- is.list(record) && any(entry %in% names(record))
    if (!is.null(record) && !known) {
        stopM2ST("Expected `name` to be free for the record in ", where, ", found something else ",
            "there under '", name, "'. Choose another name.")
    }
    if (length(embeddings) && !known && !domainName(name) %in% columns) {
        stopM2ST("Expected `name` to be free for embeddings, found ", quoted(embeddings), ", not ",
            "made by m2ST. Choose another name.")
    }
    column <- intersect(
        c(domainName(name), confidenceName(name), secondName(name)), columns
    )
    if (length(column) && !length(embeddings) && !known && "n_members" %in% entry && name != "m2st") {
        stopM2ST("Expected `name` to be free for columns, found '", column[1L], "', not made by ",
            "m2ST. Choose another name.")
    }
}

# Views of the tissue that all models share, kept beside the scales if there are any.
viewNames <- c("averages", "cell_types")

# The views among embeddings, and the scales.
viewsOf <- function(embeddings) embeddings[names(embeddings) %in% viewNames]

scalesOf <- function(embeddings) embeddings[!names(embeddings) %in% viewNames]

# Embeddings of an earlier run under this prefix, and no others.
staleNames <- function(present, prefix, separator) {
    own <- startsWith(present, prefix)
    rest <- substring(present, nchar(prefix) + 1L)
    parts <- paste0(c("scale[0-9]+", viewNames), collapse = "|")
    present[own & grepl(paste0("^([", separator, "](", parts, "))?$"), rest)]
}

# The record of a clustering of the embeddings that `record` tells of: those of the result `from`.
clusterRecord <- function(record, other, name, from) {
    record$n_domains <- other$n_domains
    record$cluster <- NULL
    record$cluster <- other$cluster
    if (name != from) {
        record$cluster$embedding_key <- from
    }
    record
}

# Arguments in m2ST's names; `theirs` in the spelling of Seurat, `ours` what else was given.
translateSeurat <- function(ours, theirs) {
    theirs <- Filter(Negate(is.null), theirs)
    if (!is.null(theirs$cluster.name)) {
        theirs$cluster.name <- nameOfColumn(theirs$cluster.name)
    }
    for (spelling in names(theirs)) {
        argument <- seuratSpellings[[spelling]]
        value <- theirs[[spelling]]
        if (argument %in% names(ours) && !isTRUE(all.equal(ours[[argument]], value))) {
            stopM2ST("Expected one value of `", argument, "`, which `", spelling, "` is another ",
                "name of, found ", shorten(ours[[argument]]), " and ", shorten(value),
                ". Leave one out.")
        }
        ours[[argument]] <- value
    }
    ours
}

# Spellings of Seurat's functions, and the argument that each stands for.
seuratSpellings <- c(
    reduction.name = "name", cluster.name = "name", seed.use = "seed", sample.by = "sample_id"
)

nameOfColumn <- function(column) {
    name <- if (is.character(column)) sub("_domain$", "", column) else column
    checkName(name, "cluster.name")
    if (name == column) {
        stopM2ST("Expected `cluster.name` to end in '_domain', as all columns of domains do, ",
            "found ", quoted(column), ". Pass name = \"", column, "\", which writes the column '",
            domainName(column), "'.")
    }
    name
}
