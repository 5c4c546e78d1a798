"""Files that are damaged or mean harm, and what reading each of them does.

``python -m tests.hostile [FIRST LAST]`` makes them in a temporary folder, reads each in a process
of its own, and prints how it ended; the summary is in ``benchmarks/robustness.md``. No file may run
code (it would leave a mark), end the process, or take more memory than twice its size or 1 GiB, and
what fails has to fail in our words.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

Maker = Callable[[Path], Path]


# ---- R's serialization, as far as these files need it

HEADER = b"X\n" + struct.pack(">3i", 3, 0x040202, 0x030500) + struct.pack(">i", 5) + b"UTF-8"
NULL = struct.pack(">i", 254)


def _flags(
    kind: int, *, attributes: bool = False, tag: bool = False, object_: bool = False
) -> bytes:
    return struct.pack(">i", kind | object_ << 8 | attributes << 9 | tag << 10)


def char(text: str) -> bytes:
    """One string of R, within a vector or a symbol."""
    raw = text.encode()
    return struct.pack(">2i", 0x00040009, len(raw)) + raw


def symbol(name: str) -> bytes:
    """Make a symbol."""
    return _flags(1) + char(name)


def pairs(items: Sequence[tuple[str | None, bytes]]) -> bytes:
    """Make a pairlist: attributes, or the arguments of a call."""
    made = b""
    for tag, value in items:
        made += _flags(2, tag=tag is not None) + (symbol(tag) if tag else b"") + value
    return made + NULL


def _vector(kind: int, length: int, content: bytes, attributes: dict[str, bytes] | None) -> bytes:
    has = bool(attributes)
    made = _flags(kind, attributes=has, object_=has and "class" in (attributes or {}))
    return made + struct.pack(">i", length) + content + (_attributes(attributes) if has else b"")


def _attributes(attributes: dict[str, bytes] | None) -> bytes:
    return pairs(list((attributes or {}).items()))


def integers(values: Sequence[int], **attributes: bytes) -> bytes:
    """Make an integer vector."""
    return _vector(13, len(values), struct.pack(f">{len(values)}i", *values), attributes)


def doubles(values: Sequence[float], **attributes: bytes) -> bytes:
    """Make a vector of doubles."""
    return _vector(14, len(values), struct.pack(f">{len(values)}d", *values), attributes)


def strings(values: Sequence[str], **attributes: bytes) -> bytes:
    """Make a character vector."""
    return _vector(16, len(values), b"".join(map(char, values)), attributes)


def listing(items: dict[str, bytes] | Sequence[bytes], **attributes: bytes) -> bytes:
    """Make a list, named where it is given as a dictionary."""
    if isinstance(items, dict):
        attributes["names"] = strings(list(items))
        items = list(items.values())
    return _vector(19, len(items), b"".join(items), attributes)


def s4(name: str, package: str, **slots: bytes) -> bytes:
    """Make an S4 object."""
    slots["class"] = strings([name], package=strings([package]))
    return struct.pack(">i", 25 | 1 << 8 | 1 << 9 | 1 << 16) + _attributes(slots)


def call(function: str, *arguments: bytes) -> bytes:
    """Make a call, not evaluated."""
    return _flags(6) + symbol(function) + pairs([(None, argument) for argument in arguments])


def promise(mark: str) -> bytes:
    """Make a promise that leaves the mark when R evaluates it."""
    unbound, globalenv = struct.pack(">i", 252), struct.pack(">i", 253)
    return _flags(5, tag=True) + globalenv + unbound + call("file.create", strings([mark]))


def frame(n: int, columns: dict[str, bytes] | None = None) -> bytes:
    """Make a DataFrame of Bioconductor."""
    return s4(
        "DFrame",
        "S4Vectors",
        rownames=NULL,
        nrows=integers([n]),
        listData=listing(columns or {}),
        elementType=strings(["ANY"]),
        elementMetadata=NULL,
        metadata=listing([]),
    )


def dgc(
    i: Sequence[int] = (0, 1, 2),
    p: Sequence[int] = (0, 1, 2, 3),
    x: Sequence[float] = (1.0, 2.0, 3.0),
    dim: Sequence[int] = (4, 3),
) -> bytes:
    """Make a dgCMatrix, genes × observations."""
    return s4(
        "dgCMatrix",
        "Matrix",
        i=integers(i),
        p=integers(p),
        Dim=integers(dim),
        Dimnames=listing([NULL, NULL]),
        x=doubles(x),
        factors=listing([]),
    )


def experiment(assay: bytes | None = None, n: int = 3, **more: bytes) -> bytes:
    """Make a SingleCellExperiment of four genes and three observations."""
    parts = {
        "int_elementMetadata": frame(4, {"rowPairs": frame(4)}),
        "int_colData": frame(n, {"reducedDims": frame(n), "altExps": frame(n)}),
        "int_metadata": listing([]),
        "rowRanges": NULL,
        "colData": frame(n, {"total": doubles([1.0, 2.0, 3.0])} if n == 3 else {}),
        "assays": s4(
            "SimpleAssays",
            "SummarizedExperiment",
            data=s4(
                "SimpleList",
                "S4Vectors",
                listData=listing({"counts": assay or dgc()}),
                elementType=strings(["ANY"]),
            ),
        ),
        "NAMES": NULL,
        "elementMetadata": frame(4),
        "metadata": listing([]),
        **more,
    }
    return s4("SingleCellExperiment", "SingleCellExperiment", **parts)


def open_lists(depth: int) -> bytes:
    """Make a list in a list in a list."""
    return (_flags(19) + struct.pack(">i", 1)) * depth + NULL


def rds_of_zeros(path: Path) -> Path:
    """Write an ``.rds`` of a gigabyte of zeros, a megabyte packed."""
    path = path.with_suffix(".rds")
    with gzip.open(path, "wb") as stream:
        stream.write(HEADER + _flags(13) + struct.pack(">i", 2**28))
        for _ in range(2**10):
            stream.write(bytes(2**20))
    return path


def rds(content: bytes) -> Maker:
    """Write an ``.rds``."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".rds")
        path.write_bytes(gzip.compress(HEADER + content))
        return path

    return make


def rda(content: bytes) -> Maker:
    """Write an ``.rda`` with one object, x."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".rda")
        path.write_bytes(gzip.compress(b"RDX3\n" + HEADER + pairs([("x", content)])))
        return path

    return make


def compact(length: int) -> bytes:
    """Make the integers from 1 on, as R 3.5 and later store them: by their number alone."""
    info = pairs([(None, symbol("compact_intseq")), (None, symbol("base")), (None, integers([13]))])
    return struct.pack(">i", 238) + info + doubles([length, 1.0, 1.0]) + NULL


def rle(lengths: Sequence[int]) -> bytes:
    """Make a run-length encoded vector."""
    values = doubles([1.0] * len(lengths))
    return s4("Rle", "S4Vectors", values=values, lengths=integers(lengths))


def r_objects(mark: str) -> dict[str, bytes]:
    """Contents for ``.rds`` and ``.rda``."""
    armed = promise(mark)
    found = {
        "promise": armed,
        "promise in metadata": experiment(metadata=listing({"a": armed})),
        "promise in a slot": experiment(NAMES=armed),
        "promise in colData": experiment(colData=frame(3, {"a": armed})),
        "promise in an attribute": experiment(metadata=listing([], note=armed)),
        "promise in a matrix": experiment(armed),
        "call in metadata": experiment(metadata=listing([call("file.create", strings([mark]))])),
        "a function": _flags(3) + NULL + NULL + call("file.create", strings([mark])),
        "an environment": struct.pack(">2i", 4, 0) + NULL + NULL + NULL + NULL,
        "bytecode": struct.pack(">2i", 21, 1) + NULL,
        "a pointer": struct.pack(">i", 22) + NULL + NULL,
        "no such type": struct.pack(">i", 77),
        "reference to nothing": struct.pack(">i", 255 | 99 << 8),
        "long of nothing": struct.pack(">2i", 14, 2**31 - 1),
        "negative length": struct.pack(">2i", 14, -7),
        "long string": struct.pack(">4i", 16, 1, 0x00040009, 2**31 - 1),
        "index too large": experiment(dgc(i=[0, 1, 9])),
        "index negative": experiment(dgc(i=[0, -1, 2])),
        "index missing": experiment(dgc(i=[0, -(2**31), 2])),
        "ends that fall": experiment(dgc(p=[0, 2, 1, 3])),
        "ends too large": experiment(dgc(p=[0, 1, 2, 2**31 - 1])),
        "ends too few": experiment(dgc(p=[0, 3])),
        "ends compact": experiment(s4("dgCMatrix", "Matrix", p=compact(10**9), x=doubles([1.0]))),
        "compact": compact(2 * 10**9),
        "values too few": experiment(dgc(x=[1.0])),
        "shape too large": experiment(dgc(dim=[2**31 - 1, 3])),
        "shape negative": experiment(dgc(dim=[-4, 3])),
        "shape of one": experiment(dgc(dim=[4])),
        "shape of text": experiment(s4("dgCMatrix", "Matrix", Dim=strings(["a"]))),
        "no slots": experiment(s4("dgCMatrix", "Matrix")),
        "matrix of a list": experiment(listing([doubles([1.0])])),
        "rows without end": experiment(colData=frame(2**31 - 1), n=2**31 - 1),
        "rows negative": experiment(colData=frame(-3), n=-3),
        "runs without end": experiment(colData=frame(3, {"a": rle([2**31 - 1, 2**31 - 1])})),
        "runs negative": experiment(colData=frame(3, {"a": rle([-1, 4])})),
        "column too short": experiment(colData=frame(3, {"a": doubles([1.0])})),
        "colData of text": experiment(colData=strings(["a"])),
        "no colData": experiment(colData=NULL),
        "assays of text": experiment(assays=strings(["a"])),
        "metadata of text": experiment(metadata=strings(["a"])),
        "levels missing": experiment(
            colData=frame(
                3, {"a": integers([1, 2, 9], **{"class": strings(["factor"]), "levels": NULL})}
            )
        ),
        "codes too large": experiment(
            colData=frame(
                3,
                {
                    "a": integers(
                        [1, 2, 9], **{"class": strings(["factor"]), "levels": strings(["x"])}
                    )
                },
            )
        ),
        "fewer names": experiment(
            metadata=_vector(19, 2, NULL + NULL, {"names": strings(["a"])}),
        ),
        "deep": open_lists(10**6),
        "deep enough": open_lists(3000),
        "unknown Seurat": s4("Seurat", "SeuratObject"),
        "hollow Seurat": s4(
            "Seurat", "SeuratObject", **{"meta.data": listing([]), "assays": listing([])}
        ),
    }
    return found


# ---- h5ad


def example() -> ad.AnnData:
    """Make a small AnnData with all that a file can go wrong in."""
    counts = sparse.csr_matrix(np.arange(24.0).reshape(6, 4) % 5)
    adata = ad.AnnData(
        counts,
        obs=pd.DataFrame({"c": pd.Categorical([*"aabbcc"])}, index=[f"s{i}" for i in range(6)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(4)]),
        layers={"dense": counts.toarray(), "csc": counts.tocsc()},
        obsm={"spatial": np.arange(12.0).reshape(6, 2)},
        obsp={"graph": sparse.identity(6, format="csr")},
        uns={"a": {"b": np.arange(3)}, "text": "text", "matrix": counts.copy()},
    )
    adata.raw = adata.copy()
    return adata


def h5(change: Callable[[h5py.File, Path], object]) -> Maker:
    """Write an h5ad file and change it."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".h5ad")
        example().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file, path)
        return path

    return make


def _replace(file: h5py.File, place: str, values: Any, **options: Any) -> None:
    attributes = dict(file[place].attrs)
    del file[place]
    file.create_dataset(place, data=values, **options).attrs.update(attributes)


def _link(file: h5py.File, place: str, link: Any) -> None:
    if place in file:
        del file[place]
    file[place] = link


def _other(path: Path) -> str:
    """Write another file, with a secret."""
    other = path.with_name("other.h5")
    if not other.exists():
        with h5py.File(other, "w") as file:
            file["secret"] = np.arange(6.0)
    return str(other)


def _virtual(file: h5py.File, path: Path) -> None:
    layout = h5py.VirtualLayout((6,), "f8")
    layout[:] = h5py.VirtualSource(_other(path), "secret", (6,))
    file.create_virtual_dataset("obsm/virtual", layout)


def _external(file: h5py.File, path: Path) -> None:
    secret = path.with_suffix(".bin")
    secret.write_bytes(bytes(48))
    made = file.create_dataset("obsm/outside", (6, 1), "f8", external=[(str(secret), 0, 48)])
    made.attrs.update(dict(file["obsm/spatial"].attrs))


def _laughs(file: h5py.File, path: Path) -> None:
    inner = file.create_group("uns/laugh0")
    for level in range(1, 9):
        outer = file.create_group(f"uns/laugh{level}")
        for at in range(10):
            outer[str(at)] = inner
        inner = outer


def _heap(file: h5py.File, path: Path) -> None:
    """Let a million strings be the same one, of a megabyte."""
    made = file.create_dataset("uns/heap", (10**5,), h5py.string_dtype())
    made[0] = "a" * 2**20
    offset = made.id.get_offset()
    file.flush()
    with path.open("r+b") as raw:
        raw.seek(offset)
        one = raw.read(16)
        raw.seek(offset)
        raw.write(one * 10**5)


def _plugin(file: h5py.File, path: Path) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((6,))
    settings.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(
        file["obsm"].id, b"plugged", h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((6,)), settings
    )


def _deep(file: h5py.File, path: Path) -> None:
    group = file["uns"]
    for _ in range(1500):
        group = group.create_group("d")


def _set(place: str, at: int, value: int) -> Callable[[h5py.File, Path], object]:
    def change(file: h5py.File, path: Path) -> None:
        values = file[place][:]
        values[at] = value
        _replace(file, place, values)

    return change


def _attribute(place: str, name: str, value: Any) -> Callable[[h5py.File, Path], object]:
    return lambda file, path: file[place].attrs.__setitem__(name, value)


def h5_files() -> dict[str, Maker]:
    """Changes of an h5ad file."""
    huge = {"dtype": "f4", "chunks": (1024, 1024), "compression": "gzip"}
    changes: dict[str, Callable[[h5py.File, Path], object]] = {
        "nothing": lambda file, path: None,
        "external link": lambda f, p: _link(f, "obsm/x", h5py.ExternalLink(_other(p), "/secret")),
        "external X": lambda f, p: _link(f, "X", h5py.ExternalLink(_other(p), "/secret")),
        "external to nothing": lambda f, p: _link(f, "uns/x", h5py.ExternalLink("no.h5", "/x")),
        "soft to external": lambda f, p: (
            _link(f, "uns/x", h5py.ExternalLink(_other(p), "/")),
            _link(f, "obsm/x", h5py.SoftLink("/uns/x/secret")),
        ),
        "soft to nothing": lambda f, p: _link(f, "obsm/x", h5py.SoftLink("/nowhere")),
        "soft to itself": lambda f, p: _link(f, "uns/x", h5py.SoftLink("/uns/x")),
        "soft loop": lambda f, p: _link(f, "uns/x", h5py.SoftLink("/uns")),
        "hard loop": lambda f, p: _link(f, "uns/x", f["uns"]),
        "laughs": _laughs,
        "virtual": _virtual,
        "external values": _external,
        "one string many times": _heap,
        "references": lambda f, p: f.create_dataset("obsm/r", data=f.ref, dtype=h5py.ref_dtype),
        "regions": lambda f, p: f.create_dataset(
            "uns/r", data=f["obsm/spatial"].regionref[:1], dtype=h5py.regionref_dtype
        ),
        "plugin": _plugin,
        "deep": _deep,
        "petabytes": lambda f, p: f.create_dataset("obsm/x", (2**30, 2**20), **huge),
        "petabytes of X": lambda f, p: (
            f.__delitem__("X"),
            f.create_dataset("X", (6, 2**47), "f4"),
        ),
        "zeros": lambda f, p: f.create_dataset(
            "uns/x", data=np.zeros((2**13, 2**15), "f4"), **huge
        ),
        "text as X": lambda f, p: _replace(f, "layers/dense", np.array([b"a"] * 6)),
        "scalar as a layer": lambda f, p: _replace(f, "layers/dense", 1.0),
        "complex": lambda f, p: _replace(f, "layers/dense", np.ones((6, 4), "c16")),
        "three axes": lambda f, p: _replace(f, "layers/dense", np.ones((6, 4, 2))),
        "fewer rows": lambda f, p: _replace(f, "layers/dense", np.ones((5, 4))),
        "fewer names": lambda f, p: _replace(f, "obs/_index", np.array([b"a"] * 5, dtype="O")),
        "names of numbers": lambda f, p: _replace(f, "obs/_index", np.arange(6)),
        "no names": lambda f, p: f["obs"].__delitem__("_index"),
        "no obs": lambda f, p: f.__delitem__("obs"),
        "obs as values": lambda f, p: (f.__delitem__("obs"), f.create_dataset("obs", data=[1])),
        "codes too large": _set("obs/c/codes", 2, 9),
        "codes too small": _set("obs/c/codes", 2, -9),
        "shape of fewer": _attribute("X", "shape", [5, 4]),
        "shape of more": _attribute("X", "shape", [2**40, 4]),
        "shape negative": _attribute("X", "shape", [-6, 4]),
        "shape of text": _attribute("X", "shape", "a"),
        "no shape": lambda f, p: f["X"].attrs.__delitem__("shape"),
        "unknown encoding": _attribute("X", "encoding-type", "pickle"),
        "other encoding": _attribute("obs", "encoding-type", "array"),
        "later version": _attribute("X", "encoding-version", "9.9.9"),
        "index of another": _attribute("obs", "_index", "nothing"),
        "columns of another": _attribute("obs", "column-order", ["nothing"]),
        "no ends": lambda f, p: f["X"].__delitem__("indptr"),
        "ends of text": lambda f, p: _replace(f, "X/indptr", np.array([b"a"] * 7)),
        "ends of floats": lambda f, p: _replace(f, "X/indptr", np.arange(7.0) + 0.5),
        "data too short": lambda f, p: _replace(f, "X/data", np.ones(2)),
        "raw of fewer": _attribute("raw/X", "shape", [3, 4]),
    }
    for place in ("X", "layers/csc", "obsp/graph", "raw/X", "uns/matrix"):
        name = place.replace("/", " ")
        changes |= {
            f"index too large, {name}": _set(f"{place}/indices", 3, 10**6),
            f"index negative, {name}": _set(f"{place}/indices", 3, -5),
            f"ends too large, {name}": _set(f"{place}/indptr", -1, 10**7),
            f"ends that fall, {name}": _set(f"{place}/indptr", 2, -7),
            f"ends too few, {name}": lambda f, p, place=place: _replace(
                f, f"{place}/indptr", f[f"{place}/indptr"][:3]
            ),
        }
    return {name: h5(change) for name, change in changes.items()}


def damaged(good: Maker, seed: int) -> Maker:
    """Cut a file short or flip some of its bits; of a folder, one of its files."""

    def make(path: Path) -> Path:
        path = good(path)
        rng = np.random.default_rng(seed)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        file = files[rng.integers(len(files))]
        content = bytearray(file.read_bytes())
        if seed % 3 == 0:
            content = content[: rng.integers(len(content))]
        else:
            for at in rng.integers(0, max(1, len(content)), seed % 3):
                content[at : at + 1] = bytes([content[at] ^ 1 << int(rng.integers(8))])
        file.write_bytes(content)
        return path

    return make


# ---- zarr


class _Armed:
    """Makes the mark when it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.mark,)


def zarr(change: Callable[[Path], object], version: int = 3) -> Maker:
    """Write an AnnData store and change its files."""

    def make(path: Path) -> Path:
        path = path.with_suffix(".zarr")
        with ad.settings.override(zarr_write_format=version), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example().write_zarr(path)
        change(path)
        return path

    return make


def _json(place: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        file = path / place
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def _armed_array(mark: str, place: str) -> Callable[[Path], object]:
    """Replace an array of version 2 by a pickled one."""

    def edit(path: Path) -> None:
        folder = path / place
        shutil.rmtree(folder)
        folder.mkdir(parents=True)
        metadata = {
            "zarr_format": 2,
            "shape": [1],
            "chunks": [1],
            "dtype": "|O",
            "compressor": None,
            "fill_value": None,
            "filters": [{"id": "pickle", "protocol": 5}],
            "order": "C",
        }
        (folder / ".zarray").write_text(json.dumps(metadata))
        (folder / "0").write_bytes(pickle.dumps(_Armed(mark)))

    return edit


def _codecs(metadata: dict[str, Any], *more: dict[str, Any]) -> None:
    metadata["codecs"] = [*more, *metadata["codecs"]]


def zarr_files(mark: str) -> dict[str, Maker]:
    """Changes of a zarr store."""
    armed = {"name": "numcodecs.pickle", "configuration": {"id": "pickle"}}
    inner = {"chunk_shape": [1], "codecs": [armed], "index_codecs": [{"name": "bytes"}]}
    sharded = {"name": "sharding_indexed", "configuration": inner}
    all_of = {"consolidated_metadata": {"metadata": {"X/data": {"codecs": [armed]}}}}

    def fill(path: Path, place: str, values: Any) -> None:
        import zarr

        group = zarr.open_group(path, mode="r+")
        array = group[place]
        array[:] = values(array[:])

    def last(value: int) -> Callable[[Any], Any]:
        return lambda values: np.append(values[:-1], value).astype(values.dtype)

    three: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "pickle": _json("X/data/zarr.json", lambda m: _codecs(m, armed)),
        "pickle in uns": _json("uns/text/zarr.json", lambda m: _codecs(m, armed)),
        "pickle in a shard": _json("X/data/zarr.json", lambda m: m.update(codecs=[sharded])),
        "pickle in the summary": _json("zarr.json", lambda m: m.update(all_of)),
        "no such codec": _json("X/data/zarr.json", lambda m: _codecs(m, {"name": "nothing"})),
        "petabytes": _json("layers/dense/zarr.json", lambda m: m.update(shape=[2**40, 2**20])),
        "shape negative": _json("layers/dense/zarr.json", lambda m: m.update(shape=[-6, 4])),
        "chunks of nothing": _json(
            "layers/dense/zarr.json",
            lambda m: m.update(
                chunk_grid={"name": "regular", "configuration": {"chunk_shape": [0, 0]}}
            ),
        ),
        "no type": _json("layers/dense/zarr.json", lambda m: m.pop("data_type")),
        "deep": lambda path: (path / "uns/zarr.json").write_text("[" * 10**5),
        "no text": lambda path: (path / "obs/zarr.json").write_bytes(b"\xff\xfe"),
        "link out": lambda path: (path / "uns/etc").symlink_to("/etc"),
        "file link out": lambda path: (path / "uns/secret").symlink_to("/etc/passwd"),
        "link to nothing": lambda path: (path / "uns/none").symlink_to("nothing"),
        "link to itself": lambda path: (path / "uns/loop").symlink_to(path),
        "pipe": lambda path: (
            os.mkfifo(path / "layers/dense/c/0/pipe")
            if (path / "layers/dense/c/0").is_dir()
            else os.mkfifo(path / "layers/dense/pipe")
        ),
        "index too large": lambda path: fill(path, "X/indices", last(10**6)),
        "index negative": lambda path: fill(path, "X/indices", last(-4)),
        "ends too large": lambda path: fill(path, "X/indptr", last(10**6)),
        "graph's index too large": lambda path: fill(path, "obsp/graph/indices", last(10**6)),
        "shape of fewer": _json("X/zarr.json", lambda m: m["attributes"].update(shape=[5, 4])),
    }
    two: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "pickle": _armed_array(mark, "uns/text"),
        "pickle as obs": _armed_array(mark, "obs/c/categories"),
        "pickle as X": _armed_array(mark, "layers/dense"),
        "pickled compressor": _json(
            "X/data/.zarray", lambda m: m.update(compressor={"id": "pickle"})
        ),
        "pickle in the summary": lambda path: (path / ".zmetadata").write_text(
            json.dumps({"metadata": {"X/.zarray": {"filters": [{"id": "pickle"}]}}})
        ),
        "objects without a codec": _json("X/data/.zarray", lambda m: m.update(dtype="|O")),
        "petabytes": _json("layers/dense/.zarray", lambda m: m.update(shape=[2**40, 2**20])),
        "unknown codec": _json("X/data/.zarray", lambda m: m.update(compressor={"id": "nothing"})),
    }
    return {f"3 {name}": zarr(change) for name, change in three.items()} | {
        f"2 {name}": zarr(change, 2) for name, change in two.items()
    }


# ---- Space Ranger, SpatialData


def space_ranger(change: Callable[[Path], object], *, as_text: bool = False) -> Maker:
    """Write what Space Ranger does and change it."""

    def make(path: Path) -> Path:
        adata, spatial = example(), path / "spatial"
        spatial.mkdir(parents=True)
        if as_text:
            folder = path / "filtered_feature_bc_matrix"
            folder.mkdir()
            triples = adata.X.T.tocoo()
            lines = [f"{i + 1} {j + 1} {v:.0f}" for i, j, v in zip(*_triples(triples), strict=True)]
            head = "%%MatrixMarket matrix coordinate integer general\n"
            head += f"{triples.shape[0]} {triples.shape[1]} {triples.nnz}\n"
            write_gz(folder / "matrix.mtx.gz", head + "\n".join(lines) + "\n")
            genes = [f"{g}\t{g}\tGene Expression" for g in adata.var_names]
            write_gz(folder / "features.tsv.gz", "\n".join(genes) + "\n")
            write_gz(folder / "barcodes.tsv.gz", "\n".join(adata.obs_names) + "\n")
        else:
            with h5py.File(path / "filtered_feature_bc_matrix.h5", "w") as file:
                group = file.create_group("matrix")
                for part in ("data", "indices", "indptr"):
                    group[part] = getattr(adata.X, part).astype("i4")
                group["shape"] = np.array([4, 6])
                group["barcodes"] = adata.obs_names.to_numpy().astype("S")
                for name in ("id", "name", "feature_type", "genome"):
                    group[f"features/{name}"] = adata.var_names.to_numpy().astype("S")
                _replace(file, "matrix/features/feature_type", np.array([b"Gene Expression"] * 4))
        rows = [f"{name},1,{i},{i},{i}.0,{i}.5" for i, name in enumerate(adata.obs_names)]
        (spatial / "tissue_positions_list.csv").write_text("\n".join(rows) + "\n")
        scales = {"spot_diameter_fullres": 1.0, "tissue_lowres_scalef": 0.5}
        (spatial / "scalefactors_json.json").write_text(json.dumps(scales))
        (spatial / "tissue_lowres_image.png").write_bytes(png(4, 4))
        change(path)
        return path

    return make


def _triples(matrix: Any) -> tuple[Any, Any, Any]:
    return matrix.row, matrix.col, matrix.data


def write_gz(path: Path, text: str) -> None:
    """Write text packed by gzip."""
    path.write_bytes(gzip.compress(text.encode()))


def png(width: int, height: int, n_lines: int | None = None) -> bytes:
    """Make a grey picture, black; of `n_lines` lines, whatever the height."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        ends = struct.pack(">I", len(content)), struct.pack(">I", zlib.crc32(kind + content))
        return ends[0] + kind + content + ends[1]

    packer = zlib.compressobj(9)
    lines = bytes(1 + width)
    packed = b"".join(packer.compress(lines) for _ in range(height if n_lines is None else n_lines))
    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def _zeros_gz(path: Path, n_bytes: int) -> None:
    with gzip.open(path, "wb") as stream:
        for _ in range(n_bytes // 2**20):
            stream.write(bytes(2**20))


def _long_parquet(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (path / "spatial/tissue_positions_list.csv").unlink()
    columns = ("barcode", "in_tissue", "array_row", "array_col", "px_row", "px_col")
    piece = pa.table({name: pa.array(np.zeros(2**20, "i8")) for name in columns})
    with parquet.ParquetWriter(path / "spatial/tissue_positions.parquet", piece.schema) as writer:
        for _ in range(64):
            writer.write_table(piece)


def _in_h5(change: Callable[[h5py.File, Path], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        with h5py.File(path / "filtered_feature_bc_matrix.h5", "r+") as file:
            change(file, path / "h5")

    return edit


def space_ranger_files() -> dict[str, Maker]:
    """Changes of the output of Space Ranger."""
    lowres, matrix = "spatial/tissue_lowres_image.png", "filtered_feature_bc_matrix"
    head = "%%MatrixMarket matrix coordinate integer general\n"
    changes: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "gigapixels": lambda p: (p / lowres).write_bytes(png(60000, 60000, 1)),
        "gigapixels, whole": lambda p: (p / lowres).write_bytes(png(30000, 30000)),
        "picture cut": lambda p: (p / lowres).write_bytes(png(400, 400)[:60]),
        "picture of text": lambda p: (p / lowres).write_text("no picture"),
        "index too large": _in_h5(_set("matrix/indices", 3, 10**6)),
        "index negative": _in_h5(_set("matrix/indices", 3, -7)),
        "ends too large": _in_h5(_set("matrix/indptr", 3, 10**8)),
        "ends that fall": _in_h5(_set("matrix/indptr", 3, -1)),
        "shape of fewer": _in_h5(_set("matrix/shape", 1, 3)),
        "shape of more": _in_h5(_set("matrix/shape", 1, 2**31 - 1)),
        "external link": _in_h5(
            lambda f, p: _link(f, "matrix/data", h5py.ExternalLink(_other(p), "/secret"))
        ),
        "petabytes": _in_h5(
            lambda f, p: (
                f["matrix"].__delitem__("data"),
                f.create_dataset("matrix/data", (2**50,), "i4"),
            )
        ),
        "positions of text": lambda p: (p / "spatial/tissue_positions_list.csv").write_text("a,b"),
        "positions empty": lambda p: (p / "spatial/tissue_positions_list.csv").write_text(""),
        "rows without end": _long_parquet,
        "scales deep": lambda p: (p / "spatial/scalefactors_json.json").write_text("[" * 10**5),
        "scales of a list": lambda p: (p / "spatial/scalefactors_json.json").write_text("[1]"),
    }
    texts: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "unpacks to much": lambda p: _zeros_gz(p / matrix / "matrix.mtx.gz", 2**31),
        "names unpack to much": lambda p: _zeros_gz(p / matrix / "barcodes.tsv.gz", 2**31),
        "shape too large": lambda p: write_gz(
            p / matrix / "matrix.mtx.gz", f"{head}{10**13} {10**13} 1\n1 1 1\n"
        ),
        "values too many": lambda p: write_gz(
            p / matrix / "matrix.mtx.gz", f"{head}4 6 {10**13}\n1 1 1\n"
        ),
        "index too large": lambda p: write_gz(
            p / matrix / "matrix.mtx.gz", f"{head}4 6 1\n9 9 1\n"
        ),
        "shape negative": lambda p: write_gz(
            p / matrix / "matrix.mtx.gz", f"{head}-4 6 1\n1 1 1\n"
        ),
        "no matrix": lambda p: write_gz(p / matrix / "matrix.mtx.gz", "no matrix\n"),
        "cut": lambda p: (p / matrix / "matrix.mtx.gz").write_bytes(
            (p / matrix / "matrix.mtx.gz").read_bytes()[:40]
        ),
        "fewer names": lambda p: write_gz(p / matrix / "barcodes.tsv.gz", "s0\n"),
    }
    return {name: space_ranger(change) for name, change in changes.items()} | {
        f"text, {name}": space_ranger(change, as_text=True) for name, change in texts.items()
    }


def spatialdata_store(change: Callable[[Path], object]) -> Maker:
    """Write a SpatialData store and change it."""

    def make(path: Path) -> Path:
        import spatialdata
        from spatialdata.models import TableModel

        path = path.with_suffix(".zarr")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = example()
            table.raw = None
            spatialdata.SpatialData(tables={"table": TableModel.parse(table)}).write(path)
        change(path)
        return path

    return make


def spatialdata_files(mark: str) -> dict[str, Maker]:
    """Changes of a SpatialData store."""
    armed = {"name": "numcodecs.pickle"}

    def image(path: Path) -> None:
        folder = path / "images/he/0"
        folder.mkdir(parents=True)
        (folder / "zarr.json").write_text(json.dumps({"node_type": "array", "codecs": [armed]}))

    table = "tables/table"
    changes: dict[str, Callable[[Path], object]] = {
        "nothing": lambda path: None,
        "pickle in the table": _json(f"{table}/X/data/zarr.json", lambda m: _codecs(m, armed)),
        "pickle in an image": image,
        "petabytes": _json(f"{table}/X/data/zarr.json", lambda m: m.update(shape=[2**55])),
        "link out": lambda path: (path / table / "uns/secret").symlink_to("/etc/passwd"),
        "no obs": lambda path: shutil.rmtree(path / table / "obs"),
        "no table": lambda path: shutil.rmtree(path / table),
        "damaged": lambda path: (path / table / "zarr.json").write_text("{"),
    }
    return {name: spatialdata_store(change) for name, change in changes.items()}


# ---- models


def model(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Maker:
    """Write a model and change what its file says: the header of tensors, and our own.

    The checksum fits what was changed, as that of somebody who means harm would.
    """

    def make(path: Path) -> Path:
        from m2st import AutoencoderParams, MaskedGraphAutoencoder
        from m2st._nn._autoencoder import to_arrays
        from m2st._tensors import checksum

        path = path.with_suffix(".safetensors")
        network = MaskedGraphAutoencoder(4, AutoencoderParams())
        network.save(path)
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        own = json.loads(json.loads(header["__metadata__"]["m2st"])["header"])
        change(header, own)
        if "__metadata__" in header:
            text = json.dumps(own)
            entry = {"header": text, "checksum": checksum(to_arrays(network.state_dict()), text)}
            header["__metadata__"]["m2st"] = json.dumps(entry)
        made = json.dumps(header).encode()
        path.write_bytes(len(made).to_bytes(8, "little") + made + content[end:])
        return path

    return make


def _raw(content: bytes, suffix: str) -> Maker:
    def make(path: Path) -> Path:
        path = path.with_suffix(suffix)
        path.write_bytes(content)
        return path

    return make


def model_files(mark: str) -> dict[str, Maker]:
    """Changes of a saved model."""

    def first(header: dict[str, Any]) -> dict[str, Any]:
        return next(value for key, value in header.items() if key != "__metadata__")

    changes: dict[str, Callable[[dict[str, Any], dict[str, Any]], object]] = {
        "nothing": lambda header, own: None,
        "offsets outside": lambda h, o: first(h).update(data_offsets=[0, 2**40]),
        "offsets that fall": lambda h, o: first(h).update(data_offsets=[64, 0]),
        "shape too large": lambda h, o: first(h).update(shape=[2**40, 2**20]),
        "no such type": lambda h, o: first(h).update(dtype="PICKLE"),
        "nothing of ours": lambda h, o: h.pop("__metadata__"),
        "no settings": lambda h, o: o.pop("params"),
        "settings of a list": lambda h, o: o.update(params=[1]),
        "unknown settings": lambda h, o: o["params"].update(run="rm"),
        "wide": lambda h, o: o["params"].update(hidden_dim=10**9),
        "many features": lambda h, o: o.update(n_features=10**12),
        "features of text": lambda h, o: o.update(n_features="a"),
        "features negative": lambda h, o: o.update(n_features=-4),
        "no scales": lambda h, o: o["params"].update(scale_dims=[]),
        "many layers": lambda h, o: o["params"].update(n_layers=10**9),
    }
    return {name: model(change) for name, change in changes.items()} | {
        "a pickle": _raw(pickle.dumps(_Armed(mark)), ".safetensors"),
        "long header": _raw((2**63).to_bytes(8, "little"), ".safetensors"),
        "empty": _raw(b"", ".safetensors"),
    }


# ---- all of them, and how each ends


def corpus(mark: str) -> dict[str, Maker]:
    """Everything, by name."""
    found: dict[str, Maker] = {}
    for name, content in r_objects(mark).items():
        found |= {f"rds {name}": rds(content), f"rda {name}": rda(content)}
    found |= {f"h5ad {name}": maker for name, maker in h5_files().items()}
    found |= {f"zarr {name}": maker for name, maker in zarr_files(mark).items()}
    found |= {f"Space Ranger {name}": maker for name, maker in space_ranger_files().items()}
    found |= {f"SpatialData {name}": maker for name, maker in spatialdata_files(mark).items()}
    found |= {f"model {name}": maker for name, maker in model_files(mark).items()}
    found |= {
        "h5ad empty": _raw(b"", ".h5ad"),
        "h5ad text": _raw(b"no HDF5", ".h5ad"),
        "rds unpacks to much": rds_of_zeros,
        "rds pickle": _raw(pickle.dumps(_Armed(mark)), ".rds"),
        "rds not packed": _raw(HEADER + experiment(), ".rds"),
    }
    whole = {
        "h5ad": h5(lambda file, path: None),
        "zarr 3": zarr(lambda path: None),
        "zarr 2": zarr(lambda path: None, 2),
        "rds": rds(experiment()),
        "rda": rda(experiment()),
        "Space Ranger": space_ranger(lambda path: None),
        "model": model(lambda header, own: None),
    }
    for kind, good in whole.items():
        found |= {f"{kind} damaged {seed}": damaged(good, seed) for seed in range(12)}
    return found


def _peak() -> int:
    """Most memory that this process has had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    """Read a file and say what came of it, in this process."""
    import m2st

    try:
        if path.suffix == ".safetensors":
            m2st.MaskedGraphAutoencoder.load(path)
            return "read"
        adata = m2st.io.read(path)
        held = adata.X, *adata.layers.values(), *adata.obsp.values()
        for matrix in filter(sparse.issparse, held):
            matrix.sum(axis=0)
            matrix.T.tocsr()
        return "read" if adata.n_obs in (3, 6) and adata.n_vars == 4 else f"SHAPE {adata.shape}"
    except (ValueError, TypeError, KeyError, MemoryError, OSError) as error:
        text = str(error)
        ours = text.startswith(("Expected", "rds2py could not read"))
        return "refused" if ours else f"NOT OURS {type(error).__name__}: {text}"
    except Exception as error:
        return f"NOT OURS {type(error).__name__}: {error}"


def judge(path: Path, seconds: int = 300) -> str:
    """Read a file in a process of its own, forked from this one, and say how that ended."""
    import resource
    import signal

    import m2st

    _ = m2st.io, m2st.interop, m2st.MaskedGraphAutoencoder  # loaded once, here
    out, into = os.pipe()
    n_bytes = sum(p.stat().st_size for p in [path, *path.rglob("*")] if p.is_file())
    sys.stdout.flush()
    started = os.fork()
    if not started:
        try:
            signal.alarm(seconds)
            warnings.simplefilter("ignore")
            before = _peak()
            said = _read(path)
            own = _peak() - before
            most = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
            if most > max(2**30, 2 * n_bytes):
                said = f"MEMORY {most / 1e9:.1f} GB for {n_bytes / 1e6:.1f} MB, {said}"
            os.write(into, said.encode()[:4000])
            os._exit(0)
        finally:
            os._exit(1)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        said = stream.read().decode()
    _, status = os.waitpid(started, 0)
    return said if status == 0 else f"DIED with status {status}"


def run(names: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """Make and read files; their names, and how each ended."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        makers = corpus(str(mark))
        for number, name in enumerate(names or makers):
            place = Path(folder) / str(number)
            place.mkdir()
            path = makers[name](place / "x")
            said = judge(path)
            if mark.exists():
                said = f"CODE RAN, {said}"
                mark.rmdir() if mark.is_dir() else mark.unlink()
            yield name, said
            shutil.rmtree(place)


def is_fine(said: str) -> bool:
    """Whether a file ended in an error of ours, or was read."""
    return said in {"read", "refused"}


if __name__ == "__main__":
    chosen = None
    if len(sys.argv) == 3:
        chosen = list(corpus("mark"))[int(sys.argv[1]) : int(sys.argv[2])]
    ends: dict[str, int] = {}
    for one, outcome in run(chosen):
        if not is_fine(outcome):
            sys.stdout.write(f"{one}: {outcome}\n")
        kind_of = outcome if is_fine(outcome) else "wrong"
        ends[kind_of] = ends.get(kind_of, 0) + 1
    sys.stdout.write(f"{sum(ends.values())} files: {ends}\n")
    sys.exit(min(ends.get("wrong", 0), 1))
