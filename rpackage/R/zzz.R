# What lives as long as the session: the module and the function that calls it.
state <- new.env(parent = emptyenv())

.onLoad <- function(libname, pkgname) {
    if ("py_require" %in% getNamespaceExports("reticulate")) {
        # Does nothing but take note; fails only if Python already runs without it.
        tryCatch(getExportedValue("reticulate", "py_require")("m2st"), error = function(e) NULL)
    }
    # Python's own error rather than reticulate's; `callPython` explains it.
    state$module <- reticulate::import("m2st.bridge", delay_load = list(on_error = stop))
    state$call <- callPython
}
