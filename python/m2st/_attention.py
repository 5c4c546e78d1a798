"""Graph attention (paper, equations 2 to 4): torch-geometric's layer, fused on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import GATConv

from m2st._simd import (
    LANES,
    add,
    divide,
    exp,
    load,
    maximum,
    multiply,
    spread,
    store,
    subtract,
    total,
    where_positive,
)

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
        row, indptr, source, count = _hide(
            self.indptr.numpy(), self.source.numpy(), flags, targets.numpy()
        )
        n_rows = len(flags) - int(flags.sum()) + 1
        return Edges._from_arrays(row, indptr, source, count, n_rows)

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
            place = filled[source[e]]
            reverse[place], receiver[place] = e, t
            filled[source[e]] += 1
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
    sources, counts = np.empty_like(source), np.empty(len(source), np.float32)
    t, n_edges = 0, 0
    for i in range(n_obs):
        if not targets[i]:
            continue
        count = 0
        for e in range(indptr[i], indptr[i + 1]):
            if hidden[source[e]]:
                count += 1
            else:
                sources[n_edges], counts[n_edges] = rows[source[e]], 1
                n_edges += 1
        if count:
            sources[n_edges], counts[n_edges] = n_visible, count
            n_edges += 1
        row[t], starts[t + 1] = rows[i], n_edges
        t += 1
    return row, starts, sources[:n_edges].copy(), counts[:n_edges].copy()


class _Layout(NamedTuple):
    """Where things stand in a row: heads padded to whole vectors, padding, logits by head.

    The columns are `width` of features, `head` of them for a head, then each head's logit as a
    source and as a target, `stride` in all. The attention of an edge takes `pitch` numbers.
    """

    n_heads: int
    head: int
    width: int
    stride: int
    pitch: int

    @classmethod
    def of(cls, n_heads: int, channels: int) -> _Layout:
        head = -(-channels // LANES) * LANES
        width = -(-n_heads * head // _GROUP) * _GROUP
        pitch = n_heads if n_heads <= LANES else -(-n_heads // LANES) * LANES
        return cls(n_heads, head, width, width + 2 * n_heads, pitch)


# A vector of heads is read, and written in ascending order, wherever its first head stands: where
# the number of heads is no multiple of 8 it has numbers in it that belong elsewhere and that nobody
# looks at. Arrays by head therefore end in as many unused numbers.


@_compiled
def _weigh(  # type: ignore[no-untyped-def]
    h, layout, slope, row, indptr, source, count, first, last, attention
):
    """Softmax over the edges of the targets from `first` to before `last`."""
    n_heads, _, width, stride, pitch = layout
    largest_degree = 0
    for t in range(first, last):
        largest_degree = max(largest_degree, indptr[t + 1] - indptr[t])
    weights = np.empty(largest_degree * LANES, h.dtype)
    one, slopes = spread(h, 1), spread(h, slope)
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        place = (start - indptr[first]) * pitch
        for k in range(0, n_heads, LANES):
            own = load(h, row[t] * stride + width + n_heads + k)
            # LeakyReLU never decreases: the largest logit is that of the largest source.
            largest = load(h, source[start] * stride + width + k)
            for e in range(start + 1, end):
                largest = maximum(largest, load(h, source[e] * stride + width + k))
            largest = add(largest, own)
            largest = maximum(largest, multiply(slopes, largest))
            summed = spread(h, 0)
            for e in range(start, end):
                logit = add(load(h, source[e] * stride + width + k), own)
                logit = maximum(logit, multiply(slopes, logit))
                weight = multiply(spread(h, count[e]), exp(subtract(logit, largest)))
                summed = add(summed, weight)
                store(weights, (e - start) * LANES, weight)
            share = divide(one, summed)
            for e in range(end - start):
                weight = multiply(share, load(weights, e * LANES))
                store(attention, place + e * pitch + k, weight)


@_inlined
def _add_scaled(vector, weights, place, rows, start):  # type: ignore[no-untyped-def]
    return add(vector, multiply(spread(weights, weights[place]), load(rows, start)))


@_compiled
def _aggregate(  # type: ignore[no-untyped-def]
    h, layout, weights, bias, indptr, source, first, last, out
):
    """Weighted sums of the sources of the targets from `first` to before `last`."""
    n_heads, head, width, stride, pitch = layout
    for t in range(first, last):
        start, end = np.int64(indptr[t]), np.int64(indptr[t + 1])
        for f in range(0, width, _GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            k, k1 = min(f // head, n_heads - 1), min(f1 // head, n_heads - 1)
            k2, k3 = min(f2 // head, n_heads - 1), min(f3 // head, n_heads - 1)
            sum0, sum1, sum2, sum3 = load(bias, f), load(bias, f1), load(bias, f2), load(bias, f3)
            for e in range(start, end):
                at, of = source[e] * stride, (e - indptr[first]) * pitch
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
    bias,
    h,
    layout,
    slope,
    attention,
    weights,
    row,
    reverse_indptr,
    reverse,
    receiver,
):
    """Gradient of `h` in one pass over the edges, by source.

    The derivative of a softmax needs, per target, the mean of the derivatives by its weights. It is
    the scalar product of the target's output, without bias, and its gradient.
    """
    n_heads, head, width, stride, pitch = layout
    n_targets, n_rows = len(row), len(reverse_indptr) - 1
    grad_h = np.empty_like(h)
    zero, slopes = spread(h, 0), spread(h, slope)
    mean = np.zeros(n_targets * n_heads + LANES, h.dtype)
    for t in range(n_targets):
        for f in range(0, width, LANES):
            k, place = min(f // head, n_heads - 1), t * width + f
            plain = subtract(load(out, place), load(bias, f))
            mean[t * n_heads + k] += total(multiply(load(grad, place), plain))
    largest_degree = 0
    for j in range(n_rows):
        largest_degree = max(largest_degree, reverse_indptr[j + 1] - reverse_indptr[j])
    dots = np.empty(largest_degree * n_heads + LANES, h.dtype)
    padded = -(-n_heads // LANES) * LANES
    grad_source = np.empty(padded, h.dtype)
    grad_target = np.zeros(n_targets * padded, h.dtype)
    for j in range(n_rows):
        start, end = np.int64(reverse_indptr[j]), np.int64(reverse_indptr[j + 1])
        own = j * stride
        dots[: (end - start) * n_heads] = 0
        for f in range(0, width, _GROUP):
            f1, f2, f3 = f + LANES, f + 2 * LANES, f + 3 * LANES
            k, k1 = min(f // head, n_heads - 1), min(f1 // head, n_heads - 1)
            k2, k3 = min(f2 // head, n_heads - 1), min(f3 // head, n_heads - 1)
            h0, h1, h2, h3 = (
                load(h, own + f),
                load(h, own + f1),
                load(h, own + f2),
                load(h, own + f3),
            )
            sum0, sum1, sum2, sum3 = zero, zero, zero, zero
            for p in range(start, end):
                at, of, to = receiver[p] * width, reverse[p] * pitch, (p - start) * n_heads
                sum0 = _add_scaled(sum0, weights, of + k, grad, at + f)
                sum1 = _add_scaled(sum1, weights, of + k1, grad, at + f1)
                sum2 = _add_scaled(sum2, weights, of + k2, grad, at + f2)
                sum3 = _add_scaled(sum3, weights, of + k3, grad, at + f3)
                g0, g1 = multiply(h0, load(grad, at + f)), multiply(h1, load(grad, at + f1))
                g2, g3 = multiply(h2, load(grad, at + f2)), multiply(h3, load(grad, at + f3))
                if k == k3:
                    dots[to + k] += total(add(add(g0, g1), add(g2, g3)))
                elif k == k1 and k2 == k3:
                    dots[to + k] += total(add(g0, g1))
                    dots[to + k2] += total(add(g2, g3))
                else:
                    dots[to + k] += total(g0)
                    dots[to + k1] += total(g1)
                    dots[to + k2] += total(g2)
                    dots[to + k3] += total(g3)
            store(grad_h, own + f, sum0)
            store(grad_h, own + f1, sum1)
            store(grad_h, own + f2, sum2)
            store(grad_h, own + f3, sum3)
        for k in range(0, n_heads, LANES):
            from_source, summed = load(h, own + width + k), zero
            for p in range(start, end):
                to, e = np.int64(receiver[p]), np.int64(reverse[p]) * pitch + k
                derivative = subtract(
                    multiply(load(weights, e), load(dots, (p - start) * n_heads + k)),
                    multiply(load(attention, e), load(mean, to * n_heads + k)),
                )
                logit = add(from_source, load(h, row[to] * stride + width + n_heads + k))
                derivative = where_positive(logit, derivative, multiply(slopes, derivative))
                summed = add(summed, derivative)
                place = to * padded + k
                store(grad_target, place, add(load(grad_target, place), derivative))
            store(grad_source, k, summed)
        for k in range(n_heads):
            grad_h[own + width + k] = grad_source[k]
            grad_h[own + width + n_heads + k] = 0
    for t in range(n_targets):
        for k in range(n_heads):
            grad_h[row[t] * stride + width + n_heads + k] += grad_target[t * padded + k]
    return grad_h


def _pad(heads: Tensor, layout: _Layout) -> Tensor:
    """Heads of shape (n, n_heads, channels) as rows with the layout's padding."""
    n, n_heads, channels = heads.shape
    if n_heads * channels == layout.width:
        return heads.reshape(n, layout.width)
    padded = heads.new_zeros(n, layout.width)
    _heads(padded, layout, channels).copy_(heads)
    return padded


def _heads(padded: Tensor, layout: _Layout, channels: int) -> Tensor:
    """View of what `_pad` took."""
    by_head = padded[:, : layout.n_heads * layout.head]
    return by_head.view(-1, layout.n_heads, layout.head)[:, :, :channels]


class _Rows(NamedTuple):
    """What the edges work on, padded to `layout`."""

    layout: _Layout
    columns: Tensor
    bias: Tensor
    h: Tensor


def _project(
    x: Tensor, token: Tensor | None, weight: Tensor, vectors: Tensor, bias: Tensor
) -> _Rows:
    """Features and logits of the rows of `x` and, last, of the row `token`.

    The logits are linear in the input too, by ``attention vector × weight``: a few columns more of
    one matrix product.
    """
    _, n_heads, channels = vectors.shape
    layout = _Layout.of(n_heads, channels)
    by_head = weight.view(n_heads, channels, -1)
    columns = weight.new_zeros(layout.stride, weight.shape[1])
    _heads(columns[: layout.width].T, layout, channels).copy_(by_head.permute(2, 0, 1))
    logits = columns[layout.width :].view(2, n_heads, -1).transpose(0, 1)
    torch.bmm(vectors.transpose(0, 1), by_head, out=logits)
    n_obs = len(x)
    n_rows = n_obs + (token is not None)
    h = x.new_empty(n_rows * layout.stride + LANES)
    rows = h[:-LANES].view(n_rows, layout.stride)
    torch.mm(x, columns.T, out=rows[:n_obs])
    if token is not None:
        torch.mv(columns, token, out=rows[n_obs])
    return _Rows(layout, columns, _pad(bias.view(1, n_heads, channels), layout)[0], h)


class _FusedAttention(torch.autograd.Function):
    """Linear map, attention and aggregation, without a tensor of edge features."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        token: Tensor | None,
        weight: Tensor,
        vectors: Tensor,
        bias: Tensor,
        edges: Edges,
        slope: float,
        dropout: float,
    ) -> Tensor:
        layout, columns, bias, h = _project(x, token, weight, vectors, bias)
        graph = [tensor.numpy() for tensor in (edges.row, edges.indptr, edges.source, edges.count)]
        row, indptr, source, _ = graph
        span = (0, len(row))
        attention = h.new_empty(len(source) * layout.pitch + LANES)
        _weigh(h.numpy(), layout, slope, *graph, *span, attention.numpy())
        weights = functional.dropout(attention, dropout) if dropout else attention
        out = h.new_empty(len(row), layout.width)
        _aggregate(
            h.numpy(),
            layout,
            weights.numpy(),
            bias.numpy(),
            indptr,
            source,
            *span,
            out.numpy().ravel(),
        )
        ctx.save_for_backward(x, token, weight, vectors, columns, bias, h, out, attention, weights)
        ctx.edges, ctx.slope, ctx.layout = edges, slope, layout
        return _heads(out, layout, vectors.shape[2]).flatten(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, token, weight, vectors, columns, bias, h, out, attention, weights = ctx.saved_tensors
        edges, layout = ctx.edges, ctx.layout
        _, n_heads, channels = vectors.shape
        grad = _pad(grad.reshape(-1, n_heads, channels), layout)
        flat = _backward(
            *(tensor.numpy().ravel() for tensor in (grad, out, bias, h)),
            layout,
            ctx.slope,
            attention.numpy(),
            weights.numpy(),
            edges.row.numpy(),
            edges.reverse_indptr.numpy(),
            edges.reverse.numpy(),
            edges.receiver.numpy(),
        )
        grad_rows = torch.from_numpy(flat[:-LANES]).view(-1, layout.stride)
        of_x = grad_rows[: len(x)]
        grad_x = of_x @ columns if ctx.needs_input_grad[0] else None
        grad_columns = of_x.T @ x
        grad_token = None
        if token is not None:
            grad_token = grad_rows[-1] @ columns
            grad_columns.addr_(grad_rows[-1], token)
        by_head = weight.view(n_heads, channels, -1)
        of_logits = grad_columns[layout.width :].view(2, n_heads, -1).transpose(0, 1)
        grad_vectors = torch.bmm(of_logits, by_head.transpose(1, 2)).transpose(0, 1)
        grad_weight = torch.baddbmm(
            _heads(grad_columns[: layout.width].T, layout, channels).permute(1, 2, 0),
            vectors.permute(1, 2, 0),
            of_logits,
        ).view_as(weight)
        grad_bias = _heads(grad.sum(0)[None], layout, channels).flatten()
        return grad_x, grad_token, grad_weight, grad_vectors, grad_bias, None, None, None


def _infer(
    x: Tensor,
    token: Tensor | None,
    weight: Tensor,
    vectors: Tensor,
    bias: Tensor,
    edges: Edges,
    slope: float,
) -> Tensor:
    """The same without gradients: the attention of a chunk of the targets is held at a time."""
    layout, _, bias, h = _project(x, token, weight, vectors, bias)
    graph = [tensor.numpy() for tensor in (edges.row, edges.indptr, edges.source, edges.count)]
    row, indptr, source, _ = graph
    out = h.new_empty(len(row), layout.width)
    for first in range(0, len(row), _CHUNK):
        last = min(first + _CHUNK, len(row))
        n_edges = int(indptr[last]) - int(indptr[first])
        attention = np.empty(n_edges * layout.pitch + LANES, out.numpy().dtype)
        _weigh(h.numpy(), layout, slope, *graph, first, last, attention)
        _aggregate(
            h.numpy(),
            layout,
            attention,
            bias.numpy(),
            indptr,
            source,
            first,
            last,
            out.numpy().ravel(),
        )
    return _heads(out, layout, vectors.shape[2]).flatten(1)


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
        if x.device.type != "cpu":
            return self.reference(x, edges, token)
        vectors = torch.cat([self.att_src, self.att_dst])
        inputs = (x, token, self.lin.weight, vectors, self.bias)
        dropout = self.dropout if self.training else 0.0
        if not torch.is_grad_enabled() and not dropout:
            return _infer(*inputs, edges, self.negative_slope)
        fused: Tensor = _FusedAttention.apply(  # type: ignore[no-untyped-call]
            *inputs, edges, self.negative_slope, dropout
        )
        return fused

    def reference(self, x: Tensor, edges: Edges, token: Tensor | None = None) -> Tensor:
        """The same by torch-geometric, on any device."""
        if token is None:
            out: Tensor = super().forward(x, edges.edge_index)
        else:
            rows = torch.cat([x, token[None]])
            out = super().forward((rows, rows[edges.row.to(torch.int64)]), edges.edge_index)
        return out
