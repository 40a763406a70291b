"""SE that goes on to the module that takes its host's place.

SyncBatchNorm's conversion, timm's freeze and the folding of a normalisation register another module in the place of one
that holds SE. torch calls `_transplant` before it does.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from senet.errors import SEWarning
from senet.insertion.reading.operations import iterates_its_children
from senet.insertion.staying.joined import ATTACHMENT, SHORTCUT, TWO_HOSTS, joined_class, use_in

__all__: list[str] = []


def _transplant(parent: nn.Module, name: str, new: nn.Module | None) -> None:
    """Join the SE of the module that is `name` of `parent` to the one that takes its place, if it holds none."""
    old = parent._modules.get(name)
    use = None if old is None else use_in(old)
    if old is None or use is None or new is None or old is new or use.position == "unit" or use_in(new) is not None:
        return
    if any(module is old for module in new.modules()):
        return
    block = getattr(old, use.child) if use.position != "source" else None
    present = getattr(new, use.child, block)
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
        new.add_module(use.child, block)
        new.__dict__[ATTACHMENT] = old.__dict__[ATTACHMENT]
        new.__dict__[TWO_HOSTS] = old.__dict__[TWO_HOSTS] = True
    if SHORTCUT in old.__dict__:
        new.__dict__[SHORTCUT] = old.__dict__[SHORTCUT]
    new.__class__ = joined_class(type(new), use.position, use.child, use.channel_dim)
    if forward is not None:
        new.forward = forward


register_module_module_registration_hook(_transplant)
