"""Train a network with SE beside the plain one, from the same seeds on the same images, and judge the difference."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

from senet.block import SESpec
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.cost.cost import cost
from senet.errors import InputError, StudyError
from senet.evaluation.networks import BuiltNetwork, NetworkSpec, example_of, make
from senet.files.run_folder import (
    METRICS,
    RESULT,
    open_folder,
    write_csv,
    write_json,
)
from senet.insertion import inserted
from senet.recipe.options import known_options
from senet.study.comparison.pages import write_comparison
from senet.study.comparison.report import Comparison, Trained
from senet.study.statistics import bootstrap_over_images, paired_difference, verdict
from senet.training.processes.launching import launch
from senet.training.processes.processes import joined, placement_of
from senet.training.setup import Plan, Prepared
from senet.training.train import RunResult, finished_run, plan_of, run, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from lightning.pytorch.callbacks import Callback

    from senet.cost.cost import Cost
    from senet.data.sources import DataSource
    from senet.insertion import Where
    from senet.recipe.options import Options

__all__ = ["checked_plain", "compare", "cost_of", "made_of", "train_all"]

ARMS = ("plain", "se")


def compare(
    model: str,
    data: str | Path | DataSource,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    spec: SESpec | None = None,
    where: Where = None,
    start: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Comparison:
    """Train the plain network and the one with SE in turn, for each seed, and say whether SE helped.

    For a seed both start from the same plain weights and see the same images, augmented alike, in the same order.
    Accuracies are those of the last epoch. Called again after an interruption it goes on where it was: finished
    runs are not trained again. More seeds may be asked for later; other settings need another folder.

    Args:
        model: the plain network's name, as `senet.create` takes it.
        data: `digits`, a folder of class folders, `torchvision:NAME`, `wds:SHARDS`, or what `open_data` returned.
        out: the folder of the comparison.
        weights: to start from; a classifier of another size starts fresh.
        spec: the SE to insert.
        where: at which of the network's sites.
        start: "identity" (the network computes at first what it did) or "paper" (He initialisation); not given,
            identity from weights and paper from scratch.
        seeds: how often each network is trained: with seeds 0 to seeds - 1.
        resume: go on with what `out` holds; False makes it an error that it holds something.
        progress: whether to show how far it is, on standard error; or a Progress that is told.
        callbacks: more of Lightning's, for every run.
        options: `recipe`, values in place of a recipe's such as `batch_size`, `epochs` and `lr`, and where it runs:
            `senet.recipe.options.Options` has them all, `recipe_for` what they are where not given.

    Returns:
        The comparison, which is also written to `out`: report.html, result.json, metrics.csv, learning_curves
        and difference (.png, .svg, .csv), and the folders plain-0, se-0, plain-1, ... of the runs.

    Raises:
        StudyError: where the folder cannot be written or holds another study, the plain network has inserted SE,
            an SE block does not run, or a loss is not finite.
        ValueError: where data, network, weights, sites or numbers are not as asked.
    """
    if type(seeds) is not int or seeds < 1:
        raise InputError(f"seeds is a whole number of at least 1, not {seeds!r}")
    plain = NetworkSpec(model, None if weights is None else str(weights))
    with_se = dataclasses.replace(plain, spec=spec or SESpec(), where=where).with_start(start)
    arms = dict(zip(ARMS, (plain, with_se), strict=True))
    asked = known_options(options, "compare")
    placement = placement_of(asked.get("devices"), asked.get("nodes"), asked.get("strategy"))
    if placement.to_start:
        same = {"out": out, "weights": weights, "spec": spec, "where": where, "start": start, "seeds": seeds}
        how = {"resume": resume, "progress": bool(progress), "callbacks": callbacks}
        return launch(placement, compare, {"model": model, "data": data, **same, **how, **options})
    with joined(placement) as processes:
        shown = progress if isinstance(progress, Progress) else Progress(progress and processes.rank == 0)
        plan = plan_of(plain, data, asked, placement, processes, shown, out)
        first = {"plain": checked_plain(plain, made_of(plain, plan, seed=0)), "se": made_of(with_se, plan, seed=0)}
        settings = {name: settings_of(arms[name], plan, first[name]) for name in ARMS}
        folder = processes.first(lambda: open_folder(out, settings["se"], resume=resume))
        for note in first["se"].notes:
            shown.note(note)
        with plan.threads():
            costs = processes.first(lambda: {name: cost_of(first[name], plan, latency=name == "se") for name in ARMS})
            runs = train_all(arms, plan, settings, folder, seeds, shown, callbacks)
            comparison = _judged(runs, costs, first["se"], plan, settings["se"], folder, plain.model)
        if processes.rank == 0:
            write_csv(folder / METRICS, comparison.rows())
            write_comparison(comparison)
            write_json(folder / RESULT, comparison.to_json())
    return comparison


def made_of(arm: NetworkSpec, plan: Plan, seed: int) -> BuiltNetwork:
    """The network of an arm for a seed, of the plan's size and classes."""
    return make(arm, num_classes=plan.num_classes, size=plan.preprocessing.size, seed=seed)


def checked_plain(arm: NetworkSpec, made: BuiltNetwork) -> BuiltNetwork:
    """The same, without inserted SE.

    Raises:
        StudyError: where it has some.
    """
    if inserted(made.network):
        other = arm.model.removeprefix("se_")
        hint = f": give {other!r}" if other != arm.model else ""
        raise StudyError(f"{arm.model} holds SE already, and a comparison takes the plain network{hint}")
    return made


def cost_of(made: BuiltNetwork, plan: Plan, *, latency: bool) -> Cost:
    """What one image costs, where the network is trained; the network stays on the CPU."""
    network = made.network.to(plan.device)
    found = cost(network, example_of(plan.preprocessing.size).to(plan.device), latency=latency)
    network.cpu()
    return found


def train_all(
    arms: Mapping[str, NetworkSpec],
    plan: Plan,
    settings: Mapping[str, Mapping[str, object]],
    folder: Path,
    seeds: int,
    shown: Progress,
    callbacks: Sequence[Callback],
) -> dict[str, list[RunResult]]:
    """The runs of each arm by seed: those that are finished as they are, the others trained, plain and SE in turn."""
    runs: dict[str, list[RunResult]] = {name: [] for name in arms}
    prepared: Prepared | None = None
    with shown.steps(plan.steps * seeds * len(arms)):
        for seed in range(seeds):
            for name, arm in arms.items():
                own = {**settings[name], "seed": seed}
                at = plan.processes.first(partial(open_folder, folder / f"{name}-{seed}", own, resume=True))
                result = plan.processes.first(partial(finished_run, at))
                if result is not None:
                    shown.step(plan.steps, worked=False)
                    shown.note(f"{name}-{seed} is finished: {result.split} accuracy {result.accuracy:.2%}")
                else:
                    if prepared is None:
                        shown.note(f"reading {plan.source.name}")
                        prepared = Prepared(plan)
                    made = made_of(arm, plan, seed)
                    result = run(made, prepared, at, own, seed=seed, progress=shown, callbacks=callbacks)
                runs[name].append(result)
    return runs


def _judged(
    runs: Mapping[str, Sequence[RunResult]],
    costs: Mapping[str, Cost],
    with_se: BuiltNetwork,
    plan: Plan,
    settings: Mapping[str, object],
    folder: Path,
    model: str,
) -> Comparison:
    plain, se = (
        Trained(
            accuracy=tuple(each.accuracy for each in runs[name]),
            seconds=tuple(each.seconds for each in runs[name]),
            cost=costs[name],
            histories=tuple(each.history for each in runs[name]),
        )
        for name in ARMS
    )
    difference = paired_difference(plain.accuracy, se.accuracy)
    over_images = bootstrap_over_images(*([each.correct for each in runs[name]] for name in ARMS))
    return Comparison(
        folder=folder,
        model=model,
        data=plan.source.name,
        split=plan.source.reported[0],
        images=over_images.images,
        monitored=plan.source.monitored[0],
        plain=plain,
        se=se,
        difference=difference,
        over_images=over_images,
        verdict=verdict(difference, over_images),
        latency_ratio=costs["se"].latency_ratio,
        sites=with_se.sites,
        notes=with_se.notes,
        skipped=plan.source.skipped,
        settings=settings,
        machine=machine(plan.device),
    )
