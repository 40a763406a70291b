"""A network that is looked at: made once, with its input's preprocessing, the names of its classes and its blocks."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from senet.data.sources import open_data
from senet.errors import StudyError
from senet.evaluation.logits import device_of
from senet.evaluation.networks import probe
from senet.evaluation.open import native_preprocessing, open_network
from senet.explore.looking import Held, Look, Means, look, mean_gates
from senet.insertion import blocks, channels_of

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
"""Pictures of --data over which gates are averaged: evenly chosen, as many as take seconds and not hours."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that is looked at.

    Attributes:
        name: as it was asked for.
        network: in eval mode.
        preprocessing: of its input.
        classes: the names of its classes, one for each output.
        channels: of each of its SE blocks that run, by name, in the order in which they run.
        means: the mean gates over the pictures of a folder, where one was given.
        notes: what is worth saying of it, such as weights that are random.
    """

    name: str
    network: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    channels: Mapping[str, int]
    means: Means | None = None
    notes: tuple[str, ...] = ()

    def pixels(self, picture: Image.Image) -> Tensor:
        """What of a picture the network sees: (C, size, size) uint8."""
        return self.preprocessing(picture)

    def look(
        self,
        pixels: Tensor,
        *,
        held: Mapping[str, Held] | None = None,
        means: Means | None = None,
        maps_of: str | None = None,
    ) -> Look:
        """Show it what `pixels` returned; see `senet.explore.look`. Its own means, where it has them, go first."""
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
    """Make a network to look at, and try it on a grey picture.

    Args:
        model: a network's name as `senet.create` takes it, a file that `senet.save` wrote, or a run folder.
        weights: of the network.
        classes: as in `evaluate`; a class without a name is numbered.
        class_offset: as in `evaluate`.
        data: images over which gates are averaged, as `open_data` takes them; at most 200 of them, evenly chosen.
        data_root: where torchvision's data sets lie.
        preprocessing: what is asked for in place of what is known.
        devices: where it runs, as `evaluate` takes it.
        make: what makes the blocks of a saved network, where its file does not say it.

    Raises:
        StudyError: where it holds no SE block, or does not take a picture and return scores.
        SenetError: where network, weights, names or data are not as asked.
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
    # A dropped picture is no image of the data, so small data decide its size only where nobody else does.
    how = opened.preprocessing(preprocessing or {}, None if native_preprocessing(network) else source)
    count = probe(network, how, model)
    first = look(network, how, how.grey()[0])
    if not first.gates:
        raise StudyError(f"none of the SE blocks of {model} runs when it is shown a picture")
    named = opened.class_names(count, {"classes": classes, "class_offset": class_offset})
    names = tuple(named.get(index, f"class {index}") for index in range(count))
    channels = {name: channels_of(blocks(network)[name]) for name in first.gates}
    subject = Subject(model, network, how, names, channels, notes=opened.notes)
    return subject if source is None else dataclasses.replace(subject, means=_means(subject, source))


def _means(subject: Subject, source: DataSource) -> Means:
    _, images = source.split("all")
    step = max(1, -(-len(images) // MOST_FOR_MEANS))
    chosen = range(0, len(images), step)
    pictures = ((str(index), subject.pixels(images.load(index))) for index in chosen)
    return mean_gates(subject.network, subject.preprocessing, pictures)


def fingerprint(pixels: Tensor) -> str:
    """Tells one picture from another."""
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
