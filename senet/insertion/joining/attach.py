"""SE joined to the module whose output it rescales, by giving that one instance a subclass of its own class.

`bn3` stays `bn3`: its parameters keep their keys, the new ones are `bn3.se.*`, and whoever calls it gets SE of
what it was. The way is that of `torch.nn.utils.parametrize`.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from senet.block import SEBlock, SESpec
from senet.errors import InputTypeError, InsertionError, SEWarning
from senet.fused.normalisations import normalises
from senet.fused.units import known_unit, rescaled, runs, unit_of
from senet.insertion.reading.operations import iterates_its_children
from senet.insertion.rules.site import POSITIONS, Site

__all__ = [
    "Attachment",
    "attach",
    "attached",
    "attachment",
    "check_detachable",
    "detach",
    "exchange_base",
]

_KEY = "_senet_attachment"  # in the __dict__ of the module that holds the SE
_SHORTCUT = "_senet_shortcut"  # in the __dict__ of the two modules that share a shortcut
_FORWARDS = "_senet_forwards"  # in the __dict__ of a joined module, the forwards assigned to it, oldest first
_CHILDREN = ("se", "senet_se")  # the second where the module has an attribute `se` of its own


@dataclasses.dataclass(frozen=True)
class Attachment:
    """What was joined to a module: where, as what kind of block, and under which child name."""

    site: Site
    spec: SESpec
    child: str


# It is local to a thread: several threads, and the replicas of DataParallel, run one module at the same time.
class _Shortcut(threading.local):
    """Hands the shortcut x from the module that is given it to the one that returns u + (g − 1)·x."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shortcut:
        return _Shortcut()  # `copy` keeps one for both modules

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Shortcut, ()


class _Running(threading.local):
    """The module whose assigned forward runs in this thread, and how far down its stack."""

    host: nn.Module | None = None
    depth: int = 0


_running = _Running()


# Other libraries assign `forward` on an instance: ultralytics' `fuse` a forward without normalisation, accelerate a
# wrapper around the one that was there. A plain attribute would pass SE by, so assigned forwards go onto a stack.
class _Forward(property):
    """`forward` of a joined class: the class's own, which runs what was assigned and applies SE once, outermost."""

    def __init__(self, own: Any) -> None:
        super().__init__(lambda module: module._senet_forward, self._assign, self._restore)
        self.own = own

    def __get__(self, module: Any, kind: Any = None) -> Any:
        return self.own if module is None else module._senet_forward

    @staticmethod
    def _assign(module: nn.Module, forward: Any) -> None:
        stack = module.__dict__.get(_FORWARDS, ())
        # A tool that takes its wrapper off again assigns what it had found.
        stack = stack[:-1] if forward == module._senet_forward else (*stack, forward)
        module.__dict__.pop(_FORWARDS, None)
        if stack:
            module.__dict__[_FORWARDS] = stack

    @staticmethod
    def _restore(module: nn.Module) -> None:
        if _FORWARDS not in module.__dict__:
            raise AttributeError("forward")
        del module.__dict__[_FORWARDS]


def attachment(module: nn.Module) -> Attachment | None:
    """What was joined to `module`, if anything was."""
    found = module.__dict__.get(_KEY)
    return found if isinstance(found, Attachment) else None


def attached(model: nn.Module) -> Iterator[tuple[str, nn.Module, Attachment]]:
    """Every module of `model` that holds an inserted SE: name, module, what was joined to it."""
    for name, module in model.named_modules():
        found = attachment(module)
        if found is not None:
            yield name, module, found


def attach(model: nn.Module, site: Site, spec: SESpec) -> SEBlock:
    """Join a new SE block, with the paper's initialisation, to the module of `model` that `site` names.

    The block's weights are drawn from the CPU's global random state, whatever device they then go to.

    Raises:
        InsertionError: where there is no such module, or none that SE can be joined to; nothing is changed.
    """
    host = _module(model, site.name)
    if site.position not in POSITIONS:
        raise InsertionError(f"{site.name}: a site's position is one of {', '.join(POSITIONS)}, not {site.position!r}")
    problem = _why_not(host)
    if problem:
        raise InsertionError(f"SE cannot be joined to {site.name}: {problem}")
    source = None
    if site.position == "shortcut":
        source = _module(model, site.source)
        if isinstance(source, torch.jit.ScriptModule) or _SHORTCUT in source.__dict__:
            raise InsertionError(f"{site.source} cannot hand its input on as the shortcut of {site.name}")
    child = next((name for name in _CHILDREN if not hasattr(host, name)), None)
    if child is None:
        raise InsertionError(f"{site.name} has attributes {' and '.join(_CHILDREN)} already")
    device, dtype = _place(model, site.name)
    block = spec.block(site.channels, device="cpu", dtype=dtype).to(device)
    block.train(host.training)
    host.add_module(child, block)
    host.__dict__[_KEY] = Attachment(site, spec, child)
    if source is not None:
        host.__dict__[_SHORTCUT] = source.__dict__[_SHORTCUT] = _Shortcut()
        source.__class__ = _subclass(type(source), "source", child, site.channel_dim)
    unit = unit_of(model, site.name) if site.position == "output" and site.channel_dim == 1 else None
    host.__class__ = _subclass(type(host), site.position, child, site.channel_dim)
    if unit is not None and "_senet_norm" not in vars(type(unit)):
        unit.__class__ = _subclass(type(unit), "unit", child, site.channel_dim)
    return block


def detach(model: nn.Module, name: str) -> None:
    """Take the SE off the module `name` of `model` again: its class and children are what they were.

    Raises:
        InsertionError: where its class was changed again since SE was joined to it.
    """
    host = _module(model, name)
    found = attachment(host)
    if found is None:
        raise InsertionError(f"{name} holds no inserted SE")
    for module in check_detachable(model, name, found.site):
        module.__class__ = vars(type(module))["_senet_base"]
        module.__dict__.pop(_SHORTCUT, None)
        for forward in module.__dict__.pop(_FORWARDS, ())[-1:]:
            module.__dict__["forward"] = forward
    del host.__dict__[_KEY]
    delattr(host, found.child)
    _settle(model, name)


def _settle(model: nn.Module, name: str) -> None:
    """Give the units around `name` their own class back where the SE that they ran in their pass is gone."""
    while True:
        module = model.get_submodule(name)
        while "_senet_norm" in (own := vars(type(module))) and attachment(own["_senet_norm"](module)) is None:
            module.__class__ = own["_senet_base"]
        if not name:
            return
        name = name.rpartition(".")[0]


def check_detachable(model: nn.Module, name: str, site: Site) -> list[nn.Module]:
    """The modules whose class changed when SE was joined to `name`.

    Raises:
        InsertionError: where a class was changed again since.
    """
    names = [name] if site.position != "shortcut" else [name, site.source]
    for each in names:
        now = type(_module(model, each))
        if "_senet_base" not in vars(now):
            raise InsertionError(
                f"the class of {each} was changed to {now.__name__} after SE was joined to it (a parametrisation, "
                f"perhaps): undo that first"
            )
        for forward in _module(model, each).__dict__.get(_FORWARDS, ()):
            if getattr(forward, "__self__", None) is not _module(model, each):
                raise InsertionError(f"the forward of {each} was wrapped after SE was joined to it: undo that first")
    return [_module(model, each) for each in names]


# SyncBatchNorm's conversion, timm's freeze and the folding of a normalisation register another module in the place of
# one that holds SE. torch calls this before it does, and SE goes on to the new module.
def _transplant(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Join the SE of the module that is `name` of `parent` to the one that takes its place, if it holds none."""
    old = parent._modules.get(name)
    if old is None or new is None or old is new or "_senet_use" not in vars(type(old)):
        return
    position, child, channel_dim = vars(type(old))["_senet_use"]
    if position == "unit" or "_senet_use" in vars(type(new)) or any(module is old for module in new.modules()):
        return
    block = getattr(old, child) if position != "source" else None
    present = getattr(new, child, block)
    if isinstance(new, torch.jit.ScriptModule) or iterates_its_children(new) or present is not block:
        warnings.warn(
            f"the {type(new).__name__} that replaces {name} of {type(parent).__name__} cannot hold the SE that was "
            f"joined to it: that SE is lost. Insert into the network after it is changed",
            SEWarning,
            stacklevel=4,
        )
        return
    forward = new.__dict__.pop("forward", None)
    if block is not None:
        new.add_module(child, block)
        new.__dict__[_KEY] = old.__dict__[_KEY]
    if _SHORTCUT in old.__dict__:
        new.__dict__[_SHORTCUT] = old.__dict__[_SHORTCUT]
    new.__class__ = _subclass(type(new), position, child, channel_dim)
    if forward is not None:
        new.forward = forward


register_module_module_registration_hook(_transplant)


def exchange_base(module: nn.Module, kinds: tuple[type[nn.Module], ...], kind: type[nn.Module]) -> bool:
    """Give a module that is exactly one of `kinds` the class `kind`, with the SE that is joined to it, if any.

    Returns:
        Whether it was one of them.
    """
    if type(module) in kinds:
        module.__class__ = kind
        return True
    own = vars(type(module))
    if own.get("_senet_base") not in kinds:
        return False
    module.__class__ = _subclass(kind, *own["_senet_use"])
    return True


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise InsertionError(f"{type(model).__name__} has no module {name!r}: {error}") from None


def _why_not(module: nn.Module) -> str:
    if attachment(module) is not None:
        return "it holds an inserted SE already; `senet.remove` takes it out"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a scripted module, which cannot change; insert before scripting"
    if iterates_its_children(module):
        return f"it is a {type(module).__name__}, which would run SE as one more layer"
    if "forward" in vars(module):
        return "its forward was replaced on the instance, which would pass SE by"
    return ""


def _place(model: nn.Module, name: str) -> tuple[torch.device, torch.dtype]:
    """Device and dtype for the new parameters: those of the module, or of the nearest one that has any."""
    parts = name.split(".") if name else []
    for depth in range(len(parts), -1, -1):
        for parameter in model.get_submodule(".".join(parts[:depth])).parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _subclass(base: type[nn.Module], position: str, child: str, channel_dim: int) -> type[nn.Module]:
    """A subclass of `base` whose forward has SE in it; one for each kind of use, so that classes compare equal."""
    key = (base, position, child, channel_dim)
    if key not in _subclasses:
        _subclasses[key] = _new_subclass(*key)
    return _subclasses[key]


_subclasses: dict[tuple[type[nn.Module], str, str, int], type[nn.Module]] = {}


def _new_subclass(base: type[nn.Module], position: str, child: str, channel_dim: int) -> type[nn.Module]:

    def rescale(self: nn.Module, x: Tensor) -> Tensor:
        block: nn.Module = getattr(self, child)
        result: Tensor = block(x) if channel_dim == 1 else block(x.movedim(channel_dim, 1)).movedim(1, channel_dim)
        return result

    shares_pass = position == "output" and channel_dim == 1 and normalises(base)
    joined_here = shares_pass or (position == "output" and channel_dim == 1 and base is nn.ReLU)
    known = known_unit(base) if position == "unit" else None

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _FORWARDS in self.__dict__:
            return assigned(self, 0, args, kwargs)
        return base.forward(self, *args, **kwargs)

    def assigned(self: nn.Module, depth: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The assigned forward at `depth` below the top of the stack; below all, the base's own."""
        stack = self.__dict__[_FORWARDS]
        if depth >= len(stack):
            return base.forward(self, *args, **kwargs)
        before, at = _running.host, _running.depth
        _running.host, _running.depth = self, depth
        try:
            return stack[-1 - depth](*args, **kwargs)
        finally:
            _running.host, _running.depth = before, at

    def output(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        if shares_pass and len(args) == 1 and not kwargs and _FORWARDS not in self.__dict__:
            result = rescaled(self, base, getattr(self, child), args[0])
            if result is not None:
                return result
        return rescale(self, run(self, *args, **kwargs))

    def unit(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if known is not None and len(args) == 1 and not kwargs and runs(self, args[0]):
            return known.unit(self, args[0])
        return base.forward(self, *args, **kwargs)

    def given(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if args:
            return run(self, rescale(self, args[0]), *args[1:], **kwargs)
        (name, x), *others = kwargs.items()
        return run(self, **{name: rescale(self, x)}, **dict(others))

    def source(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        shortcut: _Shortcut = self.__dict__[_SHORTCUT]
        shortcut.x = args[0] if args else next(iter(kwargs.values()))
        return run(self, *args, **kwargs)

    def onto_shortcut(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        u: Tensor = run(self, *args, **kwargs)
        shortcut: _Shortcut = self.__dict__[_SHORTCUT]
        x, shortcut.x = shortcut.x, None
        if x is None:
            raise RuntimeError("the module that hands on this SE block's shortcut did not run before it")
        return u + (rescale(self, x) - x)

    def reduce_ex(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        """Pickle as the base, to be given the subclass again: the subclass itself has no name to import."""
        reduced = base.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            raise InputTypeError(f"{base.__name__} pickles by name and cannot hold SE")
        function, arguments, *rest = reduced
        arguments = tuple(base if argument is type(self) else argument for argument in arguments)
        return _rebuild, (function, arguments, base, position, child, channel_dim), *rest

    unit.__name__ = "forward"
    around = {"output": output, "input": given, "source": source, "shortcut": onto_shortcut, "unit": unit}[position]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if _FORWARDS in self.__dict__ and _running.host is self:  # called by an assigned forward: SE is outermost
            return assigned(self, _running.depth + 1, args, kwargs)
        return around(self, *args, **kwargs)

    metaclass: Any = type(base)
    joined: type[nn.Module] = metaclass(
        f"SE{base.__name__}" if position not in ("source", "unit") else base.__name__,
        (base,),
        {
            **({"_senet_joined": (base, child)} if joined_here else {}),
            **({"_senet_norm": known.norm} if known is not None else {}),
            "__module__": base.__module__,  # torch.fx takes a module for a leaf by where its class lives
            "__doc__": base.__doc__,
            "_senet_base": base,
            "_senet_use": (position, child, channel_dim),
            **({"forward": unit} if position == "unit" else {"forward": _Forward(forward), "_senet_forward": forward}),
            "__reduce_ex__": reduce_ex,
        },
    )
    return joined


def _rebuild(
    function: Any,
    arguments: tuple[Any, ...],
    base: type[nn.Module],
    position: str,
    child: str,
    channel_dim: int,
) -> nn.Module:
    module: nn.Module = function(*arguments)
    module.__class__ = _subclass(base, position, child, channel_dim)
    return module
