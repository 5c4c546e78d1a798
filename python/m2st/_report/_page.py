"""A result as one page: a single HTML file to look at, to print and to send, without a network."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from m2st import _keys
from m2st._checks import check_int, check_target, recorded_key
from m2st._files import write_whole
from m2st._plotting import (
    MISSING_COLOR,
    find_library,
    find_samples,
    find_section,
    kept_colors,
    palette,
    read_categories,
    share_colors,
)
from m2st._record import readable
from m2st._report._findings import findings_of_images, findings_of_record, list_findings
from m2st._report._history import (
    describe_choice,
    describe_members,
    describe_solutions,
    describe_training,
    describe_weights,
    list_steps,
    run_in_words,
)
from m2st._report._map import (
    make_frame,
    make_labels,
    make_layers,
    make_payload,
    select_shown,
)
from m2st._report._markers import find_markers
from m2st._report._tables import (
    confidence_facts,
    count_composition,
    domain_table,
    find_shares,
    read_confidence,
    read_domains,
)

if TYPE_CHECKING:
    from markupsafe import Markup


def report(
    adata: AnnData,
    path: str | os.PathLike[str],
    *,
    key_added: str = _keys.DEFAULT,
    columns: Sequence[str] = (),
    sample_key: str | None = None,
    spatial_key: str | None = None,
    n_markers: int = 5,
    title: str = "Spatial domains",
    overwrite: bool = False,
) -> None:
    """Write a result as one HTML page that needs nothing else, neither network nor Python.

    The page shows:

    * domains and confidence in space, with a panel for each section, over the tissue image if
      ``uns["spatial"]`` has one
    * both solutions beside each other, if members of the ensemble fall into camps
    * sizes, stability and markers of the domains, and the evidence for their number
    * the expression of the markers on the same map; a gene or a domain that is chosen in a table is
      shown on it
    * with several sections, the shares of the domains in each, as `m2st.tl.composition` has them
    * training and scale weights
    * the record of the run
    * in words, what deserves a second look

    Nothing is written to `adata`, and no annotation is needed.

    Parameters
    ----------
    adata
        Annotated data with ``obs["m2st_domain"]`` and coordinates.
    path
        File in a folder that exists. It ends in ``.html``.
    key_added
        Name of the result to show.
    columns
        Further columns of ``obs`` to show on the map, such as an annotation or other numbers of
        domains, with at most 1,000 categories each. They are compared with nothing.
    sample_key
        Column of ``obs`` with the section of each observation; None takes the one that the spatial
        graph was built with, if any.
    spatial_key
        Key of ``obsm`` with the coordinates. The first two columns are drawn. None takes the
        coordinates that the spatial graph was built from, else ``"spatial"``.
    n_markers
        Most genes to list for each domain; 0 for no markers.
    title
        Heading of the page.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    KeyError
        If domains, coordinates or a column are missing.
    ValueError
        If `path` does not end in ``.html``; if there is nothing to draw; if a column has more than
        1,000 categories.
    FileNotFoundError
        If the folder does not exist.
    FileExistsError
        If there is a file already, and `overwrite` is not set.
    OSError
        If the page cannot be written; what was there is unchanged.

    Notes
    -----
    The same result gives the same bytes. Coordinates are rounded to 1/65535 of the longer side of a
    section, confidences to three decimals, expression to 64 steps up to its 99th percentile. The
    map shows the best markers of each domain, six million values at most. Tissue images are made
    smaller until all together have four million pixels. A strict content security policy in the
    page forbids requests and foreign scripts.

    Markers are the genes that scanpy's Welch test (``rank_genes_groups``) ranks highest, on
    log-normalised expression of the layer that the run was prepared from, else of ``X``. Counts are
    normalised in a copy. The page shows no p-values. The same expression found the domains, so
    p-values would be small even without any domains (double dipping).

    Examples
    --------
    >>> m2st.report(adata, "report.html")  # doctest: +SKIP
    """
    target = check_target(Path(path), (".html",), overwrite=overwrite)
    check_int("n_markers", n_markers, minimum=0)
    keys = _keys.Keys(key_added)
    domains = read_domains(adata, keys)
    record, unfit = readable(adata.uns, keys.record)
    solutions = describe_solutions(record) if keys.second in adata.obs else None
    second = [] if solutions is None else [keys.second]
    columns = [key for key in dict.fromkeys(columns) if key not in {keys.domain, *second}]
    sample_key = sample_key or recorded_key(adata, "sample_key")
    spatial_key = spatial_key or recorded_key(adata, "spatial_key") or _keys.COORDINATES
    shown, valid = select_shown(adata, [keys.domain, *second, *columns], sample_key, spatial_key)
    sections = [
        find_section(shown, name, rows, shown.obsm[_keys.COORDINATES][rows])
        for name, rows in find_samples(shown, sample_key, np.ones(shown.n_obs, dtype=bool))
    ]
    colors = kept_colors(shown, keys.domain, len(domains.categories))
    confidence = read_confidence(adata, keys)
    table = domain_table(domains, confidence, colors, record)
    composition = count_composition(adata, domains, sample_key)
    shares = find_shares(shown, keys.domain, sample_key)
    layers = make_layers(shown, keys.domain, columns, confidence[valid])
    if solutions is not None:
        n_second = len(read_categories(shown, keys.second).categories)
        more = palette(max(n_second - len(colors), 0), taken=colors)
        shown.uns[_keys.colors(keys.second)] = [*colors, *more]
        layers.append({**make_labels(shown, keys.second), "label": "Second solution"})
        solutions[1]["layer"] = len(layers) - 1
    frames = [
        make_frame(section, find_library(shown, section.name), len(sections))
        for section in sections
    ]
    no_images = findings_of_images(shown, frames)
    markers, genes, why_none = find_markers(adata, domains, colors, record, n_markers)
    genes = [{**gene, "codes": gene["codes"][valid]} for gene in genes]
    page = _render(
        title=title,
        n_obs=adata.n_obs,
        table=table,
        sections=sections,
        solutions=solutions,
        composition=composition,
        shares=shares,
        layers=layers,
        payload=make_payload(shown, sections, frames, layers, genes),
        warnings=[
            *list_findings(domains, record, table, composition, int((~valid).sum())),
            *no_images,
            *findings_of_record(unfit, keys.record),
        ],
        confidence=confidence_facts(confidence, table),
        markers=markers,
        genes=genes,
        scale=share_colors(np.linspace(0, 1, 7)).tolist(),
        why_no_markers=why_none,
        training=describe_training(record),
        weights=describe_weights(record),
        members=describe_members(record),
        choice=describe_choice(record),
        from_r="r" in record,
        applied="apply" in record,
        labelled="n_unassigned" in record.get("apply", {}),
        steps=list_steps(record),
        run=run_in_words(record),
        missing_color=MISSING_COLOR,
    )
    write_whole(target, page.encode("utf-8", "replace"))


def _render(**content: Any) -> str:
    """Fill the template; what comes from the data is escaped by the template engine."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    from m2st import __version__

    environment = Environment(
        loader=PackageLoader("m2st._report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    folder = Path(__file__).with_name("template")
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
