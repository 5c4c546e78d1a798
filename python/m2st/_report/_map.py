"""The map: what it shows, in which colours, and the tissue below it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import check_key
from m2st._plotting import (
    MISSING_COLOR,
    Section,
    channels_last,
    kept_colors,
    mapping_in,
    positive,
    read_categories,
    read_places,
    share_colors,
    to_rgb,
    white,
)
from m2st._report._markers import LEVELS

_STEPS = 2**16 - 1
"""Places along the longer side of a section; also what a missing value is written as."""

_IMAGE_PIXELS = 2000 * 2000
"""Most pixels of all tissue images together."""


def select_shown(
    adata: AnnData, columns: list[str], sample_key: str | None, spatial_key: str
) -> tuple[AnnData, NDArray[np.bool_]]:
    """Copy of what the map shows of the observations that have a place, and which these are.

    Colours are written into this copy, not into the user's data.
    """
    coordinates, valid = read_places(adata, spatial_key)
    keys = columns + ([] if sample_key is None else [sample_key])
    for key in keys:
        check_key(key, adata.obs, where="adata.obs")
    shown = AnnData(
        obs=adata.obs.loc[valid, list(dict.fromkeys(keys))].copy(),
        obsm={_keys.COORDINATES: coordinates[valid]},
        uns=dict(adata.uns),
    )
    return shown, valid


def make_layers(
    shown: AnnData, domain: str, columns: Sequence[str], confidence: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """What the map can be coloured by: entries of the legend, and a colour for each observation."""
    layers = [{**make_labels(shown, domain), "label": "Domain"}]
    layers += [make_labels(shown, key) for key in columns]
    if not np.isnan(confidence).all():
        thousandths = np.where(np.isnan(confidence), _STEPS, np.rint(1000 * confidence))
        layers.insert(
            1,
            {
                "label": "Confidence",
                "colors": [*share_colors(np.linspace(0, 1, 50)), MISSING_COLOR],
                "values": thousandths.astype("<u2"),
            },
        )
    return layers


def make_labels(shown: AnnData, key: str) -> dict[str, Any]:
    """A column of labels as a layer of the map; the last name and colour are for missing ones."""
    values = read_categories(shown, key)
    names = [*map(str, values.categories), "missing"]
    colors = [*kept_colors(shown, key, len(names) - 1), MISSING_COLOR]
    kind = "u1" if len(names) <= 256 else "<u2"
    codes = np.where(values.codes < 0, len(names) - 1, values.codes).astype(kind)
    counts = np.bincount(codes, minlength=len(names)).tolist()
    entries = [
        {"code": code, "name": name, "color": color, "n_obs": n_obs}
        for code, (name, color, n_obs) in enumerate(zip(names, colors, counts, strict=True))
        if n_obs or code < len(names) - 1
    ]
    return {"label": key, "entries": entries, "names": names, "colors": colors, "codes": codes}


def make_payload(
    shown: AnnData,
    sections: list[Section],
    frames: list[dict[str, Any]],
    layers: list[dict[str, Any]],
    genes: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the page's script draws; observations stand in the order of the sections."""
    rows = np.concatenate([section.rows for section in sections])
    places = np.concatenate([frame.pop("places") for frame in frames]).astype("<u2")
    packed = [
        {
            part: _packed(value[rows]) if isinstance(value, np.ndarray) else value
            for part, value in layer.items()
            if part in {"label", "names", "colors", "codes", "values"}
        }
        for layer in layers
    ]
    return {
        "sections": frames,
        "x": _packed(places[:, 0]),
        "y": _packed(places[:, 1]),
        "names": shown.obs_names[rows].astype(str).tolist(),
        "layers": packed,
        "genes": [{**gene, "codes": _packed(gene["codes"][rows])} for gene in genes],
        "steps": [*share_colors(np.linspace(0, 1, LEVELS)), MISSING_COLOR],
    }


def _packed(values: NDArray[Any]) -> str:
    """Numbers as text: base64 of their bytes."""
    return b64encode(values.tobytes()).decode("ascii")


def make_frame(section: Section, library: Mapping[str, Any], n_sections: int) -> dict[str, Any]:
    """Places of a section in units of its longer side, what they show, and the image below."""
    low, high = section.points.min(axis=0), section.points.max(axis=0)
    margin = 0.75 * section.size
    origin, extent = low - margin, high - low + 2 * margin
    span = float(extent.max())
    frame = {
        "name": section.name,
        "n": len(section.rows),
        "places": np.rint((section.points - origin) / span * _STEPS),
        "width": extent[0] / span,
        "height": extent[1] / span,
        "size": section.size / span,
        "square": section.square,
        "angle": section.angle,
        "micrometres": None if section.micrometres is None else section.micrometres * span,
    }
    try:
        image = _image(library, origin, extent, _IMAGE_PIXELS / n_sections)
    except ValueError as error:
        image, frame["no_image"] = None, str(error)
    if image is not None:
        pixels, corner, size = image
        frame["image"] = _jpeg(pixels)
        frame["image_at"] = [*((corner - origin) / span).tolist(), *(size / span).tolist()]
    return frame


def _image(
    library: Mapping[str, Any],
    origin: NDArray[np.float64],
    extent: NDArray[np.float64],
    most_pixels: float,
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]] | None:
    """Tissue image around a section, its corner and its size in the unit of the coordinates.

    None if there is none; ValueError says why one that is there cannot be shown.
    """
    from PIL import Image

    factors, images = mapping_in(library, "scalefactors"), mapping_in(library, "images")
    held = [name for name in ("hires", "lowres") if images.get(name) is not None]
    for name in held:
        picture, scale = images[name], positive(factors.get(f"tissue_{name}_scalef"))
        if scale is not None:
            break
    else:
        if held:
            msg = f"Expected a number above 0 as `tissue_{held[0]}_scalef`, found none."
            raise ValueError(msg)
        return None
    picture = channels_last(picture)
    shape = np.array([picture.shape[1], picture.shape[0]])
    around = 0.03 * extent.max()
    with np.errstate(over="ignore"):  # a factor beyond all bounds leads out of the picture
        start = np.clip(np.floor((origin - around) * scale), 0, shape).astype(int)
        end = np.clip(np.ceil((origin + extent + around) * scale), 0, shape).astype(int)
    if (end - start < 1).any():
        msg = "No observation lies on it: coordinates or scale factor belong to another image."
        raise ValueError(msg)
    # Of far more pixels than are shown only every few are worked on.
    step = max(1, int(np.sqrt(np.prod(end - start) / most_pixels) / 2))
    part = picture[start[1] : end[1] : step, start[0] : end[0] : step]
    pixels = Image.fromarray(to_rgb(part, white(picture)))
    shrink = np.sqrt(most_pixels / (pixels.width * pixels.height))
    if shrink < 1:
        pixels = pixels.resize(
            (max(1, int(pixels.width * shrink)), max(1, int(pixels.height * shrink)))
        )
    return pixels, start / scale, (end - start) / scale


def _jpeg(pixels: Any) -> str:
    """Picture as the address of itself."""
    from io import BytesIO

    stream = BytesIO()
    pixels.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"
