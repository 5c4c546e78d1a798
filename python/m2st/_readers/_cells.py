"""Imaging of single cells: Xenium, CosMx and MERSCOPE, as their software leaves a section."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pandas as pd
from anndata import AnnData

from m2st._readers._counts import read_counts
from m2st._readers._shared import expect, find, place, read_10x, read_table

_XENIUM_COUNTS = ("cell_feature_matrix.h5", "cell_feature_matrix")
_XENIUM_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_COSMX_COUNTS = ("exprMat_file.csv", "exprMat_file.csv.gz")
_COSMX_CELLS = ("metadata_file.csv", "metadata_file.csv.gz")
_MERSCOPE_COUNTS, _MERSCOPE_CELLS = "cell_by_gene.csv", "cell_metadata.csv"
# What is measured for control, and is no gene.
_COSMX_CONTROLS = re.compile(r"NegPrb\d*|Negative\d*|SystemControl\d*|FalseCode.*")
_MERSCOPE_CONTROLS = re.compile(r"Blank-?\d*")


def find_xenium(root: Path) -> Path | None:
    """Counts of a Xenium output folder."""
    return next((file for name in _XENIUM_COUNTS if (file := find(name, root))), None)


def read_xenium(counts: Path, *, trust: bool) -> AnnData:
    """Read cells of Xenium, in micrometres; genes without controls."""
    root = counts.parent
    file = _required(root, _XENIUM_CELLS, "Xenium's `cells.parquet` or `cells.csv.gz`")
    adata = read_10x(counts, trust=trust)
    with expect("cells of Xenium", file):
        cells = read_table(file, trust=trust)
        names = cells["cell_id"].map(
            lambda name: name.decode() if isinstance(name, bytes) else name
        )
        cells = cells.drop(columns="cell_id").set_index(pd.Index(names.astype(str), name=None))
        place(adata, cells, ("x_centroid", "y_centroid"), file=file, counts=counts)
    return adata


def find_cosmx(root: Path) -> Path | None:
    """Counts of a folder of flat files of CosMx."""
    return next((file for name in _COSMX_COUNTS if (file := find(name, root))), None)


def read_cosmx(counts: Path, *, trust: bool) -> AnnData:
    """Read cells of CosMx, in pixels of the whole section; genes without controls.

    A cell has a number within its field of view. Number 0 holds what lies outside all cells.
    """
    file = _required(counts.parent, _COSMX_CELLS, "CosMx's `metadata_file.csv`")
    with expect("counts of CosMx", counts):
        table = read_counts(
            counts,
            names=("fov", "cell_ID"),
            others=("cell",),
            controls=_COSMX_CONTROLS,
            keep=lambda chunk: chunk["cell_ID"] != 0,
            trust=trust,
        )
    with expect("cells of CosMx", file):
        cells = read_table(file, trust=trust)
        pairs = zip(cells["fov"], cells["cell_ID"], strict=True)
        cells.index = pd.Index([f"{fov}_{cell}" for fov, cell in pairs])
    columns = ("CenterX_global_px", "CenterY_global_px")
    place(table, cells, columns, file=file, counts=counts)
    return table


def find_merscope(root: Path) -> dict[str, Path]:
    """Counts of MERSCOPE, by region: of this folder, or of those in it."""
    if (root / _MERSCOPE_COUNTS).is_file():
        return {root.name: root / _MERSCOPE_COUNTS}
    found = sorted(root.glob(f"*/{_MERSCOPE_COUNTS}"))
    return {file.parent.name: file for file in found}


def read_merscope(counts: Path, *, trust: bool) -> AnnData:
    """Read cells of MERSCOPE, in micrometres; genes without blanks."""
    file = _required(counts.parent, (_MERSCOPE_CELLS,), f"MERSCOPE's `{_MERSCOPE_CELLS}`")
    with expect("counts of MERSCOPE", counts):
        adata = read_counts(counts, names=(None,), controls=_MERSCOPE_CONTROLS, trust=trust)
    with expect("cells of MERSCOPE", file):
        # Names are numbers of more digits than a number has here.
        named = partial(pd.read_csv, index_col=0, converters={0: str})
        cells = read_table(file, trust=trust, text=named)
        cells.index.name = None
    place(adata, cells, ("center_x", "center_y"), file=file, counts=counts)
    return adata


def _required(root: Path, names: tuple[str, ...], what: str) -> Path:
    """Find a file that must be there."""
    file = next((file for name in names if (file := find(name, root))), None)
    if file is None:
        msg = f"Expected {what} in {root}, found none. Copy it beside the counts."
        raise FileNotFoundError(msg)
    return file
