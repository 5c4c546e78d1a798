"""All labelled sections at hand, by study: the default, parts of it off, rows without a network.

    python -m benchmarks.studies                    # all rows; finished ones are not run again
    python -m benchmarks.studies --seeds 1          # fewer seeds
    python -m benchmarks.studies --rows m2ST        # some rows
    python -m benchmarks.studies --table            # only print the tables of finished rows

Writes studies.csv (a line per run) and studies.md (the tables) beside this file. The number of
domains is given, and no label enters a run. The tables show the mean of each study, and how far a
row is ahead of the default with each study left out in turn: what wins in all but one is not chosen
by that one.
"""

from __future__ import annotations

import os

# One thread: figures do not depend on it, times do, and two threads fight on small machines.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

import m2st
from benchmarks.annotation import row as markdown
from benchmarks.data import Case, load
from benchmarks.stamp import born, stamp
from m2st._keys import Keys
from m2st.pp import components_for

HERE = Path(__file__).parent
RUNS, TABLE = HERE / "studies.csv", HERE / "studies.md"
N_SEEDS = 5
STUDIES = {
    "DLPFC, counts": ("dlpfc_151673", "dlpfc_151675", "dlpfc_151676", "dlpfc500g_151510"),
    "DLPFC, features": (
        "dlpfc_151507",
        "dlpfc_151509",
        "dlpfc_151669",
        "dlpfc_151671",
        "dlpfc_151672",
    ),
    "visual cortex, STARmap": ("starmap_visual_cortex",),
    "mPFC, STARmap": ("starmap_mpfc_BZ5", "starmap_mpfc_BZ9", "starmap_mpfc_BZ14"),
    "somatosensory, osmFISH": ("osmfish",),
    "hypothalamus, MERFISH": (
        "merfish_hypothalamus_-0.09",
        "merfish_hypothalamus",
        "merfish_hypothalamus_-0.24",
    ),
    "visual cortex, BaristaSeq": ("baristaseq_slice1", "baristaseq_slice2"),
    "breast tumours": ("her2st_A1", "her2st_B1", "her2st_E1", "her2st_G2", "her2st_H1"),
}
_AVERAGES = "averages"
ROWS: dict[str, dict[str, Any]] = {
    "m2ST": {},
    "as in 0.1": {**asdict(m2st.defaults("0.1").clustering), _AVERAGES: False},
    "no averages": {_AVERAGES: False},
    "t distributions": {"degrees_of_freedom": 8.0},
    "equal sizes": {"equal_sizes": None},
    "12 starts": {"n_init": 12},
    "no smoothness": {"smoothness": 0.0},
}
"""Settings of the clustering in which a row with a network differs from the default."""
PLAIN = ("averages + k-means", "averages + tied mixture", "averages + our clustering")
KEYS = Keys()


def sections() -> list[str]:
    """Names of all sections, by study."""
    return [name for names in STUDIES.values() for name in names]


def embedded(case: Case, seed: int) -> anndata.AnnData:
    """The section with its embeddings, and averages of its features."""
    adata = case.adata.copy()
    m2st.run(
        adata,
        None,
        use_rep=case.use_rep,
        normalized=case.normalized,
        n_pcs=components_for(case.n_domains),
        random_state=seed,
        progress=False,
    )
    return adata


def with_network(adata: anndata.AnnData, case: Case, row: str, seed: int) -> dict[str, Any]:
    """Domains of one row, their confidence, and those of each member."""
    settings = dict(ROWS[row])
    adata = adata.copy()
    if not settings.pop(_AVERAGES, True):
        del adata.obsm[KEYS.averages]
    if settings.get("common_dim"):
        settings["common_dim"] = max(settings["common_dim"], case.n_domains)
    fits = m2st.tl.cluster(
        adata, case.n_domains, m2st.ClusteringParams(**settings), random_state=seed
    )
    return {
        "labels": adata.obs[KEYS.domain].cat.codes.to_numpy(),
        "members": [fit.labels_ for fit in fits],
        "confidence": adata.obs[KEYS.confidence].to_numpy(),
    }


def without_network(adata: anndata.AnnData, case: Case, row: str, seed: int) -> dict[str, Any]:
    """Domains from the averages alone, which the embedded section holds."""
    averages, k = adata.obsm[KEYS.averages], case.n_domains
    if row == PLAIN[0]:
        labels = KMeans(k, n_init=10, random_state=seed).fit_predict(averages)
    elif row == PLAIN[1]:
        scale = 1e-6 * averages.var()
        found = GaussianMixture(
            k, covariance_type="tied", reg_covar=scale, n_init=5, random_state=seed
        )
        labels = found.fit_predict(averages)
    else:
        clustering = m2st.MultiScaleClustering(k, random_state=seed)
        graph = adata.obsp["spatial_connectivities"]
        labels = clustering.fit(averages.astype(np.float64), connectivities=graph).labels_
    return {"labels": labels, "members": [labels], "confidence": np.array([np.nan])}


def score(case: Case, labels: np.ndarray) -> float:
    """Agreement with the annotation, where there is one."""
    known = case.truth.notna().to_numpy() & (labels >= 0)
    return float(adjusted_rand_score(case.truth[known].astype(str), labels[known]))


def missing(
    runs: pd.DataFrame, names: list[str], rows: list[str], n_seeds: int
) -> list[tuple[str, int, list[str]]]:
    """Section, seed, and the rows to run, in the order of their use."""
    done = set(map(tuple, runs[["data", "row", "seed"]].to_numpy().tolist()))
    tasks = [
        (name, seed, [row for row in rows if (name, row, seed) not in done])
        for seed in range(n_seeds)
        for name in names
    ]
    return [task for task in tasks if task[2]]


def run(names: list[str], rows: list[str], n_seeds: int, out: Path) -> None:
    """Run what is missing, a line at a time."""
    runs = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=["data", "row", "seed"])
    for name, seed, left in missing(runs, names, rows, n_seeds):
        case = load(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            started = time.perf_counter()
            adata = embedded(case, seed)
            training = time.perf_counter() - started
            lines = []
            for row in left:
                started = time.perf_counter()
                found = (with_network if row in ROWS else without_network)(adata, case, row, seed)
                ari = score(case, found["labels"])
                line = {
                    "data": name,
                    "row": row,
                    "seed": seed,
                    "ari": round(ari, 4),
                    "members": round(
                        float(np.mean([score(case, one) for one in found["members"]])), 4
                    ),
                    "confidence": round(float(np.nanmedian(found["confidence"])), 3)
                    if row in ROWS
                    else np.nan,
                    "training": round(training, 1) if row in ROWS else 0.0,
                    "clustering": round(time.perf_counter() - started, 1),
                    "made": stamp(),
                }
                lines.append(line)
                print(name, row, seed, f"{ari:.3f}", flush=True)
        pd.DataFrame(lines).to_csv(out, mode="a", header=not out.exists(), index=False)


def tables(runs: pd.DataFrame) -> str:
    """The tables in Markdown, of the seeds that each row has."""
    rows = [row for row in [*ROWS, *PLAIN] if row in set(runs["row"])]
    means = runs.groupby(["data", "row"])["ari"].agg(["mean", "std", "count"])
    each = means["mean"].unstack("row").reindex(index=sections(), columns=rows)
    of_study = pd.DataFrame(
        {study: each.loc[list(names)].mean() for study, names in STUDIES.items()}
    ).T
    lines = [
        born(runs["made"]),
        "",
        f"ARI with the number of domains given, mean over {_seeds(runs)}; no label enters a run.",
        "",
        _head(["section", *rows]),
    ]
    for name in sections():
        cells = [f"{each.loc[name, row]:.3f}{_spread(means, name, row)}" for row in rows]
        lines.append(_line([name, *cells]))
    lines += ["", "Means of the studies:", "", _head(["study", *rows])]
    lines += [
        _line([study, *(f"{value:.3f}" for value in values)])
        for study, values in zip(of_study.index, of_study.to_numpy(), strict=True)
    ]
    lines.append(_line(["**all sections**", *(f"{each[row].mean():.3f}" for row in rows)]))
    lines.append(_line(["**all studies**", *(f"{of_study[row].mean():.3f}" for row in rows)]))
    lines += [
        "",
        "The default less each row, mean of the studies with one left out:",
        "",
        _head(["left out", *rows[1:]]),
    ]
    for study in STUDIES:
        kept = of_study.drop(study).mean()
        lines.append(_line([study, *(f"{kept[rows[0]] - kept[row]:+.3f}" for row in rows[1:])]))
    own = runs[runs["row"] == "m2ST"].groupby("data")[["ari", "members"]].mean()
    gain = {
        study: (own["ari"] - own["members"]).reindex(list(names)).mean()
        for study, names in STUDIES.items()
    }
    lines += ["", "The ensemble less the mean of its members: " + _listed(gain) + "."]
    spreads = means["std"].xs("m2ST", level="row").dropna()
    if len(spreads):
        few = f"{(spreads <= 0.02).sum()} of {len(spreads)} sections"
        lines += ["", f"Deviation over seeds of at most 0.02: {few}."]
    lines.append("")
    return "\n".join(lines)


def _seeds(runs: pd.DataFrame) -> str:
    number = runs.groupby(["data", "row"])["seed"].nunique()
    least, most = int(number.min()), int(number.max())
    if least < most:
        return f"{least} to {most} seeds"
    return f"{most} seeds" if most > 1 else "one seed"


def _spread(means: pd.DataFrame, name: str, row: str) -> str:
    if (name, row) not in means.index or means.loc[(name, row), "count"] < 2:
        return ""
    return f" ± {means.loc[(name, row), 'std']:.3f}"


def _head(cells: list[str]) -> str:
    return markdown(cells) + "\n" + markdown(["---"] * len(cells))


def _line(cells: list[str]) -> str:
    return markdown(["" if cell.startswith("nan") else cell for cell in cells])


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:+.3f}" for name, value in values.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="sections; all by default")
    parser.add_argument("--seeds", type=int, default=N_SEEDS)
    parser.add_argument("--rows", nargs="*", default=[*ROWS, *PLAIN])
    parser.add_argument("--out", type=Path, default=RUNS, help="file of the runs")
    parser.add_argument("--table", action="store_true", help="print finished rows only")
    given = parser.parse_args()
    if not given.table:
        run(given.names or sections(), given.rows, given.seeds, given.out)
    text = tables(pd.read_csv(given.out))
    if given.out == RUNS:
        TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
