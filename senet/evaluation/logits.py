"""Run a trained network on every image of a split once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import DataError, StudyError
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from senet.data.sampling import Batch
    from senet.data.transforms import Preprocessing

__all__ = [
    "Predictions",
    "answers",
    "check_scores",
    "device_of",
    "input_of",
    "logits_of",
    "most_probable",
    "predict_all",
]


def device_of(devices: str | int) -> torch.device:
    """The device that `--devices` names.

    Args:
        devices: "auto" or 1 for a GPU if there is one, else the CPU; or "cpu", "cuda", "cuda:1", "mps".

    Raises:
        StudyError: the device does not exist, or there are several.
    """
    asked = str(devices).strip().lower().replace("gpu", "cuda")
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    here = ["cpu", *gpus, *["mps"] * torch.backends.mps.is_available()]
    if asked in ("auto", "1"):
        return torch.device(gpus[0] if gpus else here[-1])
    if asked.isdecimal():
        raise StudyError(f"devices={devices}: one device is used here: name it, such as cpu or cuda:1")
    name = "cuda:0" if asked == "cuda" else asked
    if name not in here:
        raise StudyError(f"devices={devices!r} is not on this machine, which has auto, {', '.join(here)}")
    return torch.device(name)


def input_of(network: nn.Module, pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """A network's input from (N, C, H, W) uint8 pixels, in the dtype of its parameters: float16 takes no float32."""
    normal = preprocessing.normalise(pixels)
    like = next(network.parameters(), normal)
    return normal.to(like.dtype) if like.dtype in (torch.float16, torch.bfloat16, torch.float64) else normal


def logits_of(output: Any) -> Tensor:
    """The (N, classes) scores in a network's output; Inception and GoogLeNet add auxiliary ones in training.

    Raises:
        StudyError: the output has none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise StudyError(f"a study takes networks that return (N, classes) scores; this one returned {what}")
    return logits


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A network's predictions for n images.

    Attributes:
        labels: (n,) the true classes.
        top: (n, k) the classes of the k highest scores, best first; k is 5, or the number of classes.
        probabilities: (n, k) their probabilities.
        loss: the mean cross entropy.
        classes: the network's number of classes.
    """

    labels: Tensor
    top: Tensor
    probabilities: Tensor
    loss: float
    classes: int

    @property
    def probability(self) -> Tensor:
        """(n,) the highest probability of each image."""
        return self.probabilities[:, 0]

    @property
    def correct(self) -> Tensor:
        """(n,) whether the first class is right."""
        return self.top[:, 0] == self.labels

    @property
    def among_five(self) -> Tensor:
        """(n,) whether one of the top five classes is right."""
        return (self.top == self.labels[:, None]).any(1)

    @property
    def accuracy(self) -> float:
        """The share of images whose first class is right."""
        return int(self.correct.sum()) / len(self.labels)

    @property
    def accuracy_of_five(self) -> float:
        """The share of images with one of the top five classes right."""
        return int(self.among_five.sum()) / len(self.labels)


def check_scores(probabilities: Tensor) -> None:
    """Check the (n, k) highest probabilities of n images.

    NaN compares as the highest, so that the accuracy of a network that diverged would be that of its first class.

    Raises:
        StudyError: some are NaN.
    """
    wrong = int(probabilities.isnan().any(1).sum())
    if wrong:
        raise StudyError(
            f"the network's scores of {wrong} of {counted(len(probabilities), 'image')} are not finite, and have no "
            "highest: its training diverged, or its weights are damaged"
        )


class Answer(NamedTuple):
    """A network's (N, classes) scores for one batch, and the N true classes."""

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
    """Run `network` in eval mode on `device` over all batches; yield float32 scores on the CPU.

    Raises:
        StudyError: it does not return scores.
        DataError: an image cannot be read, or a process that loads images was killed.
    """
    from senet.data.sampling import forking, worker_words  # deferred, since it loads NumPy

    network.to(device).eval()
    with forking():
        loaded = iter(batches)
    try:
        for pixels, labels in loaded:
            yield Answer(logits_of(network(input_of(network, pixels.to(device), preprocessing))).float().cpu(), labels)
            step()
    except (DataError, RuntimeError) as error:  # PyTorch says that a worker was killed while the network runs, too
        if words := worker_words(error):
            raise DataError(words) from error
        raise


def most_probable(logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The probabilities and indices of the most probable classes of each row, at most `most`, best first.

    They are chosen by their logits, because the probabilities of all but a few may be 0 in float32.
    """
    indices = logits.topk(min(most, logits.shape[1])).indices
    return logits.softmax(1).gather(1, indices), indices


def predict_all(
    network: nn.Module,
    batches: Iterable[Batch],
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    step: Callable[[], None] = lambda: None,
) -> Predictions:
    """Predict every image of `batches` with `network` in eval mode on `device`.

    Args:
        network: (N, 3, H, W) -> (N, classes).
        batches: (N, 3, H, W) uint8 pixels with (N,) labels.
        preprocessing: the preprocessing with mean and std.
        device: the device.
        step: a function called after every batch.

    Raises:
        StudyError: it does not return scores, or a label exceeds its classes.
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
        probability, top = most_probable(logits, 5)
        labels.append(right)
        tops.append(top)
        probabilities.append(probability)
    if not labels:  # with fewer images than processes, some have none
        none = torch.empty(0, dtype=torch.int64)
        return Predictions(none, none[:, None], torch.empty(0, 1), 0.0, 0)
    joined = torch.cat(labels)
    return Predictions(joined, torch.cat(tops), torch.cat(probabilities), float(loss) / len(joined), classes)
