"""Training of the autoencoder on arrays."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from m2st._checks import (
    check_adjacency,
    check_features,
    check_int,
    check_numbers,
    check_seed,
    check_target,
)
from m2st._nn._attention import loops
from m2st._nn._autoencoder import (
    MaskedGraphAutoencoder,
    own_torch,
    process,
    to_arrays,
    to_tensors,
)
from m2st._nn._edges import Edges
from m2st._nn._partition import PARTS_PER_BATCH, Partition
from m2st._params import AutoencoderParams
from m2st._tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

Callback = Callable[[int, int, float], object]
Stopped = Literal["finished", "converged", "interrupted"]


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes
    ----------
    model
        The trained autoencoder.
    embeddings
        One array of shape (n_obs, d_m) per scale.
    loss
        Loss of each epoch, equation (10).
    stopped
        ``"finished"`` after all epochs, ``"converged"`` when the loss no longer fell,
        ``"interrupted"`` by the keyboard or the callback: usable, but trained for less.
    device
        Where it was trained.
    attention
        ``"fused"`` or ``"reference"``: how attention was computed.
    """

    model: MaskedGraphAutoencoder
    embeddings: list[NDArray[np.float32]]
    loss: NDArray[np.float64]
    stopped: Stopped
    device: str
    attention: str


def choose_device(device: str = "auto") -> torch.device:
    """Resolve ``"auto"`` to CUDA, MPS or the CPU, in this order, when called."""
    if device != "auto":
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError, TypeError) as error:
            known = ["auto", "cpu"]
            known += ["cuda"] if torch.cuda.is_available() else []
            known += ["mps"] if torch.backends.mps.is_available() else []
            msg = (
                f"Expected a `device` that torch can use here, such as {', '.join(known)}, found "
                f"{device!r}. Choose one of these, or leave it out."
            )
            raise ValueError(msg) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


@contextlib.contextmanager
def among_processes() -> Iterator[None]:
    """Join the other processes if torchrun started this one, each with a GPU of its own."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the context; the caller's random streams are left as found.

    Those of the CPU and of `device`: `torch.manual_seed` would also reach those of all others.
    """
    streams: list[Any] = [torch.default_generator]
    if device.type == "cuda":
        index = torch.empty(0, device=device).device.index
        streams.append(torch.cuda.default_generators[index])
    elif device.type == "mps":
        streams.append(torch.mps._get_default_mps_generator())
    before = [stream.get_state() for stream in streams]
    for stream in streams:
        stream.manual_seed(seed)
    try:
        yield
    finally:
        for stream, state in zip(streams, before, strict=True):
            stream.set_state(state)


def train(
    features: NDArray[Any],
    adjacency: sparse.spmatrix,
    params: AutoencoderParams | None = None,
    *,
    random_state: int = 0,
    device: str = "auto",
    progress: bool = False,
    callback: Callback | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
) -> TrainingResult:
    """Train the autoencoder by masked reconstruction with Adam.

    Parameters
    ----------
    features
        Array of shape (n_obs, n_features), finite, such as principal component scores.
    adjacency
        Symmetric sparse graph of shape (n_obs, n_obs). Weights are ignored, self-loops are added:
        an isolated observation is embedded from its own features.
    params
        Architecture and training; None takes the defaults.
    random_state
        Seed of weights, masks and dropout. The same seed gives the same bits on the CPU.
    device
        ``"auto"``, or a device as torch names it.
    progress
        Show a progress bar.
    callback
        Called after each epoch with the epoch counted from 1, the most epochs, and the loss.
        Returning False ends the training; an exception passes through.
    checkpoint
        File that holds the state of the training. If it exists, training resumes from it and ends
        in the same bits as an undisturbed one.
    checkpoint_every
        Epochs between two writes of `checkpoint`; it is also written at the end. Each appears whole
        or not at all, with a checksum and the version of m2ST.

    Returns
    -------
    TrainingResult

    Raises
    ------
    ValueError
        If features or graph are unfit, the device cannot be used, or `checkpoint` is damaged or
        belongs to other data, settings, versions or another seed.
    OSError
        If `checkpoint` cannot be written, as far as can be told before the training; what was there
        is unchanged, and training goes on from it when called again.
    FloatingPointError
        If the loss is no longer finite.
    """
    params = params or AutoencoderParams()
    features = check_numbers(features, name="features")
    check_features(features)
    features = features.astype(np.float32, copy=False)
    adjacency = check_adjacency(adjacency, n_obs=len(features))
    random_state = check_seed(random_state)
    check_int("checkpoint_every", checkpoint_every, minimum=1)
    where = choose_device(device)
    attention = "reference"
    if where.type == "cpu" and loops().module is not None:
        attention = "fused"
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_target(path, (), overwrite=True)
    with own_torch(), _seeded(random_state, where):
        run = _Run(features, adjacency, params, random_state, where)
        if path is not None and path.exists():
            run.restore(path)
            logger.info("Resumed from %s at epoch %d", path, len(run.loss))
        stopped: Stopped = "finished"
        bar = tqdm(
            total=params.n_epochs, initial=len(run.loss), disable=not progress, desc="Training"
        )
        with bar:
            try:
                while len(run.loss) < params.n_epochs:
                    if run.converged():
                        stopped = "converged"
                        break
                    loss = run.epoch()
                    epoch = len(run.loss)
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    if path is not None and epoch % checkpoint_every == 0:
                        run.save(path)
                    if callback is not None and callback(epoch, params.n_epochs, loss) is False:
                        stopped = "interrupted"
                        break
            except (KeyboardInterrupt, SystemError) as error:
                # An interrupt within compiled code arrives as the cause of a SystemError.
                if not isinstance(error.__cause__ or error, KeyboardInterrupt):
                    raise
                # The epoch may be half done: an earlier checkpoint is exact, this state is not.
                stopped, path = "interrupted", None
        if stopped == "interrupted":
            logger.warning(
                "Training was interrupted after %d of %d epochs", len(run.loss), params.n_epochs
            )
        if path is not None:
            run.save(path)
    return TrainingResult(
        model=run.model,
        embeddings=run.model.embed(features, run.graph),
        loss=np.array(run.loss),
        stopped=stopped,
        device=str(where),
        attention=attention,
    )


class _Run:
    """State of one training: model, optimiser, loss history, random stream."""

    def __init__(
        self,
        features: NDArray[np.float32],
        adjacency: sparse.spmatrix,
        params: AutoencoderParams,
        random_state: int,
        device: torch.device,
    ) -> None:
        self.params = params
        self.device = device
        self.random_state = random_state
        self.rank, self.n_processes = process()
        self.model = MaskedGraphAutoencoder(features.shape[1], params).to(device).train()
        # A matrix of zeros has no scale; dividing by 1 leaves it as it is.
        scale = float(np.sqrt(np.mean(np.square(features, dtype=np.float64)))) or 1.0
        self.model.feature_scale.fill_(scale)
        self.graph = Partition.of(adjacency, params.batch_size)
        self.x = torch.from_numpy(features[self.graph.order]).to(device) / scale
        self.edges = None  # of the whole graph, where it is not divided
        if len(self.graph.parts) == 1:
            self.edges = Edges.from_adjacency(self.graph.adjacency).to(device)
        # The model itself, or the one that averages its gradients over all processes.
        self.network: nn.Module = self.model
        if self.divided:
            if self.n_processes > PARTS_PER_BATCH:
                msg = (
                    f"Expected at most {PARTS_PER_BATCH} processes, one for a part of an epoch, "
                    f"found {self.n_processes}. Start fewer."
                )
                raise ValueError(msg)
            self.network = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(),
            lr=params.learning_rate,
            weight_decay=params.weight_decay,
            fused=device.type != "mps",
        )
        self.loss: list[float] = []
        digest = hashlib.blake2b(np.ascontiguousarray(features).tobytes(), digest_size=16)
        for array in (self.graph.adjacency.indptr, self.graph.adjacency.indices):
            digest.update(array.astype(np.int64).tobytes())
        settings = [params.to_dict(), random_state, device.type, version("torch")]
        settings.append(loops().module is not None)  # other loops, other bits
        digest.update(json.dumps(settings).encode())
        self.fingerprint = digest.hexdigest()

    @property
    def divided(self) -> bool:
        """Whether processes of `torch.distributed` share the parts of an epoch."""
        return self.n_processes > 1 and len(self.graph.parts) > 1

    def draw_mask(self) -> NDArray[np.bool_]:
        """Which observations the epoch masks, equation (1), the same in all processes."""
        n_obs = len(self.x)
        n_masked = round(self.params.mask_rate * n_obs)
        if self.params.mask_rate > 0:
            n_masked = max(n_masked, 1)
        rng = np.random.default_rng([self.random_state, len(self.loss)])
        masked = np.zeros(n_obs, dtype=bool)
        masked[rng.permutation(n_obs)[:n_masked]] = True
        return masked

    def epoch(self) -> float:
        """Take one step of Adam with a new mask, on the parts whose turn it is."""
        self.optimizer.zero_grad(set_to_none=True)
        masked = self.draw_mask()
        scored = masked if self.params.mask_rate > 0 else np.ones_like(masked)
        numbers = self.graph.sampled(len(self.loss), self.random_state)
        nodes = self.graph.merged(numbers)
        n_scored = max(int(scored[nodes].sum()), 1)
        if self.divided:
            nodes = self.graph.merged(numbers[self.rank :: self.n_processes])
        # One step more than an embedding sees, for the decoder.
        reached = self.graph.neighbourhood(nodes, 2 + self.params.n_layers)
        edges = self.edges or Edges.from_adjacency(self.graph.induced_subgraph(reached)).to(
            self.device
        )
        x = self.x[torch.from_numpy(reached).to(self.device)] if self.edges is None else self.x
        counted = np.zeros_like(masked)
        counted[nodes] = scored[nodes]
        hidden, wanted = (
            torch.from_numpy(where[reached]).to(self.device) for where in (masked, counted)
        )
        error = self.model.error(self.network(x, edges, hidden, wanted), x[wanted])
        # A sum over processes, of which the gradients' average takes the mean.
        loss = error / n_scored * (self.n_processes if self.divided else 1)
        value = loss.detach().clone()
        if self.divided:
            distributed.all_reduce(value)
            value /= self.n_processes
        if not torch.isfinite(value):
            msg = (
                f"The loss became {float(value)} in epoch {len(self.loss) + 1}. "
                "Lower `learning_rate`, or look for extreme values among the features."
            )
            raise FloatingPointError(msg)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.loss.append(float(value))
        return self.loss[-1]

    def converged(self) -> bool:
        """Whether the mean loss of the last window is hardly lower than that of the one before."""
        window, share = self.params.patience, self.params.min_delta
        if share == 0 or len(self.loss) < 2 * window:
            return False
        before = np.mean(self.loss[-2 * window : -window])
        return bool(np.mean(self.loss[-window:]) > (1 - share) * before)

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on, once of all processes."""
        if self.rank > 0:
            return
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{name}": value for name, value in state.items()}
        tensors["loss"] = torch.tensor(self.loss, dtype=torch.float64)
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        write_tensors(path, to_arrays(tensors), {"fingerprint": self.fingerprint})

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote."""
        try:
            arrays, header = read_tensors(path)
        except ValueError as error:
            msg = f"{error} Without {path}, the training starts anew."
            raise ValueError(msg) from error
        belongs = header.get("fingerprint") == self.fingerprint
        if not belongs or header["version"] != version("m2st"):
            found = "other features, graph, settings, seed, kind of device or version of torch"
            if belongs:
                found = f"version {header['version']} of m2ST, and this is {version('m2st')}"
            msg = (
                f"Expected {path} to be a checkpoint of this run, found one of {found}. Delete it "
                "or name another file."
            )
            raise ValueError(msg)
        tensors = to_tensors(arrays)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, entry = name.split(".", 2)
                state.setdefault(int(index), {})[entry] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.model.load_state_dict(
            {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        )
        self.loss = tensors["loss"].tolist()
        torch.set_rng_state(tensors["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"], self.device)
