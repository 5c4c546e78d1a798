"""Domains within domains: the tree over them, groups that it joins, parts of one."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from scipy.cluster import hierarchy

import m2st
from m2st import AutoencoderParams, ClusteringParams
from m2st._clustering import cut_tree, domain_tree

QUICK = AutoencoderParams(n_members=2, scale_dims=(8, 4), hidden_dim=16, n_epochs=6)
ONCE = ClusteringParams(n_init=2)


@pytest.fixture(scope="module")
def found() -> ad.AnnData:
    adata = m2st.datasets.simulate_cortex(n_obs=240, n_genes=100, n_domains=4)
    adata.obs["in_tissue"] = np.arange(240) > 1
    with pytest.warns(UserWarning, match="2 of 240 observations"):
        m2st.run(adata, 4, autoencoder=QUICK, clustering=ONCE, progress=False)
    return adata


@pytest.fixture
def result(found: ad.AnnData) -> ad.AnnData:
    return found.copy()


def bare(centers: list[float], sizes: list[int]) -> ad.AnnData:
    """Domains on a line, with a scatter of variance 1 in each."""
    values = np.repeat(centers, sizes) + np.tile([-1.0, 1.0], sum(sizes) // 2)
    domains = np.repeat(np.arange(len(sizes)).astype(str), sizes)
    names = [f"spot{number}" for number in range(len(values))]
    return ad.AnnData(
        obs=pd.DataFrame({"m2st_domain": pd.Categorical(domains)}, index=names),
        obsm={"X_m2st": values[:, None]},
    )


def test_tree_by_hand() -> None:
    # 20 + 10 + 10 observations; the pooled variance is 1 and has a thousandth added
    adata = bare([0.0, 3.0, 10.0], [20, 10, 10])
    merges = m2st.tl.domain_tree(adata)
    first = 20 * 10 / 30 * 3**2 / (2 * 40) / 1.001
    joined = 30 * 10 / 40 * (10 - 1) ** 2 / (2 * 40) / 1.001  # the mean of both is 1
    np.testing.assert_allclose(merges, [[0, 1, first, 2], [2, 3, joined, 3]])
    np.testing.assert_array_equal(adata.uns["m2st"]["tree"]["merges"], merges)


def test_tree_is_wards_of_the_whitened_centres(rng: np.random.Generator) -> None:
    """Of domains of one size, SciPy's linkage has the same merges."""
    centers = rng.normal(size=(7, 3)) * 5
    labels = np.repeat(np.arange(7), 40)
    values = centers[labels] + rng.normal(size=(280, 3)) * [1.0, 3.0, 0.2]
    merges = domain_tree(values, labels, 7)
    means = np.stack([values[labels == k].mean(axis=0) for k in range(7)])
    within = np.cov((values - means[labels]).T, bias=True)
    within += 1e-3 * np.trace(within) / 3 * np.eye(3)
    white = np.linalg.solve(np.linalg.cholesky(within), means.T).T
    ward = hierarchy.linkage(white, "ward")
    np.testing.assert_array_equal(merges[:, [0, 1, 3]], ward[:, [0, 1, 3]])
    np.testing.assert_allclose(merges[:, 2], ward[:, 2] ** 2 / 2 * 40 / (2 * 280))
    for n_groups in range(1, 8):
        expected = hierarchy.cut_tree(merges, n_groups).ravel()
        np.testing.assert_array_equal(cut_tree(merges, n_groups), expected)


def test_tree_does_not_change_with_units(rng: np.random.Generator) -> None:
    values = rng.normal(size=(60, 2))
    labels = np.arange(60) % 4
    turn = rng.normal(size=(2, 2))
    one, other = domain_tree(values, labels, 4), domain_tree(values @ turn, labels, 4)
    np.testing.assert_array_equal(one[:, :2], other[:, :2])


def test_groups_are_a_result_of_their_own(result: ad.AnnData, tmp_path: Path) -> None:
    before = result.obs["m2st_domain"].copy()
    m2st.tl.merge_domains(result, 2, key_added="m2st_joined")
    pd.testing.assert_series_equal(result.obs["m2st_domain"], before)
    groups = result.obs["m2st_joined_domain"]
    assert sorted("+".join(groups.cat.categories).split("+")) == ["1", "2", "3", "4"]
    for domain, group in zip(before[2:], groups[2:], strict=True):
        assert domain in group.split("+")
    assert groups.isna().sum() == before.isna().sum() == 2
    assert result.obs["m2st_joined_confidence"].isna().all()
    record = result.uns["m2st_joined"]
    assert record["cluster"]["parent"] == "m2st"
    assert record["embed"]["use_rep"] == result.uns["m2st"]["embed"]["use_rep"]
    # It is drawn, reported, kept and written again like any other.
    m2st.pl.domains(result, key_added="m2st_joined")
    m2st.report(result, tmp_path / "page.html", key_added="m2st_joined")
    m2st.io.write(result, tmp_path / "out.h5ad")
    back = m2st.io.read(tmp_path / "out.h5ad")
    pd.testing.assert_series_equal(back.obs["m2st_joined_domain"], groups)
    m2st.tl.merge_domains(back, 3, key_added="m2st_joined")
    assert back.obs["m2st_joined_domain"].nunique() == 3


def test_parts_lie_within_their_domain(result: ad.AnnData, tmp_path: Path) -> None:
    before = result.obs.copy()
    m2st.tl.split_domains(result, {"2": 3}, ONCE, key_added="m2st_parts")
    parts = result.obs["m2st_parts_domain"]
    assert parts.cat.categories.tolist() == ["1", "2.1", "2.2", "2.3", "3", "4"]
    assert (parts.isna() == before["m2st_domain"].isna()).all()
    whole = parts.astype(object).where(parts.isna(), parts.astype(str).str.split(".").str[0])
    assert (whole.dropna() == before["m2st_domain"].dropna().astype(str)).all()
    sizes = parts.value_counts()[["2.1", "2.2", "2.3"]]
    assert sizes.is_monotonic_decreasing
    assert sizes.min() > 0
    inside = before["m2st_domain"] == "2"
    confidence = result.obs["m2st_parts_confidence"]
    assert (confidence[inside] <= before["m2st_confidence"][inside]).all()
    pd.testing.assert_series_equal(
        confidence[~inside], before["m2st_confidence"][~inside], check_names=False
    )
    pd.testing.assert_frame_equal(result.obs[before.columns], before)
    record = result.uns["m2st_parts"]["cluster"]
    assert (list(record["split"]), list(record["n_parts"])) == (["2"], [3])
    assert np.isnan(record["stability"]).tolist() == [True, False, False, False, True, True]
    m2st.report(result, tmp_path / "page.html", key_added="m2st_parts")
    m2st.io.write(result, tmp_path / "out.h5ad")
    back = m2st.io.read(tmp_path / "out.h5ad")
    # From a file, from any result, to the same parts.
    m2st.tl.split_domains(back, {"2": 3}, ONCE, key_added="again")
    pd.testing.assert_series_equal(back.obs["again_domain"], parts, check_names=False)
    m2st.tl.split_domains(back, {"2.1": 2}, ONCE, key_added="finer", domain_key="m2st_parts")
    assert "2.1.2" in back.obs["finer_domain"].cat.categories
    assert back.uns["finer"]["cluster"]["parent"] == "m2st_parts"


def test_planted_parts_are_found() -> None:
    """Six layers, cut into three: a domain that holds two of them is split where they meet."""
    adata = m2st.datasets.simulate_cortex(n_obs=600, n_genes=200, n_domains=6)
    quick = AutoencoderParams(n_members=2, n_epochs=60)
    m2st.run(adata, 6, autoencoder=quick, progress=False)
    m2st.tl.merge_domains(adata, 3, key_added="coarse")
    group = max(adata.obs["coarse_domain"].cat.categories, key=lambda name: name.count("+"))
    n_parts = group.count("+") + 1
    m2st.tl.split_domains(adata, {group: n_parts}, key_added="fine", domain_key="coarse")
    inside = adata.obs["coarse_domain"] == group
    direct, again = adata.obs["m2st_domain"][inside], adata.obs["fine_domain"][inside]
    assert m2st.metrics.ari(direct, again) > 0.7


def test_a_new_clustering_forgets_the_tree(result: ad.AnnData) -> None:
    m2st.tl.domain_tree(result)
    m2st.tl.cluster(result, 3, ONCE, key_added="three")
    assert "tree" not in result.uns["three"]
    m2st.tl.cluster(result, 3, ONCE)
    assert "tree" not in result.uns["m2st"]
    with pytest.raises(KeyError, match=r"Run `m2st\.tl\.domain_tree\(adata\)` first"):
        m2st.pl.domain_tree(result)


def test_tree_is_drawn_with_names_and_colours(result: ad.AnnData) -> None:
    m2st.tl.domain_tree(result)
    m2st.tl.rename_domains(result, {"1": "white $matter$"})
    axes = m2st.pl.domain_tree(result).axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(names) == ["2", "3", "4", "white $matter$"]
    (leaves,) = axes.collections
    colors = dict(zip(names, map(to_hex, leaves.get_facecolor()), strict=True))
    kept = result.uns["m2st_domain_colors"]
    categories = result.obs["m2st_domain"].cat.categories
    assert colors == dict(zip(categories, kept, strict=True))
    assert len(axes.lines) == 3
    result.obs["m2st_domain"] = result.obs["m2st_domain"].cat.add_categories("5")
    with pytest.raises(KeyError, match=r"Expected a tree of the 5 domains .*, found one of 4"):
        m2st.pl.domain_tree(result)


def test_mistakes_are_named(result: ad.AnnData) -> None:
    tl = m2st.tl
    with pytest.raises(ValueError, match="`n_domains` below the 4 domains of 'm2st', found 4"):
        tl.merge_domains(result, 4, key_added="joined")
    with pytest.raises(ValueError, match="another result than `domain_key=`, found 'm2st' for"):
        tl.merge_domains(result, 2, key_added="m2st")
    with pytest.raises(KeyError, match=r"Expected domains .* \(1, 2, 3, 4\), found '9'"):
        tl.split_domains(result, {"9": 2}, key_added="parts")
    with pytest.raises(TypeError, match=r"numbers of parts by domain, such as .*'1': 2"):
        tl.split_domains(result, "1", key_added="parts")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="settings of their own class as `params`, found dict"):
        tl.split_domains(result, {"1": 2}, {}, key_added="parts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`parts\['1'\]` to be at least 2"):
        tl.split_domains(result, {"1": 1}, key_added="parts")
    size = (result.obs["m2st_domain"] == "1").sum()
    with pytest.raises(ValueError, match=f"parts of '1' than its {size} observations, found 500"):
        tl.split_domains(result, {"1": 500}, key_added="parts")
    assert "parts_domain" not in result.obs
    tl.rename_domains(result, {"2": "1.2"})
    with pytest.raises(ValueError, match=r"new names for the parts of '1', found a domain '1\.2'"):
        tl.split_domains(result, {"1": 2}, key_added="parts")
    result.obs["m2st_domain"] = result.obs["m2st_domain"].cat.add_categories("empty")
    with pytest.raises(ValueError, match=r"observations in each domain .*, found none in 'empty'"):
        tl.domain_tree(result)
    with pytest.raises(ValueError, match=r"at least two domains in .*, found 1"):
        tl.domain_tree(bare([0.0], [4]))
    infinite = bare([0.0, 3.0], [4, 4])
    infinite.obsm["X_m2st"][1] = np.inf
    with pytest.raises(ValueError, match=r"obsm\['X_m2st'\]` to be finite, .* in 1 of 8"):
        tl.domain_tree(infinite)
    with pytest.raises(KeyError, match="Expected 'X_m2st' in"):
        tl.domain_tree(ad.AnnData(obs=result.obs.copy()))
