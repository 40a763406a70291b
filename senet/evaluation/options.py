"""What can be asked of a network that is measured or asked about pictures: stated once, for functions and verbs."""

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
    """How a picture becomes the network's input. An option that is None or not given keeps what is known.

    Known is what a run saved with the network, or what its Caffe file or timm says. A network whose library names
    an input size gets that size; any other gets ImageNet's preprocessing, 224 of 256 pixels.

    Attributes:
        resize: pixels of the shorter side before the middle `size` × `size` is cut out.
        crop: in place of `resize`, the share of the shorter side that is cut out: 0.875 is 224 of 256.
        mean: of each channel, values being in [0, 1].
        std: of each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        channels: their order in the network's input, "RGB" or "BGR".
        range: of grey of more than 8 bits, what is black and what is white.
    """

    resize: int | None
    crop: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    interpolation: str | None
    channels: str | None
    range: Sequence[float] | None


class SizedPictureOptions(PictureOptions, total=False):
    """The same, with its size.

    Attributes:
        size: pixels a side that the network is given.
    """

    size: int | None


class NetworkOptions(PictureOptions, total=False):
    """Which network it is, what its classes are called, and where it runs.

    Attributes:
        weights: of the network; its number of classes is theirs.
        num_classes: of the network, to override that.
        make: what makes the blocks of a saved network, as `senet.insert` takes it, where its file does not say it.
        classes: a JSON file with the network's class names in order, or name -> index. The default is the names
            that a run saved with the network, or that its library publishes.
        class_offset: added to each class index: 1 for networks that count a background class first.
        batch_size: images at a time; the default is 64.
        devices: "auto" (a GPU where there is one), "cpu", "cuda:0", "mps".
        workers: processes that load images; the default is one a core, at most 8.
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
    """The options of a measurement at any number of sizes.

    Attributes:
        split: "train", "val", "test" or "all"; the default is test where there is one, else val.
        data_root: where torchvision's data sets lie.
    """

    split: str | None
    data_root: str | Path | None


class MeasureOptions(SplitOptions, SizedPictureOptions, total=False):
    """The options that `evaluate`, `explain` and `prune` share."""
