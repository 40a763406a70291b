"""Switches for fusion: off, also for small tensors, and watchers of fused blocks."""

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
    "notify",
    "straightforward",
    "unfused",
    "unobtrusive",
    "watching",
]

Watcher = Callable[[nn.Module, Sequence[Tensor]], None]
_Hook = TypeVar("_Hook", bound=Callable[..., Any])
_UNOBTRUSIVE = "_senet_unobtrusive"

_WORTH = 1 << 17  # elements on a CPU below which a fused pass takes longer than it saves

_fusing: ContextVar[bool] = ContextVar("senet_fusing", default=True)
_any_size: ContextVar[bool] = ContextVar("senet_any_size", default=False)
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("senet_watchers", default=())


def fusing(v: Tensor | None = None) -> bool:
    """Whether fusion is on; with `v`, also whether it is large enough to gain."""
    pays = v is None or v.device.type != "cpu" or v.numel() >= _WORTH or _any_size.get()
    return pays and _fusing.get()


@contextlib.contextmanager
def unfused() -> Iterator[None]:
    """A context in which SE runs unfused after its normalisation, as in equations 2 to 4.

    It serves comparisons and measurements. Results are the same up to rounding. It applies only to
    this thread (or task).
    """
    token = _fusing.set(False)
    try:
        yield
    finally:
        _fusing.reset(token)


straightforward = unfused  # its public name, `senet.fast.straightforward`


@contextlib.contextmanager
def fuse_any_size() -> Iterator[None]:
    """A context in which small tensors are fused too, for tests or if a small example stands for a large one."""
    token = _any_size.set(True)
    try:
        yield
    finally:
        _any_size.reset(token)


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """A context that calls `watcher(block, kept)` for each SE block that runs fused with its normalisation.

    Args:
        watcher: a function of the block and the tensors that are kept for the backward pass only because of it.
    """
    token = _watchers.set((*_watchers.get(), watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


def notify(block: nn.Module, kept: Sequence[Tensor]) -> None:
    """Tell the watchers that `block` ran fused with its normalisation."""
    for watcher in _watchers.get():
        watcher(block, kept)


def unobtrusive(hook: _Hook) -> _Hook:
    """Mark a hook whose owner is also a watcher, so that it does not prevent fusion."""
    setattr(hook, _UNOBTRUSIVE, True)
    return hook


def needs_module_call(hook: object) -> bool:
    """Whether a hook needs its module to be called, and so prevents fusion."""
    return not getattr(hook, _UNOBTRUSIVE, False)
