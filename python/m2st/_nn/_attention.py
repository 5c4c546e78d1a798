"""Graph attention (paper, equations 2 to 4): torch-geometric's layer, fused on the CPU."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from m2st._checks import check_choice, warn
from m2st._nn._edges import Edges


@contextlib.contextmanager
def _as_found() -> Iterator[None]:
    """Import what torch-geometric imports, and leave environment, folders and filters as found.

    Once imported, `torch._dynamo` makes a folder for what `torch.compile` compiles, in the folder
    for temporary files, and names it in the environment. Nothing is compiled so here; a folder that
    is there already needs no making, nor a place for temporary files.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ.setdefault(name, str(Path(torch.__file__).parent))
    try:
        with warnings.catch_warnings():
            # It asks for torch.jit.script, of which newer versions of torch warn.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


with _as_found():
    import torch._dynamo
    from torch_geometric.nn import GATConv

SWITCH = "M2ST_ATTENTION"
"""Variable of the environment that chooses how attention is computed on a CPU: by the compiled
loops (``fused``) or by torch-geometric (``reference``). Without it the loops are used if they work.
"""


class Loops(NamedTuple):
    """`m2st._nn._fused`, or None where torch-geometric takes its place, and why."""

    module: ModuleType | None
    reason: str


def loops() -> Loops:
    """How attention is computed on a CPU.

    Returns
    -------
    `Loops`, tried out on a small graph when first asked for.

    Raises
    ------
    ValueError
        If the variable ``M2ST_ATTENTION`` is neither ``fused`` nor ``reference``.
    ImportError
        If it is ``fused`` and the compiled loops do not work here.

    Warns
    -----
    UserWarning
        If they do not work, and torch-geometric takes over; once.
    """
    return _loops(os.environ.get(SWITCH, ""))


@lru_cache
def _loops(wish: str) -> Loops:
    if wish:
        check_choice(SWITCH, wish, ("fused", "reference"))
    if wish == "reference":
        return Loops(None, f"{SWITCH} asks for it")
    try:
        from m2st._nn import _fused

        _try_out(_fused)
    except Exception as error:  # numba's or LLVM's own: whatever it is, there is another way
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"
        if wish == "fused":
            msg = (
                f"Expected compiled loops that work, as {SWITCH}=fused asks for, found {reason}. "
                "Unset the variable to compute without them, or install a version of numba that "
                "m2ST is tested with: `pip install --force-reinstall m2st`."
            )
            raise ImportError(msg) from error
        warn(
            f"The compiled loops of the attention layer do not work here ({reason}). "
            "torch-geometric's layer takes over: the same up to rounding, but slower. Install a "
            f"version of numba that m2ST is tested with, or set {SWITCH}=reference to say no more."
        )
        return Loops(None, reason)
    return Loops(_fused, "")


def _try_out(fused: ModuleType) -> None:
    """Compare outputs and gradients of the compiled loops with plain sums, on a path of three."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        numbers = torch.linspace(-1, 1, 6 * 32, dtype=torch.float32, device="cpu").sin()
        rows = numbers.view(6, 32)
        leaves = [part.clone().requires_grad_() for part in (rows[:3], rows[3:])]
        h, (source, target, bias) = leaves
        path = sparse.csr_array(np.diag([1.0, 1.0], 1) + np.diag([1.0, 1.0], -1))
        last, everybody = torch.tensor([[0, 0, 1], [1, 1, 1]], dtype=torch.bool, device="cpu")
        edges = Edges.from_adjacency(path).mask(last, everybody)  # one hidden row changes nothing
        found = fused.sums(h, [*leaves[1][:, None]], edges, ((1, 32),), slope=0.2)
        logits = functional.leaky_relu((h @ target)[:, None] + h @ source, 0.2)
        apart = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=torch.bool, device="cpu")
        expected = logits.masked_fill(apart, -torch.inf).softmax(dim=1) @ h + bias
        for ours, theirs in zip(
            (found, *torch.autograd.grad(found.square().sum(), leaves)),
            (expected, *torch.autograd.grad(expected.square().sum(), leaves)),
            strict=True,
        ):
            error = float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())
            if not error < 1e-4:
                msg = f"they are wrong by {error:.0%} on a small graph."
                raise ArithmeticError(msg)


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
    fused = loops().module if x.device.type == "cpu" else None
    if fused is None:
        return _reference(layers, x, edges, token)
    first = layers[0]
    slope, dropout = first.negative_slope, first.dropout if first.training else 0.0
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
        sums = fused.sums(rows, vectors, edges, shapes, slope=slope, dropout=dropout)
        parts = zip(torch.split(sums, inputs, dim=1), layers, strict=True)
        mapped = [functional.linear(part, layer.lin.weight, layer.bias) for part, layer in parts]
        return torch.cat(mapped, dim=1)
    if own:
        pairs = zip(torch.split(rows, inputs, dim=1), weights, strict=True)
        h = torch.cat([functional.linear(part, weight) for part, weight in pairs], dim=1)
    else:
        h = functional.linear(rows, torch.cat(weights))
    vectors = sources + targets + [layer.bias[None] for layer in layers]
    shapes = tuple((layer.heads, layer.out_channels) for layer in layers)
    out: Tensor = fused.sums(h, vectors, edges, shapes, slope=slope, dropout=dropout)
    return out


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
    the number of threads. Without gradients no attention is kept. Where these do not work, or the
    variable ``M2ST_ATTENTION`` is ``reference``, the computation is torch-geometric's here, too.
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

    def _set_jittable_templates(self, raise_on_error: bool = False) -> None:  # noqa: FBT001, FBT002
        """Write no code for this class: torch-geometric would leave it in the temporary folder."""

    def forward(self, x: Tensor, edges: Edges, token: Tensor | None = None) -> Tensor:
        """Outputs of all targets."""
        return attend([self], x, edges, token)

    def reference(self, x: Tensor, edges: Edges, token: Tensor | None = None) -> Tensor:
        """The same by torch-geometric, on any device."""
        if token is None:
            out: Tensor = super().forward(x, edges.edge_index)
        else:
            rows = torch.cat([x, token[None]])
            out = super().forward((rows, rows[edges.target_row.to(torch.int64)]), edges.edge_index)
        return out
