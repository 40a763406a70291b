"""What was measured, as plain values that a file keeps: ratios with their intervals, one row for each case."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Ratio", "Row", "median_interval"]

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Something of a network over that of the plain network.

    Attributes:
        value: the median over the rounds of their ratios, or the ratio of two counts.
        low: the lower end of a 95 % interval of the median; None for counts, and below 6 rounds.
        high: its upper end, likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_rounds(cls, ratios: Sequence[float]) -> Ratio:
        """The median of the rounds' ratios, with its interval."""
        low, high = median_interval(ratios)
        return cls(statistics.median(ratios), low, high)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{interval}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One case, measured or not.

    Attributes:
        what: "inference", "training step", "kept for backward" or "largest batch".
        engine: what ran it, by its name in `--engines`.
        batch: images at a time; 0 where that is what was sought.
        plain: of the plain network: seconds (the median), bytes or images; None where it was not measured.
        ratios: over the plain network's, by contestant: "ours", "peer", "peer optimized".
        rounds: of all contestants in turn; 0 for counts.
        seconds: that measuring took, all in all.
        note: why there is no figure, or what is worth saying of it.
    """

    what: str
    engine: str
    batch: int
    plain: float | None = None
    ratios: Mapping[str, Ratio] = dataclasses.field(default_factory=dict)
    rounds: int = 0
    seconds: float = 0.0
    note: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """Which case it is of."""
        return self.what, self.engine, self.batch

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The row of which `to_json` made `values`.

        Raises:
            TypeError: on names that it does not know.
        """
        ratios = {name: Ratio(**ratio) for name, ratio in values["ratios"].items()}
        return cls(**{**values, "ratios": ratios})


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """An interval for the median of what the values are drawn from, whatever its distribution: two order statistics.

    Of n values, the k-th smallest is above the median with the probability that a fair coin, thrown n times, shows
    heads less than k times. None where even the smallest and the largest are not enough: below 6 values for 95 %.
    """
    n = len(values)
    ordered = sorted(values)
    tail, k = 0.0, 0  # tail: the probability of less than k heads
    while (more := tail + math.comb(n, k) / 2**n) <= (1 - confidence) / 2:
        tail, k = more, k + 1
    return (ordered[k - 1], ordered[n - k]) if k else (None, None)
