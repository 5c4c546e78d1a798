"""Preparation and spatial graphs on AnnData: what is written, warned and refused."""

from __future__ import annotations

import logging
import random
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numba
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from threadpoolctl import threadpool_limits

from m2st import AutoencoderParams, io, paper, pp, run
from m2st._checks import valid_observations

GRAPHS: dict[str, Callable[..., None]] = {
    "lattice": pp.spatial_graph_lattice,
    "radius": lambda adata, **keys: pp.spatial_graph_radius(adata, 1.1, **keys),
    "knn": lambda adata, **keys: pp.spatial_graph_knn(adata, 4, **keys),
    "delaunay": pp.spatial_graph_delaunay,
    "auto": pp.spatial_graph,
}
RECIPES = [pp.prepare, paper.prepare]


def counts(n_obs: int = 60, n_vars: int = 80, *, seed: int = 0) -> AnnData:
    """Sparse counts with two groups of observations, on a square array 10 wide."""
    rng = np.random.default_rng(seed)
    rate = np.full((n_obs, n_vars), 0.8)
    rate[: n_obs // 2, : n_vars // 4] = 4
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate), dtype=np.float32))
    adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n_obs), 10)).astype(float)
    return adata


def linked(adata: AnnData) -> AnnData:
    """The object with a graph, of places on a square array 10 wide, and nothing else new."""
    places = AnnData(obsm={"spatial": counts(adata.n_obs).obsm["spatial"]})
    pp.spatial_graph_lattice(places)
    adata.obsp["spatial_connectivities"] = places.obsp["spatial_connectivities"]
    return adata


def unchanged(adata: AnnData, before: AnnData) -> bool:
    return type(adata.X) is type(before.X) and (adata.X != before.X).nnz == 0


# ---- features


@pytest.mark.parametrize("recipe", RECIPES)
def test_writes_features_and_a_record_only(recipe: Callable[..., None], tmp_path: Path) -> None:
    adata = linked(counts())
    adata.uns["m2st"] = {"cluster": {"n_domains": 3}}
    before = adata.copy()
    recipe(adata, n_pcs=5)
    assert unchanged(adata, before)
    added = {"X_m2st_pca", *(["X_m2st_pca_no_neighbors"] if recipe is pp.prepare else [])}
    assert set(adata.obsm) == {"spatial", *added}
    assert set(adata.uns) == {"m2st"}
    assert set(adata.uns["m2st"]) == {"cluster", "prepare"}
    assert set(adata.layers) <= {None}  # which is X, for anndata 0.13
    for empty in (adata.varm, adata.obs.columns, adata.var.columns):
        assert len(empty) == 0
    features = adata.obsm["X_m2st_pca"]
    assert features.shape == (60, 5)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    record = adata.uns["m2st"]["prepare"]
    assert record["recipe"] == ("prepare" if recipe is pp.prepare else "paper")
    assert (record["n_pcs"], record["n_genes"], record["n_empty"]) == (5, 80, 0)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.obsm["X_m2st_pca"], features)
    assert back.uns["m2st"]["prepare"] == record


def axes_of(*matrices: np.ndarray, n_axes: int) -> np.ndarray:
    """Principal axes of the sum of covariances with a trace of 1, largest entries positive."""
    covariances = [np.cov(matrix.T) for matrix in matrices]
    _, axes = np.linalg.eigh(sum(one / np.trace(one) for one in covariances))
    axes = axes[:, : -n_axes - 1 : -1]
    return axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_axes)])


def surroundings(adata: AnnData) -> np.ndarray:
    """Means over each observation and its neighbours."""
    weights = np.eye(adata.n_obs) + adata.obsp["spatial_connectivities"].toarray()
    return weights / weights.sum(axis=1, keepdims=True) @ adata.X.toarray().astype(float)


def test_prepare_is_what_it_says() -> None:
    adata = linked(counts(n_obs=40, n_vars=30))
    pp.prepare(adata, n_pcs=6)

    def logged(values: np.ndarray) -> np.ndarray:
        size = values.sum(axis=1, keepdims=True)
        values = np.log1p(values / size * np.median(size))
        return values - values.mean(axis=0)

    single, around = logged(adata.X.toarray().astype(float)), logged(surroundings(adata))
    shared = single @ axes_of(single, around, n_axes=6)
    np.testing.assert_allclose(adata.obsm["X_m2st_pca"], shared, atol=1e-3)
    alone = single @ axes_of(single, n_axes=6)
    np.testing.assert_allclose(adata.obsm["X_m2st_pca_no_neighbors"], alone, atol=1e-3)


def test_components_follow_what_neighbours_share() -> None:
    """Genes differ more between single observations than along the tissue."""
    rng = np.random.default_rng(0)
    along, alone = np.linspace(-1, 1, 400), rng.normal(scale=0.7, size=400)
    rises = np.repeat([0.5, -0.5], 10)
    rate = 4 * np.exp(np.hstack([np.outer(along, rises), np.outer(alone, rises)]))
    adata = linked(AnnData(rng.poisson(rate).astype(np.float32)))

    def fits() -> list[float]:
        pp.prepare(adata, n_pcs=1)
        first = adata.obsm["X_m2st_pca"][:, 0]
        return [abs(np.corrcoef(first, by)[0, 1]) for by in (along, alone)]

    assert fits()[0] > 0.8
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix((400, 400), dtype=np.float32)
    assert fits()[1] > 0.8


def test_surroundings_that_are_all_alike_have_no_part() -> None:
    adata = counts(n_obs=6)
    links = 1 - np.eye(6, dtype=np.float32)
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(links)
    pp.prepare(adata, n_pcs=3)
    single = adata.obsm["X_m2st_pca_no_neighbors"]
    np.testing.assert_allclose(adata.obsm["X_m2st_pca"], single, atol=1e-3)


def test_paper_recipe_is_what_it_says() -> None:
    adata = linked(counts(n_obs=40, n_vars=60))
    dense = adata.X.toarray().astype(float)
    dense[:, 0] = 100  # over 5 % of every observation
    dense[:, 1] = 0
    dense[:2, 1] = 1  # in fewer than three observations
    adata.X = sparse.csr_matrix(dense, dtype=np.float32)
    paper.prepare(adata, n_pcs=6)
    kept = np.delete(dense, 1, axis=1)
    share = kept / kept.sum(axis=1, keepdims=True)
    highly = (share > 0.05).any(axis=0)
    scaled = kept / kept[:, ~highly].sum(axis=1, keepdims=True)
    scaled = (scaled - scaled.mean(axis=0)) / scaled.std(axis=0, ddof=1)
    left, values, right = np.linalg.svd(scaled, full_matrices=False)
    signs = np.sign(right[np.arange(40), np.abs(right).argmax(axis=1)])
    np.testing.assert_allclose(adata.obsm["X_m2st_pca"], (left * values * signs)[:, :6], atol=1e-3)
    assert adata.uns["m2st"]["prepare"]["n_genes"] == 59


def test_two_groups_lie_apart_on_the_first_component() -> None:
    adata = linked(counts())
    pp.prepare(adata)
    first = adata.obsm["X_m2st_pca"][:, 0]
    assert max(first[:30].min(), first[30:].min()) > min(first[:30].max(), first[30:].max())


def test_variable_genes_are_selected_only_when_there_are_more() -> None:
    adata = linked(counts())
    pp.prepare(adata, n_top_genes=20, n_pcs=50)
    record = adata.uns["m2st"]["prepare"]
    assert (record["n_genes"], record["n_pcs"]) == (20, 19)
    pp.prepare(adata, n_top_genes=80)
    assert adata.uns["m2st"]["prepare"]["n_genes"] == 80


def thin_counts(log_rate: float, spread: float) -> AnnData:
    """Counts of which the trend of variances cannot be fitted over a few genes, or over all."""
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(log_rate, spread, 400))
    return linked(AnnData(rng.poisson(rates, size=(60, 400)).astype(np.float32)))


@pytest.mark.filterwarnings("ignore:.*have no counts")
def test_genes_are_chosen_from_thin_counts() -> None:
    adata = thin_counts(-4, 1)
    pp.prepare(adata, n_top_genes=50, n_pcs=5)
    assert adata.uns["m2st"]["prepare"]["n_genes"] == 50


@pytest.mark.filterwarnings("ignore:.*have no counts")
def test_too_thin_counts_are_refused_with_what_to_do() -> None:
    adata = thin_counts(-6, 0.1)
    with pytest.raises(ValueError, match=r"tell which genes vary.*`n_top_genes=46`"):
        pp.prepare(adata, n_top_genes=20)
    assert "X_m2st_pca" not in adata.obsm
    pp.prepare(adata, n_top_genes=46, n_pcs=5)


@pytest.mark.parametrize("make", [sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_kind_of_matrix_does_not_matter(make: Callable[[Any], Any]) -> None:
    adata = linked(counts())
    pp.prepare(adata)
    other = linked(AnnData(make(adata.X.toarray().astype(np.int64))))
    pp.prepare(other)
    np.testing.assert_array_equal(other.obsm["X_m2st_pca"], adata.obsm["X_m2st_pca"])


def test_layer_and_normalized() -> None:
    adata = linked(counts())
    expected = adata.copy()
    pp.prepare(expected)
    adata.layers["raw"] = adata.X.copy()
    size = np.asarray(adata.X.sum(axis=1))
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() / size * np.median(size)))
    pp.prepare(adata, layer="raw")
    np.testing.assert_array_equal(adata.obsm["X_m2st_pca"], expected.obsm["X_m2st_pca"])
    assert adata.uns["m2st"]["prepare"]["layer"] == "raw"
    logged = adata.X.toarray()
    pp.prepare(adata, normalized=True, n_pcs=6)
    scores = (logged - logged.mean(axis=0)) @ axes_of(logged, surroundings(adata), n_axes=6)
    np.testing.assert_allclose(adata.obsm["X_m2st_pca"], scores, atol=1e-3)
    assert "layer" not in adata.uns["m2st"]["prepare"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_order_of_observations_does_not_matter(
    recipe: Callable[..., None], rng: np.random.Generator
) -> None:
    adata = linked(counts())
    order = rng.permutation(60)
    shuffled = adata[order].copy()
    recipe(adata, n_pcs=3)
    recipe(shuffled, n_pcs=3)
    np.testing.assert_allclose(
        shuffled.obsm["X_m2st_pca"], adata.obsm["X_m2st_pca"][order], atol=1e-3
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_same_bits_on_any_number_of_threads_and_random_states_untouched(
    recipe: Callable[..., None],
) -> None:
    adata = linked(counts(300, 400))
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002
    state = random.getstate()
    results = []
    for n_threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(n_threads)
        with threadpool_limits(n_threads):
            recipe(adata, n_pcs=20)
        assert numba.get_num_threads() == n_threads
        results.append(adata.obsm["X_m2st_pca"])
    assert results[0].tobytes() == results[1].tobytes()
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert random.getstate() == state


@pytest.mark.parametrize("recipe", RECIPES)
def test_empty_observations_and_genes(recipe: Callable[..., None]) -> None:
    adata = linked(counts())
    dense = adata.X.toarray()
    dense[[3, 40]] = 0
    dense[:, [0, 7]] = 0
    adata.X = sparse.csr_matrix(dense)
    with pytest.warns(UserWarning, match="2 of 60 observations have no counts") as caught:
        recipe(adata, n_pcs=4)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    missing = np.isnan(adata.obsm["X_m2st_pca"])
    np.testing.assert_array_equal(np.flatnonzero(missing.any(axis=1)), [3, 40])
    assert missing[[3, 40]].all()
    record = adata.uns["m2st"]["prepare"]
    assert (record["n_empty"], record["n_genes"]) == (2, 78)
    alone = adata[~missing.any(axis=1)].copy()
    recipe(alone, n_pcs=4)
    np.testing.assert_array_equal(
        alone.obsm["X_m2st_pca"], adata.obsm["X_m2st_pca"][~missing.any(axis=1)]
    )


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_same_bits_from_a_file(
    recipe: Callable[..., None],
    make: Callable[[Any], Any],
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In blocks of a few rows or columns, with observations and genes that are left out."""
    dense = counts().X.toarray()
    dense[[3, 40]] = 0
    dense[:, [0, 7]] = 0
    adata = linked(AnnData(make(dense), layers={"raw": make(dense)}))
    path = tmp_path / f"a{suffix}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
        adata.write_h5ad(path) if suffix == ".h5ad" else adata.write_zarr(path)
    small = {} if recipe is paper.prepare else {"n_top_genes": 30}
    with pytest.warns(UserWarning, match="2 of 60 observations have no counts"):
        recipe(adata, n_pcs=4, **small)
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 500)
    for layer in (None, "raw"):
        backed = io.read(path, backed=True)
        with pytest.warns(UserWarning, match="2 of 60 observations have no counts"):
            recipe(backed, n_pcs=4, layer=layer, **small)
        assert backed.obsm["X_m2st_pca"].tobytes() == adata.obsm["X_m2st_pca"].tobytes()
        record = backed.uns["m2st"]["prepare"]
        assert record.pop("layer", None) == layer
        assert record == adata.uns["m2st"]["prepare"]


def test_same_bits_from_a_file_that_anndata_holds(tmp_path: Path) -> None:
    adata = linked(counts())
    adata.write_h5ad(tmp_path / "a.h5ad")
    pp.prepare(adata)
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    pp.prepare(backed)
    assert backed.obsm["X_m2st_pca"].tobytes() == adata.obsm["X_m2st_pca"].tobytes()


def test_a_sample_of_many_observations_chooses_genes_and_components(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """All observations are prepared with them; 4 of 80 genes stand out in any sample."""
    rate = np.repeat(rng.uniform(1, 5, size=(1, 80)), 600, axis=0)
    rate[:300, :80:20] *= 1.9
    rate[300:, :80:20] *= 0.1
    adata = linked(AnnData(sparse.csr_matrix(rng.poisson(rate), dtype=np.float32)))
    pp.prepare(adata, n_top_genes=4)
    expected = adata.obsm["X_m2st_pca"][:, 0]
    monkeypatch.setattr("m2st._features._genes._SAMPLE", 300)
    pp.prepare(adata, n_top_genes=4)
    assert np.corrcoef(adata.obsm["X_m2st_pca"][:, 0], expected)[0, 1] > 0.999
    found = []
    for random_state in (0, 0, 1):  # beyond 4 genes it is chance
        pp.prepare(adata, n_top_genes=50, random_state=random_state)
        found.append(adata.obsm["X_m2st_pca"])
    assert found[0].tobytes() == found[1].tobytes()
    assert not np.allclose(found[0], found[2], atol=0.01)


def test_memory_is_that_of_the_genes_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """16 MB of counts in a file, of which 40 of 400 genes are kept."""
    chosen = rng.integers(400, size=(20_000, 100), dtype=np.int32)
    matrix = sparse.csr_matrix(
        (np.ones(2_000_000, np.float32), chosen.ravel(), np.arange(0, 2_000_001, 100))
    )
    matrix.sum_duplicates()
    n_bytes = matrix.data.nbytes + matrix.indices.nbytes
    AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    del matrix, chosen
    monkeypatch.setattr("m2st._features._genes._SAMPLE", 1000)
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 50_000)
    pp.prepare(linked(counts()), n_pcs=5, n_top_genes=40)  # imports and compiles
    adata = linked(io.read(tmp_path / "a.h5ad", backed=True))
    tracemalloc.start()
    try:
        pp.prepare(adata, n_pcs=5, n_top_genes=40)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n_bytes / 2


def test_constant_genes_are_left_out() -> None:
    adata = linked(counts())
    logged = np.log1p(adata.X.toarray())
    logged[:, 5] = 0.7
    adata.X = sparse.csr_matrix(logged)
    pp.prepare(adata, normalized=True)
    assert np.isfinite(adata.obsm["X_m2st_pca"]).all()
    assert adata.uns["m2st"]["prepare"]["n_genes"] == 79


def test_paper_recipe_says_when_observations_stay_raw() -> None:
    adata = linked(counts(n_vars=8))
    with pytest.warns(UserWarning, match=r"60 of 60 .* they stay raw") as caught:
        paper.prepare(adata)
    assert len(caught) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_refused_matrices(recipe: Callable[..., None], tmp_path: Path) -> None:
    adata = linked(counts())
    with pytest.raises(KeyError, match=r"Expected 'raw' in `adata\.layers` \(found: nothing\)"):
        recipe(adata, layer="raw")
    if recipe is pp.prepare:
        with pytest.raises(KeyError, match=r"Run `m2st.pp.spatial_graph\(adata\)` first"):
            recipe(counts())
    with pytest.raises(ValueError, match=r"found None\. Name the layer"):
        recipe(AnnData(obs=pd.DataFrame(index=["a", "b"])))
    with pytest.raises(ValueError, match=r"at least two observations .* found [01] of 1 "):
        recipe(adata[:1].copy())
    with pytest.raises(ValueError, match=r"found 0 of 60 observations and 0 of 80 genes"):
        recipe(linked(AnnData(np.zeros((60, 80), dtype=np.float32))))
    with pytest.raises(ValueError, match="found 0 among 12"):
        recipe(linked(AnnData(np.ones((60, 12), dtype=np.float32))))
    for value, words in [(-1, "non-negative"), (np.nan, "finite")]:
        bad = adata.copy()
        bad.X[0, 0] = value
        with pytest.raises(ValueError, match=words):
            recipe(bad)
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        file["X/data"][-1] = -1
    with pytest.raises(ValueError, match="non-negative"):
        recipe(io.read(tmp_path / "a.h5ad", backed=True))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("axis", ["obs_names", "var_names"])
def test_refused_names(recipe: Callable[..., None], axis: str) -> None:
    adata = linked(counts())
    names = getattr(adata, axis).to_numpy().copy()
    names[1] = names[0]
    frame = adata.obs if axis == "obs_names" else adata.var
    frame.index = names
    with pytest.raises(
        ValueError, match=rf"unique `{axis}`, found 1 repeated\. Call `adata\.{axis}"
    ):
        recipe(adata)


def test_wide_features_become_components(tmp_path: Path) -> None:
    adata = counts()
    left, values, _ = np.linalg.svd(adata.X.toarray() - adata.X.mean(axis=0).A1)
    wide = left[:, :40] * values[:40]
    adata.obsm["X_pca"] = wide
    before = adata.copy()
    pp.prepare(linked(adata))  # none of which stays
    pp.prepare_embedding(adata, "X_pca")
    # By hand: observations that are far out moved in, then the axes of both covariances.
    offsets = wide - np.median(wide, axis=0)
    lengths = np.linalg.norm(offsets, axis=1, keepdims=True)
    near = offsets * np.minimum(1, 2 * np.median(lengths) / lengths)
    links = adata.obsp["spatial_connectivities"].toarray() + np.eye(60)
    around = links @ near / links.sum(axis=1, keepdims=True)
    covariances = [np.cov(part, rowvar=False) for part in (near, around)]
    _, axes = np.linalg.eigh(sum(part / np.trace(part) for part in covariances))
    expected = (near - near.mean(axis=0)) @ axes[:, ::-1][:, :15]
    features = adata.obsm["X_m2st_pca"]
    signs = np.sign((features * expected).sum(axis=0))
    np.testing.assert_allclose(features * signs, expected, atol=1e-3)
    assert features.dtype == np.float32
    # The components of single observations, for the test of structure, are those that were given.
    single = adata.obsm["X_m2st_pca_no_neighbors"]
    signs = np.sign((single * wide[:, :15]).sum(axis=0))
    np.testing.assert_allclose(single * signs, wide[:, :15], atol=1e-3)
    assert set(adata.obsm) == {"spatial", "X_pca", "X_m2st_pca", "X_m2st_pca_no_neighbors"}
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    record = adata.uns["m2st"]["prepare"]
    assert (record["recipe"], record["use_rep"]) == ("prepare_embedding", "X_pca")
    assert (record["n_features"], record["n_pcs"], record["n_empty"]) == (40, 15, 0)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["m2st"]["prepare"] == record


def test_outlying_observations_do_not_own_components() -> None:
    rng = np.random.default_rng(0)
    # Two layers of a strip, and in each further column a single observation that is far out.
    adata = linked(counts())
    layers = adata.obsm["spatial"][:, 1] > np.median(adata.obsm["spatial"][:, 1])
    features = rng.normal(size=(60, 80))
    features[:, 0] += 3.0 * layers
    features[np.arange(10, 50), np.arange(20, 60)] += 500
    adata.obsm["X_mine"] = features
    pp.prepare_embedding(adata, "X_mine", n_pcs=3)
    scores = adata.obsm["X_m2st_pca"]
    found = np.abs(np.corrcoef(scores.T, layers)[-1, :-1])
    assert found.max() > 0.6
    lengths = np.linalg.norm(scores, axis=1)
    assert lengths.max() < 4 * np.median(lengths)


def test_mostly_equal_features_keep_their_distances() -> None:
    adata = linked(counts())
    features = np.zeros((60, 20))
    features[:20] = np.random.default_rng(0).normal(size=(20, 20))
    adata.obsm["X_mine"] = features
    pp.prepare_embedding(adata, "X_mine", n_pcs=10)
    assert np.linalg.norm(adata.obsm["X_m2st_pca"], axis=1).max() > 1


@pytest.mark.parametrize("kind", ["array", "sparse", "frame"])
def test_narrow_features_stay_as_they_are(kind: str) -> None:
    adata = linked(counts())
    mine = np.random.default_rng(0).normal(3, size=(60, 5)).astype(np.float32)
    frame = pd.DataFrame(mine, index=adata.obs_names, columns=list("abcde"))
    adata.obsm["X_mine"] = {"array": mine, "sparse": sparse.csr_matrix(mine), "frame": frame}[kind]
    pp.prepare_embedding(adata, "X_mine", n_pcs=5)
    np.testing.assert_array_equal(adata.obsm["X_m2st_pca"], mine)
    pp.prepare_embedding(adata, "X_mine", n_pcs=4)
    assert adata.obsm["X_m2st_pca"].shape == (60, 4)


def test_observations_without_features() -> None:
    adata = linked(counts())
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(60, 30))
    alone = adata[2:].copy()
    adata.obsm["X_mine"][:2] = np.nan
    with pytest.warns(UserWarning, match="2 of 60 observations have no values") as caught:
        pp.prepare_embedding(adata, "X_mine")
    assert caught[0].filename == __file__
    pp.prepare_embedding(alone, "X_mine")
    assert np.isnan(adata.obsm["X_m2st_pca"][:2]).all()
    np.testing.assert_array_equal(adata.obsm["X_m2st_pca"][2:], alone.obsm["X_m2st_pca"])


def test_refused_features() -> None:
    adata = linked(counts())
    with pytest.raises(KeyError, match=r"Expected 'X_mine' in `adata\.obsm`"):
        pp.prepare_embedding(adata, "X_mine")
    with pytest.raises(ValueError, match="`n_pcs` to be at least 1"):
        pp.prepare_embedding(adata, "X", n_pcs=0)
    adata.obsm["X_mine"] = np.ones((60, 30))
    graph = adata.obsp.pop("spatial_connectivities")
    with pytest.raises(KeyError, match=r"Run `m2st\.pp\.spatial_graph\(adata\)` first"):
        pp.prepare_embedding(adata, "X_mine")
    adata.obsp["spatial_connectivities"] = graph
    with pytest.raises(ValueError, match="found 30 columns that are all alike"):
        pp.prepare_embedding(adata, "X_mine")
    adata.obsm["X_mine"][0, 0] = np.nan
    with pytest.raises(ValueError, match="Expected `X_mine` to be finite, found NaN"):
        pp.prepare_embedding(adata, "X_mine")
    assert "X_m2st_pca" not in adata.obsm


def test_refused_parameters() -> None:
    adata = linked(counts())
    with pytest.raises(ValueError, match="`n_top_genes` to be at least 2"):
        pp.prepare(adata, n_top_genes=1)
    with pytest.raises(ValueError, match="`n_pcs` to be at least 1"):
        pp.prepare(adata, n_pcs=0)
    with pytest.raises(ValueError, match="`n_pcs` to be at least 1"):
        paper.prepare(adata, n_pcs=0)
    with pytest.raises(ValueError, match="`min_cells` to be at least 1"):
        paper.prepare(adata, min_cells=0)
    assert "X_m2st_pca" not in adata.obsm


@pytest.mark.parametrize("name", ["osmfish_raw", "starmap_mpfc_BZ5"])
def test_small_panels_without_fuss(shared_data: Path, name: str) -> None:
    adata = ad.read_h5ad(shared_data / "counts" / f"{name}.h5ad")
    pp.prepare(linked(adata))
    assert adata.obsm["X_m2st_pca"].shape == (adata.n_obs, 15)
    assert np.isfinite(adata.obsm["X_m2st_pca"]).all()


# ---- spatial graphs


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_writes_a_graph_in_squidpys_layout(method: str, tmp_path: Path) -> None:
    adata = counts()
    adata.uns["m2st"] = {"prepare": {"n_pcs": 3}}
    before = adata.copy()
    GRAPHS[method](adata)
    assert unchanged(adata, before)
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}
    assert set(adata.uns) == {"m2st", "spatial_neighbors"}
    assert set(adata.uns["m2st"]) == {"prepare", "graph", "spots"}
    note = adata.uns["spatial_neighbors"]
    assert note["connectivities_key"] == "spatial_connectivities"
    assert note["distances_key"] == "spatial_distances"
    assert note["params"]["coord_type"] == ("grid" if method in ("lattice", "auto") else "generic")
    record = adata.uns["m2st"]["graph"]
    assert record["method"] == ("lattice" if method == "auto" else method)
    assert record["spatial_key"] == "spatial"
    assert record["n_edges"] == adata.obsp["spatial_connectivities"].nnz
    assert record["n_components"] == 1
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    for key in adata.obsp:
        assert (back.obsp[key] != adata.obsp[key]).nnz == 0
    assert back.uns["m2st"]["graph"] == record
    for entry, values in adata.uns["m2st"]["spots"].items():
        np.testing.assert_array_equal(back.uns["m2st"]["spots"][entry], values)
    assert back.uns["spatial_neighbors"] == note


def test_square_array_by_hand() -> None:
    adata = counts(n_obs=30)  # 3 × 10 spots: 2 × 10 vertical and 3 × 9 horizontal edges
    pp.spatial_graph(adata)
    assert adata.obsp["spatial_connectivities"].nnz == 2 * (20 + 27)
    assert (adata.obsp["spatial_distances"].data == 1).all()
    assert "square array of pitch 1" in adata.uns["m2st"]["graph"]["reason"]


def test_choice_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="m2st"):
        pp.spatial_graph(counts())
    assert "Spatial graph: lattice (square array of pitch 1" in caplog.text


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_sections(method: str, rng: np.random.Generator, tmp_path: Path) -> None:
    # Two sections in one frame: no coincidence is warned of, for it is none within a section.
    adata = counts()
    adata.obsm["spatial"] += rng.normal(scale=0.02, size=(60, 2))  # no ties between neighbours
    both = ad.concat([adata, adata], label="slide", keys=["b", "a"], index_unique="-")
    order = rng.permutation(120)
    both = both[order].copy()
    GRAPHS[method](both, sample_key="slide")
    GRAPHS[method](adata)
    for key in ("spatial_connectivities", "spatial_distances"):
        whole = sparse.block_diag([adata.obsp[key]] * 2, format="csr")
        assert (both.obsp[key] != whole[order][:, order]).nnz == 0
    record = both.uns["m2st"]["graph"]
    assert record["sample_key"] == "slide"
    assert record["n_components"] == 2
    both.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["m2st"]["graph"] == record


def test_each_section_has_its_own_choice(rng: np.random.Generator) -> None:
    adata = counts()
    adata.obsm["spatial"][30:] = rng.random((30, 2))
    adata.obs["slide"] = ["array"] * 30 + ["scatter"] * 30
    pp.spatial_graph(adata, sample_key="slide")
    record = adata.uns["m2st"]["graph"]
    assert record["method"] == "delaunay+lattice"
    assert record["reason"].startswith("array: lattice, square array of pitch 1")
    assert "; scatter: delaunay, no regular array" in record["reason"]


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_a_section_of_one_is_isolated(method: str) -> None:
    adata = counts()
    adata.obs["slide"] = pd.Categorical(["most"] * 59 + ["one"])
    with pytest.warns(UserWarning, match="1 of 60 .* their own expression alone") as caught:
        GRAPHS[method](adata, sample_key="slide")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert adata.uns["m2st"]["graph"]["n_isolated"] == 1
    assert adata.obsp["spatial_connectivities"][59].nnz == 0


def test_sections_smaller_than_the_number_of_neighbors_are_complete() -> None:
    adata = counts()
    adata.obs["slide"] = [0] * 3 + [1] * 57
    pp.spatial_graph_knn(adata, 6, sample_key="slide")
    np.testing.assert_array_equal(
        adata.obsp["spatial_connectivities"][:3, :3].toarray(), 1 - np.eye(3)
    )


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_shared_coordinates_are_told(method: str) -> None:
    adata = counts()
    adata.obsm["spatial"][[21, 22]] = adata.obsm["spatial"][[11, 11]]
    with pytest.warns(UserWarning, match=r"3 of 60 observations share .* `sample_key=`"):
        GRAPHS[method](adata)
    assert adata.obsp["spatial_connectivities"][11, 21] == 1
    assert adata.obsp["spatial_distances"][11, 21] == 0


def test_a_single_observation() -> None:
    adata = counts(n_obs=1)
    for graph in (
        pp.spatial_graph,
        pp.spatial_graph_lattice,
        pp.spatial_graph_delaunay,
        GRAPHS["radius"],
    ):
        with pytest.warns(UserWarning, match="1 of 1 observations have no neighbour"):
            graph(adata)


def test_other_spatial_key() -> None:
    adata = counts()
    adata.obsm["place"] = adata.obsm.pop("spatial") * 3
    pp.spatial_graph(adata, spatial_key="place")
    assert adata.uns["m2st"]["graph"]["spatial_key"] == "place"
    with pytest.raises(KeyError, match=r"Expected 'spatial' in `adata\.obsm` \(found: place\)"):
        pp.spatial_graph(adata)


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_refused_input(method: str) -> None:
    graph = GRAPHS[method]
    adata = counts()
    with pytest.raises(KeyError, match=r"Expected 'slide' in `adata\.obs`"):
        graph(adata, sample_key="slide")
    adata.obs["slide"] = pd.Categorical(["a"] * 58 + [None] * 2)
    with pytest.raises(ValueError, match=r"`adata\.obs\['slide'\]`, found 2 missing"):
        graph(adata, sample_key="slide")
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(
        ValueError, match=r"with finite coordinates, found none among 60\. Check `a"
    ):
        graph(adata)
    adata.obsm["spatial"] = np.ones((60, 2))
    with pytest.raises(ValueError, match="found all 60 at"):
        graph(adata)
    adata.obsm["spatial"] = np.column_stack([np.arange(60)] * 2)
    adata.obsm["spatial"][:5] = 0
    adata.obs["slide"] = ["here"] * 5 + ["there"] * 55
    with pytest.raises(ValueError, match="Section 'here': Expected `coordinates` that differ"):
        graph(adata, sample_key="slide")
    assert "graph" not in adata.uns.get("m2st", {})


@pytest.mark.parametrize("method", sorted(GRAPHS))
def test_observations_without_a_place_are_left_out(method: str) -> None:
    adata = counts()
    adata.obsm["spatial"] = adata.obsm["spatial"].astype(float)
    adata.obs["slide"] = pd.Categorical(["a"] * 58 + [None] * 2)
    adata.obsm["spatial"][58, 0] = np.nan
    adata.obs["in_tissue"] = [1] * 59 + [0]
    few = adata[:58].copy()
    for key in (None, "slide"):
        GRAPHS[method](adata, sample_key=key)
        GRAPHS[method](few, sample_key=key)
        graph = adata.obsp["spatial_connectivities"]
        assert (graph[:58, :58] != few.obsp["spatial_connectivities"]).nnz == 0
        assert graph[58:].nnz == graph[:, 58:].nnz == 0
        assert adata.obsp["spatial_distances"].nnz == few.obsp["spatial_distances"].nnz
        assert adata.uns["m2st"]["graph"]["n_invalid"] == 2


NO = pytest.mark.parametrize(
    "off",
    [
        lambda inside: inside.astype(int),
        lambda inside: inside.astype(float),
        lambda inside: inside,
        lambda inside: pd.array(inside, dtype="boolean"),
        lambda inside: inside.astype(str),
        lambda inside: pd.Categorical(np.where(inside, "1", "0")),
        lambda inside: np.where(inside, "TRUE", "FALSE").astype(object),
    ],
)


@NO
def test_features_of_spots_off_the_tissue_are_missing(off: Callable[[np.ndarray], object]) -> None:
    adata = counts()
    inside = adata.obsm["spatial"][:, 0] > 1
    tissue = adata[inside].copy()
    adata.obs["in_tissue"] = off(inside)
    n_off = int((~inside).sum())
    made = [
        lambda adata: pp.prepare(adata, n_pcs=5),
        lambda adata: paper.prepare(adata, n_pcs=5),
        lambda adata: pp.prepare_embedding(adata, "X", n_pcs=5),
    ]
    for prepare in made:
        for part in (adata, tissue):
            pp.spatial_graph(part)
        before = adata.X.copy()
        with pytest.warns(UserWarning, match=rf"^{n_off} of 60 .* off the tissue") as caught:
            prepare(adata)
        assert len(caught) == 1
        assert (before != adata.X).sum() == 0
        prepare(tissue)
        found = adata.obsm["X_m2st_pca"]
        assert np.isnan(found[~inside]).all()
        np.testing.assert_array_equal(found[inside], tissue.obsm["X_m2st_pca"])


def test_only_an_explicit_no_is_off_the_tissue() -> None:
    adata = counts(6)
    adata.obs["in_tissue"] = pd.Categorical([None, "0", "no word", " False", "1", "0.0"])
    assert valid_observations(adata).tolist() == [True, False, True, False, True, False]


def test_refused_graph_parameters() -> None:
    adata = counts()
    with pytest.raises(ValueError, match=r"Expected `radius` in \(0, inf\), found 0"):
        pp.spatial_graph_radius(adata, 0)
    with pytest.raises(ValueError, match="smaller than the number of observations, 60, found 60"):
        pp.spatial_graph_knn(adata, 60)
    with pytest.raises(ValueError, match="`n_neighbors` to be at least 1"):
        pp.spatial_graph_knn(adata, 0)
    with pytest.raises(ValueError, match=r"Expected `max_length_ratio` in \[1, inf\]"):
        pp.spatial_graph_delaunay(adata, max_length_ratio=0)
    adata.obsm["spatial"] = np.random.default_rng(0).random((60, 2))
    with pytest.raises(ValueError, match="Expected observations on a hexagonal or square array"):
        pp.spatial_graph_lattice(adata)


def test_published_graph_is_chosen(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "features" / "dlpfc_151672.h5ad")
    pp.spatial_graph(adata)
    record = adata.uns["m2st"]["graph"]
    assert (record["method"], record["n_edges"]) == ("lattice", 22770)


def test_published_radius_graph(shared_data: Path) -> None:
    adata = ad.read_h5ad(shared_data / "counts" / "starmap_visual_cortex.h5ad")
    with pytest.warns(UserWarning, match="5 of 1207 observations have no neighbour"):
        pp.spatial_graph_radius(adata, 400)
    assert adata.uns["m2st"]["graph"]["n_edges"] == 7838


# serial sections ---------------------------------------------------------------------------------


def serial(shift: float = 0.0, n_axes: int = 2, n_sections: int = 2) -> AnnData:
    """Registered sections of a square array, one unit apart, the next shifted."""
    places = np.stack(np.divmod(np.arange(36), 6), axis=1).astype(float)
    points = [np.c_[places + number * shift, np.full(36, number)] for number in range(n_sections)]
    names = [f"spot{number}" for number in range(36 * n_sections)]
    obs = pd.DataFrame({"section": np.repeat(list("abc")[:n_sections], 36)}, index=names)
    counts = np.random.default_rng(0).poisson(2, (len(obs), 40)).astype(np.float32)
    return AnnData(counts, obs=obs, obsm={"spatial": np.vstack(points)[:, :n_axes]})


@pytest.mark.parametrize("shift", [0.0, 0.1])
def test_registered_sections_are_linked_on_request(shift: float) -> None:
    adata = serial(shift)
    pp.spatial_graph(adata, sample_key="section")
    before = adata.obsp["spatial_connectivities"].copy()
    assert adata.uns["m2st"]["graph"]["n_between_samples"] == 0
    pp.link_sections(adata, 0.2)
    links = adata.obsp["spatial_connectivities"]
    expected = before.toarray()
    expected[np.arange(36), np.arange(36, 72)] = expected[np.arange(36, 72), np.arange(36)] = 1
    np.testing.assert_array_equal(links.toarray(), expected)
    lengths = adata.obsp["spatial_distances"]
    np.testing.assert_array_equal(lengths.indices, links.indices)
    assert lengths[0, 36] == pytest.approx(shift * np.sqrt(2))
    record = adata.uns["m2st"]["graph"]
    assert record["n_between_samples"] == 72
    assert record["link_distance"] == 0.2
    assert record["n_edges"] == links.nnz
    assert record["reason"].endswith("; sections linked up to a distance of 0.2")
    pp.link_sections(adata, 1.1)  # again: others take the place of these
    assert adata.uns["m2st"]["graph"]["reason"].count("linked") == 1
    assert adata.obsp["spatial_connectivities"].nnz > links.nnz


def test_depth_tells_which_sections_are_adjacent() -> None:
    adata = serial(n_axes=3, n_sections=3)
    pp.spatial_graph(adata, sample_key="section")
    pp.link_sections(adata, 1.0)
    source, target = adata.obsp["spatial_connectivities"].nonzero()
    steps = np.abs(source // 36 - target // 36)
    assert set(steps) == {0, 1}
    assert (steps == 1).sum() == 4 * 36


def test_a_run_keeps_the_links_and_builds_them_anew_from_other_coordinates() -> None:
    adata = serial()
    pp.spatial_graph(adata, sample_key="section")
    pp.link_sections(adata, 0.2)
    expected = adata.obsp["spatial_connectivities"].copy()
    params = AutoencoderParams(n_members=1, n_epochs=5)
    run(adata, 2, sample_key="section", autoencoder=params, progress=False)
    assert (adata.obsp["spatial_connectivities"] != expected).nnz == 0
    adata.obsm["spatial"][0] = 100
    with pytest.warns(UserWarning, match="no neighbour|built anew"):
        run(adata, 2, sample_key="section", autoencoder=params, progress=False)
    record = adata.uns["m2st"]["graph"]
    assert record["link_distance"] == 0.2
    assert record["n_between_samples"] == 70


def test_sections_that_cannot_be_linked_are_refused() -> None:
    adata = serial()
    with pytest.raises(KeyError, match=r"Run `m2st.pp.spatial_graph\(adata\)` first"):
        pp.link_sections(adata, 1.0)
    pp.spatial_graph(adata, sample_key="section")
    with pytest.raises(ValueError, match=r"Expected `distance` in \(0, inf\), found 0"):
        pp.link_sections(adata, 0)
    with pytest.raises(TypeError, match="Expected `distance`"):
        pp.link_sections(adata, "near")  # type: ignore[arg-type]
    far = serial(shift=50.0)
    pp.spatial_graph(far, sample_key="section")
    with pytest.raises(ValueError, match=r"at most 2 apart in .*, found none. Check the unit"):
        pp.link_sections(far, 2)
    single = serial(n_sections=1)
    pp.spatial_graph(single)
    with pytest.raises(ValueError, match="that tells sections apart, found one without"):
        pp.link_sections(single, 1.0)
