"""Images of Seurat objects, and where they have their cells, to AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st.interop import _images
from m2st.interop._nodes import NA_INTEGER, Node, Skipped
from m2st.interop._seurat._names import ARRAY, FACTORS
from m2st.interop._values import (
    Note,
    convert,
    read_vector,
    unique_names,
)


class _Image(NamedTuple):
    """Where one image has its cells, in its own full resolution."""

    cells: list[str]
    coordinates: NDArray[np.float64]
    array: dict[str, NDArray[Any]]
    library: dict[str, Any]
    note: Note


def read_images(
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
    array = {name: np.full(len(cells), np.nan) for name in ARRAY}
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
        key: _add_column(adata.obs, ARRAY[key], _integers(values))
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
        if key in FACTORS and value.kind in {"double", "integer"} and len(value.numbers())
    }
    library["scalefactors"] = {FACTORS[key]: value for key, value in factors.items()}
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
    array = {key: _floats(fields[key]) for key in ARRAY if key in fields}
    note["axes"] = list(fields)
    note["types"] = [field.kind for field in fields.values()]
    radius = node.attribute("spot.radius").numbers()
    if len(radius):
        note["radius"] = float(radius[0])
    others = set(fields) - {*axes, *ARRAY, "cells"}
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
