"""Networks and names without the wrappers that tools put around a network and its parts.

`named_modules` names these wrappers, and most state dicts leave them out. A file names what is
inside, so that a network without them can load it.
"""

from __future__ import annotations

import dataclasses

from torch import nn
from torch.optim.swa_utils import AveragedModel

from senet.insertion.rules.site import Site

__all__ = ["named_outside", "outside", "unwrapped"]

# Where torch.compile, activation checkpointing and Lightning Fabric hold what they wrap.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_forward_module")
_ALL = frozenset({*_WRAPPERS, "_fsdp_wrapped_module"})  # which alone can gather its parameters


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside the wrappers around it."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return unwrapped(model.module)
    inner = next((each for name in _WRAPPERS if (each := model._modules.get(name)) is not None), None)
    return model if inner is None else unwrapped(inner)


def outside(name: str) -> str:
    """A module's or tensor's name in the network without wrappers."""
    return ".".join(part for part in name.split(".") if part not in _ALL)


def named_outside(site: Site) -> Site:
    """A site under its names in the network without wrappers."""
    return dataclasses.replace(site, name=outside(site.name), source=outside(site.source))
