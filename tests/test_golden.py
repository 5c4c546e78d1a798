"""Golden results: see `tests.golden`, which writes the file that is read here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import golden

import m2st
from m2st.metrics import ari

STORED = json.loads(golden.FILE.read_text(encoding="utf-8"))


def compare(found: dict[str, Any], name: str) -> None:
    stored = STORED[name]
    assert ari(list(stored["domains"]), list(found["domains"])) > 0.99
    np.testing.assert_allclose(found["mean_confidence"], stored["mean_confidence"], atol=1e-3)
    if golden.this_platform() == STORED["platform"]:
        assert found["digests"] == stored["digests"]


@pytest.mark.parametrize("name", golden.INPUTS)
def test_python_keeps_its_results(name: str) -> None:
    compare(golden.summary(golden.in_python(name)), name)


@pytest.mark.parametrize("release", golden.RELEASES)
def test_a_release_keeps_its_defaults(release: str) -> None:
    """The labels of a release come from what it takes by default, written out."""
    compare(golden.summary(golden.as_in(release)), release)


def test_the_defaults_of_this_release_are_those_it_takes() -> None:
    """Until a release is out, its entry follows the defaults; then the next one gets its own."""
    release = ".".join(m2st.__version__.split(".")[:2])
    for n_domains in (7, 25):
        assert m2st.defaults(release, n_domains) == (
            m2st.AutoencoderParams(),
            m2st.ClusteringParams().for_domains(n_domains),
        )
    with pytest.raises(ValueError, match=r"Expected `release` .*0\.1.*, found '0\.0'"):
        m2st.defaults("0.0")


@pytest.mark.dist
def test_the_command_keeps_its_results(tmp_path: Path) -> None:
    compare(golden.summary(golden.on_the_command_line(tmp_path)), "command")


@pytest.mark.r
def test_r_keeps_its_results(tmp_path: Path) -> None:
    found = golden.in_r(tmp_path)
    compare(found, "R")
    assert found["domains"] == STORED["visium"]["domains"]
