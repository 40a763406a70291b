"""The passes on CUDA, through Triton's kernels (triton_kernels.py)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from typing import Any

import torch
from torch import Tensor

from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.pointers import address, dense, layout, like, per_map, writable
from senet.fused.passes.protocol import compute_dtype, positions

__all__ = ["TritonPasses", "available"]

log = logging.getLogger("senet")
_GRID = (1 << 16) - 1  # the most programs along the second and third axes of a CUDA grid


@functools.cache
def available() -> bool:
    """Whether Triton is installed and its kernels can be loaded."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        kernels()
    except Exception as error:  # a Triton for other devices, or of another version: slower, but no reason to stop
        _say(error)
        return False
    return True


@functools.cache
def kernels() -> Any:
    """The module of kernels; Triton is loaded with it."""
    return importlib.import_module("senet.fused.passes.triton_kernels")


class TritonPasses(TorchPasses):
    """The passes of `senet.fused.passes.protocol.Passes`, on CUDA tensors (or, in Triton's interpreter, on any).

    If a kernel cannot be compiled, or the batch is larger than a grid, PyTorch's operations do its work.
    """

    def stats(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        v = dense(v)
        results = [torch.empty(v.shape[:2], dtype=torch.float64, device=v.device) for _ in range(2)]
        done = _reduce("stats", v, [v], [], [], results, DOUBLE=v.dtype == torch.float64)
        return (results[0], results[1]) if done else super().stats(v)

    def affine(
        self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor, other: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """As `Passes` says."""
        v = dense(v)
        out = torch.empty_like(v)
        added = v if other is None else other
        done = _map("affine", v, [v, added], [out], [center, scale, shift], ADD=other is not None, RELU=relu)
        return out if done else super().affine(v, center, scale, shift, other, relu)

    def sums(
        self, dy: Tensor, v: Tensor, mean: Tensor, out: Tensor | None = None, keep: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `Passes` says."""
        v = dense(v)
        # Kernels have no null, so unused arguments get an existing tensor.
        kept = torch.empty_like(v) if keep and out is not None else None
        read, written = [dy, v, v if out is None else out], [] if kept is None else [kept]
        s0, s1 = _per_map(v), _per_map(v)
        options = {"RELU": out is not None, "KEEP": kept is not None}
        done = _reduce("sums", v, read if written else [*read, v], written, [mean], [s0, s1], **options)
        return (s0, s1, dy if kept is None else kept) if done else super().sums(dy, v, mean, out, keep)

    def passed(self, v: Tensor, center: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """As `Passes` says."""
        v = dense(v)
        n0, n1 = _per_map(v), _per_map(v)
        done = _reduce("passed", v, [v], [], [center, scale, shift], [n0, n1])
        return (n0, n1) if done else super().passed(v, center, scale, shift)

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
        values = [center, scale, c1, c0, scale.new_zeros(()) if extra is None else extra]
        done = _map("input_gradient", v, [dy, v, v if out is None else out], [dv], values, RELU=out is not None)
        return dv if done else super().input(dy, v, center, scale, c1, c0, out, extra)


def _per_map(v: Tensor) -> Tensor:
    return torch.empty(v.shape[:2], dtype=compute_dtype(v), device=v.device)


def block_sizes(v: Tensor, *, reduces: bool) -> tuple[int, int]:
    """The numbers of channels and positions of v that a kernel's program handles at a time: powers of 2."""
    channels, space = v.shape[1], positions(v)
    if layout(v) == "rows":
        wide = min(1024, _power_of_2(space))
        return max(1, min(1024 // wide, 16)), wide
    wide = min(64 if reduces else 128, _power_of_2(channels))
    return wide, max(1, min(4096 // wide, _power_of_2(space)))


def _reduce(
    name: str,
    v: Tensor,
    read: list[Tensor],
    written: list[Tensor],
    given: list[Tensor],
    results: list[Tensor],
    **options: bool,
) -> bool:
    """Launch a kernel whose programs sum over whole maps; return False if it cannot run."""
    c, s = block_sizes(v, reduces=True)
    grid = (_blocks(v.shape[1], c), len(v))
    return _launch(name, grid, v, read, written, given, results, C=c, S=s, **options)


def _map(name: str, v: Tensor, read: list[Tensor], written: list[Tensor], given: list[Tensor], **options: bool) -> bool:
    """Launch a kernel whose programs handle parts of maps; return False if it cannot run."""
    c, s = block_sizes(v, reduces=False)
    grid = (_blocks(v.shape[1], c), _blocks(positions(v), s), len(v))
    return _launch(name, grid, v, read, written, given, [], C=c, S=s, **options)


def _launch(
    name: str,
    grid: tuple[int, ...],
    v: Tensor,
    read: list[Tensor],
    written: list[Tensor],
    given: list[Tensor],
    results: list[Tensor],
    **options: Any,
) -> bool:
    maps = [like(x, v) for x in read] + [writable(x, v) for x in written]
    tensors = [*maps, *(per_map(x, v, compute_dtype(v)) for x in given), *results]
    for x in tensors:
        address(x)
    if not v.numel():
        return True
    arguments = (*tensors, v.shape[1], positions(v))
    kernel = getattr(kernels(), name)
    if name in _failed or max(grid[1:]) > _GRID:
        return False
    try:
        if v.device.type == "cuda":
            with torch.cuda.device(v.device):  # v's device may not be the current one
                kernel[grid](*arguments, LAST=layout(v) == "last", **options)
        else:
            kernel[grid](*arguments, LAST=layout(v) == "last", **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no assembler, no compiler for the launcher, or too old a device
        _failed.add(name)
        _say(error)
        return False
    return True


_failed: set[str] = set()  # kernels that this machine cannot compile: logged once, and not tried again


def _say(error: Exception) -> None:
    log.info("Triton's kernels do not run here (%s): PyTorch's operations are used, which is slower", error)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _power_of_2(n: int) -> int:
    """The least power of 2 that is at least n."""
    return 1 << (n - 1).bit_length()
