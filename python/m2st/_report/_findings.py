"""What deserves a second look, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from m2st._plotting import find_libraries, find_library, mapping_in
from m2st._record import are_tiny, solutions_in_words
from m2st._report._tables import DomainRow
from m2st._sections import joined_in_words

_LOW_CONFIDENCE = 0.8
_LOW_STABILITY = 0.5
_ONE_SECTION = 0.95
_WHY_LOW = {
    False: "Another seed may well draw the borders elsewhere.",
    True: "An annotator may well give another label.",
}


def list_findings(
    domains: pd.Categorical,
    record: Mapping[str, Any],
    table: list[DomainRow],
    composition: pd.DataFrame | None,
    n_without_place: int,
) -> list[str]:
    """What deserves a second look, in words."""
    return [
        *_findings_of_data(domains, record, n_without_place),
        *_findings_of_run(record),
        *_findings_of_solutions(record),
        *_findings_of_sections(domains, record),
        *_findings_of_domains(
            table, composition, labelled="n_unassigned" in record.get("apply", {})
        ),
    ]


def _findings_of_data(
    domains: pd.Categorical, record: Mapping[str, Any], n_without_place: int
) -> list[str]:
    """Observations that took no part, or stand alone."""
    found = []
    n_unassigned = int(record.get("apply", {}).get("n_unassigned", 0))
    if n_unassigned:
        found.append(
            f"{_count(n_unassigned, 'observation')} of {len(domains):,} {_have(n_unassigned)} no "
            "label: unlike all that is labelled in the reference."
        )
    n_missing = int((domains.codes < 0).sum()) - n_unassigned
    if n_missing > 0:
        found.append(
            f"{_count(n_missing, 'observation')} of {len(domains):,} {_have(n_missing)} no domain: "
            "without counts, without a place or off the tissue, there is nothing to tell one from."
        )
    if n_without_place:
        found.append(
            f"{_count(n_without_place, 'observation')} {_have(n_without_place)} no coordinates and "
            f"{'is' if n_without_place == 1 else 'are'} not drawn."
        )
    graph = record.get("graph", {})
    if "overlay" in graph:
        found.append(str(graph["overlay"]))
    n_isolated = int(graph.get("n_isolated", 0)) - int(graph.get("n_invalid", 0))
    if n_isolated:
        found.append(
            f"{_count(n_isolated, 'observation')} {_have(n_isolated)} no neighbour in the spatial "
            f"graph: {'its domain follows' if n_isolated == 1 else 'their domains follow'} from "
            "expression alone."
        )
    return found


def findings_of_images(shown: AnnData, frames: list[dict[str, Any]]) -> list[str]:
    """Tissue images that are there and not shown, and why."""
    found = []
    for frame in frames:
        reason = frame.pop("no_image", None)
        if reason is not None:
            of = f" of section {frame['name']}" if frame["name"] else ""
            found.append(f"The tissue image{of} is not shown. {reason}")
    names = [name for name, entry in find_libraries(shown).items() if mapping_in(entry, "images")]
    if names and not any(find_library(shown, frame["name"]) for frame in frames):
        found.append(
            f"There are tissue images of {', '.join(names)}, and none of a section of this name. "
            "Name the column of the sections."
        )
    return found


def findings_of_record(unfit: list[str], name: str) -> list[str]:
    """What of the record could not be read."""
    if not unfit:
        return []
    return [
        f"The record of the run, {name!r}, is not as m2ST writes it. What does not "
        f"fit is left out: {', '.join(unfit)}."
    ]


def _findings_of_run(record: Mapping[str, Any]) -> list[str]:
    """How training, clustering and the choice of a number went."""
    embed, cluster = record.get("embed", {}), record.get("cluster", {})
    found = []
    if embed.get("stopped") == "interrupted":
        found.append(
            "The training was interrupted. The domains come from what was learned until then; a "
            "whole training may give others."
        )
    if not cluster and "apply" not in record:
        found.append(
            "There is no record of a clustering here: the domains come from models trained on "
            "other data, or were written by something else."
        )
    if not cluster.get("converged", True):
        found.append(
            "The clustering of at least one member had not converged at its last iteration. Raise "
            "max_iter."
        )
    if cluster.get("method") == "dual":
        found.append(
            "The domains come from the paper's own clustering, which gives labels without "
            "probabilities. "
            + (
                "There is a single model, so there is no confidence."
                if int(record.get("n_members", 2)) == 1
                else "The confidence is the share of the models that agree."
            )
        )
    elif int(record.get("n_members", 2)) == 1:
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


def _findings_of_solutions(record: Mapping[str, Any]) -> list[str]:
    """Whether members fall into camps."""
    entry = record.get("cluster", {}).get("solutions")
    return [] if entry is None else [solutions_in_words(entry)]


def _findings_of_sections(domains: pd.Categorical, record: Mapping[str, Any]) -> list[str]:
    """How sections fared that were clustered together."""
    entry = record.get("cluster", {}).get("sections")
    names = list(map(str, domains.categories))
    if entry is None or len(names) != int(record["cluster"]["n_domains"]):
        return []
    return [finding.text for finding in joined_in_words(entry, names)]


def _findings_of_domains(
    table: list[DomainRow], composition: pd.DataFrame | None, *, labelled: bool
) -> list[str]:
    """Domains that are unsure, empty, tiny or of one section only."""
    found = []
    empty = [row.name for row in table if row.n_obs == 0]
    if empty:
        found.append(f"{_named(empty)} {_have(len(empty))} no observation.")
    sizes = np.array([row.n_obs for row in table])
    tiny = [row.name for row, small in zip(table, are_tiny(sizes), strict=True) if small]
    if tiny:
        found.append(
            f"{_named(tiny)} {_have(len(tiny))} less than a twentieth of an equal share of the "
            "observations: outliers, perhaps, rather than tissue. Look at their counts or features."
        )
    unsure = [row.name for row in table if row.median is not None and row.median < _LOW_CONFIDENCE]
    if unsure:
        found.append(
            f"Low confidence: in {_named(unsure, start=False)} half of the observations are below "
            f"{_LOW_CONFIDENCE}. {_WHY_LOW[labelled]}"
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
