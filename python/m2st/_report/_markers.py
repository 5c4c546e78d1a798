"""Markers of the domains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse


def find_markers(
    adata: AnnData,
    domains: pd.Categorical,
    colors: list[str],
    record: Mapping[str, Any],
    n_markers: int,
) -> tuple[list[dict[str, Any]], str]:
    """Highest ranked genes of each domain, or why there are none."""
    import scanpy as sc
    from anndata.utils import make_index_unique

    if n_markers == 0:
        return [], "They were left out."
    layer = record.get("prepare", {}).get("layer")
    matrix: Any = adata.layers.get(layer, adata.X)
    if matrix is None or adata.n_vars == 0:
        return [], "The data hold no expression."
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        return [], "The expression was not in memory."
    sizes = np.bincount(domains.codes[domains.codes >= 0])
    large = [code for code, size in enumerate(sizes) if size >= 2]
    if len(large) < 2:
        return [], "There are not two domains of at least two observations to compare."
    if matrix.dtype.kind not in "buif":
        return [], "The expression is not made of numbers."
    expression = sparse.csr_matrix(matrix, dtype=np.float32)
    if not np.isfinite(expression.data).all() or expression.data.min(initial=0) < 0:
        return [], "The expression has missing or negative values: it is scaled, or damaged."
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
    return markers, ""
