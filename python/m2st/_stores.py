"""How an AnnData lies in h5ad and zarr: as anndata 0.11 to 0.13 read it, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

Format = Literal["h5ad", "zarr"]
_Shown = Callable[[str, Any], Any]

_SLOTS = ("obsm", "varm", "obsp", "varp", "layers", "uns")
# Names of zarr's own files.
_RESERVED = {"zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata"}
_LONGEST_NAME = 255  # bytes, of a folder in zarr


def put_anndata(
    store: Any,
    adata: AnnData,
    kind: Format,
    *,
    shown: _Shown = lambda _, value: value,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write an AnnData into an empty group, which is not changed by it.

    Parameters
    ----------
    store
        Group of h5py or zarr.
    adata
        What to write.
    kind
        What the group is of.
    shown
        What to write for a value, given its place, such as ``"layers/counts"``.
    options
        Of each data set, such as its compression.

    Raises
    ------
    ValueError
        The format cannot hold a name or a value; the message says which.
    """
    writer = _Writer(kind, shown, dict(options or {}))
    _mark(store, "anndata")
    writer.put(store, "X", adata.X, "adata.X", place="X")
    for axis in ("obs", "var"):
        writer.put(store, axis, getattr(adata, axis), f"adata.{axis}", place=axis)
    for slot in _SLOTS:
        # anndata 0.13 shows X among the layers, as None.
        entries = {key: value for key, value in getattr(adata, slot).items() if key is not None}
        writer.put(store, slot, entries, f"adata.{slot}", place=slot)
    if adata.raw is not None:
        raw = {"X": adata.raw.X, "var": adata.raw.var, "varm": dict(adata.raw.varm)}
        writer.put(store, "raw", raw, "adata.raw", place="raw")
        _mark(store["raw"], "raw")


def check_storable(adata: AnnData, kind: Format) -> None:
    """Require that a format can hold an AnnData: it is written to memory, without its numbers.

    Raises
    ------
    ValueError
        As `put_anndata`.
    """
    with _scratch(kind) as store:
        put_anndata(store, adata, kind, shown=_without_numbers)


@contextmanager
def _scratch(kind: Format) -> Iterator[Any]:
    """Give an empty group in memory."""
    if kind == "h5ad":
        with h5py.File(BytesIO(), "w") as file:
            yield file
        return
    import zarr

    with shards_as_asked():
        yield zarr.open_group({}, mode="w")


@contextmanager
def shards_as_asked() -> Iterator[None]:
    """Keep anndata 0.12 from warning that later versions will put chunks into shards."""
    if getattr(ad.settings, "auto_shard_zarr_v3", False) is None:
        with ad.settings.override(auto_shard_zarr_v3=False):
            yield
    else:
        yield


def _mark(group: Any, encoding: str) -> None:
    group.attrs.update({"encoding-type": encoding, "encoding-version": "0.1.0"})


class _Writer:
    """Writes elements, and says which one cannot be written."""

    def __init__(self, kind: Format, shown: _Shown, options: dict[str, Any]) -> None:
        self.kind = kind
        self.shown = shown
        self.options = options

    def put(self, group: Any, key: str, value: Any, name: str, place: str) -> None:
        """Write a value under a key; `name` is the user's for it, `place` that in the file."""
        if isinstance(value, Mapping):
            ad.io.write_elem(group, key, {})
            for inner, entry in value.items():
                self.check_name(inner, name)
                called = f"{name}.{inner}" if place == "raw" else f"{name}[{inner!r}]"
                self.put(group[key], inner, entry, called, f"{place}/{inner}")
            return
        if isinstance(value, AnnData):
            put_anndata(group.create_group(key), value, self.kind, options=self.options)
            return
        if value is None and place in ("X", "raw/X"):
            return
        if isinstance(value, pd.DataFrame):
            self.check_frame(value, name)
        try:
            ad.io.write_elem(
                group, key, self.shown(place, plain(value)), dataset_kwargs=self.options
            )
        except (MemoryError, OSError, Warning):
            raise
        except Exception as error:
            found = type(value).__name__
            if isinstance(value, pd.DataFrame):
                name, found = _culprit(value, name, self.kind)
            elif getattr(value, "dtype", None) is not None:
                found = f"{found} of {value.dtype}"
            reason = " ".join(str(error).split())
            msg = (
                f"Expected `{name}` to be what {self.kind} can hold, found {found} ({reason}). "
                "Turn it into numbers, text or categories, or remove it."
            )
            raise ValueError(msg) from error

    def check_frame(self, frame: pd.DataFrame, name: str) -> None:
        """Require columns, and a name of the index, that can be keys."""
        for column in frame.columns:
            self.check_name(column, name)
        if frame.index.name is not None:
            self.check_name(frame.index.name, f"{name}.index.name")
        if not frame.columns.is_unique:
            doubled = list(frame.columns[frame.columns.duplicated()])
            msg = f"Expected columns of `{name}` with names of their own, found {doubled} repeated."
            raise ValueError(msg)

    def check_name(self, key: Any, where: str) -> None:
        """Require a key that is the same when it is read."""
        if not isinstance(key, str):
            msg = (
                f"Expected text as the names in `{where}`, found {key!r} ({type(key).__name__}). "
                "Rename it: no other names can be written."
            )
            raise ValueError(msg)
        name = key.encode(errors="replace")
        refused = key in ("", ".", "..") or "/" in key or "\0" in key or name.decode() != key
        rule = (
            "A name must not be empty, `.` or `..`, nor hold `/`, a null byte or half a character"
        )
        if self.kind == "zarr":
            refused = refused or key in _RESERVED or len(name) > _LONGEST_NAME
            rule += ", be that of a file of zarr, or take more than 255 bytes"
        if refused:
            msg = (
                f"Expected names in `{where}` that {self.kind} can hold, found {key!r}. Rename it. "
                f"{rule}."
            )
            raise ValueError(msg)


def in_memory(matrix: Any) -> bool:
    """Whether a matrix is not left in a file."""
    in_h5ad = isinstance(matrix, ad.abc.CSRDataset | ad.abc.CSCDataset | h5py.Dataset)
    return not in_h5ad and not type(matrix).__module__.startswith("zarr.")


def plain(value: Any) -> Any:
    """The same value as a type that every version of anndata writes and reads.

    Raises
    ------
    TypeError
        A part of it would be lost or become something else.
    """
    if isinstance(value, pd.DataFrame):
        return _plain_frame(value)
    if isinstance(value, tuple | list):
        turned = np.array(value).dtype.kind in "US"
        if turned and not all(isinstance(one, str | bytes | list | tuple) for one in value):
            msg = "text and other values in one list"
            raise TypeError(msg)
        return list(value)
    if isinstance(value, pd.Index):
        return _plain_array(value.array)
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value) and value.dtype.kind != "f":
            msg = "its mask would be lost"
            raise TypeError(msg)
        return value.filled(np.nan) if value.dtype.kind == "f" else value.data
    if isinstance(value, pd.api.extensions.ExtensionArray):
        return _plain_array(value)
    if sparse.issparse(value) and value.format not in ("csr", "csc"):
        return value.tocsr()
    if isinstance(value, np.ndarray) and value.dtype == object:
        if value.ndim == 1:
            return _plain_array(value)
        if value.ndim == 2:
            inferred = pd.DataFrame(value).infer_objects().to_numpy()
            return value if inferred.dtype == object else inferred
    return value


def _plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with text as Python's, categorical where it repeats; the one given stays as it is."""
    shallow = frame.copy(deep=False)
    AnnData().strings_to_categoricals(shallow)
    index = frame.index
    if isinstance(index.dtype, pd.StringDtype):
        index = pd.Index(np.asarray(index, dtype=object), dtype=object, name=index.name)
    columns = {}
    for name, column in shallow.items():
        values = _plain_array(column.array)
        # Without it, pandas 3 turns text back into a type of its own.
        dtype = object if values.dtype == object else None
        columns[name] = pd.Series(values, index=index, dtype=dtype)
    return pd.DataFrame(columns, index=index)


def _plain_array(values: Any) -> Any:
    """Values in one dimension, as numbers, Python's text, or categories of these."""
    if isinstance(values, pd.arrays.NumpyExtensionArray):
        values = values.to_numpy()
    if isinstance(values, pd.Categorical):
        if not isinstance(values.categories.dtype, pd.StringDtype):
            return values
        categories = pd.Index(np.asarray(values.categories, dtype=object), dtype=object)
        return pd.Categorical.from_codes(values.codes, categories, ordered=values.ordered)
    if isinstance(values, pd.arrays.FloatingArray):
        return values.to_numpy(values.dtype.numpy_dtype, na_value=np.nan)
    if isinstance(values, pd.arrays.SparseArray):
        return np.asarray(values)
    if values.dtype != object and not isinstance(values.dtype, pd.StringDtype | pd.ArrowDtype):
        return values
    values = np.asarray(values, dtype=object)
    missing = bool(pd.isna(values).any())
    inferred = pd.api.types.infer_dtype(values, skipna=True)
    if inferred == "bytes":
        msg = "bytes would become text"
        raise TypeError(msg)
    if inferred == "string" and missing:
        return _plain_array(pd.Categorical(values))
    if inferred in ("boolean", "integer"):
        found = pd.array(values, dtype="boolean" if inferred == "boolean" else "Int64")
        return found if missing else found.to_numpy(found.dtype.numpy_dtype)
    if inferred in ("floating", "mixed-integer-float", "empty"):
        return pd.array(values, dtype="Float64").to_numpy(np.float64, na_value=np.nan)
    return values


def _culprit(frame: pd.DataFrame, name: str, kind: Format) -> tuple[str, str]:
    """Name and type of the first column that cannot be written, or else of the index."""
    for column in frame.columns:
        try:
            with _scratch(kind) as store:
                ad.io.write_elem(store, "frame", plain(frame[[column]].reset_index(drop=True)))
        except Exception:
            return f"{name}[{column!r}]", str(frame[column].dtype)
    return f"{name}.index", str(frame.index.dtype)


def _without_numbers(_: str, value: Any) -> Any:
    """A stand-in that can be written if the value can: without its numbers, but with its text."""
    if sparse.issparse(value):
        return type(value)((1, 1), dtype=value.dtype)
    if not in_memory(value):
        return None
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "biufcmM":
        return np.asarray(value)[:0]
    return value[:0] if type(value).__module__.startswith("dask.") else value
