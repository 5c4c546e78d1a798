# Writes the help and the vignettes of the R package as pages in Markdown: Rscript docs/r.R FOLDER
folder <- commandArgs(trailingOnly = TRUE)[[1]]
places <- file.path(folder, c("help", "vignettes"))
for (place in places) dir.create(place, recursive = TRUE)
places <- normalizePath(places)

# Help: HTML as R makes it, without its frame. Links lead to the page that has the topic.
help <- tools::Rd_db(dir = "rpackage")
names(help) <- tools::file_path_sans_ext(names(help))
aliases <- lapply(help, function(rd) {
    found <- Filter(function(part) attr(part, "Rd_tag") == "\\alias", rd)
    trimws(vapply(found, function(part) paste(unlist(part), collapse = ""), ""))
})
links <- stats::setNames(rep(paste0(names(help), ".md"), lengths(aliases)), unlist(aliases))
for (topic in names(help)) {
    html <- tempfile(fileext = ".html")
    tools::Rd2HTML(help[[topic]], html, Links = links)
    lines <- readLines(html)
    lines <- lines[grep("<h2", lines)[[1]]:length(lines)]
    lines <- sub("<h2[^>]*>(.*)</h2>", sprintf("<h1><code>%s</code>: \\1</h1>", topic), lines)
    lines <- gsub("<(/?)h3>", "<\\1h2>", lines)
    writeLines(lines, html)
    rmarkdown::pandoc_convert(html, "gfm", "html", file.path(places[[1]], paste0(topic, ".md")))
}

# Vignettes: run here. Their title is in the header that is kept, so that sections are one below it.
format <- rmarkdown::md_document(
    "gfm", preserve_yaml = TRUE, pandoc_args = "--shift-heading-level-by=1"
)
# Pictures in Markdown, which cannot place them, rather than in HTML, whose links nobody checks.
knitr::opts_hooks$set(fig.align = function(options) {
    options$fig.align <- "default"
    options
})
invisible(file.copy("rpackage/vignettes", folder, recursive = TRUE))
vignettes <- list.files(places[[2]], "[.]Rmd$", full.names = TRUE)
for (vignette in vignettes) {
    rmarkdown::render(vignette, format, quiet = TRUE, envir = new.env())
}

# Pages that lead to them.
index <- function(place, title, names) {
    toctree <- c("```{toctree}", ":maxdepth: 1", "", names, "```")
    writeLines(c(paste("#", title), "", toctree), file.path(place, "index.md"))
}
index(places[[1]], "Help", names(help))
index(places[[2]], "Vignettes", tools::file_path_sans_ext(basename(vignettes)))
