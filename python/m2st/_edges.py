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

    Target t is the observation with the features ``row[t]`` and receives from the rows
    ``source[indptr[t] : indptr[t + 1]]``; an edge of `count` c stands for c edges from equal rows.
    Counts are float32, all else is int32.
    """

    n_rows: int
    row: Tensor
    indptr: Tensor
    source: Tensor
    count: Tensor

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
        row = np.arange(n_obs, dtype=np.int32)
        count = np.ones(len(source), dtype=np.float32)
        arrays = (torch.from_numpy(array) for array in (row, indptr, source, count))
        return cls(n_obs, *arrays)

    def hide(self, hidden: Tensor, targets: Tensor) -> Edges:
        """The edges to some targets when all hidden observations have one row of features.

        Parameters
        ----------
        hidden, targets
            Which observations are hidden, and which are targets; boolean, of shape (n_obs,), on the
            CPU.

        Returns
        -------
        Edges whose rows are the observations that are not hidden, in order, and last the one row of
        all hidden ones, with one edge from there per target. Targets keep their order.
        """
        flags = hidden.numpy()
        return self._toward(targets, flags, len(flags) - int(flags.sum()) + 1)

    def only(self, targets: Tensor) -> Edges:
        """The edges to some targets, a boolean of shape (n_obs,); rows stay as they are."""
        return self._toward(targets, np.zeros(len(targets), dtype=bool), len(targets))

    def _toward(self, targets: Tensor, hidden: NDArray[np.bool_], n_rows: int) -> Edges:
        """The edges to some targets, those from hidden observations from the last of all rows."""
        from m2st import _kernels

        _, indptr, source, _ = self.arrays
        found = _kernels.hide(indptr, source, hidden, targets.numpy())
        return Edges(n_rows, *map(torch.from_numpy, found))

    @property
    def n_targets(self) -> int:
        """Number of targets."""
        return len(self.row)

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """`row`, `indptr`, `source` and `count`, on the CPU."""
        return [part.numpy() for part in (self.row, self.indptr, self.source, self.count)]

    @cached_property
    def by_source(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """`indptr`, `position` and `target` of the edges by row, on the CPU.

        The edges from row j are at ``position[indptr[j] : indptr[j + 1]]`` of `source`, and
        `target` holds where they go.
        """
        from m2st import _kernels

        _, indptr, source, _ = self.arrays
        found: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]] = _kernels.reverse(
            indptr, source, self.n_rows
        )
        return found

    @cached_property
    def edge_index(self) -> Tensor:
        """The edges as torch-geometric's list, int64, those that a count stands for one by one."""
        counts = self.count.to(torch.int64)
        degrees = torch.diff(self.indptr.to(torch.int64))
        targets = torch.arange(len(self.row), device=self.row.device).repeat_interleave(degrees)
        return torch.stack([self.source.to(torch.int64), targets]).repeat_interleave(counts, dim=1)

    def to(self, device: torch.device) -> Edges:
        """The same edges on `device`."""
        parts = (self.row, self.indptr, self.source, self.count)
        return Edges(self.n_rows, *(part.to(device) for part in parts))
