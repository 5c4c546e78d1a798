"""Embedding and clustering of AnnData objects."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

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
    check_target,
    graph_params,
    numbers_at,
    recorded_key,
    region_key,
    valid_observations,
    warn,
)
from m2st._params import AutoencoderParams, ClusteringParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from m2st._clustering import MultiScaleClustering
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st._nn._training import Callback, TrainingResult

__all__ = ["choose_n_domains", "cluster", "embed", "transform"]

logger = logging.getLogger(__name__)

# Held by the one member that this process works on.
_TURN = Lock()

# The least p-value of the 199 permutations is half of this.
_STRUCTURE_LEVEL = 0.01
# Ten pairs of members tell how far they agree.
_N_COMPARED = 5
# Members take over each other's optima: the best so many, for so many rounds at most.
_MAX_STARTS, _MAX_ROUNDS = 5, 3
# Share of edges between sections from which a graph evidently does not tell them apart.
_CROSSING = 0.1
# Adjusted Rand index from which two labellings lead to the same optimum.
_SAME = 0.95


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
    placed = _placed(features)
    check_features(_rows(features, placed), name=use_rep)
    if adata.n_obs > params.batch_size:
        logger.info(
            "%d observations: working on pieces of at most about %d at a time, %.1f GiB in all.",
            adata.n_obs,
            params.batch_size,
            _needed_memory(features, adjacency, params, n_members, n_jobs),
        )
    results = _train_members(
        _rows(features, placed),
        _between(adjacency, placed),
        params,
        _member_seeds(random_state, n_members),
        device=device,
        n_jobs=n_jobs,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
    )
    _forget_clustering(adata)
    _write_scales(adata, [result.embeddings for result in results], placed)
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
        "n_unplaced": int((~placed).sum()),
        "loss": _padded([result.loss for result in results]),
        "stopped": next(e for e in ("interrupted", "finished", "settled") if e in endings),
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
    ValueError
        If there is no model, the numbers of models and clusterings differ, or features or graph do
        not fit; if `m2st.pp` built the graph from other coordinates.
    """
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
    placed = _placed(features)
    adjacency = _between(check_graph(adata), placed)
    members = [model.transform(_rows(features, placed), adjacency) for model in models]
    _forget_clustering(adata)
    _write_scales(adata, members, placed)
    if clusterings is not None:
        memberships = [
            clustering.predict_proba(scales, connectivities=adjacency)
            for clustering, scales in zip(clusterings, members, strict=True)
        ]
        mean = np.mean(memberships, axis=0)
        _write_domains(adata, mean.argmax(axis=1), mean, placed)


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
    from m2st._clustering import common_representation, consensus

    random_state = check_seed(random_state)
    members, placed, adjacency = _members(adata)
    check_n_domains(n_domains, n_obs=int(placed.sum()))
    params = ClusteringParams.of(params, name="params").for_domains(n_domains)
    fits = _cluster_members(members, adjacency, n_domains, params, random_state, n_jobs)
    fits = _improve_members(fits, adjacency, n_jobs)
    found = consensus([fit.responsibilities_ for fit in fits])
    for fit, order in zip(fits, found.orders, strict=True):
        fit.reorder(order)
    _write_domains(adata, found.labels, found.responsibilities, placed)
    common = common_representation([scale for scales in members for scale in scales], params)
    adata.obsm[_keys.EMBEDDING] = _spread([common], placed)
    adata.uns.setdefault(_keys.RECORD, {})["cluster"] = {
        "params": params.to_dict(),
        "n_domains": n_domains,
        "random_state": random_state,
        "n_unplaced": int((~placed).sum()),
        "stability": found.stability,
        "agreement": found.agreement,
        "scale_weights": np.stack([fit.scale_weights_ for fit in fits]),
        "objective": _padded([fit.objective_ for fit in fits]),
        "start_objectives": np.stack([fit.start_objectives_ for fit in fits]),
        "converged": all(fit.converged_ for fit in fits),
    }
    return fits


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

    for number in candidates:
        check_int("candidates", number, minimum=0)
    numbers = sorted({int(number) for number in candidates})
    if not numbers or numbers[0] < 2:
        msg = f"Expected `candidates` of at least 2 domains, found {numbers or 'none'}."
        raise ValueError(msg)
    random_state = check_seed(random_state)
    members, placed, adjacency = _members(adata)
    check_n_domains(numbers[-1] + 1, n_obs=int(placed.sum()))
    # Objectives are compared: one width for all, and no smoothness, which falls as domains shrink.
    params = replace(ClusteringParams.of(params, name="params").for_domains(1), smoothness=0.0)
    record = adata.uns.setdefault(_keys.RECORD, {})
    use_rep = record.get("embed", {}).get("use_rep", _keys.FEATURES)
    if use_rep == _keys.FEATURES and _keys.SINGLE in adata.obsm:
        use_rep = _keys.SINGLE
    p_value = spatial_structure(
        _rows(check_rep(adata, use_rep), placed), adjacency, random_state=random_state
    )
    fits = {
        number: _cluster_members(
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


def _needed_memory(
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    params: AutoencoderParams,
    n_members: int,
    n_jobs: int | None,
) -> float:
    """Estimate of the memory that embedding and clustering take, in GiB.

    Embeddings of all members, twice while they are brought together; in each job those of a member
    and its clustering, features and graph; and the libraries in every process, as
    ``benchmarks/scale.py`` measures it.
    """
    from joblib import effective_n_jobs

    n_obs, n_features = features.shape
    jobs = min(effective_n_jobs(_processes(n_jobs)), n_members)
    width = sum(params.scale_dims)
    results = 8 * n_obs * n_members * width
    job = 8 * n_obs * (n_features + width) + 80 * adjacency.nnz
    libraries = 0.6 * 2**30
    return float((results + jobs * job + (1 + (jobs if jobs > 1 else 0)) * libraries) / 2**30)


def _train_members(
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    params: AutoencoderParams,
    seeds: list[int],
    *,
    device: str,
    n_jobs: int | None,
    progress: bool,
    callback: Callback | None,
    checkpoint: str | Path | None,
) -> list[TrainingResult]:
    """Train a member for each seed; after an interrupt, those so far and the interrupted one."""
    from joblib import Parallel, effective_n_jobs
    from tqdm import tqdm

    from m2st._nn._training import train

    n_members = len(seeds)
    files = [
        None if checkpoint is None else f"{checkpoint}.{number}"
        for number in range(1, n_members + 1)
    ]
    for file in files:
        if file is not None:
            check_target(Path(file), (), overwrite=True)
    n_jobs = _processes(n_jobs)
    if effective_n_jobs(n_jobs) > 1 and n_members > 1:
        if callback is not None:
            msg = "Expected no `callback` with several jobs, found one. Set `n_jobs=1`."
            raise ValueError(msg)
        tasks = (
            _delayed(train)(
                features, adjacency, params, random_state=seed, device=device, checkpoint=file
            )
            for seed, file in zip(seeds, files, strict=True)
        )
        done = Parallel(n_jobs=n_jobs, prefer="processes", return_as="generator")(tasks)
        return list(tqdm(done, total=n_members, disable=not progress, desc="Training members"))
    results: list[TrainingResult] = []
    n_epochs = params.n_epochs
    with tqdm(total=n_members * n_epochs, disable=not progress, desc="Training") as bar:
        for member, (seed, file) in enumerate(zip(seeds, files, strict=True)):

            def report(epoch: int, _: int, loss: float, member: int = member) -> object:
                epoch += member * n_epochs
                bar.n = epoch
                bar.set_postfix(member=member + 1, loss=f"{loss:.4f}", refresh=False)
                bar.update(0)
                return None if callback is None else callback(epoch, n_members * n_epochs, loss)

            result = train(
                features,
                adjacency,
                params,
                random_state=seed,
                device=device,
                callback=report,
                checkpoint=file,
            )
            # A member without any epoch has learned nothing.
            if len(result.loss) or not results:
                results.append(result)
            if result.stopped == "interrupted":
                results[-1] = replace(results[-1], stopped="interrupted")
                break
        else:
            bar.n = bar.total
    return results


def _cluster_members(
    members: list[list[NDArray[np.float32]]],
    adjacency: sparse.csr_matrix,
    n_domains: int,
    params: ClusteringParams,
    random_state: int,
    n_jobs: int | None,
) -> list[MultiScaleClustering]:
    """Cluster each member by itself."""
    from joblib import Parallel

    from m2st._clustering import MultiScaleClustering

    seeds = _member_seeds(random_state, len(members))
    fits: list[MultiScaleClustering] = Parallel(n_jobs=_processes(n_jobs), prefer="processes")(
        _delayed(MultiScaleClustering.from_params(n_domains, params, random_state=seed).fit)(
            scales, connectivities=adjacency
        )
        for seed, scales in zip(seeds, members, strict=True)
    )
    return fits


def _improve_members(
    fits: list[MultiScaleClustering], adjacency: sparse.csr_matrix, n_jobs: int | None
) -> list[MultiScaleClustering]:
    """Let each member start from what the others found, too, until none gains by it."""
    from joblib import Parallel

    improved = fits if len(fits) > 1 else []
    for _ in range(_MAX_ROUNDS):
        # What a member kept has been tried by all.
        starts = _distinct(sorted(improved, key=lambda fit: fit.objective_[-1]))[:_MAX_STARTS]
        if not starts:
            break
        before = [fit.objective_[-1] for fit in fits]
        fits = Parallel(n_jobs=_processes(n_jobs), prefer="processes")(
            _delayed(fit.refit)(starts, connectivities=adjacency) for fit in fits
        )
        improved = [
            fit for fit, value in zip(fits, before, strict=True) if fit.objective_[-1] < value
        ]
    return fits


def _distinct(fits: list[MultiScaleClustering]) -> list[NDArray[np.intp]]:
    """Labels of which no two are nearly the same; of those that are, the first."""
    from sklearn.metrics import adjusted_rand_score

    kept: list[NDArray[np.intp]] = []
    for fit in fits:
        if all(adjusted_rand_score(fit.labels_, other) < _SAME for other in kept):
            kept.append(fit.labels_)
    return kept


def _delayed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Delay a call as joblib does, for one member, in any process.

    Arguments are bound to the function: those that joblib sees it stores on a single Dask worker,
    and with that worker they are lost.
    """
    from joblib import delayed

    return lambda *values, **named: delayed(partial(_alone, function, *values, **named))()


def _alone(function: Callable[..., Any], *values: Any, **named: Any) -> Any:
    """Call a function while this process works on no other member.

    Members in threads, such as those of a Dask worker, would share torch's random stream and the
    limit on the threads of linear algebra.
    """
    with _TURN:
        return function(*values, **named)


def _processes(n_jobs: int | None) -> int | None:
    """Number of jobs, but one where joblib is set to threads.

    A process has one random stream of torch's and one limit on the threads of its linear algebra,
    which members in threads would share.
    """
    from joblib.parallel import get_active_backend

    if n_jobs is not None:
        check_int("n_jobs", n_jobs, minimum=-(2**31))
        if n_jobs == 0:
            msg = (
                "Expected `n_jobs` other than 0. Pass 1 for one after the other, -1 for all cores."
            )
            raise ValueError(msg)
    backend, _ = get_active_backend(prefer="processes")
    return 1 if getattr(backend, "supports_sharedmem", False) else n_jobs


def _member_seeds(random_state: int, n_members: int) -> list[int]:
    """A seed for each member, the same whatever their number."""
    return [
        int(np.random.SeedSequence([random_state, member]).generate_state(1)[0])
        for member in range(n_members)
    ]


def _padded(histories: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Histories of different lengths as rows, NaN after their ends."""
    rows = np.full((len(histories), max(map(len, histories))), np.nan)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = history
    return rows


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
    placed = _placed(scales[0])
    parts = [np.split(_rows(scale, placed), n_members, axis=1) for scale in scales]
    return (
        [list(member) for member in zip(*parts, strict=True)],
        placed,
        _between(check_graph(adata), placed),
    )


def _placed(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Observations with values: the others are all NaN."""
    return np.asarray(~np.isnan(values).all(axis=1))


def _rows(values: NDArray[np.float32], placed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of the placed observations; not copied if these are all."""
    return values if placed.all() else values[placed]


def _between(adjacency: sparse.csr_matrix, placed: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Graph between the placed observations; not copied if these are all."""
    return adjacency if placed.all() else adjacency[placed][:, placed]


def _spread(parts: Sequence[NDArray[Any]], placed: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Columns of the placed observations side by side, NaN in the rows of the others."""
    ends = np.cumsum([part.shape[1] for part in parts])
    full = np.full((len(placed), ends[-1]), np.nan, dtype=np.float32)
    for end, part in zip(ends, parts, strict=True):
        full[placed, end - part.shape[1] : end] = part
    return full


def _write_scales(
    adata: AnnData, members: list[list[NDArray[np.float32]]], placed: NDArray[np.bool_]
) -> None:
    """Write the embedding of each scale; those of an earlier run with more scales go."""
    prefix = _keys.scale_embedding("")
    for key in list(adata.obsm):
        if key.startswith(prefix) and key.removeprefix(prefix).isdecimal():  # others are not ours
            del adata.obsm[key]
    for scale, parts in enumerate(zip(*members, strict=True), start=1):
        adata.obsm[_keys.scale_embedding(scale)] = _spread(parts, placed)
    adata.uns.setdefault(_keys.RECORD, {})["n_members"] = len(members)


def _write_domains(
    adata: AnnData,
    labels: NDArray[np.intp],
    memberships: NDArray[np.float64],
    placed: NDArray[np.bool_],
) -> None:
    """Write domains, and memberships in them, of the placed observations; missing elsewhere."""
    codes = np.full(adata.n_obs, -1)
    codes[placed] = labels
    sure = np.full(adata.n_obs, np.nan)
    sure[placed] = np.minimum(memberships[np.arange(len(labels)), labels], 1)
    names = [str(number) for number in range(1, memberships.shape[1] + 1)]
    adata.obs[_keys.DOMAIN] = pd.Categorical.from_codes(codes, categories=names)
    adata.obs[_keys.CONFIDENCE] = sure


def _forget_clustering(adata: AnnData) -> None:
    """Remove domains that no longer belong to the embeddings."""
    adata.obs.drop(columns=[_keys.DOMAIN, _keys.CONFIDENCE], errors="ignore", inplace=True)
    adata.obsm.pop(_keys.EMBEDDING, None)
    for entry in ("cluster", "n_domains"):
        adata.uns.get(_keys.RECORD, {}).pop(entry, None)
