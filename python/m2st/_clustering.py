"""Entropy-weighted multi-scale clustering (paper, part B).

=========  ==========================================  ==================  =======================
symbol     meaning                                     shape here          outside name
=========  ==========================================  ==================  =======================
H^m        embedding of scale m, centred and scaled    (n_obs, d_m)        ``embeddings``
H_c        representation common to all scales         (n_obs, d_c)        ``common_``
H_s^m      representation specific to scale m          (n_obs, d_s)        ``specific_``
W^m, P^m   loadings of the common, the specific one    (d_c|d_s, d_m)      --
U          domain of each observation                  (n_obs,)            ``labels_``
V^m        centres of the domains                      (n_domains, d)      ``centers_``
α^m        weight of a scale; the last is the common   (M + 1,)            ``scale_weights_``
β          ridge on the representations                --                  ``ridge``
λ          near-orthogonality of the centres           --                  ``orthogonality``
δ          entropy of the weights                      --                  ``entropy``
=========  ==========================================  ==================  =======================

Representations are stored by observation, the transpose of the paper's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from m2st._checks import check_features, check_int, check_n_domains
from m2st._params import ClusteringParams

Array = NDArray[np.float64]


class MultiScaleClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    r"""Cluster several embeddings of the same observations together.

    Minimises, over representations, loadings, centres, labels and weights, the objective (12) of
    the paper divided by the number of observations,

    .. math::
        \tfrac1N \Big[\sum_m \lVert H^m - H_c W^m - H_s^m P^m \rVert^2
        + \beta \big(\lVert H_c \rVert^2 + \sum_m \lVert H_s^m \rVert^2\big)
        + \sum_m \alpha^m \lVert H_s^m - U V^m \rVert^2
        + \alpha^{M+1} \lVert H_c - U V^{M+1} \rVert^2 \Big]
        + \lambda \sum_m \lVert V^m V^{m\top} - I \rVert^2
        + \delta \sum_m \alpha^m \ln \alpha^m,

    by exact updates of one block after the other. It assumes domains that are compact around their
    centres in the representations.

    Parameters
    ----------
    n_domains
        Number of domains C; exactly as many come out.
    params
        Weights of the terms and control of the optimisation; None takes the defaults.
    random_state
        Seed of the starts.

    Attributes
    ----------
    labels_
        Domain of each observation, 0 to C - 1 by decreasing size; shape (n_obs,).
    common_
        Common representation, shape (n_obs, d_c).
    specific_
        Specific representation of each scale, shape (n_obs, d_s) each.
    centers_
        Centres of the domains, of each scale and, last, of the common representation.
    scale_weights_
        Weights of the scales and, last, of the common representation, shape (M + 1,); sum 1.
    objective_
        Objective after each iteration of the best start; it never rises.
    start_objectives_
        Objective of each start after `short_iter` iterations, shape (n_init,).
    n_iter_
        Iterations of the best start, in all.
    converged_
        Whether the descent ended by tolerance.

    Notes
    -----
    Departures from the paper:

    * β weighs only the representations, so that (12) falls without end when loadings grow and
      representations shrink. The published code divides rows by their length after each solve,
      which breaks the descent. Here the loadings are orthonormal, :math:`\sum_m W^m W^{m\top} = I`
      and :math:`P^m P^{m\top} = I`: any product has such a factorisation (by its QR decomposition),
      so the reconstruction loses nothing, and the best loadings are the solution of an orthogonal
      Procrustes problem: the step is exact.
    * Embeddings are centred and divided by one number each, so that an observation has a mean
      squared norm of 1 in every scale. With λ and δ taken per observation, no setting depends on
      the number of observations or on units.
    * The equation for the centres has no closed solution; they take descending L-BFGS steps.
    * A domain never becomes empty: the labels are the best among those that leave each domain at
      least one observation.
    * Several starts are made and the best is descended to the end; they are k-means++ solutions
      on all representations side by side, on the common one, and on each scale.

    References
    ----------
    Zhang W, Zhang Z, Yang H, et al. m2ST: dual multi-scale graph clustering for spatially resolved
    transcriptomics. Bioinformatics, 2025.

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

    def __init__(
        self,
        n_domains: int,
        params: ClusteringParams | None = None,
        *,
        random_state: int = 0,
    ) -> None:
        self.n_domains = n_domains
        self.params = params
        self.random_state = random_state

    def fit(self, embeddings: Sequence[NDArray[Any]], y: None = None) -> MultiScaleClustering:
        """Find the domains.

        Parameters
        ----------
        embeddings
            One array of shape (n_obs, d_m) per scale, finite.
        y
            Not used; here by scikit-learn's convention.

        Raises
        ------
        ValueError
            If embeddings are missing, not finite, of unequal length, or fewer than `n_domains`.

        Warns
        -----
        ConvergenceWarning
            If the descent reached `max_iter`.
        """
        params = self.params or ClusteringParams()
        scales = _check_embeddings(embeddings)
        n_obs = len(scales[0])
        check_n_domains(self.n_domains, n_obs=n_obs)
        check_int("random_state", self.random_state, minimum=0)
        # One thread: the sums are then the same bits whatever the machine offers.
        with threadpool_limits(1):
            scales = [_standardise(scale) for scale in scales]
            first = _initial_state(scales, self.n_domains, params)
            starts = []
            seeds = np.random.default_rng(self.random_state).integers(2**31, size=params.n_init)
            for start, seed in enumerate(seeds.tolist()):
                labels = _initial_labels(first, self.n_domains, start, seed)
                state = first.with_labels(labels, self.n_domains)
                objective = [_objective(scales, state, params)]
                _descend(scales, state, objective, params, n_iter=params.short_iter)
                starts.append((objective[-1], start, objective, state))
            _, _, objective, state = min(starts)
            converged = _descend(scales, state, objective, params, n_iter=params.max_iter)
        if not converged:
            msg = (
                f"The clustering did not converge in {params.max_iter} iterations "
                "(`max_iter`): its objective still fell by more than `tol`."
            )
            warnings.warn(msg, ConvergenceWarning, stacklevel=2)
        order = np.argsort(-np.bincount(state.labels, minlength=self.n_domains), kind="stable")
        self.labels_ = np.argsort(order, kind="stable")[state.labels]
        self.common_ = state.blocks[-1]
        self.specific_ = state.blocks[:-1]
        self.centers_ = [centers[order] for centers in state.centers]
        self.scale_weights_ = state.weights
        self.objective_ = np.array(objective)
        self.start_objectives_ = np.array([last for last, *_ in starts])
        self.n_iter_ = len(objective) - 1
        self.converged_ = converged
        return self


@dataclass
class _State:
    """All blocks of the objective. `blocks` and `centers` hold the scales and, last, the common."""

    blocks: list[Array]  # H_s^1 .. H_s^M, H_c
    specific_loadings: list[Array]  # P^1 .. P^M
    common_loadings: Array  # [W^1 .. W^M], side by side
    centers: list[Array]  # V^1 .. V^{M+1}
    weights: Array  # α
    labels: NDArray[np.intp]  # U

    def with_labels(self, labels: NDArray[np.intp], n_domains: int) -> _State:
        """Start from these labels: their means as centres, the rest as in this state."""
        return _State(
            blocks=list(self.blocks),
            specific_loadings=list(self.specific_loadings),
            common_loadings=self.common_loadings,
            centers=[_sums(block, labels, n_domains, mean=True) for block in self.blocks],
            weights=self.weights.copy(),
            labels=labels,
        )


def _check_embeddings(embeddings: Sequence[NDArray[Any]]) -> list[Array]:
    """Require at least one finite embedding, all of the same observations."""
    if len(embeddings) == 0:
        msg = "Expected at least one embedding, found none."
        raise ValueError(msg)
    scales = [np.asarray(embedding, dtype=np.float64) for embedding in embeddings]
    for number, scale in enumerate(scales, start=1):
        check_features(scale, name=f"embeddings[{number - 1}]")
    lengths = [len(scale) for scale in scales]
    if len(set(lengths)) > 1:
        msg = f"Expected embeddings of the same observations, found {lengths} rows."
        raise ValueError(msg)
    return scales


def _standardise(scale: Array) -> Array:
    """Centre the columns; divide by one number, so that the mean squared row norm is 1."""
    centred = scale - scale.mean(axis=0)
    size = np.sqrt(np.mean(np.sum(centred**2, axis=1)))
    standard: Array = centred / (size or 1.0)
    return standard


def _initial_state(scales: list[Array], n_domains: int, params: ClusteringParams) -> _State:
    """Common representation by PCA of all scales, specific ones by PCA of what it leaves."""
    stacked = np.concatenate(scales, axis=1)
    width = min(params.common_dim or n_domains, stacked.shape[1])
    loadings = _principal_axes(stacked, width)
    common = stacked @ loadings.T
    rests = np.split(stacked - common @ loadings, np.cumsum([s.shape[1] for s in scales])[:-1], 1)
    axes = [_principal_axes(rest, min(params.specific_dim, rest.shape[1])) for rest in rests]
    blocks = [rest @ axis.T for rest, axis in zip(rests, axes, strict=True)]
    return _State(
        blocks=[*blocks, common],
        specific_loadings=axes,
        common_loadings=loadings,
        centers=[],
        weights=np.full(len(scales) + 1, 1 / (len(scales) + 1)),
        labels=np.empty(0, dtype=np.intp),
    )


def _principal_axes(matrix: Array, n_axes: int) -> Array:
    """First principal axes as orthonormal rows, from the small square of the matrix."""
    _, vectors = linalg.eigh(matrix.T @ matrix)
    axes: Array = vectors[:, ::-1][:, :n_axes].T
    return axes


def _initial_labels(state: _State, n_domains: int, start: int, seed: int) -> NDArray[np.intp]:
    """k-means++ on all representations side by side, the common one, or one scale, in turn."""
    views = [np.concatenate(state.blocks, axis=1), state.blocks[-1], *state.blocks[:-1]]
    view = views[start % len(views)]
    with warnings.catch_warnings():
        # Fewer distinct observations than domains: the spare domains are filled below.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = KMeans(n_domains, n_init=1, random_state=seed).fit_predict(view).astype(np.intp)
    costs = np.ones((len(labels), n_domains))
    costs[np.arange(len(labels)), labels] = 0
    return _best_labels(costs)


def _descend(
    scales: list[Array],
    state: _State,
    objective: list[float],
    params: ClusteringParams,
    *,
    n_iter: int,
) -> bool:
    """Update the blocks in turn, and the history, until the objective settles; whether it did."""
    for _ in range(n_iter):
        _update_representations(scales, state, params)
        _update_centers(state, params)
        costs = _costs(state)
        state.weights = special.softmax(-_kmeans_terms(costs, state.labels) / params.entropy)
        _update_labels(costs, state)
        objective.append(_objective(scales, state, params))
        if objective[-2] - objective[-1] <= params.tol * len(scales):
            return True
    return False


def _update_representations(scales: list[Array], state: _State, params: ClusteringParams) -> None:
    """Minimise over H_s, P, W and H_c, each with the others fixed.

    With orthonormal loadings, the matrix to invert in the paper's updates of H_s and H_c is a
    multiple of the identity, (1 + β + α) I.
    """
    splits = np.cumsum([scale.shape[1] for scale in scales])[:-1]
    for m, (scale, loadings) in enumerate(
        zip(scales, np.split(state.common_loadings, splits, axis=1), strict=True)
    ):
        rest = scale - state.blocks[-1] @ loadings
        state.blocks[m] = _shrink(rest @ state.specific_loadings[m].T, m, state, params)
        state.specific_loadings[m] = _procrustes(state.blocks[m], rest)
    rest = np.concatenate(
        [
            scale - block @ loadings
            for scale, block, loadings in zip(
                scales, state.blocks[:-1], state.specific_loadings, strict=True
            )
        ],
        axis=1,
    )
    state.common_loadings = _procrustes(state.blocks[-1], rest)
    state.blocks[-1] = _shrink(rest @ state.common_loadings.T, len(scales), state, params)


def _shrink(scores: Array, m: int, state: _State, params: ClusteringParams) -> Array:
    """Closed form of a representation: its scores, pulled to zero by β and to the centres by α."""
    weight = state.weights[m]
    shrunk: Array = (scores + weight * state.centers[m][state.labels]) / (1 + params.ridge + weight)
    return shrunk


def _procrustes(block: Array, rest: Array) -> Array:
    """Orthonormal rows L that minimise ‖rest - block L‖."""
    left, _, right = linalg.svd(block.T @ rest, full_matrices=False)
    loadings: Array = left @ right
    return loadings


def _update_centers(state: _State, params: ClusteringParams) -> None:
    """Descend α/N ‖H - U V‖² + λ ‖V Vᵀ - I‖² in each V."""
    n_obs, n_domains = len(state.labels), len(state.centers[0])
    sizes = np.bincount(state.labels, minlength=n_domains)[:, None] / n_obs
    identity = np.eye(n_domains)
    for m, block in enumerate(state.blocks):
        weight = state.weights[m]
        sums = _sums(block, state.labels, n_domains) / n_obs
        shape = state.centers[m].shape

        def value_and_gradient(
            flat: Array,
            weight: float = weight,
            sums: Array = sums,
            shape: tuple[int, ...] = shape,
        ) -> tuple[float, Array]:
            centers = flat.reshape(shape)
            excess = centers @ centers.T - identity
            pull = sizes * centers - sums
            value = weight * np.sum(centers * (pull - sums)) + params.orthogonality * np.sum(
                excess**2
            )
            gradient = 2 * weight * pull + 4 * params.orthogonality * (excess @ centers)
            return float(value), gradient.ravel()

        flat = state.centers[m].ravel()
        found = optimize.minimize(
            value_and_gradient, flat, jac=True, method="L-BFGS-B", options={"maxiter": 10}
        )
        if found.fun <= value_and_gradient(flat)[0]:
            state.centers[m] = found.x.reshape(shape)


def _update_labels(costs: list[Array], state: _State) -> None:
    """Give each observation the domain of least weighted cost; no domain is left empty."""
    total = np.tensordot(state.weights, np.stack(costs), axes=1)
    labels = _best_labels(total)
    rows = np.arange(len(labels))
    if total[rows, labels].sum() <= total[rows, state.labels].sum():
        state.labels = labels


def _best_labels(costs: Array) -> NDArray[np.intp]:
    """Least cost per row; an empty column takes the row that loses least by moving to it."""
    labels: NDArray[np.intp] = costs.argmin(axis=1)
    rows = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=costs.shape[1])
    for empty in np.flatnonzero(sizes == 0):
        regret = costs[:, empty] - costs[rows, labels]
        regret[sizes[labels] == 1] = np.inf
        moved = regret.argmin()
        sizes[labels[moved]] -= 1
        labels[moved] = empty
        sizes[empty] = 1
    return labels


def _sums(block: Array, labels: NDArray[np.intp], n_domains: int, *, mean: bool = False) -> Array:
    """Sum, or mean, of the rows of each domain."""
    sums: Array = np.stack(
        [np.bincount(labels, weights=column, minlength=n_domains) for column in block.T], axis=1
    )
    if mean:
        sums /= np.bincount(labels, minlength=n_domains)[:, None]
    return sums


def _costs(state: _State) -> list[Array]:
    """Squared distance of each observation to each centre, per representation."""
    return [
        np.maximum(
            np.sum(block**2, axis=1)[:, None]
            - 2 * block @ centers.T
            + np.sum(centers**2, axis=1)[None, :],
            0,
        )
        for block, centers in zip(state.blocks, state.centers, strict=True)
    ]


def _kmeans_terms(costs: list[Array], labels: NDArray[np.intp]) -> Array:
    """Mean squared distance to the own centre, per representation."""
    rows = np.arange(len(labels))
    return np.array([cost[rows, labels].mean() for cost in costs])


def _objective(scales: list[Array], state: _State, params: ClusteringParams) -> float:
    """Objective (12) per observation."""
    n_obs = len(state.labels)
    splits = np.cumsum([scale.shape[1] for scale in scales])[:-1]
    fit = sum(
        np.sum((scale - state.blocks[-1] @ common - block @ loadings) ** 2)
        for scale, common, block, loadings in zip(
            scales,
            np.split(state.common_loadings, splits, axis=1),
            state.blocks[:-1],
            state.specific_loadings,
            strict=True,
        )
    )
    norms = sum(np.sum(block**2) for block in state.blocks)
    spread = state.weights @ _kmeans_terms(_costs(state), state.labels)
    excess = sum(np.sum((v @ v.T - np.eye(len(v))) ** 2) for v in state.centers)
    return float(
        (fit + params.ridge * norms) / n_obs
        + spread
        + params.orthogonality * excess
        - params.entropy * np.sum(special.entr(state.weights))
    )
