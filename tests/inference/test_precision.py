"""Inference forms of networks in half precision, and of maps smaller than a kernel, against float64."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from torch import nn

import senet
from senet import SEBlock, optimize
from senet.export.runtimes import OnnxRuntime, OpenVino


class Unit(nn.Module):
    """A layer, normalised, and SE."""

    def __init__(self, layer, se):
        super().__init__()
        self.layer, self.norm, self.se = layer, nn.BatchNorm2d(32), se
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x):
        return torch.relu(self.se(self.norm(self.layer(x))) + 1)


UNITS = {
    "ours": (lambda: nn.Conv2d(4, 32, 3, padding=1), lambda: SEBlock(32, 4, bias=True, scale=2)),
    "ours, 1x1": (lambda: nn.Conv2d(4, 32, 1), lambda: SEBlock(32, 4, scale=2)),
    "timm": (lambda: nn.Conv2d(4, 32, 3, 2, padding=1), lambda: timm.layers.SEModule(32, rd_channels=8)),
    "efficient": (lambda: nn.Conv2d(4, 32, 3, padding=1), lambda: timm.layers.EcaModule(32)),
    "torchvision": (lambda: nn.Conv2d(4, 32, 1), lambda: torchvision.ops.SqueezeExcitation(32, 8)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", UNITS)
def test_half_precision_is_no_further_from_float64_than_the_network_is(name, dtype):
    torch.manual_seed(0)
    layer, se = UNITS[name]
    model = Unit(layer(), se()).eval().to(dtype)
    exact = copy.deepcopy(model).double()
    made = optimize(model, torch.randn(2, 4, 9, 9, dtype=dtype))
    assert [outcome.moved for outcome in made.meta["senet"]] == [True]
    x = 3 * torch.randn(16, 4, 9, 9, dtype=dtype)
    with torch.no_grad():
        true, plain, given = exact(x.double()), model(x), made(x)
    assert given.dtype == dtype
    ours, theirs = ((y.double() - true).square().mean().sqrt() for y in (given, plain))
    assert ours <= 1.25 * theirs  # roundings in another order


def test_sums_of_large_half_maps_stay_in_range():
    model = Unit(nn.Conv2d(4, 32, 3, padding=1), SEBlock(32, 4)).eval().half()
    x = torch.full((1, 4, 100, 100), 20.0, dtype=torch.float16)  # their sum, 2e5, is not in float16's range
    made = optimize(model, x)
    assert [outcome.moved for outcome in made.meta["senet"]] == [True]
    torch.testing.assert_close(made(x), model(x).detach(), rtol=0.01, atol=0.01)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", None])
def test_maps_smaller_than_the_kernel_where_sizes_are_free(tmp_path, suffix):
    if suffix:
        pytest.importorskip({".onnx": "onnxscript", ".xml": "openvino"}[suffix], reason="the extra 'ship' is missing")
    torch.manual_seed(0)
    for layer in (nn.Conv2d(4, 32, 7, padding=3), nn.Conv2d(4, 32, 5, 3, padding=2)):
        model = Unit(layer, SEBlock(32, 4, bias=True)).eval()
        if suffix:
            senet.export(model, torch.randn(1, 4, 9, 9), tmp_path / f"net{suffix}", dynamic_size=True)
            made = (OnnxRuntime if suffix == ".onnx" else OpenVino)(tmp_path / f"net{suffix}")
        else:
            made = optimize(model, torch.randn(1, 4, 9, 9), dynamic_size=True)
        for size in ((2, 2), (1, 1), (3, 1), (4, 11)):
            x = torch.randn(2, 4, *size)
            torch.testing.assert_close(made(x), model(x).detach(), rtol=1e-4, atol=1e-5)
