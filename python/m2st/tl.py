"""Embedding and clustering of AnnData objects."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import check_adjacency, check_features, check_key, check_n_domains
from m2st._params import AutoencoderParams, ClusteringParams

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from m2st._autoencoder import MaskedGraphAutoencoder
    from m2st._training import Callback

__all__ = ["cluster", "embed", "transform"]

logger = logging.getLogger(__name__)


def embed(
    adata: AnnData,
    params: AutoencoderParams | None = None,
    *,
    use_rep: str = _keys.FEATURES,
    random_state: int = 0,
    device: str = "auto",
    progress: bool = True,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> MaskedGraphAutoencoder:
    """Train the multi-scale masked graph autoencoder and embed every observation.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph in ``obsp["spatial_connectivities"]``.
    params
        Architecture and training; None takes the defaults.
    use_rep
        Features to train on: a key of ``obsm``, or ``"X"`` for the expression matrix as it is.
    random_state
        Seed.
    device
        ``"auto"`` (CUDA, MPS or the CPU, whichever there is), or a device as torch names it.
    progress
        Show a progress bar.
    callback
        Called after each epoch with the epoch, the most epochs, and the loss; returning False ends
        the training.
    checkpoint
        File from which an interrupted training resumes.

    Returns
    -------
    The trained model, to `save` or to use with `transform` on other sections.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``, float32 of shape (n_obs, d_m), for each scale m from 1.
    ``uns["m2st"]["embed"]``: parameters, seed, features used, device, versions, loss of each epoch,
    and how the training ended. A clustering from earlier embeddings is removed.

    Raises
    ------
    KeyError
        If features or graph are missing.
    ValueError
        If features or graph are unfit.

    Notes
    -----
    Observations whose features are missing altogether (all NaN, as `m2st.pp.prepare` leaves those
    without a count) take no part and get NaN.
    """
    from m2st._graph import graph_report
    from m2st._training import train

    params = params or AutoencoderParams()
    features = _features(adata, use_rep)
    adjacency = _adjacency(adata)
    placed = _placed(features)
    check_features(features[placed], name=use_rep)
    result = train(
        features[placed],
        adjacency[placed][:, placed],
        params,
        random_state=random_state,
        device=device,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
    )
    _forget_clustering(adata)
    _write_scales(adata, result.embeddings, placed)
    record = adata.uns.setdefault(_keys.RECORD, {})
    report = graph_report(adjacency)
    if not report.items() <= record.get("graph", {}).items():
        record["graph"] = {"method": "given"} | report
    record["embed"] = {
        "params": params.to_dict(),
        "use_rep": use_rep,
        "random_state": random_state,
        "device": result.device,
        "n_unplaced": int((~placed).sum()),
        "loss": result.loss,
        "stopped": result.stopped,
        "versions": {name: version(name) for name in ("m2st", "torch", "numpy", "scanpy")},
    }
    return result.model


def transform(
    adata: AnnData, model: MaskedGraphAutoencoder, *, use_rep: str = _keys.FEATURES
) -> None:
    """Embed the observations of another section with a trained model.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph.
    model
        What `embed` returned, or `MaskedGraphAutoencoder.load`.
    use_rep
        The same features as at training, such as scores on the same principal components: a key of
        ``obsm``, or ``"X"``.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``, float32 of shape (n_obs, d_m), for each scale m from 1.
    A clustering from earlier embeddings is removed.

    Raises
    ------
    KeyError
        If features or graph are missing.
    ValueError
        If features or graph do not fit.
    """
    features = _features(adata, use_rep)
    adjacency = _adjacency(adata)
    placed = _placed(features)
    embeddings = model.transform(features[placed], adjacency[placed][:, placed])
    _forget_clustering(adata)
    _write_scales(adata, embeddings, placed)


def cluster(
    adata: AnnData,
    n_domains: int,
    params: ClusteringParams | None = None,
    *,
    random_state: int = 0,
) -> None:
    """Find spatial domains from the embeddings of all scales.

    Parameters
    ----------
    adata
        Observations that `embed` or `transform` has embedded.
    n_domains
        Number of domains.
    params
        Settings of the clustering; None takes the defaults.
    random_state
        Seed.

    Writes
    ------
    ``obs["m2st_domain"]``: categorical ``"1"`` to ``"K"``, by decreasing size.
    ``obsm["X_m2st"]``: the representation common to all scales, float32 of shape (n_obs, d_c).
    ``uns["m2st"]["cluster"]``: parameters, seed, scale weights (the last is that of the common
    representation), objective of each iteration and of each start, and whether it converged.

    Observations without an embedding have a missing domain and NaN.

    Raises
    ------
    KeyError
        If there are no embeddings.
    ValueError
        If there are fewer observations than domains.
    """
    from m2st._clustering import MultiScaleClustering

    params = params or ClusteringParams()
    scales = _scales(adata)
    check_n_domains(n_domains, n_obs=adata.n_obs)
    placed = _placed(scales[0])
    found = MultiScaleClustering(n_domains, params, random_state=random_state).fit(
        [scale[placed] for scale in scales]
    )
    codes = np.full(adata.n_obs, -1)
    codes[placed] = found.labels_
    names = [str(number) for number in range(1, n_domains + 1)]
    adata.obs[_keys.DOMAIN] = pd.Categorical.from_codes(codes, categories=names)
    adata.obsm[_keys.EMBEDDING] = _spread(found.common_, placed)
    adata.uns.setdefault(_keys.RECORD, {})["cluster"] = {
        "params": params.to_dict(),
        "n_domains": n_domains,
        "random_state": random_state,
        "n_unplaced": int((~placed).sum()),
        "scale_weights": found.scale_weights_,
        "objective": found.objective_,
        "start_objectives": found.start_objectives_,
        "converged": found.converged_,
    }


def _features(adata: AnnData, use_rep: str) -> NDArray[np.float32]:
    """Feature matrix named by the user; only here does it become dense, n_obs × n_features."""
    if adata.n_obs < 2:
        msg = f"Expected at least 2 observations, found {adata.n_obs}."
        raise ValueError(msg)
    if use_rep == "X":
        matrix: Any = adata.X
        if matrix is None:
            msg = "Expected an expression matrix in `adata.X`, found none."
            raise ValueError(msg)
    else:
        check_key(
            use_rep,
            adata.obsm,
            where="adata.obsm",
            hint="Run `m2st.pp.prepare(adata)` first, or name ready features with `use_rep=`.",
        )
        matrix = adata.obsm[use_rep]
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    features = np.asarray(dense, dtype=np.float32)
    if features.ndim != 2:
        msg = f"Expected `{use_rep}` of shape (n_obs, n_features), found {features.shape}."
        raise ValueError(msg)
    return features


def _adjacency(adata: AnnData) -> sparse.csr_matrix:
    """Spatial graph of the object."""
    check_key(
        _keys.CONNECTIVITIES,
        adata.obsp,
        where="adata.obsp",
        hint="Run `m2st.pp.spatial_graph(adata)` first.",
    )
    adjacency = adata.obsp[_keys.CONNECTIVITIES]
    check_adjacency(adjacency, n_obs=adata.n_obs, name=f'adata.obsp["{_keys.CONNECTIVITIES}"]')
    return sparse.csr_matrix(adjacency)


def _scales(adata: AnnData) -> list[NDArray[np.float32]]:
    """Embeddings of all scales."""
    check_key(
        _keys.scale_embedding(1),
        adata.obsm,
        where="adata.obsm",
        hint="Run `m2st.tl.embed(adata)` first.",
    )
    scales: list[NDArray[np.float32]] = []
    while (key := _keys.scale_embedding(len(scales) + 1)) in adata.obsm:
        scales.append(np.asarray(adata.obsm[key]))
    return scales


def _placed(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Observations with values: the others are all NaN."""
    return np.asarray(~np.isnan(values).all(axis=1))


def _spread(values: NDArray[Any], placed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of the placed observations, NaN elsewhere."""
    full = np.full((len(placed), values.shape[1]), np.nan, dtype=np.float32)
    full[placed] = values
    return full


def _write_scales(
    adata: AnnData, embeddings: list[NDArray[np.float32]], placed: NDArray[np.bool_]
) -> None:
    """Write the embedding of each scale; those of an earlier run with more scales go."""
    for key in [key for key in adata.obsm if key.startswith(_keys.scale_embedding(""))]:
        del adata.obsm[key]
    for scale, embedding in enumerate(embeddings, start=1):
        adata.obsm[_keys.scale_embedding(scale)] = _spread(embedding, placed)


def _forget_clustering(adata: AnnData) -> None:
    """Remove domains that no longer belong to the embeddings."""
    adata.obs.drop(columns=_keys.DOMAIN, errors="ignore", inplace=True)
    adata.obsm.pop(_keys.EMBEDDING, None)
    adata.uns.get(_keys.RECORD, {}).pop("cluster", None)
