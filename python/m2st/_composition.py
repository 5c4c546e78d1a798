"""Shares of domains in sections, and their change between conditions: arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

# Halvings of a section: eight blocks, long enough for domains of a tenth of its width.
_HALVINGS = 3
LEVEL = 0.95
# What limma takes from the variances: none is below this share of their median.
_LEAST_VARIANCE = 1e-5


def halve(points: NDArray[np.float64], n_halvings: int) -> NDArray[np.intp]:
    """Cut tissue into blocks of equal numbers of observations, each time across the longer axis.

    Parameters
    ----------
    points
        Shape (n_obs, n_axes).
    n_halvings
        Cuts of each block into two.

    Returns
    -------
    Block of each observation, shape (n_obs,), from 0 to 2**n_halvings - 1.
    """
    found = np.zeros(len(points), dtype=np.intp)
    parts = [np.arange(len(points))]
    for _ in range(n_halvings):
        halves = []
        for part in parts:
            inside = points[part]
            axis = int(np.ptp(inside, axis=0).argmax()) if len(part) else 0
            # Ties of a lattice by the other axes: the order of the observations does not matter.
            others = [inside[:, other] for other in range(inside.shape[1]) if other != axis]
            order = np.lexsort([*others, inside[:, axis]])
            halves += np.split(part[order], [len(part) // 2])
        parts = halves
    for block, part in enumerate(parts):
        found[part] = block
    return found


def effective_number(
    points: NDArray[np.float64], codes: NDArray[np.integer], n_domains: int
) -> float:
    """Number of independent observations that would tell the shares of domains as well.

    Parameters
    ----------
    points
        Observations of a section, shape (n_obs, n_axes).
    codes
        Domain of each, shape (n_obs,), from 0.
    n_domains
        Number of domains K.

    Returns
    -------
    At least 1, and at most n_obs.

    Notes
    -----
    Blocks of tissue are the sampling units (clusters), as in a survey: the variance of a share is
    that of the means of blocks, over their number. Kish's design effect is this variance over that
    of independent observations. All domains have one, of the sums of both, because rare ones have
    too few blocks.
    """
    n_obs = len(codes)
    n_halvings = min(_HALVINGS, int(np.log2(max(n_obs, 1))))
    n_blocks = 2**n_halvings
    if n_blocks < 2:
        return float(n_obs)
    counts = np.zeros((n_blocks, n_domains))
    np.add.at(counts, (halve(points, n_halvings), codes), 1)
    shares = counts / counts.sum(axis=1, keepdims=True)
    overall = counts.sum(axis=0) / n_obs
    independent = (overall * (1 - overall)).sum()
    clustered = shares.var(axis=0, ddof=1).sum() / n_blocks
    if independent == 0:  # one domain everywhere: as many independent places as blocks
        return float(n_blocks)
    if clustered * n_obs <= independent:
        return float(n_obs)
    return max(1.0, float(independent / clustered))


def share_interval(
    shares: NDArray[np.float64], n_effective: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval at 95 % for shares of an effective number of observations.

    The quantile is that of Student's t with one degree of freedom less than there are blocks.
    """
    factor = stats.t.ppf((1 + LEVEL) / 2, 2**_HALVINGS - 1) ** 2
    middle = shares + factor / (2 * n_effective)
    half = np.sqrt(factor * (shares * (1 - shares) / n_effective + factor / (4 * n_effective**2)))
    whole = 1 + factor / n_effective
    low, high = (middle - half) / whole, (middle + half) / whole
    # Rounding: an interval holds its share.
    return np.clip(np.minimum(low, shares), 0, 1), np.clip(np.maximum(high, shares), 0, 1)


def log_ratios(
    shares: NDArray[np.float64], n_effective: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Centred log-ratios of the shares of each section (Aitchison), zeros replaced.

    Half an effective observation is added to each domain. A domain that is absent thus has the
    share that so much tissue can just not exclude.

    Parameters
    ----------
    shares
        Shape (n_sections, n_domains).
    n_effective
        Shape (n_sections,).
    """
    logs = np.log(shares * n_effective[:, None] + 0.5)
    centred: NDArray[np.float64] = logs - logs.mean(axis=1, keepdims=True)
    return centred


class Change(NamedTuple):
    """Differences of mean log-ratios from a reference, each of shape (n_conditions - 1, K)."""

    effect: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    t: NDArray[np.float64]
    p_value: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]


def compare(
    ratios: NDArray[np.float64], groups: NDArray[np.integer], n_groups: int
) -> Change | None:
    """Compare log-ratios of groups of sections with group 0, by moderated t statistics.

    Parameters
    ----------
    ratios
        Shape (n_sections, n_domains).
    groups
        Group of each section, shape (n_sections,), from 0. There are more sections than groups.
    n_groups
        Number of groups.

    Returns
    -------
    The differences; None if no domain varies within a group.
    """
    n_sections, n_domains = ratios.shape
    freedom = n_sections - n_groups
    sizes = np.bincount(groups, minlength=n_groups)
    means = np.stack([ratios[groups == group].mean(axis=0) for group in range(n_groups)])
    variances = ((ratios - means[groups]) ** 2).sum(axis=0) / freedom
    if not (variances > 1e-20).any():
        return None
    prior = squeeze(variances, freedom)
    variance = (prior.freedom * prior.variance + freedom * variances) / (prior.freedom + freedom)
    # Log-ratios of a section have the sum 0: one domain tells nothing new.
    total = min(freedom + prior.freedom, freedom * (n_domains - 1))
    error = np.sqrt(variance * (1 / sizes[1:, None] + 1 / sizes[0]))
    effect = means[1:] - means[0]
    t = effect / error
    p_value = 2 * stats.t.sf(np.abs(t), total)
    half = stats.t.ppf((1 + LEVEL) / 2, total) * error
    adjusted = stats.false_discovery_control(p_value, axis=None).reshape(p_value.shape)
    return Change(effect, effect - half, effect + half, t, p_value, adjusted)


class Prior(NamedTuple):
    """Inverse chi-squared distribution of variances: where it is, and its degrees of freedom."""

    variance: float
    freedom: float


def squeeze(variances: NDArray[np.float64], freedom: int) -> Prior:
    """Find what variances of several domains have in common, as limma's ``fitFDist`` does.

    The moments of their logarithms give the prior. Its degrees of freedom are at most those of the
    variances: few domains cannot tell how alike their variances are, and more would let too many
    domains differ.

    Parameters
    ----------
    variances
        Shape (n_domains,), each with `freedom` degrees of freedom.
    """
    kept = np.maximum(variances, _LEAST_VARIANCE * np.median(variances))
    kept = np.maximum(kept, np.finfo(float).tiny)
    logs = np.log(kept) - special.digamma(freedom / 2) + np.log(freedom / 2)
    excess = (logs.var(ddof=1) if len(logs) > 1 else 0.0) - special.polygamma(1, freedom / 2)
    if excess <= 0:
        return Prior(float(kept.mean()), float(freedom))
    half = _trigamma_inverse(float(excess))
    variance = np.exp(logs.mean() + special.digamma(half) - np.log(half))
    return Prior(float(variance), float(min(2 * half, freedom)))


def _trigamma_inverse(value: float) -> float:
    """Solve trigamma(x) = value by Newton's method, which converges from here (Smyth 2004)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        now = special.polygamma(1, x)
        step = now * (1 - now / value) / special.polygamma(2, x)
        x += step
        if -step / x < 1e-8:
            break
    return float(x)
