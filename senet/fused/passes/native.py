"""The passes in C (c/passes.c), over as many threads as PyTorch uses."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from senet.fused.passes.compiled import CompiledPasses
from senet.fused.passes.pointers import address, layout, like, per_map, writable
from senet.fused.passes.protocol import compute_dtype, positions

__all__ = ["NativePasses"]

_SMALL = 1 << 14  # elements below which a second thread costs more than it saves


class NativePasses(CompiledPasses):
    """The passes on the CPU. A call that gets no memory for its scratch space does not run."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

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
        flags = [int(relu)] if name == "affine" else []
        function = getattr(self.functions, f"{name}_{kind}_{str(v.dtype).removeprefix('torch.')}")
        return bool(function(*map(address, maps), *sizes, *map(address, values), *flags, threads))
