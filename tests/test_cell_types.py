"""Given cell types: what is read, the view of what lies around, and its way through a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from tests.command import call

import m2st
from m2st import AutoencoderParams, ClusteringParams
from m2st._cell_types import CellTypes, match_cell_types, read_cell_types, types_around
from m2st._report._history import _scale_names

QUICK = AutoencoderParams(n_members=1, n_epochs=5, scale_dims=(8, 4), hidden_dim=16)
ONCE = ClusteringParams(n_init=2)
VIEW = "X_m2st_cell_types"


def chain(n_obs: int) -> sparse.csr_matrix:
    """Observations in a row, each linked to the next one."""
    links = sparse.diags([np.ones(n_obs - 1)] * 2, [-1, 1], shape=(n_obs, n_obs))
    return sparse.csr_matrix(links)


def read(values: Any) -> CellTypes:
    return read_cell_types(pd.Series(values), at="adata.obs['type']")


def match(values: Any, names: tuple[str, ...] = ("a", "b")) -> CellTypes:
    return match_cell_types(pd.Series(values), names, at="adata.obs['type']")


def cells(seed: int = 0) -> AnnData:
    """Cells whose types tell the left half from the right one, and whose counts tell nothing."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 100, (240, 2))
    left = places[:, 0] < 50
    adata = AnnData(
        sparse.csr_matrix(rng.poisson(2.0, (240, 30)).astype(np.float32)),
        obsm={"spatial": places},
    )
    adata.obs["half"] = np.where(left, "left", "right")
    likely = rng.random(240) < 0.8
    adata.obs["type"] = np.where(left == likely, "a", "b")
    return adata


def run(adata: AnnData, n_domains: int | None = 2, **settings: Any) -> m2st.Model:
    settings = {"cell_type_key": "type", "autoencoder": QUICK, "clustering": ONCE} | settings
    return m2st.run(adata, n_domains, progress=False, **settings)


# ---- the column


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", None, "b"], ("a", "b")),
        (pd.Categorical(["b", "a", None, "b"], categories=["c", "b", "a"]), ("a", "b")),
        ([2, 1, None, 2], ("1", "2")),
        (pd.array([2, 1, None, 2], dtype="Int64"), ("1", "2")),
        (pd.array(["b", "a", None, "b"], dtype="string"), ("a", "b")),
        (np.array([True, False, None, True], dtype=object), ("False", "True")),
    ],
    ids=["text", "categories", "real", "whole", "string", "flags"],
)
def test_types_are_text_categories_or_whole_numbers(values: Any, names: tuple[str, ...]) -> None:
    found = read(values)
    assert found.names == names
    assert found.codes.tolist() == [1, 0, -1, 1]
    assert found.n_untyped == 1


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (["a"] * 40, ValueError, "at least two cell types in `adata.obs['type']`, found 'a' only"),
        ([None] * 40, ValueError, "for at least 10% of the observations in `adata.obs['type']`, f"),
        (["a", "b", "b"] + [None] * 97, ValueError, "found 3 of 100. Name another column"),
        ([f"cell{i}" for i in range(100)], ValueError, "found 100 different values of 100 observ"),
        (list(range(700)) * 2, ValueError, "which looks like something else. Name the column of"),
        (
            [0.5, 1.0] * 9,
            TypeError,
            "`adata.obs['type']`, found numbers such as 0.5. Name t",
        ),
        (["a", "b", "nan"] * 9, ValueError, "missing cell types in `adata.obs['type']` to be miss"),
    ],
)
def test_what_is_no_cell_type_is_refused(values: Any, error: type, message: str) -> None:
    with pytest.raises(error) as caught:
        read(values)
    assert message in str(caught.value)


def test_many_types_are_fine_where_there_are_many_cells() -> None:
    assert len(read([f"type{i}" for i in range(30)] * 2).names) == 30
    assert len(read(list(range(90)) * 10).names) == 90


def test_types_of_a_model_are_found_by_name() -> None:
    with pytest.warns(UserWarning, match="found others, c, of 2 observations. They count as hav"):
        found = match(["b", "c", "a", None, "c"])
    assert found.names == ("a", "b")
    assert found.codes.tolist() == [1, -1, 0, -1, -1]
    assert match([1, 2, 1], ("2", "3", "1")).codes.tolist() == [2, 0, 2]
    assert match(["a"] * 3).codes.tolist() == [0] * 3
    message = r"such as a, b, found 0 of 3, and types such as A, B. Name the types as the model"
    with pytest.raises(ValueError, match=message):
        match(["A", "B", "A"])
    with pytest.raises(ValueError, match=r"found 0 of 2. Name the types as the model does"):
        match([None, None])


# ---- the view


def test_the_view_is_what_lies_around() -> None:
    adjacency, codes = chain(30), np.repeat([0, 1, 2], 10)
    found = types_around(CellTypes(codes, ("a", "b", "c")), adjacency)
    step = sparse.diags(1 / (1 + np.diff(adjacency.indptr))) @ (adjacency + sparse.eye(30))
    expected = np.linalg.matrix_power(step.toarray(), 8) @ np.eye(3)[codes]
    np.testing.assert_allclose(found**2, expected, atol=1e-6)
    assert found.dtype == np.float32


def test_a_cell_without_a_type_adds_nothing() -> None:
    adjacency, codes = chain(40), np.r_[np.zeros(10), np.full(20, -1), np.ones(10)].astype(int)
    types = CellTypes(codes, ("a", "b"))
    found = types_around(types, adjacency) ** 2
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found[:18, 0], 1)
    np.testing.assert_allclose(found[22:, 1], 1)
    # No type within eight steps: the mean of the others.
    np.testing.assert_allclose(found[18:22], 0.5, atol=1e-6)


def test_an_isolated_cell_has_its_own_type() -> None:
    found = types_around(CellTypes(np.array([0, 1, 1]), ("a", "b")), sparse.csr_matrix((3, 3)))
    np.testing.assert_array_equal(found, np.eye(2)[[0, 1, 1]])


# ---- a run


def test_types_tell_domains_that_counts_do_not() -> None:
    adata = cells()
    run(adata)
    assert m2st.metrics.ari(adata.obs["m2st_domain"], adata.obs["half"]) > 0.7
    assert adata.obsm[VIEW].shape == (240, 2)
    record = adata.uns["m2st"]["embed"]
    assert record["cell_type_key"] == "type"
    assert list(record["cell_types"]) == ["a", "b"]
    assert record["n_untyped"] == 0
    # Two scales, averages, types, what is in common.
    assert adata.uns["m2st"]["cluster"]["scale_weights"].shape == (1, 5)


def test_without_types_an_earlier_view_does_not_stay() -> None:
    adata, fresh = cells(), cells()
    run(adata)
    for one in (adata, fresh):
        run(one, cell_type_key=None)
    assert VIEW not in adata.obsm
    assert "cell_types" not in adata.uns["m2st"]["embed"]
    assert adata.obs["m2st_domain"].equals(fresh.obs["m2st_domain"])


def test_a_cell_without_a_type_has_a_domain(tmp_path: Path) -> None:
    adata = cells()
    adata.obs["type"] = adata.obs["type"].where(np.arange(240) % 3 > 0)
    run(adata)
    assert adata.obs["m2st_domain"].notna().all()
    assert adata.uns["m2st"]["embed"]["n_untyped"] == 80
    m2st.io.write(adata, tmp_path / "out.h5ad")
    back = m2st.io.read(tmp_path / "out.h5ad")
    assert list(back.uns["m2st"]["embed"]["cell_types"]) == ["a", "b"]
    np.testing.assert_array_equal(back.obsm[VIEW], adata.obsm[VIEW])
    m2st.tl.cluster(back, 2, ONCE)
    assert back.obs["m2st_domain"].equals(adata.obs["m2st_domain"])


def test_names_and_storage_of_the_types_change_no_bit() -> None:
    results = []
    for change in (
        lambda column: column,
        lambda column: pd.Categorical(column, categories=["unused", "b", "a"]),
        lambda column: column.map({"a": 1, "b": 2}),
    ):
        adata = cells()
        adata.obs["type"] = change(adata.obs["type"])
        run(adata)
        results.append(adata)
    for one in results[1:]:
        np.testing.assert_array_equal(one.obsm["X_m2st"], results[0].obsm["X_m2st"])


def test_off_the_tissue_types_do_not_count() -> None:
    adata = cells()
    adata.obs["in_tissue"] = np.arange(240) < 200
    adata.obs.loc[~adata.obs["in_tissue"].to_numpy(), "type"] = "elsewhere"
    with pytest.warns(UserWarning, match="40 of 240 observations"):
        model = run(adata)
    assert model.cell_types == ("a", "b")
    assert np.isnan(adata.obsm[VIEW][200:]).all()


def test_sections_share_types_by_name() -> None:
    adata = cells()
    adata.obs["section"] = adata.obs["half"]
    left = (adata.obs["half"] == "left").to_numpy()
    adata.obs["type"] = np.where(left, "a", "b")
    run(adata, None, sample_key="section")
    # No edge joins two sections, so no type is found in the other one.
    np.testing.assert_array_equal(adata.obsm[VIEW], np.where(left[:, None], [1, 0], [0, 1]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda adata: adata.obs.pop("type"), KeyError, "Expected 'type' in `adata.obs` (found:"),
        (
            lambda adata: adata.obs.insert(0, "type", "x", allow_duplicates=True),
            ValueError,
            "Expected one column 'type' in `adata.obs`, found several",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Observation:UserWarning")
def test_unfit_columns_are_refused_before_any_work(
    change: Callable[[AnnData], object], error: type, message: str
) -> None:
    adata = cells()
    change(adata)
    with pytest.raises(error) as caught:
        run(adata)
    assert message in str(caught.value)
    assert not adata.obsp
    assert not adata.uns


def test_the_clustering_of_the_paper_takes_the_view_too() -> None:
    adata = cells()
    with pytest.raises(
        ValueError, match="Expected `specific_dim` of at most 2, the number of cell"
    ):
        run(adata, clustering=m2st.paper.DualParams())
    assert not adata.obsp
    run(adata, clustering=m2st.paper.DualParams(n_init=1, specific_dim=2))
    assert adata.uns["m2st"]["cluster"]["scale_weights"].shape == (1, 5)


def test_the_report_names_the_view() -> None:
    adata = cells()
    run(adata)
    assert _scale_names(adata.uns["m2st"], 5) == [
        "scale 1 (8)", "scale 2 (4)", "averages", "cell types", "common",
    ]  # fmt: skip


# ---- other sections


def test_a_model_places_another_section_by_its_types(tmp_path: Path) -> None:
    adata, again, other = cells(), cells(), cells(1)
    model = run(adata)
    model.save(tmp_path / "model")
    loaded = m2st.load(tmp_path / "model")
    assert (loaded.cell_type_key, loaded.cell_types) == ("type", ("a", "b"))
    loaded.apply(again)
    np.testing.assert_array_equal(again.obsm[VIEW], adata.obsm[VIEW])
    assert m2st.metrics.ari(again.obs["m2st_domain"], adata.obs["m2st_domain"]) > 0.95
    other.obs = other.obs.rename(columns={"type": "kind"})
    with pytest.raises(
        KeyError, match=r"in `adata.obs\['type'\]`, as the model was fitted with, f"
    ):
        loaded.apply(other)
    assert not other.obsp
    other.obs.loc[other.obs_names[0], "kind"] = "c"
    with pytest.warns(UserWarning, match="found others, c, of 1 observations"):
        loaded.apply(other, cell_type_key="kind")
    assert m2st.metrics.ari(other.obs["m2st_domain"], other.obs["half"]) > 0.6
    assert other.uns["m2st"]["apply"]["n_untyped"] == 1


def test_models_say_what_types_they_take() -> None:
    adata, other = cells(), cells(1)
    model = run(adata, cell_type_key=None)
    with pytest.raises(ValueError, match="Expected no `cell_type_key` for a model without cell ty"):
        model.apply(other, cell_type_key="type")
    fits = m2st.tl.cluster(adata, 2, ONCE)
    networks = m2st.tl.embed(adata, QUICK, cell_type_key="type", progress=False)
    with_types = m2st.tl.cluster(adata, 2, ONCE)
    other.obsm["X_m2st_pca"] = np.asarray(adata.obsm["X_m2st_pca"])
    m2st.pp.spatial_graph(other)
    m2st.tl.transform(other, networks, fits)
    with pytest.raises(
        ValueError, match=r"with cell types, apply the model that `m2st\.run` returned"
    ):
        m2st.tl.transform(other, networks, with_types)


@pytest.mark.dist
def test_the_command_line_takes_a_column(tmp_path: Path) -> None:
    adata, other = cells(), cells(1)
    other.obs = other.obs.rename(columns={"type": "kind"})
    m2st.io.write(adata, tmp_path / "one.h5ad")
    m2st.io.write(other, tmp_path / "other.h5ad")
    model, output = tmp_path / "model", tmp_path / "out.h5ad"
    run = ["run", tmp_path / "one.h5ad", "-k", "2", "-o", output, "--members", "1", "--epochs", "5"]
    found = call(*run, "--cell-types", "type", "--save-model", model)
    assert found.returncode == 0, found.stderr
    back = m2st.io.read(output)
    assert m2st.metrics.ari(back.obs["m2st_domain"], back.obs["half"]) > 0.5
    apply = ["apply", model, tmp_path / "other.h5ad", "-o", tmp_path / "placed.h5ad"]
    found = call(*apply)
    assert found.stderr.endswith("Name the column that has them with `--cell-types`.\n")
    found = call(*apply, "--cell-types", "kind")
    assert found.returncode == 0, found.stderr
    assert VIEW in m2st.io.read(tmp_path / "placed.h5ad").obsm
    found = call(*run, "--overwrite", "--cell-types", "type", "--paper")
    assert "Expected no `--cell-types` with `--paper`, found both" in found.stderr
