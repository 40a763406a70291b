"""Compare a written file with its network, inside and around the shapes that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import ExportError, InsertionError
from senet.export.apart import EngineCrashError
from senet.export.converting import in_one_line
from senet.export.outputs import flat_outputs
from senet.export.runtimes import Runtime
from senet.inference.agreement import needed_conditions, relative_difference
from senet.inference.shapes import Shapes
from senet.running import as_call, changed, run, untouched
from senet.words import listed

__all__ = ["check_file", "check_memoryless", "check_names", "coupled_sizes", "disagreements", "outputs_of"]

_OPTIONAL = ("odd sizes",)  # sizes that many networks refuse
_Wanted = list[Tensor] | None


def outputs_of(model: nn.Module, trials: Mapping[str, Any]) -> dict[str, _Wanted]:
    """The network's own outputs for each trial; None if it refuses an optional size.

    Raises:
        InsertionError: (a ValueError) it does not run on the example, the first trial.
        ExportError: (a ValueError) it runs only on the example.
    """
    found: dict[str, _Wanted] = {}
    for name, inputs in trials.items():
        try:
            with untouched(model):
                found[name] = flat_outputs(run(model, inputs))
        except InsertionError as error:
            if not found:
                raise
            if name not in _OPTIONAL:
                raise ExportError(
                    f"{type(model).__name__} runs on the example and not on {name}, so it cannot be exported "
                    f"for any{' batch' if 'batch' in name else ' size'}: {error}"
                ) from error
            found[name] = None
    return found


# Readers of the file use `classes[argmax]`, so a missing first name would shift every answer.
def check_names(classes: Any, outputs: Sequence[Tensor]) -> None:
    """Refuse a list of classes whose length matches no output's dimension 1 or last dimension.

    Raises:
        ExportError: no output fits.
    """
    if not isinstance(classes, list) or not classes:
        return
    counts = sorted({x.shape[dim] if x.ndim > 1 else 1 for x in outputs for dim in (1, -1)})
    if len(classes) not in counts:
        raise ExportError(
            f"the metadata's classes are {len(classes)} names, but the network gives {' or '.join(map(str, counts))} "
            "outputs for a picture: give one name for each output, in order, a background class too"
        )


def check_memoryless(model: nn.Module, example: Any, file: str) -> None:
    """Refuse a network whose output depends on its earlier calls, of which `file` keeps nothing.

    Raises:
        ExportError: it does; the message has the buffers that its calls write into.
    """
    with untouched(model):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        first = [x.clone() for x in flat_outputs(run(model, example))]
        written = [name for name, buffer in model.named_buffers() if name in before and changed(buffer, before[name])]
        if not written or _difference(first, flat_outputs(run(model, example))) == 0:
            return
    raise ExportError(
        f"{type(model).__name__} writes into {listed(written, 3)} at each call, which changes its next output, and "
        f"{file} keeps nothing between calls: let it take and return these values, or write a .pt2 file"
    )


def check_file(
    runner: Runtime,
    trials: Mapping[str, Any],
    wanted: Mapping[str, _Wanted],
    what: str,
    tolerance: float,
    instead: str = "",
) -> dict[str, float]:
    """The difference of a written network from the wanted outputs per trial, relative to the largest output.

    Raises:
        ExportError: the difference exceeds the tolerance, or only one of file and network runs.
    """
    found = {}
    for name, inputs in trials.items():
        expected = wanted[name]
        try:
            if expected is None:
                with runner.apart() as on:
                    given = flat_outputs(on(inputs))
            else:
                given = flat_outputs(runner.on(inputs))
        except Exception as error:
            if expected is None and not isinstance(error, EngineCrashError):
                continue
            raise ExportError(f"{what} does not run it on {name}: {in_one_line(error)}{instead}") from error
        if expected is None:
            raise ExportError(f"{what} runs it on {name}, which the network itself refuses{instead}")
        if [x.shape for x in expected] != [x.shape for x in given]:
            raise ExportError(
                f"{what} gives on {name} outputs of shapes {[tuple(x.shape) for x in given]}, not "
                f"{[tuple(x.shape) for x in expected]}"
            )
        found[name] = _difference(expected, given)
        if not found[name] <= tolerance:
            raise ExportError(
                f"{what} differs from PyTorch by {found[name]:.2g} of the largest output on {name}, "
                f"where {tolerance:g} is allowed; nothing is written{instead}"
            )
    return found


def disagreements(
    runner: Runtime, model: nn.Module, example: Any, shapes: Shapes, assumed: Sequence[str], tolerance: float
) -> tuple[str, ...]:
    """The conditions assumed by PyTorch's operations that the file needs.

    Outside such a condition the file's outputs differ from the network's, or only one of them runs.
    Conditions that no possible trial violates are needed too.
    """
    with runner.apart() as on:
        return needed_conditions(example, shapes, assumed, lambda given: _agree(on, model, given, tolerance))


# PyTorch runs the graph here: on such sizes OpenVINO's kernels may end the process.
def coupled_sizes(
    program: torch.export.ExportedProgram, model: nn.Module, example: Any, shapes: Shapes, tolerance: float
) -> tuple[str, ...]:
    """Which sizes of several inputs must be equal for a graph to be right, as they were in its capture.

    An engine does not ask. Where they differ, the graph may refuse what the network runs, but give nothing else.
    """
    apart, equal = shapes.uncoupled()
    if not equal:
        return ()
    graph = program.module(check_guards=False)
    getattr(graph, "_forward_pre_hooks", {}).clear()  # its own checks of sizes, which a file has not

    def run_graph(inputs: Any) -> Any:
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            return graph(*args, **kwargs)

    return needed_conditions(
        example, apart, equal, lambda given: _agree(run_graph, model, given, tolerance, may_refuse=True)
    )


def _agree(
    runs: Callable[[Any], Any], model: nn.Module, inputs: Any, tolerance: float, *, may_refuse: bool = False
) -> bool:
    try:
        with untouched(model):
            wanted: _Wanted = flat_outputs(run(model, inputs))
    except InsertionError:
        wanted = None
    try:
        given: _Wanted = flat_outputs(runs(inputs))
    except EngineCrashError:  # which is no refusal: whoever runs the file ends with it
        return False
    except Exception:  # any error of its engine
        given = None
    if wanted is None or given is None:
        return wanted is given or (may_refuse and given is None)
    same = [x.shape for x in wanted] == [x.shape for x in given]
    return same and _difference(wanted, given) <= tolerance


def _difference(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    pairs = zip(map(_exact, wanted), map(_exact, given), strict=True)
    return max((relative_difference(x, y) for x, y in pairs), default=0.0)


def _exact(x: Tensor) -> Tensor:
    """A tensor in float64, or complex128: engines may give another precision."""
    return x.to(torch.promote_types(x.dtype, torch.float64))
