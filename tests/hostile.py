"""Files that are damaged or mean harm, and what reading each of them does.

``python -m tests.hostile [FIRST LAST]`` makes them in a temporary folder, reads each in a process
of its own, and prints how it ended; the summary is in ``benchmarks/robustness.md``. No file may run
code (it would leave a mark), end the process, or take more memory than twice its size or 1 GiB, and
what fails has to fail in our words.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

MARK = "M2ST_HOSTILE_MARK"
"""Environment variable with the path of the file that code from a hostile file would make."""

Maker = Callable[[Path], Path]


# ---- R's serialization, as far as these files need it

HEADER = b"X\n" + struct.pack(">3i", 3, 0x040202, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
NULL = struct.pack(">i", 254)


def _flags(
    kind: int, *, attributes: bool = False, tag: bool = False, object_: bool = False
) -> bytes:
    return struct.pack(">i", kind | object_ << 8 | attributes << 9 | tag << 10)


def char(text: str) -> bytes:
    """One string of R, within a vector or a symbol."""
    raw = text.encode()
    return struct.pack(">2i", 0x00040009, len(raw)) + raw


def symbol(name: str) -> bytes:
    """Make a symbol."""
    return _flags(1) + char(name)


def pairs(items: Sequence[tuple[str | None, bytes]]) -> bytes:
    """Make a pairlist: attributes, or the arguments of a call."""
    made = b""
    for tag, value in items:
        made += _flags(2, tag=tag is not None) + (symbol(tag) if tag else b"") + value
    return made + NULL


def _vector(kind: int, length: int, content: bytes, attributes: dict[str, bytes] | None) -> bytes:
    has = bool(attributes)
    made = _flags(kind, attributes=has, object_=has and "class" in (attributes or {}))
    return made + struct.pack(">i", length) + content + (_attributes(attributes) if has else b"")


def _attributes(attributes: dict[str, bytes] | None) -> bytes:
    return pairs(list((attributes or {}).items()))


def integers(values: Sequence[int], **attributes: bytes) -> bytes:
    """Make an integer vector."""
    return _vector(13, len(values), struct.pack(f">{len(values)}i", *values), attributes)


def doubles(values: Sequence[float], **attributes: bytes) -> bytes:
    """Make a vector of doubles."""
    return _vector(14, len(values), struct.pack(f">{len(values)}d", *values), attributes)


def strings(values: Sequence[str], **attributes: bytes) -> bytes:
    """Make a character vector."""
    return _vector(16, len(values), b"".join(map(char, values)), attributes)


def listing(items: dict[str, bytes] | Sequence[bytes], **attributes: bytes) -> bytes:
    """Make a list, named where it is given as a dictionary."""
    if isinstance(items, dict):
        attributes["names"] = strings(list(items))
        items = list(items.values())
    return _vector(19, len(items), b"".join(items), attributes)


def s4(name: str, package: str, **slots: bytes) -> bytes:
    """Make an S4 object."""
    slots["class"] = strings([name], package=strings([package]))
    return struct.pack(">i", 25 | 1 << 8 | 1 << 9 | 1 << 16) + _attributes(slots)


def call(function: str, *arguments: bytes) -> bytes:
    """Make a call, not evaluated."""
    return _flags(6) + symbol(function) + pairs([(None, argument) for argument in arguments])


def promise(mark: str) -> bytes:
    """Make a promise that leaves the mark when R evaluates it."""
    unbound, globalenv = struct.pack(">i", 252), struct.pack(">i", 253)
    return _flags(5, tag=True) + globalenv + unbound + call("file.create", strings([mark]))


def frame(n: int, columns: dict[str, bytes] | None = None) -> bytes:
    """Make a DataFrame of Bioconductor."""
    return s4(
        "DFrame",
        "S4Vectors",
        rownames=NULL,
        nrows=integers([n]),
        listData=listing(columns or {}),
        elementType=strings(["ANY"]),
        elementMetadata=NULL,
        metadata=listing([]),
    )


def dgc(
    i: Sequence[int] = (0, 1, 2),
    p: Sequence[int] = (0, 1, 2, 3),
    x: Sequence[float] = (1.0, 2.0, 3.0),
    dim: Sequence[int] = (4, 3),
) -> bytes:
    """Make a dgCMatrix, genes × observations."""
    return s4(
        "dgCMatrix",
        "Matrix",
        i=integers(i),
        p=integers(p),
        Dim=integers(dim),
        Dimnames=listing([NULL, NULL]),
        x=doubles(x),
        factors=listing([]),
    )


def experiment(assay: bytes | None = None, n: int = 3, **more: bytes) -> bytes:
    """Make a SingleCellExperiment of four genes and three observations."""
    parts = {
        "int_elementMetadata": frame(4, {"rowPairs": frame(4)}),
        "int_colData": frame(n, {"reducedDims": frame(n), "altExps": frame(n)}),
        "int_metadata": listing([]),
        "rowRanges": NULL,
        "colData": frame(n, {"total": doubles([1.0, 2.0, 3.0])} if n == 3 else {}),
        "assays": s4(
            "SimpleAssays",
            "SummarizedExperiment",
            data=s4(
                "SimpleList",
                "S4Vectors",
                listData=listing({"counts": assay or dgc()}),
                elementType=strings(["ANY"]),
            ),
        ),
        "NAMES": NULL,
        "elementMetadata": frame(4),
        "metadata": listing([]),
        **more,
    }
    return s4("SingleCellExperiment", "SingleCellExperiment", **parts)


def open_lists(depth: int) -> bytes:
    """Make a list in a list in a list."""
    return (_flags(19) + struct.pack(">i", 1)) * depth + NULL


def zeros(length: int) -> bytes:
    """Make an integer vector of nothing but zeros."""
    return _flags(13) + struct.pack(">i", length) + bytes(4 * length)


def rds(content: bytes) -> Maker:
    """Write an ``.rds``."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".rds")
        path.write_bytes(gzip.compress(HEADER + content))
        return path

    return make


def rda(content: bytes) -> Maker:
    """Write an ``.rda`` with one object, x."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".rda")
        path.write_bytes(gzip.compress(b"RDX3\n" + HEADER + pairs([("x", content)])))
        return path

    return make
