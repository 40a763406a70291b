"""A written file held against the network: inside the shapes that it is for, and around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from senet.errors import ExportError, InsertionError
from senet.export.converting import in_one_line
from senet.export.outputs import flat_outputs
from senet.export.runtimes import Runtime
from senet.inference.agreement import needed_conditions, relative_difference
from senet.inference.shapes import Shapes
from senet.running import run, untouched

__all__ = ["check_file", "check_names", "disagreements", "outputs_of"]

_OPTIONAL = ("odd sizes",)  # which many networks do not take
_Wanted = list[Tensor] | None


def outputs_of(model: nn.Module, trials: Mapping[str, Any]) -> dict[str, _Wanted]:
    """What the network itself gives for each trial; None where it refuses a size that a network need not take.

    Raises:
        InsertionError: (a ValueError) where it does not run on the example, which is the first.
        ExportError: (a ValueError) where it runs on that alone.
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


# A reader of the file looks `classes[argmax]` up: one name missing at the front shifts every answer.
def check_names(classes: Any, outputs: Sequence[Tensor]) -> None:
    """Refuse a list of classes of which no output has as many, in dimension 1 or in the last.

    Raises:
        ExportError: where no output fits.
    """
    if not isinstance(classes, list) or not classes:
        return
    counts = sorted({x.shape[dim] if x.ndim > 1 else 1 for x in outputs for dim in (1, -1)})
    if len(classes) not in counts:
        raise ExportError(
            f"the metadata's classes are {len(classes)} names, but the network gives {' or '.join(map(str, counts))} "
            "outputs for a picture: give one name for each output, in order, a background class too"
        )


def check_file(
    runner: Runtime, trials: Mapping[str, Any], wanted: Mapping[str, _Wanted], what: str, tolerance: float
) -> dict[str, float]:
    """How far a written network is from what is wanted, as a share of the largest output, for each trial.

    Raises:
        ExportError: where it is further than the tolerance, does not run, or runs where the network does not.
    """
    found = {}
    for name, inputs in trials.items():
        expected = wanted[name]
        try:
            given = flat_outputs(runner.on(inputs))
        except Exception as error:
            if expected is None:
                continue
            raise ExportError(f"{what} does not run it on {name}: {in_one_line(error)}") from error
        if expected is None:
            raise ExportError(f"{what} runs it on {name}, which the network itself refuses")
        if [x.shape for x in expected] != [x.shape for x in given]:
            raise ExportError(
                f"{what} gives on {name} outputs of shapes {[tuple(x.shape) for x in given]}, not "
                f"{[tuple(x.shape) for x in expected]}"
            )
        found[name] = _difference(expected, given)
        if not found[name] <= tolerance:
            raise ExportError(
                f"{what} differs from PyTorch by {found[name]:.2g} of the largest output on {name}, "
                f"where {tolerance:g} is allowed; nothing is written"
            )
    return found


def disagreements(
    runner: Runtime, model: nn.Module, example: Any, shapes: Shapes, assumed: Sequence[str], tolerance: float
) -> tuple[str, ...]:
    """Which conditions that PyTorch's operations took for granted the file needs.

    Outside of such a condition the file gives other outputs than the network, or only one of the two runs. Conditions
    that fail at no size that can be tried are needed too.
    """
    return needed_conditions(example, shapes, assumed, lambda given: _agree(runner, model, given, tolerance))


def _agree(runner: Runtime, model: nn.Module, inputs: Any, tolerance: float) -> bool:
    try:
        with untouched(model):
            wanted: _Wanted = flat_outputs(run(model, inputs))
    except InsertionError:
        wanted = None
    try:
        given: _Wanted = flat_outputs(runner.on(inputs))
    except Exception:  # whatever its engine throws
        given = None
    if wanted is None or given is None:
        return wanted is given
    same = [x.shape for x in wanted] == [x.shape for x in given]
    return same and _difference(wanted, given) <= tolerance


def _difference(wanted: Sequence[Tensor], given: Sequence[Tensor]) -> float:
    pairs = zip(wanted, given, strict=True)
    return max((relative_difference(x.double(), y.double()) for x, y in pairs), default=0.0)
