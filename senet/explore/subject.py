"""A network that is looked at: made once, with its input's preprocessing, the names of its classes and its blocks."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from senet.data.image_folders import class_indices
from senet.data.sources import (
    open_data,
)
from senet.data.transforms import Preprocessing
from senet.errors import DataError, StudyError
from senet.evaluation.evaluate import asked_preprocessing, network_of, trained_classes
from senet.evaluation.logits import device_of
from senet.evaluation.networks import NetworkSpec, heard, known_preprocessing
from senet.explore.looking import Held, Look, Means, look, mean_gates
from senet.insertion import blocks, channels_of
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image
    from torch import Tensor, nn

    from senet.data.sources import DataSource

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
        """What of an RGB picture the network sees: (3, size, size) uint8."""
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
    preprocessing: Mapping[str, object] | None = None,
    devices: str = "auto",
) -> Subject:
    """Make a network to look at, and try it on a grey picture.

    Args:
        model: a network's name as `senet.create` takes it, a file that `senet.save` wrote, or a run folder.
        weights: of the network.
        classes: a JSON file with its class names in order, or name -> index; without it the names that a run saved with
            it, or torchvision's for its own weights; else classes are numbered.
        class_offset: added to the index of each name: 1 for networks that count a background class first.
        data: images over which gates are averaged, as `open_data` takes them; at most 200 of them, evenly chosen.
        data_root: where torchvision's data sets lie.
        preprocessing: what is asked for in place of what is known: size, resize, crop, mean, std, interpolation,
            channels, as `evaluate` takes them.
        devices: where it runs, as `evaluate` takes it.

    Raises:
        StudyError: where it holds no SE block, or does not take a picture and return scores.
        ValueError: where network, weights, names or data are not as asked.
    """
    device = device_of(devices)
    arm = NetworkSpec(model, weights)
    with heard() as notes, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = network_of(arm, None)
    source = None if data is None else open_data(data, data_root=data_root)
    known = known_preprocessing(arm)
    if known is None and (noted := noted_preprocessing(network)):
        known = Preprocessing.from_json(noted)
    how = asked_preprocessing(known or _native(network), source, **(preprocessing or {}))  # type: ignore[arg-type]
    network.to(device).eval()
    if not blocks(network):
        raise StudyError(
            f"{model} holds no SE block, so there are no gates to look at: put SE into it with senet insert, or name "
            "a network that has it, such as se_resnet50, timm:seresnet50 or torchvision:mobilenet_v3_small"
        )
    try:
        first = look(network, how, torch.full((3, how.size, how.size), 128, dtype=torch.uint8))
    except StudyError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise StudyError(f"{model} does not take a picture of 3 × {how.size} × {how.size}: {error}") from error
    if not first.gates:
        raise StudyError(f"none of the SE blocks of {model} runs when it is shown a picture")
    if not arm.pretrained:
        notes.append("Its weights are random: what it says of a picture means nothing.")
    names = _class_names(len(first.probabilities), arm, trained_classes(arm), classes, class_offset)
    channels = {name: channels_of(blocks(network)[name]) for name in first.gates}
    subject = Subject(model, network, how, names, channels, notes=tuple(notes))
    return subject if source is None else dataclasses.replace(subject, means=_means(subject, source))


def _native(network: nn.Module) -> Preprocessing | None:
    """Of a network whose library tells the size of the pictures it was made for, that size."""
    from senet.zoo.names.naming import origin, resolve
    from senet.zoo.names.sources import Built

    name, options = origin(network)
    shape = resolve(name)[0].input_shape(Built(network, options)) if name else None
    if shape is None:
        return None
    size = shape[-1]
    return Preprocessing(size, size) if size <= 64 else Preprocessing().at(size)


def _class_names(
    count: int, arm: NetworkSpec, trained: list[str] | None, file: str | Path | None, offset: int
) -> tuple[str, ...]:
    """A name for each of the network's outputs."""
    numbered = tuple(f"class {index}" for index in range(count))
    if file is None:
        known = trained or _torchvision_names(arm) or ()
        return tuple(known) if len(known) == count else numbered
    pairs = [(name, index + offset) for name, index in _read_names(file)]
    beyond = next(((name, index) for name, index in pairs if not 0 <= index < count), None)
    if beyond is not None:
        raise DataError(
            f"the classes file {file} names {len(pairs)} classes; with class_offset {offset} {beyond[0]!r} would be "
            f"class {beyond[1]}; the network's classes are 0 to {count - 1}"
        )
    named = {index: name for name, index in pairs}
    return tuple(named.get(index, numbered[index]) for index in range(count))


def _read_names(file: str | Path) -> list[tuple[str, int]]:
    """The names in a classes file with their indices; two classes may have one name, as two of ImageNet's do."""
    class_indices(file, ())  # refuses what is neither a list of names nor name -> index
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    return list(content.items()) if isinstance(content, dict) else [(name, i) for i, name in enumerate(content)]


def _torchvision_names(arm: NetworkSpec) -> list[str] | None:
    """The class names of torchvision's own weights."""
    if arm.weights != "pretrained" or not arm.model.startswith("torchvision:"):
        return None
    from torchvision.models import get_model_weights

    found = get_model_weights(arm.model.removeprefix("torchvision:")).DEFAULT.meta.get("categories")
    return None if found is None else list(found)


def _means(subject: Subject, source: DataSource) -> Means:
    _, images = source.split("all")
    step = max(1, -(-len(images) // MOST_FOR_MEANS))
    chosen = range(0, len(images), step)
    pictures = ((str(index), subject.pixels(images.load(index))) for index in chosen)
    return mean_gates(subject.network, subject.preprocessing, pictures)


def fingerprint(pixels: Tensor) -> str:
    """Tells one picture from another."""
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
