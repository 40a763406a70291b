"""The report of an ablation: each table with its figure, and the paper's own figures in a column of their own."""

from __future__ import annotations

import dataclasses
import statistics
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.console.progress import duration
from senet.insertion.rules.findings import counted
from senet.report import COLOURS, INK, Cell, Chart, Column, Page, Section, Table, Text, cell, drawing
from senet.report.figures import GREY, short
from senet.study.ablation.ablation import Ablation, TrainedCell, errors_of, interval
from senet.study.comparison.pages import facts_of
from senet.study.comparison.report import percent
from senet.study.statistics import Corrected, points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

__all__ = ["TITLES", "ablation_page"]

TITLES = {
    "reduction": "Reduction ratio (the paper's table 10)",
    "squeeze": "Squeeze (the paper's table 11)",
    "gate": "Excitation gate (the paper's table 12)",
    "stages": "Stages (the paper's table 13)",
    "placement": "Placement (the paper's table 14)",
    "no-squeeze": "Without squeeze (the paper's table 16)",
    "bias": "Biases of the two layers",
    "grid": "Grid",
}


def ablation_page(found: Ablation) -> Page:
    """The page of an ablation, for `write_page`."""
    times, epochs = counted(found.seeds, "time"), counted(found.epochs, "epoch")
    how = (
        f"Every variant was trained {times}, from the same seeds on the same batches as the plain network, for "
        f"{epochs}; its SE started as in the paper. Accuracies are those of the last epoch, on {found.images} images "
        f"({found.split}). Differences are paired by seed; their t intervals are corrected by Holm for all "
        f"{found.comparisons} comparisons on this page, so that with 95 % probability no equal networks are told "
        f"apart. A difference is shown where neither the interval over seeds nor the one over images (paired "
        f"bootstrap, at the same confidence) contains zero; where all seeds differ alike, the one over images decides."
    )
    base = ", ".join(f"{name} {value}" for name, value in found.settings["se"].items() if value is not None)
    how += f" The standard SE, from which each variant differs in what its name says: {base}."
    return Page(
        f"Ablation of SE: {found.model} on {found.data}",
        [*found.notes, *found.lead()],
        [
            Section("How to read this", [Text(how)]),
            *(_section(found, name, first=number == 0) for number, name in enumerate(found.tables)),
            Section("Settings and machine", facts_of(found.settings, found.machine)),
        ],
    )


def _section(found: Ablation, name: str, *, first: bool) -> Section:
    cells = found.table(name)
    parts: list[Chart | Table | Text] = []
    if len(cells) > 1:
        parts.append(_chart(cells, name))
    return Section(TITLES[name], [*parts, _table(cells, name, explained=first)])


def _table(cells: Sequence[TrainedCell], name: str, *, explained: bool) -> Table:
    columns = [
        Column("variant", number=False),
        Column("accuracy (%)", help="the mean over seeds ± their standard deviation"),
        Column("− plain (points)", help="the mean difference to the plain network, with the corrected interval"),
        Column("p, corrected", help="of no difference to the plain network: paired t test, corrected by Holm"),
        Column("− standard (points)", help="the mean difference to the standard SE, with the corrected interval"),
        Column("SE blocks"),
        Column("parameters"),
        Column("multiply-adds", help="of one image"),
        Column("latency", help="time of a forward pass over that of the same network without SE, measured in turn"),
        Column("training", help="time of one training, the median"),
        Column(
            "the paper's error (%)",
            help="top-1 / top-5 on ImageNet, SE-ResNet-50, as printed in the paper: not ours, and not to be compared "
            "with the accuracies here but in their order",
        ),
    ]
    if not explained:  # once on a page
        columns = [dataclasses.replace(column, help="") for column in columns]
    rows: list[list[Any]] = [
        [
            each.cell.label,
            cell(each.mean, percent(each.mean) if each.sd is None else f"{100 * each.mean:.2f} ± {100 * each.sd:.2f}"),
            _difference(each.to_plain),
            _p(each.to_plain),
            _difference(each.to_standard),
            each.sites,
            cell(each.cost.parameters, display.count(each.cost.parameters)),
            cell(each.cost.multiply_adds, display.count(each.cost.multiply_adds)),
            cell(
                each.cost.latency_ratio, None if each.cost.latency_ratio is None else f"{each.cost.latency_ratio:.3f} ×"
            ),
            cell(statistics.median(each.seconds), duration(statistics.median(each.seconds))),
            Cell(errors_of(each) or "–", None if not errors_of(each) else float(errors_of(each).split(" / ")[0])),
        ]
        for each in cells
    ]
    return Table(f"ablation_{name}", TITLES[name], columns, rows)


def _difference(of: Corrected | None) -> Cell:
    if of is None:
        return Cell("–")
    return Cell(f"{points(of.difference.mean)} ({interval(of)})", of.difference.mean)


def _p(of: Corrected | None) -> Cell:
    if of is None or of.p_corrected is None:
        return Cell("–")
    return Cell(f"{of.p_corrected:.3f}" if of.p_corrected >= 0.001 else "< 0.001", of.p_corrected)


def _chart(cells: Sequence[TrainedCell], name: str) -> Chart:
    compared = [each for each in cells if each.to_plain is not None]
    data: list[dict[str, Any]] = []
    for each in compared:
        assert each.to_plain is not None
        of = each.to_plain.difference
        data.append({"variant": each.cell.label, "difference": of.mean, "low": of.low, "high": of.high})
    return Chart(
        f"ablation_{name}_figure",
        f"{TITLES[name]}: accuracy minus the plain network's",
        _figure(compared),
        data,
        "Grey points are the seeds; bars are the corrected intervals over seeds, where there are any.",
    )


def _figure(cells: Sequence[TrainedCell]) -> Figure:
    with drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 1.2 + 0.36 * len(cells)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for place, each in enumerate(cells):
            assert each.to_plain is not None
            of = each.to_plain.difference
            ends = (
                None if of.low is None or of.high is None else [[100 * (of.mean - of.low)], [100 * (of.high - of.mean)]]
            )
            values = [100 * value for value in of.values]
            axes.plot(values, [place] * len(values), color=GREY, marker="o", markersize=3.5, linestyle="none")
            axes.errorbar(
                [100 * of.mean], [place], xerr=ends, color=COLOURS[1], marker="D", capsize=4, linestyle="none"
            )
        axes.set_yticks(range(len(cells)), [short(each.cell.label) for each in cells])
        axes.set_ylim(len(cells) - 0.5, -0.5)
        axes.set_xlabel("accuracy − plain network's (points)")
        axes.grid(axis="x", alpha=0.3)
        return figure
