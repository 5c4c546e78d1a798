"""What is asked of a file before it is read, so that it neither runs code nor ends the process.

A file from elsewhere may be damaged, or made to do harm: name other files, hold code for a reader
that runs it, unpack to more than there is memory, or crash the library that reads it. The functions
here raise `Untrusted` with the reason, or whatever a reader raises on a damaged file.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

__all__ = [
    "Untrusted",
    "check_gzip",
    "check_hdf5",
    "check_image",
    "check_mtx",
    "check_parquet",
    "check_r",
    "check_size",
    "check_zarr",
]

# What a file may always unpack to, and how many times its own size otherwise. Dense counts of which
# 1 % are filled shrink some 60 times, whole files seldom 100; gzip of nothing but zeros 1,000.
_FREE = 2**29
_RATIO = 150
# Memory in which a file is tried, and what it may take of its own size.
_MEMORY = 3 * 2**28
# Seconds for a trial, and bytes a second, as on a slow network or a busy machine.
_PATIENCE, _SPEED = 600, 5_000_000
_TRIAL = Path(__file__).with_name("_trial.py")
_ZARR_METADATA = {".zarray", ".zmetadata", "zarr.json"}


class Untrusted(ValueError):
    """A file that is not read unless it is trusted; says why."""


def most_bytes(n_bytes: int) -> int:
    """What a file of so many bytes may unpack to."""
    return max(_FREE, _RATIO * n_bytes)


def check_size(n_unpacked: float, n_bytes: int) -> None:
    """Require that what is in a file is not larger than the file can be believed to hold."""
    if n_unpacked > most_bytes(n_bytes):
        msg = f"its {n_bytes / 1e6:,.2f} MB unpack to {n_unpacked / 1e9:,.1f} GB"
        raise Untrusted(msg)


def check_hdf5(path: Path) -> None:
    """Require that an HDF5 file can be read, stays within itself, and needs no plugin."""
    n_bytes = path.stat().st_size
    _try("hdf5", path, most=most_bytes(n_bytes), memory=max(_MEMORY, 2 * n_bytes))


def check_r(plain: Path) -> None:
    """Require that an unpacked file of R can be parsed.

    One that is deep ends the process, and a length that is written in a few bytes takes gigabytes.
    """
    _try("r", plain, most=0, memory=max(_MEMORY, 4 * plain.stat().st_size))


def _try(kind: str, file: Path, *, most: int, memory: int) -> None:
    """Read a file in a process of its own, which may die of it."""
    own = {
        # As this process finds its packages, wherever they are.
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-P", "-W", "ignore", str(_TRIAL), kind, str(file)]
    patience = _PATIENCE + file.stat().st_size / _SPEED
    try:
        done = subprocess.run(
            [*command, str(most), str(memory)],
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"reading it does not end within {patience:.0f} seconds"
        raise Untrusted(msg) from error
    reason = done.stdout.decode(errors="replace").strip()
    if done.returncode == 1:
        raise Untrusted(reason)
    if done.returncode != 0:
        raise OSError(reason or f"reading it ends the process, with status {done.returncode}")


def check_gzip(path: Path) -> None:
    """Require that a file packed by gzip does not unpack to far more than its size."""
    n_bytes, n_unpacked = path.stat().st_size, 0
    if n_bytes * 1100 < _FREE:  # gzip packs no more than 1,032 times
        return
    with gzip.open(path) as stream:
        while piece := stream.read(2**20):
            n_unpacked += len(piece)
            check_size(n_unpacked, n_bytes)


def check_mtx(path: Path) -> None:
    """Require a Matrix Market file whose header, and the file when unpacked, fit its size."""
    is_packed = path.suffix == ".gz"
    if is_packed:
        check_gzip(path)
    with gzip.open(path) if is_packed else path.open("rb") as stream:
        lines = iter(lambda: stream.readline(2**16), b"")
        head = next((line for line in lines if line.strip() and not line.startswith(b"%")), b"")
    n_rows, n_columns, n_stored = map(int, head.split())
    check_size(8 * (n_rows + n_columns) + 16 * n_stored, path.stat().st_size)


def check_parquet(path: Path) -> None:
    """Require that a table does not have far more rows than its size can hold."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        n_values = file.metadata.num_rows * max(1, file.metadata.num_columns)
    check_size(8 * n_values, path.stat().st_size)


def check_image(path: Path) -> None:
    """Require that a picture does not have far more pixels than its size can hold."""
    from PIL import Image

    with path.open("rb") as stream:
        head = stream.read(24)
    if head[:4] == b"\x89PNG":  # Pillow warns of large ones, and refuses larger ones
        size = (int.from_bytes(head[16:20]), int.from_bytes(head[20:24]))
    else:
        with Image.open(path) as picture:
            size = picture.size
    # Four channels of float32, as matplotlib has them.
    check_size(prod(size) * 16, path.stat().st_size)


def check_zarr(path: Path, elements: Iterable[str] = ("",)) -> None:
    """Require that a zarr store has no pickles and stays within itself, in place and size.

    Nothing of zarr is used. A pickle runs code when it is read: a store that has one anywhere is
    refused before zarr opens it. The size is that of `elements`, which will be read.
    """
    root = path.resolve()
    wanted = tuple(f"{root / element}{os.sep}" for element in elements)
    n_bytes = n_unpacked = 0
    for entry in _files(root):
        place = Path(entry.path).relative_to(root)
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(root):
            msg = f"{place} is a link out of it"
            raise Untrusted(msg)
        if not entry.is_file():
            msg = f"{place} is no ordinary file"
            raise Untrusted(msg)
        read = entry.path.startswith(wanted)
        n_bytes += entry.stat().st_size if read else 0
        if entry.name not in _ZARR_METADATA:
            continue
        try:
            metadata = json.loads(Path(entry.path).read_bytes())
        except (RecursionError, ValueError) as error:
            msg = f"{place} is damaged: {error}"
            raise ValueError(msg) from error
        if (codec := _pickle_in(metadata)) is not None:
            msg = f"the codec {codec} in {place} runs code when it is read"
            raise Untrusted(msg)
        n_unpacked += _n_declared(metadata) if read else 0
    check_size(n_unpacked, n_bytes)


def _files(root: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a store but its folders; links are not followed."""
    waiting = [str(root)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    yield entry


def _pickle_in(metadata: Any) -> str | None:
    """Name of a codec that is a pickle, at any depth of the metadata but the user's attributes."""
    if isinstance(metadata, list):
        return next((found for item in metadata if (found := _pickle_in(item))), None)
    if not isinstance(metadata, dict):
        return None
    for key in ("id", "name"):
        name = metadata.get(key)
        if isinstance(name, str) and name.lower().split(".")[-1] == "pickle":
            return name
    own = (value for key, value in metadata.items() if key not in {"attributes", ".zattrs"})
    return next((found for item in own if (found := _pickle_in(item))), None)


def _n_declared(metadata: Any) -> int:
    """Bytes of the array that a file of metadata declares; none for a group."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get("shape"), list):
        return 0
    kind = str(metadata.get("dtype", metadata.get("data_type", "")))
    digits = "".join(c for c in kind if c.isdigit())
    size = int(digits or 8)
    if "data_type" in metadata:  # in bits
        size = -(-size // 8)
    return prod(int(n) for n in metadata["shape"]) * size
