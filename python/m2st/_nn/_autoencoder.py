"""The multi-scale masked graph autoencoder (paper, part A)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, distributed, nn
from torch.nn import functional

from m2st._checks import check_adjacency, check_features, check_int, check_numbers
from m2st._files import write_whole
from m2st._nn._attention import GraphAttention, attend, loops
from m2st._nn._edges import Edges
from m2st._nn._partition import Partition
from m2st._params import AutoencoderParams
from m2st._tensors import pack_tensors, read_tensors


@contextlib.contextmanager
def own_torch() -> Iterator[None]:
    """Set torch as results here need it, whatever the session has set; all is put back after.

    One thread, so that sums are the same bits on any machine load or size: several runs side by
    side use the cores better than one run on several threads, which on graphs of a few thousand
    observations is slower than on one. Single precision in all its digits, the CPU for what names
    no device, and gradients, also where the caller works without them.
    """
    with contextlib.ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        # A default of the whole process: others' threads see it, so only where it is another one.
        if torch.get_default_dtype() != torch.float32:
            after.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            after.enter_context(torch.device("cpu"))
        matmul = getattr(torch.backends.mkldnn, "matmul", None)  # since torch 2.9
        if matmul is not None and matmul.fp32_precision not in {"none", "ieee"}:
            after.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
            matmul.fp32_precision = "ieee"
        after.enter_context(torch.autocast("cpu", enabled=False))
        if torch.cuda.is_available():
            after.enter_context(torch.autocast("cuda", enabled=False))
        after.enter_context(torch.inference_mode(mode=False))
        after.enter_context(torch.enable_grad())
        yield


def process() -> tuple[int, int]:
    """Number of this process and of all of them, where `torch.distributed` has been set up."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class _ScaledCosine(torch.autograd.Function):
    """Equation (10), summed over observations and averaged over scales.

    Its gradient is two products of the size of the reconstructions; taken apart by autograd it
    would be half a dozen.
    """

    @staticmethod
    def forward(ctx: Any, found: Tensor, target: Tensor, gamma: float) -> Tensor:
        lengths = torch.linalg.vector_norm(found, dim=2).clamp(min=1e-8)
        scales = lengths * torch.linalg.vector_norm(target, dim=1).clamp(min=1e-8)
        cosines = (found * target).sum(dim=2) / scales
        # Rounding can take 1 - cos just below 0, where a power is not defined.
        distances = (1 - cosines).clamp(min=0)
        ctx.save_for_backward(found, target, lengths, scales, cosines, distances)
        ctx.gamma = gamma
        loss: Tensor = distances.pow(gamma).sum(dim=1).mean()
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        found, target, lengths, scales, cosines, distances = ctx.saved_tensors
        slopes = distances.pow(ctx.gamma - 1) * (-ctx.gamma * grad / len(distances))
        grad_found = found * (-slopes * cosines / lengths.square())[:, :, None]
        return grad_found.addcmul_(target, (slopes / scales)[:, :, None]), None, None


class MaskedGraphAutoencoder(nn.Module):
    r"""Shared graph attention encoder, M encoders of different width, one decoder for each.

    .. math::
        h = \sigma(\mathrm{GAT}(\tilde x)), \quad
        h^m = \sigma(\mathrm{GAT}_m(h)), \quad
        z^m = \mathrm{GAT}'_m(\tilde h^m)

    with one or more layers in :math:`\mathrm{GAT}_m` and the identity or a PReLU as :math:`\sigma`.
    In training, one learnable vector replaces the features of the masked observations
    (:math:`\tilde x`, equation 1). For each scale, another one replaces their embeddings before
    decoding (:math:`\tilde h^m`, equation 8).

    Parameters
    ----------
    n_features
        Number of features of an observation.
    params
        Architecture; the settings of the training are ignored here.

    Shapes
    ------
    Features (n_obs, n_features); embeddings (n_obs, d_m), one per scale; reconstructions
    (n_scales, n_obs, n_features).

    Notes
    -----
    Features are divided by one number, their root mean square at training. The optimisation and the
    settings then do not depend on their unit. Directions and proportions stay as they are.
    """

    feature_scale: Tensor

    @own_torch()
    def __init__(self, n_features: int, params: AutoencoderParams | None = None) -> None:
        super().__init__()
        check_int("n_features", n_features, minimum=1)
        self.n_features = int(n_features)
        self.params = AutoencoderParams.of(params, name="params")
        self.register_buffer("feature_scale", torch.ones(()))
        self.mask_token = nn.Parameter(torch.zeros(n_features))
        self.remask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(width)) for width in self.params.scale_dims
        )
        hidden = self.params.hidden_dim
        self.shared_encoder = self._attention(n_features, hidden)
        self.shared_activation = self._activation()
        self.encoders = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList([self._attention(d if layer else hidden, d), self._activation()])
                for layer in range(self.params.n_layers)
            )
            for d in self.params.scale_dims
        )
        self.decoders = nn.ModuleList(
            self._attention(d, n_features, n_heads=1) for d in self.params.scale_dims
        )

    def _attention(
        self, in_dim: int, out_dim: int, *, n_heads: int | None = None
    ) -> GraphAttention:
        """Build one attention layer with the common settings."""
        return GraphAttention(
            in_dim,
            out_dim,
            n_heads=n_heads or self.params.n_heads,
            negative_slope=self.params.negative_slope,
            attention_dropout=self.params.attention_dropout,
        )

    def _activation(self) -> nn.Module:
        return nn.PReLU() if self.params.use_prelu else nn.Identity()

    def _dropout(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.params.feature_dropout, self.training)

    def encode(self, x: Tensor, edges: Edges) -> list[Tensor]:
        """Embeddings of each scale, equations (2) to (7); `x` is divided by `feature_scale`."""
        return self._scales(self._embed(self.shared_encoder(self._dropout(x), edges), edges))

    def _scales(self, together: Tensor) -> list[Tensor]:
        """Embeddings that stand side by side, by scale."""
        return list(torch.split(together, list(self.params.scale_dims), dim=1))

    def _embed(self, shared: Tensor, edges: Edges, last: Edges | None = None) -> Tensor:
        """Embeddings of all scales side by side from what the shared layer gives, (5) to (7).

        The edges of the last layer may differ, where not all its targets are wanted.
        """
        together = self.shared_activation(shared)
        for depth in range(self.params.n_layers):
            layers = [encoder[depth] for encoder in cast("Any", self.encoders)]
            here = last if last is not None and depth == self.params.n_layers - 1 else edges
            together = attend([layer[0] for layer in layers], self._dropout(together), here)
            if self.params.use_prelu:
                parts = zip(layers, self._scales(together), strict=True)
                together = torch.cat([layer[1](part) for layer, part in parts], dim=1)
        return cast("Tensor", together)

    def forward(
        self, x: Tensor, edges: Edges, masked: Tensor, scored: Tensor | None = None
    ) -> Tensor:
        """Reconstructions of each scale with the observations `masked` hidden.

        Of all observations, or of those `scored`; both are boolean, of shape (n_obs,).
        """
        tokens = torch.cat(list(self.remask_tokens))
        decoders = [cast("GraphAttention", decoder) for decoder in self.decoders]
        dropout = self.params.feature_dropout or self.params.attention_dropout
        fused = x.device.type == "cpu" and loops().module is not None
        if fused and not (self.training and dropout):
            # The masked are all alike: one row and one edge stand for those around a target.
            everybody, visible = torch.ones_like(masked), ~masked
            to_all = edges.mask(masked, everybody)
            to_scored = edges.mask(masked, everybody if scored is None else scored)
            shared = self.shared_encoder(x[visible], to_all, self.mask_token)
            # Nobody looks at the embeddings of the masked.
            embeddings = self._embed(shared, edges, edges.subgraph(visible))
            found = attend(decoders, embeddings, to_scored, tokens)
        else:
            shown = torch.where(masked[:, None], self.mask_token, x)
            embeddings = self._embed(self.shared_encoder(self._dropout(shown), edges), edges)
            found = attend(decoders, torch.where(masked[:, None], tokens, embeddings), edges)
            found = found if scored is None else found[scored]
        return found.view(len(found), len(decoders), self.n_features).transpose(0, 1)

    def error(self, reconstructions: Tensor, target: Tensor) -> Tensor:
        """Error, summed over observations and averaged over scales, equation (10)."""
        if self.params.loss_exponent is None:
            return (reconstructions - target).square().mean(dim=2).sum(dim=1).mean()
        apply: Any = _ScaledCosine.apply  # older releases of torch have no type for it
        found: Tensor = apply(reconstructions, target, self.params.loss_exponent)
        return found

    def transform(
        self, features: NDArray[Any], adjacency: sparse.spmatrix
    ) -> list[NDArray[np.float32]]:
        """Embed observations, of the training section or of a new one, without masking.

        Parameters
        ----------
        features
            Array of shape (n_obs, n_features): the same features as at training.
        adjacency
            Symmetric sparse graph of shape (n_obs, n_obs); weights are ignored.

        Returns
        -------
        One array of shape (n_obs, d_m) per scale.

        Raises
        ------
        ValueError
            If features or graph do not fit the model or each other.

        Notes
        -----
        More than `batch_size` observations are embedded in parts, each with all neighbours that its
        result depends on. The numbers are the same up to rounding, and memory is bounded. Processes
        of `torch.distributed` share the parts, and each ends with the whole.
        """
        features = check_numbers(features, name="features")
        check_features(features)
        features = features.astype(np.float32, copy=False)
        adjacency = check_adjacency(adjacency, n_obs=len(features))
        if features.shape[1] != self.n_features:
            msg = (
                f"Expected the {self.n_features} features that the model was trained on, "
                f"found {features.shape[1]}."
            )
            raise ValueError(msg)
        return self.embed(features, Partition.of(adjacency, self.params.batch_size))

    @own_torch()
    @torch.no_grad()
    def embed(self, features: NDArray[np.float32], graph: Partition) -> list[NDArray[np.float32]]:
        """`transform` on what has been checked and divided already."""
        rank, n_processes = process()
        batches = graph.batches()
        shared = len(batches) > 1 and n_processes > 1
        device = self.mask_token.device
        embeddings = [torch.zeros(len(features), width) for width in self.params.scale_dims]
        was_training = self.training
        self.eval()
        for nodes in batches[rank::n_processes] if shared else batches:
            reached = graph.neighbourhood(nodes, 1 + self.params.n_layers)
            edges = Edges.from_adjacency(graph.induced_subgraph(reached)).to(device)
            x = torch.from_numpy(features[graph.order[reached]]).to(device)
            inside = torch.from_numpy(np.searchsorted(reached, nodes)).to(device)
            rows = torch.from_numpy(graph.order[nodes])
            for whole, part in zip(
                embeddings, self.encode(x / self.feature_scale, edges), strict=True
            ):
                whole[rows] = part[inside].cpu()
        if shared:
            for whole in embeddings:
                distributed.all_reduce(whole)
        self.train(was_training)
        return [whole.numpy() for whole in embeddings]

    def save(self, path: str | Path) -> None:
        """Write weights and settings to one safetensors file, whole or not at all.

        Parameters
        ----------
        path
            File to write; an existing one is replaced.
        """
        write_whole(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """Content of the file that `save` writes: the same for the same weights and settings."""
        header = {"n_features": self.n_features, "params": self.params.to_dict()}
        return pack_tensors(to_arrays(self.state_dict()), header)

    @classmethod
    @own_torch()
    def load(cls, path: str | Path) -> MaskedGraphAutoencoder:
        """Read a model that `save` wrote.

        Parameters
        ----------
        path
            File to read.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it is not a model of this package.
        """
        arrays, header = read_tensors(Path(path))
        try:
            tensors = to_tensors(arrays)
            n_features = header["n_features"]
            params = AutoencoderParams.from_dict(header["params"])
            _check_size(n_features, params, tensors)
            with torch.device("meta"):  # takes no memory
                cls(n_features, params).load_state_dict(tensors)
            model = cls(n_features, params)
            model.load_state_dict(tensors)
        except (KeyError, TypeError, RuntimeError) as error:
            msg = f"Expected a saved m2ST model in {path}, found another file: {error}"
            raise ValueError(msg) from error
        return model


def _check_size(n_features: int, params: AutoencoderParams, tensors: Mapping[str, Tensor]) -> None:
    """Refuse settings of a network that is larger than the tensors of its file."""
    check_int("n_features", n_features, minimum=1)
    largest = max((tensor.numel() for tensor in tensors.values()), default=0)
    widths = (n_features, params.hidden_dim, params.n_heads, *params.scale_dims)
    if max(widths) > largest or params.n_layers > len(tensors):
        msg = "its settings ask for a larger network than it holds"
        raise TypeError(msg)


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Tensors of any device as arrays, to be written."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Inverse of `to_arrays`, on the CPU."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
