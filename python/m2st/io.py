"""Reading spatial data into AnnData from the formats in use, and writing it whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from errno import ENOSPC
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import check_choice, check_interval, check_sparse, check_target, importing
from m2st._export import (
    SUFFIXES,
    Outline,
    outline_domains,
    read_domains,
    read_sections,
    select,
    write_csv,
    write_geojson,
    write_loupe,
    write_xenium,
)
from m2st._files import is_store, remove, replacing, second_names, write_whole
from m2st._plotting import spot_shape
from m2st._readers import (
    SUPPORTED,
    expect,
    is_stereopy,
    names_in,
    place_from_obs,
    read_folder,
    read_space_ranger,
    read_stereopy,
    read_xenium,
)
from m2st._stores import check_storable, in_memory, plain, put_anndata, shards_as_asked
from m2st._trust import check_hdf5, check_zarr

__all__ = ["export", "read", "write"]

logger = logging.getLogger(__name__)

_Backed = bool | Literal["auto"]
_SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
# Bytes of expression that `backed="auto"` takes into memory.
_LARGE = 2_000_000_000
# What compression makes of data at the very best.
_SMALLEST = 100
# Values that are copied at a time from one file to another.
_PIECE = 2**22
# On 100,000 x 2,000 counts, 10 % filled (160 MB): level 1 50 MB in 2.2 s, anndata's level 4 50 MB
# in 5.8 s, lzf 87 MB in 1.9 s.
_COMPRESSION = {"compression": "gzip", "compression_opts": 1}

_TABLES = {"tables", "table"}  # of SpatialData now, and before 0.1
# Names that SpatialData takes for elements.
_ELEMENT = re.compile(r"(?!__)[\w.-]+")
_SPATIALDATA = "pip install 'm2st[spatialdata]'"


def read(
    path: str | os.PathLike[str],
    *,
    table: str | None = None,
    backed: _Backed = False,
    trust: bool = False,
) -> AnnData:
    """Read a spatial data set of any supported format.

    Parameters
    ----------
    path
        One of

        * an ``.h5ad`` file;
        * an R object, SpatialExperiment, SingleCellExperiment or Seurat, in an ``.rds``, ``.rda``
          or ``.RData`` file; for a file with several objects, see :func:`m2st.interop.read_r`;
        * a zarr folder written by SpatialData (needs ``m2st[spatialdata]``) or by AnnData;
        * the output of Space Ranger, Visium or Visium HD: ``outs``, the folder that holds it, or
          its ``filtered_feature_bc_matrix.h5``;
        * a folder with Space Ranger's files of one sample. Their names may have a prefix, as in
          ``GSM1_filtered_feature_bc_matrix.h5``, and positions may be packed by gzip;
        * the output of Xenium: ``cell_feature_matrix.h5`` and ``cells.parquet`` or
          ``cells.csv.gz``;
        * flat files of CosMx: ``*_exprMat_file.csv`` and ``*_metadata_file.csv``, packed or not;
        * a region of MERSCOPE, or the folder of several: ``cell_by_gene.csv`` and
          ``cell_metadata.csv``;
        * h5ad of Stereo-seq's software, SAW or Stereopy, or a folder that holds it;
        * a folder with a table of counts and one of places, as of Slide-seq. Their names say what
          they are: ``counts``, ``expression`` or ``MappedDGEForR``; ``coordinates``, ``positions``,
          ``locations`` or ``spatial``. Comma, semicolon or tab; ``.csv``, ``.tsv`` or ``.txt``,
          packed or not. Counts have observations in rows or in columns. Places have the name
          first, x and y last.
    table
        What to take where there are several: the table of a SpatialData store, ``square_008um`` or
        ``segmented_outputs`` of Visium HD, a region of MERSCOPE, a file of h5ad without its ending.
        It is refused where there is nothing to choose.
    backed
        Leave ``X``, ``layers`` and the expression in ``raw`` in the file, which must stay where it
        is. `m2st.run` reads what it needs in blocks. ``"auto"`` does so if they would take more
        than 2 GB of memory, and logs it. Only h5ad and zarr can stay in the file. Other formats are
        refused, or read whole with ``"auto"``.
    trust
        Whether you trust the source of the file. If not, the file is checked first, as *Notes* say,
        and an R object is read without R. If you do, R reads an R object.

    Returns
    -------
    AnnData
        Observations in the order of the file. Coordinates are in ``obsm["spatial"]``, (n_obs, 2),
        if the source has them. The output of Space Ranger is laid out as in scanpy:

        * ``X``: CSR counts; ``var["gene_ids"]``; names made unique.
        * ``obs["in_tissue"]``, ``obs["array_row"]``, ``obs["array_col"]``: int64; not for segmented
          cells.
        * ``obsm["spatial"]``: float64, column and row of the pixel in the full-resolution image;
          for segmented cells, the centroid.
        * ``uns["spatial"][library_id]``: ``images``, hires and lowres if present, and
          ``scalefactors``.

        Cells of Xenium, CosMx and MERSCOPE have names as in their files, of CosMx ``<fov>_<cell>``.
        ``obs`` has the columns of the table of cells. Coordinates are micrometres, of CosMx pixels.
        Controls, which are no genes, are left out.

    Raises
    ------
    FileNotFoundError
        There is nothing at `path`, or a folder has no positions.
    ValueError
        The file or folder is empty, damaged or of another format; barcodes have no position;
        `table` does not say which table to take; `backed` is True for a format that cannot stay in
        the file; without `trust`, the file has something that *Notes* list.
    ImportError
        The package that the format needs is not installed.
    MemoryError
        The data do not fit into memory.

    Warns
    -----
    UserWarning
        A Space Ranger folder has no ``scalefactors_json.json``: its images cannot be placed and
        ``uns["spatial"]`` is not written.

    Notes
    -----
    A SpatialData table without ``obsm["spatial"]`` gets the centroids of the shapes that it
    annotates, in the coordinates of the shapes. No transformation is applied. An h5ad file without
    ``obsm["spatial"]`` gets numbers in ``obs["x"]`` and ``obs["y"]``, where SAW has them. Files in
    Stereopy's own layout give the raw counts, if they are there.

    A file may be damaged, or made to do harm. Without `trust`, a separate process reads an HDF5
    file first, so that a file that would end the process gives an error. This takes about as long
    as reading. These are refused:

    * in HDF5: links to other files, values in other files, references and plugins
    * in zarr: pickles
    * data that unpack to more than 150 times their size and to more than 0.5 GB

    Sparse matrices with indices out of range are always refused.

    Expression in a file is a :class:`anndata.abc.CSRDataset`, a :class:`anndata.abc.CSCDataset`, or
    a data set of h5py or zarr. Indexing reads a part, as ``adata.X[:100]``. ``adata.to_memory()``
    reads all. Nothing is ever written to the file. `write` copies the expression into another file.

    Examples
    --------
    >>> adata = m2st.io.read("section/outs")  # doctest: +SKIP
    """
    path = Path(path)
    if backed not in (True, False, "auto"):
        msg = f"Expected `backed` to be True, False or 'auto', found {backed!r}."
        raise ValueError(msg)
    try:
        adata = _read(path, table, backed=backed, trust=trust)
    except MemoryError as error:
        msg = (
            f"Expected data that fit into memory, found {path} to take more. With h5ad and zarr, "
            "expression can stay in the file: `backed=True`."
        )
        raise MemoryError(msg) from error
    for place, matrix in _matrices(adata):
        if getattr(matrix, "format", None) in {"csr", "csc"} and sparse.issparse(matrix):
            check_sparse(matrix, name=f"{place} in {path}")
    return adata


def _read(path: Path, table: str | None, *, backed: _Backed, trust: bool) -> AnnData:
    """Find the format and read it."""
    if is_store(path) and _TABLES & names_in(path):
        return _read_spatialdata(path, table, backed=backed, trust=trust)
    if table is not None and (is_store(path) or path.is_file()):
        msg = (
            f"Expected `table` only with a SpatialData store or a folder, found {table!r} with "
            f"{path}. Leave it out."
        )
        raise ValueError(msg)
    if not path.exists():
        msg = f"Expected a file or folder at {path}, found nothing. {SUPPORTED}"
        raise FileNotFoundError(msg)
    if is_store(path) and {"obs", "var"} <= names_in(path):
        with expect("an AnnData zarr store", path):
            if not trust:
                check_zarr(path)
            return _read_store(path, ad.io.read_zarr, _open_zarr, backed=backed)
    if path.suffix.lower() == ".h5ad" and path.is_file():
        return _read_h5ad(path, backed=backed, trust=trust)
    if backed is True:
        msg = f"Expected `backed=True` only with h5ad and zarr, found {path}. Read it into memory."
        raise ValueError(msg)
    if path.is_dir():
        return read_folder(
            path,
            table,
            trust=trust,
            read_h5ad=lambda file: _read_h5ad(file, backed=backed, trust=trust),
        )
    if path.name.endswith("cell_feature_matrix.h5"):
        return read_xenium(path, trust=trust)
    if path.suffix.lower() == ".h5":
        return read_space_ranger(path.parent, path, trust=trust)
    if path.suffix.lower() in {".rds", ".rda", ".rdata"}:
        from m2st.interop import read_r

        return read_r(path, method="r" if trust else "auto")
    msg = f"Expected a supported format, found {path}. {SUPPORTED}"
    raise ValueError(msg)


def write(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    table: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write to h5ad or zarr, whole or not at all.

    Parameters
    ----------
    adata
        Object to write. It is not changed. In the file, text columns with repeated or missing
        values are categorical, as :meth:`anndata.AnnData.write_h5ad` has them.
    path
        File in a folder that exists. It ends in ``.h5ad``, or in ``.zarr`` for a SpatialData store
        (needs ``m2st[spatialdata]``). For R, see :func:`m2st.interop.write_r`.
    table
        Name of the table in a SpatialData store. None takes the only one there, or ``"table"`` if
        there is none.
    overwrite
        Whether an existing h5ad file, AnnData zarr store, or table in a SpatialData store may be
        replaced. Everything else in a SpatialData store stays.

    Raises
    ------
    ValueError
        `path` does not end in ``.h5ad`` or ``.zarr``, or another kind of file or folder is there;
        the format cannot hold a name or a value, which the message names; `table` does not say
        which table to replace; expression was left in a file, and `path` ends in ``.zarr``.
    ImportError
        spatialdata is not installed.
    FileNotFoundError
        The folder does not exist.
    FileExistsError
        There is a file already, and `overwrite` is not set.
    OSError
        The disk is full or cannot be written; the message says how much was free.

    Notes
    -----
    Everything is written beside `path` under another name, synced to disk and renamed. Readers see
    the old file or the new one, never a part. h5ad is first built in memory, compressed, because
    HDF5 ends the process with a segmentation fault on a full disk. Expression that `read` has left
    in a file is copied from there in pieces, if there is room for it. In a SpatialData store,
    everything but the table is not copied: it gets a second name.

    anndata 0.11 to 0.13 read the file. In it, text of pandas' types is Python text, and tuples are
    lists. Columns of Python objects become numbers if they hold numbers.

    Examples
    --------
    >>> m2st.io.write(adata, "section.h5ad", overwrite=True)  # doctest: +SKIP
    """
    path = Path(path)
    target = check_target(path, (".h5ad", ".zarr"), overwrite=overwrite)
    matrices = _left_in_file(adata)
    if target.suffix.lower() == ".zarr":
        _check_in_memory(matrices, path)
        _write_zarr(adata.copy() if adata.is_view else adata, target, table)
        return
    _check_no_table(table, path)
    # Let go of at once: a buffer that outlives its stream is an error where both are collected.
    with _h5ad(adata.copy() if adata.is_view else adata, matrices) as content:
        n_bytes = len(content) + sum(map(_n_stored, matrices.values()))
        with replacing(target, n_bytes=n_bytes) as part:
            if matrices and shutil.disk_usage(target.parent).free < n_bytes:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
            with part.open("xb") as stream:
                stream.write(content)
            if matrices:
                with h5py.File(part, "r+") as file:
                    for place, matrix in matrices.items():
                        _carry_over(matrix, file, place)


def export(
    adata: AnnData,
    path: str | os.PathLike[str],
    to: str,
    *,
    key_added: str = _keys.DEFAULT,
    sample: str | None = None,
    sample_key: str | None = None,
    spatial_key: str | None = None,
    pixel_size: float | None = None,
    overwrite: bool = False,
) -> None:
    """Write the domains for another viewer, whole or not at all.

    Parameters
    ----------
    adata
        Annotated data with ``obs["m2st_domain"]``. It is not changed.
    path
        File in a folder that exists, or for SpatialData a store. `to` says how it ends.
    to
        One of

        * ``"csv"`` (``.csv``): ``observation``, ``m2st_domain`` and ``m2st_confidence`` of each
          observation, in their order. What is missing is empty.
        * ``"loupe"`` (``.csv``): ``Barcode`` and ``m2st_domain``, for *Import* in Loupe Browser.
        * ``"xenium-explorer"`` (``.csv``): ``cell_id``, ``group`` and ``color``, for the import of
          cell groups in Xenium Explorer. Cells are those of ``obs["cell_id"]``, or else the names
          of the observations.
        * ``"geojson"`` (``.geojson``): an annotation for each domain and section, with its outline,
          name and colour. QuPath takes it by dragging the file onto the image, napari and
          geopandas read it too. Needs ``m2st[spatialdata]``.
        * ``"spatialdata"`` (``.zarr``): a SpatialData store for napari-spatialdata and others. Its
          table is `adata`; it annotates the shapes ``m2st_spots``. The shapes ``m2st_domains`` are
          the outlines. Needs ``m2st[spatialdata]``.
    key_added
        Name of the result to write, in place of ``m2st``.
    sample
        Section to write; None for all.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with, if any. Each section has outlines of its own. In a SpatialData store
        it has shapes and a coordinate system of its own, as ``m2st_domains_A`` and ``A``.
    spatial_key
        Key of ``obsm`` with the coordinates, of which the first two columns are taken. None takes
        those that the spatial graph was built from, else ``"spatial"``.
    pixel_size
        Size of a pixel of the full-resolution image in the unit of the coordinates. None for 1: the
        coordinates are pixels, as in the output of Space Ranger. For Xenium it is 0.2125. Only for
        GeoJSON.
    overwrite
        Whether an existing file may be replaced, or a store that holds nothing that was not written
        here.

    Raises
    ------
    KeyError
        Domains, coordinates or a column are missing.
    ValueError
        The format is unknown, or `path` does not end as it should; no observation has a domain;
        `sample` is no section; names are not those that the viewer knows, or span several lines; a
        store has other elements; `pixel_size` is given for another format.
    ImportError
        The package that the format needs is not installed.
    FileNotFoundError
        The folder does not exist.
    FileExistsError
        There is a file already, and `overwrite` is not set.
    OSError
        It could not be written; what was there is unchanged.

    Notes
    -----
    Observations without a domain are left out of files for Loupe Browser and Xenium Explorer, which
    show them as unassigned.

    The outline of a domain joins the cells of its observations: what is nearer to an observation
    than to all others, and not far from it. On a Visium slide, cells are hexagons.

    Examples
    --------
    >>> m2st.io.export(adata, "domains.csv", "loupe")  # doctest: +SKIP
    """
    check_choice("to", to, SUFFIXES)
    if pixel_size is not None:
        if to != "geojson":
            msg = f"Expected `pixel_size` only with geojson, found it with {to}. Leave it out."
            raise ValueError(msg)
        check_interval("pixel_size", pixel_size, 0, np.inf, closed=(False, False))
    target = check_target(Path(path), (SUFFIXES[to],), overwrite=overwrite)
    keys = _keys.Keys(key_added)
    chosen = select(adata, sample, sample_key)
    if to == "spatialdata":
        _export_store(chosen, target, keys, sample_key=sample_key, spatial_key=spatial_key)
    elif to == "geojson":
        outlines = outline_domains(chosen, keys, sample_key, spatial_key)
        write_whole(target, write_geojson(outlines, pixel_size or 1))
    else:
        content = {"csv": write_csv, "loupe": write_loupe, "xenium-explorer": write_xenium}
        write_whole(target, content[to](chosen, keys))


def _export_store(
    adata: AnnData,
    target: Path,
    keys: _keys.Keys,
    *,
    sample_key: str | None,
    spatial_key: str | None,
) -> None:
    """Write a new SpatialData store: the table, the spots that it annotates, and outlines."""
    with importing("spatialdata", f"Writing {target} (SpatialData)", _SPATIALDATA):
        import spatialdata
    _check_in_memory(_left_in_file(adata), target)
    _check_only_exported(target, keys)
    read_domains(adata, keys)
    sections = read_sections(adata, sample_key, spatial_key)
    shapes = {}
    region = np.full(adata.n_obs, _element(keys, "spots", sections[0][0]), dtype=object)
    outlines = outline_domains(adata, keys, sample_key, spatial_key)
    for name, rows, points in sections:
        region[rows] = _element(keys, "spots", name)
        shapes[_element(keys, "spots", name)] = _spots(rows, points, name)
        shapes[_element(keys, "domains", name)] = _polygons(outlines, name)
    table = adata.copy()
    region_key, instance_key = f"{keys.name}_region", f"{keys.name}_spot"
    table.obs[region_key] = pd.Categorical(region)
    table.obs[instance_key] = np.arange(table.n_obs)
    table.uns["spatialdata_attrs"] = {
        "region": [*table.obs[region_key].cat.categories],
        "region_key": region_key,
        "instance_key": instance_key,
    }
    _check_table(table, target)
    with replacing(target) as part, shards_as_asked():
        spatialdata.SpatialData(shapes=shapes).write(part)
        _put_table(part, table, "table")


def _check_only_exported(target: Path, keys: _keys.Keys) -> None:
    """Require a place with nothing on it, or with nothing that `export` does not write."""
    if not target.exists():
        return
    held = {
        f"{kind}/{name}"
        for kind in ("images", "labels", "points", "shapes", *_TABLES)
        if (target / kind).is_dir()
        for name in names_in(target / kind)
        if is_store(target / kind / name)
    }
    ours = re.compile(rf"tables/table|shapes/{re.escape(keys.name)}_(spots|domains)(_.*)?")
    foreign = sorted(name for name in held if not ours.fullmatch(name))
    if foreign or not _is_spatialdata(target):
        found = ", ".join(foreign) or "an AnnData store"
        msg = (
            f"Expected nothing at {target}, or a store that `export` wrote, found {found}. Name "
            "another path. To write domains into the table of a store: `m2st.io.write`."
        )
        raise ValueError(msg)


def _element(keys: _keys.Keys, what: str, section: str) -> str:
    """Name of an element of a SpatialData store, which section it may be of."""
    name = "_".join(filter(None, [keys.name, what, section]))
    if not _ELEMENT.fullmatch(name):
        msg = (
            "Expected names of sections in letters, digits, `_`, `.` and `-`, found "
            f"{section!r}. Rename it."
        )
        raise ValueError(msg)
    return name


def _spots(rows: NDArray[np.intp], points: NDArray[np.float64], section: str) -> Any:
    """The observations of a section as circles."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    return ShapesModel.parse(
        points,
        geometry=0,
        radius=spot_shape(points)[0] / 2,
        index=rows,
        transformations={section or "global": Identity()},
    )


def _polygons(outlines: Iterable[Outline], section: str) -> Any:
    """The outlines of a section as polygons."""
    from geopandas import GeoDataFrame
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    here = [outline for outline in outlines if outline.section == section]
    frame = GeoDataFrame(
        {"domain": [one.domain for one in here], "color": [one.color for one in here]},
        geometry=[one.shape for one in here],
    )
    return ShapesModel.parse(frame, transformations={section or "global": Identity()})


def check_writable(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    table: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> None:
    """Require that `write` can write this here, before any work is done.

    Parameters
    ----------
    adata
        Object that will be written; results will be added to it before.
    path, table
        As for `write`.
    key_added
        Name of the result that will be added.

    Raises
    ------
    ValueError, ImportError, FileNotFoundError, OSError
        As `write` with what is in `adata` now, and the names of the result beside it. OSError also
        if the disk clearly has no room for it.
    """
    path = Path(path)
    target = check_target(path, (".h5ad", ".zarr"), overwrite=True)
    free, needed = shutil.disk_usage(target.parent).free, _n_bytes_in_all(adata) // _SMALLEST
    if free < needed:
        msg = (
            f"Expected room for {path}, at least {needed / 1e6:,.2f} MB, found "
            f"{free / 1e6:,.2f} MB free in {target.parent}. Make room, or name another place."
        )
        raise OSError(ENOSPC, msg)
    if target.suffix.lower() == ".zarr":
        _check_in_memory(_left_in_file(adata), path)
        if _is_spatialdata(target):
            _table_name(target, table)
            _check_table(adata, target)
            _check_variants(adata, _keys.Keys(key_added))
        check_storable(adata, "zarr")
        return
    _check_no_table(table, path)
    check_storable(adata, "h5ad")


def _check_in_memory(matrices: Collection[str], path: Path) -> None:
    """Require all expression in memory."""
    if matrices:
        msg = (
            f"Expected expression in memory to write {path}, found {', '.join(matrices)} in a "
            "file. Write h5ad, or read with `backed=False`."
        )
        raise ValueError(msg)


def _check_no_table(table: str | None, path: Path) -> None:
    """Refuse the name of a table where there are none."""
    if table is not None:
        msg = f"Expected `table` only with a SpatialData store, found {table!r} with {path}."
        raise ValueError(msg)


def _h5ad(adata: AnnData, matrices: Collection[str]) -> memoryview:
    """Content of an h5ad file, with nothing in the matrices at some places."""

    def shown(place: str, value: Any) -> Any:
        return sparse.csr_matrix(value.shape) if place in matrices else value

    image = BytesIO()
    with h5py.File(image, "w") as file:
        put_anndata(file, adata, "h5ad", shown=shown, options=_COMPRESSION)
    return image.getbuffer()


def _n_stored(matrix: Any) -> int:
    """Room on disk that a matrix in a file takes at most when it is copied to h5ad."""
    return sum(
        array.id.get_storage_size() if isinstance(array, h5py.Dataset) else array.nbytes
        for array in _arrays(matrix).values()
    )


def _n_bytes_in_all(adata: AnnData) -> int:
    """Bytes of all matrices, in memory and in files."""
    slots = (adata.obsm, adata.varm, adata.obsp, adata.varp, adata.layers)
    found = [adata.X, *(value for slot in slots for key, value in slot.items() if key is not None)]
    return sum(
        _n_bytes(value) if not in_memory(value) else getattr(value, "data", value).nbytes
        for value in found
        if not in_memory(value) or isinstance(value, np.ndarray) or sparse.issparse(value)
    )


def _is_spatialdata(target: Path) -> bool:
    """Whether to write a SpatialData store: where there is one, or nothing.

    Raises
    ------
    ValueError
        There is a zarr store of another kind, which would be lost.
    """
    if not target.exists() or _TABLES & names_in(target):
        return True
    if {"obs", "var"} <= names_in(target):
        return False
    if "spatialdata_attrs" in _open_zarr(target).attrs:
        return True
    msg = (
        f"Expected a SpatialData or AnnData store or nothing at {target}, found a zarr store of "
        "another kind, which is never replaced. Name another path."
    )
    raise ValueError(msg)


def _table_name(target: Path, table: str | None) -> str:
    """Name under which a table goes into a SpatialData store."""
    folder = target / "tables"
    names = sorted(names_in(folder)) if folder.is_dir() else []
    there = [name for name in names if is_store(folder / name)]
    if table is None and len(there) > 1:
        msg = (
            f"Expected the name of the table to write in {target}, found "
            f"{', '.join(map(repr, there))}. Name one of them, or a new one, with `table=`."
        )
        raise ValueError(msg)
    named = table or next(iter(there), "table")
    if not _ELEMENT.fullmatch(named) or set(named) == {"."}:
        msg = (
            f"Expected the name of a table in letters, digits, `_`, `.` and `-`, found {named!r}. "
            "Name another."
        )
        raise ValueError(msg)
    return named


def _check_table(adata: AnnData, target: Path) -> None:
    """Require an AnnData that can be a table of SpatialData."""
    with importing("spatialdata", f"Writing {target} (SpatialData)", _SPATIALDATA):
        from spatialdata.models import TableModel
    slots = {slot: dict(getattr(adata, slot)) for slot in ("obsm", "varm", "obsp", "varp")}
    layers = {key: value for key, value in adata.layers.items() if key is not None}
    table = AnnData(
        obs=plain(adata.obs), var=plain(adata.var), uns=dict(adata.uns), layers=layers, **slots
    )
    try:
        TableModel().validate(table)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        msg = (
            f"Expected a table that SpatialData can hold, found: {reason}. Mend it before writing."
        )
        raise ValueError(msg) from error


def _check_variants(adata: AnnData, keys: _keys.Keys) -> None:
    """Require results whose names differ by more than capitals from what is there."""
    results = {
        "obs": [keys.domain, keys.confidence, keys.second],
        "obsm": [keys.features, keys.no_neighbors, keys.embedding, keys.scale(1), keys.scale(2)],
        "uns": [keys.record, _keys.colors(keys.domain)],
    }
    for slot, names in results.items():
        there = {str(key).lower(): key for key in getattr(adata, slot)}
        for name in names:
            other = there.get(name.lower(), name)
            if other != name:
                msg = (
                    "Expected names that differ by more than capitals, as SpatialData asks, found "
                    f"`adata.{slot}[{other!r}]` where the result needs {name!r}. Choose another "
                    "`key_added=`, or rename what is there."
                )
                raise ValueError(msg)


def _write_zarr(adata: AnnData, target: Path, table: str | None) -> None:
    """Write an AnnData store, or a table into a SpatialData store, that is there or new."""
    import zarr

    if not _is_spatialdata(target):
        _check_no_table(table, target)
        with replacing(target) as part, shards_as_asked():
            group = zarr.open_group(part, mode="w-", **_zarr_version(target))
            put_anndata(group, adata, "zarr")
            if _is_consolidated(target):
                _consolidate(part)
        return
    name = _table_name(target, table)
    _check_table(adata, target)
    with replacing(target) as part, shards_as_asked():
        if target.exists():
            second_names(target, part)
        else:
            import spatialdata

            spatialdata.SpatialData().write(part)
        _put_table(part, adata, name)


def _put_table(store: Path, adata: AnnData, name: str) -> None:
    """Write a table into a SpatialData store, in place of one of this name."""
    import zarr

    version = _zarr_version(store)
    zarr.open_group(store / "tables", mode="a", **version)
    place = store / "tables" / name
    kept = _open_zarr(place).attrs.get("version") if is_store(place) else None
    remove(place)
    group = zarr.open_group(place, mode="w-", **version)
    put_anndata(group, adata, "zarr")
    link = adata.uns.get("spatialdata_attrs", {})
    group.attrs.update(
        {key: link.get(key) for key in ("region", "region_key", "instance_key")}
        | {
            "spatialdata-encoding-type": "ngff:regions_table",
            "version": kept or ("0.1" if version.get("zarr_format", 2) == 2 else "0.2"),
        }
    )
    if _is_consolidated(store):
        _consolidate(store)


def _zarr_version(store: Path) -> dict[str, Any]:
    """The format of zarr that a store has, or a new one gets."""
    return {"zarr_format": 2 if (store / ".zgroup").is_file() else 3}


def _is_consolidated(store: Path) -> bool:
    """Whether the metadata of all groups are in one file, too."""
    root = store / "zarr.json"
    if root.is_file():
        return bool(json.loads(root.read_bytes()).get("consolidated_metadata"))
    return (store / ".zmetadata").is_file()


def _consolidate(store: Path) -> None:
    """Bring the metadata of all groups in one file up to date."""
    import zarr

    with warnings.catch_warnings():
        # Of files that are not zarr's, such as points, and of what zarr 3 has not yet settled.
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
        zarr.consolidate_metadata(str(store))


def _read_h5ad(path: Path, *, backed: _Backed, trust: bool) -> AnnData:
    """Read h5ad; other HDF5 files are refused before anndata guesses at them."""
    if path.stat().st_size == 0:
        msg = f"Expected an h5ad file at {path}, found it empty. {SUPPORTED}"
        raise ValueError(msg)
    with expect("an h5ad file", path):
        if not trust:
            check_hdf5(path)
        with h5py.File(path) as file:
            found = set(file)
        if is_stereopy(found) and backed is not True:
            return read_stereopy(path)
        if not {"obs", "var"} <= found:
            msg = f"no `obs` and `var` in it, but {', '.join(sorted(found)) or 'nothing'}"
            raise ValueError(msg)
        adata = _read_store(path, ad.io.read_h5ad, h5py.File, backed=backed)
        place_from_obs(adata)
        return adata


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
    raw = None
    if "raw" in store and _kind(store["raw"]) == "raw":
        group = store["raw"]  # anndata 0.7 wrote no `varm` where there was none
        raw = {key: ad.io.read_elem(group[key]) for key in ("var", "varm") if key in group}
        raw["X"] = _lazy(group["X"])
    if isinstance(store["obs"], h5py.Dataset):
        slots = _slots_of_old(store)
        if "raw.X" in store:
            raw = {"X": _lazy(store["raw.X"]), "var": _slots_of_old(store, var="raw.var")["var"]}
    else:
        slots = {slot: ad.io.read_elem(store[slot]) for slot in _SLOTS if slot in store}
    return AnnData(
        _lazy(store["X"]) if "X" in store else None,
        layers={key: _lazy(store["layers"][key]) for key in store.get("layers", ())},
        raw=raw,
        **slots,
    )


def _kind(element: Any) -> Any:
    return element.attrs.get("encoding-type")


def _lazy(element: Any) -> Any:
    """Leave a matrix in its store; read anything else."""
    if _kind(element) in {"csr_matrix", "csc_matrix"} or "h5sparse_format" in element.attrs:
        matrix = ad.io.sparse_dataset(element)
        _check_ends(matrix)
        return matrix
    # anndata 0.7 and older did not mark arrays.
    is_array = _kind(element) == "array" or isinstance(element, h5py.Dataset)
    return element if is_array else ad.io.read_elem(element)


def _slots_of_old(store: h5py.File, *, var: str = "var") -> dict[str, Any]:
    """All but matrices of a file from before anndata 0.7: what anndata reads of a copy."""
    image = BytesIO()
    with h5py.File(image, "w") as copy:
        for key in _SLOTS:
            source = var if key == "var" else key
            if source in store:
                store.copy(store[source], copy, name=key)
    adata = ad.io.read_h5ad(image)
    return {slot: getattr(adata, slot) for slot in _SLOTS}


def _check_ends(matrix: Any) -> None:
    """Require of a sparse matrix in a file that its rows are where it says; values come later."""
    ends = matrix.group["indptr"][:]
    n_rows = matrix.shape[0 if matrix.format == "csr" else 1]
    n_stored = min(matrix.group[part].shape[0] for part in ("indices", "data"))
    if len(ends) != n_rows + 1 or ends[0] != 0 or ends[-1] > n_stored or (np.diff(ends) < 0).any():
        msg = f"the `indptr` of {matrix.group.name} does not fit its shape, {matrix.shape}"
        raise ValueError(msg)


def _matrices(adata: AnnData) -> Iterator[tuple[str, Any]]:
    """Everything in an AnnData that may be a matrix, with its place."""
    yield "X", adata.X
    if adata.raw is not None:
        yield "raw/X", adata.raw.X
    for slot in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        waiting = [(slot, getattr(adata, slot))]
        while waiting:
            place, values = waiting.pop()
            for key, value in values.items():
                if isinstance(value, Mapping):
                    waiting.append((f"{place}/{key}", value))
                else:
                    yield f"{place}/{key}", value


def _left_in_file(adata: AnnData) -> dict[str, Any]:
    """Matrices that are not in memory, by their place in h5ad."""
    layers = {f"layers/{key}": value for key, value in adata.layers.items() if key is not None}
    places = {"X": adata.X} | layers
    if adata.raw is not None:
        places["raw/X"] = adata.raw.X
    return {place: matrix for place, matrix in places.items() if not in_memory(matrix)}


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
        if _kind(source) is None:  # of anndata 0.7 or older
            is_array = isinstance(source, h5py.Dataset)
            kind = "array" if is_array else f"{matrix.format}_matrix"
            marks = {"encoding-type": kind, "encoding-version": "0.2.0" if is_array else "0.1.0"}
            file[place].attrs.update(marks if is_array else marks | {"shape": matrix.shape})
        return
    for name, array in _arrays(matrix).items():
        copy = file.create_dataset(place + name, array.shape, array.dtype, **_COMPRESSION)
        step = max(1, _PIECE // max(1, prod(array.shape[1:])))
        for start in range(0, len(copy), step):
            copy[start : start + step] = array[start : start + step]
    file[place].attrs.update(source.attrs)


def _read_spatialdata(path: Path, table: str | None, *, backed: _Backed, trust: bool) -> AnnData:
    """Read one table of a SpatialData store, with coordinates."""
    with importing("spatialdata", f"Reading {path} (SpatialData)", _SPATIALDATA):
        import spatialdata
    folder = path / ("tables" if "tables" in names_in(path) else "table")
    with expect("a SpatialData store", path):
        if not trust:
            check_zarr(path, ("tables", "table", "shapes"))
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
        with expect("a SpatialData store", path):
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
        if not centroids.index.is_unique:
            msg = (
                f"Expected shapes in {name!r} with an index of their own each, found repeated ones."
            )
            raise ValueError(msg)
        places = centroids.index.get_indexer(instance[rows])
        if (places < 0).all():  # numbers on one side, text on the other
            as_text = centroids.index.map(str)
            places = as_text.get_indexer(instance[rows].map(str)) if as_text.is_unique else places
        lost = int((places < 0).sum())
        if lost:
            advice = "Remove these observations from the table."
            if lost == rows.sum():
                key, found, there = (
                    link["instance_key"],
                    instance[rows].iloc[0],
                    centroids.index[:1],
                )
                advice = (
                    f"`adata.obs[{key!r}]` holds values such as {found!r}, the index of the shapes "
                    f"{there.tolist()[0]!r}: make them alike."
                )
            msg = (
                f"Expected a shape in {name!r} for each of its {rows.sum()} observations, found "
                f"none for {lost}. {advice}"
            )
            raise ValueError(msg)
        coordinates[rows] = np.column_stack([centroids.x, centroids.y])[places]
    return coordinates
