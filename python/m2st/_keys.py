"""The names under which results are stored; docs/guide/slots.md has the table."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "m2st"
"""The name of a result that gets no other one."""

GRAPH_RECORD = DEFAULT
"""``uns``: the record with the report on the spatial graph, which all results share."""

SPOTS = "spots"
"""Entry of that record: size of the spots in each section, for parts that are drawn later."""

COORDINATES = "spatial"
"""``obsm``: coordinates of the observations."""

IN_TISSUE = "in_tissue"
"""``obs``: whether the observation lies on the tissue, as Space Ranger writes it."""

CONNECTIVITIES = "spatial_connectivities"
"""``obsp``: the spatial graph, binary, symmetric, without self-loops."""

DISTANCES = "spatial_distances"
"""``obsp``: length of each edge of the spatial graph, in the units of the coordinates."""

NEIGHBORS = "spatial_neighbors"
"""``uns``: where the graph is stored and how it was built, in squidpy's layout."""


@dataclass(frozen=True)
class Keys:
    """The keys of one result: all begin with its name, the `key_added` of functions."""

    name: str = DEFAULT

    @property
    def domain(self) -> str:
        """``obs``: domain of each observation, categorical ``"1"`` .. ``"K"`` in numeric order."""
        return f"{self.name}_domain"

    @property
    def confidence(self) -> str:
        """``obs``: estimated probability that another run agrees with the domain, in [0, 1]."""
        return f"{self.name}_confidence"

    @property
    def second(self) -> str:
        """``obs``: domains of the second solution, if members of the ensemble fall into camps."""
        return Keys(f"{self.name}_second").domain

    @property
    def embedding(self) -> str:
        """``obsm``: the representation common to all scales and members."""
        return f"X_{self.name}"

    @property
    def features(self) -> str:
        """``obsm``: the features that the autoencoder is trained on."""
        return f"{self.embedding}_pca"

    @property
    def no_neighbors(self) -> str:
        """``obsm``: components of single observations, for the test for structure in space."""
        return f"{self.features}_no_neighbors"

    @property
    def averages(self) -> str:
        """``obsm``: averages of the features over some steps, a view that all members share."""
        return f"{self.embedding}_averages"

    @property
    def cell_types(self) -> str:
        """``obsm``: cell types around each observation, a view that all members share."""
        return f"{self.embedding}_cell_types"

    @property
    def views(self) -> tuple[str, str]:
        """``obsm``: what stands beside the scales, if it is there, in the clustering's order."""
        return self.averages, self.cell_types

    @property
    def record(self) -> str:
        """``uns``: parameters, seed, versions, histories and the graph report of a run."""
        return self.name

    def scale(self, number: int | str) -> str:
        """``obsm``: embedding of a scale, counted from 1, members side by side; ``""``: prefix."""
        return f"{self.embedding}_scale{number}"


def colors(key: str) -> str:
    """``uns``: key of the colours of a categorical column, scanpy's convention."""
    return f"{key}_colors"
