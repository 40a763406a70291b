"""A data source: labelled images in splits that share their classes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.data.images import ChosenImages, JoinedImages
from senet.errors import DataError
from senet.words import listed, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from senet.data.images import BadFile, Images

__all__ = ["Data", "DataSource"]

SHOWN = 8
"""The number of classes that the summary names."""

SMALL = 64
"""Images up to this many pixels a side keep their size: CIFAR's 32, the digits' 8."""

_WORDS = {"train": "to train on", "val": "to measure (val)", "test": "to measure (test)"}  # of each split


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Labelled images in up to three splits that share their classes.

    Attributes:
        name: the name by which it was opened.
        classes: class names in the order of their indices.
        train: the training images, or None (for a folder with only val/).
        val: held-out images.
        test: held-out images too; if present, results are reported on them.
        native_size: the side in pixels if every inspected image is a square of that size, else None.
        flip: whether a mirrored image keeps its class (a digit does not).
        shift: whether small images are shifted in training; False if they already vary in position.
        bad: unreadable images, which are in no split.
        others: files that are not images by their names.
        checked: whether every image was decoded once as a check.
        notes: remarks on the images.
        indices: a network's index of each class, if `classes` or `class_offset` made them the labels; else empty.
        root: the folder of the class folders, if they are in one.
    """

    name: str
    classes: tuple[str, ...]
    train: Images | None
    val: Images | None
    test: Images | None
    native_size: int | None
    flip: bool = True
    shift: bool = True
    bad: tuple[BadFile, ...] = ()
    others: tuple[BadFile, ...] = ()
    checked: bool = False
    notes: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    root: Path | None = None

    def __post_init__(self) -> None:
        # A name that cannot be encoded would fail the whole training when written, and a terminal obeys some.
        for name in self.classes:
            if printable(name) != name or "\n" in name or "\t" in name:
                raise DataError(
                    f"{self.name} has a class called {name!r}, which holds control characters or is not in UTF-8: "
                    "rename it"
                )

    @property
    def skipped(self) -> tuple[BadFile, ...]:
        """The files left out so far, unreadable images first."""
        return (*self.bad, *self.others)

    @property
    def small(self) -> bool:
        """Whether the images are small enough to be used at their own size."""
        return self.native_size is not None and self.native_size <= SMALL

    @property
    def splits(self) -> dict[str, Images]:
        """The images of each split that there is."""
        return {name: images for name in _WORDS if (images := getattr(self, name)) is not None}

    @property
    def summary(self) -> str:
        """One line with the number of images per split and the classes."""
        sizes = [f"{len(images):,} {_WORDS[split]}" for split, images in self.splits.items()]
        return f"{self.name}: {', '.join(sizes)}, {len(self.classes)} classes: {listed(self.classes, SHOWN)}"

    @property
    def kind(self) -> str:
        """The kind of images, which decides the default recipe: "context", "digits", "small" or "photos"."""
        made = self.name.removesuffix("-random")
        return made if made in ("context", "digits") else "small" if self.small else "photos"

    @property
    def reported(self) -> tuple[str, Images]:
        """The split on which results are reported, with its name: test if there is one, else val."""
        for name, images in (("test", self.test), ("val", self.val)):
            if images is not None:
                return name, images
        raise DataError(f"{self.name} has nothing to measure on: neither val/ nor test/")

    @property
    def monitored(self) -> tuple[str, Images]:
        """The split measured after every epoch, with its name: val if there is one, else test."""
        return ("val", self.val) if self.val is not None else self.reported

    def split(self, name: str | None) -> tuple[str, Images]:
        """A split by name; "all" joins them, and None is the reported one.

        Raises:
            DataError: there is no such split.
        """
        if name is None:
            return self.reported
        if name == "all":
            return name, JoinedImages(list(self.splits.values()))
        if name not in self.splits:
            raise DataError(f"{self.name} has no split {name!r}; it has {', '.join(self.splits)} and all")
        return name, self.splits[name]

    def relabelled(self, images: Images, indices: Sequence[int]) -> Images:
        """Images of this source with the label `indices[c]` for class c."""
        relabelled = ChosenImages(images, range(len(images)))
        relabelled.labels = torch.tensor(indices)[images.labels]
        return relabelled

    def fingerprint(self) -> dict[str, str]:
        """A short text for each split that changes with its images and labels."""
        return {name: images.fingerprint() for name, images in self.splits.items()}


Data = str | Path | DataSource | tuple[Any, Any]
"""The images of a study: a name, a result of `open_data`, or two PyTorch data sets."""
