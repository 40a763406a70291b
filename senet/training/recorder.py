"""The records of a training: metrics per epoch, and checkpoints for exact resumption."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Checkpoint

from senet.console.stopping import Stopped
from senet.data.signals import StopRequest
from senet.errors import StudyError
from senet.files.run_folder import BEST, METRICS, NOT_FINITE, write_csv, write_json
from senet.saving.saving import write_network
from senet.training.checkpointing import newest, place, sweep
from senet.training.tally import NotFinite, Sums
from senet.words import listed

if TYPE_CHECKING:
    from pathlib import Path

    import lightning.pytorch as L
    from torch import nn
    from torch.utils.data import DataLoader

    from senet.console.progress import Progress
    from senet.data.sampling import Batch
    from senet.training.setup import TrainingSetup
    from senet.training.tally import Tally

__all__ = ["Recorder"]

NAMED = 8
"""The number of images that a message names; a file lists the whole batch."""


class Recorder(Checkpoint):
    """Keeps metrics per epoch and writes checkpoints: after each epoch, at intervals within, and on request.

    Lightning calls checkpoint callbacks after all others. A checkpoint is written only between two
    optimiser steps, and only of finite weights.

    Attributes:
        history: one row of metrics per epoch.
        request: whether a signal asks to stop.
        begun: whether any checkpoint has been restored and training has begun.
    """

    def __init__(
        self, folder: Path, setup: TrainingSetup, train: DataLoader[Batch], tally: Tally, progress: Progress
    ) -> None:
        self.folder = folder
        self._setup = setup
        self.train = train
        self.tally = tally
        self.progress = progress
        self.request = StopRequest()
        self.history: list[dict[str, float]] = []
        self.begun = False
        self._seconds = 0.0  # of training in this epoch, before `_since`
        self._since = 0.0
        self._written = 0.0
        self._rate = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Take back the signal handlers, which Lightning has just replaced, and start the clocks."""
        self.request.listen()
        self.begun = True
        self._since = self._written = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Start the epoch's clock."""
        self._seconds, self._since = 0.0, time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the learning rate of this step."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """End one part of a batch and, after the last part, a step."""
        parts = self._setup.recipe.accumulate
        if (batch_idx + 1) % parts:
            return
        self.progress.step()
        minutes = self._setup.checkpoint_minutes
        due = self._setup.processes.rank == 0 and time.perf_counter() - self._written >= 60 * minutes
        try:
            word = self.tally.end_step(trainer.global_step, stop=self.request.number > 0, due=due)
            last = (batch_idx + 1) // parts == self._setup.steps_per_epoch
            if last or not (word.stop or word.due):  # after the last step, the end of the epoch writes one
                return
            self.tally.flush()
        except NotFinite as error:
            raise self._diverged(error) from None
        now = time.perf_counter()
        self._seconds, self._since = self._seconds + now - self._since, now
        self._write(trainer, pl_module)
        if word.stop:
            self._stop(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Stop the clock, since measuring does not count as training."""
        self._seconds += time.perf_counter() - self._since
        try:
            self.tally.flush()
        except NotFinite as error:
            raise self._diverged(error) from None

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the epoch's row, and a checkpoint with all rows."""
        split = self._setup.source.monitored[0]
        row = {
            "epoch": trainer.current_epoch + 1,
            **self.tally.take().figures("train"),
            **pl_module.held.take_all().figures(split),
            "lr": self._rate,
            "seconds": self._seconds,
        }
        self.history.append(row)
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
        if self._setup.processes.rank == 0 and self._setup.layout.strategy != "fsdp":  # which has it in pieces
            self._keep_best(pl_module.measured, row, split)
        self._write(trainer, pl_module)
        if self._setup.processes.rank == 0:
            write_csv(self.folder / METRICS, self.history)
        self.progress.epoch(
            int(row["epoch"]), f"training loss {row['train_loss']:.3f}, {split} accuracy {row[f'{split}_accuracy']:.2%}"
        )
        stop = torch.tensor([float(self.request.number > 0)])
        if self._setup.processes.summed(stop).item():
            self._stop(trainer)

    def _keep_best(self, network: nn.Module, row: dict[str, float], split: str) -> None:
        """Keep the network of the epoch with the highest accuracy so far, the first among equals."""
        accuracies = [earlier[f"{split}_accuracy"] for earlier in self.history]
        if accuracies[-1] > max(accuracies[:-1], default=-1.0):
            metadata = {
                "classes": list(self._setup.source.classes),
                "preprocessing": self._setup.preprocessing.to_json(),
                "epoch": row["epoch"],
                "accuracy": accuracies[-1],
                "chosen_on": split,
            }
            write_network(network, self.folder / BEST, metadata, follow=False)

    def _write(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in pl_module.network.parameters()):
            raise self._diverged(NotFinite(trainer.global_step, float("nan")), "a weight")
        trainer.save_checkpoint(place(self.folder, trainer.global_step))
        self._written = time.perf_counter()
        if self._setup.processes.rank == 0:
            sweep(self.folder)

    def _stop(self, trainer: L.Trainer) -> None:
        number = self.request.number or signal.SIGTERM
        raise Stopped(
            number,
            f"stopped by {signal.Signals(number).name} after step {trainer.global_step} of {self._setup.steps}; "
            "a checkpoint is written",
        )

    def _diverged(self, error: NotFinite, what: str = "the loss") -> StudyError:
        """The error for a loss that is not finite, with the batch's images, whose names also go to a file."""
        step = error.step
        epoch, batch = divmod(step - 1, self._setup.steps_per_epoch)
        assert self._setup.source.train is not None
        names = self._setup.source.train.names
        seen: Any = self.train.sampler
        images = [names[index] for index in seen.batch(epoch, batch)]
        record = {"step": step, "epoch": epoch + 1, "batch": batch + 1, "images": images}
        if self._setup.processes.rank == 0:
            write_json(self.folder / NOT_FINITE, record)
        shown = listed(images, NAMED)
        kept = "The last checkpoint is from before" if newest(self.folder).path else "There is no checkpoint yet"
        return StudyError(
            f"{what} is {error.loss} at step {step} of {self._setup.steps} (epoch {epoch + 1}, batch {batch + 1}): the "
            f"training diverged; in another folder, a smaller learning rate than {self._setup.recipe.lr:g} may help. "
            f"Images of the batch: {shown} (all in {self.folder / NOT_FINITE}). {kept}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows so far and the begun one, as plain values."""
        sums = self.tally.sums
        return {"history": self.history, "seconds": self._seconds, "sums": [sums.loss, sums.right, sums.images]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows from before the interruption."""
        self.history = list(state_dict["history"])
        self._seconds = state_dict["seconds"]
        self.tally.sums = Sums(*state_dict["sums"])
