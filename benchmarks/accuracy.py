"""Agreement of found domains with annotation, labels seen by the score alone.

One default configuration for all data, the number of domains given, mean and standard deviation
over the seeds. Unannotated observations take part in the run and are left out of the score.

    python -m benchmarks.accuracy            # all rows; finished ones are not run again
    python -m benchmarks.accuracy --fresh    # forget finished rows

Writes accuracy.csv (a line per run) and accuracy.md (the table) beside this file.
"""

from __future__ import annotations

import os

# One thread: figures do not depend on it, times do, and two threads fight on small machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import m2st
from benchmarks.data import CHOSEN_ON, FILES, Case, load
from m2st._graph import smooth

HERE = Path(__file__).parent
RUNS, TABLE = HERE / "accuracy.csv", HERE / "accuracy.md"
N_SEEDS = 5

Labels = np.ndarray
Method = Callable[[Case, anndata.AnnData, int], Labels]


def features(case: Case, adata: anndata.AnnData) -> np.ndarray:
    return adata.obsm[case.use_rep or "X_pca"]


def smoothed(case: Case, adata: anndata.AnnData) -> np.ndarray:
    return smooth(features(case, adata), adata.obsp["spatial_connectivities"], n_hops=3)


def kmeans(case: Case, adata: anndata.AnnData, seed: int) -> Labels:
    return KMeans(case.n_domains, n_init=10, random_state=seed).fit_predict(features(case, adata))


def smoothed_kmeans(case: Case, adata: anndata.AnnData, seed: int) -> Labels:
    return KMeans(case.n_domains, n_init=10, random_state=seed).fit_predict(smoothed(case, adata))


def smoothed_mixture(case: Case, adata: anndata.AnnData, seed: int) -> Labels:
    scores = smoothed(case, adata)[:, :20]
    mixture = GaussianMixture(
        case.n_domains,
        covariance_type="tied",
        n_init=5,
        reg_covar=1e-6 * scores.var(),
        random_state=seed,
    )
    return mixture.fit_predict(scores)


def ours(case: Case, adata: anndata.AnnData, seed: int) -> Labels:
    m2st.run(
        adata,
        case.n_domains,
        use_rep=case.use_rep or "X_pca",
        random_state=seed,
        progress=False,
    )
    return adata.obs["m2st_domain"].cat.codes.to_numpy()


METHODS: dict[str, Method] = {
    "k-means, no space": kmeans,
    "smoothed PCA + k-means": smoothed_kmeans,
    "smoothed PCA + tied mixture": smoothed_mixture,
    "m2ST": ours,
}


def run_all(runs: pd.DataFrame) -> pd.DataFrame:
    """Run what is not in `runs` yet, saving after each."""
    done = set(zip(runs["data"], runs["method"], runs["seed"], strict=True))
    for name in FILES:
        wanted = [
            (method, seed)
            for method in METHODS
            for seed in range(N_SEEDS)
            if (name, method, seed) not in done
        ]
        if not wanted:
            continue
        case = load(name)
        prepared = case.adata
        m2st.pp.spatial_graph(prepared)
        if case.use_rep is None:
            m2st.pp.prepare(prepared, normalized=case.normalized)
        for method, seed in wanted:
            found = METHODS[method](case, prepared.copy(), seed)
            scored = case.truth.notna().to_numpy()
            score = m2st.metrics.ari(case.truth[scored], found[scored])
            runs.loc[len(runs)] = [name, method, seed, round(score, 4)]
            runs.to_csv(RUNS, index=False)
            print(f"{name:24}{method:30}{seed}  {score:.3f}", flush=True)
    return runs


def table(runs: pd.DataFrame) -> str:
    """Markdown table: data sets in rows, methods in columns, mean ± sd over the seeds."""
    lines = [
        f"ARI, mean ± sd over {N_SEEDS} seeds, number of domains given, m2ST {m2st.__version__}. "
        "Defaults were chosen on the sets marked *choice* and on simulations.",
        "",
        "| data | role | " + " | ".join(METHODS) + " |",
        "|---|---|" + "---|" * len(METHODS),
    ]
    scores = runs.groupby(["data", "method"])["ari"].agg(["mean", "std"])
    for name in FILES:
        cells = [
            f"{scores.loc[(name, method), 'mean']:.3f} ± {scores.loc[(name, method), 'std']:.3f}"
            for method in METHODS
        ]
        role = "choice" if name in CHOSEN_ON else "report"
        lines.append(f"| {name} | {role} | " + " | ".join(cells) + " |")
    for role, names in {
        "choice": CHOSEN_ON,
        "report": [name for name in FILES if name not in CHOSEN_ON],
    }.items():
        means = [scores["mean"].loc[list(names), method].mean() for method in METHODS]
        cells = " | ".join(f"{mean:.3f}" for mean in means)
        lines.append(f"| **mean** | {role} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    arguments = parser.parse_args()
    runs = pd.DataFrame(columns=["data", "method", "seed", "ari"])
    if RUNS.exists() and not arguments.fresh:
        runs = pd.read_csv(RUNS)
    # The data have isolated spots and shared coordinates; the package says so each time.
    warnings.simplefilter("ignore", UserWarning)
    text = table(run_all(runs))
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
