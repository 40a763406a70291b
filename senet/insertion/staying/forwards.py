"""`forward` of a module that holds SE: what other tools assign goes onto a stack, and SE is applied once, outermost."""

from __future__ import annotations

import threading
from typing import Any

from torch import nn

__all__ = ["FORWARDS", "Forward", "Running", "running"]

FORWARDS = "_senet_forwards"  # in the __dict__ of a joined module, the forwards assigned to it, oldest first


class Running(threading.local):
    """What runs in this thread.

    Attributes:
        host: the module whose assigned forward runs, and `depth`, how far down its stack.
        blocks: the SE blocks that are being applied and have two hosts.
    """

    host: nn.Module | None = None
    depth: int = 0
    blocks: tuple[nn.Module, ...] = ()


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
        stack = module.__dict__.get(FORWARDS, ())
        # A tool that takes its wrapper off again assigns what it had found.
        stack = stack[:-1] if forward == module._senet_forward else (*stack, forward)
        module.__dict__.pop(FORWARDS, None)
        if stack:
            module.__dict__[FORWARDS] = stack

    @staticmethod
    def _restore(module: nn.Module) -> None:
        if FORWARDS not in module.__dict__:
            raise AttributeError("forward")
        del module.__dict__[FORWARDS]
