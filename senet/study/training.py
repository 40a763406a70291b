"""Train one network on images: a run, with its folder."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.saving import save
from senet.study import badfiles
from senet.study.badfiles import MAX_BAD, checked
from senet.study.data import DataSource, open_data
from senet.study.folder import (
    CHECKPOINT,
    METRICS,
    MODEL,
    PREDICTIONS,
    RESULT,
    StudyError,
    digest_of,
    named,
    open_folder,
    read_csv,
    read_json,
    write_csv,
    write_json,
)
from senet.study.machine import machine
from senet.study.networks import Arm, Made, known_preprocessing, make
from senet.study.prediction import device_of, predict_all
from senet.study.preparation import Plan, Prepared
from senet.study.progress import Progress, duration
from senet.study.recipe import recipe_for
from senet.study.transforms import preprocessing_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lightning.pytorch.callbacks import Callback

    from senet.block import SESpec
    from senet.insertion import Where
    from senet.study.badfiles import BadFile
    from senet.study.prediction import Predictions

__all__ = ["RunResult", "finished_run", "plan_of", "run", "settings_of", "train"]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: where its files are: model.safetensors, metrics.csv, predictions.csv, tensorboard/, result.json.
        accuracy: of the last epoch's network on the reported images, a fraction.
        split: which images those are: "test" or "val".
        correct: for each of them, whether the network was right.
        seconds: that training took, without the measuring.
        history: one row of metrics for each epoch.
        notes: what is worth saying of it.
        skipped: files that are no readable images.
    """

    folder: Path
    accuracy: float
    split: str
    correct: tuple[bool, ...]
    seconds: float
    history: tuple[Mapping[str, float], ...]
    notes: tuple[str, ...]
    skipped: tuple[BadFile, ...] = ()

    def __str__(self) -> str:
        right, count = sum(self.correct), len(self.correct)
        lines = (
            *self.notes,
            f"{self.split} accuracy after {len(self.history)} epochs: {self.accuracy:.2%} ({right} of {count} images)",
            f"training time: {duration(self.seconds)}",
            f"network: {self.folder / MODEL}",
            *badfiles.listed(self.skipped),
        )
        return "\n".join(lines)


def train(
    model: str,
    data: str | Path | DataSource,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    spec: SESpec | None = None,
    where: Where = None,
    start: str | None = None,
    size: int | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    se_lr: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    devices: str | int = "auto",
    workers: int | None = None,
    data_root: str | Path | None = None,
    max_bad: float | str = MAX_BAD,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train a network on images and measure it; called again after an interruption it goes on where it was.

    On the CPU, a run that was interrupted and resumed ends bit for bit where an uninterrupted one does.

    Args:
        model: a network's name, as `senet.create` takes it.
        data: `digits`, a folder of class folders, `torchvision:NAME`, `wds:SHARDS`, or what `open_data` returned.
        out: the folder of the run.
        weights: to start from; a classifier of another size starts fresh.
        spec: the SE to insert; None trains the network as it is.
        where: at which of its sites.
        start: "identity" (the network computes at first what it did) or "paper" (He initialisation); not given,
            identity from weights and paper from scratch.
        size: pixels a side; not given, 224 for photos, their own size for images of at most 64 pixels.
        batch_size: images a step. `recipe_for` has the table of what this and the next are where not given.
        epochs: passes over the training images.
        lr: the highest learning rate.
        se_lr: that of the SE blocks; not given, the same.
        weight_decay: of every parameter.
        seed: of the initial weights, the order of the images, their augmentation, and dropout.
        devices: "auto" (a GPU where there is one), "cpu", "cuda:0", "mps".
        workers: processes that load images; not given, none where the images fit into memory.
        data_root: where torchvision's data sets lie.
        max_bad: how many images may be unreadable, a number (40) or a share (0.05, "5%"); they are found before the
            training begins, skipped, and listed in the result.
        resume: go on with what `out` holds; False makes it an error that it holds something.
        progress: whether to show how far it is, on standard error; or a Progress that is told.
        callbacks: more of Lightning's.

    Raises:
        StudyError: where the folder cannot be written or holds another study, an SE block does not run, or the
            loss is not finite.
        ValueError: where data, network, weights, sites or numbers are not as asked.
    """
    if type(seed) is not int or seed < 0:
        raise ValueError(f"seed is a whole number of at least 0, not {seed!r}")
    arm = Arm(model, None if weights is None else str(weights), spec, where).with_start(start)
    shown = progress if isinstance(progress, Progress) else Progress(progress)
    plan = plan_of(
        arm,
        data,
        size=size,
        batch_size=batch_size,
        epochs=epochs,
        lr=lr,
        se_lr=se_lr,
        weight_decay=weight_decay,
        devices=devices,
        workers=workers,
        data_root=data_root,
        max_bad=max_bad,
        progress=shown,
    )
    made = make(arm, num_classes=plan.num_classes, size=plan.preprocessing.size, seed=seed)
    settings = settings_of(arm, plan, made) | {"seed": seed}
    folder = open_folder(out, settings, resume=resume)
    held = finished_run(folder)
    if held is not None:
        shown.note(f"{folder} holds this run, finished")
        return held
    for line in (*made.notes, f"reading {plan.source.name}"):
        shown.note(line)
    prepared = Prepared(plan)
    with plan.threads(), shown.steps(plan.steps):
        return run(made, prepared, folder, settings, seed=seed, progress=shown, callbacks=callbacks)


def plan_of(
    arm: Arm,
    data: str | Path | DataSource,
    *,
    size: int | None,
    batch_size: int | None,
    epochs: int | None,
    lr: float | None,
    se_lr: float | None,
    weight_decay: float | None,
    devices: str | int,
    workers: int | None,
    data_root: str | Path | None,
    max_bad: float | str,
    progress: Progress,
) -> Plan:
    """Open the data and decide what was not given; arguments and errors are those of `train`."""
    device = device_of(devices)
    source = data if isinstance(data, DataSource) else open_data(data, data_root=data_root)
    source = checked(source, max_bad=max_bad, progress=progress)
    recipe = recipe_for(
        source,
        pretrained=arm.pretrained,
        batch_size=batch_size,
        epochs=epochs,
        lr=lr,
        se_lr=se_lr,
        weight_decay=weight_decay,
    )
    preprocessing = preprocessing_for(source, size=size, known=known_preprocessing(arm))
    return Plan(source, preprocessing, recipe, device, workers)


def settings_of(arm: Arm, plan: Plan, made: Made) -> dict[str, Any]:
    """All that decides the result of a run but its seed, as plain values."""
    return {
        "model": named(arm.model, digest_of(arm.model)),
        "weights": named(arm.weights, digest_of(arm.weights)),
        "se": None if arm.spec is None else dataclasses.asdict(arm.spec),
        "sites": [site.name for site in made.sites],
        "data": named(plan.source.name, plan.source.fingerprint()),
        "preprocessing": plan.preprocessing.to_json(),
        "augmentation": dataclasses.asdict(plan.augmentation),
        "recipe": dataclasses.asdict(plan.recipe),
        "device": plan.device.type,
    }


def run(
    made: Made,
    prepared: Prepared,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    seed: int,
    progress: Progress,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train `made` in `folder`, from its checkpoint where it holds one, and write the result; result.json is last."""
    from senet.study.loop import Classifier, fit

    plan = prepared.plan
    epochs_done = _epochs_done(folder / CHECKPOINT)
    progress.run(folder.name, plan.recipe.epochs)
    progress.step(epochs_done * plan.steps_per_epoch, worked=False)
    if plan.device.type == "cpu":  # as `normalise` lays the images out: a step takes 0.7 to 0.9 of the time
        made.network.to(memory_format=torch.channels_last)
    devices = [plan.device.index or 0] if plan.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        classifier = Classifier(
            made.network,
            plan.recipe,
            plan.preprocessing,
            num_classes=plan.num_classes,
            steps=plan.steps,
            seed=seed,
            split=prepared.monitored,
        )
        history = fit(
            classifier,
            prepared.train_batches(seed, epochs_done),
            prepared.monitored_batches(),
            folder,
            device=plan.device,
            progress=progress,
            callbacks=callbacks,
        )
        said = predict_all(made.network, prepared.reported_batches(), plan.preprocessing, device=plan.device)
    network = made.network.cpu()
    result = RunResult(
        folder=folder,
        accuracy=said.accuracy,
        split=prepared.reported,
        correct=tuple(said.correct.tolist()),
        seconds=sum(row["seconds"] for row in history),
        history=tuple(history),
        notes=made.notes,
        skipped=plan.source.skipped,
    )
    metadata = {
        "classes": list(plan.source.classes),
        "preprocessing": plan.preprocessing.to_json(),
        "accuracy": result.accuracy,
        "settings": settings,
    }
    save(network, folder / MODEL, metadata=metadata)
    _write_predictions(folder / PREDICTIONS, said, plan.source)
    content = {
        "accuracy": result.accuracy,
        "split": result.split,
        "images": len(result.correct),
        "loss": said.loss if math.isfinite(said.loss) else None,
        "epochs": len(history),
        "seconds": result.seconds,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "sites": [dataclasses.asdict(site) for site in made.sites],
        "notes": list(made.notes),
        "bad_files": badfiles.to_json(result.skipped),
        "settings": settings,
        "machine": machine(plan.device),
    }
    write_json(folder / RESULT, content)
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return result


def finished_run(folder: Path) -> RunResult | None:
    """The run that a folder holds, or None where it is not finished."""
    if not (folder / RESULT).is_file():
        return None
    content = read_json(folder / RESULT)
    history = [{name: float(value) for name, value in row.items()} for row in read_csv(folder / METRICS)]
    return RunResult(
        folder=folder,
        accuracy=content["accuracy"],
        split=content["split"],
        correct=tuple(row["correct"] == "True" for row in read_csv(folder / PREDICTIONS)),
        seconds=content["seconds"],
        history=tuple(history),
        notes=tuple(content["notes"]),
        skipped=badfiles.from_json(content.get("bad_files", ())),
    )


def _epochs_done(checkpoint: Path) -> int:
    """How many epochs the checkpoint has behind it; 0 where there is none."""
    if not checkpoint.is_file():
        return 0
    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return int(held["epoch"]) + 1
    except Exception as error:  # a damaged file fails in any part of the unpickler
        raise StudyError(
            f"the checkpoint {checkpoint} cannot be read ({error}); remove it to train this run from its beginning"
        ) from error


def _write_predictions(path: Path, said: Predictions, source: DataSource) -> None:
    names = source.reported[1].names
    rows = [
        {
            "image": name,
            "class": source.classes[label],
            "predicted": source.classes[best],
            "probability": probability,
            "correct": label == best,
        }
        for name, label, best, probability in zip(
            names, said.labels.tolist(), said.top[:, 0].tolist(), said.probability.tolist(), strict=True
        )
    ]
    write_csv(path, rows)
