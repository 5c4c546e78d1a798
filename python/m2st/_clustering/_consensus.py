"""Consensus of several clusterings of the same observations, and how far to trust it.

Linear in the number of observations: members are compared through tables of domains × domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from m2st._clustering._mixture import filled_labels

Array = NDArray[np.float64]

_MAX_ROUNDS = 20


@dataclass(frozen=True)
class Consensus:
    """What the members agree on.

    Parameters
    ----------
    labels
        Domain of each observation, 0 to K - 1 by decreasing size, shape (n_obs,).
    responsibilities
        Mean of the members' responsibilities, shape (n_obs, K), rows sum to 1.
    stability
        Mean over the members of the Jaccard index of each domain and its counterpart, shape (K,).
    agreement
        Adjusted Rand index of each member and the consensus, shape (n_members,).
    orders
        Which of its domains each member has for each of the consensus, shape (n_members, K).
    """

    labels: NDArray[np.intp]
    responsibilities: Array
    stability: Array
    agreement: Array
    orders: NDArray[np.intp]

    def reorder(self, ranking: NDArray[np.intp]) -> Consensus:
        """Return the same with other numbers: for each new one the present one, shape (K,)."""
        return replace(
            self,
            labels=np.argsort(ranking, kind="stable")[self.labels],
            responsibilities=self.responsibilities[:, ranking],
            stability=self.stability[ranking],
            orders=self.orders[:, ranking],
        )


@dataclass(frozen=True)
class NumberOfDomains:
    """Evidence for a number of domains; arrays have an entry per candidate.

    Parameters
    ----------
    candidates
        Numbers of domains that were tried.
    stability
        Mean adjusted Rand index between the members of the ensemble.
    gain
        How much the objective falls, in nats per observation, from one domain less.
    score
        ``stability × (1 - gain of one domain more / gain)``: high where members agree and a further
        domain explains much less than the last one did.
    chosen
        Candidate with the largest score.
    """

    candidates: NDArray[np.intp]
    stability: Array
    gain: Array
    score: Array
    chosen: int


def number_of_domains(
    candidates: Sequence[int],
    labels: Mapping[int, Sequence[NDArray[np.intp]]],
    objectives: Mapping[int, float],
) -> NumberOfDomains:
    """Weigh how members agree against what each further domain explains.

    Parameters
    ----------
    candidates
        Numbers of domains to choose from, ascending, at least 2.
    labels
        By candidate: the labels of each member.
    objectives
        By candidate, and by the numbers just below and above: mean objective of the members.

    Returns
    -------
    NumberOfDomains

    Notes
    -----
    Stability alone favours two or three domains, whatever there is; the elbow of the objective
    alone is unsure where it is round. Their product was right within one on simulations with 3 to 9
    layers.
    """
    gain, following = (
        np.array([objectives[k + step - 1] - objectives[k + step] for k in candidates])
        for step in (0, 1)
    )
    stability = np.array(
        [
            np.mean([adjusted_rand_score(*pair) for pair in combinations(labels[k], 2)] or [1.0])
            for k in candidates
        ]
    )
    elbow = 1 - np.clip(following / np.maximum(gain, 1e-12), 0, 1)
    score = stability * elbow
    return NumberOfDomains(
        candidates=np.array(candidates),
        stability=stability,
        gain=gain,
        score=score,
        chosen=int(candidates[int(score.argmax())]),
    )


def consensus(responsibilities: Sequence[NDArray[Any]]) -> Consensus:
    """Bring the members' domains into correspondence and average them.

    Parameters
    ----------
    responsibilities
        One array of shape (n_obs, K) per member, rows sum to 1.

    Returns
    -------
    Consensus

    Raises
    ------
    ValueError
        If there is no member, or their shapes differ.

    Notes
    -----
    The correspondence is the assignment of domains that maximises the shared responsibility
    (Hungarian method), to the member that agrees most with the others and then, until nothing
    moves, to the mean.

    Members differ from each other as runs with other seeds do, so that the mean responsibility of a
    domain is close to the share of runs that choose it (``benchmarks/reliability.md``).
    """
    members = [np.asarray(member, dtype=np.float64) for member in responsibilities]
    shapes = {member.shape for member in members}
    if len(shapes) != 1:
        msg = f"Expected responsibilities of one shape, found {sorted(shapes) or 'none'}."
        raise ValueError(msg)
    orders = _orders(members)
    mean = _mean(members, orders)
    labels = filled_labels(mean)
    # Domains are numbered by size.
    ranking = np.argsort(-np.bincount(labels, minlength=mean.shape[1]), kind="stable")
    orders = orders[:, ranking]
    labels = np.argsort(ranking, kind="stable")[labels]
    found = [member[:, order].argmax(axis=1) for member, order in zip(members, orders, strict=True)]
    jaccard = [[_jaccard(labels == k, other == k) for k in range(mean.shape[1])] for other in found]
    return Consensus(
        labels=labels,
        responsibilities=mean[:, ranking],
        stability=np.mean(jaccard, axis=0),
        agreement=np.array([adjusted_rand_score(labels, other) for other in found]),
        orders=orders,
    )


def _orders(members: list[Array]) -> NDArray[np.intp]:
    """Order of each member's domains that brings them into correspondence."""
    labels = [member.argmax(axis=1) for member in members]
    agreement = [sum(adjusted_rand_score(one, other) for other in labels) for one in labels]
    mean = members[int(np.argmax(agreement))]
    for _ in range(_MAX_ROUNDS):
        orders = np.stack(
            [linear_sum_assignment(mean.T @ member, maximize=True)[1] for member in members]
        )
        before, mean = mean, _mean(members, orders)
        if np.array_equal(before.argmax(axis=1), mean.argmax(axis=1)):
            break
    return orders


def _mean(members: list[Array], orders: NDArray[np.intp]) -> Array:
    """Mean responsibility of members whose domains are brought into order."""
    # One after the other: all members side by side would be held twice more.
    mean: Array = np.ascontiguousarray(members[0][:, orders[0]])
    for member, order in zip(members[1:], orders[1:], strict=True):
        mean += member[:, order]
    mean /= len(members)
    return mean


def _jaccard(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(one | other)
    return float(np.count_nonzero(one & other) / union) if union else 1.0
