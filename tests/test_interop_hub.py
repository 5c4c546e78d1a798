"""Data sets, with the hub replaced by made-up objects of the same columns and missing values."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests import interop_r
from tests.interop_r import R

from m2st import annotate, datasets, interop
from m2st.datasets import _hub, _published

SECTIONS = ["151507", "151673"]

# NOT spatialLIBD's data: made up, with the names and the missing values of its columns.
MADE_UP = """
function(kind) {
    x <- make_experiment(1, "SpatialExperiment", 6, 20, c("dgCMatrix", "dgCMatrix"), character(),
        images = TRUE)
    rownames(x) <- sprintf("ENSG%011d", 1:6)
    barcodes <- rep(sprintf("ACGT%d-1", 1:10), 2) # the same in each section
    colnames(x) <- barcodes
    rowData(x)$gene_name <- c("A", "B", "B", "C", "D", "E")
    # In the slot, as the real class checks a change of samples against the pictures.
    x@colData$sample_id <- rep(c("151507", "151673"), each = 10)
    x$in_tissue <- kind != "example" | rep(c(TRUE, FALSE), 10)
    if (kind == "example") x$in_tissue <- as.integer(x$in_tissue)
    x$array_row <- 1:20
    x$array_col <- 20:1
    x$key <- paste(x$sample_id, barcodes, sep = "_")
    x$sum_umi <- stats::setNames(colSums(as.matrix(counts(x))), barcodes)
    layers <- rep(c("WM", "Layer1", NA, "Layer2", "Layer6"), 4)
    levels <- c(paste0("Layer", 1:6), "WM")
    if (kind == "example") {
        x$ground_truth <- layers
        x@colData$sample_id <- "sample_151673"
        int_metadata(x)$imgData <- int_metadata(x)$imgData[0, ]
        return(x)
    }
    x$layer_guess <- layers
    x$layer_guess_reordered <- factor(layers, levels = levels)
    x$spatialLIBD <- factor(sub("Layer", "L", layers))
    x$ManualAnnotation <- "NA"
    table <- int_metadata(x)$imgData
    table$sample_id <- c("151507", "151673")
    int_metadata(x)$imgData <- table
    if (kind == "sce") {
        x$sample_name <- as.integer(x$sample_id)
        x$imagecol <- 20:1 + 0.5
        x$imagerow <- 1:20 + 0.5
        y <- SingleCellExperiment(assays(x), colData = colData(x)[names(colData(x)) != "sample_id"])
        return(y)
    }
    x
}
"""


@pytest.fixture(scope="session")
def r(tmp_path_factory: pytest.TempPathFactory) -> R:
    return interop_r.start(tmp_path_factory.mktemp("library"))


class Hub:
    """A hub whose answers are made up; it counts how often it is asked."""

    def __init__(self, r: R) -> None:
        self.r, self.asked, self.away, self.answer = r, [], False, None
        self.call = _hub.r.call

    def __call__(self, function: str, *names: Any) -> Any:
        if not function.startswith("fetch"):
            return self.call(function, *names)
        self.asked.append((function, *(name[0] for name in names)))
        if self.away:
            return self.r.low.call("readObjects", self.r.value("/no/network.rds"))
        if self.answer is not None:
            return self.answer
        if function == "fetchHub":
            origin = self.r.value(["EH1", "LIBD", "https://example.org/data"])
            return self.r.low.listing([self.r.call(MADE_UP, "spe"), origin])
        return self.r.call(MADE_UP, "spe" if function == "fetchSpatialLIBD" else "example")


@pytest.fixture
def hub(r: R, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    made = Hub(r)
    monkeypatch.setattr(_hub.r, "call", made)
    monkeypatch.setenv("M2ST_CACHE", str(tmp_path / "cache"))
    return made


def test_spatial_libd_is_fetched_once(hub: Hub, tmp_path: Path) -> None:
    adata = _hub.spatial_libd()
    assert adata.shape == (20, 6)
    assert adata.obs["sample_id"].cat.categories.tolist() == SECTIONS
    assert adata.obs["domain"].cat.categories.tolist() == ["Layer1", "Layer2", "Layer6", "WM"]
    assert adata.obs["domain"].isna().sum() == 4
    assert adata.obs_names.is_unique
    assert adata.obs["original_name"].tolist()[:10] == adata.obs["original_name"].tolist()[10:]
    assert adata.obs["key"].is_unique
    assert set(adata.uns["source"]) == {"title", "source", "citation", "licence"}
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == [
        "spatial_libd.h5ad",
        "spatial_libd.sha256",
    ]
    again = _hub.spatial_libd("151673")
    assert hub.asked == [("fetchSpatialLIBD",)]
    assert again.n_obs == 10
    assert list(again.uns["spatial"]) == ["151673"]
    assert again.obs["sample_id"].cat.categories.tolist() == ["151673"]
    assert _hub.spatial_libd(SECTIONS).n_obs == 20
    with pytest.raises(ValueError, match="among 151507, 151673, found 151999"):
        _hub.spatial_libd("151999")


def test_a_damaged_cache_is_fetched_again(hub: Hub, tmp_path: Path) -> None:
    _hub.spatial_libd()
    file = tmp_path / "cache" / "spatial_libd.h5ad"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.warns(UserWarning, match="another checksum.: fetching it again"):
        assert _hub.spatial_libd().n_obs == 20
    assert len(hub.asked) == 2
    (tmp_path / "cache" / "spatial_libd.sha256").unlink()  # as after an interruption
    assert _hub.spatial_libd().n_obs == 20
    assert len(hub.asked) == 3


def test_without_network_the_message_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.away = True
    for load in (_hub.spatial_libd, _hub.st_example, lambda: _hub.bioconductor("a title")):
        with (
            pytest.warns(UserWarning, match="R: "),
            pytest.raises(ConnectionError, match=r"cannot open the connection.*pass `path="),
        ):
            load()
    assert not (tmp_path / "cache").exists()


def test_without_the_package_the_message_says_how_to_get_it(r: R) -> None:
    if r.code('requireNamespace("spatialLIBD", quietly = TRUE)')[0]:
        pytest.skip("spatialLIBD is installed")
    with pytest.raises(ImportError, match=r'`BiocManager::install\("spatialLIBD"\)`'):
        _hub._ask("fetchSpatialLIBD")


def test_a_local_copy_is_read_instead(hub: Hub, r: R, tmp_path: Path) -> None:
    path = tmp_path / "spe.rds"
    r.call("function(x, path) saveRDS(x, path)", r.call(MADE_UP, "spe"), str(path))
    adata = _hub.spatial_libd("151507", path=path)
    adata.write_h5ad(tmp_path / "spe.h5ad")
    for other in (tmp_path / "spe.h5ad", str(path)):
        assert _hub.spatial_libd("151507", path=other).obs.equals(adata.obs)
    assert _hub.from_r_file(path).n_obs == 20
    # The form before SpatialExperiment.
    old = tmp_path / "sce.RData"
    r.call("function(sce, path) save(sce, file = path)", r.call(MADE_UP, "sce"), str(old))
    with pytest.warns(UserWarning, match="no coordinates"):
        found = _hub.spatial_libd("151673", path=old)
    np.testing.assert_array_equal(found.obsm["spatial"][0], [10.5, 11.5])
    assert found.obs["domain"].tolist() == adata.obs["domain"].tolist()
    assert hub.asked == []


@pytest.mark.usefixtures("hub")
def test_data_without_layers_are_refused(r: R, tmp_path: Path) -> None:
    path = tmp_path / "x.rds"
    x = r.call("make_experiment", 1, "SpatialExperiment", 2, 3, ["dgCMatrix"], ["flag"])
    r.call("function(x, path) saveRDS(x, path)", x, str(path))
    with pytest.raises(KeyError, match="layer_guess_reordered, layer_guess"):
        _hub.spatial_libd(path=path)


@pytest.fixture
def cortex() -> ad.AnnData:
    """Two sections with the columns and the names of spatialLIBD's; one of them on the other."""
    adata = datasets.simulate_cortex(n_obs=500, n_genes=120, n_domains=4, n_samples=2)
    layers = adata.obs["domain"].cat.rename_categories(["Layer1", "Layer2", "Layer3", "WM"])
    adata.obs = pd.DataFrame(
        {
            "sample_id": adata.obs["sample"].cat.rename_categories(SECTIONS),
            "in_tissue": True,
            "layer_guess_reordered": layers.where(np.arange(500) % 25 > 0),
        },
        index=adata.obs_names,
    )
    adata.var = pd.DataFrame(
        {"gene_name": [f"GENE{gene}" for gene in range(120)]},
        index=[f"ENSG{gene:011d}" for gene in range(120)],
    )
    del adata.uns
    return adata


def test_its_layers_reach_a_new_section(
    hub: Hub, cortex: ad.AnnData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "answer", interop.from_anndata(cortex, "SpatialExperiment"))
    new = cortex[(cortex.obs["sample_id"] == "151673").to_numpy()].copy()
    truth = new.obs.pop("layer_guess_reordered").astype(object)
    new.obs = new.obs[[]]
    with pytest.raises(ValueError, match="found the reference itself or a part of it"):
        annotate(new, reference="spatialLIBD")
    new.X = 2 * new.X
    model = annotate(new, reference="spatialLIBD")
    assert hub.asked == [("fetchSpatialLIBD",)]
    assert new.obs["m2st_domain"].cat.categories.tolist() == ["Layer1", "Layer2", "Layer3", "WM"]
    assert (new.obs["m2st_domain"].astype(object) == truth)[truth.notna()].mean() > 0.8
    # Its two sections lie on each other: both are known as such.
    assert model.record["graph"]["sample_key"] == "sample_id"
    annotate(new, reference="spatialLIBD", key_added="again")
    assert hub.asked == [("fetchSpatialLIBD",)]
    assert new.obs["again_confidence"].equals(new.obs["m2st_confidence"])
    new.var_names = new.var.pop("gene_name").astype(str)
    with pytest.raises(ValueError, match=r"The column 'gene_name' of `reference.var` fits"):
        annotate(new, reference="spatialLIBD")
    hub.away = True
    monkeypatch.setenv("M2ST_CACHE", str(tmp_path / "empty"))
    with (
        pytest.warns(UserWarning, match="R: "),
        pytest.raises(ConnectionError, match="returns is a reference"),
    ):
        annotate(new, reference="spatialLIBD")


def test_examples_leave_out_what_is_beside_the_tissue(hub: Hub) -> None:
    adata = _hub.st_example()
    assert hub.asked == [("fetchExample", "Visium_humanDLPFC")]
    assert adata.n_obs == 10
    assert set(adata.obs["domain"].cat.categories) == {"Layer1", "Layer2", "Layer6", "WM"}
    assert "Maynard" in adata.uns["source"]["citation"]
    _hub.st_example("Visium_mouseCoronal")
    assert len(hub.asked) == 2


def test_any_record_by_its_title(hub: Hub, tmp_path: Path) -> None:
    for _ in range(2):
        adata = _hub.bioconductor("Human (pilot), all")
        assert adata.n_obs == 20
        assert adata.uns["source"]["source"].endswith("EH1, from LIBD, https://example.org/data")
    assert hub.asked == [("fetchHub", "Human (pilot), all")]
    assert (tmp_path / "cache" / "bioconductor_human_pilot_all.h5ad").is_file()


# ---- as published: small tables of exactly that layout


@pytest.mark.parametrize("first", ["header", "values"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_slide_seq(tmp_path: Path, separator: str, first: str) -> None:
    rng = np.random.default_rng(0)
    expected = rng.poisson(0.5, (7, 5))
    barcodes = [f"ACGT{i}" for i in range(7)]
    genes = ["Actb", "Gad1", "Gad1", "mt-Co1", "Xist"]
    counts = tmp_path / "Puck_1.digital_expression.txt.gz"
    with gzip.open(counts, "wt") as stream:
        pd.DataFrame(expected.T, index=pd.Index(genes, name="GENE"), columns=barcodes).to_csv(
            stream, sep=separator
        )
    beads = tmp_path / "Puck_1_bead_locations.csv"
    places = pd.DataFrame({"barcodes": barcodes[::-1], "xcoord": np.arange(7) + 0.5, "ycoord": 3})
    places[places["barcodes"] != "ACGT2"].to_csv(beads, header=first == "header", index=False)
    adata = _published.slide_seq(counts, beads)
    kept = [0, 1, 3, 4, 5, 6]
    assert adata.obs_names.tolist() == [barcodes[i] for i in kept]
    assert adata.var_names.tolist() == ["Actb", "Gad1", "Gad1-1", "mt-Co1", "Xist"]
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X.toarray(), expected[kept])
    np.testing.assert_array_equal(adata.obsm["spatial"][:, 0], [6 - i + 0.5 for i in kept])


def test_slide_seq_of_two_pucks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("GENE,A,B\nActb,1,2\n")
    for text, match in (
        ("X,1,2\nY,3,4\n", "found none of 2"),
        ("A,1\nB,2\n", "found 2 columns"),
        ("A,1,2\nB,3,4\nB,5,6\n", "each barcode once"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ValueError, match=match):
            _published.slide_seq(tmp_path / "c.csv", tmp_path / "b.csv")


def test_annotation_from_a_table(tmp_path: Path) -> None:
    adata = ad.AnnData(np.ones((3, 1)), obs=pd.DataFrame(index=["A-1", "B-1", "C-1"]))
    table = tmp_path / "metadata.tsv"
    table.write_text("barcode\tkey\tlayer_guess\nC-1\tc\tWM\nA-1\ta\tLayer1\nZ-1\tz\tWM\n")
    _published.annotate(adata, table, "layer_guess")
    assert adata.obs["domain"].tolist()[::2] == ["Layer1", "WM"]
    assert pd.isna(adata.obs["domain"].iloc[1])
    with pytest.raises(KeyError, match="found key, layer_guess"):
        _published.annotate(adata, table, "layer")
    adata.obs_names = ["x", "y", "z"]
    with pytest.raises(ValueError, match="found none of them"):
        _published.annotate(adata, table, "key")


@pytest.mark.usefixtures("r")
def test_slide_seq_as_published_converts_to_r(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("GENE,A,B\nActb,1,2\nGad1,0,3\n")
    (tmp_path / "b.csv").write_text("barcodes,xcoord,ycoord\nA,1,2\nB,3,4\n")
    adata = _published.slide_seq(tmp_path / "c.csv", tmp_path / "b.csv")
    found = interop.to_anndata(interop.from_anndata(adata, "Seurat"))
    np.testing.assert_array_equal(found.obsm["spatial"], [[1, 2], [3, 4]])
