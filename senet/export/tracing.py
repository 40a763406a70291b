"""Trace a network as a graph for a file, for any batch size and, on request, any image size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from senet.errors import ExportError, OptimizeError
from senet.export.outputs import TensorsOnly, known_shapes, output_names
from senet.inference.capture import batch_size, capture_program, check_network, tensors_of
from senet.inference.shapes import Shapes
from senet.running import describe, run, untouched

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Traced", "check_exportable", "trace"]


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network's graph with names for inputs and outputs.

    Attributes:
        program: the graph, with symbols for variable sizes.
        inputs: the names of its input tensors, in order.
        outputs: the names of its output tensors.
        symbols: the name of each symbol: batch, height, width.
        shapes: the shapes that the graph is for.
        assumed: further conditions on sizes, as in `Captured`.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: Mapping[str, str]
    shapes: Shapes
    assumed: Mapping[str, str]

    def shape_in_words(self, shape: Any) -> str:
        """A shape with its symbols in words: (batch, 3, 224, 224)."""
        words = [self.symbols.get(str(side), str(side)) for side in shape]
        return f"({', '.join(words)}{',' * (len(words) == 1)})"


def trace(
    model: nn.Module, example: Any, *, returned: Any = None, dynamic_size: bool = False, fixed_batch: bool = False
) -> Traced:
    """Trace the graph of `model`, on the CPU in eval mode, for any batch size.

    Args:
        model: the network; it is not changed.
        example: a tensor (N, C, *space), a tuple of positional arguments, or a dict of keyword arguments.
        returned: the network's output on the example, where it has run already; None runs it.
        dynamic_size: also leave open the spatial sizes of tensors with three or more dimensions.
        fixed_batch: fix the example's batch size, which also happens if `model` was optimized for one batch.

    Raises:
        ExportError: (a ValueError) the network cannot be traced, or only for one batch or one size.
    """
    known = known_shapes(model)
    fixed: Literal["", "number", "test"] = "test" if fixed_batch else "" if known is None else known.fixed
    whole = model.network if isinstance(model, TensorsOnly) else model
    name = type(whole).__name__
    try:
        found = capture_program(model, example, dynamic_size=dynamic_size, fixed=fixed)
    except OptimizeError as error:
        raise ExportError(str(error)) from error
    if found.shapes.fixed == "number":
        batch = batch_size(example)
        raise ExportError(
            f"{name} computes with its batch as a fixed number, so its graph is for a batch of {batch} alone: have it "
            f"use x.shape[0] (x.flatten(1), not x.view({batch}, -1)); where another tensor or dimension counts the "
            f"samples, mark that one in the example: senet.Batched(x, dim=1)"
        )
    if returned is None:
        with untouched(model):
            returned = run(whole, example)
    for node in found.program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would write this machine's paths into the file
    names = tuple(name for name, _ in found.shapes.inputs)
    inputs = ("input",) if len(names) == 1 else names
    sides = (each for _, each in found.shapes.inputs)
    shapes = dataclasses.replace(found.shapes, inputs=tuple(zip(inputs, sides, strict=True)))
    return Traced(found.program, inputs, output_names(returned, inputs), found.symbols, shapes, found.assumed)


def check_exportable(model: nn.Module, example: Any) -> None:
    """Refuse what no file can hold, before any work.

    Raises:
        ExportError: (a ValueError) the network is not float32, or the example has no batch.
        TypeError: `model` is not a network.
    """
    try:
        check_network(model)
    except OptimizeError as error:
        raise ExportError(str(error)) from error
    tensors = tensors_of(example)
    if not tensors or not any(tensor.dim() for tensor in tensors):
        raise ExportError(f"the example is {describe(example)}; it needs a tensor whose first dimension is the batch")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}, and export takes a float32 network: give "
                f"model.float(); engines choose bf16 or fp16 themselves when they load a file"
            )
