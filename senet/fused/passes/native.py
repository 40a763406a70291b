"""The passes in C (c/passes.c), over as many threads as PyTorch uses."""

from __future__ import annotations

import ctypes

import torch

from senet.fused.passes.compiled import Call, CompiledPasses
from senet.fused.passes.pointers import address, layout
from senet.fused.passes.protocol import positions

__all__ = ["NativePasses"]

_SMALL = 1 << 14  # elements below which a second thread costs more than it saves


class NativePasses(CompiledPasses):
    """The passes on the CPU. A call that gets no memory for its scratch space does not run."""

    def __init__(self, functions: ctypes.CDLL) -> None:
        self.functions = functions

    def _run(self, call: Call) -> bool:
        v = call.v
        samples, channels = v.shape[:2]
        space = positions(v)
        threads = torch.get_num_threads() if v.numel() >= _SMALL else 1
        kind = layout(v)
        pieces = min(-(-threads // max(samples, 1)), space)  # per sample, so that few samples keep all threads busy
        sizes = (samples * channels, space) if kind == "rows" else (samples, space, channels, pieces)
        maps, values = call.maps(), call.values()
        flags = [int(call.relu)] if call.name == "affine" else []
        function = getattr(self.functions, f"{call.name}_{kind}_{str(v.dtype).removeprefix('torch.')}")
        return bool(function(*map(address, maps), *sizes, *map(address, values), *flags, threads))
