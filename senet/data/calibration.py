"""Images to calibrate a network for INT8: the ranges of its activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.data.images import ChosenImages
from senet.data.readable import Readable
from senet.data.unreadable import MAX_BAD

if TYPE_CHECKING:
    from torch import Tensor

    from senet.data.source import DataSource
    from senet.data.transforms import Preprocessing

__all__ = ["PICTURES", "calibration_batches"]

PICTURES = 300
"""NNCF's default: the ranges hardly change with more."""


def calibration_batches(source: DataSource, preprocessing: Preprocessing) -> list[Tensor]:
    """Network inputs (1, 3, H, W) from `PICTURES` images over all classes, or from all images if there are fewer.

    They are training images if the data has any, so that accuracy is measured on others. Unreadable
    ones are left out.
    """
    images = source.reported[1] if source.train is None else source.train
    count = min(PICTURES, len(images))
    chosen = [index * len(images) // count for index in range(count)]  # in even steps, since classes come one by one
    batches = Readable(ChosenImages(images, chosen), preprocessing, 1, workers=0, max_bad=MAX_BAD, name=source.name)
    return [preprocessing.normalise(pixels) for pixels, _ in batches]
