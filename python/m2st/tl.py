"""Embedding and clustering of AnnData objects."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import (
    check_adata,
    check_features,
    check_graph,
    check_int,
    check_key,
    check_n_domains,
    check_numbers,
    check_rep,
    check_seed,
    graph_params,
    numbers_at,
    recorded_key,
    region_key,
    valid_observations,
    warn,
)
from m2st._ensemble import (
    apply_members,
    cluster_members,
    member_seeds,
    needed_memory,
    padded,
    refit_members,
    train_members,
)
from m2st._params import AutoencoderParams, ClusteringParams

if TYPE_CHECKING:
    from anndata import AnnData

    from m2st._clustering import Factors, MultiScaleClustering
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st._nn._training import Callback

__all__ = ["choose_n_domains", "cluster", "embed", "transform"]

logger = logging.getLogger(__name__)

# The least p-value of the 199 permutations is half of this.
_STRUCTURE_LEVEL = 0.01
# Ten pairs of members tell how far they agree.
_N_COMPARED = 5
# Share of edges between sections from which a graph evidently does not tell them apart.
_CROSSING = 0.1


def embed(
    adata: AnnData,
    params: AutoencoderParams | None = None,
    *,
    use_rep: str = _keys.FEATURES,
    random_state: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
) -> list[MaskedGraphAutoencoder]:
    """Train an ensemble of multi-scale masked graph autoencoders and embed every observation.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph in ``obsp["spatial_connectivities"]``.
    params
        Architecture, training and number E of members; None takes the defaults.
    use_rep
        Features to train on: a key of ``obsm``, or ``"X"`` for the expression matrix as it is.
    random_state
        Seed.
    device
        ``"auto"`` (CUDA, MPS or the CPU, whichever there is), or a device as torch names it.
    n_jobs
        Members to train at a time, by joblib, each in a process of its own and on one thread. None
        takes joblib's number, which is 1 outside of ``joblib.parallel_config``; the result is the
        same. With several jobs an interrupt from the keyboard is raised.
    progress
        Show a progress bar.
    callback
        Called after each epoch with the epoch, the most epochs, both counted over all members, and
        the loss; returning False ends the training. Needs a single job.
    checkpoint
        File from which an interrupted training resumes; each member has its own, numbered.

    Returns
    -------
    The trained models, to `save` or to use with `transform` on other sections.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``, float32 of shape (n_obs, E·d_m), for each scale m from 1: the
    members side by side.
    ``uns["m2st"]["n_members"]``: E.
    ``uns["m2st"]["embed"]``: parameters, seed, features used, device, how attention was computed,
    versions, loss of each member and epoch (NaN after its end), and how the training ended. A
    clustering from earlier embeddings is removed.

    Raises
    ------
    KeyError
        If features or graph are missing.
    ValueError
        If features or graph are unfit; if `m2st.pp` built the graph from other coordinates.

    Warns
    -----
    UserWarning
        If observations with features lie off the tissue, or have no finite coordinates; if a graph
        that `m2st.pp` did not build evidently does not belong to the coordinates, or links sections
        that lie on top of each other.

    Notes
    -----
    Observations whose features are missing altogether (all NaN, as `m2st.pp.prepare` leaves those
    without a count), that lie off the tissue (``obs["in_tissue"]`` 0 or False) or have no finite
    coordinates take no part and get NaN.
    """
    from m2st._graph import graph_report

    random_state = check_seed(random_state)
    features = check_rep(adata, use_rep)
    params = AutoencoderParams.of(params, name="params")
    n_members = params.members_for(len(features))
    params = replace(params, n_members=n_members)
    adjacency = check_graph(adata)
    _warn_of_given_graph(adata, adjacency)
    valid = _valid_rows(features)
    check_features(_rows(features, valid), name=use_rep)
    if adata.n_obs > params.batch_size:
        logger.info(
            "%d observations: working on pieces of at most about %d at a time, %.1f GiB in all.",
            adata.n_obs,
            params.batch_size,
            needed_memory(features, adjacency, params, n_members, n_jobs),
        )
    results = train_members(
        _rows(features, valid),
        induced_subgraph(adjacency, valid),
        params,
        member_seeds(random_state, n_members),
        device=device,
        n_jobs=n_jobs,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
    )
    forget_clustering(adata)
    write_scales(adata, [result.embeddings for result in results], valid)
    record = adata.uns[_keys.RECORD]
    report = graph_report(adjacency)
    if not report.items() <= record.get("graph", {}).items():
        known = {"method": "given"} if graph_params(adata) is None else record.get("graph", {})
        record["graph"] = {**known, **report}
    endings = [result.stopped for result in results]
    record["embed"] = {
        "params": params.to_dict(),
        "use_rep": use_rep,
        "random_state": random_state,
        "device": results[0].device,
        "attention": results[0].attention,
        "n_invalid": int((~valid).sum()),
        "loss": padded([result.loss for result in results]),
        "stopped": next(e for e in ("interrupted", "finished", "converged") if e in endings),
        "versions": {name: version(name) for name in ("m2st", "torch", "numpy", "scanpy")},
    }
    return [result.model for result in results]


def transform(
    adata: AnnData,
    models: Sequence[MaskedGraphAutoencoder],
    clusterings: Sequence[MultiScaleClustering] | None = None,
    *,
    use_rep: str = _keys.FEATURES,
) -> None:
    """Embed the observations of another section with trained models, and find their domains.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph.
    models
        What `embed` returned, or loaded by `MaskedGraphAutoencoder.load`.
    clusterings
        What `cluster` returned for the embeddings of these models; None embeds only.
    use_rep
        The same features as at training, such as scores on the same principal components: a key of
        ``obsm``, or ``"X"``.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``, float32 of shape (n_obs, E·d_m), for each scale m from 1: the
    members side by side.
    ``uns["m2st"]["n_members"]``: E.
    With `clusterings` also ``obs["m2st_domain"]``, the domains of the first section under the same
    names, of which some may be empty, and ``obs["m2st_confidence"]``. Otherwise a clustering from
    earlier embeddings is removed.

    Raises
    ------
    KeyError
        If features or graph are missing.
    TypeError
        If `models` or `clusterings` hold anything else.
    ValueError
        If there is no model, the numbers of models and clusterings differ, or features or graph do
        not fit; if `m2st.pp` built the graph from other coordinates.
    """
    from m2st._clustering import MultiScaleClustering
    from m2st._nn._autoencoder import MaskedGraphAutoencoder

    checked: list[tuple[str, object, type]] = [("models", models, MaskedGraphAutoencoder)]
    if clusterings is not None:
        checked.append(("clusterings", clusterings, MultiScaleClustering))
    for name, given, kind in checked:
        if not isinstance(given, Sequence) or not all(isinstance(one, kind) for one in given):
            msg = f"Expected `{name}` to be a list of {kind.__name__}, found {given!r}."
            raise TypeError(msg)
    if not models:
        msg = "Expected at least one trained model, found none."
        raise ValueError(msg)
    if clusterings is not None and len(clusterings) != len(models):
        msg = (
            f"Expected a clustering for each of the {len(models)} models, found "
            f"{len(clusterings)}. Pass what `m2st.tl.cluster` returned for these models."
        )
        raise ValueError(msg)
    features = check_rep(adata, use_rep)
    valid = _valid_rows(features)
    adjacency = induced_subgraph(check_graph(adata), valid)
    domains = [clustering.to_domains() for clustering in clusterings or ()]
    members, responsibilities = apply_members(models, domains, _rows(features, valid), adjacency, 1)
    forget_clustering(adata)
    write_scales(adata, members, valid)
    if clusterings is not None:
        mean = np.mean(responsibilities, axis=0)
        write_domains(adata, mean.argmax(axis=1), mean, valid)


def cluster(
    adata: AnnData,
    n_domains: int,
    params: ClusteringParams | None = None,
    *,
    random_state: int = 0,
    n_jobs: int | None = None,
) -> list[MultiScaleClustering]:
    """Find spatial domains from the embeddings of all scales and members.

    Each member is clustered by itself, `m2st.MultiScaleClustering`, then once more from the domains
    of the others: an optimum that one of them found and another missed. The domains are their
    consensus.

    Parameters
    ----------
    adata
        Observations that `embed` or `transform` has embedded, with their spatial graph.
    n_domains
        Number of domains K.
    params
        Settings of the clustering; None takes the defaults.
    random_state
        Seed.
    n_jobs
        Members to cluster at a time, as in `embed`.

    Returns
    -------
    The clustering of each member, its domains numbered like the consensus, for `transform`.

    Writes
    ------
    ``obs["m2st_domain"]``: categorical ``"1"`` to ``"K"``, by decreasing size.
    ``obs["m2st_confidence"]``: estimated probability that a run with another seed puts the
    observation into the same domain, in [0, 1].
    ``obsm["X_m2st"]``: the representation common to all scales and members, float32 of shape
    (n_obs, d_c).
    ``uns["m2st"]["cluster"]``: parameters, seed, stability of each domain and, a row for each
    member: agreement with the consensus, scale weights (the last is that of the common
    representation), objective of each iteration and of each start; and whether all converged.

    Observations without an embedding have a missing domain and NaN.

    Raises
    ------
    KeyError
        If there are no embeddings or no graph.
    ValueError
        If there are fewer observations than domains; if `m2st.pp` built the graph from other
        coordinates.

    Notes
    -----
    The confidence is the members' mean membership in the domain. It tells how far another seed
    would agree on the same data (measured in ``benchmarks/reliability.md``), not whether the domain
    is right: a domain may be confidently misplaced.
    """
    return find_domains(adata, n_domains, params, random_state=random_state, n_jobs=n_jobs).fits


class Found(NamedTuple):
    """The clustering of each member, and the loadings of what all have in common."""

    fits: list[MultiScaleClustering]
    common: Factors


def find_domains(
    adata: AnnData,
    n_domains: int,
    params: ClusteringParams | None,
    *,
    random_state: int,
    n_jobs: int | None,
) -> Found:
    """Do what `cluster` does, and return all that places other observations."""
    from m2st._clustering import common_factors, consensus

    random_state = check_seed(random_state)
    members, valid, adjacency = _members(adata)
    check_n_domains(n_domains, n_obs=int(valid.sum()))
    params = ClusteringParams.of(params, name="params").for_domains(n_domains)
    fits = cluster_members(members, adjacency, n_domains, params, random_state, n_jobs)
    fits = refit_members(fits, adjacency, n_jobs)
    found = consensus([fit.responsibilities_ for fit in fits])
    for fit, order in zip(fits, found.orders, strict=True):
        fit.reorder(order)
    write_domains(adata, found.labels, found.responsibilities, valid)
    together = [scale for scales in members for scale in scales]
    common = common_factors(together, params)
    adata.obsm[_keys.EMBEDDING] = side_by_side(common.project(together), valid)
    adata.uns.setdefault(_keys.RECORD, {})["cluster"] = {
        "params": params.to_dict(),
        "n_domains": n_domains,
        "random_state": random_state,
        "n_invalid": int((~valid).sum()),
        "stability": found.stability,
        "agreement": found.agreement,
        "scale_weights": np.stack([fit.scale_weights_ for fit in fits]),
        "objective": padded([fit.objective_ for fit in fits]),
        "start_objectives": np.stack([fit.start_objectives_ for fit in fits]),
        "converged": all(fit.converged_ for fit in fits),
    }
    return Found(fits, common)


def choose_n_domains(
    adata: AnnData,
    candidates: Sequence[int] = range(2, 13),
    params: ClusteringParams | None = None,
    *,
    random_state: int = 0,
    n_jobs: int | None = None,
) -> int:
    """Choose a number of domains by stability and by what each further domain explains.

    Parameters
    ----------
    adata
        Observations that `embed` has embedded, with features and spatial graph.
    candidates
        Numbers of domains to choose from, at least 2.
    params
        Settings of the clustering; None takes the defaults. Smoothness is left out: it would count
        as something that domains explain.
    random_state
        Seed.
    n_jobs
        Clusterings to run at a time, as in `embed`.

    Returns
    -------
    The number of domains; 1 if the data have no structure in space.

    Writes
    ------
    ``uns["m2st"]["n_domains"]``: the candidates with their stability (mean adjusted Rand index
    between members), gain (nats per observation over one domain less) and score, the p-value of the
    test for structure, and the choice.

    Raises
    ------
    KeyError
        If embeddings, features or graph are missing.
    TypeError
        If the candidates are not several whole numbers.
    ValueError
        If there are no candidates, or some are out of range; if `m2st.pp` built the graph from
        other coordinates.

    Warns
    -----
    UserWarning
        If the features of neighbours are not more alike than those of any two observations.

    Notes
    -----
    A guide, not a truth: tissue has domains within domains. Look at the curve,
    `m2st.pl.n_domains`, and at its other peaks. The network is not asked whether there is
    structure, because it smooths noise into domains as well, nor are components in which neighbours
    have a part: features of single observations are compared with those of permuted ones, at the
    level 0.01.
    """
    from m2st._clustering import number_of_domains
    from m2st._graph import spatial_structure

    if not isinstance(cast("object", candidates), Iterable):
        msg = f"Expected several numbers of domains as `candidates`, found {candidates!r}."
        raise TypeError(msg)
    for number in candidates:
        check_int("candidates", number, minimum=0)
    numbers = sorted({int(number) for number in candidates})
    if not numbers or numbers[0] < 2:
        msg = f"Expected `candidates` of at least 2 domains, found {numbers or 'none'}."
        raise ValueError(msg)
    random_state = check_seed(random_state)
    members, valid, adjacency = _members(adata)
    check_n_domains(numbers[-1] + 1, n_obs=int(valid.sum()))
    # Objectives are compared: one width for all, and no smoothness, which falls as domains shrink.
    params = replace(ClusteringParams.of(params, name="params").for_domains(1), smoothness=0.0)
    record = adata.uns.setdefault(_keys.RECORD, {})
    use_rep = record.get("embed", {}).get("use_rep", _keys.FEATURES)
    if use_rep == _keys.FEATURES and _keys.SINGLE in adata.obsm:
        use_rep = _keys.SINGLE
    p_value = spatial_structure(
        _rows(check_rep(adata, use_rep), valid), adjacency, random_state=random_state
    )
    fits = {
        number: cluster_members(
            members[:_N_COMPARED], adjacency, number, params, random_state, n_jobs
        )
        for number in sorted({k + step for k in numbers for step in (-1, 0, 1)})
    }
    found = number_of_domains(
        numbers,
        {number: [fit.labels_ for fit in fits[number]] for number in numbers},
        {
            number: float(np.mean([fit.objective_[-1] for fit in members_fits]))
            for number, members_fits in fits.items()
        },
    )
    structured = p_value <= _STRUCTURE_LEVEL
    if not structured:
        msg = (
            "The features of neighbours are no more alike than those of any two observations "
            f"(p = {p_value:.2g}): no structure in space, so 1 domain. Check that the coordinates "
            "belong to these observations."
        )
        warn(msg)
    chosen = found.chosen if structured else 1
    record["n_domains"] = {
        "candidates": found.candidates,
        "stability": found.stability,
        "gain": found.gain,
        "score": found.score,
        "p_value": p_value,
        "chosen": chosen,
    }
    return chosen


def _warn_of_given_graph(adata: AnnData, adjacency: sparse.csr_matrix) -> None:
    """Warn if a graph that `m2st.pp` did not build evidently does not fit the coordinates."""
    from m2st._graph import links_far
    from m2st._sections import find_overlay, overlay_in_words

    key = recorded_key(adata, "spatial_key") or _keys.COORDINATES
    coordinates = numbers_at(adata, key)
    if graph_params(adata) is not None or coordinates is None:
        return
    if links_far(adjacency, coordinates):
        msg = (
            f"The spatial graph in `adata.obsp` links observations that lie far apart in "
            f"`obsm[{key!r}]`, past nearer ones. If it was built from other coordinates, build it "
            "again with `m2st.pp.spatial_graph(adata)`."
        )
        warn(msg)
        return
    found = find_overlay(
        adata.obs,
        adata.obsm,
        spatial_key=key,
        sample_key=recorded_key(adata, "sample_key"),
        valid=valid_observations(adata),
        region_key=region_key(adata),
    )
    if found is None or found.kind == "arrays":
        return
    source, target = adjacency.nonzero()
    if (found.codes[source] != found.codes[target]).mean() > _CROSSING:
        msg = overlay_in_words(found, adata.obs, key)
        warn(f"{msg} The graph in `adata.obsp` links them: remove it, or build another.")


def _members(
    adata: AnnData,
) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.bool_], sparse.csr_matrix]:
    """Embeddings of all members and scales, where there are any, and the graph between them."""
    check_adata(adata)
    check_key(
        _keys.scale_embedding(1),
        adata.obsm,
        where="adata.obsm",
        hint="Run `m2st.tl.embed(adata)` first.",
    )
    scales: list[NDArray[np.float32]] = []
    while (key := _keys.scale_embedding(len(scales) + 1)) in adata.obsm:
        scales.append(check_numbers(adata.obsm[key], name=f"adata.obsm[{key!r}]"))
    n_members = adata.uns.get(_keys.RECORD, {}).get("n_members", 1)
    check_int(f"adata.uns['{_keys.RECORD}']['n_members']", n_members, minimum=1)
    uneven = [scale.shape[1] for scale in scales if scale.shape[1] % n_members]
    if uneven:
        msg = (
            f"Expected embeddings of {n_members} members, found {uneven[0]} columns. "
            "Run `m2st.tl.embed(adata)` again."
        )
        raise ValueError(msg)
    valid = _valid_rows(scales[0])
    parts = [np.split(_rows(scale, valid), n_members, axis=1) for scale in scales]
    return (
        [list(member) for member in zip(*parts, strict=True)],
        valid,
        induced_subgraph(check_graph(adata), valid),
    )


def _valid_rows(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Observations with values: the others are all NaN."""
    return np.asarray(~np.isnan(values).all(axis=1))


def _rows(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of the valid observations; not copied if these are all."""
    return values if valid.all() else values[valid]


def induced_subgraph(adjacency: sparse.csr_matrix, valid: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Graph between the valid observations; not copied if these are all."""
    return adjacency if valid.all() else adjacency[valid][:, valid]


def side_by_side(parts: Sequence[NDArray[Any]], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Columns of the valid observations side by side, NaN in the rows of the others."""
    ends = np.cumsum([part.shape[1] for part in parts])
    full = np.full((len(valid), ends[-1]), np.nan, dtype=np.float32)
    for end, part in zip(ends, parts, strict=True):
        full[valid, end - part.shape[1] : end] = part
    return full


def write_scales(
    adata: AnnData, members: list[list[NDArray[np.float32]]], valid: NDArray[np.bool_]
) -> None:
    """Write the embedding of each scale; those of an earlier run with more scales go."""
    prefix = _keys.scale_embedding("")
    for key in list(adata.obsm):
        if key.startswith(prefix) and key.removeprefix(prefix).isdecimal():  # others are not ours
            del adata.obsm[key]
    for scale, parts in enumerate(zip(*members, strict=True), start=1):
        adata.obsm[_keys.scale_embedding(scale)] = side_by_side(parts, valid)
    adata.uns.setdefault(_keys.RECORD, {})["n_members"] = len(members)


def write_domains(
    adata: AnnData,
    labels: NDArray[np.intp],
    responsibilities: NDArray[np.float64],
    valid: NDArray[np.bool_],
    names: Sequence[str] | None = None,
) -> None:
    """Write domains, and responsibilities in them, of the valid observations; missing elsewhere.

    Without names they are numbered from 1.
    """
    codes = np.full(adata.n_obs, -1)
    codes[valid] = labels
    sure = np.full(adata.n_obs, np.nan)
    sure[valid] = np.minimum(responsibilities[np.arange(len(labels)), labels], 1)
    if names is None:
        names = [str(number) for number in range(1, responsibilities.shape[1] + 1)]
    adata.obs[_keys.DOMAIN] = pd.Categorical.from_codes(codes, categories=names)
    adata.obs[_keys.CONFIDENCE] = sure


def forget_clustering(adata: AnnData) -> None:
    """Remove domains that no longer belong to the embeddings."""
    for column in {_keys.DOMAIN, _keys.CONFIDENCE} & set(adata.obs):
        del adata.obs[column]
    adata.obsm.pop(_keys.EMBEDDING, None)
    for entry in ("cluster", "n_domains"):
        adata.uns.get(_keys.RECORD, {}).pop(entry, None)
