"""The options of evaluation and prediction, shared by functions and verbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from torch import nn

__all__ = [
    "MeasureOptions",
    "NetworkOptions",
    "PictureOptions",
    "PredictOptions",
    "SizedPictureOptions",
    "SplitOptions",
]


class PictureOptions(TypedDict, total=False):
    """The preprocessing of images. An option that is None or left out keeps the known value.

    The known value comes from the run that trained the network, from its Caffe file, or from
    torchvision or timm, for the weights that they publish. If a library states the input size, that
    size is used. Otherwise it is ImageNet's preprocessing, 224 of 256 pixels.

    Attributes:
        resize: pixels of the shorter side before the central `size` × `size` crop.
        crop: instead of `resize`, the share of the shorter side that is cropped: 0.875 is 224 of 256.
        mean: the mean of each channel, for values in [0, 1].
        std: the standard deviation of each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        channels: their order in the network's input, "RGB" or "BGR".
        range: for grey of more than 8 bits, the values of black and white.
    """

    resize: int | None
    crop: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    interpolation: str | None
    channels: str | None
    range: Sequence[float] | None


class SizedPictureOptions(PictureOptions, total=False):
    """`PictureOptions` with the input's size.

    Attributes:
        size: the input's side in pixels.
    """

    size: int | None


class NetworkOptions(PictureOptions, total=False):
    """The network, its class names, and where it runs.

    Attributes:
        weights: the network's weights, which set its number of classes.
        num_classes: another number of classes.
        make: the maker of a saved network's blocks, as in `senet.insert`, if its file does not name one.
        classes: a JSON file with the network's class names in order, or name -> index. By default
            the names come from its run or its library.
        class_offset: a number added to each class index: 1 for networks whose first class is the background.
        batch_size: images at a time; the default is 64.
        devices: "auto" (a GPU if there is one), "cpu", "cuda:0", "mps".
        workers: processes that load images; the default is one per core, at most 8.
    """

    weights: str | Path | None
    num_classes: int | None
    make: str | Callable[[int], nn.Module] | None
    classes: str | Path | None
    class_offset: int
    batch_size: int | None
    devices: str | int
    workers: int | None


class PredictOptions(NetworkOptions, SizedPictureOptions, total=False):
    """The options of `predict`."""


class SplitOptions(NetworkOptions, total=False):
    """The options of an evaluation without a size.

    Attributes:
        split: "train", "val", "test" or "all"; the default is test if there is one, else val.
        data_root: the folder of torchvision's data sets.
    """

    split: str | None
    data_root: str | Path | None


class MeasureOptions(SplitOptions, SizedPictureOptions, total=False):
    """The options that `evaluate`, `explain` and `prune` share."""
