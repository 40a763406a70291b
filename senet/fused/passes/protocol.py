"""The interface of the five passes over an activation that fused normalisation and SE need.

An activation v is (N, C, *space). Values per sample and channel are (N, C), or broadcast to it, in
float32, or float64 for float64. `stats` always returns float64, because a mean of many standard
deviations would show its rounding.

    stats   v                                    -> mean and sum of squared deviations over space
    affine  (v − center)·scale + shift [+ other] [ReLU]
    sums    dy, v                                -> Σ dy and Σ dy·(v − mean) over space
    input   scale·dy + c1·(v − center) + c0      -> the gradient of v
    passed  where a ReLU of (v − center)·scale + shift passes: how many positions, and Σ (v − center) over them

In `sums` and `input`, dy may count only where a ReLU passes: one that made `out`, or one of (v − center)·gain + shift.

Maps may have any memory layout: a map that is not dense is copied first
(`senet.fused.passes.pointers`). Results have v's layout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["compute_dtype", "positions"]


def compute_dtype(v: Tensor) -> torch.dtype:
    """The dtype of sums: float64 for float64, else float32."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def positions(v: Tensor) -> int:
    """The number of positions of each map of v."""
    return math.prod(v.shape[2:])
