"""Draw the guide's pictures into docs/guide/pictures; with --measured also those that its code makes (minutes)."""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = Path(__file__).resolve().parent
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#7F7F7F")
SE = "#D55E00"


def arrow(axes, start, end, words="", *, below="", colour="black", rad=0.0):
    """An arrow with code above it, and what that does below it."""
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=14, color=colour, lw=1.4, connectionstyle=f"arc3,rad={rad}"
        )
    )
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    axes.text(x, y + 0.22, words, ha="center", va="bottom", family="monospace", fontsize=9)
    axes.text(x, y - 0.22, below, ha="center", va="top", fontsize=9, color="#444444")


def maps(axes, x, y, strength, values):
    """Eight maps of 4 × 4 places, one behind the other; `strength` fades each."""
    for channel in reversed(range(8)):
        left, bottom = x + 0.2 * channel, y + 0.2 * channel
        axes.add_patch(Rectangle((left, bottom), 1.6, 1.6, facecolor="white", edgecolor="none"))
        for row in range(4):
            for column in range(4):
                alpha = strength[channel] * values[channel, row, column]
                place = (left + 0.4 * column, bottom + 0.4 * row)
                axes.add_patch(Rectangle(place, 0.4, 0.4, facecolor=COLOURS[channel], alpha=alpha, edgecolor="none"))
        axes.add_patch(Rectangle((left, bottom), 1.6, 1.6, facecolor="none", edgecolor=COLOURS[channel], lw=1.1))


def cells(axes, x, middle, alphas, colours, texts=None):
    """A vector as a column of cells."""
    bottom = middle - 0.19 * len(alphas)
    for index, (alpha, colour) in enumerate(zip(alphas, colours, strict=True)):
        place = (x, bottom + 0.38 * index)
        axes.add_patch(Rectangle(place, 0.5, 0.36, facecolor=colour, alpha=alpha, edgecolor="none"))
        axes.add_patch(Rectangle(place, 0.5, 0.36, facecolor="none", edgecolor=colour, lw=1.1))
        if texts is not None:
            axes.text(x + 0.6, place[1] + 0.18, f"{texts[index]:.1f}", va="center", fontsize=8)


def blank(width, height, size):
    """Axes without axes."""
    figure = Figure(figsize=size)
    figure.patch.set_facecolor("white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def block() -> Figure:
    """The shapes on their way through the block."""
    figure, axes = blank(18.6, 5.2, (11.2, 3.13))
    values = np.random.default_rng(3).uniform(0.05, 1, (8, 4, 4)) * np.linspace(0.45, 1, 8)[::-1, None, None]
    gates = np.array([0.9, 0.1, 0.6, 0.2, 1.0, 0.4, 0.1, 0.8])
    middle = 2.7
    maps(axes, 0.4, 1.2, np.ones(8), values)
    arrow(axes, (3.7, middle), (5.7, middle), "u.mean((2, 3))", below="squeeze")
    cells(axes, 5.9, middle, values.mean((1, 2)), COLOURS)
    arrow(axes, (6.7, middle), (8.3, middle), "relu(fc1(z))", below="C → C / r")
    cells(axes, 8.5, middle, (0.7, 0.35), ("#333333", "#333333"))
    arrow(axes, (9.3, middle), (11.5, middle), "sigmoid(fc2(·))", below="C / r → C")
    cells(axes, 11.7, middle, gates, COLOURS, gates)
    arrow(axes, (12.9, middle), (14.7, middle), "u * s", below="scale")
    maps(axes, 15.0, 1.2, gates, values)
    for x, name, shape in (
        (1.9, "U", "(N, C, H, W)"),
        (6.15, "z", "(N, C)"),
        (8.75, "hidden", "(N, C / r)"),
        (12.0, "s, the gates", "(N, C)"),
        (16.5, "U, rescaled", "(N, C, H, W)"),
    ):
        axes.text(x, 0.72, name, ha="center", va="center", fontsize=10, weight="bold")
        axes.text(x, 0.27, shape, ha="center", va="center", fontsize=9, family="monospace")
    axes.plot((2.6, 2.6, 13.8), (4.35, 5.0, 5.0), color="#888888", lw=1.2)
    arrow(axes, (13.8, 5.0), (13.8, 3.5), colour="#888888")
    return figure


def unit() -> Figure:
    """Where the block sits in a residual unit."""
    figure, axes = blank(16.4, 3.4, (10.6, 2.2))
    names = ("conv1", "bn1", "relu", "conv2", "bn2", "SE")
    middle, x = 1.0, 1.4
    axes.text(0.45, middle, "x", ha="center", va="center", fontsize=12, family="monospace")
    start = 0.7
    for name in names:
        colour = SE if name == "SE" else "#333333"
        box = FancyBboxPatch((x, middle - 0.42), 1.35, 0.84, boxstyle="round,pad=0.02,rounding_size=0.12")
        box.set(
            facecolor="#FBE5D6" if name == "SE" else "#F2F2F2", edgecolor=colour, linewidth=1.8 if name == "SE" else 1
        )
        axes.add_patch(box)
        weight = "bold" if name == "SE" else "normal"
        axes.text(x + 0.675, middle, name, ha="center", va="center", family="monospace", fontsize=10, weight=weight)
        arrow(axes, (start, middle), (x, middle))
        start, x = x + 1.35, x + 1.85
    axes.add_patch(Circle((x + 0.1, middle), 0.32, facecolor="white", edgecolor="#333333", lw=1.2))
    axes.text(x + 0.1, middle, "+", ha="center", va="center", fontsize=13)
    arrow(axes, (start, middle), (x - 0.22, middle), colour=SE)
    arrow(axes, (x + 0.42, middle), (x + 1.0, middle))
    box = FancyBboxPatch((x + 1.0, middle - 0.42), 1.2, 0.84, boxstyle="round,pad=0.02,rounding_size=0.12")
    box.set(facecolor="#F2F2F2", edgecolor="#333333", linewidth=1)
    axes.add_patch(box)
    axes.text(x + 1.6, middle, "relu", ha="center", va="center", family="monospace", fontsize=10)
    arrow(axes, (x + 2.2, middle), (x + 2.85, middle))
    for points in (((0.95, middle), (0.95, 2.75)), ((0.95, 2.75), (x + 0.1, 2.75))):
        axes.plot(*zip(*points, strict=True), color="#333333", lw=1.4)
    arrow(axes, (x + 0.1, 2.75), (x + 0.1, middle + 0.32))
    axes.text((x + 1) / 2, 2.95, "shortcut: as it is", ha="center", va="bottom", fontsize=9.5)
    axes.text((x + 1) / 2, 1.75, "branch: what the unit adds, each channel times its gate", ha="center", fontsize=9.5)
    return figure


def start() -> Figure:
    """The gate over what the second layer says, and where inserted blocks begin."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    a = np.linspace(-6, 6, 121)
    axes.plot(a, 2 / (1 + np.exp(-a)), color=SE, lw=2, label="2 σ(a): a block that was inserted")
    axes.plot(
        a, 1 / (1 + np.exp(-a)), color="#0072B2", lw=1.4, ls="--", label="σ(a): the paper's, trained from scratch"
    )
    axes.plot([0], [1], "o", color="black")
    axes.text(-0.3, 1.05, "start: a = 0, gate = 1", ha="right", va="bottom", fontsize=9)
    axes.axhline(1, color="#999999", lw=0.8)
    axes.set(xlabel="a, the output of the second layer", ylabel="gate", yticks=(0, 0.5, 1, 1.5, 2), xlim=(-6, 6))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def context() -> Figure:
    """Pictures of the made task, with their classes."""
    from senet.data.context import CLASSES, draw_context

    pictures, labels = draw_context(8, seed=1)
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    for axes, picture, label in zip(figure.subplots(2, 4).flat, pictures, labels, strict=True):
        axes.imshow(picture, interpolation="nearest")
        axes.set_title(CLASSES[label], fontsize=11)
        axes.set_axis_off()
    return figure


DRAWN = {"block": block, "unit": unit, "start": start, "context": context}
MEASURED = {
    "learning_curves": "runs/guide/learning_curves.svg",
    "gates_by_class": "runs/guide/explained/gates_by_class_2.svg",
}


def draw(folder: Path) -> None:
    """Draw what no measurement is needed for."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "guide", "font.family": "DejaVu Sans"}):
        for name, figure in DRAWN.items():
            figure().savefig(folder / f"{name}.svg", metadata={"Date": None})


def measure(folder: Path) -> None:
    """Run the code of the pages that train and explain, and keep the pictures that it makes."""
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for page in ("4-train.md", "5-explain.md"):
            names: dict[str, object] = {}
            for code in re.findall(r"^```python\n(.*?)^```", (HERE / page).read_text(encoding="utf-8"), re.S | re.M):
                exec(code, names)
        for name, made in MEASURED.items():
            shutil.copyfile(made, folder / f"{name}.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measured", action="store_true")
    arguments = parser.parse_args()
    pictures = HERE / "pictures"
    pictures.mkdir(exist_ok=True)
    draw(pictures)
    if arguments.measured:
        measure(pictures)
