"""Choice of genes, and of the observations that choose them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st._features._blocks import is_varying, take

logger = logging.getLogger(__name__)

# Observations that choose genes and components.
_SAMPLE = 100_000
# Share of the genes over which the trend of their variances is fitted: Seurat's, and wider ones for
# thin counts, where so many genes have the same mean that the fit fails.
_SPANS = (0.3, 0.4, 0.5, 0.7, 0.9, 1.0)


def sample_rows(filled: NDArray[np.bool_], random_state: int) -> NDArray[np.bool_]:
    """Observations that choose genes and components: all of them, or a sample of many."""
    if filled.sum() <= _SAMPLE:
        return filled
    rng = np.random.default_rng(random_state)
    rows = np.zeros_like(filled)
    rows[rng.choice(np.flatnonzero(filled), _SAMPLE, replace=False)] = True
    return rows


def variable_genes(
    matrix: Any,
    rows: NDArray[np.bool_],
    genes: NDArray[np.bool_],
    n_top_genes: int,
    flavor: str,
) -> NDArray[np.bool_]:
    """Choose highly variable genes by some of the observations."""
    import scanpy as sc

    work = AnnData(take(matrix, rows, genes))
    chosen = np.zeros_like(genes)
    varying = is_varying(work.X)
    if varying.sum() <= n_top_genes:  # no choice; and without any, the fit ends the process
        chosen[np.flatnonzero(genes)[varying]] = True
        return chosen if chosen.any() else genes
    for span in _SPANS:
        try:
            sc.pp.highly_variable_genes(
                work, flavor=flavor, n_top_genes=n_top_genes, span=span, check_values=False
            )
            chosen[np.flatnonzero(genes)[work.var["highly_variable"]]] = True
        except (ValueError, IndexError) as error:
            # The fit of the trend speaks in bytes; the dispersion of logarithms takes them back.
            if flavor == "seurat_v3" and not isinstance(error.args[0], bytes):
                raise
            logger.info("Genes cannot be told apart over %g of them: %s", span, error)
        if chosen.any() or flavor == "seurat":
            break
    if not chosen.any():
        of_what = "counts" if flavor == "seurat_v3" else "values on a log scale"
        msg = (
            f"Expected {of_what} that tell which genes vary more than others, found {work.n_vars} "
            "genes of which too many have the same few values, or values that no logarithm "
            f"reaches. Keep all genes with `n_top_genes={work.n_vars}`, or remove those that few "
            "observations have."
        )
        raise ValueError(msg)
    return chosen


def varying_genes(matrix: sparse.csr_matrix) -> NDArray[np.intp]:
    """Genes that differ between observations, of which there have to be two."""
    varying = is_varying(matrix)
    if varying.sum() < 2:
        msg = (
            f"Expected at least two genes that differ between observations, found {varying.sum()} "
            f"among {len(varying)}. Check that this is the right matrix."
        )
        raise ValueError(msg)
    return np.flatnonzero(varying)
