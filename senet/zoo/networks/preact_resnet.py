"""The pre-activation residual network for CIFAR of He et al., "Identity mappings in deep residual networks".

A 3×3 stem of 16 channels; three stages of n bottlenecks that give 64, 128 and 256 channels; normalisation and ReLU;
the global average; a linear layer: 9n + 2 layers in all. Where a unit changes the channels, its first normalisation
and ReLU serve the projection of the shortcut as well. The SE paper extends the one of 164 layers (tables 4 and 5).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, stage

__all__ = ["NETWORKS", "PreActBottleneck", "PreActResNet"]

_STEM = 16


class PreActBottleneck(nn.Module):
    """Three convolutions, each preceded by normalisation and ReLU, with a shortcut.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        width = channels // 4
        self.changes = in_channels != channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if self.changes else nn.Identity()
        self.shortcut: nn.Module = projection

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        activated = self.relu(self.bn1(x))
        u = self.conv2(self.relu(self.bn2(self.conv1(activated))))
        u = self.conv3(self.relu(self.bn3(u)))
        result: Tensor = u + self.shortcut(activated if self.changes else x)
        return result


class PreActResNet(Classifier):
    """A network of 9n + 2 layers for small images, 32×32 in the paper.

    Args:
        depth: 9n + 2: 164 in the paper.

    Raises:
        ValueError: the depth is not 9n + 2.
    """

    def __init__(self, depth: int, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        n, rest = divmod(whole_number("depth", depth) - 2, 9)
        if rest or n < 1:
            raise InputError(f"depth is 9n + 2 (164, or 11, 20, 29, ...), not {depth!r}")
        self.conv1 = nn.Conv2d(whole_number("in_channels", in_channels), _STEM, 3, 1, 1, bias=False)
        self.layer1 = stage(PreActBottleneck, n, _STEM, 4 * _STEM, 1)
        self.layer2 = stage(PreActBottleneck, n, 4 * _STEM, 8 * _STEM, 2)
        self.layer3 = stage(PreActBottleneck, n, 8 * _STEM, 16 * _STEM, 2)
        self.bn = nn.BatchNorm2d(16 * _STEM)
        self.relu = nn.ReLU(inplace=True)
        self._end(16 * _STEM, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.relu(self.bn(x))


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {"preact_resnet164": Entry(functools.partial(PreActResNet, 164), (32, 32))}
)
