"""One picture without a batch, (C, H, W), which convolutions and pools take: SE took the height for the channels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import senet


class Unit(nn.Module):
    """As EDSR's: at full size, without a batch normalisation."""

    def __init__(self, last):
        super().__init__()
        self.conv, self.last = nn.Conv2d(16, 16, 3, padding=1), last

    def forward(self, x):
        return x + self.last(self.conv(x).relu())


LAST = {
    "convolution": lambda: nn.Conv2d(16, 16, 3, padding=1),
    "activation": nn.Tanh,
    "instance norm": lambda: nn.InstanceNorm2d(16, affine=True),
    "instance norm and activation": lambda: nn.Sequential(nn.InstanceNorm2d(16), nn.ReLU()),
}


def _net(last, **options):
    units = [Unit(last()) for _ in range(2)]
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *units, nn.Conv2d(16, 3, 3, padding=1)).eval()
    net = senet.insert(net, torch.randn(1, 3, 16, 16), senet.SESpec(4, start="paper"), **options)
    return net, torch.randn(2, 3, 16, 16)  # H = W = C: nothing tells an error from the shape


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("last", LAST)
def test_one_picture_is_a_batch_of_one(last, training, grad):
    net, x = _net(LAST[last])
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(net.train(training)(x[1]), net(x)[1])


def test_one_picture_in_a_made_block_and_at_the_input():
    for placement in ("pre", "identity"):
        net, x = _net(LAST["convolution"])
        net = senet.insert(senet.remove(net), x, senet.SESpec(4, placement=placement, start="paper"))
        torch.testing.assert_close(net(x[1]), net(x)[1])
    net = senet.insert(senet.remove(net), x, make=lambda channels: nn.Conv2d(channels, channels, 1))
    for block in senet.blocks(net).values():
        nn.init.ones_(block.alpha)
    torch.testing.assert_close(net(x[1]), net(x)[1])


def test_one_picture_compiled_exported_copied_and_loaded(tmp_path):
    net, x = _net(LAST["convolution"])
    expected = net(x)[1]
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(net, fullgraph=True, backend="eager")(x[1]), expected)
    torch.testing.assert_close(torch.export.export(net, (x[1],)).module()(x[1]), expected)
    torch.testing.assert_close(copy.deepcopy(net)(x[1]), expected)
    senet.save(net, tmp_path / "net.safetensors")
    torch.testing.assert_close(senet.load(tmp_path / "net.safetensors", senet.remove(net))(x[1]), expected)


def test_a_module_that_is_given_maps_and_vectors_takes_these_for_a_batch():
    """As many vectors as channels could be one map; a normalisation reads them as a batch, and so does its SE."""
    host, x = nn.BatchNorm1d(4).eval(), torch.randn(4, 4)
    senet.insertion.attach(host, senet.Site("", 4, 0, "plain", "by hand"), senet.SESpec(), dims=3)
    torch.testing.assert_close(host(x), host.se(senet.remove(host)(x)))
    shared = nn.Sequential(nn.Conv1d(4, 4, 1), act := nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), act).eval()
    senet.insertion.attach(shared, senet.Site("1", 4, 0, "plain", "by hand"), senet.SESpec(), dims=2)
    vectors = x.relu()
    assert torch.equal(shared[4](x), shared[4].se(vectors))
