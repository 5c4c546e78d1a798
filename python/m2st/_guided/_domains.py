"""`GuidedDomains`: domains learned from labels, and how others are placed among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, sparse, special, stats
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from threadpoolctl import threadpool_limits

from m2st._graph import smooth
from m2st._guided._atlas import Atlas, normalised_places

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

# Steps over which features are averaged, side by side.
_HOPS = (4, 8)
# Logarithms of the odds count so much: averages of neighbours are no independent evidence.
_SHARPNESS = 0.1
# Rounds in which the offset of a section follows its labels, and as many with the atlas.
_ROUNDS, _ROUNDS_WITH_ATLAS = 3, 1
# How far the proportions of a section are drawn to those of the labels, from 0 to 1.
_PULL = 0.3
# Weight of the place beside the expression; least share there.
_PLACE, _LEAST = 0.5, 0.01
# Steps over which labels are averaged: of a whole section, and of some labels in one.
_ATLAS_HOPS, _OWN_HOPS = 16, 32
# Places of a section that an atlas keeps.
_N_PLACES = 5_000
# Parts of a section that are held out in turn.
_N_PARTS = 5
# Probability of its own label under which a label is not learned from.
_DOUBTED = 0.02
# Leading features, averaged over four steps, that tell what the labels do not know; degrees of
# freedom of their distribution, and the tail of it that is left without a label.
_N_LEADING, _FREEDOM, _TAIL = 10, 8.0, 0.05


class Guidance(NamedTuple):
    """What labels say of some observations.

    Parameters
    ----------
    probabilities
        That an annotator would give each label, shape (n_obs, n_domains).
    foreign
        Whether an observation lies outside of all that the labels know, shape (n_obs,).
    """

    probabilities: Array
    foreign: NDArray[np.bool_]


@dataclass(frozen=True)
class GuidedDomains:
    """Domains learned from labels.

    Parameters
    ----------
    centers
        μ, shape (n_domains, n_averages).
    coefficients, intercepts
        Of the linear discriminant, shapes (n_averages, n_domains) and (n_domains,).
    proportions
        π, shape (n_domains,).
    sharpness
        By how much the logarithms of the odds are multiplied for probabilities that are right as
        often as they say, on held-out parts of the labelled sections; shape ().
    leading_centers, leading_root
        Centres of the leading features, and the root of the inverse of the covariance around
        them: shapes (n_domains, n_leading) and (n_leading, n_leading).
    atlases
        Of each labelled section.
    """

    centers: Array
    coefficients: Array
    intercepts: Array
    proportions: Array
    sharpness: Array
    leading_centers: Array
    leading_root: Array
    atlases: list[Atlas]

    @property
    def n_domains(self) -> int:
        """Number of domains."""
        return len(self.proportions)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.centers.shape[1]) // len(_HOPS)

    @classmethod
    def fit(
        cls,
        features: NDArray[Any],
        labels: Codes,
        connectivities: sparse.csr_matrix,
        sections: Codes,
        coordinates: NDArray[Any],
        *,
        n_domains: int,
    ) -> Self:
        r"""Learn from labels.

        A linear discriminant with a covariance that all domains share, shrunk towards a diagonal
        one (Ledoit and Wolf), on averages of the features over the spatial graph.

        Parameters
        ----------
        features
            Shape (n_obs, n_features), of mean 0 in each section.
        labels
            Domain of each observation, 0 to `n_domains` - 1; -1 where there is none. Each domain
            has at least two.
        connectivities
            Spatial graph, shape (n_obs, n_obs), without an edge between sections.
        sections
            Section of each observation, shape (n_obs,).
        coordinates
            Shape (n_obs, 2) or more.
        n_domains
            Number of domains.

        Notes
        -----
        Labels that the rest of the section contradicts are not learned from: parts of it are held
        out in turn, and a label there has to have a probability of two per cent.
        """
        known = labels >= 0
        with threadpool_limits(1):
            averages = _averages(features, connectivities)
            held = np.full((len(labels), n_domains), -np.inf)
            parts = _parts(coordinates, sections, known)
            for part in np.unique(parts[known]):
                rows = known & (parts != part)
                seen = _common(labels[rows], n_domains)
                rows &= np.isin(labels, seen)
                if len(seen) > 1:
                    others = known & (parts == part)
                    learned = _discriminant(averages[rows], labels[rows])
                    held[np.ix_(others, seen)] = _odds(
                        averages[others], learned.coefficients, learned.intercepts
                    )
            judged = known & np.isfinite(held).any(axis=1)
            judged[judged] = np.isfinite(held[judged, labels[judged]])
            sharpness = _calibrate(held[judged], labels[judged])
            learned_from = known.copy()
            sure = special.softmax(sharpness * held[judged], axis=1)
            rows = np.flatnonzero(judged)
            learned_from[rows[sure[np.arange(len(rows)), labels[rows]] < _DOUBTED]] = False
            for domain in np.flatnonzero(
                np.bincount(labels[learned_from], minlength=n_domains) < 2
            ):
                learned_from |= labels == domain
            found = _discriminant(averages[learned_from], labels[learned_from])
            leading = _leading(averages)
            leading_centers, leading_root = _spread(
                leading[learned_from], labels[learned_from], n_domains
            )
            atlases = [
                _atlas(labels[own], connectivities[own][:, own], coordinates[own], n_domains)
                for own in (sections == section for section in np.unique(sections[known]))
            ]
        return cls(
            found.centers,
            found.coefficients,
            found.intercepts,
            found.proportions,
            np.asarray(sharpness),
            leading_centers,
            leading_root,
            atlases,
        )

    def predict(
        self,
        features: NDArray[Any],
        connectivities: sparse.csr_matrix,
        sections: Codes,
        coordinates: NDArray[Any],
        labels: Codes | None = None,
    ) -> Guidance:
        r"""Place observations among the domains.

        The score of a domain in a section without labels is

        .. math:: t\, \delta_k(x_i - o) + b_k + w g \ln (A_{ik} / \pi_k),

        with δ the logarithm of the odds by expression and t their sharpness. The offset o of the
        section is the mean of what its labels leave; b draws its proportions towards π; A are the
        shares where it lies on the best atlas, and g how well it lies there. In a section with
        labels, o and b are 0, and w ln A of the labels around is added.

        Parameters
        ----------
        features, connectivities, sections, coordinates
            Of the observations, as in `fit`.
        labels
            Labels that some have, as in `fit`; None where there are none.
        """
        n_obs = len(features)
        known = np.full(n_obs, -1) if labels is None else labels
        probabilities = np.empty((n_obs, self.n_domains))
        foreign = np.zeros(n_obs, dtype=bool)
        with threadpool_limits(1):
            averages = _averages(features, connectivities)
            for section in np.unique(sections):
                own = np.flatnonzero(sections == section)
                score, leading = self._score(
                    averages[own],
                    connectivities[own][:, own],
                    coordinates[own],
                    known[own],
                )
                probabilities[own] = special.softmax(score * (self.sharpness / _SHARPNESS), axis=1)
                foreign[own] = self._is_foreign(leading)
        return Guidance(probabilities, foreign)

    def _score(
        self,
        averages: Array,
        connectivities: sparse.csr_matrix,
        coordinates: NDArray[Any],
        labels: Codes,
    ) -> tuple[Array, Array]:
        """Scores of the observations of one section, and their leading features."""
        leading = _leading(averages)
        if (labels >= 0).any():
            shares = _shares(labels, connectivities, self.proportions, n_hops=_OWN_HOPS)
            place = _PLACE * np.log(shares + _LEAST)
            odds = _odds(averages, self.coefficients, self.intercepts)
            return _SHARPNESS * odds + place, leading
        offset = np.zeros(averages.shape[1])
        by_place: Array | float = 0.0

        def scored() -> tuple[Array, Array]:
            odds = _odds(averages - offset, self.coefficients, self.intercepts)
            score = self._balanced(_SHARPNESS * odds + by_place)
            return score, special.softmax(score, axis=1)

        score, found = scored()
        for step in range(_ROUNDS + _ROUNDS_WITH_ATLAS):
            offset = (averages - found @ self.centers).mean(axis=0)
            score, found = scored()
            if step == _ROUNDS - 1:
                by_place = self._by_atlas(coordinates, found)
                score, found = scored()
        # The median: tissue that the labels do not know would move the mean.
        rest = leading - found @ self.leading_centers
        return score, leading - np.median(rest, axis=0)

    def _balanced(self, score: Array) -> Array:
        """Scores with a term for each domain that draws the proportions towards π."""
        term = np.zeros(self.n_domains)
        target = np.log(self.proportions)
        for _ in range(50):
            found = special.softmax(score + term, axis=1).mean(axis=0)
            pull = target - np.log(found + 1e-9)
            term = term + 0.7 * (_PULL * pull - (1 - _PULL) * term)
        return score + term

    def _by_atlas(self, coordinates: NDArray[Any], probabilities: Array) -> Array:
        """What the atlas adds on which the section lies best."""
        places = normalised_places(coordinates)
        laid = [atlas.lay(places, probabilities) for atlas in self.atlases]
        shares, trust = max(laid, key=lambda one: one[1])
        mixed = (1 - trust) * self.proportions + trust * shares
        added: Array = _PLACE * trust * np.log((mixed + _LEAST) / self.proportions)
        return added

    def _is_foreign(self, leading: Array) -> NDArray[np.bool_]:
        """Whether observations lie in the tail of the t distribution around each centre."""
        n_leading = leading.shape[1]
        offsets = leading[:, None] - self.leading_centers
        squares = np.sum((offsets @ self.leading_root) ** 2, axis=2).min(axis=1)
        tail = stats.f.sf(squares / n_leading, n_leading, _FREEDOM)
        return np.asarray(tail < _TAIL)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All numbers by name."""
        arrays = {name: value for name, value in vars(self).items() if name != "atlases"}
        for number, atlas in enumerate(self.atlases):
            arrays |= {f"atlas.{number}.{name}": value for name, value in vars(atlas).items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Inverse of `to_arrays`."""
        own = {name: array for name, array in arrays.items() if not name.startswith("atlas.")}
        atlases: list[Atlas] = []
        while f"atlas.{len(atlases)}.places" in arrays:
            at = f"atlas.{len(atlases)}."
            atlases.append(
                Atlas(
                    **{
                        name.removeprefix(at): array
                        for name, array in arrays.items()
                        if name.startswith(at)
                    }
                )
            )
        return cls(**own, atlases=atlases)

    def __post_init__(self) -> None:
        n_domains, n_averages = self.centers.shape
        n_leading = len(self.leading_root)
        shapes = {
            "coefficients": (n_averages, n_domains),
            "intercepts": (n_domains,),
            "proportions": (n_domains,),
            "sharpness": (),
            "leading_centers": (n_domains, n_leading),
            "leading_root": (n_leading, n_leading),
        }
        found = {name: getattr(self, name).shape for name in shapes}
        if found != shapes or not self.atlases:
            msg = f"arrays of shapes {found} do not fit each other"
            raise ValueError(msg)
        for atlas in self.atlases:
            if atlas.shares.shape != (len(atlas.places), n_domains):
                msg = "an atlas does not fit the domains"
                raise ValueError(msg)


class _Discriminant(NamedTuple):
    """Of the domains that were seen."""

    centers: Array
    coefficients: Array
    intercepts: Array
    proportions: Array


def _odds(averages: Array, coefficients: Array, intercepts: Array) -> Array:
    """Logarithms of the odds by a linear discriminant."""
    odds: Array = averages @ coefficients + intercepts
    return odds


def _discriminant(averages: Array, labels: Codes) -> _Discriminant:
    """Linear discriminant with a shrunk covariance; a column for each domain, also of two."""
    found = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", store_covariance=True)
    found.fit(averages, labels)
    coefficients = linalg.lstsq(found.covariance_, found.means_.T)[0]
    intercepts = np.log(found.priors_) - 0.5 * np.sum(found.means_.T * coefficients, axis=0)
    return _Discriminant(found.means_, coefficients, intercepts, found.priors_)


def _averages(features: NDArray[Any], connectivities: sparse.csr_matrix) -> Array:
    """Features averaged over each number of steps, side by side."""
    found, before = [np.asarray(features, dtype=np.float64)], 0
    for hops in _HOPS:
        found.append(smooth(found[-1], connectivities, n_hops=hops - before))
        before = hops
    return np.concatenate(found[1:], axis=1)


def _leading(averages: Array) -> Array:
    """Leading features over the fewest steps."""
    width = averages.shape[1] // len(_HOPS)
    return averages[:, : min(_N_LEADING, width)]


def _common(labels: Codes, n_domains: int) -> Codes:
    """Domains of at least two labels."""
    return np.flatnonzero(np.bincount(labels, minlength=n_domains) > 1)


def _parts(coordinates: NDArray[Any], sections: Codes, known: NDArray[np.bool_]) -> Codes:
    """Part of each labelled observation: its section, or the part of the only one."""
    parts = np.full(len(known), -1)
    names = np.unique(sections[known])
    if len(names) > 1:
        parts[known] = sections[known]
        return parts
    places = normalised_places(coordinates[known])
    n_parts = min(_N_PARTS, len(np.unique(places, axis=0)))
    parts[known] = KMeans(n_parts, n_init=1, random_state=0).fit_predict(places)
    return parts


def _calibrate(odds: Array, labels: Codes) -> float:
    """Factor of the logarithms of the odds under which labels are likeliest."""
    if not len(odds):
        return _SHARPNESS
    rows = np.arange(len(labels))

    def loss(power: float) -> float:
        logs = special.log_softmax(np.exp(power) * odds, axis=1)
        return float(-logs[rows, labels].mean())

    found = optimize.minimize_scalar(loss, bounds=np.log([0.01, 1.0]), method="bounded")
    return float(np.exp(found.x))


def _spread(leading: Array, labels: Codes, n_domains: int) -> tuple[Array, Array]:
    """Centres, and the root of the inverse of the covariance around them."""
    centers = np.stack([leading[labels == domain].mean(axis=0) for domain in range(n_domains)])
    rest = leading - centers[labels]
    covariance = rest.T @ rest / len(rest)
    covariance += 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    root: Array = linalg.cholesky(linalg.inv(covariance), lower=True)
    return centers, root


def _shares(
    labels: Codes, connectivities: sparse.csr_matrix, proportions: Array, *, n_hops: int
) -> Array:
    """Share of each domain among the labels around each observation."""
    mass = smooth(np.eye(len(proportions) + 1)[labels][:, :-1], connectivities, n_hops=n_hops)
    # Where labels are far, their average is small and the proportions of all take its place.
    total = mass.sum(axis=1, keepdims=True)
    least = 0.01 * max(float(np.mean(labels >= 0)), 1e-6)
    shares: Array = (mass + least * proportions) / (total + least)
    return shares


def _atlas(
    labels: Codes, connectivities: sparse.csr_matrix, coordinates: NDArray[Any], n_domains: int
) -> Atlas:
    """Atlas of a labelled section."""
    known = labels >= 0
    counts = np.bincount(labels[known], minlength=n_domains)
    proportions = (counts + 1) / (counts.sum() + n_domains)
    shares = _shares(labels, connectivities, proportions, n_hops=_ATLAS_HOPS)
    own = shares[known, labels[known]]
    kept = np.sort(np.random.default_rng(0).permutation(len(labels))[:_N_PLACES])
    places = normalised_places(coordinates)
    agreement = np.log(1e-3 + own).mean()
    return Atlas(places[kept], shares[kept], proportions, np.asarray(agreement))
