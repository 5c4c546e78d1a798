"""Data sets as their authors published them: tables of beads and counts, tables of annotations.

==============================  ==================================================================
data set of the paper           route
==============================  ==================================================================
DLPFC, 12 sections              ``spatial_libd("151673")``; or a folder of Space Ranger with its
                                table of layers: ``annotate(io.read(folder), "metadata.tsv", ...)``
breast cancer, block A sect. 1  10x Genomics, data set V1_Breast_Cancer_Block_A_Section_1 (Space
                                Ranger 1.1), ``io.read(folder)``; ``annotate`` with the table that
                                SEDR published (``fine_annot_type``)
STARmap, mouse visual cortex    ``io.read("STARmap.h5ad")``, as published with annotations
Slide-seqV2, mouse hippocampus  Single Cell Portal SCP815, Puck_200115_08: ``slide_seq`` on
                                ``*.digital_expression.txt.gz`` and ``*_bead_locations.csv``
Slide-seq, mouse cerebellum     Single Cell Portal SCP354: ``slide_seq`` on ``MappedDGEForR.csv``
                                and ``BeadLocationsForR.csv``
human heart, Visium             10x Genomics, data set V1_Human_Heart (Space Ranger 1.1),
                                ``io.read(folder)``
==============================  ==================================================================
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st import _keys
from m2st.interop._values import unique_names

__all__ = ["annotate", "slide_seq"]

_ROWS = 500  # genes that are dense at a time
_DOMAIN = "domain"


def slide_seq(counts: str | os.PathLike[str], beads: str | os.PathLike[str]) -> AnnData:
    """Read Slide-seq or Slide-seqV2 as published: a table of counts and a table of beads.

    Parameters
    ----------
    counts
        Text table, genes × beads, comma or tab between the columns, also compressed: the first
        column has the genes, the first row the barcodes. ``MappedDGEForR.csv`` of Slide-seq,
        ``*.digital_expression.txt.gz`` of Slide-seqV2.
    beads
        Text table with a row for each bead: the barcode first, x and y last, with or without a
        header. ``BeadLocationsForR.csv``, ``*_bead_locations.csv``.

    Returns
    -------
    AnnData with counts in ``X``, CSR float32, and x and y in ``obsm["spatial"]``, float64, in the
    unit of the file; beads in the order of `counts`. Beads without a place are left out.

    Raises
    ------
    ValueError
        No bead of `counts` is in `beads`, or a table is of another form.

    Examples
    --------
    >>> adata = m2st.datasets.slide_seq("MappedDGEForR.csv", "BeadLocationsForR.csv")
    ... # doctest: +SKIP
    """
    places = _read_beads(Path(beads))
    chunks, genes, barcodes = [], [], pd.Index([])
    for chunk in pd.read_csv(counts, sep=None, engine="python", index_col=0, chunksize=_ROWS):
        barcodes = chunk.columns.astype(str)
        genes += [str(gene) for gene in chunk.index]
        chunks.append(sparse.csc_matrix(chunk.to_numpy(np.float32).T))
    found = barcodes.isin(places.index)
    if not found.any():
        msg = (
            f"Expected the barcodes of {counts} in {beads}, found none of {len(barcodes)} (such as "
            f"{list(barcodes[:2])}). Check that both are of one puck, and genes in the rows."
        )
        raise ValueError(msg)
    matrix = sparse.hstack(chunks, format="csr")[found]
    names = pd.Index(unique_names(genes))
    obs, var = pd.DataFrame(index=barcodes[found]), pd.DataFrame(index=names)
    adata = AnnData(matrix, obs=obs, var=var)
    adata.obsm[_keys.COORDINATES] = places.loc[adata.obs_names].to_numpy(np.float64)
    return adata


def _read_beads(path: Path) -> pd.DataFrame:
    """Read barcodes with x and y; a first row of numbers is no header."""
    table = pd.read_csv(path, header=None, dtype=str, sep=None, engine="python")
    if table.shape[1] < 3:
        msg = f"Expected barcode, x and y in {path}, found {table.shape[1]} columns."
        raise ValueError(msg)
    numbers = table.iloc[:, -2:].apply(pd.to_numeric, errors="coerce")
    places = numbers.set_index(table.iloc[:, -3])
    if places.iloc[0].isna().any():
        places = places.iloc[1:]
    if places.isna().any(axis=None) or places.index.has_duplicates:
        msg = f"Expected a number for x and y and each barcode once in {path}, found otherwise."
        raise ValueError(msg)
    return places


def annotate(adata: AnnData, table: str | os.PathLike[str], column: str) -> None:
    """Add an annotation that was published as a table beside the data.

    Parameters
    ----------
    adata
        Data whose ``obs_names`` are the barcodes of the table.
    table
        Text table, comma or tab between the columns, barcodes in the first.
    column
        Column with the annotation.

    Raises
    ------
    KeyError
        The table has no such column.
    ValueError
        No barcode of the data is in the table.

    Notes
    -----
    *Writes* ``obs["domain"]``, categorical, missing where the table has no barcode or no value.

    Examples
    --------
    >>> m2st.datasets.annotate(adata, "metadata.tsv", "layer_guess")  # doctest: +SKIP
    """
    known = pd.read_csv(table, sep=None, engine="python", index_col=0)
    if column not in known:
        found = ", ".join(map(str, known.columns))
        msg = f"Expected a column {column!r} in {table}, found {found}."
        raise KeyError(msg)
    if not adata.obs_names.isin(known.index.astype(str)).any():
        msg = (
            f"Expected the barcodes of the data in {table}, found none of them: the table has "
            f"{list(known.index[:2])}, the data {list(adata.obs_names[:2])}."
        )
        raise ValueError(msg)
    values = known[column].set_axis(known.index.astype(str)).reindex(adata.obs_names)
    adata.obs[_DOMAIN] = pd.Categorical(values)
