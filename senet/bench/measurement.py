"""`bench`: measure the cost of SE case by case, saving each result at once."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import hashlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from senet.bench.cases import ENGINES, INFERENCE, KEPT, LARGEST, TRAINING, Case, cases
from senet.bench.contestants import AS_INSERTED, OURS, PEER, PLAIN, PLAIN_AS_IT_IS, Contestants, contestants
from senet.bench.engines import inference
from senet.bench.rows import Ratio, Row
from senet.bench.show import parts, write_figures, write_table, write_texts
from senet.bench.steps import kept, largest_batch, training_step
from senet.bench.timing import FULL, QUICK, Effort, in_turn
from senet.console import display
from senet.console.machine import has_bf16, machine, versions_of
from senet.console.progress import Progress, duration
from senet.errors import SenetError
from senet.export.runtimes import computes_in_bf16
from senet.extras import how_to_install
from senet.files.lock import locked
from senet.files.run_folder import digest_of, report_folder
from senet.running import noise
from senet.words import counted, lasting_repr

if TYPE_CHECKING:
    import os

    from senet.report import Table

__all__ = [
    "NOT_INSTALLED",
    "RESULT",
    "Bench",
    "BenchError",
    "bench",
    "machine_of_figures",
    "missing",
    "what_to_install",
]

RESULT = "bench.json"
NOT_INSTALLED = "not installed"
"""The beginning of the note of a case whose engine is not installed."""
_PACKAGES = ("timm", "onnxruntime", "openvino", "nncf", "executorch", "ai-edge-litert", "ncnn")


class BenchError(SenetError, ValueError):
    """A measurement cannot be made or resumed as requested; the message says why, and what would work."""


@dataclasses.dataclass(frozen=True)
class Bench:
    """The result of a benchmark; `str()` is the table.

    Attributes:
        model: the network's name.
        example: the shape of one input, (1, C, *space).
        peer: the peer's SE, in words.
        quick: whether it was a quick measurement.
        machine: processor, threads and versions.
        rows: one row per case.
    """

    model: str
    example: tuple[int, ...]
    peer: str
    quick: bool
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]

    def parts(self) -> list[str | Table]:
        """The table and the machine."""
        return parts(self)

    def __str__(self) -> str:
        return display.plain_text(*self.parts(), width=display.LOG_WIDTH)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which `from_json` reads."""
        return {**dataclasses.asdict(self), "example": list(self.example), "rows": [row.to_json() for row in self.rows]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Bench:
        """The measurement from the `values` of `to_json`.

        Raises:
            TypeError, KeyError: the values are of something else.
        """
        rows = tuple(map(Row.from_json, values["rows"]))
        return cls(**{**values, "example": tuple(values["example"]), "rows": rows})


def bench(
    model: nn.Module,
    example: Tensor,
    out: str | os.PathLike[str],
    *,
    name: str | None = None,
    engines: str | Iterable[str] | None = None,
    batch_size: int | None = None,
    quick: bool = False,
    resume: bool = True,
    progress: bool = True,
) -> Bench:
    """Measure a network without SE, with a peer's SE and with ours in turn; write table, figure and JSON.

    In each round all run one after another. A time's result is the median over rounds of its ratio
    to the network without SE, with a 95 % interval. In inference all have folded normalisations,
    and ours is the result of `optimize`; in eager PyTorch ours is also measured as inserted, over
    the network without SE as it is. In training each network is unchanged.

    Args:
        model: the network, with SE or without; it stays as it is. Copies of it are measured, in float32 where the
            engine has no precision of its own.
        example: (1, C, *space), one input of it.
        out: a folder for report.html, bench.json, table.txt, figure.svg and figure.png. Rows that
            the same code already measured there in the same way are kept.
        name: the network's name for readers; its class by default.
        engines: a name of `cases.ENGINES` or several; None means the default ones.
        batch_size: the only batch size; None means the defaults of `cases.cases`.
        quick: use fewer rounds, and compile nothing.
        resume: False measures everything again.
        progress: whether to show progress on standard error.

    Raises:
        ValueError: there is no such engine, or none at all; SE has no place in the network, or the
            folder holds another measurement, a training or a study.
    """
    if not isinstance(example, Tensor) or example.dim() < 3 or len(example) != 1:
        raise BenchError("bench takes one picture (or signal, or volume) as its example: a tensor (1, C, *space)")
    example = example.to("cpu", torch.float32)
    wanted = cases(int(example.shape[-1]), engines, batch_size)
    if quick:
        wanted = [case for case in wanted if "compile" not in case.engine]
    if not wanted:
        how = " that does not compile, since quick leaves out those that do" if quick else ""
        raise BenchError(f"there is nothing to measure: name at least one engine{how}")
    with _same_random_state():
        who = contestants(model, example)
    result = Bench(name or type(model).__name__, tuple(example.shape), who.peer, quick, machine_of_figures(), ())
    folder = report_folder(out)
    with locked(folder):
        return _measured(result, who, example, wanted, folder, _digest(who.networks[OURS], name), resume, progress)


def _measured(
    result: Bench,
    who: Contestants,
    example: Tensor,
    wanted: Sequence[Case],
    folder: Path,
    code: str,
    resume: bool,
    progress: bool,
) -> Bench:
    """`bench` in its folder, which is locked: the files are of all rows, also of those that were kept."""
    shown = Progress(progress)
    rows = _kept_rows(folder, result, code, shown.note) if resume else {}
    measuring = _Measuring(who, example, QUICK if result.quick else FULL)
    with shown.steps(len(wanted)):
        for case in wanted:
            shown.run(case.words)
            if worked := case.key not in rows:
                rows[case.key] = measuring.row(case)
            result = dataclasses.replace(result, rows=_in_order(rows.values()))
            write_texts(folder, {RESULT: json.dumps({"code": code, **result.to_json()}, indent=1)})
            shown.step(worked=worked)
            if worked:
                row = rows[case.key]
                shown.note(f"{case.words}: {_in_words(row)} ({duration(row.seconds)})")
    write_table(result, folder)
    if _can_draw():
        from senet.bench.page import bench_page
        from senet.report import write_page

        write_figures(result, folder)
        write_page(bench_page(result), folder)
    return result


def _can_draw() -> bool:
    return all(importlib.util.find_spec(name) for name in ("matplotlib", "jinja2"))


def what_to_install(result: Bench) -> list[str]:
    """What this measurement lacks because a package is not installed, each with the command that installs it."""
    lacking = {ENGINES[row.engine].extra: "more engines" for row in result.rows if row.note.startswith(NOT_INSTALLED)}
    if not _can_draw():
        lacking["study"] = "the figure and report.html"
    return [f"For {what}: {how_to_install(name)}" for name, what in lacking.items()]


def _in_order(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows in table order, independent of when they were measured."""
    whats, engines = (INFERENCE, TRAINING, KEPT, LARGEST), list(ENGINES)
    return tuple(sorted(rows, key=lambda row: (whats.index(row.what), engines.index(row.engine), row.batch)))


class _Measuring:
    """Measures case by case, making shared parts once."""

    def __init__(self, who: Contestants, example: Tensor, effort: Effort) -> None:
        self.who = who
        self.example = example
        self.effort = effort

    def row(self, case: Case) -> Row:
        """Measure a case; its row notes any error."""
        begun = time.monotonic()
        row = Row(case.what, case.engine, case.batch)
        if why := missing(case):
            return dataclasses.replace(row, note=why)
        try:
            with _same_random_state():
                row = self._measured(case, row)
        except Exception as error:  # a failing engine must not stop the others
            said = " ".join(str(error).split())[:160]
            row = dataclasses.replace(row, note=f"failed: {type(error).__name__}: {said}")
        return dataclasses.replace(row, seconds=round(time.monotonic() - begun, 1))

    def _measured(self, case: Case, row: Row) -> Row:
        networks = self.who.networks
        if case.what in (KEPT, LARGEST):
            count, x = (kept, self._pictures(case.batch)) if case.what == KEPT else (largest_batch, self.example)
            counts = {}
            for name, network in networks.items():
                with self.who.within(name):
                    counts[name] = count(network, x)
            ratios = {name: Ratio(each / max(1, counts[PLAIN])) for name, each in counts.items() if name != PLAIN}
            return dataclasses.replace(row, plain=counts[PLAIN], ratios=ratios)
        runs: dict[str, Callable[[], object]] = {}
        x = self._pictures(case.batch)
        if case.what == INFERENCE:
            for name, form in self._inference_forms.items():
                runs[name] = inference(case.engine, copy.deepcopy(form), x)
            if ENGINES[case.engine].eager:
                for name, network in self.who.as_they_are().items():
                    runs[name] = inference(case.engine, network, x)
        else:
            for name, network in networks.items():
                runs[name] = self._step(name, case.engine, network, x)
        seconds = in_turn(runs, self.effort)
        ratios = {}
        for name, times in seconds.items():
            if name not in (PLAIN, PLAIN_AS_IT_IS):
                without = seconds[PLAIN_AS_IT_IS if name == AS_INSERTED else PLAIN]
                ratios[name] = Ratio.of_rounds([own / plain for own, plain in zip(times, without, strict=True)])
        plain = statistics.median(seconds[PLAIN])
        return dataclasses.replace(row, plain=plain, ratios=ratios, rounds=len(seconds[PLAIN]))

    def _step(self, name: str, engine: str, network: nn.Module, x: Tensor) -> Callable[[], object]:
        step = training_step(engine, network, x)

        def within() -> None:
            with self.who.within(name):
                step()

        return within

    @functools.cached_property
    def _inference_forms(self) -> dict[str, nn.Module]:
        return self.who.inference_forms(self.example)

    def _pictures(self, batch: int) -> Tensor:
        return noise(batch, *self.example.shape[1:])


def missing(case: Case) -> str:
    """Why a case cannot be measured here; "" if it can."""
    engine = ENGINES[case.engine]
    if engine.device == "cuda" and not torch.cuda.is_available():
        return "not measured: no CUDA GPU here"
    missing = [module for module in engine.modules if importlib.util.find_spec(module) is None]
    if missing:
        return f"{NOT_INSTALLED}: {', '.join(missing)} (the extra {engine.extra!r})"
    if case.engine == "bf16" and not has_bf16():
        return "not measured: this processor has no instructions for bf16"
    if case.engine == "openvino-bf16" and not computes_in_bf16():
        return "not measured: this processor has no bf16, so OpenVINO would compute in float32"
    return ""


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _in_words(row: Row) -> str:
    if row.plain is None:
        return row.note
    return ", ".join(f"{name} {row.ratios[name]}" for name in (OURS, PEER) if name in row.ratios)


def machine_of_figures() -> dict[str, Any]:
    """The machine of a measurement: processor, threads, instruction set and versions."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {**machine(device), "instructions": torch.backends.cpu.get_cpu_capability(), **versions_of(*_PACKAGES)}


def _digest(network: nn.Module, name: str | None) -> str:
    """A short digest of what the rows depend on: senet's code, and the network, whose own file may have changed."""
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    text = f"{_code()} {digest_of(name)} {lasting_repr(network)} {shapes}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _code() -> str:
    """A short digest of the code on which the figures depend."""
    package = Path(__file__).parent.parent
    rooms = ("block", "fused", "insertion", "inference", "export", "bench")
    files = (file for room in rooms for file in (package / room).rglob("*.[pch]*"))
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.suffix != ".pyc" and file.is_file()):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _kept_rows(folder: Path, now: Bench, code: str, note: Callable[[str], None]) -> dict[tuple[str, str, int], Row]:
    """The measured rows of an earlier call with the same code.

    Raises:
        BenchError: the folder holds another measurement.
    """
    path = folder / RESULT
    if not path.exists():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        then_code = values.pop("code")
        then = Bench.from_json(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BenchError(f"{path} is not a measurement that senet bench wrote: give another folder") from error
    for what in ("model", "example", "peer", "quick", "machine"):
        before, here = getattr(then, what), getattr(now, what)
        if what == "machine":  # the same measurement may be asked for in other words
            before, here = ({**machine, "command": None} for machine in (before, here))
        if before != here:
            if what == "machine":
                what = next(key for key in {**before, **here} if before.get(key) != here.get(key))
                before, here = then.machine.get(what), now.machine.get(what)
            raise BenchError(
                f"{folder} holds a measurement whose {what} was {before} and is now {here}: give another folder, or "
                f"--no-resume to measure all anew"
            )
    kept = {row.key: row for row in then.rows if row.plain is not None}
    if kept and then_code != code:
        note(f"{path} has {counted(len(kept), 'row')} that another version of senet or of the network gave: not kept")
        return {}
    return kept
