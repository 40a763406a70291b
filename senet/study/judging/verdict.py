"""Compare two arms of any training by scores in any unit."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from senet.console.display import share as share_of
from senet.study.statistics import Bootstrap, Difference, bootstrap_over_examples, differs, paired_difference
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CONFIDENCE", "POWER", "Measure", "Verdict", "detectable", "judged", "seeds_needed"]

# Seeds can be added and the result examined again, and each look is another chance of a false
# claim. At 98 %, one look finds a false difference in 2 % of studies, and three looks together in
# less than 5 %.
CONFIDENCE = 0.98
POWER = 0.8
MOST_SEEDS = 1000
_SPREADS = 2000


@dataclasses.dataclass(frozen=True)
class Measure:
    """The meaning of a score.

    Attributes:
        score: its name.
        unit: its unit; "" for none.
        higher_is_better: whether a higher score is better.
    """

    score: str = "score"
    unit: str = ""
    higher_is_better: bool = True

    def amount(self, value: float, digits: int) -> str:
        """A value with its unit."""
        return f"{number(value, digits)} {self.unit}".rstrip()

    def better(self, difference: float) -> float:
        """A difference SE − plain as an improvement: positive if SE is better."""
        return difference if self.higher_is_better else -difference


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A verdict as values and as a sentence.

    Attributes:
        difference: SE − plain over seeds, in the score's unit.
        examples: SE − plain over examples; None without an interval over them.
        shown: whether a difference is shown.
        text: the verdict in one sentence.
        notes: remarks on the scores.
        measure: the meaning of the score.
    """

    difference: Difference
    examples: Bootstrap | None
    shown: bool
    text: str
    notes: tuple[str, ...]
    measure: Measure

    @functools.cached_property
    def power(self) -> str:
        """One sentence on the statistical power: the differences that more seeds would show; "" without spread."""
        return _power(self.difference, self.measure)


def judged(
    plain: Sequence[float],
    se: Sequence[float],
    measure: Measure,
    *,
    each: tuple[Sequence[Mapping[str, float] | None], Sequence[Mapping[str, float] | None]] | None = None,
    confidence: float = CONFIDENCE,
    whom: str = "SE",
) -> Verdict:
    """Judge scores of plain and SE, seed by seed.

    Args:
        plain: plain's score of each seed.
        se: SE's score of each seed.
        measure: the meaning of the score.
        each: for both arms and each seed, the score of each example by name, if any.
        confidence: the intervals' confidence.
        whom: the second arm's name.

    Raises:
        ValueError: as in `paired_difference`.
    """
    plain, se = [float(score) for score in plain], [float(score) for score in se]
    difference = paired_difference(plain, se, confidence=confidence)
    examples, notes = None, []
    if each is not None and any(scores is not None for arm in each for scores in arm):
        examples, why = _over_examples(plain, se, each, confidence)
        if why:
            notes.append(f"The scores of single examples are not used: {why}")
    same = len(plain) > 1 and len(set(plain)) == 1
    if same:
        notes.append(f"The plain scores are equal in all {len(plain)} seeds: does your training use cell.seed?")
    shown = differs(difference, examples) and not same
    text = _text(difference, examples, measure, shown, same, statistics.fmean(plain), whom)
    return Verdict(difference, examples, shown, text, tuple(notes), measure)


def _over_examples(
    plain: Sequence[float],
    se: Sequence[float],
    each: tuple[Sequence[Mapping[str, float] | None], Sequence[Mapping[str, float] | None]],
    confidence: float,
) -> tuple[Bootstrap | None, str]:
    """The interval over examples, or why there is none; it needs a score that is their mean."""
    rows = [scores for arm in each for scores in arm]
    if any(scores is None for scores in rows):
        return None, "some trainings gave none."
    names = list(rows[0] or ())
    if any((scores or {}).keys() != set(names) for scores in rows):
        return None, "the trainings were scored on different examples."
    for score, scores in zip([*plain, *se], rows, strict=True):
        mean = statistics.fmean((scores or {}).values())
        if not math.isclose(mean, score, rel_tol=1e-4, abs_tol=1e-9):
            return None, f"their mean ({mean:.6g}) is not the score ({score:.6g}), so it would be another interval."
    values = [[[(scores or {})[name] for name in names] for scores in arm] for arm in each]
    return bootstrap_over_examples(*values, confidence=confidence), ""


def _text(
    seeds: Difference, examples: Bootstrap | None, measure: Measure, shown: bool, same: bool, plain: float, whom: str
) -> str:
    gain = measure.better(seeds.mean)
    digits = places(seeds.mean or seeds.sd or plain)
    share = f"{100 * seeds.confidence:g} %"
    count = counted(len(seeds.values), "seed")
    whose = " of plain" if "%" in measure.unit else ""  # or it would read as one more value in the score's unit
    of_plain = "" if plain == 0 else f" ({share_of(abs(gain / plain))}{whose})"
    by = f"{'better' if gain > 0 else 'worse'} by {measure.amount(abs(gain), digits)}{of_plain}"
    over_seeds = "" if seeds.low is None or seeds.high is None else f"{_interval(seeds, measure)} over {count}"
    over_examples = "" if examples is None else f"{_interval(examples, measure)} over {examples.images} examples"
    if shown:
        how = over_seeds or f"the same in each of {count}"
        return f"{whom} is {by} in {measure.score}: {share} interval {'; '.join(filter(None, (how, over_examples)))}."
    none = f"No difference in {measure.score} is shown: "
    if seeds.sd is None:
        return f"{none}one seed has no interval ({whom} is {by})." if gain else f"{none}one seed has no interval."
    if same:
        return f"{none}the plain scores are equal in all {count}, as if each were the same training."
    if gain == 0:
        return f"{none}the means are equal over {count}."
    if seeds.contains_zero is None:
        return f"{none}{whom} is {by}, the same in each of {count}, which have no spread and so no interval."
    wide = over_seeds if seeds.contains_zero else over_examples
    return f"{none}{whom} is {by}, but the {share} interval {wide} contains zero."


def _interval(of: Difference | Bootstrap, measure: Measure) -> str:
    """An interval of the improvement, lower end first."""
    assert of.low is not None
    assert of.high is not None
    low, high = sorted((measure.better(of.low), measure.better(of.high)))
    digits = places(max(abs(low), abs(high)))
    return f"{number(low, digits)} to {number(high, digits)}"


def _power(difference: Difference, measure: Measure) -> str:
    """The differences that given numbers of seeds would show with 80 % power at this spread."""
    sd, count, gain = difference.sd, len(difference.values), abs(difference.mean)
    if not sd:
        return ""
    least = detectable(count, sd, difference.confidence)
    shows = f"{counted(count, 'seed')} would show a difference of {measure.amount(least, places(least))}"
    text = f"With this spread, {shows} four times in five"
    if not gain or gain >= least:
        return f"{text}."
    needed = seeds_needed(gain, sd, difference.confidence)
    if needed is None:
        return f"{text}; for one as small as found here, {MOST_SEEDS} would not do."
    return f"{text}, and {counted(needed, 'seed')} would show one of {measure.amount(gain, places(gain))}."


def detectable(seeds: int, sd: float, confidence: float = CONFIDENCE) -> float:
    """The difference that a paired t test over so many seeds shows with probability `POWER`."""
    low, high = 0.0, sd
    while _shown_with(high, sd, seeds, confidence) < POWER:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _shown_with(middle, sd, seeds, confidence) < POWER else (low, middle)
    return high


def seeds_needed(difference: float, sd: float, confidence: float = CONFIDENCE) -> int | None:
    """The fewest seeds that show a difference with probability `POWER`; None if `MOST_SEEDS` do not."""
    counts = range(2, MOST_SEEDS + 1)
    at = bisect.bisect_left(counts, POWER, key=lambda seeds: _shown_with(difference, sd, seeds, confidence))
    return counts[at] if at < len(counts) else None


def _shown_with(difference: float, sd: float, seeds: int, confidence: float) -> float:
    """The power of a paired t test, averaged over the standard deviations that so many seeds may find.

    scipy's noncentral t distribution returns nan at some shifts.
    """
    from scipy.special import ndtr, stdtrit

    edge, spreads = float(stdtrit(seeds - 1, (1 + confidence) / 2)), _spreads(seeds - 1)
    shift = difference / sd * math.sqrt(seeds)
    return float(np.mean(ndtr(shift - edge * spreads) + ndtr(-shift - edge * spreads)))


@functools.lru_cache
def _spreads(freedom: int) -> Any:
    """Equally likely sample standard deviations for a true one of 1, with so many degrees of freedom."""
    from scipy.special import gammaincinv

    return np.sqrt(2 * gammaincinv(freedom / 2, (np.arange(_SPREADS) + 0.5) / _SPREADS) / freedom)


def places(value: float) -> int:
    """Decimal places that show two significant digits of a value; negative for large ones."""
    return 2 if value == 0 or not math.isfinite(value) else 1 - math.floor(math.log10(abs(value)))


def number(value: float, digits: int) -> str:
    """A number with so many decimal places, without trailing zeros."""
    if digits > 6:
        return f"{value:.2g}".replace("-", "−")
    text = fixed(value, digits)
    return text.rstrip("0").rstrip(".") if "." in text else text


def fixed(value: float, digits: int) -> str:
    """A number with exactly so many decimal places, for a column of a table."""
    if digits > 6:
        return number(value, digits)
    text = f"{round(value, digits):.{max(0, digits)}f}"
    return (text.lstrip("-") if float(text) == 0 else text).replace("-", "−")
