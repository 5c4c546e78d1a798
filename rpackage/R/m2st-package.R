#' Spatial domains in one call, for Seurat and for Bioconductor
#'
#' [runM2ST()] finds spatial domains. [embedM2ST()] and [clusterM2ST()] are its two stages. The
#' second stage takes seconds and can be repeated for other numbers of domains. [m2stInfo()] says
#' whether Python is ready, and what to do if it is not.
#'
#' @keywords internal
#' @importClassesFrom Matrix dgCMatrix Matrix
#' @importFrom methods as is
#' @importFrom utils packageVersion
"_PACKAGE"
