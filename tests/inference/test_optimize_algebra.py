"""The mean of a convolution's output from its input, against the convolution itself, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from senet import SEBlock, optimize
from senet.inference import optimize as squeeze_through
from senet.inference.agreement import relative_difference
from senet.inference.algebra import folded_fc, window_means
from senet.inference.layers import Layer

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def _convolutions(draw, dims=(1, 2, 3), most=9):
    """Shapes of a convolution with at least one output: sizes, kernel, stride, padding, dilation, groups, widths."""
    d = draw(st.sampled_from(dims))

    def each(least, greatest):
        return draw(st.tuples(*[st.integers(least, greatest)] * d))

    kernel, stride, dilation, padding = each(1, 4), each(1, 3), each(1, 2), each(0, 3)
    size = tuple(
        max(each_size, gap * (k - 1) + 1 - 2 * p, 1)
        for each_size, k, gap, p in zip(each(1, most), kernel, dilation, padding, strict=True)
    )
    groups = draw(st.sampled_from((1, 2, 3)))
    inside, outside = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    return size, kernel, stride, padding, dilation, groups, inside, outside


@settings(max_examples=150, derandomize=True)
@given(_convolutions(), st.booleans())
def test_window_means_give_the_mean_of_the_convolution(shape, bias):
    size, kernel, stride, padding, dilation, groups, inside, outside = shape
    h = torch.randn(2, inside, *size, dtype=torch.float64)
    weight = torch.randn(outside, inside // groups, *kernel, dtype=torch.float64)
    b = torch.randn(outside, dtype=torch.float64) if bias else None
    u = _CONVOLUTIONS[len(size)](h, weight, b, stride, padding, dilation, groups)
    expected = u.flatten(2).mean(2)

    pairs = tuple((p, p) for p in padding)
    means = window_means(h, kernel, stride, pairs, dilation)
    assert means.shape == (2, inside, *kernel)
    there = _CONVOLUTIONS[len(size)](means, weight, b, groups=groups).flatten(1)
    torch.testing.assert_close(there, expected, rtol=1e-12, atol=1e-12)

    layer = Layer(None, None, weight, b, 1, stride, pairs, dilation, groups)
    fc, fc_bias = torch.randn(3, outside, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    folded, folded_bias = folded_fc(layer, fc, fc_bias)
    torch.testing.assert_close(F.linear(means.flatten(1), folded, folded_bias), F.linear(expected, fc, fc_bias))


def test_padding_may_differ_before_and_after():
    h, weight = torch.randn(2, 3, 9, dtype=torch.float64), torch.randn(4, 3, 4, dtype=torch.float64)
    means = window_means(h, (4,), (1,), ((1, 2),), (1,))
    expected = F.conv1d(F.pad(h, (1, 2)), weight).mean(2)
    torch.testing.assert_close(F.conv1d(means, weight)[..., 0], expected)


def test_window_means_accumulate_in_the_dtype_asked_for():
    h = torch.full((1, 1, 100, 100), 10.0, dtype=torch.float16)  # its sum, 1e5, is not in float16's range
    means = window_means(h, (1, 1), (1, 1), ((0, 0),) * 2, (1, 1), torch.float32)
    assert means.dtype == torch.float32
    assert means.item() == 10


class Branch(nn.Module):
    """A layer, normalisation, SE, addition and ReLU, as they come."""

    def __init__(self, layer: nn.Module, dims: int, channels: int, inside: int) -> None:
        super().__init__()
        self.layer = layer
        self.bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](channels)
        self.se = SEBlock(channels, 2, bias=True)
        self.se.scale.fill_(2)
        self.shortcut = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](inside, channels, 1)
        nn.init.normal_(self.bn.running_mean)
        nn.init.uniform_(self.bn.running_var, 0.5, 2)
        nn.init.normal_(self.bn.weight)
        nn.init.normal_(self.bn.bias)

    def forward(self, x):
        u = self.se(self.bn(self.layer(torch.sin(x))))
        shortcut = self.shortcut(x).flatten(2).mean(2)
        return torch.relu(u + shortcut[(...,) + (None,) * (u.dim() - 2)])


@settings(max_examples=12, derandomize=True)
@given(_convolutions(most=7))
def test_a_branch_of_any_convolution_gives_the_same(shape):
    size, kernel, stride, padding, dilation, groups, inside, outside = shape
    dims = len(size)
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](
        inside, outside, kernel, stride, padding, dilation, groups, bias=False
    )
    model = Branch(layer, dims, outside, inside).double().eval()
    x = torch.randn(2, inside, *size, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(squeeze_through, "_WORTH", float("inf"))
        optimized = optimize(model, x)
    assert [outcome.moved for outcome in optimized.meta["senet"]] == [True]
    for batch in (1, 3):
        x = torch.randn(batch, inside, *size, dtype=torch.float64)
        assert relative_difference(model(x).detach(), optimized(x)) < 1e-12


def test_sizes_may_stay_free_through_border_sums(monkeypatch):
    monkeypatch.setattr(squeeze_through, "_WORTH", float("inf"))
    for stride in (1, 2):
        model = Branch(nn.Conv2d(4, 6, 3, stride, 1, dilation=1), 2, 6, 4).double().eval()
        optimized = optimize(model, torch.randn(2, 4, 8, 9, dtype=torch.float64), dynamic_size=True)
        assert optimized.meta["senet"][0].moved
        for size in ((8, 9), (5, 12), (17, 6)):
            x = torch.randn(3, 4, *size, dtype=torch.float64)
            assert relative_difference(model(x).detach(), optimized(x)) < 1e-12
