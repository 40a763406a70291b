"""A trained network asked about every image of a split, once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import StudyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from senet.data.sampling import Batch
    from senet.data.transforms import Preprocessing

__all__ = ["Predictions", "answers", "device_of", "logits_of", "predict_all"]


def device_of(devices: str | int) -> torch.device:
    """The device that `--devices` asks for.

    Args:
        devices: "auto" or 1 for a GPU where there is one, else the CPU; "cpu", "cuda", "cuda:1", "mps".

    Raises:
        StudyError: on a device that is not there, and on more than one.
    """
    asked = str(devices).strip().lower()
    if asked in ("auto", "1"):
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if asked.isdecimal():
        raise StudyError(f"devices={devices}: one device is used here: name it, such as cpu or cuda:1")
    kind, _, index = asked.replace("gpu", "cuda").partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind == "mps" and not index and torch.backends.mps.is_available():
        return torch.device("mps")
    count = torch.cuda.device_count() if kind == "cuda" else 0
    if kind == "cuda" and (not index or index.isdecimal()) and int(index or 0) < count:
        return torch.device("cuda", int(index or 0))
    here = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    raise StudyError(f"devices={devices!r} is not on this machine, which has {', '.join(here)}")


def logits_of(output: Any) -> Tensor:
    """The (N, classes) scores in what a network returns; Inception and GoogLeNet add auxiliary ones in training.

    Raises:
        StudyError: where there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise StudyError(f"a study takes networks that return (N, classes) scores; this one returned {what}")
    return logits


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a network predicts for n images.

    Attributes:
        labels: (n,) the right classes.
        top: (n, k) the classes of the k highest scores, best first; k is 5, or the number of classes.
        probabilities: (n, k) theirs.
        loss: the mean cross entropy.
        classes: how many classes the network has.
    """

    labels: Tensor
    top: Tensor
    probabilities: Tensor
    loss: float
    classes: int

    @property
    def probability(self) -> Tensor:
        """(n,) of the first."""
        return self.probabilities[:, 0]

    @property
    def correct(self) -> Tensor:
        """(n,) whether the first is right."""
        return self.top[:, 0] == self.labels

    @property
    def accuracy(self) -> float:
        """The share of images whose first is right."""
        return int(self.correct.sum()) / len(self.labels)

    @property
    def accuracy_of_five(self) -> float:
        """The share of images where one of the top five is right."""
        return int((self.top == self.labels[:, None]).any(1).sum()) / len(self.labels)


class Answer(NamedTuple):
    """What a network predicts for one batch: (N, classes) scores, and the N right classes."""

    logits: Tensor
    labels: Tensor


@torch.inference_mode()
def answers(
    network: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    step: Callable[[], None] = lambda: None,
) -> Iterator[Answer]:
    """Ask `network`, in eval mode and on `device`, about every batch; its scores are float32, on the CPU.

    Raises:
        StudyError: where it does not return scores.
    """
    from senet.data.sampling import forking  # numpy, which a network without images does not need

    network.to(device).eval()
    with forking():
        loaded = iter(batches)
    for pixels, labels in loaded:
        yield Answer(logits_of(network(preprocessing.normalise(pixels.to(device)))).float().cpu(), labels)
        step()


def predict_all(
    network: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    step: Callable[[], None] = lambda: None,
    each: Callable[[Tensor, Tensor], None] = lambda probabilities, labels: None,  # noqa: ARG005
) -> Predictions:
    """Ask `network`, in eval mode and on `device`, about every image of `batches`.

    Args:
        network: (N, 3, H, W) -> (N, classes).
        batches: (N, 3, H, W) uint8 pixels with (N,) labels.
        preprocessing: whose mean and std are taken.
        device: where the network is asked.
        step: is called after every batch.
        each: is given the (N, classes) probabilities and the (N,) labels of every batch.

    Raises:
        StudyError: where it does not return scores, or a label is beyond its classes.
    """
    labels, tops, probabilities = [], [], []
    loss = torch.zeros((), dtype=torch.float64)
    classes = 0
    for logits, right in answers(network, batches, preprocessing, device=device, step=step):
        classes = logits.shape[1]
        if int(right.max()) >= classes:
            raise StudyError(
                f"the network has {classes} classes and the images have class {int(right.max())} (from 0): "
                "say with `classes` which folder is which class, or give the network's own data"
            )
        loss += F.cross_entropy(logits, right, reduction="sum")
        shares = logits.softmax(1)
        probability, top = shares.topk(min(5, classes))
        labels.append(right)
        tops.append(top)
        probabilities.append(probability)
        each(shares, right)
    if not labels:  # of fewer images than processes, one has none
        none = torch.empty(0, dtype=torch.int64)
        return Predictions(none, none[:, None], torch.empty(0, 1), 0.0, 0)
    joined = torch.cat(labels)
    return Predictions(joined, torch.cat(tops), torch.cat(probabilities), float(loss) / len(joined), classes)
