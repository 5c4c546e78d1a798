"""Pictures of results: each function returns a matplotlib Figure, which a notebook shows.

Figures are made without pyplot: no window opens, no backend is chosen, no global state changes.
``figure.savefig("domains.png", dpi=300)`` writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from m2st import _keys
from m2st._by_section import read_composition
from m2st._checks import check_adata, check_interval, check_key, recorded_key
from m2st._plotting import (
    FIRST_COLORS,
    MISSING_COLOR,
    Section,
    find_samples,
    find_section,
    kept_colors,
    matched_colors,
    read_categories,
    read_places,
    read_shares,
    share_colors,
)
from m2st._record import readable
from m2st._registration import LEAST_MATCH

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "composition",
    "composition_change",
    "confidence",
    "domain_tree",
    "domains",
    "n_domains",
    "registration",
    "scale_weights",
    "training",
]

MAX_LEGEND = 150  # entries; more are not read, but counted
FONT = 8.0  # points; lengths on the page below are inches
GAP = 0.15  # between panels
TITLE = 0.25  # above a panel
SCALE_BAR = 0.25  # below a panel
LEGEND_LINE = 0.175
COLOR_BAR = (0.15, 1.2)
CELL = 0.45  # of a table, in inches
ROW = 0.3  # of a section or a domain, in inches


def domains(
    adata: AnnData,
    *,
    key: str | None = None,
    key_added: str = _keys.DEFAULT,
    truth: str | None = None,
    sample_key: str | None = None,
    spatial_key: str | None = None,
    panel_size: float = 3.0,
) -> Figure:
    """Draw the domains in space: every observation at its true place, size and shape.

    There is one panel per sample, with y pointing down as in images. With `truth`, a second panel
    stands beside or below it. A class of `truth` has the colour of the domain that it overlaps
    most, by the assignment with the greatest total overlap. Equal colours mean agreement.

    Parameters
    ----------
    adata
        Annotated data with domains and coordinates.
    key
        Column of ``obs`` with the domains, at most 1,000; missing ones are drawn light grey. Above
        150 the legend gives their number. Observations without coordinates are not drawn. None
        takes the domains of the result `key_added`.
    key_added
        Name of the result.
    truth
        Column of ``obs`` with the reference to draw as well, at most 1,000 classes.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with, if any.
    spatial_key
        Key of ``obsm`` with the coordinates. The first two columns are drawn. None takes the
        coordinates that the spatial graph was built from, else ``"spatial"``.
    panel_size
        Inches, the longer side of a panel.

    Returns
    -------
    The figure.

    Writes
    ------
    ``uns[f"{key}_colors"]``
        List of hexadecimal colours, one per category, as scanpy keeps them. Existing colours are
        used if there is one for each category, and replaced otherwise. Nothing is written to a
        view, or for `truth`.

    Raises
    ------
    KeyError
        If a column or the coordinates are missing.
    ValueError
        If no coordinates are finite; if a sample is missing; if there are more than 1,000
        categories.

    Notes
    -----
    Circles have the diameter that ``uns["spatial"]`` holds in full-resolution pixels, in the entry
    of the sample or the only entry. If there is no valid one, a part of a section has the spots of
    the whole, from the record of its graph. Else the size depends on the coordinates:

    * on a lattice, circles of 0.55 of its pitch, the proportion of Visium
    * on an exactly square lattice, squares that fill it
    * elsewhere, circles of the median distance to the second nearest neighbour, so that tissue
      looks filled

    All sizes are in the unit of the coordinates. If ``uns["spatial"]`` says how many micrometres a
    pixel has, there is a scale bar. Above 10,000 observations, points are rasterised in vector
    formats.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> adata = AnnData(
    ...     obs=pd.DataFrame({"m2st_domain": ["1", "2"] * 8}, index=list("abcdefghijklmnop")),
    ...     obsm={"spatial": np.random.default_rng(0).random((16, 2))},
    ... )
    >>> figure = domains(adata)
    >>> len(figure.axes), len(adata.uns["m2st_domain_colors"])
    (1, 2)
    """
    sections, titled = _read_sections(adata, sample_key, spatial_key, panel_size)
    hint = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."
    own = _keys.Keys(key_added).domain
    key = key or own
    result = read_categories(adata, key, hint=hint if key == own else "")
    reference = None if truth is None else read_categories(adata, truth)
    colors = kept_colors(adata, key, len(result.categories))
    layers = [_label_layer(key, result, colors)]
    if truth is not None and reference is not None:
        layers.append(_label_layer(truth, reference, matched_colors(reference, result, colors)))
    return _draw_map(sections, layers, panel_size, titled=titled or truth is not None)


def confidence(
    adata: AnnData,
    *,
    key: str | None = None,
    key_added: str = _keys.DEFAULT,
    sample_key: str | None = None,
    spatial_key: str | None = None,
    panel_size: float = 3.0,
) -> Figure:
    """Draw the confidence of the domains in space, as `domains` draws the domains.

    There is one panel per sample. All panels have one colour bar from 0 to 1, so that pictures of
    several objects can be compared.

    Parameters
    ----------
    adata
        Annotated data with confidences and coordinates.
    key
        Column of ``obs`` with numbers from 0 to 1; missing ones are drawn light grey. Observations
        without coordinates are not drawn. None takes the confidence of the result `key_added`.
    key_added
        Name of the result.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with, if any.
    spatial_key
        Key of ``obsm`` with the coordinates. The first two columns are drawn. None takes the
        coordinates that the spatial graph was built from, else ``"spatial"``.
    panel_size
        Inches, the longer side of a panel.

    Returns
    -------
    The figure. Nothing is written to `adata`.

    Raises
    ------
    KeyError
        If a column or the coordinates are missing.
    TypeError
        If the column holds no numbers.
    ValueError
        If a number is outside 0 to 1, no coordinates are finite, or a sample is missing.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from anndata import AnnData
    >>> rng = np.random.default_rng(0)
    >>> adata = AnnData(
    ...     obs=pd.DataFrame({"m2st_confidence": rng.random(16)}, index=list("abcdefghijklmnop")),
    ...     obsm={"spatial": rng.random((16, 2))},
    ... )
    >>> figure = confidence(adata)
    >>> len(figure.axes)  # the panel and the colour bar
    2
    """
    sections, titled = _read_sections(adata, sample_key, spatial_key, panel_size)
    hint = "Run `m2st.tl.cluster(adata, n_domains)` or `m2st.run(adata, n_domains)` first."
    own = _keys.Keys(key_added).confidence
    key = key or own
    shares = read_shares(adata, key, hint=hint if key == own else "")
    layer = _Layer(
        key,
        share_colors(shares),
        lambda figure, section, _: _color_bar(figure, key, int(np.isnan(shares).sum()), section),
    )
    return _draw_map(sections, [layer], panel_size, titled=titled)


def training(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> Figure:
    """Draw the training loss of each member and epoch, and where and why training stopped.

    Parameters
    ----------
    adata
        Annotated data after `m2st.tl.embed`.
    key_added
        Name of the result.

    Returns
    -------
    The figure.

    Raises
    ------
    KeyError
        If there is no record of a training.

    Examples
    --------
    >>> from anndata import AnnData
    >>> record = {"loss": [0.9, 0.5, 0.4], "stopped": "converged", "params": {"loss_exponent": 2.0}}
    >>> figure = training(AnnData(uns={"m2st": {"embed": record}}))
    >>> figure.axes[0].get_ylabel()
    'scaled cosine error'
    """
    from matplotlib.ticker import MaxNLocator

    record = _record(adata, key_added, "embed", "loss", call="m2st.tl.embed(adata)")
    members = np.atleast_2d(np.asarray(record["loss"], dtype=np.float64))
    losses = [row[~np.isnan(row)] for row in members]
    longest = max(len(loss) for loss in losses)
    params = record.get("params", {})
    cosine = not pd.isna(params.get("loss_exponent"))
    planned = params.get("n_epochs")
    stopped = str(record.get("stopped", ""))

    figure = _figure(figsize=(4.5, 3.0), facecolor="white", dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for loss in losses:
        epochs = np.arange(1, len(loss) + 1)
        axes.plot(epochs, loss, color=FIRST_COLORS[0], linewidth=1.2 if len(losses) == 1 else 0.7)
        if stopped and len(loss):
            axes.plot(epochs[-1:], loss[-1:], "o", color=FIRST_COLORS[5], markersize=4)
    if stopped and longest:
        last = [loss[-1] for loss in losses if len(loss)]
        several = " on average" if len(last) > 1 else ""
        axes.annotate(
            f"{stopped}, {np.mean(last):.3g}{several}",
            (longest, max(last)),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            fontsize=FONT,
        )
    of_planned = "" if planned is None or planned == longest else f" of at most {planned}"
    plural = "" if longest == 1 and not of_planned else "s"
    up_to = f"{len(losses)} members, up to " if len(losses) > 1 else ""
    axes.set_title(f"Training: {up_to}{longest}{of_planned} epoch{plural}", fontsize=FONT + 1)
    axes.set_xlabel("epoch", fontsize=FONT)
    axes.set_ylabel("scaled cosine error" if cosine else "mean squared error", fontsize=FONT)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.margins(y=0.12)
    _tidy(axes)
    return figure


def scale_weights(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> Figure:
    """Draw the weight of each scale and of the common representation in the clustering.

    Parameters
    ----------
    adata
        Annotated data after `m2st.tl.cluster`.
    key_added
        Name of the result.

    Returns
    -------
    The figure. Bars are means over the members, dots are members. The dashed line is the weight
    that all have if they are equal.

    Raises
    ------
    KeyError
        If there is no record of a clustering.

    Examples
    --------
    >>> from anndata import AnnData
    >>> record = {"scale_weights": [0.2, 0.3, 0.5]}
    >>> figure = scale_weights(AnnData(uns={"m2st": {"cluster": record}}))
    >>> [label.get_text() for label in figure.axes[0].get_xticklabels()]
    ['scale 1', 'scale 2', 'common']
    """
    call = "m2st.tl.cluster(adata, n_domains)"
    record = _record(adata, key_added, "cluster", "scale_weights", call=call)
    members = np.atleast_2d(np.asarray(record["scale_weights"], dtype=np.float64))
    weights = members.mean(axis=0)
    n_scales = len(weights) - 1
    params = readable(adata.uns, key_added)[0].get("embed", {}).get("params", {})
    widths = np.ravel(params.get("scale_dims", [])).tolist()
    labels = [f"scale {scale}" for scale in range(1, n_scales + 1)]
    if len(widths) == n_scales:
        labels = [f"{label}\n({width})" for label, width in zip(labels, widths, strict=True)]

    size = (max(3.0, 1.2 + 0.55 * len(weights)), 3.0)
    figure = _figure(figsize=size, facecolor="white", dpi=150, layout="constrained")
    axes = figure.add_subplot()
    bar_colors = [FIRST_COLORS[0]] * n_scales + [FIRST_COLORS[1]]
    axes.bar([*labels, "common"], weights, width=0.7, color=bar_colors)
    if len(members) > 1:
        places = np.broadcast_to(np.arange(len(weights)), members.shape)
        axes.plot(places.T, members.T, "o", color="black", markersize=2, clip_on=False)
    on_white = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    for place, (weight, top) in enumerate(zip(weights, members.max(axis=0), strict=True)):
        axes.annotate(
            f"{weight:.2f}",
            (place, top),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=FONT,
            bbox=on_white,
        )
    axes.axhline(1 / len(weights), color="black", linewidth=0.8, linestyle="--", label="uniform")
    axes.set_ylim(0, 1.25 * max(members.max(), 1 / len(weights)))
    axes.set_ylabel("weight", fontsize=FONT)
    axes.legend(fontsize=FONT, frameon=False, loc="upper right")
    _tidy(axes)
    return figure


def n_domains(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> Figure:
    """Draw the evidence for each number of domains.

    Parameters
    ----------
    adata
        Annotated data after `m2st.tl.choose_n_domains`.
    key_added
        Name of the result.

    Returns
    -------
    The figure: how far the members agree, and the score with the choice marked.

    Raises
    ------
    KeyError
        If there is no record of a choice.

    Examples
    --------
    >>> from anndata import AnnData
    >>> record = {"candidates": [2, 3, 4], "stability": [0.9, 0.9, 0.6], "score": [0.2, 0.5, 0.1],
    ...           "chosen": 3, "p_value": 0.005}
    >>> figure = n_domains(AnnData(uns={"m2st": {"n_domains": record}}))
    >>> figure.axes[0].get_title()
    'Chosen: 3 domains'
    """
    from matplotlib.ticker import MaxNLocator

    call = "m2st.tl.choose_n_domains(adata)"
    record = _record(adata, key_added, "n_domains", "score", call=call)
    candidates, score = np.asarray(record["candidates"]), np.asarray(record["score"])
    chosen = int(record["chosen"])
    figure = _figure(figsize=(4.5, 3.0), facecolor="white", dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(candidates, record["stability"], "o-", color=FIRST_COLORS[0], markersize=3,
              linewidth=1.2, label="agreement of members (ARI)")  # fmt: skip
    axes.plot(candidates, score, "s-", color=FIRST_COLORS[1], markersize=3, linewidth=1.2,
              label="score")  # fmt: skip
    axes.axvline(chosen, color="black", linewidth=0.8, linestyle="--")
    title = f"Chosen: {chosen} domain{'' if chosen == 1 else 's'}"
    if chosen == 1:
        title = f"No structure in space (p = {record['p_value']:.2g})"
    axes.set_title(title, fontsize=FONT + 1)
    axes.set_xlabel("number of domains", fontsize=FONT)
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    axes.legend(fontsize=FONT, frameon=False)
    _tidy(axes)
    return figure


def domain_tree(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> Figure:
    """Draw which domains are nearest to each other.

    Parameters
    ----------
    adata
        Annotated data after `m2st.tl.domain_tree`.
    key_added
        Name of the result.

    Returns
    -------
    The figure: a row for each domain, and the tree. A merge stands at its cost, on the scale of
    square roots.

    Writes
    ------
    ``uns["m2st_domain_colors"]``
        List of hexadecimal colours, as `domains` does.

    Raises
    ------
    KeyError
        If there is no tree of these domains.

    Examples
    --------
    >>> from anndata import AnnData
    >>> import pandas as pd
    >>> domains = pd.Categorical(["1", "2", "3"])
    >>> adata = AnnData(obs=pd.DataFrame({"m2st_domain": domains}, index=list("abc")))
    >>> merges = [[0, 2, 0.1, 2], [1, 3, 0.4, 3]]
    >>> adata.uns["m2st"] = {"tree": {"merges": merges}}
    >>> figure = domain_tree(adata)
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['2', '1', '3']
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator
    from scipy.cluster.hierarchy import dendrogram

    call = "m2st.tl.domain_tree(adata)"
    record = _record(adata, key_added, "tree", "merges", call=call)
    key = _keys.Keys(key_added).domain
    names = [str(name) for name in read_categories(adata, key).categories]
    merges = np.asarray(record["merges"], dtype=np.float64).reshape(-1, 4)
    if len(merges) != len(names) - 1:
        msg = (
            f"Expected a tree of the {len(names)} domains in `adata.obs[{key!r}]`, found one of "
            f"{len(merges) + 1}. Run `{call}` again."
        )
        raise KeyError(msg)
    colors = kept_colors(adata, key, len(names))
    tree = dendrogram(merges, no_plot=True)
    leaves = tree["leaves"]
    longest = max(len(_shorten(name, 30)) for name in names)
    size = (3.5 + 0.065 * longest, ROW * len(names) + 1.0)
    figure = _figure(figsize=size, facecolor="white", dpi=150, layout="constrained")
    axes = figure.add_subplot()
    places = 10 * np.arange(len(names)) + 5.0  # where SciPy puts leaves
    for heights, rows in zip(tree["dcoord"], tree["icoord"], strict=True):
        axes.plot(np.sqrt(heights), rows, color="black", linewidth=1.2, solid_joinstyle="miter")
    axes.scatter(
        np.zeros(len(names)),
        places,
        c=[colors[leaf] for leaf in leaves],
        s=60,
        marker="s",
        zorder=3,
        clip_on=False,
    )
    axes.set_yticks(places, [_shorten(names[leaf], 30) for leaf in leaves])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(0, 1.05 * np.sqrt(merges[:, 2].max()) or 1.0)
    axes.set_ylim(0, 10 * len(names))
    ticks = MaxNLocator(5).tick_values(0, float(axes.get_xlim()[1]))
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda root, _: f"{root**2:.2g}"))
    axes.set_xlabel("cost of a merge (nats per observation)", fontsize=FONT)
    _tidy(axes)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    return figure


def registration(adata: AnnData, *, key_added: str = _keys.DEFAULT) -> Figure:
    """Draw the correlation of each domain with the labels of a reference.

    Parameters
    ----------
    adata
        Annotated data after `m2st.tl.register`.
    key_added
        Name of the result.

    Returns
    -------
    The figure: a row for each domain, with its suggested name, and a column for each label. Purple
    is negative, orange is positive, grey is missing. A frame marks the label that a domain is named
    after.

    Raises
    ------
    KeyError
        If there is no table of correlations.

    Examples
    --------
    >>> from anndata import AnnData
    >>> record = {"label_key": "layer", "n_genes": 99, "domains": ["1", "2"],
    ...           "labels": ["L1", "WM"], "suggested": ["WM", "L1"],
    ...           "correlation": [[-0.4, 0.9], [0.7, -0.5]]}
    >>> figure = registration(AnnData(uns={"m2st": {"register": record}}))
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['1 → WM', '2 → L1']
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    call = "m2st.tl.register(adata, reference, label_key)"
    record = _record(adata, key_added, "register", "correlation", call=call)
    table = np.asarray(record["correlation"], dtype=np.float64)
    # From purple over white to orange: apart for all eyes.
    colors = colormaps["PuOr_r"].with_extremes(bad=MISSING_COLOR)
    size = (CELL * (table.shape[1] + 6), CELL * (table.shape[0] + 4))
    figure = _figure(figsize=size, facecolor="white", dpi=150, layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(table, cmap=colors, vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(table):
        text = "–" if np.isnan(value) else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
        color = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, text, color=color, ha="center", va="center", fontsize=FONT - 1)
    rows = []
    for row, (name, suggested) in enumerate(
        zip(record["domains"], record["suggested"], strict=True)
    ):
        best = int(np.nan_to_num(table[row], nan=-2).argmax())
        if table[row, best] >= LEAST_MATCH:
            corner = (best - 0.46, row - 0.46)
            axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, color="black", linewidth=1.5))
        rows.append(name if name == suggested else f"{name} → {suggested}")
    for axis, labels in ((axes.yaxis, rows), (axes.xaxis, record["labels"])):
        axis.set_ticks(range(len(labels)), [_shorten(str(label), 30) for label in labels])
        for label in axis.get_ticklabels():
            label.set_parse_math(False)
    axes.tick_params(length=0, labelsize=FONT)
    axes.tick_params(axis="x", rotation=45)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    axes.spines[:].set_visible(False)
    axes.set_title(
        _shorten(f"{record['label_key']}, {record['n_genes']} genes", 60),
        fontsize=FONT + 1,
        parse_math=False,
    )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, ticks=[-1, 0, 1])
    bar.set_label("correlation", fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)
    bar.outline.set_visible(False)
    return figure


def composition(
    adata: AnnData,
    *,
    sample_key: str | None = None,
    spatial_key: str | None = None,
    key_added: str = _keys.DEFAULT,
) -> Figure:
    """Draw the share of each domain in each section, and how sure it is.

    Parameters
    ----------
    adata
        Annotated data with domains, sections and coordinates.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with.
    spatial_key
        Key of ``obsm`` with the coordinates, as for `m2st.tl.composition`.
    key_added
        Name of the result.

    Returns
    -------
    The figure: a row for each section. Bars show the shares in the colours of the domains. Beside
    them, each domain has a column with the shares and their intervals at 95 %, as
    `m2st.tl.composition` gives them. The dashed line is the mean of the sections.

    Writes
    ------
    ``uns["m2st_domain_colors"]``
        List of hexadecimal colours, as `domains` does.

    Raises
    ------
    KeyError
        If domains, sections or coordinates are missing.
    ValueError
        If there are no sections, or an observation has none.

    Examples
    --------
    >>> import m2st
    >>> adata = m2st.datasets.simulate_cortex(n_obs=300, n_genes=40, n_domains=3, n_samples=2)
    >>> adata.obs["m2st_domain"] = adata.obs["domain"]
    >>> figure = composition(adata, sample_key="sample")
    >>> [axes.get_title() for axes in figure.axes]
    ['share of each domain', 'L1', 'L2', 'WM']
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import PercentFormatter

    check_adata(adata)
    sample_key = sample_key or recorded_key(adata, "sample_key")
    if sample_key is None:
        msg = (
            "Expected `sample_key`, the column of `adata.obs` with the sections, found none. Name "
            "it."
        )
        raise ValueError(msg)
    found = read_composition(adata, sample_key, spatial_key=spatial_key, key_added=key_added)
    n_sections, n_domains = found.shares.shape
    colors = kept_colors(adata, _keys.Keys(key_added).domain, n_domains)
    sections = [_shorten(name, 40) for name in found.sections]
    names = [_shorten(name, 24) for name in found.domains]
    # Long names of domains stand at an angle, so that they do not meet.
    longest = max(map(len, names))
    angle = 35 if longest > 8 else 0
    beyond = 0.045 * longest if angle else 0.0  # inches that the last name takes to the right
    width = 3.0 + 0.065 * max(map(len, sections)) + 0.95 * n_domains + beyond
    size = (width, ROW * n_sections + 1.0 + 0.7 * beyond)
    engine = ConstrainedLayoutEngine(rect=(0, 0, 1 - beyond / width, 1))
    figure = _figure(figsize=size, facecolor="white", dpi=150, layout=engine)
    columns = figure.subplots(1, 1 + n_domains, sharey=True, width_ratios=[3, *[1] * n_domains])
    places = np.arange(n_sections)
    shares = np.nan_to_num(found.shares)
    starts = shares.cumsum(axis=1) - shares
    for domain, (name, color) in enumerate(zip(names, colors, strict=True)):
        columns[0].barh(places, shares[:, domain], left=starts[:, domain], color=color, height=0.75)
        axes = columns[1 + domain]
        known = ~np.isnan(found.shares[:, domain])
        low, high = found.low[known, domain], found.high[known, domain]
        axes.hlines(places[known], low, high, color=color, linewidth=2)
        axes.plot(found.shares[known, domain], places[known], "o", color="black", markersize=3)
        axes.axvline(np.nanmean(found.shares[:, domain]), color="black", lw=0.8, ls="--")
        axes.set_xlim(0, max(1.05 * np.nanmax(found.high[:, domain]), 0.05))
        _name_axes(axes, name, rotation=angle, ha="left" if angle else "center")
        axes.title.set_x(0.0 if angle else 0.5)
    _name_axes(columns[0], "share of each domain")
    columns[0].set_xlim(0, 1)
    columns[0].set_yticks(places, sections)
    columns[0].invert_yaxis()
    for label in columns[0].get_yticklabels():
        label.set_parse_math(False)
    for axes in columns:
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.locator_params(axis="x", nbins=2 if axes is not columns[0] else 5)
        axes.tick_params(axis="y", length=0)
        _tidy(axes)
        axes.spines["left"].set_visible(axes is not columns[0])
    return figure


def composition_change(table: pd.DataFrame) -> Figure:
    """Draw how the composition differs between conditions.

    Parameters
    ----------
    table
        What `m2st.tl.compare_composition` returned.

    Returns
    -------
    The figure: a panel for each condition and a row for each domain, with its log-ratio against the
    reference and the interval at 95 %. Domains with an adjusted p-value of at most 0.05 are
    coloured. At the right are both mean shares and the adjusted p-value.

    Raises
    ------
    KeyError
        If the table lacks a column.
    TypeError
        If it is no table.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({
    ...     "condition": "treated", "reference": "control", "domain": ["1", "2"],
    ...     "share": [0.3, 0.7], "share_reference": [0.5, 0.5], "log_ratio": [-0.4, 0.4],
    ...     "low": [-0.7, 0.1], "high": [-0.1, 0.7], "p_adjusted": [0.02, 0.02],
    ... })
    >>> composition_change(table).axes[0].get_title()
    'treated against control'
    """
    if not isinstance(table, pd.DataFrame):
        msg = (
            "Expected the table that `m2st.tl.compare_composition` returned, found "
            f"{type(table).__name__}."
        )
        raise TypeError(msg)
    hint = "Pass what `m2st.tl.compare_composition` returned."
    needed = ["condition", "reference", "domain", "share", "share_reference", "log_ratio", "low",
              "high", "p_adjusted"]  # fmt: skip
    for column in needed:
        check_key(column, table, where="table", hint=hint)
    panels = list(table.groupby("condition", sort=False, observed=True))
    most = max((len(rows) for _, rows in panels), default=1)
    size = (5.0 * max(len(panels), 1), ROW * most + 1.1)
    figure = _figure(figsize=size, facecolor="white", dpi=150, layout="constrained")
    widest = np.nanmax(np.abs(table[["low", "high"]].to_numpy(dtype=np.float64)), initial=0.1)
    for number, (condition, rows) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for place, row in enumerate(rows.itertuples()):
            called = row.p_adjusted <= 0.05
            color = FIRST_COLORS[5] if called else "#777777"
            axes.hlines(place, row.low, row.high, color=color, linewidth=2)
            axes.plot(row.log_ratio, place, "o", color=color, markersize=5)
            p = "" if np.isnan(row.p_adjusted) else f"   p = {row.p_adjusted:.2g}"
            axes.annotate(
                f"{row.share_reference:.1%} → {row.share:.1%}{p}",
                (1.03, place),
                xycoords=axes.get_yaxis_transform(),
                va="center",
                fontsize=FONT,
            )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlim(-1.05 * widest, 1.05 * widest)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [_shorten(str(name), 24) for name in rows["domain"]])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.set_xlabel("difference of log-ratios", fontsize=FONT)
        reference = rows["reference"].iloc[0]
        _name_axes(axes, _shorten(f"{condition} against {reference}", 40))
        _tidy(axes)
    return figure


def _name_axes(axes: Axes, title: str, *, rotation: float = 0, ha: str = "center") -> None:
    """Put a title over axes, as it is."""
    axes.set_title(title, fontsize=FONT + 1, parse_math=False, rotation=rotation, ha=ha)


def _figure(**settings: Any) -> Figure:
    """Make a figure that a notebook shows without pyplot, saved or not."""
    from io import BytesIO

    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            image = BytesIO()
            self.savefig(image, format="png", bbox_inches="tight")
            return image.getvalue()

    return Picture(**settings)


def _record(
    adata: AnnData, key_added: str, step: str, entry: str, *, call: str
) -> Mapping[str, Any]:
    """Return the record of one step of a run, or of a step after it."""
    of_run = "" if step in {"register", "tree"} else " or `m2st.run(adata, n_domains)`"
    hint = f"Run `{call}`{of_run} first."
    where = f"adata.uns[{key_added!r}]"
    check_key(key_added, adata.uns, where="adata.uns", hint=hint)
    found = readable(adata.uns, key_added)[0]  # what does not fit counts as missing
    check_key(step, found, where=where, hint=hint)
    record: Mapping[str, Any] = found[step]
    check_key(entry, record, where=f"{where}[{step!r}]", hint=hint)
    return record


def _tidy(axes: Axes) -> None:
    """Take away the frame's upper and right side, and set the size of the tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=FONT)


# maps -------------------------------------------------------------------------------------------


class _Key(NamedTuple):
    """What explains the colours: its size in inches, and how it is placed on a page."""

    size: NDArray[np.float64]
    place: Callable[[NDArray[np.float64], NDArray[np.float64]], None]
    """Takes the upper left corner, in inches from that of the page, and the size of the page."""


class _Layer(NamedTuple):
    """One picture of every section: a colour for each observation, and what explains them."""

    name: str
    colors: NDArray[Any]
    make_key: Callable[[Figure, Section, float], _Key]
    """Takes the figure, a section for its spots, and the height that there is, in inches."""


def _read_sections(
    adata: AnnData, sample_key: str | None, spatial_key: str | None, panel_size: float
) -> tuple[list[Section], bool]:
    """Return the sections to draw, and whether they are told apart."""
    check_interval("panel_size", panel_size, 0.5, 50)
    if adata.n_obs == 0:
        msg = "Expected at least one observation to draw, found none."
        raise ValueError(msg)
    sample_key = sample_key or recorded_key(adata, "sample_key")
    spatial_key = spatial_key or recorded_key(adata, "spatial_key") or _keys.COORDINATES
    coordinates, valid = read_places(adata, spatial_key)
    sections = [
        find_section(adata, name, rows, coordinates[rows])
        for name, rows in find_samples(adata, sample_key, valid)
    ]
    return sections, sample_key is not None


def _label_layer(name: str, values: pd.Categorical, colors: list[str]) -> _Layer:
    """Labels as a layer, with a legend."""
    return _Layer(
        name,
        np.array([*colors, MISSING_COLOR])[values.codes],
        lambda figure, section, height: _legend(figure, name, values, colors, section, height),
    )


def _draw_map(
    sections: list[Section], layers: list[_Layer], panel_size: float, *, titled: bool
) -> Figure:
    """Draw a panel for each section and layer, and what explains the layers beside them."""
    # Everything is placed in inches and the page is cut to it: nothing overlaps or is cut off.
    width, height = panel_size * np.max([s.extent / s.extent.max() for s in sections], axis=0)
    below = SCALE_BAR if any(section.micrometres for section in sections) else 0.0
    above = TITLE if titled else 0.0
    slot = np.array([width + GAP, above + height + below])
    n_rows, n_columns, across = _arrange(len(sections), len(layers), slot)
    figure = _figure(facecolor="white", dpi=150)
    panels = slot * [n_columns, n_rows] + [GAP, 2 * GAP]
    keys = [layer.make_key(figure, sections[0], panels[1]) for layer in layers]
    sizes = [key.size + GAP for key in keys]
    below_each_other = sum(size[1] for size in sizes) <= panels[1] - GAP
    step = np.array([0, 1] if below_each_other else [1, 0])
    corners = [np.array([panels[0], 1.5 * GAP])]
    corners += [corners[0] + size * step for size in sizes[:-1]]
    ends = [corner + size for corner, size in zip(corners, sizes, strict=True)]
    page = np.max([panels, *ends], axis=0)
    figure.set_size_inches(*page)

    for number, section in enumerate(sections):
        for at, layer in enumerate(layers):
            if across:
                row, column = divmod(number * len(layers) + at, n_columns)
            else:
                row, column = divmod(number, n_columns)
                row = row * len(layers) + at
            left, top = slot * [column, row] + [GAP, GAP + above]
            box = (left / page[0], 1 - (top + height) / page[1], width / page[0], height / page[1])
            axes = figure.add_axes(box)
            axes.set_anchor("NW")
            _draw(axes, section, layer.colors[section.rows])
            title = " · ".join(filter(None, [section.name, layer.name if len(layers) > 1 else ""]))
            axes.set_title(
                _shorten(title, int(13 * width)),
                fontsize=FONT + 1,
                loc="left",
                pad=4,
                parse_math=False,
            )
    for key, corner in zip(keys, corners, strict=True):
        key.place(corner, page)
    return figure


def _draw(axes: Axes, section: Section, colors: NDArray[Any]) -> None:
    """Draw the spots of a sample in data units, and a scale bar if the unit is known."""
    from matplotlib.collections import EllipseCollection, PolyCollection

    look: dict[str, Any] = {
        "facecolors": colors,
        "linewidths": 0,
        "rasterized": len(colors) > 10_000,
    }
    if section.square:
        corners = np.pi / 4 + np.pi / 2 * np.arange(4) + section.angle
        outline = section.size / np.sqrt(2) * np.column_stack([np.cos(corners), np.sin(corners)])
        # without antialiasing neighbouring bins meet without a seam
        axes.add_collection(
            PolyCollection(section.points[:, None] + outline, antialiased=False, **look),
            autolim=False,
        )
    else:
        spots = EllipseCollection(
            section.size,
            section.size,
            0,
            units="xy",
            offsets=section.points,
            offset_transform=axes.transData,
            **look,
        )
        axes.add_collection(spots, autolim=False)
    middle = (section.points.min(axis=0) + section.points.max(axis=0)) / 2
    (left, top), (right, bottom) = middle - section.extent / 2, middle + section.extent / 2
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_axis_off()

    if section.micrometres:
        longest = (right - left) * section.micrometres / 3
        power = 10.0 ** np.floor(np.log10(longest))
        length = power * max(step for step in (1, 2, 5) if step * power <= longest)
        start = left + 0.75 * section.size
        across = axes.get_xaxis_transform()  # data units across, share of the panel upwards
        axes.plot(
            [start, start + length / section.micrometres],
            [0, 0],
            color="black",
            linewidth=1.5,
            solid_capstyle="butt",
            transform=across,
            clip_on=False,
        )
        label = f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm"
        place: dict[str, Any] = {"xytext": (0, -3), "textcoords": "offset points", "va": "top"}
        axes.annotate(label, (start, 0), xycoords=across, fontsize=FONT, **place)


# layout -----------------------------------------------------------------------------------------


def _arrange(n_samples: int, n_layers: int, slot: NDArray[np.float64]) -> tuple[int, int, bool]:
    """Return rows and columns of panels, and whether the layers of a sample stand side by side."""
    best = (np.inf, 1, 1, True)
    for across in (True, False)[:n_layers]:
        for n_groups in range(1, n_samples + 1):
            n_columns = n_groups * (n_layers if across else 1)
            n_rows = -(-n_samples // n_groups) * (1 if across else n_layers)
            blank = n_rows * n_columns / (n_samples * n_layers) - 1
            shape = abs(np.log(n_columns * slot[0] / (n_rows * slot[1]) / 1.2))
            best = min(best, (shape + blank, n_rows, n_columns, across))
    return best[1:]


def _legend(
    figure: Figure,
    title: str,
    values: pd.Categorical,
    colors: list[str],
    section: Section,
    height: float,
) -> _Key:
    """Add a legend with the count of each category, in as many columns as the height asks for."""
    counts = np.bincount(values.codes.astype(np.intp) + 1, minlength=len(colors) + 1)
    names = [*map(str, values.categories), "missing"]
    entries = [
        (f"{_shorten(name, 40)} ({count})", color)
        for name, color, count in zip(
            names, [*colors, MISSING_COLOR], np.roll(counts, -1), strict=True
        )
        if count
    ]
    if len(entries) > MAX_LEGEND:
        entries = [(f"{len(entries):,} categories", "none")]
    n_columns = -(-len(entries) // max(int(height / LEGEND_LINE) - 2, 20))
    return _entries(figure, title, entries, section, n_columns)


def _entries(
    figure: Figure,
    title: str,
    entries: list[tuple[str, str]],
    section: Section,
    n_columns: int = 1,
) -> _Key:
    """Add a legend of texts and their colours."""
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

    marker: dict[str, Any] = {
        "marker": "s" if section.square else "o",
        "markersize": 6,
        "linestyle": "none",
    }
    legend = Legend(
        figure,
        [Line2D([], [], color=color, **marker) for _, color in entries],
        [label for label, _ in entries],
        title=_shorten(title, 40),
        ncols=n_columns,
        loc="upper left",
        bbox_transform=figure.transFigure,
        fontsize=FONT,
        title_fontproperties={"size": FONT, "weight": "bold"},
        alignment="left",
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names are names, with a dollar in them, too
    legend.get_title().set_parse_math(False)
    figure.add_artist(legend)

    def place(corner: NDArray[np.float64], page: NDArray[np.float64]) -> None:
        # By the page, also where `savefig` cuts it: matplotlib's default would move it twice.
        anchor = (corner[0] / page[0], 1 - corner[1] / page[1])
        legend.set_bbox_to_anchor(anchor, transform=figure.transFigure)

    return _Key(np.array(legend.get_window_extent().size) / figure.dpi, place)


def _color_bar(figure: Figure, title: str, n_missing: int, section: Section) -> _Key:
    """Add a legend of what is missing, and below it a bar of the colours from 0 to 1."""
    from matplotlib.colors import to_rgba_array

    missing = [(f"missing ({n_missing})", MISSING_COLOR)] if n_missing else []
    legend = _entries(figure, title, missing, section)
    width, height = COLOR_BAR
    size = np.array([max(legend.size[0], 3 * width), legend.size[1] + GAP + height])

    def place(corner: NDArray[np.float64], page: NDArray[np.float64]) -> None:
        legend.place(corner, page)
        bottom = 1 - (corner[1] + size[1]) / page[1]
        bar = figure.add_axes(
            (corner[0] / page[0], bottom, width / page[0], height / page[1]), label="color bar"
        )
        levels = share_colors(np.linspace(0, 1, 256))
        bar.imshow(
            to_rgba_array(levels)[:, None], origin="lower", extent=(0, 1, 0, 1), aspect="auto"
        )
        bar.set_xticks([])
        bar.yaxis.tick_right()
        bar.set_yticks([0, 0.5, 1])
        bar.tick_params(labelsize=FONT)

    return _Key(size, place)


def _shorten(text: str, length: int) -> str:
    """Cut a text to a number of characters, on one line and of such that fonts can have."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ").split())
    return text if len(text) <= length else text[: length - 1] + "…"
