"""What a way to compute the passes must give, as plain functions: a rented GPU may have no pytest."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.protocol import compute_dtype

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass
class Case:
    shape: tuple[int, ...]
    dtype: torch.dtype
    last: bool

    def tensor(self, offset: float = 0.0) -> Tensor:
        x = (torch.randn(self.shape) + offset).to(self.dtype)
        return x.contiguous(memory_format=LAST[x.dim()]) if self.last else x


CASES = [
    Case(shape, dtype, last)
    for shape in ((2, 5, 7, 9), (3, 70, 4, 5), (1, 16, 40, 40), (1, 3, 300, 2), (2, 4, 2, 3, 4), (2, 3, 11))
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for last in (False, True)
    if not last or len(shape) > 3
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def check_passes(case: Case, ways: TorchPasses) -> None:
    """Each pass against PyTorch's operations."""
    exact = TorchPasses()
    v, dy, out, other = case.tensor(3), case.tensor(), case.tensor(), case.tensor()
    accumulated = compute_dtype(v)
    p = [torch.randn(case.shape[:2], dtype=accumulated) for _ in range(4)]

    def same(a: Tensor, b: Tensor) -> None:
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        tolerance = TOLERANCE[torch.float32 if a.dtype == torch.float64 != case.dtype else a.dtype]
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))

    for a, b in zip(ways.stats(v), exact.stats(v), strict=True):
        same(a, b)
    for added in (None, other):
        for relu in (False, True):
            same(ways.affine(v, *p[:3], added, relu), exact.affine(v, *p[:3], added, relu))
    for rectified in (None, out):
        for keep in (False, True):
            for a, b in zip(
                ways.sums(dy, v, p[0], rectified, keep), exact.sums(dy, v, p[0], rectified, keep), strict=True
            ):
                same(a, b)
        same(ways.input(dy, v, *p, rectified), exact.input(dy, v, *p, rectified))
    away_from_threshold(v, *p[:3])
    given = {"through": tuple(p[:3])}
    for a, b in zip(ways.sums(dy, v, p[3], **given), exact.sums(dy, v, p[3], **given), strict=True):
        same(a, b)
    given = {"through": (p[1], p[2], p[3])}
    same(ways.input(dy, v, *p, **given), exact.input(dy, v, *p, **given))
    (n0, n1), (m0, m1) = ways.passed(v, *p[:3]), exact.passed(v, *p[:3])
    assert torch.equal(n0, m0)
    torch.testing.assert_close(n1, m1, rtol=0, atol=TOLERANCE[torch.float32] * float(m1.abs().max()))


def away_from_threshold(v: Tensor, center: Tensor, gain: Tensor, shift: Tensor) -> None:
    """Change the shift of maps in which (v − center)·gain + shift is so near 0 that rounding decides its sign."""
    v, center, gain = v.flatten(2).double(), center[..., None].double(), gain[..., None].double()
    for _ in range(100):
        close = ((v - center) * gain + shift[..., None].double()).abs().amin(2) < 1e-5 * (1 + gain[..., 0].abs())
        shift += 1e-3 * close
    assert not close.any()


class Moved:
    """A way to compute the passes on another device, of tensors that come from and go back to the CPU."""

    def __init__(self, ways: TorchPasses, device: str) -> None:
        self.ways, self.device = ways, device

    def __getattr__(self, name):
        def run(*args, **kwargs):
            moved = [a.to(self.device) if isinstance(a, Tensor) else a for a in args]
            result = getattr(self.ways, name)(*moved, **kwargs)
            return tuple(each.cpu() for each in result) if isinstance(result, tuple) else result.cpu()

        return run
