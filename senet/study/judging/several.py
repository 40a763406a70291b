"""Read several judgements from their folders, and show them side by side on one page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in
from senet.errors import StudyError
from senet.files.paths import expanded
from senet.files.records import Record
from senet.files.run_folder import RESULT, read_json
from senet.report.page import Chart, Page, Section, Text
from senet.report.table import Column, Table, cell
from senet.study.facts import page_of_several
from senet.study.judging.judgement import Arm, Judgement, arm_names, judgement_page
from senet.study.judging.verdict import Measure, Verdict, fixed, places
from senet.study.statistics import Bootstrap, paired_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["judgements_page", "read_judgement"]


def read_judgement(folder: str | Path) -> Judgement:
    """Read a finished judgement from its folder.

    Raises:
        StudyError: it holds none, or an inconsistent one.
    """
    folder = expanded(folder)
    found = read_json(folder / RESULT)
    record = Record(folder / RESULT, found)
    try:
        control = bool(found["control"])
        arms = []
        for key, name in zip(("plain", "se"), arm_names(control, block_in(found["settings"])), strict=True):
            of = record.record(key)
            arms.append(Arm(name, of.numbers("scores"), of.numbers("seconds", 0), found["cost"][key]))
        said = found["difference"]
        difference = paired_difference(arms[0].scores, arms[1].scores, confidence=said["confidence"])
        if list(difference.values) != said["per_seed"] or len(difference.values) != len(found["seeds"]):
            raise ValueError("its differences are not those of its scores")
        examples = said["examples"]
        if examples is not None:
            examples = Bootstrap(**{"images" if key == "examples" else key: value for key, value in examples.items()})
        measure = Measure(found["score"], found["unit"], bool(found["higher_is_better"]))
        judgement = Judgement(
            folder=folder,
            code=str(found["settings"]["code"]["name"]),
            measure=measure,
            seeds=tuple(found["seeds"]),
            plain=arms[0],
            se=arms[1],
            verdict=Verdict(difference, examples, bool(found["difference_shown"]), str(found["verdict"]), (), measure),
            control=control,
            failed=found["failed"],
            missing=tuple(found["missing"]),
            sites=tuple(found["sites"]),
            notes=tuple(found["notes"]),
            settings=found["settings"],
            machine=record.record("machine").fields,
        )
        str(judgement)  # edited values show when they are drawn
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise StudyError(f"{folder} holds no finished judgement ({type(error).__name__}: {error})") from error
    return judgement


def judgements_page(judgements: Sequence[Judgement], names: Sequence[str]) -> Page:
    """Several judgements on one page: first side by side, each in its score's unit, then each in detail."""
    columns = [
        Column("judgement", number=False),
        Column("score", number=False),
        Column("unit", number=False),
        Column("seeds"),
        Column("plain"),
        Column("with the block"),
        Column("difference"),
        Column("interval over seeds", number=False, csv=""),
        *(Column(f"interval over seeds, {end}", shown=False) for end in ("low", "high")),
        Column("difference shown", number=False),
    ]
    rows: list[list[Any]] = []
    for name, each in zip(names, judgements, strict=True):
        of = each.verdict.difference
        digits = max(0, places(of.mean or of.sd or each.plain.mean))
        means = [cell(value, fixed(value, digits)) for value in (each.plain.mean, each.se.mean, of.mean)]
        over_seeds = "none"
        if of.low is not None and of.high is not None:
            over_seeds = f"{fixed(of.low, digits)} to {fixed(of.high, digits)}"
        shown = "yes" if each.verdict.shown else "no"
        rows.append(
            [name, each.measure.score, each.measure.unit, len(each.seeds), *means, over_seeds, of.low, of.high, shown]
        )
    verdicts = [Text(f"{name}: {' '.join(each.lead)}") for name, each in zip(names, judgements, strict=True)]
    side = Section("Side by side", [Table("judgements", "Scores", columns, rows), *verdicts])
    own = [
        [_prefixed(section, f"{number}_") for section in judgement_page(each).sections[:-1]]
        for number, each in enumerate(judgements)
    ]
    return page_of_several("judgement", side, names, judgements, own)


def _prefixed(section: Section, prefix: str) -> Section:
    """The section, with file names that are unique on the page."""
    parts = [
        dataclasses.replace(part, name=prefix + part.name) if isinstance(part, Table | Chart) else part
        for part in section.parts
    ]
    return dataclasses.replace(section, parts=parts)
