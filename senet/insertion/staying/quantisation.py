"""Support for `torch.ao.quantization.fuse_modules`, and its callers, on modules that hold SE.

It looks up the exact classes of modules in a table. We enter joined classes there, with a fuser
that keeps SE after the fused module: SE moves to the identity that replaces its host.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import nn

from senet.errors import InsertionError

__all__ = ["enter"]

try:  # private, in a deprecated part of PyTorch; without it fuse_modules itself refuses joined classes
    from torch.ao.quantization.fuser_method_mappings import _DEFAULT_OP_LIST_TO_FUSER_METHOD as _FUSERS
except ImportError:
    _FUSERS = {}

_Fuser = Callable[..., nn.Module]


def enter(joined: type[nn.Module], base: type[nn.Module], position: str, child: str) -> None:
    """Enter a joined class in the table wherever its base is."""
    for kinds, fuser in list(_FUSERS.items()):
        for index, kind in enumerate(kinds):
            if kind is base:
                key = (*kinds[:index], joined, *kinds[index + 1 :])
                _FUSERS[key] = _around(fuser, kinds, index, position, child)


def _around(fuser: _Fuser, kinds: tuple[type, ...], index: int, position: str, child: str) -> _Fuser:
    """The fuser of modules where the one at `index` holds SE."""

    def fuse(is_qat: bool, *modules: nn.Module) -> nn.Module:
        last = index == len(modules) - 1
        if not (last and position == "output") and not (index == 0 and position == "input"):
            names = " and ".join(kind.__name__ for kind in kinds[: index + 1] if index)
            hint = f"fuse {names} alone, and leave out what follows" if names else "leave it out of what is fused"
            raise InsertionError(
                f"fuse_modules cannot fuse across the SE that was joined to the {kinds[index].__name__}: {hint}"
            )
        plain = copy.copy(modules[index])
        plain.__class__ = kinds[index]
        plain._modules = {name: module for name, module in plain._modules.items() if name != child}
        plain.__dict__ = {key: value for key, value in plain.__dict__.items() if not key.startswith("_senet_")}
        return fuser(is_qat, *modules[:index], plain, *modules[index + 1 :])

    return fuse
