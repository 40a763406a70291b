"""What other libraries' tools do to a network, with open gates: SE's output stays, or somebody is told."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import senet
from senet.insertion import inserted
from tests.insertion.staying.test_record import quiet
from tests.insertion.staying.test_staying import Block, randomise, same

fuse_modules = pytest.importorskip("torch.ao.quantization").fuse_modules


@pytest.fixture
def x():
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))


def joined(net, x, **options):
    return senet.insert(randomise(net).eval(), x, senet.SESpec(2, start="paper", **options))


class Plain(nn.Sequential):
    """SE is joined to the activation."""

    def __init__(self):
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


@pytest.mark.parametrize("training", [False, True])
def test_fuse_modules_up_to_the_host(x, training):
    net = joined(Block(), x).train(training)
    expected = copy.deepcopy(net)(x)
    if training:
        fused = torch.ao.quantization.fuse_modules_qat(net, [["conv", "bn"]])
    else:
        fused = fuse_modules(net, [["conv", "bn"]])
    assert type(fused.conv) is not nn.Conv2d if training else type(fused.conv) is nn.Conv2d
    torch.testing.assert_close(quiet(fused, x), expected)
    assert list(senet.blocks(fused)) == ["bn.se"]


def test_fuse_modules_with_an_activation_that_holds_se(x):
    net = joined(nn.Sequential(Plain(), Plain()), x)
    expected = net(x)
    fused = fuse_modules(net, [["0.0", "0.1", "0.2"], ["1.0", "1.1", "1.2"]])
    assert list(senet.blocks(fused)) == ["0.2.se", "1.2.se"]
    same(fused, x, expected)


class TwoNorms(nn.Module):
    """As ResNet's BasicBlock, both of whose normalisations a tool folds."""

    def __init__(self):
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c2, self.n2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.n2(self.c2(self.n1(self.c1(x)).relu()))


def _folded(net, x, names, shared):
    """Fold the normalisations of all units, with one module in the place of all of them."""
    net = joined(net, x)
    plain, expected = senet.remove(net), net(x)
    for unit, from_unit in zip(net, plain, strict=True):
        unit.c1, unit.c2 = (fuse_conv_bn_eval(getattr(from_unit, f"c{i}"), getattr(from_unit, f"n{i}")) for i in (1, 2))
        for name in names:
            setattr(unit, name, shared)
    return net, expected


@pytest.mark.parametrize("names", [["n1", "n2"], ["n2", "n1"]])
def test_one_identity_in_the_place_of_several_normalisations(x, names):
    """The identity that SE had moved to stood in the other place too, and SE ran at both."""
    net, expected = _folded(nn.Sequential(TwoNorms(), TwoNorms()), x, names, nn.Identity())
    same(net, x, expected)
    assert list(senet.blocks(net)) == ["0.n2.se", "1.n2.se"]


@pytest.mark.parametrize("names", [["n1", "n2"], ["n2", "n1"]])
def test_one_module_in_the_place_of_several_normalisations(x, names):
    net, _ = _folded(nn.Sequential(TwoNorms()), x, names, nn.ReLU())
    with pytest.warns(senet.SEWarning, match=r"0\.n1 is the module that holds the SE of 0\.n2\. Put another module"):
        net(x)
    quiet(net, x)


class WithReLU(Block):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.bn(self.conv(x)))


def test_fuse_modules_across_the_host(x):
    net = joined(WithReLU(), x)
    with pytest.raises(senet.InsertionError, match="fuse Conv2d and BatchNorm2d alone, and leave out what follows"):
        fuse_modules(net, [["conv", "bn", "relu"]])


@pytest.mark.parametrize("names", [["conv", "bn"], ["conv", "bn", "relu"]])
def test_fuse_modules_behind_se(x, names):
    net = joined(WithReLU(), x, placement="pre")
    expected = quiet(net, x)
    if len(names) == 2:
        torch.testing.assert_close(quiet(fuse_modules(net, names), x), expected)
    else:
        with pytest.warns(senet.SEWarning, match="ConvReLU2d that replaces conv of WithReLU cannot hold"):
            fuse_modules(net, names)


def test_torchvisions_quantizable_networks(x):
    quantization = pytest.importorskip("torchvision.models.quantization")
    image = torch.randn(1, 3, 32, 32)
    net = joined(quantization.resnet18(num_classes=2), image)
    expected, plain = net(image), senet.remove(net)(image)
    net.fuse_model()
    torch.testing.assert_close(quiet(net, image), expected)
    assert len(senet.blocks(net)) == 8
    assert not torch.allclose(expected, plain)


class ConvNorm(nn.Sequential):
    """As timm's: `fuse` returns the convolution that takes its place."""

    def __init__(self, kernel, groups=1):
        super().__init__()
        self.add_module("c", nn.Conv2d(8, 8, kernel, padding=kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(8))

    @torch.no_grad()
    def fuse(self):
        return fuse_conv_bn_eval(self.c, self.bn)


class RepVGGUnit(nn.Module):
    """RepViT's token mixer: parallel branches that `fuse` makes one convolution of."""

    def __init__(self):
        super().__init__()
        self.conv = ConvNorm(3, 8)
        self.conv1 = nn.Conv2d(8, 8, 1, groups=8)
        self.bn = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.bn(self.conv(x) + self.conv1(x) + x)

    @torch.no_grad()
    def fuse(self):
        conv = self.conv.fuse()
        centre = self.conv1.weight + 1
        conv.weight += nn.functional.pad(centre, [1, 1, 1, 1])
        conv.bias += self.conv1.bias
        return fuse_conv_bn_eval(conv, self.bn)


class Mixer(nn.Module):
    """RepViT's channel mixer, to whose residual SE is joined."""

    def __init__(self):
        super().__init__()
        self.conv1, self.act, self.conv2 = ConvNorm(1), nn.GELU(), ConvNorm(1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(x)))


class RepViTBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.token_mixer, self.channel_mixer = RepVGGUnit(), Mixer()

    def forward(self, x):
        x = self.token_mixer(x)
        return x + self.channel_mixer(x)


def reparameterize(module):
    """Exchange whatever can fuse itself, from the outside in, as timm's `reparameterize_model` does."""
    for name, child in module.named_children():
        if hasattr(child, "fuse"):
            setattr(module, name, child.fuse())
        else:
            reparameterize(child)
    return module


def test_reparameterized(x):
    net = joined(nn.Sequential(RepViTBlock(), RepViTBlock()), x)
    assert len(senet.blocks(net)) == 2
    expected = net(x)
    same(reparameterize(net), x, expected)
    assert list(senet.blocks(net)) == ["0.channel_mixer.conv2.se", "1.channel_mixer.conv2.se"]


def test_timms_repvit():
    timm = pytest.importorskip("timm", exc_type=ImportError)
    image = torch.randn(1, 3, 64, 64)
    net = joined(timm.create_model("repvit_m0_9", num_classes=2), image)
    assert len(inserted(net)) == 26
    expected, plain = net(image), senet.remove(net)(image)
    fused = timm.utils.reparameterize_model(net)
    torch.testing.assert_close(quiet(fused, image), expected)
    assert len(inserted(fused)) == 26
    assert not torch.allclose(expected, plain)


def test_what_moved_is_saved_under_its_new_name(x, tmp_path):
    net = joined(nn.Sequential(RepViTBlock()), x)
    reparameterize(net)
    plain = senet.remove(net)
    senet.save(net, tmp_path / "net.safetensors")
    torch.testing.assert_close(senet.load(tmp_path / "net.safetensors", plain)(x), net(x))
    whole = nn.Sequential(nn.Identity(), joined(nn.Sequential(Block()), x, placement="identity"))
    senet.save(whole, tmp_path / "whole.safetensors")
    torch.testing.assert_close(senet.load(tmp_path / "whole.safetensors", senet.remove(whole))(x), whole(x))


class Adapter(nn.Module):
    """As PEFT's LoRA: it adds to the output of the layer that it holds, until the two are merged."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.lora = base_layer, nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def get_base_layer(self):
        return self.base_layer

    def forward(self, x):
        return self.base_layer(x) + self.lora(x)

    @torch.no_grad()
    def merged(self):
        self.base_layer.weight += self.lora.weight
        return self.base_layer


class Preactivated(Block):
    def forward(self, x):
        return x + self.conv(self.bn(x).relu())


@pytest.mark.parametrize(
    ("make", "placement"), [(Preactivated, "standard"), (Preactivated, "identity"), (Block, "pre")]
)
def test_an_adapter_around_the_host(x, make, placement):
    """SE rescaled the host's part of the sum alone, and all of it when the adapter was merged."""
    net = joined(nn.Sequential(nn.Conv2d(8, 8, 1), make(), make()), x, placement=placement)
    names, keys, expected = list(inserted(net)), set(net.state_dict()), net(x)
    assert names == ["1.conv", "2.conv"]
    net[1].conv = Adapter(net[1].conv)
    weight = net[1].conv.lora.weight
    nn.init.zeros_(weight)
    same(net, x, expected)
    nn.init.normal_(weight)
    adapted = quiet(net, x)
    torch.testing.assert_close(quiet(copy.deepcopy(net), x), adapted)
    assert list(inserted(net)) == names
    net[1].conv = net[1].conv.merged()
    same(net, x, adapted)
    assert set(net.state_dict()) == keys


def test_fully_sharded(x, tmp_path):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    distributed = torch.distributed
    if not distributed.is_gloo_available():
        pytest.skip("no gloo here")
    net = joined(nn.Sequential(Block(), Block()), x)
    plain, expected = senet.remove(net), net(x)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        for part in (*net, net):
            fsdp.fully_shard(part)
        torch.testing.assert_close(quiet(net, x), expected)
        assert not senet.check(net, x).lost
        senet.save(net, tmp_path / "net.safetensors")
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(senet.load(tmp_path / "net.safetensors", plain)(x), expected)


def test_a_loaded_network_is_reparameterized(x, tmp_path):
    net = joined(nn.Sequential(RepViTBlock()), x)
    senet.save(net, tmp_path / "net.safetensors")
    loaded = senet.load(tmp_path / "net.safetensors", senet.remove(net))
    same(reparameterize(loaded), x, net(x))


def test_se_does_not_go_to_another_part(x):
    net = joined(nn.Sequential(Plain(), Plain()), x)
    net[1] = nn.Identity()
    with pytest.warns(senet.SEWarning, match=r"1\.2 \(gone\)"):
        net(x)
    with pytest.warns(senet.SEWarning, match="BatchNorm2d that replaces 2 of Plain cannot hold"):
        net[0][2] = nn.BatchNorm2d(4)
    assert not senet.blocks(net, tell=False)
