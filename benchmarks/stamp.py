"""When and of what a table was measured: version, commit and date."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import m2st


def stamp() -> str:
    """Version, commit and date of a measurement made now."""
    call = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(
        call, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return f"m2ST {m2st.__version__} {found.stdout.strip() or 'unknown'} {date.today()}"


def born(stamps: Iterable[str]) -> str:
    """The line of a table that says when its runs were made."""
    order = sorted(set(stamps), key=lambda text: text.split()[-1])
    first, last = order[0].split(), order[-1].split()
    if len(order) == 1:
        return f"Measured with m2ST {last[1]}, commit {last[2]}, on {last[3]}."
    versions = first[1] if first[1] == last[1] else f"{first[1]} to {last[1]}"
    return (
        f"Measured with m2ST {versions}, commits {first[2]} to {last[2]}, from {first[3]} to "
        f"{last[3]}; a column of the csv file has the commit of each run."
    )
