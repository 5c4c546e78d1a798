"""Domains beside the labels of a reference, and names for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse, stats

from m2st import AutoencoderParams, datasets, io, pl, report, run
from m2st._registration import (
    correlations,
    enrichment,
    group_sums,
    standardised,
    suggest,
    survey,
    telling_genes,
)
from m2st.tl import cluster, register, rename_domains, score_markers

# ---- arrays


def counts(n_obs: int = 60, n_genes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Counts of three groups, the last observation in none."""
    rng = np.random.default_rng(0)
    codes = np.arange(n_obs) % 3
    codes[-1] = -1
    rates = rng.gamma(2, 2, (4, n_genes))
    return rng.poisson(rates[codes]).astype(np.float32), codes


def log_values(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    totals = values.sum(axis=1, dtype=float)
    return np.log1p(values / (totals / np.median(totals[taken]))[:, None])


def test_statistics_are_those_of_scipy() -> None:
    values, codes = counts()
    found = enrichment(group_sums(values, survey(values), codes, 3))
    logs = log_values(values, codes >= 0)[codes >= 0]
    known = codes[codes >= 0]
    expected = [stats.ttest_ind(logs[known == k], logs[known != k]).statistic for k in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_mean_z_scores_are_those_of_the_definition() -> None:
    values, codes = counts()
    found = standardised(group_sums(values, survey(values), codes, 3))
    scores = stats.zscore(log_values(values, codes >= 0)[codes >= 0])
    expected = [scores[codes[codes >= 0] == k].mean(axis=0) for k in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_storage_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values, codes = counts()
    expected = enrichment(group_sums(values, survey(values), codes, 3))
    monkeypatch.setattr("m2st._features._blocks._BLOCK", 40)
    for kind in (np.asarray, sparse.csr_matrix, sparse.csc_matrix):
        matrix = kind(values)
        found = enrichment(group_sums(matrix, survey(matrix), codes, 3))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_logarithms_are_taken_as_they_are() -> None:
    values, codes = counts(n_genes=40)
    logs = log_values(values, codes >= 0).astype(np.float32)
    found = survey(logs)
    assert found.logged
    assert not survey(values).logged
    np.testing.assert_allclose(
        enrichment(group_sums(logs, found, codes, 3)),
        enrichment(group_sums(values, survey(values), codes, 3)),
        rtol=1e-4,
    )


def test_constant_genes_empty_groups_and_observations_without_counts() -> None:
    values, codes = counts()
    values[:, 0] = 0
    values[7] = 0
    codes[codes == 1] = 3
    sums = group_sums(values, survey(values), codes, 4)
    assert sums.n_obs.ravel().tolist() == [20, 0, 19, 19]
    for found in (enrichment(sums), standardised(sums)):
        assert np.isnan(found[1]).all()
        others = found[[0, 2, 3]]
        assert (others[:, 0] == 0).all()
        assert np.isfinite(others).all()
        assert (others[:, 1:] != 0).all()


def test_genes_that_tell_are_the_highest_of_each_label() -> None:
    statistics = np.array([[9.0, 1, 8, -9, 0], [0, 7, 1, -9, 6]])
    assert telling_genes(statistics, 1).tolist() == [0, 1]
    assert telling_genes(statistics, 2).tolist() == [0, 1, 2, 4]


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(size=(3, 20)), rng.normal(size=(2, 20))
    np.testing.assert_allclose(correlations(ours, theirs), np.corrcoef(ours, theirs)[:3, 3:])
    ours[1] = np.nan
    assert np.isnan(correlations(ours, theirs)).any(axis=1).tolist() == [False, True, False]


def test_each_domain_gets_a_name_of_its_own() -> None:
    table = np.array([[0.5, 0.1], [0.9, 0.2], [0.1, 0.24], [np.nan, np.nan], [-0.2, 0.6]])
    found = suggest(table, ["1", "2", "3", "4", "5"], ["WM", "3"])
    # The third keeps its name, which the second label would have had.
    assert found.names == ["WM (2)", "WM", "3", "4", "3 (2)"]
    np.testing.assert_allclose(found.margins, [0.4, 0.7, 0.14, np.nan, 0.8])


# ---- domains of an object

LABELS = ["L1", "L2", "WM"]


def section(seed: int = 0, *, n_genes: int = 60) -> AnnData:
    """Counts of three layers that all seeds share, under the numbers of domains and by name."""
    effects = np.exp(np.random.default_rng(0).normal(0, 1, (3, n_genes)))
    layers = np.arange(90) // 30
    rates = np.random.default_rng(seed + 1).poisson(effects[layers])
    adata = AnnData(sparse.csr_matrix(rates.astype(np.float32)))
    adata.var_names = [f"Gene{number}" for number in range(n_genes)]
    # Numbers in another order than the layers.
    adata.obs["m2st_domain"] = pd.Categorical.from_codes((layers + 1) % 3, ["1", "2", "3"])
    adata.obs["layer"] = pd.Categorical.from_codes(layers, LABELS)
    return adata


def test_domains_are_named_after_the_layers_of_another_section() -> None:
    adata = section()
    table = register(adata, section(1), "layer")
    assert table.index.tolist() == ["1", "2", "3"]
    assert table.columns.tolist() == [*LABELS, "suggested", "margin"]
    assert table["suggested"].tolist() == ["WM", "L1", "L2"]
    assert table["margin"].min() > 0.5
    np.testing.assert_allclose(
        table["margin"], np.diff(np.sort(table[LABELS], axis=1))[:, -1], rtol=1e-12
    )
    entry = adata.uns["m2st"]["register"]
    np.testing.assert_array_equal(entry["correlation"], table[LABELS])
    assert (entry["label_key"], entry["n_genes"]) == ("layer", 60)


def test_genes_in_another_order_and_few_shared_ones_do_not_matter() -> None:
    reference = section(1)
    expected = register(section(), reference[:, :40].copy(), "layer")
    mixed = reference[::-1, np.random.default_rng(0).permutation(40)].copy()
    mixed = ad.concat([mixed, section(1)[::-1, 40:50].copy()], axis=1, merge="first")
    mixed.var_names = [*mixed.var_names[:40], *(f"other{n}" for n in range(10))]
    mixed.obs = reference.obs.loc[mixed.obs_names]
    found = register(section(), mixed, "layer")
    # Library sizes have ten more genes.
    np.testing.assert_allclose(found[LABELS], expected[LABELS], atol=0.05)


def test_labels_may_be_missing_or_unused_but_not_numbers() -> None:
    reference = section(1)
    expected = register(section(), reference[reference.obs["layer"] != "L2"].copy(), "layer")
    reference.obs["layer"] = reference.obs["layer"].where(reference.obs["layer"] != "L2")
    assert "L2" in reference.obs["layer"].cat.categories
    found = register(section(), reference, "layer")
    # Other observations without a label say nothing but how deep a library is.
    np.testing.assert_allclose(found[["L1", "WM"]], expected[["L1", "WM"]], atol=0.02)
    reference.obs["number"] = reference.obs["layer"].map({"L1": 1.0, "WM": 2.0}).astype(float)
    for column in ("number", reference.obs["number"].astype("category")):
        if not isinstance(column, str):
            reference.obs["number"] = column
        with pytest.raises(TypeError, match=r"Expected names as labels .* found numbers"):
            register(section(), reference, "number")
    reference.obs["number"] = reference.obs["number"].astype("string")
    numbered = register(section(), reference, "number")
    np.testing.assert_array_equal(numbered[["1.0", "2.0"]], found[["L1", "WM"]])


def test_layers_logarithms_and_empty_domains() -> None:
    adata, reference = section(), section(1)
    expected = register(adata, reference, "layer")
    sc.pp.normalize_total(reference)
    sc.pp.log1p(reference)
    adata.layers["raw"] = adata.X.toarray()
    adata.X = None
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.add_categories("4")
    blank = AnnData(sparse.csr_matrix((2, 60), dtype=np.float32), var=reference.var)
    blank.obs["layer"], blank.obs_names = "blank", ["a", "b"]
    expected_there = register(section(), ad.concat([section(1), blank]), "layer")
    pd.testing.assert_frame_equal(expected_there, expected)
    found = register(adata, reference, "layer", layer="raw")
    np.testing.assert_allclose(found.loc[:"3", LABELS], expected[LABELS], atol=1e-4)
    assert found.loc["4", LABELS].isna().all()
    assert found.loc["4", "suggested"] == "4"
    reference.layers["logs"], reference.X = reference.X, None
    again = register(adata, reference, "layer", layer="raw", reference_layer="logs")
    pd.testing.assert_frame_equal(again, found)


def test_a_table_survives_a_file(tmp_path: Path) -> None:
    adata = section()
    register(adata, section(1), "layer")
    io.write(adata, tmp_path / "one.h5ad")
    entry = io.read(tmp_path / "one.h5ad").uns["m2st"]["register"]
    assert list(entry["suggested"]) == ["WM", "L1", "L2"]
    np.testing.assert_array_equal(
        entry["correlation"], adata.uns["m2st"]["register"]["correlation"]
    )


def test_expression_may_stay_in_a_file(tmp_path: Path) -> None:
    expected = register(section(), section(1), "layer")
    for seed in (0, 1):
        io.write(section(seed), tmp_path / f"{seed}.h5ad")
    adata, reference = (io.read(tmp_path / f"{seed}.h5ad", backed=True) for seed in (0, 1))
    pd.testing.assert_frame_equal(register(adata, reference, "layer"), expected)


def renamed(change: Callable[[str], str], **columns: Callable[[str], str]) -> AnnData:
    adata = section(1)
    names = adata.var_names
    adata.var_names = [change(name) for name in names]
    for column, of in columns.items():
        adata.var[column] = [of(name) for name in names]
    return adata


def ensembl(name: str) -> str:
    return f"ENSG{int(name[4:]):011d}"


def test_too_few_shared_genes_and_the_likely_cause() -> None:
    few = r"Expected at least 20 of the reference's genes in `adata\.var_names`, found 0\."
    kinds = r"The reference has Ensembl ids \(human\), and this section has gene symbols\."
    with pytest.raises(ValueError, match=rf"{few} {kinds} The reference has names such as ENSG"):
        register(section(), renamed(ensembl), "layer")
    fits = r"The column 'symbol' of `reference\.var` fits\. Call `reference\.var_names"
    with pytest.raises(ValueError, match=rf"{few} {kinds} {fits}"):
        register(section(), renamed(ensembl, symbol=str), "layer")
    ours = renamed(ensembl, symbol=str)
    with pytest.raises(ValueError, match=r"The column 'symbol' of `adata\.var` fits"):
        register(ours, section(1), "layer")
    with pytest.raises(ValueError, match=r"case only: .* Take a reference of the same species\."):
        register(section(), renamed(str.upper), "layer")
    with pytest.raises(ValueError, match="found 5"):
        register(section()[:, :5].copy(), section(1), "layer")
    assert "m2st" not in ours.uns


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a, r: a.obs.pop("m2st_domain"), KeyError, "tl.cluster"),
        (lambda a, r: r.obs.pop("layer"), KeyError, r"reference\.obs"),
        (lambda a, r: r.obs.insert(0, "x", "L1"), ValueError, "at least 2 different labels in"),
        (
            lambda a, r: r.obs.insert(0, "x", np.nan, allow_duplicates=True),
            ValueError,
            r"`reference\.obs\['x'\]`, found none",
        ),
        (lambda a, r: r.obs.insert(0, "x", r.X[:, 0].toarray() + 0.5), TypeError, "found num"),
        (lambda a, r: r.obs.insert(0, "x", [[1]] * 90), TypeError, "values such as lists"),
        (
            lambda a, r: r.obs.insert(0, "x", ["margin", "L1"] * 45),
            ValueError,
            "names of the table's columns, found 'margin'",
        ),
        (lambda a, r: setattr(r, "X", -r.X), ValueError, "down to .*with `reference_layer=`"),
        (lambda a, r: setattr(a, "X", a.X * np.nan), ValueError, "NaN or infinity.*`layer=`"),
        (lambda a, r: setattr(r, "X", None), ValueError, r"Expected expression in `reference\.X`"),
        (lambda a, r: setattr(a, "X", 0 * a.X), ValueError, "for observations of at least 2"),
        (
            lambda a, r: setattr(r, "var_names", ["Gene1"] * 60),
            ValueError,
            r"unique `reference\.var_names`",
        ),
    ],
)
def test_unfit_objects_are_refused(
    change: Callable[[AnnData, AnnData], object], error: type[Exception], match: str
) -> None:
    adata, reference = section(), section(1)
    change(adata, reference)
    with pytest.raises(error, match=match):
        register(adata, reference, "x" if "x" in reference.obs else "layer")
    assert adata.uns == {}


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="`n_top_genes` to be at least 10, found 2"):
        register(section(), section(1), "layer", n_top_genes=2)
    with pytest.raises(TypeError, match="Expected an AnnData object, found str"):
        register(section(), "spatialLIBD", "layer")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match=r"'logs' in `reference\.layers`"):
        register(section(), section(1), "layer", reference_layer="logs")
    adata = section()
    many = AnnData(sparse.vstack([adata.X] * 12), var=adata.var)
    many.obs["m2st_domain"] = range(1080)
    with pytest.raises(ValueError, match="at most 1,000 different labels"):
        register(many, section(1), "layer")


# ---- markers


def test_scores_of_markers_are_highest_where_the_genes_are() -> None:
    adata = section()
    register(adata, adata, "layer")
    profile = pd.DataFrame(adata.X.toarray(), columns=adata.var_names)
    means = profile.groupby(adata.obs["layer"].to_numpy()).mean()
    ratio = means / means.mean()
    sets = {layer: ratio.loc[layer].nlargest(5).index.tolist() for layer in LABELS}
    table = score_markers(adata, sets)
    assert table.idxmax(axis=1).tolist() == ["WM", "L1", "L2"]
    logs = adata.copy()
    sc.pp.normalize_total(logs)
    sc.pp.log1p(logs)
    scores = stats.zscore(logs[:, sets["WM"]].X.toarray()).mean(axis=1)
    assert table.loc["1", "WM"] == pytest.approx(scores[60:].mean(), abs=1e-4)


def test_unfit_markers_are_refused() -> None:
    with pytest.warns(UserWarning, match="the 2 genes of the set 'one' .* found 1. .* out: MBP"):
        assert score_markers(section(), {"one": ["Gene1", "MBP"]}).shape == (3, 1)
    for wrong in ({}, ["Gene1"]):
        with pytest.raises(TypeError, match="Expected `markers` to give genes by the name"):
            score_markers(section(), wrong)  # type: ignore[arg-type]
    for wrong in ("Gene1", [], [1]):
        with pytest.raises(TypeError, match="Expected a list of genes for 'one'"):
            score_markers(section(), {"one": wrong})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"genes of the set 'one' .* case only"):
        score_markers(section(), {"one": ["GENE1", "GENE2"]})
    with pytest.raises(KeyError, match=r"tl\.cluster"):
        score_markers(AnnData(np.ones((3, 3))), {"one": ["0"]})


# ---- new names


def test_names_change_and_nothing_else() -> None:
    adata = section()
    table = register(adata, section(1), "layer")
    adata.obs["m2st_confidence"] = np.linspace(0, 1, 90)
    adata.uns["m2st_domain_colors"] = ["#000000", "#0072b2", "#e69f00"]
    before = adata.copy()
    rename_domains(adata, table["suggested"])
    assert list(adata.obs["m2st_domain"].cat.categories) == ["WM", "L1", "L2"]
    assert (adata.obs["m2st_domain"] == adata.obs["layer"].astype(str)).all()
    np.testing.assert_array_equal(
        adata.obs["m2st_domain"].cat.codes, before.obs["m2st_domain"].cat.codes
    )
    assert adata.uns["m2st_domain_colors"] == before.uns["m2st_domain_colors"]
    pd.testing.assert_frame_equal(
        adata.obs.drop(columns="m2st_domain"), before.obs.drop(columns="m2st_domain")
    )
    entry = adata.uns["m2st"]["register"]
    assert entry["domains"] == entry["suggested"]
    rename_domains(adata, {"WM": "L1", "L1": "WM"})
    assert list(adata.obs["m2st_domain"].cat.categories) == ["L1", "WM", "L2"]
    assert adata.uns["m2st"]["register"]["domains"] == ["L1", "WM", "L2"]


def test_missing_domains_stay_missing_and_other_results_as_they_are() -> None:
    adata = section()
    adata.obs["mine_domain"] = adata.obs["m2st_domain"].mask(np.arange(90) < 5)
    adata.uns["mine"] = {"n_members": 1, "cluster": {"n_domains": 3}}
    rename_domains(adata, {"2": "layer 1"}, key_added="mine")
    assert adata.obs["mine_domain"].isna().sum() == 5
    assert list(adata.obs["mine_domain"].cat.categories) == ["1", "layer 1", "3"]
    assert list(adata.obs["m2st_domain"].cat.categories) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ({"9": "WM"}, KeyError, r"\(1, 2, 3\), found '9'"),
        ({1: "WM"}, KeyError, "found 1"),
        ({"1": "2"}, ValueError, "found '2' for '1' and '2'. Domains are not merged"),
        ({"1": "WM", "2": "WM"}, ValueError, "found 'WM' for '1' and '2'"),
        ({"1": " "}, ValueError, "not empty, found ' '"),
        ({"1": 5}, TypeError, r"Expected texts as new names of domains, found 5 \(int\)"),
        (pd.DataFrame({"suggested": ["WM"]}), TypeError, r"its column: `names\['suggested'\]`"),
        (["WM", "L1", "L2"], TypeError, r"such as `\{'1': 'white matter'\}`, found \['WM'"),
    ],
)
def test_unfit_names_are_refused(names: Any, error: type[Exception], match: str) -> None:
    adata = section()
    with pytest.raises(error, match=match):
        rename_domains(adata, names)
    assert list(adata.obs["m2st_domain"].cat.categories) == ["1", "2", "3"]


def test_no_domains_to_rename() -> None:
    with pytest.raises(KeyError, match=r"tl\.cluster"):
        rename_domains(AnnData(np.ones((3, 3))), {"1": "WM"})


def test_pictures_and_the_report_show_the_names(tmp_path: Path) -> None:
    adata = section()
    adata.obsm["spatial"] = np.array([[x, y] for x in range(9) for y in range(10)], dtype=float)
    rename_domains(adata, {"1": "white <matter>", "2": "layer 1"})
    legend = next(artist for artist in pl.domains(adata).artists if hasattr(artist, "get_texts"))
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["white <matter> (30)", "layer 1 (30)", "3 (30)"]
    report(adata, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "white &lt;matter&gt;" in page
    assert "layer 1" in page


def test_a_new_clustering_drops_the_table_of_the_old() -> None:
    adata = datasets.simulate_cortex(n_obs=300, n_genes=200)
    quick = AutoencoderParams(n_members=1, n_epochs=5)
    model = run(adata, 4, autoencoder=quick, progress=False)
    table = register(adata, adata, "domain")
    rename_domains(adata, table["suggested"])
    cluster(adata, 5, key_added="five")
    assert "register" in adata.uns["m2st"]
    assert "register" not in adata.uns["five"]
    cluster(adata, 3)
    assert "register" not in adata.uns["m2st"]
    assert list(adata.obs["m2st_domain"].cat.categories) == ["1", "2", "3"]
    register(adata, adata, "domain")
    model.apply(adata)
    assert "register" not in adata.uns["m2st"]
    rename_domains(adata, table["suggested"])
    assert list(adata.obs["m2st_domain"].cat.categories) == table["suggested"].tolist()


# ---- the picture


def test_the_picture_shows_numbers_and_names_within_the_page(tmp_path: Path) -> None:
    adata = section()
    adata.obs["m2st_domain"] = adata.obs["m2st_domain"].cat.add_categories("4")
    table = register(adata, section(1), "layer")
    rename_domains(adata, {"1": "a name that is as long as a $entence_with words"})
    io.write(adata, tmp_path / "one.h5ad")
    figure = pl.registration(io.read(tmp_path / "one.h5ad"))
    axes = figure.axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["a name that is as long as a $…", "2 → L1", "3 → L2", "4"]
    assert [label.get_text() for label in axes.get_xticklabels()] == LABELS
    numbers = [f"{value:.2f}".replace("-", "−") for value in table.loc["1", LABELS]]
    assert [text.get_text() for text in axes.texts] == [
        *numbers,
        *(text.get_text() for text in axes.texts[3:9]),
        *"–––",
    ]
    framed = [tuple(np.round(patch.get_xy())) for patch in axes.patches]
    assert framed == [(2, 0), (0, 1), (1, 2)]
    figure.draw_without_rendering()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()


@pytest.mark.parametrize(
    "change",
    [
        {"correlation": np.zeros((2, 3))},
        {"suggested": ["WM"]},
        {"labels": [1, 2, 3]},
        {"n_genes": "many"},
    ],
)
def test_no_table_or_a_damaged_one(change: dict[str, object]) -> None:
    adata = section()
    with pytest.raises(KeyError, match=r"Run `m2st\.tl\.register\(.*label_key\)` first"):
        pl.registration(adata)
    register(adata, section(1), "layer")
    adata.uns["m2st"]["register"] |= change
    with pytest.raises(KeyError, match=r"'register' in `adata\.uns\['m2st'\]`"):
        pl.registration(adata)
