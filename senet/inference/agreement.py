"""Hold an inference form against the network that it was made from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from senet.inference.graph import batch_size, repeated
from senet.insertion import run, untouched

__all__ = ["TOLERANCE", "another_batch", "another_size", "check", "relative_difference"]

TOLERANCE = 1e-5  # of the largest output, in float32
_MORE = 32  # positions: what halves its maps five times can have so many more


def check(model: nn.Module, other: nn.Module, examples: Sequence[Any]) -> str:
    """Why `other` is not the same function as `model` on the examples; "" where it is.

    Half precision is compared in float32, on copies: its own rounding is far above what is looked for.
    """
    halves = {torch.float16, torch.bfloat16}
    if any(tensor.dtype in halves for tensor in (*model.parameters(), *model.buffers())):
        model, other = copy.deepcopy(model).float(), copy.deepcopy(other).float()
        examples = [_in_float32(example) for example in examples]
    for given in examples:
        with untouched(model):
            expected = run(model, given)
            found = run(other, given)
            difference = relative_difference(expected, found)
            if difference <= TOLERANCE:
                continue
            itself = relative_difference(expected, run(model, given))
        if itself > TOLERANCE:
            return "it does not compute the same twice, so nothing can be held against it"
        return f"its outputs would differ by {difference:.2g} of the largest, where {TOLERANCE:g} is allowed"
    return ""


def relative_difference(expected: Any, given: Any) -> float:
    """The largest difference over the largest output, over all tensors; infinity where they differ in kind."""
    ours, structure = tree_flatten(expected)
    theirs, other = tree_flatten(given)
    if structure != other:
        return float("inf")
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor):
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


def _in_float32(example: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x, example)


def another_batch(example: Any) -> Any:
    """The example with one sample more, each fainter than the one before; itself where it has no batch."""
    size = batch_size(example)
    if size is None:
        return example

    def fainter(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2 or len(x) != size + 1:
            return x
        weights = torch.linspace(1, 0.5, len(x), device=x.device, dtype=x.dtype)
        return x * weights.view(-1, *(1,) * (x.dim() - 1))

    return tree_map(fainter, repeated(example, size + 1))


def another_size(example: Any) -> Any:
    """The example larger in space: its rows and columns go on from the start, for 32 more, and 64 in the last."""

    def larger(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        for dim in range(2, x.dim()):
            size = x.shape[dim] + _MORE * (2 if dim == x.dim() - 1 else 1)
            x = x.index_select(dim, torch.arange(size, device=x.device) % x.shape[dim])
        return x

    return tree_map(larger, example)
