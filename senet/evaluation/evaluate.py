"""Measure a network on labelled images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from senet.console.progress import Progress
from senet.data.readable import Readable
from senet.data.sources import DataSource, folder_of
from senet.data.unreadable import MAX_BAD
from senet.errors import whole_number
from senet.evaluation.logits import check_scores, predict_all
from senet.evaluation.open import in_eval_mode, open_labelled
from senet.evaluation.options import MeasureOptions
from senet.evaluation.reliability import bins_of, calibration_error
from senet.evaluation.result import Evaluation, evaluation_folder, write_evaluation
from senet.recipe.options import known_options
from senet.words import counted

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    from torch import nn

    from senet.evaluation.open import LabelledNetwork

__all__ = ["Evaluation", "evaluate", "measure"]


def evaluate(
    model: str | nn.Module,
    data: str | Path | DataSource,
    *,
    max_bad: float | str = MAX_BAD,
    out: str | Path | None = None,
    predictions: str = "csv",
    progress: bool = True,
    **options: Unpack[MeasureOptions],
) -> Evaluation:
    """Measure a network on labelled images, each once: accuracy, confused classes, and calibration.

    If the network's class names are known, folders are matched to classes by name. Otherwise the
    folders, sorted by name, are its classes in order, and must be as many.

    Args:
        model: a network's name, as `senet.create` takes it, a run folder, a saved or exported file, or a network.
        data: `digits`, a folder of class folders, `torchvision:NAME`, `wds:SHARDS`, or a result of `open_data`.
        max_bad: how many images may be unreadable: a number (40) or a share (0.05, "5%"). They are
            left out and listed.
        out: a folder for predictions, confusion.csv, per_class.csv, calibration.csv, the figures confusion and
            reliability (.png, .svg), and result.json.
        predictions: the format of the predictions, "csv" or "parquet".
        progress: whether to show progress on standard error.
        options: `weights`, `classes`, `split`, `size`, ...: see `senet.evaluation.options.MeasureOptions`.

    Raises:
        StudyError: the classes of images and network do not match, the network does not take images
            of that size, or `out` cannot be written or holds a run.
        DataError: the data cannot be read, or more images are unreadable than allowed.
        SenetError: the network, its weights or a number is not usable.
    """
    given = known_options(options, MeasureOptions, "evaluate")
    batch_size = whole_number("batch_size", given.get("batch_size", 64))
    labelled = open_labelled(model, data, given)
    folder = None if out is None else evaluation_folder(out, folder_of(data), predictions)  # before any long work
    shown = Progress(progress)
    for line in (labelled.source.summary, *labelled.source.notes):
        shown.note(line)
    result = measure(labelled, batch_size=batch_size, workers=given.get("workers"), max_bad=max_bad, progress=shown)
    if folder is not None:
        write_evaluation(result, folder, predictions=predictions, device=labelled.device)
    return result


def measure(
    labelled: LabelledNetwork,
    *,
    batch_size: int = 64,
    workers: int | None = None,
    max_bad: float | str = MAX_BAD,
    progress: Progress | None = None,
) -> Evaluation:
    """`evaluate` for an open network, without writing files."""
    source, images, opened, how = labelled.source, labelled.images, labelled.opened, labelled.preprocessing
    batches = Readable(images, how, batch_size, workers=workers, max_bad=max_bad, name=source.name, before=source.bad)
    shown = progress or Progress(show=False)
    with shown.steps(len(batches)), in_eval_mode(opened.network, labelled.device) as network:
        shown.run(f"measuring {counted(len(images), 'image')}")
        found = predict_all(network, batches, how, device=labelled.device, step=shown.step)
    check_scores(found.probabilities)
    return Evaluation(
        top1=found.accuracy,
        top5=found.accuracy_of_five,
        loss=found.loss,
        count=len(found.labels),
        split=labelled.split,
        classes=found.classes,
        preprocessing=how,
        correct=tuple(found.correct.tolist()),
        calibration_error=calibration_error(bins_of(found)),
        model=opened.name,
        weights=opened.weights,
        data=source.name,
        images=tuple(images.names[index] for index in batches.indices),
        names=labelled.names,
        answers=found,
        skipped=(*source.bad, *batches.bad, *source.others),
        notes=opened.notes,
    )
