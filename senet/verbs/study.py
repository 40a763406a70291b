"""The verbs that take images: train, evaluate, predict, compare, ablate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

from senet.block import SESpec
from senet.console import display
from senet.evaluation.options import PredictOptions, SplitOptions
from senet.files.paths import expanded
from senet.files.run_folder import refuse_link
from senet.recipe.options import Options
from senet.study.cells.cell import CellOptions
from senet.verbs.cells import commands_alone, show_cells

__all__ = ["ablate", "compare", "evaluate", "predict", "report", "train"]


def train(
    model: str,
    data: str,
    out: str,
    *,
    weights: str | None = None,
    spec: SESpec | None = None,
    where: list[str] | None = None,
    make: str | None = None,
    seed: int = 0,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train one network on labelled images and measure it.

    With any flag of the SE blocks, SE of that kind is inserted first, and with --make another
    block. Called again with the same folder after an interruption, it resumes.

    Examples:
      senet train --model resnet20 --data digits --out runs/plain
      senet train --model resnet20 --reduction-ratio 16 --data digits --out runs/se
      senet train --model se_resnet110 --data torchvision:CIFAR10 --recipe cifar-resnet --out runs/cifar
    """
    from senet.study import train as run

    if where and spec is None:
        spec = SESpec()
    how: dict[str, Any] = {"spec": spec, "where": where, "make": make, "seed": seed, "resume": resume}
    result = run(model, data, out=out, weights=weights, **how, **options)
    if _is_first():
        display.show(str(result))


def evaluate(
    model: str,
    data: str,
    *,
    size: list[int] | None = None,
    max_bad: str = "0.2",
    out: str | None = None,
    predictions: str = "csv",
    **options: Unpack[SplitOptions],
) -> None:
    """Measure a network on labelled images: accuracy, confused classes, calibration.

    With several sizes, each is measured and written to size-224, size-320, ... in the folder.

    Examples:
      senet evaluate --model runs/se --data digits --out runs/se-measured
      senet evaluate --model runs/photos --data photos --size 224 320
      senet evaluate --model torchvision:mobilenet_v2 --weights pretrained --data photos --classes names.json
      senet evaluate --model se_resnet50 --weights SE-ResNet-50.caffemodel --data photos --classes names.json
    """
    from senet.study import evaluate as measure

    sizes: list[int | None] = list(size) if size else [None]
    for each in sizes:
        folder = out if out is None or len(sizes) == 1 else str(Path(out) / f"size-{each}")
        if folder != out and folder is not None:
            refuse_link(expanded(folder))
        result = measure(model, data, size=each, max_bad=max_bad, out=folder, predictions=predictions, **options)
        written = [] if folder is None else [f"written to {folder}"]
        display.show(*result.parts(), *written, *[""] * (each != sizes[-1]))


def predict(
    model: str, data: list[str], *, top: int = 5, out: str | None = None, **options: Unpack[PredictOptions]
) -> None:
    """Predict the most likely classes of pictures, with probabilities.

    Examples:
      senet predict --model runs/se --data photo.jpg
      senet predict --model runs/se --data holiday/ --out holiday.csv
      senet predict --model torchvision:mobilenet_v2 --weights pretrained --data *.jpg --top 3
    """
    from senet.study import predict as ask

    result = ask(model, data, top=top, out=out, **options)
    display.show(*result.parts(), *([] if out is None else [f"written to {out}"]))


def compare(
    model: str,
    data: str,
    out: str,
    spec: SESpec,
    cells: CellOptions,
    *,
    weights: str | None = None,
    where: list[str] | None = None,
    make: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train a network without SE and with it, from the same seeds on the same images, and say whether SE helped.

    Called again with the same folder after an interruption, it resumes.

    Examples:
      senet compare --model resnet20 --data digits --seeds 3 --out runs/digits
      senet compare --model torchvision:mobilenet_v2 --weights pretrained --data photos --out runs/photos
    """
    from senet.study.comparison.compare import compare_cells

    own: dict[str, Any] = {"weights": weights, "spec": spec, "where": where, "make": make}
    with commands_alone(cells):
        found = compare_cells(model, data, cells, out=out, seeds=seeds, resume=resume, **own, **options)
    if _is_first():
        show_cells(found)


def ablate(
    model: str,
    data: str,
    out: str,
    spec: SESpec,
    cells: CellOptions,
    *,
    table: list[str] | None = None,
    grid: list[str] | None = None,
    weights: str | None = None,
    where: list[str] | None = None,
    make: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train variants of SE from the same seeds on the same images, and say which differ from plain.

    The flags of the SE blocks set the standard block; --table and --grid set what varies. Called
    again with the same folder, it resumes, and may add tables and seeds. The folder gets
    report.html.

    Examples:
      senet ablate --model resnet20 --data digits --table squeeze --out runs/squeeze
      senet ablate --model resnet20 --data photos --grid reduction-ratio=4,16 gate=sigmoid,tanh --out runs/grid
      senet ablate --model resnet20 --data photos --grid make=se,eca,cbam --out runs/blocks
    """
    from senet.study.ablation.ablate import ablate_cells
    from senet.study.ablation.grid import parse_grid

    own: dict[str, Any] = {"weights": weights, "spec": spec, "where": where, "make": make}
    own |= {"table": table, "grid": parse_grid(grid or ())}
    with commands_alone(cells):
        found = ablate_cells(model, data, cells, out=out, seeds=seeds, resume=resume, **own, **options)
    if _is_first():
        show_cells(found)


def report(runs: list[str], out: str) -> None:
    """Show several finished comparisons, or judgements, side by side on one self-contained page.

    Examples:
      senet report --runs runs/digits runs/photos --out runs/report
      senet report --runs runs/r4 runs/r16 --out runs/ratios
    """
    from senet.study.comparison.pages import write_several

    display.show(f"Report: {write_several(runs, out)}")


def _is_first() -> bool:
    """Whether this process shows the result, which under torchrun and SLURM each of them has."""
    from senet.training.processes.processes import is_first_process

    return is_first_process()
