"""Scale, addition and activation in one pass over a fresh tensor, where PyTorch runs operation by operation.

A compiler or a converter that looks inside sees the plain formula and fuses it in its own way. Run as it is, the
result goes where the layer's output lay: a large new tensor costs the operating system more than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from senet.fast.graph import Network, value_of
from senet.fast.passes import NativePasses, compute_dtype, layout, passes_for

__all__ = ["fuse_epilogues", "rescale", "rescale_add", "rescale_add_relu"]

_aten = torch.ops.aten
_LARGE = 1 << 22  # elements, above which a joint pass saves more than calling it takes


def rescale(u: Tensor, gate: Tensor) -> Tensor:
    """U * gate. `u` may be overwritten. Shapes: (N, C, *space), (N, C, 1, ...) -> (N, C, *space)."""
    return u.mul_(gate) if _may_overwrite(u, gate) else u * gate


def rescale_add(u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """U * gate + x. `u` may be overwritten. Shapes: as `rescale`; `x` that of `u`."""
    if _may_overwrite(u, gate, x):
        return torch.addcmul(x, u, gate, out=u)
    return u * gate + x


def rescale_add_relu(u: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """max(u * gate + x, 0). `u` may be overwritten. Shapes: as `rescale_add`."""
    if _may_overwrite(u, gate, x):
        passes = _native(u, gate, x)
        if passes is not None:
            zero = gate.new_zeros((), dtype=compute_dtype(u))
            return passes.affine(u, zero, gate.flatten(1).to(zero.dtype), zero, x, relu=True, out=u)
        return torch.addcmul(x, u, gate, out=u).relu_()
    return torch.relu(u * gate + x)


def _native(u: Tensor, gate: Tensor, x: Tensor) -> NativePasses | None:
    """The compiled passes, which scale, add and rectify in one, where the tensors lie as they take them."""
    if type(u) is not Tensor or u.numel() < _LARGE or u.device.type != "cpu" or u.dim() < 3:
        return None
    lies = layout(u) if u.dtype in (torch.float32, torch.bfloat16) else ""
    if not lies or layout(x) != lies or gate.shape[:2] != u.shape[:2] or gate.numel() != u.shape[0] * u.shape[1]:
        return None
    passes = passes_for(u)
    return passes if isinstance(passes, NativePasses) else None


def _may_overwrite(u: Tensor, *others: Tensor) -> bool:
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return False
    if torch.is_grad_enabled() and (u.requires_grad or any(other.requires_grad for other in others)):
        return False
    return all(other.dtype == u.dtype for other in others)


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
    rescale,
    rescale_add,
    rescale_add_relu,
)
_IN_PLACE = {
    _aten.relu.default: _aten.relu_.default,
    _aten.silu.default: _aten.silu_.default,
    _aten.hardswish.default: _aten.hardswish_.default,
    _aten.hardtanh.default: _aten.hardtanh_.default,
    _aten.leaky_relu.default: _aten.leaky_relu_.default,
    _aten.add.Tensor: _aten.add_.Tensor,
}


def fuse_epilogues(network: Network, products: list[fx.Node]) -> None:
    """Join each product of SE with the addition and ReLU behind it; write element-wise results over their operands."""
    for product in products:
        _fuse(network, product)
    for node in list(network.graph.nodes):
        if node.op == "call_function" and node.target in _IN_PLACE:
            _overwrite(node)


def _fuse(network: Network, product: fx.Node) -> None:
    a, b = product.args
    u, gate = (a, b) if _is_fresh(a, product) else (b, a)
    if not _is_fresh(u, product) or not isinstance(gate, fx.Node):
        return
    function: Any = rescale
    last, given = product, [u, gate]
    addition = _only_user(product)
    if addition is not None and addition.target is _aten.add.Tensor and not addition.kwargs:
        x = addition.args[1] if addition.args[0] is product else addition.args[0]
        if isinstance(x, fx.Node) and x is not product and _like(x, addition) and _like(product, addition):
            function, last, given = rescale_add, addition, [u, gate, x]
            activation = _only_user(addition)
            if activation is not None and activation.target is _aten.relu.default:
                function, last = rescale_add_relu, activation
    with network.graph.inserting_before(last):
        fused = network.graph.call_function(function, tuple(given))
    fused.meta["val"] = value_of(last)
    last.replace_all_uses_with(fused)
    network.drop(last)


def _overwrite(node: fx.Node) -> None:
    if node.target is _aten.add.Tensor:
        if node.kwargs:
            return
        a, b = node.args
        if not _is_fresh(a, node) and _is_fresh(b, node):
            a, b = b, a
            if _is_fresh(a, node) and _like(a, node):
                node.args = (a, b)
    else:
        a = node.args[0]
    if _is_fresh(a, node) and _like(a, node):
        node.target = _IN_PLACE[node.target]  # type: ignore[index]


def _is_fresh(given: Any, user: fx.Node) -> bool:
    """Whether a new tensor was made for `user` alone."""
    if not isinstance(given, fx.Node) or given.op != "call_function" or set(given.users) != {user}:
        return False
    return given.target in _FRESH or (given.target in _IN_PLACE.values() or given.target in _IN_PLACE)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _like(a: Any, b: fx.Node) -> bool:
    """Whether both are known to have one shape and dtype."""
    ours, theirs = value_of(a), value_of(b)
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return False
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape
