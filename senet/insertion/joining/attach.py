"""Join SE to the module whose output it rescales, by giving that one instance a subclass of its own class."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from senet.block import SEBlock, SESpec
from senet.block.made import MadeBlock, MadeSpec
from senet.errors import InsertionError
from senet.fused.joined import use_of
from senet.fused.normalisations import dimensions_of
from senet.fused.units import is_row, known_unit, unit_of
from senet.insertion.reading.operations import iterates_its_children
from senet.insertion.rules.site import POSITIONS, Site
from senet.insertion.staying import transplant as transplant  # SE moves to the module that replaces its host
from senet.insertion.staying.closures import host_of_the_original
from senet.insertion.staying.forwards import FORWARDS
from senet.insertion.staying.joined import (
    ATTACHMENT,
    CHILDREN,
    ENDS_IN,
    FOLDED,
    SHORTCUT,
    TWO_HOSTS,
    Attachment,
    Shortcut,
    attached,
    attachment,
    base_of,
    become,
    become_again,
    moved,
    rebuild,
)
from senet.insertion.staying.record import Entry, forget, forget_all, full_name, remember
from senet.words import kind_of

__all__ = [
    "Attachment",
    "attach",
    "attached",
    "attachment",
    "base_of",
    "check_detachable",
    "detach",
    "detach_all",
    "exchange_base",
    "join",
    "place_of",
    "why_not",
]

# Names that pickles hold.
_Shortcut, _rebuild = Shortcut, rebuild


def attach(
    model: nn.Module, site: Site, spec: SESpec | MadeSpec, *, around: tuple[str, ...] = (), dims: int = 0
) -> SEBlock | MadeBlock:
    """Join a new block to the module that `site` names: SE with the paper's initialisation, or a made block.

    The block's weights are drawn from the CPU's global random state, on any device.

    Args:
        model: the network; it keeps a record of the block.
        site: the place.
        spec: the kind of block.
        around: enclosing modules that return the same value, innermost first. If the site's own
            module is lost, `rejoin` uses the first of them.
        dims: the fewest dimensions of the maps there, with the batch; 0 is what the module's class says, if anything.

    Raises:
        InsertionError: there is no such module, or SE cannot be joined to it. Nothing is changed.
    """
    host = _module(model, site.name)
    if site.position not in POSITIONS:
        raise InsertionError(f"{site.name}: a site's position is one of {', '.join(POSITIONS)}, not {site.position!r}")
    problem = why_not(host)
    if problem:
        raise InsertionError(f"SE cannot be joined to {site.name}: {problem}")
    if site.position == "shortcut":
        source = _module(model, site.source)
        if isinstance(source, torch.jit.ScriptModule) or SHORTCUT in source.__dict__:
            raise InsertionError(f"{site.source} cannot hand its input on as the shortcut of {site.name}")
    child = next((name for name in CHILDREN if not hasattr(host, name)), None)
    if child is None:
        raise InsertionError(f"{site.name} has attributes {' and '.join(CHILDREN)} already")
    device, dtype = place_of(model, site.name)
    block = spec.block(site.channels, device="cpu", dtype=dtype).to(device)
    block.train(host.training)
    kind = base_of(host)
    around = around or tuple(_sequences_around(model, site))
    found = Attachment(site, spec if isinstance(spec, SESpec) else spec.of(block), child, dims or _dims_of(host))
    join(model, found, block, full_name(kind), around)
    return block


def join(model: nn.Module, found: Attachment, block: nn.Module, base: str = "", around: tuple[str, ...] = ()) -> None:
    """Put a block into its host, give the modules that apply it their joined classes, and record it."""
    site, child = found.site, found.child
    host = _module(model, site.name)
    host.add_module(child, block)
    host.__dict__[ATTACHMENT] = found
    if site.position == "shortcut":
        source = _module(model, site.source)
        host.__dict__[SHORTCUT] = source.__dict__[SHORTCUT] = Shortcut()
        become(source, "source", child, site.channel_dim)
    unit = unit_of(model, site.name) if site.position == "output" and site.channel_dim == 1 else None
    become(host, site.position, child, site.channel_dim)
    if unit is not None and use_of(type(unit)) is None:
        become(unit, "unit", child, site.channel_dim)
    for outer in around:
        model.get_submodule(outer).__dict__[ENDS_IN] = site.name.removeprefix(f"{outer}.")
    remember(model, Entry(found, block, base, around))


def _dims_of(host: nn.Module) -> int:
    """The dimensions of a module's maps with the batch, as its class tells them; 0 if it takes any."""
    if isinstance(host, nn.modules.conv._ConvNd):
        return len(host.kernel_size) + 2
    return dimensions_of(type(host)) or 0


def _sequences_around(model: nn.Module, site: Site) -> Iterator[str]:
    """The enclosing `nn.Sequential`s that end in the site's module and so return its value; found without a run."""
    name = site.name if site.position == "output" else ""
    while "." in name:
        name, _, child = name.rpartition(".")
        parent = model.get_submodule(name)
        if not is_row(type(parent)) or "forward" in vars(parent) or list(parent._modules)[-1] != child:
            return
        yield name


def detach(model: nn.Module, name: str) -> None:
    """Take the SE off the module `name` of `model`: its class and children are restored.

    Raises:
        InsertionError: its class was changed after SE was joined to it.
    """
    host = _module(model, name)
    found = attachment(host)
    if found is None:
        raise InsertionError(f"{name} holds no inserted SE")
    site = moved(found.site, name)
    for module, position in zip(check_detachable(model, name, site), (site.position, "source"), strict=False):
        become_again(module, base_of(module), position)
        if position in ("shortcut", "source"):
            module.__dict__.pop(SHORTCUT, None)
    block = getattr(host, found.child)
    for module in list(host.modules()):  # a wrapper may hold the host that it replaced
        if attachment(module) == found and getattr(module, found.child) is block:
            become_again(module, base_of(module), found.site.position)
            for key in (ATTACHMENT, TWO_HOSTS, FOLDED):
                module.__dict__.pop(key, None)
            delattr(module, found.child)
    _settle(model, name)
    for outer in itertools.accumulate(name.split("."), "{}.{}".format):
        if model.get_submodule(outer).__dict__.get(ENDS_IN) == name.removeprefix(f"{outer}."):
            del model.get_submodule(outer).__dict__[ENDS_IN]
    forget(model, found, block)


def detach_all(model: nn.Module) -> None:
    """Take all inserted SE off `model`, and no longer miss what was lost of it.

    Raises:
        InsertionError: a class was changed after SE was joined to it.
    """
    for name, _, _ in list(attached(model)):
        detach(model, name)
    forget_all(model)


def _settle(model: nn.Module, name: str) -> None:
    """Restore the class of units around `name` if the SE that they ran in their fused pass is gone."""
    while True:
        module = model.get_submodule(name)
        while (use := use_of(type(module))) is not None and use.position == "unit":
            known = known_unit(use.base)
            if known is not None and attachment(known.norm(module)) is not None:
                break  # its SE is there
            become_again(module, base_of(module), "unit")
        if not name:
            return
        name = name.rpartition(".")[0]


def check_detachable(model: nn.Module, name: str, site: Site) -> list[nn.Module]:
    """The modules whose class changed when SE was joined to `name`.

    Raises:
        InsertionError: a class was changed since, or SE would go on running.
    """
    names = [name] if site.position != "shortcut" else [name, site.source]
    for each in names:
        now = type(_module(model, each))
        if use_of(now) is None:
            raise InsertionError(
                f"the class of {each} was changed to {now.__name__} after SE was joined to it (a parametrisation, "
                f"perhaps): undo that first"
            )
        if host_of_the_original(_module(model, each)) is not None:
            raise InsertionError(
                f"{each} calls the module that it replaced through a closure, which a copy shares with its original: "
                f"the SE would go on running. Remove it from the network that was copied, with inplace=True"
            )
        for forward in _module(model, each).__dict__.get(FORWARDS, ()):
            if getattr(forward, "__self__", None) is not _module(model, each):
                raise InsertionError(f"the forward of {each} was wrapped after SE was joined to it: undo that first")
    return [_module(model, each) for each in names]


def exchange_base(module: nn.Module, kinds: tuple[type[nn.Module], ...], kind: type[nn.Module]) -> bool:
    """Change the class of a module from exactly one of `kinds` to `kind`, keeping any SE joined to it.

    Returns:
        Whether the module was one of `kinds`.
    """
    if type(module) in kinds:
        module.__class__ = kind
        return True
    if use_of(type(module)) is None or base_of(module) not in kinds:
        return False
    become_again(module, kind)
    return True


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise InsertionError(f"{type(model).__name__} has no module {name!r}: {error}") from None


def why_not(module: nn.Module, *, exchanged: bool = False) -> str:
    """Why SE cannot be joined to a module; "" if it can. With `exchanged`, its forward may have been replaced."""
    if attachment(module) is not None:
        return "it holds an inserted SE already; `senet.remove` takes it out"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is a scripted module, which cannot change; insert before scripting"
    if iterates_its_children(module):
        return f"it is {kind_of(module)}, which would run SE as one more layer"
    if "forward" in vars(module) and not exchanged:
        return "its forward was replaced on the instance, which would pass SE by"
    return ""


def place_of(model: nn.Module, name: str) -> tuple[torch.device, torch.dtype]:
    """Device and dtype for the new parameters: those of the module, or of the nearest one with parameters."""
    parts = name.split(".") if name else []
    for depth in range(len(parts), -1, -1):
        for parameter in model.get_submodule(".".join(parts[:depth])).parameters():
            if parameter.is_floating_point():
                return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()
