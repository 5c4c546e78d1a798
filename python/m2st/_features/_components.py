"""Principal components, of observations alone and together with their neighbours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackError
from threadpoolctl import threadpool_limits

logger = logging.getLogger(__name__)

# Observations farther from the middle than so many times as far as half of them are outliers.
_FAR = 2.0
# Share of the sum of squares above which a scatter is more than rounding.
_VARIES: dict[type, float] = {np.float32: 1e-5, np.float64: 1e-13}
# Share of the largest variance up to which a component is rounding of single precision; products
# of a block of vectors, where it does not fill the space.
_ROUNDING, _MAX_PRODUCTS = 1e-13, 30


@contextmanager
def one_thread() -> Iterator[None]:
    """Run linear algebra and scanpy's compiled loops on one thread: sums keep their order."""
    import numba

    with threadpool_limits(1):
        # Asked for the first time, numba starts its threads, which raises the limit of OpenMP.
        n_threads = numba.get_num_threads()
        with threadpool_limits(1):
            numba.set_num_threads(1)
            try:
                yield
            finally:
                numba.set_num_threads(n_threads)


def neighbourhood_means(graph: sparse.csr_matrix, rows: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Rows that take the mean over an observation and its neighbours."""
    links = sparse.csr_matrix(graph + sparse.identity(len(rows)), dtype=np.float32)[
        np.flatnonzero(rows)
    ]
    links.data = np.repeat(1 / np.diff(links.indptr), np.diff(links.indptr)).astype(np.float32)
    return links


class Components(NamedTuple):
    """Principal components: scores, loadings, and the mean of each column."""

    scores: NDArray[np.float32]
    axes: NDArray[np.float32]
    mean: NDArray[np.float32]


def components(
    matrix: sparse.csr_matrix | NDArray[np.float32], n_pcs: int, random_state: int
) -> Components:
    """Principal components, each signed so that its largest loading is positive.

    Fewer than `n_pcs` if the others hold nothing but rounding.
    """
    import scanpy as sc

    n_pcs = min(n_pcs, min(matrix.shape) - 1)
    try:
        scores, axes, _, variances = sc.pp.pca(
            matrix,
            n_comps=n_pcs,
            svd_solver="arpack",
            random_state=random_state,
            return_info=True,
        )
        if _determined(variances):
            signs = _signs(axes.T)
            mean = np.asarray(matrix.mean(axis=0, dtype=np.float64)).ravel()
            return Components(*map(_single, (scores * signs, axes.T * signs, mean)))
    except ArpackError as error:
        logger.info("Components by iterated products: %s", error)
    covariance = _Covariances.of([matrix], np.float64)
    axes = _iterated_axes(covariance, n_pcs, random_state)
    exact, mean, _ = covariance.parts[0]
    return Components(*map(_single, (exact @ axes - mean @ axes, axes, mean)))


def shared_axes(
    single: sparse.csr_matrix | NDArray[np.float32],
    around: sparse.csr_matrix | NDArray[np.float32],
    n_axes: int,
    random_state: int,
) -> NDArray[np.float32]:
    """Principal axes of the sum of two matrices' covariances, the trace of each brought to 1.

    Fewer than `n_axes` if the others hold nothing but rounding.
    """
    n_genes = single.shape[1]
    n_axes = max(min(n_axes, min(single.shape) - 1), 1)
    covariances = _Covariances.of([single, around], np.float32)
    first = np.random.default_rng(random_state).uniform(-1, 1, n_genes).astype(np.float32)
    try:
        operator = sparse.linalg.LinearOperator(
            (n_genes, n_genes), matvec=covariances.times, dtype=np.float32
        )
        if n_genes > 1 and covariances.parts:
            values, axes = sparse.linalg.eigsh(operator, n_axes, v0=first)
            if _determined(values[::-1]):
                axes = axes[:, ::-1]
                return np.asarray(axes * _signs(axes), dtype=np.float32)
    except ArpackError as error:
        logger.info("Components by iterated products: %s", error)
    covariances = _Covariances.of([single, around], np.float64)
    return _iterated_axes(covariances, n_axes, random_state).astype(np.float32)


def spread(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Medians of the features, and the distance from them beyond which is an outlier."""
    middle = np.median(features, axis=0).astype(np.float32)
    return middle, _FAR * np.median(np.linalg.norm(features - middle, axis=1))


def shrink_outliers(
    features: NDArray[np.float32], middle: NDArray[np.float32], farthest: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Move observations that are far from the middle towards it, up to `farthest`; centred."""
    offsets = features - middle
    lengths = np.linalg.norm(offsets, axis=1)
    # Where half of the observations are in one place, distances from it say nothing.
    if farthest > 0:
        offsets *= (farthest / np.maximum(lengths, farthest))[:, None]
    return offsets


def align_sections(
    scores: NDArray[np.float32], sections: NDArray[np.intp], overall: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Give each component mean 0 and its overall deviation in every section."""
    aligned = np.zeros_like(scores)
    for section in np.unique(sections):
        rows = sections == section
        centred = scores[rows] - scores[rows].mean(axis=0)
        deviation = centred.std(axis=0)
        aligned[rows] = centred * np.divide(
            overall, deviation, out=np.zeros_like(overall), where=deviation > 0
        )
    return aligned


@dataclass
class _Covariances:
    """Covariances of some matrices, the trace of each brought to 1, and added.

    As in any PCA of a sparse matrix, they are never made.
    """

    parts: list[tuple[Any, Any, Any]]  # matrix, means and scatter
    dtype: type[np.float32 | np.float64]

    @classmethod
    def of(cls, matrices: list[Any], dtype: type[np.float32 | np.float64]) -> _Covariances:
        """Take the matrices that vary, as far as the precision can tell."""
        parts = []
        for given in matrices:
            matrix = given.astype(dtype, copy=False)
            mean: NDArray[Any] = np.asarray(matrix.mean(axis=0), dtype=dtype).ravel()
            norm = sparse.linalg.norm if sparse.issparse(matrix) else np.linalg.norm
            total = norm(matrix) ** 2
            scatter = total - matrix.shape[0] * float(mean @ mean)
            # Where everybody is everybody's neighbour, surroundings differ by rounding alone.
            if scatter > _VARIES[dtype] * total:
                parts.append((matrix, mean, dtype(scatter)))
        return cls(parts, dtype)

    def times(self, axes: NDArray[Any]) -> NDArray[Any]:
        """Their product with one axis or several."""
        image = np.zeros_like(axes)
        for matrix, mean, scatter in self.parts:
            scores = matrix @ axes - mean @ axes
            sums = scores.sum(axis=0)
            offset = mean * sums if axes.ndim == 1 else np.outer(mean, sums)
            image += (matrix.T @ scores - offset) / scatter
        return image


def _determined(variances: NDArray[Any]) -> bool:
    """Whether descending variances of components all stand out of rounding, and from each other.

    ARPACK fills what is left of an exhausted space with random vectors, other ones on each call.
    """
    gaps = variances[:-1] - variances[1:]
    return bool(variances[-1] > 1e-5 * variances[0] and (gaps > 1e-7 * variances[:-1]).all())


def _iterated_axes(
    covariances: _Covariances, n_axes: int, random_state: int
) -> NDArray[np.float64]:
    """Principal axes by products with a block of vectors: exact where these fill the space.

    Slower than ARPACK, but the same on each call also where there are fewer components than asked
    for: those that hold nothing but rounding are left out.
    """
    if not covariances.parts:
        msg = (
            "Expected values that differ between observations, found that they differ by rounding "
            "alone. Check that this is the right matrix, or subtract what is common to all."
        )
        raise ValueError(msg)
    n_genes = covariances.parts[0][0].shape[1]
    width = min(n_genes, max(n_axes + 10, 100))
    block = np.random.default_rng(random_state).normal(size=(n_genes, width))
    for _ in range(_MAX_PRODUCTS if width < n_genes else 1):
        block = np.linalg.qr(covariances.times(block)).Q
    variances, turn = np.linalg.eigh(block.T @ covariances.times(block))
    variances, axes = variances[: -n_axes - 1 : -1], (block @ turn)[:, : -n_axes - 1 : -1]
    axes = axes[:, variances > _ROUNDING * variances[0]]
    return np.asarray(axes * _signs(axes))


def _single(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def _signs(axes: NDArray[Any]) -> NDArray[Any]:
    """Signs that make the largest entry of each axis positive."""
    signs: NDArray[Any] = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    return signs
