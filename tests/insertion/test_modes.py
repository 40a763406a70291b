"""Objects that are no plain networks: a trainer's class, a network that wants targets, complex maps, views."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

import senet
from senet.running import noise, set_training, untouched
from tests.insertion.se_twins import RcanAttention
from tests.insertion.staying.test_staying import Block, randomise


class Trainer(nn.Module):
    """As ultralytics' YOLO: `train` trains, so `eval` would."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(Block())

    def forward(self, x):
        return self.model(x)

    def train(self, trainer=None, **options):
        pytest.fail(f"a training started, with {trainer} and {options}")


@pytest.fixture
def x():
    return torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(1))


def test_a_trainers_class_is_told_from_its_network(x):
    for verb in (senet.sites, senet.insert):
        with pytest.raises(senet.InsertionError, match=r"`train` of Trainer sets no mode.*its attribute `model`"):
            verb(Trainer(), x)
    holder = type("Holder", (), {"model": nn.Sequential(Block())})()
    with pytest.raises(TypeError, match=r"an nn.Module, not Holder; its attribute `model` is the network"):
        senet.sites(holder, x)
    assert not senet.blocks(nn.Sequential(Trainer()), x)
    assert senet.check(Trainer(), x).there == ()
    assert senet.cost(Trainer(), x).blocks == ()


def test_modes_are_set_by_what_sets_modes():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            return super().train(False)

    class Flag(nn.Sequential):
        def train(self, training: bool = True, *, deep: bool = True):
            self.deep = deep
            return super().train(training)

    net = nn.Sequential(Frozen(nn.BatchNorm2d(8)), Flag(nn.BatchNorm2d(8)), Trainer())
    set_training(net, True)
    assert [module.training for module in net.modules()][:5] == [True, False, False, True, True]
    with untouched(net):
        assert not any(module.training for module in net.modules())
    assert net[2].training
    assert net[2].model[0].bn.training
    assert net[1].deep


class Learning(nn.Module):
    """Writes its parameters as it runs in training: a new codebook each time, and a scale set by the first batch."""

    def __init__(self):
        super().__init__()
        self.codes, self.scale = (nn.Parameter(torch.ones(8, 1, 1)) for _ in range(2))
        self.block = Block()

    def forward(self, x):
        if self.training:
            self.codes = nn.Parameter(self.codes.detach() / 2)
            self.scale.data.fill_(3)
        return self.block(x * self.scale + self.codes)


def test_a_run_in_training_mode_leaves_the_parameters(x):
    net = Learning()
    before = dict(net.named_parameters())
    senet.cost(net, x)
    se = senet.insert(net, x, inplace=True)
    assert all(net.get_parameter(name) is each for name, each in before.items())
    assert torch.equal(net.codes, torch.ones(8, 1, 1))
    assert torch.equal(se.scale, torch.ones(8, 1, 1))


class Drawing(nn.Module):
    """Draws from Python and NumPy in training, as SpecAugment does in transformers."""

    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        return self.block(x * (random.random() + np.random.rand())) if self.training else self.block(x)


def test_a_run_in_training_mode_leaves_every_random_state(x):
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(3)
    senet.cost(senet.insert(Drawing(), x), x)
    assert (random.random(), np.random.rand()) == expected


def test_the_cost_of_a_network_that_wants_targets(x):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x, targets=None):
            if self.training and targets is None:
                raise ValueError("targets should not be none when in training mode")
            return self.block(x)

    net = senet.insert(Detector(), x)
    counted = senet.cost(net, x)
    assert counted.activation_mode == "eval"
    assert counted.se_activation_bytes > 0
    assert "backward pass, in eval mode" in str(counted)
    assert senet.cost(net.block, x).activation_mode == "training"
    with pytest.raises(ValueError, match="does not run"):
        senet.cost(net, torch.randn(1, 3, 4, 4))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_scripting_says_to_trace(x):
    net = senet.insert(nn.Sequential(Block()), x)
    with pytest.raises(senet.InsertionError, match=r"torch\.jit\.script cannot .*use torch\.jit\.trace"):
        torch.jit.script(net)


def test_complex_inputs(x):
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(torch.fft.ifft2(x).real)

    assert list(senet.blocks(senet.insert(Fourier(), torch.fft.fft2(x)))) == ["block.bn.se"]
    convolutions = (nn.Conv2d(8, 8, 3, padding=1, dtype=torch.complex64) for _ in range(2))
    with pytest.raises(senet.InsertionError, match="its maps are complex"):
        senet.insert(nn.Sequential(*convolutions), torch.fft.fft2(x))


class Branch(nn.Module):
    """Starts with an activation, which rounds otherwise over a map with gaps in memory."""

    def __init__(self):
        super().__init__()
        self.act, self.conv = nn.GELU(), nn.Conv1d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.act(x))


class Halved(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Conv1d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(Branch() for _ in range(blocks))

    def forward(self, x):
        first, *others = self.blocks
        x = first(self.stem(x)[:, :, ::2])
        for block in others:
            x = block(x)
        return x


def test_pre_on_a_view_of_a_larger_tensor():
    net, x = randomise(Halved(2)).eval(), torch.randn(2, 3, 200)
    with pytest.warns(senet.SEWarning, match=r"no SE goes before blocks\.0\.act: it is given a view"):
        se = senet.insert(net, x, senet.SESpec(placement="pre"))
    assert list(senet.blocks(se)) == ["blocks.1.act.se"]
    torch.testing.assert_close(se(x), net(x), rtol=0, atol=0)
    with pytest.raises(senet.InsertionError, match="differs by"):
        senet.insert(Halved(1).eval(), x, senet.SESpec(placement="pre"))


def test_inner_on_pointwise_branches_says_why():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)

        def forward(self, x):
            return x + self.second(torch.relu(self.first(x)))

    net = nn.Sequential(nn.Conv2d(3, 8, 3), Mixer())
    with pytest.raises(senet.InsertionError, match="no last spatial convolution"):
        senet.insert(net, torch.randn(1, 3, 8, 8), senet.SESpec(placement="inner"))


@pytest.mark.filterwarnings("ignore")  # of a deprecated part of PyTorch
def test_a_quantised_network_says_so():
    quantised = pytest.importorskip("torch.ao.nn.quantized")
    try:
        net = nn.Sequential(quantised.Quantize(0.1, 64, torch.quint8), quantised.Conv2d(8, 8, 3), nn.ReLU())
        net(torch.randn(1, 8, 8, 8))
    except RuntimeError as error:
        pytest.skip(f"this build of PyTorch does not quantise: {error}")
    with pytest.raises(senet.InsertionError, match="its maps are quantised"):
        senet.sites(net, torch.randn(1, 8, 8, 8))


def test_whatever_the_default_device_is(x):
    """People set `cuda`, where a draw by a generator of the CPU is an error; here the other device is meta."""
    net, foreign = nn.Sequential(Block()).eval(), nn.Sequential(RcanAttention(16))
    block, z = senet.SEBlock(8, 2), torch.randn(2, 8)
    with torch.device("meta"):
        se = senet.insert(net, x)
        assert list(senet.blocks(foreign)) == ["0"]
        block.start_as_identity(z, -z)
        with senet.valid([0.5, 1.0]):
            assert se(x).shape == x.shape
    assert torch.equal(se(x), net(x))


@pytest.mark.parametrize("draw", [torch.randn, torch.rand])
def test_noise_is_the_same_under_a_default_device(draw):
    wanted = noise(2, 3, draw=draw)
    torch.rand(1)
    with torch.device("meta"):
        found = noise(2, 3, draw=draw)
    assert found.device.type == "cpu"
    assert torch.equal(found, wanted)
    assert torch.equal(wanted, draw((2, 3), generator=torch.Generator().manual_seed(0)))
