from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse
from tests import fuzz_interop, interop_r
from tests.interop_r import R

from m2st import interop

DATA = Path(__file__).parent / "data"
COLUMNS = [
    "double",
    "integer",
    "whole",
    "logical",
    "flag",
    "character",
    "distinct",
    "factor",
    "ordered",
    "empty",
    "missing",
    "na_level",
    "large",
    "rle",
    "named",
]
MATRICES = [
    "dgCMatrix",
    "dgTMatrix",
    "dgRMatrix",
    "lgCMatrix",
    "ngCMatrix",
    "double",
    "missing",
    "integer",
    "logical",
]
TYPES = [
    "float64", "float32", "int32", "int64", "uint8", "bool", "boolean", "Int64", "Int32", "Float64",
    "big", "category", "ordered", "numbered", "text", "repeated", "gaps",
]  # fmt: skip
ROBJECTS = {
    "BayesSpace_tools_data_SCE.RDS": "no coordinates",
    "DESpace_LIBD_subset_SPE.RData": "no coordinates",
    "DRSC_dlpfc151510_Seurat.rda": "no coordinates",
    "SFE_seu_anterior1_visium.rds": None,
    "SFE_seu_vz_toy.rds": "segmentation, molecules",
    "SpaceHack2023_bass_spe.rds": "no assay",
    "SpotSweeper_DLPFC_artifact_SPE.rda": "rowRanges",
    "stJoincount_SpeBC.rda": None,
    "stJoincount_humanBC.rda": "corrected",
}


@pytest.fixture(scope="session")
def r(tmp_path_factory: pytest.TempPathFactory) -> R:
    return interop_r.start(tmp_path_factory.mktemp("library"))


@pytest.fixture
def quiet() -> Iterator[None]:
    """For tests of something else than the warning about what is not converted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Not converted|The [A-Za-z]+ has no", UserWarning)
        yield


def through_h5ad(adata: ad.AnnData, folder: Path) -> ad.AnnData:
    adata.write_h5ad(folder / "a.h5ad")
    return ad.read_h5ad(folder / "a.h5ad")


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Compare values of ``uns``, matrices and tables exactly, types included."""
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    elif isinstance(a, pd.api.extensions.ExtensionArray):
        pd.testing.assert_extension_array_equal(a, b)
    elif sparse.issparse(a):
        assert type(a) is type(b), where
        assert a.dtype == b.dtype, where
        assert_same(a.toarray(), b.toarray(), where)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b, err_msg=where)
    else:
        assert a == b or (a != a and b != b), where  # NaN
        assert type(a) is type(b), where


def assert_same_adata(a: ad.AnnData, b: ad.AnnData) -> None:
    pd.testing.assert_frame_equal(a.obs, b.obs)
    pd.testing.assert_frame_equal(a.var, b.var)
    for slot in ("layers", "obsm", "uns"):
        mine, other = dict(getattr(a, slot)), dict(getattr(b, slot))
        assert_same({k: mine[k] for k in sorted(mine)}, {k: other[k] for k in sorted(other)}, slot)
    assert_same(a.X, b.X, "X")


# ---- R -> Python -> R is identical in every slot


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from(["SpatialExperiment", "SingleCellExperiment"]),
    n_genes=st.integers(0, 5),
    n_obs=st.integers(0, 6),
    assays=st.lists(st.sampled_from(MATRICES), max_size=4),
    columns=st.lists(st.sampled_from(COLUMNS), unique=True, max_size=6),
    gene_names=st.sampled_from(["plain", "unicode", "repeated", "none"]),
    spot_names=st.sampled_from(["plain", "unicode", "repeated", "none"]),
    axes=st.integers(0, 3),
    images=st.booleans(),
    metadata=st.booleans(),
)
@pytest.mark.usefixtures("quiet")
def test_experiments_come_back_identical(r: R, kind: str, **drawn: Any) -> None:
    seed, n_genes, n_obs = (drawn.pop(name) for name in ("seed", "n_genes", "n_obs"))
    assays, columns = drawn.pop("assays"), drawn.pop("columns")
    x = r.call("make_experiment", seed, kind, n_genes, n_obs, assays, columns, **drawn)
    adata = interop.to_anndata(x)
    assert adata.shape == (n_obs, n_genes)
    assert r.texts("differences", x, interop.from_anndata(adata)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10_000),
    n_genes=st.integers(1, 5),
    n_obs=st.integers(2, 8),
    columns=st.lists(st.sampled_from([c for c in COLUMNS if c != "rle"]), unique=True, max_size=5),
    images=st.lists(st.sampled_from(["VisiumV1", "FOV", "SlideSeq", "STARmap"]), max_size=2),
    gene_names=st.sampled_from(["plain", "unicode"]),
    spot_names=st.sampled_from(["plain", "unicode"]),
    normalised=st.booleans(),
    reductions=st.booleans(),
    misc=st.booleans(),
)
@pytest.mark.usefixtures("quiet")
def test_seurat_objects_come_back_identical(r: R, **drawn: Any) -> None:
    seed, n_genes, n_obs = (drawn.pop(name) for name in ("seed", "n_genes", "n_obs"))
    x = r.call("make_seurat", seed, n_genes, n_obs, drawn.pop("columns"), **drawn)
    assert r.texts("seurat_differences", x, interop.from_anndata(interop.to_anndata(x))) == []


@pytest.mark.usefixtures("quiet")
def test_every_kind_survives_a_file_of_anndata(r: R, tmp_path: Path) -> None:
    x = r.call("make_experiment", 1, "SpatialExperiment", 7, 9, MATRICES, COLUMNS, images=True)
    adata = through_h5ad(interop.to_anndata(x), tmp_path)
    assert r.texts("differences", x, interop.from_anndata(adata)) == []
    x = r.call("make_seurat", 1, 7, 9, [c for c in COLUMNS if c != "rle"], ["VisiumV1", "FOV"])
    adata = through_h5ad(interop.to_anndata(x), tmp_path)
    assert r.texts("seurat_differences", x, interop.from_anndata(adata)) == []


@pytest.mark.usefixtures("quiet")
def test_metadata_survives_a_file_of_anndata(r: R, tmp_path: Path) -> None:
    x = r.call("make_experiment", 1, "SpatialExperiment", 2, 3, [], [], metadata=True)
    adata = through_h5ad(interop.to_anndata(x), tmp_path)
    assert r.texts("differences", x, interop.from_anndata(adata)) == []


# ---- Python -> R -> Python


@pytest.mark.usefixtures("r")
@pytest.mark.parametrize("texts", [["only"], ["one", "other"]])
def test_texts_of_uns_come_back_whatever_their_number(texts: list[str]) -> None:
    adata = ad.AnnData(np.ones((2, 1), dtype=np.float32), uns={"texts": np.array(texts, object)})
    adata.obsm["spatial"] = np.arange(4.0).reshape(2, 2)
    back = interop.to_anndata(interop.from_anndata(adata, "SingleCellExperiment"))
    assert back.uns["texts"].tolist() == texts


def arrays(draw: Any, n: int) -> Any:
    """Draw a column of any type that R has, or that is restored on the way back."""
    kind = draw(st.sampled_from(TYPES))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    gaps = rng.random(n) < 0.3
    letters = np.array(["b", "a", "é"], dtype=object)[rng.integers(0, 3, n)]
    match kind:
        case "big":
            return rng.integers(-(2**52), 2**52, n)
        case "bool":
            return rng.random(n) < 0.5
        case "boolean":
            return pd.arrays.BooleanArray(rng.random(n) < 0.5, gaps)
        case "Int64" | "Int32" | "Float64":
            values = pd.array(rng.integers(0, 5, n), dtype=kind)
            values[gaps] = pd.NA
            return values
        case "category" | "ordered":
            codes = np.where(gaps, -1, rng.integers(0, 2, n))
            return pd.Categorical.from_codes(
                codes, ["z", "a", "unused"], ordered=kind != "category"
            )
        case "numbered":
            return pd.Categorical(rng.integers(0, 3, n), categories=[2, 1, 0])
        case "text":
            return np.array([f"id{i}" for i in range(n)], dtype=object)
        case "repeated":
            return letters
        case "gaps":
            return np.where(gaps, np.nan, letters)
        case _:
            return rng.normal(0, 50, n).astype(kind)


@st.composite
def adatas(draw: Any, least: int = 0) -> ad.AnnData:
    n_obs, n_vars = draw(st.integers(least, 6)), draw(st.integers(least, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))

    def matrix(kind: str) -> Any:
        dense = rng.poisson(0.7, (n_obs, n_vars)) * 2.0**31
        if kind.startswith("csr"):
            return sparse.csr_matrix(dense, dtype=kind[4:])
        return dense.astype(kind)

    kinds = st.sampled_from(["csr float32", "csr float64", "csr bool", "float32", "bool", "int64"])
    adata = ad.AnnData(
        matrix(draw(kinds)),
        obs=pd.DataFrame(
            {f"o{i}": arrays(draw, n_obs) for i in range(draw(st.integers(0, 3)))},
            index=[f"spot{i}" for i in range(n_obs)],
        ),
        var=pd.DataFrame(
            {f"v{i}": arrays(draw, n_vars) for i in range(draw(st.integers(0, 2)))},
            index=[f"gene{i}" for i in range(n_vars)],
        ),
    )
    if draw(st.booleans()):
        adata.layers["counts"] = matrix(draw(kinds))
    for key in draw(st.sets(st.sampled_from(["X_pca", "X_PCA", "own", "X_m2st_scale1"]))):
        adata.obsm[key] = rng.random((n_obs, 2)).astype(draw(st.sampled_from(["f4", "f8"])))
    if draw(st.booleans()):
        adata.obsm["spatial"] = rng.random((n_obs, 2)).astype(draw(st.sampled_from(["f4", "f8"])))
    adata.uns = {
        "number": 1.5, "whole": 3, "flag": True, "text": "é", "one": np.array([2.5]),
        "none": None, "several": np.array([1.5, np.nan]), "deep": {"a": {"b": "c"}, "empty": {}},
        "words": np.array(["a", "b"], dtype=object), "m2st": {"loss": np.arange(3.0)},
    }  # fmt: skip
    return adata


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(adata=adatas(), as_=st.sampled_from(["SpatialExperiment", "SingleCellExperiment"]))
@pytest.mark.usefixtures("quiet", "r")
def test_anndata_comes_back_equal_from_experiments(adata: ad.AnnData, as_: str) -> None:
    before = adata.copy()
    found = interop.to_anndata(interop.from_anndata(adata, as_))
    assert_same_adata(adata, before)  # not changed
    del found.uns["m2st_r"]
    assert_same_adata(adata, found)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(adata=adatas(least=2))
@pytest.mark.usefixtures("quiet", "r")
def test_anndata_comes_back_equal_from_seurat(adata: ad.AnnData) -> None:
    for part, matrix in (("X", adata.X), *adata.layers.items()):
        if not sparse.issparse(matrix) or matrix.dtype == bool:  # what Seurat's slots hold
            values = sparse.csr_matrix(matrix, dtype="float64")
            if part == "X":
                adata.X = values
            else:
                adata.layers[part] = values
    del adata.uns["none"]  # Seurat's misc drops what is NULL
    found = interop.to_anndata(interop.from_anndata(adata, "Seurat"))
    del found.uns["m2st_r"]
    found.uns.pop("spatial", None)
    assert_same_adata(adata, found)


@pytest.mark.parametrize(
    ("as_", "names"),
    [
        ("SingleCellExperiment", [
            "M2ST", "M2ST_scale1", "M2ST_averages", "M2ST_cell_types", "M2ST_K5", "FINE.2",
            "FINE.2_scale1", "FINE.2_averages",
        ]),
        ("Seurat", [
            "m2st", "m2st.scale1", "m2st.averages", "m2st.cell_types", "m2st_k5", "fine.2",
            "fine.2.scale1", "fine.2.averages",
        ]),
    ],
)  # fmt: skip
def test_results_are_called_as_r_calls_them(r: R, as_: str, names: list[str]) -> None:
    counts = sparse.csr_matrix(np.arange(12.0).reshape(4, 3))
    adata = ad.AnnData(counts, obs=pd.DataFrame(index=list("abcd")))
    adata.var_names = list("xyz")
    for key in (
        "m2st", "m2st_scale1", "m2st_averages", "m2st_cell_types", "m2st_k5", "fine.2",
        "fine.2_scale1", "fine.2_averages",
    ):  # fmt: skip
        adata.obsm[f"X_{key}"] = np.random.default_rng(0).random((4, 2))
    for name in ("m2st", "m2st_k5", "fine.2"):
        adata.obs[f"{name}_domain"] = pd.Categorical(["1", "2", "1", "2"])
        adata.obs[f"{name}_confidence"] = 0.5
        adata.uns[name] = {"n_members": 2, "cluster": {"n_domains": 2}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = interop.from_anndata(adata, as_)
        found = interop.to_anndata(made)
    function = {"Seurat": "SeuratObject::Reductions"}.get(
        as_, "SingleCellExperiment::reducedDimNames"
    )
    assert r.texts(function, made) == names
    assert set(found.obsm) == set(adata.obsm)
    assert {"m2st", "m2st_k5", "fine.2"} <= set(found.uns)
    # What R itself writes has no note of Python's.
    del found.uns["m2st_r"]
    assert "m2st_python" not in found.uns
    pd.testing.assert_frame_equal(found.obs[adata.obs.columns], adata.obs, check_dtype=False)


# ---- what stands where: the tables of the module, line by line

IMAGE = np.arange(4)[:, None, None] * 5 + np.arange(5)[None, :, None] + np.arange(3) * 20
COUNTS = np.outer(np.arange(1, 13), np.arange(1, 6)) % 4


# Of `python -m tests.fuzz_interop`: X beside a layer of that name, None, bool; one cell;
# ident; []; samples that have an order.
@pytest.mark.parametrize("seed", [*range(12), 148, 532])
@pytest.mark.usefixtures("r")
def test_generated_objects_come_back(seed: int, tmp_path: Path) -> None:
    assert fuzz_interop.faults(seed, tmp_path) == []


@pytest.mark.slow
@pytest.mark.usefixtures("r")
def test_many_generated_objects_come_back(tmp_path: Path) -> None:
    wrong = {seed: fuzz_interop.faults(seed, tmp_path) for seed in range(1000, 3000)}
    assert {seed: found for seed, found in wrong.items() if found} == {}


@pytest.mark.usefixtures("r")
def test_what_seurat_cannot_hold_is_refused_in_our_words(tmp_path: Path) -> None:
    path = tmp_path / "x.rds"
    none = ad.AnnData(obs=pd.DataFrame(index=["a"]), layers={"other": np.ones((1, 2))})
    with pytest.raises(ValueError, match=r"Expected expression in `X`.* layers: 'other'"):
        interop.write_r(none, path, "Seurat")
    unnamed = ad.AnnData(np.ones((2, 2)), obs=pd.DataFrame(index=["a", ""]))
    with pytest.raises(ValueError, match=r"found empty ones in `adata\.obs_names`"):
        interop.write_r(unnamed, path, "Seurat")


@pytest.mark.usefixtures("r")
def test_cells_without_a_section_are_named(tmp_path: Path) -> None:
    adata = ad.AnnData(np.ones((3, 2)), obsm={"spatial": np.eye(3)[:, :2]})
    adata.obs["sample_id"] = pd.Categorical(["a", None, "a"])
    with pytest.warns(UserWarning, match="of 1 cells whose section is missing"):
        interop.write_r(adata, tmp_path / "x.rds", "Seurat")


@pytest.mark.parametrize("method", ["r", "rds2py"])
@pytest.mark.usefixtures("r")
def test_spatial_experiment_slot_by_slot(method: str) -> None:
    # Written by the real SpatialExperiment 1.8.1 from made-up data; read without that package.
    adata = interop.read_r(DATA / "spatial_experiment.rds", method=method)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    assert isinstance(adata.X, sparse.csr_matrix)
    # R's logarithm and numpy's differ in the last bit on some processors.
    np.testing.assert_allclose(adata.layers["logcounts"].toarray(), np.log1p(COUNTS), rtol=1e-15)
    assert adata.obs_names.tolist() == [f"cell{i}" for i in range(1, 13)]
    assert adata.var_names.tolist() == [f"gene{i}" for i in range(1, 6)]
    assert adata.obs["in_tissue"].dtype == "boolean"
    assert adata.obs["in_tissue"].tolist() == [True, pd.NA] * 6
    assert adata.obs["array_row"].tolist() == list(range(1, 13))
    assert adata.obs["layer"].cat.categories.tolist() == ["L1", "L2", "WM"]
    assert adata.obs["layer"].cat.codes.tolist() == [1, -1, 0] * 4
    assert adata.obs["sample_id"].cat.categories.tolist() == ["s2", "s1"]
    assert adata.var["symbol"].tolist()[:3] == ["A", "A", "B"]
    assert adata.var["symbol"].isna().tolist() == [False, False, False, True, False]
    expected = np.column_stack([np.arange(1, 13) * 10.0, np.arange(1, 13) * 100.0])
    assert_same(adata.obsm["spatial"], expected)
    assert_same(adata.obsm["X_pca"], (np.arange(1, 25) / 2).reshape(12, 2, order="F"))
    library = adata.uns["spatial"]["s2"]
    np.testing.assert_array_equal(library["images"]["lowres"][:, :, :3], IMAGE)
    assert library["images"]["lowres"].dtype == np.uint8
    scales = library["scalefactors"]
    assert scales["tissue_lowres_scalef"] == 0.25
    assert scales["spot_diameter_fullres"] == pytest.approx(0.55 * np.hypot(10, 100))
    assert scales["spot_diameter_fullres_estimated"] is True
    assert (adata.uns["study"], adata.uns["k"]) == ("synthetic", 7)


@pytest.mark.parametrize("method", ["r", "rds2py"])
@pytest.mark.usefixtures("r")
def test_seurat_5_slot_by_slot(method: str) -> None:
    # Written by the real Seurat 5.5.1 from made-up data; Debian has Seurat 4 only.
    with pytest.warns(UserWarning, match=r"counts\.a, counts\.b, data\.a, data\.b \(joined\)"):
        adata = interop.read_r(DATA / "seurat5.rds", method=method)
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS)
    np.testing.assert_allclose(adata.layers["data"].toarray(), np.log1p(COUNTS))
    assert adata.obs["half"].tolist() == ["a"] * 6 + ["b"] * 6
    assert adata.obs["ident"].tolist() == ["synthetic"] * 12
    chosen = adata.var[adata.var["highly_variable"]].sort_values("highly_variable_rank")
    assert chosen.index.tolist() == ["gene3", "gene1"]
    assert_same(adata.obsm["X_pca"], (np.arange(1, 25) / 2).reshape(12, 2, order="F"))
    # A reduction of the first ten cells.
    assert (
        np.isnan(adata.obsm["X_integrated_cca"]).all(axis=1).tolist() == [False] * 10 + [True] * 2
    )
    assert adata.obs["sample_id"].tolist()[:11] == ["fov"] * 6 + ["slice"] * 5
    assert pd.isna(adata.obs["sample_id"].iloc[11])  # in no image
    expected = np.column_stack([np.arange(1, 13) * 10.0, np.arange(1, 13) * 100.0])
    expected[11] = np.nan
    assert_same(adata.obsm["spatial"], expected)
    slice_ = adata.uns["spatial"]["slice"]
    np.testing.assert_array_equal(
        slice_["images"]["lowres"], (np.arange(60) / 255).reshape(4, 5, 3, order="F")
    )
    assert slice_["scalefactors"] == {
        "spot_diameter_fullres": 50.0,
        "fiducial_diameter_fullres": 80.0,
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": 0.1,
    }
    assert adata.uns["spatial"]["fov"]["scalefactors"]["spot_diameter_fullres_estimated"] is True


def test_repeated_names_are_made_unique_and_kept(r: R) -> None:
    x = r.call("make_experiment", 1, "SpatialExperiment", 4, 4, [], [], "repeated", "repeated")
    with pytest.warns(UserWarning, match="has no assay"):
        adata = interop.to_anndata(x)
    assert adata.obs_names.tolist() == ["x", "y", "x-2", "x-1"]
    assert adata.var["original_name"].tolist() == ["x", "y", "x", "x-1"]


def test_everything_that_is_not_converted_is_named_in_one_warning(r: R) -> None:
    code = """
    x <- make_experiment(1, "SpatialExperiment", 3, 4, "dgCMatrix", "double")
    altExp(x, "ERCC") <- SummarizedExperiment(list(counts = matrix(1, 2, 4)))
    colPair(x, "knn") <- S4Vectors::SelfHits(1L, 2L, nnode = 4L)
    rowPair(x, "net") <- S4Vectors::SelfHits(1L, 2L, nnode = 3L)
    rowRanges(x)[[1]] <- GenomicRanges::GRanges("1:2-3")
    x$day <- as.Date("2024-01-01") + 1:4
    x$list <- list(1, 2, 3, 4)
    x$z <- 1i
    attr(reducedDim(x, "PCA", withDimnames = FALSE), "rotation") <- 1
    inner <- reducedDim(x, "PCA", withDimnames = FALSE)
    attr(inner, "rotation") <- matrix(1)
    int_colData(x)$reducedDims$PCA <- inner
    int_colData(x)$sizes <- 1:4
    metadata(x) <- list(f = function(x) x, deep = list(e = globalenv()), kept = 1)
    mcols(colData(x)) <- S4Vectors::DataFrame(a = seq_len(ncol(colData(x))))
    attr(x, "extra") <- 1
    assay(x, "words", withDimnames = FALSE) <- matrix("a", 3, 4)
    made <- function(class, ...) new(structure(class, package = "SpatialExperiment"), ...)
    remote <- made("RemoteSpatialImage", url = "https://e.x/a.png")
    stored <- made("StoredSpatialImage", path = "/nowhere.png")
    table <- S4Vectors::DataFrame(sample_id = c("s1", "s2"), image_id = c("a", "b"))
    table$data <- list(remote, stored)
    table$scaleFactor <- c(1, NA)
    int_metadata(x)$imgData <- table
    x
    """
    with pytest.warns(UserWarning, match="Not converted") as caught:
        adata = interop.to_anndata(r.code(f"local({{{code}}})"))
    assert len(caught) == 1
    text = str(caught[0].message)
    for part in (
        "altExps (ERCC)", "colPairs (knn)", "rowPairs (net)", "rowRanges", "colData$day (of class "
        "Date)", "colData$list (of type list)", "colData$z", "reducedDim PCA (its attributes "
        "rotation)", "int_colData$sizes", "metadata$f", "metadata$deep$e", "elementMetadata of "
        "colData", "attribute extra", "assay words", "image a of s1 (at https://e.x/a.png, not "
        "downloaded)", "image b of s2 (no file at /nowhere.png)",
    ):  # fmt: skip
        assert part in text, part
    assert "kept" in adata.uns
    assert adata.uns["spatial"]["s1"]["images"] == {}


def test_a_derived_class_is_read_as_its_parent(r: R) -> None:
    x = r.code("""local({
        setClass("DerivedExperiment", contains = "SpatialExperiment", where = globalenv())
        new("DerivedExperiment", make_experiment(1, "SpatialExperiment", 2, 3, "dgCMatrix", "flag"))
    })""")
    with pytest.warns(UserWarning, match="class DerivedExperiment .read as its parent Spatial"):
        assert interop.to_anndata(x).shape == (3, 2)


@pytest.mark.usefixtures("r")
def test_what_anndata_has_and_r_has_not_is_named() -> None:
    adata = ad.AnnData(sparse.eye(3, format="csr"))
    adata.obs["when"] = pd.to_datetime(["2024-01-01"] * 3)
    adata.obs["huge"] = np.array([2**60, 1, 2])
    adata.obs["mixed"] = pd.Series([1, "a", None], index=adata.obs_names, dtype=object)
    adata.obsp["graph"] = sparse.eye(3, format="csr")
    adata.varm["PCs"] = np.ones((3, 2))
    adata.obsm["sparse"] = sparse.eye(3, format="csr")
    adata.obsm["spatial"] = np.arange(9.0).reshape(3, 3)
    adata.uns["object"] = {"deep": {1, 2}}
    adata.uns["spatial"] = {"lib": {"images": {"hires": np.full((2, 2, 3), 0.1234)}}}
    adata.raw = adata
    for as_ in ("SpatialExperiment", "Seurat"):
        with pytest.warns(UserWarning, match="Not converted from the AnnData") as caught:
            interop.from_anndata(adata, as_)
        text = str(caught[0].message)
        for part in (
            "obs['when']", "obs['huge'] (whole numbers beyond 2^53", "obs['mixed']", "raw",
            "obsp['graph']", "varm['PCs']", "obsm['sparse']", "uns['object']['deep']",
        ):  # fmt: skip
            assert part in text, (as_, part)
        one = "rounded to 8 bits" if as_ == "SpatialExperiment" else "1 of the axes"
        assert one in text


@pytest.mark.usefixtures("quiet", "r")
@pytest.mark.parametrize("as_", ["SpatialExperiment", "Seurat"])
def test_scanpys_layout_of_images_comes_back(as_: str) -> None:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(sparse.csr_matrix(rng.poisson(1.0, (6, 4)), dtype=np.float32))
    adata.obsm["spatial"] = rng.random((6, 2))
    adata.obs["library_id"] = pd.Categorical(["b", "b", "b", "a", "a", "a"])
    for at, column in enumerate(("in_tissue", "array_row", "array_col")):
        adata.obs[column] = np.arange(6) % (at + 2)
    shades = rng.integers(0, 256, (3, 4, 3))
    scales = {
        "tissue_lowres_scalef": 0.25, "tissue_hires_scalef": 0.5, "spot_diameter_fullres": 9.5,
        "fiducial_diameter_fullres": 12.5, "regist_target_img_scalef": 0.1,
    }  # fmt: skip
    adata.uns["spatial"] = {
        name: {
            "images": {"lowres": shades.astype(dtype) / np.array(divisor, dtype=dtype)},
            "metadata": {"software": "made up"},
            "scalefactors": dict(scales),
        }
        for name, dtype, divisor in (("a", np.float32, 255), ("b", np.float64, 255))
    }
    adata.uns["spatial"]["b"]["images"]["lowres"] = shades.astype(np.uint8)
    found = interop.to_anndata(interop.from_anndata(adata, as_))
    for name, library in adata.uns["spatial"].items():
        for part, content in library.items():
            other = found.uns["spatial"][name][part]
            assert_same(
                {k: content[k] for k in sorted(content)}, {k: other[k] for k in sorted(other)}
            )
    assert_same(found.obsm["spatial"], adata.obsm["spatial"])
    assert list(found.obs) == list(adata.obs)


@pytest.mark.usefixtures("r")
def test_names_that_seurat_changes_are_named_and_come_back() -> None:
    adata = ad.AnnData(sparse.eye(3, format="csr"), var=pd.DataFrame(index=["a_b", "a-b", "c|d"]))
    with pytest.warns(UserWarning, match='"_" and "|" in the names of'):
        x = interop.from_anndata(adata, "Seurat")
    with pytest.warns(UserWarning, match="has no coordinates"):
        assert interop.to_anndata(x).var_names.tolist() == ["a_b", "a-b", "c|d"]
    adata.obs_names = ["a", "a", "b"]
    with pytest.raises(ValueError, match=r"1 repeated. Call `adata.obs_names_make_unique\(\)`"):
        interop.from_anndata(adata, "Seurat")


@pytest.mark.usefixtures("quiet")
def test_the_assay_behind_sctransform_is_taken(r: R) -> None:
    x = r.code("""local({
        x <- make_seurat(1, 4, 5, character())
        sct <- x@assays$Spatial
        x@assays$SCT <- new(structure("SCTAssay", package = "Seurat"), counts = sct@counts * 2,
            data = sct@data, scale.data = new("matrix"), key = "sct_", assay.orig = "Spatial")
        x@active.assay <- "SCT"
        x
    })""")
    raw = interop.to_anndata(x)
    corrected = interop.to_anndata(x, assay="SCT")
    assert json.loads(raw.uns["m2st_r"])["assay"] == "Spatial"
    assert_same(corrected.X.toarray(), raw.X.toarray() * 2)
    with pytest.raises(ValueError, match="Expected an assay 'RNA', found 'Spatial', 'SCT'"):
        interop.to_anndata(x, assay="RNA")


@pytest.mark.usefixtures("quiet")
def test_an_old_visium_v2_keeps_the_row_of_the_picture_as_x(r: R) -> None:
    def places(orientation: str) -> Any:
        return interop.to_anndata(
            r.code(f"""local({{
            x <- make_seurat(1, 3, 4, character(), "FOV")
            fov <- x@images$image1
            attr(fov, "coords_x_orientation") <- {orientation}
            attr(fov, "class") <- structure("VisiumV2", package = "Seurat")
            x@images$image1 <- fov
            x
        }})""")
        ).obsm["spatial"]

    assert_same(places("character()"), places('"horizontal"')[:, ::-1].copy())


# ---- real objects


@pytest.mark.parametrize("name", ROBJECTS)
def test_real_objects(r: R, shared_data: Path, name: str) -> None:
    path = shared_data / "robjects" / name
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        adata = interop.read_r(path, method="r")
        parsed = interop.read_r(path, method="rds2py")
    said = [str(one.message) for one in caught]
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    if ROBJECTS[name] is None:
        assert said == []
    else:
        assert len(said) == 2
        assert ROBJECTS[name] in said[0]
    assert_same_adata(adata, parsed)
    if adata.X is not None:  # R's own reading of the counts, through its accessors
        taken = r.call("counts_of", str(path))
        n_vars, n_obs = np.array(taken[0])
        triplets = (np.array(taken[3]), (np.array(taken[2]), np.array(taken[1])))
        expected = sparse.csr_matrix(triplets, shape=(n_obs, n_vars))
        assert adata.shape == expected.shape
        assert (expected != adata.X).nnz == 0
        assert adata.obs_names.tolist() == list(taken[4])
    if "spatial" in adata.obsm:
        overlay = r.call("coords_of", str(path))
        np.testing.assert_array_equal(
            np.array(overlay).reshape(adata.n_obs, 2, order="F"), adata.obsm["spatial"]
        )


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", [n for n in ROBJECTS if "SPE" in n.upper() and "FE_seu" not in n])
def test_real_experiments_come_back_identical(r: R, shared_data: Path, name: str) -> None:
    x = r.call("object_in", str(shared_data / "robjects" / name))
    found = r.texts("differences", x, interop.from_anndata(interop.to_anndata(x)))
    assert found == []
