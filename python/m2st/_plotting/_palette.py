"""Colours of domains, apart for all eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from m2st import _keys

if TYPE_CHECKING:
    from anndata import AnnData

MISSING_COLOR = "#dcdcdc"
# Okabe & Ito without black, yellow last: apart for colour-blind readers, and on white.
FIRST_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")


def kept_colors(adata: AnnData, key: str, n_categories: int) -> list[str]:
    """Return the colours kept in ``uns``, making and keeping them where they do not fit."""
    found = _stored(adata, key, n_categories)
    if found is not None:
        return found
    colors = palette(n_categories)
    if not adata.is_view:  # writing would turn the view into a copy
        adata.uns[_keys.colors(key)] = colors
    return colors


def stored_colors(adata: AnnData, key: str, n_categories: int) -> list[str]:
    """Return the colours kept in ``uns``, or new ones where they do not fit; keep nothing."""
    return _stored(adata, key, n_categories) or palette(n_categories)


def _stored(adata: AnnData, key: str, n_categories: int) -> list[str] | None:
    """Colours kept in ``uns``, if they fit."""
    from matplotlib.colors import is_color_like, to_hex

    found = adata.uns.get(_keys.colors(key))
    kept = list(found) if isinstance(found, list | tuple | np.ndarray) and np.ndim(found) else []
    if len(kept) == n_categories and all(map(is_color_like, kept)):
        return [to_hex(color) for color in kept]
    return None


def matched_colors(
    reference: pd.Categorical, result: pd.Categorical, colors: list[str]
) -> list[str]:
    """Colour reference classes as the domains they overlap most, the rest by colours not used."""
    overlap = np.zeros((len(reference.categories), len(result.categories)))
    both = (reference.codes >= 0) & (result.codes >= 0)
    np.add.at(overlap, (reference.codes[both], result.codes[both]), 1)
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    matched = {row: colors[column] for row, column in pairs if overlap[row, column]}
    others = iter(palette(len(overlap) - len(matched), taken=colors))
    return [matched.get(row) or next(others) for row in range(len(overlap))]


def share_colors(shares: NDArray[np.float64]) -> NDArray[np.str_]:
    """Colours from low to high that colour-blind readers see in the same order (cividis).

    Missing shares have the colour of what is missing.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    scale = colormaps["cividis"]
    colors = np.array([*map(to_hex, scale(np.arange(scale.N))), MISSING_COLOR])
    steps = np.minimum(shares * scale.N, scale.N - 1)
    return colors[np.where(np.isnan(shares), scale.N, np.nan_to_num(steps)).astype(np.intp)]


def palette(n_colors: int, *, taken: list[str] | None = None) -> list[str]:
    """Return colours that stay apart from each other, from those taken and from the background.

    After the first few, each is the one of a grid of colours that is farthest from all before, by
    the distance in OKLab as seen with full and with deuteranopic sight.
    """
    from matplotlib.colors import to_hex, to_rgb

    taken = taken or []
    colors = [color for color in FIRST_COLORS if color not in taken][:n_colors]
    levels = np.linspace(0, 1, 12)
    grid = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    seen = as_seen(grid)
    usable = (seen[:, 0] > 0.38) & (seen[:, 0] < 0.92)
    grid, seen = grid[usable], seen[usable]
    before = ["white", MISSING_COLOR, *taken, *colors]
    known = as_seen(np.array([to_rgb(color) for color in before]))
    gap = cKDTree(known).query(seen)[0]
    while len(colors) < n_colors:
        farthest = int(np.argmax(gap))
        colors.append(to_hex(grid[farthest]))
        gap = np.minimum(gap, np.linalg.norm(seen - seen[farthest], axis=1))
    return colors


def as_seen(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place sRGB colours in a space of seen difference: OKLab, then OKLab without green cones.

    Ottosson B. A perceptual color space for image processing, 2020. Machado GM et al. A
    physiologically-based model for simulation of color vision deficiency. IEEE TVCG 15, 2009.
    """
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    deuteranopic = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    without_green = np.clip(linear @ np.transpose(deuteranopic), 0, 1)
    full, reduced = (
        np.cbrt(view @ np.transpose(cones)) @ np.transpose(lab) for view in (linear, without_green)
    )
    return np.hstack([full, 1.5 * reduced])  # more weight where there is less room
