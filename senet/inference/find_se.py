"""Find SE in a graph: a spatial average, the operations on it alone, and the map that they rescale.

Blocks are found by their operations, from any library: ours, timm's, torchvision's, and those in users' networks.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, fx

from senet.inference.graph import Network, alike, expect, value_of
from senet.inference.layers import Affine, Layer, as_affine, as_layer, bind

__all__ = ["Gate", "Maximum", "Source", "find_gates", "source_of", "space_of_average"]

_aten = torch.ops.aten
_LIMIT = 48  # the most operations between the average and the product; SE has at most a dozen
_AVERAGES = {
    _aten.adaptive_avg_pool1d.default: 1,
    _aten.adaptive_avg_pool2d.default: 2,
    _aten.adaptive_avg_pool3d.default: 3,
}
_MAXIMA = (
    _aten.amax.default,
    _aten.max.dim,
    _aten.adaptive_max_pool1d.default,
    _aten.adaptive_max_pool2d.default,
    _aten.adaptive_max_pool3d.default,
)
_PERMUTATIONS = (_aten.permute.default, _aten.transpose.int)


@dataclasses.dataclass(frozen=True, slots=True)
class Gate:
    """One SE block.

    Attributes:
        average: the squeeze of `averaged`.
        averaged: the node of the squeezed map.
        channel: the map's channel dimension.
        between: the nodes computed from the average alone, in graph order.
        products: the nodes that multiply the map, or a permutation of it, by the result.
    """

    average: fx.Node
    averaged: fx.Node
    channel: int
    between: tuple[fx.Node, ...]
    products: tuple[fx.Node, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Maximum:
    """An SE-like block with a maximum in its squeeze, which is not linear."""

    squeeze: fx.Node
    products: tuple[fx.Node, ...]


def find_gates(network: Network) -> tuple[list[Gate], list[Maximum]]:
    """Every SE block in graph order, including those whose squeeze is not linear."""
    gates, maxima = [], []
    for node in network.graph.nodes:
        if node.op != "call_function":
            continue
        space = space_of_average(node)
        if space is None and node.target not in _MAXIMA:
            continue
        averaged = node.args[0]
        assert isinstance(averaged, fx.Node)
        found = _between(network, node, averaged)
        if found is None:
            continue
        between, products = found
        shape = value_of(averaged).shape
        if space is None:
            if not any(isinstance(user.target, torch._ops.OpOverload) and user in products for user in node.users):
                maxima.append(Maximum(node, products))
            continue
        channels = [dim for dim in range(1, len(shape)) if dim not in space]
        if len(channels) == 1:
            gates.append(Gate(node, averaged, channels[0], between, products))
    return gates, maxima


def space_of_average(node: fx.Node) -> tuple[int, ...] | None:
    """The dimensions over which `node` averages a map (N, ...), all but two; None if it does not."""
    if not isinstance(value_of(node), Tensor) or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    fake = value_of(node.args[0])
    if not isinstance(fake, Tensor) or fake.dim() < 3:
        return None
    if node.target is _aten.mean.dim:
        dims = bind(node, "input", "dim")["dim"]
        space = tuple(sorted(dim % fake.dim() for dim in (dims or ())))
    elif node.target in _AVERAGES:
        size = bind(node, "input", "size")["size"]
        if any(side != 1 for side in ([size] if isinstance(size, int) else size)):
            return None
        space = tuple(range(fake.dim() - _AVERAGES[node.target], fake.dim()))
    elif node.target in (_aten.avg_pool1d.default, _aten.avg_pool2d.default, _aten.avg_pool3d.default):
        space = tuple(range(2, fake.dim()))
        given = bind(node, "input", "kernel", "stride", "padding")
        whole = all(isinstance(side, int) for side in fake.shape[2:]) and list(given["kernel"]) == list(fake.shape[2:])
        if not whole or any(given["padding"] or [0]):
            return None
    else:
        return None
    return space if len(space) == fake.dim() - 2 and 0 not in space else None


def _between(
    network: Network, squeeze: fx.Node, averaged: fx.Node
) -> tuple[tuple[fx.Node, ...], tuple[fx.Node, ...]] | None:
    """The nodes made only from `squeeze` and constants, up to products with `averaged`; None if others use them."""
    inside: dict[fx.Node, None] = {squeeze: None}
    products: dict[fx.Node, None] = {}
    waiting = [squeeze]
    while waiting:
        node = waiting.pop(0)
        for user in node.users:
            if user in inside or user in products:
                continue
            if user.target is _aten.mul.Tensor and _rescales(user, inside, averaged):
                products[user] = None
                continue
            small = all(
                n in inside or n.op == "get_attr" or isinstance(value_of(n), int | torch.SymInt)
                for n in user.all_input_nodes
            )
            if user.op != "call_function" or not small or len(inside) > _LIMIT:
                return None
            inside[user] = None
            waiting.append(user)
    if not products:
        return None
    ordered = tuple(node for node in network.graph.nodes if node in inside and node is not squeeze)
    return ordered, tuple(products)


def _rescales(product: fx.Node, inside: Any, averaged: fx.Node) -> bool:
    """Whether the node multiplies the averaged map by a value made from the average."""
    if len(product.args) != 2:
        return False
    a, b = product.args
    other = b if a in inside else a
    while isinstance(other, fx.Node) and other is not averaged and other.target in _PERMUTATIONS:
        other = other.args[0]  # type: ignore[assignment]
    return other is averaged


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The layer that makes a map, and the constant steps between; or the reason why there is none.

    Attributes:
        layer: the linear layer, or None.
        steps: the scales and shifts of the layer's channels in between, in order.
        reason: the reason in words.
    """

    layer: Layer | None
    steps: tuple[Affine, ...] = ()
    reason: str = ""


def source_of(network: Network, gate: Gate) -> Source:
    """The linear layer whose output `gate` squeezes, perhaps permuted or with scaled and shifted channels."""
    node, channel = gate.averaged, gate.channel
    steps: list[Affine] = []
    while True:
        layer = as_layer(network, node)
        if layer is not None:
            if layer.channel != channel:
                return Source(None, reason=f"{node.name} averages over its own channels")
            return Source(layer, tuple(reversed(steps)))
        step = _step(network, node, channel)
        if step is not None:
            steps.append(step)
            node = step.v
            continue
        if node.op == "call_function" and node.target in _PERMUTATIONS:
            node, channel = _before_permutation(node, channel)
            continue
        return Source(None, reason=_why_not(node))


def _step(network: Network, node: fx.Node, channel: int) -> Affine | None:
    for v in node.all_input_nodes:
        if v.op != "get_attr":
            made = v.args[0] if value_of(v).__class__ in (tuple, list) else v
            affine = as_affine(network, v if made is not v else node, made, channel)  # type: ignore[arg-type]
            if affine is not None and affine.node is node:
                return affine if alike(node, affine.v) else None
    return None


def _before_permutation(node: fx.Node, channel: int) -> tuple[fx.Node, int]:
    before = node.args[0]
    assert isinstance(before, fx.Node)
    rank = value_of(before).dim()
    if node.target is _aten.permute.default:
        dims = [dim % rank for dim in node.args[1]]  # type: ignore[union-attr]
    else:
        dims = list(range(rank))
        a, b = (int(dim) % rank for dim in node.args[1:3])  # type: ignore[arg-type]
        dims[a], dims[b] = dims[b], dims[a]
    return before, dims[channel]


def _why_not(node: fx.Node) -> str:
    if node.op == "placeholder" or node.target is expect:
        return "it squeezes the network's input, which no layer makes"
    name = str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))
    return f"{name} stands between the last linear layer and the squeeze"
