"""The mixture of normal or t distributions that share a covariance, and its descent."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse, special
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning

from m2st._checks import check_adjacency
from m2st._clustering._representation import row_slices
from m2st._params import ClusteringParams

Array = NDArray[np.float64]

# The covariance leans on a round one, of the mean variance of a direction, with the weight of so
# many observations, or of so large a share of them if that is more.
_PRIOR, _FLOOR = 10, 1e-3
# Steps over which the domains are smooth. Even: that power of the adjacency is then positive
# semi-definite, which the descent rests on.
_HOPS = 4
# Hierarchical clusterings start from a sample of this size, so that starts are linear in n_obs.
_SAMPLE = 800
# Rows of which all columns fit into a cache together, and the most columns to work on like that.
_CACHED, _LONG_ROW = 8192, 16
# Rows to bring to units of the covariance at a time.
_CHUNK = 65_536


@dataclass
class Mixture:
    """Centres and shared covariance of one representation, and what a single domain costs."""

    centers: Array
    covariance: Array
    floor: float
    null: float

    def m_step(
        self, block: Array, responsibilities: Array, distances: Array | None, freedom: float | None
    ) -> None:
        """Move to the minimum: a weighted mean, of t distributions that of a majorant."""
        n_obs, width = block.shape
        pull = responsibilities
        # The logarithm is majorised at the current distances.
        if freedom is not None and distances is not None:
            pull = responsibilities * (freedom + width) / (freedom + distances)
        mass = pull.sum(axis=0)
        # A domain without any mass keeps its centre.
        self.centers = np.where(
            mass[:, None] > 0, pull.T @ block / np.maximum(mass, 1e-300)[:, None], self.centers
        )
        scatter = (block * row_sums(pull)[:, None]).T @ block
        scatter -= (self.centers * mass[:, None]).T @ self.centers
        self.covariance = scatter / n_obs + self.floor * np.eye(width)

    def term(self, responsibilities: Array, cost: Array) -> float:
        """Mean cost of the responsibilities, above that of a single domain."""
        return float(np.sum(responsibilities * cost) / len(cost) + self.penalty() - self.null)

    def penalty(self) -> float:
        """Keep every direction's variance above the floor: ½ floor tr Σ⁻¹."""
        return float(0.5 * self.floor * np.trace(linalg.inv(self.covariance)))


@dataclass
class State:
    """All unknowns of the objective, and the distances, costs and terms that go with them."""

    responsibilities: Array  # U
    mixtures: list[Mixture]  # V, Σ of the specific representations and, last, the common
    weights: Array  # α
    shares: Array  # π of the domains, times their number: 1 each where they are equal
    distances: list[Array | None] = field(init=False)  # of t distributions only
    costs: list[Array] = field(init=False)
    terms: Array = field(init=False)  # cost of each scale above that of a single domain
    adjacency: sparse.csr_matrix | None = None

    @classmethod
    def start(
        cls,
        blocks: list[Array],
        nulls: list[float],
        responsibilities: Array,
        params: ClusteringParams,
    ) -> State:
        """Start from responsibilities: their means, the scatter around these, equal weights."""
        n_domains = responsibilities.shape[1]
        mixtures = []
        for block, null in zip(blocks, nulls, strict=True):
            covariance, floor = _total(block)
            width = block.shape[1]
            mixture = Mixture(np.zeros((n_domains, width)), covariance, floor, null)
            # At this distance, the mean under a normal distribution, everybody counts as one.
            mixture.m_step(
                block,
                responsibilities,
                np.full_like(responsibilities, width),
                params.degrees_of_freedom,
            )
            mixtures.append(mixture)
        weights = np.full(len(blocks), 1 / len(blocks))
        state = cls(responsibilities, mixtures, weights, np.ones(n_domains))
        state.update_shares(params)
        state.update_costs(blocks, params)
        state.update_terms()
        state.update_weights(params)
        return state

    @classmethod
    def from_sample(cls, blocks: list[Array], sample: State, params: ClusteringParams) -> State:
        """Start from what was found on a sample of the observations."""
        mixtures = [
            replace(mixture, floor=_total(block)[1], null=null_cost(block, params))
            for block, mixture in zip(blocks, sample.mixtures, strict=True)
        ]
        state = cls(np.empty(0), mixtures, sample.weights, sample.shares)
        state.update_costs(blocks, params)
        state.responsibilities = state.e_step()
        state.update_terms()
        return state

    def e_step(self, pull: Array | float = 0.0) -> Array:
        """Responsibilities that the costs ask for, and a pull towards domains."""
        score = self.weights[0] * self.costs[0]
        for weight, cost in zip(self.weights[1:], self.costs[1:], strict=True):
            score += weight * cost
        np.subtract(pull + np.log(self.shares), score, out=score)
        return softmax(score)

    def update_shares(self, params: ClusteringParams) -> None:
        """Set π to the sizes of the domains, drawn towards equal ones."""
        if params.equal_sizes is None:
            return
        sizes = self.responsibilities.mean(axis=0) * len(self.shares)
        self.shares = (sizes + params.equal_sizes) / (1 + params.equal_sizes)

    def update_costs(self, blocks: list[Array], params: ClusteringParams) -> None:
        """Distances and costs at the current centres and covariances."""
        # The present ones make room first: with many observations they are the largest arrays.
        self.distances, self.costs = [], []
        for block, mixture in zip(blocks, self.mixtures, strict=True):
            distances = squared_distances(block, mixture.centers, mixture.covariance)
            self.costs.append(robust_cost(distances, mixture.covariance, params))
            self.distances.append(None if params.degrees_of_freedom is None else distances)

    def update_terms(self) -> None:
        """Terms of the current responsibilities and costs."""
        self.terms = np.array(
            [
                mixture.term(self.responsibilities, cost)
                for mixture, cost in zip(self.mixtures, self.costs, strict=True)
            ]
        )

    def update_weights(self, params: ClusteringParams) -> None:
        """α ∝ exp(-term / δ), the paper's update."""
        self.weights = special.softmax(-self.terms / params.weight_entropy)

    def objective(self, params: ClusteringParams) -> float:
        """The objective, per observation."""
        entropy = np.sum(special.entr(self.responsibilities)) / len(self.responsibilities)
        value = self.weights @ self.terms - entropy
        if params.equal_sizes is not None:
            logarithms = np.log(self.shares)
            value -= self.responsibilities.mean(axis=0) @ logarithms
            value -= params.equal_sizes * logarithms.mean()
        value -= params.weight_entropy * np.sum(special.entr(self.weights))
        if self.adjacency is not None:
            agreement = np.sum(
                self.responsibilities * propagate(self.adjacency, self.responsibilities)
            )
            value -= 0.5 * params.smoothness * agreement / len(self.responsibilities)
        return float(value)


def descents(
    blocks: list[Array],
    starts: Iterable[Array],
    params: ClusteringParams,
    *,
    n_iter: int,
) -> Iterator[tuple[State, list[float]]]:
    """Descend from each of some responsibilities, without smoothness; state, and objectives."""
    nulls = [null_cost(block, params) for block in blocks]
    for start in starts:
        state = State.start(blocks, nulls, start, params)
        history = [state.objective(params)]
        descend(blocks, state, history, params, n_iter=n_iter)
        yield state, history


def descend(
    blocks: list[Array],
    state: State,
    objective: list[float],
    params: ClusteringParams,
    *,
    n_iter: int,
) -> bool:
    """Update the unknowns in turn, and the history; whether the objective converged."""
    for _ in range(n_iter):
        pull: Array | float = 0.0
        if state.adjacency is not None:  # linear bound of the convex term
            pull = params.smoothness * propagate(state.adjacency, state.responsibilities)
        state.responsibilities = state.e_step(pull)
        for block, mixture, distances in zip(blocks, state.mixtures, state.distances, strict=True):
            mixture.m_step(block, state.responsibilities, distances, params.degrees_of_freedom)
        state.update_shares(params)
        state.update_costs(blocks, params)
        state.update_terms()
        state.update_weights(params)
        objective.append(state.objective(params))
        if objective[-2] - objective[-1] <= params.tol:
            return True
    return False


def squared_distances(block: Array, centers: Array, covariance: Array) -> Array:
    """Squared distance of each observation to each centre, in units of the covariance."""
    root = linalg.cholesky(covariance, lower=True)
    distances = np.empty((len(block), len(centers)))
    for rows in row_slices(len(block), _CHUNK):
        part = distances[rows]
        both = np.concatenate([block[rows], centers])
        whitened = linalg.solve_triangular(root, both.T, lower=True).T
        points, means = whitened[: len(part)], whitened[len(part) :]
        np.matmul(points, (-2 * means).T, out=part)
        part += row_sums(points**2)[:, None]
        part += np.sum(means**2, axis=1)
        np.maximum(part, 0, out=part)
    return distances


def softmax(score: Array) -> Array:
    """Exponentials of the scores, in shares of each row; to the bit what SciPy's function gives."""
    shares = np.empty_like(score)
    for rows in row_slices(len(score), _CACHED):
        part = score[rows]
        top = part[:, 0].copy()
        for column in part.T[1:]:
            np.maximum(top, column, out=top)
        exponentials = np.exp(part - top[:, None])
        shares[rows] = exponentials / row_sums(exponentials)[:, None]
    return shares


def row_sums(values: Array) -> Array:
    """Sum of each row, to the bit as NumPy adds it up.

    NumPy adds rows one by one. Where these are short, as here, that takes four times as long as to
    add columns in the same order.
    """
    width = values.shape[1]
    if width > _LONG_ROW:
        total: Array = values.sum(axis=1)
        return total
    sums = np.zeros(len(values))
    n_eights = width // 8 * 8
    for rows in row_slices(len(values), _CACHED):
        columns = list(values[rows].T)
        if n_eights:
            eight = columns[:8]
            for start in range(8, n_eights, 8):
                further = columns[start : start + 8]
                eight = [one + other for one, other in zip(eight, further, strict=True)]
            pairs = [one + other for one, other in zip(eight[::2], eight[1::2], strict=True)]
            sums[rows] = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
        for column in columns[n_eights:]:
            sums[rows] += column
    return sums


def robust_cost(distances: Array, covariance: Array, params: ClusteringParams) -> Array:
    """ρ of each observation and domain."""
    freedom, width = params.degrees_of_freedom, len(covariance)
    if freedom is None:
        tails = 0.5 * distances
    else:
        tails = 0.5 * (freedom + width) * np.log1p(distances / freedom)
    tails += 0.5 * np.linalg.slogdet(covariance)[1]
    cost: Array = tails
    return cost


def _total(block: Array) -> tuple[Array, float]:
    """Covariance of all observations, and the floor of a variance within domains."""
    width = block.shape[1]
    centred = block - block.mean(axis=0)
    covariance = centred.T @ centred / len(block)
    floor = max(_FLOOR, _PRIOR / len(block)) * (float(np.trace(covariance)) / width or 1.0)
    return covariance + floor * np.eye(width), floor


def null_cost(block: Array, params: ClusteringParams) -> float:
    """Least cost of the representation with a single domain."""
    responsibilities = np.ones((len(block), 1))
    mixture = Mixture(block.mean(axis=0)[None], *_total(block), 0.0)
    terms = [np.inf]
    for _ in range(params.max_iter):
        distances = squared_distances(block, mixture.centers, mixture.covariance)
        terms.append(
            mixture.term(responsibilities, robust_cost(distances, mixture.covariance, params))
        )
        if terms[-2] - terms[-1] <= params.tol:
            break
        mixture.m_step(block, responsibilities, distances, params.degrees_of_freedom)
    return terms[-1]


def normalised_adjacency(connectivities: sparse.spmatrix, n_obs: int) -> sparse.csr_matrix:
    """One symmetric step over the graph with self-loops: D^-½ (A + I) D^-½."""
    links = check_adjacency(connectivities, n_obs=n_obs).astype(np.float64)
    links = sparse.csr_matrix(links + sparse.identity(n_obs, format="csr"))
    root = sparse.diags(1 / np.sqrt(np.asarray(links.sum(axis=1)).ravel()))
    return sparse.csr_matrix(root @ links @ root)


def propagate(adjacency: sparse.csr_matrix, responsibilities: Array) -> Array:
    """Mean responsibilities of the neighbours up to `_HOPS` steps away."""
    for _ in range(_HOPS):
        responsibilities = adjacency @ responsibilities
    return responsibilities


def initial_labels(common: Array, n_domains: int, start: int, seed: int) -> NDArray[np.intp]:
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


def filled_labels(responsibilities: Array) -> NDArray[np.intp]:
    """Domain of the largest responsibility; an empty one takes the row that loses least."""
    labels: NDArray[np.intp] = responsibilities.argmax(axis=1)
    rows = np.arange(len(labels))
    sizes = np.bincount(labels, minlength=responsibilities.shape[1])
    for empty in np.flatnonzero(sizes == 0):
        regret = responsibilities[rows, labels] - responsibilities[:, empty]
        regret[sizes[labels] == 1] = np.inf
        moved = regret.argmin()
        sizes[labels[moved]] -= 1
        labels[moved] = empty
        sizes[empty] = 1
    return labels
