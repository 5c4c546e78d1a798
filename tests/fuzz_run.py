"""Objects of all kinds for `m2st.run`, by number: `python -m tests.fuzz_run FIRST LAST`.

Each is run twice, the second time in another storage. Wanted: results that are the same bits, or an
error in the house's words; nothing of the user's changed, nothing left behind by an error of the
input, no warning that is not ours, what is promised of a result, and a file that can be written and
read. A line is printed for each object that breaks this, and the counts at the end.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata import ImplicitModificationWarning as ViewWritten
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from tests.stored import GRAPHS, STORED, TABLES, linked_in

import m2st

PACKAGE = str(Path(m2st.__file__).parent)
OURS = {"m2st_domain", "m2st_confidence", "X_m2st", "X_m2st_pca", "X_m2st_pca_no_neighbors", "m2st"}
OURS |= {"X_m2st_averages", "spatial_connectivities", "spatial_distances", "spatial_neighbors"}
Rng = np.random.Generator
Make = Callable[[Rng, int], Any]


class Case(NamedTuple):
    """What `m2st.run` is given."""

    adata: AnnData
    n_domains: Any
    settings: dict[str, Any]
    kinds: dict[str, str]


def pick(rng: Rng, choices: Mapping[str, tuple[float, Any]]) -> tuple[str, Any]:
    """One of some choices, by weight."""
    weights = np.array([weight for weight, _ in choices.values()])
    name = str(rng.choice(list(choices), p=weights / weights.sum()))
    return name, choices[name][1]


def grid(n_obs: int) -> np.ndarray:
    return np.column_stack(np.divmod(np.arange(n_obs), max(int(n_obs**0.5), 1))).astype(float)


def hexagons(n_obs: int) -> np.ndarray:
    rows, columns = grid(n_obs).T
    return np.column_stack([columns + rows % 2 / 2, rows * 0.75**0.5])


def some_missing(rng: Rng, n_obs: int) -> np.ndarray:
    """NaN in the rows of some observations, 0 in the others."""
    return np.where(rng.random((n_obs, 1)) < 0.2, np.nan, 0)


def replaced(values: np.ndarray, rng: Rng, value: float) -> np.ndarray:
    """One entry replaced."""
    values = values.astype(float)
    values[rng.integers(len(values)), rng.integers(values.shape[1])] = value
    return values


PLACES: dict[str, tuple[float, Make]] = {
    "square": (3, lambda r, n: grid(n)),
    "hexagonal": (3, lambda r, n: hexagons(n)),
    "visium indices": (1, lambda r, n: grid(n) * [1, 2] + grid(n)[:, :1] % 2 * [0, 1]),
    "jitter": (1, lambda r, n: grid(n) + r.normal(0, 0.15, (n, 2))),
    "scattered": (4, lambda r, n: r.random((n, 2))),
    "in space": (1, lambda r, n: r.random((n, 3))),
    "a plane in space": (1, lambda r, n: np.c_[r.random((n, 2)), np.full(n, 7)]),
    "line": (1, lambda r, n: np.outer(np.arange(n), [1, 2])),
    "nearly a line": (1, lambda r, n: np.outer(r.random(n), [1, 2]) + 1e-9 * r.random((n, 2))),
    "few places": (1, lambda r, n: r.integers(0, 3, (n, 2))),
    "half in one place": (1, lambda r, n: r.random((n, 2)) * (r.random(n) < 0.5)[:, None]),
    "one place": (0.3, lambda r, n: np.ones((n, 2))),
    "two clusters": (1, lambda r, n: r.random((n, 2)) + (np.arange(n) % 2 * 1e6)[:, None]),
    "far offset": (1, lambda r, n: grid(n) + 10.0 ** r.integers(6, 18)),
    "one far away": (1, lambda r, n: replaced(r.random((n, 2)), r, 10.0 ** r.integers(2, 300))),
    "NaN": (0.3, lambda r, n: replaced(r.random((n, 2)), r, np.nan)),
    "infinite": (0.2, lambda r, n: replaced(r.random((n, 2)), r, np.inf)),
    "one column": (0.2, lambda r, n: r.random((n, 1))),
    "text": (0.2, lambda r, n: np.full((n, 2), "a")),
    "objects": (0.2, lambda r, n: r.random((n, 2)).astype(object)),
    "none": (0.2, lambda r, n: None),
}
UNITS = {str(u): (w, u) for u, w in ((1, 8), (100, 2), (1e-12, 1), (1e12, 1), (1e90, 0.5))}
UNITS |= {str(u): (0.2, u) for u in (1e-90, 1e-300, 1e-160, 1e155, 1e300)}


def bands(rng: Rng, n_obs: int, n_vars: int) -> np.ndarray:
    """Counts of genes, of which some tell three bands apart."""
    effects = np.exp(rng.normal(size=(3, n_vars)) * (rng.random((3, n_vars)) < 0.4))
    return rng.poisson(2 * effects[np.arange(n_obs) * 3 // n_obs]).astype(float)


def poorer(counts: np.ndarray, rng: Rng) -> np.ndarray:
    """Some observations and genes without counts."""
    return counts * (rng.random((len(counts), 1)) < 0.8) * (rng.random(counts.shape[1]) < 0.8)


EXPRESSION: dict[str, tuple[float, Callable[[np.ndarray, Rng], np.ndarray]]] = {
    "counts": (8, lambda x, r: x),
    "some empty": (3, poorer),
    "thin": (1, lambda x, r: r.poisson(0.03, x.shape)),
    "binary": (1, lambda x, r: np.minimum(x, 1)),
    "a share": (0.5, lambda x, r: x * 0.9),
    "fractions": (0.5, lambda x, r: x * r.uniform(0.7, 1, x.shape)),
    "logs": (1, lambda x, r: np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)),
    "taken back": (0.5, lambda x, r: np.expm1(np.log1p(x.astype(np.float32)))),
    "rows alike": (0.5, lambda x, r: np.tile(x[:1], (len(x), 1))),
    "constant": (0.4, lambda x, r: np.full(x.shape, 3)),
    "one gene": (0.4, lambda x, r: x * (np.arange(x.shape[1]) == 0)),
    "a gene above all": (0.6, lambda x, r: np.c_[r.poisson(1e6, len(x)), x[:, 1:]]),
    "zeros": (0.3, lambda x, r: 0 * x),
    "large": (0.7, lambda x, r: x * 10.0 ** r.integers(3, 38)),
    "tiny": (0.3, lambda x, r: x * 10.0 ** -r.integers(3, 44)),
    "negative": (0.3, lambda x, r: replaced(x, r, -1)),
    "NaN": (0.3, lambda x, r: replaced(x, r, np.nan)),
    "infinite": (0.3, lambda x, r: replaced(x, r, np.inf)),
    "text": (0.1, lambda x, r: x.astype(str)),
}
FEATURES: dict[str, tuple[float, Make]] = {
    "normal": (4, lambda r, n: r.normal(size=(n, r.integers(2, 70)))),
    "one": (1, lambda r, n: r.normal(size=(n, 1))),
    "wide": (1, lambda r, n: r.normal(size=(n, 200))),
    "one direction": (1, lambda r, n: np.outer(r.normal(size=n), r.normal(size=30))),
    "repeated": (1, lambda r, n: np.tile(r.normal(size=(n, 3)), (1, 8))),
    "zeros beside": (1, lambda r, n: np.c_[r.normal(size=(n, 4)), np.zeros((n, 30))]),
    "one-hot": (1, lambda r, n: np.eye(20)[r.integers(0, 20, n)]),
    "two kinds": (1, lambda r, n: r.normal(size=(2, 30))[r.integers(0, 2, n)]),
    "constant": (0.5, lambda r, n: np.full((n, 20), 3.0)),
    "large": (0.7, lambda r, n: r.normal(size=(n, 20)) * 10.0 ** r.integers(3, 40)),
    "tiny": (0.7, lambda r, n: r.normal(size=(n, 20)) * 10.0 ** -r.integers(3, 45)),
    "one far away": (1, lambda r, n: replaced(r.normal(size=(n, 20)), r, 1e6)),
    "rows missing": (1, lambda r, n: r.normal(size=(n, 20)) + some_missing(r, n)),
    "NaN": (0.4, lambda r, n: replaced(r.normal(size=(n, 20)), r, np.nan)),
    "no column": (0.1, lambda r, n: np.zeros((n, 0))),
    "text": (0.2, lambda r, n: np.full((n, 2), "a")),
    "objects": (0.2, lambda r, n: r.normal(size=(n, 20)).astype(object)),
}
SECTIONS: dict[str, tuple[float, Make]] = {
    "two": (3, lambda r, n: r.choice(["a", "b"], n)),
    "tiny ones": (2, lambda r, n: np.r_[["a", "b", "b", "c"], ["d"] * n][:n]),
    "numbers": (1, lambda r, n: r.integers(0, 2, n)),
    "bool": (0.5, lambda r, n: r.random(n) < 0.5),
    "one": (0.5, lambda r, n: ["a"] * n),
    "each": (0.3, lambda r, n: np.arange(n).astype(str)),
    "unused": (1, lambda r, n: pd.Categorical(r.choice(["a", "b"], n), categories=list("abz"))),
    "gaps": (0.5, lambda r, n: pd.array([None, *range(n - 1)], dtype="Int64")),
}
DOMAINS: dict[str, tuple[float, Make]] = {
    "few": (9, lambda r, n: int(r.integers(2, 6))),
    "numpy": (0.5, lambda r, n: np.int64(3)),
    "one": (0.7, lambda r, n: 1),
    "nearly all": (0.7, lambda r, n: n - 1),
    "all": (0.5, lambda r, n: n),
    "more": (0.2, lambda r, n: n + 1),
    "auto": (0.5, lambda r, n: "auto"),
    **{repr(k): (0.1, lambda r, n, k=k: k) for k in (0, -1, 2.0, "3", None, True)},
}
SEEDS = {repr(s): (w, s) for s, w in ((0, 5), (7, 2), (2**32 - 1, 1), (np.int16(3), 0.5))}
SEEDS |= {repr(s): (0.1, s) for s in (-1, 2**32, 1.5, "a", None)}
RECORDS: dict[str, tuple[float, Any]] = {
    "none": (9, None),
    "text": (0.3, "mine"),
    "old": (0.5, {"n_members": 3, "graph": {"method": "lattice"}, "note": "mine"}),
    "strange": (0.3, {"embed": "mine"}),
}


def settings_of(rng: Rng) -> dict[str, Any]:
    """Settings that keep a run short."""
    autoencoder = m2st.AutoencoderParams(
        n_members=int(rng.choice([1, 2], p=[0.8, 0.2])),
        n_epochs=int(rng.integers(1, 5)),
        scale_dims=[(8, 4), (8,), (8, 4, 4)][rng.integers(3)],
        hidden_dim=8,
        n_layers=int(rng.integers(1, 3)),
        batch_size=int(rng.choice([16384, 50, 10])),
        mask_rate=float(rng.choice([0.5, 0, 0.99])),
        loss_exponent=[1.0, None, 2.0][rng.integers(3)],
        use_prelu=bool(rng.random() < 0.2),
        feature_dropout=float(rng.choice([0, 0.3])),
        learning_rate=float(rng.choice([2e-3, 1.0, 1e-10], p=[0.9, 0.05, 0.05])),
    )
    clustering = m2st.ClusteringParams(
        n_init=int(rng.integers(1, 4)),
        short_iter=5,
        max_iter=40,
        smoothness=float(rng.choice([10, 0, 1e6], p=[0.8, 0.15, 0.05])),
        weight_entropy=float(rng.choice([0.3, 1e-9, 1e9], p=[0.9, 0.05, 0.05])),
    )
    return {"autoencoder": autoencoder, "clustering": clustering, "progress": False}


def ring(n_obs: int) -> sparse.csr_matrix:
    here, there = np.arange(n_obs), np.roll(np.arange(n_obs), 1)
    pairs = np.concatenate([here, there]), np.concatenate([there, here])
    graph = sparse.csr_matrix((np.ones(2 * n_obs, dtype=np.float32), pairs), shape=(n_obs, n_obs))
    graph.setdiag(0)
    graph.eliminate_zeros()
    graph.data[:] = 1
    return graph


def stored(
    values: Any, ways: Mapping[str, Any], storage: Rng, kinds: dict[str, str], key: str
) -> Any:
    """The values in one of some storages, if these can hold them all."""
    kinds[key] = str(storage.choice(["as it is", *ways]))
    if kinds[key] == "as it is" or values.dtype.kind not in "fiu" or values.ndim != 2:
        return values
    whole, small = (values == np.floor(values)).all(), np.abs(values).max(initial=0) < 128
    fits = kinds[key].split()[-1] not in {"u1", "i2", "i8", ">i4", "f2"} or (
        whole and small and values.min(initial=0) >= 0
    )
    fits &= "repeated" not in kinds[key] or (whole and small)
    if not fits or 0 in values.shape:
        return values
    return ways[kinds[key]](sparse.csr_matrix(values) if key == "storage" else values)


def case(number: int, storage: int = 0) -> Case:
    """The object of a number, in some storage of many."""
    rng, other = np.random.default_rng(number), np.random.default_rng([number, storage])
    kinds: dict[str, str] = {}

    def one(key: str, choices: Mapping[str, tuple[float, Any]]) -> Any:
        kinds[key], found = pick(rng, choices)
        return found

    n_obs, n_vars = (int(size) for size in rng.integers(6, [120, 60]))
    if rng.random() < 0.05:
        n_obs, n_vars = (int(size) for size in rng.integers(1, 7, 2))
    counts = one("expression", EXPRESSION)(bands(rng, n_obs, n_vars), rng)
    with np.errstate(over="ignore"):
        values = counts if counts.dtype.kind == "U" else counts.astype(np.float32)
    settings = settings_of(rng)
    adata = AnnData(
        np.zeros((n_obs, n_vars), dtype=np.float32),
        obs=pd.DataFrame({"mine": np.arange(n_obs)}, index=[f"c{i}" for i in range(n_obs)]),
    )
    ways = {name: make for name, make in STORED.items() if "dask" not in name or n_obs > 20}
    if rng.random() < 0.2:
        adata.layers["here"] = stored(values, ways, other, kinds, "storage")
        settings["layer"] = "here"
    else:
        adata.X = stored(values, ways, other, kinds, "storage")
    places = one("places", PLACES)(rng, n_obs)
    if places is not None:
        unit = one("unit", UNITS)
        if places.dtype.kind in "fi":
            with np.errstate(over="ignore", invalid="ignore"):
                places = np.asarray(places * unit, dtype=np.float64)
        tables = {name: make for name, make in TABLES.items() if "table" not in name}
        adata.obsm["spatial"] = stored(places, tables, other, kinds, "places in")
    if rng.random() < 0.25:
        del_layer = settings.pop("layer", None)
        kinds["left out"] = str(del_layer)
        settings["use_rep"] = "X_mine"
        mine = np.asarray(one("features", FEATURES)(rng, n_obs))
        tables = {name: make for name, make in TABLES.items() if "table" not in name}
        adata.obsm["X_mine"] = stored(mine, tables, other, kinds, "features in")
    elif kinds["expression"] == "logs" or rng.random() < 0.05:
        settings["normalized"] = True
    if rng.random() < 0.2:
        settings["n_pcs"] = int(rng.integers(1, 60))
    if rng.random() < 0.25:
        adata.obs["section"] = one("sections", SECTIONS)(rng, n_obs)
        settings["sample_key"] = "section"
    elif rng.random() < 0.2 and n_obs > 2:
        kinds["graph"] = str(other.choice(GRAPHS))
        adata.obsp["spatial_connectivities"] = linked_in(kinds["graph"], ring(n_obs))
    record = one("record", RECORDS)
    if record is not None:
        adata.uns["m2st"] = record
    if rng.random() < 0.1:
        adata.obsm["X_m2st_scale_mine"] = np.ones((n_obs, 2))
        adata.obsm["X_m2st_scale3"] = np.ones((n_obs, 2))
    if rng.random() < 0.03 and n_obs > 1:
        adata.obs_names = ["twice", "twice", *adata.obs_names[2:]]
    settings["random_state"] = one("seed", SEEDS)
    n_domains = one("domains", DOMAINS)(rng, n_obs)
    return Case(adata, n_domains, settings, kinds)


def digest(value: Any) -> Any:
    """Something that is equal only for values that are the same to the bit, in the same storage."""
    if isinstance(value, Mapping):
        return {str(key): digest(entry) for key, entry in value.items()}
    if hasattr(value, "compute"):
        return digest(value.compute())
    if sparse.issparse(value):
        arrays = (value.data, value.indices, value.indptr)
        return [type(value).__name__, *(digest(array) for array in arrays)]
    if isinstance(value, pd.DataFrame):
        columns = {str(c): (str(value[c].dtype), pickle.dumps(value[c].tolist())) for c in value}
        return [columns, list(value.index)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype.str, value.shape, hashlib.md5(np.ma.getdata(value).tobytes()).hexdigest()
    return pickle.dumps(value.tolist() if isinstance(value, np.ndarray) else value)


def parts(adata: AnnData) -> dict[str, Any]:
    """Digests of all slots."""
    slots = {name: getattr(adata, name) for name in ("layers", "obsm", "obsp", "uns")}
    return {
        "X": digest(adata.X),
        "var": digest(adata.var),
        "names": list(adata.obs_names),
        "obs": {str(column): digest(adata.obs[[column]]) for column in adata.obs},
        **{
            name: {key: digest(entry) for key, entry in slot.items()}
            for name, slot in slots.items()
        },
    }


def ours(key: str | None) -> bool:
    return key in OURS or str(key).removeprefix("X_m2st_scale").isdecimal()


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """What is the user's."""
    return {
        slot: {k: v for k, v in entry.items() if not ours(k)} if isinstance(entry, dict) else entry
        for slot, entry in found.items()
    }


def results(found: dict[str, Any]) -> dict[str, Any]:
    """What is m2ST's."""
    return {
        slot: {k: v for k, v in found[slot].items() if ours(k)} for slot in ("obs", "obsm", "uns")
    }


def attempt(one: Case) -> tuple[str | None, list[str]]:
    """Run: the error if there is one, and what is wrong about errors and warnings."""
    wrong: list[str] = []
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            m2st.run(one.adata, one.n_domains, **one.settings)
        except Exception as found:
            error = f"{type(found).__name__}: {found.args[0] if found.args else found}"
            last = traceback.extract_tb(found.__traceback__)[-1]
            if type(found) not in (ValueError, TypeError, KeyError) or PACKAGE not in last.filename:
                wrong.append(f"not our error: {error} ({last.filename}:{last.lineno})")
    for warning in caught:
        outdated = issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning)
        if outdated and PACKAGE not in warning.filename:
            continue  # within another package, and theirs to mend
        if warning.category not in (UserWarning, ConvergenceWarning, ViewWritten):
            wrong.append(f"not our warning: {warning.category.__name__}: {warning.message}")
    return error, wrong


def promised(one: Case) -> list[str]:
    """What is wrong with a result."""
    adata = one.adata
    if one.n_domains is None:
        return [] if "X_m2st_scale1" in adata.obsm else ["no embedding"]
    domain, confidence = adata.obs["m2st_domain"], adata.obs["m2st_confidence"].to_numpy()
    auto = one.n_domains == "auto"
    k = adata.uns["m2st"]["n_domains"]["chosen"] if auto else int(one.n_domains)
    missing = domain.isna().to_numpy()
    sizes = domain.value_counts(sort=False).to_numpy()
    claims = {
        "categories": list(domain.cat.categories) == [str(i) for i in range(1, k + 1)],
        "a domain is empty": (sizes > 0).all(),
        "sizes increase": (np.diff(sizes) <= 0).all(),
        "confidence elsewhere": (np.isnan(confidence) == missing).all(),
        "confidence out of range": ((confidence >= 0) & (confidence <= 1))[~missing].all(),
    }
    for key in ("X_m2st", "X_m2st_pca", "X_m2st_scale1"):
        values = adata.obsm[key]
        claims[f"{key} not float32"] = values.dtype == np.float32
        claims[f"{key} not finite"] = np.isfinite(values[~missing]).all()
        claims[f"{key} where missing"] = np.isnan(values[missing]).all()
    return [name for name, holds in claims.items() if not holds]


def written(one: Case, folder: Path) -> list[str]:
    """What a file loses of a result."""
    adata = one.adata
    m2st.io.write(adata, folder / "a.h5ad", overwrite=True)
    back = m2st.io.read(folder / "a.h5ad")
    same = digest(back.obs["m2st_domain"].to_numpy()) == digest(adata.obs["m2st_domain"].to_numpy())
    return [] if same else ["a file has other domains"]


def check(number: int, folder: Path) -> tuple[str, list[str], dict[str, str]]:
    """Error or ``"result"``, what is wrong, and the kinds of an object."""
    one, other = case(number), case(number, storage=1)
    before = parts(one.adata)
    error, wrong = attempt(one)
    after = parts(one.adata)
    if kept(after) != kept(before):
        wrong.append("something of the user's has changed")
    error_of_other, _ = attempt(other)
    if (error is None) != (error_of_other is None):
        wrong.append(f"in another storage: {error_of_other}, not {error} ({other.kinds})")
    if error is None and error_of_other is None:
        if results(after) != results(parts(other.adata)):
            wrong.append(f"other bits in another storage ({other.kinds})")
        wrong += promised(one)
        if number % 4 == 0 and one.n_domains is not None:
            wrong += written(one, folder)
    return error or "result", wrong, one.kinds


def main(first: int, last: int) -> int:
    """Check objects and print what is wrong; how many are."""
    started, outcomes, n_wrong = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        for number in range(first, last):
            outcome, wrong, kinds = check(number, Path(name))
            outcomes[outcome.split(":")[0]] += 1
            n_wrong += bool(wrong)
            for line in wrong:
                sys.stdout.write(f"{number}: {line} {kinds}\n")
                sys.stdout.flush()
    minutes = (time.monotonic() - started) / 60
    n_objects = last - first
    sys.stdout.write(
        f"{n_objects} objects in two storages, {dict(outcomes)}, {n_wrong} wrong, "
        f"{n_objects / minutes:.0f} a minute\n"
    )
    return n_wrong


if __name__ == "__main__":
    sys.exit(min(main(*map(int, sys.argv[1:3])), 1))
