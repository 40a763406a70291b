"""Reproducible batches: the same for any number of workers, for a resumed run, and for plain and SE networks.

A sample's randomness depends only on (seed, epoch, index), and the order of images only on (seed, epoch).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from senet.console.machine import usual_workers
from senet.data.images import Images, base_of, prepared
from senet.data.signals import WorkerSignalShield
from senet.data.transforms import Augmentation, Preprocessing
from senet.errors import DataError, StudyError, whole_number
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = [
    "CachedImages",
    "KeyedSampler",
    "eval_loader",
    "hold",
    "own_share",
    "random_key",
    "seeded",
    "train_loader",
    "worker_words",
]

BUDGET = 512 * 2**20
"""The most bytes of decoded images kept in memory per split; larger splits are decoded in every epoch."""

Batch = tuple[Tensor, Tensor]
Key = tuple[int, int]


def random_key(*numbers: int) -> int:
    """A 63-bit seed from integers; changing any of them gives an unrelated seed."""
    packed = struct.pack(f"<{len(numbers)}q", *numbers)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


@contextlib.contextmanager
def seeded(key: int) -> Iterator[None]:
    """Run with torch's CPU generator, which torchvision's transforms use, seeded by `key`; then restore it."""
    generator = torch.default_generator  # torch.manual_seed would queue a call for each device every time
    state = generator.get_state()
    generator.manual_seed(key)
    try:
        yield
    finally:
        generator.set_state(state)


@contextlib.contextmanager
def forking() -> Iterator[None]:
    """A context that silences Python's warning about forking with threads, which PyTorch always has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*multi-threaded, use of fork", DeprecationWarning)
        yield


def worker_words(error: Exception) -> str:
    """What a loader's error says, in one line; "" if it is neither ours nor that of a killed worker."""
    text = str(error).strip()
    if re.search(r"DataLoader worker .*(killed|exited)", text):
        return (
            f"a process that loads images was ended from outside, perhaps for want of memory ({text}): fewer --workers "
            "need less"
        )
    # An error of a worker arrives as the text of its traceback, whose last line is the error.
    return re.sub(r"^senet\.errors\.\w+: ", "", text.splitlines()[-1]) if isinstance(error, DataError) else ""


class CachedImages(Dataset[Tensor]):
    """Decoded images (3, H, W) uint8: in memory as one tensor if they fit, else decoded on access.

    Args:
        images: the images to decode.
        prepare: a deterministic function from an image to pixels.
        budget: the most bytes of memory; 0 keeps none.
    """

    def __init__(self, images: Images, prepare: Callable[..., Tensor], budget: int = BUDGET) -> None:
        self.images = images
        self.prepare = prepare
        self._pixels: Tensor | None = None
        self._shapes: list[torch.Size] = []
        self._starts: list[int] = []
        if budget and self._estimate() <= budget:
            self._fill(budget)

    @property
    def in_memory(self) -> bool:
        """Whether all decoded images are in memory."""
        return self._pixels is not None

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        """Image `index`, (3, H, W) uint8."""
        if self._pixels is None:
            return prepared(self.images, self.prepare, index)
        shape, start = self._shapes[index], self._starts[index]
        return self._pixels[start : start + shape.numel()].view(shape)

    def _estimate(self) -> int:
        """The estimated bytes of all images, from some spread over the list."""
        chosen = range(0, len(self), max(1, len(self) // 16))
        return sum(self[index].numel() for index in chosen) * len(self) // max(1, len(chosen))

    def _fill(self, budget: int) -> None:
        parts: list[Tensor] = []
        total = 0
        with ThreadPoolExecutor(usual_workers()) as pool:
            decode = pool.map if getattr(base_of(self.images)[0], "concurrent", False) else map
            for pixels in decode(self.__getitem__, range(len(self))):
                parts.append(pixels.reshape(-1))
                self._shapes.append(pixels.shape)
                self._starts.append(total)
                total += pixels.numel()
                if total > 2 * budget:  # the estimate was too low
                    pool.shutdown(cancel_futures=True)
                    return
        self._pixels = torch.cat(parts)


def hold(images: Images, how: Augmentation | Preprocessing, *, budget: int = BUDGET) -> CachedImages:
    """`images` prepared by an augmentation's deterministic part, or by a preprocessing."""
    return CachedImages(images, how.base if isinstance(how, Augmentation) else how, budget)


class KeyedSampler(Sampler[Key]):
    """Yields (epoch, index) for every image, in an order drawn from (seed, epoch) or in list order.

    An epoch is cut into batches, and each batch into equal slices, one per process. So all
    processes together see the same batches as a single one. Images after the last whole batch are
    left out.

    Args:
        length: the number of images.
        seed: the order's seed; None means list order.
        epoch: the first epoch; `set_epoch`, which Lightning calls, sets later ones.
        batch_size: images per batch over all processes.
        begin: the first batch of the first epoch.
        rank: this process's rank.
        processes: the number of processes, which divides `batch_size`.
    """

    def __init__(
        self,
        length: int,
        seed: int | None = None,
        epoch: int = 0,
        *,
        batch_size: int = 1,
        begin: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.length = length
        self.seed = seed
        self.epoch = epoch
        self.batch_size = batch_size
        self.begin = begin
        self.rank = rank
        self.processes = processes

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        if epoch != self.epoch:
            self.begin = 0
        self.epoch = epoch

    def __len__(self) -> int:
        """The number of images per epoch in this process."""
        return self.length // self.batch_size * self.batch_size // self.processes

    def __iter__(self) -> Iterator[Key]:
        """The keys of one epoch."""
        epoch, share = self.epoch, self.batch_size // self.processes
        order = self._order(epoch)
        starts = range(self.begin * self.batch_size, len(self) * self.processes, self.batch_size)
        slices = (order[start + self.rank * share : start + (self.rank + 1) * share] for start in starts)
        return ((epoch, index) for part in slices for index in part)

    def batch(self, epoch: int, number: int) -> list[int]:
        """The image indices of one batch of an epoch (both from 0), over all processes."""
        return list(self._order(epoch)[number * self.batch_size : (number + 1) * self.batch_size])

    def _order(self, epoch: int) -> Sequence[int]:
        if self.seed is None:
            return range(self.length)
        generator = torch.Generator().manual_seed(random_key(self.seed, epoch))
        order: list[int] = torch.randperm(self.length, generator=generator, device="cpu").tolist()
        return order


def own_share(length: int, rank: int = 0, processes: int = 1, *, even: bool = False) -> list[int]:
    """The images of process `rank`, which are dealt out in order; `even` fills short shares up with -1."""
    own = list(range(rank, length, processes))
    return own + [-1] * (-(-length // processes) - len(own) if even else 0)


class _Views(Dataset[Batch]):
    """Random views of cached images, by (epoch, index), with labels."""

    def __init__(self, cached: CachedImages, augmentation: Augmentation, seed: int) -> None:
        self.cached = cached
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        return len(self.cached)

    def __getitem__(self, key: Key) -> Batch:
        epoch, index = key
        with seeded(random_key(self.seed, epoch, index)):
            return self.augmentation(self.cached[index]), self.cached.images.labels[index]


class _Fixed(Dataset[Batch]):
    """Cached images with labels, unchanged."""

    def __init__(self, cached: CachedImages) -> None:
        self.cached = cached

    def __len__(self) -> int:
        return len(self.cached)

    def __getitem__(self, index: int) -> Batch:
        if index < 0:  # fills up a batch and is not counted
            return self.cached[0], torch.tensor(-1)
        return self.cached[index], self.cached.images.labels[index]


def _loading(cached: CachedImages, asked: int | None) -> dict[str, Any]:
    """Arguments of every loader: its worker processes, by default none if the images are in memory."""
    usual = 0 if cached.in_memory else usual_workers()
    count = usual if asked is None else whole_number("workers", asked, 0)
    own = {"worker_init_fn": WorkerSignalShield(), "generator": torch.Generator()}
    return {"num_workers": count, "persistent_workers": count > 0, **own}


def train_loader(
    cached: CachedImages,
    augmentation: Augmentation,
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    begin: int = 0,
    parts: int = 1,
    rank: int = 0,
    processes: int = 1,
    workers: int | None = None,
) -> DataLoader[Batch]:
    """Batches (N, 3, size, size) uint8 with labels (N,), where N is `batch_size` divided by processes and parts.

    Images left over in one epoch appear in others, which have other orders. A last batch of one
    image would break batch normalisation.

    Args:
        cached: the images.
        augmentation: the augmentation that makes the views.
        batch_size: images per batch over all processes and parts, capped at the number of images.
        seed: the seed of order and views.
        epoch: the first epoch.
        begin: the first batch of that epoch.
        parts: the number of parts in which a batch is processed.
        rank: this process's rank.
        processes: the number of processes.
        workers: processes that prepare batches; by default none if the images are in memory.

    Raises:
        StudyError: a batch does not divide into so many equal parts.
    """
    loading = _loading(cached, workers)
    whole = min(batch_size, len(cached))
    share = share_of(whole, processes, parts, len(cached))
    return DataLoader(
        _Views(cached, augmentation, seed),
        batch_size=share,
        sampler=KeyedSampler(len(cached), seed, epoch, batch_size=whole, begin=begin, rank=rank, processes=processes),
        drop_last=True,
        **loading,
    )


def eval_loader(
    cached: CachedImages,
    batch_size: int,
    *,
    rank: int = 0,
    processes: int = 1,
    even: bool = False,
    workers: int | None = None,
) -> DataLoader[Batch]:
    """Batches (N, 3, size, size) uint8 with labels (N,): every image once, dealt out in order over the processes.

    With `even`, a process that lacks an image gets one with the label -1, which must not be counted.
    """
    share = own_share(len(cached), rank, processes, even=even)
    return DataLoader(_Fixed(cached), batch_size=batch_size, sampler=share, **_loading(cached, workers))


def share_of(batch_size: int, processes: int, parts: int, images: int) -> int:
    """The number of images that a process handles at a time.

    Raises:
        StudyError: a batch does not divide into so many equal parts; the message has the nearest size that does, up
            to the number of images.
    """
    pieces = processes * parts
    if batch_size % pieces:
        near = min(max(1, round(batch_size / pieces)), images // pieces) * pieces
        remedy = f"give a batch_size of {near}" if near else f"there are only {counted(images, 'image')} to train on"
        raise StudyError(
            f"a batch of {batch_size} does not come in equal parts for {counted(processes, 'device')}"
            f"{f' and accumulate={parts}' * (parts > 1)}: {remedy}"
        )
    return batch_size // pieces
