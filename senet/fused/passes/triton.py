"""The passes on CUDA, through Triton's kernels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from senet.fused.passes.protocol import compute_dtype, layout

__all__ = ["TritonPasses", "available"]


@functools.cache
def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def kernels() -> Any:
    """The module of kernels; Triton is loaded with it."""
    return importlib.import_module("senet.fused.passes.triton_kernels")


class TritonPasses:
    """The passes of `senet.fused.passes.protocol.Passes`, on CUDA tensors (or, in Triton's interpreter, on any)."""

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        mean, m2 = (torch.empty(v.shape[:2], dtype=torch.float64, device=v.device) for _ in range(2))
        last, (channels, space), (c, s) = _shape(v, reduces=True)
        double = v.dtype == torch.float64
        grid = (_blocks(channels, c), len(v))
        _launch(kernels().stats, grid, v, v, mean, m2, channels, space, LAST=last, DOUBLE=double, C=c, S=s)
        return mean, m2

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `Passes` says."""
        out = torch.empty_like(v)
        last, (channels, space), (c, s) = _shape(v)
        given = (x.expand(v.shape[:2]).contiguous() for x in (center, scale, shift))
        grid = (_blocks(channels, c), _blocks(space, s), len(v))
        maps = (v, v if other is None else other, out)
        _launch(
            kernels().affine,
            grid,
            v,
            *maps,
            *given,
            channels,
            space,
            ADD=other is not None,
            RELU=relu,
            LAST=last,
            C=c,
            S=s,
        )
        return out

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Passes` says."""
        keep = keep and out is not None
        kept = torch.empty_like(v) if keep else dy
        s0, s1 = (torch.empty(v.shape[:2], dtype=compute_dtype(v), device=v.device) for _ in range(2))
        last, (channels, space), (c, s) = _shape(v, reduces=True)
        grid = (_blocks(channels, c), len(v))
        maps = (dy, v, v if out is None else out, kept)
        given = (mean.contiguous(), s0, s1, channels, space)
        _launch(kernels().sums, grid, v, *maps, *given, RELU=out is not None, KEEP=keep, LAST=last, C=c, S=s)
        return s0, s1, kept

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        n0, n1 = (torch.empty(v.shape[:2], dtype=compute_dtype(v), device=v.device) for _ in range(2))
        last, (channels, space), (c, s) = _shape(v, reduces=True)
        given = (x.expand(v.shape[:2]).contiguous() for x in (center, scale, shift))
        grid = (_blocks(channels, c), len(v))
        _launch(kernels().passed, grid, v, v, *given, n0, n1, channels, space, LAST=last, C=c, S=s)
        return n0, n1

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
        extra = scale.new_zeros(()) if extra is None else extra
        dv = torch.empty_like(v)
        last, (channels, space), (c, s) = _shape(v)
        given = (x.expand(v.shape[:2]).contiguous() for x in (center, scale, c1, c0, extra))
        grid = (_blocks(channels, c), _blocks(space, s), len(v))
        maps = (dy, v, v if out is None else out, dv)
        _launch(
            kernels().input_gradient, grid, v, *maps, *given, channels, space, RELU=out is not None, LAST=last, C=c, S=s
        )
        return dv


def _shape(v: Tensor, *, reduces: bool = False) -> tuple[bool, tuple[int, int], tuple[int, int]]:
    """Whether channels lie last, how many they are and how many positions, and the block of both for a program."""
    samples, channels = v.shape[:2]
    space = v.numel() // (samples * channels)
    if layout(v) == "rows":
        wide = min(1024, _power_of_2(space))
        return False, (channels, space), (max(1, min(1024 // wide, 16)), wide)
    wide = min(64 if reduces else 128, _power_of_2(channels))
    return True, (channels, space), (wide, max(1, min(4096 // wide, _power_of_2(space))))


def _launch(kernel: Any, grid: tuple[int, ...], v: Tensor, *args: Any, **options: Any) -> None:
    """Run a kernel on v's own device, which need not be the current one."""
    if v.device.type == "cuda":
        with torch.cuda.device(v.device):
            kernel[grid](*args, **options)
    else:
        kernel[grid](*args, **options)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _power_of_2(n: int) -> int:
    """The least power of 2 that is not below n."""
    return 1 << (n - 1).bit_length()
