"""m2ST beside BayesSpace, Seurat and BANKSY by `m2st compare`, on labelled spots on a lattice.

Needs R with this repository's package, Seurat and BayesSpace (1.15 or newer from Bioconductor),
and pybanksy beside m2st (``pip install pybanksy``). From the root of the repository:

    python -m benchmarks.comparison [--data her2st_B1] [--seeds 3] [--iterations 10000]

Adds a row for each method and seed to rpackage/vignettes/comparison.csv, which the vignette on
BayesSpace shows, and writes comparison.md beside this file. Data sets that are in the table are not
run again: delete their rows to do so. BayesSpace takes its default number of iterations unless told
otherwise; `settings` says so. Run it on a quiet machine: the times are those of the clock.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import anndata
import pandas as pd

from benchmarks.data import FILES, folder, role
from benchmarks.stamp import born, stamp

RUNS = Path(__file__).parents[1] / "rpackage" / "vignettes" / "comparison.csv"
REPORT = Path(__file__).with_suffix(".md")
DATA = ("her2st_B1", "her2st_H1", "dlpfc_151673", "dlpfc_151675")
SCORES = {"ARI": 3, "NMI": 3, "purity": 3, "CHAOS": 3, "PAS": 3}
COSTS = {"seconds": 0, "cpu_seconds": 0, "peak_mb": 0}


def run(name: str, seeds: list[int], iterations: int | None) -> pd.DataFrame:
    """All methods on one data set."""
    from m2st.compare import compare_methods

    adata = anndata.read_h5ad(folder() / FILES[name])
    options = {} if iterations is None else {"BayesSpace": {"nrep": iterations}}
    n_domains = adata.obs["domain"].nunique()
    table = compare_methods(adata, n_domains, truth="domain", seeds=seeds, options=options).table
    table.insert(0, "data", name)
    table["settings"] = ""
    table["made"] = stamp()
    if iterations is not None:
        table.loc[table["method"] == "BayesSpace", "settings"] = f"nrep = {iterations}"
    return table


def report(runs: pd.DataFrame) -> str:
    """The table for reading: mean over seeds, and their range where there are several."""
    lines = [
        born(runs["made"]),
        "",
        "m2ST, BayesSpace, Seurat and BANKSY on the same counts, the number of domains given, each "
        "by its own documentation and in a process of its own on one thread. ARI, NMI and purity "
        "over the annotated spots: higher is better. CHAOS and PAS over all: lower is smoother. "
        "Means over seeds. `comparison.py` prints this; `rpackage/vignettes/comparison.csv` has "
        "every run.",
        "",
        "Seconds of the clock are left out where the machine was busy with other work; seconds of "
        "work suffer less. Memory is the most that the process held at any time, with R and the "
        "data.",
        "",
        "| data | role | method | seeds | domains | "
        + " | ".join(SCORES)
        + " | seconds | of work | MB |",
        "|" + "---|" * (8 + len(SCORES)),
    ]
    for (data, method), rows in runs.groupby(["data", "method"], sort=False):
        found = "–".join(str(n) for n in sorted({*rows["n_domains"]}))
        scores = " | ".join(f"{rows[name].mean():.{n}f}" for name, n in SCORES.items())
        costs = " | ".join(f"{rows[name].mean():.{n}f}" for name, n in COSTS.items()).replace(
            "nan", "–"
        )
        first = rows.iloc[0]
        name = first["version"] or f"{method}: {first['note']}"
        if first["settings"]:
            name += f", {first['settings']}"
        lines.append(
            f"| {data} | {role(data)} | {name} | {len(rows)} | {found} of {first['k']} | {scores} "
            f"| {costs} |"
        )
    methods = [str(method) for method in runs["method"].unique()]
    lines += ["", "Agreement of the methods with each other, ARI at the same seed:", ""]
    lines += [f"| data | method | {' | '.join(methods)} |", "|" + "---|" * (2 + len(methods))]
    for (data, method), rows in runs.groupby(["data", "method"], sort=False):
        means = rows[[f"ARI_{name}" for name in methods]].mean()
        shown = " | ".join(f"{x:.2f}" for x in means).replace("nan", "–")
        lines.append(f"| {data} | {method} | {shown} |")
    lines += ["", "Machine: " + "; ".join(runs["machine"].unique()) + ".", ""]
    return "\n".join(lines)


def read() -> pd.DataFrame:
    return pd.read_csv(RUNS).fillna({"version": "", "note": "", "settings": ""})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=DATA, nargs="+", default=list(DATA))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--iterations", type=int)
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("m2st").setLevel(logging.INFO)
    warnings.simplefilter("ignore")  # old files, read by a newer anndata
    for name in arguments.data:
        if RUNS.exists() and name in {*read()["data"]}:
            continue
        table = run(name, list(range(arguments.seeds)), arguments.iterations)
        table.to_csv(RUNS, mode="a", header=not RUNS.exists(), index=False)
    REPORT.write_text(report(read()), encoding="utf-8")


if __name__ == "__main__":
    main()
