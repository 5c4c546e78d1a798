"""Given cell types as a view of the tissue: which types lie around each observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st._checks import check_missing_as_such, first_of, warn
from m2st._graph import smooth

# Steps over the graph that count as around an observation.
_HOPS = 8
# Share of the observations whose type has to be known.
_LEAST_TYPED = 0.1
# A column of more values than this, and than a tenth of its observations, names no types.
_MANY = 30


class CellTypes(NamedTuple):
    """Types of observations.

    Parameters
    ----------
    codes
        Number of the type of each observation, -1 where there is none; shape (n_obs,).
    names
        Names of the types, in alphabetical order.
    """

    codes: NDArray[np.intp]
    names: tuple[str, ...]

    @property
    def n_untyped(self) -> int:
        """Number of observations without a type."""
        return int((self.codes < 0).sum())


def read_cell_types(column: pd.Series, *, at: str) -> CellTypes:
    """Types of the observations that take part: text, categories or whole numbers.

    Parameters
    ----------
    column
        Types of these observations alone.
    at
        What the column is called, for messages.

    Returns
    -------
    CellTypes
        Of these observations. A category without any of them is no type.

    Raises
    ------
    TypeError
        If they are numbers with fractions.
    ValueError
        If there are fewer than two types, or so many that they are none; if few observations have
        one; if missing ones are written as text.
    """
    values, types = _named(column, at)
    n_known = int((values >= 0).sum())
    if n_known < _LEAST_TYPED * len(values) or n_known == 0:
        msg = (
            f"Expected a cell type for at least {_LEAST_TYPED:.0%} of the observations in `{at}`, "
            f"found {n_known} of {len(values)}. Name another column."
        )
        raise ValueError(msg)
    if len(types) < 2:
        msg = (
            f"Expected at least two cell types in `{at}`, found {types[0]!r} only. Name another "
            "column."
        )
        raise ValueError(msg)
    if len(types) > max(_MANY, n_known // 10):
        msg = (
            f"Expected cell types in `{at}`, found {len(types)} different values of {n_known} "
            "observations, which looks like something else. Name the column of the cell types."
        )
        raise ValueError(msg)
    return CellTypes(values, types)


def match_cell_types(column: pd.Series, names: Sequence[str], *, at: str) -> CellTypes:
    """Types of other observations, among those that are known by name.

    Parameters
    ----------
    column, at
        As for `read_cell_types`.
    names
        Names of the types that are known, in their order.

    Returns
    -------
    CellTypes
        An observation of another type counts as one without.

    Raises
    ------
    TypeError, ValueError
        As `read_cell_types`; but one type, or many, are as good as any.

    Warns
    -----
    UserWarning
        If there are other types.
    """
    values, types = _named(column, at)
    known = pd.Index(names).get_indexer(pd.Index(types))
    codes = np.append(known, -1)[values]
    n_known = int((codes >= 0).sum())
    if n_known < _LEAST_TYPED * len(codes) or n_known == 0:
        msg = (
            f"Expected cell types of the model for at least {_LEAST_TYPED:.0%} of the observations "
            f"in `{at}`, such as {first_of(names)}, found {n_known} of {len(codes)}"
            f"{f', and types such as {first_of(types)}' if len(types) else ''}. Name the types as "
            "the model does."
        )
        raise ValueError(msg)
    others = [name for name, code in zip(types, known, strict=True) if code < 0]
    if others:
        msg = (
            f"Expected cell types of the model in `{at}`, found others, {first_of(others)}, of "
            f"{int((values >= 0).sum()) - n_known} observations. They count as having no type."
        )
        warn(msg)
    return CellTypes(codes, tuple(names))


def types_around(types: CellTypes, adjacency: sparse.csr_matrix) -> NDArray[np.float32]:
    r"""Which types lie around each observation.

    One-hot types are averaged over the graph, as `m2st._graph.smooth` does it. The view are square
    roots of these shares: distances between them are those of Hellinger.

    Parameters
    ----------
    types
        Types of the observations.
    adjacency
        Spatial graph, shape (n_obs, n_obs), symmetric, zero diagonal.

    Returns
    -------
    Square roots of shares, shape (n_obs, n_types).

    Notes
    -----
    An observation without a type adds nothing: shares are those among the others. Where no type is
    known that near, they are the mean shares.
    """
    one_hot = np.eye(len(types.names) + 1)[types.codes][:, :-1]  # zeros without a type
    shares = smooth(one_hot, adjacency, n_hops=_HOPS)
    known = shares.sum(axis=1)
    near = known > 0
    shares[near] /= known[near, None]
    shares[~near] = shares[near].mean(axis=0)
    return np.sqrt(shares).astype(np.float32)


def _named(column: pd.Series, at: str) -> tuple[NDArray[np.intp], tuple[str, ...]]:
    """Numbers of the types, -1 where there is none, and their names in alphabetical order."""
    check_missing_as_such(column, what="cell types", name=at)
    codes, values = pd.factorize(column)
    texts = [_name(value, at) for value in values]
    names = sorted(set(texts))
    order = np.array([names.index(text) for text in texts] + [-1], dtype=np.intp)
    return order[codes], tuple(names)


def _name(value: object, at: str) -> str:
    """Text of a value; of whole numbers without a fraction, which missing ones beside them add."""
    if isinstance(value, float | np.floating):
        if not float(value).is_integer():
            msg = (
                f"Expected cell types as text, categories or whole numbers in `{at}`, found "
                f"numbers such as {float(value)}. Name the column of the cell types."
            )
            raise TypeError(msg)
        return str(int(value))
    return str(value)
