"""The rows of a benchmark, as plain values for a file: ratios with intervals, one row per case."""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Ratio", "Row", "median_interval"]

CONFIDENCE = 0.95
_NOISY = 0.1


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio to the plain network.

    Attributes:
        value: the median ratio over rounds, or the ratio of two counts.
        low: the lower end of the median's 95 % interval; None for counts and below 6 rounds.
        high: the interval's upper end, likewise.
    """

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_rounds(cls, ratios: Sequence[float]) -> Ratio:
        """The median ratio over rounds, with its interval."""
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
        engine: the engine, by its name in `--engines`.
        batch: the batch size; 0 if the case searches for it.
        plain: the plain network's median seconds, bytes or images; None if not measured.
        ratios: the ratios to the plain network, by contestant: "ours", "peer", "peer optimized", and
            "ours as inserted", whose plain network is not folded either.
        rounds: the number of rounds; 0 for counts.
        seconds: the time of the whole measurement.
        note: the reason why there is no figure, or a remark.
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
        """What tells it from the other rows: what, engine and batch."""
        return self.what, self.engine, self.batch

    @property
    def remark(self) -> str:
        """The note, or that an interval is so wide that the figure says little."""
        ends = [(each.low, each.high) for each in self.ratios.values()]
        wide = any(low is not None and high is not None and high - low > _NOISY for low, high in ends)
        return self.note or f"noisy: an interval over {_NOISY} wide" * wide

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Row:
        """The row from the `values` of `to_json`.

        Raises:
            TypeError: a name is unknown.
        """
        ratios = {name: Ratio(**ratio) for name, ratio in values["ratios"].items()}
        return cls(**{**values, "ratios": ratios})


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float | None, float | None]:
    """A distribution-free interval for the median of the values' population: two order statistics.

    The k-th smallest of n values exceeds the median with the probability of fewer than k heads in n
    fair coin tosses. None if even the extremes do not suffice, which for 95 % is below 6 values.
    """
    n = len(values)
    ordered = sorted(values)
    tail, k = 0.0, 0  # tail: the probability of fewer than k heads
    while (more := tail + math.comb(n, k) / 2**n) <= (1 - confidence) / 2:
        tail, k = more, k + 1
    return (ordered[k - 1], ordered[n - k]) if k else (None, None)
