"""Counts as text: a row for each observation, or for each gene."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st import _keys
from m2st._readers._shared import expect, first_line, separator
from m2st._trust import check_gzip

# Numbers of a table that are dense at a time.
_PIECE = 2**24
_COUNTS = re.compile(r"(counts?|expression|MappedDGEForR|expr|gene_count)", re.IGNORECASE)
_PLACES = re.compile(r"(coord|location|position|spatial|centroid|places)", re.IGNORECASE)
_TEXT = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def find_tables(root: Path) -> tuple[Path, Path] | None:
    """Find a table of counts and one of places by their names, if there is one of each."""
    files = [file for file in sorted(root.iterdir()) if _is_table(file)]
    places = [file for file in files if _PLACES.search(file.name)]
    counts = [file for file in files if _COUNTS.search(file.name) and file not in places]
    if not (counts and places):
        return None
    if len(counts) > 1 or len(places) > 1:
        msg = (
            f"Expected one table of counts and one of places in {root}, found "
            f"{', '.join(file.name for file in [*counts, *places])}. Give each sample a folder."
        )
        raise ValueError(msg)
    return counts[0], places[0]


def read_tables(counts: Path, places: Path, *, trust: bool) -> AnnData:
    """Read a table of counts, either way around, and one of places.

    Observations without a place have no coordinates; they stay.
    """
    with expect("a table of names, x and y", places):
        where = read_places(places, trust=trust)
    with expect("a table of counts", counts):
        adata = read_counts(counts, names=(None,), trust=trust)
        if not adata.obs_names.isin(where.index).any():
            adata = adata.T.copy()
            adata.X = sparse.csr_matrix(adata.X)
    if not adata.obs_names.isin(where.index).any():
        msg = (
            f"Expected the names of {places} in the rows or columns of {counts}, found none of "
            f"{len(where)} (such as {where.index[0]}). Check that both are of one sample."
        )
        raise ValueError(msg)
    adata.var_names_make_unique()
    adata.obsm[_keys.COORDINATES] = where.reindex(adata.obs_names).to_numpy(np.float64)
    return adata


def read_places(file: Path, *, trust: bool) -> pd.DataFrame:
    """Read names with x and y, the last two columns; a first row of words is a header."""
    if file.suffix == ".gz" and not trust:
        check_gzip(file)
    table = pd.read_csv(file, header=None, dtype=str, sep=separator(first_line(file)))
    if table.shape[1] < 3:
        msg = f"{table.shape[1]} columns"
        raise ValueError(msg)
    numbers = table.iloc[:, -2:].apply(pd.to_numeric, errors="coerce")
    names = table.iloc[:, 0].fillna("").astype(str)
    places = numbers.set_axis(["x", "y"], axis=1).set_index(pd.Index(names, name=None))
    if places.iloc[0].isna().any():
        places = places.iloc[1:]
    if places.isna().any(axis=None) or places.index.has_duplicates:
        msg = "a place that is no number, or a name twice"
        raise ValueError(msg)
    return places


def read_counts(
    file: Path,
    *,
    names: Sequence[str | None],
    others: Sequence[str] = (),
    controls: re.Pattern[str] | None = None,
    keep: Callable[[pd.DataFrame], Any] | None = None,
    trust: bool,
) -> AnnData:
    """Read a table of counts in pieces, into a sparse matrix.

    Parameters
    ----------
    file
        Text, with a header. gzip may have packed it.
    names
        Columns that together name a row; None for the first one.
    others
        Columns that are no counts.
    controls
        Columns to leave out.
    keep
        Which rows of a piece to keep; None for all.
    trust
        Whether what is packed may unpack to any size.

    Returns
    -------
    Counts in CSR, float32, under the names of the rows and columns.
    """
    if file.suffix == ".gz" and not trust:
        check_gzip(file)
    sign = separator(first_line(file))
    head = pd.read_csv(file, sep=sign, nrows=1)
    # R's `write.table` names all columns but that of the names.
    unnamed = [] if isinstance(head.index, pd.RangeIndex) else ["names"]
    header = [*unnamed, *map(str, head.columns)]
    keys = [header[0] if name is None else name for name in names]
    genes = [
        name
        for name in header
        if name not in keys and name not in others and not (controls and controls.fullmatch(name))
    ]
    rows: list[str] = []
    parts = []
    pieces = pd.read_csv(
        file,
        sep=sign,
        header=0,
        names=header,
        usecols=[*keys, *genes],
        dtype={header[0]: str} if None in names else None,
        chunksize=max(1, _PIECE // max(1, len(genes))),
    )
    for piece in pieces:
        kept = piece if keep is None else piece[keep(piece)]
        rows += ["_".join(map(str, row)) for row in kept[keys].itertuples(index=False)]
        parts.append(sparse.csr_matrix(kept[genes].to_numpy(np.float32)))
    return AnnData(
        sparse.vstack(parts, format="csr"),
        obs=pd.DataFrame(index=pd.Index(rows)),
        var=pd.DataFrame(index=pd.Index(genes)),
    )


def _is_table(file: Path) -> bool:
    return file.is_file() and file.name.endswith(_TEXT) and not file.name.startswith(".")
