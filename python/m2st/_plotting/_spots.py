"""Sections of an object, and the places, sizes and shapes of the spots in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from m2st._checks import check_coordinates, check_key, check_numbers
from m2st._graph import restore_visium
from m2st._keys import GRAPH_RECORD, SPOTS

if TYPE_CHECKING:
    from anndata import AnnData

MAX_DOMAINS = 1000


@dataclass(frozen=True)
class Section:
    """One sample: its rows, and the places and the shape of its spots in the coordinates' unit."""

    name: str
    rows: NDArray[np.intp]
    points: NDArray[np.float64]
    size: float
    square: bool
    angle: float
    micrometres: float | None

    @property
    def extent(self) -> NDArray[np.float64]:
        """Width and height, spots at the border and a narrow margin included."""
        found: NDArray[np.float64] = np.ptp(self.points, axis=0) + 1.5 * self.size
        return found


def read_categories(adata: AnnData, key: str, *, hint: str = "") -> pd.Categorical:
    """Return a column of labels as categories."""
    check_key(key, adata.obs, where="adata.obs", hint=hint)
    try:
        values = pd.Categorical(adata.obs[key])
    except TypeError as error:
        msg = f"Expected labels in `adata.obs[{key!r}]`, found values such as lists."
        raise TypeError(msg) from error
    if len(values.categories) > MAX_DOMAINS:
        msg = (
            f"Expected at most {MAX_DOMAINS:,} categories in `adata.obs[{key!r}]`, found "
            f"{len(values.categories):,}. Name a column of domains."
        )
        raise ValueError(msg)
    return values


def read_shares(adata: AnnData, key: str, *, hint: str = "") -> NDArray[np.float64]:
    """Return a column of numbers from 0 to 1, NaN where they are missing."""
    check_key(key, adata.obs, where="adata.obs", hint=hint)
    name = f"adata.obs[{key!r}]"
    values = adata.obs[key]
    if pd.api.types.is_numeric_dtype(values):
        found = np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    else:  # it says what it is
        found = check_numbers(np.asarray(values), name=name)
    outside = found[(found < 0) | (found > 1)]
    if outside.size:
        advice = "Name another column with `key=`."
        if key.endswith("_confidence"):
            advice = "Rename the column if it is not m2ST's."
        msg = f"Expected `{name}` in [0, 1], found {outside[0]:g}. {advice}"
        raise ValueError(msg)
    return found


def read_places(adata: AnnData, spatial_key: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the first two coordinates of every observation, and which of them have a place."""
    hint = "Name the key of the coordinates with `spatial_key=`."
    check_key(spatial_key, adata.obsm, where="adata.obsm", hint=hint)
    name = f"adata.obsm[{spatial_key!r}]"
    coordinates = np.asarray(check_numbers(adata.obsm[spatial_key], name=name), dtype=np.float64)
    finite = np.isfinite(coordinates).reshape(adata.n_obs, -1)
    valid: NDArray[np.bool_] = np.asarray(finite.all(axis=1))
    if not valid.any():
        msg = (
            f"Expected an observation with coordinates in `{name}`, found none. Check that they "
            "were read."
        )
        raise ValueError(msg)
    check_coordinates(coordinates[valid], name=name)
    return coordinates[:, :2], valid


def find_samples(
    adata: AnnData, sample_key: str | None, drawn: NDArray[np.bool_]
) -> list[tuple[str, NDArray[np.intp]]]:
    """Return the name and the rows of each sample, of the observations that are drawn."""
    if sample_key is None:
        return [("", np.flatnonzero(drawn))]
    check_key(sample_key, adata.obs, where="adata.obs", hint="Name the column with `sample_key=`.")
    values = read_categories(adata, sample_key)
    n_missing = int((values.codes[drawn] < 0).sum())
    if n_missing:
        msg = (
            f"Expected a section for each observation in `adata.obs[{sample_key!r}]`, found none "
            f"for {n_missing} of {adata.n_obs}. Fill them in or leave these observations out."
        )
        raise ValueError(msg)
    return [
        (str(name), np.flatnonzero(drawn & (values.codes == code)))
        for code, name in enumerate(values.categories)
        if (drawn & (values.codes == code)).any()
    ]


def find_section(
    adata: AnnData, name: str, rows: NDArray[np.intp], points: NDArray[np.float64]
) -> Section:
    """Find the size and the shape of the spots of a sample.

    Array indices of Visium are brought to places: as they are, spots would look like diamonds. A
    part of a section is drawn with the spots of the whole, which the record knows.
    """
    restored = restore_visium(points, column=0)
    points = points if restored is None else restored
    factors = mapping_in(find_library(adata, name), "scalefactors")
    diameter, micrometres = (
        positive(factors.get(entry)) for entry in ("spot_diameter_fullres", "microns_per_pixel")
    )
    near = _Places.at(points)
    size, square, angle = _recorded_shape(adata, name, near) or near.shape
    size = size if diameter is None or restored is not None else diameter
    return Section(name, rows, points, size, square, angle, micrometres)


def find_libraries(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """Entries of ``uns["spatial"]`` in scanpy's layout, by name, without what others put there."""
    found = mapping_in(adata.uns, "spatial")
    return {str(name): entry for name, entry in found.items() if isinstance(entry, Mapping)}


def find_library(adata: AnnData, name: str) -> Mapping[str, Any]:
    """Entry of ``uns["spatial"]`` for a sample: the one of its name, or the only one."""
    libraries = find_libraries(adata)
    return next(iter(libraries.values())) if len(libraries) == 1 else libraries.get(name, {})


def mapping_in(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a mapping within another, empty if there is none."""
    found = holder.get(key)
    return found if isinstance(found, Mapping) else {}


def positive(value: object) -> float | None:
    """Return a number above 0, or None."""
    try:
        number = float(np.asarray(value, dtype=np.float64).item())
    except (TypeError, ValueError):
        return None
    return number if 0 < number < np.inf else None


def describe_spots(
    points: NDArray[np.float64], sections: NDArray[np.intp], names: list[str]
) -> dict[str, Any]:
    """Describe the spots of each section, for parts of it that are drawn later.

    Parameters
    ----------
    points
        Places, shape (n_obs, 2), finite.
    sections
        Section of each, shape (n_obs,).
    names
        Names of the sections, which have at least one observation each.

    Returns
    -------
    ``section``: the names. A number for each of them: ``size`` of a spot, ``square`` and ``angle``,
    as `spot_shape` has them; ``n_places``; ``step``, the median distance to the nearest other
    place; ``shorter`` and ``longer``, how far the places reach.
    """
    found = []
    for number in range(len(names)):
        places = points[sections == number]
        restored = restore_visium(places, column=0)
        places = places if restored is None else restored
        near = _Places.at(places)
        found.append((*near.shape, *near.sizes))
    columns = zip(_DESCRIBED, np.array(found, dtype=np.float64).T, strict=True)
    return {"section": names, **dict(columns)}


_DESCRIBED = ("size", "square", "angle", "n_places", "step", "shorter", "longer")


class _Places(NamedTuple):
    """Different places, and the distances and numbers of the nearest of them, each itself first."""

    places: NDArray[np.float64]
    distances: NDArray[np.float64]
    near: NDArray[np.intp]

    @classmethod
    def at(cls, points: NDArray[np.float64]) -> _Places:
        places = np.unique(points, axis=0)
        return cls(places, *cKDTree(places).query(places, k=range(1, min(8, len(places)) + 1)))

    @property
    def sizes(self) -> tuple[int, float, float, float]:
        """Number of places, median distance to the nearest other, and reach in both directions."""
        shorter, longer = sorted(np.ptp(self.places, axis=0).tolist())
        step = float(np.median(self.distances[:, 1])) if len(self.places) > 1 else 0.0
        return len(self.places), step, shorter, longer

    @property
    def shape(self) -> tuple[float, bool, float]:
        """Size, whether square, and rotation of spots that look right."""
        if len(self.places) < 2:
            return 1.0, False, 0.0
        to_nth = np.median(self.distances, axis=0)  # the 0th is the place itself
        for n_ring in (6, 4):
            if len(to_nth) > n_ring + 1:
                ring, next_ring = to_nth[n_ring], to_nth[n_ring + 1]
                if ring < 1.25 * to_nth[1] and next_ring > 1.15 * ring:
                    break
        else:
            return float(to_nth[min(2, len(to_nth) - 1)]), False, 0.0
        if n_ring == 4 and ring < 1.02 * to_nth[1]:
            steps = self.places[self.near[:, 1]] - self.places
            quarter = np.exp(4j * np.arctan2(steps[:, 1], steps[:, 0])).mean()
            return float(to_nth[1]), True, float(np.angle(quarter) / 4)
        return float(0.55 * np.median(self.distances[:, 1 : n_ring + 1])), False, 0.0


def _recorded_shape(adata: AnnData, name: str, near: _Places) -> tuple[float, bool, float] | None:
    """Shape of the spots of a section that these places are a part of, if the record knows one."""
    known = mapping_in(mapping_in(adata.uns, GRAPH_RECORD), SPOTS)
    try:
        sections = [str(section) for section in known["section"]]
        table = np.array([known[entry] for entry in _DESCRIBED], dtype=np.float64).T
    except (KeyError, TypeError, ValueError):  # none, or of another hand
        return None
    if table.shape != (len(sections), len(_DESCRIBED)):
        return None
    if name in sections:
        table = table[[sections.index(name)]]
    n_places, step, shorter, longer = near.sizes
    for size, square, angle, *whole in table.tolist():
        is_part = n_places < whole[0] and (n_places < 2 or 2 * step > whole[1])
        if is_part and shorter <= 1.001 * whole[2] and longer <= 1.001 * whole[3]:
            return size, bool(square), angle
    return None


def spot_shape(points: NDArray[np.float64]) -> tuple[float, bool, float]:
    """Return size, whether square, and rotation of spots that look right at these places."""
    return _Places.at(points).shape
