"""The description of a network in an exported file, as named strings, which every format can hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from senet.errors import ExportError
from senet.files.fileformat import plain_json
from senet.words import kind_of
from senet.zoo.names.naming import origin
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FIRST", "describe_network", "to_strings"]

FIRST = "senet"
"""The prefix of each name in a file, beside other tools' names: `senet.classes`."""

_OURS = ("network", "options", "senet", "torch", "shapes")


def describe_network(model: nn.Module, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A network's description: `network`, `options`, `senet` and `torch` (versions), and the `given` values.

    Args:
        model: the network. `preprocessing` is by default that of its weights' file.
        given: the caller's JSON values, such as `classes` and `preprocessing`.

    Raises:
        ExportError: (a ValueError) `given` has a reserved name.
        ValueError: JSON cannot hold a value.
    """
    import torch

    from senet._version import __version__

    if given is not None and not isinstance(given, Mapping):
        raise ExportError(f"metadata is a mapping, not {kind_of(given)}")
    own = plain_json(given or {}, "metadata")
    if taken := [name for name in _OURS if name in own]:
        raise ExportError(f"metadata has {taken[0]!r}, which export writes itself; call it something else")
    name, options = origin(model)
    noted = noted_preprocessing(model)
    return {
        **({"network": name, "options": options} if name else {}),
        "senet": __version__,
        "torch": torch.__version__,
        **({"preprocessing": noted} if noted else {}),
        **own,
    }


def to_strings(description: Mapping[str, Any]) -> dict[str, str]:
    """Each value as text: strings unchanged, all else as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, allow_nan=False, ensure_ascii=False)
        for name, value in description.items()
    }
