"""Shake-Shake regularised networks for CIFAR (Gastaldi, arXiv 1705.07485): `shake_shake26_2x96d`.

A 3×3 stem of 16 channels; three stages of n blocks of two branches with k, 2k and 4k channels; the global average; a
linear layer: 6n + 2 layers in all. The branches are mixed at random for each picture (Shake-Shake-Image). The SE paper
extends the one of 26 layers and 2×96 channels (tables 4 and 5); SE goes on the mixed branch, before the addition.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, stage

__all__ = ["NETWORKS", "Shake", "ShakeBlock", "ShakeShake", "ShiftedShortcut"]

_STEM = 16


class Shake(nn.Module):
    """The mixture α · a + (1 − α) · b, with α uniform in [0, 1) per image, and another α for the gradients.

    In eval mode α is a half. Shapes: (N, C, H, W) twice -> (N, C, H, W).
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The mixture of `a` and `b`."""
        return _mixture(a, b, self.training)


def _mixture(a: Tensor, b: Tensor, training: bool) -> Tensor:
    if not training:
        return (a + b) / 2
    forward, backward = (torch.rand_like(a[:, :1, :1, :1]) for _ in range(2))
    differentiated = torch.lerp(b, a, backward)  # the value is replaced, the gradients stay
    return differentiated + (torch.lerp(b, a, forward) - differentiated).detach()


torch.fx.wrap("_mixture")  # a single node in a symbolic trace, in either mode


class ShiftedShortcut(nn.Module):
    """A projection in which half the channels see the map shifted by one pixel right and down.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(2 * in_channels, channels, 1, stride, groups=2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The shortcut of `x`."""
        x = self.relu(x)
        result: Tensor = self.bn(self.conv(torch.cat([x, F.pad(x, (1, -1, 1, -1))], 1)))
        return result


class ShakeBlock(nn.Module):
    """Two branches of two 3×3 convolutions, mixed, beside a shortcut.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.branch1 = _branch(in_channels, channels, stride)
        self.branch2 = _branch(in_channels, channels, stride)
        self.shake = Shake()
        same = in_channels == channels
        self.shortcut: nn.Module = nn.Identity() if same else ShiftedShortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        result: Tensor = self.shake(self.branch1(x), self.branch2(x)) + self.shortcut(x)
        return result


def _branch(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class ShakeShake(Classifier):
    """A network of 6n + 2 layers with two branches per block for small images, 32×32 in the paper.

    Args:
        depth: 6n + 2: 26 in the paper.
        width: the channels of each branch in the first stage: 32, 64, 96 or 112 in the paper.

    Raises:
        ValueError: the depth is not 6n + 2, or the width is odd.
    """

    def __init__(
        self, depth: int, width: int, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        n, rest = divmod(whole_number("depth", depth) - 2, 6)
        if rest or n < 1:
            raise InputError(f"depth is 6n + 2 (26, or 20, 32, 38), not {depth!r}")
        if whole_number("width", width) % 2:
            raise InputError(f"width is an even number of channels, such as 96, not {width!r}")
        self.conv1 = nn.Conv2d(whole_number("in_channels", in_channels), _STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.layer1 = stage(ShakeBlock, n, _STEM, width, 1)
        self.layer2 = stage(ShakeBlock, n, width, 2 * width, 2)
        self.layer3 = stage(ShakeBlock, n, 2 * width, 4 * width, 2)
        self.relu = nn.ReLU()
        self._end(4 * width, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        x = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(x)))))
        return self.relu(x)


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {"shake_shake26_2x96d": Entry(functools.partial(ShakeShake, 26, 96), (32, 32))}
)
