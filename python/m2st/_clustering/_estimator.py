"""`MultiScaleClustering`, the estimator."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits

from m2st._checks import by_row, check_int, check_n_domains, check_seed
from m2st._clustering._base import MemberEstimator
from m2st._clustering._domains import MixtureDomains
from m2st._clustering._mixture import (
    State,
    descend,
    descents,
    filled_labels,
    initial_labels,
    normalised_adjacency,
)
from m2st._clustering._representation import check_embeddings, factorise
from m2st._params import ClusteringParams

Array = NDArray[np.float64]
Embeddings = Sequence[NDArray[Any]] | NDArray[Any]

# A start with a domain of fewer observations is taken only if all have one.
_LEAST = 10
# Starts whose domains are more alike (adjusted Rand index) lead to the same end, and those whose
# objectives, in nats per observation, are as near as this are not told apart by the embeddings.
_ALIKE, _TIED = 0.97, 0.03
# Starts are compared, and the best is followed to its end, on no more observations than this. It is
# then close to where all of them lead.
_START_SAMPLE = 20_000


class MultiScaleClustering(MemberEstimator[ClusteringParams]):
    r"""Cluster several embeddings of the same observations together.

    The embeddings are split into a representation common to all scales and a specific one for each,
    :math:`H^m = H_c W^m + H_s^m P^m` with orthonormal loadings. Both are principal components: the
    least squares of the first term of objective (12) of the paper. With these blocks
    :math:`X^1, \dots, X^M = H_s^1, \dots, H_s^M` and :math:`X^{M+1} = H_c`, and responsibilities
    :math:`u_{ik} \ge 0`, :math:`\sum_k u_{ik} = 1`, it minimises

    .. math::
        \sum_{m=1}^{M+1} \alpha^m \Big[ \tfrac1N \sum_{ik} u_{ik}\, \rho_m(x_i^m - v_k^m)
        - \rho_m^0 \Big]
        + \tfrac1N \sum_{ik} u_{ik} \ln \frac{u_{ik}}{C \pi_k}
        - \tfrac aC \sum_k \ln C \pi_k
        + \delta \sum_m \alpha^m \ln \alpha^m
        - \tfrac{\eta}{2N} \sum_{ijk} u_{ik} S_{ij} u_{jk},

    .. math::
        \rho_m(r) = \tfrac{\nu + d_m}{2} \ln\!\big(1 + r^\top (\Sigma^m)^{-1} r / \nu\big)
        + \tfrac12 \ln \lvert \Sigma^m \rvert,

    by updates of one block of unknowns after the other. No update raises it. :math:`\rho_m^0` is
    the cost of a single domain, so that a scale counts by how much the domains explain of it.
    Without :math:`\nu`, the first part of :math:`\rho_m` is that of a normal distribution,
    :math:`\tfrac12 r^\top (\Sigma^m)^{-1} r`. The shares :math:`\pi_k` are equal, or estimated with
    the Dirichlet prior :math:`a`.
    :math:`S` is the fourth power of the normalised adjacency of the spatial graph with self-loops.

    It assumes domains that differ in their centres and share the shape of the scatter around them.

    Parameters
    ----------
    n_domains
        Number of domains C; exactly as many come out.
    common_dim, specific_dim, weight_entropy, degrees_of_freedom, equal_sizes, smoothness
        Widths of the representations and weights of the terms: see `ClusteringParams`.
    n_init, n_followed, short_iter, max_iter, tol
        Control of the optimisation: see `ClusteringParams`.
    random_state
        Seed of the starts.

    Attributes
    ----------
    labels_
        Domain of each observation, 0 to C - 1 by decreasing size; shape (n_obs,).
    responsibilities_
        Responsibility of each observation in each domain, shape (n_obs, C), rows sum to 1.
    common_
        Common representation, shape (n_obs, d_c).
    specific_
        Specific representation of each scale, shape (n_obs, d_s) each.
    centers_
        Centres of the domains, of each scale and, last, of the common representation.
    covariances_
        Covariance that the domains share, in the same order.
    sizes_
        Share that each domain is estimated to have, shape (n_domains,); sum 1.
    scale_weights_
        Weights of the scales and, last, of the common representation, shape (M + 1,); sum 1.
    objective_
        Objective after each iteration from the best start; it never rises.
    start_objectives_
        Objective of each start after `short_iter` iterations, on the common representation alone;
        shape (n_init,).
    n_iter_
        Iterations from the best start, in all.
    converged_
        Whether the descent ended by tolerance.
    n_features_in_
        Columns of all embeddings together.

    Notes
    -----
    Objective (12) of the paper has k-means terms, labels, moving representations, and no term in
    space. ``docs/departures.md`` names each departure and the measurement behind it.

    A domain never becomes empty. At the end, a domain without observations takes the one that loses
    least.

    References
    ----------
    Zhang W, Zhang Z, Yang H, et al. m2ST: dual multi-scale graph clustering for spatially resolved
    transcriptomics. Bioinformatics, 2025.

    Peel D, McLachlan GJ. Robust mixture modelling using the t distribution. Statistics and
    Computing, 2000.

    Examples
    --------
    >>> import numpy as np
    >>> from m2st import MultiScaleClustering
    >>> rng = np.random.default_rng(0)
    >>> truth = np.repeat([0, 1], 50)
    >>> embeddings = [rng.normal(size=(100, d)) + 4 * truth[:, None] for d in (8, 4)]
    >>> labels = MultiScaleClustering(2).fit(embeddings).labels_
    >>> bool(len(set(zip(labels.tolist(), truth.tolist()))) == 2)
    True
    """

    _settings = ClusteringParams

    common_: Array
    specific_: list[Array]
    covariances_: list[Array]
    sizes_: Array
    scale_weights_: Array
    objective_: Array
    start_objectives_: Array
    n_iter_: int
    converged_: bool
    n_features_in_: int

    def __init__(
        self,
        n_domains: int,
        *,
        common_dim: int | None = ClusteringParams.common_dim,
        specific_dim: int = ClusteringParams.specific_dim,
        weight_entropy: float = ClusteringParams.weight_entropy,
        degrees_of_freedom: float | None = ClusteringParams.degrees_of_freedom,
        equal_sizes: float | None = ClusteringParams.equal_sizes,
        smoothness: float = ClusteringParams.smoothness,
        n_init: int = ClusteringParams.n_init,
        n_followed: int | None = ClusteringParams.n_followed,
        short_iter: int = ClusteringParams.short_iter,
        max_iter: int = ClusteringParams.max_iter,
        tol: float = ClusteringParams.tol,
        random_state: int = 0,
    ) -> None:
        self.n_domains = n_domains
        self.common_dim = common_dim
        self.specific_dim = specific_dim
        self.weight_entropy = weight_entropy
        self.degrees_of_freedom = degrees_of_freedom
        self.equal_sizes = equal_sizes
        self.smoothness = smoothness
        self.n_init = n_init
        self.n_followed = n_followed
        self.short_iter = short_iter
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self,
        X: Embeddings,
        y: None = None,
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> MultiScaleClustering:
        """Find the domains.

        Parameters
        ----------
        X
            Embeddings: one array of shape (n_obs, d_m) per scale, finite. A single array is one
            scale.
        y
            Not used; here by scikit-learn's convention.
        connectivities
            Symmetric spatial graph of shape (n_obs, n_obs), weights ignored; without it the domains
            need not be smooth.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError
            If embeddings are missing, not finite, of unequal length, or fewer than `n_domains`; if
            a setting is out of its range; if the graph does not fit.

        Warns
        -----
        ConvergenceWarning
            If the descent reached `max_iter`.
        """
        check_int("n_domains", self.n_domains, minimum=1)
        scales = self._scales(X, reset=True)
        n_obs = len(scales[0])
        check_n_domains(self.n_domains, n_obs=n_obs)
        params = self._params().for_domains(self.n_domains)
        check_seed(self.random_state)
        adjacency = None if connectivities is None else normalised_adjacency(connectivities, n_obs)
        # One thread: the sums are then the same bits whatever the machine offers.
        with threadpool_limits(1):
            self._factors = factorise(scales, params)
            blocks = self._factors.project(scales)
            rng = np.random.default_rng(self.random_state)
            seeds = rng.integers(2**31, size=params.n_init).tolist()
            rows = self._sample(n_obs)
            sample = [block[rows] for block in blocks]
            one_hot = np.eye(self.n_domains)
            starts = (
                one_hot[initial_labels(sample[-1], self.n_domains, start, seed)]
                for start, seed in enumerate(seeds)
            )
            # Nearly all weight is on the common representation in the end.
            tried = descents(sample[-1:], starts, params, n_iter=params.short_iter)
            # A sample of the observations has no neighbours, which the last term is about.
            n_followed = 1 if n_obs > _START_SAMPLE else params.n_followed or 1
            best, start_objectives = _lowest(tried, n_followed)
            followed = descents(sample, best, params, n_iter=params.max_iter)
            ends = [self._finish(blocks, sample, *end, adjacency) for end in followed]
            state, objective, converged = min(ends, key=lambda end: end[1][-1])
        self.start_objectives_ = np.array(start_objectives)
        self._keep(blocks, state, objective, converged=converged)
        if not self.converged_:
            msg = (
                f"The clustering did not converge in {params.max_iter} iterations "
                "(`max_iter`): its objective still fell by more than `tol`."
            )
            warnings.warn(msg, ConvergenceWarning, stacklevel=2)
        return self

    def refit(
        self,
        init_labels: Sequence[NDArray[np.intp]],
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> MultiScaleClustering:
        """Start once more from given labels, in place; what has the lowest objective stays.

        Parameters
        ----------
        init_labels
            Labels 0 to C - 1 of shape (n_obs,) each, such as the labels that a clustering of other
            embeddings has found: an optimum that this one may have missed.
        connectivities
            The spatial graph, as in `fit`.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        NotFittedError
            If `fit` has not run, or its representations were given up.
        """
        check_is_fitted(self)
        if not hasattr(self, "common_"):
            msg = (
                "Expected `common_` and `specific_` to start from, found that they were given up, "
                "as `m2st.tl.cluster` does. Call `fit` first."
            )
            raise NotFittedError(msg)
        params = self._params()
        blocks = [*self.specific_, self.common_]
        n_obs = len(self.labels_)
        rows = self._sample(n_obs)
        adjacency = None if connectivities is None else normalised_adjacency(connectivities, n_obs)
        with threadpool_limits(1):
            sample = [block[rows] for block in blocks]
            one_hot = np.eye(self.n_domains)
            starts = [one_hot[labels[rows]] for labels in (self.labels_, *init_labels)]
            tried = list(descents(sample, starts, params, n_iter=params.max_iter))
            best = int(np.argmin([history[-1] for _, history in tried]))
            if tried[0][1][-1] - tried[best][1][-1] > params.tol:
                state, objective, converged = self._finish(blocks, sample, *tried[best], adjacency)
                if objective[-1] < self.objective_[-1]:
                    self._keep(blocks, state, objective, converged=converged)
        return self

    def predict(
        self, X: Embeddings, *, connectivities: sparse.spmatrix | None = None
    ) -> NDArray[np.intp]:
        """Domains of other observations, among the domains that were found.

        Parameters
        ----------
        X
            Their embeddings, from the model of the fitted ones, as in `fit`.
        connectivities
            Their spatial graph, as in `fit`.

        Returns
        -------
        Labels 0 to C - 1, shape (n_obs,); some domains may be empty.

        Raises
        ------
        NotFittedError
            If `fit` has not run.
        ValueError
            If the embeddings do not fit the embeddings of `fit`.
        """
        labels: NDArray[np.intp] = self.predict_proba(X, connectivities=connectivities).argmax(
            axis=1
        )
        return labels

    def predict_proba(
        self, X: Embeddings, *, connectivities: sparse.spmatrix | None = None
    ) -> Array:
        """Responsibilities of the domains for other observations.

        Parameters
        ----------
        X
            Their embeddings, from the model of the fitted ones, as in `fit`.
        connectivities
            Their spatial graph, as in `fit`.

        Returns
        -------
        Shape (n_obs, n_domains), rows sum to 1.

        Raises
        ------
        NotFittedError
            If `fit` has not run.
        ValueError
            If the embeddings do not fit the embeddings of `fit`.
        """
        check_is_fitted(self)
        scales = self._scales(X, reset=False)
        return self.to_domains().predict_proba(scales, connectivities=connectivities)

    def reorder(self, order: NDArray[np.intp]) -> Self:
        """Number the domains anew, in place; as `MemberEstimator.reorder`."""
        super().reorder(order)
        self.sizes_ = self.sizes_[order]
        return self

    def give_up_representations(self) -> Self:
        """Remove `common_` and `specific_`, in place, which are large. Only `refit` needs them.

        Returns
        -------
        The estimator itself.
        """
        del self.common_, self.specific_
        return self

    def to_domains(self) -> MixtureDomains:
        """Keep of this estimator what places other observations, and no more.

        Returns
        -------
        Something that has `predict_proba` and `n_domains`, and does not change with the estimator.

        Raises
        ------
        NotFittedError
            If `fit` has not run.
        """
        check_is_fitted(self)
        return MixtureDomains(
            self._factors,
            list(self.centers_),
            list(self.covariances_),
            self.scale_weights_,
            self._params(),
            None if self.equal_sizes is None else self.sizes_,
        )

    def _scales(self, X: Embeddings, *, reset: bool) -> list[NDArray[Any]]:
        """Embeddings as a list of arrays; a single array is checked as scikit-learn does."""
        if isinstance(X, list | tuple) and all(np.ndim(scale) == 2 for scale in X):
            scales = check_embeddings(X)
            if reset:
                self.n_features_in_ = sum(scale.shape[1] for scale in scales)
            return scales
        n_least = self.n_domains if reset else 1
        kinds = [np.float64, np.float32]
        scale = validate_data(self, X, reset=reset, dtype=kinds, ensure_min_samples=n_least)
        return [by_row(scale)]

    def _sample(self, n_obs: int) -> slice | NDArray[np.intp]:
        """Observations on which starts are compared."""
        if n_obs <= _START_SAMPLE:
            return slice(None)
        rng = np.random.default_rng(self.random_state)
        return np.sort(rng.choice(n_obs, _START_SAMPLE, replace=False))

    def _finish(
        self,
        blocks: list[Array],
        sample: list[Array],
        state: State,
        objective: list[float],
        adjacency: sparse.csr_matrix | None,
    ) -> tuple[State, list[float], bool]:
        """Descend from a state of the sample to the end, on all observations."""
        params = self._params()
        if len(sample[-1]) < len(blocks[-1]):
            state = State.from_sample(blocks, state, params)
            objective = [state.objective(params)]
        converged = descend(blocks, state, objective, params, n_iter=params.max_iter)
        if adjacency is not None and params.smoothness > 0:
            state.adjacency = adjacency
            objective.append(state.objective(params))
            converged = descend(blocks, state, objective, params, n_iter=params.max_iter)
        return state, objective, converged

    def _keep(
        self, blocks: list[Array], state: State, objective: list[float], *, converged: bool
    ) -> None:
        """Write a solution to the attributes, domains by decreasing size."""
        self.labels_ = filled_labels(state.responsibilities)
        self.responsibilities_ = state.responsibilities
        self.common_ = blocks[-1]
        self.specific_ = blocks[:-1]
        self.centers_ = [mixture.centers for mixture in state.mixtures]
        self.covariances_ = [mixture.covariance for mixture in state.mixtures]
        self.sizes_ = state.shares / len(state.shares)
        self.scale_weights_ = state.weights
        self.objective_ = np.array(objective)
        self.n_iter_ = len(objective) - 1
        self.converged_ = converged
        self._number_by_size()


def _lowest(
    tried: Iterable[tuple[State, list[float]]], n_followed: int
) -> tuple[list[Array], list[float]]:
    """Responsibilities of tied objectives, the lowest first, unlike each other; all objectives.

    Starts without tiny domains come first, if there are any: a few observations apart from the
    tissue, which no neighbours average out, gain most by a domain of their own.
    """
    ranked: list[tuple[bool, float, Array]] = []
    objectives = []
    for state, history in tried:
        objectives.append(history[-1])
        tiny = bool(state.responsibilities.sum(axis=0).min() < _LEAST)
        ranked.append((tiny, history[-1], state.responsibilities))
        if n_followed == 1:  # of large data, nothing is held that is not needed
            ranked = [min(ranked, key=lambda one: one[:2])]
    ranked.sort(key=lambda one: one[:2])
    best: list[Array] = []
    for tiny, objective, responsibilities in ranked:
        if len(best) == n_followed or (tiny, objective) > (ranked[0][0], ranked[0][1] + _TIED):
            break
        labels = responsibilities.argmax(axis=1)
        if all(adjusted_rand_score(labels, other.argmax(axis=1)) <= _ALIKE for other in best):
            best.append(responsibilities)
    return best, objectives
