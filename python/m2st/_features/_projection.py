"""What a recipe has found on some observations, to treat others the same."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from m2st._features._blocks import blocks, log_normalise, take
from m2st._features._components import align_sections, one_thread, shrink_outliers

Scores = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ExpressionProjection:
    """From expression to scores on the components that `from_counts` found.

    Parameters
    ----------
    genes
        Genes that the components are made of: positions among all genes, shape (n_used,).
    axes
        Loadings, shape (n_used, n_pcs).
    mean, deviations
        Of the scores, shape (n_pcs,).
    gene_means
        Of the values of each gene on the log scale, shape (n_used,).
    shares
        Share that each gene has of all counts, shape (n_genes,).
    library_size
        To which counts are brought, shape ().
    """

    recipe: ClassVar[str] = "prepare"

    genes: NDArray[np.int64]
    axes: Scores
    mean: Scores
    deviations: Scores
    gene_means: Scores
    shares: NDArray[np.float64]
    library_size: Scores

    def __post_init__(self) -> None:
        _by_row(self)
        n_used, n_pcs = self.axes.shape
        _require(self, genes=(n_used,), mean=(n_pcs,), deviations=(n_pcs,), gene_means=(n_used,))
        _require(self, shares=(len(self.shares),), library_size=())
        if not 0 <= self.genes.min() <= self.genes.max() < len(self.shares):
            msg = "some genes are none of all"
            raise ValueError(msg)

    @property
    def n_features(self) -> int:
        """Number of genes that the components are made of."""
        return len(self.genes)

    def apply(
        self,
        matrix: Any,
        rows: Bools,
        columns: NDArray[np.intp],
        sections: NDArray[np.intp],
        *,
        counts: bool,
        logged: bool,
    ) -> tuple[Scores, Bools]:
        """Scores of other observations.

        Parameters
        ----------
        matrix
            Their expression, n_obs × n_vars, in memory or not.
        rows
            Observations that take part, shape (n_obs,).
        columns
            Column of each gene in the matrix, -1 where it has none; shape (n_genes,).
        sections
            Section of each observation, shape (n_obs,).
        counts
            The components are of counts, of which logarithms were taken.
        logged
            The values of the matrix are natural logarithms of normalised counts, plus 1.

        Returns
        -------
        Scores, shape (n_filled, n_pcs); and which observations these are, shape (n_obs,): those
        with values among the genes.

        Notes
        -----
        A gene without a column counts as having its mean. Library sizes are those of the genes that
        have a column, in this matrix and before.

        In each section the scores get mean 0 and the deviations that they had before.
        """
        there = columns >= 0
        linear = counts and logged
        with one_thread():
            totals = _totals(matrix, columns[there], linear=linear)
            filled = rows & (totals > 0)
            present = there[self.genes]
            kept = _columns(matrix, filled, columns[self.genes[present]])
            if linear:
                np.expm1(kept.data, out=kept.data)
            if counts:
                share = self.shares[there].sum() / self.shares.sum()
                log_normalise(kept, totals[filled], np.float32(self.library_size * share))
            scores = kept @ self.axes[present]
            scores -= self.mean - self.gene_means[~present] @ self.axes[~present]
        return align_sections(scores, sections[filled], self.deviations), filled


@dataclass(frozen=True)
class ReadyProjection:
    """From ready features to scores on the components that `from_ready` found.

    Parameters
    ----------
    first_mean, first_axes
        Of the features, and of their first components, shapes (n_features,) and
        (n_features, n_first); empty where the features were taken as they are.
    middle, farthest
        Medians of the components, shape (n_first,); and how far from them an observation may be,
        shape ().
    axes, mean
        Loadings of the scores, shape (n_first, n_pcs), and their mean, shape (n_pcs,).
    """

    recipe: ClassVar[str] = "prepare_embedding"

    first_mean: Scores
    first_axes: Scores
    middle: Scores
    farthest: Scores
    axes: Scores
    mean: Scores

    def __post_init__(self) -> None:
        _by_row(self)
        n_first, n_pcs = self.axes.shape
        n_features = len(self.first_axes)
        first = (n_features, n_first if n_features else 0)
        _require(self, first_mean=(n_features,), first_axes=first, middle=(n_first,))
        _require(self, farthest=(), mean=(n_pcs,))

    @property
    def n_features(self) -> int:
        """Number of ready features."""
        return len(self.first_axes) or len(self.axes)

    def apply(self, features: Scores) -> Scores:
        """Scores of other observations, with the same features: shape (n_obs, n_features).

        The components of more than fifty features come from a singular value decomposition. Those
        of the same observations then differ from the first ones by rounding.
        """
        with one_thread():
            if self.first_axes.size:
                features = ((features - self.first_mean) @ self.first_axes).astype(np.float32)
            scores = shrink_outliers(features, self.middle, self.farthest) @ self.axes
            scores -= self.mean
        return np.asarray(scores, dtype=np.float32)


def _by_row(projection: ExpressionProjection | ReadyProjection) -> None:
    """Bring all arrays into C order: products are then the same bits, also after a file."""
    for one in fields(projection):
        array = np.asarray(getattr(projection, one.name), order="C")
        object.__setattr__(projection, one.name, array)


def _require(projection: ExpressionProjection | ReadyProjection, **shapes: tuple[int, ...]) -> None:
    """Require arrays whose shapes fit each other."""
    for name, shape in shapes.items():
        found = getattr(projection, name).shape
        if found != shape:
            msg = f"{name} has the shape {found}, and {shape} would fit the others"
            raise ValueError(msg)


def _totals(matrix: Any, columns: NDArray[np.intp], *, linear: bool) -> Scores:
    """Sum of each row over some columns, of values taken back from logarithms if asked to."""
    counted = np.zeros(matrix.shape[1])
    counted[columns] = 1
    totals = np.zeros(matrix.shape[0])
    for rows, part, block in blocks(matrix):
        if linear:
            block = block.expm1()
        totals[rows] += block @ counted[part]
    return totals.astype(np.float32)


def _columns(matrix: Any, rows: Bools, columns: NDArray[np.intp]) -> sparse.csr_matrix:
    """Copy of some columns, in the order that is given."""
    chosen = np.zeros(matrix.shape[1], dtype=bool)
    chosen[columns] = True
    kept = take(matrix, rows, chosen)
    if (np.diff(columns) < 0).any():
        kept = kept[:, np.searchsorted(np.flatnonzero(chosen), columns)]
        kept.sort_indices()
    return kept
