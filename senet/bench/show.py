"""The table and the figure of a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.bench.cases import ENGINES, INFERENCE, KEPT, LARGEST
from senet.bench.contestants import OURS, PEER, PEER_OPTIMIZED
from senet.console import display
from senet.files.atomic import atomic_write
from senet.report.figures import INK, save_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from senet.bench.measurement import Bench
    from senet.bench.rows import Row

__all__ = ["figure", "machine_line", "markdown", "meaning", "parts", "plain_words", "write_figures", "write_table"]

COLOURS = {OURS: "#D55E00", PEER_OPTIMIZED: "#CC79A7", PEER: "#0072B2"}  # of Okabe and Ito's
MARKERS = {OURS: "o", PEER_OPTIMIZED: "D", PEER: "s"}


def parts(result: Bench) -> list[RenderableType]:
    """The table, and below it the machine and what the figures mean."""
    columns, rows = _cells(result)
    title = f"What SE costs in {result.model}, over the network without it, on inputs of {_shape(result)}"
    return [
        display.table(title, columns, rows, numbers=range(2, len(columns) - 1)),
        meaning(result),
        machine_line(result),
    ]


def write_table(result: Bench, folder: Path) -> None:
    """Write the table as table.txt and, for a page, as table.md."""
    texts = {"table.txt": display.plain_text(*parts(result), width=display.LOG_WIDTH), "table.md": markdown(result)}
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def markdown(result: Bench) -> str:
    """The table for a page."""
    columns, rows = _cells(result)
    lines = [columns, ["---"] * 2 + ["---:"] * (len(columns) - 3) + ["---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(result: Bench) -> str:
    """What it was measured on, in a line."""
    machine = result.machine
    versions = [f"{name} {machine[name]}" for name in ("torch", "onnxruntime", "openvino", "timm") if name in machine]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return (
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['instructions']}{device}; {', '.join(versions)}."
    )


def meaning(result: Bench) -> str:
    """What the figures are, in a sentence or two."""
    rounds = [row.rounds for row in result.rows if row.rounds]
    how = f", {min(rounds)} to {max(rounds)} rounds of all in turn" if rounds else ""
    quick = " Measured in a hurry (--quick)." if result.quick else ""
    return f"Median of the ratios round by round [95 % interval]{how}. The peer is {result.peer}.{quick}"


def _cells(result: Bench) -> tuple[list[str], list[list[str]]]:
    shown = [name for name in (OURS, PEER, PEER_OPTIMIZED) if any(name in row.ratios for row in result.rows)]
    words = {OURS: "ours", PEER: result.peer, PEER_OPTIMIZED: f"{result.peer}, optimized"}
    columns = ["", "engine", "batch", "plain", *(words[name] for name in shown), "note"]
    rows = []
    for row in result.rows:
        ratios = [str(row.ratios[name]) if name in row.ratios else "–" for name in shown]
        batch = str(row.batch) if row.batch else "–"
        rows.append([row.what, ENGINES[row.engine].words, batch, plain_words(row), *ratios, row.note])
    return columns, rows


def plain_words(row: Row) -> str:
    """What was measured of the plain network, with its unit."""
    if row.plain is None:
        return "–"
    if row.what == KEPT:
        return display.bytes_of(int(row.plain))
    if row.what == LARGEST:
        return f"{int(row.plain)} images"
    return f"{1000 * row.plain:.1f} ms" if row.plain < 1 else f"{row.plain:.2f} s"


def _shape(result: Bench) -> str:
    return " × ".join(map(str, result.example[1:]))


def write_figures(result: Bench, folder: Path) -> None:
    """Write the figure as .svg and .png; without matplotlib, or without a figure to draw, none."""
    if not any(row.ratios for row in result.rows):
        return
    for kind in ("svg", "png"):
        save_figure(figure(result), folder / f"figure.{kind}")


def figure(result: Bench) -> Figure:
    """Each case a line: ours and the peer's as points with their intervals, against the network without SE."""
    from matplotlib.figure import Figure

    rows = [row for row in result.rows if row.ratios]
    drawn = Figure(figsize=(8.5, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(1, color=INK, linewidth=1)
    words = {OURS: "ours", PEER: result.peer, PEER_OPTIMIZED: f"{result.peer} through senet.optimize"}
    names = [name for name in (PEER, PEER_OPTIMIZED, OURS) if any(name in row.ratios for row in rows)]
    for number, name in enumerate(names):
        found = [(at, row.ratios[name]) for at, row in enumerate(rows) if name in row.ratios]
        shift = 0.22 * (number - (len(names) - 1) / 2)
        heights = [at - shift for at, _ in found]
        values = [ratio.value for _, ratio in found]
        ends = [
            [value - (ratio.low or value) for value, (_, ratio) in zip(values, found, strict=True)],
            [(ratio.high or value) - value for value, (_, ratio) in zip(values, found, strict=True)],
        ]
        axes.errorbar(
            values,
            heights,
            xerr=ends,
            fmt=MARKERS[name],
            color=COLOURS[name],
            markersize=5,
            elinewidth=1.4,
            label=words[name],
        )
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"over {result.model} without SE (1: SE costs nothing)")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return drawn


def _label(row: Row) -> str:
    engine = ENGINES[row.engine].words
    if row.what == INFERENCE:
        return f"{engine}, batch {row.batch}"
    if row.what == KEPT:
        return f"bytes kept for backward, batch {row.batch}"
    if row.what == LARGEST:
        return "largest batch that fits (more is better)"
    return f"training step, {engine}, batch {row.batch}"
