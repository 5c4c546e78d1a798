from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from tests import reference

from m2st._attention import Edges, GraphAttention, _reference, attend
from m2st._simd import LANES, exp, load, store


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
    assert edges.row.tolist() == [0, 1, 2, 3]
    assert edges.count.tolist() == [1] * 8
    assert edges.edge_index.tolist() == [[0, 1, 0, 1, 2, 1, 2, 3], [0, 0, 1, 1, 1, 2, 2, 3]]
    for j in range(4):
        own = edges.reverse[edges.reverse_indptr[j] : edges.reverse_indptr[j + 1]]
        assert set(edges.source[own].tolist()) == {j}
    assert sorted(edges.reverse.tolist()) == list(range(8))
    assert edges.receiver.tolist() == edges.edge_index[1][edges.reverse.long()].tolist()


def test_edges_from_the_hidden_by_hand() -> None:
    # A path 0 - 1 - 2 - 3 and an isolated observation 4; 1, 2 and 4 are hidden.
    path = sparse.csr_matrix(np.eye(5, k=1) * (np.arange(5) < 3)[:, None])
    edges = Edges.from_adjacency(path + path.T)
    hidden = torch.tensor([False, True, True, False, True])
    # Rows: 0, 3 and the one of all hidden.
    found = edges.hide(hidden, torch.ones(5, dtype=torch.bool))
    assert found.row.tolist() == [0, 2, 2, 1, 2]
    assert found.indptr.tolist() == [0, 2, 4, 6, 8, 9]
    assert found.source.tolist() == [0, 2, 0, 2, 1, 2, 1, 2, 2]
    assert found.count.tolist() == [1, 1, 1, 2, 1, 2, 1, 1, 1]
    assert found.edge_index[0].tolist() == [0, 2, 0, 2, 2, 1, 2, 2, 1, 2, 2]
    assert found.edge_index[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    found = edges.hide(hidden, hidden)
    assert found.row.tolist() == [2, 2, 2]
    assert found.indptr.tolist() == [0, 2, 4, 5]
    found = edges.only(hidden)
    assert found.row.tolist() == [1, 2, 4]
    assert found.indptr.tolist() == [0, 3, 6, 7]
    assert found.source.tolist() == [0, 1, 2, 1, 2, 3, 4]
    assert found.reverse_indptr.tolist() == [0, 1, 3, 5, 6, 7]


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


def outcome(
    gat: torch.nn.Module,
    call: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    x: torch.Tensor,
    token: torch.Tensor | None,
    direction: torch.Tensor,
) -> list[torch.Tensor]:
    """Output of a layer, and all gradients of one direction of it."""
    leaves = [x.requires_grad_(), *([] if token is None else [token.requires_grad_()])]
    out = call(x, token)
    gradients = torch.autograd.grad((out * direction).sum(), [*leaves, *gat.parameters()])
    return [out.detach(), *gradients]


def assert_alike(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1.0, theirs.abs().max().item())
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(
    n_obs=st.integers(2, 40),
    density=st.floats(0.0, 0.5),
    n_heads=st.one_of(st.integers(1, 5), st.sampled_from([8, 9, 17])),
    width=st.one_of(st.integers(1, 9), st.sampled_from([16, 24, 32, 40, 50])),
    slope=st.sampled_from([0.0, 0.01, 0.2]),
    seed=st.integers(0, 1000),
)
def test_matches_torch_geometric(
    n_obs: int, density: float, n_heads: int, width: int, slope: float, seed: int
) -> None:
    """On a graph, and where some observations are one row that all edges from them share."""
    edges = Edges.from_adjacency(random_graph(n_obs, density, seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        gat = layer(3, n_heads * width, n_heads, slope)
        torch.nn.init.normal_(gat.bias)
        x, token = torch.randn(n_obs, 3), torch.randn(3)
        direction = torch.randn(n_obs, n_heads * width)
        hidden, targets = torch.rand(2, n_obs) < 0.5
    targets[0] = True
    found = outcome(gat, lambda x, _: gat(x, edges), x, None, direction)
    with torch.no_grad():
        np.testing.assert_array_equal(gat(x, edges), found[0])

    assert_alike(found, outcome(gat, lambda x, _: gat.reference(x, edges), x, None, direction))

    merged = edges.hide(hidden, targets)
    direction = direction[targets]

    def replaced(x: torch.Tensor, token: torch.Tensor | None) -> torch.Tensor:
        return gat.reference(torch.where(hidden[:, None], token, x), edges)[targets]

    expected = outcome(gat, replaced, x, token, direction)
    for call in (gat, gat.reference):
        found = outcome(gat, lambda x, t, c=call: c(x[~hidden], merged, t), x, token, direction)
        assert_alike(found, expected)


@settings(deadline=None, max_examples=30)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 8, 16])), min_size=2),
    one_head=st.booleans(),
    shared=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_layers_side_by_side_do_what_each_does(
    *, shapes: list[tuple[int, int]], one_head: bool, shared: bool, seed: int
) -> None:
    """On one input or one each; where it saves work, sums come before the linear map."""
    shapes = [(1 if one_head else heads, channels) for heads, channels in shapes[:3]]
    inputs = [5 if shared else 2 + number for number in range(len(shapes))]
    edges = Edges.from_adjacency(random_graph(20, 0.1, seed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # noqa: TID251
        layers = [
            layer(width, heads * channels, heads)
            for width, (heads, channels) in zip(inputs, shapes, strict=True)
        ]
        for gat in layers:
            torch.nn.init.normal_(gat.bias)
        x = torch.randn(20, 5 if shared else sum(inputs))
        token = torch.randn(x.shape[1])
        direction = torch.randn(20, sum(heads * channels for heads, channels in shapes))
        hidden, targets = torch.rand(2, 20) < 0.5
    both = torch.nn.ModuleList(layers)
    merged = edges.hide(hidden, targets)
    found, expected = (
        outcome(
            both,
            lambda x, t, c=call: c(layers, x, merged, t),
            x[~hidden],
            token,
            direction[targets],
        )
        for call in (attend, _reference)
    )
    assert_alike(found, expected)
    with torch.no_grad():
        np.testing.assert_array_equal(attend(layers, x[~hidden], merged, token), found[0])


def test_gradients_are_exact() -> None:
    edges = Edges.from_adjacency(random_graph(7, 0.3, 2))
    with torch.random.fork_rng():
        torch.manual_seed(3)  # noqa: TID251
        gat = layer(3, 4, 2).double()
        x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
        token = torch.randn(3, dtype=torch.float64, requires_grad=True)
    hidden = torch.arange(7) > 4
    merged = edges.hide(hidden, torch.arange(7) > 1)

    def call(x: torch.Tensor, token: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return torch.cat([gat(x, edges), gat(x[~hidden], merged, token)])

    assert torch.autograd.gradcheck(call, (x, token, *gat.parameters()))


def test_inference_holds_the_attention_of_a_chunk_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    edges = Edges.from_adjacency(random_graph(30, 0.2, 5))
    gat, x = layer(4, 6, 3), torch.linspace(-1, 1, 120).view(30, 4)
    with torch.no_grad():
        whole = gat(x, edges)
        monkeypatch.setattr("m2st._attention._CHUNK", 7)
        np.testing.assert_array_equal(gat(x, edges), whole)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponentials(dtype: type[np.floating]) -> None:
    @numba.njit
    def in_place(values: np.ndarray) -> None:
        for start in range(0, len(values), LANES):
            store(values, start, exp(load(values, start)))

    x = np.concatenate([np.linspace(-80, 0, 800), [-np.inf, -1e30, -200, np.nan, 0, 0, 0, 0]])
    x = x.astype(dtype)
    found = x.copy()
    in_place(found)
    expected = np.exp(x)
    # What is smaller than the smallest normal number may be that number.
    np.testing.assert_allclose(
        found, expected, rtol=3 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny * 2
    )


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
