"""Time several functions in turn, so that other load on the machine affects all of them alike."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["FULL", "QUICK", "Effort", "in_turn"]


@dataclasses.dataclass(frozen=True)
class Effort:
    """The effort of a measurement.

    Attributes:
        least: the least number of rounds.
        most: the largest number of rounds.
        seconds: the time for the rounds of one case, unless `least` rounds take longer.
        warm_up: seconds of warm-up per contestant, with at least two runs.
    """

    least: int
    most: int
    seconds: float
    warm_up: float


FULL = Effort(least=15, most=101, seconds=40, warm_up=1.0)
QUICK = Effort(least=7, most=21, seconds=5, warm_up=0.2)

_LEAST_S = 0.02  # shorter runs are repeated and timed together


def in_turn(
    runs: Mapping[str, Callable[[], object]], effort: Effort, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run per round; every round runs all of them, in an order drawn anew.

    In a fixed order, also one that starts elsewhere each time, a run always follows the same other, and
    finds the caches and the allocator as that one left them. Here no run has a lasting advantage.

    Args:
        runs: the functions by name; each returns when its work is done.
        effort: the effort.
        clock: a clock in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with _without_collection():
        once = {name: _warm_up(run, effort.warm_up, clock) for name, run in runs.items()}
        repeats = math.ceil(_LEAST_S / max(1e-9, min(once.values()))) if min(once.values()) < _LEAST_S else 1
        round_s = repeats * sum(once.values())
        rounds = min(effort.most, max(effort.least, math.floor(effort.seconds / round_s)))
        order = random.Random(0)
        for _ in range(rounds):
            for name in order.sample(list(runs), len(runs)):
                run = runs[name]
                start = clock()
                for _ in range(repeats):
                    run()
                seconds[name].append((clock() - start) / repeats)
    return seconds


def _warm_up(run: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Run for the warm-up time; return the seconds of the last run."""
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
    """A context without Python's garbage collection, which costs milliseconds at random times."""
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
