"""Squeeze and excitation in one call in eager PyTorch.

For few images, calling the eight operations from a map to its gates takes longer than computing
them. Compilers and converters see the separate operations.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from senet.activations import ACTIVATIONS
from senet.fused.passes.inference import FEW, Excitation, excite, squeeze
from senet.inference.eager.conditions import computed_now
from senet.inference.graph import Network, value_of

__all__ = ["fuse_gates", "gates", "rectified_gates"]

_aten = torch.ops.aten
_ACTIVATIONS = {getattr(_aten, each.op).default: each.native for each in ACTIVATIONS if each.native}
_FUNCTIONS = {number: function for function, number in _ACTIVATIONS.items()}


def gates(
    threads: int,
    h: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    inner: int,
    weight2: Tensor,
    bias2: Tensor | None,
    outer: int,
    ones: int = 0,
) -> Tensor:
    """outer(weight2 · inner(weight1 · mean(h) + bias1) + bias2): equations 2 and 3 of the paper.

    Args:
        threads: the threads for compiled functions; with 0 PyTorch's operations do the work.
        h: (N, C, *space), or its means (N, C).
        weight1: (K, C).
        bias1: (K,).
        inner: the number of the first activation.
        weight2: (C', K).
        bias2: (C',).
        outer: the number of the gate's activation.
        ones: the number of trailing dimensions of 1.

    Returns:
        (N, C', 1, ...).
    """
    excitation = (weight1, bias1, inner, weight2, bias2, outer, ones)
    # PyTorch's average of many maps in float32 is as fast.
    pays = threads and (h.shape[0] <= FEW or h.dtype is torch.bfloat16)
    gate = _compiled(threads, h, False, excitation) if pays else None
    if gate is not None:
        return gate
    return _excited(h.mean(list(range(2, h.dim()))) if h.dim() > 2 else h, *excitation)


def rectified_gates(threads: int, u: Tensor, *excitation: Any) -> tuple[Tensor, Tensor, bool]:
    """The gates of max(u, 0), and the map that they are to rescale. `u` may be overwritten.

    A compiled function rectifies what it reads, so `u` need not be rectified before it is rescaled.

    Args:
        threads: as `gates`.
        u: (N, C, *space).
        *excitation: the arguments of `gates` after `h`.

    Returns:
        The map, its gates, and whether the map is still `u`, not max(u, 0).
    """
    gate = _compiled(threads, u, True, excitation) if threads else None
    if gate is not None:
        return u, gate, True
    h = u.relu_() if computed_now(u) else torch.relu(u)
    return h, gates(threads, h, *excitation), False


def _compiled(threads: int, h: Tensor, relu: bool, excitation: Excitation) -> Tensor | None:
    """The gates by compiled functions, of max(h, 0) with `relu`; None if they do not take these tensors."""
    gate = excite(threads, h, relu, excitation)
    # PyTorch's average of a large map in bfloat16 takes up to 40 times as long.
    if gate is None and (h.shape[0] > FEW or h.dtype is torch.bfloat16) and excitation[0].dtype is h.dtype:
        pooled = squeeze(threads, h, relu)
        gate = None if pooled is None else _excited(pooled.to(h.dtype), *excitation)
    return gate


def _excited(
    pooled: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    inner: int,
    weight2: Tensor,
    bias2: Tensor | None,
    outer: int,
    ones: int,
) -> Tensor:
    hidden = _activated(_linear(pooled, weight1, bias1), inner)
    gate = _activated(_linear(hidden, weight2, bias2), outer)
    return gate.reshape(-1, gate.shape[1], *[1] * ones) if ones else gate


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    compiling = torch.compiler.is_compiling() and not torch.compiler.is_exporting()
    if not compiling or type(x.shape[0]) is not int or x.shape[0] != 1:
        return F.linear(x, weight, bias)
    y = (weight * x).sum(1)  # a compiler fuses this with its surroundings, but not a matrix product
    return (y if bias is None else y + bias)[None]


def _activated(x: Tensor, number: int) -> Tensor:
    return _FUNCTIONS[number](x) if number else x  # type: ignore[no-any-return]


def fuse_gates(network: Network, result: fx.Node) -> fx.Node | None:
    """Fuse the squeeze, two linear layers and activations that lead to `result`; None if these do not."""
    node: fx.Node | None = result
    outer, shape = 0, []
    if result.target is _aten.reshape.default:
        node, shape = _made_for_it(result), list(result.args[1])  # type: ignore[arg-type]
    if node is not None and node.target in _ACTIVATIONS:
        outer, node = _ACTIVATIONS[node.target], _made_for_it(node)  # type: ignore[index]
    middle = _made_for_it(node, _aten.linear.default)
    first = _made_for_it(middle, *_ACTIVATIONS)
    if node is None or middle is None or first is None or first.target is not _aten.linear.default:
        return None
    weight = network.constant(node.args[1])
    if weight is None or (shape and shape != [-1, len(weight), *[1] * (len(shape) - 2)]):
        return None
    source: Any = first.args[0]
    mean = _made_for_it(first)
    if mean is not None and mean.target is _aten.mean.dim and _is_of_space(mean):
        source = mean.args[0]
    inner = _ACTIVATIONS[middle.target]  # type: ignore[index]
    words = (0, source, *_weight_and_bias(first), inner, *_weight_and_bias(node), outer, max(0, len(shape) - 2))
    with network.graph.inserting_before(result):
        joined = network.graph.call_function(gates, words)
    result.replace_all_uses_with(joined)
    network.drop(result)
    return joined


def _made_for_it(node: fx.Node | None, *targets: Any) -> fx.Node | None:
    """The node of the first argument of a node with that target, if it has no other user."""
    if node is None or (targets and node.target not in targets) or not node.args:
        return None
    made = node.args[0]
    alone = isinstance(made, fx.Node) and made.op == "call_function" and len(made.users) == 1 and not made.kwargs
    return made if alone else None  # type: ignore[return-value]


def _is_of_space(mean: fx.Node) -> bool:
    """Whether the node averages over all dimensions after the channels, and removes them."""
    source, space, *keep = mean.args
    fake: Tensor = value_of(source)  # type: ignore[arg-type]
    return not any(keep) and fake.dim() > 2 and set(space) == set(range(2, fake.dim()))  # type: ignore[arg-type]


def _weight_and_bias(linear: fx.Node) -> tuple[Any, Any]:
    return linear.args[1], linear.args[2] if len(linear.args) > 2 else None
