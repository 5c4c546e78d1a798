"""The published method, whole: its features, its network, its clustering.

The defaults of `m2st.run` leave the paper where measurement says so. This module does not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from m2st import _keys, pp
from m2st._checks import (
    check_adata,
    check_int,
    check_key,
    check_key_added,
    check_seed,
    valid_observations,
    warn,
    warn_invalid,
)
from m2st._clustering import DualClustering
from m2st._features import as_published, take
from m2st._params import AutoencoderParams, DualParams
from m2st._run import check_run
from m2st._run import run as run_engine

if TYPE_CHECKING:
    from anndata import AnnData

    from m2st._model import Model
    from m2st._nn._training import Callback

__all__ = [
    "AUTOENCODER",
    "PUBLISHED_CODE",
    "DualClustering",
    "DualParams",
    "prepare",
    "run",
]

AUTOENCODER = AutoencoderParams(
    n_members=1,
    scale_dims=(128, 64),
    hidden_dim=256,
    n_layers=1,
    average_hops=0,
    use_prelu=True,
    loss_exponent=2.0,
    n_epochs=200,
    learning_rate=5e-3,
    min_delta=0.0,
)
"""The network of the paper: one model, two scales, PReLU, masks of 0.5, γ = 2, ε = 0.01."""

PUBLISHED_CODE = replace(
    AUTOENCODER, negative_slope=0.2, feature_dropout=0.2, attention_dropout=0.1
)
"""As the published code has it where it leaves the paper: ε = 0.2 and dropout.

Its two networks without a shared encoder, and zeros as its second mask, are not repeated.
"""


def prepare(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_pcs: int = 200,
    min_cells: int = 3,
    random_state: int = 0,
    key_added: str = _keys.DEFAULT,
) -> None:
    """Make features by the recipe of the published m2ST runs, to reproduce published numbers.

    Genes present in at least `min_cells` observations are kept. Library sizes are brought to 1,
    without genes that hold over 5 % of the counts of any observation. Each gene is scaled to
    variance 1. The features are the principal components.

    Parameters
    ----------
    adata
        n_obs × n_vars, raw counts in ``X`` or a layer.
    layer
        Layer that holds the counts; ``X`` if not given.
    n_pcs
        Number of components; fewer if there are too few observations or genes.
    min_cells
        Least number of observations in which a gene must be present.
    random_state
        Seed of the iterative eigensolver's first vector.
    key_added
        Name of the result, as for `run`.

    Writes
    ------
    ``obsm["X_m2st_pca"]``
        float32, (n_obs, n_pcs): component scores. Rows of observations without counts, off the
        tissue or without coordinates are NaN (see `m2st.pp.spatial_graph`).
    ``uns["m2st"]["prepare"]``
        Parameters, and the numbers of genes, components and empty observations.

    Raises
    ------
    ValueError
        If there is no matrix; if fewer than two observations, or two varying genes, have counts; if
        values are negative, not finite or on a log scale; if names are not unique.
    KeyError
        If the layer is missing.

    Warns
    -----
    UserWarning
        If counts are fractional; if observations have no counts, lie off the tissue or have no
        coordinates; if observations only have counts of genes left out of the library size.

    Notes
    -----
    Not the default: a few outlying observations dominate whole components
    (``docs/departures.md``).

    Genes are not centred before PCA, which centres them itself. The scores are the same, and the
    matrix stays sparse.

    References
    ----------
    Zhang W, Zhang Z, Yang H, et al. m2ST: dual multi-scale graph clustering for spatially resolved
    transcriptomics. Bioinformatics, 2025.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> counts = np.random.default_rng(0).poisson(1.0, size=(60, 200)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> m2st.paper.prepare(adata, n_pcs=5)
    >>> adata.obsm["X_m2st_pca"].shape
    (60, 5)
    """
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_int("n_pcs", n_pcs, minimum=1)
    check_int("min_cells", min_cells, minimum=1)
    random_state = check_seed(random_state)
    valid = valid_observations(adata)
    matrix, name, _, of_genes = pp.survey(adata, layer, valid, normalized=False)
    genes = of_genes.n_cells >= min_cells
    counts = take(matrix, np.ones(adata.n_obs, dtype=bool), genes)
    filled = valid & (counts.sum(axis=1).A1 > 0)
    pp.check_filled(filled, genes, name)
    scores, n_genes, n_raw = as_published(counts[filled], n_pcs=n_pcs, random_state=random_state)
    parameters = {"min_cells": min_cells, "n_genes": n_genes}
    pp.write_features(adata, keys, filled, scores, "paper", layer, random_state, parameters)
    warn_invalid(int((~valid).sum()), n_obs=adata.n_obs)
    if n_raw:
        msg = (
            f"{n_raw} of {adata.n_obs} observations only have counts of genes that hold over 5 % "
            "of some observation, which this recipe leaves out of the library size: they stay raw. "
            "`m2st.pp.prepare` has no such limit."
        )
        warn(msg)


def run(
    adata: AnnData,
    n_domains: int | None,
    *,
    n_pcs: int = 200,
    min_cells: int = 3,
    layer: str | None = None,
    spatial_key: str | None = None,
    sample_key: str | None = None,
    autoencoder: AutoencoderParams = AUTOENCODER,
    clustering: DualParams | None = None,
    random_state: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    key_added: str = _keys.DEFAULT,
) -> Model:
    """Find domains by the published method: `prepare`, then `m2st.run` with its settings.

    Parameters
    ----------
    adata
        n_obs observations with coordinates and raw counts, as for `m2st.run`.
    n_domains
        Number of domains; None embeds only.
    n_pcs, min_cells
        Features, as for `prepare`.
    layer
        Layer that holds the counts; None takes ``X``.
    spatial_key, sample_key
        Coordinates and sections, as for `m2st.run`. Features are not corrected for sections.
    autoencoder
        Settings of the network: `AUTOENCODER`, `PUBLISHED_CODE`, or others.
    clustering
        Settings of `DualClustering`; None takes the defaults, with the solver ``"descent"``.
    random_state, device, n_jobs, progress, callback, checkpoint, key_added
        As for `m2st.run`.

    Returns
    -------
    The fitted model. It does not know how its features were made, so it applies to no other
    section.

    Writes
    ------
    The slots of `m2st.run`. The record says ``"paper"`` in ``uns["m2st"]["prepare"]["recipe"]`` and
    ``"dual"`` in ``uns["m2st"]["cluster"]["method"]``. ``obs["m2st_confidence"]`` is NaN with a
    single model, because labels without probabilities do not say how sure they are.

    Raises
    ------
    KeyError, ValueError, TypeError, OSError
        As `m2st.run`.

    Warns
    -----
    UserWarning
        As `prepare` and `m2st.run`.

    Examples
    --------
    >>> import m2st
    >>> from dataclasses import replace
    >>> adata = m2st.datasets.simulate_cortex(n_obs=150, n_genes=80)
    >>> few = replace(m2st.paper.AUTOENCODER, n_epochs=3)
    >>> model = m2st.paper.run(adata, 7, n_pcs=20, autoencoder=few, progress=False)
    >>> adata.uns["m2st"]["cluster"]["method"]
    'dual'
    """
    clustering = DualParams.of(clustering, name="clustering")
    check_run(
        adata,
        n_domains,
        autoencoder=autoencoder,
        clustering=clustering,
        random_state=random_state,
        device=device,
        n_jobs=n_jobs,
        callback=callback,
        checkpoint=checkpoint,
        key_added=key_added,
    )
    if layer is not None:
        check_key(layer, adata.layers, where="adata.layers")
    place = pp.find_place(adata, spatial_key, sample_key)
    pp.ensure_graph(adata, place.spatial_key, place.sample_key)
    prepare(
        adata,
        layer=layer,
        n_pcs=n_pcs,
        min_cells=min_cells,
        random_state=random_state,
        key_added=key_added,
    )
    return run_engine(
        adata,
        n_domains,
        use_rep=_keys.Keys(key_added).features,
        spatial_key=spatial_key,
        sample_key=sample_key,
        autoencoder=autoencoder,
        clustering=clustering,
        random_state=random_state,
        device=device,
        n_jobs=n_jobs,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
        key_added=key_added,
    )
