"""Adapt published tensors to a network: names, the form of SE blocks, and the classifier's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from senet.block import SEBlock, SESpec, _to_linear_form, hidden_width
from senet.insertion import attach
from senet.insertion.joining.attach import attached, detach
from senet.words import counted
from senet.zoo.weights.compatibility import Difference, classifier_of, compare
from senet.zoo.weights.dialects import SELayers, se_layers
from senet.zoo.weights.reading import WeightsFile

__all__ = ["absent_head", "for_model", "holds_se", "other_kinds", "spec_like", "spec_of", "take_se"]

_KINDS = ("weight", "bias")


def for_model(model: nn.Module, file: WeightsFile) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """The adapted tensors, the file's name for each, and notes on what was changed."""
    tensors, names = file.named_for(model)
    blocks = {
        f"{name}." if name else "": module for name, module in model.named_modules() if isinstance(module, SEBlock)
    }
    notes = []
    alone = 0
    for prefix, module in blocks.items():
        own, lost = file.tensors.get(f"{prefix}fc2.weight"), f"{prefix}scale" not in tensors
        _to_linear_form(tensors, prefix, module.scale, theirs=own is None)
        alone += lost and own is not None and own.dim() == 2 and f"{prefix}scale" in tensors
    if alone:
        notes.append(
            f"the constant scale of {counted(alone, 'SE block')} is not among these parameters: it is taken as 1, and "
            f"was 2 if SE started as the identity"
        )
    without = [
        (prefix, module)
        for prefix, module in blocks.items()
        if module.fc1.bias is not None and f"{prefix}fc1.weight" in tensors and f"{prefix}fc2.weight" in tensors
    ]
    if without and not any(f"{prefix}fc{layer}.bias" in tensors for prefix, _ in without for layer in (1, 2)):
        for prefix, module in without:
            tensors[f"{prefix}fc1.bias"] = torch.zeros_like(module.fc1.bias)
            tensors[f"{prefix}fc2.bias"] = torch.zeros_like(module.fc2.bias)
        count = counted(len(without), "SE block")
        notes.append(f"biases of {count} are not in the file: they are 0, which is the same")
    notes += _move_head(model, tensors, names)
    return tensors, names, notes


def _move_head(model: nn.Module, tensors: dict[str, Tensor], names: dict[str, str]) -> list[str]:
    """Rename the file's classifier to the model's, if only its name differs."""
    difference = compare(model, tensors)
    state = model.state_dict()
    absent = absent_head(model, difference, state)
    layers = {key.rpartition(".")[0] for key in difference.unexpected}
    if (
        absent is None
        or len(layers) != 1
        or difference.unexpected.keys() - {f"{n}.{k}" for n in layers for k in _KINDS}
    ):
        return []
    theirs = layers.pop()
    weight = tensors.get(f"{theirs}.weight")
    if weight is None or weight.shape[1:].numel() != state[f"{absent}.weight"].shape[1:].numel():
        return []
    for kind in _KINDS:
        if f"{theirs}.{kind}" in tensors and f"{absent}.{kind}" in state:
            value = tensors.pop(f"{theirs}.{kind}")
            tensors[f"{absent}.{kind}"] = value.reshape(-1, *state[f"{absent}.{kind}"].shape[1:])
            names[f"{absent}.{kind}"] = names.pop(f"{theirs}.{kind}")
    return [f"{absent} is what the file calls {theirs}"]


def absent_head(model: nn.Module, difference: Difference, state: Mapping[str, Tensor]) -> str | None:
    """The model's classifier, if the file lacks exactly its parameters."""
    name = classifier_of(model, state)
    if name is None:
        return None
    own = {key for key in state if key.startswith(f"{name}.")}
    missing = {key for key in difference.missing if not key.endswith(".num_batches_tracked")}
    return name if own and own <= missing and not difference.mismatched else None


def holds_se(model: nn.Module, file: WeightsFile) -> bool:
    """Whether the file has SE blocks that the plain `model` lacks."""
    tensors, _ = file.named_for(model)
    return any(f"{name}.fc1.weight" not in model.state_dict() for name in se_layers(tensors))


def take_se(model: nn.Module, file: WeightsFile) -> None:
    """Give each inserted SE block the form of the file's; blocks absent from it become the identity."""
    tensors, _, _ = for_model(model, file)
    held, kinds = se_layers(tensors), file.kinds_for(model)
    for name, module, at in list(attached(model)):
        if not isinstance(at.spec, SESpec):
            continue
        block = f"{name}.{at.child}"
        layers = held.get(block)
        if layers is None:
            module.get_submodule(at.child).start_as_identity()  # type: ignore[operator]
            continue
        spec = spec_like(at.spec, layers, kinds.get(block))
        if spec != at.spec and layers.channels == at.site.channels:
            detach(model, name)
            attach(model, at.site, spec)


def spec_like(spec: SESpec, layers: SELayers, kind: tuple[str, str] | None) -> SESpec:
    """`spec` with the hidden width, biases and, if the file says them, squeeze and gate of the file's block."""
    squeeze, gate = kind or (spec.squeeze, spec.gate)
    start = spec.start if gate == spec.gate else None  # not every gate has an identity start
    spec = dataclasses.replace(spec, bias=layers.bias, squeeze=squeeze, gate=gate, start=start)
    if hidden_width(layers.channels, spec.reduction_ratio, spec.width, spec.least_width) == layers.width:
        return spec
    ratio = max(1, layers.channels // max(1, layers.width))
    if hidden_width(layers.channels, ratio) == layers.width:
        return dataclasses.replace(spec, reduction_ratio=ratio, width=None, least_width=1)
    return dataclasses.replace(spec, width=layers.width)


def other_kinds(model: nn.Module, file: WeightsFile) -> list[str]:
    """The SE blocks of `model` whose squeeze or gate is another than the file says, in words."""
    modules = dict(model.named_modules())
    return [
        f"{name} has {block.squeeze} squeeze and {block.gate_function} gate, and the file's has {kind[0]} and "
        f"{kind[1]}, which changes its outputs"
        for name, kind in file.kinds_for(model).items()
        if isinstance(block := modules.get(name), SEBlock) and kind != (block.squeeze, block.gate_function)
    ]


def spec_of(held: Sequence[SELayers]) -> str:
    """The common SESpec of all of a file's blocks, as code; "" if there is none."""
    for ratio in (max(1, layers.channels // max(1, layers.width)) for layers in held[:1]):
        if all(hidden_width(layers.channels, ratio) == layers.width for layers in held):
            return f"SESpec(reduction_ratio={ratio}, bias={held[0].bias})"
    if len({layers.width for layers in held}) == 1:
        return f"SESpec(width={held[0].width}, bias={held[0].bias})"
    return ""
