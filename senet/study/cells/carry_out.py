"""The loop of every study: read finished cells, and train the others here or elsewhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from senet.errors import StudyError
from senet.files.run_folder import RESULT, SETTINGS, open_folder, out_folder, read_json, refuse_link
from senet.study.cells.cell import Cell, CellOptions, incomplete
from senet.study.cells.children import run_children
from senet.study.cells.commands import of_cell, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from senet.console.progress import Progress

__all__ = ["GOES_ON", "Carried", "Work", "carry_out", "listed", "on_device_of", "open_study"]

R = TypeVar("R")

GOES_ON = "The same command resumes it"


@dataclasses.dataclass(frozen=True)
class Work(Generic[R]):
    """A study's operations on a cell.

    Attributes:
        folder: the study's folder.
        train: train a cell here in its own folder, resuming if possible.
        finished: read a cell's result; None if it is not finished.
        words: return the study's command, from which `of_cell` makes a cell's; called only if needed.
        devices: the devices that train cells in parallel; with fewer than two, cells run here in sequence.
        goes_on: errors of a training here that do not stop the others.
    """

    folder: Path
    train: Callable[[Cell], R]
    finished: Callable[[Cell], R | None]
    words: Callable[[], list[str]]
    devices: Sequence[str] = ()
    goes_on: tuple[type[Exception], ...] = ()


@dataclasses.dataclass(frozen=True)
class Carried(Generic[R]):
    """The outcome of cells.

    Attributes:
        found: the result of each finished cell.
        failed: the reasons of failed cells, in words.
        submitted: a message on cells that a scheduler now trains; "" without one.
    """

    found: dict[Cell, R]
    failed: dict[Cell, str]
    submitted: str = ""

    def whole(self, cells: Sequence[Cell]) -> dict[Cell, R]:
        """The results, if all cells are finished.

        Raises:
            StudyError: some are not.
        """
        missing = [cell for cell in cells if cell not in self.found]
        if missing:
            raise StudyError(incomplete(missing, self.failed, GOES_ON))
        return self.found


def open_study(path: str | Path, settings: Mapping[str, Any], cells: CellOptions, *, resume: bool) -> Path:
    """Open a study's folder; for a report alone it must exist.

    Where this command trains nothing, the first cell begins the study, on a device of its own.

    Raises:
        StudyError: as in `open_folder`, or a report is requested of a folder without a study.
    """
    folder = out_folder(path)
    if cells.report_only and not (folder / SETTINGS).is_file():
        raise StudyError(f"{path} holds no study to draw a report of: give a study's folder")
    own = on_device_of(folder, settings) if cells.elsewhere else settings
    return open_folder(folder, own, resume=resume, begin=not cells.elsewhere)


def on_device_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the device that the study in the folder is trained on, if it is begun."""
    held = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else None
    device = held.get("device") if isinstance(held, dict) else None
    return {**settings, "device": device} if device and "device" in settings else dict(settings)


def listed(cells: Sequence[Cell], words: Sequence[str]) -> list[str]:
    """The command of each cell, one per line."""
    return [one_line(of_cell(words, cell, None)) for cell in cells]


def carry_out(
    work: Work[R], cells: Sequence[Cell], options: CellOptions, shown: Progress, *, steps: int = 0
) -> Carried[R]:
    """Train unfinished cells as the options say.

    Args:
        work: the study's operations.
        cells: the cells in order.
        options: whether to train, and with which launcher.
        shown: the progress display.
        steps: the steps of a training, for the progress; a finished cell's count as done.

    Raises:
        Exception: any error from training a cell here.
    """
    for cell in cells:
        if not (work.folder / cell.name / RESULT).is_file():  # a finished training may lie elsewhere: it is only read
            refuse_link(work.folder / cell.name)
    found = {cell: result for cell in cells if (result := work.finished(cell)) is not None}
    waiting = [cell for cell in cells if cell not in found]
    failed: dict[Cell, str] = {}
    if options.report_only or not waiting:
        return Carried(found, failed)
    if options.launcher == "slurm":
        from senet.study.cells.slurm import submit

        words = work.words()
        job = submit([one_line(of_cell(words, cell, None)) for cell in waiting], work.folder, options, shown)
        if not options.wait:
            return Carried(found, failed, job)
        failed = dict.fromkeys(waiting, "is not finished")
    elif len(work.devices) > 1:
        words = work.words()
        failed = run_children(
            waiting, work.devices, lambda cell, device: of_cell(words, cell, device), work.folder, shown
        )
    else:
        with shown.steps(steps * len(cells)):
            shown.step(steps * len(found), worked=False)
            for cell in waiting:
                try:
                    found[cell] = work.train(cell)
                except work.goes_on as error:
                    failed[cell] = str(error)
                    shown.note(f"{cell.name} {error}")
        return Carried(found, failed)
    found |= {cell: result for cell in waiting if (result := work.finished(cell)) is not None}
    unfinished = [cell for cell in waiting if cell not in found]
    return Carried(found, {cell: failed.get(cell, "ended without a result") for cell in unfinished})
