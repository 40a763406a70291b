"""A network as a graph that can be written: any batch, and on request any size of the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from senet.errors import ExportError, InputTypeError
from senet.running import as_call, describe, run, untouched

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Traced", "check_exportable", "flat_outputs", "trace", "with_batch", "with_size"]

_STEP = 32  # pixels that a network which halves its maps five times can be given more or less of


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network's graph, with names for what goes in and comes out.

    Attributes:
        program: the graph; the symbols in its shapes stand for what may change.
        inputs: names of the tensors that it takes, in order.
        outputs: of those that it gives.
        symbols: name of each symbol, in words: batch, height, width.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    symbols: Mapping[str, str]

    def shape_in_words(self, shape: Any) -> str:
        """A shape with its symbols in words: (batch, 3, 224, 224)."""
        words = [self.symbols.get(str(side), str(side)) for side in shape]
        return f"({', '.join(words)}{',' * (len(words) == 1)})"


def trace(model: nn.Module, example: Any, *, dynamic_size: bool = False) -> Traced:
    """The graph of `model`, which is on the CPU, in eval mode and for any batch.

    Args:
        model: the network; it stays as it is.
        example: a tensor (N, C, *space), a tuple of positional arguments, or a dict of keyword arguments. The
            first dimension of its tensors is the batch.
        dynamic_size: leave the sizes in space of tensors of three dimensions and more open too.

    Raises:
        ExportError: (a ValueError) where the network cannot be made a graph, or for one batch or one size alone.
    """
    two = with_batch(example, 2)  # torch.export takes sizes 0 and 1 for constants
    args, kwargs = as_call(two)
    with untouched(model):
        outputs = run(model, two)  # in the caller's words where it fails
        try:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=_open(args, kwargs, dynamic_size))
        except Exception as error:  # torch.export's own, and whatever the network's code raises on symbols
            raise ExportError(
                f"{type(model).__name__} cannot be exported: torch.export says {type(error).__name__}: "
                f"{_first_line(error)}"
            ) from error
    symbols = _symbols(program, type(model).__name__, dynamic_size)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would put the paths of this machine into the file
    names = program.graph_signature.user_inputs
    inputs = ("input",) if len(names) == 1 else tuple(str(name) for name in names)
    return Traced(program, inputs, _output_names(outputs), symbols)


def with_batch(example: Any, batch: int) -> Any:
    """The example with `batch` samples: its own in turn, each floating-point one a little fainter than the last."""
    size = _batch(example)

    def repeated(x: Tensor) -> Tensor:
        if not x.dim() or len(x) != size:
            return x.clone()
        rows = x[torch.arange(batch, device=x.device) % size]
        if not x.is_floating_point():
            return rows
        fainter = torch.linspace(1, 0.5, batch, device=x.device, dtype=x.dtype)
        return rows * fainter.view(-1, *[1] * (x.dim() - 1))

    return pytree.tree_map_only(Tensor, repeated, example)


def with_size(example: Any) -> Any:
    """The example, larger in space: by 32 in the first direction, by 64 in the last."""

    def grown(x: Tensor) -> Tensor:
        if x.dim() < 3:
            return x.clone()
        for dim in range(2, x.dim()):
            more = 2 * _STEP if dim == x.dim() - 1 else _STEP
            x = x.index_select(dim, torch.arange(x.shape[dim] + more, device=x.device) % x.shape[dim])
        return x

    return pytree.tree_map_only(Tensor, grown, example)


def flat_outputs(output: Any) -> list[Tensor]:
    """The tensors in what a network returns, in order."""
    return [leaf.detach() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _batch(example: Any) -> int:
    return next(len(leaf) for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor) and leaf.dim())


def check_exportable(model: nn.Module, example: Any) -> None:
    """Refuse what no file can hold, before anything is done.

    Raises:
        ExportError: (a ValueError) where the network is not float32, or the example has no batch.
        TypeError: where there is no network.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"a network to export is an nn.Module, not {type(model).__name__}")
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    if not tensors or not tensors[0].dim():
        raise ExportError(f"the example is {describe(example)}; it needs a tensor whose first dimension is the batch")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ExportError(
                f"{name} is {str(tensor.dtype).removeprefix('torch.')}, and export takes a float32 network: give "
                f"model.float(); engines choose bf16 or fp16 themselves when they load a file"
            )


def _open(args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_size: bool) -> Any:
    """torch.export's description of the dimensions that are left open, for its two kinds of arguments."""
    from torch.export import Dim

    size = _batch((*args, *kwargs.values()))

    def of(x: Any) -> dict[int, Any] | None:
        if not isinstance(x, Tensor) or not x.dim():
            return None
        space = range(2, x.dim()) if dynamic_size else ()
        return dict.fromkeys(((0,) if len(x) == size else ()) + tuple(space), Dim.AUTO)

    described = pytree.tree_map(of, args)
    return described if not kwargs else {name: pytree.tree_map(of, value) for name, value in kwargs.items()}


def _symbols(program: ExportedProgram, network: str, dynamic_size: bool) -> dict[str, str]:
    """What each symbol means; refuses a graph in which what should be open is a number."""
    words = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
    found: dict[str, str] = {}
    taken = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in taken or not isinstance(node.meta.get("val"), Tensor):
            continue
        shape = node.meta["val"].shape
        space = words.get(len(shape) - 2, tuple(f"size{i}" for i in range(len(shape) - 2)))
        for dim, side in enumerate(shape):
            number = _number(side)
            if dim == 0 and number is not None and not found:
                raise ExportError(
                    f"{network} computes with its batch as a fixed number ({number}), so its graph is for that batch "
                    f"alone: have it use x.shape[0] (x.flatten(1), not x.view({number}, -1))"
                )
            if dim >= 2 and dynamic_size and number is not None:
                raise ExportError(
                    f"{network} computes with the {space[dim - 2]} as a fixed number ({number}), so it cannot be "
                    f"exported for any size: leave dynamic_size out"
                )
            if number is None:
                found.setdefault(str(side), "batch" if dim == 0 else space[dim - 2])
    return found


def _number(side: Any) -> int | None:
    """The number that a side of a shape is, also where tracing found that a symbol can be no other; else None."""
    if isinstance(side, int):
        return side
    number = side.node.maybe_as_int()
    return None if number is None else int(number)


def _output_names(outputs: Any) -> tuple[str, ...]:
    if isinstance(outputs, Mapping) and all(isinstance(value, Tensor) for value in outputs.values()):
        return tuple(str(name) for name in outputs)
    count = len(flat_outputs(outputs))
    return ("output",) if count == 1 else tuple(f"output{i}" for i in range(count))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"
