"""Which labels of a reference the domains resemble, by their genes: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from m2st._checks import fractional, looks_logged
from m2st._features import blocks, some_rows

# spatialLIBD takes a correlation from here on for a match.
LEAST_MATCH = 0.25


class Survey(NamedTuple):
    """What there is in an expression matrix."""

    totals: NDArray[np.float64]
    """Sum of each observation, shape (n_obs,)."""
    smallest: float
    finite: bool
    logged: bool
    """Whether the values are on a log scale: fractions that are no corrected counts."""


def survey(matrix: Any) -> Survey:
    """Look through an expression matrix, in memory or not."""
    totals = np.zeros(matrix.shape[0])
    smallest, finite, broken = 0.0, True, False
    for rows, _, block in blocks(matrix):
        finite = finite and bool(np.isfinite(block.data).all())
        smallest = min(smallest, float(block.data.min(initial=0)))
        broken = broken or fractional(block.data).size > 0
        totals[rows] += block.sum(axis=1, dtype=np.float64).A1
    usable = finite and smallest >= 0
    return Survey(totals, smallest, finite, usable and broken and looks_logged(some_rows(matrix)))


class GroupSums(NamedTuple):
    """Sums of log expression over the observations of each group."""

    n_obs: NDArray[np.float64]
    """Shape (n_groups, 1)."""
    sums: NDArray[np.float64]
    """Shape (n_groups, n_vars)."""
    squares: NDArray[np.float64]
    """Sums of squares, shape (n_groups, n_vars)."""


def group_sums(
    matrix: Any, found: Survey, codes: NDArray[np.integer[Any]], n_groups: int
) -> GroupSums:
    """Sum log expression by group.

    Parameters
    ----------
    matrix
        Counts or values on a log scale, n_obs × n_vars, in memory or not. Counts are divided by
        library sizes, and logarithms are taken; observations without counts take no part.
    found
        What `survey` found in it.
    codes
        Group of each observation, shape (n_obs,); -1 for those that take no part.
    n_groups
        Number of groups.
    """
    taken, sizes = codes >= 0, np.ones(len(codes))
    if not found.logged:
        taken = taken & (found.totals > 0)
        sizes[taken] = found.totals[taken] / np.median(found.totals[taken])
    rows = np.flatnonzero(taken)
    members = sparse.csr_matrix(
        (np.ones(len(rows)), (codes[rows], rows)), shape=(n_groups, len(codes))
    )
    sums, squares = np.zeros((2, n_groups, matrix.shape[1]))
    for part, columns, block in blocks(matrix):
        values = block.astype(np.float64)
        if not found.logged:
            values.data = np.log1p(values.data / sizes[part][values.tocoo().row])
        sums[:, columns] += (members[:, part] @ values).toarray()
        values.data **= 2
        squares[:, columns] += (members[:, part] @ values).toarray()
    return GroupSums(members.sum(axis=1).A1[:, None], sums, squares)


def enrichment(groups: GroupSums) -> NDArray[np.float64]:
    """Compare each gene in a group with all other observations, by a t statistic.

    The two have one variance, as in the enrichment model of spatialLIBD. Observations stand beside
    each other in tissue and are no independent samples: the values rank genes and test nothing.

    Returns
    -------
    Shape (n_groups, n_vars); NaN where a group or all others are empty, 0 for a gene without
    variance.
    """
    inside, sums, squares = groups
    outside, rest = inside.sum() - inside, sums.sum(axis=0) - sums
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = sums / inside - rest / outside
        spread = squares.sum(axis=0) - sums**2 / inside - rest**2 / outside
        # What is left of the sums after rounding is no variance.
        spread[spread <= 1e-12 * squares.sum(axis=0)] = np.inf
        variance = spread / (inside + outside - 2) * (1 / inside + 1 / outside)
        return np.asarray(gaps / np.sqrt(variance))


def standardised(groups: GroupSums) -> NDArray[np.float64]:
    """Mean z-score of each gene in each group, over all observations that have one.

    Returns
    -------
    Shape (n_groups, n_vars); NaN for an empty group, 0 for a gene without variance.
    """
    inside, sums, squares = groups
    mean, square = sums.sum(axis=0) / inside.sum(), squares.sum(axis=0) / inside.sum()
    variance = square - mean**2
    variance[variance <= 1e-12 * square] = np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((sums / inside - mean) / np.sqrt(variance))


def telling_genes(statistics: NDArray[np.float64], n_top_genes: int) -> NDArray[np.intp]:
    """Genes with the highest statistics of any label, as spatialLIBD's ``top_n`` takes them."""
    best = np.argsort(-statistics, axis=1, kind="stable")[:, :n_top_genes]
    return np.unique(best)


def correlations(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of each row of one matrix with each of another; NaN for constant rows.

    Parameters
    ----------
    ours, theirs
        Shapes (n_domains, n_genes) and (n_labels, n_genes).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ours, theirs = (
            (rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
            for rows in (ours, theirs)
        )
    # Not by a product of matrices: BLAS sums in an order that depends on its threads.
    return np.stack([(row * theirs).mean(axis=1) for row in ours])


class Suggestion(NamedTuple):
    """A name for each domain, and how far its label is ahead of the second."""

    names: list[str]
    margins: NDArray[np.float64]


def suggest(
    table: NDArray[np.float64], domains: Sequence[str], labels: Sequence[str]
) -> Suggestion:
    """Name each domain after the label that it correlates with most.

    No two domains get one name: of several, the one with the highest correlation has the label
    itself, and the others a number behind it. Below 0.25 a domain keeps its name.

    Parameters
    ----------
    table
        Correlations, shape (n_domains, n_labels).
    domains, labels
        Their names.
    """
    known = np.nan_to_num(table, nan=-np.inf)
    ranked = np.sort(known, axis=1)
    with np.errstate(invalid="ignore"):
        margins = ranked[:, -1] - ranked[:, -2]
    best = known.argmax(axis=1)
    matched = ranked[:, -1] >= LEAST_MATCH
    names = list(domains)
    taken = {names[row] for row in np.flatnonzero(~matched)}
    for row in sorted(np.flatnonzero(matched), key=lambda row: -ranked[row, -1]):
        name, number = labels[best[row]], 2
        while name in taken:
            name, number = f"{labels[best[row]]} ({number})", number + 1
        taken.add(name)
        names[row] = name
    return Suggestion(names, margins)
