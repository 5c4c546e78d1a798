# What lives as long as the session: the module, the function that calls it, and whether Python ran
# before this package was loaded.
state <- new.env(parent = emptyenv())

.onLoad <- function(libname, pkgname) {
    state$call <- callPython
    # Where Python runs already, its environment is settled, and reticulate would import at once:
    # what fails then must fail where it can be explained, not in library(m2st).
    state$late <- reticulate::py_available(initialize = FALSE)
    if (state$late) {
        return(invisible())
    }
    if ("py_require" %in% getNamespaceExports("reticulate")) {
        getExportedValue("reticulate", "py_require")("m2st")
    }
    # Takes note of what Python must have. Python's own error rather than reticulate's.
    state$module <- reticulate::import("m2st.bridge", delay_load = list(on_error = stop))
}
