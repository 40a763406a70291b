"""Compare the tensors of a file with a network: keys, shapes, and the size of the classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from senet.block import SEBlock
from senet.errors import WeightsError
from senet.insertion import MadeBlock
from senet.words import listed

__all__ = ["Difference", "Head", "MismatchError", "classes_in", "classifier_of", "compare", "head_of"]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The differences between the tensors of a file and a network, with shapes in words.

    Attributes:
        missing: keys of the network that the file lacks.
        unexpected: keys of the file that the network lacks.
        mismatched: common keys with another shape or kind of number.
    """

    missing: Mapping[str, str]
    unexpected: Mapping[str, str]
    mismatched: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)

    def without(self, keys: Iterable[str]) -> Difference:
        """The difference without `keys`."""
        left_out = frozenset(keys)

        def rest(part: Mapping[str, str]) -> dict[str, str]:
            return {key: words for key, words in part.items() if key not in left_out}

        return Difference(rest(self.missing), rest(self.unexpected), rest(self.mismatched))

    def __str__(self) -> str:
        parts = []
        for kind, part in (
            ("missing from the file", self.missing),
            ("unknown to the network", self.unexpected),
            ("of another shape", self.mismatched),
        ):
            if part:
                keys = listed([f"{key} {words}" for key, words in part.items()], 3)
                parts.append(f"{len(part)} {kind}: {keys}")
        return "; ".join(parts)


class MismatchError(WeightsError):
    """Weights do not fit a network; `difference` lists every key without a counterpart."""

    def __init__(self, message: str, difference: Difference) -> None:
        super().__init__(message)
        self.difference = difference


@dataclasses.dataclass(frozen=True)
class Head:
    """A classifier that has different sizes in a file and a network.

    Attributes:
        layers: its name; several names if the network has auxiliary classifiers.
        keys: the keys of its parameters.
        classes: the number of classes in the file.
        wanted: the number of classes in the network.
    """

    layers: tuple[str, ...]
    keys: tuple[str, ...]
    classes: int
    wanted: int


def compare(
    model: nn.Module, tensors: Mapping[str, Tensor], names: Mapping[str, str] = MappingProxyType({})
) -> Difference:
    """Compare `tensors` with the state dict of `model`; keys keep their order.

    Args:
        model: the network.
        tensors: the tensors by state dict key.
        names: the file's names for renamed tensors.

    Raises:
        WeightsError: the model has parameters without a shape.
    """
    state = _state(model)

    def called(key: str) -> str:
        name = names.get(key, key)
        return "" if name == key else f" (the file's {name})"

    return Difference(
        missing={key: _shape(value) for key, value in state.items() if key not in tensors},
        unexpected={key: f"{_shape(value)}{called(key)}" for key, value in tensors.items() if key not in state},
        mismatched={
            key: f"{_shape(tensors[key])} in the file, {_shape(value)} in the network{called(key)}"
            for key, value in state.items()
            if key in tensors and not _fits(tensors[key], value)
        },
    )


def head_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> Head | None:
    """The classifier, if the file and the network differ only in its number of classes, else None.

    It consists of the layers (linear, or 1×1 convolutions) whose weights and biases have another
    first dimension in `tensors`. A layer that took their outputs would also differ. So if every
    other tensor has the right shape, no such layer exists.
    """
    mismatched = compare(model, tensors).mismatched
    layers = tuple(dict.fromkeys(key.rpartition(".")[0] for key in mismatched))
    if not layers or not all(_is_classifier(model.get_submodule(name)) for name in layers):
        return None
    state = _state(model)
    sizes = set()
    for key in mismatched:
        here, there = state[key], tensors[key]
        if key.rpartition(".")[2] not in ("weight", "bias") or here.dim() == 0 or there.dim() != here.dim():
            return None
        if here.shape[1:] != there.shape[1:] or here.is_floating_point() != there.is_floating_point():
            return None
        sizes.add((there.shape[0], here.shape[0]))
    if len(sizes) != 1:
        return None
    classes, wanted = sizes.pop()
    return Head(layers, tuple(mismatched), int(classes), int(wanted))


def classes_in(weights: Mapping[str, Tensor], model: nn.Module) -> int | None:
    """The number of classes of `weights`, from the shape of the classifier.

    The classifier is the layer of `model` (linear, or a 1×1 convolution) that differs only in its
    number of outputs. If no shape differs, it is the last such layer in `weights`. None if there is
    none.
    """
    head = head_of(model, weights)
    if head is not None:
        return head.classes
    name = classifier_of(model, weights)
    return None if name is None else int(weights[f"{name}.weight"].shape[0])


def classifier_of(model: nn.Module, weights: Mapping[str, Tensor]) -> str | None:
    """The name of the last linear layer or 1×1 convolution of `model` whose weight is in `weights`."""
    modules: list[tuple[str, nn.Module]] = list(model.named_modules())
    inside = tuple(f"{name}." for name, module in modules if isinstance(module, SEBlock | MadeBlock))
    for name, module in reversed(modules):
        weight = weights.get(f"{name}.weight")
        if weight is not None and weight.dim() > 1 and _is_classifier(module) and not name.startswith(inside):
            return name
    return None


def _is_classifier(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return set(module.kernel_size) == {1} and module.groups == 1
    return isinstance(module, nn.Linear)


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    for key, value in state.items():
        if nn.parameter.is_lazy(value):
            raise WeightsError(f"{key} has no shape yet (a lazy module): run the network once, then load its weights")
    return state


def _fits(there: Tensor, here: Tensor) -> bool:
    if there.shape != here.shape:
        return False
    return there.is_floating_point() == here.is_floating_point() and there.is_complex() == here.is_complex()


def _shape(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f" of {str(value.dtype).removeprefix('torch.')}"
    return f"{tuple(value.shape)}{kind}"
