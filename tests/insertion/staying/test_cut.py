"""Tools that prune channels cut the layers of SE along with those around it: sizes are then what they are now."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import senet
from senet.errors import WeightsError
from senet.insertion import inserted
from tests.insertion.staying.test_staying import Block, randomise, same


class Stemmed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def cut(layer, dim, keep, *sizes):
    for name in ("weight", "bias", "running_mean", "running_var"):
        tensor = getattr(layer, name, None)
        if tensor is not None and (name == "weight" or dim == 0):
            cut = tensor.detach().index_select(min(dim, tensor.dim() - 1), keep)
            setattr(layer, name, nn.Parameter(cut) if isinstance(tensor, nn.Parameter) else cut)
    for size in sizes:
        setattr(layer, size, len(keep))


def prune(net, keep, hidden):
    """As Torch-Pruning does: every layer that shares a channel loses it, and the hidden units are cut as well."""
    block, se = net[1], net[1].bn.se
    cut(net[0], 0, keep, "out_channels")
    cut(block.conv, 0, keep, "out_channels")
    cut(block.conv, 1, keep, "in_channels")
    cut(block.bn, 0, keep, "num_features")
    cut(se.fc1, 1, keep, "in_features")
    cut(se.fc2, 0, keep, "out_features")
    cut(se.fc1, 0, hidden, "out_features")
    cut(se.fc2, 1, hidden, "in_features")
    cut(net[4], 1, keep, "in_features")


@pytest.mark.parametrize(("hidden", "width"), [([0, 2], None), ([1, 2, 3], 3)])
def test_a_pruned_network_is_saved(hidden, width, tmp_path):
    x = torch.randn(2, 3, 8, 8)
    spec = senet.SESpec(2, start="paper")
    net = senet.insert(randomise(Stemmed()).eval(), x, spec)
    prune(net, torch.tensor([0, 2, 5, 7]), torch.tensor(hidden))
    ((site, now),) = inserted(net).values()
    assert (site.channels, now) == (4, senet.SESpec(2, start="paper", width=width))
    expected = net(x)
    same(net, x, expected)
    same(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net)), x, expected)
    senet.save(net, tmp_path / "net.safetensors")
    for given in (senet.remove(net), net):
        torch.testing.assert_close(senet.load(tmp_path / "net.safetensors", given)(x), expected)
    with pytest.raises(WeightsError, match="does not fit this Stemmed"):
        senet.load(tmp_path / "net.safetensors", Stemmed())
