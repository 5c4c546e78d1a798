"""Domains that were found, to place other observations among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special
from threadpoolctl import threadpool_limits

from m2st._clustering._mixture import (
    normalised_adjacency,
    propagate,
    robust_cost,
    squared_distances,
)
from m2st._clustering._representation import Factors
from m2st._params import ClusteringParams

Array = NDArray[np.float64]


class Domains(Protocol):
    """From the embeddings of one member to the probabilities of its domains.

    What a saved model holds of each member beside the network. Another way to find domains needs a
    class with these names, and an entry in `KINDS`.
    """

    kind: ClassVar[str]

    @property
    def n_domains(self) -> int:
        """Number of domains."""

    def predict_proba(
        self,
        scales: Sequence[NDArray[Any]],
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> Array:
        """Probabilities, shape (n_obs, n_domains), from an array (n_obs, d_m) for each scale."""

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All numbers by name."""

    def to_settings(self) -> dict[str, Any]:
        """All else, as JSON holds it."""

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """Inverse of both; a KeyError, TypeError or ValueError if they do not fit."""


@dataclass(frozen=True)
class MixtureDomains:
    """The mixture that `MultiScaleClustering` has fitted.

    Parameters
    ----------
    factors
        Split of the embeddings into representations: of each scale and, last, the common one.
    centers
        Centres of the domains in each representation, shape (n_domains, d) each.
    covariances
        Covariance that the domains share, shape (d, d) each.
    scale_weights
        Weights of the representations, shape (M + 1,).
    params
        Settings of the clustering.
    """

    kind: ClassVar[str] = "mixture"

    factors: Factors
    centers: list[Array]
    covariances: list[Array]
    scale_weights: Array
    params: ClusteringParams

    @property
    def n_domains(self) -> int:
        """Number of domains."""
        return len(self.centers[0])

    def predict_proba(
        self,
        scales: Sequence[NDArray[Any]],
        *,
        connectivities: sparse.spmatrix | None = None,
    ) -> Array:
        """Probabilities of the domains, as `MultiScaleClustering.predict_proba` describes them."""
        widths = [scale.shape[1] for scale in scales]
        expected = [len(mean) for mean in self.factors.means]
        if widths != expected:
            msg = f"Expected embeddings of widths {expected}, found {widths}."
            raise ValueError(msg)
        with threadpool_limits(1):
            cost = sum(
                weight
                * robust_cost(
                    squared_distances(block, centers, covariance), covariance, self.params
                )
                for weight, block, centers, covariance in zip(
                    self.scale_weights,
                    self.factors.project(list(scales)),
                    self.centers,
                    self.covariances,
                    strict=True,
                )
            )
            found: Array = special.softmax(-cost, axis=1)
            if connectivities is not None and self.params.smoothness > 0:
                adjacency = normalised_adjacency(connectivities, len(found))
                for _ in range(self.params.max_iter):
                    before = found
                    pull = self.params.smoothness * propagate(adjacency, before)
                    found = special.softmax(pull - cost, axis=1)
                    if np.abs(found - before).mean() <= self.params.tol:
                        break
        return found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All numbers by name."""
        parts = {
            "mean": self.factors.means,
            "loading": self.factors.loadings,
            "centers": self.centers,
            "covariance": self.covariances,
        }
        arrays = {
            f"{name}.{number}": array
            for name, several in parts.items()
            for number, array in enumerate(several)
        }
        return {**arrays, "scale_weights": self.scale_weights}

    def to_settings(self) -> dict[str, Any]:
        """Settings of the clustering."""
        return self.params.to_dict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """Inverse of `to_arrays` and `to_settings`."""

        def several(name: str, number: int) -> list[Array]:
            return [arrays[f"{name}.{index}"] for index in range(number)]

        n_blocks = len(arrays["scale_weights"])
        means, loadings = several("mean", n_blocks - 1), several("loading", n_blocks)
        centers, covariances = several("centers", n_blocks), several("covariance", n_blocks)
        width = sum(map(len, means))
        for loading, places, covariance in zip(loadings, centers, covariances, strict=True):
            d = loading.shape[1]
            shapes = [loading.shape, places.shape, covariance.shape]
            if shapes != [(width, d), (len(centers[0]), d), (d, d)]:
                msg = f"arrays of shapes {shapes} do not fit each other"
                raise ValueError(msg)
        params = ClusteringParams.from_dict(settings)
        factors = Factors(means, loadings)
        return cls(factors, centers, covariances, arrays["scale_weights"], params)


KINDS: dict[str, type[Domains]] = {MixtureDomains.kind: MixtureDomains}
"""Classes of what a saved model may hold, by the name that it is saved under."""
