"""Expression in memory, in a file or of dask, in blocks: whatever the storage, the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from m2st._checks import canonical, check_sparse, unmasked

# Values of the expression that are worked on at a time.
_BLOCK = 2**22


def blocks(matrix: Any) -> Iterator[tuple[slice, slice, Any]]:
    """Rows, columns and values of the blocks of a matrix in memory, in a file or of dask.

    The values are float32, CSR or, of a matrix that lies by column, CSC, in canonical format:
    whatever the storage, the same bits.
    """
    layout = getattr(matrix, "format", "dense")
    by_column = layout == "csc"
    starts = np.arange(matrix.shape[by_column] + 1)
    if hasattr(matrix, "compute"):  # a chunk is read once, and whole
        starts = np.concatenate([[0], np.cumsum(matrix.chunks[0])])
    if layout == "dense":
        ends = starts * matrix.shape[1]
    else:
        ends = matrix.indptr if sparse.issparse(matrix) else matrix.group["indptr"][:]
    for span in _spans(ends):
        part = slice(starts[span.start], starts[span.stop])
        block = matrix[:, part] if by_column else matrix[part]
        block = _single_precision(block, sparse.csc_matrix if by_column else sparse.csr_matrix)
        yield (slice(None), part, block) if by_column else (part, slice(None), block)


def _spans(ends: NDArray[Any]) -> Iterator[slice]:
    """Stretches of rows, of which row i ends at the value ``ends[i + 1]``, that fit a block."""
    start = 0
    while start < len(ends) - 1:
        stop = int(np.searchsorted(ends, ends[start] + _BLOCK, side="right")) - 1
        yield slice(start, start := max(stop, start + 1))


def _single_precision(
    block: Any, kind: type[sparse.csr_matrix | sparse.csc_matrix]
) -> sparse.csr_matrix | sparse.csc_matrix:
    """Some values of the expression as float32 in canonical format; masked ones become NaN."""
    if hasattr(block, "compute"):
        block = block.compute()
    if sparse.issparse(block):
        block = canonical(check_sparse(block, name="the expression"))
    else:
        block = unmasked(block)
    with np.errstate(over="ignore"):  # infinite values are refused
        return canonical(kind(block, dtype=np.float32))


def take(matrix: Any, rows: NDArray[np.bool_], columns: NDArray[np.bool_]) -> sparse.csr_matrix:
    """Copy of some rows and columns; beside it there is one block in memory at a time."""
    by_column = getattr(matrix, "format", "dense") == "csc"
    kind = sparse.csc_matrix if by_column else sparse.csr_matrix
    data, indices = np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int32)
    lengths = [np.zeros(1, dtype=np.int64)]
    for rows_there, columns_there, values in blocks(matrix):
        block = values[np.flatnonzero(rows[rows_there])][:, np.flatnonzero(columns[columns_there])]
        lengths.append(np.diff(block.indptr))
        for array, more in ((data, block.data), (indices, block.indices)):
            n_before = len(array)
            array.resize(n_before + len(more), refcheck=False)  # in place: no second copy
            array[n_before:] = more
    ends = np.concatenate(lengths).cumsum()
    return kind((data, indices, ends), shape=(rows.sum(), columns.sum())).tocsr()


def some_rows(matrix: Any, n_rows: int = 200) -> sparse.csr_matrix:
    """Some rows of a matrix, of those with values where it lies by row."""
    parts: list[Any] = []
    n_found = 0
    for _, columns, block in blocks(matrix):
        if columns != slice(None):
            parts.append(block[:: max(block.shape[0] // n_rows, 1)][:n_rows])
            continue
        filled = np.flatnonzero(np.diff(block.indptr))
        parts.append(block[filled[: n_rows - n_found]])
        n_found += parts[-1].shape[0]
        if n_found >= n_rows:
            break
    by_row = not parts or parts[0].shape[1] == matrix.shape[1]
    return (sparse.vstack if by_row else sparse.hstack)(parts).tocsr()


def is_varying(matrix: sparse.csr_matrix) -> NDArray[np.bool_]:
    """Whether each gene differs between observations by more than rounding."""
    low, high = np.full((2, matrix.shape[1]), [[np.inf], [-np.inf]], dtype=np.float32)
    for _, _, block in blocks(matrix):
        low = np.minimum(low, block.min(axis=0).toarray().ravel())
        high = np.maximum(high, block.max(axis=0).toarray().ravel())
    return np.asarray(high - low > 1e-4 * high)


def log_normalise(
    counts: sparse.csr_matrix, totals: NDArray[np.float32], library_size: np.float32
) -> None:
    """Bring library sizes to one and take logarithms, in place, some rows at a time."""
    sizes = totals / library_size
    for rows in _spans(counts.indptr):
        ends = counts.indptr[rows.start : rows.stop + 1]
        values = counts.data[ends[0] : ends[-1]]
        values /= np.repeat(sizes[rows], np.diff(ends))
        np.log1p(values, out=values)
