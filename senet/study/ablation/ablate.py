"""Train variants of SE in one network from the same seeds on the same batches, and say which differ (section 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block import SESpec
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.errors import InputError
from senet.evaluation.networks import BuiltNetwork, NetworkSpec, example_of
from senet.files.run_folder import METRICS, RESULT, open_folder, write_csv, write_json
from senet.insertion import InsertionError, sites
from senet.insertion.rules.site import select
from senet.recipe.options import known_options
from senet.report import write_page
from senet.study.ablation.ablation import Ablation, TrainedCell
from senet.study.ablation.grid import BASE, Cell, cells_of, sites_of
from senet.study.ablation.pages import ablation_page
from senet.study.ablation.parallel import apart, train_beside
from senet.study.comparison.compare import checked_plain, cost_of, made_of, train_all
from senet.study.statistics import bootstrap_over_images, holm
from senet.training.processes.processes import joined, placement_of
from senet.training.train import RunResult, plan_of, settings_of

if TYPE_CHECKING:
    from typing import Unpack

    from lightning.pytorch.callbacks import Callback

    from senet.cost.cost import Cost
    from senet.data.sources import DataSource
    from senet.insertion import Where
    from senet.recipe.options import Options
    from senet.training.setup import Plan

__all__ = ["ablate"]

PLAIN = "plain"
LEVEL = 0.05


def ablate(
    model: str,
    data: str | Path | DataSource,
    *,
    out: str | Path,
    table: str | Sequence[str] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    weights: str | Path | None = None,
    spec: SESpec | None = None,
    where: Where = None,
    start: str | None = None,
    seeds: int = 3,
    resume: bool = True,
    progress: bool | Progress = True,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> Ablation:
    """Train the plain network and many variants of SE in it, and say which differ, corrected for their number.

    For a seed all start from the same plain weights and see the same images, augmented alike, in the same order; all
    SE starts as in the paper, since not every gate has an identity start. Called again it goes on where it was;
    more tables, more of a grid and more seeds may be asked for later, in the same folder.

    Args:
        model: the plain network's name, as `senet.create` takes it.
        data: `digits`, a folder of class folders, `torchvision:NAME`, or what `open_data` returned.
        out: the folder of the ablation.
        table: one or more of the paper's: "reduction", "squeeze", "gate", "stages", "placement", "no-squeeze", and
            "bias"; or "all".
        grid: values by axis, every combination of which is a variant: the fields of SESpec, and "stages" with "all",
            "each", "but-each", "2" (alone), "-2" (all but it) or "2+3".
        weights: to start from; a classifier of another size starts fresh.
        spec: the standard block, to which variants keep but in what they vary.
        where: at which of the network's sites.
        start: of all SE blocks; "paper" where not given.
        seeds: how often each variant is trained: with seeds 0 to seeds - 1.
        resume: go on with what `out` holds; False makes it an error that it holds something.
        progress: whether to show how far it is, on standard error; or a Progress that is told.
        callbacks: more of Lightning's, for every run; not with several devices.
        options: as in `compare`. With several devices ("cuda:0,1", "cpu*2", 8) each trains runs of its own, in its own
            process: as many at a time as there are devices.

    Returns:
        The ablation, which is also written to `out`: report.html, result.json, metrics.csv, a table and a figure for
        each table, and the folders plain-0, se-0, r4-0, ... of the runs.

    Raises:
        StudyError: where there is no such table or axis, the folder cannot be written or holds another study, the
            network holds SE already, an SE block does not run, or a loss is not finite.
        ValueError: where data, network, weights, sites or numbers are not as asked.
    """
    if type(seeds) is not int or seeds < 1:
        raise InputError(f"seeds is a whole number of at least 1, not {seeds!r}")
    shown = progress if isinstance(progress, Progress) else Progress(progress)
    plain = NetworkSpec(model, None if weights is None else str(weights))
    base = dataclasses.replace(spec or SESpec(), start=start or (spec or SESpec()).start or "paper")
    asked = known_options(options, "ablate")
    placement, beside = apart(placement_of(asked.get("devices"), asked.get("nodes"), asked.get("strategy")))
    with joined(placement) as processes:
        plan = plan_of(plain, data, asked, placement, processes, shown, out)
        first = {PLAIN: checked_plain(plain, made_of(plain, plan, seed=0))}
        cells, tables = _cells(first[PLAIN], plan, base, where, table, grid)
        arms, impossible = _arms(cells, plain, first, plan, where)
        settings = {key: settings_of(arm, plan, first[key]) for key, arm in arms.items()}
        common = {key: value for key, value in settings[PLAIN].items() if key not in ("se", "sites")}
        whole = {"study": "ablation", **common, "se": base.to_json()}
        folder = processes.first(lambda: open_folder(out, whole, resume=resume))
        for note in first[PLAIN].notes:
            shown.note(note)
        with plan.threads():
            costs = {key: cost_of(first[key], plan, latency=key != PLAIN) for key in arms}
            sites_in, notes = {key: len(made.sites) for key, made in first.items()}, first[PLAIN].notes
            first.clear()
            if len(beside) > 1:
                train_beside(arms, data, folder, seeds, beside, asked, shown)
            runs = train_all(arms, plan, settings, folder, seeds, shown, callbacks)
        trained = _judged(cells, runs, costs, sites_in)
        found = Ablation(
            folder=folder,
            model=model,
            data=plan.source.name,
            split=plan.source.reported[0],
            images=len(runs[PLAIN][0].correct),
            seeds=seeds,
            epochs=plan.recipe.epochs,
            cells=trained,
            tables={name: tuple(key for key in keys if key in trained) for name, keys in tables.items()},
            impossible=impossible,
            comparisons=sum((each.to_plain is not None) + (each.to_standard is not None) for each in trained.values()),
            settings=whole,
            machine=machine(plan.device),
            notes=notes,
        )
        if processes.rank == 0:
            write_csv(folder / METRICS, _metrics(runs))
            write_page(ablation_page(found), folder)
            write_json(folder / RESULT, found.to_json())
    return found


def _cells(
    plain: BuiltNetwork,
    plan: Plan,
    base: SESpec,
    where: Where,
    table: str | Sequence[str] | None,
    grid: Mapping[str, Sequence[Any]] | None,
) -> tuple[dict[str, Cell], dict[str, tuple[str, ...]]]:
    tables = [table] if isinstance(table, str) else list(table or ())
    found = select(sites(plain.network, example_of(plan.preprocessing.size), placement=base.placement), where)
    stages = sorted({site.stage for site in found})
    cells, of_table = cells_of(base, tables, grid, stages)
    return {PLAIN: Cell(PLAIN, "plain network", None), **cells}, of_table


def _arms(
    cells: Mapping[str, Cell], plain: NetworkSpec, first: dict[str, BuiltNetwork], plan: Plan, where: Where
) -> tuple[dict[str, NetworkSpec], dict[str, str]]:
    """The arm of each cell that can be made, its network for seed 0 in `first`, and why the others cannot."""
    arms, impossible = {PLAIN: plain}, {}
    example = example_of(plan.preprocessing.size)
    for key, cell in cells.items():
        if cell.spec is None:
            continue
        try:
            found = sites(first[PLAIN].network, example, placement=cell.spec.placement)
            names = sites_of(cell, found, where)
            if not names:
                raise InsertionError(f"it leaves no site: SE would be in stages {cell.stages}")
            arm = dataclasses.replace(plain, spec=cell.spec, where=tuple(names))
            first[key] = made_of(arm, plan, seed=0)
        except InsertionError as error:
            if key == BASE:
                raise
            impossible[cell.label] = str(error)
        else:
            arms[key] = arm
    return arms, impossible


def _judged(
    cells: Mapping[str, Cell],
    runs: Mapping[str, Sequence[RunResult]],
    costs: Mapping[str, Cost],
    sites_in: Mapping[str, int],
) -> dict[str, TrainedCell]:
    accuracy = {key: tuple(run.accuracy for run in each) for key, each in runs.items()}
    pairs = {(key, PLAIN): (accuracy[PLAIN], accuracy[key]) for key in runs if key != PLAIN}
    pairs |= {(key, BASE): (accuracy[BASE], accuracy[key]) for key in runs if key not in (PLAIN, BASE)}
    corrected = holm(pairs, level=LEVEL)
    found = {}
    for key, each in runs.items():
        to_plain = corrected.get((key, PLAIN))
        over_images = None
        if to_plain is not None:
            over_images = bootstrap_over_images(
                [run.correct for run in runs[PLAIN]],
                [run.correct for run in each],
                confidence=to_plain.difference.confidence,
            )
        found[key] = TrainedCell(
            cell=cells[key],
            accuracy=accuracy[key],
            seconds=tuple(run.seconds for run in each),
            cost=costs[key],
            sites=sites_in[key],
            to_plain=to_plain,
            over_images=over_images,
            to_standard=corrected.get((key, BASE)),
        )
    return found


def _metrics(runs: Mapping[str, Sequence[RunResult]]) -> list[dict[str, Any]]:
    """The metrics of every epoch of every run."""
    return [
        {"cell": key, "seed": seed, **row, "epoch": int(row["epoch"])}
        for key, each in runs.items()
        for seed, run in enumerate(each)
        for row in run.history
    ]
