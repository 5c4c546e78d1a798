"""How well planted domains are recovered: thresholds, and a run at the defaults for each."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

import m2st
from m2st import AutoencoderParams

# What is recovered is asked here, not whether members fall into camps.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Two solutions:UserWarning")]


@pytest.mark.parametrize("seed", range(3))
def test_domains_are_better_than_k_means_without_space(seed: int) -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=800, n_genes=600, random_state=seed)
    m2st.run(adata, 7, random_state=seed, progress=False)
    plain = KMeans(7, n_init=5, random_state=seed).fit_predict(adata.obsm["X_m2st_pca"])
    truth = adata.obs["domain"]
    ours = m2st.metrics.ari(truth, adata.obs["m2st_domain"])
    assert ours > m2st.metrics.ari(truth, plain) + 0.2


def test_sections_with_a_batch_shift_are_labelled_alike() -> None:
    adata = m2st.datasets.simulate_cortex(
        n_obs=1000, n_genes=400, n_domains=5, n_samples=2, batch_shift=0.5, random_state=1
    )
    two = AutoencoderParams(n_members=2)
    truth = adata.obs["domain"]
    m2st.run(adata, 5, autoencoder=two, sample_key="sample", progress=False)
    together = m2st.metrics.ari(truth, adata.obs["m2st_domain"])
    m2st.pp.prepare(adata)
    m2st.tl.embed(adata, two, progress=False)
    with pytest.warns(UserWarning, match="keep domains of their own"):  # the shift stays
        m2st.tl.cluster(adata, 5)
    assert together > m2st.metrics.ari(truth, adata.obs["m2st_domain"]) + 0.2
    for name in adata.obs["sample"].unique():
        rows = (adata.obs["sample"] == name).to_numpy()
        part = anndata.AnnData(adata.X[rows], obsm={"spatial": adata.obsm["spatial"][rows]})
        m2st.run(part, 5, autoencoder=two, progress=False)
        alone = m2st.metrics.ari(truth[rows].to_numpy(), part.obs["m2st_domain"].to_numpy())
        assert together >= 0.9 * alone


def test_number_of_domains_is_found() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=1000, n_genes=400, n_domains=4, random_state=2)
    params = AutoencoderParams(n_members=3)
    m2st.run(adata, "auto", autoencoder=params, progress=False)
    record = adata.uns["m2st"]["n_domains"]
    assert abs(record["chosen"] - 4) <= 1
    assert record["chosen"] == record["candidates"][record["score"].argmax()]
    assert record["p_value"] < 0.01
    assert adata.obs["m2st_domain"].nunique() == record["chosen"]
    assert record["stability"].shape == record["gain"].shape == record["candidates"].shape


def test_confidence_is_lower_without_structure() -> None:
    found = {}
    for kind in ("layers", "noise"):
        adata = m2st.datasets.simulate_cortex(800, 400, 5, random_state=2)
        if kind == "noise":
            noise = np.random.default_rng(0).poisson(1.0, size=adata.shape)
            adata.X = sparse.csr_matrix(noise.astype(np.float32))
        m2st.run(adata, 5, progress=False)
        found[kind] = adata.obs["m2st_confidence"].median()
    assert found["layers"] > 0.95
    assert found["noise"] < 0.8


def test_another_section_gets_the_domains_of_the_first() -> None:
    """Two sections that share their components."""
    both = m2st.datasets.simulate_cortex(
        n_obs=1000, n_genes=400, n_domains=4, n_samples=2, random_state=2
    )
    m2st.pp.spatial_graph(both, sample_key="sample")
    m2st.pp.prepare(both)
    one = (both.obs["sample"] == both.obs["sample"].iloc[0]).to_numpy()
    halves = first, second = [both[rows].copy() for rows in (one, ~one)]
    models = m2st.tl.embed(first, AutoencoderParams(n_members=2), progress=False)
    clusterings = m2st.tl.cluster(first, 4)
    m2st.tl.transform(second, models, clusterings)
    found = pd.concat([half.obs["m2st_domain"] for half in halves])
    truth = pd.concat([half.obs["domain"] for half in halves])
    assert second.obs["m2st_domain"].cat.categories.tolist() == ["1", "2", "3", "4"]
    assert second.obs["m2st_confidence"].between(0, 1).all()
    assert m2st.metrics.ari(truth, found) > 0.6
    m2st.tl.transform(first, models, clusterings)
    again = first.obs["m2st_domain"].to_numpy()
    assert (again == found[first.obs_names].to_numpy()).mean() > 0.97
    with pytest.raises(ValueError, match="a clustering for each of the 2 models, found 1"):
        m2st.tl.transform(second, models, clusterings[:1])


def test_confidence_is_the_share_of_other_runs_that_agree() -> None:
    adata = m2st.datasets.simulate_cortex(1400, 400, 7, random_state=2)
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    codes = []
    for seed in (1, 0):
        m2st.tl.embed(
            adata, AutoencoderParams(n_members=4, n_epochs=40), random_state=seed, progress=False
        )
        m2st.tl.cluster(adata, 7, random_state=seed)
        codes.append(adata.obs["m2st_domain"].cat.codes.to_numpy())
    table = np.zeros((7, 7))
    np.add.at(table, tuple(codes), 1)
    _, match = linear_sum_assignment(table, maximize=True)
    agrees = match[codes[0]] == codes[1]
    sure = adata.obs["m2st_confidence"].to_numpy()
    assert abs(sure.mean() - agrees.mean()) < 0.03
    assert agrees[sure >= 0.95].mean() > 0.98
    unsure = (sure >= 0.5) & (sure < 0.8)
    assert unsure.sum() > 30
    assert 0.45 < agrees[unsure].mean() < 0.9
