"""The passes in PyTorch's operations."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.fused.passes.protocol import compute_dtype

__all__ = ["Coefficients", "TorchPasses"]

Coefficients = tuple[Tensor, Tensor, Tensor]
"""Three values per sample and channel."""


class TorchPasses:
    """The passes in PyTorch's operations.

    They serve machines without a compiler and tensors that compiled code does not support. The other
    implementations are subclasses, and are tested against them.
    """

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and sum of squared deviations over space: v (N, C, *space) -> two of (N, C)."""
        x = v.flatten(2).to(compute_dtype(v))
        near = x.mean(2, keepdim=True)
        deviations = x - near
        rest = deviations.mean(2, dtype=torch.float64)
        m2 = deviations.square_().sum(2, dtype=torch.float64) - rest.square() * x.shape[2]
        return near[..., 0] + rest, m2

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """(v − center)·scale + shift, plus `other`, rectified: like v."""
        center, scale, shift = (_over_space(x, v) for x in (center, scale, shift))
        y = torch.addcmul(shift, v - center, scale)
        if other is not None:
            y += other
        return (y.relu_() if relu else y).to(v.dtype)

    def sums(
        self,
        dy: Tensor,
        v: Tensor,
        mean: Tensor,
        out: Tensor | None = None,
        keep: bool = False,
        through: Coefficients | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Σ dy and Σ dy·(v − mean) over space, (N, C), and dy.

        With `out`, dy counts only where out is not ≤ 0, as in the backward pass of the ReLU that
        made `out`. With `keep` the third result is that dy, else the given one. With `through`, which is (center,
        gain, shift), dy counts only where (v − center)·gain + shift is not ≤ 0; it excludes `out`.
        """
        kept = _through(dy, v, out, through)
        space = list(range(2, v.dim()))
        d = kept.to(mean.dtype)
        return d.sum(space), (d * (v - _over_space(mean, v))).sum(space), kept if keep else dy

    def input(
        self,
        dy: Tensor,
        v: Tensor,
        center: Tensor,
        scale: Tensor,
        c1: Tensor,
        c0: Tensor,
        out: Tensor | None = None,
        through: Coefficients | None = None,
    ) -> Tensor:
        """scale·dy + c1·(v − center) + c0, like v.

        `out` as in `sums`. With `through`, which is (gain, shift, extra), the first term is scale·dy + extra where
        (v − center)·gain + shift is not ≤ 0, else 0.
        """
        du = dy.to(scale.dtype) * _over_space(scale, v)
        if through is not None:
            gain, shift, extra = through
            du, through = du + _over_space(extra, v), (center, gain, shift)
        du = _through(du, v, out, through)
        center, c1, c0 = (_over_space(x, v) for x in (center, c1, c0))
        return torch.addcmul(du + c0, v - center, c1).to(v.dtype)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The number of positions of each map that pass a ReLU of the affine pass, and Σ (v − center) over them."""
        deviations = v - _over_space(center, v)
        through = ~(torch.addcmul(_over_space(shift, v), deviations, _over_space(scale, v)) <= 0)  # NaN passes
        space = list(range(2, v.dim()))
        return through.sum(space, dtype=scale.dtype), (deviations * through).sum(space)


def _through(dy: Tensor, v: Tensor, out: Tensor | None, through: Coefficients | None) -> Tensor:
    """Dy where a ReLU lets it through, else 0."""
    if through is not None:
        center, gain, shift = (_over_space(x, v) for x in through)
        out = torch.addcmul(shift, v - center, gain)
    return dy if out is None else torch.where(out <= 0, 0, dy)


def _over_space(x: Tensor, v: Tensor) -> Tensor:
    return x[(...,) + (None,) * (v.dim() - 2)]
