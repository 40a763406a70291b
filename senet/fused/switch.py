"""Switches: fuse or not, small tensors too, and who is told of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = [
    "fuse_any_size",
    "fusing",
    "needs_module_call",
    "report",
    "straightforward",
    "unfused",
    "unobtrusive",
    "watching",
]

Watcher = Callable[[nn.Module, Sequence[Tensor]], None]
_Hook = TypeVar("_Hook", bound=Callable[..., Any])
_UNOBTRUSIVE = "_senet_unobtrusive"

_WORTH = 1 << 17  # elements on a CPU, below which calling a joint pass takes longer than it saves

_fusing: ContextVar[bool] = ContextVar("senet_fusing", default=True)
_any_size: ContextVar[bool] = ContextVar("senet_any_size", default=False)
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("senet_watchers", default=())


def fusing(v: Tensor | None = None) -> bool:
    """Whether passes may be fused here; over `v`, if given, since a small one would take longer."""
    pays = v is None or v.device.type != "cpu" or v.numel() >= _WORTH or _any_size.get()
    return pays and _fusing.get()


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """Within it SE runs after its normalisation, as equations 2 to 4 stand.

    Compare with it, or measure against it. Results are the same but for rounding. It holds for this
    thread (or task) only.
    """
    token = _fusing.set(False)
    try:
        yield
    finally:
        _fusing.reset(token)


straightforward = unfused  # its public name, `senet.fast.straightforward`


@contextlib.contextmanager
def fuse_any_size() -> Iterator[None]:
    """Within it small tensors are fused too, as for tests, or where a small example stands for a large one."""
    token = _any_size.set(True)
    try:
        yield
    finally:
        _any_size.reset(token)


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Within it `watcher(block, kept)` is called for each SE block that runs in its normalisation's pass.

    Args:
        watcher: takes the block, and the tensors that are kept for the backward pass because of it alone.
    """
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


def report(block: nn.Module, kept: Sequence[Tensor]) -> None:
    """Tell the watchers that `block` ran in its normalisation's pass."""
    for watcher in _watchers.get():
        watcher(block, kept)


def unobtrusive(hook: _Hook) -> _Hook:
    """Mark a hook whose owner is also a watcher: it does not keep passes apart."""
    setattr(hook, _UNOBTRUSIVE, True)
    return hook


def needs_module_call(hook: object) -> bool:
    """Whether a hook needs its module to be called, which a fused pass does not do."""
    return not getattr(hook, _UNOBTRUSIVE, False)
