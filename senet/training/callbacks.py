"""Callbacks of the training loop: checks, moving averages, frozen statistics."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from senet.errors import StudyError
from senet.fused.switch import unobtrusive, watching
from senet.insertion import blocks
from senet.training.schedules import frozen_from

if TYPE_CHECKING:
    import lightning.pytorch as L

    from senet.recipe.recipe import Recipe

__all__ = ["Averaging", "EveryBlockRuns", "FrozenStatistics"]


class EveryBlockRuns(Callback):
    """Stops a training whose first step did not run some SE block, which would never learn.

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

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Before compiling, run two images and restore the network's state."""
        if not self._compiling or self._checked:
            return
        network = pl_module.network
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        with torch.no_grad():
            network(pl_module.inputs(batch[0][:2]))
        for module, mode in modes:
            module.training = mode
        self._check()
        network.compile()

    def on_train_batch_end(self, *_: Any) -> None:
        """Raise an error that names the blocks that did not run."""
        if not self._checked:
            self._check()

    def _check(self) -> None:
        self._checked = True
        self._watch.close()
        if self._idle:
            raise StudyError(
                f"these SE blocks did not run in the first training step: {', '.join(self._idle)}; "
                "the network passes them by"
            )


class FrozenStatistics(Callback):
    """Late in training, batch normalisation uses its running statistics and no longer updates them."""

    def __init__(self, steps: int, recipe: Recipe) -> None:
        self._from = frozen_from(steps, recipe)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        """Freeze the statistics from the recipe's step on, again at each step, since measuring restores modes."""
        if trainer.global_step >= self._from:
            for module in pl_module.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.training = False


class Averaging(Callback):
    """Updates the moving average of the weights, if there is one, after each optimiser step."""

    def on_train_batch_end(
        self,
        trainer: L.Trainer,  # noqa: ARG002
        pl_module: Any,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,
    ) -> None:
        """Update once per step, not per part of a batch."""
        if pl_module.averaged is not None and (batch_idx + 1) % pl_module.recipe.accumulate == 0:
            pl_module.averaged.update_parameters(pl_module.network)
