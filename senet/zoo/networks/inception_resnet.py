"""Inception-ResNet-v2 (Szegedy et al., arXiv 1602.07261), with the names of TensorFlow-Slim's original code.

It has a stem, and 10, 20 and 10 residual units with two modules between them that shrink the map. A
unit's branch is an Inception module, scaled down before the addition. SE goes after the branch's
1×1 convolution, before the scaling (40 sites).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from senet.errors import whole_number
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import ConvUnit, initialise

__all__ = ["NETWORKS", "Branches", "InceptionResNetV2", "ResidualInception"]

_EPS = 1e-3  # of the normalisations
_Layer = tuple[int, int | tuple[int, int]] | tuple[int, int | tuple[int, int], int]  # channels, kernel, stride
_SCALES = (0.17, 0.10, 0.20)


def _chain(channels: int, layers: Sequence[_Layer]) -> nn.Module:
    """A sequence of convolution units, or a single unit; units with a stride have no padding."""
    units = []
    for wanted, kernel, *stride in layers:
        units.append(ConvUnit(channels, wanted, kernel, *stride, padding=0 if stride else None, eps=_EPS))
        channels = wanted
    return units[0] if len(units) == 1 else nn.Sequential(*units)


class Branches(nn.Module):
    """Parallel chains of convolution units, and an optional pooled branch, concatenated.

    Shapes: (N, in_channels, H, W) -> (N, the branches' channels, H', W').

    Args:
        in_channels: the input's channels.
        chains: the layers of each branch: channels, kernel, and optionally a stride.
        pool: an additional pooled branch.
    """

    def __init__(self, in_channels: int, *chains: Sequence[_Layer], pool: nn.Module | None = None) -> None:
        super().__init__()
        self.count = len(chains) + (pool is not None)
        for index, layers in enumerate(chains):
            self.add_module(f"branch{index}", _chain(in_channels, layers))
        if pool is not None:
            self.add_module(f"branch{len(chains)}", pool)

    def forward(self, x: Tensor) -> Tensor:
        """The concatenated outputs of the branches."""
        return torch.cat([getattr(self, f"branch{index}")(x) for index in range(self.count)], 1)


class ResidualInception(Branches):
    """x + scale · (branches, projected to the channels of x by a 1×1 convolution), and optionally a ReLU.

    Shapes: (N, channels, H, W) -> (N, channels, H, W).
    """

    def __init__(self, channels: int, *chains: Sequence[_Layer], scale: float, relu: bool = True) -> None:
        super().__init__(channels, *chains)
        self.scale = scale
        self.conv2d = nn.Conv2d(sum(layers[-1][0] for layers in chains), channels, 1)
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        result: Tensor = self.relu(x + self.scale * self.conv2d(super().forward(x)))
        return result


def _block35() -> nn.Module:
    chains: tuple[Sequence[_Layer], ...] = ([(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)])
    return ResidualInception(320, *chains, scale=_SCALES[0])


def _block17() -> nn.Module:
    return ResidualInception(1088, [(192, 1)], [(128, 1), (160, (1, 7)), (192, (7, 1))], scale=_SCALES[1])


def _block8(*, scale: float = _SCALES[2], relu: bool = True) -> nn.Module:
    return ResidualInception(2080, [(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))], scale=scale, relu=relu)


class InceptionResNetV2(nn.Module):
    """Inception-ResNet-v2, made for pictures of 299².

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits; H and W at least 75.

    Args:
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout on the pooled features; 0.2 in its paper.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv2d_1a = ConvUnit(whole_number("in_channels", in_channels), 32, 3, 2, padding=0, eps=_EPS)
        self.conv2d_2a = ConvUnit(32, 32, 3, padding=0, eps=_EPS)
        self.conv2d_2b = ConvUnit(32, 64, 3, eps=_EPS)
        self.maxpool_3a = nn.MaxPool2d(3, 2)
        self.conv2d_3b = ConvUnit(64, 80, 1, eps=_EPS)
        self.conv2d_4a = ConvUnit(80, 192, 3, padding=0, eps=_EPS)
        self.maxpool_5a = nn.MaxPool2d(3, 2)
        pooled = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), ConvUnit(192, 64, 1, eps=_EPS))
        self.mixed_5b = Branches(192, [(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], pool=pooled)
        self.repeat = nn.Sequential(*(_block35() for _ in range(10)))
        self.mixed_6a = Branches(320, [(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)], pool=nn.MaxPool2d(3, 2))
        self.repeat_1 = nn.Sequential(*(_block17() for _ in range(20)))
        self.mixed_7a = Branches(
            1088,
            [(256, 1), (384, 3, 2)],
            [(256, 1), (288, 3, 2)],
            [(256, 1), (288, 3), (320, 3, 2)],
            pool=nn.MaxPool2d(3, 2),
        )
        self.repeat_2 = nn.Sequential(*(_block8() for _ in range(9)))
        self.block8 = _block8(scale=1.0, relu=False)
        self.conv2d_7b = ConvUnit(2080, 1536, 1, eps=_EPS)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classif = nn.Linear(1536, whole_number("num_classes", num_classes))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of images."""
        x = self.maxpool_3a(self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))))
        x = self.maxpool_5a(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat(self.mixed_5b(x))
        x = self.repeat_1(self.mixed_6a(x))
        x = self.block8(self.repeat_2(self.mixed_7a(x)))
        x = self.avgpool(self.conv2d_7b(x))
        logits: Tensor = self.classif(self.dropout(x.flatten(1)))
        return logits


NETWORKS: Mapping[str, Entry] = MappingProxyType({"inception_resnet_v2": Entry(InceptionResNetV2, (299, 299))})
