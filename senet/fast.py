"""The same function for less: SE in the normalisation's pass when training, before the convolution in inference.

Nothing here is loaded before it is asked for: the training half lies under `senet.insertion`, the rest above it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.fused.switch import straightforward as straightforward
    from senet.insertion.joining.synchronise import synchronise as synchronise

__path__: list[str] = []  # its modules of earlier versions are found by their old names (`senet._moved`)

_WHERE = {"straightforward": "senet.fused.switch", "synchronise": "senet.insertion.joining.synchronise"}

__all__ = ["straightforward", "synchronise"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'senet.fast' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
