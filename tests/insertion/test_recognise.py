"""SE blocks of other libraries: recognised by what they do, their gates as they compute them, taken out again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import senet
from senet import InsertionError
from senet.insertion import InlineSE, channels_of, holding, is_se, recording
from tests.insertion.se_twins import (
    ECA,
    INLINE,
    MODULES,
    ConditionedUnit,
    MaskedUnit,
    PartlySqueezed,
    Unit,
    network,
)

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


class Article(nn.Module):
    """The block that an article spread: two 1×1 convolutions without biases."""

    def __init__(self, c: int, r: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.excitation = nn.Sequential(
            nn.Conv2d(c, c // r, 1, bias=False), nn.ReLU(), nn.Conv2d(c // r, c, 1, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excitation(self.squeeze(x))


class Moskomule(nn.Module):
    def __init__(self, c: int, r: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(c, c // r, bias=False), nn.ReLU(), nn.Linear(c // r, c, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        return x * self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1).expand_as(x)


class SpatialGate(nn.Module):
    """Named like an SE block of one layer, but a gate over space."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.sigmoid(self.conv(x))


def timm_blocks() -> dict[str, nn.Module]:
    from timm.layers import squeeze_excite
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models.senet import SEModule

    return {
        "SEModule": squeeze_excite.SEModule(32),
        "SEModule, max too": squeeze_excite.SEModule(32, add_maxpool=True, gate_layer="hard_sigmoid"),
        "SEModule, norm": squeeze_excite.SEModule(32, norm_layer=nn.BatchNorm2d),
        "EffectiveSEModule": squeeze_excite.EffectiveSEModule(32),
        "SqueezeExcite": SqueezeExcite(32),
        "legacy": SEModule(32, 16),
    }


BLOCKS = {
    "senet": lambda: senet.SEBlock(32),
    "article": lambda: Article(32),
    "moskomule": lambda: Moskomule(32),
    "torchvision": lambda: torchvision.ops.SqueezeExcitation(32, 4, scale_activation=nn.Hardsigmoid),
    **{name: (lambda name=name: timm_blocks()[name]) for name in timm_blocks()},
}


@pytest.mark.parametrize("name", BLOCKS)
def test_recognised_with_its_gate(name):
    block = BLOCKS[name]().eval()
    x = torch.randn(3, 32, 5, 6)
    assert is_se(block)
    assert channels_of(block) == 32
    assert senet.gate(block, x).shape == (3, 32, 1, 1)
    torch.testing.assert_close(x * senet.gate(block, x), block(x))
    assert list(senet.blocks(nn.Sequential(nn.Conv2d(3, 32, 3), block))) == ["1"]


def test_channels_last_block():
    from timm.layers.squeeze_excite import SqueezeExciteCl

    block = SqueezeExciteCl(32)
    x = torch.randn(2, 5, 6, 32)
    torch.testing.assert_close(x * senet.gate(block, x), block(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_monai(dims):
    layers = pytest.importorskip("monai.networks.blocks.squeeze_and_excitation")
    x = torch.randn(2, 16, *(4, 5, 6)[:dims])
    block = layers.ChannelSELayer(dims, 16)
    torch.testing.assert_close(x * senet.gate(block, x), block(x))
    residual = layers.ResidualSELayer(dims, 16)
    torch.testing.assert_close(x + x * senet.gate(residual, x), residual(x))


@pytest.mark.parametrize("module", [SpatialGate(8), nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()), nn.Linear(4, 4)])
def test_what_only_looks_like_se_is_none(module):
    assert not is_se(module)
    with pytest.raises(TypeError, match="is not an SE block"):
        senet.gate(module, torch.zeros(1, 8, 2, 2))


def test_recognising_changes_nothing():
    block = BLOCKS["SEModule, norm"]().train()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    state = torch.get_rng_state()
    assert is_se(block)
    assert block.training
    assert all(torch.equal(value, block.state_dict()[key]) for key, value in before.items())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("network", "count"),
    [
        (lambda: timm.create_model("seresnet50"), 16),
        (lambda: timm.create_model("legacy_seresnet50"), 16),
        (lambda: timm.create_model("efficientnet_b0"), 16),
        (lambda: timm.create_model("ese_vovnet19b_dw"), 4),
        (lambda: torchvision.models.mobilenet_v3_small(), 9),
        (lambda: torchvision.models.regnet_y_400mf(), 16),
    ],
)
def test_networks_of_other_libraries(network, count):
    model = network().eval()
    x = torch.randn(1, 3, 64, 64)
    found = senet.blocks(model)
    assert len(found) == count
    cost = senet.cost(model, x)
    assert len(cost.blocks) == count
    assert all(row.parameters == sum(p.numel() for p in found[row.name].parameters()) for row in cost.blocks)
    bare = senet.remove(model)
    assert senet.blocks(bare) == {}
    assert len(senet.blocks(model)) == count
    with torch.no_grad():
        seen = []
        hooks = [b.register_forward_hook(lambda m, args, out: args[0]) for b in found.values()]  # gates held at 1
        expected = model(x)
        for hook in hooks:
            hook.remove()
        assert torch.equal(bare(x), expected)
        assert seen == []


def test_removing_then_inserting_makes_timms_network_ours():
    """SEResNet-50 of timm with its SE taken out is a plain ResNet-50 into which ours goes."""
    bare = senet.remove(timm.create_model("seresnet50"))
    assert len(senet.sites(bare, torch.randn(1, 3, 64, 64))) == 16


@pytest.mark.parametrize("name", MODULES)
def test_twins_of_other_libraries(name):
    """No second SE goes behind one that is there; it is listed, gives its gates, is held, and goes."""
    make, dims = MODULES[name]
    model, x = network(lambda: Unit(16, make(16), dims), dims)
    with pytest.raises(InsertionError, match=r"holds SE already wherever it could go \(2 places\)"):
        senet.sites(model, x)
    assert list(senet.blocks(model)) == list(senet.blocks(model, x)) == ["1.attend", "2.attend"]
    block, u = model[1].attend.eval(), torch.randn(2, 16, *(4, 5, 6)[:dims])
    assert channels_of(block) == 16
    torch.testing.assert_close(u * senet.gate(block, u), block(u))
    with torch.no_grad(), recording(model) as gates:
        model(x)
        assert gates["1.attend"].shape == (2, 16)
        with holding(model, {"1.attend": 0.5}):
            torch.testing.assert_close(block(u), 0.5 * u)
    bare = senet.remove(model)
    assert senet.blocks(bare) == {}
    assert len(senet.sites(bare, x)) == 2


def test_a_block_that_squeezes_part_of_the_space():
    """Its gate differs along the last dimension; it is SE all the same, and no place for a second one."""
    model, x = network(lambda: Unit(16, PartlySqueezed(16), 3), 3)
    with pytest.raises(InsertionError, match=r"holds SE already wherever it could go \(2 places\)"):
        senet.sites(model, x)
    assert list(senet.blocks(model)) == list(senet.blocks(model, x)) == ["1.attend", "2.attend"]
    block, u = model[1].attend.eval(), torch.randn(2, 16, 4, 5, 6)
    assert senet.gate(block, u).shape == u.shape
    torch.testing.assert_close(u * senet.gate(block, u), block(u))
    with torch.no_grad(), recording(model) as gates, holding(model, {"1.attend": lambda gate: gate / 2}):
        model(x)
    assert gates["1.attend"].shape == (2, 16)
    assert len(senet.sites(senet.remove(model), x)) == 2


def test_a_squeeze_over_what_a_mask_lets_count():
    unit, x = MaskedUnit(16), torch.randn(2, 16, 9)
    for example in (x, (x, torch.tensor([1.0, 0.5]))):
        assert list(senet.blocks(unit, example)) == ["se"]
        with pytest.raises(InsertionError, match=r"holds SE already wherever it could go \(1 place\)"):
            senet.sites(unit, example)
    assert len(senet.sites(ConditionedUnit(16), (x, torch.randn(2, 16)))) == 1
    assert senet.remove(unit).eval()(*example).shape == x.shape  # what is in its place is given the lengths too


@pytest.mark.parametrize("name", INLINE)
def test_se_written_into_a_forward(name):
    unit, layers = INLINE[name]
    model, x = network(lambda: unit(16))
    with pytest.raises(InsertionError, match=r"holds SE already wherever it could go \(2 places\)"):
        senet.sites(model, x)
    assert senet.blocks(model) == {}  # no module of its own to try
    found = senet.blocks(model, x)
    assert list(found) == ["1", "2"]
    assert all(isinstance(block, InlineSE) for block in found.values())
    assert found["1"].layers == tuple(f"1.{layer}" for layer in layers)
    own = [p for layer in layers for p in model[1].get_submodule(layer).parameters()]
    assert [id(p) for p in found["1"].parameters()] == [id(p) for p in own]
    assert channels_of(found["1"]) == (32 if name == "efficientnet_pytorch" else 16)
    with pytest.raises(InsertionError, match="SE in the forward of 1 has no module of its own"):
        found["1"](x)
    with pytest.raises(TypeError, match="cannot be computed alone, recorded, held, removed or pruned"):
        senet.gate(found["1"], x)


def test_the_channels_of_eca_are_learnt_from_a_run():
    block = ECA(16)
    with pytest.raises(ValueError, match="takes any number of channels"):
        channels_of(block)
    senet.blocks(block, torch.randn(1, 24, 5, 5))
    assert channels_of(block) == 24


def test_the_gradient_of_a_gate_is_the_blocks():
    block = Moskomule(32)
    x = torch.randn(2, 32, 4, 5, requires_grad=True)
    senet.gate(block, x).sum().backward()
    given, x.grad = x.grad, None
    block.fc(block.avg_pool(x).flatten(1)).sum().backward()
    torch.testing.assert_close(given, x.grad)


class OtherMap(nn.Module):
    """A gate that another map determines: a modulation, and no SE."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x) * torch.sigmoid(self.b(x.mean((2, 3), keepdim=True)))


class Normalised(nn.Module):
    """A norm by hand and a response norm: functions of averages, without layers."""

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean((2, 3), keepdim=True) + 1e-5)
        g = x.norm(p=2, dim=(2, 3), keepdim=True)
        return x * (g / (g.mean(1, keepdim=True) + 1e-6))


@pytest.mark.parametrize("module", [OtherMap(), Normalised(), SpatialGate(8)])
@pytest.mark.parametrize("size", [1, 6])  # on one position a gate over space has the shape of one over channels
def test_a_run_takes_no_other_product_for_se(module, size):
    assert senet.blocks(nn.Sequential(module), torch.randn(2, 8, size, size)) == {}


def test_a_large_module_is_not_tried(monkeypatch):
    """What a transformer is made of is told apart by its widths, before anything is copied or run."""
    from senet.insertion import recognise

    monkeypatch.setattr(recognise, "_try", lambda module: pytest.fail(f"tried {type(module).__name__}"))
    layer = nn.TransformerEncoderLayer(8, 2, 32)
    mlp = timm.layers.Mlp(8, 32)
    attention = timm.models.vision_transformer.Attention(8, 2)
    assert (
        senet.blocks(nn.ModuleList([layer, nn.MultiheadAttention(8, 2), mlp, attention, torchvision.models.resnet18()]))
        == {}
    )


def test_the_cost_of_se_written_into_a_forward():
    """Its layers and its product, as of the same SE in a module of its own."""
    unit, _ = INLINE["tutorial"]
    model, x = network(lambda: unit(16))
    found = senet.cost(model, x[:1])
    row = found.blocks[0]
    assert (row.name, row.channels, row.width) == ("1", 16, 4)
    assert row.parameters == 2 * 16 * 4 + 4 + 16
    assert row.multiply_adds == 2 * 16 * 4
    assert row.rescaling == 16 * 7 * 8
    assert found.se_parameters == 2 * row.parameters


class Wide(nn.Module):
    """More hidden units than channels: too like a transformer's MLP to be tried, so only a run shows that it is SE."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(16, 64), nn.Linear(64, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))[:, :, None, None]


def test_se_that_only_a_run_shows_is_removed_from_a_copy_too():
    model, x = network(lambda: Unit(16, Wide()))
    assert senet.blocks(model) == {}
    plain = senet.remove(model, example=x)
    assert [type(plain[index].attend) for index in (1, 2)] == [nn.Identity] * 2
    assert isinstance(model[1].attend, Wide)
    assert [(row.name, row.channels, row.width) for row in senet.cost(model, x).blocks] == [
        ("1.attend", 16, 64),
        ("2.attend", 16, 64),
    ]


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_is_known_of_a_block_holds_while_its_layers_do():
    block = Moskomule(32)
    assert channels_of(block) == 32
    block.fc[0], block.fc[2] = nn.Linear(24, 2), nn.Linear(2, 24)  # as a tool that prunes channels cuts them
    assert channels_of(block) == 24
    lazy = Moskomule(32)
    lazy.fc[0] = nn.LazyLinear(2)
    assert not is_se(lazy)
    lazy(torch.randn(1, 32, 3, 3))
    assert is_se(lazy)


def test_the_cost_of_a_block_that_takes_any_number_of_channels():
    model, x = network(lambda: Unit(16, ECA(16)))
    assert [(row.channels, row.width) for row in senet.cost(model, x).blocks] == [(16, None)] * 2
