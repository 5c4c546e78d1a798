"""What a session has set is as before after a call, and changes no bit of a result."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numba
import numpy as np
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from matplotlib import pyplot as plt
from scipy import sparse
from threadpoolctl import threadpool_info

import m2st
from m2st._nn._training import train

SETTINGS = m2st.AutoencoderParams(n_members=1, n_epochs=3)


def counts() -> AnnData:
    places = np.array([[x, y] for x in range(10) for y in range(8)], dtype=float)
    rates = 1 + 2.0 * (places[:, :1] > 4)
    expression = np.random.default_rng(0).poisson(rates, (80, 30)).astype(np.float32)
    return AnnData(expression, obsm={"spatial": places})


@pytest.fixture(scope="module")
def result() -> AnnData:
    adata = counts()
    m2st.run(adata, 2, autoencoder=SETTINGS, progress=False)
    return adata


def state() -> dict[str, Any]:
    """All that a session may have set, as far as there is a way to see it."""
    numpy_stream = np.random.get_state()  # noqa: NPY002
    root = logging.getLogger()
    return {
        "warnings": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "python's stream": random.getstate(),
        "numpy's stream": (numpy_stream[1].tolist(), *numpy_stream[2:]),
        "numpy's errors": np.geterr(),
        "torch's stream": torch.get_rng_state().tolist(),
        "torch's dtype": torch.get_default_dtype(),
        "torch's device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "precision": torch.get_float32_matmul_precision(),
        "threads": [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()],
        "torch's threads": torch.get_num_threads(),
        "numba": (numba.get_num_threads(), numba.config.CACHE_DIR),
        "matplotlib": (dict(mpl.rcParams), mpl.get_backend(), plt.get_fignums()),
        "logging": (root.level, list(root.handlers), logging.root.manager.disable),
        "scanpy": (sc.settings.verbosity, sc.settings.n_jobs),
        "environment": dict(os.environ),
        "interrupts": signal.getsignal(signal.SIGINT),
        "hooks": (sys.excepthook, sys.displayhook),
        "folder": Path.cwd(),
    }


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    before = state()
    try:
        yield
    finally:
        after = state()
        assert [key for key in before if before[key] != after[key]] == []


class Stop(Exception):
    """Raised in the middle of a run."""


def stop(*_: object) -> None:
    raise Stop


def run(adata: AnnData, folder: Path, **settings: Any) -> None:
    m2st.run(adata, 2, autoencoder=SETTINGS, progress=False, **settings)


CALLS: dict[str, Callable[[AnnData, Path], object]] = {
    "run": run,
    "choose": lambda adata, _: m2st.tl.choose_n_domains(adata, range(2, 3)),
    "domains": lambda adata, _: m2st.pl.domains(adata),
    "training": lambda adata, _: m2st.pl.training(adata),
    "weights": lambda adata, _: m2st.pl.scale_weights(adata),
    "report": lambda adata, folder: m2st.report(adata, folder / "report.html"),
    "write": lambda adata, folder: m2st.io.write(adata, folder / "result.h5ad"),
}


@pytest.mark.parametrize("name", CALLS)
def test_state_is_as_before(name: str, result: AnnData, tmp_path: Path) -> None:
    CALLS[name](result.copy(), tmp_path)  # what is imported at the first call stays so
    (tmp_path / "again").mkdir()
    with unchanged():
        CALLS[name](result.copy(), tmp_path / "again")


def test_state_is_as_before_after_an_error_in_the_middle(tmp_path: Path) -> None:
    with unchanged(), pytest.raises(Stop):
        run(counts(), tmp_path, callback=stop)


@contextlib.contextmanager
def _dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


@contextlib.contextmanager
def _precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SESSIONS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: _dtype(torch.float64),
    "float16": lambda: _dtype(torch.float16),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "deterministic": _deterministic,
    "bfloat16 by itself": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "low precision": _precision,
    "another device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_what_torch_is_set_to_changes_no_bit(name: str) -> None:
    features = np.random.default_rng(1).normal(size=(60, 6)).astype(np.float32)
    graph = sparse.csr_matrix(np.eye(60, k=1) + np.eye(60, k=-1))
    expected = train(features, graph, SETTINGS)
    with SESSIONS[name](), unchanged():
        found = train(features, graph, SETTINGS)
        again = found.model.transform(features, graph)
    with SESSIONS[name](), unchanged(), pytest.raises(Stop):
        train(features, graph, SETTINGS, callback=stop)
    np.testing.assert_array_equal(found.loss, expected.loss)
    for ours, others, theirs in zip(found.embeddings, again, expected.embeddings, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(others, theirs)


def test_what_torch_is_set_to_changes_no_model(tmp_path: Path) -> None:
    m2st.MaskedGraphAutoencoder(4).save(tmp_path / "model.safetensors")
    with _dtype(torch.float64), torch.inference_mode():
        made = m2st.MaskedGraphAutoencoder(4)
        read = m2st.MaskedGraphAutoencoder.load(tmp_path / "model.safetensors")
    for model in (made, read):
        assert {part.dtype for part in model.parameters()} == {torch.float32}
        assert not any(part.is_inference() for part in model.parameters())
