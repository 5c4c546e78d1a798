"""Validators with one phrasing: what was expected, what was found, what to do."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st._files import is_store, try_place
from m2st._keys import (
    CONNECTIVITIES,
    COORDINATES,
    DEFAULT,
    DISTANCES,
    GRAPH_RECORD,
    IN_TISSUE,
    NEIGHBORS,
    Keys,
)

_PACKAGE = str(Path(__file__).parent) + os.sep
# Entries of the record, each of them a dictionary.
_ENTRIES = ("graph", "prepare", "embed", "cluster", "n_domains", "register", "tree")
# Names that h5ad, zarr and SpatialData can all hold.
_NAME = re.compile(r"[^\W_][\w.-]*")
# Of others' keys in ``uns``, and of what m2ST writes beside the record of another result.
_NO_NAME = re.compile(
    r"spatial|spatial_neighbors|spatialdata_attrs|m2st_(r|python)"
    r"|.*_(pca|pca_no_neighbors|averages|cell_types|scale\d*|domain|confidence|second|colors)"
)
# Missing values as texts, once a column was converted.
_WRITTEN_MISSING = {"", "NA", "NaN", "nan", "None", "<NA>"}
# scikit-learn and NumPy's older generators take no larger seed.
_LAST_SEED = 2**32 - 1
# Largest and, inverted, smallest size of values: their squares and sums stay within single
# precision, and those of coordinates within double precision.
_MAGNITUDE, _COORDINATE_MAGNITUDE = 1e15, 1e100
# Rows that a check looks at at a time.
_PIECE = 16_384
# Observations farther from the middle than so many times as far as nine of ten others: beside them
# the others fall into one place.
_OUTLYING = 1e10
LARGEST_LOG = 30
"""No logarithm of an expression value is larger, to whatever base."""


def check_int(name: str, value: object, *, minimum: int) -> None:
    """Require a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"Expected `{name}` to be a whole number, found {value!r} ({type(value).__name__})."
        raise TypeError(msg)
    if int(value) < minimum:
        msg = f"Expected `{name}` to be at least {minimum}, found {value}."
        raise ValueError(msg)


def check_seed(value: object, *, name: str = "random_state") -> int:
    """Require a seed that every library underneath takes: a whole number below 2**32."""
    check_int(name, value, minimum=0)
    seed = int(cast("int", value))
    if seed > _LAST_SEED:
        msg = f"Expected `{name}` of at most {_LAST_SEED} (2**32 - 1), found {seed}."
        raise ValueError(msg)
    return seed


def check_interval(
    name: str, value: object, low: float, high: float, *, closed: tuple[bool, bool] = (True, True)
) -> None:
    """Require a real number between `low` and `high`; `closed` says which ends are allowed."""
    left, right = "[" if closed[0] else "(", "]" if closed[1] else ")"
    interval = f"{left}{low:g}, {high:g}{right}"
    if isinstance(value, bool) or not isinstance(value, Real):
        msg = f"Expected `{name}` in {interval}, found {value!r} ({type(value).__name__})."
        raise TypeError(msg)
    number = float(value)
    above = number >= low if closed[0] else number > low
    below = number <= high if closed[1] else number < high
    if not (above and below):
        msg = f"Expected `{name}` in {interval}, found {value}."
        raise ValueError(msg)


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Require one of a few strings."""
    if value not in choices:
        msg = f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, found {value!r}."
        raise ValueError(msg)


def check_adata(adata: Any) -> None:
    """Require an AnnData whose place for the record of m2ST holds one, or nothing."""
    if not all(hasattr(adata, slot) for slot in ("X", "layers", "obs", "obsm", "obsp", "uns")):
        msg = (
            f"Expected an AnnData object, found {type(adata).__name__}. Read a file with "
            "`m2st.io.read(path)`; of a collection of tables, pass one."
        )
        raise TypeError(msg)
    if not hasattr(adata.obs, "drop"):  # a view of a file, which takes no new column
        msg = (
            f"Expected observations in memory, found {type(adata.obs).__name__}. Read all with "
            "`adata.to_memory()`, or leave only the expression in the file with "
            "`m2st.io.read(path, backed=True)`."
        )
        raise TypeError(msg)
    _check_record(adata, DEFAULT)


def _check_record(adata: Any, name: str) -> None:
    """Require a record of m2ST under this name in ``uns``, or nothing."""
    record = adata.uns.get(name, {})
    found = {f"adata.uns[{name!r}]": record}
    if isinstance(record, Mapping):
        found |= {f"adata.uns[{name!r}][{k!r}]": record[k] for k in _ENTRIES if k in record}
    for where, entry in found.items():
        if not isinstance(entry, Mapping):
            msg = (
                f"Expected `{where}` to be a record of m2ST, found {type(entry).__name__}. It "
                "would be overwritten: give it another name, or delete it."
            )
            raise TypeError(msg)


def check_key_added(adata: Any, name: object) -> Keys:
    """Require a name for a result that takes the place of nothing else; return its keys.

    Under another name than the default, what stands where the result is to go has to be m2ST's: the
    record tells which steps have written there.
    """
    if not isinstance(name, str):
        msg = f"Expected `key_added` to be a name, found {name!r} ({type(name).__name__})."
        raise TypeError(msg)
    if not _NAME.fullmatch(name):
        msg = (
            "Expected `key_added=` of letters, digits, '_', '-' and '.', with a letter or a digit "
            f"first, found {name!r}. Choose another name."
        )
        raise ValueError(msg)
    if _NO_NAME.fullmatch(name):
        msg = (
            f"Expected `key_added=` to be a name of its own, found {name!r}, which stands for "
            "something else in the object or ends like a key of m2ST. Choose another name."
        )
        raise ValueError(msg)
    keys = Keys(name)
    if name == DEFAULT:
        return keys
    record = adata.uns.get(name, {})
    known = set(record) if isinstance(record, Mapping) else set()
    found = []
    if not isinstance(record, Mapping) or (known and not known & {*_ENTRIES, "n_members"}):
        found.append(f"adata.uns[{name!r}]")
    if not known & {"n_members", "apply"}:
        columns = (keys.domain, keys.confidence, keys.second)
        found += [f"adata.obs[{key!r}]" for key in columns if key in adata.obs]
        own = [keys.embedding, *keys.views, *scales_of(adata, keys)]
        found += [f"adata.obsm[{key!r}]" for key in own if key in adata.obsm]
    if "prepare" not in known:
        own = [keys.features, keys.no_neighbors]
        found += [f"adata.obsm[{key!r}]" for key in own if key in adata.obsm]
    if found:
        msg = (
            f"Expected `key_added={name!r}` to name a result of m2ST or nothing, found "
            f"`{found[0]}`, which m2ST has not written. Choose another name."
        )
        raise ValueError(msg)
    _check_record(adata, name)
    return keys


def scales_of(adata: Any, keys: Keys) -> list[str]:
    """Keys in ``obsm`` of the embeddings of each scale; others only begin alike."""
    prefix = keys.scale("")
    return [
        key for key in adata.obsm if key.startswith(prefix) and key.removeprefix(prefix).isdecimal()
    ]


def check_key(key: str, slot: Mapping[str, Any] | Any, *, where: str, hint: str = "") -> None:
    """Require `key` in a mapping such as ``adata.obsm``; the message lists what is there."""
    if type(key).__hash__ is None:
        msg = f"Expected the name of one entry of `{where}`, found {key!r}."
        raise TypeError(msg)
    if key not in slot:
        # anndata from 0.13 on lists X among the layers, as None.
        found = ", ".join(str(one) for one in slot if one is not None) or "nothing"
        msg = f"Expected {key!r} in `{where}` (found: {found}).{' ' + hint if hint else ''}"
        raise KeyError(msg)


def check_target(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> Path:
    """Require a path that can and may be written to; return it without links, so that they stay.

    It is tried: something is written beside it and removed. Without `suffixes` any ending will do.
    What ends in ``.zarr`` is the folder of a store, everything else a file.
    """
    suffix = path.suffix.lower()
    if suffixes and suffix not in map(str.lower, suffixes):
        *others, last = (f"`{suffix}`" for suffix in suffixes)
        listed = f"{', '.join(others)} or {last}" if others else last
        msg = f"Expected a path that ends in {listed}, found {path}."
        raise ValueError(msg)
    target = path.resolve()
    if not os.path.isdir(target.parent):  # a Path raises where a name is too long
        msg = f"Expected the folder {target.parent} to exist. Make it first, or check the path."
        raise FileNotFoundError(msg)
    try_place(target)
    if not target.exists():
        return target
    kind = "zarr store" if suffix == ".zarr" else "file"
    if not (is_store(target) if kind == "zarr store" else target.is_file()):
        found = "a folder" if target.is_dir() else "something else"
        msg = (
            f"Expected a {kind} or nothing at {path}, found {found}, which is never replaced. Name "
            "another path."
        )
        raise ValueError(msg)
    if not overwrite:
        msg = f"Expected no {kind} at {path}, found one. Pass `overwrite=True` to replace it."
        raise FileExistsError(msg)
    return target


def check_names_as_labels(column: pd.Series, *, where: str, key: str) -> None:
    """Require labels that are names: numbers may measure something."""
    values = column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column
    if pd.api.types.is_numeric_dtype(values) and not column.isna().all():
        at = f"{where}[{key!r}]"
        msg = (
            f"Expected names as labels in `{at}`, found numbers ({values.dtype}). If each number "
            f'stands for a domain, write them as text: `{at} = {at}.astype("string")`.'
        )
        raise TypeError(msg)


def check_missing_as_such(column: pd.Series, *, what: str, name: str) -> None:
    """Require missing `what` to be missing values, where the texts of one column are names."""
    texts = [v for v in column.unique() if isinstance(v, str) and v.strip() in _WRITTEN_MISSING]
    if texts:
        msg = (
            f"Expected missing {what} in `{name}` to be missing values, found the text "
            f"{texts[0]!r}. Call `{name} = {name}.astype(object).replace({{{texts[0]!r}: None}})` "
            "first."
        )
        raise ValueError(msg)


def first_of(names: Sequence[str]) -> str:
    """A few names, and how many there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, … ({len(names):,} in all)"


def check_dtype(dtype: Any, *, name: str) -> None:
    """Require a type of real numbers: no text, no Python objects, no complex numbers."""
    kind = getattr(dtype, "kind", "O")
    if kind not in "buif":
        found = {"O": "Python objects", "U": "text", "S": "text", "T": "text"}.get(kind, str(dtype))
        msg = (
            f"Expected numbers in `{name}`, found {found}. Convert them first, for example with "
            "`.astype(float)`."
        )
        raise TypeError(msg)


def check_sparse(matrix: Any, *, name: str) -> sparse.csr_matrix | sparse.csc_matrix:
    """Require numbers and indices within the shape; here it becomes CSR, unless it is CSC.

    What the compiled code of scipy would read beyond its arrays for ends the process. The arrays
    of the caller are shared, not changed.
    """
    check_dtype(matrix.dtype, name=name)
    try:
        if matrix.format not in ("csr", "csc"):
            triples = matrix.tocoo()
            values = triples.data.astype(np.float64)  # sums of small integers would run over
            return sparse.coo_matrix(
                (values, (triples.row, triples.col)), shape=matrix.shape
            ).tocsr()
        if {matrix.indices.dtype.kind, matrix.indptr.dtype.kind} - {"i", "u"}:
            msg = "its indices are no whole numbers"
            raise ValueError(msg)
        kind = sparse.csr_matrix if matrix.format == "csr" else sparse.csc_matrix
        own = kind((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
        own.check_format(full_check=True)
    except (ValueError, IndexError) as error:
        msg = (
            f"Expected a valid sparse matrix in `{name}`, found a damaged one: {error}. "
            "Read or build it again."
        )
        raise ValueError(msg) from error
    return own


def canonical(
    matrix: sparse.csr_matrix | sparse.csc_matrix,
) -> sparse.csr_matrix | sparse.csc_matrix:
    """Sum repeated entries, sort the others, leave zeros out: on a copy, if there is any need."""
    if not matrix.has_canonical_format:
        matrix = matrix.astype(np.float64)
        matrix.sum_duplicates()
    if not matrix.data.all():
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return matrix


def unmasked(array: NDArray[Any]) -> NDArray[Any]:
    """Values of an array, those that are masked as NaN."""
    if isinstance(array, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(array.astype(np.float64), np.nan))
    return array


def by_row(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array that lies row by row: along columns, sums would take another order."""
    by_column = array.ndim == 2 and array.strides[0] < array.strides[1]
    return np.ascontiguousarray(array) if by_column else array


def check_numbers(values: Any, *, name: str) -> NDArray[Any]:
    """Require real numbers, in any storage; here they become a dense array, row by row.

    Masked and missing values become NaN; whole numbers become float64.
    """
    if hasattr(values, "to_memory"):  # of a file
        values = values.to_memory()
    elif hasattr(values, "compute"):  # of dask
        values = values.compute()
    if sparse.issparse(values):
        values = canonical(check_sparse(values, name=name)).toarray()
    elif hasattr(values, "dtypes"):  # a table
        for column, dtype in values.dtypes.items():
            check_dtype(dtype, name=f"{name}[{column!r}]")
        values = values.to_numpy(dtype=np.float64, na_value=np.nan)
    try:
        array = np.asanyarray(values)
    except (TypeError, ValueError) as error:
        msg = f"Expected a table of numbers in `{name}`, found {type(values).__name__}: {error}."
        raise TypeError(msg) from error
    check_dtype(array.dtype, name=name)
    array = unmasked(array)
    size = array.dtype.itemsize if array.dtype.kind == "f" else 8
    return by_row(np.asarray(array, dtype=np.float32 if size <= 4 else np.float64))


def _check_magnitude(values: NDArray[Any], *, name: str, limit: float) -> None:
    """Require values whose squares and sums the arithmetic can hold; those not finite aside."""
    largest = max(
        float(np.abs(part).max(where=np.isfinite(part), initial=0)) for part in _pieces(values)
    )
    if largest > limit or 0 < largest < 1 / limit:
        msg = (
            f"Expected values in `{name}` between {1 / limit:g} and {limit:g} in size, found them "
            f"up to {largest:.3g}. Give them in another unit."
        )
        raise ValueError(msg)


def _pieces(values: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of some rows each, so that what a check computes of them takes little memory."""
    return [values[first : first + _PIECE] for first in range(0, len(values) or 1, _PIECE)]


def check_several(adata: Any) -> None:
    """Require observations that there could be structure among."""
    if adata.n_obs < 2:
        msg = f"Expected at least 2 observations, found {adata.n_obs}."
        raise ValueError(msg)


def check_rep(adata: Any, use_rep: str) -> NDArray[np.float32]:
    """Require a matrix of features in an AnnData; here it becomes dense, n_obs × n_features."""
    check_adata(adata)
    check_several(adata)
    if use_rep == "X":
        matrix: Any = adata.X
        if matrix is None:
            msg = "Expected an expression matrix in `adata.X`, found none."
            raise ValueError(msg)
    else:
        check_key(
            use_rep,
            adata.obsm,
            where="adata.obsm",
            hint="Run `m2st.pp.prepare(adata)` first, or name ready features with `use_rep=`.",
        )
        matrix = adata.obsm[use_rep]
    features = check_numbers(matrix, name=use_rep)
    if features.ndim != 2:
        msg = f"Expected `{use_rep}` of shape (n_obs, n_features), found {features.shape}."
        raise ValueError(msg)
    _check_magnitude(features, name=use_rep, limit=_MAGNITUDE)
    features = features.astype(np.float32, copy=False)
    hidden = ~valid_observations(adata) & ~np.isnan(features).all(axis=1)
    if hidden.any():
        features = features.copy()
        features[hidden] = np.nan
        warn_invalid(int(hidden.sum()), n_obs=adata.n_obs)
    return features


def recorded_key(adata: Any, name: str) -> str | None:
    """``spatial_key`` or ``sample_key`` that the spatial graph was built with, if known."""
    record = adata.uns.get(GRAPH_RECORD)
    graph = record.get("graph") if isinstance(record, Mapping) else None
    key = graph.get(name) if isinstance(graph, Mapping) else None
    slot = adata.obsm if name == "spatial_key" else adata.obs
    return key if isinstance(key, str) and key in slot else None


def numbers_at(adata: Any, key: str) -> NDArray[np.float64] | None:
    """A table of numbers in ``obsm``, n_obs × n_columns; None for anything else."""
    try:
        values = check_numbers(adata.obsm[key], name=key) if key in adata.obsm else np.empty(0)
    except (TypeError, ValueError):
        return None
    return values.astype(np.float64, copy=False) if values.ndim == 2 else None


def region_key(adata: Any) -> str | None:
    """Column of ``obs`` that names the region of each observation in a SpatialData store."""
    attrs = adata.uns.get("spatialdata_attrs")
    key = attrs.get("region_key") if isinstance(attrs, Mapping) else None
    return key if isinstance(key, str) and key in adata.obs else None


def valid_observations(adata: Any, spatial_key: str | None = None) -> NDArray[np.bool_]:
    """Observations that can take part: on the tissue, with finite coordinates.

    Coordinates that are no numbers at all are left to `check_coordinates`.
    """
    check_adata(adata)
    valid = np.ones(adata.n_obs, dtype=bool)
    if IN_TISSUE in adata.obs:
        codes, values = pd.factorize(adata.obs[IN_TISSUE])
        # Only an explicit no puts an observation outside.
        outside = np.array(
            [str(value).strip().lower() in {"0", "0.0", "false"} for value in values], dtype=bool
        )
        valid &= ~np.r_[outside, False][codes]
    key = spatial_key or recorded_key(adata, "spatial_key") or COORDINATES
    coordinates = numbers_at(adata, key)
    if coordinates is not None:
        valid &= np.isfinite(coordinates).all(axis=1)
    if len(valid) and not valid.any():
        msg = (
            f"Expected observations on the tissue with finite coordinates, found none among "
            f"{len(valid)}. Check `adata.obsm[{key!r}]` and `adata.obs[{IN_TISSUE!r}]`."
        )
        raise ValueError(msg)
    return valid


def warn_invalid(n_invalid: int, *, n_obs: int) -> None:
    """Say how many observations take no part for want of a place."""
    if n_invalid:
        msg = (
            f"{n_invalid} of {n_obs} observations have no coordinates or lie off the tissue "
            "(column `in_tissue`): their features are NaN and they will have no domain."
        )
        warn(msg)


def check_graph(adata: Any) -> sparse.csr_matrix:
    """Require the spatial graph in an AnnData."""
    hint = "Run `m2st.pp.spatial_graph(adata)` first."
    check_key(CONNECTIVITIES, adata.obsp, where="adata.obsp", hint=hint)
    adjacency = check_adjacency(
        adata.obsp[CONNECTIVITIES], n_obs=adata.n_obs, name=f'adata.obsp["{CONNECTIVITIES}"]'
    )
    params = graph_params(adata)
    if params is None or _has_lengths_of(adata, adjacency, params["spatial_key"]):
        return adjacency
    spatial_key = params["spatial_key"]
    keys = [f"{key}={params[key]!r}" for key in ("spatial_key", "sample_key") if key in params]
    msg = (
        f"Expected a spatial graph of `adata.obsm[{spatial_key!r}]`, found one that was built "
        "from other coordinates: its edges have other lengths. Build it again with "
        f"`m2st.pp.spatial_graph(adata, {', '.join(keys)})`."
    )
    raise ValueError(msg)


def graph_params(adata: Any) -> Mapping[str, Any] | None:
    """How `m2st.pp` built the spatial graph at hand; None for a graph that it did not build.

    Squidpy replaces the note on the graph; a graph that was changed by hand has another number of
    edges than the record says. One of fewer observations is ours, restricted to a subset.
    """
    note, record = adata.uns.get(NEIGHBORS), adata.uns.get(GRAPH_RECORD)
    params = note.get("params") if isinstance(note, Mapping) else None
    if not isinstance(params, Mapping) or not {"method", "spatial_key"} <= params.keys():
        return None
    graph = record.get("graph", {}) if isinstance(record, Mapping) else {}
    n_edges = adata.obsp[CONNECTIVITIES].nnz
    changed = graph.get("n_obs") == adata.n_obs and graph.get("n_edges") != n_edges
    return None if changed or graph.get("method") == "given" else params


def _has_lengths_of(adata: Any, adjacency: sparse.csr_matrix, spatial_key: str) -> bool:
    """Whether the stored lengths of the edges are those in the coordinates, in any unit.

    True, too, where there is nothing to compare. A subset of the observations, another order, a
    shift and a rotation change no length. Rounding is allowed for.
    """
    stored = adata.obsp.get(DISTANCES)
    points = numbers_at(adata, spatial_key)
    if not sparse.issparse(stored) or points is None:
        return True
    stored = check_sparse(stored, name=f'adata.obsp["{DISTANCES}"]').tocsr()
    if stored.shape != adjacency.shape or not (
        np.array_equal(stored.indptr, adjacency.indptr)
        and np.array_equal(stored.indices, adjacency.indices)
    ):
        return True
    source = np.repeat(np.arange(len(points)), np.diff(stored.indptr))
    steps = points[source] - points[stored.indices]
    known = np.isfinite(steps).all(axis=1)
    lengths, steps = stored.data[known], steps[known]
    if not lengths.any():
        return True
    # The array indices of Visium are measured in columns: rows lie √3 apart.
    units: list[Any] = [1.0]
    if steps.shape[1] == 2 and (steps == np.floor(steps)).all():
        units += [(1.0, np.sqrt(3)), (np.sqrt(3), 1.0)]
    # In this unit the squares of no two are out of range.
    steps = steps / (np.abs(steps).max() or 1.0)
    for unit in units:
        found = np.linalg.norm(steps * unit, axis=1)
        scale = np.median(found[lengths > 0] / lengths[lengths > 0])
        miss = np.abs(found - scale * lengths) > 0.1 * scale * np.median(lengths)
        if scale > 0 and miss.mean() <= 0.01:
            return True
    return False


def check_features(
    features: NDArray[Any], *, name: str = "features", valid: NDArray[np.bool_] | None = None
) -> None:
    """Require a matrix of finite numbers with at least one row and one column.

    With `valid`, shape (n_obs,), it is asked of these rows only. They are not copied.
    """
    if features.ndim != 2 or 0 in features.shape:
        msg = f"Expected `{name}` of shape (n_obs, n_features), found {features.shape}."
        raise ValueError(msg)
    rows = np.ones(len(features), dtype=bool) if valid is None else valid
    broken = np.concatenate([(~np.isfinite(part)).any(axis=1) for part in _pieces(features)])
    bad = int((broken & rows).sum())
    if bad:
        msg = (
            f"Expected `{name}` to be finite, found NaN or infinity in {bad} of {rows.sum()} "
            "observations. Remove these observations or repair their values."
        )
        raise ValueError(msg)
    _check_magnitude(features, name=name, limit=_MAGNITUDE)


def check_coordinates(coordinates: NDArray[Any], *, name: str = "coordinates") -> None:
    """Require finite coordinates in the plane or in space, not all of them in one place."""
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        msg = f"Expected `{name}` of shape (n_obs, 2) or (n_obs, 3), found {coordinates.shape}."
        raise ValueError(msg)
    bad = int((~np.isfinite(coordinates)).any(axis=1).sum())
    if bad:
        msg = (
            f"Expected finite `{name}`, found NaN or infinity in {bad} of {len(coordinates)} "
            "observations. Remove them first: `adata[np.isfinite(adata.obsm['spatial']).all(1)]`."
        )
        raise ValueError(msg)
    _check_magnitude(coordinates, name=name, limit=_COORDINATE_MAGNITUDE)
    if len(coordinates) > 1 and np.ptp(coordinates, axis=0).max() == 0:
        msg = (
            f"Expected `{name}` that differ between observations, found all {len(coordinates)} at "
            f"{coordinates[0].tolist()}. Check that the coordinates were read into the right slot."
        )
        raise ValueError(msg)
    away = np.abs(coordinates - np.median(coordinates, axis=0)).max(axis=1)
    usual = np.quantile(away[away > 0], 0.9, method="lower") if away.any() else 0.0
    outlying = int((away > _OUTLYING * usual).sum())
    if outlying and usual:
        msg = (
            f"Expected `{name}` in one unit, found {outlying} of {len(coordinates)} observations "
            f"over {_OUTLYING:g} times as far from the middle as the others. Remove them or repair "
            "their coordinates."
        )
        raise ValueError(msg)


def check_expression(matrix: sparse.csr_matrix | sparse.csc_matrix, *, name: str) -> None:
    """Require finite, non-negative expression values."""
    values = matrix.data
    bad = int((~np.isfinite(values)).sum())
    if bad:
        msg = (
            f"Expected finite expression in `{name}`, found {bad} NaN, infinite or masked values. "
            "Repair or remove the observations and genes concerned."
        )
        raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = (
            f"Expected non-negative expression in `{name}`, found values down to {values.min():g}. "
            "Scaled or centred data cannot be prepared again: give the raw counts with `layer=`, "
            "or pass ready features with `use_rep=`."
        )
        raise ValueError(msg)
    _check_magnitude(values, name=name, limit=_MAGNITUDE)


def fractional(values: NDArray[np.floating[Any]]) -> NDArray[Any]:
    """Values that are no counts, also not but for the rounding of a logarithm taken back."""
    found: NDArray[Any] = values[np.abs(values - np.rint(values)) > 1e-5 * values]
    return found


def looks_logged(rows: sparse.csr_matrix) -> bool:
    """Whether positive values become counts, divided by library sizes or not, without a logarithm.

    Of such a row all values are then multiples of the least one, which stands for a single count,
    or all rows have the same sum. Values that are multiples as they are, such as counts times a
    constant, have no logarithm.
    """
    rows = rows[np.flatnonzero(np.diff(rows.indptr))]
    values, starts = rows.data.astype(np.float64), rows.indptr[:-1]
    if not values.size or values.max() > LARGEST_LOG:
        return False

    def multiples(linear: NDArray[np.float64]) -> bool:
        least = np.repeat(np.minimum.reduceat(linear, starts), np.diff(rows.indptr))
        ratio = linear / least
        ratio = ratio[ratio > 1.01]
        return ratio.size >= 20 and float((np.abs(ratio - np.rint(ratio)) < 0.01).mean()) > 0.8

    def spread(linear: NDArray[np.float64]) -> float:
        totals = np.add.reduceat(linear, starts)
        return float(totals.std() / totals.mean())

    if multiples(values):
        return False
    linear = [np.expm1(values * np.log(base)) for base in (np.e, 2, 10)]
    return any(multiples(one) or spread(one) < min(0.02, spread(values)) for one in linear)


def check_adjacency(adjacency: Any, *, n_obs: int, name: str = "adjacency") -> sparse.csr_matrix:
    """Require a symmetric sparse graph over `n_obs` observations with finite weights.

    Returned is what counts of it, whatever its storage: CSR, float32, 1 for each edge, that is,
    for each entry off the diagonal that is not zero.
    """
    if not sparse.issparse(adjacency):
        msg = f"Expected `{name}` to be a scipy sparse matrix, found {type(adjacency).__name__}."
        raise TypeError(msg)
    if adjacency.shape != (n_obs, n_obs):
        msg = (
            f"Expected `{name}` of shape ({n_obs}, {n_obs}), found {adjacency.shape}. The graph "
            "belongs to other observations: build it again with `m2st.pp.spatial_graph(adata)`."
        )
        raise ValueError(msg)
    links = canonical(check_sparse(adjacency, name=name)).tocsr()
    bad = int((~np.isfinite(links.data)).sum())
    if bad:
        msg = (
            f"Expected finite weights in `{name}`, found {bad} NaN or infinite ones. Build the "
            "graph again with `m2st.pp.spatial_graph(adata)`."
        )
        raise ValueError(msg)
    if links.diagonal().any():
        links = links - sparse.diags(links.diagonal(), format="csr")
        links.eliminate_zeros()
    ones = np.ones(links.nnz, dtype=np.float32)
    edges = sparse.csr_matrix((ones, links.indices, links.indptr), shape=links.shape)
    one_way = int((edges != edges.T).nnz)
    if one_way:
        msg = (
            f"Expected `{name}` to be symmetric, found {one_way} edges in one direction only. "
            "Symmetrise it with `graph.maximum(graph.T)`, or build it with "
            "`m2st.pp.spatial_graph(adata)`."
        )
        raise ValueError(msg)
    return edges


def check_unique_names(names: Collection[str], *, name: str, fix: str) -> None:
    """Require names that are unique."""
    doubled = len(names) - len(set(names))
    if doubled:
        msg = f"Expected unique `{name}`, found {doubled} repeated. Call `{fix}` first."
        raise ValueError(msg)


def check_n_domains(n_domains: int, *, n_obs: int) -> None:
    """Require at least one domain and no more domains than observations."""
    check_int("n_domains", n_domains, minimum=1)
    if n_domains > n_obs:
        msg = f"Expected no more `n_domains` than observations, {n_obs}, found {n_domains}."
        raise ValueError(msg)


@contextmanager
def importing(package: str, purpose: str, install: str, hint: str = "") -> Iterator[None]:
    """Import an optional package in the block, or say what needs it and how to get it.

    A package that is installed and does not load is not asked for again: the cause is named.
    """
    try:
        yield
    except (MemoryError, Warning):
        raise
    except Exception as error:  # whatever code that runs at import raises
        try:
            installed = importlib.util.find_spec(package) is not None
        except (ImportError, ValueError):
            installed = False
        msg = f"{purpose} needs {package}, which is not installed: `{install}`."
        if installed:
            msg = (
                f"{purpose} needs {package}, which is installed but cannot be imported "
                f"({type(error).__name__}: {error}). Mend this first; `{install} --upgrade` may."
            )
        raise ImportError(f"{msg} {hint}".rstrip()) from error


def warn(message: str) -> None:
    """Warn the user at the line that called the package, however deep in it the reason is."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
