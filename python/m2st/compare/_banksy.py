"""Domains by BANKSY, as its notebooks find them."""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from m2st import _keys

if TYPE_CHECKING:
    from anndata import AnnData


def banksy_domains(
    adata: AnnData,
    n_domains: int,
    *,
    n_neighbors: int,
    share: float,
    max_m: int,
    random_state: int,
    counts: bool = True,
) -> NDArray[np.int32]:
    """Domains by BANKSY as its notebooks find them.

    Parameters
    ----------
    adata
        Expression in ``X``, coordinates in ``obsm["spatial"]``. Left as it is.
    n_domains
        BANKSY's own search for a resolution is to give so many.
    n_neighbors, share, max_m
        Neighbours, weight of the neighbours (lambda), and 1 to add gradients.
    random_state
        Seed of the components and of the partition.
    counts
        Whether ``X`` has raw counts, of which variable genes are chosen and which are normalised.

    Returns
    -------
    int32, from 1, for each observation. They may be more or fewer than `n_domains`.

    Notes
    -----
    BANKSY sets matplotlib's backend and draws from NumPy's global stream, so it has a process of
    its own.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(
            find_domains,
            adata,
            n_domains,
            n_neighbors=n_neighbors,
            share=share,
            max_m=max_m,
            random_state=random_state,
            counts=counts,
        ).result()


def find_domains(
    adata: AnnData,
    n_domains: int,
    *,
    n_neighbors: int,
    share: float,
    max_m: int,
    random_state: int,
    counts: bool = True,
) -> NDArray[np.int32]:
    """What `banksy_domains` describes, in this process, whose global state it changes."""
    import matplotlib as mpl
    import scanpy as sc
    from scipy import sparse

    mpl.use("agg")  # it imports pyplot, and no window is wanted
    np.random.seed(random_state)  # noqa: NPY002, TID251  # its components draw from it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # written for older libraries
        from banksy.cluster_methods import run_Leiden_partition
        from banksy.embed_banksy import generate_banksy_matrix
        from banksy.initialize_banksy import initialize_banksy
        from banksy_utils.umap_pca import pca_umap

        adata = adata.copy()
        if counts:
            if adata.n_vars > 2000:
                sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=2000)
                adata = adata[:, adata.var["highly_variable"]].copy()
            sc.pp.normalize_total(adata)
        if sparse.issparse(adata.X):
            adata.X = adata.X.toarray()
        found = initialize_banksy(
            adata,
            ("x", "y", _keys.COORDINATES),  # the first two are for its pictures
            n_neighbors,
            max_m=max_m,
            plt_edge_hist=False,
            plt_nbr_weights=False,
            plt_theta=False,
        )
        found, _ = generate_banksy_matrix(adata, found, [share], max_m, verbose=False)
        pca_umap(found, pca_dims=[min(20, adata.n_vars - 1)], plt_remaining_var=False)
        results, _ = run_Leiden_partition(
            found,
            [],
            max_labels=n_domains,
            partition_seed=random_state,
            match_labels=False,
            verbose=False,
        )
    nearest = (results["num_labels"] - n_domains).abs().idxmin()
    labels = np.asarray(results.loc[nearest, "labels"].dense)
    return np.unique(labels, return_inverse=True)[1].astype(np.int32) + 1
