"""Split of embeddings into a representation common to all scales and specific ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from threadpoolctl import threadpool_limits

from m2st._checks import check_features, check_numbers
from m2st._params import ClusteringParams

Array = NDArray[np.float64]

# Rows of embeddings in double precision at a time.
_CHUNK = 16_384


@dataclass
class Factors:
    """Split of embeddings into specific representations and, last, the common one."""

    means: list[Array]
    loadings: list[Array]  # of each representation, on all scales side by side

    def check(self, scales: Sequence[NDArray[Any]]) -> None:
        """Require embeddings of the same widths."""
        widths, expected = [scale.shape[1] for scale in scales], [len(mean) for mean in self.means]
        if widths != expected:
            msg = (
                f"Expected embeddings of widths {expected}, found {widths}. If the domains were "
                "found with cell types, apply the model that `m2st.run` returned."
            )
            raise ValueError(msg)

    def project(
        self, scales: list[NDArray[Any]], taken: NDArray[np.intp] | None = None
    ) -> list[Array]:
        """Representations of observations, of all or of some."""
        # In one order, whether they come from a decomposition or a file: products keep their bits.
        together = np.ascontiguousarray(np.concatenate(self.loadings, axis=1))
        n_obs = len(scales[0]) if taken is None else len(taken)
        found = [np.empty((n_obs, loading.shape[1])) for loading in self.loadings]
        ends = np.cumsum([loading.shape[1] for loading in self.loadings])[:-1]
        with threadpool_limits(1):
            for rows in row_slices(n_obs, _CHUNK):
                chosen = rows if taken is None else taken[rows]
                product = _side_by_side(scales, self.means, chosen) @ together
                for block, part in zip(found, np.split(product, ends, axis=1), strict=True):
                    block[rows] = part
        return found


def factorise(
    scales: list[NDArray[Any]],
    params: ClusteringParams,
    taken: NDArray[np.intp] | None = None,
) -> Factors:
    """Common representation by PCA of all scales, specific ones by PCA of what it leaves.

    Embeddings are centred and divided by one number each, so that an observation has a mean squared
    norm of 1 in every scale and no setting depends on units. All of it follows from the scatter of
    all scales side by side, a small matrix. A few observations at a time are copied, of all or of
    those that are taken.
    """
    n_obs = len(scales[0]) if taken is None else len(taken)
    chosen = [rows if taken is None else taken[rows] for rows in row_slices(n_obs, _CHUNK)]
    means = [
        sum(scale[rows].sum(axis=0, dtype=np.float64) for rows in chosen) / n_obs
        for scale in scales
    ]
    width = sum(len(mean) for mean in means)
    scatter = np.zeros((width, width))
    for rows in chosen:
        part = _side_by_side(scales, means, rows)
        scatter += part.T @ part
        del part  # before the next one is made
    ends = np.cumsum([len(mean) for mean in means])[:-1]
    columns = np.split(np.arange(width), ends)
    units = np.empty(width)
    for own in columns:
        units[own] = np.sqrt(np.trace(scatter[np.ix_(own, own)]) / n_obs) or 1.0
    scatter /= np.outer(units, units)
    common = _principal_axes(scatter, cast("int", params.common_dim))
    loadings = []
    for own in columns:
        rest = np.eye(width)[:, own] - common @ common[own].T
        loadings.append(rest @ _principal_axes(rest.T @ scatter @ rest, params.specific_dim))
    return Factors(means, [loading / units[:, None] for loading in [*loadings, common]])


def row_slices(n_obs: int, size: int) -> list[slice]:
    """Rows to work on at a time."""
    return [slice(start, min(start + size, n_obs)) for start in range(0, n_obs, size)]


def _side_by_side(
    scales: list[NDArray[Any]], means: list[Array], rows: slice | NDArray[np.intp]
) -> Array:
    """Some rows of all scales, centred."""
    ends = np.cumsum([len(mean) for mean in means])
    n_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
    found = np.empty((n_rows, ends[-1]))
    for end, scale, mean in zip(ends, scales, means, strict=True):
        np.subtract(scale[rows], mean, out=found[:, end - len(mean) : end])
    return found


def _principal_axes(scatter: Array, n_axes: int) -> Array:
    """First principal axes of a scatter matrix, as orthonormal columns."""
    _, vectors = linalg.eigh(scatter)
    axes: Array = vectors[:, ::-1][:, :n_axes]
    return axes


def common_factors(
    embeddings: Sequence[NDArray[Any]],
    params: ClusteringParams,
    taken: NDArray[np.intp] | None = None,
) -> Factors:
    """Loadings of the representation common to all embeddings, as `MultiScaleClustering` has it.

    Parameters
    ----------
    embeddings
        One array of shape (n_obs, d_m) per scale, finite.
    params
        For `common_dim`, which has to be set.
    taken
        Observations to take, which have been clustered. None takes all; only then are they checked.

    Returns
    -------
    Factors of that one representation, of shape (n_obs, d_c).
    """
    scales = check_embeddings(embeddings) if taken is None else list(embeddings)
    with threadpool_limits(1):
        factors = factorise(scales, params, taken)
    return Factors(factors.means, factors.loadings[-1:])


def check_embeddings(embeddings: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Require at least one finite embedding, all of the same observations."""
    if len(embeddings) == 0:
        msg = "Expected at least one embedding, found none."
        raise ValueError(msg)
    names = [f"embeddings[{number}]" for number in range(len(embeddings))]
    scales = [
        check_numbers(embedding, name=name)
        for embedding, name in zip(embeddings, names, strict=True)
    ]
    for scale, name in zip(scales, names, strict=True):
        check_features(scale, name=name)
    lengths = [len(scale) for scale in scales]
    if len(set(lengths)) > 1:
        msg = f"Expected embeddings of the same observations, found {lengths} rows."
        raise ValueError(msg)
    return scales
