# What a result is called. All that `name = "m2st"` writes starts with that name, so that results
# with different names live side by side in one object.

domainName <- function(name, suffix = "") {
    paste0(name, "_domain", suffix)
}

confidenceName <- function(name, suffix = "") {
    paste0(name, "_confidence", suffix)
}

# What distinguishes the results for several k in names; nothing for one.
clusterSuffix <- function(k, separator = "_") {
    if (length(k) < 2L) "" else paste0(separator, "k", k)
}

# Columns of domains, of whatever name.
domainPattern <- "^(.+)_domain(_k[0-9]+)?$"

# The column that `name` stands for: the domains of the result of that name, else the column itself.
resolveColumn <- function(name, present) {
    domain <- if (is.character(name) && length(name) == 1L) domainName(name)
    if (isTRUE(domain %in% present)) domain else name
}

# The result and the suffix ("" or "_k5") that a column of domains belongs to; NULL if to none.
ownerOf <- function(column) {
    parts <- regmatches(column, regexec(domainPattern, column))[[1L]]
    if (length(parts)) list(name = parts[2L], suffix = parts[3L])
}

checkName <- function(value, argument = "name") {
    if (!is.character(value) || length(value) != 1L || is.na(value) || !nzchar(value)) {
        stopM2ST("Expected `", argument, "` to be one name, found ", shorten(value), ".")
    }
}

# What stands where a result would be written, and is not from an earlier run, stays: `embeddings`
# of that name, unless `columns` or the record show a run, and another `record`. Records of a run
# have this `entry`.
checkNotTaken <- function(name, embeddings, columns, record, where, entry = "n_members") {
    known <- is.list(record) && entry %in% names(record)
    if (!is.null(record) && !known) {
        stopM2ST("Expected `name` to be free for the record in ", where, ", found something else ",
            "there under '", name, "'. Choose another name.")
    }
    if (length(embeddings) && !known && !domainName(name) %in% columns) {
        stopM2ST("Expected `name` to be free for embeddings, found ", quoted(embeddings), ", not ",
            "made by m2ST. Choose another name.")
    }
}

# Embeddings of an earlier run under this prefix, and no others.
staleNames <- function(present, prefix, separator) {
    own <- startsWith(present, prefix)
    rest <- substring(present, nchar(prefix) + 1L)
    ours <- grepl(paste0("^([", separator, "](scale|k)[0-9]+)?$"), rest)
    present[own & ours]
}

# Which columns hold results for several numbers of domains.
staleColumns <- function(present, name) {
    stem <- sub("_k[0-9]+$", "", present)
    stem != present & stem %in% c(domainName(name), confidenceName(name))
}

# The record with the clustering of a result, under a name of its own if there are several.
mergeRecord <- function(record, other, suffix = "") {
    record[[paste0("cluster", suffix)]] <- other$cluster
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
    checkName(column, "cluster.name")
    name <- sub("_domain$", "", column)
    if (name == column || !nzchar(name)) {
        stopM2ST("Expected `cluster.name` to end in '_domain', as all columns of domains do, ",
            "found ", quoted(column), ". Pass name = \"", column, "\", which writes the column '",
            domainName(column), "'.")
    }
    name
}
