"""`GuidedDomains`: domains learned from labels, and how others are placed among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse, special, stats
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from threadpoolctl import threadpool_limits

from m2st._graph import smooth
from m2st._guided._atlas import Atlas, normalised_places

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

# Steps over which features are averaged, side by side.
_HOPS = (4, 8)
# Logarithms of densities count so much, as averages of neighbours are no independent evidence; and
# those of the proportions.
_SHARPNESS, _PRIOR = 0.2, 0.5
# Labels of the reference weigh as much, where a domain's centre in a section is concerned, as this
# share of the section.
_LOYALTY = 0.25
# Rounds in which the centres in a section follow its domains, and those with the atlas.
_ROUNDS, _ROUNDS_WITH_ATLAS = 6, 3
# Weight of the place beside the expression; least share there.
_PLACE, _LEAST = 0.5, 0.01
# Steps over which labels are averaged: of a whole section, and of some labels in one.
_ATLAS_HOPS, _OWN_HOPS = 16, 32
# Places of a section that an atlas keeps.
_N_PLACES = 5_000
# Probability of its own label under which a label is not learned from, and times to look.
_DOUBTED, _N_LOOKS = 0.05, 2
# Degrees of freedom of the t distribution around a centre, and its tail that has no label.
_FREEDOM, _TAIL = 8.0, 0.003
# Likeness of a section up to which labels are worth nothing there, and from which all.
_STRANGE, ALIKE = 0.5, 0.8
# Places among the features from which a new domain is sought.
_N_STARTS = 12
# Variance that an average has at least, where its deviation is 1.
_ROUNDING = 1e-6


class Guidance(NamedTuple):
    """What labels say of some observations.

    Parameters
    ----------
    probabilities
        That an annotator would give each label, and of each new domain: shape (n_obs, n_domains +
        n_new).
    foreign
        Whether an observation is left without a label, shape (n_obs,).
    likeness
        Of each section, in order, to the labelled ones: 1 where all that sets the domains apart is
        found again, 0 or less where nothing is. 1 if the section has labels.
    """

    probabilities: Array
    foreign: NDArray[np.bool_]
    likeness: Array


@dataclass(frozen=True)
class GuidedDomains:
    """Domains learned from labels.

    Parameters
    ----------
    root
        R with R Rᵀ the inverse of Σ, shape (n_averages, n_averages).
    centers
        μ R, shape (n_domains, n_averages).
    proportions
        π, shape (n_domains,).
    atlases
        Of each labelled section.
    """

    root: Array
    centers: Array
    proportions: Array
    atlases: list[Atlas]

    @property
    def n_domains(self) -> int:
        """Number of domains."""
        return len(self.proportions)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.root) // len(_HOPS)

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

        Domains are normal distributions with a covariance that all share, shrunk towards a diagonal
        one (Ledoit and Wolf), of averages of the features over the spatial graph.

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
        Labels that the others contradict are not learned from: a label has to have a probability of
        five per cent.
        """
        known = labels >= 0
        with threadpool_limits(1):
            averages = _averages(features, connectivities)
            found = _learn(averages, labels, n_domains)
            for _ in range(_N_LOOKS):
                score = _SHARPNESS * _closeness(averages @ found.root, found.centers)
                own = special.softmax(score, axis=1)[np.arange(len(labels)), labels]
                trusted = known & (own >= _DOUBTED)
                for domain in np.flatnonzero(np.bincount(labels[trusted], minlength=n_domains) < 2):
                    trusted |= labels == domain
                found = _learn(averages, np.where(trusted, labels, -1), n_domains)
            atlases = [
                _atlas(labels[own], connectivities[own][:, own], coordinates[own], n_domains)
                for own in (sections == section for section in np.unique(sections[known]))
            ]
        return cls(*found, atlases)

    def predict(
        self,
        features: NDArray[Any],
        connectivities: sparse.csr_matrix,
        sections: Codes,
        coordinates: NDArray[Any],
        labels: Codes | None = None,
        *,
        n_new: int = 0,
    ) -> Guidance:
        r"""Place observations among the domains.

        The score of a domain k in a section s without labels is

        .. math:: t \ln N(x_i; \mu_k + o_s + d_{sk}, \Sigma) + p \ln \pi_k
                  + w g \ln (A_{ik} / \pi_k),

        with t the sharpness and p the weight of the proportions. The offset o of the section and
        that d of a domain in it are found by expectation and maximisation, with the weights of a t
        distribution. A prior draws d to 0. A are the shares where the section lies on the best
        atlas, and g how well it lies there. In a section with labels, o and d are 0, and w ln A of
        the labels around is added.

        The likeness of a section is :math:`1 - \sum_k n_k |d_{sk}|^2 / \sum_k n_k |\mu_k|^2`, of
        centres around their mean and without the prior, in the space that the centres span. As it
        falls from .8 to .5, labels go from what the score says to all equally probable.

        Parameters
        ----------
        features, connectivities, sections, coordinates
            Of the observations, as in `fit`.
        labels
            Labels that some have, as in `fit`; None where there are none.
        n_new
            Number of further domains, with centres of their own, in the sections without labels.
        """
        n_obs = len(features)
        known = np.full(n_obs, -1) if labels is None else labels
        names, codes = np.unique(sections, return_inverse=True)
        labelled = np.isin(codes, codes[known >= 0])
        probabilities = np.zeros((n_obs, self.n_domains + n_new))
        squares, likeness = np.empty(n_obs), np.ones(len(names))
        with threadpool_limits(1):
            white = _averages(features, connectivities) @ self.root
            for section in np.unique(codes[labelled]):
                own = np.flatnonzero(codes == section)
                shares = _shares(
                    known[own], connectivities[own][:, own], self.proportions, n_hops=_OWN_HOPS
                )
                closeness = _closeness(white[own], self.centers)
                score = _SHARPNESS * closeness + _PLACE * np.log(shares + _LEAST)
                probabilities[own, : self.n_domains] = special.softmax(score, axis=1)
                squares[own] = -2 * closeness.max(axis=1)
            if not labelled.all():
                rest = np.flatnonzero(~labelled)
                here, codes_there = np.unique(codes[rest], return_inverse=True)
                mixture = self._mixture(white[rest], codes_there, coordinates[rest], n_new)
                probabilities[rest] = special.softmax(mixture.score, axis=1)
                squares[rest] = -2 * mixture.closeness.max(axis=1)
                likeness[here] = mixture.likeness
        worth = np.clip((likeness - _STRANGE) / (ALIKE - _STRANGE), 0, 1)[codes]
        probabilities *= worth[:, None]
        foreign = probabilities.max(axis=1) < 1 - worth
        probabilities[:, : self.n_domains] += (1 - worth[:, None]) / self.n_domains
        n_averages = len(self.root)
        foreign |= stats.f.sf(squares / n_averages, n_averages, _FREEDOM) < _TAIL
        return Guidance(probabilities, foreign, likeness)

    def _mixture(
        self, white: Array, sections: Codes, coordinates: NDArray[Any], n_new: int
    ) -> _Mixture:
        """Domains of sections without labels, found by expectation and maximisation."""
        rows = [np.flatnonzero(sections == section) for section in np.unique(sections)]
        n_domains, n_averages = self.centers.shape
        place = np.zeros((len(white), n_domains))
        shifts, new = np.zeros((len(rows), n_domains, n_averages)), np.empty((0, n_averages))
        found = self._converged(white, rows, place, shifts, new, _ROUNDS)
        if n_new:
            n_starts = min(_N_STARTS, len(np.unique(white, axis=0)))
            starts = KMeans(n_starts, n_init=1, random_state=0).fit(white).cluster_centers_
            for _ in range(n_new):
                tried = [
                    self._converged(
                        white, rows, place, shifts, np.vstack([found.new, start]), _ROUNDS
                    )
                    for start in starts
                ]
                found = max(tried, key=lambda one: one.likelihood)
        shares = special.softmax(found.score, axis=1)[:, :n_domains]
        for own in rows:
            place[own] = self._by_atlas(coordinates[own], shares[own])
        return self._converged(white, rows, place, found.shifts, found.new, _ROUNDS_WITH_ATLAS)

    def _converged(
        self,
        white: Array,
        rows: list[Codes],
        place: Array,
        shifts: Array,
        new: Array,
        n_rounds: int,
    ) -> _Mixture:
        """Let centres and memberships follow each other for some rounds."""
        n_domains, n_averages = self.centers.shape
        prior = _PRIOR * np.log(self.proportions)
        closeness = np.empty((len(white), n_domains + len(new)))
        score = np.empty_like(closeness)
        likeness, cost = np.empty(len(rows)), 0.0
        for step in range(n_rounds + 1):
            for own, shift in zip(rows, shifts, strict=True):
                centers = np.vstack([self.centers + shift, new])
                closeness[own] = _closeness(white[own], centers)
            score[:] = _SHARPNESS * closeness
            score[:, :n_domains] += prior + place
            if step == n_rounds:
                break
            squares = -2 * closeness.max(axis=1)
            # As in a mixture of t distributions: tissue that is far from all moves no centre.
            weights = (_FREEDOM + n_averages) / (_FREEDOM + squares)
            shares = special.softmax(score, axis=1) * weights[:, None]
            new = _means(shares[:, n_domains:], white)
            shifts, cost = np.empty_like(shifts), 0.0
            for number, own in enumerate(rows):
                mass = shares[own, :n_domains].sum(axis=0)
                sums = shares[own, :n_domains].T @ white[own]
                offset = (sums.sum(axis=0) - mass @ self.centers) / mass.sum()
                rest = sums - mass[:, None] * (self.centers + offset)
                loyal = _LOYALTY * len(own)
                apart = rest / (mass[:, None] + loyal)
                shifts[number] = offset + apart
                cost += 0.5 * _SHARPNESS * loyal * np.sum(apart**2)
                likeness[number] = self._likeness(mass, rest)
        likelihood = float(special.logsumexp(score, axis=1).sum() - cost)
        return _Mixture(score, closeness, shifts, new, likelihood, likeness)

    def _likeness(self, mass: Array, rest: Array) -> float:
        """How much of what sets the domains apart is found again in a section."""
        expected = self.centers - mass @ self.centers / mass.sum()
        axes = linalg.orth(expected.T)
        moved = np.sum((rest @ axes) ** 2 / np.maximum(mass, _LEAST)[:, None])
        apart = np.sum(mass[:, None] * expected**2)
        return float(1 - moved / max(apart, _ROUNDING))

    def _by_atlas(self, coordinates: NDArray[Any], probabilities: Array) -> Array:
        """What the atlas adds on which the section lies best."""
        places = normalised_places(coordinates)
        laid = [atlas.lay(places, probabilities) for atlas in self.atlases]
        shares, trust = max(laid, key=lambda one: one[1])
        mixed = (1 - trust) * self.proportions + trust * shares
        added: Array = _PLACE * trust * np.log((mixed + _LEAST) / self.proportions)
        return added

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
        shapes = {"root": (n_averages, n_averages), "proportions": (n_domains,)}
        found = {name: getattr(self, name).shape for name in shapes}
        if found != shapes or not self.atlases:
            msg = f"arrays of shapes {found} do not fit each other"
            raise ValueError(msg)
        for atlas in self.atlases:
            if atlas.shares.shape != (len(atlas.places), n_domains):
                msg = "an atlas does not fit the domains"
                raise ValueError(msg)


class _Mixture(NamedTuple):
    """Domains in sections without labels."""

    score: Array  # logarithms of the memberships, up to a constant: (n_obs, n_domains + n_new)
    closeness: Array  # as of `_closeness`
    shifts: Array  # o + d, (n_sections, n_domains, n_averages)
    new: Array  # centres of new domains, (n_new, n_averages)
    likelihood: float
    likeness: Array  # of each section


class _Learned(NamedTuple):
    """Distributions of the domains, as `GuidedDomains` has them."""

    root: Array
    centers: Array
    proportions: Array


def _learn(averages: Array, labels: Codes, n_domains: int) -> _Learned:
    """Centres, and the shrunk covariance around them, of observations with a label."""
    known = labels >= 0
    shares = np.eye(n_domains)[labels[known]]
    means = _means(shares, averages[known])
    rest = averages[known] - means[labels[known]]
    deviations = rest.std(axis=0)
    deviations[deviations == 0] = 1
    covariance, _ = ledoit_wolf(rest / deviations, assume_centered=True)
    covariance += _ROUNDING * np.eye(len(covariance))
    root = linalg.cholesky(linalg.inv(covariance), lower=True) / deviations[:, None]
    return _Learned(root, means @ root, shares.mean(axis=0))


def _closeness(white: Array, centers: Array) -> Array:
    """Half of the squared distance to each centre, times -1."""
    lengths = np.sum(white**2, axis=1)[:, None] + np.sum(centers**2, axis=1)
    closeness: Array = white @ centers.T - 0.5 * lengths
    return closeness


def _means(shares: Array, white: Array) -> Array:
    """Mean of each domain, by memberships."""
    means: Array = (shares.T @ white) / np.maximum(shares.sum(axis=0), _LEAST)[:, None]
    return means


def _averages(features: NDArray[Any], connectivities: sparse.csr_matrix) -> Array:
    """Features averaged over each number of steps, side by side."""
    found, before = [np.asarray(features, dtype=np.float64)], 0
    for hops in _HOPS:
        found.append(smooth(found[-1], connectivities, n_hops=hops - before))
        before = hops
    return np.concatenate(found[1:], axis=1)


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
