from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numba
import pytest

from m2st._nn import _compile, _kernels
from m2st._nn._compile import _digest, _is_own, cache_folder

FOLDER = Path(_compile.__file__).parent


@pytest.fixture
def anew() -> Iterator[None]:
    cache_folder.cache_clear()
    yield
    cache_folder.cache_clear()


def test_compiled_code_is_kept_in_a_folder_of_its_own() -> None:
    folder = cache_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o077 == 0
    assert Path(_kernels.weigh.stats.cache_path).parent == folder


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_the_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def in_a_folder_open_to_all(folder: Path) -> None:
    folder.parent.chmod(0o777)


def a_link(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir(mode=0o700)
    folder.symlink_to(other)


def a_file(folder: Path) -> None:
    folder.touch()


def another_users(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other permissions")
@pytest.mark.parametrize(
    "make", [open_to_all, open_to_the_group, in_a_folder_open_to_all, a_link, a_file, another_users]
)
def test_code_of_others_is_not_loaded(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "inner" / "cache"
    folder.parent.mkdir()
    assert _is_own(folder)
    folder.rmdir()
    make(folder)
    assert not _is_own(folder)


@pytest.mark.usefixtures("anew")
def test_nowhere_to_keep_compiled_code_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert cache_folder() is None
        assert cache_folder() is None
    assert len(caplog.messages) == 1
    assert "Set NUMBA_CACHE_DIR to a folder that you alone can write to" in caplog.text
    assert _compile.compiled(lambda x: x + 1)(1) == 2
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "new"))
    cache_folder.cache_clear()
    assert cache_folder() == tmp_path / "new" / f"m2st-{_digest(FOLDER)}"


def test_the_folder_is_that_of_these_very_files(tmp_path: Path) -> None:
    before = _digest(FOLDER)
    for name in _compile._SOURCES:
        for file in _compile._SOURCES:
            shutil.copy(FOLDER / file, tmp_path)
        assert _digest(tmp_path) == before
        with (tmp_path / name).open("a") as file:
            file.write("\n")
        assert _digest(tmp_path) != before


@pytest.mark.slow
def test_an_edit_of_the_vector_type_is_seen(tmp_path: Path) -> None:
    shutil.copytree(FOLDER.parent, tmp_path / "m2st")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path)}
    code = "from m2st._nn._attention import loops; assert loops().module is {}"
    command = [sys.executable, "-W", "ignore", "-c"]
    subprocess.run([*command, code.format("not None")], check=True, env=environment)
    simd = tmp_path / "m2st" / "_nn" / "_simd.py"
    text = simd.read_text()
    assert "fused(n, constant(-low)" in text
    simd.write_text(text.replace("fused(n, constant(-low)", "fused(n, constant(-9 * high)"))
    subprocess.run([*command, code.format("None")], check=True, env=environment)


@pytest.mark.slow
def test_no_place_to_write_to_is_no_obstacle(tmp_path: Path) -> None:
    """No home, no folder for temporary files, nothing that can be written beside the package."""
    code = (
        "import m2st, numpy as np; from anndata import AnnData;"
        "from m2st._nn._attention import loops;"
        "places = np.array([[x, y] for x in range(10) for y in range(8)], dtype=float);"
        "adata = AnnData(np.random.default_rng(0).poisson(2, (80, 9)) * 1.0,"
        "  obsm={'spatial': places});"
        "m2st.run(adata, 2, progress=False,"
        "  autoencoder=m2st.AutoencoderParams(n_members=1, n_epochs=2));"
        "assert loops().module is not None"
    )
    nowhere = str(tmp_path / "missing" / "folder")
    (tmp_path / "missing").touch()  # a file: not even root can make folders in it
    settings = {"NUMBA_CACHE_DIR": nowhere, "TMPDIR": nowhere, "MPLCONFIGDIR": nowhere}
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings, "HOME": nowhere},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert found.stderr.count("compiled anew in each process") == 1
