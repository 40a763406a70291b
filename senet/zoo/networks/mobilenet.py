"""MobileNet v1 (Howard et al., arXiv 1704.04861), which the SE paper extends (table 3), and v3, which holds SE itself.

MobileNetV3 (Howard et al., arXiv 1905.02244) has SE with a hard sigmoid and r = 4 inside some of its units:
`mobilenet_v3_small` is torchvision's network, `mobilenet_v3_small_plain` the same without SE, and
`se_mobilenet_v3_small` the plain one with SE as the SE paper places it, on every branch before its addition.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from senet.errors import whole_number
from senet.extras import extra
from senet.insertion import remove
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import Classifier, ConvUnit, scaled, with_in_channels

__all__ = ["NETWORKS", "MobileNetV1", "SeparableUnit", "mobilenet_v3", "plain_mobilenet_v3"]

_STEM = 32
_UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_SIZE = (224, 224)


class SeparableUnit(nn.Sequential):
    """A depthwise 3×3 convolution and a pointwise 1×1 one, each with its normalisation and ReLU.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = ConvUnit(in_channels, in_channels, 3, stride, groups=in_channels)
        self.pointwise = ConvUnit(in_channels, channels, 1)


class MobileNetV1(Classifier):
    """A 3×3 stem, 13 depthwise separable units, the global average, and a linear layer.

    Args:
        width: α of the paper, a factor of all channels.
        stem_stride: 2 as in the paper; 1 for pictures of 32×32 pixels.

    Raises:
        ValueError: the width is not positive.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        width: float = 1.0,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        channels = scaled(_STEM, width)
        stride = whole_number("stem_stride", stem_stride)
        self.stem = ConvUnit(whole_number("in_channels", in_channels), channels, 3, stride)
        units = []
        for wanted, stride in _UNITS:
            units.append(SeparableUnit(channels, scaled(wanted, width), stride))
            channels = scaled(wanted, width)
        self.units = nn.Sequential(*units)
        self._end(channels, num_classes, dropout)

    def _last_map(self, x: Tensor) -> Any:
        return self.units(self.stem(x))


def mobilenet_v3(
    kind: str, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, width: float = 1.0
) -> nn.Module:
    """MobileNetV3 with its own SE: torchvision's network.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        kind: "small" or "large".
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout before the last linear layer.
        width: a factor of all channels.

    Raises:
        ValueError: a count is not a positive whole number, the dropout is not a probability, or the width
            is not positive.
    """
    scaled(1, width)  # checks it
    builder = getattr(extra("torchvision.models", "study"), f"mobilenet_v3_{kind}")
    model: nn.Module = builder(num_classes=num_classes, dropout=dropout, width_mult=width)
    with_in_channels(model, in_channels)
    return model


def plain_mobilenet_v3(
    kind: str, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.2, width: float = 1.0
) -> nn.Module:
    """`mobilenet_v3` with its SE removed."""
    model = mobilenet_v3(kind, num_classes=num_classes, in_channels=in_channels, dropout=dropout, width=width)
    return remove(model, inplace=True)


def _entry(build: Callable[..., nn.Module], kind: str, se_name: str | None) -> Entry:
    return Entry(functools.partial(build, kind), _SIZE, se_name)


_SMALL = functools.partial(MobileNetV1, width=0.25, stem_stride=1)

NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        # SE after each pointwise convolution but not after the stem, which matches the paper's 4.7 M parameters
        "mobilenet_v1": Entry(MobileNetV1, _SIZE, where="units.*"),
        "mobilenet_v1_small": Entry(_SMALL, (32, 32), where="units.*"),
        **{f"mobilenet_v3_{kind}": _entry(mobilenet_v3, kind, None) for kind in ("small", "large")},
        **{
            f"mobilenet_v3_{kind}_plain": _entry(plain_mobilenet_v3, kind, f"se_mobilenet_v3_{kind}")
            for kind in ("small", "large")
        },
    }
)
