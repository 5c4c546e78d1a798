"""Results side by side in one object, each under a name of its own."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tests.command import call

import m2st

QUICK = m2st.AutoencoderParams(n_members=2, n_epochs=5, scale_dims=(8, 4), hidden_dim=16)
KEYS = {
    "obs": {"m2st_domain", "m2st_confidence"},
    "obsm": {
        "spatial", "X_m2st", "X_m2st_pca", "X_m2st_pca_no_neighbors",
        "X_m2st_scale1", "X_m2st_scale2", "X_m2st_averages",
    },
    "uns": {"m2st", "spatial_neighbors"},
}  # fmt: skip


@pytest.fixture(scope="module")
def made() -> ad.AnnData:
    """An object with a result of the default name."""
    adata = m2st.datasets.simulate_cortex(n_obs=150, n_genes=80)
    del adata.obs["domain"]
    m2st.run(adata, 3, autoencoder=QUICK, progress=False)
    return adata


@pytest.fixture
def adata(made: ad.AnnData) -> ad.AnnData:
    return made.copy()


def keys(adata: ad.AnnData) -> dict[str, set[str]]:
    """Keys of an object in the slots that results are written into, less those of the data."""
    known = {"in_tissue", "array_row", "array_col", "sample", "simulation"}
    found = {slot: set(getattr(adata, slot)) - known for slot in KEYS}
    found["uns"] -= {"spatial"}
    return found


def named(name: str, slot: str) -> set[str]:
    return {key.replace("m2st", name) for key in KEYS[slot] if "m2st" in key}


def same(one: Any, other: Any) -> None:
    """Require equal values, whatever they are made of."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    else:
        np.testing.assert_array_equal(one, other)


def test_numbers_of_domains_live_side_by_side(adata: ad.AnnData, made: ad.AnnData) -> None:
    m2st.tl.cluster(adata, 2, key_added="m2st_2")
    m2st.tl.cluster(adata, 5, key_added="m2st_5", embedding_key="m2st")
    assert keys(made) == KEYS
    new = {"m2st_2_domain", "m2st_2_confidence", "m2st_5_domain", "m2st_5_confidence"}
    assert keys(adata)["obs"] - KEYS["obs"] == new
    assert keys(adata)["obsm"] - KEYS["obsm"] == {"X_m2st_2", "X_m2st_5"}
    assert keys(adata)["uns"] - KEYS["uns"] == {"m2st_2", "m2st_5"}
    same(adata.uns["m2st"], made.uns["m2st"])
    pd.testing.assert_frame_equal(adata.obs[made.obs.columns], made.obs)
    assert adata.obs["m2st_2_domain"].nunique() == 2
    record = adata.uns["m2st_5"]
    assert record["cluster"]["n_domains"] == 5
    assert record["cluster"]["embedding_key"] == "m2st"
    kept = ("embed", "prepare", "graph", "n_members")
    same({step: record[step] for step in kept}, {step: made.uns["m2st"][step] for step in kept})
    # The same as in the place of the first result.
    again = made.copy()
    m2st.tl.cluster(again, 5)
    np.testing.assert_array_equal(again.obs["m2st_domain"], adata.obs["m2st_5_domain"])
    np.testing.assert_array_equal(again.obs["m2st_confidence"], adata.obs["m2st_5_confidence"])
    np.testing.assert_array_equal(again.obsm["X_m2st"], adata.obsm["X_m2st_5"])


def test_a_run_under_another_name_is_the_same_run(adata: ad.AnnData, made: ad.AnnData) -> None:
    adata.obs["zone2_domain"] = "mine"
    adata.obsm["X_zone_scale1_mine"] = np.ones((150, 2))
    before = adata.copy()
    m2st.run(adata, 3, autoencoder=QUICK, progress=False, key_added="zone")
    for slot in ("obs", "obsm"):
        for key in named("zone", slot):
            theirs = getattr(made, slot)[key.replace("zone", "m2st")]
            np.testing.assert_array_equal(getattr(adata, slot)[key], theirs)
        for key in getattr(before, slot):
            np.testing.assert_array_equal(getattr(adata, slot)[key], getattr(before, slot)[key])
    same(adata.uns["m2st"], made.uns["m2st"])
    found, expected = deepcopy(adata.uns["zone"]), deepcopy(made.uns["m2st"])
    assert found["embed"].pop("use_rep") == "X_zone_pca"
    assert expected["embed"].pop("use_rep") == "X_m2st_pca"
    del expected["spots"]  # of the graph, which both share
    same(found, expected)

    m2st.tl.cluster(adata, 2, key_added="zone_2", embedding_key="zone")
    fewer = m2st.AutoencoderParams(n_members=1, n_epochs=5, scale_dims=(8,), hidden_dim=16)
    m2st.tl.embed(adata, fewer, progress=False, key_added="zone")
    assert "X_zone_scale2" not in adata.obsm
    assert "zone_domain" not in adata.obs
    assert "cluster" not in adata.uns["zone"]
    assert adata.uns["zone"]["embed"]["use_rep"] == "X_zone_pca"
    # What is the user's, another result's, or was clustered from the earlier embeddings stays.
    assert {"m2st_domain", "zone2_domain", "zone_2_domain"} <= set(adata.obs)
    assert {"X_m2st_scale2", "X_zone_scale1_mine", "X_zone_2"} <= set(adata.obsm)
    assert adata.uns["zone_2"]["n_members"] == 2


def test_members_of_two_settings_from_the_same_features(adata: ad.AnnData) -> None:
    m2st.tl.embed(adata, QUICK, progress=False, random_state=1, key_added="other")
    assert adata.uns["other"]["embed"]["use_rep"] == "X_m2st_pca"
    same(adata.uns["other"]["prepare"], adata.uns["m2st"]["prepare"])
    m2st.tl.cluster(adata, 3, key_added="other")
    assert "embedding_key" not in adata.uns["other"]["cluster"]
    assert not np.array_equal(adata.obsm["X_other"], adata.obsm["X_m2st"])
    m2st.tl.choose_n_domains(adata, [2, 3], key_added="other")
    assert "n_domains" in adata.uns["other"]
    assert "n_domains" not in adata.uns["m2st"]
    assert m2st.pl.n_domains(adata, key_added="other").axes


def test_transform_writes_under_the_name(made: ad.AnnData) -> None:
    adata = made.copy()
    models = m2st.tl.embed(adata, QUICK, progress=False)
    fits = m2st.tl.cluster(adata, 3)
    m2st.tl.transform(adata, models, fits, key_added="again")
    assert adata.uns["again"]["n_members"] == 2
    np.testing.assert_array_equal(adata.obsm["X_again_scale1"], adata.obsm["X_m2st_scale1"])
    m2st.tl.transform(adata, models, fits)
    np.testing.assert_array_equal(adata.obs["again_domain"], adata.obs["m2st_domain"])


def test_a_model_is_applied_under_the_name(made: ad.AnnData) -> None:
    adata = made.copy()
    model = m2st.run(adata, 3, autoencoder=QUICK, progress=False, key_added="zone")
    model.apply(adata, key_added="zone_again")
    assert m2st.metrics.ari(adata.obs["zone_domain"], adata.obs["zone_again_domain"]) > 0.9
    assert keys(adata)["obsm"] - KEYS["obsm"] - named("zone", "obsm") == {
        key for key in named("zone_again", "obsm") if not key.endswith("no_neighbors")
    }
    assert adata.uns["zone_again"]["apply"]["n_domains"] == 3
    same(adata.uns["zone_again"]["graph"], made.uns["m2st"]["graph"])
    same(adata.uns["m2st"], made.uns["m2st"])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (7, TypeError, r"Expected `key_added` to be a name, found 7 \(int\)"),
        ("", ValueError, "of letters, digits, '_', '-' and '.', with a letter or a digit first"),
        ("a/b", ValueError, r"of letters, digits.*found 'a/b'\. Choose another name"),
        ("_zone", ValueError, "of letters, digits"),
        ("my zone", ValueError, "of letters, digits"),
        ("spatial", ValueError, "to be a name of its own, found 'spatial'"),
        ("m2st_pca", ValueError, "to be a name of its own, found 'm2st_pca'"),
        ("m2st_scale1", ValueError, "ends like a key of m2ST"),
        ("theirs", ValueError, r"found `adata\.obs\['theirs_domain'\]`, which m2ST has not"),
        ("umap", ValueError, r"found `adata\.obsm\['X_umap'\]`, which m2ST has not written"),
        ("mine", ValueError, r"found `adata\.obsm\['X_mine_pca'\]`, which m2ST has not"),
        ("leiden", ValueError, r"found `adata\.uns\['leiden'\]`, which m2ST has not"),
        ("text", ValueError, r"found `adata\.uns\['text'\]`, which m2ST has not written"),
        ("broken", TypeError, r"Expected `adata\.uns\['broken'\]\['embed'\]` to be a record of m2"),
    ],
)
def test_names_that_would_take_a_place(
    adata: ad.AnnData, name: Any, error: type[Exception], message: str
) -> None:
    adata.obs["theirs_domain"] = "cortex"
    adata.obsm["X_umap"] = np.zeros((150, 2))
    adata.obsm["X_mine_pca"] = np.zeros((150, 2))
    adata.uns["leiden"] = {"params": {"resolution": 1}}
    adata.uns["text"] = "a note"
    adata.uns["broken"] = {"n_members": 2, "embed": 1}
    before = adata.copy()
    steps = {
        "run": lambda: m2st.run(adata, 3, progress=False, key_added=name),
        "prepare": lambda: m2st.pp.prepare(adata, key_added=name),
        "prepare_embedding": lambda: m2st.pp.prepare_embedding(adata, "X_m2st_pca", key_added=name),
        "paper.prepare": lambda: m2st.paper.prepare(adata, key_added=name),
        "embed": lambda: m2st.tl.embed(adata, progress=False, key_added=name),
        "cluster": lambda: m2st.tl.cluster(adata, 3, key_added=name),
        "choose": lambda: m2st.tl.choose_n_domains(adata, key_added=name),
    }
    for step in steps.values():
        with pytest.raises(error, match=message):
            step()
    assert keys(adata) == keys(before)
    same(dict(adata.uns), dict(before.uns))


def test_embeddings_of_the_name_are_not_mixed_with_others(adata: ad.AnnData) -> None:
    m2st.tl.embed(adata, QUICK, progress=False, key_added="zone")
    with pytest.raises(ValueError, match="`key_added='zone'` to name no other embeddings than tho"):
        m2st.tl.cluster(adata, 3, embedding_key="m2st", key_added="zone")
    for key, name in (("none", "zone_3"), ("none", "m2st"), (1, "zone_3")):
        with pytest.raises(KeyError, match=r"with embeddings, found .*\(there are: m2st, zone\)"):
            m2st.tl.cluster(adata, 3, embedding_key=key, key_added=name)  # type: ignore[arg-type]


def test_both_are_drawn_and_reported(adata: ad.AnnData, tmp_path: Path) -> None:
    m2st.tl.cluster(adata, 2, key_added="m2st_2")
    for name, n_domains in (("m2st", 3), ("m2st_2", 2)):
        assert m2st.pl.domains(adata, key_added=name).axes
        assert len(adata.uns[f"{name}_domain_colors"]) == n_domains
        assert m2st.pl.confidence(adata, key_added=name).axes
        assert m2st.pl.training(adata, key_added=name).axes
        assert m2st.pl.scale_weights(adata, key_added=name).axes
        page = tmp_path / f"{name}.html"
        other = {"m2st": "m2st_2_domain", "m2st_2": "m2st_domain"}[name]
        m2st.report(adata, page, key_added=name, columns=[other])
        text = page.read_text(encoding="utf-8")
        assert f"{n_domains} domains" in text
        assert other in text
    with pytest.raises(KeyError, match=r"Expected 'none' in `adata\.uns` \(found: .*m2st_2"):
        m2st.pl.training(adata, key_added="none")
    with pytest.raises(KeyError, match=r"Expected 'none_domain' in `adata\.obs`"):
        m2st.report(adata, tmp_path / "none.html", key_added="none")


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_both_are_saved_and_read(adata: ad.AnnData, tmp_path: Path, suffix: str) -> None:
    m2st.tl.cluster(adata, 2, key_added="m2st_2")
    m2st.io.write(adata, tmp_path / f"two{suffix}")
    found = m2st.io.read(tmp_path / f"two{suffix}")
    assert keys(found) == keys(adata)
    for name in ("m2st", "m2st_2"):
        np.testing.assert_array_equal(found.obs[f"{name}_domain"], adata.obs[f"{name}_domain"])
        np.testing.assert_array_equal(found.obsm[f"X_{name}"], adata.obsm[f"X_{name}"])
        same(found.uns[name], adata.uns[name])
    # What was read goes on: one more, and one again.
    m2st.tl.cluster(found, 4, key_added="m2st_4")
    m2st.tl.cluster(found, 2, key_added="m2st_2")
    np.testing.assert_array_equal(found.obs["m2st_2_domain"], adata.obs["m2st_2_domain"])


def test_both_by_command_line(tmp_path: Path) -> None:
    data, one, two = (tmp_path / f"{name}.h5ad" for name in ("data", "one", "two"))
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=150, n_genes=80), data)
    quick = ("--members", "1", "--epochs", "5", "--scale-dims", "8,4", "-q")
    assert call("run", data, "-k", "3", "-o", one, *quick).returncode == 0
    found = call(
        "run", one, "-k", "2", "-o", two, "--key-added", "zone", *quick,
        "--plots", tmp_path / "plots",
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (0, "")
    adata = m2st.io.read(two)
    assert adata.obs[["m2st_domain", "zone_domain"]].nunique().tolist() == [3, 2]
    assert adata.uns["zone"]["cluster"]["n_domains"] == 2
    for name in ("m2st", "zone"):
        page = tmp_path / f"{name}.html"
        assert call("report", two, "-o", page, "--key-added", name, "-q").returncode == 0
        n_domains = adata.uns[name]["cluster"]["n_domains"]
        assert f"{n_domains} domains" in page.read_text(encoding="utf-8")
    refused = call("run", one, "-k", "2", "-o", tmp_path / "no.h5ad", "--key-added", "spatial")
    assert refused.returncode == 1
    assert "Expected `--key-added` to be a name of its own, found 'spatial'" in refused.stderr
