"""Move SE to the module that replaces its host.

SyncBatchNorm's conversion, timm's freeze and the folding of a normalisation register another module
in the host's place. Some tools replace an enclosing module that returns the same value. PEFT's
adapters hold the host and add to its output: SE moves to them, or merging them would change what it
rescales. torch calls `_transplant` before it registers the module.
"""

from __future__ import annotations

import uuid

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from senet.errors import warn
from senet.fused.internals import hooks_of
from senet.fused.joined import use_of
from senet.insertion.reading.operations import iterates_its_children
from senet.insertion.staying.forwards import FORWARDS
from senet.insertion.staying.joined import (
    ATTACHMENT,
    ENDS_IN,
    FOLDED,
    SHORTCUT,
    TOLD,
    TWO_HOSTS,
    as_it_is,
    attachment,
    base_of,
    become,
    become_again,
    uses_in,
)

__all__: list[str] = []


def _transplant(parent: nn.Module, name: str, new: nn.Module | None) -> nn.Module | None:
    """Join the SE of `parent`'s child `name` to the module that replaces it, if that holds none.

    Returns:
        A module to register in place of `new`, or None for `new` itself.
    """
    there = parent._modules.get(name)
    old = _host(there)
    uses = [] if old is None else [use for use in uses_in(old) if use.position != "unit"]
    if old is None or not uses or new is None or uses_in(new):
        return None
    adapts = _adapts(new, old)
    holds = any(module is old or attachment(module) == attachment(old) is not None for module in new.modules())
    if holds and not adapts:
        return None
    found = attachment(old)
    now = None if found is None else as_it_is(found, getattr(old, found.child, None)).site
    channels = None if now is None or now.position != "output" else now.channels
    if old is not there and (_width(new) != channels or next(new.children(), None) is not None):
        return None  # another part of a network, whose output is another value; the record reports the loss
    blocks = {use.child: getattr(old, use.child) for use in uses if use.holds_block}
    taken = any(getattr(new, child, block) is not block for child, block in blocks.items())
    other = channels is not None and _width(new) not in (None, channels)
    if isinstance(new, torch.jit.ScriptModule) or iterates_its_children(new) or taken or other:
        if adapts:
            return None  # it goes on running inside
        for block in blocks.values():
            block.__dict__[TOLD] = True
        warn(
            f"the {type(new).__name__} that replaces {name} of {type(parent).__name__} cannot hold the SE that was "
            f"joined to it: that SE is lost. Insert into the network after it is changed"
        )
        return None
    if _is_bare_identity(new):  # it may stand elsewhere too, where its SE would run as well
        new = nn.Identity().train(new.training)
    for child, block in blocks.items():
        new.add_module(child, block)
        if adapts:
            delattr(old, child)
            continue
        # A wrapper that holds the old module in a closure shares it with its copies, which have
        # other blocks. The shared key says that they are one.
        new.__dict__[TWO_HOSTS] = old.__dict__[TWO_HOSTS] = old.__dict__.get(TWO_HOSTS) or uuid.uuid4().hex
    for key in (ATTACHMENT, SHORTCUT):
        if key in old.__dict__:
            new.__dict__[key] = old.__dict__[key]
    if FOLDED in old.__dict__ and all(
        new._parameters.get(each) is old._parameters.get(each) for each in ("weight", "bias")
    ):
        new.__dict__.setdefault(FOLDED, old.__dict__[FOLDED])  # the factor of `fold_start` is in these weights
    for use in reversed(uses):
        become(new, use.position, use.child, use.channel_dim)
    if adapts:
        for key in (ATTACHMENT, SHORTCUT, TWO_HOSTS):
            old.__dict__.pop(key, None)
        become_again(old, base_of(old), *(use.position for use in uses))
    return new


def _adapts(new: nn.Module, old: nn.Module) -> bool:
    """Whether a module is an adapter, by PEFT's names, around a host whose SE can be taken off."""
    around = new._modules.get("base_layer") is old and hasattr(new, "get_base_layer")
    return around and FORWARDS not in old.__dict__ and use_of(type(old)) is not None


def _is_bare_identity(module: nn.Module) -> bool:
    """Whether a module is an identity that another can stand for: without hooks, children or a forward of its own."""
    own = module.__dict__
    return type(module) is nn.Identity and "forward" not in own and not any((*hooks_of(module), *module.children()))


def _width(module: nn.Module) -> int | None:
    """A layer's declared number of output channels."""
    names = ("out_channels", "out_features", "num_features", "num_channels")
    return next((width for name in names if isinstance(width := getattr(module, name, None), int)), None)


def _host(module: nn.Module | None) -> nn.Module | None:
    """The module itself, or the module inside it that holds SE of its output."""
    way = None if module is None else module.__dict__.get(ENDS_IN)
    if module is None or way is None or uses_in(module):
        return module
    for part in way.split("."):
        module = module._modules.get(part)
        if module is None:
            return None
    return module


register_module_module_registration_hook(_transplant)  # type: ignore[arg-type]  # torch says that a hook may return one
