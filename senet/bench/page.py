"""The report of a measurement: one HTML page with the figure, the table and the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.bench.cases import ENGINES
from senet.bench.contestants import OURS, PEER, PEER_OPTIMIZED
from senet.bench.show import figure, meaning, plain_words
from senet.report import Cell, Chart, Column, Page, Section, Table, Text, cell, drawing, machine_facts

if TYPE_CHECKING:
    from senet.bench.measurement import Bench
    from senet.bench.rows import Ratio, Row

__all__ = ["bench_page"]


def bench_page(result: Bench) -> Page:
    """The page of a measurement, for `write_page`."""
    shown = [name for name in (OURS, PEER, PEER_OPTIMIZED) if any(name in row.ratios for row in result.rows)]
    words = {OURS: "ours", PEER: result.peer, PEER_OPTIMIZED: f"{result.peer}, optimized"}
    columns = [
        Column("what", number=False),
        Column("engine", number=False),
        Column("batch"),
        Column("plain", help="the network without SE: a time, bytes or images"),
        *(Column(f"{words[name]} / plain", help="with its 95 % interval, where there is one") for name in shown),
        Column("rounds", help="in each of which all run one after the other"),
        Column("note", number=False),
    ]
    rows = [
        [
            row.what,
            ENGINES[row.engine].words,
            row.batch or None,
            cell(row.plain, plain_words(row)),
            *(_ratio(row.ratios.get(name)) for name in shown),
            row.rounds or None,
            row.note,
        ]
        for row in result.rows
    ]
    parts: list[Text | Chart | Table] = [Text(meaning(result))]
    if any(row.ratios for row in result.rows):
        with drawing():
            drawn = figure(result)
        data = [line for row in result.rows for line in _lines(row)]
        title = f"Over {result.model} without SE; 1 is what costs nothing"
        parts.append(Chart("ratios", title, drawn, data))
    parts.append(Table("bench", "All cases", columns, rows))
    size = " × ".join(map(str, result.example[1:]))
    return Page(
        f"What SE costs in {result.model}",
        [f"On inputs of {size}."],
        [Section("Cost", parts), Section("Machine", [machine_facts(result.machine)])],
    )


def _ratio(ratio: Ratio | None) -> Cell:
    return Cell("–") if ratio is None else Cell(str(ratio), ratio.value)


def _lines(row: Row) -> list[dict[str, str | int | float | None]]:
    return [
        {
            "what": row.what,
            "engine": row.engine,
            "batch": row.batch,
            "whose": name,
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
        }
        for name, ratio in row.ratios.items()
    ]
