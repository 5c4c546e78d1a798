"""Embedding and clustering of AnnData objects, names for their domains, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._by_section import compare_composition, composition, pseudobulk
from m2st._cell_types import CellTypes, match_cell_types, read_cell_types, types_around
from m2st._checks import (
    check_adata,
    check_features,
    check_graph,
    check_int,
    check_key,
    check_key_added,
    check_n_domains,
    check_numbers,
    check_rep,
    check_seed,
    graph_params,
    numbers_at,
    recorded_key,
    region_key,
    scales_of,
    valid_observations,
    warn,
)
from m2st._ensemble import (
    SideBySide,
    apply_members,
    cluster_members,
    member_seeds,
    needed_memory,
    padded,
    refit_members,
    start_again,
    train_members,
)
from m2st._naming import register, rename_domains, score_markers
from m2st._nested import domain_tree, merge_domains, nested_keys, write_nested
from m2st._params import AutoencoderParams, ClusteringParams, DualParams, clustering_of
from m2st._record import are_tiny, solutions_in_words
from m2st._sections import Finding, joined_in_words

if TYPE_CHECKING:
    from anndata import AnnData

    from m2st._clustering import Consensus, Domains, Estimator, Factors
    from m2st._nn._autoencoder import MaskedGraphAutoencoder
    from m2st._nn._training import Callback

__all__ = [
    "choose_n_domains",
    "cluster",
    "compare_composition",
    "composition",
    "domain_tree",
    "embed",
    "merge_domains",
    "pseudobulk",
    "register",
    "rename_domains",
    "score_markers",
    "split_domains",
    "transform",
]

logger = logging.getLogger(__name__)

# The least p-value of the 199 permutations is half of this.
_STRUCTURE_LEVEL = 0.01
TRYING = "Number of domains: trying %d, up to %d"
"""What is logged before each number of a choice."""
# Ten pairs of members tell how far they agree.
_N_COMPARED = 5
# Share of edges between sections from which a graph evidently does not tell them apart.
_CROSSING = 0.1
# A section is clustered by itself, too, if it has so many observations for each domain.
_LEAST_FOR_OWN = 20
# Settings for the parts of a domain.
_PARTS = ClusteringParams(equal_sizes=None)
# Starts that are followed to their end where several sections are clustered together.
_FOLLOWED_TOGETHER = 8


def embed(
    adata: AnnData,
    params: AutoencoderParams | None = None,
    *,
    use_rep: str | None = None,
    cell_type_key: str | None = None,
    random_state: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    key_added: str = _keys.DEFAULT,
) -> list[MaskedGraphAutoencoder]:
    """Train an ensemble of multi-scale masked graph autoencoders and embed every observation.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph in ``obsp["spatial_connectivities"]``.
    params
        Architecture, training and number E of members; None takes the defaults.
    use_rep
        Features to train on: a key of ``obsm``, or ``"X"`` for the expression matrix as it is. None
        takes the features that `m2st.pp` wrote under the name `key_added`, else under ``m2st``.
    cell_type_key
        Column of ``obs`` that names the cell type of each observation: text, categories or whole
        numbers. The shares of the types around each observation are one more view of the tissue.
        An observation without a type takes part, and adds nothing to these shares. None uses no
        types.
    random_state
        Seed.
    device
        ``"auto"`` (CUDA, MPS or the CPU, whichever there is), or a device as torch names it.
    n_jobs
        Members to train at a time, by joblib, each in a separate process on one thread. None takes
        joblib's number, which is 1 outside of ``joblib.parallel_config``. The result is the same.
        With several jobs, an interrupt from the keyboard is raised.
    progress
        Show a progress bar.
    callback
        Function of the epoch, the most epochs and the loss, called after each epoch. Epochs are
        counted over all members. If it returns False, the training ends. It needs a single job.
    checkpoint
        File from which an interrupted training resumes; each member has its own, numbered.
    key_added
        Name of the result, in place of ``m2st`` in all keys that are written.

    Returns
    -------
    The trained models, to `save` or to use with `transform` on other sections.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``
        float32 of shape (n_obs, E·d_m), for each scale m from 1: the members side by side.
    ``obsm["X_m2st_averages"]``
        If `average_hops` is above 0. float32 of shape (n_obs, n_features): averages of the features
        over so many steps, a view beside the scales that all members share.
    ``obsm["X_m2st_cell_types"]``
        With `cell_type_key`. float32 of shape (n_obs, n_types): square roots of the shares of the
        types around each observation, one more such view.
    ``uns["m2st"]["n_members"]``
        E.
    ``uns["m2st"]["embed"]``
        Parameters, seed, features, device, kind of attention, versions. The loss of each member and
        epoch (NaN after its end), and how the training ended. With `cell_type_key`: the column, the
        names of the types, and the number of observations without one.

    Domains of this name from earlier embeddings are removed.

    Raises
    ------
    KeyError
        If features, graph or cell types are missing.
    TypeError, ValueError
        If features, graph or cell types are unfit; if `m2st.pp` built the graph from other
        coordinates.

    Warns
    -----
    UserWarning
        If observations with features lie off the tissue or have no finite coordinates; if a graph
        from elsewhere evidently does not belong to the coordinates; if a graph links sections that
        lie on top of each other.

    Notes
    -----
    These observations take no part and get NaN:

    * without features: all NaN, as `m2st.pp.prepare` writes for observations without counts
    * off the tissue: ``obs["in_tissue"]`` 0 or False
    * without finite coordinates
    """
    from m2st._graph import graph_report

    check_adata(adata)
    keys = check_key_added(adata, key_added)
    random_state = check_seed(random_state)
    use_rep = _features_of(adata, keys) if use_rep is None else use_rep
    features = check_rep(adata, use_rep)
    params = AutoencoderParams.of(params, name="params")
    n_members = params.members_for(len(features))
    params = replace(params, n_members=n_members)
    adjacency = check_graph(adata)
    _warn_of_given_graph(adata, adjacency)
    valid = _valid_rows(features)
    check_features(_rows(features, valid), name=use_rep)
    types = None if cell_type_key is None else cell_types_of(adata, cell_type_key, valid)
    if adata.n_obs > params.batch_size:
        logger.info(
            "%d observations: working on pieces of at most about %d at a time, about %.1f GiB "
            "beside the data.",
            adata.n_obs,
            params.batch_size,
            needed_memory(features, adjacency, params, n_members, n_jobs),
        )
    together = SideBySide(valid, n_members)
    kept, graph = _rows(features, valid), induced_subgraph(adjacency, valid)
    results = train_members(
        kept,
        graph,
        params,
        member_seeds(random_state, n_members),
        device=device,
        n_jobs=n_jobs,
        progress=progress,
        callback=callback,
        checkpoint=checkpoint,
        keep=together.add,
    )
    forget_clustering(adata, keys)
    write_scales(adata, together, views_of(kept, graph, params, types, keys), keys)
    record = adata.uns[keys.record]
    shared = adata.uns.setdefault(_keys.GRAPH_RECORD, {})
    report = graph_report(adjacency)
    if not report.items() <= shared.get("graph", {}).items():
        known = {"method": "given"} if graph_params(adata) is None else shared.get("graph", {})
        shared["graph"] = {**known, **report}
    record["graph"] = dict(shared["graph"])
    recipe = adata.uns.get(owner_of_features(adata, use_rep) or keys.record, {}).get("prepare")
    if recipe is not None:
        record["prepare"] = dict(recipe)
    entries = {}
    if types is not None:
        entries = {
            "cell_type_key": cell_type_key,
            "cell_types": list(types.names),
            "n_untyped": types.n_untyped,
        }
    endings = [result.stopped for result in results]
    record["embed"] = {
        "params": params.to_dict(),
        "use_rep": use_rep,
        "random_state": random_state,
        "device": results[0].device,
        "attention": results[0].attention,
        "n_invalid": int((~valid).sum()),
        **entries,
        "loss": padded([result.loss for result in results]),
        "stopped": next(e for e in ("interrupted", "finished", "converged") if e in endings),
        "versions": {name: version(name) for name in ("m2st", "torch", "numpy", "scanpy")},
    }
    return [result.model for result in results]


def transform(
    adata: AnnData,
    models: Sequence[MaskedGraphAutoencoder],
    clusterings: Sequence[Estimator] | None = None,
    *,
    use_rep: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> None:
    """Embed the observations of another section with trained models, and find their domains.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph.
    models
        Models that `embed` returned, or that `MaskedGraphAutoencoder.load` read.
    clusterings
        Clusterings that `cluster` returned for the embeddings of these models. None embeds only.
    use_rep
        The same features as at training, such as scores on the same principal components: a key of
        ``obsm``, or ``"X"``. None takes the same as for `embed`.
    key_added
        Name of the result, in place of ``m2st`` in all keys that are written.

    Writes
    ------
    ``obsm["X_m2st_scale<m>"]``
        float32 of shape (n_obs, E·d_m), for each scale m from 1: the members side by side.
    ``obsm["X_m2st_averages"]``
        If the models have it, as `embed` writes it.
    ``uns["m2st"]["n_members"]``
        E.
    ``obs["m2st_domain"]``, ``obs["m2st_confidence"]``
        With `clusterings`: domains under the numbers that `cluster` gave them, some may be empty,
        and their confidence. Without, a clustering from earlier embeddings is removed.

    Raises
    ------
    KeyError
        If features or graph are missing.
    TypeError
        If `models` or `clusterings` hold anything else.
    ValueError
        If there is no model; if the numbers of models and clusterings differ; if features or graph
        do not fit; if `m2st.pp` built the graph from other coordinates.
    """
    from m2st._clustering import METHODS
    from m2st._nn._autoencoder import MaskedGraphAutoencoder

    checked: list[tuple[str, object, list[type]]] = [("models", models, [MaskedGraphAutoencoder])]
    if clusterings is not None:
        estimators = [method.estimator for method in METHODS.values()]
        checked.append(("clusterings", clusterings, estimators))
    for name, given, kinds in checked:
        if not isinstance(given, Sequence) or not all(
            isinstance(one, tuple(kinds)) for one in given
        ):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            msg = f"Expected `{name}` to be a list of {wanted}, found {given!r}."
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
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    features = check_rep(adata, _features_of(adata, keys) if use_rep is None else use_rep)
    valid = _valid_rows(features)
    adjacency = induced_subgraph(check_graph(adata), valid)
    domains = [clustering.to_domains() for clustering in clusterings or ()]
    kept = _rows(features, valid)
    views = views_of(kept, adjacency, models[0].params, None, keys)
    members, responsibilities = apply_members(
        models, domains, kept, adjacency, list(views.values()), 1
    )
    forget_clustering(adata, keys)
    write_scales(adata, SideBySide.of(members, valid), views, keys)
    if clusterings is not None:
        mean = np.mean(responsibilities, axis=0)
        write_domains(adata, mean.argmax(axis=1), mean, valid, keys, sure=are_sure(domains))


def cluster(
    adata: AnnData,
    n_domains: int,
    params: ClusteringParams | DualParams | None = None,
    *,
    random_state: int = 0,
    n_jobs: int | None = None,
    embedding_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> list[Estimator]:
    """Find spatial domains from the embeddings of all scales and members.

    Each member is clustered by itself (`m2st.MultiScaleClustering`), and the domains are the
    consensus of the members. With domains taken as equally large (`equal_sizes=None`), each member
    also starts from the domains of the others, which may have found a better optimum.

    If the graph tells sections apart, each of them is also clustered by itself, on the embeddings
    that all have trained. A section keeps these domains of its own if the joint ones tell clearly
    less of it, or a little less with longer borders. They get the names of the joint domains that
    they share most with. No label enters.

    Members may fall into two camps, each of which agrees on other domains. Then there are two
    solutions. The domains are the consensus of all members as ever, which follows the majority, and
    the second solution is written beside them.

    Parameters
    ----------
    adata
        Observations that `embed` or `transform` has embedded, with their spatial graph.
    n_domains
        Number of domains K.
    params
        Settings of the clustering; None takes the defaults. `m2st.paper.DualParams` takes the
        paper's own clustering (`m2st.paper.DualClustering`), without second starts.
    random_state
        Seed.
    n_jobs
        Members to cluster at a time, as in `embed`.
    embedding_key
        Name of the result whose embeddings are clustered. None takes `key_added` if it has
        embeddings, else ``m2st``.
    key_added
        Name of the result, in place of ``m2st`` in all keys that are written. Under different
        names, several numbers of domains from one training live side by side.

    Returns
    -------
    The clustering of each member, for `transform`. Its domains have the numbers of the consensus.
    A `m2st.MultiScaleClustering` has given up `common_` and `specific_`, which take much memory.

    Writes
    ------
    ``obs["m2st_domain"]``
        Categorical ``"1"`` to ``"K"``, by decreasing size.
    ``obs["m2st_confidence"]``
        Estimated probability that a run with another seed puts the observation into the same
        domain, in [0, 1]. NaN for the paper's own clustering of a single member, which gives labels
        without probabilities. With several sections: the mean of the joint and the own probability,
        times the adjusted Rand index of joint and own domains in the section (0 if that is less).
    ``obs["m2st_second_domain"]``
        Only if members fall into camps, removed otherwise: domains of the second one, of all
        sections jointly. Categorical: a domain has the name of the one that it shares most with, or
        a name from ``"K + 1"`` if it shares almost nothing.
    ``obsm["X_m2st"]``
        float32 of shape (n_obs, d_c): the representation common to all scales and members. For the
        paper's own clustering, the common representations of the members side by side.
    ``uns["m2st"]["cluster"]``
        Method (``"mixture"``, or ``"dual"`` for the paper's own), parameters, seed, stability of
        each domain, and whether all members converged. A row for each member: agreement with the
        consensus, scale weights (the last one belongs to the common representation), objective of
        each iteration and start. With the embeddings of another result, the name of that result and
        a copy of its entries on them. With several sections, ``"sections"``: their names, whether
        each keeps domains of its own, and the adjusted Rand index of joint and own domains. Share
        of edges that both cut, and nats that both tell (joint, own). Share of each domain.
        If members fall into camps, ``"solutions"``: camp of each member (1, 2, or 0 for neither),
        their shares, and the mean adjusted Rand index of two members within each and between them.

    Observations without an embedding have a missing domain and NaN.

    Raises
    ------
    KeyError
        If there are no embeddings or no graph.
    ValueError
        If there are fewer observations than domains; if `m2st.pp` built the graph from other
        coordinates; if `key_added` is the name of something else, or of a result with other
        embeddings.

    Warns
    -----
    UserWarning
        If there are two solutions. If several domains have hardly any observations. If sections
        keep domains of their own; if they share little; if one has several domains that no other
        has.

    Notes
    -----
    The confidence is the mean over members of the probability of the domain. It says how far
    another seed would agree on the same data (measured in ``benchmarks/reliability.md``). It does
    not say that the domain is right: a domain may be misplaced with a high confidence.

    There are two camps if members group clearly by their adjusted Rand index (a mean silhouette of
    0.5 or more), with an index of 0.9 or less between the two. Each has two members or more, and
    both have three quarters of all. Members that all differ are no camps. Draw both solutions with
    ``m2st.pl.domains(adata, truth="m2st_second_domain")``.

    A section of fewer than twenty observations for each domain is not clustered by itself, nor is
    any with the paper's own clustering.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, 7, progress=False)
    >>> fits = m2st.tl.cluster(adata, 5, key_added="m2st_5")
    >>> [adata.obs[key].nunique() for key in ("m2st_domain", "m2st_5_domain")]
    [7, 5]
    """
    return find_domains(
        adata,
        n_domains,
        params,
        random_state=random_state,
        n_jobs=n_jobs,
        embedding_key=embedding_key,
        key_added=key_added,
    ).fits


class Found(NamedTuple):
    """The clustering of each member, and the loadings of what all have in common."""

    fits: list[Estimator]
    common: Factors


def find_domains(
    adata: AnnData,
    n_domains: int,
    params: ClusteringParams | DualParams | None,
    *,
    random_state: int,
    n_jobs: int | None,
    embedding_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> Found:
    """Do what `cluster` does, and return all that places other observations."""
    from m2st._clustering import METHODS, find_solutions, join_sections

    check_adata(adata)
    keys = check_key_added(adata, key_added)
    source = _embeddings_for(adata, keys, embedding_key)
    random_state = check_seed(random_state)
    members, valid, adjacency = _members(adata, source)
    check_n_domains(n_domains, n_obs=int(valid.sum()))
    params = clustering_of(params, name="params").for_domains(n_domains)
    method = METHODS[params.method]
    taken = None if valid.all() else np.flatnonzero(valid)
    sections, names = _sections_of(adata, valid)
    joint = _for_sections(params) if len(names) > 1 else params
    fits, found = _agree(members, taken, adjacency, n_domains, joint, random_state, n_jobs)
    together = [scale for scales in members for scale in scales]
    common, representation = method.in_common(fits, together, taken)
    joined = None
    if method.joins_sections and len(names) > 1:
        own = [
            _own_domains(
                members,
                adjacency,
                valid,
                sections == section,
                n_domains,
                params,
                random_state,
                n_jobs,
            )
            for section in range(len(names))
        ]
        joined = join_sections(found, own, sections, adjacency, representation[0])
        ranking = np.argsort(-np.bincount(joined.labels, minlength=n_domains), kind="stable")
        found, joined = found.reorder(ranking), joined.reorder(ranking)
    solutions = find_solutions([fit.responsibilities_ for fit in fits], found)
    for fit, order in zip(fits, found.orders, strict=True):
        fit.reorder(order)
    sure = are_sure([fit.to_domains() for fit in fits])
    written = found if joined is None else joined
    write_domains(adata, written.labels, written.responsibilities, valid, keys, sure=sure)
    if solutions is not None:
        codes = np.full(adata.n_obs, -1)
        codes[valid] = solutions.labels
        numbers = range(1, max(n_domains, codes.max() + 1) + 1)
        adata.obs[keys.second] = pd.Categorical.from_codes(codes, categories=[*map(str, numbers)])
    adata.obsm[keys.embedding] = side_by_side(representation, valid)
    record = adata.uns.setdefault(keys.record, {})
    if source != keys:
        described = adata.uns.get(source.record, {})
        kept = {
            step: described[step]
            for step in described
            if step not in {"cluster", "graph", "register", "tree"}
        }
        record |= deepcopy(kept)
        record["graph"] = dict(adata.uns.get(_keys.GRAPH_RECORD, {}).get("graph", {}))
    record["cluster"] = {
        "method": params.method,
        "params": params.to_dict(),
        "n_domains": n_domains,
        **({} if source == keys else {"embedding_key": source.name}),
        "random_state": random_state,
        "n_invalid": int((~valid).sum()),
        "stability": found.stability,
        "agreement": found.agreement,
        "scale_weights": np.stack([fit.scale_weights_ for fit in fits]),
        "objective": padded([fit.objective_ for fit in fits]),
        "start_objectives": np.stack([fit.start_objectives_ for fit in fits]),
        # The published rule does not ask.
        **({} if fits[0].converged_ is None else {"converged": all(f.converged_ for f in fits)}),
        **({} if solutions is None else {"solutions": solutions.to_dict()}),
        **({} if joined is None else {"sections": {"names": names, **joined.to_dict()}}),
    }
    if solutions is not None:
        told = solutions_in_words(record["cluster"]["solutions"])
        warn(f"{told} The others are in `adata.obs[{keys.second!r}]`: look at both.")
    _warn_of_tiny(np.bincount(written.labels, minlength=n_domains))
    if joined is not None:
        _tell(
            joined_in_words(
                record["cluster"]["sections"], list(adata.obs[keys.domain].cat.categories)
            )
        )
    return Found(fits, common)


def _for_sections(params: ClusteringParams | DualParams) -> ClusteringParams | DualParams:
    """Settings for several sections together: starts are compared by the whole objective."""
    if isinstance(params, ClusteringParams) and params.n_followed is None:
        return replace(params, n_followed=_FOLLOWED_TOGETHER)
    return params


def _agree(
    members: list[list[NDArray[np.float32]]],
    taken: NDArray[np.intp] | None,
    adjacency: sparse.csr_matrix,
    n_domains: int,
    params: ClusteringParams | DualParams,
    random_state: int,
    n_jobs: int | None,
) -> tuple[list[Estimator], Consensus]:
    """Cluster each member, of the observations that are taken, and what all agree on."""
    from m2st._clustering import consensus

    fits = cluster_members(members, adjacency, n_domains, params, random_state, n_jobs, taken)
    if start_again(params):
        fits = refit_members(fits, adjacency, n_jobs)
    return fits, consensus([fit.responsibilities_ for fit in fits])


def _own_domains(
    members: list[list[NDArray[np.float32]]],
    adjacency: sparse.csr_matrix,
    valid: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    n_domains: int,
    params: ClusteringParams | DualParams,
    random_state: int,
    n_jobs: int | None,
) -> Consensus | None:
    """Domains of one section, from the embeddings that all have trained; None if it is small."""
    if inside.sum() < _LEAST_FOR_OWN * n_domains:
        return None
    rows = np.flatnonzero(inside)
    return _agree_within(members, adjacency, valid, rows, n_domains, params, random_state, n_jobs)


def _agree_within(
    members: list[list[NDArray[np.float32]]],
    adjacency: sparse.csr_matrix,
    valid: NDArray[np.bool_],
    rows: NDArray[np.intp],
    n_domains: int,
    params: ClusteringParams | DualParams,
    random_state: int,
    n_jobs: int | None,
) -> Consensus:
    """What members agree on that are clustered on some rows of the graph alone."""
    placed = np.flatnonzero(valid)[rows]
    return _agree(
        [[scale[placed] for scale in scales] for scales in members],
        None,
        adjacency[rows][:, rows],
        n_domains,
        params,
        random_state,
        n_jobs,
    )[1]


def _sections_of(adata: AnnData, valid: NDArray[np.bool_]) -> tuple[NDArray[np.intp], list[str]]:
    """Section of each valid observation, and their names; those that the graph tells apart."""
    key = recorded_key(adata, "sample_key")
    if key is None:
        return np.zeros(int(valid.sum()), dtype=np.intp), []
    codes, names = pd.factorize(adata.obs[key].to_numpy()[valid])
    return codes, [str(name) for name in names]


def _warn_of_tiny(sizes: NDArray[np.intp]) -> None:
    """Warn of several domains of hardly any observations; one may be a niche."""
    tiny = are_tiny(sizes)
    if tiny.sum() > 1:
        most = sizes[tiny].max()
        warn(
            f"{tiny.sum()} of {len(sizes)} domains have hardly any observations, at most {most} of "
            f"{sizes.sum():,}: the data do not show so many domains. Ask for fewer; "
            "`m2st.tl.choose_n_domains(adata)` tells how many there are."
        )


def _tell(findings: list[Finding]) -> None:
    """Warn of what changes how results are to be read; log the rest."""
    grave = [finding.text for finding in findings if finding.grave]
    if grave:
        warn(" ".join(grave))
    for finding in findings:
        if not finding.grave:
            logger.info(finding.text)


def split_domains(
    adata: AnnData,
    parts: Mapping[str, int],
    params: ClusteringParams | None = None,
    *,
    random_state: int = 0,
    n_jobs: int | None = None,
    key_added: str,
    domain_key: str = _keys.DEFAULT,
) -> None:
    """Split some domains into parts, as a result of its own.

    The observations of a domain are clustered by themselves, on the embeddings that all have
    trained, as `cluster` does. The others keep their domains.

    Parameters
    ----------
    adata
        n_obs observations with domains, embeddings and spatial graph.
    parts
        Number of parts, at least 2, by the name of the domain: ``{"3": 2}``.
    params
        Settings of the clustering. None takes the defaults, but for ``equal_sizes=None``: parts of
        a domain that may have any size are often a few observations and the rest.
    random_state
        Seed.
    n_jobs
        Members to cluster at a time, as in `embed`.
    key_added
        Name of the new result, in place of ``m2st`` in all keys that are written.
    domain_key
        Name of the result whose domains are split. It stays as it is.

    Writes
    ------
    ``obs["<key_added>_domain"]``
        Categorical: in place of domain ``3`` its parts ``3.1``, ``3.2``, by decreasing size.
    ``obs["<key_added>_confidence"]``
        The confidence in the domain, times the mean over members of the probability of the part.
    ``uns["<key_added>"]``
        A copy of the record. ``"cluster"`` has the name of the split result, the domains and their
        numbers of parts, and the stability of each part.

    Raises
    ------
    KeyError
        If domains, embeddings or graph are missing; if there is no domain of a name in `parts`.
    TypeError
        If `parts` is no mapping from names to whole numbers.
    ValueError
        If a domain has fewer observations than parts; if a part would have the name of a domain; if
        `key_added` is the name of the split result, or of something else.

    Notes
    -----
    Any domain can be split, as any tissue can be cut further. Look at the confidence, and at the
    stability of the parts.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=200)
    >>> model = m2st.run(adata, 3, progress=False)
    >>> m2st.tl.split_domains(adata, {"1": 2}, key_added="m2st_parts")
    >>> adata.obs["m2st_parts_domain"].cat.categories.tolist()
    ['1.1', '1.2', '2', '3']
    """
    check_adata(adata)
    random_state = check_seed(random_state)
    params = ClusteringParams.of(_PARTS if params is None else params, name="params")
    keys, source = nested_keys(adata, key_added, domain_key)
    domains = pd.Categorical(adata.obs[source.domain])
    names = [str(name) for name in domains.categories]
    _check_parts(parts, names, source)
    entry = adata.uns.get(source.record, {}).get("cluster", {})
    members, valid, adjacency = _members(adata, _keys.Keys(entry.get("embedding_key", source.name)))
    codes, confidence = np.full(adata.n_obs, -1), np.full(adata.n_obs, np.nan)
    if source.confidence in adata.obs:
        confidence[:] = adata.obs[source.confidence]
    inside = {name: np.flatnonzero((domains.codes == names.index(name))[valid]) for name in parts}
    for name, rows in inside.items():
        if parts[name] > len(rows):
            msg = (
                f"Expected no more parts of {name!r} than its {len(rows)} observations, found "
                f"{parts[name]}. Give a smaller number."
            )
            raise ValueError(msg)
    written: list[str] = []
    stability: list[float] = []
    for domain, name in enumerate(names):
        whole = np.flatnonzero(domains.codes == domain)
        if name not in parts:
            codes[whole] = len(written)
            written.append(name)
            stability.append(np.nan)
            continue
        rows = inside[name]
        found = _agree_within(
            members,
            adjacency,
            valid,
            rows,
            parts[name],
            params.for_domains(parts[name]),
            random_state,
            n_jobs,
        )
        placed = np.flatnonzero(valid)[rows]
        codes[placed] = len(written) + found.labels
        confidence[placed] *= np.minimum(found.responsibilities.max(axis=1), 1)
        written += [f"{name}.{part + 1}" for part in range(parts[name])]
        stability += found.stability.tolist()
    write_nested(
        adata,
        keys,
        source,
        pd.Categorical.from_codes(codes, written),
        confidence,
        {
            "method": params.method,
            "params": params.to_dict(),
            "n_domains": len(written),
            "random_state": random_state,
            "parent": source.name,
            "split": list(parts),
            "n_parts": np.array(list(parts.values())),
            "stability": np.array(stability),
        },
    )


def _check_parts(parts: Mapping[str, int], names: list[str], source: _keys.Keys) -> None:
    """Require a number of parts for some of the domains, and names that are new."""
    if not isinstance(cast("object", parts), Mapping) or not parts:
        msg = (
            "Expected `parts` to give numbers of parts by domain, such as "
            f"`{{{names[0] if names else '1'!r}: 2}}`, found {parts!r}."
        )
        raise TypeError(msg)
    for name, number in parts.items():
        if name not in names:
            msg = (
                f"Expected domains of `adata.obs[{source.domain!r}]` ({', '.join(names)}), found "
                f"{name!r}. Check the present names."
            )
            raise KeyError(msg)
        check_int(f"parts[{name!r}]", number, minimum=2)
        taken = next((f"{name}.{k + 1}" for k in range(number) if f"{name}.{k + 1}" in names), None)
        if taken is not None:
            msg = (
                f"Expected new names for the parts of {name!r}, found a domain {taken!r}. Rename "
                "it first with `m2st.tl.rename_domains`."
            )
            raise ValueError(msg)


def choose_n_domains(
    adata: AnnData,
    candidates: Sequence[int] = range(2, 13),
    params: ClusteringParams | None = None,
    *,
    random_state: int = 0,
    n_jobs: int | None = None,
    key_added: str = _keys.DEFAULT,
) -> int:
    """Choose a number of domains by stability and by how much each further domain explains.

    Parameters
    ----------
    adata
        Observations that `embed` has embedded, with features and spatial graph.
    candidates
        Numbers of domains to choose from, at least 2.
    params
        Settings of the clustering; None takes the defaults. Smoothness is left out, because it
        would count as something that domains explain.
    random_state
        Seed.
    n_jobs
        Clusterings to run at a time, as in `embed`.
    key_added
        Name of the result whose embeddings are clustered, and whose record gets the choice.

    Returns
    -------
    The number of domains; 1 if the data have no structure in space.

    Writes
    ------
    ``uns["m2st"]["n_domains"]``
        The candidates, the p-value of the test for structure, and the choice. Each candidate has a
        stability (mean adjusted Rand index between members), a gain (nats per observation over one
        domain less) and a score.

    Raises
    ------
    KeyError
        If embeddings, features or graph are missing.
    TypeError
        If the candidates are not several whole numbers.
    ValueError
        If there are no candidates; if some are out of range; if `m2st.pp` built the graph from
        other coordinates.

    Warns
    -----
    UserWarning
        If the features of neighbours are not more similar than the features of any two
        observations.

    Notes
    -----
    The number is a guide, not a truth: tissue has domains within domains. Look at the curve,
    `m2st.pl.n_domains`, and at its other peaks.

    The test for structure does not use the network or components with neighbours, because both
    smooth noise into domains. It compares features of single observations with permuted ones, at
    the level 0.01.
    """
    if not isinstance(cast("object", candidates), Iterable):
        msg = f"Expected several numbers of domains as `candidates`, found {candidates!r}."
        raise TypeError(msg)
    for number in candidates:
        check_int("candidates", number, minimum=0)
    numbers = sorted({int(number) for number in candidates})
    if not numbers or numbers[0] < 2:
        msg = f"Expected `candidates` of at least 2 domains, found {numbers or 'none'}."
        raise ValueError(msg)
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    random_state = check_seed(random_state)
    params = ClusteringParams.of(params, name="params")
    return choose(adata, numbers, params, random_state, n_jobs, keys)


def structure_p_value(adata: AnnData, keys: _keys.Keys, random_state: int) -> float:
    """Test for structure in space, of features without neighbours where there are some."""
    _, valid, adjacency = _members(adata, keys)
    return _structure(adata, keys, valid, adjacency, random_state)


def _structure(
    adata: AnnData,
    keys: _keys.Keys,
    valid: NDArray[np.bool_],
    adjacency: sparse.csr_matrix,
    random_state: int,
) -> float:
    from m2st._graph import spatial_structure

    use_rep = adata.uns.get(keys.record, {}).get("embed", {}).get("use_rep")
    use_rep = use_rep or _features_of(adata, keys)
    owner = owner_of_features(adata, use_rep)
    if owner is not None and _keys.Keys(owner).no_neighbors in adata.obsm:
        use_rep = _keys.Keys(owner).no_neighbors
    features = _rows(check_rep(adata, use_rep), valid)
    return spatial_structure(features, adjacency, random_state=random_state)


def choose(
    adata: AnnData,
    numbers: list[int],
    params: ClusteringParams,
    random_state: int,
    n_jobs: int | None,
    keys: _keys.Keys,
    p_value: float | None = None,
) -> int:
    """Choose among checked numbers of domains, in ascending order, and write the evidence.

    `p_value` is that of the test for structure, if it is known.
    """
    from m2st._clustering import number_of_domains

    members, valid, adjacency = _members(adata, keys)
    check_n_domains(numbers[-1] + 1, n_obs=int(valid.sum()))
    if p_value is None:
        p_value = _structure(adata, keys, valid, adjacency, random_state)
    # Objectives are compared: one width for all, and no smoothness, which falls as domains shrink.
    params = replace(params.for_domains(1), smoothness=0.0)
    taken = None if valid.all() else np.flatnonzero(valid)
    record = adata.uns.setdefault(keys.record, {})
    labels, objectives = {}, {}
    tried = sorted({k + step for k in numbers for step in (-1, 0, 1)})
    for number in tried:
        logger.info(TRYING, number, tried[-1])
        fits = cluster_members(
            members[:_N_COMPARED], adjacency, number, params, random_state, n_jobs, taken
        )
        labels[number] = [fit.labels_ for fit in fits]
        objectives[number] = float(np.mean([fit.objective_[-1] for fit in fits]))
    found = number_of_domains(numbers, labels, objectives)
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


def _features_of(adata: AnnData, keys: _keys.Keys) -> str:
    """Features of this name; those of the default name if there are none."""
    return keys.features if keys.features in adata.obsm else _keys.Keys().features


def owner_of_features(adata: AnnData, use_rep: str) -> str | None:
    """Name of the result whose features these are; None for others."""
    if use_rep == _keys.Keys().features:
        return _keys.DEFAULT
    names = (
        name
        for name, record in adata.uns.items()
        if isinstance(record, Mapping) and "prepare" in record
    )
    return next((name for name in names if _keys.Keys(name).features == use_rep), None)


def _embeddings_for(adata: AnnData, keys: _keys.Keys, embedding_key: str | None) -> _keys.Keys:
    """Keys of the result whose embeddings are clustered under other `keys`, or these."""
    if embedding_key is not None and not scales_of(adata, _keys.Keys(embedding_key)):
        found = [name for name in adata.uns if scales_of(adata, _keys.Keys(name))]
        msg = (
            "Expected `embedding_key` to name a result with embeddings, found "
            f"{embedding_key!r} (there are: {', '.join(found) or 'none'}). Name one of these."
        )
        raise KeyError(msg)
    own = bool(scales_of(adata, keys))
    source = keys if own and embedding_key is None else _keys.Keys(embedding_key or _keys.DEFAULT)
    if own and source != keys:
        msg = (
            f"Expected `key_added={keys.name!r}` to name no other embeddings than those to be "
            f"clustered, `embedding_key={source.name!r}`, found some. Choose another name."
        )
        raise ValueError(msg)
    return source


def _members(
    adata: AnnData, keys: _keys.Keys
) -> tuple[list[list[NDArray[np.float32]]], NDArray[np.bool_], sparse.csr_matrix]:
    """Views of each member, the scales first; which observations have any; the graph between these.

    The views are those of all observations: without some, they would be as large once more.
    """
    check_key(
        keys.scale(1),
        adata.obsm,
        where="adata.obsm",
        hint="Run `m2st.tl.embed(adata)` first.",
    )
    scales: list[NDArray[np.float32]] = []
    while (key := keys.scale(len(scales) + 1)) in adata.obsm:
        scales.append(check_numbers(adata.obsm[key], name=f"adata.obsm[{key!r}]"))
    n_members = adata.uns.get(keys.record, {}).get("n_members", 1)
    check_int(f"adata.uns['{keys.record}']['n_members']", n_members, minimum=1)
    uneven = [scale.shape[1] for scale in scales if scale.shape[1] % n_members]
    if uneven:
        msg = (
            f"Expected embeddings of {n_members} members, found {uneven[0]} columns. "
            "Run `m2st.tl.embed(adata)` again."
        )
        raise ValueError(msg)
    valid = _valid_rows(scales[0])
    for number, scale in enumerate(scales, start=1):
        check_features(scale, name=f"adata.obsm[{keys.scale(number)!r}]", valid=valid)
    parts = [np.split(scale, n_members, axis=1) for scale in scales]
    for key in keys.views:
        if key in adata.obsm:
            name = f"adata.obsm[{key!r}]"
            view = check_numbers(adata.obsm[key], name=name)
            check_features(view, name=name, valid=valid)
            parts.append([view] * n_members)
    return (
        [list(member) for member in zip(*parts, strict=True)],
        valid,
        induced_subgraph(check_graph(adata), valid),
    )


def _valid_rows(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Observations with values: the others are all NaN."""
    # The largest number of a row, or NaN if there is none.
    return np.asarray(~np.isnan(np.fmax.reduce(values, axis=1, initial=np.nan)))


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


def cell_types_of(
    adata: AnnData, key: str, valid: NDArray[np.bool_], names: Sequence[str] | None = None
) -> CellTypes:
    """Cell types of the valid observations; with `names`, those of a model, among these."""
    check_key(key, adata.obs, where="adata.obs")
    at = f"adata.obs[{key!r}]"
    column = adata.obs[key]
    if column.ndim > 1:
        msg = f"Expected one column {key!r} in `adata.obs`, found several. Rename the others."
        raise ValueError(msg)
    if names is None:
        return read_cell_types(column[valid], at=at)
    return match_cell_types(column[valid], names, at=at)


def views_of(
    features: NDArray[np.float32],
    adjacency: sparse.csr_matrix,
    params: AutoencoderParams,
    types: CellTypes | None,
    keys: _keys.Keys,
) -> dict[str, NDArray[np.float32]]:
    """Views that all members share beside their scales, by their keys, in the order of `keys`."""
    from m2st._graph import smooth

    views = {}
    if params.average_hops:
        averages = smooth(features, adjacency, n_hops=params.average_hops)
        views[keys.averages] = averages.astype(np.float32)
    if types is not None:
        views[keys.cell_types] = types_around(types, adjacency)
    return views


def write_scales(
    adata: AnnData,
    together: SideBySide,
    views: Mapping[str, NDArray[np.float32]],
    keys: _keys.Keys,
) -> None:
    """Write each scale, and the views that all members share; earlier ones are removed."""
    for key in [*scales_of(adata, keys), *keys.views]:
        adata.obsm.pop(key, None)
    for number, scale in enumerate(together.scales(), start=1):
        adata.obsm[keys.scale(number)] = scale
    for key, view in views.items():
        adata.obsm[key] = side_by_side([view], together.valid)
    adata.uns.setdefault(keys.record, {})["n_members"] = together.n_members


def write_domains(
    adata: AnnData,
    labels: NDArray[np.intp],
    responsibilities: NDArray[np.float64],
    valid: NDArray[np.bool_],
    keys: _keys.Keys,
    names: Sequence[str] | None = None,
    *,
    sure: bool,
) -> None:
    """Write domains, and responsibilities in them, of the valid observations; missing elsewhere.

    Without names they are numbered from 1. If the responsibilities do not say how sure they are,
    the confidence is missing everywhere.
    """
    codes = np.full(adata.n_obs, -1)
    codes[valid] = labels
    confidence = np.full(adata.n_obs, np.nan)
    if sure:
        confidence[valid] = np.minimum(responsibilities[np.arange(len(labels)), labels], 1)
    if names is None:
        names = [str(number) for number in range(1, responsibilities.shape[1] + 1)]
    adata.obs[keys.domain] = pd.Categorical.from_codes(codes, categories=names)
    adata.obs[keys.confidence] = confidence
    if keys.second in adata.obs:  # of other domains
        del adata.obs[keys.second]
    for entry in ("register", "tree"):  # of other domains
        adata.uns.get(keys.record, {}).pop(entry, None)


def are_sure(domains: Sequence[Domains]) -> bool:
    """Whether members say how sure a domain is: several do, one only with probabilities."""
    return len(domains) > 1 or domains[0].soft


def forget_clustering(adata: AnnData, keys: _keys.Keys) -> None:
    """Remove domains that no longer belong to the embeddings of their name."""
    for column in {keys.domain, keys.confidence, keys.second} & set(adata.obs):
        del adata.obs[column]
    adata.obsm.pop(keys.embedding, None)
    for entry in ("cluster", "n_domains", "register", "tree"):
        adata.uns.get(keys.record, {}).pop(entry, None)
