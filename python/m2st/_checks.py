"""Validators with one phrasing: what was expected, what was found, what to do."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from m2st._keys import CONNECTIVITIES

_PACKAGE = str(Path(__file__).parent) + os.sep
# scikit-learn and NumPy's older generators take no larger seed.
_LAST_SEED = 2**32 - 1


def check_int(name: str, value: object, *, minimum: int) -> None:
    """Require a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"Expected `{name}` to be a whole number, found {value!r} ({type(value).__name__})."
        raise TypeError(msg)
    if int(value) < minimum:
        msg = f"Expected `{name}` to be at least {minimum}, found {value}."
        raise ValueError(msg)


def check_seed(value: object, *, name: str = "random_state") -> int:
    """Require a seed that every library underneath takes: a whole number below 2**32."""
    check_int(name, value, minimum=0)
    seed = int(cast("int", value))
    if seed > _LAST_SEED:
        msg = f"Expected `{name}` of at most {_LAST_SEED} (2**32 - 1), found {seed}."
        raise ValueError(msg)
    return seed


def check_interval(
    name: str, value: object, low: float, high: float, *, closed: tuple[bool, bool] = (True, True)
) -> None:
    """Require a real number between `low` and `high`; `closed` says which ends are allowed."""
    left, right = "[" if closed[0] else "(", "]" if closed[1] else ")"
    interval = f"{left}{low:g}, {high:g}{right}"
    if isinstance(value, bool) or not isinstance(value, Real):
        msg = f"Expected `{name}` in {interval}, found {value!r} ({type(value).__name__})."
        raise TypeError(msg)
    number = float(value)
    above = number >= low if closed[0] else number > low
    below = number <= high if closed[1] else number < high
    if not (above and below):
        msg = f"Expected `{name}` in {interval}, found {value}."
        raise ValueError(msg)


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Require one of a few strings."""
    if value not in choices:
        msg = f"Expected `{name}` to be one of {', '.join(map(repr, choices))}, found {value!r}."
        raise ValueError(msg)


def check_key(key: str, slot: Mapping[str, Any] | Any, *, where: str, hint: str = "") -> None:
    """Require `key` in a mapping such as ``adata.obsm``; the message lists what is there."""
    if key not in slot:
        found = ", ".join(map(str, slot.keys())) or "nothing"
        msg = f"Expected {key!r} in `{where}` (found: {found}).{' ' + hint if hint else ''}"
        raise KeyError(msg)


def check_target(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> Path:
    """Require a path that can and may be written to; return it without links, so that they stay."""
    if path.suffix.lower() not in map(str.lower, suffixes):
        *others, last = (f"`{suffix}`" for suffix in suffixes)
        listed = f"{', '.join(others)} or {last}" if others else last
        msg = f"Expected a path that ends in {listed}, found {path}."
        raise ValueError(msg)
    target = path.resolve()
    if not target.parent.is_dir():
        msg = f"Expected the folder {target.parent} to exist. Make it first, or check the path."
        raise FileNotFoundError(msg)
    if target.exists() and not overwrite:
        msg = f"Expected no file at {path}, found one. Pass `overwrite=True` to replace it."
        raise FileExistsError(msg)
    return target


def check_rep(adata: Any, use_rep: str) -> NDArray[np.float32]:
    """Require a matrix of features in an AnnData; here it becomes dense, n_obs × n_features."""
    if adata.n_obs < 2:
        msg = f"Expected at least 2 observations, found {adata.n_obs}."
        raise ValueError(msg)
    if use_rep == "X":
        matrix: Any = adata.X
        if matrix is None:
            msg = "Expected an expression matrix in `adata.X`, found none."
            raise ValueError(msg)
        matrix = matrix.to_memory() if hasattr(matrix, "to_memory") else matrix  # of a file
    else:
        check_key(
            use_rep,
            adata.obsm,
            where="adata.obsm",
            hint="Run `m2st.pp.prepare(adata)` first, or name ready features with `use_rep=`.",
        )
        matrix = adata.obsm[use_rep]
    dense = matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
    features = np.asarray(dense, dtype=np.float32)
    if features.ndim != 2:
        msg = f"Expected `{use_rep}` of shape (n_obs, n_features), found {features.shape}."
        raise ValueError(msg)
    return features


def check_graph(adata: Any) -> sparse.csr_matrix:
    """Require the spatial graph in an AnnData."""
    hint = "Run `m2st.pp.spatial_graph(adata)` first."
    check_key(CONNECTIVITIES, adata.obsp, where="adata.obsp", hint=hint)
    adjacency = adata.obsp[CONNECTIVITIES]
    check_adjacency(adjacency, n_obs=adata.n_obs, name=f'adata.obsp["{CONNECTIVITIES}"]')
    return sparse.csr_matrix(adjacency)


def check_features(features: NDArray[Any], *, name: str = "features") -> None:
    """Require a matrix of finite numbers with at least one row and one column."""
    if features.ndim != 2 or 0 in features.shape:
        msg = f"Expected `{name}` of shape (n_obs, n_features), found {features.shape}."
        raise ValueError(msg)
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        msg = (
            f"Expected `{name}` to be finite, found NaN or infinity in {bad} of {len(features)} "
            "observations. Remove these observations or repair their values."
        )
        raise ValueError(msg)


def check_coordinates(coordinates: NDArray[Any], *, name: str = "coordinates") -> None:
    """Require finite coordinates in the plane or in space, not all of them in one place."""
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        msg = f"Expected `{name}` of shape (n_obs, 2) or (n_obs, 3), found {coordinates.shape}."
        raise ValueError(msg)
    bad = int((~np.isfinite(coordinates)).any(axis=1).sum())
    if bad:
        msg = (
            f"Expected finite `{name}`, found NaN or infinity in {bad} of {len(coordinates)} "
            "observations. Remove them first: `adata[np.isfinite(adata.obsm['spatial']).all(1)]`."
        )
        raise ValueError(msg)
    if len(coordinates) > 1 and np.ptp(coordinates, axis=0).max() == 0:
        msg = (
            f"Expected `{name}` that differ between observations, found all {len(coordinates)} at "
            f"{coordinates[0].tolist()}. Check that the coordinates were read into the right slot."
        )
        raise ValueError(msg)


def _stored(matrix: NDArray[Any] | sparse.spmatrix) -> NDArray[Any]:
    """Values of a matrix, without the zeros that a sparse one leaves out."""
    return np.asarray(matrix.data if sparse.issparse(matrix) else matrix)


def check_expression(matrix: NDArray[Any] | sparse.spmatrix, *, name: str) -> None:
    """Require finite, non-negative expression values."""
    values = _stored(matrix)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        msg = (
            f"Expected finite expression in `{name}`, found {bad} NaN or infinite values. "
            "Repair or remove the observations and genes concerned."
        )
        raise ValueError(msg)
    if values.size and values.min() < 0:
        msg = (
            f"Expected non-negative expression in `{name}`, found values down to {values.min():g}. "
            "Scaled or centred data cannot be prepared again: give the raw counts with `layer=`, "
            "or pass ready features with `use_rep=`."
        )
        raise ValueError(msg)


def check_counts(matrix: NDArray[Any] | sparse.spmatrix, *, name: str) -> None:
    """Require raw counts: finite, non-negative whole numbers."""
    check_expression(matrix, name=name)
    values = _stored(matrix)
    broken = values[values != np.floor(values)]
    if broken.size:
        msg = (
            f"Expected raw counts (whole numbers) in `{name}`, found values such as "
            f"{broken.flat[0]:.4g}. Name the layer that holds the counts with `layer=`, or pass "
            "`normalized=True` if the values are already normalised and on a log scale."
        )
        raise ValueError(msg)


def check_adjacency(adjacency: Any, *, n_obs: int, name: str = "adjacency") -> None:
    """Require a symmetric sparse graph over `n_obs` observations with finite weights."""
    if not sparse.issparse(adjacency):
        msg = f"Expected `{name}` to be a scipy sparse matrix, found {type(adjacency).__name__}."
        raise TypeError(msg)
    if adjacency.shape != (n_obs, n_obs):
        msg = (
            f"Expected `{name}` of shape ({n_obs}, {n_obs}), found {adjacency.shape}. The graph "
            "belongs to other observations: build it again with `m2st.pp.spatial_graph(adata)`."
        )
        raise ValueError(msg)
    pattern = adjacency.tocsr().astype(bool)
    one_way = int((pattern != pattern.T).nnz)
    if one_way:
        msg = (
            f"Expected `{name}` to be symmetric, found {one_way} edges in one direction only. "
            "Symmetrise it with `graph.maximum(graph.T)`, or build it with "
            "`m2st.pp.spatial_graph(adata)`."
        )
        raise ValueError(msg)


def check_unique_names(names: Collection[str], *, name: str, fix: str) -> None:
    """Require names that are unique."""
    doubled = len(names) - len(set(names))
    if doubled:
        msg = f"Expected unique `{name}`, found {doubled} repeated. Call `{fix}` first."
        raise ValueError(msg)


def check_n_domains(n_domains: int, *, n_obs: int) -> None:
    """Require at least one domain and no more domains than observations."""
    check_int("n_domains", n_domains, minimum=1)
    if n_domains > n_obs:
        msg = f"Expected no more `n_domains` than observations, {n_obs}, found {n_domains}."
        raise ValueError(msg)


def warn(message: str) -> None:
    """Warn the user at the line that called the package, however deep in it the reason is."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
