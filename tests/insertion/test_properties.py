"""Random small networks: insertion keeps the function, removal restores it, the sites are the units that were built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import senet
from senet import SESpec
from tests.insertion.networks import randomise

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu in place": lambda: nn.ReLU(inplace=True),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky": nn.LeakyReLU,
    "prelu": nn.PReLU,
}


def norm(kind: str, dims: int, channels: int) -> nn.Module:
    if kind == "batch":
        return BATCH_NORMS[dims](channels)
    return nn.GroupNorm(2, channels) if kind == "group" else nn.Identity()


def layer(draw, dims: int, inside: int, outside: int, *, kernel: int = 3, groups: int = 1) -> list[nn.Module]:
    convolution = CONVOLUTIONS[dims](inside, outside, kernel, padding=kernel // 2, groups=groups)
    return [convolution, norm(draw(st.sampled_from(["batch", "group", "none"])), dims, outside)]


def activation(draw) -> nn.Module:
    return ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]()


class Residual(nn.Module):
    """One to three layers beside a shortcut, with what may come before and behind the addition."""

    def __init__(self, draw, dims: int, inside: int, outside: int) -> None:
        super().__init__()
        depth = draw(st.integers(1, 3))
        layers = layer(draw, dims, inside, outside)
        for _ in range(depth):
            layers += [activation(draw), *layer(draw, dims, outside, outside, kernel=draw(st.sampled_from([1, 3])))]
        if draw(st.booleans()):
            layers.append(activation(draw))  # the branch may end in an activation
        self.branch = nn.Sequential(*layers)
        projects = inside != outside or draw(st.booleans())
        self.shortcut = CONVOLUTIONS[dims](inside, outside, 1) if projects else nn.Identity()
        self.scale = nn.Parameter(torch.tensor(0.7)) if draw(st.booleans()) else None
        self.drop = nn.Dropout(0.3) if draw(st.booleans()) else nn.Identity()
        self.after = activation(draw) if draw(st.booleans()) else nn.Identity()
        self.swapped, self.in_place = draw(st.booleans()), draw(st.booleans())

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        y = self.branch(x.clone() if self.in_place else x)
        y = self.drop(y if self.scale is None else self.scale * y)
        if self.in_place:
            y = y.clone()
            y += shortcut
        else:
            y = shortcut + y if self.swapped else y + shortcut
        return self.after(y)


class Aggregated(nn.Module):
    """Two to four branches, concatenated; at least one with a spatial convolution."""

    def __init__(self, draw, dims: int, inside: int) -> None:
        super().__init__()
        kernels = [3, *draw(st.lists(st.sampled_from([1, 3, 5]), min_size=1, max_size=3))]
        self.branches = nn.ModuleList(
            nn.Sequential(*layer(draw, dims, inside, 4, kernel=kernel), nn.ReLU()) for kernel in kernels
        )
        self.out_channels = 4 * len(kernels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Dense(nn.Module):
    """New channels beside the old ones."""

    def __init__(self, draw, dims: int, inside: int) -> None:
        super().__init__()
        self.new = nn.Sequential(norm("batch", dims, inside), nn.ReLU(), CONVOLUTIONS[dims](inside, 4, 3, padding=1))
        self.out_channels = inside + 4

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


class Head(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2))


@st.composite
def networks(draw) -> tuple[nn.Module, Tensor, str, int]:
    """A network of units of one kind, with pooling between, an example, the rule and the number of units."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))
    kind = draw(st.sampled_from(["residual", "aggregated", "dense", "plain"]))
    channels = 8
    parts: list[nn.Module] = [CONVOLUTIONS[dims](3, channels, 3, padding=1)]
    n = draw(st.integers(2, 4))
    for _ in range(n):
        if kind == "residual":
            outside = draw(st.sampled_from([8, 16]))
            parts.append(Residual(draw, dims, channels, outside))
            channels = outside
        elif kind == "aggregated":
            parts.append(Aggregated(draw, dims, channels))
            channels = parts[-1].out_channels
        elif kind == "dense":
            parts.append(Dense(draw, dims, channels))
            channels = parts[-1].out_channels
        else:
            outside = draw(st.sampled_from([8, 16]))
            parts += [*layer(draw, dims, channels, outside), activation(draw)]
            channels = outside
        if kind != "dense" and draw(st.integers(0, 3)) == 0:
            parts.append((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1](2))
    parts.append(Head(channels))
    size = {1: (40,), 2: (17, 20), 3: (16, 17, 18)}[dims]
    return randomise(nn.Sequential(*parts)), torch.randn(2, 3, *size), kind, n


@settings(max_examples=60)
@given(network=networks(), squeeze=st.sampled_from(["avg", "max", "none"]), ratio=st.sampled_from([1, 4, 16]))
def test_insertion_keeps_and_removal_restores(network, squeeze, ratio):
    plain, x, kind, n = network
    found = senet.sites(plain, x)
    assert {site.rule for site in found} == {kind}
    assert len(found) == n
    se = senet.insert(plain, x, SESpec(ratio, squeeze=squeeze))
    assert len(senet.blocks(se)) == n
    with torch.no_grad():
        expected = plain.eval()(x)
        assert torch.equal(se.eval()(x), expected)
        torch.manual_seed(1)
        training = plain.train()(x)
        torch.manual_seed(1)
        torch.testing.assert_close(se.train()(x), training, rtol=1e-6, atol=1e-6)
        back = senet.remove(se)
        assert repr(back) == repr(plain)


@settings(max_examples=30)
@given(network=networks(), placement=st.sampled_from(["pre", "post", "identity", "inner"]))
def test_every_placement_keeps_the_function_or_says_why_not(network, placement):
    plain, x, kind, _ = network
    spec = SESpec(placement=placement)
    none = placement == "identity" or (placement == "inner" and kind == "aggregated")
    if kind != "residual" and none:
        with pytest.raises(senet.InsertionError, match=f"placement {placement!r}"):
            senet.insert(plain, x, spec)
        return
    se = senet.insert(plain, x, spec)
    with torch.no_grad():
        assert torch.equal(se.eval()(x), plain.eval()(x))
        assert F.mse_loss(senet.remove(se)(x), plain(x)) == 0
