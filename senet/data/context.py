"""A synthetic task that only context can solve: a positive control for studies of SE.

Each image shows a plus or a cross on its left and a green or a blue square on its right. The label
is their exclusive or: "same" for a plus with green and for a cross with blue, else "other". Neither
mark alone carries information about the label. The marks are further apart than the 11-pixel
receptive field of the network `short_sighted`. So the plain network fails and SE solves the task.
SE without its squeeze fails too, because its gates see no further than the network. With random
labels there is nothing to learn, and a study that finds SE better there is wrong.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CLASSES", "SIDE", "draw_context"]

CLASSES = ("same", "other")
SIDE = 32
"""The images' side in pixels."""

_MARK, _SQUARE = 7, 10  # side in pixels
_MARK_LEFT, _SQUARE_LEFT = range(1, 3), range(21, 22)  # so at least 12 pixels lie between the marks
_GREEN, _BLUE = (60, 170, 90), (60, 90, 170)
_WHITE = 240
_GREY, _NOISE = 128, 6  # mean and standard deviation of the background


def draw_context(count: int, seed: int, *, random_labels: bool = False) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """Draw images of the task, half of them with each label.

    Args:
        count: the number of images.
        seed: the same seed draws the same images.
        random_labels: redraw the labels independently of the images.

    Returns:
        The images, (count, 32, 32, 3), and their class indices.
    """
    random = np.random.default_rng(seed)
    pictures = random.normal(_GREY, _NOISE, (count, SIDE, SIDE, 3))
    labels = np.arange(count) % 2
    random.shuffle(labels)
    is_cross = random.integers(0, 2, count)
    is_blue = is_cross ^ labels
    shapes = _plus_and_cross()
    for picture, cross, blue in zip(pictures, is_cross, is_blue, strict=True):
        top, left = random.integers(1, SIDE - _MARK), random.choice(_MARK_LEFT)
        picture[top : top + _MARK, left : left + _MARK][shapes[cross]] = _WHITE
        top, left = random.integers(1, SIDE - _SQUARE), random.choice(_SQUARE_LEFT)
        picture[top : top + _SQUARE, left : left + _SQUARE] = _BLUE if blue else _GREEN
    if random_labels:
        random.shuffle(labels)
    return pictures.clip(0, 255).astype(np.uint8), labels.tolist()


def _plus_and_cross() -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The two shapes, with strokes of three pixels."""
    at = np.arange(_MARK)
    straight = abs(at - _MARK // 2) <= 1
    diagonal = abs(at[:, None] - at) <= 1
    return straight[:, None] | straight, diagonal | diagonal[::-1]
