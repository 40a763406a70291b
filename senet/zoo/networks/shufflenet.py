"""ShuffleNet v1 (Zhang et al., arXiv 1707.01083), 1× with 3 groups, which the SE paper extends (table 3).

SE goes on the branches of the 13 units that add. This gives 2.44 M parameters, where the paper
prints 2.4. With SE also in the three units that shrink the map there would be 2.48 M.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InputError, whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, ConvUnit, scaled, stage

__all__ = ["NETWORKS", "ChannelShuffle", "ShuffleNetV1", "ShuffleUnit"]

_STEM = 24
_UNITS = (4, 8, 4)
_CHANNELS: Mapping[int, int] = MappingProxyType({1: 144, 2: 200, 3: 240, 4: 272, 8: 384})  # of stage 2, by groups


class ChannelShuffle(nn.Module):
    """Deal the channels of each group out to all groups.

    Shapes: (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """`x` with shuffled channels."""
        return torch.unflatten(x, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"groups={self.groups}"


class ShuffleUnit(nn.Module):
    """A bottleneck of grouped 1×1 convolutions around a depthwise 3×3 one, beside a shortcut.

    With stride 1 the shortcut is the input, and is added; with stride 2 it is the input's average, and is concatenated.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        hidden = channels // 4
        first = 1 if in_channels == _STEM else groups  # "the number of input channels is relatively small"
        self.reduce = ConvUnit(in_channels, hidden, 1, groups=first)
        self.shuffle = ChannelShuffle(first)
        self.depthwise = ConvUnit(hidden, hidden, 3, stride, groups=hidden, relu=False)
        self.expand = ConvUnit(hidden, channels - in_channels if stride > 1 else channels, 1, groups=groups, relu=False)
        self.shortcut = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        u = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        if self.stride > 1:
            result: Tensor = self.relu(torch.cat([self.shortcut(x), u], 1))
        else:
            result = self.relu(self.shortcut(x) + u)
        return result


class ShuffleNetV1(Classifier):
    """A 3×3 stem, three stages of 4, 8 and 4 units, the global average, and a linear layer.

    Args:
        width: a factor of the stages' channels (the paper's 0.25×, 0.5×, 1×).
        groups: the groups of the 1×1 convolutions: 1, 2, 3, 4 or 8.

    Raises:
        ValueError: the paper has no such groups, or the width is not positive.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        width: float = 1.0,
        groups: int = 3,
    ) -> None:
        super().__init__()
        if whole_number("groups", groups) not in _CHANNELS:
            raise InputError(f"groups is one of {', '.join(map(str, _CHANNELS))}, not {groups!r}")
        self.stem = ConvUnit(whole_number("in_channels", in_channels), _STEM, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, channels = _STEM, scaled(_CHANNELS[groups], width, 4 * groups)
        stages = []
        for count in _UNITS:
            stages.append(stage(ShuffleUnit, count, before, channels, 2, groups))
            before, channels = channels, 2 * channels
        self.stage2, self.stage3, self.stage4 = stages
        self._end(before, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        x = self.maxpool(self.stem(x))
        return self.stage4(self.stage3(self.stage2(x)))


NETWORKS: Mapping[str, Entry] = MappingProxyType({"shufflenet_v1": Entry(ShuffleNetV1, (224, 224))})
