"""Entropy-weighted multi-scale clustering (paper, part B).

=========  ==========================================  ==================  =======================
symbol     meaning                                     shape here          outside name
=========  ==========================================  ==================  =======================
H^m        embedding of scale m, centred and scaled    (n_obs, d_m)        ``embeddings``
H_c        representation common to all scales         (n_obs, d_c)        ``common_``
H_s^m      representation specific to scale m          (n_obs, d_s)        ``specific_``
W^m, P^m   loadings of the common, the specific one    (d_c|d_s, d_m)      --
U          membership of each observation              (n_obs, n_domains)  ``memberships_``
V^m        centres of the domains                      (n_domains, d)      ``centers_``
Σ^m        covariance that all domains share           (d, d)              ``covariances_``
α^m        weight of a scale; the last is the common   (M + 1,)            ``scale_weights_``
δ          entropy of the weights                      --                  ``entropy``
η          smoothness of the domains in space          --                  ``smoothness``
ν          degrees of freedom                          --                  ``freedom``
=========  ==========================================  ==================  =======================

Representations are stored by observation, the transpose of the paper's.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse, special
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from threadpoolctl import threadpool_limits

from m2st._checks import check_adjacency, check_features, check_int, check_n_domains
from m2st._params import ClusteringParams

Array = NDArray[np.float64]

# The covariance leans on a round one, of the mean variance of a direction, with the weight of so
# many observations, or of so large a share of them if that is more.
_PRIOR, _FLOOR = 10, 1e-3
# Steps over which the domains are smooth. Even: the matrix of the walk is then positive
# semi-definite, which the descent rests on.
_HOPS = 4
# Hierarchical clusterings start from a sample of this size, so that starts are linear in n_obs.
_SAMPLE = 800
# Starts are compared, and the best is followed to its end, on no more observations than this. It is
# then close to where all of them lead.
_START_SAMPLE = 20_000
# Rows of embeddings in double precision at a time.
_CHUNK = 65_536


class MultiScaleClustering(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    r"""Cluster several embeddings of the same observations together.

    The embeddings are split into a representation that is common to all scales and one that is
    specific to each, :math:`H^m = H_c W^m + H_s^m P^m` with orthonormal loadings, by principal
    components: the least squares of the first term of the paper's objective (12). With these blocks
    :math:`X^1, \dots, X^M = H_s^1, \dots, H_s^M` and :math:`X^{M+1} = H_c`, and memberships
    :math:`u_{ik} \ge 0`, :math:`\sum_k u_{ik} = 1`, it minimises

    .. math::
        \sum_{m=1}^{M+1} \alpha^m \Big[ \tfrac1N \sum_{ik} u_{ik}\, \rho_m(x_i^m - v_k^m)
        - \rho_m^0 \Big]
        + \tfrac1N \sum_{ik} u_{ik} \ln u_{ik}
        + \delta \sum_m \alpha^m \ln \alpha^m
        - \tfrac{\eta}{2N} \sum_{ijk} u_{ik} S_{ij} u_{jk},

    .. math::
        \rho_m(r) = \tfrac{\nu + d_m}{2} \ln\!\big(1 + r^\top (\Sigma^m)^{-1} r / \nu\big)
        + \tfrac12 \ln \lvert \Sigma^m \rvert,

    by updates of one block of unknowns after the other, none of which raises it. :math:`\rho_m^0`
    is the same for a single domain, so that a scale counts by how much the domains explain of it;
    :math:`S` is a walk of four steps over the spatial graph.

    It assumes domains that differ in their centres and share the shape of the scatter around them.

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
    memberships_
        Membership of each observation in each domain, shape (n_obs, C), rows sum to 1.
    common_
        Common representation, shape (n_obs, d_c).
    specific_
        Specific representation of each scale, shape (n_obs, d_s) each.
    centers_
        Centres of the domains, of each scale and, last, of the common representation.
    covariances_
        Covariance that the domains share, in the same order.
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
    Departures from the paper, each with the measurement that decided it in
    ``benchmarks/NOTEBOOK.md``:

    * **A covariance shared by the domains.** The k-means terms of (12) assume round domains: they
      cut the tissue along the direction of the largest scatter, even where that is scatter within
      domains.
    * **Heavy tails.** Distances grow with the logarithm (a t distribution), so that outlying
      observations neither pull centres nor take a domain for themselves.
    * **Memberships with an entropy** instead of one-hot columns: the limit of many small steps is
      the same labels, from far fewer poor local minima.
    * **Scale weights by what the domains explain.** In (12) the weights favour a scale with little
      variance, signal or not. Here a scale without domains has the cost 0, others less.
    * **Smoothness in space** enters once the best start has settled; earlier it would keep the
      labels of the start.
    * **Representations do not move with the labels.** In (12) they are pulled to the centres, which
      confirms the labels of any start, and the objective falls without end when loadings grow and
      representations shrink. The ridge β multiplies a representation by a number, to which
      distances in units of the covariance are blind; near-orthogonal centres (λ) have no meaning in
      such units. Both are left out.
    * A domain never becomes empty: at the end one without a first place takes the observation that
      loses least.

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

    def fit(
        self,
        embeddings: Sequence[NDArray[Any]],
        y: None = None,
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> MultiScaleClustering:
        """Find the domains.

        Parameters
        ----------
        embeddings
            One array of shape (n_obs, d_m) per scale, finite.
        y
            Not used; here by scikit-learn's convention.
        connectivities
            Symmetric spatial graph of shape (n_obs, n_obs), weights ignored; without it the domains
            need not be smooth.

        Raises
        ------
        ValueError
            If embeddings are missing, not finite, of unequal length, or fewer than `n_domains`; if
            the graph does not fit.

        Warns
        -----
        ConvergenceWarning
            If the descent reached `max_iter`.
        """
        scales = _check_embeddings(embeddings)
        n_obs = len(scales[0])
        check_n_domains(self.n_domains, n_obs=n_obs)
        params = (self.params or ClusteringParams()).for_domains(self.n_domains)
        check_int("random_state", self.random_state, minimum=0)
        walk = None if connectivities is None else _walk(connectivities, n_obs)
        # One thread: the sums are then the same bits whatever the machine offers.
        with threadpool_limits(1):
            self._factors = _factorise(scales, params)
            blocks = self._factors.project(scales)
            rng = np.random.default_rng(self.random_state)
            seeds = rng.integers(2**31, size=params.n_init).tolist()
            rows = self._sample(n_obs)
            sample = [block[rows] for block in blocks]
            starts = [
                _initial_labels(sample[-1], self.n_domains, start, seed)
                for start, seed in enumerate(seeds)
            ]
            states, histories = _descents(
                sample, starts, self.n_domains, params, n_iter=params.short_iter
            )
            self.start_objectives_ = np.array([history[-1] for history in histories])
            best = int(self.start_objectives_.argmin())
            _descend(sample, states[best], histories[best], params, n_iter=params.max_iter)
            self._settle(blocks, sample, states[best], histories[best], walk)
        if not self.converged_:
            msg = (
                f"The clustering did not converge in {params.max_iter} iterations "
                "(`max_iter`): its objective still fell by more than `tol`."
            )
            warnings.warn(msg, ConvergenceWarning, stacklevel=2)
        return self

    def improve(
        self,
        starts: Sequence[NDArray[np.intp]],
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> MultiScaleClustering:
        """Start once more from other labels, in place; what has the lowest objective stays.

        Parameters
        ----------
        starts
            Labels 0 to C - 1 of shape (n_obs,) each, such as those of clusterings of other
            embeddings of the same observations: an optimum that they found and this one missed.
        connectivities
            The spatial graph, as in `fit`.

        Returns
        -------
        The clustering itself.

        Raises
        ------
        NotFittedError
            If `fit` has not run.
        """
        self._check_fitted()
        params = self.params or ClusteringParams()
        blocks = [*self.specific_, self.common_]
        rows = self._sample(len(self.labels_))
        walk = None if connectivities is None else _walk(connectivities, len(self.labels_))
        with threadpool_limits(1):
            sample = [block[rows] for block in blocks]
            states, histories = _descents(
                sample,
                [labels[rows] for labels in (self.labels_, *starts)],
                self.n_domains,
                params,
                n_iter=params.max_iter,
            )
            best = int(np.argmin([history[-1] for history in histories]))
            if histories[0][-1] - histories[best][-1] > params.tol:
                other = copy(self)
                other._settle(blocks, sample, states[best], histories[best], walk)
                if other.objective_[-1] < self.objective_[-1]:
                    self.__dict__.update(other.__dict__)
        return self

    def _sample(self, n_obs: int) -> slice | NDArray[np.intp]:
        """Observations on which starts are compared."""
        if n_obs <= _START_SAMPLE:
            return slice(None)
        rng = np.random.default_rng(self.random_state)
        return np.sort(rng.choice(n_obs, _START_SAMPLE, replace=False))

    def _settle(
        self,
        blocks: list[Array],
        sample: list[Array],
        state: _State,
        objective: list[float],
        walk: sparse.csr_matrix | None,
    ) -> None:
        """Descend from a state of the sample to the end, on all observations, and keep it."""
        params = self.params or ClusteringParams()
        if len(sample[-1]) < len(blocks[-1]):
            state = _State.settled(blocks, state, params)
            objective = [state.objective(params)]
        converged = _descend(blocks, state, objective, params, n_iter=params.max_iter)
        if walk is not None and params.smoothness > 0:
            state.walk = walk
            objective.append(state.objective(params))
            converged = _descend(blocks, state, objective, params, n_iter=params.max_iter)
        self.labels_ = filled_labels(state.memberships)
        self.memberships_ = state.memberships
        self.common_ = blocks[-1]
        self.specific_ = blocks[:-1]
        self.centers_ = [block.centers for block in state.mixtures]
        self.covariances_ = [block.covariance for block in state.mixtures]
        self.scale_weights_ = state.weights
        self.objective_ = np.array(objective)
        self.n_iter_ = len(objective) - 1
        self.converged_ = converged
        sizes = np.bincount(self.labels_, minlength=self.n_domains)
        self.reorder(np.argsort(-sizes, kind="stable"))

    def _check_fitted(self) -> None:
        if not hasattr(self, "_factors"):
            msg = "Expected a fitted clustering. Run `fit` first."
            raise NotFittedError(msg)

    def reorder(self, order: NDArray[np.intp]) -> MultiScaleClustering:
        """Number the domains anew, in place.

        Parameters
        ----------
        order
            For each new number the present one, shape (n_domains,).

        Returns
        -------
        The clustering itself.
        """
        self.labels_ = np.argsort(order, kind="stable")[self.labels_]
        self.memberships_ = self.memberships_[:, order]
        self.centers_ = [centers[order] for centers in self.centers_]
        return self

    def predict_memberships(
        self,
        embeddings: Sequence[NDArray[Any]],
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> Array:
        """Memberships of other observations in the domains that were found.

        Parameters
        ----------
        embeddings
            One array of shape (n_obs, d_m) per scale, from the model of the fitted ones.
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
            If the embeddings do not fit those of `fit`.
        """
        self._check_fitted()
        params = self.params or ClusteringParams()
        scales = _check_embeddings(embeddings)
        widths = [scale.shape[1] for scale in scales]
        expected = [len(mean) for mean in self._factors.means]
        if widths != expected:
            msg = f"Expected embeddings of widths {expected}, found {widths}."
            raise ValueError(msg)
        with threadpool_limits(1):
            cost = sum(
                weight * _cost(_distances(block, centers, covariance), covariance, params)
                for weight, block, centers, covariance in zip(
                    self.scale_weights_,
                    self._factors.project(scales),
                    self.centers_,
                    self.covariances_,
                    strict=True,
                )
            )
            memberships: Array = special.softmax(-cost, axis=1)
            if connectivities is not None and params.smoothness > 0:
                walk = _walk(connectivities, len(memberships))
                for _ in range(params.max_iter):
                    before = memberships
                    memberships = special.softmax(
                        params.smoothness * _walked(walk, before) - cost, axis=1
                    )
                    if np.abs(memberships - before).mean() <= params.tol:
                        break
        return memberships


def common_representation(embeddings: Sequence[NDArray[Any]], params: ClusteringParams) -> Array:
    """Representation common to all embeddings, as `MultiScaleClustering` finds it.

    Parameters
    ----------
    embeddings
        One array of shape (n_obs, d_m) per scale, finite.
    params
        For `common_dim`, which has to be set.

    Returns
    -------
    Shape (n_obs, d_c).
    """
    scales = _check_embeddings(embeddings)
    with threadpool_limits(1):
        return _factorise(scales, params).project(scales)[-1]


@dataclass
class _Factors:
    """Split of embeddings into specific representations and, last, the common one."""

    means: list[Array]
    loadings: list[Array]  # of each representation, on all scales side by side

    def project(self, scales: list[NDArray[Any]]) -> list[Array]:
        """Representations of observations."""
        together = np.concatenate(self.loadings, axis=1)
        n_obs = len(scales[0])
        found = np.empty((n_obs, together.shape[1]))
        for rows in _chunks(n_obs):
            found[rows] = _side_by_side(scales, self.means, rows) @ together
        ends = np.cumsum([loading.shape[1] for loading in self.loadings])[:-1]
        return [np.ascontiguousarray(block) for block in np.split(found, ends, axis=1)]


def _factorise(scales: list[NDArray[Any]], params: ClusteringParams) -> _Factors:
    """Common representation by PCA of all scales, specific ones by PCA of what it leaves.

    Embeddings are centred and divided by one number each, so that an observation has a mean squared
    norm of 1 in every scale and no setting depends on units. All of it follows from the scatter of
    all scales side by side, a small matrix.
    """
    means = [scale.mean(axis=0, dtype=np.float64) for scale in scales]
    width = sum(len(mean) for mean in means)
    scatter = np.zeros((width, width))
    for rows in _chunks(len(scales[0])):
        part = _side_by_side(scales, means, rows)
        scatter += part.T @ part
    ends = np.cumsum([len(mean) for mean in means])[:-1]
    columns = np.split(np.arange(width), ends)
    units = np.empty(width)
    for own in columns:
        units[own] = np.sqrt(np.trace(scatter[np.ix_(own, own)]) / len(scales[0])) or 1.0
    scatter /= np.outer(units, units)
    common = _principal_axes(scatter, cast("int", params.common_dim))
    loadings = []
    for own in columns:
        rest = np.eye(width)[:, own] - common @ common[own].T
        loadings.append(rest @ _principal_axes(rest.T @ scatter @ rest, params.specific_dim))
    return _Factors(means, [loading / units[:, None] for loading in [*loadings, common]])


def _chunks(n_obs: int) -> list[slice]:
    """Rows to convert and multiply at a time."""
    return [slice(start, start + _CHUNK) for start in range(0, n_obs, _CHUNK)]


def _side_by_side(scales: list[NDArray[Any]], means: list[Array], rows: slice) -> Array:
    """Some rows of all scales, centred."""
    parts = [scale[rows] - mean for scale, mean in zip(scales, means, strict=True)]
    return np.concatenate(parts, axis=1)


def _principal_axes(scatter: Array, n_axes: int) -> Array:
    """First principal axes of a scatter matrix, as orthonormal columns."""
    _, vectors = linalg.eigh(scatter)
    axes: Array = vectors[:, ::-1][:, :n_axes]
    return axes


@dataclass
class _Mixture:
    """Centres and shared covariance of one representation, and what a single domain costs."""

    centers: Array
    covariance: Array
    floor: float
    null: float

    def update(self, block: Array, memberships: Array, distances: Array, freedom: float) -> None:
        """Majorise the logarithm at the current distances; its minimum is a weighted mean."""
        n_obs, width = block.shape
        pull = memberships * (freedom + width) / (freedom + distances)
        mass = pull.sum(axis=0)
        # A domain without any mass keeps its centre.
        self.centers = np.where(
            mass[:, None] > 0, pull.T @ block / np.maximum(mass, 1e-300)[:, None], self.centers
        )
        scatter = (block * pull.sum(axis=1)[:, None]).T @ block
        scatter -= (self.centers * mass[:, None]).T @ self.centers
        self.covariance = scatter / n_obs + self.floor * np.eye(width)

    def term(self, memberships: Array, cost: Array) -> float:
        """Mean cost of the memberships, above that of a single domain."""
        return float(np.sum(memberships * cost) / len(cost) + self.penalty() - self.null)

    def penalty(self) -> float:
        """Keep every direction's variance above the floor: ½ floor tr Σ⁻¹."""
        return float(0.5 * self.floor * np.trace(linalg.inv(self.covariance)))


@dataclass
class _State:
    """All unknowns of the objective, and the distances, costs and terms that go with them."""

    memberships: Array  # U
    mixtures: list[_Mixture]  # V, Σ of the specific representations and, last, the common
    weights: Array  # α
    distances: list[Array] = field(init=False)
    costs: list[Array] = field(init=False)
    terms: Array = field(init=False)  # cost of each scale above that of a single domain
    walk: sparse.csr_matrix | None = None

    @classmethod
    def start(
        cls,
        blocks: list[Array],
        nulls: list[float],
        labels: NDArray[np.intp],
        n_domains: int,
        params: ClusteringParams,
    ) -> _State:
        """Start from labels: their means, the scatter around these, equal weights."""
        memberships = np.eye(n_domains)[labels]
        mixtures = []
        for block, null in zip(blocks, nulls, strict=True):
            covariance, floor = _total(block)
            width = block.shape[1]
            mixture = _Mixture(np.zeros((n_domains, width)), covariance, floor, null)
            # At this distance, the mean under a normal distribution, everybody counts as one.
            mixture.update(block, memberships, np.full_like(memberships, width), params.freedom)
            mixtures.append(mixture)
        weights = np.full(len(blocks), 1 / len(blocks))
        state = cls(memberships, mixtures, weights)
        state.measure(blocks, params)
        state.appraise()
        state.reweigh(params)
        return state

    @classmethod
    def settled(cls, blocks: list[Array], sample: _State, params: ClusteringParams) -> _State:
        """Start from what was found on a sample of the observations."""
        mixtures = [
            replace(mixture, floor=_total(block)[1], null=_null(block, params))
            for block, mixture in zip(blocks, sample.mixtures, strict=True)
        ]
        state = cls(np.empty(0), mixtures, sample.weights)
        state.measure(blocks, params)
        state.memberships = state.expected()
        state.appraise()
        return state

    def expected(self, pull: Array | float = 0.0) -> Array:
        """Memberships that the costs ask for, and a pull towards domains."""
        score = pull - sum(
            weight * cost for weight, cost in zip(self.weights, self.costs, strict=True)
        )
        memberships: Array = special.softmax(score, axis=1)
        return memberships

    def measure(self, blocks: list[Array], params: ClusteringParams) -> None:
        """Distances and costs at the current centres and covariances."""
        self.distances = [
            _distances(block, mixture.centers, mixture.covariance)
            for block, mixture in zip(blocks, self.mixtures, strict=True)
        ]
        self.costs = [
            _cost(distances, mixture.covariance, params)
            for distances, mixture in zip(self.distances, self.mixtures, strict=True)
        ]

    def appraise(self) -> None:
        """Terms of the current memberships and costs."""
        self.terms = np.array(
            [
                mixture.term(self.memberships, cost)
                for mixture, cost in zip(self.mixtures, self.costs, strict=True)
            ]
        )

    def reweigh(self, params: ClusteringParams) -> None:
        """α ∝ exp(-term / δ), the paper's update."""
        self.weights = special.softmax(-self.terms / params.entropy)

    def objective(self, params: ClusteringParams) -> float:
        """The objective, per observation."""
        entropy = np.sum(special.entr(self.memberships)) / len(self.memberships)
        value = self.weights @ self.terms - entropy
        value -= params.entropy * np.sum(special.entr(self.weights))
        if self.walk is not None:
            agreement = np.sum(self.memberships * _walked(self.walk, self.memberships))
            value -= 0.5 * params.smoothness * agreement / len(self.memberships)
        return float(value)


def _descents(
    blocks: list[Array],
    starts: Sequence[NDArray[np.intp]],
    n_domains: int,
    params: ClusteringParams,
    *,
    n_iter: int,
) -> tuple[list[_State], list[list[float]]]:
    """Descend from each of some labels, without smoothness: states, and their objectives."""
    nulls = [_null(block, params) for block in blocks]
    states = [_State.start(blocks, nulls, labels, n_domains, params) for labels in starts]
    histories = [[state.objective(params)] for state in states]
    for state, history in zip(states, histories, strict=True):
        _descend(blocks, state, history, params, n_iter=n_iter)
    return states, histories


def _descend(
    blocks: list[Array],
    state: _State,
    objective: list[float],
    params: ClusteringParams,
    *,
    n_iter: int,
) -> bool:
    """Update the unknowns in turn, and the history, until the objective settles; whether it did."""
    for _ in range(n_iter):
        pull: Array | float = 0.0
        if state.walk is not None:  # linear bound of the convex term at the current memberships
            pull = params.smoothness * _walked(state.walk, state.memberships)
        state.memberships = state.expected(pull)
        for block, mixture, distances in zip(blocks, state.mixtures, state.distances, strict=True):
            mixture.update(block, state.memberships, distances, params.freedom)
        state.measure(blocks, params)
        state.appraise()
        state.reweigh(params)
        objective.append(state.objective(params))
        if objective[-2] - objective[-1] <= params.tol:
            return True
    return False


def _distances(block: Array, centers: Array, covariance: Array) -> Array:
    """Squared distance of each observation to each centre, in units of the covariance."""
    root = linalg.cholesky(covariance, lower=True)
    whitened = linalg.solve_triangular(root, np.concatenate([block, centers]).T, lower=True).T
    points, means = whitened[: len(block)], whitened[len(block) :]
    squares = np.sum(points**2, axis=1)[:, None] - 2 * points @ means.T + np.sum(means**2, axis=1)
    distances: Array = np.maximum(squares, 0)
    return distances


def _cost(distances: Array, covariance: Array, params: ClusteringParams) -> Array:
    """ρ of each observation and domain."""
    width = len(covariance)
    tails = 0.5 * (params.freedom + width) * np.log1p(distances / params.freedom)
    cost: Array = tails + 0.5 * np.linalg.slogdet(covariance)[1]
    return cost


def _total(block: Array) -> tuple[Array, float]:
    """Covariance of all observations, and the floor of a variance within domains."""
    width = block.shape[1]
    centred = block - block.mean(axis=0)
    covariance = centred.T @ centred / len(block)
    floor = max(_FLOOR, _PRIOR / len(block)) * (float(np.trace(covariance)) / width or 1.0)
    return covariance + floor * np.eye(width), floor


def _null(block: Array, params: ClusteringParams) -> float:
    """Least cost of the representation with a single domain."""
    memberships = np.ones((len(block), 1))
    mixture = _Mixture(block.mean(axis=0)[None], *_total(block), 0.0)
    terms = [np.inf]
    for _ in range(params.max_iter):
        distances = _distances(block, mixture.centers, mixture.covariance)
        terms.append(mixture.term(memberships, _cost(distances, mixture.covariance, params)))
        if terms[-2] - terms[-1] <= params.tol:
            break
        mixture.update(block, memberships, distances, params.freedom)
    return terms[-1]


def _walk(connectivities: sparse.spmatrix, n_obs: int) -> sparse.csr_matrix:
    """One symmetric step over the graph with self-loops: D^-½ (A + I) D^-½."""
    check_adjacency(connectivities, n_obs=n_obs)
    links = sparse.csr_matrix(connectivities, dtype=np.float64, copy=True)
    links.setdiag(0)
    links.eliminate_zeros()
    links.data[:] = 1
    links = sparse.csr_matrix(links + sparse.identity(n_obs, format="csr"))
    root = sparse.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    return sparse.csr_matrix(root @ links @ root)


def _walked(walk: sparse.csr_matrix, memberships: Array) -> Array:
    """Memberships after the whole walk."""
    for _ in range(_HOPS):
        memberships = walk @ memberships
    return memberships


def _initial_labels(common: Array, n_domains: int, start: int, seed: int) -> NDArray[np.intp]:
    """k-means or Ward's clustering of the common representation under one of three metrics.

    Its directions as they are, of equal variance, and between the two: which of them shows the
    domains differs from tissue to tissue.
    """
    deviations = common.std(axis=0)
    deviations[deviations == 0] = 1
    view = common / deviations ** (0.0, 0.5, 1.0)[start % 3]
    rng = np.random.default_rng(seed)
    if start % 2 and len(common) > 2 * n_domains:
        n_sampled = max(2 * n_domains, min(_SAMPLE, round(0.8 * len(common))))
        sample = view[rng.choice(len(view), n_sampled, replace=False)]
        labels = AgglomerativeClustering(n_domains).fit_predict(sample)
        centers = np.stack([sample[labels == k].mean(axis=0) for k in range(n_domains)])
        nearest = np.sum(centers**2, axis=1) - 2 * view @ centers.T
        return np.asarray(nearest.argmin(axis=1))
    with warnings.catch_warnings():
        # Fewer distinct observations than domains: the spare domains are filled at the end.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return np.asarray(KMeans(n_domains, n_init=1, random_state=seed).fit_predict(view))


def filled_labels(memberships: Array) -> NDArray[np.intp]:
    """Domain of the largest membership; an empty one takes the row that loses least."""
    labels: NDArray[np.intp] = memberships.argmax(axis=1)
    rows = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=memberships.shape[1])
    for empty in np.flatnonzero(sizes == 0):
        regret = memberships[rows, labels] - memberships[:, empty]
        regret[sizes[labels] == 1] = np.inf
        moved = regret.argmin()
        sizes[labels[moved]] -= 1
        labels[moved] = empty
        sizes[empty] = 1
    return labels


def _check_embeddings(embeddings: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Require at least one finite embedding, all of the same observations."""
    if len(embeddings) == 0:
        msg = "Expected at least one embedding, found none."
        raise ValueError(msg)
    scales = [np.asarray(embedding) for embedding in embeddings]
    for number, scale in enumerate(scales, start=1):
        check_features(scale, name=f"embeddings[{number - 1}]")
    lengths = [len(scale) for scale in scales]
    if len(set(lengths)) > 1:
        msg = f"Expected embeddings of the same observations, found {lengths} rows."
        raise ValueError(msg)
    return scales
