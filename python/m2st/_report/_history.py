"""The record of a run: training, weights, members, the choice of a number, and all its entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st._record import only_common

_ORDER = ("prepare", "graph", "embed", "n_domains", "cluster")
"""Entries of the record in the order in which they were made."""


def _matrix(record: Mapping[str, Any], values: Any) -> NDArray[np.float64]:
    """A row for each member; R keeps a column of numbers as a row."""
    rows = np.asarray(values, dtype=np.float64)
    return rows.reshape(int(record.get("n_members", 1)), -1)


def _losses(record: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """Loss of each member and epoch."""
    loss = record.get("embed", {}).get("loss")
    return [] if loss is None else [row[~np.isnan(row)] for row in _matrix(record, loss)]


def _scale_names(record: Mapping[str, Any], n_weights: int) -> list[str]:
    """Names of the scales, with their widths, and of what they share."""
    embed = record.get("embed", {})
    params = embed.get("params", {})
    widths = np.ravel(params.get("scale_dims", [])).tolist()
    there = {"averages": params.get("average_hops"), "cell types": "cell_types" in embed}
    beside = [*(name for name, so in there.items() if so), "common"]
    names = [f"scale {number}" for number in range(1, n_weights - len(beside) + 1)]
    if len(widths) == len(names):
        names = [f"{name} ({int(width)})" for name, width in zip(names, widths, strict=True)]
    return [*names, *beside]


def describe_training(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Chart of the loss, and how the training ended."""
    losses = [loss for loss in _losses(record) if len(loss)]
    if not losses:
        return None
    embed = record["embed"]
    cosine = not pd.isna(embed.get("params", {}).get("loss_exponent"))
    chart = _chart([(np.arange(1, len(loss) + 1), loss) for loss in losses], from_zero=False)
    return {
        "chart": chart,
        "error": "scaled cosine error" if cosine else "mean squared error",
        "n_members": len(losses),
        "n_epochs": [len(loss) for loss in losses],
        "first": float(np.mean([loss[0] for loss in losses])),
        "last": float(np.mean([loss[-1] for loss in losses])),
        "stopped": str(embed.get("stopped", "")),
        "most": embed.get("params", {}).get("n_epochs"),
    }


def describe_weights(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Weight of each scale: mean, and each member's; whether they tell scales apart."""
    weights = record.get("cluster", {}).get("scale_weights")
    if weights is None:
        return None
    members = _matrix(record, weights)
    return {
        "scales": [
            {"name": name, "mean": float(column.mean()), "members": column.tolist()}
            for name, column in zip(_scale_names(record, members.shape[1]), members.T, strict=True)
        ],
        "only_common": only_common(members),
    }


def describe_members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each member: what the charts of loss and weights show, as numbers."""
    cluster = record.get("cluster", {})
    losses = _losses(record)
    agreement = np.ravel(cluster.get("agreement", [])).tolist()
    weights = _matrix(record, cluster.get("scale_weights", []))
    n_members = max(len(losses), len(agreement))
    return [
        {
            "n_epochs": len(losses[row]) if row < len(losses) else None,
            "loss": losses[row][-1] if row < len(losses) and len(losses[row]) else None,
            "agreement": agreement[row] if row < len(agreement) else None,
            "weights": weights[row].tolist() if row < len(weights) else [],
        }
        for row in range(n_members)
    ]


def describe_solutions(record: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """What is drawn of each of two solutions, in panels; None if there is one."""
    entry = record.get("cluster", {}).get("solutions")
    if entry is None:
        return None
    camps = np.ravel(entry["camps"])
    return [
        {
            "title": title,
            "members": f"{int((camps == camp).sum())} of {len(camps)} members",
            "layer": 0,
        }
        for camp, title in ((1, "First solution"), (2, "Second solution"))
    ]


def describe_choice(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Evidence for each number of domains, if it was looked for."""
    entry = record.get("n_domains")
    if entry is None:
        return None
    candidates = np.ravel(entry["candidates"]).astype(int)
    stability, gain, score = (
        np.ravel(entry.get(name, np.full(len(candidates), np.nan))).astype(float)
        for name in ("stability", "gain", "score")
    )
    chosen = int(entry["chosen"])
    chart = _chart([(candidates, stability), (candidates, score)], from_zero=True)
    return {
        "chart": chart,
        "mark": dict(
            zip(candidates.tolist(), (at for at, _ in chart["lines"][0]), strict=True)
        ).get(chosen),
        "rows": [
            (number, *(None if np.isnan(value) else value for value in values))
            for number, *values in zip(candidates.tolist(), stability, gain, score, strict=True)
        ],
        "chosen": chosen,
        "p_value": float(entry["p_value"]),
    }


def _chart(lines: list[tuple[NDArray[Any], NDArray[Any]]], *, from_zero: bool) -> dict[str, Any]:
    """Lines in a box of 1 × 1 from its upper left corner, and the ticks of both axes."""
    from matplotlib.ticker import MaxNLocator

    x, y = (np.concatenate([line[axis] for line in lines]).astype(float) for axis in (0, 1))
    low, high = (0.0, 1.0) if from_zero else (y.min(), y.max())
    pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-9)
    low, high = (low, high + pad) if from_zero else (low - pad, high + pad)
    width = max(x.max() - x.min(), 1e-9)

    def across(value: Any) -> Any:
        return (value - x.min()) / width if x.max() > x.min() else value * 0 + 0.5

    def down(value: Any) -> Any:
        return 1 - (value - low) / (high - low)

    x_ticks = MaxNLocator(nbins=8, integer=True).tick_values(x.min(), x.max())
    y_ticks = MaxNLocator(nbins=5).tick_values(low, high)
    return {
        "lines": [
            [
                (float(across(u)), float(down(v)))
                for u, v in zip(line_x.astype(float), line_y.astype(float), strict=True)
            ]
            for line_x, line_y in lines
        ],
        "x_ticks": [(float(across(t)), f"{t:g}") for t in x_ticks if x.min() <= t <= x.max()],
        "y_ticks": [(float(down(t)), f"{t:.3g}") for t in y_ticks if low <= t <= high],
    }


def list_steps(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The record as rows of name and value, grouped by the step of the run."""
    steps: list[tuple[str, list[tuple[str, str]]]] = []
    loose = {key: value for key, value in record.items() if not isinstance(value, Mapping)}
    names = [*(name for name in _ORDER if name in record), *(n for n in record if n not in _ORDER)]
    for name, entry in [("run", loose), *((name, record[name]) for name in names)]:
        if isinstance(entry, Mapping) and entry:
            steps.append((str(name), _flat(entry)))
    return steps


def run_in_words(record: Mapping[str, Any]) -> str:
    """Versions, seed and device of a run in a sentence."""
    embed = record.get("embed", {})
    parts = [f"{name} {version}" for name, version in embed.get("versions", {}).items()]
    parts += [f"seed {embed['random_state']}"] if "random_state" in embed else []
    parts += [f"on {embed['device']}"] if "device" in embed else []
    return f"Run with {', '.join(parts)}." if parts else ""


def _flat(entry: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of dotted name and text."""
    rows = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: Any) -> str:
    """Value of the record as text: numbers in full, long arrays by their shape."""
    if isinstance(value, np.ndarray | list | tuple):
        values = np.asarray(value, dtype=object) if isinstance(value, tuple) else np.array(value)
        if values.size > 12:
            shape = " × ".join(map(str, values.shape))
            return f"{shape} values"
        return ", ".join(_text(item) for item in values.ravel().tolist())
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)
