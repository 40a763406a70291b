"""Read images once, in order, skipping and listing those that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from senet.console.machine import usual_workers
from senet.data.images import BadFile, prepared
from senet.data.sampling import forking, worker_words
from senet.data.unreadable import check_bad
from senet.errors import BadImageError, DataError, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from senet.data.images import Images
    from senet.data.sampling import Batch

__all__ = ["Readable"]


class _Item(NamedTuple):
    place: int
    pixels: Tensor | None
    label: int
    reason: str


class _Items(Dataset[_Item]):
    def __init__(self, images: Images, prepare: Callable[..., Tensor]) -> None:
        self.images = images
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Item:
        label = int(self.images.labels[index])
        try:
            return _Item(index, prepared(self.images, self.prepare, index), label, "")
        except BadImageError as error:
            return _Item(index, None, label, error.reason)


class _Loaded(NamedTuple):
    """A batch: indices, pixels and labels of the readable images, and each unreadable index with its reason."""

    indices: list[int]
    pixels: Tensor | None
    labels: Tensor
    bad: list[tuple[int, str]]


def _together(items: list[_Item]) -> _Loaded:
    pixels = [item.pixels for item in items if item.pixels is not None]
    good = [item for item in items if item.pixels is not None]
    return _Loaded(
        [item.place for item in good],
        torch.stack(pixels) if pixels else None,
        torch.tensor([item.label for item in good], dtype=torch.int64),
        [(item.place, item.reason) for item in items if item.pixels is None],
    )


class Readable:
    """Batches (N, 3, size, size) uint8 with labels (N,): every readable image once, in order.

    Args:
        images: the images.
        prepare: a function from an image to pixels.
        batch_size: images read at a time; N is smaller by the unreadable ones.
        workers: processes that read; None means one per core, at most 8.
        max_bad: how many images may be unreadable, a number or a share; None means any.
        name: the name of the images in errors.
        before: images already known to be unreadable.

    Attributes:
        indices: indices of the images read, in order.
        bad: the unreadable images.

    Raises:
        DataError: while reading, if more images are unreadable than allowed, or all.
        ValueError: the number of workers is not a whole number of at least 0.
    """

    def __init__(
        self,
        images: Images,
        prepare: Callable[..., Tensor],
        batch_size: int,
        *,
        workers: int | None = None,
        max_bad: float | str | None = None,
        name: str = "the images",
        before: tuple[BadFile, ...] = (),
    ) -> None:
        wanted = usual_workers() if workers is None else whole_number("workers", workers, 0)
        self.images = images
        self.max_bad = max_bad
        self.name = name
        self.before = before
        self.indices: list[int] = []
        self.bad: list[BadFile] = []
        self._loader = DataLoader(
            _Items(images, prepare),
            batch_size=batch_size,
            num_workers=min(wanted, -(-len(images) // batch_size)),
            collate_fn=_together,
            generator=torch.Generator(),
        )
        self._check()

    def __len__(self) -> int:
        """The largest possible number of batches."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the batches; `indices` and `bad` are those of this pass."""
        self.indices, self.bad = [], []
        with forking():
            loaded = iter(self._loader)
        while (batch := self._next(loaded)) is not None:
            indices, pixels, labels, bad = batch
            self.indices += indices
            self.bad += [BadFile(self.images.names[index], reason) for index, reason in bad]
            if bad:
                self._check()
            if pixels is not None:
                yield pixels, labels
        if not self.indices:
            raise DataError(f"no image of {self.name} can be read; the first: {self.bad[0]}")

    def _next(self, loaded: Iterator[_Loaded]) -> _Loaded | None:
        try:
            return next(loaded, None)
        except DataError as error:
            raise DataError(worker_words(error)) from None

    def _check(self) -> None:
        if self.max_bad is not None:
            total = len(self.images) + len(self.before)
            check_bad([*self.before, *self.bad], total, self.max_bad, self.name)
