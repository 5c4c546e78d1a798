"""A result as one page: a single HTML file to look at, to print and to send, without a network."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from m2st import _keys
from m2st._checks import check_coordinates, check_int, check_key, check_numbers, check_target
from m2st._files import write_whole
from m2st._image import channels_last, to_rgb, white
from m2st._record import readable
from m2st.pl import (
    MISSING_COLOR,
    _categories,
    _kept_colors,
    _libraries,
    _library,
    _mapping,
    _positive,
    _samples,
    _Section,
    _section,
)

if TYPE_CHECKING:
    from markupsafe import Markup

_STEPS = 2**16 - 1
"""Places along the longer side of a section; also what a missing value is written as."""

_IMAGE_PIXELS = 2000 * 2000
"""Most pixels of all tissue images together."""

_ORDER = ("prepare", "graph", "embed", "n_domains", "cluster")
"""Entries of the record in the order in which they were made."""

_LOW_CONFIDENCE = 0.8
_LOW_STABILITY = 0.5
_ONE_SECTION = 0.95
_TINY = 0.05


def report(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    columns: Sequence[str] = (),
    sample_key: str | None = None,
    spatial_key: str = _keys.COORDINATES,
    n_markers: int = 5,
    title: str = "Spatial domains",
    overwrite: bool = False,
) -> None:
    """Write a result as one HTML page that needs nothing else, neither network nor Python.

    Domains and confidence in space, over the tissue image where ``uns["spatial"]`` has one, with a
    panel for each section; sizes, stability and markers of the domains; the evidence for their
    number; training and scale weights; the record of the run; and, in words, what in it deserves a
    second look. Nothing is written to `adata`, and no annotation is needed.

    Parameters
    ----------
    adata
        Annotated data with ``obs["m2st_domain"]`` and coordinates.
    path
        Where to, in a folder that exists; ends in ``.html``.
    columns
        Further columns of ``obs`` to switch to on the map, at most 1,000 categories each: other
        numbers of domains, an annotation. They are shown, and compared with nothing.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with, if any.
    spatial_key
        Key of ``obsm`` with the coordinates, of which the first two columns are drawn.
    n_markers
        Most genes to list for each domain; 0 for no markers.
    title
        Heading of the page.
    overwrite
        Whether a file that is there may be replaced.

    Raises
    ------
    KeyError
        If domains, coordinates or a column are missing.
    ValueError
        If `path` does not end in ``.html``, there is nothing to draw, or a column has more than
        1,000 categories.
    FileNotFoundError
        If the folder does not exist.
    FileExistsError
        If there is a file already, and `overwrite` is not set.
    OSError
        If the page cannot be written; what was there is unchanged.

    Notes
    -----
    The same result gives the same bytes. Places are rounded to 1/65535 of a section's longer side,
    confidences to three decimals, and tissue images are made smaller until all together have four
    million pixels. A strict content security policy in the page forbids every request and every
    script but its own.

    Markers are those genes that Welch's t-test of scanpy (``rank_genes_groups``) ranks highest, on
    log-normalised expression: of the layer that the run was prepared from, else of ``X``. Counts
    are normalised in a copy. p-values are not shown: the same expression found the domains, so they
    would be small in data without any (double dipping).

    Examples
    --------
    >>> m2st.report(adata, "report.html")  # doctest: +SKIP
    """
    target = check_target(Path(path), (".html",), overwrite=overwrite)
    check_int("n_markers", n_markers, minimum=0)
    domains = _domains(adata)
    record, unfit = readable(adata.uns)
    columns = [key for key in dict.fromkeys(columns) if key != _keys.DOMAIN]
    if sample_key is None:
        recorded = record.get("graph", {}).get("sample_key")
        sample_key = recorded if recorded in adata.obs else None
    shown, placed = _shown(adata, columns, sample_key, spatial_key)
    sections = [
        _section(shown, name, rows, shown.obsm[_keys.COORDINATES][rows])
        for name, rows in _samples(shown, sample_key)
    ]
    colors = _kept_colors(shown, _keys.DOMAIN, len(domains.categories))
    confidence = _confidence(adata)
    table = _domain_table(domains, confidence, colors, record)
    composition = _composition(adata, domains, sample_key)
    layers = _layers(shown, columns, confidence[placed])
    frames = [_frame(section, _library(shown, section.name), len(sections)) for section in sections]
    no_images = _warnings_of_images(shown, frames)
    markers, why_none = _markers(adata, domains, colors, record, n_markers)
    page = _render(
        title=title,
        n_obs=adata.n_obs,
        table=table,
        sections=sections,
        composition=composition,
        layers=layers,
        payload=_payload(shown, sections, frames, layers),
        warnings=[
            *_warnings(domains, record, table, composition, int((~placed).sum())),
            *no_images,
            *_warnings_of_the_record(unfit),
        ],
        confidence=_confidence_facts(confidence, table),
        markers=markers,
        why_no_markers=why_none,
        training=_training(record),
        weights=_weights(record),
        members=_members(record),
        choice=_choice(record),
        from_r="r" in record,
        steps=_steps(record),
        run=_run_in_words(record),
        missing_color=MISSING_COLOR,
    )
    write_whole(target, page.encode("utf-8", "replace"))


# what is shown ----------------------------------------------------------------------------------


def _domains(adata: AnnData) -> pd.Categorical:
    """Domain of every observation, as categories."""
    hint = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."
    return _categories(adata, _keys.DOMAIN, hint=hint)


def _confidence(adata: AnnData) -> NDArray[np.float64]:
    """Confidence of every observation; NaN where there is none."""
    if _keys.CONFIDENCE not in adata.obs:
        return np.full(adata.n_obs, np.nan)
    name = f"adata.obs[{_keys.CONFIDENCE!r}]"
    values = adata.obs[_keys.CONFIDENCE]
    if pd.api.types.is_numeric_dtype(values):
        found = np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    else:  # it says what it is
        found = check_numbers(np.asarray(values), name=name)
    outside = found[(found < 0) | (found > 1)]
    if outside.size:
        msg = (
            f"Expected `{name}` in [0, 1], found {outside[0]:g}. Rename the column if it is not "
            "m2ST's."
        )
        raise ValueError(msg)
    return found


def _shown(
    adata: AnnData, columns: list[str], sample_key: str | None, spatial_key: str
) -> tuple[AnnData, NDArray[np.bool_]]:
    """Copy of what the map shows of the observations that have a place, and which these are.

    Colours are written into this copy, not into the user's data.
    """
    hint = "Name the key of the coordinates with `spatial_key=`."
    check_key(spatial_key, adata.obsm, where="adata.obsm", hint=hint)
    name = f"adata.obsm[{spatial_key!r}]"
    coordinates = np.asarray(check_numbers(adata.obsm[spatial_key], name=name), dtype=np.float64)
    finite = np.isfinite(coordinates).reshape(adata.n_obs, -1)
    placed: NDArray[np.bool_] = np.asarray(finite[:, :2].all(axis=1))
    if not placed.any():
        msg = (
            f"Expected an observation with coordinates in `adata.obsm[{spatial_key!r}]`, found "
            "none. Check that they were read."
        )
        raise ValueError(msg)
    check_coordinates(coordinates[placed], name=name)
    coordinates = coordinates[:, :2]
    keys = [_keys.DOMAIN, *columns] + ([] if sample_key is None else [sample_key])
    for key in keys:
        check_key(key, adata.obs, where="adata.obs")
    shown = AnnData(
        obs=adata.obs.loc[placed, list(dict.fromkeys(keys))].copy(),
        obsm={_keys.COORDINATES: coordinates[placed]},
        uns=dict(adata.uns),
    )
    return shown, placed


@dataclass(frozen=True)
class _Domain:
    """One row of the table of domains; what is not known is None."""

    name: str
    color: str
    n_obs: int
    share: float
    quantiles: NDArray[np.float64] | None
    confident: float | None
    stability: float | None

    @property
    def median(self) -> float | None:
        """Median confidence."""
        return None if self.quantiles is None else float(self.quantiles[2])


def _domain_table(
    domains: pd.Categorical,
    confidence: NDArray[np.float64],
    colors: list[str],
    record: Mapping[str, Any],
) -> list[_Domain]:
    """Size, confidence (quantiles at 10, 25, 50, 75 and 90 %) and stability of each domain."""
    stability = np.ravel(record.get("cluster", {}).get("stability", []))
    table = []
    for code, name in enumerate(domains.categories):
        inside = domains.codes == code
        sure = confidence[inside]
        sure = sure[~np.isnan(sure)]
        table.append(
            _Domain(
                name=str(name),
                color=colors[code],
                n_obs=int(inside.sum()),
                share=float(inside.mean()),
                quantiles=np.quantile(sure, [0.1, 0.25, 0.5, 0.75, 0.9]) if len(sure) else None,
                confident=float((sure >= 0.9).mean()) if len(sure) else None,
                stability=(
                    float(stability[code]) if len(stability) == len(domains.categories) else None
                ),
            )
        )
    return table


def _confidence_facts(
    confidence: NDArray[np.float64], table: list[_Domain]
) -> dict[str, Any] | None:
    """Summary of the confidence of all observations, or None where there is none."""
    known = confidence[~np.isnan(confidence)]
    if not len(known):
        return None
    return {
        "median": float(np.median(known)),
        "confident": float((known >= 0.9).mean()),
        "domains": [row for row in table if row.quantiles is not None],
    }


def _composition(
    adata: AnnData, domains: pd.Categorical, sample_key: str | None
) -> pd.DataFrame | None:
    """Observations of each section (rows) in each domain (columns), if there are sections."""
    if sample_key is None:
        return None
    sections = pd.Categorical(adata.obs[sample_key]).remove_unused_categories()
    counts = np.zeros((len(sections.categories), len(domains.categories)), dtype=int)
    known = (domains.codes >= 0) & (sections.codes >= 0)
    np.add.at(counts, (sections.codes[known], domains.codes[known]), 1)
    return pd.DataFrame(counts, index=map(str, sections.categories), columns=domains.categories)


# the map ----------------------------------------------------------------------------------------


def _layers(
    shown: AnnData, columns: Sequence[str], confidence: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """What the map can be coloured by: entries of the legend, and a colour for each observation."""
    layers = [_labels(shown, key) for key in [_keys.DOMAIN, *columns]]
    if not np.isnan(confidence).all():
        thousandths = np.where(np.isnan(confidence), _STEPS, np.rint(1000 * confidence))
        layers.insert(
            1,
            {
                "label": "Confidence",
                "scale": _scale_colors(7),
                "colors": [*_scale_colors(50), MISSING_COLOR],
                "values": thousandths.astype("<u2"),
            },
        )
    return layers


def _labels(shown: AnnData, key: str) -> dict[str, Any]:
    """A column of labels as a layer of the map; the last name and colour are for missing ones."""
    values = _categories(shown, key)
    names = [*map(str, values.categories), "missing"]
    colors = [*_kept_colors(shown, key, len(names) - 1), MISSING_COLOR]
    kind = "u1" if len(names) <= 256 else "<u2"
    codes = np.where(values.codes < 0, len(names) - 1, values.codes).astype(kind)
    counts = np.bincount(codes, minlength=len(names)).tolist()
    entries = [
        {"code": code, "name": name, "color": color, "n_obs": n_obs}
        for code, (name, color, n_obs) in enumerate(zip(names, colors, counts, strict=True))
        if n_obs or code < len(names) - 1
    ]
    label = "Domain" if key == _keys.DOMAIN else key
    return {"label": label, "entries": entries, "names": names, "colors": colors, "codes": codes}


def _payload(
    shown: AnnData,
    sections: list[_Section],
    frames: list[dict[str, Any]],
    layers: list[dict[str, Any]],
) -> dict[str, Any]:
    """What the page's script draws; observations stand in the order of the sections."""
    rows = np.concatenate([section.rows for section in sections])
    places = np.concatenate([frame.pop("places") for frame in frames]).astype("<u2")
    packed = [
        {
            part: _packed(value[rows]) if isinstance(value, np.ndarray) else value
            for part, value in layer.items()
            if part in {"label", "names", "colors", "codes", "values"}
        }
        for layer in layers
    ]
    return {
        "sections": frames,
        "x": _packed(places[:, 0]),
        "y": _packed(places[:, 1]),
        "names": shown.obs_names[rows].astype(str).tolist(),
        "layers": packed,
    }


def _packed(values: NDArray[Any]) -> str:
    """Numbers as text: base64 of their bytes."""
    return b64encode(values.tobytes()).decode("ascii")


def _scale_colors(n_colors: int) -> list[str]:
    """Colours from low to high that colour-blind readers see in the same order (cividis)."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["cividis"](np.linspace(0, 1, n_colors))]


def _frame(section: _Section, library: Mapping[str, Any], n_sections: int) -> dict[str, Any]:
    """Places of a section in units of its longer side, what they show, and the image below."""
    low, high = section.points.min(axis=0), section.points.max(axis=0)
    margin = 0.75 * section.size
    origin, extent = low - margin, high - low + 2 * margin
    span = float(extent.max())
    frame = {
        "name": section.name,
        "n": len(section.rows),
        "places": np.rint((section.points - origin) / span * _STEPS),
        "width": extent[0] / span,
        "height": extent[1] / span,
        "size": section.size / span,
        "square": section.square,
        "angle": section.angle,
        "micrometres": None if section.micrometres is None else section.micrometres * span,
    }
    try:
        image = _image(library, origin, extent, _IMAGE_PIXELS / n_sections)
    except ValueError as error:
        image, frame["no_image"] = None, str(error)
    if image is not None:
        pixels, corner, size = image
        frame["image"] = _jpeg(pixels)
        frame["image_at"] = [*((corner - origin) / span).tolist(), *(size / span).tolist()]
    return frame


def _image(
    library: Mapping[str, Any],
    origin: NDArray[np.float64],
    extent: NDArray[np.float64],
    most_pixels: float,
) -> tuple[Any, NDArray[np.float64], NDArray[np.float64]] | None:
    """Tissue image around a section, its corner and its size in the unit of the coordinates.

    None if there is none; ValueError says why one that is there cannot be shown.
    """
    from PIL import Image

    factors, images = _mapping(library, "scalefactors"), _mapping(library, "images")
    held = [name for name in ("hires", "lowres") if images.get(name) is not None]
    for name in held:
        picture, scale = images[name], _positive(factors.get(f"tissue_{name}_scalef"))
        if scale is not None:
            break
    else:
        if held:
            msg = f"Expected a number above 0 as `tissue_{held[0]}_scalef`, found none."
            raise ValueError(msg)
        return None
    picture = channels_last(picture)
    shape = np.array([picture.shape[1], picture.shape[0]])
    around = 0.03 * extent.max()
    with np.errstate(over="ignore"):  # a factor beyond all bounds leads out of the picture
        start = np.clip(np.floor((origin - around) * scale), 0, shape).astype(int)
        end = np.clip(np.ceil((origin + extent + around) * scale), 0, shape).astype(int)
    if (end - start < 1).any():
        msg = "No observation lies on it: coordinates or scale factor belong to another image."
        raise ValueError(msg)
    # Of far more pixels than are shown only every few are worked on.
    step = max(1, int(np.sqrt(np.prod(end - start) / most_pixels) / 2))
    part = picture[start[1] : end[1] : step, start[0] : end[0] : step]
    pixels = Image.fromarray(to_rgb(part, white(picture)))
    shrink = np.sqrt(most_pixels / (pixels.width * pixels.height))
    if shrink < 1:
        pixels = pixels.resize(
            (max(1, int(pixels.width * shrink)), max(1, int(pixels.height * shrink)))
        )
    return pixels, start / scale, (end - start) / scale


def _jpeg(pixels: Any) -> str:
    """Picture as the address of itself."""
    from io import BytesIO

    stream = BytesIO()
    pixels.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{b64encode(stream.getvalue()).decode('ascii')}"


# markers ----------------------------------------------------------------------------------------


def _markers(
    adata: AnnData,
    domains: pd.Categorical,
    colors: list[str],
    record: Mapping[str, Any],
    n_markers: int,
) -> tuple[list[dict[str, Any]], str]:
    """Highest ranked genes of each domain, or why there are none."""
    import scanpy as sc
    from anndata.utils import make_index_unique

    if n_markers == 0:
        return [], "They were left out."
    layer = record.get("prepare", {}).get("layer")
    matrix: Any = adata.layers.get(layer, adata.X)
    if matrix is None or adata.n_vars == 0:
        return [], "The data hold no expression."
    if not (sparse.issparse(matrix) or isinstance(matrix, np.ndarray)):
        return [], "The expression was not in memory."
    sizes = np.bincount(domains.codes[domains.codes >= 0])
    large = [code for code, size in enumerate(sizes) if size >= 2]
    if len(large) < 2:
        return [], "There are not two domains of at least two observations to compare."
    if matrix.dtype.kind not in "buif":
        return [], "The expression is not made of numbers."
    expression = sparse.csr_matrix(matrix, dtype=np.float32)
    if not np.isfinite(expression.data).all() or expression.data.min(initial=0) < 0:
        return [], "The expression has missing or negative values: it is scaled, or damaged."
    rows = np.flatnonzero(np.isin(domains.codes, large))
    names = [str(domains.categories[code]) for code in large]
    work = AnnData(
        expression[rows],
        obs=pd.DataFrame(
            {"domain": pd.Categorical(domains[rows].astype(str), categories=names)},
            index=[str(row) for row in rows],
        ),
        var=pd.DataFrame(index=make_index_unique(adata.var_names.astype(str))),
    )
    if (expression.data == np.floor(expression.data)).all():
        sc.pp.normalize_total(work)
        sc.pp.log1p(work)
    sc.tl.rank_genes_groups(work, "domain", method="t-test", pts=True, use_raw=False)
    markers = []
    for code, name in zip(large, names, strict=True):
        found = sc.get.rank_genes_groups_df(work, group=name)
        found = found[(found["scores"] > 0) & found["logfoldchanges"].gt(0)].head(n_markers)
        markers.append({"name": name, "color": colors[code], "genes": found.to_dict("records")})
    return markers, ""


# the record -------------------------------------------------------------------------------------


def _matrix(record: Mapping[str, Any], values: Any) -> NDArray[np.float64]:
    """A row for each member; R keeps a column of numbers as a row."""
    rows = np.asarray(values, dtype=np.float64)
    return rows.reshape(int(record.get("n_members", 1)), -1)


def _losses(record: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """Loss of each member and epoch."""
    loss = record.get("embed", {}).get("loss")
    return [] if loss is None else [row[~np.isnan(row)] for row in _matrix(record, loss)]


def _scale_names(record: Mapping[str, Any], n_weights: int) -> list[str]:
    """Names of the scales, with their widths, and of what they share."""
    widths = np.ravel(record.get("embed", {}).get("params", {}).get("scale_dims", [])).tolist()
    names = [f"scale {number}" for number in range(1, n_weights)]
    if len(widths) == len(names):
        names = [f"{name} ({int(width)})" for name, width in zip(names, widths, strict=True)]
    return [*names, "common"]


def _training(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Chart of the loss, and how the training ended."""
    losses = [loss for loss in _losses(record) if len(loss)]
    if not losses:
        return None
    embed = record["embed"]
    cosine = not pd.isna(embed.get("params", {}).get("gamma"))
    chart = _chart([(np.arange(1, len(loss) + 1), loss) for loss in losses], from_zero=False)
    return {
        "chart": chart,
        "error": "scaled cosine error" if cosine else "mean squared error",
        "n_members": len(losses),
        "n_epochs": [len(loss) for loss in losses],
        "first": float(np.mean([loss[0] for loss in losses])),
        "last": float(np.mean([loss[-1] for loss in losses])),
        "stopped": str(embed.get("stopped", "")),
        "most": embed.get("params", {}).get("n_epochs"),
    }


def _weights(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Weight of each scale: mean, and each member's."""
    weights = record.get("cluster", {}).get("scale_weights")
    if weights is None:
        return []
    members = _matrix(record, weights)
    return [
        {"name": name, "mean": float(column.mean()), "members": column.tolist()}
        for name, column in zip(_scale_names(record, members.shape[1]), members.T, strict=True)
    ]


def _members(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each member: what the charts of loss and weights show, as numbers."""
    cluster = record.get("cluster", {})
    losses = _losses(record)
    agreement = np.ravel(cluster.get("agreement", [])).tolist()
    weights = _matrix(record, cluster.get("scale_weights", []))
    n_members = max(len(losses), len(agreement))
    return [
        {
            "n_epochs": len(losses[row]) if row < len(losses) else None,
            "loss": losses[row][-1] if row < len(losses) and len(losses[row]) else None,
            "agreement": agreement[row] if row < len(agreement) else None,
            "weights": weights[row].tolist() if row < len(weights) else [],
        }
        for row in range(n_members)
    ]


def _choice(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Evidence for each number of domains, if it was looked for."""
    entry = record.get("n_domains")
    if entry is None:
        return None
    candidates = np.ravel(entry["candidates"]).astype(int)
    stability, gain, score = (
        np.ravel(entry.get(name, np.full(len(candidates), np.nan))).astype(float)
        for name in ("stability", "gain", "score")
    )
    chosen = int(entry["chosen"])
    chart = _chart([(candidates, stability), (candidates, score)], from_zero=True)
    return {
        "chart": chart,
        "mark": dict(
            zip(candidates.tolist(), (at for at, _ in chart["lines"][0]), strict=True)
        ).get(chosen),
        "rows": [
            (number, *(None if np.isnan(value) else value for value in values))
            for number, *values in zip(candidates.tolist(), stability, gain, score, strict=True)
        ],
        "chosen": chosen,
        "p_value": float(entry["p_value"]),
    }


def _chart(lines: list[tuple[NDArray[Any], NDArray[Any]]], *, from_zero: bool) -> dict[str, Any]:
    """Lines in a box of 1 × 1 from its upper left corner, and the ticks of both axes."""
    from matplotlib.ticker import MaxNLocator

    x, y = (np.concatenate([line[axis] for line in lines]).astype(float) for axis in (0, 1))
    low, high = (0.0, 1.0) if from_zero else (y.min(), y.max())
    pad = 0.06 * (high - low) or 0.05 * max(abs(high), 1e-9)
    low, high = (low, high + pad) if from_zero else (low - pad, high + pad)
    width = max(x.max() - x.min(), 1e-9)

    def across(value: Any) -> Any:
        return (value - x.min()) / width if x.max() > x.min() else value * 0 + 0.5

    def down(value: Any) -> Any:
        return 1 - (value - low) / (high - low)

    x_ticks = MaxNLocator(nbins=8, integer=True).tick_values(x.min(), x.max())
    y_ticks = MaxNLocator(nbins=5).tick_values(low, high)
    return {
        "lines": [
            [
                (float(across(u)), float(down(v)))
                for u, v in zip(line_x.astype(float), line_y.astype(float), strict=True)
            ]
            for line_x, line_y in lines
        ],
        "x_ticks": [(float(across(t)), f"{t:g}") for t in x_ticks if x.min() <= t <= x.max()],
        "y_ticks": [(float(down(t)), f"{t:.3g}") for t in y_ticks if low <= t <= high],
    }


def _steps(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The record as rows of name and value, grouped by the step of the run."""
    steps: list[tuple[str, list[tuple[str, str]]]] = []
    loose = {key: value for key, value in record.items() if not isinstance(value, Mapping)}
    names = [*(name for name in _ORDER if name in record), *(n for n in record if n not in _ORDER)]
    for name, entry in [("run", loose), *((name, record[name]) for name in names)]:
        if isinstance(entry, Mapping) and entry:
            steps.append((str(name), _flat(entry)))
    return steps


def _run_in_words(record: Mapping[str, Any]) -> str:
    """Versions, seed and device of a run in a sentence."""
    embed = record.get("embed", {})
    parts = [f"{name} {version}" for name, version in embed.get("versions", {}).items()]
    parts += [f"seed {embed['random_state']}"] if "random_state" in embed else []
    parts += [f"on {embed['device']}"] if "device" in embed else []
    return f"Run with {', '.join(parts)}." if parts else ""


def _flat(entry: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as rows of dotted name and text."""
    rows = []
    for key, value in entry.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _text(value)))
    return rows


def _text(value: Any) -> str:
    """Value of the record as text: numbers in full, long arrays by their shape."""
    if isinstance(value, np.ndarray | list | tuple):
        values = np.asarray(value, dtype=object) if isinstance(value, tuple) else np.array(value)
        if values.size > 12:
            shape = " × ".join(map(str, values.shape))
            return f"{shape} values"
        return ", ".join(_text(item) for item in values.ravel().tolist())
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


# what to look at twice --------------------------------------------------------------------------


def _warnings(
    domains: pd.Categorical,
    record: Mapping[str, Any],
    table: list[_Domain],
    composition: pd.DataFrame | None,
    n_without_place: int,
) -> list[str]:
    """What deserves a second look, in words."""
    return [
        *_warnings_of_data(domains, record, n_without_place),
        *_warnings_of_run(record),
        *_warnings_of_domains(table, composition),
    ]


def _warnings_of_data(
    domains: pd.Categorical, record: Mapping[str, Any], n_without_place: int
) -> list[str]:
    """Observations that took no part, or stand alone."""
    found = []
    n_missing = int((domains.codes < 0).sum())
    if n_missing:
        found.append(
            f"{_count(n_missing, 'observation')} of {len(domains):,} {_have(n_missing)} no domain: "
            "without counts, or without a place, there is nothing to tell one from."
        )
    if n_without_place:
        found.append(
            f"{_count(n_without_place, 'observation')} {_have(n_without_place)} no coordinates and "
            f"{'is' if n_without_place == 1 else 'are'} not drawn."
        )
    n_isolated = int(record.get("graph", {}).get("n_isolated", 0))
    if n_isolated:
        found.append(
            f"{_count(n_isolated, 'observation')} {_have(n_isolated)} no neighbour in the spatial "
            f"graph: {'its domain follows' if n_isolated == 1 else 'their domains follow'} from "
            "expression alone."
        )
    return found


def _warnings_of_images(shown: AnnData, frames: list[dict[str, Any]]) -> list[str]:
    """Tissue images that are there and not shown, and why."""
    found = []
    for frame in frames:
        reason = frame.pop("no_image", None)
        if reason is not None:
            of = f" of section {frame['name']}" if frame["name"] else ""
            found.append(f"The tissue image{of} is not shown. {reason}")
    names = [name for name, entry in _libraries(shown).items() if _mapping(entry, "images")]
    if names and not any(_library(shown, frame["name"]) for frame in frames):
        found.append(
            f"There are tissue images of {', '.join(names)}, and none of a section of this name. "
            "Name the column of the sections with sample_key."
        )
    return found


def _warnings_of_the_record(unfit: list[str]) -> list[str]:
    """What of the record could not be read."""
    if not unfit:
        return []
    return [
        f"The record of the run, uns[{_keys.RECORD!r}], is not as m2ST writes it. What does not "
        f"fit is left out: {', '.join(unfit)}."
    ]


def _warnings_of_run(record: Mapping[str, Any]) -> list[str]:
    """How training, clustering and the choice of a number went."""
    embed, cluster = record.get("embed", {}), record.get("cluster", {})
    found = []
    if embed.get("stopped") == "interrupted":
        found.append(
            "The training was interrupted. The domains come from what was learned until then; a "
            "whole training may give others."
        )
    if not cluster:
        found.append(
            "There is no record of a clustering here: the domains come from models trained on "
            "other data, or were written by something else."
        )
    elif not cluster.get("converged", True):
        found.append(
            "The clustering of at least one member had not converged at its last iteration. Raise "
            "max_iter."
        )
    if int(record.get("n_members", 2)) == 1:
        found.append(
            "There is a single model and no consensus. The confidence is that model's membership: "
            "not calibrated, and mostly too high."
        )
    choice = record.get("n_domains", {})
    if choice and int(choice["chosen"]) == 1:
        found.append(
            "The features of neighbours are no more alike than those of any two observations "
            f"(p = {float(choice['p_value']):.2g}): the data show no structure in space. Check "
            "that the coordinates belong to these observations."
        )
    elif choice and cluster and int(choice["chosen"]) != int(cluster["n_domains"]):
        found.append(
            f"The evidence speaks for {int(choice['chosen'])} domains; {int(cluster['n_domains'])} "
            "were asked for."
        )
    return found


def _warnings_of_domains(table: list[_Domain], composition: pd.DataFrame | None) -> list[str]:
    """Domains that are unsure, empty, tiny or of one section only."""
    found = []
    empty = [row.name for row in table if row.n_obs == 0]
    if empty:
        found.append(f"{_named(empty)} {_have(len(empty))} no observation.")
    equal = sum(row.n_obs for row in table) / max(len(table), 1)
    tiny = [row.name for row in table if 0 < row.n_obs < _TINY * equal]
    if tiny:
        found.append(
            f"{_named(tiny)} {_have(len(tiny))} less than a twentieth of an equal share of the "
            "observations: outliers, perhaps, rather than tissue. Look at their counts or features."
        )
    unsure = [row.name for row in table if row.median is not None and row.median < _LOW_CONFIDENCE]
    if unsure:
        found.append(
            f"Low confidence: in {_named(unsure, start=False)} half of the observations are below "
            f"{_LOW_CONFIDENCE}. Another seed may well draw the borders elsewhere."
        )
    fleeting = [
        row.name for row in table if row.stability is not None and row.stability < _LOW_STABILITY
    ]
    if fleeting:
        found.append(
            f"{_named(fleeting)} {'is' if len(fleeting) == 1 else 'are'} not found alike by the "
            f"members of the ensemble (mean Jaccard index below {_LOW_STABILITY})."
        )
    if composition is not None and len(composition) > 1:
        totals = composition.sum(axis=0)
        alone = [
            str(name)
            for name in composition.columns
            if totals[name] and composition[name].max() >= _ONE_SECTION * totals[name]
        ]
        if alone:
            found.append(
                f"{_named(alone)} {'lies' if len(alone) == 1 else 'lie'} in one section (almost) "
                "alone. Either this tissue is in no other section, or sections are told apart "
                "rather than tissue."
            )
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _have(number: int) -> str:
    return "has" if number == 1 else "have"


def _named(names: list[str], *, start: bool = True) -> str:
    """Domains by name, at the start of a sentence or within it."""
    word = "domain" if len(names) == 1 else "domains"
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{word.capitalize() if start else word} {listed}"


# the page ---------------------------------------------------------------------------------------


def _render(**content: Any) -> str:
    """Fill the template; what comes from the data is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from m2st import __version__

    environment = Environment(
        loader=PackageLoader("m2st", "_page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    folder = Path(__file__).with_name("_page")
    style, script = (
        Markup((folder / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js")
    )
    return environment.get_template("report.html").render(
        version=__version__,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        **content,
    )


def _hash(text: Markup) -> str:
    """What the content security policy knows a script or a style by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"
