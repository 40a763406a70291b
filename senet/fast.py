"""SE at less cost: fused with the normalisation in training, and before the convolution in inference.

Names are imported on first use, because the training half lies below `senet.insertion` and the rest above it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senet.fused.switch import straightforward as straightforward
    from senet.insertion.joining.synchronise import synchronise as synchronise

__path__: list[str] = []  # its old submodules can still be imported (`senet._moved`)

_WHERE = {"straightforward": "senet.fused.switch", "synchronise": "senet.insertion.joining.synchronise"}

__all__ = ["straightforward", "synchronise"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'senet.fast' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
