"""Parts that families share: a convolution unit, He initialisation, and adapting torchvision's networks."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from senet.errors import InputError, whole_number

__all__ = ["Classifier", "ConvUnit", "initialise", "scaled", "stage", "with_dropout", "with_in_channels"]


class ConvUnit(nn.Sequential):
    """A convolution without bias, batch normalisation, and optionally a ReLU: `conv`, `bn`, `relu`.

    Shapes: (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride)), with the default padding.

    Args:
        in_channels: the input's channels.
        channels: the output's channels.
        kernel: height and width, or one number for both.
        stride: the stride in both directions.
        padding: the padding on every side; None means half the kernel, which keeps the size.
        groups: the convolution's groups.
        eps: the normalisation's epsilon.
        relu: whether to add a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        eps: float = 1e-5,
        relu: bool = True,
    ) -> None:
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (height // 2, width // 2) if padding is None else (padding, padding)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(in_channels, channels, (height, width), stride, pad, groups=groups, bias=False),
            bn=nn.BatchNorm2d(channels, eps),
        )
        if relu:
            layers["relu"] = nn.ReLU(inplace=True)
        super().__init__(layers)


class Classifier(nn.Module):
    """The base of networks that average their last map and classify it with one linear layer.

    Shapes: (N, in_channels, H, W) -> (N, num_classes), logits.

    Args:
        num_classes: the number of classes.
        in_channels: the channels of the images: 3 for colour, 1 for grey.
        dropout: the dropout on the pooled features.

    Raises:
        ValueError: a count is not a positive whole number, or the dropout is not a probability.
    """

    def _end(self, channels: int, num_classes: int, dropout: float) -> None:
        """Add these layers behind `channels` of the last map, and initialise the network."""
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, whole_number("num_classes", num_classes))
        initialise(self)

    def _last_map(self, x: Tensor) -> Any:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The logits of a batch of images."""
        logits: Tensor = self.fc(self.dropout(self.avgpool(self._last_map(x)).flatten(1)))
        return logits


def stage(
    block: Callable[..., nn.Module], blocks: int, in_channels: int, channels: int, stride: int, *more: Any
) -> nn.Sequential:
    """A stage of blocks, of which the first changes channels and size; `more` goes to every block."""
    first = block(in_channels, channels, stride, *more)
    return nn.Sequential(first, *(block(channels, channels, 1, *more) for _ in range(blocks - 1)))


def initialise(model: nn.Module) -> None:
    """He initialisation of every convolution (normal, fan-out) with zero biases, as in the paper (section 5).

    Batch normalisations (ones and zeros) and linear weights (uniform in ±1/√inputs) keep PyTorch's defaults.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def scaled(channels: int, width: float, divisor: int = 8) -> int:
    """`channels` times `width`, rounded to a multiple of `divisor`, at least `divisor`.

    Raises:
        ValueError: the width is not a positive finite number.
    """
    if isinstance(width, bool) or not isinstance(width, int | float) or not (math.isfinite(width) and width > 0):
        raise InputError(f"width is a positive number that multiplies the paper's channels, not {width!r}")
    return channels if width == 1 else max(divisor, round(channels * width / divisor) * divisor)


def with_in_channels(model: nn.Module, in_channels: int) -> None:
    """Replace the first convolution of `model` if its images do not have 3 channels."""
    if whole_number("in_channels", in_channels) == 3:
        return
    name, first = next((name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d))
    kernel, stride, padding = (tuple(map(int, pair)) for pair in (first.kernel_size, first.stride, first.padding))
    own = nn.Conv2d(in_channels, first.out_channels, kernel, stride, padding, bias=first.bias is not None)  # type: ignore[arg-type]
    initialise(own)
    model.set_submodule(name, own)


def with_dropout(pool: nn.Module, dropout: float) -> nn.Module:
    """`pool`, followed by dropout if it is not 0; state dict keys stay the same."""
    return nn.Sequential(pool, nn.Dropout(dropout)) if dropout else pool
