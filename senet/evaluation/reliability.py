"""Calibration: bins of confidence, and the expected calibration error."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from senet.report.figures import COLOURS, GREY, INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from senet.evaluation.logits import Predictions

__all__ = ["BINS", "Bin", "bins_of", "calibration_error", "reliability_figure"]

BINS = 15
"""Bins of equal width, as in Guo et al. (2017), "On Calibration of Modern Neural Networks"."""

RIGHT, OVER, UNDER = COLOURS[0], COLOURS[1], COLOURS[4]


@dataclasses.dataclass(frozen=True)
class Bin:
    """The images whose highest probability lies in [low, high).

    Attributes:
        low: the bin's lower end.
        high: the bin's upper end; 1 belongs to the last bin.
        count: the number of images.
        confidence: the mean of their highest probability; None without images.
        accuracy: the share of correct images; None without images.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


# torchmetrics counts the images with a probability of exactly 1 in a bin of their own, a sixteenth.
def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error (L1): the mean of |confidence - accuracy| over the bins, weighted by images."""
    held = [(b.count, b.confidence, b.accuracy) for b in bins]
    gaps = [count * abs(sure - right) for count, sure, right in held if sure is not None and right is not None]
    return math.fsum(gaps) / sum(count for count, _, _ in held)


def bins_of(predictions: Predictions) -> tuple[Bin, ...]:
    """The bins of equal width over which the calibration error averages."""
    highest = predictions.probability.contiguous()
    edges = torch.linspace(0, 1, BINS + 1, dtype=highest.dtype)
    place = (torch.bucketize(highest, edges, right=True) - 1).clamp(0, BINS - 1)
    counts = place.bincount(minlength=BINS)
    confidence = place.bincount(highest.double(), minlength=BINS) / counts
    accuracy = place.bincount(predictions.correct.double(), minlength=BINS) / counts
    return tuple(
        Bin(at / BINS, (at + 1) / BINS, int(n), float(c) if c.isfinite() else None, float(a) if n else None)
        for at, (n, c, a) in enumerate(zip(counts, confidence, accuracy, strict=True))
    )


def reliability_figure(bins: Sequence[Bin], error: float, title: str) -> Figure:
    """Accuracy by confidence against the diagonal of a calibrated network, above the number of images per bin."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    held = [b for b in bins if b.accuracy is not None and b.confidence is not None]
    middles = [(b.low + b.high) / 2 for b in held]
    width = 1 / len(bins)
    accuracy = [b.accuracy or 0.0 for b in held]
    confidence = [b.confidence or 0.0 for b in held]
    over = [max(0.0, c - a) for c, a in zip(confidence, accuracy, strict=True)]
    under = [max(0.0, a - c) for c, a in zip(confidence, accuracy, strict=True)]
    line = {"edgecolor": "white", "linewidth": 0.8}
    upper.bar(middles, accuracy, width, color=RIGHT, label="accuracy", **line)
    upper.bar(middles, over, width, bottom=accuracy, color=OVER, label="over-confident by", **line)
    upper.bar(middles, under, width, bottom=confidence, color=UNDER, label="under-confident by", **line)
    upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="calibrated")
    upper.set_ylabel("share of images that are right")
    upper.set_ylim(0, 1)
    upper.set_xlim(0, 1)
    upper.legend(loc="upper left")
    lower.bar(middles, [b.count for b in held], width, color=GREY, **line)
    lower.set_ylabel("images")
    lower.set_xlabel("confidence: the highest probability")
    for axes in (upper, lower):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.suptitle(f"{title}\nexpected calibration error {error:.2%} ({len(bins)} bins)", fontsize=11)
    return figure
