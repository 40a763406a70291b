"""Open a network with its images, classes and preprocessing, for every function that runs one."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from senet.data.transforms import Preprocessing, unlike_timm
from senet.errors import DataError, InputError, SenetError, StudyError, whole_number
from senet.evaluation.classnames import names_in, published_classes, published_preprocessing, spoken, trained_classes
from senet.evaluation.given import given_model
from senet.evaluation.logits import device_of
from senet.evaluation.networks import (
    NetworkSpec,
    has,
    heard,
    input_channels,
    known_preprocessing,
    metadata_of,
    native_size,
    network_of,
    probe,
)
from senet.export.runtimes import RUNTIMES, Runtime
from senet.files.paths import expanded
from senet.recipe.knobs import is_number
from senet.running import devices_of
from senet.words import nearest
from senet.zoo.names.naming import is_saved
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from senet.data.images import Images
    from senet.data.source import DataSource
    from senet.evaluation.options import MeasureOptions

__all__ = ["LabelledNetwork", "OpenedNetwork", "in_eval_mode", "native_preprocessing", "open_labelled", "open_network"]

SMALL = 64
"""Networks for images up to this side in pixels, such as CIFAR's, take them uncropped."""


@dataclasses.dataclass(frozen=True)
class OpenedNetwork:
    """An open network with its known metadata.

    Attributes:
        name: its name in results and messages.
        network: the network, in the mode in which it was made or given.
        spec: its name and weights; None if the caller gave a network.
        notes: remarks on it, such as random weights.
    """

    name: str
    network: nn.Module
    spec: NetworkSpec | None
    notes: tuple[str, ...]

    @property
    def weights(self) -> str | None:
        """The named weights."""
        return None if self.spec is None else self.spec.weights

    @property
    def trained_classes(self) -> list[str] | None:
        """The class names that a run saved with the network, or that an exported file holds."""
        if self.spec is None:
            return self.network.classes if isinstance(self.network, Runtime) else None
        return trained_classes(self.spec)

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """The settings of the training that a run saved with the network."""
        saved = [] if self.spec is None else self.spec.saved
        return metadata_of(saved[0]).get("settings") if saved else None

    def known_classes(self, count: int) -> list[str] | None:
        """The names of its `count` classes from its run or its library."""
        trained = self.trained_classes
        return published_classes(self.spec, count) if trained is None and self.spec is not None else trained

    def class_names(self, count: int, options: Mapping[str, Any]) -> dict[int, str]:
        """The names of its `count` classes by index, from the given file, else the known ones.

        Raises:
            DataError: the file names a class that the network does not have.
        """
        file, offset = options.get("classes"), options.get("class_offset", 0)
        if file is None:
            if offset:
                raise InputError("class_offset shifts the numbers of a classes file: give `classes` (--classes) too")
            return spoken(dict(enumerate(self.known_classes(count) or ())))
        named = names_in(file, offset)
        beyond = next((index for index in named if not 0 <= index < count), None)
        if beyond is not None:
            raise DataError(
                f"the classes file {file} names {len(named)} classes; with class_offset {offset} {named[beyond]!r} "
                f"would be class {beyond}; the network's classes are 0 to {count - 1}"
            )
        return spoken(named)

    @property
    def stated_preprocessing(self) -> Preprocessing | None:
        """The preprocessing that the weights' file or library states."""
        known = None if self.spec is None else known_preprocessing(self.spec) or published_preprocessing(self.spec)
        noted = noted_preprocessing(self.network) if known is None else None
        return Preprocessing.from_json(noted) if noted else known

    def preprocessing(self, options: Mapping[str, Any], source: DataSource | None = None) -> Preprocessing:
        """The network's preprocessing: the known one with changes from `PictureOptions` and `size`.

        If the network's own size is unknown, small images of `source` keep theirs.
        """
        known = self.stated_preprocessing
        if known is None and source is not None and source.small and options.get("size") is None:
            assert source.native_size is not None
            known = Preprocessing(source.native_size, source.native_size)
        known = known or native_preprocessing(self.network) or Preprocessing()
        return _asked(known.for_channels(input_channels(self.network, self.name, len(known.mean))), options)


def open_network(model: str | nn.Module, options: Mapping[str, Any]) -> OpenedNetwork:
    """Make the named network, or take the given one.

    Args:
        model: a name as `senet.create` takes it, a run folder, a saved file, an exported .onnx or .xml, or a network.
        options: the options, of which `weights`, `num_classes` and `make` are used.

    Raises:
        SenetError: it cannot be made, or weights are named for a network object.
    """
    weights = options.get("weights")
    name, given = given_model(model)
    if isinstance(model, str) and (runtime := RUNTIMES.get(Path(model).suffix)) and expanded(model).is_file():
        if taken := [key for key in ("weights", "num_classes", "make") if options.get(key) is not None]:
            words = "is an exported network, complete with its weights and classes"
            raise InputError(f"{model} {words}: leave {taken[0]} out")
        return OpenedNetwork(name, runtime(model), None, ())
    if isinstance(model, nn.Module):
        if weights is not None:
            raise InputError("a network that is given has its weights: load them into it, or name the network")
        return OpenedNetwork(type(model).__name__, model, None, ())
    spec = NetworkSpec(name, None if weights is None else str(weights), make=options.get("make"), given=given)
    # Random weights are those of seed 0, so that the same command gives the same figures.
    with heard() as notes, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = network_of(spec, num_classes=options.get("num_classes"))
    if spec.pretrained and spec.model.startswith("timm:") and (note := unlike_timm(spec.model)):
        notes.append(note)
    if not spec.pretrained and not spec.own:
        run = f"; the run of that name is ./{name}" * is_saved(f"./{name}")
        notes.append(f"{name} has random weights, and its answers mean nothing: give weights{run}")
    return OpenedNetwork(name, network, spec, tuple(notes))


@dataclasses.dataclass(frozen=True)
class LabelledNetwork:
    """A network, and labelled images whose labels are its own class indices.

    Attributes:
        opened: the network.
        source: the images.
        split: which of them: "train", "val", "test" or "all".
        images: the images of that split.
        preprocessing: how an image becomes the network's input.
        classes: how many classes the network has.
        names: of the classes, by the network's index.
        device: where it runs.
    """

    opened: OpenedNetwork
    source: DataSource
    split: str
    images: Images
    preprocessing: Preprocessing
    classes: int
    names: Mapping[int, str]
    device: torch.device


def open_labelled(
    model: str | nn.Module,
    data: str | Path | DataSource,
    options: MeasureOptions,
    *,
    check: Callable[[OpenedNetwork], None] = lambda _: None,
) -> LabelledNetwork:
    """Open a network and labelled images, and check on one grey image that they match.

    Args:
        model: the network, as in `open_network`.
        data: a name for `open_data`, or its result.
        options: the options of both.
        check: a function that raises an error if the network is unsuitable.

    Raises:
        StudyError: the network does not take such images, does not return a score for each class,
            or has other classes than the images.
        SenetError: data, network or options are not usable.
    """
    from senet.data.sources import open_data, renumbered

    device = device_of(options.get("devices", "auto"))
    file, offset = options.get("classes"), options.get("class_offset", 0)
    source = as_named = open_data(data, data_root=options.get("data_root"))
    if not source.indices and (file is not None or offset):
        source = renumbered(source, file, offset)
    split, images = source.split(options.get("split"))
    opened = open_network(model, options)
    check(opened)
    preprocessing = opened.preprocessing(options, source)
    classes = probe(opened.network, preprocessing, opened.name)
    if not source.indices:
        images, names = _matched(images, source, opened, classes)
    elif file is not None:
        names = names_in(file, offset)
    else:
        names = dict(zip(source.indices, source.classes, strict=True))
    highest = int(images.labels.max())
    if highest >= classes:
        raise StudyError(
            f"the network {has(classes)} and the images have class {highest} (from 0): say with `classes` "
            "(--classes) which folder is which class, or give the network's own data"
        )
    if split == "val" and (note := _drawn_anew(as_named, opened.settings)):
        opened = dataclasses.replace(opened, notes=(*opened.notes, note))
    return LabelledNetwork(opened, source, split, images, preprocessing, classes, spoken(names), device)


def _drawn_anew(source: DataSource, settings: Mapping[str, Any] | None) -> str:
    """A remark if we drew `source`'s held-out images otherwise than when a run with these settings was trained.

    Which they are depends on all images of a class: one more, and some that were trained on are among them.
    """
    from senet.data.images import base_of
    from senet.data.unreadable import MAX_BAD, checked

    try:  # a file's metadata may hold anything
        name, then = Path(settings["data"]["name"]).name, settings["data"]["content"]["val"]  # type: ignore[index]
        before = int(then.partition(" ")[0])
    except (TypeError, KeyError, ValueError, AttributeError):
        return ""
    if source.indices or source.train is None or source.val is None or name != Path(source.name).name:
        return ""
    drawn, now = base_of(source.train)[0] is base_of(source.val)[0], len(source.val)
    if not drawn or then == source.val.fingerprint():
        return ""
    # A training leaves out what cannot be read, so that its held-out images may be fewer than those of the folder.
    if (1 - MAX_BAD) * now <= before <= now:
        with contextlib.suppress(SenetError):
            if checked(source).fingerprint()["val"] == then:
                return ""
    return (
        f"{source.name} holds other images than when this network was trained: its held-out images were drawn anew, "
        f"and it may have been trained on some of them"
    )


def _matched(
    images: Images, source: DataSource, opened: OpenedNetwork, classes: int
) -> tuple[Images, Mapping[int, str]]:
    """The images with the network's class indices, matched by name if its classes have names, else in order."""
    trained, own = opened.trained_classes, source.classes
    names = trained or opened.known_classes(classes) or []
    unknown = [name for name in own if names.count(name) != 1]  # two of ImageNet's classes are called crane
    if names and not unknown:
        return source.relabelled(images, [names.index(name) for name in own]), dict(enumerate(names))
    if trained is not None:
        hint = "".join(f" (the nearest is {near!r})" for near in nearest(unknown[0], trained))
        raise StudyError(
            f"the network was trained on {len(trained)} classes, and {unknown[0]!r} of {source.name} is none of "
            f"them{hint}: name its folders as those, or say which is which with `classes` (--classes)"
        )
    if classes > len(own):
        if opened.spec is not None and not (opened.spec.pretrained or opened.spec.own):
            raise StudyError(
                f"{opened.name} has random weights and {classes} classes, and {source.name} has {len(own)}: give "
                f"weights (--weights), or num_classes (--num-classes {len(own)})"
            )
        # The folders would silently be matched to the network's first classes, with an accuracy near zero.
        raise StudyError(
            f"{opened.name} has {classes} classes, and {source.name} has {len(own)}: say with `classes` (--classes "
            "FILE, a JSON list of the network's class names in order) which folder is which class"
        )
    return images, dict(enumerate(own))


def native_preprocessing(network: nn.Module) -> Preprocessing | None:
    """The preprocessing for the input size that a network's library states; small images are not cropped."""
    size = native_size(network)
    if size is None:
        return None
    return Preprocessing(size, size) if size <= SMALL else Preprocessing().at(size)


@contextlib.contextmanager
def in_eval_mode(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A context with the network in eval mode on the device; its exit restores its device and each module's mode."""
    modes, before = [(module, module.training) for module in network.modules()], devices_of(network)
    try:
        with torch.random.fork_rng(devices=[]):
            yield network.to(device).eval()
    finally:
        for module, mode in modes:
            module.training = mode
        if len(before) == 1:
            network.to(before.pop())


def _asked(known: Preprocessing, options: Mapping[str, Any]) -> Preprocessing:
    """The known preprocessing with the requested changes."""
    if options.get("channels") is not None and known.channels in ("grey", "RGBA"):
        raise InputError(f"channels is the order of three colours, and this network's pictures are {known.channels}")
    size, resize, crop = (options.get(name) for name in ("size", "resize", "crop"))
    changes = {
        name: options[name]
        for name in ("mean", "std", "interpolation", "channels", "range")
        if options.get(name) is not None
    }
    if crop is not None:
        if resize is not None:
            raise InputError(f"resize ({resize}) and crop ({crop}) are two words for one thing: give one of them")
        if not (is_number(crop) and 0 < crop <= 1):
            raise InputError(f"crop is the share that is cut out, above 0 and at most 1, not {crop!r}")
        size = known.size if size is None else whole_number("size", size)
        resize = max(size, math.floor(size / crop))
    if resize is None:
        return dataclasses.replace(known.at(size), **changes)
    return dataclasses.replace(known, size=known.size if size is None else size, resize=resize, **changes)
