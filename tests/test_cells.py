from __future__ import annotations

import random
from functools import cache

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import KFold, cross_val_predict
from threadpoolctl import threadpool_limits

from m2st.datasets import _cells, simulate_cells


def shares(adata: ad.AnnData) -> pd.DataFrame:
    """Observed share of each cell type (columns) in each domain (rows)."""
    return pd.crosstab(adata.obs["domain"], adata.obs["cell_type"], normalize="index", dropna=False)


def profiles(adata: ad.AnnData, key: str) -> np.ndarray:
    """Sum of the counts (rows: values of a column of ``obs``)."""
    values = adata.obs[key].cat.categories
    return np.stack(
        [np.asarray(adata[adata.obs[key] == value].X.sum(axis=0)).ravel() for value in values]
    )


@cache
@threadpool_limits.wrap(limits=1)
def agreement(random_state: int, mixing: float = 0.2) -> dict[str, float]:
    """ARI with the planted domains of clustering without and with space, and of an oracle."""
    adata = simulate_cells(mixing=mixing, random_state=random_state)
    truth = adata.obs["domain"].cat.codes.to_numpy()
    _, near = cKDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], 21)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=15, random_state=0)
    features = adata.obsm["X_pca"]
    smooth = features[near].mean(axis=1)
    kmeans = KMeans(7, n_init=5, random_state=0)
    folds = KFold(5, shuffle=True, random_state=0)
    labels = {
        "without_space": kmeans.fit_predict(features),
        "with_space": kmeans.fit_predict(smooth),
        "oracle": cross_val_predict(LinearDiscriminantAnalysis(), smooth, truth, cv=folds),
    }
    return {name: adjusted_rand_score(truth, found) for name, found in labels.items()}


def test_default_is_as_hard_as_stated() -> None:
    for seed in range(3):
        found = agreement(seed)
        assert found["without_space"] < 0.25
        assert 0.35 < found["with_space"] < 0.7
        assert found["oracle"] > 0.7


def test_mixing_orders_the_task() -> None:
    reached = [agreement(0, mixing)["with_space"] for mixing in (0.0, 0.4, 0.8, 1.0)]
    assert reached == sorted(reached, reverse=True)
    assert reached[0] > 0.45
    assert reached[-1] < 0.12


def test_slots() -> None:
    adata = simulate_cells()
    assert adata.shape == (3000, 120)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert (adata.X.data > 0).all()
    assert (adata.X.data == np.floor(adata.X.data)).all()
    assert set(adata.obs) == {"sample", "domain", "cell_type"}
    layers = [f"layer{k}" for k in range(1, 6)]
    assert list(adata.obs["domain"].cat.categories) == [*layers, "niche1", "niche2"]
    assert list(adata.obs["cell_type"].cat.categories) == [
        *(f"local{k}" for k in range(1, 6)),
        *(f"common{c}" for c in range(1, 7)),
    ]
    assert adata.obs_names.is_unique
    assert adata.obsm["spatial"].dtype == np.float64
    record = dict(adata.uns["simulation"])
    composition = record.pop("composition")
    assert list(composition.index) == list(adata.obs["domain"].cat.categories)
    assert list(composition.columns) == list(adata.obs["cell_type"].cat.categories)
    assert record == {
        "function": "m2st.datasets.simulate_cells",
        "n_obs": 3000,
        "n_genes": 120,
        "n_domains": 7,
        "n_niches": 2,
        "mixing": 0.2,
        "main_share": 0.35,
        "n_samples": 1,
        "batch_shift": 0.0,
        "missing_layer": False,
        "random_state": 0,
    }


def test_composition_by_hand() -> None:
    found = _cells._compositions(3, 1, 0.0)
    common = np.array([0.30, 0.24, 0.18, 0.12, 0.09, 0.07])
    main = np.array([0.25, 1, 0.25]) / 1.5
    np.testing.assert_allclose(found[0], [0.8 / 1.25, 0.2 / 1.25, 0, *(0.2 * common)])
    np.testing.assert_allclose(found[1], [*(0.8 * main), *(0.2 * common)])
    tilt = np.array([0.5, 0.25, 0, 0, 0, 0])
    np.testing.assert_allclose(found[3], [*(0.2 * main), *(0.05 * common + tilt)])
    shared = np.append(np.zeros(3), common)
    np.testing.assert_allclose(_cells._compositions(3, 1, 0.4), 0.6 * found + 0.4 * shared)


def test_types_have_the_shares_of_the_record() -> None:
    adata = simulate_cells(40_000, 30, random_state=1)
    asked = adata.uns["simulation"]["composition"]
    np.testing.assert_allclose(asked.sum(axis=1), 1)
    found = shares(adata)
    cells = adata.obs["domain"].value_counts(sort=False).to_numpy()[:, None]
    assert (np.abs(found - asked) < 4.5 * np.sqrt(asked * (1 - asked) / cells) + 1e-12).all(
        axis=None
    )


def test_niches_have_the_types_of_their_layer_in_other_shares() -> None:
    adata = simulate_cells(40_000, 30, n_niches=3, random_state=2)
    asked, found = adata.uns["simulation"]["composition"], shares(adata)
    for table in (asked, found):
        main = table.loc["layer3"]  # of four layers
        for niche in ("niche1", "niche2", "niche3"):
            assert ((table.loc[niche] > 0) == (main > 0)).all()
            assert np.abs(table.loc[niche] - main).sum() > 0.5
        assert np.abs(table.loc["niche1"] - table.loc["niche2"]).sum() > 0.3
        assert (table > 0).all(axis=0)[[f"common{c}" for c in range(1, 7)]].all()  # types shared
        assert not (table > 0).all(axis=None)  # types of some layers only


def test_expression_depends_on_the_type_and_not_on_the_domain() -> None:
    adata = simulate_cells(30_000, 60, random_state=3)
    steady = ~adata.var["module"].isin(["field", "activity"]).to_numpy()
    kind = adata[adata.obs["cell_type"] == "common1", steady].copy()
    sums = profiles(kind[kind.obs["domain"].isin(["layer1", "layer3", "niche1"])].copy(), "domain")
    rates = sums / sums.sum(axis=1, keepdims=True)
    often = sums.min(axis=0) > 300
    assert often.sum() > 20
    assert np.abs(np.log(rates[:, often] / rates[0, often])).max() < 0.3


def test_markers_mark_their_type() -> None:
    adata = simulate_cells(6000, 200, random_state=4)
    sums = profiles(adata, "cell_type")
    rates = sums / sums[:, adata.var["module"] == "housekeeping"].sum(axis=1, keepdims=True)
    rates /= rates.mean(axis=0)
    for c, kind in enumerate(adata.obs["cell_type"].cat.categories):
        marked = rates[:, adata.var["module"] == kind].mean(axis=1)
        assert marked.argmax() == c
        assert marked[c] > 1.5 * np.sort(marked)[-2]


def test_counts_follow_the_stated_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cells, "_CHUNK_ENTRIES", 60_000)  # 10,000 rows: three chunks
    n, share = 25_000, np.array([0.5, 0.3, 0.1, 0.05, 0.03, 0.02])
    size = np.array([4.0, 6.0, 8.0, 5.0, 3.0, 6.0])
    genes = _cells._Genes(["housekeeping"] * 6, np.log(share)[None], np.zeros((2, 6)), size)
    places = np.random.default_rng(1).random((n, 2))
    kind = np.zeros(n, dtype=np.int64)
    chunks = _cells._draw_counts(places, kind, np.array([0.2]), genes, np.random.default_rng(0))
    assert [chunk.shape[0] for chunk in chunks] == [10_000, 10_000, 5_000]
    counts = sparse.vstack(chunks).toarray()
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    mu = 150 * np.exp(0.2 + 0.4 * nodes)[:, None] * share
    weights = weights[:, None] / weights.sum()
    np.testing.assert_allclose(counts.mean(axis=0), (weights * mu).sum(axis=0), rtol=0.03)
    second = (weights * (mu + mu**2 * (1 + 1 / size))).sum(axis=0)
    np.testing.assert_allclose((counts**2).mean(axis=0), second, rtol=0.06)


def test_counts_of_a_cell_do_not_depend_on_the_panel() -> None:
    for n_genes in (30, 500):
        totals = np.asarray(simulate_cells(1000, n_genes).X.sum(axis=1)).ravel()
        assert 100 < np.median(totals) < 220


def test_cells_lie_at_irregular_places() -> None:
    places = simulate_cells(4000, 30).obsm["spatial"]
    tree = cKDTree(places)
    nearest = tree.query(places, 2)[0][:, 1]
    assert nearest.min() > 1.9  # µm
    assert 5 < np.median(nearest) < 10
    assert nearest.std() > 0.1 * nearest.mean()
    around = tree.query(places, 31)[0][:, 30]
    assert np.quantile(around, 0.95) > 1.3 * np.quantile(around, 0.05)  # density differs


@pytest.mark.parametrize("main_share", [0.1, 0.35, 0.6])
def test_domains_have_the_sizes_asked(main_share: float) -> None:
    adata = simulate_cells(3000, 30, main_share=main_share, n_samples=2)
    for _, obs in adata.obs.groupby("sample", observed=True):
        cells = obs["domain"].value_counts(sort=False)
        assert cells["layer3"] == round(main_share * 1500)
        assert cells["niche1"] == cells["niche2"] == 60
        others = cells[["layer1", "layer2", "layer4", "layer5"]]
        assert others.max() > 1.8 * others.min()
    first, second = (
        adata[adata.obs["sample"] == name].obs["domain"].value_counts(sort=False)
        for name in ("section1", "section2")
    )
    assert (first != second).any()


def test_niches_are_patches_in_the_main_layer() -> None:
    adata = simulate_cells(5000, 30)
    places, domain = adata.obsm["spatial"], adata.obs["domain"].to_numpy()
    for niche in ("niche1", "niche2"):
        own = places[domain == niche]
        _, near = cKDTree(places).query(own, 9)
        around = domain[near[:, 1:]]
        assert (around == niche).mean() > 0.6
        assert (around[around != niche] == "layer3").mean() > 0.8


def test_layers_are_connected_bands() -> None:
    adata = simulate_cells(5000, 30, n_niches=0)
    places, domain = adata.obsm["spatial"], adata.obs["domain"].cat.codes.to_numpy()
    _, near = cKDTree(places).query(places, 7)
    step = np.abs(domain[near[:, 1:]] - domain[:, None])
    assert (step > 1).mean() < 0.03


@pytest.mark.parametrize("batch_shift", [0.0, 0.4])
def test_batch_shift_has_the_size_asked(batch_shift: float) -> None:
    adata = simulate_cells(20_000, 300, n_samples=2, batch_shift=batch_shift, random_state=5)
    common = adata.obs["cell_type"].cat.categories.str.startswith("common")
    counts, totals = [], []
    for name in ("section1", "section2"):
        part = adata[adata.obs["sample"] == name].copy()
        counts.append(profiles(part, "cell_type")[common])
        totals.append(part.X.sum() / part.n_obs)
    steady = (adata.var["module"] != "field").to_numpy()
    steady &= np.minimum(*counts).min(axis=0) > 60
    assert steady.sum() > 60
    change = np.log(counts[1] / counts[0])[:, steady]
    change -= change.mean(axis=1, keepdims=True)  # depth
    gene = change.mean(axis=0)
    assert gene.std() == pytest.approx(np.sqrt(2 * (1 + 0.25 / 6)) * batch_shift, abs=0.1)
    assert (change - gene).std() == pytest.approx(np.sqrt(0.5) * batch_shift, abs=0.12)
    assert abs(np.log(totals[1] / totals[0])) > 0.25 * batch_shift - 1e-9


def test_the_last_section_can_lack_a_layer() -> None:
    adata = simulate_cells(2001, 40, n_samples=3, missing_layer=True)
    cells = pd.crosstab(adata.obs["sample"], adata.obs["domain"])
    assert cells.sum(axis=1).tolist() == [667, 667, 667]
    assert cells.loc["section3", "layer5"] == 0
    assert (cells.drop(columns="layer5") > 0).all(axis=None)
    assert (cells.loc[["section1", "section2"], "layer5"] > 0).all()


def test_same_seed_same_bits_and_no_global_randomness() -> None:
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002  the caller's
    first, second = (simulate_cells(400, 40, n_samples=2, random_state=4) for _ in range(2))
    after = np.random.get_state()[1], random.getstate()  # noqa: NPY002
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    assert np.array_equal(first.obsm["spatial"], second.obsm["spatial"])
    other = simulate_cells(400, 40, n_samples=2, random_state=5)
    assert (first.X != other.X).nnz > 0
    assert not np.array_equal(first.obs["domain"], other.obs["domain"])


def test_h5ad_round_trip(tmp_path) -> None:
    adata = simulate_cells(400, 40, n_samples=2, batch_shift=0.2)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    back = ad.read_h5ad(tmp_path / "cells.h5ad")
    kept, record = dict(back.uns["simulation"]), dict(adata.uns["simulation"])
    pd.testing.assert_frame_equal(kept.pop("composition"), record.pop("composition"))
    assert kept == record
    assert back.obs.equals(adata.obs)
    assert back.var.equals(adata.var)
    assert (back.X != adata.X).nnz == 0


@given(
    n_layers=st.integers(2, 14),
    n_niches=st.integers(0, 6),
    n_samples=st.integers(1, 3),
    extra=st.integers(0, 100),
    mixing=st.floats(0, 1),
    main_share=st.floats(0.1, 0.6),
    random_state=st.integers(0, 2**32 - 1),
)
def test_any_size_works(
    n_layers: int,
    n_niches: int,
    n_samples: int,
    extra: int,
    mixing: float,
    main_share: float,
    random_state: int,
) -> None:
    n_domains = n_layers + n_niches
    n_obs, n_genes = 20 * n_domains * n_samples + extra, 2 * (n_layers + 6) + extra
    missing = n_samples > 1 and n_layers > 2
    adata = simulate_cells(
        n_obs,
        n_genes,
        n_domains,
        n_niches=n_niches,
        mixing=mixing,
        main_share=main_share,
        n_samples=n_samples,
        missing_layer=missing,
        random_state=random_state,
    )
    assert adata.shape == (n_obs, n_genes)
    cells = pd.crosstab(adata.obs["sample"], adata.obs["domain"], dropna=False).to_numpy()
    assert (cells == 0).sum() == missing
    assert cells[cells > 0].min() >= 3
    assert adata.obs_names.is_unique
    assert np.isfinite(adata.X.data).all()
    assert adata.var["module"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_domains": 1}, ValueError, "Expected `n_domains` to be at least 2, found 1"),
        ({"n_domains": 2.5}, TypeError, "Expected `n_domains` to be a whole number, found 2.5"),
        ({"n_niches": -1}, ValueError, "Expected `n_niches` to be at least 0, found -1"),
        ({"n_niches": 6}, ValueError, "Expected at most 5 niches of 7 domains, found `n_niches=6`"),
        ({"n_domains": 10, "n_niches": 7}, ValueError, "Expected at most 6 niches of 10 domains"),
        ({"n_samples": 0}, ValueError, "Expected `n_samples` to be at least 1, found 0"),
        ({"n_obs": 139}, ValueError, "Expected `n_obs` to be at least 140, found 139"),
        ({"n_genes": 21}, ValueError, "Expected `n_genes` to be at least 22, found 21"),
        ({"mixing": 1.1}, ValueError, r"Expected `mixing` in \[0, 1\], found 1.1"),
        ({"main_share": 0.7}, ValueError, r"Expected `main_share` in \[0.1, 0.6\], found 0.7"),
        ({"main_share": None}, TypeError, r"Expected `main_share` in \[0.1, 0.6\], found None"),
        ({"batch_shift": -0.1}, ValueError, r"Expected `batch_shift` in \[0, 5\], found -0.1"),
        (
            {"missing_layer": True},
            ValueError,
            "Expected at least two sections and three layers with `missing_layer=True`, found "
            "`n_samples=1` and 5 layers",
        ),
        ({"random_state": -1}, ValueError, "Expected `random_state` to be at least 0, found -1"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate_cells(**arguments)
