"""Images of AnnData, and where they have their observations, to those of Seurat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st.interop import _embedded as r
from m2st.interop import _images
from m2st.interop._seurat._names import ARRAY, FACTORS
from m2st.interop._values import (
    Note,
    unique_names,
    write_vector,
)


class Positions(NamedTuple):
    """Coordinates, the image that each cell is in, and the columns of the array."""

    coordinates: NDArray[Any] | None
    section: pd.Series
    array: dict[str, pd.Series]
    added: list[str]


def find_positions(adata: AnnData, record: Mapping[str, Any], skipped: list[str]) -> Positions:
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
    array_columns = record.get("array", ARRAY)
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
    return Positions(coordinates, section, array, added)


def _is_small(column: pd.Series) -> bool:
    """Whether R has integers for these numbers, as the rows and columns of an array are."""
    return getattr(column.dtype, "kind", "O") in "biuf" and not (column.abs() >= 2**31).any()


def _covers(column: pd.Series, libraries: list[str]) -> bool:
    """Whether a column tells the sections apart: each library is one of its values."""
    return set(libraries) <= set(column.astype(str)) and column.nunique() < max(2, len(column))


def write_images(
    adata: AnnData,
    positions: Positions,
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
        extra = {key: value for key, value in scales.items() if key not in FACTORS.values()}
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
    positions: Positions,
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
    factors = {key: float(scales.get(full, np.nan)) for key, full in FACTORS.items()}
    factors |= note.get("factors", {})
    types: dict[str, str] = {}
    picture = r.null()
    if shown is not None:
        original = np.asarray(pictures[shown])
        types = {shown: str(original.dtype)}
        values = original / 255 if original.dtype.kind in "iu" else original.astype(np.float64)
        picture = r.with_shape(r.numeric(values, "double"), values.shape)
    whole = len(positions.array) == len(ARRAY)
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
        "factors": r.numeric(np.array([factors[key] for key in FACTORS]), "double"),
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
