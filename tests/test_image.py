from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from m2st._plotting import channels_last, to_rgb, white

# Two greys, above and below, of light that is 0 to 1.
LIGHT = np.repeat([0.25, 0.75], 20)[:, None, None] * np.ones((40, 50, 3))
GREYS = (64, 191)

KINDS: dict[str, Callable[[], NDArray[Any]]] = {
    "8 bits": lambda: np.rint(255 * LIGHT).astype(np.uint8),
    "8 bits in 64": lambda: np.rint(255 * LIGHT).astype(np.int64),
    "10 bits in 16": lambda: np.rint(1023 * LIGHT).astype(np.uint16),
    "12 bits in 16": lambda: np.rint(4095 * LIGHT).astype(np.uint16),
    "14 bits in 32": lambda: np.rint(16383 * LIGHT).astype(np.int32),
    "16 bits": lambda: np.rint(65535 * LIGHT).astype(np.uint16),
    "floating to 1": lambda: LIGHT,
    "half to 1": lambda: LIGHT.astype(np.float16),
    "floating to 255": lambda: (255 * LIGHT).astype(np.float32),
    "floating to 65535": lambda: 65535 * LIGHT,
    "grey": lambda: LIGHT[:, :, 0],
    "one channel": lambda: LIGHT[:, :, :1],
    "one channel first": lambda: LIGHT[:, :, :1].transpose(2, 0, 1),
    "two channels": lambda: LIGHT[:, :, :2],
    "colour and opacity": lambda: np.dstack([LIGHT, LIGHT[:, :, :1]]),
    "five channels": lambda: np.dstack([LIGHT, LIGHT[:, :, :2]]),
    "channels first": lambda: LIGHT.transpose(2, 0, 1),
    "five channels first": lambda: np.dstack([LIGHT, LIGHT[:, :, :2]]).transpose(2, 0, 1),
    "time and depth before": lambda: LIGHT.transpose(2, 0, 1)[None, :, None],
    "a matrix": lambda: np.asmatrix(LIGHT[:, :, 0]),
}


def drawn(picture: object) -> NDArray[np.uint8]:
    found = channels_last(picture)
    return to_rgb(found, white(found))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_greys_are_right(kind: str) -> None:
    found = drawn(KINDS[kind]())
    assert found.shape == (40, 50, 3)
    assert found.dtype == np.uint8
    for row, grey in zip((5, 35), GREYS, strict=True):
        assert np.abs(found[row].astype(int) - grey).max() <= 1


def test_true_is_white_and_so_is_what_is_missing() -> None:
    assert drawn(LIGHT[:, :, 0] > 0.5)[[5, 35], 0, 0].tolist() == [0, 255]
    holes = LIGHT.copy()
    holes[:10] = np.nan
    assert drawn(holes)[[5, 15, 35], 0, 0].tolist() == [255, *GREYS]
    assert drawn(np.full((4, 5, 3), np.nan)).min() == 255
    odd = np.array([[-np.inf, -1, 0, 1, np.inf]])
    assert drawn(odd)[0, :, 0].tolist() == [0, 0, 0, 255, 255]


def test_eight_bits_are_left_as_they_are() -> None:
    picture = np.arange(240, dtype=np.uint8).reshape(8, 10, 3)
    np.testing.assert_array_equal(drawn(picture), picture)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros(5),
        np.zeros((0, 5, 3)),
        np.zeros((2, 5, 5, 3)),
        np.full((5, 5), "a"),
        np.full((5, 5, 3), None),
        np.zeros((5, 5), dtype=complex),
        "picture.png",
        None,
    ],
)
def test_what_is_no_picture_is_refused(picture: object) -> None:
    with pytest.raises(ValueError, match="Expected a picture as numbers by height, width and chan"):
        channels_last(picture)
