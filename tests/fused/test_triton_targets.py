"""The Triton kernels, compiled ahead of time for GPUs that need not be here."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from senet.fused.passes.triton import block_sizes, kernels  # noqa: E402

SHARED = {80: 163, 90: 227, 100: 227}  # KiB of shared memory that a program may use, by compute capability
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
MAPS = {"stats": ["v"], "affine": ["v", "other", "out"], "sums": ["dy", "v", "out", "kept"], "passed": ["v"]}
MAPS["input_gradient"] = ["dy", "v", "out", "dv"]
SMALL = {  # float64 where the kernel gives it
    "stats": {"mean": "*fp64", "m2": "*fp64"},
    "affine": dict.fromkeys(("center", "scale", "shift"), "*fp32"),
    "sums": dict.fromkeys(("mean", "center", "gain", "shift", "s0", "s1"), "*fp32"),
    "passed": dict.fromkeys(("center", "scale", "shift", "n0", "n1"), "*fp32"),
    "input_gradient": dict.fromkeys(("center", "scale", "c1", "c0", "gain", "shift", "extra"), "*fp32"),
}
FLAGS = {"stats": {"DOUBLE": False}, "affine": {"ADD": True, "RELU": True}, "passed": {}}
FLAGS["sums"] = {"RELU": True, "KEEP": True, "THROUGH": False}
FLAGS["sums before SE"] = {"RELU": False, "KEEP": False, "THROUGH": True}  # where the ReLU is
FLAGS["input_gradient"] = {"RELU": True, "THROUGH": False}
FLAGS["input_gradient before SE"] = {"RELU": False, "THROUGH": True}


def compiled(case: str, capability: int, dtype: str, last: bool, divisible: bool) -> SimpleNamespace:
    """The kernel as a training of ResNet-50 would launch it: registers, spills and shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    name = case.split()[0]
    v = torch.empty(32, 256, 56, 56, dtype=DTYPES[dtype], device="meta")
    v = v.contiguous(memory_format=torch.channels_last) if last else v
    c, s = block_sizes(v, reduces=name in ("stats", "sums", "passed"))
    constants = FLAGS[case] | {"LAST": last, "C": c, "S": s}
    signature = dict.fromkeys(MAPS[name], f"*{dtype}") | SMALL[name] | {"channels": "i32", "space": "i32"}
    attributes = {(i,): [["tt.divisibility", 16]] for i in range(len(signature))} if divisible else {}
    source = ASTSource(
        fn=getattr(kernels(), name),
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs=attributes,
    )
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    ptx = found.asm["ptx"]
    assert found.asm["cubin"]
    target = re.search(r"\.target (\w+)", ptx)[1]
    said = assembled(ptx, target)
    return SimpleNamespace(
        target=target,
        wide=bool(re.search(r"ld\.global[.\w:]*\.v[248]\.", ptx)),
        registers=int(re.search(r"Used (\d+) registers", said)[1]),
        spilt=sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        shared=found.metadata.shared,
    )


def assembled(ptx: str, target: str) -> str:
    """What NVIDIA's assembler, which comes with Triton, says of registers and spills."""
    knobs = triton.knobs.nvidia
    assembler = getattr(knobs, "ptxas_blackwell", knobs.ptxas) if target.startswith("sm_10") else knobs.ptxas
    words = [assembler.path, "-v", "--gpu-name", target, "-", "-o", os.devnull]
    done = subprocess.run(words, input=ptx, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def check(case: str, capability: int, dtype: str, last: bool, divisible: bool) -> None:
    found = compiled(case, capability, dtype, last, divisible)
    assert found.target.startswith(f"sm_{capability}")
    assert found.shared <= SHARED[capability] * 1024
    # Odd numbers of channels are read element by element, which takes more registers: some bytes of `sums`
    # spill then. Aligned maps must keep everything in registers, and three programs beside each other.
    assert found.spilt <= (0 if divisible else 128)
    assert found.registers <= (168 if divisible else 255)
    if divisible:
        assert found.wide, "aligned maps are read several elements at a time"


CASES = list(itertools.product(FLAGS, SHARED, DTYPES, (False, True), (False, True)))
FEW = [
    case
    for case in CASES
    if case[1:] in {(80, "fp32", False, True), (90, "bf16", True, False), (100, "fp16", True, True)}
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


@pytest.mark.parametrize("case", FEW, ids=str)
def test_a_kernel_for_a_gpu(case):
    check(*case)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_kernel_for_every_gpu(case):
    check(*case)
