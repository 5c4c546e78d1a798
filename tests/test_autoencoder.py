from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from tests import reference

from m2st import AutoencoderParams, MaskedGraphAutoencoder
from m2st._nn._autoencoder import own_torch
from m2st._nn._edges import Edges

SMALL = AutoencoderParams(scale_dims=(8, 4), hidden_dim=8, n_heads=2, n_epochs=5)


def ring(n_obs: int) -> sparse.csr_matrix:
    steps = np.arange(n_obs)
    path = sparse.coo_matrix((np.ones(n_obs), (steps, (steps + 1) % n_obs)), shape=(n_obs, n_obs))
    return (path + path.T).tocsr()


def among(*which: int) -> torch.Tensor:
    """Of twelve observations."""
    return torch.tensor([number in which for number in range(12)])


@pytest.fixture
def model() -> MaskedGraphAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        return MaskedGraphAutoencoder(6, SMALL)


@pytest.fixture
def x(rng: np.random.Generator) -> torch.Tensor:
    return torch.tensor(rng.normal(size=(12, 6)), dtype=torch.float32)


def test_shapes_of_any_number_of_scales(x: torch.Tensor) -> None:
    for dims in [(4,), (8, 4), (12, 8, 4, 2)]:
        model = MaskedGraphAutoencoder(
            6, AutoencoderParams(scale_dims=dims, hidden_dim=8, n_heads=2)
        )
        edges = Edges.from_adjacency(ring(12))
        assert [e.shape for e in model.encode(x, edges)] == [(12, d) for d in dims]
        assert model(x, edges, among(1)).shape == (len(dims), 12, 6)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_an_embedding_sees_one_step_more_than_it_has_layers(n_layers: int, x: torch.Tensor) -> None:
    params = AutoencoderParams(scale_dims=(4,), hidden_dim=8, n_heads=2, n_layers=n_layers)
    model = MaskedGraphAutoencoder(6, params)
    edges = Edges.from_adjacency(ring(12))
    changed = x.clone()
    changed[0] += 1
    (before,), (after,) = model.encode(x, edges), model.encode(changed, edges)
    moved = torch.nonzero((before != after).any(dim=1)).ravel().tolist()
    steps = np.minimum(np.arange(12), 12 - np.arange(12))
    assert moved == np.flatnonzero(steps <= n_layers + 1).tolist()


def test_activations_only_when_asked(x: torch.Tensor) -> None:
    """With one neighbourhood, its own, attention is linear: so is the encoder without a PReLU."""
    edges = Edges.from_adjacency(sparse.csr_matrix((12, 12)))
    for use_prelu in (False, True):
        params = AutoencoderParams(scale_dims=(4,), hidden_dim=8, n_heads=2, use_prelu=use_prelu)
        model = MaskedGraphAutoencoder(6, params)
        n_slopes = sum(isinstance(part, torch.nn.PReLU) for part in model.modules())
        assert n_slopes == (1 + params.n_layers if use_prelu else 0)
        (there,), (back,) = model.encode(x, edges), model.encode(-x, edges)
        offset = model.encode(torch.zeros_like(x), edges)[0]
        odd = torch.allclose(there - offset, offset - back, atol=1e-6)
        assert odd != use_prelu


def test_masked_features_do_not_leak(model: MaskedGraphAutoencoder, x: torch.Tensor) -> None:
    edges = Edges.from_adjacency(ring(12))
    masked = among(2, 7)
    changed = x.clone()
    changed[masked] += 100
    before, after = model(x, edges, masked), model(changed, edges, masked)
    for found, expected in zip(after, before, strict=True):
        torch.testing.assert_close(found, expected)


def test_masking_takes_the_learnable_vectors(
    model: MaskedGraphAutoencoder, x: torch.Tensor
) -> None:
    edges = Edges.from_adjacency(ring(12))
    masked = among(2, 7)
    before = model(x, edges, masked)
    with torch.no_grad():
        model.remask_tokens[0] += 1
    after = model(x, edges, masked)
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1], after[1])
    with torch.no_grad():
        model.mask_token += 1
    assert not torch.allclose(before[1], model(x, edges, masked)[1])


@pytest.mark.parametrize("masked", [[2, 7], [], list(range(12))])
@pytest.mark.parametrize("scored", [[1, 2, 7], [], None])
def test_one_row_for_all_masked_changes_nothing(
    model: MaskedGraphAutoencoder, x: torch.Tensor, masked: list[int], scored: list[int] | None
) -> None:
    edges = Edges.from_adjacency(ring(12))
    hidden = among(*masked)[:, None]
    with torch.no_grad():
        for part in model.parameters():
            part += 0.1
    embeddings = model.encode(torch.where(hidden, model.mask_token, x), edges)
    which = None if scored is None else among(*scored)
    found = model(x, edges, among(*masked), which)
    parts = zip(found, model.decoders, model.remask_tokens, embeddings, strict=True)
    for ours, decoder, token, embedding in parts:
        expected = decoder(torch.where(hidden, token, embedding), edges)
        torch.testing.assert_close(ours, expected if which is None else expected[which])
        ours.sum().backward(retain_graph=True)


@pytest.mark.parametrize("loss_exponent", [1.0, 2.0])
def test_loss_is_equation_10(loss_exponent: float, x: torch.Tensor) -> None:
    model = MaskedGraphAutoencoder(6, replace(SMALL, loss_exponent=loss_exponent))
    edges = Edges.from_adjacency(ring(12))
    masked = among(0, 3, 5)
    found = model(x, edges, masked)
    z = [part.detach().numpy().astype(float) for part in found]
    expected = reference.scaled_cosine_error(x.numpy().astype(float), z, [0, 3, 5], loss_exponent)
    error = model.error(found[:, masked], x[masked]).item()
    assert error / 3 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss_exponent", [1.0, 2.0, 3.5])
def test_gradient_of_the_error(loss_exponent: float, rng: np.random.Generator) -> None:
    model = MaskedGraphAutoencoder(6, replace(SMALL, loss_exponent=loss_exponent))
    found = torch.tensor(rng.normal(size=(2, 12, 6)), requires_grad=True)
    target = torch.tensor(rng.normal(size=(12, 6)))
    assert torch.autograd.gradcheck(lambda found: model.error(found, target), found)
    # Nothing, and the target itself: the two ends of what a cosine can be.
    ends = torch.stack([torch.zeros(12, 6), target.float()]).requires_grad_()
    model.error(ends, target.float()).backward()
    assert ends.grad is not None
    assert torch.isfinite(ends.grad).all()


def test_mean_squared_error_and_no_masking(x: torch.Tensor) -> None:
    model = MaskedGraphAutoencoder(
        6, AutoencoderParams(scale_dims=(4,), hidden_dim=8, n_heads=2, loss_exponent=None)
    )
    edges = Edges.from_adjacency(ring(12))
    found = model(x, edges, among())
    expected = ((found[0] - x) ** 2).mean().item()
    assert model.error(found, x).item() / 12 == pytest.approx(expected, rel=1e-5)


def test_every_parameter_learns(model: MaskedGraphAutoencoder, x: torch.Tensor) -> None:
    masked = among(0, 3, 5)
    edges = Edges.from_adjacency(ring(12))
    model.error(model(x, edges, masked, masked), x[masked]).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None]
    assert still == []


def test_save_and_load(
    model: MaskedGraphAutoencoder, rng: np.random.Generator, tmp_path: Path
) -> None:
    features = rng.normal(size=(12, 6))
    model.feature_scale.fill_(2.5)
    model.save(tmp_path / "model.safetensors")
    loaded = MaskedGraphAutoencoder.load(tmp_path / "model.safetensors")
    assert loaded.params == model.params
    for found, expected in zip(
        loaded.transform(features, ring(12)), model.transform(features, ring(12)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_save_keeps_the_old_file_when_it_fails(
    model: MaskedGraphAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Expected a safetensors file at"):
        MaskedGraphAutoencoder.load(tmp_path / "absent")
    (tmp_path / "foreign").write_bytes(b"not a model, but long enough to have a header")
    with pytest.raises(ValueError, match="Expected a safetensors file written by m2ST"):
        MaskedGraphAutoencoder.load(tmp_path / "foreign")


def test_load_refuses_a_damaged_file_and_another_format(
    model: MaskedGraphAutoencoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"found it damaged \(another checksum\)\. Delete it"):
        MaskedGraphAutoencoder.load(path)
    with monkeypatch.context() as other:
        other.setattr("m2st._tensors._FORMAT", 3)
        model.save(path)
    with pytest.raises(ValueError, match=r"a file of format 2 in .*, found 3, of m2ST"):
        MaskedGraphAutoencoder.load(path)


def test_load_refuses_a_checkpoint(tmp_path: Path, rng: np.random.Generator) -> None:
    from m2st._nn._training import train

    train(rng.normal(size=(12, 6)), ring(12), SMALL, checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="Expected a saved m2ST model"):
        MaskedGraphAutoencoder.load(tmp_path / "state")


def test_load_refuses_a_truncated_file(model: MaskedGraphAutoencoder, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model.save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="Expected a safetensors file written by m2ST"):
        MaskedGraphAutoencoder.load(path)


def test_transform_refuses_other_features(
    model: MaskedGraphAutoencoder, rng: np.random.Generator
) -> None:
    with pytest.raises(ValueError, match=r"Expected the 6 features .* found 5"):
        model.transform(rng.normal(size=(12, 5)), ring(12))
    with pytest.raises(ValueError, match=r"Expected `adjacency` of shape \(12, 12\)"):
        model.transform(rng.normal(size=(12, 6)), ring(11))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_transform_in_parts_gives_the_same(n_layers: int, rng: np.random.Generator) -> None:
    """Each part sees its exact neighbourhood, isolated observations and small islands included."""
    graph = sparse.block_diag([ring(200), sparse.csr_matrix((3, 3)), ring(4)], format="csr")
    graph = (graph + graph @ graph > 0).astype(np.float32)
    graph.setdiag(0)
    features = rng.normal(size=(207, 6))
    model = MaskedGraphAutoencoder(6, replace(SMALL, n_layers=n_layers))
    whole = model.transform(features, graph)
    for batch_size in (1, 16, 100):
        model.params = replace(model.params, batch_size=batch_size)
        for one, other in zip(whole, model.transform(features, graph), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_transform_keeps_the_mode(model: MaskedGraphAutoencoder, rng: np.random.Generator) -> None:
    model.train()
    model.transform(rng.normal(size=(12, 6)), ring(12))
    assert model.training


def test_own_torch_restores() -> None:
    before = torch.get_num_threads()
    with own_torch():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
