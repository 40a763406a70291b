"""The table and the figure of a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from senet.bench.cases import ENGINES, KEPT, LARGEST
from senet.bench.contestants import AS_INSERTED, OURS, PEER, PEER_OPTIMIZED
from senet.console import display
from senet.files.atomic import atomic_write
from senet.report import Cell, Column, Series, Table, cell, forest
from senet.report.figures import COLOURS as PALETTE
from senet.report.figures import save_figure
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from senet.bench.measurement import Bench
    from senet.bench.rows import Ratio, Row

__all__ = [
    "bench_table",
    "figure",
    "machine_line",
    "markdown",
    "meaning",
    "parts",
    "shape_words",
    "write_figures",
    "write_table",
    "write_texts",
]

COLOURS = {PEER: PALETTE[0], PEER_OPTIMIZED: PALETTE[3], AS_INSERTED: PALETTE[2], OURS: PALETTE[1]}
MARKERS = {OURS: "o", AS_INSERTED: "^", PEER_OPTIMIZED: "D", PEER: "s"}


def parts(result: Bench) -> list[str | Table]:
    """The table, the machine, and the meaning of the figures."""
    return [bench_table(result), meaning(result), machine_line(result.machine)]


def bench_table(result: Bench) -> Table:
    """One row per case, with ratios to the network without SE."""
    words = _words(result)
    shown = [name for name in words if any(name in row.ratios for row in result.rows)]
    columns = [
        # First what tells rows apart: on a phone it stays in sight while the others scroll.
        Column("engine", number=False),
        Column("what", number=False),
        Column("batch"),
        Column("plain", help="the network without SE: a time, bytes or images"),
    ]
    for name in shown:
        help_ = "with its 95 % interval, where there is one"
        if name == AS_INSERTED:
            help_ += "; not optimized, over the plain network with its normalisations not folded"
        over = f"{words[name]} / plain"
        columns.append(Column(over, short=words[name], help=help_))
        columns += [Column(f"{over}, {end}", shown=False) for end in ("low", "high")]
    columns += [
        Column("rounds", help="in each of which all run one after the other", short=""),
        Column("note", number=False),
    ]
    rows = [
        [
            ENGINES[row.engine].words,
            row.what,
            row.batch or None,
            cell(row.plain, plain_words(row)),
            *(each for name in shown for each in _ratio(row.ratios.get(name))),
            row.rounds or None,
            row.remark,
        ]
        for row in result.rows
    ]
    title = f"What SE costs in {result.model}, over the network without it, on inputs of {shape_words(result)}"
    return Table("bench", title, columns, rows)


def _words(result: Bench) -> dict[str, str]:
    """The contestants for readers, in the order of the columns."""
    optimized = f"{result.peer}, optimized"
    return {OURS: "ours", AS_INSERTED: "ours, as inserted", PEER: result.peer, PEER_OPTIMIZED: optimized}


def _ratio(ratio: Ratio | None) -> list[Cell]:
    if ratio is None:
        return [cell(None)] * 3
    return [Cell(str(ratio), ratio.value), cell(ratio.low), cell(ratio.high)]


def write_table(result: Bench, folder: Path) -> None:
    """Write the table as table.txt and, for a page, as table.md."""
    text = display.plain_text(*parts(result), width=display.LOG_WIDTH)
    write_texts(folder, {"table.txt": text, "table.md": markdown(result)})


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write texts to files of these names in a folder."""
    for name, text in texts.items():
        with atomic_write(folder / name, follow=False) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def markdown(result: Bench) -> str:
    """The table as Markdown."""
    return bench_table(result).markdown()


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line."""
    shown = ("torch", "onnxruntime", "openvino", "executorch", "ai-edge-litert", "ncnn", "timm")
    versions = [f"{name} {machine[name]}" for name in shown if name in machine]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    units = ", ".join(counted(machine[f"{each}s"], each) for each in ("core", "thread"))
    return f"Machine: {machine['processor']}, {units}, {machine['instructions']}{device}; {', '.join(versions)}."


def meaning(result: Bench) -> str:
    """The meaning of the figures, in a sentence or two."""
    rounds = [row.rounds for row in result.rows if row.rounds]
    numbers = " to ".join(map(str, dict.fromkeys((min(rounds), max(rounds))))) if rounds else ""
    how = f", {numbers} rounds of all in turn" if rounds else ""
    quick = " Measured in a hurry (--quick)." if result.quick else ""
    return f"Median of the ratios round by round [95 % interval]{how}. The peer is {result.peer}.{quick}"


def plain_words(row: Row) -> str:
    """The plain network's measurement with its unit."""
    if row.plain is None:
        return "–"
    if row.what == KEPT:
        return display.bytes_of(int(row.plain))
    if row.what == LARGEST:
        return f"{int(row.plain)} images"
    return f"{1000 * row.plain:.1f} ms" if row.plain < 1 else f"{row.plain:.2f} s"


def shape_words(result: Bench) -> str:
    """The size of an input: 3 × 224 × 224."""
    return " × ".join(map(str, result.example[1:]))


def write_figures(result: Bench, folder: Path) -> None:
    """Write the figure as .svg and .png, if there is anything to draw."""
    if not any(row.ratios for row in result.rows):
        return
    for kind in ("svg", "png"):
        save_figure(figure(result), folder / f"figure.{kind}")


def figure(result: Bench) -> Figure:
    """One line per case with ours and the peer's ratio and interval, against the network without SE."""
    rows = [row for row in result.rows if row.ratios]
    words = _words(result)
    series = [
        Series(words[name], [_point(row.ratios.get(name)) for row in rows], colour, MARKERS[name])
        for name, colour in COLOURS.items()
        if any(name in row.ratios for row in rows)
    ]
    xlabel = f"relative to {result.model} without SE (1: SE costs nothing)"
    return forest([_label(row) for row in rows], series, xlabel=xlabel, at=1)


def _point(ratio: Ratio | None) -> tuple[float, float | None, float | None] | None:
    return None if ratio is None else (ratio.value, ratio.low, ratio.high)


def _label(row: Row) -> str:
    engine = ENGINES[row.engine].words
    if row.what == LARGEST:
        return f"{engine}, {row.what} (more is better)"
    return f"{engine}, {row.what}, batch {row.batch}"
