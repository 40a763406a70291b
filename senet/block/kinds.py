"""Which squeeze and gate an SE block has, noted in a state dict beside its tensors.

No tensor tells them, and a key of their own would end strict loading between versions. But PyTorch writes each module's
version into the `_metadata` of a state dict, which `torch.save` keeps, and of which loading ignores what it does not
know. A copy such as `{key: value.cpu() for ...}`, and a file of tensors alone, are without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from senet.block.equations import GATES

__all__ = ["SQUEEZES", "kinds_in", "note_kind"]

SQUEEZES = ("avg", "max", "none")
_KEY = "senet"


def note_kind(state: Any, prefix: str, squeeze: str, gate: str) -> None:
    """Note them in a state dict that keeps metadata, for the block whose keys begin with `prefix`."""
    about = getattr(state, "_metadata", None)
    if about is not None:
        about.setdefault(prefix[:-1], {})[_KEY] = {"squeeze": squeeze, "gate": gate}


def kinds_in(state: object) -> dict[str, tuple[str, str]]:
    """The squeeze and gate of each block of a state dict, by the block's name, as far as it says them."""
    about = getattr(state, "_metadata", None)
    found: dict[str, tuple[str, str]] = {}
    for name, held in about.items() if isinstance(about, Mapping) else ():
        noted = held.get(_KEY) if isinstance(held, Mapping) else None
        squeeze, gate = (noted.get("squeeze"), noted.get("gate")) if isinstance(noted, Mapping) else (None, None)
        if squeeze in SQUEEZES and gate in tuple(GATES):
            found[str(name)] = (str(squeeze), str(gate))
    return found
