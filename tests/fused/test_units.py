"""Residual units whose addition and ReLU join the pass: known to the letter, and left alone where anything differs."""

from __future__ import annotations

import copy
import functools
import pickle
from contextlib import nullcontext
from contextvars import ContextVar

import pytest
import torch
from torch import nn

import senet
from senet.fused import switch, units
from senet.fused.norm import normalise_and_excite
from senet.fused.switch import unfused
from tests.insertion.networks import shortened

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

NETWORKS = {
    "cifar": lambda: senet.create("resnet20"),
    "basic": lambda: torchvision.models.resnet18(num_classes=5),
    "bottleneck": lambda: shortened("resnet50", num_classes=5),
    "inverted": lambda: shortened("mobilenet_v2", num_classes=5),
    "timm basic": lambda: timm.create_model("resnet18", num_classes=5, zero_init_last=False),
    "timm bottleneck": lambda: timm.create_model("resnet26", num_classes=5, zero_init_last=False),
    "mobilenet": lambda: senet.create("mobilenet_v1", num_classes=5),
    "vgg": lambda: _vgg(),
    "timm drop path": lambda: timm.create_model("resnet18", num_classes=5, drop_path_rate=0.5, zero_init_last=False),
}


def _vgg() -> nn.Module:
    """A small one: three layers of 4,096 would take a minute in float64."""
    layers = torchvision.models.vgg.make_layers([16, "M", 32, 32, "M"], batch_norm=True)
    network = torchvision.models.VGG(layers, num_classes=5, init_weights=False)
    network.classifier = nn.Linear(32 * 7 * 7, 5)
    return network


@pytest.fixture(autouse=True)
def joined(monkeypatch):
    """How many passes had an addition in them, and how many a ReLU."""
    found = []

    def counting(norm, kind, block, v, other=None, *, relu=False, rectified=False):
        found.append((other is not None, "rectified" if rectified else relu))
        return normalise_and_excite(norm, kind, block, v, other, relu=relu, rectified=rectified)

    monkeypatch.setattr(units, "normalise_and_excite", counting)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_of_training(name, joined):
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    x = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    se = senet.insert(plain, x[:1].float(), senet.SESpec(start="paper")).double().train()
    apart = copy.deepcopy(se)
    results = []
    for network, passes in ((se, None), (apart, unfused())):
        torch.manual_seed(1)  # drop-path draws the same
        if passes is None:
            y = network(x)
        else:
            with passes:
                y = network(x)
        (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        gradients = [p.grad / p.grad.abs().max().clamp_min(1e-6) for p in network.parameters()]
        results.append((y, gradients, [b.double() for b in network.buffers()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-7, atol=1e-7)
    assert len(joined) == len(senet.blocks(se))
    expected = (name != "timm drop path", name not in ("inverted", "timm drop path"))
    expected = (False, "rectified") if name in ("mobilenet", "vgg") else expected
    # where timm drops paths, the first unit drops with probability 0 and has none
    assert joined.count(expected) >= len(joined) - 1


@pytest.mark.parametrize("name", ["cifar", "basic", "inverted", "mobilenet"])
def test_small_tensors_run_as_the_class_says(name, joined, monkeypatch):
    """The path of a user's small tensors: the unit runs here, its normalisation and SE one after the other."""
    monkeypatch.setattr(switch, "_any_size", ContextVar("nothing asks for small ones", default=False))
    x = torch.randn(2, 3, 40, 40)
    se = senet.insert(NETWORKS[name](), x[:1], senet.SESpec(start="paper")).train()
    results = []
    for network in (se, copy.deepcopy(se)):
        torch.manual_seed(1)  # dropout draws the same
        with unfused() if results else nullcontext():
            y = network(x)
        y.square().sum().backward()
        results.append([y, *(p.grad for p in network.parameters()), *network.buffers()])
    assert not joined
    assert all(map(torch.equal, *results))


def test_classes_pickling_and_removal():
    plain = NETWORKS["basic"]()
    x = torch.randn(2, 3, 40, 40)
    se = senet.insert(plain, x)
    assert {type(m).__name__ for m in se.layer1} == {"BasicBlock"}
    assert all(isinstance(m, torchvision.models.resnet.BasicBlock) for m in se.layer1)
    again = pickle.loads(pickle.dumps(se))
    assert [type(m) for m in again.modules()] == [type(m) for m in se.modules()]
    for network in (se, again, copy.deepcopy(se)):
        assert [type(m) for m in senet.remove(network).modules()] == [type(m) for m in plain.modules()]


def test_hooks_and_other_activations_keep_things_apart(joined):
    network = senet.insert(NETWORKS["basic"](), torch.randn(1, 3, 40, 40)).train()
    x = torch.randn(2, 3, 40, 40)
    seen = []
    hook = network.layer1[0].bn2.register_forward_hook(lambda _, __, y: seen.append(y))
    network(x)
    assert len(seen) == 1
    assert joined.count((True, True)) == 7
    assert joined.count((False, False)) == 1  # SE still rides on the normalisation
    hook.remove()
    joined.clear()
    network.layer1[0].relu = nn.LeakyReLU()
    network(x)
    assert joined.count((True, True)) == 7
    joined.clear()
    network.eval()(x)
    assert not joined


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "relu", "tanh"])
@pytest.mark.parametrize("last", [False, True])
def test_a_relu_between_the_two(gate, last, joined):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 3, 7, 5, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    spec = senet.SESpec(4, gate=gate, bias=True, start="paper")
    se = senet.insert(model, x.float(), spec, where="2").double().train()
    with torch.no_grad():
        for parameter in se.parameters():
            parameter.copy_(torch.randn_like(parameter) + 0.2)
    apart, plain = copy.deepcopy(se), copy.deepcopy(model)
    se(x).square().sum().backward()
    with unfused():
        apart(x).square().sum().backward()
    assert joined == [(False, "rectified")] * len(joined)  # others are asked for, and refused
    for a, b in zip(se.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)
    assert [type(m) for m in senet.remove(se).modules()] == [type(m) for m in plain.modules()]
    norm, block, v = se[1], se[2].se, torch.randn(2, 8, 2, 2, dtype=torch.float64, requires_grad=True)
    if gate == "sigmoid":

        def function(v, *_):
            return normalise_and_excite(norm, nn.BatchNorm2d, block, v, rectified=True)

        inputs = (v, *norm.parameters(), *block.parameters())
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("twice", [False, True])
def test_se_after_a_relu_may_be_written_to(twice, joined):
    """PyTorch does not keep a product, so `out += x` behind one is no error."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 3, 7, 5)
    branch = senet.insert(model, x, senet.SESpec(4, start="paper"), where="2").double().train()[:3]
    gradients = []
    for context in (nullcontext(), unfused()):
        each, v = copy.deepcopy(branch), x.double().requires_grad_()
        with context:
            y = each(v)
            y -= 1
            (dv,) = torch.autograd.grad(y.square().sum(), v, create_graph=twice)
        gradients.append(torch.autograd.grad(dv.square().sum(), v)[0] if twice else dv)
    assert joined[0] == (False, "rectified")
    torch.testing.assert_close(*gradients)


def test_a_scale_that_was_made_in_inference_mode(joined):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    x = torch.randn(4, 3, 7, 5)
    se = senet.insert(model, x, senet.SESpec(4, start="paper"), where="2").train()
    apart = copy.deepcopy(se)
    with torch.inference_mode():
        se[2].se.scale = se[2].se.scale.clone()
        found = se(x)
        with unfused():
            torch.testing.assert_close(found, apart(x))
    assert joined == [(False, "rectified")]


def test_a_unit_whose_code_is_another_is_left_alone(monkeypatch):
    class BasicBlock(torchvision.models.resnet.BasicBlock):
        def forward(self, x):
            return super().forward(x) * 2

    BasicBlock.__module__ = "torchvision.models.resnet"
    BasicBlock.__qualname__ = "BasicBlock"
    assert units.known_unit(torchvision.models.resnet.BasicBlock) is not None
    assert units.known_unit(BasicBlock) is None
    assert units.code_digest(len) == ""
    BasicBlock.forward = functools.wraps(torchvision.models.resnet.BasicBlock.forward)(BasicBlock.forward)
    assert units.known_unit(BasicBlock) is None  # though its source is read as that of the code it wraps
    BasicBlock.forward = lambda self, x: x
    BasicBlock.__module__ = "senet.zoo.networks.cifar_resnet"
    assert units.known_unit(BasicBlock) is None
    del BasicBlock.forward
    BasicBlock.__module__ = "torchvision.models.resnet"
    assert units.known_unit(BasicBlock) is not None
    BasicBlock.forward = lambda self, x: 2 * torchvision.models.resnet.BasicBlock.forward(self, x)
    network = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1])
    se = senet.insert(network, torch.randn(1, 3, 40, 40))
    assert type(se.layer1[0]) is BasicBlock


def test_a_sequence_that_is_wrapped_runs_as_its_wrapper_says(joined):
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    network = senet.insert(NETWORKS["inverted"](), torch.randn(1, 3, 40, 40)).train()
    unit, x = network.features[3], torch.randn(2, 24, 10, 10)
    branch = unit(x) - x
    assert joined.pop() == (True, False)
    unit.conv = Wrapper(unit.conv)
    torch.testing.assert_close(unit(x), x + 2 * branch, rtol=1e-4, atol=1e-4)
    assert not senet.blocks(senet.remove(network))


class Half(nn.Sequential):
    def forward(self, x):
        return super().forward(x) / 2


class HalfCalled(nn.Sequential):
    def __call__(self, x):
        return super().__call__(x) / 2


def _calls_otherwise(module):
    def call(x):
        return module.forward(x) / 2

    module._call_impl = call
    return module


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("conv", lambda conv: Half(*conv)),
        ("conv", lambda conv: HalfCalled(*conv)),
        ("conv", _calls_otherwise),
        ("conv.3", _calls_otherwise),
    ],
)
def test_what_a_module_does_of_its_own_is_done(first, name, change):
    """A unit that calls its branch's layers itself must not pass by what their container, or one of them, adds."""
    torch.manual_seed(0)
    unit = torchvision.models.mobilenetv2.InvertedResidual
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), unit(8, 8, 1, 2), unit(8, 8, 1, 2))
    x = torch.randn(2, 3, 16, 16)
    if first and change is not _calls_otherwise:  # whose copy would call the original
        network[1].conv = change(network[1].conv)
    se = senet.insert(network, x, senet.SESpec(4, start="paper"))
    if not first or change is _calls_otherwise:
        where, _, child = name.rpartition(".")
        setattr(se[1].get_submodule(where), child, change(se[1].get_submodule(name)))
    for training in (False, True):
        with torch.no_grad():
            y = se.train(training)(x)
            with unfused():
                torch.testing.assert_close(y, se(x), rtol=1e-4, atol=1e-4)


def test_feature_extraction_sees_the_plain_code():
    from torchvision.models.feature_extraction import create_feature_extractor

    se = senet.insert(NETWORKS["basic"](), torch.randn(1, 3, 40, 40)).eval()
    features = create_feature_extractor(se, ["layer1.0.bn2", "layer1.0.add", "layer2"])
    assert list(features(torch.randn(1, 3, 40, 40))) == ["layer1.0.bn2", "layer1.0.add", "layer2"]
