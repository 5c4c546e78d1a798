"""What the estimators of all clusterings share."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from m2st._params import ClusteringParams, DualParams

Array = NDArray[np.float64]
Settings = TypeVar("Settings", ClusteringParams, DualParams)


class MemberEstimator(ClusterMixin, BaseEstimator, Generic[Settings]):  # type: ignore[misc]
    """A clustering of the embeddings of one member; its parameters are those of its settings."""

    _settings: ClassVar[type[Any]]

    labels_: NDArray[np.intp]
    responsibilities_: Array
    centers_: list[Array]

    @classmethod
    def from_params(cls, n_domains: int, params: Settings, *, random_state: int = 0) -> Self:
        """Make an estimator with the settings of `m2st.tl.cluster`.

        Parameters
        ----------
        n_domains
            Number of domains.
        params
            Settings by name.
        random_state
            Seed of the starts.
        """
        named: dict[str, Any] = asdict(params)
        return cls(n_domains=n_domains, random_state=random_state, **named)

    def reorder(self, order: NDArray[np.intp]) -> Self:
        """Number the domains anew, in place.

        Parameters
        ----------
        order
            For each new number the present one, shape (n_domains,).

        Returns
        -------
        The estimator itself.

        Raises
        ------
        NotFittedError
            If `fit` has not run.
        """
        check_is_fitted(self)
        self.labels_ = np.argsort(order, kind="stable")[self.labels_]
        self.responsibilities_ = self.responsibilities_[:, order]
        self.centers_ = [centers[order] for centers in self.centers_]
        return self

    def _number_by_size(self) -> None:
        """Number the domains by decreasing size."""
        sizes = np.bincount(self.labels_, minlength=len(self.centers_[-1]))
        self.reorder(np.argsort(-sizes, kind="stable"))

    def _params(self) -> Settings:
        """The settings, checked."""
        found: Settings = self._settings(
            **{one.name: getattr(self, one.name) for one in fields(self._settings)}
        )
        return found
