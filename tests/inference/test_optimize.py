"""`optimize`: equal outputs, what it finds in whose networks, and what it leaves alone or refuses."""

from __future__ import annotations

import copy
import logging

import pytest
import timm
import torch
import torchvision
from torch import nn

import senet
from senet import OptimizeError, SEBlock, SESpec, optimize
from senet.inference.agreement import TOLERANCE, relative_difference
from tests.insertion.networks import PreActivation, randomise, shortened, small_resnet


def _equal(model, optimized, *inputs, tolerance=TOLERANCE):
    with torch.no_grad():
        for x in inputs:
            assert relative_difference(model(x), optimized(x)) <= tolerance


def _outcomes(optimized):
    return [outcome.moved for outcome in optimized.meta["senet"]]


def _trained(model):
    """With normalisations and gates as after some training."""
    randomise(model)
    for block in senet.blocks(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, 0, 0.05)
    return model.eval()


NETWORKS = {
    "zoo": (lambda: senet.create("se_resnet50", num_classes=7, width=0.25), 16),
    "inserted": (lambda: senet.insert(shortened("resnet50", num_classes=7), torch.randn(1, 3, 32, 32)), 5),
    "timm SEModule": (lambda: timm.create_model("seresnext26d_32x4d", num_classes=7), 8),
    "timm EffectiveSE": (lambda: timm.create_model("ese_vovnet19b_slim_dw", num_classes=7), 0),
    "timm SqueezeExcite": (lambda: timm.create_model("tinynet_e", num_classes=7), 0),
    "torchvision": (lambda: torchvision.models.mobilenet_v3_small(num_classes=7), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_give_the_same(name):
    build, moved = NETWORKS[name]
    model = _trained(build()).double()  # random weights at this depth make float32's own rounding large
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    optimized = optimize(model, x)
    outcomes = _outcomes(optimized)
    assert len(outcomes) == len(senet.blocks(model))  # found by what they compute, every one
    assert sum(outcomes) == moved
    _equal(model, optimized, x, x[:1], torch.randn(3, 3, 64, 64, dtype=torch.float64), tolerance=1e-10)


def test_the_callers_autocast_is_not_in_the_form():
    model, x = _trained(senet.create("se_resnet20")).eval(), torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        form = optimize(model, x)
    assert form is not model
    with torch.no_grad():
        torch.testing.assert_close(form(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_original_is_untouched():
    model = _trained(senet.create("se_resnet20"))
    model.train()
    model.layer1.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    optimized = optimize(model, torch.randn(1, 3, 32, 32))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not set(pointers) & {parameter.data_ptr() for parameter in optimized.parameters()}
    assert not any(parameter.requires_grad for parameter in optimized.parameters())


class Unit(nn.Module):
    """A bottleneck's end: layer, SE, addition, ReLU."""

    def __init__(self, block, layer=None, between=None):
        super().__init__()
        self.layer = nn.Conv2d(4, 16, 1) if layer is None else layer
        self.between = between or nn.Identity()
        self.se = block

    def forward(self, x):
        return torch.relu(self.se(self.between(self.layer(x))) + 1)


LEFT = {
    "activation": (Unit(SEBlock(16), between=nn.ReLU()), "relu stands between"),
    "max": (Unit(SEBlock(16, squeeze="max")), "the maximum is not linear"),
    "same width": (Unit(SEBlock(4), nn.Conv2d(4, 4, 3, padding=1)), "cost as much"),
    "transposed": (Unit(SEBlock(16), nn.ConvTranspose2d(4, 16, 2)), "conv_transpose2d stands between"),
    "input": (Unit(SEBlock(4), nn.Identity()), "the network's input"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_the_algebra_does_not_cover_stays(name):
    model, reason = LEFT[name]
    x = torch.randn(2, 4, 8, 8)
    optimized = optimize(model.eval(), x)
    (outcome,) = optimized.meta["senet"]
    assert not outcome.moved
    assert reason in outcome.reason
    _equal(model, optimized, x, torch.randn(5, 4, 8, 8))


class OnePlus(nn.Module):
    """SE whose gate is 1 + tanh(...), and comes first in the product."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 4), nn.Linear(4, 16)

    def forward(self, u):
        g = torch.tanh(self.fc2(torch.relu(self.fc1(u.mean((2, 3))))))
        return (1 + g[:, :, None, None]) * u


MOVED = {
    "bias": Unit(SEBlock(16, 2, bias=True)),
    "tanh": Unit(SEBlock(16, 2, gate="tanh")),
    "hard sigmoid, started": Unit(SEBlock(16, 2, gate="hard_sigmoid", scale=2)),
    "normalised": Unit(SEBlock(16, 2), between=nn.BatchNorm2d(16)),
    "strided": Unit(SEBlock(16, 2), nn.Conv2d(4, 16, 1, 2)),
    "grouped": Unit(SEBlock(16, 2), nn.Conv2d(4, 16, 3, padding=1, groups=2)),
    "depthwise": Unit(SEBlock(16, 2), nn.Conv2d(4, 16, 3, padding="same", groups=4)),
    "torchvision": Unit(torchvision.ops.SqueezeExcitation(16, 4)),
    "timm": Unit(timm.layers.SEModule(16, rd_channels=4)),
    "timm, hard": Unit(timm.layers.SqueezeExcite(16, rd_channels=4, gate_layer=nn.Hardsigmoid)),
    "effective": Unit(timm.layers.EffectiveSEModule(16)),
    "efficient": Unit(timm.layers.EcaModule(16)),
    "one plus": Unit(OnePlus()),
}


@pytest.mark.parametrize("name", MOVED)
def test_blocks_of_every_kind_move(name):
    model = _trained(MOVED[name])
    x = torch.randn(2, 4, 8, 8)
    optimized = optimize(model, x)
    assert _outcomes(optimized) == [True]
    _equal(model, optimized, x, torch.randn(5, 4, 8, 8))


class Tokens(nn.Module):
    """SE on the output of a linear layer, channels last or permuted to be first."""

    def __init__(self, permuted):
        super().__init__()
        self.fc, self.permuted = nn.Linear(4, 16), permuted
        self.se = SEBlock(16, 4) if permuted else timm.layers.squeeze_excite.SqueezeExciteCl(16, rd_channels=4)

    def forward(self, x):
        u = self.fc(x)
        return self.se(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.permuted else self.se(u)


@pytest.mark.parametrize("permuted", [False, True])
def test_linear_layers(permuted):
    model = Tokens(permuted).eval()
    x = torch.randn(2, 6, 5, 4)
    optimized = optimize(model, x)
    assert _outcomes(optimized) == [True]
    _equal(model, optimized, x, torch.randn(3, 6, 5, 4))


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity", "inner"])
def test_every_placement_gives_the_same(placement):
    x = torch.randn(2, 3, 16, 16)
    model = _trained(senet.insert(randomise(small_resnet()), x, SESpec(placement=placement)))
    optimized = optimize(model, x)
    assert len(_outcomes(optimized)) == len(senet.blocks(model))
    _equal(model, optimized, x, torch.randn(3, 3, 16, 16))


def test_without_normalisation_behind_the_layer():
    x = torch.randn(2, 8, 8, 8)
    model = _trained(senet.insert(nn.Sequential(PreActivation(8), PreActivation(8)), x))
    _equal(model, optimize(model, x), x)


def test_a_layer_used_twice_keeps_its_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(4, 16, 1), nn.BatchNorm2d(16), nn.BatchNorm2d(16)
            self.se = SEBlock(16, 4, scale=2)

        def forward(self, x):
            return self.se(self.a(self.conv(x))) + self.b(self.conv(x)) + self.conv(x)

    model = _trained(Twice())
    x = torch.randn(2, 4, 6, 6)
    optimized = optimize(model, x)
    assert _outcomes(optimized) == [True]
    _equal(model, optimized, x)


def test_dictionaries_and_tuples_go_in_and_out():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = Unit(SEBlock(16, 4))

        def forward(self, picture, *, weight):
            u = self.unit(picture) * weight
            return {"map": u, "mean": (u.mean(), 3)}

    model = Two().eval()
    example = {"picture": torch.randn(2, 4, 8, 8), "weight": torch.tensor(2.0)}
    optimized = optimize(model, example)
    found, expected = optimized(**example), model(**example)
    assert found["mean"][1] == 3
    assert relative_difference(expected, found) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype):
    model = _trained(senet.create("se_resnet20")).to(dtype)
    x = torch.randn(2, 3, 32, 32, dtype=dtype)
    optimized = optimize(model, x)
    assert optimized(x).dtype == dtype
    with torch.no_grad():
        assert relative_difference(model(x), optimized(x)) < 30 * torch.finfo(dtype).eps


def test_nothing_to_gain_comes_back_the_same(caplog):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert optimize(model, torch.randn(1, 3, 8, 8)) is model
    assert "is returned unchanged: it holds no SE" in caplog.text
    assert "Sequential is in training mode, as it was given: call its eval()" in caplog.text
    caplog.clear()
    assert optimize(model.eval(), torch.randn(1, 3, 8, 8)) is model
    assert "training mode" not in caplog.text


def test_what_does_not_compute_the_same_twice_comes_back_the_same(caplog):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit = Unit(SEBlock(16))

        def forward(self, x):
            return self.unit(x) + torch.rand_like(x[:, :1])

    model = Noisy()
    assert optimize(model, torch.randn(1, 4, 8, 8)) is model
    assert "does not compute the same twice" in caplog.text


def test_a_buffer_that_calls_change_goes_on_changing():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.se = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), SEBlock(8, 4)
            self.register_buffer("factor", torch.ones(8, 1, 1))

        def forward(self, x):
            self.factor += 1
            return self.se(self.norm(self.conv(x)) * self.factor)

    model, x = Growing().eval(), torch.randn(2, 3, 4, 4)
    made = optimize(model, x)
    assert made is not model
    for each in (model, made):
        torch.testing.assert_close(each.factor, torch.ones(8, 1, 1))
    for _ in range(3):
        torch.testing.assert_close(made(x), model(x))


def test_imaginary_parts_are_compared():
    x = torch.randn(3, dtype=torch.complex64)
    assert relative_difference(x, x.clone()) == 0
    assert relative_difference(x, x.conj()) > TOLERANCE


def test_a_half_network_that_cannot_be_copied_is_one_line():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), SEBlock(8, 4)).eval().bfloat16()
    model.extra = model[0].weight * 2  # a result
    with pytest.raises(OptimizeError, match="cannot be copied for a comparison in float64: RuntimeError"):
        optimize(model, torch.randn(2, 3, 8, 8).bfloat16())


def test_it_says_what_it_did(caplog):
    caplog.set_level(logging.INFO, "senet")
    optimize(senet.create("se_resnet20"), torch.randn(1, 3, 32, 32))
    assert "19 normalisations and constant steps folded; 9 stayed: reading" in caplog.text


def test_a_fixed_batch_is_said_and_refused_elsewhere(caplog):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.unit, self.fc = Unit(SEBlock(16, 4)), nn.Linear(16 * 16, 3)

        def forward(self, x):
            return self.fc(self.unit(x).view(2, -1))

    caplog.set_level(logging.INFO, "senet")
    model = Fixed().eval()
    x = torch.randn(2, 4, 4, 4)
    optimized = optimize(model, x)
    _equal(model, optimized, x)
    assert "batch as a fixed number (2)" in caplog.text
    with pytest.raises(ValueError, match=r"of shape \(2, 4, 4, 4\), not \(3, 4, 4, 4\)"):
        optimized(torch.randn(3, 4, 4, 4))


def test_other_sizes_only_where_asked_for():
    model = _trained(senet.create("se_resnet20"))
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(ValueError, match="dynamic_size=True"):
        optimize(model, x)(torch.randn(2, 3, 48, 40))
    _equal(model, optimize(model, x, dynamic_size=True), x, torch.randn(1, 3, 48, 40))
    fixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(OptimizeError, match=r"Sequential does not run on the example, .* \(2, 3, 40, 72\)"):
        optimize(fixed, torch.randn(2, 3, 8, 8), dynamic_size=True)


def test_refused():
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(TypeError, match=r"nn\.Module, not str"):
        optimize("se_resnet20", x)
    with pytest.raises(OptimizeError, match=r"does not run on the example, a float32 tensor of shape \(1, 3, 8, 8\)"):
        optimize(Unit(SEBlock(16)), torch.randn(1, 3, 8, 8))
    with pytest.raises(OptimizeError, match="is compiled: optimize first"):
        optimize(torch.compile(Unit(SEBlock(16))), x)
    with pytest.raises(OptimizeError, match=r"model\.module"):
        optimize(nn.DataParallel(Unit(SEBlock(16))), x)
    with pytest.raises(OptimizeError, match="meta device"):
        optimize(Unit(SEBlock(16)).to("meta"), x)

    class DataDependent(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(OptimizeError, match="DataDependent cannot be exported"):
        optimize(DataDependent(), x)


def test_a_copy_of_the_result_is_its_own():
    model = _trained(senet.create("se_resnet20"))
    x = torch.randn(2, 3, 32, 32)
    optimized = optimize(model, x)
    again = copy.deepcopy(optimized)
    assert torch.equal(again(x), optimized(x))
    assert again.meta["senet"] == optimized.meta["senet"]
    assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in optimized.parameters()}
