"""Reading the record of a run in ``uns``: what fits, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st._keys import DEFAULT

# A weight above this one is shown as 1.00.
_ALL = 0.995
# Domains of less than this share of what equal ones would have are tiny.
_TINY = 0.05


def are_tiny(sizes: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Which domains have observations, but less than a twentieth of an equal share of them."""
    tiny: NDArray[np.bool_] = (sizes > 0) & (sizes < _TINY * sizes.sum() / max(len(sizes), 1))
    return tiny


def _numbers(value: object) -> NDArray[np.float64] | None:
    """Finite numbers or NaN, at least one; None for anything else."""
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return None if found.size == 0 or np.isinf(found).any() or np.isnan(found).all() else found


def _is_numbers(value: object) -> bool:
    return _numbers(value) is not None


def _is_complete(value: object) -> bool:
    found = _numbers(value)
    return found is not None and not np.isnan(found).any()


def _is_number(value: object) -> bool:
    return _is_complete(value) and np.size(np.asarray(value)) == 1


def _is_count(value: object) -> bool:
    return _is_number(value) and float(np.asarray(value).item()) >= 1


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple | np.ndarray) and all(isinstance(v, str) for v in value)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_missing_or(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    """Allow None, too, which some formats keep as NaN."""

    def check(value: Any) -> bool:
        return value is None or (pd.api.types.is_scalar(value) and pd.isna(value)) or fits(value)

    return check


_FITTING: dict[str, Callable[[object], bool]] = {
    "n_members": _is_count,
    "prepare": _is_mapping,
    "prepare.layer": _is_missing_or(_is_text),
    "graph": _is_mapping,
    "graph.sample_key": _is_missing_or(_is_text),
    "graph.n_isolated": _is_number,
    "embed": _is_mapping,
    "embed.cell_types": _is_texts,
    "embed.loss": _is_numbers,
    "embed.stopped": _is_text,
    "embed.versions": _is_mapping,
    "embed.params": _is_mapping,
    "embed.params.loss_exponent": _is_missing_or(_is_number),
    "embed.params.n_epochs": _is_number,
    "embed.params.scale_dims": _is_complete,
    "apply": _is_mapping,
    "apply.n_unassigned": _is_number,
    "cluster": _is_mapping,
    "cluster.method": _is_text,
    "cluster.n_domains": _is_number,
    "cluster.converged": _is_flag,
    "cluster.scale_weights": _is_complete,
    "cluster.stability": _is_numbers,
    "cluster.agreement": _is_numbers,
    "cluster.solutions": _is_mapping,
    "cluster.solutions.camps": _is_complete,
    "cluster.solutions.between": _is_number,
    "cluster.sections": _is_mapping,
    "cluster.sections.names": _is_texts,
    "cluster.sections.keeps_own": _is_complete,
    "cluster.sections.information": _is_numbers,
    "cluster.sections.shares": _is_complete,
    "n_domains": _is_mapping,
    "n_domains.candidates": _is_complete,
    "n_domains.stability": _is_numbers,
    "n_domains.gain": _is_numbers,
    "n_domains.score": _is_numbers,
    "n_domains.chosen": _is_number,
    "n_domains.p_value": _is_number,
    "register": _is_mapping,
    "register.label_key": _is_text,
    "register.n_genes": _is_count,
    "register.domains": _is_texts,
    "register.labels": _is_texts,
    "register.suggested": _is_texts,
    "register.correlation": _is_numbers,
    "tree": _is_mapping,
    "tree.merges": _is_complete,
}
"""What is read of the record, and what it has to be."""


def readable(uns: Mapping[str, Any], name: str = DEFAULT) -> tuple[dict[str, Any], list[str]]:
    """Copy of the record of a result with what fits, and the names of what does not.

    A record may be missing, have lost entries on its way through another format, or be something
    else altogether that stands under our key.
    """
    record = uns.get(name)
    if record is None:
        return {}, []
    if not isinstance(record, Mapping):
        return {}, ["all of it"]
    kept = {str(key): value for key, value in record.items()}
    unfit: list[str] = []
    for path, fits in _FITTING.items():
        holder, *names = path.split(".")
        within, last = kept, holder
        for name in names:
            within, last = within.get(last, {}), name
        if last not in within:
            continue
        if not fits(within[last]):
            unfit.append(path)
            del within[last]
        elif isinstance(within[last], Mapping):
            within[last] = {str(key): value for key, value in within[last].items()}
    _drop_what_does_not_match(kept, unfit)
    return kept, unfit


def only_common(scale_weights: NDArray[np.float64]) -> bool:
    """Whether what all scales share has all the weight, in each member; shape (n_members, ·)."""
    return bool((np.atleast_2d(scale_weights)[:, -1] > _ALL).all())


def solutions_in_words(entry: Mapping[str, Any]) -> str:
    """Say that members of the ensemble fall into camps.

    Parameters
    ----------
    entry
        ``uns["m2st"]["cluster"]["solutions"]``, as `m2st.tl.cluster` describes it.
    """
    camps = np.ravel(entry["camps"])
    first, second = (int((camps == camp).sum()) for camp in (1, 2))
    between = round(float(np.ravel(entry["between"])[0]), 2) + 0.0  # no "-0.00"
    shares = " : ".join(f"{100 * number / len(camps):.0f}" for number in (first, second))
    return (
        f"Two solutions, {shares}. Of {len(camps)} members of the ensemble, {first} agree on "
        f"about these domains and {second} on others (adjusted Rand index "
        f"{between:.2f})."
    )


def _drop_what_does_not_match(record: dict[str, Any], unfit: list[str]) -> None:
    """Drop entries whose lengths contradict those of others."""
    n_members = int(np.asarray(record.get("n_members", 1)).item())
    for step, entry in (("embed", "loss"), ("cluster", "scale_weights")):
        if np.size(record.get(step, {}).get(entry, [])) % n_members:
            unfit.append(f"{step}.{entry}")
            del record[step][entry]
    choice = record.get("n_domains")
    if choice is not None:
        lengths = {np.size(choice.get(e, [])) for e in ("candidates", "stability", "score")}
        lengths |= {np.size(choice["gain"])} if "gain" in choice else set()
        if lengths == {0} or len(lengths) > 1 or not {"chosen", "p_value"} <= choice.keys():
            unfit.append("n_domains")
            del record["n_domains"]
    solutions = record.get("cluster", {}).get("solutions")
    if solutions is not None and not {"camps", "between"} <= solutions.keys():
        unfit.append("cluster.solutions")
        del record["cluster"]["solutions"]
    sections = record.get("cluster", {}).get("sections")
    if sections is not None:
        n_sections = len(sections.get("names", []))
        sizes = [np.size(sections.get(e, [])) for e in ("keeps_own", "information", "shares")]
        n_domains = int(np.asarray(record["cluster"].get("n_domains", 0)).item())
        if sizes != [n_sections, 2 * n_sections, n_domains * n_sections]:
            unfit.append("cluster.sections")
            del record["cluster"]["sections"]
    table = record.get("register")
    if table is not None:
        needed = {"label_key", "n_genes", "domains", "labels", "suggested", "correlation"}
        shape = [len(table.get(entry, [])) for entry in ("domains", "labels")]
        if (
            not needed <= table.keys()
            or len(table["suggested"]) != shape[0]
            or list(np.shape(table["correlation"])) != shape
        ):
            unfit.append("register")
            del record["register"]
