from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import m2st
from m2st import AutoencoderParams, ClusteringParams
from m2st._graph import smooth

QUICK = AutoencoderParams(scale_dims=(8, 4), hidden_dim=16, n_epochs=8)
ONCE = ClusteringParams(n_init=2)


@pytest.fixture
def adata() -> anndata.AnnData:
    return m2st.datasets.simulate_cortex(n_obs=200, n_genes=120)


@pytest.fixture
def embedded(adata: anndata.AnnData) -> anndata.AnnData:
    m2st.pp.prepare(adata, n_pcs=10)
    m2st.pp.spatial_graph(adata)
    m2st.tl.embed(adata, QUICK, progress=False)
    return adata


def quick_run(adata: anndata.AnnData, n_domains: int = 4, **settings: object) -> None:
    m2st.run(adata, n_domains, autoencoder=QUICK, clustering=ONCE, progress=False, **settings)


def test_run_writes_what_it_says_and_nothing_else(adata: anndata.AnnData, tmp_path: Path) -> None:
    before = adata.copy()
    quick_run(adata)
    assert set(adata.obs) - set(before.obs) == {"m2st_domain"}
    assert set(adata.obsm) - set(before.obsm) == {
        "X_pca", "X_m2st", "X_m2st_scale1", "X_m2st_scale2",
    }  # fmt: skip
    assert set(adata.obsp) == {"spatial_connectivities", "spatial_distances"}
    assert set(adata.uns) - set(before.uns) == {"m2st", "spatial_neighbors"}
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obs_names) == list(before.obs_names)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert adata.obs["m2st_domain"].cat.categories.tolist() == ["1", "2", "3", "4"]
    assert adata.obs["m2st_domain"].notna().all()
    assert adata.obsm["X_m2st_scale1"].shape == (200, 8)
    assert adata.obsm["X_m2st"].shape == (200, 4)

    m2st.io.write(adata, tmp_path / "out.h5ad")
    back = m2st.io.read(tmp_path / "out.h5ad")
    pd.testing.assert_series_equal(back.obs["m2st_domain"], adata.obs["m2st_domain"])
    for key, values in adata.obsm.items():
        np.testing.assert_array_equal(back.obsm[key], values)
    record = back.uns["m2st"]
    assert set(record) == {"graph", "prepare", "embed", "cluster"}
    restored = AutoencoderParams.from_dict(
        {**record["embed"]["params"], "scale_dims": tuple(record["embed"]["params"]["scale_dims"])}
    )
    assert restored == QUICK
    assert record["embed"]["stopped"] == "finished"
    assert len(record["embed"]["loss"]) == 8
    assert record["cluster"]["scale_weights"].sum() == pytest.approx(1)


def test_domains_are_better_than_k_means_without_space() -> None:
    from sklearn.cluster import KMeans

    scores = []
    for seed in range(2):
        adata = m2st.datasets.simulate_cortex(n_obs=800, n_genes=600, random_state=seed)
        m2st.run(adata, 7, progress=False, random_state=seed)
        plain = KMeans(7, n_init=5, random_state=seed).fit_predict(adata.obsm["X_pca"])
        truth = adata.obs["domain"]
        scores.append([m2st.metrics.ari(truth, x) for x in (adata.obs["m2st_domain"], plain)])
    ours, plain_score = np.mean(scores, axis=0)
    assert ours > plain_score + 0.1


def test_same_bits_with_one_or_two_threads(tmp_path: Path) -> None:
    code = (
        "import hashlib, m2st; from tests.test_tl import QUICK, ONCE;"
        "a = m2st.datasets.simulate_cortex(n_obs=600, n_genes=300);"
        "m2st.run(a, 5, autoencoder=QUICK, clustering=ONCE, progress=False);"
        "h = hashlib.sha256();"
        "[h.update(a.obsm[k].tobytes()) for k in sorted(a.obsm)];"
        "h.update(a.obs['m2st_domain'].cat.codes.to_numpy().tobytes());"
        "print(h.hexdigest())"
    )
    digests = []
    for threads in ("1", "2"):
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA")
        found = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parents[1],
            env=os.environ | {f"{name}_NUM_THREADS": threads for name in names},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(found.stdout.strip())
    assert len(digests[0]) == 2 * hashlib.sha256().digest_size
    assert digests[0] == digests[1]


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


def test_ready_features_are_taken_as_they_are(adata: anndata.AnnData) -> None:
    rng = np.random.default_rng(0)
    adata.obsm["mine"] = rng.normal(size=(200, 5))
    quick_run(adata, use_rep="mine")
    assert "X_pca" not in adata.obsm
    assert adata.uns["m2st"]["embed"]["use_rep"] == "mine"
    adata.X = sparse.csr_matrix(rng.normal(size=adata.shape))
    quick_run(adata, use_rep="X")
    assert adata.uns["m2st"]["embed"]["use_rep"] == "X"


def test_sections_are_not_joined(tmp_path: Path) -> None:
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


def test_observations_without_counts_have_no_domain(adata: anndata.AnnData) -> None:
    empty = [3, 50]
    counts = adata.X.tolil()
    counts[empty] = 0
    adata.X = counts.tocsr()
    with pytest.warns(UserWarning, match="2 of 200 observations have no counts"):
        quick_run(adata)
    missing = np.flatnonzero(adata.obs["m2st_domain"].isna())
    assert missing.tolist() == empty
    assert np.isnan(adata.obsm["X_m2st"][empty]).all()
    assert np.isnan(adata.obsm["X_m2st_scale1"][empty]).all()
    assert np.isfinite(np.delete(adata.obsm["X_m2st"], empty, axis=0)).all()
    assert adata.uns["m2st"]["cluster"]["n_unplaced"] == 2


def test_embedding_again_forgets_the_clustering(embedded: anndata.AnnData) -> None:
    m2st.tl.cluster(embedded, 3, ONCE)
    one_scale = AutoencoderParams(scale_dims=(8,), hidden_dim=16, n_epochs=2)
    m2st.tl.embed(embedded, one_scale, progress=False)
    assert "m2st_domain" not in embedded.obs
    assert not {"X_m2st", "X_m2st_scale2"} & set(embedded.obsm)
    assert "cluster" not in embedded.uns["m2st"]


def test_clustering_again_needs_no_training(embedded: anndata.AnnData) -> None:
    for n_domains in (2, 5):
        m2st.tl.cluster(embedded, n_domains, ONCE)
        assert embedded.obs["m2st_domain"].nunique() == n_domains


def test_a_saved_model_embeds_the_same_section_alike(
    adata: anndata.AnnData, tmp_path: Path
) -> None:
    m2st.pp.prepare(adata, n_pcs=10)
    m2st.pp.spatial_graph(adata)
    model = m2st.tl.embed(adata, QUICK, progress=False)
    trained = adata.obsm["X_m2st_scale1"].copy()
    model.save(tmp_path / "model.safetensors")
    other = adata.copy()
    del other.obsm["X_m2st_scale1"]
    m2st.tl.transform(other, m2st.MaskedGraphAutoencoder.load(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(other.obsm["X_m2st_scale1"], trained)
    m2st.tl.cluster(other, 3, ONCE)
    assert other.obs["m2st_domain"].nunique() == 3


def test_interrupted_run_is_marked(adata: anndata.AnnData) -> None:
    quick_run(adata, callback=lambda epoch, *_: epoch < 3)
    record = adata.uns["m2st"]["embed"]
    assert record["stopped"] == "interrupted"
    assert len(record["loss"]) == 3
    assert adata.obs["m2st_domain"].notna().all()


def test_a_failing_run_leaves_no_half_result(adata: anndata.AnnData) -> None:
    quick_run(adata)
    before = adata.obs["m2st_domain"].copy()

    def fail(*_: object) -> None:
        msg = "no more"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError, match="no more"):
        quick_run(adata, callback=fail)
    pd.testing.assert_series_equal(adata.obs["m2st_domain"], before)


def test_missing_steps_name_the_call_to_make(adata: anndata.AnnData) -> None:
    with pytest.raises(KeyError, match=r"Run `m2st.pp.prepare\(adata\)` first"):
        m2st.tl.embed(adata)
    m2st.pp.prepare(adata, n_pcs=5)
    with pytest.raises(KeyError, match=r"Run `m2st.pp.spatial_graph\(adata\)` first"):
        m2st.tl.embed(adata)
    with pytest.raises(KeyError, match=r"Run `m2st.tl.embed\(adata\)` first"):
        m2st.tl.cluster(adata, 3)


def test_bad_input(adata: anndata.AnnData) -> None:
    with pytest.raises(ValueError, match="no more `n_domains` than observations, 200, found 300"):
        quick_run(adata, 300)
    with pytest.raises(ValueError, match="together with `layer` or `normalized`"):
        quick_run(adata, use_rep="X", normalized=True)
    with pytest.raises(KeyError, match=r"Expected 'nowhere' in `adata.obs`"):
        quick_run(adata, sample_key="nowhere")
    with pytest.raises(KeyError, match=r"Expected 'nowhere' in `adata.layers`"):
        quick_run(adata, layer="nowhere")
    with pytest.raises(KeyError, match=r"Expected 'nowhere' in `adata.obsm`"):
        quick_run(adata, use_rep="nowhere")
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
