"""Prepare images for training: they are decoded once and shared by all runs."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

import torch

from senet.data.augmentation import augmentation_of
from senet.data.sampling import CachedImages, eval_loader, hold, share_of, train_loader
from senet.errors import DataError, StudyError, whole_number
from senet.training.processes.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader

    from senet.data.sampling import Batch
    from senet.data.sources import DataSource
    from senet.data.transforms import Augmentation, Preprocessing
    from senet.recipe.recipe import Recipe
    from senet.training.processes.processes import DeviceLayout

__all__ = ["PreparedImages", "TrainingSetup"]

FEW_PIXELS = 2**14
"""Smaller batches use one thread. Several threads would wait for each other after every small
layer, and on a busy machine for whole time slices (measured: an epoch of the digits in 0.6 s, not
20 s)."""


@dataclasses.dataclass(frozen=True)
class TrainingSetup:
    """The setup shared by runs on the same images.

    Attributes:
        source: the images.
        preprocessing: the preprocessing for evaluation.
        recipe: the hyperparameters.
        layout: the devices and processes.
        processes: this process among those of the training.
        checkpoint_minutes: minutes between checkpoints within an epoch; 0 for one after each step.
        workers: processes that load images; None means as needed.
        logger: the name of an additional logger.
    """

    source: DataSource
    preprocessing: Preprocessing
    recipe: Recipe
    layout: DeviceLayout
    processes: Processes = dataclasses.field(default_factory=Processes)
    checkpoint_minutes: float = 10.0
    workers: int | None = None
    logger: str = "tensorboard"

    def __post_init__(self) -> None:
        if self.source.train is None:
            raise DataError(f"{self.source.name} has nothing to train on: there is no train/ in it")
        lists = (self.source.train, self.source.monitored[1], self.source.reported[1])
        if self.source.indices or any(int(images.labels.max()) >= self.num_classes for images in lists):
            raise DataError(
                f"{self.source.name} was opened with the classes of another network, which is for evaluation: "
                "open it without `classes` and `class_offset` to train on it"
            )
        # What is refused here leaves no folder with settings that no other call could go on with.
        count = len(self.source.train)
        share_of(min(self.recipe.batch_size, count), self.processes.count, self.recipe.accumulate, count)
        if self.workers is not None:
            whole_number("workers", self.workers, 0)
        plain = not self.recipe.ema and self.recipe.clip is None and self.recipe.decay_norms_and_biases
        if self.layout.count > 1 and self.layout.strategy == "fsdp" and not plain:
            raise StudyError(
                "strategy='fsdp' has no ema, no clip and no decay_norms_and_biases=False: 'ddp' has all three"
            )

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.layout.device

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of training images."""
        return augmentation_of(self.source, self.preprocessing, self.recipe)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.source.classes)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        assert self.source.train is not None
        count = len(self.source.train)
        return count // min(self.recipe.batch_size, count)

    @property
    def steps(self) -> int:
        """Batches in a run."""
        return self.recipe.epochs * self.steps_per_epoch

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """A context in which PyTorch uses a suitable number of CPU threads."""
        before = torch.get_num_threads()
        few = self.recipe.batch_size * self.preprocessing.size**2 < FEW_PIXELS
        if few and self.device.type == "cpu":
            torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class PreparedImages:
    """The decoded images of a setup.

    Attributes:
        setup: the setup.
    """

    def __init__(self, setup: TrainingSetup) -> None:
        assert setup.source.train is not None
        self.setup = setup
        (split, monitored), (other, reported) = setup.source.monitored, setup.source.reported
        self._train = hold(setup.source.train, setup.augmentation)
        self._monitored = hold(monitored, setup.preprocessing)
        self._reported = self._monitored if other == split else hold(reported, setup.preprocessing)

    def train_batches(self, seed: int, step: int) -> DataLoader[Batch]:
        """Training batches, beginning after `step` steps."""
        epoch, begin = divmod(step, self.setup.steps_per_epoch)
        return train_loader(
            self._train,
            self.setup.augmentation,
            self.setup.recipe.batch_size,
            seed=seed,
            epoch=epoch,
            begin=begin,
            parts=self.setup.recipe.accumulate,
            rank=self.setup.processes.rank,
            processes=self.setup.processes.count,
            workers=self.setup.workers,
        )

    def monitored_batches(self) -> DataLoader[Batch]:
        """Batches of the monitored split, equally many in each process."""
        return self._measured(self._monitored, even=True)

    def reported_batches(self) -> DataLoader[Batch]:
        """Batches of the reported split."""
        return self._measured(self._reported, even=False)

    def _measured(self, cached: CachedImages, *, even: bool) -> DataLoader[Batch]:
        processes = self.setup.processes
        return eval_loader(
            cached,
            max(64, self.setup.recipe.batch_size // processes.count),
            rank=processes.rank,
            processes=processes.count,
            even=even,
            workers=self.setup.workers,
        )
