"""The published method through the engine: settings, slots, record, pictures, saved models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

import m2st
from m2st.cli import app
from m2st.paper import DualClustering, DualParams

FEW = m2st.AutoencoderParams(n_members=1, scale_dims=(8, 4), hidden_dim=8, n_heads=2, n_epochs=3)
DUAL = DualParams(specific_dim=2, n_init=2)


def embedded(n_members: int = 1) -> ad.AnnData:
    """Three bands of tissue whose embeddings differ."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], 40)
    adata = ad.AnnData(
        obs=pd.DataFrame({"truth": truth}, index=[f"o{number}" for number in range(120)]),
        obsm={
            "spatial": np.column_stack([np.arange(120) // 8, np.arange(120) % 8]).astype(float),
            **{
                f"X_m2st_scale{m}": np.concatenate(
                    [
                        rng.normal(size=(120, width)) + 6 * rng.normal(size=(3, width))[truth]
                        for _ in range(n_members)
                    ],
                    axis=1,
                ).astype(np.float32)
                for m, width in ((1, 6), (2, 4))
            },
        },
        uns={"m2st": {"n_members": n_members}},
    )
    m2st.pp.spatial_graph(adata)
    return adata


def test_the_settings_decide_the_clustering() -> None:
    adata = embedded()
    (fit,) = m2st.tl.cluster(adata, 3, DUAL)
    assert isinstance(fit, DualClustering)
    assert adjusted_rand_score(adata.obs["truth"], adata.obs["m2st_domain"]) == 1
    assert adata.obs["m2st_domain"].cat.categories.tolist() == ["1", "2", "3"]
    # Hard labels of a single member say nothing of how sure they are.
    assert adata.obs["m2st_confidence"].isna().all()
    np.testing.assert_array_equal(adata.obsm["X_m2st"], fit.common_.astype(np.float32))
    record = adata.uns["m2st"]["cluster"]
    assert record["method"] == "dual"
    assert DualParams.from_dict(record["params"]) == DUAL.for_domains(3)
    assert record["objective"].shape == (1, len(fit.objective_))
    assert record["start_objectives"].shape == (1, 2)
    assert record["scale_weights"].shape == (1, 3)
    m2st.tl.cluster(adata, 3, m2st.ClusteringParams(n_init=1))
    assert adata.uns["m2st"]["cluster"]["method"] == "mixture"
    assert adata.obs["m2st_confidence"].notna().all()


def test_members_agree_on_a_share(tmp_path: Path) -> None:
    adata = embedded(3)
    fits = m2st.tl.cluster(adata, 3, DUAL)
    assert adjusted_rand_score(adata.obs["truth"], adata.obs["m2st_domain"]) == 1
    assert adata.obs["m2st_confidence"].to_numpy() == pytest.approx(1)
    m2st.report(adata, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "The confidence is the share of the models that agree." in page
    common = np.concatenate([fit.common_ for fit in fits], axis=1)
    np.testing.assert_array_equal(adata.obsm["X_m2st"], common.astype(np.float32))


def test_the_published_rule_does_not_ask_whether_it_converged() -> None:
    adata = embedded()
    m2st.tl.cluster(adata, 3, DualParams(specific_dim=2, solver="published", max_iter=5))
    assert "converged" not in adata.uns["m2st"]["cluster"]


def test_a_result_without_confidence_is_told_plainly(tmp_path: Path) -> None:
    adata = embedded()
    m2st.tl.cluster(adata, 3, DUAL)
    figure = m2st.pl.confidence(adata)
    assert "missing (120)" in [text.get_text() for text in figure.findobj(Text)]
    m2st.report(adata, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "There is a single model, so there is no confidence." in page
    assert "There is no confidence in this object." in page
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").obs["m2st_confidence"].isna().all()


def test_a_saved_model_places_other_observations(tmp_path: Path) -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=150, n_genes=80)
    adata.obsm["mine"] = np.asarray(adata.X.todense())[:, :20].astype(float)
    fitted = adata.copy()
    model = m2st.run(fitted, 3, use_rep="mine", autoencoder=FEW, clustering=DUAL, progress=False)
    model.save(tmp_path / "model")
    other = adata.copy()
    m2st.load(tmp_path / "model").apply(other)
    assert adjusted_rand_score(fitted.obs["m2st_domain"], other.obs["m2st_domain"]) > 0.6
    assert other.obs["m2st_confidence"].isna().all()
    assert other.obsm["X_m2st"].shape == (150, 3)


def test_a_section_is_transformed_by_the_clusterings() -> None:
    adata = cortex()
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    networks = m2st.tl.embed(adata, FEW, progress=False)
    fits = m2st.tl.cluster(adata, 3, DUAL)
    other = adata.copy()
    m2st.tl.transform(other, networks, fits)
    assert adjusted_rand_score(adata.obs["m2st_domain"], other.obs["m2st_domain"]) > 0.6
    assert other.obs["m2st_confidence"].isna().all()
    with pytest.raises(TypeError, match="a list of MultiScaleClustering or DualClustering, found"):
        m2st.tl.transform(other, networks, ["mine"])  # type: ignore[list-item]


def test_the_number_of_domains_has_to_be_given() -> None:
    adata = m2st.datasets.simulate_cortex(n_obs=80, n_genes=80)
    before = set(adata.uns)
    with pytest.raises(ValueError, match=r"Expected a number of domains .*, found \"auto\""):
        m2st.run(adata, "auto", clustering=DUAL)
    assert set(adata.uns) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": -1}, r"Expected `ridge` in \[0, inf\), found -1"),
        ({"solver": "newton"}, "Expected `solver` to be one of 'descent', 'published', found"),
        ({"tol": 1}, r"Expected `tol` in \[0, 1\), found 1"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DualParams(**settings)  # type: ignore[arg-type]


def cortex() -> ad.AnnData:
    return m2st.datasets.simulate_cortex(n_obs=150, n_genes=80)


def test_run_is_prepare_and_the_engine() -> None:
    adata, steps = cortex(), cortex()
    params = replace(m2st.paper.AUTOENCODER, n_epochs=3)
    m2st.paper.run(adata, 3, n_pcs=20, autoencoder=params, clustering=DUAL, progress=False)
    m2st.pp.spatial_graph(steps)
    m2st.paper.prepare(steps, n_pcs=20)
    m2st.tl.embed(steps, params, progress=False)
    m2st.tl.cluster(steps, 3, DUAL)
    pd.testing.assert_series_equal(adata.obs["m2st_domain"], steps.obs["m2st_domain"])
    for key in ("X_m2st_pca", "X_m2st_scale1", "X_m2st_scale2", "X_m2st"):
        np.testing.assert_array_equal(adata.obsm[key], steps.obsm[key])
    record = adata.uns["m2st"]
    assert record["prepare"]["recipe"] == "paper"
    assert record["cluster"]["method"] == "dual"
    assert record["embed"]["params"]["use_prelu"] is True


def test_run_under_a_name() -> None:
    adata = cortex()
    params = replace(m2st.paper.PUBLISHED_CODE, n_epochs=2)
    m2st.paper.run(adata, 3, n_pcs=20, autoencoder=params, progress=False, key_added="published")
    assert {"published_domain", "published_confidence"} <= set(adata.obs)
    assert adata.obsm["X_published_pca"].shape == (150, 20)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"n_domains": 151}, ValueError, "no more `n_domains` than observations, 150, found 151"),
        ({"n_domains": "auto"}, ValueError, 'Expected a number of domains .*, found "auto"'),
        (
            {"clustering": m2st.ClusteringParams()},
            TypeError,
            r"as `clustering`, found ClusteringParams. Write `m2st.paper.DualParams\(...\)`",
        ),
        ({"n_pcs": 0}, ValueError, "Expected `n_pcs` to be at least 1, found 0"),
        ({"device": "gpu"}, ValueError, "`device`"),
        ({"layer": "raw"}, KeyError, "raw"),
    ],
)
def test_what_is_wrong_is_told_before_any_work(
    given: dict[str, Any], error: type[Exception], message: str
) -> None:
    adata = cortex()
    before = set(adata.obsm)
    with pytest.raises(error, match=message):
        m2st.paper.run(adata, **{"n_domains": 3, **given})
    assert set(adata.obsm) == before


def test_on_the_command_line(tmp_path: Path) -> None:
    cortex().write_h5ad(tmp_path / "in.h5ad")
    given = ["run", str(tmp_path / "in.h5ad"), "-k", "3", "-o", str(tmp_path / "out.h5ad")]
    few = ["--epochs", "3", "--n-pcs", "20", "--set", "solver=published", "--set", "max_iter=5"]
    done = CliRunner().invoke(app, [*given, "--paper", *few])
    assert done.exit_code == 0, done.output
    assert "No confidence: a single model gave labels without probabilities" in done.output
    found, wanted = ad.read_h5ad(tmp_path / "out.h5ad"), cortex()
    m2st.paper.run(
        wanted,
        3,
        n_pcs=20,
        autoencoder=replace(m2st.paper.AUTOENCODER, n_epochs=3),
        clustering=DualParams(solver="published", max_iter=5),
        progress=False,
    )
    assert found.obs["m2st_domain"].tolist() == wanted.obs["m2st_domain"].tolist()
    refused = CliRunner().invoke(app, [*given, "--paper", "--normalized", "--overwrite"])
    assert refused.exit_code != 0
    assert "Expected neither `--use-rep` nor `--normalized` with `--paper`" in refused.output
    model = ["--overwrite", "--save-model", str(tmp_path / "model")]
    refused = CliRunner().invoke(app, [*given, "--paper", *model])
    assert refused.exit_code != 0
    assert "applies to no other section" in refused.output
    refused = CliRunner().invoke(app, [*given, "--overwrite", "--paper", "--batch-key", "donor"])
    assert refused.exit_code != 0
    assert "Expected no `--batch-key` with `--paper`" in refused.output
