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
    components,
    neighbourhood_means,
    one_thread,
    shared_axes,
    shrink_outliers,
    spread,
)
from m2st._features._genes import sample_rows, variable_genes, varying_genes
from m2st._features._projection import ExpressionProjection, ReadyProjection

Bools = NDArray[np.bool_]
Scores = NDArray[np.float32]

# Of ready features, components beyond these are taken for noise.
_WIDE = 50


class Features(NamedTuple):
    """Scores, those of the test for structure, and how to make the first of other data."""

    scores: Scores
    single: Scores
    projection: ExpressionProjection | ReadyProjection


def from_counts(
    matrix: Any,
    totals: NDArray[np.float32],
    filled: Bools,
    genes: Bools,
    shares: NDArray[np.float64],
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
    shares
        Share that each gene has of all counts, shape (n_vars,).
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
            totals_around = means @ totals[filled]
            log_normalise(around, totals_around, np.median(totals_around))
            log_normalise(kept, totals[filled], np.median(totals[filled]))
        varying = varying_genes(kept)
        if len(varying) < kept.shape[1]:
            kept, around = kept[:, varying], around[:, varying]
        single = kept if sample.sum() == filled.sum() else kept[np.flatnonzero(sample[filled])]
        axes = shared_axes(single, around, n_pcs, random_state)
        scores = kept @ axes
        mean = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        scores -= mean
        single_scores = components(kept, n_pcs, random_state).scores
    projection = ExpressionProjection(
        genes=np.flatnonzero(genes)[varying],
        axes=axes,
        mean=mean,
        deviations=scores.std(axis=0),
        gene_means=kept.mean(axis=0, dtype=np.float64).A1.astype(np.float32),
        shares=shares,
        library_size=np.asarray(np.median(totals[filled])),
    )
    if sections is not None:
        scores, single_scores = (
            align_sections(part, sections[filled], part.std(axis=0))
            for part in (scores, single_scores)
        )
    return Features(scores, single_scores, projection)


def from_ready(
    features: Scores, graph: sparse.csr_matrix, *, n_pcs: int, random_state: int
) -> Features:
    """Features as `m2st.pp.prepare_embedding` describes them, of more columns than `n_pcs`.

    Parameters
    ----------
    features
        Ready features, finite, shape (n_obs, n_features).
    graph
        Spatial graph, shape (n_obs, n_obs).
    n_pcs, random_state
        As in `m2st.pp.prepare_embedding`.
    """
    with one_thread():
        width = max(_WIDE, n_pcs + 1)
        first_mean, first_axes = np.empty(0, np.float32), np.empty((0, 0), np.float32)
        if features.shape[1] > width:
            features, first_axes, first_mean = components(features, width, random_state)
            single = features[:, :n_pcs]
        else:
            single = components(features, n_pcs, random_state).scores
        middle, farthest = spread(features)
        features = shrink_outliers(features, middle, farthest)
        means = neighbourhood_means(graph, np.ones(len(features), dtype=bool))
        axes = shared_axes(features, means @ features, n_pcs, random_state)
        scores = features @ axes
        mean = scores.mean(axis=0, dtype=np.float64).astype(np.float32)
        scores -= mean
    projection = ReadyProjection(first_mean, first_axes, middle, farthest, axes, mean)
    return Features(scores, single, projection)


def as_published(
    counts: sparse.csr_matrix, *, n_pcs: int, random_state: int
) -> tuple[Scores, int, int]:
    """Features as `m2st.paper.prepare` describes them.

    Parameters
    ----------
    counts
        Of the observations and genes that take part.
    n_pcs, random_state
        As in `m2st.paper.prepare`.

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
        scores = components(kept, n_pcs, random_state).scores
    return scores, kept.shape[1], int((work.obs["library_size"] == 0).sum())
