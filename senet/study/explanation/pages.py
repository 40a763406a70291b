"""The report of an explanation: the paper's figure of gates by class, and the value of the gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.report import COLOURS, INK, Chart, Facts, Page, Section, Series, Text, forest, machine_facts
from senet.report.figures import GREY, panel, short
from senet.study.comparison.report import percent
from senet.study.explanation.explanation import BlockFindings, Explanation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["channel_rows", "explanation_page"]

SHOWN_CLASSES = 4  # as in the paper's figure
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def explanation_page(found: Explanation) -> Page:
    """The page of an explanation, for `write_page`."""
    return Page(
        f"The role of the excitation in {found.model}",
        [*found.notes, *found.lead()],
        [
            Section("Gates by class", _by_class(found)),
            Section("Distribution of the gates", [_distribution(found)]),
            Section("How class-specific each block is", _specificity(found)),
            Section(
                "What the gates are worth", [_effects(found), found.blocks_table("SE blocks"), found.stages_table()]
            ),
            Section("Images and machine", [_facts(found), machine_facts(found.machine)]),
        ],
        str(found.machine.get("command", "")),
    )


def channel_rows(found: Explanation) -> list[dict[str, Any]]:
    """Every channel of every block, for channels.csv."""
    return [
        {
            "block": block.name,
            "channel": channel,
            **{name: float(getattr(block.gates, name)[channel]) for name in ("mean", "sd", "low", "high")},
            "specificity": None if math.isnan(specificity) else specificity,
            **{name: bool(getattr(block.gates, name)[channel]) for name in ("dead", "saturated", "constant")},
        }
        for block in found.blocks
        for channel, specificity in enumerate(block.gates.channel_specificity.tolist())
    ]


def _last_of_stages(found: Explanation) -> list[BlockFindings]:
    last = {block.stage: block for block in found.blocks if block.stage is not None}
    return [last[number] for number in sorted(last)] or list(found.blocks[-1:])


def _by_class(found: Explanation) -> list[Chart | Text]:
    given = list(found.classes.values())  # two of ImageNet's classes are called crane
    names = [name if given.count(name) == 1 else f"{name} ({index})" for index, name in found.classes.items()]
    step = max(1, len(names) // SHOWN_CLASSES)
    shown = list(range(0, len(names), step))[:SHOWN_CLASSES]
    parts: list[Chart | Text] = []
    counts = found.blocks[0].gates.class_counts
    what = "the mean over the images of a class" if int(counts.max()) > 1 else "of the one image of a class"
    for number, block in enumerate(_last_of_stages(found)):
        data = []
        for channel in range(block.channels):
            row: dict[str, Any] = {"channel": channel, "all images": round(float(block.gates.mean[channel]), 6)}
            for index in shown:
                row[f"class {names[index]}"] = round(float(block.gates.class_means[index, channel]), 6)
            data.append(row)
        stage = f"stage {block.stage}" if block.stage is not None else "the network"
        figure = _class_lines(block, [names[index] for index in shown], shown)
        title = f"Last block of {stage}: {block.name}, {block.channels} channels"
        parts.append(Chart(f"gates_by_class_{number}", title, figure, data))
    note = f"Each line is {what}, gate by gate, as in figure 6 of the paper; the grey line is the mean over all images."
    return [Text(f"{note} {len(shown)} of {len(names)} classes are shown, evenly spaced in their order."), *parts]


def _class_lines(block: BlockFindings, names: Sequence[str], indices: Sequence[int]) -> Figure:
    with panel(2.6) as (figure, axes):
        channels = range(block.channels)
        for colour, name, index in zip(COLOURS, names, indices, strict=False):
            axes.plot(channels, block.gates.class_means[index].tolist(), color=colour, linewidth=0.9, label=short(name))
        axes.plot(channels, block.gates.mean.tolist(), color=GREY, linewidth=1.6, label="all images")
        axes.set_xlabel("channel")
        axes.set_ylabel("gate")
        axes.set_xlim(0, max(1, block.channels - 1))
        if block.gates.top is not None:
            axes.set_ylim(block.gates.bottom - 0.02 * block.gates.top, 1.02 * block.gates.top)
        figure.legend(loc="outside right upper", fontsize=9)
        return figure


def _distribution(found: Explanation) -> Chart:
    data: list[dict[str, Any]] = [
        {
            "block": block.name,
            **{f"{100 * q:g} %": round(block.gates.quantile(q), 6) for q in QUANTILES},
            "mean": round(float(block.gates.mean.mean()), 6),
        }
        for block in found.blocks
    ]
    with panel(1 + 0.3 * len(data)) as (figure, axes):
        for place, row in enumerate(data):
            low, quarter, middle, third, high = (float(row[f"{100 * q:g} %"]) for q in QUANTILES)
            first = place == 0
            axes.plot([low, high], [place] * 2, color=COLOURS[0], linewidth=1.2, label="5 to 95 %" if first else None)
            axes.plot(
                [quarter, third], [place] * 2, color=COLOURS[0], linewidth=6, label="25 to 75 %" if first else None
            )
            axes.plot([middle], [place], color=INK, marker="|", markersize=10, label="median" if first else None)
        axes.set_yticks(range(len(data)), [short(str(row["block"])) for row in data])
        axes.invert_yaxis()
        axes.set_xlabel("gate (what a channel is multiplied by)")
        tops = [block.gates.top for block in found.blocks]
        if all(top is not None for top in tops):
            least = min(block.gates.bottom for block in found.blocks)
            axes.set_xlim(least - 0.02, 1.02 * max(top for top in tops if top is not None))
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside upper right", ncols=3)
    return Chart("gate_distribution", "Gates of each block, all channels of all images", figure, data)


def _specificity(found: Explanation) -> list[Chart | Text]:
    definition = (
        "Class-specificity is between-class over total variance: the sum over channels of the between-class sum of "
        "squares of the gates, over that of the total sum of squares. 0: the class says nothing of the gates; 1: it "
        "says all. Where it says nothing, (K − 1) / (n − 1) comes out on average of n images of K classes, by chance."
    )
    if all(block.gates.specificity is None for block in found.blocks):
        why = "It is not given here: no class has two images (or no gate varies), and of one image it is always 1."
        return [Text(definition), Text(why)]
    data = [
        {"block": b.name, "specificity": b.gates.specificity, "by chance": b.gates.specificity_by_chance}
        for b in found.blocks
    ]
    with panel(1 + 0.3 * len(data)) as (figure, axes):
        places = range(len(data))
        axes.barh(places, [block.gates.specificity or 0 for block in found.blocks], color=COLOURS[0], height=0.6)
        chance = found.blocks[0].gates.specificity_by_chance
        if chance is not None:
            axes.axvline(chance, color=INK, linestyle="--", linewidth=1, label="by chance")
            figure.legend(loc="outside upper right")
        axes.set_yticks(places, [short(block.name) for block in found.blocks])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("between-class / total variance of the gates")
    return [Text(definition), Chart("class_specificity", "Class-specificity of each block", figure, data)]


_WAYS = (
    ("at_mean", "held at their mean", "o"),
    ("at_other", "of another image", "s"),
    ("removed", "block removed", "D"),
)


def _effects(found: Explanation) -> Chart:
    data: list[dict[str, Any]] = [
        {
            "block": block.name,
            "gates": what,
            "top-1 (fraction)": (effect := getattr(block, how)).top1,
            "difference (fraction)": effect.difference,
            "low (fraction)": effect.low,
            "high (fraction)": effect.high,
            "top-5 (fraction)": effect.top5,
            "predictions changed (fraction)": effect.changed,
        }
        for block in found.blocks
        for how, what, _ in _WAYS
    ]
    series = []
    for (how, what, marker), colour in zip(_WAYS, COLOURS, strict=False):
        effects = [getattr(block, how) for block in found.blocks]
        series.append(Series(what, [(each.difference, each.low, each.high) for each in effects], colour, marker))
    figure = forest(
        [short(block.name) for block in found.blocks],
        series,
        xlabel=f"top-1 accuracy minus the network's own, {percent(found.top1)} (points)",
        scale=100,
    )
    return Chart(
        "gate_effects",
        "Accuracy without each block's own gates",
        figure,
        data,
        f"With the 95 % interval over the {found.images} images (paired bootstrap).",
    )


def _facts(found: Explanation) -> Facts:
    how = found.preprocessing
    return Facts(
        [
            ("network", found.model),
            ("parameters", f"{found.cost.parameters:,} ({display.share(found.cost.se_parameters_share)} in SE)"),
            ("data", f"{found.data}, split {found.split}: {found.images} images of {len(found.classes)} classes"),
            ("top-1 accuracy", percent(found.top1)),
            ("top-5 accuracy", percent(found.top5)),
            ("input", f"{how.words}, mean {how.mean}, std {how.std}, {how.channels}"),
        ]
    )
