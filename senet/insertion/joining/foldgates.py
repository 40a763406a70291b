"""Replace SE blocks by constant gates, folded into a neighbouring layer that is linear in its channels.

For constant s, u ↦ s·u folds into the convolution, linear or normalisation layer that made u, by
scaling its rows. It also folds into the convolutions and linear layers that take s·u, by scaling
their columns. Both are exact up to the rounding of the products. Anything between, such as an
activation, prevents the fold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InsertionError
from senet.fused.conditions import hooked
from senet.insertion.joining.attach import Attachment, attached, base_of, check_detachable, detach
from senet.insertion.joining.constant import ConstantGate, replace
from senet.insertion.joining.fold import owns_its_weights, ties
from senet.insertion.reading.dataflow import Call, Dataflow, record
from senet.insertion.recognise import adds_input, blocks, channel_dim_of, channels_of
from senet.running import copy_of, untouched

__all__ = ["fold_gates"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm)
_BEFORE = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, *_NORMS)
_BEHIND = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear)


@torch.no_grad()
def fold_gates(
    model: nn.Module, example: Any, gates: Mapping[str, Tensor], *, inplace: bool = False, fold: bool = True
) -> tuple[nn.Module, dict[str, str]]:
    """Replace SE blocks by constant gates: in the preceding layer, else the following ones, else as a constant scale.

    Args:
        model: a network with SE, ours or another library's. It runs once on the example in eval
            mode.
        example: the network's input.
        gates: the gates (C,), `scale` included, of each block to replace, by its name in
            `blocks(model)`.
        inplace: change `model` itself, not a copy.
        fold: False keeps all gates as constant scales, which is bit for bit what `holding`
            computes.

    Returns:
        The network, and for each block the place of its gates: "into NAME", or "held".

    Raises:
        InsertionError: a name is not an SE block of the network, gates have another shape, or the
            class of a module was changed after SE was joined to it. `model` is unchanged.
    """
    found = blocks(model)
    for name, gate in gates.items():
        if name not in found:
            raise InsertionError(f"{name!r} is not an SE block of this network; they are {', '.join(found)}")
        channels = channels_of(found[name], gate.numel())
        if tuple(gate.shape) != (channels,):
            raise InsertionError(f"the gates of {name} are ({channels},), not {tuple(gate.shape)}")
    for host, _, at in attached(model):
        if _child(host, at) in gates:
            check_detachable(model, host, at.site)
    target = model if inplace else copy_of(model)
    flow = None
    if fold:
        try:
            with untouched(target):
                flow = record(target, example)
        except InsertionError:  # it runs, as the caller knows; what it is made of stays unseen
            flow = None
    hosts = {_child(name, at): (name, module, at) for name, module, at in attached(target)}
    went = {}
    for name, gate in gates.items():
        block = target.get_submodule(name)
        factor = gate.cpu().double() + (1 if adds_input(block) else 0)
        into = None if flow is None else _fold(target, flow, block, hosts.get(name), factor)
        if into is None:
            constant = replace(target, name, "held", gate.numel())
            assert isinstance(constant, ConstantGate)
            constant.gates.copy_(factor)
        elif name in hosts:
            detach(target, hosts[name][0])
        else:
            replace(target, name, "folded", gate.numel())
        went[name] = "held" if into is None else f"into {into}"
    return target, went


def _child(host: str, at: Attachment) -> str:
    return f"{host}.{at.child}" if host else at.child


def _fold(
    model: nn.Module, flow: Dataflow, block: nn.Module, host: tuple[str, nn.Module, Attachment] | None, factor: Tensor
) -> str | None:
    """Fold a block's constant gates into neighbouring layers; return their names, or None if no layer can take them."""
    tied = ties(model)
    if host is not None and host[2].site.position == "shortcut":
        return None
    if host is not None and host[2].site.position == "output":
        name, module, at = host
        bare = [child for child, _ in module.named_children()] == [at.child]
        returned = flow.calls_of[module][0].outputs[:1] if module in flow.calls_of else ()
        fits = all(_fits(module, flow.values[value].shape, at.site.channel_dim) for value in returned)
        if bare and fits and _takes(module, base_of(module), _BEFORE, tied):
            _scale_rows(module, factor)
            return name
    calls = flow.calls_of.get(block, [])
    if len(calls) != 1 or len(calls[0].inputs) != 1:  # shared, or given a mask as well
        return None
    (call,) = calls
    before = None if host is not None else _before(flow, call)
    dim = channel_dim_of(block)
    if (
        before is not None
        and not hooked(before.module)  # a hook may return another output than the layer's
        and _takes(before.module, type(before.module), _BEFORE, tied)
        and _fits(before.module, flow.values[call.inputs[0]].shape, dim)
    ):
        _scale_rows(before.module, factor)
        return before.name
    own = None if host is None or host[2].site.position != "input" else host[1]
    behind = _behind(flow, call, block, own)
    if behind and all(_takes(each.module, _base(each.module, own), _BEHIND, tied) for each in behind):
        for each in behind:
            _scale_columns(each.module, factor)
        return " and ".join(each.name for each in behind)
    return None


def _base(module: nn.Module, own: nn.Module | None) -> type[nn.Module]:
    """The module's class without the classes that apply SE."""
    return base_of(module) if module is own else type(module)


def _takes(
    module: nn.Module, base: type[nn.Module], kinds: tuple[type[nn.Module], ...], tied: Mapping[int, int]
) -> bool:
    """Whether the layer is exactly of one of these kinds and has its own weights."""
    if base not in kinds or (isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1):
        return False
    return owns_its_weights(module, tied)


def _fits(module: nn.Module, shape: tuple[int, ...], channel_dim: int) -> bool:
    """Whether SE and the layer agree on the channel dimension."""
    last = channel_dim % len(shape) == len(shape) - 1
    return last if isinstance(module, nn.Linear | nn.LayerNorm) else channel_dim == 1


def _returned(flow: Dataflow, value: int) -> bool:
    """Whether the network returns the value."""
    return any(not call.name and value in call.outputs for call in flow.calls)


def _before(flow: Dataflow, call: Call) -> Call | None:
    """The call of the layer that made the block's input, if the block is its only user."""
    (given,) = call.inputs
    made = flow.made_in[given]
    if made is None or _returned(flow, given) or given not in made.outputs or len(flow.calls_of[made.module]) != 1:
        return None
    alone = all(call.made(value) for value in flow.consumers[given])
    return made if alone else None


def _behind(flow: Dataflow, call: Call, block: nn.Module, own: nn.Module | None) -> list[Call]:
    """The calls of the layers that take the block's output; empty if it is also used elsewhere."""
    (given,) = call.outputs
    if _returned(flow, given):
        return []
    found = []
    for value in flow.consumers[given]:
        taker = flow.made_in[value]
        if taker is None or len(flow.calls_of[taker.module]) != 1:
            return []
        # SE on a layer's input runs inside that layer's call, whose recorded input precedes SE
        if taker.module is not own and taker.inputs != (given,):
            return []
        if not _fits(taker.module, flow.values[given].shape, channel_dim_of(block)):
            return []
        if taker not in found:
            found.append(taker)
    return found


def _scale_rows(module: nn.Module, factor: Tensor) -> None:
    """Scale each output channel of the layer by its factor."""
    for parameter in (module.weight, module.bias):
        if isinstance(parameter, nn.Parameter):
            dim = 1 if parameter is module.weight and isinstance(module, _TRANSPOSED) else 0
            _multiply(parameter, factor, dim, _groups(module) if dim == 1 else 1)


def _scale_columns(module: nn.Module, factor: Tensor) -> None:
    """Scale each input channel of the layer by its factor."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    dim = 0 if isinstance(module, _TRANSPOSED) else 1
    _multiply(weight, factor, dim, _groups(module) if dim == 1 else 1)


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, nn.modules.conv._ConvNd) else 1


def _multiply(parameter: nn.Parameter, factor: Tensor, dim: int, groups: int) -> None:
    """Multiply along `dim`, rounding once; with groups, dimension 0 runs over the groups."""
    exact = parameter.cpu().double()
    shape = exact.shape
    exact = exact.reshape(groups, -1, *shape[1:])  # (group, rows of it, ...)
    parts = factor.view(groups, -1)
    if dim == 0:
        exact = exact * parts.view(groups, -1, *(1,) * (len(shape) - 1))
    else:
        exact = exact * parts.view(groups, 1, -1, *(1,) * (len(shape) - 2))
    parameter.copy_(exact.reshape(shape).to(parameter.dtype))
