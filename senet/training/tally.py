"""Count loss and accuracy during training, with equal results in every process."""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from senet.training.processes.processes import Processes

__all__ = ["NotFinite", "Sums", "Tally", "Word"]


@dataclasses.dataclass
class Sums:
    """Sums over images: losses, correct predictions, and the number of images."""

    loss: float = 0.0
    right: float = 0.0
    images: float = 0.0

    def figures(self, split: str) -> dict[str, float]:
        """The mean loss and accuracy, named after the split."""
        count = max(1.0, self.images)
        return {f"{split}_loss": self.loss / count, f"{split}_accuracy": self.right / count}


class NotFinite(Exception):  # noqa: N818 `Recorder` says what it means
    """A step's loss is not finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss is {loss} at step {step}")
        self.step = step
        self.loss = loss


@dataclasses.dataclass(frozen=True)
class Word:
    """The processes' agreement: whether one was asked to stop, and whether a checkpoint is due."""

    stop: bool = False
    due: bool = False


class Tally:
    """Counts images on their device, and sums over the processes once per step.

    On a GPU the sums are read one step late, to avoid waiting; on the CPU at once.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.sums = Sums()
        self._step: Tensor | None = None
        self._pending: collections.deque[tuple[int, Tensor, Any]] = collections.deque()

    def count(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count one part of a batch: mean loss, (N, classes) scores and (N,) labels; negative labels do not count."""
        counted = labels >= 0
        kind = torch.float32 if losses.device.type == "mps" else torch.float64
        images = counted.sum()
        right = (logits.argmax(1) == labels).logical_and(counted).sum()
        part = torch.stack([losses.to(kind) * images, right.to(kind), images.to(kind)])
        self._step = part if self._step is None else self._step + part

    def end_step(self, step: int, *, stop: bool, due: bool) -> Word:
        """End the step (from 1). The processes' flags are returned when its sums are read.

        Raises:
            NotFinite: the loss of a step that is read is not finite in some process.
        """
        assert self._step is not None
        own = torch.tensor([stop, due], dtype=self._step.dtype, device=self._step.device)
        values = self.processes.summed(torch.cat([self._step, own]))
        self._step = None
        event = None
        if values.device.type == "cuda":
            values = values.to("cpu", non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append((step, values, event))
        word = self._read(leave=1 if event else 0)
        return Word(stop, due) if self.processes.count == 1 else word

    def flush(self) -> None:
        """Read what is still pending.

        Raises:
            NotFinite: the loss of a step is not finite.
        """
        self._read(leave=0)

    def take(self) -> Sums:
        """Return and reset the sums."""
        self.flush()
        taken, self.sums = self.sums, Sums()
        return taken

    def take_all(self) -> Sums:
        """Return the sums over all processes of a count without steps (evaluation), and reset them."""
        taken, self._step = self._step, None
        return Sums() if taken is None else Sums(*self.processes.summed(taken).tolist())

    def _read(self, leave: int) -> Word:
        stop = due = False
        while len(self._pending) > leave:
            step, values, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            loss, right, images, stopping, writing = values.tolist()
            if not math.isfinite(loss):
                raise NotFinite(step, loss / max(1.0, images))
            self.sums.loss += loss
            self.sums.right += right
            self.sums.images += images
            stop, due = stop or stopping > 0, due or writing > 0
        return Word(stop, due)
