"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def shared_data() -> Path:
    """Folder of real data sets; they are not part of the repository."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("M2ST_SHARED_DATA", default)).resolve()
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set M2ST_SHARED_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
