from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from m2st._graph import knn_graph
from m2st._nn._partition import PARTS_PER_BATCH, Partition


@pytest.fixture
def graph(rng: np.random.Generator) -> sparse.csr_matrix:
    """A sheet of 900 observations and four without neighbours."""
    sheet = knn_graph(rng.uniform(size=(900, 2)), 6).connectivities
    return sparse.block_diag([sheet, sparse.csr_matrix((4, 4))], format="csr")


def test_everybody_is_in_exactly_one_piece(graph: sparse.csr_matrix) -> None:
    found = Partition.of(graph, 240)
    np.testing.assert_array_equal(np.sort(np.concatenate(found.parts)), np.arange(904))
    np.testing.assert_array_equal(np.sort(found.order), np.arange(904))
    np.testing.assert_array_equal(np.sort(np.concatenate(found.batches())), np.arange(904))
    assert (found.adjacency != graph[found.order][:, found.order]).nnz == 0
    assert 15 <= len(found.parts) <= 45
    assert all((np.diff(part) > 0).all() for part in found.parts)


def test_pieces_are_connected_where_the_graph_is(graph: sparse.csr_matrix) -> None:
    found = Partition.of(graph, 240)
    degree = np.diff(found.adjacency.indptr)
    for part in found.parts:
        if (degree[part] > 0).all():
            assert connected_components(found.induced_subgraph(part), directed=False)[0] == 1


def test_a_small_graph_is_left_whole(graph: sparse.csr_matrix) -> None:
    found = Partition.of(graph, 904)
    assert len(found.parts) == len(found.batches()) == 1
    assert found.induced_subgraph(found.parts[0]) is found.adjacency


def test_neighbours_get_close_numbers(graph: sparse.csr_matrix) -> None:
    def mean_distance(adjacency: sparse.csr_matrix) -> float:
        i, j = adjacency.nonzero()
        return float(np.abs(i - j).mean())

    assert mean_distance(Partition.of(graph, 904).adjacency) < 0.2 * mean_distance(graph)


def test_the_neighbourhood_is_all_within_some_hops(graph: sparse.csr_matrix) -> None:
    found = Partition.of(graph, 240)
    middle = found.parts[3]
    inside = np.isin(np.arange(904), middle).astype(float)
    for n_hops in range(4):
        np.testing.assert_array_equal(found.neighbourhood(middle, n_hops), np.flatnonzero(inside))
        inside += found.adjacency @ inside


def test_no_piece_is_drawn_again_before_all_have_come(graph: sparse.csr_matrix) -> None:
    found = Partition.of(graph, 240)
    n_parts = len(found.parts)
    sampled = np.concatenate([found.sampled(epoch, 5) for epoch in range(n_parts)])
    assert len(sampled) == n_parts * PARTS_PER_BATCH
    for start in range(0, len(sampled), n_parts):
        np.testing.assert_array_equal(np.sort(sampled[start : start + n_parts]), np.arange(n_parts))
    np.testing.assert_array_equal(found.sampled(2, 5), found.sampled(2, 5))
    assert not np.array_equal(found.sampled(0, 5), found.sampled(0, 6))


def test_pieces_without_any_edge() -> None:
    found = Partition.of(sparse.csr_matrix((50, 50)), 16)
    np.testing.assert_array_equal(np.sort(np.concatenate(found.parts)), np.arange(50))
