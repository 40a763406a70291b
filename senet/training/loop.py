"""Set up Lightning's training loop."""

from __future__ import annotations

import contextlib
import logging
import signal
import warnings
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from senet.console.logs import turned_down
from senet.console.stopping import Stopped
from senet.data.augmentation import mixing_of
from senet.data.sampling import forking, random_key
from senet.errors import SenetError, StudyError
from senet.evaluation.logits import logits_of
from senet.insertion import parameter_groups
from senet.training.callbacks import Averaging, EveryBlockRuns, FrozenStatistics
from senet.training.loggers import logger_for
from senet.training.processes.strategies import ReadsWhole, strategy_for
from senet.training.recorder import Recorder
from senet.training.schedules import learning_rate_factor
from senet.training.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.utilities.types import OptimizerLRScheduler
    from torch.utils.data import DataLoader

    from senet.console.progress import Progress
    from senet.data.sampling import Batch
    from senet.data.transforms import Preprocessing
    from senet.recipe.recipe import Recipe
    from senet.training.setup import TrainingSetup

__all__ = ["Classifier", "fit"]

_STEP = -1  # in place of an epoch, so that a step and a sample never share a seed
_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class Classifier(L.LightningModule):
    """A network with its loss, tallies and optimiser.

    Batches are (N, 3, H, W) uint8 with labels (N,). They are normalised and mixed here, on the device.

    Args:
        network: (N, 3, H, W) -> (N, num_classes).
        setup: the recipe, the preprocessing, and the processes.
        seed: the seed of a step's randomness (dropout, mixing).
    """

    def __init__(self, network: nn.Module, setup: TrainingSetup, *, seed: int) -> None:
        super().__init__()
        self.network = network
        self.recipe: Recipe = setup.recipe
        self.preprocessing: Preprocessing = setup.preprocessing
        self.steps = setup.steps
        self.seed = seed
        self.rank = setup.processes.rank
        self.trained = Tally(setup.processes)
        self.held = Tally(setup.processes)
        self.averaged: AveragedModel | None = None
        if self.recipe.ema:
            average = get_ema_multi_avg_fn(self.recipe.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(network, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
            self.averaged.eval()
        self._mix = mixing_of(self.recipe, setup.num_classes)
        self._layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format

    @property
    def measured(self) -> nn.Module:
        """The network that is measured and saved: the moving average if there is one."""
        if self.averaged is None:
            return self.network
        average: nn.Module = self.averaged.module
        return average

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002 Lightning's signature
        """Seed this step's randomness by (seed, step), so that a resumed run draws the same."""
        parts = self.recipe.accumulate
        others = (self.rank,) if self.rank else ()
        key = random_key(self.seed, _STEP, self.global_step * parts + batch_idx % parts, *others)
        torch.default_generator.manual_seed(key)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(key)
        elif self.device.type == "mps":
            torch.mps.manual_seed(key)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:  # noqa: ARG002 Lightning's signature
        """The cross entropy of one batch."""
        pixels, labels = batch
        inputs, targets = self.inputs(pixels), labels
        if self._mix is not None:
            inputs, targets = self._mix(inputs, labels)
        logits = logits_of(self.network(inputs))
        if self._mix is not None:  # a network may have more outputs than there are classes
            targets = F.pad(targets, (0, logits.shape[1] - targets.shape[1]))
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        self.trained.count(loss.detach(), logits.detach(), labels)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:  # noqa: ARG002 Lightning's signature
        """Count one batch of held-out images; negative labels mark padding and are not counted."""
        pixels, labels = batch
        logits = logits_of(self.measured(self.inputs(pixels)))
        counted = labels >= 0
        loss = F.cross_entropy(logits, labels, ignore_index=-1) if counted.any() else logits.new_zeros(())
        self.held.count(loss, logits, labels)

    def inputs(self, pixels: Tensor) -> Tensor:
        """The network's input of (N, 3, H, W) uint8 pixels, in the recipe's memory format."""
        return self.preprocessing.normalise(pixels).contiguous(memory_format=self._layout)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD or AdamW, with learning rates set at every step."""
        recipe = self.recipe
        groups = parameter_groups(
            self.network,
            recipe.lr,
            recipe.se_lr,
            weight_decay=recipe.weight_decay,
            decay_norms_and_biases=recipe.decay_norms_and_biases,
        )
        optimiser: torch.optim.Optimizer
        if recipe.optimiser == "adamw":
            optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
        else:
            nesterov = recipe.nesterov and recipe.momentum > 0
            optimiser = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(step, self.steps, recipe)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(
    classifier: Classifier,
    train: DataLoader[Batch],
    held: DataLoader[Batch],
    folder: Path,
    *,
    setup: TrainingSetup,
    checkpoint: Path | None,
    progress: Progress,
    callbacks: Sequence[Callback] = (),
) -> list[dict[str, float]]:
    """Train to the recipe's last epoch, from a checkpoint if there is one.

    Args:
        classifier: the network with its loss, trained in place.
        train: training batches; the sampler begins with the next step.
        held: batches on which each epoch is measured.
        folder: the folder for metrics, checkpoints and TensorBoard's log.
        setup: the device, and how often checkpoints are written.
        checkpoint: the checkpoint to resume from.
        progress: the display of steps and epochs.
        callbacks: additional callbacks.

    Returns:
        One row of metrics per epoch.

    Raises:
        Stopped: a signal asked to stop; a checkpoint is written.
        StudyError: the loss is not finite, or an SE block did not run.
    """
    recipe, device = setup.recipe, setup.layout.device
    recorder = Recorder(folder, setup, train, classifier.trained, progress)
    first = setup.processes.rank == 0
    with quiet():
        trainer = L.Trainer(
            accelerator=device.type,
            devices=len(setup.layout.devices) if device.type == "cpu" else list(setup.layout.devices),
            num_nodes=setup.layout.nodes,
            strategy=strategy_for(setup),
            precision=_PRECISIONS[recipe.precision],  # type: ignore[arg-type]
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip,
            logger=logger_for(setup.logger, folder) if first else False,
            callbacks=[
                EveryBlockRuns(compiling=recipe.compile),
                FrozenStatistics(setup.steps, recipe),
                Averaging(),
                recorder,
                *callbacks,
            ],
            plugins=[ReadsWhole()],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        classifier.train()
        if classifier.averaged is not None:
            classifier.averaged.eval()
        with recorder.request.listening(), _shielded(train), _shielded(held):
            try:
                trainer.fit(classifier, train, held, ckpt_path=checkpoint, weights_only=True)
            except SystemExit as end:  # Lightning's form of Ctrl-C
                if isinstance(end.__context__, KeyboardInterrupt):
                    raise KeyboardInterrupt from end
                raise
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                # A device that fails has nothing against the checkpoint, and removing it would lose the training.
                known = (SenetError, torch.OutOfMemoryError, torch.AcceleratorError)
                if checkpoint is None or recorder.begun or isinstance(error, known):
                    raise
                words = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise StudyError(
                    f"the checkpoint {checkpoint} is not of this run ({words:.200}): remove it, and the run begins "
                    "where the one before it ends, or anew"
                ) from error
            except Stopped as end:
                if end.number == signal.SIGINT:
                    raise KeyboardInterrupt from end
                raise
    return recorder.history


def _shielded(loader: DataLoader[Batch]) -> contextlib.AbstractContextManager[None]:
    shield: Any = loader.worker_init_fn
    return shield.raised()  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context without Lightning's banners and without its advice on deliberate choices."""
    lightnings = turned_down("lightning.pytorch", "lightning.fabric", to=logging.ERROR)
    with warnings.catch_warnings(), forking(), lightnings:
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)  # of PyTorch 2.11
        yield
