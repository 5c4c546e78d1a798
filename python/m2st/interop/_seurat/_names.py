"""What the parts of a Seurat object are called here and there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from m2st.interop._record import PARTS

LAYERS = ("counts", "data")
# Columns of VisiumV1's coordinates, and what Space Ranger calls them.
ARRAY = {"tissue": "in_tissue", "row": "array_row", "col": "array_col"}
FACTORS = {
    "spot": "spot_diameter_fullres",
    "fiducial": "fiducial_diameter_fullres",
    "hires": "tissue_hires_scalef",
    "lowres": "tissue_lowres_scalef",
}
HVG, HVG_RANK = "highly_variable", "highly_variable_rank"


def reduction_key(name: str, results: Iterable[str] = ()) -> str:
    """Return the key in ``obsm`` of a reduction: ``X_m2st_scale1`` for m2st.scale1.

    Embeddings of results have the name of the result, as the R package writes them.
    """
    for result in results:
        if found := re.fullmatch(rf"{re.escape(result)}(?:[.]({PARTS}))?", name):
            return f"X_{result}_{found[1]}" if found[1] else f"X_{result}"
    return f"X_{name.replace('.', '_')}"


def reduction_name(key: str, results: Iterable[str] = ()) -> str:
    """Return the name of the reduction for a key of ``obsm``: m2st.scale1 for X_m2st_scale1."""
    for result in results:
        if found := re.fullmatch(rf"X_{re.escape(result)}(?:_({PARTS}))?", key):
            return f"{result}.{found[1]}" if found[1] else result
    name = re.sub(r"[^\w.]|_", ".", key.removeprefix("X_")) or "X"
    return name if name[0].isalpha() or name[0] == "." else f"X{name}"
