"""What a comparison of two networks, trained in pairs from the same seeds, may say and what not.

Accuracies are fractions; a difference is SE minus plain, and a point is a hundredth.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from senet.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

__all__ = [
    "Bootstrap",
    "Corrected",
    "Difference",
    "bootstrap_over_examples",
    "bootstrap_over_images",
    "differs",
    "holm",
    "paired_difference",
    "verdict",
]

_DRAWN_AT_ONCE = 2**20

Key = TypeVar("Key", bound=Hashable)

_NO_SPREAD = 1e-12
"""Below this share of the largest score, a standard deviation is rounding and not spread."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference over seeds, and a t interval for its mean.

    Attributes:
        values: SE - plain for each seed.
        mean: of them.
        sd: their sample standard deviation; None for one seed.
        low: the interval's lower end; None where there is no interval: one seed, or no spread.
        high: its upper end, likewise.
        confidence: of the interval.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95

    @property
    def contains_zero(self) -> bool | None:
        """Whether the interval does; None where there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The difference over test images, and a percentile interval for its mean.

    Attributes:
        mean: SE - plain, the mean over images of the mean over seeds.
        low: the interval's lower end.
        high: its upper end.
        images: how many there are.
        resamples: how many were drawn.
        confidence: of the interval.
    """

    mean: float
    low: float
    high: float
    images: int
    resamples: int
    confidence: float = 0.95

    @property
    def contains_zero(self) -> bool:
        """Whether the interval does."""
        return self.low <= 0 <= self.high


def paired_difference(plain: Sequence[float], se: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Accuracies of plain and SE, seed by seed, compared by a paired t interval.

    Raises:
        ValueError: where there is no seed, the two are not of one length, or a number is not finite.
    """
    if len(plain) != len(se) or not plain:
        raise InputError(f"accuracies come in pairs, at least one: {len(plain)} of plain, {len(se)} of SE")
    values = tuple(float(b) - float(a) for a, b in zip(plain, se, strict=True))
    if not all(map(math.isfinite, values)):
        raise InputError(f"accuracies are finite numbers; the differences are {values}")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Difference(values, mean, None, None, None, confidence)
    sd = statistics.stdev(values)
    if sd <= _NO_SPREAD * max(map(abs, (*plain, *se))):
        return Difference(values, mean, 0.0, None, None, confidence)
    from scipy.special import stdtrit  # what scipy.stats.t.ppf computes; scipy.stats takes seconds to import

    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * sd / math.sqrt(len(values))
    return Difference(values, mean, sd, mean - half, mean + half, confidence)


@dataclasses.dataclass(frozen=True)
class Corrected:
    """One of several comparisons, corrected for their number.

    Attributes:
        difference: over seeds, its interval at `difference.confidence`, which the correction chose.
        p: of the paired t test of no difference; None for one seed, or without spread.
        p_corrected: Holm's: the comparison stands at 5 % where it is at most 0.05.
        comparisons: how many there were in all.
    """

    difference: Difference
    p: float | None
    p_corrected: float | None
    comparisons: int

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the corrected interval leaves zero out."""
        return self.difference.contains_zero is False


def holm(pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]], *, level: float = 0.05) -> dict[Key, Corrected]:
    """Several paired comparisons, first and second accuracies seed by seed, corrected by Holm's step-down procedure.

    The comparisons are taken by their p, the smallest first; the k-th of m is held against level / (m − k + 1), until
    one fails: that and all after it are not shown. Each interval is the t interval at the confidence that its
    comparison was held to (of those after the first failure, at that one's), so it leaves zero out exactly where
    Holm's test finds a difference. What is kept is that test's promise: with probability 1 − level no comparison of
    equals is called a difference. That all intervals hold at once is promised by those after the first failure alone.

    Raises:
        ValueError: as `paired_difference`.
    """
    tested = {key: _p_of(paired_difference(first, second)) for key, (first, second) in pairs.items()}
    order = sorted((key for key in pairs if tested[key] is not None), key=lambda key: tested[key] or 0.0)
    found: dict[Key, Corrected] = {}
    share, corrected, failed = level / max(1, len(pairs)), 0.0, False
    for rank, key in enumerate(order):
        p = tested[key]
        assert p is not None
        if not failed:
            share = level / (len(pairs) - rank)
            failed = p > share
        corrected = max(corrected, min(1.0, p * (len(pairs) - rank)))
        difference = paired_difference(*pairs[key], confidence=1 - share)
        found[key] = Corrected(difference, p, corrected, len(pairs))
    for key in pairs:  # those without an interval count among the comparisons, and show nothing
        if key not in found:
            alone = paired_difference(*pairs[key], confidence=1 - level / len(pairs))  # Bonferroni's
            found[key] = Corrected(alone, None, None, len(pairs))
    return {key: found[key] for key in pairs}


def _p_of(difference: Difference) -> float | None:
    """Of the two-sided paired t test."""
    if not difference.sd:
        return None
    from scipy.special import stdtr

    count = len(difference.values)
    statistic = abs(difference.mean) / (difference.sd / math.sqrt(count))
    return float(2 * stdtr(count - 1, -statistic))


def bootstrap_over_images(
    plain: ArrayLike, se: ArrayLike, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Bootstrap:
    """Which images each network got right, compared by a paired bootstrap over the images.

    An image's difference is its mean over seeds, and images are drawn with their pairs kept. There are few
    distinct differences, so how often each is drawn is drawn instead (multinomially): the same distribution.

    Args:
        plain: (seeds, images), whether plain was right.
        se: (seeds, images), whether SE was.
        resamples: how often images are drawn.
        seed: of the drawing.
        confidence: of the interval.

    Raises:
        ValueError: where the two are not of one shape, or empty.
    """
    first, second = np.asarray(plain, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise InputError(f"both are (seeds, images) and not empty: {first.shape} of plain, {second.shape} of SE")
    difference = (second - first).sum(axis=0)  # whole numbers, so that equal ones are equal
    values, counts = np.unique(difference, return_counts=True)
    images = difference.size
    drawn = np.random.default_rng(seed).multinomial(images, counts / images, size=resamples)
    means = drawn @ values / (images * len(first))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = float(difference.mean()) / len(first)
    return Bootstrap(mean, float(low), float(high), images, resamples, confidence)


def bootstrap_over_examples(
    plain: ArrayLike, se: ArrayLike, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Bootstrap:
    """The same for scores of any kind, (seeds, examples), where `bootstrap_over_images` has right and wrong.

    Raises:
        ValueError: where the two are not of one shape, or empty.
    """
    first, second = np.asarray(plain, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise InputError(f"both are (seeds, examples) and not empty: {first.shape} of plain, {second.shape} of SE")
    difference = (second - first).mean(axis=0)
    count, generator = difference.size, np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // count)
    means = [
        difference[generator.integers(count, size=(min(rows, resamples - done), count))].mean(axis=1)
        for done in range(0, resamples, rows)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Bootstrap(float(difference.mean()), float(low), float(high), count, resamples, confidence)


def differs(seeds: Difference, images: Bootstrap | None = None) -> bool:
    """Whether a difference is shown: at least two seeds, and no interval that contains zero.

    Where the difference is the same in every seed there is no interval over seeds; the one over images decides.
    """
    if seeds.sd is None:
        return False
    if seeds.contains_zero is None:
        return images is not None and not images.contains_zero
    return not seeds.contains_zero and (images is None or not images.contains_zero)


def verdict(seeds: Difference, images: Bootstrap | None = None, block: str = "SE") -> str:
    """One sentence on `block`; "better" or "worse" only where `differs`."""
    share, count, mean = f"{100 * seeds.confidence:g} %", len(seeds.values), points(seeds.mean)
    over_seeds = "" if seeds.low is None or seeds.high is None else f"{points(seeds.low)} to {points(seeds.high)}"
    over_images = "" if images is None else f"{points(images.low)} to {points(images.high)} over {images.images} images"
    if differs(seeds, images):
        word = "better" if seeds.mean > 0 else "worse"
        if over_seeds:
            how = f"{share} interval {over_seeds} over {count} seeds{'; ' if images else ''}{over_images}"
        else:
            how = f"the same in each of {count} seeds; {share} interval {over_images}"
        return f"{block} is {word} by {abs(100 * seeds.mean):.2f} points ({how})."
    none = "There is no difference shown:"
    if seeds.contains_zero:
        over_seeds += f" over {count} seeds"
        return f"{none} {block} − plain = {mean} points, and its {share} interval, {over_seeds}, contains zero."
    if seeds.sd is None or images is None:
        why = "one seed has no interval" if seeds.sd is None else f"{count} seeds without spread have no interval"
        return f"{none} {why} ({block} − plain = {mean} points)."
    how = f"{share} interval {over_seeds} over {count} seeds" if over_seeds else f"the same in each of {count} seeds"
    ends = f"the interval over {images.images} images, {points(images.low)} to {points(images.high)}"
    return f"{none} {block} − plain = {mean} points ({how}), but {ends}, contains zero."


def points(fraction: float) -> str:
    """A difference of fractions in points (hundredths), with its sign: 0.012 is "+1.20"."""
    text = f"{100 * fraction:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def to_json(seeds: Difference, images: Bootstrap | None) -> dict[str, Any]:
    """Plain values for result.json: the difference over seeds, and under "images" the one over images."""
    return {
        "mean": seeds.mean,
        "sd": seeds.sd,
        "low": seeds.low,
        "high": seeds.high,
        "confidence": seeds.confidence,
        "per_seed": list(seeds.values),
        "images": None if images is None else dataclasses.asdict(images),
    }
