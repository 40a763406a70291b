"""The figure of a paired difference, for comparisons and judgements."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from senet.report.figures import COLOURS, GREY, INK, Series, forest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from senet.study.statistics import Bootstrap, Difference

__all__ = ["paired_figure"]


def paired_figure(
    numbers: Sequence[int], seeds: Difference, over: Bootstrap | None, what: str, *, xlabel: str, scale: float = 1
) -> Figure:
    """The difference per seed, and its mean with the interval over seeds and, if there is one, over `what`."""
    share = f"{100 * seeds.confidence:g} %"
    none = [None] * len(seeds.values)
    over_seeds = f"mean, {share} interval over seeds" if seeds.low is not None else "mean (no interval over seeds)"
    names = [*(f"seed {number}" for number in numbers), "mean, over seeds"]
    series = [
        Series("each seed", [*((value, None, None) for value in seeds.values), None], COLOURS[1]),
        Series(over_seeds, [*none, (seeds.mean, seeds.low, seeds.high)], INK, "D"),
    ]
    if over is not None:
        names.append(f"mean, over {what}")
        series = [dataclasses.replace(each, points=[*each.points, None]) for each in series]
        ends = (over.mean, over.low, over.high)
        series.append(Series(f"mean, {share} interval over {over.images} {what}", [*none, None, ends], GREY, "D"))
    return forest(names, series, xlabel=xlabel, scale=scale)
