"""Results that a change of structure must keep, bit for bit: `python -m tests.golden` writes them.

Five inputs in Python, of which the first is also given to the command line and to R. The bits hold
for one processor and one set of libraries; the entry ``platform`` says for which the file was
written. Elsewhere the domains must be the same, and the numbers close.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import warnings
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from scipy import sparse
from scipy.io import mmwrite

import m2st

FILE = Path(__file__).with_suffix(".json")
N_DOMAINS = 5
AUTOENCODER = {"n_members": 2, "n_epochs": 30}
CLUSTERING = {"n_init": 3}
RELEASES = ("0.1",)
_LIBRARIES = ("llvmlite", "numba", "numpy", "scanpy", "scikit-learn", "scipy", "torch")


def processor() -> str:
    """What compilers and BLAS choose their instructions by."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    kinds = {line for line in lines if line.startswith(("model name", "flags"))}
    asked = os.environ.get("OPENBLAS_CORETYPE", "")
    return hashlib.sha256("\n".join([*sorted(kinds), asked]).encode()).hexdigest()[:16]


def this_platform() -> dict[str, str]:
    """What the bits of a result depend on."""
    return {
        "processor": processor(),
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def visium() -> ad.AnnData:
    """Spots on a hexagonal array."""
    return m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)


def _bands(places: np.ndarray, seed: int) -> ad.AnnData:
    """Counts of 80 genes, of which some tell four bands of the tissue apart."""
    rng = np.random.default_rng(seed)
    effects = np.exp(rng.normal(0, 1, (4, 80)) * (rng.random((4, 80)) < 0.3))
    bands = np.digitize(places[:, 0] / np.ptp(places[:, 0]), [0.2, 0.45, 0.8])
    counts = rng.poisson(1.5 * effects[bands]).astype(np.float32)
    return ad.AnnData(counts, obsm={"spatial": places})


def square() -> ad.AnnData:
    """Spots on a square array."""
    places = np.array([[x, y] for x in range(18) for y in range(14)], dtype=float)
    return _bands(places, 1)


def cells() -> ad.AnnData:
    """Cells at irregular places."""
    return _bands(np.random.default_rng(2).uniform(0, 100, (260, 2)), 2)


def sections() -> ad.AnnData:
    """Two sections in frames of their own."""
    both = ad.concat({"A": square()[:120], "B": cells()[:140]}, label="section", index_unique="-")
    away = 1e4 * (both.obs["section"] == "B").to_numpy()
    both.obsm["spatial"] = both.obsm["spatial"] + away[:, None]
    return both


def ready() -> ad.AnnData:
    """Forty ready features of cells."""
    adata = cells()
    rng = np.random.default_rng(3)
    signal = np.log1p(adata.X) @ rng.normal(size=(adata.n_vars, 6))
    noise = rng.normal(size=(adata.n_obs, 40))
    adata.obsm["X_ready"] = np.hstack([signal, np.zeros((adata.n_obs, 34))]) + noise
    return adata


INPUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "visium": (visium, {}),
    "square": (square, {}),
    "cells": (cells, {}),
    "sections": (sections, {"sample_key": "section"}),
    "use_rep": (ready, {"use_rep": "X_ready"}),
}


def in_python(name: str) -> ad.AnnData:
    """Run one of the inputs."""
    make, settings = INPUTS[name]
    adata: ad.AnnData = make()
    with warnings.catch_warnings():  # the two sections share little, and are told so
        warnings.filterwarnings("ignore", "Sections A and B keep", UserWarning)
        m2st.run(
            adata,
            N_DOMAINS,
            autoencoder=m2st.AutoencoderParams(**AUTOENCODER),
            clustering=m2st.ClusteringParams(**CLUSTERING),
            progress=False,
            **settings,
        )
    return adata


def as_in(release: str) -> ad.AnnData:
    """Run the first input with the settings that a release takes by default."""
    settings = m2st.defaults(release, N_DOMAINS)
    adata = visium()
    m2st.run(
        adata,
        N_DOMAINS,
        autoencoder=replace(settings.autoencoder, **AUTOENCODER),
        clustering=replace(settings.clustering, **CLUSTERING),
        progress=False,
    )
    return adata


def on_the_command_line(folder: Path) -> ad.AnnData:
    """Run the first input as `m2st run` does, with the command's own defaults otherwise."""
    visium().write_h5ad(folder / "in.h5ad")
    words = ["run", folder / "in.h5ad", "-k", N_DOMAINS, "-o", folder / "out.h5ad", "--members", 2]
    call = "from m2st.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", call, *map(str, [*words, "--epochs", 30, "--quiet"])], check=True
    )
    return m2st.io.read(folder / "out.h5ad")


def in_r(folder: Path) -> dict[str, Any]:
    """Run the first input from R, on a sparse matrix; what R holds afterwards."""
    adata = visium()
    mmwrite(folder / "counts.mtx", sparse.csc_matrix(adata.X.T))
    np.savetxt(folder / "places.txt", adata.obsm["spatial"], fmt="%.17g")
    script = f"""
        counts <- as(Matrix::readMM("{folder}/counts.mtx"), "CsparseMatrix")
        rownames(counts) <- paste0("g", seq_len(nrow(counts)))
        colnames(counts) <- paste0("s", seq_len(ncol(counts)))
        places <- as.matrix(read.table("{folder}/places.txt"))
        found <- m2st::runM2ST(counts, places, k = {N_DOMAINS},
            params = m2st::m2stParams(n_members = 2, n_epochs = 30, n_init = 3), verbose = FALSE)
        writeLines(as.character(found$domain), "{folder}/domains.txt")
        writeBin(found$confidence, "{folder}/confidence.bin")
    """
    subprocess.run(["Rscript", "--vanilla", "-e", script], check=True)
    confidence = np.fromfile(folder / "confidence.bin")
    return {
        "domains": (folder / "domains.txt").read_text().replace("\n", ""),
        "mean_confidence": float(confidence.mean()),
        "digests": {"confidence": digest(confidence)},
    }


def digest(*values: Any) -> str:
    """Digest of arrays, types and shapes included."""
    found = hashlib.sha256()
    for value in values:
        array = np.ascontiguousarray(value)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def summary(adata: ad.AnnData) -> dict[str, Any]:
    """Domains as a text, and digests of all that a run computes."""
    domain = adata.obs["m2st_domain"].cat.codes.to_numpy()
    arrays = {
        key: digest(np.asarray(adata.obsm[key])) for key in sorted(adata.obsm) if "m2st" in key
    }
    graph = adata.obsp["spatial_connectivities"].tocsr()
    confidence = adata.obs["m2st_confidence"].to_numpy()
    return {
        "domains": "".join(map(str, domain + 1)),
        "mean_confidence": float(np.nanmean(confidence)),
        "digests": {
            "graph": digest(graph.indices, graph.indptr),
            **arrays,
            "confidence": digest(confidence),
        },
    }


def record(folder: Path) -> dict[str, Any]:
    """All results, by input and door."""
    found = {name: summary(in_python(name)) for name in INPUTS}
    found |= {release: summary(as_in(release)) for release in RELEASES}
    command = summary(on_the_command_line(folder))
    return {"platform": this_platform(), **found, "command": command, "R": in_r(folder)}


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        FILE.write_text(json.dumps(record(Path(name)), indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"Wrote {FILE}\n")
