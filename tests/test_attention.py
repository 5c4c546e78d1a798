from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tests import reference

from m2st import _nn
from m2st._nn import _fused
from m2st._nn._attention import GraphAttention, _loops, _reference, attend, loops
from m2st._nn._edges import Edges
from m2st._nn._simd import LANES, exp, load, store
from m2st._nn._training import TrainingResult, train
from m2st._params import AutoencoderParams


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
    assert edges.target_row.tolist() == [0, 1, 2, 3]
    assert edges.weight.tolist() == [1] * 8
    assert edges.edge_index.tolist() == [[0, 1, 0, 1, 2, 1, 2, 3], [0, 0, 1, 1, 1, 2, 2, 3]]
    indptr, position, target = edges.by_source
    for j in range(4):
        assert set(edges.source[position[indptr[j] : indptr[j + 1]]].tolist()) == {j}
    assert sorted(position.tolist()) == list(range(8))
    assert target.tolist() == edges.edge_index[1][position].tolist()


def test_edges_from_the_hidden_by_hand() -> None:
    # A path 0 - 1 - 2 - 3 and an isolated observation 4; 1, 2 and 4 are hidden.
    path = sparse.csr_matrix(np.eye(5, k=1) * (np.arange(5) < 3)[:, None])
    edges = Edges.from_adjacency(path + path.T)
    hidden = torch.tensor([False, True, True, False, True])
    # Rows: 0, 3 and the one of all hidden.
    found = edges.mask(hidden, torch.ones(5, dtype=torch.bool))
    assert found.target_row.tolist() == [0, 2, 2, 1, 2]
    assert found.indptr.tolist() == [0, 2, 4, 6, 8, 9]
    assert found.source.tolist() == [0, 2, 0, 2, 1, 2, 1, 2, 2]
    assert found.weight.tolist() == [1, 1, 1, 2, 1, 2, 1, 1, 1]
    assert found.edge_index[0].tolist() == [0, 2, 0, 2, 2, 1, 2, 2, 1, 2, 2]
    assert found.edge_index[1].tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    found = edges.mask(hidden, hidden)
    assert found.target_row.tolist() == [2, 2, 2]
    assert found.indptr.tolist() == [0, 2, 4, 5]
    found = edges.subgraph(hidden)
    assert found.target_row.tolist() == [1, 2, 4]
    assert found.indptr.tolist() == [0, 3, 6, 7]
    assert found.source.tolist() == [0, 1, 2, 1, 2, 3, 4]
    assert found.by_source[0].tolist() == [0, 1, 3, 5, 6, 7]


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

    merged = edges.mask(hidden, targets)
    direction = direction[targets]

    def replaced(x: torch.Tensor, token: torch.Tensor | None) -> torch.Tensor:
        return gat.reference(torch.where(hidden[:, None], token, x), edges)[targets]

    expected = outcome(gat, replaced, x, token, direction)
    for call in (gat, gat.reference):
        found = outcome(gat, lambda x, t, c=call: c(x[~hidden], merged, t), x, token, direction)
        assert_alike(found, expected)


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
    merged = edges.mask(hidden, targets)
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
    merged = edges.mask(hidden, torch.arange(7) > 1)

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
        monkeypatch.setattr("m2st._nn._fused._CHUNK", 7)
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


def embedded(device: str = "cpu") -> TrainingResult:
    features = np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
    params = AutoencoderParams(n_members=1, n_epochs=3)
    return train(features, random_graph(60, 0.1, 0), params, device=device)


def assert_close(found: TrainingResult, expected: TrainingResult) -> None:
    for ours, theirs in zip(found.embeddings, expected.embeddings, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.fixture
def anew() -> Iterator[None]:
    """The loops are tried out anew, and once more for the tests that follow."""
    _loops.cache_clear()
    yield
    _loops.cache_clear()


def test_the_reference_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = embedded()
    assert fused.attention == "fused"
    monkeypatch.setenv("M2ST_ATTENTION", "reference")
    assert loops() == (None, "M2ST_ATTENTION asks for it")
    reference = embedded()
    assert reference.attention == "reference"
    assert_close(reference, fused)


@pytest.mark.usefixtures("anew")
def test_the_reference_takes_over_where_the_loops_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fused = embedded()
    _loops.cache_clear()
    monkeypatch.delattr(_nn, "_fused", raising=False)
    monkeypatch.setitem(sys.modules, "m2st._nn._fused", None)
    with pytest.warns(
        UserWarning, match="do not work here.*takes over.*M2ST_ATTENTION=ref"
    ) as said:
        reference = embedded()
    assert said[0].filename == __file__
    assert_close(reference, fused)
    embedded()  # says it once: a second warning would be an error
    monkeypatch.setenv("M2ST_ATTENTION", "fused")
    with pytest.raises(ImportError, match=r"Expected compiled loops that work.*Unset the variable"):
        embedded()


@pytest.mark.usefixtures("anew")
def test_the_reference_takes_over_where_the_loops_are_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = _fused.sums
    monkeypatch.setattr(_fused, "sums", lambda *args, **named: 1.01 * right(*args, **named))
    with pytest.warns(UserWarning, match="wrong by 1% on a small graph"):
        assert loops().module is None


def test_what_computes_attention_is_one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2ST_ATTENTION", "fast")
    with pytest.raises(ValueError, match="Expected `M2ST_ATTENTION` to be one of 'fused', 'ref"):
        embedded()


@pytest.mark.dist
def test_torch_geometric_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import os; before = dict(os.environ); import m2st._nn._attention as a;"
        "a.GraphAttention(3, 4, n_heads=1, negative_slope=0.2, attention_dropout=0.0);"
        "assert before == dict(os.environ)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    for folder in (tmp_path, tmp_path / "missing"):
        places = {**environment, "TMPDIR": str(folder)}
        subprocess.run([sys.executable, "-c", code], check=True, env=places)
    assert list(tmp_path.iterdir()) == []
