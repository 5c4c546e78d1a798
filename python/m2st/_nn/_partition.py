"""Parts of a large graph, each with as much of its surroundings as its result depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import dijkstra, reverse_cuthill_mckee

Indices = NDArray[np.intp]

PARTS_PER_BATCH = 8
"""Parts that are worked on at a time: few, so that there is little to surround, but from several
places of the tissue."""


@dataclass(frozen=True)
class Partition:
    """A spatial graph, renumbered and divided into parts. All costs are linear in its edges.

    Attributes
    ----------
    order
        For each new number of an observation the one that the caller has, shape (n_obs,).
        Neighbours get close numbers, so that they share the processor's cache.
    adjacency
        The graph under the new numbers, CSR of shape (n_obs, n_obs).
    parts
        Ascending new numbers of each part; every observation is in exactly one.
    """

    order: Indices
    adjacency: sparse.csr_matrix
    parts: list[Indices]

    @classmethod
    def of(cls, adjacency: sparse.spmatrix, batch_size: int) -> Partition:
        """Renumber a symmetric graph; divide it if it has more than `batch_size` observations.

        Of `PARTS_PER_BATCH` parts for each `batch_size`, seeds lie at random, the same on each
        call, and everybody goes to the nearest seed on the graph. Observations that no seed reaches
        form parts of their own.
        """
        graph = sparse.csr_matrix(adjacency)
        n_obs = graph.shape[0]
        # By Cuthill and McKee, in reverse.
        order = reverse_cuthill_mckee(graph, symmetric_mode=True).astype(np.intp)
        graph = graph[order][:, order]
        if n_obs <= batch_size:
            return cls(order, graph, [np.arange(n_obs)])
        size = max(batch_size // PARTS_PER_BATCH, 1)
        seeds = np.random.default_rng(0).choice(n_obs, max(round(n_obs / size), 1), replace=False)
        seeds.sort()
        *_, nearest = dijkstra(
            graph, indices=seeds, min_only=True, unweighted=True, return_predecessors=True
        )
        unreached = nearest < 0
        part = np.searchsorted(seeds, nearest)
        part[unreached] = len(seeds) + np.arange(np.count_nonzero(unreached)) // size
        members = np.argsort(part, kind="stable")
        return cls(order, graph, np.split(members, np.flatnonzero(np.diff(part[members])) + 1))

    def batches(self) -> list[Indices]:
        """All observations once, part by part."""
        starts = range(0, len(self.parts), PARTS_PER_BATCH)
        return [self.merged(range(len(self.parts))[s : s + PARTS_PER_BATCH]) for s in starts]

    def merged(self, numbers: Sequence[int] | Indices) -> Indices:
        """Observations of some parts, ascending."""
        return np.sort(np.concatenate([self.parts[number] for number in numbers]))

    def sampled(self, epoch: int, random_state: int) -> Indices:
        """Numbers of the parts of an epoch: random, but none a second time before all have come.

        The same at each call, whatever came between.
        """
        n_parts = len(self.parts)
        n_sampled = min(PARTS_PER_BATCH, n_parts)
        sampled = []
        for draw in range(epoch * n_sampled, (epoch + 1) * n_sampled):
            turn, place = divmod(draw, n_parts)
            sampled.append(np.random.default_rng([random_state, turn]).permutation(n_parts)[place])
        return np.array(sampled)

    def neighbourhood(self, observations: Indices, n_hops: int) -> Indices:
        """Observations within some steps of others, these included, ascending."""
        reached = observations
        for _ in range(n_hops if len(self.parts) > 1 else 0):
            reached = np.union1d(reached, self.adjacency[reached].indices)
        return reached

    def induced_subgraph(self, observations: Indices) -> sparse.csr_matrix:
        """Part of the graph between some observations."""
        if len(observations) == len(self.order):
            return self.adjacency
        return self.adjacency[observations][:, observations]
