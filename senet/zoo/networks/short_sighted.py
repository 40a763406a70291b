"""A small residual network that sees 11 pixels: for tasks that only context outside of them can solve.

A 3×3 stem and two basic blocks at stride 1, the global average, a linear layer. A unit of the last
map depends on 11×11 pixels of the picture. The average only adds such local findings up, so what one
place shows cannot change what another means. The excitation can: its squeeze reads the whole map.
This is the SE paper's own argument (section 3.1): a unit "is unable to exploit contextual information
outside of this region".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor, nn

from senet.block import _positive_int
from senet.zoo.networks.cifar_resnet import BasicBlock
from senet.zoo.networks.entry import Entry

__all__ = ["NETWORKS", "ShortSighted"]


class ShortSighted(nn.Module):
    """A stem and residual blocks of two 3×3 convolutions, all at stride 1.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        num_classes: how many.
        in_channels: of the pictures; 3 for colours, 1 for grey.
        width: channels of the stem and of every block.
        blocks: how many. The receptive field is 3 + 4 · blocks pixels a side: 11 with two.
        dropout: of the pooled features.

    Raises:
        InputError: a count is no positive whole number.
        ValueError: a dropout is no probability.
    """

    def __init__(
        self, *, num_classes: int = 10, in_channels: int = 3, width: int = 16, blocks: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        width = _positive_int("width", width)
        self.conv1 = nn.Conv2d(_positive_int("in_channels", in_channels), width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(*(BasicBlock(width, width, 1) for _ in range(_positive_int("blocks", blocks))))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(width, _positive_int("num_classes", num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of pictures."""
        x = self.blocks(self.relu(self.bn1(self.conv1(x))))
        logits: Tensor = self.fc(self.dropout(self.avgpool(x).flatten(1)))
        return logits


NETWORKS: Mapping[str, Entry] = MappingProxyType({"short_sighted": Entry(ShortSighted, (32, 32))})
