"""Three numbers that a change must not make a tenth worse: an epoch, a whole run, its memory.

    python -m benchmarks.guard             # measure and print
    python -m benchmarks.guard --check     # fail if one is more than a tenth above guard.json
    python -m benchmarks.guard --write     # keep them in guard.json

* `epoch`: processor time of a training epoch, over that of the dense matrix products of its linear
  maps, forward and backward.
* `whole`: processor time of a small run from counts to domains, over that of a fixed computation:
  sparse and dense products and sorting.
* `memory`: peak memory of a process that runs 20,000 observations, in MiB.

Both sides of a ratio take turns in one process, on one thread, and each has its least time of
several rounds. A number that is worse is measured again, and the least of all counts. The ratios
still depend on the processor: guard.json says on which one it was written. Before a change that
should cost nothing, write the file anew where you work, and check after it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from tests.golden import processor

import m2st
from benchmarks.scale import section
from benchmarks.speed import KEYS, dense, linear_maps
from benchmarks.stamp import stamp
from m2st._nn._training import train

KEPT = Path(__file__).with_suffix(".json")
MOST = 1.1
N_ROUNDS, N_AGAIN = 5, 3
N_EPOCH, N_WHOLE, N_MEMORY = 4_000, 1_000, 20_000
SETTINGS = m2st.AutoencoderParams(n_members=2, n_epochs=30, min_delta=0.0)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work, which other processes do not add to."""
    started = time.process_time()
    work()
    return time.process_time() - started


def ratio(ours: Callable[[], object], other: Callable[[], object], *, per: int = 1) -> float:
    """Least time of ours over the least time of the other one, in turns; the first ones warm up."""
    times = [(seconds(ours), seconds(other)) for _ in range(N_ROUNDS + 1)][1:]
    least = np.min(times, axis=0)
    return float(least[0] / per / least[1])


def epoch() -> float:
    """Time of an epoch over that of its matrix products."""
    adata = section(N_EPOCH)
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    features = np.asarray(adata.obsm[KEYS.features], dtype=np.float32)
    params = m2st.AutoencoderParams(n_epochs=10, min_delta=0.0)
    products = dense(len(features), linear_maps(features.shape[1], params))

    def ours() -> object:
        return train(features, adata.obsp["spatial_connectivities"], params)

    def ten() -> None:
        for _ in range(params.n_epochs):
            products()

    return ratio(ours, ten)


def whole() -> float:
    """Time of a run over that of a fixed computation."""
    adata = section(N_WHOLE)
    rng = np.random.default_rng(0)
    links = sparse.random(20_000, 20_000, 3e-4, format="csr", random_state=rng)
    rows, weights = rng.random((20_000, 64)), rng.random((64, 64))

    def fixed() -> None:
        for _ in range(40):
            np.sort(links @ (rows @ weights), axis=0)

    def ours() -> object:
        return m2st.run(adata.copy(), 7, autoencoder=SETTINGS, n_jobs=1, progress=False)

    return ratio(ours, fixed)


def memory() -> float:
    """Peak memory of a run in a process of its own, in MiB."""
    command = [sys.executable, "-m", "benchmarks.guard", "--memory-of-one-run"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(found.stdout)


def one_run() -> None:
    """Run what `memory` measures, and print the peak."""
    m2st.run(section(N_MEMORY), 7, autoencoder=SETTINGS, n_jobs=1, progress=False)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--memory-of-one-run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of_one_run:
        one_run()
        return 0
    torch.set_num_threads(1)
    kept = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    found, worse = {}, []
    for name, measure in (("memory", memory), ("epoch", epoch), ("whole", whole)):
        found[name] = round(measure(), 3)
        limit = MOST * kept.get(name, float("inf"))
        for _ in range(N_AGAIN):
            if found[name] > limit:
                found[name] = min(found[name], round(measure(), 3))
        change = found[name] / kept[name] if name in kept else float("nan")
        sys.stdout.write(f"{name}: {found[name]:g}, {change:.2f} × the kept {kept.get(name)}\n")
        if change > MOST:
            worse.append(name)
    if kept and kept["processor"] != processor():
        sys.stdout.write("The kept numbers are from another processor.\n")
    if arguments.write:
        text = json.dumps({**found, "processor": processor(), "made": stamp()}, indent=1)
        KEPT.write_text(text + "\n", encoding="utf-8")
    if arguments.check and worse:
        sys.stdout.write(f"More than a tenth worse than kept: {', '.join(worse)}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
