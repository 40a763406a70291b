"""The sources of networks: the zoo, torchvision, timm, or a function in the user's file.

Each source builds the plain network and returns the options, which `save` writes and `load` uses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import logging
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from senet.errors import InputError, ModelError, SenetError, WeightsError
from senet.extras import extra
from senet.files.own_code import function_in, importing_from, own_line
from senet.words import did_you_mean, kind_of
from senet.zoo.networks.entry import Entry
from senet.zoo.weights.load import load_tensors, log_notes

__all__ = ["Built", "FileSource", "Source", "TimmSource", "TorchvisionSource", "ZooSource"]

_log = logging.getLogger("senet")
DEFAULT_CLASSES = 1000
_WEIGHT_OPTIONS = frozenset(
    {
        *("weights", "weights_backbone"),
        *("pretrained", "pretrained_backbone", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
        *("checkpoint_path", "cache_dir"),
    }
)  # options of torchvision's and timm's builders that read or fetch files
_CROPS = {"inception_v3": 299}  # torchvision's other classifiers take 224


@dataclasses.dataclass(frozen=True)
class Built:
    """A plain network, and the options that rebuild it, including the number of classes."""

    model: nn.Module
    options: dict[str, Any]


class Source(Protocol):
    """A plain network that can be built by name."""

    @property
    def name(self) -> str:
        """The full name, as in `create`."""

    def build(self, num_classes: int | None, options: Mapping[str, Any], /) -> Built:
        """The network with fresh weights; None classes mean its own default. Nothing is downloaded."""

    def pretrained(self, num_classes: int | None, options: Mapping[str, Any], /) -> Built:
        """The network with the library's own weights, which may be downloaded."""

    def input_shape(self, built: Built, /) -> tuple[int, int, int] | None:
        """Channels, height and width of the images it was made for, if known."""


@dataclasses.dataclass(frozen=True)
class ZooSource:
    """A network of `senet.zoo`."""

    name: str
    entry: Entry

    def build(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`."""
        wanted = DEFAULT_CLASSES if num_classes is None else num_classes
        all_options = {"num_classes": wanted, **options}
        _check_arguments(self.name, self.entry.build, all_options)
        dropout = all_options.get("dropout", 0)
        is_number = isinstance(dropout, Real) and not isinstance(dropout, bool)
        if not (is_number and 0 <= dropout <= 1):
            raise InputError(f"dropout is a probability, from 0 to 1, not {dropout!r}")
        return Built(self.entry.build(**all_options), all_options)

    def pretrained(self, _num_classes: int | None, _options: Mapping[str, Any], /) -> Built:
        """See `Source`."""
        models = extra("torchvision.models", "study").list_models() if importlib.util.find_spec("torchvision") else ()
        bare = self.name.removesuffix("_v1_5")
        theirs = f"; torchvision has some for torchvision:{bare}" if bare in models else ""
        raise ModelError(
            f"there are no published weights of the zoo's {self.name}: weights= is a path, hf:owner/name or None"
            f"{theirs}"
        )

    def input_shape(self, built: Built) -> tuple[int, int, int] | None:
        """See `Source`."""
        return (built.options.get("in_channels", 3), *self.entry.input_size)


@dataclasses.dataclass(frozen=True)
class TorchvisionSource:
    """A network that `torchvision.models.get_model` builds."""

    name: str

    def build(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`."""
        options = _without_weights(self.name, options)
        builder = self._builder()
        if num_classes is None and self._is_classifier():
            num_classes = DEFAULT_CLASSES
        all_options = _with_classes(num_classes, options)
        offline = {} if "weights_backbone" not in inspect.signature(builder).parameters else {"weights_backbone": None}
        with _named_errors(self.name, options):
            return Built(builder(**offline | all_options), all_options)

    def pretrained(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`."""
        options = _without_weights(self.name, options)
        builder = self._builder()
        models = extra("torchvision.models", "study")
        with _fetching(self.name), _named_errors(self.name, options):
            known = models.get_model_weights(self._bare())
            model: nn.Module = builder(weights=known.DEFAULT, **options)
        # torchvision sets these only when it loads weights itself
        settings = {
            option: getattr(model, option)
            for option in ("aux_logits", "transform_input")
            if isinstance(getattr(model, option, None), bool)
        }
        if getattr(model, "aux_classifier", None) is not None:
            settings["aux_loss"] = True
        classes = len(known.DEFAULT.meta["categories"]) if "categories" in known.DEFAULT.meta else None
        if num_classes is None or num_classes == classes:
            return Built(model, _with_classes(classes, {**options, **settings}))
        built = self.build(num_classes, {**options, **settings})
        log_notes(load_tensors(built.model, model.state_dict(), f"{self.name} with torchvision's weights"))
        return built

    def input_shape(self, built: Built) -> tuple[int, int, int] | None:
        """See `Source`."""
        if not self._is_classifier():
            return None
        size = built.options.get("image_size", _CROPS.get(self._bare(), 224))
        return (3, size, size)

    def _bare(self) -> str:
        return self.name.partition(":")[2]

    def _builder(self) -> Any:
        models = extra("torchvision.models", "study")
        if self._bare() not in models.list_models():
            raise ModelError(
                f"torchvision has no network {self._bare()!r}{did_you_mean(self._bare(), models.list_models())}"
            )
        return models.get_model_builder(self._bare())

    def _is_classifier(self) -> bool:
        models = extra("torchvision.models", "study")
        return self._bare() in models.list_models(module=models)


@dataclasses.dataclass(frozen=True)
class TimmSource:
    """A network that `timm.create_model` builds."""

    name: str

    def build(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`."""
        return self._created(num_classes, options, pretrained=False)

    def pretrained(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`."""
        return self._created(num_classes, options, pretrained=True)

    def input_shape(self, built: Built) -> tuple[int, int, int] | None:
        """See `Source`."""
        shape = getattr(built.model, "pretrained_cfg", {}).get("input_size")
        if shape is None:
            return None
        size = built.options.get("img_size", shape[1:])
        height, width = (size, size) if isinstance(size, int) else size
        return (built.options.get("in_chans", shape[0]), height, width)

    def _created(self, num_classes: int | None, options: Mapping[str, Any], *, pretrained: bool) -> Built:
        options = _without_weights(self.name, options)
        timm = extra("timm", "timm")
        bare = self.name.partition(":")[2]
        if not timm.is_model(bare):  # hf-hub:... would be fetched, so it is refused
            raise ModelError(f"timm has no network {bare!r}{did_you_mean(bare, timm.list_models())}")
        all_options = _with_classes(num_classes, options)
        with _fetching(self.name) if pretrained else contextlib.nullcontext(), _named_errors(self.name, options):
            model: nn.Module = timm.create_model(bare, pretrained=pretrained, **all_options)
        theirs = getattr(model, "pretrained_cfg", {}).get("num_classes", num_classes)
        if pretrained and num_classes not in (None, theirs):
            _log.info("%s with timm's weights: %s classes, %d wanted: starts fresh", self.name, theirs, num_classes)
        own = getattr(model, "num_classes", None)
        return Built(model, {"num_classes": own, **all_options} if isinstance(own, int) else all_options)


@dataclasses.dataclass(frozen=True)
class FileSource:
    """A function in the user's Python file that returns the network."""

    path: Path
    function: str

    @property
    def name(self) -> str:
        """The full name, as in `create`."""
        return f"{self.path}:{self.function}"

    def build(self, num_classes: int | None, options: Mapping[str, Any]) -> Built:
        """See `Source`; `num_classes` is passed only to a function that takes it."""
        with importing_from(self.path.resolve().parent):
            function = function_in(self.path, self.function)
            parameters = inspect.signature(function).parameters
            taken = parameters.get("num_classes")
            if taken is not None and taken.default is inspect.Parameter.empty and num_classes is None:
                num_classes = DEFAULT_CLASSES
            if taken is None and all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
                num_classes = None
            all_options = _with_classes(num_classes, options)
            _check_arguments(self.name, function, all_options)
            try:
                model = function(**all_options)
            except Exception as error:  # any error of the user's code
                words = " ".join(str(error).split()) or "no message"
                raise ModelError(f"{self.name} raised {type(error).__name__}: {words}{own_line(error)}") from error
        if not isinstance(model, nn.Module):
            raise ModelError(f"{self.name} returned {kind_of(model)}, not a torch.nn.Module")
        return Built(model, all_options)

    def pretrained(self, _num_classes: int | None, _options: Mapping[str, Any], /) -> Built:
        """See `Source`."""
        raise ModelError(f"weights='pretrained' is for torchvision's and timm's networks; {self.name} loads its own")

    def input_shape(self, _built: Built, /) -> tuple[int, int, int] | None:
        """See `Source`."""
        return None


@contextlib.contextmanager
def _fetching(name: str) -> Iterator[None]:
    """A context that turns a library's failure to fetch its weights into advice on what to do."""
    try:
        yield
    except SenetError:
        raise
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        words = " ".join(str(error).split())
        raise WeightsError(
            f"the published weights of {name} cannot be fetched ({words:.200}): go online, or give a file of weights, "
            "weights=PATH (--weights FILE)"
        ) from error


def _with_classes(num_classes: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    return dict(options) if num_classes is None else {"num_classes": num_classes, **options}


def _without_weights(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without `weights_backbone=None`, `pretrained=False` and the like, which are the rule here."""
    for option in options:
        without = (None,) if option == "pretrained_strict" else (None, False)
        if option in _WEIGHT_OPTIONS and options[option] not in without:
            raise ModelError(f"{name}: {option}={options[option]!r} would fetch weights; ask with weights='pretrained'")
    return {option: value for option, value in options.items() if option not in _WEIGHT_OPTIONS}


def _check_arguments(name: str, function: Any, arguments: Mapping[str, Any]) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no options"
        raise ModelError(f"{name}: {error}; it takes {takes}") from None


@contextlib.contextmanager
def _named_errors(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """A context whose errors name the network and the options; builders name only the innermost class."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise ModelError(f"{name} cannot be built with {dict(options)}: {error}") from error
