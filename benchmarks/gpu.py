"""A graphics card against the CPU: agreement, the same bits twice, and speed, in under ten minutes.

    python -m benchmarks.gpu              # writes gpu.md beside this file
    python -m benchmarks.gpu --dry        # the CPU against itself, a small section; writes nothing

* agreement: the embeddings of one trained network on both, and the domains of whole runs with the
  same seed on both (adjusted Rand index; two seeds on the CPU beside it)
* bits: whether the same training twice on the card gives the same embeddings
* speed: an epoch, the embedding of all observations, and a whole run

Sections are simulated (`benchmarks.scale.section`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import torch

import m2st
from benchmarks.scale import N_DOMAINS, section
from benchmarks.stamp import born, stamp
from m2st._keys import Keys
from m2st._nn._training import TrainingResult, choose_device, train

TABLE = Path(__file__).with_suffix(".md")
SIZES, DRY_SIZES = (4_000, 200_000), (400,)
EPOCHS = m2st.AutoencoderParams(n_epochs=20, min_delta=0.0)
KEYS = Keys()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of some work, to its end on the device."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def prepared(n_obs: int) -> anndata.AnnData:
    """A section with its graph and features."""
    adata = section(n_obs)
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    return adata


def training(adata: anndata.AnnData, device: str) -> TrainingResult:
    """Train one model for some epochs."""
    features = np.asarray(adata.obsm[KEYS.features], dtype=np.float32)
    return train(features, adata.obsp["spatial_connectivities"], EPOCHS, device=device)


def domains(adata: anndata.AnnData, device: str, seed: int = 0) -> tuple[anndata.AnnData, float]:
    """A run of two models on ready features, and its seconds."""
    found = adata.copy()
    settings = replace(EPOCHS, n_members=2, n_epochs=100)

    def run() -> None:
        m2st.tl.embed(found, settings, random_state=seed, device=device, progress=False)
        m2st.tl.cluster(found, N_DOMAINS, random_state=seed)

    return found, timed(run, choose_device(device))


def compare(n_obs: int, device: str) -> list[tuple[str, str, str]]:
    """What is compared, on the CPU, and on the card."""
    adata = prepared(n_obs)
    where = choose_device(device)
    features = np.asarray(adata.obsm[KEYS.features], dtype=np.float32)
    graph = adata.obsp["spatial_connectivities"]
    training(adata, device)  # the first one compiles and allocates
    training(adata, "cpu")
    seconds = {
        name: timed(lambda name=name: training(adata, name), where) for name in ("cpu", device)
    }
    one, again = training(adata, device), training(adata, device)
    same = all(map(np.array_equal, one.embeddings, again.embeddings))
    there = one.model.transform(features, graph)
    embedding = {device: timed(lambda: one.model.transform(features, graph), where)}
    here = one.model.cpu().transform(features, graph)
    embedding["cpu"] = timed(lambda: one.model.transform(features, graph), torch.device("cpu"))
    gap = max(
        float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(here, there, strict=True)
    )
    on_cpu, cpu_seconds = domains(adata, "cpu")
    on_card, card_seconds = domains(adata, device)
    other_seed, _ = domains(adata, "cpu", seed=1)
    label = KEYS.domain
    ari = m2st.metrics.ari(on_cpu.obs[label], on_card.obs[label])
    of_seeds = m2st.metrics.ari(on_cpu.obs[label], other_seed.obs[label])
    n_epochs = EPOCHS.n_epochs
    return [
        ("largest difference of embeddings, relative to the largest value", "", f"{gap:.1e}"),
        ("same embeddings from the same seed, bit for bit", "", "yes" if same else "no"),
        ("domains of the same seed: ARI with the CPU's; two seeds on the CPU", f"{of_seeds:.3f}",
         f"{ari:.3f}"),
        ("epoch, ms", *(f"{1e3 * seconds[name] / n_epochs:.1f}" for name in ("cpu", device))),
        ("embedding of all, s", *(f"{embedding[name]:.2f}" for name in ("cpu", device))),
        ("training of two models and clustering, s", f"{cpu_seconds:.1f}", f"{card_seconds:.1f}"),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true")
    dry = parser.parse_args().dry
    device = "cpu" if dry else str(choose_device("auto"))
    if device == "cpu" and not dry:
        sys.stderr.write(
            "No GPU: torch finds neither CUDA nor MPS here. `--dry` compares the CPU with itself, "
            "to show that the script runs.\n"
        )
        return 1
    name = "the CPU again" if dry else device
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name()
    machine = f"torch {torch.__version__}, {torch.get_num_threads()} threads on the CPU, {name}"
    lines = [born([stamp()]), "", f"{machine}; `python -m benchmarks.gpu`.", ""]
    for n_obs in DRY_SIZES if dry else SIZES:
        lines += [f"| {n_obs:,} observations | CPU | {name} |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in compare(n_obs, device)]
        lines.append("")
    text = "\n".join(lines)
    sys.stdout.write(text)
    if not dry:
        TABLE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
