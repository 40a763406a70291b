"""Predict the classes of unlabelled images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.console import display
from senet.console.progress import Progress
from senet.data import unreadable as badfiles
from senet.data.image_folders import files_below, named_otherwise
from senet.data.images import FileImages, text_of
from senet.data.readable import Readable
from senet.data.unreadable import BadFile
from senet.errors import DataError, whole_number
from senet.evaluation.classnames import names_in
from senet.evaluation.logits import answers, check_scores, device_of, most_probable
from senet.evaluation.networks import check_classifies, probe
from senet.evaluation.open import in_eval_mode, open_network
from senet.evaluation.options import PredictOptions
from senet.evaluation.result import prediction_columns
from senet.files.paths import expanded
from senet.files.tables import check_table, write_table
from senet.recipe.options import known_options
from senet.report.table import Table
from senet.words import counted, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from torch import nn

    from senet.data.transforms import Preprocessing

__all__ = ["Predicted", "predict"]

SHOWN, PLACES = 50, 5
"""The number of images, and of classes per image, on the screen; a file has all."""

FEW = 64
"""Fewer images are read without worker processes, which would take longer to start."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A network's predictions for images.

    Attributes:
        images: the images' names.
        classes: for each, the names of the k classes with the highest scores, best first.
        indices: their class indices.
        probabilities: their probabilities.
        preprocessing: the preprocessing used.
        skipped: unreadable files.
        notes: remarks on the network.
    """

    images: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]
    indices: tuple[tuple[int, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]
    preprocessing: Preprocessing
    skipped: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One row per file: classes with probabilities, or the reason why it was skipped."""
        rows = [
            {"image": image, **prediction_columns(list(classes), list(probabilities)), "error": None}
            for image, classes, probabilities in zip(self.images, self.classes, self.probabilities, strict=True)
        ]
        empty = dict.fromkeys(rows[0])
        return rows + [empty | {"image": file.name, "error": file.reason} for file in self.skipped]

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), wrap=False)

    def parts(self) -> list[str | Table]:
        """The parts of `str()`, for a terminal."""
        rows = [
            (image, *[f"{name} {share:.1%}" for name, share in zip(classes[:PLACES], shares, strict=False)])
            for image, classes, shares in zip(self.images, self.classes, self.probabilities, strict=True)
        ]
        asked = len(self.classes[0])
        places = ["class", *(f"{place}." for place in range(2, min(asked, PLACES) + 1))]
        title = counted(len(rows), "picture")
        if asked > PLACES:
            title += f", {PLACES} of {asked} classes shown"
        left = len(rows) - SHOWN
        more = [f"{counted(left, 'more picture')} {'is' if left == 1 else 'are'} not shown"] if left > 0 else []
        if more or asked > PLACES:
            more.append("all are written with --out FILE.csv (in Python, out=)")
        table = Table.of(title, ("picture", *places), rows[:SHOWN], numbers=range(0))
        return [*self.notes, table, *more, *badfiles.listed(self.skipped, recorded=False)]


def predict(
    model: str | nn.Module,
    data: str | Path | Sequence[str | Path],
    *,
    top: int = 5,
    out: str | Path | None = None,
    progress: bool = True,
    **options: Unpack[PredictOptions],
) -> Predicted:
    """Predict the classes of images, with probabilities.

    Args:
        model: a network's name, as `senet.create` takes it, a run folder, a saved or exported file, or a network.
        data: an image, a folder of images at any depth, or several of these.
        top: the number of classes per image, the likeliest first, capped at the network's classes.
        out: a .csv or .parquet file with one row per file, skipped ones included.
        progress: whether to show progress on standard error.
        options: `weights`, `classes`, `size`, ...: see `senet.evaluation.options.PredictOptions`.

    Raises:
        StudyError: the network does not take images of that size or returns no scores, or `out`
            cannot be written.
        DataError: there are no images, or none can be read.
        SenetError: the network, its weights or a number is not usable.
    """
    given = known_options(options, PredictOptions, "predict")
    batch_size, top = whole_number("batch_size", given.get("batch_size", 64)), whole_number("top", top)
    device = device_of(given.get("devices", "auto"))
    file = None if out is None else check_table(out)
    if (classes := given.get("classes")) is not None:
        names_in(classes)  # before any long work
    images, others = _pictures([data] if isinstance(data, str | Path) else list(data))
    opened = open_network(model, given)
    preprocessing = opened.preprocessing(given)
    count = probe(opened.network, preprocessing, opened.name)
    check_classifies(count, opened.name)
    names = opened.class_names(count, given)
    workers = given.get("workers", 0 if len(images) < FEW else None)
    batches = Readable(images, preprocessing, batch_size, workers=workers, name="the data")
    shown = Progress(progress)
    probabilities, indices = [], []
    with shown.steps(len(batches)), in_eval_mode(opened.network, device) as network:
        shown.run(counted(len(images), "picture"))
        for logits, _ in answers(network, batches, preprocessing, device=device, step=shown.step):
            probability, best = most_probable(logits, top)
            check_scores(probability)
            probabilities += probability.tolist()
            indices += best.tolist()
    result = Predicted(
        images=tuple(images.names[index] for index in batches.indices),
        classes=tuple(tuple(names.get(index, str(index)) for index in each) for each in indices),
        indices=tuple(map(tuple, indices)),
        probabilities=tuple(map(tuple, probabilities)),
        preprocessing=preprocessing,
        skipped=(*batches.bad, *others),
        notes=opened.notes,
    )
    if file is not None:
        write_table(file, result.rows())
    return result


def _pictures(given: Sequence[str | Path]) -> tuple[FileImages, list[BadFile]]:
    """The images, and the other files of the folders; a file named directly is always tried."""
    paths: list[Path] = []
    names: list[str] = []
    others: list[BadFile] = []
    for each in given:
        path = expanded(each)
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
    hint = "".join(f"; did you mean {path.parent / near}?" for near in nearest(path.name, beside))
    return f"there is no picture or folder {path}{hint} (labelled data with a name, such as digits, is for evaluate)"
