"""Graph attention (paper, equations 2 to 4): torch-geometric's layer, fused on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from m2st import _kernels
from m2st._kernels import GROUP
from m2st._simd import LANES

with warnings.catch_warnings():
    # It asks for torch.jit.script, of which newer versions of torch warn.
    warnings.simplefilter("ignore", FutureWarning)
    from torch_geometric.nn import GATConv

# Targets whose attention is held at a time where no gradient is asked for.
_CHUNK = 1 << 15


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
        arrays = (row, indptr, source, count, *_kernels.reverse(indptr, source, n_rows))
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
        row, indptr, source, count = _kernels.hide(
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
    width = -(-sum(vectors) * LANES // GROUP) * GROUP
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
        row, indptr, source, count = edges.arrays
        n_edges = int(indptr[last]) - int(indptr[first])
        attention = self.h.new_empty(n_edges * self.layout.pitch + LANES)
        graph = (row, indptr, source, count, first, last)
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
