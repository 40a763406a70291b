"""A network to explore, with its preprocessing, class names and SE blocks."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from senet.data.images import ChosenImages
from senet.data.readable import Readable
from senet.data.sources import open_data
from senet.data.unreadable import MAX_BAD, listed
from senet.errors import StudyError
from senet.evaluation.logits import check_scores, device_of
from senet.evaluation.networks import check_classifies, probe
from senet.evaluation.open import native_preprocessing, open_network
from senet.explore.looking import Held, Look, Means, look, mean_gates
from senet.insertion import blocks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from PIL import Image
    from torch import Tensor, nn

    from senet.block.made import Make
    from senet.data.sources import DataSource
    from senet.data.transforms import Preprocessing
    from senet.evaluation.options import SizedPictureOptions

__all__ = ["MOST_FOR_MEANS", "Subject", "open_subject"]

MOST_FOR_MEANS = 200
"""The most images of --data over which gates are averaged, which takes seconds."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network to explore.

    Attributes:
        name: its name as given.
        network: the network, in eval mode.
        preprocessing: its preprocessing.
        classes: the class names, one per output.
        channels: the channels of each SE block that runs, by name, in the order of the run.
        means: the mean gates over a folder's images, if one was given.
        notes: remarks on it, such as random weights.
    """

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    channels: Mapping[str, int]
    means: Means | None = None
    notes: tuple[str, ...] = ()

    def pixels(self, picture: Image.Image) -> Tensor:
        """An image as the network sees it: (C, size, size) uint8."""
        return self.preprocessing(picture)

    def look(
        self,
        pixels: Tensor,
        *,
        held: Mapping[str, Held] | None = None,
        means: Means | None = None,
        maps_of: str | None = None,
    ) -> Look:
        """Run the network on `pixels`; see `senet.explore.look`. Its own means, if any, take precedence."""
        return look(self.network, self.preprocessing, pixels, held=held, means=self.means or means, maps_of=maps_of)


def open_subject(
    model: str,
    weights: str | None = None,
    *,
    classes: str | Path | None = None,
    class_offset: int = 0,
    data: str | Path | None = None,
    data_root: str | Path | None = None,
    preprocessing: SizedPictureOptions | None = None,
    devices: str = "auto",
    make: Make | None = None,
) -> Subject:
    """Make a network to explore, and try it on a grey image.

    Args:
        model: a network's name, as in `senet.create`, a file from `senet.save`, or a run folder.
        weights: its weights.
        classes: as in `evaluate`; a class without a name is numbered.
        class_offset: as in `evaluate`.
        data: images over which gates are averaged, as in `open_data`; at most 200 of them, evenly spaced.
        data_root: the folder of torchvision's data sets.
        preprocessing: requested changes to the known preprocessing.
        devices: the device, as in `evaluate`.
        make: the maker of a saved network's blocks, if its file does not name one.

    Raises:
        StudyError: it holds no SE block, or does not take an image and return finite scores.
        SenetError: network, weights, names or data are not usable.
    """
    device = device_of(devices)
    opened = open_network(model, {"weights": weights, "make": make})
    network = opened.network.to(device).eval()
    source = None if data is None else open_data(data, data_root=data_root)
    if not blocks(network):
        raise StudyError(
            f"{model} holds no SE block, so there are no gates to look at: put SE into it with senet insert, or name "
            "a network that has it, such as se_resnet50, timm:seresnet50 or torchvision:mobilenet_v3_small"
        )
    # A dropped image is not from the data, so small data set its size only if nothing else does.
    how = opened.preprocessing(preprocessing or {}, None if native_preprocessing(network) else source)
    count = probe(network, how, model)
    check_classifies(count, model)
    first = look(network, how, how.grey()[0])
    check_scores(first.probabilities[None])
    if not first.gates:
        raise StudyError(f"none of the SE blocks of {model} runs when it is shown a picture")
    named = opened.class_names(count, {"classes": classes, "class_offset": class_offset})
    names = tuple(named.get(index, f"class {index}") for index in range(count))
    channels = {name: len(gates) for name, gates in first.gates.items()}
    subject = Subject(model, network, how, names, channels, notes=opened.notes)
    return subject if source is None else _with_means(subject, source)


def _with_means(subject: Subject, source: DataSource) -> Subject:
    """The subject with the mean gates over images of the source; those that cannot be read are left out and noted."""
    _, images = source.split("all")
    chosen = ChosenImages(images, range(0, len(images), max(1, -(-len(images) // MOST_FOR_MEANS))))
    readable = Readable(chosen, subject.preprocessing, 1, workers=0, max_bad=MAX_BAD, name=source.name)
    pictures = ((str(index), pixels[0]) for index, (pixels, _) in enumerate(readable))
    means = mean_gates(subject.network, subject.preprocessing, pictures)
    return dataclasses.replace(subject, means=means, notes=(*subject.notes, *listed(readable.bad, recorded=False)))


def fingerprint(pixels: Tensor) -> str:
    """A digest of an image."""
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
