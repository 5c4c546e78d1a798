"""Domains that were found, to place other observations among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, spatial, special
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
    soft: ClassVar[bool]
    """Whether the probabilities of one member say how sure it is: hard labels are 0 and 1."""

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
    sizes
        Share of each domain, shape (n_domains,); None for equal ones.
    """

    kind: ClassVar[str] = "mixture"
    soft: ClassVar[bool] = True

    factors: Factors
    centers: list[Array]
    covariances: list[Array]
    scale_weights: Array
    params: ClusteringParams
    sizes: Array | None = None

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
        self.factors.check(scales)
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
            if self.sizes is not None:
                cost = cost - np.log(self.sizes)
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
        arrays = _numbered(
            mean=self.factors.means,
            loading=self.factors.loadings,
            centers=self.centers,
            covariance=self.covariances,
        )
        sizes = {} if self.sizes is None else {"sizes": self.sizes}
        return {**arrays, "scale_weights": self.scale_weights, **sizes}

    def to_settings(self) -> dict[str, Any]:
        """Settings of the clustering."""
        return self.params.to_dict()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """Inverse of `to_arrays` and `to_settings`."""
        factors, centers = _read_blocks(arrays)
        covariances = _several(arrays, "covariance", len(centers))
        for loading, covariance in zip(factors.loadings, covariances, strict=True):
            _check_shapes([covariance], [(loading.shape[1], loading.shape[1])])
        params = ClusteringParams.from_dict(settings)
        sizes = arrays.get("sizes")
        if sizes is not None:
            _check_shapes([sizes], [(len(centers[0]),)])
        return cls(factors, centers, covariances, arrays["scale_weights"], params, sizes)


@dataclass(frozen=True)
class DualDomains:
    """The domains that `m2st.paper.DualClustering` has found.

    Parameters
    ----------
    factors
        From embeddings to the representations that they have without domains: of each scale and,
        last, the common one.
    centers
        Centres of the domains in each representation, shape (n_domains, d) each.
    scale_weights
        Weights of the representations, shape (M + 1,).
    """

    kind: ClassVar[str] = "dual"
    soft: ClassVar[bool] = False

    factors: Factors
    centers: list[Array]
    scale_weights: Array

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
        """1 in the domain with the least weighted distance, else 0; the graph does not count."""
        self.factors.check(scales)
        with threadpool_limits(1):
            distances = sum(
                weight * spatial.distance.cdist(block, centers, "sqeuclidean")
                for weight, block, centers in zip(
                    self.scale_weights,
                    self.factors.project(list(scales)),
                    self.centers,
                    strict=True,
                )
            )
        found: Array = np.eye(self.n_domains)[np.argmin(distances, axis=1)]
        return found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All numbers by name."""
        arrays = _numbered(
            mean=self.factors.means, loading=self.factors.loadings, centers=self.centers
        )
        return {**arrays, "scale_weights": self.scale_weights}

    def to_settings(self) -> dict[str, Any]:
        """Nothing: the numbers are all."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], settings: Mapping[str, Any]) -> Self:
        """Inverse of `to_arrays`."""
        return cls(*_read_blocks(arrays), arrays["scale_weights"])


def _numbered(**parts: list[Array]) -> dict[str, NDArray[Any]]:
    """Arrays by the name of their list and their number."""
    return {
        f"{name}.{number}": array
        for name, several in parts.items()
        for number, array in enumerate(several)
    }


def _several(arrays: Mapping[str, NDArray[Any]], name: str, number: int) -> list[Array]:
    """Inverse of `_numbered`, for one list."""
    return [arrays[f"{name}.{index}"] for index in range(number)]


def _read_blocks(arrays: Mapping[str, NDArray[Any]]) -> tuple[Factors, list[Array]]:
    """Factors, and centres in each representation; a ValueError if they do not fit."""
    n_blocks = len(arrays["scale_weights"])
    means, loadings = _several(arrays, "mean", n_blocks - 1), _several(arrays, "loading", n_blocks)
    centers = _several(arrays, "centers", n_blocks)
    width = sum(map(len, means))
    for loading, places in zip(loadings, centers, strict=True):
        d = loading.shape[1]
        _check_shapes([loading, places], [(width, d), (len(centers[0]), d)])
    return Factors(means, loadings), centers


def _check_shapes(arrays: list[Array], expected: list[tuple[int, ...]]) -> None:
    shapes = [array.shape for array in arrays]
    if shapes != expected:
        msg = f"arrays of shapes {shapes} do not fit each other"
        raise ValueError(msg)


KINDS: dict[str, type[Domains]] = {one.kind: one for one in (MixtureDomains, DualDomains)}
"""Classes of what a saved model may hold, by the name that it is saved under."""
