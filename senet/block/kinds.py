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
from senet.errors import warn

__all__ = ["SQUEEZES", "kind_in", "kinds_in", "note_kind", "warn_of_kind"]

SQUEEZES = ("avg", "max", "none")
_KEY = "senet"


def note_kind(state: Any, prefix: str, squeeze: str, gate: str) -> None:
    """Note them in a state dict that has metadata, for the block whose keys begin with `prefix`."""
    about = getattr(state, "_metadata", None)
    if about is not None:
        about.setdefault(prefix[:-1], {})[_KEY] = {"squeeze": squeeze, "gate": gate}


def warn_of_kind(about: Mapping[str, Any], squeeze: str, gate: str) -> None:
    """Warn if the metadata of a block's tensors note another squeeze or gate than the block's."""
    noted = kind_in(about.get(_KEY))
    if noted is not None and noted != (squeeze, gate):
        warn(
            f"these weights are of SE with {noted[0]} squeeze and {noted[1]} gate, and the block that takes them has "
            f"{squeeze} squeeze and {gate} gate, which changes its outputs"
        )


def kinds_in(state: object) -> dict[str, tuple[str, str]]:
    """The squeeze and gate of each block of a state dict, by the block's name, where they are noted."""
    about = getattr(state, "_metadata", None)
    found: dict[str, tuple[str, str]] = {}
    for name, held in about.items() if isinstance(about, Mapping) else ():
        kind = kind_in(held.get(_KEY)) if isinstance(held, Mapping) else None
        if kind is not None:
            found[str(name)] = kind
    return found


def kind_in(fields: object) -> tuple[str, str] | None:
    """The squeeze and the gate among the fields of a block in a file; None if they are not there."""
    squeeze, gate = (fields.get("squeeze"), fields.get("gate")) if isinstance(fields, Mapping) else (None, None)
    return (str(squeeze), str(gate)) if squeeze in SQUEEZES and gate in tuple(GATES) else None
