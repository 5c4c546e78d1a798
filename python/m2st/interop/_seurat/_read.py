"""Seurat objects of versions 3 to 5 to AnnData: assays, columns, reductions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from m2st.interop import _record
from m2st.interop._nodes import Node
from m2st.interop._seurat._names import HVG, HVG_RANK, LAYERS, reduction_key
from m2st.interop._seurat._read_images import read_images
from m2st.interop._values import (
    Note,
    convert,
    read_columns,
    read_list,
    read_matrix,
    read_vector,
    restore_dtype,
    unique_names,
)

_RAW_ASSAYS = ("Spatial", "RNA", "Xenium", "Vizgen", "Nanostring")
_SKIPPED_LISTS = ("graphs", "neighbors", "commands", "tools")


class _Assay(NamedTuple):
    """One assay, its layers as observations × genes, for the cells of the object."""

    genes: list[str]
    layers: dict[str, Any]
    notes: dict[str, Note]
    columns: Node
    variable: list[str]


def read_seurat(x: Node, skipped: list[str], *, assay: str | None = None) -> AnnData:
    """Convert one assay with its cells; what could not be converted is added to `skipped`."""
    if x.attribute("meta.data").is_null:
        msg = (
            "Expected a Seurat object of version 3 or later, found one of version 2. In R: "
            "`UpdateSeuratObject(x)`."
        )
        raise ValueError(msg)
    meta = x.attribute("meta.data")
    cells = meta.row_names
    assays = x.attribute("assays").fields()
    chosen = _choose_assay(assays, x.attribute("active.assay").text() or "", assay, skipped)
    found = _read_assay(assays[chosen], chosen, cells, skipped)

    obs, obs_notes = read_columns(meta, where="meta.data", rows=cells, skipped=skipped)
    var, var_notes = read_columns(
        found.columns, where="meta.features", rows=found.genes, skipped=skipped
    )
    ident = unique_names([*obs, "ident"])[-1]
    obs[ident] = _read_ident(x.attribute("active.ident"), cells)
    obs_frame, obs_record = _record.table(obs, cells, len(cells))
    var_frame, var_record = _record.table(var, found.genes, len(found.genes))
    _add_variable(var_frame, found.variable, skipped)
    misc = x.attribute("misc")
    uns, misc_note = ({}, {}) if misc.is_null else read_list(misc, where="misc", skipped=skipped)
    python = _record.load(uns.pop(_record.FROM_PYTHON, None))
    layers = dict(found.layers)
    if python.get("no_data") and _same(layers.get("data"), layers.get("counts")):
        del layers["data"]  # Seurat copies the counts there
    for name in set(python.get("dense", [])) & set(layers):
        layers[name] = layers[name].toarray() if sparse.issparse(layers[name]) else layers[name]
    order = list(layers)
    main = _record.main_of(python, layers, lambda names: names[0])
    adata = AnnData(
        None if main is None else layers.pop(main),
        obs=obs_frame,
        var=var_frame,
        layers=layers,
        uns=uns,
        shape=None if main is not None or layers else (len(cells), len(found.genes)),
    )
    record = {
        "class": "Seurat",
        "assay": chosen,
        "assay_class": assays[chosen].classes[0],
        "key": assays[chosen].attribute("key").text(),
        "project": x.attribute("project.name").text(),
        "ident": ident,
        "assays": order,
        "main": main,
        "matrices": found.notes,
        "obs": {**obs_record, "columns": obs_notes},
        "var": {**var_record, "columns": var_notes},
        "metadata": misc_note,
    }
    record["reductions"] = _read_reductions(
        adata, x.attribute("reductions"), cells, python.get("obsm", {}), skipped
    )
    record |= read_images(adata, x.attribute("images").fields(), cells, python, skipped)
    _list_skipped(x, assays, chosen, skipped)
    _restore(adata, python)
    adata.uns[_record.FROM_R] = _record.dump(record)
    return adata


def _restore(adata: AnnData, python: Mapping[str, Any]) -> None:
    """Undo what the way to R had to add or rename."""
    for column in python.get("added", []):
        if column in adata.obs:
            del adata.obs[column]
    if (genes := python.get("genes")) is not None and len(genes) == adata.n_vars:
        adata.var_names = genes
    _record.restore(adata, python)


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None or a.shape != b.shape:
        return False
    a, b = (sparse.csr_matrix(matrix, dtype=np.float64) for matrix in (a, b))
    return all(
        np.array_equal(getattr(a, part), getattr(b, part), equal_nan=part == "data")
        for part in ("indptr", "indices", "data")
    )


def _choose_assay(
    assays: Mapping[str, Node], active: str, assay: str | None, skipped: list[str]
) -> str:
    """Choose the assay: of one that SCTransform corrected, the one that it was made from."""
    if assay is not None:
        if assay not in assays:
            msg = f"Expected an assay {assay!r}, found {', '.join(map(repr, assays))}."
            raise ValueError(msg)
        return assay
    if "SCTAssay" not in assays[active].classes:
        return active
    origin = assays[active].attribute("assay.orig").text()
    raw = [name for name in (origin, *_RAW_ASSAYS) if name in assays and name != active]
    if raw and raw[0] is not None:
        return raw[0]
    skipped.append(
        f"the raw counts (assay {active} holds counts that SCTransform corrected, the assay "
        f"{origin or 'that they were made from'} is not in the object)"
    )
    return active


def _read_assay(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    read = _read_assay3 if node.attribute("layers").is_null else _read_assay5
    assay = read(node, name, cells, skipped)
    misc = node.attribute("misc")
    if not misc.is_null and misc.items():
        skipped.append(f"misc of assay {name}")
    return assay


def _matrix_names(node: Node) -> tuple[list[str] | None, list[str] | None]:
    slot = "Dimnames" if node.kind == "S4" else "dimnames"
    return node.dimnames(0, slot=slot), node.dimnames(1, slot=slot)


def _read_assay3(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    """Read an assay as Seurat 3 and 4 keep it: counts, data and scale.data side by side."""
    genes: list[str] = []
    layers, notes = {}, {}
    for layer in LAYERS:
        matrix = node.attribute(layer)
        slot = "Dim" if matrix.kind == "S4" else "dim"
        shape = matrix.attribute(slot).numbers()
        if 0 in shape[1:] or not len(shape) or (shape[0] == 0 and not cells):
            continue
        pair = convert(f"{layer} of assay {name}", skipped, read_matrix, matrix)
        if pair is None:
            continue
        rows, columns = _matrix_names(matrix)
        genes = rows or genes
        values, note = pair
        layers[layer] = (
            values
            if columns in (None, cells)
            else _place(values, columns or [], cells, genes, genes)
        )
        if note:
            notes[layer] = note
    if (scaled := node.attribute("scale.data")).shape and min(scaled.shape) > 0:
        skipped.append(f"scale.data of assay {name}")
    variable = node.attribute("var.features")
    chosen = variable.strings().tolist() if variable.kind == "character" else []
    return _Assay(genes, layers, notes, node.attribute("meta.features"), chosen)


def _read_assay5(node: Node, name: str, cells: list[str], skipped: list[str]) -> _Assay:
    """Read an assay as Seurat 5 keeps it: layers of some genes and cells, told by two maps."""
    genes = node.attribute("features").dimnames(0) or []
    groups: dict[str, list[tuple[Node, list[str], list[str]]]] = {}
    joined: list[str] = []
    for layer, matrix in node.attribute("layers").fields().items():
        base = next((b for b in (*LAYERS, "scale.data") if layer.startswith(f"{b}.")), layer)
        if base == "scale.data":
            skipped.append(f"{layer} of assay {name}")
            continue
        joined += [layer] if base != layer else []
        rows = _mapped(node.attribute("features"), layer)
        columns = _mapped(node.attribute("cells"), layer)
        groups.setdefault(base, []).append((matrix, rows, columns))
    if joined:
        skipped.append(f"the split of assay {name} into {', '.join(joined)} (joined)")
    layers, notes = {}, {}
    for base, parts in groups.items():
        pair = convert(f"layer {base} of assay {name}", skipped, _join, parts, cells, genes)
        if pair is not None:
            layers[base], note = pair
            if note:
                notes[base] = note
    table, variable = node.attribute("meta.data"), []
    if "var.features" in (table.names or []):
        chosen = table.field("var.features").strings()
        rank = table.field("var.features.rank").numbers().astype(float)
        order = (
            np.argsort(rank, kind="stable") if len(rank) == len(chosen) else np.arange(len(chosen))
        )
        variable = [gene for gene in chosen[order] if gene is not None]
    ordered = {key: layers[key] for key in (*LAYERS, *layers) if key in layers}
    return _Assay(genes, ordered, notes, table, variable)


def _mapped(map_: Node, layer: str) -> list[str]:
    """Names that a LogMap marks for a layer."""
    rows, layers = map_.dimnames(0) or [], map_.dimnames(1) or []
    marked = map_.numbers().reshape(map_.shape, order="F")[:, layers.index(layer)] == 1
    return [name for name, chosen in zip(rows, marked, strict=True) if chosen]


def _join(
    parts: list[tuple[Node, list[str], list[str]]], cells: list[str], genes: list[str]
) -> tuple[Any, Note]:
    """Put the layers of the samples together; genes that one lacks are zero in it."""
    total, kept = None, {}
    for node, rows, columns in parts:
        values, note = read_matrix(node)
        if len(parts) == 1 and rows == genes and columns == cells:
            return values, note
        moved = _place(values, columns, cells, rows, genes)
        total, kept = (moved if total is None else total + moved), note
    return total, kept


def _place(
    values: Any, columns: list[str], cells: list[str], rows: list[str], genes: list[str]
) -> sparse.csr_matrix:
    """Move a matrix of some cells and genes into one of all."""
    matrix = sparse.coo_matrix(values)
    to_cell = pd.Index(cells).get_indexer(pd.Index(columns))
    to_gene = pd.Index(genes).get_indexer(pd.Index(rows))
    at = (to_cell[matrix.row], to_gene[matrix.col])
    return sparse.csr_matrix((matrix.data, at), shape=(len(cells), len(genes)))


def _read_ident(node: Node, cells: list[str]) -> pd.Categorical:
    values, _ = read_vector(node)
    names = node.names
    if names is None or names == cells:
        return values
    return values.take(pd.Index(names).get_indexer(pd.Index(cells)), allow_fill=True)


def _add_variable(var: pd.DataFrame, chosen: list[str], skipped: list[str]) -> None:
    """Mark variable features, and their order, as scanpy does."""
    if not chosen:
        return
    at = var.index.get_indexer(pd.Index(chosen))
    if (at < 0).any():
        skipped.append(f"{(at < 0).sum()} variable features that the assay does not have")
    rank = np.full(len(var), np.nan)
    rank[at[at >= 0]] = np.arange((at >= 0).sum(), dtype=np.float64)
    var[HVG], var[HVG_RANK] = ~np.isnan(rank), rank


def _read_reductions(
    adata: AnnData, listing: Node, cells: list[str], python: Mapping[str, Any], skipped: list[str]
) -> dict[str, Note]:
    keys = {note["name"]: key for key, note in python.items()}
    notes: dict[str, Note] = {}
    reductions = listing.fields()
    results = _record.results(adata.uns)
    wanted = [keys.get(name, reduction_key(name, results)) for name in reductions]
    for key, (name, node) in zip(unique_names(wanted), reductions.items(), strict=True):
        embedding = node.attribute("cell.embeddings")
        values, _ = read_matrix(embedding)
        at = pd.Index(embedding.dimnames(0) or cells).get_indexer(pd.Index(cells))
        values = np.where((at >= 0)[:, None], values.T[at], np.nan)
        adata.obsm[key] = restore_dtype(values, python.get(key, {}).get("dtype"))
        notes[key] = {
            "name": name,
            "columns": embedding.dimnames(1),
            "key": node.attribute("key").text(),
            "assay": node.attribute("assay.used").text(),
            "global": bool((node.attribute("global").numbers() == 1).any()),
            "stdev": node.attribute("stdev").numbers().tolist(),
        }
        extra = [
            part
            for part in ("feature.loadings", "feature.loadings.projected")
            if node.attribute(part).shape and min(node.attribute(part).shape) > 0
        ]
        extra += ["misc"] if node.attribute("misc").items() else []
        if extra:
            skipped.append(f"{', '.join(extra)} of reduction {name}")
    return notes


def _list_skipped(x: Node, assays: Iterable[str], chosen: str, skipped: list[str]) -> None:
    others = [name for name in assays if name != chosen]
    if others:
        skipped.append(f"the assays {', '.join(others)} (convert them with assay=)")
    for part in _SKIPPED_LISTS:
        node = x.attribute(part)
        if node.items() if node.kind == "list" else []:
            skipped.append(f"{part} ({', '.join(node.names or ())})")
