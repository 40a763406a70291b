"""Ask a network what is in pictures that nobody has labelled."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from senet.console import display
from senet.console.progress import Progress
from senet.data import unreadable as badfiles
from senet.data.image_folders import files_below, named_otherwise
from senet.data.images import FileImages, text_of
from senet.data.readable import Readable
from senet.data.transforms import Preprocessing
from senet.data.unreadable import BadFile
from senet.errors import DataError, InputError
from senet.evaluation.classnames import names_in, published_classes, trained_classes
from senet.evaluation.evaluate import asked_preprocessing, network_of
from senet.evaluation.logits import answers, device_of
from senet.evaluation.networks import NetworkSpec, heard, known_preprocessing
from senet.evaluation.result import prediction_columns
from senet.files.tables import check_table, write_table
from senet.zoo.names.naming import origin, resolve
from senet.zoo.names.sources import Built
from senet.zoo.weights.load import noted_preprocessing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

__all__ = ["Predicted", "predict"]

SHOWN = 50
"""Pictures that are shown on the screen; a file has all."""

SMALL = 64
"""Networks for images of at most so many pixels a side, such as CIFAR's, are given them whole."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a network sees in pictures.

    Attributes:
        images: the pictures' names.
        classes: for each, the names of the k classes with the highest scores, best first.
        indices: theirs, in the network's numbering.
        probabilities: theirs.
        preprocessing: how pictures became the network's input.
        skipped: files that are no readable images.
        notes: what is worth saying of the network.
    """

    images: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    indices: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    preprocessing: Preprocessing
    skipped: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One row for each file: the classes with their probabilities, and what is wrong with one that was skipped."""
        rows = [
            {"image": image, **prediction_columns(list(classes), list(probabilities)), "error": None}
            for image, classes, probabilities in zip(self.images, self.classes, self.probabilities, strict=True)
        ]
        empty = dict.fromkeys(rows[0])
        return rows + [empty | {"image": file.name, "error": file.reason} for file in self.skipped]

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), wrap=False)

    def parts(self) -> list[RenderableType]:
        """What `str()` shows, for a terminal."""
        rows = [
            (image, *[f"{name} {probability:.1%}" for name, probability in zip(classes, probabilities, strict=True)])
            for image, classes, probabilities in zip(self.images, self.classes, self.probabilities, strict=True)
        ]
        places = ["class", *(f"{place}." for place in range(2, len(self.classes[0]) + 1))]
        title = f"{len(rows)} {'picture' if len(rows) == 1 else 'pictures'}"
        more = [f"and {len(rows) - SHOWN} more: a file has all (out)"] if len(rows) > SHOWN else []
        table = display.table(title, ("picture", *places), rows[:SHOWN], numbers=range(0))
        return [*self.notes, table, *more, *badfiles.listed(self.skipped)]


def predict(
    model: str | nn.Module,
    data: str | Path | Sequence[str | Path],
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    classes: str | Path | None = None,
    class_offset: int = 0,
    top: int = 5,
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
    out: str | Path | None = None,
    progress: bool = True,
) -> Predicted:
    """The classes that a network sees in pictures, with their probabilities.

    Args:
        model: a network's name, as `senet.create` takes it, a run folder or saved file, or a network.
        data: a picture, a folder of pictures, nested as they may be, or several of these.
        weights: of the network; its number of classes is theirs.
        num_classes: of the network, where it is to be another.
        classes: a JSON file with the names of the network's classes in order (or name -> index). Not given: those
            that a run saved with the network, or that its library says; else classes are called by their numbers.
        class_offset: added to each index of that file: 1 for networks that count a background class first.
        top: how many classes of each picture, the likeliest first; fewer where the network has fewer.
        size: pixels a side that the network is given. This and the next six, not given, are what a run saved with
            the network, what its Caffe file or timm says of it, a CIFAR network's 32, else ImageNet's: 224 of 256.
        resize: pixels of the shorter side before the middle `size` × `size` is cut out.
        crop: in place of `resize`, the share of the shorter side that is cut out: 0.875 is 224 of 256.
        mean: of each channel, values being in [0, 1].
        std: of each channel.
        interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
        channels: their order in the network's input, "RGB" or "BGR".
        batch_size: pictures at a time; 64 where not given.
        devices: "auto" (a GPU where there is one), "cpu", "cuda:0", "mps".
        workers: processes that load pictures; not given, one a core, at most 8, and none for few pictures.
        out: a .csv or .parquet file to write to, with one row for each file, also for those that were skipped.
        progress: whether to show how far it is, on standard error.

    Raises:
        StudyError: where the network returns no scores, or `out` cannot be written.
        ValueError: where there are no pictures, none can be read, or network, weights or numbers are not as asked.
    """
    for name, value in (("batch_size", batch_size), ("top", top)):
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name} is a whole number of at least 1, not {value!r}")
    device = device_of(devices)
    file = None if out is None else check_table(out)
    named = None if classes is None else names_in(classes, class_offset)
    images, others = _pictures([data] if isinstance(data, str | Path) else list(data))
    arm = NetworkSpec(model if isinstance(model, str) else "", None if weights is None else str(weights))
    with heard() as notes:
        network = model if isinstance(model, nn.Module) else network_of(arm, num_classes)
    preprocessing = asked_preprocessing(
        _known(arm, network),
        size=size,
        resize=resize,
        crop=crop,
        mean=mean,
        std=std,
        interpolation=interpolation,
        channels=channels,
    )
    few = workers is None and len(images) < 64
    batches = Readable(images, preprocessing, batch_size or 64, workers=0 if few else workers, name="the data")
    shown = Progress(progress)
    modes = [(module, module.training) for module in network.modules()]
    probabilities, indices = [], []
    count = 0
    with shown.steps(len(batches)), torch.random.fork_rng(devices=[]):
        shown.run(f"{len(images)} pictures")
        for logits, _ in answers(network, batches, preprocessing, device=device, step=shown.step):
            count = logits.shape[1]
            highest = logits.softmax(1).topk(min(top, count))
            probabilities += highest.values.tolist()
            indices += highest.indices.tolist()
    for module, mode in modes:
        module.training = mode
    names = _names(arm, count) if named is None else named
    if isinstance(model, str) and not arm.pretrained:
        notes.append(f"{model} has random weights, and its answers mean nothing: give weights")
    result = Predicted(
        images=tuple(images.names[index] for index in batches.indices),
        classes=tuple(tuple(names.get(index, str(index)) for index in each) for each in indices),
        indices=tuple(map(tuple, indices)),
        probabilities=tuple(map(tuple, probabilities)),
        preprocessing=preprocessing,
        skipped=(*batches.bad, *others),
        notes=tuple(notes),
    )
    if file is not None:
        write_table(file, result.rows())
    return result


def _pictures(given: Sequence[str | Path]) -> tuple[FileImages, list[BadFile]]:
    """The pictures, and what else lies in the folders; a file that is named is tried whatever it is called."""
    paths: list[Path] = []
    names: list[str] = []
    others: list[BadFile] = []
    for each in given:
        path = Path(each).expanduser()
        if path.is_dir():
            inside, strangers = files_below(path)
            before = "" if len(given) == 1 else f"{text_of(path)}/"
            paths += inside
            names += [before + text_of(file.relative_to(path)) for file in inside]
            left = [named_otherwise(file, path) for file in strangers]
            others += [BadFile(before + file.name, file.reason) for file in left]
        elif path.exists() or path.is_symlink():
            paths.append(path)
            names.append(text_of(path.name if len(given) == 1 else path))
        else:
            raise DataError(_missing(path))
    if not paths:
        where = ", ".join(map(str, given)) or "nothing"
        held = f"; it holds {others[0].name}" if others else ""
        raise DataError(f"there is no picture in {where}{held}")
    images = FileImages(paths, [0] * len(paths), Path("/"), names=names)
    return images, others


def _missing(path: Path) -> str:
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    return f"there is no picture or folder {path}{hint} (labelled data with a name, such as digits, is for evaluate)"


def _known(arm: NetworkSpec, network: nn.Module) -> Preprocessing | None:
    """How pictures become the network's input, as far as anyone says."""
    known = known_preprocessing(arm)
    if known is None and (noted := noted_preprocessing(network)):
        known = Preprocessing.from_json(noted)
    if known is None:
        name, options = origin(network)
        shape = resolve(name)[0].input_shape(Built(network, options)) if name else None
        if shape is not None and shape[-1] <= SMALL:
            return Preprocessing(shape[-1], shape[-1])
    return known


def _names(arm: NetworkSpec, count: int) -> Mapping[int, str]:
    return dict(enumerate(trained_classes(arm) or published_classes(arm, count) or ()))
