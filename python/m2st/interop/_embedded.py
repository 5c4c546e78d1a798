"""R inside this process, through the lowest layer of rpy2: calls, and vectors both ways."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2st._checks import importing, warn
from m2st.interop._nodes import NA_INTEGER, NULL, Node

_INSTALL = "pip install 'm2st[r]'"
_KINDS = {
    "NULLType": "null",
    "BoolSexpVector": "logical",
    "IntSexpVector": "integer",
    "FloatSexpVector": "double",
    "StrSexpVector": "character",
    "ListSexpVector": "list",
    "SexpS4": "S4",
}
# Where R keeps the values of a vector, and what they are.
_VALUES: dict[str, tuple[str, np.dtype[Any]]] = {
    "logical": ("LOGICAL", np.dtype(np.int32)),
    "integer": ("INTEGER", np.dtype(np.int32)),
    "double": ("REAL", np.dtype(np.float64)),
}
_LIBRARIES = "LD_LIBRARY_PATH"


class _Session:
    """The R of this process, with our own functions loaded into an environment of their own."""

    def __init__(self, rinterface: ModuleType) -> None:
        self.ri = rinterface
        self.base = rinterface.baseenv
        source = resources.files("m2st.interop").joinpath("build.R").read_text(encoding="utf-8")
        self.functions = self.base["new.env"](parent=rinterface.globalenv)
        self.base["eval"](rinterface.parse(source), self.functions)


@functools.cache
def _start() -> _Session:
    """Start R, or say what is missing."""
    with importing("rpy2", "Converting R objects", _INSTALL):
        import rpy2.situation
    home = rpy2.situation.get_r_home()
    # R ends the process if it finds no base package where it is told to look.
    if home is None or not (Path(home) / "library" / "base").is_dir():
        msg = (
            f"Converting R objects needs R, which was not found (R home: {home or 'none'}). "
            "Install it (`apt install r-base-core`, or from cran.r-project.org) and see that `R` "
            "is on the PATH."
        )
        raise ImportError(msg)
    libraries = os.environ.get(_LIBRARIES)
    try:
        import rpy2.rinterface as ri

        ri.initr()
    except Exception as error:
        name = "rpy2-rinterface"
        msg = (
            f"{name} {version(name)} does not load with the R at {home} ({error}). For R before "
            f"4.5: `pip install --no-cache-dir '{name}<3.6.6'`; else update R, or install {name} "
            "again, so that it is built for this R."
        )
        raise ImportError(msg) from error
    finally:
        # R's folders of libraries would reach processes that Python starts, which may then load
        # another libpython than their own.
        if libraries is None:
            os.environ.pop(_LIBRARIES, None)
        else:
            os.environ[_LIBRARIES] = libraries
    return _Session(ri)


def session() -> _Session:
    """R, started if need be.

    Raises
    ------
    ImportError
        rpy2 or R is missing, or they do not fit together.
    RuntimeError
        This is not the main thread: R has one stack, and dies when two threads share it.
    """
    if threading.current_thread() is not threading.main_thread():
        msg = (
            "Expected a call from the main thread, found "
            f"{threading.current_thread().name!r}: R runs in one thread only. Convert in the main "
            "thread and hand the AnnData over, or read the file with `method='rds2py'`."
        )
        raise RuntimeError(msg)
    return _start()


def call(function: str, *arguments: Any) -> Any:
    """Call one of the functions of ``build.R``; warnings of R become Python's.

    Raises
    ------
    ImportError
        A package of R is missing; says which, and how to install it.
    RuntimeError
        R raised an error: its own message.
    """
    r = session()
    outcome = r.functions["answer"](r.functions[function], r.ri.ListSexpVector(arguments))
    value, said, error = outcome
    for text in dict.fromkeys(said):
        warn(f"R: {text}")
    if not isinstance(error, type(r.ri.NULL)):
        text, *classes = error
        if "packageNotFoundError" in classes:
            package, _, how = text.partition(" ")
            msg = (
                f"This needs the R package {package}, which is not installed. In R: "
                f'`{how}("{package}")`.'
            )
            raise ImportError(msg)
        msg = f"R: {text.strip()}"
        raise RuntimeError(msg)
    return value


class RNode(Node):
    """A value that lives in R."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.kind = _KINDS.get(type(value).__name__, "other")

    @property
    def attributes(self) -> Sequence[str]:
        """Names of the attributes."""
        found = session().base["attributes"](self.value)
        return () if RNode(found).is_null else tuple(found.names)

    def attribute(self, name: str) -> Node:
        """Return an attribute, null where there is none."""
        r = session()
        found = RNode(r.base["attr"](self.value, r.ri.StrSexpVector([name]), exact=True))
        # A slot that is NULL holds a symbol in its place.
        return NULL if found.kind == "null" or found.value.typeof == 1 else found

    def numbers(self) -> NDArray[Any]:
        """Copy the values."""
        return _view(self.value, self.kind).copy()

    def strings(self) -> NDArray[np.object_]:
        """Return the values, None where missing."""
        found, codes = call("distinct", self.value)
        missing = session().ri.NA_Character
        distinct = np.empty(len(found), dtype=object)
        distinct[:] = [None if text is missing else text for text in found]
        values: NDArray[np.object_] = distinct[RNode(codes).numbers()]
        return values

    def items(self) -> list[Node]:
        """Return the elements."""
        return [NULL if (node := RNode(item)).kind == "null" else node for item in self.value]

    def outlines(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Take a list of sp's Polygons apart, in one call of R."""
        names, counts, corners = (RNode(part) for part in call("outlines", self.value))
        points = corners.numbers().astype(np.float64).reshape(-1, 2, order="F")
        return names.strings().tolist(), counts.numbers().astype(np.int64), points

    def as_sparse(self) -> Node:
        """Return the matrix as R converts it."""
        return RNode(call("asSparse", self.value))


def _view(vector: Any, kind: str) -> NDArray[Any]:
    """Values of a vector where R keeps them, to be read or written.

    rpy2's own memoryview gives up a reference to None at each call, and some hundred of them end
    Python 3.11.
    """
    from rpy2.rinterface_lib import openrlib

    pointer, dtype = _VALUES[kind]
    if not len(vector):
        return np.empty(0, dtype)
    start = getattr(openrlib.rlib, pointer)(vector.__sexp__._cdata)
    held = openrlib.ffi.buffer(start, len(vector) * dtype.itemsize)
    view: NDArray[Any] = np.frombuffer(held, dtype)
    return view


def null() -> Any:
    """R's NULL."""
    return session().ri.NULL


def numeric(values: NDArray[Any], kind: str, missing: NDArray[np.bool_] | None = None) -> Any:
    """Make a logical, integer or double vector, with R's NA where missing."""
    r = session()
    made = r.base["vector"](r.ri.StrSexpVector([kind]), r.ri.FloatSexpVector([values.size]))
    target = _view(made, kind)
    target[:] = values.ravel(order="F")
    if missing is not None:
        target[missing] = r.ri.NA_Real if kind == "double" else NA_INTEGER
    return made


def strings(
    values: Sequence[str | None] | NDArray[Any], codes: NDArray[np.int32] | None = None
) -> Any:
    """Make a character vector, with R's NA for None; `codes` choose from `values`, -1 missing."""
    r = session()
    if codes is None:
        found: dict[str | None, int] = {}
        codes = np.array([found.setdefault(v, len(found)) for v in values], dtype=np.int32)
        values = list(found)
    distinct = r.ri.StrSexpVector([r.ri.NA_Character if v is None else v for v in values])
    return call("repeated", distinct, numeric(codes + 1, "integer", missing=codes < 0))


def listing(items: Mapping[str, Any] | Sequence[Any], names: Sequence[str] | None = None) -> Any:
    """Make a list, named where `items` is a mapping or `names` are given."""
    r = session()
    if isinstance(items, Mapping):
        items, names = list(items.values()), list(items)
    made = r.ri.ListSexpVector(items)
    if names is not None:
        made.names = strings(names)
    return made


def with_shape(vector: Any, shape: Sequence[int]) -> Any:
    """Give a new vector dimensions, in place."""
    vector.do_slot_assign("dim", numeric(np.array(shape), "integer"))
    return vector


def factor(codes: NDArray[Any], levels: Sequence[str | None], *, ordered: bool) -> Any:
    """Make a factor; codes start at 0, -1 is missing."""
    made = numeric(codes + 1, "integer", missing=codes < 0)
    made.do_slot_assign("levels", strings(levels))
    made.rclass = strings(["ordered", "factor"] if ordered else ["factor"])
    return made
