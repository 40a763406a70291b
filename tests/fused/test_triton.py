"""The Triton kernels, in Triton's own interpreter on the CPU, against PyTorch's operations."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

INTERPRETED = """
import warnings
warnings.simplefilter("ignore")
import torch
from senet.fused.passes.triton import TritonPasses, _failed
from tests.fused.passes import CASES, check_passes
for case in CASES:
    if case.shape != (1, 16, 40, 40):  # the interpreter is slow
        torch.manual_seed(0)
        check_passes(case, TritonPasses())
assert not _failed  # PyTorch did it in a kernel's place
print("all as they should be")
"""


def test_the_kernels_in_the_interpreter():
    """In a process of its own: Triton reads once whether it interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.stdout.endswith("all as they should be\n"), done.stderr[-2000:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_kernels_on_a_gpu():
    from senet.fused.passes.triton import TritonPasses, _failed
    from tests.fused.passes import CASES, Moved, check_passes

    for case in CASES:
        check_passes(case, Moved(TritonPasses(), "cuda"))
    assert not _failed


def test_a_batch_larger_than_a_grid_is_left_to_pytorch():
    from senet.fused.passes.triton import TritonPasses, _failed

    before, v = set(_failed), torch.randn(1 << 16, 1, 2)
    torch.testing.assert_close(TritonPasses().stats(v)[0], v.double().mean(2), rtol=1e-5, atol=1e-6)
    assert _failed == before  # no kernel is given up
