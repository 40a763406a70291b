"""Walks over a dataflow that the rules share: where two paths part, what made a value, what follows it."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Iterable, Iterator

from senet.insertion.attach import iterates_its_children
from senet.insertion.dataflow import Call, Dataflow, Value

__all__ = ["ACTIVATIONS", "Join", "Option", "Paths", "back", "makers", "part", "stage", "unique"]

ACTIVATIONS = frozenset(
    "relu relu6 hardtanh leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid sigmoid tanh softplus "
    "_prelu_kernel prelu rrelu rrelu_with_noise softsign log_sigmoid_forward threshold clamp clamp_min".split()
)
_ELEMENTWISE = ACTIVATIONS | frozenset(
    "mul div add sub neg clone alias detach _to_copy contiguous native_dropout dropout copy lift_fresh".split()
)
_NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm native_group_norm native_layer_norm batch_norm_with_update _batch_norm_no_update".split()
)
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
class Paths:
    """Two paths from one value to a join: what lies on each path alone."""

    fork: int
    own: tuple[frozenset[int], frozenset[int]]


@dataclasses.dataclass(frozen=True)
class Join:
    """An addition of a branch to a shortcut, both of which come from `fork`."""

    addition: int
    branch: int
    shortcut: int
    fork: int
    own_branch: frozenset[int]
    own_shortcut: frozenset[int]


def part(flow: Dataflow, a: int, b: int) -> Paths | None:
    """Where the paths to `a` and `b` part: the last value that all of both comes from. None where there is none.

    Visits no more than the values between; so a chain of blocks costs what its blocks cost.
    """
    label = {a: 1, b: 2} if a != b else {a: 3}
    heap = [-index for index in label]
    heapq.heapify(heap)
    own: tuple[set[int], set[int]] = (set(), set())
    while heap:
        index = -heapq.heappop(heap)
        mark = label[index]
        if not heap and mark == 3:
            return Paths(index, (frozenset(own[0]), frozenset(own[1])))
        if mark != 3:
            own[mark - 1].add(index)
        for operand in flow.values[index].operands:
            if operand not in label:
                label[operand] = 0
                heapq.heappush(heap, -operand)
            label[operand] |= mark
    return None


def back(
    flow: Dataflow, index: int, channel_dim: int, *, through: frozenset[str] = frozenset()
) -> tuple[int, int] | None:
    """One step back over an element-wise operation or a permutation: the value before, and its channel dimension.

    None where the value was made by anything else. `through` names further operations that may be passed.
    """
    value = flow.values[index]
    operands = list(dict.fromkeys(value.operands))
    if value.op in _ELEMENTWISE or value.op in through:
        if len(operands) == 2 and value.op == "mul":
            operands = _self_gated(flow, operands)  # x · σ(x), written by hand
        if len(operands) == 1 and math.prod(flow.values[operands[0]].shape) >= math.prod(value.shape):
            return operands[0], channel_dim
    if len(operands) == 1 and value.op in ("permute", "transpose") and value.detail:
        dims = _permutation(value)
        return operands[0], dims[channel_dim]
    return None


def _self_gated(flow: Dataflow, operands: list[int]) -> list[int]:
    early, late = sorted(operands)
    at: tuple[int, int] | None = (late, 1)
    while at is not None and at[0] > early:
        value = flow.values[at[0]]
        at = (value.operands[0], 1) if value.op in _ELEMENTWISE and len(set(value.operands)) == 1 else None
    return [early] if at is not None and at[0] == early else operands


def _permutation(value: Value) -> list[int]:
    rank = len(value.shape)
    if value.op == "permute":
        return [int(dim) % rank for dim in value.detail[0]]
    dims = list(range(rank))
    a, b = (int(dim) % rank for dim in value.detail)
    dims[a], dims[b] = b, a
    return dims


def makers(flow: Dataflow, index: int, channel_dim: int, before: float = math.inf) -> Iterator[Option]:
    """The calls that made `index` and returned it, inner before outer, that ended before the value `before`.

    Calls that only handed it through (drop-path in eval mode) and containers are left out.
    """
    for call in flow.calls_returning.get(index, ()):
        if call.end > before:
            return
        if call.returns_tensor and call.made(index) and not iterates_its_children(call.module):
            yield Option(call, "output", flow.values[index].shape[channel_dim], channel_dim)


def unit_after(flow: Dataflow, index: int, within: frozenset[int]) -> list[int]:
    """`index` and what follows it one by one within a set: its normalisation and activation."""
    chain = [index]
    while True:
        shape = flow.values[chain[-1]].shape
        after = [i for i in flow.consumers[chain[-1]] if flow.values[i].shape == shape]
        if len(after) != 1 or after[0] not in within or flow.values[after[0]].op not in _NORMS | ACTIVATIONS:
            return chain
        chain.append(after[0])


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


def kernels(flow: Dataflow, values: Iterable[int]) -> list[tuple[int, tuple[int, ...]]]:
    """The convolutions among `values`, in order: index and kernel size."""
    found = ((index, flow.values[index].kernel) for index in sorted(values))
    return [(index, kernel) for index, kernel in found if kernel is not None]


def holds_spatial_convolution(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether a convolution among `values` has a kernel larger than one."""
    return any(math.prod(kernel) > 1 for _, kernel in kernels(flow, values))


def is_linear(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether `values` holds no activation: convolutions and normalisations alone are one linear map."""
    return not any(flow.values[index].op in ACTIVATIONS for index in values)


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
    return value.op in _UPSAMPLINGS or (value.op == "convolution" and value.detail == "transposed")


def stage(flow: Dataflow, shape: tuple[int, ...], channel_dim: int = 1) -> int:
    """log2 of the first convolution's input size over the size of a map, of the dimension that shrank most."""
    space = shape[2:] if channel_dim == 1 else tuple(n for d, n in enumerate(shape) if d not in (0, channel_dim))
    if len(space) != len(flow.input_size):
        return 0
    ratios = [a / b for a, b in zip(flow.input_size, space, strict=True) if a and b]
    return max(0, round(math.log2(max(ratios)))) if ratios else 0


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
