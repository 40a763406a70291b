"""Private names of torch on which the fused pass depends.

They show whether something observes the operations, in which case nothing is fused. A torch without
one of them must not stop a training: then nothing is fused, and the log says so once. No other file
of `fused` uses a private name of torch.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as every_module

from senet.block.block import _HOOKS

__all__ = ["NAMES", "available", "hooks_of", "is_batched", "is_being_traced", "tensors_of", "version"]

_CALLS = ("_call_impl", "_compiled_call_impl")  # of one instance; a torch without them has nothing there
_GLOBAL_HOOKS = tuple(f"_global{hooks}" for hooks in _HOOKS)

NAMES: Mapping[str, tuple[str, ...]] = {  # by owner; for a class, attributes of its instances
    "_C": ("_is_tracing", "_len_torch_dispatch_stack"),
    "_C._functorch": ("maybe_current_level",),
    "autograd.forward_ad": ("_current_level",),
    "nn.modules.module": _GLOBAL_HOOKS,
    "nn.Module": (*_HOOKS, "_parameters", "_buffers"),
    "Tensor": ("_version",),
    "overrides": ("_get_current_function_mode_stack",),
    "ops.aten": ("sigmoid_backward", "hardsigmoid_backward", "tanh_backward", "threshold_backward"),
}

log = logging.getLogger("senet")


@functools.cache
def available() -> bool:
    """Whether this torch has all of `NAMES`; missing names are logged once."""
    missing = [f"torch.{owner}.{name}" for owner, names in NAMES.items() for name in names if not _has(owner, name)]
    if missing:
        log.warning(
            "torch %s has no %s: normalisation and SE run one after the other, which is as right but slower",
            *(torch.__version__, ", ".join(missing)),
        )
    return not missing


def _has(owner: str, name: str) -> bool:
    try:
        found: Any = functools.reduce(getattr, owner.split("."), torch)
        return hasattr(found() if isinstance(found, type) else found, name)
    except AttributeError:
        return False


def is_being_traced() -> bool:
    """Whether something observes single operations or every module; also True if that is unknown.

    A compiler, a tracer, a mode, a function transform and a global hook must see the unfused
    equations.
    """
    return bool(
        torch.compiler.is_compiling()
        or not available()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or any(map(_watches, torch.overrides._get_current_function_mode_stack()))  # type: ignore[no-untyped-call]
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or any(getattr(every_module, hooks) for hooks in _GLOBAL_HOOKS)
    )


def _watches(mode: object) -> bool:
    """Whether a mode may keep the functions' results; a default device, which is a mode too, does not."""
    return type(mode).__module__ != "torch.utils._device"


def is_batched(x: Tensor) -> bool:
    """Whether `x` stands for a batch that is being vectorised, as a gradient does in a vectorised Jacobian."""
    asked = (getattr(torch._C._functorch, name, None) for name in ("is_batchedtensor", "is_legacy_batchedtensor"))
    return any(ask is not None and ask(x) for ask in asked)


def hooks_of(module: nn.Module) -> Iterator[object]:
    """The module's forward and backward hooks, and what is called in place of it, as after `compile`."""
    for hooks in _HOOKS:
        yield from (getattr(module, hooks) or {}).values()
    yield from (call for name in _CALLS if (call := module.__dict__.get(name)) is not None)


def tensors_of(module: nn.Module) -> Iterator[Tensor | None]:
    """The module's own parameters and buffers, without the slower public iterators, which recurse."""
    yield from module._parameters.values()
    yield from module._buffers.values()


def version(x: Tensor) -> int | None:
    """The number of in-place writes to x; None if x was made in inference mode, where they are not counted."""
    return None if x.is_inference() else x._version
