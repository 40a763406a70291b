"""The result of an evaluation: as values, as text, and as files."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.console.machine import machine
from senet.data import unreadable as badfiles
from senet.errors import StudyError
from senet.evaluation.classwise import ClassResult, Confusion, class_results, confusion_figure, confusion_of
from senet.evaluation.reliability import Bin, bins_of, reliability_figure
from senet.files.records import Record
from senet.files.run_folder import (
    RESULT,
    SETTINGS,
    out_folder,
    read_json,
    refuse_inside,
    writable_folder,
    write_csv,
    write_json,
)
from senet.files.tables import KINDS, check_table, write_table
from senet.report.figures import drawing, save_figure
from senet.report.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from senet.data.transforms import Preprocessing
    from senet.data.unreadable import BadFile
    from senet.evaluation.logits import Predictions

__all__ = ["Evaluation", "evaluation_folder", "prediction_columns", "write_evaluation"]

CLASSES = 20
"""With more classes, the screen shows only this many of the worst; per_class.csv has all."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        top1: the share of images whose class had the highest score.
        top5: the share of images whose class was among the five highest scores; 1 with five classes or fewer.
        loss: the mean cross entropy.
        count: number of images.
        split: the split: "test", "val", "train" or "all".
        classes: the network's number of classes.
        preprocessing: the preprocessing used.
        correct: whether each image was classified correctly.
        calibration_error: expected calibration error (L1) over 15 bins of confidence of equal width.
        model: the network's name.
        weights: the weights, if named.
        data: the name of the data.
        images: the images' names.
        names: class names by index; a class without one is called by its index.
        answers: the predictions for each image.
        skipped: unreadable files, which are not counted.
        notes: remarks on the network.
    """

    top1: float
    top5: float
    loss: float
    count: int
    split: str
    classes: int
    preprocessing: Preprocessing
    correct: tuple[bool, ...]
    calibration_error: float
    model: str = dataclasses.field(compare=False)
    weights: str | None = dataclasses.field(compare=False)
    data: str
    images: tuple[str, ...] = dataclasses.field(repr=False)
    names: Mapping[int, str] = dataclasses.field(repr=False)
    answers: Predictions = dataclasses.field(repr=False, compare=False)
    skipped: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def name_of(self, index: int) -> str:
        """The name of a class."""
        return self.names.get(index, str(index))

    @functools.cached_property
    def confusion(self) -> Confusion:
        """The confusion matrix."""
        return confusion_of(self.answers, self.name_of)

    @functools.cached_property
    def per_class(self) -> tuple[ClassResult, ...]:
        """The results of each class that has images."""
        return class_results(self.answers, self.confusion)

    @functools.cached_property
    def bins(self) -> tuple[Bin, ...]:
        """The bins of confidence over which the calibration error averages."""
        return bins_of(self.answers)

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), wrap=False)

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        how = self.preprocessing
        colours = "" if how.channels == "RGB" else f", {how.channels}"
        return [
            *self.notes,
            f"top-1 accuracy: {self.top1:.2%} ({sum(self.correct)} of {self.count} images)",
            *[f"top-5 accuracy: {self.top5:.2%} ({round(self.top5 * self.count)} of {self.count})"] * self._five,
            f"loss: {self.loss:.4f}",
            f"expected calibration error: {self.calibration_error:.2%} ({len(self.bins)} bins)",
            f"images: split {self.split}, {how.words}{colours}; the network has {self.classes} classes",
            "",
            self._class_table(),
            *badfiles.listed(self.skipped),
        ]

    @property
    def _five(self) -> bool:
        """Whether top-5 is informative: with five classes or fewer it is always 1."""
        return self.classes > 5

    def _class_table(self) -> Table:
        results, title = self.per_class, "Each class"
        if len(results) > CLASSES:
            results = tuple(sorted(results, key=lambda r: (r.top1 or 0.0, r.index))[:CLASSES])
            title = f"The {CLASSES} of {len(self.per_class)} classes that it knows least"
        five = self._five
        rows = [
            (r.name, str(r.images), _percent(r.top1), *[_percent(r.top5)] * five, _percent(r.precision), r.mistaken_for)
            for r in results
        ]
        columns = ("class", "images", "top-1", *["top-5"] * five, "precision", "most mistaken for")
        return Table.of(title, columns, rows, numbers=range(1, 4 + five))

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json: accuracies and the calibration error are fractions."""
        return {
            "top1": self.top1,
            "top5": self.top5,
            "loss": _finite(self.loss),
            "calibration_error": _finite(self.calibration_error),
            "bins": [dataclasses.asdict(each) for each in self.bins],
            "images": self.count,
            "split": self.split,
            "classes": self.classes,
            "model": self.model,
            "weights": self.weights,
            "data": self.data,
            "preprocessing": self.preprocessing.to_json(),
            "bad_files": badfiles.to_json(self.skipped),
            "notes": list(self.notes),
        }

    def predictions(self) -> list[dict[str, Any]]:
        """One row per image: its class, and the five most likely classes with probabilities."""
        answers = self.answers
        return [
            {"image": image, "class": self.name_of(label), "correct": label == top[0]}
            | prediction_columns([self.name_of(index) for index in top], probabilities)
            for image, label, top, probabilities in zip(
                self.images, answers.labels.tolist(), answers.top.tolist(), answers.probabilities.tolist(), strict=True
            )
        ]


def prediction_columns(names: list[str], probabilities: list[float]) -> dict[str, Any]:
    """The columns predicted, probability, predicted_2, probability_2, ... of one image."""
    columns: dict[str, Any] = {}
    for place, (name, probability) in enumerate(zip(names, probabilities, strict=True), start=1):
        ending = "" if place == 1 else f"_{place}"
        columns[f"predicted{ending}"] = name
        columns[f"probability{ending}"] = probability
    return columns


def evaluation_folder(out: str | Path, data: Path | None, predictions: str) -> Path:
    """Make the folder of an evaluation; an earlier evaluation in it is overwritten.

    Raises:
        StudyError: it cannot be written, lies in the folder `data`, or holds a run or the result of another program.
    """
    if predictions not in KINDS:
        raise StudyError(f"predictions are written as {' or '.join(KINDS)}, not as {predictions!r}")
    folder = out_folder(out)
    if (folder / SETTINGS).exists():
        raise StudyError(f"{folder} holds a run or a comparison, whose result.json is its own: choose another folder")
    if (file := folder / RESULT).exists() and "top1" not in Record(file, read_json(file)).fields:
        raise StudyError(f"{file} was not written by an evaluation: choose another folder")
    refuse_inside(folder, data)
    writable_folder(folder)
    check_table(folder / f"predictions.{predictions}")
    return folder


def write_evaluation(found: Evaluation, folder: Path, *, predictions: str, device: torch.device) -> None:
    """Write the evaluation's files, result.json last."""
    (folder / RESULT).unlink(missing_ok=True)  # of an earlier evaluation, whose other files go now
    for kind in {*KINDS} - {predictions}:
        (folder / f"predictions.{kind}").unlink(missing_ok=True)
    title = f"{found.model} on {found.data} ({found.split}: {found.count} images)"
    write_table(folder / f"predictions.{predictions}", found.predictions())
    write_csv(folder / "confusion.csv", found.confusion.rows())
    write_csv(folder / "per_class.csv", [dataclasses.asdict(each) for each in found.per_class])
    write_csv(folder / "calibration.csv", [dataclasses.asdict(each) for each in found.bins])
    with drawing():
        figures = {
            "confusion": confusion_figure(found.confusion, title),
            "reliability": reliability_figure(found.bins, found.calibration_error, title),
        }
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            save_figure(figure, folder / f"{name}.{kind}")
    write_json(folder / RESULT, {**found.to_json(), "machine": machine(device)})


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None  # JSON has no other


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
