"""Rules that hold for the package as a whole."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

import m2st
from m2st import _keys

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "m2st"

# A module may import those of its own layer's list only, at the top or inside a function.
BASE = {"_keys", "_checks", "_files", "_params", "_record", "_tensors", "_gene_names"}
CORE = {
    "_cell_types",
    "_nn",
    "_clustering",
    "_ensemble",
    "_features",
    "_graph",
    "_guided",
    "_sections",
    "_registration",
    "_composition",
}
SHELL = {"pp", "tl", "pl", "io", "datasets", "metrics"}
MAY_IMPORT = {
    "_keys": set(),
    "_checks": {"_keys", "_files"},
    "_files": set(),
    "_gene_names": set(),
    "_params": {"_checks"},
    "_defaults": BASE,
    "_trust": set(),
    "_trial": set(),
    "_record": {"_keys"},
    "_tensors": {"_files"},
    "_plotting": BASE | {"_graph"},
    "_nn": BASE,
    "_clustering": BASE,
    "_cell_types": BASE | {"_graph"},
    "_ensemble": BASE | {"_clustering", "_nn"},
    "_features": BASE,
    "_graph": BASE,
    "_guided": BASE | {"_graph"},
    "_sections": BASE | {"_graph"},
    "_naming": BASE | CORE,
    "_nested": BASE | CORE | {"_naming"},
    "_registration": BASE | {"_features"},
    "_composition": BASE,
    "_by_section": BASE | CORE | {"_naming"},
    "interop": BASE | {"_trust"},
    **{name: BASE | CORE for name in SHELL},
    "tl": BASE | CORE | {"_by_section", "_naming", "_nested"},
    "pl": BASE | CORE | {"_by_section", "_plotting"},
    "pp": BASE | CORE | {"_plotting"},
    "_stores": BASE,
    "_outlines": BASE | {"_graph"},
    "_export": BASE | {"_outlines", "_plotting"},
    "_readers": BASE | {"_trust"},
    "io": BASE | {"interop", "_export", "_plotting", "_readers", "_stores", "_trust"},
    "datasets": BASE | {"interop", "io"},
    "_model": BASE | CORE | {"_plotting", "pp", "tl"},
    "_annotate": BASE | CORE | SHELL | {"_model", "_plotting"},
    "paper": BASE | CORE | {"_model", "_run", "pp"},
    "_run": BASE | CORE | SHELL | {"_model", "_plotting"},
    "compare": BASE | SHELL | {"bridge"},
    "_report": BASE | {"_by_section", "_plotting", "_sections"},
    "cli": BASE | CORE | SHELL | {"_export", "_model", "_run", "interop", "m2st"},
    "bridge": BASE | CORE | SHELL | {"_annotate", "_model", "_report", "_run", "m2st", "paper"},
}
# A room is a module or a folder: what is in a folder may import the folder's other modules, too.
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
ROOMS = {path: path.parts[0].removesuffix(".py") for path in FILES if path.name != "__init__.py"}
PUBLIC = [m2st.pp, m2st.tl, m2st.pl, m2st.paper, m2st.io, m2st.interop, m2st.datasets, m2st.metrics]


def imported(path: Path) -> set[str]:
    """Modules of this package that a module imports."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "m2st"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "m2st":
            if node.module == "m2st":
                found |= {alias.name for alias in node.names}
            else:
                found.add((node.module or "").split(".")[1])
    return found - {"__version__"}


@pytest.mark.parametrize("path", ROOMS, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    assert imported(path) <= MAY_IMPORT[ROOMS[path]] | {ROOMS[path]}


def packages(path: Path) -> set[str]:
    """Packages that a module imports anywhere."""
    text = (PACKAGE / path).read_text()
    return set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))


def test_only_interop_knows_r() -> None:
    for path, room in ROOMS.items():
        # What tries a file runs apart, and loads nothing of ours.
        known = room in {"interop", "_trial"}
        assert known or not packages(path) & {"rpy2", "rds2py"}, path


def test_only_the_shell_knows_anndata_and_only_the_core_torch() -> None:
    for path, room in ROOMS.items():
        # scanpy chooses genes, for which it wants an AnnData.
        if room in (CORE | BASE) - {"_features"}:
            assert not packages(path) & {"anndata", "scanpy"}, path
        if room not in {"_nn", "bridge"}:
            assert "torch" not in packages(path), path


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    declared = {re.split(r"[^\w.-]", one)[0].lower() for one in required}
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add((node.module or "").split(".")[0])
    # BANKSY is compared with, not built on: whoever wants it is told what to install.
    found -= {"m2st", "banksy", "banksy_utils", *sys.stdlib_module_names}
    providers = packages_distributions()
    missing = {
        name
        for name in found
        if not declared
        & {one.lower().replace("_", "-") for one in (name, *providers.get(name, []))}
    }
    assert missing == set()


def test_no_function_of_r_hides_another() -> None:
    text = "\n".join(path.read_text() for path in (ROOT / "rpackage" / "R").glob("*.R"))
    names = re.findall(r"^([\w.]+) <- function", text, re.MULTILINE)
    assert [name for name in set(names) if names.count(name) > 1] == []


@pytest.mark.parametrize(
    "path", [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")], ids=lambda path: path.name
)
def test_scripts_import_what_there_is(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "m2st":
            module = importlib.import_module(node.module or "")
            missing = [one.name for one in node.names if not hasattr(module, one.name)]
            assert missing == [], node.module


def test_import_is_light_and_changes_nothing() -> None:
    code = (
        "import logging, random, sys, warnings;"
        "before = (list(warnings.filters), random.getstate(), logging.root.handlers[:]);"
        "import m2st;"
        "assert before == (list(warnings.filters), random.getstate(), logging.root.handlers[:]);"
        "heavy = {'torch', 'scanpy', 'anndata', 'numpy', 'matplotlib', 'numba', 'joblib'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy;"
        "m2st.AutoencoderParams();"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_all_public_names_load() -> None:
    for name in m2st.__all__:
        assert getattr(m2st, name) is not None


def documented_functions() -> list[tuple[str, object]]:
    functions = [
        (f"{module.__name__}.{name}", getattr(module, name))
        for module in PUBLIC
        for name in module.__all__
        if callable(getattr(module, name))
    ]
    more = [m2st.run, m2st.load, m2st.report, m2st.Model.apply, m2st.Model.save]
    return [*functions, *((f"m2st.{one.__qualname__}", one) for one in more)]


@pytest.mark.parametrize(("name", "function"), documented_functions())
def test_docstrings_match_signatures(name: str, function: object) -> None:
    text = inspect.getdoc(function) or ""
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n[A-Z][a-z]+\n-+\n|\Z)", text, re.DOTALL)
    listed = [] if section is None else re.findall(r"^(\w+(?:, \w+)*)$", section[1], re.MULTILINE)
    parameters = [one for line in listed for one in line.split(", ")]
    expected = list(inspect.signature(function).parameters)  # type: ignore[arg-type]
    assert parameters == [name for name in expected if name != "self"]


@pytest.mark.parametrize(
    "name",
    [
        "_params",
        "_clustering",
        "_graph",
        "_naming",
        pytest.param("_run", marks=pytest.mark.slow),  # at the defaults
        *(m.__name__[5:] for m in PUBLIC),
    ],
)
@pytest.mark.filterwarnings("ignore:Two solutions:UserWarning")  # as may be, on few observations
def test_examples_run(name: str) -> None:
    module: ModuleType = importlib.import_module(f"m2st.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_guide_lists_every_key() -> None:
    text = (ROOT / "docs" / "guide" / "slots.md").read_text()
    keys = [
        value
        for name, value in vars(_keys).items()
        if name.isupper() and isinstance(value, str) and name != "COORDINATES"
    ]
    missing = [key for key in keys if f'"{key}"' not in text]
    assert missing == []


def test_version_is_the_same_everywhere() -> None:
    for name in ("pyproject.toml", "CITATION.cff"):
        found = re.search(r"^version\s*[:=]\s*\"?([\d.]+)", (ROOT / name).read_text(), re.MULTILINE)
        assert found is not None
        assert found[1] == m2st.__version__, name
    assert f"## {m2st.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_vignettes_of_r_are_those_that_are_installed() -> None:
    sources = ROOT / "rpackage" / "vignettes"
    installed = ROOT / "rpackage" / "inst" / "doc"
    for source in sorted(sources.glob("*.Rmd")):
        copy = installed / source.name
        assert copy.read_text() == source.read_text(), f"{source.name} is newer: make vignettes"
        assert copy.with_suffix(".html").stat().st_size > 10_000
