"""Markers of the domains, and where on the tissue they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

LEVELS = 64
"""Steps of expression on the map, the lowest for none; the next number is a missing value."""

_VALUES = 6_000_000
"""Most values of all genes on the map together, a byte each."""

_HIGHEST = 0.99
"""Share of the observations up to which the colours of a gene differ."""


def find_markers(
    adata: AnnData,
    domains: pd.Categorical,
    colors: list[str],
    record: Mapping[str, Any],
    n_markers: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Highest ranked genes of each domain, their places on the map, or why there are none."""
    import scanpy as sc
    from anndata.utils import make_index_unique

    if n_markers == 0:
        return [], [], "They were left out."
    layer = record.get("prepare", {}).get("layer")
    matrix: Any = adata.layers.get(layer, adata.X)
    if matrix is None or adata.n_vars == 0:
        return [], [], "The data hold no expression."
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        return [], [], "The expression was not in memory."
    sizes = np.bincount(domains.codes[domains.codes >= 0])
    large = [code for code, size in enumerate(sizes) if size >= 2]
    if len(large) < 2:
        return [], [], "There are not two domains of at least two observations to compare."
    if matrix.dtype.kind not in "buif":
        return [], [], "The expression is not made of numbers."
    expression = sparse.csr_matrix(matrix, dtype=np.float32)
    if not np.isfinite(expression.data).all() or expression.data.min(initial=0) < 0:
        return [], [], "The expression has missing or negative values: it is scaled, or damaged."
    rows = np.flatnonzero(np.isin(domains.codes, large))
    names = [str(domains.categories[code]) for code in large]
    work = AnnData(
        expression[rows],
        obs=pd.DataFrame(
            {"domain": pd.Categorical(domains[rows].astype(str), categories=names)},
            index=[str(row) for row in rows],
        ),
        var=pd.DataFrame(index=make_index_unique(adata.var_names.astype(str))),
    )
    if (expression.data == np.floor(expression.data)).all():
        sc.pp.normalize_total(work)
        sc.pp.log1p(work)
    sc.tl.rank_genes_groups(work, "domain", method="t-test", pts=True, use_raw=False)
    markers = []
    for code, name in zip(large, names, strict=True):
        found = sc.get.rank_genes_groups_df(work, group=name)
        found = found[(found["scores"] > 0) & found["logfoldchanges"].gt(0)].head(n_markers)
        markers.append({"name": name, "color": colors[code], "genes": found.to_dict("records")})
    return markers, _on_the_map(work, rows, adata.n_obs, markers), ""


def _on_the_map(
    work: AnnData, rows: NDArray[np.intp], n_obs: int, markers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Expression of the markers in every observation, of the best ones if there are many.

    A gene has a number for each of all observations, `LEVELS` where it was not looked at, and its
    mean in each domain. Genes in `markers` get the place of theirs.
    """
    most = max((len(domain["genes"]) for domain in markers), default=0)
    ranked = [
        gene
        for rank in range(most)
        for domain in markers
        for gene in domain["genes"][rank : rank + 1]
    ]
    names = list(dict.fromkeys(gene["names"] for gene in ranked))[: _VALUES // max(n_obs, 1)]
    for gene in ranked:
        gene["layer"] = names.index(gene["names"]) if gene["names"] in names else None
    inside = work.obs["domain"].cat.codes.to_numpy()
    sizes = np.bincount(inside)
    expression = sparse.csc_matrix(work[:, names].X)
    layers = []
    for number, name in enumerate(names):
        values = expression[:, number].toarray().ravel()
        top = float(np.quantile(values, _HIGHEST)) or float(values.max())
        codes = np.full(n_obs, LEVELS, dtype="u1")
        codes[rows] = np.rint(np.minimum(values / top, 1) * (LEVELS - 1))
        means = np.bincount(inside, values) / sizes
        layers.append(
            {
                "label": name,
                "codes": codes,
                "top": float(f"{top:.3g}"),
                "means": {
                    domain["name"]: round(float(mean), 2)
                    for domain, mean in zip(markers, means, strict=True)
                },
            }
        )
    return layers
