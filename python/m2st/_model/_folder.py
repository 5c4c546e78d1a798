"""The folder of a saved model: JSON for names and settings, safetensors for numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from m2st._features import ExpressionProjection, ReadyProjection
from m2st._files import replacing, try_place
from m2st._model._model import Member, Model
from m2st._tensors import pack_tensors, read_tensors

if TYPE_CHECKING:
    import os

# Of the folders that are written here; others are refused.
_KIND, _FORMAT = "m2ST model", 1
_MAIN, _ARRAYS = "model.json", "arrays.safetensors"
_OURS = re.compile(r"model\.json|arrays\.safetensors|(network|domains)_[0-9]+\.safetensors")
_COLOR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)
_RECIPES: dict[str, type[ExpressionProjection | ReadyProjection]] = {
    kind.recipe: kind for kind in (ExpressionProjection, ReadyProjection)
}
# What reading other content than was written can raise.
_UNFIT = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def pack(model: Model) -> dict[str, bytes]:
    """Content of each file of the folder: the same for the same model."""
    record, arrays = _without_arrays(model.record, "record")
    if model.projection is not None:
        for one in fields(model.projection):
            arrays[f"projection/{one.name}"] = getattr(model.projection, one.name)
    if model.common is not None:
        arrays |= {f"common/mean/{i}": mean for i, mean in enumerate(model.common.means)}
        arrays["common/loading"] = model.common.loadings[0]
    if model.guide is not None:
        arrays |= {f"guide/{name}": array for name, array in model.guide.to_arrays().items()}
    files = {_ARRAYS: pack_tensors(arrays, {})}
    for number, member in enumerate(model.members, start=1):
        files[_network(number)] = member.network.to_bytes()
        if member.domains is not None:
            header = {"kind": member.domains.kind, "settings": member.domains.to_settings()}
            files[_domains(number)] = pack_tensors(member.domains.to_arrays(), header)
    content = {
        "n_members": len(model.members),
        "domains": list(model.domains),
        "colors": list(model.colors),
        "use_rep": model.use_rep,
        "normalized": model.normalized,
        "recipe": None if model.projection is None else model.projection.recipe,
        **_cell_types(model),
        "record": record,
        "files": {
            name: {"n_bytes": len(packed), "checksum": _digest(packed)}
            for name, packed in files.items()
        },
        "genes": list(model.genes),
    }
    main = {
        "kind": _KIND,
        "format": _FORMAT,
        "version": version("m2st"),
        "checksum": _digest(_text(content)),
        "content": content,
    }
    return {_MAIN: json.dumps(main, indent=1).encode(), **files}


def digest(model: Model) -> str:
    """Some letters that tell a model from all others."""
    return str(json.loads(pack(model)[_MAIN])["checksum"])


def save(model: Model, folder: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a folder, whole or not at all."""
    target = check_folder(folder, overwrite=overwrite)
    files = pack(model)
    with replacing(target, n_bytes=sum(map(len, files.values()))) as part:
        part.mkdir()
        for name, content in files.items():
            (part / name).write_bytes(content)


def check_folder(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Require a place for a model, and return it without links; nothing is written.

    Nothing may be there, or an empty folder, or a model to be replaced.
    """
    target = Path(folder).resolve()
    if not target.parent.is_dir():
        msg = f"Expected the folder {target.parent} to exist. Make it first, or check the path."
        raise FileNotFoundError(msg)
    try_place(target)
    if not target.exists():
        return target
    if not target.is_dir():
        msg = f"Expected a folder or nothing at {folder}, found a file. Name another folder."
        raise ValueError(msg)
    names = sorted(path.name for path in target.iterdir())
    others = [name for name in names if not _OURS.fullmatch(name)]
    if others or (names and not _is_model(target)):
        msg = (
            f"Expected a saved model or nothing at {folder}, found a folder with "
            f"{(others or names)[0]}, which is never replaced. Name another folder."
        )
        raise ValueError(msg)
    if names and not overwrite:
        msg = f"Expected no model at {folder}, found one. Pass `overwrite=True` to replace it."
        raise FileExistsError(msg)
    return target


def _is_model(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / _MAIN).read_bytes())["kind"] == _KIND)
    except (*_UNFIT, OSError):
        return False


def load(folder: str | os.PathLike[str]) -> Model:
    """Read a model that `m2st.Model.save` wrote.

    Parameters
    ----------
    folder
        Folder to read.

    Returns
    -------
    Model

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If it is no model of m2ST, damaged, or of another format.

    Notes
    -----
    Nothing in the folder is run: it holds numbers, names and settings. A file that is not as large
    as the model says is not read.

    Examples
    --------
    >>> model = m2st.load("cortex")  # doctest: +SKIP
    >>> model.apply(other)  # doctest: +SKIP
    """
    place = Path(folder)
    content = _read_main(place)
    with _in_our_words(place):
        files = dict(content["files"])
        for number in range(1, int(content["n_members"]) + 1):
            files[_network(number)]  # a number that nobody counts to ends here
        for name, known in files.items():
            _check_file(place, name, int(known["n_bytes"]), known["checksum"])
        return _read(place, content, files)


def _read_main(folder: Path) -> dict[str, Any]:
    """Content of the main file, which has to be whole and of this format."""
    path = folder / _MAIN
    if not path.is_file():
        found = "a file" if folder.is_file() else "none"
        if folder.is_dir():
            found = f"one without {_MAIN}"
        msg = f"Expected a folder at {folder} that `m2st.Model.save` wrote, found {found}."
        raise FileNotFoundError(msg)
    try:
        main = json.loads(path.read_bytes())
        kind = main["kind"]
    except _UNFIT as error:
        msg = f"Expected {path} as m2ST wrote it, found another file: {error}"
        raise ValueError(msg) from error
    if kind != _KIND:
        msg = f"Expected {path} as m2ST wrote it, found another kind of file, {kind!r}."
        raise ValueError(msg)
    if main.get("format") != _FORMAT:
        msg = (
            f"Expected a model of format {_FORMAT} in {folder}, found {main.get('format')}, of "
            f"m2ST {main.get('version')}. Use that version, or fit the model again."
        )
        raise ValueError(msg)
    content = main.get("content")
    if not isinstance(content, dict) or main.get("checksum") != _digest(_text(content)):
        raise _Damaged(path)
    return content


class _Damaged(ValueError):
    """A file that is not as it was written."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"Expected {path} as m2ST wrote it, found it damaged. Take another copy of the "
            "folder, or fit the model again."
        )


def _check_file(folder: Path, name: str, n_bytes: int, checksum: str) -> None:
    """Require a file as it was written, before anything of it is taken."""
    path = folder / name
    if not _OURS.fullmatch(name):
        msg = f"a file named {name!r}"
        raise ValueError(msg)
    if not path.is_file():
        msg = f"Expected {name} in {folder}, found none: copy the folder with all its files."
        raise FileNotFoundError(msg)
    if path.stat().st_size != n_bytes or _digest(path.read_bytes()) != checksum:
        raise _Damaged(path)


@contextmanager
def _in_our_words(folder: Path) -> Iterator[None]:
    """Say that content does not fit, whatever it raises."""
    try:
        yield
    except _Damaged:
        raise
    except _UNFIT as error:
        msg = f"Expected a saved m2ST model in {folder}, found what does not fit: {error}"
        raise ValueError(msg) from error


def _read(folder: Path, content: Mapping[str, Any], files: Mapping[str, Any]) -> Model:
    """Put a model together from files that are whole."""
    from m2st._clustering import KINDS, Factors
    from m2st._guided import GuidedDomains
    from m2st._nn._autoencoder import MaskedGraphAutoencoder

    arrays, _ = read_tensors(folder / _ARRAYS)
    projection = common = None
    if content["recipe"] is not None:
        kind = _RECIPES[content["recipe"]]
        projection = kind(**_within(arrays, "projection"))
    if "common/loading" in arrays:
        means = _within(arrays, "common/mean")
        in_order = [means[str(number)] for number in range(len(means))]
        common = Factors(in_order, [arrays["common/loading"]])
    guide = GuidedDomains.from_arrays(found) if (found := _within(arrays, "guide")) else None
    members = []
    for number in range(1, int(content["n_members"]) + 1):
        domains = None
        if _domains(number) in files:
            own, header = read_tensors(folder / _domains(number))
            domains = KINDS[header["kind"]].from_arrays(own, header["settings"])
        network = MaskedGraphAutoencoder.load(folder / _network(number))
        members.append(Member(network, domains))
    typed = content.get("cell_types", {})
    return Model(
        members=tuple(members),
        domains=_texts(content["domains"]),
        colors=_texts(content["colors"]),
        use_rep=None if content["use_rep"] is None else str(content["use_rep"]),
        normalized=bool(content["normalized"]),
        genes=_texts(content["genes"]),
        projection=projection,
        common=common,
        record=_with_arrays(dict(content["record"]), arrays, "record"),
        guide=guide,
        cell_type_key=typed.get("key"),
        cell_types=_texts(typed.get("names", ())),
    )


def _cell_types(model: Model) -> dict[str, Any]:
    """Column and names of the types; nothing for a model without, which has no such entry."""
    if model.cell_type_key is None:
        return {}
    return {"cell_types": {"key": model.cell_type_key, "names": list(model.cell_types)}}


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _without_arrays(
    values: Mapping[str, Any], at: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What JSON can hold of nested values; and arrays of numbers, by their path."""
    plain: dict[str, Any] = {}
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in values.items():
        path = f"{at}/{key}"
        if isinstance(value, Mapping):
            plain[key], inside = _without_arrays(value, path)
            arrays |= inside
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            arrays[path] = value
        else:
            plain[key] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return plain, arrays


def _with_arrays(
    plain: dict[str, Any], arrays: Mapping[str, NDArray[Any]], at: str
) -> dict[str, Any]:
    """Inverse of `_without_arrays`."""
    for path, array in arrays.items():
        if path.startswith(f"{at}/"):
            *holders, last = path.removeprefix(f"{at}/").split("/")
            within = plain
            for holder in holders:
                within = within[holder]
            within[last] = array
    return plain


def _within(arrays: Mapping[str, NDArray[Any]], at: str) -> dict[str, NDArray[Any]]:
    """Arrays under a path."""
    return {
        path.removeprefix(f"{at}/"): array
        for path, array in arrays.items()
        if path.startswith(f"{at}/")
    }


def _network(number: int) -> str:
    return f"network_{number}.safetensors"


def _domains(number: int) -> str:
    return f"domains_{number}.safetensors"


def _text(content: Mapping[str, Any]) -> bytes:
    """Content in the one way that its checksum is taken of."""
    return json.dumps(content, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
