"""Fitted models: what is kept, how other sections are treated the same, and folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import m2st
from m2st import AutoencoderParams, Model, _ensemble
from m2st._features import ExpressionProjection, ReadyProjection

QUICK = AutoencoderParams(n_members=2, n_epochs=5)
N_DOMAINS = 4
RESULTS = ("X_m2st", "X_m2st_scale1", "X_m2st_scale2", "X_m2st_pca")


def bands(seed: int = 0, *, n_genes: int = 60, depth: float = 1.0) -> AnnData:
    """Counts in four bands that all seeds share, on a square array."""
    effects = np.exp(np.random.default_rng(0).normal(0, 1, (N_DOMAINS, n_genes)))
    places = np.array([[x, y] for x in range(20) for y in range(12)], dtype=float)
    rates = depth * effects[places[:, 0].astype(int) // 5]
    counts = np.random.default_rng(seed).poisson(rates).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts), obsm={"spatial": places})
    adata.var_names = [f"gene{number}" for number in range(n_genes)]
    return adata


def fit(adata: AnnData, n_domains: int | None = N_DOMAINS, **settings: Any) -> Model:
    return m2st.run(adata, n_domains, autoencoder=QUICK, progress=False, **settings)


@pytest.fixture(scope="module")
def fitted() -> tuple[Model, AnnData]:
    """A model, and the section that it was fitted on."""
    adata = bands()
    return fit(adata), adata


@pytest.fixture(scope="module")
def model(fitted: tuple[Model, AnnData]) -> Model:
    return fitted[0]


def applied(model: Model, adata: AnnData, **settings: Any) -> AnnData:
    model.apply(adata, **settings)
    return adata


def assert_same_bits(one: AnnData, other: AnnData) -> None:
    assert one.obs["m2st_domain"].equals(other.obs["m2st_domain"])
    assert one.obs["m2st_confidence"].equals(other.obs["m2st_confidence"])
    for key in RESULTS:
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])


# ---- applying


def test_the_section_of_the_fit_gets_the_domains_of_the_run(
    fitted: tuple[Model, AnnData],
) -> None:
    model, adata = fitted
    again = applied(model, bands())
    assert m2st.metrics.ari(adata.obs["m2st_domain"], again.obs["m2st_domain"]) > 0.98
    for key in RESULTS:
        np.testing.assert_allclose(again.obsm[key], adata.obsm[key], atol=1e-4)


def test_another_section_gets_the_same_bands(model: Model) -> None:
    other = applied(model, bands(1, depth=0.6))
    assert m2st.metrics.ari(other.obsm["spatial"][:, 0] // 5, other.obs["m2st_domain"]) > 0.9
    assert list(other.obs["m2st_domain"].cat.categories) == list(model.domains)
    assert other.uns["m2st_domain_colors"] == list(model.colors)
    assert other.obs["m2st_confidence"].between(0, 1).all()


def test_what_is_written_says_that_it_was_applied(model: Model, tmp_path: Path) -> None:
    other = bands(1)
    fit(other)
    model.apply(other)
    assert set(other.uns["m2st"]) == {"n_members", "graph", "spots", "prepare", "apply"}
    assert (
        other.uns["m2st"]["apply"]["model"] == m2st.load(save(model, tmp_path))._origin()["model"]
    )
    assert "X_m2st_pca_no_neighbors" not in other.obsm
    m2st.io.write(other, tmp_path / "other.h5ad")
    m2st.report(m2st.io.read(tmp_path / "other.h5ad"), tmp_path / "other.html")


def test_genes_in_another_order_and_more_of_them_change_nothing(model: Model) -> None:
    known = applied(model, bands(1))
    order = np.random.default_rng(0).permutation(60)
    more = AnnData(sparse.csr_matrix(np.ones((240, 3), dtype=np.float32)))
    more.var_names = ["new1", "new2", "new3"]
    adata = ad.concat([more, bands(1)[:, order]], axis=1)
    adata.obsm["spatial"] = bands().obsm["spatial"]
    assert_same_bits(applied(model, adata), known)


@pytest.mark.parametrize("kind", ["csc", "dense", "float64", "layer", "backed"])
def test_storage_changes_nothing(model: Model, kind: str, tmp_path: Path) -> None:
    known, adata = applied(model, bands(1)), bands(1)
    settings = {}
    if kind == "csc":
        adata.X = adata.X.tocsc()
    elif kind == "dense":
        adata.X = adata.X.toarray()
    elif kind == "float64":
        adata.X = adata.X.astype(np.float64)
    elif kind == "backed":
        m2st.io.write(adata, tmp_path / "section.h5ad")
        left = m2st.io.read(tmp_path / "section.h5ad", backed=True)
        assert_same_bits(applied(model, left), known)
    else:
        adata.layers["counts"], adata.X = adata.X, None
        settings = {"layer": "counts"}
    before = adata.layers.get("counts", adata.X).copy()
    assert_same_bits(applied(model, adata, **settings), known)
    after = adata.layers.get("counts", adata.X)
    np.testing.assert_array_equal(ad.AnnData(before).to_df(), ad.AnnData(after).to_df())


def test_the_unit_of_coordinates_and_the_lattice_do_not_matter(model: Model) -> None:
    known, scaled = applied(model, bands(1)), bands(1)
    scaled.obsm["spatial"] = scaled.obsm["spatial"] * 55e-6 + 3
    assert_same_bits(applied(model, scaled), known)
    cells = bands(1)
    jitter = np.random.default_rng(0).uniform(-0.4, 0.4, (240, 2))
    cells.obsm["global"] = cells.obsm.pop("spatial") + jitter
    model.apply(cells, spatial_key="global")
    assert m2st.metrics.ari(known.obs["m2st_domain"], cells.obs["m2st_domain"]) > 0.9


def test_logarithms_are_taken_back(model: Model) -> None:
    known, logs = applied(model, bands(1)), bands(1)
    totals = logs.X.sum(axis=1).A1
    logs.X = sparse.diags(1e4 / totals).tocsr().dot(logs.X).log1p().astype(np.float32)
    with pytest.raises(ValueError, match="found values on a log scale"):
        model.apply(logs)
    model.apply(logs, normalized=True)
    np.testing.assert_allclose(logs.obsm["X_m2st_pca"], known.obsm["X_m2st_pca"], atol=1e-3)
    assert logs.uns["m2st"]["prepare"]["normalized"]


def test_a_model_of_logarithms_wants_logarithms() -> None:
    logs = bands()
    logs.X = logs.X.log1p()
    model = fit(logs, normalized=True)
    with pytest.raises(ValueError, match=r"on a log scale, as the model was fitted on, found"):
        model.apply(bands(1))
    other = bands(1)
    other.X = other.X.log1p()
    model.apply(other, normalized=True)
    assert other.obs["m2st_domain"].notna().all()


def test_sections_are_treated_each_for_itself(model: Model) -> None:
    deep, thin = bands(1), bands(2, depth=0.5)
    both = ad.concat({"a": deep, "b": thin}, label="section", index_unique="-")
    both.obsm["spatial"][240:] += 100
    model.apply(both, sample_key="section")
    for name, one in (("a", deep), ("b", thin)):
        alone = applied(model, one)
        there = both[both.obs["section"] == name]
        np.testing.assert_array_equal(there.obsm["X_m2st_pca"], alone.obsm["X_m2st_pca"])
        assert m2st.metrics.ari(there.obs["m2st_domain"], alone.obs["m2st_domain"]) > 0.95


def test_observations_without_counts_or_place_get_nothing(model: Model) -> None:
    adata = bands(1)
    adata.X = sparse.vstack([adata.X[:238], sparse.csr_matrix((2, 60), dtype=np.float32)]).tocsr()
    adata.obsm["spatial"][0] = np.nan
    with (
        pytest.warns(
            UserWarning, match="2 of 240 observations have no counts of the model's genes"
        ),
        pytest.warns(UserWarning, match="1 of 240 observations have no coordinates"),
    ):
        model.apply(adata)
    missing = adata.obs["m2st_domain"].isna().to_numpy()
    assert np.flatnonzero(missing).tolist() == [0, 238, 239]
    assert np.isnan(adata.obsm["X_m2st"][missing]).all()
    assert adata.uns["m2st"]["apply"]["n_invalid"] == 3


def test_a_few_missing_genes_count_as_average(model: Model) -> None:
    known = applied(model, bands(1))
    fewer = bands(1)[:, 3:].copy()
    model.apply(fewer)
    assert fewer.uns["m2st"]["prepare"]["n_missing"] == 3
    assert m2st.metrics.ari(known.obs["m2st_domain"], fewer.obs["m2st_domain"]) > 0.95
    many = bands(1)[:, 24:].copy()
    with pytest.warns(UserWarning, match="the 60 genes of the model, found 36 of them"):
        model.apply(many)
    assert m2st.metrics.ari(known.obs["m2st_domain"], many.obs["m2st_domain"]) > 0.8


def test_embeddings_only() -> None:
    adata, other = bands(), bands(1)
    model = fit(adata, None)
    assert repr(model) == "<m2st.Model: embeddings only, 2 members, 60 genes>"
    model.apply(other)
    assert other.obsm["X_m2st_scale1"].shape == (240, 2 * 64)
    assert "m2st_domain" not in other.obs
    assert "X_m2st" not in other.obsm


def test_what_a_model_says_of_itself(model: Model) -> None:
    assert repr(model) == "<m2st.Model: 4 domains, 2 members, 60 genes>"
    assert model.domains == ("1", "2", "3", "4")
    assert len(set(model.colors)) == 4
    assert sorted(model.genes_used) == sorted(bands().var_names)
    assert model.record["embed"]["params"]["n_members"] == 2


def test_jobs_change_nothing(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = applied(model, bands(1))
    assert_same_bits(applied(model, bands(1), n_jobs=2), expected)  # too few for processes
    monkeypatch.setattr(_ensemble, "_WORTH_PROCESSES", 0)
    assert_same_bits(applied(model, bands(1), n_jobs=2), expected)


# ---- ready features


@pytest.mark.parametrize("n_columns", [10, 30, 70])
def test_ready_features(n_columns: int, tmp_path: Path) -> None:
    loadings = np.random.default_rng(0).normal(size=(60, n_columns))

    def ready(seed: int) -> AnnData:
        adata = bands(seed)
        adata.obsm["X_ready"] = adata.X.log1p() @ loadings
        return adata

    adata, other = ready(0), ready(1)
    model = fit(adata, use_rep="X_ready")
    assert repr(model).endswith(f"{n_columns} columns of X_ready>")
    again = applied(model, ready(0))
    np.testing.assert_allclose(again.obsm["X_m2st_pca"], adata.obsm["X_m2st_pca"], atol=2e-3)
    model.apply(other)
    assert m2st.metrics.ari(other.obsm["spatial"][:, 0] // 5, other.obs["m2st_domain"]) > 0.8
    assert_same_bits(applied(m2st.load(save(model, tmp_path)), ready(1)), other)
    with pytest.raises(KeyError, match="Expected 'X_ready'"):
        model.apply(bands(1))
    with pytest.raises(ValueError, match="Expected neither `layer` nor `normalized`"):
        model.apply(ready(1), normalized=True)
    narrow = ready(1)
    narrow.obsm["X_ready"] = narrow.obsm["X_ready"][:, 1:]
    with pytest.raises(ValueError, match=f"Expected {n_columns} columns in `X_ready`"):
        model.apply(narrow)


def test_ready_features_in_x_are_found_by_name() -> None:
    model = fit(bands(), use_rep="X")
    known = applied(model, bands(1))
    assert_same_bits(applied(model, bands(1)[:, ::-1].copy()), known)
    with pytest.raises(ValueError, match=r"Expected all 60 genes .*, found 59\. Not there: "):
        model.apply(bands(1)[:, 1:].copy())


def test_features_made_apart_cannot_be_made_again() -> None:
    adata = bands()
    m2st.pp.spatial_graph(adata)
    m2st.paper.prepare(adata, n_pcs=10)
    model = fit(adata, use_rep="X_m2st_pca")
    with pytest.raises(ValueError, match="that knows how its features are made, found one that"):
        model.apply(adata)


# ---- projections


def test_the_same_expression_gives_the_same_bits() -> None:
    adata = bands()
    m2st.pp.spatial_graph(adata)
    projection = m2st.pp.project_counts(
        adata, layer=None, normalized=False, n_pcs=15, sample_key=None, random_state=0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "m2st._features._projection.align_sections", lambda scores, sections, overall: scores
        )
        scores, filled = projection.apply(
            adata.X,
            np.ones(240, dtype=bool),
            np.arange(60),
            np.zeros(240, dtype=np.intp),
            counts=True,
            logged=False,
        )
    assert filled.all()
    np.testing.assert_array_equal(scores, adata.obsm["X_m2st_pca"])


def test_the_same_sections_give_the_same_bits() -> None:
    both = ad.concat({"a": bands(1), "b": bands(2)}, label="section", index_unique="-")
    both.obsm["spatial"][240:] += 100
    again = both.copy()
    model = fit(both, sample_key="section")
    model.apply(again, sample_key="section")
    np.testing.assert_array_equal(again.obsm["X_m2st_pca"], both.obsm["X_m2st_pca"])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ExpressionProjection, {"mean": np.zeros(3)}, r"mean has the shape \(3,\)"),
        (ExpressionProjection, {"genes": np.full(60, 99)}, "some genes are none of all"),
        (ReadyProjection, {"middle": np.zeros(3)}, r"middle has the shape \(3,\)"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    model: Model, kind: type, changes: dict[str, np.ndarray], message: str
) -> None:
    parts = dict(vars(model.projection))
    if kind is ReadyProjection:
        ready = bands()
        ready.obsm["X_ready"] = ready.X.toarray()
        parts = dict(vars(fit(ready, use_rep="X_ready").projection))
    with pytest.raises(ValueError, match=message):
        kind(**(parts | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domains": ("a", "b")}, "domains without a name"),
        ({"domains": ("a", "a", "b", "c")}, "domains without a name"),
        ({"colors": ("#000000",)}, "domains without a colour"),
        ({"colors": ("red", "red", "red", "red")}, "domains without a colour"),
        ({"projection": None}, "expression without a recipe"),
        ({"genes": ("a",)}, "other genes than the recipe's"),
        ({"members": ()}, "members of different features or domains"),
    ],
)
def test_a_model_of_parts_that_do_not_fit_is_refused(
    model: Model, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"Expected parts of one model, found {message}"):
        Model(**(vars(model) | changes))


# ---- genes that are not there


def renamed(change: Callable[[int], str], **columns: Callable[[int], str]) -> AnnData:
    adata = bands(1)
    adata.var_names = [change(number) for number in range(60)]
    for name, column in columns.items():
        adata.var[name] = [column(number) for number in range(60)]
    return adata


def ensembl(number: int) -> str:
    return f"ENSG{number:011d}"


def test_names_of_another_kind_are_told(model: Model) -> None:
    told = r"found 0\. The model has gene symbols, and this section has Ensembl ids \(human\)\."
    adata = renamed(ensembl, length=str, symbol=lambda number: f"gene{number}")
    with pytest.raises(ValueError, match=rf"{told} The column 'symbol' of `adata\.var` fits"):
        model.apply(adata)
    adata.var_names = adata.var["symbol"]
    assert_same_bits(applied(model, adata), applied(model, bands(1)))
    with pytest.raises(ValueError, match=f"{told} The model has names such as gene"):
        model.apply(renamed(ensembl))


def test_other_species_cases_and_versions_are_told(model: Model) -> None:
    with pytest.raises(ValueError, match="in upper and lower case only: genes of mouse"):
        model.apply(renamed(lambda number: f"GENE{number}"))
    human = renamed(ensembl)
    human.obsm["spatial"] = bands().obsm["spatial"]
    of_ids = fit(human)
    with pytest.raises(ValueError, match="They differ in the version after the dot"):
        of_ids.apply(renamed(lambda number: f"{ensembl(number)}.7"))
    with pytest.raises(ValueError, match=r"Ensembl ids \(human\), .* Ensembl ids \(mouse\)"):
        of_ids.apply(renamed(lambda number: f"ENSMUSG{number:011d}"))
    with pytest.raises(ValueError, match=r"has Ensembl ids \(human\), .* has gene symbols"):
        of_ids.apply(bands(1))


def test_a_panel_of_other_genes_is_told(model: Model) -> None:
    panel = renamed(lambda number: f"{'gene' if number < 20 else 'other'}{number}")
    with pytest.raises(ValueError, match=r"found 20\. This section has 60 genes, mostly others\."):
        model.apply(panel)


def test_nothing_is_written_on_error(model: Model) -> None:
    def no_genes(adata: AnnData) -> None:
        adata.var_names = [f"other{number}" for number in range(60)]

    def no_places(adata: AnnData) -> None:
        del adata.obsm["spatial"]

    def one_place(adata: AnnData) -> None:
        adata.obsm["spatial"] = np.zeros((240, 2))

    def no_counts(adata: AnnData) -> None:
        adata.X = sparse.csr_matrix((240, 60), dtype=np.float32)

    def below_zero(adata: AnnData) -> None:
        adata.X = -adata.X

    messages = {
        no_genes: "found 0",
        no_places: "Expected 'spatial'",
        one_place: "that differ between observations",
        no_counts: "with counts of the model's genes",
        below_zero: "egative",
    }
    for spoil, message in messages.items():
        adata = bands(1)
        spoil(adata)
        before = adata.copy()
        with pytest.raises((ValueError, KeyError), match=message):
            model.apply(adata)
        assert list(adata.obsm) == list(before.obsm)
        assert [*adata.uns, *adata.obsp, *adata.obs] == []


# ---- folders


def save(model: Model, folder: Path) -> Path:
    model.save(folder / "model")
    return folder / "model"


def test_a_copy_elsewhere_gives_the_same_bits(model: Model, tmp_path: Path) -> None:
    at_once = applied(model, bands(1))
    folder = save(model, tmp_path)
    elsewhere = tmp_path / "other machine" / "größer"
    shutil.copytree(folder, elsewhere)
    shutil.rmtree(folder)
    loaded = m2st.load(elsewhere)
    assert repr(loaded) == repr(model)
    assert loaded.domains == model.domains
    np.testing.assert_array_equal(loaded.record["embed"]["loss"], model.record["embed"]["loss"])
    assert loaded.record["embed"]["params"] == model.record["embed"]["params"]
    later = applied(loaded, bands(1))
    assert_same_bits(later, at_once)
    assert later.uns["m2st"]["apply"] == at_once.uns["m2st"]["apply"]


def test_the_same_model_is_the_same_bytes(model: Model, tmp_path: Path) -> None:
    one = save(model, tmp_path)
    two = tmp_path / "again"
    m2st.load(one).save(two)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_what_is_there_is_replaced_only_if_it_is_a_model(model: Model, tmp_path: Path) -> None:
    folder = save(model, tmp_path)
    with pytest.raises(FileExistsError, match=r"found one\. Pass `overwrite=True`"):
        model.save(folder)
    model.save(folder, overwrite=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"found a folder with notes\.txt, which is never"):
        model.save(folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "notes.txt").unlink()
    (folder / "model.json").write_text("{}")
    with pytest.raises(ValueError, match="which is never replaced"):
        model.save(folder, overwrite=True)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match=r"a folder or nothing at .*, found a file"):
        model.save(file, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"Expected the folder .* to exist"):
        model.save(tmp_path / "no" / "model")
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")
    m2st.load(tmp_path / "empty")


def test_a_full_disk_leaves_what_was_there(small_disk: Path, model: Model) -> None:
    with pytest.raises(OSError, match=r"Could not write .*What was there is unchanged"):
        model.save(small_disk / "model")
    assert list(small_disk.iterdir()) == []


FILES = ("model.json", "arrays.safetensors", "network_2.safetensors", "domains_1.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_told(model: Model, tmp_path: Path, name: str) -> None:
    folder = save(model, tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name.replace(".", r"\.")):
        m2st.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_told(model: Model, tmp_path: Path, name: str) -> None:
    path = save(model, tmp_path) / name
    content = bytearray(path.read_bytes())
    at = content.index(b"gene7") if name == "model.json" else len(content) // 2
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="as m2ST wrote it, found it damaged"):
        m2st.load(path.parent)


def test_a_longer_file_is_not_read(model: Model, tmp_path: Path) -> None:
    path = save(model, tmp_path) / "network_1.safetensors"
    with path.open("ab") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(ValueError, match="found it damaged"):
        m2st.load(path.parent)


def test_files_of_two_models_are_not_mixed(model: Model, tmp_path: Path) -> None:
    folder = save(model, tmp_path)
    fit(bands(3)).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "network_1.safetensors", folder)
    with pytest.raises(ValueError, match=r"network_1\.safetensors as m2ST wrote it, found it dam"):
        m2st.load(folder)


def test_other_folders_and_formats_are_refused(model: Model, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"that `m2st\.Model\.save` wrote, found none"):
        m2st.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"found one without model\.json"):
        m2st.load(tmp_path)
    folder = save(model, tmp_path)
    main = folder / "model.json"
    with pytest.raises(FileNotFoundError, match="found a file"):
        m2st.load(main)
    whole = json.loads(main.read_text())
    main.write_text(json.dumps(whole | {"format": 2, "version": "9.0"}))
    with pytest.raises(ValueError, match=r"of format 1 in .*, found 2, of m2ST 9\.0\. Use that"):
        m2st.load(folder)
    main.write_text(json.dumps({"kind": "other"}))
    with pytest.raises(ValueError, match="found another kind of file, 'other'"):
        m2st.load(folder)
    for text in ("", "[]", "{}", "[" * 100_000, "\0"):
        main.write_text(text)
        with pytest.raises(ValueError, match="found another file"):
            m2st.load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_members": 10**12},
        {"n_members": 0},
        {"n_members": "a"},
        {"recipe": "other"},
        {"domains": ["1"]},
        {"colors": ["<script>"] * 4},
        {"genes": ["a"]},
        {"genes": None},
        {"record": [1]},
        {"files": {"../model.json": {"n_bytes": 1, "checksum": ""}}},
        {"files": {}},
    ],
    ids=str,
)
def test_content_that_does_not_fit_is_refused(
    model: Model, tmp_path: Path, changes: dict[str, Any]
) -> None:
    from m2st._model._folder import _digest, _text

    main = save(model, tmp_path) / "model.json"
    whole = json.loads(main.read_text())
    whole["content"] |= changes
    whole["checksum"] = _digest(_text(whole["content"]))
    main.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"a saved m2ST model in .*, found what does not fit"):
        m2st.load(main.parent)


def test_no_pickle_is_written(model: Model, tmp_path: Path) -> None:
    folder = save(model, tmp_path)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
    assert pd.read_json(folder / "model.json", typ="series")["kind"] == "m2ST model"
