"""Files and folders that appear whole or not at all, and a trial before any work is done."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

# Bytes that a trial writes: a full disk takes an empty file.
_TRIAL = 2**11
_STORE_MARKS = {"zarr.json", ".zgroup"}
# Of Linux: the working folder as the place to start from; names change places in one step.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def try_place(target: Path) -> None:
    """Require that `target` can have this name, and that its folder takes a new file.

    Raises
    ------
    OSError
        The name is too long, the folder or the disk is read-only, or the disk is full.
    """
    part = _beside(target)
    try:
        with suppress(FileNotFoundError):
            target.lstat()  # says so of a name that is too long
        with part.open("xb") as stream:
            stream.write(bytes(_TRIAL))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        msg = f"Expected that {target} can be written, found: {reason}. Name another place."
        raise _same_kind(error, msg) from error
    finally:
        remove(part)


def is_store(path: Path) -> bool:
    """Whether this is the folder of a zarr group."""
    return path.is_dir() and any((path / mark).is_file() for mark in _STORE_MARKS)


def write_whole(target: Path, content: bytes | memoryview) -> None:
    """Write a file, whole or not at all; see `replacing`."""
    with replacing(target, n_bytes=len(content)) as part, part.open("xb") as stream:
        stream.write(content)


@contextmanager
def replacing(target: Path, *, n_bytes: int | None = None) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `target` once the block has ended well.

    The path is beside `target`, under a name that nobody can foresee. What is written there is
    synced to disk before it is renamed, so that readers see the old file or folder or the new one,
    never a part.

    Parameters
    ----------
    target
        File or folder to write or replace.
    n_bytes
        Size of what is written, for the message.

    Raises
    ------
    OSError
        It could not be written: what was there is unchanged. The message says how much was free.
    """
    part = _beside(target)
    try:
        yield part
        _sync(part)
        if target.is_file():
            shutil.copymode(target, part)
        if not (target.is_dir() and _exchange(part, target)):
            _rename(part, target)
    except OSError as error:
        remove(part)
        needed = "" if n_bytes is None else f"It takes {n_bytes / 1e6:,.2f} MB; "
        with suppress(OSError):
            free = shutil.disk_usage(target.parent).free
            needed += f"{free / 1e6:,.2f} MB were free in {target.parent}. "
        reason = error.strerror or str(error)
        msg = f"Could not write {target}: {reason}. {needed}What was there is unchanged."
        raise _same_kind(error, msg) from error
    finally:
        try:
            remove(part)
        except KeyboardInterrupt:  # not before all is gone
            remove(part)
            raise


def second_names(source: Path, copy: Path) -> None:
    """Copy a zarr store whose files are the same ones under a second name, where that can be.

    The files that zarr changes in place, of attributes and metadata, are copied.
    """

    def link(one: str, other: str) -> None:
        name = os.path.basename(one)
        if name == "zarr.json" or name.startswith(".z"):
            shutil.copy2(one, other)
            return
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:  # not everywhere
            shutil.copy2(one, other)

    shutil.copytree(source, copy, symlinks=True, copy_function=link)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _beside(target: Path) -> Path:
    """Name of a part in the same folder; not `target`'s own, which may be as long as can be."""
    # Not tempfile's: its files are readable by their owner alone, and so would the result be.
    return target.with_name(f".m2st-{uuid4().hex}.part")


def _same_kind(error: OSError, message: str) -> OSError:
    """An error of the same number, and so of the same class, with other words."""
    return OSError(message) if error.errno is None else OSError(error.errno, message)


def _sync(path: Path) -> None:
    """Wait until a file, or all new files of a folder, are on the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        # A file of several names was there before.
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _exchange(part: Path, target: Path) -> bool:
    """Let two folders change places in one step, where the system knows how."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    places = (_AT_FDCWD, os.fsencode(part)), (_AT_FDCWD, os.fsencode(target))
    return bool(rename(*places[0], *places[1], _RENAME_EXCHANGE) == 0)


def _rename(part: Path, target: Path) -> None:
    """Put the part into its place; a folder that is there steps aside for it."""
    if not target.is_dir():
        part.replace(target)
        return
    aside = _beside(target)
    target.rename(aside)
    try:
        part.replace(target)
    except BaseException:
        aside.rename(target)
        raise
    remove(aside)
