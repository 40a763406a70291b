"""Images to calibrate a network for INT8: the ranges of its activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from senet.data.source import DataSource
    from senet.data.transforms import Preprocessing

__all__ = ["PICTURES", "calibration_batches"]

PICTURES = 300
"""NNCF's default: the ranges hardly change with more."""


def calibration_batches(source: DataSource, preprocessing: Preprocessing) -> list[Tensor]:
    """Network inputs (1, 3, H, W) from `PICTURES` images over all classes, or from all images if there are fewer.

    They are training images if the data has any, so that accuracy is measured on others.
    """
    images = source.reported[1] if source.train is None else source.train
    count = min(PICTURES, len(images))
    chosen = (index * len(images) // count for index in range(count))  # in even steps, since classes come one by one
    return [preprocessing.normalise(preprocessing(images.load(index))[None]) for index in chosen]
