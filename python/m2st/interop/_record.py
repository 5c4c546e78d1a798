"""What one language knows and the other has no slot for, kept beside the data as one JSON text.

Going to Python, R's record (classes, names, order) lies in ``uns["m2st_r"]``; going to R, Python's
(types, keys) lies in ``metadata(x)$m2st_python`` or ``Misc(x, "m2st_python")``. Each is used up on
the way back, and written only if there is something to say. A part that no longer fits the data,
because it was changed in between, is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from m2st.interop._values import (
    kept_dtype,
    kept_type,
    restore_dtype,
    restore_type,
    unique_names,
)

FROM_R = "m2st_r"
"""``uns``: R's record."""

FROM_PYTHON = "m2st_python"
"""Metadata of the R object: Python's record."""

PARTS = r"scale\d+|averages|cell_types"
"""Pattern of what follows the name of a result in the names of its other embeddings."""

_ORIGINAL = "original_name"


def results(uns: Mapping[str, Any]) -> list[str]:
    """Names of the results of m2ST, by their records: the `key_added` of Python, `name` of R."""
    return [
        name
        for name, record in uns.items()
        if isinstance(record, Mapping) and "n_members" in record
    ]


def load(text: Any) -> dict[str, Any]:
    """Read a record; nothing where there is none."""
    return json.loads(text) if isinstance(text, str) else {}


def dump(record: Mapping[str, Any]) -> str | None:
    """Write a record without its empty parts; None if nothing is left."""
    kept = {key: value for key, value in record.items() if value not in ({}, [], None, False)}
    return json.dumps(kept, ensure_ascii=False) if kept else None


def table(
    columns: dict[str, Any], names: list[str] | None, n: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Make ``obs`` or ``var``; names are made unique, and the original ones kept in a column."""
    if names is None:
        return pd.DataFrame(columns, index=pd.RangeIndex(n).astype(str)), {"unnamed": True}
    unique = unique_names(names)
    frame = pd.DataFrame(columns, index=pd.Index(unique, dtype=object))
    if unique == names:
        return frame, {}
    column = unique_names([*columns, _ORIGINAL])[-1]
    frame[column] = pd.Categorical(names, categories=pd.unique(pd.Series(names, dtype=object)))
    return frame, {"original": column}


def original_names(
    frame: pd.DataFrame, record: Mapping[str, Any]
) -> tuple[pd.DataFrame, list[str] | None]:
    """Part ``obs`` or ``var`` into its columns and its names in R."""
    if record.get("unnamed") and (frame.index == pd.RangeIndex(len(frame)).astype(str)).all():
        return frame, None
    column = record.get("original")
    if column in frame:
        return frame.drop(columns=column), frame[column].astype(str).tolist()
    return frame, frame.index.astype(str).tolist()


def dtypes(frame: pd.DataFrame) -> dict[str, str]:
    """Name the columns whose type R does not have."""
    found = {str(name): kept_dtype(frame[name]) for name in frame if frame.columns.is_unique}
    return {name: dtype for name, dtype in found.items() if dtype is not None}


def restore_table(frame: pd.DataFrame, types: Mapping[str, str]) -> None:
    """Give columns back their types."""
    for name, dtype in types.items():
        if name in frame:
            frame[name] = restore_dtype(frame[name].array, dtype)


def kept_types(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Name the types in a dictionary that would come back from R as others: in one, a dictionary.

    A frame has the types of its columns, everything else has one.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            types: Any = kept_types(value)
        elif isinstance(value, pd.DataFrame):
            types = dtypes(value)
        else:
            types = kept_type(value)
        if types:
            found[str(key)] = types
    return found


def restore_types(value: Any, types: Any) -> Any:
    """Give a value back the types that `kept_types` named."""
    if isinstance(value, pd.DataFrame):
        if isinstance(types, dict):
            restore_table(value, types)
        return value
    if isinstance(value, dict) and isinstance(types, dict):
        known = {key: item for key, item in types.items() if key in value}
        return value | {key: restore_types(value[key], item) for key, item in known.items()}
    return value if isinstance(types, dict) else restore_type(value, types)


def python_record(adata: AnnData) -> dict[str, Any]:
    """Types of an AnnData that R does not have."""
    layers = {name: kept_dtype(matrix) for name, matrix in adata.layers.items()}
    return {
        "X": None if adata.X is None else kept_dtype(adata.X),
        "layers": {name: dtype for name, dtype in layers.items() if dtype is not None},
        "obs": dtypes(adata.obs),
        "var": dtypes(adata.var),
        "uns": kept_types(_own(adata.uns)),
    }


def _own(uns: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what has a place of its own in R."""
    return {key: value for key, value in uns.items() if key not in {FROM_R, "spatial"}}


def metadata(adata: AnnData, spatial: Any, python: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``uns`` goes to R: not R's own record, of "spatial" what is left; Python's record."""
    kept = _own(adata.uns)
    if spatial is not None:
        kept["spatial"] = spatial
    if (text := dump(python)) is not None:
        kept[FROM_PYTHON] = text
    return kept


def without_slot(adata: AnnData) -> list[str]:
    """Name what an AnnData has and R's classes have no slot for."""
    found = [
        f"{slot}[{key!r}]" for slot in ("obsp", "varm", "varp") for key in getattr(adata, slot)
    ]
    return found if adata.raw is None else [*found, "raw"]


def main_of(
    record: Mapping[str, Any], matrices: Mapping[str, Any], choose: Callable[[list[str]], str]
) -> str | None:
    """Name of the matrix that becomes ``X``: as Python's record has it, or else as chosen."""
    if not matrices:
        return None
    if (main := record.get("main")) is None:
        return choose(list(matrices))
    return main if main in matrices else None  # there was none, or R had no place for it


def restore(adata: AnnData, record: Mapping[str, Any]) -> None:
    """Give an AnnData back the types that Python's record names."""
    if adata.X is not None:
        adata.X = restore_dtype(adata.X, record.get("X"))
    for name, dtype in record.get("layers", {}).items():
        if name in adata.layers:
            adata.layers[name] = restore_dtype(adata.layers[name], dtype)
    restore_table(adata.obs, record.get("obs", {}))
    restore_table(adata.var, record.get("var", {}))
    for key, types in record.get("uns", {}).items():
        if key in adata.uns:
            adata.uns[key] = restore_types(adata.uns[key], types)
