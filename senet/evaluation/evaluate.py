"""Measure a network on labelled images."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from senet.console.progress import Progress
from senet.data.readable import Readable
from senet.data.sources import DataSource, open_data
from senet.data.transforms import Preprocessing
from senet.data.unreadable import MAX_BAD
from senet.errors import InputError, StudyError, WeightsError
from senet.evaluation.classnames import names_in, published_classes, trained_classes
from senet.evaluation.logits import device_of, predict_all
from senet.evaluation.networks import NetworkSpec, heard, known_preprocessing
from senet.evaluation.reliability import CalibrationError
from senet.evaluation.result import Evaluation, evaluation_folder, write_evaluation
from senet.saving import create
from senet.zoo.names.naming import is_saved
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from senet.data.images import Images

__all__ = ["Evaluation", "asked_preprocessing", "by_name", "evaluate", "network_of", "trained_classes"]


def evaluate(
    model: str | nn.Module,
    data: str | Path | DataSource,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    classes: str | Path | None = None,
    class_offset: int = 0,
    split: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    crop: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
    batch_size: int | None = None,
    devices: str | int = "auto",
    workers: int | None = None,
    data_root: str | Path | None = None,
    max_bad: float | str = MAX_BAD,
    out: str | Path | None = None,
    predictions: str = "csv",
    progress: bool = True,
) -> Evaluation:
    """Measure a network on labelled images, each once: accuracy, which classes it mistakes, and its calibration.

    Args:
        model: a network's name, as `senet.create` takes it, a run folder or saved file, or a network.
        data: `digits`, a folder of class folders, `torchvision:NAME`, `wds:SHARDS`, or what `open_data` returned.
        weights: of the network; its number of classes is theirs.
        num_classes: of the network, where it is to be another.
        classes: a JSON file with the network's class names in order (or name -> index), by which the names of
            folders become class indices. Not given: by the class names that a run saved with the network, else
            the folders are the network's first classes in the order of their names.
        class_offset: added to each class index: 1 for networks that count a background class first.
        split: "train", "val", "test" or "all"; not given, test where there is one, else val.
        size: pixels a side that the network is given. This and the next six, not given, are what a run saved
            with the network, what its Caffe file or timm says of it, else ImageNet's: 224 of 256.
        resize: pixels of the shorter side before the middle `size` × `size` is cut out.
        crop: in place of `resize`, the share of the shorter side that is cut out: 0.875 is 224 of 256.
        mean: of each channel, values being in [0, 1].
        std: of each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        channels: their order in the network's input, "RGB" or "BGR".
        batch_size: images at a time; 64 where not given.
        devices: "auto" (a GPU where there is one), "cpu", "cuda:0", "mps".
        workers: processes that load images; not given, one a core, at most 8.
        data_root: where torchvision's data sets lie.
        max_bad: how many images may be unreadable, a number (40) or a share (0.05, "5%"); they are left out and listed.
        out: a folder to write to: predictions, confusion.csv, per_class.csv, calibration.csv, the figures confusion and
            reliability (.png, .svg), and result.json.
        predictions: how the first of these is written, as "csv" or "parquet".
        progress: whether to show how far it is, on standard error.

    Raises:
        StudyError: where classes of images and network do not go together, or `out` cannot be written or holds a run.
        ValueError: where more images are unreadable than may be, or data, network, weights or numbers are not as asked.
    """
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"batch_size is a whole number of at least 1, not {batch_size!r}")
    device = device_of(devices)
    where = data.name if isinstance(data, DataSource) else str(data)
    folder = None if out is None else evaluation_folder(out, where, predictions)
    if isinstance(data, DataSource):
        source = data
    else:
        source = open_data(data, classes=classes, class_offset=class_offset, data_root=data_root)
    name, images = source.split(split)
    arm = NetworkSpec(model if isinstance(model, str) else "", None if weights is None else str(weights))
    with heard() as notes:
        network = model if isinstance(model, nn.Module) else network_of(arm, num_classes)
    if classes is None and class_offset == 0:
        images = by_name(images, source, trained_classes(arm))
    known = known_preprocessing(arm)
    if known is None and (noted := noted_preprocessing(network)):
        known = Preprocessing.from_json(noted)
    preprocessing = asked_preprocessing(
        known,
        source,
        size=size,
        resize=resize,
        crop=crop,
        mean=mean,
        std=std,
        interpolation=interpolation,
        channels=channels,
    )
    batches = Readable(
        images,
        preprocessing,
        batch_size or 64,
        workers=workers,
        max_bad=max_bad,
        name=source.name,
        before=source.bad,
    )
    shown = Progress(progress)
    calibration = CalibrationError()
    modes = [(module, module.training) for module in network.modules()]
    with shown.steps(len(batches)), torch.random.fork_rng(devices=[]):
        shown.run(f"measuring {len(images)} images")
        said = predict_all(network, batches, preprocessing, device=device, step=shown.step, each=calibration.count)
    for module, mode in modes:
        module.training = mode
    result = Evaluation(
        top1=said.accuracy,
        top5=said.accuracy_of_five,
        loss=said.loss,
        count=len(said.labels),
        split=name,
        classes=said.classes,
        preprocessing=preprocessing,
        correct=tuple(said.correct.tolist()),
        calibration_error=calibration.take(),
        model=model if isinstance(model, str) else type(network).__name__,
        weights=arm.weights,
        data=source.name,
        images=tuple(images.names[index] for index in batches.indices),
        names=_names(arm, said.classes, source, classes, class_offset),
        said=said,
        skipped=(*source.bad, *batches.bad, *source.others),
        notes=tuple(notes),
    )
    if folder is not None:
        write_evaluation(result, folder, predictions=predictions, device=device)
    return result


def _names(
    arm: NetworkSpec, count: int, source: DataSource, classes: str | Path | None, offset: int
) -> Mapping[int, str]:
    """What the classes are called: by the file that was given, by the run, else as the folders are."""
    if classes is not None:
        return names_in(classes, offset)
    trained = trained_classes(arm) if offset == 0 else None
    if trained is None and len(source.classes) < count and (published := published_classes(arm, count)):
        trained = published
    return dict(enumerate(trained)) if trained else dict(enumerate(source.classes, offset))


def network_of(arm: NetworkSpec, num_classes: int | None) -> nn.Module:
    """The network of an arm, its weights loaded with whatever SE a file of `save` has."""
    from senet.saving.saving import load, read_metadata

    asked: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if arm.weights is not None and is_saved(arm.weights):
        try:
            header = read_metadata(arm.weights)
        except WeightsError:
            header = {"sites": [], "pruned": {}}
        if header["sites"] or header["pruned"]:
            saved = header["options"].get("num_classes")
            return load(arm.weights, create(arm.model, **({} if saved is None else {"num_classes": saved}) | asked))
    return create(arm.model, weights=arm.weights, **asked)


def by_name(images: Images, source: DataSource, trained: list[str] | None) -> Images:
    """The images with the network's own class indices, by the names of the classes."""
    if trained is None or list(source.classes) == trained:
        return images
    unknown = [name for name in source.classes if name not in trained]
    if unknown:
        close = difflib.get_close_matches(unknown[0], trained, n=1)
        hint = f" (the nearest is {close[0]!r})" if close else ""
        raise StudyError(
            f"the network was trained on {len(trained)} classes, and {unknown[0]!r} of {source.name} is none of "
            f"them{hint}: name its folders as those, or say which is which with `classes`"
        )
    return source.relabelled(images, [trained.index(name) for name in source.classes])


def asked_preprocessing(
    known: Preprocessing | None,
    source: DataSource | None = None,
    *,
    size: int | None = None,
    resize: int | None = None,
    crop: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    channels: str | None = None,
) -> Preprocessing:
    """What is known of a network's input, with what was asked for in its place; the arguments are `evaluate`'s."""
    if known is None and source is not None and source.small and size is None and source.native_size is not None:
        known = Preprocessing(source.native_size, source.native_size)
    asked = {"mean": mean, "std": std, "interpolation": interpolation, "channels": channels}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    base = known or Preprocessing()
    if crop is not None:
        if resize is not None:
            raise InputError(f"resize ({resize}) and crop ({crop}) are two words for one thing: give one of them")
        if not 0 < crop <= 1:
            raise InputError(f"crop is the share that is cut out, above 0 and at most 1, not {crop!r}")
        wanted = base.size if size is None else size
        size, resize = wanted, max(wanted, math.floor(wanted / crop))
    if resize is None:
        return dataclasses.replace(base.at(size), **changes)
    return dataclasses.replace(base, size=base.size if size is None else size, resize=resize, **changes)
