"""Whole networks whose last steps are compiled: against the network, moved, pickled, traced and differentiated."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

import senet
from senet.fused.passes.inference import BEFORE
from senet.fused.passes.library import library
from senet.inference.eager.conditions import threads
from senet.inference.eager.epilogue import (
    excited,
    excited_relu,
    plus,
)
from senet.inference.eager.gate import gates
from tests.inference.test_eager_calls import LAYOUTS, needs_compiler


@pytest.fixture(scope="module")
def network():
    """SE-ResNet-20 with gates that differ, and its form for inference."""
    torch.manual_seed(0)
    model = senet.create("se_resnet20").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, senet.optimize(model, torch.randn(1, 3, 32, 32))


def test_gates_are_computed_before_their_map_is_overwritten():
    """Of a map that another block rescales in place, before the product that these gates are for."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)
            self.one, self.two = senet.SEBlock(8, 4), senet.SEBlock(8, 4)

        def forward(self, x):
            h, v = self.first(x), self.other(x)
            gate = self.one.gate(h.mean((2, 3)))[..., None, None]
            kept = torch.relu(h * self.two.gate(h.mean((2, 3)))[..., None, None])
            return torch.relu(v * gate + kept)

    network, x = Network().eval(), torch.randn(2, 3, 5, 4)
    optimized = senet.optimize(network, x)
    with torch.no_grad():
        torch.testing.assert_close(optimized(x), network(x))


def _calls(module, function):
    return [node for node in module.graph.nodes if node.target is function]


@needs_compiler
def test_each_block_is_one_call_and_one_question_is_asked_for_all(network, monkeypatch):
    _, optimized = network
    assert len(_calls(optimized, excited_relu)) == 9
    assert not _calls(optimized, gates)
    assert len(_calls(optimized, threads)) == 1
    called = []

    class Counted:
        def __getattr__(self, name):
            called.append(name)
            return getattr(library(), name)

    monkeypatch.setattr("senet.fused.passes.inference.library", Counted)
    with torch.no_grad():
        optimized(torch.randn(2, 3, 32, 32))
    assert called == ["excited_float32"] * 9


@pytest.mark.parametrize("batch", [1, 3, 20])
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_the_network_gives_the_same(network, batch, memory_format):
    model, optimized = network
    x = torch.randn(batch, 3, 32, 32).contiguous(memory_format=memory_format)
    with torch.no_grad():
        wanted, found = model(x), optimized(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_whoever_looks_into_it_sees_pytorchs_operations(network):
    model, optimized = network
    x = torch.randn(1, 3, 32, 32)
    assert threads(x) == (torch.get_num_threads() if library() else 0)
    assert threads(x, torch.ones(2, 3).t()) == threads(x, torch.ones(2), torch.ones(2).double()) == 0
    with forward_ad.dual_level():
        assert threads(x) == 0
    wanted = model(x).detach()
    near = {"rtol": 0, "atol": 1e-5 * float(wanted.abs().max())}
    double, exact = copy.deepcopy(optimized).double(), copy.deepcopy(model).double()  # not to differ about a ReLU
    y = x.double()
    _, ours = torch.func.jvp(double, (y,), (torch.ones_like(y),))
    _, theirs = torch.func.jvp(exact, (y,), (torch.ones_like(y),))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    y.requires_grad_()
    (ours,), (theirs,) = (torch.autograd.grad(each(y).square().sum(), y) for each in (double, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    program = torch.export.export(optimized, (x,))
    assert len([node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]) == 19
    torch.testing.assert_close(program.module()(x), wanted, **near)
    traced = torch.jit.trace(optimized, x, check_trace=False)
    torch.testing.assert_close(traced(x), wanted, **near)


def test_a_form_can_be_vectorised():
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.se = nn.Conv2d(3, 3, 1), senet.SEBlock(3, 1)

        def forward(self, x):
            return torch.relu(self.se(self.conv(x)) + x)

    model, x = Unit().eval(), torch.randn(3, 2, 3, 4, 4)
    optimized = senet.optimize(model, x[0])
    assert _calls(optimized, excited_relu)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(optimized)(x), torch.stack([model(each) for each in x]))


@pytest.mark.parametrize("activation", [F.relu, F.hardtanh, F.leaky_relu, F.silu, F.hardswish])
def test_an_activation_before_an_addition_has_its_gradient(activation):
    class Unit(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return activation(self.norm(self.conv(x))) + x

    model, x = Unit().eval(), torch.randn(2, 3, 4, 4)
    optimized = senet.optimize(model, x)
    assert optimized is not model
    x.requires_grad_()
    (ours,), (theirs,) = (torch.autograd.grad(each(x).square().sum(), x) for each in (optimized, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_addition_under_autocast_keeps_the_wider_dtype():
    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.se, self.last = nn.Conv2d(3, 8, 3, padding=1), senet.SEBlock(8, 4), nn.Conv2d(8, 3, 1)

        def forward(self, x):
            return x + self.last(self.se(self.conv(x)))

    model, x = Denoiser().eval(), torch.randn(2, 3, 8, 8)
    optimized = senet.optimize(model, x)
    assert _calls(optimized, plus)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, wanted = optimized(x), model(x)
    assert found.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_weights_that_are_learned_after_all_have_gradients(network):
    _, optimized = network
    learned = copy.deepcopy(optimized)
    for parameter in learned.parameters():
        parameter.requires_grad_()
    learned(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in learned.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_can_be_moved_copied_and_pickled(network, dtype):
    model, optimized = network
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        again = pickle.loads(pickle.dumps(optimized))
        torch.testing.assert_close(again(x), optimized(x))
        moved = copy.deepcopy(optimized).to(dtype)
        near = 1e-5 if dtype == torch.float64 else 0.05
        wanted = model(x)
        torch.testing.assert_close(
            moved(x.to(dtype)).float(), wanted, rtol=0, atol=near * float(wanted.abs().max()), check_dtype=False
        )


@needs_compiler
def test_the_relu_before_se_rides_on_the_rescaling(monkeypatch):
    """In MobileNet SE follows a ReLU, and a convolution follows SE."""
    model = senet.create("mobilenet_v1_small").eval()
    model = senet.insert(model, torch.randn(1, 3, 32, 32), senet.SESpec(start="paper"))
    optimized = senet.optimize(model, torch.randn(1, 3, 32, 32))
    assert [node.args[3] for node in _calls(optimized, excited)] == [BEFORE] * 14
    assert len(_calls(optimized, torch.ops.aten.relu_.default)) == 27 - 14
    for x in (torch.randn(2, 3, 32, 32), torch.randn(9, 3, 32, 32)):
        given = x.clone()
        with torch.no_grad():
            torch.testing.assert_close(optimized(x), model(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(optimized(x.requires_grad_()), model(x), rtol=1e-4, atol=1e-5)
        assert torch.equal(x, given)
    again = pickle.loads(pickle.dumps(optimized))
    monkeypatch.setattr("senet.inference.eager.conditions.library", lambda: None)
    with torch.no_grad():
        torch.testing.assert_close(again(given), model(given), rtol=1e-4, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize("read_by", ["nothing", "an addition", "a second product"])
def test_a_relu_stays_where_more_than_se_reads_it(read_by):
    """Another reader must see the rectified map, not what the rescaling made of it."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 4, 1)
            self.se = senet.SEBlock(8, 4)

        def forward(self, x):
            h = torch.relu(self.first(x))
            y = self.last(self.se(h))
            return y if read_by == "nothing" else y + h.sum() if read_by == "an addition" else y * h[:, :4]

    network, x = Network().eval(), torch.randn(2, 3, 5, 4)
    optimized = senet.optimize(network, x)
    assert [node.args[3] for node in _calls(optimized, excited)] == [BEFORE] * (read_by == "nothing")
    with torch.no_grad():
        torch.testing.assert_close(optimized(x), network(x))
