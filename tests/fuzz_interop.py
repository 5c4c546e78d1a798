"""Objects by seed, to R and back: what is not named as lost has to come back as it was.

``python -m tests.fuzz_interop FIRST LAST`` tries many, and prints what did not.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from m2st import interop
from m2st.interop import _parsed

CLASSES = ("Seurat", "SingleCellExperiment", "SpatialExperiment")
TEXTS = ["a", "", "NA", "TRUE", "1", "é", "x y", "None", '"', "tab\t"]
# Columns that R or its classes have a use of their own for.
COLUMNS = ["a", "b c", "ident", "orig.ident", "sample_id", "in_tissue", "class", "names", "é", "_x"]
KEYS = ["X_pca", "X_", "weird key", "X_umap2", "pca", "_y"]
LAYERS = ["counts", "data", "X", "other"]


def column(rng: np.random.Generator, n: int) -> Any:
    """Draw a column of ``obs`` or ``var``."""
    some = rng.integers(-1, 2, n)
    drawn: list[Any] = [
        rng.integers(0, 2, n).astype(bool),
        rng.integers(-9, 9, n).astype(rng.choice(["int8", "int32", "int64", "uint16"])),
        rng.integers(0, 9, n) + 2**40,
        rng.normal(size=n).astype(rng.choice(["float32", "float64"])),
        np.where(some < 0, np.nan, rng.normal(size=n)),
        rng.choice(np.array(TEXTS, dtype=object), n),
        pd.array(rng.choice(np.array([*TEXTS, None], dtype=object), n), dtype="string"),
        pd.array(np.where(some < 0, None, some), dtype="Int64"),
        pd.array(np.where(some < 0, None, some == 1), dtype="boolean"),
        pd.Categorical.from_codes(some, ["z", "a"], ordered=bool(rng.integers(2))),
        pd.Categorical.from_codes(some, [True, False]),
        pd.Categorical.from_codes(some, [10, 2]),
        pd.Categorical.from_codes(some, [0.5, 0.25]),
    ]
    return drawn[rng.integers(len(drawn))]


def matrix(rng: np.random.Generator, n: int, m: int) -> Any:
    """Draw expression."""
    values = rng.poisson(1.0, (n, m)).astype(np.float64)
    drawn: list[Any] = [
        values,
        values.astype(rng.choice(["float32", "int32", "int64", "uint8"])),
        values > 0,
        sparse.csr_matrix(values),
        sparse.csc_matrix(values.astype(np.float32)),
        sparse.csr_matrix(values.astype(np.int32)),
        sparse.csr_matrix(values > 0),
        np.where(values > 2, np.nan, values - 0.5),
    ]
    return drawn[rng.integers(len(drawn))]


def entry(rng: np.random.Generator, depth: int = 0) -> Any:
    """Draw a value of ``uns``."""
    drawn: list[Any] = [
        None,
        bool(rng.integers(2)),
        int(rng.integers(9)),
        2**40,
        float(rng.normal()),
        np.float32(0.5),
        str(rng.choice(TEXTS)),
        np.array(3),
        np.array([1]),
        np.array([]),
        [],
        [1, 2],
        {},
        rng.normal(size=3).astype(np.float32),
        rng.integers(0, 9, (2, 3)),
        rng.normal(size=(2, 2, 2)),
        np.array(["a", "b", "a"], dtype=object),
        pd.Categorical([True, False, None]),
        pd.DataFrame({"p": column(rng, 2)}, index=["r", "s"]),
        sparse.csr_matrix(np.eye(3)),
    ]
    if depth < 2 and rng.random() < 0.2:
        return {key: entry(rng, depth + 1) for key in ("a", "names")}
    return drawn[rng.integers(len(drawn))]


def make(seed: int) -> tuple[ad.AnnData, str]:
    """Draw an object, and the class to write it as."""
    rng = np.random.default_rng([seed, 24])
    n, m = int(rng.integers(1, 9)), int(rng.integers(1, 7))

    def frame(size: int, prefix: str) -> pd.DataFrame:
        names = rng.choice(COLUMNS, rng.integers(0, 5), replace=False)
        index = [f"{prefix}{i}" for i in range(size)]
        return pd.DataFrame({str(name): column(rng, size) for name in names}, index=index)

    chosen = rng.choice(LAYERS, rng.integers(0, 4), replace=False)
    layers = {str(key): matrix(rng, n, m) for key in chosen}
    main = matrix(rng, n, m) if rng.random() < 0.8 else None
    adata = ad.AnnData(
        main,
        obs=frame(n, "c"),
        var=frame(m, "g"),
        layers=layers,
        shape=None if layers or main is not None else (n, m),
    )
    for key in rng.choice(KEYS, rng.integers(0, 3), replace=False):
        adata.obsm[str(key)] = rng.normal(size=(n, 2)).astype(rng.choice(["float32", "float64"]))
    if rng.random() < 0.7:
        adata.obsm["spatial"] = rng.integers(0, 9, (n, 2)) * rng.choice([1, 0.5])
    for key in rng.choice(["k", "x.y", "names"], rng.integers(0, 3), replace=False):
        adata.uns[str(key)] = entry(rng)
    return adata, str(rng.choice(CLASSES))


def differences(a: Any, b: Any, where: str) -> Iterator[str]:
    """Name where `b` is not what `a` is."""
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        if a.index.tolist() != b.index.tolist():
            yield f"{where}.index"
        a, b = dict(a.items()), dict(b.items())
    if isinstance(a, dict):
        b = b if isinstance(b, dict) else {}
        for key in [*a, *(key for key in b if key not in a)]:
            place = f"{where}[{key!r}]"
            if key in a and key in b:
                yield from differences(a[key], b[key], place)
            else:
                yield place
        return
    if sparse.issparse(a):
        if not sparse.issparse(b) or a.dtype != b.dtype:
            yield where
            return
        a, b = a.toarray(), b.toarray()
    if str(getattr(a, "dtype", "")) == "object" and isinstance(b, pd.Series | pd.Categorical):
        b = np.asarray(b.astype(object), dtype=object)  # text that repeats becomes categories
    if isinstance(a, list) and a and isinstance(b, np.ndarray):
        b = b.tolist()  # as h5ad gives lists back, too
    one, other = (_plain(value) for value in (a, b))
    if repr(one) != repr(other):
        yield f"{where}: {one!r} became {other!r}"


def _plain(value: Any) -> Any:
    """Give values as text can show them, with their type."""
    if isinstance(value, pd.Series):
        value = value.array
    if isinstance(value, pd.arrays.NumpyExtensionArray) and value.dtype == object:
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.generic):
        return str(value.dtype), value.item()
    if isinstance(value, pd.Categorical):
        kinds = value.categories.tolist(), value.ordered
        return ("category", kinds, [None if pd.isna(v) else v for v in value.tolist()])
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return str(value.dtype), [
            None if v is pd.NA else v for v in np.asarray(value, dtype=object).tolist()
        ]
    return value


def faults(seed: int, folder: Path) -> list[str]:
    """Write and read one object; what is wrong, if anything."""
    adata, kind = make(seed)
    before, path = adata.copy(), folder / "x.rds"
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            interop.write_r(adata, path, kind, overwrite=True)
        except ValueError as error:
            return [] if str(error).startswith("Expected") else [f"write: {error}"]
        except Exception as error:
            return [f"write: {type(error).__name__}: {error}"]
        back = {method: interop.read_r(path, method=method) for method in ("r", "rds2py")}
    said = " ".join(str(warning.message) for warning in caught)
    for what, a, b in (
        ("was changed", before, adata),
        ("differs without R", back["r"], back["rds2py"]),
        ("became another", before, back["r"]),
    ):
        for slot in ("obs", "var", "X", "layers", "obsm", "uns"):
            one, other = (_slot(each, slot) for each in (a, b))
            for where in differences(one, other, slot):
                named = re.findall(r"\[('[^']*'|\"[^\"]*\")\]", where)
                if not (named and named[0].strip("'\"") in said) and not (
                    slot == "X" and "X" in said
                ):
                    found.append(f"{kind} {what}: {where}"[:200])
    return found


def _slot(adata: ad.AnnData, slot: str) -> Any:
    value = getattr(adata, slot)
    if slot in {"layers", "obsm", "uns"}:
        return {key: item for key, item in value.items() if key != "m2st_r"}
    return value


def main(first: int, last: int) -> int:
    """Check objects and print what is wrong; how many are."""
    from tests.interop_r import start

    n_wrong, check_r = 0, _parsed.check_r
    with tempfile.TemporaryDirectory() as library, tempfile.TemporaryDirectory() as made:
        start(Path(library))
        for number in range(first, last):
            # The trial of a file in a process of its own takes a second: every fiftieth has it.
            _parsed.check_r = (lambda file: None) if number % 50 else check_r
            for fault in (wrong := faults(number, Path(made))):
                sys.stdout.write(f"{number}: {fault}\n")
                sys.stdout.flush()
            n_wrong += bool(wrong)
    sys.stdout.write(f"{last - first} objects, {n_wrong} wrong\n")
    return n_wrong


if __name__ == "__main__":
    sys.exit(min(main(*map(int, sys.argv[1:3])), 1))
