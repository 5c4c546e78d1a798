"""Where the domains of an annotated section lie, and how another section lies on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.spatial import cKDTree

Array = NDArray[np.float64]

# Nearest observations whose distance is the unit of length.
_N_NEAREST = 6
# Distance from the reference, in units, at which it says little.
_REACH = 4.0
# Observations that a section is laid on the reference by.
_N_COMPARED = 700
# First angles, with and without a mirror; the best so many are followed, for so many steps.
_N_ANGLES, _N_FOLLOWED, _N_STEPS = 24, 5, 160
# Deviations of the logarithm of the scale, and of a shift as a share of the reference's radius;
# the weight of both.
_SCALE, _SHIFT, _WEIGHT = 0.1, 0.05, 0.01
# Least share, so that logarithms are finite.
_LEAST = 1e-3


@dataclass(frozen=True)
class Atlas:
    """Places of an annotated section, and the share of each domain around them.

    Parameters
    ----------
    places
        In units of the distance between neighbours, around 0; shape (n_places, 2).
    shares
        Rows sum to 1; shape (n_places, n_domains).
    proportions
        Of the domains, where the reference says nothing; shape (n_domains,).
    agreement
        Mean logarithm of the share that the labels themselves have, shape ().
    """

    places: Array
    shares: Array
    proportions: Array
    agreement: Array

    def lay(self, places: Array, probabilities: Array) -> tuple[Array, float]:
        """Lay a section on the reference so that its domains meet their likes.

        A turn, a mirror, a shift and a scale. Small shifts and scales are preferred: edges of a
        section that holds another part of the tissue would pull it.

        Parameters
        ----------
        places
            Of the section, as `normalised_places` returns them.
        probabilities
            Of the domains there, shape (n_obs, n_domains).

        Returns
        -------
        Shares of the domains at each place of the section, shape (n_obs, n_domains); and how far
        they can be relied on, from 0, as if laid at random, to 1, as on itself.
        """
        tree = cKDTree(self.places)
        radius = float(np.sqrt(np.mean(np.sum(self.places**2, axis=1))))
        rng = np.random.default_rng(0)
        rows = np.sort(rng.permutation(len(places))[:_N_COMPARED])
        some, theirs = places[rows], probabilities[rows]

        def agreement(angle: float, mirror: float, rest: Array) -> float:
            met = self._shares(tree, _moved(some, angle, mirror, rest, radius))
            cost = (rest[0] / _SCALE) ** 2 + np.sum(rest[1:] ** 2) / _SHIFT**2
            overlap = np.sum(met * theirs, axis=1)
            return float(np.log(_LEAST + overlap).mean() - _WEIGHT * cost)

        angles = np.linspace(0, 2 * np.pi, _N_ANGLES, endpoint=False)
        starts = [(angle, mirror) for angle in angles for mirror in (1.0, -1.0)]
        starts.sort(key=lambda start: -agreement(start[0], start[1], np.zeros(3)))
        simplex = np.vstack([np.zeros(4), np.diag([0.15, 0.05, 0.15, 0.15])])
        best, shares = -np.inf, np.empty(0)
        for angle, mirror in starts[:_N_FOLLOWED]:
            found = optimize.minimize(
                lambda move, angle=angle, mirror=mirror: (
                    -agreement(angle + move[0], mirror, move[1:])
                ),
                np.zeros(4),
                method="Nelder-Mead",
                options={"maxiter": _N_STEPS, "initial_simplex": simplex},
            )
            if -found.fun > best:
                best = -found.fun
                turn, rest = angle + found.x[0], found.x[1:]
                shares = self._shares(tree, _moved(places, turn, mirror, rest, radius))
        overlap = theirs @ theirs.mean(axis=0)
        chance = float(np.log(_LEAST + overlap).mean())
        trust = (best - chance) / max(float(self.agreement) - chance, _LEAST)
        return shares, float(np.clip(trust, 0, 1))

    def _shares(self, tree: cKDTree, places: Array) -> Array:
        """Shares at the nearest place, and the proportions of all as that is farther away."""
        distances, nearest = tree.query(places)
        near = np.exp(-0.5 * (distances / _REACH) ** 2)[:, None]
        shares: Array = near * self.shares[nearest] + (1 - near) * self.proportions
        return shares


def normalised_places(coordinates: NDArray[Any]) -> Array:
    """Coordinates around their mean, in units of the distance between neighbours."""
    places: Array = np.asarray(coordinates, dtype=np.float64)[:, :2]
    places = places - places.mean(axis=0)
    n_nearest = min(_N_NEAREST, len(places) - 1)
    unit = 0.0
    if n_nearest > 0:
        distances, _ = cKDTree(places).query(places, n_nearest + 1)
        unit = float(np.sqrt(np.mean(np.median(distances[:, 1:], axis=0) ** 2)))
    normalised: Array = places / (unit or 1.0)
    return normalised


def _moved(places: Array, angle: float, mirror: float, rest: Array, radius: float) -> Array:
    """Mirror, turn, scale and shift; `rest` is the log scale, and the shift in radii."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, -sine], [sine, cosine]]) * np.exp(rest[0])
    moved: Array = (places * [mirror, 1.0]) @ turn.T + rest[1:] * radius
    return moved
