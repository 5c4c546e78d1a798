from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from tests import reference
from torch_geometric.nn import GATConv

from m2st._attention import Edges, GraphAttention


def random_graph(n_obs: int, density: float, seed: int) -> sparse.csr_matrix:
    """Symmetric, with isolated observations and some self-loops."""
    half = sparse.random(n_obs, n_obs, density, random_state=seed, format="csr")
    graph = (half + half.T).tolil()
    graph[0, :] = 0
    graph[:, 0] = 0
    return graph.tocsr()


def layer(in_dim: int, out_dim: int, n_heads: int, slope: float = 0.2) -> GraphAttention:
    return GraphAttention(
        in_dim, out_dim, n_heads=n_heads, negative_slope=slope, attention_dropout=0.0
    )


def test_edges_by_hand() -> None:
    # A path 0 - 1 - 2 and an isolated observation 3; the double entry counts once.
    path = sparse.coo_matrix(([1, 1, 5, 1, 1], ([0, 1, 1, 1, 2], [1, 0, 0, 2, 1])), shape=(4, 4))
    edges = Edges.from_adjacency(path)
    assert edges.indptr.tolist() == [0, 2, 5, 7, 8]
    assert edges.source.tolist() == [0, 1, 0, 1, 2, 1, 2, 3]
    assert edges.edge_index[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 3]
    for j in range(4):
        own = edges.reverse[edges.reverse_indptr[j] : edges.reverse_indptr[j + 1]]
        assert set(edges.source[own].tolist()) == {j}
    assert sorted(edges.reverse.tolist()) == list(range(8))


def test_edges_do_not_change_the_graph() -> None:
    graph = random_graph(8, 0.3, 0)
    before = graph.copy()
    Edges.from_adjacency(graph)
    assert (graph != before).nnz == 0


def test_matches_the_equations() -> None:
    graph = random_graph(9, 0.3, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        gat = layer(5, 6, 2, slope=0.01).double()
        x = torch.randn(9, 5, dtype=torch.float64)
    theta = torch.cat([gat.att_dst, gat.att_src], dim=-1)[0].detach().numpy()
    expected = reference.attention(
        x.numpy(),
        graph.toarray(),
        gat.lin.weight.detach().numpy(),
        theta,
        slope=0.01,
        n_heads=2,
    )
    found = gat(x, Edges.from_adjacency(graph)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    n_obs=st.integers(2, 40),
    density=st.floats(0.0, 0.5),
    n_heads=st.integers(1, 4),
    width=st.integers(1, 7),
    slope=st.sampled_from([0.0, 0.01, 0.2]),
    seed=st.integers(0, 1000),
)
def test_matches_torch_geometric(
    n_obs: int, density: float, n_heads: int, width: int, slope: float, seed: int
) -> None:
    edges = Edges.from_adjacency(random_graph(n_obs, density, seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        gat = layer(3, n_heads * width, n_heads, slope)
        x = torch.randn(n_obs, 3, requires_grad=True)
        direction = torch.randn(n_obs, n_heads * width)
    results = []
    for call in (gat, lambda x, edges: GATConv.forward(gat, x, edges.edge_index)):
        gat.zero_grad()
        x.grad = None
        out = call(x, edges)
        (out * direction).sum().backward()
        grads = [x.grad, *(parameter.grad for parameter in gat.parameters())]
        results.append([out.detach(), *(grad.clone() for grad in grads)])
    for found, expected in zip(*results, strict=True):
        scale = max(1.0, expected.abs().max().item())
        np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)


def test_gradients_are_exact() -> None:
    edges = Edges.from_adjacency(random_graph(7, 0.3, 2))
    with torch.random.fork_rng():
        torch.manual_seed(3)  # noqa: TID251
        gat = layer(3, 4, 2).double()
        x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gat(x, edges), (x,))


def test_dropout_acts_on_attention_in_training_only() -> None:
    edges = Edges.from_adjacency(random_graph(30, 0.2, 0))
    gat = GraphAttention(3, 8, n_heads=2, negative_slope=0.2, attention_dropout=0.5)
    x = torch.ones(30, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        dropped = gat(x, edges)
    # Equal features: without dropout, attention of any shape returns them all alike.
    gat.eval()
    kept = gat(x, edges)
    np.testing.assert_allclose(kept.detach(), kept[:1].expand(30, -1).detach(), atol=1e-6)
    assert (dropped - kept).abs().max() > 1e-2


def test_permuting_observations_permutes_the_output(rng: np.random.Generator) -> None:
    graph = random_graph(20, 0.2, 4)
    order = rng.permutation(20)
    gat = layer(4, 8, 2)
    x = torch.tensor(rng.normal(size=(20, 4)), dtype=torch.float32)
    straight = gat(x, Edges.from_adjacency(graph))[order]
    permuted = gat(x[order], Edges.from_adjacency(graph[order][:, order]))
    np.testing.assert_allclose(permuted.detach(), straight.detach(), atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e9, 1e28])
def test_large_logits_do_not_overflow(scale: float) -> None:
    edges = Edges.from_adjacency(random_graph(5, 0.5, 0))
    for seed in range(20):
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # noqa: TID251
            gat = layer(3, 4, 1)
        x = torch.full((5, 3), scale)
        # Equal features: attention of any shape returns them all alike.
        expected = (x @ gat.lin.weight.T).detach()
        torch.testing.assert_close(gat(x, edges).detach(), expected, rtol=1e-5, atol=0.0)
