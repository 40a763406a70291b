"""Residual units whose addition and ReLU are fused with the normalisation and SE of their branch.

A unit runs here only if its class's code is exactly known: the branch's layers, then the shortcut,
the addition and the activation. Any other unit runs its own forward, and so does a unit with hooks.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import itertools
import logging
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from senet.block import SEBlock
from senet.fused.conditions import can_fuse, hooked, is_being_traced
from senet.fused.evaluated import normalise_then_excite
from senet.fused.joined import use_of
from senet.fused.norm import normalise_and_excite
from senet.fused.normalisations import normalises
from senet.fused.switch import fusing

__all__ = ["KnownUnit", "code_digest", "is_row", "known_unit", "rescaled", "runs", "unit_of"]

log = logging.getLogger("senet")


def rescaled(
    norm: nn.Module,
    kind: type[nn.Module],
    block: nn.Module,
    v: Tensor,
    other: Tensor | None = None,
    *,
    relu: bool = False,
    rectified: bool = False,
) -> Tensor | None:
    """Normalisation and SE of v together, in training or in inference; None, without any effect, if not possible.

    The other arguments are those of `normalise_and_excite`.
    """
    if not norm.training:
        return normalise_then_excite(norm, kind, block, v, other, relu=relu, rectified=rectified)
    if not can_fuse(norm, block, v) or not isinstance(block, SEBlock):
        return None
    return normalise_and_excite(norm, kind, block, v, other, relu=relu, rectified=rectified)


def _finished(norm: Any, v: Tensor, shortcut: Tensor, relu: nn.Module | None, *, in_place: bool) -> Tensor:
    """relu(SE(norm(v)) + shortcut), fused if possible; else with the class's own addition, in place or not."""
    use = use_of(type(norm))
    if use is not None and use.is_normalisation and _adds(v, shortcut) and not hooked(norm) and _rectifies(relu):
        result = rescaled(norm, use.base, getattr(norm, use.child), v, shortcut, relu=relu is not None)
        if result is not None:
            return result
    u: Tensor = norm(v)
    u = u.add_(shortcut) if in_place else u + shortcut
    return u if relu is None else relu(u)


def _adds(v: Tensor, shortcut: Tensor) -> bool:
    """Whether the sum has v's shape, dtype and device. Its strides may differ, which `pointers` handles."""
    alike = ("shape", "dtype", "device", "layout")
    return type(shortcut) is Tensor and all(getattr(v, each) == getattr(shortcut, each) for each in alike)


def _rectifies(relu: nn.Module | None) -> bool:
    return relu is None or (type(relu) is nn.ReLU and not hooked(relu))


def _cifar_basic(unit: Any, x: Tensor) -> Tensor:
    v = unit.conv2(unit.relu(unit.bn1(unit.conv1(x))))
    return _finished(unit.bn2, v, unit.shortcut(x), unit.relu, in_place=False)


def _torchvision_basic(unit: Any, x: Tensor) -> Tensor:
    v = unit.conv2(unit.relu(unit.bn1(unit.conv1(x))))
    return _finished(unit.bn2, v, x if unit.downsample is None else unit.downsample(x), unit.relu, in_place=True)


def _torchvision_bottleneck(unit: Any, x: Tensor) -> Tensor:
    u = unit.relu(unit.bn1(unit.conv1(x)))
    v = unit.conv3(unit.relu(unit.bn2(unit.conv2(u))))
    return _finished(unit.bn3, v, x if unit.downsample is None else unit.downsample(x), unit.relu, in_place=True)


def _torchvision_inverted(unit: Any, x: Tensor) -> Tensor:
    # A tool may have put a wrapper in the place of the sequence, as activation checkpointing does.
    if not unit.use_res_connect or not is_row(type(unit.conv)) or hooked(unit.conv):
        result: Tensor = x + unit.conv(x) if unit.use_res_connect else unit.conv(x)
        return result
    *layers, norm = unit.conv
    v = x
    for layer in layers:
        v = layer(v)
    return _finished(norm, v, x, None, in_place=False)


def _timm_basic(unit: Any, x: Tensor) -> Tensor:
    v = unit.aa(unit.act1(unit.drop_block(unit.bn1(unit.conv1(x)))))
    return _timm_finished(unit, unit.bn2, unit.conv2(v), x, unit.act2)


def _timm_bottleneck(unit: Any, x: Tensor) -> Tensor:
    v = unit.act1(unit.bn1(unit.conv1(x)))
    v = unit.aa(unit.act2(unit.drop_block(unit.bn2(unit.conv2(v)))))
    return _timm_finished(unit, unit.bn3, unit.conv3(v), x, unit.act3)


def _timm_finished(unit: Any, norm: nn.Module, v: Tensor, x: Tensor, act: nn.Module) -> Tensor:
    if unit.se is None and unit.drop_path is None:
        return _finished(norm, v, x if unit.downsample is None else unit.downsample(x), act, in_place=True)
    u = norm(v)
    u = u if unit.se is None else unit.se(u)
    u = u if unit.drop_path is None else unit.drop_path(u)
    result: Tensor = act(u.add_(x if unit.downsample is None else unit.downsample(x)))
    return result


def _sequence(unit: Any, x: Tensor) -> Tensor:
    """Run the modules of an nn.Sequential, a normalisation together with a ReLU that holds SE."""
    modules = list(unit)
    at = 0
    while at < len(modules):
        module, after = modules[at], modules[at + 1] if at + 1 < len(modules) else None
        rectified = _rectified(module, after, x) if after is not None else None
        x = module(x) if rectified is None else rectified
        at += 1 if rectified is None else 2
    return x


def _rectified(norm: nn.Module, relu: nn.Module, v: Tensor) -> Tensor | None:
    """Fused SE of the rectified normalisation of v, if SE is joined to the ReLU and fusion is possible, else None."""
    use = use_of(type(relu))
    if use is None or not use.is_relu or not normalises(type(norm)):
        return None
    if hooked(norm) or hooked(relu):
        return None
    return rescaled(norm, type(norm), getattr(relu, use.child), v, rectified=True)


def _joined(unit: Any) -> nn.Module:
    """A module that SE is joined to; the unit itself if there is none."""
    uses = ((module, use_of(type(module))) for module in unit)
    joined = (module for module, use in uses if use is not None and (use.is_relu or use.is_normalisation))
    found: nn.Module = next(joined, unit)
    return found


class KnownUnit(NamedTuple):
    """A known class of units: its branch's last normalisation, its fused forward, and a digest of its own code."""

    norm: Callable[[Any], nn.Module]
    unit: Callable[[Any, Tensor], Tensor]
    digest: str  # of the forward that `unit` reimplements; "" for our own classes


_UNITS: Mapping[tuple[str, str], KnownUnit] = {
    ("senet.zoo.networks.cifar_resnet", "BasicBlock"): KnownUnit(lambda u: u.bn2, _cifar_basic, ""),
    ("torchvision.models.resnet", "BasicBlock"): KnownUnit(lambda u: u.bn2, _torchvision_basic, "526c00339e0341fc"),
    ("torchvision.models.resnet", "Bottleneck"): KnownUnit(
        lambda u: u.bn3, _torchvision_bottleneck, "69ff145d4433fa78"
    ),
    ("torchvision.models.mobilenetv2", "InvertedResidual"): KnownUnit(
        lambda u: u.conv[-1] if is_row(type(u.conv)) else u, _torchvision_inverted, "fb610b91b9033880"
    ),
    ("timm.models.resnet", "BasicBlock"): KnownUnit(lambda u: u.bn2, _timm_basic, "24d1455c841b1658"),
    ("timm.models.resnet", "Bottleneck"): KnownUnit(lambda u: u.bn3, _timm_bottleneck, "45e56d6e40f2a252"),
}


_SEQUENCE = KnownUnit(_joined, _sequence, "")


def unit_of(model: nn.Module, name: str) -> nn.Module | None:
    """The unit that may run `name`, which holds SE, fused with its surroundings; None for most modules.

    It is a residual unit of a known class whose branch ends with the normalisation `name`, or an
    nn.Sequential in which the ReLU `name` follows a normalisation.
    """
    host = model.get_submodule(name)
    if type(host) is nn.ReLU:
        parent = model.get_submodule(name.rpartition(".")[0])
        modules = list(parent) if isinstance(parent, nn.Sequential) and known_unit(type(parent)) is _SEQUENCE else []
        pairs = itertools.pairwise(modules)
        return parent if any(after is host and normalises(type(module)) for module, after in pairs) else None
    if not normalises(type(host)):
        return None
    for _ in range(2):
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
        known = known_unit(type(module))
        if known is not None and known.norm(module) is host:
            return module
    return None


def known_unit(kind: type[nn.Module]) -> KnownUnit | None:
    """The KnownUnit of a class; None if its code is not the code that we reimplement."""
    known = _UNITS.get((kind.__module__, kind.__qualname__))
    if known is None and is_row(kind):
        return _SEQUENCE
    return known if known is not None and _is_as_known(kind.forward, known.digest) else None


def is_row(kind: type[nn.Module]) -> bool:
    """Whether modules of this class do nothing but call their children in a row."""
    row = nn.Sequential
    return issubclass(kind, row) and kind.forward is row.forward and kind.__call__ is row.__call__


@functools.cache
def _is_as_known(forward: Callable[..., Any], digest: str) -> bool:
    """Whether a unit's forward is the one that we reimplement; a mismatch is logged once."""
    known = code_digest(forward) == digest if digest else forward.__module__.startswith("senet.")
    known = known and not hasattr(forward, "__wrapped__")  # a wrapper shows the source of what it wraps
    if not known and not forward.__module__.startswith("senet."):  # our own subclasses are not logged
        log.info(
            "%s.%s is not the code that senet knows: its addition and ReLU run as they are, right but slower",
            *(forward.__module__, forward.__qualname__),
        )
    return known


def code_digest(function: Callable[..., Any]) -> str:
    """A digest of a function's code without layout, comments and annotations; "" without source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    body = tree.body[0].body if isinstance(tree.body[0], ast.FunctionDef) else []
    return hashlib.sha256("\n".join(map(ast.unparse, body)).encode()).hexdigest()[:16]


def runs(unit: nn.Module, x: object) -> bool:
    """Whether `unit` may now run here instead of its class's forward."""
    worth = unit.training or not torch.is_grad_enabled()
    return worth and type(x) is Tensor and fusing() and not is_being_traced()
