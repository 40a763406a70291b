"""`export`: a network in a file that other programs run, checked against PyTorch once it is written."""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from senet.block.equations import padding
from senet.errors import ExportError, OptimizeError
from senet.export.checking import check_file, check_names, disagreements, outputs_of
from senet.export.converting import file_errors, hear_interrupts, reported
from senet.export.description import describe_network, to_strings
from senet.export.formats import FORMATS, Format, openvino_model, quantized, write_openvino_model
from senet.export.outputs import TensorsOnly, flat_outputs, name_of, without_tensors
from senet.export.tracing import Traced, check_exportable, trace
from senet.files.atomic import atomic_write_all
from senet.inference.agreement import ONE_POSITION, trials
from senet.inference.capture import ONE_AT_A_TIME
from senet.inference.optimize import optimized
from senet.inference.shapes import Shapes, free_space
from senet.insertion import tell_of_lost
from senet.running import devices_of, run, untouched
from senet.words import nearest

__all__ = ["TOLERANCE", "ExportError", "Exported", "export", "format_of"]

TOLERANCE = 1e-4
"""Of a written network's outputs, of their largest magnitude: engines add in other orders and take other algorithms."""

INT8_TOLERANCE = 0.5
"""Likewise in INT8: eight bits a layer leave a tenth or two; what is no longer the network is off by 1 and more."""


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
        tolerance: that these are below; in INT8 a coarse one, and the accuracy tells more.
        metadata: what the file says of its network.
        moved: how many SE blocks there are, and in how many of them the squeeze reads the last linear layer's
            input, as `optimize` has it.
        note: which sizes the file is not for, and which outputs it leaves out; empty where there are none.
    """

    paths: tuple[Path, ...]
    format: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    checks: Mapping[str, float]
    tolerance: float
    metadata: Mapping[str, Any]
    moved: tuple[int, int]
    note: str = ""

    def __str__(self) -> str:
        from senet.console import display

        size = display.bytes_of(sum(path.stat().st_size for path in self.paths))
        ports = ", ".join(f"{name} {shape}" for name, shape in self.inputs.items())
        to = ", ".join(f"{name} {shape}" for name, shape in self.outputs.items())
        found, moved = self.moved
        worst = max(self.checks.values())
        return "\n".join(
            (
                f"Written: {' and '.join(map(str, self.paths))} ({self.format}, {size}): {ports} -> {to}",
                f"Against PyTorch on {', '.join(self.checks)}: largest difference {worst:.2g} of the largest "
                f"output ({self.tolerance:g} is allowed).",
                *(
                    [f"SE: {found} blocks, in {moved} the squeeze reads the smaller input of the last linear layer."]
                    * (found > 0)
                ),
                *([self.note] if self.note else []),
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
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Write `model` in its inference form to a file that ONNX Runtime, OpenVINO or PyTorch runs, for any batch.

    The network is exported in eval mode, as `optimize` makes it: the normalisations folded, one reduction for each
    SE block. The file is then run on the example and on another batch (and size), and compared with
    PyTorch; only a file that agrees takes the place of `path`. The write is atomic: when it fails or is
    killed, no half of it is there, of OpenVINO's pair neither.

    Args:
        model: any network in float32, on any device; it stays as it is.
        example: what it takes: a tensor (N, C, *space), a tuple of positional arguments, or a dict of keyword
            arguments. The first dimension of the first map is the batch; `senet.Batched(x, dim)` in its place says
            otherwise.
        path: ends in .onnx (ONNX), .xml (OpenVINO; a .bin with the weights is written beside it) or .pt2
            (`torch.export.load`). Its folder exists.
        dynamic_size: let the file take pictures of any height and width, where the network does.
        metadata: anything JSON has, kept in the file: `classes` (a list has one name for each output),
            `preprocessing`. Beside it stand `network` and `options` (where `create` made it), `senet` and
            `torch` (versions). In ONNX it is in `metadata_props` with names that begin with "senet.", in
            OpenVINO in `rt_info` below "senet", in a .pt2 in the extra file "senet.json".
        calibration: batches of inputs like those to come, about 300 pictures in all: the layers are then
            computed in INT8 (.xml alone, by NNCF), which changes the outputs; see what it does to the accuracy.
        progress: called with each step as it begins, in words; a conversion may take minutes.

    Returns:
        What was written and how it compares.

    Raises:
        ExportError: (a ValueError) on another suffix, with the nearest; where the network cannot be exported, and
            where the file does not give PyTorch's outputs. What a converter throws is one of these too.
        ImportError: where the format's packages are not installed, with the command that installs them.
        OSError: where the file cannot be written; on a full disk it is a FileWriteError, which is an ExportError too.
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
    say = progress or (lambda _: None)
    with (
        ONE_AT_A_TIME,
        file_errors(path),
        atomic_write_all(*kind.files(path)) as temporary,  # before the work, so that it is not for nothing
        hear_interrupts(),
        reported(f"{type(model).__name__} cannot be written as {kind.name}", _instead(path)),
    ):
        return _export(model, example, path, kind, temporary, description, batches, dynamic_size, say)


def _export(
    model: nn.Module,
    example: Any,
    path: Path,
    kind: Format,
    temporary: Sequence[Path],
    description: dict[str, Any],
    batches: list[Tensor] | None,
    dynamic_size: bool,
    say: Callable[[str], None],
) -> Exported:
    if devices_of(model) - {torch.device("cpu")}:
        model = copy.deepcopy(model).cpu()
        example = pytree.tree_map_only(Tensor, Tensor.cpu, example)
    # A file has no strides, and a capture on channels-last ones holds a batch of 1 for another function.
    example = pytree.tree_map_only(Tensor, Tensor.contiguous, example)
    say("reading the network's graph")
    with untouched(model):
        returned = run(model, example)  # in its own words where it does not run
    check_names(description.get("classes"), flat_outputs(returned))
    left_out = without_tensors(returned)
    form = _form(model, example, dynamic_size)
    if left_out and kind.tensors_only:
        form = TensorsOnly(form)
    traced = trace(form, example, dynamic_size=dynamic_size)
    tolerance = TOLERANCE if batches is None else INT8_TOLERANCE
    said: tuple[str, ...] = ()
    needed = traced.shapes.conditions
    if needed and not kind.keeps_conditions:
        shapes = dataclasses.replace(traced.shapes, conditions=())
        traced = _narrowed(dataclasses.replace(traced, shapes=shapes), form, example, kind, needed, dynamic_size)
        said = needed
    while True:
        if traced.shapes.conditions:
            description["shapes"] = traced.shapes.to_json()
        texts = to_strings(description)
        tried = trials(example, traced.shapes, more=2)
        tried.pop(ONE_POSITION, None)  # OpenVINO's kernels may end the process on such a map
        wanted = outputs_of(model, tried)
        say(f"converting to {kind.name}")
        if batches is None:
            kind.write(traced, texts, temporary)
        else:
            model_in_float = openvino_model(traced, texts)
            say("calibrating INT8")
            write_openvino_model(quantized(model_in_float, batches), temporary)
        say(f"comparing the {kind.name} file with PyTorch")
        runner = kind.run(temporary)
        needed = disagreements(runner, model, example, traced.shapes, tuple(traced.assumed), tolerance)
        if not needed:
            break
        del runner  # which may have the file open
        traced, said = _narrowed(traced, form, example, kind, needed, dynamic_size), (*said, *needed)
    checks = check_file(runner, tried, wanted, f"{type(model).__name__} was exported, and {kind.name}", tolerance)
    if dict(runner.metadata) != texts:
        raise ExportError(f"{kind.name} did not keep what the file is to say of its network: {runner.metadata}")
    del runner
    return Exported(
        paths=kind.files(path),
        format=kind.name if batches is None else f"{kind.name} INT8",
        inputs=_shapes(traced, "placeholder", traced.inputs),
        outputs=_shapes(traced, "output", traced.outputs),
        checks=checks,
        tolerance=tolerance,
        metadata=description,
        moved=_moved(form),
        note=_note(traced.shapes, said, left_out if kind.tensors_only else (), kind),
    )


def _instead(path: Path) -> str:
    others = " or ".join(f"{suffix}" for suffix in FORMATS if suffix != path.suffix)
    return f"write a file that ends in {others}, or have the network compute that otherwise"


def _form(model: nn.Module, example: Any, dynamic_size: bool) -> nn.Module:
    """The inference form; where none can be had for any size because the network refuses others, it says so itself."""
    try:
        return inference_form(model, example, dynamic_size=dynamic_size)
    except ExportError:
        if dynamic_size:
            outputs_of(model, trials(example, free_space(example)))
        raise


def _note(shapes: Shapes, conditions: Sequence[str], left_out: Sequence[str], kind: Format) -> str:
    said = []
    if shapes.conditions:
        said.append(f"It is for {' and '.join(shapes.conditions)}: elsewhere the network does something else.")
    elif shapes.fixed:
        why = f": the network tests it ({', '.join(conditions)})" if conditions else ": the network tests it"
        said.append(f"The batch is fixed{why}, and an {kind.name} file cannot.")
    if left_out:
        said.append(f"Left out, since it is no tensor: {', '.join(left_out)}.")
    return " ".join(said)


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format that a path asks for by its suffix.

    Raises:
        ExportError: (a ValueError) on another suffix, with the nearest.
    """
    path = Path(path)
    if (found := FORMATS.get(path.suffix)) is not None:
        return found
    known = ", ".join(f"{suffix} ({kind.name})" for suffix, kind in FORMATS.items())
    hint = "".join(f"; did you mean {path.with_suffix(near)}?" for near in nearest(path.suffix.lower(), FORMATS))
    raise ExportError(f"{path}: the name of an exported file ends in {known}{hint}")


def inference_form(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> nn.Module:
    """What is exported in place of `model`: the same function, for less.

    Raises:
        ExportError: (a ValueError) where it cannot be taken as a graph.
    """
    try:
        return optimized(model, example, dynamic_size=dynamic_size, nothing_gained=logging.INFO)
    except OptimizeError as error:
        raise ExportError(str(error)) from error


def _moved(form: nn.Module) -> tuple[int, int]:
    outcomes = form.meta.get("senet", ()) if isinstance(form, fx.GraphModule | TensorsOnly) else ()
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


def _narrowed(
    traced: Traced, form: nn.Module, example: Any, kind: Format, conditions: Sequence[str], dynamic_size: bool
) -> Traced:
    """The graph for sizes that fulfil further conditions: the file says and checks them, or one batch is fixed in it.

    Raises:
        ExportError: where the file can neither say nor check a condition on sizes in space.
    """
    if kind.keeps_conditions:
        shapes = dataclasses.replace(traced.shapes, conditions=(*traced.shapes.conditions, *conditions))
        assumed = {condition: code for condition, code in traced.assumed.items() if condition not in conditions}
        return dataclasses.replace(traced, shapes=shapes, assumed=assumed)
    sizes = [condition for condition in conditions if any(name in condition for name in traced.shapes.space)]
    if sizes or traced.shapes.fixed:
        raise ExportError(
            f"{name_of(form)} is right where {' and '.join(sizes or conditions)}, which an {kind.name} file "
            f"cannot check: leave dynamic_size out, or write a .pt2 file"
        )
    return trace(form, example, dynamic_size=dynamic_size, fixed_batch=True)


def _shapes(traced: Traced, op: str, names: Sequence[str]) -> dict[str, str]:
    graph = traced.program.graph
    if op == "output":
        nodes = [node for node in graph.output_node().args[0] if _is_tensor(node)]
        nodes = nodes[len(nodes) - len(names) :]
    else:
        given = set(traced.program.graph_signature.user_inputs)
        nodes = [node for node in graph.nodes if node.op == op and node.name in given and _is_tensor(node)]
    return {name: traced.shape_in_words(node.meta["val"].shape) for name, node in zip(names, nodes, strict=True)}


def _is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)
