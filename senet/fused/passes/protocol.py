"""The passes over an activation that normalisation and SE need together, on whatever machine.

An activation v is (N, C, *space), contiguous or channels last. What a pass is given or gives per sample and channel
is (N, C), or broadcasts to it, in float32, or float64 for float64; `stats` gives float64 always, since where a mean is
many standard deviations its own rounding would be seen.

    stats   v                                    -> mean and sum of squared deviations over space
    affine  (v − center)·scale + shift [+ other] [ReLU]
    sums    dy, v                                -> Σ dy and Σ dy·(v − mean) over space
    input   scale·dy + c1·(v − center) + c0      -> the gradient of v
    passed  where a ReLU of (v − center)·scale + shift passes: how many positions, and Σ (v − center) over them
"""

from __future__ import annotations

import ctypes
from typing import Protocol

import torch
from torch import Tensor

from senet.fused.passes.native import library

__all__ = ["Passes", "compute_dtype", "layout", "passes_for"]

_SMALL = 1 << 14  # elements, below which a second thread costs more than it does


class Passes(Protocol):
    """One way of doing the passes."""

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

        Where `out` is given, dy is taken where out is not ≤ 0, as the ReLU that made `out` passes it back; with
        `keep` the third result is that dy, else the one that was given.
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
        """scale·dy + c1·(v − center) + c0, like v; `out` as in `sums`, and `extra` is added where that passes."""

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of each map that a ReLU of the affine pass lets through, and Σ (v − center) over them."""


def compute_dtype(v: Tensor) -> torch.dtype:
    """What sums are taken in: float64 for float64, else float32."""
    return torch.float64 if v.dtype == torch.float64 else torch.float32


def layout(v: Tensor) -> str:
    """How the elements of v lie: "rows" (contiguous), "last" (channels last) or "" (otherwise)."""
    if v.is_contiguous():
        return "rows"
    if v.dim() == 4 and v.is_contiguous(memory_format=torch.channels_last):
        return "last"
    if v.dim() == 5 and v.is_contiguous(memory_format=torch.channels_last_3d):
        return "last"
    return ""


def like(x: Tensor, v: Tensor) -> Tensor:
    """X with v's dtype and layout."""
    x = x.to(v.dtype)
    return x if x.stride() == v.stride() else torch.empty_like(v).copy_(x)


def passes_for(v: Tensor) -> Passes | None:
    """The fastest way of doing the passes over v that this machine has; None where there is none."""
    if v.device.type == "cpu":
        found = library()
        if found is not None and (v.dtype != torch.float16 or hasattr(found, "stats_rows_float16")):
            return NativePasses(found)
        return TorchPasses()
    if v.device.type == "cuda":
        from senet.fused.passes.triton import TritonPasses, available

        return TritonPasses() if available() else TorchPasses()
    return None


class TorchPasses:
    """The passes in PyTorch's operations: for a machine without a compiler, and to check the others against."""

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        x = v.flatten(2).to(compute_dtype(v))
        near = x.mean(2, keepdim=True)
        deviations = x - near
        rest = deviations.mean(2, dtype=torch.float64)
        m2 = deviations.square_().sum(2, dtype=torch.float64) - rest.square() * x.shape[2]
        return near[..., 0] + rest, m2

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `Passes` says."""
        center, scale, shift = (_over_space(x, v) for x in (center, scale, shift))
        y = torch.addcmul(shift, v - center, scale)
        if other is not None:
            y += other
        return (y.relu_() if relu else y).to(v.dtype)

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Passes` says."""
        kept = dy if out is None else torch.where(out <= 0, 0, dy)
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
        extra: Tensor | None = None,
    ) -> Tensor:
        """As `Passes` says."""
        center, scale, c1, c0 = (_over_space(x, v) for x in (center, scale, c1, c0))
        du = dy.to(scale.dtype) * scale
        if out is not None:
            du = torch.where(out <= 0, 0, du if extra is None else du + _over_space(extra, v))
        return torch.addcmul(du + c0, v - center, c1).to(v.dtype)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        deviations = v - _over_space(center, v)
        through = torch.addcmul(_over_space(shift, v), deviations, _over_space(scale, v)) > 0
        space = list(range(2, v.dim()))
        return through.sum(space, dtype=scale.dtype), (deviations * through).sum(space)


def _over_space(x: Tensor, v: Tensor) -> Tensor:
    return x[(...,) + (None,) * (v.dim() - 2)]


class NativePasses:
    """The passes in C (passes.c), over as many threads as PyTorch uses."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        mean, m2 = (torch.empty(v.shape[:2], dtype=torch.float64) for _ in range(2))
        self._run("stats", v, [v], [], [mean, m2])
        return mean, m2

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `Passes` says."""
        out = torch.empty_like(v)
        self._run("affine", v, [v, other, out], [center, scale, shift], [int(relu)])
        return out

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Passes` says."""
        kept = torch.empty_like(v) if keep and out is not None else None
        s0, s1 = _per_map(v), _per_map(v)
        self._run("sums", v, [dy, v, out, kept], [mean], [s0, s1])
        return s0, s1, dy if kept is None else kept

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
        dv = torch.empty_like(v)
        extra = torch.zeros((), dtype=scale.dtype) if extra is None else extra
        self._run("input", v, [dy, v, out, dv], [center, scale, c1, c0, extra], [])
        return dv

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        n0, n1 = _per_map(v), _per_map(v)
        self._run("passed", v, [v], [center, scale, shift], [n0, n1])
        return n0, n1

    def _run(
        self, name: str, v: Tensor, maps: list[Tensor | None], given: list[Tensor], rest: list[Tensor | int]
    ) -> None:
        """Call one function: maps in v's layout, their sizes, parameters (N, C), results (N, C) or flags."""
        samples, channels = v.shape[:2]
        space = v.numel() // (samples * channels)
        threads = torch.get_num_threads() if v.numel() >= _SMALL else 1
        kind = layout(v)
        pieces = -(-threads // samples)
        sizes = (samples * channels, space) if kind == "rows" else (samples, space, channels, min(pieces, space))
        given = [x.expand(samples, channels).contiguous() for x in given]  # held until the call returns
        words: list[object] = [ctypes.c_void_p(x.data_ptr() if x is not None else None) for x in maps]
        words += [ctypes.c_long(size) for size in sizes]
        words += [ctypes.c_void_p(x.data_ptr()) for x in given]
        words += [x if isinstance(x, int) else ctypes.c_void_p(x.data_ptr()) for x in rest]
        function = getattr(self.functions, f"{name}_{kind}_{str(v.dtype).removeprefix('torch.')}")
        function(*words, threads)


def _per_map(v: Tensor) -> Tensor:
    return torch.empty(v.shape[:2], dtype=compute_dtype(v))
