"""Attention and aggregation on a CPU in compiled passes, without a tensor of edge features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from m2st._nn import _kernels
from m2st._nn._edges import Edges
from m2st._nn._kernels import GROUP
from m2st._nn._simd import LANES

# Targets whose attention is held at a time where no gradient is asked for.
_CHUNK = 1 << 15


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


Shapes = tuple[tuple[int, int], ...]  # heads and channels of each layer


@lru_cache
def _lay_out(shapes: Shapes) -> _Layout:
    """Layout of layers side by side."""
    vectors = [-(-channels // LANES) for heads, channels in shapes for _ in range(heads)]
    n_heads = len(vectors)
    width = -(-sum(vectors) * LANES // GROUP) * GROUP
    head = np.full(width // LANES, n_heads - 1, dtype=np.int32)
    head[: sum(vectors)] = np.repeat(np.arange(n_heads), vectors)
    padded = -(-n_heads // LANES) * LANES
    return _Layout(width, n_heads, head, padded, n_heads if n_heads <= LANES else padded)


def _pad(rows: Tensor, shapes: Shapes, width: int) -> Tensor:
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


def _unpad(rows: Tensor, shapes: Shapes) -> Tensor:
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
        _kernels.score(_flat(h), _flat(vectors), layout, _flat(logits))
        return cls(layout, h, vectors, logits)

    def attend(
        self, edges: Edges, slope: float, first: int, last: int, out: Tensor, dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Write the outputs of the targets from `first` to before `last`.

        Returns the attention of their edges, before and after dropout.
        """
        target_row, indptr, source, weight = edges.arrays
        n_edges = int(indptr[last]) - int(indptr[first])
        attention = self.h.new_empty(n_edges * self.layout.pitch + LANES)
        graph = (target_row, indptr, source, weight, first, last)
        _kernels.weigh(_flat(self.logits), self.layout, slope, *graph, _flat(attention))
        weights = functional.dropout(attention, dropout) if dropout else attention
        rows = (_flat(self.h), self.layout, _flat(weights), _flat(self.vectors[2]))
        _kernels.aggregate(*rows, indptr, source, first, last, _flat(out))
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
        found = _kernels.backward(
            *(_flat(part) for part in (grad.contiguous(), *kept)),
            *(ctx.layout, ctx.slope, _flat(attention), _flat(weights)),
            *(ctx.edges.arrays[0], *ctx.edges.by_source),
        )
        of_rows = (torch.from_numpy(array).view(-1, ctx.layout.width) for array in found)
        return *of_rows, None, None, None, None


def sums(
    h: Tensor,
    vectors: Sequence[Tensor],
    edges: Edges,
    shapes: Shapes,
    *,
    slope: float,
    dropout: float = 0.0,
) -> Tensor:
    """Sums of rows of features by attention.

    Parameters
    ----------
    h
        Features of all layers side by side.
    vectors
        By layer, its vectors as sources, then as targets, then biases.
    edges
        From these rows to the targets.
    shapes
        Heads and channels of each layer.
    slope
        Of the LeakyReLU.
    dropout
        Probability with which an attention weight is zeroed.
    """
    layout = _lay_out(shapes)
    together = torch.cat(list(vectors), dim=1).view(3, h.shape[1])
    h, together = (_pad(part, shapes, layout.width).contiguous() for part in (h, together))
    if torch.is_grad_enabled() or dropout:
        apply: Any = _FusedAttention.apply  # older releases of torch have no type for it
        out: Tensor = apply(h, together, layout, edges, slope, dropout)
    else:
        out = h.new_empty(edges.n_targets, layout.width)
        rows = _Rows.of(layout, h, together)
        for first in range(0, edges.n_targets, _CHUNK):
            rows.attend(edges, slope, first, min(first + _CHUNK, edges.n_targets), out)
    return _unpad(out, shapes)
