"""What readers share: finding files by name, and one phrasing for files that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2st._trust import Untrusted

SUPPORTED = (
    "Supported: an `.h5ad` file, a SpatialData or AnnData zarr folder, "
    "the output folder of Space Ranger, an R object in an `.rds`, `.rda` or `.RData` file."
)


@contextmanager
def expect(what: str, path: Path) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged or foreign file into one line that names it."""
    try:
        yield
    except (ImportError, MemoryError, PermissionError, Warning):
        raise
    except Untrusted as refused:
        msg = (
            f"Expected {what} that can be read safely, found {path} not to be: {refused}. If you "
            "trust where it comes from: `trust=True`, or `--trust` on the command line."
        )
        raise ValueError(msg) from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        msg = f"Expected {what} at {path}, found it damaged or of another kind ({reason}). "
        raise ValueError(msg + SUPPORTED) from error


def names_in(folder: Path) -> set[str]:
    """Names of what a folder holds."""
    return {entry.name for entry in folder.iterdir()}


def find(name: str, *folders: Path) -> Path | None:
    """Find a file or folder by name, alone or behind a sample's prefix, as GEO delivers them."""
    for folder in folders:
        if (folder / name).exists():
            return folder / name
        found = sorted(p for p in folder.glob(f"*{name}") if not p.name.startswith("."))
        if len(found) > 1:
            msg = (
                f"Expected the files of one sample in {folder}, found "
                f"{', '.join(p.name for p in found)}. Give each sample a folder of its own."
            )
            raise ValueError(msg)
        if found:
            return found[0]
    return None
