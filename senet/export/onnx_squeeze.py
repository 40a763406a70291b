"""Rewrite the squeeze in an ONNX graph so that ONNX Runtime can keep the layout of its convolutions.

ONNX Runtime keeps maps in a blocked channel layout between convolutions and poolings, and converts
them for operations that know only rows. ReduceMean is such an operation; GlobalAveragePool is not,
so with it the squeeze reads the same blocked map as the next convolution. The following layers
become 1×1 convolutions on one-position maps. A map that SE both squeezes and rescales is needed in
rows anyway, so such a block stays unchanged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from senet.activations import ACTIVATIONS
from senet.extras import extra

__all__ = ["branches", "pool_squeezes"]

_ELEMENTWISE = tuple(each.onnx for each in ACTIVATIONS if each.onnx)
_LINEAR = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}  # x Wᵀ + b
# ONNX Runtime's GlobalAveragePool adds in one row, in float32: behind a convolution it is 8e-6 off on a map of 500×500,
# 2e-5 on 1000×1000 and 1.3e-4 on 2000×2000, where ReduceMean is 5e-6 off.
_MOST = 1 << 18
_SCALAR = ("Mul", "Add", "Div")
_IN_BLOCKS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclasses.dataclass(frozen=True, slots=True)
class _Values:
    """The values of a graph by name.

    Attributes:
        constants: the initializers.
        users: the nodes that use a value, once per use, including nodes with a branch that does.
        outputs: the names of the graph's outputs.
    """

    constants: Mapping[str, Any]
    users: Mapping[str, list[Any]]
    outputs: frozenset[str]

    def array(self, name: str) -> Any:
        """An initializer's values; None for any other name."""
        if name not in self.constants:
            return None
        return extra("onnx", "ship").numpy_helper.to_array(self.constants[name])

    def only_user(self, name: str) -> Any:
        """The only user of a value; None if there are others or the graph returns it."""
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """SE up to its gate: ReduceMean, layers and activations, and the Reshape to (N, C, 1, 1)."""

    squeeze: Any
    steps: tuple[Any, ...]
    view: Any


def pool_squeezes(graph: Any) -> int:
    """Rewrite in place each squeeze of a map (N, C, H, W) with its excitation; return their number.

    ReduceMean over space, Gemm layers with activations, and the Reshape to (N, C, 1, 1) become
    GlobalAveragePool, 1×1 Conv layers and the same activations. For any batch and size, the sums
    differ at most in their order. Everything else stays: 1- and 3-dimensional signals, layers that
    share a weight, and blocks with other operations between. So do squeezes of huge maps, and of
    maps with users other than convolutions and poolings.

    Args:
        graph: an `onnx.GraphProto`.
    """
    values = _values(graph)
    found = [block for node in graph.node if (block := _block(node, values)) is not None]
    found = [block for block in found if _positions(graph, block.squeeze.input[0]) <= _MOST]
    for block in found:
        _write_on_maps(graph, block, values)
    _drop_constants(graph)
    return len(found)


def _positions(graph: Any, name: str) -> float:
    """The number of positions of a map; infinite where a side is free, since it may be long."""
    values = (value for value in (*graph.value_info, *graph.input) if value.name == name)
    return max(
        (math.prod(side.dim_value or math.inf for side in value.type.tensor_type.shape.dim[2:]) for value in values),
        default=math.inf,
    )


def _values(graph: Any) -> _Values:
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in _taken(node):
            users.setdefault(name, []).append(node)
    constants = {entry.name: entry for entry in graph.initializer}
    return _Values(constants, users, frozenset(port.name for port in graph.output))


def _taken(node: Any) -> Iterator[str]:
    """The names that a node and the nodes in its branches use."""
    yield from node.input
    for branch in branches(node):
        for other in branch.node:
            yield from _taken(other)


def branches(node: Any) -> Iterator[Any]:
    """The graphs within a node, such as those of a condition, which can use outer values."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.HasField("g") else []
        yield from attribute.graphs


def _attributes(node: Any) -> dict[str, Any]:
    helper = extra("onnx", "ship").helper
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _is_squeeze(node: Any, values: _Values) -> bool:
    """Whether it is a ReduceMean (N, C, H, W) -> (N, C) of a blocked map; the layers after it confirm a map."""
    if node.op_type != "ReduceMean" or len(node.input) != 2 or _attributes(node).get("keepdims", 1) != 0:
        return False
    axes = values.array(node.input[1])
    if axes is None or sorted(axes.tolist()) not in ([2, 3], [-2, -1]):
        return False
    others = [other for other in values.users[node.input[0]] if other is not node]
    return all(other.op_type in _IN_BLOCKS for other in others)


def _block(squeeze: Any, values: _Values) -> _Block | None:
    """The squeeze with its excitation, if that has the usual form, else None."""
    if not _is_squeeze(squeeze, values):
        return None
    steps: list[Any] = []
    width = None
    name = squeeze.output[0]
    while (node := values.only_user(name)) is not None:
        if node.op_type == "Reshape" and width is not None:
            shape = values.array(node.input[1])
            usual = shape is not None and shape.tolist() == [-1, width, 1, 1]
            return _Block(squeeze, tuple(steps), node) if usual else None
        if node.op_type == "Gemm":
            width = _layer_width(node, values)
            if width is None or node.input[0] != name:
                return None
        elif not _is_elementwise(node, values):
            return None
        steps.append(node)
        name = node.output[0]
    return None


def _layer_width(node: Any, values: _Values) -> int | None:
    """The output channels of a Gemm that is a linear layer with its own weight; None for any other node."""
    if {**_LINEAR, "transB": 0} | _attributes(node) != _LINEAR:  # ONNX's default is 0
        return None
    if node.input[1] not in values.constants or values.only_user(node.input[1]) is None:
        return None
    width = int(values.constants[node.input[1]].dims[0])
    bias = values.constants.get(node.input[2]) if len(node.input) > 2 else None
    if len(node.input) > 2 and (bias is None or list(bias.dims) != [width]):
        return None
    return width


def _is_elementwise(node: Any, values: _Values) -> bool:
    """Whether the node is an activation, or arithmetic with single numbers, of one other value."""
    given = [name for name in node.input if name]
    others = [name for name in given if name in values.constants]
    if any(len(values.constants[name].dims) > 1 or values.array(name).size != 1 for name in others):
        return False
    return node.op_type in (*_ELEMENTWISE, *_SCALAR) and len(given) - len(others) == 1


def _write_on_maps(graph: Any, block: _Block, values: _Values) -> None:
    helper = extra("onnx", "ship").helper
    block.squeeze.op_type = "GlobalAveragePool"
    del block.squeeze.input[1:], block.squeeze.attribute[:]
    maps = {node.output[0] for node in (block.squeeze, *block.steps[:-1])}
    for node in block.steps:
        if node.op_type == "Gemm":
            node.op_type = "Conv"
            maps.add(node.input[1])
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("kernel_shape", [1, 1]))
            values.constants[node.input[1]].dims.extend([1, 1])
    last = block.steps[-1].output[0]
    block.steps[-1].output[0] = block.view.output[0]
    graph.node.remove(block.view)
    for entry in list(graph.value_info):
        if entry.name == last:
            graph.value_info.remove(entry)
        elif entry.name in maps:
            for _ in range(2):
                entry.type.tensor_type.shape.dim.add().dim_value = 1


def _drop_constants(graph: Any) -> None:
    """Drop unused initializers: axes and shapes."""
    used = {name for node in graph.node for name in _taken(node)} | {port.name for port in graph.output}
    for entry in [entry for entry in graph.initializer if entry.name not in used]:
        graph.initializer.remove(entry)
