"""What packages the project elsewhere says the same as pyproject.toml and the Makefile."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import pytest
import yaml

import m2st

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
# What conda-forge calls otherwise.
ON_CONDA = {
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
    "torch-geometric": "pytorch_geometric",
}


@pytest.fixture(autouse=True)
def repository() -> None:
    if not PACKAGING.is_dir():
        pytest.skip("not in the sdist")


def steps(workflow: str) -> list[str]:
    """Commands of a workflow."""
    content = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())
    jobs: list[dict[str, Any]] = list(content["jobs"].values())
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_the_recipe_of_conda_has_the_same_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = jinja2.Template((PACKAGING / "conda" / "meta.yaml").read_text()).render(PYTHON="python")
    recipe = yaml.safe_load(text)
    wanted = {"python " + project["requires-python"]}
    for one in project["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", one).groups()  # type: ignore[union-attr]
        wanted.add(f"{ON_CONDA.get(name, name)} {bounds}")
    assert set(recipe["requirements"]["run"]) == wanted
    assert recipe["package"]["version"] == m2st.__version__


def test_versions_are_the_same() -> None:
    for name, pattern in (
        ("nextflow/main.nf", 'container "m2st:{}"'),
        ("nextflow/environment.yml", "conda-forge::m2st={}"),
        ("galaxy/m2st_run.xml", '<token name="@TOOL_VERSION@">{}</token>'),
        ("../rpackage/DESCRIPTION", "Version: {}\n"),
    ):
        assert pattern.format(m2st.__version__) in (PACKAGING / name).read_text(), name


def test_r_universe_finds_the_package() -> None:
    (found,) = json.loads((PACKAGING / "r-universe" / "packages.json").read_text())
    assert f"Package: {found['package']}\n" in (ROOT / found["subdir"] / "DESCRIPTION").read_text()


@pytest.mark.parametrize("workflow", ["check.yml", "release.yml"])
def test_targets_of_the_workflows_are_there(workflow: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / ".github" / "workflows" / workflow).read_text()
    targets = set(re.findall(r"^\s*make ([\w-]+)$", "\n".join(steps(workflow)), re.MULTILINE))
    targets |= set(re.findall(r"target: \[?([\w-]+)", text))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_option_of_the_tools_is_one_of_the_command() -> None:
    source = (ROOT / "python" / "m2st" / "cli.py").read_text()
    known = set(re.findall(r'"(--[\w-]+)"', source))
    parameters = re.findall(r"^    (\w+): ", source, re.MULTILINE)
    known |= {f"--{name.replace('_', '-')}" for name in parameters}
    tool = ElementTree.parse(PACKAGING / "galaxy" / "m2st_run.xml").getroot()
    for text in ((PACKAGING / "nextflow" / "main.nf").read_text(), tool.findtext("command") or ""):
        used = set(re.findall(r" (--[\w-]+)", text))
        assert used
        assert used <= known
