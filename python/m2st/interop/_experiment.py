"""SpatialExperiment, SingleCellExperiment and SummarizedExperiment to AnnData and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st.interop import _embedded as r
from m2st.interop import _images, _record
from m2st.interop._nodes import NULL, Node, Skipped
from m2st.interop._values import (
    Note,
    check_length,
    convert,
    in_order,
    kept_dtype,
    number_kind,
    read_columns,
    read_list,
    read_matrix,
    restore_dtype,
    unique_names,
    write_columns,
    write_list,
    write_matrix,
)

CLASSES = ("SpatialExperiment", "SingleCellExperiment", "SummarizedExperiment")

_SLOTS = {
    "int_elementMetadata",
    "int_colData",
    "int_metadata",
    "rowRanges",
    "colData",
    "assays",
    "NAMES",
    "elementMetadata",
    "metadata",
    "class",
}
_CONVERTED_PARTS = {"reducedDims", "altExps", "colPairs", "spatialCoords"}


def main_assay(names: list[str]) -> str:
    """Choose what goes into ``X``: the raw counts, where they are known by name."""
    return next((name for name in ("X", "counts") if name in names), names[0])


def reduced_key(name: str, results: Iterable[str] = ()) -> str:
    """Return the key in ``obsm`` of a reducedDim: ``X_pca`` for PCA.

    Embeddings of results have the name of the result in capitals, as the R package writes them.
    """
    for result in results:
        if found := re.fullmatch(rf"{re.escape(result.upper())}(_(?:{_record.PARTS}))?", name):
            return f"X_{result}{found[1] or ''}"
    first, dash, rest = name.partition("_")
    return f"X_{first.lower() if first.isupper() else first}{dash}{rest}"


def reduced_name(key: str, results: Iterable[str] = ()) -> str:
    """Return the name of the reducedDim for a key of ``obsm``: PCA for ``X_pca``."""
    for result in results:
        if found := re.fullmatch(rf"X_{re.escape(result)}(_(?:{_record.PARTS}))?", key):
            return f"{result.upper()}{found[1] or ''}"
    if not key.startswith("X_") or key == "X_":
        return key
    first, dash, rest = key[2:].partition("_")
    return f"{first.upper() if first.islower() else first}{dash}{rest}"


def read_experiment(x: Node, skipped: list[str]) -> AnnData:
    """Convert; what could not be converted is added to `skipped`."""
    inner = x.attribute("int_colData").attribute("listData").fields()
    obs_node, var_node = x.attribute("colData"), _row_data(x)
    n_obs = int(obs_node.attribute("nrows").numbers()[0])
    n_vars = int(var_node.attribute("nrows").numbers()[0])
    obs_names, var_names = _names(obs_node.attribute("rownames")), _row_names(x)
    found = x.classes[0]
    kind = "SingleCellExperiment" if inner else "SummarizedExperiment"
    if "spatialCoords" in inner:
        kind = "SpatialExperiment"
    if found not in {kind, "RangedSummarizedExperiment"}:
        skipped.append(f"the class {found} (read as its parent {kind})")

    obs, obs_notes = read_columns(
        obs_node.attribute("listData"), where="colData", rows=obs_names, skipped=skipped
    )
    var, var_notes = read_columns(
        var_node.attribute("listData"), where="rowData", rows=var_names, skipped=skipped
    )
    assays, assay_notes = _read_assays(x, skipped)
    for name, matrix in assays.items():
        if matrix.shape != (n_obs, n_vars):
            msg = (
                f"Expected the assay {name!r} of {n_vars} × {n_obs} values, found {matrix.shape[1]}"
                f" × {matrix.shape[0]}. Check the object in R: `validObject(x)`."
            )
            raise ValueError(msg)
    for n, names in ((n_obs, obs_names), (n_vars, var_names)):
        if names is None and not assays:
            check_length(n, what=f"a {kind}")
    obs_frame, obs_record = _record.table(obs, obs_names, n_obs)
    var_frame, var_record = _record.table(var, var_names, n_vars)
    uns, metadata_note = _read_metadata(x.attribute("metadata"), skipped)
    from_python = _record.load(uns.pop(_record.FROM_PYTHON, None))
    main = _record.main_of(from_python, assays, main_assay)
    order = list(assays)
    adata = AnnData(
        None if main is None else assays.pop(main),
        obs=obs_frame,
        var=var_frame,
        layers=assays,
        uns=uns,
        shape=None if main is not None or assays else (n_obs, n_vars),
    )
    record = {
        "class": kind,
        "assays": order,
        "main": main,
        "matrices": assay_notes,
        "obs": {**obs_record, "columns": obs_notes},
        "var": {**var_record, "columns": var_notes},
        "metadata": metadata_note,
    }
    record["reduced"] = _read_reduced(adata, inner, from_python.get("obsm", {}), skipped)
    record |= _read_coordinates(adata, inner.get("spatialCoords", NULL), from_python)
    if kind == "SpatialExperiment":
        images = x.attribute("int_metadata").field("imgData")
        record |= _read_images(adata, images, from_python.get("images", {}), skipped)
    _list_skipped(x, inner, skipped)
    _record.restore(adata, from_python)
    for column in from_python.get("added", []):
        del adata.obs[column]
    adata.uns[_record.FROM_R] = _record.dump(record)
    return adata


def _names(node: Node) -> list[str] | None:
    return [name or "" for name in node.strings()] if node.kind == "character" else None


def _row_data(x: Node) -> Node:
    """DataFrame of the rows: beside the ranges, where there are ranges."""
    ranges = x.attribute("rowRanges")
    return (x if ranges.is_null else ranges).attribute("elementMetadata")


def _row_names(x: Node) -> list[str] | None:
    ranges = x.attribute("rowRanges")
    if ranges.is_null:
        return _names(x.attribute("NAMES"))
    for holder in ("partitioning", "ranges"):
        if not (part := ranges.attribute(holder)).is_null:
            return _names(part.attribute("NAMES"))
    return ranges.attribute("listData").names


def _read_assays(x: Node, skipped: list[str]) -> tuple[dict[str, Any], dict[str, Note]]:
    listing = x.attribute("assays").attribute("data").attribute("listData")
    names = listing.names or ["" for _ in listing.items()]
    found, notes = {}, {}
    keys = unique_names(name or f"assay{i}" for i, name in enumerate(names, start=1))
    for key, name, node in zip(keys, names, listing.items(), strict=True):
        pair = convert(f"assay {key}", skipped, read_matrix, node)
        if pair is None:
            continue
        found[key], note = pair
        if key != name:
            note["name"] = name
        if note:
            notes[key] = note
    return found, notes


def _read_metadata(node: Node, skipped: list[str]) -> tuple[dict[str, Any], Note]:
    return read_list(node, where="metadata", skipped=skipped) if node.kind == "list" else ({}, {})


def _read_reduced(
    adata: AnnData, inner: Mapping[str, Node], python: Mapping[str, Any], skipped: list[str]
) -> dict[str, Note]:
    """Fill ``obsm`` from the reducedDims; returns what R knows of each."""
    listing = inner["reducedDims"].attribute("listData") if "reducedDims" in inner else NULL
    keys = {note["name"]: key for key, note in python.items()}
    names = listing.names or []
    results = _record.results(adata.uns)
    plain = "spatialCoords" not in inner and "spatial" in names
    wanted = [
        "spatial" if plain and name == "spatial" else keys.get(name, reduced_key(name, results))
        for name in names
    ]
    notes: dict[str, Note] = {}
    for key, name, node in zip(unique_names(wanted), names, listing.items(), strict=True):
        values = convert(f"reducedDim {name}", skipped, _embedding, node)
        if values is None:
            continue
        columns = node.dimnames(1)
        notes[key] = {"name": name, "columns": columns}
        extra = [a for a in node.attributes if a not in {"dim", "dimnames"}]
        if extra:
            skipped.append(f"reducedDim {name} (its attributes {', '.join(extra)})")
        hint = python.get(key, {})
        if hint.get("frame"):
            adata.obsm[key] = pd.DataFrame(values, columns=columns, index=adata.obs_names)
        else:
            adata.obsm[key] = restore_dtype(values, hint.get("dtype"))
    return notes


def _embedding(node: Node) -> NDArray[Any]:
    if node.kind not in {"double", "integer"} or len(node.shape) != 2:
        msg = f"of class {(node.classes or (node.kind,))[0]}, not a numeric matrix"
        raise Skipped(msg)
    matrix, _ = read_matrix(node)
    return np.ascontiguousarray(matrix.T)


def _read_coordinates(adata: AnnData, node: Node, python: Mapping[str, Any]) -> dict[str, Any]:
    """Fill ``obsm["spatial"]``; a matrix without columns is no coordinates."""
    if len(node.shape) != 2 or node.shape[1] == 0:
        return {}
    values = _embedding(node)
    dtype = python.get("coordinates", "float64")
    adata.obsm[_keys.COORDINATES] = values.astype(dtype)
    return {"coordinates": node.dimnames(1), "whole": values.dtype != np.float64}


def _read_images(
    adata: AnnData, table: Node, python: Mapping[str, Any], skipped: list[str]
) -> dict[str, Any]:
    """Fill ``uns["spatial"]`` from imgData, on top of what Python had kept in the metadata."""
    fields = table.attribute("listData").fields()
    pictures = fields["data"].items() if "data" in fields else []
    if not pictures:
        return {"image_columns": list(fields)}
    libraries = adata.uns.setdefault("spatial", {})
    samples, ids = fields["sample_id"].strings(), fields["image_id"].strings()
    factors, lower = fields["scaleFactor"].numbers(), False
    for sample, image, factor, node in zip(samples, ids, factors, pictures, strict=True):
        library = libraries.setdefault(sample, {})
        scales = library.setdefault("scalefactors", {})
        library.setdefault("images", {})
        if np.isfinite(factor):
            scales.setdefault(_images.scale_key(image), float(factor))
        pair = convert(f"image {image} of {sample}", skipped, _images.read_spatial_image, node)
        if pair is not None:
            pixels, lower = pair
            dtype = python.get(sample, {}).get(image, "uint8")
            library["images"][image] = _images.from_bytes(pixels, dtype)
    if _keys.COORDINATES in adata.obsm and not python:
        for sample, library in libraries.items():
            rows = (adata.obs["sample_id"] == sample).to_numpy()
            coordinates = adata.obsm[_keys.COORDINATES][rows]
            _images.add_spot_diameter(library["scalefactors"], coordinates)
    return {"lower": lower}


def _list_skipped(x: Node, inner: Mapping[str, Node], skipped: list[str]) -> None:
    for part in ("altExps", "colPairs"):
        if part in inner and (names := inner[part].attribute("listData").names):
            skipped.append(f"{part} ({', '.join(names)})")
    pairs = x.attribute("int_elementMetadata").attribute("listData").field("rowPairs")
    if names := pairs.attribute("listData").names:
        skipped.append(f"rowPairs ({', '.join(names)})")
    skipped += [f"int_colData${name}" for name in inner if name not in _CONVERTED_PARTS]
    skipped += [f"attribute {name}" for name in x.attributes if name not in _SLOTS]
    ranges = x.attribute("rowRanges")
    holder = ranges.attribute("unlistData")
    starts = (ranges if holder.is_null else holder).attribute("ranges").attribute("start")
    if len(starts.numbers()):
        skipped.append("rowRanges (the genomic ranges, but their columns are)")
    for where, frame in (("colData", x.attribute("colData")), ("rowData", _row_data(x))):
        for part in ("elementMetadata", "metadata"):
            node = frame.attribute(part)
            if not node.is_null and not (node.kind == "list" and not node.items()):
                skipped.append(f"{part} of {where}")


def write_experiment(adata: AnnData, as_: str, skipped: list[str]) -> Any:
    """Build the object in R; what could not be converted is added to `skipped`."""
    record = _record.load(adata.uns.get(_record.FROM_R))
    python = _record.python_record(adata)
    obs, column_names = _record.original_names(adata.obs, record.get("obs", {}))
    var, row_names = _record.original_names(adata.var, record.get("var", {}))
    spatial = as_ == "SpatialExperiment"
    if spatial:
        obs, python["added"] = _with_sample(adata, obs)
    columns_r = r.null() if column_names is None else r.strings(column_names)
    rows_r = r.null() if row_names is None else r.strings(row_names)
    obs_notes = record.get("obs", {}).get("columns", {})
    if spatial and "sample_id" not in obs_notes:
        obs_notes = {**obs_notes, "sample_id": _sample_note(obs["sample_id"])}
    reduced, python["obsm"] = _write_reduced(adata, record, spatial=spatial, skipped=skipped)
    images, python["images"], leftover = r.null(), {}, adata.uns.get("spatial")
    if spatial:
        images, python["images"], unheld = _write_images(adata, obs, record, skipped)
        leftover = unheld or None
        python["coordinates"] = _coordinate_type(adata)
    assays, python["main"] = _write_assays(adata, record, skipped)
    metadata = _record.metadata(adata, leftover, python)
    skipped += _record.without_slot(adata)
    parts = {
        "assays": assays,
        "rows": write_columns(
            var, record.get("var", {}).get("columns", {}), where="var", rows=rows_r, skipped=skipped
        ),
        "columns": write_columns(obs, obs_notes, where="obs", rows=columns_r, skipped=skipped),
        "row_names": rows_r,
        "column_names": columns_r,
        "reduced": reduced,
        "coordinates": _write_coordinates(adata, record) if spatial else r.null(),
        "image_columns": r.strings(record.get("image_columns", [])),
        "images": images,
        "metadata": write_list(metadata, record.get("metadata", {}), where="uns", skipped=skipped),
    }
    dim = r.numeric(np.array([adata.n_vars, adata.n_obs]), "integer")
    return r.call("buildExperiment", r.strings([as_]), dim, r.listing(parts))


def _with_sample(adata: AnnData, obs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Add the column sample_id, which SpatialExperiment requires, where there is none."""
    if "sample_id" in obs:
        return obs, []
    libraries = [str(name) for name in adata.uns.get("spatial", {})]
    named = [
        column
        for column in ("library_id", "sample", *obs.columns)
        if column in obs and libraries and set(obs[column].astype(str)) == set(libraries)
    ]
    if named:
        sample = obs[named[0]].astype(str)
    else:
        sample = libraries[0] if len(libraries) == 1 else "sample01"
    return obs.assign(sample_id=sample), ["sample_id"]


def _sample_note(sample: pd.Series) -> Note:
    """Write samples as strings, which SpatialExperiment expects, unless their order says more."""
    if not isinstance(sample.dtype, pd.CategoricalDtype):
        return {}
    as_found = sample.dropna().unique().tolist() == sample.cat.categories.tolist()
    return {"text": True} if as_found and not sample.cat.ordered else {}


def _write_assays(
    adata: AnnData, record: Mapping[str, Any], skipped: list[str]
) -> tuple[Any, str | None]:
    """Write ``X`` and the layers, in R's order and under R's names where these are known.

    Returns them, and which is ``X`` where a reader would take another one.
    """
    order, notes = record.get("assays", []), record.get("matrices", {})
    matrices = dict(adata.layers.items())
    main = ""
    if adata.X is not None:
        wanted = [record.get("main"), "counts" if _whole(adata.X) else "X", "X"]
        free = (name for name in wanted if name is not None and name not in matrices)
        main = next(free, unique_names([*matrices, "X"])[-1])
        matrices = {main: adata.X, **matrices}
    made = {}
    for name in in_order(matrices, order):
        where = "X" if name == main else f"the layer {name!r}"
        matrix = convert(where, skipped, write_matrix, matrices[name], notes.get(name, {}))
        if matrix is not None:
            made[name] = matrix
    names = [notes.get(name, {}).get("name", name) for name in made]
    main = main if main in made else ""
    told = bool(made) and main_assay(list(made)) != main
    return r.listing(list(made.values()), names), main if told else None


def _whole(matrix: Any) -> bool:
    """Whether these are counts."""
    values = matrix.data if sparse.issparse(matrix) else np.asarray(matrix)
    with np.errstate(invalid="ignore"):  # of NaN of every kind
        return bool((values == np.floor(values)).all() and (values >= 0).all())


def _write_reduced(
    adata: AnnData, record: Mapping[str, Any], *, spatial: bool, skipped: list[str]
) -> tuple[Any, dict[str, Note]]:
    """Write ``obsm`` as reducedDims, and what R does not know of each."""
    notes = record.get("reduced", {})
    keys = [key for key in adata.obsm if not (spatial and key == _keys.COORDINATES)]
    keys = in_order(keys, list(notes))
    results = _record.results(adata.uns)
    wanted = [notes.get(key, {}).get("name", reduced_name(key, results)) for key in keys]
    made, python = {}, {}
    for key, name in zip(keys, unique_names(wanted), strict=True):
        value, columns = adata.obsm[key], notes.get(key, {}).get("columns")
        hint: Note = {}
        if isinstance(value, pd.DataFrame):
            hint, columns = {"frame": True}, value.columns.astype(str).tolist()
            value = value.to_numpy()
        elif (dtype := kept_dtype(value)) is not None:
            hint = {"dtype": dtype}
        matrix = convert(f"obsm[{key!r}]", skipped, _write_embedding, value, columns)
        if matrix is None:
            continue
        made[name] = matrix
        if hint or reduced_key(name, results) != key:
            python[key] = {"name": name, **hint}
    return r.listing(made), python


def _write_embedding(value: Any, columns: list[str] | None) -> Any:
    if sparse.issparse(value) or value.ndim != 2 or value.dtype.kind not in "iuf":
        msg = "not a dense numeric matrix"
        raise Skipped(msg)
    matrix = r.with_shape(r.numeric(value, number_kind(value)), value.shape)
    if columns is not None and len(columns) == value.shape[1]:
        matrix.do_slot_assign("dimnames", r.listing([r.null(), r.strings(columns)]))
    return matrix


def _write_coordinates(adata: AnnData, record: Mapping[str, Any]) -> Any:
    """Write ``obsm["spatial"]`` as spatialCoords."""
    if _keys.COORDINATES not in adata.obsm:
        return r.null()
    values = np.asarray(adata.obsm[_keys.COORDINATES])
    if record.get("whole") and (values == np.floor(values)).all() and values.max(initial=0) < 2**31:
        values = values.astype(np.int32)
    columns = record.get("coordinates") if "coordinates" in record else _axes(adata, values)
    return _write_embedding(values, columns)


def _coordinate_type(adata: AnnData) -> str | None:
    """Type of the coordinates, if it is not the usual one."""
    dtype = str(np.asarray(adata.obsm.get(_keys.COORDINATES, 0.0)).dtype)
    return None if dtype == "float64" else dtype


def _axes(adata: AnnData, values: NDArray[Any]) -> list[str]:
    """Names of the axes: those of Visium where there are pictures, which have pixels."""
    if values.shape[1] == 2 and adata.uns.get("spatial"):
        return ["pxl_col_in_fullres", "pxl_row_in_fullres"]
    return ["x", "y", "z"][: values.shape[1]]


def _write_images(
    adata: AnnData, obs: pd.DataFrame, record: Mapping[str, Any], skipped: list[str]
) -> tuple[Any, dict[str, dict[str, str]], dict[str, Any]]:
    """Write pictures as imgData; returns their types, and what imgData cannot hold."""
    samples, ids, factors, pictures = [], [], [], []
    types: dict[str, dict[str, str]] = {}
    leftover: dict[str, Any] = {}
    known = set(obs["sample_id"].astype(str))
    for sample, library in adata.uns.get("spatial", {}).items():
        scales = _images.own_scales(library.get("scalefactors", {}))
        for image, picture in library.get("images", {}).items():
            where = f"image {image} of {sample}"
            if sample not in known:
                skipped.append(f"{where} (no observation has this sample_id)")
                continue
            if (pair := convert(where, skipped, _images.to_bytes, picture)) is None:
                continue
            pixels, exact = pair
            skipped += [] if exact else [f"{where} (rounded to 8 bits)"]
            samples.append(sample)
            ids.append(image)
            factors.append(scales.pop(_images.scale_key(image), np.nan))
            pictures.append(r.with_shape(r.numeric(pixels, "integer"), pixels.shape))
            if not record:
                types.setdefault(sample, {})[image] = str(picture.dtype)
        rest = {key: part for key, part in library.items() if key not in {"images", "scalefactors"}}
        if scales:
            rest["scalefactors"] = scales
        if rest:
            leftover[sample] = rest
    if not pictures:
        return r.null(), types, leftover
    images = {
        "sample_id": r.strings(samples),
        "image_id": r.strings(ids),
        "scale": r.numeric(np.array(factors, dtype=np.float64), "double"),
        "pixels": r.listing(pictures),
        "lower": r.numeric(np.array([bool(record.get("lower"))]), "logical"),
    }
    return r.listing(images), types, leftover
