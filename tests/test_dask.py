"""Runs on a Dask cluster: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import joblib
import pytest

import m2st

distributed = pytest.importorskip("distributed", reason="dask is an extra")

M2ST = str(Path(sys.executable).with_name("m2st"))
N_MEMBERS, N_EPOCHS = 3, 40
SETTINGS = ["-k", "4", "--members", str(N_MEMBERS), "--epochs", str(N_EPOCHS)]
PARAMS = m2st.AutoencoderParams(n_members=N_MEMBERS, n_epochs=N_EPOCHS)
PATIENCE = 300  # seconds for processes to start, on a busy machine

Process = subprocess.Popen[bytes]


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


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a scheduler."""
    note = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--scheduler-file", note)
    with running("scheduler", *options):
        with distributed.Client(scheduler_file=str(note), timeout=PATIENCE) as client:
            address = client.scheduler.address
        yield address


@contextmanager
def workers(scheduler: str, folder: Path, number: int, n_threads: int = 1) -> Iterator[Any]:
    """Run workers until the end of the block: a client, and the process of each by address."""
    options = ("--nthreads", str(n_threads), "--no-nanny", "--local-directory", folder)
    with distributed.Client(scheduler) as client:
        with ExitStack() as stack:
            processes: dict[str, Process] = {}
            for _ in range(number):
                process = stack.enter_context(running("worker", scheduler, *options))
                wait_for(lambda: len(client.nthreads()) > len(processes))
                (address,) = client.nthreads().keys() - processes.keys()
                processes[address] = process
            yield client, processes
        wait_for(lambda: not client.nthreads())


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
    return [M2ST, "run", str(data), "-o", str(output), *SETTINGS, *more]


def call(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "cortex.h5ad"
    m2st.io.write(m2st.datasets.simulate_cortex(n_obs=200, n_genes=100), path)
    return path


@pytest.fixture(scope="module")
def undisturbed(data: Path) -> ad.AnnData:
    """The result of a single process."""
    output = data.with_name("undisturbed.h5ad")
    found = call(arguments(data, output))
    assert found.returncode == 0, found.stderr
    return m2st.io.read(output)


def assert_same_bits(found: ad.AnnData, expected: ad.AnnData) -> None:
    for key in ("X_m2st_pca", "X_m2st", "X_m2st_scale1", "X_m2st_scale2"):
        assert found.obsm[key].tobytes() == expected.obsm[key].tobytes(), key
    assert found.obs["m2st_domain"].equals(expected.obs["m2st_domain"])
    assert found.obs["m2st_confidence"].equals(expected.obs["m2st_confidence"])


def test_the_command_works_on_the_cluster(
    scheduler: str, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    output = tmp_path / "out.h5ad"
    with workers(scheduler, tmp_path, 2) as (client, _):
        before = n_batches(client)
        found = call(arguments(data, output, "--dask", scheduler))
        assert found.returncode == 0, found.stderr
        assert n_batches(client) - before >= 2
    assert "Warning" not in found.stderr
    assert_same_bits(m2st.io.read(output), undisturbed)


def test_a_killed_worker_changes_nothing(
    scheduler: str, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    """One of two workers is killed while it trains, and does not come back."""
    output = tmp_path / "out.h5ad"
    with workers(scheduler, tmp_path, 2) as (client, processes):
        command = subprocess.Popen(arguments(data, output, "--dask", scheduler))
        lost = kill_one_at_work(client, processes)
        assert command.wait() == 0
        assert lost not in client.nthreads()
    assert_same_bits(m2st.io.read(output), undisturbed)


def kill_one_at_work(client: Any, processes: dict[str, Process]) -> str:
    """Kill a worker that surely holds members: stop it, then ask the scheduler, then kill."""
    while True:
        at_work = client.run(lambda dask_worker: {task.key for task in dask_worker.state.executing})
        for address, tasks in at_work.items():
            if any(task.startswith("batch_of") for task in tasks):
                processes[address].send_signal(signal.SIGSTOP)
                if tasks & set(client.processing([address])[address]):
                    processes[address].kill()
                    return address
                processes[address].send_signal(signal.SIGCONT)


def test_joblib_settings_of_the_caller_work(
    scheduler: str, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    adata = m2st.io.read(data)
    with workers(scheduler, tmp_path, 2) as (client, _), joblib.parallel_config(backend="dask"):
        before = n_batches(client)
        m2st.run(adata, 4, autoencoder=PARAMS, progress=False)
        assert n_batches(client) - before >= 2
    assert_same_bits(adata, undisturbed)


def test_members_in_threads_of_one_worker_take_turns(
    scheduler: str, data: Path, undisturbed: ad.AnnData, tmp_path: Path
) -> None:
    """At the same time they would share torch's random stream."""
    adata = m2st.io.read(data)
    with workers(scheduler, tmp_path, 1, 3) as (client, _), joblib.parallel_config(backend="dask"):
        before = n_batches(client)
        m2st.run(adata, 4, autoencoder=PARAMS, progress=False)
        assert n_batches(client) - before >= 2
    assert_same_bits(adata, undisturbed)


@pytest.mark.parametrize(
    ("n_threads", "message"),
    [(1, "at least two Dask workers at {}, found 1."), (3, "one thread each, found {} with 3.")],
)
def test_unfit_workers_are_refused(
    n_threads: int, message: str, scheduler: str, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.h5ad"
    with workers(scheduler, tmp_path / "work", 1, n_threads) as (_, processes):
        found = call(arguments(data, output, "--dask", scheduler))
    assert found.returncode == 1
    (worker,) = processes
    assert message.format(scheduler if n_threads == 1 else worker) in found.stderr
    assert f"`dask worker {scheduler} --nworkers 4 --nthreads 1`" in found.stderr
    assert found.stderr.count("\n") == 1
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dask", "tcp://127.0.0.1:9"], "a Dask scheduler at tcp://127.0.0.1:9, found none that"),
        (["--dask", "elsewhere"], "a Dask scheduler at elsewhere, found none that answers within"),
        (["--dask", "tcp://127.0.0.1:9", "--jobs", "2"], "either `--jobs` or `--dask`, found 2"),
    ],
)
def test_errors_are_one_line(options: list[str], message: str, data: Path, tmp_path: Path) -> None:
    found = call(arguments(data, tmp_path / "out.h5ad", *options))
    assert found.returncode == 1
    assert found.stderr.startswith("m2st: Expected ")
    assert message in found.stderr
    assert found.stderr.count("\n") == 1


def test_dask_absent(data: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['distributed'] = None; from m2st.cli import main; main()"
    options = arguments(data, tmp_path / "out.h5ad", "--dask", "tcp://127.0.0.1:9")
    found = call([sys.executable, "-c", code, *options[1:]])
    assert found.returncode == 1
    assert found.stderr == (
        "m2st: `--dask` needs distributed, which is not installed: `pip install 'm2st[dask]'`.\n"
    )
