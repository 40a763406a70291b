"""The interface of the five passes over an activation that fused normalisation and SE need.

An activation v is (N, C, *space). Values per sample and channel are (N, C), or broadcast to it, in
float32, or float64 for float64. `stats` always returns float64, because a mean of many standard
deviations would show its rounding.

    stats   v                                    -> mean and sum of squared deviations over space
    affine  (v − center)·scale + shift [+ other] [ReLU]
    sums    dy, v                                -> Σ dy and Σ dy·(v − mean) over space
    input   scale·dy + c1·(v − center) + c0      -> the gradient of v
    passed  where a ReLU of (v − center)·scale + shift passes: how many positions, and Σ (v − center) over them

Maps may have any memory layout: a map that is not dense is copied first
(`senet.fused.passes.pointers`). Results have v's layout.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Passes", "compute_dtype", "positions"]


class Passes(Protocol):
    """An implementation of the passes."""

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sum of squared deviations over space: v (N, C, *space) -> two of (N, C)."""

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """(v − center)·scale + shift, plus `other`, rectified: like v."""

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Σ dy and Σ dy·(v − mean) over space, (N, C), and dy.

        With `out`, dy counts only where out is not ≤ 0, as in the backward pass of the ReLU that
        made `out`. With `keep` the third result is that dy, else the given one.
        """

    def input(
        self,
        dy: Tensor,
        v: Tensor,
        center: Tensor,
        scale: Tensor,
        c1: Tensor,
        c0: Tensor,
        out: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """scale·dy + c1·(v − center) + c0, like v; `out` as in `sums`, and `extra` is added where out passes."""

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The number of positions of each map that pass a ReLU of the affine pass, and Σ (v − center) over them."""


def compute_dtype(v: Tensor) -> torch.dtype:
    """The dtype of sums: float64 for float64, else float32."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def positions(v: Tensor) -> int:
    """The number of positions of each map of v."""
    return math.prod(v.shape[2:])
