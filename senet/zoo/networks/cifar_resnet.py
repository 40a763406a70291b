"""The residual networks for CIFAR of He et al., "Deep residual learning for image recognition", section 4.2.

A 3×3 stem of 16 channels; three stages of n basic blocks with 16, 32 and 64 channels on maps of 32², 16² and 8²;
the global average; a linear layer: 6n + 2 layers in all. Shortcuts have no parameters (their option A). The
SE paper (section 5.1, tables 4 and 5) starts from these.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import stage

__all__ = ["NETWORKS", "BasicBlock", "CifarResNet", "Shortcut"]

_STEM = 16


class Shortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that the block adds.

    Shapes: (N, C, H, W) -> (N, C + extra_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, stride: int, extra_channels: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut of `x`."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra_channels))

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"stride={self.stride}, extra_channels={self.extra_channels}"


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        same = stride == 1 and in_channels == channels
        self.shortcut = nn.Identity() if same else Shortcut(stride, channels - in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        u = self.relu(self.bn1(self.conv1(x)))
        u = self.bn2(self.conv2(u))
        result: Tensor = self.relu(u + self.shortcut(x))
        return result


class CifarResNet(nn.Module):
    """A network of 6n + 2 layers for small images, 32×32 in the papers.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 6n + 2: 20, 32, 44, 56, 110 in the papers.
        num_classes: the number of classes.
        in_channels: the channels of the images: 3 for colour, 1 for grey.
        dropout: the dropout on the pooled features.

    Raises:
        ValueError: the depth is not 6n + 2, a count is not a positive whole number, or the dropout is
            not a probability.
    """

    def __init__(self, depth: int, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        n, rest = divmod(whole_number("depth", depth) - 2, 6)
        if rest or n < 1:
            raise InputError(f"depth is 6n + 2 (20, 32, 44, 56, 110), not {depth!r}")
        num_classes = whole_number("num_classes", num_classes)
        self.conv1 = nn.Conv2d(whole_number("in_channels", in_channels), _STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = stage(BasicBlock, n, _STEM, _STEM, 1)
        self.layer2 = stage(BasicBlock, n, _STEM, 2 * _STEM, 2)
        self.layer3 = stage(BasicBlock, n, 2 * _STEM, 4 * _STEM, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4 * _STEM, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of images."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return logits


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {f"resnet{depth}": Entry(functools.partial(CifarResNet, depth), (32, 32)) for depth in (20, 32, 44, 56, 110)}
)
