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
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score, silhouette_score

from m2st._clustering._mixture import filled_labels

Array = NDArray[np.float64]

_MAX_ROUNDS = 20
# Members fall into camps from this mean silhouette, if two camps agree no more than this, and have
# this share of the members.
_LEAST_APART, _MOST_ALIKE, _LEAST_COVERED = 0.5, 0.9, 0.75
# Jaccard index from which domains of two solutions have one name.
_NAMESAKES = 0.1


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
    likeness
        Adjusted Rand index of each two members, shape (n_members, n_members).
    orders
        Which of its domains each member has for each of the consensus, shape (n_members, K).
    """

    labels: NDArray[np.intp]
    responsibilities: Array
    stability: Array
    agreement: Array
    likeness: Array
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
class Solutions:
    """Two camps that members fall into: each agrees on domains, and not on those of the other.

    Parameters
    ----------
    camps
        Camp of each member, shape (n_members,): 1 for the one that is nearest to the consensus, 2
        for the largest other one, 0 for members in neither.
    within
        Mean adjusted Rand index of two members of each camp, shape (2,).
    between
        The same of a member of the one and a member of the other.
    labels
        Consensus of the second camp, shape (n_obs,). Its domains have the numbers of the domains
        that they share most with, and numbers from K if they share almost nothing.
    """

    camps: NDArray[np.intp]
    within: Array
    between: float
    labels: NDArray[np.intp]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the record, without the labels."""
        return {
            "camps": self.camps,
            "shares": np.array([np.mean(self.camps == camp) for camp in (1, 2)]),
            "within": self.within,
            "between": self.between,
        }


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
    likeness = _likeness([member.argmax(axis=1) for member in members])
    orders = _orders(members, likeness)
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
        likeness=likeness,
        orders=orders,
    )


def find_solutions(responsibilities: Sequence[NDArray[Any]], found: Consensus) -> Solutions | None:
    """Find two camps of members, if there are any.

    Parameters
    ----------
    responsibilities
        Those that the consensus was found of.
    found
        The consensus.

    Returns
    -------
    Solutions, or None: if members agree, if each differs from every other, if they fall into more
    than two groups, or if a camp would be a single member.

    Notes
    -----
    Members are grouped by average linkage of 1 - adjusted Rand index, into as many groups as give
    the largest mean silhouette [1]_. Below 0.5 they are no camps but shades. Camps that agree with
    an index above 0.9 draw almost the same domains. A camp has two members or more, so that three
    members have none. The two camps have three quarters of the members or more.

    No criterion without labels chose the better camp more often than the majority did
    (``benchmarks/NOTEBOOK.md``, *Camps*), so that the consensus stays what it is.

    References
    ----------
    .. [1] Rousseeuw (1987). Silhouettes: a graphical aid to the interpretation and validation of
       cluster analysis. J Comput Appl Math 20, 53-65.
    """
    groups = _camps(found.likeness)
    if len(groups) < 2:
        return None
    first = max(groups, key=lambda group: found.agreement[group].mean())
    second = max((group for group in groups if group is not first), key=len)
    between = float(found.likeness[np.ix_(first, second)].mean())
    covered = (len(first) + len(second)) / len(responsibilities)
    if between > _MOST_ALIKE or covered < _LEAST_COVERED:
        return None
    camps = np.zeros(len(responsibilities), dtype=np.intp)
    camps[first], camps[second] = 1, 2
    other = consensus([responsibilities[member] for member in second])
    n_domains = len(other.stability)
    shared = np.bincount(found.labels * n_domains + other.labels, minlength=n_domains**2)
    shared = shared.reshape(n_domains, n_domains)
    rows, columns = linear_sum_assignment(shared, maximize=True)
    union = shared.sum(axis=1) + shared.sum(axis=0)[columns] - shared[rows, columns]
    is_new = shared[rows, columns] < _NAMESAKES * union
    numbers = np.empty(n_domains, dtype=np.intp)
    numbers[columns] = np.where(is_new, n_domains - 1 + np.cumsum(is_new), rows)
    return Solutions(
        camps=camps,
        within=np.array(
            [
                found.likeness[np.ix_(group, group)][~np.eye(len(group), dtype=bool)].mean()
                for group in (first, second)
            ]
        ),
        between=between,
        labels=numbers[other.labels],
    )


def _camps(likeness: Array) -> list[NDArray[np.intp]]:
    """Members of each camp; none if members do not fall into camps."""
    n_members = len(likeness)
    if n_members < 4:
        return []
    distance = 1 - likeness
    tree = linkage(squareform(distance, checks=False), "average")
    best, groups = _LEAST_APART, np.zeros(n_members, dtype=np.intp)
    for n_groups in range(2, n_members):
        candidate = fcluster(tree, n_groups, "maxclust")
        if candidate.max() == n_groups:  # ties leave fewer
            score = silhouette_score(distance, candidate, metric="precomputed")
            if score > best:
                best, groups = score, candidate
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    return [group for group in members if len(group) > 1]


def _likeness(labels: list[NDArray[np.intp]]) -> Array:
    """Adjusted Rand index of each two members."""
    likeness = np.eye(len(labels))
    for one, other in combinations(range(len(labels)), 2):
        index = adjusted_rand_score(labels[one], labels[other])
        likeness[one, other] = likeness[other, one] = index
    return likeness


def _orders(members: list[Array], likeness: Array) -> NDArray[np.intp]:
    """Order of each member's domains that brings them into correspondence."""
    # Added in the order of the members, as sums in another order may break ties otherwise.
    mean = members[int(np.argmax([sum(row) for row in likeness.tolist()]))]
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
