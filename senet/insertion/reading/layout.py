"""The layout of maps: which dimension counts the channels, and how far a map has been downsampled."""

from __future__ import annotations

import math

from senet.insertion.reading.dataflow import Dataflow, Value
from senet.insertion.reading.operations import ELEMENTWISE, LAYOUT, NORMS, SPLITS

__all__ = ["channel_dim", "stage", "through_layout"]

_THROUGH = ELEMENTWISE | NORMS | LAYOUT | SPLITS | {"constant_pad_nd", "roll", "cat"}
_CHANNELS_LAST = frozenset("native_layer_norm rms_norm _fused_rms_norm addmm mm".split())


def channel_dim(flow: Dataflow, index: int) -> int | None:
    """The channel dimension of a value, inferred from the operations that made it; None if unknown.

    It is the second after a convolution, a batch or group normalisation or a pooling. It is the
    last after a linear layer or a layer normalisation. A permutation moves it. None also if the
    first dimension does not count the samples, as in (time, N, C): a squeeze there would mix them.
    """
    path = [index]
    while True:
        value = flow.values[path[-1]]
        instance_norm = value.shape[:1] == (1,) and len(path) > 1 and flow.values[path[-2]].op in LAYOUT
        if value.op in _CHANNELS_LAST:
            dim = len(value.shape) - 1
        elif _has_channels_second(flow, value) and not (value.op in NORMS and instance_norm):
            dim = 1
        elif value.operands and value.op in _THROUGH:
            path.append(_largest(flow, value))
            continue
        else:
            return None
        return _followed(flow, path, dim) if _samples_first(flow, index) else None


def _samples_first(flow: Dataflow, index: int) -> bool:
    """Whether the first dimension counts the samples, as after a convolution; true if unknown."""
    path = [index]
    while True:
        value = flow.values[path[-1]]
        if value.op not in _CHANNELS_LAST and _has_channels_second(flow, value):
            return _followed(flow, path, 0) in (0, None)
        if not value.operands or value.op not in _THROUGH | _CHANNELS_LAST:
            return True
        path.append(_largest(flow, value))


def _largest(flow: Dataflow, value: Value) -> int:
    return max(value.operands, key=lambda i: math.prod(flow.values[i].shape))


def _followed(flow: Dataflow, path: list[int], dim: int) -> int | None:
    """Where the dimension `dim` of the last value of a path is in the first; None if unknown."""
    *path, known = path
    while path:
        moved = _dim_after(flow.values[known], flow.values[path[-1]], dim)
        if moved is None:  # views that return to an earlier shape: a channel shuffle, an instance norm
            while path and flow.values[path[-1]].shape != flow.values[known].shape:
                path.pop()
            if not path:
                return None
            moved = dim
        dim = moved
        known = path.pop()
    return dim


def _has_channels_second(flow: Dataflow, value: Value) -> bool:
    if value.op == "input":
        return any(flow.values[index].convolution is not None for index in flow.consumers[value.index])
    return value.convolution is not None or value.op in NORMS or "pool" in value.op


def _dim_after(before: Value, after: Value, dim: int) -> int | None:
    if after.op in ("permute", "transpose"):
        return _permutation(after).index(dim)
    if after.op in ("view", "_unsafe_view", "reshape"):
        if dim == len(before.shape) - 1 and after.shape[-1:] == before.shape[-1:]:
            return len(after.shape) - 1
        return dim if after.shape[: dim + 1] == before.shape[: dim + 1] else None
    if len(after.shape) != len(before.shape):
        return None
    return dim


def _permutation(value: Value) -> list[int]:
    rank = len(value.shape)
    if value.op == "permute":
        return [int(dim) % rank for dim in value.detail[0]]
    dims = list(range(rank))
    a, b = (int(dim) % rank for dim in value.detail)
    dims[a], dims[b] = b, a
    return dims


def through_layout(flow: Dataflow, index: int) -> int:
    """The last value that differs from `index` only in layout, as after a channel shuffle."""
    while True:
        after = flow.consumers[index]
        if len(after) != 1 or flow.values[after[0]].op not in LAYOUT:
            return index
        index = after[0]


def stage(flow: Dataflow, shape: tuple[int, ...], channel_dim: int = 1) -> int:
    """log2 of the first convolution's input size over a map's size, along the dimension that shrank most."""
    space = tuple(n for dim, n in enumerate(shape) if dim not in (0, channel_dim))
    whole = flow.input_size
    if not whole or not all(space) or not all(whole):
        return 0
    if len(space) == len(whole):
        ratio = max(a / b for a, b in zip(whole, space, strict=True))
    else:  # tokens: a flattened map
        ratio = (math.prod(whole) / math.prod(space)) ** (1 / len(whole))
    return max(0, round(math.log2(ratio)))
