from __future__ import annotations

import random
from functools import cache

import anndata as ad
import numpy as np
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

from m2st.datasets import _simulated, simulate_cortex

PITCH = 200.0  # pixels


def lattice_neighbors(adata: ad.AnnData) -> sparse.csr_array:
    """First ring of the hexagonal lattice, from the pixel coordinates."""
    pairs = cKDTree(adata.obsm["spatial"]).query_pairs(1.1 * PITCH, output_type="ndarray")
    one_way = sparse.coo_array((np.ones(len(pairs)), pairs.T), shape=(adata.n_obs, adata.n_obs))
    return (one_way + one_way.T).tocsr()


@cache
@threadpool_limits.wrap(limits=1)
def agreement(random_state: int, difficulty: float = 0.5) -> dict[str, float]:
    """ARI with the planted domains of clustering without and with space, and of an oracle."""
    adata = simulate_cortex(difficulty=difficulty, random_state=random_state)
    truth = adata.obs["domain"].cat.codes.to_numpy()
    one_hop = lattice_neighbors(adata) + sparse.eye_array(adata.n_obs, format="csr")
    one_hop = sparse.diags_array(1 / one_hop.sum(axis=1)) @ one_hop
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    sc.pp.scale(adata, max_value=10)
    sc.pp.pca(adata, n_comps=50, random_state=0)
    features = adata.obsm["X_pca"]
    smooth = one_hop @ (one_hop @ (one_hop @ features))
    kmeans = KMeans(7, n_init=5, random_state=0)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    folds = KFold(5, shuffle=True, random_state=0)
    labels = {
        "without_space": kmeans.fit_predict(features),
        "with_space": kmeans.fit_predict(smooth),
        "oracle": cross_val_predict(oracle, smooth, truth, cv=folds),
    }
    return {name: adjusted_rand_score(truth, found) for name, found in labels.items()}


def mean_agreement(method: str, difficulty: float = 0.5) -> float:
    return float(np.mean([agreement(seed, difficulty)[method] for seed in range(3)]))


def test_default_is_not_easy() -> None:
    assert mean_agreement("without_space") < 0.35
    assert 0.45 < mean_agreement("with_space") < 0.75
    assert mean_agreement("oracle") >= 0.9
    assert all(agreement(s)["with_space"] > agreement(s)["without_space"] + 0.1 for s in range(3))


def test_difficulty_orders_the_task() -> None:
    reached = [agreement(0, difficulty)["with_space"] for difficulty in (0.0, 0.5, 0.75, 1.0)]
    assert reached[0] >= 0.85
    assert reached == sorted(reached, reverse=True)
    assert reached[-1] < 0.15


def test_slots() -> None:
    adata = simulate_cortex()
    assert adata.shape == (2000, 2000)
    assert sparse.issparse(adata.X)
    assert adata.X.format == "csr"
    assert adata.X.dtype == np.float32
    assert (adata.X.data > 0).all()
    assert (adata.X.data == np.floor(adata.X.data)).all()
    assert set(adata.obs) == {"in_tissue", "array_row", "array_col", "sample", "domain"}
    assert list(adata.obs["domain"].cat.categories) == ["L1", "L2", "L3", "L4", "L5", "L6", "WM"]
    assert adata.obs["domain"].cat.ordered
    assert list(adata.obs["sample"].cat.categories) == ["section1"]
    assert (adata.obs["in_tissue"] == 1).all()
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    scales = adata.uns["spatial"]["section1"]["scalefactors"]
    assert scales["spot_diameter_fullres"] == pytest.approx(110)
    assert adata.obsm["spatial"].max() * scales["tissue_hires_scalef"] < 2000
    assert adata.uns["simulation"] == {
        "function": "m2st.datasets.simulate_cortex",
        "n_obs": 2000,
        "n_genes": 2000,
        "n_domains": 7,
        "difficulty": 0.5,
        "n_samples": 1,
        "batch_shift": 0.0,
        "random_state": 0,
    }


def test_spots_lie_on_a_visium_lattice() -> None:
    adata = simulate_cortex(1500, 100, random_state=3)
    row, col = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all()
    expected = PITCH * np.column_stack([col / 2, row * np.sqrt(3) / 2])
    offset = adata.obsm["spatial"] - expected
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-6)
    degree = np.diff(lattice_neighbors(adata).indptr)
    assert degree.max() == 6
    assert np.median(degree) == 6
    # A hole and missing spots: inside the outline not every place is taken.
    width = [np.ptp(col[row == r]) / 2 + 1 for r in np.unique(row)]
    assert sum(width) > adata.n_obs + 10


def test_depth_of_sequencing_is_realistic_and_smooth() -> None:
    adata = simulate_cortex()
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    assert 1500 < np.median(totals) < 3000
    assert 0.4 < 1 - adata.X.nnz / np.prod(adata.shape) < 0.8
    ring = lattice_neighbors(adata)
    around = (ring @ np.log(totals)) / np.maximum(np.diff(ring.indptr), 1)
    assert np.corrcoef(np.log(totals), around)[0, 1] > 0.3


def test_layers_follow_depth() -> None:
    section = _simulated._draw_section(3000, 7, np.random.default_rng(0))
    assert np.array_equal(np.sort(section.domain), section.domain[np.argsort(section.depth)])
    np.testing.assert_allclose(section.membership.sum(axis=1), 1)
    assert (section.membership >= 0).all()
    assert (section.membership.argmax(axis=1) == section.domain).mean() > 0.98
    sizes = np.bincount(section.domain)
    assert sizes.max() > 1.5 * sizes.min()
    # Next to a smooth border (L1|L2) far more spots are mixed than next to a sharp one (L6|WM).
    mixed = [
        ((section.membership[:, k] > 0.05) & (section.membership[:, k + 1] > 0.05)).sum()
        for k in range(6)
    ]
    assert min(mixed[0::2]) > 2 * max(mixed[1::2])


def test_membership_by_hand() -> None:
    section = _simulated._draw_section(2000, 2, np.random.default_rng(1))
    border = (
        section.depth[section.domain == 0].max() + section.depth[section.domain == 1].min()
    ) / 2
    np.testing.assert_allclose(
        section.membership[:, 1], 1 / (1 + np.exp(-(section.depth - border) / 0.01)), atol=1e-9
    )


def test_counts_follow_the_stated_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """One housekeeping profile everywhere: moments and zeros from the formula."""
    monkeypatch.setattr(_simulated, "smooth_field", lambda p, rng, *, wavelength: np.zeros(len(p)))
    monkeypatch.setattr(_simulated, "_CHUNK_ENTRIES", 70_000)  # 10,000 rows: three chunks
    n, share = 25_000, np.array([0.5, 0.3, 0.1, 0.05, 0.03, 0.015, 0.005])
    size = np.array([4.0, 6.0, 8.0, 5.0, 3.0, 6.0, 6.0])
    section = _simulated._Section(
        lattice=np.zeros((n, 2), dtype=np.int64),
        pixels=np.zeros((n, 2)),
        position=np.zeros((n, 2)),
        depth=np.zeros(n),
        domain=np.zeros(n, dtype=np.int64),
        membership=np.tile([1.0, 0.0], (n, 1)),
    )
    genes = _simulated._Genes(
        ["housekeeping"] * 7, np.log(share), np.zeros((6, 7)), np.zeros((6, 7)), size
    )
    chunks = _simulated._draw_counts(section, genes, np.random.default_rng(0))
    assert [chunk.shape[0] for chunk in chunks] == [10_000, 10_000, 5_000]
    counts = sparse.vstack(chunks).toarray()

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights[:, None] / weights.sum()
    mu = 1.1 * 7 * np.exp(0.3 * nodes)[:, None] * share
    kept = 1 - 0.3 * np.exp(-mu)
    zero = (size / (size + mu)) ** size
    first = (weights * kept * mu).sum(axis=0)
    second = (weights * kept * (mu + mu**2 * (1 + 1 / size))).sum(axis=0)
    np.testing.assert_allclose(counts.mean(axis=0), first, rtol=0.15, atol=0.01)
    np.testing.assert_allclose(counts[:, :3].mean(axis=0), first[:3], rtol=0.02)
    np.testing.assert_allclose((counts[:, :3] ** 2).mean(axis=0), second[:3], rtol=0.05)
    expected_zeros = (weights * (zero + (1 - zero) * (1 - kept))).sum(axis=0)
    np.testing.assert_allclose((counts == 0).mean(axis=0), expected_zeros, atol=0.01)


@pytest.mark.parametrize("difficulty", [0.0, 0.25, 1.0])
def test_difficulty_scales_signal_and_nuisance(difficulty: float) -> None:
    def draw(value: float) -> _simulated._Genes:
        rng = np.random.default_rng(5)
        return _simulated._draw_genes(300, ["L1", "L2", "WM"], difficulty=value, rng=rng)

    genes, middle = draw(difficulty), draw(0.5)
    signal, nuisance = 2 * (1 - difficulty), 2 * difficulty
    np.testing.assert_allclose(genes.cell_types[:3], signal * middle.cell_types[:3])
    np.testing.assert_allclose(genes.cell_types[3:], nuisance * middle.cell_types[3:])
    np.testing.assert_allclose(genes.loadings[:1], signal * middle.loadings[:1])
    np.testing.assert_allclose(genes.loadings[1:], nuisance * middle.loadings[1:])
    np.testing.assert_array_equal(genes.baseline, middle.baseline)


def test_modules_respond_to_what_they_are_named_after() -> None:
    adata = simulate_cortex(4000, 1000, difficulty=0, random_state=2)
    module, domain = adata.var["module"].to_numpy(), adata.obs["domain"]
    layers = list(domain.cat.categories)
    sums = np.stack([np.asarray(adata[domain == k].X.sum(axis=0)).ravel() for k in layers])
    # Shares of all counts depend on every gene; ratios to the housekeeping genes do not.
    profiles = sums / sums[:, module == "housekeeping"].sum(axis=1, keepdims=True)
    profiles /= profiles.mean(axis=0)
    for k, layer in enumerate(layers):
        marked = profiles[:, module == layer].mean(axis=1)
        assert marked.argmax() == k
        assert marked[k] > 1.5 * marked[(k + 3) % 7]
    flat = profiles[:, (module == "housekeeping") & (sums.min(axis=0) > 300)]
    assert flat.shape[1] > 50
    assert np.abs(flat - 1).max() < 0.3


def test_sections() -> None:
    adata = simulate_cortex(1001, 200, n_domains=4, n_samples=3)
    assert adata.obs["sample"].value_counts(sort=False).tolist() == [334, 334, 333]
    assert adata.obs_names.is_unique
    assert list(adata.uns["spatial"]) == ["section1", "section2", "section3"]
    sections = [adata[adata.obs["sample"] == name] for name in adata.obs["sample"].cat.categories]
    boxes = [(s.obsm["spatial"].min(axis=0), s.obsm["spatial"].max(axis=0)) for s in sections]
    for low, high in boxes[1:]:
        assert (np.maximum(low, boxes[0][0]) + 5 * PITCH < np.minimum(high, boxes[0][1])).all()
    places = [set(zip(s.obs["array_row"], s.obs["array_col"], strict=True)) for s in sections]
    assert places[0] != places[1] != places[2]
    assert len(np.unique(adata.obsm["spatial"], axis=0)) == adata.n_obs
    assert all(s.obs["domain"].nunique() == 4 for s in sections)


@pytest.mark.parametrize("batch_shift", [0.0, 0.5])
def test_batch_shift_has_the_size_asked(batch_shift: float) -> None:
    adata = simulate_cortex(1000, 600, n_domains=3, n_samples=2, batch_shift=batch_shift)
    sums = np.stack(
        [
            np.asarray(adata[adata.obs["sample"] == name].X.sum(axis=0)).ravel()
            for name in ("section1", "section2")
        ]
    )
    steady = (adata.var["module"] == "housekeeping").to_numpy() & (sums.min(axis=0) > 200)
    observed = np.log(sums[1, steady] / sums[0, steady]).std()
    assert observed == pytest.approx(np.sqrt(2) * batch_shift, abs=0.1)


def test_same_seed_same_bits_and_no_global_randomness() -> None:
    before = np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002  the caller's
    first, second = (simulate_cortex(300, 100, n_samples=2, random_state=4) for _ in range(2))
    after = np.random.get_state()[1], random.getstate()  # noqa: NPY002
    assert np.array_equal(before[0], after[0])
    assert before[1] == after[1]
    assert (first.X != second.X).nnz == 0
    assert first.obs.equals(second.obs)
    assert np.array_equal(first.obsm["spatial"], second.obsm["spatial"])
    other = simulate_cortex(300, 100, n_samples=2, random_state=5)
    assert (first.X != other.X).nnz > 0
    assert not np.array_equal(first.obs["domain"], other.obs["domain"])


def test_h5ad_round_trip(tmp_path) -> None:
    adata = simulate_cortex(300, 100, n_samples=2, batch_shift=0.2)
    adata.write_h5ad(tmp_path / "cortex.h5ad")
    back = ad.read_h5ad(tmp_path / "cortex.h5ad")
    assert back.uns["simulation"] == adata.uns["simulation"]
    assert back.uns["spatial"] == adata.uns["spatial"]
    assert back.obs.equals(adata.obs)
    assert back.var.equals(adata.var)
    assert (back.X != adata.X).nnz == 0


@given(
    n_domains=st.integers(2, 12),
    n_samples=st.integers(1, 3),
    extra=st.integers(0, 100),
    difficulty=st.floats(0, 1),
    random_state=st.integers(0, 2**32 - 1),
)
def test_any_size_works(
    n_domains: int, n_samples: int, extra: int, difficulty: float, random_state: int
) -> None:
    adata = simulate_cortex(
        10 * n_domains * n_samples + extra,
        10 * n_domains + extra,
        n_domains,
        difficulty=difficulty,
        n_samples=n_samples,
        random_state=random_state,
    )
    assert adata.shape == (10 * n_domains * n_samples + extra, 10 * n_domains + extra)
    assert list(adata.obs["domain"].cat.categories) == [
        *(f"L{k}" for k in range(1, n_domains)),
        "WM",
    ]
    assert (adata.obs.groupby("sample", observed=False)["domain"].nunique() == n_domains).all()
    assert adata.obs_names.is_unique
    assert np.isfinite(adata.X.data).all()
    assert adata.var["module"].notna().all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_domains": 1}, ValueError, "Expected `n_domains` to be at least 2, found 1"),
        ({"n_domains": 2.5}, TypeError, "Expected `n_domains` to be a whole number, found 2.5"),
        ({"n_samples": 0}, ValueError, "Expected `n_samples` to be at least 1, found 0"),
        ({"n_obs": 69}, ValueError, "Expected `n_obs` to be at least 70, found 69"),
        ({"n_obs": 139, "n_samples": 2}, ValueError, "Expected `n_obs` to be at least 140"),
        ({"n_genes": 69}, ValueError, "Expected `n_genes` to be at least 70, found 69"),
        ({"difficulty": 1.1}, ValueError, r"Expected `difficulty` in \[0, 1\], found 1.1"),
        ({"difficulty": "hard"}, TypeError, r"Expected `difficulty` in \[0, 1\], found 'hard'"),
        ({"difficulty": float("nan")}, ValueError, r"Expected `difficulty` in \[0, 1\], found nan"),
        ({"batch_shift": -0.1}, ValueError, r"Expected `batch_shift` in \[0, 5\], found -0.1"),
        ({"random_state": -1}, ValueError, "Expected `random_state` to be at least 0, found -1"),
        ({"random_state": None}, TypeError, "Expected `random_state` to be a whole number"),
    ],
)
def test_bad_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate_cortex(**arguments)
