"""Read the authors' `.caffemodel` files as tensors, with the keys of the PyTorch port (`layer1.0.conv1.weight`).

The role of a layer follows from the connections, not from names. A residual block ends in a sum or
in the authors' `Axpy` (gate · u + x). Its projection is the convolution on the shortcut, and its SE
the two layers after the global pooling. This one rule reads ResNet, ResNeXt and SENet-154, with or
without SE. BN-Inception, which has no sums, is read by name.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from senet.errors import WeightsError
from senet.zoo.weights.caffe_format import Layer, read_layers

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CaffeModel", "preprocessing_of", "read_caffe"]

_WEIGHTED = ("Convolution", "InnerProduct")
_EPS = 1e-5  # of the normalisations that these weights go into
_UNITS: Mapping[str, str] = MappingProxyType(
    {
        "7x7_s2": "",
        "1x1": "branch_1x1",
        "3x3_reduce": "branch_3x3.0",
        "3x3": "branch_3x3.1",
        "double3x3_reduce": "branch_double3x3.0",
        "double3x3a": "branch_double3x3.1",
        "double3x3b": "branch_double3x3.2",
        "pool_proj": "branch_pool.1",
    }
)  # of an Inception module, and of the stem
_MEAN = (104.0, 117.0, 123.0)  # blue, green, red: in the authors' prototxt, not in their weights


@dataclasses.dataclass(frozen=True)
class CaffeModel:
    """The content of a `.caffemodel`.

    Attributes:
        tensors: its parameters; normalisations include their scale layer and their moving averages' factor.
        stride: the convolution with the stride in blocks that halve the map: "1x1", "3x3", or None without such blocks.
        ceil_pool: whether the first pooling is Caffe's: without padding, and with its size rounded up.
        preprocessing: the network's preprocessing, as values of `senet.study`'s Preprocessing.
    """

    tensors: dict[str, Tensor]
    stride: str | None
    ceil_pool: bool
    preprocessing: Mapping[str, Any]


@dataclasses.dataclass(eq=False)
class _Node:
    """A layer, the sources of its inputs and, for a convolution, the following normalisation and scale layers."""

    layer: Layer
    inputs: list[_Node]
    after: list[Layer] = dataclasses.field(default_factory=list)

    @property
    def weighted(self) -> bool:
        return self.layer.kind in _WEIGHTED

    @property
    def product(self) -> bool:
        return len(self.inputs) == 2 and self.layer.kind in ("Scale", "Eltwise") and not self.layer.sums

    @property
    def joins(self) -> bool:
        """Whether a residual block ends here."""
        return self.layer.kind == "Axpy" or (self.layer.sums and len(self.inputs) == 2)


@dataclasses.dataclass(frozen=True)
class _Block:
    """A residual block: the convolutions of its branch, its SE's two layers, and its projection."""

    branch: Sequence[_Node]
    se: Sequence[_Node]
    projection: Sequence[_Node]
    source: _Node


def read_caffe(path: Path) -> CaffeModel:
    """Read the parameters of a `.caffemodel` of a residual network or BN-Inception, with or without SE.

    Raises:
        WeightsError: the file is damaged, or its layers are connected in another way.
        ImportError: protobuf is not installed; the message has the command that installs it.
    """
    layers = read_layers(path)
    try:
        nodes = _graph(layers)
        blocks = [_block(node) for node in nodes if node.joins]
        if blocks:
            tensors = _residual(blocks, nodes)
        elif any(node.layer.kind == "Concat" for node in nodes):
            tensors = _inception(nodes)
        else:
            raise _UnknownError("it has neither residual blocks nor concatenated branches")
    except _UnknownError as error:
        raise WeightsError(
            f"{path} is a network of Caffe that is not known here: {error}. Known are ResNet, ResNeXt, SENet-154 and "
            f"BN-Inception, with SE and without"
        ) from error
    strides = {_stride(block) for block in blocks} - {None}
    first = next((layer for layer in layers if layer.pooling == "max"), None)
    return CaffeModel(
        tensors=tensors,
        stride=strides.pop() if len(strides) == 1 else None,
        ceil_pool=first is not None and not first.padding,
        preprocessing=_preprocessing(layers),
    )


def preprocessing_of(path: Path) -> Mapping[str, Any]:
    """Read the preprocessing of a `.caffemodel`'s network, without its parameters.

    Raises:
        WeightsError: the file is damaged.
        ImportError: protobuf is not installed.
    """
    return _preprocessing(read_layers(path, blobs=False))


class _UnknownError(Exception):
    """The layers' connections are not those of a known network; the message says where."""


def _preprocessing(layers: Iterable[Layer]) -> dict[str, Any]:
    """Mean and standard deviation of each channel, red first and in [0, 1], as in `Preprocessing`."""
    data = next((layer for layer in layers if layer.mean), None)
    mean, scale = (_MEAN, 1.0) if data is None else (data.mean, data.scale)
    return {
        "size": 224,
        "resize": 256,
        "mean": [value / 255 for value in reversed(mean * 3 if len(mean) == 1 else mean)],
        "std": [1 / (255 * scale)] * 3,
        "interpolation": "bilinear",
        "channels": "BGR",
        "transparency": "white",
    }


def _graph(layers: Sequence[Layer]) -> list[_Node]:
    """The layers in order, connected; in Caffe a name refers to its latest writer."""
    nodes: list[_Node] = []
    written: dict[str, _Node] = {}
    for layer in layers:
        inputs = [written.get(name) or _Node(Layer(name, "Input", (), (name,), ()), []) for name in layer.bottoms]
        node = _Node(layer, inputs)
        if layer.kind in ("BatchNorm", "Scale") and len(inputs) == 1:
            before = _up(inputs[0], "BatchNorm", "Split")
            if layer.blobs and not before.weighted:
                raise _UnknownError(f"{layer.name} ({layer.kind}) does not follow a convolution")
            before.after.append(layer)
        nodes.append(node)
        written.update(dict.fromkeys(layer.tops, node))
    return nodes


def _up(node: _Node, *passed: str) -> _Node:
    """The nearest node at or above `node` that is none of the kinds `passed`."""
    while node.layer.kind in passed and len(node.inputs) == 1:
        node = node.inputs[0]
    return node


def _source(node: _Node) -> _Node:
    """The node that computed the values of `node`, before activations and similar layers."""
    return _up(node, "ReLU", "Split", "Dropout", "BatchNorm", "Scale", "Sigmoid", "Reshape", "Flatten")


def _chain(node: _Node, ends: Sequence[_Node]) -> list[_Node]:
    """The convolutions and inner products on the path from one of `ends`, or from the images, to `node`."""
    found = []
    while (node := _source(node)) not in ends and node.inputs:
        if len(node.inputs) != 1:
            raise _UnknownError(f"{node.layer.name} ({node.layer.kind}) joins what a plain chain does not")
        if node.weighted:
            found.append(node)
        node = node.inputs[0]
    return found[::-1]


def _block(end: _Node) -> _Block:
    gate, branch, shortcut = _operands(end)
    start = _source(shortcut)
    projection = [start] if start.weighted else []
    source = _source(start.inputs[0]) if projection else start
    convolutions = _chain(branch, [source])
    squeezed: list[_Node] = []
    if gate is not None:
        pool = _source(gate)
        while pool.weighted:
            squeezed.append(pool)
            pool = _source(pool.inputs[0])
        if pool.layer.pooling != "global" or _source(pool.inputs[0]) is not _source(branch) or len(squeezed) != 2:
            raise _UnknownError(f"the gate of {end.layer.name} is not that of two layers after a global pooling")
    return _Block(convolutions, squeezed[::-1], projection, source)


def _operands(end: _Node) -> tuple[_Node | None, _Node, _Node]:
    """The gate of a block, if it has one, its branch, and its shortcut."""
    if end.layer.kind == "Axpy":
        if len(end.inputs) != 3:
            raise _UnknownError(f"{end.layer.name} is an Axpy of {len(end.inputs)} inputs, not 3")
        return end.inputs[0], end.inputs[1], end.inputs[2]
    for one, other in (end.inputs, reversed(end.inputs)):
        product = _up(one, "Split")
        if product.product:
            return product.inputs[1], product.inputs[0], other
    one, other = end.inputs
    above = _ancestors(one), _ancestors(other)
    longer = len(above[0] - above[1]) > len(above[1] - above[0])  # the branch has more layers than the shortcut
    return (None, one, other) if longer else (None, other, one)


def _ancestors(node: _Node) -> set[_Node]:
    found, todo = {node}, [node]
    while todo:
        new = [above for above in todo.pop().inputs if above not in found]
        found.update(new)
        todo.extend(new)
    return found


def _stride(block: _Block) -> str | None:
    strides = [node.layer.stride for node in block.branch]
    if max(strides, default=1) == 1:
        return None
    return "1x1" if strides[0] > 1 and len(strides) > 2 else "3x3"


def _residual(blocks: Sequence[_Block], nodes: Sequence[_Node]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    placed: set[_Node] = set()

    def place(node: _Node, layer: str, norm: str | None = None) -> None:
        tensors.update(_tensors(node, layer, norm))
        placed.add(node)

    for index, node in enumerate(_chain(blocks[0].source, []), start=1):
        place(node, f"layer0.conv{index}", f"layer0.bn{index}")
    stage, number = 1, -1
    for block in blocks:
        stage, number = (stage + 1, 0) if block.projection and number >= 0 else (stage, number + 1)
        name = f"layer{stage}.{number}"
        for index, node in enumerate(block.branch, start=1):
            place(node, f"{name}.conv{index}", f"{name}.bn{index}")
        for index, node in enumerate(block.se, start=1):
            place(node, f"{name}.se_module.fc{index}")
        for node in block.projection:
            place(node, f"{name}.downsample.0", f"{name}.downsample.1")
    rest = [node for node in nodes if node.weighted and node not in placed]
    if len(rest) != 1:
        names = ", ".join(node.layer.name for node in rest[:3])
        raise _UnknownError(f"{len(rest)} layers are in no block ({names or 'no classifier'}), where one classifies")
    place(rest[0], "last_linear")
    return tensors


def _inception(nodes: Sequence[_Node]) -> dict[str, Tensor]:
    """BN-Inception's, under the keys of `bn_inception`: `inception.3a.branch_3x3.0.conv.weight`."""
    tensors: dict[str, Tensor] = {}
    weighted = [node for node in nodes if node.weighted]
    for node in weighted[:-1]:
        name = node.layer.name
        if found := re.fullmatch(r"inception_(\w+)_1x1_(down|up)", name):
            tensors |= _tensors(node, f"inception.{found[1]}.se.{'fc1' if found[2] == 'down' else 'fc2'}")
            continue
        found = re.fullmatch(r"(?:inception_)?(\w+)/(\w+)", name)
        unit = found and _UNITS.get(found[2])
        if found is None or unit is None:
            raise _UnknownError(f"{name} is not a layer of BN-Inception")
        module = found[1] if name.startswith("conv") else f"inception.{found[1]}."
        if name.startswith("conv"):
            unit = {"conv1": "", "conv2": f".{int(unit != 'branch_3x3.0')}"}.get(module, unit)
        tensors |= _tensors(node, f"{module}{unit}.conv", f"{module}{unit}.bn")
    return tensors | _tensors(weighted[-1], "fc")


def _tensors(node: _Node, name: str, norm: str | None = None) -> dict[str, Tensor]:
    """The parameters of a layer and of any normalisation after it."""
    layer = node.layer
    if not layer.blobs:
        raise _UnknownError(f"{layer.name} ({layer.kind}) has no weights")
    weight = layer.blobs[0]
    if layer.kind == "InnerProduct" and weight.dim() == 4:
        weight = weight.flatten(0, 2)  # old files have two leading ones
    bias = layer.blobs[1].flatten() if len(layer.blobs) > 1 else None
    if not weight.dim() or (bias is not None and len(bias) != len(weight)):
        raise _UnknownError(f"{layer.name} ({layer.kind}) has blobs of {[tuple(blob.shape) for blob in layer.blobs]}")
    found = {f"{name}.weight": weight}
    if norm is None or not node.after:
        return found if bias is None else {**found, f"{name}.bias": bias}
    return {**found, **_normalisation(node.after, norm, weight.shape[0], bias)}


def _normalisation(layers: Sequence[Layer], name: str, channels: int, bias: Tensor | None) -> dict[str, Tensor]:
    """Merge Caffe's two layers `BatchNorm` and `Scale` into one normalisation.

    Caffe stores moving averages as sums with a divisor. A preceding bias shifts the mean.
    """
    mean, variance = torch.zeros(channels), torch.ones(channels) - _EPS
    weight, shift = torch.ones(channels), torch.zeros(channels)
    for layer in layers:
        blobs = [blob.flatten() for blob in layer.blobs]
        sizes = [len(blob) for blob in blobs]
        if sizes not in ([[channels, channels, 1]] if layer.kind == "BatchNorm" else [[channels], [channels] * 2]):
            raise _UnknownError(f"{layer.name} ({layer.kind}) has blobs of {sizes} numbers after {channels} channels")
        if layer.kind == "BatchNorm":
            factor = float(blobs[2][0])
            mean, variance = ((blob / factor if factor else torch.zeros_like(blob)) for blob in blobs[:2])
            if not math.isclose(layer.eps, _EPS, rel_tol=1e-6):
                variance = variance + (layer.eps - _EPS)
        else:
            weight = blobs[0]
            shift = blobs[1] if len(blobs) > 1 else torch.zeros_like(weight)
    return {
        f"{name}.weight": weight,
        f"{name}.bias": shift,
        f"{name}.running_mean": mean if bias is None else mean - bias,
        f"{name}.running_var": variance,
    }
