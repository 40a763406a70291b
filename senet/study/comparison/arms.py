"""Make and train the networks of a study: the part that `compare` and `ablate` share."""

from __future__ import annotations

import contextlib
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from senet.cost.cost import cost
from senet.errors import InputTypeError, StudyError
from senet.evaluation.networks import BuiltNetwork, NetworkSpec, example_of, make
from senet.files.lock import locked
from senet.files.run_folder import open_folder
from senet.insertion import inserted
from senet.study.cells.carry_out import Carried, Work, on_device_of
from senet.study.cells.commands import command, spec_flags
from senet.training.setup import PreparedImages, TrainingSetup
from senet.training.train import RunResult, finished_run, run
from senet.zoo.names.naming import origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lightning.pytorch.callbacks import Callback

    from senet.block import SESpec
    from senet.block.made import MadeSpec
    from senet.console.progress import Progress
    from senet.cost.cost import Cost
    from senet.insertion import Where
    from senet.study.cells.cell import Cell

__all__ = ["checked_plain", "cost_of", "made_of", "said_of", "study_command", "work_of"]


def made_of(arm: NetworkSpec, setup: TrainingSetup, seed: int) -> BuiltNetwork:
    """Make an arm's network for a seed, with the setup's input size and classes."""
    return make(arm, num_classes=setup.num_classes, size=setup.preprocessing.size, seed=seed)


def checked_plain(arm: NetworkSpec, made: BuiltNetwork) -> BuiltNetwork:
    """Check that the network has no inserted SE, and return it.

    Raises:
        StudyError: it has some.
    """
    if inserted(made.network):
        plain = origin(made.network)[0]
        hint = f": give {plain!r}" if plain not in (None, arm.model) and arm.given is None else ""
        raise StudyError(f"{arm.weights or arm.model} holds SE already, and a comparison takes the plain network{hint}")
    return made


def cost_of(made: BuiltNetwork, setup: TrainingSetup, *, latency: bool) -> Cost:
    """The cost of one image on the training's device; the network returns to the CPU."""
    network = made.network.to(setup.device)
    found = cost(network, example_of(setup.preprocessing).to(setup.device), latency=latency)
    network.cpu()
    return found


def work_of(
    arms: Mapping[str, NetworkSpec],
    setup: TrainingSetup,
    settings: Mapping[str, Mapping[str, object]],
    folder: Path,
    shown: Progress,
    callbacks: Sequence[Callback],
    *,
    words: Any,
    devices: Sequence[str] = (),
    made: Mapping[tuple[str, int], BuiltNetwork] = MappingProxyType({}),
) -> Work[RunResult]:
    """How the cells of these arms are trained: each in a folder of its own, which it locks.

    Networks that are `made` already, by variant and seed, are trained themselves.
    """
    prepared: list[PreparedImages] = []
    fresh, callbacks = dict(made), list(callbacks)  # for every run, also those of a generator
    first = setup.processes.first

    def opened(cell: Cell) -> Path:
        own = {**settings[cell.variant], "seed": cell.seed}
        return first(lambda: open_folder(folder / cell.name, on_device_of(folder, own), resume=True))

    images = setup.source.reported[1].names

    def finished(cell: Cell) -> RunResult | None:
        if not first((folder / cell.name).is_dir):
            return None
        at = opened(cell)
        result = first(partial(finished_run, at, images))
        if result is not None:
            shown.note(f"{cell.name} is finished: {result.split} accuracy {result.accuracy:.2%}")
        return result

    def train(cell: Cell) -> RunResult:
        at = opened(cell)
        with contextlib.ExitStack() as stack:
            first(lambda: stack.enter_context(locked(at)))
            result = first(partial(finished_run, at, images))  # another process may have finished it meanwhile
            if result is not None:
                return result
            if not prepared:
                shown.note(f"reading {setup.source.name}")
                prepared.append(PreparedImages(setup))
            network = fresh.pop((cell.variant, cell.seed), None) or made_of(arms[cell.variant], setup, cell.seed)
            own = {**settings[cell.variant], "seed": cell.seed}
            return run(network, prepared[0], at, own, seed=cell.seed, progress=shown, callbacks=callbacks)

    return Work(folder, train, finished, words, devices)


def said_of(carried: Carried[RunResult], chosen: Sequence[Cell]) -> list[str]:
    """The lines to show for cells that were trained without a report.

    Raises:
        StudyError: some are not finished.
    """
    if carried.submitted:
        return [carried.submitted]
    found = carried.whole(chosen)
    return [f"{cell.name}: {str(found[cell]).strip()}" for cell in chosen]


def study_command(
    verb: str,
    model: object,
    data: object,
    spec: SESpec | MadeSpec,
    where: Where,
    flags: Mapping[str, Any],
    callbacks: Sequence[Callback],
) -> list[str]:
    """The command of a study of images, from its function's arguments.

    Raises:
        InputTypeError: there are callbacks, or a value that a command cannot express.
    """
    if callbacks:
        raise InputTypeError("callbacks are objects of this process: train on one device to use them")
    chosen = [where] if isinstance(where, str) else where
    return command(verb, {"model": model, "data": data, **spec_flags(spec), "where": chosen, **flags})
