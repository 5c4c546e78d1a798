"""A few of the objects of `tests.fuzz_run`; `make test-all` takes 10,000."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import fuzz_run


@pytest.mark.filterwarnings("ignore")  # they are judged one by one
@pytest.mark.parametrize("number", [*range(30), 1707, 1724, 3617, 6702])
def test_objects_of_all_kinds(number: int, tmp_path: Path) -> None:
    outcome, wrong, kinds = fuzz_run.check(number, tmp_path)
    assert not wrong, f"{outcome}, {kinds}"
