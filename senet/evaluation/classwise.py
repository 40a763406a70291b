"""Results per class, and the confusion matrix."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from senet.report.figures import short

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from torch import Tensor

    from senet.evaluation.logits import Predictions

__all__ = ["ClassResult", "Confusion", "class_results", "confusion_figure", "confusion_of"]

NAMED, NUMBERED = 40, 15
"""The most classes for which the figure of the confusion matrix shows names, and numbers."""


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """A network's results on the images of one class.

    Attributes:
        index: the class's index in the network.
        name: the class's name.
        images: the number of its images.
        top1: the share of its images for which it had the highest score (recall); None without images.
        top5: the share of its images for which it was among the five highest scores; None without images.
        precision: the share of images predicted as this class that are of it; None if there are none.
        mistaken_for: the most frequent wrong prediction for its images; "" if there is none.
    """

    index: int
    name: str
    images: int
    top1: float | None
    top5: float | None
    precision: float | None
    mistaken_for: str


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The confusion matrix of the classes that occur.

    Attributes:
        indices: the ascending indices of classes that are some image's label or prediction.
        names: their names.
        counts: (k, k) int64: the number of images of class i (row) predicted as class j (column).
    """

    indices: tuple[int, ...]
    names: tuple[str, ...]
    counts: Tensor

    def rows(self) -> list[dict[str, Any]]:
        """One row for each class, with a column for each class."""
        taken = ("class", *self.names)  # the first column, and a class may be called so too
        pairs = zip(self.indices, self.names, strict=True)
        heads = [name if taken.count(name) == 1 else f"{name} ({index})" for index, name in pairs]
        return [
            {"class": head, **dict(zip(heads, row, strict=True))}
            for head, row in zip(heads, self.counts.tolist(), strict=True)
        ]


def confusion_of(predictions: Predictions, name_of: Callable[[int], str]) -> Confusion:
    """The confusion matrix, computed by torchmetrics."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    first = predictions.top[:, 0].contiguous()
    seen = torch.cat([predictions.labels, first]).unique()  # type: ignore[no-untyped-call]
    places = torch.searchsorted(seen, torch.stack([first, predictions.labels]))
    counts = multiclass_confusion_matrix(places[0], places[1], num_classes=max(2, len(seen)))
    indices = tuple(seen.tolist())
    return Confusion(indices, tuple(map(name_of, indices)), counts[: len(seen), : len(seen)].long())


def class_results(predictions: Predictions, confusion: Confusion) -> tuple[ClassResult, ...]:
    """The results of each class that has images."""
    results = []
    among_five, taken = predictions.among_five, confusion.counts.sum(0)
    for at, (index, name) in enumerate(zip(confusion.indices, confusion.names, strict=True)):
        own = predictions.labels == index
        images = int(own.sum())
        if not images:
            continue
        row = confusion.counts[at]
        others = row.clone()
        others[at] = 0
        results.append(
            ClassResult(
                index=index,
                name=name,
                images=images,
                top1=int(row[at]) / images,
                top5=int(among_five[own].sum()) / images,
                precision=int(row[at]) / int(taken[at]) if taken[at] else None,
                mistaken_for=confusion.names[int(others.argmax())] if others.any() else "",
            )
        )
    return tuple(results)


def confusion_figure(confusion: Confusion, title: str) -> Figure:
    """The confusion matrix as shares of each row, with names and numbers if there is room."""
    from matplotlib.figure import Figure

    count = len(confusion.names)
    side = 4.5 + min(count, NAMED) * (0.42 if count <= NUMBERED else 0.16)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    of_class = confusion.counts.sum(1, keepdim=True)
    shares = (confusion.counts / of_class.clamp(min=1)).numpy()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="share of the images of a class", shrink=0.8)
    if count <= NAMED:
        names = [short(name, 24) for name in confusion.names]
        size = 9 if count <= NUMBERED else 7
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
    if count <= NUMBERED:
        for row, numbers in enumerate(confusion.counts.tolist()):
            for column, number in enumerate(numbers):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(number) if number else "", ha="center", va="center", color=colour)
    which = "" if count <= NAMED else " (by its place in confusion.csv, from 0)"
    axes.set_xlabel(f"taken for{which}")
    axes.set_ylabel(f"class{which}")
    axes.set_title(title, fontsize=11)
    return figure
