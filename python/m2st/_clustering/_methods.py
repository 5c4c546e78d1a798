"""The ways to cluster the members of an ensemble, and what tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from m2st._clustering._dual import DualClustering
from m2st._clustering._estimator import MultiScaleClustering
from m2st._clustering._representation import Factors, common_factors
from m2st._params import ClusteringParams, DualParams

Estimator = MultiScaleClustering | DualClustering


@dataclass(frozen=True)
class Method:
    """A way to cluster.

    Parameters
    ----------
    estimator
        Class of the estimator of one member.
    joins_sections
        Whether domains of several sections are held against those of each by itself.
    in_common
        From the fits, the embeddings, all members and scales side by side, and the observations to
        take (None for all), to what all have in common: the loadings for other observations, and
        the representation of these ones.
    """

    estimator: type[Any]
    joins_sections: bool
    in_common: Callable[
        [Sequence[Any], list[NDArray[Any]], NDArray[np.intp] | None],
        tuple[Factors, list[NDArray[Any]]],
    ]


def _principal(
    fits: Sequence[MultiScaleClustering],
    embeddings: list[NDArray[Any]],
    taken: NDArray[np.intp] | None,
) -> tuple[Factors, list[NDArray[Any]]]:
    """Principal components of all members."""
    width = fits[0].common_dim
    factors = common_factors(embeddings, ClusteringParams(common_dim=width), taken)
    return factors, factors.project(embeddings, taken)


def _side_by_side(
    fits: Sequence[DualClustering],
    embeddings: list[NDArray[Any]],
    taken: NDArray[np.intp] | None,
) -> tuple[Factors, list[NDArray[Any]]]:
    """H_c of each member."""
    own = [fit.to_domains().factors for fit in fits]
    means = [mean for factors in own for mean in factors.means]
    loading = linalg.block_diag(*(factors.loadings[-1] for factors in own))
    return Factors(means, [np.asarray(loading)]), [fit.common_ for fit in fits]


METHODS: dict[str, Method] = {
    ClusteringParams.method: Method(
        MultiScaleClustering, joins_sections=True, in_common=_principal
    ),
    DualParams.method: Method(DualClustering, joins_sections=False, in_common=_side_by_side),
}
"""By the name that settings have in `method`, and the record in ``"method"``."""
