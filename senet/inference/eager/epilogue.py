"""Scale, addition and activation in one pass over a fresh tensor in eager PyTorch.

Compilers and converters see the plain formula and fuse it themselves. In eager mode the result
overwrites the layer's output, because allocating a large new tensor costs more than the arithmetic.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from senet.activations import ACTIVATIONS
from senet.fused.passes import inference as compiled
from senet.fused.passes.inference import AFTER, BEFORE, NOT
from senet.inference.algebra import window_means
from senet.inference.eager.conditions import computed_now
from senet.inference.eager.gate import gates, rectified_gates
from senet.inference.graph import Network, alike, value_of

__all__ = [
    "excited",
    "excited_relu",
    "fuse_epilogues",
    "plus",
    "rescale",
    "rescale_add",
    "rescale_add_relu",
    "rescale_rectified",
    "rescale_relu",
]

_aten = torch.ops.aten


def rescale(u: Tensor, gate: Tensor) -> Tensor:
    """U * gate. `u` may be overwritten. Shapes: (N, C, *space), (N, C, 1, ...) -> (N, C, *space)."""
    return _rescaled(0, u, gate, None, NOT)


def rescale_relu(threads: int, u: Tensor, gate: Tensor) -> Tensor:
    """max(u * gate, 0). As `rescale`.

    Compiled functions may use `threads` threads; with 0 PyTorch's operations do the work.
    """
    return _rescaled(threads, u, gate, None, AFTER)


def rescale_rectified(threads: int, given: tuple[Tensor, Tensor, bool]) -> Tensor:
    """max(u, 0) * gate for a result of `rectified_gates`. As `rescale_relu`."""
    u, gate, left = given
    return _rescaled(threads, u, gate, None, BEFORE if left else NOT)


def rescale_add(threads: int, u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """U * gate + x. As `rescale_relu`; `x` has the shape of `u`."""
    return _rescaled(threads, u, gate, x, NOT)


def rescale_add_relu(threads: int, u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """max(u * gate + x, 0). As `rescale_add`."""
    return _rescaled(threads, u, gate, x, AFTER)


def excited(threads: int, u: Tensor, x: Tensor | None, relu: int, h: Tensor, *excitation: Any) -> Tensor:
    """U * gates + x with the gates of `gates`, rectified as `relu` says. `u` may be overwritten.

    Args:
        threads: as `gates`.
        u: (N, C, *space).
        x: of the shape of `u`; None adds nothing.
        relu: `NOT`; `BEFORE`, and then `h` is `u`, and max(u, 0) takes the place of both; or `AFTER`, which only
            `excited_relu` gives, since autograd may keep its result.
        h: as `gates`.
        *excitation: the arguments of `gates` after `h`.
    """
    if threads and compiled.excite_and_rescale(threads, h, excitation, u, x, relu):  # type: ignore[arg-type]
        return u
    if relu == BEFORE:
        return rescale_rectified(threads, rectified_gates(threads, u, *excitation))
    return _rescaled(threads, u, gates(threads, h, *excitation), x, relu)


def excited_relu(threads: int, u: Tensor, x: Tensor | None, h: Tensor, *excitation: Any) -> Tensor:
    """max(u * gates + x, 0). As `excited`."""
    return excited(threads, u, x, AFTER, h, *excitation)


def _rescaled(threads: int, u: Tensor, gate: Tensor, x: Tensor | None, relu: int) -> Tensor:
    if threads and compiled.rescale(threads, u, gate, x, relu):
        return u
    others = (gate,) if x is None else (gate, x)
    if not (computed_now(u, *others) and all(other.dtype == u.dtype for other in others)):
        u = (torch.relu(u) if relu == BEFORE else u) * gate
        u = u if x is None else u + x
        return torch.relu(u) if relu == AFTER else u
    u = u.relu_() if relu == BEFORE else u
    u = u.mul_(gate) if x is None else torch.addcmul(x, u, gate, out=u)
    return u.relu_() if relu == AFTER else u


def plus(u: Tensor, x: Tensor | float) -> Tensor:
    """U + x. `u` is overwritten if the sum has its dtype: under autocast, x may have a wider one."""
    return u.add_(x) if getattr(x, "dtype", u.dtype) == u.dtype else u + x


_ACTIVATIONS = {
    getattr(_aten, each.op).default: getattr(_aten, f"{each.op}_").default for each in ACTIVATIONS if each.overwrites
}
_IN_PLACE: dict[Any, Any] = {_aten.add.Tensor: plus, **_ACTIVATIONS}
_FRESH = (
    _aten.conv1d.default,
    _aten.conv2d.default,
    _aten.conv3d.default,
    _aten.conv1d.padding,
    _aten.conv2d.padding,
    _aten.conv3d.padding,
    _aten.linear.default,
    _aten.add.Tensor,
    _aten.mul.Tensor,
    plus,
    rescale,
    rescale_add,
    excited,
)
# Fresh too, but autograd may keep them for the backward pass, so only `rescale` may overwrite them, which asks first.
_ACTIVATED = (*_ACTIVATIONS, *_ACTIVATIONS.values(), rescale_relu, rescale_add_relu, excited_relu)
_NORMALISATION = _aten._native_batch_norm_legit_no_training.default  # stays in half precision; its first result is new
_READERS = (gates, window_means, _aten.mean.dim, excited, excited_relu)  # their results are tensors of their own


def fuse_epilogues(network: Network, products: list[fx.Node]) -> list[fx.Node]:
    """Fuse each product of SE with the following addition and ReLU, and make elementwise nodes overwrite operands.

    Returns:
        The nodes that take the number of threads.
    """
    fused = [node for node in (_fuse(network, product) for product in products) if node is not None]
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target in _IN_PLACE:
            _overwrite(node)
    return [node for node in fused if node.target is not rescale]


def _fuse(network: Network, product: fx.Node) -> fx.Node | None:
    a, b = product.args
    u, gate = (a, b) if _is_fresh(a, product, _FRESH + _ACTIVATED) else (b, a)
    if not _is_fresh(u, product, _FRESH + _ACTIVATED) or not isinstance(u, fx.Node) or not isinstance(gate, fx.Node):
        return None
    last, x, relu = product, None, NOT
    following = _only_user(product)
    if following is not None and following.target is _aten.add.Tensor and not following.kwargs:
        other: Any = following.args[1] if following.args[0] is product else following.args[0]
        fits = isinstance(other, fx.Node) and other is not product
        if fits and alike(other, following) and alike(product, following):
            last, x = following, other
            following = _only_user(following)
    if following is not None and following.target is _aten.relu.default:
        last, relu = following, AFTER
    elif x is None and _is_rectified_for(u, gate, product):
        u, relu = u.args[0], BEFORE  # type: ignore[assignment]
    function: Any
    given: tuple[Any, ...]
    # The gates' map may be read later: it is u, or the input of a layer in between, which nothing overwrites.
    if gate.target is gates and set(gate.users) == {product}:
        h = u if relu == BEFORE else gate.args[1]
        function, given = (excited_relu, (0, u, x, h)) if relu == AFTER else (excited, (0, u, x, relu, h))
        given = (*given, *gate.args[2:])
    elif x is not None:
        function, given = (rescale_add_relu if relu else rescale_add), (0, u, gate, x)
    else:
        function, given = (rescale_relu, (0, u, gate)) if relu else (rescale, (u, gate))
    with network.graph.inserting_before(last):
        fused = network.graph.call_function(function, given)
    fused.meta["val"] = value_of(last)
    last.replace_all_uses_with(fused)
    network.drop(last)
    return fused


def _is_rectified_for(u: fx.Node, gate: fx.Node, product: fx.Node) -> bool:
    """Whether the map u is a ReLU's result of a tensor that may be overwritten, and only gate and product read u."""
    if u.target is not _aten.relu.default or gate.target is not gates or gate.args[1] is not u:
        return False
    return set(u.users) == {gate, product} and set(gate.users) == {product} and _is_fresh(u.args[0], u)


def _overwrite(node: fx.Node) -> None:
    if node.target is _aten.add.Tensor:
        if node.kwargs:
            return
        a, b = node.args
        if not _is_fresh(a, node) and _is_fresh(b, node):
            node.args = (b, a)
    if _is_fresh(node.args[0], node):
        node.target = _IN_PLACE[node.target]


def _is_fresh(given: Any, user: fx.Node, targets: tuple[Any, ...] = _FRESH) -> bool:
    """Whether `user` may overwrite its operand: a new tensor like its result, whose other readers run before."""
    if not isinstance(given, fx.Node) or given.op != "call_function" or user not in given.users:
        return False
    if not alike(given, user):
        return False
    if not all(other is user or (other.target in _READERS and other < user) for other in given.users):
        return False
    if given.target is operator.getitem:
        return given.args[1:] == (0,) and getattr(given.args[0], "target", None) is _NORMALISATION
    return given.target in targets


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
