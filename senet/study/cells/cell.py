"""Cells, and the selection of cells by a command."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING

from senet.errors import InputError, StudyError
from senet.files.run_folder import SETTINGS
from senet.recipe.knobs import check_seed
from senet.words import did_you_mean, listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["LAUNCHERS", "Cell", "CellOptions", "incomplete", "left_out", "seeds_in", "variants_left_out"]

LAUNCHERS = ("slurm",)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        variant: "plain", "se", or a variant of an ablation.
        seed: the seed of its randomness.
    """

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's folder."""
        return f"{self.variant}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class CellOptions:
    """Which cells of a study to train, and where; by default all of them, here.

    Attributes:
        only: train only the cells of this variant, and draw no report.
        seed: train only the cells of this seed, and draw no report.
        list_cells: train nothing; list the command of each cell.
        report_only: train nothing; draw the report of finished cells.
        launcher: "slurm" submits the cells as one job array.
        wait: whether to wait for the jobs.
        sbatch: options for sbatch, as typed.

    Raises:
        InputError: two options exclude each other, `seed` is too large, or `sbatch` lacks a closing quote.
    """

    only: str | None = None
    seed: int | None = None
    list_cells: bool = False
    report_only: bool = False
    launcher: str | None = None
    wait: bool = True
    sbatch: str | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_seed(self.seed)
        if self.launcher is not None and self.launcher not in LAUNCHERS:
            raise InputError(f"launcher is one of {', '.join(LAUNCHERS)}, not {self.launcher!r}")
        asked = {"--list-cells": self.list_cells, "--report-only": self.report_only, "--launcher": self.launcher}
        several = [flag for flag, value in asked.items() if value]
        if len(several) > 1:
            raise InputError(f"{several[0]} and {several[1]} do not go together: give one of them")
        if self.report_only and self.some:
            raise InputError("--report-only draws all cells that are finished: leave out --only and --seed")
        if self.launcher is None and (self.sbatch is not None or not self.wait):
            flag = "--no-wait" if self.sbatch is None else "--sbatch"
            raise InputError(f"{flag} is for --launcher slurm")
        try:
            shlex.split(self.sbatch or "")
        except ValueError as error:
            raise InputError(f"--sbatch takes words quoted as for a shell, not {self.sbatch!r} ({error})") from error

    @property
    def some(self) -> bool:
        """Whether only some cells are selected, without a report."""
        return self.only is not None or self.seed is not None

    @property
    def elsewhere(self) -> bool:
        """Whether this command trains nothing: this machine need not have the devices of the cells."""
        return self.list_cells or self.report_only or self.launcher is not None

    def chosen(self, variants: Iterable[str], seeds: int) -> list[Cell]:
        """The selected cells, seed by seed; a named seed may exceed `seeds`.

        Raises:
            StudyError: there is no such variant.
        """
        names = list(variants)
        if self.only is not None and self.only not in names:
            raise StudyError(f"there is no variant {self.only!r}{did_you_mean(self.only, names)}")
        numbers = range(seeds) if self.seed is None else [self.seed]
        return [Cell(name, number) for number in numbers for name in names if self.only in (None, name)]


def seeds_in(folder: Path, variants: Sequence[str], seeds: int) -> list[Cell]:
    """The cells of `seeds` seeds, and of further seeds that an earlier call began in the folder."""
    cells = {Cell(name, number) for number in range(seeds) for name in variants}
    for name in variants:
        for path in folder.glob(f"{name}-*"):
            number = path.name.removeprefix(f"{name}-")
            if number.isascii() and number.isdecimal() and str(int(number)) == number and path.is_dir():
                cells.add(Cell(name, int(number)))
    order = {name: place for place, name in enumerate(variants)}
    return sorted(cells, key=lambda cell: (cell.seed, order[cell.variant]))


def left_out(folder: Path, variants: Sequence[str], chosen: Iterable[Cell]) -> list[str]:
    """One remark if the folder has seeds that a report of the chosen cells leaves out; else none."""
    seeds = sorted({cell.seed for cell in seeds_in(folder, variants, 0)} - {cell.seed for cell in chosen})
    if not seeds:
        return []
    named = f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
    return [f"The folder also has {named}, left out here: give --seeds {seeds[-1] + 1}, or --report-only."]


def variants_left_out(folder: Path, variants: Iterable[str]) -> list[str]:
    """One remark if the folder has variants, of an earlier call, that a report of these leaves out; else none."""
    there = {path.parent.name.rpartition("-")[0] for path in folder.glob(f"*-*/{SETTINGS}")}
    others = sorted(there - set(variants))
    return (
        [f"The folder also has {listed(others, 8)}, left out here: name their tables and grid too."] if others else []
    )


def incomplete(missing: Sequence[Cell], failed: Mapping[Cell, str], goes_on: str) -> str:
    """One line on unfinished cells: names, reasons, and the next step."""
    said = [f"{cell.name} {why}" for cell, why in failed.items()]
    said += [f"{cell.name} is not finished" for cell in missing if cell not in failed]
    shown = "; ".join(said[:4]) + (f"; and {len(said) - 4} more" if len(said) > 4 else "")
    return f"{shown}. {goes_on}"
