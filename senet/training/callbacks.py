"""Callbacks of the training loop: checks, moving averages, frozen statistics."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from senet.errors import StudyError
from senet.fused.switch import unobtrusive, watching
from senet.insertion import blocks
from senet.running import untouched
from senet.training.freezing import modules_in_se
from senet.training.schedules import frozen_from

if TYPE_CHECKING:
    import lightning.pytorch as L

    from senet.recipe.recipe import Recipe

__all__ = ["Averaging", "EveryBlockRuns", "FrozenStatistics"]


class EveryBlockRuns(Callback):
    """Stops a training whose first step did not run some SE block, which would never learn.

    A block that this step left out by chance (stochastic depth) runs in eval mode, on two images.

    Args:
        compiling: whether to compile the network. Compiled code runs no hooks, so the check then
            runs on two images before the first step.
    """

    def __init__(self, *, compiling: bool) -> None:
        self._compiling = compiling
        self._idle: dict[str, nn.Module] = {}
        self._watch = contextlib.ExitStack()
        self._checked = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        """Watch every SE block."""
        self._idle = blocks(pl_module.network)  # type: ignore[arg-type]
        names = {block: name for name, block in self._idle.items()}

        def ran(block: nn.Module, *_: object) -> None:
            self._idle.pop(names.get(block, ""), None)

        self._watch.enter_context(watching(ran))
        for block in names:
            self._watch.callback(block.register_forward_hook(unobtrusive(ran)).remove)

    def on_exception(self, *_: Any) -> None:
        """Watch no longer: what follows in this process is no part of the training."""
        self._watch.close()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Before compiling, check on two images."""
        if self._compiling and not self._checked:
            self._check(pl_module, batch)
            pl_module.network.compile()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Raise an error that names the blocks that did not run."""
        if not self._checked:
            self._check(pl_module, batch)

    def _check(self, pl_module: Any, batch: Any) -> None:
        self._checked = True
        if self._idle:
            with untouched(pl_module.network), torch.no_grad():
                pl_module.network(pl_module.inputs(batch[0][:2]))
        self._watch.close()
        if self._idle:
            raise StudyError(
                f"these SE blocks did not run in the first training step: {', '.join(self._idle)}; "
                "the network passes them by"
            )


class FrozenStatistics(Callback):
    """Lets batch normalisation use its running statistics without updating them.

    That is late in training everywhere, and in a frozen plain network from the start: of the
    inserted blocks, some have a batch normalisation of their own, which begins untrained.
    """

    def __init__(self, steps: int, recipe: Recipe) -> None:
        self._from = frozen_from(steps, recipe)
        self._plain = recipe.freeze == "plain"
        self._norms: dict[nn.Module, bool] = {}  # whether each belongs to the plain network

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:  # noqa: ARG002
        """Find the normalisations."""
        inside, modules = modules_in_se(pl_module.network), pl_module.network.modules()
        self._norms = {each: each not in inside for each in modules if isinstance(each, _BatchNorm)}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:  # noqa: ARG002
        """Freeze the statistics, again at each step, since measuring restores modes."""
        late = trainer.global_step >= self._from
        for norm, of_plain in self._norms.items():
            if late or (self._plain and of_plain):
                norm.training = False


class Averaging(Callback):
    """Updates the moving average of the weights, if there is one, after each optimiser step."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Update once per step, not per part of a batch."""
        if pl_module.averaged is not None and (batch_idx + 1) % pl_module.recipe.accumulate == 0:
            pl_module.averaged.update_parameters(pl_module.network)
