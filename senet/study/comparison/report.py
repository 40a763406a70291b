"""The result of a comparison: as values, as a table, and as result.json."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in
from senet.console import display
from senet.console.progress import duration
from senet.cost.tables import comparison_table
from senet.data import unreadable as badfiles
from senet.report.table import Cell, Column, Table, cell
from senet.study.statistics import Bootstrap, Difference, points, to_json
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from senet.cost.cost import Cost
    from senet.data.unreadable import BadFile
    from senet.insertion import Site

__all__ = ["Comparison", "Trained"]


@dataclasses.dataclass(frozen=True)
class Trained:
    """One of the two networks of a comparison, trained once per seed.

    Attributes:
        accuracy: the accuracy after the last epoch, a fraction per seed.
        seconds: the training time per seed.
        cost: the cost of one image.
        histories: for each seed, one row of metrics per epoch.
    """

    accuracy: tuple[float, ...]
    seconds: tuple[float, ...]
    cost: Cost
    histories: tuple[tuple[Mapping[str, float], ...], ...]

    @property
    def mean(self) -> float:
        """The mean accuracy over seeds."""
        return statistics.fmean(self.accuracy)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation of the accuracy over seeds; None for one seed."""
        return statistics.stdev(self.accuracy) if len(self.accuracy) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return {"accuracy": list(self.accuracy), "mean": self.mean, "sd": self.sd, "seconds": list(self.seconds)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A network without and with SE, trained from the same seeds; `str()` is a table.

    Attributes:
        folder: the folder with result.json, metrics.csv, the figures, and a folder per run.
        model: the network's name.
        data: the name of the data.
        split: the split on which accuracies are measured.
        images: the number of its images.
        monitored: the split that was measured after each epoch.
        plain: the network without SE.
        se: the network with SE.
        difference: SE - plain over seeds.
        over_images: SE - plain over images.
        verdict: one sentence.
        latency_ratio: time of a forward pass of one image with SE over that without; None if not measured.
        sites: the sites of SE.
        notes: remarks on the images and the networks.
        skipped: unreadable files.
        settings: everything that determined the result except the seeds.
        machine: the machine.
        seeds: the seeds, if they are not 0 to n - 1.
        missing: the cells that were unfinished when the report was drawn.
    """

    folder: Path
    model: str
    data: str
    split: str
    images: int
    monitored: str
    plain: Trained
    se: Trained
    difference: Difference
    over_images: Bootstrap
    verdict: str
    latency_ratio: float | None
    sites: tuple[Site, ...]
    notes: tuple[str, ...]
    skipped: tuple[BadFile, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    seeds: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[int, ...]:
        """The seeds."""
        return self.seeds or tuple(range(len(self.plain.accuracy)))

    @property
    def lead(self) -> list[str]:
        """The verdict, and unfinished cells."""
        unfinished = [f"Not finished yet: {', '.join(self.missing)}."] if self.missing else []
        return [self.verdict, *unfinished]

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json: accuracies are fractions, differences SE - plain.

        An incomplete comparison also has its seeds and missing cells.
        """
        numbers = self.numbers
        partly = self.missing or numbers != tuple(range(len(numbers)))
        return {
            **({"seeds": list(numbers), "missing": list(self.missing)} if partly else {}),
            "verdict": self.verdict,
            "plain": self.plain.to_json(),
            "se": self.se.to_json(),
            "difference": to_json(self.difference, self.over_images),
            "cost": {"plain": dataclasses.asdict(self.plain.cost), "se": dataclasses.asdict(self.se.cost)},
            "latency_ratio": self.latency_ratio,
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "sites": [dataclasses.asdict(site) for site in self.sites],
            "notes": list(self.notes),
            "bad_files": badfiles.to_json(self.skipped),
            "settings": dict(self.settings),
            "machine": dict(self.machine),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The metrics of every epoch of every run."""
        return [
            {"arm": name, "seed": seed, **row, "epoch": int(row["epoch"])}
            for name, arm in (("plain", self.plain), ("se", self.se))
            for seed, history in zip(self.numbers, arm.histories, strict=True)
            for row in history
        ]

    @property
    def block(self) -> str:
        """The block that is compared with the plain network: "SE", or the maker's name."""
        return block_in(self.settings)

    @property
    def time_ratio(self) -> float:
        """The median training time with SE over that without."""
        return statistics.median(self.se.seconds) / statistics.median(self.plain.seconds)

    @property
    def times(self) -> str:
        """The median training times, in words."""
        plain, se = (duration(statistics.median(arm.seconds)) for arm in (self.plain, self.se))
        return f"Training time of a run, the median: {plain} plain, {se} with {self.block} ({self.time_ratio:.2f} ×)"

    def __str__(self) -> str:
        return display.plain_text(*self.parts())

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        title = (
            f"Accuracy of {self.model} on {self.data} ({self.split}: {self.images} images), last of "
            f"{counted(len(self.plain.histories[0]), 'epoch')}"
        )
        se, width = self.settings["se"], ""
        if self.block == "SE":
            width = f", reduction ratio {se['reduction_ratio']}" if se["width"] is None else f", width {se['width']}"
        return [
            *self.notes,
            f"{self.block} at {counted(len(self.sites), 'site')}{width}, start {se['start']}",
            self.accuracy_table(title),
            *self._intervals(),
            "",
            comparison_table(self.plain.cost, self.se.cost, "Cost of one image", self.block),
            self.times,
            "",
            *self.lead,
            f"Report: {self.folder}/report.html",
            *badfiles.listed(self.skipped),
        ]

    def accuracy_table(self, title: str, name: str = "accuracy") -> Table:
        """Accuracy per seed and, for several seeds, the mean in the last row."""
        less = f"{self.block} − plain"
        columns = [
            Column("seed", number=False),
            *(Column(f"{what} (%)", csv=f"{what} (fraction)", short=what) for what in ("plain", f"with {self.block}")),
            Column(f"{less} (points)", csv=f"{less} (fraction)", short=less),
        ]
        pairs = zip(self.numbers, self.plain.accuracy, self.se.accuracy, self.difference.values, strict=True)
        rows: list[list[Cell | int]] = [
            [seed, cell(plain, percent(plain)), cell(se, percent(se)), cell(difference, points(difference))]
            for seed, plain, se, difference in pairs
        ]
        foot: list[list[Cell | int]] = []
        if self.difference.sd is not None:
            of = f"{points(self.difference.mean)} ± {100 * self.difference.sd:.2f}"
            arms = (cell(arm.mean, spread(arm.mean, arm.sd)) for arm in (self.plain, self.se))
            foot.append([Cell("mean ± sd"), *arms, cell(self.difference.mean, of)])
        return Table(name, title, columns, rows, foot=foot)

    def _intervals(self) -> list[str]:
        seeds, images = self.difference, self.over_images
        over_seeds = (
            "none (one seed)"
            if seeds.sd is None
            else "none (no spread)"
            if seeds.low is None or seeds.high is None
            else f"{interval(seeds)} points"
        )
        share = f"{100 * seeds.confidence:g} %"
        return [
            f"{self.block} − plain: {points(seeds.mean)} points",
            f"  {share} interval over {counted(len(seeds.values), 'seed')} (paired t): {over_seeds}",
            f"  {share} interval over {images.images} images (paired bootstrap): {interval(images)} points",
        ]


def percent(fraction: float) -> str:
    """A fraction in per cent, to two places: 93.04 %."""
    return f"{100 * fraction:.2f} %"


def spread(mean: float, sd: float | None) -> str:
    """A mean over seeds with their standard deviation: 93.04 ± 0.12 %."""
    return percent(mean) if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f} %"


def difference_columns(what: str, short: str, help_: str = "") -> list[Column]:
    """Columns for a difference in points, and in the CSV the ends of its interval too, as fractions."""
    return [
        Column(f"{what} (points)", csv=f"{what} (fraction)", short=short, help=help_),
        *(Column(f"{what}, {end} (fraction)", shown=False) for end in ("low", "high")),
    ]


def interval(of: Difference | Bootstrap) -> str:
    """An interval in points."""
    return "none" if of.low is None or of.high is None else f"{points(of.low)} to {points(of.high)}"
