"""Rebuild the excitation on vectors: linear layers with activations, the first one optionally folded.

Libraries write it as 1×1 convolutions of a one-position map, or as linear layers between views.
Here it is (N, ·) from the squeeze to the gate with one view at the end, which costs every engine
less.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, fx

from senet.activations import ACTIVATIONS
from senet.inference.algebra import folded_fc
from senet.inference.find_se import Gate
from senet.inference.graph import Network, value_of
from senet.inference.layers import Layer, as_layer, bias_name

__all__ = ["Excitation", "at_least_single", "read_excitation", "write_excitation"]

_aten = torch.ops.aten
_VIEWS = (
    _aten.view.default,
    _aten.reshape.default,
    _aten.flatten.using_ints,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.unsqueeze.default,
    _aten.permute.default,
    _aten.transpose.int,
)
_UNARY = (*(getattr(_aten, each.op).default for each in ACTIVATIONS if each.unary), _aten._to_copy.default)


@dataclasses.dataclass(frozen=True, slots=True)
class Excitation:
    """The steps from the squeeze to the gate, each a layer or an elementwise node, and the old gate.

    Attributes:
        steps: the steps in order; the first is a layer.
        result: the node that the products multiply by.
        factor: the factor of the last step's result.
    """

    steps: tuple[Layer | fx.Node, ...]
    result: fx.Node
    factor: float = 1.0


def read_excitation(network: Network, gate: Gate) -> Excitation | None:
    """Read the excitation between squeeze and products; None if it consists of more than layers and activations."""
    node, factor = gate.average, 1.0
    steps: list[Layer | fx.Node] = []
    products = set(gate.products)
    while True:
        users = list(node.users)
        if set(users) <= products:
            break
        if len(users) != 1 or users[0] not in gate.between:
            return None
        (node,) = users
        if node.target in _VIEWS:
            if not _is_vector(node):
                return None
            continue
        scalar = _scalar(network, node)
        if scalar is not None and steps:
            if _only_views_follow(node, products):
                factor *= scalar
                continue
            steps.append(node)
            continue
        layer = as_layer(network, node)
        if layer is not None:
            vector = layer.groups == 1 and math.prod(layer.kernel) == 1 and _is_vector(layer.h) and _is_vector(node)
            if not vector or any(pair != (0, 0) for pair in layer.padding):
                return None
            steps.append(layer)
        elif node.target in _UNARY and steps and len(node.all_input_nodes) == 1:
            steps.append(node)
        else:
            return None
    if not steps or not _is_vector(node):
        return None
    return Excitation(tuple(steps), node, factor)


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The dtype, with float32 instead of half precision."""
    return torch.promote_types(dtype, torch.float32)


def _is_vector(node: fx.Node) -> bool:
    """Whether the value is (N, ·), up to dimensions of 1."""
    fake = value_of(node)
    return isinstance(fake, Tensor) and fake.dim() >= 2 and sum(side != 1 for side in fake.shape[1:]) <= 1


def _scalar(network: Network, node: fx.Node) -> float | None:
    if node.target is not _aten.mul.Tensor or len(node.args) != 2:
        return None
    for given in node.args:
        tensor = network.constant(given)
        if tensor is not None and tensor.numel() == 1:
            return float(tensor)
        if isinstance(given, int | float):
            return float(given)
    return None


def _only_views_follow(node: fx.Node, products: set[fx.Node]) -> bool:
    while not set(node.users) <= products:
        users = list(node.users)
        if len(users) != 1 or users[0].target not in _VIEWS:
            return False
        (node,) = users
    return True


def write_excitation(
    network: Network, excitation: Excitation, squeezed: fx.Node, *, before: Layer | None, scale: float, factor: float
) -> fx.Node:
    """Write the excitation on (N, ·) from `squeezed`, reshaped like the old one at the end.

    Args:
        network: the network, written to at the insert point.
        excitation: the excitation that was read.
        squeezed: the node of (N, C), or with `before` of the flattened `window_means` of that layer's input.
        before: the layer past which the squeeze was moved, to fold into the first one.
        scale: the factor by which the first layer's input grew, and by which its weight is divided.
        factor: the final factor of the gate.
    """
    graph, node = network.graph, squeezed
    for index, step in enumerate(excitation.steps):
        if isinstance(step, fx.Node):
            scalar = _scalar(network, step)
            if scalar is not None:  # a constant's own node may come later
                node = graph.call_function(_aten.mul.Tensor, (node, scalar))
                continue
            args = tuple(node if isinstance(a, fx.Node) and network.constant(a) is None else a for a in step.args)
            node = graph.call_function(step.target, args, dict(step.kwargs))  # type: ignore[arg-type]
            continue
        weight, bias = step.weight.flatten(1), step.bias
        name = str(step.node.args[1].target)  # type: ignore[union-attr]
        given = made = weight.dtype
        if index == 0 and (before is not None or scale != 1):
            made = given if before is None else at_least_single(given)
            folded, folded_bias = (weight.double(), bias) if before is None else folded_fc(before, weight, bias)
            weight = (folded / scale).to(made)
            bias = None if folded_bias is None else folded_bias.to(made)
        arguments = [node, network.add(name, weight.contiguous())]
        if bias is not None:
            arguments.append(network.add(bias_name(name), bias.contiguous()))
        node = graph.call_function(_aten.linear.default, tuple(arguments))
        if made != given:
            node = graph.call_function(_aten._to_copy.default, (node,), {"dtype": given})
    if factor != 1:
        node = graph.call_function(_aten.mul.Tensor, (node, factor))
    shape: list[Any] = [-1, *value_of(excitation.result).shape[1:]]
    return node if len(shape) == 2 else graph.call_function(_aten.reshape.default, (node, shape))
