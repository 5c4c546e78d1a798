"""A folder: which instrument it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anndata import AnnData

from m2st._readers._cells import (
    find_cosmx,
    find_merscope,
    find_xenium,
    read_cosmx,
    read_merscope,
    read_xenium,
)
from m2st._readers._counts import find_tables, read_tables
from m2st._readers._shared import SUPPORTED, choose, names_in
from m2st._readers._space_ranger import find_counts, find_parts, read_space_ranger
from m2st._readers._stereo import find_h5ad


def read_folder(
    path: Path, table: str | None, *, trust: bool, read_h5ad: Callable[[Path], AnnData]
) -> AnnData:
    """Read the folder of one section.

    Parameters
    ----------
    path
        The folder, or the one that holds it.
    table
        Which bins, cells, region or file to read, where there are several.
    trust
        Whether files are read unchecked.
    read_h5ad
        Reads a file of h5ad.

    Raises
    ------
    ValueError
        No layout is found; `table` does not name a part of it, or there are none to name.
    """
    for root in (path, path / "outs"):
        if not root.is_dir():
            continue
        found = _read_known(root, table, trust=trust, read_h5ad=read_h5ad)
        if found is not None:
            return found
    names = sorted(names_in(path))
    found_names = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
    msg = (
        f"Expected a data set in the folder {path}, found: {found_names}. Looked for `zarr.json` "
        "or `.zgroup` with `obs` and `var` (AnnData) or `tables` (SpatialData), and, here and in "
        "`outs`, for `filtered_feature_bc_matrix.h5`, `filtered_feature_bc_matrix`, "
        "`binned_outputs` and `segmented_outputs` (Space Ranger), `cell_feature_matrix.h5` "
        "(Xenium), `exprMat_file.csv` (CosMx), `cell_by_gene.csv` (MERSCOPE), `.h5ad` "
        f"(Stereo-seq), and a table of counts and one of places. {SUPPORTED}"
    )
    raise ValueError(msg)


def _read_known(
    root: Path, table: str | None, *, trust: bool, read_h5ad: Callable[[Path], AnnData]
) -> AnnData | None:
    """Read this folder, if its layout is known."""
    if counts := find_counts(root):
        _check_no_parts(table, root)
        return read_space_ranger(root, counts, trust=trust)
    if parts := find_parts(root):
        what = "bin size of Visium HD, or its cells,"
        part = choose(parts, table, what=what, root=root)
        return read_folder(part, None, trust=trust, read_h5ad=read_h5ad)
    if regions := find_merscope(root):
        region = choose(regions, table, what="region of MERSCOPE", root=root)
        return read_merscope(region, trust=trust)
    for find, read in ((find_xenium, read_xenium), (find_cosmx, read_cosmx)):
        if counts := find(root):
            _check_no_parts(table, root)
            return read(counts, trust=trust)
    if tables := find_tables(root):
        _check_no_parts(table, root)
        return read_tables(*tables, trust=trust)
    if files := find_h5ad(root):
        file = choose(files, table, what="file of h5ad", root=root)
        return read_h5ad(file)
    return None


def _check_no_parts(table: str | None, root: Path) -> None:
    """Refuse the name of a part where there is only one."""
    if table is not None:
        msg = f"Expected no `table` with {root}, which has only one, found {table!r}. Leave it out."
        raise ValueError(msg)
