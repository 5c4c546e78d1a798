"""Domains, their sizes, confidence and sections, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from m2st import _keys
from m2st._by_section import Composition, count_domains
from m2st._plotting import read_categories, read_shares


def read_domains(adata: AnnData, keys: _keys.Keys) -> pd.Categorical:
    """Domain of every observation, as categories."""
    hint = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."
    return read_categories(adata, keys.domain, hint=hint)


def read_confidence(adata: AnnData, keys: _keys.Keys) -> NDArray[np.float64]:
    """Confidence of every observation; NaN where there is none."""
    if keys.confidence not in adata.obs:
        return np.full(adata.n_obs, np.nan)
    return read_shares(adata, keys.confidence)


@dataclass(frozen=True)
class DomainRow:
    """One row of the table of domains; what is not known is None."""

    name: str
    color: str
    n_obs: int
    share: float
    quantiles: NDArray[np.float64] | None
    confident: float | None
    stability: float | None

    @property
    def median(self) -> float | None:
        """Median confidence."""
        return None if self.quantiles is None else float(self.quantiles[2])


def domain_table(
    domains: pd.Categorical,
    confidence: NDArray[np.float64],
    colors: list[str],
    record: Mapping[str, Any],
) -> list[DomainRow]:
    """Size, confidence (quantiles at 10, 25, 50, 75 and 90 %) and stability of each domain."""
    stability = np.ravel(record.get("cluster", {}).get("stability", []))
    table = []
    for code, name in enumerate(domains.categories):
        inside = domains.codes == code
        sure = confidence[inside]
        sure = sure[~np.isnan(sure)]
        table.append(
            DomainRow(
                name=str(name),
                color=colors[code],
                n_obs=int(inside.sum()),
                share=float(inside.mean()),
                quantiles=np.quantile(sure, [0.1, 0.25, 0.5, 0.75, 0.9]) if len(sure) else None,
                confident=float((sure >= 0.9).mean()) if len(sure) else None,
                stability=(
                    float(stability[code]) if len(stability) == len(domains.categories) else None
                ),
            )
        )
    return table


def confidence_facts(
    confidence: NDArray[np.float64], table: list[DomainRow]
) -> dict[str, Any] | None:
    """Summary of the confidence of all observations, or None where there is none."""
    known = confidence[~np.isnan(confidence)]
    if not len(known):
        return None
    return {
        "median": float(np.median(known)),
        "confident": float((known >= 0.9).mean()),
        "domains": [row for row in table if row.quantiles is not None],
    }


def count_composition(
    adata: AnnData, domains: pd.Categorical, sample_key: str | None
) -> pd.DataFrame | None:
    """Observations of each section (rows) in each domain (columns), if there are sections."""
    if sample_key is None:
        return None
    sections = pd.Categorical(adata.obs[sample_key]).remove_unused_categories()
    counts = np.zeros((len(sections.categories), len(domains.categories)), dtype=int)
    known = (domains.codes >= 0) & (sections.codes >= 0)
    np.add.at(counts, (sections.codes[known], domains.codes[known]), 1)
    return pd.DataFrame(counts, index=map(str, sections.categories), columns=domains.categories)


def find_shares(shown: AnnData, domain: str, sample_key: str | None) -> Composition | None:
    """Shares of the domains in each section, and their intervals, if there are sections."""
    if sample_key is None:
        return None
    sections = pd.Categorical(shown.obs[sample_key]).remove_unused_categories()
    placed = np.ones(shown.n_obs, dtype=bool)
    domains = read_categories(shown, domain)
    return count_domains(domains, sections, shown.obsm[_keys.COORDINATES], placed)
