"""Domains as viewers read them: tables, and outlines in GeoJSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st._checks import check_key, recorded_key
from m2st._outlines import draw_outlines
from m2st._plotting import find_samples, read_categories, read_places, read_shares, stored_colors

if TYPE_CHECKING:
    from shapely import Geometry

SUFFIXES = {
    "csv": ".csv",
    "loupe": ".csv",
    "xenium-explorer": ".csv",
    "geojson": ".geojson",
    "spatialdata": ".zarr",
}
"""Formats, and how their files end."""

# Of Visium, of bins of Visium HD, and of its cells; the number of the library is last.
_BARCODE = re.compile(r"([ACGT]+|s_\d{3}um_\d{5}_\d{5}|cellid_\d{9})-\d+")
# Letters from a to p since Xenium's software 1.3, whole numbers before.
_CELL_ID = re.compile(r"[a-p]{8}-\d+|\d+")
_CELL_ID_COLUMN = "cell_id"


@dataclass(frozen=True)
class Outline:
    """The outline of a domain in one section; the name of the section is empty if it has none."""

    domain: str
    color: str
    section: str
    shape: Geometry


def select(adata: AnnData, sample: str | None, sample_key: str | None) -> AnnData:
    """View of one section, or of all."""
    if sample is None:
        return adata
    sample_key = sample_key or recorded_key(adata, "sample_key")
    if sample_key is None:
        msg = (
            f"Expected the column of the sections to find `sample={sample!r}`, found none. Name it "
            "with `sample_key=`."
        )
        raise ValueError(msg)
    check_key(sample_key, adata.obs, where="adata.obs", hint="Name the column with `sample_key=`.")
    values = adata.obs[sample_key].astype(str)
    chosen = (values == sample).to_numpy()
    if not chosen.any():
        found = ", ".join(map(repr, values.unique()))
        msg = f"Expected the section {sample!r} in `adata.obs[{sample_key!r}]`, found: {found}."
        raise ValueError(msg)
    return adata[chosen]


def read_domains(adata: AnnData, keys: _keys.Keys) -> pd.Categorical:
    """Domains, of which there is at least one."""
    hint = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."
    domains = read_categories(adata, keys.domain, hint=hint)
    if (domains.codes < 0).all():
        msg = (
            f"Expected observations with a domain in `adata.obs[{keys.domain!r}]`, found none "
            f"among {adata.n_obs}. Name another result with `key_added=`."
        )
        raise ValueError(msg)
    return domains


def write_csv(adata: AnnData, keys: _keys.Keys) -> bytes:
    """Name, domain and confidence of every observation; empty where there is none."""
    table = pd.DataFrame({"observation": adata.obs_names, keys.domain: read_domains(adata, keys)})
    if keys.confidence in adata.obs:
        table[keys.confidence] = read_shares(adata, keys.confidence)
    return _as_csv(table)


def write_loupe(adata: AnnData, keys: _keys.Keys) -> bytes:
    """Barcode and domain, as Loupe Browser imports categories; without those that have none."""
    domains = read_domains(adata, keys)
    barcodes = pd.Index(adata.obs_names.astype(str))
    advice = (
        "Give the observations the barcodes of the Loupe file: those of an aggregated one end in "
        "-1, -2 and so on, in the order of its libraries."
    )
    _check_names(barcodes, _BARCODE, what="barcodes of Space Ranger", fix=advice)
    return _as_csv(pd.DataFrame({"Barcode": barcodes, keys.domain: domains})[domains.codes >= 0])


def write_xenium(adata: AnnData, keys: _keys.Keys) -> bytes:
    """Cell, domain and colour, as Xenium Explorer imports cell groups; no cells without domain."""
    domains = read_domains(adata, keys)
    has_column = _CELL_ID_COLUMN in adata.obs
    cells = pd.Index(
        adata.obs[_CELL_ID_COLUMN].astype(str) if has_column else adata.obs_names.astype(str)
    )
    advice = (
        f"Put them into `adata.obs[{_CELL_ID_COLUMN!r}]`, as in `cells.csv.gz` of Xenium. If there "
        "are several sections, export one with `sample=`."
    )
    _check_names(cells, _CELL_ID, what="cell ids of Xenium", fix=advice)
    colors = np.array([*stored_colors(adata, keys.domain, len(domains.categories)), ""])
    table = pd.DataFrame(
        {_CELL_ID_COLUMN: cells, "group": domains, "color": colors[domains.codes]},
    )
    return _as_csv(table[domains.codes >= 0])


def write_geojson(outlines: Iterable[Outline], pixel_size: float) -> bytes:
    """Outlines as annotations of QuPath, in pixels.

    Rings go around as RFC 7946 has them: outer ones to the left, holes to the right.
    """
    import shapely

    features = []
    for outline in outlines:
        scaled = shapely.transform(outline.shape, lambda xy: xy / pixel_size)
        color = [int(outline.color[at : at + 2], 16) for at in (1, 3, 5)]
        properties = {
            "objectType": "annotation",
            "name": " ".join(filter(None, [outline.section, outline.domain])),
            "classification": {"name": outline.domain, "color": color},
        }
        if outline.section:
            properties["sample"] = outline.section
        features.append(
            {
                "type": "Feature",
                "geometry": json.loads(
                    shapely.to_geojson(shapely.reverse(shapely.normalize(scaled)))
                ),
                "properties": properties,
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def outline_domains(
    adata: AnnData, keys: _keys.Keys, sample_key: str | None, spatial_key: str | None
) -> list[Outline]:
    """Outline each domain in each section; observations without place or domain are in none."""
    domains = read_domains(adata, keys)
    names = [str(name) for name in domains.categories]
    colors = stored_colors(adata, keys.domain, len(names))
    found = []
    for section, rows, points in read_sections(adata, sample_key, spatial_key):
        shapes = draw_outlines(points, domains.codes[rows], len(names))
        found += [
            Outline(name, color, section, shape)
            for name, color, shape in zip(names, colors, shapes, strict=True)
            if not shape.is_empty
        ]
    return found


def read_sections(
    adata: AnnData, sample_key: str | None, spatial_key: str | None
) -> list[tuple[str, NDArray[np.intp], NDArray[np.float64]]]:
    """Name, rows and coordinates of each section, of the observations that have a place."""
    sample_key = sample_key or recorded_key(adata, "sample_key")
    spatial_key = spatial_key or recorded_key(adata, "spatial_key") or _keys.COORDINATES
    points, valid = read_places(adata, spatial_key)
    return [(name, rows, points[rows]) for name, rows in find_samples(adata, sample_key, valid)]


def _check_names(names: pd.Index, pattern: re.Pattern[str], *, what: str, fix: str) -> None:
    """Require names that a viewer finds in its own file, each once."""
    unknown = [name for name in names if not pattern.fullmatch(name)]
    if unknown:
        msg = (
            f"Expected {what} as names of the observations, found {len(unknown)} of {len(names)} "
            f"others, such as {unknown[0]!r}. {fix}"
        )
        raise ValueError(msg)
    doubled = int(names.duplicated().sum())
    if doubled:
        msg = f"Expected each of the {what} once, found {doubled} repeated. {fix}"
        raise ValueError(msg)


def _as_csv(table: pd.DataFrame) -> bytes:
    """A table as text, a line for each row."""
    for column in table.select_dtypes(exclude="number"):
        for value in table[column].dropna().unique():
            shown = str(value)
            # Viewers read line by line, and no encoding has half a character.
            whole = shown.encode(errors="replace").decode() == shown
            if "\n" in shown or "\r" in shown or not whole:
                msg = (
                    f"Expected names on one line, in whole characters, found {shown!r}. Rename it."
                )
                raise ValueError(msg)
    text = str(table.to_csv(index=False, lineterminator="\n"))
    return text.encode()
