"""Describe networks module by module, so that `save` recognises one that was changed after `create`.

A saved file has the network's name and options. For a network whose stride, activation or pooling
was changed by hand, these are wrong: every tensor would fit, but `load` would return another
network.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from senet.fused.joined import use_of
from senet.fused.normalisations import OverProcesses
from senet.insertion.joining.attach import attachment
from senet.insertion.joining.constant import KINDS
from senet.insertion.staying.forwards import FORWARDS
from senet.insertion.staying.wrapped import outside

__all__ = ["Structure", "alike", "changes", "described", "difference", "structure_of"]

Structure = Mapping[str, str]
"""Descriptions by module name: class, hyperparameters, shapes and, in a Sequential, the order."""

_LIBRARIES = frozenset({"torch", "torchvision", "timm", "senet"})
_UNSAID = frozenset(
    {
        *("training", "inplace", "grad_checkpointing", "fused_attn"),  # do not change outputs, or set by every tool
        *("pretrained_cfg", "default_cfg", "process_group"),
    }
)
# What a run writes into a module of a library, by its class: no hyperparameter, though it looks like one.
_WORKING = {"MultiScaleRoIAlign": ("scales", "map_levels")}
_SYNCHRONISED = {"SyncBatchNormAct": "BatchNormAct2d"}  # as timm has them
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_PRUNED = tuple(KINDS.values())


def structure_of(model: nn.Module) -> dict[str, str]:
    """The structure of `model` without inserted and pruned SE, independent of values and device."""
    left_out: set[str] = set()
    found: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        at = attachment(module)
        if at is not None:
            left_out.add(prefix + at.child)
        if name in left_out or name.rpartition(".")[0] in left_out:
            left_out.add(name)
        else:
            ties = _ties(module, outside(prefix), first)
            found[outside(name)] = described(module, ties)  # what is in a wrapper comes after it, and stays
    return found


def _ties(module: nn.Module, prefix: str, first: dict[int, str]) -> list[str]:
    """The module's parameters that are tied to another's, which `first` has under another name."""
    ties = []
    for name, parameter in module._parameters.items():
        if parameter is not None and (other := first.setdefault(id(parameter), prefix + name)) != prefix + name:
            ties.append(f"{name} is {other}")
    return ties


def changes(model: nn.Module, made: Structure) -> dict[str, tuple[str, str]]:
    """The differences of `model` from `made`: each changed module before and after, "" for none."""
    now = structure_of(model)
    pruned = tuple(outside(name) for name, module in model.named_modules() if type(module) in _PRUNED)
    beneath = tuple(f"{name}." for name in pruned)
    return {
        name: (made.get(name, ""), now.get(name, ""))
        for name in {**made, **now}
        if not _same(made.get(name), now.get(name)) and name not in pruned and not name.startswith(beneath)
    }


def alike(was: str, now: str) -> bool:
    """Whether two descriptions are equal, also where one is of a version that described what a run writes."""
    return was == now or _parts(was) == _parts(now)


def _same(was: str | None, now: str | None) -> bool:
    """Whether two descriptions agree, ignoring added attributes (`model.epoch = 3`)."""
    if was is None or now is None or was == now:
        return was == now
    (kind, before), (other, after) = _parts(was), _parts(now)
    said = {"forward", *(part.partition("=")[0] for part in before)}
    rest = [part for part in after if "=" not in part or part.partition("=")[0] in said]
    return kind == other and before == rest


def _parts(description: str) -> tuple[str, list[str]]:
    kind, _, text = description.partition("(")
    parts = [part for part in text.removesuffix(")").split("; ") if part]
    return kind, [part for part in parts if part.partition("=")[0] not in _WORKING.get(kind, ())]


def described(module: nn.Module, ties: Sequence[str] = ()) -> str:
    """One line for a module: its class, hyperparameters, shapes, ties, hooks, and a replaced forward."""
    kind = type(module)
    while (use := use_of(kind)) is not None:
        kind = use.base
    normalises = kind in _NORMS or issubclass(kind, OverProcesses)
    parts = [f"{name}={text}" for name, value in sorted(vars(module).items()) if (text := _said(kind, name, value))]
    parts += [f"{name}: {shape}" for name, shape in _shapes(module)]
    if isinstance(module, nn.Sequential):
        at = attachment(module)
        parts.append(" → ".join(name for name in module._modules if at is None or name != at.child))
    parts += ties
    if hooks := _hooks(module):
        parts.append(f"hooks: {', '.join(hooks)}")
    if forward := _foreign(module, kind):
        parts.append(f"forward={forward}")
    name = "BatchNorm" if normalises else _SYNCHRONISED.get(kind.__qualname__, kind.__qualname__)
    return f"{name}({'; '.join(parts)})"


def difference(was: str, now: str) -> str:
    """The difference between two descriptions, in words; "" is a missing module."""
    if not was or not now:
        return f"it was {_short(was)} and is gone" if was else f"{_short(now)} is new"
    (kind, before), (other, after) = _parts(was), _parts(now)
    if kind != other:
        return f"it was {_short(was)} and is {_short(now)}"
    lost, won = ([part for part in one if part not in two] for one, two in ((before, after), (after, before)))
    return f"{kind} had {'; '.join(lost) or 'nothing'} and has {'; '.join(won) or 'it no more'}"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"


# A user's class may count its calls in an attribute, so only its constructor's arguments are
# hyperparameters. In the libraries' classes every plain attribute is one.
def _said(kind: type[nn.Module], name: str, value: object) -> str:
    if name.startswith("_") or name in _UNSAID or name == "forward" or name in _WORKING.get(kind.__qualname__, ()):
        return ""
    if kind.__module__.partition(".")[0] not in _LIBRARIES and name not in _arguments(cast(Any, kind)):
        return ""
    return _plain(value)


@functools.cache
def _arguments(kind: Any, /) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        return frozenset()


def _plain(value: object) -> str:
    """A hyperparameter as text; "" for other attributes, such as tensors."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)[:80].replace("; ", ";")
    if isinstance(value, list | tuple):
        return f"({', '.join(_plain(item) for item in value[:16])})"
    if isinstance(value, functools.partial):
        return f"{_plain(value.func)}{_plain(value.args)}{_plain([*value.keywords.items()])}"
    if callable(value) and not isinstance(value, nn.Module):
        name: str = getattr(value, "__qualname__", type(value).__qualname__)
        return name
    return ""


def _shapes(module: nn.Module) -> list[tuple[str, str]]:
    own: dict[str, Any] = {**module._parameters, **module._buffers}
    return [
        (name, "none" if value is None else "×".join(map(str, value.shape)))
        for name, value in own.items()
        if value is None or (isinstance(value, Tensor) and not nn.parameter.is_lazy(value))
    ]


# A hook may change a module's output, and no file holds it. Hooks of tools, which count or watch, are ignored.
def _hooks(module: nn.Module) -> list[str]:
    """The names of the user's forward hooks."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [name for hook in hooks if not _of_a_tool(hook) and (name := _plain(hook))]


def _of_a_tool(hook: Any) -> bool:
    inner = inspect.unwrap(getattr(hook, "func", hook))
    inner = getattr(inner, "__func__", inner)
    file = str(getattr(getattr(inner, "__code__", None), "co_filename", ""))
    root = str(getattr(inner, "__module__", "")).partition(".")[0]
    return root in _LIBRARIES or "site-packages" in file or "dist-packages" in file


# accelerate and torch.autocast wrap the existing forward and set `__wrapped__`; the function is the same.
def _foreign(module: nn.Module, kind: type[nn.Module]) -> str:
    """The name of a forward assigned to the instance; "" if it wraps the class's own."""
    forward = module.__dict__.get("forward", module.__dict__.get(FORWARDS, (None,))[-1])
    if forward is None:
        return ""
    inner = inspect.unwrap(forward)
    own = (kind.forward, getattr(type(module), "_senet_forward", None))
    return "" if getattr(inner, "__func__", inner) in own else _plain(inner)
