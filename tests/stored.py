"""The same numbers in other storage, which must give the same results: matrices, tables, graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
from scipy import sparse


def of_parts(matrix: sparse.csr_matrix, parts: list[tuple[Any, ...]]) -> sparse.csr_matrix:
    """A CSR matrix with the entries of each row as they are given, repeated or in any order."""
    ends = np.cumsum([0, *(len(values) for values, _ in parts)])
    values, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = sparse.csr_matrix(matrix.shape, dtype=values.dtype)
    found.data, found.indices, found.indptr = values, columns.astype(np.int32), ends
    return found


def repeated(matrix: sparse.csr_matrix, dtype: str = "float32") -> sparse.csr_matrix:
    """Each value in two parts that lie apart, out of order; as integers their sum runs over."""
    rows = [(row.data, row.indices) for row in matrix]
    return of_parts(
        matrix,
        [
            (np.concatenate([v - v // 2, v // 2]).astype(dtype)[::-1], np.concatenate([c, c])[::-1])
            for v, c in rows
        ],
    )


def with_zeros(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """All zeros stored."""
    rows = matrix.toarray()
    return of_parts(matrix, [(row, np.arange(matrix.shape[1])) for row in rows])


def masked(matrix: sparse.csr_matrix) -> np.ma.MaskedArray:
    return np.ma.masked_array(matrix.toarray(), mask=np.zeros(matrix.shape, dtype=bool))


def in_blocks(matrix: sparse.csr_matrix, kind: Callable[..., Any] = np.asarray) -> da.Array:
    """Dask's blocks of some rows and columns; anndata's lazy reading gives sparse ones."""
    chunks = (17, 30 if kind is np.asarray else matrix.shape[1])
    blocks = da.from_array(matrix.toarray(), chunks=chunks)
    return blocks.map_blocks(kind, meta=kind(np.zeros((1, 1), dtype=matrix.dtype)))


STORED: dict[str, Callable[[sparse.csr_matrix], Any]] = {
    "dense": lambda x: x.toarray(),
    "by column": lambda x: np.asfortranarray(x.toarray()),
    "every other": lambda x: np.repeat(x.toarray(), 2, axis=1)[:, ::2],
    **{
        f"dense {kind}": lambda x, kind=kind: x.toarray().astype(kind)
        for kind in ("u1", "i2", "i8", "f2", "f8", ">f4", ">i4", "g")
    },
    **{f"csr {kind}": lambda x, kind=kind: x.astype(kind) for kind in ("u1", "i8", "f8")},
    "masked, nothing": masked,
    "csc": lambda x: x.tocsc(),
    "csr_array": sparse.csr_array,
    "csc_array": lambda x: sparse.csc_array(x.tocsc()),
    "repeated": repeated,
    "repeated u1": lambda x: repeated(x, "u1"),
    "repeated csc": lambda x: repeated(x.T.tocsr()).T,
    "zeros": with_zeros,
    "dask": in_blocks,
    "dask of csr": lambda x: in_blocks(x, sparse.csr_matrix),
    "dask of csc": lambda x: in_blocks(x, sparse.csc_matrix),
    "dask of repeated": lambda x: in_blocks(x, lambda block: repeated(sparse.csr_matrix(block))),
}


TABLES: dict[str, Callable[[np.ndarray], Any]] = {
    "by column": np.asfortranarray,
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "f8": lambda x: x.astype("f8"),
    ">f8": lambda x: x.astype(">f8"),
    "csr": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "masked, nothing": np.ma.masked_array,
    "dask": lambda x: da.from_array(x, chunks=(7, 2)),
    "table": lambda x: pd.DataFrame(x, index=[str(row) for row in range(len(x))]),
    "table of both kinds": lambda x: pd.DataFrame(
        {
            str(c): pd.array(x[:, c], dtype="Float32" if c % 2 else "float32")
            for c in range(x.shape[1])
        },
        index=[str(row) for row in range(len(x))],
    ),
}


GRAPHS = (
    "repeated",
    "zeros",
    "out of order",
    "loops",
    "weights",
    "negative",
    "csc",
    "csr_array",
    "bool",
    "f8",
)


def linked_in(kind: str, graph: sparse.csr_matrix) -> Any:
    """The same edges, stored otherwise."""
    rows = [(row.data, row.indices) for row in graph]
    everybody = np.arange(graph.shape[0])
    if kind == "repeated":
        return of_parts(graph, [(np.r_[v, v], np.r_[c, c][::-1]) for v, c in rows])
    if kind == "zeros":
        zeros = [(np.r_[np.zeros_like(everybody), v], np.r_[everybody, c]) for v, c in rows]
        return of_parts(graph, zeros)
    if kind == "out of order":
        return of_parts(graph, [(v[::-1], c[::-1]) for v, c in rows])
    return {
        "loops": lambda: sparse.csr_matrix(graph + sparse.identity(len(rows))),
        "weights": lambda: graph * 0.3,
        "negative": lambda: -graph,
        "csc": graph.tocsc,
        "csr_array": lambda: sparse.csr_array(graph),
        "bool": lambda: graph.astype(bool),
        "f8": lambda: graph.astype("f8"),
    }[kind]()
