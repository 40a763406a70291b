"""Lightning's strategies for several processes, and its reading and writing of checkpoints."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from senet.training.checkpointing import read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from senet.training.setup import TrainingSetup

__all__ = ["ReadsWhole", "strategy_for"]


class ReadsWhole(CheckpointIO):
    """Checkpoint IO that writes atomically and reads with `weights_only=True`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        """Write the checkpoint atomically."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Read the checkpoint, always with `weights_only=True`."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint."""
        Path(path).unlink(missing_ok=True)


def strategy_for(setup: TrainingSetup) -> str | Strategy:
    """The strategy: Lightning's default for one process, DDP or FSDP for several."""
    if setup.layout.count == 1:
        return "auto"
    if setup.layout.strategy == "fsdp":
        return FSDPStrategy(state_dict_type="full", use_orig_params=True)
    # Batch norm's statistics already cover all processes, so its buffers need no broadcast at every step.
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before PyTorch 2.13
    kept: dict[str, Any] = {name: False}
    return DDPStrategy(**kept)
