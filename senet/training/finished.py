"""Read a finished run from its folder, and check that it is complete, consistent and of the right images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from senet.console.progress import duration
from senet.data import unreadable as badfiles
from senet.data.unreadable import BadFile
from senet.errors import StudyError
from senet.files.records import Record
from senet.files.run_folder import METRICS, MODEL, PREDICTIONS, RESULT, SETTINGS, read_csv, read_json, same_settings
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["RunResult", "finished_run"]

_SPLITS = ("test", "val")
_COLUMNS = ("image", "class", "predicted", "probability", "correct")


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: the folder of its files: model.safetensors, metrics.csv, predictions.csv,
            tensorboard/ and result.json. best.safetensors is the network of the epoch with the best
            monitored accuracy. Results are those of the last epoch.
        accuracy: of the last epoch's network on the reported images, a fraction.
        split: the reported split: "test" or "val".
        correct: whether each of its images was classified correctly.
        seconds: the training time, without evaluation.
        history: one row of metrics per epoch.
        notes: remarks on the run.
        skipped: unreadable files.
    """

    folder: Path
    accuracy: float
    split: str
    correct: tuple[bool, ...]
    seconds: float
    history: tuple[Mapping[str, float], ...]
    notes: tuple[str, ...]
    skipped: tuple[BadFile, ...] = ()

    def __str__(self) -> str:
        right, count = sum(self.correct), len(self.correct)
        lines = (
            *self.notes,
            f"{self.split} accuracy after {counted(len(self.history), 'epoch')}: {self.accuracy:.2%} "
            f"({right} of {count} images)",
            f"training time: {duration(self.seconds)}",
            f"network: {self.folder / MODEL}",
            *badfiles.listed(self.skipped),
        )
        return "\n".join(lines)


def finished_run(folder: Path, images: Sequence[str] | None = None) -> RunResult | None:
    """The run in a folder, or None if it is not finished.

    Args:
        folder: the run's folder.
        images: the names of the images on which it must have been measured, in order. Runs are
            compared image by image, so another order would pair the wrong predictions.

    Raises:
        StudyError: a file was edited or truncated, belongs to another run, or contradicts the
            others. The message names file and field.
    """
    file = folder / RESULT
    if not file.exists():
        return None
    found = Record(file, read_json(file))
    if not same_settings(read_json(folder / SETTINGS), found.fields.get("settings")):
        raise StudyError(f"{file}: settings are not those of {SETTINGS}: one of them is of another run, or was edited")
    history = _history(folder / METRICS, found.count("epochs"))
    correct = _correct(folder / PREDICTIONS, found.count("images"), images)
    accuracy, right = found.number("accuracy", 0, 1), sum(correct)
    if abs(accuracy - right / max(1, len(correct))) > 1e-6:
        raise found.wrong("accuracy", f"the {right} right answers of {len(correct)} in {PREDICTIONS}")
    bad = found.records("bad_files", optional=True)  # earlier versions did not write it
    return RunResult(
        folder=folder,
        accuracy=accuracy,
        split=found.text("split", _SPLITS),
        correct=correct,
        seconds=found.number("seconds", 0),
        history=history,
        notes=found.texts("notes"),
        skipped=tuple(BadFile(each.text("name"), each.text("reason")) for each in bad),
    )


def _history(path: Path, epochs: int) -> tuple[dict[str, float], ...]:
    """The metrics of each epoch."""
    rows = read_csv(path)
    if len(rows) != epochs:
        raise StudyError(f"{path} has {len(rows)} epochs, and {RESULT} says {epochs}: it was edited or cut short")
    history = []
    for epoch, row in enumerate(rows, start=1):
        record = Record(f"{path}, row {epoch + 1}", row)
        if record.number("epoch") != epoch:
            raise record.wrong("epoch", str(epoch))
        history.append({name: _metric(record, name) for name in row})
    return tuple(history)


def _metric(record: Record, name: str) -> float:
    if name.endswith("_accuracy"):
        return record.number(name, 0, 1)
    return record.number(name, finite=not name.endswith("_loss"))  # a validation loss may be infinite


def _correct(path: Path, count: int, images: Sequence[str] | None) -> tuple[bool, ...]:
    """Whether each image was classified correctly."""
    rows = read_csv(path)
    if len(rows) != count:
        raise StudyError(f"{path} has {len(rows)} images, and {RESULT} says {count}: it was edited or cut short")
    if images is not None and len(images) != count:
        raise StudyError(f"{path} has {count} images, and the data has {len(images)} now: use another folder")
    correct = []
    for at, row in enumerate(rows):
        record = Record(f"{path}, row {at + 2}", row)
        for name in _COLUMNS:
            record.text(name)
        if images is not None and row["image"] != images[at]:
            place = f"image {at + 1}" if at else "the first image"
            raise record.wrong("image", f"{images[at]!r}, which is {place} of the data")
        right = record.text("correct", ("True", "False")) == "True"
        if right and row["class"] != row["predicted"]:
            raise record.wrong("correct", f"False: the class is {row['class']!r}, predicted {row['predicted']!r}")
        record.number("probability", 0, 1 + 1e-6)
        correct.append(right)
    return tuple(correct)
