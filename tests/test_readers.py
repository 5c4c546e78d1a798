"""Folders of instruments, each written here in the layout that its software leaves."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests.command import call

import m2st
from m2st import io

GENES = ["Actb", "Gad1", "Mbp"]
COUNTS = np.array([[1, 0, 2], [0, 3, 0], [4, 0, 5], [0, 0, 7]])
PLACES = np.array([[10.5, 20], [30, 40], [50, 60], [70, 80]])


def check(found: ad.AnnData, names: list[str]) -> None:
    assert found.obs_names.tolist() == names
    assert found.var_names.tolist() == GENES
    assert isinstance(found.X, sparse.csr_matrix)
    np.testing.assert_array_equal(found.X.toarray(), COUNTS)
    assert found.obsm["spatial"].dtype == np.float64
    np.testing.assert_array_equal(found.obsm["spatial"], PLACES)


def write_10x(path: Path, barcodes: list[str]) -> None:
    """The matrix file of 10x, with a control that is no gene."""
    matrix = sparse.csc_matrix(np.column_stack([COUNTS, [9, 9, 9, 9]]).T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"] = matrix.data.astype("int32")
        group["indices"] = matrix.indices.astype("int64")
        group["indptr"] = matrix.indptr.astype("int64")
        group["shape"] = np.array(matrix.shape, dtype="int32")
        features = group.create_group("features")
        features["id"] = np.array(["ENS1", "ENS2", "ENS3", "NegControlProbe_1"], dtype="S")
        features["name"] = np.array([*GENES, "NegControlProbe_1"], dtype="S")
        features["feature_type"] = np.array(
            ["Gene Expression"] * 3 + ["Negative Control Probe"], dtype="S"
        )
        features["genome"] = np.array(["GRCh38"] * 4, dtype="S")
        features["_all_tag_keys"] = np.array(["genome"], dtype="S")


# Xenium ---------------------------------------------------------------------------------------

XENIUM_CELLS = ["aaaabbcd-1", "aaaacfgh-1", "aaaadijk-1", "aaaaelmn-1"]


def xenium(root: Path) -> None:
    """As Xenium Onboard Analysis 1 to 4 leave it, among other files."""
    root.mkdir()
    (root / "experiment.xenium").write_text('{"pixel_size": 0.2125}')
    write_10x(root / "cell_feature_matrix.h5", XENIUM_CELLS)
    cells = pd.DataFrame(
        {
            "cell_id": XENIUM_CELLS[::-1],
            "x_centroid": PLACES[::-1, 0],
            "y_centroid": PLACES[::-1, 1],
            "transcript_counts": [7, 9, 3, 3],
            "cell_area": [30.5, 31.5, 32.5, 33.5],
        }
    )
    cells.to_csv(root / "cells.csv.gz", index=False)


def test_xenium(tmp_path: Path) -> None:
    xenium(tmp_path / "x")
    for path in (tmp_path / "x", tmp_path / "x" / "cell_feature_matrix.h5"):
        found = io.read(path)
        check(found, XENIUM_CELLS)
        assert found.obs["cell_area"].tolist() == [33.5, 32.5, 31.5, 30.5]


def test_xenium_as_parquet_with_names_in_bytes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    xenium(tmp_path / "x")
    file = tmp_path / "x" / "cells.csv.gz"
    cells = pd.read_csv(file)
    cells["cell_id"] = cells["cell_id"].str.encode("ascii")
    cells.to_parquet(tmp_path / "x" / "cells.parquet", index=False)
    file.unlink()
    check(io.read(tmp_path / "x"), XENIUM_CELLS)


def test_xenium_without_cells(tmp_path: Path) -> None:
    xenium(tmp_path / "x")
    cells = pd.read_csv(tmp_path / "x" / "cells.csv.gz")
    cells.iloc[1:].to_csv(tmp_path / "x" / "cells.csv.gz", index=False)
    with pytest.raises(ValueError, match=r"a row for each of the 4 cells .* none for 1 .*aaaaelmn"):
        io.read(tmp_path / "x")
    pd.concat([cells, cells[:1]]).to_csv(tmp_path / "x" / "cells.csv.gz", index=False)
    with pytest.raises(ValueError, match="found 1 repeated"):
        io.read(tmp_path / "x")
    cells.drop(columns="x_centroid").to_csv(tmp_path / "x" / "cells.csv.gz", index=False)
    with pytest.raises(ValueError, match="Expected numbers as coordinates at"):
        io.read(tmp_path / "x")
    (tmp_path / "x" / "cells.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected Xenium's `cells.parquet` .* found none"):
        io.read(tmp_path / "x")
    with pytest.raises(ValueError, match=r"Expected no `table` with .* only one, found 'cells'"):
        io.read(tmp_path / "x", table="cells")


# CosMx ----------------------------------------------------------------------------------------


def cosmx(root: Path, *, packed: bool = True, with_name: bool = True) -> None:
    """Flat files of AtoMx, or of the first data sets; number 0 is what lies outside all cells."""
    root.mkdir()
    end = ".gz" if packed else ""
    counts = pd.DataFrame(COUNTS, columns=GENES)
    counts.insert(0, "fov", [1, 1, 2, 2])
    counts.insert(1, "cell_ID", [1, 2, 1, 3])
    outside = pd.DataFrame([[1, 0, 50, 60, 70]], columns=counts.columns)
    table = pd.concat([outside, counts])
    if with_name:
        table.insert(
            2, "cell", [f"c_1_{f}_{c}" for f, c in zip(table.fov, table.cell_ID, strict=True)]
        )
    table[["Negative01", "SystemControl1", "NegPrb2"]] = 5
    table.to_csv(root / f"Slide1_exprMat_file.csv{end}", index=False)
    cells = counts[["fov", "cell_ID"]].assign(
        Area=[900, 800, 700, 600],
        CenterX_local_px=1,
        CenterY_local_px=2,
        CenterX_global_px=PLACES[:, 0],
        CenterY_global_px=PLACES[:, 1],
    )
    cells[::-1].to_csv(root / f"Slide1_metadata_file.csv{end}", index=False)
    (root / f"Slide1_fov_positions_file.csv{end}").touch()


@pytest.mark.parametrize("packed", [True, False])
def test_cosmx(tmp_path: Path, *, packed: bool) -> None:
    cosmx(tmp_path / "flat", packed=packed, with_name=packed)
    found = io.read(tmp_path / "flat")
    check(found, ["1_1", "1_2", "2_1", "2_3"])
    assert found.obs["fov"].tolist() == [1, 1, 2, 2]
    assert found.obs["Area"].tolist() == [900, 800, 700, 600]


def test_cosmx_without_metadata(tmp_path: Path) -> None:
    cosmx(tmp_path / "flat")
    (tmp_path / "flat" / "Slide1_metadata_file.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"Expected CosMx's `metadata_file.csv`"):
        io.read(tmp_path / "flat")


# MERSCOPE -------------------------------------------------------------------------------------

ENTITIES = [f"11088342476461192440022163991631425346{n}" for n in (9, 1, 5, 3)]


def merscope(root: Path) -> None:
    """A region; names of cells are longer than a number can be."""
    root.mkdir(parents=True)
    counts = pd.DataFrame(COUNTS, columns=GENES, index=pd.Index(ENTITIES, name="cell"))
    counts[["Blank-1", "Blank-22"]] = 1
    counts.to_csv(root / "cell_by_gene.csv")
    cells = pd.DataFrame(
        {"fov": 3, "volume": 700.5, "center_x": PLACES[:, 0], "center_y": PLACES[:, 1]},
        index=ENTITIES,
    )
    cells[::-1].to_csv(root / "cell_metadata.csv")


def test_merscope(tmp_path: Path) -> None:
    merscope(tmp_path / "region_0")
    for path in (tmp_path, tmp_path / "region_0"):
        found = io.read(path)
        check(found, ENTITIES)
        assert found.obs["volume"].tolist() == [700.5] * 4


def test_merscope_with_several_regions(tmp_path: Path) -> None:
    merscope(tmp_path / "run" / "region_0")
    merscope(tmp_path / "run" / "region_1")
    with pytest.raises(ValueError, match=r"one region of MERSCOPE .*: region_0, region_1\. Name"):
        io.read(tmp_path / "run")
    with pytest.raises(ValueError, match="the region of MERSCOPE 'region_2'"):
        io.read(tmp_path / "run", table="region_2")
    check(io.read(tmp_path / "run", table="region_1"), ENTITIES)


# Visium HD, and one file of 10x ------------------------------------------------------------------

BARCODES = ["AAAC-1", "CCGT-1", "GGTA-1", "TTTT-1"]


def visium(root: Path) -> None:
    (root / "spatial").mkdir(parents=True)
    write_10x(root / "filtered_feature_bc_matrix.h5", BARCODES)
    positions = pd.DataFrame(
        {
            "barcode": BARCODES,
            "in_tissue": 1,
            "array_row": [0, 1, 2, 3],
            "array_col": [0, 1, 2, 3],
            "pxl_row_in_fullres": PLACES[:, 1],
            "pxl_col_in_fullres": PLACES[:, 0],
        }
    )
    positions.to_csv(root / "spatial" / "tissue_positions.csv", index=False)
    (root / "spatial" / "scalefactors_json.json").write_text('{"spot_diameter_fullres": 8}')


def test_bins_of_visium_hd_are_chosen_by_name(tmp_path: Path) -> None:
    for size in ("002", "008", "016"):
        visium(tmp_path / "outs" / "binned_outputs" / f"square_{size}um")
    for path in (tmp_path, tmp_path / "outs", tmp_path / "outs" / "binned_outputs"):
        check(io.read(path, table="square_008um"), BARCODES)
    with pytest.raises(ValueError, match=r"'square_080um' in .*found: square_002um, square_008um"):
        io.read(tmp_path, table="square_080um")


def test_one_file_of_10x(tmp_path: Path) -> None:
    visium(tmp_path / "outs")
    check(io.read(tmp_path / "outs" / "filtered_feature_bc_matrix.h5"), BARCODES)


# Stereo-seq -----------------------------------------------------------------------------------

BINS = ["42949672960010", "42949672960020", "85899345920010", "85899345920020"]


def stereopy(path: Path, *, version: int, raw: bool) -> None:
    """`stereo.io.write_h5ad`, of its first layout and the one since."""
    matrix = sparse.csr_matrix(COUNTS)
    with h5py.File(path, "w") as file:
        for end in ("", "@raw") if raw else ("",):
            for kind, table, array, names in (
                ("genes", "var", "gene_name", GENES),
                ("cells", "obs", "cell_name", BINS),
            ):
                group = file.create_group(f"{kind}{end}")
                text = np.array(names, dtype=h5py.special_dtype(vlen=str))
                if version == 1:
                    group[array] = text
                else:
                    group = group.create_group(table)
                    group.attrs["_index"] = "_index"
                    group["_index"] = text
            shown = matrix if end or not raw else np.log1p(matrix)
            group = file.create_group(f"exp_matrix{end}")
            group.attrs["encoding-type"] = "csr_matrix"
            group.attrs["shape"] = shown.shape
            for part in ("data", "indices", "indptr"):
                group[part] = getattr(shown, part)
        file["position"] = PLACES
        file["bin_type"] = "bins"


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_stereopy(tmp_path: Path, *, version: int, raw: bool) -> None:
    stereopy(tmp_path / "SS200000135TL_D1.bin50.h5ad", version=version, raw=raw)
    check(io.read(tmp_path / "SS200000135TL_D1.bin50.h5ad"), BINS)


def write_saw(path: Path) -> None:
    """As SAW writes for others: an AnnData, with places in obs."""
    obs = pd.DataFrame({"x": PLACES[:, 0], "y": PLACES[:, 1]}, index=BINS)
    var = pd.DataFrame(index=GENES)
    path.parent.mkdir(parents=True, exist_ok=True)
    ad.AnnData(sparse.csr_matrix(COUNTS.astype("f4")), obs=obs, var=var).write_h5ad(path)


def test_saw(tmp_path: Path) -> None:
    write_saw(tmp_path / "outs" / "analysis" / "A1.bin200_1.0.h5ad")
    check(io.read(tmp_path), BINS)
    write_saw(tmp_path / "outs" / "analysis" / "A1.cellbin_1.0.h5ad")
    with pytest.raises(ValueError, match=r"one file of h5ad .*: A1.bin200_1.0, A1.cellbin_1.0"):
        io.read(tmp_path)
    check(io.read(tmp_path, table="A1.cellbin_1.0"), BINS)


# tables ---------------------------------------------------------------------------------------

NAMES = ["spot1", "spot2", "spot3", "spot4"]


def slide_seq(root: Path) -> None:
    """Slide-seqV2: genes in the rows, beads in any order."""
    root.mkdir()
    counts = pd.DataFrame(COUNTS.T, index=pd.Index(GENES, name="GENE"), columns=NAMES)
    with gzip.open(root / "Puck_1.digital_expression.txt.gz", "wt") as stream:
        counts.to_csv(stream, sep="\t")
    beads = pd.DataFrame({"barcodes": NAMES, "xcoord": PLACES[:, 0], "ycoord": PLACES[:, 1]})
    beads[::-1].to_csv(root / "Puck_1_bead_locations.csv", index=False)


def plain(root: Path) -> None:
    root.mkdir()
    pd.DataFrame(COUNTS, index=NAMES, columns=GENES).to_csv(root / "counts.csv")
    pd.DataFrame(PLACES, index=NAMES, columns=["x", "y"]).to_csv(root / "coordinates.csv")


def of_r(root: Path) -> None:
    """As `write.table` of R has it: no name above the names."""
    root.mkdir()
    rows = ["\t".join(map(str, [name, *row])) for name, row in zip(NAMES, COUNTS, strict=True)]
    (root / "counts.tsv").write_text("\n".join(["\t".join(GENES), *rows]) + "\n")
    places = [f"{name};{x};{y}" for name, (x, y) in zip(NAMES, PLACES, strict=True)]
    (root / "positions.csv").write_text("\n".join(places) + "\n")


@pytest.mark.parametrize("write", [slide_seq, plain, of_r])
def test_tables(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "data")
    check(io.read(tmp_path / "data"), NAMES)


def test_what_has_no_place_stays(tmp_path: Path) -> None:
    plain(tmp_path / "data")
    file = tmp_path / "data" / "coordinates.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    found = io.read(tmp_path / "data")
    assert found.n_obs == 4
    assert np.isnan(found.obsm["spatial"][-1]).all()


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    plain(tmp_path / "data")
    file = tmp_path / "data" / "coordinates.csv"
    for text, match in (
        ("a,1,2\nb,3,4\n", r"Expected the names of .* found none of 2 \(such as a\)"),
        ("a,1\nb,2\n", r"Expected a table of names, x and y .*\(2 columns\)"),
        ("a,1,2\na,3,4\n", "a name twice"),
        ("a,1,2\nb,3,east\n", "a place that is no number"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=match):
            io.read(tmp_path / "data")
    (tmp_path / "data" / "raw_counts.csv").touch()
    with pytest.raises(
        ValueError, match=r"one table of counts .* found counts.csv, raw_counts.csv"
    ):
        io.read(tmp_path / "data")


# the command ----------------------------------------------------------------------------------


@pytest.mark.dist
def test_the_command_names_the_option(tmp_path: Path) -> None:
    merscope(tmp_path / "run" / "region_0")
    merscope(tmp_path / "run" / "region_1")
    done = call("convert", tmp_path / "run", tmp_path / "out.h5ad")
    assert "found: region_0, region_1. Name one with `--table`." in done.stderr
    done = call("convert", tmp_path / "run", tmp_path / "out.h5ad", "--table", "region_0")
    assert done.returncode == 0, done.stderr
    check(m2st.io.read(tmp_path / "out.h5ad"), ENTITIES)
