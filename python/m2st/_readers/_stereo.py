"""Stereo-seq: h5ad of Stereopy, in its own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st import _keys

_HELD = {"exp_matrix", "genes", "cells", "position"}
# Where SAW 8, and SAW before, leave results in h5ad.
_FOLDERS = (".", "analysis", "feature_expression", "051.cellcluster")


def find_h5ad(root: Path) -> dict[str, Path]:
    """Files of h5ad in a folder, or where Stereo-seq's workflow leaves them, by name."""
    for name in _FOLDERS:
        found = {file.stem: file for file in sorted((root / name).glob("*.h5ad"))}
        if found:
            return found
    return {}


def is_stereopy(held: set[str]) -> bool:
    """Whether an HDF5 file with these groups is Stereopy's."""
    return held >= _HELD


def read_stereopy(path: Path) -> AnnData:
    """Read what Stereopy has written: raw counts if they are there, and the place of each bin.

    Genes and cells are tables since version 0.10, and arrays of names before.
    """
    with h5py.File(path) as file:
        raw = "@raw" if "exp_matrix@raw" in file else ""

        def part(name: str) -> Any:
            return file[f"{name}{raw}" if f"{name}{raw}" in file else name]

        cells = _names(part("cells"), "obs", "cell_name")
        genes = _names(part("genes"), "var", "gene_name")
        adata = AnnData(_matrix(part("exp_matrix")), obs=cells, var=genes)
        adata.obsm[_keys.COORDINATES] = np.asarray(part("position")[:, :2], dtype=np.float64)
    adata.var_names_make_unique()
    return adata


def _names(group: Any, table: str, array: str) -> pd.DataFrame:
    """A table of Stereopy's, or one of names alone."""
    if table in group:
        frame = group[table]
        index = frame[frame.attrs["_index"]]
    else:
        index = group[array]
    return pd.DataFrame(index=pd.Index([_text(name) for name in index[:]]))


def _matrix(element: Any) -> sparse.csr_matrix:
    if isinstance(element, h5py.Dataset):
        return sparse.csr_matrix(element[:])
    kind = (
        sparse.csc_matrix if element.attrs["encoding-type"] == "csc_matrix" else sparse.csr_matrix
    )
    parts = tuple(element[part][:] for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix(kind(parts, shape=tuple(element.attrs["shape"])))


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def place_from_obs(adata: AnnData) -> None:
    """Take coordinates from ``obs``, where SAW has left them, if there are none."""
    if _keys.COORDINATES not in adata.obsm and {"x", "y"} <= set(adata.obs.columns):
        found = adata.obs[["x", "y"]]
        if all(pd.api.types.is_numeric_dtype(found[axis]) for axis in found):
            adata.obsm[_keys.COORDINATES] = found.to_numpy(np.float64)
