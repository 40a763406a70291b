"""Judge any training: run it without and with SE from the same seeds, and report whether SE helped."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in, block_settings, block_spec, check_maker
from senet.console.machine import machine
from senet.console.progress import Progress, duration
from senet.errors import InputError, InputTypeError, StudyError, whole_number
from senet.files.code_digest import code_name, command_name, digest_of_code
from senet.files.lock import locked
from senet.files.records import Record
from senet.files.run_folder import RESULT, named, open_folder, read_json, write_json
from senet.insertion.rules.site import lasting
from senet.recipe.knobs import is_number
from senet.study.cells.carry_out import GOES_ON, Carried, Work, carry_out, listed, open_study
from senet.study.cells.cell import Cell, CellOptions, incomplete, left_out, seeds_in
from senet.study.cells.children import INSIDE
from senet.study.cells.commands import command, one_of, spec_flags
from senet.study.judging.judgement import Arm, Judgement, arm_names, write_judgement
from senet.study.judging.trained import CONTROL, CellFailedError, Trained, read_trained, train_cell
from senet.study.judging.verdict import CONFIDENCE, Measure, judged
from senet.training.processes.processes import asked_here
from senet.words import counted, kind_of

SCORE = "score.json"
"""What the score means, as it was given last: the trainings of a folder may be killed before its result."""

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from senet.block import SESpec
    from senet.block.made import MadeSpec, Make
    from senet.insertion import Where
    from senet.study.judging.trained import TrainingCell

__all__ = ["judge", "judge_cells"]


def judge(
    train: Callable[[TrainingCell], Any],
    *,
    out: str | Path,
    spec: SESpec | None = None,
    where: Where = None,
    make: Make | None = None,
    seeds: int = 5,
    score: str | None = None,
    unit: str | None = None,
    higher_is_better: bool | None = None,
    control: bool = False,
    version: str | None = None,
    devices: str | int | None = None,
    confidence: float = CONFIDENCE,
    resume: bool = True,
    progress: bool | Progress = True,
) -> Judgement:
    """Call a user's training for each seed, without and with SE, and report whether SE helped.

    Called again with the same folder, it resumes: finished trainings are kept, failed ones are
    repeated, and seeds can be added. A training whose code has changed needs another folder, or
    `version`.

    Args:
        train: a function of a cell. It makes its network, calls `model = cell.put(model, example)`,
            trains it with `cell.seed` on `cell.device`, and returns the score: a number, or
            {"score": number, "each": {example: number}}. It may keep files in `cell.folder`;
            `cell.resumed` says whether there may be some.
        out: the study's folder.
        spec: the SE to insert.
        where: the sites to use.
        make: the maker of blocks to insert instead of SE, as in `senet.insert`.
        seeds: the number of trainings per arm, with seeds 0 to seeds - 1.
        score: the score's name; by default that of the judgement in `out`, or "score".
        unit: the score's unit; by default that of the judgement in `out`, or none.
        higher_is_better: whether a higher score is better; False for errors. By default as in the
            judgement in `out`, or True.
        control: compare the plain network with itself, trained from other seeds, to see chance differences.
        version: a name for this training instead of a digest of its code.
        devices: "auto", "cpu", "cuda:1". Of several ("cpu*2", "cuda:0,1") each trains its own cells
            in a process that a command starts; `train` must then be at the top level of a file.
        confidence: the intervals' confidence. At the usual 0.95, repeated looks after adding seeds
            make false claims likelier.
        resume: whether to resume a study in `out`; False makes an existing one an error.
        progress: whether to show progress on standard error; or a Progress object.

    Returns:
        The judgement. `out` gets report.html, result.json, and a folder per training.

    Raises:
        StudyError: the folder cannot be written or holds another study, or no seed is trained in both arms.
        ValueError: a number is not usable.
    """
    if INSIDE in os.environ:
        raise StudyError(
            "judge() was called while a command imports this file for its training: put it under "
            "if __name__ == '__main__':"
        )
    found = judge_cells(
        train,
        CellOptions(),
        out=out,
        spec=spec,
        where=where,
        make=make,
        seeds=seeds,
        score=score,
        unit=unit,
        higher_is_better=higher_is_better,
        control=control,
        version=version,
        devices=devices,
        confidence=confidence,
        resume=resume,
        progress=progress,
    )
    assert isinstance(found, Judgement)
    return found


def judge_cells(
    train: Callable[[TrainingCell], Any],
    cells: CellOptions,
    *,
    out: str | Path,
    spec: SESpec | None = None,
    where: Where = None,
    make: Make | None = None,
    seeds: int = 5,
    score: str | None = None,
    unit: str | None = None,
    higher_is_better: bool | None = None,
    control: bool = False,
    version: str | None = None,
    devices: str | int | None = None,
    confidence: float = CONFIDENCE,
    resume: bool = True,
    progress: bool | Progress = True,
) -> Judgement | list[str]:
    """`judge`, with a choice of cells and of where they are trained.

    Returns:
        The judgement; or without a report, lines to show: commands, results of cells, a job's number.
    """
    seeds = whole_number("seeds", seeds)
    _check(train, confidence)
    shown = Progress.of(progress)
    block = block_spec(spec, make)
    arms = ("plain", CONTROL if control else "se")
    chosen = cells.chosen(arms, seeds)
    where = [where] if isinstance(where, str) else lasting(where)
    asked = str("auto" if devices is None else devices).strip().lower().replace("gpu", "cuda")
    layout = asked_here(asked, needed=not cells.elsewhere)
    names = layout.names

    def words() -> list[str]:
        beside = len(names) > 1 and not cells.elsewhere
        flags = {"code": command_name(train), "out": out, **spec_flags(block), "version": version}
        flags |= {"where": where, "control": control or None}
        return command("judge", {**flags, "devices": None if beside else one_of(devices)})

    if cells.list_cells:
        return listed(chosen, words())
    if not cells.some:
        import scipy.special  # noqa: F401 the verdict needs it, and its lack is said before hours of training
    settings = _settings(train, block, where, version, control)
    if not cells.report_only:
        check_maker(block)
    folder = _opened(out, settings, cells, resume=resume)
    measure = _measure(folder, score, unit, higher_is_better, shown)
    if cells.report_only:
        chosen = seeds_in(folder, arms, seeds)

    def said(cell: Cell, found: Trained) -> str:
        return f"{cell.name}: {measure.score} {found.score:.6g} {measure.unit}".rstrip()

    def trained(cell: Cell) -> Trained:
        own = {**settings, "arm": cell.variant, "seed": cell.seed}
        at = open_folder(folder / cell.name, own, resume=True)
        with locked(at):
            found = read_trained(at)
            if found is None:
                shown.run(cell.name)
                found = train_cell(
                    train, at, own, arm=cell.variant, seed=cell.seed, device=layout.device, spec=block, where=where
                )
                shown.step()
                shown.note(f"{said(cell, found)} ({duration(found.seconds)})")
            return found

    def finished(cell: Cell) -> Trained | None:
        at = folder / cell.name
        if not at.is_dir():
            return None
        return read_trained(open_folder(at, {**settings, "arm": cell.variant, "seed": cell.seed}, resume=True))

    work = Work(folder, trained, finished, words, names, (CellFailedError,))
    carried = carry_out(work, chosen, cells, shown, steps=1)
    if carried.submitted:
        return [carried.submitted]
    if cells.some:
        found = carried.whole(chosen)
        return [said(cell, found[cell]) for cell in chosen]
    result = _judgement(carried, chosen, arms, measure, folder, settings, confidence, machine(layout.device))
    missing = write_judgement(result)
    write_json(folder / RESULT, result.to_json())
    if missing:
        shown.note(missing)
    return result


def _check(train: Any, confidence: float) -> None:
    if not callable(train):
        raise InputTypeError(f"judge takes a function that trains, which is given a cell, not {kind_of(train)}")
    try:
        inspect.signature(train).bind(None)
    except TypeError as error:
        raise InputTypeError(f"train takes one argument, the cell; {code_name(train)} does not") from error
    except ValueError:  # a built-in function without a signature
        pass
    count, by = os.environ.get("SLURM_STEP_NUM_TASKS", "1"), "srun"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        count, by = os.environ.get("WORLD_SIZE", "1"), "torchrun"
    if count != "1":
        raise StudyError(
            f"{by} started {count} processes of this judgement, and each would train every cell: start it once. "
            "--devices 'cuda:0,1' trains a cell on each device; a training over several starts its processes itself"
        )
    if not (is_number(confidence) and 0.5 <= confidence < 1):
        raise InputError(f"confidence is a number of at least 0.5 and below 1, such as 0.98, not {confidence!r}")


def _settings(
    train: Callable[..., Any], block: SESpec | MadeSpec, where: Where, version: str | None, control: bool
) -> dict[str, Any]:
    """Everything that determines a training's result except its seed."""
    code = f"version {version}" if version is not None else digest_of_code(train)
    return {
        "study": "judge",
        "code": named(code_name(train), code),
        "se": block_settings(block),
        "where": named(code_name(where), digest_of_code(where)) if callable(where) else where,
        "control": control,
    }


def _measure(
    folder: Path, score: str | None, unit: str | None, higher_is_better: bool | None, shown: Progress
) -> Measure:
    """The meaning of the score: as given, else as in the folder's judgement; a change of it is said.

    A call that adds seeds and forgets the flags must not turn a verdict on errors around.
    """
    before = None
    # Of trainings that were killed there is no result, and the flags were those of their first call.
    if (file := next((each for each in (folder / SCORE, folder / RESULT) if each.is_file()), None)) is not None:
        held = Record(file, read_json(file))
        before = Measure(held.text("score"), held.text("unit"), held.flag("higher_is_better"))
    given: dict[str, Any] = {"score": score, "unit": unit, "higher_is_better": higher_is_better}
    given = {name: value for name, value in given.items() if value is not None}
    found = dataclasses.replace(before or Measure(), **given)
    if before is not None and found != before:
        shown.note(f"the score of {folder} was {_named(before)}, and is now {_named(found)}")
    if found != (before or Measure()):
        write_json(folder / SCORE, dataclasses.asdict(found))
    return found


def _named(measure: Measure) -> str:
    unit = f" in {measure.unit}" if measure.unit else ""
    return f"{measure.score!r}{unit} ({'higher' if measure.higher_is_better else 'lower'} is better)"


def _opened(out: str | Path, settings: Mapping[str, Any], cells: CellOptions, *, resume: bool) -> Path:
    try:
        return open_study(out, settings, cells, resume=resume)
    except StudyError as error:
        if "code " not in str(error):
            raise
        raise StudyError(
            f"{error}. Two trainings are never mixed in one folder; where both are the same to you, name them so with "
            "version= from the start"
        ) from None


def _judgement(
    carried: Carried[Trained],
    chosen: Sequence[Cell],
    arms: tuple[str, str],
    measure: Measure,
    folder: Path,
    settings: Mapping[str, Any],
    confidence: float,
    ran_on: Mapping[str, Any],
) -> Judgement:
    """The judgement over the seeds with both arms trained."""
    found = carried.found
    numbers = sorted({cell.seed for cell in chosen})
    seeds = [seed for seed in numbers if all(Cell(arm, seed) in found for arm in arms)]
    missing = [cell for cell in chosen if cell not in found]
    if not seeds:
        why = incomplete(missing, carried.failed, GOES_ON)
        raise StudyError(f"no seed is trained in both arms: {why}")
    runs = [[found[Cell(arm, seed)] for seed in seeds] for arm in arms]
    control = arms[1] == CONTROL
    block = block_in(settings)
    names = arm_names(control, block)
    plain, se = (
        Arm(name, tuple(run.score for run in own), tuple(run.seconds for run in own), own[0].cost)
        for name, own in zip(names, runs, strict=True)
    )
    verdict = judged(
        plain.scores,
        se.scores,
        measure,
        each=([run.each for run in runs[0]], [run.each for run in runs[1]]),
        confidence=confidence,
        whom="The second plain arm" if control else block,
    )
    notes: dict[str, list[str]] = {}
    for arm, own in zip(arms, runs, strict=True):
        for seed, run in zip(seeds, own, strict=True):
            for note in run.notes:
                notes.setdefault(note, []).append(f"{arm}-{seed}")
    failed = {cell.name: why for cell, why in carried.failed.items()}
    return Judgement(
        folder=folder,
        code=str(settings["code"]["name"]),
        measure=measure,
        seeds=tuple(seeds),
        plain=plain,
        se=se,
        verdict=verdict,
        control=control,
        failed=failed,
        missing=tuple(cell.name for cell in missing if cell.name not in failed),
        sites=runs[1][0].sites,
        notes=(
            *(f"{note} ({of[0] if len(of) == 1 else counted(len(of), 'training')})." for note, of in notes.items()),
            *left_out(folder, arms, chosen),
        ),
        settings=settings,
        machine=ran_on,
    )
