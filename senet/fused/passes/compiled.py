"""What the passes in C and in Triton have in common: which tensors each pass reads, writes and gives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from senet.fused.passes.operations import Coefficients, TorchPasses
from senet.fused.passes.pointers import dense, like, per_map, writable
from senet.fused.passes.protocol import compute_dtype

__all__ = ["Call", "CompiledPasses"]

_NOTHING = (None, None, None)  # in the place of coefficients


class Call(NamedTuple):
    """A call of a compiled function.

    Attributes:
        name: the pass.
        v: a dense activation, whose layout and dtype select the function.
        read: maps of v's shape; None for one that this call does without.
        written: new maps like v, likewise.
        given: values per sample and channel; None as in `read`.
        results: new tensors (N, C).
        relu: whether `affine` rectifies.
    """

    name: str
    v: Tensor
    read: list[Tensor | None]
    written: list[Tensor | None]
    given: list[Tensor | None]
    results: list[Tensor]
    relu: bool = False

    # Keep what these return until the function has run: it may hold copies, and an address alone keeps nothing alive.
    def maps(self) -> list[Tensor | None]:
        """The maps, read and then written, with v's dtype and layout."""
        read = [None if x is None else like(x, self.v) for x in self.read]
        return read + [None if x is None else writable(x, self.v) for x in self.written]

    def values(self) -> list[Tensor | None]:
        """The values and the results, contiguous (N, C)."""
        to = compute_dtype(self.v)
        return [*(None if x is None else per_map(x, self.v, to) for x in self.given), *self.results]


class CompiledPasses(TorchPasses):
    """The passes of `senet.fused.passes.protocol` by compiled functions.

    If a function cannot run, PyTorch's operations do that call.
    """

    def _run(self, call: Call) -> bool:
        """Call the function of a pass; return False if it did not run."""
        raise NotImplementedError

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        mean, m2 = _per_map(v, torch.float64), _per_map(v, torch.float64)
        done = self._run(Call("stats", v, [v], [], [], [mean, m2]))
        return (mean, m2) if done else super().stats(v)

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `TorchPasses` says."""
        v = dense(v)
        out = torch.empty_like(v)
        done = self._run(Call("affine", v, [v, other], [out], [center, scale, shift], [], relu))
        return out if done else super().affine(v, center, scale, shift, other, relu)

    def sums(
        self,
        dy: Tensor,
        v: Tensor,
        mean: Tensor,
        out: Tensor | None = None,
        keep: bool = False,
        through: Coefficients | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        kept = torch.empty_like(v) if keep and out is not None else None
        s0, s1 = _per_map(v), _per_map(v)
        done = self._run(Call("sums", v, [dy, v, out], [kept], [mean, *(through or _NOTHING)], [s0, s1]))
        return (s0, s1, dy if kept is None else kept) if done else super().sums(dy, v, mean, out, keep, through)

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
        """As `TorchPasses` says."""
        v = dense(v)
        dv = torch.empty_like(v)
        done = self._run(Call("input", v, [dy, v, out], [dv], [center, scale, c1, c0, *(through or _NOTHING)], []))
        return dv if done else super().input(dy, v, center, scale, c1, c0, out, through)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `TorchPasses` says."""
        v = dense(v)
        n0, n1 = _per_map(v), _per_map(v)
        done = self._run(Call("passed", v, [v], [], [center, scale, shift], [n0, n1]))
        return (n0, n1) if done else super().passed(v, center, scale, shift)


def _per_map(v: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(v.shape[:2], dtype=dtype or compute_dtype(v), device=v.device)
