"""Features of the network from expression or ready features: arrays in, arrays out."""

from m2st._features._blocks import blocks, some_rows, take
from m2st._features._projection import ExpressionProjection, ReadyProjection
from m2st._features._recipes import as_published, from_counts, from_ready

__all__ = [
    "ExpressionProjection",
    "ReadyProjection",
    "as_published",
    "blocks",
    "from_counts",
    "from_ready",
    "some_rows",
    "take",
]
