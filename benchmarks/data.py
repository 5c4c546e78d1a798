"""The labelled data sets of the benchmarks: how each is read, and what it may be used for.

The annotation is kept apart from the object that the methods see.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

DEFAULT_FOLDER = Path(__file__).parents[1] / ".." / "shared" / "data"

# Defaults were chosen on these; on all others they are only reported.
CHOSEN_ON = (
    "dlpfc_151673",
    "dlpfc_151507",
    "starmap_visual_cortex",
    "starmap_mpfc_BZ5",
    "her2st_B1",
)


def role(name: str) -> str:
    """Whether defaults were chosen on a data set."""
    return "choice" if name in CHOSEN_ON else "report"


@dataclass(frozen=True)
class Case:
    """A data set without its annotation, the annotation, and how features come from it."""

    name: str
    adata: anndata.AnnData
    truth: pd.Series
    n_domains: int
    use_rep: str | None = None
    normalized: bool = False


FILES = {
    "dlpfc_151673": "counts/dlpfc_151673.h5ad",
    "dlpfc_151507": "features/dlpfc_151507.h5ad",
    "starmap_visual_cortex": "counts/starmap_visual_cortex.h5ad",
    "starmap_mpfc_BZ5": "counts/starmap_mpfc_BZ5.h5ad",
    "her2st_B1": "counts/her2st_B1.h5ad",
    "dlpfc_151675": "counts/dlpfc_151675.h5ad",
    "dlpfc_151672": "features/dlpfc_151672.h5ad",
    "dlpfc500g_151510": "counts/dlpfc500g_151510.h5ad",
    "starmap_mpfc_BZ14": "counts/starmap_mpfc_BZ14.h5ad",
    "osmfish": "counts/osmfish_raw.h5ad",
    "merfish_hypothalamus": "counts/merfish_hypothalamus_-0.14.h5ad",
    "her2st_H1": "counts/her2st_H1.h5ad",
}
"""By name; of the first table, on which the first defaults were chosen and reported."""

LATER = {
    "dlpfc_151509": "features/dlpfc_151509.h5ad",
    "dlpfc_151669": "features/dlpfc_151669.h5ad",
    "dlpfc_151671": "features/dlpfc_151671.h5ad",
    "dlpfc_151676": "counts/dlpfc_151676.h5ad",
    "starmap_mpfc_BZ9": "counts/starmap_mpfc_BZ9.h5ad",
    "merfish_hypothalamus_-0.09": "counts/merfish_hypothalamus_-0.09.h5ad",
    "merfish_hypothalamus_-0.24": "counts/merfish_hypothalamus_-0.24.h5ad",
    "baristaseq_slice1": "counts/baristaseq_slice1.h5ad",
    "baristaseq_slice2": "counts/baristaseq_slice2.h5ad",
    "her2st_A1": "counts/her2st_A1.h5ad",
    "her2st_E1": "counts/her2st_E1.h5ad",
    "her2st_G2": "counts/her2st_G2.h5ad",
}
"""By name; sections that came after the first defaults."""


def folder() -> Path:
    """Where the data are; they are not part of the repository."""
    found = Path(os.environ.get("M2ST_SHARED_DATA", DEFAULT_FOLDER)).resolve()
    if not found.is_dir():
        msg = f"Expected the benchmark data in {found}. Set M2ST_SHARED_DATA to their folder."
        raise SystemExit(msg)
    return found


def load(name: str) -> Case:
    """Read a data set and part it from its annotation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files, read by a newer anndata
        adata = anndata.read_h5ad(folder() / (FILES | LATER)[name])
    truth = adata.obs["domain"].astype("category")
    blind = anndata.AnnData(
        adata.X,
        obs=pd.DataFrame(index=adata.obs_names),
        var=pd.DataFrame(index=adata.var_names),
        obsm={"spatial": np.asarray(adata.obsm["spatial"])},
    )
    n_domains = truth.nunique()
    if (FILES | LATER)[name].startswith("features"):
        # Scores on 200 components, without counts.
        return Case(name, blind, truth, n_domains, use_rep="X")
    if name.startswith("merfish_hypothalamus"):
        # Counts per volume: normalised already, but not on a log scale.
        blind.X = blind.X.log1p()
        return Case(name, blind, truth, n_domains, normalized=True)
    return Case(name, blind, truth, n_domains)
