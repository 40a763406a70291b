"""`forward` of a module with SE: assigned forwards go onto a stack, and SE is applied once, outermost."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import nn

__all__ = ["FORWARDS", "ORIGINS", "WRAPPED", "Forward", "Origin", "Running", "running"]

FORWARDS = "_senet_forwards"  # in the __dict__ of a joined module: the forwards assigned to it, oldest first
ORIGINS = "_senet_origins"  # the module that each forward was assigned to; this module may be a copy of it
WRAPPED = "_senet_wrapped"  # in the __dict__ of a joined module: a forward was once assigned to it


class Origin:
    """A weak reference to a module that copying keeps and pickling drops."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._refer = None if module is None else weakref.ref(module)

    def module(self) -> nn.Module | None:
        """The module, if it still exists."""
        return None if self._refer is None else self._refer()

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Origin, ()


class Running(threading.local):
    """The state of the forward passes in this thread.

    Attributes:
        host: the module whose assigned forward runs, at `depth` below the top of its stack.
        origin: the module that this forward was assigned to, if `host` is a copy of it.
        blocks: the shared keys of the SE blocks with two hosts that are being applied.
    """

    host: nn.Module | None = None
    depth: int = 0
    origin: nn.Module | None = None
    blocks: tuple[Any, ...] = ()


running = Running()


# Other libraries assign `forward` on an instance: ultralytics' `fuse` a forward without
# normalisation, accelerate a wrapper around the existing one. A plain attribute would bypass SE.
# The getter returns a stored attribute because Dynamo refuses a method that is created on access.
class Forward(property):
    """`forward` of a joined class: it runs the assigned forwards and applies SE once, outermost."""

    def __init__(self, own: Any) -> None:
        super().__init__(lambda module: module._senet_forward, self._assign, self._restore)
        self.own = own

    def __get__(self, module: Any, kind: Any = None) -> Any:
        return self.own if module is None else module._senet_forward

    @staticmethod
    def _assign(module: nn.Module, forward: Any) -> None:
        stack, origins = module.__dict__.pop(FORWARDS, ()), module.__dict__.pop(ORIGINS, ())
        module.__dict__[WRAPPED] = True
        # A tool that removes its wrapper assigns the forward that it found, on this module or on
        # the one it was copied from.
        owner = getattr(forward, "__self__", None)
        known = owner is module or any(origin.module() is owner for origin in origins)
        if known and owner is not None and forward == getattr(owner, "_senet_forward", None):
            stack, origins = stack[:-1], origins[:-1]
        else:
            stack, origins = (*stack, forward), (*origins, Origin(module))
        if stack:
            module.__dict__[FORWARDS], module.__dict__[ORIGINS] = stack, origins

    @staticmethod
    def _restore(module: nn.Module) -> None:
        if FORWARDS not in module.__dict__:
            raise AttributeError("forward")
        module.__dict__.pop(ORIGINS, None)
        del module.__dict__[FORWARDS]
