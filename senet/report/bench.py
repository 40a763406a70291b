"""The report of a benchmark: what was timed, and the ratios with their intervals."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from senet.report.figures import COLOURS, INK, drawing
from senet.report.page import Cell, Chart, Column, Facts, Page, Section, Table, Text, cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

__all__ = ["Timing", "bench_page", "machine_facts"]


@dataclasses.dataclass(frozen=True)
class Timing:
    """One thing that was timed.

    Attributes:
        where: what it was, such as {"network": "se_resnet50", "engine": "eager", "batch": 16}; all timings of a
            benchmark have the same keys.
        variant: which of those that are compared there: "plain", "senet", "timm".
        seconds: of one pass, the median.
        ratio: of its time to the baseline's, the median of paired ratios; None for the baseline itself.
        low: the lower end of the ratio's interval; None where there is none.
        high: its upper end.
        more: further numbers, such as {"activation bytes": 123456}.
    """

    where: Mapping[str, str | int]
    variant: str
    seconds: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    more: Mapping[str, str | int | float | None] = dataclasses.field(default_factory=dict)


def bench_page(
    timings: Sequence[Timing],
    *,
    title: str,
    lead: Sequence[str] = (),
    command: str = "",
    machine: Mapping[str, object],
    baseline: str = "plain",
    confidence: float = 0.95,
) -> Page:
    """The page of a benchmark, for `write_page`: the ratios as a figure, every timing in a table, the machine.

    Args:
        timings: in the order in which they are to stand.
        title: of the page.
        lead: the outcome in sentences.
        command: that makes it again.
        machine: what it ran on, as `senet.study.machine.machine` has it.
        baseline: the variant that ratios are to.
        confidence: of the ratios' intervals.

    Raises:
        ValueError: where there is no timing, or two have other keys in `where`.
    """
    if not timings:
        raise ValueError("a benchmark's report needs at least one timing")
    keys = list(timings[0].where)
    for timing in timings:
        if list(timing.where) != keys:
            raise ValueError(f"all timings say of themselves {keys}; one says {list(timing.where)}")
    more = list(dict.fromkeys(name for timing in timings for name in timing.more))
    share = f"{100 * confidence:g} %"
    columns = [
        *(Column(key, number=all(isinstance(timing.where[key], int) for timing in timings)) for key in keys),
        Column("variant", number=False),
        Column("time (ms)", help="of one pass, the median"),
        Column(f"ratio to {baseline}", help="of times measured in turn, the median of paired ratios"),
        Column(f"{share} interval", help="of that ratio"),
        *(Column(name) for name in more),
    ]
    rows = [
        [
            *timing.where.values(),
            timing.variant,
            cell(1e3 * timing.seconds, f"{1e3 * timing.seconds:.4g}"),
            cell(timing.ratio, None if timing.ratio is None else f"{timing.ratio:.3f} ×"),
            _interval(timing),
            *(cell(timing.more.get(name)) for name in more),
        ]
        for timing in timings
    ]
    compared = [timing for timing in timings if timing.ratio is not None]
    parts: list[Chart | Table | Text] = []
    if compared:
        parts.append(
            Chart(
                "bench_ratios",
                f"Time over that of {baseline}, with {share} interval",
                _ratios(compared, baseline),
                [{**t.where, "variant": t.variant, "ratio": t.ratio, "low": t.low, "high": t.high} for t in compared],
                "Left of the line is faster. Networks were run in turn, so that what else the machine does meets all.",
            )
        )
    parts.append(Table("bench", "All timings", columns, rows))
    return Page(title, lead, [Section("Time", parts), Section("Machine", [machine_facts(machine)])], command)


def machine_facts(machine: Mapping[str, object]) -> Facts:
    """What a study or a benchmark ran on, for a page."""
    return Facts([(name, str(value)) for name, value in machine.items()])


def _interval(timing: Timing) -> Cell:
    if timing.low is None or timing.high is None:
        return Cell("–")
    return Cell(f"{timing.low:.3f} to {timing.high:.3f}", f"{timing.low} to {timing.high}")


def _ratios(timings: Sequence[Timing], baseline: str) -> Figure:
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 1.2 + 0.32 * len(timings)), layout="constrained")
        axes = figure.subplots()
        variants = list(dict.fromkeys(timing.variant for timing in timings))
        for place, timing in enumerate(timings):
            assert timing.ratio is not None
            ends = None
            if timing.low is not None and timing.high is not None:
                ends = [[timing.ratio - timing.low], [timing.high - timing.ratio]]
            index = variants.index(timing.variant)
            first = [t.variant for t in timings].index(timing.variant) == place
            axes.errorbar(
                [timing.ratio],
                [place],
                xerr=ends,
                color=COLOURS[(index + 1) % len(COLOURS)],
                marker="osDv^P"[index % 6],
                capsize=4,
                linestyle="none",
                label=timing.variant if first else None,
            )
        axes.axvline(1, color=INK, linewidth=1)
        names = [", ".join(str(value) for value in timing.where.values()) for timing in timings]
        axes.set_yticks(range(len(timings)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"time / time of {baseline} (median of paired ratios)")
        axes.grid(axis="x", alpha=0.3)
        if len(variants) > 1:
            figure.legend(loc="outside upper center", ncols=len(variants))
        return figure
