"""The comparison of methods, run by a real R."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.command import call

import m2st
from m2st import compare, metrics
from m2st.compare import _methods
from m2st.compare._for_r import _apart

ROOT = Path(__file__).parents[1]
SHAPE = (10, 12)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Value of R_LIBS with this repository's R package in front."""
    if shutil.which("Rscript") is None:
        pytest.skip("R not found")
    place = tmp_path_factory.mktemp("library")
    options = ["--no-docs", "--no-test-load", f"--library={place}"]
    subprocess.run(
        ["R", "CMD", "INSTALL", *options, str(ROOT / "rpackage")], check=True, capture_output=True
    )
    return os.pathsep.join(filter(None, [str(place), os.environ.get("R_LIBS")]))


@pytest.fixture
def _r(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R_LIBS", library)


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    """Two halves of a square lattice; a spot without annotation, and one without counts."""
    rng = np.random.default_rng(3)
    row, column = (part.ravel() for part in np.indices(SHAPE))
    upper = column >= SHAPE[1] // 2
    genes = np.arange(60) >= 30
    counts = rng.poisson(np.where(genes[None] == upper[:, None], 5.0, 1.0)).astype(np.float32)
    counts[7] = 0
    adata = ad.AnnData(sparse.csr_matrix(counts))
    adata.obs["layer"] = pd.Categorical(np.where(upper, 'with "quotes", and more', "lower"))
    adata.obs.iloc[3, 0] = np.nan
    adata.obs["array_row"], adata.obs["array_col"] = row, column
    adata.obsm["spatial"] = np.column_stack([column, row]) * 100.0 + 0.1
    return adata


def test_the_command_writes_one_table(section: ad.AnnData, library: str, tmp_path: Path) -> None:
    source, table, labels = (tmp_path / name for name in ("in.h5ad", "out.csv", "labels.csv"))
    section.write_h5ad(source)
    done = call(
        "compare", source, "-k", "2", "--truth", "layer", "-o", table, "--labels", labels,
        env={**os.environ, "R_LIBS": library},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Running m2ST, seed 0" in done.stderr
    assert f"Saved {table}" in done.stdout
    scores = pd.read_csv(table, index_col="method")
    found = pd.read_csv(labels, index_col=0)
    assert list(scores.index) == list(compare.METHODS)
    assert list(found.columns) == list(compare.METHODS)
    assert found.index.astype(str).equals(section.obs_names)
    ran = scores["note"].isna()
    assert ran["m2ST"]
    assert scores.loc["m2ST", "version"] == f"m2st {m2st.__version__}"
    assert scores.loc["m2ST", "ARI"] > 0.9
    assert scores["machine"].str.contains("1 thread for each method").all()
    for name in scores.index:
        assert ran[name] == found[name].notna().any()
        if not ran[name]:
            assert scores.loc[name, "note"].startswith("failed: ")
            continue
        row, own = scores.loc[name], found[name]
        assert own.isna().to_numpy().nonzero()[0].tolist() == [7]
        assert (row["n_spots"], row["n_scored"]) == (119, 118)
        kept = own.notna().to_numpy()
        places = section.obsm["spatial"]
        expected = {
            "ARI": metrics.ari(section.obs["layer"], own),
            "NMI": metrics.nmi(section.obs["layer"], own),
            "purity": metrics.purity(section.obs["layer"], own),
            "CHAOS": metrics.chaos(places[kept], own[kept]),
            "PAS": metrics.pas(places[kept], own[kept]),
            "ARI_m2ST": metrics.ari(found["m2ST"], own),
        }
        np.testing.assert_allclose(row[list(expected)].astype(float), list(expected.values()))
        assert row["seconds"] > 0
    if importlib.util.find_spec("banksy") is None:
        assert "pip install pybanksy" in scores.loc["BANKSY", "note"]


@pytest.mark.usefixtures("_r")
def test_sections_seeds_and_options_reach_r(section: ad.AnnData) -> None:
    adata = ad.concat([section, section], keys=["a", "b"], label="part", index_unique="-")
    adata.layers["counts"] = adata.X
    adata.X = None
    quick = {"n_members": 2, "n_epochs": 5, "hidden_dim": 16, "scale_dims": [8, 4]}
    found = m2st.compare_methods(
        adata, 2, methods=["m2ST"], seeds=[1, 2], layer="counts", sample_key="part",
        options={"m2ST": quick},
    )  # fmt: skip
    assert found.table["seed"].tolist() == [1, 2]
    assert found.table["note"].tolist() == ["", ""]
    assert found.table["ARI"].isna().all()
    assert list(found.domains.columns) == ["m2ST_seed1", "m2ST_seed2"]
    assert found.domains.index.equals(adata.obs_names)
    # What R was asked for is what m2st.run gives, on the spots that have counts.
    kept = found.domains["m2ST_seed1"].notna().to_numpy()
    assert (~kept).nonzero()[0].tolist() == [7, 127]
    again = adata[kept].copy()
    again.X = again.layers["counts"]
    autoencoder = m2st.AutoencoderParams(**{**quick, "scale_dims": (8, 4)})
    m2st.run(
        again, 2, sample_key="part", autoencoder=autoencoder, random_state=1, progress=False
    )  # fmt: skip
    assert metrics.ari(again.obs["m2st_domain"], found.domains["m2ST_seed1"][kept]) == 1


@pytest.mark.usefixtures("_r")
def test_a_further_method_is_a_function(
    section: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _methods._run_r

    def whole_seconds(program: str, folder: Path) -> None:
        # As on a fast machine: R rounds, and fractions follow for the further methods.
        run(program, folder)
        table = pd.read_csv(folder / "table.csv")
        table.assign(seconds=table["seconds"].round().astype(int)).to_csv(
            folder / "table.csv", index=False
        )

    monkeypatch.setattr(_methods, "_run_r", whole_seconds)

    def halves(
        counts: sparse.csr_matrix, coordinates: np.ndarray, n_domains: int, seed: int
    ) -> list[str]:
        assert (counts.shape, n_domains, seed) == ((119, 60), 2, 3)
        return ["left" if x < 600 else "right" for x in coordinates[:, 0]]

    def broken(*_: Any) -> list[str]:
        return ["too few"]

    found = m2st.compare_methods(
        section, 2, truth="layer", methods=[], seeds=[3], further={"mine": halves, "bad": broken}
    )
    table = found.table.set_index("method")
    assert table.loc["mine", "ARI"] > 0.9
    assert table.loc["mine", "note"] == ""
    assert 0 < table.loc["mine", "seconds"] < 1
    assert found.domains["mine"].isna().to_numpy().nonzero()[0].tolist() == [7]
    assert table.loc["bad", "note"] == "failed: Expected 119 labels of bad, found 1."
    assert found.domains["bad"].isna().all()


def test_a_further_method_needs_a_name_of_its_own(section: ad.AnnData) -> None:
    with pytest.raises(ValueError, match=r"names in `further` other than m2ST, .*found Seurat"):
        m2st.compare_methods(section, 2, further={"Seurat": lambda *_: []})


def test_what_is_not_there_is_named(section: ad.AnnData) -> None:
    with pytest.raises(KeyError, match=r"'class' in `adata.obs`, found 'layer', 'array_row'"):
        m2st.compare_methods(section, 2, truth="class")
    with pytest.raises(KeyError, match=r"'raw' in `adata.layers`"):
        m2st.compare_methods(section, 2, layer="raw")


@pytest.mark.usefixtures("_r")
def test_what_r_refuses_is_said_in_its_words(section: ad.AnnData) -> None:
    with pytest.raises(RuntimeError, match=r"^The comparison failed in R: Expected `methods` amo"):
        m2st.compare_methods(section, 2, methods=["SpaGCN"])


def test_without_r_or_its_package_it_says_so(
    section: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("Rscript"):
        monkeypatch.setenv("R_LIBS", str(tmp_path))
        with pytest.raises(ImportError, match="R does not have the package m2st"):
            m2st.compare_methods(section, 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImportError, match="found no Rscript"):
        m2st.compare_methods(section, 2)


def request_of(adata: ad.AnnData, **more: Any) -> dict[str, Any]:
    counts = sparse.csr_matrix(adata.X)
    return {
        "shape": counts.shape,
        "data": counts.data.tobytes(),
        "indices": counts.indices.tobytes(),
        "indptr": counts.indptr.tobytes(),
        "coordinates": adata.obsm["spatial"].tobytes(order="F"),
        "n_axes": 2,
        **more,
    }


def test_spatial_scores_are_those_of_metrics(section: ad.AnnData) -> None:
    labels = [np.arange(120, dtype=np.int32) % n for n in (2, 5)]
    samples = np.repeat(np.arange(2, dtype=np.int32), 60)
    places = section.obsm["spatial"]
    for sections in (None, samples):
        found = compare.spatial_scores(
            request_of(
                section,
                labels=[one.tobytes() for one in labels],
                sample=None if sections is None else sections.tobytes(),
            )
        )
        assert found["chaos"] == [metrics.chaos(places, one, samples=sections) for one in labels]
        assert found["pas"] == [metrics.pas(places, one, samples=sections) for one in labels]


def test_sections_are_moved_apart() -> None:
    places = np.array([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [2.0, 9.0]])
    assert np.array_equal(_apart(places, {"sample": None}), places)
    sample = np.array([0, 0, 1, 1], dtype=np.int32).tobytes()
    moved = _apart(places, {"sample": sample})
    distance = np.linalg.norm(moved[:, None] - moved[None], axis=-1)
    np.testing.assert_allclose(distance[0, 1], 5)
    np.testing.assert_allclose(distance[2, 3], np.hypot(1, 8))
    assert distance[:2, 2:].min() > max(distance[0, 1], distance[2, 3])


def test_banksy_runs_or_says_how_to_install_it(section: ad.AnnData) -> None:
    request = request_of(
        section[np.arange(120) != 7],
        n_domains=2, n_neighbors=6, share=0.2, max_m=0, random_state=0,
    )  # fmt: skip
    found = compare.banksy(request)
    if importlib.util.find_spec("banksy") is None:
        assert found["error"].endswith("Run `pip install pybanksy`.")
        return
    labels = np.frombuffer(found["labels"], dtype=np.int32)
    assert metrics.ari(section.obs["layer"][np.arange(120) != 7], labels) > 0.9
    assert found["version"].startswith("pybanksy ")
