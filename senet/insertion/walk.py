"""Walks over a dataflow that the rules share: where two paths part, what made a value, what follows it."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence

from senet.insertion.attach import iterates_its_children
from senet.insertion.dataflow import Call, Dataflow, Value

__all__ = [
    "ACTIVATIONS",
    "ELEMENTWISE",
    "LINEAR",
    "NORMS",
    "Option",
    "Paths",
    "Unit",
    "activation_after",
    "after_concatenation",
    "attends",
    "back",
    "channel_dim",
    "convolutions",
    "is_activation",
    "is_linear",
    "is_split",
    "makers",
    "only_upsampled",
    "part",
    "spatial_convolutions",
    "splits_channels",
    "stage",
    "takers",
    "through_layout",
    "unique",
    "unit_after",
]

ACTIVATIONS = frozenset(
    "relu relu6 hardtanh leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid sigmoid tanh softplus "
    "_prelu_kernel prelu rrelu rrelu_with_noise softsign log_sigmoid_forward threshold clamp clamp_min".split()
)
ELEMENTWISE = ACTIVATIONS | frozenset(
    "mul div add sub neg clone alias detach _to_copy contiguous native_dropout dropout copy lift_fresh".split()
)
NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm native_group_norm native_layer_norm batch_norm_with_update _batch_norm_no_update".split()
)
LINEAR = NORMS | frozenset("convolution add mul div clone contiguous native_dropout dropout alias view".split())
_LAYOUT = frozenset("view _unsafe_view reshape permute transpose clone contiguous channel_shuffle".split())
_SPLITS = frozenset("slice split split_with_sizes narrow select unbind chunk".split())
_UPSAMPLINGS = frozenset(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle grid_sampler_2d grid_sampler_3d "
    "max_unpool2d max_unpool3d".split()
)


@dataclasses.dataclass(frozen=True)
class Option:
    """A module call that SE could be joined to, at the position, with the channels in that dimension."""

    call: Call
    position: str
    channels: int
    channel_dim: int = 1
    source: Call | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of the network that SE may rescale: a branch and what it is joined to, or a layer with its activation.

    Attributes:
        rule: the name of the rule that found it.
        value: the addition, concatenation or activation that it ends in.
        output: what the branch gives: where the standard placement goes.
        fork: what the branch is given.
        own: the values that lie on the branch alone.
        shortcut: for a residual unit, the other side of the addition.
        own_shortcut: the values that lie on the shortcut alone; none where it is the fork itself.
    """

    rule: str
    value: int
    output: int
    fork: int
    own: frozenset[int]
    shortcut: int = -1
    own_shortcut: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True)
class Paths:
    """The paths from one value, the fork, to several: for each, what it comes from since the fork, itself included."""

    fork: int
    to: tuple[frozenset[int], ...]

    def own(self, target: int) -> frozenset[int]:
        """What lies on the path to one target and on no other."""
        others = frozenset[int]().union(*(path for index, path in enumerate(self.to) if index != target))
        return self.to[target] - others


def part(flow: Dataflow, targets: Sequence[int]) -> Paths | None:
    """Where the paths to `targets` part: the last value that all of them come from. None where there is none.

    Visits no more than the values between; so a chain of blocks costs what its blocks cost.
    """
    everyone = (1 << len(targets)) - 1
    label: dict[int, int] = {}
    for bit, target in enumerate(targets):
        label[target] = label.get(target, 0) | 1 << bit
    heap = [-index for index in label]
    heapq.heapify(heap)
    to: list[set[int]] = [set() for _ in targets]
    while heap:
        index = -heapq.heappop(heap)
        mark = label[index]
        if not heap and mark == everyone:
            return Paths(index, tuple(frozenset(path) for path in to))
        for bit, path in enumerate(to):
            if mark >> bit & 1:
                path.add(index)
        for operand in flow.values[index].operands:
            if operand not in label:
                label[operand] = 0
                heapq.heappush(heap, -operand)
            label[operand] |= mark
    return None


def back(flow: Dataflow, index: int, *, through: frozenset[str] = frozenset()) -> int | None:
    """One step back over an element-wise operation or a permutation: the value before.

    None where the value was made by anything else. `through` names further operations that may be passed.
    """
    value = flow.values[index]
    operands = list(dict.fromkeys(value.operands))
    if value.op in ELEMENTWISE or value.op in through:
        if len(operands) == 2 and value.op == "mul":
            operands = _self_gated(flow, operands)  # x · σ(x), written by hand
            sizes = [math.prod(flow.values[operand].shape) for operand in operands]
            operands = [operands[sizes.index(max(sizes))]] if min(sizes) < max(sizes) else operands  # a map and a gate
        if len(operands) == 1 and math.prod(flow.values[operands[0]].shape) >= math.prod(value.shape):
            return operands[0]
    if len(operands) == 1 and value.op in ("permute", "transpose"):
        return operands[0]
    return None


def _self_gated(flow: Dataflow, operands: list[int]) -> list[int]:
    early, late = sorted(operands)
    at: tuple[int, int] | None = (late, 1)
    while at is not None and at[0] > early:
        value = flow.values[at[0]]
        at = (value.operands[0], 1) if value.op in ELEMENTWISE and len(set(value.operands)) == 1 else None
    return [early] if at is not None and at[0] == early else operands


def _permutation(value: Value) -> list[int]:
    rank = len(value.shape)
    if value.op == "permute":
        return [int(dim) % rank for dim in value.detail[0]]
    dims = list(range(rank))
    a, b = (int(dim) % rank for dim in value.detail)
    dims[a], dims[b] = b, a
    return dims


def channel_dim(flow: Dataflow, index: int) -> int | None:
    """Which dimension of a value counts the channels, by what made it; None where that cannot be told.

    The second behind a convolution, a batch or group normalisation or a pooling, the last behind a linear layer or
    a layer normalisation, and wherever a permutation takes it.
    """
    through = ELEMENTWISE | NORMS | _LAYOUT | _SPLITS | {"constant_pad_nd", "roll", "cat"}
    path = [index]
    while True:
        value = flow.values[path[-1]]
        instance_norm = value.shape[0] == 1 and len(path) > 1 and flow.values[path[-2]].op in _LAYOUT
        if value.op in ("native_layer_norm", "addmm", "mm"):
            dim = len(value.shape) - 1
        elif _has_channels_second(flow, value) and not (value.op in NORMS and instance_norm):
            dim = 1
        elif value.operands and value.op in through:
            path.append(max(value.operands, key=lambda i: math.prod(flow.values[i].shape)))
            continue
        else:
            return None
        break
    known = path.pop()
    while path:  # and forward again, to what it is in the value asked about
        moved = _dim_after(flow.values[known], flow.values[path[-1]], dim)
        if moved is None:  # views that come back to the shape that they left: a channel shuffle, an instance norm
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


def makers(flow: Dataflow, index: int, before: float = math.inf) -> Iterator[Option]:
    """The calls that made `index` and returned it, inner before outer, that ended before the value `before`.

    Calls that only handed it through (drop-path in eval mode) and containers are left out.
    """
    dim = channel_dim(flow, index)
    if dim is None:
        return
    for call in flow.calls_returning.get(index, ()):
        if call.end > before:
            return
        if call.returns_tensor and call.made(index) and not iterates_its_children(call.module):
            yield Option(call, "output", flow.values[index].shape[dim], dim)


def takers(flow: Dataflow, index: int) -> Iterator[Option]:
    """The calls that are given `index` first and hold every use of it, inner before outer."""
    uses = flow.consumers[index]
    dim = channel_dim(flow, index)
    if dim is None:
        return
    for call in reversed(flow.calls_taking.get(index, [])):
        holds_all = uses and all(call.made(use) for use in uses)
        if call.inputs[0] == index and holds_all and not iterates_its_children(call.module):
            yield Option(call, "input", flow.values[index].shape[dim], dim)


def is_activation(flow: Dataflow, index: int) -> bool:
    """Whether `index` is what an activation gives: an operation of that name, or x · σ(x) written by hand."""
    value = flow.values[index]
    operands = list(dict.fromkeys(value.operands))
    if value.op == "mul" and len(operands) == 2:
        return len(_self_gated(flow, operands)) == 1
    if value.op not in ACTIVATIONS or len(operands) != 1:
        return False
    return not any(flow.values[i].op == "mul" and operands[0] in flow.values[i].operands for i in flow.consumers[index])


def unit_after(flow: Dataflow, index: int, within: frozenset[int]) -> list[int]:
    """`index` and what follows it one by one within a set: its normalisation and activation."""
    chain = [index]
    while True:
        shape = flow.values[chain[-1]].shape
        after = [i for i in flow.consumers[chain[-1]] if flow.values[i].shape == shape]
        if len(after) != 1 or after[0] not in within or flow.values[after[0]].op not in NORMS | ACTIVATIONS:
            return chain
        chain.append(after[0])


def after_concatenation(flow: Dataflow, index: int) -> list[int]:
    """A concatenation, and the 1×1 units that follow it one by one in the code that concatenates."""
    chain = [index]
    around = (call for call in flow.calls if call.made(index) and not iterates_its_children(call.module))
    block = next(around, None)
    while True:
        size = flow.values[chain[-1]].shape[2:]
        after = [i for i in flow.consumers[chain[-1]] if flow.values[i].shape[2:] == size]
        if len(after) != 1 or (block is not None and not block.made(after[0])):
            return chain
        value = flow.values[after[0]]
        mixes = value.convolution is not None and not value.convolution.spatial
        if not (mixes or value.op in NORMS or value.op in ACTIVATIONS) or len(set(value.operands)) != 1:
            return chain
        chain.append(after[0])


def through_layout(flow: Dataflow, index: int) -> int:
    """What `index` becomes when only its layout changes: a channel shuffle is views and a transposition."""
    while True:
        after = flow.consumers[index]
        if len(after) != 1 or flow.values[after[0]].op not in _LAYOUT:
            return index
        index = after[0]


def activation_after(flow: Dataflow, index: int) -> list[int]:
    """`index` and the activations that follow it one by one, each the only use of the one before."""
    chain = [index]
    while True:
        after = flow.consumers[chain[-1]]
        if len(after) != 1 or flow.values[after[0]].op not in ACTIVATIONS:
            return chain
        if len(set(flow.values[after[0]].operands)) != 1:
            return chain
        chain.append(after[0])


def convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values`, in order."""
    return [index for index in sorted(values) if flow.values[index].convolution is not None]


def spatial_convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values` with a kernel larger than one, in order."""
    found = ((index, flow.values[index].convolution) for index in sorted(values))
    return [index for index, convolution in found if convolution is not None and convolution.spatial]


def is_linear(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether `values` holds no activation: convolutions and normalisations alone are one linear map."""
    return not any(flow.values[index].op in ACTIVATIONS for index in values)


def attends(flow: Dataflow) -> bool:
    """Whether the network has attention: products of tokens with tokens under a softmax."""
    ops = {value.op for value in flow.values}
    fused = any(op.startswith(("_scaled_dot_product", "_flash_attention")) for op in ops)
    return fused or ("_softmax" in ops and bool(ops & {"bmm", "baddbmm"}))


def splits_channels(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether a part of the channels is taken among `values`."""
    return any(
        flow.values[index].op in _SPLITS
        and flow.values[index].shape[1:2] != flow.values[flow.values[index].operands[0]].shape[1:2]
        for index in values
        if flow.values[index].operands
    )


def is_split(value: Value) -> bool:
    """Whether the value is a part of another."""
    return value.op in _SPLITS


def only_upsampled(flow: Dataflow, fork: int, target: int, own: frozenset[int]) -> bool:
    """Whether every path from `fork` to `target` within `own` goes through an upsampling."""
    if not any(_upsamples(flow.values[index]) for index in own):
        return False
    reached = {fork}
    for index in sorted(own):
        value = flow.values[index]
        if not _upsamples(value) and any(operand in reached for operand in value.operands):
            reached.add(index)
    return target not in reached


def _upsamples(value: Value) -> bool:
    return value.op in _UPSAMPLINGS or (value.convolution is not None and value.convolution.transposed)


def stage(flow: Dataflow, shape: tuple[int, ...], channel_dim: int = 1) -> int:
    """log2 of the first convolution's input size over the size of a map, of the dimension that shrank most."""
    space = tuple(n for dim, n in enumerate(shape) if dim not in (0, channel_dim))
    whole = flow.input_size
    if not whole or not all(space) or not all(whole):
        return 0
    if len(space) == len(whole):
        ratio = max(a / b for a, b in zip(whole, space, strict=True))
    else:  # tokens: a map in one row
        ratio = (math.prod(whole) / math.prod(space)) ** (1 / len(whole))
    return max(0, round(math.log2(ratio)))


def unique(flow: Dataflow, options: list[list[Option]]) -> list[Option | None]:
    """For each site the first option whose module serves that site alone.

    A module with weights that is called at several sites (a shared block), and nowhere else, serves them all with
    one SE; a shared activation serves none.
    """
    wanted = {
        (id(option.call.module), option.call.first, option.call.end, option.channels)
        for group in options
        for option in group
    }

    def fits(option: Option) -> bool:
        calls = flow.calls_of[option.call.module]
        if len(calls) == 1:
            return True
        has_weights = next(option.call.module.parameters(), None) is not None
        return has_weights and all((id(c.module), c.first, c.end, option.channels) in wanted for c in calls)

    return [next((option for option in group if fits(option)), None) for group in options]
