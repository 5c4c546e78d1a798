"""Graph attention (paper, equations 2 to 4): torch-geometric's layer, fused on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional
from torch_geometric.nn import GATConv

# `reassoc` and `contract` let the inner loops use vector instructions; NaN and infinity keep their
# meaning. The result is the same on every run: each output element is summed by one loop.
_FAST = {"reassoc", "contract", "nsz", "arcp"}


class Edges(NamedTuple):
    """The spatial graph with self-loops, by target and by source, as int64 tensors.

    An edge ``source -> target`` carries a message from `source` to `target`. `indptr` (n_obs + 1)
    and `source` (n_edges) list the edges by target; `reverse_indptr` and `reverse` list, for each
    source, the positions of its edges in that list. `edge_index` is torch-geometric's edge list.
    """

    indptr: Tensor
    source: Tensor
    reverse_indptr: Tensor
    reverse: Tensor
    edge_index: Tensor

    @classmethod
    def from_adjacency(cls, adjacency: sparse.spmatrix) -> Edges:
        """Edges of a sparse graph of shape (n_obs, n_obs), weights ignored, self-loops added."""
        n_obs = adjacency.shape[0]
        pattern = sparse.csr_array(adjacency, copy=True)
        pattern.data = np.ones_like(pattern.data, dtype=np.float32)
        pattern.setdiag(1)
        pattern.sum_duplicates()
        target = np.repeat(np.arange(n_obs), np.diff(pattern.indptr))
        source = pattern.indices.astype(np.int64)
        reverse = np.argsort(source, kind="stable")
        counts = np.bincount(source, minlength=n_obs)
        return cls(
            indptr=torch.from_numpy(pattern.indptr.astype(np.int64)),
            source=torch.from_numpy(source),
            reverse_indptr=torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])),
            reverse=torch.from_numpy(reverse),
            edge_index=torch.from_numpy(np.stack([source, target])),
        )

    def to(self, device: torch.device) -> Edges:
        """The same edges on `device`."""
        return Edges(*(tensor.to(device) for tensor in self))


@numba.njit(cache=True, fastmath=_FAST)
def _forward(  # type: ignore[no-untyped-def]
    h, from_source, to_target, keep, indptr, source, slope
):
    """Softmax over the edges of each target, then the weighted sum of its sources."""
    n_obs, n_heads, width = h.shape
    out = np.zeros_like(h)
    attention = np.empty((len(source), n_heads), h.dtype)
    for i in range(n_obs):
        for k in range(n_heads):
            largest = -np.inf
            for e in range(indptr[i], indptr[i + 1]):
                logit = from_source[source[e], k] + to_target[i, k]
                logit = logit if logit > 0 else slope * logit
                attention[e, k] = logit
                # As stored: the logit itself may have more digits, and then exceed them all.
                largest = max(largest, attention[e, k])
            total = 0.0
            for e in range(indptr[i], indptr[i + 1]):
                attention[e, k] = np.exp(attention[e, k] - largest)
                total += attention[e, k]
            for e in range(indptr[i], indptr[i + 1]):
                attention[e, k] /= total
                weight = attention[e, k]
                if len(keep):
                    weight *= keep[e, k]
                j = source[e]
                for f in range(width):
                    out[i, k, f] += weight * h[j, k, f]
    return out, attention


@numba.njit(cache=True, fastmath=_FAST)
def _backward(  # type: ignore[no-untyped-def]
    grad,
    h,
    from_source,
    to_target,
    keep,
    attention,
    indptr,
    source,
    reverse_indptr,
    reverse,
    slope,
):
    """Gradients of `_forward`: by target for the logits, then by source for all that is summed."""
    n_obs, n_heads, width = h.shape
    grad_h = np.zeros_like(h)
    grad_source = np.zeros_like(from_source)
    grad_target = np.zeros_like(to_target)
    grad_logit = np.empty_like(attention)
    target = np.empty(len(source), np.int64)
    for i in range(n_obs):
        for e in range(indptr[i], indptr[i + 1]):
            target[e] = i
        for k in range(n_heads):
            mean = 0.0
            for e in range(indptr[i], indptr[i + 1]):
                j = source[e]
                dot = h[j, k, 0] * grad[i, k, 0]
                for f in range(1, width):
                    dot += h[j, k, f] * grad[i, k, f]
                if len(keep):
                    dot *= keep[e, k]
                grad_logit[e, k] = dot
                mean += attention[e, k] * dot
            for e in range(indptr[i], indptr[i + 1]):
                value = attention[e, k] * (grad_logit[e, k] - mean)
                if from_source[source[e], k] + to_target[i, k] <= 0:
                    value *= slope
                grad_logit[e, k] = value
                grad_target[i, k] += value
    for j in range(n_obs):
        for position in range(reverse_indptr[j], reverse_indptr[j + 1]):
            e = reverse[position]
            i = target[e]
            for k in range(n_heads):
                grad_source[j, k] += grad_logit[e, k]
                weight = attention[e, k]
                if len(keep):
                    weight *= keep[e, k]
                for f in range(width):
                    grad_h[j, k, f] += weight * grad[i, k, f]
    return grad_h, grad_source, grad_target


class _FusedAttention(torch.autograd.Function):
    """Attention and aggregation in one pass over the edges, without a tensor of edge features."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        from_source: Tensor,
        to_target: Tensor,
        keep: Tensor,
        edges: Edges,
        slope: float,
    ) -> Tensor:
        h = h.contiguous()
        arrays = [tensor.detach().numpy() for tensor in (h, from_source, to_target, keep)]
        graph = (edges.indptr.numpy(), edges.source.numpy())
        out, attention = _forward(*arrays, *graph, slope)  # type: ignore[call-arg]
        ctx.save_for_backward(h, from_source, to_target, keep, torch.from_numpy(attention))
        ctx.edges, ctx.slope = edges, slope
        return torch.from_numpy(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        arrays = [tensor.detach().numpy() for tensor in ctx.saved_tensors]
        lists = [tensor.numpy() for tensor in ctx.edges[:4]]
        gradients = _backward(  # type: ignore[call-arg]
            grad.contiguous().numpy(), *arrays, *lists, ctx.slope
        )
        return (*(torch.from_numpy(gradient) for gradient in gradients), None, None, None)


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
    Input (n_obs, in_dim) and `Edges`; output (n_obs, out_dim).

    Notes
    -----
    Parameters, initialisation and, away from the CPU, the computation are torch-geometric's. On the
    CPU the same numbers come from a fused pass over the edges in compressed form, whose memory does
    not grow with edges × width and whose result does not depend on the number of threads.
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

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """Outputs of all observations."""
        if x.device.type != "cpu":
            reference: Tensor = super().forward(x, edges.edge_index)
            return reference
        h = self.lin(x).view(-1, self.heads, self.out_channels)
        keep = h.new_empty((0, self.heads))
        if self.training and self.dropout > 0:
            keep = functional.dropout(h.new_ones(len(edges.source), self.heads), self.dropout)
        out: Tensor = _FusedAttention.apply(  # type: ignore[no-untyped-call]
            h,
            (h * self.att_src).sum(-1),
            (h * self.att_dst).sum(-1),
            keep,
            edges,
            self.negative_slope,
        )
        result: Tensor = out.flatten(1) + self.bias
        return result
