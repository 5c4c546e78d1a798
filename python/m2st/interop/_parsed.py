"""Files of R objects without R, through the parser of rds2py."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2st._checks import importing
from m2st._trust import check_r, check_size
from m2st.interop._nodes import NULL, Node, Skipped

_KINDS = {"boolean": "logical", "string": "character", "vector": "list"}
_OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_OLD = re.compile(rb"(RDX2\n)?X\n\0\0\0\x02(.{8})(.*)", re.DOTALL)
_HINT = (
    "If you trust where it comes from, read it through R: `method='r'`, or `--trust` on the "
    "command line; that needs R and `pip install 'm2st[r]'`. R before 4.4 runs what a crafted file "
    "tells it to (CVE-2024-27322)."
)


class ParsedNode(Node):
    """A value in a parsed file."""

    def __init__(self, value: Any) -> None:
        self.value = value
        kind = value.get_rtype()
        self.kind = _KINDS.get(kind, kind)

    @property
    def attributes(self) -> Sequence[str]:
        """Names of the attributes."""
        if self.kind in {"null", "symbol", "other"}:
            return ()
        own = list(self.value.get_attribute_names())
        return [*own, "class"] if self.kind == "S4" and "class" not in own else own

    @property
    def classes(self) -> tuple[str, ...]:
        """Class of the object, which rds2py keeps apart for S4."""
        if self.kind == "S4":
            return (self.value.get_class_name(),)
        return super().classes

    def attribute(self, name: str) -> Node:
        """Return an attribute, null where there is none."""
        if self.kind in {"null", "symbol", "other"} or name not in self.value.get_attribute_names():
            return NULL
        found = ParsedNode(self.value.load_attribute_by_name(name))
        # A slot that is NULL holds a symbol in its place.
        return NULL if found.kind in {"null", "symbol"} else found

    def numbers(self) -> NDArray[Any]:
        """Copy the values."""
        return np.array(self.value.get_numeric_data())

    def strings(self) -> NDArray[np.object_]:
        """Return the values, None where missing."""
        values = self.value.get_string_arr()
        made = np.empty(len(values), dtype=object)
        made[:] = values
        return made

    def items(self) -> list[Node]:
        """Return the elements."""
        found = (ParsedNode(self.value.load_vec_element(i)) for i in range(self.value.get_rsize()))
        return [NULL if node.kind in {"null", "symbol"} else node for node in found]

    def outlines(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Take a list of sp's Polygons apart."""
        names, counts, corners = [], [], [np.empty((0, 2))]
        for polygons in self.items():
            parts = [
                part.attribute("coords").numbers().reshape(-1, 2, order="F")
                for part in polygons.attribute("Polygons").items()
            ]
            names.append(str(polygons.attribute("ID").text()))
            counts.append(sum(map(len, parts)))
            corners += parts
        return names, np.array(counts, dtype=np.int64), np.vstack(corners)

    def as_sparse(self) -> Node:
        """Only R knows how."""
        msg = f"of class {self.classes[0]}, which only R can read: use method='r'"
        raise Skipped(msg)


def read_objects(path: Path) -> dict[str, Node]:
    """Parse a file; the object of an ``.rds`` is called object.

    Raises
    ------
    ImportError
        rds2py is not installed.
    ValueError
        The file is damaged, or holds what the parser does not know.
    """
    with (
        importing("rds2py", "Reading R files without R", "pip install 'm2st[rds]'", _HINT),
        contextlib.redirect_stdout(io.StringIO()),  # it prints what else could be installed
    ):
        from rds2py.lib_rds_parser import RdaObject, RdsObject, RdsParserError
    try:
        with _plain(path) as file:
            check_r(file)
            if path.suffix.lower() == ".rds":
                return {"object": ParsedNode(RdsObject(str(file)).get_robject())}
            found = RdaObject(str(file))
            names = found.get_object_names()
            return {name: ParsedNode(found.get_object_by_name(name)) for name in names}
    except (RdsParserError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        reason = " ".join(str(error).split())
        msg = f"rds2py could not read {path} ({reason}). {_HINT}"
        raise ValueError(msg) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turn what goes wrong with an object that is not as R makes it into one line."""
    try:
        yield
    except (ImportError, MemoryError, OSError, RuntimeWarning, UserWarning):
        raise
    except Exception as error:
        if str(error).startswith(("Expected", "R: ")):  # said already
            raise
        deep = isinstance(error, RecursionError)
        reason = "its lists are too deep" if deep else " ".join(str(error).split())
        msg = (
            f"Expected whole objects of R in {path}, found them damaged "
            f"({reason or type(error).__name__}). Write the file again."
        )
        raise ValueError(msg) from error


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """Unpack into a temporary file, with the header as rds2py expects it."""
    with path.open("rb") as stream:
        start = stream.read(5)
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), open)
    n_bytes = path.stat().st_size
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name
        with opener(path, "rb") as packed, plain.open("wb") as stream:
            stream.write(_modern_header(packed.read(19)))
            while piece := packed.read(2**20):
                stream.write(piece)
                check_size(stream.tell(), n_bytes)
        yield plain


def _modern_header(header: bytes) -> bytes:
    """Turn the header of R before 3.5 into that of today, which adds the native encoding."""
    found = _OLD.fullmatch(header)
    if found is None:
        return header
    mark, versions, rest = found.groups()
    modern = b"RDX3\n" if mark else b""
    return modern + b"X\n\0\0\0\x03" + versions + b"\0\0\0\x05UTF-8" + rest
