"""Classes of modules that hold SE: one class put before the module's own, and one function per position.

`bn3` stays `bn3`: its parameters keep their keys, the new ones are `bn3.se.*`, and calling it
applies SE to its output. `torch.nn.utils.parametrize` changes classes in the same way.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from senet.block import SEBlock, SESpec, has_bias, hidden_width
from senet.block.kinds import kind_in
from senet.block.made import MadeSpec
from senet.errors import InputTypeError, InsertionError
from senet.fused.joined import USE, Use, use_of
from senet.fused.units import known_unit, rescaled, runs
from senet.insertion.rules.site import Site
from senet.insertion.staying import quantisation
from senet.insertion.staying.forwards import FORWARDS, ORIGINS, WRAPPED, Forward, running

__all__ = [
    "ATTACHMENT",
    "CHILDREN",
    "ENDS_IN",
    "FOLDED",
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
    "forget_fold",
    "is_joined",
    "joined_class",
    "moved",
    "moved_along",
    "rebuild",
    "uses_in",
]

CHILDREN = ("se", "senet_se")  # the name of a block in its host; the second if the host has its own attribute `se`
ATTACHMENT = "_senet_attachment"  # in the __dict__ of a module that holds SE
ENDS_IN = "_senet_ends_in"  # in the __dict__ of a module that returns its host's value: the host's name in it
SHORTCUT = "_senet_shortcut"  # in the __dict__ of the two modules that share a shortcut
FOLDED = "_senet_folded"  # in the __dict__ of a host and of its block: the factor in the host's weight, by fold_start
OUT = "_senet_taken_out"  # in the __dict__ of a block that was removed on request
TOLD = "_senet_told"  # in the __dict__ of a block whose loss was reported
TWO_HOSTS = "_senet_two_hosts"  # in the __dict__ of two modules that hold one block: a shared key


@dataclasses.dataclass(frozen=True)
class Attachment:
    """The SE joined to a module.

    Attributes:
        site: the place.
        spec: the kind of block.
        child: the block's name in the module.
        dims: the fewest dimensions of the maps there, with the batch; 0 if unknown.
    """

    site: Site
    spec: SESpec | MadeSpec
    child: str
    dims: int = 0


# Thread-local, because several threads, such as DataParallel's replicas, run one module at the same
# time.
class Shortcut(threading.local):
    """Passes the shortcut x from the module that takes it to the one that returns u + (g − 1)·x."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Shortcut:
        return Shortcut()  # deepcopy's memo keeps one for both modules

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Shortcut, ()


def attachment(module: nn.Module) -> Attachment | None:
    """The SE joined to `module`, if any."""
    found = module.__dict__.get(ATTACHMENT)
    return found if isinstance(found, Attachment) else None


def forget_fold(host: nn.Module) -> None:
    """Forget the factor of `fold_start`, since the host has other weights now."""
    for module in (host, *host.children()):
        module.__dict__.pop(FOLDED, None)


def attached(model: nn.Module) -> Iterator[tuple[str, nn.Module, Attachment]]:
    """Every module of `model` that holds inserted SE: its name, the module, and its attachment.

    The site's name is the module's name in `model`, which may be a part of the network that SE was
    inserted into, or contain it.
    """
    outer: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        found = attachment(module)
        if found is None:
            continue
        if TWO_HOSTS in module.__dict__:
            above = outer.setdefault(getattr(module, found.child), name)
            if name.startswith(f"{above}."):  # a wrapper holds the host that it replaced, and applies the SE itself
                continue
        found = dataclasses.replace(found, site=moved(found.site, name))
        yield name, module, as_it_is(found, module._modules.get(found.child))


# Channel pruning tools also cut the layers of SE, and a person may set its gate, or put another block in its
# place. A file with the original spec could then not be loaded, or would give another function.
def as_it_is(found: Attachment, block: nn.Module | None) -> Attachment:
    """`found` with the current sizes, squeeze, gate and biases of its block."""
    if not (isinstance(block, SEBlock) and isinstance(found.spec, SESpec)):
        return found
    spec, channels, width = found.spec, block.in_channels, block.width
    if hidden_width(channels, spec.reduction_ratio, spec.width, spec.least_width) != width:
        spec = dataclasses.replace(spec, width=width)
    squeeze, gate = kind_in({"squeeze": block.squeeze, "gate": block.gate_function}) or (spec.squeeze, spec.gate)
    bias = has_bias(block.fc1) if hasattr(block.fc1, "bias") else spec.bias  # an adapter need not show it
    if (squeeze, gate, bias) != (spec.squeeze, spec.gate, spec.bias):
        start = spec.start if gate in ("sigmoid", "hard_sigmoid") else "paper"
        spec = dataclasses.replace(spec, squeeze=squeeze, gate=gate, bias=bias, start=start)
    if channels == found.site.channels and spec is found.spec:
        return found
    return dataclasses.replace(found, site=dataclasses.replace(found.site, channels=channels), spec=spec)


def moved(site: Site, name: str) -> Site:
    """The site under the new name of its module; its source is assumed to have moved with it."""
    return dataclasses.replace(site, name=name, source=moved_along(site.source, site.name, name))


def moved_along(other: str, before: str, after: str) -> str:
    """The new name of `other`, given that the module `before` is now called `after`."""
    old, new = before.split("."), after.split(".")
    while old and new and old[-1] == new[-1]:
        old.pop()
        new.pop()
    start, instead = ".".join([*filter(None, old), ""]), ".".join([*filter(None, new), ""])
    return instead + other[len(start) :] if other and other.startswith(start) else other


def uses_in(module: nn.Module) -> list[Use]:
    """The uses of SE in a module's class, last first, even if another tool has subclassed it since."""
    found = []
    use: Use | None = getattr(type(module), USE, None)
    while use is not None:
        found.append(use)
        use = use_of(use.base)
    return found


def is_joined(module: nn.Module) -> bool:
    """Whether a module holds inserted SE and its class applies it."""
    found = attachment(module)
    return found is not None and any(use.position == found.site.position for use in uses_in(module))


if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class _Joined(_Module):
    """The base put before the class of a module that holds SE or supports one that does, as `_senet_use` says."""

    _senet_use: Use

    def _senet_forward(self, *args: Any, **kwargs: Any) -> Any:
        # An assigned forward calls the one that it wrapped, and SE must stay outermost. In a copy,
        # the closure still holds the original's forward, because copies share closures; the copy's
        # own forward is meant.
        host = running.host if WRAPPED in self.__dict__ else None
        if host is not None and (host is self or running.origin is self):
            return _assigned(host, running.depth + 1, args, kwargs)
        return _apply(self, self._senet_use, args, kwargs)

    forward = Forward(_senet_forward)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load; weights of an unfolded network, or of a plain one, do not hold the factor of `fold_start`."""
        found = attachment(self)
        if found is not None and FOLDED in self.__dict__ and f"{prefix}weight" in state_dict:
            scale = state_dict.get(f"{prefix}{found.child}.scale")
            if scale is None or not (scale.is_meta or scale == 1):
                forget_fold(self)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle as the base class, and restore this class when loading: it has no importable name."""
        use = self._senet_use
        reduced = use.base.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            raise InputTypeError(f"{use.base.__name__} pickles by name and cannot hold SE")
        function, arguments, *rest = reduced
        arguments = tuple(use.base if argument is type(self) else argument for argument in arguments)
        return rebuild, (function, arguments, use.base, use.position, use.child, use.channel_dim), *rest

    def __prepare_scriptable__(self) -> Any:
        """Refuse `torch.jit.script`, which calls this.

        Raises:
            InsertionError: always.
        """
        raise InsertionError(
            f"torch.jit.script cannot compile the {self._senet_use.base.__name__} to which SE was joined: use "
            f"torch.jit.trace, or script the plain network's parts before you insert"
        )


def _apply(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a module with SE at its position. SE may be joined to a class twice, so `use` is an argument."""
    if TWO_HOSTS in module.__dict__ and use.holds_block:
        return _once(module, use, args, kwargs)
    return _POSITIONS[use.position](module, use, args, kwargs)


# A wrapper may hold the module that it replaces, but not as a child. Both then hold the same block.
def _once(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a module whose block has a second host, unless that host is already applying the block."""
    block: nn.Module = getattr(module, use.child)
    before, mark = running.blocks, module.__dict__[TWO_HOSTS]
    shared = block if mark is True else mark  # a name that the hosts and their copies share; older pickles: the block
    if OUT in block.__dict__ or any(each is shared or each == shared for each in before):
        return _run(module, use, args, kwargs)
    running.blocks = (*before, shared)
    try:
        return _POSITIONS[use.position](module, use, args, kwargs)
    finally:
        running.blocks = before


def _run(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the module without this SE: an earlier use, else its assigned forward, else its class's own."""
    inner = use_of(use.base)
    if inner is not None:
        return _apply(module, inner, args, kwargs)
    if FORWARDS in module.__dict__:
        return _assigned(module, 0, args, kwargs)
    return use.base.forward(module, *args, **kwargs)


def _assigned(module: Any, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the assigned forward at `depth` below the top of the stack; below them all, the class's own."""
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
    if dim == 1 and _lacks_batch(module, block, x):
        return block(x.unsqueeze(0)).squeeze(0)  # type: ignore[no-any-return]
    result: Tensor = block(x) if dim == 1 else block(x.movedim(dim, 1)).movedim(1, dim)
    return result


# A batch or group normalisation reads (C, L) and (C, H, W) as a batch itself.
def _lacks_batch(module: nn.Module, block: nn.Module, x: Any) -> bool:
    """Whether x is one map (C, *space), as convolutions take it, where SE was joined to (N, C, *space)."""
    found = attachment(module)
    return (
        found is not None
        and isinstance(x, Tensor)
        and x.dim() == found.dims - 1
        and x.shape[0] == getattr(block, "in_channels", found.site.channels)
        and not isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)
    )


def _output(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Apply SE to the module's output."""
    if len(args) == 1 and not kwargs and use.is_normalisation and FORWARDS not in module.__dict__:
        result = rescaled(module, use.base, getattr(module, use.child), args[0])
        if result is not None:
            return result
    return _rescale(module, use, _run(module, use, args, kwargs))


def _input(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the module with SE applied to its first input."""
    if args:
        return _run(module, use, (_rescale(module, use, args[0]), *args[1:]), kwargs)
    (name, x), *others = kwargs.items()
    return _run(module, use, args, {name: _rescale(module, use, x), **dict(others)})


def _source(module: Any, use: Use, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the module and keep its first input as the shortcut."""
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
    """Run a unit around a module with SE, fusing its addition and activation into the same pass if possible."""
    if len(args) == 1 and not kwargs and runs(module, args[0]) and FORWARDS not in module.__dict__:
        known = known_unit(use.base)
        if known is not None:
            return known.unit(module, args[0])
    return _run(module, use, args, kwargs)


_POSITIONS = {"output": _output, "input": _input, "source": _source, "shortcut": _onto_shortcut, "unit": _unit}
_joined: dict[Use, type[nn.Module]] = {}


def joined_class(base: type[nn.Module], position: str, child: str, channel_dim: int) -> type[nn.Module]:
    """The subclass of `base` that applies SE; one for each kind of use, so that classes compare equal."""
    use = Use(base, position, child, channel_dim)
    if use not in _joined:
        shown = base.__name__ if position in ("source", "unit") else f"SE{base.__name__}"
        # torch.fx recognises leaf modules by the `__module__` of their class
        content = {"_senet_use": use, "__module__": base.__module__, "__doc__": base.__doc__}
        metaclass: Any = type(base)
        joined = metaclass(shown, (base,) if use_of(base) else (_Joined, base), content)
        quantisation.enter(joined, base, position, child)
        _joined[use] = joined
    return _joined[use]


def become(module: nn.Module, position: str, child: str, channel_dim: int) -> None:
    """Give a module the class that applies SE, also if a forward was assigned to it before."""
    if any(use.position == position for use in uses_in(module)):
        return
    forward = module.__dict__.pop("forward", None)
    module.__class__ = joined_class(type(module), position, child, channel_dim)
    if forward is not None:
        module.forward = forward


def become_again(module: nn.Module, base: type[nn.Module], *without: str) -> None:
    """Change the base of a module's joined class, or drop positions from it."""
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
    """The module's class without SE."""
    kind = type(module)
    while (use := use_of(kind)) is not None:
        kind = use.base
    return kind


def rebuild(
    function: Any, arguments: tuple[Any, ...], base: type[nn.Module], position: str, child: str, channel_dim: int
) -> nn.Module:
    """Unpickle a module of a joined class."""
    module: nn.Module = function(*arguments)
    module.__class__ = joined_class(base, position, child, channel_dim)
    return module
