"""From expression or ready features to the features of the network: arrays in, arrays out."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st._features._blocks import log_normalise, take
from m2st._features._components import (
    align_sections,
    component_scores,
    neighbourhood_means,
    one_thread,
    shared_axes,
    shrink_outliers,
)
from m2st._features._genes import sample_rows, variable_genes, varying_genes

Bools = NDArray[np.bool_]
Scores = NDArray[np.float32]

# Of ready features, components beyond these are taken for noise.
_WIDE = 50


class Features(NamedTuple):
    """Scores, those of the test for structure, and how many genes or columns they come from."""

    scores: Scores
    single: Scores
    n_used: int


def from_counts(
    matrix: Any,
    totals: NDArray[np.float32],
    filled: Bools,
    genes: Bools,
    graph: sparse.csr_matrix,
    sections: NDArray[np.intp] | None,
    *,
    normalized: bool,
    n_top_genes: int,
    n_pcs: int,
    random_state: int,
) -> Features:
    """Features as `m2st.pp.prepare` describes them.

    Parameters
    ----------
    matrix
        Expression, n_obs × n_vars, in memory or not.
    totals
        Of each observation, shape (n_obs,).
    filled, genes
        Observations and genes that take part, shapes (n_obs,) and (n_vars,).
    graph
        Spatial graph, shape (n_obs, n_obs).
    sections
        Section of each observation, shape (n_obs,), to be aligned; None leaves scores as they are.
    normalized, n_top_genes, n_pcs, random_state
        As in `m2st.pp.prepare`.

    Returns
    -------
    Scores of the filled observations, in order.
    """
    sample = sample_rows(filled, random_state)
    with one_thread():
        if genes.sum() > n_top_genes:
            flavor = "seurat" if normalized else "seurat_v3"
            genes = variable_genes(matrix, sample, genes, n_top_genes, flavor)
        kept = take(matrix, filled, genes)
        means = neighbourhood_means(graph[filled][:, filled], sample[filled])
        around = means @ kept
        if not normalized:
            log_normalise(around, means @ totals[filled])
            log_normalise(kept, totals[filled])
        varying = varying_genes(kept)
        if len(varying) < kept.shape[1]:
            kept, around = kept[:, varying], around[:, varying]
        single = kept if sample.sum() == filled.sum() else kept[np.flatnonzero(sample[filled])]
        axes = shared_axes(single, around, n_pcs, random_state)
        scores = kept @ axes
        scores -= scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        single_scores = component_scores(kept, n_pcs, random_state)
    if sections is not None:
        scores, single_scores = (
            align_sections(part, sections[filled]) for part in (scores, single_scores)
        )
    return Features(scores, single_scores, kept.shape[1])


def from_ready(
    features: Scores, graph: sparse.csr_matrix, *, n_pcs: int, random_state: int
) -> Features:
    """Features as `m2st.pp.prepare_rep` describes them, of more columns than `n_pcs`.

    Parameters
    ----------
    features
        Ready features, finite, shape (n_obs, n_features).
    graph
        Spatial graph, shape (n_obs, n_obs).
    n_pcs, random_state
        As in `m2st.pp.prepare_rep`.
    """
    n_features = features.shape[1]
    with one_thread():
        width = max(_WIDE, n_pcs + 1)
        if n_features > width:
            features = component_scores(features, width, random_state)
            single = features[:, :n_pcs]
        else:
            single = component_scores(features, n_pcs, random_state)
        features = shrink_outliers(features)
        means = neighbourhood_means(graph, np.ones(len(features), dtype=bool))
        features = features @ shared_axes(features, means @ features, n_pcs, random_state)
        features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Features(features, single, n_features)


def as_published(
    counts: sparse.csr_matrix, *, n_pcs: int, random_state: int
) -> tuple[Scores, int, int]:
    """Features as `m2st.pp.prepare_paper` describes them.

    Parameters
    ----------
    counts
        Of the observations and genes that take part.
    n_pcs, random_state
        As in `m2st.pp.prepare_paper`.

    Returns
    -------
    Scores, the number of genes, and that of observations without a library size.
    """
    import scanpy as sc

    work = AnnData(counts)
    with one_thread():
        with warnings.catch_warnings():  # said by the caller in a way that helps
            warnings.filterwarnings("ignore", "Some cells have zero counts", UserWarning)
            sc.pp.normalize_total(
                work, target_sum=1, exclude_highly_expressed=True, key_added="library_size"
            )
        kept = sc.pp.scale(work.X[:, varying_genes(work.X)], zero_center=False)
        scores = component_scores(kept, n_pcs, random_state)
    return scores, kept.shape[1], int((work.obs["library_size"] == 0).sum())
