"""Seurat objects of versions 3 to 5 to AnnData and back."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st.interop import _embedded as r
from m2st.interop import _images, _record
from m2st.interop._nodes import NA_INTEGER, Node, Skipped
from m2st.interop._values import (
    Note,
    convert,
    in_order,
    kept_dtype,
    read_columns,
    read_list,
    read_matrix,
    read_vector,
    restore_dtype,
    unique_names,
    write_columns,
    write_list,
    write_matrix,
    write_vector,
)

_RAW_ASSAYS = ("Spatial", "RNA", "Xenium", "Vizgen", "Nanostring")
_LAYERS = ("counts", "data")
_SKIPPED_LISTS = ("graphs", "neighbors", "commands", "tools")
# Columns of VisiumV1's coordinates, and what Space Ranger calls them.
_ARRAY = {"tissue": "in_tissue", "row": "array_row", "col": "array_col"}
_FACTORS = {
    "spot": "spot_diameter_fullres",
    "fiducial": "fiducial_diameter_fullres",
    "hires": "tissue_hires_scalef",
    "lowres": "tissue_lowres_scalef",
}
_HVG, _HVG_RANK = "highly_variable", "highly_variable_rank"


class _Assay(NamedTuple):
    """One assay, its layers as observations × genes, for the cells of the object."""

    genes: list[str]
    layers: dict[str, Any]
    notes: dict[str, Note]
    columns: Node
    variable: list[str]


class _Image(NamedTuple):
    """Where one image has its cells, in its own full resolution."""

    cells: list[str]
    coordinates: NDArray[np.float64]
    array: dict[str, NDArray[Any]]
    library: dict[str, Any]
    note: Note


# ---- from R


def reduction_key(name: str, results: Iterable[str] = ()) -> str:
    """Return the key in ``obsm`` of a reduction: ``X_m2st_scale1`` for m2st.scale1.

    Embeddings of results have the name of the result, as the R package writes them.
    """
    for result in results:
        if found := re.fullmatch(rf"{re.escape(result)}(?:[.](scale\d+))?", name):
            return f"X_{result}_{found[1]}" if found[1] else f"X_{result}"
    return f"X_{name.replace('.', '_')}"


def reduction_name(key: str, results: Iterable[str] = ()) -> str:
    """Return the name of the reduction for a key of ``obsm``: m2st.scale1 for X_m2st_scale1."""
    for result in results:
        if found := re.fullmatch(rf"X_{re.escape(result)}(?:_(scale\d+))?", key):
            return f"{result}.{found[1]}" if found[1] else result
    name = re.sub(r"[^\w.]|_", ".", key.removeprefix("X_")) or "X"
    return name if name[0].isalpha() or name[0] == "." else f"X{name}"


def read_seurat(x: Node, skipped: list[str], *, assay: str | None = None) -> AnnData:
    """Convert one assay with its cells; what could not be converted is added to `skipped`."""
    if x.attribute("meta.data").is_null:
        msg = (
            "Expected a Seurat object of version 3 or later, found one of version 2. In R: "
            "`UpdateSeuratObject(x)`."
        )
        raise ValueError(msg)
    meta = x.attribute("meta.data")
    cells = meta.row_names
    assays = x.attribute("assays").fields()
    chosen = _choose_assay(assays, x.attribute("active.assay").text() or "", assay, skipped)
    found = _read_assay(assays[chosen], chosen, cells, skipped)

    obs, obs_notes = read_columns(meta, where="meta.data", rows=cells, skipped=skipped)
    var, var_notes = read_columns(
        found.columns, where="meta.features", rows=found.genes, skipped=skipped
    )
    ident = unique_names([*obs, "ident"])[-1]
    obs[ident] = _read_ident(x.attribute("active.ident"), cells)
    obs_frame, obs_record = _record.table(obs, cells, len(cells))
    var_frame, var_record = _record.table(var, found.genes, len(found.genes))
    _add_variable(var_frame, found.variable, skipped)
    misc = x.attribute("misc")
    uns, misc_note = ({}, {}) if misc.is_null else read_list(misc, where="misc", skipped=skipped)
    python = _record.load(uns.pop(_record.FROM_PYTHON, None))
    layers = dict(found.layers)
    if python.get("no_data") and _same(layers.get("data"), layers.get("counts")):
        del layers["data"]  # Seurat copies the counts there
    for name in set(python.get("dense", [])) & set(layers):
        layers[name] = layers[name].toarray() if sparse.issparse(layers[name]) else layers[name]
    order = list(layers)
    main = _record.main_of(python, layers, lambda names: names[0])
    adata = AnnData(
        None if main is None else layers.pop(main),
        obs=obs_frame,
        var=var_frame,
        layers=layers,
        uns=uns,
        shape=None if main is not None or layers else (len(cells), len(found.genes)),
    )
    record = {
        "class": "Seurat",
        "assay": chosen,
        "assay_class": assays[chosen].classes[0],
        "key": assays[chosen].attribute("key").text(),
        "project": x.attribute("project.name").text(),
        "ident": ident,
        "assays": order,
        "main": main,
        "matrices": found.notes,
        "obs": {**obs_record, "columns": obs_notes},
        "var": {**var_record, "columns": var_notes},
        "metadata": misc_note,
    }
    record["reductions"] = _read_reductions(
        adata, x.attribute("reductions"), cells, python.get("obsm", {}), skipped
    )
    record |= _read_images(adata, x.attribute("images").fields(), cells, python, skipped)
    _list_skipped(x, assays, chosen, skipped)
    _restore(adata, python)
    adata.uns[_record.FROM_R] = _record.dump(record)
    return adata


def _restore(adata: AnnData, python: Mapping[str, Any]) -> None:
    """Undo what the way to R had to add or rename."""
    for column in python.get("added", []):
        if column in adata.obs:
            del adata.obs[column]
    if (genes := python.get("genes")) is not None and len(genes) == adata.n_vars:
        adata.var_names = genes
    _record.restore(adata, python)


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    a, b = (sparse.csr_matrix(matrix, dtype=np.float64) for matrix in (a, b))
    return all(
        np.array_equal(getattr(a, part), getattr(b, part), equal_nan=part == "data")
        for part in ("indptr", "indices", "data")
    )


def _choose_assay(
    assays: Mapping[str, Node], active: str, assay: str | None, skipped: list[str]
) -> str:
    """Choose the assay: of one that SCTransform corrected, the one that it was made from."""
    if assay is not None:
        if assay not in assays:
            msg = f"Expected an assay {assay!r}, found {', '.join(map(repr, assays))}."
            raise ValueError(msg)
        return assay
    if "SCTAssay" not in assays[active].classes:
        return active
    origin = assays[active].attribute("assay.orig").text()
    raw = [name for name in (origin, *_RAW_ASSAYS) if name in assays and name != active]
    if raw and raw[0] is not None:
        return raw[0]
    skipped.append(
        f"the raw counts (assay {active} holds counts that SCTransform corrected, the assay "
        f"{origin or 'that they were made from'} is not in the object)"
    )
    return active


def _read_assay(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    read = _read_assay3 if node.attribute("layers").is_null else _read_assay5
    assay = read(node, name, cells, skipped)
    misc = node.attribute("misc")
    if not misc.is_null and misc.items():
        skipped.append(f"misc of assay {name}")
    return assay


def _matrix_names(node: Node) -> tuple[list[str] | None, list[str] | None]:
    slot = "Dimnames" if node.kind == "S4" else "dimnames"
    return node.dimnames(0, slot=slot), node.dimnames(1, slot=slot)


def _read_assay3(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    """Read an assay as Seurat 3 and 4 keep it: counts, data and scale.data side by side."""
    genes: list[str] = []
    layers, notes = {}, {}
    for layer in _LAYERS:
        matrix = node.attribute(layer)
        slot = "Dim" if matrix.kind == "S4" else "dim"
        shape = matrix.attribute(slot).numbers()
        if 0 in shape[1:] or not len(shape) or (shape[0] == 0 and not cells):
            continue
        pair = convert(f"{layer} of assay {name}", skipped, read_matrix, matrix)
        if pair is None:
            continue
        rows, columns = _matrix_names(matrix)
        genes = rows or genes
        values, note = pair
        layers[layer] = (
            values
            if columns in (None, cells)
            else _place(values, columns or [], cells, genes, genes)
        )
        if note:
            notes[layer] = note
    if (scaled := node.attribute("scale.data")).shape and min(scaled.shape) > 0:
        skipped.append(f"scale.data of assay {name}")
    variable = node.attribute("var.features")
    chosen = variable.strings().tolist() if variable.kind == "character" else []
    return _Assay(genes, layers, notes, node.attribute("meta.features"), chosen)


def _read_assay5(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    """Read an assay as Seurat 5 keeps it: layers of some genes and cells, told by two maps."""
    genes = node.attribute("features").dimnames(0) or []
    groups: dict[str, list[tuple[Node, list[str], list[str]]]] = {}
    joined: list[str] = []
    for layer, matrix in node.attribute("layers").fields().items():
        base = next((b for b in (*_LAYERS, "scale.data") if layer.startswith(f"{b}.")), layer)
        if base == "scale.data":
            skipped.append(f"{layer} of assay {name}")
            continue
        joined += [layer] if base != layer else []
        rows = _mapped(node.attribute("features"), layer)
        columns = _mapped(node.attribute("cells"), layer)
        groups.setdefault(base, []).append((matrix, rows, columns))
    if joined:
        skipped.append(f"the split of assay {name} into {', '.join(joined)} (joined)")
    layers, notes = {}, {}
    for base, parts in groups.items():
        pair = convert(f"layer {base} of assay {name}", skipped, _join, parts, cells, genes)
        if pair is not None:
            layers[base], note = pair
            if note:
                notes[base] = note
    table, variable = node.attribute("meta.data"), []
    if "var.features" in (table.names or []):
        chosen = table.field("var.features").strings()
        rank = table.field("var.features.rank").numbers().astype(float)
        order = (
            np.argsort(rank, kind="stable") if len(rank) == len(chosen) else np.arange(len(chosen))
        )
        variable = [gene for gene in chosen[order] if gene is not None]
    ordered = {key: layers[key] for key in (*_LAYERS, *layers) if key in layers}
    return _Assay(genes, ordered, notes, table, variable)


def _mapped(map_: Node, layer: str) -> list[str]:
    """Names that a LogMap marks for a layer."""
    rows, layers = map_.dimnames(0) or [], map_.dimnames(1) or []
    marked = map_.numbers().reshape(map_.shape, order="F")[:, layers.index(layer)] == 1
    return [name for name, chosen in zip(rows, marked, strict=True) if chosen]


def _join(
    parts: list[tuple[Node, list[str], list[str]]], cells: list[str], genes: list[str]
) -> tuple[Any, Note]:
    """Put the layers of the samples together; genes that one lacks are zero in it."""
    total, kept = None, {}
    for node, rows, columns in parts:
        values, note = read_matrix(node)
        if len(parts) == 1 and rows == genes and columns == cells:
            return values, note
        moved = _place(values, columns, cells, rows, genes)
        total, kept = (moved if total is None else total + moved), note
    return total, kept


def _place(
    values: Any, columns: list[str], cells: list[str], rows: list[str], genes: list[str]
) -> sparse.csr_matrix:
    """Move a matrix of some cells and genes into one of all."""
    matrix = sparse.coo_matrix(values)
    to_cell = pd.Index(cells).get_indexer(pd.Index(columns))
    to_gene = pd.Index(genes).get_indexer(pd.Index(rows))
    at = (to_cell[matrix.row], to_gene[matrix.col])
    return sparse.csr_matrix((matrix.data, at), shape=(len(cells), len(genes)))


def _read_ident(node: Node, cells: list[str]) -> pd.Categorical:
    values, _ = read_vector(node)
    names = node.names
    if names is None or names == cells:
        return values
    return values.take(pd.Index(names).get_indexer(pd.Index(cells)), allow_fill=True)


def _add_variable(var: pd.DataFrame, chosen: list[str], skipped: list[str]) -> None:
    """Mark variable features, and their order, as scanpy does."""
    if not chosen:
        return
    at = var.index.get_indexer(pd.Index(chosen))
    if (at < 0).any():
        skipped.append(f"{(at < 0).sum()} variable features that the assay does not have")
    rank = np.full(len(var), np.nan)
    rank[at[at >= 0]] = np.arange((at >= 0).sum(), dtype=np.float64)
    var[_HVG], var[_HVG_RANK] = ~np.isnan(rank), rank


def _read_reductions(
    adata: AnnData, listing: Node, cells: list[str], python: Mapping[str, Any], skipped: list[str]
) -> dict[str, Note]:
    keys = {note["name"]: key for key, note in python.items()}
    notes: dict[str, Note] = {}
    reductions = listing.fields()
    results = _record.results(adata.uns)
    wanted = [keys.get(name, reduction_key(name, results)) for name in reductions]
    for key, (name, node) in zip(unique_names(wanted), reductions.items(), strict=True):
        embedding = node.attribute("cell.embeddings")
        values, _ = read_matrix(embedding)
        at = pd.Index(embedding.dimnames(0) or cells).get_indexer(pd.Index(cells))
        values = np.where((at >= 0)[:, None], values.T[at], np.nan)
        adata.obsm[key] = restore_dtype(values, python.get(key, {}).get("dtype"))
        notes[key] = {
            "name": name,
            "columns": embedding.dimnames(1),
            "key": node.attribute("key").text(),
            "assay": node.attribute("assay.used").text(),
            "global": bool((node.attribute("global").numbers() == 1).any()),
            "stdev": node.attribute("stdev").numbers().tolist(),
        }
        extra = [
            part
            for part in ("feature.loadings", "feature.loadings.projected")
            if node.attribute(part).shape and min(node.attribute(part).shape) > 0
        ]
        extra += ["misc"] if node.attribute("misc").items() else []
        if extra:
            skipped.append(f"{', '.join(extra)} of reduction {name}")
    return notes


# ---- images from R


def _read_images(
    adata: AnnData,
    images: Mapping[str, Node],
    cells: list[str],
    python: Mapping[str, Any],
    skipped: list[str],
) -> dict[str, Any]:
    """Fill ``obsm["spatial"]``, ``uns["spatial"]`` and the columns of the array."""
    if not images:
        return {}
    index = pd.Index(cells)
    coordinates = np.full((len(cells), 2), np.nan)
    section = np.full(len(cells), -1)
    array = {name: np.full(len(cells), np.nan) for name in _ARRAY}
    libraries = adata.uns.setdefault("spatial", {})
    notes: dict[str, Note] = {}
    for number, (name, node) in enumerate(images.items()):
        image = convert(f"image {name}", skipped, _read_image, node, name, skipped)
        if image is None:
            continue
        at = index.get_indexer(pd.Index(image.cells))
        ours = at >= 0
        if not ours.all():
            skipped.append(f"{(~ours).sum()} cells of image {name} that the object does not have")
        free = ours & (section[at] < 0)
        if (ours & ~free).any():
            skipped.append(
                f"the place in image {name} of {(ours & ~free).sum()} cells of another one"
            )
        coordinates[at[free]], section[at[free]] = image.coordinates[free], number
        for key, values in image.array.items():
            array[key][at[free]] = values[free]
        notes[name] = image.note
        library = libraries.setdefault(name, {})
        for part, content in image.library.items():
            library[part] = {**library.get(part, {}), **content}
        if not python:
            _images.add_spot_diameter(library["scalefactors"], image.coordinates)
        for key, dtype in python.get("images", {}).get(name, {}).items():
            library["images"][key] = _as_type(library["images"].get(key), dtype)
    if python:  # a section without pictures and scales has none in Python
        for name in [name for name in libraries if not any(libraries[name].values())]:
            del libraries[name]
        if not libraries:
            del adata.uns["spatial"]
    if not notes:
        return {}
    adata.obsm[_keys.COORDINATES] = coordinates.astype(python.get("coordinates", "float64"))
    before = set(adata.obs)
    sections = pd.Categorical.from_codes(section, list(images))
    column = _add_column(adata.obs, "sample_id", sections)
    added = {
        key: _add_column(adata.obs, _ARRAY[key], _integers(values))
        for key, values in array.items()
        if not np.isnan(values).all()
    }
    made = [name for name in adata.obs if name not in before]
    return {"images": notes, "image": column, "array": added, "made": made}


def _add_column(obs: pd.DataFrame, wanted: str, values: Any) -> str:
    """Add a column, unless it is there already with the same values; returns its name."""
    new = pd.Series(values, index=obs.index)
    if wanted in obs and obs[wanted].astype(str).tolist() == new.astype(str).tolist():
        return wanted
    name = unique_names([*obs, wanted])[-1]
    obs[name] = new
    return name


def _as_type(picture: Any, dtype: str) -> Any:
    if picture is None or dtype == "float64":
        return picture
    return np.rint(picture * 255).astype(dtype) if dtype == "uint8" else picture.astype(dtype)


def _integers(values: NDArray[np.float64]) -> Any:
    """Whole numbers, with pandas' missing values if need be; other numbers as they are."""
    missing = np.isnan(values)
    if not (values[~missing] == np.rint(values[~missing])).all():
        return values
    whole = np.where(missing, 0, values).astype(np.int32)
    return pd.arrays.IntegerArray(whole, missing) if missing.any() else whole


def _read_image(node: Node, name: str, skipped: list[str]) -> _Image:
    """Read an image of any class: by what it holds, as classes are many and change."""
    note: Note = {
        "class": node.classes[0],
        "key": node.attribute("key").text(),
        "assay": node.attribute("assay").text(),
    }
    library: dict[str, Any] = {"images": {}, "scalefactors": {}}
    picture = node.attribute("image")
    if len(picture.shape) == 3:
        library["images"]["lowres"] = picture.numbers().reshape(picture.shape, order="F")
    factors = {
        key: float(value.numbers()[0])
        for key, value in node.attribute("scale.factors").fields().items()
        if key in _FACTORS and value.kind in {"double", "integer"} and len(value.numbers())
    }
    library["scalefactors"] = {_FACTORS[key]: value for key, value in factors.items()}
    if factors:
        note["factors"] = factors
        # Seurat before 5 stores the scale of the large picture as the spot's diameter.
        if factors.get("spot") == factors.get("hires"):
            library["scalefactors"].pop("spot_diameter_fullres", None)
    boundaries = node.attribute("boundaries")
    if boundaries.is_null:
        cells, coordinates, array = _read_coordinates(node, name, note, skipped)
    else:
        cells, coordinates = _read_boundaries(node, name, note, skipped)
        array = {}
    return _Image(cells, coordinates, array, library, note)


def _read_coordinates(
    node: Node, name: str, note: Note, skipped: list[str]
) -> tuple[list[str], NDArray[np.float64], dict[str, NDArray[Any]]]:
    """Read the table of coordinates of VisiumV1, SlideSeq, STARmap and their like."""
    table = node.attribute("coordinates")
    fields = table.fields()
    axes = next((p for p in (("imagecol", "imagerow"), ("x", "y")) if set(p) <= set(fields)), None)
    if axes is None:
        columns = ", ".join(fields) or "none"
        msg = f"of class {note['class']}: no coordinates are known in it, columns: {columns}"
        raise Skipped(msg)
    if "cells" in fields and table.attribute("row.names").kind != "character":
        cells = [str(cell) for cell in fields["cells"].strings()]
    else:
        cells = table.row_names
    coordinates = np.column_stack([_floats(fields[axis]) for axis in axes])
    array = {key: _floats(fields[key]) for key in _ARRAY if key in fields}
    note["axes"] = list(fields)
    note["types"] = [field.kind for field in fields.values()]
    radius = node.attribute("spot.radius").numbers()
    if len(radius):
        note["radius"] = float(radius[0])
    others = set(fields) - {*axes, *_ARRAY, "cells"}
    if others:
        skipped.append(f"{', '.join(sorted(others))} of image {name}")
    if node.attribute("qhulls").items():
        skipped.append(f"qhulls of image {name}")
    return cells, coordinates, array


def _floats(node: Node) -> NDArray[np.float64]:
    values = node.numbers().astype(np.float64)
    if node.kind != "double":
        values[values == NA_INTEGER] = np.nan
    return values


def _read_boundaries(
    node: Node, name: str, note: Note, skipped: list[str]
) -> tuple[list[str], NDArray[np.float64]]:
    """Read the centres of a FOV or VisiumV2: its centroids, else the means of its outlines."""
    boundaries = node.attribute("boundaries").fields()
    points = {key: b for key, b in boundaries.items() if "Centroids" in b.classes}
    key, boundary = next(iter((points or boundaries).items()), (None, None))
    if boundary is None:
        msg = f"of class {note['class']}: it has no boundaries"
        raise Skipped(msg)
    note["boundary"] = key
    extra = [other for other in boundaries if other != key]
    extra += [f"molecules {m}" for m in node.attribute("molecules").fields()]
    if points:
        coordinates = boundary.attribute("coords").numbers().reshape(-1, 2, order="F")
        cells = [str(cell) for cell in boundary.attribute("cells").strings()]
        for part in ("nsides", "radius", "theta"):
            values = boundary.attribute(part).numbers().tolist()
            note[part] = None if not values or values[0] == NA_INTEGER else values[0]
    else:
        cells, coordinates = _outline_centres(boundary)
        extra.append(f"{key} (only the means of its outlines)")
    if extra:
        skipped.append(f"{', '.join(extra)} of image {name}")
    orientation = node.attribute("coords_x_orientation").text()
    note["orientation"] = orientation
    # Seurat 5.1 to 5.3 kept the row of the picture as x in VisiumV2.
    if "VisiumV2" in note["class"] and orientation != "horizontal":
        coordinates = coordinates[:, ::-1]
    return cells, coordinates


def _outline_centres(boundary: Node) -> tuple[list[str], NDArray[np.float64]]:
    """Mean of the corners of each cell's outline."""
    table = boundary.attribute("sf.data")
    if not table.is_null and {"x", "y", "cell"} <= set(table.names or ()):
        fields = table.fields()
        corners = pd.DataFrame(
            {"x": fields["x"].numbers(), "y": fields["y"].numbers()},
        )
        means = corners.groupby(read_vector(fields["cell"])[0], sort=False, observed=True).mean()
        return [str(cell) for cell in means.index], means.to_numpy()
    cells, counts, corners = boundary.attribute("polygons").outlines()
    means = pd.DataFrame(corners).groupby(np.repeat(np.arange(len(cells)), counts)).mean()
    return cells, means.reindex(range(len(cells))).to_numpy()


def _list_skipped(x: Node, assays: Iterable[str], chosen: str, skipped: list[str]) -> None:
    others = [name for name in assays if name != chosen]
    if others:
        skipped.append(f"the assays {', '.join(others)} (convert them with assay=)")
    for part in _SKIPPED_LISTS:
        node = x.attribute(part)
        if node.items() if node.kind == "list" else []:
            skipped.append(f"{part} ({', '.join(node.names or ())})")


# ---- to R


def write_seurat(adata: AnnData, skipped: list[str]) -> Any:
    """Build the object in R; what could not be converted is added to `skipped`."""
    record = _record.load(adata.uns.get(_record.FROM_R))
    record = record if record.get("class") == "Seurat" else {}
    python = _record.python_record(adata)
    assay = record.get("assay", "Spatial" if _keys.COORDINATES in adata.obsm else "RNA")
    obs, _ = _record.original_names(adata.obs, {})
    var, _ = _record.original_names(adata.var, {})
    _check_unique(adata)
    genes = _feature_names(adata, skipped)
    if genes != adata.var_names.tolist():
        python["genes"] = adata.var_names.tolist()

    ident = record.get("ident")
    idents = obs.get(ident)
    positions = _positions(adata, record, skipped)
    own = {ident, *record.get("made", [])}
    obs = obs.drop(columns=[column for column in own if column in obs])
    if not record:
        made = ("orig.ident", f"nCount_{assay}", f"nFeature_{assay}")
        python["added"] = [
            *(name for name in made if name not in obs),
            unique_names([*obs, "ident"])[-1],
            *positions.added,
        ]
    variable = _variable(var) if _HVG in var else []
    var = var.drop(columns=[c for c in (_HVG, _HVG_RANK) if record and variable and c in var])

    layers, main = _write_layers(adata, record, skipped)
    python["no_data"] = "data" not in layers
    if not record:  # assays hold sparse matrices of doubles
        matrices = {main: adata.X, **dict(adata.layers.items())}
        python["dense"] = [name for name in layers if not sparse.issparse(matrices[name])]
        python["layers"] = {name: str(value.dtype) for name, value in adata.layers.items()}
        python["X"] = None if adata.X is None else str(adata.X.dtype)
    if main != next(iter(layers), ""):
        python["main"] = main
    reductions, python["obsm"] = _write_reductions(adata, record, assay, skipped)
    # Assays, reductions and images share their names.
    taken = {assay, *(reductions.names if len(reductions) else ())}
    images, python["images"], leftover = _write_images(
        adata, positions, record, assay, taken, skipped
    )
    if positions.coordinates is not None and positions.coordinates.dtype != np.float64:
        python["coordinates"] = str(positions.coordinates.dtype)
    metadata = _record.metadata(adata, leftover or None, python)
    skipped += _record.without_slot(adata)
    cells = r.strings(adata.obs_names)
    notes = {part: record.get(part, {}).get("columns", {}) for part in ("obs", "var")}
    parts = {
        "cells": cells,
        "genes": r.strings(genes),
        "layers": r.listing(layers),
        "columns": write_columns(obs, notes["obs"], where="obs", rows=cells, skipped=skipped),
        "features": write_columns(var, notes["var"], where="var", rows=r.null(), skipped=skipped),
        "variable": r.strings([genes[adata.var_names.get_loc(gene)] for gene in variable]),
        "ident": r.null() if idents is None else write_vector(idents.astype("category"), {}),
        "reductions": reductions,
        "images": images,
        "misc": write_list(metadata, record.get("metadata", {}), where="uns", skipped=skipped),
        "exact": r.numeric(np.array([bool(record)]), "logical"),
    }
    texts = [assay, record.get("assay_class"), record.get("key"), record.get("project")]
    return r.call("buildSeurat", r.strings(texts), r.listing(parts))


def _check_unique(adata: AnnData) -> None:
    for names, where in ((adata.obs_names, "obs"), (adata.var_names, "var")):
        if (names == "").any():
            msg = (
                f"Expected names for a Seurat object, found empty ones in `adata.{where}_names`. "
                "Name them first."
            )
            raise ValueError(msg)
        if not names.is_unique:
            msg = (
                f"Expected unique names for a Seurat object, found {names.duplicated().sum()} "
                f"repeated. Call `adata.{where}_names_make_unique()` first."
            )
            raise ValueError(msg)


def _feature_names(adata: AnnData, skipped: list[str]) -> list[str]:
    """Names of genes as Seurat allows them: with "-" in place of "_" and "|"."""
    names = adata.var_names.tolist()
    allowed = unique_names(name.replace("_", "-").replace("|", "-") for name in names)
    changed = sum(old != new for old, new in zip(names, allowed, strict=True))
    if changed:
        skipped.append(f'"_" and "|" in the names of {changed} genes (Seurat has "-" there)')
    return allowed


def _variable(var: pd.DataFrame) -> list[str]:
    """Variable features, in their order where it is known."""
    chosen = var[var[_HVG].eq(other=True).fillna(value=False)]
    if _HVG_RANK in chosen:
        chosen = chosen.sort_values(_HVG_RANK, kind="stable")
    return list(chosen.index)


def _write_layers(
    adata: AnnData, record: Mapping[str, Any], skipped: list[str]
) -> tuple[dict[str, Any], str | None]:
    """Write counts and data; returns them, and the name that ``X`` got."""
    matrices, notes = dict(adata.layers.items()), record.get("matrices", {})
    main = ""
    if adata.X is not None:
        wanted = [record.get("main"), "counts", "data"]
        free = (name for name in wanted if name is not None and name not in matrices)
        main = next(free, unique_names([*matrices, "X"])[-1])
        matrices = {main: adata.X, **matrices}
    order = record.get("assays", list(_LAYERS))
    made = {}
    for name in in_order(matrices, order):
        values, where = matrices[name], "X" if name == main else f"the layer {name!r}"
        if _is_bool(values):
            values = values.astype(np.float64)  # assays have no place for others
        if (
            matrix := convert(where, skipped, write_matrix, values, notes.get(name, {}))
        ) is not None:
            made[name] = matrix
    if not set(_LAYERS) & set(made):
        found = ", ".join(map(repr, made)) or "none"
        msg = (
            "Expected expression in `X`, or in the layers 'counts' or 'data', for a Seurat object, "
            f"found layers: {found}. Put the counts into `X`, or choose another class with `as_=`."
        )
        raise ValueError(msg)
    return made, main if main in made else ""


def _is_bool(matrix: Any) -> bool:
    return getattr(matrix, "dtype", None) == np.bool_


def _write_reductions(
    adata: AnnData, record: Mapping[str, Any], assay: str, skipped: list[str]
) -> tuple[Any, dict[str, Note]]:
    notes = record.get("reductions", {})
    keys = in_order([key for key in adata.obsm if key != _keys.COORDINATES], list(notes))
    results = _record.results(adata.uns)
    wanted = [notes.get(key, {}).get("name", reduction_name(key, results)) for key in keys]
    made, python = {}, {}
    taken = {note.get("key") for note in notes.values()}
    names = (name if name in wanted else name.replace("-", ".") for name in unique_names(wanted))
    for key, name in zip(keys, names, strict=True):
        value, note = adata.obsm[key], notes.get(key, {})
        if isinstance(value, pd.DataFrame) or sparse.issparse(value) or value.ndim != 2:
            skipped.append(f"obsm[{key!r}] (not a dense numeric matrix)")
            continue
        dtype = kept_dtype(value)
        matrix = np.asarray(value, dtype=np.float64)
        reduction_id = note.get("key") or _new_key(name, taken)
        taken.add(reduction_id)
        columns = note.get("columns") or [f"{reduction_id}{i + 1}" for i in range(matrix.shape[1])]
        if len(columns) != matrix.shape[1]:
            columns = [f"{reduction_id}{i + 1}" for i in range(matrix.shape[1])]
        made[name] = r.listing(
            {
                "embedding": r.with_shape(r.numeric(matrix, "double"), matrix.shape),
                "columns": r.strings(columns),
                "key": r.strings([reduction_id]),
                "assay": r.strings([note.get("assay") or assay]),
                "global": r.numeric(np.array([note.get("global", False)]), "logical"),
                "stdev": r.numeric(np.array(note.get("stdev", []), dtype=float), "double"),
            }
        )
        if dtype is not None or reduction_key(name, results) != key:
            python[key] = {"name": name, "dtype": dtype}
    return r.listing(made), python


def _new_key(name: str, taken: set[str | None]) -> str:
    """Make a key of a reduction: letters and digits with an underscore, each only once."""
    letters = "".join(c for c in name if c.isalnum() and c.isascii()).upper() or "DIM"
    numbers = itertools.chain([""], itertools.count(1))
    return next(key for number in numbers if (key := f"{letters}{number}_") not in taken)


class _Positions(NamedTuple):
    """Coordinates, the image that each cell is in, and the columns of the array."""

    coordinates: NDArray[Any] | None
    section: pd.Series
    array: dict[str, pd.Series]
    added: list[str]


def _positions(adata: AnnData, record: Mapping[str, Any], skipped: list[str]) -> _Positions:
    coordinates = adata.obsm.get(_keys.COORDINATES)
    obs = adata.obs
    column = record.get("image")
    libraries = [str(name) for name in adata.uns.get("spatial", {})]
    candidates = [column, "sample_id", "library_id", "sample"]
    named = next(
        (c for c in candidates if c in obs and (c == column or _covers(obs[c], libraries))), None
    )
    single = libraries[0] if len(libraries) == 1 else "image"
    section = obs[named].astype(object) if named else pd.Series(single, index=obs.index)
    array_columns = record.get("array", _ARRAY)
    array = {
        key: obs[name]
        for key, name in array_columns.items()
        if name in obs and _is_small(obs[name])
    }
    added: list[str] = []
    if coordinates is not None:
        coordinates = np.asarray(coordinates)
        if coordinates.shape[1] > 2:
            skipped.append(f"{coordinates.shape[1] - 2} of the axes of obsm['spatial']")
        taken = list(obs)
        added = [unique_names([*taken, "sample_id"])[-1]]
    return _Positions(coordinates, section, array, added)


def _is_small(column: pd.Series) -> bool:
    """Whether R has integers for these numbers, as the rows and columns of an array are."""
    return getattr(column.dtype, "kind", "O") in "biuf" and not (column.abs() >= 2**31).any()


def _covers(column: pd.Series, libraries: list[str]) -> bool:
    """Whether a column tells the sections apart: each library is one of its values."""
    return set(libraries) <= set(column.astype(str)) and column.nunique() < max(2, len(column))


def _write_images(
    adata: AnnData,
    positions: _Positions,
    record: Mapping[str, Any],
    assay: str,
    taken: set[str],
    skipped: list[str],
) -> tuple[Any, dict[str, dict[str, str]], dict[str, Any]]:
    """Describe the images; returns their types in Python, and what they cannot hold."""
    made, leftover = {}, {}
    types: dict[str, dict[str, str]] = {}
    if positions.coordinates is None:
        return r.listing({}), types, dict(adata.uns.get("spatial", {}))
    notes = record.get("images", {})
    libraries = adata.uns.get("spatial", {})
    finite = np.isfinite(positions.coordinates[:, :2]).all(axis=1)
    homeless = int((finite & positions.section.isna().to_numpy()).sum())
    if homeless:
        skipped.append(f"obsm['spatial'] of {homeless} cells whose section is missing")
    present = positions.section[finite]
    for name in dict.fromkeys([*notes, *present.dropna().astype(str)]):
        rows = np.flatnonzero(finite & (positions.section.astype(str) == name).to_numpy())
        if not len(rows):
            continue
        library, note = libraries.get(name, {}), notes.get(name, {})
        described, dtype = _describe_image(
            adata, positions, rows, name, library, note, assay, skipped
        )
        image = name or "X"
        if image in taken:
            image = unique_names([*taken, image])[-1].replace("-", ".")
        taken.add(image)
        made[image] = described
        if dtype and not record:
            types[image] = dtype
        rest = {key: part for key, part in library.items() if key not in {"images", "scalefactors"}}
        scales = _images.own_scales(library.get("scalefactors", {}))
        extra = {key: value for key, value in scales.items() if key not in _FACTORS.values()}
        if extra:
            rest["scalefactors"] = extra
        if rest:
            leftover[name] = rest
    seen = set(present.dropna().astype(str))
    skipped += [
        f"uns['spatial'][{name!r}] (no cell is in it)" for name in libraries if name not in seen
    ]
    return r.listing(made), types, leftover


def _describe_image(
    adata: AnnData,
    positions: _Positions,
    rows: NDArray[np.int64],
    name: str,
    library: Mapping[str, Any],
    note: Note,
    assay: str,
    skipped: list[str],
) -> tuple[Any, dict[str, str]]:
    assert positions.coordinates is not None
    pictures = dict(library.get("images", {}))
    shown = next((key for key in ("lowres", *pictures) if key in pictures), None)
    skipped += [f"image {key} of {name}" for key in pictures if key != shown]
    scales = _images.own_scales(library.get("scalefactors", {}))
    factors = {key: float(scales.get(full, np.nan)) for key, full in _FACTORS.items()}
    factors |= note.get("factors", {})
    types: dict[str, str] = {}
    picture = r.null()
    if shown is not None:
        original = np.asarray(pictures[shown])
        types = {shown: str(original.dtype)}
        values = original / 255 if original.dtype.kind in "iu" else original.astype(np.float64)
        picture = r.with_shape(r.numeric(values, "double"), values.shape)
    whole = len(positions.array) == len(_ARRAY)
    default = "VisiumV1" if shown is not None and whole else "FOV"
    values = positions.coordinates[rows, :2].astype(np.float64)
    described = {
        "class": r.strings([note.get("class", default)]),
        "key": r.strings([note.get("key") or _image_key(name)]),
        "assay": r.strings([note.get("assay") or assay]),
        "cells": r.strings(adata.obs_names[rows]),
        "coordinates": r.with_shape(r.numeric(values, "double"), values.shape),
        "array": r.listing(
            {key: write_vector(v.iloc[rows], {}) for key, v in positions.array.items()}
        ),
        "picture": picture,
        "factors": r.numeric(np.array([factors[key] for key in _FACTORS]), "double"),
        "radius": _number(note.get("radius")),
        "axes": r.strings(note.get("axes", [])),
        "types": r.strings(note.get("types", [])),
        "boundary": r.strings([note.get("boundary") or "centroids"]),
        "nsides": _number(note.get("nsides")),
        "theta": _number(note.get("theta")),
        "orientation": r.strings([note.get("orientation", "horizontal")]),
    }
    return r.listing(described), types


def _image_key(name: str) -> str:
    return "".join(c for c in name if c.isalnum() and c.isascii()).lower() + "_"


def _number(value: float | None) -> Any:
    return r.null() if value is None else r.numeric(np.array([value], dtype=np.float64), "double")
