"""What enters, through every door: storage, seeds, settings, and objects that are no AnnData."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask.array as da
import matplotlib as mpl
import numba
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from anndata.experimental import read_lazy
from packaging.version import Version
from scipy import sparse
from tests.stored import GRAPHS, STORED, TABLES, linked_in
from threadpoolctl import threadpool_info

import m2st
from m2st._features import _components
from m2st._nn._training import train

QUICK = m2st.AutoencoderParams(n_members=1, scale_dims=(8, 4), hidden_dim=8, n_epochs=2)
ONCE = m2st.ClusteringParams(n_init=1, short_iter=2)


def tissue(n_obs: int = 60, n_vars: int = 30) -> AnnData:
    """Counts of two halves of a tissue on a square array, ten spots wide."""
    rng = np.random.default_rng(0)
    rate = np.full((n_obs, n_vars), 1.0)
    rate[: n_obs // 2, : n_vars // 3] = 6
    adata = AnnData(rng.poisson(rate).astype(np.float32))
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n_obs), 10)).astype(float)
    return adata


def run(adata: AnnData, n_domains: Any = 2, **settings: Any) -> AnnData:
    """Run quickly; settings may replace what makes it quick."""
    quick = {"autoencoder": QUICK, "clustering": ONCE, "progress": False}
    m2st.run(adata, n_domains, **(quick | settings))
    return adata


# ---- seeds

SEEDED: dict[str, Callable[[AnnData, Any], object]] = {
    "run": lambda a, seed: run(a, random_state=seed),
    "prepare": lambda a, seed: m2st.pp.prepare(a, random_state=seed),
    "prepare_embedding": lambda a, seed: m2st.pp.prepare_embedding(a, "X", random_state=seed),
    "paper.prepare": lambda a, seed: m2st.paper.prepare(a, random_state=seed),
    "embed": lambda a, seed: m2st.tl.embed(a, QUICK, random_state=seed, progress=False),
    "cluster": lambda a, seed: m2st.tl.cluster(a, 2, ONCE, random_state=seed),
    "choose_n_domains": lambda a, seed: m2st.tl.choose_n_domains(a, [2], ONCE, random_state=seed),
    "clustering": lambda a, seed: m2st.MultiScaleClustering(2, n_init=1, random_state=seed).fit(
        [a.X]
    ),
    "train": lambda a, seed: train(a.X, a.obsp["spatial_connectivities"], QUICK, random_state=seed),
    "simulate": lambda a, seed: m2st.datasets.simulate_cortex(200, 80, 4, random_state=seed),
    "silhouette": lambda a, seed: m2st.metrics.silhouette(
        a.X, np.arange(60) % 2, max_obs=20, random_state=seed
    ),
}


@pytest.fixture(scope="module")
def clustered() -> AnnData:
    return run(tissue())


@pytest.mark.filterwarnings("ignore:60 of 60 observations only have counts")
@pytest.mark.parametrize("door", SEEDED)
def test_seeds_have_one_rule(door: str, clustered: AnnData) -> None:
    before = clustered.copy()
    for seed, error, words in (
        (-1, ValueError, "to be at least 0, found -1"),
        (2**32, ValueError, r"of at most 4294967295 \(2\*\*32 - 1\), found 4294967296"),
        (1.5, TypeError, r"to be a whole number, found 1\.5 \(float\)"),
        ("a", TypeError, r"to be a whole number, found 'a' \(str\)"),
        (True, TypeError, r"to be a whole number, found True \(bool\)"),
        (None, TypeError, r"to be a whole number, found None \(NoneType\)"),
    ):
        with pytest.raises(error, match=f"Expected `random_state` {words}"):
            SEEDED[door](clustered, seed)
    assert clustered.uns["m2st"].keys() == before.uns["m2st"].keys()
    SEEDED[door](before, np.uint32(2**32 - 1))


def test_the_seed_in_the_record_is_a_plain_number() -> None:
    record = run(tissue(), random_state=np.int32(5)).uns["m2st"]
    found = [record[step]["random_state"] for step in ("prepare", "embed", "cluster")]
    assert [(type(seed), seed) for seed in found] == [(int, 5)] * 3


def test_a_bad_seed_is_told_before_any_work() -> None:
    adata = tissue()
    with pytest.raises(ValueError, match="Expected `random_state`"):
        run(adata, random_state=-1)
    assert not adata.obsp
    assert not adata.uns


# ---- storage


def contents(matrix: Any) -> list[bytes]:
    """Bytes of a matrix, to see that nobody has changed them."""
    matrix = matrix.compute() if isinstance(matrix, da.Array) else matrix
    if sparse.issparse(matrix):
        return [part.tobytes() for part in (matrix.data, matrix.indices, matrix.indptr)]
    return [np.asarray(matrix).tobytes()]


def features(adata: AnnData) -> list[bytes]:
    return [adata.obsm[key].tobytes() for key in ("X_m2st_pca", "X_m2st_pca_no_neighbors")]


@pytest.fixture(scope="module")
def counted() -> AnnData:
    """Counts, of which some are large, and two observations without any; with a graph."""
    adata = tissue()
    adata.X[0, :3] = [250, 131, 255]
    adata.X[[7, 40]] = 0
    adata.X = sparse.csr_matrix(adata.X)
    m2st.pp.spatial_graph(adata)
    return adata


@pytest.mark.filterwarnings("ignore:.* of 60 observations")
@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("scale", ["counts", "logs"])
def test_counts_in_any_storage_give_the_same_bits(
    kind: str, scale: str, counted: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 500)  # several blocks
    normalized = scale == "logs"
    wanted, adata = counted.copy(), counted.copy()
    values = counted.X.log1p() if normalized else counted.X
    if normalized and kind[-2:] in {"u1", "i2", "i4", "i8", "f2"}:
        pytest.skip("no type of fractional numbers")
    if normalized and kind.startswith(("repeated", "dask of repeated")):
        pytest.skip("its parts add up to whole numbers only")
    wanted.X = values
    adata.layers["here"] = STORED[kind](values)
    before = contents(adata.layers["here"])
    m2st.pp.prepare(wanted, n_pcs=5, normalized=normalized)
    m2st.pp.prepare(adata, n_pcs=5, layer="here", normalized=normalized)
    assert features(adata) == features(wanted)
    assert contents(adata.layers["here"]) == before
    if normalized:
        return
    m2st.paper.prepare(wanted, n_pcs=5)
    m2st.paper.prepare(adata, n_pcs=5, layer="here")
    assert adata.obsm["X_m2st_pca"].tobytes() == wanted.obsm["X_m2st_pca"].tobytes()


def test_counts_in_a_file_give_the_same_bits(
    counted: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 500)
    wanted = counted[counted.X.sum(axis=1).A1 > 0].copy()
    m2st.pp.prepare(wanted, n_pcs=5)
    for kind in ("dense", "csc", "zeros", "repeated"):
        adata = wanted.copy()
        adata.X = STORED[kind](adata.X)
        adata.write_h5ad(tmp_path / "a.h5ad")
        for backed in (True, False):
            found = m2st.io.read(tmp_path / "a.h5ad", backed=backed)
            m2st.pp.prepare(found, n_pcs=5)
            assert features(found) == features(wanted), (kind, backed)


@pytest.mark.parametrize("kind", TABLES)
def test_features_and_places_in_any_storage_give_the_same_bits(kind: str) -> None:
    rng = np.random.default_rng(1)
    wanted = tissue()
    wanted.obsm["X_mine"] = rng.normal(size=(60, 20)).astype(np.float32)
    wanted.obsm["spatial"] = rng.normal(size=(60, 2)).astype(np.float32)
    adata = wanted.copy()
    for key in ("X_mine", "spatial"):
        adata.obsm[key] = TABLES[kind](wanted.obsm[key])
    for one in (wanted, adata):
        m2st.pp.spatial_graph(one)
        m2st.pp.prepare_embedding(one, "X_mine", n_pcs=5)
    assert features(adata) == features(wanted)
    lengths = [one.obsp["spatial_distances"] for one in (adata, wanted)]
    assert contents(lengths[0]) == contents(lengths[1])


@pytest.mark.parametrize("kind", GRAPHS)
def test_graphs_in_any_storage_give_the_same_bits(kind: str, clustered: AnnData) -> None:
    wanted, adata = clustered.copy(), clustered.copy()
    adata.obsp["spatial_connectivities"] = linked_in(kind, wanted.obsp["spatial_connectivities"])
    before = contents(adata.obsp["spatial_connectivities"])
    for one in (wanted, adata):
        m2st.pp.prepare(one, n_pcs=5)
        m2st.tl.embed(one, QUICK, progress=False)
        m2st.tl.choose_n_domains(one, [2], ONCE)
        m2st.tl.cluster(one, 2, ONCE)
    assert features(adata) == features(wanted)
    assert adata.uns["m2st"]["n_domains"]["p_value"] == wanted.uns["m2st"]["n_domains"]["p_value"]
    for key in ("X_m2st_scale1", "X_m2st_scale2", "X_m2st"):
        assert adata.obsm[key].tobytes() == wanted.obsm[key].tobytes()
    pd.testing.assert_frame_equal(adata.obs, wanted.obs)
    assert contents(adata.obsp["spatial_connectivities"]) == before


@pytest.mark.parametrize("kind", ["by column", "reversed", ">f8", "csr", "dask"])
def test_embeddings_in_any_storage_give_the_same_domains(kind: str, clustered: AnnData) -> None:
    wanted, adata = clustered.copy(), clustered.copy()
    for scale in (1, 2):
        key = f"X_m2st_scale{scale}"
        adata.obsm[key] = TABLES[kind](adata.obsm[key])
    for one in (wanted, adata):
        m2st.tl.cluster(one, 3, ONCE)
    pd.testing.assert_frame_equal(adata.obs, wanted.obs)
    scales = [wanted.obsm["X_m2st_scale1"], wanted.obsm["X_m2st_scale2"]]
    graph = wanted.obsp["spatial_connectivities"]
    found, same = (
        m2st.MultiScaleClustering(3, n_init=1).fit(embeddings, connectivities=links)
        for embeddings, links in (
            (scales, graph),
            ([TABLES[kind](scale) for scale in scales], linked_in("zeros", graph)),
        )
    )
    np.testing.assert_array_equal(found.labels_, same.labels_)
    assert found.objective_.tobytes() == same.objective_.tobytes()


# ---- what cannot be taken


def damaged(part: str) -> Callable[[sparse.csr_matrix], Any]:
    """Break a sparse matrix behind scipy's back."""

    def do(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
        broken = matrix.copy()
        if part == "index":
            broken.indices[3] = 10**6
        elif part == "negative":
            broken.indices[3] = -4
        elif part == "order":
            broken.indptr[2] = broken.indptr[-1]
        elif part == "end":
            broken.indptr[-1] = 10**6
        return broken

    return do


@pytest.mark.parametrize("part", ["index", "negative", "order", "end"])
def test_damaged_sparse_matrices_are_refused(part: str, counted: AnnData) -> None:
    words = r"Expected a valid sparse matrix in `.*{}.*`, found a damaged one: .*Read or build it"
    for slot in ("X", "layers"):
        adata = counted.copy()
        broken = damaged(part)(counted.X)
        if slot == "X":
            adata.X = broken
        else:
            adata.layers["counts"] = broken
        with pytest.raises(ValueError, match=words.format(slot)):
            run(adata, layer=None if slot == "X" else "counts")
    with pytest.raises(ValueError, match=words.format("X")):
        run(adata_with(counted, X=damaged(part)(counted.X)), use_rep="X")
    graph = damaged(part)(counted.obsp["spatial_connectivities"])
    with pytest.raises(ValueError, match=words.format("spatial_connectivities")):
        run(adata_with(counted, graph=graph))
    with pytest.raises(ValueError, match=words.format("adjacency")):
        train(counted.X.toarray(), graph, QUICK)
    with pytest.raises(ValueError, match=words.format("adjacency")):
        m2st.MultiScaleClustering(2).fit([counted.X.toarray()], connectivities=graph)


def adata_with(adata: AnnData, *, X: Any = None, graph: Any = None) -> AnnData:
    """A copy with another matrix or graph."""
    adata = adata.copy()
    if X is not None:
        adata.X = X
    if graph is not None:
        adata.obsp["spatial_connectivities"] = graph
    return adata


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda x: x.astype(object), "Python objects"),
        (lambda x: x.astype(str), "text"),
        (lambda x: x.astype(complex), "complex128"),
        (lambda x: x.astype("m8[s]"), r"timedelta64\[s\]"),
    ],
)
def test_other_things_than_numbers_are_refused(make: Any, found: str) -> None:
    words = rf"Expected numbers in `{{}}`, found {found}\. Convert them first"
    adata = tissue()
    adata.layers["text"] = make(adata.X)
    with pytest.raises(TypeError, match=words.format(r"adata\.layers\['text'\]")):
        run(adata, layer="text")
    adata = tissue()
    adata.obsm["X_mine"] = make(adata.X)
    with pytest.raises(TypeError, match=words.format("X_mine")):
        run(adata, use_rep="X_mine")
    adata = tissue()
    adata.obsm["spatial"] = make(adata.obsm["spatial"])
    with pytest.raises(TypeError, match=words.format(r"adata\.obsm\['spatial'\]")):
        run(adata)
    with pytest.raises(TypeError, match=words.format(r"embeddings\[0\]")):
        m2st.MultiScaleClustering(2).fit([make(tissue().X)])


def test_tables_with_a_column_of_text_are_refused() -> None:
    adata = tissue()
    adata.obsm["spatial"] = pd.DataFrame(
        {"x": np.arange(60.0), "y": 0.0, "label": "a"}, index=adata.obs_names
    )
    with pytest.raises(TypeError, match=r"`adata.obsm\['spatial'\]\['label'\]`, found Python obj"):
        run(adata)


def test_masked_values_are_missing_ones() -> None:
    adata = tissue()
    adata.layers["counts"] = np.ma.masked_array(adata.X, mask=adata.X[0, 0] == adata.X)
    with pytest.raises(ValueError, match=r"NaN, infinite or masked"):
        run(adata, layer="counts")
    adata = tissue()
    adata.obsm["spatial"] = np.ma.masked_array(adata.obsm["spatial"], mask=np.eye(60, 2) > 0)
    with pytest.warns(UserWarning, match="2 of 60 observations have no coordinates"):
        run(adata)
    assert adata.obs["m2st_domain"].isna().to_numpy().nonzero()[0].tolist() == [0, 1]


def test_lists_that_are_no_table_are_refused() -> None:
    with pytest.raises(TypeError, match="Expected a table of numbers in `features`, found list"):
        train([[1.0, 2.0], [3.0]], sparse.csr_matrix((2, 2)), QUICK)  # type: ignore[arg-type]


# ---- features with fewer components than asked for


def low_rank(kind: str) -> np.ndarray:
    """Sixty observations of which some columns say nothing new."""
    rng = np.random.default_rng(4)
    free = rng.normal(size=(60, 5))
    return {
        "one column": lambda: np.outer(free[:, 0], rng.normal(size=40)),
        "repeated columns": lambda: np.tile(free, 6),
        "columns of zeros": lambda: np.hstack([free, np.zeros((60, 40))]),
        "proportions": lambda: np.hstack([rng.dirichlet(np.ones(8), 60), np.zeros((60, 20))]),
        "one-hot": lambda: np.eye(20)[np.arange(60) % 20],
        "two kinds of rows": lambda: free[np.arange(60) % 2] @ rng.normal(size=(5, 30)),
        "constant columns": lambda: np.hstack([np.full((60, 30), 1e6), np.tile(free, 4)]),
        "two rows": lambda: rng.normal(size=(2, 30)),
        "one far away": lambda: np.vstack([[[1e6] * 25], rng.normal(size=(59, 25))]),
    }[kind]()


RANKS = {
    "one column": 1,
    "repeated columns": 5,
    "columns of zeros": 5,
    "proportions": 7,
    "one-hot": 15,
    "two kinds of rows": 1,
    "constant columns": 5,
    "two rows": 1,
    "one far away": 15,
}


@pytest.mark.parametrize("kind", RANKS)
def test_components_end_where_rounding_begins_and_are_the_same_bits(kind: str) -> None:
    values = low_rank(kind)
    found = []
    for _ in range(3):
        adata = AnnData(
            obsm={"X_mine": values, "spatial": np.random.default_rng(0).random((len(values), 2))}
        )
        m2st.pp.spatial_graph(adata)
        m2st.pp.prepare_embedding(adata, "X_mine")
        found.append(features(adata))
        assert adata.obsm["X_m2st_pca"].shape == (len(values), RANKS[kind])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", ["dominant", "one gene for each", "two observations", "constant"])
def test_counts_of_few_components_are_prepared(kind: str) -> None:
    rng = np.random.default_rng(5)
    values, normalized = rng.poisson(1.0, (60, 20)).astype(np.float32), kind == "constant"
    if kind == "dominant":
        values[:, 0] = rng.poisson(1e6, 60)
    elif kind == "one gene for each":
        values = np.eye(60, dtype=np.float32)
    elif kind == "two observations":
        values[2:] = 0
    else:  # what differs is small beside what does not
        values[:, 1:] = 12 + 0.01 * values[:, 1:]
        values[:, 0] = 14
    found = []
    for _ in range(2):
        adata = tissue()
        adata = AnnData(values, obsm={"spatial": adata.obsm["spatial"]})
        m2st.pp.spatial_graph(adata)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "58 of 60 observations have no counts")
            m2st.pp.prepare(adata, normalized=normalized)
        found.append(features(adata))
    assert found[0] == found[1]


def test_components_by_products_are_those_of_a_decomposition(rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(300, 200)) * np.linspace(3, 0.1, 200) ** 2
    covariances = _components._Covariances.of([matrix], np.float64)
    axes = _components._iterated_axes(covariances, 5, 0)
    wanted = np.linalg.svd(matrix - matrix.mean(axis=0))[2][:5].T
    np.testing.assert_allclose(np.abs(np.sum(axes * wanted, axis=0)), 1, atol=1e-6)


def test_features_that_differ_by_rounding_are_refused() -> None:
    values = np.full((60, 20), 1e6, dtype=np.float32)
    values[0, 0] = np.nextafter(np.float32(1e6), np.float32(2e6))
    adata = tissue()
    adata.obsm["X_mine"] = values
    with pytest.raises(ValueError, match="found that they differ by rounding alone"):
        run(adata, use_rep="X_mine")


# ---- counts, fractions of counts, and logarithms


def counts_of_cells(*, depth: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(6)
    return rng.poisson(depth * rng.gamma(2, 1, 40), (60, 40)).astype(np.float32)


def normalized_logs(values: np.ndarray, base: float = np.e) -> np.ndarray:
    totals = values.sum(axis=1, keepdims=True)
    return (np.log1p(values / totals * 1e4) / np.log(base)).astype(np.float32)


def less_ambient(values: np.ndarray) -> np.ndarray:
    """Counts less a share of what is everywhere, as SoupX corrects them."""
    everywhere = values.sum(axis=0) / values.sum()
    return np.maximum(values - 0.1 * values.sum(axis=1, keepdims=True) * everywhere, 0)


FRACTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a share": lambda x: x * 0.93,
    "less ambient": less_ambient,
    "of each its own": lambda x: x * np.random.default_rng(0).uniform(0.7, 1, x.shape),
    "exchanged with neighbours": lambda x: 0.8 * x + 0.2 * np.roll(x, 1, axis=0),
    "per million": lambda x: x / x.sum(axis=1, keepdims=True) * 1e6,
}
LOGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p": np.log1p,
    "normalised": normalized_logs,
    "normalised, base 2": lambda x: normalized_logs(x, 2),
    "normalised, base 10": lambda x: normalized_logs(x, 10),
    "of fractions": lambda x: normalized_logs(less_ambient(x)),
    "of some genes": lambda x: normalized_logs(x)[:, ::2],
}


def prepared(values: Any, **settings: Any) -> AnnData:
    adata = AnnData(values, obsm={"spatial": tissue().obsm["spatial"]})
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata, **settings)
    return adata


@pytest.mark.parametrize("kind", FRACTIONS)
@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_fractions_of_counts_are_counts_with_a_word(kind: str, store: Any) -> None:
    values = FRACTIONS[kind](counts_of_cells()).astype(np.float32)
    with pytest.warns(UserWarning, match=r"`adata\.X` holds fractional values such as .*as counts"):
        found = prepared(store(values))
    with pytest.warns(UserWarning, match="holds fractional values"):
        assert features(found) == features(prepared(values))


@pytest.mark.parametrize("kind", LOGS)
@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_logarithms_are_not_taken_for_counts(kind: str, store: Any) -> None:
    values = LOGS[kind](counts_of_cells())
    words = r"whole numbers\) in `adata\.X`, found values on a log scale, up to .*Name the layer"
    with pytest.raises(ValueError, match=words):
        prepared(store(values))
    prepared(store(values), normalized=True)


@pytest.mark.parametrize("depth", [1, 1000])
def test_counts_taken_back_from_logarithms_are_counts(depth: float) -> None:
    values = np.expm1(np.log1p(counts_of_cells(depth=depth)))
    assert (values != np.rint(values)).any()
    prepared(values)


def test_scanpy_says_that_it_took_logarithms() -> None:
    adata = AnnData(less_ambient(counts_of_cells())[:, ::2], uns={"log1p": {"base": None}})
    adata.obsm["spatial"] = tissue().obsm["spatial"]
    with pytest.raises(ValueError, match="found values on a log scale"):
        run(adata)


def test_messages_say_where_the_counts_are() -> None:
    adata = tissue()
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    advice = r'`adata\.layers\["counts"\] = adata\.raw\[:, adata\.var_names\]\.X`'
    with pytest.raises(
        ValueError, match=rf"`adata\.raw\.X` holds whole numbers: .*{advice}.*Or pass"
    ):
        run(adata)
    adata.layers["scaled"] = adata.X - 1
    adata.layers["text"] = adata.X.astype(str)
    adata.layers["umi"] = sparse.csc_matrix(adata.raw.X)
    words = r"`adata\.layers\['umi'\]` holds whole numbers: pass `layer='umi'`\."
    with pytest.raises(ValueError, match=words):
        run(adata)
    adata.layers["logs"] = adata.X
    adata.X = adata.raw.X
    del adata.layers["umi"]
    with pytest.raises(ValueError, match=r"`adata\.X` holds whole numbers: leave `layer` out\."):
        run(adata, layer="logs")
    adata.layers["half"] = adata.X / 2
    m2st.pp.spatial_graph(adata)
    with pytest.warns(UserWarning, match=r"fractional values.*`adata\.X` holds whole numbers"):
        m2st.pp.prepare(adata, layer="half")


@pytest.mark.parametrize(
    ("factor", "found"), [(1, "whole numbers only"), (100.5, r"values up to \d+")]
)
def test_values_that_are_no_logarithms_are_said(factor: float, found: str) -> None:
    values = counts_of_cells() * factor
    with pytest.warns(
        UserWarning, match=rf"`normalized=True`, found {found}\. If these are counts"
    ):
        prepared(values, normalized=True)


# ---- what is no AnnData, and what is the user's


@pytest.mark.parametrize("wrong", [np.ones((60, 3)), "file.h5ad", None, pd.DataFrame({"a": [1]})])
def test_other_objects_are_refused_everywhere(wrong: Any) -> None:
    pp, tl = m2st.pp, m2st.tl
    doors: list[Callable[[], object]] = [
        lambda: run(wrong),
        lambda: pp.prepare(wrong),
        lambda: pp.prepare_embedding(wrong, "X_pca"),
        lambda: m2st.paper.prepare(wrong),
        lambda: pp.spatial_graph(wrong),
        lambda: pp.spatial_graph_lattice(wrong),
        lambda: pp.spatial_graph_radius(wrong, 1.0),
        lambda: pp.spatial_graph_knn(wrong),
        lambda: pp.spatial_graph_delaunay(wrong),
        lambda: tl.embed(wrong),
        lambda: tl.cluster(wrong, 2),
        lambda: tl.choose_n_domains(wrong),
        lambda: tl.transform(wrong, [m2st.MaskedGraphAutoencoder(3)]),
    ]
    for door in doors:
        with pytest.raises(
            TypeError, match=rf"Expected an AnnData object, found {type(wrong).__name__}\. Read"
        ):
            door()


@pytest.mark.parametrize(
    ("record", "where"),
    [("mine", r"\['m2st'\]"), ([1], r"\['m2st'\]"), ({"embed": "mine"}, r"\['m2st'\]\['embed'\]")],
)
def test_a_record_that_is_none_of_ours_is_left_and_refused(record: Any, where: str) -> None:
    adata = tissue()
    adata.uns["m2st"] = record
    for door in (run, m2st.pp.spatial_graph, m2st.pp.prepare, m2st.tl.embed):
        with pytest.raises(TypeError, match=rf"`adata\.uns{where}` to be a record of m2ST, found"):
            door(adata)
    assert adata.uns == {"m2st": record}
    assert not adata.obsp


def test_entries_of_others_in_the_record_stay() -> None:
    adata = tissue()
    adata.uns["m2st"] = {"note": "mine", "n_members": 7}
    assert run(adata).uns["m2st"]["note"] == "mine"
    adata.uns["m2st"]["n_members"] = "two"
    with pytest.raises(
        TypeError, match=r"`adata\.uns\['m2st'\]\['n_members'\]` to be a whole number"
    ):
        m2st.tl.cluster(adata, 2)


def test_only_keys_of_scales_are_removed() -> None:
    adata = tissue()
    mine = ["X_m2st_scale_mine", "X_m2st_scale", "X_m2st_scale1_mine", "X_m2st_scales"]
    for key in [*mine, "X_m2st_scale1", "X_m2st_scale3"]:
        adata.obsm[key] = np.ones((60, 7))
    run(adata)
    for key in mine:
        assert (adata.obsm[key] == 1).all()
    assert "X_m2st_scale3" not in adata.obsm


# ---- as early as can be told


@pytest.mark.parametrize(
    ("n_domains", "settings", "error", "words"),
    [
        (
            2,
            {"autoencoder": {"n_epochs": 3}},
            TypeError,
            "class as `autoencoder`, found dict. Write `m2st.Auto",
        ),
        (
            2,
            {"clustering": QUICK},
            TypeError,
            "as `clustering`, found AutoencoderParams",
        ),
        (2, {"device": "abacus"}, ValueError, "Expected a `device` that torch can use"),
        (2, {"sample_key": "gaps"}, ValueError, "found 1 missing"),
        (2, {"sample_key": ["slide"]}, TypeError, "the name of one entry of `adata.obs`, found"),
        (2, {"use_rep": ["X"]}, TypeError, "the name of one entry of `adata.obsm`, found"),
        (61, {}, ValueError, "no more `n_domains` than observations, 60, found 61"),
        ("3", {}, TypeError, "`n_domains` to be a whole number, found '3'"),
        (np.array([2, 3]), {}, TypeError, "`n_domains` to be a whole number, found array"),
    ],
)
def test_told_before_any_work(n_domains: Any, settings: Any, error: Any, words: str) -> None:
    adata = tissue()
    adata.obs["gaps"] = pd.array([None, *range(59)], dtype="Int64")
    with pytest.raises(error, match=words):
        run(adata, n_domains, **settings)
    assert not adata.obsp
    assert not adata.uns


def untrained(*_: object) -> None:
    pytest.fail("a training began")


@pytest.mark.filterwarnings("ignore:50 of 60 observations have no counts")
@pytest.mark.parametrize(
    ("n_domains", "words"),
    [(11, "than observations, 10, found 11"), ("auto", "at least 13 observations .*, found 10")],
)
def test_domains_are_compared_with_observations_that_have_counts(
    n_domains: Any, words: str
) -> None:
    adata = tissue()
    adata.X[10:] = 0
    with pytest.raises(ValueError, match=words):
        run(adata, n_domains, callback=untrained)
    run(adata)
    with pytest.raises(ValueError, match="than observations, 10, found 11"):
        m2st.tl.cluster(adata, 11)


def test_settings_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    quick = m2st.AutoencoderParams(
        n_members=np.int64(1), n_epochs=np.int32(2), mask_rate=np.float32(0.5), hidden_dim=8
    )
    adata = run(tissue(), np.int64(2), autoencoder=quick, checkpoint=tmp_path / "run")
    assert [type(value) for value in (quick.n_members, quick.mask_rate)] == [int, float]
    adata.write_h5ad(tmp_path / "a.h5ad")


# ---- coordinates

PLACES = tissue().obsm["spatial"]


@pytest.mark.parametrize("factor", [1e-90, 1e-12, 1e12, 1e90])
def test_the_unit_of_coordinates_does_not_matter(factor: float) -> None:
    adata, wanted = tissue(), tissue()
    rng = np.random.default_rng(2)
    for places in (PLACES, rng.random((60, 2)), rng.random((60, 3))):
        wanted.obsm["spatial"], adata.obsm["spatial"] = places, places * factor
        m2st.pp.spatial_graph(wanted)
        m2st.pp.spatial_graph(adata)
        graph, same = (one.obsp["spatial_connectivities"] for one in (wanted, adata))
        assert (graph != same).nnz == 0


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (PLACES * 1e-300, r"between 1e-100 and 1e\+100 in size, found them up to 9e-300"),
        (PLACES * 1e300, r"between 1e-100 and 1e\+100 in size, found them up to 9e\+300"),
        (
            PLACES + 1e16 * np.eye(60, 2),
            r"in one unit, found 2 of 60 observations over 1e\+10 times",
        ),
    ],
)
def test_coordinates_that_arithmetic_cannot_hold_are_refused(places: Any, words: str) -> None:
    adata = tissue()
    adata.obsm["spatial"] = places
    with pytest.raises(ValueError, match=words):
        m2st.pp.spatial_graph(adata)


@pytest.mark.filterwarnings("ignore:The 'mode.chained_assignment' option")  # of pandas 3
def test_nothing_of_the_process_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a result and not after an error."""

    def state() -> list[object]:
        return [
            random.getstate(),
            repr(np.random.get_state()),  # noqa: NPY002
            np.geterr(),
            [str(entry) for entry in warnings.filters],
            [(pool["filepath"], pool["num_threads"]) for pool in threadpool_info()],
            numba.get_num_threads(),
            torch.get_num_threads(),
            torch.get_rng_state().tolist(),
            dict(os.environ),
            logging.root.level,
            list(logging.root.handlers),
            dict(mpl.rcParams),
            pd.get_option("mode.chained_assignment"),
        ]

    def fail(*_: object) -> None:
        message = "no more"
        raise RuntimeError(message)

    run(tissue(), "auto")  # loads what is to be loaded
    before = state()
    run(tissue(), "auto")
    assert state() == before
    with pytest.raises(RuntimeError, match="no more"):
        run(tissue(), callback=fail)
    adata = run(tissue())
    monkeypatch.setattr("m2st._features._recipes.shared_axes", fail)
    with pytest.raises(RuntimeError, match="no more"):
        m2st.pp.prepare(adata)
    assert state() == before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["constant", "alike", "few", "each its own", "no logarithms"])
@pytest.mark.parametrize("scale", ["counts", "logs"])
def test_genes_that_cannot_be_chosen_from(kind: str, scale: str) -> None:
    """Of genes that are all constant, the fit of a trend ended the process."""
    rng = np.random.default_rng(0)
    values = {
        "constant": lambda: np.full((60, 40), 3.0),
        "alike": lambda: np.tile(rng.poisson(2, 40), (60, 1)),
        "few": lambda: rng.poisson(0.02, (60, 40)),
        "each its own": lambda: np.eye(60),
        "no logarithms": lambda: rng.poisson(2, (60, 40)) * 1e12,
    }[kind]()
    chosen = [("no logarithms", "counts")]
    if Version(version("scanpy")) >= Version("1.12"):
        chosen.append(("each its own", "logs"))
    if (kind, scale) in chosen:
        pytest.skip("they can be chosen from")
    words = "at least two genes that differ|which genes vary.*Keep all genes with `n_top_genes="
    with pytest.raises(ValueError, match=words):
        prepared(values.astype(np.float32), n_top_genes=10, normalized=scale == "logs")


def test_an_object_that_stays_in_its_file_is_refused(tmp_path: Path) -> None:
    tissue().write_h5ad(tmp_path / "a.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = read_lazy(tmp_path / "a.h5ad")
    with pytest.raises(TypeError, match=r"observations in memory, found .*m2st\.io\.read\(path"):
        run(adata)


def test_settings_of_other_kinds_are_refused() -> None:
    adata = tissue()
    for settings, words in (
        ({"n_jobs": 0}, "`n_jobs` other than 0"),
        ({"n_jobs": "a"}, "`n_jobs` to be a whole number, found 'a'"),
        ({"callback": 3}, "`callback` to be a function, found int"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            run(adata, **settings)
    adata.obs = pd.DataFrame([["a", "b"]] * 60, columns=["s", "s"], index=adata.obs_names)
    with pytest.raises(ValueError, match=r"one column 's' in `adata\.obs`, found several"):
        run(adata, sample_key="s")
    assert not adata.obsp
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: m2st.AutoencoderParams(scale_dims=8), "list a width for each scale, found 8"),
        (lambda: m2st.MaskedGraphAutoencoder(0), "`n_features` to be at least 1, found 0"),
        (lambda: m2st.tl.choose_n_domains(adata, ["a"]), "`candidates` to be a whole number"),
    ]
    for call, words in calls:
        with pytest.raises((TypeError, ValueError), match=words):
            call()
