"""The paper's own clustering, equations (11) and (12): `DualClustering`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse, special
from sklearn.cluster import KMeans
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits

from m2st._checks import check_int, check_n_domains, check_seed
from m2st._clustering._base import MemberEstimator
from m2st._clustering._domains import DualDomains
from m2st._clustering._mixture import filled_labels
from m2st._clustering._representation import Factors, check_embeddings
from m2st._params import DualParams

Array = NDArray[np.float64]
Labels = NDArray[np.intp]


class DualClustering(MemberEstimator[DualParams]):
    r"""Cluster several embeddings by the paper's objective (12).

    Each embedding is split as :math:`H^m \approx H_c W^m + H_s^m P^m`, equation (11). With one-hot
    labels :math:`U` and centres :math:`V^m`, where scale :math:`M+1` is the common representation
    :math:`H_s^{M+1} = H_c`, the objective is

    .. math::
        \sum_m \lVert H^m - H_c W^m - H_s^m P^m \rVert_F^2
        + \beta \Big( \lVert H_c \rVert_F^2 + \sum_m \lVert H_s^m \rVert_F^2 \Big)
        + \sum_{m=1}^{M+1} \alpha^m \lVert H_s^m - U V^m \rVert_F^2

    .. math::
        + \lambda \sum_{m=1}^{M+1} \lVert V^m {V^m}^\top - I \rVert_F^2
        + \delta \sum_{m=1}^{M+1} \alpha^m \ln \alpha^m,
        \qquad \alpha^m \ge 0, \; \sum_m \alpha^m = 1 .

    Matrices have an observation per row, the transpose of the paper's.

    Parameters
    ----------
    n_domains
        Number of domains C. Exactly as many come out.
    common_dim, specific_dim, ridge, orthogonality, weight_entropy
        Widths :math:`d_c` and :math:`d_s`, and the weights :math:`\beta`, :math:`\lambda` and
        :math:`\delta` of the terms: see `DualParams`.
    solver
        ``"descent"`` minimises (12): each step is exact or is kept only if it lowers the objective.
        ``"published"`` is the update rule of the published code. Its objective may rise.
    n_init, max_iter, tol
        Control of the optimisation: see `DualParams`.
    random_state
        Seed of the starts.

    Attributes
    ----------
    labels_
        Domain of each observation, 0 to C - 1 by decreasing size; shape (n_obs,).
    responsibilities_
        :math:`U`: 1 in the domain of an observation, else 0; shape (n_obs, C).
    common_
        :math:`H_c`, shape (n_obs, d_c).
    specific_
        :math:`H_s^m`, shape (n_obs, d_s) each.
    common_loadings_
        :math:`W^m`, shape (d_c, d_m) each.
    specific_loadings_
        :math:`P^m`, shape (d_s, d_m) each.
    centers_
        :math:`V^m` of each scale and, last, of the common representation; shape (C, d) each.
    scale_weights_
        :math:`\alpha`, shape (M + 1,), the last one of the common representation.
    objective_
        Objective after each iteration, the first three terms per observation.
    start_objectives_
        Objective at the end of each start.
    n_iter_
        Number of iterations.
    converged_
        Whether the objective converged; None for the published rule, which does not ask.

    Notes
    -----
    (12) has no minimum as it stands: β weighs the representations only. If W and P grow and H_c and
    H_s shrink, the ridge and the k-means terms fall towards 0 while the first term stays. The
    published code divides the rows of all four matrices by their length after each step, with which
    the objective is no longer minimised. ``"descent"`` fixes the scale by a constraint instead:
    loadings are orthonormal, :math:`P^m {P^m}^\top = I` and :math:`\sum_m W^m {W^m}^\top = I`. Then
    representations are averages of two terms, and loadings are solutions of orthogonal Procrustes
    problems. Embeddings are centred and divided by one number each, so that the mean squared norm
    of an observation is 1, and the sums over observations are divided by their number: settings
    then mean the same for any section.

    The published rule: embeddings are scaled to [0, 1] per column; :math:`H_s` and :math:`H_c`
    start from random orthonormal matrices; centres take the fixed point of their stationarity; the
    weights are :math:`\exp(-\mathrm{cost}/\delta)`, with the squared spectral norm as cost.

    Memory and time are linear in the number of observations.

    References
    ----------
    Zhang W, Zhang Z, Yang H, et al. m2ST: dual multi-scale graph clustering for spatially resolved
    transcriptomics. Bioinformatics, 2025.

    Examples
    --------
    >>> import numpy as np
    >>> from m2st.paper import DualClustering
    >>> rng = np.random.default_rng(0)
    >>> truth = np.repeat([0, 1], 50)
    >>> embeddings = [rng.normal(size=(100, d)) + 4 * truth[:, None] for d in (8, 4)]
    >>> labels = DualClustering(2, specific_dim=2).fit(embeddings).labels_
    >>> len(set(zip(labels.tolist(), truth.tolist())))
    2
    """

    _settings = DualParams

    common_: Array
    specific_: list[Array]
    common_loadings_: list[Array]
    specific_loadings_: list[Array]
    scale_weights_: Array
    objective_: Array
    start_objectives_: Array
    n_iter_: int
    converged_: bool | None

    def __init__(
        self,
        n_domains: int,
        *,
        common_dim: int | None = DualParams.common_dim,
        specific_dim: int = DualParams.specific_dim,
        ridge: float = DualParams.ridge,
        orthogonality: float = DualParams.orthogonality,
        weight_entropy: float = DualParams.weight_entropy,
        solver: Literal["descent", "published"] = DualParams.solver,
        n_init: int = DualParams.n_init,
        max_iter: int = DualParams.max_iter,
        tol: float = DualParams.tol,
        random_state: int = 0,
    ) -> None:
        self.n_domains = n_domains
        self.common_dim = common_dim
        self.specific_dim = specific_dim
        self.ridge = ridge
        self.orthogonality = orthogonality
        self.weight_entropy = weight_entropy
        self.solver = solver
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self,
        X: Sequence[NDArray[Any]] | NDArray[Any],
        y: None = None,
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> DualClustering:
        """Find the domains.

        Parameters
        ----------
        X
            Embeddings: one array of shape (n_obs, d_m) per scale, finite. A single array is one
            scale.
        y
            Not used; here by scikit-learn's convention.
        connectivities
            Not used: (12) has no term in space. Here as in `m2st.MultiScaleClustering`.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError, TypeError
            If embeddings are missing, not finite, of unequal length, or fewer than `n_domains`; if
            a setting is out of its range.
        """
        self._params()
        check_int("n_domains", self.n_domains, minimum=1)
        check_seed(self.random_state)
        scales = [X] if isinstance(X, np.ndarray) else X
        given = [scale.astype(np.float64) for scale in check_embeddings(scales)]
        check_n_domains(self.n_domains, n_obs=len(given[0]))
        widest = min(scale.shape[1] for scale in given)
        if self.specific_dim > widest:
            msg = (
                f"Expected `specific_dim` of at most {widest}, the width of the narrowest "
                f"embedding, found {self.specific_dim}."
            )
            raise ValueError(msg)
        with threadpool_limits(1):  # sums keep their order
            published = self.solver == "published"
            units = [(_span if published else _spread)(scale) for scale in given]
            scales = [
                (scale - shift) / unit for scale, (shift, unit) in zip(given, units, strict=True)
            ]
            found = [self._published(scales)] if published else self._descents(scales)
            best = min(found, key=lambda state: state.objective[-1])
            self._factors = self._factors_of(best, given, units)
        self.start_objectives_ = np.array([state.objective[-1] for state in found])
        self._keep(best)
        return self

    def to_domains(self) -> DualDomains:
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
        return DualDomains(self._factors, list(self.centers_), self.scale_weights_)

    def _factors_of(
        self, state: _State, given: list[Array], units: list[tuple[Array, Array]]
    ) -> Factors:
        """From embeddings to representations without domains, which other observations have."""
        published = self.solver == "published"
        solutions = (self._published_loadings if published else self._loadings)(state)
        divisors = np.concatenate([unit for _, unit in units])[:, None]
        factors = Factors([shift for shift, _ in units], [one / divisors for one in solutions])
        if published:  # its representations have columns of length 1
            factors.loadings = [
                loading / _lengths(block)
                for loading, block in zip(factors.loadings, factors.project(given), strict=True)
            ]
        return factors

    def _loadings(self, state: _State) -> list[Array]:
        """The least of the first two terms of (12), which is linear in the embeddings X.

        With all loadings stacked, L, it is X Lᵀ (L Lᵀ + β I)⁻¹.
        """
        stacked = np.concatenate(
            [linalg.block_diag(*state.p), np.concatenate(state.w, axis=1)], axis=0
        )
        gram = stacked @ stacked.T + self.ridge * np.eye(len(stacked))
        # Without a ridge, what is common and what is specific may overlap.
        together = stacked.T @ np.linalg.pinv(gram, hermitian=True)
        return np.split(together, np.cumsum([len(p) for p in state.p]), axis=1)

    def _published_loadings(self, state: _State) -> list[Array]:
        """Each representation by the published rule, which leaves hardly anything to the others.

        Its representations have columns of length 1 and its loadings rows of length 1, so that
        their products are small beside the embeddings.
        """
        stacked = [*np.split(linalg.block_diag(*state.p), len(state.p)), np.concatenate(state.w, 1)]
        return [
            rows.T @ np.linalg.inv((self.ridge + weight) * np.eye(len(rows)) + rows @ rows.T)
            for rows, weight in zip(stacked, state.weights, strict=True)
        ]

    def _descents(self, scales: list[Array]) -> list[_State]:
        """Descents from several starts."""
        rng = np.random.default_rng(self.random_state)
        return [self._descent(scales, int(seed)) for seed in rng.integers(2**31, size=self.n_init)]

    def _descent(self, scales: list[Array], seed: int) -> _State:
        """Updates of one block after the other, none of which raises the objective."""
        state = self._start(scales, seed)
        state.objective.append(self._objective(scales, state))
        state.converged = False
        for _ in range(self.max_iter):
            self._update_factors(scales, state)
            self._update_domains(state)
            state.objective.append(self._objective(scales, state))
            if state.objective[-2] - state.objective[-1] <= self.tol:
                state.converged = True
                break
        return state

    def _start(self, scales: list[Array], seed: int) -> _State:
        """Principal components, and k-means of the common ones."""
        together = np.concatenate(scales, axis=1)
        width = min(self.common_dim or self.n_domains, together.shape[1])
        loadings = _principal_axes(together, width)
        ends = np.cumsum([scale.shape[1] for scale in scales])[:-1]
        common = np.split(loadings, ends, axis=1)
        h_c = together @ loadings.T
        specific = [
            _principal_axes(scale - h_c @ w, self.specific_dim)
            for scale, w in zip(scales, common, strict=True)
        ]
        h_s = [
            (scale - h_c @ w) @ p.T for scale, w, p in zip(scales, common, specific, strict=True)
        ]
        # Representations at their minimum without domains.
        h_s, h_c = [h / (1 + self.ridge) for h in h_s], h_c / (1 + self.ridge)
        k_means = KMeans(self.n_domains, n_init=1, random_state=seed)
        labels = k_means.fit_predict(h_c).astype(np.intp)
        weights = np.full(len(scales) + 1, 1 / (len(scales) + 1))
        blocks = [*h_s, h_c]
        centers = [_means(block, labels, self.n_domains) for block in blocks]
        return _State(h_c, h_s, common, specific, centers, weights, labels)

    def _update_factors(self, scales: list[Array], state: _State) -> None:
        """H_s, P, H_c and W, each at its minimum given the others."""
        for m, scale in enumerate(scales):
            rest = scale - state.h_c @ state.w[m]
            weight = state.weights[m]
            pull = weight * state.centers[m][state.labels]
            state.h_s[m] = (rest @ state.p[m].T + pull) / (1 + self.ridge + weight)
            state.p[m] = _procrustes(state.h_s[m].T @ rest)
        rests = np.concatenate(
            [scale - h @ p for scale, h, p in zip(scales, state.h_s, state.p, strict=True)], axis=1
        )
        weight = state.weights[-1]
        pull = weight * state.centers[-1][state.labels]
        loadings = np.concatenate(state.w, axis=1)
        state.h_c = (rests @ loadings.T + pull) / (1 + self.ridge + weight)
        ends = np.cumsum([scale.shape[1] for scale in scales])[:-1]
        state.w = np.split(_procrustes(state.h_c.T @ rests), ends, axis=1)

    def _update_domains(self, state: _State) -> None:
        """V by a step that descends; α and U at their minima."""
        n_obs = len(state.labels)
        sizes = np.bincount(state.labels, minlength=self.n_domains) / n_obs
        for m, (block, weight) in enumerate(zip(state.blocks(), state.weights, strict=True)):
            means = _means(block, state.labels, self.n_domains)
            state.centers[m] = self._centers(state.centers[m], means, weight * sizes)
        state.weights = special.softmax(-state.costs() / n_obs / self.weight_entropy)
        state.labels = state.nearest()

    def _centers(self, centers: Array, means: Array, weights: Array) -> Array:
        """Lower the terms of the centres of one scale, a quartic; `weights` has one a domain."""
        if self.orthogonality == 0:
            return np.where((weights > 0)[:, None], means, centers)

        def value(flat: Array) -> tuple[float, Array]:
            v = flat.reshape(centers.shape)
            off, away = v @ v.T - np.eye(len(v)), v - means
            total = weights @ np.sum(away**2, axis=1) + self.orthogonality * np.sum(off**2)
            slope = 2 * weights[:, None] * away + 4 * self.orthogonality * off @ v
            return float(total), slope.ravel()

        before = value(centers.ravel())[0]
        found = optimize.minimize(value, centers.ravel(), jac=True, method="L-BFGS-B")
        return found.x.reshape(centers.shape) if found.fun < before else centers

    def _objective(self, scales: list[Array], state: _State) -> float:
        """Objective (12), its sums over observations divided by their number."""
        total: Any = sum(
            np.sum((scale - state.h_c @ w - h @ p) ** 2)
            for scale, w, h, p in zip(scales, state.w, state.h_s, state.p, strict=True)
        )
        total += self.ridge * sum(np.sum(block**2) for block in state.blocks())
        total = (total + state.weights @ state.costs()) / len(state.labels)
        total += self.orthogonality * sum(
            np.sum((v @ v.T - np.eye(self.n_domains)) ** 2) for v in state.centers
        )
        return float(total - self.weight_entropy * np.sum(special.entr(state.weights)))

    def _published(self, scales: list[Array]) -> _State:
        """The update rule of the published code."""
        rng = np.random.default_rng(self.random_state)
        n_obs, n_scales = len(scales[0]), len(scales)
        h_s = [np.linalg.qr(rng.normal(size=(n_obs, self.specific_dim)))[0] for _ in scales]
        h_c = np.linalg.qr(rng.normal(size=(n_obs, self.common_dim or self.n_domains)))[0]
        w = [_unit_rows(np.linalg.pinv(h_c.T @ h_c) @ (h_c.T @ scale)) for scale in scales]
        p = [
            _unit_rows(np.linalg.pinv(h.T @ h) @ (h.T @ scale - h.T @ h_c @ w_m))
            for h, scale, w_m in zip(h_s, scales, w, strict=True)
        ]
        labels = rng.integers(self.n_domains, size=n_obs)
        weights = np.full(n_scales + 1, 1 / (n_scales + 1))
        centers = [
            rng.normal(size=(h.shape[1], self.n_domains)).T / np.sqrt(n_obs) for h in [*h_s, h_c]
        ]
        state = _State(h_c, h_s, w, p, centers, weights, labels)
        for _ in range(self.max_iter):
            self._published_step(scales, state)
            state.objective.append(self._objective(scales, state))
        return state

    def _published_step(self, scales: list[Array], state: _State) -> None:
        """One iteration of the published rule."""
        for m, scale in enumerate(scales):
            h_c, w, p, weight = state.h_c, state.w[m], state.p[m], state.weights[m]
            left = (self.ridge + weight) * np.eye(self.specific_dim) + p @ p.T
            right = scale @ p.T - h_c @ (w @ p.T) + weight * state.centers[m][state.labels]
            h = _unit_columns(np.linalg.solve(left, right.T).T)
            p = _unit_rows(np.linalg.pinv(h.T @ h) @ (h.T @ scale - (h.T @ h_c) @ w))
            w = _unit_rows(np.linalg.pinv(h_c.T @ h_c) @ (h_c.T @ scale - (h_c.T @ h) @ p))
            state.h_s[m], state.p[m], state.w[m] = h, p, w
        weight = state.weights[-1]
        left = (self.ridge + weight) * np.eye(state.h_c.shape[1]) + sum(w @ w.T for w in state.w)
        right = weight * state.centers[-1][state.labels]
        for scale, h, w, p in zip(scales, state.h_s, state.w, state.p, strict=True):
            right = right + scale @ w.T - h @ (p @ w.T)
        state.h_c = _unit_columns(np.linalg.solve(left, right.T).T)
        blocks = state.blocks()
        sizes = np.bincount(state.labels, minlength=self.n_domains)
        for m, block in enumerate(blocks):
            v = state.centers[m]
            sums = _sums(block, state.labels, self.n_domains)
            identity = np.eye(self.n_domains)
            left = state.weights[m] * np.diag(sizes) + 2 * self.orthogonality * (v @ v.T - identity)
            state.centers[m] = state.weights[m] * np.linalg.pinv(left) @ sums
        costs = [
            np.linalg.eigvalsh(away.T @ away)[-1]
            for away in (
                block - v[state.labels] for block, v in zip(blocks, state.centers, strict=True)
            )
        ]
        state.weights = special.softmax(-np.array(costs) / self.weight_entropy)
        state.labels = state.nearest()

    def _keep(self, state: _State) -> None:
        """Domains by decreasing size, none of them empty; and what else was found."""
        self.labels_ = filled_labels(-state.distances())
        self.responsibilities_ = np.eye(self.n_domains)[self.labels_]
        self.common_, self.specific_ = state.h_c, state.h_s
        self.common_loadings_, self.specific_loadings_ = state.w, state.p
        self.centers_ = state.centers
        self.scale_weights_ = state.weights
        self.objective_ = np.array(state.objective)
        self.n_iter_ = len(state.objective) - (self.solver == "descent")
        self.converged_ = state.converged
        self._number_by_size()


@dataclass
class _State:
    """Unknowns of (12), and the objective so far."""

    h_c: Array  # (n_obs, d_c)
    h_s: list[Array]  # (n_obs, d_s) each
    w: list[Array]  # (d_c, d_m) each
    p: list[Array]  # (d_s, d_m) each
    centers: list[Array]  # (C, d) each, the last of h_c
    weights: Array
    labels: Labels

    def __post_init__(self) -> None:
        self.objective: list[float] = []
        self.converged: bool | None = None

    def blocks(self) -> list[Array]:
        """Representations that are clustered, the common one last."""
        return [*self.h_s, self.h_c]

    def costs(self) -> Array:
        """Sums of squares around the centres, shape (M + 1,)."""
        return np.array(
            [
                np.sum((block - v[self.labels]) ** 2)
                for block, v in zip(self.blocks(), self.centers, strict=True)
            ]
        )

    def distances(self) -> Array:
        """Weighted squared distance of each observation to each centre, shape (n_obs, C)."""
        total = np.zeros((len(self.labels), len(self.centers[0])))
        for weight, block, v in zip(self.weights, self.blocks(), self.centers, strict=True):
            squares = np.sum(block**2, axis=1)[:, None] - 2 * block @ v.T + np.sum(v**2, axis=1)
            total += weight * squares
        return total

    def nearest(self) -> Labels:
        """Label of the nearest centre; the present one where it is no farther."""
        distances = self.distances()
        rows = np.arange(len(distances))
        found = distances.argmin(axis=1)
        stays = distances[rows, self.labels] <= distances[rows, found]
        return np.where(stays, self.labels, found)


def _spread(scale: Array) -> tuple[Array, Array]:
    """Mean of each column, and what to divide it by for a mean squared norm of 1."""
    mean = scale.mean(axis=0)
    length = float(np.sqrt(np.mean(np.sum((scale - mean) ** 2, axis=1))))
    return mean, np.full(len(mean), length or 1.0)


def _span(scale: Array) -> tuple[Array, Array]:
    """Least value of each column, and what to divide it by for values in [0, 1]."""
    span = np.ptp(scale, axis=0)
    return scale.min(axis=0), np.where(span == 0, 1, span)


def _principal_axes(matrix: Array, n_axes: int) -> Array:
    """First principal axes of centred rows, as orthonormal rows."""
    axes: Array = linalg.eigh(matrix.T @ matrix)[1][:, ::-1][:, :n_axes].T
    return axes


def _procrustes(target: Array) -> Array:
    """Orthonormal rows P that maximise tr(Pᵀ · target)."""
    left, _, right = np.linalg.svd(target, full_matrices=False)
    return np.asarray(left @ right)


def _sums(block: Array, labels: Labels, n_domains: int) -> Array:
    """Sum of the observations of each domain."""
    sums = np.zeros((n_domains, block.shape[1]))
    np.add.at(sums, labels, block)
    return sums


def _means(block: Array, labels: Labels, n_domains: int) -> Array:
    """Mean of the observations of each domain; 0 for an empty one."""
    sizes = np.bincount(labels, minlength=n_domains)
    return np.asarray(_sums(block, labels, n_domains) / np.maximum(sizes, 1)[:, None])


def _lengths(matrix: Array) -> Array:
    """Length of each column; 1 for a column of zeros."""
    lengths = np.linalg.norm(matrix, axis=0)
    return np.where(lengths == 0, 1, lengths)


def _unit_columns(matrix: Array) -> Array:
    """Divide each column by its length; a column of zeros stays."""
    return np.asarray(matrix / _lengths(matrix))


def _unit_rows(matrix: Array) -> Array:
    """Divide each row by its length; a row of zeros stays."""
    return _unit_columns(matrix.T).T
