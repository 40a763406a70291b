"""What tests of made blocks share: makers, networks that they go into, an input."""

from __future__ import annotations

import torch
from torch import nn

import senet


class Channelwise(nn.Module):
    """x · σ(w · mean of x + b): a person's own gate, for any number of dimensions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))

    def forward(self, x):
        mean = x.flatten(2).mean(2)
        return x * torch.sigmoid(mean * self.weight).reshape(*mean.shape, *(1,) * (x.dim() - 2))


class Normalised(nn.Module):
    """A block with batch normalisation and dropout inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5), nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        return x + self.layers(x)


def conv_net(dims: int) -> nn.Module:
    """A residual unit for signals of `dims` dimensions."""
    conv, norm = (getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "BatchNorm"))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv(3, 4, 3, padding=1)
            self.conv = conv(4, 4, 3, padding=1)
            self.bn = norm(4)

        def forward(self, x):
            x = self.stem(x)
            return x + self.bn(self.conv(x))

    return Net()


def opened(net: nn.Module, alpha: float = 0.5) -> nn.Module:
    """Every α at a value at which the block shows."""
    with torch.no_grad():
        for block in senet.blocks(net).values():
            block.alpha.fill_(alpha)
    return net


EXAMPLE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
