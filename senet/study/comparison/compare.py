"""Train a network without and with SE from the same seeds on the same images, and judge the difference."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from senet.block.made import MadeSpec, Make, block_in, block_spec, check_portable
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.errors import StudyError, whole_number
from senet.evaluation.given import given_model
from senet.evaluation.networks import NetworkSpec
from senet.files.run_folder import METRICS, RESULT, write_csv, write_json
from senet.insertion.rules.site import lasting
from senet.recipe.options import Options, known_options
from senet.study.cells.carry_out import carry_out, listed, on_device_of, open_study
from senet.study.cells.cell import Cell, CellOptions, left_out, seeds_in
from senet.study.cells.commands import one_of
from senet.study.comparison.arms import checked_plain, cost_of, made_of, said_of, study_command, work_of
from senet.study.comparison.pages import write_comparison
from senet.study.comparison.report import Comparison, Trained
from senet.study.statistics import bootstrap_over_images, paired_difference, verdict
from senet.training.processes.launching import launch
from senet.training.processes.processes import device_layout, joined
from senet.training.setup import TrainingSetup
from senet.training.train import RunResult, settings_of, setup_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from lightning.pytorch.callbacks import Callback

    from senet.block import SESpec
    from senet.cost.cost import Cost
    from senet.data.source import Data
    from senet.evaluation.given import Model
    from senet.insertion import Site, Where

__all__ = ["compare", "compare_cells"]

ARMS = ("plain", "se")


def compare(
    model: Model,
    data: Data,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    spec: SESpec | None = None,
    where: Where = None,
    make: Make | None = None,
    start: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Comparison:
    """Train the plain network and the one with SE for each seed, and report whether SE helped.

    For one seed, both start from the same plain weights and see the same augmented images in the
    same order. Accuracies are those of the last epoch. Called again after an interruption, it
    resumes without repeating finished runs. A later call may add seeds; other settings need another
    folder.

    Args:
        model: the plain network, as in `train`: a name, a function that returns it, or the network.
        data: the images, as in `train`: a name, a result of `open_data`, or two PyTorch data sets.
        out: the comparison's folder.
        weights: the initial weights; a classifier of another size starts fresh.
        spec: the SE to insert.
        where: the sites to use.
        make: the maker of blocks to insert instead of SE, as in `senet.insert`.
        start: "identity" (SE changes nothing at first) or "paper" (He initialisation); by default
            identity from weights and paper from scratch.
        seeds: the number of trainings per network, with seeds 0 to seeds - 1.
        resume: whether to resume a comparison in `out`; False makes an existing one an error.
        progress: whether to show progress on standard error; or a Progress object.
        callbacks: additional Lightning callbacks for every run.
        options: `recipe`, values that replace a recipe's, such as `batch_size`, `epochs` and `lr`,
            and where it runs: see `senet.recipe.options.Options`, and `recipe_for` for the
            defaults.

    Returns:
        The comparison. `out` gets report.html, result.json, metrics.csv, learning_curves and
        difference (.png, .svg, .csv), and the runs' folders plain-0, se-0, plain-1, ...

    Raises:
        StudyError: the folder cannot be written or holds another study, the plain network has
            inserted SE, an SE block does not run, or a loss is not finite.
        ValueError: data, network, weights, sites or a number are not usable.
    """
    found = compare_cells(
        model,
        data,
        CellOptions(),
        out=out,
        weights=weights,
        spec=spec,
        where=where,
        make=make,
        start=start,
        seeds=seeds,
        resume=resume,
        progress=progress,
        callbacks=callbacks,
        **options,
    )
    assert isinstance(found, Comparison)
    return found


def compare_cells(
    model: Model,
    data: Data,
    cells: CellOptions,
    *,
    out: str | Path,
    weights: str | Path | None = None,
    spec: SESpec | MadeSpec | None = None,
    where: Where = None,
    make: Make | None = None,
    start: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Comparison | list[str]:
    """`compare`, with a choice of cells and of where they are trained.

    Returns:
        The comparison; or without a report, lines to show: commands, results of cells, a job's number.
    """
    seeds = whole_number("seeds", seeds)
    spec, where = block_spec(spec, make), lasting(where)
    name, given = given_model(model)
    plain = NetworkSpec(name, None if weights is None else str(weights), given=given)
    with_se = dataclasses.replace(plain, spec=spec, where=where).with_start(start)
    arms = dict(zip(ARMS, (plain, with_se), strict=True))
    asked = known_options(options, Options, "compare")
    here = not cells.elsewhere
    if cells.launcher and one_of(asked.get("devices")) != asked.get("devices"):
        raise StudyError("compare trains a network on all of its devices, and a cell of a job has one: give one device")
    layout = device_layout(asked.get("devices"), asked.get("nodes"), asked.get("strategy"), here=here)
    if layout.to_start and here:
        check_portable(spec.maker if isinstance(spec, MadeSpec) else None)
        same = {"out": out, "weights": weights, "spec": spec, "where": where, "start": start, "seeds": seeds}
        how = {"resume": resume, "progress": bool(progress), "callbacks": callbacks}
        return launch(layout, compare_cells, {"model": model, "data": data, "cells": cells, **same, **how, **options})
    if layout.to_start:
        layout = dataclasses.replace(layout, devices=layout.devices[:1])  # nothing is trained here
    chosen = cells.chosen(ARMS, seeds)
    assert with_se.spec is not None
    flags = {"out": out, "weights": weights, **options}
    words = partial(study_command, "compare", model, data, with_se.spec, where, flags, callbacks)
    with joined(layout) as processes:
        shown = Progress.of(progress, here=processes.rank == 0)
        seed = chosen[0].seed
        setup, made = setup_of(plain, data, asked, layout, processes, shown, out, seed=seed, here=here)
        first = {"plain": checked_plain(plain, made), "se": made_of(with_se, setup, seed)}
        settings = {name: settings_of(arms[name], setup, first[name]) for name in ARMS}
        if cells.list_cells:
            return listed(chosen, words())
        folder = processes.first(partial(open_study, out, settings["se"], cells, resume=resume))
        for note in first["se"].notes:
            shown.note(note)
        with setup.threads():
            costs = None
            if not cells.some:
                costs = processes.first(
                    lambda: {name: cost_of(first[name], setup, latency=name == "se") for name in ARMS}
                )
            if cells.report_only:
                chosen = seeds_in(folder, ARMS, seeds)
            work = work_of(
                arms,
                setup,
                settings,
                folder,
                shown,
                callbacks,
                words=words,
                made={(key, seed): each for key, each in first.items()},
            )
            carried = carry_out(work, chosen, cells, shown, steps=setup.steps)
            if costs is None or carried.submitted:
                return said_of(carried, chosen)
            runs = carried.found if cells.report_only else carried.whole(chosen)
            missing = [cell.name for cell in chosen if cell not in runs]
            notes = (*setup.source.notes, *first["se"].notes, *left_out(folder, ARMS, chosen))
            own = on_device_of(folder, settings["se"])
            comparison = _judged(runs, missing, costs, first["se"].sites, notes, setup, own, folder, name)
        if processes.rank == 0:
            write_csv(folder / METRICS, comparison.rows())
            write_comparison(comparison)
            write_json(folder / RESULT, comparison.to_json())
    return comparison


def _judged(
    found: Mapping[Cell, RunResult],
    missing: Sequence[str],
    costs: Mapping[str, Cost],
    sites: tuple[Site, ...],
    notes: tuple[str, ...],
    setup: TrainingSetup,
    settings: Mapping[str, Any],
    folder: Path,
    model: str,
) -> Comparison:
    """The comparison over the seeds with both networks trained."""
    numbers = sorted({cell.seed for cell in found})
    seeds = [seed for seed in numbers if all(Cell(name, seed) in found for name in ARMS)]
    if not seeds:
        there = ", ".join(cell.name for cell in found) or "nothing"
        raise StudyError(f"{folder} has no seed for which both networks are trained yet: finished is {there}")
    runs = {name: [found[Cell(name, seed)] for seed in seeds] for name in ARMS}
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
        data=setup.source.name,
        split=setup.source.reported[0],
        images=over_images.images,
        monitored=setup.source.monitored[0],
        plain=plain,
        se=se,
        difference=difference,
        over_images=over_images,
        verdict=verdict(difference, over_images, block_in(settings)),
        latency_ratio=costs["se"].latency_ratio,
        sites=sites,
        notes=notes,
        skipped=setup.source.skipped,
        settings=settings,
        machine=machine(setup.device),
        seeds=tuple(seeds),
        missing=tuple(missing),
    )
