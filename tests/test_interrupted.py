"""A few kills, interrupts and full disks; ``python -m tests.interrupted 100`` does more of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.interrupted import disk


@pytest.mark.slow
@pytest.mark.dist
def test_nothing_is_half_written_and_all_goes_on() -> None:
    try:
        with disk(1):
            pass
    except PermissionError as error:
        pytest.skip(str(error))
    found = subprocess.run(
        [sys.executable, "-m", "tests.interrupted", "5"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("went on to the same bytes 5") == 10
