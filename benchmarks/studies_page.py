"""Write what the committed runs of a study say: tables, intervals and the figure of docs/results.md.

    python benchmarks/studies_page.py

It reads docs/results/ alone. What stands between a study's two marks in docs/results.md is written anew.
A comparison of which runs are missing gets no interval and no verdict.
"""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from studies_plan import RESULTS, STUDIES, Arm, Contrast, Study

from senet.report.figures import COLOURS, GREY, Series, drawing, forest, save_figure
from senet.study.comparison.report import interval, spread
from senet.study.statistics import (
    Bootstrap,
    Difference,
    bootstrap_over_images,
    differs,
    holm,
    paired_difference,
    points,
)

PAGE = RESULTS.parent / "results.md"


@dataclasses.dataclass(frozen=True)
class Run:
    """A committed run: its run.json, and for each picture whether it was right."""

    content: Mapping[str, Any]
    correct: np.ndarray


Runs = Mapping[tuple[str, str, int], Run]
"""By network, arm and seed."""


def read(study: str) -> Runs:
    """The committed runs of a study."""
    found = {}
    for folder in sorted(RESULTS.glob(f"{study}/*/")):
        if folder.suffix == ".part":
            continue
        content = json.loads((folder / "run.json").read_text())
        text = gzip.decompress((folder / "predictions.csv.gz").read_bytes()).decode()
        correct = np.array([row["class"] == row["predicted"] for row in csv.DictReader(io.StringIO(text))])
        cell = content["cell"]
        found[cell["network"], cell["arm"], cell["seed"]] = Run(content, correct)
    return found


def section(name: str, runs: Runs) -> str:
    """The tables of a study, and what its comparisons say that have all of their runs."""
    plan = STUDIES[name]
    planned = len(plan.arms) * len(plan.seeds)
    lines = [*table(plan, runs), ""]
    whole = [arm for arm in plan.arms if all((*arm, seed) in runs for seed in plan.seeds)]
    judged = []
    if len(runs) == planned:
        judged = judge(plan, runs)
    elif {*plan.main.of, *plan.main.less} <= set(whole):
        judged = [counted(plan, runs)]
    if judged:
        save_figure(differences(judged), RESULTS / f"{name}-differences.svg")
        save_figure(figure(plan, runs, whole), RESULTS / f"{name}.svg")
        lines += [
            *table_of(judged),
            "",
            f"![{'Every' if len(runs) == planned else 'The'} comparison with its intervals]"
            f"(results/{name}-differences.svg)",
            "",
            f"![Accuracy against multiply-adds and parameters, with 95 % intervals](results/{name}.svg)",
            "",
        ]
    hours = sum(run.content["seconds"] for run in runs.values()) / 3600
    machines = ", ".join(sorted({run.content["machine"]["processor"] for run in runs.values()}))
    took = f"{len(runs)} of {planned} runs, {hours:.1f} h of one thread, beside other work: {machines}."
    if len(runs) < planned:
        took = f"Partial: {took} No comparison is judged before all of its runs are there."
    return "\n".join([*lines, took])


def table(plan: Study, runs: Runs) -> list[str]:
    """Accuracy seed by seed, a row for each network and arm."""
    lines = [
        "| accuracy, % | " + " | ".join(f"seed {seed}" for seed in plan.seeds) + " | mean ± sd |",
        "|---|" + "---:|" * (len(plan.seeds) + 1),
    ]
    for network, arm in plan.arms:
        found = [runs.get((network, arm, seed)) for seed in plan.seeds]
        shown = ["" if run is None else f"{100 * run.content['accuracy']:.2f}" for run in found]
        all_ = [run.content["accuracy"] for run in found if run is not None]
        whole = len(all_) == len(plan.seeds)
        mean = spread(statistics.fmean(all_), statistics.stdev(all_)) if whole else ""
        lines.append(f"| {network}, {arm} | " + " | ".join(shown) + f" | {mean.removesuffix(' %')} |")
    return lines


@dataclasses.dataclass(frozen=True)
class Judged:
    """A comparison with its interval over seeds and over pictures, at the same confidence."""

    label: str
    seeds: Difference
    pictures: Bootstrap
    p: float | None = None

    @property
    def row(self) -> str:
        """Of the table."""
        shown = "yes" if differs(self.seeds, self.pictures) else "no"
        ends = f"{interval(self.seeds)} | {interval(self.pictures)}"
        p = "" if self.p is None else f"{self.p:.3f}" if self.p >= 0.001 else "< 0.001"
        return f"| {self.label} | {points(self.seeds.mean)} | {ends} | {p} | {shown} |"


def counted(plan: Study, runs: Runs) -> Judged:
    """The comparison that counts. It is judged alone, so it does not wait for the others' runs."""
    main = paired_difference(*accuracies(plan, plan.main, runs))
    return Judged(plan.main.label, main, over_pictures(plan, plan.main, runs, main.confidence))


def judge(plan: Study, runs: Runs) -> list[Judged]:
    """The comparison that counts, alone, and the others, corrected for their number."""
    found = [counted(plan, runs)]
    corrected = holm({each.label: accuracies(plan, each, runs) for each in plan.others})
    for each in plan.others:
        of = corrected[each.label]
        pictures = over_pictures(plan, each, runs, of.difference.confidence)
        found.append(Judged(each.label, of.difference, pictures, of.p_corrected))
    return found


def table_of(judged: Sequence[Judged]) -> list[str]:
    """A sentence for the comparison that counts, and all of them as a table."""
    others = f" The other {len(judged) - 1} are corrected by Holm for their number." if len(judged) > 1 else ""
    return [
        f"**{sentence(judged[0].label, judged[0].seeds, judged[0].pictures)}**",
        "",
        "| comparison, points | mean | over seeds (paired t) | over pictures (bootstrap) | p, corrected | shown |",
        "|---|---:|---:|---:|---:|---|",
        *(each.row for each in judged),
        "",
        f"The first is the comparison that counts.{others}",
    ]


def differences(judged: Sequence[Judged]) -> Any:
    """Every comparison with its two intervals, against the line of no difference."""
    series = [
        Series(what, [(of.mean, of.low, of.high) for of in found], colour)
        for what, found, colour in (
            ("over seeds", [each.seeds for each in judged], COLOURS[1]),
            ("over pictures", [each.pictures for each in judged], COLOURS[0]),
        )
    ]
    return forest([each.label for each in judged], series, xlabel="difference of accuracies (points)", scale=100)


def sentence(label: str, seeds: Difference, over: Bootstrap) -> str:
    """What a comparison says."""
    if not differs(seeds, over):
        return f"{label}: no difference shown ({points(seeds.mean)} points)."
    return f"{label}: {'better' if seeds.mean > 0 else 'worse'} by {abs(100 * seeds.mean):.2f} points."


def accuracies(plan: Study, contrast: Contrast, runs: Runs) -> tuple[list[float], list[float]]:
    """What is subtracted and what is added, seed by seed."""
    less, of = (
        [sum(runs[*arm, seed].content["accuracy"] for arm in side) for seed in plan.seeds]
        for side in (contrast.less, contrast.of)
    )
    return less, of


def over_pictures(plan: Study, contrast: Contrast, runs: Runs, confidence: float) -> Bootstrap:
    """The same over the pictures."""
    less, of = (
        [sum(runs[*arm, seed].correct.astype(int) for arm in side) for seed in plan.seeds]
        for side in (contrast.less, contrast.of)
    )
    return bootstrap_over_images(less, of, confidence=confidence)


def figure(plan: Study, runs: Runs, arms: Sequence[Arm]) -> Any:
    """Accuracy against multiply-adds and against parameters: a point an arm, with the interval over seeds."""
    with drawing():
        from matplotlib.figure import Figure

        drawn = Figure(figsize=(10, 4.4), layout="constrained")
        panels = drawn.subplots(1, 2, sharey=True)
        first, *others = dict.fromkeys(network for network, _ in arms)
        if not others:
            drawn.suptitle(first)
        for axes, key, unit in zip(panels, ("multiply_adds", "parameters"), (1e6, 1e3), strict=True):
            kinds = dict.fromkeys(arm for _, arm in arms)
            for place, (kind, colour) in enumerate(zip(kinds, (GREY, *COLOURS), strict=False)):
                # The first kind is named on the left of its points, the others above and below on the right.
                offset, side = ((-6, 4), "right") if place == 0 else ((6, 4 if place % 2 else -10), "left")
                chosen = [each for each in arms if each[1] == kind]
                x = [_cost(runs, each, plan, key) / unit for each in chosen]
                mean, half = zip(*(_mean(runs, each, plan) for each in chosen), strict=True)
                axes.errorbar(x, mean, half, marker="o", linestyle="none", capsize=3, color=colour, label=kind)
                for (network, _), at, value in zip(chosen, x, mean, strict=True) if others else ():
                    how = {"textcoords": "offset points", "ha": side, "fontsize": 8, "color": colour}
                    axes.annotate(network, (at, value), offset, **how)
            axes.set_xlabel("multiply-adds (millions)" if unit == 1e6 else "parameters (thousands)")
            axes.margins(x=0.3)
            axes.grid(alpha=0.3)
        panels[0].set_ylabel("accuracy on test pictures (%)")
        panels[0].legend(loc="best")
        return drawn


def _cost(runs: Runs, arm: Arm, plan: Study, key: str) -> float:
    return float(runs[*arm, plan.seeds[0]].content["cost"][key])


def _mean(runs: Runs, arm: Arm, plan: Study) -> tuple[float, float]:
    """The mean over seeds and half its 95 % interval, in per cent."""
    values = [runs[*arm, seed].content["accuracy"] for seed in plan.seeds]
    of = paired_difference([0.0] * len(values), values)
    return 100 * of.mean, 100 * ((of.high or of.mean) - of.mean)


def written(text: str, sections: Mapping[str, str]) -> str:
    """A page with what stands between each study's marks written anew."""
    for name, content in sections.items():
        marks = f"<!-- runs of {name} -->", f"<!-- end of {name} -->"
        found = re.compile(f"{re.escape(marks[0])}.*?{re.escape(marks[1])}", re.DOTALL)
        text = found.sub(lambda _, marks=marks, content=content: f"{marks[0]}\n{content}\n{marks[1]}", text)
    return text


def main(names: Sequence[str] = tuple(STUDIES)) -> None:
    """Write the page."""
    sections = {name: section(name, runs) for name in names if (runs := read(name))}
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8")


if __name__ == "__main__":
    main()
