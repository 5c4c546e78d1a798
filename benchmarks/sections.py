"""Several sections of one tissue together, and each by itself: agreement with the annotation.

    python -m benchmarks.sections                # all rows; finished ones are not run again
    python -m benchmarks.sections --table        # only print the table of finished rows

Writes sections.csv (a line per run and section) and sections.md (the tables) beside this file. The
number of domains is given: of all sections where they run together, of the section where it runs
alone. No labels enter a run. Peers need an environment that has more than m2ST:

    pip install . "harmonypy>=2" pybanksy
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score, mutual_info_score

import m2st
from benchmarks.annotation import joined, read, row
from benchmarks.stamp import born, stamp
from m2st._graph import smooth

HERE = Path(__file__).parent
RUNS, TABLE = HERE / "sections.csv", HERE / "sections.md"
GROUPS = {
    "mPFC": ("starmap_mpfc_BZ5", "starmap_mpfc_BZ9", "starmap_mpfc_BZ14"),
    "mPFC, two": ("starmap_mpfc_BZ5", "starmap_mpfc_BZ14"),
    "visual cortex": ("baristaseq_slice1", "baristaseq_slice2"),
    "breast tumours": ("her2st_A1", "her2st_B1", "her2st_E1", "her2st_G2", "her2st_H1"),
    "hypothalamus": (
        "merfish_hypothalamus_-0.09",
        "merfish_hypothalamus_-0.14",
        "merfish_hypothalamus_-0.24",
    ),
    "DLPFC, one donor": ("dlpfc_151673", "dlpfc_151675", "dlpfc_151676"),
}
# Fewer seeds of what is costly: m2ST trains up to twenty networks for each section.
SEEDS = {
    "m2ST": range(2),
    "averages + our clustering": range(5),
    "Harmony + our clustering": range(3),
    "BANKSY": range(1),
}
LATTICES = ("dlpfc", "her2st")
HOWS = ("alone", "together")
Run = Callable[[anndata.AnnData, int, str | None, int], tuple[np.ndarray, np.ndarray]]


def sections_of(group: str) -> list[anndata.AnnData]:
    """Sections of a group with their labels; volume-normalised ones on a log scale."""
    found = [read(name) for name in GROUPS[group]]
    if group == "hypothalamus":
        for section in found:
            section.X = section.X.log1p()
    return found


def ours(
    adata: anndata.AnnData, n_domains: int, sample_key: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    m2st.run(
        adata, n_domains, sample_key=sample_key, normalized=is_normalised(adata),
        random_state=seed, progress=False,
    )  # fmt: skip
    return adata.obs["m2st_domain"].astype(str).to_numpy(), adata.obs["m2st_confidence"].to_numpy()


def averages(
    adata: anndata.AnnData, n_domains: int, sample_key: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Without a network: components averaged over four steps, and our clustering."""
    m2st.pp.spatial_graph(adata, sample_key=sample_key)
    m2st.pp.prepare(adata, sample_key=sample_key, normalized=is_normalised(adata))
    return cluster_averages(adata, adata.obsm["X_m2st_pca"], n_domains, seed)


def cluster_averages(
    adata: anndata.AnnData, scores: np.ndarray, n_domains: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    graph = adata.obsp["spatial_connectivities"]
    means = smooth(np.nan_to_num(scores), graph, n_hops=4)
    fit = m2st.MultiScaleClustering(n_domains, random_state=seed).fit([means], connectivities=graph)
    return fit.labels_.astype(str), np.full(adata.n_obs, np.nan)


def harmony(
    adata: anndata.AnnData, n_domains: int, sample_key: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `averages`, with the sections aligned by Harmony instead; of one section the same."""
    from harmonypy import run_harmony

    m2st.pp.spatial_graph(adata, sample_key=sample_key)
    m2st.pp.prepare(adata, normalized=is_normalised(adata))
    scores = np.nan_to_num(adata.obsm["X_m2st_pca"])
    if sample_key is not None:
        scores = run_harmony(scores, adata.obs, sample_key, random_state=seed, verbose=False).Z_corr
    return cluster_averages(adata, scores, n_domains, seed)


def banksy(
    adata: anndata.AnnData, n_domains: int, sample_key: str | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Settings of its notebooks, as in peers.py; several sections lie side by side."""
    from m2st.compare import banksy_domains

    places = adata.obsm["spatial"].copy()
    if sample_key is not None:
        _, number = np.unique(adata.obs[sample_key], return_inverse=True)
        places[:, 0] += number * 2 * np.ptp(places[:, 0])
    adata.obsm["spatial"] = places
    on_lattice = adata.obs["section"].str.startswith(LATTICES).all()
    share, n_neighbors, max_m = (0.2, 6, 0) if on_lattice else (0.8, 15, 1)
    labels = banksy_domains(
        adata, n_domains, n_neighbors=n_neighbors, share=share, max_m=max_m,
        random_state=seed, counts=not is_normalised(adata),
    )  # fmt: skip
    return labels.astype(str), np.full(adata.n_obs, np.nan)


def is_normalised(adata: anndata.AnnData) -> bool:
    return bool(adata.obs["section"].str.startswith("merfish").all())


METHODS: dict[str, Run] = {
    "m2ST": ours,
    "averages + our clustering": averages,
    "Harmony + our clustering": harmony,
    "BANKSY": banksy,
}


def separation(sections: np.ndarray, labels: np.ndarray) -> float:
    """Share of the entropy of the sections that the labels explain: 0 where all mix alike."""
    return float(mutual_info_score(sections, labels) / mutual_info_score(sections, sections))


def run_all(runs: pd.DataFrame, methods: list[str], groups: list[str]) -> pd.DataFrame:
    """Run what is not in `runs` yet, saving after each."""
    done = set(zip(runs["group"], runs["method"], runs["how"], runs["seed"], strict=True))
    tasks = [(seed, group, one) for one in methods for group in groups for seed in SEEDS[one]]
    for seed, group, method in sorted(tasks, key=lambda task: task[0]):  # each seed everywhere
        for how in HOWS:
            if (group, method, how, seed) in done:
                continue
            for line in one_run(group, method, how, seed):
                runs.loc[len(runs)] = line
            runs.to_csv(RUNS, index=False)
            print(group, method, how, seed, flush=True)
    return runs


def one_run(group: str, method: str, how: str, seed: int) -> list[list[object]]:
    """A line for each section of a group, and one for all together."""
    sections = sections_of(group)
    parts = [joined(sections)] if how == "together" else sections
    truths, found, sure, seconds = [], [], [], 0.0
    for part in parts:
        truth = part.obs.pop("domain")
        start = time.perf_counter()
        key = "section" if how == "together" else None
        labels, confidence = METHODS[method](part, truth.nunique(), key, seed)
        seconds += time.perf_counter() - start
        truths.append(pd.Series(truth.astype(object).to_numpy(), part.obs["section"].to_numpy()))
        found.append(labels)
        sure.append(confidence)
    truth, labels, confidence = pd.concat(truths), np.concatenate(found), np.concatenate(sure)
    annotated = truth.notna().to_numpy()
    apart = {
        "section_in_domains": separation(truth.index[annotated], labels[annotated]),
        "section_in_annotation": separation(truth.index[annotated], truth[annotated].astype(str)),
    }
    lines = []
    for name in (*GROUPS[group], "all"):
        rows = (truth.index == name) | (name == "all")
        known = rows & annotated
        ari = adjusted_rand_score(truth[known].astype(str), labels[known])
        joint = name == "all" and how == "together"
        if name == "all" and not joint:
            ari = np.nan  # domains of different runs have nothing to do with each other
        median = np.nanmedian(confidence[rows]) if np.isfinite(confidence[rows]).any() else np.nan
        lines.append(
            [group, method, how, seed, name, round(ari, 4), round(median, 3), round(seconds, 1),
             *(round(v, 4) if joint else np.nan for v in apart.values()), stamp()]
        )  # fmt: skip
    return lines


def report(runs: pd.DataFrame) -> str:
    """The tables in Markdown."""
    each = runs[runs["section"] != "all"]
    parts = [
        "# Several sections together, and each by itself",
        born(runs["made"]),
        "ARI with the annotation, which enters the score alone; number of domains given. "
        "*Together* is one run with `sample_key`. m2ST has up to two seeds, BANKSY one, rows "
        "without a network up to five. *Harmony* aligns the components in place of our own "
        "alignment. BANKSY gets the sections side by side, with no correction of batches. Limits "
        "of when a section keeps its own domains were compared on these very sections and on "
        "simulations, not on held-out studies: `NOTEBOOK.md` has the figures. The confidence is "
        "the median in the section. Times are on a shared machine.",
        "*Section in domains* is the share of the entropy of the sections that the found domains "
        "explain: 0 if each domain has the same part of every section. *In annotation* is the "
        "share that biology gives. If the first is larger, domains stand for sections.",
        "## Means over the sections of a group",
    ]
    head = [
        "group", "method", "alone", "together", "sd over seeds", "joint ARI",
        "section in domains", "in annotation", "s together",
    ]  # fmt: skip
    lines = [row(head), "|" + "---|" * len(head)]
    for group in GROUPS:
        for method in METHODS:
            some = each[(each["group"] == group) & (each["method"] == method)]
            if some.empty:
                continue
            means = some.groupby(["how", "seed"])["ari"].mean()
            whole = runs[
                (runs["group"] == group) & (runs["method"] == method)
                & (runs["section"] == "all") & (runs["how"] == "together")
            ]  # fmt: skip
            cells = [means.get(how, pd.Series(dtype=float)).mean() for how in HOWS]
            spread = means.get("together", pd.Series(dtype=float)).std(ddof=0)
            cells += [spread, whole["ari"].mean()]
            cells += [whole[f"section_in_{what}"].mean() for what in ("domains", "annotation")]
            shown = ["" if np.isnan(cell) else f"{cell:.3f}" for cell in cells]
            lines.append(row([group, method, *shown, f"{whole['seconds'].mean():.0f}"]))
    parts.append("\n".join(lines))
    parts.append("## Each section, m2ST")
    head = ["group", "section", "alone", "together", "confidence alone", "confidence together"]
    lines = [row(head), "|" + "---|" * len(head)]
    own = each[each["method"] == "m2ST"]
    table = own.pivot_table(
        index=["group", "section"], columns="how", values=["ari", "confidence"], sort=False
    )
    for group, section in table.index:
        line = table.loc[(group, section)]
        cells = [line.get((v, how), np.nan) for v in ("ari", "confidence") for how in HOWS]
        shown = ["" if np.isnan(cell) else f"{cell:.3f}" for cell in cells]
        lines.append(row([group, section, *shown]))
    parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print finished rows only")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    arguments = parser.parse_args()
    columns = [
        "group", "method", "how", "seed", "section", "ari", "confidence", "seconds",
        "section_in_domains", "section_in_annotation", "made",
    ]  # fmt: skip
    runs = pd.DataFrame(columns=columns)
    if RUNS.exists():
        runs = pd.read_csv(RUNS).reindex(columns=columns)
    warnings.simplefilter("ignore")  # isolated spots, few genes: the package says so each time
    if not arguments.table:
        runs = run_all(runs, arguments.methods, arguments.groups)
    text = report(runs)
    TABLE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
