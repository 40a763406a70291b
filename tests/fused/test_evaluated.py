"""SE in inference as it was inserted: in place on the normalisation's output, and only where nobody looks."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

import senet
from senet.fused.passes import inference
from senet.fused.passes.library import library
from senet.fused.switch import unfused, unobtrusive, watching
from tests.fused.passes import LAST
from tests.fused.test_norm import joined, norm_of

LAYOUTS = [torch.contiguous_format, torch.channels_last]
NETWORKS = {
    "basic": lambda: torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5),
    "bottleneck": lambda: torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=5),
    "inverted": lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=5),
    "cifar": lambda: senet.create("resnet20"),
    "relu between": lambda: senet.create("mobilenet_v1", width=0.25, num_classes=5),
    "group": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1)),
}

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C compiler")


@pytest.fixture
def called(monkeypatch):
    """The names of the compiled functions that inference calls."""
    names = []

    class Noting:
        def __getattr__(self, name):
            names.append(name)
            return getattr(library(), name)

    monkeypatch.setattr(inference, "library", Noting)
    return names


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request):
    """A network, with running statistics as after training, and the same with SE that starts as the identity."""
    torch.manual_seed(0)
    plain = NETWORKS[request.param]()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, 0, 0.2)
    return plain.eval(), senet.insert(plain, torch.randn(2, 3, 64, 64)).eval()


@pytest.mark.parametrize("batch", [1, inference.FEW + 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", LAYOUTS)
def test_it_gives_the_same(pair, batch, dtype, memory_format, called):
    plain, se = (copy.deepcopy(network).to(dtype, memory_format=memory_format) for network in pair)
    x = torch.randn(batch, 3, 64, 64, dtype=dtype).contiguous(memory_format=memory_format)
    before = x.clone()
    with torch.inference_mode():
        assert torch.equal(se(x), plain(x))  # gates of 1: bit for bit
        assert len(called) >= len(senet.blocks(se))
        for block in senet.blocks(se).values():
            for parameter in block.parameters():
                nn.init.normal_(parameter, 0, 0.2)
        found = se(x)
        with unfused():
            wanted = se(x)
    eps = 1e-5 if dtype is torch.float32 else 0.05
    torch.testing.assert_close(found, wanted, rtol=0, atol=eps * float(wanted.abs().max()))
    assert torch.equal(x, before)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "tanh", "relu"])
@pytest.mark.parametrize("kind", ["batch", "group", "instance"])
@pytest.mark.parametrize("shape", [(2, 8, 7), (2, 8, 5, 6), (2, 8, 3, 4, 5)])
def test_every_gate_behind_every_normalisation(gate, kind, shape, called):
    spec = senet.SESpec(4, gate=gate, bias=True, start="paper")
    model = joined(norm_of(kind, 8, len(shape) - 2), spec, 8).eval()
    x = torch.randn(shape)
    for each in (x, x.contiguous(memory_format=LAST[x.dim()])) if x.dim() > 3 else (x,):
        called.clear()
        with torch.no_grad():
            found = model(each)
            with unfused():
                torch.testing.assert_close(found, model(each), rtol=1e-5, atol=1e-5)
        assert called == ["excited_float32"]


def test_a_block_is_one_call(called):
    se = senet.insert(NETWORKS["bottleneck"](), torch.randn(1, 3, 64, 64)).eval()
    with torch.no_grad():
        se(torch.randn(2, 3, 64, 64))
    assert called == ["excited_float32"] * 4


def test_it_overwrites_nothing_that_is_kept():
    se = senet.insert(NETWORKS["bottleneck"](), torch.randn(1, 3, 64, 64), senet.SESpec(start="paper")).eval()
    kept = []
    for module in (se.layer1[0].conv3, se.layer1[0].downsample):
        module.register_forward_hook(lambda _, __, output: kept.append((output, output.clone())))
    with torch.no_grad():
        se(torch.randn(1, 3, 64, 64))
    assert len(kept) == 2
    assert all(torch.equal(output, at_that_time) for output, at_that_time in kept)


def _watched(se):
    se[2].se.register_forward_hook(lambda *_: None)


def _without_squeeze(se):
    se[2].se.squeeze = "none"


def _doubled(se):
    se[2].se.fc2.weight.data = se[2].se.fc2.weight.data.double()


def _sparse(se):
    layer = se[2].se.fc1
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse_csr(), requires_grad=False)


def _scaled_by_channel(se):
    se[2].se.scale = torch.linspace(1, 2, 8)


def _gated_otherwise(se):
    se[2].se.gate = lambda x, *_, **__: torch.ones(*x.shape[:2], 1, 1)


CHANGES = [_watched, _without_squeeze, _doubled, _sparse, _scaled_by_channel, _gated_otherwise, nn.Module.train]


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("change", CHANGES)
def test_whoever_looks_sees_the_equations(change, called):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    se = senet.insert(model, torch.randn(2, 3, 9, 9), senet.SESpec(2, start="paper"), where="2").eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        change(se)
        se(x)
    assert called == []


def test_gradients_transforms_padding_and_the_switch(called):
    model = nn.Sequential(nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 1))
    se = senet.insert(model, torch.randn(2, 3, 9), senet.SESpec(2, start="paper"), where="2").eval()
    x = torch.randn(2, 3, 9)
    se(x).sum().backward()
    with torch.no_grad():
        torch.func.vmap(lambda each: se(each[None]))(x)
        with senet.valid(torch.tensor([1.0, 0.5])):
            padded = se(x)
        with unfused():
            apart = se(x)
        assert called == []
        torch.testing.assert_close(se(x), apart)
        assert called == ["excited_float32"]
    assert not torch.allclose(padded, apart)


class Keeping(TorchFunctionMode):
    """A mode that keeps each function's result, and its values at that time."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.kept.append((result, result.clone()))
        return result


def test_a_mode_that_keeps_results_keeps_them_as_they_were(called):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    se = senet.insert(model, x := torch.randn(2, 3, 9, 9), senet.SESpec(2, start="paper"), where="2").eval()
    with torch.no_grad():
        with Keeping() as mode:
            se(x)
        assert called == []
        assert mode.kept
        assert all(torch.equal(result, at_that_time) for result, at_that_time in mode.kept)
        with torch.device("meta"):  # a mode too, which keeps nothing
            se(x)
        assert called == ["excited_float32"]


def test_weights_that_lie_transposed(called):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    se = senet.insert(model, torch.randn(2, 3, 9, 9), senet.SESpec(2, start="paper"), where="2").eval()
    block = se[2].se
    block.fc1.weight.data = block.fc1.weight.data.t().contiguous().t()
    with torch.no_grad():
        found = se(x := torch.randn(2, 3, 9, 9))
        with unfused():
            torch.testing.assert_close(found, se(x))
    assert called == ["squeeze_float32", "rescale_rows_float32"]


def test_a_watcher_learns_of_every_block(called):
    se = senet.insert(NETWORKS["bottleneck"](), torch.randn(1, 3, 64, 64)).eval()
    ran = []
    for block in senet.blocks(se).values():
        block.register_forward_hook(unobtrusive(lambda block, *_: ran.append(block)))
    with torch.no_grad(), watching(lambda block, kept: ran.append(block)):
        se(torch.randn(1, 3, 64, 64))
    assert ran == list(senet.blocks(se).values())
    assert called
