"""The training loop, which is Lightning's, and what hangs on it: records, checkpoints, checks, progress."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from senet.atomic import atomic_write
from senet.insertion import blocks, parameter_groups
from senet.study.folder import CHECKPOINT, METRICS, TENSORBOARD, StudyError, write_csv
from senet.study.prediction import logits_of
from senet.study.recipe import learning_rate_factor
from senet.study.sampling import forking, random_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch.utils.data import DataLoader

    from senet.study.progress import Progress
    from senet.study.recipe import Recipe
    from senet.study.sampling import Batch
    from senet.study.transforms import Preprocessing

__all__ = ["Classifier", "fit"]

_STEP = -1  # in place of an epoch, so that a step's randomness is no sample's


class Metrics(nn.Module):
    """Mean loss and accuracy of the images that were counted."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric(nan_strategy="disable")  # a mean with NaN is NaN, not another
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss, (N, classes) scores and (N,) labels."""
        self.loss.update(loss, weight=len(labels))
        self.accuracy.update(logits, labels)

    def take(self, split: str) -> dict[str, float]:
        """The figures, named after the split, and counting starts anew."""
        figures = {
            f"{split}_loss": float(self.loss.compute()),
            f"{split}_accuracy": float(self.accuracy.compute()),
        }
        self.loss.reset()
        self.accuracy.reset()
        return figures


class Classifier(L.LightningModule):
    """A network with its loss, metrics and optimiser.

    Batches are (N, 3, H, W) uint8 with labels (N,); normalising them is done here, on the device.

    Args:
        network: (N, 3, H, W) -> (N, num_classes).
        recipe: the optimiser's numbers.
        preprocessing: its mean and std.
        num_classes: how many there are.
        steps: how many there will be in all.
        seed: of what is random in a step (dropout).
        split: the name of the images that each epoch is measured on.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        preprocessing: Preprocessing,
        *,
        num_classes: int,
        steps: int,
        seed: int,
        split: str,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.preprocessing = preprocessing
        self.steps = steps
        self.seed = seed
        self.split = split
        self.training_metrics = Metrics(num_classes)
        self.held_metrics = Metrics(num_classes)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 Lightning's signature
        """Seed what is random in this step by (seed, step), so that a resumed run draws the same."""
        key = random_key(self.seed, _STEP, self.global_step)
        torch.default_generator.manual_seed(key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(key)
        elif self.device.type == "mps":
            torch.mps.manual_seed(key)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The cross entropy of one batch."""
        logits, loss = self._loss(batch)
        if not torch.isfinite(loss):
            raise StudyError(
                f"the loss is {loss.item()} at step {self.global_step + 1} of {self.steps} (epoch "
                f"{self.current_epoch + 1}, batch {batch_idx + 1}): the training diverged; a smaller learning rate "
                f"than {self.recipe.lr:g} may help"
            )
        self.training_metrics.count(loss.detach(), logits.detach(), batch[1])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 Lightning's signature
        """Count one batch of held-out images."""
        logits, loss = self._loss(batch)
        self.held_metrics.count(loss, logits, batch[1])

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        pixels, labels = batch
        logits = logits_of(self.network(self.preprocessing.normalise(pixels)))
        return logits, F.cross_entropy(logits, labels)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD with Nesterov's momentum, its learning rate set at every step."""
        recipe = self.recipe
        groups = parameter_groups(self.network, recipe.lr, recipe.se_lr, weight_decay=recipe.weight_decay)
        optimiser = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, self.steps, recipe.warm_up)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def row(self) -> dict[str, float]:
        """The metrics of the epoch that has ended; counting starts anew."""
        return {**self.training_metrics.take("train"), **self.held_metrics.take(self.split)}


class Recorder(Checkpoint):
    """Keeps the metrics of each epoch, and a checkpoint from which training goes on as if never interrupted.

    Lightning calls what keeps checkpoints after all other callbacks.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        self.history: list[dict[str, float]] = []
        self._started = 0.0
        self._seconds = 0.0
        self._rate = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the learning rate of this step."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, *_: Any) -> None:
        """One step is done."""
        self.progress.step()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Stop the clock: measuring is no training."""
        self._seconds = time.perf_counter() - self._started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the epoch's row and then the checkpoint, which holds all rows."""
        assert isinstance(pl_module, Classifier)
        row = {"epoch": trainer.current_epoch + 1, **pl_module.row(), "lr": self._rate, "seconds": self._seconds}
        self.history.append(row)
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in row.items() if k != "epoch"}, step=int(row["epoch"]))
        with atomic_write(self.folder / CHECKPOINT) as path:
            trainer.save_checkpoint(path)
        write_csv(self.folder / METRICS, self.history)
        split = pl_module.split
        self.progress.epoch(
            int(row["epoch"]), f"training loss {row['train_loss']:.3f}, {split} accuracy {row[f'{split}_accuracy']:.2%}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The rows of the epochs before the interruption."""
        self.history = list(state_dict["history"])


class EveryBlockRuns(Callback):
    """Stops a training whose first step passed an SE block by: it would learn nothing and report a plain network."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Watch every SE block."""
        self._idle = blocks(pl_module.network)  # type: ignore[arg-type]
        self._hooks = [
            block.register_forward_hook(lambda *_, name=name: self._idle.pop(name, None) and None)
            for name, block in self._idle.items()
        ]

    def on_train_batch_end(self, *_: Any) -> None:
        """Name those that did not run."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._idle:
            raise StudyError(
                f"these SE blocks did not run in the first training step: {', '.join(self._idle)}; "
                "the network passes them by"
            )


def fit(
    classifier: Classifier,
    train: DataLoader[Batch],
    held: DataLoader[Batch],
    folder: Path,
    *,
    device: torch.device,
    progress: Progress,
    callbacks: Sequence[Callback] = (),
) -> list[dict[str, float]]:
    """Train to the recipe's last epoch, from the folder's checkpoint where there is one.

    Args:
        classifier: what to train, in place.
        train: batches to train on; its sampler begins with the epoch that is next.
        held: batches to measure each epoch on.
        folder: where metrics, checkpoint and TensorBoard's log go.
        device: where to train.
        progress: is told of every step and epoch.
        callbacks: more of them.

    Returns:
        One row of metrics for each epoch.
    """
    recorder = Recorder(folder, progress)
    with quiet():
        trainer = L.Trainer(
            accelerator=device.type,
            devices=1 if device.index is None or device.type == "cpu" else [device.index],
            max_epochs=classifier.recipe.epochs,
            logger=TensorBoardLogger(folder, name="", version=TENSORBOARD),
            callbacks=[EveryBlockRuns(), recorder, *callbacks],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        checkpoint = folder / CHECKPOINT
        classifier.train()
        try:
            trainer.fit(
                classifier,
                train,
                held,
                ckpt_path=checkpoint if checkpoint.exists() else None,
                weights_only=True,
            )
        except SystemExit as end:  # what Lightning makes of Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from end
            raise
    return recorder.history


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's banners, and without its advice on what is chosen here on purpose."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), forking():
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)  # of PyTorch 2.11
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
