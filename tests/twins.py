"""What Python and R both know, as one file: written from Python, read by the tests of both.

R takes the ranges and defaults of the settings from it. ``python -m tests.twins`` writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2st import AutoencoderParams, ClusteringParams, _checks, _sections, interop, paper
from m2st._plotting import MISSING_COLOR, palette, spot_shape
from m2st.interop._seurat import _read

FILE = Path(__file__).parents[1] / "rpackage" / "inst" / "extdata" / "shared.json"


def settings(defaults: AutoencoderParams | ClusteringParams | paper.DualParams) -> dict[str, Any]:
    """Default and range of each setting; an end that is None is infinite."""
    found = {}
    for field in fields(defaults):
        one, default = defaults.ranges[field.name], getattr(defaults, field.name)
        default = list(default) if isinstance(default, tuple) else default
        found[field.name] = {"default": default, "kind": one.kind, "none": one.none}
        if one.kind == "choice":
            found[field.name]["choices"] = list(one.choices)
        elif one.kind != "flag":
            found[field.name] |= {
                "low": one.low,
                "high": one.high if np.isfinite(one.high) else None,
                "closed": list(one.closed),
                "several": one.several,
            }
    return found


def places() -> dict[str, NDArray[np.float64]]:
    """Places of spots of each kind."""
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(9.0), np.arange(8.0)))
    hexagonal = 100 * np.column_stack([column + 0.5 * (row % 2), row * np.sqrt(0.75)])
    square = 8 * np.column_stack([column, row])
    turn = np.array([[np.cos(0.3), np.sin(0.3)], [-np.sin(0.3), np.cos(0.3)]])
    return {
        "hexagonal": hexagonal,
        "square": square,
        "square, turned": square @ turn,
        "square, stretched": square * [1, 1.1],
        "cells": np.random.default_rng(0).random((40, 2)),
        "line": np.column_stack([np.cumsum(np.arange(10.0)), np.zeros(10)]),
        "two": np.array([[0.0, 0.0], [0.0, 3.0]]),
        "one place": np.ones((3, 2)),
    }


def spots() -> list[dict[str, Any]]:
    """Worked examples: places, and how their spots are drawn."""
    found = []
    for name, points in places().items():
        points = points.round(6)
        size, square, angle = spot_shape(points)
        # Ten digits: sums of other libraries differ in the last ones.
        shape = {"size": float(f"{size:.10g}"), "square": square, "angle": round(angle, 10)}
        found.append({"name": name, "points": points.tolist(), **shape})
    return found


def shared() -> dict[str, Any]:
    """All that the file holds."""
    return {
        "settings": {
            "autoencoder": settings(AutoencoderParams()),
            "clustering": settings(ClusteringParams()),
            "paper_autoencoder": settings(paper.AUTOENCODER),
            "paper_clustering": settings(paper.DualParams()),
        },
        "colours": {"first": palette(30), "missing": MISSING_COLOR},
        "spots": spots(),
        "coordinate_columns": [list(names) for names in interop._COORDINATE_COLUMNS],
        "result_names": {
            "pattern": _checks._NAME.pattern,
            "reserved": _checks._NO_NAME.pattern,
        },
        "section_columns": {"pattern": _sections._COLUMN.pattern},
        "raw_assays": list(_read._RAW_ASSAYS),
    }


def as_text() -> str:
    """The file as it should be, with a line for each entry."""
    lines = []
    for part, value in shared().items():
        items = value.items() if isinstance(value, dict) else enumerate(value)
        entries = []
        for key, entry in items:
            name = f"{json.dumps(key)}: " if isinstance(value, dict) else ""
            if part == "settings":
                inner = (f"   {json.dumps(one)}: {json.dumps(rule)}" for one, rule in entry.items())
                entries.append(f"  {name}{{\n" + ",\n".join(inner) + "\n  }")
            else:
                entries.append(f"  {name}{json.dumps(entry)}")
        ends = "{}" if isinstance(value, dict) else "[]"
        lines.append(f" {json.dumps(part)}: {ends[0]}\n" + ",\n".join(entries) + f"\n {ends[1]}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(as_text(), encoding="utf-8")
