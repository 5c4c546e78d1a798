test_that("settings are checked and sorted", {
    params <- m2stParams(
        n_epochs = 10, scale_dims = c(8, 4), activation = TRUE, gamma = NA, smoothness = 0
    )
    expect_identical(params$autoencoder$n_epochs, 10L)
    expect_identical(params$autoencoder$scale_dims, list(8L, 4L))
    expect_identical(params$autoencoder$activation, TRUE)
    expect_identical(params$autoencoder["gamma"], list(gamma = NULL))
    expect_identical(params$clustering, list(smoothness = 0))
    expect_identical(lengths(unclass(m2stParams())), c(autoencoder = 0L, clustering = 0L))
    expect_output(print(params), "n_epochs = 10")
    expect_output(print(m2stParams()), "clustering: defaults")
    expect_error(m2stParams(mask_rate = 1), "Expected `mask_rate` in \\[0, 1\\), found 1")
    expect_error(m2stParams(n_heads = 1.5), "`n_heads` to be a whole number above 0")
    expect_error(m2stParams(scale_dims = "a"), "`scale_dims` to be whole numbers above 0")
    expect_error(m2stParams(gamma = 0.5), "Expected `gamma` in \\[1, Inf\\)")
    expect_error(m2stParams(activation = 1), "Expected `activation` to be TRUE or FALSE, found 1")
    expect_error(m2stParams(freedom = 0), "Expected `freedom` in \\(0, Inf\\), found 0")
    expect_error(m2stParams(n_epochs = NA), "found NA")
    expect_error(m2stParams(depth = 1), "unused argument")
})

test_that("settings have the names and ranges of Python", {
    skip_if_no_m2st()
    m2st <- reticulate::import("m2st")
    classes <- list(autoencoder = m2st$AutoencoderParams, clustering = m2st$ClusteringParams)
    for (half in names(classes)) {
        fields <- names(reticulate::py_get_attr(classes[[half]], "__dataclass_fields__"))
        expect_setequal(names(settings[[half]]), fields)
    }
    expect_setequal(names(formals(m2stParams)), unlist(lapply(settings, names)))
})
