"""The same function for less: SE in the normalisation's pass when training, before the convolution in inference.

Nothing here is loaded before it is asked for: the training half lies under `senet.insertion`, the rest above it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.fast.switch import straightforward as straightforward
    from senet.fast.sync import synchronise as synchronise

_WHERE = {"straightforward": "senet.fast.switch", "synchronise": "senet.fast.sync"}

__all__ = ["straightforward", "synchronise"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'senet.fast' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
