"""Commands that are killed, interrupted, or meet a full disk, at random moments.

``python -m tests.interrupted 100`` does each a hundred times, or those named after the number, and
prints a table: how often what was to be written is the old file, the new one, or a valid result of
an interrupted training. Anything else is an error. After each kill the command runs again and has
to end in the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import m2st
from m2st.cli import app

Content = dict[str, bytes]
EPOCHS = 60  # a checkpoint is written after 50, and at the end


@dataclass
class Task:
    """Something that writes `output`; `state` is what it goes on from."""

    name: str
    act: Callable[[Path], None]
    output: str
    state: tuple[str, ...] = ()


def command(*arguments: str | Path) -> None:
    """Run the command line in this process."""
    app([*map(str, arguments), "--overwrite", "--quiet"], standalone_mode=True)


def tasks(source: Path) -> list[Task]:
    """Everything that is tried, on what `prepared` has made."""
    data, result = source / "data.h5ad", source / "result.h5ad"
    options = ["-k", "3", "--members", "2", "--epochs", str(EPOCHS), "--scale-dims", "8,4"]
    model = m2st.MaskedGraphAutoencoder(15)
    return [
        Task(
            "run",
            lambda to: command(
                "run", data, *options, "-o", to / "o.h5ad", "--checkpoint", to / "state"
            ),
            "o.h5ad",
            ("state.1", "state.2"),
        ),
        Task("convert to h5ad", lambda to: command("convert", data, to / "o.h5ad"), "o.h5ad"),
        Task(
            "convert into a store",
            lambda to: command("convert", data, to / "o.zarr", "--output-table", "table"),
            "o.zarr",
        ),
        # Without markers: numba ends a process that was forked from one with threads of its own.
        Task(
            "report",
            lambda to: command("report", result, "--markers", "0", "-o", to / "o.html"),
            "o.html",
        ),
        Task("save of a model", lambda to: model.save(to / "o.safetensors"), "o.safetensors"),
    ]


def prepared(source: Path) -> None:
    """Write the inputs, and in `old` what is there before each command."""
    old = source / "old"
    old.mkdir(parents=True)
    adata = m2st.datasets.simulate_cortex(n_obs=90, n_genes=40, n_domains=3)
    m2st.io.write(adata, source / "data.h5ad")
    first, *others = tasks(source)
    done(first, source)
    shutil.move(source / "o.h5ad", source / "result.h5ad")
    for name in ("o.html", "o.safetensors"):
        (old / name).write_text("old")
    m2st.io.write(adata[:30].copy(), old / "o.h5ad")
    for table in ("table", "other"):
        m2st.io.write(adata[:30].copy(), old / "o.zarr", table=table, overwrite=True)
    for task in others:
        with place(source, task) as to:
            done(task, to)


def done(task: Task, to: Path) -> None:
    """Do it once in this process, so that what it imports is there in those that are forked."""
    with contextlib.suppress(SystemExit):
        task.act(to)


def content(path: Path) -> Content:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def started(act: Callable[[], None]) -> int:
    """Run in a process of its own, with everything imported already; return its number."""
    # An interrupt waits until the new process can end by it, and nowhere else.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return process
    code = 70
    try:
        # What a shell starts in the background ignores interrupts, and hands that down.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with Path(os.devnull).open("w") as silent:
            os.dup2(silent.fileno(), 1)
            os.dup2(silent.fileno(), 2)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        act()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def finished(act: Callable[[], None]) -> int:
    """Run to the end in a process of its own; return how it ended."""
    return os.waitstatus_to_exitcode(os.waitpid(started(act), 0)[1])


@contextlib.contextmanager
def place(source: Path, task: Task, folder: Path | None = None) -> Iterator[Path]:
    """Give a new folder with the old output in it."""
    with tempfile.TemporaryDirectory(dir=folder or source) as name:
        old = source / "old" / task.output
        (shutil.copytree if old.is_dir() else shutil.copy)(old, Path(name, task.output))
        yield Path(name)


def ending(to: Path, task: Task, old: Content, new: Content) -> str:
    """Say what there is in the end."""
    found = content(to / task.output)
    if found in (old, new):
        return "old" if found == old else "new"
    if task.output == "o.h5ad" and task.state:
        record = m2st.io.read(to / task.output).uns["m2st"]
        if record["embed"]["stopped"] == "interrupted" and "cluster" in record:
            return "interrupted training"
    return "HALF-WRITTEN"


def killed(source: Path, task: Task, number: int, which: signal.Signals) -> Counter[str]:
    """Send a signal at `number` random moments; count the endings."""
    rng = np.random.default_rng([number, which])
    with place(source, task) as to:
        old = content(to / task.output)
        begin = time.monotonic()
        assert finished(lambda: task.act(to)) == 0, task.name
        took = time.monotonic() - begin
        new = content(to / task.output)
    found: Counter[str] = Counter()
    for _ in range(number):
        with place(source, task) as to:
            process = started(lambda to=to: task.act(to))  # type: ignore[misc]
            time.sleep(rng.uniform(0, took))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, which)
            os.waitpid(process, 0)
            found[ending(to, task, old, new)] += 1
            parts = [path for path in to.iterdir() if path.name.endswith(".part")]
            found["a part left beside it"] += bool(parts)
            names = {path.name for path in to.iterdir() if path not in parts}
            found["SOMETHING ELSE"] += not names <= {task.output, *task.state}
            if task.state and which is signal.SIGINT and ending(to, task, old, new) == "old":
                found["stopped before a result"] += 1
            if finished(lambda to=to: task.act(to)) != 0:  # type: ignore[misc]
                found["DID NOT GO ON"] += 1
            elif ending(to, task, old, new) == "new":
                found["went on to the same bytes"] += 1
            else:
                found["OTHER BYTES"] += 1
    return found


@contextlib.contextmanager
def disk(megabytes: int) -> Iterator[Path]:
    """Mount a small disk, where this may be done."""
    with tempfile.TemporaryDirectory() as name:
        options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", name]
        if (
            shutil.which("mount") is None
            or subprocess.run(["mount", *options], check=False, capture_output=True).returncode
        ):
            msg = "a small disk cannot be mounted here"
            raise PermissionError(msg)
        try:
            yield Path(name)
        finally:
            subprocess.run(["umount", "-l", name], check=True)


def on_a_full_disk(source: Path, task: Task, number: int) -> Counter[str]:
    """Leave less room than the command needs, `number` times; count the endings."""
    rng = np.random.default_rng(number)
    found: Counter[str] = Counter()
    with disk(64) as small:
        with place(source, task, small) as to:
            old = content(to / task.output)
            before = shutil.disk_usage(small).used
            assert finished(lambda: task.act(to)) == 0, task.name
            new = content(to / task.output)
            least = min(sum(map(len, new.values())), max(shutil.disk_usage(small).used - before, 0))
        least = max(least, 2**14)
        for _ in range(number):
            with place(source, task, small) as to:
                room = int(rng.uniform(0, least)) // 4096 * 4096
                filler = shutil.disk_usage(small).free - room
                (small / "filler").write_bytes(bytes(filler))
                code = finished(lambda to=to: task.act(to))  # type: ignore[misc]
                (small / "filler").unlink()
                how = ending(to, task, old, new)
                found[f"{how}, {'an error' if code else 'no error'}"] += 1
                parts = [path for path in to.iterdir() if path.name.endswith(".part")]
                found["A PART LEFT"] += bool(parts)
    return found


def good(found: Counter[str]) -> bool:
    """Whether nothing was found that must not be: those are in capitals."""
    return not any(name.isupper() or "HALF" in name for name, count in found.items() if count)


def main(number: int, names: list[str]) -> int:
    """Do all, or those that are named, and print a table."""
    warnings.simplefilter("ignore")
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        prepared(source)
        print("| what | how | endings |\n|---|---|---|")
        for task in tasks(source):
            if names and task.name not in names:
                continue
            for which in (signal.SIGKILL, signal.SIGINT):
                found = killed(source, task, number, which)
                wrong += not good(found)
                shown(task.name, f"{number} {which.name}", found)
            found = on_a_full_disk(source, task, max(1, number // 5))
            wrong += not good(found) or any(
                "no error" in name for name in +found if "new" not in name
            )
            shown(task.name, f"{max(1, number // 5)} full disks", found)
    return wrong


def shown(name: str, how: str, found: Counter[str]) -> None:
    """Print a row."""
    endings = ", ".join(f"{text} {count}" for text, count in found.items() if count)
    print(f"| {name} | {how} | {endings} |", flush=True)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]) > 0)
