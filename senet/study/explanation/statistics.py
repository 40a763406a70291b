"""Statistics of one SE block's gates over images: means, spread, and the share that the class explains."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from senet.errors import InputError

__all__ = ["BINS", "ChannelStatistics", "GateStatistics"]

BINS = 200
OPEN = 4.0
"""The histogram's upper end for unbounded gates; larger values count in its last bin."""

CLOSE = 0.02
"""The share of a gate's range within which it counts as at its end, or as constant."""

_NO_SPREAD = 1e-7
"""A smaller standard deviation of gates is rounding."""


@dataclasses.dataclass(frozen=True)
class ChannelStatistics:
    """Statistics of one block's gates per channel.

    Attributes:
        mean: (C,) the mean over images.
        sd: (C,) the standard deviation over images.
        low: (C,) the smallest.
        high: (C,) the largest.
        class_means: (K, C) the mean over the images of each class.
        class_counts: (K,) the number of images per class.
        histogram: the number of gates in each of `BINS` equal bins of [bottom, top], or up to 4 without a top.
        top: the gate's largest possible value: 1 for a sigmoid, times the block's `scale`; None if
            it is unbounded (relu) or unknown.
        specificity: between-class over total variance of the gates, in [0, 1]: the between-class
            sum of squares over the total one, each summed over channels. None if nothing varies or
            no class has two images.
        specificity_by_chance: its expected value if the class explains nothing: (K − 1) / (n − 1).
        channel_specificity: (C,) the specificity per channel; NaN for a constant channel.
        bottom: the lower end of the histogram: −top for a tanh, whose gates may be negative, else 0.
    """

    mean: Tensor
    sd: Tensor
    low: Tensor
    high: Tensor
    class_means: Tensor
    class_counts: Tensor
    histogram: Tensor
    top: float | None
    specificity: float | None
    specificity_by_chance: float | None
    channel_specificity: Tensor
    bottom: float = 0.0

    @property
    def range(self) -> float:
        """The scale for closeness: the gate's largest possible value, or the largest seen."""
        return self.top if self.top is not None else max(float(self._strength.max()), 1e-12)

    @property
    def _strength(self) -> Tensor:
        """(C,) the largest distance of a channel's gate from 0; a tanh's gates may be negative."""
        return torch.maximum(self.high, -self.low)

    def quantile(self, share: float) -> float:
        """The quantile of all gates, at the histogram's resolution."""
        rising = self.histogram.cumsum(0) / self.histogram.sum()
        below = int((rising < share).sum())
        start = float(rising[below - 1]) if below else 0.0
        inside = (share - start) / max(float(rising[below]) - start, 1e-12)
        return self.bottom + (below + min(1.0, inside)) / BINS * ((self.top or OPEN) - self.bottom)

    @property
    def dead(self) -> Tensor:
        """(C,) whether a channel's gate is 0 on every image, to within 2 % of the largest value."""
        return self._strength <= CLOSE * self.range

    @property
    def saturated(self) -> Tensor:
        """(C,) whether a channel's gate is within 2 % of the largest value on every image."""
        if self.top is None:
            return torch.zeros_like(self.dead)
        return self.low >= (1 - CLOSE) * self.top

    @property
    def constant(self) -> Tensor:
        """(C,) whether a channel's gate differs by less than 2 % of the largest value over all images."""
        return self.high - self.low < CLOSE * self.range


class GateStatistics:
    """Accumulates gate statistics batch by batch, in float64.

    Args:
        channels: C.
        classes: K, the number of the images' classes.
        top: the gate's largest possible value, or None.
        bottom: the lower end of the histogram.
    """

    def __init__(self, channels: int, classes: int, top: float | None, bottom: float = 0.0) -> None:
        self.top, self.bottom = top, bottom
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)
        self.low = torch.full((channels,), torch.inf, dtype=torch.float64)
        self.high = torch.full((channels,), -torch.inf, dtype=torch.float64)
        self.of_class = torch.zeros(classes, channels, dtype=torch.float64)
        self.class_counts = torch.zeros(classes, dtype=torch.float64)
        self.histogram = torch.zeros(BINS, dtype=torch.float64)
        self._shift: Tensor | None = None

    def add(self, gates: Tensor, classes: Tensor) -> None:
        """Add a batch: gates (N, C), and classes (N,) from 0 to K − 1."""
        gates = gates.to("cpu", torch.float64)
        if self._shift is None:  # centred values, so that squares lose no digits
            self._shift = gates.mean(0)
        shifted = gates - self._shift
        self.count += len(gates)
        self.total += shifted.sum(0)
        self.squares += shifted.square().sum(0)
        self.low = torch.minimum(self.low, gates.amin(0))
        self.high = torch.maximum(self.high, gates.amax(0))
        self.of_class.index_add_(0, classes, shifted)
        self.class_counts.index_add_(0, classes, torch.ones(len(classes), dtype=torch.float64))
        most = self.top or OPEN
        self.histogram += torch.histc(gates.clamp(self.bottom, most), BINS, self.bottom, most)

    def take(self) -> ChannelStatistics:
        """The accumulated statistics.

        Raises:
            ValueError: no gates were added.
        """
        if self._shift is None:
            raise InputError("no gates were counted")
        n, counts = self.count, self.class_counts
        mean = self.total / n
        total = (self.squares - n * mean.square()).clamp(min=0)
        class_means = self.of_class / counts.clamp(min=1)[:, None]
        between = (counts[:, None] * (class_means - mean).square()).sum(0)
        varies = total > n * _NO_SPREAD**2
        present = int((counts > 0).sum())
        known = bool((counts > 1).any())
        share = torch.where(varies, (between / total.clamp(min=1e-300)).clamp(0, 1), torch.nan)
        whole = float(between[varies].sum() / total[varies].sum()) if bool(varies.any()) and known else None
        return ChannelStatistics(
            mean=mean + self._shift,
            sd=(total / n).sqrt(),
            low=self.low,
            high=self.high,
            class_means=class_means + self._shift,
            class_counts=counts.long(),
            histogram=self.histogram,
            top=self.top,
            specificity=None if whole is None else min(1.0, whole),
            specificity_by_chance=(present - 1) / (n - 1) if known else None,
            channel_specificity=share if known else torch.full_like(share, torch.nan),
            bottom=self.bottom,
        )
