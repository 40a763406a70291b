"""Lists of labelled images, read one at a time: files, arrays, and torchvision's data sets."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from senet.data.decoding import decode, reason_of, upright
from senet.errors import BadImageError, DataError
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = [
    "ArrayImages",
    "BadFile",
    "ChosenImages",
    "FileImages",
    "Images",
    "JoinedImages",
    "TorchvisionImages",
    "base_of",
    "digest",
    "prepared",
    "side_of",
    "text_of",
    "twins_in",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class BadFile:
    """A file that was skipped.

    Attributes:
        name: the file's path below the data's folder.
        reason: why it was skipped.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Images(Protocol):
    """A list of labelled images. `labels` is (n,) int64, and `names` identifies each image."""

    labels: Tensor
    names: Sequence[str]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.names)

    def load(self, index: int) -> Image.Image:
        """Image `index`, decoded: upright, 8 bits a channel, RGB or (where it is transparent) RGBA."""
        ...

    def fingerprint(self) -> str:
        """A short text that changes with the images, their order or their labels."""
        ...


def digest(labels: Tensor, parts: Sequence[bytes]) -> str:
    """A short digest of labels and of anything else that identifies the images."""
    state = hashlib.sha256(labels.numpy().tobytes())
    for part in parts:
        state.update(part)
        state.update(b"\0")
    return f"{len(labels)} images, {state.hexdigest()[:16]}"


def side_of(sizes: Iterable[tuple[int, int]]) -> int | None:
    """The side in pixels if images of these sizes are all squares of one size, else None."""
    sides = {side for size in sizes for side in size}
    return sides.pop() if len(sides) == 1 else None


def text_of(path: Path | str) -> str:
    """A path as printable text, even if its bytes are not UTF-8 or contain control characters."""
    given = os.fsencode(path if isinstance(path, str) else path.as_posix())
    return printable(given.decode("utf-8", "backslashreplace"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a broken link
        return -1


class FileImages(Images):
    """Images in files.

    Args:
        paths: the files.
        labels: their class indices.
        root: the prefix of the paths that `names` leaves out.
        names: names to use instead.
    """

    concurrent = True  # threads may load several at once

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], root: Path, *, names: Sequence[str] | None = None
    ) -> None:
        self.paths = tuple(paths)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = names or [text_of(path.relative_to(root)) for path in self.paths]

    def load(self, index: int) -> Image.Image:
        """Image `index`; raises a BadImageError that names the file if it cannot be decoded."""
        return decode(self.paths[index])

    def content(self, index: int, most: int = -1) -> bytes:
        """The first `most` bytes of file `index`, or all of them."""
        with self.paths[index].open("rb") as file:
            return file.read(most)

    def size(self, index: int) -> int:
        """The size of file `index` in bytes; -1 if it does not exist."""
        return _size(self.paths[index])

    def fingerprint(self) -> str:
        """Names, sizes in bytes and labels."""
        parts = [f"{n}:{_size(p)}".encode() for n, p in zip(self.names, self.paths, strict=True)]
        return digest(self.labels, parts)

    def state(self) -> bytes:
        """A value that changes when any of the files is rewritten."""
        parts = [os.path.realpath(self.paths[0].parent).encode(errors="backslashreplace")]
        for name, path in zip(self.names, self.paths, strict=True):
            try:
                info = path.stat()
                parts.append(f"{name}:{info.st_size}:{info.st_mtime_ns}".encode())
            except OSError:
                parts.append(f"{name}:?".encode())
        return hashlib.sha256(b"\0".join(parts)).digest()


def twins_in(splits: Sequence[Images]) -> list[list[tuple[int, int]]]:
    """Groups of byte-identical files, each as (number of the list, index in it); arrays are left out.

    With several lists, only groups that span more than one are searched for.
    """
    members: dict[object, list[tuple[int, int, Any, int]]] = {}
    for place, images in enumerate(splits):
        base, chosen = base_of(images)
        if hasattr(base, "content"):
            for index, within in enumerate(chosen):
                if (size := base.size(within)) > 0:  # a pipe has no size, and opening one would block
                    members.setdefault(size, []).append((place, index, base, within))
    # Equal sizes are common and files large; the first bytes already distinguish most.
    for most in (4096, -1):
        groups = [group for group in members.values() if _across(group, len(splits))]
        members = {}
        for number, group in enumerate(groups):
            for entry in group:
                try:
                    content = hashlib.sha256(entry[2].content(entry[3], most)).digest()
                except OSError:
                    continue  # an unreadable file is reported later
                members.setdefault((number, content), []).append(entry)
    found = [group for group in members.values() if _across(group, len(splits))]
    return [[(place, index) for place, index, _, _ in group] for group in found]


def _across(group: Sequence[tuple[int, int, Any, int]], lists: int) -> bool:
    return len(group) > 1 and (lists == 1 or len({place for place, *_ in group}) > 1)


class ArrayImages(Images):
    """Images in memory: `pixels` (n, height, width, 3) uint8."""

    def __init__(self, pixels: np.ndarray[Any, np.dtype[np.uint8]], labels: Sequence[int]) -> None:
        self.pixels = pixels
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [str(index) for index in range(len(pixels))]

    def load(self, index: int) -> Image.Image:
        """Image `index`."""
        return Image.fromarray(self.pixels[index])

    def fingerprint(self) -> str:
        """Pixels and labels."""
        return digest(self.labels, [self.pixels.tobytes()])


class TorchvisionImages(Images):
    """A torchvision data set with items (PIL image, label); `labels` are the labels of all items."""

    def __init__(self, dataset: Any, labels: Sequence[int]) -> None:
        self.dataset = dataset
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.names: Sequence[str] = [str(index) for index in range(len(labels))]

    @property
    def in_memory(self) -> bool:
        """Whether the data set holds its images as an array, so that none needs decoding."""
        return isinstance(getattr(self.dataset, "data", None), np.ndarray | Tensor)

    def load(self, index: int) -> Image.Image:
        """Image `index`; one that cannot be decoded is a BadImageError that says which."""
        try:
            return upright(self.dataset[index][0])
        except Exception as error:  # a damaged file fails in any part of a decoder, with any error
            name, why = type(self.dataset).__name__, reason_of(error)
            message = f"image {index} of torchvision's {name} cannot be read ({why})"
            raise BadImageError(message, why, lasting=not isinstance(error, OSError | MemoryError)) from error

    def fingerprint(self) -> str:
        """A digest of the data set's name and labels."""
        return digest(self.labels, [type(self.dataset).__name__.encode()])


class ChosenImages(Images):
    """The images of a list at `indices`, in that order."""

    def __init__(self, images: Images, indices: Sequence[int]) -> None:
        self.labels = images.labels[list(indices)]
        self.indices: tuple[int, ...] = tuple(indices)
        if isinstance(images, ChosenImages):  # flatten nested choices
            self.indices = tuple(images.indices[index] for index in indices)
            images = images.images
        self.images: Images = images
        self.names: Sequence[str] = [images.names[index] for index in self.indices]

    def load(self, index: int) -> Image.Image:
        """Chosen image `index`."""
        return self.images.load(self.indices[index])

    def fingerprint(self) -> str:
        """A digest of the whole list's fingerprint and the indices."""
        return digest(self.labels, [self.images.fingerprint().encode(), repr(self.indices).encode()])


def base_of(images: Images) -> tuple[Any, Sequence[int]]:
    """The list that images were chosen from, or the images themselves, and their indices in it."""
    return (images.images, images.indices) if isinstance(images, ChosenImages) else (images, range(len(images)))


def prepared(images: Images, prepare: Callable[[Image.Image], T], index: int) -> T:
    """Image `index`, prepared; if its values cannot be used, the error names it."""
    image = images.load(index)
    try:
        return prepare(image)
    except DataError as error:
        raise DataError(f"{images.names[index]}: {error}") from error


class JoinedImages(Images):
    """Several lists of images, concatenated."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = tuple(parts)
        self.labels = torch.cat([part.labels for part in self.parts])
        self.names: Sequence[str] = [name for part in self.parts for name in part.names]

    def load(self, index: int) -> Image.Image:
        """Image `index` of the concatenation."""
        for part in self.parts:
            if index < len(part):
                return part.load(index)
            index -= len(part)
        raise IndexError(f"there are {len(self)} images")

    def fingerprint(self) -> str:
        """The parts' fingerprints."""
        return "; ".join(part.fingerprint() for part in self.parts)
