"""BN-Inception (Ioffe & Szegedy, arXiv 1502.03167), as the SE paper's authors released it with SE.

It has ten Inception modules. The two that shrink the map pass on the 3×3 max-pooled input as a
branch. Convolutions have no biases. Poolings are Caffe's: without padding and with ceil_mode if
they shrink the map, and counting padded zeros in averages. SE goes after each module's
concatenation (figure 2 of the SE paper).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, ConvUnit

__all__ = ["NETWORKS", "BNInception", "Inception", "Reduction"]

# channels of the branches: 1×1; 3×3 reduced, 3×3; double 3×3 reduced, 3×3 twice; pooled
_MODULES: Mapping[str, tuple[int, int, int, int, int, int]] = MappingProxyType(
    {
        "3a": (64, 64, 64, 64, 96, 32),
        "3b": (64, 64, 96, 64, 96, 64),
        "3c": (0, 128, 160, 64, 96, 0),
        "4a": (224, 64, 96, 96, 128, 128),
        "4b": (192, 96, 128, 96, 128, 128),
        "4c": (160, 128, 160, 128, 160, 128),
        "4d": (96, 128, 192, 160, 192, 128),
        "4e": (0, 128, 192, 192, 256, 0),
        "5a": (352, 192, 320, 160, 224, 128),
        "5b": (352, 192, 320, 192, 224, 128),
    }
)


class Inception(nn.Module):
    """Four branches, concatenated: 1×1; 3×3; two 3×3; pooled.

    Shapes: (N, in_channels, H, W) -> (N, the branches' channels, H, W).
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int], pool: nn.Module) -> None:
        super().__init__()
        one, reduced, three, double_reduced, double, pooled = widths
        self.branch_1x1 = ConvUnit(in_channels, one, 1)
        self.branch_3x3 = nn.Sequential(ConvUnit(in_channels, reduced, 1), ConvUnit(reduced, three, 3))
        self.branch_double3x3 = nn.Sequential(
            ConvUnit(in_channels, double_reduced, 1), ConvUnit(double_reduced, double, 3), ConvUnit(double, double, 3)
        )
        self.branch_pool = nn.Sequential(pool, ConvUnit(in_channels, pooled, 1))
        self.out_channels = one + three + double + pooled

    def forward(self, x: Tensor) -> Tensor:
        """The concatenated outputs of the branches."""
        return torch.cat([self.branch_1x1(x), self.branch_3x3(x), self.branch_double3x3(x), self.branch_pool(x)], 1)


class Reduction(nn.Module):
    """Two branches of stride 2 and the pooled input, concatenated.

    Shapes: (N, in_channels, H, W) -> (N, the branches' channels + in_channels, H / 2, W / 2), H and W even.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        _, reduced, three, double_reduced, double, _ = widths
        self.branch_3x3 = nn.Sequential(ConvUnit(in_channels, reduced, 1), ConvUnit(reduced, three, 3, 2))
        self.branch_double3x3 = nn.Sequential(
            ConvUnit(in_channels, double_reduced, 1),
            ConvUnit(double_reduced, double, 3),
            ConvUnit(double, double, 3, 2),
        )
        self.branch_pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.out_channels = three + double + in_channels

    def forward(self, x: Tensor) -> Tensor:
        """The concatenated outputs of the branches."""
        return torch.cat([self.branch_3x3(x), self.branch_double3x3(x), self.branch_pool(x)], 1)


class BNInception(Classifier):
    """A stem of three convolutions, ten Inception modules, the global average, and a linear layer.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits; H and W multiples of 32.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = ConvUnit(whole_number("in_channels", in_channels), 64, 7, 2)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2 = nn.Sequential(ConvUnit(64, 64, 1), ConvUnit(64, 192, 3))
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        channels = 192
        self.inception = nn.Sequential()
        for name, widths in _MODULES.items():
            module: Inception | Reduction
            if widths[0]:
                pool = nn.MaxPool2d(3, 1, 1) if name == "5b" else nn.AvgPool2d(3, 1, 1)
                module = Inception(channels, widths, pool)
            else:
                module = Reduction(channels, widths)
            self.inception.add_module(name, module)
            channels = module.out_channels
        self._end(channels, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        x = self.pool2(self.conv2(self.pool1(self.conv1(x))))
        return self.inception(x)


NETWORKS: Mapping[str, Entry] = MappingProxyType({"bn_inception": Entry(BNInception, (224, 224))})
