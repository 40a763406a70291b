"""Show the paper's cost tables as text and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.console.display import count, share
from senet.errors import InputError
from senet.extras import extra
from senet.report.figures import COLOURS, save_figure
from senet.report.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from senet.paper.figures import ImageNetRow
    from senet.paper.tables import Counted, PaperTables

__all__ = ["accuracy_figure", "figure_format", "paper_tables", "write_figure"]

FIGURES = (".png", ".svg")
USUAL_SIDE = 224  # pixels; the paper's image size, except for Inception-ResNet-v2


def paper_tables(tables: PaperTables) -> list[str | Table]:
    """The paper's cost tables as computed, with the printed figures beside them and the reasons for differences.

    No table is wider than a terminal of 80 columns.
    """
    return [
        _plain_table(tables),
        _se_table(tables),
        *_notes(tables),
        "",
        _parameters_table(tables),
        _last_stage_table(tables),
        _errors_table(tables),
        _cifar_table(tables),
        _cifar_errors_table(tables),
        _ablations_table(tables),
        "The paper rounds its parameters, some of them upwards: ours are within 0.1 M of each.",
        *(
            f"{row.what}: {count(counted.multiply_adds)} multiply-adds, the paper's {_printed(row.multiply_adds)}."
            for row, counted in tables.variants
            if row.multiply_adds is not None
        ),
    ]


def _plain_table(tables: PaperTables) -> Table:
    rows = [
        (_with_side(row, counted), *_beside(counted.plain_multiply_adds, row.multiply_adds))
        for row, counted in (*tables.imagenet, *tables.mobile)
    ]
    title = f"Multiply-adds of the plain networks for one image of {USUAL_SIDE}² (tables 2, 3 and 8)"
    return Table.of(title, ("network", "computed", "paper", "off by"), rows, numbers=range(1, 4))


def _se_table(tables: PaperTables) -> Table:
    rows = [
        (
            row.title,
            *_beside(counted.multiply_adds, row.se_multiply_adds),
            count(counted.se_multiply_adds),
            count(counted.rescaling),
        )
        for row, counted in (*tables.imagenet, *tables.mobile)
    ]
    columns = ("network", "computed", "paper", "off by", "SE adds", "rescaling")
    return Table.of("Multiply-adds with SE, and the rescaling beside them", columns, rows, numbers=range(1, 6))


def _parameters_table(tables: PaperTables) -> Table:
    rows = [
        (
            row.title,
            *_beside(counted.plain_parameters, row.parameters)[:2],
            *_beside(counted.parameters, row.se_parameters)[:2],
            "+" + share(counted.se_parameters / counted.plain_parameters),
        )
        for row, counted in (*tables.imagenet, *tables.mobile)
    ]
    columns = ("network", "plain", "paper", "with SE", "paper", "SE adds")
    return Table.of("Parameters", columns, rows, numbers=range(1, 6))


def _errors_table(tables: PaperTables) -> Table:
    rows = [
        (row.title, _errors(row.error, row), _errors(row.se_error, row))
        for row, _ in (*tables.imagenet, *tables.mobile)
    ]
    title = "Errors on ImageNet that the paper reports, top-1 / top-5 in %: not measured here"
    return Table.of(title, ("network", "plain", "with SE"), rows, numbers=range(1, 3))


def _cifar_table(tables: PaperTables) -> Table:
    rows = [
        (
            row.title,
            *(count(number) for number in (counted.plain_parameters, counted.parameters)),
            *(count(number) for number in (counted.plain_multiply_adds, counted.multiply_adds)),
        )
        for row, counted in tables.cifar
    ]
    columns = ("network", "parameters", "with SE", "multiply-adds", "with SE")
    title = "The networks for CIFAR (tables 4 and 5), for 10 classes"
    return Table.of(title, columns, rows, numbers=range(1, 5))


def _cifar_errors_table(tables: PaperTables) -> Table:
    rows = [
        (row.title, *(f"{plain:.2f} → {se:.2f}" for plain, se in (row.cifar10, row.cifar100)))
        for row, _ in tables.cifar
    ]
    title = "Errors on CIFAR that the paper reports, plain → with SE in %: not measured here"
    return Table.of(title, ("network", "CIFAR-10", "CIFAR-100"), rows, numbers=range(1, 3))


def _ablations_table(tables: PaperTables) -> Table:
    found = (*tables.reductions, *tables.stages, *((row, counted.parameters) for row, counted in tables.variants))
    rows = [
        (row.what, *_beside(parameters, row.parameters)[:2], f"{row.error[0]:.2f} / {row.error[1]:.2f}")
        for row, parameters in found
    ]
    title = "SE-ResNet-50: the ratio r, one stage alone, two variants (tables 10, 13, 15 and 16)"
    return Table.of(title, ("", "parameters", "paper", "the paper's error %"), rows, numbers=range(1, 4))


def _with_side(row: ImageNetRow, counted: Counted) -> str:
    return row.title + (f", {counted.side}²" if counted.side != USUAL_SIDE else "")


def _beside(number: int, figure: float | None) -> tuple[str, str, str]:
    """Our figure, the paper's, and the difference."""
    if figure is None:
        return count(number), "–", ""
    off = number / figure - 1
    return count(number), _printed(figure), f"{100 * off:+.2f} %".replace("-", "−")


def _errors(errors: tuple[float, float] | None, row: ImageNetRow) -> str:
    if errors is None:
        return "–"
    digits = 1 if all(round(error, 1) == error for error in row.se_error) else 2  # as printed
    return " / ".join(f"{error:.{digits}f}" for error in errors)


def _printed(figure: float) -> str:
    """A figure with the digits that the paper prints: 3.86 G, 569 M, 28.1 M."""
    if figure >= 1e9:
        return f"{figure / 1e9:.2f} G"
    return f"{figure / 1e6:.0f} M" if figure >= 1e8 else f"{figure / 1e6:.1f} M"


def _notes(tables: PaperTables) -> list[str | Table]:
    at_224 = count(tables.inception_at_224.plain_multiply_adds)
    (inception,) = (c for row, c in tables.imagenet if row.name == "se_inception_resnet_v2")
    at_299 = count(inception.plain_multiply_adds)
    (shuffle,) = (c for row, c in tables.mobile if row.name == "se_shufflenet_v1")
    rescaled = count(shuffle.multiply_adds + shuffle.rescaling)
    return [
        "Counted are convolutions and linear layers, as PyTorch's flop counter does; the rescaling of maps by gates "
        "stands beside them.",
        "The paper counts a little more than these layers, plain networks too; with SE a part of it is the rescaling.",
        f"Inception-ResNet-v2: the paper's 11.75 G fits no usual input size: it is {at_224} at 224² and {at_299} at "
        f"299², which it was made for.",
        f"ShuffleNet v1: its own paper gives 137 M for 3 groups and 140 M for 2; with SE and the rescaling counted in "
        f"it is {rescaled}, within 2 % of the 142 M.",
        "SENet-154: the paper prints neither its cost nor the error of a plain twin.",
    ]


def _last_stage_table(tables: PaperTables) -> Table:
    """The last stage's part of SE's parameters, for networks with bottleneck stages 2 to 5."""
    rows = []
    for row, counted in tables.imagenet:
        if "Res" not in row.title or "Inception" in row.title:
            continue
        rest = counted.se_parameters - counted.by_stage[max(counted.by_stage)]
        rows.append(
            (
                row.title,
                count(counted.se_parameters),
                share(counted.se_parameters / counted.plain_parameters),
                share(1 - rest / counted.se_parameters),
                count(rest),
                share(rest / counted.plain_parameters),
            )
        )
    title = "SE's parameters, and without the last stage (paper, ResNet-50: about 10 % and 4 %)"
    columns = ("network", "SE adds", "share", "last stage", "without it", "share")
    return Table.of(title, columns, rows, numbers=range(1, 6))


def figure_format(path: Path) -> str:
    """The format in a figure's name: png or svg.

    Raises:
        ValueError: the name ends in neither.
    """
    kind = path.suffix.lower()
    if kind not in FIGURES:
        raise InputError(f"{path}: a figure's name ends in {' or '.join(FIGURES)}")
    return kind.removeprefix(".")


def write_figure(tables: PaperTables, path: Path) -> None:
    """Write `accuracy_figure` as .png or .svg.

    Raises:
        ValueError: the file's name ends in neither.
        OSError: it cannot be written.
    """
    figure_format(path)
    save_figure(accuracy_figure(tables), path)


def accuracy_figure(tables: PaperTables) -> Figure:
    """The paper's accuracies against our multiply-adds, plain and with SE."""
    plain_colour, se_colour = COLOURS[:2]
    figure: Figure = extra("matplotlib.figure", "study").Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for row, counted in (*tables.imagenet, *tables.mobile):
        x, accuracy = counted.multiply_adds / 1e9, 100 - row.se_error[0]
        if row.error is not None:
            plain_x, plain = counted.plain_multiply_adds / 1e9, 100 - row.error[0]
            axes.plot((plain_x, x), (plain, accuracy), color=se_colour, linewidth=1)
            axes.plot(plain_x, plain, color=plain_colour, marker="o")
        axes.plot(x, accuracy, color=se_colour, marker="D")
        title = row.title.partition(" (")[0]  # longer names would overlap
        axes.annotate(title, (x, accuracy), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    for label, colour, marker in (("plain", plain_colour, "o"), ("with SE", se_colour, "D")):
        axes.plot([], [], color=colour, marker=marker, linestyle="none", label=label)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.06, 40)
    axes.set_xlabel("multiply-adds for one image, computed (GFLOPs, logarithmic)")
    axes.set_ylabel("top-1 accuracy on ImageNet as the paper reports it (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.suptitle("Accuracy: the paper's (Hu et al., arXiv 1709.01507), not measured here. Cost: computed.")
    return figure
