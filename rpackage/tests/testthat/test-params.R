test_that("settings are checked and sorted", {
    params <- m2stParams(
        n_epochs = 10, scale_dims = c(8, 4), use_prelu = TRUE, loss_exponent = NA, smoothness = 0
    )
    expect_identical(params$autoencoder$n_epochs, 10L)
    expect_identical(params$autoencoder$scale_dims, list(8L, 4L))
    expect_identical(params$autoencoder$use_prelu, TRUE)
    expect_identical(params$autoencoder["loss_exponent"], list(loss_exponent = NULL))
    expect_identical(params$clustering, list(smoothness = 0))
    expect_identical(lengths(unclass(m2stParams())), c(autoencoder = 0L, clustering = 0L))
    expect_output(print(params), "  n_epochs = 10 (default: 100)", fixed = TRUE)
    expect_output(print(params), "  loss_exponent = NA (default: 1)", fixed = TRUE)
    expect_output(print(params), "  scale_dims = c(8, 4) (default: c(64, 32))", fixed = TRUE)
    expect_output(print(params), "clustering\n  common_dim = chosen from the data\n", fixed = TRUE)
    expect_output(print(m2stParams()), "  tol = 0.00001\n?$")
    expect_error(m2stParams(mask_rate = 1), "Expected `mask_rate` in \\[0, 1\\), found 1")
    expect_error(m2stParams(n_heads = 1.5), "`n_heads` to be a whole number above 0")
    expect_error(m2stParams(scale_dims = "a"), "`scale_dims` to be whole numbers above 0")
    expect_error(m2stParams(loss_exponent = 0.5), "Expected `loss_exponent` in \\[1, Inf\\)")
    expect_error(m2stParams(use_prelu = 1), "Expected `use_prelu` to be TRUE or FALSE, found 1")
    expect_error(m2stParams(degrees_of_freedom = 0), "Expected `degrees_of_freedom` in \\(0, Inf\\), found 0")
    expect_error(m2stParams(n_epochs = NA), "found NA")
    expect_error(m2stParams(depth = 1), "unused argument")
})

test_that("settings of the published method are its own", {
    params <- paperParams(solver = "published", specific_dim = 20, n_epochs = 3)
    expect_s3_class(params, c("paperParams", "m2stParams"), exact = TRUE)
    expect_identical(params$autoencoder, list(n_epochs = 3L))
    expect_identical(params$clustering, list(specific_dim = 20L, solver = "published"))
    expect_output(print(params), "  use_prelu = TRUE\n", fixed = TRUE)
    expect_output(print(params), "  n_epochs = 3 (default: 200)", fixed = TRUE)
    expect_output(print(params), "  solver = published (default: descent)", fixed = TRUE)
    expect_error(paperParams(solver = "newton"), "`solver` to be one of 'descent', 'published', found")
    expect_error(paperParams(smoothness = 1), "unused argument")
    expect_error(m2stParams(solver = "descent"), "unused argument")
})

test_that("the published method aligns no batches", {
    expect_error(
        runM2ST(toyCounts(), toyCoords(), k = 2, batch_id = rep(1:2, 60), params = paperParams()),
        "Expected no `batch_id` with paperParams\\(\\): the published method aligns nothing"
    )
})

test_that("the published method needs counts", {
    expect_error(
        runM2ST(toyCounts(), toyCoords(), k = 2, normalized = TRUE, params = paperParams()),
        "Expected counts for the published method, found normalized = TRUE. Leave it out"
    )
})
