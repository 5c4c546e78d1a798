from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from tests.test_autoencoder import ring

from m2st import AutoencoderParams, MultiScaleClustering
from m2st._nn._edges import Edges
from m2st._nn._training import _Run, choose_device, train

PARAMS = AutoencoderParams(
    scale_dims=(8, 4), hidden_dim=8, n_heads=2, n_epochs=12, feature_dropout=0.1, min_delta=0
)


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(40, 6)).astype(np.float32)


def test_loss_falls_on_structured_features(rng: np.random.Generator) -> None:
    centers = rng.normal(size=(2, 10))
    x = centers[np.repeat([0, 1], 60)] + 0.1 * rng.normal(size=(120, 10))
    params = AutoencoderParams(scale_dims=(8, 4), hidden_dim=16, n_epochs=80)
    result = train(x, ring(120), params, random_state=1)
    assert result.loss[-5:].mean() < 0.5 * result.loss[:5].mean()
    assert [e.shape for e in result.embeddings] == [(120, 8), (120, 4)]
    assert all(e.dtype == np.float32 for e in result.embeddings)


def test_same_seed_same_bits(features: np.ndarray) -> None:
    runs = [train(features, ring(40), PARAMS, random_state=seed) for seed in (3, 3, 4)]
    for first, same, other in zip(*(run.embeddings for run in runs), strict=True):
        np.testing.assert_array_equal(first, same)
        assert not np.array_equal(first, other)
    np.testing.assert_array_equal(runs[0].loss, runs[1].loss)


def test_callers_random_states_and_threads_are_untouched(features: np.ndarray) -> None:
    random.seed(1)
    torch.random.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    threads = torch.get_num_threads()
    train(features, ring(40), PARAMS)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == threads


def test_unit_of_the_features_does_not_matter(features: np.ndarray) -> None:
    one = train(features, ring(40), PARAMS)
    # A power of two scales floating-point numbers without rounding.
    other = train(features * 2.0**20, ring(40), PARAMS)
    np.testing.assert_array_equal(one.embeddings[0], other.embeddings[0])


def test_isolated_observation_is_embedded(features: np.ndarray) -> None:
    result = train(features, sparse.csr_matrix((40, 40)), PARAMS)
    assert all(np.isfinite(e).all() for e in result.embeddings)


@pytest.mark.parametrize("n_obs", [1, 2])
def test_tiny_data(n_obs: int) -> None:
    result = train(np.ones((n_obs, 3)), sparse.csr_matrix((n_obs, n_obs)), PARAMS)
    assert result.embeddings[0].shape == (n_obs, 8)


def test_features_of_zero() -> None:
    result = train(np.zeros((10, 3)), ring(10), PARAMS)
    assert np.isfinite(result.embeddings[0]).all()


def test_stops_when_settled(features: np.ndarray) -> None:
    params = AutoencoderParams(
        scale_dims=(4,), hidden_dim=8, n_epochs=5000, patience=10, min_delta=0.2
    )
    result = train(features, ring(40), params)
    assert result.stopped == "converged"
    assert 20 <= len(result.loss) < 5000
    before, last = result.loss[-20:-10].mean(), result.loss[-10:].mean()
    assert last > 0.8 * before


def test_callback_sees_every_epoch_and_can_stop(features: np.ndarray) -> None:
    seen = []

    def callback(epoch: int, n_epochs: int, loss: float) -> bool:
        seen.append((epoch, n_epochs, loss))
        return epoch < 4

    result = train(features, ring(40), PARAMS, callback=callback)
    assert result.stopped == "interrupted"
    assert [(epoch, total) for epoch, total, _ in seen] == [(i, 12) for i in range(1, 5)]
    assert [loss for *_, loss in seen] == result.loss.tolist()


def test_exception_in_the_callback_passes(features: np.ndarray) -> None:
    def callback(*_: object) -> None:
        msg = "no more"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no more"):
        train(features, ring(40), PARAMS, callback=callback)


def test_keyboard_interrupt_leaves_a_marked_result(
    features: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(epoch: int, *_: object) -> None:
        if epoch == 7:
            os.kill(os.getpid(), signal.SIGINT)

    path = tmp_path / "state"
    result = train(
        features, ring(40), PARAMS, callback=callback, checkpoint=path, checkpoint_every=5
    )
    assert result.stopped == "interrupted"
    assert len(result.loss) == 7
    assert np.isfinite(result.embeddings[0]).all()
    assert "interrupted after 7 of 12 epochs" in caplog.text
    resumed = train(features, ring(40), PARAMS, checkpoint=path)
    undisturbed = train(features, ring(40), PARAMS)
    assert resumed.stopped == "finished"
    np.testing.assert_array_equal(resumed.loss, undisturbed.loss)
    np.testing.assert_array_equal(resumed.embeddings[0], undisturbed.embeddings[0])


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), ValueError()])
def test_interrupt_within_compiled_code(features: np.ndarray, cause: BaseException) -> None:
    """Compiled code turns what a signal handler raises into a SystemError with that cause."""

    def callback(*_: object) -> None:
        msg = "returned a result with an exception set"
        raise SystemError(msg) from cause

    if isinstance(cause, KeyboardInterrupt):
        assert train(features, ring(40), PARAMS, callback=callback).stopped == "interrupted"
    else:
        with pytest.raises(SystemError, match="with an exception set"):
            train(features, ring(40), PARAMS, callback=callback)


@pytest.mark.dist
def test_checkpoint_of_a_killed_process_resumes_to_the_same_bits(
    features: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "state"
    np.save(tmp_path / "features.npy", features)
    code = (
        "import os, sys, numpy as np; from m2st._nn._training import train;"
        "from tests.test_training import PARAMS, ring;"
        "train(np.load(sys.argv[1]), ring(40), PARAMS, checkpoint=sys.argv[2], checkpoint_every=1,"
        "callback=lambda epoch, *_: os._exit(9) if epoch == 6 else None)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "features.npy", path],
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert killed.returncode == 9
    resumed = train(features, ring(40), PARAMS, checkpoint=path)
    undisturbed = train(features, ring(40), PARAMS)
    np.testing.assert_array_equal(resumed.loss, undisturbed.loss)
    np.testing.assert_array_equal(resumed.embeddings[1], undisturbed.embeddings[1])


def test_checkpoint_of_another_run_is_refused(features: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "state"
    train(features, ring(40), PARAMS, checkpoint=path)
    for other, seed in ((features + 1, 0), (features, 1)):
        with pytest.raises(ValueError, match=r"Expected .* to be a checkpoint of this run"):
            train(other, ring(40), PARAMS, random_state=seed, checkpoint=path)


def test_a_damaged_checkpoint_is_said(features: np.ndarray, tmp_path: Path) -> None:
    """Whatever bit it is: never another result."""
    path = tmp_path / "state"
    expected = train(features, ring(40), PARAMS, checkpoint=path).embeddings[0]
    whole = path.read_bytes()
    places = np.random.default_rng(0).integers(len(whole) * 8, size=60)
    for place in [*places, 8 * (len(whole) - 1), 8 * 8 + 3]:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = train(features, ring(40), PARAMS, checkpoint=path).embeddings[0]
        except ValueError as error:
            assert "Expected" in str(error)  # noqa: PT017
            assert "the training starts anew" in str(error)  # noqa: PT017
        else:  # a space of the header
            np.testing.assert_array_equal(found, expected)
            path.write_bytes(whole)


def test_a_checkpoint_of_another_version_is_refused(
    features: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    with monkeypatch.context() as other:
        other.setattr("m2st._tensors.version", lambda _: "0.0.9")
        train(features, ring(40), PARAMS, checkpoint=path)
    with pytest.raises(ValueError, match=r"found one of version 0\.0\.9 of m2ST, and this is"):
        train(features, ring(40), PARAMS, checkpoint=path)


def test_a_checkpoint_that_cannot_be_written_is_said_first(
    features: np.ndarray, tmp_path: Path
) -> None:
    def callback(*_: object) -> None:
        pytest.fail("trained")

    (tmp_path / "folder").mkdir()
    for name, error, message in (
        ("absent/state", FileNotFoundError, "Expected the folder"),
        ("a" * 300, OSError, "File name too long"),
        ("folder", ValueError, "a file or nothing at .*folder, found a folder"),
    ):
        with pytest.raises(error, match=message):
            train(features, ring(40), PARAMS, callback=callback, checkpoint=tmp_path / name)


def test_a_planted_link_is_not_followed(features: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("state.partial", "state.part", ".state.part"):
        (tmp_path / name).symlink_to(tmp_path / "precious")
    train(features, ring(40), PARAMS, checkpoint=tmp_path / "state")
    assert (tmp_path / "precious").read_text() == "mine"


def test_two_runs_with_one_checkpoint_end_alike(features: np.ndarray, tmp_path: Path) -> None:
    """Each writes under a name of its own, at every epoch of the other's."""

    def second(*_: object) -> None:
        train(features, ring(40), PARAMS, checkpoint=tmp_path / "state", checkpoint_every=1)

    found = train(
        features,
        ring(40),
        PARAMS,
        checkpoint=tmp_path / "state",
        checkpoint_every=1,
        callback=second,
    )
    np.testing.assert_array_equal(
        found.embeddings[0], train(features, ring(40), PARAMS).embeddings[0]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_bad_input(features: np.ndarray) -> None:
    broken = features.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 40 observations"):
        train(broken, ring(40), PARAMS)
    with pytest.raises(ValueError, match=r"found \(3, 3\)"):
        train(features, ring(3), PARAMS)
    one_way = sparse.csr_matrix(([1.0], ([0], [1])), shape=(40, 40))
    with pytest.raises(ValueError, match="to be symmetric, found 2 edges in one direction"):
        train(features, one_way, PARAMS)
    with pytest.raises(TypeError, match="scipy sparse matrix, found ndarray"):
        train(features, np.eye(40), PARAMS)
    for device in ("abacus", "cuda:99", 3):
        with pytest.raises(ValueError, match=r"use here, such as auto, cpu.*, found"):
            train(features, ring(40), PARAMS, device=device)  # type: ignore[arg-type]


@pytest.mark.parametrize(("factor", "found"), [(1e30, "e\\+30"), (1e-30, "e-30")])
def test_features_of_extreme_size_are_refused(
    features: np.ndarray, factor: float, found: str
) -> None:
    with pytest.raises(ValueError, match=rf"between 1e-15 and 1e\+15 in size, .*{found}\. Give"):
        train(features * factor, ring(40), PARAMS)


def test_loss_that_is_not_finite_is_an_error(features: np.ndarray) -> None:
    # An angle of more than 90 degrees counts more than once, here to a power beyond all numbers.
    params = replace(PARAMS, loss_exponent=1e4)
    with pytest.raises(FloatingPointError, match=r"became inf in epoch 1\. Lower `learning_rate`"):
        train(features, ring(40), params)


def test_device_is_chosen_when_called() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert choose_device().type == expected
    assert choose_device("cpu").type == "cpu"


def sheet(n_side: int) -> sparse.csr_matrix:
    """Square lattice."""
    path = sparse.diags([1.0, 1.0], [-1, 1], shape=(n_side, n_side))
    return sparse.csr_matrix(sparse.kronsum(path, path))


def planted(n_side: int, rng: np.random.Generator) -> np.ndarray:
    """Features of three bands on a square lattice."""
    bands = np.repeat(np.arange(n_side) * 3 // n_side, n_side)
    return rng.normal(size=(3, 6))[bands] + rng.normal(size=(n_side**2, 6))


def test_in_parts_each_epoch_scores_what_the_whole_graph_would(rng: np.random.Generator) -> None:
    """The error of the sampled parts is that of the same observations in the whole graph."""
    features, graph = planted(30, rng), sheet(30)
    params = replace(PARAMS, feature_dropout=0.0, batch_size=240)
    run = _Run(features.astype(np.float32), graph, params, 0, torch.device("cpu"))
    assert run.edges is None
    nodes = run.graph.merged(run.graph.sampled(0, 0))
    masked = run.draw_mask()
    scored = nodes[masked[nodes]]
    edges = Edges.from_adjacency(run.graph.adjacency)
    with torch.no_grad():
        found = run.model(run.x, edges, torch.from_numpy(masked))
        error = run.model.error(found[:, scored], run.x[scored])
        expected = error / len(scored)
    assert run.epoch() == pytest.approx(float(expected), rel=1e-5)


def test_in_parts_the_same_domains_are_learned(rng: np.random.Generator) -> None:
    features, graph = planted(40, rng), sheet(40)
    params = AutoencoderParams(scale_dims=(16, 8), hidden_dim=32, n_epochs=60)
    runs = [train(features, graph, replace(params, batch_size=size)) for size in (10_000, 400)]
    labels = [
        MultiScaleClustering(3).fit(run.embeddings, connectivities=graph).labels_ for run in runs
    ]
    assert adjusted_rand_score(*labels) >= 0.95


def test_in_parts_checkpoints_resume_to_the_same_bits(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    features, graph = planted(20, rng), sheet(20)
    params = replace(PARAMS, batch_size=100)
    undisturbed = train(features, graph, params)
    train(
        features,
        graph,
        params,
        checkpoint=tmp_path / "state",
        callback=lambda epoch, *_: epoch < 5,
    )
    resumed = train(features, graph, params, checkpoint=tmp_path / "state")
    np.testing.assert_array_equal(undisturbed.loss, resumed.loss)
    for one, other in zip(undisturbed.embeddings, resumed.embeddings, strict=True):
        np.testing.assert_array_equal(one, other)


DISTRIBUTED = """
import sys
from datetime import timedelta
import numpy as np
from scipy import sparse
from torch import distributed
from m2st import AutoencoderParams
from m2st._nn._training import train

data, out = sys.argv[1:]
distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
arrays = np.load(data)
graph = sparse.csr_matrix((np.ones(len(arrays["j"])), arrays["j"], arrays["i"]))
params = AutoencoderParams(scale_dims=(16, 8), hidden_dim=32, n_epochs=20, batch_size=400)
result = train(arrays["x"], graph, params)
np.savez(f"{out}{distributed.get_rank()}.npz", *result.embeddings, loss=result.loss)
distributed.destroy_process_group()
"""


@pytest.mark.dist
def test_two_processes_learn_what_one_does(rng: np.random.Generator, tmp_path: Path) -> None:
    """Real processes with a gradient averaged by DistributedDataParallel over gloo."""
    features, graph = planted(40, rng).astype(np.float32), sheet(40)
    np.savez(tmp_path / "data.npz", x=features, i=graph.indptr, j=graph.indices)
    (tmp_path / "script.py").write_text(DISTRIBUTED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, tmp_path / "script.py", tmp_path / "data.npz", tmp_path / "out"],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    params = AutoencoderParams(scale_dims=(16, 8), hidden_dim=32, n_epochs=20, batch_size=400)
    alone = train(features, graph, params)
    together = [np.load(tmp_path / f"out{rank}.npz") for rank in (0, 1)]
    for one, other in zip(together[0].values(), together[1].values(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(together[0]["loss"], alone.loss, rtol=1e-4)
    for scale, embedding in enumerate(alone.embeddings):
        np.testing.assert_allclose(together[0][f"arr_{scale}"], embedding, atol=1e-3)


def test_more_processes_than_parts_are_refused(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2st._nn._training.process", lambda: (0, 9))
    with pytest.raises(ValueError, match=r"Expected at most 8 processes, .* found 9\. Start fewer"):
        train(planted(20, rng), sheet(20), replace(PARAMS, batch_size=100))
