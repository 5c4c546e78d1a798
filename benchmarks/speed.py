"""Time of one training epoch, ours and others', beside what it cannot do without. One thread.

    python -m benchmarks.speed                 # one epoch of each, on dlpfc_151673
    python -m benchmarks.speed --whole         # whole runs: ours with its ensemble, one of a peer

Five rounds, in each of which everybody has a turn; the median of them, side by side in one run.
GraphST and STAGATE take part where they can be imported (benchmarks.peers says how), each with its
own training loop: an epoch is the time from one step of the optimiser to the next.

The limit is the matrix products of our linear maps alone, forward and backward, on all
observations. Beside it stands one pass over the edges: the rows of all layers, fetched once per
edge and direction.

Writes speed.csv and speed.md beside this file, --whole speed_whole.csv and speed_whole.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import argparse
import contextlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import pandas as pd
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch_geometric.nn import GATConv

import m2st
from benchmarks.data import Case, load
from benchmarks.peers import METHODS, log_normalized, stagate_graph
from benchmarks.stamp import born, stamp
from m2st._keys import Keys
from m2st._nn._edges import Edges
from m2st._nn._training import train

KEYS = Keys()
HERE = Path(__file__).parent
DATA = "dlpfc_151673"
N_ROUNDS = 5
OURS, REFERENCE, LIMIT, PASS = (
    "m2ST",
    "m2ST with torch-geometric's GATConv",
    "dense products alone",
    "one pass over the edges",
)

Milliseconds = float
Round = Callable[[], Milliseconds]


def epoch_of(run: Callable[[], object]) -> Milliseconds:
    """Median time between the steps of an optimiser in `run`, the first one left out."""
    steps: list[float] = []
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(time.perf_counter()))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run()
    finally:
        handle.remove()
    return 1e3 * median(np.diff(steps)[1:])


def seconds_of(run: Callable[[], object], n: int = 10) -> Milliseconds:
    """Median time of a short piece of work."""
    times = []
    for _ in range(n):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return 1e3 * median(times)


def plain_forward(
    model: m2st.MaskedGraphAutoencoder,
    x: torch.Tensor,
    edges: Edges,
    masked: torch.Tensor,
    scored: torch.Tensor,
) -> torch.Tensor:
    """The same network from torch-geometric's layers, as one would write it with them."""

    def layer(attention: GATConv, rows: torch.Tensor) -> torch.Tensor:
        return GATConv.forward(attention, rows, edges.edge_index)

    hidden = masked[:, None]
    shared = layer(model.shared_encoder, torch.where(hidden, model.mask_token, x))
    found = []
    parts = zip(model.encoders, model.decoders, model.remask_tokens, strict=True)
    for encoder, decoder, token in parts:
        embedding = shared
        for attention, _ in encoder:
            embedding = layer(attention, embedding)
        found.append(layer(decoder, torch.where(hidden, token, embedding))[scored])
    return torch.stack(found)


def linear_maps(n_features: int, params: m2st.AutoencoderParams) -> list[tuple[int, int]]:
    """Widths of input and output of all layers, the one that sees the data first."""
    maps = [(n_features, params.hidden_dim)]
    for width in params.scale_dims:
        inputs = [params.hidden_dim] + [width] * (params.n_layers - 1)
        maps += [(before, width) for before in inputs] + [(width, n_features)]
    return maps


def dense(n_obs: int, maps: list[tuple[int, int]]) -> Callable[[], None]:
    """The products: outputs, gradients of the weights and, but for the data, of the input."""
    inputs = [torch.randn(n_obs, before) for before, _ in maps]
    weights = [torch.randn(after, before) for before, after in maps]
    grads = [torch.randn(n_obs, after) for _, after in maps]

    def products() -> None:
        for number, (x, weight, grad) in enumerate(zip(inputs, weights, grads, strict=True)):
            x @ weight.T
            grad.T @ x
            if number:
                grad @ weight

    return products


def fetches(
    n_obs: int, edges: Edges, maps: list[tuple[int, int]]
) -> tuple[Callable[[], None], int]:
    """One pass over the edges, forward and backward, and its bytes."""
    source = edges.source.numpy()
    rows = [np.random.default_rng(0).random((n_obs, after), np.float32) for _, after in maps]
    room = [np.empty((len(source), after), np.float32) for _, after in maps]

    def one_pass() -> None:
        for row, to in zip(rows, room, strict=True):
            for _ in range(2):
                np.take(row, source, axis=0, out=to, mode="clip")

    return one_pass, 2 * sum(to.nbytes for to in room)


@dataclass
class Bench:
    """What takes part, and what is known of it beforehand."""

    rounds: dict[str, Round]
    megabytes: float


def bench(case: Case) -> Bench:
    """Everybody ready to run, on one section."""
    adata = case.adata.copy()
    m2st.pp.spatial_graph(adata)
    m2st.pp.prepare(adata)
    features = np.asarray(adata.obsm[KEYS.features], dtype=np.float32)
    adjacency = adata.obsp["spatial_connectivities"]
    params = m2st.AutoencoderParams(n_epochs=12, min_delta=0.0)

    def ours() -> object:
        return train(features, adjacency, params)

    def reference() -> object:
        with mock.patch.object(m2st.MaskedGraphAutoencoder, "forward", plain_forward):
            return ours()

    maps = linear_maps(features.shape[1], params)
    one_pass, n_bytes = fetches(len(features), Edges.from_adjacency(adjacency), maps)
    products = dense(len(features), maps)
    rounds: dict[str, Round] = {
        OURS: lambda: epoch_of(ours),
        REFERENCE: lambda: epoch_of(reference),
        LIMIT: lambda: seconds_of(products),
        PASS: lambda: seconds_of(one_pass),
    }
    if importlib.util.find_spec("STAGATE_pyG"):
        from STAGATE_pyG import train_STAGATE

        graph = stagate_graph(log_normalized(case, 3000))
        rounds["STAGATE"] = lambda: epoch_of(
            lambda: train_STAGATE(graph.copy(), n_epochs=5, verbose=False)
        )
    if importlib.util.find_spec("GraphST"):
        from GraphST.GraphST import GraphST

        with contextlib.redirect_stdout(io.StringIO()):
            peer = GraphST(case.adata.copy(), epochs=5)
        rounds["GraphST"] = lambda: epoch_of(peer.train)
    return Bench(rounds, n_bytes / 1e6)


def epochs(case: Case) -> None:
    """Time an epoch of everybody; write the table."""
    ready = bench(case)
    lines = []
    for number in range(N_ROUNDS + 1):
        for name, turn in ready.rounds.items():
            value = turn()
            if number:  # the first round warms up, and compiles what is not yet
                lines.append({"name": name, "round": number, "milliseconds": value})
                print(f"{number} {name}: {value:.1f} ms", flush=True)
    runs = pd.DataFrame(lines)
    runs.round(3).to_csv(HERE / "speed.csv", index=False)
    times = runs.groupby("name", sort=False)["milliseconds"].median()
    table = [
        f"One epoch on {case.name}, {case.adata.n_obs} observations, one thread: median of "
        f"{N_ROUNDS} rounds",
        "",
        "| | milliseconds | ours takes |",
        "|---|---|---|",
        *(
            f"| {name} | {value:.1f} | {times[OURS] / value:.2f} × this |"
            for name, value in times.items()
        ),
        "",
        f"One pass over the edges fetches {ready.megabytes:.0f} MB, forward and backward together.",
    ]
    write("speed.md", table)


def whole(case: Case) -> None:
    """Time whole runs, ours with its ensemble; write the table."""

    def ours(case: Case, seed: int) -> None:
        m2st.run(case.adata.copy(), case.n_domains, random_state=seed, n_jobs=1, progress=False)

    runs = {OURS: ours}
    for name, package in (("GraphST", "GraphST"), ("STAGATE", "STAGATE_pyG")):
        if importlib.util.find_spec(package):
            runs[name] = METHODS[name].run
    lines = []
    for name, run in runs.items():
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            run(case, 0)
        lines.append({"name": name, "seconds": time.perf_counter() - started})
        print(f"{name}: {lines[-1]['seconds']:.1f} s", flush=True)
    times = pd.DataFrame(lines).set_index("name")["seconds"]
    times.round(2).to_csv(HERE / "speed_whole.csv")
    table = [
        f"One whole run on {case.name}, counts to domains, one thread; ours is five models",
        "",
        "| | seconds | ours takes |",
        "|---|---|---|",
        *(
            f"| {name} | {value:.0f} | {times[OURS] / value:.2f} × this |"
            for name, value in times.items()
        ),
    ]
    write("speed_whole.md", table)


def write(name: str, table: list[str]) -> None:
    text = "\n".join([born([stamp()]), "", *table]) + "\n"
    (HERE / name).write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="whole runs instead of epochs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the peers are written for older libraries
    torch.set_num_threads(1)
    (whole if arguments.whole else epochs)(load(DATA))


if __name__ == "__main__":
    main()
