"""Wide residual networks for CIFAR (Zagoruyko & Komodakis, arXiv 1605.07146): `wrn16_8` is WRN-16-8.

A 3×3 stem of 16 channels; three stages of n pre-activation basic blocks with 16k, 32k and 64k channels; normalisation
and ReLU; the global average; a linear layer: 6n + 4 layers in all. The SE paper extends WRN-16-8 (tables 4 and 5).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import initialise, stage

__all__ = ["NETWORKS", "WideBlock", "WideResNet"]

_STEM = 16


class WideBlock(nn.Module):
    """Two 3×3 convolutions, each preceded by normalisation and ReLU, with dropout between them and a shortcut.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.changes = in_channels != channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if self.changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        activated = self.relu(self.bn1(x))
        u = self.dropout(self.relu(self.bn2(self.conv1(activated))))
        u = self.conv2(u)
        result: Tensor = u + self.shortcut(activated if self.changes else x)
        return result


class WideResNet(nn.Module):
    """A network of 6n + 4 layers for small images, 32×32 in the paper, k times as wide as the thin ones.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 6n + 4: 16 and 28 here.
        width: k, a whole number that multiplies the stages' channels.
        num_classes: the number of classes.
        in_channels: the channels of the images: 3 for colour, 1 for grey.
        dropout: the dropout inside the blocks; 0.3 in the paper, if any.

    Raises:
        ValueError: the depth is not 6n + 4, a count is not a positive whole number, or the dropout is
            not a probability.
    """

    def __init__(
        self, depth: int, width: int, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        n, rest = divmod(whole_number("depth", depth) - 4, 6)
        if rest or n < 1:
            raise InputError(f"depth is 6n + 4 (16, 22, 28, 40), not {depth!r}")
        base = _STEM * whole_number("width", width)
        self.conv1 = nn.Conv2d(whole_number("in_channels", in_channels), _STEM, 3, 1, 1, bias=False)
        self.layer1 = stage(WideBlock, n, _STEM, base, 1, dropout)
        self.layer2 = stage(WideBlock, n, base, 2 * base, 2, dropout)
        self.layer3 = stage(WideBlock, n, 2 * base, 4 * base, 2, dropout)
        self.bn = nn.BatchNorm2d(4 * base)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * base, whole_number("num_classes", num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of images."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.avgpool(self.relu(self.bn(x)))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        f"wrn{depth}_{width}": Entry(functools.partial(WideResNet, depth, width), (32, 32))
        for depth, width in ((16, 8), (28, 10))
    }
)
