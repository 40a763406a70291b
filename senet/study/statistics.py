"""The statistics of comparing two networks that were trained in pairs from the same seeds.

Accuracies are fractions, a difference is SE minus plain, and a point is a hundredth.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Hashable, Iterator, Mapping
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
    "mcnemar",
    "paired_difference",
    "rejected",
    "verdict",
]

_DRAWN_AT_ONCE = 2**20

Key = TypeVar("Key", bound=Hashable)

_NO_SPREAD = 1e-12
"""A standard deviation below this share of the largest score is rounding, not spread."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference over seeds, with a t interval for its mean.

    Attributes:
        values: SE - plain for each seed.
        mean: their mean.
        sd: their sample standard deviation; None for one seed.
        low: the interval's lower end; None without an interval, that is for one seed or without spread.
        high: its upper end, likewise.
        confidence: the interval's confidence.
    """

    values: tuple[float, ...]
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    confidence: float = 0.95

    @property
    def contains_zero(self) -> bool | None:
        """Whether the interval contains zero; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The difference over test images, with a percentile interval for its mean.

    Attributes:
        mean: SE - plain: the mean over images of the mean over seeds.
        low: the interval's lower end.
        high: its upper end.
        images: the number of images.
        resamples: the number of bootstrap samples.
        confidence: the interval's confidence.
    """

    mean: float
    low: float
    high: float
    images: int
    resamples: int
    confidence: float = 0.95

    @property
    def contains_zero(self) -> bool:
        """Whether the interval contains zero."""
        return self.low <= 0 <= self.high


def paired_difference(plain: Sequence[float], se: Sequence[float], *, confidence: float = 0.95) -> Difference:
    """Compare accuracies of plain and SE, seed by seed, by a paired t interval.

    Raises:
        ValueError: there is no seed, the lengths differ, or a number is not finite.
    """
    if len(plain) != len(se) or len(plain) == 0:
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
    from scipy.special import stdtrit  # as in scipy.stats.t.ppf, but scipy.stats takes seconds to import

    half = float(stdtrit(len(values) - 1, (1 + confidence) / 2)) * sd / math.sqrt(len(values))
    return Difference(values, mean, sd, mean - half, mean + half, confidence)


@dataclasses.dataclass(frozen=True)
class Corrected:
    """One of several comparisons, corrected for their number.

    Attributes:
        difference: the difference over seeds, with an interval at the corrected `difference.confidence`.
        p: the p value of the paired t test; None for one seed or without spread.
        p_corrected: Holm's adjusted p value: a difference is significant at 5 % if it is at most 0.05.
        comparisons: the number of comparisons.
    """

    difference: Difference
    p: float | None
    p_corrected: float | None
    comparisons: int

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the corrected interval excludes zero."""
        return self.difference.contains_zero is False


def holm(pairs: Mapping[Key, tuple[Sequence[float], Sequence[float]]], *, level: float = 0.05) -> dict[Key, Corrected]:
    """Correct several paired comparisons, given accuracies seed by seed, by Holm's step-down procedure.

    Comparisons are sorted by p. The k-th of m is tested at level / (m − k + 1) until one fails;
    that and all later ones are not shown. Each interval is the t interval at its comparison's
    level; after the first failure it is at that one's level. So an interval excludes zero exactly
    if Holm's test finds a difference. With probability 1 − level, no comparison of equal networks
    is called a difference. Simultaneous coverage holds only for the intervals from the first
    failure on.

    Raises:
        ValueError: as in `paired_difference`.
    """
    tested = {key: _p_of(paired_difference(first, second)) for key, (first, second) in pairs.items()}
    p_values = {key: p for key, p in tested.items() if p is not None}
    found: dict[Key, Corrected] = {}
    corrected = 0.0
    for rank, (key, share, _) in enumerate(_step_down(p_values, len(pairs), level)):
        p = p_values[key]
        corrected = max(corrected, min(1.0, p * (len(pairs) - rank)))
        difference = paired_difference(*pairs[key], confidence=1 - share)
        found[key] = Corrected(difference, p, corrected, len(pairs))
    for key in pairs:  # comparisons without an interval count, but show nothing
        if key not in found:
            alone = paired_difference(*pairs[key], confidence=1 - level / len(pairs))  # Bonferroni's
            found[key] = Corrected(alone, None, None, len(pairs))
    return {key: found[key] for key in pairs}


def _step_down(p_values: Mapping[Key, float], count: int, level: float) -> Iterator[tuple[Key, float, bool]]:
    """Holm's procedure over `count` tests, some without p: in order of p, the level of each, and whether it shows."""
    share, failed = level / max(1, count), False
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        if not failed:
            share = level / (count - rank)
            failed = p_values[key] > share
        yield key, share, not failed


def _p_of(difference: Difference) -> float | None:
    """The p value of the two-sided paired t test."""
    if not difference.sd:
        return None
    from scipy.special import stdtr

    count = len(difference.values)
    statistic = abs(difference.mean) / (difference.sd / math.sqrt(count))
    return float(2 * stdtr(count - 1, -statistic))


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """McNemar's exact test: the p value of as many images won or lost, if either were as likely.

    Args:
        before: (images,), whether each was right.
        after: the same afterwards.
    """
    from scipy.special import bdtr

    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def rejected(p_values: Mapping[Key, float], *, level: float = 0.05) -> set[Key]:
    """The tests that show something by Holm's step-down procedure, given their p values."""
    return {key for key, _, shown in _step_down(p_values, len(p_values), level) if shown}


def bootstrap_over_images(
    plain: ArrayLike, se: ArrayLike, *, resamples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> Bootstrap:
    """Compare which images each network got right by a paired bootstrap over images.

    An image's difference is its mean over seeds, and images are drawn in pairs. There are few
    distinct differences, so we draw their counts from the multinomial distribution, which is
    equivalent.

    Args:
        plain: (seeds, images), whether plain was right.
        se: (seeds, images), whether SE was.
        resamples: the number of bootstrap samples.
        seed: the random seed.
        confidence: the interval's confidence.

    Raises:
        ValueError: the shapes differ, or the arrays are empty.
    """
    first, second = np.asarray(plain, dtype=np.float64), np.asarray(se, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise InputError(f"both are (seeds, images) and not empty: {first.shape} of plain, {second.shape} of SE")
    difference = (second - first).sum(axis=0)  # integers, so that equal differences compare equal
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
    """`bootstrap_over_images` for scores of any kind, (seeds, examples), instead of right and wrong.

    Raises:
        ValueError: the shapes differ, or the arrays are empty.
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

    If the difference is equal in all seeds, there is no interval over seeds, and the one over images decides.
    """
    if seeds.sd is None:
        return False
    if seeds.contains_zero is None:
        return images is not None and not images.contains_zero
    return not seeds.contains_zero and (images is None or not images.contains_zero)


def verdict(seeds: Difference, images: Bootstrap | None = None, block: str = "SE") -> str:
    """One sentence on `block`, which says "better" or "worse" only if `differs`."""
    shown = differs(seeds, images)
    bounds = (seeds.low, seeds.high, *(() if images is None else (images.low, images.high)))
    # As many decimals as tell each end of a difference that is shown from zero.
    least = min((abs(100 * end) for end in bounds if end is not None), default=1.0) if shown else 1.0
    digits = next((digits for digits in range(2, 10) if round(least, digits)), 2)

    def said(fraction: float) -> str:
        return points(fraction, digits)

    share, count, mean = f"{100 * seeds.confidence:g} %", len(seeds.values), said(seeds.mean)
    over_seeds = "" if seeds.low is None or seeds.high is None else f"{said(seeds.low)} to {said(seeds.high)}"
    over_images = "" if images is None else f"{said(images.low)} to {said(images.high)} over {images.images} images"
    if shown:
        word = "better" if seeds.mean > 0 else "worse"
        if over_seeds:
            how = f"{share} interval {over_seeds} over {count} seeds{'; ' if images else ''}{over_images}"
        else:
            how = f"the same in each of {count} seeds; {share} interval {over_images}"
        return f"{block} is {word} by {mean[1:]} points ({how})."
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


def points(fraction: float, digits: int = 2) -> str:
    """A difference of fractions in points, with its sign: 0.012 is "+1.20"."""
    text = f"{100 * fraction:+.{digits}f}"
    return (text.lstrip("+-") if float(text) == 0 else text).replace("-", "−")


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
