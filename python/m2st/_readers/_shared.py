"""What readers share: finding files by name, and one phrasing for files that cannot be read."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st import _keys
from m2st._checks import check_sparse, importing
from m2st._trust import Untrusted, check_gzip, check_hdf5, check_mtx, check_parquet

SUPPORTED = (
    "Supported: an `.h5ad` file, a SpatialData or AnnData zarr folder, the folder of Space Ranger, "
    "Xenium, CosMx, MERSCOPE or Stereo-seq, tables of counts and places in a folder, an R object "
    "in an `.rds`, `.rda` or `.RData` file."
)


@contextmanager
def expect(what: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one line that names it."""
    try:
        yield
    except (ImportError, MemoryError, PermissionError, Warning):
        raise
    except Untrusted as refused:
        msg = (
            f"Expected {what} that can be read safely, found {path} not to be: {refused}. If you "
            "trust where it comes from: `trust=True`, or `--trust` on the command line."
        )
        raise ValueError(msg) from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"Expected {what} at {path}, found it damaged or of another kind ({reason}). "
        raise ValueError(msg + SUPPORTED) from error


def names_in(folder: Path) -> set[str]:
    """Names of what a folder holds."""
    return {entry.name for entry in folder.iterdir()}


def choose(parts: dict[str, Path], table: str | None, *, what: str, root: Path) -> Path:
    """Choose a part of a folder by its name; the only one needs no name."""
    if table in parts:
        return parts[table]
    if table is None and len(parts) == 1:
        return next(iter(parts.values()))
    asked = f"one {what}" if table is None else f"the {what} {table!r}"
    msg = f"Expected {asked} in {root}, found: {', '.join(parts)}. Name one with `table=`."
    raise ValueError(msg)


def read_table(
    file: Path, *, trust: bool, text: Callable[[Path], pd.DataFrame] = pd.read_csv
) -> pd.DataFrame:
    """Read a table of parquet, or by `text` of text that gzip may have packed."""
    if file.suffix == ".parquet":
        with importing("pyarrow", f"Reading {file}", "pip install pyarrow"):
            import pyarrow  # noqa: F401
        if not trust:
            check_parquet(file)
        return pd.read_parquet(file)
    if file.suffix == ".gz" and not trust:
        check_gzip(file)
    return text(file)


def first_line(file: Path) -> str:
    """First line of a text, which gzip may have packed."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as stream:
        return stream.readline()


def separator(line: str) -> str:
    """The sign between columns: the one that a line has most of."""
    return max(",;\t", key=line.count)


def read_10x(counts: Path, *, trust: bool) -> AnnData:
    """Read genes of 10x counts, as one file or as a folder of three; CSR, names made unique."""
    import scanpy as sc

    with expect("10x counts", counts), warnings.catch_warnings():
        if not trust:
            _check_counts(counts)
        if counts.is_file():
            _check_matrices(counts)
        # Two genes may share a symbol; the names are made unique below.
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        adata = sc.read_10x_h5(counts) if counts.is_file() else sc.read_10x_mtx(counts)
    adata.var_names_make_unique()
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def place(
    adata: AnnData, cells: pd.DataFrame, columns: tuple[str, str], *, file: Path, counts: Path
) -> None:
    """Put the cells of a table beside their counts: coordinates, and further columns of ``obs``.

    Parameters
    ----------
    adata
        Counts; written to.
    cells
        One row for each cell, under its name in `adata`.
    columns
        Those of x and y.
    file, counts
        For messages.
    """
    doubled = int(cells.index.duplicated().sum())
    lost = adata.obs_names[~adata.obs_names.isin(cells.index)]
    if doubled or len(lost):
        found = f"{doubled} repeated" if doubled else f"none for {len(lost)} (such as {lost[0]})"
        msg = (
            f"Expected a row for each of the {adata.n_obs} cells of {counts} in {file}, found "
            f"{found}. Check that both are of one section."
        )
        raise ValueError(msg)
    rows = cells.loc[adata.obs_names]
    with expect("numbers as coordinates", file):
        adata.obsm[_keys.COORDINATES] = rows[[*columns]].to_numpy(np.float64)
    for name in rows.columns.difference([*columns, *adata.obs.columns], sort=False):
        adata.obs[name] = rows[name]


def _check_matrices(counts: Path) -> None:
    """Require valid matrices in an HDF5 file of 10x, of which scanpy takes a part at once."""

    def check(name: str, group: Any) -> None:
        if isinstance(group, h5py.Group) and {"data", "indices", "indptr", "shape"} <= set(group):
            parts = [group[part][:] for part in ("data", "indices", "indptr")]
            matrix = sparse.csr_matrix(tuple(parts), shape=tuple(group["shape"][:][::-1]))
            check_sparse(matrix, name=f"{name} in {counts}")

    with h5py.File(counts) as file:
        file.visititems(check)


def _check_counts(counts: Path) -> None:
    """Look at 10x counts, as one file or as a folder of three."""
    if counts.is_file():
        check_hdf5(counts)
        return
    for file in counts.iterdir():
        if file.name.endswith((".mtx", ".mtx.gz")):
            check_mtx(file)
        elif file.suffix == ".gz":
            check_gzip(file)


def find(name: str, *folders: Path) -> Path | None:
    """Find a file or folder by name, alone or behind a sample's prefix, as GEO delivers them."""
    for folder in folders:
        if (folder / name).exists():
            return folder / name
        found = sorted(p for p in folder.glob(f"*{name}") if not p.name.startswith("."))
        if len(found) > 1:
            msg = (
                f"Expected the files of one sample in {folder}, found "
                f"{', '.join(p.name for p in found)}. Give each sample a folder of its own."
            )
            raise ValueError(msg)
        if found:
            return found[0]
    return None
