"""Spatial graphs on arrays: truth by hand, invariances, parity with published graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from m2st._graph import (
    Graph,
    block_diagonal,
    choose_graph,
    delaunay_graph,
    detect_lattice,
    graph_report,
    knn_graph,
    lattice_graph,
    radius_graph,
    spatial_structure,
)

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
BUILDERS = {
    "radius": lambda x: radius_graph(x, 0.2 * np.ptp(x)),
    "knn": lambda x: knn_graph(x, 4),
    "delaunay": delaunay_graph,
}


def hexagonal(n_rows: int, n_columns: int) -> NDArray[np.float64]:
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return np.column_stack([column + 0.5 * (row % 2), np.sqrt(3) / 2 * row])


def square(n_rows: int, n_columns: int) -> NDArray[np.float64]:
    return np.column_stack(np.divmod(np.arange(n_rows * n_columns), n_columns)).astype(float)


def visium_indices(n_rows: int, n_columns: int) -> NDArray[np.int64]:
    row, column = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return np.column_stack([row, 2 * column + row % 2])


def turned(points: NDArray[Any], angle: float) -> NDArray[np.float64]:
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def edges(graph: Graph) -> set[tuple[int, int]]:
    links = graph.connectivities.tocoo()
    return {(int(i), int(j)) for i, j in zip(links.row, links.col, strict=True) if i < j}


def same(a: sparse.csr_matrix, b: sparse.csr_matrix) -> bool:
    return a.shape == b.shape and (a != b).nnz == 0


def check_contract(graph: Graph, points: NDArray[Any]) -> None:
    links, lengths = graph
    assert links.dtype == np.float32
    assert lengths.dtype == np.float64
    assert links.has_sorted_indices
    assert (links.data == 1).all()
    assert same(links, links.T.tocsr())
    assert same(lengths, lengths.T.tocsr())
    assert links.diagonal().sum() == 0
    np.testing.assert_array_equal(links.indptr, lengths.indptr)
    np.testing.assert_array_equal(links.indices, lengths.indices)
    rows = np.repeat(np.arange(len(points)), np.diff(links.indptr))
    np.testing.assert_allclose(
        lengths.data, np.linalg.norm(points[rows] - points[links.indices], axis=1)
    )


# ---- by hand


def test_four_corners_of_a_square() -> None:
    sides = {(0, 1), (0, 2), (1, 3), (2, 3)}
    assert edges(lattice_graph(SQUARE)) == sides
    assert edges(radius_graph(SQUARE, 1)) == sides
    assert edges(radius_graph(SQUARE, 1.5)) == sides | {(0, 3), (1, 2)}
    assert edges(radius_graph(SQUARE, 0.9)) == set()
    np.testing.assert_allclose(
        radius_graph(SQUARE, 1.5).distances.toarray(),
        [
            [0, 1, 1, 2**0.5],
            [1, 0, 2**0.5, 1],
            [1, 2**0.5, 0, 1],
            [2**0.5, 1, 1, 0],
        ],
    )


def test_nearest_neighbours_go_both_ways() -> None:
    line = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    assert edges(knn_graph(line, 1)) == {(0, 1), (1, 2)}


def test_nearest_neighbours_among_coincident_points_never_include_oneself() -> None:
    points = np.array([[0.0, 0.0]] * 4 + [[1.0, 0.0], [1.0, 1.0]])
    graph = knn_graph(points, 2)
    check_contract(graph, points)
    assert graph_report(graph.connectivities)["min_degree"] >= 2


def test_hexagonal_patch_by_hand() -> None:
    # Rows of 2, 3 and 2 spots: the middle one has all six others around it.
    patch = np.array([[1, 0], [3, 0], [0, 1], [2, 1], [4, 1], [1, 2], [3, 2]]) * [0.5, 0.75**0.5]
    graph = lattice_graph(patch)
    check_contract(graph, patch)
    assert edges(graph) == {
        *[(0, 1), (0, 2), (0, 3), (1, 3), (1, 4), (2, 3)],
        *[(3, 4), (2, 5), (3, 5), (3, 6), (4, 6), (5, 6)],
    }


def test_report_by_hand() -> None:
    points = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [9.0, 0.0]])
    assert graph_report(radius_graph(points, 1).connectivities) == {
        "n_obs": 4,
        "n_edges": 4,
        "mean_degree": 1.0,
        "min_degree": 0,
        "max_degree": 2,
        "n_isolated": 1,
        "n_components": 2,
    }


# ---- lattices


@pytest.mark.parametrize(
    ("points", "kind", "degree"),
    [(hexagonal(12, 10), "hexagonal", 6), (square(12, 10), "square", 4)],
)
@pytest.mark.parametrize("angle", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("unit", [1e-6, 137.0])
def test_lattice_at_any_rotation_and_unit(
    points: NDArray[Any], kind: str, degree: int, angle: float, unit: float
) -> None:
    placed = unit * (turned(points, angle) + 50)
    lattice = detect_lattice(placed)
    assert lattice is not None
    assert lattice.kind == kind
    assert lattice.pitch == pytest.approx(unit)
    graph = lattice_graph(placed)
    check_contract(graph, placed)
    assert same(graph.connectivities, radius_graph(points, 1.2).connectivities)
    assert graph_report(graph.connectivities)["max_degree"] == degree


@pytest.mark.parametrize("points", [hexagonal(30, 25), square(30, 25)])
def test_lattice_with_holes_jitter_rounding_and_strays(
    points: NDArray[Any], rng: np.random.Generator
) -> None:
    kept = points[rng.random(len(points)) < 0.8]
    truth = edges(radius_graph(kept, 1.2))
    jittered = kept + rng.normal(scale=0.06, size=kept.shape)
    assert edges(lattice_graph(jittered)) == truth
    assert edges(lattice_graph(np.rint(7 * turned(kept, 0.4)))) == truth
    strays = np.array([[-9.3, 4.1], [60.2, 3.3], [40.0, -20.0]])
    assert edges(lattice_graph(np.vstack([kept, strays]))) == truth


def test_lattice_in_a_plane_in_space() -> None:
    flat = hexagonal(8, 8)
    tilted = flat @ np.array([[1.0, 2.0, 2.0], [2.0, 1.0, -2.0]]) / 3 + 7
    assert edges(lattice_graph(tilted)) == edges(lattice_graph(flat))


@pytest.mark.parametrize("shape", [(20, 30), (60, 12), (78, 64), (128, 112)])
def test_array_indices_of_visium_are_a_hexagonal_array(shape: tuple[int, int]) -> None:
    indices = visium_indices(*shape)
    truth = edges(lattice_graph(hexagonal(*shape)))
    graph = lattice_graph(indices)
    assert edges(graph) == truth
    np.testing.assert_allclose(graph.distances.data, 2)
    if indices[:, 1].max() > 77:  # too long for rows: known as columns wherever they stand
        assert edges(lattice_graph(indices[:, ::-1])) == truth


def test_array_indices_with_ambiguous_extent_have_columns_second() -> None:
    # Ring around (2, 2) as (row, column): (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3).
    indices = visium_indices(5, 5)
    centre = indices.tolist().index([2, 2])
    row = lattice_graph(indices).connectivities[centre]
    assert sorted(indices[row.indices].tolist()) == [[1, 1], [1, 3], [2, 0], [2, 4], [3, 1], [3, 3]]


def test_even_indices_are_no_visium_array() -> None:
    lattice = detect_lattice(2 * square(6, 6))
    assert lattice is not None
    assert (lattice.kind, lattice.pitch) == ("square", pytest.approx(2))


@pytest.mark.parametrize("n_obs", [1, 2, 5, 12, 400])
def test_random_points_are_no_lattice(n_obs: int, rng: np.random.Generator) -> None:
    assert detect_lattice(rng.random((n_obs, 2))) is None


def test_points_in_space_or_on_a_line_are_no_lattice(rng: np.random.Generator) -> None:
    assert detect_lattice(rng.random((50, 3))) is None
    assert detect_lattice(np.arange(20.0)[:, None] * [1, 2]) is None


# ---- Delaunay


def test_delaunay_by_hand() -> None:
    # A triangle with its centre: all six pairs.
    points = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0], [1.0, 0.5]])
    assert len(edges(delaunay_graph(points))) == 6


def test_long_edges_go_short_ones_stay() -> None:
    # Two patches, 10 apart: bridges are far longer than anything usual at either end.
    rng = np.random.default_rng(1)
    patch = rng.random((60, 2)) * 5
    points = np.vstack([patch, patch + np.array([15, 0])])
    whole = delaunay_graph(points, max_length_ratio=np.inf)
    trimmed = delaunay_graph(points)
    assert graph_report(whole.connectivities)["n_components"] == 1
    assert graph_report(trimmed.connectivities)["n_components"] == 2
    assert edges(trimmed) < edges(whole)


def test_density_may_change_within_a_section(rng: np.random.Generator) -> None:
    # Dense on the left, ten times sparser on the right: still one piece.
    points = np.vstack([rng.random((900, 2)), rng.random((90, 2)) * [3, 1] + [1, 0]])
    assert graph_report(delaunay_graph(points).connectivities)["n_components"] == 1


def test_few_long_edges_inside_a_uniform_scatter(rng: np.random.Generator) -> None:
    points = rng.random((3000, 2))
    whole = delaunay_graph(points, max_length_ratio=np.inf).connectivities.nnz
    assert 0.98 * whole < delaunay_graph(points).connectivities.nnz <= whole


@pytest.mark.parametrize("n_obs", [1, 2, 3])
def test_fewer_than_four_points(n_obs: int) -> None:
    assert len(edges(delaunay_graph(SQUARE[:n_obs]))) == [0, 1, 3][n_obs - 1]


@pytest.mark.parametrize("direction", [[1.0, 0.0], [1.0, 3.0], [1.0, 2.0, 3.0]])
def test_collinear_points_form_a_path(direction: list[float]) -> None:
    points = np.array([3.0, 0.0, 1.0, 2.0])[:, None] * direction
    assert edges(delaunay_graph(points)) == {(1, 2), (2, 3), (0, 3)}


def test_nearly_collinear_points(rng: np.random.Generator) -> None:
    for width in 10.0 ** np.arange(-16, 0):
        points = np.column_stack([np.arange(50.0), width * rng.random(50)])
        graph = delaunay_graph(points)
        check_contract(graph, points)
        assert graph_report(graph.connectivities)["n_components"] == 1


def test_delaunay_in_space(rng: np.random.Generator) -> None:
    points = rng.random((200, 3))
    graph = delaunay_graph(points)
    check_contract(graph, points)
    assert graph_report(graph.connectivities)["n_components"] == 1
    flat = np.column_stack([points[:, :2], np.full(200, 5.0)])
    assert edges(delaunay_graph(flat)) == edges(delaunay_graph(points[:, :2]))


@pytest.mark.parametrize("build", [lattice_graph, delaunay_graph])
def test_coincident_points_share_their_neighbours(build: Any) -> None:
    points = hexagonal(5, 5)
    doubled = np.vstack([points, points[[12, 12, 13]]])
    graph = build(doubled)
    check_contract(graph, doubled)
    dense = graph.connectivities.toarray()
    assert dense[12, 25] == dense[12, 26] == dense[25, 26] == 1
    assert graph.distances[12, 25] == 0
    np.testing.assert_array_equal(dense[25, :12], dense[12, :12])
    assert dense[12, 27] == dense[25, 13] == dense[25, 27] == 1
    np.testing.assert_array_equal(dense[:25, :25], build(points).connectivities.toarray())


def test_points_too_close_for_the_triangulation_are_still_linked(rng: np.random.Generator) -> None:
    points = rng.random((40, 2))
    points = np.vstack([points, points[:5] + 1e-16, points[:5] - 1e-15])
    graph = delaunay_graph(points)
    check_contract(graph, points)
    assert graph_report(graph.connectivities)["n_isolated"] == 0


# ---- properties


@given(
    method=st.sampled_from(sorted(BUILDERS)),
    seed=st.integers(0, 10_000),
    n_obs=st.integers(6, 60),
    dimension=st.sampled_from([2, 3]),
)
def test_contract_and_order(method: str, seed: int, n_obs: int, dimension: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.random((n_obs, dimension))
    graph = BUILDERS[method](points)
    check_contract(graph, points)
    order = rng.permutation(n_obs)
    shuffled = BUILDERS[method](points[order])
    assert same(shuffled.connectivities, graph.connectivities[order][:, order])


@given(
    method=st.sampled_from(["delaunay", "knn"]),
    seed=st.integers(0, 10_000),
    angle=st.floats(0, 6.3),
    unit=st.sampled_from([1e-4, 1.0, 3e5]),
    shift=st.floats(-100, 100),
)
def test_place_and_unit_do_not_matter(
    method: str, seed: int, angle: float, unit: float, shift: float
) -> None:
    points = np.random.default_rng(seed).random((50, 2))
    placed = unit * (turned(points, angle) + shift)
    assert edges(BUILDERS[method](placed)) == edges(BUILDERS[method](points))


@given(seed=st.integers(0, 10_000), points=st.sampled_from([hexagonal(9, 9), square(9, 9)]))
def test_lattice_does_not_depend_on_the_order(seed: int, points: NDArray[Any]) -> None:
    order = np.random.default_rng(seed).permutation(len(points))
    whole = lattice_graph(points).connectivities
    assert same(lattice_graph(points[order]).connectivities, whole[order][:, order])


@pytest.mark.parametrize("ratio", [1.0, 1.5, 2.5])
def test_trimming_isolates_nobody(ratio: float, rng: np.random.Generator) -> None:
    points = rng.standard_cauchy((300, 2))
    graph = delaunay_graph(points, max_length_ratio=ratio)
    assert graph_report(graph.connectivities)["n_isolated"] == 0


# ---- sections


def test_sections_are_joined_without_edges_between(rng: np.random.Generator) -> None:
    points, sections = rng.random((60, 2)), rng.integers(0, 3, 60)
    sections[sections == 2] = [2] + [0] * ((sections == 2).sum() - 1)  # a section of one
    whole = block_diagonal(delaunay_graph, points, sections)
    check_contract(whole, points)
    links = whole.connectivities.tocoo()
    np.testing.assert_array_equal(sections[links.row], sections[links.col])
    for code in (0, 1):
        rows = np.flatnonzero(sections == code)
        assert same(
            whole.connectivities[rows][:, rows], delaunay_graph(points[rows]).connectivities
        )
    assert graph_report(whole.connectivities)["n_isolated"] == 1


def test_zero_lengths_survive_joining() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    whole = block_diagonal(delaunay_graph, points, np.array([0, 0, 0, 1]))
    check_contract(whole, points)
    assert edges(whole) == {(0, 1), (0, 2), (1, 2)}


def test_error_names_the_section(rng: np.random.Generator) -> None:
    points = np.vstack([square(4, 4), rng.random((16, 2))])
    sections = np.repeat([0, 1], 16)
    with pytest.raises(ValueError, match=r"Section 'b': Expected observations on a hexagonal"):
        block_diagonal(lattice_graph, points, sections, names=["a", "b"])
    with pytest.raises(ValueError, match=r"Section 1: "):
        block_diagonal(lattice_graph, points, sections)


# ---- the automatic choice


def test_choice(rng: np.random.Generator) -> None:
    scatter = rng.random((50, 2))
    space = rng.random((50, 3))
    assert choose_graph(hexagonal(6, 6)).method == "lattice"
    assert "square array of pitch 1" in choose_graph(square(6, 6)).reason
    for points in (scatter, np.column_stack([scatter, np.ones(50)])):
        choice = choose_graph(points)
        assert choice.method == "delaunay"
        assert edges(choice.graph) == edges(delaunay_graph(scatter))
    assert choose_graph(space).method == "knn"
    assert edges(choose_graph(space).graph) == edges(knn_graph(space, 8))
    assert edges(choose_graph(space[:5]).graph) == edges(knn_graph(space[:5], 4))
    assert choose_graph(scatter[:1]).graph.connectivities.shape == (1, 1)


# ---- errors


@pytest.mark.parametrize(
    "build", [lattice_graph, delaunay_graph, choose_graph, lambda x: radius_graph(x, 1)]
)
def test_bad_coordinates(build: Any) -> None:
    with pytest.raises(ValueError, match=r"shape \(n_obs, 2\) or \(n_obs, 3\), found \(4, 1\)"):
        build(np.zeros((4, 1)))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2"):
        build(np.array([[0.0, np.nan], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="found all 3 at"):
        build(np.ones((3, 2)))


def test_no_lattice(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match=r"found none in the 30 coordinates\. Use `spatial_graph_"):
        lattice_graph(rng.random((30, 2)))


@pytest.mark.parametrize("radius", [0, -1, np.inf, np.nan])
def test_bad_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="Expected `radius` in"):
        radius_graph(SQUARE, radius)


def test_mistaken_unit(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="found 400, which links an observation to 1499 others"):
        radius_graph(rng.random((1500, 2)), 400)


def test_bad_neighbors() -> None:
    with pytest.raises(ValueError, match="smaller than the number of observations, 4, found 4"):
        knn_graph(SQUARE, 4)
    with pytest.raises(ValueError, match="`n_neighbors` to be at least 1"):
        knn_graph(SQUARE, 0)


def test_bad_length_ratio() -> None:
    with pytest.raises(ValueError, match=r"Expected `max_length_ratio` in \[1, inf\], found 0.5"):
        delaunay_graph(SQUARE, max_length_ratio=0.5)


def test_too_many_in_one_place() -> None:
    points = np.vstack([np.zeros((2000, 2)), SQUARE])
    with pytest.raises(ValueError, match="found up to 2001 in one place"):
        delaunay_graph(points)


# ---- real data


def read(folder: Path, name: str) -> tuple[NDArray[Any], Any]:
    adata = ad.read_h5ad(folder / f"{name}.h5ad", backed="r")
    coordinates, obs = np.asarray(adata.obsm["spatial"]), adata.obs
    adata.file.close()
    return coordinates, obs


def test_published_graph_of_starmap(shared_data: Path) -> None:
    coordinates, _ = read(shared_data, "counts/starmap_visual_cortex")
    report = graph_report(radius_graph(coordinates, 400).connectivities)
    assert (report["n_edges"], report["n_isolated"]) == (7838, 5)


def test_published_graph_of_151672_is_found(shared_data: Path) -> None:
    graph, method, reason = choose_graph(read(shared_data, "features/dlpfc_151672")[0])
    assert method == "lattice"
    assert reason.startswith("hexagonal array of pitch 138")
    assert graph.connectivities.nnz == 22770


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("counts/dlpfc500g_151510", "hexagonal"),
        ("counts/dlpfc_151673", "hexagonal"),
        ("counts/dlpfc_151675", "hexagonal"),
        ("counts/visium_fetal_intestine_A3", "hexagonal"),
        ("features/dlpfc_151507", "hexagonal"),
        ("counts/her2st_B1", "square"),
        ("counts/her2st_H1", "square"),
    ],
)
def test_real_arrays_give_the_graph_of_their_indices(
    shared_data: Path, name: str, kind: str
) -> None:
    coordinates, obs = read(shared_data, name)
    lattice = detect_lattice(coordinates)
    assert lattice is not None
    assert lattice.kind == kind
    # Independent truth: steps of the ring in array indices.
    row, column = obs["array_row"].to_numpy(), obs["array_col"].to_numpy()
    at = {(r, c): i for i, (r, c) in enumerate(zip(row, column, strict=True))}
    half = [(0, 2), (1, 1), (1, -1)] if kind == "hexagonal" else [(0, 1), (1, 0)]
    truth = {
        (min(i, at[r + dr, c + dc]), max(i, at[r + dr, c + dc]))
        for (r, c), i in at.items()
        for dr, dc in half
        if (r + dr, c + dc) in at
    }
    assert edges(lattice_graph(coordinates)) == truth
    indices = np.column_stack([row, column])
    assert edges(lattice_graph(indices)) == truth


@pytest.mark.parametrize(
    "name",
    [
        "starmap_visual_cortex",
        "starmap_mpfc_BZ5",
        "starmap_mpfc_BZ14",
        "osmfish_raw",
        "merfish_hypothalamus_-0.14",
        "slideseqv2_puck200815_subset",
    ],
)
def test_cells_and_beads_are_no_array(shared_data: Path, name: str) -> None:
    coordinates, _ = read(shared_data, f"counts/{name}")
    assert detect_lattice(coordinates) is None
    report = graph_report(choose_graph(coordinates).graph.connectivities)
    assert report["n_isolated"] == 0
    assert 5 < report["mean_degree"] < 8


def test_structure_is_found_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(0)
    points = np.array([[x, y] for x in range(20) for y in range(20)], dtype=float)
    graph = lattice_graph(points).connectivities
    noise = rng.normal(size=(400, 10))
    domains = noise.copy()
    domains[:, 0] += 1.0 * (points[:, 0] > 9)
    assert spatial_structure(domains, graph) == pytest.approx(1 / 200)
    assert spatial_structure(domains[rng.permutation(400)], graph) > 0.01
    assert spatial_structure(noise, graph) > 0.01


def test_structure_test_keeps_its_level() -> None:
    """On noise the p-values are spread over the whole range."""
    points = np.array([[x, y] for x in range(8) for y in range(8)], dtype=float)
    graph = lattice_graph(points).connectivities
    p_values = [
        spatial_structure(
            np.random.default_rng(seed).normal(size=(64, 3)), graph, n_permutations=19
        )
        for seed in range(100)
    ]
    assert 0.4 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.05) < 0.15
