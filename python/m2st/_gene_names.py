"""Genes by name: where they are, and why they are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# Ids of Ensembl: of a species (none for human), of a gene, with a version or without.
_ENSEMBL = re.compile(r"ENS([A-Z]{0,6})G\d{6,}(\.\d+)?")
# Share of the fewer genes that is there by name, from which the names are of the same kind.
_SAME_NAMES = 0.2
# Names that are looked at to tell what kind they are.
_N_ASKED = 200


def positions(genes: Sequence[str], names: pd.Index) -> NDArray[np.intp]:
    """Position of each gene among unique names, -1 where it is none of them."""
    known = pd.Index(names.astype(str))
    return np.asarray(known.get_indexer(pd.Index(list(genes), dtype=object)), dtype=np.intp)


def genes_in_common(
    genes: pd.Index,
    names: pd.Index,
    var: pd.DataFrame,
    *,
    least: float,
    expected: str,
    another: str,
    theirs: pd.DataFrame | None = None,
) -> pd.Index:
    """Genes of a reference that are among the names of a section, in its order; enough of them.

    Parameters
    ----------
    genes
        Genes of the reference.
    least
        Least number.
    names, var, expected, another, theirs
        As for `explain_missing`.
    """
    shared = genes[genes.isin(names)]
    if len(shared) < least:
        msg = explain_missing(
            list(genes.astype(str)),
            names,
            var,
            expected=expected,
            owner="reference",
            another=another,
            theirs=theirs,
        )
        raise ValueError(msg)
    return shared


def explain_missing(
    genes: Sequence[str],
    names: pd.Index,
    var: pd.DataFrame,
    *,
    expected: str,
    owner: str,
    another: str,
    theirs: pd.DataFrame | None = None,
) -> str:
    """Say that too few genes are among the names of a section, and the likely cause.

    Parameters
    ----------
    genes
        Genes that are wanted.
    names
        Genes of the section.
    var
        Its table of genes, with further names that it may have.
    expected
        How many of which genes are expected, as the object of a sentence.
    owner
        Whose genes they are, such as "model".
    another
        What else may help, such as "fit a model on": "these genes" comes after it.
    theirs
        Table of the genes that are wanted, if the owner is an object that has one.
    """
    found = [str(name) for name in names]
    wanted = set(genes)
    n_there = len(wanted & set(found))
    text = f"Expected {expected} in `adata.var_names`, found {n_there}. "
    other = another[0].upper() + another[1:]
    if 2 * n_there > len(wanted):
        lacking = sorted(wanted - set(found))
        return f"{text}Not there: {', '.join(lacking[:3])}. {other} the genes of both."
    kinds = _kind(genes), _kind(found)
    if kinds[0] != kinds[1]:
        text += f"The {owner} has {kinds[0]}, and this section has {kinds[1]}. "
    tables = {"adata": (var, wanted)}
    if theirs is not None:
        tables[owner] = (theirs, set(found))
    for holder, (table, others) in tables.items():
        column = _fitting_column(others, table)
        if column:
            return (
                f"{text}The column {column!r} of `{holder}.var` fits. Call "
                f"`{holder}.var_names = {holder}.var[{column!r}].astype(str)`, and "
                f"`{holder}.var_names_make_unique()` if some occur twice."
            )
    if _enough(wanted, map(_without_version, found), _without_version):
        return f"{text}They differ in the version after the dot: remove it from the names."
    if _enough(wanted, (name.upper() for name in found), str.upper):
        return (
            f"{text}They differ in upper and lower case only: genes of mouse are written Gapdh, of "
            f"human GAPDH. {other} the same species. If it is the same, rename the genes."
        )
    if n_there > _SAME_NAMES * min(len(wanted), len(found)):
        text += f"This section has {len(found)} genes, mostly others. "
        return f"{text}{other} the genes of both."
    return (
        f"{text}The {owner} has names such as {', '.join(list(genes)[:3])}, this section "
        f"{', '.join(found[:3])}. Use the same names for both, or {another} these genes."
    )


def _kind(names: Iterable[str]) -> str:
    """What most of some names are."""
    asked = list(names)[:_N_ASKED]
    ids = [match for name in asked if (match := _ENSEMBL.fullmatch(name))]
    if 2 * len(ids) <= len(asked):
        return "gene symbols"
    species = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish"}
    prefix = max({one[1] for one in ids}, key=[one[1] for one in ids].count)
    return f"Ensembl ids ({species.get(prefix, f'ENS{prefix}G')})"


def _fitting_column(wanted: set[str], var: pd.DataFrame) -> str | None:
    """Column of a table of genes with at least half of those possible; the one with most."""
    counts = {
        str(column): len(wanted & set(var[column].dropna().astype(str)))
        for column in var.columns
        if var[column].ndim == 1 and not pd.api.types.is_numeric_dtype(var[column])
    }
    best = max(counts, key=lambda column: counts[column], default=None)
    if best is None or 2 * counts[best] < max(min(len(wanted), len(var)), 1):
        return None
    return best


def _enough(wanted: set[str], names: Iterable[str], change: Callable[[str], str]) -> bool:
    ours, theirs = {change(name) for name in wanted}, set(names)
    return 2 * len(ours & theirs) >= max(min(len(ours), len(theirs)), 1)


def _without_version(name: str) -> str:
    return re.sub(r"\.\d+$", "", name)
