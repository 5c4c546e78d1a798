#' Settings of the method
#'
#' Only the settings given here are sent to Python; all others, `NULL` here, keep the defaults that
#' are named below. The names are the same on both sides.
#'
#' @param n_members Models of the ensemble, trained alike from different seeds; by default 5, and up
#'   to 20 where there are few spots.
#' @param scale_dims Width of each of the scales, multiples of `n_heads`; by default `c(64, 32)`.
#' @param hidden_dim Width of the shared encoder, a multiple of `n_heads`; by default 128.
#' @param n_layers Attention layers of each scale's encoder, after the shared one; by default 2.
#' @param n_heads Attention heads of the encoders; by default 4.
#' @param activation `TRUE` applies a PReLU after each layer of the encoders, as the paper does; by
#'   default `FALSE`.
#' @param negative_slope Slope of the LeakyReLU in the attention, in \[0, 1); by default 0.01.
#' @param feature_dropout,attention_dropout Probability of dropping an input or an attention
#'   weight in training, in \[0, 1); by default 0.
#' @param mask_rate Share of the spots that is masked in each epoch, in \[0, 1); by default 0.5.
#' @param gamma Exponent of the scaled cosine error, at least 1, by default 1; `NA` takes the mean
#'   squared error.
#' @param n_epochs Most epochs to train; by default 100.
#' @param batch_size Spots to train on at a time: with more of them an epoch works on pieces of the
#'   tissue, and memory does not grow; by default 16384.
#' @param learning_rate Step size of the optimiser, in (0, 1\]; by default 0.002.
#' @param weight_decay L2 penalty of the optimiser, in \[0, 1\]; by default 0.0005.
#' @param settle_window,settle_tol Training ends early once the mean loss over so many epochs falls
#'   by less than the share `settle_tol`, by default 25 and 0.002; 0 trains all epochs.
#' @param common_dim Width of the representation common to all scales; `NULL` takes 10, or as many
#'   as there are domains if that is more.
#' @param specific_dim Width of the representation specific to each scale; by default 6.
#' @param entropy Weight of the entropy of the scale weights, above 0: small trusts one scale, large
#'   all alike. By default 0.3.
#' @param freedom Degrees of freedom of the t distribution around the centre of a domain, above 0:
#'   the smaller, the less outlying spots count. By default 8.
#' @param smoothness Weight of the agreement of a spot with those within four steps on the spatial
#'   graph, by default 10; 0 looks at the embeddings alone.
#' @param n_init Number of starts of the clustering; by default 12.
#' @param short_iter Iterations by which the starts are compared; by default 30.
#' @param max_iter Most iterations of the clustering, without and again with the smoothness; by
#'   default 500.
#' @param tol Decrease of the objective, per iteration and spot, under which the clustering has
#'   converged, in \[0, 1); by default 0.00001.
#' @return A list of class `m2stParams` with two lists, `autoencoder` and `clustering`.
#' @examples
#' m2stParams(n_epochs = 100, mask_rate = 0.3)
#' @export
m2stParams <- function(
    n_members = NULL, scale_dims = NULL, hidden_dim = NULL, n_layers = NULL, n_heads = NULL,
    activation = NULL, negative_slope = NULL, feature_dropout = NULL, attention_dropout = NULL,
    mask_rate = NULL, gamma = NULL, n_epochs = NULL, batch_size = NULL, learning_rate = NULL,
    weight_decay = NULL, settle_window = NULL, settle_tol = NULL, common_dim = NULL,
    specific_dim = NULL, entropy = NULL, freedom = NULL, smoothness = NULL, n_init = NULL,
    short_iter = NULL, max_iter = NULL, tol = NULL
) {
    given <- as.list(environment())
    given <- given[!vapply(given, is.null, logical(1L))]
    checked <- Map(checkSetting, names(given), given)
    half <- lapply(settings, function(rules) checked[names(checked) %in% names(rules)])
    structure(half, class = "m2stParams")
}

#' @export
print.m2stParams <- function(x, ...) {
    for (half in names(x)) {
        shown <- vapply(x[[half]], function(value) {
            if (is.null(value)) "NA" else paste(format(unlist(value)), collapse = ", ")
        }, character(1L))
        cat(half, ": ", if (length(shown)) paste(names(shown), shown, sep = " = ", collapse = "; ")
            else "defaults", "\n", sep = "")
    }
    invisible(x)
}

whole <- function(several = FALSE) {
    list(
        kind = "whole", low = 1, high = Inf, closed = c(TRUE, FALSE), none = FALSE,
        several = several
    )
}

real <- function(low, high, closed, none = FALSE) {
    list(kind = "real", low = low, high = high, closed = closed, none = none, several = FALSE)
}

flag <- list(kind = "flag", none = FALSE)
share <- real(0, 1, c(TRUE, FALSE))

# The ranges of the settings; a test compares the names with Python's.
settings <- list(
    autoencoder = list(
        n_members = whole(), scale_dims = whole(several = TRUE), hidden_dim = whole(),
        n_layers = whole(), n_heads = whole(), activation = flag, negative_slope = share,
        feature_dropout = share, attention_dropout = share, mask_rate = share,
        gamma = real(1, Inf, c(TRUE, FALSE), none = TRUE), n_epochs = whole(), batch_size = whole(),
        learning_rate = real(0, 1, c(FALSE, TRUE)), weight_decay = real(0, 1, c(TRUE, TRUE)),
        settle_window = whole(), settle_tol = share
    ),
    clustering = list(
        common_dim = whole(), specific_dim = whole(), entropy = real(0, Inf, c(FALSE, FALSE)),
        freedom = real(0, Inf, c(FALSE, FALSE)), smoothness = real(0, Inf, c(TRUE, FALSE)),
        n_init = whole(), short_iter = whole(), max_iter = whole(), tol = share
    )
)

# The value as Python wants it, or an error; NULL stands for Python's None.
checkSetting <- function(name, value) {
    rule <- c(settings$autoencoder, settings$clustering)[[name]]
    if (rule$none && length(value) == 1L && is.na(value)) {
        return(NULL)
    }
    if (!isTRUE(fits(value, rule))) {
        stopM2ST("Expected `", name, "` ", describe(rule), ", found ", shorten(value), ".")
    }
    if (rule$kind != "whole") {
        return(if (rule$kind == "flag") as.logical(value) else as.numeric(value))
    }
    if (rule$several) as.list(as.integer(value)) else as.integer(value)
}

fits <- function(value, rule) {
    if (rule$kind == "flag") {
        return(isTRUE(value) || isFALSE(value))
    }
    if (!is.numeric(value) || length(value) < 1L || (length(value) > 1L && !rule$several)) {
        return(FALSE)
    }
    above <- if (rule$closed[1L]) value >= rule$low else value > rule$low
    below <- if (rule$closed[2L]) value <= rule$high else value < rule$high
    all(above & below) && (rule$kind == "real" || all(value == round(value)))
}

describe <- function(rule) {
    if (rule$kind == "flag") {
        return("to be TRUE or FALSE")
    }
    if (rule$kind == "whole") {
        return(if (rule$several) "to be whole numbers above 0" else "to be a whole number above 0")
    }
    ends <- c(if (rule$closed[1L]) "[" else "(", if (rule$closed[2L]) "]" else ")")
    paste0("in ", ends[1L], rule$low, ", ", rule$high, ends[2L])
}

shorten <- function(value) {
    substr(paste(deparse(value, width.cutoff = 60L), collapse = " "), 1L, 60L)
}
