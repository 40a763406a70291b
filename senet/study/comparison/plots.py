"""The learning curves of a comparison."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from senet.report.figures import COLOURS, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from senet.study.comparison.report import Comparison

__all__ = ["learning_curves"]

PLAIN, SE = COLOURS[:2]


def learning_curves(comparison: Comparison) -> Figure:
    """Validation accuracy and training loss by epoch: seeds as thin lines, their mean thick."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    accuracy, loss = figure.subplots(1, 2)
    split = comparison.monitored
    _curves(accuracy, comparison, f"{split}_accuracy", 100)
    accuracy.set_ylabel(f"accuracy on {split} images (%)")
    _curves(loss, comparison, "train_loss", 1)
    loss.set_ylabel("training loss (cross entropy, nats)")
    for axes in (accuracy, loss):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.legend(loc="lower right", frameon=False)
    figure.suptitle(f"{short(comparison.model)} on {short(comparison.data)}")
    return figure


def _curves(axes: Axes, comparison: Comparison, column: str, scale: float) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, colour, arm in (("plain", PLAIN, comparison.plain), (f"with {comparison.block}", SE, comparison.se)):
        runs = [[scale * row[column] for row in history] for history in arm.histories]
        epochs = range(1, len(runs[0]) + 1)
        marker = "o" if len(epochs) == 1 else None  # a single point makes no line
        if len(runs) > 1:
            for seed, run in enumerate(runs):
                label = f"{name}, each of {len(runs)} seeds" if seed == 0 else None
                axes.plot(epochs, run, color=colour, alpha=0.35, linewidth=0.9, marker=marker, label=label)
        mean = [statistics.fmean(values) for values in zip(*runs, strict=True)]
        label = f"{name}, mean" if len(runs) > 1 else name
        axes.plot(epochs, mean, color=colour, linewidth=2.2, marker=marker, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # 1 alone where there is one epoch
