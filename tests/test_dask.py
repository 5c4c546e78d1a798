"""Runs on a Dask cluster: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import joblib
import pytest
from tests.command import call
from typer.testing import CliRunner

import m2st
from m2st.cli import _check_workers, app

pytestmark = pytest.mark.dist

distributed = pytest.importorskip("distributed", reason="dask is an extra")

M2ST = str(Path(sys.executable).with_name("m2st"))
N_MEMBERS, N_EPOCHS = 3, 40
SETTINGS = ["-k", "4", "--members", str(N_MEMBERS), "--epochs", str(N_EPOCHS)]
PARAMS = m2st.AutoencoderParams(n_members=N_MEMBERS, n_epochs=N_EPOCHS)
PATIENCE = 300  # seconds for processes to start, on a busy machine

Process = subprocess.Popen[bytes]


class Cluster(NamedTuple):
    """Address of a scheduler, a client of it, and the process of each worker by address."""

    address: str
    client: Any
    processes: dict[str, Process]


@contextmanager
def running(*options: str | Path) -> Iterator[Process]:
    """Run a process of Dask's until the end of the block."""
    command = [sys.executable, "-m", "dask", *map(str, options), "--no-dashboard"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def cluster(folder: Path, n_workers: int, n_threads: int) -> Iterator[Cluster]:
    """Run a scheduler and its workers until the end of the block."""
    note = folder / "scheduler.json"
    place = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", note)
    options = ("--nthreads", str(n_threads), "--no-nanny", "--local-directory", folder)
    with ExitStack() as stack:
        stack.enter_context(running("scheduler", *place))
        client = stack.enter_context(distributed.Client(scheduler_file=str(note), timeout=PATIENCE))
        address = client.scheduler.address
        processes: dict[str, Process] = {}
        for _ in range(n_workers):
            process = stack.enter_context(running("worker", address, *options))
            wait_for(lambda: len(client.nthreads()) > len(processes))
            (worker,) = client.nthreads().keys() - processes.keys()
            processes[worker] = process
        yield Cluster(address, client, processes)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers of one thread each; the last test that uses them kills one."""
    with cluster(tmp_path_factory.mktemp("pair"), 2, 1) as found:
        yield found


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One worker of three threads."""
    with cluster(tmp_path_factory.mktemp("threads"), 1, 3) as found:
        yield found


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def n_batches(client: Any) -> int:
    """Batches of members that workers of the cluster have finished so far."""
    counts = client.run_on_scheduler(
        lambda dask_scheduler: {
            name: prefix.state_counts["memory"]
            for name, prefix in dask_scheduler.task_prefixes.items()
        }
    )
    return sum(count for name, count in counts.items() if name.startswith("batch_of"))


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    return ["run", str(data), "-o", str(output), *SETTINGS, *more]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cortex.h5ad"
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=200, n_genes=100), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> ad.AnnData:
    """The result of a single process."""
    output = data.with_name("undisturbed.h5ad")
    found = call(*arguments(data, output))
    assert found.returncode == 0, found.stderr
    return m2st.io.read(output)


def assert_same_bits(found: ad.AnnData, expected: ad.AnnData) -> None:
    for key in ("X_m2st_pca", "X_m2st", "X_m2st_scale1", "X_m2st_scale2"):
        assert found.obsm[key].tobytes() == expected.obsm[key].tobytes(), key
    assert found.obs["m2st_domain"].equals(expected.obs["m2st_domain"])
    assert found.obs["m2st_confidence"].equals(expected.obs["m2st_confidence"])


def test_the_command_works_on_the_cluster(
    pair: Cluster, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    output = tmp_path / "out.h5ad"
    before = n_batches(pair.client)
    found = call(*arguments(data, output, "--dask", pair.address))
    assert found.returncode == 0, found.stderr
    assert n_batches(pair.client) - before >= 2
    assert "Warning" not in found.stderr
    assert_same_bits(m2st.io.read(output), undisturbed)


@pytest.mark.parametrize("name", ["pair", "threads"])
def test_joblib_settings_of_the_caller_work(
    name: str, request: pytest.FixtureRequest, data: Path, undisturbed: ad.AnnData
) -> None:
    """Threads of one worker take turns: at the same time they would share torch's random stream."""
    adata, used = m2st.io.read(data), request.getfixturevalue(name)
    with used.client.as_current(), joblib.parallel_config(backend="dask"):
        before = n_batches(used.client)
        m2st.run(adata, 4, autoencoder=PARAMS, progress=False)
        assert n_batches(used.client) - before >= 2
    assert_same_bits(adata, undisturbed)


def test_unfit_workers_are_refused(threads: Cluster, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.h5ad"
    found = call(*arguments(data, output, "--dask", threads.address))
    assert found.returncode == 1
    (worker,) = threads.processes
    assert f"one thread each, found {worker} with 3." in found.stderr
    assert f"`dask worker {threads.address} --nworkers 4 --nthreads 1`" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not output.exists()
    with pytest.raises(ValueError, match=r"at least two Dask workers at tcp://a, found 1\."):
        _check_workers({"tcp://b": 1}, "tcp://a")


def test_a_killed_worker_changes_nothing(
    pair: Cluster, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    """One of two workers is killed while it trains, and does not come back."""
    output = tmp_path / "out.h5ad"
    command = subprocess.Popen([M2ST, *arguments(data, output, "--dask", pair.address)])
    lost = kill_one_at_work(pair)
    assert command.wait() == 0
    assert lost not in pair.client.nthreads()
    assert_same_bits(m2st.io.read(output), undisturbed)


def kill_one_at_work(pair: Cluster) -> str:
    """Kill a worker that surely holds members: stop it, then ask the scheduler, then kill."""
    while True:
        at_work = pair.client.run(
            lambda dask_worker: {task.key for task in dask_worker.state.executing}
        )
        for address, tasks in at_work.items():
            if any(task.startswith("batch_of") for task in tasks):
                process = pair.processes[address]
                process.send_signal(signal.SIGSTOP)
                if tasks & set(pair.client.processing([address])[address]):
                    process.kill()
                    return address
                process.send_signal(signal.SIGCONT)
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "tcp://127.0.0.1:9"], "a Dask scheduler at tcp://127.0.0.1:9, found none that"),
        (["--dask", "elsewhere"], "a Dask scheduler at elsewhere, found none that answers within"),
        (["--dask", "tcp://127.0.0.1:9", "--jobs", "2"], "either `--jobs` or `--dask`, found 2"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str, data: Path, tmp_path: Path) -> None:
    found = call(*arguments(data, tmp_path / "out.h5ad", *options))
    assert found.returncode == 1
    assert found.stderr.startswith("m2st: Expected ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_dask_absent(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    options = arguments(data, tmp_path / "out.h5ad", "--dask", "tcp://127.0.0.1:9")
    found = CliRunner().invoke(app, options)
    assert found.exit_code == 1
    advice = "which is not installed: `pip install 'm2st[dask]'`."
    assert found.stderr == f"m2st: `--dask` needs distributed, {advice}\n"
