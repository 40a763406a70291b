"""Each compiled function that an optimised network calls in eager mode, against the equations in float64."""

import pytest
import torch
import torch.nn.functional as F

from senet.fused.passes.inference import AFTER, BEFORE, FEW, NOT
from senet.fused.passes.library import library
from senet.inference.eager.epilogue import (
    excited,
    excited_relu,
    rescale_add,
    rescale_add_relu,
    rescale_rectified,
    rescale_relu,
)
from senet.inference.eager.gate import gates, rectified_gates

needs_compiler = pytest.mark.skipif("library() is None", reason="needs a C compiler (gcc)")


ACTIVATIONS = (lambda x: x, torch.relu, torch.sigmoid, F.hardsigmoid, F.silu, F.hardswish, torch.tanh)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


def _case(shape, width, outputs, bias=True, memory_format=torch.contiguous_format):
    h = (torch.randn(shape) + 2).contiguous(memory_format=memory_format)
    channels = shape[1]
    weights = torch.randn(width, channels) / channels**0.5, torch.randn(outputs, width) / width**0.5
    biases = (torch.randn(width), torch.randn(outputs)) if bias else (None, None)
    return h, (weights[0], biases[0]), (weights[1], biases[1])


def _exact(h, first, second, inner, outer):
    h = h.double()
    pooled = h.mean(list(range(2, h.dim()))) if h.dim() > 2 else h
    first, second = ([None if x is None else x.double() for x in layer] for layer in (first, second))
    return ACTIVATIONS[outer](F.linear(ACTIVATIONS[inner](F.linear(pooled, *first)), *second))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "width", "outputs"),
    [
        *(((1, 64, 56, 56), 16, 256), ((1, 512, 7, 7), 128, 2048), ((8, 33, 9, 5), 3, 70), ((9, 20, 3, 3), 4, 5)),
        *(((2, 5, 1, 1), 1, 1), ((3, 130, 2, 40), 7, 19)),
    ],
)
def test_gates_are_those_of_the_equations(shape, width, outputs, memory_format, bias, count):
    h, first, second = _case(shape, width, outputs, bias, memory_format)
    found = gates(count, h, *first, 1, *second, 2, 2)
    assert found.shape == (shape[0], outputs, 1, 1)
    torch.testing.assert_close(found.flatten(1).double(), _exact(h, first, second, 1, 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("count", [0, 2, 3])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 64, 56, 56), (3, 5, 1, 1), (9, 130, 20, 7), (2, 33, 40, 40)])
def test_gates_in_bfloat16(shape, memory_format, count):
    """For a few samples the compiled function rounds once, at the end; PyTorch rounds the result of every step."""
    h, *layers = _case(shape, 6, 70, memory_format=memory_format)
    h, first, second = h.bfloat16(), *([x.bfloat16() for x in layer] for layer in layers)
    expected = _exact(h, first, second, 1, 2)
    once = count and library() and len(h) <= FEW
    with torch.no_grad():
        found = gates(count, h, *first, 1, *second, 2, 2)
        _, gate, left = rectified_gates(count, h - 2, *first, 1, *second, 2, 2)
        assert left is bool(count and library())
        torch.testing.assert_close(gate, gates(0, torch.relu(h - 2), *first, 1, *second, 2, 2), rtol=0, atol=0.02)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.flatten(1).double(), expected, rtol=0, atol=0.002 if once else 0.02)


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("inner", range(1, 7))
@pytest.mark.parametrize("outer", range(7))
def test_gates_with_every_activation(inner, outer, count):
    for shape in ((2, 24, 5), (2, 24), (2, 24, 2, 3, 4)):
        h, first, second = _case(shape, 8, 30)
        h = h.contiguous(memory_format=torch.channels_last_3d) if outer == 2 and h.dim() == 5 else h
        found = gates(count, h, *first, inner, *second, outer)
        torch.testing.assert_close(found.double(), _exact(h, first, second, inner, outer), rtol=2e-6, atol=1e-5)


@needs_compiler
def test_what_is_not_finite_stays_so():
    h, first, second = _case((1, 4, 3, 3), 2, 6)
    for value in (float("nan"), float("inf"), -float("inf")):
        h[0, 1, 1, 1] = value
        for outer in (0, 2, 3):
            torch.testing.assert_close(
                gates(1, h, *first, 1, *second, outer), gates(0, h, *first, 1, *second, outer), equal_nan=True
            )


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("function", [rescale_relu, rescale_add, rescale_add_relu])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (1, 64, 40, 13), (2, 1, 1, 1)])
def test_maps_are_rescaled_where_they_lie(shape, memory_format, dtype, function, count):
    u, x = (torch.randn(shape).to(dtype).contiguous(memory_format=memory_format) for _ in range(2))
    gate = torch.rand(*shape[:2], 1, 1).to(dtype)
    adds = function in (rescale_add, rescale_add_relu)
    wanted = u.double() * gate.double() + (x.double() if adds else 0)
    wanted = (torch.relu(wanted) if function in (rescale_relu, rescale_add_relu) else wanted).to(dtype)
    with torch.no_grad():
        found = function(count, u, gate, *[x] * adds)
    assert found.data_ptr() == u.data_ptr()  # no new tensor
    assert found.stride() == u.stride()
    torch.testing.assert_close(found, wanted)


def test_maps_that_lie_otherwise_are_rescaled_all_the_same():
    u, gate = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 1, 1)
    with torch.no_grad():
        negated = torch._neg_view(torch.randn(2, 3, 4, 4))
        for x in (torch.randn(2, 4, 4, 3).permute(0, 3, 1, 2), torch.randn(2, 3, 4, 8)[..., ::2], negated):
            torch.testing.assert_close(rescale_add_relu(1, u.clone(), gate, x), torch.relu(u * gate + x))
        torch.testing.assert_close(rescale_add_relu(1, u.clone(), gate[:1], u), torch.relu(u * gate[:1] + u))
        v, across = torch.randn(2, 3, 5, 3), torch.rand(2, 1, 1, 3)  # channels in the last place
        torch.testing.assert_close(rescale_add_relu(1, v.clone(), across, v), torch.relu(v * across + v))
        deep = torch.randn(2, 3, 2, 4, 4).contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(rescale_add(2, deep.clone(), gate[..., None], deep), deep * gate[..., None] + deep)
        torch.testing.assert_close(rescale_relu(1, x.clone(), gate), torch.relu(x * gate))
        torch.testing.assert_close(rescale_relu(1, u.clone(), gate[:1]), torch.relu(u * gate[:1]))


def test_a_map_on_another_device_is_refused_as_pytorch_does():
    """Of a network of two inputs, the second may be given elsewhere: its address means nothing here."""
    u, gate = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 1, 1)
    for function in (rescale_add, rescale_add_relu):
        with torch.no_grad(), pytest.raises(RuntimeError, match="device"):
            function(1, u, gate, torch.randn(2, 3, 4, 4, device="meta"))


def test_what_compiled_code_cannot_read_is_left_to_pytorch():
    h, first, second = _case((2, 6, 3, 3), 2, 6)
    for given in (torch._neg_view(h), h[:, :, :0], h[:0]):
        torch.testing.assert_close(
            gates(1, given, *first, 1, *second, 2, 2), gates(0, given, *first, 1, *second, 2, 2), equal_nan=True
        )
    for wrong in ((torch.randn(6, 3), None), (second[0], torch.randn(5))):
        with pytest.raises(RuntimeError):
            gates(1, h, *first, 1, *wrong, 2)


def test_a_gradient_that_is_wanted_is_given():
    h, first, second = _case((2, 6, 3, 3), 2, 6)
    u, x, gate = torch.randn(2, 6, 3, 3), torch.randn(2, 6, 3, 3), torch.rand(2, 6, 1, 1)
    h.requires_grad_()
    gates(1, h, *first, 1, *second, 2, 2).sum().backward()
    assert h.grad is not None
    for given in (u, x, gate):
        given.requires_grad_()
        (rescale_add_relu(1, u, gate, x) + rescale_relu(1, u, gate)).sum().backward()
        assert given.grad is not None
        given.requires_grad_(False)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize(
    ("squeezed", "relu"),
    [*((of, relu) for of in ("itself", "another map", "means") for relu in (NOT, AFTER)), ("itself", BEFORE)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 7, 4), (1, 64, 40, 13), (2, 1, 1, 1), (9, 20, 3, 3)])
def test_a_map_is_rescaled_by_gates_of_the_same_call(shape, memory_format, dtype, relu, squeezed, count):
    h, *layers = _case(shape, 3, shape[1], memory_format=memory_format)
    first, second = ([x.to(dtype) for x in layer] for layer in layers)
    u, x = (torch.randn(shape).to(dtype).contiguous(memory_format=memory_format) for _ in range(2))
    h = (u if squeezed == "itself" else h if squeezed == "another map" else h.mean((2, 3))).to(dtype)
    x = None if relu == BEFORE else x
    before = u.double().relu() if relu == BEFORE else u.double()
    gate = _exact(before if squeezed == "itself" else h, first, second, 1, 2)[..., None, None]
    wanted = before * gate + (0 if x is None else x.double())
    wanted = wanted.relu() if relu == AFTER else wanted
    last = (h, *first, 1, *second, 2, 2)
    with torch.no_grad():
        found = excited_relu(count, u, x, *last) if relu == AFTER else excited(count, u, x, relu, *last)
    assert found.data_ptr() == u.data_ptr()
    assert found.stride() == u.stride()
    eps = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=eps * float(wanted.abs().max()))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(1, 64, 56, 56), (2, 5, 1, 1), (3, 130, 2, 40), (8, 33, 9, 5), (9, 20, 3, 3), (16, 64, 20, 9)]
)
def test_gates_of_a_map_that_is_not_rectified_yet(shape, memory_format, count):
    u, first, second = _case(shape, 7, shape[1], memory_format=memory_format)
    u = u - 2
    u[0, 1, 0, 0] = float("nan")
    gate = _exact(u.relu(), first, second, 1, 2)[..., None, None]
    before = u.clone()
    with torch.no_grad():
        found = rectified_gates(count, u, *first, 1, *second, 2, 2)
        assert found[2] is bool(count and library())
        assert found[2] <= torch.equal(u.nan_to_num(7), before.nan_to_num(7))
        torch.testing.assert_close(found[1].double(), gate, rtol=0, atol=2e-6, equal_nan=True)
        rescaled = rescale_rectified(count, found)
    assert rescaled.data_ptr() == u.data_ptr()
    torch.testing.assert_close(rescaled.double(), before.double().relu() * gate, rtol=1e-5, atol=1e-5, equal_nan=True)
