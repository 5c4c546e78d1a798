"""Preparation: features from counts, and spatial graphs from coordinates."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _graph
from m2st._checks import (
    LARGEST_LOG,
    check_adata,
    check_coordinates,
    check_dtype,
    check_expression,
    check_features,
    check_graph,
    check_int,
    check_interval,
    check_key,
    check_key_added,
    check_numbers,
    check_rep,
    check_seed,
    check_sparse,
    check_unique_names,
    fractional,
    graph_params,
    looks_logged,
    numbers_at,
    recorded_key,
    region_key,
    valid_observations,
    warn,
    warn_invalid,
)
from m2st._features import (
    ExpressionProjection,
    ReadyProjection,
    blocks,
    from_counts,
    from_ready,
    some_rows,
)
from m2st._keys import (
    CONNECTIVITIES,
    COORDINATES,
    DEFAULT,
    DISTANCES,
    GRAPH_RECORD,
    NEIGHBORS,
    SPOTS,
    Keys,
)
from m2st._plotting import describe_spots
from m2st._sections import find_overlay, overlay_in_words

__all__ = [
    "link_sections",
    "prepare",
    "prepare_embedding",
    "spatial_graph",
    "spatial_graph_delaunay",
    "spatial_graph_knn",
    "spatial_graph_lattice",
    "spatial_graph_radius",
]

logger = logging.getLogger(__name__)

_N_PCS, _N_TOP_GENES = 15, 3000
_LINKED = "; sections linked up to a distance of "


def components_for(n_domains: int | None) -> int:
    """Number of components for a number of domains: fifteen, or the domains if they are more."""
    return max(_N_PCS, n_domains or 0)


def prepare(
    adata: AnnData,
    *,
    layer: str | None = None,
    normalized: bool = False,
    n_top_genes: int = _N_TOP_GENES,
    n_pcs: int = _N_PCS,
    sample_key: str | None = None,
    batch_key: str | None = None,
    random_state: int = 0,
    key_added: str = DEFAULT,
) -> None:
    r"""Make features from counts: components of observations and neighbours together.

    The `n_top_genes` most variable genes are kept, by the variance of their counts that their mean
    does not explain, as in Seurat 3. Library sizes are brought to their median and
    :math:`\ln(1 + x)` is taken, as in scanpy.

    The mean counts of an observation and its neighbours on the spatial graph are treated in the
    same way. The principal components belong to the sum of two covariances, each divided by its
    trace. One is the covariance of single observations, the other of these means. The features are
    the scores of single observations. Above 100,000 observations, a random sample of 100,000
    chooses genes and components.

    Parameters
    ----------
    adata
        n_obs × n_vars with a spatial graph, and raw counts in ``X`` or a layer, in memory or in a
        file (see `m2st.io.read`). They are read in blocks, and only the kept genes stay in memory.
    layer
        Layer that holds the counts; ``X`` if not given.
    normalized
        The values are already normalised and on a log scale: select and take components only.
    n_top_genes
        Number of highly variable genes.
    n_pcs
        Number of components; fewer if there are too few observations or genes. If you expect more
        than fifteen domains, take as many components as domains, as `m2st.run` does.
    sample_key
        Column of ``obs`` that names the section of each observation. Scores then have the same mean
        and variance in each section.
    batch_key
        Column of ``obs`` that names what is shifted, such as the donor, the slide or the chemistry.
        Scores then have the same mean and variance in each batch. None takes `sample_key`.
    random_state
        Seed of the iterative eigensolver's first vector, and of the sample of the observations.
    key_added
        Name of the result, in place of ``m2st`` in all keys that are written.

    Writes
    ------
    ``obsm["X_m2st_pca"]``
        float32, (n_obs, n_pcs): component scores. Rows of observations without counts, off the
        tissue or without coordinates are NaN (see `spatial_graph`).
    ``obsm["X_m2st_pca_no_neighbors"]``
        The same for the components of single observations alone. No neighbour has a part in them,
        so that `m2st.tl.choose_n_domains` can test them for structure in space.
    ``uns["m2st"]["prepare"]``
        Parameters, and the numbers of genes, components and empty observations.

    Raises
    ------
    ValueError
        If there is no matrix; if fewer than two observations, or two varying genes, have counts; if
        values are negative, not finite or, unless `normalized`, on a log scale; if names are not
        unique; if counts are too thin to choose genes; if `batch_key` has more values than half of
        the observations.
    KeyError
        If the spatial graph, the layer or a column is missing.

    Warns
    -----
    UserWarning
        If observations have no counts, lie off the tissue or have no coordinates; if counts are
        fractional; if `normalized` values are whole numbers, or larger than a logarithm can be.

    Notes
    -----
    Fractional values are taken as counts that a correction for ambient RNA has left, unless they
    are logarithms. They are logarithms if ``uns["log1p"]`` says so of ``X``, or if taking them back
    gives counts again. Bases e, 2 and 10 are tried. The values of a row are then multiples of its
    least one, or all rows have the same sum.

    Counts are averaged over neighbours before the logarithm, which would bend thin counts. Genes
    of `normalized` values are chosen by Seurat's dispersion. ``docs/departures.md`` has the
    measurements behind the choice of genes, the scaling and the number of components.

    The bits of the result do not depend on the number of threads. Each component points the way in
    which its largest loading is positive.

    With `sample_key`, the shift and the scale of a whole section count as an effect of the batch.
    If sections hold different tissue, part of that difference goes with it.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> counts = np.random.default_rng(0).poisson(1.0, size=(60, 40)).astype("float32")
    >>> adata = anndata.AnnData(counts)
    >>> adata.obsm["spatial"] = np.array([[x, y] for x in range(10) for y in range(6)])
    >>> m2st.pp.spatial_graph(adata)
    >>> m2st.pp.prepare(adata, n_pcs=5)
    >>> adata.obsm["X_m2st_pca"].shape
    (60, 5)
    """
    project_counts(
        adata,
        layer=layer,
        normalized=normalized,
        n_top_genes=n_top_genes,
        n_pcs=n_pcs,
        sample_key=sample_key,
        batch_key=batch_key,
        random_state=random_state,
        key_added=key_added,
    )


def project_counts(
    adata: AnnData,
    *,
    layer: str | None,
    normalized: bool,
    n_pcs: int,
    sample_key: str | None,
    random_state: int,
    batch_key: str | None = None,
    n_top_genes: int = _N_TOP_GENES,
    key_added: str = DEFAULT,
) -> ExpressionProjection:
    """Do what `prepare` does, and return how to make such features of other observations."""
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_int("n_top_genes", n_top_genes, minimum=2)
    check_int("n_pcs", n_pcs, minimum=1)
    random_state = check_seed(random_state)
    valid = valid_observations(adata)
    matrix, name, totals, of_genes = survey(adata, layer, valid, normalized=normalized)
    graph = check_graph(adata)
    filled, genes = valid & (totals > 0), of_genes.n_cells > 0
    check_filled(filled, genes, name)
    shifted = sample_key if batch_key is None else batch_key
    what = "section" if batch_key is None else "batch"
    batches = None if shifted is None else _sections(adata, shifted, valid, what)[0]
    if batch_key is not None and batches is not None:
        n_batches = len(np.unique(batches[valid]))
        if 2 * n_batches > valid.sum():
            msg = (
                f"Expected batches of several observations in `adata.obs[{batch_key!r}]`, found "
                f"{n_batches} values among {valid.sum()} observations. Name a column such as the "
                "donor or the slide."
            )
            raise ValueError(msg)
    found = from_counts(
        matrix,
        totals,
        filled,
        genes,
        of_genes.sums / of_genes.sums.sum(),
        graph,
        batches,
        normalized=normalized,
        n_top_genes=n_top_genes,
        n_pcs=n_pcs,
        random_state=random_state,
    )
    parameters = {
        **({} if sample_key is None else {"sample_key": sample_key}),
        **({} if batch_key is None else {"batch_key": batch_key}),
        "normalized": normalized,
        "n_top_genes": n_top_genes,
        "n_genes": len(found.projection.axes),
    }
    write_features(adata, keys, filled, found.scores, "prepare", layer, random_state, parameters)
    adata.obsm[keys.no_neighbors] = _with_all_rows(found.single, filled)
    warn_invalid(int((~valid).sum()), n_obs=adata.n_obs)
    return cast("ExpressionProjection", found.projection)


def prepare_embedding(
    adata: AnnData,
    use_rep: str,
    *,
    n_pcs: int = _N_PCS,
    random_state: int = 0,
    key_added: str = DEFAULT,
) -> None:
    r"""Make features from ready ones: components of observations and neighbours together.

    Features with more than 50 columns are first brought to their first 50 principal components.
    Outliers are then moved closer. Let :math:`r_i` be the distance of observation :math:`i` from
    the medians of all. An observation with :math:`r_i > 2 \operatorname{median}(r)` moves towards
    the medians, up to that distance. The components are found from single observations and the
    means over their neighbours together, as in `prepare`.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph.
    use_rep
        Ready features, such as a PCA from elsewhere: a key of ``obsm``, or ``"X"``. Observations
        that took no part in them have rows of NaN.
    n_pcs
        Number of components, as for `prepare`. Features with no more columns are taken as they are,
        with their outliers.
    random_state
        Seed of the iterative eigensolver's first vector.
    key_added
        Name of the result, as for `prepare`.

    Writes
    ------
    ``obsm["X_m2st_pca"]``
        float32, (n_obs, at most n_pcs). Rows of observations without values, off the tissue or
        without coordinates are NaN (see `spatial_graph`).
    ``obsm["X_m2st_pca_no_neighbors"]``
        The first principal components of the ready features, with outliers as they are, for
        `m2st.tl.choose_n_domains`; only if the features have more than `n_pcs` columns.
    ``uns["m2st"]["prepare"]``
        Parameters, and the numbers of features, components and empty observations.

    Raises
    ------
    KeyError
        If the features are missing, or the spatial graph if they have more than `n_pcs` columns.
    ValueError
        If there are fewer than two observations; if a value is not finite and its row is not all
        NaN; if all rows are equal.

    Warns
    -----
    UserWarning
        If observations have no values, lie off the tissue or have no coordinates.

    Notes
    -----
    Components of values that are not on a log scale often show single outlying observations, and
    domains of one or two observations follow. Outliers are moved closer for this reason
    (``docs/departures.md``).

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> scores = np.random.default_rng(0).normal(size=(60, 50))
    >>> adata = anndata.AnnData(obsm={"X_pca": scores})
    >>> adata.obsm["spatial"] = np.array([[x, y] for x in range(10) for y in range(6)])
    >>> m2st.pp.spatial_graph(adata)
    >>> m2st.pp.prepare_embedding(adata, "X_pca")
    >>> adata.obsm["X_m2st_pca"].shape
    (60, 15)
    """
    project_embedding(adata, use_rep, n_pcs=n_pcs, random_state=random_state, key_added=key_added)


def project_embedding(
    adata: AnnData, use_rep: str, *, n_pcs: int, random_state: int, key_added: str = DEFAULT
) -> ReadyProjection | None:
    """Do what `prepare_embedding` does, and return how to make such features of other observations.

    None where the features are taken as they are.
    """
    check_adata(adata)
    keys = check_key_added(adata, key_added)
    check_int("n_pcs", n_pcs, minimum=1)
    random_state = check_seed(random_state)
    features = check_rep(adata, use_rep)
    filled = np.asarray(~np.isnan(features).all(axis=1))
    features = features[filled]
    check_features(features, name=use_rep)
    n_features = features.shape[1]
    found = None
    if n_features > n_pcs:
        graph = check_graph(adata)[filled][:, filled]
        if not np.ptp(features, axis=0).any():
            msg = (
                f"Expected `{use_rep}` to differ between observations, found {n_features} columns "
                "that are all alike. Check that these are the right features."
            )
            raise ValueError(msg)
        found = from_ready(features, graph, n_pcs=n_pcs, random_state=random_state)
        features = found.scores
        logger.info(
            "Using %d components of the %d features in %s", features.shape[1], n_features, use_rep
        )
    parameters = {"use_rep": use_rep, "n_features": n_features}
    write_features(
        adata, keys, filled, features, "prepare_embedding", None, random_state, parameters
    )
    if found is None:
        return None
    adata.obsm[keys.no_neighbors] = _with_all_rows(found.single, filled)
    return cast("ReadyProjection", found.projection)


def spatial_graph(
    adata: AnnData, *, spatial_key: str = COORDINATES, sample_key: str | None = None
) -> None:
    """Choose a graph by looking at the coordinates, and say which and why.

    On a hexagonal or square array, each observation is linked to the first ring around it. In a
    plane without an array, Delaunay neighbours are linked, without long edges. In space, nearest
    neighbours are linked. The unit of the coordinates does not matter. With `sample_key`, each
    section has its own choice.

    Parameters
    ----------
    adata
        n_obs × n_vars.
    spatial_key
        Coordinates in ``obsm``, (n_obs, 2) or (n_obs, 3), any unit.
    sample_key
        Column of ``obs`` that names the section of each observation; no edge joins two sections.

    Writes
    ------
    ``obsp["spatial_connectivities"]``
        CSR float32, (n_obs, n_obs): 1 for each edge, symmetric, zero diagonal.
    ``obsp["spatial_distances"]``
        CSR float64, same pattern: length of each edge.
    ``uns["spatial_neighbors"]``
        Keys and parameters of the graph, in squidpy's layout.
    ``uns["m2st"]["graph"]``
        ``method``, ``reason``, parameters, numbers of edges, isolated observations, components.
    ``uns["m2st"]["spots"]``
        Sections, and the size of the spots in each. Pictures of a part of a section have them.

    Raises
    ------
    KeyError
        If the coordinates or the sample column are missing.
    ValueError
        If no observation has finite coordinates; if all have the same; if sample names are missing.

    Warns
    -----
    UserWarning
        If observations are isolated; if observations of a section share their coordinates; if
        sections lie on top of each other and are not told apart.

    Notes
    -----
    Observations without finite coordinates, or with ``obs["in_tissue"]`` 0 or False, take no part:
    they have no edge, and `prepare` gives them no features.

    The choice is also logged at level INFO.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((9, 1), dtype="float32"))
    >>> adata.obsm["spatial"] = np.array([[x, y] for x in range(3) for y in range(3)])
    >>> m2st.pp.spatial_graph(adata)
    >>> adata.uns["m2st"]["graph"]["method"]
    'lattice'
    """
    choices: list[tuple[str, str]] = []

    def build(coordinates: NDArray[Any]) -> _graph.Graph:
        graph, method, reason = _graph.choose_graph(coordinates)
        choices.append((method, reason))
        return graph

    graph = _build(adata, build, spatial_key, sample_key)
    valid = valid_observations(adata, spatial_key)
    sections, names = _sections(adata, sample_key, valid)
    if names is None:
        method, reason = choices[0]
    else:  # one choice per section that has any edges to choose
        sizes = np.bincount(sections[valid], minlength=len(names))
        chosen = [name for name, size in zip(names, sizes, strict=True) if size > 1]
        method = "+".join(sorted({method for method, _ in choices})) or "isolated"
        reason = "; ".join(
            f"{name}: {method}, {reason}"
            for name, (method, reason) in zip(chosen, choices, strict=True)
        )
    logger.info("Spatial graph: %s (%s).", method, reason)
    _write_graph(adata, graph, method, reason, {}, spatial_key, sample_key)


def spatial_graph_lattice(
    adata: AnnData, *, spatial_key: str = COORDINATES, sample_key: str | None = None
) -> None:
    """Link each spot to the first ring around it on a hexagonal or square array.

    The array is found from the coordinates alone: any unit, any rotation, with holes in the
    tissue, rounding to pixels and moderate jitter.

    Parameters
    ----------
    adata
        n_obs × n_vars.
    spatial_key
        Coordinates in ``obsm``, (n_obs, 2) or (n_obs, 3), any unit. Visium array indices (row,
        column) are recognised. Lengths are then in columns, and neighbours are 2 apart.
    sample_key
        Column of ``obs`` that names the section of each observation; no edge joins two sections.

    Writes
    ------
    The slots that `spatial_graph` lists.

    Raises
    ------
    KeyError
        If the coordinates or the sample column are missing.
    ValueError
        If the observations of a section do not lie on an array; if no observation has finite
        coordinates; if all have the same; if sample names are missing.

    Warns
    -----
    UserWarning
        If observations are isolated; if observations of a section share their coordinates; if
        sections lie on top of each other and are not told apart.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((9, 1), dtype="float32"))
    >>> adata.obsm["spatial"] = np.array([[x, y] for x in range(3) for y in range(3)])
    >>> m2st.pp.spatial_graph_lattice(adata)
    >>> adata.uns["m2st"]["graph"]["n_edges"]
    24
    """
    graph = _build(adata, _graph.lattice_graph, spatial_key, sample_key)
    reason = "asked for: first ring of the array"
    _write_graph(adata, graph, "lattice", reason, {}, spatial_key, sample_key)


def spatial_graph_radius(
    adata: AnnData,
    radius: float,
    *,
    spatial_key: str = COORDINATES,
    sample_key: str | None = None,
) -> None:
    """Link observations at most `radius` apart.

    Parameters
    ----------
    adata
        n_obs × n_vars.
    radius
        Greatest length of an edge, in the unit of the coordinates.
    spatial_key
        Coordinates in ``obsm``, (n_obs, 2) or (n_obs, 3).
    sample_key
        Column of ``obs`` that names the section of each observation; no edge joins two sections.

    Writes
    ------
    The slots that `spatial_graph` lists.

    Raises
    ------
    KeyError
        If the coordinates or the sample column are missing.
    ValueError
        If the radius is not positive; if observations have over 1000 neighbours on average; if no
        observation has finite coordinates; if all have the same; if sample names are missing.

    Warns
    -----
    UserWarning
        If observations are isolated; if observations of a section share their coordinates; if
        sections lie on top of each other and are not told apart.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((3, 1), dtype="float32"))
    >>> adata.obsm["spatial"] = np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    >>> m2st.pp.spatial_graph_radius(adata, 5)
    >>> adata.uns["m2st"]["graph"]["n_edges"]
    4
    """
    check_interval("radius", radius, 0, np.inf, closed=(False, False))

    def build(coordinates: NDArray[Any]) -> _graph.Graph:
        return _graph.radius_graph(coordinates, radius)

    graph = _build(adata, build, spatial_key, sample_key)
    reason = f"asked for: radius {radius:g}"
    parameters = {"radius": float(radius)}
    _write_graph(adata, graph, "radius", reason, parameters, spatial_key, sample_key)


def spatial_graph_knn(
    adata: AnnData,
    n_neighbors: int = 6,
    *,
    spatial_key: str = COORDINATES,
    sample_key: str | None = None,
) -> None:
    """Link two observations if one is among the nearest neighbours of the other.

    Parameters
    ----------
    adata
        n_obs × n_vars.
    n_neighbors
        Number of nearest neighbours, less than n_obs. A section with no more observations than
        this is linked completely.
    spatial_key
        Coordinates in ``obsm``, (n_obs, 2) or (n_obs, 3), any unit.
    sample_key
        Column of ``obs`` that names the section of each observation; no edge joins two sections.

    Writes
    ------
    The slots that `spatial_graph` lists.

    Raises
    ------
    KeyError
        If the coordinates or the sample column are missing.
    ValueError
        If there are not as many other observations; if no observation has finite coordinates; if
        all have the same; if sample names are missing.

    Warns
    -----
    UserWarning
        If observations are isolated; if observations of a section share their coordinates; if
        sections lie on top of each other and are not told apart.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((3, 1), dtype="float32"))
    >>> adata.obsm["spatial"] = np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]])
    >>> m2st.pp.spatial_graph_knn(adata, 1)
    >>> adata.uns["m2st"]["graph"]["n_edges"]
    4
    """
    check_int("n_neighbors", n_neighbors, minimum=1)
    check_adata(adata)
    if n_neighbors >= adata.n_obs:
        msg = (
            f"Expected `n_neighbors` smaller than the number of observations, {adata.n_obs}, "
            f"found {n_neighbors}. Ask for fewer neighbours."
        )
        raise ValueError(msg)

    def build(coordinates: NDArray[Any]) -> _graph.Graph:
        return _graph.knn_graph(coordinates, min(n_neighbors, len(coordinates) - 1))

    graph = _build(adata, build, spatial_key, sample_key)
    reason = f"asked for: {n_neighbors} nearest neighbours"
    parameters = {"n_neighbors": int(n_neighbors)}
    _write_graph(adata, graph, "knn", reason, parameters, spatial_key, sample_key)


def spatial_graph_delaunay(
    adata: AnnData,
    *,
    max_length_ratio: float = _graph.MAX_LENGTH_RATIO,
    spatial_key: str = COORDINATES,
    sample_key: str | None = None,
) -> None:
    """Link neighbours in the Delaunay triangulation, without its long edges.

    An edge is removed if it is longer than `max_length_ratio` times the usual length around both of
    its ends. The usual length is the lower median over the edges of an observation. This removes
    slivers along the outline and bridges over gaps, at any unit and density. No observation loses
    more than half of its edges.

    Parameters
    ----------
    adata
        n_obs × n_vars.
    max_length_ratio
        At least 1; infinity keeps the whole triangulation.
    spatial_key
        Coordinates in ``obsm``, (n_obs, 2) or (n_obs, 3), any unit.
    sample_key
        Column of ``obs`` that names the section of each observation; no edge joins two sections.

    Writes
    ------
    The slots that `spatial_graph` lists.

    Raises
    ------
    KeyError
        If the coordinates or the sample column are missing.
    ValueError
        If the ratio is less than 1; if no observation has finite coordinates; if all have the same;
        if sample names are missing.

    Warns
    -----
    UserWarning
        If observations are isolated; if observations of a section share their coordinates; if
        sections lie on top of each other and are not told apart.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((4, 1), dtype="float32"))
    >>> adata.obsm["spatial"] = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0], [1.0, 0.5]])
    >>> m2st.pp.spatial_graph_delaunay(adata)
    >>> adata.uns["m2st"]["graph"]["n_edges"]
    12
    """
    check_interval("max_length_ratio", max_length_ratio, 1, np.inf)

    def build(coordinates: NDArray[Any]) -> _graph.Graph:
        return _graph.delaunay_graph(coordinates, max_length_ratio=max_length_ratio)

    graph = _build(adata, build, spatial_key, sample_key)
    reason = f"asked for: Delaunay, edges up to {max_length_ratio:g} times the usual length"
    parameters = {"max_length_ratio": float(max_length_ratio)}
    _write_graph(adata, graph, "delaunay", reason, parameters, spatial_key, sample_key)


def link_sections(adata: AnnData, distance: float) -> None:
    """Link observations of registered serial sections that lie close to each other.

    Edges within sections stay. Observations of different sections get an edge if they are at most
    `distance` apart. `m2st.run` then uses this graph.

    Parameters
    ----------
    adata
        n_obs observations with a spatial graph that `m2st.pp` built with `sample_key`. The
        coordinates of all sections are in one frame (registered).
    distance
        Greatest length of an edge between sections, in the unit of the coordinates. With three
        columns of coordinates, it includes the way from section to section.

    Writes
    ------
    ``obsp["spatial_connectivities"]``, ``obsp["spatial_distances"]``
        The graph with the edges between sections.
    ``uns["spatial_neighbors"]``, ``uns["m2st"]["graph"]``
        ``link_distance``, and the number of edges between sections, ``n_between_samples``.

    Raises
    ------
    KeyError
        If there is no spatial graph.
    TypeError
        If `distance` is no number.
    ValueError
        If `m2st.pp` did not build the graph, or built it without sections or from other
        coordinates; if `distance` is not positive; if no observations of different sections are
        that close.

    Notes
    -----
    Nothing else links sections, because coordinates of sections that were not registered only look
    alike. With two columns of coordinates, all sections are taken to lie on each other. Give three,
    with the depth of each section, if only adjacent sections should be linked.

    Links make sections agree. They need not make them better: of two published sections, each with
    its counts divided into two, one had domains as good as without links, the other worse ones.

    `prepare` averages counts over neighbours, those of other sections included. Link sections of
    one chemistry and about one depth of sequencing.

    Examples
    --------
    >>> import anndata, numpy as np, m2st
    >>> adata = anndata.AnnData(np.ones((18, 1), dtype="float32"))
    >>> places = np.array([[x, y] for x in range(3) for y in range(3)], dtype=float)
    >>> adata.obsm["spatial"] = np.vstack([places, places + 0.1])
    >>> adata.obs["section"] = np.repeat(["a", "b"], 9)
    >>> m2st.pp.spatial_graph(adata, sample_key="section")
    >>> m2st.pp.link_sections(adata, 0.2)
    >>> adata.uns["m2st"]["graph"]["n_between_samples"]
    18
    """
    check_adata(adata)
    check_interval("distance", distance, 0, np.inf, closed=(False, False))
    within = check_graph(adata)
    params = graph_params(adata)
    if params is None or "sample_key" not in params:
        msg = (
            "Expected a spatial graph that tells sections apart, found one without. Build it with "
            "`m2st.pp.spatial_graph(adata, sample_key=...)` first."
        )
        raise ValueError(msg)
    spatial_key, sample_key = str(params["spatial_key"]), str(params["sample_key"])
    valid = valid_observations(adata, spatial_key)
    points = cast("NDArray[np.float64]", numbers_at(adata, spatial_key))
    sections, _ = _sections(adata, sample_key, valid)
    lengths = check_sparse(adata.obsp[DISTANCES], name=f"adata.obsp[{DISTANCES!r}]").tocsr()
    own = _graph.Graph(within, lengths)
    graph = _graph.link_sections(own, points, np.where(valid, sections, -1), float(distance))
    report = _graph.graph_report(graph.connectivities)
    n_between = _graph.edges_between_sections(graph.connectivities, sections)
    if not n_between:
        msg = (
            f"Expected observations of different sections at most {distance:g} apart in "
            f"`adata.obsm[{spatial_key!r}]`, found none. Check the unit, and that the sections "
            "are registered."
        )
        raise ValueError(msg)
    adata.obsp[CONNECTIVITIES] = graph.connectivities
    adata.obsp[DISTANCES] = graph.distances
    added = {"link_distance": float(distance)}
    note = adata.uns[NEIGHBORS]
    adata.uns[NEIGHBORS] = {**note, "params": {**params, **added}}
    entry = adata.uns[GRAPH_RECORD]["graph"]
    reason = f"{entry['reason'].split(_LINKED)[0]}{_LINKED}{distance:g}"
    entry = {**entry, **added, **report, "n_between_samples": n_between, "reason": reason}
    _record(adata, GRAPH_RECORD, "graph", entry)


class Place(NamedTuple):
    """Keys of coordinates and sections, which observations are valid, and the section of each."""

    spatial_key: str
    sample_key: str | None
    valid: NDArray[np.bool_]
    sections: NDArray[np.intp]


def find_place(adata: AnnData, spatial_key: str | None, sample_key: str | None) -> Place:
    """Find coordinates and sections; without keys, of the graph in the object.

    A graph of the user's own has to keep the sections apart. Nothing is written.
    """
    if spatial_key is not None:
        check_key(spatial_key, adata.obsm, where="adata.obsm")
    has_graph = CONNECTIVITIES in adata.obsp
    if has_graph:
        spatial_key = spatial_key or recorded_key(adata, "spatial_key")
        sample_key = sample_key or recorded_key(adata, "sample_key")
    spatial_key = spatial_key or COORDINATES
    valid = valid_observations(adata, spatial_key)
    sections, _ = _sections(adata, sample_key, valid)
    if has_graph and graph_params(adata) is None:
        graph = check_graph(adata)
        if sample_key is not None:
            _check_sections(graph, sections, sample_key)
    return Place(spatial_key, sample_key, valid, sections)


def _check_sections(graph: sparse.csr_matrix, sections: NDArray[np.intp], sample_key: str) -> None:
    """Require that the graph at hand has no edge between sections."""
    crossing = _graph.edges_between_sections(graph, sections)
    if crossing:
        msg = (
            f"Expected no edge between the sections of `adata.obs[{sample_key!r}]`, found "
            f"{crossing} in the spatial graph. Build it again with "
            f"`m2st.pp.spatial_graph(adata, sample_key={sample_key!r})`."
        )
        raise ValueError(msg)


def ensure_graph(adata: AnnData, spatial_key: str, sample_key: str | None) -> None:
    """Build the spatial graph that `m2st.run` uses, unless one is there that fits.

    A graph of the user's own stays. One that this package built from other coordinates, sections or
    observations is built again in the same way, and a warning says so.
    """
    if CONNECTIVITIES not in adata.obsp:
        spatial_graph(adata, spatial_key=spatial_key, sample_key=sample_key)
        return
    before = adata.obsp[CONNECTIVITIES]
    params = graph_params(adata)
    if params is None:
        logger.info("Using the spatial graph found in obsp[%r]", CONNECTIVITIES)
        keys = {"spatial_key": spatial_key, "sample_key": sample_key}
        known = {name: key for name, key in keys.items() if key is not None}
        report = _graph.graph_report(check_graph(adata))
        _record(adata, GRAPH_RECORD, "graph", {"method": "given", **known, **report})
        _record_spots(adata, spatial_key, sample_key, valid_observations(adata, spatial_key))
        return
    same_keys = params["spatial_key"] == spatial_key and params.get("sample_key") == sample_key
    known = adata.uns.get(GRAPH_RECORD, {}).get("graph", {}).get("fingerprint")
    if spatial_key not in adata.obsm or (
        same_keys and known == _fingerprint(adata, spatial_key, sample_key)
    ):
        logger.info("Using the spatial graph found in obsp[%r]", CONNECTIVITIES)
        return
    n_obs = adata.uns.get(GRAPH_RECORD, {}).get("graph", {}).get("n_obs")
    if "radius" in params:
        spatial_graph_radius(
            adata, params["radius"], spatial_key=spatial_key, sample_key=sample_key
        )
    elif "n_neighbors" in params:
        n_neighbors = min(int(params["n_neighbors"]), adata.n_obs - 1)
        spatial_graph_knn(adata, n_neighbors, spatial_key=spatial_key, sample_key=sample_key)
    elif "max_length_ratio" in params:
        spatial_graph_delaunay(
            adata,
            max_length_ratio=params["max_length_ratio"],
            spatial_key=spatial_key,
            sample_key=sample_key,
        )
    else:
        spatial_graph(adata, spatial_key=spatial_key, sample_key=sample_key)
    if "link_distance" in params and sample_key is not None:
        link_sections(adata, params["link_distance"])
    if n_obs != adata.n_obs or (before != adata.obsp[CONNECTIVITIES]).nnz:
        msg = (
            "The spatial graph was built from other coordinates, sections or observations. It is "
            f"built anew from `adata.obsm[{spatial_key!r}]`: "
            f"{adata.uns[GRAPH_RECORD]['graph']['reason']}."
        )
        warn(msg)


def _fingerprint(adata: AnnData, spatial_key: str, sample_key: str | None) -> str:
    """What a spatial graph is built from, in a few letters."""
    valid = valid_observations(adata, spatial_key)
    coordinates = numbers_at(adata, spatial_key)
    codes, _ = _sections(adata, sample_key, valid)
    parts = (coordinates, codes, valid)
    return sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()[:16]


def find_expression(adata: AnnData, layer: str | None) -> tuple[Any, str]:
    """Matrix to prepare, in memory or in a file, and its name for messages."""
    check_unique_names(adata.obs_names, name="obs_names", fix="adata.obs_names_make_unique()")
    check_unique_names(adata.var_names, name="var_names", fix="adata.var_names_make_unique()")
    matrix, name = adata.X, "adata.X"
    if layer is not None:
        check_key(layer, adata.layers, where="adata.layers")
        matrix, name = adata.layers[layer], f"adata.layers[{layer!r}]"
    if matrix is None:
        msg = (
            "Expected expression in `adata.X`, found None. Name the layer that holds the counts "
            "with `layer=`, or pass ready features with `use_rep=`."
        )
        raise ValueError(msg)
    if sparse.issparse(matrix):
        return check_sparse(matrix, name=name), name
    check_dtype(matrix.dtype, name=name)
    return matrix, name


class OfGenes(NamedTuple):
    """In how many valid observations each gene is, and the sum of its values there."""

    n_cells: NDArray[np.int64]
    sums: NDArray[np.float64]


def survey(
    adata: AnnData, layer: str | None, valid: NDArray[np.bool_], *, normalized: bool
) -> tuple[Any, str, NDArray[np.float32], OfGenes]:
    """Find and check the expression: matrix, name, totals of observations, and of genes."""
    check_adata(adata)
    matrix, name = find_expression(adata, layer)
    totals, n_cells = np.zeros(matrix.shape[0]), np.zeros(matrix.shape[1], dtype=np.int64)
    sums = np.zeros(matrix.shape[1])
    broken, largest = np.empty(0), 0.0
    for rows, columns, block in blocks(matrix):
        check_expression(block, name=name)
        if block.format == "csc":  # value by value along a row, as a sum of rows does it
            np.add.at(totals, block.indices, block.data)
        else:
            totals[rows] = block @ np.ones(block.shape[1])
        if not valid[rows].all():
            block = block[np.flatnonzero(valid[rows])]
        n_cells[columns] += block.getnnz(axis=0)
        sums[columns] += block.sum(axis=0, dtype=np.float64).A1
        largest = max(largest, block.data.max(initial=0))
        if not broken.size:
            broken = fractional(block.data)
    if normalized:
        _warn_of_no_logs(name, whole=not broken.size, largest=largest)
    elif broken.size:
        logged = looks_logged(some_rows(matrix)) or (layer is None and "log1p" in adata.uns)
        elsewhere = _counts_elsewhere(adata, layer)
        _check_fractions(name, float(broken[0]), largest, logged=logged, elsewhere=elsewhere)
    return matrix, name, totals.astype(np.float32), OfGenes(n_cells, sums)


def _warn_of_no_logs(name: str, *, whole: bool, largest: float) -> None:
    """Warn of values that are said to be on a log scale and are not."""
    found = f"values up to {largest:.4g}" if largest > LARGEST_LOG else "whole numbers only"
    if largest > LARGEST_LOG or (whole and largest > 0):
        msg = (
            f"Expected values on a log scale in `{name}` with `normalized=True`, found {found}. "
            "If these are counts, leave `normalized` out: then m2ST takes the logarithm."
        )
        warn(msg)


def _check_fractions(
    name: str, value: float, largest: float, *, logged: bool, elsewhere: str
) -> None:
    """Refuse logarithms in place of counts; take other fractions for counts, with a word."""
    if logged:
        msg = (
            f"Expected raw counts (whole numbers) in `{name}`, found values on a log scale, up to "
            f"{largest:.4g}. {elsewhere or 'Name the layer that holds the counts with `layer=`, '}"
            f"{'Or' if elsewhere else 'or'} pass `normalized=True` to use these values."
        )
        raise ValueError(msg)
    msg = (
        f"`{name}` holds fractional values such as {value:.4g}: they are taken as counts, such as "
        "a correction for ambient RNA leaves them. If they are on a log scale, pass "
        f"`normalized=True`.{' ' + elsewhere.strip() if elsewhere else ''}"
    )
    warn(msg)


def _counts_elsewhere(adata: AnnData, layer: str | None) -> str:
    """Where there are whole numbers in the same object, as a sentence; empty if nowhere."""

    def counts(matrix: Any) -> bool:
        if getattr(matrix.dtype, "kind", "O") not in "buif":
            return False
        values = some_rows(matrix).data
        return bool(values.size and values.min() >= 0 and not fractional(values).size)

    for key, matrix in adata.layers.items():
        if key is not None and key != layer and counts(matrix):
            return f"`adata.layers[{key!r}]` holds whole numbers: pass `layer={key!r}`. "
    if layer is not None and adata.X is not None and counts(adata.X):
        return "`adata.X` holds whole numbers: leave `layer` out. "
    raw = adata.raw
    if raw is not None and adata.var_names.isin(raw.var_names).all() and counts(raw.X):
        return (
            '`adata.raw.X` holds whole numbers: pass `layer="counts"` after '
            '`adata.layers["counts"] = adata.raw[:, adata.var_names].X`. '
        )
    return ""


def check_filled(filled: NDArray[np.bool_], genes: NDArray[np.bool_], name: str) -> None:
    """Require observations and genes with counts."""
    if min(filled.sum(), genes.sum()) < 2:
        msg = (
            f"Expected at least two observations and two genes with counts in `{name}`, found "
            f"{filled.sum()} of {len(filled)} observations and {genes.sum()} of {len(genes)} "
            "genes. Check that this is the right matrix."
        )
        raise ValueError(msg)


def write_features(
    adata: AnnData,
    keys: Keys,
    filled: NDArray[np.bool_],
    scores: NDArray[np.float32],
    recipe: str,
    layer: str | None,
    random_state: int,
    parameters: dict[str, Any],
) -> None:
    """Write scores in the order of `adata`, and the record; warn of empty observations."""
    valid = valid_observations(adata)
    adata.obsm[keys.features] = _with_all_rows(scores, filled)
    adata.obsm.pop(keys.no_neighbors, None)
    _record(
        adata,
        keys.record,
        "prepare",
        {
            "recipe": recipe,
            **({} if layer is None else {"layer": layer}),
            **parameters,
            "n_pcs": scores.shape[1],
            "random_state": random_state,
            "n_empty": int((~filled & valid).sum()),
        },
    )
    warn_of_empty(filled, valid, "values" if "use_rep" in parameters else "counts")


def warn_of_empty(filled: NDArray[np.bool_], valid: NDArray[np.bool_], lacking: str) -> None:
    """Warn of valid observations that are not filled."""
    n_empty = int((~filled & valid).sum())
    if n_empty:
        msg = (
            f"{n_empty} of {len(filled)} observations have no {lacking}: their features are NaN "
            "and they will have no domain."
        )
        warn(msg)


def _with_all_rows(scores: NDArray[np.float32], filled: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Scores in the rows that have any, NaN in the others."""
    features = np.full((len(filled), scores.shape[1]), np.nan, dtype=np.float32)
    features[filled] = scores
    return features


def _record(adata: AnnData, name: str, step: str, entry: dict[str, Any]) -> None:
    """Write one entry of a record in ``uns`` and leave the others."""
    adata.uns[name] = {**adata.uns.get(name, {}), step: entry}


def _sections(
    adata: AnnData, sample_key: str | None, valid: NDArray[np.bool_], what: str = "section"
) -> tuple[NDArray[np.intp], list[str] | None]:
    """Section number of each observation, and the names of the sections if there is a column.

    Only those of valid observations count; -1 where another one has none.
    """
    check_adata(adata)
    if sample_key is None:
        return np.zeros(adata.n_obs, dtype=np.intp), None
    check_key(sample_key, adata.obs, where="adata.obs")
    if adata.obs[sample_key].ndim > 1:
        msg = (
            f"Expected one column {sample_key!r} in `adata.obs`, found several. Rename the others."
        )
        raise ValueError(msg)
    codes, names = pd.factorize(adata.obs[sample_key])
    missing = int((codes[valid] < 0).sum())
    if missing:
        msg = (
            f"Expected the {what} of every observation in `adata.obs[{sample_key!r}]`, found "
            f"{missing} missing. Fill them in or remove these observations."
        )
        raise ValueError(msg)
    return codes, [str(name) for name in names]


def _build(
    adata: AnnData,
    build: Callable[[NDArray[Any]], _graph.Graph],
    spatial_key: str,
    sample_key: str | None,
) -> _graph.Graph:
    """Build a graph between valid observations."""
    check_adata(adata)
    hint = "Put them there, or name them: `m2st.pp.spatial_graph(adata, spatial_key=...)`."
    check_key(spatial_key, adata.obsm, where="adata.obsm", hint=hint)
    name = f"adata.obsm[{spatial_key!r}]"
    coordinates = check_numbers(adata.obsm[spatial_key], name=name).astype(np.float64, copy=False)
    valid = valid_observations(adata, spatial_key)
    coordinates = coordinates[valid]
    check_coordinates(coordinates, name=name)
    codes, names = _sections(adata, sample_key, valid)
    sections = codes[valid]
    if names is None:
        graph = build(coordinates)
    else:
        graph = _graph.block_diagonal(build, coordinates, sections, names=names)
    return graph if valid.all() else _graph.spread(graph, valid)


def _write_graph(
    adata: AnnData,
    graph: _graph.Graph,
    method: str,
    reason: str,
    parameters: dict[str, Any],
    spatial_key: str,
    sample_key: str | None,
) -> None:
    """Write a graph, squidpy's note on it and the record; warn of what looks wrong in it."""
    adata.obsp[CONNECTIVITIES] = graph.connectivities
    adata.obsp[DISTANCES] = graph.distances
    keys = {"spatial_key": spatial_key}
    if sample_key is not None:
        keys["sample_key"] = sample_key
    adata.uns[NEIGHBORS] = {
        "connectivities_key": CONNECTIVITIES,
        "distances_key": DISTANCES,
        "params": {
            "coord_type": "grid" if method == "lattice" else "generic",
            "method": method,
            **parameters,
            **keys,
        },
    }
    report = _graph.graph_report(graph.connectivities)
    valid = valid_observations(adata, spatial_key)
    n_invalid = int((~valid).sum())
    entry = {"method": method, "reason": reason, **parameters, **keys, **report}
    sections, _ = _sections(adata, sample_key, valid)
    crossing = _graph.edges_between_sections(graph.connectivities, sections)
    entry["n_between_samples"] = crossing
    if n_invalid:
        entry["n_invalid"] = n_invalid
    entry["fingerprint"] = _fingerprint(adata, spatial_key, sample_key)
    found = find_overlay(
        adata.obs,
        adata.obsm,
        spatial_key=spatial_key,
        sample_key=sample_key,
        valid=valid,
        region_key=region_key(adata),
    )
    if found is not None:
        entry["overlay"] = overlay_in_words(found, adata.obs, spatial_key)
        warn(entry["overlay"])
    else:
        _warn_of_shared_places(adata, spatial_key, sample_key, valid)
    _record(adata, GRAPH_RECORD, "graph", entry)
    _record_spots(adata, spatial_key, sample_key, valid)
    logger.info(
        "%d edge entries, mean degree %.2f, %d components.",
        report["n_edges"],
        report["mean_degree"],
        report["n_components"],
    )
    n_isolated = report["n_isolated"] - n_invalid
    if n_isolated:
        msg = (
            f"{n_isolated} of {adata.n_obs} observations have no neighbour in the "
            "spatial graph. What is found for them comes from their own expression alone."
        )
        warn(msg)


def _record_spots(
    adata: AnnData, spatial_key: str, sample_key: str | None, valid: NDArray[np.bool_]
) -> None:
    """Record how large the spots are, which a part of a section does not show."""
    coordinates = numbers_at(adata, spatial_key)
    if coordinates is None or coordinates.shape[1] < 2 or not valid.any():  # of a given graph
        return
    codes, names = _sections(adata, sample_key, valid)
    kept, sections = np.unique(codes[valid], return_inverse=True)
    present = [""] if names is None else [names[code] for code in kept]
    spots = describe_spots(coordinates[valid, :2], sections, present)
    _record(adata, GRAPH_RECORD, SPOTS, spots)


def _warn_of_shared_places(
    adata: AnnData, spatial_key: str, sample_key: str | None, valid: NDArray[np.bool_]
) -> None:
    """Warn of observations that coincide within a section."""
    codes, _ = _sections(adata, sample_key, valid)
    places = pd.DataFrame(numbers_at(adata, spatial_key)).assign(section=codes)[valid]
    n_shared = int(places.duplicated(keep=False).sum())
    if n_shared:
        msg = (
            f"{n_shared} of {adata.n_obs} observations share their coordinates with another one "
            "of the same section. If several sections lie in one frame, tell them apart with "
            "`sample_key=`."
        )
        warn(msg)
