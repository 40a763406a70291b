"""Load published weights of any dialect into a network that they fit, or leave it unchanged."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from senet.block import SEBlock
from senet.errors import InputError, WeightsError
from senet.insertion import MadeBlock, inserted
from senet.insertion.joining.attach import attached
from senet.insertion.staying.joined import forget_fold
from senet.insertion.staying.wrapped import unwrapped
from senet.words import counted, listed
from senet.zoo.weights.adapt import absent_head, for_model, other_kinds, spec_of
from senet.zoo.weights.compatibility import Difference, MismatchError, classes_in, compare, head_of
from senet.zoo.weights.dialects import ENDS, network_of, se_layers
from senet.zoo.weights.reading import WeightsFile, check_dense, not_dense, read_file, read_weights

__all__ = [
    "LoadReport",
    "WeightsError",
    "classes_in",
    "load_file",
    "load_tensors",
    "load_weights",
    "log_notes",
    "note_preprocessing",
    "noted_preprocessing",
    "read_weights",
    "say_not_finite",
]

_log = logging.getLogger("senet")

_PREPROCESSING = "_senet_preprocessing"  # in the __dict__ of a network, like its origin
_PLAIN = "torchvision's ResNet"


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """The report of `load_weights`.

    Attributes:
        source: the file.
        tensors: the number of tensors loaded.
        classes: the number of classes of the file's classifier; None if no classifier was recognised.
        fresh: the classifier's layers that start fresh, being absent from the file or of another size.
        without_se: the inserted SE blocks that are absent from the file and stay unchanged.
        notes: sentences on what was done.
        dialect: the dialect of the file's names (`senet.zoo.weights.dialects.DIALECTS`); None if unknown.
        unplaced: the keys of the file that were not loaded: a classifier's, and those outside the network.
        preprocessing: the network's preprocessing, if the file states it: a `.caffemodel`'s is BGR.
            The network keeps it, `senet.save` writes it, and `senet.study.evaluate` uses it.
    """

    source: str
    tensors: int
    classes: int | None
    fresh: tuple[str, ...]
    without_se: tuple[str, ...]
    notes: tuple[str, ...]
    dialect: str | None = None
    unplaced: tuple[str, ...] = ()
    preprocessing: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        named = f", named as in {self.dialect}" if self.dialect else ""
        return "\n".join((f"{self.source}: {self.tensors} tensors loaded{named}", *self.notes))


def load_weights(model: nn.Module, path: str | os.PathLike[str], *, head: str = "replace") -> LoadReport:
    """Load the weights of `path` into `model` in place; if they do not all fit, the model stays unchanged.

    Tensors of a known dialect are renamed: the authors' release and its port, timm's,
    torchvision's, mmpretrain's, moskomule's and the article's. In a training's checkpoint the
    network is found under `model.`, or `backbone.` and `head.`; a moving average takes precedence
    over raw weights, and a note says so. SE layers may be linear or 1×1 convolutions. If only the
    model's SE has biases, they become 0; the reverse is an error that names the SESpec to use. A
    ResNet with its stride in another convolution is also an error.

    Args:
        model: the network; inserted SE blocks absent from the file stay unchanged.
        path: a file for `read_weights`, or one from `save`.
        head: "replace": if the file's classifier is missing or has another number of classes, the
            model's stays unchanged; "strict": that is an error.

    Raises:
        WeightsError: the file cannot be read, or is of another network. The latter is a
            MismatchError: its message has the first differing keys, and its `difference` all of
            them.
        ImportError: a `.caffemodel` needs protobuf; the message has the command that installs it.
    """
    return load_file(model, read_file(path), head=head)


def load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> LoadReport:
    """`load_weights` for given tensors; `source` is their name in messages."""
    return load_file(model, WeightsFile.of(tensors, source))


def load_file(model: nn.Module, file: WeightsFile, *, head: str = "replace") -> LoadReport:
    """`load_weights` for a file that was already read."""
    if head not in ("replace", "strict"):
        raise InputError(f"head is 'replace' or 'strict', not {head!r}")
    file = file.fitted(model)
    tensors, names, notes = for_model(model, file)
    found = head_of(model, tensors) if head == "replace" else None
    without_se = _se_without_tensors(model, tensors)
    state = model.state_dict()
    spared = [key for key in state if key.startswith(tuple(f"{name}." for name in without_se))]
    counters = [key for key in state if key.endswith(".num_batches_tracked") and key not in tensors]
    fresh = () if found is None else found.keys
    difference = compare(model, tensors, names)
    absent = absent_head(model, difference, state) if head == "replace" and found is None else None
    lacking = [key for key in state if absent is not None and key.startswith(f"{absent}.")]
    rest = difference.without([*spared, *counters, *fresh, *lacking])
    if rest:
        raise MismatchError(
            f"{file.source} does not fit this {type(model).__name__}, which is unchanged: {rest}"
            f"{_hint(rest, tensors, model, file)}",
            rest,
        )
    _check_form(model, file, tensors)
    _replace(model, state, {key: value for key, value in tensors.items() if key not in fresh}, file.source)
    note_preprocessing(model, file.preprocessing)
    for _, host, _ in attached(model):
        forget_fold(host)
    if found is not None:
        notes += [
            f"{layer}: {found.classes} classes in the file, {found.wanted} wanted: starts fresh"
            for layer in found.layers
        ]
    if absent is not None:
        notes.append(f"{absent}: not in the file: starts fresh")
    if without_se:
        notes.append(f"{counted(len(without_se), 'SE block')} not in the file, left unchanged: {listed(without_se, 3)}")
    unplaced = tuple(names[key] for key in fresh if key in names)
    notes = [*file.notes, *notes]
    return LoadReport(
        source=file.source,
        tensors=len(file.tensors) - len(unplaced),
        classes=classes_in(tensors, model),
        fresh=found.layers if found is not None else () if absent is None else (absent,),
        without_se=without_se,
        notes=(*notes, *_differences_of_form(model, file)),
        dialect=None if file.dialect is None else file.dialect.name,
        unplaced=(*unplaced, *file.left),
        preprocessing=file.preprocessing,
    )


def log_notes(report: LoadReport) -> None:
    """Log the notes of a report, each with its source."""
    for note in report.notes:
        _log.info("%s: %s", report.source, note)


def _replace(model: nn.Module, state: dict[str, Any], tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors, which were compared before, into the model: all or none.

    Raises:
        WeightsError: the model has no values to replace, or a tensor cannot be copied.
    """
    check_dense(tensors, source)
    values = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for key, value in values.items():
        if problem := not_dense(value):
            raise WeightsError(f"{source} cannot be loaded into this {type(model).__name__}, whose {key} {problem}")
    # load_state_dict copies tensor by tensor and continues after a failure, so we keep the old values.
    before = {key: value.clone() for key, value in values.items()}
    try:
        whole = copy.copy(state)  # with the versions of its modules, which some refuse to load without
        whole.update(tensors)
        model.load_state_dict(whole)
    except Exception as error:
        with torch.no_grad():
            for key, value in values.items():
                value.copy_(before[key])
        words = " ".join(str(error).split())
        raise WeightsError(
            f"{source} cannot be copied into this {type(model).__name__}, which is unchanged: {words:.300}"
        ) from error
    say_not_finite({key: values[key] for key in tensors}, source)  # as loaded: half precision may not hold them


def say_not_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Log a warning if a file's tensors hold nan or inf, as after a training that diverged."""
    wrong = tuple(key for key, value in tensors.items() if value.is_floating_point() and not _is_finite(value))
    if wrong:
        _log.warning("%s: nan or inf is in %s: %s", source, counted(len(wrong), "tensor"), listed(wrong, 3))


def _is_finite(value: Tensor) -> bool:
    try:
        return bool((value if value.element_size() > 1 else value.float()).isfinite().all())
    except RuntimeError:  # of a type in which PyTorch computes nothing, such as float4
        return True


def note_preprocessing(model: nn.Module, preprocessing: Mapping[str, object]) -> None:
    """Attach the preprocessing to `model`, as values of Preprocessing, unless it is empty."""
    notes = _notes(model)
    notes.pop(_PREPROCESSING, None)
    if preprocessing:
        notes[_PREPROCESSING] = dict(preprocessing)


def noted_preprocessing(model: nn.Module) -> dict[str, object]:
    """The preprocessing from `note_preprocessing`; empty if there is none."""
    return dict(_notes(model).get(_PREPROCESSING, {}))


def _notes(model: nn.Module) -> dict[str, Any]:
    """Where a network keeps what is noted of it: a copy of a GraphModule has nothing else of its attributes."""
    model = unwrapped(model)
    meta = getattr(model, "meta", None) if isinstance(model, fx.GraphModule) else None
    return model.__dict__ if meta is None else meta  # torchvision's feature extractors have none


def _se_without_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The inserted SE blocks without any tensor in `tensors`."""
    holders = inserted(model).keys()
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, SEBlock | MadeBlock) and name.rpartition(".")[0] in holders
    ]
    return tuple(name for name in names if not any(key.startswith(f"{name}.") for key in tensors))


def _stride_in(model: nn.Module) -> str:
    """The convolution with the stride in a ResNet's bottlenecks: "1x1", "3x3", or "" if it has none."""
    try:
        first, second, _ = (model.get_submodule(f"layer2.0.conv{index}") for index in (1, 2, 3))
    except AttributeError:
        return ""
    strides = [max(layer.stride) if isinstance(layer, nn.Conv2d) else 1 for layer in (first, second)]  # type: ignore[type-var]
    return "1x1" if strides[0] > 1 else "3x3" if strides[1] > 1 else ""


def _check_form(model: nn.Module, file: WeightsFile, tensors: Mapping[str, Tensor]) -> None:
    first = "layer1.0.se_module.fc1.weight"
    if first in file.tensors and first not in model.state_dict() and "layer1.0.conv3.weight" not in file.tensors:
        raise WeightsError(
            f"{file.source} is of timm's legacy_seresnet18 or 34, whose blocks have one more ReLU, before SE: all "
            f"shapes fit this {type(model).__name__}, and it would compute something else. Make "
            "'timm:legacy_seresnet18' or 'timm:legacy_seresnet34'"
        )
    here = _stride_in(model)
    if here and file.stride and here != file.stride:
        words = {"1x1": "first 1×1 convolution", "3x3": "3×3 convolution"}
        network = network_of(tensors, file.stride)
        raise WeightsError(
            f"{file.source} is of a network that has its stride in the {words[file.stride]} of a block, and this "
            f"{type(model).__name__} has it in the {words[here]}: all shapes fit, and it would compute something else"
            f"{f'. Make {network!r}' if network else ''}"
        )


def _differences_of_form(model: nn.Module, file: WeightsFile) -> list[str]:
    """Differences that neither keys nor shapes show, in words."""
    notes = other_kinds(model, file)
    pool = next((module for module in model.modules() if isinstance(module, nn.MaxPool2d)), None)
    if pool is not None and file.caffe_pool is not None:
        ours = pool.ceil_mode and pool.padding in (0, (0, 0))
        if ours != file.caffe_pool:
            with_or_not = "without padding and rounds up" if file.caffe_pool else "with padding"
            notes.append(
                f"the file's network pools {with_or_not}, this one does not, which changes its outputs "
                f"(in the zoo, caffe_pool={file.caffe_pool})"
            )
    if file.dialect is not None and file.dialect.name == _PLAIN and _stride_in(model) == "1x1":
        notes.append(
            "torchvision's and timm's ResNets have their stride in the 3×3 convolution, this one in the first 1×1: if "
            "the weights are theirs, the network is resnet50_v1_5 (or 101, 152)"
        )
    if file.preprocessing.get("channels") == "BGR":
        notes.append("its images are BGR, in [0, 255], less a mean of each channel")
    return notes


def _hint(rest: Difference, tensors: Mapping[str, Tensor], model: nn.Module, file: WeightsFile) -> str:
    """A hint at what would fit, if it can be determined."""
    held, blocks = se_layers(tensors), [m for m in model.modules() if isinstance(m, SEBlock)]
    unknown_se = bool(rest.unexpected) and all(map(_of_se, rest.unexpected))
    spec = spec_of(list(held.values()))
    if held and not blocks and unknown_se and not rest.mismatched:
        return (
            f". The file has SE, the network has none: insert it first{f', with {spec}' if spec else ''}, or use "
            f"senet.load for a file of senet.save"
        )
    if held and any(at.spec.placement != "standard" for _, _, at in attached(model)) and unknown_se:
        return ". Published networks have SE in standard placement, this one has it elsewhere"
    differing = [*rest.unexpected, *rest.mismatched]
    if held and blocks and differing and all(map(_of_se, differing)) and spec:
        return f". The file's SE is {spec}: insert that"
    if not differing and rest.missing.keys() <= {name for name, _ in model.named_buffers()}:
        return ". It holds parameters alone, without buffers such as the gates' scale: save state_dict()"
    network = network_of(tensors, file.stride)
    return f". By its shapes it is of {network!r}" if network and (rest.missing or rest.mismatched) else ""


def _of_se(key: str) -> bool:
    return any(f"{end}." in key for end in ENDS)
