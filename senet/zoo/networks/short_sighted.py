"""Small networks with a limited receptive field, to test whether SE compensates for it.

`short_sighted` sees 11 pixels, which cannot solve the synthetic task `senet.data.context`.
`light_11`, `light_19` and `light_35` see 11, 19 and 35 pixels, and cost the same.

The final average only sums local features, so one position cannot change the meaning of another.
The excitation can, because its squeeze reads the whole map. This is the SE paper's argument
(section 3.1): a unit "is unable to exploit contextual information outside of this region".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, ConvUnit

__all__ = ["NETWORKS", "CentredConv2d", "LightNet", "LightUnit", "ShortSighted"]

_STEM = 16  # channels at stride 2 of the light networks
_UNITS = 4  # their residual units


class CentredConv2d(nn.Module):
    """A depthwise 3×3 convolution with only its centre weight non-zero, at the cost of a full one.

    It sees one pixel. So networks with smaller receptive fields differ from the others in nothing
    else, neither in multiply-adds nor in their SE sites.

    Shapes: (N, channels, H, W) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 1, 1))
        nn.init.normal_(self.weight, std=math.sqrt(2))  # He initialisation for one input

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of `x`."""
        return F.conv2d(x, F.pad(self.weight, (1, 1, 1, 1)), padding=1, groups=len(self.weight))


class LightUnit(nn.Module):
    """A depthwise 3×3 and a 1×1 convolution beside the identity, and a ReLU.

    Shapes: (N, channels, H, W) -> the same.

    Args:
        channels: the channels of input and output.
        sees: whether the depthwise convolution sees 3×3 pixels, or only the central one.
    """

    def __init__(self, channels: int, *, sees: bool = True) -> None:
        super().__init__()
        self.depthwise = ConvUnit(channels, channels, 3, groups=channels)
        if not sees:
            self.depthwise.conv = CentredConv2d(channels)
        self.pointwise = ConvUnit(channels, channels, 1, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        result: Tensor = self.relu(x + self.pointwise(self.depthwise(x)))
        return result


class ShortSighted(Classifier):
    """A 3×3 stem at stride 2, units of a depthwise and a 1×1 convolution, the average, a linear layer.

    Args:
        width: the channels of the stem and of every unit.
        units: the number of units. The receptive field is 3 + 4 · units pixels a side: 11 with two.
    """

    def __init__(
        self, *, num_classes: int = 10, in_channels: int = 3, width: int = 64, units: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        width = whole_number("width", width)
        self.stem = ConvUnit(whole_number("in_channels", in_channels), width, 3, 2)
        self.units = nn.Sequential(*(LightUnit(width) for _ in range(whole_number("units", units))))
        self._end(width, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        return self.units(self.stem(x))


class LightNet(Classifier):
    """A light network for small images with a selectable receptive field at constant cost.

    A 3×3 stem and a depthwise 5×5 convolution, both at stride 2, with a 1×1 convolution: they see 11
    pixels. Then residual units at stride 4, the global average, and a linear layer.

    Args:
        seeing: how many of the four units see 3×3 pixels; the others see one. The receptive field
            is 11 + 8 · seeing pixels a side.
        width: the channels of the units.

    Raises:
        InputError: `seeing` is not from 0 to 4.
    """

    def __init__(
        self, seeing: int, *, num_classes: int = 100, in_channels: int = 3, width: int = 48, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if type(seeing) is not int or not 0 <= seeing <= _UNITS:
            raise InputError(f"seeing is a whole number from 0 to {_UNITS}, not {seeing!r}")
        width = whole_number("width", width)
        self.stem = ConvUnit(whole_number("in_channels", in_channels), _STEM, 3, 2)
        self.depthwise = ConvUnit(_STEM, _STEM, 5, 2, groups=_STEM)
        self.pointwise = ConvUnit(_STEM, width, 1)
        self.units = nn.Sequential(*(LightUnit(width, sees=index < seeing) for index in range(_UNITS)))
        self._end(width, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        return self.units(self.pointwise(self.depthwise(self.stem(x))))


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        "short_sighted": Entry(ShortSighted, (32, 32)),
        **{f"light_{11 + 8 * seeing}": Entry(functools.partial(LightNet, seeing), (32, 32)) for seeing in (0, 1, 3)},
    }
)
