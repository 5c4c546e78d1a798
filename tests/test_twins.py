"""What Python and R both know stands in one file, which is what Python has."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from tests import twins

from m2st import AutoencoderParams, ClusteringParams
from m2st.paper import DualParams


def test_the_file_is_what_python_has() -> None:
    found = twins.FILE.read_text(encoding="utf-8")
    assert json.loads(found) == json.loads(json.dumps(twins.shared())), (
        "Run `python -m tests.twins`, and make R agree."
    )
    assert found == twins.as_text()


@pytest.mark.parametrize("cls", [AutoencoderParams, ClusteringParams, DualParams])
def test_every_setting_has_a_range(
    cls: type[AutoencoderParams | ClusteringParams | DualParams],
) -> None:
    assert list(cls.ranges) == [field.name for field in fields(cls)]
