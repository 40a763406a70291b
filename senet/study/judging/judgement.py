"""The result of judging a training: as values, as a table, as result.json, and as a page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in
from senet.console import display
from senet.console.progress import duration
from senet.errors import MissingPackageError
from senet.extras import how_to_install
from senet.report.table import Cell, Column, Table, cell
from senet.study.judging.verdict import Measure, Verdict, fixed, places
from senet.words import counted

if TYPE_CHECKING:
    from senet.report.page import Chart, Page

__all__ = ["Arm", "Judgement", "arm_names", "judgement_page", "write_judgement"]


def arm_names(control: bool, block: str) -> tuple[str, str]:
    """The names of the two arms; `control` compares plain with plain."""
    return "plain", "plain again" if control else f"with {block}"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the two arms, trained once per seed.

    Attributes:
        name: "plain", "with SE", or "plain again" for a control.
        scores: the score of each seed, in its unit.
        seconds: the training time per seed.
        cost: parameters and multiply-adds of the network on its example; None if they could not be counted.
    """

    name: str
    scores: tuple[float, ...]
    seconds: tuple[float, ...]
    cost: Mapping[str, int] | None

    @property
    def mean(self) -> float:
        """The mean score over seeds."""
        return statistics.fmean(self.scores)

    @property
    def sd(self) -> float | None:
        """The sample standard deviation of the scores over seeds; None for one seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json."""
        return {"scores": list(self.scores), "mean": self.mean, "sd": self.sd, "seconds": list(self.seconds)}


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The judgement of a user's training without and with SE; `str()` is a table.

    Attributes:
        folder: the folder with report.html, result.json, and a folder per training.
        code: the training's name.
        measure: the score's name, unit and direction.
        seeds: the seeds with both arms trained.
        plain: the arm without SE.
        se: the arm with SE; in a control, the plain network trained from other seeds.
        verdict: the verdict.
        control: whether plain was compared with plain.
        failed: failed trainings, with reasons.
        missing: unfinished trainings.
        sites: the sites of SE.
        notes: remarks on the trainings.
        settings: everything that determined the result except the seeds.
        machine: the machine.
    """

    folder: Path
    code: str
    measure: Measure
    seeds: tuple[int, ...]
    plain: Arm
    se: Arm
    verdict: Verdict
    control: bool
    failed: Mapping[str, str]
    missing: tuple[str, ...]
    sites: tuple[str, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json: scores in their unit, differences as SE - plain."""
        found = self.verdict
        return {
            "study": "judge",
            "verdict": found.text,
            "difference_shown": found.shown,
            "power": found.power,
            "score": self.measure.score,
            "unit": self.measure.unit,
            "higher_is_better": self.measure.higher_is_better,
            "control": self.control,
            "seeds": list(self.seeds),
            "plain": self.plain.to_json(),
            "se": self.se.to_json(),
            "difference": {
                **{name: getattr(found.difference, name) for name in ("mean", "sd", "low", "high", "confidence")},
                "per_seed": list(found.difference.values),
                "examples": None if found.examples is None else _examples(found.examples),
            },
            "cost": {"plain": self.plain.cost, "se": self.se.cost},
            "sites": list(self.sites),
            "failed": dict(self.failed),
            "missing": list(self.missing),
            "notes": [*found.notes, *self.notes],
            "settings": dict(self.settings),
            "machine": dict(self.machine),
        }

    def __str__(self) -> str:
        return display.plain_text(*self.parts())

    @property
    def block(self) -> str:
        """The name of the inserted block."""
        return block_in(self.settings)

    @property
    def lead(self) -> list[str]:
        """The outcome in sentences."""
        text = self.verdict.text
        if self.control:
            text = f"Control, plain against plain: differences here are due to chance. {text}"
        failed = [f"{name} {why}" for name, why in self.failed.items()]
        missing = [f"Not finished yet: {', '.join(self.missing)}."] if self.missing else []
        return [text, *filter(None, [self.verdict.power]), *self.verdict.notes, *self.notes, *failed, *missing]

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        sites = [] if self.control else [f"{self.block} at {counted(len(self.sites), 'site')}"]
        page = self.folder / "report.html"  # which needs jinja2
        report = [f"Report: {page}"] if page.exists() else []
        return [*sites, self.scores_table(), self.cost_table(), *self.lead, *report]

    def scores_table(self) -> Table:
        """The scores per seed, with means in the last row."""
        unit = f" ({self.measure.unit})" if self.measure.unit else ""
        columns = [
            Column("seed", number=False),
            Column(f"{self.plain.name}{unit}"),
            Column(f"{self.se.name}{unit}"),
            Column(f"difference{unit}", help=f"{self.se.name} − {self.plain.name}"),
        ]
        of = self.verdict.difference
        digits = places(of.mean or of.sd or self.plain.mean)
        digits = max(0, digits, places(of.sd)) if of.sd else max(0, digits)  # whole scores are shown whole
        pairs = zip(self.seeds, self.plain.scores, self.se.scores, of.values, strict=True)
        rows: list[list[Cell | int]] = [
            [seed, *(cell(value, fixed(value, digits)) for value in values)] for seed, *values in pairs
        ]
        foot: list[list[Cell]] = []
        if of.sd is not None:
            means = ((self.plain.mean, self.plain.sd), (self.se.mean, self.se.sd), (of.mean, of.sd))
            texts = (f"{fixed(mean, digits)} ± {fixed(sd or 0.0, digits)}" for mean, sd in means)
            foot.append([Cell("mean ± sd"), *map(Cell, texts)])
        better = "higher" if self.measure.higher_is_better else "lower"
        title = f"{self.measure.score} of {self.code} ({better} is better)"
        return Table("scores", title, columns, rows, foot=foot)

    def cost_table(self) -> Table:
        """The networks' cost, and the time of a training."""
        columns = [Column("", number=False, csv="what"), Column(self.plain.name), Column(self.se.name)]
        arms = (self.plain, self.se)
        times = [statistics.median(arm.seconds) for arm in arms]
        rows: list[list[Any]] = []
        for key, what in (("parameters", "parameters"), ("multiply_adds", "multiply-adds of the example")):
            values = [None if arm.cost is None else arm.cost[key] for arm in arms]
            rows.append([what, *(cell(each, None if each is None else display.count(each)) for each in values)])
        # A page has the unit beside each number.
        time = Cell("time of a training, the median", "time of a training, the median (s)")
        rows.append([time, *(cell(each, duration(each)) for each in times)])
        return Table("cost", "Cost", columns, rows)


def _examples(of: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(of)
    fields["examples"] = fields.pop("images")
    return fields


def judgement_page(found: Judgement) -> Page:
    """The page of a judgement, for `write_page`."""
    from senet.report.page import Page, Section, Text
    from senet.study.facts import facts_of

    confidence = found.verdict.difference.confidence
    wider = "It is wider than the usual 95 % because seeds can be added and the result looked at again. "
    how = (
        f"Both arms are trained from the same seeds, {len(found.seeds)} in all; a difference is "
        f"{found.se.name} − {found.plain.name}, paired by seed, with a t interval of {100 * confidence:g} %. "
        f"{wider * (confidence > 0.95)}A difference is shown where no interval contains zero."
    )
    chart = _chart(found)
    return Page(
        f"{found.code}: without and with {found.block}" if not found.control else f"{found.code}: plain against plain",
        found.lead,
        [
            Section("Scores", [*([chart] if chart else []), found.scores_table(), Text(how)]),
            Section("Cost", [found.cost_table()]),
            *([Section(f"Where {found.block} is", [Text(", ".join(found.sites))])] if found.sites else []),
            Section("Settings and machine", facts_of(found.settings, found.machine)),
        ],
        str(found.machine.get("command", "")),
    )


def _chart(found: Judgement) -> Chart | None:
    """A chart of the difference per seed and in the mean; None without matplotlib."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError:
        return None
    from senet.report.page import Chart
    from senet.study.figures import paired_figure

    unit = f" ({found.measure.unit})" if found.measure.unit else ""
    rows = [
        {"seed": seed, found.plain.name: plain, found.se.name: se}
        for seed, plain, se in zip(found.seeds, found.plain.scores, found.se.scores, strict=True)
    ]
    xlabel = f"{found.measure.score}, {found.se.name} − {found.plain.name}{unit}"
    figure = paired_figure(found.seeds, found.verdict.difference, found.verdict.examples, "examples", xlabel=xlabel)
    return Chart("difference", "Difference, seed by seed and in the mean", figure, rows)


def write_judgement(found: Judgement) -> str:
    """Write report.html, with a figure if matplotlib is installed; return a message on what is missing, if anything."""
    from senet.report.page import write_page

    try:
        write_page(judgement_page(found), found.folder)
    except ModuleNotFoundError as error:
        if isinstance(error, MissingPackageError) or error.name not in ("jinja2", "markupsafe"):
            raise
        return f"There is no report.html, as {error.name} is not installed: {how_to_install('study')}"
    return ""
