"""Arrays with a JSON header in one safetensors file: with a checksum, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from m2st._files import write_whole

# Of the files that are written here; older ones are refused.
_FORMAT = 2


def write_tensors(
    path: Path, tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]
) -> None:
    """Write arrays with a JSON header as safetensors, with a checksum, whole or not at all."""
    write_whole(path, pack_tensors(tensors, header))


def pack_tensors(tensors: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> bytes:
    """Content of the file that `write_tensors` writes: the same for the same arrays."""
    by_row = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    text = json.dumps({"format": _FORMAT, "version": version("m2st"), **header})
    # One entry: safetensors writes several in an order of its own, another one each time.
    entry = json.dumps({"header": text, "checksum": checksum(by_row, text)})
    return bytes(save(by_row, metadata={"m2st": entry}))


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what `write_tensors` wrote."""
    if not path.is_file():
        msg = f"Expected a safetensors file at {path}, found none."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = json.loads((file.metadata() or {})["m2st"])
        text = found["header"]
        whole = found["checksum"] == checksum(tensors, text)
        header = json.loads(text) if whole else {}
    except (
        SafetensorError,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        OverflowError,
    ) as error:
        msg = f"Expected a safetensors file written by m2ST in {path}, found another: {error}"
        raise ValueError(msg) from error
    if not whole:
        msg = (
            f"Expected {path} as m2ST wrote it, found it damaged (another checksum). Delete it, or "
            "take another copy."
        )
        raise ValueError(msg)
    if header.get("format") != _FORMAT:
        msg = (
            f"Expected a file of format {_FORMAT} in {path}, found {header.get('format')}, of m2ST "
            f"{header.get('version')}. Use that version, or make the file again."
        )
        raise ValueError(msg)
    return tensors, header


def checksum(tensors: Mapping[str, NDArray[Any]], text: str) -> str:
    """Digest of a header and of all arrays, their names, types and shapes."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
