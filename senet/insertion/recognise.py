"""SE blocks that other libraries and articles built, seen through one interface, without importing any of them.

A block is recognised by its layers, and then by what it does: on a random map it must return x · gate(x), the
gate being computed from the map's averages by those layers. So what is only named like SE is not taken for it.
"""

from __future__ import annotations

import copy
import dataclasses
import weakref

import torch
from torch import Tensor, nn

from senet.block import SEBlock
from senet.errors import InputTypeError

__all__ = ["adds_input", "blocks", "channel_dim_of", "channels_of", "gate", "is_se"]


@dataclasses.dataclass(frozen=True)
class _Form:
    """One way of writing SE: the children that make the gate in order, the child that squeezes, and the layout."""

    layers: tuple[str, ...]
    pool: str = ""
    residual: str = ""  # an attribute that, where true, adds the input to the output
    channels_last: bool = False


_FORMS = (
    _Form(("fc1", "bn", "act", "fc2", "gate")),  # timm's SEModule
    _Form(("fc1", "relu", "fc2", "sigmoid")),  # timm's first SENets, pretrained-models.pytorch
    _Form(("fc1", "relu", "fc2", "sigmoid"), "avg_pool"),
    _Form(("conv_reduce", "act1", "conv_expand", "gate")),  # timm's SqueezeExcite of the EfficientNets
    _Form(("fc1", "act", "fc2", "gate"), channels_last=True),  # timm's SqueezeExciteCl
    _Form(("fc", "gate")),  # timm's EffectiveSEModule: one layer
    _Form(("conv", "sigmoid")),  # the same in timm's HGNet
    _Form(("fc1", "activation", "fc2", "scale_activation"), "avgpool"),  # torchvision's SqueezeExcitation
    _Form(("fc",), "avg_pool", residual="add_residual"),  # moskomule's SELayer, MONAI's ChannelSELayer
    _Form(("excitation",), "squeeze"),  # the article's block
)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_known: weakref.WeakKeyDictionary[nn.Module, _Form | None] = weakref.WeakKeyDictionary()


def is_se(module: nn.Module) -> bool:
    """Whether `module` is an SE block: ours, timm's, torchvision's, MONAI's, moskomule's or the article's."""
    return isinstance(module, SEBlock) or _form(module) is not None


def gate(block: nn.Module, x: Tensor) -> Tensor:
    """The channel weights that an SE block of any known kind gives to `x` (equation 3 of the paper).

    Shapes: (N, C, *space) -> (N, C, 1, ...), or what `SEBlock.gate` gives for its other inputs; for a block that
    works on (N, *space, C), (N, 1, ..., C).

    Raises:
        TypeError: where `block` is no SE block that is known here.
    """
    if isinstance(block, SEBlock):
        return block.gate(x)
    form = _form(block)
    if form is None:
        raise InputTypeError(f"{type(block).__name__} is no SE block that senet knows; `senet.blocks` lists those")
    return _gate(block, form, x)


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Every SE block in `model`, whoever built it, by name and in the order of its modules; a shared block once."""
    return {name: module for name, module in model.named_modules() if is_se(module)}


def channels_of(block: nn.Module) -> int:
    """C, the channels that an SE block rescales."""
    first = _first_layer(block)
    return int(first.in_features if isinstance(first, nn.Linear) else first.in_channels)


def channel_dim_of(block: nn.Module) -> int:
    """The dimension of an SE block's input that counts the channels: 1, or -1 for a block on (N, *space, C)."""
    form = None if isinstance(block, SEBlock) else _form(block)
    return -1 if form is not None and form.channels_last else 1


def adds_input(block: nn.Module) -> bool:
    """Whether a block returns x · gate(x) + x, as MONAI's residual one does, and not x · gate(x)."""
    form = None if isinstance(block, SEBlock) else _form(block)
    return form is not None and bool(form.residual) and bool(getattr(block, form.residual, False))


def _first_layer(block: nn.Module) -> nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear:
    return next(module for module in block.modules() if isinstance(module, _LAYERS))


def _form(module: nn.Module) -> _Form | None:
    if module in _known:
        return _known[module]
    children = {name for name, _ in module.named_children()}
    for form in _FORMS:
        if children == {*form.layers, form.pool} - {""} and _does_what_it_says(module, form):
            _known[module] = form
            return form
    _known[module] = None
    return None


def _gate(block: nn.Module, form: _Form, x: Tensor) -> Tensor:
    space = list(range(1, x.dim() - 1)) if form.channels_last else list(range(2, x.dim()))
    z = x.mean(space, keepdim=True)
    if getattr(block, "add_maxpool", False):
        z = 0.5 * z + 0.5 * x.amax(space, keepdim=True)
    kept = z.shape
    if isinstance(_first_layer(block), nn.Linear) and not form.channels_last:
        z = z.flatten(1)
    for name in form.layers:
        z = block.get_submodule(name)(z)
    return z.reshape(kept)


def _does_what_it_says(module: nn.Module, form: _Form) -> bool:
    """Try it: small, in eval mode, on a copy, with a generator of our own."""
    layers = [layer for layer in module.modules() if isinstance(layer, _LAYERS)]
    if not layers:
        return False
    first, last = layers[0], layers[-1]
    if not isinstance(first, nn.Linear) and any(k != 1 for layer in layers for k in getattr(layer, "kernel_size", ())):
        return False
    channels = channels_of(module)
    if channels != (last.out_features if isinstance(last, nn.Linear) else last.out_channels):
        return False
    if first.weight.is_meta:
        return True  # nothing to try it with
    dims = _dims(module, first, form)
    shape = (2, *(3,) * dims, channels) if form.channels_last else (2, channels, *(3,) * dims)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(first.weight)
    try:
        trial = copy.deepcopy(module).eval()
        with torch.no_grad():
            expected = x * _gate(trial, form, x)
            if form.residual and getattr(module, form.residual, False):
                expected = expected + x
            given = trial(x)
    except Exception:  # whatever it is, it is not SE of this form
        return False
    tolerance = 4 * torch.finfo(x.dtype).eps
    return isinstance(given, Tensor) and torch.allclose(given, expected, rtol=tolerance, atol=tolerance)


def _dims(module: nn.Module, first: nn.Module, form: _Form) -> int:
    pool = type(getattr(module, form.pool, None)).__name__ if form.pool else ""
    if isinstance(first, nn.Conv1d) or pool == "AdaptiveAvgPool1d":
        return 1
    return 3 if isinstance(first, nn.Conv3d) or pool == "AdaptiveAvgPool3d" else 2
