"""Domains of several sections together, held against what each section shows by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from threadpoolctl import threadpool_limits

from m2st._clustering._consensus import Consensus

Array = NDArray[np.float64]

# Joint domains that tell less than this share of what own ones tell are worse; so are those that
# tell less than the second share and have borders this many times as long.
_LEFT = 0.8
_LESS, _LONGER = 0.97, 1.05
# A round share of the variance on which scatter within a domain leans.
_ROUND = 1e-3


@dataclass(frozen=True)
class Joined:
    """Domains of several sections, and how each of them fares among the others.

    Parameters
    ----------
    labels
        Domain of each observation, 0 to K - 1, shape (n_obs,).
    responsibilities
        Mean of joint and own responsibilities, times the agreement of the section; shape
        (n_obs, K). Rows sum to at most 1.
    keeps_own
        Whether a section keeps domains of its own, shape (n_sections,).
    agreement
        Adjusted Rand index of joint and own domains; NaN without own ones. Shape (n_sections,).
    border
        Share of the edges of the spatial graph that joint and own domains cut, shape
        (n_sections, 2).
    information
        What joint and own domains tell of the representation, in nats per observation, shape
        (n_sections, 2).
    shares
        Share of each section's observations in each domain, shape (n_sections, K).
    """

    labels: NDArray[np.intp]
    responsibilities: Array
    keeps_own: NDArray[np.bool_]
    agreement: Array
    border: Array
    information: Array
    shares: Array

    def reorder(self, ranking: NDArray[np.intp]) -> Joined:
        """Return the same with other numbers: for each new one the present one, shape (K,)."""
        return replace(
            self,
            labels=np.argsort(ranking, kind="stable")[self.labels],
            responsibilities=self.responsibilities[:, ranking],
            shares=self.shares[:, ranking],
        )

    def to_dict(self) -> dict[str, NDArray[Any]]:
        """What is said of each section, for a record."""
        names = ("keeps_own", "agreement", "border", "information", "shares")
        return {name: getattr(self, name) for name in names}


def join_sections(
    joint: Consensus,
    own: Sequence[Consensus | None],
    sections: NDArray[np.intp],
    adjacency: sparse.csr_matrix,
    representation: Array,
) -> Joined:
    r"""Hold the joint domains of each section against its own, and keep the own where they fit.

    Parameters
    ----------
    joint
        Consensus on all observations.
    own
        For each section the consensus on its observations, in order, with as many domains; None
        where there are too few.
    sections
        Number of the section of each observation, shape (n_obs,).
    adjacency
        Spatial graph, shape (n_obs, n_obs), without edges between sections.
    representation
        What all members have in common, shape (n_obs, d).

    Returns
    -------
    Joined

    Notes
    -----
    No label enters. A section keeps its own domains if the joint ones tell less than 80 % of what
    the own ones tell, or less than 97 % with borders that are more than 5 % longer. What domains
    tell is :math:`\tfrac12 \ln(\lvert T \rvert / \lvert W \rvert)`, with the scatter :math:`T`
    of the section and :math:`W` within its domains: the likelihood that normal domains of one shape
    gain. These limits were compared on sections of tissue and simulations
    (``benchmarks/NOTEBOOK.md``).

    The own domains get the names of the joint ones by the assignment with the largest shared
    responsibility. What shares none goes to the nearest centre that is left.
    """
    n_sections, n_domains = len(own), joint.responsibilities.shape[1]
    labels, responsibilities = joint.labels.copy(), joint.responsibilities.copy()
    keeps_own = np.zeros(n_sections, dtype=bool)
    agreement = np.full(n_sections, np.nan)
    border, information = np.full((n_sections, 2), np.nan), np.full((n_sections, 2), np.nan)
    with threadpool_limits(1):
        centers = _centers(representation, joint.labels, n_domains)
        for section, found in enumerate(own):
            rows = np.flatnonzero(sections == section)
            if found is None:
                continue
            block, graph = representation[rows], adjacency[rows][:, rows]
            pair = joint.labels[rows], found.labels
            border[section] = [_border(one, graph) for one in pair]
            information[section] = [_information(block, one) for one in pair]
            agreement[section] = adjusted_rand_score(*pair)
            order = _order(
                joint.responsibilities[rows], found, centers, _centers(block, pair[1], n_domains)
            )
            both = (joint.responsibilities[rows] + found.responsibilities[:, order]) / 2
            responsibilities[rows] = max(agreement[section], 0) * both
            left = information[section, 0] / max(information[section, 1], 1e-12)
            longer = border[section, 0] > _LONGER * border[section, 1]
            keeps_own[section] = left < _LEFT or (left < _LESS and longer)
            if keeps_own[section]:
                labels[rows] = np.argsort(order)[pair[1]]
    counts = np.zeros((n_sections, n_domains))
    np.add.at(counts, (sections, labels), 1)
    sizes = counts.sum(axis=1, keepdims=True)
    return Joined(
        labels=labels,
        responsibilities=responsibilities,
        keeps_own=keeps_own,
        agreement=agreement,
        border=border,
        information=information,
        shares=counts / np.maximum(sizes, 1),
    )


def _border(labels: NDArray[np.intp], adjacency: sparse.csr_matrix) -> float:
    """Share of the edges between different domains."""
    source, target = adjacency.nonzero()
    return float((labels[source] != labels[target]).mean()) if len(source) else 0.0


def _information(block: Array, labels: NDArray[np.intp]) -> float:
    """Half the logarithm of the total scatter over the scatter within domains."""
    width = block.shape[1]
    centred = block - block.mean(axis=0)
    total = centred.T @ centred / len(block)
    within = centred - _centers(centred, labels, labels.max() + 1)[labels]
    scatter = within.T @ within / len(block)
    least = _ROUND * (np.trace(total) / width or 1.0) * np.eye(width)
    logarithms = [np.linalg.slogdet(one + least)[1] for one in (total, scatter)]
    return float(logarithms[0] - logarithms[1]) / 2


def _centers(block: Array, labels: NDArray[np.intp], n_domains: int) -> Array:
    """Mean of each domain, shape (n_domains, d); that of all for a domain without observations."""
    members = np.eye(n_domains)[labels]
    sizes = members.sum(axis=0)[:, None]
    means: Array = np.where(sizes > 0, members.T @ block / np.maximum(sizes, 1), block.mean(axis=0))
    return means


def _order(joint: Array, own: Consensus, centers: Array, own_centers: Array) -> NDArray[np.intp]:
    """Which own domain stands for each of the joint ones."""
    shared = joint.T @ own.responsibilities / len(joint)
    apart = np.linalg.norm(centers[:, None] - own_centers, axis=2)
    # Less than any observation counts: only between domains that share nothing.
    nearness = -1e-3 * apart / (apart.max() or 1.0) / len(joint)
    order: NDArray[np.intp] = linear_sum_assignment(shared + nearness, maximize=True)[1]
    return order
