"""Spatial graphs from coordinates: arrays in, sparse matrices out.

Every builder takes coordinates of shape (n_obs, 2) or (n_obs, 3) in any unit and returns a `Graph`.
Memory grows with the number of edges; nothing of size n_obs × n_obs is ever made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import Delaunay, cKDTree

from m2st._checks import check_coordinates, check_int, check_interval, check_numbers

Kind = Literal["hexagonal", "square"]

# Corners of the first ring of a lattice of unit pitch, as complex numbers.
_RINGS: dict[Kind, NDArray[np.complex128]] = {
    "hexagonal": np.exp(1j * np.pi / 3 * np.arange(6)),
    "square": np.exp(1j * np.pi / 2 * np.arange(4)),
}
# A step belongs to the first ring when it ends within this share of the pitch from a corner.
# Spots displaced by a tenth of the pitch, as in the first ST arrays, stay well inside it.
_TOLERANCE = 0.35
# The share of close pairs that must be such steps, within half the tolerance. Measured: 1.00 on
# Visium, 0.93 and 1.00 on two ST arrays; 0.26 on densely packed beads, less on segmented cells.
_MIN_REGULARITY = 0.7
# Rows and columns of the small Visium slide, then of the large one, count from 0 to these.
_VISIUM_LAST_ROWS = (77, 127)
# No spatial graph needs more neighbours than this; a larger mean degree is a mistaken unit.
_MAX_MEAN_DEGREE = 1000
_NEIGHBORS_IN_SPACE = 8

MAX_LENGTH_RATIO = 2.5
"""Default of `delaunay_graph`: it removes 0.1 % of the edges inside a uniform scatter of points."""


class Graph(NamedTuple):
    """A spatial graph.

    Parameters
    ----------
    connectivities
        Shape (n_obs, n_obs), CSR, float32: 1 for each edge, symmetric, zero diagonal.
    distances
        Shape (n_obs, n_obs), CSR, float64: length of each edge. The pattern is that of
        `connectivities`: the zero between two coincident observations is stored.
    """

    connectivities: sparse.csr_matrix
    distances: sparse.csr_matrix


class Lattice(NamedTuple):
    """A regular array of spots.

    Parameters
    ----------
    kind
        Six neighbours around each spot, or four.
    pitch
        Distance between neighbours, in the unit of the coordinates; for array indices of Visium in
        columns, of which two lie between neighbours of one row.
    regularity
        Share, in [0, 1], of the pairs of close spots that lie one step apart.
    """

    kind: Kind
    pitch: float
    regularity: float


class Choice(NamedTuple):
    """A graph with the method that `choose_graph` took and its reason."""

    graph: Graph
    method: str
    reason: str


def detect_lattice(coordinates: NDArray[Any]) -> Lattice | None:
    r"""Find out whether the observations lie on a hexagonal or square array.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3), any unit and rotation, with holes, rounding or jitter.

    Returns
    -------
    The array, or ``None``.

    Notes
    -----
    The pitch starts as the median distance to the nearest neighbour and the orientation as the
    phase of the bond-orientational order :math:`\sum \exp(ik\varphi)`, :math:`k` = 6 or 4, over
    all close pairs; least squares on the steps of the first ring then refine both.

    Visium array indices, whole numbers with a constant parity of row + column, are recognised: rows
    lie :math:`\sqrt 3` apart where columns are 1 apart. The axis too long for the rows of a slide
    is taken as the column; if both fit, the second is, as in ``(array_row, array_col)``.
    """
    found = _find_lattice(_checked(coordinates))
    return None if found is None else found[0]


def lattice_graph(coordinates: NDArray[Any]) -> Graph:
    """Link each observation to the first ring around it on a hexagonal or square array.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3), any unit and rotation.

    Returns
    -------
    The graph. Coincident observations are linked to each other and to the same neighbours.

    Raises
    ------
    ValueError
        If the observations do not lie on an array.
    """
    points = _checked(coordinates)
    if len(points) == 1:
        return _empty_graph()
    found = _find_lattice(points)
    if found is None:
        msg = (
            "Expected observations on a hexagonal or square array, found none in the "
            f"{len(points)} coordinates. Use `spatial_graph_delaunay`, or `spatial_graph_radius` "
            "if a distance is known."
        )
        raise ValueError(msg)
    return found[1]


def radius_graph(coordinates: NDArray[Any], radius: float) -> Graph:
    """Link observations at most `radius` apart.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3).
    radius
        Greatest length of an edge, in the unit of the coordinates, positive.

    Returns
    -------
    The graph; an observation with nobody within the radius is isolated.

    Raises
    ------
    ValueError
        If the radius is not positive, or so large that the mean degree exceeds 1000.
    """
    check_interval("radius", radius, 0, np.inf, closed=(False, False))
    points = _checked(coordinates)
    tree = cKDTree(points)
    degree = tree.count_neighbors(tree, radius) / len(points) - 1
    if degree > _MAX_MEAN_DEGREE:
        msg = (
            f"Expected `radius` in the unit of the coordinates, found {radius:g}, which links an "
            f"observation to {degree:.0f} others on average. Choose a smaller radius."
        )
        raise ValueError(msg)
    return _assemble(points, *tree.query_pairs(radius, output_type="ndarray").T)


def knn_graph(coordinates: NDArray[Any], n_neighbors: int) -> Graph:
    """Link each observation to its nearest neighbours, and to those it is a nearest neighbour of.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3).
    n_neighbors
        Number of nearest neighbours, from 1 to n_obs − 1: the least degree in the graph.

    Returns
    -------
    The graph.

    Raises
    ------
    ValueError
        If there are not as many other observations.

    Notes
    -----
    Among neighbours at exactly the same distance, as on an array, the order of the observations
    decides.
    """
    check_int("n_neighbors", n_neighbors, minimum=1)
    points = _checked(coordinates)
    n_obs = len(points)
    if n_neighbors >= n_obs:
        msg = (
            f"Expected `n_neighbors` smaller than the number of observations, {n_obs}, found "
            f"{n_neighbors}. Ask for fewer neighbours."
        )
        raise ValueError(msg)
    order = cKDTree(points).query(points, k=n_neighbors + 1)[1]
    # An observation need not come first among coincident ones: drop itself wherever it stands, and
    # the last neighbour if it is not there at all.
    itself = order == np.arange(n_obs)[:, None]
    itself[~itself.any(axis=1), -1] = True
    return _assemble(points, np.repeat(np.arange(n_obs), n_neighbors), order[~itself])


def delaunay_graph(
    coordinates: NDArray[Any], *, max_length_ratio: float = MAX_LENGTH_RATIO
) -> Graph:
    """Link neighbours in the Delaunay triangulation, without its long edges.

    An edge is removed when it is longer than `max_length_ratio` times the usual length around both
    of its ends; the usual length around an observation is the (lower) median over its edges. This
    drops slivers along the outline and bridges over gaps, whatever the unit and the local density.
    At least half of the edges of every observation remain, so that nobody becomes isolated.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3). Points in a plane in space are triangulated in this plane;
        points on a line form a path.
    max_length_ratio
        At least 1; infinity keeps the whole triangulation.

    Returns
    -------
    The graph. Coincident observations are linked to each other and to the same neighbours.

    Raises
    ------
    ValueError
        If the ratio is less than 1.
    """
    check_interval("max_length_ratio", max_length_ratio, 1, np.inf)
    points = _checked(coordinates)
    places, place_of = _places(points)
    i, j, twin_of = _triangulate(_flatten(places))
    if len(twin_of):  # too close for the triangulation to tell apart: one place
        i, j, place_of = twin_of[i], twin_of[j], twin_of[place_of]
    length = np.linalg.norm(places[i] - places[j], axis=1)
    usual = _lower_medians(np.r_[i, j], np.r_[length, length], len(places))
    short = length <= max_length_ratio * np.maximum(usual[i], usual[j])
    return _assemble(points, *_from_places(i[short], j[short], place_of))


def choose_graph(coordinates: NDArray[Any]) -> Choice:
    """Choose a graph by looking at the coordinates; their unit does not matter.

    Parameters
    ----------
    coordinates
        Shape (n_obs, 2) or (n_obs, 3), of one section.

    Returns
    -------
    The graph; ``"lattice"`` on a regular array, else ``"delaunay"`` in a plane and ``"knn"`` in
    space; and the reason in words.
    """
    points = _checked(coordinates)
    if len(points) == 1:
        return Choice(_empty_graph(), "delaunay", "a single observation")
    found = _find_lattice(points)
    if found is not None:
        lattice, graph = found
        reason = (
            f"{lattice.kind} array of pitch {lattice.pitch:.4g}: "
            f"{lattice.regularity:.0%} of the close pairs lie one step apart"
        )
        return Choice(graph, "lattice", reason)
    if _flatten(points).shape[1] < 3:
        return Choice(delaunay_graph(points), "delaunay", "no regular array, positions in a plane")
    n_neighbors = min(_NEIGHBORS_IN_SPACE, len(points) - 1)
    reason = f"positions in space: {n_neighbors} nearest neighbours"
    return Choice(knn_graph(points, n_neighbors), "knn", reason)


def block_diagonal(
    build: Callable[[NDArray[Any]], Graph],
    coordinates: NDArray[Any],
    sections: NDArray[np.integer[Any]],
    *,
    names: Sequence[object] | None = None,
) -> Graph:
    """Build the graph of each section by itself and join them; no edge crosses sections.

    Parameters
    ----------
    build
        Makes the graph of one section from its coordinates.
    coordinates
        Shape (n_obs, 2) or (n_obs, 3).
    sections
        Shape (n_obs,): whole numbers from 0; the observations of a section may be scattered.
    names
        Names of the sections for messages, by their number; the numbers themselves if not given.

    Returns
    -------
    The graph, in the order of `coordinates`. The only observation of a section is isolated.

    Raises
    ------
    ValueError
        With the name of the section where `build` raised.
    """
    order = np.argsort(sections, kind="stable")
    starts = np.flatnonzero(np.diff(sections[order], prepend=-1))
    blocks = []
    for rows in np.split(order, starts[1:]):
        code = int(sections[rows[0]])
        try:
            blocks.append(build(coordinates[rows]) if len(rows) > 1 else _empty_graph())
        except ValueError as error:
            msg = f"Section {code if names is None else names[code]!r}: {error}"
            raise ValueError(msg) from error
    position = np.argsort(order)

    def join(matrices: list[sparse.csr_matrix]) -> sparse.csr_matrix:
        whole = sparse.block_diag(matrices, format="csr")[position][:, position]
        whole.sort_indices()
        return whole

    return Graph(join([b.connectivities for b in blocks]), join([b.distances for b in blocks]))


def link_sections(
    graph: Graph,
    points: NDArray[np.float64],
    sections: NDArray[np.integer[Any]],
    distance: float,
) -> Graph:
    """Add edges between observations of different sections that lie close to each other.

    Parameters
    ----------
    graph
        Its edges within sections stay, others go.
    points
        Shape (n_obs, 2) or (n_obs, 3), of all sections in one frame.
    sections
        Number of the section of each observation, shape (n_obs,); -1 for those that get no edge.
    distance
        Greatest length of an added edge, in the unit of the points.
    """
    codes = np.unique(sections[sections >= 0])
    rows = {code: np.flatnonzero(sections == code) for code in codes}
    trees = {code: cKDTree(points[rows[code]]) for code in codes}
    own = graph.distances.tocoo()
    inside = sections[own.row] == sections[own.col]
    ends = own.row[inside], own.col[inside]
    links = [sparse.coo_matrix((own.data[inside], ends), shape=own.shape)]
    for one, other in combinations(codes, 2):
        near = trees[one].sparse_distance_matrix(trees[other], distance, output_type="ndarray")
        source, target = rows[one][near["i"]], rows[other][near["j"]]
        for ends in ((source, target), (target, source)):
            links.append(sparse.coo_matrix((near["v"], ends), shape=graph.distances.shape))
    source, target, lengths = (
        np.concatenate([getattr(link, part) for link in links]) for part in ("row", "col", "data")
    )
    order = np.lexsort((target, source))
    ends = np.r_[0, np.cumsum(np.bincount(source, minlength=len(points)))]
    # Not through a sparse sum: registered observations may be at distance 0.
    parts = target[order].astype(np.int32), ends.astype(np.int32)
    ones = np.ones(len(order), dtype=np.float32)
    shape = graph.distances.shape
    return Graph(
        sparse.csr_matrix((ones, *parts), shape=shape),
        sparse.csr_matrix((lengths[order], *parts), shape=shape),
    )


def spread(graph: Graph, valid: NDArray[np.bool_]) -> Graph:
    """Bring the graph of some observations to all; the others are isolated.

    Parameters
    ----------
    graph
        Over the observations that are `valid`, in their order.
    valid
        Shape (n_obs,).

    Returns
    -------
    The graph over n_obs observations.
    """
    rows = np.flatnonzero(valid)
    ends = np.r_[0, np.cumsum(valid)]

    def enlarged(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        parts = (matrix.data, rows[matrix.indices].astype(matrix.indices.dtype))
        return sparse.csr_matrix((*parts, matrix.indptr[ends]), shape=(len(valid), len(valid)))

    return Graph(enlarged(graph.connectivities), enlarged(graph.distances))


def links_far(connectivities: sparse.csr_matrix, coordinates: NDArray[Any]) -> bool:
    """Whether a graph evidently does not belong to the coordinates.

    Its edges are as long as the distances between random observations, and most observations have
    one nearer than all that they are linked to.

    Parameters
    ----------
    connectivities
        Shape (n_obs, n_obs), CSR, symmetric.
    coordinates
        Shape (n_obs, n_axes); observations without finite coordinates are left out.

    Returns
    -------
    False with fewer than 30 linked observations: they tell too little.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    # Lengths are compared with each other: in this unit the squares of no two are out of range.
    points = points / (np.abs(points).max(where=np.isfinite(points), initial=0) or 1.0)
    source = np.repeat(np.arange(len(points)), np.diff(connectivities.indptr))
    target = connectivities.indices
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=1))
    known = finite[source] & finite[target] & (source != target)
    source, target = source[known], target[known]
    linked, starts = np.unique(source, return_index=True)
    if len(linked) < 30:
        return False
    lengths = np.linalg.norm(points[source] - points[target], axis=1)
    others = np.random.default_rng(0).permutation(linked)
    usual = np.median(np.linalg.norm(points[linked] - points[others], axis=1))
    nearest = cKDTree(points[finite]).query(points[linked], k=2)[0][:, 1]
    shortest = np.minimum.reduceat(lengths, starts)
    return bool(np.median(lengths) > usual / 2 and (shortest > 2 * nearest).mean() > 0.5)


def graph_report(connectivities: sparse.csr_matrix) -> dict[str, int | float]:
    """Describe a graph in a few numbers.

    Parameters
    ----------
    connectivities
        Shape (n_obs, n_obs), CSR, symmetric, zero diagonal.

    Returns
    -------
    ``n_obs``, ``n_edges`` (stored entries: each edge counts twice), ``mean_degree``,
    ``min_degree``, ``max_degree``, ``n_isolated`` and ``n_components``, isolated ones included.
    """
    degree = np.diff(connectivities.indptr)
    return {
        "n_obs": int(connectivities.shape[0]),
        "n_edges": int(connectivities.nnz),
        "mean_degree": float(degree.mean()),
        "min_degree": int(degree.min()),
        "max_degree": int(degree.max()),
        "n_isolated": int((degree == 0).sum()),
        "n_components": int(connected_components(connectivities, directed=False)[0]),
    }


def edges_between_sections(
    connectivities: sparse.csr_matrix, sections: NDArray[np.integer[Any]]
) -> int:
    """Count the stored entries of a graph that join two sections.

    Parameters
    ----------
    connectivities
        Shape (n_obs, n_obs), CSR.
    sections
        Number of the section of each observation, shape (n_obs,).
    """
    source, target = connectivities.nonzero()
    return int(np.count_nonzero(sections[source] != sections[target]))


def smooth(
    features: NDArray[Any], connectivities: sparse.csr_matrix, *, n_hops: int
) -> NDArray[np.float64]:
    """Average features over each observation and its neighbours, again and again.

    What a graph network does without learning anything: the baseline that it has to beat.

    Parameters
    ----------
    features
        Shape (n_obs, n_features).
    connectivities
        Shape (n_obs, n_obs), symmetric, zero diagonal.
    n_hops
        Number of averages taken.

    Returns
    -------
    Averaged features, shape (n_obs, n_features).
    """
    links = sparse.csr_matrix(connectivities, dtype=np.float64)
    share = 1 / (1 + np.diff(links.indptr))[:, None]
    averaged = np.asarray(features, dtype=np.float64)
    for _ in range(n_hops):
        averaged = share * (averaged + links @ averaged)
    return averaged


def spatial_structure(
    features: NDArray[Any],
    connectivities: sparse.csr_matrix,
    *,
    n_permutations: int = 199,
    random_state: int = 0,
) -> float:
    r"""Test whether features of neighbours are alike at all.

    The statistic is the largest eigenvalue of the covariance between an observation's features and
    the mean of its neighbours', :math:`\tfrac1N X^\top D^{-1} A X`, made symmetric: the most that a
    direction of the features varies together with its surroundings.

    Parameters
    ----------
    features
        Shape (n_obs, n_features), finite.
    connectivities
        Shape (n_obs, n_obs), symmetric, zero diagonal.
    n_permutations
        Permutations of the observations that the statistic is compared with.
    random_state
        Seed of the permutations.

    Returns
    -------
    p-value of the hypothesis that observations could change places, at least
    1 / (n_permutations + 1).
    """
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    links = sparse.csr_matrix(connectivities, dtype=np.float64)
    degree = np.maximum(np.asarray(links.sum(axis=1)).ravel(), 1)
    share = sparse.diags(1 / degree) @ links

    def statistic(values: NDArray[np.float64]) -> float:
        crossed = values.T @ (share @ values)
        return float(np.linalg.eigvalsh(crossed + crossed.T)[-1])

    rng = np.random.default_rng(random_state)
    observed = statistic(centred)
    permuted = [statistic(centred[rng.permutation(len(centred))]) for _ in range(n_permutations)]
    return float((1 + sum(value >= observed for value in permuted)) / (1 + n_permutations))


def _checked(coordinates: NDArray[Any]) -> NDArray[np.float64]:
    """Coordinates as float64 after validation."""
    points = check_numbers(coordinates, name="coordinates").astype(np.float64, copy=False)
    check_coordinates(points)
    return points


def _empty_graph() -> Graph:
    """Graph of a single observation."""
    nobody = np.zeros(0, dtype=np.intp)
    return _assemble(np.zeros((1, 2)), nobody, nobody)


def _assemble(points: NDArray[np.float64], i: NDArray[Any], j: NDArray[Any]) -> Graph:
    """Graph with the edges i–j, in any direction and however often; loops are dropped."""
    n_obs, apart = len(points), i != j
    i, j = i[apart], j[apart]
    ones = np.ones(2 * len(i), dtype=np.float32)
    links = sparse.csr_matrix((ones, (np.r_[i, j], np.r_[j, i])), shape=(n_obs, n_obs))
    links.sum_duplicates()
    links.data[:] = 1
    rows = np.repeat(np.arange(n_obs), np.diff(links.indptr))
    length = np.linalg.norm(points[rows] - points[links.indices], axis=1)
    pattern = (length, links.indices.copy(), links.indptr.copy())
    return Graph(links, sparse.csr_matrix(pattern, shape=links.shape))


def _from_places(
    i: NDArray[Any], j: NDArray[Any], place_of: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Edges between observations from edges between places; who shares a place is linked too."""
    n_obs, n_places = len(place_of), int(place_of.max()) + 1
    stack = np.bincount(place_of, minlength=n_places)
    if stack.max() == 1 and n_places == n_obs:
        seat = np.argsort(place_of)
        return seat[i], seat[j]
    degree = (2 * (stack[i] * stack[j]).sum() + (stack * (stack - 1)).sum()) / n_obs
    if degree > _MAX_MEAN_DEGREE:
        msg = (
            f"Expected few observations at the same coordinates, found up to {stack.max()} in one "
            "place. Check that the coordinates were read into the right slot."
        )
        raise ValueError(msg)
    everyone = np.arange(n_places)
    rows, columns = np.r_[i, everyone], np.r_[j, everyone]
    ones = np.ones(len(rows), dtype=np.float32)
    between = sparse.csr_matrix((ones, (rows, columns)), shape=(n_places, n_places))
    seats = sparse.csr_matrix(
        (np.ones(n_obs, dtype=np.float32), (np.arange(n_obs), place_of)), shape=(n_obs, n_places)
    )
    edges = (seats @ between @ seats.T).tocoo()
    return edges.row, edges.col


def _places(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Distinct positions, and the one each observation is at."""
    places, place_of = np.unique(points, axis=0, return_inverse=True)
    return places, place_of.reshape(-1)  # numpy 2.0 returns a column


def _flatten(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred points in as many dimensions as they fill: in space, in a plane, on a line, none."""
    centred = points - points.mean(axis=0)
    _, extent, axes = np.linalg.svd(centred, full_matrices=False)
    rank = int((extent > 1e-7 * extent[0]).sum())
    flat: NDArray[np.float64] = centred if rank == points.shape[1] else centred @ axes[:rank].T
    return flat


def _triangulate(
    flat: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Delaunay edges of distinct points, and the vertex each point stands for if not all are."""
    n_points, dimension = flat.shape
    all_themselves = np.zeros(0, dtype=np.intp)
    if dimension < 2:
        path = np.argsort(flat[:, 0]) if dimension else np.arange(n_points)
        return path[:-1], path[1:], all_themselves
    triangulation = Delaunay(flat / np.abs(flat).max())
    corners = triangulation.simplices
    pairs = [(a, b) for a in range(dimension + 1) for b in range(a)]
    low = np.concatenate([np.minimum(corners[:, a], corners[:, b]) for a, b in pairs])
    high = np.concatenate([np.maximum(corners[:, a], corners[:, b]) for a, b in pairs])
    # Each edge once: it is a side of several simplices.
    i, j = np.divmod(np.unique(low.astype(np.int64) * n_points + high), n_points)
    if not len(triangulation.coplanar):
        return i, j, all_themselves
    twin_of = np.arange(n_points)
    twin_of[triangulation.coplanar[:, 0]] = triangulation.coplanar[:, 2]
    return i, j, twin_of


def _lower_medians(
    groups: NDArray[np.intp], values: NDArray[np.float64], n_groups: int
) -> NDArray[np.float64]:
    """Lower median of the values of each group; 0 for a group without values."""
    ordered = values[np.lexsort((values, groups))]
    counts = np.bincount(groups, minlength=n_groups)
    medians = np.zeros(n_groups)
    some = counts > 0
    medians[some] = ordered[(np.cumsum(counts) - counts + (counts - 1) // 2)[some]]
    return medians


def _find_lattice(points: NDArray[np.float64]) -> tuple[Lattice, Graph] | None:
    """The array that the points lie on, with the graph of its first rings."""
    places, place_of = _places(points)
    tries: list[tuple[NDArray[np.float64], tuple[Kind, ...]]]
    tries = [(_flatten(places), ("hexagonal", "square"))]
    restored = restore_visium(places)
    if restored is not None:
        tries.insert(0, (restored, ("hexagonal",)))
    for flat, kinds in tries:
        if flat.shape[1] != 2 or len(flat) < 3:
            continue
        fits = [_fit_ring(flat, kind) for kind in kinds]
        lattice, i, j = max(fits, key=lambda fit: fit[0].regularity)
        # Fewer than two steps from a spot on average is no array, or too sparse to link by it.
        if lattice.regularity >= _MIN_REGULARITY and len(i) >= 2 * len(flat):
            return lattice, _assemble(flat[place_of], *_from_places(i, j, place_of))
    return None


def restore_visium(places: NDArray[np.float64], column: int = 1) -> NDArray[np.float64] | None:
    """Positions, in columns, from the array indices of Visium; None for anything else.

    `column` is the axis of the columns where the indices do not tell.
    """
    if places.shape[1] != 2 or (places != np.floor(places)).any():
        return None
    odd = places % 2 == 1
    if len(np.unique(odd[:, 0] ^ odd[:, 1])) > 1 or len(np.unique(odd[:, 0])) == 1:
        return None
    for last_row in _VISIUM_LAST_ROWS:
        too_long = places.max(axis=0) > last_row
        if too_long.sum() == 1:
            column = int(too_long.argmax())
    restored: NDArray[np.float64] = places * np.sqrt(3)
    restored[:, column] = places[:, column]
    return restored


def _fit_ring(
    flat: NDArray[np.float64], kind: Kind
) -> tuple[Lattice, NDArray[np.intp], NDArray[np.intp]]:
    """Fit pitch and orientation to points in the plane; return the steps of the first ring too."""
    corners = _RINGS[kind]
    n_near = min(9, len(flat))  # eight others: a ring with room for strays
    length, near = cKDTree(flat).query(flat, k=n_near)
    i, j = np.repeat(np.arange(len(flat)), n_near - 1), near[:, 1:].ravel()
    step = (flat[j] - flat[i]) @ np.array([1, 1j])
    pitch = np.median(length[:, 1])
    fold = len(corners)
    bonds = step[np.abs(step) < 1.25 * pitch]
    phase = np.angle(((bonds / np.abs(bonds)) ** fold).sum()) / fold
    arm = pitch * np.exp(1j * phase)  # one step of the lattice: its pitch and orientation
    for _ in range(3):
        # The nearest corner, from the angle alone.
        corner = corners[np.rint(np.angle(step / arm) / (2 * np.pi / fold)).astype(int) % fold]
        miss = np.abs(step - arm * corner) / np.abs(arm)
        on_ring = miss < _TOLERANCE
        if not on_ring.any():
            break
        arm = (step[on_ring] / corner[on_ring]).mean()
    close = np.abs(step) < 1.25 * np.abs(arm)
    regularity = float((miss[close] < _TOLERANCE / 2).mean()) if close.any() else 0.0
    return Lattice(kind, float(np.abs(arm)), regularity), i[on_ring], j[on_ring]
