"""ResNet (He et al., arXiv 1512.03385) and ResNeXt (Xie et al., arXiv 1611.05431) for ImageNet.

They are torchvision's, whose state dict keys they keep. In the paper's form, `resnet50` and deeper, the first 1×1
convolution of a bottleneck that shrinks the map has the stride (3.86 GFLOPs for 50 layers), and the stem pools without
padding and with ceil_mode, as Caffe does and the authors' released networks do. `resnet50_v1_5` is torchvision's own:
the stride in the 3×3 convolution (4.09 GFLOPs), the stem pools with padding. ResNeXt has the stride in the 3×3 as well.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from senet.extras import extra
from senet.zoo.networks.entry import Entry
from senet.zoo.networks.layers import scaled, with_dropout, with_in_channels

__all__ = ["NETWORKS", "resnet", "resnet_v1_5", "resnext", "small_resnet"]

_BLOCKS: Mapping[int, tuple[int, int, int, int]] = MappingProxyType(
    {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
)
_SIZE = (224, 224)


def small_resnet(depth: int, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0) -> nn.Module:
    """ResNet-18 or -34, of basic blocks: torchvision's.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 18 or 34.
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout on the pooled features.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """
    return _build(depth, "BasicBlock", num_classes, in_channels, dropout, caffe_pool=False)


def resnet(
    depth: int,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.0,
    width: float = 1.0,
    v1_5: bool = False,
    caffe_pool: bool | None = None,
) -> nn.Module:
    """ResNet-50, -101 or -152, of bottlenecks, as the SE paper has them (table 1).

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 50, 101 or 152.
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout on the pooled features.
        width: the width of the 3×3 convolutions, relative to the paper's; 2 is the wide ResNet-50-2.
        v1_5: put the stride in the 3×3 convolution, as torchvision does, instead of the first 1×1.
        caffe_pool: whether the stem pools without padding and with ceil_mode; None means True unless `v1_5`.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """
    pool = not v1_5 if caffe_pool is None else caffe_pool
    given = depth, "Bottleneck", num_classes, in_channels, dropout
    model = _build(*given, caffe_pool=pool, width_per_group=scaled(64, width, 1))
    for stage in () if v1_5 else (2, 3, 4):
        first: Any = model.get_submodule(f"layer{stage}.0")
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return model


def resnet_v1_5(
    depth: int, *, num_classes: int = 1000, in_channels: int = 3, dropout: float = 0.0, width: float = 1.0
) -> nn.Module:
    """`resnet` with the stride in the 3×3 convolution: torchvision's network."""
    return resnet(depth, num_classes=num_classes, in_channels=in_channels, dropout=dropout, width=width, v1_5=True)


def resnext(
    depth: int,
    groups: int,
    group_width: int,
    *,
    num_classes: int = 1000,
    in_channels: int = 3,
    dropout: float = 0.0,
    caffe_pool: bool = False,
) -> nn.Module:
    """ResNeXt, whose 3×3 convolutions have `groups` groups of `group_width` channels: torchvision's.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        depth: 50, 101 or 152.
        groups: the cardinality.
        group_width: channels per group in the first stage.
        num_classes: the number of classes.
        in_channels: the channels of the images.
        dropout: the dropout on the pooled features.
        caffe_pool: whether the stem pools without padding and with ceil_mode, as in the authors' released networks.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """
    given = depth, "Bottleneck", num_classes, in_channels, dropout
    return _build(*given, caffe_pool=caffe_pool, groups=groups, width_per_group=group_width)


def _build(
    depth: int, block: str, num_classes: int, in_channels: int, dropout: float, *, caffe_pool: bool, **options: Any
) -> nn.Module:
    library = extra("torchvision.models.resnet", "study")
    blocks = getattr(library, block), list(_BLOCKS[depth])
    model: nn.Module = library.ResNet(*blocks, num_classes=num_classes, **options)
    with_in_channels(model, in_channels)
    model.avgpool = with_dropout(model.get_submodule("avgpool"), dropout)
    if caffe_pool:
        model.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    return model


NETWORKS: Mapping[str, Entry] = MappingProxyType(
    {
        **{f"resnet{depth}": Entry(functools.partial(small_resnet, depth), _SIZE) for depth in (18, 34)},
        **{f"resnet{depth}": Entry(functools.partial(resnet, depth), _SIZE) for depth in (50, 101, 152)},
        **{f"resnet{depth}_v1_5": Entry(functools.partial(resnet_v1_5, depth), _SIZE) for depth in (50, 101, 152)},
        **{f"resnext{depth}_32x4d": Entry(functools.partial(resnext, depth, 32, 4), _SIZE) for depth in (50, 101)},
    }
)
