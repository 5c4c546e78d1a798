"""Reading spatial data into AnnData from the formats in use, and writing it whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from errno import ENOSPC
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import check_target, warn

__all__ = ["read", "write"]

logger = logging.getLogger(__name__)

_Backed = bool | Literal["auto"]
_SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
# Bytes of expression that `backed="auto"` takes into memory.
_LARGE = 2_000_000_000
# Values that are copied at a time from one file to another.
_PIECE = 2**22
# On 100,000 x 2,000 counts, 10 % filled (160 MB): level 1 50 MB in 2.2 s, anndata's level 4 50 MB
# in 5.8 s, lzf 87 MB in 1.9 s.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1}

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


def read(
    path: str | os.PathLike[str],
    *,
    table: str | None = None,
    backed: _Backed = False,
) -> AnnData:
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
    backed
        Leave ``X``, ``layers`` and the expression in ``raw`` in the file, which must stay where it
        is; `m2st.run` reads of them what it needs, in blocks. ``"auto"`` does so if they would take
        more than 2 GB of memory, and logs it. For h5ad and zarr; any other format is refused, or
        read with ``"auto"``.

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
        `table` does not say which table to take; `backed` with a format that has to be loaded.
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

    What was left in a file is a :class:`anndata.abc.CSRDataset`, :class:`anndata.abc.CSCDataset` or
    a data set of h5py or zarr. Indexing reads, ``adata.X[:100]``, ``adata.to_memory()`` reads all,
    and nothing is ever written to the file. `write` carries it over to another one.

    Examples
    --------
    >>> adata = m2st.io.read("section/outs")  # doctest: +SKIP
    """
    path = Path(path)
    if backed not in (True, False, "auto"):
        msg = f"Expected `backed` to be True, False or 'auto', found {backed!r}."
        raise ValueError(msg)
    if _is_zarr(path) and {"tables", "table"} & _names(path):
        return _read_spatialdata(path, table, backed=backed)
    if table is not None:
        msg = f"Expected `table` only with a SpatialData store, found {table!r} with {path}."
        raise ValueError(msg)
    if not path.exists():
        msg = f"Expected a file or folder at {path}, found nothing. {_SUPPORTED}"
        raise FileNotFoundError(msg)
    if _is_zarr(path) and {"obs", "var"} <= _names(path):
        with _expect("an AnnData zarr store", path):
            return _read_store(path, ad.io.read_zarr, _open_zarr, backed=backed)
    if path.suffix.lower() == ".h5ad" and path.is_file():
        return _read_h5ad(path, backed=backed)
    if backed is True:
        msg = f"Expected `backed=True` only with h5ad and zarr, found {path}. Read it into memory."
        raise ValueError(msg)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix.lower() in {".rds", ".rda", ".rdata"}:
        from m2st.interop import read_r

        return read_r(path)
    msg = f"Expected a supported format, found {path}. {_SUPPORTED}"
    raise ValueError(msg)


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
        `path` does not end in ``.h5ad`` or ``.zarr``, or ends in ``.zarr`` while expression was
        left in a file.
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
    with a segmentation fault. Expression that `read` has left in a file is copied from there piece
    by piece, once there is room for it. Values that h5ad cannot hold raise anndata's own error,
    with the key in a note to it.

    Examples
    --------
    >>> m2st.io.write(adata, "section.h5ad", overwrite=True)  # doctest: +SKIP
    """
    path = Path(path)
    target = check_target(path, (".h5ad", ".zarr"), overwrite=overwrite)
    if adata.is_view:
        adata = adata.copy()
    adata.strings_to_categoricals()
    matrices = _left_in_file(adata)
    if path.suffix.lower() == ".zarr":
        if matrices:
            msg = (
                f"Expected expression in memory to write {path}, found {', '.join(matrices)} in a "
                "file. Write h5ad, or read with `backed=False`."
            )
            raise ValueError(msg)
        _write_spatialdata(adata, target)
        return
    content = _h5ad(adata, matrices)
    n_bytes = len(content) + sum(map(_n_stored, matrices.values()))
    free = shutil.disk_usage(target.parent).free
    # Not tempfile's: its files are readable by their owner alone, and so would the result be.
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    try:
        if matrices and free < n_bytes:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        part.write_bytes(content)
        if matrices:
            with h5py.File(part, "r+") as file:
                for place, matrix in matrices.items():
                    _carry_over(matrix, file, place)
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(target)
    except OSError as error:
        msg = (
            f"Could not write {path}: {error.strerror or error}. It takes {n_bytes / 1e6:,.2f} MB; "
            f"{free / 1e6:,.2f} MB were free in {target.parent}. What was there is unchanged."
        )
        raise OSError(error.errno, msg) from error
    finally:
        part.unlink(missing_ok=True)


def _h5ad(adata: AnnData, matrices: Collection[str]) -> memoryview:
    """Content of an h5ad file, with nothing in the matrices at some places."""

    def stub(place: str, matrix: Any) -> Any:
        return sparse.csr_matrix(matrix.shape) if place in matrices else matrix

    if matrices:
        raw = adata.raw
        adata = AnnData(
            stub("X", adata.X),
            layers={key: stub(f"layers/{key}", value) for key, value in adata.layers.items()},
            raw=None
            if raw is None
            else {"X": stub("raw/X", raw.X), "var": raw.var, "varm": dict(raw.varm)},
            **{slot: getattr(adata, slot) for slot in _SLOTS},
        )
    image = BytesIO()
    with h5py.File(image, "w") as file:
        ad.io.write_elem(file, "/", adata, dataset_kwargs=_COMPRESSION)
    return image.getbuffer()


def _n_stored(matrix: Any) -> int:
    """Room on disk that a matrix in a file takes at most when it is copied to h5ad."""
    return sum(
        array.id.get_storage_size() if isinstance(array, h5py.Dataset) else array.nbytes
        for array in _arrays(matrix).values()
    )


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


def _read_h5ad(path: Path, *, backed: _Backed) -> AnnData:
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
        return _read_store(path, ad.io.read_h5ad, h5py.File, backed=backed)


def _open_zarr(path: Path) -> Any:
    """Open a zarr group for reading."""
    import zarr

    return zarr.open_group(path, mode="r")


def _read_store(
    path: Path,
    load: Callable[[Path], AnnData],
    opened: Callable[[Path], Any],
    *,
    backed: _Backed,
) -> AnnData:
    """Read an AnnData store, with its matrices or without."""
    if backed:
        adata = _without_matrices(opened(path))
        n_bytes = sum(map(_n_bytes, _left_in_file(adata).values()))
        if backed == "auto" and n_bytes > _LARGE:
            logger.info("Expression stays in %s: it would take %.1f GB.", path, n_bytes / 1e9)
        if backed is True or n_bytes > _LARGE:
            return adata
    return load(path)


def _without_matrices(store: Any) -> AnnData:
    """Read an open store; ``X``, layers and the expression in ``raw`` are left in it."""

    def kind(element: Any) -> Any:
        return element.attrs.get("encoding-type")

    def lazy(element: Any) -> Any:
        if kind(element) in {"csr_matrix", "csc_matrix"}:
            return ad.io.sparse_dataset(element)
        return element if kind(element) == "array" else ad.io.read_elem(element)

    raw = None
    if "raw" in store and kind(store["raw"]) == "raw":
        raw = {key: ad.io.read_elem(store["raw"][key]) for key in ("var", "varm")}
        raw["X"] = lazy(store["raw"]["X"])
    return AnnData(
        lazy(store["X"]) if "X" in store else None,
        layers={key: lazy(store["layers"][key]) for key in store.get("layers", ())},
        raw=raw,
        **{slot: ad.io.read_elem(store[slot]) for slot in _SLOTS if slot in store},
    )


def _left_in_file(adata: AnnData) -> dict[str, Any]:
    """Matrices that are not in memory, by their place in h5ad."""
    places = {"X": adata.X} | {f"layers/{key}": value for key, value in adata.layers.items()}
    if adata.raw is not None:
        places["raw/X"] = adata.raw.X
    return {place: matrix for place, matrix in places.items() if not _in_memory(matrix)}


def _in_memory(matrix: Any) -> bool:
    in_h5ad = isinstance(matrix, ad.abc.CSRDataset | ad.abc.CSCDataset | h5py.Dataset)
    return not in_h5ad and not type(matrix).__module__.startswith("zarr.")


def _arrays(matrix: Any) -> dict[str, Any]:
    """Arrays of a matrix in a file, by their place below its own."""
    if hasattr(matrix, "group"):
        return {f"/{name}": matrix.group[name] for name in ("data", "indices", "indptr")}
    return {"": matrix}


def _n_bytes(matrix: Any) -> int:
    """Memory that a matrix in a file would take."""
    return sum(array.nbytes for array in _arrays(matrix).values())


def _carry_over(matrix: Any, file: h5py.File, place: str) -> None:
    """Copy a matrix from its file to another one, in pieces."""
    source = getattr(matrix, "group", matrix)
    if place in file:
        del file[place]
    if isinstance(source, h5py.Group | h5py.Dataset):
        file.copy(source, place)  # chunks as they are, still compressed
        return
    for name, array in _arrays(matrix).items():
        copy = file.create_dataset(place + name, array.shape, array.dtype, **_COMPRESSION)
        step = max(1, _PIECE // max(1, prod(array.shape[1:])))
        for start in range(0, len(copy), step):
            copy[start : start + step] = array[start : start + step]
    file[place].attrs.update(source.attrs)


def _read_folder(path: Path) -> AnnData:
    """Read the output of Space Ranger."""
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
    names = sorted(_names(path))
    found = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
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
        warn(msg)
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


def _read_spatialdata(path: Path, table: str | None, *, backed: _Backed) -> AnnData:
    """Read one table of a SpatialData store, with coordinates."""
    try:
        import spatialdata
    except ImportError as error:
        msg = f"Reading {path} (SpatialData) needs `pip install 'm2st[spatialdata]'`."
        raise ImportError(msg) from error
    folder = path / ("tables" if "tables" in _names(path) else "table")
    with _expect("a SpatialData store", path):
        # Images and points are not needed, and may be large.
        selection = ("shapes",) if backed else ("tables", "shapes")
        store = spatialdata.read_zarr(path, selection=selection)
        tables = dict(_open_zarr(folder).groups() if backed else store.tables)
    if table is None and len(tables) == 1:
        table = next(iter(tables))
    if table is None or table not in tables:
        asked = "one table" if table is None else f"the table {table!r}"
        found = ", ".join(map(repr, tables))
        hint = "Name one with `table=`." if found else "Only a table holds expression."
        msg = f"Expected {asked} in {path}, found: {found or 'no table'}. {hint}"
        raise ValueError(msg)
    adata = tables[table]
    if backed:
        with _expect("a SpatialData store", path):
            adata = _read_store(folder / table, ad.io.read_zarr, _open_zarr, backed=backed)
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
