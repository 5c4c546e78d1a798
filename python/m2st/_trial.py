"""Try a file in this process, which may die of it: ``python _trial.py KIND FILE MOST MEMORY``.

Run by `m2st._trust`, with nothing of m2ST loaded. Ends with 0 if the file can be read, with 1 if it
is refused, and with 2 if it is damaged, the reason on standard output; libraries that crash on a
damaged file end it otherwise.
"""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

# The filters that HDF5 and h5py have built in; others are loaded from a folder of plugins.
_FILTERS = {1, 2, 3, 4, 5, 6, 32000}
# Values that are read at a time.
_PIECE = 2**25
_TEXTS = 2**16
# Objects in a file; AnnData writes some hundred.
_MOST = 100_000


class Refused(Exception):
    """The file is not read; says why."""


def try_hdf5(path: str, most: int) -> None:
    """Read everything in an HDF5 file once; it may hold `most` bytes, unpacked."""
    import h5py

    with h5py.File(path, "r") as file:
        # Before any link is followed, as following one opens what it points to.
        for name, link in _hard_links(file):
            if isinstance(link, h5py.ExternalLink):
                _refuse(f"{name} is a link to another file, {link.filename}")
        total = 0
        elements = list(_elements(file))
        for name, element in elements:
            _check_attributes(element)
            if isinstance(element, h5py.Dataset):
                _check_dataset(name, element)
                total += prod(element.shape or ()) * element.dtype.itemsize
        check_total(total, most)
        for _, element in elements:
            if isinstance(element, h5py.Dataset) and element.shape is not None:
                total += sum(map(_n_text, _pieces(element)))
                check_total(total, most)


def check_total(total: int, most: int) -> None:
    """Refuse what takes more room than the file can be believed to hold."""
    if total > most:
        _refuse(f"it unpacks to {total / 1e9:,.1f} GB, far more than its size")


def _refuse(reason: str) -> None:
    raise Refused(reason)


def _hard_links(file: Any) -> Iterator[tuple[str, Any]]:
    """All links of a file, none of them followed that may lead out of it."""
    import h5py

    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            yield f"{group.name.rstrip('/')}/{name}", link
            if isinstance(link, h5py.HardLink) and isinstance(group[name], h5py.Group):
                groups.append(group[name])


def _elements(file: Any) -> Iterator[tuple[str, Any]]:
    """Groups and data sets as a reader meets them, who follows links."""
    import h5py

    yield "/", file
    waiting: list[tuple[Any, frozenset[int]]] = [(file, frozenset())]
    count = 0
    while waiting:
        group, above = waiting.pop()
        within = above | {h5py.h5o.get_info(group.id).addr}
        for name in group:
            place, element = f"{group.name.rstrip('/')}/{name}", group[name]
            if (count := count + 1) > _MOST:
                _refuse(f"it has more than {_MOST:,} elements")
            yield place, element
            if isinstance(element, h5py.Group):
                if h5py.h5o.get_info(element.id).addr in within:
                    _refuse(f"{place} leads back to a group that it is in")
                waiting.append((element, within))


def _check_attributes(element: Any) -> None:
    import h5py

    for name in element.attrs:
        value = element.attrs[name]
        if isinstance(value, h5py.h5r.Reference) and value:
            element.file[value]  # raises if it leads nowhere


def _check_dataset(name: str, element: Any) -> None:
    if element.external:
        _refuse(f"{name} has its values in another file, {element.external[0][0]}")
    if element.is_virtual:
        others = {source.file_name for source in element.virtual_sources()} - {"."}
        if others:
            _refuse(f"{name} has its values in another file, {min(others)}")
    if _has_references(element.dtype):
        _refuse(f"{name} holds references")
    settings = element.id.get_create_plist()
    for at in range(settings.get_nfilters()):
        number, *_, label = settings.get_filter(at)
        if number not in _FILTERS:
            _refuse(f"{name} needs the HDF5 plugin {label.decode() or number}")


def _has_references(dtype: Any) -> bool:
    import h5py

    if h5py.check_ref_dtype(dtype) is not None:
        return True
    inner = h5py.check_vlen_dtype(dtype)
    if inner is not None and not isinstance(inner, type):
        return _has_references(inner)
    return any(_has_references(dtype[field]) for field in dtype.names or ())


def _pieces(element: Any) -> Iterator[Any]:
    """Values of a data set, some rows at a time."""
    if element.shape == ():
        yield element[()]
        return
    row = prod(element.shape[1:]) * element.dtype.itemsize
    n_rows = max(1, _PIECE // max(1, row))
    if element.dtype.hasobject:
        n_rows = max(1, _TEXTS // max(1, prod(element.shape[1:])))
    elif element.chunks is not None:  # whole chunks, so that none is unpacked twice
        n_rows = max(1, n_rows // element.chunks[0]) * element.chunks[0]
    for start in range(0, element.shape[0], n_rows):
        yield element[start : start + n_rows]


def _n_text(values: Any) -> int:
    """Bytes of strings and sequences that a data set only points to."""
    dtype = getattr(values, "dtype", None)
    if isinstance(values, bytes | str):
        return len(values)
    if dtype is None or not dtype.hasobject or dtype.names:
        return 0
    return sum(len(value) for value in values.ravel() if value is not None)


def try_r(path: str, most: int) -> None:
    """Parse an unpacked file of R."""
    with contextlib.redirect_stdout(io.StringIO()):
        from rds2py.lib_rds_parser import RdaObject, RdsObject
    with open(path, "rb") as stream:
        is_rda = stream.read(3) == b"RDX"
    failed: list[BaseException] = []

    def parse() -> None:
        try:
            if is_rda:
                RdaObject(path)
            else:
                RdsObject(path).get_robject()
        except BaseException as error:
            failed.append(error)

    # With less of a stack than there will be, as the parser takes some for each level of a list.
    threading.stack_size(2**21)
    thread = threading.Thread(target=parse)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def _limit_memory(most: int) -> None:
    """Let this process take so much more than it has now; where the system can."""
    try:
        import resource

        with open("/proc/self/statm") as stream:
            now = int(stream.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + most, hard))
    except (ImportError, OSError, ValueError):
        return


_KINDS: dict[str, Callable[[str, int], None]] = {"hdf5": try_hdf5, "r": try_r}


def main(kind: str, path: str, most: str, memory: str) -> int:
    """Try, and say what is wrong."""
    if kind == "hdf5":
        import h5py  # noqa: F401
    _limit_memory(int(memory))
    try:
        _KINDS[kind](path, int(most))
    except Refused as reason:
        sys.stdout.write(str(reason))
        return 1
    except MemoryError:
        sys.stdout.write("it takes far more memory than its size")
        return 1
    except Exception as error:
        sys.stdout.write(" ".join(str(error).split()) or type(error).__name__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
