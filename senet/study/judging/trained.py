"""One call of a user's training: its cell, its score, and its record."""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senet.console.stopping import Stopped
from senet.cost.cost import cost
from senet.errors import InputTypeError, SenetError, StudyError
from senet.files.atomic import atomic_write
from senet.files.run_folder import RESULT, read_csv, read_json, write_csv, write_json
from senet.insertion import InsertionError, insert, inserted
from senet.insertion.staying.joined import attached
from senet.study.judging.states import kept, seed_all
from senet.words import kind_of, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from senet.block import SESpec
    from senet.block.made import MadeSpec
    from senet.insertion import Where

__all__ = ["CONTROL", "ERROR", "CellFailedError", "Trained", "TrainingCell", "read_trained", "train_cell"]

CONTROL = "control"
EACH = "each.csv"
ERROR = "error.txt"
WORK = "work"
OTHER_SEED = 1_000_000
"""Added to a control's seed, so that it never shares its seed with a plain training."""


class CellFailedError(StudyError):
    """A training raised an error or returned no score; the message says which, and where the traceback is."""


class TrainingCell:
    """The cell that a training gets: its arm, its seed, and its folder.

    Attributes:
        seed: the seed of its randomness: the order of the data, the initial weights.
        folder: the folder for its files, which persists across interruptions.
        resumed: whether an earlier call began this training without finishing it.
        device: the device to train on.
        arm: "plain", "se" or "control".
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        folder: Path,
        device: torch.device,
        spec: SESpec | MadeSpec,
        where: Where,
        *,
        resumed: bool,
    ) -> None:
        self.arm, self.seed, self.folder, self.device, self.resumed = arm, seed, folder, device, resumed
        self._spec, self._where = spec, where
        self._starts: list[tuple[nn.Parameter, Tensor]] = []
        self.puts = 0
        self.sites: list[str] = []
        self.costs: list[dict[str, int]] = []
        self.notes: list[str] = []

    def put(self, model: nn.Module, example: Any) -> nn.Module:
        """Return the network to train: the model itself, in the SE arm with SE inserted.

        Call it after the model has its weights and before its optimiser is made. It then seeds
        Python, NumPy and torch, so that both arms continue alike.

        Args:
            model: the plain network; SE is inserted in place.
            example: the network's input: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

        Raises:
            InsertionError: SE cannot be inserted, or the model already holds some.
            InputTypeError: the model is not a network.
        """
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"cell.put takes a torch.nn.Module and an example, not {kind_of(model)}")
        if inserted(model):
            raise InsertionError("the model given to cell.put holds SE already: give the plain network")
        self.puts += 1
        if self.arm == "se":
            model = insert(model, example, self._spec, where=self._where, inplace=True)
            self.sites += [site.name for site, _ in inserted(model).values()]
            new = [host.get_submodule(found.child) for _, host, found in attached(model)]  # and no SE of its own
            self._starts += [(each, each.detach().clone()) for block in new for each in block.parameters()]
        try:
            found = cost(model, example)
            self.costs.append({"parameters": found.parameters, "multiply_adds": found.multiply_adds})
        except Exception as error:  # any error of the user's network while counting; only the cost is then missing
            self.notes.append(f"the cost is not counted ({type(error).__name__}: {_line(error)})")
        seed_all(self.seed)
        return model

    def check(self) -> None:
        """Check that the training used the cell.

        Raises:
            StudyError: `put` was never called, so both arms would be the same.
        """
        if not self.puts:
            raise StudyError("it returned without a call of cell.put(model, example): both arms would be the same")
        if self._starts and all(torch.equal(now.detach().cpu(), then.cpu()) for now, then in self._starts):
            self.notes.append(
                "no weight of the blocks changed in this process: is the optimiser made before cell.put? (It may be "
                "that a copy, or another process, was trained)"
            )


@dataclasses.dataclass(frozen=True)
class Trained:
    """The record of a training.

    Attributes:
        score: the returned score.
        each: the score of each example by name; None if it returned none.
        seconds: the time of the call that finished it.
        sites: the sites of SE.
        cost: parameters and multiply-adds of the network on its example; None if they could not be counted.
        notes: remarks on it.
    """

    score: float
    each: Mapping[str, float] | None
    seconds: float
    sites: tuple[str, ...]
    cost: Mapping[str, int] | None
    notes: tuple[str, ...]


def train_cell(
    train: Callable[[TrainingCell], Any],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    arm: str,
    seed: int,
    device: torch.device,
    spec: SESpec | MadeSpec,
    where: Where,
) -> Trained:
    """Call a training in its folder, and write its result.

    Raises:
        CellFailedError: it raised an error or returned no score. The traceback is in its folder.
        Stopped: it was asked to stop, and said so; it can be resumed.
    """
    work = folder / WORK  # as of checkpoints/, the user may want its files on another disk
    if (work.exists() or work.is_symlink()) and not work.is_dir():
        raise StudyError(f"{work} is no folder: remove it, or make it one")
    resumed = work.exists()
    work.mkdir(exist_ok=True)
    own_seed = seed + OTHER_SEED if arm == CONTROL else seed
    cell = TrainingCell(arm, own_seed, work.resolve(), device, spec, where, resumed=resumed)
    (folder / ERROR).unlink(missing_ok=True)
    process, begun = os.getpid(), time.perf_counter()
    try:
        with kept():
            seed_all(own_seed)
            said = train(cell)
        if os.getpid() != process:
            os._exit(0)  # a process forked by the training that returned here
        cell.check()
        score, each = scores_in(said)
    except (Exception, SystemExit) as error:
        if os.getpid() != process:
            os._exit(1)
        if isinstance(error, Stopped):  # it called senet's own train, which was asked to stop: that is no failure
            raise
        with atomic_write(folder / ERROR, follow=False) as temporary:
            temporary.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="replace")
        what = "" if isinstance(error, SenetError) else f"{type(error).__name__}: "
        raise CellFailedError(f"failed: {what}{_line(error)} ({folder / ERROR} has the traceback)") from error
    found = Trained(score, each, time.perf_counter() - begun, tuple(cell.sites), _sum(cell.costs), tuple(cell.notes))
    if each is not None:
        write_csv(folder / EACH, [{"example": name, "score": value} for name, value in each.items()])
    content = {
        "score": found.score,
        "examples": None if each is None else len(each),
        "seconds": found.seconds,
        "sites": list(found.sites),
        "cost": found.cost,
        "notes": list(found.notes),
        "settings": dict(settings),
    }
    write_json(folder / RESULT, content)
    return found


def read_trained(folder: Path) -> Trained | None:
    """Read a training's record from its folder; None if it is not finished.

    Raises:
        StudyError: its files are damaged.
    """
    if not (folder / RESULT).is_file():
        return None
    content = read_json(folder / RESULT)
    try:
        each = None
        if content["examples"] is not None:
            each = {row["example"]: float(row["score"]) for row in read_csv(folder / EACH)}
            if len(each) != content["examples"] or not all(map(math.isfinite, each.values())):
                raise ValueError(f"{EACH} does not hold the {content['examples']} scores that it had")
        score, seconds = float(content["score"]), float(content["seconds"])
        if not (math.isfinite(score) and math.isfinite(seconds)):
            raise ValueError("a number is not finite")
        return Trained(score, each, seconds, tuple(content["sites"]), content["cost"], tuple(content["notes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(f"{folder} is damaged ({type(error).__name__}: {error}): remove it to train again") from error


def scores_in(said: Any) -> tuple[float, dict[str, float] | None]:
    """The returned score, and each example's if given.

    Raises:
        StudyError: it is neither a finite number nor {"score": number, "each": {example: number}}.
    """
    if not isinstance(said, dict):
        return _number(said, "train returned"), None
    unknown = [key for key in said if key not in ("score", "each")]
    if "score" not in said or unknown:
        keys = ", ".join(map(repr, said)) or "nothing"
        raise StudyError(f'train returned a dict with {keys}: it has "score", and "each" for scores of examples')
    score = _number(said["score"], 'train returned as "score"')
    if said.get("each") is None:
        return score, None
    if not isinstance(said["each"], dict) or not said["each"]:
        what = "an empty dict" if said["each"] == {} else kind_of(said["each"])
        raise StudyError(f'train returned as "each" {what}: it is a dict of example: score')
    # A name may be a path that is not UTF-8, or hold what ends a line of a CSV.
    each = {
        printable(str(name)): _number(value, f'train returned in "each" for {name!r}')
        for name, value in said["each"].items()
    }
    if len(each) < len(said["each"]):
        raise StudyError('train returned in "each" two examples of one name')
    return score, each


def _number(value: Any, what: str) -> float:
    """A finite number; a tensor or an array of one element counts as one."""
    found = value
    if not isinstance(value, str | bytes) and callable(getattr(value, "item", None)):
        try:
            found = value.item()
        except (ValueError, RuntimeError):
            shape = tuple(getattr(value, "shape", ()))
            raise StudyError(f"{what} {kind_of(value)} of shape {shape}: a score is one number") from None
    if isinstance(found, bool) or not isinstance(found, numbers.Real):
        given = "nothing" if value is None else kind_of(value)
        raise StudyError(f'{what} {given}: a score is a number, or {{"score": number, "each": {{…}}}}')
    if not math.isfinite(found):
        raise StudyError(f"{what} {float(found)}: a score is a finite number; did the training diverge?")
    return float(found)


def _sum(costs: list[dict[str, int]]) -> dict[str, int] | None:
    return {key: sum(each[key] for each in costs) for key in costs[0]} if costs else None


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or "no message") if len(text) <= 300 else f"{text[:300]}…"
