"""Every block of code in the README, on the pages of the site and in the vignettes runs.

A block that cannot run here has a comment above it, `skip: next`, which says why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest import SkipTest

import pytest
import sybil
from matplotlib import pyplot
from sybil.parsers.myst import CodeBlockParser, SkipParser

import m2st

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("vignettes/*.md")]
)
ALWAYS = ("README.md", "vignettes/quickstart.md")
"""Pages that run in `make test`; the others are slow."""
NOT_RUN = {
    "docs/cluster.md": 7,
    "docs/guide/large.md": 2,
    "docs/guide/viewers.md": 2,
    "README.md": 2,
    "vignettes/annotate.md": 1,
    "vignettes/million.md": 2,
    "vignettes/paper.md": 1,
    "vignettes/sections.md": 1,
    "vignettes/spatiallibd.md": 3,
}
"""How many blocks of a page are marked as not run here."""

# What the README takes for granted: the user's own objects, of a few spots in seven layers.
OBJECTS = """
set.seed(1)
meta <- expand.grid(row = 1:15, col = 1:14)
rownames(meta) <- paste0("spot", seq_len(nrow(meta)))
meta$layer <- factor((meta$col + 1) %/% 2)
rates <- outer(1:70, as.integer(meta$layer), function(gene, k) ifelse(gene %% 7 + 1 == k, 6, 1))
counts <- matrix(rpois(length(rates), rates), 70)
dimnames(counts) <- list(paste0("gene", 1:70), rownames(meta))
counts <- Matrix::Matrix(counts, sparse = TRUE)
seurat <- SeuratObject::CreateSeuratObject(counts, meta.data = meta)
spe <- SingleCellExperiment::SingleCellExperiment(
    list(counts = counts), colData = S4Vectors::DataFrame(meta)
)
"""


def run_python(example: sybil.Example) -> None:
    """Run a block in the page's namespace; commands to the notebook are left out."""
    source = re.sub(r"^%", "# %", example.parsed, flags=re.MULTILINE)
    exec(compile(source, example.path, "exec"), example.namespace)


def run_bash(example: sybil.Example) -> None:
    """Run a block with the package's command."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    call(["bash", "-euc", example.parsed], env=os.environ | {"PATH": path})


def run_r(example: sybil.Example) -> None:
    """Run a block in an R that has the user's objects."""
    packages = ("m2st", "SeuratObject", "SingleCellExperiment", "ggplot2")
    lacking = [name for name in packages if not has_r_package(name)]
    if lacking:
        pytest.skip(f"R, or its package {lacking[0]}, is not installed: make install-r")
    Path("block.R").write_text(OBJECTS + example.parsed, encoding="utf-8")
    call(["Rscript", "block.R"], env=os.environ | {"RETICULATE_PYTHON": sys.executable})


def call(command: list[str], env: dict[str, str]) -> None:
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@cache
def has_r_package(name: str) -> bool:
    """Whether there is an R that has a package."""
    if shutil.which("Rscript") is None:
        return False
    code = f"quit(status = !requireNamespace('{name}', quietly = TRUE))"
    return subprocess.run(["Rscript", "-e", code], capture_output=True, check=False).returncode == 0


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the files that pages name; figures are drawn, but shown to nobody."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", lambda: None)
    shutil.copy(ROOT / "tests" / "data" / "spatial_experiment.rds", "section.rds")
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=150, n_genes=100), Path("your_data.h5ad"))
    yield
    pyplot.close("all")


def marked(page: str) -> object:
    """A page as a parameter, with the marks of what it needs."""
    marks = [] if page in ALWAYS else [pytest.mark.slow]
    if re.search("^```(r|bash)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE):
        marks += [pytest.mark.r, pytest.mark.dist]
    return pytest.param(page, marks=marks)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
@pytest.mark.usefixtures("workplace")
@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # scanpy, on newer matplotlib
@pytest.mark.filterwarnings("ignore:R. Assays of Seurat before version 5")  # what Debian has
@pytest.mark.filterwarnings("ignore:Section:UserWarning")  # small ones may keep their own domains
# As may be, on few observations.
@pytest.mark.filterwarnings("ignore:Two solutions:UserWarning")
@pytest.mark.filterwarnings("ignore:.*hardly any observations:UserWarning")
def test_blocks_run(page: str) -> None:
    evaluators = {"python": run_python, "bash": run_bash, "r": run_r}
    parsers = [CodeBlockParser(language, evaluator) for language, evaluator in evaluators.items()]
    not_run = []
    for example in sybil.Sybil([*parsers, SkipParser()]).parse(ROOT / page).examples():
        try:
            example.evaluate()
        except SkipTest as reason:
            not_run.append(str(reason))
    assert len(not_run) == NOT_RUN.get(page, 0), not_run


def test_departures_name_sections_of_the_notebook() -> None:
    page = (ROOT / "docs/departures.md").read_text(encoding="utf-8").replace("\n", " ")
    notebook = (ROOT / "benchmarks/NOTEBOOK.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^## (.*)$", notebook, re.MULTILINE))
    evidence = re.findall(r"\(((?:\*[^*]+\*|; |, |Table)+)\)", page)
    named = {name for names in evidence for name in re.findall(r"\*([^*]+)\*", names)}
    assert len(named) > 5
    assert named <= sections


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_of_a_kind_that_runs(page: str) -> None:
    """Text in a fence that no test would look at is no code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    kinds = set(re.findall(r"^ *```(\S.*)$", text, re.MULTILINE))
    code = {"python", "{code-cell} python", "bash", "r"}
    directives = {
        kind for kind in kinds if re.match(r"\{(eval-rst|include|toctree|warning)\}", kind)
    }
    assert kinds <= code | directives
