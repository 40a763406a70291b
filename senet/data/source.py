"""Labelled images in splits that share their classes: what a data set is, wherever it came from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.data.images import ChosenImages, JoinedImages
from senet.errors import DataError
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from senet.data.images import BadFile, Images

__all__ = ["Data", "DataSource"]

SHOWN = 8
"""Classes that are named in the summary."""

SMALL = 64
"""Images of at most this many pixels a side are kept at their size: CIFAR's 32, the digits' 8."""


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Labelled images in up to three splits, which share their classes.

    Attributes:
        name: what it was opened by.
        classes: their names, in order of the class index.
        train: to train on, or None where there is nothing for it (a folder with val/ alone).
        val: held out.
        test: held out too; where there is one, it is what gets reported.
        native_size: pixels a side, where every image looked at is a square of that size; else None.
        flip: whether a mirrored image still shows its class (a digit's does not).
        shift: whether small images are shifted in training; not where they are drawn at every place.
        bad: images that were found to be unreadable, and are in no split.
        others: files beside the images that are none by their names.
        checked: whether every image was decoded once, to see that it can be.
        notes: what is worth saying of the images.
        renumbered: whether the labels are the class indices of another network, as `classes` or `class_offset` said.
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
    renumbered: bool = False

    def __post_init__(self) -> None:
        # A name that cannot be written would be lost with the whole training, and a terminal obeys some.
        for name in self.classes:
            if printable(name) != name or "\n" in name or "\t" in name:
                raise DataError(
                    f"{self.name} has a class called {name!r}, which holds control characters or is not in UTF-8: "
                    "rename it"
                )

    @property
    def skipped(self) -> tuple[BadFile, ...]:
        """What is left out, known so far: unreadable images first."""
        return (*self.bad, *self.others)

    @property
    def small(self) -> bool:
        """Whether the images are so small that they are used at their own size."""
        return self.native_size is not None and self.native_size <= SMALL

    @property
    def summary(self) -> str:
        """What was read, in one line: how many images are for what, and the classes."""
        words = {"train": "to train on", "val": "to measure (val)", "test": "to measure (test)"}
        sizes = [f"{len(images):,} {what}" for split, what in words.items() if (images := getattr(self, split))]
        shown = ", ".join(self.classes[:SHOWN]) + f" and {len(self.classes) - SHOWN} more" * (len(self.classes) > SHOWN)
        return f"{self.name}: {', '.join(sizes)}, {len(self.classes)} classes: {shown}"

    @property
    def kind(self) -> str:
        """What decides the usual recipe: "context", "digits", "small" images, or "photos"."""
        made = self.name.removesuffix("-random")
        return made if made in ("context", "digits") else "small" if self.small else "photos"

    @property
    def reported(self) -> tuple[str, Images]:
        """The split whose accuracy is the result, with its name: test where there is one, else val."""
        for name, images in (("test", self.test), ("val", self.val)):
            if images is not None:
                return name, images
        raise DataError(f"{self.name} has nothing to measure on: neither val/ nor test/")

    @property
    def monitored(self) -> tuple[str, Images]:
        """The split measured after every epoch, with its name: val where there is one, else test."""
        return ("val", self.val) if self.val is not None else self.reported

    def split(self, name: str | None) -> tuple[str, Images]:
        """A split by its name, "all" of them as one, or the reported one (None).

        Raises:
            DataError: where there is no such split.
        """
        if name is None:
            return self.reported
        here = {s: images for s in ("train", "val", "test") if (images := getattr(self, s)) is not None}
        if name == "all":
            return name, JoinedImages(list(here.values()))
        if name not in here:
            raise DataError(f"{self.name} has no split {name!r}; it has {', '.join(here)} and all")
        return name, here[name]

    def relabelled(self, images: Images, indices: Sequence[int]) -> Images:
        """Images of this source, those of class c having the label `indices[c]`."""
        relabelled = ChosenImages(images, range(len(images)))
        relabelled.labels = torch.tensor(indices)[images.labels]
        return relabelled

    def fingerprint(self) -> dict[str, str]:
        """For each split, a short text that changes with its images and labels."""
        splits = (("train", self.train), ("val", self.val), ("test", self.test))
        return {name: images.fingerprint() for name, images in splits if images is not None}


Data = str | Path | DataSource | tuple[Any, Any]
"""What a study takes as its images: a name, what `open_data` returned, or two of PyTorch's data sets."""
