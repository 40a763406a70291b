"""A network with SE and labelled images for `explain` and `prune`, opened as in `evaluate`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import torch

from senet.data import unreadable as badfiles
from senet.data.images import ChosenImages
from senet.data.sampling import eval_loader, hold
from senet.errors import StudyError, whole_number
from senet.evaluation.logits import check_scores, input_of, predict_all
from senet.evaluation.open import in_eval_mode, open_labelled
from senet.insertion import Hold, InlineSE, InsertionError, blocks, holding, recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from senet.console.progress import Progress
    from senet.data.images import Images
    from senet.data.sources import DataSource
    from senet.data.transforms import Preprocessing
    from senet.evaluation.logits import Predictions
    from senet.evaluation.open import OpenedNetwork
    from senet.evaluation.options import MeasureOptions

__all__ = ["Subject", "open_subject"]


@dataclasses.dataclass
class Subject:
    """A network with SE, and images in a fixed random order, so that a batch holds many classes.

    Attributes:
        model: the network's name.
        network: the network, in eval mode on the device.
        data: the name of the data.
        split: the split.
        images: the images in their random order.
        classes: the names of the images' classes, by the network's class index.
        preprocessing: the preprocessing.
        device: the device.
        notes: remarks on the network and the images.
        batch_size: images at a time; the last batch never has a single image.
        workers: the number of processes that load images; None means as needed.
        known_classes: the names of all of the network's classes, from its run or its library; else empty.
        settings: the settings of the training that its run saved with it.
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
    known_classes: list[str]
    settings: Mapping[str, Any] | None
    _held: Any = None

    @property
    def labels(self) -> Tensor:
        """(n,) the images' class indices."""
        return self.images.labels

    @property
    def batches(self) -> int:
        """The number of batches."""
        return -(-len(self.images) // self.batch_size)

    @property
    def blocks(self) -> dict[str, nn.Module]:
        """The network's SE blocks."""
        return blocks(self.network)

    def example(self) -> Tensor:
        """The first image as the network's input, (1, 3, size, size)."""
        return input_of(self.network, self._prepared()[0][None].to(self.device), self.preprocessing)

    def predict(
        self,
        progress: Progress,
        *,
        network: nn.Module | None = None,
        at: Mapping[str, Hold] | None = None,
        each: Callable[[Mapping[str, Tensor], Tensor], None] | None = None,
    ) -> Predictions:
        """Predict every image.

        Args:
            progress: the progress display.
            network: a network to use instead of the subject's.
            at: the blocks' held gates, as in `holding`.
            each: a function called with the gates of all blocks and the labels of every batch.

        Raises:
            StudyError: the network's scores are not finite, or as in `predict_all`.
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
            found = predict_all(network, loader, self.preprocessing, device=self.device, step=step)
        check_scores(found.probabilities)
        return found

    def _prepared(self) -> Any:
        """The images, decoded once for all passes if they fit into memory."""
        if self._held is None:
            self._held = hold(self.images, self.preprocessing)
        return self._held


@contextlib.contextmanager
def open_subject(model: str | nn.Module, data: str | Path | DataSource, options: MeasureOptions) -> Iterator[Subject]:
    """Open a network and its images; the exit restores each module's mode.

    Args:
        model: a network's name, or a network.
        data: the name of the data, or a result of `open_data`.
        options: the options of both.

    Raises:
        StudyError: the network holds no SE, there is only one image, or network and images do not match.
        SenetError: data, network, weights or a number are not usable.
    """
    batch_size = whole_number("batch_size", options.get("batch_size", 64), least=2)

    def check(opened: OpenedNetwork) -> None:
        if not blocks(opened.network):
            raise StudyError(
                _inline_alone(opened.network)
                or f"{opened.name} holds no SE: give a network that does, such as a run folder of compare (se-0)"
            )

    labelled = open_labelled(model, data, options, check=check)
    opened = labelled.opened
    source = badfiles.checked(dataclasses.replace(labelled.source, train=None, val=None, test=labelled.images))
    images = source.splits["test"]  # the chosen split, without what cannot be read
    if len(images) < 2:
        raise StudyError(f"{source.name} has one image, and gates are compared over at least two")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0), device="cpu").tolist()
    known = opened.known_classes(labelled.classes) or []
    with in_eval_mode(opened.network, labelled.device) as network:
        subject = Subject(
            model=opened.name,
            network=network,
            data=source.name,
            split=labelled.split,
            images=ChosenImages(images, order),
            classes={label: labelled.names[label] for label in sorted(set(images.labels.tolist()))},
            preprocessing=labelled.preprocessing,
            device=labelled.device,
            notes=(*opened.notes, *source.notes, *badfiles.listed(source.skipped, recorded=False)),
            batch_size=_batch_size(len(images), batch_size),
            workers=options.get("workers"),
            known_classes=known if len(known) == labelled.classes else [],  # a fresh classifier has no names
            settings=opened.settings,
        )
        seen = blocks(network, subject.example())  # a run also shows the number of channels that ECA rescales
        subject.notes += tuple(block.refusal() for block in seen.values() if isinstance(block, InlineSE))
        yield subject


def _inline_alone(network: nn.Module) -> str:
    """The refusal for a network whose SE is all written into a larger forward; "" if it holds no such SE."""
    layer = next((module for module in network.modules() if isinstance(module, torch.nn.Conv2d)), None)
    if layer is None:
        return ""
    image = torch.zeros(1, layer.in_channels, 64, 64).to(layer.weight)
    try:
        found = blocks(network, image).values()
    except InsertionError:  # of another input size, or not a network of images
        return ""
    return next((block.refusal() for block in found if isinstance(block, InlineSE)), "")


def _batch_size(images: int, asked: int) -> int:
    """The batch size nearest below the requested one that leaves no image alone, since images swap gates.

    Batches of two leave one of an odd number of images alone, and are made larger.
    """
    sizes = itertools.chain(range(min(asked, images), 1, -1), range(3, images + 1))
    return next(size for size in sizes if images % size != 1)
