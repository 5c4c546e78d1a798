"""What the package says of itself, held against what happens: no annotation is used.

    python -m benchmarks.reliability                     # all parts
    python -m benchmarks.reliability --part Confidence   # one, the others stay

* Confidence: of the observations within a range of confidence, the share that another run (another
  seed, nothing shared but the data) puts into the same domain, over all pairs of four runs.
* Number of domains: the choice on simulations with a known number, on shuffled coordinates, and on
  noise; and the confidence of one who asks for that number instead.
* Sections: two simulated sections with a batch shift, labelled together and each alone.
* Pieces: domains from training on pieces of the tissue against those from the whole graph.

Writes reliability.md beside this file.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import warnings
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment

import m2st
from benchmarks.accuracy import prepare
from benchmarks.data import CHOSEN_ON, load, role
from benchmarks.stamp import born, stamp
from m2st._keys import Keys

KEYS = Keys()
SETS = (*CHOSEN_ON, "dlpfc_151672", "starmap_mpfc_BZ14", "osmfish", "her2st_H1")
SEEDS = range(4)
EDGES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.01)
RANGES = [f"{low:g}–{min(high, 1):g}" for low, high in itertools.pairwise(EDGES)]


def confidence() -> list[str]:
    lines = ["| data | role | " + " | ".join(RANGES) + " |", "|---|---|" + "---|" * len(RANGES)]
    found = {"choice": [], "report": []}
    for name in SETS:
        pairs = reruns(name)
        found[role(name)].append(pairs)
        lines.append(f"| {name} | {role(name)} | " + " | ".join(shares(pairs)) + " |")
        print(lines[-1], flush=True)
    for group, parts in found.items():
        lines.append(f"| **all** | {group} | " + " | ".join(shares(np.hstack(parts))) + " |")
    return lines


def reruns(name: str) -> np.ndarray:
    """Confidence of each observation in each run, and whether each other run agrees: two rows."""
    case = prepare(load(name))
    runs = []
    for seed in SEEDS:
        adata = case.adata.copy()
        m2st.run(
            adata,
            case.n_domains,
            use_rep=KEYS.features,
            random_state=seed,
            n_jobs=-1,
            progress=False,
        )
        runs.append(adata.obs[["m2st_domain", "m2st_confidence"]].dropna())
    pairs = []
    for one, other in itertools.permutations(runs, 2):
        codes = [obs["m2st_domain"].cat.codes.to_numpy() for obs in (one, other)]
        table = np.zeros((case.n_domains, case.n_domains))
        np.add.at(table, tuple(codes), 1)
        _, match = linear_sum_assignment(table, maximize=True)
        pairs.append([one["m2st_confidence"], match[codes[0]] == codes[1]])
    return np.hstack(pairs)


def shares(pairs: np.ndarray) -> list[str]:
    """By range of confidence: share that agrees, and how many of the observations it holds."""
    sure, agrees = pairs
    cells = []
    for low, high in itertools.pairwise(EDGES):
        chosen = (sure >= low) & (sure < high)
        cells.append(f"{agrees[chosen].mean():.2f} ({chosen.mean():.1%})" if chosen.any() else "")
    return cells


def number_of_domains() -> list[str]:
    lines = [
        "| data | spots | genes | true | chosen | p of no structure | asked for | median "
        "confidence |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def add(name: str, true: int, adata: anndata.AnnData, asked: int) -> None:
        m2st.pp.spatial_graph(adata)
        m2st.pp.prepare(adata)
        m2st.tl.embed(adata, n_jobs=-1, progress=False)
        chosen = m2st.tl.choose_n_domains(adata, n_jobs=-1)
        p_value = adata.uns["m2st"]["n_domains"]["p_value"]
        m2st.tl.cluster(adata, asked, n_jobs=-1)
        sure = adata.obs["m2st_confidence"].median()
        cells = (
            name,
            adata.n_obs,
            adata.n_vars,
            true,
            chosen,
            f"{p_value:.3f}",
            asked,
            f"{sure:.2f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
        print(lines[-1], flush=True)

    # As many spots as a section of Visium has, and a piece of tissue with shallow counts.
    for n_obs, n_genes in ((4000, 2000), (1000, 600)):
        for seed, true in enumerate((3, 4, 5, 6, 7, 9), start=40):
            layers = m2st.datasets.simulate_cortex(n_obs, n_genes, true, random_state=seed)
            add("layers", true, layers.copy(), true)
        rng = np.random.default_rng(0)
        layers.obsm["spatial"] = layers.obsm["spatial"][rng.permutation(layers.n_obs)]
        add("the last, coordinates shuffled", 1, layers.copy(), true)
        layers.X = rng.poisson(0.5, size=layers.shape).astype("float32")
        add("Poisson noise", 1, layers, true)
    return lines


def sections() -> list[str]:
    lines = ["| batch shift | together | alone |", "|---|---|---|"]
    for shift in (0.0, 0.5, 1.0):
        both = m2st.datasets.simulate_cortex(
            2000, 600, n_samples=2, batch_shift=shift, random_state=30
        )
        parts = [both[both.obs["sample"] == name].copy() for name in both.obs["sample"].unique()]
        m2st.run(both, 7, sample_key="sample", n_jobs=-1, progress=False)
        together = m2st.metrics.ari(both.obs["domain"], both.obs["m2st_domain"])
        alone = []
        for part in parts:
            m2st.run(part, 7, n_jobs=-1, progress=False)
            alone.append(m2st.metrics.ari(part.obs["domain"], part.obs["m2st_domain"]))
        figures = ", ".join(f"{score:.3f}" for score in alone)
        lines.append(f"| {shift:g} | {together:.3f} | {figures} |")
        print(lines[-1], flush=True)
    return lines


def pieces() -> list[str]:
    lines = [
        "| data | observations | whole and pieces | whole and whole, another seed |",
        "|---|---|---|---|",
    ]
    small = m2st.AutoencoderParams(batch_size=1024)

    def domains(adata: anndata.AnnData, n_domains: int, **settings: object) -> pd.Series:
        m2st.tl.embed(adata, n_jobs=-1, progress=False, **settings)
        m2st.tl.cluster(adata, n_domains, n_jobs=-1)
        return adata.obs["m2st_domain"].copy()

    sets = [(f"layers {k}", k, m2st.datasets.simulate_cortex(5000, 600, k)) for k in (4, 7)]
    case = load("dlpfc_151673")
    for name, n_domains, adata in [*sets, (case.name, case.n_domains, case.adata)]:
        m2st.pp.spatial_graph(adata)
        m2st.pp.prepare(adata)
        whole, parts, other = (
            domains(adata, n_domains),
            domains(adata, n_domains, params=small),
            domains(adata, n_domains, random_state=1),
        )
        same, seeds = m2st.metrics.ari(whole, parts), m2st.metrics.ari(whole, other)
        lines.append(f"| {name} | {adata.n_obs} | {same:.3f} | {seeds:.3f} |")
        print(lines[-1], flush=True)
    return lines


PARTS = {
    "Confidence": (
        confidence,
        "Share of observations that a run with another seed puts into the same domain, by the "
        "confidence of the first run (share of all observations), over all pairs of four seeds. "
        "What the confidence is was first chosen on the sets marked *choice*; for 0.2 all were "
        "looked at:",
    ),
    "Number of domains": (
        number_of_domains,
        "What `choose_n_domains` finds on simulations on which nothing was chosen, and the "
        "confidence in as many domains as are asked for:",
    ),
    "Sections": (
        sections,
        "Two simulated sections of 1,000 spots, ARI with the planted layers:",
    ),
    "Pieces": (
        pieces,
        "Agreement (ARI) of the domains from training on the whole graph with those from training "
        "on pieces, `batch_size=1024`:",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), help="run this part and keep the others")
    wanted = parser.parse_args().part
    warnings.simplefilter("ignore", UserWarning)
    path = Path(__file__).with_suffix(".md")
    kept = path.read_text(encoding="utf-8") if path.exists() else ""
    texts = dict(part.split("\n", 1) for part in kept.split("## ")[1:])
    for title, (run, what) in PARTS.items():
        if wanted in (None, title):
            texts[title] = f"\n{born([stamp()])}\n\n{what}\n\n" + "\n".join(run()) + "\n"
            ordered = [f"## {name}\n{texts[name].rstrip()}\n" for name in PARTS if name in texts]
            path.write_text("\n".join(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
