"""The shapes for which a captured graph is valid, in a form that files can store and runtimes can check.

A capture follows one branch of every test on sizes. The conditions for that branch are Python
comparisons over the names of free sides: "batch <= 8", "height % 32 == 0".
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from senet.block.equations import is_jit_tracing, padding
from senet.errors import InputError
from senet.words import counted, kind_of, with_article

__all__ = ["Shapes", "condition_in_words", "expect", "failing", "free_space", "holds", "is_batch", "parsed", "resized"]

Sides = tuple[int | str | None, ...]
_OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mult": operator.mul,
    "Div": operator.truediv,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "USub": operator.neg,
    "Not": operator.not_,
    "Eq": operator.eq,
    "NotEq": operator.ne,
    "Lt": operator.lt,
    "LtE": operator.le,
    "Gt": operator.gt,
    "GtE": operator.ge,
    "max": torch.sym_max,
    "min": torch.sym_min,
    "float": torch.sym_float,
    "ceil": math.ceil,
    "floor": math.floor,
    "trunc": math.trunc,
}
_TRIED = (*range(1, 70), 95, 96, 97, 127, 128, 129, 192, 200, 201, 223, 224, 225, 255, 256, 257, 299, 333, 512, 1024)
_FAR = (2048, 4096, 10_007, 65_536, 1_000_000)
_MOST = 8  # times the example's elements; a larger trial would take too long


# A condition may come from an untrusted file, so it never reaches eval. It is parsed into plain
# tuples, which a graph can hold and torch.compile can trace.
@functools.lru_cache(maxsize=4096)
def parsed(condition: str) -> Any:
    """Parse a condition into nested tuples of an operator's name and its operands: ("LtE", "batch", 8).

    Raises:
        InputError: it is not a condition on sizes.
    """
    try:
        return _tuples(ast.parse(condition, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{condition[:200]!r} is not a condition on sizes: {error}") from None


def _tuples(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            return name
        case ast.BoolOp(op=op, values=values):
            return (type(op).__name__, *map(_tuples, values))
        case ast.BinOp(op=op, left=left, right=right):
            found: tuple[Any, ...] = (type(op).__name__, _tuples(left), _tuples(right))
        case ast.UnaryOp(op=op, operand=operand):
            found = (type(op).__name__, _tuples(operand))
        case ast.Compare(ops=[op], left=left, comparators=[right]):
            found = (type(op).__name__, _tuples(left), _tuples(right))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            found = (name, *map(_tuples, arguments))
        case _:
            raise ValueError(f"it holds {kind_of(node)}")
    if found[0] not in _OPERATORS:
        raise ValueError(f"it holds {with_article(found[0])}")
    return found


def holds(condition: str, sizes: Mapping[str, Any]) -> bool:
    """Whether a condition holds for these sizes, given by name; False if it divides by zero.

    Raises:
        InputError: it is not a condition on them.
    """
    tree = parsed(condition)
    try:
        return _met(tree, sizes)
    except (KeyError, TypeError):
        raise InputError(f"{condition[:200]!r} is not a condition on {', '.join(sizes)}") from None


def _met(tree: Any, sizes: Mapping[str, Any]) -> bool:
    try:
        return bool(_value(tree, sizes))
    except ZeroDivisionError:
        return False


def _value(tree: Any, sizes: Mapping[str, Any]) -> Any:
    if isinstance(tree, str):
        return sizes[tree]
    if not isinstance(tree, tuple):
        return tree
    name, *operands = tree
    if name == "And":
        return all(_value(operand, sizes) for operand in operands)
    if name == "Or":
        return any(_value(operand, sizes) for operand in operands)
    return _OPERATORS[name](*[_value(operand, sizes) for operand in operands])


def condition_in_words(code: str, names: Mapping[str, str]) -> str | None:
    """A guard's code from torch as a condition over the names of sides; None if it cannot be stored."""
    try:
        tree = ast.parse(code, mode="eval")
        condition = ast.unparse(_Renamed(names).visit(tree))
        parsed(condition)
    except (SyntaxError, ValueError, KeyError):
        return None
    return condition


class _Renamed(ast.NodeTransformer):
    """Renames symbols, and removes modules from function names."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        function = ast.Name(name.removeprefix("sym_"), ast.Load())
        return ast.Call(function, [self.visit(argument) for argument in node.args], [])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._names[node.id], ast.Load())


@dataclasses.dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes that a graph takes.

    Attributes:
        inputs: the name and sides of each input tensor: numbers, and names of free sides. A
            repeated name is the same size.
        conditions: the conditions on free sides.
        fixed: why the batch is fixed: "number" if the network computes with it as a constant,
            "test" if the network tests it; "" if it is free.
    """

    inputs: tuple[tuple[str, Sides], ...]
    conditions: tuple[str, ...] = ()
    fixed: Literal["", "number", "test"] = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of free sides, each once."""
        sides = dict.fromkeys(side for _, sides in self.inputs for side in sides if isinstance(side, str))
        return tuple(sides)

    @property
    def space(self) -> tuple[str, ...]:
        """The free sides that are not the batch."""
        return tuple(name for name in self.names if not is_batch(name))

    def sizes(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """The sizes of free sides in these tensors."""
        found: dict[str, int] = {}
        for (_, sides), tensor in zip(self.inputs, tensors, strict=True):
            for side, size in zip(sides, tensor.shape, strict=True):
                if isinstance(side, str):
                    found.setdefault(side, int(size))
        return found

    def allow(self, sizes: Mapping[str, int]) -> bool:
        """Whether every condition holds."""
        return all(holds(condition, sizes) for condition in self.conditions)

    def check(self, tensors: Sequence[Tensor]) -> None:
        """Refuse tensors of other shapes than a file is for.

        Raises:
            InputError: a shape is not allowed; the message has the given and the allowed shapes.
        """
        if len(tensors) != len(self.inputs):
            raise InputError(f"this file takes {counted(len(self.inputs), 'tensor')}, not {len(tensors)}")
        sizes: dict[str, int] = {}
        for (name, sides), tensor in zip(self.inputs, tensors, strict=True):
            _check_sides(tensor, sides, sizes, name)
        _check_conditions([(condition, parsed(condition)) for condition in self.conditions], sizes, "file")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"inputs": {name: list(sides) for name, sides in self.inputs}, "conditions": list(self.conditions)}

    @classmethod
    def from_json(cls, given: Any) -> Shapes:
        """The shapes from the result of `to_json`.

        Raises:
            InputError: the value is not such a result.
        """
        try:
            inputs = tuple((str(name), tuple(sides)) for name, sides in given["inputs"].items())
            shapes = cls(inputs, tuple(map(str, given["conditions"])))
        except (TypeError, KeyError, AttributeError):
            raise InputError(f"{str(given)[:200]} does not say which shapes a network takes") from None
        shapes.allow(dict.fromkeys(shapes.names, 1))  # raises on a condition that is none
        return shapes

    def uncoupled(self) -> tuple[Shapes, tuple[str, ...]]:
        """The same with a name for each side of each tensor, and that those which shared one are equal."""
        seen: dict[str, str] = {}
        inputs, equal = [], []
        for tensor, sides in self.inputs:
            own: list[int | str | None] = []
            for side in sides:
                other = f"{tensor}_{side}"
                apart = isinstance(side, str) and seen.setdefault(side, tensor) != tensor
                equal += [f"{side} == {other}"] if apart else []
                own.append(other if apart else side)
            inputs.append((tensor, tuple(own)))
        return Shapes(tuple(inputs), self.conditions), tuple(dict.fromkeys(equal))

    def violations(self, condition: str, near: Mapping[str, int]) -> list[dict[str, int]]:
        """Sizes that violate a condition, near the given ones first."""
        return [sizes for sizes in self._around(condition, near) if not holds(condition, sizes)]

    def _around(self, condition: str, near: Mapping[str, int]) -> Iterator[dict[str, int]]:
        numbers = {int(number) for number in re.findall(r"\d+", condition)}
        own = {number * factor + by for number in numbers for factor in (1, 2, 4, 8, 16, 32) for by in (-1, 0, 1)}
        tried = {size for size in (*_TRIED, *_FAR, *own) if size > 0}
        groups: list[tuple[str, ...]] = [(name,) for name in near if name in condition]
        groups += [self.space] if len(self.space) > 1 else []
        for group in groups:
            middle = max((near[name] for name in group), default=1)
            for size in sorted(tried, key=lambda size: abs(size - middle)):
                yield {**near, **dict.fromkeys(group, size)}


def is_batch(name: str) -> bool:
    """Whether a side with this name counts samples."""
    return name == "batch" or name.endswith("_batch")


def free_space(example: Any) -> Shapes:
    """Shapes in which exactly the spatial sizes of an example are free, independently of each other."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    sides = [(None, None, *(f"side{i}_{dim}" for dim in range(2, x.dim())))[: x.dim()] for i, x in enumerate(tensors)]
    return Shapes(tuple((f"input{i}", each) for i, each in enumerate(sides)))


def failing(
    shapes: Shapes, conditions: Iterable[str], near: Mapping[str, int]
) -> tuple[dict[str, list[dict[str, int]]], set[str]]:
    """The sizes that violate each condition, and the conditions that no size violates.

    The sizes are the nearest ones on either side and the smallest; none is many times larger.
    """
    found: dict[str, list[dict[str, int]]] = {}
    always = set()
    for condition in conditions:
        outside = shapes.violations(condition, near)
        if not outside:
            always.add(condition)
            continue
        most = _MOST * math.prod(near.values())
        small = [sizes for sizes in outside if math.prod(sizes.values()) <= most and shapes.allow(sizes)]
        below = [sizes for sizes in small if sum(sizes.values()) < sum(near.values())]
        above = [sizes for sizes in small if sum(sizes.values()) > sum(near.values())]
        here = [sizes for sizes in small if sizes == near]  # if an example of one sample was duplicated for the capture
        found[condition] = [*here[:1], *below[:1], *above[:1], *below[-1:]]
    return found, always


def resized(example: Any, shapes: Shapes, sizes: Mapping[str, int]) -> Any:
    """The example at other sizes: samples, rows and columns repeat cyclically, with each sample slightly fainter."""
    leaves, structure = tree_flatten(example)
    sides = iter(shapes.inputs)
    made = []
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            leaf = _resized(leaf, next(sides)[1], sizes)
        made.append(leaf)
    return tree_unflatten(made, structure)


def _resized(x: Tensor, sides: Sides, sizes: Mapping[str, int]) -> Tensor:
    for dim, side in enumerate(sides):
        if not isinstance(side, str) or sizes[side] == x.shape[dim]:
            continue
        x = x.index_select(dim, torch.arange(sizes[side], device=x.device) % x.shape[dim])
        if is_batch(side) and x.is_floating_point() and x.dim() > 1:
            fainter = torch.linspace(1, 0.5, x.shape[dim], device=x.device, dtype=x.dtype)
            x = x * fainter.view([-1 if d == dim else 1 for d in range(x.dim())])
    return x


def expect(
    x: Tensor,
    shape: Sides,
    dtype: torch.dtype | None = None,
    conditions: Sequence[tuple[str, Any]] = (),
    others: Sequence[tuple[Tensor, Sides, torch.dtype | None]] = (),
    values: Sequence[tuple[Any, Any]] = (),
    squeezes: bool = False,
) -> Tensor:
    """Return `x` if all inputs are what a graph was captured for; `torch.jit.trace` records no such test.

    Args:
        x: the graph's first tensor.
        shape: numbers, names of free sides, and None for any size.
        dtype: the dtype; for a floating-point one, any floating-point dtype is allowed.
        conditions: the conditions on free sides, each as text and as parsed.
        others: the other tensors with their shapes and dtypes.
        values: inputs other than tensors, each with its value in the capture.
        squeezes: whether the network held an SEBlock, which `senet.valid` would tell of padding.

    Raises:
        InputError: (a ValueError) an input does not match, or this is inside `senet.valid`.
    """
    if is_jit_tracing():
        return x
    if squeezes and padding.lengths is not None:
        raise InputError("an inference form squeezes padding too: inside senet.valid run the network it was made from")
    sizes: dict[str, int] = {}
    for tensor, sides, kind in ((x, shape, dtype), *others):
        _check_sides(tensor, sides, sizes, "")
        if (
            kind is not None
            and tensor.dtype is not kind
            and not (kind.is_floating_point and tensor.is_floating_point())
        ):
            raise InputError(f"this inference form was made for tensors of {kind}, not {tensor.dtype}")
    for given, was in values:
        if type(given) is not type(was) or given != was:
            raise InputError(f"this inference form was made with {was!r}, not {given!r}: make one for that as well")
    if conditions:
        _check_conditions(conditions, sizes)
    return x


def _check_sides(x: Tensor, sides: Sides, sizes: dict[str, int], port: str) -> None:
    """Refuse another shape; `port` is the name of a file's input, and "" for an inference form."""
    right = x.dim() == len(sides)
    if right:
        for want, size in zip(sides, x.shape, strict=True):
            if want is None:
                continue
            if size != (sizes.setdefault(want, size) if isinstance(want, str) else want):
                right = False
                break
    if not right:
        given = x.shape if x.dim() == len(sides) else (None,) * len(sides)
        # a free side by its name, unless an earlier tensor has it in another size
        pairs = [(want, size) for want, size in zip(sides, given, strict=True) if isinstance(want, str)]
        known = {want: sizes[want] for want, size in pairs if sizes.get(want, size) != size}
        words = ", ".join("any" if want is None else str(known.get(want, want)) for want in sides)  # type: ignore[arg-type]
        what = f"this file takes {port}" if port else "this inference form was made for tensors"
        maker = "senet.export" if port else "senet.optimize"
        more = f"; {maker}(..., dynamic_size=True) makes one for any size, where the network allows it"
        raise InputError(
            f"{what} of shape ({words}), not {tuple(x.shape)}"
            f"{'' if any(isinstance(side, str) for side in sides[1:]) else more}"
        )


def _check_conditions(
    conditions: Sequence[tuple[str, Any]], sizes: Mapping[str, Any], what: str = "inference form"
) -> None:
    for words, condition in conditions:
        if not _met(condition, sizes):
            given = ", ".join([f"{name} {size}" for name, size in sizes.items()])
            raise InputError(
                f"this {what} is right where {words}, and was given {given}: the network tests its sizes and does "
                f"something else there; use the network itself, or make another {what} from such an example"
            )
