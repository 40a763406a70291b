"""A common form for convolutions and linear layers in a graph, and for scales and shifts of their channels."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

import torch
from torch import Tensor, fx

from senet.inference.graph import Network, value_of

__all__ = ["Affine", "Layer", "as_affine", "as_layer", "bias_name", "bind"]

_aten = torch.ops.aten
_CONVOLUTIONS = {
    _aten.conv1d.default: 1,
    _aten.conv2d.default: 2,
    _aten.conv3d.default: 3,
    _aten.conv1d.padding: 1,
    _aten.conv2d.padding: 2,
    _aten.conv3d.padding: 3,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A convolution or linear layer with constant weights: u = W h + b.

    Attributes:
        node: the node of u.
        h: the node of h.
        weight: (C, K / groups, *kernel), for a linear layer (C, K).
        bias: (C,), or None.
        channel: the channel dimension of h and u.
        stride, padding, dilation: one per spatial dimension; padding is zeros before and after.
            Empty for a linear layer.
        groups: the convolution's groups, 1 for a linear layer.
    """

    node: fx.Node
    h: fx.Node
    weight: Tensor
    bias: Tensor | None
    channel: int
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel's size; empty for a linear layer."""
        return tuple(self.weight.shape[2:])

    @property
    def pointwise(self) -> bool:
        """Whether each position of u depends only on the same position of h."""
        return (
            math.prod(self.kernel) == 1
            and all(step == 1 for step in self.stride)
            and all(pair == (0, 0) for pair in self.padding)
        )


def as_layer(network: Network, node: Any) -> Layer | None:
    """`node` as a Layer; None if it is another operation or its weights are not constant."""
    if not isinstance(node, fx.Node) or node.op != "call_function":
        return None
    if node.target is _aten.linear.default:
        given = bind(node, "input", "weight", "bias")
    elif node.target in _CONVOLUTIONS:
        given = bind(node, "input", "weight", "bias", "stride", "padding", "dilation", "groups")
    else:
        return None
    if node.kwargs.keys() & {"input", "weight", "bias"}:
        return None
    h, weight, bias = given["input"], network.constant(given["weight"]), network.constant(given["bias"])
    fake = value_of(node)
    if weight is None or (bias is None and given["bias"] is not None) or not isinstance(h, fx.Node) or fake is None:
        return None
    if node.target is _aten.linear.default:
        return Layer(node, h, weight, bias, fake.dim() - 1) if weight.dim() == 2 else None
    dims = _CONVOLUTIONS[node.target]
    if fake.dim() != dims + 2:
        return None  # without a batch dimension
    dilation = _each(given["dilation"], dims, 1)
    padding = _padding(given["padding"], dilation, tuple(weight.shape[2:]))
    return Layer(node, h, weight, bias, 1, _each(given["stride"], dims, 1), padding, dilation, given["groups"] or 1)


def bind(node: fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call by name; None for an omitted one."""
    given: dict[str, Any] = dict.fromkeys(names)
    given.update(zip(names, node.args, strict=False))
    given.update(node.kwargs)
    return given


def bias_name(weight: str) -> str:
    """The name of the bias beside a weight of this name."""
    return weight.removesuffix(".weight") + ".bias" if weight.endswith(".weight") else f"{weight}_bias"


def _each(given: Any, dims: int, default: int) -> tuple[int, ...]:
    values = (default,) if given is None else (given,) if isinstance(given, int) else tuple(given)
    return values * dims if len(values) == 1 else values


def _padding(given: Any, dilation: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if given == "valid":
        return ((0, 0),) * len(kernel)
    if given == "same":  # the extra zero goes at the end
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((pad, pad) for pad in _each(given, len(kernel), 0))


def _per_channel(network: Network, given: Any, like: Any, channel: int) -> Tensor | None:
    """`given` in float64, as it broadcasts to `like`, if it is the same at every sample and position.

    A number or (C,); None if it is not constant, varies otherwise, or would change the dtype.
    """
    if isinstance(given, int | float) and not isinstance(given, bool):
        return torch.tensor(given, dtype=torch.float64, device=like.device)
    tensor = network.constant(given)
    if tensor is None or torch.promote_types(tensor.dtype, like.dtype) != like.dtype or tensor.dim() > like.dim():
        return None
    if tensor.numel() == 1:
        return tensor.reshape(()).double()
    at = channel - (like.dim() - tensor.dim())
    if at < 0 or tensor.numel() != tensor.shape[at] or tensor.numel() != like.shape[channel]:
        return None
    return tensor.reshape(-1).double()


@dataclasses.dataclass(frozen=True, slots=True)
class Affine:
    """A step v -> scale * v + shift with constants per channel in float64; None means no scale, or no shift."""

    node: fx.Node
    v: fx.Node
    scale: Tensor | None
    shift: Tensor | None


_NORMALISATION = _aten._native_batch_norm_legit_no_training.default


def as_affine(network: Network, node: Any, v: fx.Node, channel: int) -> Affine | None:
    """The affine step from `v` that `node` is, or begins; None if it is another operation."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or not isinstance(value_of(v), Tensor):
        return None
    like = value_of(v)
    if node.target is _NORMALISATION:
        return _normalisation(network, node, v) if channel == 1 and node.args[0] is v else None
    if node.target in (_aten.mul.Tensor, _aten.add.Tensor) and v in node.args:
        other = node.args[1] if node.args[0] is v else node.args[0]
    elif node.target in (_aten.sub.Tensor, _aten.div.Tensor) and node.args[0] is v:
        other = node.args[1]
    else:
        return None
    constant = _per_channel(network, other, like, channel)
    if constant is None or (node.kwargs and node.target is _aten.mul.Tensor):
        return None
    if node.target is _aten.mul.Tensor:
        return Affine(node, v, constant, None)
    if node.target is _aten.div.Tensor:
        return Affine(node, v, 1 / constant, None)
    alpha = float(node.kwargs.get("alpha", 1))  # type: ignore[arg-type]
    if node.args[0] is not v and alpha != 1:
        return None  # alpha multiplies v
    return Affine(node, v, None, constant * (alpha if node.target is _aten.add.Tensor else -alpha))


def _normalisation(network: Network, node: fx.Node, v: fx.Node) -> Affine | None:
    """Batch normalisation in eval mode, of which only the first result is used."""
    given = bind(node, "input", "weight", "bias", "mean", "var", "momentum", "eps")
    mean, var = network.constant(given["mean"]), network.constant(given["var"])
    weight, bias = network.constant(given["weight"]), network.constant(given["bias"])
    unknown = (given["weight"] is not None and weight is None) or (given["bias"] is not None and bias is None)
    if mean is None or var is None or unknown or len(node.users) != 1:
        return None
    (result,) = node.users
    if result.target is not operator.getitem or result.args[1] != 0:
        return None
    scale = (var.double() + given["eps"]).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -scale * mean.double()
    return Affine(result, v, scale, shift if bias is None else shift + bias.double())
