"""The squeeze and gate of an SE block, noted in a state dict beside its tensors.

The tensors do not tell them, and keys of their own would break strict loading between versions. So
they are written into `_metadata`, where PyTorch keeps each module's version: `torch.save` keeps it,
and loading ignores what it does not know. A copy such as `{key: value.cpu() for ...}` and a file of
tensors alone have no metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from senet.block.equations import GATES

__all__ = ["SQUEEZES", "kinds_in", "note_kind"]

SQUEEZES = ("avg", "max", "none")
_KEY = "senet"


def note_kind(state: Any, prefix: str, squeeze: str, gate: str) -> None:
    """Note them in a state dict that has metadata, for the block whose keys begin with `prefix`."""
    about = getattr(state, "_metadata", None)
    if about is not None:
        about.setdefault(prefix[:-1], {})[_KEY] = {"squeeze": squeeze, "gate": gate}


def kinds_in(state: object) -> dict[str, tuple[str, str]]:
    """The squeeze and gate of each block of a state dict, by the block's name, where they are noted."""
    about = getattr(state, "_metadata", None)
    found: dict[str, tuple[str, str]] = {}
    for name, held in about.items() if isinstance(about, Mapping) else ():
        noted = held.get(_KEY) if isinstance(held, Mapping) else None
        squeeze, gate = (noted.get("squeeze"), noted.get("gate")) if isinstance(noted, Mapping) else (None, None)
        if squeeze in SQUEEZES and gate in tuple(GATES):
            found[str(name)] = (str(squeeze), str(gate))
    return found
