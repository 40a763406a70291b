"""The passes on CUDA, through Triton's kernels (triton_kernels.py)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from senet.fused.passes.compiled import Call, CompiledPasses
from senet.fused.passes.pointers import address, layout
from senet.fused.passes.protocol import positions

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


class TritonPasses(CompiledPasses):
    """The passes on CUDA tensors (or, in Triton's interpreter, on any).

    A kernel that cannot be compiled does not run, nor does one for a batch larger than a grid.
    """

    def _run(self, call: Call) -> bool:
        name, v, results = call.name, call.v, call.results
        # Kernels have no null, so v stands for what a call does without, and flags say so.
        tensors = [v if x is None else x for x in (*call.maps(), *call.values())]
        for x in tensors:
            address(x)
        if not v.numel():
            return True
        channels, space, optional = v.shape[1], positions(v), call.read[-1] is not None
        keep, through = (all(x is not None for x in each) for each in (call.written, call.given))
        flags = {
            "stats": {"DOUBLE": v.dtype == torch.float64},
            "affine": {"ADD": optional, "RELU": call.relu},
            "sums": {"RELU": optional, "KEEP": keep, "THROUGH": through},
            "passed": {},
            "input": {"RELU": optional, "THROUGH": through},
        }[name]
        c, s = block_sizes(v, reduces=bool(results))
        grid = (_blocks(channels, c), *([] if results else [_blocks(space, s)]), len(v))
        kernel = getattr(kernels(), "input_gradient" if name == "input" else name)
        if name in _failed or max(grid[1:]) > _GRID:
            return False
        # v's device may not be the current one
        device: AbstractContextManager[Any] = torch.cuda.device(v.device) if v.is_cuda else nullcontext()
        try:
            with device:
                kernel[grid](*tensors, channels, space, **flags, LAST=layout(v) == "last", C=c, S=s)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no assembler, no compiler for the launcher, or too old a device
            _failed.add(name)
            _say(error)
            return False
        return True


def block_sizes(v: Tensor, *, reduces: bool) -> tuple[int, int]:
    """The numbers of channels and positions of v that a kernel's program handles at a time: powers of 2."""
    channels, space = v.shape[1], positions(v)
    if layout(v) == "rows":
        wide = min(1024, _power_of_2(space))
        return max(1, min(1024 // wide, 16)), wide
    wide = min(64 if reduces else 128, _power_of_2(channels))
    return wide, max(1, min(4096 // wide, _power_of_2(space)))


_failed: set[str] = set()  # kernels that this machine cannot compile: logged once, and not tried again


def _say(error: Exception) -> None:
    log.info("Triton's kernels do not run here (%s): PyTorch's operations are used, which is slower", error)


def _blocks(n: int, size: int) -> int:
    return -(-n // size)


def _power_of_2(n: int) -> int:
    """The least power of 2 that is at least n."""
    return 1 << (n - 1).bit_length()
