"""Every activation of PyTorch ends a unit, and so does one that is written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import senet
from senet.activations import ACTIVATIONS
from senet.insertion.reading.dataflow import record
from senet.insertion.reading.operations import is_activation

NONE = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}  # these work over a dimension
ARGUMENTS = {"Threshold": (0.1, 0.0), "GLU": (1,)}


class ByHand(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


WRITTEN = {
    "swish": lambda x: x * torch.sigmoid(1.5 * x),
    "mish": lambda x: x * torch.tanh(nn.functional.softplus(x)),
    "hardswish": lambda x: x * nn.functional.relu6(x + 3) / 6,
    "snake": lambda x: x + torch.sin(0.7 * x).pow(2) / 0.7,
    "softsign": lambda x: x / (1 + x.abs()),
    "tanhshrink": lambda x: x - torch.tanh(x),
}


def units(activation: nn.Module) -> nn.Module:
    c = 4 if isinstance(activation, nn.GLU) else 8
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation, nn.Conv2d(c, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )


@pytest.mark.parametrize("name", sorted(set(nn.modules.activation.__all__) - NONE))
def test_every_activation_of_torch_ends_a_unit(name):
    model = units(getattr(nn, name)(*ARGUMENTS.get(name, ())))
    assert [site.name for site in senet.sites(model, torch.randn(1, 3, 9, 9))] == ["2", "4"]


@pytest.mark.parametrize("name", WRITTEN)
def test_one_written_by_hand_is_one_activation(name):
    model, x = units(ByHand(WRITTEN[name])), torch.randn(1, 3, 9, 9)
    assert [site.name for site in senet.sites(model, x)] == ["2", "4"]
    flow = record(model.eval(), x)
    assert sum(is_activation(flow, value.index) for value in flow.values) == 2


def test_a_sum_with_itself_is_no_activation():
    flow = record(ByHand(lambda x: x + 0.5 * x), torch.randn(1, 3, 9, 9))
    assert not any(is_activation(flow, value.index) for value in flow.values)


def test_each_operation_stands_once_and_is_pytorchs():
    assert len({each.op for each in ACTIVATIONS}) == len(ACTIVATIONS)
    assert all(hasattr(torch.ops.aten, each.op) for each in ACTIVATIONS if each.unary)
    assert all(hasattr(torch.ops.aten, f"{each.op}_") for each in ACTIVATIONS if each.overwrites)
    natives = sorted(each.native for each in ACTIVATIONS if each.native)
    assert natives == list(range(1, len(natives) + 1))
