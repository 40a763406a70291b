"""Hold an inference form against the network that it was made from, inside its shapes and around them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from senet.inference.capture import tensors_of
from senet.inference.shapes import Shapes, failing, resized
from senet.insertion import InsertionError, run, untouched

__all__ = [
    "LARGER",
    "ONE_POSITION",
    "TOLERANCE",
    "check",
    "needed_conditions",
    "relative_difference",
    "trials",
    "unfounded",
]

TOLERANCE = 1e-5  # of the largest output, in float32
LARGER, ONE_POSITION = "a larger size", "one position"
_SLACK = 1.25  # roundings fall otherwise in another order
_EPS = {dtype: torch.finfo(dtype).eps / 16 for dtype in (torch.float16, torch.bfloat16)}
_MORE = 32  # positions: what halves its maps five times can have so many more


def check(model: nn.Module, other: nn.Module, examples: Mapping[str, Any]) -> str:
    """Why `other` is not the same function as `model` on the examples; "" where it is.

    What the network refuses, `other` must refuse too. In half precision `other` must be as near to the network
    in float64 as `model` is.
    """
    exact = _in_double(model)
    for given in examples.values():
        difference = _difference(model, other, given, exact)
        if difference <= TOLERANCE:
            continue
        if difference < float("inf") and exact is None and _difference(model, model, given) > TOLERANCE:
            return "it does not compute the same twice, so nothing can be held against it"
        return f"its outputs would differ by {difference:.2g} of the largest, where {TOLERANCE:g} is allowed"
    return ""


def unfounded(
    model: nn.Module, other: nn.Module, example: Any, shapes: Shapes, assumed: tuple[str, ...]
) -> tuple[str, ...]:
    """Which of the conditions that PyTorch's operations took for granted `other` needs: outside it is another function.

    Those that fail at no size that can be tried are needed too.
    """
    exact = _in_double(model)
    return needed_conditions(
        example, shapes, assumed, lambda given: _difference(model, other, given, exact) <= TOLERANCE
    )


def needed_conditions(
    example: Any, shapes: Shapes, assumed: Sequence[str], agree: Callable[[Any], bool]
) -> tuple[str, ...]:
    """Those of the conditions on sizes outside of which two functions do not agree, or that nothing can be tried for.

    Args:
        example: what both functions take.
        shapes: what the example may be resized to.
        assumed: the conditions.
        agree: whether the two agree on a resized example; asked once for each size.
    """
    outside, _ = failing(shapes, assumed, shapes.sizes(tensors_of(example)))
    known: dict[tuple[int, ...], bool] = {}
    needed = []
    for condition, tried in outside.items():
        for sizes in tried:
            key = tuple(sizes.values())
            if key not in known:
                known[key] = agree(resized(example, shapes, sizes))
        if not tried or not all(known[tuple(sizes.values())] for sizes in tried):
            needed.append(condition)
    return tuple(needed)


def trials(example: Any, shapes: Shapes, *, more: int = 1) -> dict[str, Any]:
    """The example and others of its kind that `shapes` allow, by what is special about each.

    Args:
        example: what the network takes.
        shapes: what may be given.
        more: samples that another batch has more.
    """
    sizes = shapes.sizes(tensors_of(example))
    batch = {name: size for name, size in sizes.items() if name not in shapes.space}
    space = {name: sizes[name] for name in shapes.space}
    last = shapes.space[-1:]
    count = next(iter(batch.values()), tensors_of(example)[0].shape[0] if tensors_of(example) else 1)
    found: dict[str, dict[str, int]] = {f"batch {count}": {}}
    if batch:
        found[f"batch {count + more}"] = {name: size + more for name, size in batch.items()}
        found.setdefault("batch 1", dict.fromkeys(batch, 1))
    if space:
        found[LARGER] = {name: size + _MORE * (2 if name in last else 1) for name, size in space.items()}
        found["odd sizes"] = {name: (size + (7 if name in last else 5)) | 1 for name, size in space.items()}
        found[ONE_POSITION] = dict.fromkeys(space, 1)
    return {
        name: resized(example, shapes, {**sizes, **changed}) if changed else example
        for name, changed in found.items()
        if shapes.allow({**sizes, **changed})
    }


def _in_double(model: nn.Module) -> nn.Module | None:
    """A copy in float64 of a network in half precision; None for another."""
    if not any(tensor.dtype in _EPS for tensor in (*model.parameters(), *model.buffers())):
        return None
    return copy.deepcopy(model).double()


def _difference(model: nn.Module, other: nn.Module, given: Any, exact: nn.Module | None = None) -> float:
    """Between the outputs of two networks; 0 where both refuse what is given, infinity where one does.

    With `exact`: how much further `other` is from it than `model` is.
    """
    with untouched(model):
        expected, found = _output(model, given), _output(other, given)
        if expected is None or found is None:
            return 0.0 if expected is found else float("inf")
        if exact is None:
            return relative_difference(expected[0], found[0])
        doubled = tree_map(lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, given)
        truth = _output(exact, doubled)
    return float("inf") if truth is None else _further(truth[0], expected[0], found[0])


def _further(truth: Any, plain: Any, given: Any) -> float:
    """How much further from the truth what is given is than the plain outputs, as a share of the largest."""
    (true, structure), (ours, our), (theirs, their) = tree_flatten(truth), tree_flatten(plain), tree_flatten(given)
    if not structure == our == their:
        return float("inf")
    worst = 0.0
    for exact, a, b in zip(true, ours, theirs, strict=True):
        if not isinstance(a, Tensor) or not a.is_floating_point():
            worst = max(worst, relative_difference(a, b))
            continue
        if not isinstance(b, Tensor) or a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        largest = float(exact.abs().max()) if exact.numel() else 0.0
        if largest > 0:
            of_plain, of_given = (float((x.double() - exact).square().mean().sqrt()) / largest for x in (a, b))
            more = of_given - _SLACK * of_plain - _EPS.get(a.dtype, 0.0)
            worst = max(worst, more if more == more else float("inf"))
    return worst


def _output(model: nn.Module, given: Any) -> tuple[Any] | None:
    try:
        return (run(model, given),)
    except InsertionError:
        return None


def relative_difference(expected: Any, given: Any) -> float:
    """The largest difference over the largest output, over all tensors; infinity where they differ in kind."""
    ours, structure = tree_flatten(expected)
    theirs, other = tree_flatten(given)
    if structure != other:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
            if type(a) is not type(b) or (a != b and a == a):
                return float("inf")
            continue
        a, b = a.detach(), b.detach()
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.numel() == 0 or torch.equal(a, b):
            continue
        gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0, (a.double() - b.double()).abs())
        largest = a.double().abs().nan_to_num(0.0, posinf=0.0).max()
        worst = max(
            worst, float((gap / largest.clamp(min=torch.finfo(torch.float32).tiny)).nan_to_num(float("inf")).max())
        )
    return worst
