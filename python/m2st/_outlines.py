"""Outlines of domains: the cells of their observations, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import Voronoi, cKDTree

from m2st._checks import importing
from m2st._graph import detect_lattice

if TYPE_CHECKING:
    from shapely import Geometry

# How far a cell reaches, in medians of the distance to its farthest corner. Cells of an array are
# all alike; cells of scattered observations are not, and holes in the tissue are to stay open.
_REACH_ON_ARRAY, _REACH = 1.01, 1.5
# And in distances to the nearest neighbour: observations on a line have no inner cells.
_MOST_REACH = 4
# Outlines are on a grid of this share of a cell, so that rounding leaves no gaps between cells.
_GRID = 1e-3
# Corners of a frame around all observations, in extents: with it, every cell is closed.
_FRAME = 10 * np.array([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])


def draw_outlines(
    points: NDArray[np.float64], codes: NDArray[np.integer[Any]], n_domains: int
) -> list[Geometry]:
    """Outline each domain of a section.

    Each observation has a cell: what is nearer to it than to all others, and within the usual reach
    of a cell. On a Visium slide, cells are hexagons. The outline joins the cells of a domain.

    Parameters
    ----------
    points
        Coordinates, (n_obs, 2), finite, in any unit.
    codes
        Domain of each observation, (n_obs,), from 0; -1 for none. Its cell is in no outline.
    n_domains
        Number of domains.

    Returns
    -------
    A polygon or several for each domain, in the unit of `points`; empty if it has no observation.
    Outlines do not overlap. Observations at the same place have one cell, of their most frequent
    domain.

    Raises
    ------
    ImportError
        shapely is not installed.
    """
    with importing("shapely", "Outlining domains", "pip install 'm2st[spatialdata]'"):
        import shapely
    places, place_of = np.unique(points, axis=0, return_inverse=True)
    # A whole number, so that coordinates on the grid stay short numbers.
    middle = np.round(places.mean(axis=0))
    cells, reach = _cells(places - middle)
    grid = 10.0 ** np.floor(np.log10(_GRID * reach))
    cells = shapely.set_precision(cells, grid)
    domains = _most_frequent(place_of.ravel(), codes, n_domains)
    joined = [
        shapely.union_all(cells[domains == code], grid_size=grid) for code in range(n_domains)
    ]
    return [shapely.transform(outline, lambda xy: xy + middle) for outline in joined]


def _most_frequent(
    groups: NDArray[np.intp], codes: NDArray[np.integer[Any]], n_codes: int
) -> NDArray[np.intp]:
    """The most frequent code of each group, the first of several."""
    pairs, counts = np.unique(groups * (n_codes + 1) + codes + 1, return_counts=True)
    group, code = np.divmod(pairs, n_codes + 1)
    order = np.lexsort((-code, counts, group))
    last = np.flatnonzero(np.diff(group[order], append=-1))
    found: NDArray[np.intp] = code[order][last] - 1
    return found


def _cells(places: NDArray[np.float64]) -> tuple[NDArray[Any], float]:
    """The cell of each place, as polygons, and how far cells reach."""
    import shapely

    extent = float(np.ptp(places, axis=0).max()) or 1.0
    middle = (places.min(axis=0) + places.max(axis=0)) / 2
    diagram = Voronoi(np.vstack([places, middle + extent * _FRAME]))
    regions = [diagram.regions[number] for number in diagram.point_region[: len(places)]]
    sizes = np.fromiter(map(len, regions), dtype=np.intp, count=len(regions))
    owner = np.repeat(np.arange(len(places)), sizes)
    corners = diagram.vertices[np.concatenate(regions)]
    # Cells are convex, whatever order their corners are listed in.
    cells = shapely.convex_hull(shapely.multipoints(corners, indices=owner))
    distances = np.linalg.norm(corners - places[owner], axis=1)
    farthest = np.maximum.reduceat(distances, np.cumsum(sizes) - sizes)
    beside_frame = diagram.ridge_points[(diagram.ridge_points >= len(places)).any(axis=1)]
    inside = np.setdiff1d(np.arange(len(places)), beside_frame)
    reach = _reach(places, farthest[inside] if len(inside) else farthest)
    cut = farthest > reach
    discs = shapely.buffer(shapely.points(places[cut]), reach)
    cells[cut] = shapely.intersection(cells[cut], discs)
    return cells, reach


def _reach(places: NDArray[np.float64], farthest: NDArray[np.float64]) -> float:
    """How far cells reach at most, from the distances to the farthest corners of inner cells."""
    if len(places) == 1:
        return 0.5
    usual = _REACH_ON_ARRAY if detect_lattice(places) is not None else _REACH
    nearest = cKDTree(places).query(places, k=2)[0][:, 1]
    return float(min(usual * np.median(farthest), _MOST_REACH * np.median(nearest)))
