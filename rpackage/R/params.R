#' Settings of the method
#'
#' Only the settings given here are sent to Python. All others, `NULL` here, keep the defaults named
#' below. Python has the same names.
#'
#' @param n_members Models of the ensemble, which differ in their seed; by default 5, and up to 20
#'   if there are few spots.
#' @param scale_dims Width of each of the scales, multiples of `n_heads`; `r helpOf("scale_dims")`.
#' @param hidden_dim Width of the shared encoder, a multiple of `n_heads`; `r helpOf("hidden_dim")`.
#' @param n_layers Attention layers of each scale's encoder, after the shared one;
#'   `r helpOf("n_layers")`.
#' @param average_hops Steps over which the features are averaged. The averages are one more view of
#'   the tissue beside the scales, without anything learned; `r helpOf("average_hops")`. With 0 there
#'   is none.
#' @param n_heads Attention heads of the encoders; `r helpOf("n_heads")`.
#' @param use_prelu `TRUE` applies a PReLU after each layer of the encoders, as the paper does;
#'   `r helpOf("use_prelu")`.
#' @param negative_slope Slope of the LeakyReLU in the attention; `r helpOf("negative_slope")`.
#' @param feature_dropout Probability of dropping an input in training;
#'   `r helpOf("feature_dropout")`.
#' @param attention_dropout Probability of dropping an attention weight in training;
#'   `r helpOf("attention_dropout")`.
#' @param mask_rate Share of the spots that is masked in each epoch; `r helpOf("mask_rate")`.
#' @param loss_exponent Exponent of the scaled cosine error; `r helpOf("loss_exponent")`. `NA` takes
#'   the mean squared error.
#' @param n_epochs Most epochs to train; `r helpOf("n_epochs")`.
#' @param batch_size Spots to train on at a time. With more spots, an epoch works on pieces of the
#'   tissue, and memory does not grow; `r helpOf("batch_size")`.
#' @param learning_rate Step size of the optimiser; `r helpOf("learning_rate")`.
#' @param weight_decay L2 penalty of the optimiser; `r helpOf("weight_decay")`.
#' @param patience Number of epochs. Training ends early if the mean loss over this many epochs is
#'   not lower than over as many epochs before, by the share `min_delta`; `r helpOf("patience")`.
#' @param min_delta See `patience`; `r helpOf("min_delta")`. With 0, all epochs are trained.
#' @param common_dim Width of the representation common to all scales; by default 15, or the number
#'   of domains if that is more.
#' @param specific_dim Width of the representation specific to each scale;
#'   `r helpOf("specific_dim")`.
#' @param weight_entropy Weight of the entropy of the scale weights. A small one trusts one scale, a
#'   large one trusts all equally; `r helpOf("weight_entropy")`.
#' @param degrees_of_freedom Degrees of freedom of a t distribution around a centre. The smaller they
#'   are, the less outlying spots count. By default, and with `NA`, the distribution is normal.
#' @param equal_sizes How strongly domains are drawn towards equal sizes: the weight of equal ones
#'   beside the sizes that are found; `r helpOf("equal_sizes")`. `NA` takes all as equal in size.
#' @param smoothness Weight of the agreement of a spot with spots within four steps on the spatial
#'   graph; `r helpOf("smoothness")`. With 0, only the embeddings count.
#' @param n_init Number of starts of the clustering; `r helpOf("n_init")`.
#' @param n_followed Most starts that run to their end, if they differ and are within 0.03 nats per
#'   spot of the best one. The best one with the smoothness is taken. By default one, or eight where
#'   several sections are clustered together. Always one above 20,000 spots.
#' @param short_iter Iterations by which the starts are compared; `r helpOf("short_iter")`.
#' @param max_iter Most iterations of the clustering, without and again with the smoothness;
#'   `r helpOf("max_iter")`.
#' @param tol The clustering has converged if its objective, per spot, falls by less in one
#'   iteration; `r helpOf("tol")`.
#' @return A list of class `m2stParams` with two lists, `autoencoder` and `clustering`: the settings
#'   that were given. Printing shows them among all defaults.
#' @examples
#' m2stParams(n_epochs = 50, mask_rate = 0.3)
#' @export
m2stParams <- function(
    n_members = NULL, scale_dims = NULL, hidden_dim = NULL, n_layers = NULL, average_hops = NULL,
    n_heads = NULL, use_prelu = NULL, negative_slope = NULL, feature_dropout = NULL,
    attention_dropout = NULL, mask_rate = NULL, loss_exponent = NULL, n_epochs = NULL,
    batch_size = NULL, learning_rate = NULL, weight_decay = NULL, patience = NULL,
    min_delta = NULL, common_dim = NULL, specific_dim = NULL, weight_entropy = NULL,
    degrees_of_freedom = NULL, equal_sizes = NULL, smoothness = NULL, n_init = NULL,
    n_followed = NULL, short_iter = NULL, max_iter = NULL, tol = NULL
) {
    structure(gather(as.list(environment()), settings()), class = "m2stParams")
}

#' Settings of the published method
#'
#' With these settings, m2ST does as the paper does: its features, its network and its clustering.
#' The settings that are not given have the defaults named below. Other `params` than these give the
#' defaults of m2ST, which leave the paper where measurement says so.
#'
#' The published method needs counts: it takes no features and no logarithms. It takes 200
#' components, unless `n_pcs` says otherwise. With one model, domains have no probabilities and the
#' confidence is `NA`. The record says `"paper"` as the recipe of the features and `"dual"` as the
#' method of the clustering.
#'
#' @inheritParams m2stParams
#' @param n_members Models of the ensemble; `r helpOf("n_members", "paper")`.
#' @param scale_dims Width of each of the scales, multiples of `n_heads`;
#'   `r helpOf("scale_dims", "paper")`.
#' @param hidden_dim Width of the shared encoder, a multiple of `n_heads`;
#'   `r helpOf("hidden_dim", "paper")`.
#' @param n_layers Attention layers of each scale's encoder, after the shared one;
#'   `r helpOf("n_layers", "paper")`.
#' @param average_hops Steps over which the features are averaged, for one more view of the tissue
#'   beside the scales; `r helpOf("average_hops", "paper")`. With 0 there is none.
#' @param use_prelu `TRUE` applies a PReLU after each layer of the encoders;
#'   `r helpOf("use_prelu", "paper")`.
#' @param loss_exponent Exponent of the scaled cosine error; `r helpOf("loss_exponent", "paper")`.
#'   `NA` takes the mean squared error.
#' @param n_epochs Most epochs to train; `r helpOf("n_epochs", "paper")`.
#' @param learning_rate Step size of the optimiser; `r helpOf("learning_rate", "paper")`.
#' @param min_delta See `patience`; `r helpOf("min_delta", "paper")`. With 0, all epochs are trained.
#' @param common_dim Width of the representation common to all scales; by default the number of
#'   domains.
#' @param specific_dim Width of the representation specific to each scale;
#'   `r helpOf("specific_dim", "paper")`.
#' @param ridge Weight of the squared norm of the representations; `r helpOf("ridge", "paper")`.
#' @param orthogonality Weight of the term that makes the centres orthonormal;
#'   `r helpOf("orthogonality", "paper")`.
#' @param weight_entropy Weight of the entropy of the scale weights. A small one trusts one scale, a
#'   large one trusts all equally; `r helpOf("weight_entropy", "paper")`.
#' @param solver `"descent"` minimises the paper's objective; `"published"` is the update rule of
#'   the published code. `r helpOf("solver", "paper")`.
#' @param n_init Number of starts of the descent; `r helpOf("n_init", "paper")`.
#' @param max_iter Most iterations of the clustering. The published rule always takes all of them;
#'   `r helpOf("max_iter", "paper")`.
#' @param tol The descent has converged if its objective, per spot, falls by no more in one
#'   iteration; `r helpOf("tol", "paper")`.
#' @return A list of class `paperParams` and `m2stParams`, to give as `params`.
#' @seealso [runM2ST()]
#' @examples
#' paperParams(solver = "published", specific_dim = 20)
#' @export
paperParams <- function(
    n_members = NULL, scale_dims = NULL, hidden_dim = NULL, n_layers = NULL, average_hops = NULL,
    n_heads = NULL, use_prelu = NULL, negative_slope = NULL, feature_dropout = NULL,
    attention_dropout = NULL, mask_rate = NULL, loss_exponent = NULL, n_epochs = NULL,
    batch_size = NULL, learning_rate = NULL, weight_decay = NULL, patience = NULL,
    min_delta = NULL, common_dim = NULL, specific_dim = NULL, ridge = NULL, orthogonality = NULL, weight_entropy = NULL, solver = NULL,
    n_init = NULL, max_iter = NULL, tol = NULL
) {
    given <- gather(as.list(environment()), settings("paper"))
    structure(given, class = c("paperParams", "m2stParams"))
}

# The settings that are given, checked, in the halves that they belong to.
gather <- function(given, halves) {
    given <- given[!vapply(given, is.null, logical(1L))]
    lapply(halves, function(rules) {
        own <- given[names(given) %in% names(rules)]
        Map(checkSetting, names(own), own, rules[names(own)])
    })
}

#' @export
print.m2stParams <- function(x, ...) {
    halves <- settings(if (inherits(x, "paperParams")) "paper" else "m2st")
    for (half in names(x)) {
        cat(half, "\n", sep = "")
        for (name in names(halves[[half]])) {
            default <- asText(halves[[half]][[name]]$default)
            given <- if (name %in% names(x[[half]])) asText(x[[half]][[name]], "NA")
            cat("  ", name, " = ", if (is.null(given)) default else given,
                if (!is.null(given)) paste0(" (default: ", default, ")"), "\n", sep = "")
        }
    }
    invisible(x)
}

# Kinds, ranges and defaults of the settings, as Python wrote them into a file for both: those of
# `m2stParams()` or of `paperParams()`.
settings <- function(door = c("m2st", "paper")) {
    if (is.null(state$settings)) {
        path <- system.file("extdata", "shared.json", package = "m2st", mustWork = TRUE)
        found <- jsonlite::fromJSON(path, simplifyDataFrame = FALSE, simplifyMatrix = FALSE)
        state$settings <- lapply(found$settings, lapply, function(rule) {
            if (is.null(rule$high)) rule$high <- Inf
            rule
        })
    }
    halves <- c("autoencoder", "clustering")
    stored <- if (match.arg(door) == "paper") paste0("paper_", halves) else halves
    stats::setNames(state$settings[stored], halves)
}

asText <- function(value, none = "chosen from the data") {
    value <- unlist(value)
    if (is.null(value)) {
        return(none)
    }
    text <- vapply(value, format, character(1L), scientific = FALSE, digits = 15L)
    if (length(text) > 1L) paste0("c(", paste(text, collapse = ", "), ")") else text
}

# For the help page: the range of a real number, and the default.
helpOf <- function(name, door = "m2st") {
    halves <- settings(door)
    rule <- c(halves$autoencoder, halves$clustering)[[name]]
    range <- if (rule$kind == "real") paste0(sub("in (.*)", "in `\\1`", describe(rule)), ", ")
    paste0(range, "by default `", asText(rule$default), "`")
}

# The value as Python wants it, or an error; NULL stands for Python's None.
checkSetting <- function(name, value, rule) {
    if (rule$none && length(value) == 1L && is.na(value)) {
        return(NULL)
    }
    if (!isTRUE(fits(value, rule))) {
        stopM2ST("Expected `", name, "` ", describe(rule), ", found ", shorten(value), ".")
    }
    if (rule$kind != "whole") {
        convert <- switch(rule$kind,
            flag = as.logical, choice = as.character, real = as.numeric
        )
        return(convert(value))
    }
    if (rule$several) as.list(as.integer(value)) else as.integer(value)
}

fits <- function(value, rule) {
    if (rule$kind == "flag") {
        return(isTRUE(value) || isFALSE(value))
    }
    if (rule$kind == "choice") {
        return(is.character(value) && length(value) == 1L && value %in% unlist(rule$choices))
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
    if (rule$kind == "choice") {
        return(paste0("to be one of ", quoted(unlist(rule$choices))))
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
