"""Train one network on images: a run and its folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from senet.block import SEBlock
from senet.block.made import MadeBlock, MadeSpec, block_settings, block_spec, check_portable
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.data import unreadable as badfiles
from senet.data.sources import open_data
from senet.data.transforms import plain_values, preprocessing_for
from senet.data.unreadable import MAX_BAD, check_range, checked, value_range
from senet.errors import InputError, StudyError
from senet.evaluation.given import given_model
from senet.evaluation.logits import check_scores, predict_all
from senet.evaluation.networks import BuiltNetwork, NetworkSpec, input_channels, known_preprocessing
from senet.evaluation.networks import make as make_network
from senet.fast import synchronise
from senet.files.lock import locked
from senet.files.paths import expanded
from senet.files.run_folder import (
    METRICS,
    MODEL,
    PREDICTIONS,
    RESULT,
    SETTINGS,
    digest_of,
    named,
    open_folder,
    read_json,
    refuse_inside,
    write_csv,
    write_json,
)
from senet.recipe.choose import recipe_for
from senet.recipe.knobs import check_seed, is_number
from senet.recipe.options import Options, changes_in, known_options
from senet.running import count_parameters
from senet.saving.saving import write_network
from senet.training.checkpointing import claim, newest, step_of, sweep
from senet.training.failures import in_plain_words
from senet.training.finished import RunResult, finished_run
from senet.training.freezing import classifier_of, freeze_plain
from senet.training.loggers import check_logger
from senet.training.processes.launching import launch
from senet.training.processes.processes import device_layout, joined, joined_predictions
from senet.training.setup import PreparedImages, TrainingSetup
from senet.zoo.names.naming import is_saved

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from lightning.pytorch.callbacks import Callback
    from torch import nn

    from senet.block import SESpec
    from senet.block.made import Make
    from senet.data.source import Data, DataSource
    from senet.evaluation.given import Model
    from senet.evaluation.logits import Predictions
    from senet.insertion import Where
    from senet.recipe.recipe import Changes, Recipe
    from senet.training.checkpointing import Newest
    from senet.training.processes.processes import DeviceLayout, Processes

__all__ = ["RunResult", "finished_run", "run", "settings_of", "setup_of", "train"]


def train(
    model: Model,
    data: Data,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    spec: SESpec | MadeSpec | None = None,
    where: Where = None,
    make: Make | None = None,
    start: str | None = None,
    seed: int = 0,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> RunResult:
    """Train a network on images and measure it. Called again after an interruption, it resumes.

    On the CPU, a resumed run ends bit for bit like an uninterrupted one.

    Args:
        model: a network's name, as in `senet.create`; a function that returns a new network at each
            call; or a network, whose weights are the start.
        data: `digits`, a folder of class folders, `torchvision:NAME`, `wds:SHARDS`, a result of
            `open_data`, or two PyTorch data sets of (image, label), one to train on and one to
            measure on.
        out: the run's folder.
        weights: the initial weights; a classifier of another size starts fresh.
        spec: the SE to insert; None inserts none.
        where: the sites to use.
        make: the maker of blocks to insert instead of SE, as in `senet.insert`.
        start: "identity" (SE changes nothing at first) or "paper" (He initialisation); by default
            identity from weights and paper from scratch.
        seed: the seed of initial weights, image order, augmentation and dropout.
        resume: whether to resume a run in `out`; False makes an existing one an error.
        progress: whether to show progress on standard error; or a Progress object.
        callbacks: additional Lightning callbacks.
        options: `recipe`, values that replace a recipe's, such as `batch_size`, `epochs` and `lr`,
            and where it runs: see `senet.recipe.options.Options`, and `recipe_for` for the
            defaults.

    Raises:
        StudyError: the folder cannot be written or holds another study, an SE block does not run,
            or the loss is not finite.
        ValueError: data, network, weights, sites or a number are not usable.
    """
    check_seed(seed)
    asked = known_options(options, Options, "train")
    if not (spec is None and make is None):
        spec = block_spec(spec, make)
    elif not (where is None and start is None):
        raise InputError("where and start are for blocks that are inserted: give spec, such as SESpec(), or make")
    name, given = given_model(model)
    arm = NetworkSpec(name, None if weights is None else str(weights), spec, where, make, given).with_start(start)
    layout = device_layout(asked.get("devices"), asked.get("nodes"), asked.get("strategy"))
    if layout.to_start:
        check_portable(make)
        same = {"out": out, "weights": weights, "spec": spec, "where": where, "start": start, "seed": seed}
        how = {"resume": resume, "progress": bool(progress), "callbacks": callbacks}
        return launch(layout, train, {"model": model, "data": data, "make": make, **same, **how, **options})
    with joined(layout) as processes, contextlib.ExitStack() as stack:
        shown = Progress.of(progress, here=processes.rank == 0)
        setup, made = setup_of(arm, data, asked, layout, processes, shown, out, seed=seed)
        if "se_lr" in asked and not any(isinstance(part, SEBlock | MadeBlock) for part in made.network.modules()):
            raise InputError(f"se_lr (--se-lr) is the learning rate of senet's own blocks, and {name} has none of them")
        settings = settings_of(arm, setup, made) | {"seed": seed}
        folder = processes.first(lambda: open_folder(out, settings, resume=resume))
        processes.first(lambda: stack.enter_context(locked(folder)))
        held = processes.first(lambda: finished_run(folder, setup.source.reported[1].names))
        if held is not None:
            if not (folder / MODEL).is_file():
                raise StudyError(
                    f"{folder} is a finished run, and its {MODEL} is missing or no file: train in another folder"
                )
            shown.note(f"{folder} holds this run, finished")
            return held
        for line in made.notes:
            shown.note(line)
        prepared = PreparedImages(setup)
        with setup.threads(), shown.steps(setup.steps):
            return run(made, prepared, folder, settings, seed=seed, progress=shown, callbacks=callbacks)


def setup_of(
    arm: NetworkSpec,
    data: Data,
    options: Options,
    layout: DeviceLayout,
    processes: Processes,
    progress: Progress,
    out: str | Path,
    *,
    seed: int,
    here: bool = True,
) -> tuple[TrainingSetup, BuiltNetwork]:
    """Open the data, resolve defaults, and make the arm's network for a seed; errors are those of `train`.

    Only the network knows the number of input channels, so it is made here, once, and returned for
    the training, if it takes place `here`. A study in `out` that an earlier version began keeps that
    version's behaviour.
    """
    held = _settings_in(expanded(out))
    earlier = held is not None and "transparency" not in held["preprocessing"]
    source = open_data(data, data_root=options.get("data_root"))
    refuse_inside(expanded(out), source.root)
    changes = changes_in(options)
    recipe = recipe_for(source.kind, pretrained=arm.pretrained, recipe=options.get("recipe"), changes=changes)
    begun = None if held is None else held.get("recipe")
    if isinstance(begun, dict) and "warm_up_steps" not in begun and not options.get("warm_up_steps"):
        recipe = dataclasses.replace(recipe, warm_up_steps=0)
    preprocessing = preprocessing_for(source, size=options.get("size"), known=known_preprocessing(arm))
    if changes.get("crop_scale") is not None and source.small and source.shift:
        raise InputError(f"crop_scale is for photos: images as small as those of {source.name} are shifted in a border")
    minutes = options.get("checkpoint_minutes")
    if minutes is not None and not (is_number(minutes) and minutes >= 0):
        raise InputError(f"checkpoint_minutes is a number of at least 0, not {minutes!r}")
    setup = TrainingSetup(
        source,
        preprocessing,
        recipe,
        layout,
        processes,
        checkpoint_minutes=10.0 if minutes is None else float(minutes),
        workers=options.get("workers"),
        logger=check_logger(options.get("logger") or "tensorboard"),
    )
    made = make_network(arm, num_classes=setup.num_classes, size=preprocessing.size, seed=seed)
    # A training that fails in its first step leaves a folder of these settings, which no others could go on with.
    if here and recipe.precision == "16" and setup.device.type == "cpu":
        raise StudyError("precision='16' needs a GPU; on a CPU 'bf16' and '32' are there")
    if recipe.freeze == "plain":
        classifier_of(made.network, made.outputs)
    preprocessing = preprocessing.for_channels(input_channels(made.network, arm.model))
    preprocessing = dataclasses.replace(preprocessing, transparency=None if earlier else "white")
    # Every image is decoded here, which may take an hour, so what else may be wrong was said before.
    allowed = options.get("max_bad")
    source = checked(source, max_bad=MAX_BAD if allowed is None else allowed, progress=progress)
    if not earlier:
        recipe = _for_batch(recipe, len(source.train or ()), changes, progress)
    for line in (source.summary, *source.notes):
        progress.note(line)
    if not earlier:
        given = options.get("range")
        found: Any = preprocessing.range or value_range(source) if given is None else given
        preprocessing = dataclasses.replace(preprocessing, range=found)
        if preprocessing.range is not None:
            check_range(source, preprocessing.range)
    setup = dataclasses.replace(setup, source=source, recipe=recipe, preprocessing=preprocessing)
    if recipe.ema and setup.steps * (1 - recipe.ema) < 1:
        progress.note(
            f"the moving average of the weights (ema {recipe.ema:g}) is over more steps than the {setup.steps} of this "
            "run: what is measured and saved will be near the first weights"
        )
    return setup, made


def _settings_in(folder: Path) -> dict[str, Any] | None:
    """The settings of the run in the folder, or of its study, whose options may be fewer than today's; None if new."""
    own, above = folder / SETTINGS, folder.parent / SETTINGS
    held: Any = None
    if own.is_file():
        held = read_json(own)
    elif above.is_file():
        with contextlib.suppress(StudyError):  # the file of any other program may be called so
            held = read_json(above)
    return held if isinstance(held, dict) and isinstance(held.get("preprocessing"), dict) else None


def _for_batch(recipe: Recipe, images: int, changes: Changes, progress: Progress) -> Recipe:
    """The recipe with a batch capped at the number of images; given learning rates are kept."""
    if not 0 < images < recipe.batch_size or images % recipe.accumulate:
        return recipe
    given = {name: getattr(recipe, name) for name in ("lr", "se_lr") if changes.get(name) is not None}
    found = recipe.changed({"batch_size": images, **given})
    progress.note(
        f"there are fewer images to train on than in a batch of {recipe.batch_size}: a batch is {images}, the learning "
        f"rate {found.lr:g}"
    )
    return found


def settings_of(arm: NetworkSpec, setup: TrainingSetup, made: BuiltNetwork) -> dict[str, Any]:
    """Everything that determines a run's result except its seed, as plain values."""
    # A name that is neither saved nor a file's function says all, even where a run's folder is called so.
    content = arm.given.content if arm.given else digest_of(arm.model) if arm.own or is_saved(arm.model) else arm.model
    weights = arm.weights if arm.weights == "pretrained" else digest_of(arm.weights)
    return {
        "model": named(arm.model, content),
        "weights": named(arm.weights, weights),
        "se": None if arm.spec is None else block_settings(arm.spec),
        "sites": [site.name for site in made.sites],
        "data": named(setup.source.name, setup.source.fingerprint()),
        "preprocessing": setup.preprocessing.to_json(),
        "augmentation": plain_values(setup.augmentation),
        "recipe": setup.recipe.to_json(),
        "device": setup.device.type,
    }


def run(
    made: BuiltNetwork,
    prepared: PreparedImages,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    seed: int,
    progress: Progress,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Train `made` in `folder`, from its checkpoint if any, and write the result, result.json last."""
    from senet.training.loop import Classifier, fit

    setup, processes = prepared.setup, prepared.setup.processes
    found = processes.first(lambda: _found(folder))
    for path in found.broken:
        progress.note(f"the checkpoint {path.name} is not whole and is skipped")
    step = 0 if found.path is None else step_of(found.path)
    if found.path is not None:
        progress.note(f"{folder.name} resumes after step {step} of {setup.steps}, from {found.path.name}")
    progress.run(folder.name, setup.recipe.epochs)
    progress.step(step, worked=False)
    if setup.recipe.channels_last:  # on the CPU a step then takes 0.7 to 0.9 of the time
        made.network.to(memory_format=torch.channels_last)
    if setup.recipe.freeze == "plain":
        freeze_plain(made.network, made.outputs)
    if processes.count > 1:
        synchronise(made.network)
    devices = [setup.device.index or 0] if setup.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), in_plain_words(folder, setup.recipe, processes.count):
        classifier = Classifier(made.network, setup, seed=seed)
        history = fit(
            classifier,
            prepared.train_batches(seed, step),
            prepared.monitored_batches(),
            folder,
            setup=setup,
            checkpoint=found.path,
            progress=progress,
            callbacks=callbacks,
        )
        network = classifier.measured
        own = predict_all(network, prepared.reported_batches(), setup.preprocessing, device=setup.device)
        said = joined_predictions(processes.gathered(own))
        check_scores(said.probabilities)
        network = network.cpu()
        result = RunResult(
            folder=folder,
            accuracy=said.accuracy,
            split=setup.source.reported[0],
            correct=tuple(said.correct.tolist()),
            seconds=sum(row["seconds"] for row in history),
            history=tuple(history),
            notes=(*setup.source.notes, *made.notes),
            skipped=setup.source.skipped,
        )
        processes.first(lambda: _write(result, network, said, made, setup, settings))
    return result


def _write(
    result: RunResult,
    network: nn.Module,
    said: Predictions,
    made: BuiltNetwork,
    setup: TrainingSetup,
    settings: Mapping[str, Any],
) -> None:
    """Write a run's result, result.json last; its checkpoints are then no longer needed."""
    folder = result.folder
    metadata = {
        "classes": list(setup.source.classes),
        "preprocessing": setup.preprocessing.to_json(),
        "accuracy": result.accuracy,
        "settings": settings,
    }
    write_network(network, folder / MODEL, metadata, follow=False)
    _write_predictions(folder / PREDICTIONS, said, setup.source)
    write_csv(folder / METRICS, result.history)  # a process killed after its last checkpoint may have lacked the time
    content = {
        "accuracy": result.accuracy,
        "split": result.split,
        "images": len(result.correct),
        "loss": said.loss if math.isfinite(said.loss) else None,
        "epochs": len(result.history),
        "seconds": result.seconds,
        "parameters": count_parameters(network),
        "sites": [dataclasses.asdict(site) for site in made.sites],
        "notes": list(result.notes),
        "bad_files": badfiles.to_json(result.skipped),
        "settings": settings,
        "processes": setup.processes.count,
        "machine": machine(setup.device),
    }
    write_json(folder / RESULT, content)
    sweep(folder, kept=0)


def _found(folder: Path) -> Newest:
    """The checkpoint to resume from; leftovers of interrupted writers are removed."""
    claim(folder)
    sweep(folder)
    return newest(folder)


def _write_predictions(path: Path, said: Predictions, source: DataSource) -> None:
    names = source.reported[1].names
    class_of = dict(enumerate(source.classes))
    rows = [
        {
            "image": name,
            "class": class_of[label],
            "predicted": class_of.get(best, str(best)),  # a network may have more outputs than there are classes
            "probability": probability,
            "correct": label == best,
        }
        for name, label, best, probability in zip(
            names, said.labels.tolist(), said.top[:, 0].tolist(), said.probability.tolist(), strict=True
        )
    ]
    write_csv(path, rows)
