"""The shapes that a captured graph is right for, in words that a file can keep and a runtime can check.

A capture follows one branch of every test on sizes. The conditions under which that branch is the right one are
comparisons in Python over the names of the free sides: "batch <= 8", "height % 32 == 0".
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

from senet.errors import InputError
from senet.inference.internals import is_jit_tracing
from senet.words import counted

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
_MOST = 8  # times the example's elements: a larger trial would take too long


# A condition may come from a file that somebody sent, so it is never handed to eval. Its tree is of plain tuples, which
# a graph holds and torch.compile looks through.
@functools.lru_cache(maxsize=4096)
def parsed(condition: str) -> Any:
    """A condition as nested tuples of an operator's name and its operands: ("LtE", "batch", 8).

    Raises:
        InputError: where it is no condition on sizes.
    """
    try:
        return _tuples(ast.parse(condition, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{condition[:200]!r} is no condition on sizes: {error}") from None


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
            raise ValueError(f"it holds a {type(node).__name__}")
    if found[0] not in _OPERATORS:
        raise ValueError(f"it holds a {found[0]}")
    return found


def holds(condition: str, sizes: Mapping[str, Any]) -> bool:
    """Whether a condition holds for these sizes, by name; not where it divides by zero.

    Raises:
        InputError: where it is no condition on them.
    """
    tree = parsed(condition)
    try:
        return bool(_value(tree, sizes))
    except ZeroDivisionError:
        return False
    except (KeyError, TypeError):
        raise InputError(f"{condition[:200]!r} is no condition on {', '.join(sizes)}") from None


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
    """Torch's code for a guard over the names of sides; None where it is no condition that can be kept."""
    try:
        tree = ast.parse(code, mode="eval")
        condition = ast.unparse(_Renamed(names).visit(tree))
        parsed(condition)
    except (SyntaxError, ValueError, KeyError):
        return None
    return condition


class _Renamed(ast.NodeTransformer):
    """Names for symbols, and functions without their modules."""

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
    """What a graph may be given.

    Attributes:
        inputs: for each tensor that goes in, its name and its sides: numbers, and names of those that are free. A
            name that stands twice stands for one size.
        conditions: which hold for the free sides.
        fixed: why the batch is a number and not free: "number", the network computes with it as one; "test", the
            network tests it, and another test would take another branch; "" where it is free.
    """

    inputs: tuple[tuple[str, Sides], ...]
    conditions: tuple[str, ...] = ()
    fixed: Literal["", "number", "test"] = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The free sides, each once."""
        sides = dict.fromkeys(side for _, sides in self.inputs for side in sides if isinstance(side, str))
        return tuple(sides)

    @property
    def space(self) -> tuple[str, ...]:
        """Those that are no batch."""
        return tuple(name for name in self.names if not is_batch(name))

    def sizes(self, tensors: Sequence[Tensor]) -> dict[str, int]:
        """The size of each free side in these tensors."""
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
        """Refuse tensors of other shapes.

        Raises:
            InputError: with what was given and what would be right.
        """
        if len(tensors) != len(self.inputs):
            raise InputError(f"this network takes {counted(len(self.inputs), 'tensor')}, not {len(tensors)}")
        sizes: dict[str, int] = {}
        for (name, sides), tensor in zip(self.inputs, tensors, strict=True):
            _check_sides(tensor, sides, sizes, f"{name} of ")
        _check_conditions([(condition, parsed(condition)) for condition in self.conditions], sizes)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"inputs": {name: list(sides) for name, sides in self.inputs}, "conditions": list(self.conditions)}

    @classmethod
    def from_json(cls, given: Any) -> Shapes:
        """From what `to_json` gave.

        Raises:
            InputError: where it is not that.
        """
        try:
            inputs = tuple((str(name), tuple(sides)) for name, sides in given["inputs"].items())
            conditions = tuple(map(str, given["conditions"]))
        except (TypeError, KeyError, AttributeError):
            raise InputError(f"{str(given)[:200]} does not say which shapes a network takes") from None
        return cls(inputs, conditions)

    def violations(self, condition: str, near: Mapping[str, int]) -> list[dict[str, int]]:
        """Sizes near the given ones, then far from them, for which a condition does not hold."""
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
    """Shapes in which every size in space of an example is free, each by itself, and nothing else is."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)]
    sides = [(None, None, *(f"side{i}_{dim}" for dim in range(2, x.dim())))[: x.dim()] for i, x in enumerate(tensors)]
    return Shapes(tuple((f"input{i}", each) for i, each in enumerate(sides)))


def failing(
    shapes: Shapes, conditions: Iterable[str], near: Mapping[str, int]
) -> tuple[dict[str, list[dict[str, int]]], set[str]]:
    """Where conditions do not hold: for each the sizes to try, and the conditions that fail at no size.

    The sizes are those nearest to the given ones from either side, and the smallest; none is many times larger.
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
        here = [sizes for sizes in small if sizes == near]  # where an example of one sample was captured twice
        found[condition] = [*here[:1], *below[:1], *above[:1], *below[-1:]]
    return found, always


def resized(example: Any, shapes: Shapes, sizes: Mapping[str, int]) -> Any:
    """The example in other sizes: its samples, rows and columns go on from the start, each sample a little fainter."""
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
) -> Tensor:
    """`x`, where it and what is given beside it are what a graph was captured for.

    Args:
        x: the first tensor that the graph takes.
        shape: numbers, names of free sides, and None for any size.
        dtype: of a number's kind alone: another floating-point dtype may stand for it.
        conditions: on the free sides, each in words and as `parsed` has it.
        others: the other tensors, each with its shape and dtype.
        values: what is given beside tensors, each with what it was in the capture.

    Raises:
        InputError: (a ValueError) where something is not so.
    """
    if is_jit_tracing():
        return x
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


def _check_sides(x: Tensor, sides: Sides, sizes: dict[str, int], what: str) -> None:
    right = x.dim() == len(sides)
    if right:
        for want, size in zip(sides, x.shape, strict=True):
            if want is None:
                continue
            if size != (sizes.setdefault(want, size) if isinstance(want, str) else want):
                right = False
                break
    if not right:
        words = ", ".join("any" if want is None else str(sizes.get(want, want)) for want in sides)  # type: ignore[arg-type]
        more = "; senet.optimize(..., dynamic_size=True) makes one for any size, where the network allows it"
        raise InputError(
            f"this inference form was made for tensors {what or 'of '}shape ({words}), not {tuple(x.shape)}"
            f"{'' if any(isinstance(side, str) for side in sides[1:]) else more}"
        )


def _check_conditions(conditions: Sequence[tuple[str, Any]], sizes: Mapping[str, Any]) -> None:
    for words, condition in conditions:
        if not _value(condition, sizes):
            given = ", ".join([f"{name} {size}" for name, size in sizes.items()])
            raise InputError(
                f"this inference form is right where {words}, and was given {given}: the network tests its sizes and "
                f"does something else there; use the network itself, or make a form from such an example"
            )
