"""Train variants of SE in one network from the same seeds on the same batches (section 6), and compare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import MadeSpec, Make, block_spec
from senet.console.machine import machine
from senet.console.progress import Progress
from senet.data import unreadable as badfiles
from senet.errors import StudyError, whole_number
from senet.evaluation.given import given_model
from senet.evaluation.networks import BuiltNetwork, NetworkSpec, example_of
from senet.files.run_folder import METRICS, RESULT, write_csv, write_json
from senet.insertion import InsertionError, sites
from senet.insertion.rules.site import lasting, select
from senet.recipe.options import Options, known_options
from senet.report import write_page
from senet.study.ablation.ablation import Ablation, TrainedCell
from senet.study.ablation.grid import BASE, cells_of, sites_of, typed_grid
from senet.study.ablation.grid import Cell as Variant
from senet.study.ablation.pages import ablation_page
from senet.study.cells.carry_out import carry_out, listed, on_device_of, open_study
from senet.study.cells.cell import Cell, CellOptions, left_out, seeds_in, variants_left_out
from senet.study.cells.commands import one_of
from senet.study.comparison.arms import checked_plain, cost_of, made_of, said_of, study_command, work_of
from senet.study.statistics import bootstrap_over_images, holm
from senet.training.processes.processes import device_layout, joined
from senet.training.train import RunResult, settings_of, setup_of

if TYPE_CHECKING:
    from typing import Unpack

    from lightning.pytorch.callbacks import Callback

    from senet.block import SESpec
    from senet.cost.cost import Cost
    from senet.data.source import Data
    from senet.evaluation.given import Model
    from senet.insertion import Where
    from senet.training.processes.processes import DeviceLayout
    from senet.training.setup import TrainingSetup

__all__ = ["ablate", "ablate_cells", "apart"]

PLAIN = "plain"
LEVEL = 0.05


def ablate(
    model: Model,
    data: Data,
    *,
    out: str | Path,
    table: str | Sequence[str] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
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
) -> Ablation:
    """Train the plain network and variants of SE in it, and report which differ, corrected for their number.

    For one seed, all start from the same plain weights and see the same augmented images in the
    same order. SE starts as in the paper, since not every gate has an identity start. Called again,
    it resumes. A later call may add tables, grid values and seeds in the same folder.

    Args:
        model: the plain network, as in `train`: a name, a function that returns it, or the network.
        data: the images, as in `train`: a name, a result of `open_data`, or two PyTorch data sets.
        out: the ablation's folder.
        table: one or more of the paper's tables: "reduction", "squeeze", "gate", "stages",
            "placement", "no-squeeze" and "bias"; or "all".
        grid: values by axis; every combination is a variant. The axes are the fields of SESpec;
            "stages" with "all", "each", "but-each", "2" (alone), "-2" (all but it) or "2+3"; and
            "make" as in `senet.insert`.
        weights: the initial weights; a classifier of another size starts fresh.
        spec: the standard block; a variant differs from it only in the varied options.
        where: the sites to use.
        make: the maker of the standard block, if it is not SE.
        start: the start of all SE blocks; by default "paper".
        seeds: the number of trainings per variant, with seeds 0 to seeds - 1.
        resume: whether to resume an ablation in `out`; False makes an existing one an error.
        progress: whether to show progress on standard error; or a Progress object.
        callbacks: additional Lightning callbacks for every run; not with several devices.
        options: as in `compare`. Of several devices ("cuda:0,1", "cpu*2", 8) each trains its own
            runs, in a process that a command starts.

    Returns:
        The ablation. `out` gets report.html, result.json, metrics.csv, a CSV and a figure per
        table, and the runs' folders plain-0, se-0, r4-0, ...

    Raises:
        StudyError: there is no such table or axis, the folder cannot be written or holds another
            study, the network already holds SE, an SE block does not run, or a loss is not finite.
        ValueError: data, network, weights, sites or a number are not usable.
    """
    found = ablate_cells(
        model,
        data,
        CellOptions(),
        out=out,
        table=table,
        grid=grid,
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
    assert isinstance(found, Ablation)
    return found


def ablate_cells(
    model: Model,
    data: Data,
    cells: CellOptions,
    *,
    out: str | Path,
    table: str | Sequence[str] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
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
) -> Ablation | list[str]:
    """`ablate`, with a choice of cells and of where they are trained.

    Returns:
        The ablation; or without a report, lines to show: commands, results of cells, a job's number.
    """
    seeds = whole_number("seeds", seeds)
    spec, where = block_spec(spec, make), lasting(where)
    name, given = given_model(model)
    plain = NetworkSpec(name, None if weights is None else str(weights), given=given)
    base = dataclasses.replace(spec, start=start or spec.start or "paper")
    asked = known_options(options, Options, "ablate")
    here = not cells.elsewhere
    layout, devices = apart(device_layout(asked.get("devices"), asked.get("nodes"), asked.get("strategy"), here=here))

    def words() -> list[str]:
        beside = len(devices) > 1 and here  # each child gets its own
        tables = [table] if isinstance(table, str) else table
        flags = {"out": out, "table": tables, "grid": typed_grid(grid), "weights": weights, **options}
        flags["devices"] = None if beside else one_of(asked.get("devices"))
        return study_command("ablate", model, data, base, where, flags, callbacks)

    with joined(layout) as processes:
        shown = Progress.of(progress, here=processes.rank == 0)
        setup, built = setup_of(plain, data, asked, layout, processes, shown, out, seed=0, here=here)
        first = {PLAIN: checked_plain(plain, built)}
        variants, tables = _variants(first[PLAIN], setup, base, where, table, grid)
        chosen = cells.chosen(variants, seeds)
        needed = {cell.variant for cell in chosen}
        arms, impossible = _arms(variants, needed, plain, first, setup, where)
        if cells.only in variants and variants[str(cells.only)].label in impossible:
            raise InsertionError(f"{cells.only}: {impossible[variants[str(cells.only)].label]}")
        chosen = [cell for cell in chosen if cell.variant in arms]
        settings = {key: settings_of(arm, setup, first[key]) for key, arm in arms.items()}
        common = {key: value for key, value in settings[PLAIN].items() if key not in ("se", "sites")}
        whole = {"study": "ablation", **common, "se": base.to_json()}
        if cells.list_cells:
            return listed(chosen, words())
        folder = processes.first(partial(open_study, out, whole, cells, resume=resume))
        for note in first[PLAIN].notes:
            shown.note(note)
        with setup.threads():
            costs = {} if cells.some else {key: cost_of(first[key], setup, latency=key != PLAIN) for key in arms}
            sites_in = {key: len(made.sites) for key, made in first.items()}
            notes = (*setup.source.notes, *first[PLAIN].notes, *badfiles.listed(setup.source.skipped, recorded=False))
            # A network of one's own may take long to make; of ours, thirty would only lie in memory.
            made = {(key, 0): each for key, each in first.items()} if plain.own else {}
            first.clear()
            if cells.report_only:
                chosen = seeds_in(folder, list(arms), seeds)
            work = work_of(arms, setup, settings, folder, shown, callbacks, words=words, devices=devices, made=made)
            carried = carry_out(work, chosen, cells, shown, steps=setup.steps)
        if cells.some or carried.submitted:
            return said_of(carried, chosen)
        runs = carried.found if cells.report_only else carried.whole(chosen)
        trained = _judged(variants, runs, costs, sites_in, folder)
        found = Ablation(
            folder=folder,
            model=name,
            data=setup.source.name,
            split=setup.source.reported[0],
            images=len(next(iter(runs.values())).correct),
            seeds=max(len(each.accuracy) for each in trained.values()),
            epochs=setup.recipe.epochs,
            cells=trained,
            tables={name: tuple(key for key in keys if key in trained) for name, keys in tables.items()},
            impossible=impossible,
            comparisons=sum((each.to_plain is not None) + (each.to_standard is not None) for each in trained.values()),
            settings=on_device_of(folder, whole),
            machine=machine(setup.device),
            notes=(*notes, *left_out(folder, list(arms), chosen), *variants_left_out(folder, arms)),
            missing=tuple(cell.name for cell in chosen if cell not in runs),
        )
        if processes.rank == 0:
            write_csv(folder / METRICS, _metrics(runs, list(arms)))
            write_page(ablation_page(found), folder)
            write_json(folder / RESULT, found.to_json())
    return found


def apart(layout: DeviceLayout) -> tuple[DeviceLayout, list[str]]:
    """The layout with only the first device, and the names of all devices, unless processes were already started.

    Processes started by torchrun or SLURM train each run together, one after another, as in `compare`.
    """
    if not layout.to_start:
        return layout, layout.names[:1]
    return dataclasses.replace(layout, devices=layout.devices[:1]), layout.names


def _variants(
    plain: BuiltNetwork,
    setup: TrainingSetup,
    base: SESpec | MadeSpec,
    where: Where,
    table: str | Sequence[str] | None,
    grid: Mapping[str, Sequence[Any]] | None,
) -> tuple[dict[str, Variant], dict[str, tuple[str, ...]]]:
    tables = [table] if isinstance(table, str) else list(table or ())
    found = select(sites(plain.network, example_of(setup.preprocessing), placement=base.placement), where)
    stages = sorted({site.stage for site in found})
    variants, of_table = cells_of(base, tables, grid, stages)
    return {PLAIN: Variant(PLAIN, "plain network", None), **variants}, of_table


def _arms(
    variants: Mapping[str, Variant],
    needed: Collection[str],
    plain: NetworkSpec,
    first: dict[str, BuiltNetwork],
    setup: TrainingSetup,
    where: Where,
) -> tuple[dict[str, NetworkSpec], dict[str, str]]:
    """The arms of needed variants, with networks for seed 0 in `first`, and why others cannot be made."""
    arms, impossible = {PLAIN: plain}, {}
    example = example_of(setup.preprocessing)
    for key, variant in variants.items():
        if variant.spec is None or key not in needed:
            continue
        try:
            found = sites(first[PLAIN].network, example, placement=variant.spec.placement)
            names = sites_of(variant, found, where)
            if not names:
                raise InsertionError(f"it leaves no site: SE would be in stages {variant.stages}")
            arm = dataclasses.replace(plain, spec=variant.spec, where=tuple(names))
            first[key] = made_of(arm, setup, seed=0)
        except InsertionError as error:
            if key == BASE:
                raise
            impossible[variant.label] = str(error)
        else:
            arms[key] = arm
    return arms, impossible


def _judged(
    variants: Mapping[str, Variant],
    runs: Mapping[Cell, RunResult],
    costs: Mapping[str, Cost],
    sites_in: Mapping[str, int],
    folder: Path,
) -> dict[str, TrainedCell]:
    """Each trained variant, compared with plain and standard over their common seeds."""
    by_variant: dict[str, dict[int, RunResult]] = {key: {} for key in costs}
    for cell, run in sorted(runs.items(), key=lambda item: item[0].seed):
        by_variant[cell.variant][cell.seed] = run
    plain = by_variant[PLAIN]
    trained = {key: each for key, each in by_variant.items() if each.keys() & plain.keys()}
    if not trained:
        raise StudyError(f"{folder} has no finished run of the plain network yet, with which the others are compared")

    def shared(one: str, other: str) -> list[int]:
        return [seed for seed in trained.get(one, ()) if seed in trained[other]]

    def accuracies(one: str, other: str) -> tuple[list[float], list[float]]:
        first, second = ([trained[key][seed].accuracy for seed in shared(one, other)] for key in (one, other))
        return first, second

    pairs = {(key, PLAIN): accuracies(PLAIN, key) for key in trained if key != PLAIN}
    pairs |= {(key, BASE): accuracies(BASE, key) for key in trained if key not in (PLAIN, BASE) and shared(BASE, key)}
    corrected = holm(pairs, level=LEVEL)
    found = {}
    for key, each in trained.items():
        to_plain = corrected.get((key, PLAIN))
        over_images = None
        if to_plain is not None:
            seeds = shared(PLAIN, key)
            over_images = bootstrap_over_images(
                [plain[seed].correct for seed in seeds],
                [each[seed].correct for seed in seeds],
                confidence=to_plain.difference.confidence,
            )
        found[key] = TrainedCell(
            cell=variants[key],
            accuracy=tuple(run.accuracy for run in each.values()),
            seconds=tuple(run.seconds for run in each.values()),
            cost=costs[key],
            sites=sites_in[key],
            to_plain=to_plain,
            over_images=over_images,
            to_standard=corrected.get((key, BASE)),
        )
    return found


def _metrics(runs: Mapping[Cell, RunResult], variants: Sequence[str]) -> list[dict[str, Any]]:
    """The metrics of every epoch of every run."""
    return [
        {"cell": cell.variant, "seed": cell.seed, **row, "epoch": int(row["epoch"])}
        for cell in sorted(runs, key=lambda cell: (variants.index(cell.variant), cell.seed))
        for row in runs[cell].history
    ]
