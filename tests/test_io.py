"""m2st.io on small real layouts: each is written here as its own software writes it."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from matplotlib.image import imsave
from scipy import sparse
from scipy.io import mmwrite
from typer.testing import CliRunner

import m2st
from m2st import io
from m2st._readers import _space_ranger
from m2st._stores import check_storable
from m2st.cli import app

BARCODES = ["CCC-1", "AAA-1", "GGG-1"]
# Observations x genes; two genes share a symbol, and the last feature is no gene.
COUNTS = np.array([[1, 0, 2, 9], [0, 3, 0, 9], [4, 0, 0, 9]])
SYMBOLS = ["TBCE", "TBCE", "MBP", "CD3"]
IDS = ["ENSG1", "ENSG2", "ENSG3", "AB1"]
TYPES = ["Gene Expression"] * 3 + ["Antibody Capture"]
SCALES = {"spot_diameter_fullres": 89.5, "tissue_hires_scalef": 0.15, "tissue_lowres_scalef": 0.05}
# Every spot of the slide, sorted otherwise than the matrix.
POSITIONS = pd.DataFrame(
    [
        ["AAA-1", 1, 0, 2, 10, 20],
        ["CCC-1", 1, 1, 1, 30, 40],
        ["GGG-1", 1, 2, 4, 50, 60],
        ["TTT-1", 0, 3, 3, 70, 80],
    ],
    columns=[
        "barcode",
        "in_tissue",
        "array_row",
        "array_col",
        "pxl_row_in_fullres",
        "pxl_col_in_fullres",
    ],
)
IMAGE = np.linspace(0, 1, 4 * 5 * 3).reshape(4, 5, 3)

# spatialdata writes with settings that zarr and ome-zarr are about to change; reading is silent.
writes_spatialdata = [
    pytest.mark.filterwarnings("ignore:Call to deprecated class Scaler:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:zarr v3 autosharding:UserWarning"),
]


def write_h5(path: Path, library: str | None = "V1") -> None:
    """The matrix file of Space Ranger: features x barcodes, compressed by column."""
    matrix = sparse.csc_matrix(COUNTS.T)
    with h5py.File(path, "w") as file:
        if library is not None:
            file.attrs["library_ids"] = np.array([library.encode()])
        group = file.create_group("matrix")
        group["barcodes"] = np.array(BARCODES, dtype="S")
        group["data"] = matrix.data.astype("int32")
        group["indices"] = matrix.indices.astype("int64")
        group["indptr"] = matrix.indptr.astype("int64")
        group["shape"] = np.array(matrix.shape, dtype="int32")
        features = group.create_group("features")
        features["id"] = np.array(IDS, dtype="S")
        features["name"] = np.array(SYMBOLS, dtype="S")
        features["feature_type"] = np.array(TYPES, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 3 + [""], dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


def write_mtx(folder: Path) -> None:
    folder.mkdir()
    with gzip.open(folder / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, sparse.coo_matrix(COUNTS.T), field="integer")
    for name, rows in {
        "features": ["\t".join(row) for row in zip(IDS, SYMBOLS, TYPES, strict=True)],
        "barcodes": BARCODES,
    }.items():
        with gzip.open(folder / f"{name}.tsv.gz", "wt") as file:
            file.write("\n".join(rows) + "\n")


def write_spatial(
    folder: Path, positions: str = "tissue_positions.csv", *, header: bool = True, prefix: str = ""
) -> None:
    folder.mkdir(exist_ok=True)
    POSITIONS.to_csv(folder / f"{prefix}{positions}", index=False, header=header)
    (folder / f"{prefix}scalefactors_json.json").write_text(json.dumps(SCALES))
    imsave(folder / f"{prefix}tissue_hires_image.png", IMAGE)


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    """What Space Ranger 2 leaves of a section named `section`."""
    folder = tmp_path / "section" / "outs"
    folder.mkdir(parents=True)
    write_h5(folder / "filtered_feature_bc_matrix.h5")
    write_spatial(folder / "spatial")
    return folder


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(
        sparse.csr_matrix(COUNTS.astype("float32")),
        obs=pd.DataFrame({"domain": pd.Categorical(["1", "2", None])}, index=BARCODES),
        var=pd.DataFrame(index=IDS),
        obsm={"spatial": np.arange(6.0).reshape(3, 2)},
        uns={"m2st": {"loss": np.array([2.0, 1.0]), "device": "cpu"}},
    )


def check_visium(found: ad.AnnData) -> None:
    assert found.obs_names.tolist() == BARCODES
    assert found.var_names.tolist() == ["TBCE", "TBCE-1", "MBP"]
    assert found.var["gene_ids"].tolist() == IDS[:3]
    assert isinstance(found.X, sparse.csr_matrix)
    np.testing.assert_array_equal(found.X.toarray(), COUNTS[:, :3])
    assert found.obs["in_tissue"].tolist() == [1, 1, 1]
    assert found.obs["array_row"].tolist() == [1, 0, 2]
    assert found.obs["array_col"].tolist() == [1, 2, 4]
    assert found.obsm["spatial"].dtype == np.float64
    assert found.obsm["spatial"].tolist() == [[40, 30], [20, 10], [60, 50]]


def test_space_ranger_2(outs: Path) -> None:
    found = io.read(outs)
    check_visium(found)
    assert list(found.uns["spatial"]) == ["V1"]
    assert found.uns["spatial"]["V1"]["scalefactors"] == SCALES
    images = found.uns["spatial"]["V1"]["images"]
    assert list(images) == ["hires"]
    np.testing.assert_allclose(images["hires"][..., :3], IMAGE, atol=1 / 255)


@pytest.mark.parametrize("header", [True, False])
def test_space_ranger_1(outs: Path, *, header: bool) -> None:
    """Also with a header, as in files of version 2 under the old name."""
    (outs / "spatial" / "tissue_positions.csv").unlink()
    write_spatial(outs / "spatial", "tissue_positions_list.csv", header=header)
    check_visium(io.read(outs))


def test_space_ranger_mtx(outs: Path) -> None:
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    write_mtx(outs / "filtered_feature_bc_matrix")
    found = io.read(outs)
    check_visium(found)
    assert list(found.uns["spatial"]) == ["section"]


def test_space_ranger_parent_as_string_written_and_read(outs: Path, tmp_path: Path) -> None:
    found = io.read(str(outs.parent))
    check_visium(found)
    io.write(found, str(tmp_path / "out.h5ad"))
    again = io.read(tmp_path / "out.h5ad")
    check_visium(again)
    assert again.uns["spatial"]["V1"]["scalefactors"] == SCALES


def test_geo_prefix_in_one_flat_folder(tmp_path: Path) -> None:
    write_h5(tmp_path / "GSM1_filtered_feature_bc_matrix.h5", library=None)
    write_spatial(tmp_path, "tissue_positions_list.csv", header=False, prefix="GSM1_")
    (tmp_path / "._GSM1_filtered_feature_bc_matrix.h5").touch()  # macOS leaves such
    found = io.read(tmp_path)
    check_visium(found)
    assert list(found.uns["spatial"][tmp_path.name]["images"]) == ["hires"]


def test_geo_two_samples_in_one_folder(tmp_path: Path) -> None:
    for sample in ("GSM1", "GSM2"):
        write_h5(tmp_path / f"{sample}_filtered_feature_bc_matrix.h5")
    with pytest.raises(ValueError, match=r"one sample in .*GSM1_filt.*, GSM2_filt"):
        io.read(tmp_path)


def test_visium_hd_bin(outs: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow reads the positions of Visium HD")
    (outs / "spatial" / "tissue_positions.csv").unlink()
    POSITIONS.to_parquet(outs / "spatial" / "tissue_positions.parquet", index=False)
    check_visium(io.read(outs.rename(outs.parent / "square_008um")))


def test_visium_hd_without_pyarrow(outs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = outs / "spatial" / "tissue_positions.parquet"
    file.touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match=r"tissue_positions.parquet .*`pip install pyarrow`"):
        _space_ranger._read_positions(
            file, trust=False
        )  # pandas 3 takes pyarrow for all text, if it is there


def test_visium_hd_asks_for_one_bin(tmp_path: Path) -> None:
    for size in ("002", "008"):
        (tmp_path / "outs" / "binned_outputs" / f"square_{size}um").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"one bin size .*: square_002um, square_008um\. Name"):
        io.read(tmp_path)
    (tmp_path / "outs" / "segmented_outputs").mkdir()
    with pytest.raises(ValueError, match=r"or its cells, .*008um, segmented_outputs\."):
        io.read(tmp_path)
    with pytest.raises(ValueError, match=r"one bin size .*found: square_002um, square_008um"):
        io.read(tmp_path / "outs" / "binned_outputs")


def test_visium_hd_with_a_single_bin(outs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "hd" / "outs" / "binned_outputs" / "square_008um"
    folder.parent.mkdir(parents=True)
    outs.rename(folder)
    for place in (tmp_path / "hd", folder.parents[1], folder.parent, folder):
        check_visium(io.read(place))


SAVED_AGAIN = {
    "quoted": {"index": False, "quoting": 1},
    "byte order mark": {"index": False, "encoding": "utf-8-sig"},
    "semicolons": {"index": False, "sep": ";"},
    "tabs": {"index": False, "sep": "\t"},
    "row names of R": {"quoting": 2},
    "columns in another order": {"index": False, "columns": POSITIONS.columns[::-1]},
}


@pytest.mark.parametrize("how", SAVED_AGAIN)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_positions_saved_again(outs: Path, how: str, packed: str) -> None:
    (outs / "spatial" / "tissue_positions.csv").unlink()
    POSITIONS.to_csv(outs / "spatial" / f"tissue_positions.csv{packed}", **SAVED_AGAIN[how])
    check_visium(io.read(outs))


def test_positions_with_barcodes_as_row_names_of_r(outs: Path) -> None:
    POSITIONS.set_index("barcode").to_csv(outs / "spatial" / "tissue_positions.csv", index_label="")
    check_visium(io.read(outs))


def test_packed_positions_as_geo_has_them(outs: Path) -> None:
    (outs / "spatial" / "tissue_positions.csv").unlink()
    for name in ("GSM1_tissue_positions_list.csv.gz", "scalefactors_json.json"):
        (outs / "spatial" / name).unlink(missing_ok=True)
    POSITIONS.to_csv(outs / "GSM1_tissue_positions_list.csv.gz", index=False, header=False)
    (outs / "GSM1_scalefactors_json.json").write_text(json.dumps(SCALES))
    check_visium(io.read(outs))


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """What Space Ranger 4 leaves of segmented cells."""
    folder = tmp_path / "hd" / "outs" / "segmented_outputs"
    folder.mkdir(parents=True)
    write_h5(folder / "filtered_feature_cell_matrix.h5")
    with h5py.File(folder / "filtered_feature_cell_matrix.h5", "r+") as file:
        names = [f"cellid_{number:09d}-1" for number in (3, 1, 12)]
        file["matrix/barcodes"][...] = np.array(BARCODES, dtype="S")
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(names, dtype="S")
    write_spatial(folder / "spatial")
    (folder / "spatial" / "tissue_positions.csv").unlink()
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]])
    triangle = np.array([[0, 0], [3, 0], [0, 3], [0, 0]])
    line = np.array([[0, 0], [2, 2], [0, 0]])
    shapes = [
        (1, "Polygon", [(square + 1000).tolist()]),
        (3, "MultiPolygon", [[(triangle + np.array([10, 20])).tolist()], [square.tolist()]]),
        (12, "Polygon", [line.tolist()]),
        (13, "Polygon", [square.tolist()]),
    ]
    features = [
        {
            "type": "Feature",
            "properties": {"cell_id": number},
            "geometry": {"type": kind, "coordinates": outline},
        }
        for number, kind, outline in shapes
    ]
    content = {"type": "FeatureCollection", "features": features}
    (folder / "cell_segmentations.geojson").write_text(json.dumps(content))
    return folder


def test_segmented_cells(cells: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "hd", cells.parent, cells):
        found = io.read(place)
        assert found.obs_names.tolist() == [f"cellid_{n:09d}-1" for n in (3, 1, 12)]
        np.testing.assert_array_equal(found.X.toarray(), COUNTS[:, :3])
        np.testing.assert_allclose(found.obsm["spatial"], [[11, 21], [1001, 1001], [1, 1]])
        assert "in_tissue" not in found.obs
        assert found.uns["spatial"]["V1"]["scalefactors"] == SCALES
    file = cells / "cell_segmentations.geojson"
    file.write_text(file.read_text().replace('"cell_id": 3', '"cell_id": 4'))
    with pytest.raises(ValueError, match=r"none for 1 \(such as cellid_000000003-1\)"):
        io.read(cells)
    file.write_text(file.read_text().replace('"cell_id": 4', '"cell_id": 1'))
    with pytest.raises(ValueError, match=r"cell segmentation .*1 cells are repeated"):
        io.read(cells)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"Expected cell segmentation of Space Ranger at"):
        io.read(cells)
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"positions of the cells .*cell_segmentations\.geoj"
    ):
        io.read(cells)


def test_no_scale_factors(outs: Path) -> None:
    (outs / "spatial" / "scalefactors_json.json").unlink()
    with pytest.warns(UserWarning, match=r"No scalefactors_json\.json .* left out") as caught:
        found = io.read(outs)
    assert {one.filename for one in caught if one.category is UserWarning} == {__file__}
    check_visium(found)
    assert "spatial" not in found.uns


def test_barcodes_without_position(outs: Path) -> None:
    POSITIONS[1:2].to_csv(outs / "spatial" / "tissue_positions.csv", index=False)
    with pytest.raises(
        ValueError, match=r"each of the 3 barcodes .*none for 2 \(such as AAA-1\) in .*\.csv"
    ):
        io.read(outs)


def test_positions_absent(outs: Path) -> None:
    (outs / "spatial" / "tissue_positions.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"found none of .*tissue_positions_list\.csv"):
        io.read(outs)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "No columns to parse"),
        ("AAA-1,1,0\nCCC-1,1,1\n", "Length mismatch"),
        ("barcode,in_tissue\nAAA-1,1\n", "array_row"),
        ("AAA-1,1,0,0,1,1\nAAA-1,1,0,2,1,9\n", "1 barcodes are repeated"),
        ("AAA-1,1,0,0,1,1\nCCC-1,1,\n", "non-finite"),
    ],
)
def test_positions_damaged(outs: Path, content: str, reason: str) -> None:
    (outs / "spatial" / "tissue_positions.csv").write_text(content)
    with pytest.raises(
        ValueError, match=rf"(?s)Expected positions .*tissue_positions\.csv.*{reason}"
    ):
        io.read(outs)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("filtered_feature_bc_matrix.h5", "10x counts"),
        ("spatial/scalefactors_json.json", "Space Ranger's scale factors"),
        ("spatial/tissue_hires_image.png", "a PNG image"),
    ],
)
def test_space_ranger_file_cut_in_half(outs: Path, name: str, what: str) -> None:
    cut(outs / name)
    with pytest.raises(ValueError, match=f"Expected {what} at .*{Path(name).name}") as caught:
        io.read(outs)
    assert "\n" not in str(caught.value)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_h5ad_cut_in_half(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    cut(tmp_path / "a.h5ad")
    with pytest.raises(
        ValueError, match=r"Expected an h5ad file at .*a\.h5ad.*truncated.*Supported: "
    ) as caught:
        io.read(tmp_path / "a.h5ad")
    assert "\n" not in str(caught.value)


def test_h5ad_empty(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").touch()
    with pytest.raises(ValueError, match=r"h5ad file at .*a\.h5ad, found it empty\. Supported: "):
        io.read(tmp_path / "a.h5ad")


def test_h5ad_that_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").write_text("gene,count\n")
    with pytest.raises(ValueError, match=r"Expected an h5ad file at .*signature not found"):
        io.read(tmp_path / "a.h5ad")


def test_h5ad_that_is_another_hdf5(tmp_path: Path) -> None:
    write_h5(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"no `obs` and `var` in it, but matrix"):
        io.read(tmp_path / "a.h5ad")


def test_h5ad_with_broken_parts(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file["X/indices"]
    with pytest.raises(ValueError, match=r"Expected an h5ad file at .*indices"):
        io.read(tmp_path / "a.h5ad")


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"at .*a\.h5ad, found nothing\. Supported: .*zarr"):
        io.read(tmp_path / "a.h5ad")


@pytest.mark.parametrize("name", ["a.rds", "a.Rda", "a.RData"])
def test_r_objects_are_read_through_interop(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=rf"Expected an R object in .*{name}, found it empty"):
        io.read(tmp_path / name)


def test_unknown_file(tmp_path: Path) -> None:
    (tmp_path / "a.loom").touch()
    with pytest.raises(ValueError, match=r"a supported format, found .*a\.loom\. Supported: "):
        io.read(tmp_path / "a.loom")


def test_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found: nothing\. Looked for .*bc_matrix.*binned"):
        io.read(tmp_path)
    for letter in "abcdefghij":
        (tmp_path / letter).touch()
    with pytest.raises(ValueError, match=r"found: a, b, c, d, e, f, g, h, \.\.\.\. Looked for"):
        io.read(tmp_path)


def test_reading_leaves_python_errors_alone(
    adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lack of memory is not a damaged file."""
    adata.write_h5ad(tmp_path / "a.h5ad")

    def fail(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(ad.io, "read_h5ad", fail)
    with pytest.raises(MemoryError):
        io.read(tmp_path / "a.h5ad")


# anndata is about to change the zarr version that it writes; the test only needs a store.
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_anndata_zarr(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_zarr(tmp_path / "a.zarr")
    found = io.read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(found.X.toarray(), COUNTS)
    assert found.obsm["spatial"].tolist() == adata.obsm["spatial"].tolist()
    for damaged in (tmp_path / "a.zarr" / "X").rglob("*"):
        if damaged.is_file():
            damaged.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"Expected an AnnData zarr store at .*a\.zarr"):
        io.read(tmp_path / "a.zarr")


def test_table_of_another_format(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(
        ValueError, match=r"`table` only with a SpatialData store or a folder, found 'table'"
    ):
        io.read(tmp_path / "a.h5ad", table="table")


def test_spatialdata_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zarr" / "tables").mkdir(parents=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(ImportError, match=r"a\.zarr .*`pip install 'm2st\[spatialdata\]'`"):
        io.read(tmp_path / "a.zarr")


def test_spatialdata_that_does_not_load_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "spatialdata"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import absent_dependency\n")
    (tmp_path / "a.zarr" / "tables").mkdir(parents=True)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{}")
    for name in [name for name in sys.modules if name.split(".")[0] == "spatialdata"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(
        ImportError, match=r"installed but cannot be imported .*No module named 'absent_dependency'"
    ):
        io.read(tmp_path / "a.zarr")


def write_store(path: Path, **tables: ad.AnnData) -> None:
    """A SpatialData store with two sections, whose shapes are sorted otherwise than the tables."""
    sd = pytest.importorskip("spatialdata", reason="spatialdata is an extra")
    one = sd.models.ShapesModel.parse(
        np.array([[1.0, 2.0], [3.0, 4.0]]), geometry=0, radius=0.5, index=["a", "c"]
    )
    two = sd.models.ShapesModel.parse(np.array([[5.0, 6.0]]), geometry=0, radius=0.5, index=["a"])
    for table in tables.values():
        if "region" in table.obs:
            regions = table.obs["region"].cat.categories.tolist()
            table.uns["spatialdata_attrs"] = {
                "region": regions,
                "region_key": "region",
                "instance_key": "instance",
            }
    sd.SpatialData(shapes={"one": one, "two": two}, tables=tables).write(path)


def annotate(adata: ad.AnnData, regions: list[str], instances: list[str]) -> ad.AnnData:
    adata = adata.copy()
    del adata.obsm["spatial"]
    adata.obs["region"] = pd.Categorical(regions)
    adata.obs["instance"] = instances
    return adata


class TestSpatialData:
    pytestmark = writes_spatialdata

    def test_comes_back(self, tmp_path: Path) -> None:
        adata = ad.AnnData(sparse.csr_matrix(COUNTS, dtype=np.float32))
        adata.obsm["spatial"] = np.arange(6.0).reshape(3, 2)
        for _ in range(2):
            io.write(adata, tmp_path / "a.zarr", overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
        found = io.read(tmp_path / "a.zarr")
        assert (found.X != adata.X).nnz == 0
        np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
        with pytest.raises(FileExistsError, match="overwrite=True"):
            io.write(adata, tmp_path / "a.zarr")

    def test_names_that_differ_in_capitals_are_refused_before_any_work(
        self, adata: ad.AnnData, tmp_path: Path
    ) -> None:
        io.write(adata, tmp_path / "a.zarr")
        io.check_writable(adata, tmp_path / "a.zarr")
        adata.obs["M2ST_domain"] = "1"
        adata.uns["Run"] = 1
        for name, key in (("m2st", r"obs\['M2ST_domain'\]"), ("run", r"uns\['Run'\]")):
            with pytest.raises(ValueError, match=rf"by more than capitals.*`adata\.{key}`"):
                io.check_writable(adata, tmp_path / "a.zarr", key_added=name)
            io.check_writable(adata, tmp_path / "a.h5ad", key_added=name)

    def test_backed(self, adata: ad.AnnData, tmp_path: Path) -> None:
        table = annotate(adata, ["one", "two", "one"], ["c", "a", "a"])
        write_store(tmp_path / "a.zarr", table=table)
        for backed in (True, "auto"):
            found = io.read(tmp_path / "a.zarr", backed=backed)  # type: ignore[arg-type]
            assert sparse.issparse(found.X) == (backed == "auto")
            np.testing.assert_array_equal(found.X[:].toarray(), COUNTS)
            assert found.obsm["spatial"].tolist() == [[3, 4], [5, 6], [1, 2]]

    def test_centroids(self, adata: ad.AnnData, tmp_path: Path) -> None:
        table = annotate(adata, ["one", "two", "one"], ["c", "a", "a"])
        write_store(tmp_path / "a.zarr", table=table)
        found = io.read(tmp_path / "a.zarr")
        assert found.obs_names.tolist() == BARCODES
        np.testing.assert_array_equal(found.X.toarray(), COUNTS)
        assert found.obsm["spatial"].tolist() == [[3, 4], [5, 6], [1, 2]]
        io.write(found, tmp_path / "a.h5ad")
        assert io.read(tmp_path / "a.h5ad").obsm["spatial"].tolist() == [[3, 4], [5, 6], [1, 2]]

    def test_coordinates_of_the_table_come_first(self, adata: ad.AnnData, tmp_path: Path) -> None:
        table = annotate(adata, ["one"] * 3, ["c", "a", "a"])
        table.obsm["spatial"] = adata.obsm["spatial"]
        write_store(tmp_path / "a.zarr", table=table)
        found = io.read(tmp_path / "a.zarr")
        assert found.obsm["spatial"].tolist() == adata.obsm["spatial"].tolist()

    def test_several_tables(self, adata: ad.AnnData, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr", bins=adata.copy(), cells=adata[:2].copy())
        with pytest.raises(ValueError, match=r"one table .*'bins', 'cells'\. Name one"):
            io.read(tmp_path / "a.zarr")
        with pytest.raises(ValueError, match=r"the table 'nuclei' .*'bins', 'cells'"):
            io.read(tmp_path / "a.zarr", table="nuclei")
        assert io.read(tmp_path / "a.zarr", table="cells").n_obs == 2

    def test_no_table(self, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr")
        (tmp_path / "a.zarr" / "tables").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"Expected one table in .*found: no table"):
            io.read(tmp_path / "a.zarr")

    def test_no_coordinates(self, adata: ad.AnnData, tmp_path: Path) -> None:
        del adata.obsm["spatial"]
        write_store(tmp_path / "a.zarr", table=adata)
        with pytest.raises(ValueError, match=r"shapes that it annotates, found neither"):
            io.read(tmp_path / "a.zarr")

    # spatialdata itself warns of the region that is missing.
    @pytest.mark.filterwarnings("ignore:The table is annotating:UserWarning")
    def test_region_is_no_shape(self, adata: ad.AnnData, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr", table=annotate(adata, ["image"] * 3, ["a", "b", "c"]))
        with pytest.raises(ValueError, match=r"region 'image' among the shapes, found: 'one', "):
            io.read(tmp_path / "a.zarr")

    def test_observations_without_shape(self, adata: ad.AnnData, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr", table=annotate(adata, ["one"] * 3, ["a", "x", "y"]))
        with pytest.raises(ValueError, match=r"'one' for each .*none for 2\. Remove these obs"):
            io.read(tmp_path / "a.zarr")

    # spatialdata itself may warn of the kinds of the index.
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_ids_as_text_find_numbers(self, adata: ad.AnnData, tmp_path: Path) -> None:
        sd = pytest.importorskip("spatialdata", reason="spatialdata is an extra")
        places = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
        for ids in (["7", "9", "8"], [7, 9, 8], ["a", "b", "c"]):
            table = annotate(adata, ["one"] * 3, ids)
            table.uns["spatialdata_attrs"] = {
                "region": ["one"],
                "region_key": "region",
                "instance_key": "instance",
            }
            one = sd.models.ShapesModel.parse(places, geometry=0, radius=1, index=[7, 8, 9])
            store = sd.SpatialData(shapes={"one": one}, tables={"table": table})
            store.write(tmp_path / "a.zarr", overwrite=True)
            if ids[0] != "a":
                found = io.read(tmp_path / "a.zarr").obsm["spatial"]
                np.testing.assert_array_equal(found, places[[0, 2, 1]])
                continue
            words = (
                r"none for 3\. `adata\.obs\['instance'\]` holds .*'a', .*shapes 7: make them alike"
            )
            with pytest.raises(ValueError, match=words):
                io.read(tmp_path / "a.zarr")

    def test_damaged(self, adata: ad.AnnData, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr", table=adata)
        for file in (tmp_path / "a.zarr" / "tables").rglob("zarr.json"):
            cut(file)
        with pytest.raises(ValueError, match=r"Expected a SpatialData store at .*a\.zarr"):
            io.read(tmp_path / "a.zarr")


class TestReplacingStores:
    """Nothing but what is replaced goes."""

    pytestmark = writes_spatialdata

    def test_other_elements_stay(self, adata: ad.AnnData, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        write_store(path, table=annotate(adata, ["one", "two", "one"], ["c", "a", "a"]))
        (path / "notes.txt").write_text("mine")
        before = {name: text for name, text in content(path).items() if "/table/" not in name}
        found = io.read(path)
        found.obs["m2st_domain"] = pd.Categorical(["1", "2", "1"])
        io.check_writable(found, path)
        io.write(found, path, overwrite=True)
        after = content(path)
        changed = {name for name, text in before.items() if after.get(name) != text}
        assert changed <= {str(path / "zarr.json")}  # which lists all groups
        assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
        sd = pytest.importorskip("spatialdata")
        store = sd.read_zarr(path)
        assert set(store.shapes) == {"one", "two"}
        assert store.tables["table"].obs["m2st_domain"].tolist() == ["1", "2", "1"]
        assert sd.get_element_annotators(store, "one") == {"table"}
        assert io.read(path).obsm["spatial"].tolist() == [[3, 4], [5, 6], [1, 2]]

    def test_other_tables_stay(self, adata: ad.AnnData, tmp_path: Path) -> None:
        path = tmp_path / "a.zarr"
        write_store(path, bins=adata.copy(), cells=adata[:2].copy())
        for act in (io.check_writable, lambda *to: io.write(*to, overwrite=True)):
            with pytest.raises(ValueError, match=r"name of the table .*'bins', 'cells'.*`table="):
                act(adata, path)
        for named in ("bins", "new"):
            adata.obs["note"] = named
            io.write(adata, path, table=named, overwrite=True)
        assert io.read(path, table="cells").n_obs == 2
        for named in ("bins", "new"):
            assert io.read(path, table=named).obs["note"].tolist() == [named] * 3
        with pytest.raises(ValueError, match=r"name of a table in letters.*found '\.\./x'"):
            io.write(adata, path, table="../x", overwrite=True)

    def test_a_store_without_table_gets_one(self, adata: ad.AnnData, tmp_path: Path) -> None:
        write_store(tmp_path / "a.zarr")
        io.write(adata, tmp_path / "a.zarr", overwrite=True)
        assert io.read(tmp_path / "a.zarr").n_obs == 3
        assert (tmp_path / "a.zarr" / "shapes" / "one").is_dir()

    def test_failing_leaves_the_store(
        self, adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_store(tmp_path / "a.zarr", table=adata)
        before = content(tmp_path / "a.zarr")

        def fail(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(io, "put_anndata", fail)
        with pytest.raises(OSError, match=r"Could not write .*a\.zarr: No space left"):
            io.write(adata, tmp_path / "a.zarr", overwrite=True)
        assert content(tmp_path / "a.zarr") == before
        assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]

    def test_names_that_spatialdata_refuses(self, adata: ad.AnnData, tmp_path: Path) -> None:
        adata.uns["a b"] = 1
        for act in (io.check_writable, io.write):
            with pytest.raises(ValueError, match=r"a table that SpatialData can hold, .*a b"):
                act(adata, tmp_path / "a.zarr")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
def test_an_anndata_store_is_replaced_by_one(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.write_zarr(tmp_path / "a.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "a.zarr")
    io.check_writable(adata, tmp_path / "link.zarr")
    io.write(adata[:2], tmp_path / "link.zarr", overwrite=True)
    assert (tmp_path / "link.zarr").is_symlink()
    assert ad.read_zarr(tmp_path / "a.zarr").n_obs == 2
    assert io.read(tmp_path / "a.zarr", backed=True).n_obs == 2
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match="`table` only with a SpatialData store"):
        io.write(adata, tmp_path / "a.zarr", table="x", overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "link", "file", "image"])
def test_what_is_no_store_of_tables_is_never_replaced(
    adata: ad.AnnData, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.zarr"
    if kind == "file":
        path.write_text("mine")
    else:
        folder = tmp_path / "b" if kind == "link" else path
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
        if kind == "link":
            path.symlink_to(folder)
        if kind == "image":
            zarr.open_group(path, mode="a").create_group("0")
    before = content(tmp_path)
    for act in (io.check_writable, lambda *to: io.write(*to, overwrite=True)):
        with pytest.raises(
            ValueError, match=r"nothing at .*which is never replaced\. Name another"
        ):
            act(adata, path)
    assert content(tmp_path) == before


def test_spatialdata_is_imported_only_when_needed() -> None:
    code = "import sys, m2st.io; sys.exit('spatialdata' in sys.modules or 'scanpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_write_and_read(adata: ad.AnnData, tmp_path: Path) -> None:
    io.write(adata, tmp_path / "a.h5ad")
    found = io.read(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), COUNTS)
    pd.testing.assert_frame_equal(found.obs, adata.obs)
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    np.testing.assert_array_equal(found.uns["m2st"]["loss"], [2.0, 1.0])
    assert found.uns["m2st"]["device"] == "cpu"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


def test_write_equals_anndata(adata: ad.AnnData, tmp_path: Path) -> None:
    """Text with gaps, raw counts, layers: the same groups and values as anndata's own writer."""
    for frame in (adata.obs, adata.var):  # anndata 0.13 writes other text in a way of its own
        frame.index = frame.index.astype(object)
    adata.obs["text"] = np.array(["x", np.nan, "x"], dtype=object)
    adata.raw = adata.copy()
    adata.layers["log"] = adata.X.log1p()
    io.write(adata.copy(), tmp_path / "ours.h5ad")
    adata.write_h5ad(tmp_path / "theirs.h5ad")
    with h5py.File(tmp_path / "ours.h5ad") as ours, h5py.File(tmp_path / "theirs.h5ad") as theirs:
        assert tree(ours) == tree(theirs)
        assert len(tree(ours)) > 20


def tree(file: h5py.File) -> dict[str, object]:
    """Name and attributes of everything in the file, and the values of data sets."""
    found: dict[str, object] = {"/": sorted(file.attrs.items())}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        values = item[()].tolist() if isinstance(item, h5py.Dataset) and item.shape else ""
        found[name] = (values, sorted((key, str(value)) for key, value in item.attrs.items()))

    file.visititems(visit)
    return found


def test_write_a_view_leaves_it_a_view(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.obs["text"] = ["x", "x", "y"]
    view = adata[:2]
    io.write(view, tmp_path / "a.h5ad")
    assert view.is_view
    assert io.read(tmp_path / "a.h5ad").obs["text"].tolist() == ["x", "x"]


def test_write_gives_usual_permissions(adata: ad.AnnData, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    io.write(adata, tmp_path / "a.h5ad")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "a.h5ad")]
    assert mode[0] == mode[1]


def test_write_never_overwrites_unasked(adata: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    path.write_text("old")
    with pytest.raises(FileExistsError, match=r"a\.h5ad, found one\. Pass `overwrite=True`"):
        io.write(adata, path)
    assert path.read_text() == "old"
    io.write(adata, path, overwrite=True)
    assert io.read(path).n_obs == 3


def test_write_through_a_link(adata: ad.AnnData, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "a.h5ad").symlink_to(tmp_path / "store" / "b.h5ad")
    io.write(adata, tmp_path / "a.h5ad")
    assert (tmp_path / "a.h5ad").is_symlink()
    assert io.read(tmp_path / "store" / "b.h5ad").n_obs == 3


@pytest.mark.parametrize("name", ["a.csv", "a", "a.h5ad.gz"])
def test_write_other_suffix(adata: ad.AnnData, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"ends in `\.h5ad` or `\.zarr`, found .*{name}\."):
        io.write(adata, tmp_path / name)


def test_write_takes_capitals_as_read_does(adata: ad.AnnData, tmp_path: Path) -> None:
    io.write(adata, tmp_path / "A.H5AD")
    assert io.read(tmp_path / "A.H5AD").n_obs == 3


def test_write_without_folder(adata: ad.AnnData, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"Expected the folder .*absent to exist"):
        io.write(adata, tmp_path / "absent" / "a.h5ad")


def test_write_on_a_full_disk(adata: ad.AnnData, tmp_path: Path) -> None:
    """The system itself refuses to let the file grow: the result is larger than 4,000 bytes."""
    path = tmp_path / "a.h5ad"
    path.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        with pytest.raises(
            OSError, match=r"Could not write .*a\.h5ad: File too large\. It takes 0\.\d\d MB; .* MB"
        ):
            io.write(adata, path, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_interrupted(
    adata: ad.AnnData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: type[BaseException],
) -> None:
    path = tmp_path / "a.h5ad"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with pytest.raises(error):
        io.write(adata, path, overwrite=True)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


VALUES = {
    "a set": ({1, 2}, "set"),
    "an interval": (pd.Categorical(pd.cut([1, 2, 3], 2)), "Categorical of category"),
    "dates": (np.array(["2020"], dtype="datetime64[s]"), "ndarray of datetime64"),
    "text and numbers": (np.array([1, "a"], dtype=object), "ndarray of object"),
    "a list of both": ([1, "a"], r"list \(text and other values in one list\)"),
    "a mask": (np.ma.array([1, 2], mask=[True, False]), "its mask would be lost"),
    "half a character": ("\udc80", "surrogates not allowed"),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_value_that_h5ad_cannot_hold_is_named_before_any_work(
    adata: ad.AnnData, tmp_path: Path, what: str
) -> None:
    value, found = VALUES[what]
    adata.uns["m2st"]["odd"] = value
    message = rf"`adata\.uns\['m2st'\]\['odd'\]` to be what h5ad can hold, found .*{found}"
    for act in (io.check_writable, io.write):
        with pytest.raises(ValueError, match=message):
            act(adata, tmp_path / "a.h5ad")
    assert list(tmp_path.iterdir()) == []


def test_a_column_that_h5ad_cannot_hold_is_named(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.obs["when"] = pd.to_datetime(["2020", "2021", "2022"])
    with pytest.raises(ValueError, match=r"`adata\.obs\['when'\]` .* found datetime64"):
        io.write(adata, tmp_path / "a.h5ad")
    del adata.obs["when"]
    adata.var.index = ["a", "b", "c", "d\0"]
    with pytest.raises(ValueError, match=r"`adata\.var\.index` .* embedded NULLs"):
        io.check_writable(adata, tmp_path / "a.h5ad")


@pytest.mark.parametrize("name", ["a/b", "/X", ".", "..", "", "a\0b", "\udc80", 3])
@pytest.mark.parametrize("slot", ["obs", "var", "obsm", "layers", "uns", "nested", "frame"])
def test_a_name_that_no_format_can_hold_is_refused(
    adata: ad.AnnData, tmp_path: Path, name: str, slot: str
) -> None:
    if name == "\udc80" and slot in ("obs", "var", "frame"):
        pytest.skip("pandas 3 has no such columns")
    where = f"adata.{slot}"
    if slot == "nested":
        adata.uns["outer"], where = {name: 1}, "adata.uns['outer']"
    elif slot == "frame":
        adata.obsm["f"] = pd.DataFrame({name: np.ones(3)}, index=BARCODES)
        where = "adata.obsm['f']"
    elif slot == "layers":
        adata.layers[name] = COUNTS
    elif slot == "obsm":
        adata.obsm[name] = COUNTS
    elif slot == "uns":
        adata.uns[name] = 1
    else:
        getattr(adata, slot)[name] = 1
    message = re.escape(f"in `{where}`")
    for act in (io.check_writable, io.write):
        with pytest.raises(ValueError, match=message):
            act(adata, tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=message):
        check_storable(adata, "zarr")
    assert list(tmp_path.iterdir()) == []


def test_names_of_zarr_itself_are_refused_there_only(adata: ad.AnnData, tmp_path: Path) -> None:
    adata.uns[".zgroup"] = 1
    io.write(adata, tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"in `adata\.uns` that zarr can hold, found '\.zgroup'"):
        check_storable(adata, "zarr")


def test_write_changes_nothing_and_keeps_values(adata: ad.AnnData, tmp_path: Path) -> None:
    """Text of pandas' own types, as anndata 0.13 has it, Python objects, tuples."""
    adata.obs_names = pd.Index(pd.array(BARCODES, dtype="string"))
    adata.obs["text"] = pd.array(["x", None, "x"], dtype="string")
    adata.obs["own"] = pd.array(["x", "y", "z"], dtype="string")
    adata.obs["flag"] = np.array([True, None, False], dtype=object)
    adata.obs["number"] = np.array([1, None, 3], dtype=object)
    adata.obs["share"] = np.array([1, None, 0.5], dtype=object)
    adata.obs["float"] = pd.array([1.5, None, 2], dtype="Float64")
    adata.obsm["places"] = np.array([[1, 2.5]] * 3, dtype=object)
    adata.uns |= {"pair": (1, 2), "names": pd.Index(["p", "q"]), "gaps": np.ma.array([1.0, 2.0])}
    adata.uns["coo"] = sparse.coo_matrix(np.eye(4))
    before, types = adata.obs.copy(), adata.obs.dtypes.copy()
    io.check_writable(adata, tmp_path / "a.h5ad")
    io.write(adata, tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(adata.obs, before)
    assert adata.obs.dtypes.equals(types)
    assert isinstance(adata.uns["pair"], tuple)
    with h5py.File(tmp_path / "a.h5ad") as file:
        kinds = {name: file[f"obs/{name}"].attrs["encoding-type"] for name in file["obs"]}
    assert kinds["_index"] == kinds["own"] == "string-array"
    assert kinds["text"] == "categorical"
    found = io.read(tmp_path / "a.h5ad")
    assert found.obs_names.tolist() == BARCODES
    assert found.obs["text"].tolist() == ["x", np.nan, "x"]
    assert found.obs["flag"].tolist() == [True, pd.NA, False]
    assert found.obs["number"].tolist() == [1, pd.NA, 3]
    np.testing.assert_array_equal(found.obs["share"], [1, np.nan, 0.5])
    np.testing.assert_array_equal(found.obs["float"], [1.5, np.nan, 2])
    np.testing.assert_array_equal(found.obsm["places"], [[1, 2.5]] * 3)
    assert found.uns["pair"].tolist() == [1, 2]
    np.testing.assert_array_equal(found.uns["coo"].toarray(), np.eye(4))


def test_no_room_is_said_before_any_work(
    adata: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata.obsm["large"] = np.ones((3, 10_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(
        OSError, match=r"Expected room for .*a\.h5ad, at least 0\.00 MB, found 0\.00"
    ):
        io.check_writable(adata, tmp_path / "a.h5ad")


def test_a_place_that_takes_no_file_is_refused(adata: ad.AnnData, tmp_path: Path) -> None:
    for path in (tmp_path / f"{'a' * 300}.h5ad", tmp_path / f"{'a' * 300}.zarr"):
        with pytest.raises(
            OSError, match=r"can be written, found: File name too long\. Name another"
        ):
            io.check_writable(adata, path)
    with pytest.raises(FileNotFoundError, match=r"Expected the folder .*aaa to exist"):
        io.check_writable(adata, tmp_path / ("a" * 300) / "a.h5ad")
    (tmp_path / "folder.h5ad").mkdir()
    with pytest.raises(ValueError, match=r"a file or nothing at .*folder\.h5ad, found a folder"):
        io.write(adata, tmp_path / "folder.h5ad", overwrite=True)
    io.write(adata, tmp_path / f"{'a' * 250}.h5ad")  # as long as can be
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_keeps_its_permissions(adata: ad.AnnData, tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").touch(mode=0o640)
    io.write(adata, tmp_path / "a.h5ad", overwrite=True)
    assert stat.S_IMODE((tmp_path / "a.h5ad").stat().st_mode) == 0o640


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("version", ["0.6.22", "0.7.8"])
def test_files_of_old_versions(tmp_path: Path, version: str) -> None:
    """Sparse with the attributes of h5sparse and tables as records; dense, `raw` without `varm`."""
    path = Path(__file__).parent / "data" / "old" / f"anndata_{version}.h5ad"
    expected = io.read(path)
    assert expected.obs["c"].tolist() == list("aabbccabc")
    left = io.read(path, backed=True)
    assert not isinstance(left.X, np.ndarray | sparse.csr_matrix)
    io.write(left, tmp_path / "a.h5ad")
    for found in (left, io.read(tmp_path / "a.h5ad"), io.read(tmp_path / "a.h5ad", backed=True)):
        pd.testing.assert_frame_equal(found.obs, expected.obs)
        for one, other in (
            (found.X, expected.X),
            (found.raw.X, expected.raw.X),
            (found.layers["l"], expected.layers["l"]),
        ):
            rows = one[:]
            assert rows.shape == (9, 4)
            assert (rows != other).sum() == 0
        assert found.raw.var_names.equals(expected.raw.var_names)
        np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])


def fill(adata: ad.AnnData) -> ad.AnnData:
    """With everything that may be left in a file, in all layouts."""
    adata.X = sparse.csr_matrix(COUNTS, dtype=np.float32)
    adata.raw = adata.copy()
    adata.layers["columns"] = sparse.csc_matrix(COUNTS)
    adata.layers["dense"] = COUNTS / 2
    return adata


@pytest.fixture(params=["a.h5ad", "a.zarr"])
def stored(request: pytest.FixtureRequest, adata: ad.AnnData, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if path.suffix == ".h5ad":
        io.write(fill(adata), path)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Writing zarr v2 data", UserWarning)
            fill(adata).write_zarr(path)
    return path


def content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file): file.read_bytes() for file in files}


def test_backed_leaves_expression_in_the_file(stored: Path) -> None:
    before = content(stored)
    found, expected = io.read(stored, backed=True), io.read(stored)
    for slot in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(found, slot), getattr(expected, slot))
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
    assert found.uns["m2st"]["device"] == expected.uns["m2st"]["device"]
    for matrix in (found.X, found.raw.X):
        assert isinstance(matrix, ad.abc.CSRDataset)
        np.testing.assert_array_equal(matrix[1:].toarray(), COUNTS[1:])
    assert isinstance(found.layers["columns"], ad.abc.CSCDataset)
    assert not isinstance(found.layers["dense"], np.ndarray)
    np.testing.assert_array_equal(found.layers["dense"][:2], COUNTS[:2] / 2)
    assert content(stored) == before


@pytest.mark.parametrize("piece", [2, io._PIECE])
def test_what_was_left_in_a_file_is_written(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(io, "_PIECE", piece)
    before = content(stored)
    found, expected = io.read(stored, backed=True), io.read(stored)
    for one in (found, expected):
        one.obs["m2st_domain"] = pd.Categorical(["1", "2", "1"])
        one.obsm["X_m2st"] = np.eye(3, dtype=np.float32)
    io.write(found, tmp_path / "found.h5ad")
    io.write(expected, tmp_path / "expected.h5ad")
    assert content(stored) == before
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {stored.name, "found.h5ad", "expected.h5ad"}
    with (
        h5py.File(tmp_path / "found.h5ad") as ours,
        h5py.File(tmp_path / "expected.h5ad") as theirs,
    ):
        assert tree(ours) == tree(theirs)


def test_what_was_left_in_a_file_replaces_that_file(adata: ad.AnnData, tmp_path: Path) -> None:
    io.write(fill(adata), tmp_path / "a.h5ad")
    found = io.read(tmp_path / "a.h5ad", backed=True)
    io.write(found, tmp_path / "a.h5ad", overwrite=True)
    np.testing.assert_array_equal(io.read(tmp_path / "a.h5ad").X.toarray(), COUNTS)
    np.testing.assert_array_equal(found.X[:].toarray(), COUNTS)


def test_writing_without_room_for_what_was_left_in_a_file(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.h5ad").write_text("old")
    found = io.read(stored, backed=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(OSError, match=r"No space left on device\. It takes 0\.\d\d MB; 0\.00 MB"):
        io.write(found, tmp_path / "out.h5ad", overwrite=True)
    assert (tmp_path / "out.h5ad").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {stored.name, "out.h5ad"}


def test_zarr_of_what_was_left_in_a_file(stored: Path, tmp_path: Path) -> None:
    found = io.read(stored, backed=True)
    with pytest.raises(ValueError, match=r"found X, layers/columns, layers/dense, raw/X in a file"):
        io.write(found, tmp_path / "b.zarr")


def test_backed_above_a_size(
    stored: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="m2st.io")
    assert sparse.issparse(io.read(stored, backed="auto").X)
    assert not caplog.messages
    monkeypatch.setattr(io, "_LARGE", 100)
    assert isinstance(io.read(stored, backed="auto").X, ad.abc.CSRDataset)
    assert caplog.messages == [f"Expression stays in {stored}: it would take 0.0 GB."]


def test_the_command_leaves_large_expression_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    adata = m2st.datasets.simulate_cortex(200, 100)
    io.write(adata, tmp_path / "a.h5ad")
    before = content(tmp_path / "a.h5ad")
    monkeypatch.setattr(io, "_LARGE", 0)
    monkeypatch.chdir(tmp_path)
    options = ["--members", "1", "--epochs", "3", "--plots", "plots", "-o", "out.h5ad"]
    with caplog.at_level("INFO"):
        found = CliRunner().invoke(app, ["run", "a.h5ad", "-k", "3", *options])
    assert found.exit_code == 0, found.stderr
    assert "Expression stays in a.h5ad: it would take 0.0 GB." in caplog.messages
    assert content(tmp_path / "a.h5ad") == before
    written = io.read(tmp_path / "out.h5ad")
    assert (written.X != adata.X).nnz == 0
    params = m2st.AutoencoderParams(n_members=1, n_epochs=3)
    m2st.run(adata, 3, autoencoder=params, progress=False)
    for key in ("X_m2st_pca", "X_m2st"):
        assert written.obsm[key].tobytes() == adata.obsm[key].tobytes()
    assert written.obs["m2st_domain"].equals(adata.obs["m2st_domain"])


def test_backed_refused(outs: Path, adata: ad.AnnData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`backed=True` only with h5ad and zarr, found .*outs"):
        io.read(outs, backed=True)
    assert io.read(outs, backed="auto").n_obs == 3
    with pytest.raises(ValueError, match=r"`backed` to be True, False or 'auto', found 'yes'"):
        io.read(outs, backed="yes")  # type: ignore[arg-type]
    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "a") as file:
        del file["X/indptr"]
    with pytest.raises(ValueError, match=r"Expected an h5ad file at .*indptr"):
        io.read(tmp_path / "a.h5ad", backed=True)


def test_real_data(shared_data: Path, tmp_path: Path) -> None:
    found = io.read(shared_data / "counts" / "starmap_visual_cortex.h5ad")
    assert found.shape == (1207, 1020)
    io.write(found, tmp_path / "a.h5ad")
    again = io.read(tmp_path / "a.h5ad")
    assert (again.X != found.X).nnz == 0
    np.testing.assert_array_equal(again.obsm["spatial"], found.obsm["spatial"])
