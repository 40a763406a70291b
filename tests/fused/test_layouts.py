"""However tensors lie in memory, the fused passes compute what PyTorch's operations do."""

from __future__ import annotations

import ast
import copy
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import senet
from senet import SESpec
from senet.fused.passes.library import library
from senet.fused.passes.native import NativePasses
from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.pointers import UnfitError, address, like, overlaps, per_map, writable
from senet.fused.switch import unfused
from senet.zoo.networks import cifar_resnet
from tests.fused.laying import WAYS, laid, shapes, vector, ways
from tests.fused.passes import away_from_threshold
from tests.fused.test_norm import joined, norm_of, randomised, watched

DTYPES = {torch.float32: 1e-5, torch.float64: 1e-11, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def compiled() -> TorchPasses:
    found = library()
    if found is None:
        pytest.skip("there is no C compiler here")
    return NativePasses(found)


def near(a: Tensor, b: Tensor, tolerance: float, least: float = 1e-3) -> None:
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    largest = max(float(b.detach().abs().max()), least)
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest, equal_nan=False)


def check_passes(ours: TorchPasses, shape: tuple[int, ...], dtype: torch.dtype, draw, seed: int) -> None:
    """Every pass, with every tensor laid as `draw` says, against PyTorch's operations over contiguous ones."""
    torch.manual_seed(seed)
    exact, tolerance = TorchPasses(), DTYPES[dtype]
    to = torch.float64 if dtype == torch.float64 else torch.float32
    v, dy, out, other = (laid(torch.randn(shape).to(dtype), draw()) for _ in range(4))
    if draw() == "sliced":  # storage shared with another argument
        dy, other = v, out
    p = [vector(torch.randn(shape[:2], dtype=to), draw()) for _ in range(5)]
    V, DY, OUT, OTHER = (x.resolve_neg().contiguous() for x in (v, dy, out, other))  # noqa: N806
    before = [x.clone() for x in (v, dy, out, other)]
    for a, b in zip(ours.stats(v), exact.stats(V), strict=True):
        near(a, b, 1e-11 if dtype == torch.float64 else 1e-5)
    for added, plain in ((None, None), (other, OTHER)):
        for relu in (False, True):
            near(ours.affine(v, *p[:3], added, relu), exact.affine(V, *p[:3], plain, relu), tolerance)
    for rectified, plain in ((None, None), (out, OUT)):
        for keep in (False, True):
            found, expected = ours.sums(dy, v, p[0], rectified, keep), exact.sums(DY, V, p[0], plain, keep)
            for a, b in zip(found, expected, strict=True):
                near(a, b, tolerance)
        near(ours.input(dy, v, *p[:4], rectified), exact.input(DY, V, *p[:4], plain), tolerance)
    shift = p[2].clone()
    away_from_threshold(V, *p[:2], shift)
    p[2] = vector(shift, draw())
    (n0, n1), (m0, m1) = ours.passed(v, *p[:3]), exact.passed(V, *p[:3])
    assert torch.equal(n0, m0)
    torch.testing.assert_close(n1, m1, rtol=0, atol=1e-5 * max(float(m1.abs().max()), 1))
    given = {"through": tuple(p[:3])}
    for a, b in zip(ours.sums(dy, v, p[3], **given), exact.sums(DY, V, p[3], **given), strict=True):
        near(a, b, tolerance)
    given, values = {"through": (p[1], p[2], p[4])}, (p[0], p[3], p[2], p[3])
    near(ours.input(dy, v, *values, **given), exact.input(DY, V, *values, **given), tolerance)
    for x, was in zip((v, dy, out, other), before, strict=True):
        assert torch.equal(x, was)


def each(examples: int, marked: bool):
    def decorate(function):
        drawn = given(shapes, st.sampled_from([*DTYPES]), st.data(), st.integers(0, 1 << 30))(function)
        drawn = settings(max_examples=examples, derandomize=not marked)(drawn)
        return pytest.mark.long(drawn) if marked else drawn

    return decorate


@each(40, marked=False)
def test_every_pass(shape, dtype, data, seed):
    check_passes(compiled(), shape, dtype, lambda: data.draw(ways), seed)


@each(2000, marked=True)
def test_every_pass_often(shape, dtype, data, seed):
    check_passes(compiled(), shape, dtype, lambda: data.draw(ways), seed)


class Laid(nn.Module):
    """The identity, laid in memory as told."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return laid(x, self.way)


def unit(channels: int, v: str, shortcut: str, seed: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(seed)
    block = randomised(BasicBlock(channels, channels, downsample=Laid(shortcut)))
    block.conv2 = nn.Sequential(block.conv2, Laid(v))
    return senet.insert(nn.Sequential(block), torch.randn(2, channels, 5, 6), SESpec(2, start="paper"), where="0.bn2")


def check_modules(how: dict[str, str], shape: tuple[int, ...], seed: int) -> None:
    """SE joined to a normalisation, and in a unit: outputs, gradients and statistics, laid as drawn."""
    torch.manual_seed(seed)
    shape = (shape[0] + 1, *shape[1:])  # batch normalisation needs two values
    kind = ["batch", "group", "instance"][seed % 3] if torch.Size(shape[2:]).numel() > 1 else "batch"
    models = [(joined(norm_of(kind, shape[1], len(shape) - 2), SESpec(2, bias=True), shape[1]), True)]
    if len(shape) == 4:
        models.append((unit(shape[1], how["v"], how["shortcut"], seed), False))
    for model, given_so in models:
        model = model.double().train()
        for parameter in model.parameters():
            if parameter.dim() < 3:
                parameter.data = vector(parameter.data, how["parameter"])
        x = laid(torch.randn(shape).double(), how["v" if given_so else "x"])
        dy = laid(torch.randn(shape).double(), how["dy"])
        results, fused = [], 0
        for apart in (False, True):
            # PyTorch's own instance normalisation of one channel is wrong for a dy that lies oddly (2.14), so what is
            # right is computed from contiguous tensors; where our pass does not run, PyTorch's own is expected.
            exact = apart and fused
            network, v = copy.deepcopy(model), (x.contiguous() if exact else x).detach().requires_grad_()
            with unfused() if apart else nullcontext():
                y, ran = watched(network, v)
            assert not (apart and ran)
            fused += ran
            y.backward(dy.contiguous() if exact else dy)
            results.append([y.detach(), v.grad, *(p.grad for p in network.parameters()), *network.buffers()])
        for a, b in zip(*results, strict=True):
            near(a, b, 1e-8, least=0.1)  # of equal samples every gradient before is 0, but for rounding


NAMES = ("x", "v", "shortcut", "dy", "parameter")


@settings(max_examples=40, derandomize=True)
@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, ways)),
    shapes,
    st.integers(0, 1 << 30),
)
def test_modules(how, shape, seed):
    check_modules(how, shape, seed)


@pytest.mark.long
@settings(max_examples=2000)
@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, ways)),
    shapes,
    st.integers(0, 1 << 30),
)
def test_modules_often(how, shape, seed):
    check_modules(how, shape, seed)


@pytest.mark.parametrize("which", ["torchvision", "cifar"])
def test_a_shortcut_in_another_layout_than_its_branch(which):
    """An NCHW batch in a network whose weights are channels last: convolutions answer in channels last."""
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    block = BasicBlock(64, 64) if which == "torchvision" else cifar_resnet.BasicBlock(64, 64, 1)
    x = torch.randn(8, 64, 28, 28)
    network = senet.insert(nn.Sequential(block), x, SESpec(start="paper")).train()
    network = network.to(memory_format=torch.channels_last)
    exact = copy.deepcopy(network).double()
    with unfused():
        expected = exact(x.double())
    found, ran = watched(network, x)
    assert ran == 1
    near(found.double(), expected, 1e-5)


class TestTheGate:
    v = torch.randn(2, 4, 3, 3).contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize("way", WAYS)
    def test_copies_only_what_lies_otherwise(self, way):
        x = torch.randn(2, 4, 3, 3)
        found = like(laid(x, way), self.v)
        assert torch.equal(found, x)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert address(found)
        there = self.v.clone(memory_format=torch.preserve_format)
        assert like(there, self.v) is there

    @pytest.mark.parametrize(
        "x", [torch.zeros(2, 4, 3, 2), torch.zeros(1, 4, 3, 3), torch.zeros(2, 4, 3, 3, device="meta")], ids=str
    )
    def test_refuses_what_stands_for_something_else(self, x):
        with pytest.raises(UnfitError, match="shapes and devices must be equal"):
            like(x, self.v)

    def test_values_for_each_map(self):
        assert per_map(torch.ones(()), self.v, torch.float32).tolist() == [[1] * 4] * 2
        assert per_map(torch.ones(4, dtype=torch.float64), self.v, torch.float32).dtype == torch.float32
        assert per_map(torch.arange(8.0).view(4, 2).t(), self.v, torch.float32).is_contiguous()
        for wrong in (torch.ones(3), torch.ones(2, 4, 1), torch.ones(4, 2), torch.ones(4, device="meta")):
            with pytest.raises(UnfitError, match="does not hold a value for each sample and channel"):
                per_map(wrong, self.v, torch.float32)

    def test_what_is_written_is_no_copy(self):
        with pytest.raises(UnfitError, match="cannot be written in its place"):
            writable(torch.empty(2, 4, 3, 3), self.v)

    def test_memory_that_was_given_back(self):
        x = torch.ones(2, 3)
        assert address(x)
        assert address(None) is None
        x.untyped_storage().resize_(8)
        with pytest.raises(UnfitError, match="reaches beyond its storage: 8 of 24 bytes"):
            address(x)

    @pytest.mark.parametrize("seem", [torch._neg_view, torch.Tensor.to_sparse, torch.Tensor.as_subclass])
    def test_what_is_not_as_it_seems(self, seem):
        x = torch.ones(2)
        x = x.as_subclass(type("Other", (Tensor,), {})) if seem is torch.Tensor.as_subclass else seem(x)
        with pytest.raises(UnfitError, match="cannot read"):
            address(x)

    def test_overlapping(self):
        x = torch.zeros(2, 3, 4)
        assert not overlaps(x[0], x[1])
        assert not overlaps(x, x)
        assert overlaps(x, x[1])
        assert overlaps(x.view(24)[:12], x.view(24)[1:13])


def test_nothing_else_takes_the_address_of_a_tensor():
    room = Path(senet.__file__).parent
    found = {
        str(path.relative_to(room))
        for path in room.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "data_ptr"
    }
    assert {name for name in found if name.startswith(("fused/", "inference/"))} == {"fused/passes/pointers.py"}


def test_without_memory_for_scratch_pytorch_does_it():
    functions = SimpleNamespace(
        **{
            f"{name}_{kind}_{dtype}": lambda *_: 0
            for name in ("stats", "affine", "sums", "input", "passed")
            for kind in ("rows", "last")
            for dtype in ("float32", "float64")
        }
    )
    for seed, way in enumerate(WAYS):
        check_passes(NativePasses(functions), (2, 5, 3, 4), torch.float32, lambda way=way: way, seed)


def test_a_default_device_that_is_another():
    model, x = joined(nn.BatchNorm2d(8), SESpec(2), 8).train(), torch.randn(2, 8, 5, 5)
    expected = copy.deepcopy(model)(x)
    with torch.device("meta"):
        found, ran = watched(model, x)
    assert ran == 1
    torch.testing.assert_close(found, expected)
