from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import anndata
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError

import m2st
from m2st import AutoencoderParams, ClusteringParams
from m2st._ensemble import SideBySide
from m2st._graph import smooth

QUICK = AutoencoderParams(n_members=2, scale_dims=(8, 4), hidden_dim=16, n_epochs=6)
ONCE = ClusteringParams(n_init=2)


@pytest.fixture
def adata() -> anndata.AnnData:
    return m2st.datasets.simulate_cortex(n_obs=200, n_genes=120)


@pytest.fixture
def prepared(adata: anndata.AnnData) -> anndata.AnnData:
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata, n_pcs=10)
    return adata


@pytest.fixture
def embedded(prepared: anndata.AnnData) -> anndata.AnnData:
    m2st.tl.embed(prepared, QUICK, progress=False)
    return prepared


def same_embeddings(one: anndata.AnnData, other: anndata.AnnData) -> bool:
    keys = [f"X_m2st_scale{scale}" for scale in (1, 2)]
    return all(np.array_equal(one.obsm[key], other.obsm[key]) for key in keys)


def digest(adata: anndata.AnnData) -> str:
    """Digest of the bits of a result."""
    found = hashlib.sha256()
    for key in sorted(adata.obsm):
        found.update(adata.obsm[key].tobytes())
    found.update(adata.obs["m2st_domain"].cat.codes.to_numpy().tobytes())
    found.update(adata.obs["m2st_confidence"].to_numpy().tobytes())
    return found.hexdigest()


def quick_run(adata: anndata.AnnData, n_domains: int | str = 4, **settings: object) -> None:
    m2st.run(adata, n_domains, autoencoder=QUICK, clustering=ONCE, progress=False, **settings)


def test_run_writes_what_it_says_and_nothing_else(adata: anndata.AnnData, tmp_path: Path) -> None:
    adata.obsm["X_pca"] = np.arange(600.0).reshape(200, 3)  # the user's own
    before = adata.copy()
    quick_run(adata)
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    assert set(adata.obs) - set(before.obs) == {"m2st_domain", "m2st_confidence"}
    assert set(adata.obsm) - set(before.obsm) == {
        "X_m2st_pca", "X_m2st_pca_no_neighbors", "X_m2st", "X_m2st_scale1", "X_m2st_scale2",
        "X_m2st_averages",
    }  # fmt: skip
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}
    assert set(adata.uns) - set(before.uns) == {"m2st", "spatial_neighbors"}
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs_names) == list(before.obs_names)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert adata.obs["m2st_domain"].cat.categories.tolist() == ["1", "2", "3", "4"]
    assert adata.obs["m2st_domain"].notna().all()
    assert adata.obs["m2st_confidence"].between(0, 1).all()
    assert adata.obsm["X_m2st_scale1"].shape == (200, 2 * 8)
    assert adata.obsm["X_m2st_scale2"].shape == (200, 2 * 4)
    assert adata.obsm["X_m2st"].shape == (200, 15)

    m2st.io.write(adata, tmp_path / "out.h5ad")
    back = m2st.io.read(tmp_path / "out.h5ad")
    for column in ("m2st_domain", "m2st_confidence"):
        pd.testing.assert_series_equal(back.obs[column], adata.obs[column])
    for key, values in adata.obsm.items():
        np.testing.assert_array_equal(back.obsm[key], values)
    record = back.uns["m2st"]
    assert set(record) == {"graph", "prepare", "embed", "cluster", "n_members", "spots"}
    assert record["n_members"] == 2
    restored = AutoencoderParams.from_dict(
        {**record["embed"]["params"], "scale_dims": tuple(record["embed"]["params"]["scale_dims"])}
    )
    assert restored == QUICK
    assert record["embed"]["stopped"] == "finished"
    assert record["embed"]["loss"].shape == (2, 6)
    found = record["cluster"]
    assert ClusteringParams.from_dict(found["params"]) == ONCE.for_domains(4)
    assert found["scale_weights"].shape == (2, 4)  # two scales, averages, what is in common
    np.testing.assert_allclose(found["scale_weights"].sum(axis=1), 1)
    assert (found["agreement"].shape, found["stability"].shape) == ((2,), (4,))
    assert found["start_objectives"].shape == (2, 2)
    assert found["objective"].shape[0] == 2
    assert np.isfinite(found["objective"][:, 0]).all()


def test_embeddings_lie_side_by_side_as_they_come(rng: np.random.Generator) -> None:
    valid = np.array([True, False, True, True])
    members = [[rng.random((3, 2), np.float32), rng.random((3, 1), np.float32)] for _ in range(3)]
    whole = SideBySide.of(members, valid)
    for scale, found in enumerate(whole.scales()):
        np.testing.assert_array_equal(found[valid], np.hstack([m[scale] for m in members]))
        assert np.isnan(found[1]).all()
    # An interrupt ends the training before the last one.
    some = SideBySide(valid, 3)
    for member in members[:2]:
        some.add(member)
    assert some.n_members == 2
    assert [scale.shape for scale in some.scales()] == [(4, 4), (4, 2)]
    np.testing.assert_array_equal(some.scales()[0], whole.scales()[0][:, :4])


@pytest.mark.dist
def test_same_bits_with_more_threads(adata: anndata.AnnData) -> None:
    code = (
        "import m2st, torch; from tests.test_tl import digest, quick_run;"
        "a = m2st.datasets.simulate_cortex(n_obs=200, n_genes=120); quick_run(a);"
        "print(torch.get_num_threads(), digest(a))"
    )
    n_threads = str(torch.get_num_threads() + 1)
    names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env=os.environ | {f"{name}_NUM_THREADS": n_threads for name in names},
        capture_output=True,
        text=True,
        check=True,
    )
    quick_run(adata)
    assert found.stdout.split() == [n_threads, digest(adata)]


def test_callers_random_states_are_untouched(adata: anndata.AnnData) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002, TID251
    torch.random.manual_seed(1)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    quick_run(adata)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1][1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_an_existing_graph_is_used(adata: anndata.AnnData) -> None:
    m2st.pp.spatial_graph_knn(adata, 4)
    before = adata.obsp["spatial_connectivities"].copy()
    quick_run(adata)
    assert (adata.obsp["spatial_connectivities"] != before).nnz == 0
    assert adata.uns["m2st"]["graph"]["method"] == "knn"


def test_a_foreign_graph_is_reported(adata: anndata.AnnData) -> None:
    m2st.pp.spatial_graph(adata)  # of which only the record is left
    graph = sparse.csr_matrix((np.ones(2), ([0, 1], [1, 0])), shape=(200, 200))
    adata.obsp["spatial_connectivities"] = graph
    quick_run(adata)
    report = adata.uns["m2st"]["graph"]
    assert (report["method"], report["n_edges"], report["n_isolated"]) == ("given", 2, 198)


def cells(n_obs: int = 150, seed: int = 0) -> anndata.AnnData:
    """Cells anywhere, in two halves."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (n_obs, 2))
    rate = np.where(places[:, :1] < 50, rng.gamma(1, 1, 60), rng.gamma(1, 1, 60))
    return anndata.AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)), obsm={"spatial": places}
    )


def fresh(adata: anndata.AnnData) -> anndata.AnnData:
    """The data alone, without results."""
    return anndata.AnnData(
        adata.X.copy(), adata.obs.copy(), obsm={"spatial": adata.obsm["spatial"].copy()}
    )


def same_results(one: anndata.AnnData, other: anndata.AnnData) -> bool:
    graph = "spatial_connectivities"
    return (
        (one.obsp[graph] != other.obsp[graph]).nnz == 0
        and same_embeddings(one, other)
        and one.obs["m2st_domain"].equals(other.obs["m2st_domain"])
    )


# Sections of noise share nothing, and are told so.
@pytest.mark.filterwarnings("ignore:Section:UserWarning")
@pytest.mark.parametrize("change", ["coordinates", "some", "subset", "sample"])
def test_a_graph_that_does_not_fit_is_built_anew(change: str) -> None:
    adata = cells()
    adata.obs["half"] = np.where(np.arange(150) % 2, "odd", "even")
    m2st.pp.spatial_graph(adata)
    settings = {}
    if change == "coordinates":
        adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    elif change == "some":
        adata.obsm["spatial"][3] = adata.obsm["spatial"][90] + 0.1
    elif change == "subset":
        adata = adata[np.arange(150) % 5 > 0].copy()
    else:
        settings["sample_key"] = "half"
    other = fresh(adata)
    with pytest.warns(
        UserWarning, match=r"was built from other .* built anew from `adata\.obsm\['spatial"
    ):
        quick_run(adata, 2, **settings)
    quick_run(other, 2, **settings)
    assert same_results(adata, other)
    quick_run(adata, 2, **settings)  # now it fits


def test_a_graph_is_built_anew_as_it_was_built() -> None:
    builders = {
        "radius": lambda adata: m2st.pp.spatial_graph_radius(adata, 20),
        "knn": lambda adata: m2st.pp.spatial_graph_knn(adata, 5),
        "delaunay": lambda adata: m2st.pp.spatial_graph_delaunay(adata, max_length_ratio=2),
    }
    for method, build in builders.items():
        adata = cells(60)
        build(adata)
        adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
        expected = fresh(adata)
        build(expected)
        with pytest.warns(UserWarning, match="built anew"):
            m2st.pp.ensure_graph(adata, "spatial", None)
        assert adata.uns["m2st"]["graph"] == expected.uns["m2st"]["graph"]
        assert adata.uns["m2st"]["graph"]["method"] == method
        key = "spatial_connectivities"
        assert (adata.obsp[key] != expected.obsp[key]).nnz == 0


def test_a_graph_that_fits_is_no_cause_to_warn() -> None:
    adata = cells()
    m2st.pp.spatial_graph(adata)
    order = np.random.default_rng(0).permutation(150)
    adata = adata[order].copy()
    adata.obsm["spatial"] = 0.2125 * adata.obsm["spatial"] @ [[0, 1], [-1, 0]] + 7
    other = fresh(adata)
    quick_run(adata, 2)
    quick_run(other, 2)
    assert same_results(adata, other)


def test_a_graph_changed_by_hand_is_the_users_own() -> None:
    adata = cells()
    m2st.pp.spatial_graph(adata)
    graph = adata.obsp["spatial_connectivities"].tolil()
    graph[:10] = graph[:, :10] = 0
    adata.obsp["spatial_connectivities"] = graph.tocsr()
    quick_run(adata, 2)
    assert adata.obsp["spatial_connectivities"][:10].nnz == 0
    assert adata.uns["m2st"]["graph"]["method"] == "given"


def test_steps_refuse_a_graph_of_other_coordinates() -> None:
    adata = cells()
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    models = m2st.tl.embed(adata, QUICK, progress=False)
    right = adata.obsm["spatial"]
    adata.obsm["spatial"] = right[::-1].copy()
    steps = [
        lambda adata: m2st.pp.prepare(adata),
        lambda adata: m2st.tl.embed(adata, QUICK, progress=False),
        lambda adata: m2st.tl.cluster(adata, 2, ONCE),
        lambda adata: m2st.tl.choose_n_domains(adata, [2]),
        lambda adata: m2st.tl.transform(adata, models),
    ]
    words = r"built from other coord.*`m2st\.pp\.spatial_graph\(adata, spatial_key='spatial'\)`"
    for step in steps:
        with pytest.raises(ValueError, match=words):
            step(adata)
    # A subset, another order, another unit: the edges are right.
    adata.obsm["spatial"] = (right * 0.5 + 3).astype(np.float32)
    part = adata[np.random.default_rng(0).permutation(150)[:120]].copy()
    for step in steps:
        step(part)
    assert part.uns["m2st"]["graph"]["spatial_key"] == "spatial"
    assert part.uns["m2st"]["graph"]["method"] == "delaunay"


def test_array_indices_have_the_lengths_of_their_graph(adata: anndata.AnnData) -> None:
    adata.obsm["spatial"] = adata.obs[["array_row", "array_col"]].to_numpy()
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata[:150].copy())
    adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
    with pytest.raises(ValueError, match="built from other coord"):
        m2st.pp.prepare(adata)


@pytest.mark.parametrize("fits", [True, False])
def test_a_graph_of_ones_own_that_cannot_be_right_is_told(*, fits: bool) -> None:
    adata = cells()
    m2st.pp.spatial_graph_knn(adata, 6)
    del adata.uns["spatial_neighbors"], adata.uns["m2st"]
    before = adata.obsp["spatial_connectivities"].copy()
    if fits:
        quick_run(adata, 2)
    else:
        adata.obsm["spatial"] = adata.obsm["spatial"][::-1].copy()
        with pytest.warns(UserWarning, match=r"lie far apart .*`m2st\.pp\.spatial_graph") as caught:
            quick_run(adata, 2)
        assert sum(warning.category is UserWarning for warning in caught) == 1
    assert (adata.obsp["spatial_connectivities"] != before).nnz == 0


def test_coordinates_of_another_name() -> None:
    adata = cells()
    adata.obsm["global"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial"] = adata.obsm["spatial"] % 20
    m2st.pp.spatial_graph(adata, spatial_key="global")
    expected = adata.obsp["spatial_connectivities"].copy()
    quick_run(adata, 2)  # those of the graph
    again = fresh(adata)
    again.obsm["global"] = adata.obsm["global"]
    quick_run(again, 2, spatial_key="global")
    for one in (adata, again):
        assert (one.obsp["spatial_connectivities"] != expected).nnz == 0
        assert one.uns["m2st"]["graph"]["spatial_key"] == "global"
    with pytest.warns(UserWarning, match="built anew"):
        quick_run(again, 2, spatial_key="spatial")
    with pytest.raises(KeyError, match=r"'nowhere' in `adata\.obsm`"):
        quick_run(again, 2, spatial_key="nowhere")


def test_ready_features(adata: anndata.AnnData) -> None:
    rng = np.random.default_rng(0)
    adata.obsm["mine"] = rng.normal(size=(200, 5))
    quick_run(adata, use_rep="mine")
    np.testing.assert_array_equal(adata.obsm["X_m2st_pca"], adata.obsm["mine"].astype(np.float32))
    assert adata.uns["m2st"]["prepare"]["use_rep"] == "mine"
    adata.X = sparse.csr_matrix(rng.normal(size=adata.shape))
    quick_run(adata, use_rep="X")
    assert adata.obsm["X_m2st_pca"].shape == (200, 15)


def test_averages_are_a_view_that_all_members_share(adata: anndata.AnnData, tmp_path: Path) -> None:
    other = adata.copy()
    few = replace(QUICK, average_hops=2)
    model = m2st.run(adata, 3, autoencoder=few, clustering=ONCE, progress=False)
    np.testing.assert_allclose(
        adata.obsm["X_m2st_averages"],
        smooth(adata.obsm["X_m2st_pca"], adata.obsp["spatial_connectivities"], n_hops=2),
        rtol=1e-5,
        atol=1e-6,
    )
    n_views = len(few.scale_dims) + 2  # and what all have in common
    assert adata.uns["m2st"]["cluster"]["scale_weights"].shape == (2, n_views)
    model.save(tmp_path / "model")
    m2st.load(tmp_path / "model").apply(other)
    for key in ("X_m2st_averages", "X_m2st"):
        np.testing.assert_allclose(other.obsm[key], adata.obsm[key], rtol=1e-3, atol=1e-3)
    assert m2st.metrics.ari(other.obs["m2st_domain"], adata.obs["m2st_domain"]) > 0.9
    # Without them, what an earlier run has left does not stay.
    without = replace(QUICK, average_hops=0)
    m2st.run(adata, 3, autoencoder=without, clustering=ONCE, progress=False)
    assert "X_m2st_averages" not in adata.obsm


def test_number_of_components(adata: anndata.AnnData) -> None:
    quick_run(adata, n_pcs=7)
    assert adata.obsm["X_m2st_pca"].shape == (200, 7)
    quick_run(adata, 17)
    assert adata.obsm["X_m2st_pca"].shape == (200, 17)
    adata.obsm["wide"] = np.random.default_rng(0).normal(size=(200, 30))
    quick_run(adata, use_rep="wide", n_pcs=20)
    assert adata.obsm["X_m2st_pca"].shape == (200, 20)
    # Features that `pp` made are used as they are.
    before = adata.obsm["X_m2st_pca"].copy()
    quick_run(adata, use_rep="X_m2st_pca")
    np.testing.assert_array_equal(adata.obsm["X_m2st_pca"], before)
    with pytest.raises(ValueError, match="found 5 together with `use_rep='X_m2st_pca'`"):
        quick_run(adata, use_rep="X_m2st_pca", n_pcs=5)


# Sections of noise share nothing, and are told so.
@pytest.mark.filterwarnings("ignore:Section:UserWarning")
def test_sections_are_not_joined() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=240, n_genes=100, n_samples=2)
    quick_run(adata, sample_key="sample")
    source, target = adata.obsp["spatial_connectivities"].nonzero()
    codes = adata.obs["sample"].cat.codes.to_numpy()
    assert (codes[source] == codes[target]).all()
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(
        (np.ones(2), ([0, adata.n_obs - 1], [adata.n_obs - 1, 0])), shape=(adata.n_obs,) * 2
    )
    with pytest.raises(ValueError, match=r"Expected no edge between the sections .* found 2"):
        quick_run(adata, sample_key="sample")


def test_features_are_alike_in_each_section() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=240, n_genes=100, n_samples=2, batch_shift=1.0)
    m2st.pp.spatial_graph(adata, sample_key="sample")
    m2st.pp.prepare(adata, n_pcs=5, sample_key="sample")
    groups = pd.DataFrame(adata.obsm["X_m2st_pca"]).groupby(adata.obs["sample"].to_numpy())
    np.testing.assert_allclose(groups.mean(), 0, atol=1e-4)
    spreads = groups.std(ddof=0).to_numpy()
    np.testing.assert_allclose(spreads[0], spreads[1], rtol=1e-4)
    assert adata.uns["m2st"]["prepare"]["sample_key"] == "sample"


def test_number_of_domains_is_chosen_and_recorded(adata: anndata.AnnData) -> None:
    quick_run(adata, "auto")
    record = adata.uns["m2st"]["n_domains"]
    assert record["chosen"] == record["candidates"][record["score"].argmax()]
    assert adata.obs["m2st_domain"].nunique() == record["chosen"]
    assert record["stability"].shape == record["gain"].shape == record["candidates"].shape
    m2st.tl.embed(adata, QUICK, progress=False)
    assert "n_domains" not in adata.uns["m2st"]


def test_another_section_gets_domains(embedded: anndata.AnnData) -> None:
    other = embedded.copy()
    models = m2st.tl.embed(embedded, QUICK, progress=False)
    clusterings = m2st.tl.cluster(embedded, 4, ONCE)
    m2st.tl.transform(other, models, clusterings)
    assert other.obs["m2st_domain"].cat.categories.tolist() == ["1", "2", "3", "4"]
    assert other.obs["m2st_confidence"].between(0, 1).all()
    with pytest.raises(ValueError, match="a clustering for each of the 2 models, found 1"):
        m2st.tl.transform(other, models, clusterings[:1])


@pytest.mark.parametrize("kind", ["shuffled", "noise"])
def test_no_structure_is_said(adata: anndata.AnnData, kind: str) -> None:
    rng = np.random.default_rng(0)
    if kind == "shuffled":
        adata.obsm["spatial"] = adata.obsm["spatial"][rng.permutation(adata.n_obs)]
    else:
        adata.X = sparse.csr_matrix(rng.poisson(1.0, size=adata.shape).astype(np.float32))
    with pytest.warns(UserWarning, match=r"no structure in space, so 1 domain"):
        quick_run(adata, "auto")
    assert adata.uns["m2st"]["n_domains"]["chosen"] == 1
    assert adata.obs["m2st_domain"].cat.categories.tolist() == ["1"]


def test_candidates_are_checked(embedded: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match=r"of at least 2 domains, found \[1, 2\]"):
        m2st.tl.choose_n_domains(embedded, [1, 2])
    with pytest.raises(TypeError, match="several numbers of domains as `candidates`, found 5"):
        m2st.tl.choose_n_domains(embedded, 5)
    with pytest.raises(ValueError, match="of at least 2 domains, found none"):
        m2st.tl.choose_n_domains(embedded, [])
    with pytest.raises(ValueError, match="than observations, 200, found 201"):
        m2st.tl.choose_n_domains(embedded, [200])


def test_observations_without_counts_have_no_domain(adata: anndata.AnnData) -> None:
    empty = [3, 50]
    counts = adata.X.tolil()
    counts[empty] = 0
    adata.X = counts.tocsr()
    with pytest.warns(UserWarning, match="2 of 200 observations have no counts") as caught:
        quick_run(adata)
    # The line of the user, not one of the package.
    files = {warning.filename for warning in caught if warning.category is UserWarning}
    assert files == {__file__}
    missing = np.flatnonzero(adata.obs["m2st_domain"].isna())
    assert missing.tolist() == empty
    confidence = adata.obs["m2st_confidence"]
    assert np.flatnonzero(confidence.isna()).tolist() == empty
    assert confidence.dropna().between(0, 1).all()
    assert np.isnan(adata.obsm["X_m2st"][empty]).all()
    assert np.isnan(adata.obsm["X_m2st_scale1"][empty]).all()
    assert np.isfinite(np.delete(adata.obsm["X_m2st"], empty, axis=0)).all()
    assert adata.uns["m2st"]["cluster"]["n_invalid"] == 2


def test_spots_off_the_tissue_take_no_part(adata: anndata.AnnData) -> None:
    tissue = adata.copy()
    rng = np.random.default_rng(0)
    low, high = tissue.obsm["spatial"].min(axis=0), tissue.obsm["spatial"].max(axis=0)
    around = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(0.05, (80, adata.n_vars)).astype(np.float32)),
        obs=pd.DataFrame({"in_tissue": 0}, index=[f"off{i}" for i in range(80)]),
        var=adata.var,
        obsm={"spatial": rng.uniform(low, high, (80, 2))},
    )
    whole = anndata.concat([adata, around])[rng.permutation(280)].copy()
    whole.obsm["spatial"][np.flatnonzero(whole.obs["in_tissue"] == 0)[::2]] = np.nan
    with pytest.warns(UserWarning, match="80 of 280 observations .* off the tissue") as caught:
        quick_run(whole)
    assert sum(warning.category is UserWarning for warning in caught) == 1
    on = (whole.obs["in_tissue"] == 1).to_numpy()
    tissue = whole[on].copy()
    for slot in ("obsm", "uns"):
        getattr(tissue, slot).clear()
    tissue.obsm["spatial"] = whole.obsm["spatial"][on]
    tissue.obsp.clear()
    quick_run(tissue)
    assert (whole.obs["m2st_domain"][on] == tissue.obs["m2st_domain"]).all()
    assert whole.obs["m2st_domain"][~on].isna().all()
    assert whole.obs["m2st_confidence"][~on].isna().all()
    assert np.isnan(whole.obsm["X_m2st"][~on]).all()
    assert whole.uns["m2st"]["cluster"]["n_invalid"] == 80
    assert m2st.tl.choose_n_domains(whole, [2, 3]) == m2st.tl.choose_n_domains(tissue, [2, 3])


def test_ready_features_off_the_tissue_are_left_out(adata: anndata.AnnData) -> None:
    mine = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    adata.obsm["mine"] = mine.copy()
    adata.obs["in_tissue"] = np.arange(200) >= 20
    adata.obsm["spatial"][20:30] = np.nan
    m2st.pp.spatial_graph(adata)
    with pytest.warns(UserWarning, match="30 of 200 observations have no coordinates") as caught:
        models = m2st.tl.embed(adata, QUICK, use_rep="mine", progress=False)
    assert sum(warning.category is UserWarning for warning in caught) == 1
    clusterings = m2st.tl.cluster(adata, 3, ONCE)
    with pytest.warns(UserWarning, match="30 of 200"):
        m2st.tl.transform(adata, models, clusterings, use_rep="mine")
    assert adata.obs["m2st_domain"].isna().to_numpy().nonzero()[0].tolist() == list(range(30))
    np.testing.assert_array_equal(adata.obsm["mine"], mine)
    with pytest.warns(UserWarning, match="30 of 200") as caught:
        quick_run(adata, use_rep="mine")
    assert sum(warning.category is UserWarning for warning in caught) == 1


def test_embedding_again_forgets_the_clustering(embedded: anndata.AnnData) -> None:
    m2st.tl.cluster(embedded, 3, ONCE)
    one_scale = AutoencoderParams(n_members=1, scale_dims=(8,), hidden_dim=16, n_epochs=2)
    m2st.tl.embed(embedded, one_scale, progress=False)
    assert not {"m2st_domain", "m2st_confidence"} & set(embedded.obs)
    assert embedded.uns["m2st"]["n_members"] == 1
    assert not {"X_m2st", "X_m2st_scale2"} & set(embedded.obsm)
    assert "cluster" not in embedded.uns["m2st"]


@pytest.mark.parametrize("n_far", [0, 2])
def test_domains_of_hardly_any_observations_are_told(n_far: int) -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=60, n_domains=3)
    once = AutoencoderParams(n_members=1, n_epochs=2, average_hops=0, scale_dims=(4,))
    m2st.run(adata, None, autoencoder=once, progress=False)
    scale = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    scale[:n_far] += 200 * np.array([[1], [-1]])[:n_far]
    adata.obsm["X_m2st_scale1"] = scale
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        m2st.tl.cluster(adata, 3, ClusteringParams(n_init=1, smoothness=0.0))
    assert (adata.obs["m2st_domain"].value_counts() == 1).sum() == n_far
    said = [str(one.message) for one in caught if one.category is UserWarning]
    assert len(said) == (n_far == 2)
    assert all("2 of 3 domains have hardly any observations, at most 1 of 300" in s for s in said)


def test_one_small_domain_may_be_a_niche() -> None:
    m2st.tl._warn_of_tiny(np.array([597, 2, 0]))
    with pytest.warns(UserWarning, match="2 of 3 domains have hardly any observations, at most 9"):
        m2st.tl._warn_of_tiny(np.array([588, 9, 3]))


def test_clustering_again_needs_no_training(embedded: anndata.AnnData) -> None:
    for n_domains in (2, 5):
        m2st.tl.cluster(embedded, n_domains, ONCE)
        assert embedded.obs["m2st_domain"].nunique() == n_domains


def test_members_stand_side_by_side_and_do_not_depend_on_their_number(
    prepared: anndata.AnnData,
) -> None:
    two, three = prepared.copy(), prepared.copy()
    models = m2st.tl.embed(two, QUICK, progress=False)
    m2st.tl.embed(three, replace(QUICK, n_members=3), progress=False)
    features, adjacency = (two.obsm["X_m2st_pca"], two.obsp["spatial_connectivities"])
    for member, model in enumerate(models):
        for scale, (found, width) in enumerate(
            zip(model.transform(features, adjacency), QUICK.scale_dims, strict=True), start=1
        ):
            columns = slice(member * width, (member + 1) * width)
            np.testing.assert_array_equal(two.obsm[f"X_m2st_scale{scale}"][:, columns], found)
            np.testing.assert_array_equal(three.obsm[f"X_m2st_scale{scale}"][:, columns], found)
    first, second, third = np.split(three.obsm["X_m2st_scale1"], 3, axis=1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, third)


@pytest.mark.parametrize("equal_sizes", [None, 0.1])
def test_clusterings_of_members_hold_no_representations(
    embedded: anndata.AnnData, equal_sizes: float | None
) -> None:
    """They would take as much memory as embeddings do; a second start says that they are gone."""
    for fit in m2st.tl.cluster(embedded, 4, replace(ONCE, equal_sizes=equal_sizes)):
        assert not hasattr(fit, "common_")
        assert not hasattr(fit, "specific_")
        assert fit.labels_.shape == (embedded.n_obs,)
        with pytest.raises(NotFittedError, match="found that they were given up"):
            fit.refit([fit.labels_], connectivities=embedded.obsp["spatial_connectivities"])


def test_same_bits_with_one_or_two_jobs(prepared: anndata.AnnData) -> None:
    """In processes, also where joblib is set to threads: torch has one random stream for all."""
    runs = []
    for settings, n_jobs in (
        ({"n_jobs": 1}, None),
        ({"n_jobs": 1}, 2),
        ({"backend": "loky", "n_jobs": 2}, None),
        ({"backend": "threading", "n_jobs": 2}, None),
    ):
        adata = prepared.copy()
        with joblib.parallel_config(**settings):
            m2st.tl.embed(adata, QUICK, n_jobs=n_jobs, progress=False)
            m2st.tl.cluster(adata, 4, ONCE, n_jobs=n_jobs)
        runs.append(adata)
    for other in runs[1:]:
        assert same_embeddings(runs[0], other)
        pd.testing.assert_frame_equal(runs[0].obs, other.obs)
        np.testing.assert_array_equal(runs[0].obsm["X_m2st"], other.obsm["X_m2st"])
        np.testing.assert_array_equal(
            runs[0].uns["m2st"]["embed"]["loss"], other.uns["m2st"]["embed"]["loss"]
        )


def test_a_callback_needs_a_single_job(embedded: anndata.AnnData) -> None:
    message = "Expected no `callback` with several jobs, found one. Set `n_jobs=1`"
    with pytest.raises(ValueError, match=message):
        m2st.tl.embed(embedded, QUICK, n_jobs=2, callback=print, progress=False)
    seen: list[tuple[int, int]] = []
    m2st.tl.embed(
        embedded, QUICK, progress=False, callback=lambda epoch, most, _: seen.append((epoch, most))
    )
    assert seen == [(epoch, 12) for epoch in range(1, 13)]


def test_members_that_settle_early_are_padded(prepared: anndata.AnnData) -> None:
    early = replace(QUICK, n_epochs=400, patience=3, min_delta=0.3)
    m2st.tl.embed(prepared, early, progress=False)
    record = prepared.uns["m2st"]["embed"]
    assert record["stopped"] == "converged"
    lengths = [int((~np.isnan(row)).sum()) for row in record["loss"]]
    assert record["loss"].shape == (2, max(lengths))
    for row, length in zip(record["loss"], lengths, strict=True):
        assert np.isnan(row[length:]).all()
        assert not np.isnan(row[:length]).any()


def test_saved_models_embed_the_same_section_alike(
    prepared: anndata.AnnData, tmp_path: Path
) -> None:
    models = m2st.tl.embed(prepared, QUICK, progress=False)
    other = prepared.copy()
    del other.obsm["X_m2st_scale1"], other.obsm["X_m2st_scale2"], other.uns["m2st"]["n_members"]
    loaded = []
    for number, model in enumerate(models):
        model.save(tmp_path / f"{number}.safetensors")
        loaded.append(m2st.MaskedGraphAutoencoder.load(tmp_path / f"{number}.safetensors"))
    m2st.tl.transform(other, loaded)
    assert same_embeddings(prepared, other)
    assert other.uns["m2st"]["n_members"] == 2
    m2st.tl.cluster(other, 3, ONCE)
    assert other.obs["m2st_domain"].nunique() == 3
    assert other.uns["m2st"]["cluster"]["agreement"].shape == (2,)
    m2st.tl.transform(other, loaded[1:])
    np.testing.assert_array_equal(
        other.obsm["X_m2st_scale1"], prepared.obsm["X_m2st_scale1"][:, 8:]
    )
    assert "m2st_confidence" not in other.obs
    with pytest.raises(ValueError, match="Expected at least one trained model, found none"):
        m2st.tl.transform(other, [])
    for wrong in (["a"], loaded[0]):
        with pytest.raises(TypeError, match="`models` to be a list of MaskedGraphAutoencoder"):
            m2st.tl.transform(other, wrong)
    with pytest.raises(TypeError, match="`clusterings` to be a list of MultiScaleClustering"):
        m2st.tl.transform(other, loaded, [None] * len(loaded))


def test_interrupted_run_keeps_the_members_so_far(adata: anndata.AnnData) -> None:
    quick_run(adata, callback=lambda epoch, *_: epoch < 8)
    record = adata.uns["m2st"]
    assert record["embed"]["stopped"] == "interrupted"
    lengths = (~np.isnan(record["embed"]["loss"])).sum(axis=1)
    assert lengths.tolist() == [6, 2]
    assert record["n_members"] == 2
    quick_run(adata, callback=lambda epoch, *_: epoch < 3)
    record = adata.uns["m2st"]
    assert record["embed"]["loss"].shape == (1, 3)
    assert record["n_members"] == 1
    assert adata.obsm["X_m2st_scale1"].shape == (200, 8)
    assert adata.obs["m2st_domain"].notna().all()
    assert adata.obs["m2st_confidence"].between(0, 1).all()


def test_a_member_without_an_epoch_is_left_out(
    prepared: anndata.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    from m2st._nn._training import _Run

    epoch = _Run.epoch
    n_calls = 0

    def interrupted(run: _Run) -> float:
        nonlocal n_calls
        n_calls += 1
        if n_calls > QUICK.n_epochs:
            raise KeyboardInterrupt
        return epoch(run)

    monkeypatch.setattr(_Run, "epoch", interrupted)
    models = m2st.tl.embed(prepared, QUICK, progress=False)
    assert len(models) == prepared.uns["m2st"]["n_members"] == 1
    assert prepared.uns["m2st"]["embed"]["loss"].shape == (1, 6)
    assert prepared.uns["m2st"]["embed"]["stopped"] == "interrupted"


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_checkpoints_resume_to_the_same_bits(
    prepared: anndata.AnnData, tmp_path: Path, n_jobs: int
) -> None:
    undisturbed = prepared.copy()
    m2st.tl.embed(undisturbed, QUICK, progress=False)
    state = tmp_path / "state"
    m2st.tl.embed(
        prepared, QUICK, progress=False, checkpoint=state, callback=lambda epoch, *_: epoch < 9
    )
    assert {path.name for path in tmp_path.iterdir()} == {"state.1", "state.2"}
    assert not same_embeddings(prepared, undisturbed)
    first = (tmp_path / "state.1").read_bytes()
    m2st.tl.embed(prepared, QUICK, progress=False, checkpoint=state, n_jobs=n_jobs)
    assert (tmp_path / "state.1").read_bytes() == first
    assert same_embeddings(prepared, undisturbed)
    np.testing.assert_array_equal(
        prepared.uns["m2st"]["embed"]["loss"], undisturbed.uns["m2st"]["embed"]["loss"]
    )
    with pytest.raises(ValueError, match="to be a checkpoint of this run"):
        m2st.tl.embed(prepared, QUICK, progress=False, checkpoint=state, random_state=1)


def test_embeddings_without_a_record_are_of_one_member(embedded: anndata.AnnData) -> None:
    del embedded.uns["m2st"]
    m2st.tl.cluster(embedded, 3, ONCE)
    assert embedded.uns["m2st"]["cluster"]["agreement"].tolist() == [1.0]
    assert embedded.obs["m2st_confidence"].between(0, 1).all()


def test_columns_that_do_not_fit_the_members_are_refused(embedded: anndata.AnnData) -> None:
    embedded.obsm["X_m2st_scale2"] = embedded.obsm["X_m2st_scale2"][:, :-1]
    with pytest.raises(
        ValueError, match=r"embeddings of 2 members, found 7 columns. Run `m2st.tl.embed\(adata\)`"
    ):
        m2st.tl.cluster(embedded, 3, ONCE)
    assert "m2st_domain" not in embedded.obs


def test_a_failing_run_leaves_no_half_result(adata: anndata.AnnData) -> None:
    quick_run(adata)
    before = adata.obs.copy()

    def fail(*_: object) -> None:
        msg = "no more"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no more"):
        quick_run(adata, callback=fail)
    pd.testing.assert_frame_equal(adata.obs, before)


def test_missing_steps_name_the_call_to_make(adata: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match=r"Run `m2st.pp.prepare\(adata\)` first"):
        m2st.tl.embed(adata)
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata, n_pcs=5)
    del adata.obsp["spatial_connectivities"]
    with pytest.raises(KeyError, match=r"Run `m2st.pp.spatial_graph\(adata\)` first"):
        m2st.tl.embed(adata)
    with pytest.raises(KeyError, match=r"Run `m2st.tl.embed\(adata\)` first"):
        m2st.tl.cluster(adata, 3)


def test_bad_input(adata: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="no more `n_domains` than observations, 200, found 300"):
        quick_run(adata, 300)
    with pytest.raises(ValueError, match="together with `layer` or `normalized`"):
        quick_run(adata, use_rep="X", normalized=True)
    with pytest.raises(ValueError, match="`n_pcs` to be at least 1"):
        quick_run(adata, n_pcs=0)
    with pytest.raises(KeyError, match=r"Expected 'nowhere' in `adata.obs`"):
        quick_run(adata, sample_key="nowhere")
    with pytest.raises(KeyError, match=r"Expected 'nowhere' in `adata.layers`"):
        quick_run(adata, layer="nowhere")
    found = r"Expected 'nowhere' in `adata.obsm` \(found: spatial\).*leave `use_rep` out"
    with pytest.raises(KeyError, match=found):
        quick_run(adata, use_rep="nowhere")
    assert "spatial_connectivities" not in adata.obsp
    m2st.pp.spatial_graph(adata)
    with pytest.raises(ValueError, match="Expected at least 2 observations, found 1"):
        quick_run(adata[:1].copy(), 1, use_rep="X")
    adata.obsm["infinite"] = np.full((200, 3), np.inf)
    with pytest.raises(ValueError, match="Expected `infinite` to be finite"):
        quick_run(adata, use_rep="infinite")
    adata.obsp["spatial_connectivities"] = sparse.csr_matrix(([1.0], ([0], [1])), shape=(200, 200))
    with pytest.raises(ValueError, match="to be symmetric, found 2 edges in one direction only"):
        quick_run(adata)
    del adata.obsm["spatial"]
    del adata.obsp["spatial_connectivities"]
    with pytest.raises(KeyError, match=r"Expected 'spatial' in `adata.obsm`"):
        quick_run(adata)


def test_smoothing_by_hand() -> None:
    path = sparse.csr_matrix((np.ones(4), ([0, 1, 1, 2], [1, 0, 2, 1])), shape=(4, 4))
    found = smooth(np.array([[0.0], [3], [6], [9]]), path, n_hops=1)
    assert found.ravel().tolist() == [1.5, 3, 4.5, 9]
    twice = smooth(np.array([[0.0], [3], [6], [9]]), path, n_hops=2)
    assert twice.ravel().tolist() == [2.25, 3, 3.75, 9]


@pytest.mark.parametrize(("n_domains", "n_pcs"), [(2, 15), (18, 18)])
def test_run_takes_as_many_components_as_domains(n_domains: int, n_pcs: int) -> None:
    adata = m2st.datasets.simulate_cortex(300, 100, 3)
    few = m2st.AutoencoderParams(n_members=1, n_epochs=2)
    m2st.run(adata, n_domains, autoencoder=few, progress=False)
    assert adata.obsm["X_m2st_pca"].shape == (300, n_pcs)
    assert adata.obsm["X_m2st"].shape == (300, max(15, n_domains))
    assert adata.uns["m2st"]["cluster"]["params"]["common_dim"] == max(15, n_domains)
