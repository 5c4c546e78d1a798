"""Graph attention (paper, equations 2 to 4): torch-geometric's layer, fused on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from m2st._simd import (
    LANES,
    add,
    divide,
    exp,
    fold,
    join,
    load,
    maximum,
    multiply,
    number,
    spread,
    store,
    subtract,
    where_positive,
)

with warnings.catch_warnings():
    # It asks for torch.jit.script, of which newer versions of torch warn.
    warnings.simplefilter("ignore", FutureWarning)
    from torch_geometric.nn import GATConv

# Rows are padded to whole groups of vectors, as many as have their sums in registers at a time.
_GROUP = 4 * LANES
# Targets whose attention is held at a time where no gradient is asked for.
_CHUNK = 1 << 15

# Numbers are divided as numpy does, without a check for 0.
_compiled: Any = numba.njit(cache=True, error_model="numpy")
_inlined: Any = numba.njit(cache=True, error_model="numpy", inline="always")


@dataclass(frozen=True, eq=False)
class Edges:
    """Who sends to whom: edges from rows of a feature matrix to targets.

    Target t is the observation with the features ``row[t]`` and receives from the rows
    ``source[indptr[t] : indptr[t + 1]]``; an edge of `count` c stands for c edges from equal rows.
    The edges of row j, by position in `source`, are
    ``reverse[reverse_indptr[j] : reverse_indptr[j + 1]]``, and `receiver` holds their targets.
    Counts are float32, all else is int32.
    """

    row: Tensor
    indptr: Tensor
    source: Tensor
    count: Tensor
    reverse_indptr: Tensor
    reverse: Tensor
    receiver: Tensor

    @classmethod
    def from_adjacency(cls, adjacency: sparse.spmatrix) -> Edges:
        """Edges of a sparse graph of shape (n_obs, n_obs), weights ignored, self-loops added.

        Observations are rows and targets.
        """
        n_obs = adjacency.shape[0]
        pattern = sparse.csr_array(adjacency, copy=True)
        pattern.data = np.ones_like(pattern.data, dtype=np.float32)
        pattern.setdiag(1)
        pattern.sum_duplicates()
        pattern.sort_indices()
        indptr, source = pattern.indptr.astype(np.int32), pattern.indices.astype(np.int32)
        row = np.arange(n_obs, dtype=np.int32)
        count = np.ones(len(source), dtype=np.float32)
        return cls._from_arrays(row, indptr, source, count, n_obs)

    @classmethod
    def _from_arrays(
        cls,
        row: NDArray[np.int32],
        indptr: NDArray[np.int32],
        source: NDArray[np.int32],
        count: NDArray[np.float32],
        n_rows: int,
    ) -> Edges:
        arrays = (row, indptr, source, count, *_reverse(indptr, source, n_rows))
        return cls(*(torch.from_numpy(array) for array in arrays))

    def hide(self, hidden: Tensor, targets: Tensor) -> Edges:
        """The edges to some targets when all hidden observations have one row of features.

        Parameters
        ----------
        hidden, targets
            Which observations are hidden, and which are targets; boolean, of shape (n_obs,), on the
            CPU.

        Returns
        -------
        Edges whose rows are the observations that are not hidden, in order, and last the one row of
        all hidden ones, with one edge from there per target. Targets keep their order.
        """
        flags = hidden.numpy()
        return self._toward(targets, flags, len(flags) - int(flags.sum()) + 1)

    def only(self, targets: Tensor) -> Edges:
        """The edges to some targets, a boolean of shape (n_obs,); rows stay as they are."""
        return self._toward(targets, np.zeros(len(targets), dtype=bool), len(targets))

    def _toward(self, targets: Tensor, hidden: NDArray[np.bool_], n_rows: int) -> Edges:
        """The edges to some targets, those from hidden observations from the last of all rows."""
        row, indptr, source, count = _hide(
            self.indptr.numpy(), self.source.numpy(), hidden, targets.numpy()
        )
        return Edges._from_arrays(row, indptr, source, count, n_rows)

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.row)

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """`row`, `indptr`, `source` and `count`, on the CPU."""
        return [part.numpy() for part in (self.row, self.indptr, self.source, self.count)]

    @cached_property
    def reverse_arrays(self) -> list[NDArray[Any]]:
        """`reverse_indptr`, `reverse` and `receiver`, on the CPU."""
        return [part.numpy() for part in (self.reverse_indptr, self.reverse, self.receiver)]

    @cached_property
    def edge_index(self) -> Tensor:
        """The edges as torch-geometric's list, int64, those that a count stands for one by one."""
        counts = self.count.to(torch.int64)
        degrees = torch.diff(self.indptr.to(torch.int64))
        targets = torch.arange(len(self.row), device=self.row.device).repeat_interleave(degrees)
        return torch.stack([self.source.to(torch.int64), targets]).repeat_interleave(counts, dim=1)

    def to(self, device: torch.device) -> Edges:
        """The same edges on `device`."""
        return Edges(*(getattr(self, field.name).to(device) for field in fields(self)))


@_compiled
def _reverse(indptr, source, n_rows):  # type: ignore[no-untyped-def]
    """Edges by source, in order of their targets."""
    starts = np.zeros(n_rows + 1, np.int32)
    for j in source:
        starts[j + 1] += 1
    starts = np.cumsum(starts).astype(np.int32)
    reverse, receiver = np.empty_like(source), np.empty_like(source)
    filled = starts[:-1].copy()
    for t in range(len(indptr) - 1):
        for e in range(indptr[t], indptr[t + 1]):
            j = number(source, e)
            place = filled[j]
            reverse[place], receiver[place] = e, t
            filled[j] += 1
    return starts, reverse, receiver


@_compiled
def _hide(indptr, source, hidden, targets):  # type: ignore[no-untyped-def]
    """Arrays of `Edges.hide`."""
    n_obs = len(hidden)
    rows = np.empty(n_obs, np.int32)
    n_visible = 0
    for j in range(n_obs):
        rows[j] = n_visible
        n_visible += not hidden[j]
    for j in range(n_obs):
        if hidden[j]:
            rows[j] = n_visible
    n_targets = targets.sum()
    row, starts = np.empty(n_targets, np.int32), np.zeros(n_targets + 1, np.int32)
    sources, counts = np.empty_like(source), np.ones(len(source), np.float32)
    t, n_edges = 0, 0
    for i in range(n_obs):
        if not targets[i]:
            continue
        count = 0
        for e in range(indptr[i], indptr[i + 1]):
            j = number(rows, number(source, e))
            if j == n_visible:
                count += 1
            else:
                sources[n_edges] = j
                n_edges += 1
        if count:
            sources[n_edges], counts[n_edges] = n_visible, count
            n_edges += 1
        row[t], starts[t + 1] = rows[i], n_edges
        t += 1
    return row, starts, sources[:n_edges].copy(), counts[:n_edges].copy()


class _Layout(NamedTuple):
    """Where the heads of all layers stand in a row of features, `width` numbers.

    A head takes whole vectors, and the row whole groups of them; `head` says whose each vector is.
    The logits of a row are those of its heads as sources and then as targets, whole vectors of each
    that begin `padded` apart. The attention of an edge takes `pitch` numbers.
    """

    width: int
    n_heads: int
    head: NDArray[np.int32]
    padded: int
    pitch: int


_Shapes = tuple[tuple[int, int], ...]  # heads and channels of each layer


@lru_cache
def _lay_out(shapes: _Shapes) -> _Layout:
    """Layout of layers side by side."""
    vectors = [-(-channels // LANES) for heads, channels in shapes for _ in range(heads)]
    n_heads = len(vectors)
    width = -(-sum(vectors) * LANES // _GROUP) * _GROUP
    head = np.full(width // LANES, n_heads - 1, dtype=np.int32)
    head[: sum(vectors)] = np.repeat(np.arange(n_heads), vectors)
    padded = -(-n_heads // LANES) * LANES
    return _Layout(width, n_heads, head, padded, n_heads if n_heads <= LANES else padded)


def _pad(rows: Tensor, shapes: _Shapes, width: int) -> Tensor:
    """Rows as the layers give them, with the padding of the layout."""
    if rows.shape[1] == width:
        return rows
    parts = torch.split(rows, [heads * channels for heads, channels in shapes], dim=1)
    padded = [
        functional.pad(part.reshape(len(part), *shape), (0, -shape[1] % LANES)).flatten(1)
        for part, shape in zip(parts, shapes, strict=True)
    ]
    together = torch.cat(padded, dim=1)
    return functional.pad(together, (0, width - together.shape[1]))


def _unpad(rows: Tensor, shapes: _Shapes) -> Tensor:
    """Inverse of `_pad`."""
    widths = [heads * -(-channels // LANES) * LANES for heads, channels in shapes]
    if rows.shape[1] == sum(heads * channels for heads, channels in shapes):
        return rows
    parts = torch.split(rows[:, : sum(widths)], widths, dim=1)
    return torch.cat(
        [
            part.reshape(len(part), heads, part.shape[1] // heads)[:, :, :channels].flatten(1)
            for part, (heads, channels) in zip(parts, shapes, strict=True)
        ],
        dim=1,
    )


# A vector of heads is read, and written in ascending order, wherever its first head stands: where
# the number of heads is no multiple of 8 it has numbers in it that belong elsewhere and that nobody
# looks at. Arrays by head therefore end in as many unused numbers.


@_inlined
def _four(head, f):  # type: ignore[no-untyped-def]
    """Heads of the vectors of a group."""
    v = f // LANES
    return head[v], head[v + 1], head[v + 2], head[v + 3]


@_inlined
def _add_joined(sums, place, folded, zero):  # type: ignore[no-untyped-def]
    """Add the sums of what was folded twice; where there are less than four, zeros follow."""
    store(sums, place, add(load(sums, place), join(folded, zero)))


@_inlined
def _add_totals(sums, to, heads, v0, v1, v2, v3):  # type: ignore[no-untyped-def]
    """Add the numbers in the vectors of a group to the sums of their heads."""
    k, k1, k2, k3 = heads
    zero = spread(sums, 0)
    if k == k3:
        _add_joined(sums, to + k, fold(fold(add(add(v0, v1), add(v2, v3)), zero), zero), zero)
    elif k == k1 and k2 == k3:
        _add_joined(sums, to + k, fold(fold(add(v0, v1), add(v2, v3)), zero), zero)
    elif k3 == k + 3:
        _add_joined(sums, to + k, fold(fold(v0, v1), fold(v2, v3)), zero)
    else:
        _add_joined(sums, to + k, fold(fold(v0, zero), zero), zero)
        _add_joined(sums, to + k1, fold(fold(v1, zero), zero), zero)
        _add_joined(sums, to + k2, fold(fold(v2, zero), zero), zero)
        _add_joined(sums, to + k3, fold(fold(v3, zero), zero), zero)


@_compiled
def _score(h, vectors, layout, logits):  # type: ignore[no-untyped-def]
    """Logits of all rows: scalar products of their heads and the attention vectors."""
    width, _, head, padded, _ = layout
    logits[:] = 0
    for j in range(len(h) // width):
        for f in range(0, width, _GROUP):
            heads, at = _four(head, f), j * width + f
            h0, h1 = load(h, at), load(h, at + LANES)
            h2, h3 = load(h, at + 2 * LANES), load(h, at + 3 * LANES)
            for side in range(2):
                of = side * width + f
                v0 = multiply(h0, load(vectors, of))
                v1 = multiply(h1, load(vectors, of + LANES))
                v2 = multiply(h2, load(vectors, of + 2 * LANES))
                v3 = multiply(h3, load(vectors, of + 3 * LANES))
                _add_totals(logits, (2 * j + side) * padded, heads, v0, v1, v2, v3)


@_compiled
def _weigh(  # type: ignore[no-untyped-def]
    logits, layout, slope, row, indptr, source, count, first, last, attention
):
    """Softmax over the edges of the targets from `first` to before `last`."""
    _, n_heads, _, padded, pitch = layout
    largest_degree = 0
    for t in range(first, last):
        largest_degree = max(largest_degree, indptr[t + 1] - indptr[t])
    weights = np.empty(largest_degree * LANES, logits.dtype)
    one, slopes = spread(logits, 1), spread(logits, slope)
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        to = (start - indptr[first]) * pitch
        for k in range(0, n_heads, LANES):
            own = load(logits, (2 * np.int64(row[t]) + 1) * padded + k)
            # LeakyReLU never decreases: the largest logit is that of the largest source.
            largest = load(logits, 2 * np.int64(number(source, start)) * padded + k)
            for e in range(start + 1, end):
                largest = maximum(
                    largest, load(logits, 2 * np.int64(number(source, e)) * padded + k)
                )
            largest = add(largest, own)
            largest = maximum(largest, multiply(slopes, largest))
            summed = spread(logits, 0)
            for e in range(start, end):
                logit = add(load(logits, 2 * np.int64(number(source, e)) * padded + k), own)
                logit = maximum(logit, multiply(slopes, logit))
                weight = multiply(spread(logits, number(count, e)), exp(subtract(logit, largest)))
                summed = add(summed, weight)
                store(weights, (e - start) * LANES, weight)
            share = divide(one, summed)
            for e in range(end - start):
                weight = multiply(share, load(weights, e * LANES))
                store(attention, to + e * pitch + k, weight)


@_inlined
def _add_scaled(vector, weights, place, rows, start):  # type: ignore[no-untyped-def]
    return add(vector, multiply(spread(weights, number(weights, place)), load(rows, start)))


@_compiled
def _aggregate(  # type: ignore[no-untyped-def]
    h, layout, weights, bias, indptr, source, first, last, out
):
    """Weighted sums of the sources of the targets from `first` to before `last`."""
    width, _, head, _, pitch = layout
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        for f in range(0, width, _GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            k, k1, k2, k3 = _four(head, f)
            sum0, sum1, sum2, sum3 = load(bias, f), load(bias, f1), load(bias, f2), load(bias, f3)
            for e in range(start, end):
                at, of = np.int64(number(source, e)) * width, (e - indptr[first]) * pitch
                sum0 = _add_scaled(sum0, weights, of + k, h, at + f)
                sum1 = _add_scaled(sum1, weights, of + k1, h, at + f1)
                sum2 = _add_scaled(sum2, weights, of + k2, h, at + f2)
                sum3 = _add_scaled(sum3, weights, of + k3, h, at + f3)
            place = t * width
            store(out, place + f, sum0)
            store(out, place + f1, sum1)
            store(out, place + f2, sum2)
            store(out, place + f3, sum3)


@_compiled
def _backward(  # type: ignore[no-untyped-def]
    grad,
    out,
    h,
    vectors,
    logits,
    layout,
    slope,
    attention,
    weights,
    row,
    reverse_indptr,
    reverse,
    receiver,
):
    """Gradients of `h` and of `vectors` in one pass over the edges, by source."""
    width, n_heads, head, padded, pitch = layout
    n_rows = len(reverse_indptr) - 1
    grad_h, grad_logits = np.empty_like(h), np.zeros_like(logits)
    zero, slopes = spread(h, 0), spread(h, slope)
    grad_vectors = np.empty_like(vectors)
    mean = _means(grad, out, vectors, layout, grad_vectors)
    largest_degree = 0
    for j in range(n_rows):
        largest_degree = max(largest_degree, reverse_indptr[j + 1] - reverse_indptr[j])
    dots = np.empty(largest_degree * padded + LANES, h.dtype)
    for j in range(n_rows):
        start, end = np.int64(reverse_indptr[j]), np.int64(reverse_indptr[j + 1])
        own = j * width
        dots[: (end - start) * padded] = 0
        for f in range(0, width, _GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            heads = _four(head, f)
            k, k1, k2, k3 = heads
            h0, h1 = load(h, own + f), load(h, own + f1)
            h2, h3 = load(h, own + f2), load(h, own + f3)
            sum0, sum1, sum2, sum3 = zero, zero, zero, zero
            for p in range(start, end):
                at, of = np.int64(number(receiver, p)) * width, np.int64(number(reverse, p)) * pitch
                sum0 = _add_scaled(sum0, weights, of + k, grad, at + f)
                sum1 = _add_scaled(sum1, weights, of + k1, grad, at + f1)
                sum2 = _add_scaled(sum2, weights, of + k2, grad, at + f2)
                sum3 = _add_scaled(sum3, weights, of + k3, grad, at + f3)
                v0, v1 = multiply(h0, load(grad, at + f)), multiply(h1, load(grad, at + f1))
                v2, v3 = multiply(h2, load(grad, at + f2)), multiply(h3, load(grad, at + f3))
                _add_totals(dots, (p - start) * padded, heads, v0, v1, v2, v3)
            store(grad_h, own + f, sum0)
            store(grad_h, own + f1, sum1)
            store(grad_h, own + f2, sum2)
            store(grad_h, own + f3, sum3)
        for k in range(0, n_heads, LANES):
            from_source, summed = load(logits, 2 * j * padded + k), zero
            for p in range(start, end):
                to, e = np.int64(number(receiver, p)), np.int64(number(reverse, p)) * pitch + k
                place = (2 * np.int64(number(row, to)) + 1) * padded + k
                derivative = subtract(
                    multiply(load(weights, e), load(dots, (p - start) * padded + k)),
                    multiply(load(attention, e), load(mean, to * padded + k)),
                )
                logit = add(from_source, load(logits, place))
                derivative = where_positive(logit, derivative, multiply(slopes, derivative))
                summed = add(summed, derivative)
                store(grad_logits, place, add(load(grad_logits, place), derivative))
            store(grad_logits, 2 * j * padded + k, summed)
    _through_logits(grad_logits, h, vectors, layout, grad_h, grad_vectors)
    return grad_h, grad_vectors


@_compiled
def _means(grad, out, vectors, layout, grad_vectors):  # type: ignore[no-untyped-def]
    """Per target the mean of the derivatives by its weights; also the gradient of the bias.

    The derivative of a softmax needs this mean. It is the scalar product of the target's output,
    without bias, and its gradient.
    """
    width, _, head, padded, _ = layout
    n_targets = len(grad) // width
    mean = np.zeros(n_targets * padded + LANES, grad.dtype)
    zero, bias = spread(grad, 0), 2 * width
    for f in range(0, width, _GROUP):
        f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
        heads = _four(head, f)
        b0, b1 = load(vectors, bias + f), load(vectors, bias + f1)
        b2, b3 = load(vectors, bias + f2), load(vectors, bias + f3)
        sum0, sum1, sum2, sum3 = zero, zero, zero, zero
        for t in range(n_targets):
            at = t * width
            g0, g1 = load(grad, at + f), load(grad, at + f1)
            g2, g3 = load(grad, at + f2), load(grad, at + f3)
            sum0, sum1, sum2, sum3 = add(sum0, g0), add(sum1, g1), add(sum2, g2), add(sum3, g3)
            v0 = multiply(g0, subtract(load(out, at + f), b0))
            v1 = multiply(g1, subtract(load(out, at + f1), b1))
            v2 = multiply(g2, subtract(load(out, at + f2), b2))
            v3 = multiply(g3, subtract(load(out, at + f3), b3))
            _add_totals(mean, t * padded, heads, v0, v1, v2, v3)
        store(grad_vectors, bias + f, sum0)
        store(grad_vectors, bias + f1, sum1)
        store(grad_vectors, bias + f2, sum2)
        store(grad_vectors, bias + f3, sum3)
    return mean


@_compiled
def _through_logits(  # type: ignore[no-untyped-def]
    grad_logits, h, vectors, layout, grad_h, grad_vectors
):
    """Add what comes through the logits to the gradient of `h`; also that of their vectors."""
    width, _, head, padded, _ = layout
    n_rows = len(h) // width
    zero = spread(h, 0)
    for f in range(0, width, 2 * LANES):  # a line of the cache
        f1, k, k1 = f + LANES, head[f // LANES], head[f // LANES + 1]
        s0, s1 = load(vectors, f), load(vectors, f1)
        t0, t1 = load(vectors, width + f), load(vectors, width + f1)
        of_s0, of_s1, of_t0, of_t1 = zero, zero, zero, zero
        for j in range(n_rows):
            at, of = j * width, 2 * j * padded
            from_s0, from_s1 = (
                spread(h, number(grad_logits, of + k)),
                spread(h, number(grad_logits, of + k1)),
            )
            of += padded
            from_t0, from_t1 = (
                spread(h, number(grad_logits, of + k)),
                spread(h, number(grad_logits, of + k1)),
            )
            h0, h1 = load(h, at + f), load(h, at + f1)
            of_s0, of_s1 = add(of_s0, multiply(from_s0, h0)), add(of_s1, multiply(from_s1, h1))
            of_t0, of_t1 = add(of_t0, multiply(from_t0, h0)), add(of_t1, multiply(from_t1, h1))
            g0 = add(multiply(from_s0, s0), multiply(from_t0, t0))
            g1 = add(multiply(from_s1, s1), multiply(from_t1, t1))
            store(grad_h, at + f, add(load(grad_h, at + f), g0))
            store(grad_h, at + f1, add(load(grad_h, at + f1), g1))
        store(grad_vectors, f, of_s0)
        store(grad_vectors, f1, of_s1)
        store(grad_vectors, width + f, of_t0)
        store(grad_vectors, width + f1, of_t1)


def _flat(tensor: Tensor) -> NDArray[Any]:
    """All numbers of a contiguous tensor."""
    array: NDArray[Any] = tensor.numpy().ravel()
    return array


class _Rows(NamedTuple):
    """What the edges work on.

    Rows of features; in rows of the same layout, the attention vectors by source and by target and
    the bias; and the logits, which `_score` gives.
    """

    layout: _Layout
    h: Tensor
    vectors: Tensor
    logits: Tensor

    @classmethod
    def of(cls, layout: _Layout, h: Tensor, vectors: Tensor) -> _Rows:
        logits = h.new_empty(len(h) * 2 * layout.padded + LANES)
        _score(_flat(h), _flat(vectors), layout, _flat(logits))
        return cls(layout, h, vectors, logits)

    def attend(
        self, edges: Edges, slope: float, first: int, last: int, out: Tensor, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Write the outputs of the targets from `first` to before `last`.

        Returns the attention of their edges, before and after dropout.
        """
        row, indptr, source, count = edges.arrays
        n_edges = int(indptr[last]) - int(indptr[first])
        attention = self.h.new_empty(n_edges * self.layout.pitch + LANES)
        graph = (row, indptr, source, count, first, last)
        _weigh(_flat(self.logits), self.layout, slope, *graph, _flat(attention))
        weights = functional.dropout(attention, dropout) if dropout else attention
        rows = (_flat(self.h), self.layout, _flat(weights), _flat(self.vectors[2]))
        _aggregate(*rows, indptr, source, first, last, _flat(out))
        return attention, weights


class _FusedAttention(torch.autograd.Function):
    """Attention and aggregation, without a tensor of edge features."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        vectors: Tensor,
        layout: _Layout,
        edges: Edges,
        slope: float,
        dropout: float,
    ) -> Tensor:
        rows = _Rows.of(layout, h, vectors)
        out = h.new_empty(edges.n_targets, layout.width)
        attention = rows.attend(edges, slope, 0, edges.n_targets, out, dropout)
        ctx.save_for_backward(out, h, vectors, rows.logits, *attention)
        ctx.layout, ctx.edges, ctx.slope = layout, edges, slope
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        *kept, attention, weights = ctx.saved_tensors
        found = _backward(
            *(_flat(part) for part in (grad.contiguous(), *kept)),
            *(ctx.layout, ctx.slope, _flat(attention), _flat(weights)),
            *(ctx.edges.arrays[0], *ctx.edges.reverse_arrays),
        )
        of_rows = (torch.from_numpy(array).view(-1, ctx.layout.width) for array in found)
        return *of_rows, None, None, None, None


def _sums(
    layers: Sequence[GraphAttention],
    h: Tensor,
    vectors: Sequence[Tensor],
    edges: Edges,
    shapes: _Shapes,
) -> Tensor:
    """Sums of rows of features by attention: by layer, its vectors as sources, targets, biases."""
    layout = _lay_out(shapes)
    together = torch.cat(list(vectors), dim=1).view(3, h.shape[1])
    h, together = (_pad(part, shapes, layout.width).contiguous() for part in (h, together))
    slope = layers[0].negative_slope
    dropout = layers[0].dropout if layers[0].training else 0.0
    if torch.is_grad_enabled() or dropout:
        out: Tensor = _FusedAttention.apply(  # type: ignore[no-untyped-call]
            h, together, layout, edges, slope, dropout
        )
    else:
        out = h.new_empty(edges.n_targets, layout.width)
        rows = _Rows.of(layout, h, together)
        for first in range(0, edges.n_targets, _CHUNK):
            rows.attend(edges, slope, first, min(first + _CHUNK, edges.n_targets), out)
    return _unpad(out, shapes)


def attend(
    layers: Sequence[GraphAttention], x: Tensor, edges: Edges, token: Tensor | None = None
) -> Tensor:
    """Outputs of layers over the same edges, side by side.

    Parameters
    ----------
    layers
        One or more, with the same slope and dropout.
    x
        Input of all of them, shape (n_rows, in_dim), or those of each side by side.
    edges
        From these rows to the targets.
    token
        Features of one row more, the last.

    Returns
    -------
    Shape (n_targets, sum of the widths of the outputs).
    """
    if x.device.type != "cpu":
        return _reference(layers, x, edges, token)
    rows = x if token is None else torch.cat([x, token[None]])
    weights = [layer.lin.weight for layer in layers]
    sources = [layer.att_src.flatten(1) for layer in layers]
    targets = [layer.att_dst.flatten(1) for layer in layers]
    inputs = [layer.in_channels for layer in layers]
    own = rows.shape[1] == sum(inputs)
    if own and all(layer.heads == 1 for layer in layers) and sum(inputs) < sum(map(len, weights)):
        # Sums of the input are sums of narrower rows, and the linear map can follow.
        pairs = zip(sources + targets, weights * 2, strict=True)
        vectors = [*(vector @ weight for vector, weight in pairs), rows.new_zeros(1, sum(inputs))]
        shapes = tuple((1, width) for width in inputs)
        sums = torch.split(_sums(layers, rows, vectors, edges, shapes), inputs, dim=1)
        parts = zip(sums, layers, strict=True)
        mapped = [functional.linear(part, layer.lin.weight, layer.bias) for part, layer in parts]
        return torch.cat(mapped, dim=1)
    if own:
        pairs = zip(torch.split(rows, inputs, dim=1), weights, strict=True)
        h = torch.cat([functional.linear(part, weight) for part, weight in pairs], dim=1)
    else:
        h = functional.linear(rows, torch.cat(weights))
    vectors = sources + targets + [layer.bias[None] for layer in layers]
    shapes = tuple((layer.heads, layer.out_channels) for layer in layers)
    return _sums(layers, h, vectors, edges, shapes)


def _reference(
    layers: Sequence[GraphAttention], x: Tensor, edges: Edges, token: Tensor | None
) -> Tensor:
    """The same by torch-geometric, on any device."""
    widths = [layer.in_channels for layer in layers]
    inputs: Sequence[Tensor] = [x] * len(layers)
    tokens: Sequence[Tensor | None] = [token] * len(layers)
    if x.shape[1] == sum(widths):
        inputs = torch.split(x, widths, dim=1)
        tokens = tokens if token is None else torch.split(token, widths)
    parts = zip(layers, inputs, tokens, strict=True)
    return torch.cat([layer.reference(own, edges, last) for layer, own, last in parts], dim=1)


class GraphAttention(GATConv):  # type: ignore[misc]
    r"""Multi-head graph attention, paper equations (2) to (4).

    .. math::
        e_{ij} = \theta^\top [W x_i \Vert W x_j], \quad
        a_{ij} = \mathrm{softmax}_j(\mathrm{LeakyReLU}(e_{ij})), \quad
        x'_i = \sum_{j \in N(i) \cup \{i\}} a_{ij} W x_j

    Parameters
    ----------
    in_dim
        Width of the input.
    out_dim
        Width of the output: the concatenated heads. A multiple of `n_heads`.
    n_heads
        Number of heads.
    negative_slope
        Slope of the LeakyReLU.
    attention_dropout
        Probability with which an attention weight is zeroed in training.

    Shapes
    ------
    Input (n_obs, in_dim), `Edges` between these rows and optionally a token (in_dim,), the features
    of one row more, the last; output (n_targets, out_dim).

    Notes
    -----
    Parameters, initialisation and, away from the CPU, the computation are torch-geometric's. On the
    CPU the same numbers come from fused passes over the edges in compressed form, one forward and
    one backward, whose memory does not grow with edges × width and whose result does not depend on
    the number of threads. Without gradients no attention is kept.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        n_heads: int,
        negative_slope: float,
        attention_dropout: float,
    ) -> None:
        super().__init__(
            in_dim,
            out_dim // n_heads,
            heads=n_heads,
            negative_slope=negative_slope,
            dropout=attention_dropout,
            add_self_loops=False,
        )

    def forward(self, x: Tensor, edges: Edges, token: Tensor | None = None) -> Tensor:
        """Outputs of all targets."""
        return attend([self], x, edges, token)

    def reference(self, x: Tensor, edges: Edges, token: Tensor | None = None) -> Tensor:
        """The same by torch-geometric, on any device."""
        if token is None:
            out: Tensor = super().forward(x, edges.edge_index)
        else:
            rows = torch.cat([x, token[None]])
            out = super().forward((rows, rows[edges.row.to(torch.int64)]), edges.edge_index)
        return out
