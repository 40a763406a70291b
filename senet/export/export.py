"""`export`: write a network to a file for other programs, and compare the file with PyTorch."""

from __future__ import annotations

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
from senet.errors import ExportError, InputError, OptimizeError
from senet.export.checking import check_file, check_memoryless, check_names, coupled_sizes, disagreements, outputs_of
from senet.export.converting import file_errors, hear_interrupts, reported
from senet.export.description import describe_network, to_strings
from senet.export.formats import FORMATS, Format, openvino_model, quantized, write_openvino_model
from senet.export.outputs import TensorsOnly, flat_outputs, meta_of, name_of, without_tensors
from senet.export.tracing import Traced, check_exportable, trace
from senet.files.atomic import atomic_write_all
from senet.files.paths import expanded
from senet.inference.agreement import ONE_POSITION, trials
from senet.inference.capture import ONE_AT_A_TIME
from senet.inference.optimize import optimized
from senet.inference.shapes import Shapes, free_space
from senet.insertion import tell_of_lost
from senet.running import copy_of, devices_of, run, uninfluenced, untouched
from senet.words import counted, nearest

__all__ = ["TOLERANCE", "ExportError", "Exported", "export", "format_of"]

TOLERANCE = 1e-4
"""The allowed difference relative to the largest output: engines use other orders and algorithms."""

INT8_TOLERANCE = 0.5
"""The same in INT8: eight bits per layer cost a tenth or two; a broken network is off by 1 or more."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """An exported network; `str()` is a summary.

    Attributes:
        paths: the files: one, or OpenVINO's .xml and .bin.
        format: "ONNX", "OpenVINO", "OpenVINO INT8" or "torch.export".
        inputs: the shape of each input by name, "(batch, 3, 224, 224)".
        outputs: the shape of each output by name.
        checks: for each input tried, the largest difference from PyTorch relative to the largest
            output: {"batch 1": 3e-07}.
        tolerance: the bound on these; in INT8 it is coarse, and the accuracy tells more.
        metadata: the network's description in the file.
        moved: the number of SE blocks, and of those whose squeeze reads the last linear layer's
            input; see `optimize`.
        note: sizes that the file does not support, and outputs that it leaves out; may be empty.
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
                    [
                        f"SE: {counted(found, 'block')}, in {moved} the squeeze reads the smaller input of the last "
                        "linear layer."
                    ]
                    * (found > 0)
                ),
                *([self.note] if self.note else []),
                f"In the file: {', '.join(self.metadata)}.",
            )
        )


@uninfluenced()
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
    """Write the inference form of `model` to a file for ONNX Runtime, OpenVINO or PyTorch, for any batch size.

    The network is exported in eval mode, as by `optimize`: with folded normalisations and one
    reduction per SE block. The file then runs on the example and on another batch (and size), and
    is compared with PyTorch; only a file that agrees replaces `path`. The write is atomic, also for
    OpenVINO's pair of files.

    Args:
        model: any network in float32, on any device; it is not changed.
        example: its input: a tensor (N, C, *space), a tuple of positional arguments, or a dict of
            keyword arguments. The batch is the first dimension of the first map, unless
            `senet.Batched(x, dim)` says otherwise.
        path: a path that ends in .onnx (ONNX), .xml (OpenVINO, with the weights in a .bin beside
            it) or .pt2 (`torch.export.load`), in an existing folder.
        dynamic_size: whether the file takes images of any height and width that the network takes.
        metadata: JSON values to keep in the file, such as `classes` (one name per output) and
            `preprocessing`. The file also has `network` and `options` (if `create` made it),
            `senet` and `torch` (versions). ONNX keeps them in `metadata_props` with the prefix
            "senet.", OpenVINO in `rt_info` below "senet", and a .pt2 in the extra file
            "senet.json".
        calibration: batches of typical inputs, about 300 images in all. The layers are then
            computed in INT8 (only .xml, by NNCF), which changes the outputs, so check the accuracy.
        progress: a function called with a description of each step as it begins; a conversion may take minutes.

    Returns:
        The files written, and their comparison with PyTorch.

    Raises:
        ExportError: (a ValueError) the suffix is unknown, the network cannot be exported, the
            file's outputs differ from PyTorch's, or a converter fails.
        InsertionError: (a ValueError) the network does not run on the example.
        ImportError: the format's packages are not installed; the message has the command that installs them.
        OSError: the file cannot be written. On a full disk it is a FileWriteError, which is also an ExportError.
    """
    path = expanded(path)
    with ONE_AT_A_TIME:  # another thread's capture of this network puts tensors without values into it
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
        atomic_write_all(*kind.files(path)) as temporary,  # before any work is wasted
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
        model = copy_of(model, "give it on the CPU").cpu()
        example = pytree.tree_map_only(Tensor, Tensor.cpu, example)
    # A file has no strides, and a capture on channels-last tensors treats a batch of 1 as a special case.
    example = pytree.tree_map_only(Tensor, Tensor.contiguous, example)
    say("reading the network's graph")
    with untouched(model):
        returned = run(model, example)  # raises the network's own error if it does not run
    if not kind.keeps_buffers:
        check_memoryless(model, example, f"an {kind.name} file")
    check_names(description.get("classes"), flat_outputs(returned))
    left_out = without_tensors(returned)
    form = _form(model, example, dynamic_size)
    if left_out and kind.tensors_only:
        form = TensorsOnly(form)
    traced = trace(form, example, returned=returned, dynamic_size=dynamic_size)
    tolerance = TOLERANCE if batches is None else INT8_TOLERANCE
    said: tuple[str, ...] = ()
    needed = traced.shapes.conditions
    if needed and not kind.keeps_conditions:
        shapes = dataclasses.replace(traced.shapes, conditions=())
        traced = _narrowed(dataclasses.replace(traced, shapes=shapes), form, example, kind, needed, dynamic_size)
        said = needed
    while True:
        _check_calibration(batches or (), traced.shapes)
        if traced.shapes.conditions:
            description["shapes"] = traced.shapes.to_json()
        texts = to_strings(description)
        tried = trials(example, traced.shapes, more=2)
        tried.pop(ONE_POSITION, None)  # OpenVINO's kernels may crash the process on such a map
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
        if not kind.keeps_conditions:
            needed += coupled_sizes(traced.program, model, example, traced.shapes, tolerance)
        if not needed:
            break
        del runner  # which may have the file open
        traced, said = _narrowed(traced, form, example, kind, needed, dynamic_size), (*said, *needed)
    instead = "; leave dynamic_size out, or write a file of another format" if traced.shapes.space else ""
    what = f"{type(model).__name__} was exported, and {kind.name}"
    checks = check_file(runner, tried, wanted, what, tolerance, instead)
    if dict(runner.metadata) != texts:
        raise ExportError(f"{kind.name} did not keep what the file is to say of its network: {runner.metadata}")
    del runner
    outcomes = meta_of(form).get("senet", ())
    return Exported(
        paths=kind.files(path),
        format=kind.name if batches is None else f"{kind.name} INT8",
        inputs=_shapes(traced, "placeholder", traced.inputs),
        outputs=_shapes(traced, "output", traced.outputs),
        checks=checks,
        tolerance=tolerance,
        metadata=description,
        moved=(len(outcomes), sum(outcome.moved for outcome in outcomes)),
        note=_note(traced.shapes, said, left_out if kind.tensors_only else (), kind),
    )


def _instead(path: Path) -> str:
    others = " or ".join(suffix for suffix in FORMATS if suffix != path.suffix)
    return f"write a file that ends in {others}, or have the network compute that otherwise"


def _form(model: nn.Module, example: Any, dynamic_size: bool) -> nn.Module:
    """The inference form; if the network refuses other sizes, its own error is raised."""
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
    """The format for a path's suffix.

    Raises:
        ExportError: (a ValueError) the suffix is unknown; the message has the nearest.
    """
    path = expanded(path)
    if (found := FORMATS.get(path.suffix)) is not None:
        return found
    known = ", ".join(f"{suffix} ({kind.name})" for suffix, kind in FORMATS.items())
    hint = "".join(f"; did you mean {path.with_suffix(near)}?" for near in nearest(path.suffix.lower(), FORMATS))
    raise ExportError(f"{path}: the name of an exported file ends in {known}{hint}")


def inference_form(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> nn.Module:
    """The inference form that is exported instead of `model`.

    Raises:
        ExportError: (a ValueError) the network cannot be captured as a graph.
    """
    try:
        return optimized(model, example, dynamic_size=dynamic_size, nothing_gained=logging.INFO)
    except OptimizeError as error:
        raise ExportError(str(error)) from error


def _calibration(path: Path, batches: Iterable[Tensor]) -> list[Tensor]:
    if path.suffix != ".xml":
        raise ExportError(
            f"{path}: INT8 is written for OpenVINO, by its NNCF: give a name that ends in .xml, such as "
            f"{path.with_suffix('.xml')}"
        )
    found = [] if isinstance(batches, Tensor) else list(batches)
    if not found or not all(isinstance(batch, Tensor) for batch in found):
        raise ExportError("calibration is an iterable of tensors, the network's inputs in batches, at least one")
    return [batch.cpu() for batch in found]


def _check_calibration(batches: Iterable[Tensor], shapes: Shapes) -> None:
    for batch in batches:
        try:
            shapes.check((batch,))
        except InputError as error:
            raise ExportError(f"a batch of the calibration is not the network's input: {error}") from error


def _narrowed(
    traced: Traced, form: nn.Module, example: Any, kind: Format, conditions: Sequence[str], dynamic_size: bool
) -> Traced:
    """Restrict the graph to sizes that meet further conditions, by checks in the file or by fixing the batch.

    Raises:
        ExportError: the file cannot check a condition on spatial sizes.
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
