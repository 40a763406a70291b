"""The report of an ablation: each table with its figure, and a column with the paper's results."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from senet.report import COLOURS, Chart, Page, Section, Series, Table, Text, forest, settings_facts
from senet.report.figures import short
from senet.study.ablation.ablation import Ablation, TrainedCell
from senet.study.facts import facts_of
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["TITLES", "ablation_page"]

TITLES = {
    "reduction": "Reduction ratio (the paper's table 10)",
    "squeeze": "Squeeze (the paper's table 11)",
    "gate": "Excitation gate (the paper's table 12)",
    "stages": "Stages (the paper's table 13)",
    "placement": "Placement (the paper's tables 14 and 15)",
    "no-squeeze": "Without squeeze (the paper's table 16)",
    "bias": "Biases of the two layers",
    "grid": "Grid",
}


def ablation_page(found: Ablation) -> Page:
    """The page of an ablation, for `write_page`."""
    times, epochs = counted(found.seeds, "time"), counted(found.epochs, "epoch")
    start = {"paper": "as in the paper", "identity": "as the identity"}[found.settings["se"]["start"]]
    how = (
        f"Every variant was trained {'at most ' * bool(found.missing)}{times}, from the same seeds on the same batches "
        f"as the plain network, for {epochs}; its SE started {start}. Accuracies are those of the last epoch, on "
        f"{found.images} images ({found.split}). Differences are paired by seed; their t intervals are corrected by "
        f"Holm for all {found.comparisons} comparisons on this page, so that with 95 % probability no equal networks "
        f"are told apart. A difference is shown where neither the interval over seeds nor the one over images (paired "
        f"bootstrap, at the same confidence) contains zero; where all seeds differ alike, the one over images decides."
    )
    base = ", ".join(f"{name} {words}" for name, words in settings_facts(found.settings["se"]).rows)
    how += f" The standard SE, from which each variant differs in what its name says: {base}."
    return Page(
        f"Ablation of SE: {found.model} on {found.data}",
        [*found.notes, *found.lead()],
        [
            Section("How to read this", [Text(how)]),
            *(_section(found, name, first=number == 0) for number, name in enumerate(found.tables)),
            Section("Settings and machine", facts_of(found.settings, found.machine)),
        ],
        str(found.machine.get("command", "")),
    )


def _section(found: Ablation, name: str, *, first: bool) -> Section:
    cells = found.table(name)
    parts: list[Chart | Table | Text] = []
    if len(cells) > 1:
        parts.append(_chart(cells, name))
    table = found.cells_table(name, TITLES[name])
    if not first:  # column help appears once per page
        table = dataclasses.replace(table, columns=[dataclasses.replace(each, help="") for each in table.columns])
    return Section(TITLES[name], [*parts, table])


def _chart(cells: Sequence[TrainedCell], name: str) -> Chart:
    compared = [(each.cell.label, each.to_plain.difference) for each in cells if each.to_plain is not None]
    ends = [(of.mean, of.low, of.high) for _, of in compared]
    return Chart(
        f"ablation_{name}_figure",
        f"{TITLES[name]}: accuracy minus the plain network's",
        forest(
            [short(label) for label, _ in compared],
            [Series("", ends, COLOURS[1], "D", [of.values for _, of in compared])],
            xlabel="accuracy − plain network's (points)",
            scale=100,
        ),
        [
            {"variant": label, "difference (fraction)": of.mean, "low (fraction)": of.low, "high (fraction)": of.high}
            for label, of in compared
        ],
        "Grey points are the seeds; bars are the corrected intervals over seeds, where there are any.",
    )
