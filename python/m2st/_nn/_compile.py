"""Compiling by numba, and the folder that keeps what was compiled.

numba keeps compiled code as pickles: who can write to that folder can run code as the user who
reads it. It does not see changes in other files than the function's own, and fails where it can
write nowhere. Here the folder is the user's own, its name holds a digest of all files that the code
comes from, and where there is no such folder everything is compiled in each process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from platformdirs import user_cache_path

logger = logging.getLogger(__name__)

_config: Any = numba.config
_njit: Any = numba.njit
_SOURCES = ("_compile.py", "_kernels.py", "_simd.py")


@lru_cache
def cache_folder() -> Path | None:
    """Folder for compiled code that is there, writable and the user's alone; None if none is.

    Within ``NUMBA_CACHE_DIR`` where that is set, else within the user's folder of caches or, where
    that cannot be written to, beside the package.
    """
    here = Path(__file__).parent
    name = f"m2st-{_digest(here)}"
    chosen = _config.CACHE_DIR
    tried = (
        [Path(chosen)]
        if chosen
        else [user_cache_path("m2st", appauthor=False), here / "__pycache__"]
    )
    for parent in tried:
        if parent.is_absolute() and _is_own(folder := parent / name):
            return folder
    logger.warning(
        "Found no folder of your own to keep compiled code in (tried %s): it is compiled anew in "
        "each process, which takes some 20 seconds. Set NUMBA_CACHE_DIR to a folder that you alone "
        "can write to.",
        " and ".join(map(str, tried)),
    )
    return None


def _digest(folder: Path) -> str:
    """Digest of the files that compiled code comes from."""
    found = hashlib.blake2b(digest_size=8)
    for name in _SOURCES:
        found.update((folder / name).read_bytes())
    return found.hexdigest()


def _is_own(folder: Path) -> bool:
    """Make a folder if it is missing; whether it can be written to, and by nobody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        found = folder.lstat()
        above = [parent.stat().st_mode for parent in folder.resolve().parents]
    except OSError:
        return False
    if not hasattr(os, "geteuid"):  # Windows: what is in a user's profile is the user's
        return True
    # In a folder that all can write to, another could put a folder of that name in its place.
    exposed = any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in above)
    shared = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not (shared or exposed)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, or load what an earlier process compiled."""
    return _compiled(function, inline="never")


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function as part of those that call it."""
    return _compiled(function, inline="always")


def _compiled(function: Callable[..., Any], *, inline: str) -> Any:
    folder = cache_folder()
    before = _config.CACHE_DIR
    try:
        _config.CACHE_DIR = "" if folder is None else str(folder)
        # Numbers are divided as numpy does, without a check for 0.
        decorate = _njit(cache=folder is not None, error_model="numpy", inline=inline)
        return decorate(function)
    finally:
        _config.CACHE_DIR = before
