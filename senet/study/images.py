"""Labelled images, read one at a time: files, arrays in memory, and torchvision's data sets."""

from __future__ import annotations

import hashlib
import os
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "EXTENSIONS",
    "ArrayImages",
    "ChosenImages",
    "DataError",
    "FileImages",
    "Images",
    "JoinedImages",
    "TorchvisionImages",
    "to_rgb",
]

EXTENSIONS = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()
)

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class DataError(ValueError):
    """Data that cannot be found, read or used; the message says what would be right."""


class Images(Protocol):
    """A list of labelled images. `labels` is (n,) int64, `names` says which image is which."""

    labels: Tensor
    names: Sequence[str]

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded: RGB, 8 bits a channel, upright."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes where the images, their order or their labels change."""
        ...


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as people see it: rotated as its EXIF data says, RGB, 8 bits a channel."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's own conversion clips at 255
        values = np.asarray(image, dtype=np.float64) * (255 / 65535)
        return Image.fromarray(values.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _digest(labels: Tensor, parts: Sequence[bytes]) -> str:
    state = hashlib.sha256(labels.numpy().tobytes())
    for part in parts:
        state.update(part)
        state.update(b"\0")
    return f"{len(labels)} images, {state.hexdigest()[:16]}"


def _text(path: Path) -> str:
    """A path as text that can be written anywhere, also where its bytes are no UTF-8."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


class FileImages:
    """Images in files.

    Args:
        paths: the files.
        labels: the class of each.
        root: what `names` leaves out of the paths.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], root: Path) -> None:
        self.paths = tuple(paths)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [_text(path.relative_to(root)) for path in self.paths]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.paths)

    def load(self, index: int) -> Image.Image:
        """Image `index`; a file that cannot be decoded is a DataError that names it."""
        path = self.paths[index]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PIL's remarks on broken EXIF data and large images
                with Image.open(path) as image:
                    return to_rgb(image)
        except _UNREADABLE as error:
            raise DataError(f"{path} cannot be read as an image ({error}): mend or remove it") from error

    def fingerprint(self) -> str:
        """Names, sizes in bytes and labels."""
        parts = [f"{n}:{p.stat().st_size}".encode() for n, p in zip(self.names, self.paths, strict=True)]
        return _digest(self.labels, parts)


class ArrayImages:
    """Images in memory: `pixels` (n, height, width, 3) uint8."""

    def __init__(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], labels: Sequence[int]) -> None:
        self.pixels = pixels
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [str(index) for index in range(len(pixels))]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.pixels)

    def load(self, index: int) -> Image.Image:
        """Image `index`."""
        return Image.fromarray(self.pixels[index])

    def fingerprint(self) -> str:
        """Pixels and labels."""
        return _digest(self.labels, [self.pixels.tobytes()])


class TorchvisionImages:
    """A data set of torchvision, whose items are (PIL image, label); `labels` are the labels of all."""

    def __init__(self, dataset: Any, labels: Sequence[int]) -> None:
        self.dataset = dataset
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [str(index) for index in range(len(labels))]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """Image `index`; one that cannot be decoded is a DataError that says which."""
        try:
            return to_rgb(self.dataset[index][0])
        except _UNREADABLE as error:
            name = type(self.dataset).__name__
            raise DataError(f"image {index} of torchvision's {name} cannot be read ({error})") from error

    def fingerprint(self) -> str:
        """The data set's name and labels."""
        return _digest(self.labels, [type(self.dataset).__name__.encode()])


class ChosenImages:
    """Some of a list of images: those at `indices`, in that order."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.images = images
        self.indices = tuple(indices)
        self.labels = images.labels[list(self.indices)]
        self.names: Sequence[str] = [images.names[index] for index in self.indices]

    def __len__(self) -> int:
        """How many images are chosen."""
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        """Chosen image `index`."""
        return self.images.load(self.indices[index])

    def fingerprint(self) -> str:
        """The whole list's fingerprint, and which were chosen."""
        return _digest(self.labels, [self.images.fingerprint().encode(), repr(self.indices).encode()])


class JoinedImages:
    """Several lists of images, one after another."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = tuple(parts)
        self.labels = torch.cat([part.labels for part in self.parts])
        self.names: Sequence[str] = [name for part in self.parts for name in part.names]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """Image `index` of all."""
        for part in self.parts:
            if index < len(part):
                return part.load(index)
            index -= len(part)
        raise IndexError(f"there are {len(self)} images")

    def fingerprint(self) -> str:
        """The parts' fingerprints."""
        return "; ".join(part.fingerprint() for part in self.parts)
