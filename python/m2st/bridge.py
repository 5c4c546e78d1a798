"""What R calls through reticulate: plain values and raw buffers in, the same out.

No array and no Python object crosses, so it works with every reticulate and every NumPy. A request
is a dictionary as the R package's ``R/bridge.R`` writes it; an answer never raises: it carries
``"error"`` or ``"interrupted"`` instead, because an exception would cross as several messages.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import check_sparse, warn
from m2st._model import check_folder, load
from m2st._params import AutoencoderParams, ClusteringParams, DualParams
from m2st._run import run as m2st_run

__all__ = [
    "apply",
    "choose",
    "cluster",
    "compare_composition",
    "composition",
    "export",
    "register",
    "report",
    "run",
    "split",
    "tree",
]

# R prints what concerns its user; without a handler logging would write to the terminal.
logging.getLogger("m2st").addHandler(logging.NullHandler())

_FEATURES = "features"
_SAMPLE = "sample"
_BATCH = "batch"
_CELL_TYPES = "cell_types"
_VIEWS = {"averages": _keys.Keys().averages, _CELL_TYPES: _keys.Keys().cell_types}
_R_INTEGER = 2**31 - 1

_IN_R = (
    (r"Pass `overwrite=True` to replace it", "Name another folder, or delete this one first"),
    (r"\bTrue\b", "TRUE"),
    (r"\bFalse\b", "FALSE"),
    (r"found None\b", "found none"),
    (r"NaN or infinity in", "missing or infinite values in"),
    (r"NaN or infinite", "missing or infinite"),
    (r"\bNaN\b", "missing"),
    (r" \((int|float|bool|str|list|tuple|dict|NoneType)\)", ""),
    (r"in `adata\.obsm\['spatial'\]`", "in the coordinates"),
    (r"`?adata\.obsm\[['\"]spatial['\"]\]`?", "coordinates"),
    (r"`?adata\.obs\[['\"]sample['\"]\]`?", "the sections"),
    (r"`adata\.obs\['m2st_second_domain'\]`", "column `<name>_second_domain`"),
    (r"`?adata\.obs\[['\"]condition['\"]\]`?", "the conditions"),
    (r"`?adata\.obs\[['\"]batch['\"]\]`?", "`batch_id`"),
    (r"`?adata\.obs\[['\"]cell_types['\"]\]`?", "`cell_types`"),
    (r"\bobservation(s?)\b", r"spot\1"),
    (r"`(adata\.)?obs\[('[^']*')\]`", r"column \2"),
    (r"`adata\.obs\[\[('[^']*'(, '[^']*')*)\]\]`", r"columns \1"),
    (r"`reference\.obs\[('[^']*')\]`", r"column \1 of `reference`"),
    (r"`?(adata\.)?obsm\[('[^']*')\]`?", r"\2"),
    (r"`?adata\.layers\[('[^']*')\]`?", r"layer \1"),
    (r"`?adata\.obs[mp]?`?", "the object"),
    (r"in `adata\.var_names`", "among the row names"),
    (r"of `adata\.var`", "of the rows"),
    (r"of `reference\.var`", "of the rows of `reference`"),
    (r"Name the layer that holds the counts with `layer=`", "Name the raw counts"),
    (r"Call its method `apply`", "Call applyM2ST(x, model)"),
    (r"`m2st\.Model\.save` wrote", "`save` of runM2ST() wrote"),
    (r"`m2st\.annotate` returned", "annotateM2ST() saved"),
    (r"`m2st\.tl\.choose_n_domains\(adata\)`", "chooseDomains()"),
    (r"\(n_obs, (\w+)\)", r"spots × \1"),
    (r"\bscipy sparse", "sparse"),
    (r", for example with `\.astype\(float\)`|: `[^`]*\.astype\(\"string\"\)`", ""),
    (r"`(\w+)=([\w.]+)`", r"`\1 = \2`"),
)
"""What R calls otherwise in every function: pattern, and what to put in its place."""

_ARGUMENTS = {
    "batch_key": "`batch_id`",
    "candidates": "`k`",
    "cell_type_key": "`cell_types`",
    "embedding_key": "`embedding_name`",
    "key_added": "`name`",
    "label_key": "`labels`",
    "n_domains": "`k`",
    "n_jobs": "`n.cores`",
    "random_state": "`seed`",
    "sample": "`sample_id`",
    "sample_key": "`sample_id`",
    "spatial_key": "`coords`",
}
"""Arguments that have another name in R, in every class; a request has those of its class."""

_PYTHON = re.compile(
    r"\bm2st\.(?!html)|\badata\b|\bobs[mp]?\b|\buns\b|\bnp\.|\bNone\b|scanpy|scipy|AnnData"
    r"|`\w+=|=`|\(n_obs|\.\w+\(\)|`\w+\.(var|X|obs)\b|spatial_graph|_names_make_unique|Params\b"
)
"""What only a user of Python knows."""

# Errors whose text says all, without the name of their class.
_IN_WORDS = (
    KeyError,
    TypeError,
    ValueError,
    FileExistsError,
    FileNotFoundError,
    FloatingPointError,
)

Request = Mapping[str, Any]
Answer = dict[str, Any]
Callback = Callable[[str], object]


class _Stopped(BaseException):
    """The user of R has interrupted the run: the training does not catch it, nor anybody else."""


def run(request: Request, callback: Callback | None = None) -> Answer:
    """Prepare, build the spatial graph, embed and, if asked to, cluster: `m2st.run` on buffers.

    Parameters
    ----------
    request
        ``shape``: n_obs and n_vars. ``data`` (float32), ``indices`` and ``indptr`` (int32): counts
        as CSR of that shape, or ``dense`` (float32): the same in C order, or ``features``
        (float64, Fortran order, n_obs × n_vars): ready features. ``coordinates``: float64, Fortran
        order, n_obs × ``n_axes``. ``sample``: int32 codes from 0, and ``sample_names``; both
        optional. ``batch``: what is shifted, int32 ``codes`` from 0 and ``levels``; optional.
        ``cell_types``: the same, -1 where missing; optional.
        ``candidates``: further columns that may name sections, each with ``name``, int32
        ``codes`` from 0 and ``levels``, and ``names``: of all observations, one a line; both
        optional, for warnings. ``n_domains``: None embeds only, "auto" chooses. ``n_pcs``: of the
        features, ``n_jobs``: members at a time, and ``checkpoint``: a file; all optional.
        ``autoencoder``, ``clustering``: settings. ``paper``: whether they are those of
        `m2st.paper.run`, which needs counts. ``normalized``, ``random_state``, ``device``.
        ``keep_scales``: whether embeddings of the scales are returned beside domains; True if left
        out.
        ``every``: epochs of a member between two texts. ``save``: a folder for the fitted model,
        and ``genes``: names of the columns of the expression, one a line; both optional. ``words``:
        what the user calls ``sample_key``, ``layer``, ``use_rep`` and ``X``, and in ``slots`` what
        columns and embeddings, for messages; optional in all functions.
    callback
        Called with a text before each step and after some epochs; False or an exception stops the
        run.

    Returns
    -------
    ``labels``: int32, 0 where missing; ``confidence``, float64, if there is one; ``embedding`` and
    each of ``scales``: ``data`` (float32, Fortran order) and ``shape``; ``domains``: names;
    ``second``: ``labels`` and ``domains`` of a second solution, if there is one; ``record``: plain
    values; ``warnings``: texts. Or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import paper, pp, tl

        folder = None if request.get("save") is None else str(request["save"])
        if folder is not None:
            check_folder(folder, overwrite=False)
        adata = read_expression(request)
        sample_key = read_place(adata, request)
        autoencoder, clustering = _read_params(request)
        n_domains: Any = request.get("n_domains")
        if n_domains is not None and n_domains != "auto":
            n_domains = int(n_domains)
        n_pcs = None if request.get("n_pcs") is None else int(request["n_pcs"])
        shared: dict[str, Any] = {
            "sample_key": sample_key,
            "autoencoder": autoencoder,
            "random_state": int(request["random_state"]),
            "device": str(request.get("device", "auto")),
            "n_jobs": _jobs(request),
            "checkpoint": request.get("checkpoint"),
            "progress": False,
            "callback": _following(callback, autoencoder.n_epochs, request),
        }
        with _known_in_r(adata, request):
            pp.spatial_graph(adata, sample_key=sample_key)
        if request.get(_BATCH) is not None:  # now: a column that may name sections is looked at
            adata.obs[_BATCH] = _labels(request[_BATCH])
        cell_type_key = _add_cell_types(adata, request)
        _tell_graph(callback, adata)
        with _told(callback):
            if isinstance(clustering, paper.DualParams):
                if n_pcs is not None:
                    shared["n_pcs"] = n_pcs
                model = paper.run(adata, n_domains, clustering=clustering, **shared)
            else:
                model = m2st_run(
                    adata,
                    n_domains,
                    use_rep=_FEATURES if _FEATURES in adata.obsm else None,
                    n_pcs=n_pcs,
                    normalized=bool(request.get("normalized", False)),
                    batch_key=_BATCH if _BATCH in adata.obs else None,
                    cell_type_key=cell_type_key,
                    clustering=clustering,
                    **shared,
                )
        if folder is not None:
            try:
                model.save(folder)
            except OSError as error:  # the result is there, whatever becomes of the folder
                warn(str(error))
        # R keeps no features, which a choice of the number of domains looks at.
        record = adata.uns[_keys.DEFAULT]
        record["embed"]["structure_p_value"] = (
            record["n_domains"]["p_value"]
            if "n_domains" in record
            else tl.structure_p_value(adata, _keys.Keys(), shared["random_state"])
        )
        return _results(adata, scales=bool(request.get("keep_scales", True)))

    return answer_safely(compute, request)


def apply(request: Request, callback: Callback | None = None) -> Answer:
    """Place spots among the domains of a saved model: `m2st.Model.apply` on buffers.

    Parameters
    ----------
    request
        ``model``: its folder. Expression or ready features, ``genes``, coordinates, sections,
        ``cell_types`` and ``normalized`` as in `run`. ``gene_columns``: further names that genes
        may have, each with ``name`` and ``values``, one a line; optional, for messages. ``n_new``:
        number of further domains, as in `m2st.annotate`; optional.
    callback
        Not called.

    Returns
    -------
    As `run`.
    """

    def compute() -> Answer:
        from m2st import pp
        from m2st._annotate import annotate

        model = load(str(request["model"]))
        adata = read_expression(request)
        given, wanted = _FEATURES in adata.obsm, model.use_rep not in (None, "X")
        if given != wanted:
            kinds = {False: "expression", True: "ready features"}
            msg = f"Expected {kinds[wanted]}, as the model was fitted on, found {kinds[given]}."
            raise ValueError(msg)
        if given:
            adata.obsm[str(model.use_rep)] = adata.obsm[_FEATURES]
        _add_gene_columns(adata, request)
        sample_key = read_place(adata, request)
        with _known_in_r(adata, request):
            pp.spatial_graph(adata, sample_key=sample_key)
        _tell_graph(callback, adata)
        normalized, n_new = bool(request.get("normalized", False)), int(request.get("n_new", 0))
        if n_new:
            annotate(
                adata, reference=model, n_new=n_new, normalized=normalized, sample_key=sample_key
            )
        else:
            model.apply(
                adata,
                normalized=normalized,
                sample_key=sample_key,
                cell_type_key=_add_cell_types(adata, request),
            )
        return _results(adata, scales=False)  # its domains are those of the model, to stay

    return answer_safely(compute, request)


def learn(request: Request, callback: Callback | None = None) -> Answer:
    """Learn the labels of a section and save the model: the first half of `m2st.annotate`.

    Parameters
    ----------
    request
        Expression, ``genes``, coordinates, sections and ``normalized`` as in `apply`. ``labels``: a
        factor, ``codes`` from 0 (int32), -1 where missing, and ``levels``. ``others``: genes of the
        section to be annotated, one a line. ``save``: folder of the model.
    callback
        Not called.

    Returns
    -------
    ``record``: that of the model.
    """

    def compute() -> Answer:
        from m2st._annotate import learn, read_labels, shared_genes

        adata = read_expression(request)
        _add_gene_columns(adata, request)
        sample_key = read_place(adata, request)
        adata.obs["labels"] = _labels(request["labels"])
        labels = read_labels(adata, "labels", where="reference.obs")
        other = AnnData(var=pd.DataFrame(index=str(request["others"]).split("\n")))
        model = learn(
            adata,
            "labels",
            labels,
            shared_genes(other, adata),
            layer=None,
            normalized=bool(request.get("normalized", False)),
            spatial_key=None,
            sample_key=sample_key,
        )
        model.save(str(request["save"]))
        return {"record": _plain(model.record)}

    return answer_safely(compute, request)


def cluster(request: Request, callback: Callback | None = None) -> Answer:
    """Find domains from embeddings that R has kept: `m2st.tl.cluster` on buffers.

    Parameters
    ----------
    request
        ``scales``: embeddings, each with ``data`` (float64, Fortran order) and ``shape``, NaN
        where missing, and ``views``: such ones by name, ``averages`` and ``cell_types``, as far as
        there are some. ``n_members``: of the ensemble, side by side in each scale. ``coordinates``,
        ``n_axes``, ``sample``, ``n_domains``, ``clustering``, ``random_state``, ``n_jobs`` as in
        `run`.
    callback
        Not called; `run` and `cluster` are called alike.

    Returns
    -------
    As `run`, without embeddings of the scales.
    """

    def compute() -> Answer:
        from m2st import tl

        adata = _read_embedded(request)
        _, clustering = _read_params(request)
        results = []
        for number in request["n_domains"]:
            _tell(callback, f"Clustering into {int(number)} domains")
            tl.cluster(
                adata,
                int(number),
                clustering,
                random_state=int(request["random_state"]),
                n_jobs=_jobs(request),
            )
            results.append(_results(adata, scales=False))
        return {"results": results}

    return answer_safely(compute, request)


def tree(request: Request, callback: Callback | None = None) -> Answer:
    """Arrange domains in a tree: `m2st.tl.domain_tree` on buffers.

    Parameters
    ----------
    request
        ``labels``: the domains, a factor as in `learn`. ``embedding``: their common representation,
        ``data`` (float64, Fortran order) and ``shape``, NaN where missing.
    callback
        Not called.

    Returns
    -------
    ``pairs``: the two that each merge joins, domains from 0; ``costs``: of each merge. And
    ``warnings``. Or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import tl

        keys = _keys.Keys()
        embedding = read_matrix(request["embedding"]["data"], request["embedding"]["shape"])
        adata = AnnData(obs=_names(len(embedding)), obsm={keys.embedding: embedding})
        adata.obs[keys.domain] = _labels(request["labels"])
        merges = tl.domain_tree(adata)
        return {"pairs": _plain(merges[:, :2].astype(int)), "costs": _plain(merges[:, 2])}

    return answer_safely(compute, request)


def split(request: Request, callback: Callback | None = None) -> Answer:
    """Split domains, from embeddings that R has kept: `m2st.tl.split_domains` on buffers.

    Parameters
    ----------
    request
        As in `cluster`, with ``labels``, the domains, ``confidence``, float64 or None, and
        ``parts``, numbers by domain, in place of ``n_domains``. Without ``clustering``, settings
        are those of `m2st.tl.split_domains`.
    callback
        Not called.

    Returns
    -------
    As `cluster`, without the embedding.
    """

    def compute() -> Answer:
        from m2st import tl

        adata = _read_embedded(request)
        clustering = request.get("clustering")
        keys, parts = _keys.Keys(), _keys.Keys("parts")
        adata.obs[keys.domain] = _labels(request["labels"])
        _add_confidence(adata, request, keys)
        tl.split_domains(
            adata,
            {str(name): int(number) for name, number in request["parts"].items()},
            None if clustering is None else ClusteringParams(**(clustering or {})),
            random_state=int(request["random_state"]),
            n_jobs=_jobs(request),
            key_added=parts.name,
        )
        return {"record": _plain(adata.uns[parts.record]), **_domains(adata, parts)}

    return answer_safely(compute, request)


def choose(request: Request, callback: Callback | None = None) -> Answer:
    """Choose a number of domains from embeddings that R has kept: `m2st.tl.choose_n_domains`.

    Parameters
    ----------
    request
        As in `cluster`, with ``candidates``, whole numbers in ascending order, in place of
        ``n_domains``, and ``p_value``, what `run` wrote as ``structure_p_value``.
    callback
        As in `run`: called before each number.

    Returns
    -------
    ``evidence``: ``candidates``, ``stability``, ``gain``, ``score``, ``p_value`` and ``chosen``;
    and ``warnings``. Or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import tl

        adata = _read_embedded(request)
        with _told(callback):
            tl.choose(
                adata,
                [int(number) for number in request["candidates"]],
                ClusteringParams(**(request.get("clustering") or {})),
                int(request["random_state"]),
                _jobs(request),
                _keys.Keys(),
                float(request["p_value"]),
            )
        return {"evidence": _plain(adata.uns[_keys.DEFAULT]["n_domains"])}

    return answer_safely(compute, request)


def report(request: Request, callback: Callback | None = None) -> Answer:
    """Write the page of a result that R holds: `m2st.report` on buffers.

    Parameters
    ----------
    request
        ``path``, ``title``, ``n_markers``. ``names`` of the observations. ``columns``: the domains,
        those of a second solution under the name ``m2st_second_domain``, and further ones, each
        with ``name``, int32 ``codes`` from 0 (-1 where missing) and ``levels``. ``confidence``:
        float64, optional. ``coordinates``, ``n_axes``, ``sample``, ``sample_names`` as in `run`;
        codes of -1 where missing. ``record``: what `run` returned.
        ``images``, by section: ``pixels`` (uint8, Fortran order), ``shape`` and ``scale``, pixels
        per unit of the coordinates. ``expression``: what `run` takes as counts, and ``genes``;
        optional.
    callback
        Not called.

    Returns
    -------
    ``warnings``, or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import _report

        names = [str(name) for name in request["names"]]
        expression = request.get("expression")
        adata = AnnData(obs=_names(len(names))) if not expression else read_expression(expression)
        adata.obs_names = pd.Index(names)
        sample_key = read_place(adata, request)
        keys = [str(column["name"]) for column in request["columns"]]
        for key, column in zip(keys, request["columns"], strict=True):
            adata.obs[key] = _labels(column)
        _add_confidence(adata, request, _keys.Keys())
        adata.uns[_keys.DEFAULT] = _of_r(request.get("record") or {})
        adata.uns["spatial"] = {
            name: _library(image) for name, image in dict(request.get("images") or {}).items()
        }
        _report.report(
            adata,
            request["path"],
            columns=keys,
            sample_key=sample_key,
            n_markers=int(request["n_markers"]),
            title=str(request["title"]),
            overwrite=True,
        )
        return {}

    return answer_safely(compute, request)


def export(request: Request, callback: Callback | None = None) -> Answer:
    """Write domains that R holds for another viewer: `m2st.io.export` on buffers.

    Parameters
    ----------
    request
        ``path``, ``to``, ``pixel_size`` (optional). ``name`` of the result. ``names`` of the
        observations. ``domains``: int32 ``codes`` from 0 (-1 where missing) and ``levels``.
        ``confidence``: float64, optional. ``coordinates``, ``n_axes``, ``sample``, ``sample_names``
        as in `run`, optional; codes of -1 where missing.
    callback
        Not called.

    Returns
    -------
    ``warnings``, or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import io

        keys = _keys.Keys(str(request["name"]))
        adata = AnnData(obs=_names(len(request["names"])))
        adata.obs_names = pd.Index([str(name) for name in request["names"]])
        placed = request.get("coordinates") is not None
        sample_key = read_place(adata, request) if placed else None
        adata.obs[keys.domain] = _labels(request["domains"])
        _add_confidence(adata, request, keys)
        io.export(
            adata,
            request["path"],
            request["to"],
            key_added=keys.name,
            sample_key=sample_key,
            pixel_size=request.get("pixel_size"),
            overwrite=True,
        )
        return {}

    return answer_safely(compute, request)


def register(request: Request, callback: Callback | None = None) -> Answer:
    """Compare domains with the labels of a reference: `m2st.tl.register` on buffers.

    Parameters
    ----------
    request
        ``expression`` and ``reference``: what `run` takes as counts, ``genes``, and
        ``gene_columns`` as in `apply`. ``domains`` and ``labels``: int32 ``codes`` from 0 (-1 where
        missing) and ``levels``. ``label_key``: name of the labels. ``n_top_genes``.
    callback
        Not called.

    Returns
    -------
    ``correlation`` (float64, Fortran order, domains × labels), ``labels``, ``suggested``,
    ``margin`` (float64), NaN where missing, and ``warnings``. Or ``error``, or ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import tl

        sides = request["expression"], request["reference"]
        adata, reference = map(read_expression, sides)
        for side, expression in zip((adata, reference), sides, strict=True):
            _add_gene_columns(side, expression)
        key = str(request["label_key"])
        adata.obs[_keys.Keys().domain] = _labels(request["domains"])
        reference.obs[key] = _labels(request["labels"])
        tl.register(adata, reference, key, n_top_genes=int(request["n_top_genes"]))
        found = adata.uns[_keys.DEFAULT]["register"]
        return {
            "correlation": bytearray(found["correlation"].tobytes(order="F")),
            "labels": found["labels"],
            "suggested": found["suggested"],
            "margin": bytearray(found["margin"].tobytes()),
        }

    return answer_safely(compute, request)


def composition(request: Request, callback: Callback | None = None) -> Answer:
    """Tell the share of each domain in each section: `m2st.tl.composition` on buffers.

    Parameters
    ----------
    request
        ``coordinates``, ``n_axes``, ``sample``, ``sample_names`` as in `run`; codes of -1 where the
        section is missing. ``domains``: a factor as in `register`.
    callback
        Not called.

    Returns
    -------
    ``columns`` of the table, each with ``name`` and ``texts``, or ``numbers`` (float64, NaN where
    missing) and whether they are ``whole``; ``n_rows``; and ``warnings``. Or ``error``, or
    ``interrupted``.
    """

    def compute() -> Answer:
        from m2st import tl

        adata, sample_key = _read_domains(request)
        return _table(tl.composition(adata, sample_key))

    return answer_safely(compute, request)


def compare_composition(request: Request, callback: Callback | None = None) -> Answer:
    """Compare shares of domains between conditions: `m2st.tl.compare_composition` on buffers.

    Parameters
    ----------
    request
        As for `composition`. ``conditions``: a factor. ``reference``: one of its levels, optional.
    callback
        Not called.

    Returns
    -------
    As `composition`.
    """

    def compute() -> Answer:
        from m2st import tl

        adata, sample_key = _read_domains(request)
        adata.obs["condition"] = _labels(request["conditions"])
        reference = request.get("reference")
        return _table(tl.compare_composition(adata, "condition", sample_key, reference=reference))

    return answer_safely(compute, request)


def _read_domains(request: Request) -> tuple[AnnData, str]:
    """Object with domains, sections and coordinates, and the column of the sections."""
    domains = _labels(request["domains"])
    adata = AnnData(obs=_names(len(domains)))
    adata.obs[_keys.Keys().domain] = domains
    return adata, str(read_place(adata, request))


def _table(table: pd.DataFrame) -> Answer:
    """Columns of a table as texts, and as doubles."""
    columns: list[Answer] = []
    for name, values in table.items():
        if pd.api.types.is_numeric_dtype(values):
            numbers = values.to_numpy(dtype=np.float64)
            whole = pd.api.types.is_integer_dtype(values)
            columns.append(
                {"name": str(name), "numbers": bytearray(numbers.tobytes()), "whole": bool(whole)}
            )
        else:
            columns.append({"name": str(name), "texts": [str(value) for value in values]})
    return {"columns": columns, "n_rows": len(table)}


def _of_r(record: Mapping[str, Any]) -> dict[str, Any]:
    """Record for a page; of a run in R without names of slots, and what only pictures of R use."""
    slots = (
        {"batch_key", "cell_type_key", "sample_key", "spatial_key", "use_rep", "spots"}
        if "r" in record
        else set()
    )
    return {
        name: {key: value for key, value in entry.items() if key not in slots}
        if isinstance(entry, Mapping)
        else entry
        for name, entry in record.items()
    }


def _library(image: Mapping[str, Any]) -> dict[str, Any]:
    """Tissue image in scanpy's layout."""
    shape = [int(size) for size in image["shape"]]
    pixels = np.frombuffer(image["pixels"], dtype=np.uint8).reshape(shape, order="F")
    return {"images": {"lowres": pixels}, "scalefactors": {"tissue_lowres_scalef": image["scale"]}}


def _load() -> None:
    """Load what is slow to load. An interrupt waits: half-loaded modules would stay broken."""
    with _on_interrupt(raises=False) as interrupts:
        _load_torch()
        import scanpy  # noqa: F401

        from m2st import _clustering, pp, tl  # noqa: F401
        from m2st._nn import _training  # noqa: F401
    if interrupts:
        raise KeyboardInterrupt


def _load_torch() -> None:
    """Load torch with its own BLAS, which within R would otherwise be R's: slower, other bits."""
    if "torch" in sys.modules or not hasattr(os, "RTLD_DEEPBIND"):  # glibc only
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        import torch  # noqa: F401
    finally:
        sys.setdlopenflags(flags)


@contextlib.contextmanager
def _on_interrupt(*, raises: bool) -> Iterator[list[int]]:
    """Note interrupts in Python's way: reticulate's handler would run R within Python."""
    interrupts: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        if raises:
            raise _Stopped

    previous = signal.getsignal(signal.SIGINT)
    if previous is None or threading.current_thread() is not threading.main_thread():
        yield interrupts  # the handler is not ours to replace
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, previous)


def answer_safely(compute: Callable[[], Answer], request: Request) -> Answer:
    """What `compute` returns, or how it ended; the user's warnings are collected, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        # R keeps names that occur twice, and does not use them.
        warnings.filterwarnings("ignore", "(Variable|Observation) names are not", UserWarning)
        try:
            _load()
            with _workers(request), _on_interrupt(raises=True) as interrupts:
                answer = _ending(compute)
            if interrupts:  # compiled code may have turned it into another error
                raise _Stopped
        except (KeyboardInterrupt, _Stopped):
            answer = {"interrupted": True}
        except ImportError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
    texts = [str(warning.message) for warning in caught if warning.category is UserWarning]
    words = request.get("words") or {}
    if "error" in answer:
        answer["error"] = _in_r(answer["error"], words)
    graph = answer.get("record", {}).get("graph", {})
    if "overlay" in graph:  # shown again in a report
        graph["overlay"] = _in_r(graph["overlay"], words)
    return {**answer, "warnings": [_in_r(text, words) for text in dict.fromkeys(texts)]}


def _in_r(text: str, words: Mapping[str, Any]) -> str:
    """Message in words of R, without advice that only users of Python can follow.

    The first sentence stays: it says what is wrong.
    """
    arguments = {**_ARGUMENTS, **words}
    for key, word in arguments.pop("slots", {}).items():
        slot = rf"`?\b(adata|reference)\.obsm?\[['\"]{re.escape(key)}['\"]\]`?"
        text = re.sub(slot, word.replace("\\", r"\\"), text)
    for pattern, word in _IN_R:
        text = re.sub(pattern, word, text)
    for key, word in arguments.items():
        text = re.sub(rf"`(adata\.)?{key}=?`", word, text)
        text = re.sub(rf"`{key}='([^']*)'`", rf'{word[:-1]} = "\1"`', text)
    first, *others = re.split(r"(?<=[.!?])\s+", text)
    return " ".join([first, *(each for each in others if not _PYTHON.search(each))])


def _ending(compute: Callable[[], Answer]) -> Answer:
    """What `compute` returns, or its error as a text."""
    try:
        return compute()
    except _IN_WORDS as error:
        text = error.args[0] if len(error.args) == 1 else error
        return {"error": str(text) or repr(error)}
    except Exception as error:  # R raises it again
        return {"error": f"{type(error).__name__}: {error}"}


def _tell(callback: Callback | None, text: str) -> None:
    """Tell R's user, and stop the run, rather than only the training, when the callback says so.

    R's callback does not fail by itself: what it raises is an interrupt that it could not catch.
    """
    if callback is None:
        return
    try:
        go_on = callback(_in_r(text, {}))
    except (Exception, KeyboardInterrupt) as error:
        raise _Stopped from error
    if go_on is False:
        raise _Stopped


def _tell_graph(callback: Callback | None, adata: AnnData) -> None:
    _tell(callback, f"Spatial graph: {adata.uns[_keys.DEFAULT]['graph']['reason']}")


def _following(
    callback: Callback | None, n_epochs: int, request: Request
) -> Callable[[int, int, float], None] | None:
    """What the training calls after an epoch, to tell of some of them; None with several jobs."""
    if callback is None:
        return None
    jobs = _jobs(request) or 1
    if jobs > 1:
        _tell(callback, f"Training on {jobs} cores")
        return None

    def report(epoch: int, total: int, loss: float) -> None:
        member, before = divmod(epoch - 1, n_epochs)
        if (before + 1) % request["every"] == 0:
            _tell(
                callback,
                f"Model {member + 1} of {total // n_epochs}: epoch {before + 1} of at most "
                f"{n_epochs}, loss {loss:.4f}",
            )

    return report


@contextlib.contextmanager
def _told(callback: Callback | None) -> Iterator[None]:
    """Tell what a run logs of its steps, and which numbers of domains are tried."""
    from m2st.tl import TRYING

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "m2st._run" or record.msg == TRYING:
                _tell(callback, record.getMessage())

    teller, logs = Teller(), [logging.getLogger(name) for name in ("m2st._run", "m2st.tl")]
    before = [log.level for log in logs]
    for log in logs:
        log.addHandler(teller)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.removeHandler(teller)
            log.setLevel(level)


def _names(n_obs: int) -> pd.DataFrame:
    """Unique names of observations; R keeps its own."""
    return pd.DataFrame(index=[str(number) for number in range(n_obs)])


def read_matrix(data: Any, shape: Any) -> NDArray[np.float64]:
    """Matrix of doubles as R stores it."""
    n_rows, n_columns = (int(size) for size in shape)
    values = np.frombuffer(data, dtype=np.float64)
    return np.ascontiguousarray(values.reshape((n_rows, n_columns), order="F"))


def read_expression(request: Request) -> AnnData:
    """Object with counts or ready features."""
    n_obs, n_vars = (int(size) for size in request["shape"])
    if "features" in request:
        features = read_matrix(request["features"], (n_obs, n_vars)).astype(np.float32)
        return AnnData(obs=_names(n_obs), obsm={_FEATURES: features})
    matrix: Any
    if "dense" in request:
        matrix = np.frombuffer(request["dense"], dtype=np.float32).reshape(n_obs, n_vars)
    else:
        data = np.frombuffer(request["data"], dtype=np.float32)
        indices, indptr = (
            np.frombuffer(request[part], dtype=np.int32) for part in ("indices", "indptr")
        )
        try:
            matrix = sparse.csr_matrix((data, indices, indptr), shape=(n_obs, n_vars))
        except ValueError as error:
            msg = f"Expected a valid sparse matrix in `X`, found a damaged one: {error}."
            raise ValueError(msg) from error
        check_sparse(matrix, name="X")
    genes = request.get("genes")
    var = None if genes is None else pd.DataFrame(index=str(genes).split("\n"))
    return AnnData(matrix, obs=_names(n_obs), var=var)


@contextlib.contextmanager
def _known_in_r(adata: AnnData, request: Request) -> Iterator[None]:
    """Add what may tell that sections lie on each other; afterwards the object is as before."""
    before = adata.obs
    obs = before.copy()
    for column in request.get("candidates") or []:
        obs[str(column["name"])] = _labels(column)
    names = str(request.get("names") or "").split("\n")
    if len(names) == adata.n_obs:
        obs.index = pd.Index(names)
    if _SAMPLE in before:
        obs[_SAMPLE] = before[_SAMPLE].to_numpy()
    adata.obs = obs
    try:
        yield
    finally:
        adata.obs = before


def _add_gene_columns(adata: AnnData, request: Request) -> None:
    """Add further names that genes may have."""
    for column in request.get("gene_columns") or []:
        adata.var[str(column["name"])] = str(column["values"]).split("\n")


def _add_confidence(adata: AnnData, request: Request, keys: _keys.Keys) -> None:
    """Add the confidence of a result, if it has one."""
    if request.get("confidence") is not None:
        adata.obs[keys.confidence] = np.frombuffer(request["confidence"], dtype=np.float64)


def _add_cell_types(adata: AnnData, request: Request) -> str | None:
    """Add the cell types; return their column if there are any."""
    if request.get(_CELL_TYPES) is None:
        return None
    adata.obs[_CELL_TYPES] = _labels(request[_CELL_TYPES])
    return _CELL_TYPES


def _labels(column: Mapping[str, Any]) -> pd.Categorical:
    """Factor of R."""
    codes = np.frombuffer(column["codes"], dtype=np.int32)
    return pd.Categorical.from_codes(codes, categories=[str(level) for level in column["levels"]])


def read_place(adata: AnnData, request: Request) -> str | None:
    """Add coordinates and sections; return the column of the sections if there are any."""
    adata.obsm[_keys.COORDINATES] = read_matrix(
        request["coordinates"], (adata.n_obs, request["n_axes"])
    )
    if request.get(_SAMPLE) is None:
        return None
    codes = np.frombuffer(request[_SAMPLE], dtype=np.int32)
    names = request["sample_names"]
    adata.obs[_SAMPLE] = pd.Categorical.from_codes(codes, categories=[str(name) for name in names])
    return _SAMPLE


def _read_embedded(request: Request) -> AnnData:
    """Object with the embeddings that R has kept, and their graph."""
    from m2st import pp

    scales = [read_matrix(scale["data"], scale["shape"]) for scale in request["scales"]]
    adata = AnnData(obs=_names(len(scales[0])))
    for number, scale in enumerate(scales, start=1):
        adata.obsm[_keys.Keys().scale(number)] = scale.astype(np.float32)
    for name, view in (request.get("views") or {}).items():
        values = read_matrix(view["data"], view["shape"]).astype(np.float32)
        adata.obsm[_VIEWS[name]] = values
    pp.spatial_graph(adata, sample_key=read_place(adata, request))
    adata.uns[_keys.DEFAULT]["n_members"] = int(request["n_members"])
    return adata


def _jobs(request: Request) -> int | None:
    """Members to work on at a time."""
    return None if request.get("n_jobs") is None else int(request["n_jobs"])


@contextlib.contextmanager
def _workers(request: Request) -> Iterator[None]:
    """Let processes of several jobs start with their own libraries, and end with the work.

    R puts the system's folders first where programs look for libraries. A Python that is not the
    system's would load the system's in place of its own. What these processes warn of is theirs.
    """
    if (_jobs(request) or 1) == 1:
        yield
        return
    from joblib.externals.loky import get_reusable_executor

    before = dict(os.environ)
    folders = before.get("LD_LIBRARY_PATH", "").split(":")
    own = [folder for folder in folders if not re.match("/(usr/)?lib", folder)]
    os.environ.update(LD_LIBRARY_PATH=":".join(own), PYTHONWARNINGS="ignore")
    try:
        yield
    finally:
        get_reusable_executor(reuse=True).shutdown(wait=True)
        for name in ("LD_LIBRARY_PATH", "PYTHONWARNINGS"):
            os.environ.pop(name)
            os.environ.update({name: before[name]} if name in before else {})


def _read_params(request: Request) -> tuple[AutoencoderParams, ClusteringParams | DualParams]:
    """Settings of both halves; what is not given keeps its default, the paper's if so asked."""
    given = dict(request.get("autoencoder") or {})
    if "scale_dims" in given:
        given["scale_dims"] = tuple(given["scale_dims"])
    clustering = request.get("clustering") or {}
    if not request.get("paper"):
        return AutoencoderParams(**given), ClusteringParams(**clustering)
    from m2st import paper

    return replace(paper.AUTOENCODER, **given), DualParams(**clustering)


def _results(adata: AnnData, *, scales: bool) -> Answer:
    """Results of an object as plain values and buffers; without domains, always with `scales`."""
    keys = _keys.Keys()
    # R has spots of its own in the record, as it draws them.
    record = {name: entry for name, entry in adata.uns[keys.record].items() if name != _keys.SPOTS}
    answer: Answer = {"record": _plain(record), "scales": []}
    if scales or keys.domain not in adata.obs:
        while (key := keys.scale(len(answer["scales"]) + 1)) in adata.obsm:
            answer["scales"].append(_buffer(adata.obsm[key]))
        answer["views"] = {
            name: _buffer(adata.obsm[key]) for name, key in _VIEWS.items() if key in adata.obsm
        }
    if keys.domain in adata.obs:
        answer |= _domains(adata, keys)
        if keys.second in adata.obs:
            answer["second"] = _names_and_labels(adata.obs[keys.second])
        # Labels are found from components, without a network: R has these in the network's place.
        of_network = keys.embedding in adata.obsm
        answer["embedding"] = _buffer(adata.obsm[keys.embedding if of_network else keys.features])
    return answer


def _names_and_labels(column: pd.Series) -> Answer:
    """Domains as R's factor is made of them: names, and codes from 1, 0 where missing."""
    codes = column.cat.codes.to_numpy()
    return {
        "domains": list(column.cat.categories),
        "labels": bytearray((codes.astype(np.int32) + 1).tobytes()),
    }


def _domains(adata: AnnData, keys: _keys.Keys) -> Answer:
    """Domains of a result, and the confidence in them if there is one."""
    answer = _names_and_labels(adata.obs[keys.domain])
    if keys.confidence in adata.obs:
        confidence = adata.obs[keys.confidence].to_numpy(dtype=np.float64)
        answer["confidence"] = bytearray(confidence.tobytes())
    return answer


def _buffer(matrix: NDArray[Any]) -> Answer:
    """Single precision values in R's order, and the shape."""
    values = np.asarray(matrix, dtype=np.float32)
    return {"data": bytearray(values.tobytes(order="F")), "shape": list(values.shape)}


def _plain(value: Any) -> Any:
    """Value in Python's own types; whole numbers that R's do not hold become real."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and abs(value) > _R_INTEGER:
        return float(value)
    return str(value) if isinstance(value, str) else value
