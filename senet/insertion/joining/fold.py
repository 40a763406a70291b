"""Fold the identity start's constant into the preceding layer, and group parameters for an optimiser."""

from __future__ import annotations

import collections
import copy
import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from senet.block import SEBlock
from senet.block.made import MadeBlock
from senet.errors import InputError, InsertionError
from senet.insertion.joining.attach import Attachment, attached, base_of
from senet.insertion.staying.forwards import FORWARDS
from senet.insertion.staying.joined import FOLDED
from senet.running import check_module, copy_of, noise
from senet.words import listed

__all__ = ["check_unfoldable", "fold_start", "owns_its_weights", "parameter_groups", "ties", "unfold"]


@torch.no_grad()
def fold_start(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn the identity start's `scale` of 2 into 1 without changing the function: the textbook form.

    With g the gate without its scale k, k·g(u)·u = g'(u')·u' for u' = k·u and W1' = W1 / k. The
    preceding layer absorbs the factor in its weight and bias, and the first FC layer divides by it.
    This is exact if k is a power of two, as at the start. `remove` takes the factor out again, but
    a saved file does not know of it: of a network loaded from there, the weights keep k.

    Args:
        model: a network with inserted SE.
        inplace: change `model` itself, not a copy.

    Raises:
        InsertionError: SE is joined to modules that cannot absorb the factor (an activation, a
            frozen or parametrised layer, shared weights), its first layer is no plain one (pruned,
            quantised, with an adapter), or a learnt scale is not positive. All of them are named,
            and `model` is unchanged.
    """
    check_module(model)
    hosts = [
        (name, module, at, block)
        for name, module, at in attached(model)
        if isinstance(block := module.get_submodule(at.child), SEBlock) and block.scale != 1
    ]
    tied = ties(model)
    wrong = [  # of -u another position is the largest
        f"{name} ({type(module).__name__})"
        for name, module, at, block in hosts
        if not (block.scale > 0 and _takes_factor(module, at, tied) and _is_plain(block.fc1, tied))
    ]
    if wrong:
        raise InsertionError(
            f"scale cannot be folded into {listed(wrong, 8)}: it takes a positive scale, a convolution, linear or "
            f"affine normalisation layer of its own weights whose output SE rescales, and a plain first layer in the SE"
        )
    target = model if inplace else copy_of(model)
    for name, _, at, _ in hosts:
        module = target.get_submodule(name)
        block = module.get_submodule(at.child)
        assert isinstance(block, SEBlock)
        scale = block.scale.clone()
        for parameter in (module.weight, module.bias):
            if isinstance(parameter, torch.Tensor):
                parameter.mul_(scale.to(parameter.dtype))
        block.fc1.weight.div_(scale)
        block.scale.fill_(1)
        module.__dict__[FOLDED] = block.__dict__[FOLDED] = module.__dict__.get(FOLDED, 1.0) * float(scale)
    return target


def check_unfoldable(model: nn.Module) -> None:
    """Check that each factor of `fold_start` is still in the weights of its module.

    Raises:
        InsertionError: the module was exchanged since, or its weights are no longer its own.
    """
    tied = ties(model)
    wrong = [
        f"{name} ({base_of(module).__name__})"
        for name, module, at in attached(model)
        if (FOLDED in module.__dict__ or FOLDED in module.get_submodule(at.child).__dict__)
        and not (FOLDED in module.__dict__ and owns_its_weights(module, tied))
    ]
    if wrong:
        raise InsertionError(
            f"fold_start put the start's factor into weights that are no longer those of {listed(wrong, 8)}: remove "
            f"SE from the network as it was before fold_start"
        )


@torch.no_grad()
def unfold(model: nn.Module) -> None:
    """Take the factors of `fold_start` out of the weights again, for a network that loses its SE."""
    for _, module, _ in attached(model):
        factor = module.__dict__.pop(FOLDED, 1.0)
        for parameter in (module.weight, module.bias) if factor != 1 else ():
            if isinstance(parameter, torch.Tensor):
                parameter.div_(factor)


def _takes_factor(module: nn.Module, at: Attachment, tied: Mapping[int, int]) -> bool:
    """Whether the output of a layer is proportional to its weight and bias, which are its own."""
    layers = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    if not isinstance(module, layers) or at.site.position != "output" or not owns_its_weights(module, tied):
        return False
    return base_of(module).__module__.startswith("torch.nn.") or _is_proportional(module, at.child)


def _is_plain(layer: nn.Module, tied: Mapping[int, int]) -> bool:
    """Whether dividing the weight of a linear layer divides what it computes: no adapter, no parametrisation."""
    return type(layer) is nn.Linear and owns_its_weights(layer, tied)


def ties(model: nn.Module) -> Mapping[int, int]:
    """How many modules hold each parameter, by its `id`."""
    return collections.Counter(id(p) for module in model.modules() for p in module._parameters.values())


def owns_its_weights(layer: Any, tied: Mapping[int, int]) -> bool:
    """Whether a layer's weight, and its bias if any, are its own parameters: not tied, made anew or kept elsewhere.

    An assigned forward may do anything with them.
    """
    if parametrize.is_parametrized(layer):  # asking for its weight would change the state of a spectral norm
        return False
    if not vars(layer).keys().isdisjoint(("forward", FORWARDS)):
        return False
    own = [layer.weight, *([] if layer.bias is None else [layer.bias])]
    return all(isinstance(each, nn.Parameter) and not each.is_meta and tied[id(each)] == 1 for each in own)


# timm's BatchNormAct2d holds an activation, and its StdConv2d standardises its weight.
def _is_proportional(module: Any, child: str) -> bool:
    """Whether twice the weight and bias give twice the output, in a subclass of a layer of PyTorch's."""
    layer = copy.deepcopy(module).eval()
    layer.__class__ = base_of(module)
    delattr(layer, child)
    channels = layer.weight.shape[0]
    if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        channels = getattr(layer, "in_channels", None) or layer.in_features
    for shape in ((2, channels), *((2, channels, *[16] * dims) for dims in (1, 2, 3)), (2, 16, 16, channels)):
        x = 100 * noise(*shape).to(layer.weight)
        try:
            once = layer.forward(x)
        except Exception:  # another number of dimensions
            continue
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.mul_(2)
        return torch.equal(layer.forward(x), 2 * once)
    return False


def parameter_groups(
    model: nn.Module,
    lr: float,
    se_lr: float | None = None,
    *,
    weight_decay: float = 0.0,
    se_weight_decay: float | None = None,
    decay_norms_and_biases: bool = True,
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser with separate settings for SE. Each trainable parameter appears once.

    Args:
        model: a network, with SE or without.
        lr: learning rate of all other parameters.
        se_lr: learning rate of senet's own blocks; None means the same. SE of another library has `lr`.
        weight_decay: weight decay of all other parameters.
        se_weight_decay: weight decay of the SE blocks; None means the same.
        decay_norms_and_biases: False exempts one-dimensional parameters from weight decay.

    Returns:
        Non-empty groups named "network" and "se", and on request "network, no decay" and "se, no
        decay".

    Raises:
        ValueError: a rate or decay is negative, infinite or not a number.
    """
    check_module(model)
    se_lr = lr if se_lr is None else se_lr
    se_weight_decay = weight_decay if se_weight_decay is None else se_weight_decay
    given = {"lr": lr, "se_lr": se_lr, "weight_decay": weight_decay, "se_weight_decay": se_weight_decay}
    for name, value in given.items():
        if not _is_rate(value):
            raise InputError(f"{name} is a number of at least 0, not {value!r}")
    in_se = {
        id(parameter)
        for block in model.modules()
        if isinstance(block, SEBlock | MadeBlock)
        for parameter in block.parameters()
    }
    groups: dict[str, dict[str, Any]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        se = id(parameter) in in_se
        plain = decay_norms_and_biases or parameter.dim() > 1
        name = ("se" if se else "network") + ("" if plain else ", no decay")
        decay = (se_weight_decay if se else weight_decay) if plain else 0.0
        group = {"name": name, "params": [], "lr": se_lr if se else lr, "weight_decay": decay}
        groups.setdefault(name, group)["params"].append(parameter)
    return list(groups.values())


def _is_rate(value: object) -> bool:
    single = isinstance(value, torch.Tensor) and value.numel() == 1
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return (single or number) and 0 <= float(value) < math.inf  # type: ignore[arg-type]
