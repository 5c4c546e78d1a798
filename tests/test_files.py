"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from m2st import _files, interop
from m2st._checks import check_target


def fill(disk: Path) -> None:
    """Leave no room at all."""
    with (disk / "filler").open("wb", buffering=0) as stream:
        while True:
            try:
                stream.write(bytes(4096))
            except OSError:
                return


def test_a_full_disk_is_said_before_any_work(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(
        OSError, match=r"Expected that .*a\.csv can be written, found: No space left"
    ):
        check_target(small_disk / "a.csv", (".csv",), overwrite=True)
    assert {p.name for p in small_disk.iterdir()} == {"filler"}


def test_a_disk_that_fills_up_leaves_the_old_file(small_disk: Path) -> None:
    (small_disk / "a").write_text("old")
    with pytest.raises(
        OSError, match=r"Could not write .*a: No space left .*It takes 1\.00 MB; 0\.2"
    ):
        _files.write_whole(small_disk / "a", bytes(1_000_000))
    assert (small_disk / "a").read_text() == "old"
    assert [p.name for p in small_disk.iterdir()] == ["a"]


def test_a_disk_that_fills_up_leaves_the_old_folder(small_disk: Path) -> None:
    (small_disk / "a").mkdir()
    (small_disk / "a" / "mine").write_text("old")

    def write() -> None:
        with _files.replacing(small_disk / "a") as part:
            part.mkdir()
            (part / "new").write_bytes(bytes(1_000_000))

    with pytest.raises(OSError, match="What was there is unchanged"):
        write()
    assert [p.name for p in small_disk.rglob("*")] == ["a", "mine"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    """In one step, and where the system cannot, in two."""
    if not exchange:
        monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with _files.replacing(tmp_path / "a") as part:
        part.mkdir()
        (part / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "new"]


def test_a_folder_comes_back_if_the_second_step_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "_exchange", lambda *_: False)
    (tmp_path / "a").mkdir()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    def write() -> None:
        with _files.replacing(tmp_path / "a") as part:
            part.mkdir()
            monkeypatch.setattr(Path, "replace", fail)

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_second_names_share_data_but_not_metadata(tmp_path: Path) -> None:
    store = tmp_path / "a"
    (store / "c").mkdir(parents=True)
    (store / "zarr.json").write_text("{}")
    (store / "c" / "0").write_text("numbers")
    (store / "link").symlink_to("c")
    _files.second_names(store, tmp_path / "b")
    (tmp_path / "b" / "zarr.json").write_text("new")
    assert (store / "zarr.json").read_text() == "{}"
    assert os.path.samefile(store / "c" / "0", tmp_path / "b" / "c" / "0")
    assert (tmp_path / "b" / "link").is_symlink()


@pytest.mark.r
def test_a_disk_that_fills_up_as_r_closes_its_file_leaves_the_old_one(small_disk: Path) -> None:
    """R says nothing of it: the last kilobytes are written when the file is closed."""
    pytest.importorskip("rpy2", reason="rpy2 is not installed: pip install 'm2st[r]'")
    counts = np.random.default_rng(0).poisson(1.0, (100, 400)).astype(np.float64)
    adata = ad.AnnData(counts, obsm={"spatial": np.random.default_rng(1).random((100, 2))})
    path = small_disk / "a.rds"
    try:
        interop.write_r(adata, path, "Seurat")
    except ImportError as error:
        pytest.skip(str(error))
    size = path.stat().st_size
    path.write_text("old")
    room = size // 4096 * 4096
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    with pytest.raises(OSError, match=r"Could not write .*a\.rds: .*What was there is unchanged"):
        interop.write_r(adata, path, "Seurat", overwrite=True)
    assert path.read_text() == "old"
