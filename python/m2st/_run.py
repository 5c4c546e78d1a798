"""From counts to domains in one call."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_int,
    check_key,
    check_key_added,
    check_n_domains,
    check_numbers,
    check_seed,
    check_several,
    check_target,
)
from m2st._ensemble import processes
from m2st._model import Member, Model
from m2st._params import AutoencoderParams, ClusteringParams, DualParams, clustering_of
from m2st._plotting._palette import palette

if TYPE_CHECKING:
    from anndata import AnnData

    from m2st._features import ExpressionProjection, ReadyProjection
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st._nn._training import Callback
    from m2st.tl import Found

logger = logging.getLogger(__name__)

# Entries of the record that tell how a model was made.
_OF_RUN = ("n_members", "prepare", "graph", "embed", "n_domains", "cluster")
# Up to twelve domains are tried, each against one more.
_LEAST_FOR_AUTO = 13


def run(
    adata: AnnData,
    n_domains: int | Literal["auto"] | None,
    *,
    use_rep: str | None = None,
    n_pcs: int | None = None,
    layer: str | None = None,
    normalized: bool = False,
    spatial_key: str | None = None,
    sample_key: str | None = None,
    batch_key: str | None = None,
    cell_type_key: str | None = None,
    autoencoder: AutoencoderParams | None = None,
    clustering: ClusteringParams | DualParams | None = None,
    random_state: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    key_added: str = _keys.DEFAULT,
) -> Model:
    """Prepare, build the spatial graph, embed and cluster, in place.

    Parameters
    ----------
    adata
        n_obs observations with coordinates in ``obsm["spatial"]`` and raw counts. Observations with
        ``obs["in_tissue"]`` 0 or False, or without finite coordinates, take no part. Their domain
        is missing, and a warning says how many there are. A graph in
        ``obsp["spatial_connectivities"]`` is used as it is. If `m2st.pp` built it from other
        coordinates, sections or observations, it is built anew in the same way.
    n_domains
        Number of domains, or ``"auto"`` for `m2st.tl.choose_n_domains`. None embeds only: call
        `m2st.tl.cluster` afterwards.
    use_rep
        Ready features in place of the counts: a key of ``obsm``, or ``"X"``. Features of
        `m2st.pp.prepare` or `m2st.paper.prepare` are used as they are. Other features are
        brought to their components (`m2st.pp.prepare_embedding`). Effects of sections must already
        be removed.
    n_pcs
        Number of components of the expression or ready features. None takes 15, or the number of
        domains if that is more.
    layer
        Layer that holds the counts; None takes ``X``.
    normalized
        The expression is already normalised and on a log scale.
    spatial_key
        Coordinates in ``obsm``. None takes the coordinates of the graph in the object, else
        ``"spatial"``.
    sample_key
        Column of ``obs`` that names the tissue section. No edge joins two sections, and components
        of the expression have the same mean and variance in each. Domains have the same names in
        all. None takes the column of the graph in the object, if any.
    batch_key
        Column of ``obs`` that names what is shifted, such as the donor, the slide or the chemistry.
        Components have the same mean and variance in each of these in place of each section.
    cell_type_key
        Column of ``obs`` that names the cell type of each observation, if types are known. The
        shares of the types around each observation are then one more view of the tissue, as
        `m2st.tl.embed` says.
    autoencoder
        Settings of `m2st.tl.embed`; None takes the defaults.
    clustering
        Settings of `m2st.tl.cluster`; None takes the defaults. `m2st.paper.DualParams` takes the
        paper's own clustering, which needs a number of domains.
    random_state
        Seed of all stages, from 0 to 2**32 - 1. On a CPU the same seed gives the same bits,
        whatever the number of threads.
    device
        ``"auto"``, or a device as torch names it.
    n_jobs
        Members of the ensemble to work on at a time, as in `m2st.tl.embed`.
    progress
        Show a progress bar.
    callback
        Function of the epoch, the most epochs and the loss, called after each epoch. Epochs are
        counted over all members. If it returns False, the training ends. It needs a single job.
    checkpoint
        File from which an interrupted training resumes; each member has its own, numbered.
    key_added
        Name of the result, in place of ``m2st`` in all keys that are written. Results with
        different names live side by side in one object, each with its record. They share the
        spatial graph, whose report stays in ``uns["m2st"]["graph"]``.

    Returns
    -------
    The fitted model, to apply to other sections and to save.

    Writes
    ------
    The slots that `m2st.pp.prepare` or `m2st.pp.prepare_embedding`, `m2st.tl.embed` and
    `m2st.tl.cluster` list, and the graph of `m2st.pp.spatial_graph` if there is none:
    ``obs["m2st_domain"]``, ``obs["m2st_confidence"]``, ``obsm["X_m2st"]``,
    ``obsm["X_m2st_scale<m>"]``, with `average_hops` ``obsm["X_m2st_averages"]``, with
    `cell_type_key` ``obsm["X_m2st_cell_types"]``, ``obsm["X_m2st_pca"]``, the graph in ``obsp``,
    and the record in ``uns["m2st"]``.

    Raises
    ------
    KeyError, ValueError, TypeError
        If something is missing or unfit. The message says what to do. As far as possible, this is
        checked before any work.
    OSError
        If `checkpoint` cannot be written.

    Warns
    -----
    UserWarning
        As `m2st.pp.spatial_graph`, `m2st.pp.prepare` and `m2st.tl.embed`; and if a graph is
        replaced.

    Notes
    -----
    An interrupt from the keyboard ends the training, not the run. Domains are then found from the
    members that have learned something, and the record says so. A second interrupt ends the run.
    With several jobs, the first one does.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, n_domains=7, progress=False)
    >>> adata.obs["m2st_domain"].cat.categories.tolist()
    ['1', '2', '3', '4', '5', '6', '7']
    """
    from m2st import pp, tl

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
    keys = _keys.Keys(key_added)
    random_state = check_seed(random_state)
    auto = isinstance(n_domains, str)
    if use_rep is not None and (layer is not None or normalized):
        msg = (
            f"Expected either ready features or expression to prepare, found `use_rep={use_rep!r}` "
            "together with `layer` or `normalized`. Leave one of them out."
        )
        raise ValueError(msg)
    if use_rep is not None and batch_key is not None:
        msg = (
            "Expected either `use_rep`, ready features whose batches are aligned already, or "
            f"`batch_key`, found {use_rep!r} and {batch_key!r}. Leave one of them out."
        )
        raise ValueError(msg)
    if batch_key is not None:
        check_key(batch_key, adata.obs, where="adata.obs")
    if use_rep not in (None, "X"):
        hint = "Name ready features that are there, or leave `use_rep` out to prepare the counts."
        check_key(use_rep, adata.obsm, where="adata.obsm", hint=hint)
    if layer is not None:
        check_key(layer, adata.layers, where="adata.layers")
    ready = None if use_rep is None or tl.owner_of_features(adata, use_rep) is None else use_rep
    if ready is not None and n_pcs is not None:
        msg = (
            f"Expected `n_pcs` for features that are to be made, found {n_pcs} together with "
            f"`use_rep={use_rep!r}`, which is used as it is. Leave one of them out."
        )
        raise ValueError(msg)
    if n_pcs is None:
        n_pcs = pp.components_for(None if auto or n_domains is None else int(n_domains))
    check_int("n_pcs", n_pcs, minimum=1)
    place = pp.find_place(adata, spatial_key, sample_key)
    sample_key = place.sample_key
    if cell_type_key is not None:
        types = tl.cell_types_of(adata, cell_type_key, place.valid)
        if isinstance(clustering, DualParams) and clustering.specific_dim > len(types.names):
            msg = (
                f"Expected `specific_dim` of at most {len(types.names)}, the number of cell types, "
                f"found {clustering.specific_dim}. Give a smaller one."
            )
            raise ValueError(msg)
    pp.ensure_graph(adata, place.spatial_key, sample_key)
    projection: ExpressionProjection | ReadyProjection | None = None
    if use_rep is None:
        projection = pp.project_counts(
            adata,
            layer=layer,
            normalized=normalized,
            n_pcs=n_pcs,
            sample_key=sample_key,
            batch_key=batch_key,
            random_state=random_state,
            key_added=key_added,
        )
    elif ready is None:
        projection = pp.project_embedding(
            adata, use_rep, n_pcs=n_pcs, random_state=random_state, key_added=key_added
        )
    ready = ready or keys.features
    features = check_numbers(adata.obsm[ready], name=ready)
    _check_enough(n_domains, n_obs=int((place.valid & ~np.isnan(features).all(axis=1)).sum()))
    networks = tl.embed(
        adata,
        autoencoder,
        use_rep=ready,
        cell_type_key=cell_type_key,
        random_state=random_state,
        device=device,
        n_jobs=n_jobs,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
        key_added=key_added,
    )
    found = None
    if auto:
        n_domains = tl.choose_n_domains(
            adata,
            params=cast("ClusteringParams", clustering),
            random_state=random_state,
            n_jobs=n_jobs,
            key_added=key_added,
        )
        logger.info("Chosen: %d domains", n_domains)
    if n_domains is not None:
        logger.info("Clustering into %d domains", n_domains)
        found = tl.find_domains(
            adata,
            int(n_domains),
            clustering,
            random_state=random_state,
            n_jobs=n_jobs,
            key_added=key_added,
        )
    return _model_of(adata, keys, use_rep, projection, networks, found)


def check_run(
    adata: AnnData,
    n_domains: int | Literal["auto"] | None,
    *,
    autoencoder: AutoencoderParams | None,
    clustering: ClusteringParams | DualParams | None,
    random_state: int,
    device: str,
    n_jobs: int | None,
    callback: Callback | None,
    checkpoint: str | Path | None,
    key_added: str,
) -> None:
    """Require what a run needs, whatever its features are; before any work."""
    from m2st._nn._training import choose_device

    check_adata(adata)
    check_key_added(adata, key_added)
    check_several(adata)
    _check_enough(n_domains, n_obs=adata.n_obs)
    check_seed(random_state)
    if checkpoint is not None:
        check_target(Path(f"{checkpoint}.1"), (), overwrite=True)
    AutoencoderParams.of(autoencoder, name="autoencoder")
    clustering = clustering_of(clustering, name="clustering")
    if isinstance(n_domains, str) and isinstance(clustering, DualParams):
        msg = (
            'Expected a number of domains for the paper\'s own clustering, found "auto". Give a '
            "number."
        )
        raise ValueError(msg)
    choose_device(device)
    processes(n_jobs)
    if callback is not None and not callable(cast("object", callback)):
        msg = f"Expected `callback` to be a function, found {type(callback).__name__}."
        raise TypeError(msg)


def _model_of(
    adata: AnnData,
    keys: _keys.Keys,
    use_rep: str | None,
    projection: ExpressionProjection | ReadyProjection | None,
    networks: list[MaskedGraphAutoencoder],
    found: Found | None,
) -> Model:
    """Keep of a run what treats another section the same."""
    fits = [None] * len(networks) if found is None else [fit.to_domains() for fit in found.fits]
    names = () if found is None else tuple(adata.obs[keys.domain].cat.categories)
    record = adata.uns[keys.record]
    return Model(
        members=tuple(
            Member(network.cpu(), domains) for network, domains in zip(networks, fits, strict=True)
        ),
        domains=names,
        colors=tuple(palette(len(names))),
        use_rep=use_rep,
        normalized=bool(record.get("prepare", {}).get("normalized", False)),
        genes=tuple(map(str, adata.var_names)) if use_rep in (None, "X") else (),
        projection=projection,
        common=None if found is None else found.common,
        cell_type_key=record["embed"].get("cell_type_key"),
        cell_types=tuple(record["embed"].get("cell_types", ())),
        record=deepcopy({name: record[name] for name in _OF_RUN if name in record}),
    )


def _check_enough(n_domains: int | str | None, *, n_obs: int) -> None:
    """Require as many observations as domains, of those with features if they are known."""
    if n_domains is None:
        return
    if not isinstance(n_domains, str) or n_domains != "auto":
        check_n_domains(cast("int", n_domains), n_obs=n_obs)
    elif n_obs < _LEAST_FOR_AUTO:
        msg = (
            f"Expected at least {_LEAST_FOR_AUTO} observations with counts or features to choose "
            f'a number of domains, found {n_obs}. Give a number in place of "auto".'
        )
        raise ValueError(msg)
