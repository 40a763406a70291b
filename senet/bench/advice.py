"""`Advice`: the cost of SE by stage and placement in one engine, and the sites that fit a budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.bench.cases import ENGINES
from senet.bench.rows import Ratio
from senet.bench.show import machine_line, write_texts
from senet.block import SESpec
from senet.console import display
from senet.errors import InputError
from senet.report import Column, Table, cell
from senet.words import counted

if TYPE_CHECKING:
    from senet.report import Cell

__all__ = ["ADVICE", "Accuracies", "Advice", "Placed", "accuracies_in", "patterns"]

ADVICE = "advice.json"


@dataclasses.dataclass(frozen=True)
class Placed:
    """SE at some sites of a network, and its cost there.

    Attributes:
        what: the sites in words: "stage 3".
        placement: the placement, as in `SESpec`.
        sites: the modules that SE is joined to.
        reduction_ratio: the blocks' reduction ratio r.
        form: "optimized" (by `senet.optimize` or `senet.export`), or "as inserted", where only
            normalisations are folded.
        parameters: the parameters that SE adds.
        ratio: its time over that of the network without SE: the median over alternating rounds,
            with a 95 % interval.
        accuracy: the mean accuracy over seeds, a fraction, from an ablation with the same sites; None without one.
    """

    what: str
    placement: str
    sites: tuple[str, ...]
    reduction_ratio: int
    form: str
    parameters: int
    ratio: Ratio
    accuracy: float | None = None

    @property
    def cost(self) -> float:
        """The relative time that SE adds, at least 0."""
        return max(0.0, self.ratio.value - 1)

    @property
    def site_cost(self) -> float:
        """The cost per site, if all cost the same."""
        return self.cost / len(self.sites)

    @property
    def tells_sites_apart(self) -> bool:
        """Whether the interval is narrower than the cost of one site."""
        low, high = self.ratio.low, self.ratio.high
        return low is not None and high is not None and high - low < self.site_cost

    def cells(self) -> list[Cell]:
        """Its row of a table."""
        accuracy = None if self.accuracy is None else f"{self.accuracy:.2%}"
        return [
            cell(self.placement),
            cell(self.what),
            cell(len(self.sites)),
            cell(self.reduction_ratio),
            cell(self.form),
            cell(self.parameters, f"{self.parameters:,}"),
            cell(self.ratio.value, str(self.ratio)),
            cell(self.ratio.low),
            cell(self.ratio.high),
            cell(self.accuracy, accuracy),
        ]


@dataclasses.dataclass(frozen=True)
class Advice:
    """The cost of SE by stage and placement in one engine, and the sites that fit a budget; `str()` is the table.

    Attributes:
        model: the network's name.
        example: the shape of one batch, (N, C, *space).
        engine: the engine, a name of `cases.ENGINES`.
        budget: the largest allowed ratio of the time with SE to the time without.
        plain: the median seconds of the network without SE.
        measured: SE at all sites, at one stage's sites, and at single sites, by placement.
        tried: the proposals built and measured, in order; the last is the proposal if it fits.
        proposal: the proposal that fits, measured as a whole; None if nothing fits.
        command: the command that inserts the proposal; "" without one, or if the network has SE already.
        notes: further remarks.
        machine: the machine.
        quick: whether it was a quick measurement.
    """

    model: str
    example: tuple[int, ...]
    engine: str
    budget: float
    plain: float
    measured: tuple[Placed, ...]
    tried: tuple[Placed, ...]
    proposal: Placed | None
    command: str
    notes: tuple[str, ...]
    machine: Mapping[str, Any]
    quick: bool

    @property
    def spec(self) -> SESpec | None:
        """The proposal's block, for `senet.insert`."""
        found = self.proposal
        if found is None:
            return None
        return SESpec(reduction_ratio=found.reduction_ratio, placement=found.placement)

    @property
    def where(self) -> list[str] | None:
        """The proposal's sites, for `senet.insert`."""
        return None if self.proposal is None else list(self.proposal.sites)

    def parts(self) -> list[str | Table]:
        """The tables, the proposal in words, remarks, and the machine."""
        engine = ENGINES[self.engine].words
        title = f"What SE costs in {self.model}, {engine}, batch {self.example[0]} (plain {1000 * self.plain:.2f} ms)"
        found: list[str | Table] = [_table("measured", title, self.measured)]
        if self.tried:
            found.append(_table("proposals", "Proposals, each built and measured as a whole", self.tried))
        if self.proposal is None:
            found.append(f"Nothing that was tried keeps within {self.budget:g} times the time without SE.")
        else:
            words = f"{self.proposal.what}, placement {self.proposal.placement}, r = {self.proposal.reduction_ratio}"
            form = "" if self.proposal.form == "optimized" else f", {self.proposal.form}"
            found.append(
                f"Within {self.budget:g}: SE at {counted(len(self.proposal.sites), 'site')} ({words}{form}) takes "
                f"{self.proposal.ratio} of the time without, and adds {self.proposal.parameters:,} parameters."
            )
            found += [f"Put it in: {self.command}"] * bool(self.command)
        hurry = " Measured in a hurry: a look, no figure to report." if self.quick else ""
        how = "Times are medians of ratios to the network without SE, round by round in turn [95 % interval]."
        return [*found, *self.notes, f"{how}{hurry} {machine_line(self.machine)}"]

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), width=display.LOG_WIDTH)

    def to_json(self) -> dict[str, Any]:
        """Plain values: times in seconds, ratios (1.02 is 2 % more time), accuracies as fractions."""
        return {**dataclasses.asdict(self), "example": list(self.example), "machine": dict(self.machine)}

    def write(self, folder: Path) -> None:
        """Write advice.json and table.txt."""
        folder.mkdir(parents=True, exist_ok=True)
        values = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        write_texts(folder, {ADVICE: values, "table.txt": str(self)})


def _table(name: str, title: str, rows: Sequence[Placed]) -> Table:
    with_accuracy = any(row.accuracy is not None for row in rows)
    columns = [
        Column("placement", number=False),
        Column("where", number=False),
        Column("sites"),
        Column("r", help="the reduction ratio"),
        Column("form", number=False, help="what senet.optimize gives, or SE as it is, normalisations folded"),
        Column("parameters", help="that SE adds"),
        Column("time / plain", help="with its 95 % interval"),
        Column("time / plain, low", shown=False),
        Column("time / plain, high", shown=False),
        Column("accuracy", help="in the ablation given", csv="accuracy (fraction)", shown=with_accuracy),
    ]
    return Table(name, title, columns, [row.cells() for row in rows])


def patterns(chosen: Collection[str], known: Collection[str]) -> list[str]:
    """The fewest `where` patterns that match the chosen names and no other known ones.

    A pattern is a name, or its first parts with a star: "layer4.*". No patterns stand for all known names.
    """
    found: list[str] = []
    left = [] if set(chosen) == set(known) else list(chosen)
    others = set(known) - set(chosen)
    while left:
        first, *left = left
        parts = first.split(".")
        below = (".".join([*parts[:depth], ""]) for depth in range(1, len(parts)))
        prefix = next((each for each in below if not any(name.startswith(each) for name in others)), None)
        found.append(first if prefix is None else f"{prefix}*")
        left = [name for name in left if prefix is None or not name.startswith(prefix)]
    return found


Accuracies = Mapping[tuple[str, int, frozenset[int] | None, int], float]
"""Accuracies by placement, reduction ratio, the stages that hold SE (None for all), and the number of blocks."""


def accuracies_in(folder: Path) -> Accuracies:
    """Read the mean accuracies of SE as `advise` inserts it from the folder of an ablation.

    Raises:
        InputError: the folder holds no ablation.
    """
    try:
        values: Any = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        found: dict[tuple[str, int, frozenset[int] | None, int], float] = {}
        for each in values["cells"].values():
            se, stages = each["se"], each["stages"]
            if se is None or "make" in se:
                continue
            usual = SESpec(se["reduction_ratio"], placement=se["placement"]).to_json()
            if {**usual, **se, "start": None} == usual:  # the same but for its start
                which = None if stages is None else frozenset(map(int, stages))
                found[se["placement"], se["reduction_ratio"], which, each["sites"]] = float(each["mean"])
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder} holds no finished ablation: give the folder that senet ablate wrote") from error
