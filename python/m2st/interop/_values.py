"""Vectors, columns, matrices and lists of R to NumPy, pandas and dictionaries, and back.

What the Python value cannot say by itself (that categories were plain strings, that a list had no
names) is a *note*: a dictionary that fits JSON, empty where the value comes back by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from m2st._checks import check_sparse
from m2st.interop import _embedded as r
from m2st.interop._nodes import NA_INTEGER, Node, Skipped

Note = dict[str, Any]
_T = TypeVar("_T")

_UNHELD = 2**22  # rows or columns that an object may have without a value in them
_EXACT = 2**53  # whole numbers up to here are exact as double
_PLAIN = {"names", "dim", "dimnames", "levels", "class", "row.names"}
_SPARSE = re.compile("[dln]g[CTR]Matrix")
_FRAMES = {"DFrame", "DataFrame", "data.frame"}


def unique_names(names: Iterable[str | None]) -> list[str]:
    """Number repeated names ("a", "a-1", "a-2") without meeting a name that is there."""
    wanted = ["NA" if name is None else name for name in names]
    taken, made = set(wanted), []
    seen: dict[str, int] = {}
    for name in wanted:
        if name not in seen:
            seen[name] = 0
            made.append(name)
            continue
        new = name
        while new in taken:
            seen[name] += 1
            new = f"{name}-{seen[name]}"
        taken.add(new)
        made.append(new)
    return made


def convert(
    where: str, skipped: list[str], converter: Callable[..., _T], /, *arguments: Any, **named: Any
) -> _T | None:
    """Convert one part; what cannot be converted is noted in `skipped`, and None returned."""
    try:
        return converter(*arguments, **named)
    except Skipped as reason:
        skipped.append(f"{where} ({reason})")
        return None


def in_order(keys: Iterable[str], order: Sequence[str]) -> list[str]:
    """Sort keys as `order` has them; others follow as they come."""
    known = {key: place for place, key in enumerate(order)}
    return sorted(keys, key=lambda key: known.get(key, len(known)))


# ---- from R


def read_vector(node: Node, *, categorical: bool = False) -> tuple[Any, Note]:
    """Read an atomic vector, factor or run-length encoding as a column.

    Without missing values: bool, int32, float64; with: pandas' boolean and Int32, NaN. Factors are
    categorical with their levels. Strings are categorical too, in order of appearance, where they
    repeat or are missing, as AnnData writes them, or if `categorical`.
    """
    classes = node.classes
    if node.kind == "S4" and classes == ("Rle",):
        runs, lengths = node.attribute("values"), node.attribute("lengths").numbers()
        check_length(int(lengths.sum(dtype=np.int64)), held=_UNHELD, what="an Rle")
        if runs.kind == "character":
            values, note = _read_strings(runs.strings().repeat(lengths), categorical=categorical)
        else:
            values, note = read_vector(runs)
            values = values.repeat(lengths)
        return values, {**note, "rle": True}
    if classes in {("factor",), ("ordered", "factor")}:
        return _read_factor(node, ordered=len(classes) > 1)
    if node.kind not in {"logical", "integer", "double", "character"}:
        msg = f"of type {classes[0] if classes else node.kind}"
        raise Skipped(msg)
    if classes or node.shape:
        msg = f"of class {classes[0]}" if classes else f"an array of {len(node.shape)} dimensions"
        raise Skipped(msg)
    if node.kind == "character":
        return _read_strings(node.strings(), categorical=categorical)
    values = node.numbers()
    if node.kind == "double":
        return values, {}
    missing = values == NA_INTEGER
    if node.kind == "logical":
        flags = values == 1
        return (pd.arrays.BooleanArray(flags, missing) if missing.any() else flags), {}
    if not missing.any():
        return values, {}
    return pd.arrays.IntegerArray(values, missing), {}


def _read_strings(values: NDArray[np.object_], *, categorical: bool) -> tuple[Any, Note]:
    codes, categories = pd.factorize(values, use_na_sentinel=True)
    if len(categories) == len(values) and not categorical:
        return values, {}
    return pd.Categorical.from_codes(codes, pd.Index(categories, dtype=object)), {"text": True}


def _read_factor(node: Node, *, ordered: bool) -> tuple[Any, Note]:
    levels, codes = node.attribute("levels").strings(), node.numbers()
    codes = np.where(codes == NA_INTEGER, -1, codes - 1)
    note: Note = {}
    kept = np.array([level is not None for level in levels], dtype=bool)
    if not kept.all():  # made by addNA(): a level for what is missing
        if (codes < 0).any():
            msg = "missing values beside a level NA"
            raise Skipped(msg)
        note["na_level"] = at = int(np.flatnonzero(~kept)[0])
        codes = np.where(codes == at, -1, codes - (codes > at))
        levels = levels[kept]
    if len(set(levels)) < len(levels):
        msg = "repeated levels"
        raise Skipped(msg)
    return pd.Categorical.from_codes(codes, pd.Index(levels, dtype=object), ordered=ordered), note


def read_columns(
    columns: Node, *, where: str, rows: list[str] | None, skipped: list[str]
) -> tuple[dict[str, Any], dict[str, Note]]:
    """Read the columns of a data frame, given as a list; notes by column where there are any."""
    found, notes = {}, {}
    names = columns.names or []
    for name, original, node in zip(unique_names(names), names, columns.items(), strict=True):
        place, categorical = f"{where}${original}", name == "sample_id"
        if (pair := convert(place, skipped, read_vector, node, categorical=categorical)) is None:
            continue
        found[name], note = pair
        if name != original:
            note["name"] = original
        if (own := node.names) is not None:
            if own == rows:
                note["named"] = True
            else:
                skipped.append(f"{place} (its names)")
        skipped += _other_attributes(node, place)
        if note:
            notes[name] = note
    return found, notes


def _other_attributes(node: Node, where: str) -> list[str]:
    if node.kind == "S4":
        return []
    others = [name for name in node.attributes if name not in _PLAIN]
    return [f"{where} (its attributes {', '.join(others)})"] if others else []


def read_matrix(node: Node) -> tuple[Any, Note]:
    """Read a matrix, genes × observations, as observations × genes: CSR, or an array.

    Missing integers and logicals make it float64, NaN where missing.
    """
    classes = node.classes
    if node.kind == "S4":
        if not (classes and _SPARSE.fullmatch(classes[0])):
            matrix, _ = read_matrix(node.as_sparse())
            return matrix, {"class": classes[0]}
        note = {} if classes[0] == "dgCMatrix" else {"class": classes[0]}
        return _read_sparse(node, classes[0]), note
    if node.kind == "list" or len(node.shape) != 2 or node.kind == "character":
        msg = f"of class {classes[0]}" if classes else f"of type {node.kind}, not a matrix"
        raise Skipped(msg)
    values = node.numbers().reshape(node.shape, order="F").T
    if node.kind == "double":
        return values, {}
    missing = values == NA_INTEGER
    if missing.any():
        return np.where(missing, np.nan, values), {"kind": node.kind}
    return (values == 1 if node.kind == "logical" else values), {}


def _read_sparse(node: Node, name: str) -> sparse.csr_matrix:
    """Read a genes × observations matrix: column-compressed, it already is CSR the other way."""
    n_vars, n_obs = node.attribute("Dim").numbers().tolist()
    shape = (n_obs, n_vars)
    if name.startswith("n"):
        pointers = node.attribute("i" if name[2] != "R" else "j").numbers()
        values = np.ones(len(pointers), dtype=bool)
    else:
        values = node.attribute("x").numbers()
        if name.startswith("l"):
            missing = values == NA_INTEGER
            values = np.where(missing, np.nan, values) if missing.any() else values == 1
    for n in shape:
        check_length(n, held=len(values), what=f"a {name}")
    if name[2] == "T":
        rows, columns = node.attribute("i").numbers(), node.attribute("j").numbers()
        return sparse.coo_matrix((values, (columns, rows)), shape=shape).tocsr()
    pointers, major = node.attribute("p").numbers(), sparse.csr_matrix
    if name[2] == "R":
        major = sparse.csc_matrix
    minor = node.attribute("i" if name[2] == "C" else "j").numbers()
    matrix = major((values, minor, pointers), shape=shape)
    check_sparse(matrix, name=f"the {name}")
    return matrix.tocsr()


def check_length(n: int, *, held: int = 0, what: str) -> None:
    """Require a length that `held` values can explain: a damaged one would fill the memory."""
    if n > _UNHELD + 16 * held:
        msg = f"Expected {what} of the length of its content, found {n:,}. The file is damaged."
        raise ValueError(msg)


def read_value(node: Node, *, where: str, skipped: list[str]) -> tuple[Any, Note]:
    """Read metadata: NULL, vectors, arrays, sparse matrices, data frames, and lists of these.

    A vector of length one is a scalar; an R array of one dimension and length one is an array.
    """
    classes = node.classes
    if node.is_null:
        return None, {}
    if classes and classes[0] in _FRAMES:
        return read_frame(node, where=where, skipped=skipped)
    if node.kind == "list" and not classes:
        return read_list(node, where=where, skipped=skipped)
    if node.kind == "S4" and classes and _SPARSE.fullmatch(classes[0]):
        matrix, note = read_matrix(node)
        return sparse.csc_matrix(matrix.T), {**note, **_dimnames(node, "Dimnames")}
    skipped += _other_attributes(node, where)
    if node.shape and not classes and node.kind in {"logical", "integer", "double"}:
        return _read_array(node)
    if len(node.shape) == 1 and not classes and node.kind == "character":
        texts = node.strings()
        return texts, {**_dimnames(node), **({} if len(texts) == 1 else {"array": True})}
    values, note = read_vector(node)
    if (names := node.names) is not None:
        note["names"] = names
    if len(values) == 1 and isinstance(values, np.ndarray):
        return values.tolist()[0], note
    if len(values) == 1 and note.get("text") and not values.isna().any():
        return values[0], note
    return values, note


def _read_array(node: Node) -> tuple[NDArray[Any], Note]:
    values, note = node.numbers().reshape(node.shape, order="F"), _dimnames(node)
    missing = values == NA_INTEGER if node.kind != "double" else np.zeros(1, dtype=bool)
    if missing.any():
        values, note["kind"] = np.where(missing, np.nan, values), node.kind
    elif node.kind == "logical":
        values = values == 1
    if values.ndim == 1 and len(values) != 1:
        note["array"] = True
    return values, note


def _dimnames(node: Node, slot: str = "dimnames") -> Note:
    """Names of the rows, columns, .. of an array, if there are any; JSON has no None in lists."""
    both = node.attribute(slot)
    names = [[str(name) for name in axis.strings()] or None for axis in both.items()]
    return {"dimnames": names} if any(names) else {}


def read_list(node: Node, *, where: str, skipped: list[str]) -> tuple[dict[str, Any], Note]:
    """Read a list as a dictionary; elements without a name get their number."""
    originals, items = node.names, node.items()
    names = originals if originals is not None else [str(i) for i in range(len(items))]
    found, notes = {}, {}
    keys = unique_names(name or str(i) for i, name in enumerate(names))
    for key, item in zip(keys, items, strict=True):
        place = f"{where}${key}"
        if (
            pair := convert(place, skipped, read_value, item, where=place, skipped=skipped)
        ) is None:
            continue
        found[key], note = pair
        if note:
            notes[key] = note
    note = {"items": notes} if notes else {}
    renamed = {key: name for key, name in zip(keys, names, strict=True) if key != name}
    if keys != sorted(keys):  # the order in which h5ad gives them back
        note["order"] = keys
    if (originals is None) != (not items):
        note["unnamed" if items else "named"] = True
    elif renamed:
        note["renamed"] = renamed
    return found, note


def read_frame(node: Node, *, where: str, skipped: list[str]) -> tuple[pd.DataFrame, Note]:
    """Read a data.frame, or Bioconductor's DataFrame."""
    note: Note = {"bioconductor": node.kind == "S4"}
    if node.kind == "S4":
        columns, rows = node.attribute("listData"), node.attribute("rownames")
        n = int(node.attribute("nrows").numbers()[0])
        names = [str(name) for name in rows.strings()] if rows.kind == "character" else None
        check_length(n, held=len(names or ()), what="a DataFrame")
    else:
        columns, names = node, node.row_names
        n = len(names)
        if node.attribute("row.names").kind != "character":
            names = None
    found, notes = read_columns(columns, where=where, rows=names, skipped=skipped)
    index = pd.RangeIndex(n).astype(str) if names is None else pd.Index(names, dtype=object)
    if names is not None:
        note["rows"] = True
    if notes:
        note["columns"] = notes
    return pd.DataFrame(found, index=index), note


# ---- to R


def write_vector(values: Any, note: Note) -> Any:
    """Write a column, or any other one-dimensional data, as an R vector or factor."""
    values = _bare(values)
    if isinstance(values, pd.Categorical):
        made = _write_categorical(values, note)
    elif isinstance(values, pd.api.extensions.ExtensionArray):
        made = _write_extension(values)
    else:
        made = _write_array(np.asarray(values))
    return r.call("rle", made) if note.get("rle") else made


def _bare(values: Any) -> Any:
    """Take values out of a Series, and NumPy's out of pandas' wrapping."""
    values = values.array if isinstance(values, pd.Series) else values
    wraps = isinstance(values, pd.arrays.NumpyExtensionArray)
    return values.to_numpy() if wraps and not isinstance(values.dtype, pd.StringDtype) else values


def _write_categorical(values: pd.Categorical, note: Note) -> Any:
    levels: list[str | None] = [str(category) for category in values.categories]
    codes = values.codes.astype(np.int32)
    if note.get("text"):
        return r.strings(levels, codes)
    if len(set(levels)) < len(levels):
        msg = "categories that read the same as text"
        raise Skipped(msg)
    at = note.get("na_level")
    if at is not None and at <= len(levels):
        codes = np.where(codes < 0, at, codes + (codes >= at))
        levels = [*levels[:at], None, *levels[at:]]
    return r.factor(codes, levels, ordered=values.ordered)


def _write_extension(values: Any) -> Any:
    kind, missing = values.dtype.kind, np.asarray(values.isna())
    if kind == "b":
        return r.numeric(values.to_numpy(bool, na_value=False), "logical", missing)
    if kind in "iuf":
        filled = values.to_numpy(values.dtype.numpy_dtype, na_value=0)
        kind = number_kind(filled[~missing])
        return r.numeric(np.where(missing, 0, filled), kind, missing)
    if isinstance(values.dtype, pd.StringDtype):
        return _write_array(np.asarray(values.astype(object)))
    msg = f"of type {values.dtype}"
    raise Skipped(msg)


def _write_array(values: NDArray[Any]) -> Any:
    if values.dtype.kind in "biuf":
        return r.numeric(values, number_kind(values))
    if values.dtype.kind == "U":
        return r.strings(values.tolist())
    if values.dtype.kind == "O":
        missing = np.asarray(pd.isna(values), dtype=bool)
        present = values[~missing]
        if all(isinstance(value, str) for value in present):
            return r.strings([None if gone else v for gone, v in zip(missing, values, strict=True)])
        if all(isinstance(value, bool | np.bool_) for value in present):
            return r.numeric(np.where(missing, 0, values).astype(bool), "logical", missing)
        msg = "of mixed types"
        raise Skipped(msg)
    msg = f"of type {values.dtype}"
    raise Skipped(msg)


def number_kind(values: NDArray[Any]) -> str:
    """Find the R type that holds numbers without loss."""
    kind = values.dtype.kind
    if kind == "b":
        return "logical"
    if kind == "f":
        return "double"
    if kind not in "iu":
        msg = f"of type {values.dtype}"
        raise Skipped(msg)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low > NA_INTEGER and high < 2**31:
        return "integer"
    if low < -_EXACT or high > _EXACT:
        msg = "whole numbers beyond 2^53, which R cannot hold"
        raise Skipped(msg)
    return "double"


def write_columns(
    frame: pd.DataFrame, notes: Mapping[str, Note], *, where: str, rows: Any, skipped: list[str]
) -> Any:
    """Write the columns of a data frame as a list; `rows` are the names of the rows in R."""
    made = {}
    names = []
    for position, name in enumerate(frame.columns):
        note = notes.get(str(name), {})
        column = frame.iloc[:, position]
        vector = convert(f"{where}[{name!r}]", skipped, write_vector, column, note)
        if vector is None:
            continue
        if note.get("named") and rows is not None:
            vector.names = rows
        made[name] = vector
        names.append(note.get("name", str(name)))
    return r.listing(list(made.values()), names)


def write_matrix(matrix: Any, note: Note) -> Any:
    """Write observations × genes as an R matrix, genes × observations, without names."""
    wanted = note.get("class", "dgCMatrix")
    if sparse.issparse(matrix):
        return _write_sparse(matrix.tocsr(), wanted)
    return _write_dense(np.asarray(matrix).T, note)


def _write_sparse(matrix: Any, wanted: str) -> Any:
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    if matrix.nnz >= 2**31:
        msg = "more than 2^31 values, which R's sparse matrices cannot hold"
        raise Skipped(msg)
    data = matrix.data
    kind = "logical" if number_kind(data) == "logical" else "double"
    missing = None
    if wanted.startswith("l") and kind == "double":  # logical with missing values
        kind, missing = "logical", np.isnan(data)
        data = np.where(missing, 0, data)
    shape = np.array(matrix.shape[::-1])
    return r.call(
        "sparse",
        r.numeric(matrix.indices, "integer"),
        r.numeric(matrix.indptr, "integer"),
        r.numeric(data, kind, missing),
        r.numeric(shape, "integer"),
        r.listing([r.null(), r.null()]),
        r.strings([wanted if _SPARSE.fullmatch(wanted) else "dgCMatrix"]),
    )


def _write_dense(values: NDArray[Any], note: Note) -> Any:
    kind, missing = number_kind(values), None
    noted = note.get("kind")
    if noted is not None and kind == "double":
        missing = np.isnan(values).ravel(order="F")
        present = values.ravel(order="F")[~missing]
        if (present == np.floor(present)).all() and (np.abs(present) < 2**31).all():
            kind, values = noted, np.where(np.isnan(values), 0, values)
        else:
            missing = None
    return r.with_shape(r.numeric(values, kind, missing), values.shape)


def write_value(value: Any, note: Note, *, where: str, skipped: list[str]) -> Any:
    """Write what `read_value` reads, and lists and tuples of numbers or of strings."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if value is None:
        return r.null()
    if isinstance(value, Mapping):
        return write_list(value, note, where=where, skipped=skipped)
    if isinstance(value, pd.DataFrame):
        return write_frame(value, note, where=where, skipped=skipped)
    if sparse.issparse(value):
        made = _write_sparse(value.T.tocsr(), note.get("class", "dgCMatrix"))
        return _with_dimnames(made, note, value.shape, slot="Dimnames")
    if isinstance(value, str | bool | int | float | np.generic):
        array = np.asarray(value).reshape(1)
        return _with_names(write_vector(array, note), note, 1)
    if isinstance(value, list | tuple):
        if not value:
            return r.listing([])
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.ndim != 1:
        made = _write_dense(value, note)
        return _with_dimnames(made, note, value.shape)
    made = write_vector(value, note)
    if note.get("array") or (len(value) == 1 and isinstance(value, np.ndarray)):
        made = r.with_shape(made, [len(value)])
        return _with_dimnames(made, note, (len(value),))
    return _with_names(made, note, len(value))


def _with_names(made: Any, note: Note, length: int) -> Any:
    names = note.get("names")
    if names is not None and len(names) == length:
        made.names = r.strings(names)
    return made


def _with_dimnames(made: Any, note: Note, shape: Sequence[int], *, slot: str = "dimnames") -> Any:
    names = note.get("dimnames")
    if names is not None and len(names) == len(shape):
        fit = all(axis is None or len(axis) == n for axis, n in zip(names, shape, strict=True))
        if fit:
            axes = [r.null() if axis is None else r.strings(axis) for axis in names]
            made.do_slot_assign(slot, r.listing(axes))
    return made


def write_list(value: Mapping[str, Any], note: Note, *, where: str, skipped: list[str]) -> Any:
    """Write a dictionary as a list."""
    notes, renamed = note.get("items", {}), note.get("renamed", {})
    made, names = [], []
    for key in in_order(value, note.get("order", [])):
        item = value[key]
        place, own = f"{where}[{key!r}]", notes.get(str(key), {})
        vector = convert(place, skipped, write_value, item, own, where=place, skipped=skipped)
        if vector is not None:
            made.append(vector)
            names.append(renamed.get(str(key), str(key)))
    plain = note.get("unnamed") or not (names or note.get("named"))
    return r.listing(made, None if plain else names)


def write_frame(frame: pd.DataFrame, note: Note, *, where: str, skipped: list[str]) -> Any:
    """Write a data frame as a data.frame, or as Bioconductor's where it was one."""
    names = frame.index.astype(str)
    own = note.get("rows") or not (names == pd.RangeIndex(len(frame)).astype(str)).all()
    rows = r.strings(names) if own else r.null()
    columns = write_columns(frame, note.get("columns", {}), where=where, rows=rows, skipped=skipped)
    n = r.numeric(np.array([len(frame)]), "integer")
    kind = "dataFrame" if note.get("bioconductor") else "baseFrame"
    return r.call(kind, columns, n, rows)


# ---- types that R does not have


def kept_dtype(values: Any) -> str | None:
    """Name the type of a column or array that would come back from R as another one."""
    values = _bare(values)
    dtype = values.dtype
    if isinstance(values, pd.Categorical):
        categories = values.categories.dtype
        return None if categories.kind == "O" else f"category:{categories}"
    if isinstance(dtype, pd.BooleanDtype | pd.Int32Dtype) and values.isna().any():
        return None
    if dtype.kind == "O" and isinstance(values, np.ndarray):
        return None if pd.Series(values).is_unique and not pd.isna(values).any() else "object"
    own = {"bool", "float64"} if sparse.issparse(values) else {"bool", "int32", "float64"}
    return None if str(dtype) in own else str(dtype)


def kept_type(value: Any) -> str | None:
    """Name the type of a value in ``uns`` that would come back from R as another one."""
    if isinstance(value, list | tuple):
        return None if value else "list"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic | bool | int | float):
        dtype = np.asarray(value).dtype
        if isinstance(value, int) and not isinstance(value, bool):
            return "int" if not -(2**31) < value < 2**31 else None
        return None if not isinstance(value, np.generic) or dtype.kind in "US" else str(dtype)
    return kept_dtype(value) if hasattr(value, "dtype") else None


def restore_type(value: Any, name: str) -> Any:
    """Convert to the type that `kept_type` named, unless the value no longer allows it."""
    if name == "list":
        return value if len(value) else []
    if not isinstance(value, int | float):
        return restore_dtype(value, name)
    try:
        return int(value) if name == "int" else np.dtype(name).type(value)
    except (OverflowError, TypeError, ValueError):
        return value


def restore_dtype(values: Any, dtype: str | None) -> Any:
    """Convert to the type that `kept_dtype` named, unless the values no longer allow it."""
    if dtype is None:
        return values
    name, _, categories = dtype.partition(":")
    try:
        if dtype == "category:bool":
            return values.rename_categories(values.categories == "True")
        if name == "category":
            return values.rename_categories(values.categories.astype(categories))
        if name == "object" or dtype[0].isupper() or dtype in {"boolean", "string"}:
            return (
                pd.array(values, dtype=dtype)
                if name != "object"
                else np.asarray(values, dtype=object)
            )
        return values.astype(dtype)
    except (AttributeError, TypeError, ValueError):
        return values
