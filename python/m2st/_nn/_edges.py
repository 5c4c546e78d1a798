"""The edges that attention follows, by target and by source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Edges:
    """Who sends to whom: edges from rows of a feature matrix to targets.

    Target t is the observation with the features ``target_row[t]`` and receives from the rows
    ``source[indptr[t] : indptr[t + 1]]``; an edge of `weight` w stands for w edges from equal rows.
    Weights are float32, all else is int32.
    """

    n_rows: int
    target_row: Tensor
    indptr: Tensor
    source: Tensor
    weight: Tensor

    @classmethod
    def from_adjacency(cls, adjacency: sparse.spmatrix) -> Edges:
        """Edges of a sparse graph of shape (n_obs, n_obs), weights ignored, self-loops added.

        Observations are rows and targets.
        """
        n_obs = adjacency.shape[0]
        pattern = sparse.csr_array(adjacency, copy=True)
        pattern.data = np.ones_like(pattern.data, dtype=np.float32)
        pattern.setdiag(1)
        pattern.sum_duplicates()
        pattern.sort_indices()
        indptr, source = pattern.indptr.astype(np.int32), pattern.indices.astype(np.int32)
        target_row = np.arange(n_obs, dtype=np.int32)
        weight = np.ones(len(source), dtype=np.float32)
        arrays = (torch.from_numpy(array) for array in (target_row, indptr, source, weight))
        return cls(n_obs, *arrays)

    def mask(self, masked: Tensor, targets: Tensor) -> Edges:
        """The edges to some targets when all masked observations have one row of features.

        Parameters
        ----------
        masked, targets
            Which observations are masked, and which are targets; boolean, of shape (n_obs,), on the
            CPU.

        Returns
        -------
        Edges whose rows are the observations that are not masked, in order, and last the one row of
        all masked ones, with one edge from there per target. Targets keep their order.
        """
        flags = masked.numpy()
        return self._toward(targets, flags, len(flags) - int(flags.sum()) + 1)

    def subgraph(self, targets: Tensor) -> Edges:
        """The edges to some targets, a boolean of shape (n_obs,); rows stay as they are."""
        return self._toward(targets, np.zeros(len(targets), dtype=bool), len(targets))

    def _toward(self, targets: Tensor, masked: NDArray[np.bool_], n_rows: int) -> Edges:
        """The edges to some targets, those from masked observations from the last of all rows."""
        from m2st._nn import _kernels

        _, indptr, source, _ = self.arrays
        found = _kernels.mask(indptr, source, masked, targets.numpy())
        return Edges(n_rows, *map(torch.from_numpy, found))

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.target_row)

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """`target_row`, `indptr`, `source` and `weight`, on the CPU."""
        return [part.numpy() for part in (self.target_row, self.indptr, self.source, self.weight)]

    @cached_property
    def by_source(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """`indptr`, `position` and `target` of the edges by row, on the CPU.

        The edges from row j are at ``position[indptr[j] : indptr[j + 1]]`` of `source`, and
        `target` holds where they go.
        """
        from m2st._nn import _kernels

        _, indptr, source, _ = self.arrays
        found: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]] = _kernels.reverse(
            indptr, source, self.n_rows
        )
        return found

    @cached_property
    def edge_index(self) -> Tensor:
        """The edges as torch-geometric's list, int64; one that stands for several is repeated."""
        weights = self.weight.to(torch.int64)
        degrees = torch.diff(self.indptr.to(torch.int64))
        targets = torch.arange(
            len(self.target_row), device=self.target_row.device
        ).repeat_interleave(degrees)
        return torch.stack([self.source.to(torch.int64), targets]).repeat_interleave(weights, dim=1)

    def to(self, device: torch.device) -> Edges:
        """The same edges on `device`."""
        parts = (self.target_row, self.indptr, self.source, self.weight)
        return Edges(self.n_rows, *(part.to(device) for part in parts))
