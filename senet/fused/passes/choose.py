"""Choose the implementation of the passes for an activation."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.fused.passes.library import library
from senet.fused.passes.native import NativePasses
from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.triton import TritonPasses, available

__all__ = ["passes_for"]


def passes_for(v: Tensor) -> TorchPasses | None:
    """The fastest implementation on this machine for v; None if v's device has none."""
    if v.device.type == "cpu":
        found = library()
        # Not every compiler has a half float.
        half = v.dtype == torch.float16 and not hasattr(found, "stats_rows_float16")
        return TorchPasses() if found is None or half else NativePasses(found)
    if v.device.type == "cuda":
        return TritonPasses() if available() else TorchPasses()
    return None
