"""Recognise SE blocks from any library, through one interface and without importing that library.

A block is recognised by what it computes on a small map: x · gate(x), where layers and an
activation turn averages of x into the gate. The names of classes and attributes play no part.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from senet.block import SEBlock
from senet.block.made import MadeBlock
from senet.errors import InputError, InputTypeError, InsertionError
from senet.insertion.reading.channel_gates import channel_gates, rescaling_call
from senet.insertion.reading.dataflow import Dataflow, record
from senet.insertion.reading.operations import iterates_its_children
from senet.insertion.staying.record import tell as tell_of_lost
from senet.running import check_module, noise, set_training, untouched

__all__ = ["InlineSE", "adds_input", "blocks", "channel_dim_of", "channels_of", "gate", "is_se", "squeezed_values"]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_MOST_LAYERS = 3
_MOST_MODULES = 24


@dataclasses.dataclass(frozen=True, slots=True)
class _Form:
    """What a run showed of a block: C (None if it takes any number), the channel dimension, and any shortcut."""

    channels: int | None
    channel_dim: int
    adds_input: bool = False


_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], _Form | None]] = weakref.WeakKeyDictionary()


class InlineSE(nn.Module):
    """A handle for SE that is written into the forward of a larger module.

    It can be listed and counted. It cannot be run, recorded, held, removed or pruned, because no
    module of its own returns the product.

    Attributes:
        where: the name of the module whose forward holds the SE; empty for the network itself.
        layers: names of the layers that compute the gate, in the order in which they run.
        channels: C.
        channel_dim: the channel dimension of the map.
        rescaling: the number of multiplications by gates in the run.
    """

    def __init__(
        self, where: str, layers: dict[str, nn.Module], channels: int, channel_dim: int, rescaling: int
    ) -> None:
        super().__init__()
        self.where, self.layers = where, tuple(layers)
        self.channels, self.channel_dim, self.rescaling = channels, channel_dim, rescaling
        for name, layer in layers.items():
            self.add_module(name.replace(".", "/"), layer)  # the network keeps its layers: this only refers to them

    def forward(self, *_: Any) -> Tensor:
        """Always raise: this SE cannot run on its own.

        Raises:
            InsertionError: always, with the reason.
        """
        raise InsertionError(self.refusal())

    def refusal(self) -> str:
        """One line that says what cannot be done with it, and why."""
        at = f"of {self.where}" if self.where else "of the network"
        return (
            f"the SE in the forward {at} has no module of its own that returns the product: it is listed and counted, "
            f"but its gates cannot be computed alone, recorded, held, removed or pruned. Give it a module, such as "
            f"senet.SEBlock({self.channels})"
        )

    def extra_repr(self) -> str:
        """The channels and the module whose forward holds it, for `print`."""
        return f"{self.channels}, in the forward of {self.where or 'the network'}"


def is_se(module: nn.Module) -> bool:
    """Whether `module` is a block that returns x · gate(x): SE, effective SE or ECA, from any library."""
    return isinstance(module, SEBlock | MadeBlock | InlineSE) or _form(module) is not None


def blocks(model: nn.Module, example: Any = None, *, tell: bool = True) -> dict[str, nn.Module]:
    """Every SE block in `model`, from any library, by name in module order; a shared block appears once.

    Without an example, each small module is tried on a small map. With one, the network also runs
    once in eval mode, and its state is restored. That run finds blocks that cannot be tried on
    their own. It also finds SE written into the forward of a larger module, which gets an
    `InlineSE` under that module's name.

    Args:
        model: any network.
        example: the network's input: a tensor, a tuple of positional arguments or a dict of keyword
            arguments.
        tell: warn (`senet.SEWarning`) if inserted SE was lost.

    Raises:
        InsertionError: the network does not run on the example.
    """
    check_module(model)
    if tell:
        tell_of_lost(model)
    inline: dict[str, nn.Module] = {}
    if example is not None:
        with torch.inference_mode(False), untouched(model):
            inline = _learn(record(model, example))
    made = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, MadeBlock))
    found = {name: module for name, module in model.named_modules() if not name.startswith(made) and is_se(module)}
    return found | {name: block for name, block in inline.items() if not f"{block.where}.".startswith(made)}  # type: ignore[union-attr]


def squeezed_values(flow: Dataflow) -> frozenset[int]:
    """The values of a run that SE computed between a map and its product, wherever the SE is written."""
    made = {index for gate in channel_gates(flow) for index in gate.made}
    # Our block without a squeeze has a gate per position. That is not a channel gate, but still SE.
    ours = (range(call.first, call.end) for call in flow.calls if isinstance(call.module, SEBlock | MadeBlock))
    return frozenset(made.union(*ours))


def gate(block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The channel weights that an SE block of any kind gives to `x` (equation 3 of the paper).

    Shapes: (N, C, *space) -> (N, C, 1, ...), and what `SEBlock.gate` returns for its other inputs.
    A block on (N, *space, C) gives (N, 1, ..., C). A block that squeezes part of the space gives
    the map's shape.

    Args:
        block: one of `senet.blocks`.
        x: its input.
        args: further arguments of the block, such as a mask.
        kwargs: further keyword arguments of the block.

    Raises:
        TypeError: `block` is not an SE block, or is an `InlineSE`.
    """
    if isinstance(block, SEBlock):
        return block.gate(x, *args, **kwargs)
    if isinstance(block, MadeBlock):
        return _gate_of_made(block, x)
    if isinstance(block, InlineSE):
        raise InputTypeError(block.refusal())
    form = _form_of(block)
    # We run the block and watch its product, which gives the gate that it computes, with its
    # gradient. x is copied because some blocks multiply in place. The class's forward is called
    # because `holding` replaces the instance's.
    x = x.clone()
    with _ProductWith(x) as watched:
        type(block).forward(block, x, *args, **kwargs)
    if watched.gate is None:
        raise InputTypeError(f"{type(block).__name__} multiplies where Python cannot see it, as in a scripted function")
    kept = [n if dim in (0, form.channel_dim % x.dim()) else 1 for dim, n in enumerate(x.shape)]
    if watched.gate.numel() != math.prod(kept):  # part of the space is squeezed, and the gate varies along the rest
        spread: Tensor = watched.gate.expand_as(x)
        return spread
    result: Tensor = watched.gate.reshape(kept)
    return result


def _gate_of_made(block: MadeBlock, x: Tensor) -> Tensor:
    """1 + α · (s − 1), where the module multiplies each channel by s."""
    if not is_se(block.module):
        raise InputTypeError(
            f"{block.named()} is not a channel gate: it has no weights of channels to look at, to hold or to prune"
        )
    s = gate(block.module, x)
    s = s + 1 if adds_input(block.module) else s
    return s if not block.mixes else (1 + block.alpha * (s - 1)).to(s.dtype)


def channels_of(block: nn.Module, otherwise: int | None = None) -> int:
    """C, the number of channels that an SE block rescales.

    Args:
        block: the block.
        otherwise: the number for a block that takes any, as ECA does, and has not run yet.

    Raises:
        ValueError: the block is such a block, and there is no other number.
    """
    channels = _form_of(block).channels
    channels = otherwise if channels is None else channels
    if channels is None:
        raise InputError(
            f"{type(block).__name__} takes any number of channels: `senet.blocks(model, example)` learns it from a run"
        )
    return channels


def channel_dim_of(block: nn.Module) -> int:
    """The channel dimension of an SE block's input: 1, or -1 for a block on (N, *space, C)."""
    return _form_of(block).channel_dim


def adds_input(block: nn.Module) -> bool:
    """Whether a block returns x · gate(x) + x, as MONAI's residual block does, instead of x · gate(x)."""
    return _form_of(block).adds_input


def _form_of(block: nn.Module) -> _Form:
    if isinstance(block, SEBlock):
        return _Form(block.in_channels, 1)
    if isinstance(block, MadeBlock):
        return _Form(block.channels, 1)
    if isinstance(block, InlineSE):
        return _Form(block.channels, block.channel_dim)
    form = _form(block)
    if form is None:
        raise InputTypeError(f"{type(block).__name__} is not an SE block: `senet.blocks` lists those of a network")
    return form


def _form(module: nn.Module) -> _Form | None:
    look = _look_of(module)
    known = _known.get(module)
    if known is None or known[0] != look:
        known = _known[module] = look, _try(module) if _may_be_se(module) else None
    return known[1]


# A lazy layer gets its sizes in its first run, and a pruning tool cuts the layers of blocks that are known.
def _look_of(module: nn.Module) -> tuple[Any, ...]:
    """The class and the layers' sizes of a module; what is known of it holds while they are the same."""
    return (type(module), *map(_widths, _layers(module)))


def _learn(flow: Dataflow) -> dict[str, nn.Module]:
    """Remember the blocks that a run showed, and return handles for SE without a module of its own."""
    inline: dict[str, nn.Module] = {}
    for found in channel_gates(flow):
        call, adds = rescaling_call(flow, found)
        shape = flow.values[found.product].shape
        dim = -1 if found.channel_dim == len(shape) - 1 else found.channel_dim
        if call is not None:
            if not isinstance(call.module, SEBlock | MadeBlock):
                _known[call.module] = _look_of(call.module), _Form(found.channels, dim, adds)
            continue
        around = flow.made_in[found.product]
        where = around.name if around else ""
        makers = [flow.made_in[index] for index in found.layers]
        layers = {call.name: call.module for call in makers if call is not None and call is not around}
        name, count = where, 1
        while name in inline:
            count += 1
            name = f"{where}#{count}"
        inline[name] = InlineSE(where, layers, found.channels, dim, math.prod(shape))
    return inline


def _layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, _LAYERS)]


def _widths(layer: Any) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def _is_over_channels(layer: Any) -> bool:
    """Whether a convolution slides over the channels of a squeezed map, as ECA's does."""
    return isinstance(layer, nn.Conv1d) and _widths(layer) == (1, 1)


def _may_be_se(module: nn.Module) -> bool:
    """Whether a trial is worthwhile: few layers, none spatial, that map C channels to C and never to more.

    Without the last condition, every MLP of a transformer would be copied and run.
    """
    if iterates_its_children(module) or isinstance(module, torch.jit.ScriptModule):
        return False
    inner, layers = list(module.modules()), _layers(module)
    if len(inner) > _MOST_MODULES or not 1 <= len(layers) <= _MOST_LAYERS or isinstance(module, _LAYERS):
        return False
    if any(isinstance(each, SEBlock | MadeBlock | InlineSE | nn.MultiheadAttention) for each in inner):
        return False
    if len(layers) == 1 and _is_over_channels(layers[0]):
        return True
    ins, outs = zip(*map(_widths, layers), strict=True)
    pointwise = all(k == 1 for layer in layers for k in getattr(layer, "kernel_size", ()))
    return pointwise and 1 < ins[0] == outs[-1] == max(*ins, *outs)


def _try(module: nn.Module) -> _Form | None:
    """Run a copy of the module in eval mode on small maps, in each layout that its layers may take."""
    layers = _layers(module)
    channels = None if _is_over_channels(layers[0]) else max(max(_widths(layer)) for layer in layers)
    try:
        trial = set_training(copy.deepcopy(module), False)
    except Exception:  # a module that cannot be copied is not tried; a run of the network may still show it
        return None
    for each in trial.modules():
        each._forward_hooks.clear()
        each._forward_pre_hooks.clear()
    weight = layers[0].weight
    for shape in _shapes(layers[0], channels or 16):
        x = noise(*shape, draw=torch.rand).to(weight.device, weight.dtype)
        try:
            with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
                flow = record(trial, x)
        except InsertionError:  # it does not take this layout
            continue
        for found in channel_gates(flow):
            call, adds = rescaling_call(flow, found)
            if call is not None and call.module is trial:
                return _Form(channels, 1 if found.channel_dim == 1 else -1, adds)
    return None


def _shapes(layer: Any, channels: int) -> Iterator[tuple[int, ...]]:
    """Shapes of small maps with no side equal to C."""
    space = [n for n in (3, 5, 7, 2) if n != channels]
    fixed = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
    kind = next((dims for cls, dims in fixed.items() if isinstance(layer, cls) and not _is_over_channels(layer)), None)
    for dims in (2, 1, 3) if kind is None else (kind,):
        yield 2, channels, *space[:dims]
    if kind in (None, 2):
        yield 2, *space[:2], channels
        yield 2, space[0], channels


_PRODUCTS = frozenset("mul mul_ __mul__ __rmul__ __imul__ multiply multiply_ addcmul addcmul_".split())


class _ProductWith(TorchFunctionMode):
    """A mode that keeps, as `gate`, the last factor by which x or a map of its size is multiplied."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.gate: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _PRODUCTS:
            tensors = [each for each in args if isinstance(each, Tensor)][-2:]
            for u, factor in (tensors, tensors[::-1]) if len(tensors) == 2 else ():
                if self._is_map(u) and not self._is_map(factor):
                    self.gate = self._of_channels(factor)
                    break
        return func(*args, **(kwargs or {}))

    def _is_map(self, tensor: Tensor) -> bool:
        # On a 1×1 map the gate has the map's size, so only x itself or a view of it counts as the
        # map.
        if tensor.untyped_storage()._cdata == self.x.untyped_storage()._cdata:
            return True
        one_position = self.x.numel() == self.x.shape[0] * max(self.x.shape[1], self.x.shape[-1])
        return not one_position and tensor.numel() == self.x.numel() and 0 not in tensor.stride()

    def _of_channels(self, factor: Tensor) -> Tensor:
        for dim, stride in enumerate(factor.stride()):
            if stride == 0 and dim > 0:  # spread over the map by expand_as
                factor = factor.narrow(dim, 0, 1)
        return factor
