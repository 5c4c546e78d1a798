"""Sections that lie on top of each other untold apart, and what joined sections have in common.

Neighbours of different sections would be linked, and domains would mix them. What is found here is
put into words by `overlay_in_words`, or by whoever calls from another language. `joined_in_words`
says how sections fared that were told apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from m2st._checks import check_numbers
from m2st._graph import detect_lattice

# Columns that tell sections or fields of view apart, by their names in small letters without signs.
_FIELD = re.compile(r"(field|fieldofview|fov)(id|name|no|number)?")
_COLUMN = re.compile(
    r"(animal|array|batch|capturearea|core|dataset|donor|image|individual|library|mouse|origident"
    r"|patient|puck|region|replicate|roi|runtissue|sample|section|slice|slide|specimen|subject"
    rf"|tissuesection)(id|key|name|no|number)?|{_FIELD.pattern}"
)
_PLACES = re.compile(r"spatial|global|coord|fov", re.IGNORECASE)
# Barcodes of Visium and Slide-seq, bins of Visium HD: each occurs once in a section.
_BARCODE = re.compile(r"[ACGT]{12,}|s_\d+um_\d+_\d+")
# Neighbours of other sections, in shares of what chance would give. Sections that lie in one place
# have about 1. Fields side by side have up to 0.4, regions that somebody drew up to 0.45.
_MIXED = 0.5
_N_ASKED = 2000
# Share of a section's observations below which a domain is absent from it.
_ABSENT = 0.01
# Sections share little if joint domains tell less than this share of what own ones tell, in half.
_LITTLE = 0.8
_N_NEAR = 6


class Overlay(NamedTuple):
    """Sections on top of each other.

    Parameters
    ----------
    kind
        What tells them apart: a ``"column"`` of ``obs``; nothing but the ``"names"`` of the
        observations; or not even these, but there are several ``"arrays"`` of spots. ``"fields"``:
        fields of view are told apart as sections, but other coordinates show them as one tissue.
    column
        The column of ``obs``; empty if there is none.
    codes
        Section of each observation, -1 where unknown; empty if unknown for all.
    apart_in
        Key of other coordinates in which they do not lie on each other; empty if there are none.
    """

    kind: Literal["column", "names", "arrays", "fields"]
    column: str
    codes: NDArray[np.intp]
    apart_in: str


def find_overlay(
    obs: pd.DataFrame,
    obsm: Mapping[str, Any],
    *,
    spatial_key: str,
    sample_key: str | None,
    valid: NDArray[np.bool_],
    region_key: str | None = None,
) -> Overlay | None:
    """Look for sections that lie on top of each other and are not told apart.

    Parameters
    ----------
    obs
        A row for each observation, under its name. Columns are looked at that have the name of a
        section, such as ``sample_id``, ``slide`` or ``fov``.
    obsm
        Coordinates, and others that the observations may have.
    spatial_key
        Key of the coordinates in `obsm`, (n_obs, 2) or (n_obs, 3).
    sample_key
        Column of `obs` that tells sections apart already.
    valid
        (n_obs,): observations that take part, with finite coordinates.
    region_key
        A further column to look at, whatever its name.

    Returns
    -------
    What was found, or None. Of several columns the one with the most sections.

    Notes
    -----
    Sections lie on each other if the nearest neighbours of 2,000 observations are of other sections
    at least half as often as by chance. Positions that fill the space of three axes are not
    looked at: neighbours of other sections are meant there.
    """
    points = _points(obsm[spatial_key])
    if points is None or valid.sum() < 2 * _N_NEAR or _is_solid(points[valid]):
        return None
    others = {
        key: values
        for key in obsm
        if key != spatial_key and _PLACES.search(str(key))
        if (values := _points(obsm[key])) is not None and np.isfinite(values[valid]).all()
    }

    def apart_in(codes: NDArray[np.intp]) -> str:
        found = (key for key, values in others.items() if mixing(values, codes, valid) < _MIXED)
        return next(found, "")

    sections = None
    if sample_key is not None:
        sections = pd.factorize(obs[sample_key])[0]
        if _FIELD.fullmatch(_plain(sample_key)) and mixing(points, sections, valid) >= _MIXED:
            key = apart_in(sections)
            if key:
                return Overlay("fields", sample_key, sections, key)
    columns = {name: codes for name, codes in _columns(obs, region_key) if name != sample_key}
    mixed = {
        name: codes
        for name, codes in columns.items()
        if mixing(points, codes, valid, sections) >= _MIXED
    }
    if mixed:
        column = max(mixed, key=lambda name: mixed[name].max())
        return Overlay("column", column, mixed[column], apart_in(mixed[column]))
    if sample_key is not None:
        return None
    groups = _barcode_groups(obs.index)
    if groups is not None and mixing(points, groups, valid) >= _MIXED:
        return Overlay("names", "", groups, apart_in(groups))
    if _several_arrays(points[valid]):
        return Overlay("arrays", "", np.empty(0, dtype=np.intp), "")
    return None


def overlay_in_words(found: Overlay, obs: pd.DataFrame, spatial_key: str) -> str:
    """Say what was found, and which argument helps."""
    where = f"`adata.obsm[{spatial_key!r}]`"
    n_levels = int(found.codes.max(initial=-1)) + 1
    if found.kind == "fields":
        return (
            f"`sample_key={found.column!r}` takes each of {n_levels} fields of view for a section "
            f"of its own. Their places on the slide are in `adata.obsm[{found.apart_in!r}]`: pass "
            f"`spatial_key={found.apart_in!r}` and another `sample_key`, or none."
        )
    if found.kind == "arrays":
        return (
            f"Several arrays of spots seem to lie on top of each other in {where}: neighbours of "
            "different sections are linked. Tell the sections apart with `sample_key=`."
        )
    if found.kind == "names":
        text = (
            f"Observations with barcodes in common lie on top of each other in {where}: "
            f"{n_levels} sections, whose neighbours are linked. "
        )
        if found.apart_in:
            return f"{text}Pass `spatial_key={found.apart_in!r}`, in which they lie apart."
        return f"{text}Tell them apart with `sample_key=`."
    text = (
        f"The {n_levels} sections or fields of view of `adata.obs[{found.column!r}]` lie on top of "
        f"each other in {where}: neighbours of different ones are linked. "
    )
    if not found.apart_in:
        globals_ = [str(name) for name in obs.columns if re.search("global", str(name), re.I)]
        if _FIELD.fullmatch(_plain(found.column)) and len(globals_) == 2:
            return (
                f"{text}Their places on the slide are in `adata.obs[{globals_}]`: put them "
                "into `adata.obsm['spatial_global']` and pass `spatial_key='spatial_global'`."
            )
        return f"{text}Pass `sample_key={found.column!r}`."
    if _FIELD.fullmatch(_plain(found.column)):
        return (
            f"{text}In `adata.obsm[{found.apart_in!r}]` they do not: pass "
            f"`spatial_key={found.apart_in!r}`."
        )
    return (
        f"{text}Pass `sample_key={found.column!r}`, or `spatial_key={found.apart_in!r}`, in which "
        "they lie apart."
    )


class Finding(NamedTuple):
    """A sentence or two on sections, and whether results read otherwise for it."""

    text: str
    grave: bool


def joined_in_words(entry: Mapping[str, Any], domains: Sequence[str]) -> list[Finding]:
    """Say how sections fared among the others.

    Parameters
    ----------
    entry
        ``uns["m2st"]["cluster"]["sections"]``, as `m2st.tl.cluster` describes it.
    domains
        Names of the domains.
    """
    names = [str(name) for name in entry["names"]]
    found = []
    kept = [name for name, own in zip(names, entry["keeps_own"], strict=True) if own]
    if kept:
        one = len(kept) == 1
        found.append(
            Finding(
                f"Section{'' if one else 's'} {_listed(kept)} keep{'s' if one else ''} domains of "
                f"{'its' if one else 'their'} own: joined with the others, domains told less of "
                f"{'it' if one else 'them'}. Names are those of the joint domains that fit best.",
                grave=True,
            )
        )
    information = np.reshape(entry["information"], (len(names), 2))
    poor = information[:, 0] < _LITTLE * information[:, 1]
    compared = int(np.isfinite(information).all(axis=1).sum())
    if compared and 2 * poor.sum() >= compared:
        found.append(
            Finding(
                f"The sections share little: in {poor.sum()} of {compared}, joint domains tell "
                f"less than {_LITTLE:.0%} of what own domains tell. One name need not mean one "
                "tissue in all of them. Run together what belongs together, or each by itself.",
                grave=True,
            )
        )
    present = np.reshape(entry["shares"], (len(names), -1)) >= _ABSENT
    for name, has in zip(names, present, strict=True):
        lacking = [domain for domain, one in zip(domains, has, strict=True) if not one]
        if lacking:
            text = f"Section {name} has (almost) nothing of {_domains(lacking)}."
            found.append(Finding(text, grave=False))
        only = has & (present.sum(axis=0) == 1)
        if only.any() and len(names) > 2:
            own = [domain for domain, one in zip(domains, only, strict=True) if one]
            found.append(
                Finding(
                    f"Section {name} has {len(own)} domain{'' if len(own) == 1 else 's'} that no "
                    f"other has: {_listed(own)}.",
                    grave=len(own) > 1,
                )
            )
    return found


def _domains(names: list[str]) -> str:
    return f"domain{'' if len(names) == 1 else 's'} {_listed(names)}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def mixing(
    points: NDArray[np.float64],
    codes: NDArray[np.intp],
    valid: NDArray[np.bool_],
    sections: NDArray[np.intp] | None = None,
) -> float:
    """How often nearest neighbours differ in their code, in shares of what chance would give.

    Parameters
    ----------
    points
        Shape (n_obs, n_axes), finite where `valid`.
    codes
        Shape (n_obs,), whole numbers; those below 0 are left out.
    valid
        Shape (n_obs,).
    sections
        Shape (n_obs,), whole numbers: neighbours are looked for within sections only.

    Returns
    -------
    0 where codes lie apart, about 1 where they lie in the same place.
    """
    kept = np.flatnonzero(valid & (codes >= 0))
    points, codes = points[kept], codes[kept]
    sections = np.zeros(len(kept), dtype=np.intp) if sections is None else sections[kept]
    if len(kept) <= _N_NEAR:
        return 0.0
    away = 4 * np.linalg.norm(np.ptp(points, axis=0)) + 1
    frame = np.column_stack([points, away * sections])
    asked = np.unique(np.linspace(0, len(kept) - 1, _N_ASKED).astype(np.intp))
    near = cKDTree(frame).query(frame[asked], k=_N_NEAR + 1)[1]
    counted = (near != asked[:, None]) & (sections[near] == sections[asked][:, None])
    differ = codes[near] != codes[asked][:, None]
    group = sections * (codes.max() + 1) + codes
    sizes = np.bincount(group)[group]
    totals = np.bincount(sections)[sections]
    by_chance = ((totals - sizes) / np.maximum(totals - 1, 1))[asked][:, None]
    expected = (by_chance * counted).sum()
    return float((differ & counted).sum() / expected) if expected > 0 else 0.0


def _plain(name: str) -> str:
    """Letters and digits of a name, in small letters."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _points(values: Any) -> NDArray[np.float64] | None:
    """Coordinates in two or three columns, the largest about 1; None for anything else."""
    try:
        array = check_numbers(values, name="coordinates")
    except (TypeError, ValueError):
        return None
    if array.ndim != 2 or array.shape[1] not in (2, 3):
        return None
    points = array.astype(np.float64)
    # Squares of very large ones overflow. A power of two leaves every digit as it is.
    largest = np.max(np.abs(points), initial=0, where=np.isfinite(points))
    scaled: NDArray[np.float64] = np.ldexp(points, -np.frexp(largest)[1])
    return scaled


def _is_solid(points: NDArray[np.float64]) -> bool:
    """Whether points of three axes fill space, rather than lying in a plane."""
    return points.shape[1] == 3 and bool(np.ptp(points, axis=0).all())


def _columns(obs: pd.DataFrame, region_key: str | None) -> list[tuple[str, NDArray[np.intp]]]:
    """Columns that may name sections, with the section of each observation."""
    found = []
    for name in obs.columns:
        if name == region_key or _COLUMN.fullmatch(_plain(name)):
            codes = pd.factorize(obs[name])[0]
            if 2 <= codes.max(initial=-1) + 1 <= len(obs) / 10:
                found.append((name, codes))
    return sorted(found, key=lambda item: item[0] != region_key)


def _barcode_groups(names: pd.Index) -> NDArray[np.intp] | None:
    """Groups of observations within which a barcode occurs once, -1 for those that do anyway."""
    found = [_BARCODE.search(str(name)) for name in names]
    if sum(match is not None for match in found) < 0.9 * len(names):
        return None
    barcodes = pd.Series([match[0] if match else str(at) for at, match in enumerate(found)])
    shared = barcodes.duplicated(keep=False).to_numpy()
    if shared.mean() < 0.1:
        return None
    rest = [str(name).replace(code, "") for name, code in zip(names, barcodes, strict=True)]
    codes = pd.factorize(pd.Series(rest))[0]
    if not 2 <= codes.max() + 1 <= len(names) / 10:  # names do not tell: in order of appearance
        codes = barcodes.groupby(barcodes).cumcount().to_numpy()
    # A barcode of one section alone may have the name that others have in another section.
    return np.where(shared, codes, -1)


def _several_arrays(points: NDArray[np.float64]) -> bool:
    """Whether points are several regular arrays on top of each other.

    Each point then has the four or six neighbours of its own array at one exact distance, and
    others nearer. Points anywhere have so many at a distance, to three percent, one time in twenty.
    """
    asked = np.unique(np.linspace(0, len(points) - 1, _N_ASKED).astype(np.intp))
    n_near = min(25, len(points))
    lengths = cKDTree(points).query(points[asked], k=n_near)[0][:, 1:]
    pitch = 0.95 * np.median(lengths[:, 0])
    while 0 < pitch < np.median(lengths[:, -1]) / 1.2:
        if ((np.abs(lengths / pitch - 1) < 0.015).sum(axis=1) >= 4).mean() > 0.6:
            nearer = np.median((lengths < 1.2 * pitch).sum(axis=1))
            return bool(nearer >= 8) and detect_lattice(points) is None
        pitch *= 1.005
    return False
