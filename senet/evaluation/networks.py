"""Make a network from its name and weights, with or without SE, for training and evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from senet.block import SESpec
from senet.block.made import MadeSpec, known_maker
from senet.errors import InputError, ModelError, StudyError, WeightsError
from senet.evaluation.logits import input_of, logits_of
from senet.export.runtimes import picture_of
from senet.files.hub import WEIGHTS, fetched, is_on_hub
from senet.files.own_code import own_line
from senet.files.paths import expanded
from senet.files.run_folder import MODEL
from senet.insertion import attach, insert, inserted, remove
from senet.insertion.staying.wrapped import unwrapped
from senet.running import noise, untouched
from senet.saving import create, load, read_metadata
from senet.saving.made import make_for, with_makers
from senet.zoo.names.naming import changed_since, is_saved, origin, resolve
from senet.zoo.names.sources import Built
from senet.zoo.weights.compatibility import head_of
from senet.zoo.weights.dialects import SENET
from senet.zoo.weights.load import load_file, load_tensors, load_weights, log_notes
from senet.zoo.weights.placing import place_se
from senet.zoo.weights.reading import read_file, read_preprocessing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from senet.block.made import Make
    from senet.data.transforms import Preprocessing
    from senet.evaluation.given import Given
    from senet.insertion import Site, Where

__all__ = [
    "BuiltNetwork",
    "NetworkSpec",
    "check_classifies",
    "has",
    "heard",
    "holds",
    "how_to_load",
    "input_channels",
    "known_preprocessing",
    "make",
    "metadata_of",
    "native_size",
    "network_of",
    "probe",
]

_log = logging.getLogger("senet")


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A network and its SE.

    Attributes:
        model: the network's name.
        weights: its initial weights; None means its own initialisation. A run folder stands for its network.
        spec: the SE to insert; None for the network as it is.
        where: the sites to use.
        make: the maker of a saved network's blocks, if its file does not name one.
        given: its maker, if it was given as an object.
    """

    model: str
    weights: str | None = None
    spec: SESpec | MadeSpec | None = None
    where: Where = None
    make: Make | None = None
    given: Given | None = None

    def __post_init__(self) -> None:
        if self.weights and self.weights != "pretrained" and (path := expanded(self.weights) / MODEL).is_file():
            object.__setattr__(self, "weights", str(path))

    @property
    def pretrained(self) -> bool:
        """Whether the network starts from weights or is a saved one."""
        if self.given is not None:
            return self.weights is not None or isinstance(self.given.make, nn.Module)
        return self.weights is not None or is_saved(self.model)

    @property
    def saved(self) -> list[str]:
        """The saved networks that it names, weights first."""
        names = (self.weights if self.weights != "pretrained" else None, self.model if self.given is None else None)
        return [name for name in names if name and is_saved(name)]

    @property
    def own(self) -> bool:
        """Whether a function in a user's file makes the network; it may load weights of its own."""
        return self.given is not None or _is_own(self.model)

    def with_start(self, start: str | None) -> NetworkSpec:
        """The same spec with SE's start resolved: `start`, else identity from weights and paper from scratch.

        Raises:
            ValueError: there is no such start, or the gate has no identity start.
        """
        if self.spec is None:
            return self
        usual = "identity" if self.pretrained else "paper"
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, start=start or self.spec.start or usual))


@dataclasses.dataclass(frozen=True)
class BuiltNetwork:
    """A network made from a spec.

    Attributes:
        network: in training mode, on the CPU.
        outputs: the number of its scores, which may be more than the images have classes.
        sites: the sites of inserted SE.
        notes: remarks on it, such as a classifier that starts fresh.
    """

    network: nn.Module
    outputs: int
    sites: tuple[Site, ...]
    notes: tuple[str, ...]


def make(arm: NetworkSpec, *, num_classes: int, size: int, seed: int) -> BuiltNetwork:
    """Make an arm's network; for one seed the plain weights are the same with and without SE.

    Random numbers come from `seed`, and the caller's random state is restored.

    Raises:
        ModelError, WeightsError, InsertionError: it cannot be made.
        StudyError: it does not take images of `size`, has fewer outputs than classes, or holds blocks already, whose
            sites `where` cannot choose.
    """
    with torch.random.fork_rng(devices=[]), heard() as notes:
        torch.default_generator.manual_seed(seed)
        network = network_of(arm, num_classes=num_classes).cpu()  # one that is given may be on a GPU
        from senet.data.transforms import Preprocessing  # deferred: it loads Pillow, which `senet insert` does not need

        how = Preprocessing(size, size).for_channels(input_channels(network, arm.model))
        outputs = probe(network, how, arm.model)
        if outputs < num_classes:
            raise StudyError(
                f"{arm.model} {has(outputs)} and the images have {num_classes} classes: give a network of "
                f"{num_classes} classes, such as a function that takes num_classes"
            )
        if outputs > num_classes:
            notes.append(f"{arm.model} has {outputs} classes, and the images have the first {num_classes} of them")
        if arm.spec is not None:
            if not holds(network, arm):
                network = insert(network, example_of(how), arm.spec, where=arm.where, inplace=True)
            elif arm.where is not None:
                raise StudyError(f"{arm.weights or arm.model} holds its blocks already: leave where (--where) out")
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise StudyError(f"{arm.model} has no parameters that can be trained")
    found = tuple(site for site, _ in inserted(network).values())
    return BuiltNetwork(network.train(), outputs, found, tuple(notes))


def holds(network: nn.Module, arm: NetworkSpec) -> bool:
    """Whether the opened network already holds blocks from its spec, a saved file or a state dict."""
    if isinstance(arm.spec, MadeSpec):
        held = [each.name for _, each in inserted(network).values() if isinstance(each, MadeSpec)]
        return any(name == arm.spec.name or known_maker(name) is None for name in held)
    return bool(inserted(network)) and arm.weights is not None and not any(map(_header_of, arm.saved))


def _header_of(saved: str) -> dict[str, Any]:
    """The header of a saved network; empty if `save` did not write it, which is reported when it is made."""
    try:
        return read_metadata(saved)
    except WeightsError:
        return {}


def network_of(spec: NetworkSpec, *, num_classes: int | None = None, in_channels: int | None = None) -> nn.Module:
    """The plain network of a spec with its weights, and with any SE of a saved file.

    Args:
        spec: the name and weights.
        num_classes: the number of classes; if it differs from the weights', the classifier starts fresh.
        in_channels: the number of input channels, if not its own.

    Raises:
        ModelError, WeightsError: it cannot be made.
    """
    if spec.weights is not None and is_on_hub(spec.weights):
        spec = dataclasses.replace(spec, weights=fetched(spec.weights, WEIGHTS))
    if spec.given is not None:
        given = spec.given.made(spec.model, num_classes)
        if spec.weights is not None:
            log_notes(load_weights(given, spec.weights))
        return given
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if in_channels is not None:
        options["in_chans" if spec.model.startswith("timm:") else "in_channels"] = in_channels
    if is_saved(spec.model):
        _refuse_to_run(spec.model, spec.weights)
        options["make"] = make_for(_makers_in(spec.model), spec.make)
    if spec.weights is None or not expanded(spec.weights).is_file():
        return create(spec.model, weights=spec.weights, **options)
    header = _header_of(spec.weights) if is_saved(spec.weights) else {}
    if not header and (network := _with_se_of(spec, options)) is not None:
        return network
    if not header or not (header["sites"] or header["pruned"]):
        return create(spec.model, weights=spec.weights, **options)
    saved = header["options"].get("num_classes")
    plain = create(spec.model, **options | ({} if saved is None else {"num_classes": saved}))
    blocks_by = make_for(_makers_in(spec.weights), spec.make)
    network = load(spec.weights, plain, make=blocks_by)
    if num_classes is None or saved in (None, num_classes):
        return network
    fresh = create(spec.model, **options)
    if inserted(fresh):
        fresh = remove(fresh)
    for site, block in with_makers(list(inserted(network).values()), blocks_by, spec.weights):
        attach(fresh, site, block)
    log_notes(load_tensors(fresh, network.state_dict(), spec.weights))
    return fresh


def _makers_in(saved: str) -> set[str]:
    """The names of the makers of a saved network's blocks."""
    return {str(each["spec"]["make"]) for each in _header_of(saved).get("sites", ()) if "make" in each["spec"]}


def _with_se_of(spec: NetworkSpec, options: Mapping[str, Any]) -> nn.Module | None:
    """The network with the SE and weights of a state dict; None if the file has no SE to join."""
    assert spec.weights is not None
    file = read_file(spec.weights)
    if not SENET.detect(file.tensors):  # a network of one's own is made once: its function may take long
        return None
    network = create(spec.model, **options)
    part = file.fitted(network)
    if part.dialect is not SENET:
        return None
    if "num_classes" not in options and (head := head_of(network, part.named_for(network)[0])) is not None:
        network = create(spec.model, **options, num_classes=head.classes)
    from senet.data.transforms import Preprocessing

    side = native_size(network) or Preprocessing().size
    how = Preprocessing(side, side).for_channels(input_channels(network, spec.model))
    if not (note := place_se(network, part, example_of(how), spec.spec if isinstance(spec.spec, SESpec) else None)):
        return None
    report = load_file(network, part, head="replace" if "num_classes" in options else "strict")
    for line in (note, *report.notes):
        _log.info("%s", line)
    return network


def native_size(network: nn.Module) -> int | None:
    """The side in pixels of the input that the network's graph or library states; None if neither does."""
    if (side := picture_of(network)[1]) is not None:
        return side
    name, options = origin(network := unwrapped(network))
    shape = resolve(name)[0].input_shape(Built(network, options)) if name else None
    return None if shape is None else shape[-1]


def _refuse_to_run(saved: str, weights: str | None) -> None:
    """Refuse to run the user's function that a saved file names, and say how to load the network."""
    name = _header_of(saved).get("model") or ""
    if _is_own(name):
        own = weights or saved
        error = ModelError(
            f"{saved} is a network of {name}, and a file never makes us run code that it names: give "
            f"--model {name} --weights {own} (in Python, model={name!r} and weights={own!r})"
        )
        error.instead = (saved, name)
        raise error


def how_to_load(network: nn.Module, path: str | Path) -> str:
    """One sentence on how to load a saved network, with the user's function or maker if it needs one."""
    name = origin(network)[0] or ""
    makers = {spec.name for _, spec in inserted(network).values() if isinstance(spec, MadeSpec)}
    unknown = [maker for maker in sorted(makers) if known_maker(maker) is None]
    typed, given = (f" --make {unknown[-1]}", ", make=...") if unknown else ("", "")
    if _is_own(name):
        return f"--model {name} --weights {path}{typed} makes it again (in Python, senet.load(path, model=...{given}))."
    model = "" if name and not changed_since(network) else ", model=..."  # the file names no network
    return f"senet.load({str(path)!r}{model}{given}) makes it again."


def _is_own(name: str) -> bool:
    return name.rpartition(":")[0].endswith(".py")


def probe(network: nn.Module, preprocessing: Preprocessing, name: str) -> int:
    """The network's number of scores, from a run on one grey image; the network is not changed.

    Raises:
        StudyError: it does not take an image of that size, or does not return (N, classes) scores.
    """
    grey = preprocessing.grey().to(next(network.parameters(), torch.empty(0)).device)
    try:
        with untouched(network), torch.no_grad():
            output = network(input_of(network, grey, preprocessing))
    except Exception as error:  # any error of the user's network
        shape = " × ".join(map(str, grey.shape[1:]))
        words = f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
        raise StudyError(f"{name} does not take a picture of {shape}: {words:.300}{own_line(error)}") from error
    return logits_of(output).shape[1]


def check_classifies(outputs: int, name: str) -> None:
    """Refuse a network of one output, whose softmax is 1 for every picture.

    Raises:
        StudyError: it has one.
    """
    if outputs == 1:
        raise StudyError(f"{name} {has(outputs)} and classes are told apart by one output each")


def input_channels(network: nn.Module, name: str, usual: int = 3) -> int:
    """The number of input channels, from its first convolution or its graph; `usual` if neither says it.

    Raises:
        StudyError: images never have so many channels.
    """
    from senet.data.transforms import Preprocessing

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layer = next((module for module in network.modules() if isinstance(module, kinds)), None)
    if layer is not None and not isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        usual = int(layer.in_channels)
    elif (channels := picture_of(network)[0]) is not None:
        usual = channels
    try:
        Preprocessing().for_channels(usual)
    except InputError as error:
        raise StudyError(f"{name} does not take pictures: {error}") from None
    return usual


def has(outputs: int) -> str:
    """The number of classes in words; a single output means regression."""
    return "has one output, as for regression," if outputs == 1 else f"has {outputs} classes"


def example_of(how: Preprocessing) -> torch.Tensor:
    """A fixed noise image (1, C, size, size) as an example for `insert` and `cost`."""
    return noise(1, len(how.mean), how.size, how.size)


def known_preprocessing(arm: NetworkSpec) -> Preprocessing | None:
    """The preprocessing of a network's weights, if their file or timm states it."""
    from senet.data.transforms import Preprocessing, timm_configuration, timm_preprocessing

    for name in arm.saved:
        if found := metadata_of(name).get("preprocessing"):
            return Preprocessing.from_json(found)
    if arm.weights is not None and expanded(arm.weights).is_file() and (stated := read_preprocessing(arm.weights)):
        return Preprocessing.from_json(stated)  # of a .caffemodel
    if arm.pretrained and arm.model.startswith("timm:"):
        configuration = timm_configuration(arm.model)
        return timm_preprocessing(configuration) if configuration else None
    return None


def metadata_of(name: str) -> dict[str, Any]:
    """A run's metadata in a saved network; empty for a file with only tensors."""
    metadata: dict[str, Any] = _header_of(name).get("metadata", {})
    return metadata


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """A context that collects messages of the log "senet" instead of emitting them, so a study reports them once."""
    logger, listener = logging.getLogger("senet"), _Listener()
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [listener], False
    logger.setLevel(logging.INFO)  # setting only the attribute leaves the logger's cached levels as they were
    try:
        yield listener.lines
    finally:
        logger.handlers, _, logger.propagate = before
        logger.setLevel(before[1])
