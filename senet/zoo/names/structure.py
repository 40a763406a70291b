"""What `create` made, module by module, so that `save` knows a network that was changed afterwards.

A saved file names the network and the options that build it again. That is wrong for a network whose stride, activation
or pooling was changed by hand: every tensor fits, and `load` would return another network.
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

__all__ = ["Structure", "changes", "described", "difference", "structure_of"]

Structure = Mapping[str, str]
"""Each module's class, hyper-parameters, shapes and, in a Sequential, order, by the module's name."""

_LIBRARIES = frozenset({"torch", "torchvision", "timm", "senet"})
_UNSAID = frozenset(
    {
        *("training", "inplace", "grad_checkpointing", "fused_attn"),  # change no output, or are set by every tool
        *("pretrained_cfg", "default_cfg", "process_group"),
    }
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_PRUNED = tuple(KINDS.values())


def structure_of(model: nn.Module) -> dict[str, str]:
    """The structure of `model` without its inserted and its pruned SE. Values do not matter, nor does the device."""
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
            ties = _ties(module, prefix, first)
            found[name] = described(module, ties)
    return found


def _ties(module: nn.Module, prefix: str, first: dict[int, str]) -> list[str]:
    """Which of a module's own parameters are another's too, which `first` had under another name."""
    ties = []
    for name, parameter in module._parameters.items():
        if parameter is not None and (other := first.setdefault(id(parameter), prefix + name)) != prefix + name:
            ties.append(f"{name} is {other}")
    return ties


def changes(model: nn.Module, made: Structure) -> dict[str, tuple[str, str]]:
    """Where `model` is no more what was `made`: for each module what it was and what it is, "" for none."""
    now = structure_of(model)
    pruned = tuple(name for name, module in model.named_modules() if type(module) in _PRUNED)
    beneath = tuple(f"{name}." for name in pruned)
    return {
        name: (made.get(name, ""), now.get(name, ""))
        for name in {**made, **now}
        if not _same(made.get(name), now.get(name)) and name not in pruned and not name.startswith(beneath)
    }


def _same(was: str | None, now: str | None) -> bool:
    """Whether two descriptions are of one module; an attribute that somebody added (`model.epoch = 3`) changes none."""
    if was is None or now is None or was == now:
        return was == now
    (kind, before), (other, after) = _parts(was), _parts(now)
    said = {"forward", *(part.partition("=")[0] for part in before)}
    rest = [part for part in after if "=" not in part or part.partition("=")[0] in said]
    return kind == other and before == rest


def _parts(description: str) -> tuple[str, list[str]]:
    kind, _, parts = description.partition("(")
    return kind, [part for part in parts.removesuffix(")").split("; ") if part]


def described(module: nn.Module, ties: Sequence[str] = ()) -> str:
    """One module in a line: its class, hyper-parameters, shapes, ties, hooks, and a forward put in place."""
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
    return f"{'BatchNorm' if normalises else kind.__qualname__}({'; '.join(parts)})"


def difference(was: str, now: str) -> str:
    """In words, how one description differs from another; "" is a module that is not there."""
    if not was or not now:
        return f"it was {_short(was)} and is gone" if was else f"{_short(now)} is new"
    (kind, before), (other, after) = _parts(was), _parts(now)
    if kind != other:
        return f"it was {_short(was)} and is {_short(now)}"
    lost, won = ([part for part in one if part not in two] for one, two in ((before, after), (after, before)))
    return f"{kind} had {'; '.join(lost) or 'nothing'} and has {'; '.join(won) or 'it no more'}"


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"


# A class of a person's own may count its calls in an attribute. What its constructor takes is a hyper-parameter; of
# the libraries' classes, whose attributes stay, every plain one is.
def _said(kind: type[nn.Module], name: str, value: object) -> str:
    if name.startswith("_") or name in _UNSAID or name == "forward":
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
    """A hyper-parameter as text; "" for what is none, such as a tensor."""
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


# A hook may change what a module returns, and no file holds it. Those of tools, which count or watch, come and go.
def _hooks(module: nn.Module) -> list[str]:
    """The names of a person's own forward hooks."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [name for hook in hooks if not _of_a_tool(hook) and (name := _plain(hook))]


def _of_a_tool(hook: Any) -> bool:
    inner = inspect.unwrap(getattr(hook, "func", hook))
    inner = getattr(inner, "__func__", inner)
    file = str(getattr(getattr(inner, "__code__", None), "co_filename", ""))
    root = str(getattr(inner, "__module__", "")).partition(".")[0]
    return root in _LIBRARIES or "site-packages" in file or "dist-packages" in file


# accelerate and torch.autocast wrap the forward that is there, and say so by `__wrapped__`: it computes the same.
def _foreign(module: nn.Module, kind: type[nn.Module]) -> str:
    """The name of a forward that was put on the instance, "" where it leads back to the class's own."""
    forward = module.__dict__.get("forward", module.__dict__.get(FORWARDS, (None,))[-1])
    if forward is None:
        return ""
    inner = inspect.unwrap(forward)
    own = (kind.forward, getattr(type(module), "_senet_forward", None))
    return "" if getattr(inner, "__func__", inner) in own else _plain(inner)
