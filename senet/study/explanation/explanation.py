"""The result of `explain`: as values, as tables, as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.report.table import Cell, Column, Table, cell
from senet.study.comparison.report import difference_columns, percent
from senet.study.statistics import points, rejected
from senet.words import counted

if TYPE_CHECKING:
    from torch import Tensor

    from senet.cost.cost import Cost
    from senet.data.transforms import Preprocessing
    from senet.study.explanation.statistics import ChannelStatistics

__all__ = ["Advice", "BlockFindings", "Effect", "Explanation", "StageFindings"]


@dataclasses.dataclass(frozen=True)
class Effect:
    """The effect of replacing gates.

    Attributes:
        top1: top-1 accuracy, a fraction.
        top5: top-5 accuracy, a fraction.
        difference: `top1` minus the network's own.
        low: the lower end of the 95 % interval of the difference over images (paired bootstrap).
        high: its upper end.
        changed: the share of images whose predicted class changed.
        p: the p value of McNemar's exact test over images. Where few changed, chance alone takes the interval off zero.
    """

    top1: float
    top5: float
    difference: float
    low: float
    high: float
    changed: float
    p: float

    @property
    def shown(self) -> bool:
        """Whether a difference is shown, by this comparison alone."""
        return self.p <= 0.05


@dataclasses.dataclass(frozen=True)
class BlockFindings:
    """The findings on one SE block.

    Attributes:
        name: the module's name.
        channels: C.
        stage: log2 of the image's size over the map's; None if unknown.
        parameters: the block's parameters.
        multiply_adds: its layers' multiply-adds for one image.
        gates: the statistics of its gates.
        at_mean: the effect of holding each gate at its mean over the images.
        at_other: the effect of giving each image the gates of another.
        at_one: the effect of holding all gates at 1.
        removed: the effect of removing the block; it differs from `at_one` only for a block that adds its input.
    """

    name: str
    channels: int
    stage: int | None
    parameters: int
    multiply_adds: int
    gates: ChannelStatistics
    at_mean: Effect
    at_other: Effect
    at_one: Effect
    removed: Effect


@dataclasses.dataclass(frozen=True)
class StageFindings:
    """The findings on all SE blocks of a stage together, or of the whole network (`stage` is None).

    Attributes:
        stage: the stage.
        blocks: their names.
        parameters: their parameters.
        at_mean: the effect of holding all their gates at their means.
        removed: the effect of removing all of them.
    """

    stage: int | None
    blocks: tuple[str, ...]
    parameters: int
    at_mean: Effect
    removed: Effect


@dataclasses.dataclass(frozen=True)
class Advice:
    """Blocks that can be pruned with gates held at their means, with savings and cost.

    Attributes:
        blocks: their names; empty if no block can be pruned.
        tolerance: the accuracy that they may cost together, a fraction.
        parameters: the parameters saved.
        multiply_adds: the multiply-adds saved for one image.
        effect: the effect with all of them held.
    """

    blocks: tuple[str, ...]
    tolerance: float
    parameters: int
    multiply_adds: int
    effect: Effect


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The role of the excitation in a network; `str()` is a table.

    Attributes:
        model: the network's name.
        data: the name of the data.
        split: the split.
        images: the number of images.
        classes: the names of the images' classes, by the network's class index.
        top1: the network's top-1 accuracy.
        top5: top-5 accuracy, a fraction.
        blocks: the blocks in module order.
        stages: the stages that hold SE, and last the whole network.
        advice: the blocks that can be pruned.
        cost: the network's cost for one image.
        preprocessing: the preprocessing used.
        notes: remarks on the network.
        guess: the accuracy of always naming the images' most frequent class.
        machine: the machine.
        network: a digest of the network's tensors; "" in one of an earlier version.
    """

    model: str
    data: str
    split: str
    images: int
    classes: Mapping[int, str]
    top1: float
    top5: float
    blocks: tuple[BlockFindings, ...]
    stages: tuple[StageFindings, ...]
    advice: Advice
    cost: Cost
    preprocessing: Preprocessing
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    guess: float = 0.0
    network: str = ""

    @property
    def at_chance(self) -> bool:
        """Whether the network is no better than a guess, beyond what the number of images makes of one (95 %)."""
        return self.top1 <= self.guess + 1.96 * math.sqrt(self.guess * (1 - self.guess) / self.images)

    @property
    def means(self) -> dict[str, Tensor]:
        """The mean gates of each block over the images, (C,), `scale` included, as used for holding."""
        return {block.name: block.gates.mean.float() for block in self.blocks}

    @property
    def dependent(self) -> list[str]:
        """The blocks in which the network is shown to use that the gates depend on the image.

        It is worse with their gates at the means or of another image, by McNemar's test corrected by Holm.
        """
        effects = {(block.name, how): getattr(block, how) for block in self.blocks for how in ("at_mean", "at_other")}
        shown = rejected({key: effect.p for key, effect in effects.items()})
        names = {key[0] for key in shown if effects[key].difference < 0}
        return [block.name for block in self.blocks if block.name in names]

    def lead(self) -> list[str]:
        """The outcome in sentences, which claim use only if a test shows it."""
        whole, advice, used = self.stages[-1], self.advice, self.dependent
        sentences = [
            f"{counted(len(self.blocks), 'SE block')}; {percent(self.top1)} of {self.images} images are right. With "
            f"every gate held at its mean over the images: {_effect(whole.at_mean)}. "
            f"Without SE: {_effect(whole.removed)}.",
            f"The network uses the gates' dependence on the image, as far as these images show, in {len(used)} of "
            f"{counted(len(self.blocks), 'block')}{': ' if used else ''}{', '.join(used)}.",
        ]
        if self.at_chance:
            sentences.append(
                f"The network is at chance, as far as these images show: always naming their most frequent class gets "
                f"{percent(self.guess)} right. What its blocks are worth, and which can go, means nothing yet."
            )
        if not advice.blocks:
            return [*sentences, f"No block can go within {100 * advice.tolerance:g} points of accuracy."]
        share = display.share(advice.parameters / self.cost.parameters)
        sentences.append(
            f"{len(advice.blocks)} of them can go, their gates held at their means, within "
            f"{100 * advice.tolerance:g} points of accuracy: {', '.join(advice.blocks)}. It saves "
            f"{display.count(advice.parameters)} parameters ({share} of the network's) and "
            f"{display.count(advice.multiply_adds)} multiply-adds an image: {_effect(advice.effect)}. They were chosen "
            f"on the images that this is measured on."
        )
        return sentences

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), width=display.LOG_WIDTH)

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        return [
            *self.notes,
            self.blocks_table(
                f"The gates of {self.model} on {self.data} ({self.split}: {self.images} images, "
                f"{percent(self.top1)} top-1, {percent(self.top5)} top-5)"
            ),
            self.stages_table(),
            "specific: between-class over total variance of the gates (in brackets: by chance). dead, full, const.: "
            "channels within 2 % of 0, of the largest value, of themselves, on all images. mean, another's, removed: "
            "points of top-1 accuracy with the gates held at their mean, taken from another image, taken out; "
            "* where that is more than chance, in this comparison alone (McNemar's exact test over images, 5 %).",
            "",
            *self.lead(),
        ]

    def blocks_table(self, title: str) -> Table:
        """One row per SE block."""
        columns = [
            Column("block", number=False),
            Column("stage", help="log2 of the image's size over that of the map that the block rescales"),
            Column("channels"),
            Column("parameters", short=""),
            Column(
                "specificity (chance)",
                csv="specificity",
                short="specific",
                help="between-class over total variance of the gates; in brackets by chance",
            ),
            Column("specificity by chance", shown=False),
            Column("dead", help="channels whose gate is 0 on every image, to within 2 % of its largest value"),
            Column(
                "saturated", short="full", help="channels whose gate is within 2 % of its largest value on every image"
            ),
            Column(
                "constant",
                short="const.",
                help="channels whose gate differs by less than 2 % of its largest value over all images",
            ),
            *difference_columns(
                "at mean",
                "mean",
                "top-1 accuracy with each gate held at its mean over the images, minus that of the network as it is; "
                "in brackets the 95 % interval over images",
            ),
            *difference_columns("another's", "another's", "the same with the gates of another image, drawn at random"),
            *difference_columns("at 1", "", "the same with all gates of the block at 1"),
            *difference_columns(
                "removed",
                "removed",
                "the same without the block; that is gates at 1, but for a block that adds its input to its output",
            ),
            Column(
                "changed",
                csv="changed (fraction)",
                short="",
                help="images whose predicted class changes with the gates of another image",
            ),
        ]
        rows: list[list[Cell]] = [
            [
                Cell(block.name),
                cell(block.stage),
                cell(block.channels),
                cell(block.parameters, display.count(block.parameters)),
                Cell(specificity(block.gates), block.gates.specificity),
                cell(block.gates.specificity_by_chance),
                *(cell(int(kind.sum())) for kind in (block.gates.dead, block.gates.saturated, block.gates.constant)),
                *_difference(block.at_mean),
                *_difference(block.at_other),
                *_difference(block.at_one),
                *_difference(block.removed),
                Cell(display.share(block.at_other.changed), block.at_other.changed),
            ]
            for block in self.blocks
        ]
        return Table("blocks", title, columns, rows)

    def stages_table(self) -> Table:
        """One row per stage, and last the whole network."""
        columns = [
            Column("stage", number=False),
            Column("blocks"),
            Column("parameters"),
            Column("share of the network", csv="share of the network (fraction)", short=""),
            Column("at mean: top-1", csv="at mean: top-1 (fraction)", short=""),
            *difference_columns("at mean", "mean"),
            Column("removed: top-1", csv="removed: top-1 (fraction)", short=""),
            *difference_columns("removed", "removed"),
            Column("removed: top-5", csv="removed: top-5 (fraction)", short=""),
        ]
        rows: list[list[Cell]] = []
        for stage in self.stages:
            share = stage.parameters / self.cost.parameters
            rows.append(
                [
                    Cell("all" if stage.stage is None else str(stage.stage)),
                    cell(len(stage.blocks)),
                    cell(stage.parameters, display.count(stage.parameters)),
                    cell(share, display.share(share)),
                    cell(stage.at_mean.top1, percent(stage.at_mean.top1)),
                    *_difference(stage.at_mean),
                    cell(stage.removed.top1, percent(stage.removed.top1)),
                    *_difference(stage.removed),
                    cell(stage.removed.top5, percent(stage.removed.top5)),
                ]
            )
        note = (
            "All SE blocks of a stage together, without training again. The paper, which trained again, found the last "
            "stage's to cost less than 0.1 points of top-5."
        )
        return Table("stages", "Whole stages", columns, rows, note)

    def to_json(self) -> dict[str, Any]:
        """Plain values for explanation.json: accuracies as fractions, differences from the network's own."""
        return {
            "model": self.model,
            "network": self.network,
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "classes": {str(index): name for index, name in self.classes.items()},
            "top1": self.top1,
            "top5": self.top5,
            "blocks": [
                {
                    **{
                        name: getattr(block, name)
                        for name in ("name", "channels", "stage", "parameters", "multiply_adds")
                    },
                    "specificity": block.gates.specificity,
                    "specificity_by_chance": block.gates.specificity_by_chance,
                    **{
                        kind: getattr(block.gates, kind).nonzero().flatten().tolist()
                        for kind in ("dead", "saturated", "constant")
                    },
                    **{
                        how: dataclasses.asdict(getattr(block, how))
                        for how in ("at_mean", "at_other", "at_one", "removed")
                    },
                }
                for block in self.blocks
            ],
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "advice": dataclasses.asdict(self.advice),
            "cost": dataclasses.asdict(self.cost),
            "preprocessing": self.preprocessing.to_json(),
            "notes": list(self.notes),
            "machine": dict(self.machine),
        }


def specificity(gates: ChannelStatistics) -> str:
    """A block's class-specificity, with the value expected by chance in brackets."""
    if gates.specificity is None:
        return "–"
    return f"{gates.specificity:.2f} ({gates.specificity_by_chance or 0:.2f})"


def _difference(effect: Effect) -> list[Cell]:
    text = points(effect.difference)
    shown = Cell(
        f"{text} ({points(effect.low)} to {points(effect.high)})",
        round(effect.difference, 9),
        f"{text}{'*' if effect.shown else ''}",
    )
    return [shown, cell(effect.low), cell(effect.high)]


def _effect(effect: Effect) -> str:
    return (
        f"{percent(effect.top1)} ({points(effect.difference)} points; 95 % interval over images "
        f"{points(effect.low)} to {points(effect.high)})"
    )
