"""R objects as trees: one way to look at them, whether R runs or a file was parsed without it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NA_INTEGER = np.iinfo(np.int32).min
"""R's missing value in integer and logical vectors."""


class Skipped(Exception):
    """A part of an R object that has no place in AnnData, or the reverse; says why."""


class Node(ABC):
    """One R value with its attributes; the slots of an S4 object are attributes too."""

    kind: str
    """Type: null, logical, integer, double, character, list, S4, or other."""

    @property
    @abstractmethod
    def attributes(self) -> Sequence[str]:
        """Names of the attributes."""

    @abstractmethod
    def attribute(self, name: str) -> Node:
        """Return an attribute, null where there is none."""

    @abstractmethod
    def numbers(self) -> NDArray[Any]:
        """Copy the values as int32 (logical, integer; missing as R has it) or float64 (double)."""

    @abstractmethod
    def strings(self) -> NDArray[np.object_]:
        """Return the values of a character vector, None where missing."""

    @abstractmethod
    def items(self) -> list[Node]:
        """Return the elements of a list."""

    @abstractmethod
    def as_sparse(self) -> Node:
        """Return a matrix of a class that is not read here as a dgCMatrix."""

    @abstractmethod
    def outlines(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """Take a list of sp's Polygons apart: names, numbers of corners, and all corners, x and y.

        At once, as there may be as many as cells.
        """

    @property
    def classes(self) -> tuple[str, ...]:
        """Content of the class attribute."""
        found = self.attribute("class")
        return tuple(found.strings()) if found.kind == "character" else ()

    @property
    def is_null(self) -> bool:
        """Whether this is NULL."""
        return self.kind == "null"

    @property
    def names(self) -> list[str] | None:
        """Names of the elements; missing ones are empty."""
        found = self.attribute("names")
        return None if found.is_null else [name or "" for name in found.strings()]

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions; empty for what has none."""
        found = self.attribute("dim")
        return () if found.is_null else tuple(found.numbers().astype(int).tolist())

    def dimnames(self, axis: int, *, slot: str = "dimnames") -> list[str] | None:
        """Names of rows (0) or columns (1) of a matrix."""
        both = self.attribute(slot)
        if both.is_null:
            return None
        found = both.items()[axis]
        return None if found.is_null else [name or "" for name in found.strings()]

    @property
    def row_names(self) -> list[str]:
        """Names of the rows of a data.frame; numbers where it has none of its own."""
        found = self.attribute("row.names")
        if found.kind == "character":
            return [name or "" for name in found.strings()]
        numbers = found.numbers()
        if len(numbers) == 2 and numbers[0] == NA_INTEGER:  # how R stores 1, 2, .., n
            numbers = np.arange(1, abs(int(numbers[1])) + 1)
        return [str(number) for number in numbers]

    def fields(self) -> dict[str, Node]:
        """Elements of a list by name; the first where names repeat, as R's ``$``."""
        if self.is_null:
            return {}
        pairs = zip(self.names or (), self.items(), strict=False)
        found: dict[str, Node] = {}
        for name, item in pairs:
            found.setdefault(name, item)
        return found

    def field(self, name: str) -> Node:
        """One element of a list, null where there is none."""
        return self.fields().get(name, NULL)

    def text(self) -> str | None:
        """Return the first string, if there is one."""
        return self.strings()[0] if self.kind == "character" and len(self.strings()) else None


class Null(Node):
    """R's NULL."""

    kind = "null"

    @property
    def attributes(self) -> Sequence[str]:
        """NULL has none."""
        return ()

    def attribute(self, name: str) -> Node:
        """NULL has none."""
        return self

    def numbers(self) -> NDArray[Any]:
        """No values."""
        return np.empty(0)

    def strings(self) -> NDArray[np.object_]:
        """No values."""
        return np.empty(0, dtype=object)

    def items(self) -> list[Node]:
        """No elements."""
        return []

    def outlines(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.float64]]:
        """No outlines."""
        return [], np.empty(0, dtype=np.int64), np.empty((0, 2))

    def as_sparse(self) -> Node:
        """NULL is no matrix."""
        msg = "is NULL"
        raise Skipped(msg)


NULL = Null()
