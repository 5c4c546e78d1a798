"""Agreement of found domains with annotation, labels seen by the score alone.

One default configuration for all data, the number of domains given, mean and standard deviation
over the seeds. Unannotated observations take part in the run and are left out of the score.

    python -m benchmarks.accuracy                  # all rows; finished ones are not run again
    python -m benchmarks.accuracy --fresh          # forget finished rows
    python -m benchmarks.accuracy --table          # only print the table of finished rows

Writes accuracy.csv (a line per run) and accuracy.md (the tables) beside this file. Rows of other
methods come from peers.csv, which `benchmarks.peers` writes.
"""

from __future__ import annotations

import os

# One thread: figures do not depend on it, times do, and two threads fight on small machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

import m2st
from benchmarks.data import CHOSEN_ON, FILES, Case, load, role
from benchmarks.stamp import born, stamp
from m2st._clustering import consensus
from m2st._graph import smooth
from m2st._keys import Keys

KEYS = Keys()
HERE = Path(__file__).parent
RUNS, TABLE, PEERS = HERE / "accuracy.csv", HERE / "accuracy.md", HERE / "peers.csv"
N_SEEDS = 5
# Where 50 components are, for methods that would rather have them.
WIDE = "wide"
ALONE = "m2ST, no surroundings in its components"
ORACLE = {"starmap_visual_cortex": 0.610}
"""Zhang et al. 2025: maxima over 3,200 settings, chosen with the labels."""

Labels = np.ndarray
Method = Callable[[Case, anndata.AnnData, int], dict[str, Labels]]


def averaged(adata: anndata.AnnData, use_rep: str = WIDE) -> np.ndarray:
    return smooth(adata.obsm[use_rep], adata.obsp["spatial_connectivities"], n_hops=4)


def kmeans(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    found = KMeans(case.n_domains, n_init=10, random_state=seed)
    return {"k-means, no space": found.fit_predict(adata.obsm[WIDE])}


def averaged_kmeans(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    found = KMeans(case.n_domains, n_init=10, random_state=seed)
    return {"averages + k-means": found.fit_predict(averaged(adata))}


def averaged_mixture(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    """Consensus of mixtures with a tied covariance on 20 averaged components."""
    scores = averaged(adata)[:, :20]
    members = [
        GaussianMixture(
            case.n_domains,
            covariance_type="tied",
            reg_covar=1e-6 * scores.var(),
            random_state=1000 * seed + member,
        )
        .fit(scores)
        .predict_proba(scores)
        for member in range(10)
    ]
    return {"averages + tied mixtures": consensus(members).labels}


def averaged_ours(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    """Our clustering of our features without a network: what training is worth."""
    graph = adata.obsp["spatial_connectivities"]
    found = m2st.MultiScaleClustering(case.n_domains, random_state=seed)
    found.fit([averaged(adata, KEYS.features)], connectivities=graph)
    return {"averages + our clustering": found.labels_}


def published(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    """The paper's recipe at one fixed setting: features, network, update rule."""
    if case.use_rep is None and not case.normalized:
        m2st.paper.prepare(adata)
    m2st.tl.embed(
        adata,
        m2st.paper.PUBLISHED_CODE,
        use_rep=case.use_rep or (KEYS.no_neighbors if case.normalized else KEYS.features),
        random_state=seed,
        progress=False,
    )
    scales = [adata.obsm[f"X_m2st_scale{m}"].astype(float) for m in (1, 2)]
    found = m2st.paper.DualClustering(
        case.n_domains, specific_dim=20, solver="published", random_state=seed
    )
    return {"the paper's recipe": found.fit(scales).labels_}


def ours(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    """The default; and, from the same embeddings, with parts of the clustering switched off."""
    run(case, adata, seed)
    found = {"m2ST": adata.obs["m2st_domain"].cat.codes.to_numpy()}
    scales = [adata.obsm[f"X_m2st_scale{m}"] for m in (1, 2)]
    stacked = np.concatenate(scales, axis=1)
    clusters = KMeans(case.n_domains, n_init=10, random_state=seed)
    found["m2ST, k-means for its clustering"] = clusters.fit_predict(stacked)
    # Seeds of members do not depend on their number: the first is a run without an ensemble.
    first = adata.copy()
    first.uns["m2st"]["n_members"] = 1
    for m, scale in enumerate(scales, start=1):
        width = scale.shape[1] // adata.uns["m2st"]["n_members"]
        first.obsm[f"X_m2st_scale{m}"] = scale[:, :width]
    m2st.tl.cluster(first, case.n_domains, random_state=seed)
    found["m2ST without ensemble"] = first.obs["m2st_domain"].cat.codes.to_numpy()
    unsmooth = m2st.ClusteringParams(smoothness=0)
    m2st.tl.cluster(adata, case.n_domains, unsmooth, random_state=seed)
    found["m2ST without smoothness"] = adata.obs["m2st_domain"].cat.codes.to_numpy()
    return found


def ablated(name: str, **settings: object) -> Method:
    def method(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
        run(case, adata, seed, **settings)
        return {name: adata.obs["m2st_domain"].cat.codes.to_numpy()}

    return method


def alone(case: Case, adata: anndata.AnnData, seed: int) -> dict[str, Labels]:
    """On the principal components of single observations, outliers where they are."""
    adata.obsm[KEYS.features] = adata.obsm[KEYS.no_neighbors]
    return ablated(ALONE)(case, adata, seed)


def run(case: Case, adata: anndata.AnnData, seed: int, **settings: object) -> None:
    m2st.run(
        adata,
        case.n_domains,
        use_rep=KEYS.features,
        autoencoder=replace(m2st.AutoencoderParams(), **settings),
        random_state=seed,
        progress=False,
    )


# Rows by the function that makes them.
METHODS: dict[tuple[str, ...], Method] = {
    ("k-means, no space",): kmeans,
    ("averages + k-means",): averaged_kmeans,
    ("averages + tied mixtures",): averaged_mixture,
    ("averages + our clustering",): averaged_ours,
    ("the paper's recipe",): published,
    (
        "m2ST",
        "m2ST without ensemble",
        "m2ST without smoothness",
        "m2ST, k-means for its clustering",
    ): ours,
    ("m2ST without masking",): ablated("m2ST without masking", mask_rate=0.0),
    ("m2ST, squared error",): ablated("m2ST, squared error", loss_exponent=None),
    ("m2ST, one scale",): ablated("m2ST, one scale", scale_dims=(64,)),
    ("m2ST, PReLU",): ablated("m2ST, PReLU", use_prelu=True),
    ("m2ST, untrained",): ablated("m2ST, untrained", n_epochs=1),
    (ALONE,): alone,
}
ROWS = [row for rows in METHODS for row in rows]
N_BASELINES = 5


def run_all(runs: pd.DataFrame) -> pd.DataFrame:
    """Run what is not in `runs` yet, saving after each."""
    done = set(zip(runs["data"], runs["method"], runs["seed"], strict=True))
    prepared: dict[str, Case] = {}
    # One seed of everything, then the next: a table can be had at any time.
    for seed in range(N_SEEDS):
        for rows, method in METHODS.items():
            for name in FILES:
                if all((name, row, seed) in done for row in rows):
                    continue
                if name not in prepared:
                    prepared[name] = prepare(load(name))
                case = prepared[name]
                scored = case.truth.notna().to_numpy()
                for row, found in method(case, case.adata.copy(), seed).items():
                    score = m2st.metrics.ari(case.truth[scored], found[scored])
                    runs.loc[len(runs)] = [name, row, seed, round(score, 4), stamp()]
                    print(f"{name:24}{row:34}{seed}  {score:.3f}", flush=True)
                runs.to_csv(RUNS, index=False)
    return runs


def prepare(case: Case) -> Case:
    """Add the graph and the features: no seed enters."""
    m2st.pp.spatial_graph(case.adata)
    make = (
        partial(m2st.pp.prepare_embedding, use_rep=case.use_rep)
        if case.use_rep
        else partial(m2st.pp.prepare, normalized=case.normalized)
    )
    make(case.adata, n_pcs=50)
    # PCA as everybody has it, without the surroundings.
    case.adata.obsm[WIDE] = case.adata.obsm.pop(KEYS.no_neighbors)
    make(case.adata)
    return case


def report(runs: pd.DataFrame) -> str:
    """The tables in Markdown."""
    parts = [
        born(runs["made"]),
        "ARI, mean ± sd over seeds, number of domains given. Defaults "
        "were chosen on the sets marked *choice* and on simulations. *Oracle*: published by the "
        "authors of m2ST, a maximum over settings that used the annotation. Averages are over four "
        "steps on the graph: of principal components as everybody has them, for *our clustering* "
        "of the features that m2ST trains on. `accuracy.csv` has every run; running the script "
        "again completes what is empty or has less than five seeds.",
        table(runs, [*ROWS[:N_BASELINES], "m2ST"], oracle=True),
        "Parts switched off, one at a time:",
        table(runs, ["m2ST", *ROWS[N_BASELINES + 1 :]]),
    ]
    if PEERS.exists():
        peers = pd.read_csv(PEERS).drop(columns="made")
        both = pd.concat([runs[runs["method"] == "m2ST"], peers], ignore_index=True)
        parts += [
            "Other methods on the same counts, by their own documented recipes, number of domains "
            "given (`peers.csv` has versions, seeds and notes; empty: not run):",
            table(both, ["m2ST", *sorted(peers["method"].unique())]),
        ]
    return "\n\n".join(parts) + "\n"


def table(runs: pd.DataFrame, rows: list[str], *, oracle: bool = False) -> str:
    """Data sets in rows, methods in columns; means over sets that all methods have."""
    groups = runs.dropna(subset=["ari"]).groupby(["data", "method"])["ari"]
    means, deviations = groups.mean().unstack(), groups.std().unstack()
    means = means.reindex(index=list(FILES), columns=rows)
    head = ["data", "role", *rows, *(["oracle"] if oracle else [])]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in FILES:
        cells = []
        for row in rows:
            mean = means.loc[name, row]
            spread = deviations[row].get(name, np.nan) if row in deviations else np.nan
            text = "" if np.isnan(mean) else f"{mean:.3f}"
            cells.append(text if np.isnan(spread) else f"{text} ± {spread:.3f}")
        if oracle:
            cells.append(f"{ORACLE[name]:.3f}" if name in ORACLE else "")
        lines.append(f"| {name} | {role(name)} | " + " | ".join(cells) + " |")
    reported = [name for name in FILES if name not in CHOSEN_ON]
    for group, names in (("choice", list(CHOSEN_ON)), ("report", reported), ("all", list(FILES))):
        cells = []
        for row in rows:
            had = means.loc[names, row].dropna()
            text = f"{had.mean():.3f}" if len(had) else ""
            if len(had) < len(names) and len(had):
                same = means.loc[had.index, "m2ST"].mean()
                text += f" ({len(had)} sets; m2ST there {same:.3f})"
            cells.append(text)
        lines.append(f"| **mean** | {group} | " + " | ".join(cells + [""] * oracle) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="run everything again")
    parser.add_argument("--table", action="store_true", help="print finished rows only")
    arguments = parser.parse_args()
    runs = pd.DataFrame(columns=["data", "method", "seed", "ari", "made"])
    if RUNS.exists() and not arguments.fresh:
        runs = pd.read_csv(RUNS)
    # The data have isolated spots and shared coordinates; the package says so each time.
    warnings.simplefilter("ignore", UserWarning)
    text = report(runs if arguments.table else run_all(runs))
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
