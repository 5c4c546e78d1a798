"""Composition of sections, its change between conditions, and sums of counts."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from scipy import sparse, stats

from m2st import io, pl, pp
from m2st._composition import (
    compare,
    effective_number,
    halve,
    log_ratios,
    share_interval,
    squeeze,
)
from m2st.tl import compare_composition, composition, pseudobulk

# ---- arrays


def grid(side: int) -> np.ndarray:
    return np.stack(np.divmod(np.arange(side**2), side), axis=1).astype(float)


def test_blocks_have_one_size_whatever_the_order() -> None:
    points = grid(13)
    blocks = halve(points, 3)
    assert np.ptp(np.bincount(blocks, minlength=8)) <= 1
    order = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_array_equal(halve(points[order], 3), blocks[order])


def test_blocks_are_cut_across_the_longer_axis() -> None:
    points = np.stack([np.arange(16.0), np.zeros(16)], axis=1)
    np.testing.assert_array_equal(halve(points, 2), np.repeat([0, 1, 2, 3], 4))


def test_noise_is_worth_all_observations_and_patches_few() -> None:
    rng = np.random.default_rng(0)
    points = grid(40)
    noise = [effective_number(points, rng.integers(0, 4, 1600), 4) for _ in range(50)]
    assert 1000 < np.median(noise) <= 1600
    halves = (points[:, 0] >= 20).astype(int)
    # Four blocks of each half: the variance of a share is 8/7 · 1/4 / 8.
    assert effective_number(points, halves, 2) == pytest.approx(7)


def test_one_domain_is_worth_as_much_as_there_are_blocks() -> None:
    assert effective_number(grid(10), np.zeros(100, dtype=int), 3) == 8
    assert effective_number(grid(1), np.zeros(1, dtype=int), 3) == 1


def test_the_interval_is_wilsons() -> None:
    shares, numbers = np.array([0.0, 0.2, 1.0]), np.array([30.0, 60.0, 30.0])
    low, high = share_interval(shares, numbers)
    factor = stats.t.ppf(0.975, 7) ** 2
    for bound in (low, high):
        np.testing.assert_allclose(
            (shares - bound) ** 2, factor * bound * (1 - bound) / numbers, atol=1e-12
        )
    assert low[0] == 0
    assert high[2] == 1
    assert high[0] > 0.1


def test_intervals_hold_the_share_of_the_tissue() -> None:
    """Sections of stripes of random width, whose share of domain 0 is one half."""
    rng = np.random.default_rng(0)
    points, held = grid(30), []
    for _ in range(200):
        tiles = rng.integers(0, 2, (11, 11)).repeat(3, axis=0).repeat(3, axis=1)
        left, top = rng.integers(0, 3, 2)
        codes = tiles[left : left + 30, top : top + 30].ravel()
        share = np.array([(codes == 0).mean()])
        low, high = share_interval(share, np.array([effective_number(points, codes, 2)]))
        held.append(low[0] <= 0.5 <= high[0])
    assert np.mean(held) >= stats.binom.ppf(0.001, 200, 0.95) / 200


def test_log_ratios_sum_to_zero_and_replace_zeros() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    ratios = log_ratios(shares, np.array([9.0, 99.0]))
    np.testing.assert_allclose(ratios.sum(axis=1), 0, atol=1e-12)
    assert ratios[0, 0] - ratios[0, 2] == pytest.approx(np.log(5 / 0.5))


def test_the_prior_of_variances_is_recovered() -> None:
    """Variances about a scaled inverse chi-squared prior follow a scaled F distribution."""
    variances = 0.3 * stats.f.rvs(20, 6, size=20_000, random_state=0)
    found = squeeze(variances, 20)
    assert found.freedom == pytest.approx(6, rel=0.05)
    assert found.variance == pytest.approx(0.3, rel=0.05)


def test_equal_variances_become_one_of_limited_weight() -> None:
    found = squeeze(np.array([1.0, 1.1, 0.9, 1.0]), 8)
    assert found.freedom == 8
    assert found.variance == pytest.approx(1.0)


def test_moderated_t_statistics_are_those_of_limma() -> None:
    """Figures of limma 3.54.1: ``eBayes(lmFit(ratios, design))``."""
    ratios = np.array(
        [
            [1.05, -0.10, 0.33, 0.06, -0.31, 0.26, 0.91],
            [1.40, -0.56, -0.66, -0.38, 0.02, -1.67, -0.15],
            [0.47, -0.58, -0.28, -0.19, 0.24, 0.75, -0.09],
            [1.58, -0.52, 0.18, 0.55, 0.05, -0.53, -0.65],
            [0.81, 0.17, -0.52, -0.13, -0.09, 0.39, 0.15],
            [1.15, -0.52, -0.07, 0.48, 0.87, -0.90, 1.06],
            [0.57, 0.62, 0.14, -0.19, 0.85, 1.41, 1.26],
            [0.56, 0.28, -0.63, 0.00, 0.38, -0.93, 0.28],
            [0.18, 0.55, -0.61, -0.40, -0.25, -0.84, 1.22],
            [-0.21, 0.26, -0.13, 0.96, 0.77, 0.45, -1.54],
            [0.02, 0.54, 0.52, -0.38, 1.06, -0.95, -0.46],
            [0.40, 0.04, 1.04, 0.11, -0.37, -0.27, -0.76],
        ]
    )
    groups = np.repeat([0, 1], 6)
    within = ratios - np.stack([ratios[:6].mean(axis=0), ratios[6:].mean(axis=0)])[groups]
    prior = squeeze((within**2).sum(axis=0) / 10, 10)
    assert prior.freedom == pytest.approx(4.16930667936, rel=1e-8)
    assert prior.variance == pytest.approx(0.231580497062, rel=1e-8)
    found = compare(ratios, groups, 2)
    assert found is not None
    expected = [-3.5715178095, 3.6613088687, 0.7464604571, -0.1835777708, 0.9538432556,
                0.1991844695, -0.4346481244]  # fmt: skip
    np.testing.assert_allclose(found.t[0], expected, rtol=1e-8)


def test_two_domains_are_compared_as_one_t_test() -> None:
    rng = np.random.default_rng(0)
    ratios = rng.normal(size=(9, 1)) * [1.0, -1.0]
    groups = np.repeat([0, 1], [4, 5])
    found = compare(ratios, groups, 2)
    expected = stats.ttest_ind(ratios[groups == 1], ratios[groups == 0])
    np.testing.assert_allclose(found.t[0], expected.statistic)
    np.testing.assert_allclose(found.p_value[0], expected.pvalue)
    interval = stats.ttest_ind(ratios[groups == 1], ratios[groups == 0]).confidence_interval()
    np.testing.assert_allclose(found.low[0], interval.low)
    np.testing.assert_allclose(found.high[0], interval.high)


BEFORE = np.array([0.15, 0.22, 0.2, 0.15, 0.12, 0.1, 0.06])
AFTER = np.r_[0.25, BEFORE[1:] * 0.75 / 0.85]  # ten points more of the first domain


def draw(
    rng: np.random.Generator, after: np.ndarray, spread: float, each: int = 5, n_obs: int = 300
) -> np.ndarray:
    """Which domains are called different at 5 %, of two groups of overdispersed sections."""
    groups = np.repeat([0, 1], each)
    shares = np.stack(
        [
            rng.multinomial(n_obs, rng.dirichlet(spread * (after if group else BEFORE))) / n_obs
            for group in groups
        ]
    )
    found = compare(log_ratios(shares, np.full(len(groups), float(n_obs))), groups, 2)
    return found.p_adjusted[0] <= 0.05


@pytest.mark.parametrize("spread", [30, 100, 400])
def test_the_error_rate_is_the_stated_one(spread: float) -> None:
    rng = np.random.default_rng(0)
    n_called = sum(draw(rng, BEFORE, spread).any() for _ in range(200))
    assert n_called <= stats.binom.ppf(0.999, 200, 0.05)


def test_a_change_of_ten_points_is_found() -> None:
    rng = np.random.default_rng(0)
    called = np.array([draw(rng, AFTER, 400) for _ in range(200)])
    assert called[:, 0].mean() >= 0.9
    assert called[:, 1:].mean() <= 0.1


# ---- AnnData


def sections(n_sections: int = 4, side: int = 20, *, grown: tuple[int, ...] = ()) -> AnnData:
    """Sections of three domains in patches; of the `grown` ones the first has more."""
    rng = np.random.default_rng(0)
    parts = []
    for number in range(n_sections):
        more = 0.2 if number in grown else 0.0
        shares = [0.3 + more, 0.3 - more / 2, 0.4 - more / 2]
        tiles = rng.choice(3, (side // 2, side // 2), p=shares).repeat(2, 0).repeat(2, 1)
        obs = pd.DataFrame({"m2st_domain": (tiles.ravel() + 1).astype(str)})
        obs["section"] = f"s{number}"
        obs["group"] = "treated" if number in grown else "control"
        obs.index = [f"{number}-{spot}" for spot in range(side**2)]
        counts = rng.poisson(1.0, (side**2, 5)).astype(np.float32)
        parts.append(AnnData(counts, obs=obs, obsm={"spatial": grid(side)}))
    adata = ad.concat(parts)
    adata.obs["m2st_domain"] = pd.Categorical(adata.obs["m2st_domain"], list("1234"))
    return adata


def test_composition_is_counted_and_absent_domains_are_there() -> None:
    adata = sections(2)
    table = composition(adata, "section")
    expected = pd.crosstab(adata.obs["section"], adata.obs["m2st_domain"], dropna=False)
    found = table.pivot(index="sample", columns="domain", values="n_obs")
    np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())
    assert list(table) == ["sample", "domain", "n_obs", "share", "low", "high", "n_effective"]
    absent = table[table["domain"] == "4"]
    assert (absent[["n_obs", "share", "low"]] == 0).all(axis=None)
    assert (absent["high"] > 0).all()
    assert table.groupby("sample")["share"].sum().tolist() == pytest.approx([1, 1])
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()
    # Patches of four spots.
    assert (table["n_effective"] < 400).all()


def test_composition_does_not_depend_on_the_order() -> None:
    adata = sections(2)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.remove_unused_categories()
    pd.testing.assert_frame_equal(
        composition(adata, "section"), composition(adata[order].copy(), "section")
    )


def test_observations_without_domain_or_place_are_left_out() -> None:
    adata = sections(2)
    before = composition(adata, "section")["n_obs"].sum()
    adata.obs.loc[adata.obs_names[:3], "m2st_domain"] = np.nan
    adata.obsm["spatial"][3:5] = np.nan
    adata.obs.loc[adata.obs_names[0], "section"] = np.nan
    assert composition(adata, "section")["n_obs"].sum() == before - 5


def test_a_section_without_domains_has_no_shares() -> None:
    adata = sections(3)
    adata.obs.loc[adata.obs["section"] == "s1", "m2st_domain"] = np.nan
    table = composition(adata, "section").set_index("sample")
    assert (table.loc["s1", "n_obs"] == 0).all()
    assert table.loc["s1", ["share", "low", "high", "n_effective"]].isna().all(axis=None)
    assert table.loc["s2"].notna().all(axis=None)


def test_composition_says_what_it_needs() -> None:
    adata = sections(2)
    with pytest.raises(KeyError, match=r"Expected 'slide' in `adata.obs`"):
        composition(adata, "slide")
    with pytest.raises(KeyError, match=r"Name the key of the coordinates with `spatial_key=`"):
        composition(adata, "section", spatial_key="places")
    with pytest.raises(KeyError, match=r"Run `m2st.tl.cluster"):
        composition(adata, "section", key_added="other")
    adata.obs.loc[adata.obs_names[7], "section"] = None
    with pytest.raises(ValueError, match=r"Expected a section for each .* for 1 of 800"):
        composition(adata, "section")
    adata = sections(2)
    adata.obs["m2st_domain"] = pd.Categorical([None] * adata.n_obs, list("12"))
    with pytest.raises(ValueError, match=r"Expected domains in .* found none"):
        composition(adata, "section")
    adata = sections(1)
    adata.obsm["spatial"][:] = np.nan
    with pytest.raises(ValueError, match=r"Expected finite coordinates"):
        composition(adata, "section")
    adata.obs["lists"] = [[1]] * adata.n_obs
    with pytest.raises(TypeError, match=r"found values such as lists"):
        composition(adata, "lists")


def test_barcodes_are_no_sections() -> None:
    names = [f"cell{number}" for number in range(10_001)]
    adata = AnnData(obs=pd.DataFrame({"m2st_domain": "1", "cell": names}, index=names))
    adata.obsm["spatial"] = np.random.default_rng(0).random((10_001, 2))
    with pytest.raises(ValueError, match=r"at most 10,000 sections .* found 10,001"):
        composition(adata, "cell")


def test_a_planted_change_is_found() -> None:
    adata = sections(10, grown=(5, 6, 7, 8, 9))
    table = compare_composition(adata, "group", "section").set_index("domain")
    assert table["condition"].unique().tolist() == ["treated"]
    assert table["reference"].unique().tolist() == ["control"]
    assert table.loc["1", "p_adjusted"] < 0.01
    assert table.loc["1", "log_ratio"] > 0
    assert table.loc["1", "low"] > 0
    assert table.loc["1", "share"] - table.loc["1", "share_reference"] == pytest.approx(
        0.2, abs=0.1
    )
    assert table.loc["4", ["log_ratio", "low", "high", "t", "p_value", "p_adjusted"]].isna().all()
    assert table.loc["4", "share"] == 0
    other = compare_composition(adata, "group", "section", reference="treated").set_index("domain")
    assert other.loc["1", "log_ratio"] == pytest.approx(-table.loc["1", "log_ratio"])
    assert other.loc["1", "p_value"] == pytest.approx(table.loc["1", "p_value"])


def test_several_conditions_are_compared_with_one() -> None:
    adata = sections(6)
    adata.obs["dose"] = adata.obs["section"].map(
        dict(zip([f"s{n}" for n in range(6)], [0, 0, 1, 1, 2, 2], strict=True))
    )
    table = compare_composition(adata, "dose", "section")
    assert table["condition"].tolist() == ["1"] * 4 + ["2"] * 4
    known = table["p_value"].dropna()
    np.testing.assert_allclose(table["p_adjusted"].dropna(), stats.false_discovery_control(known))


def test_sections_without_a_condition_are_left_out() -> None:
    adata = sections(6, grown=(3, 4, 5))
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.remove_unused_categories()
    expected = compare_composition(adata[adata.obs["section"] != "s5"].copy(), "group", "section")
    adata.obs.loc[adata.obs["section"] == "s5", "group"] = np.nan
    pd.testing.assert_frame_equal(compare_composition(adata, "group", "section"), expected)


def test_one_section_is_no_replicate() -> None:
    adata = sections(3, grown=(2,))
    with pytest.raises(ValueError, match=r"found 1 of 'treated'. The spots .* are no replicates"):
        compare_composition(adata, "group", "section")


def test_what_cannot_be_compared_is_refused() -> None:
    adata = sections(4, grown=(2, 3))
    with pytest.raises(KeyError, match=r"Expected 'dose' in `adata.obs`"):
        compare_composition(adata, "dose", "section")
    with pytest.raises(
        ValueError, match=r"Expected `reference` .* Conditions: 'control', 'treated'"
    ):
        compare_composition(adata, "group", "section", reference="none")
    mixed = adata.copy()
    mixed.obs.loc[mixed.obs_names[:5], "group"] = "treated"
    with pytest.raises(ValueError, match=r"found 2 in 's0': 'control', 'treated'. Check"):
        compare_composition(mixed, "group", "section")
    mixed.obs.loc[mixed.obs_names[:5], "group"] = np.nan
    with pytest.raises(ValueError, match=r"found 2 in 's0': 'control', none. Check"):
        compare_composition(mixed, "group", "section")
    adata.obs["same"] = "a"
    with pytest.raises(ValueError, match=r"at least 2 conditions .* found 1"):
        compare_composition(adata, "same", "section")
    lost = adata.copy()
    lost.obs.loc[lost.obs["section"] == "s1", "m2st_domain"] = np.nan
    with pytest.raises(ValueError, match=r"Expected domains in every section, found none in 's1'"):
        compare_composition(lost, "group", "section")
    lost.obs["m2st_domain"] = "1"
    with pytest.raises(ValueError, match=r"at least 2 domains .* found 1"):
        compare_composition(lost, "group", "section")
    copies = ad.concat([adata[adata.obs["section"] == "s0"]] * 4, keys=list("abcd"), label="copy",
                       index_unique="-")  # fmt: skip
    copies.obs["group"] = copies.obs["copy"].map({"a": "x", "b": "x", "c": "y", "d": "y"})
    with pytest.raises(ValueError, match=r"the same in all. Check .* and no copies"):
        compare_composition(copies, "group", "copy")


# ---- sums of counts


def test_sums_are_those_of_the_counts() -> None:
    adata = sections(3, grown=(2,))
    found = pseudobulk(adata, "section")
    assert found.X.dtype == np.int64
    assert list(found.obs) == ["section", "m2st_domain", "n_obs", "group"]
    assert found.obs_names[0] == "s0_1"
    for name, row in found.obs.iterrows():
        rows = (adata.obs["section"] == row["section"]) & (
            adata.obs["m2st_domain"] == row["m2st_domain"]
        )
        np.testing.assert_array_equal(found[name].X.ravel(), adata[rows].X.sum(axis=0))
        assert row["n_obs"] == rows.sum()
        assert row["group"] == ("treated" if row["section"] == "s2" else "control")
    assert found.X.sum() == adata.X.sum()
    assert found.var_names.equals(adata.var_names)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix])
def test_storage_and_blocks_of_sums_do_not_matter(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = sections(2)
    expected = pseudobulk(adata, "section").X
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 500)
    adata.layers["counts"] = kind(adata.X)
    adata.X = adata.X + 0.5
    np.testing.assert_array_equal(pseudobulk(adata, "section", layer="counts").X, expected)


def test_sums_of_a_file(tmp_path: Path) -> None:
    adata = sections(2)
    adata.X = sparse.csr_matrix(adata.X)
    io.write(adata, tmp_path / "sections.h5ad")
    backed = io.read(tmp_path / "sections.h5ad", backed=True)
    np.testing.assert_array_equal(pseudobulk(backed, "section").X, pseudobulk(adata, "section").X)


def test_sums_over_few_observations_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    adata = sections(2)
    adata.obs.loc[adata.obs_names[:5], "m2st_domain"] = "4"
    with caplog.at_level(logging.INFO):
        found = pseudobulk(adata, "section")
    assert len(found) == 6
    assert "1 sums over fewer than 10 observations are left out." in caplog.text
    assert len(pseudobulk(adata, "section", min_obs=5)) == 7
    with pytest.raises(ValueError, match=r"at least `min_obs=1000` observations"):
        pseudobulk(adata, "section", min_obs=1000)


def test_large_sums_are_exact() -> None:
    adata = sections(1)
    adata.X[:] = 2**20 + 1
    found = pseudobulk(adata, "section")
    np.testing.assert_array_equal(found.X[:, 0], found.obs["n_obs"] * (2**20 + 1))


@pytest.mark.parametrize(
    ("value", "seen"),
    [(0.5, "fractions such as 0.5"), (-1, "values down to -1"), (np.nan, "NaN or infinity")],
)
def test_values_that_are_no_counts_are_not_summed(value: float, seen: str) -> None:
    adata = sections(1)
    adata.X[3, 2] = value
    with pytest.raises(ValueError, match=f"Expected raw counts in `adata.X`, found {seen}"):
        pseudobulk(adata, "section")


def test_names_of_sums_are_unique_and_go_into_a_file(tmp_path: Path) -> None:
    adata = sections(2)
    adata.obs["section"] = adata.obs["section"].map({"s0": "a", "s1": "a_1"})
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.rename_categories({"2": "1_1"})
    adata.obs["lists"] = [[1]] * adata.n_obs
    found = pseudobulk(adata, "section")
    assert found.obs_names.is_unique
    assert "lists" not in found.obs
    io.write(found, tmp_path / "sums.h5ad")
    np.testing.assert_array_equal(io.read(tmp_path / "sums.h5ad").X, found.X)


# ---- pictures


def test_shares_are_drawn_in_the_colours_of_the_domains(tmp_path: Path) -> None:
    adata = sections(3)
    adata.obs.loc[adata.obs["section"] == "s1", "m2st_domain"] = np.nan
    figure = pl.composition(adata, sample_key="section")
    table = composition(adata, "section")
    assert [axes.get_title() for axes in figure.axes] == ["share of each domain", *"1234"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["s0", "s1", "s2"]
    colors = adata.uns["m2st_domain_colors"]
    bars = figure.axes[0].containers
    for domain, (color, container) in enumerate(zip(colors, bars, strict=True)):
        expected = table[table["domain"] == str(domain + 1)]["share"]
        widths = [bar.get_width() for bar in container]
        np.testing.assert_allclose(widths, np.nan_to_num(expected))
        assert to_hex(container[0].get_facecolor()) == color
    assert sum(bar[2].get_width() for bar in bars) == pytest.approx(1)
    (lines,) = figure.axes[1].collections
    first = table[(table["domain"] == "1") & (table["sample"] != "s1")]
    drawn = [segment[:, 0] for segment in lines.get_segments()]
    np.testing.assert_allclose(drawn, first[["low", "high"]])
    figure.savefig(tmp_path / "composition.png")


@pytest.mark.parametrize("names", ["1234", ["layer 2 and 3", "white matter", "x" * 40, "$a$"]])
def test_names_of_domains_are_on_the_page_and_apart(names: list[str]) -> None:
    adata = sections(2)
    renamed = adata.obs["m2st_domain"].cat.rename_categories(dict(zip("1234", names, strict=True)))
    adata.obs["m2st_domain"] = renamed
    figure = pl.composition(adata, sample_key="section")
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert all(box.y1 <= figure.bbox.y1 for box in boxes)
    if names == "1234":
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))
    else:
        assert {axes.title.get_rotation() for axes in figure.axes[1:]} == {35}


def test_sections_of_the_graph_are_drawn() -> None:
    adata = sections(2)
    with pytest.raises(ValueError, match=r"Expected `sample_key`, .* found none. Name it."):
        pl.composition(adata)
    pp.spatial_graph(adata, sample_key="section")
    assert len(pl.composition(adata).axes[0].get_yticklabels()) == 2


def test_changes_are_drawn_with_their_intervals(tmp_path: Path) -> None:
    adata = sections(10, grown=(5, 6, 7, 8, 9))
    table = compare_composition(adata, "group", "section")
    figure = pl.composition_change(table)
    (axes,) = figure.axes
    assert axes.get_title() == "treated against control"
    drawn = [line.get_segments()[0][:, 0] for line in axes.collections[:3]]
    np.testing.assert_allclose(drawn, table[["low", "high"]].dropna())
    colors = [to_hex(line.get_color()[0]) for line in axes.collections]
    called = (table["p_adjusted"] <= 0.05).tolist()
    assert called[0]
    assert [color != colors[-1] for color in colors] == called
    texts = [text.get_text() for text in axes.texts]
    assert texts[0].startswith(
        f"{table['share_reference'][0]:.1%} → {table['share'][0]:.1%}   p = "
    )
    assert texts[3] == "0.0% → 0.0%"
    figure.savefig(tmp_path / "change.png")


def test_each_condition_has_a_panel() -> None:
    adata = sections(6)
    adata.obs["dose"] = adata.obs["section"].replace(dict(zip(
        [f"s{n}" for n in range(6)], ["no", "no", "a", "a", "b", "b"], strict=True
    )))  # fmt: skip
    figure = pl.composition_change(compare_composition(adata, "dose", "section", reference="no"))
    assert [axes.get_title() for axes in figure.axes] == ["a against no", "b against no"]


def test_what_is_no_table_of_changes_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Expected the table that .* returned, found str"):
        pl.composition_change("table")
    with pytest.raises(KeyError, match=r"Expected 'condition' in `table` .* Pass what"):
        pl.composition_change(composition(sections(2), "section"))
