"""Time and memory of a whole default run against the number of observations.

    python -m benchmarks.scale                        # all sizes; finished ones are not run again
    python -m benchmarks.scale --sizes 1000 4000      # only these
    python -m benchmarks.scale --apply                # only saved models on 100,000 new cells
    python -m benchmarks.scale --sections             # only several sections in one run
    python -m benchmarks.scale --table                # only print the table and draw the picture

Each size runs in a process of its own, from a file of counts to a file with domains, with one job
for each of two cores and one thread for each job. Sections are simulated (`section` below). Memory
is the peak of the proportional set sizes of the process and its children, looked at four times a
second. Writes scale.csv, scale.md and scale.svg beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from benchmarks.stamp import born, stamp

HERE = Path(__file__).parent
RUNS, TABLE, PICTURE = HERE / "scale.csv", HERE / "scale.md", HERE / "scale.svg"
APPLIED = HERE / "scale_apply.csv"
JOINED = HERE / "scale_sections.csv"
SIZES = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000]
FIT_FROM = 16_000
N_GENES, N_DOMAINS, N_JOBS = 300, 7, 2
N_FITTED, N_NEW = 4_000, 100_000
TOGETHER = [(20, 5_000), (5, 200_000)]
"""Number of sections, and observations in each."""
STAGES = ["read", "graph", "prepare", "embed", "cluster", "write"]
CHUNK = 50_000
# In each of the jobs, which take the cores.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def section(n_obs: int, seed: int = 0) -> anndata.AnnData:
    """Cells at random places in seven bands, with the counts of 300 genes.

    Expression profiles of the bands differ by a factor of about exp(±0.2) in each gene, and library
    sizes by a Gamma(4) factor: k-means without space finds the bands with an ARI below 0.1.
    """
    rng = np.random.default_rng(seed)
    side = np.sqrt(n_obs)
    places = rng.uniform(0, side, (n_obs, 2))
    depth = places[:, 1] / side + 0.05 * np.sin(6 * places[:, 0] / side)
    domain = np.clip((depth * N_DOMAINS).astype(int), 0, N_DOMAINS - 1)
    profile = np.exp(rng.normal(0, 1, N_GENES) + 0.2 * rng.normal(size=(N_DOMAINS, N_GENES)))
    profile /= profile.sum(axis=1, keepdims=True)
    counts = []
    for start in range(0, n_obs, CHUNK):
        own = domain[start : start + CHUNK]
        size = 25 * rng.gamma(4, 1, (len(own), 1))
        counts.append(sparse.csr_matrix(rng.poisson(profile[own] * size).astype(np.float32)))
    adata = anndata.AnnData(sparse.vstack(counts, format="csr"))
    adata.obsm["spatial"] = places
    adata.obs["band"] = pd.Categorical(domain.astype(str))
    return adata


def one(source: Path, output: Path) -> None:
    """Run one size and print what it took, as JSON."""
    import m2st

    seconds = {}
    clock = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage], clock = now - clock, now

    adata = m2st.io.read(source)
    done("read")
    m2st.pp.spatial_graph(adata)
    done("graph")
    m2st.pp.prepare(adata)
    done("prepare")
    m2st.tl.embed(adata, n_jobs=N_JOBS, progress=False)
    done("embed")
    m2st.tl.cluster(adata, N_DOMAINS, n_jobs=N_JOBS)
    done("cluster")
    m2st.io.write(adata, output)
    done("write")
    ari = m2st.metrics.ari(adata.obs["band"], adata.obs["m2st_domain"])
    print(json.dumps(seconds | {"ari": ari}))


def memory(process: object) -> int:
    """Bytes of a process and its children, shared pages counted once."""
    import psutil

    total = 0
    for member in [process, *process.children(recursive=True)]:  # type: ignore[attr-defined]
        try:
            total += member.memory_full_info().pss
        except psutil.Error:  # it has just ended
            continue
    return total


def watched(command: list[str]) -> tuple[float, float, str]:
    """Seconds of a process, its peak memory in GiB, and what it prints."""
    import psutil

    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | ONE_THREAD
    ) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            peak = max(peak, memory(process))
            time.sleep(0.25)
        text = running.stdout.read() if running.stdout else ""
    if running.returncode:
        msg = f"{' '.join(command)} ended with exit code {running.returncode}."
        raise RuntimeError(msg)
    return time.perf_counter() - started, peak / 2**30, text


def measure(n_obs: int) -> dict[str, Any]:
    """Time and memory of one size, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        source, output = Path(place) / "section.h5ad", Path(place) / "domains.h5ad"
        section(n_obs).write_h5ad(source)
        command = [sys.executable, "-m", "benchmarks.scale", "--one", str(source), str(output)]
        seconds, gib, text = watched(command)
    found = {"n_obs": n_obs, "seconds": seconds, "gib": gib} | json.loads(text)
    return found | {"made": stamp()}


def apply_models() -> pd.DataFrame:
    """Time and memory of `m2st apply`, of models fitted on some cells, on others of the tissue."""
    import m2st

    cells = section(N_FITTED + N_NEW)
    known, new = cells[:N_FITTED].copy(), cells[N_FITTED:].copy()
    models = {
        "labels, `m2st.annotate`": m2st.annotate(new[:N_FITTED].copy(), "band", reference=known),
        "domains, `m2st.run`": m2st.run(known, N_DOMAINS, progress=False),
    }
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder, source, output = (Path(place) / name for name in ("model", "new.h5ad", "out.h5ad"))
        new.write_h5ad(source)
        for name, model in models.items():
            model.save(folder, overwrite=True)
            command = ["m2st", "apply", str(folder), str(source), "-o", str(output), "--overwrite"]
            seconds, gib, _ = watched([*command, "--jobs", str(N_JOBS)])
            found = anndata.read_h5ad(output).obs
            ari = m2st.metrics.ari(found["band"], found["m2st_domain"])
            rows.append([name, N_NEW, seconds, gib, ari, stamp()])
    columns = ["model", "n_obs", "seconds", "gib", "ari", "made"]
    return pd.DataFrame(rows, columns=columns)


def join_sections(runs: pd.DataFrame) -> None:
    """Time and memory of `m2st run` on several sections, saved after each."""
    import m2st

    done = set(zip(runs.n_sections, runs.n_obs, strict=True))
    for n_sections, n_obs in TOGETHER:
        if (n_sections, n_obs) in done:
            continue
        with tempfile.TemporaryDirectory() as place:
            source, output = Path(place) / "sections.h5ad", Path(place) / "out.h5ad"
            whole = section(n_sections * n_obs)
            order = np.argsort(whole.obsm["spatial"][:, 0])
            # Strips of one tissue, each with the whole order of bands.
            strips = np.empty(whole.n_obs, dtype=int)
            strips[order] = np.arange(whole.n_obs) // n_obs
            whole.obs["section"] = pd.Categorical(strips.astype(str))
            whole.write_h5ad(source)
            del whole
            command = ["m2st", "run", str(source), "--domains", str(N_DOMAINS), "-o", str(output)]
            options = ["--sample-key", "section", "--jobs", str(N_JOBS)]
            seconds, gib, _ = watched([*command, *options])
            found = anndata.read_h5ad(output, backed="r").obs
            ari = m2st.metrics.ari(found["band"], found["m2st_domain"])
        runs.loc[len(runs)] = [n_sections, n_obs, seconds, gib, ari, stamp()]
        runs.round(4).to_csv(JOINED, index=False)


def exponent(runs: pd.DataFrame, column: str) -> float:
    """Slope of the logarithm of a column over that of the size, from 16,000 observations."""
    large = runs[runs.n_obs >= FIT_FROM]
    return float(np.polyfit(np.log(large.n_obs), np.log(large[column]), 1)[0])


def report(runs: pd.DataFrame) -> str:
    """The table, and the exponents."""
    lines = [
        born(runs["made"]),
        "",
        "A whole default run (five members, ten at 1,000) on two cores, "
        f"{N_JOBS} jobs of one thread each, of a simulated section with {N_GENES} genes and the "
        "six neighbours of a triangulation; `python -m benchmarks.scale`.",
        "",
        "| observations | " + " | ".join(STAGES) + " | total, s | peak memory, GiB | ARI |",
        "|---" * (len(STAGES) + 4) + "|",
    ]
    for run in runs.itertuples():
        stages = " | ".join(f"{getattr(run, stage):.1f}" for stage in STAGES)
        lines.append(
            f"| {run.n_obs:,} | {stages} | {run.seconds:.0f} | {run.gib:.2f} | {run.ari:.3f} |"
        )
    if (runs.n_obs >= FIT_FROM).sum() > 1:
        lines += [
            "",
            f"Fitted from {FIT_FROM:,} observations: time grows as "
            f"n^{exponent(runs, 'seconds'):.2f}, memory as n^{exponent(runs, 'gib'):.2f}.",
        ]
    if APPLIED.exists():
        applied = pd.read_csv(APPLIED)
        lines += [
            "",
            "## A saved model on new cells",
            "",
            born(applied["made"]),
            "",
            f"The command `m2st apply --jobs {N_JOBS}` from start to end, of a model that was "
            f"fitted on {N_FITTED:,} other cells of the section; `python -m benchmarks.scale "
            "--apply`. The machine did other work at the same time.",
            "",
            "| model of | new cells | s | peak memory, GiB | ARI |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {run.model} | {run.n_obs:,} | {run.seconds:.0f} | {run.gib:.2f} | {run.ari:.3f} |"
            for run in applied.itertuples()
        ]
    if JOINED.exists():
        joined = pd.read_csv(JOINED)
        lines += [
            "",
            "## Several sections in one run",
            "",
            born(joined["made"]),
            "",
            f"The command `m2st run --sample-key section --jobs {N_JOBS}` from start to end, on "
            f"strips of a simulated section with {N_GENES} genes; `python -m benchmarks.scale "
            "--sections`.",
            "",
            "| sections | observations in each | s | peak memory, GiB | ARI |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {run.n_sections} | {run.n_obs:,} | {run.seconds:.0f} | {run.gib:.2f} "
            f"| {run.ari:.3f} |"
            for run in joined.itertuples()
        ]
    return "\n".join(lines) + "\n"


def draw(runs: pd.DataFrame) -> None:
    """Time and memory over size, on logarithmic axes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    panels = [("seconds", "time of a whole run", "s"), ("gib", "peak memory", "GiB")]
    for axes, (column, title, unit) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.loglog(runs.n_obs, runs[column], "o-", color="#0072b2")
        for n_obs, value in zip(runs.n_obs, runs[column], strict=True):
            text = f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
            axes.annotate(text, (n_obs, value), (-4, 6), textcoords="offset points", ha="right")
        axes.set(xlabel="observations", title=f"{title} ({unit})")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.15, 0.2)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--apply", action="store_true")
    parser.add_argument("--sections", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--one", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    runs = pd.read_csv(RUNS) if RUNS.exists() else pd.DataFrame({"n_obs": []})
    if arguments.apply:
        apply_models().round(4).to_csv(APPLIED, index=False)
    if arguments.sections:
        columns = ["n_sections", "n_obs", "seconds", "gib", "ari", "made"]
        join_sections(pd.read_csv(JOINED) if JOINED.exists() else pd.DataFrame(columns=columns))
    only = arguments.table or arguments.apply or arguments.sections
    for n_obs in [] if only else arguments.sizes:
        if n_obs not in set(runs.n_obs):
            runs = pd.concat([runs, pd.DataFrame([measure(n_obs)])]).sort_values("n_obs")
            runs = runs.astype({"n_obs": int})
            runs.round(4).to_csv(RUNS, index=False)
    TABLE.write_text(report(runs), encoding="utf-8")
    draw(runs)
    print(report(runs))


if __name__ == "__main__":
    main()
