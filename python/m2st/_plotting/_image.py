"""Tissue images of any kind, as people keep them, as eight bits of red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DEPTHS = (8, 10, 12, 14, 16)
"""Bits that cameras give a channel, in whatever type the numbers are kept."""

_SLACK = 1.02
"""Resampling takes numbers a little above the range of the picture."""

_MOST_LOOKED_AT = 2**24
"""Numbers of a picture that its brightest is looked for in."""


def channels_last(picture: Any) -> NDArray[Any]:
    """View of a picture with the axes height, width and channels, in this order.

    Parameters
    ----------
    picture
        Array of numbers: of two axes, or of three with channels first or last. Further axes have to
        be of length 1.

    Raises
    ------
    ValueError
        If this is no picture, with what it is.
    """
    found = np.asarray(picture)
    shape = found.shape
    while found.ndim > 3 and 1 in found.shape:
        found = found.squeeze(found.shape.index(1))
    if found.ndim == 2:
        found = found[:, :, None]
    if found.dtype.kind not in "buif" or found.ndim != 3 or 0 in found.shape:
        msg = (
            f"Expected a picture as numbers by height, width and channel, found {found.dtype} of "
            f"shape {shape}."
        )
        raise ValueError(msg)
    first, _, last = found.shape
    # More than four channels are told from pixels by there being fewer of them.
    return np.moveaxis(found, 0, 2) if last > 4 and first < last else found


def white(picture: NDArray[Any]) -> float:
    """The number that stands for white in a picture.

    1 where numbers are true and false, or floating and about 1 at most; else the largest number of
    the least depth that holds all there are: a picture of 12 bits is kept in 16.
    """
    if picture.dtype == bool:
        return 1.0
    if picture.dtype == np.uint8:
        return 255.0
    step = max(1, int(np.sqrt(picture.size / _MOST_LOOKED_AT)))
    seen = picture[::step, ::step]
    top = float(seen.max(where=np.isfinite(seen), initial=0))
    if picture.dtype.kind == "f" and top <= 2:
        return 1.0
    return next((whole for d in _DEPTHS if top <= _SLACK * (whole := 2.0**d - 1)), top)


def to_rgb(picture: NDArray[Any], brightest: float) -> NDArray[np.uint8]:
    """Colours of a picture, (height, width, 3).

    Of three channels or more the first three; of fewer the first, as grey. What is missing is
    white.

    Parameters
    ----------
    picture
        Numbers by height, width and channel.
    brightest
        The number that stands for white.
    """
    colors = picture[:, :, :3] if picture.shape[2] >= 3 else np.repeat(picture[:, :, :1], 3, axis=2)
    if colors.dtype != np.uint8:
        shares = np.nan_to_num(colors.astype(np.float32) / np.float32(brightest), nan=1.0)
        colors = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(colors)
