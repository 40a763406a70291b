"""SENet-154 (the SE paper, section 5.1 and appendix), and the same network without SE.

A ResNeXt-152 of 64 groups of 4 channels, of which: the first 1×1 convolution of each bottleneck is halved in width; the
stem is three 3×3 convolutions; the shortcut that shrinks the map is a 3×3 convolution; there is dropout of 0.2 before
the classifier. `senet154` is this network with SE, `senet154_plain` without. The keys are those of the authors'
network as ported, but for `fc` and for SE.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from senet.errors import whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, stage

__all__ = ["NETWORKS", "Bottleneck", "SENet154"]

_GROUPS = 64
_BLOCKS = (3, 8, 36, 3)


class Bottleneck(nn.Module):
    """A 1×1, a grouped 3×3 and a 1×1 convolution beside a shortcut.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride, 1, groups=_GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module = nn.Identity()
        if in_channels != channels:
            kernel = 3 if stride > 1 else 1
            projection = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        u = self.relu(self.bn1(self.conv1(x)))
        u = self.relu(self.bn2(self.conv2(u)))
        u = self.bn3(self.conv3(u))
        result: Tensor = self.relu(u + self.downsample(x))
        return result


class SENet154(Classifier):
    """SENet-154 before SE is put in."""

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.layer0 = _stem(whole_number("in_channels", in_channels))
        channels = 128
        stages = []
        for index, count in enumerate(_BLOCKS):
            wanted = 256 * 2**index
            stages.append(stage(Bottleneck, count, channels, wanted, 1 if index == 0 else 2))
            channels = wanted
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self._end(channels, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        x = self.layer2(self.layer1(self.layer0(x)))
        return self.layer4(self.layer3(x))


def _stem(in_channels: int) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs, stride) in enumerate(((in_channels, 64, 2), (64, 64, 1), (64, 128, 1)), start=1):
        layers[f"conv{index}"] = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers[f"bn{index}"] = nn.BatchNorm2d(outputs)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
    layers["pool"] = nn.MaxPool2d(3, 2, ceil_mode=True)
    return nn.Sequential(layers)


NETWORKS: Mapping[str, Entry] = MappingProxyType({"senet154_plain": Entry(SENet154, (224, 224), se_name="senet154")})
