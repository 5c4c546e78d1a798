"""m2ST beside BayesSpace, Seurat and BANKSY, by the R package's ``compareMethods``.

One implementation, in R: Python writes counts and places into a folder, ``Rscript`` runs the
methods, each in a process of its own, and the tables are read back. R in turn calls `banksy` and
`spatial_scores` here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st import _keys, bridge, metrics

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["METHODS", "Comparison", "compare_methods"]

METHODS = ("m2ST", "BayesSpace", "Seurat", "BANKSY")
"""What can be compared, in the order of the table."""

_LATTICE = (("array_row", "array_col"), ("row", "col"))
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
    sample_key: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Comparison:
    """Find domains by several methods from the same counts, and score them alike.

    Parameters
    ----------
    adata
        Raw counts in ``X`` or `layer`, places in ``obsm["spatial"]``; for BayesSpace also rows and
        columns of the lattice in ``obs``: ``array_row``, ``array_col`` or ``row``, ``col``.
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
    sample_key
        Column of ``obs`` that names the tissue section.
    options
        Further arguments of a method, by its name, as R's ``compareMethods`` has them:
        ``{"BayesSpace": {"nrep": 10_000}}``.

    Returns
    -------
    `Comparison`: ``table``, a row for each method and seed, and ``domains``, a row for each
    observation and a column for each method (and seed), missing where an observation took no part.
    The columns of the table are those of R's ``compareMethods``, and the machine. A method that
    failed, or that is not installed, has its reason in ``note`` and no scores.

    Raises
    ------
    ImportError
        If R, or its package m2st, is not found.
    KeyError
        If `truth`, `layer` or `sample_key` is not there.
    RuntimeError
        With R's message, if nothing could be compared at all.

    Notes
    -----
    R finds its package in its usual libraries; name others by the variable ``R_LIBS``. BANKSY is
    the package ``pybanksy`` of this Python.
    """
    program = shutil.which("Rscript")
    if program is None:
        msg = "Comparing methods needs R, found no Rscript. Install R so that it is on the PATH."
        raise ImportError(msg)
    request = {
        "k": n_domains,
        "methods": list(methods),
        "seed": list(seeds),
        "options": options or {},
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, adata, request, truth=truth, layer=layer, sample_key=sample_key)
        _run_r(program, folder)
        table = pd.read_csv(folder / "table.csv", dtype={"note": "string"})
        domains = pd.read_csv(folder / "domains.csv", dtype="Int64").astype("category")
    domains = domains.apply(lambda column: column.cat.rename_categories(str))
    domains.index = adata.obs_names
    return Comparison(table.fillna({"note": ""}), domains)


def banksy(request: bridge.Request) -> bridge.Answer:
    """Domains by BANKSY, for R: its notebooks' preparation, and its own search for a resolution.

    Parameters
    ----------
    request
        Counts and places as for `m2st.bridge.run`; ``n_domains``, ``n_neighbors``, ``share``
        (lambda, the weight of the neighbours), ``max_m`` (1 adds gradients), ``random_state``.

    Returns
    -------
    ``labels``: int32, from 1; ``version``. Or ``error``.
    """

    def compute() -> bridge.Answer:
        try:
            return _banksy(request)
        except ModuleNotFoundError as error:
            if error.name not in {"banksy", "banksy_utils"}:
                raise
            msg = "The Python package 'pybanksy' is needed to run it. Run `pip install pybanksy`."
            raise ValueError(msg) from error

    return bridge._answer(compute, request)


def spatial_scores(request: bridge.Request) -> bridge.Answer:
    """CHAOS and PAS of several labellings of the same observations, for R.

    Parameters
    ----------
    request
        Places as for `m2st.bridge.run`; ``labels``: int32 of each observation, for each labelling.

    Returns
    -------
    ``chaos`` and ``pas``, a number for each labelling. Or ``error``.
    """

    def compute() -> bridge.Answer:
        labels = [np.frombuffer(one, dtype=np.int32) for one in request["labels"]]
        coordinates = bridge._matrix(request["coordinates"], (len(labels[0]), request["n_axes"]))
        samples = request.get("sample")
        if samples is not None:
            samples = np.frombuffer(samples, dtype=np.int32)
        return {
            "chaos": [metrics.chaos(coordinates, one, samples=samples) for one in labels],
            "pas": [metrics.pas(coordinates, one, samples=samples) for one in labels],
        }

    return bridge._answer(compute, request)


def _write(
    folder: Path,
    adata: AnnData,
    request: Mapping[str, Any],
    *,
    truth: str | None,
    layer: str | None,
    sample_key: str | None,
) -> None:
    """Leave what R's ``compareFiles`` reads: raw buffers, and the rest as JSON."""
    from scipy import sparse

    counts = sparse.csr_matrix(_entry(adata.layers, "layers", layer) if layer else adata.X)
    counts.sum_duplicates()  # sorts, too: R wants it
    coordinates = np.asarray(_entry(adata.obsm, "obsm", _keys.COORDINATES), dtype=np.float64)
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
        [program, "-e", "m2st:::compareFiles(commandArgs(TRUE))", str(folder)],
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


def banksy_domains(
    adata: AnnData,
    n_domains: int,
    *,
    n_neighbors: int,
    share: float,
    max_m: int,
    random_state: int,
    counts: bool = True,
) -> NDArray[np.int32]:
    """Domains by BANKSY as its notebooks find them, for `banksy` and for the benchmarks.

    Parameters
    ----------
    adata
        Expression in ``X``, places in ``obsm["spatial"]``. Left as it is.
    n_domains
        BANKSY's own search for a resolution is to give so many.
    n_neighbors, share, max_m
        As `banksy` describes them.
    random_state
        Seed of the components and of the partition.
    counts
        Whether ``X`` has raw counts, of which variable genes are chosen and which are normalised.

    Returns
    -------
    int32, from 1, for each observation. They may be more or fewer than `n_domains`.
    """
    import matplotlib as mpl
    import scanpy as sc
    from scipy import sparse

    mpl.use("agg")  # it imports pyplot, and no window is wanted
    with warnings.catch_warnings(), _seeded(random_state):
        warnings.simplefilter("ignore")  # written for older libraries
        from banksy.cluster_methods import run_Leiden_partition
        from banksy.embed_banksy import generate_banksy_matrix
        from banksy.initialize_banksy import initialize_banksy
        from banksy_utils.umap_pca import pca_umap

        adata = adata.copy()
        if counts:
            if adata.n_vars > 2000:
                sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=2000)
                adata = adata[:, adata.var["highly_variable"]].copy()
            sc.pp.normalize_total(adata)
        if sparse.issparse(adata.X):
            adata.X = adata.X.toarray()
        found = initialize_banksy(
            adata,
            ("x", "y", _keys.COORDINATES),  # the first two are for its pictures
            n_neighbors,
            max_m=max_m,
            plt_edge_hist=False,
            plt_nbr_weights=False,
            plt_theta=False,
        )
        found, _ = generate_banksy_matrix(adata, found, [share], max_m, verbose=False)
        pca_umap(found, pca_dims=[min(20, adata.n_vars - 1)], plt_remaining_var=False)
        results, _ = run_Leiden_partition(
            found,
            [],
            max_labels=n_domains,
            partition_seed=random_state,
            match_labels=False,
            verbose=False,
        )
    nearest = (results["num_labels"] - n_domains).abs().idxmin()
    labels = np.asarray(results.loc[nearest, "labels"].dense)
    return np.unique(labels, return_inverse=True)[1].astype(np.int32) + 1


def _banksy(request: bridge.Request) -> bridge.Answer:
    from importlib.metadata import version

    adata = bridge._read_expression(request)
    bridge._read_place(adata, request)
    adata.obsm[_keys.COORDINATES] = _apart(adata.obsm[_keys.COORDINATES], request)
    labels = banksy_domains(
        adata,
        int(request["n_domains"]),
        n_neighbors=int(request["n_neighbors"]),
        share=float(request["share"]),
        max_m=int(request["max_m"]),
        random_state=int(request["random_state"]),
    )
    return {"labels": bytearray(labels.tobytes()), "version": "pybanksy " + version("pybanksy")}


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global stream, which BANKSY's components draw from, and put it back after."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002, TID251
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _apart(places: NDArray[np.float64], request: bridge.Request) -> NDArray[np.float64]:
    """Sections side by side, further from each other than any two places within one."""
    moved = places.copy()
    if request.get("sample") is not None:
        codes = np.frombuffer(request["sample"], dtype=np.int32)
        for code in np.unique(codes):
            moved[codes == code] -= places[codes == code].min(axis=0)
        moved[:, 0] += codes * 2 * np.linalg.norm(moved.max(axis=0))
    return moved
