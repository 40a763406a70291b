"""Judge any training of a person's own: train it without and with SE from the same seeds, and say what that shows."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.block.made import block_in, block_settings, block_spec, check_maker
from senet.console.machine import machine
from senet.console.progress import Progress, duration
from senet.errors import InputError, InputTypeError, StudyError
from senet.files.code_digest import code_name, command_name, digest_of_code
from senet.files.lock import locked
from senet.files.run_folder import RESULT, SETTINGS, named, open_folder, write_json
from senet.study.cells.carry_out import GOES_ON, Carried, Work, carry_out, listed
from senet.study.cells.cell import Cell, CellOptions, check_seeds, incomplete, seeds_in
from senet.study.cells.children import INSIDE
from senet.study.cells.commands import command, spec_flags
from senet.study.judging.judgement import Arm, Judgement, arm_names, write_judgement
from senet.study.judging.trained import CONTROL, CellFailedError, Trained, read_trained, train_cell
from senet.study.judging.verdict import CONFIDENCE, Measure, judged
from senet.training.processes.processes import asked_here
from senet.words import counted

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
    score: str = "score",
    unit: str = "",
    higher_is_better: bool = True,
    control: bool = False,
    version: str | None = None,
    devices: str | int | None = None,
    confidence: float = CONFIDENCE,
    resume: bool = True,
    progress: bool | Progress = True,
) -> Judgement:
    """Call a training of one's own for each seed, without SE and with it, and say whether SE helped.

    Called again with the same folder it goes on: finished trainings are not repeated, those that failed are tried
    again, and more seeds may be asked for. A training whose code has changed needs another folder, or `version`.

    Args:
        train: is given a cell, makes its network, calls `model = cell.put(model, example)`, trains it with
            `cell.seed` on `cell.device`, and returns its score: a number, or {"score": number, "each": {example:
            number}}. Files that it keeps go to `cell.folder`; `cell.resumed` says whether there may be some.
        out: the folder of the study.
        spec: the SE to insert.
        where: at which of the network's sites.
        make: what makes the blocks in SE's place, as `senet.insert` takes it.
        seeds: how often each arm is trained: with seeds 0 to seeds - 1.
        score: what the score is called.
        unit: that it is counted in.
        higher_is_better: whether more of it is better; False for errors.
        control: train the plain network against itself, from other seeds: how large a difference chance makes.
        version: a name for this training, in place of a digest of its code.
        devices: "auto", "cpu", "cuda:1"; with several ("cpu*2", "cuda:0,1") each trains cells of its own, in its own
            process that a command starts, for which `train` stands at the top level of a file.
        confidence: of the intervals. At the usual 0.95, looking again after adding seeds makes false claims likelier.
        resume: go on with what `out` holds; False makes it an error that it holds something.
        progress: whether to show how far it is, on standard error; or a Progress that is told.

    Returns:
        The judgement, which is also written to `out`: report.html, result.json, and a folder for each training.

    Raises:
        StudyError: where the folder cannot be written or holds another study, or no seed is trained in both arms.
        ValueError: where numbers are not as asked.
    """
    if INSIDE in os.environ:
        raise StudyError(
            "judge() was called while a command imports this file for its training: let it stand under "
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
    score: str = "score",
    unit: str = "",
    higher_is_better: bool = True,
    control: bool = False,
    version: str | None = None,
    devices: str | int | None = None,
    confidence: float = CONFIDENCE,
    resume: bool = True,
    progress: bool | Progress = True,
) -> Judgement | list[str]:
    """A judgement whose cells are trained as the options say, in part or elsewhere.

    Returns:
        The judgement; or, where no report is drawn, lines to show: commands, results of cells, a job's number.
    """
    _check(train, seeds, confidence)
    shown = progress if isinstance(progress, Progress) else Progress(progress)
    measure = Measure(score, unit, higher_is_better)
    block = block_spec(spec, make)
    arms = ("plain", CONTROL if control else "se")
    chosen = cells.chosen(arms, seeds)
    layout = asked_here(str("auto" if devices is None else devices).strip().lower().replace("gpu", "cuda"))
    names = layout.names

    def words() -> list[str]:
        one = layout.device.type if len(names) > 1 else devices
        beside = len(names) > 1 and not (cells.list_cells or cells.launcher)
        flags = {"code": command_name(train), "out": out, **spec_flags(block), "version": version}
        flags |= {"where": [where] if isinstance(where, str) else where, "control": control or None}
        return command("judge", {**flags, "devices": None if beside else one})

    if cells.list_cells:
        return listed(chosen, words())
    settings = _settings(train, block, where, version, control)
    if not cells.report_only:
        check_maker(block)
    folder = _opened(out, settings, resume=resume, report_only=cells.report_only)
    if cells.report_only:
        chosen = seeds_in(folder, arms, seeds)

    def said(cell: Cell, found: Trained) -> str:
        return f"{cell.name}: {measure.score} {found.score:.6g} {unit}".rstrip()

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


def _check(train: Any, seeds: int, confidence: float) -> None:
    check_seeds(seeds)
    if not callable(train):
        raise InputTypeError(f"judge takes a function that trains, which is given a cell, not a {type(train).__name__}")
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
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence is a number of at least 0.5 and below 1, such as 0.98, not {confidence!r}")


def _settings(
    train: Callable[..., Any], block: SESpec | MadeSpec, where: Where, version: str | None, control: bool
) -> dict[str, Any]:
    """All that decides the result of a training but its seed."""
    code = f"version {version}" if version is not None else digest_of_code(train)
    sites: Any = where
    if callable(where):
        sites = named(code_name(where), digest_of_code(where))
    elif where is not None and not isinstance(where, str):
        sites = list(where)
    return {
        "study": "judge",
        "code": named(code_name(train), code),
        "se": block_settings(block),
        "where": sites,
        "control": control,
    }


def _opened(out: str | Path, settings: Mapping[str, Any], *, resume: bool, report_only: bool) -> Path:
    if report_only and not (Path(out).expanduser() / SETTINGS).is_file():
        raise StudyError(f"{out} holds no study, of which a report could be drawn: give the folder of one")
    try:
        return open_folder(out, settings, resume=resume)
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
    """The judgement of the seeds for which both arms are trained."""
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
        notes=tuple(
            f"{note} ({of[0] if len(of) == 1 else counted(len(of), 'training')})." for note, of in notes.items()
        ),
        settings=settings,
        machine=ran_on,
    )
