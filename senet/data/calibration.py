"""Pictures by which a network's layers are calibrated for INT8: how large their values become."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from senet.data.source import DataSource
    from senet.data.transforms import Preprocessing

__all__ = ["PICTURES", "calibration_batches"]

PICTURES = 300
"""As NNCF takes by default: the ranges hardly change with more."""


def calibration_batches(source: DataSource, preprocessing: Preprocessing, count: int = PICTURES) -> list[Tensor]:
    """The network's inputs, (1, 3, H, W) each, of `count` pictures of all classes, or of all where there are fewer.

    They are those to train on, where the data has such, so that the accuracy is measured on others.
    """
    images = source.reported[1] if source.train is None else source.train
    chosen = range(0, len(images), max(1, len(images) // count))[:count]
    return [preprocessing.normalise(preprocessing(images.load(index))[None]) for index in chosen]
