"""AnnData to Seurat objects: assay, columns, reductions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st import _keys
from m2st.interop import _embedded as r
from m2st.interop import _record
from m2st.interop._seurat._names import HVG, HVG_RANK, LAYERS, reduction_key, reduction_name
from m2st.interop._seurat._write_images import find_positions, write_images
from m2st.interop._values import (
    Note,
    convert,
    in_order,
    kept_dtype,
    unique_names,
    write_columns,
    write_list,
    write_matrix,
    write_vector,
)


def write_seurat(adata: AnnData, skipped: list[str]) -> Any:
    """Build the object in R; what could not be converted is added to `skipped`."""
    record = _record.load(adata.uns.get(_record.FROM_R))
    record = record if record.get("class") == "Seurat" else {}
    python = _record.python_record(adata)
    assay = record.get("assay", "Spatial" if _keys.COORDINATES in adata.obsm else "RNA")
    obs, _ = _record.original_names(adata.obs, {})
    var, _ = _record.original_names(adata.var, {})
    _check_unique(adata)
    genes = _feature_names(adata, skipped)
    if genes != adata.var_names.tolist():
        python["genes"] = adata.var_names.tolist()

    ident = record.get("ident")
    idents = obs.get(ident)
    positions = find_positions(adata, record, skipped)
    own = {ident, *record.get("made", [])}
    obs = obs.drop(columns=[column for column in own if column in obs])
    if not record:
        made = ("orig.ident", f"nCount_{assay}", f"nFeature_{assay}")
        python["added"] = [
            *(name for name in made if name not in obs),
            unique_names([*obs, "ident"])[-1],
            *positions.added,
        ]
    variable = _variable(var) if HVG in var else []
    var = var.drop(columns=[c for c in (HVG, HVG_RANK) if record and variable and c in var])

    layers, main = _write_layers(adata, record, skipped)
    python["no_data"] = "data" not in layers
    if not record:  # assays hold sparse matrices of doubles
        matrices = {main: adata.X, **dict(adata.layers.items())}
        python["dense"] = [name for name in layers if not sparse.issparse(matrices[name])]
        python["layers"] = {name: str(value.dtype) for name, value in adata.layers.items()}
        python["X"] = None if adata.X is None else str(adata.X.dtype)
    if main != next(iter(layers), ""):
        python["main"] = main
    reductions, python["obsm"] = _write_reductions(adata, record, assay, skipped)
    # Assays, reductions and images share their names.
    taken = {assay, *(reductions.names if len(reductions) else ())}
    images, python["images"], leftover = write_images(
        adata, positions, record, assay, taken, skipped
    )
    if positions.coordinates is not None and positions.coordinates.dtype != np.float64:
        python["coordinates"] = str(positions.coordinates.dtype)
    metadata = _record.metadata(adata, leftover or None, python)
    skipped += _record.without_slot(adata)
    cells = r.strings(adata.obs_names)
    notes = {part: record.get(part, {}).get("columns", {}) for part in ("obs", "var")}
    parts = {
        "cells": cells,
        "genes": r.strings(genes),
        "layers": r.listing(layers),
        "columns": write_columns(obs, notes["obs"], where="obs", rows=cells, skipped=skipped),
        "features": write_columns(var, notes["var"], where="var", rows=r.null(), skipped=skipped),
        "variable": r.strings([genes[adata.var_names.get_loc(gene)] for gene in variable]),
        "ident": r.null() if idents is None else write_vector(idents.astype("category"), {}),
        "reductions": reductions,
        "images": images,
        "misc": write_list(metadata, record.get("metadata", {}), where="uns", skipped=skipped),
        "exact": r.numeric(np.array([bool(record)]), "logical"),
    }
    texts = [assay, record.get("assay_class"), record.get("key"), record.get("project")]
    return r.call("buildSeurat", r.strings(texts), r.listing(parts))


def _check_unique(adata: AnnData) -> None:
    for names, where in ((adata.obs_names, "obs"), (adata.var_names, "var")):
        if (names == "").any():
            msg = (
                f"Expected names for a Seurat object, found empty ones in `adata.{where}_names`. "
                "Name them first."
            )
            raise ValueError(msg)
        if not names.is_unique:
            msg = (
                f"Expected unique names for a Seurat object, found {names.duplicated().sum()} "
                f"repeated. Call `adata.{where}_names_make_unique()` first."
            )
            raise ValueError(msg)


def _feature_names(adata: AnnData, skipped: list[str]) -> list[str]:
    """Names of genes as Seurat allows them: with "-" in place of "_" and "|"."""
    names = adata.var_names.tolist()
    allowed = unique_names(name.replace("_", "-").replace("|", "-") for name in names)
    changed = sum(old != new for old, new in zip(names, allowed, strict=True))
    if changed:
        skipped.append(f'"_" and "|" in the names of {changed} genes (Seurat has "-" there)')
    return allowed


def _variable(var: pd.DataFrame) -> list[str]:
    """Variable features, in their order where it is known."""
    chosen = var[var[HVG].eq(other=True).fillna(value=False)]
    if HVG_RANK in chosen:
        chosen = chosen.sort_values(HVG_RANK, kind="stable")
    return list(chosen.index)


def _write_layers(
    adata: AnnData, record: Mapping[str, Any], skipped: list[str]
) -> tuple[dict[str, Any], str | None]:
    """Write counts and data; returns them, and the name that ``X`` got."""
    matrices, notes = dict(adata.layers.items()), record.get("matrices", {})
    main = ""
    if adata.X is not None:
        wanted = [record.get("main"), "counts", "data"]
        free = (name for name in wanted if name is not None and name not in matrices)
        main = next(free, unique_names([*matrices, "X"])[-1])
        matrices = {main: adata.X, **matrices}
    order = record.get("assays", list(LAYERS))
    made = {}
    for name in in_order(matrices, order):
        values, where = matrices[name], "X" if name == main else f"the layer {name!r}"
        if _is_bool(values):
            values = values.astype(np.float64)  # assays have no place for others
        if (
            matrix := convert(where, skipped, write_matrix, values, notes.get(name, {}))
        ) is not None:
            made[name] = matrix
    if not set(LAYERS) & set(made):
        found = ", ".join(map(repr, made)) or "none"
        msg = (
            "Expected expression in `X`, or in the layers 'counts' or 'data', for a Seurat object, "
            f"found layers: {found}. Put the counts into `X`, or choose another class with `as_=`."
        )
        raise ValueError(msg)
    return made, main if main in made else ""


def _is_bool(matrix: Any) -> bool:
    return getattr(matrix, "dtype", None) == np.bool_


def _write_reductions(
    adata: AnnData, record: Mapping[str, Any], assay: str, skipped: list[str]
) -> tuple[Any, dict[str, Note]]:
    notes = record.get("reductions", {})
    keys = in_order([key for key in adata.obsm if key != _keys.COORDINATES], list(notes))
    results = _record.results(adata.uns)
    wanted = [notes.get(key, {}).get("name", reduction_name(key, results)) for key in keys]
    made, python = {}, {}
    taken = {note.get("key") for note in notes.values()}
    names = (name if name in wanted else name.replace("-", ".") for name in unique_names(wanted))
    for key, name in zip(keys, names, strict=True):
        value, note = adata.obsm[key], notes.get(key, {})
        if isinstance(value, pd.DataFrame) or sparse.issparse(value) or value.ndim != 2:
            skipped.append(f"obsm[{key!r}] (not a dense numeric matrix)")
            continue
        dtype = kept_dtype(value)
        matrix = np.asarray(value, dtype=np.float64)
        reduction_id = note.get("key") or _new_key(name, taken)
        taken.add(reduction_id)
        columns = note.get("columns") or [f"{reduction_id}{i + 1}" for i in range(matrix.shape[1])]
        if len(columns) != matrix.shape[1]:
            columns = [f"{reduction_id}{i + 1}" for i in range(matrix.shape[1])]
        made[name] = r.listing(
            {
                "embedding": r.with_shape(r.numeric(matrix, "double"), matrix.shape),
                "columns": r.strings(columns),
                "key": r.strings([reduction_id]),
                "assay": r.strings([note.get("assay") or assay]),
                "global": r.numeric(np.array([note.get("global", False)]), "logical"),
                "stdev": r.numeric(np.array(note.get("stdev", []), dtype=float), "double"),
            }
        )
        if dtype is not None or reduction_key(name, results) != key:
            python[key] = {"name": name, "dtype": dtype}
    return r.listing(made), python


def _new_key(name: str, taken: set[str | None]) -> str:
    """Make a key of a reduction: letters and digits with an underscore, each only once."""
    letters = "".join(c for c in name if c.isalnum() and c.isascii()).upper() or "DIM"
    numbers = itertools.chain([""], itertools.count(1))
    return next(key for number in numbers if (key := f"{letters}{number}_") not in taken)
