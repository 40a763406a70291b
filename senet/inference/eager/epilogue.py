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
from senet.inference.algebra import window_means
from senet.inference.eager.conditions import computed_now
from senet.inference.eager.gate import gates, rectified_gates
from senet.inference.graph import Network, alike, value_of

__all__ = ["fuse_epilogues", "plus", "rescale", "rescale_add", "rescale_add_relu", "rescale_rectified", "rescale_relu"]

_aten = torch.ops.aten


def rescale(u: Tensor, gate: Tensor) -> Tensor:
    """U * gate. `u` may be overwritten. Shapes: (N, C, *space), (N, C, 1, ...) -> (N, C, *space)."""
    return u.mul_(gate) if _may_overwrite(u, gate) else u * gate


def rescale_relu(threads: int, u: Tensor, gate: Tensor) -> Tensor:
    """max(u * gate, 0). As `rescale`.

    Compiled functions may use `threads` threads; with 0 PyTorch's operations do the work.
    """
    if threads and compiled.rescale(threads, u, gate, None, compiled.AFTER):
        return u
    return u.mul_(gate).relu_() if _may_overwrite(u, gate) else torch.relu(u * gate)


def rescale_rectified(threads: int, given: tuple[Tensor, Tensor, bool]) -> Tensor:
    """max(u, 0) * gate for a result of `rectified_gates`. As `rescale_relu`."""
    u, gate, left = given
    if not left:
        return rescale(u, gate)
    return u if compiled.rescale(threads, u, gate, None, compiled.BEFORE) else u.relu_().mul_(gate)


def rescale_add(threads: int, u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """U * gate + x. As `rescale_relu`; `x` has the shape of `u`."""
    if threads and compiled.rescale(threads, u, gate, x, compiled.NOT):
        return u
    return torch.addcmul(x, u, gate, out=u) if _may_overwrite(u, gate, x) else u * gate + x


def rescale_add_relu(threads: int, u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """max(u * gate + x, 0). As `rescale_add`."""
    if threads and compiled.rescale(threads, u, gate, x, compiled.AFTER):
        return u
    return torch.addcmul(x, u, gate, out=u).relu_() if _may_overwrite(u, gate, x) else torch.relu(u * gate + x)


def plus(u: Tensor, x: Tensor | float) -> Tensor:
    """U + x. `u` is overwritten if the sum has its dtype: under autocast, x may have a wider one."""
    return u.add_(x) if getattr(x, "dtype", u.dtype) == u.dtype else u + x


def _may_overwrite(u: Tensor, *others: Tensor) -> bool:
    return computed_now(u, *others) and all(other.dtype == u.dtype for other in others)


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
    rescale_rectified,
    rescale_add,
)
# Fresh too, but autograd may keep them for the backward pass, so only `rescale` may overwrite them, which asks first.
_ACTIVATED = (*_ACTIVATIONS, *_ACTIVATIONS.values(), rescale_relu, rescale_add_relu)
_NORMALISATION = _aten._native_batch_norm_legit_no_training.default  # stays in half precision; its first result is new
_READERS = (gates, window_means, _aten.mean.dim)  # their results are new tensors


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
    function: Any = rescale
    last = product
    given: list[Any] = [u, gate]
    following = _only_user(product)
    if following is not None and following.target is _aten.add.Tensor and not following.kwargs:
        x = following.args[1] if following.args[0] is product else following.args[0]
        if isinstance(x, fx.Node) and x is not product and alike(x, following) and alike(product, following):
            function, last, given = rescale_add, following, [0, u, gate, x]
            following = _only_user(following)
    if following is not None and following.target is _aten.relu.default:
        function, last, given = (rescale_add_relu if len(given) > 2 else rescale_relu), following, [0, *given[-3:]]
    elif function is rescale and _defer_relu(u, gate, product):
        function, given = rescale_rectified, [0, gate]
    with network.graph.inserting_before(last):
        fused = network.graph.call_function(function, tuple(given))
    fused.meta["val"] = value_of(last)
    last.replace_all_uses_with(fused)
    network.drop(last)
    return fused


def _defer_relu(u: fx.Node, gate: fx.Node, product: fx.Node) -> bool:
    """Let `gate` read the input of the ReLU that makes the map u, if it and the product are all that reads u."""
    if u.target is not _aten.relu.default or gate.target is not gates or gate.args[1] is not u:
        return False
    if set(u.users) != {gate, product} or set(gate.users) != {product} or not _is_fresh(u.args[0], u):
        return False
    gate.target, gate.args = rectified_gates, (0, u.args[0], *gate.args[2:])
    gate.meta.pop("val", None)  # it returns more now
    return True


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
