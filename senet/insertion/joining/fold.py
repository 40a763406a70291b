"""Fold the identity start's constant into the preceding layer, and group parameters for an optimiser."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from senet.block import SEBlock
from senet.block.made import MadeBlock
from senet.errors import InputError, InsertionError
from senet.insertion.joining.attach import attached

__all__ = ["fold_start", "parameter_groups"]


@torch.no_grad()
def fold_start(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """Turn the identity start's `scale` of 2 into 1 without changing the function: the textbook form.

    With g the gate without its scale k, k·g(u)·u = g'(u')·u' for u' = k·u and W1' = W1 / k. The
    preceding layer absorbs the factor in its weight and bias, and the first FC layer divides by it.
    This is exact because k is a power of two.

    Args:
        model: a network with inserted SE.
        inplace: change `model` itself, not a copy.

    Raises:
        InsertionError: SE is joined to modules that cannot absorb the factor (an activation, a
            frozen or parametrised layer). All of them are named, and `model` is unchanged.
    """
    hosts = [
        (name, module, at)
        for name, module, at in attached(model)
        if isinstance(block := module.get_submodule(at.child), SEBlock) and block.scale != 1
    ]
    wrong = [f"{name} ({type(module).__name__})" for name, module, at in hosts if not _takes_factor(module, at.site)]
    if wrong:
        raise InsertionError(
            f"scale cannot be folded into {', '.join(wrong[:8])}{', ...' if len(wrong) > 8 else ''}: it takes a "
            f"convolution, linear or affine normalisation layer whose output SE rescales"
        )
    target = model if inplace else copy.deepcopy(model)
    for name, _, at in hosts:
        module = target.get_submodule(name)
        block = module.get_submodule(at.child)
        assert isinstance(block, SEBlock)
        scale = block.scale.clone()
        for parameter in (module.weight, module.bias):
            if isinstance(parameter, torch.Tensor):
                parameter.mul_(scale.to(parameter.dtype))
        block.fc1.weight.div_(scale)
        block.scale.fill_(1)
    return target


def _takes_factor(module: nn.Module, site: Any) -> bool:
    layers = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    return (
        isinstance(module, layers)
        and site.position == "output"
        and isinstance(module.weight, nn.Parameter)
        and not parametrize.is_parametrized(module)
    )


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
        se_lr: learning rate of the SE blocks; None means the same.
        weight_decay: weight decay of all other parameters.
        se_weight_decay: weight decay of the SE blocks; None means the same.
        decay_norms_and_biases: False exempts one-dimensional parameters from weight decay.

    Returns:
        Non-empty groups named "network" and "se", and on request "network, no decay" and "se, no
        decay".

    Raises:
        ValueError: a rate or decay is negative or not a number.
    """
    se_lr = lr if se_lr is None else se_lr
    se_weight_decay = weight_decay if se_weight_decay is None else se_weight_decay
    for name, value in (("lr", lr), ("se_lr", se_lr), ("weight_decay", weight_decay)):
        if not value >= 0:
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
