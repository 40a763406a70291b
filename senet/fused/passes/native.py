"""The passes in C (c/passes.c), over as many threads as PyTorch uses."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from senet.fused.passes.library import library
from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.pointers import address, dense, layout, like, per_map, writable
from senet.fused.passes.protocol import compute_dtype, positions

__all__ = ["NativePasses", "library"]

_SMALL = 1 << 14  # elements below which a second thread costs more than it saves


class NativePasses(TorchPasses):
    """The passes of `senet.fused.passes.protocol.Passes` on the CPU.

    If memory for a call's scratch space is exhausted, PyTorch's operations do that call.
    """

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        v = dense(v)
        mean, m2 = _per_map(v, torch.float64), _per_map(v, torch.float64)
        done = self._run("stats", v, [v], [], [], [mean, m2])
        return (mean, m2) if done else super().stats(v)

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `Passes` says."""
        v = dense(v)
        out = torch.empty_like(v)
        done = self._run("affine", v, [v, other], [out], [center, scale, shift], [], int(relu))
        return out if done else super().affine(v, center, scale, shift, other, relu)

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Passes` says."""
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
        """As `Passes` says."""
        v = dense(v)
        dv = torch.empty_like(v)
        added = scale.new_zeros(()) if extra is None else extra
        done = self._run("input", v, [dy, v, out], [dv], [center, scale, c1, c0, added], [])
        return dv if done else super().input(dy, v, center, scale, c1, c0, out, extra)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        v = dense(v)
        n0, n1 = _per_map(v), _per_map(v)
        done = self._run("passed", v, [v], [], [center, scale, shift], [n0, n1])
        return (n0, n1) if done else super().passed(v, center, scale, shift)

    def _run(
        self,
        name: str,
        v: Tensor,
        read: list[Tensor | None],
        written: list[Tensor | None],
        given: list[Tensor],
        results: list[Tensor],
        *flags: int,
    ) -> bool:
        """Call a C function; return False if it had no memory.

        Args:
            name: the pass.
            v: a dense activation, whose layout and dtype select the function.
            read: maps of v's shape.
            written: new maps like v.
            given: values per sample and channel.
            results: new tensors (N, C).
            flags: the function's other arguments.
        """
        samples, channels = v.shape[:2]
        space = positions(v)
        threads = torch.get_num_threads() if v.numel() >= _SMALL else 1
        kind = layout(v)
        pieces = min(-(-threads // max(samples, 1)), space)  # per sample, so that few samples keep all threads busy
        sizes = (samples * channels, space) if kind == "rows" else (samples, space, channels, pieces)
        # Keep copies until the call returns: an address alone keeps nothing alive.
        maps = [None if x is None else like(x, v) for x in read] + [
            None if x is None else writable(x, v) for x in written
        ]
        values = [per_map(x, v, compute_dtype(v)) for x in given] + results
        function = getattr(self.functions, f"{name}_{kind}_{str(v.dtype).removeprefix('torch.')}")
        return bool(function(*map(address, maps), *sizes, *map(address, values), *flags, threads))


def _per_map(v: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(v.shape[:2], dtype=dtype or compute_dtype(v), device=v.device)
