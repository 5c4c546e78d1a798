"""Files, errors and threads of the converters."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from tests import hostile, interop_r
from tests.interop_r import R
from typer.testing import CliRunner

from m2st import cli, datasets, interop, io
from m2st.interop import _embedded

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def r(tmp_path_factory: pytest.TempPathFactory) -> R:
    return interop_r.start(tmp_path_factory.mktemp("library"))


@pytest.fixture
def adata() -> ad.AnnData:
    made = ad.AnnData(sparse.csr_matrix(np.arange(12.0).reshape(4, 3)))
    made.obsm["spatial"] = np.arange(8.0).reshape(4, 2)
    made.obs["sample_id"] = pd.Categorical(["a", "a", "b", "b"])
    return made


@pytest.mark.parametrize("suffix", [".rds", ".RDS", ".rda", ".RData"])
@pytest.mark.parametrize("as_", ["SpatialExperiment", "SingleCellExperiment", "Seurat"])
@pytest.mark.usefixtures("r")
def test_files_come_back_by_both_ways(
    adata: ad.AnnData, tmp_path: Path, suffix: str, as_: str
) -> None:
    path = tmp_path / f"x{suffix}"
    interop.write_r(adata, path, as_)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    for method in ("auto", "r", "rds2py"):
        found = interop.read_r(path, method=method)
        np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray())
        np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
        pd.testing.assert_frame_equal(found.obs, adata.obs)


@pytest.mark.parametrize("compress", ["FALSE", "'gzip'", "'bzip2'", "'xz'"])
@pytest.mark.parametrize("version", [2, 3])
def test_every_compression_and_version_is_read(
    r: R, tmp_path: Path, compress: str, version: int
) -> None:
    x = r.call("make_experiment", 1, "SpatialExperiment", 3, 4, ["dgCMatrix"], ["logical"])
    expected = interop.to_anndata(x)
    save = f"version = {version}, compress = {compress})"
    r.call(f"function(x, path) saveRDS(x, path, {save}", x, str(tmp_path / "x.rds"))
    r.call(f"function(x, path) save(x, file = path, {save}", x, str(tmp_path / "x.rda"))
    for name in ("x.rds", "x.rda"):
        for method in ("r", "rds2py"):
            found = interop.read_r(tmp_path / name, method=method)
            assert (found.X != expected.X).nnz == 0
            pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_the_object_of_an_rda_is_chosen(r: R, tmp_path: Path) -> None:
    path = tmp_path / "x.rda"
    r.call(
        """function(path) {
            a <- make_experiment(1, "SingleCellExperiment", 2, 3, "dgCMatrix", "flag")
            colnames(a) <- names_of("plain", 3)
            reducedDim(a, "spatial") <- matrix(0, 3, 2)
            b <- a[, 1:2]
            n <- 1
            save(a, b, n, file = path)
            save(a, n, file = sub("x.rda", "one.rda", path))
            save(n, file = sub("x.rda", "none.rda", path))
        }""",
        str(path),
    )
    for method in ("r", "rds2py"):
        assert interop.read_r(path, "b", method=method).n_obs == 2
        assert interop.read_r(tmp_path / "one.rda", method=method).n_obs == 3
        with pytest.raises(ValueError, match=r"found a \(Single.*b \(Single.*Choose one with `obj"):
            interop.read_r(path, method=method)
        with pytest.raises(ValueError, match=r"Expected an object 'c' in .* found a"):
            interop.read_r(path, "c", method=method)
        with pytest.raises(TypeError, match=r"found n \(double\)"):
            interop.read_r(tmp_path / "none.rda", method=method)


@pytest.mark.usefixtures("r")
def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    damaged, empty = tmp_path / "a.rds", tmp_path / "b.rds"
    damaged.write_bytes((DATA / "seurat5.rds").read_bytes()[:500])
    empty.touch()
    (tmp_path / "c.rds").write_bytes(gzip.compress(b"no R object"))
    with pytest.raises(FileNotFoundError, match="found none"):
        interop.read_r(tmp_path / "absent.rds")
    with pytest.raises(ValueError, match=r"ends in \.rds, \.rda or \.RData"):
        interop.read_r(DATA.parent / "interop.R")
    with pytest.raises(ValueError, match="found it empty"):
        interop.read_r(empty)
    with pytest.raises(ValueError, match="Expected `method` to be one of"):
        interop.read_r(damaged, method="reticulate")
    for path in (damaged, tmp_path / "c.rds"):
        with pytest.raises(RuntimeError, match=r"^R: "):
            interop.read_r(path, method="r")
        with pytest.raises(ValueError, match=r"rds2py could not read .* `method='r'`"):
            interop.read_r(path, method="rds2py")


def test_what_only_r_can_read_is_said_without_it(r: R, tmp_path: Path) -> None:
    path = tmp_path / "x.rds"
    r.call(
        """function(path) {
            x <- make_experiment(1, "SpatialExperiment", 2, 3, "dgCMatrix", "flag")
            assay(x, "late", withDimnames = FALSE) <- t(DelayedArray::DelayedArray(matrix(1:6, 3)))
            saveRDS(x, path)
        }""",
        str(path),
    )
    np.testing.assert_array_equal(
        interop.read_r(path, method="r").layers["late"].toarray(),
        np.arange(1, 7).reshape(2, 3).T,
    )
    with pytest.warns(UserWarning, match=r"assay late \(of class DelayedMatrix, which only R can"):
        assert "late" not in interop.read_r(path, method="rds2py").layers


@pytest.mark.usefixtures("r")
def test_writing_refuses_what_it_should(adata: ad.AnnData, tmp_path: Path) -> None:
    path = tmp_path / "x.rds"
    interop.write_r(adata, path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        interop.write_r(adata, path)
    with pytest.raises(ValueError, match=r"ends in"):
        interop.write_r(adata, tmp_path / "x.txt")
    with pytest.raises(FileNotFoundError, match="Make it first"):
        interop.write_r(adata, tmp_path / "none" / "x.rds")
    with pytest.raises(ValueError, match="`name` of letters"):
        interop.write_r(adata, tmp_path / "x.rda", name="a b")
    with pytest.raises(ValueError, match="Expected `as_` to be one of"):
        interop.write_r(adata, path, "SCE", overwrite=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.rds"]
    interop.write_r(adata[:2], path, overwrite=True)
    assert interop.read_r(path).n_obs == 2


def test_other_objects_are_refused(r: R) -> None:
    with pytest.raises(TypeError, match=r"found one of class data.frame"):
        interop.to_anndata(r.code("data.frame(a = 1)"))
    old = 'setClass("seurat", slots = c(raw.data = "ANY"), where = .GlobalEnv)()'
    with pytest.raises(ValueError, match=r"version 2. In R: `UpdateSeuratObject"):
        interop.to_anndata(r.code(old))
    x = r.call("make_experiment", 1, "SpatialExperiment", 2, 3, ["dgCMatrix"], ["flag"])
    with pytest.raises(ValueError, match="`assay` only with a Seurat object"):
        interop.to_anndata(x, assay="counts")


def test_an_error_of_r_arrives_with_its_message(r: R) -> None:
    with (
        pytest.warns(UserWarning, match="R: cannot open compressed file"),
        pytest.raises(RuntimeError, match="R: cannot open the connection"),
    ):
        r.low.call("readObjects", r.value("/nowhere/x.rds"))
    with pytest.raises(ImportError, match=r'package nowhere, .* `BiocManager::install."nowhere"'):
        r.low.call("needBioconductor", r.value("nowhere"))


@pytest.mark.usefixtures("r")
def test_r_is_refused_in_another_thread_but_not_rds2py(adata: ad.AnnData) -> None:
    found: list[Any] = []

    def work() -> None:
        for what in (
            lambda: interop.from_anndata(adata),
            lambda: interop.read_r(DATA / "spatial_experiment.rds", method="r"),
            lambda: interop.read_r(DATA / "spatial_experiment.rds").shape,
        ):
            try:
                found.append(what())
            except RuntimeError as error:
                found.append(str(error))

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    thread.join()
    assert all("main thread, found 'worker'" in text for text in found[:2])
    assert found[2] == (12, 5)


@pytest.mark.usefixtures("r")
def test_processes_that_python_starts_do_not_look_into_folders_of_r() -> None:
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    assert not [folder for folder in folders if folder.rstrip("/").endswith("R/lib")]
    subprocess.run([sys.executable, "-c", "import ssl, m2st"], check=True)


def test_missing_pieces_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    situation = pytest.importorskip("rpy2.situation")
    start = _embedded._start.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(situation, "get_r_home", lambda: None)
        with pytest.raises(ImportError, match=r"R, which was not found.*r-base-core"):
            start()
        patch.setattr(situation, "get_r_home", lambda: str(tmp_path))
        with pytest.raises(ImportError, match=f"R home: {tmp_path}"):
            start()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rpy2.rinterface", None)
        with pytest.raises(ImportError, match=r"does not load with the R at .*rinterface<3\.6\.6"):
            start()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rpy2.situation", None)
        with pytest.raises(ImportError, match=r"pip install 'm2st\[r\]'"):
            start()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rds2py.lib_rds_parser", None)
        with pytest.raises(ImportError, match=r"pip install 'm2st\[rds\]'"):
            interop.read_r(DATA / "seurat5.rds", method="rds2py")


@pytest.mark.parametrize("make", [hostile.rds, hostile.rda])
@pytest.mark.filterwarnings("default:Not converted:UserWarning")
@pytest.mark.usefixtures("r")
def test_no_code_in_a_file_runs_unless_r_is_asked_for(
    make: Callable[[bytes], hostile.Maker], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    held = hostile.listing({"a": hostile.promise(str(mark))})
    path = make(hostile.experiment(metadata=held))(tmp_path / "x")
    commands = ["run", str(path), "-k", "2", "-o"], ["convert", str(path)]
    for read in (interop.read_r, io.read, datasets.from_r_file):
        with pytest.raises(ValueError, match=r"type 5.*trust.*method='r'.*CVE-2024-27322"):
            read(path)
    for command in commands:
        done = CliRunner().invoke(cli.app, [*command, str(tmp_path / "y.h5ad")])
        assert done.exit_code == 1
        assert "CVE-2024-27322" in done.stderr
    assert not mark.exists()
    with pytest.warns(UserWarning, match="coordinates"):
        assert interop.read_r(path, method="r").shape == (3, 4)
    if interop_r.version() < (4, 4):
        assert mark.exists()
    done = CliRunner().invoke(cli.app, [*commands[1], str(tmp_path / "y.h5ad"), "--trust"])
    assert done.exit_code == 0, done.stderr


def test_an_object_that_does_not_hold_together_is_refused(tmp_path: Path) -> None:
    def refused(content: bytes, reason: str) -> None:
        path = hostile.rds(content)(tmp_path / "x")
        with pytest.raises(ValueError, match=reason):
            interop.read_r(path)

    outside = "Expected a valid sparse matrix in `the dgCMatrix`, found a damaged one"
    refused(hostile.experiment(hostile.dgc(i=[0, 1, 9])), outside)
    refused(hostile.experiment(hostile.dgc(p=[0, 2, 1, 3])), outside)
    refused(hostile.experiment(hostile.dgc(p=[0, 1, 2, 9])), "found them damaged")
    refused(hostile.experiment(hostile.dgc(dim=[2**31 - 1, 3])), "of the length of its content")
    refused(hostile.experiment(hostile.dgc(dim=[5, 3])), "Expected the assay 'counts' of 4 × 3")
    refused(hostile.experiment(colData=hostile.strings(["a"])), "found them damaged")
    deep = hostile.doubles([1.0])
    for _ in range(2000):
        deep = hostile.listing([deep])
    refused(hostile.experiment(metadata=deep), "too deep")


@pytest.mark.dist
def test_a_file_that_would_end_the_process_is_refused(tmp_path: Path) -> None:
    path = hostile.rds(hostile.open_lists(10**6))(tmp_path / "x")
    with pytest.raises(ValueError, match=r"rds2py could not read .* ends the process"):
        interop.read_r(path)
    bomb = hostile.rds_of_zeros(tmp_path / "y")
    with pytest.raises(ValueError, match=r"MB unpack to 0\.5 GB"):
        interop.read_r(bomb)


def test_converter_works_in_a_local_context(r: R, adata: ad.AnnData) -> None:
    import rpy2.robjects as ro

    x = r.call("make_experiment", 1, "SpatialExperiment", 2, 3, ["dgCMatrix"], ["flag"])
    with ro.conversion.localconverter(ro.default_converter + interop.converter()):
        ro.globalenv["spe_of_test"] = adata
        assert ro.r("class(spe_of_test)")[0] == "SpatialExperiment"
        assert isinstance(ro.globalenv["spe_of_test"], ad.AnnData)
        ro.globalenv["other_of_test"] = x
        assert ro.globalenv["other_of_test"].shape == (3, 2)
        assert type(ro.r("getClass('matrix')")).__name__ == "RS4"
    assert not isinstance(ro.globalenv["spe_of_test"], ad.AnnData)  # nothing stays active
    ro.r("rm(spe_of_test, other_of_test)")


def test_anndata2ri_agrees_where_it_is_exact(r: R) -> None:
    anndata2ri = pytest.importorskip("anndata2ri")
    import rpy2.robjects as ro

    x = r.code("""local({
        x <- make_experiment(3, "SingleCellExperiment", 4, 5, c("dgCMatrix", "double"),
            c("factor", "double", "flag"))
        reducedDim(x, "custom") <- NULL
        x
    })""")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine = interop.to_anndata(x)
        with ro.conversion.localconverter(ro.default_converter + anndata2ri.converter):
            ro.globalenv["sce_of_test"] = x
            theirs = ro.globalenv["sce_of_test"]
    assert (mine.X != theirs.X).nnz == 0
    np.testing.assert_array_equal(mine.layers["other"], theirs.layers["other"])
    np.testing.assert_array_equal(mine.obsm["X_pca"], theirs.obsm["X_pca"])
    assert mine.obs["factor"].tolist() == theirs.obs["factor"].tolist()
    np.testing.assert_array_equal(mine.obs["double"], theirs.obs["double"])


def test_import_takes_neither_rpy2_nor_rds2py() -> None:
    code = (
        "import sys, m2st.interop; "
        "assert not {'rpy2', 'rds2py', 'matplotlib'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("r")
def test_thousands_of_values_cross_without_ending_python() -> None:
    # In a process of its own: None that is let go too often ends it, at the end at the latest.
    code = (
        "import sys; import numpy as np; from m2st.interop import _embedded as e;"
        "x = e.RNode(e.numeric(np.arange(3.0), 'double')); before = sys.getrefcount(None);"
        "[(x.numbers(), e.numeric(np.arange(2), 'integer')) for _ in range(5000)];"
        "assert sys.getrefcount(None) > before - 100, sys.getrefcount(None) - before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
