"""One engine behind three doors: Python, the command line and R."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from typer.testing import CliRunner

import m2st
from m2st import bridge
from m2st.cli import app

QUICK = {"n_members": 1, "n_epochs": 2, "hidden_dim": 8, "scale_dims": (4,)}


def section() -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (60, 12)).astype(np.float32)
    places = np.array([[x, y] for x in range(10) for y in range(6)], dtype=float)
    return AnnData(sparse.csr_matrix(counts), obsm={"spatial": places})


def in_python(adata: AnnData, n_domains: int, device: str) -> str:
    params = m2st.AutoencoderParams(**QUICK)
    with pytest.raises((ValueError, KeyError, TypeError)) as found:
        m2st.run(adata, n_domains, autoencoder=params, device=device, progress=False)
    return str(found.value.args[0])


def on_the_command_line(adata: AnnData, n_domains: int, device: str, folder: Path) -> str:
    adata.write_h5ad(folder / "in.h5ad")
    words = ["run", str(folder / "in.h5ad"), "-k", str(n_domains), "-o", str(folder / "out.h5ad")]
    done = CliRunner().invoke(app, [*words, "--device", device, "--quiet"])
    assert done.exit_code == 1
    return done.stderr.strip().removeprefix("m2st: ")


def in_r(adata: AnnData, n_domains: int, device: str) -> str:
    request: dict[str, Any] = {
        "shape": list(adata.shape),
        "data": bytearray(adata.X.data.tobytes()),
        "indices": bytearray(adata.X.indices.astype(np.int32).tobytes()),
        "indptr": bytearray(adata.X.indptr.astype(np.int32).tobytes()),
        "coordinates": bytearray(adata.obsm["spatial"].tobytes(order="F")),
        "n_axes": 2,
        "n_domains": n_domains,
        "random_state": 0,
        "device": device,
        "every": 1,
    }
    return str(bridge.run(request)["error"])


def negative(adata: AnnData) -> AnnData:
    adata.X.data[0] = -1
    return adata


@pytest.mark.parametrize(
    ("change", "n_domains", "device", "message"),
    [
        (lambda adata: adata, 61, "cpu", "no more `n_domains` than observations, 60, found 61"),
        (lambda adata: adata, 0, "cpu", "Expected `n_domains` to be at least 1, found 0"),
        (lambda adata: adata, 2, "abacus", "abacus"),
        (negative, 2, "cpu", "found values down to -1"),
    ],
)
def test_what_is_wrong_is_said_alike_at_every_door(
    change: Any, n_domains: int, device: str, message: str, tmp_path: Path
) -> None:
    python = in_python(change(section()), n_domains, device)
    assert message in python
    # Advice names arguments of Python, options of the command line, or is left out in R.
    first = re.split(r"(?<=[.])\s", python)[0]
    command = on_the_command_line(change(section()), n_domains, device, tmp_path)
    assert command.startswith(first)
    in_words_of_r = first.replace("n_domains", "k").replace("observations", "spots")
    assert in_r(change(section()), n_domains, device).startswith(in_words_of_r)


def test_without_a_number_of_domains_it_embeds() -> None:
    adata = section()
    m2st.run(adata, None, autoencoder=m2st.AutoencoderParams(**QUICK), progress=False)
    assert "X_m2st_scale1" in adata.obsm
    assert "m2st_domain" not in adata.obs
    m2st.tl.cluster(adata, 2)
    assert "m2st_domain" in adata.obs
