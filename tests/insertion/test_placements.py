"""The paper's placements (figure 5, tables 14 and 15) against the same units written by hand, with the same weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import senet
from senet import InsertionError, SESpec
from senet.block import PLACEMENTS
from tests.insertion.networks import PreActivation, randomise, shortened

torchvision = pytest.importorskip("torchvision")


def bottleneck(unit, x, se, placement):
    """torchvision's Bottleneck, stride and projection included, with SE where the paper's figure has it."""
    at = se if se else lambda _: lambda x: x
    here = {name: at if name == placement else (lambda _: lambda x: x) for name in PLACEMENTS}
    out = here["pre"](unit)(x)
    out = F.relu(unit.bn1(unit.conv1(out)))
    out = here["inner"](unit)(F.relu(unit.bn2(unit.conv2(out))))
    out = here["standard"](unit)(unit.bn3(unit.conv3(out)))
    shortcut = x if unit.downsample is None else unit.downsample(x)
    out = out + here["identity"](unit)(shortcut)
    return here["post"](unit)(F.relu(out))


def basic(unit, x, se, placement):
    here = {name: se if name == placement else (lambda _: lambda x: x) for name in PLACEMENTS}
    out = here["pre"](unit)(x)
    out = unit.bn2(unit.conv2(F.relu(unit.bn1(unit.conv1(out)))))
    out = here["inner"](unit)(here["standard"](unit)(out))
    shortcut = x if unit.downsample is None else unit.downsample(x)
    return here["post"](unit)(F.relu(out + here["identity"](unit)(shortcut)))


def inverted(unit, x, se, placement):
    """MobileNetV2's unit: 1×1, depthwise 3×3, 1×1, no activation behind the addition."""
    here = {name: se if name == placement else (lambda _: lambda x: x) for name in PLACEMENTS}
    if not unit.use_res_connect:
        return unit.conv(x)
    out = unit.conv[0](here["pre"](unit)(x))
    out = here["inner"](unit)(unit.conv[1](out))
    out = here["standard"](unit)(unit.conv[3](unit.conv[2](out)))
    return here["post"](unit)(here["identity"](unit)(x) + out)


def preactivation(unit, x, se, placement):
    here = {name: se if name == placement else (lambda _: lambda x: x) for name in PLACEMENTS}
    out = unit.conv1(F.relu(unit.bn1(here["pre"](unit)(x))))
    out = unit.conv2(F.relu(unit.bn2(out)))
    out = here["inner"](unit)(here["standard"](unit)(out))
    return here["post"](unit)(out + here["identity"](unit)(x))


def stem(net):
    return lambda x: net.maxpool(net.relu(net.bn1(net.conv1(x))))


def resnet_units(net):
    return [unit for layer in (net.layer1, net.layer2, net.layer3, net.layer4) for unit in layer]


CASES = {
    "resnet18": (lambda: shortened("resnet18", num_classes=10), basic),
    "resnet50": (lambda: shortened("resnet50", num_classes=10), bottleneck),
    "mobilenet_v2": (lambda: shortened("mobilenet_v2", num_classes=10), inverted),
    "preactivation": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), PreActivation(8), PreActivation(8)),
        preactivation,
    ),
}


def run_by_hand(name, net, by_hand, x, se, placement):
    if name.startswith("resnet"):
        x = stem(net)(x)
        for unit in resnet_units(net):
            x = by_hand(unit, x, se, placement)
        return net.fc(net.avgpool(x).flatten(1))
    if name == "mobilenet_v2":
        x = net.features[0](x)
        for unit in net.features[1:-1]:
            x = by_hand(unit, x, se, placement)
        return net.classifier(net.features[-1](x).mean((2, 3)))
    x = net[0](x)
    for unit in net[1:]:
        x = by_hand(unit, x, se, placement)
    return x


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_placement_by_hand(name, placement):
    """Gates far from 1, in training and in eval mode: outputs and gradients of the block written by hand."""
    make, by_hand = CASES[name]
    plain = randomise(make()).double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    net = senet.insert(plain, x, SESpec(placement=placement, start="paper", bias=True))
    for block in senet.blocks(net).values():
        nn.init.normal_(block.fc2.weight)
    order = iter(senet.blocks(senet.insert(plain, x, SESpec(placement=placement))))
    names = [site.name for site in senet.sites(plain, x, placement=placement)]
    by_name = {key.rsplit(".", 1)[0]: block for key, block in senet.blocks(net).items()}
    units = [u for u in plain.modules() if type(u).__name__ in ("BasicBlock", "Bottleneck", "PreActivation")] or [
        u for u in plain.modules() if getattr(u, "use_res_connect", False)
    ]
    assert len(units) == len(names) == len(list(order))
    of_unit = {id(unit): copy.deepcopy(by_name[site]) for unit, site in zip(units, names, strict=True)}
    expected = run_by_hand(name, plain.eval(), by_hand, x, lambda unit: of_unit[id(unit)], placement)
    given = net.eval()(x)
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)
    given.square().sum().backward()
    expected.square().sum().backward()
    theirs = dict(plain.named_parameters())
    for key, parameter in net.named_parameters():
        if key in theirs and theirs[key].grad is not None:
            torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", CASES)
def test_placement_starts_as_the_identity_and_goes_again(name, placement):
    make, _ = CASES[name]
    plain = randomise(make())
    x = torch.randn(2, 3, 48, 48)
    keys = list(plain.state_dict())
    net = senet.insert(plain, x, SESpec(placement=placement)).eval()
    with torch.no_grad():
        expected = plain.eval()(x)
        assert torch.equal(net(x), expected)
        for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(again(x), expected)
        back = senet.remove(net)
        assert torch.equal(back(x), expected)
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert list(back.state_dict()) == keys
    with pytest.raises(InsertionError, match=r"holds SE already|goes through SE already"):
        senet.insert(net, x, SESpec(placement=placement))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_placement_compiles_and_exports(placement):
    x = torch.randn(2, 3, 32, 32)
    net = senet.insert(shortened("resnet18", num_classes=10), x, SESpec(placement=placement)).eval()
    with torch.no_grad():
        expected = net(x)
        torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected)
        torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), expected)


def test_where_the_five_go():
    """The documented table, for a ResNet-50 unit with projection and one without."""
    net, x = torchvision.models.resnet50(), torch.randn(1, 3, 64, 64)
    found = {p: [(s.name, s.position, s.channels) for s in senet.sites(net, x, placement=p)] for p in PLACEMENTS}
    assert {placement: places[:2] for placement, places in found.items()} == {
        "standard": [("layer1.0.bn3", "output", 256), ("layer1.1.bn3", "output", 256)],
        "pre": [("layer1.0.conv1", "input", 64), ("layer1.1.conv1", "input", 256)],
        "post": [("layer1.0", "output", 256), ("layer1.1", "output", 256)],
        "identity": [("layer1.0.downsample.1", "output", 256), ("layer1.1.bn3", "shortcut", 256)],
        "inner": [("layer1.0.conv3", "input", 64), ("layer1.1.conv3", "input", 64)],
    }
    added = {p: sum(2 * c * (c // 16) for _, _, c in places) for p, places in found.items()}
    assert added["standard"] == 2_514_944  # 28.1 M with the 25,557,032 of ResNet-50, as table 10 has it
    assert added["inner"] == 157_184  # table 15: 25.8 M with the biases and BN that the paper counts


def test_what_cannot_be_attached_says_so():
    class Functional(nn.Module):
        """A branch whose input and output no module of its own takes or makes."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))

        def forward(self, x):
            return x + F.relu(F.conv2d(x, self.weight, padding=1))

    net = nn.Sequential(nn.Conv2d(3, 4, 1), Functional())
    x = torch.randn(1, 3, 8, 8)
    for placement, message in [
        ("standard", "no module of its own makes that output"),
        ("pre", "no module of its own takes that branch's input"),
        ("inner", "it has no last spatial convolution whose output a module of its own makes"),
        ("identity", "no module hands on its shortcut"),
    ]:
        with pytest.raises(InsertionError, match=message):
            senet.sites(net, x, placement=placement)
    assert [site.name for site in senet.sites(net, x, placement="post")] == ["1"]


def test_parallel_branches_have_no_inner_place():
    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = (nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2))
            self.mix = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return x + self.mix(torch.cat([self.a(x), self.b(x)], 1))

    net, x = nn.Sequential(nn.Conv2d(3, 4, 1), Parallel()), torch.randn(1, 3, 8, 8)
    assert [site.name for site in senet.sites(net, x)] == ["1.mix"]
    with pytest.raises(InsertionError, match="no last spatial convolution"):
        senet.sites(net, x, placement="inner")


def test_a_separable_unit_is_given_what_its_depthwise_convolution_is():
    def unit(inside, outside):
        return nn.Sequential(
            nn.Conv2d(inside, inside, 3, padding=1, groups=inside),
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, outside, 1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
        )

    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), unit(4, 8), unit(8, 8)), torch.randn(1, 3, 8, 8)
    assert [site.name for site in senet.sites(net, x)] == ["1", "2.5", "3.5"]
    assert [site.name for site in senet.sites(net, x, placement="pre")] == ["2.0", "3.0"]
