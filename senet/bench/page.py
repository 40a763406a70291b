"""The report of a benchmark: one HTML page with figure, table and machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.bench.show import bench_table, figure, meaning, shape_words
from senet.report import Chart, Page, Section, Table, Text, machine_facts

if TYPE_CHECKING:
    from senet.bench.measurement import Bench
    from senet.bench.rows import Row

__all__ = ["bench_page"]


def bench_page(result: Bench) -> Page:
    """The page of a benchmark, for `write_page`."""
    parts: list[Text | Chart | Table] = [Text(meaning(result))]
    if any(row.ratios for row in result.rows):
        data = [line for row in result.rows for line in _lines(row)]
        title = f"Time and memory of {result.model} with SE, relative to without (1: SE costs nothing)"
        parts.append(Chart("ratios", title, figure(result), data))
    parts.append(bench_table(result))
    return Page(
        f"What SE costs in {result.model}",
        [f"On inputs of {shape_words(result)}."],
        [Section("Cost", parts), Section("Machine", [machine_facts(result.machine)])],
        str(result.machine.get("command", "")),
    )


def _lines(row: Row) -> list[dict[str, str | int | float | None]]:
    return [
        {
            "engine": row.engine,
            "what": row.what,
            "batch": row.batch,
            "whose": name,
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
        }
        for name, ratio in row.ratios.items()
    ]
