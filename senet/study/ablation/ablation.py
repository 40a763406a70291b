"""The result of an ablation: as values, as tables, as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.console.progress import duration
from senet.report.table import Cell, Column, Table, cell
from senet.study.ablation.published import PLAIN, Published
from senet.study.comparison.report import difference_columns, interval, spread
from senet.study.statistics import Bootstrap, Corrected, differs, points
from senet.words import counted

if TYPE_CHECKING:
    from senet.cost.cost import Cost
    from senet.study.ablation.grid import Cell as Variant

__all__ = ["Ablation", "TrainedCell"]

_DIFFERENCE = "the mean difference to {}, with the corrected interval"


@dataclasses.dataclass(frozen=True)
class TrainedCell:
    """One variant, trained once per seed.

    Attributes:
        cell: the variant.
        accuracy: the accuracy after the last epoch, a fraction per seed.
        seconds: the training time per seed.
        cost: the cost of one image, with the latency ratio to the same network without SE.
        sites: the number of its SE blocks.
        to_plain: its accuracy minus the plain network's, corrected; None for the plain network.
        over_images: that difference over images, at the corrected confidence; None for the plain network.
        to_standard: its accuracy minus that of the standard SE, corrected; None for plain and standard.
    """

    cell: Variant
    accuracy: tuple[float, ...]
    seconds: tuple[float, ...]
    cost: Cost
    sites: int
    to_plain: Corrected | None = None
    over_images: Bootstrap | None = None
    to_standard: Corrected | None = None

    @property
    def mean(self) -> float:
        """The mean accuracy over seeds."""
        return statistics.fmean(self.accuracy)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation of the accuracy over seeds; None for one seed."""
        return statistics.stdev(self.accuracy) if len(self.accuracy) > 1 else None

    @property
    def shown(self) -> bool:
        """Whether a difference to the plain network is shown at the corrected confidence, by `differs`."""
        return self.to_plain is not None and differs(self.to_plain.difference, self.over_images)

    def verdict(self) -> str:
        """One sentence: better or worse than the plain network, or no difference shown."""
        if self.to_plain is None:
            return f"{self.cell.label}: what the others are compared with."
        of = self.to_plain.difference
        if not self.shown:
            return f"{self.cell.label}: no difference to the plain network is shown ({points(of.mean)} points)."
        word = "better" if of.mean > 0 else "worse"
        return f"{self.cell.label}: {word} than the plain network by {abs(100 * of.mean):.2f} points."


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Variants of SE in one network, trained from the same seeds on the same batches; `str()` is a table.

    Attributes:
        folder: the folder with report.html, result.json, and a folder per run.
        model: the network's name.
        data: the name of the data.
        split: the split on which accuracies are measured.
        images: the number of its images.
        seeds: the number of trainings per variant.
        epochs: the epochs of a training.
        cells: the plain network, the standard SE, and the others, by key.
        tables: the cells of each table, by its name.
        impossible: variants that this network does not allow, with reasons.
        comparisons: the number of comparisons for which intervals are corrected.
        settings: everything that determined the result except seeds and grid.
        machine: the machine.
        notes: remarks on the network and the images.
        missing: the cells that were unfinished when the report was drawn.
    """

    folder: Path
    model: str
    data: str
    split: str
    images: int
    seeds: int
    epochs: int
    cells: Mapping[str, TrainedCell]
    tables: Mapping[str, tuple[str, ...]]
    impossible: Mapping[str, str]
    comparisons: int
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    notes: tuple[str, ...]
    missing: tuple[str, ...] = ()

    def table(self, name: str) -> list[TrainedCell]:
        """The cells of a table, with the plain network first and always the standard SE."""
        keys = dict.fromkeys(("plain", *self.tables[name], "se"))
        return [self.cells[key] for key in keys if key in self.cells]

    def lead(self) -> list[str]:
        """The outcome in sentences."""
        if self.seeds == 1:
            outcome = (
                "With one seed no difference can be shown, since another training may come out differently: "
                "--seeds 3 or more continues in this folder."
            )
        else:
            outcome = (
                f"{sum(cell.shown for cell in self.cells.values())} of {len(self.cells) - 1} variants of SE differ "
                f"from the plain network, as far as {self.seeds} seeds and {self.images} images show."
            )
        return [
            *(cell.verdict() for cell in self.cells.values() if cell.to_plain is not None and cell.shown),
            outcome,
            *([f"Not finished yet: {', '.join(self.missing)}."] if self.missing else []),
            *(f"{name} is not possible in this network: {why}" for name, why in self.impossible.items()),
        ]

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), width=display.LOG_WIDTH)

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        title = (
            f"{self.model} on {self.data} ({self.split}: {self.images} images), last of "
            f"{counted(self.epochs, 'epoch')}, {counted(self.seeds, 'seed')}"
        )
        shown: list[str | Table] = [*self.notes, title, *(self.cells_table(name, name) for name in self.tables)]
        shown.append(
            f"− plain, − standard: points of accuracy; intervals over seeds (paired t), corrected for all "
            f"{self.comparisons} comparisons by Holm. The paper's: top-1 / top-5 error in %, SE-ResNet-50, ImageNet."
        )
        return [*shown, "", *self.lead(), f"Report: {self.folder}/report.html"]

    def cells_table(self, name: str, title: str) -> Table:
        """A table of the ablation with one row per cell."""
        columns = [
            Column("variant", number=False),
            Column(
                "accuracy (%)",
                csv="accuracy (fraction)",
                short="accuracy",
                help="the mean over seeds ± their standard deviation",
            ),
            Column("accuracy, sd (fraction)", shown=False),
            *difference_columns("− plain", "− plain", _DIFFERENCE.format("the plain network")),
            Column(
                "p, corrected", short="", help="of no difference to the plain network: paired t test, corrected by Holm"
            ),
            *(Column(f"− plain, over images, {end} (fraction)", shown=False) for end in ("low", "high")),
            *difference_columns("− standard", "− standard", _DIFFERENCE.format("the standard SE")),
            Column("SE blocks", short=""),
            Column("parameters"),
            Column("multiply-adds", help="of one image"),
            Column("latency", help="time of a forward pass over that of the same network without SE, measured in turn"),
            Column("training", csv="training (s)", short="", help="time of one training, the median"),
            Column(
                "the paper's error (%)",
                csv="the paper's top-1 error (fraction)",
                short="the paper's error",
                help="top-1 / top-5 on ImageNet, SE-ResNet-50, as printed in the paper: not ours, and not to be "
                "compared with the accuracies here but in their order",
            ),
            Column("the paper's top-5 error (fraction)", shown=False),
        ]
        return Table(f"ablation_{name}", title, columns, [_row(each) for each in self.table(name)])

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json: accuracies are fractions, differences in fractions."""
        return {
            "cells": {
                key: {
                    "label": cell.cell.label,
                    "se": None if cell.cell.spec is None else cell.cell.spec.to_json(),
                    "stages": cell.cell.stages,
                    "sites": cell.sites,
                    "accuracy": list(cell.accuracy),
                    "mean": cell.mean,
                    "sd": cell.sd,
                    "seconds": list(cell.seconds),
                    "minus_plain": _to_json(cell.to_plain),
                    "minus_plain_over_images": None
                    if cell.over_images is None
                    else dataclasses.asdict(cell.over_images),
                    "minus_standard": _to_json(cell.to_standard),
                    "difference_shown": cell.shown,
                    "cost": dataclasses.asdict(cell.cost),
                    "paper_imagenet_error": (row := published_of(cell)) and dataclasses.asdict(row),
                }
                for key, cell in self.cells.items()
            },
            "tables": {name: list(keys) for name, keys in self.tables.items()},
            "impossible": dict(self.impossible),
            "comparisons": self.comparisons,
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "seeds": self.seeds,
            "epochs": self.epochs,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "notes": list(self.notes),
            **({"missing": list(self.missing)} if self.missing else {}),
        }


def published_of(cell: TrainedCell) -> Published | None:
    """The paper's row for a cell, including the plain network."""
    return PLAIN if cell.cell.spec is None else cell.cell.published


def _to_json(of: Corrected | None) -> dict[str, Any] | None:
    if of is None:
        return None
    return {**dataclasses.asdict(of.difference), "p": of.p, "p_corrected": of.p_corrected}


def _difference(of: Corrected | None, *, short: bool = False) -> list[Cell]:
    """Cells for a difference with its interval, which `short` leaves out in a terminal, and its ends."""
    if of is None:
        return [Cell("–")] * 3
    own = of.difference
    mean = points(own.mean)
    shown = Cell(f"{mean} ({interval(own)})", own.mean, mean if short else None)
    return [shown, cell(own.low), cell(own.high)]


def _p(of: Corrected | None) -> Cell:
    if of is None or of.p_corrected is None:
        return Cell("–")
    return Cell(f"{of.p_corrected:.3f}" if of.p_corrected >= 0.001 else "< 0.001", of.p_corrected)


def _row(each: TrainedCell) -> list[Cell]:
    latency, seconds, row = each.cost.latency_ratio, statistics.median(each.seconds), published_of(each)
    paper = [cell(None)] * 2
    if row is not None:
        paper = [cell(round(row.top1 / 100, 6), f"{row.top1:.2f} / {row.top5:.2f}"), cell(round(row.top5 / 100, 6))]
    images = each.over_images
    return [
        Cell(each.cell.label),
        cell(each.mean, spread(each.mean, each.sd)),
        cell(each.sd),
        *_difference(each.to_plain),
        _p(each.to_plain),
        *((cell(None),) * 2 if images is None else (cell(images.low), cell(images.high))),
        *_difference(each.to_standard, short=True),
        cell(each.sites),
        cell(each.cost.parameters, display.count(each.cost.parameters)),
        cell(each.cost.multiply_adds, display.count(each.cost.multiply_adds)),
        cell(latency, None if latency is None else f"{latency:.3f} ×"),
        cell(seconds, duration(seconds)),
        *paper,
    ]
