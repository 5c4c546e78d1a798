"""What the converters keep from the real R objects, and what a large one costs.

``python -m benchmarks.conversions > benchmarks/conversions.md``. Prints a row for each object and
slot: kept, or not converted and why; then time and peak memory for 10,000 × 3,000 counts, 10 % of
them not zero, each class in a process of its own.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.data import folder
from benchmarks.stamp import born, stamp
from m2st import interop
from m2st.interop import _embedded as r

N_OBS, N_VARS, DENSITY = 10_000, 3_000, 0.1


def quietly(work: Callable[[], Any]) -> tuple[Any, str]:
    """What `work` returns, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return work(), " ".join(str(one.message) for one in caught)


def rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Slot, fate and reason for one object."""
    adata, said = quietly(lambda: interop.read_r(path, method="r"))
    parsed, _ = quietly(lambda: interop.read_r(path, method="rds2py"))
    record = json.loads(adata.uns["m2st_r"])
    yield "class", f"{record['class']}, {adata.n_vars} genes × {adata.n_obs} observations", ""
    names = ", ".join(record.get("assays", []))
    same = adata.X is None or (adata.X != parsed.X).nnz == 0
    agree = "without R the same" if same else "WITHOUT R ANOTHER"
    yield "assays", f"kept: {names} ({agree})" if names else "–", "" if names else "it has none"
    for slot, frame in (("obs", adata.obs), ("var", adata.var)):
        yield slot, f"kept: {frame.shape[1]} columns", ""
    for key in adata.obsm:
        if key != "spatial":
            yield f"obsm {key}", f"kept: {adata.obsm[key].shape[1]} columns", ""
    if "spatial" in adata.obsm:
        valid = int(np.isfinite(adata.obsm["spatial"]).all(axis=1).sum())
        yield "coordinates", f"kept: {valid} of {adata.n_obs} observations", ""
    else:
        yield "coordinates", "–", "it has none"
    pictures = [
        f"{name}/{key} {picture.shape[0]}×{picture.shape[1]}"
        for name, library in adata.uns.get("spatial", {}).items()
        for key, picture in library["images"].items()
    ]
    if pictures:
        yield "images", f"kept: {', '.join(pictures)}", ""
    kept = [key for key in adata.uns if key not in {"spatial", "m2st_r"}]
    if kept:
        yield "metadata", f"kept: {', '.join(kept)}", ""
    skipped = re.search(r"Not converted from the \w+: (.*?)\.(?: The |$)", said)
    for part in [] if skipped is None else re.split(r"; ", skipped[1]):
        yield part.split(" (")[0], "not converted", part.partition(" (")[2].removesuffix(")")


def table() -> None:
    """Print what is kept of every object."""
    print(f"# What the converters keep\n\n{born([stamp()])}\n")
    print("| object | slot | fate | why |\n|---|---|---|---|")
    for path in sorted((folder() / "robjects").iterdir()):
        for slot, fate, why in rows(path):
            print(f"| {path.name} | {slot} | {fate} | {why} |")


class Memory(threading.Thread):
    """Highest memory of the process, sampled."""

    def __enter__(self) -> Memory:
        gc.collect()
        r.session().base["gc"]()
        self.start_at = self.peak = self.now()
        self.over = threading.Event()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        """Look every two milliseconds."""
        while not self.over.wait(0.002):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> float:
        """Memory of the process in MB (Linux)."""
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def cost(as_: str) -> None:
    """Print what a large object costs, each way, the packages of R loaded before."""
    matrix = sparse.random(
        N_OBS, N_VARS, DENSITY, format="csr", random_state=np.random.default_rng(0)
    )
    matrix.data = np.ceil(matrix.data * 5).astype(np.float32)
    adata = anndata.AnnData(
        matrix.astype(np.float32),
        obs=pd.DataFrame(index=[f"spot{i}" for i in range(N_OBS)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(N_VARS)]),
    )
    adata.obsm["spatial"] = np.random.default_rng(0).random((N_OBS, 2))
    counts = matrix.nnz * 12 / 1e6  # R's: 8 bytes for a value, 4 for its row
    try:
        x, _ = quietly(lambda: interop.from_anndata(adata[:50, :50].copy(), as_))
    except ImportError as error:
        print(f"| {as_} | – | – | – | {error} |")
        return
    quietly(lambda: interop.to_anndata(x))
    for way in ("to R", "to Python"):
        with Memory() as memory:
            start = time.perf_counter()
            if way == "to R":
                x, _ = quietly(lambda: interop.from_anndata(adata, as_))
            else:
                found, _ = quietly(lambda x=x: interop.to_anndata(x))
            seconds = time.perf_counter() - start
        used = memory.peak - memory.start_at
        print(f"| {as_} | {way} | {seconds:.2f} | {used:.0f} | {used / counts:.1f} |")
    assert (found.X != adata.X).nnz == 0


def costs() -> None:
    """Print what a large object of each class costs, in a process of its own."""
    n_counts = int(N_OBS * N_VARS * DENSITY)
    print(f"\n{N_OBS} × {N_VARS}, {n_counts} counts, {n_counts * 12 / 1e6:.0f} MB in R\n")
    print("| class | way | s | peak memory, MB | times the counts |\n|---|---|---|---|---|")
    for as_ in ("SingleCellExperiment", "SpatialExperiment", "Seurat"):
        sys.stdout.flush()
        process = multiprocessing.get_context("spawn").Process(target=cost, args=(as_,))
        process.start()
        process.join()


if __name__ == "__main__":
    table()
    costs()
