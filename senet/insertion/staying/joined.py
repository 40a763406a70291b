"""The classes of modules that hold SE: one class, put before the module's own, and a function for each position.

`bn3` stays `bn3`: its parameters keep their keys, the new ones are `bn3.se.*`, and whoever calls it
gets SE of what it was. The way is that of `torch.nn.utils.parametrize`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from senet.block import SEBlock, SESpec, hidden_width
from senet.block.made import MadeSpec
from senet.errors import InputTypeError, InsertionError
from senet.fused.joined import USE, Use, use_of
from senet.fused.units import known_unit, rescaled, runs
from senet.insertion.rules.site import Site
from senet.insertion.staying import quantisation
from senet.insertion.staying.forwards import FORWARDS, ORIGINS, WRAPPED, Forward, running

__all__ = [
    "ATTACHMENT",
    "ENDS_IN",
    "OUT",
    "SHORTCUT",
    "TOLD",
    "TWO_HOSTS",
    "Attachment",
    "Shortcut",
    "as_it_is",
    "attached",
    "attachment",
    "base_of",
    "become",
    "become_again",
    "is_joined",
    "joined_class",
    "moved",
    "moved_along",
    "rebuild",
    "uses_in",
]

ATTACHMENT = "_senet_attachment"  # in the __dict__ of the module that holds the SE
ENDS_IN = "_senet_ends_in"  # in the __dict__ of a module around a host that returns its value, the way to the host
SHORTCUT = "_senet_shortcut"  # in the __dict__ of the two modules that share a shortcut
OUT = "_senet_taken_out"  # in the __dict__ of a block that was taken out as asked
TOLD = "_senet_told"  # in the __dict__ of a block whose loss somebody was told of
TWO_HOSTS = "_senet_two_hosts"  # in the __dict__ of a module whose SE went on to another, and of that: a name for both


@dataclasses.dataclass(frozen=True)
class Attachment:
    """What was joined to a module: where, as what kind of block, and under which child name."""

    site: Site
    spec: SESpec | MadeSpec
    child: str


# It is local to a thread: several threads, and the replicas of DataParallel, run one module at the
# same time.
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
    """Every module of `model` that holds an inserted SE: name, module, what was joined to it.

    The site has the name that the module has in `model`. That may be a part of the network that SE
    was inserted into, or hold it.
    """
    outer: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        found = attachment(module)
        if found is None:
            continue
        if TWO_HOSTS in module.__dict__:
            above = outer.setdefault(getattr(module, found.child), name)
            if name.startswith(f"{above}."):  # a wrapper shows the host that it replaced, and applies the SE itself
                continue
        found = dataclasses.replace(found, site=moved(found.site, name))
        yield name, module, as_it_is(found, module._modules.get(found.child))


# Tools that prune channels cut the layers of SE together with those around it. What was asked for
# then makes another block, whose file could never be loaded.
def as_it_is(found: Attachment, block: nn.Module | None) -> Attachment:
    """`found` with the sizes that its block has now."""
    if not (isinstance(block, SEBlock) and isinstance(found.spec, SESpec)):
        return found
    spec, channels, width = found.spec, block.in_channels, block.width
    if hidden_width(channels, spec.reduction_ratio, spec.width, spec.least_width) != width:
        spec = dataclasses.replace(spec, width=width)
    if channels == found.site.channels and spec is found.spec:
        return found
    return dataclasses.replace(found, site=dataclasses.replace(found.site, channels=channels), spec=spec)


def moved(site: Site, name: str) -> Site:
    """A site whose module is now called `name`; its source is taken to have moved along."""
    return dataclasses.replace(site, name=name, source=moved_along(site.source, site.name, name))


def moved_along(other: str, before: str, after: str) -> str:
    """What another module is called, now that the one called `before` is called `after`."""
    old, new = before.split("."), after.split(".")
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    start, instead = ".".join([*filter(None, old), ""]), ".".join([*filter(None, new), ""])
    return instead + other[len(start) :] if other and other.startswith(start) else other


def uses_in(module: nn.Module) -> list[Use]:
    """How SE is joined to a module, the last first, whatever other tools derived from its class since."""
    found = []
    use: Use | None = getattr(type(module), USE, None)
    while use is not None:
        found.append(use)
        use = use_of(use.base)
    return found


def is_joined(module: nn.Module) -> bool:
    """Whether a module holds inserted SE and has the class that applies it."""
    found = attachment(module)
    return found is not None and any(use.position == found.site.position for use in uses_in(module))


if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class _Joined(_Module):
    """Comes before the class of a module that holds SE, or works with one that does: `_senet_use` says how."""

    _senet_use: Use

    def _senet_forward(self, *args: Any, **kwargs: Any) -> Any:
        # An assigned forward calls what it wrapped: SE is outermost. That of a copy calls what the
        # original had, as no copy takes a closure along; what the copy itself had is meant.
        host = running.host if WRAPPED in self.__dict__ else None
        if host is not None and (host is self or running.origin is self):
            return _assigned(host, running.depth + 1, args, kwargs)
        return _apply(self, self._senet_use, args, kwargs)

    forward = Forward(_senet_forward)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle as the base, to be given this class again: it has no name to import."""
        use = self._senet_use
        reduced = use.base.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            raise InputTypeError(f"{use.base.__name__} pickles by name and cannot hold SE")
        function, arguments, *rest = reduced
        arguments = tuple(use.base if argument is type(self) else argument for argument in arguments)
        return rebuild, (function, arguments, use.base, use.position, use.child, use.channel_dim), *rest

    def __prepare_scriptable__(self) -> Any:
        """What `torch.jit.script` asks for.

        Raises:
            InsertionError: always.
        """
        raise InsertionError(
            f"torch.jit.script cannot compile the {self._senet_use.base.__name__} to which SE was joined: use "
            f"torch.jit.trace, or script the plain network's parts before you insert"
        )


def _apply(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward of a module as the position says; a class may be joined to twice, so `use` is handed on."""
    if TWO_HOSTS in module.__dict__ and use.holds_block:
        return _once(module, use, args, kwargs)
    return _POSITIONS[use.position](module, use, args, kwargs)


# A wrapper may keep the module that it replaces where no child shows it. Both then hold the same
# block.
def _once(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The forward of a module whose block has another host, which may be running around it."""
    block: nn.Module = getattr(module, use.child)
    before, shared = running.blocks, shared_by_hosts(module, block)
    if OUT in block.__dict__ or any(each is shared or each == shared for each in before):
        return _run(module, use, args, kwargs)
    running.blocks = (*before, shared)
    try:
        return _POSITIONS[use.position](module, use, args, kwargs)
    finally:
        running.blocks = before


def shared_by_hosts(module: nn.Module, block: nn.Module) -> Any:
    """What two hosts of a block share, and their copies: a name, or in older pickles the block."""
    mark = module.__dict__[TWO_HOSTS]
    return block if mark is True else mark


def _run(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The module without this SE: what was joined before, what was assigned as its forward, or its class's own."""
    inner = use_of(use.base)
    if inner is not None:
        return _apply(module, inner, args, kwargs)
    if FORWARDS in module.__dict__:
        return _assigned(module, 0, args, kwargs)
    return use.base.forward(module, *args, **kwargs)


def _assigned(module: Any, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The assigned forward at `depth` below the top of the stack; below all, the class's own."""
    stack = module.__dict__[FORWARDS]
    if depth >= len(stack):
        use = module._senet_use
        while (inner := use_of(use.base)) is not None:
            use = inner
        return use.base.forward(module, *args, **kwargs)
    origins = module.__dict__.get(ORIGINS, ())
    before = running.host, running.depth, running.origin
    running.host, running.depth = module, depth
    running.origin = origins[-1 - depth].module() if depth < len(origins) else None
    try:
        return stack[-1 - depth](*args, **kwargs)
    finally:
        running.host, running.depth, running.origin = before


def _rescale(module: Any, use: Use, x: Tensor) -> Tensor:
    block: nn.Module = getattr(module, use.child)
    dim = use.channel_dim
    result: Tensor = block(x) if dim == 1 else block(x.movedim(dim, 1)).movedim(1, dim)
    return result


def _output(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """SE of what the module returns."""
    if module.training and len(args) == 1 and not kwargs and use.is_normalisation and FORWARDS not in module.__dict__:
        result = rescaled(module, use.base, getattr(module, use.child), args[0])
        if result is not None:
            return result
    return _rescale(module, use, _run(module, use, args, kwargs))


def _input(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The module, given SE of its first input."""
    if args:
        return _run(module, use, (_rescale(module, use, args[0]), *args[1:]), kwargs)
    (name, x), *others = kwargs.items()
    return _run(module, use, args, {name: _rescale(module, use, x), **dict(others)})


def _source(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The module, whose first input is kept as the shortcut."""
    shortcut: Shortcut = module.__dict__[SHORTCUT]
    shortcut.x = args[0] if args else next(iter(kwargs.values()))
    return _run(module, use, args, kwargs)


def _onto_shortcut(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The module's output u + (g − 1)·x, where x is the shortcut that its source kept."""
    u: Tensor = _run(module, use, args, kwargs)
    shortcut: Shortcut = module.__dict__[SHORTCUT]
    x, shortcut.x = shortcut.x, None
    if x is None:
        raise RuntimeError("the module that hands on this SE block's shortcut did not run before it")
    return u + (_rescale(module, use, x) - x)


def _unit(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A unit around a module that holds SE, whose addition and activation may join its pass."""
    if len(args) == 1 and not kwargs and runs(module, args[0]) and FORWARDS not in module.__dict__:
        known = known_unit(use.base)
        if known is not None:
            return known.unit(module, args[0])
    return _run(module, use, args, kwargs)


_POSITIONS = {"output": _output, "input": _input, "source": _source, "shortcut": _onto_shortcut, "unit": _unit}
_joined: dict[Use, type[nn.Module]] = {}


def joined_class(base: type[nn.Module], position: str, child: str, channel_dim: int) -> type[nn.Module]:
    """A subclass of `base` whose forward has SE in it; one for each kind of use, so that classes compare equal."""
    use = Use(base, position, child, channel_dim)
    if use not in _joined:
        shown = base.__name__ if position in ("source", "unit") else f"SE{base.__name__}"
        # torch.fx takes a module for a leaf by the module of its class
        content = {"_senet_use": use, "__module__": base.__module__, "__doc__": base.__doc__}
        metaclass: Any = type(base)
        joined = metaclass(shown, (base,) if use_of(base) else (_Joined, base), content)
        quantisation.enter(joined, base, position, child)
        _joined[use] = joined
    return _joined[use]


def become(module: nn.Module, position: str, child: str, channel_dim: int) -> None:
    """Give a module the class that applies SE, also where a forward was assigned to it before."""
    if any(use.position == position for use in uses_in(module)):
        return
    forward = module.__dict__.pop("forward", None)
    module.__class__ = joined_class(type(module), position, child, channel_dim)
    if forward is not None:
        module.forward = forward


def become_again(module: nn.Module, base: type[nn.Module], *without: str) -> None:
    """Give a module of a joined class another base, or take positions off its class."""
    kind = base
    for use in reversed(uses_in(module)):
        if use.position not in without:
            kind = joined_class(kind, use.position, use.child, use.channel_dim)
    module.__class__ = kind
    if not uses_in(module):
        for key in (ORIGINS, WRAPPED):
            module.__dict__.pop(key, None)
        for forward in module.__dict__.pop(FORWARDS, ())[-1:]:
            module.__dict__["forward"] = forward


def base_of(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before SE was joined to it, or has."""
    kind = type(module)
    while (use := use_of(kind)) is not None:
        kind = use.base
    return kind


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
