"""The comparison, by the R package's ``compareMethods``.

One implementation, in R: Python writes counts and coordinates into a folder, ``Rscript`` runs the
methods, each in a process of its own, and the tables are read back. Functions of Python run here,
and R scores what they found.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import recorded_key, valid_observations

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["METHODS", "Comparison", "compare_methods"]

METHODS = ("m2ST", "BayesSpace", "Seurat", "BANKSY")
"""What can be compared, in the order of the table."""

Method = Callable[[sparse.csr_matrix, NDArray[np.float64], int, int], Any]
"""Labels from counts, coordinates, the number of domains and a seed."""

_LATTICE = (("array_row", "array_col"), ("row", "col"))
_SPENT = ["seconds", "cpu_seconds", "peak_mb"]
_MISSING_IN_R = np.iinfo(np.int32).min

logger = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """Scores of each method, and their domains."""

    table: pd.DataFrame
    domains: pd.DataFrame


def compare_methods(
    adata: AnnData,
    n_domains: int,
    *,
    truth: str | None = None,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0,),
    layer: str | None = None,
    spatial_key: str | None = None,
    sample_key: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    further: Mapping[str, Method] | None = None,
) -> Comparison:
    """Find domains by several methods from the same counts, with the same scores.

    Parameters
    ----------
    adata
        Raw counts in ``X`` or `layer`, coordinates; for BayesSpace also rows and columns of the
        lattice in ``obs``: ``array_row``, ``array_col`` or ``row``, ``col``. Observations with
        ``obs["in_tissue"]`` 0 or False, or without finite coordinates, take no part.
    n_domains
        Number of domains, the same for all.
    truth
        Column of ``obs`` with an annotation, which only the scores see.
    methods
        Which to run, in this order.
    seeds
        Each method runs once with each.
    layer
        Layer that holds the counts.
    spatial_key
        Coordinates in ``obsm``. None takes the coordinates of the spatial graph in the object, else
        ``"spatial"``.
    sample_key
        Column of ``obs`` that names the tissue section.
    options
        Further arguments of a method, by its name, as R's ``compareMethods`` has them:
        ``{"BayesSpace": {"nrep": 10_000}}``.
    further
        Other methods, by name: functions of counts (CSR, n_obs × n_vars), coordinates (n_obs × 2 or
        3), the number of domains and a seed. Each returns a label for each observation. They get
        the observations with counts and coordinates. They run in this process, and their memory is
        not measured.

    Returns
    -------
    `Comparison`: ``table`` has a row for each method and seed. ``domains`` has a row for each
    observation and a column for each method and seed, with missing values for observations that
    took no part. The table has the columns of R's ``compareMethods``, and the machine. A method
    that failed or is not installed has no scores, and its reason in ``note``.

    Raises
    ------
    ImportError
        If R, or its package m2st, is not found.
    KeyError
        If `truth`, `layer` or `sample_key` is not there.
    RuntimeError
        With R's message, if nothing could be compared at all.
    ValueError
        If one of `further` has the name of another method.

    Notes
    -----
    R finds its package in its usual libraries; name others by the variable ``R_LIBS``. BANKSY is
    the package ``pybanksy`` of this Python.
    """
    program = shutil.which("Rscript")
    if program is None:
        msg = "Comparing methods needs R, found no Rscript. Install R so that it is on the PATH."
        raise ImportError(msg)
    further = dict(further or {})
    taken = [name for name in further if name in METHODS]
    if taken:
        msg = f"Expected names in `further` other than {', '.join(METHODS)}, found {taken[0]}."
        raise ValueError(msg)
    request = {
        "k": n_domains,
        "methods": list(methods),
        "seed": list(seeds),
        "options": options or {},
        "further": list(further),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        keys = {"truth": truth, "layer": layer, "sample_key": sample_key}
        spatial_key = spatial_key or recorded_key(adata, "spatial_key") or _keys.COORDINATES
        counts, coordinates = _write(folder, adata, request, spatial_key=spatial_key, **keys)
        spent = _run_further(folder, further, counts, coordinates, n_domains, seeds)
        _run_r(program, folder)
        # R rounds: a column of whole seconds would be read as integers, and take no fractions.
        kinds = {"note": "string", **dict.fromkeys(_SPENT, float)}
        table = pd.read_csv(folder / "table.csv", dtype=kinds)
        domains = pd.read_csv(folder / "domains.csv", dtype="Int64").astype("category")
    for (name, seed), run in spent.items():
        rows = (table["method"] == name) & (table["seed"] == seed)
        table.loc[rows, _SPENT] = [*run.seconds, np.nan]
        if run.note:
            table.loc[rows, "note"] = run.note
    domains = domains.apply(lambda column: column.cat.rename_categories(str))
    domains.index = adata.obs_names
    return Comparison(table.fillna({"note": ""}), domains)


def _write(
    folder: Path,
    adata: AnnData,
    request: Mapping[str, Any],
    *,
    spatial_key: str,
    truth: str | None,
    layer: str | None,
    sample_key: str | None,
) -> tuple[sparse.csr_matrix, NDArray[np.float64]]:
    """Leave what R's ``compareFiles`` reads: raw buffers, and the rest as JSON."""
    counts = sparse.csr_matrix(_entry(adata.layers, "layers", layer) if layer else adata.X)
    counts.sum_duplicates()  # sorts, too: R wants it
    coordinates = np.array(_entry(adata.obsm, "obsm", spatial_key), dtype=np.float64)
    coordinates[~valid_observations(adata, spatial_key)] = np.nan
    # Observations × variables by rows is genes × spots by columns.
    arrays = {
        "data": counts.data.astype(np.float64),
        "indices": counts.indices.astype(np.int32),
        "indptr": counts.indptr.astype(np.int32),
        "coordinates": coordinates.ravel(order="F"),
    }
    lattice = next((names for names in _LATTICE if {*names} <= {*adata.obs.columns}), None)
    if lattice is not None:
        places = adata.obs[list(lattice)].to_numpy(dtype=np.float64, na_value=np.nan)
        arrays["array"] = places.ravel(order="F")
    for name, column in (("truth", truth), ("sample", sample_key)):
        if column is not None:
            codes = pd.factorize(_entry(adata.obs, "obs", column))[0]
            arrays[name] = np.where(codes < 0, _MISSING_IN_R, codes).astype(np.int32)
    for name, array in arrays.items():
        array.tofile(folder / name)
    shape = [adata.n_vars, adata.n_obs]
    text = json.dumps({**request, "shape": shape})
    (folder / "request.json").write_text(text, encoding="utf-8")
    return counts, coordinates


class _Run(NamedTuple):
    """Seconds of the clock and at work, and why there is no result."""

    seconds: tuple[float, float]
    note: str


def _run_further(
    folder: Path,
    further: Mapping[str, Method],
    counts: sparse.csr_matrix,
    coordinates: NDArray[np.float64],
    n_domains: int,
    seeds: Sequence[int],
) -> dict[tuple[str, int], _Run]:
    """Run functions of Python, and leave their labels where R's ``compareFiles`` finds them."""
    kept = np.isfinite(coordinates).all(axis=1) & (np.asarray(counts.sum(axis=1)).ravel() > 0)
    spent: dict[tuple[str, int], _Run] = {}
    for number, (name, method) in enumerate(further.items()):
        for seed in seeds:
            logger.info("Running %s, seed %d", name, seed)
            codes, note = np.full(len(kept), _MISSING_IN_R, dtype=np.int32), ""
            started = time.perf_counter(), time.process_time()
            try:
                found = method(counts[kept], coordinates[kept], n_domains, seed)
                labels = pd.Series(np.asarray(found))
                if len(labels) != kept.sum():
                    msg = f"Expected {kept.sum()} labels of {name}, found {len(labels)}."
                    raise ValueError(msg)
                own = pd.factorize(labels)[0]
                codes[kept] = np.where(own < 0, _MISSING_IN_R, own + 1)
            except Exception as error:  # a row of the table says so, as for the other methods
                note = f"failed: {error}"
            clock, work = time.perf_counter() - started[0], time.process_time() - started[1]
            spent[name, seed] = _Run((clock, work), note)
            codes.tofile(folder / f"further_{number}_{seed}")
    return spent


def _entry(mapping: Any, where: str, key: str) -> Any:
    """Value of a key, or an error that lists those there are."""
    if key not in mapping:
        msg = f"Expected {key!r} in `adata.{where}`, found {', '.join(map(repr, mapping))}."
        raise KeyError(msg)
    return mapping[key]


def _run_r(program: str, folder: Path) -> None:
    """Let R compare; what it says goes to the log as it comes."""
    said = []
    process = subprocess.Popen(
        [program, "-e", "m2st::compareFiles(commandArgs(TRUE))", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "RETICULATE_PYTHON": sys.executable},
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip())
            logger.info(said[-1])
    if process.returncode == 0:
        return
    text = "\n".join(said)
    if re.search(r"no package called .m2st.", text):
        msg = "R does not have the package m2st. Install it from rpackage/, or set R_LIBS."
        raise ImportError(msg)
    reason = re.split(r"^Error(?: in .*?)?\s?: ", text, flags=re.MULTILINE)[-1]
    msg = f"The comparison failed in R: {reason.removesuffix('Execution halted').strip()}"
    raise RuntimeError(msg)
