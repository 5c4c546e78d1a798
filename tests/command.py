"""The command `m2st`, in a process of its own but without the seconds that its imports take.

This file is also run as a program: a server that imports what the command needs, once. Each call is
a fork of it, with its own output, working folder, environment and exit code.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess


def call(
    *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] = os.environ
) -> CompletedProcess[str]:
    """Run the command to its end."""
    words = ["m2st", *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        texts = [Path(folder, name) for name in ("stdout", "stderr")]
        request = [words, [*map(str, texts)], str(cwd or Path.cwd()), dict(env)]
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        stdout, stderr = (text.read_text(encoding="utf-8") for text in texts)
    return CompletedProcess(words, code, stdout, stderr)


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)  # which closes its input: it ends
    return server


def _serve() -> None:
    """Answer each request with an exit code. A fork leaves the loop, and ends as programs do."""
    from m2st import cli, io, pl, tl  # noqa: F401
    from m2st._nn import _training  # noqa: F401

    gc.freeze()  # a fork that collected garbage as it ends would copy all of this memory
    for line in sys.stdin:
        fork = os.fork()
        if fork:
            code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
            sys.stdout.write(f"{code}\n")
            sys.stdout.flush()
            continue
        sys.argv, texts, folder, env = json.loads(line)
        for descriptor, path in enumerate([os.devnull, *texts]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(env)
        cli.main()
        return


if __name__ == "__main__":
    _serve()
