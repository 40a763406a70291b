"""Compute constants once, and fold normalisations, scales and shifts into the preceding layer."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor, fx

from senet.inference.graph import Network, alike
from senet.inference.layers import Affine, Layer, as_affine, as_layer, bias_name

__all__ = ["HALF", "applied", "fits", "fold_affine", "fold_constants", "fold_into"]

HALF = (torch.float16, torch.bfloat16)
_aten = torch.ops.aten
_GROWTH = 1 << 20  # elements up to which a constant may be larger than its sources


@torch.no_grad()
def fold_constants(network: Network) -> int:
    """Compute nodes that depend only on constants: standardised weights, parametrisations, casts; return the number."""
    known: dict[fx.Node, Any] = {}
    for node in network.graph.nodes:
        if node.op == "get_attr":
            if node.target not in network.written:
                known[node] = network.constants[node.target]
        elif node.op == "call_function" and node.all_input_nodes and all(n in known for n in node.all_input_nodes):
            if not _is_deterministic(node.target):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            value = node.target(*args, **kwargs)
            most = max((known[n].numel() for n in node.all_input_nodes if isinstance(known[n], Tensor)), default=0)
            if not isinstance(value, Tensor) or value.numel() <= max(most, _GROWTH):
                known[node] = value
    count = 0
    for node in [n for n in known if n.op != "get_attr" and isinstance(known[n], Tensor)]:
        if all(user in known and isinstance(known[user], Tensor) for user in node.users):
            continue  # only constants are made from it
        with network.graph.inserting_before(node):
            constant = network.add(f"constant.{node.name}", known[node].clone())
        node.replace_all_uses_with(constant, delete_user_cb=lambda user: user not in known)
        count += 1
    network.graph.eliminate_dead_code()
    return count


def _is_deterministic(target: Any) -> bool:
    if target is operator.getitem:
        return True
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded not in target.tags


@torch.no_grad()
def fold_affine(network: Network) -> int:
    """Fold scales and shifts of the channels of a convolution's or linear layer's output into its weights.

    These are batch normalisation in eval mode, frozen batch normalisation, layer scale, and other
    constant factors and addends. They are computed in float64. In half precision they are folded
    only if the folded weights need no rounding. Returns the number folded.
    """
    count = 0
    for node in list(network.graph.nodes):
        layer = as_layer(network, node)
        while layer is not None and (affine := _only_user(network, layer)) is not None:
            if not fits(layer, affine.scale, affine.shift):
                break
            fold_into(network, layer, affine.scale, affine.shift)
            affine.node.replace_all_uses_with(node)
            network.drop(affine.node)
            layer = as_layer(network, node)
            count += 1
    network.graph.eliminate_dead_code()
    return count


def _only_user(network: Network, layer: Layer) -> Affine | None:
    if len(layer.node.users) != 1:
        return None
    user = next(iter(layer.node.users))
    affine = as_affine(network, user, layer.node, layer.channel)
    return affine if affine is not None and alike(layer.node, affine.node) else None


def applied(layer: Layer, scale: Tensor | None, shift: Tensor | None) -> Layer:
    """The layer with its output channels scaled and then shifted, with weights in float64."""
    weight, bias = layer.weight.double(), None if layer.bias is None else layer.bias.double()
    if scale is not None:
        scale = scale.expand(len(weight))
        weight = weight * scale.view(-1, *(1,) * (weight.dim() - 1))
        bias = None if bias is None else bias * scale
    if shift is not None:
        bias = shift.expand(len(weight)) if bias is None else bias + shift
    return dataclasses.replace(layer, weight=weight, bias=bias)


# Rounding errors of a normalisation's own pass differ between positions and average out. A rounded
# weight has the same error everywhere: in 16 bits, networks were then 1.13 times as far from
# float64 (RMS, ResNets of 6 units).
def fits(layer: Layer, scale: Tensor | None, shift: Tensor | None) -> bool:
    """Whether the layer's dtype can hold the weights of `applied`, in half precision exactly."""
    dtype = layer.weight.dtype
    if dtype not in HALF:
        return True
    new = applied(layer, scale, shift)
    return all(x is None or torch.equal(x.to(dtype).double(), x) for x in (new.weight, new.bias))


def fold_into(network: Network, layer: Layer, scale: Tensor | None, shift: Tensor | None) -> None:
    """Give the layer's node the weights of `applied`, in the original dtype."""
    new, node, dtype = applied(layer, scale, shift), layer.node, layer.weight.dtype
    name = str(node.args[1].target)  # type: ignore[union-attr]
    arguments = [*node.args, *[None] * (3 - len(node.args))]
    with network.graph.inserting_before(node):
        if scale is not None:
            arguments[1] = network.add(name, new.weight.to(dtype))
        if new.bias is not None:
            arguments[2] = network.add(bias_name(name), new.bias.to(dtype).contiguous())
    node.args = tuple(arguments)
