"""Times of several things in turn, so that what the machine does beside falls on all of them alike."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FULL", "QUICK", "Effort", "in_turn"]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        least: rounds at least.
        most: rounds at most.
        seconds: that the rounds of one case may take, where `least` do not take longer.
        warm_up: seconds of each contestant before the first round, and two runs at least.
    """

    least: int
    most: int
    seconds: float
    warm_up: float


FULL = Effort(least=15, most=101, seconds=40, warm_up=1.0)
QUICK = Effort(least=7, most=21, seconds=5, warm_up=0.2)

_LEAST_S = 0.02  # a shorter run is repeated, and the time of all is taken


def in_turn(
    runs: Mapping[str, Callable[[], object]], effort: Effort, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run, round by round: in each round all of them, another first each time.

    Args:
        runs: by name; each returns when its work is done.
        effort: how long.
        clock: seconds that go by.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with _without_collection():
        once = {name: _warm_up(run, effort.warm_up, clock) for name, run in runs.items()}
        repeats = math.ceil(_LEAST_S / max(1e-9, min(once.values()))) if min(once.values()) < _LEAST_S else 1
        round_s = repeats * sum(once.values())
        rounds = min(effort.most, max(effort.least, math.floor(effort.seconds / round_s)))
        names = list(runs)
        for number in range(rounds):
            first = number % len(names)
            for name in (*names[first:], *names[:first]):
                run = runs[name]
                start = clock()
                for _ in range(repeats):
                    run()
                seconds[name].append((clock() - start) / repeats)
    return seconds


def _warm_up(run: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Run until it has had time to warm up; the seconds of the last run."""
    until = clock() + seconds
    run()  # compiles, allocates
    while True:
        start = clock()
        run()
        now = clock()
        if now >= until:
            return now - start


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Within it Python does not collect garbage, which takes milliseconds when it likes."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
