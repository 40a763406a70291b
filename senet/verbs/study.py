"""The verbs that need pictures: train, evaluate, predict, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from senet.block import SESpec
from senet.console import display
from senet.recipe.options import Options

__all__ = ["ablate", "compare", "evaluate", "predict", "report", "train"]


def train(
    model: str,
    data: str,
    out: str,
    *,
    weights: str | None = None,
    spec: SESpec | None = None,
    where: list[str] | None = None,
    seed: int = 0,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train one network on labelled images and measure it.

    The network is trained as it is; with any flag of the SE blocks, SE of that kind is put into it first.
    Called again with the same folder after an interruption, it goes on where it was.

    Examples:
      senet train --model resnet20 --data digits --out runs/plain
      senet train --model resnet20 --reduction-ratio 16 --data digits --out runs/se
      senet train --model se_resnet110 --data torchvision:CIFAR10 --recipe cifar-resnet --out runs/cifar
    """
    from senet.study import train as run

    if where and spec is None:
        spec = SESpec()
    result = run(model, data, out=out, weights=weights, spec=spec, where=where, seed=seed, resume=resume, **options)
    display.show(str(result))


def evaluate(
    model: str,
    data: str,
    *,
    data_root: str | None = None,
    weights: str | None = None,
    num_classes: int | None = None,
    size: list[int] | None = None,
    resize: int | None = None,
    crop: float | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    classes: str | None = None,
    class_offset: int = 0,
    split: str | None = None,
    batch_size: int | None = None,
    devices: str = "auto",
    workers: int | None = None,
    max_bad: str = "0.2",
    out: str | None = None,
    predictions: str = "csv",
) -> None:
    """Measure a network on labelled images: accuracy, which classes it mistakes, calibration.

    With several sizes it is measured at each, and written to size-224, size-320, ... of the folder.

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
        result = measure(
            model,
            data,
            data_root=data_root,
            weights=weights,
            num_classes=num_classes,
            size=each,
            resize=resize,
            crop=crop,
            mean=mean,
            std=std,
            interpolation=interpolation,
            channels=channels,
            classes=classes,
            class_offset=class_offset,
            split=split,
            batch_size=batch_size,
            devices=devices,
            workers=workers,
            max_bad=max_bad,
            out=folder,
            predictions=predictions,
        )
        written = [] if folder is None else [f"written to {folder}"]
        display.show(*result.parts(), *written, *[""] * (each != sizes[-1]))


def predict(
    model: str,
    data: list[str],
    *,
    weights: str | None = None,
    num_classes: int | None = None,
    size: int | None = None,
    resize: int | None = None,
    crop: float | None = None,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    classes: str | None = None,
    class_offset: int = 0,
    top: int = 5,
    batch_size: int | None = None,
    devices: str = "auto",
    workers: int | None = None,
    out: str | None = None,
) -> None:
    """Say what a network sees in pictures: the likeliest classes of each, with their probabilities.

    Examples:
      senet predict --model runs/se --data photo.jpg
      senet predict --model runs/se --data holiday/ --out holiday.csv
      senet predict --model torchvision:mobilenet_v2 --weights pretrained --data *.jpg --top 3
    """
    from senet.study import predict as ask

    result = ask(
        model,
        data,
        weights=weights,
        num_classes=num_classes,
        size=size,
        resize=resize,
        crop=crop,
        mean=mean,
        std=std,
        interpolation=interpolation,
        channels=channels,
        classes=classes,
        class_offset=class_offset,
        top=top,
        batch_size=batch_size,
        devices=devices,
        workers=workers,
        out=out,
    )
    display.show(*result.parts(), *([] if out is None else [f"written to {out}"]))


def compare(
    model: str,
    data: str,
    out: str,
    spec: SESpec,
    *,
    weights: str | None = None,
    where: list[str] | None = None,
    seeds: int = 3,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train a network without SE and with it, from the same seeds on the same images, and say whether SE helped.

    Called again with the same folder after an interruption, it goes on where it was.

    Examples:
      senet compare --model resnet20 --data digits --seeds 3 --out runs/digits
      senet compare --model torchvision:mobilenet_v2 --weights pretrained --data photos --out runs/photos
    """
    from senet.study import compare as study

    result = study(model, data, out=out, weights=weights, spec=spec, where=where, seeds=seeds, resume=resume, **options)
    display.show(*result.parts())


def ablate(
    model: str,
    data: str,
    out: str,
    spec: SESpec,
    *,
    table: list[str] | None = None,
    grid: list[str] | None = None,
    weights: str | None = None,
    where: list[str] | None = None,
    seeds: int = 3,
    resume: bool = True,
    **options: Unpack[Options],
) -> None:
    """Train many variants of SE from the same seeds on the same images, and say which differ from plain.

    The flags of the SE blocks say what is standard, --table and --grid what varies. Called again with the
    same folder it goes on where it was; more tables and more seeds may be asked for later. The folder gets
    report.html.

    Examples:
      senet ablate --model resnet20 --data digits --table squeeze --out runs/squeeze
      senet ablate --model resnet20 --data photos --grid reduction-ratio=4,16 gate=sigmoid,tanh --out runs/grid
    """
    from senet.study import ablate as study
    from senet.study.ablation.grid import parse_grid

    result = study(
        model,
        data,
        out=out,
        table=table,
        grid=parse_grid(grid or ()),
        weights=weights,
        spec=spec,
        where=where,
        seeds=seeds,
        resume=resume,
        **options,
    )
    display.show(*result.parts())


def report(runs: list[str], out: str) -> None:
    """Set several finished comparisons side by side, on one page that needs nothing else.

    Examples:
      senet report --runs runs/digits runs/photos --out runs/report
      senet report --runs runs/r4 runs/r16 --out runs/ratios
    """
    from senet.study.comparison.pages import write_several

    display.show(f"Report: {write_several(runs, out)}")
