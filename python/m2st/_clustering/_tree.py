"""Domains within domains: which of them are the nearest to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from threadpoolctl import threadpool_limits

Array = NDArray[np.float64]

# Share of the mean variance that every direction has at least, as in the mixture.
_FLOOR = 1e-3


def domain_tree(
    representation: NDArray[Any], labels: NDArray[np.intp], n_domains: int
) -> NDArray[np.float64]:
    r"""Merge domains step by step, each time the two whose union costs least.

    As in the mixture, domains differ in their centres :math:`v_k` and share a covariance
    :math:`\Sigma`. To merge two of them costs

    .. math:: \frac{1}{2N} \frac{n_k n_l}{n_k + n_l} (v_k - v_l)^\top \Sigma^{-1} (v_k - v_l)

    nats per observation, by which a normal mixture then tells less of the representation. It is
    Ward's criterion, in units of the scatter within domains.

    Parameters
    ----------
    representation
        Shape (n_obs, d), finite.
    labels
        Domain of each observation, 0 to `n_domains` - 1, each at least once; shape (n_obs,).
    n_domains
        Number of domains K.

    Returns
    -------
    Merges as `scipy.cluster.hierarchy.linkage` has them, shape (K - 1, 4): numbers of the two, the
    cost of a merge, which never falls, and the domains below it.

    References
    ----------
    Ward JH. Hierarchical grouping to optimize an objective function. Journal of the American
    Statistical Association 58, 1963.
    """
    n_obs, width = representation.shape
    with threadpool_limits(1):
        sizes, centers, scatter = np.zeros(n_domains), np.zeros((n_domains, width)), 0.0
        for domain in range(n_domains):
            rows = np.asarray(representation[labels == domain], dtype=np.float64)
            sizes[domain], centers[domain] = len(rows), rows.mean(axis=0)
            scatter = scatter + (rows - centers[domain]).T @ (rows - centers[domain])
        covariance = np.asarray(scatter) / n_obs
        covariance += _FLOOR * (np.trace(covariance) / width or 1.0) * np.eye(width)
        root = linalg.cholesky(covariance, lower=True)
        centers = linalg.solve_triangular(root, centers.T, lower=True).T
        places, n_below = list(range(n_domains)), np.ones(n_domains)
        merges = np.empty((n_domains - 1, 4))
        for step in range(n_domains - 1):
            gaps = np.square(centers[:, None] - centers).sum(axis=2)
            costs = sizes[:, None] * sizes / (sizes[:, None] + sizes) * gaps / (2 * n_obs)
            costs[np.tril_indices(len(costs))] = np.inf
            one, other = np.unravel_index(costs.argmin(), costs.shape)
            pair = sorted((places[one], places[other]))
            n_below[one] += n_below[other]
            merges[step] = *pair, costs[one, other], n_below[one]
            share = sizes[other] / (sizes[one] + sizes[other])
            centers[one] += share * (centers[other] - centers[one])
            sizes[one] += sizes[other]
            places[one] = n_domains + step
            del places[other]
            sizes, n_below = np.delete(sizes, other), np.delete(n_below, other)
            centers = np.delete(centers, other, axis=0)
    # Rounding may undo what Ward's criterion grants.
    merges[:, 2] = np.maximum.accumulate(merges[:, 2])
    return merges


def cut_tree(merges: NDArray[np.float64], n_groups: int) -> NDArray[np.intp]:
    """Group of each domain when the first merges are made, numbered by first domain; shape (K,)."""
    n_domains = len(merges) + 1
    groups = [{domain} for domain in range(n_domains)]
    for one, other in merges[: n_domains - n_groups, :2].astype(int):
        groups.append(groups[one] | groups[other])
        groups[one] = groups[other] = set()
    found = np.empty(n_domains, dtype=np.intp)
    for number, group in enumerate(sorted(filter(None, groups), key=min)):
        found[list(group)] = number
    return found
