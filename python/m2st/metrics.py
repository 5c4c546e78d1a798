"""Scores of a partition: against a truth, on an embedding, and in space without any truth.

Everything takes arrays and returns a float. Labels may be strings, numbers or categories. Only
their equality counts. Observations with a missing label (None, NaN, NA) are left out; with two
labellings, both labels are needed. Rows are matched by position, never by index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from sklearn import metrics as sk
from sklearn.metrics.cluster import contingency_matrix

from m2st._checks import check_coordinates, check_features, check_int, check_seed

__all__ = [
    "ari",
    "chaos",
    "davies_bouldin",
    "nmi",
    "nmi_max",
    "pas",
    "purity",
    "silhouette",
]


def _codes(**columns: Any) -> tuple[NDArray[np.bool_], list[NDArray[np.intp]]]:
    """Return which observations have all labels, and the labels of these as whole numbers."""
    codes = {}
    for name, column in columns.items():
        if np.ndim(column) != 1:
            msg = f"Expected `{name}` of shape (n_obs,), found {np.shape(column)}."
            raise ValueError(msg)
        codes[name] = pd.factorize(pd.Series(column))[0]
    lengths = {name: len(code) for name, code in codes.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} in `{name}`" for name, length in lengths.items())
        msg = f"Expected one label per observation in each, found {found}."
        raise ValueError(msg)
    kept = np.all([code >= 0 for code in codes.values()], axis=0)
    if not kept.any():
        names = " and ".join(f"`{name}`" for name in codes)
        msg = f"Expected observations with a label in {names}, found none among {len(kept)}."
        raise ValueError(msg)
    return kept, [code[kept] for code in codes.values()]


def ari(truth: ArrayLike, labels: ArrayLike) -> float:
    """Adjusted Rand index: agreement of two partitions, corrected for chance.

    Parameters
    ----------
    truth
        (n_obs,) reference partition.
    labels
        (n_obs,) partition to score.

    Returns
    -------
    1 for equal partitions, 0 on average for random ones, at least -0.5.

    Raises
    ------
    ValueError
        If the lengths differ or no observation has both labels.

    References
    ----------
    Hubert L, Arabie P. Comparing partitions. Journal of Classification 2:193-218, 1985.

    Examples
    --------
    >>> ari(["a", "a", "b", None], [2, 2, 1, 1])
    1.0
    """
    _, (first, second) = _codes(truth=truth, labels=labels)
    return float(sk.adjusted_rand_score(first, second))


def nmi(truth: ArrayLike, labels: ArrayLike) -> float:
    """Normalised mutual information, divided by the arithmetic mean of the two entropies.

    Parameters
    ----------
    truth
        (n_obs,) reference partition.
    labels
        (n_obs,) partition to score.

    Returns
    -------
    In [0, 1]; 1 for equal partitions.

    Raises
    ------
    ValueError
        If the lengths differ or no observation has both labels.

    See Also
    --------
    nmi_max : the normalisation of the m2ST paper.

    Examples
    --------
    >>> nmi([1, 1, 2, 2], ["x", "y", "x", "y"])
    0.0
    """
    _, (first, second) = _codes(truth=truth, labels=labels)
    return float(sk.normalized_mutual_info_score(first, second))


def nmi_max(truth: ArrayLike, labels: ArrayLike) -> float:
    """Normalised mutual information, divided by the larger of the two entropies.

    This is the normalisation of the m2ST paper. It never exceeds `nmi`, so figures of the two
    kinds must not stand in one table.

    Parameters
    ----------
    truth
        (n_obs,) reference partition.
    labels
        (n_obs,) partition to score.

    Returns
    -------
    In [0, 1]; 1 for equal partitions.

    Raises
    ------
    ValueError
        If the lengths differ or no observation has both labels.

    Examples
    --------
    >>> round(nmi_max([1, 1, 2, 2], [1, 2, 3, 4]), 3)
    0.5
    """
    _, (first, second) = _codes(truth=truth, labels=labels)
    return float(sk.normalized_mutual_info_score(first, second, average_method="max"))


def purity(truth: ArrayLike, labels: ArrayLike) -> float:
    """Share of the observations that belong to the commonest true class of their domain.

    Parameters
    ----------
    truth
        (n_obs,) reference partition.
    labels
        (n_obs,) partition to score.

    Returns
    -------
    In (0, 1]. It grows with the number of domains: compare only at an equal number.

    Raises
    ------
    ValueError
        If the lengths differ or no observation has both labels.

    Examples
    --------
    >>> purity(["a", "a", "b", "b"], [1, 1, 1, 2])
    0.75
    """
    _, (first, second) = _codes(truth=truth, labels=labels)
    table = contingency_matrix(first, second, sparse=True)
    return float(table.max(axis=0).sum() / len(first))


def silhouette(
    embedding: ArrayLike, labels: ArrayLike, *, max_obs: int = 5000, random_state: int = 0
) -> float:
    """Mean silhouette width of a partition in an embedding (Euclidean distance).

    Parameters
    ----------
    embedding
        (n_obs, n_features) coordinates in the embedding.
    labels
        (n_obs,) partition to score.
    max_obs
        Number of observations above which a random subset of this size is scored. Time and memory
        grow with its square, not with ``n_obs``.
    random_state
        Seed of that subset.

    Returns
    -------
    In [-1, 1]; higher is better separated.

    Raises
    ------
    ValueError
        If the lengths differ, the embedding is not finite, or the labels are all alike or all
        different.

    References
    ----------
    Rousseeuw PJ. Silhouettes. Journal of Computational and Applied Mathematics 20:53-65, 1987.

    Examples
    --------
    >>> silhouette([[0.0], [0.0], [9.0], [9.0]], [1, 1, 2, 2])
    1.0
    """
    check_int("max_obs", max_obs, minimum=3)
    check_seed(random_state)
    points, codes = _labelled_points(embedding, labels)
    if len(points) > max_obs:
        subset = np.random.default_rng(random_state).choice(len(points), max_obs, replace=False)
        points, codes = points[subset], codes[subset]
    _check_n_labels(codes)
    return float(sk.silhouette_score(points, codes))


def davies_bouldin(embedding: ArrayLike, labels: ArrayLike) -> float:
    """Davies-Bouldin index of a partition in an embedding: spread of domains over separation.

    Parameters
    ----------
    embedding
        (n_obs, n_features) coordinates in the embedding.
    labels
        (n_obs,) partition to score.

    Returns
    -------
    At least 0; lower is better separated.

    Raises
    ------
    ValueError
        If the lengths differ, the embedding is not finite, or the labels are all alike or all
        different.

    References
    ----------
    Davies DL, Bouldin DW. A cluster separation measure. IEEE Transactions on Pattern Analysis and
    Machine Intelligence 1:224-227, 1979.

    Examples
    --------
    >>> davies_bouldin([[0.0], [2.0], [10.0], [12.0]], [1, 1, 2, 2])
    0.2
    """
    points, codes = _labelled_points(embedding, labels)
    _check_n_labels(codes)
    return float(sk.davies_bouldin_score(points, codes))


def chaos(coordinates: ArrayLike, labels: ArrayLike, *, samples: ArrayLike | None = None) -> float:
    """Spatial chaos (CHAOS): mean length of the nearest-neighbour edges within domains.

    The coordinates of each section are standardised, axis by axis, to mean 0 and (sample) standard
    deviation 1. Each observation is joined to the nearest one of its domain. The score is the sum
    of these lengths, divided by the number of observations.

    Parameters
    ----------
    coordinates
        (n_obs, 2) or (n_obs, 3) coordinates; their unit does not matter.
    labels
        (n_obs,) partition to score.
    samples
        (n_obs,) section of each observation. Sections are standardised one by one and edges stay
        within them; the score is their mean, weighted by observations. All one section if None.

    Returns
    -------
    At least 0; lower is more coherent.

    Raises
    ------
    ValueError
        If the lengths differ, no observation is labelled, or the coordinates are not finite or
        all the same.

    Notes
    -----
    As published, an observation that is alone in its domain adds no edge but is counted. Very many
    domains therefore lower the score. Compare only at an equal number of domains.

    References
    ----------
    Shang L, Zhou X. Spatially aware dimension reduction for spatial transcriptomics. Nature
    Communications 13:7203, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.column_stack([np.arange(6.0), np.zeros(6)])
    >>> chaos(line, [1, 1, 1, 2, 2, 2]) < chaos(line, [1, 2, 1, 2, 1, 2])
    True
    """
    n_obs, sections = _sections(coordinates, labels, samples)
    total = 0.0
    for points, codes in sections:
        spread = points.std(axis=0, ddof=1) if len(points) > 1 else np.ones(points.shape[1])
        scaled = (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
        for code in np.unique(codes):
            domain = scaled[codes == code]
            if len(domain) > 1:
                total += cKDTree(domain).query(domain, k=2)[0][:, 1].sum()
    return float(total / n_obs)


def pas(
    coordinates: ArrayLike,
    labels: ArrayLike,
    *,
    n_neighbors: int = 10,
    samples: ArrayLike | None = None,
) -> float:
    """Percentage of abnormal spots (PAS), as a proportion.

    An observation is abnormal if its label differs from the labels of more than half of its nearest
    neighbours. In the published definition these are at least 6 of 10.

    Parameters
    ----------
    coordinates
        (n_obs, 2) or (n_obs, 3) coordinates; their unit does not matter.
    labels
        (n_obs,) partition to score.
    n_neighbors
        Number of nearest neighbours looked at.
    samples
        (n_obs,) section of each observation: neighbours are sought within sections. All one
        section if None.

    Returns
    -------
    In [0, 1]; lower is more coherent.

    Raises
    ------
    ValueError
        If the lengths differ, no observation is labelled, a section has no more than
        `n_neighbors` labelled observations, or the coordinates are not finite or all the same.

    Notes
    -----
    On a lattice the tenth neighbour is one of several at an equal distance. The published code
    takes the one that comes first in the table. Here only coordinates decide, not the order of the
    observations, unless several have the same coordinates.

    References
    ----------
    Shang L, Zhou X. Spatially aware dimension reduction for spatial transcriptomics. Nature
    Communications 13:7203, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.column_stack([np.arange(6.0), np.zeros(6)])
    >>> pas(line, [1, 1, 2, 1, 1, 1], n_neighbors=2) == 1 / 6
    True
    """
    check_int("n_neighbors", n_neighbors, minimum=1)
    n_obs, sections = _sections(coordinates, labels, samples)
    abnormal = 0
    for points, codes in sections:
        if len(points) <= n_neighbors:
            msg = (
                f"Expected more than `n_neighbors` = {n_neighbors} labelled observations in each "
                f"section, found {len(points)}. Lower `n_neighbors` or leave the section out."
            )
            raise ValueError(msg)
        order = np.lexsort(points.T)  # so that ties are broken by place, not by row
        points, codes = points[order], codes[order]
        near = cKDTree(points).query(points, k=n_neighbors + 1)[1]
        own = near == np.arange(len(points))[:, None]
        own[~own.any(axis=1), -1] = True  # crowded out of its own neighbours by duplicates
        others = codes[near[~own].reshape(len(points), n_neighbors)]
        abnormal += int(((others != codes[:, None]).sum(axis=1) > n_neighbors / 2).sum())
    return abnormal / n_obs


def _labelled_points(
    embedding: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Return the rows of the embedding that have a label, and these labels."""
    points = np.asarray(embedding)
    kept, (codes,) = _codes(labels=labels)
    _check_length(points, kept, name="embedding")
    check_features(points[kept], name="embedding")
    return points[kept], codes


def _sections(
    coordinates: ArrayLike, labels: ArrayLike, samples: ArrayLike | None
) -> tuple[int, list[tuple[NDArray[np.float64], NDArray[np.intp]]]]:
    """Return how many observations are labelled, and their places and labels in each section."""
    points = np.asarray(coordinates, dtype=np.float64)
    columns = {"labels": labels} if samples is None else {"labels": labels, "samples": samples}
    kept, codes = _codes(**columns)
    _check_length(points, kept, name="coordinates")
    points = points[kept]
    check_coordinates(points)
    section = codes[1] if samples is not None else np.zeros(len(points), dtype=np.intp)
    parts = [np.flatnonzero(section == one) for one in np.unique(section)]
    return len(points), [(points[part], codes[0][part]) for part in parts]


def _check_length(points: NDArray[Any], kept: NDArray[np.bool_], *, name: str) -> None:
    """Require one row per label."""
    if points.shape[:1] != kept.shape:
        msg = f"Expected `{name}` with one row per label, {len(kept)}, found shape {points.shape}."
        raise ValueError(msg)


def _check_n_labels(codes: NDArray[np.intp]) -> None:
    """Require labels that are neither all alike nor all different."""
    n_labels = len(np.unique(codes))
    if not 2 <= n_labels < len(codes):
        msg = (
            "Expected at least 2 different labels and fewer than observations, found "
            f"{n_labels} among {len(codes)} observations."
        )
        raise ValueError(msg)
