"""A network with SE and the labelled images that it is looked at through, opened as `evaluate` does."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import torch
from torch import Tensor, nn

from senet.data.images import ChosenImages, JoinedImages
from senet.data.sampling import eval_loader, hold
from senet.data.sources import DataSource, open_data
from senet.data.transforms import Preprocessing
from senet.errors import InputError, InputTypeError, StudyError
from senet.evaluation.evaluate import asked_preprocessing, by_name, network_of, trained_classes
from senet.evaluation.logits import device_of, predict_all
from senet.evaluation.networks import NetworkSpec, heard, known_preprocessing
from senet.insertion import Hold, blocks, holding, recording
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from senet.console.progress import Progress
    from senet.data.images import Images
    from senet.evaluation.logits import Predictions

__all__ = ["Looking", "Subject", "checked", "open_subject"]


class Looking(TypedDict, total=False):
    """How a network is made and its images are seen: the arguments of `evaluate`, of the same meaning."""

    weights: str | Path | None
    num_classes: int | None
    classes: str | Path | None
    class_offset: int
    split: str | None
    size: int | None
    resize: int | None
    crop: float | None
    mean: Sequence[float] | None
    std: Sequence[float] | None
    interpolation: str | None
    channels: str | None
    batch_size: int | None
    devices: str | int
    workers: int | None
    data_root: str | Path | None


_KNOWN = tuple(Looking.__annotations__)
_PREPROCESSING = ("size", "resize", "crop", "mean", "std", "interpolation", "channels")


def checked(looking: Mapping[str, Any], function: str) -> Looking:
    """The arguments, their names known; those that are None are left out.

    Raises:
        TypeError: on a name that is none, with the nearest right one.
    """
    for name in looking:
        if name not in _KNOWN:
            close = difflib.get_close_matches(name, _KNOWN, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputTypeError(f"{function}() has no argument {name!r}{hint}")
    return cast(Looking, {name: value for name, value in looking.items() if value is not None})


@dataclasses.dataclass
class Subject:
    """A network with SE, and images for it in one fixed random order, so that a batch holds many classes.

    Attributes:
        model: the network's name.
        network: in eval mode, on the device.
        data: the images' name.
        split: which of them.
        images: in the order in which they are looked at.
        classes: the names of the classes that the images have, by the network's class index.
        preprocessing: how an image becomes the network's input.
        device: where it runs.
        notes: what is worth saying of the network.
        batch_size: images at a time; never such that the last batch has one alone.
    """

    model: str
    network: nn.Module
    data: str
    split: str
    images: Images
    classes: Mapping[int, str]
    preprocessing: Preprocessing
    device: torch.device
    notes: tuple[str, ...]
    batch_size: int
    workers: int | None
    _held: Any = None

    @property
    def labels(self) -> Tensor:
        """(n,) the images' class indices."""
        return self.images.labels

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return -(-len(self.images) // self.batch_size)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The network's SE blocks."""
        return blocks(self.network)

    def example(self) -> Tensor:
        """The first image, (1, 3, size, size), as the network is given it."""
        return self.preprocessing.normalise(self._prepared()[0][None].to(self.device))

    def predict(
        self,
        progress: Progress,
        *,
        network: nn.Module | None = None,
        at: Mapping[str, Hold] | None = None,
        each: Callable[[Mapping[str, Tensor], Tensor], None] | None = None,
    ) -> Predictions:
        """What the network says of every image.

        Args:
            progress: is told of every batch.
            network: another one than the subject's.
            at: what the gates of which blocks are held at.
            each: is given, batch by batch, the gates of all blocks and the labels.
        """
        network = self.network if network is None else network
        seen = 0
        with contextlib.ExitStack() as stack:
            if at:
                stack.enter_context(holding(network, at))
            gates = stack.enter_context(recording(network)) if each is not None else {}

            def step() -> None:
                nonlocal seen
                progress.step()
                if each is not None:
                    labels = self.labels[seen : seen + self.batch_size]
                    each(gates, labels)
                    seen += len(labels)

            loader = eval_loader(self._prepared(), self.batch_size, workers=self.workers)
            stack.enter_context(torch.random.fork_rng(devices=[]))
            return predict_all(network, loader, self.preprocessing, device=self.device, step=step)

    def _prepared(self) -> Any:
        """The images, decoded once for all passes where they fit into memory."""
        if self._held is None:
            self._held = hold(self.images, self.preprocessing)
        return self._held


@contextlib.contextmanager
def open_subject(
    model: str | nn.Module, data: str | Path | DataSource, looking: Looking, *, whole: bool = True
) -> Iterator[Subject]:
    """Make the network and find the images; on leaving, a network that was given is in the modes that it was in.

    Args:
        model: a network's name, or a network.
        data: the images' name, or what `open_data` returned.
        looking: how they are seen.
        whole: whether the network must hold SE.

    Raises:
        StudyError: where the network holds no SE, there is one image alone, or classes do not go together.
        ValueError: where data, network, weights or numbers are not as asked.
    """
    batch_size = looking.get("batch_size", 64)
    if type(batch_size) is not int or batch_size < 2:
        raise InputError(f"batch_size is here a whole number of at least 2, not {batch_size!r}")
    device = device_of(looking.get("devices", "auto"))
    classes, offset = looking.get("classes"), looking.get("class_offset", 0)
    if isinstance(data, DataSource):
        source = data
    else:
        source = open_data(data, classes=classes, class_offset=offset, data_root=looking.get("data_root"))
    split, images = source.split(looking.get("split"))
    weights = looking.get("weights")
    arm = NetworkSpec(model if isinstance(model, str) else "", None if weights is None else str(weights))
    with heard() as notes:
        network = model if isinstance(model, nn.Module) else network_of(arm, looking.get("num_classes"))
    if whole and not blocks(network):
        name = model if isinstance(model, str) else type(network).__name__
        raise StudyError(f"{name} holds no SE: give a network that does, such as a run folder of compare (se-0)")
    if classes is None and offset == 0:
        images = by_name(images, source, trained_classes(arm))
    if len(images) < 2:
        raise StudyError(f"{source.name} has one image to look at; gates are looked at through at least two")
    known = known_preprocessing(arm)
    if known is None and (noted := noted_preprocessing(network)):
        known = Preprocessing.from_json(noted)
    asked = {name: looking.get(name) for name in _PREPROCESSING}
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    names = {int(c): source.classes[own] for c, own in zip(images.labels, _folders_of(images), strict=True)}
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield Subject(
            model=model if isinstance(model, str) else type(network).__name__,
            network=network.to(device).eval(),
            data=source.name,
            split=split,
            images=ChosenImages(images, order),
            classes=dict(sorted(names.items())),
            preprocessing=asked_preprocessing(known, source, **asked),  # type: ignore[arg-type]
            device=device,
            notes=tuple(notes),
            batch_size=_batch_size(len(images), batch_size),
            workers=looking.get("workers"),
        )
    finally:
        for module, mode in modes:
            module.training = mode


def _folders_of(images: Images) -> list[int]:
    """The images' classes as the data counts them, under whatever numbers a network knows them."""
    if isinstance(images, JoinedImages):
        return [label for part in images.parts for label in _folders_of(part)]
    if isinstance(images, ChosenImages):
        inner = _folders_of(images.images)
        return [inner[index] for index in images.indices]
    return [int(label) for label in images.labels]


def _batch_size(images: int, asked: int) -> int:
    """The batch size asked for, or the next below with which no image comes alone: it is given another's gates."""
    size = min(asked, images)
    while size > 2 and images % size == 1:
        size -= 1
    return size
