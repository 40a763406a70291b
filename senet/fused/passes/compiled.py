"""What the passes in C and in Triton have in common: which tensors each pass reads, writes and gives."""

from __future__ import annotations

import torch
from torch import Tensor

from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.pointers import dense
from senet.fused.passes.protocol import compute_dtype

__all__ = ["CompiledPasses"]


class CompiledPasses(TorchPasses):
    """The passes of `senet.fused.passes.protocol` by compiled functions.

    If a function cannot run, PyTorch's operations do that call.
    """

    def _run(
        self,
        name: str,
        v: Tensor,
        read: list[Tensor | None],
        written: list[Tensor | None],
        given: list[Tensor],
        results: list[Tensor],
        *,
        relu: bool = False,
    ) -> bool:
        """Call the function of a pass; return False if it did not run.

        Args:
            name: the pass.
            v: a dense activation, whose layout and dtype select the function.
            read: maps of v's shape; None for one that this call does without.
            written: new maps like v, likewise.
            given: values per sample and channel.
            results: new tensors (N, C).
            relu: whether `affine` rectifies.
        """
        raise NotImplementedError

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        mean, m2 = _per_map(v, torch.float64), _per_map(v, torch.float64)
        done = self._run("stats", v, [v], [], [], [mean, m2])
        return (mean, m2) if done else super().stats(v)

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `TorchPasses` says."""
        v = dense(v)
        out = torch.empty_like(v)
        done = self._run("affine", v, [v, other], [out], [center, scale, shift], [], relu=relu)
        return out if done else super().affine(v, center, scale, shift, other, relu)

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        kept = torch.empty_like(v) if keep and out is not None else None
        s0, s1 = _per_map(v), _per_map(v)
        done = self._run("sums", v, [dy, v, out], [kept], [mean], [s0, s1])
        return (s0, s1, dy if kept is None else kept) if done else super().sums(dy, v, mean, out, keep)

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
        """As `TorchPasses` says."""
        v = dense(v)
        dv = torch.empty_like(v)
        added = scale.new_zeros(()) if extra is None else extra
        done = self._run("input", v, [dy, v, out], [dv], [center, scale, c1, c0, added], [])
        return dv if done else super().input(dy, v, center, scale, c1, c0, out, extra)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        n0, n1 = _per_map(v), _per_map(v)
        done = self._run("passed", v, [v], [], [center, scale, shift], [n0, n1])
        return (n0, n1) if done else super().passed(v, center, scale, shift)


def _per_map(v: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(v.shape[:2], dtype=dtype or compute_dtype(v), device=v.device)
