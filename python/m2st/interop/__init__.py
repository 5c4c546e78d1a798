"""Objects of R's Bioconductor and Seurat to AnnData, and back.

::

    adata = m2st.interop.read_r("section.rds")  # a SpatialExperiment or Seurat object in a file
    m2st.interop.write_r(adata, "section.rds", as_="Seurat")

    import rpy2.robjects as ro

    adata = m2st.interop.to_anndata(ro.globalenv["spe"])  # an object of the running R
    ro.globalenv["spe"] = m2st.interop.from_anndata(adata)
    with ro.conversion.localconverter(ro.default_converter + m2st.interop.converter()):
        adata = ro.globalenv["spe"]

R runs through rpy2 (``pip install 'm2st[r]'``), in the main thread only. Reading a file needs no R
package that made the object. With ``pip install 'm2st[rds]'`` it needs no R either. Matrices stay
sparse: genes × spots, compressed by column, is the same memory as spots × genes, compressed by row.

What goes where
---------------
============================  ====================================  ================================
SpatialExperiment             AnnData                               Notes
============================  ====================================  ================================
assays, by name               ``X`` and ``layers``                  ``X`` is the assay X, else
                                                                    counts, else the first
colnames, rownames            ``obs_names``, ``var_names``          repeated ones get "-1", "-2";
                                                                    originals in "original_name"
colData, rowData              ``obs``, ``var``                      factors with levels and order;
                                                                    missing values of each type;
                                                                    strings categorical as AnnData
                                                                    writes them; run-length codes
spatialCoords                 ``obsm["spatial"]``                   zero columns: no coordinates
reducedDims                   ``obsm``: PCA is "X_pca"              their attributes are left out
imgData                       ``uns["spatial"]``, scanpy's layout   pixels as bytes; the diameter of
                                                                    the spots estimated and marked
metadata                      ``uns``                               vectors, factors, arrays, data
                                                                    frames, sparse matrices, lists
altExps, colPairs, rowPairs,  not converted
rowRanges, remote images
============================  ====================================  ================================

A SingleCellExperiment is read in the same way. Its reducedDim "spatial" is ``obsm["spatial"]``.

============================  ====================================  ================================
Seurat 3, 4 and 5             AnnData                               Notes
============================  ====================================  ================================
counts, data of one assay     ``X``, ``layers["data"]``             of an SCT assay, the assay that
                                                                    it was made from; split layers
                                                                    are joined
meta.data, meta.features      ``obs``, ``var``                      as colData and rowData
active identity               ``obs["ident"]``
variable features             ``var["highly_variable"]`` and        in their order
                              ``var["highly_variable_rank"]``
reductions                    ``obsm``: m2st.scale1 is              loadings are not converted
                              "X_m2st_scale1"
images, all classes           ``obsm["spatial"]``: x, y in full     of outlines, the centre
                              resolution; ``obs["sample_id"]``:
                              the image; ``uns["spatial"]``
tissue, row, col of VisiumV1  ``obs["in_tissue"]``,
                              ``["array_row"]``, ``["array_col"]``
misc                          ``uns``                               as metadata
other assays, scale.data,     not converted
graphs, neighbors, commands,
tools, outlines, molecules
============================  ====================================  ================================

One warning names everything that is not converted. ``uns["m2st_r"]`` keeps facts of R that have no
slot in AnnData, such as the class and the order of the assays. The way back restores them.
``metadata(x)$m2st_python`` does the same for Python's types, such as float32. On the way to R,
``obsp``, ``varm``, ``varp`` and ``raw`` are not converted.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from m2st._checks import check_choice, check_target, warn
from m2st._files import replacing
from m2st.interop import _embedded as r
from m2st.interop import _experiment, _parsed, _record, _seurat
from m2st.interop._nodes import Node

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from rpy2.robjects.conversion import Converter

__all__ = ["converter", "from_anndata", "read_r", "to_anndata", "write_r"]

_AS = (*_experiment.CLASSES[:2], "Seurat")
_SUFFIXES = (".rds", ".rda", ".RData")
# Names under which coordinates are usually kept, right before down; R knows the same.
_COORDINATE_COLUMNS = (
    ("imagecol", "imagerow"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("x_centroid", "y_centroid"),
    ("center_x", "center_y"),
    ("centroid_x", "centroid_y"),
    ("x_slide_mm", "y_slide_mm"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("x_global_px", "y_global_px"),
    ("sdimx", "sdimy"),
    ("xcoord", "ycoord"),
    ("x_coord", "y_coord"),
    ("coord_x", "coord_y"),
    ("spatial_x", "spatial_y"),
    ("spatial_1", "spatial_2"),
    ("x_location", "y_location"),
    ("array_col", "array_row"),
    ("col", "row"),
    ("x", "y"),
)


def to_anndata(x: Any, *, assay: str | None = None) -> AnnData:
    """Convert an R object that rpy2 holds.

    Parameters
    ----------
    x
        SpatialExperiment, SingleCellExperiment, SummarizedExperiment, a class derived from them,
        or a Seurat object of version 3 to 5.
    assay
        Name of the assay of a Seurat object; by default the active one, or, if SCTransform made
        it, the one that it was made from.

    Returns
    -------
    AnnData, (n_obs, n_vars), with what the module's table lists. Sparse assays are CSR, and values
    have R's types: float64, int32, bool.

    Raises
    ------
    ImportError
        rpy2, R or a package of R is missing; says which, and how to get it.
    RuntimeError
        Called from another than the main thread; or R raised an error, whose message this has.
    TypeError
        `x` is of another class.
    ValueError
        The object has no such `assay`; or `assay` was given for a class that has none.

    Warns
    -----
    UserWarning
        Once, with all that is not converted, and with what the object lacks: coordinates or assays.

    Examples
    --------
    >>> adata = m2st.interop.to_anndata(ro.globalenv["spe"])  # doctest: +SKIP
    """
    # Through R once, as the classes of rpy2's upper layers are of no use here.
    return _read_node(r.RNode(r.session().base["identity"](x)), assay=assay)


def from_anndata(adata: AnnData, as_: str | None = None) -> Any:
    """Convert to an R object.

    Parameters
    ----------
    adata
        Object to convert; it is not changed. Coordinates are in ``obsm["spatial"]``. Sections are
        in ``obs["sample_id"]``, or in a column that has the keys of ``uns["spatial"]``.
    as_
        ``"SpatialExperiment"``, ``"SingleCellExperiment"`` or ``"Seurat"``; by default the class
        that the AnnData was read from, else a SpatialExperiment.

    Returns
    -------
    rpy2.rinterface.SexpS4, which can be assigned in R (``ro.globalenv["spe"] = ...``) or passed
    to its functions. Without a name from R, whole numbers from 0 in ``X`` become the assay
    ``counts``.

    Raises
    ------
    ImportError
        rpy2, R or the R package of the class is missing. The message says which, and how to get it.
    RuntimeError
        Called from another than the main thread; or R raised an error, whose message this has.
    ValueError
        `as_` is not one of these; names repeat, which Seurat does not allow.

    Warns
    -----
    UserWarning
        Once, with all that is not converted.

    Examples
    --------
    >>> ro.globalenv["seurat"] = m2st.interop.from_anndata(adata, "Seurat")  # doctest: +SKIP
    """
    return _write(adata, as_)


def converter() -> Converter:
    """Make a converter for a local context of rpy2; nothing is activated globally.

    Returns
    -------
    rpy2.robjects.conversion.Converter, to be added to another one, such as
    ``rpy2.robjects.default_converter``. It converts the S4 classes of this module and AnnData, and
    leaves other S4 objects to rpy2's default.

    Raises
    ------
    ImportError
        rpy2 or R is missing.

    Examples
    --------
    >>> with localconverter(ro.default_converter + m2st.interop.converter()):  # doctest: +SKIP
    ...     adata = ro.globalenv["spe"]
    """
    ri = r.session().ri
    from anndata import AnnData
    from rpy2.robjects import conversion, default_converter

    def to_python(x: Any) -> Any:
        kind = _reader(r.RNode(r.session().base["identity"](x)))
        return default_converter.rpy2py(x) if kind is None else to_anndata(x)

    made = conversion.Converter("m2st")
    made.rpy2py.register(ri.SexpS4, to_python)
    made.py2rpy.register(AnnData, from_anndata)
    return made


def read_r(
    path: str | os.PathLike[str],
    object: str | None = None,
    *,
    assay: str | None = None,
    method: Literal["auto", "rds2py", "r"] = "auto",
) -> AnnData:
    """Read an R object from an ``.rds``, ``.rda`` or ``.RData`` file.

    Parameters
    ----------
    path
        The file.
    object
        Name of the object to take from an ``.rda``; needed only if it holds several that can be
        converted.
    assay
        As in :func:`to_anndata`.
    method
        ``"auto"`` and ``"rds2py"`` read without R, by the parser of rds2py. The result is the same
        as R's, but some files cannot be read, such as files with functions or with matrices on
        disk. ``"r"`` reads through R and rpy2, for files whose source you trust. R before 4.4 runs
        commands that a crafted file holds (CVE-2024-27322), and any R calls functions that stand
        for matrices.

    Returns
    -------
    AnnData, as from :func:`to_anndata`.

    Raises
    ------
    FileNotFoundError
        There is no file.
    ImportError
        A package that the method needs is missing. The message says which, and how to get it.
    RuntimeError
        R raised an error, whose message this has; or the call is not in the main thread.
    TypeError
        No object in the file is of a class that can be converted.
    ValueError
        The file is of another kind, damaged, or beyond what rds2py can read; it unpacks to more
        than 150 times its size and 0.5 GB; it holds several objects, or none of that name.

    Warns
    -----
    UserWarning
        As :func:`to_anndata`.

    Examples
    --------
    >>> adata = m2st.interop.read_r("section.rds")  # doctest: +SKIP
    """
    check_choice("method", method, ("auto", "rds2py", "r"))
    path = Path(path)
    if not path.is_file():
        msg = f"Expected a file at {path}, found none."
        raise FileNotFoundError(msg)
    if path.suffix.lower() not in map(str.lower, _SUFFIXES):
        msg = f"Expected a path that ends in .rds, .rda or .RData, found {path}."
        raise ValueError(msg)
    if path.stat().st_size == 0:
        msg = f"Expected an R object in {path}, found it empty."
        raise ValueError(msg)
    if method == "r":
        listing = r.RNode(r.call("readObjects", r.strings([str(path)])))
        objects = dict(zip(listing.names or ["object"], listing.items(), strict=True))
    else:
        objects = _parsed.read_objects(path)
    chosen = _choose(objects, object, path)
    with _parsed.whole(path):
        return _read_node(chosen, assay=assay)


def write_r(
    adata: AnnData,
    path: str | os.PathLike[str],
    as_: str | None = None,
    *,
    name: str = "adata",
    overwrite: bool = False,
) -> None:
    """Write an R object to an ``.rds``, ``.rda`` or ``.RData`` file, whole or not at all.

    Parameters
    ----------
    adata
        Object to write; it is not changed.
    path
        File in a folder that exists.
    as_
        As in :func:`from_anndata`.
    name
        Name of the object in an ``.rda``.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        There is a file already, and `overwrite` is not set.
    FileNotFoundError
        The folder does not exist.
    ImportError, RuntimeError, ValueError
        As :func:`from_anndata`; ValueError also for another ending, or a `name` that R would not
        take.

    Warns
    -----
    UserWarning
        As :func:`from_anndata`.

    Examples
    --------
    >>> m2st.interop.write_r(adata, "section.rds")  # doctest: +SKIP
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9._]*", name):
        msg = f"Expected `name` of letters, digits, dots and underscores, found {name!r}."
        raise ValueError(msg)
    path = Path(path)
    target = check_target(path, _SUFFIXES, overwrite=overwrite)
    made = _write(adata, as_)
    with replacing(target) as part:
        places = r.strings([str(part)]), r.strings([str(path)])
        try:
            r.call("writeObjects", made, r.strings([name]), *places)
        except RuntimeError as error:
            if "writing to connection" not in str(error):
                raise
            raise OSError(str(error)) from error  # of which R does not know more
        _check_whole(part)


def _check_whole(path: Path) -> None:
    """Require that all arrived: R does not notice that a disk is full when it closes a file."""
    try:
        with gzip.open(path) as stream:
            while stream.read(2**24):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        msg = "only a part arrived on the disk"
        raise OSError(msg) from error


def _reader(node: Node) -> str | None:
    """Tell the family of an object from its slots, as classes may be derived ones."""
    if node.kind != "S4":
        return None
    if not node.attribute("colData").is_null and not node.attribute("metadata").is_null:
        return "experiment"
    is_seurat = "Seurat" in node.classes or "seurat" in node.classes
    return "seurat" if is_seurat else None


def _read_node(node: Node, *, assay: str | None) -> AnnData:
    family = _reader(node)
    skipped: list[str] = []
    kind = (node.classes or (node.kind,))[0]
    if family is None:
        msg = (
            "Expected a SpatialExperiment, SingleCellExperiment, SummarizedExperiment or Seurat "
            f"object, found one of class {kind}."
        )
        raise TypeError(msg)
    if family == "seurat":
        adata = _seurat.read_seurat(node, skipped, assay=assay)
    elif assay is not None:
        msg = f"Expected `assay` only with a Seurat object, found {assay!r} with a {kind}: all "
        msg += "its assays are converted."
        raise ValueError(msg)
    else:
        adata = _experiment.read_experiment(node, skipped)
    said = [_describe_skipped(kind, skipped), _lacking(adata, kind)]
    if text := " ".join(part for part in said if part):
        warn(text)
    return adata


def _write(adata: AnnData, as_: str | None) -> Any:
    origin = _record.load(adata.uns.get(_record.FROM_R)).get("class", _AS[0])
    kind = origin if as_ is None else as_
    if as_ is not None:
        check_choice("as_", as_, _AS)
    r.session()
    if adata.isbacked:
        adata = adata.to_memory()
    skipped: list[str] = []
    if kind == "Seurat":
        made = _seurat.write_seurat(adata, skipped)
    else:
        made = _experiment.write_experiment(adata, kind, skipped)
    if text := _describe_skipped("AnnData", skipped):
        warn(text)
    return made


def _describe_skipped(kind: str, skipped: list[str]) -> str:
    return f"Not converted from the {kind}: {'; '.join(skipped)}." if skipped else ""


def _lacking(adata: AnnData, kind: str) -> str:
    """Say what a spatial analysis will miss, and where it may be found."""
    said = []
    if adata.X is None:
        said.append(f"The {kind} has no assay: `X` is empty.")
    if "spatial" not in adata.obsm:
        said.append(f"The {kind} has no coordinates: `obsm['spatial']` is not set.")
        found = next((pair for pair in _COORDINATE_COLUMNS if set(pair) <= set(adata.obs)), None)
        if found is not None:
            said.append(
                f"If {found[0]} and {found[1]} are the positions: `adata.obsm['spatial'] = "
                f"adata.obs[{list(found)}].to_numpy()`."
            )
    return " ".join(said)


def _choose(objects: Mapping[str, Node], name: str | None, path: Path) -> Node:
    """Choose the object to convert among those in a file."""
    kinds = {key: (node.classes or (node.kind,))[0] for key, node in objects.items()}
    listed = ", ".join(f"{key} ({kind})" for key, kind in kinds.items()) or "nothing"
    if name is not None:
        if name not in objects:
            msg = f"Expected an object {name!r} in {path}, found {listed}."
            raise ValueError(msg)
        return objects[name]
    usable = [node for node in objects.values() if _reader(node) is not None]
    if len(usable) > 1:
        msg = f"Expected one object in {path}, found {listed}. Choose one with `object=`."
        raise ValueError(msg)
    if not usable:
        msg = (
            f"Expected a SpatialExperiment, SingleCellExperiment, SummarizedExperiment or Seurat "
            f"object in {path}, found {listed}."
        )
        raise TypeError(msg)
    return usable[0]
