"""Coordinates of spots and pictures of tissue, in scanpy's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from m2st.interop._nodes import Node, Skipped

ESTIMATED = "spot_diameter_fullres_estimated"
"""``scalefactors``: set where the diameter of the spots was not in the R object."""

_SPOT_DIAMETER = 0.55  # of the distance between neighbours: Visium, 55 µm spots every 100 µm


def scale_key(image: str) -> str:
    """``scalefactors``: pixels of an image per pixel at full resolution."""
    return f"tissue_{image}_scalef"


def spot_diameter(coordinates: NDArray[Any]) -> float | None:
    """Estimate the diameter of spots from how far apart they lie; None for fewer than two."""
    valid = coordinates[np.isfinite(coordinates).all(axis=1)]
    if len(valid) < 2:
        return None
    nearest = cKDTree(valid).query(valid, k=2)[0][:, 1]
    return float(_SPOT_DIAMETER * np.median(nearest))


def add_spot_diameter(scales: dict[str, Any], coordinates: NDArray[Any]) -> None:
    """Estimate the diameter of spots, which scanpy's plots need, and say that it is estimated."""
    diameter = spot_diameter(coordinates)
    if diameter is not None and "spot_diameter_fullres" not in scales:
        scales |= {"spot_diameter_fullres": diameter, ESTIMATED: True}


def own_scales(scales: Mapping[str, Any]) -> dict[str, Any]:
    """Scale factors without what was estimated here."""
    hidden = {"spot_diameter_fullres", ESTIMATED} if scales.get(ESTIMATED) else {ESTIMATED}
    return {key: value for key, value in scales.items() if key not in hidden}


def to_bytes(picture: NDArray[Any]) -> tuple[NDArray[np.uint8], bool]:
    """Turn a picture into 8 bits per channel; says whether that is exact."""
    picture = np.asarray(picture)
    if picture.ndim == 2:
        picture = np.repeat(picture[:, :, None], 3, axis=2)
    if picture.ndim != 3 or picture.shape[2] not in (3, 4):
        msg = f"a picture of shape {picture.shape}"
        raise Skipped(msg)
    if picture.dtype.kind == "f":
        scaled = np.clip(picture.astype(np.float64), 0, 1) * 255
        rounded = np.rint(scaled)
        return rounded.astype(np.uint8), bool(np.abs(scaled - rounded).max(initial=0) < 1e-3)
    if picture.dtype != np.uint8 and (picture.min() < 0 or picture.max() > 255):
        msg = f"a picture of {picture.dtype} beyond 255"
        raise Skipped(msg)
    return picture.astype(np.uint8), True


def from_bytes(pixels: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Turn 8 bits per channel into the type that a picture had: numbers up to 1, if floating."""
    kind = np.dtype(dtype)
    return pixels.astype(kind) / kind.type(255) if kind.kind == "f" else pixels.astype(kind)


def read_spatial_image(image: Node) -> tuple[NDArray[np.uint8], bool]:
    """Pixels of one of SpatialExperiment's images, and whether its colours are in lower case."""
    kind = image.classes[0] if image.classes else image.kind
    if kind == "RemoteSpatialImage":
        msg = f"at {image.attribute('url').text()}, not downloaded"
        raise Skipped(msg)
    if kind == "StoredSpatialImage":
        path = Path(image.attribute("path").text() or "")
        if not path.is_file():
            msg = f"no file at {path}"
            raise Skipped(msg)
        from matplotlib.image import imread

        return to_bytes(imread(path))[0], False
    raster = image.attribute("image")
    if raster.classes != ("raster",):
        msg = f"of class {(raster.classes or (raster.kind,))[0]}"
        raise Skipped(msg)
    return _read_raster(raster)


def _read_raster(raster: Node) -> tuple[NDArray[np.uint8], bool]:
    """Read R's raster: colours such as "#0A0B0C", row by row."""
    codes, colours = pd.factorize(raster.strings())
    if (codes < 0).any() or not all(
        colour.startswith("#") and len(colour) in (7, 9) for colour in colours
    ):
        msg = "colours that are not written as #RRGGBB"
        raise Skipped(msg)
    has_alpha = any(len(colour) == 9 for colour in colours)
    digits = "".join(f"{colour[1:]:F<{8 if has_alpha else 6}}" for colour in colours)
    palette = np.frombuffer(bytes.fromhex(digits), dtype=np.uint8).reshape(len(colours), -1)
    lower = any(colour != colour.upper() for colour in colours)
    return palette[codes].reshape(*raster.shape, -1), lower
