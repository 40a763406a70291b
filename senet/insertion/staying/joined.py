"""The classes of modules that hold SE: one class a position, put before the module's own class.

`bn3` stays `bn3`: its parameters keep their keys, the new ones are `bn3.se.*`, and whoever calls it gets SE of what it
was. The way is that of `torch.nn.utils.parametrize`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from senet.block import SESpec
from senet.block.made import MadeSpec
from senet.errors import InputTypeError, InsertionError
from senet.fused.joined import Use
from senet.fused.units import known_unit, rescaled, runs
from senet.insertion.rules.site import Site
from senet.insertion.staying.forwards import FORWARDS, Forward, running

__all__ = ["ATTACHMENT", "SHORTCUT", "TWO_HOSTS", "Attachment", "Shortcut", "attached", "attachment", "rebuild"]
__all__ += ["is_joined", "joined_class", "use_in"]

ATTACHMENT = "_senet_attachment"  # in the __dict__ of the module that holds the SE
SHORTCUT = "_senet_shortcut"  # in the __dict__ of the two modules that share a shortcut
TWO_HOSTS = "_senet_two_hosts"  # in the __dict__ of a module whose SE went on to another, and of that


@dataclasses.dataclass(frozen=True)
class Attachment:
    """What was joined to a module: where, as what kind of block, and under which child name."""

    site: Site
    spec: SESpec | MadeSpec
    child: str


# It is local to a thread: several threads, and the replicas of DataParallel, run one module at the same time.
class Shortcut(threading.local):
    """Hands the shortcut x from the module that is given it to the one that returns u + (g − 1)·x."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Shortcut:
        return Shortcut()  # `copy` keeps one for both modules

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shortcut, ()


def attachment(module: nn.Module) -> Attachment | None:
    """What was joined to `module`, if anything was."""
    found = module.__dict__.get(ATTACHMENT)
    return found if isinstance(found, Attachment) else None


def attached(model: nn.Module) -> Iterator[tuple[str, nn.Module, Attachment]]:
    """Every module of `model` that holds an inserted SE: name, module, what was joined to it."""
    for name, module in model.named_modules():
        found = attachment(module)
        if found is not None:
            yield name, module, found


def use_in(module: nn.Module) -> Use | None:
    """How SE is joined to a module, whatever other tools derived from its class since."""
    return getattr(type(module), "_senet_use", None)


def is_joined(module: nn.Module | None, found: Attachment) -> bool:
    """Whether a module holds what `found` says and has the class that applies it."""
    use = None if module is None else use_in(module)
    return use is not None and use.position == found.site.position and attachment(module) == found  # type: ignore[arg-type]


if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class _Picklable(_Module):
    """Pickles as its base does, to be given its class again: that class has no name to import."""

    _senet_use: Use

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        use = self._senet_use
        reduced = use.base.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            raise InputTypeError(f"{use.base.__name__} pickles by name and cannot hold SE")
        function, arguments, *rest = reduced
        arguments = tuple(use.base if argument is type(self) else argument for argument in arguments)
        return rebuild, (function, arguments, use.base, use.position, use.child, use.channel_dim), *rest


class _Joined(_Picklable):
    """Runs its base, or what was assigned in its place, and lets a position say where SE goes."""

    def _senet_forward(self, *args: Any, **kwargs: Any) -> Any:
        own = self.__dict__
        if FORWARDS in own and running.host is self:  # called by an assigned forward: SE is outermost
            return self._senet_assigned(running.depth + 1, args, kwargs)
        return self._senet_once(args, kwargs) if TWO_HOSTS in own else self._senet_around(*args, **kwargs)

    forward = Forward(_senet_forward)

    def _senet_around(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    # A wrapper may keep the module that it replaces where no child shows it. Both then hold the same block.
    def _senet_once(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward of a module whose block has another host, which may be running around it."""
        block: nn.Module = getattr(self, self._senet_use.child)
        before = running.blocks
        if any(each is block for each in before):
            return self._senet_run(*args, **kwargs)
        running.blocks = (*before, block)
        try:
            return self._senet_around(*args, **kwargs)
        finally:
            running.blocks = before

    def _senet_run(self, *args: Any, **kwargs: Any) -> Any:
        if FORWARDS in self.__dict__:
            return self._senet_assigned(0, args, kwargs)
        return self._senet_use.base.forward(self, *args, **kwargs)

    def _senet_assigned(self, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The assigned forward at `depth` below the top of the stack; below all, the base's own."""
        stack = self.__dict__[FORWARDS]
        if depth >= len(stack):
            return self._senet_use.base.forward(self, *args, **kwargs)
        before, at = running.host, running.depth
        running.host, running.depth = self, depth
        try:
            return stack[-1 - depth](*args, **kwargs)
        finally:
            running.host, running.depth = before, at

    def _senet_rescale(self, x: Tensor) -> Tensor:
        use = self._senet_use
        block: nn.Module = getattr(self, use.child)
        dim = use.channel_dim
        result: Tensor = block(x) if dim == 1 else block(x.movedim(dim, 1)).movedim(1, dim)
        return result

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` asks for.

        Raises:
            InsertionError: always.
        """
        raise InsertionError(
            f"torch.jit.script cannot compile the forward of a {self._senet_use.base.__name__} that holds inserted SE: "
            f"use torch.jit.trace, or torch.export"
        )


class _Output(_Joined):
    """SE of what the module returns."""

    def _senet_around(self, *args: Any, **kwargs: Any) -> Tensor:
        use = self._senet_use
        if self.training and use.is_normalisation and len(args) == 1 and not kwargs and FORWARDS not in self.__dict__:
            result = rescaled(self, use.base, getattr(self, use.child), args[0])
            if result is not None:
                return result
        return self._senet_rescale(self._senet_run(*args, **kwargs))


class _Input(_Joined):
    """The module, given SE of its first input."""

    def _senet_around(self, *args: Any, **kwargs: Any) -> Any:
        if args:
            return self._senet_run(self._senet_rescale(args[0]), *args[1:], **kwargs)
        (name, x), *others = kwargs.items()
        return self._senet_run(**{name: self._senet_rescale(x)}, **dict(others))


class _Source(_Joined):
    """The module, whose first input is kept as the shortcut."""

    def _senet_around(self, *args: Any, **kwargs: Any) -> Any:
        shortcut: Shortcut = self.__dict__[SHORTCUT]
        shortcut.x = args[0] if args else next(iter(kwargs.values()))
        return self._senet_run(*args, **kwargs)


class _OntoShortcut(_Joined):
    """The module's output u + (g − 1)·x, where x is the shortcut that its source kept."""

    def _senet_around(self, *args: Any, **kwargs: Any) -> Tensor:
        u: Tensor = self._senet_run(*args, **kwargs)
        shortcut: Shortcut = self.__dict__[SHORTCUT]
        x, shortcut.x = shortcut.x, None
        if x is None:
            raise RuntimeError("the module that hands on this SE block's shortcut did not run before it")
        return u + (self._senet_rescale(x) - x)


class _Unit(_Picklable):
    """A unit around a module that holds SE, whose addition and activation may join its pass."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        base = self._senet_use.base
        if len(args) == 1 and not kwargs and runs(self, args[0]):
            known = known_unit(base)
            if known is not None:
                return known.unit(self, args[0])
        return base.forward(self, *args, **kwargs)


_CLASSES = {"output": _Output, "input": _Input, "source": _Source, "shortcut": _OntoShortcut, "unit": _Unit}
_joined: dict[Use, type[nn.Module]] = {}


def joined_class(base: type[nn.Module], position: str, child: str, channel_dim: int) -> type[nn.Module]:
    """A subclass of `base` whose forward has SE in it; one for each kind of use, so that classes compare equal."""
    use = Use(base, position, child, channel_dim)
    if use not in _joined:
        shown = base.__name__ if position in ("source", "unit") else f"SE{base.__name__}"
        # torch.fx takes a module for a leaf by the module of its class
        content = {"_senet_use": use, "__module__": base.__module__, "__doc__": base.__doc__}
        metaclass: Any = type(base)
        _joined[use] = metaclass(shown, (_CLASSES[position], base), content)
    return _joined[use]


def rebuild(
    function: Any,
    arguments: tuple[Any, ...],
    base: type[nn.Module],
    position: str,
    child: str,
    channel_dim: int,
) -> nn.Module:
    """A module of a joined class, from its pickle."""
    module: nn.Module = function(*arguments)
    module.__class__ = joined_class(base, position, child, channel_dim)
    return module
