"""VGG with batch normalisation (Simonyan & Zisserman, arXiv 1409.1556): torchvision's, whose keys it keeps.

The SE paper trains VGG-16 with batch normalisation and puts SE after each convolution unit (section 5.1, table 2).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from senet.extras import extra
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import with_in_channels

__all__ = ["NETWORKS", "vgg"]


def vgg(depth: int, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.5) -> nn.Module:
    """VGG with `depth` weight layers, and a batch normalisation after each convolution.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout between the three linear layers.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """
    builder = getattr(extra("torchvision.models", "study"), f"vgg{depth}_bn")
    model: nn.Module = builder(num_classes=num_classes, dropout=dropout)
    with_in_channels(model, in_channels)
    return model


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {f"vgg{depth}_bn": Entry(functools.partial(vgg, depth), (224, 224)) for depth in (11, 13, 16, 19)}
)
