"""Reading spatial data into AnnData from the formats in use, and writing it whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys

__all__ = ["read", "write"]

_SUPPORTED = (
    "Supported: an `.h5ad` file, a SpatialData or AnnData zarr folder, "
    "the output folder of Space Ranger, an R object in an `.rds`, `.rda` or `.RData` file."
)
_COUNTS = "filtered_feature_bc_matrix"
# Visium HD, Space Ranger >= 2.0, Space Ranger <= 1.3.
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_ARRAY = ["in_tissue", "array_row", "array_col"]
_PIXELS = ["pxl_row_in_fullres", "pxl_col_in_fullres"]
_ZARR_MARKS = {"zarr.json", ".zgroup"}


def read(path: str | os.PathLike[str], *, table: str | None = None) -> AnnData:
    """Read a spatial data set; the format is found from what is there.

    Parameters
    ----------
    path
        One of

        * an ``.h5ad`` file;
        * an R object, SpatialExperiment, SingleCellExperiment or Seurat, in an ``.rds``, ``.rda``
          or ``.RData`` file; where it holds several, see :func:`m2st.interop.read_r`;
        * a zarr folder written by SpatialData (needs ``m2st[spatialdata]``) or by AnnData;
        * the output of Space Ranger: ``outs``, the folder that holds it, one
          ``binned_outputs/square_*um`` of Visium HD, or a folder with the files of one sample,
          which may carry a prefix as in ``GSM1_filtered_feature_bc_matrix.h5``.
    table
        Name of the table to take from a SpatialData store; needed only where it holds several, and
        refused with any other format.

    Returns
    -------
    AnnData
        Observations in the order of the file. Coordinates are in ``obsm["spatial"]``, (n_obs, 2),
        where the source has them. From Space Ranger, as scanpy lays it out:
        ``X`` CSR counts; ``var["gene_ids"]``, names made unique; ``obs["in_tissue"]``,
        ``obs["array_row"]``, ``obs["array_col"]`` int64; ``obsm["spatial"]`` float64, column and
        row of the pixel in the full-resolution image; ``uns["spatial"][library_id]`` with
        ``images`` (those of hires and lowres that are there) and ``scalefactors``.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`, or a Space Ranger folder has no positions.
    ValueError
        The file or folder is empty, damaged or of another format; barcodes have no position;
        `table` does not say which table to take.
    ImportError
        The package that the format needs is not installed.

    Warns
    -----
    UserWarning
        A Space Ranger folder has no ``scalefactors_json.json``: its images cannot be placed and
        ``uns["spatial"]`` is not written.

    Notes
    -----
    A SpatialData table without ``obsm["spatial"]`` gets the centroids of the shapes that it
    annotates, in the shapes' own coordinates: no transformation is applied.

    Examples
    --------
    >>> adata = m2st.io.read("section/outs")  # doctest: +SKIP
    """
    path = Path(path)
    if _is_zarr(path) and {"tables", "table"} & _names(path):
        return _read_spatialdata(path, table)
    if table is not None:
        msg = f"Expected `table` only with a SpatialData store, found {table!r} with {path}."
        raise ValueError(msg)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        msg = f"Expected a file or folder at {path}, found nothing. {_SUPPORTED}"
        raise FileNotFoundError(msg)
    suffix = path.suffix.lower()
    if suffix in {".rds", ".rda", ".rdata"}:
        from m2st.interop import read_r

        return read_r(path)
    if suffix != ".h5ad":
        msg = f"Expected a supported format, found {path}. {_SUPPORTED}"
        raise ValueError(msg)
    return _read_h5ad(path)


def write(adata: AnnData, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write to h5ad, or to SpatialData zarr, whole or not at all.

    Parameters
    ----------
    adata
        What to write. Text columns of ``obs`` and ``var`` with repeated values become categorical
        in it, as with :meth:`anndata.AnnData.write_h5ad`.
    path
        Where to, in a folder that exists; ends in ``.h5ad``, or in ``.zarr`` for a SpatialData
        store with one table, ``"table"`` (needs ``m2st[spatialdata]``). For R, see
        :func:`m2st.interop.write_r`.
    overwrite
        Whether a file that is there may be replaced.

    Raises
    ------
    ValueError
        `path` does not end in ``.h5ad`` or ``.zarr``.
    ImportError
        spatialdata is not installed.
    FileNotFoundError
        The folder does not exist.
    FileExistsError
        There is a file already, and `overwrite` is not set.
    OSError
        The disk is full or cannot be written; the message says how much was needed and free.

    Notes
    -----
    The file is put together in memory, compressed, then written beside `path` under another name,
    synced to disk and renamed: readers see the old file or the new one, never a part. It is put
    together in memory because HDF5 cannot let go of a file on a full disk, and ends the process
    with a segmentation fault. Values that h5ad cannot hold raise anndata's own error, with the key
    in a note to it.

    Examples
    --------
    >>> m2st.io.write(adata, "section.h5ad", overwrite=True)  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix not in {".h5ad", ".zarr"}:
        msg = f"Expected a path that ends in `.h5ad` or `.zarr`, found {path}."
        raise ValueError(msg)
    target = path.resolve()  # Through a link, so that the link stays one.
    if not target.parent.is_dir():
        msg = f"Expected the folder {target.parent} to exist. Make it first, or check the path."
        raise FileNotFoundError(msg)
    if target.exists() and not overwrite:
        msg = f"Expected no file at {path}, found one. Pass `overwrite=True` to replace it."
        raise FileExistsError(msg)

    if adata.is_view:
        adata = adata.copy()
    adata.strings_to_categoricals()
    if path.suffix == ".zarr":
        _write_spatialdata(adata, target)
        return
    image = BytesIO()
    with h5py.File(image, "w") as file:
        # On 100,000 x 2,000 counts, 10 % filled (160 MB): level 1 50 MB in 2.2 s, anndata's level 4
        # 50 MB in 5.8 s, lzf 87 MB in 1.9 s.
        how = {"compression": "gzip", "compression_opts": 1}
        ad.io.write_elem(file, "/", adata, dataset_kwargs=how)

    content = image.getbuffer()
    free = shutil.disk_usage(target.parent).free
    # Not tempfile's: its files are readable by their owner alone, and so would the result be.
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        with part.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    except OSError as error:
        msg = (
            f"Could not write {path}: {error.strerror}. It takes {len(content) / 1e6:,.2f} MB; "
            f"{free / 1e6:,.2f} MB were free in {target.parent}. What was there is unchanged."
        )
        raise OSError(error.errno, msg) from error
    finally:
        part.unlink(missing_ok=True)


def _write_spatialdata(adata: AnnData, target: Path) -> None:
    """Write a SpatialData store with this table beside the target, then put it in its place."""
    try:
        import spatialdata
        from spatialdata.models import TableModel
    except ImportError as error:
        msg = f"Writing {target} (SpatialData) needs `pip install 'm2st[spatialdata]'`."
        raise ImportError(msg) from error
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        spatialdata.SpatialData(tables={"table": TableModel.parse(adata)}).write(part)
        if target.exists():
            shutil.rmtree(target)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def _expect(what: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one line that names it."""
    try:
        yield
    except (ImportError, MemoryError, PermissionError, Warning):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"Expected {what} at {path}, found it damaged or of another kind ({reason}). "
        raise ValueError(msg + _SUPPORTED) from error


def _names(folder: Path) -> set[str]:
    """Names of what a folder holds."""
    return {entry.name for entry in folder.iterdir()}


def _is_zarr(path: Path) -> bool:
    """Whether this is the folder of a zarr group."""
    return path.is_dir() and bool(_ZARR_MARKS & _names(path))


def _read_h5ad(path: Path) -> AnnData:
    """Read h5ad; other HDF5 files are refused before anndata guesses at them."""
    if path.stat().st_size == 0:
        msg = f"Expected an h5ad file at {path}, found it empty. {_SUPPORTED}"
        raise ValueError(msg)
    with _expect("an h5ad file", path):
        with h5py.File(path) as file:
            found = set(file)
        if not {"obs", "var"} <= found:
            msg = f"no `obs` and `var` in it, but {', '.join(sorted(found)) or 'nothing'}"
            raise ValueError(msg)
        return ad.io.read_h5ad(path)


def _read_folder(path: Path) -> AnnData:
    """Read an AnnData zarr store or the output of Space Ranger."""
    names = _names(path)
    if _is_zarr(path) and {"obs", "var"} <= names:
        with _expect("an AnnData zarr store", path):
            return ad.io.read_zarr(path)
    for root in (path, path / "outs"):
        counts = _find(f"{_COUNTS}.h5", root) or _find(_COUNTS, root)
        if counts is not None:
            return _read_space_ranger(root, counts)
        bins = sorted((root / "binned_outputs").glob("square_*um"))
        if bins:
            msg = (
                f"Expected one bin size of Visium HD, found {len(bins)} in {bins[0].parent}. Give "
                f"the folder of one: {', '.join(bin_.name for bin_ in bins)}."
            )
            raise ValueError(msg)
    found = ", ".join(sorted(names)[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
    msg = (
        f"Expected a data set in the folder {path}, found: {found}. Looked for `zarr.json` or "
        f"`.zgroup` with `obs` and `var` (AnnData) or `tables` (SpatialData), and, here and in "
        f"`outs`, for `{_COUNTS}.h5`, `{_COUNTS}` and `binned_outputs` (Space Ranger). {_SUPPORTED}"
    )
    raise ValueError(msg)


def _find(name: str, *folders: Path) -> Path | None:
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


def _read_space_ranger(root: Path, counts: Path) -> AnnData:
    """Read counts, positions, scale factors and images of one capture area."""
    import scanpy as sc

    with _expect("10x counts", counts), warnings.catch_warnings():
        # Two genes may share a symbol; the names are made unique below.
        warnings.filterwarnings("ignore", "Variable names are not unique", UserWarning)
        adata = sc.read_10x_h5(counts) if counts.is_file() else sc.read_10x_mtx(counts)
    adata.var_names_make_unique()
    adata.X = sparse.csr_matrix(adata.X)

    folders = (root / "spatial", root)
    file = next((f for name in _POSITIONS if (f := _find(name, *folders))), None)
    if file is None:
        msg = (
            f"Expected the positions of the spots in {folders[0]}, found none of "
            f"{', '.join(_POSITIONS)}. Copy Space Ranger's folder `spatial` beside {counts.name}."
        )
        raise FileNotFoundError(msg)
    positions = _read_positions(file)
    lost = adata.obs_names[~adata.obs_names.isin(positions.index)]
    if len(lost):
        msg = (
            f"Expected a position for each of the {adata.n_obs} barcodes of {counts}, found none "
            f"for {len(lost)} (such as {lost[0]}) in {file}. Check that both are of one sample."
        )
        raise ValueError(msg)
    positions = positions.loc[adata.obs_names]
    adata.obs[_ARRAY] = positions[_ARRAY]
    adata.obsm[_keys.COORDINATES] = positions[_PIXELS[::-1]].to_numpy()

    scales = _find("scalefactors_json.json", *folders)
    if scales is None:
        msg = f"No scalefactors_json.json in {folders[0]}: the images cannot be placed, left out."
        warnings.warn(msg, UserWarning, stacklevel=4)
        return adata
    with _expect("Space Ranger's scale factors", scales):
        library: dict[str, Any] = {"images": {}, "scalefactors": json.loads(scales.read_bytes())}
    for size in ("hires", "lowres"):
        picture = _find(f"tissue_{size}_image.png", *folders)
        if picture is not None:
            from matplotlib.image import imread

            with _expect("a PNG image", picture):
                library["images"][size] = imread(picture)
    adata.uns["spatial"] = {_library_id(root, counts): library}
    return adata


def _read_positions(file: Path) -> pd.DataFrame:
    """Read positions of any generation, indexed by barcode."""
    columns = ["barcode", *_ARRAY, *_PIXELS]
    with _expect("positions of Space Ranger", file):
        if file.suffix == ".parquet":
            try:
                frame = pd.read_parquet(file)
            except ImportError as error:
                msg = f"Reading {file} (Visium HD) needs pyarrow: `pip install pyarrow`."
                raise ImportError(msg) from error
        else:
            # By content, not by name: files are renamed between the two generations.
            with file.open() as stream:
                has_header = stream.readline().startswith("barcode")
            frame = pd.read_csv(file, header=0 if has_header else None)
            if not has_header:
                frame.columns = columns
        types = dict.fromkeys(_ARRAY, "int64") | dict.fromkeys(_PIXELS, "float64")
        frame = frame[columns].astype(types).set_index("barcode")
        doubled = int(frame.index.duplicated().sum())
        if doubled:
            msg = f"{doubled} barcodes are repeated"
            raise ValueError(msg)
    return frame


def _library_id(root: Path, counts: Path) -> str:
    """Name of the capture area: as Space Ranger recorded it, or else the folder's."""
    if counts.is_file():
        with h5py.File(counts) as file:
            for name in file.attrs.get("library_ids", ()):
                return name.decode() if isinstance(name, bytes) else str(name)
    folder = root.resolve()
    return folder.parent.name if folder.name == "outs" else folder.name


def _read_spatialdata(path: Path, table: str | None) -> AnnData:
    """Read one table of a SpatialData store, with coordinates."""
    try:
        import spatialdata
    except ImportError as error:
        msg = f"Reading {path} (SpatialData) needs `pip install 'm2st[spatialdata]'`."
        raise ImportError(msg) from error
    with _expect("a SpatialData store", path):
        # Images and points are not needed, and may be large.
        store = spatialdata.read_zarr(path, selection=("tables", "shapes"))
    tables: dict[str, AnnData] = dict(store.tables)
    if table is None and len(tables) == 1:
        table = next(iter(tables))
    if table is None or table not in tables:
        asked = "one table" if table is None else f"the table {table!r}"
        found = ", ".join(map(repr, tables))
        hint = "Name one with `table=`." if found else "Only a table holds expression."
        msg = f"Expected {asked} in {path}, found: {found or 'no table'}. {hint}"
        raise ValueError(msg)
    adata = tables[table]
    if _keys.COORDINATES not in adata.obsm:
        adata.obsm[_keys.COORDINATES] = _centroids(adata, dict(store.shapes))
    return adata


def _centroids(adata: AnnData, shapes: dict[str, Any]) -> NDArray[np.float64]:
    """Centroid of the shape that each observation annotates, in the shapes' own coordinates."""
    link = adata.uns.get("spatialdata_attrs")
    if link is None:
        msg = (
            "Expected coordinates in the table's `obsm['spatial']` or shapes that it annotates, "
            "found neither. Write the coordinates into the table first."
        )
        raise ValueError(msg)
    region, instance = adata.obs[link["region_key"]], adata.obs[link["instance_key"]]
    coordinates = np.empty((adata.n_obs, 2))
    for name in region.unique():
        if name not in shapes:
            msg = (
                f"Expected the annotated region {name!r} among the shapes, found: "
                f"{', '.join(map(repr, shapes)) or 'no shapes'}. Write the coordinates into the "
                "table's `obsm['spatial']` first."
            )
            raise ValueError(msg)
        rows = (region == name).to_numpy()
        centroids = shapes[name].geometry.centroid
        places = centroids.index.get_indexer(instance[rows])
        lost = int((places < 0).sum())
        if lost:
            msg = (
                f"Expected a shape in {name!r} for each of its {rows.sum()} observations, found "
                f"none for {lost}. Remove these observations from the table."
            )
            raise ValueError(msg)
        coordinates[rows] = np.column_stack([centroids.x, centroids.y])[places]
    return coordinates
