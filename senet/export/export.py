"""`export`: a network in a file that other programs run, checked against PyTorch once it is written."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from senet.block.equations import padding
from senet.errors import ExportError, InsertionError, OptimizeError
from senet.export.description import describe_network, to_strings
from senet.export.formats import FORMATS, Format, openvino_model, quantized, write_openvino_model
from senet.export.runtimes import Runtime
from senet.export.tracing import Traced, check_exportable, flat_outputs, trace, with_batch, with_size
from senet.files.atomic import atomic_write_all
from senet.inference.optimize import optimized
from senet.insertion import tell_of_lost
from senet.running import devices_of, run, untouched

__all__ = ["TOLERANCE", "ExportError", "Exported", "export", "format_of"]

TOLERANCE = 1e-4
"""Of a written network's outputs, of their largest magnitude: engines add in other orders and take other algorithms."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network that was written; `str()` says it in a few lines.

    Attributes:
        paths: the files: one, or OpenVINO's .xml and .bin.
        format: "ONNX", "OpenVINO", "OpenVINO INT8" or "torch.export".
        inputs: shape of each input by its name, "(batch, 3, 224, 224)".
        outputs: likewise.
        checks: the largest difference from PyTorch's outputs over their largest magnitude, for each input that
            was tried, in words: {"batch 1": 3e-07}.
        tolerance: that these are below; None in INT8, where the accuracy tells.
        metadata: what the file says of its network.
        moved: how many SE blocks there are, and in how many of them the squeeze reads the last linear layer's
            input, as `optimize` has it.
    """

    paths: tuple[Path, ...]
    format: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    checks: Mapping[str, float]
    tolerance: float | None
    metadata: Mapping[str, Any]
    moved: tuple[int, int]

    def __str__(self) -> str:
        from senet.console import display

        size = display.bytes_of(sum(path.stat().st_size for path in self.paths))
        ports = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
        to = ", ".join(f"{name} {shape}" for name, shape in self.outputs.items())
        found, moved = self.moved
        worst = max(self.checks.values())
        allowed = "" if self.tolerance is None else f" ({self.tolerance:g} is allowed)"
        return "\n".join(
            (
                f"Written: {' and '.join(map(str, self.paths))} ({self.format}, {size}): {ports} -> {to}",
                f"Against PyTorch on {', '.join(self.checks)}: largest difference {worst:.2g} of the largest "
                f"output{allowed}.",
                *(
                    [f"SE: {found} blocks, in {moved} the squeeze reads the smaller input of the last linear layer."]
                    * (found > 0)
                ),
                f"In the file: {', '.join(self.metadata)}.",
            )
        )


def export(
    model: nn.Module,
    example: Any,
    path: str | os.PathLike[str],
    *,
    dynamic_size: bool = False,
    metadata: Mapping[str, Any] | None = None,
    calibration: Iterable[Tensor] | None = None,
) -> Exported:
    """Write `model` in its inference form to a file that ONNX Runtime, OpenVINO or PyTorch runs, for any batch.

    The network is exported in eval mode, as `optimize` makes it: the normalisations folded, one reduction for each
    SE block. The file is then run on the example and on another batch (and size), and compared with
    PyTorch; only a file that agrees takes the place of `path`. The write is atomic: when it fails or is
    killed, no half of it is there, of OpenVINO's pair neither.

    Args:
        model: any network in float32, on any device; it stays as it is.
        example: what it takes: a tensor (N, C, *space), a tuple of positional arguments, or a dict of keyword
            arguments. The first dimension is the batch.
        path: ends in .onnx (ONNX), .xml (OpenVINO; a .bin with the weights is written beside it) or .pt2
            (`torch.export.load`). Its folder exists.
        dynamic_size: let the file take pictures of any height and width, where the network does.
        metadata: anything JSON has, kept in the file: `classes` (a list has one name for each output),
            `preprocessing`. Beside it stand `network` and `options` (where `create` made it), `senet` and
            `torch` (versions). In ONNX it is in `metadata_props` with names that begin with "senet.", in
            OpenVINO in `rt_info` below "senet", in a .pt2 in the extra file "senet.json".
        calibration: batches of inputs like those to come, about 300 pictures in all: the layers are then
            computed in INT8 (.xml alone, by NNCF), which changes the outputs; see what it does to the accuracy.

    Returns:
        What was written and how it compares.

    Raises:
        ExportError: (a ValueError) on another suffix, with the nearest; where the network cannot be exported, and
            where the file does not give PyTorch's outputs.
        ImportError: where the format's packages are not installed, with the command that installs them.
        OSError: where the file cannot be written.
    """
    path = Path(path)
    check_exportable(model, example)
    if padding.lengths is not None:
        raise ExportError("a network cannot be exported inside senet.valid, whose lengths are one batch's: leave it")
    tell_of_lost(model)
    kind = format_of(path)
    batches = None if calibration is None else _calibration(path, calibration)
    kind.needed()
    description = describe_network(model, metadata)
    texts = to_strings(description)
    with atomic_write_all(*kind.files(path)) as temporary:  # before the work, so that it is not for nothing
        if devices_of(model) - {torch.device("cpu")}:
            model = copy.deepcopy(model).cpu()
            example = pytree.tree_map_only(Tensor, Tensor.cpu, example)
        trials = _trials(example, dynamic_size)
        wanted = _wanted(model, trials)  # in the network's own words where it does not run
        _check_names(description.get("classes"), next(iter(wanted.values())))
        form = inference_form(model, example, dynamic_size=dynamic_size)
        traced = trace(form, example, dynamic_size=dynamic_size)
        if batches is None:
            kind.write(traced, texts, temporary)
        else:
            write_openvino_model(quantized(openvino_model(traced, texts), batches), temporary)
        runner = kind.run(temporary)
        tolerance = TOLERANCE if batches is None else None
        checks = _checked(runner, trials, wanted, f"{type(model).__name__} was exported, and", tolerance, kind)
        if dict(runner.metadata) != texts:
            raise ExportError(f"{kind.name} did not keep what the file is to say of its network: {runner.metadata}")
        del runner  # which may have the file open
    return Exported(
        paths=kind.files(path),
        format=kind.name if batches is None else f"{kind.name} INT8",
        inputs=_shapes(traced, "placeholder", traced.inputs),
        outputs=_shapes(traced, "output", traced.outputs),
        checks=checks,
        tolerance=tolerance,
        metadata=description,
        moved=_moved(form),
    )


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a path asks for by its suffix.

    Raises:
        ExportError: (a ValueError) on another suffix, with the nearest.
    """
    path = Path(path)
    if (found := FORMATS.get(path.suffix)) is not None:
        return found
    known = ", ".join(f"{suffix} ({kind.name})" for suffix, kind in FORMATS.items())
    close = difflib.get_close_matches(path.suffix.lower(), FORMATS, n=1, cutoff=0.5)
    hint = f"; did you mean {path.with_suffix(close[0])}?" if close else ""
    raise ExportError(f"{path}: the name of an exported file ends in {known}{hint}")


def inference_form(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> nn.Module:
    """What is exported in place of `model`: the same function, for less.

    Raises:
        ExportError: (a ValueError) where it cannot be taken as a graph.
    """
    try:
        return optimized(model, example, dynamic_size=dynamic_size)
    except OptimizeError as error:
        raise ExportError(str(error)) from error


def _moved(form: nn.Module) -> tuple[int, int]:
    outcomes = form.meta.get("senet", ()) if isinstance(form, fx.GraphModule) else ()
    return len(outcomes), sum(outcome.moved for outcome in outcomes)


def _calibration(path: Path, batches: Iterable[Tensor]) -> list[Tensor]:
    if path.suffix != ".xml":
        raise ExportError(
            f"{path}: INT8 is written for OpenVINO, by its NNCF: give a name that ends in .xml, such as "
            f"{path.with_suffix('.xml')}"
        )
    found = list(batches)
    if not found or not all(isinstance(batch, Tensor) for batch in found):
        raise ExportError("calibration is an iterable of tensors, the network's inputs in batches, at least one")
    return found


def _trials(example: Any, dynamic_size: bool) -> dict[str, Any]:
    """The inputs to compare on, by what is special about each."""
    size = next(len(leaf) for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor))
    trials = {f"batch {size}": example, f"batch {size + 2}": with_batch(example, size + 2)}
    if dynamic_size:
        trials["a larger size"] = with_size(example)
    return trials


def _wanted(model: nn.Module, trials: Mapping[str, Any]) -> dict[str, list[Tensor]]:
    """What the network itself gives.

    Raises:
        InsertionError: (a ValueError) where it does not run on the example.
        ExportError: (a ValueError) where it runs on that alone.
    """
    found: dict[str, list[Tensor]] = {}
    for name, inputs in trials.items():
        try:
            with untouched(model):
                found[name] = flat_outputs(run(model, inputs))
        except InsertionError as error:
            if not found:
                raise
            raise ExportError(
                f"{type(model).__name__} runs on the example and not on {name}, so it cannot be exported "
                f"for any{' size' if 'size' in name else ' batch'}: {error}"
            ) from error
    return found


# A reader of the file looks `classes[argmax]` up: one name missing at the front shifts every answer.
def _check_names(classes: Any, outputs: Sequence[Tensor]) -> None:
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


def _checked(
    runner: Runtime,
    trials: Mapping[str, Any],
    wanted: Mapping[str, list[Tensor]],
    what: str,
    tolerance: float | None,
    kind: Format,
) -> dict[str, float]:
    """How far a written network is from what is wanted, as a share of the largest output, for each input.

    Raises:
        ExportError: where it is further than the tolerance, or does not run.
    """
    found = {}
    for name, inputs in trials.items():
        try:
            given = flat_outputs(runner.on(inputs))
        except Exception as error:
            raise ExportError(
                f"{what} {kind.name} does not run it on {name}: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            ) from error
        if [x.shape for x in wanted[name]] != [x.shape for x in given]:
            raise ExportError(
                f"{what} on {name} {kind.name} gives outputs of shapes "
                f"{[tuple(x.shape) for x in given]}, not {[tuple(x.shape) for x in wanted[name]]}"
            )
        found[name] = max(map(_difference, wanted[name], given), default=0.0)
        if tolerance is not None and not found[name] <= tolerance:  # a NaN is not
            raise ExportError(
                f"{what} on {name} {kind.name} differs from PyTorch by {found[name]:.2g} of the largest output, "
                f"where {tolerance:g} is allowed; nothing is written"
            )
    return found


def _difference(wanted: Tensor, given: Tensor) -> float:
    wanted, given = wanted.double(), given.double()
    if not wanted.numel():
        return 0.0
    return float((wanted - given).abs().max() / wanted.abs().max().clamp_min(torch.finfo(torch.float32).tiny))


def _shapes(traced: Traced, op: str, names: Sequence[str]) -> dict[str, str]:
    graph = traced.program.graph
    if op == "output":
        nodes = [node for node in graph.output_node().args[0] if node is not None]
        nodes = nodes[len(nodes) - len(names) :]
    else:
        given = set(traced.program.graph_signature.user_inputs)
        nodes = [node for node in graph.nodes if node.op == op and node.name in given]
    return {name: traced.shape_in_words(node.meta["val"].shape) for name, node in zip(names, nodes, strict=True)}
