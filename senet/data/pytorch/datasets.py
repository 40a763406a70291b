"""Use PyTorch data sets with items (image, label) as images."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from senet.data.decoding import upright
from senet.data.images import Images, digest, side_of
from senet.data.source import DataSource
from senet.errors import BadImageError, DataError
from senet.words import kind_of, with_article

__all__ = ["DatasetImages", "class_names", "from_datasets", "keeps_class_mirrored"]

_CHIRAL = ("MNIST", "USPS", "SVHN", "SEMEION", "GTSRB", "Omniglot", "RenderedSST2")


class DatasetImages(Images):
    """A data set with items (image, label); an image is a PIL image or a tensor (C, H, W) or (H, W) of 1 or 3 channels.

    Tensors are uint8, or floats from 0 to 1. Every item is read once for its label and a digest of its pixels.

    Args:
        dataset: a data set with a length and indexed items.
        name: its name in messages.

    Raises:
        DataError: an item is none of these, the data set is empty, or an item changes between two readings.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset, name
        indexed = hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)
        if not (indexed and hasattr(dataset, "__len__")):
            raise DataError(
                f"{name} is {kind_of(dataset)}: a data set has a length, and items by their number that are "
                "(image, label)"
            )
        if len(dataset) == 0:
            raise DataError(f"{name} is empty")
        labels, state = [], hashlib.sha256()
        self.modes: list[str] = []
        self.sizes: set[tuple[int, int]] = set()
        for index in range(len(dataset)):
            image, label = self._item(index)
            labels.append(_label(label, f"item {index} of {name}"))
            self.sizes.add(image.size)
            self.modes.append(image.mode[:1])
            state.update(image.tobytes())
        if self._item(0)[0].tobytes() != self._item(0)[0].tobytes():
            raise DataError(f"{name} gives another image at each reading: leave augmentation to the recipe")
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [str(index) for index in range(len(labels))]
        self._digest = state.digest()

    def _item(self, index: int) -> tuple[Image.Image, Any]:
        item = self.dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            what = kind_of(item) + (f" of {len(item)}" if isinstance(item, tuple | list | dict) else "")
            raise DataError(f"item {index} of {self.name} is {what}: it is (image, label)")
        return _image(item[0], f"item {index} of {self.name}"), item[1]

    def load(self, index: int) -> Image.Image:
        """Image `index`; raises a BadImageError that names it if it cannot be read."""
        try:
            return self._item(index)[0]
        except Exception as error:  # any error of the user's data set
            raise BadImageError(f"item {index} of {self.name} cannot be read ({error})", str(error)) from error

    def fingerprint(self) -> str:
        """Pixels and labels."""
        return digest(self.labels, [self._digest])


def _image(value: Any, what: str) -> Image.Image:
    if isinstance(value, Image.Image):
        return upright(value)
    if isinstance(value, np.ndarray):  # maybe read-only, as from a PIL image, or reversed, as from BGR
        value = torch.from_numpy(np.array(value, order="C"))
    pixels = value if isinstance(value, Tensor) else None
    if pixels is None or pixels.dim() not in (2, 3) or (pixels.dim() == 3 and pixels.shape[0] not in (1, 3)):
        shape = type(value).__name__ if pixels is None else f"tensor of shape {tuple(pixels.shape)}"
        raise DataError(
            f"{what} has {with_article(shape)} for its image: it is a PIL image, or a tensor (3, H, W), (1, H, W) or "
            "(H, W)"
        )
    if pixels.is_floating_point():
        low, high = float(pixels.min()), float(pixels.max())
        if not (low >= 0 and high <= 1):
            raise DataError(
                f"{what} has values from {low:.3g} to {high:.3g}: floats go from 0 to 1, as they are before a "
                "Normalize, which the preprocessing does"
            )
        pixels = (255 * pixels).round().to(torch.uint8)
    if pixels.dtype != torch.uint8:
        raise DataError(f"{what} is of {pixels.dtype}: pixels are uint8, or floats from 0 to 1")
    array = pixels.cpu().numpy()
    plane = array if array.ndim == 2 else array[0] if len(array) == 1 else array.transpose(1, 2, 0)
    return upright(Image.fromarray(plane))


def _label(value: Any, what: str) -> int:
    if isinstance(value, Tensor | np.ndarray | np.generic) and np.ndim(value) == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        shown = kind_of(value) if not isinstance(value, float) else f"{value:g}"
        raise DataError(
            f"{what} has {shown} for its label: a class is a whole number from 0. For targets of another kind, such as "
            "several labels or a number to be predicted, senet.study.judge takes a training of your own"
        )
    if value < 0:
        raise DataError(f"{what} has the label {value}: classes are numbered from 0")
    return int(value)


def from_datasets(datasets: Any) -> DataSource:
    """A source from two data sets, one for training and one for measuring.

    Classes take their names from the first one's `classes`, if that is a list, else they are numbered.

    Raises:
        DataError: these are not two data sets of such items, or a label has no class.
    """
    if not isinstance(datasets, tuple | list) or len(datasets) != 2:
        what = f"{len(datasets)}" if isinstance(datasets, tuple | list) else kind_of(datasets)
        raise DataError(f"data is a name, or two data sets (to train on, to measure on), not {what}")
    train, val = (DatasetImages(each, name) for each, name in zip(datasets, ("train", "val"), strict=True))
    inner = datasets[0]
    while not hasattr(inner, "classes") and hasattr(inner, "dataset"):  # of a Subset's data set
        inner = inner.dataset
    count = int(max(train.labels.max(), val.labels.max())) + 1
    classes = class_names(inner, count)
    if count > len(classes):
        raise DataError(
            f"the data sets have the label {count - 1}, and {len(classes)} classes: {', '.join(classes[:8])}"
        )
    if len(classes) < 2:
        raise DataError("the data sets have one class: there is nothing to tell apart")
    name = " and ".join(dict.fromkeys(type(each).__name__ for each in datasets))
    flip = not type(inner).__module__.startswith("torchvision.") or keeps_class_mirrored(type(inner).__name__)
    return DataSource(name, classes, train, val, None, native_size=side_of(train.sizes | val.sizes), flip=flip)


def class_names(dataset: Any, count: int) -> tuple[str, ...]:
    """The class names in a data set's `classes`, if that is a list or an array of them, else `count` numbers."""
    names = getattr(dataset, "classes", None)
    names = names.tolist() if isinstance(names, np.ndarray | Tensor) else names
    if not isinstance(names, list | tuple):  # it may be their number, or a mapping in an order of its own
        names = ()
    return tuple(" ".join(n) if isinstance(n, tuple) else str(n) for n in names) or tuple(map(str, range(count)))


def keeps_class_mirrored(name: str) -> bool:
    """Whether a mirrored image of torchvision's data set keeps its class; one of digits, letters or signs does not."""
    return name == "FashionMNIST" or not any(part in name for part in _CHIRAL)
