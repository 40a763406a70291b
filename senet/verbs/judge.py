"""The verb `judge`, which judges a user's training."""

from __future__ import annotations

import contextlib
from typing import Any

from senet.block import SESpec
from senet.errors import StudyError
from senet.files.own_code import function_in, importing_from
from senet.files.paths import expanded
from senet.study.cells.cell import CellOptions
from senet.verbs.cells import commands_alone, show_cells

__all__ = ["judge"]


def judge(
    code: str,
    out: str,
    spec: SESpec,
    cells: CellOptions,
    *,
    where: list[str] | None = None,
    make: str | None = None,
    seeds: int = 5,
    score: str | None = None,
    unit: str | None = None,
    higher_is_better: bool | None = None,
    control: bool = False,
    version: str | None = None,
    devices: str | None = None,
    resume: bool = True,
) -> None:
    """Call a training of your own without SE and with it, from the same seeds, and say whether SE helped.

    The function gets a cell: it makes its network, calls model = cell.put(model, example), trains
    with cell.seed and returns its score. Called again with the same folder, it resumes.

    Examples:
      senet judge --code mine.py:train --score mAP50-95 --unit points --out runs/mine
      senet judge --code mine.py:train --no-higher-is-better --seeds 8 --devices 'cuda:0,1' --out runs/mine
      senet judge --code mine.py:train --control --out runs/chance
    """
    from senet.study.cells.children import inside
    from senet.study.judging.judge import judge_cells

    file, colon, function = code.rpartition(":")
    if not (colon and function.isidentifier() and file.endswith(".py")):
        raise StudyError(f"code is a function in a file, such as mine.py:train, not {code!r}")
    own: dict[str, Any] = {"spec": spec, "where": where, "make": make, "seeds": seeds, "score": score, "unit": unit}
    own |= {"higher_is_better": higher_is_better, "control": control, "version": version, "devices": devices}
    with contextlib.ExitStack() as stack:
        stack.enter_context(commands_alone(cells))
        with inside():  # the file may itself call judge() when executed
            path = expanded(file)
            stack.enter_context(importing_from(path.resolve().parent))
            train = function_in(path, function)
        found = judge_cells(train, cells, out=out, resume=resume, **own)
    show_cells(found)
    if not isinstance(found, list) and found.failed:
        names = ", ".join(found.failed)
        raise StudyError(f"these trainings failed: {names}; the same command tries them again")
