"""`forward` of a module that holds SE: what other tools assign goes onto a stack, and SE is applied once, outermost."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from torch import nn

__all__ = ["FORWARDS", "ORIGINS", "WRAPPED", "Forward", "Origin", "Running", "running"]

FORWARDS = "_senet_forwards"  # in the __dict__ of a joined module, the forwards assigned to it, oldest first
ORIGINS = "_senet_origins"  # beside them, the module that each was assigned to, of which this may be a copy
WRAPPED = "_senet_wrapped"  # in the __dict__ of a joined module to which a forward was ever assigned


class Origin:
    """A module, which copies of what holds this refer to as well; a pickle forgets it."""

    def __init__(self, module: nn.Module | None = None) -> None:
        self._refer = None if module is None else weakref.ref(module)

    def module(self) -> nn.Module | None:
        """The module, if it lives."""
        return None if self._refer is None else self._refer()

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Origin, ()


class Running(threading.local):
    """What runs in this thread.

    Attributes:
        host: the module whose assigned forward runs, and `depth`, how far down its stack.
        origin: the module that this forward was assigned to, where `host` is a copy of it.
        blocks: of the SE blocks that are being applied and have two hosts, what their hosts share.
    """

    host: nn.Module | None = None
    depth: int = 0
    origin: nn.Module | None = None
    blocks: tuple[Any, ...] = ()


running = Running()


# Other libraries assign `forward` on an instance: ultralytics' `fuse` a forward without
# normalisation, accelerate a wrapper around the one that was there. A plain attribute would pass SE
# by. The getter returns a ready attribute, as Dynamo refuses a method that is made on the way.
class Forward(property):
    """`forward` of a joined class: the class's own, which runs what was assigned and applies SE once, outermost."""

    def __init__(self, own: Any) -> None:
        super().__init__(lambda module: module._senet_forward, self._assign, self._restore)
        self.own = own

    def __get__(self, module: Any, kind: Any = None) -> Any:
        return self.own if module is None else module._senet_forward

    @staticmethod
    def _assign(module: nn.Module, forward: Any) -> None:
        stack, origins = module.__dict__.pop(FORWARDS, ()), module.__dict__.pop(ORIGINS, ())
        module.__dict__[WRAPPED] = True
        # A tool that takes its wrapper off again assigns what it had found: here, or in the module
        # of which this is a copy.
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
