"""Files that are damaged or mean harm: an error in our words or a right result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from tests import hostile

from m2st import MaskedGraphAutoencoder, _trust, io, pp

CORPUS = hostile.corpus("mark")
REFUSED = {
    "h5ad external link": "x is a link to another file",
    "h5ad soft to external": "is a link to another file",
    "h5ad external values": "has its values in another file",
    "h5ad virtual": "has its values in another file",
    "h5ad references": "holds references",
    "h5ad plugin": "needs the HDF5 plugin",
    "h5ad hard loop": "leads back to a group that it is in",
    "h5ad laughs": "more than 100,000 elements",
    "h5ad petabytes": r"unpacks to .* GB",
    "zarr 3 pickle": r"the codec numcodecs\.pickle in X/data/zarr\.json runs code",
    "zarr 3 pickle in a shard": "runs code when it is read",
    "zarr 3 pickle in the summary": "runs code when it is read",
    "zarr 2 pickle": r"the codec pickle in uns/text/\.zarray runs code",
    "zarr 2 pickle in the summary": "runs code when it is read",
    "zarr 3 petabytes": r"unpack to .* GB",
    "zarr 3 link out": "is a link out of it",
    "zarr 3 pipe": "is no ordinary file",
    "SpatialData pickle in an image": "runs code when it is read",
    "Space Ranger gigapixels": r"unpack to 57\.6 GB",
    "Space Ranger text, unpacks to much": r"MB unpack to",
    "Space Ranger text, shape too large": r"unpack to",
}
DAMAGED = {
    "h5ad index too large, X": r"valid sparse matrix in `X in .*x\.h5ad`",
    "h5ad ends that fall, obsp graph": "valid sparse matrix in `obsp/graph in",
    "h5ad index negative, raw X": "valid sparse matrix in `raw/X in",
    "h5ad index too large, uns matrix": "valid sparse matrix in `uns/matrix in",
    "zarr 3 index too large": "valid sparse matrix in `X in",
    "zarr 3 graph's index too large": "valid sparse matrix in `obsp/graph in",
    "Space Ranger index too large": r"valid sparse matrix in `matrix in .*matrix\.h5`",
    "h5ad ends of floats": "its indices are no whole numbers",
    "zarr 3 deep": r"uns/zarr\.json is damaged",
    "h5ad shape of fewer": "Expected an h5ad file",
    "h5ad codes too large": "Expected an h5ad file",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_harm_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    path = CORPUS[name](tmp_path / "x")
    with pytest.raises(ValueError, match=rf"safely.*{REFUSED[name]}.*`trust=True`, or `--trust`"):
        io.read(path)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=DAMAGED[name]):
        io.read(CORPUS[name](tmp_path / "x"))


@pytest.mark.parametrize("name", ["wide", "many layers", "many features"])
def test_a_model_is_no_larger_than_its_file(name: str, tmp_path: Path) -> None:
    path = CORPUS[f"model {name}"](tmp_path / "x")
    with pytest.raises(ValueError, match="its settings ask for a larger network than it holds"):
        MaskedGraphAutoencoder.load(path)


def test_what_is_trusted_is_read_as_it_is(tmp_path: Path) -> None:
    path = CORPUS["h5ad external values"](tmp_path / "x")
    np.testing.assert_array_equal(io.read(path, trust=True).obsm["outside"], np.zeros((6, 1)))


def test_a_matrix_left_in_a_damaged_file_is_checked(tmp_path: Path) -> None:
    path = CORPUS["h5ad ends that fall, X"](tmp_path / "x")
    with pytest.raises(ValueError, match="`indptr` of /X does not fit its shape"):
        io.read(path, backed=True)
    path = CORPUS["h5ad index too large, X"](tmp_path / "y")
    adata = io.read(path, backed=True)
    with pytest.raises(ValueError, match="Expected a valid sparse matrix"):
        pp.prepare(adata, n_pcs=2)


def test_large_counts_are_read(tmp_path: Path) -> None:
    # One of 1,600 values is not zero: a hundred times smaller in the file, which is ordinary.
    counts = np.zeros((20_000, 1000), dtype=np.float32)
    counts[::50, ::33] = 1
    path = tmp_path / "x.h5ad"
    ad.AnnData(counts).write_h5ad(path, compression="gzip")
    assert counts.nbytes > 100 * path.stat().st_size
    assert io.read(path).shape == counts.shape


def test_a_file_that_ends_the_process_gives_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, crash = tmp_path / "x.h5ad", tmp_path / "crash.py"
    ad.AnnData(np.ones((2, 2))).write_h5ad(path)
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(_trust, "_TRIAL", crash)
    with pytest.raises(ValueError, match=r"x\.h5ad.*reading it ends the process, with status -11"):
        io.read(path)
    crash.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(_trust, "_PATIENCE", 0.1)
    with pytest.raises(ValueError, match="reading it does not end within 0 seconds"):
        io.read(path)


def test_what_a_trial_takes_of_memory_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2**28,), "f8", chunks=(2**28,), compression="gzip")[:1] = 1
    with pytest.raises(_trust.Untrusted, match=r"unpacks to 2\.1 GB"):
        _trust.check_hdf5(path)


def test_memory_that_does_not_suffice_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(io, "_read_store", fail)
    path = tmp_path / "x.h5ad"
    ad.AnnData(np.ones((2, 2))).write_h5ad(path)
    with pytest.raises(MemoryError, match=r"Expected data that fit into memory.*`backed=True`"):
        io.read(path)


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "tests.hostile", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_no_hostile_file_does_harm() -> None:
    assert "wrong" not in run()
