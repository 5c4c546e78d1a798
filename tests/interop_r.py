"""R for the tests of the converters: its start, the stand-in for SpatialExperiment, the makers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
DOUBLE = HERE.parent / "rpackage" / "tests" / "testthat" / "doubles" / "SpatialExperiment"

# What the stand-in lacks: pictures, with the slots of the real classes.
IMAGE_CLASSES = """
setClass("VirtualSpatialImage", contains = "VIRTUAL")
setClass("LoadedSpatialImage", contains = "VirtualSpatialImage", slots = c(image = "ANY"))
setClass("StoredSpatialImage", contains = "VirtualSpatialImage", slots = c(path = "character"))
setClass("RemoteSpatialImage", contains = "VirtualSpatialImage", slots = c(url = "character"))
"""


class R:
    """The R of this process: functions of ``interop.R``, and code, with plain arguments."""

    def __init__(self) -> None:
        from m2st.interop import _embedded

        self.low = _embedded
        self.ri = _embedded.session().ri
        self.functions = self.ri.baseenv["new.env"](parent=self.ri.globalenv)
        self.code((HERE / "interop.R").read_text(encoding="utf-8"))

    def code(self, text: str) -> Any:
        """Evaluate R code."""
        return self.ri.baseenv["eval"](self.ri.parse(text), self.functions)

    def call(self, function: str, *arguments: Any, **named: Any) -> Any:
        """Call a function of ``interop.R``, or an R function given as code."""
        known = function in list(self.functions.keys())
        callee = self.functions[function] if known else self.code(function)
        return callee(
            *(self.value(a) for a in arguments), **{k: self.value(v) for k, v in named.items()}
        )

    def value(self, value: Any) -> Any:
        """Turn a plain value into R's; R's own are kept."""
        if isinstance(value, bool):
            return self.low.numeric(np.array([value]), "logical")
        if isinstance(value, int):
            return self.low.numeric(np.array([value]), "integer")
        if isinstance(value, str):
            return self.low.strings([value])
        if isinstance(value, list):
            return self.low.strings(value)
        return value

    def texts(self, function: str, *arguments: Any) -> list[str]:
        """Call a function that returns strings."""
        return list(self.call(function, *arguments))


def version() -> tuple[int, int]:
    """Tell which R this is."""
    from m2st.interop import _embedded

    ri = _embedded.session().ri
    found = ri.baseenv["eval"](ri.parse("as.integer(unlist(getRversion()))"))
    return found[0], found[1]


def start(library: Path) -> R:
    """Start R, with the real SpatialExperiment if there is one, else the stand-in."""
    pytest.importorskip("rpy2", reason="rpy2 is not installed: pip install 'm2st[r]'")
    if shutil.which("R") is None:
        pytest.skip("R is not installed")
    r = R()
    has = r.code('requireNamespace("SpatialExperiment", quietly = TRUE)')[0]
    if not has:
        source = library / "source"
        shutil.copytree(DOUBLE, source)
        with (source / "R" / "class.R").open("a") as stream:
            stream.write(IMAGE_CLASSES)
        with (source / "NAMESPACE").open("a") as stream:
            stream.write('exportClassPattern("SpatialImage$")\n')
        command = ["R", "CMD", "INSTALL", "--no-docs", f"--library={library}", str(source)]
        subprocess.run(command, check=True, capture_output=True)
        r.call("function(path) .libPaths(c(path, .libPaths()))", str(library))
    r.code('loadNamespace("SpatialExperiment")')
    version = r.code('as.character(packageVersion("SpatialExperiment"))')[0]
    kind = "the stand-in" if version == "0.0.0.9000" else f"the real package, {version}"
    print(f"SpatialExperiment: {kind}")  # noqa: T201
    return r
