"""Capture a network with `torch.export`, with the conditions on sizes that the capture assumed.

`optimize` and `export` both begin here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_map, tree_unflatten

from senet.errors import InputTypeError, OptimizeError, SenetError
from senet.inference.internals import guards_of, quiet_solver, sizes_of_one
from senet.inference.shapes import Shapes, Sides, condition_in_words, failing
from senet.running import as_call, batch_dims, describe, untouched

__all__ = ["ONE_AT_A_TIME", "Captured", "batch_size", "capture_program", "check_network", "first_line", "tensors_of"]

# torch.export and the converters replace names in whole modules while they work, for every thread.
ONE_AT_A_TIME = threading.RLock()
"""A lock held while a network is captured or converted."""

_SPACE = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}


@dataclasses.dataclass(frozen=True, slots=True)
class Captured:
    """A graph and the conditions under which it is valid.

    Attributes:
        program: the graph, in eval mode.
        shapes: the allowed shapes. Their conditions are those that the network's own code tested.
        assumed: further conditions, assumed by PyTorch's operations, each with torch's code for it.
            Most concern only layouts, so users of the graph test both sides of each.
        symbols: the name of each symbol in the graph's shapes.
        note: a remark for the user on the capture; may be empty.
    """

    program: torch.export.ExportedProgram
    shapes: Shapes
    assumed: Mapping[str, str]
    symbols: Mapping[str, str]
    note: str = ""


def capture_program(
    model: nn.Module, example: Any, *, dynamic_size: bool = False, fixed: Literal["", "number", "test"] = ""
) -> Captured:
    """Capture the graph that `model` runs in eval mode on `example`, for any batch size if the network allows it.

    Args:
        model: the network; it is not changed.
        example: a tensor, a tuple of positional arguments or a dict of keyword arguments.
        dynamic_size: also leave the spatial sizes free.
        fixed: the reason to fix the example's batch, as in `Shapes.fixed`; "" leaves it free.

    Raises:
        OptimizeError: `torch.export` cannot trace the network, or a size that should be free is not.
    """
    name, batch = type(model).__name__, batch_size(example)
    if batch == 0:
        raise OptimizeError(f"the example is {describe(example)}, a batch of no samples: give at least one")
    if fixed or batch is None:
        found = _attempt(model, example, False, dynamic_size)
        shapes = dataclasses.replace(found.shapes, fixed=fixed)
        return dataclasses.replace(found, shapes=shapes, note=_note(fixed, batch))
    found = _attempt(model, _two(example), True, dynamic_size)
    why = found.shapes.fixed
    if why == "number" and dynamic_size:
        raise OptimizeError(
            f"{name} computes with its batch as a fixed number ({max(batch, 2)}): leave dynamic_size out, and the "
            f"result is for the example's batch"
        )
    if not why and not found.shapes.allow(found.shapes.sizes(tensors_of(example))):
        why = "test"
    return capture_program(model, example, dynamic_size=dynamic_size, fixed=why) if why else found


def _note(fixed: str, batch: int | None) -> str:
    reasons = {"number": f"computes with its batch as a fixed number ({batch})", "test": "tests the size of its batch"}
    return f"it {reasons[fixed]}, so the result is for the example's batch of {batch} alone" if fixed else ""


def _attempt(model: nn.Module, example: Any, free_batch: bool, free_size: bool) -> Captured:
    name = type(model).__name__
    with untouched(model), sizes_of_one() as any_size:
        try:
            program = _export(model, example, free_batch, free_size)
        except SenetError:
            raise
        except Exception as error:
            line, takes = first_line(error), "optimize takes networks that torch.export can follow"
            if "data-dependent" in line:  # such as a detector that picks its boxes
                takes += ": give the part in front of what depends on values, as a module that returns its tensors"
            raise OptimizeError(f"{name} cannot be exported on {describe(example)}: {line}. {takes}") from error
    symbols: dict[str, str] = {}
    shapes = _shapes(program, batch_dims(example), symbols)
    if free_size:
        _check_sizes(name, shapes)
    if free_batch and not any(side == "batch" for _, sides in shapes.inputs for side in sides):
        return Captured(program, dataclasses.replace(shapes, fixed="number"), {}, symbols)
    conditions = _conditions(model, program, example, shapes)
    if conditions is None:
        if free_size:
            raise OptimizeError(
                f"{name} cannot be captured for any size, because torch does not tell for which sizes the graph is "
                f"right: leave dynamic_size out"
            )
        return Captured(program, dataclasses.replace(shapes, fixed="test" if free_batch else ""), {}, symbols)
    shapes, own, assumed = conditions
    own += [] if any_size else [f"{side} >= 2" for side in shapes.names]
    return Captured(program, dataclasses.replace(shapes, conditions=tuple(own)), assumed, symbols)


def _export(model: nn.Module, example: Any, free_batch: bool, free_size: bool) -> torch.export.ExportedProgram:
    from torch.export import Dim, export

    args, kwargs = as_call(example)
    dims = iter(batch_dims(example))

    def free(leaf: Any) -> dict[int, Any] | None:
        if not isinstance(leaf, Tensor):
            return None
        batch = next(dims)
        space = [dim for dim in range(2, leaf.dim()) if dim != batch] if free_size else []
        return dict.fromkeys([*([batch] if free_batch and batch is not None else []), *space], Dim.AUTO)

    described = tree_map(free, args), {key: tree_map(free, value) for key, value in kwargs.items()}
    shapes = _described(model, *described) if free_batch or free_size else None
    with quiet_solver(), warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # and torch prints the whole graph where it could follow a part of it
        return export(model, args, kwargs, dynamic_shapes=shapes, strict=False)


def _described(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """The dynamic shapes for `torch.export`, by parameter names."""
    return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)


def _shapes(program: torch.export.ExportedProgram, dims: Sequence[int | None], symbols: dict[str, str]) -> Shapes:
    """The shapes of a graph's tensors, with a name for each symbol, which is added to `symbols`."""
    inputs: list[tuple[str, Sides]] = []
    taken = program.graph_signature.user_inputs
    fakes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    for name in taken:
        fake = fakes.get(str(name))
        if not isinstance(fake, Tensor):
            continue
        space = _SPACE.get(fake.dim() - 2, tuple(f"size{i}" for i in range(fake.dim() - 2)))
        words = ["side", "channels", *space]
        if (batch := dims[len(inputs)]) is not None:
            words[batch] = "batch"
        sides: list[int | str] = []
        for dim, side in enumerate(fake.shape):
            number: int | None = side if type(side) is int else side.node.maybe_as_int()  # type: ignore[attr-defined]
            if number is None and str(side) not in symbols:
                free = words[dim] if words[dim] not in symbols.values() else f"{name}_{words[dim]}"
                symbols[str(side)] = free
            sides.append(symbols[str(side)] if number is None else int(number))
        inputs.append((str(name), tuple(sides)))
    return Shapes(tuple(inputs))


def _check_sizes(name: str, shapes: Shapes) -> None:
    for _, sides in shapes.inputs:
        space = _SPACE.get(len(sides) - 2, ("size",) * len(sides))
        for side, word in zip(sides[2:], space, strict=False):
            if isinstance(side, int):
                raise OptimizeError(
                    f"{name} computes with the {word} as a fixed number ({side}): leave dynamic_size out, and the "
                    f"result is for the example's size"
                )


def _conditions(
    model: nn.Module, program: torch.export.ExportedProgram, example: Any, shapes: Shapes
) -> tuple[Shapes, list[str], dict[str, str]] | None:
    """The conditions tested by the network's own code and by PyTorch's operations; None if unknown.

    Sides that the network's own code compares get separate names in the returned shapes.
    """
    told = guards_of(program)
    if told is None:
        return None
    guards, sources = told
    tested = {symbol for guard in guards if guard.own for symbol in re.findall(r"\w+", guard.code)}
    sides = dict(zip(_paths(model, example), (list(sides) for _, sides in shapes.inputs), strict=True))
    names: dict[str, str] = {}
    for symbol, source in sources.items():
        path, _, dim = source.rpartition(".size()[")
        if path in sides:
            at, place = sides[path], int(dim[:-1])
            if place >= 2 and isinstance(at[place], str) and symbol in tested and at[place] in at[2:place]:
                at[place] = _other_name(at, place)
            names[symbol] = str(at[place])  # a number if the capture found that no other is possible
    shapes = Shapes(tuple((name, tuple(each)) for (name, _), each in zip(shapes.inputs, sides.values(), strict=True)))
    near = shapes.sizes(tensors_of(example))
    own: dict[str, str] = {}
    assumed: dict[str, str] = {}
    for guard in guards:
        condition = condition_in_words(guard.code, names)
        if condition is None:
            return None
        (own if guard.own else assumed)[condition] = guard.code
    _, always = failing(shapes, [*own, *assumed], near)
    known = {*own, *always}
    return shapes, [c for c in own if c not in always], {c: code for c, code in assumed.items() if c not in known}


def _other_name(sides: Sequence[Any], place: int) -> str:
    """The name of a spatial side that does not share another's name."""
    words = _SPACE.get(len(sides) - 2, ("size",) * len(sides))
    return words[place - 2] if words[place - 2] not in sides else f"{words[place - 2]}{place}"


def _paths(model: nn.Module, example: Any) -> list[str]:
    """Torch's names for an example's tensors in its guards, in order: L['x'], L['xs'][0]."""
    args, kwargs = as_call(example)
    leaves, structure = tree_flatten((args, kwargs))
    numbered, named = tree_unflatten(list(range(len(leaves))), structure)
    arguments = dict(inspect.signature(model.forward).bind(*numbered, **named).arguments)
    paths = {index: f"L{keystr(path)}" for path, index in tree_flatten_with_path(arguments)[0]}
    return [paths[index] for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]


def tensors_of(example: Any) -> list[Tensor]:
    """The tensors of an example, in order."""
    return [leaf for leaf in tree_leaves(as_call(example)) if isinstance(leaf, Tensor)]


def batch_size(example: Any) -> int | None:
    """The number of samples of an example; None if no tensor has a dimension."""
    pairs = zip(tensors_of(example), batch_dims(example), strict=True)
    return next((tensor.shape[dim] for tensor, dim in pairs if dim is not None), None)


def _two(example: Any) -> Any:
    """Duplicate an example of one sample, because torch.export specialises a size of 1."""
    dims = iter(batch_dims(example))

    def twice(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        dim = next(dims)
        return leaf if dim is None or leaf.shape[dim] != 1 else torch.cat([leaf, leaf], dim)

    return tree_map(twice, example)


def first_line(error: BaseException) -> str:
    """An error's message in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def check_network(model: Any) -> None:
    """Refuse networks that `torch.export` cannot trace.

    Raises:
        OptimizeError: the network is compiled, scripted, wrapped or without values.
        InputTypeError: it is not a network.
    """
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"a network is an nn.Module, not {type(model).__name__}")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise OptimizeError(f"the network is wrapped in {type(model).__name__}: give `model.module`")
    for name, module in model.named_modules():
        at = f"{name} ({type(module).__name__})" if name else type(module).__name__
        if isinstance(getattr(module, "_orig_mod", None), nn.Module) or getattr(module, "_compiled_call_impl", None):
            raise OptimizeError(f"{at} is compiled: optimize first, and compile what optimize returns")
        if isinstance(module, torch.jit.ScriptModule):
            raise OptimizeError(f"{at} is scripted, which torch.export does not follow: optimize the network itself")
        if any(x.is_meta for x in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
            raise OptimizeError(f"{at} is on the meta device and has no values: materialise the network first")
