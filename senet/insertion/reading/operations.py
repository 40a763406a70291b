"""Classify operations: PyTorch's names for activations, normalisations and layouts, and tests on values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from senet import activations
from senet.insertion.reading.dataflow import Convolution, Dataflow, Value

__all__ = [
    "ACTIVATIONS",
    "ELEMENTWISE",
    "LAYOUT",
    "LINEAR",
    "NORMS",
    "SOFTMAXES",
    "SPLITS",
    "attends",
    "convolutions",
    "first_attention",
    "inside",
    "is_activation",
    "is_linear",
    "is_split",
    "iterates_its_children",
    "only_upsampled",
    "self_gated",
    "spatial_convolutions",
    "splits_channels",
    "upsamples",
]

ACTIVATIONS = frozenset(activation.op for activation in activations.ACTIVATIONS)
SOFTMAXES = frozenset(activations.SOFTMAXES)
_CURVES = ACTIVATIONS | frozenset("cos pow square abs exp log log1p erf reciprocal sqrt rsqrt".split())
ELEMENTWISE = _CURVES | frozenset(
    "mul div add sub rsub neg clone alias detach _to_copy contiguous native_dropout dropout copy lift_fresh".split()
)
NORMS = frozenset(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm native_group_norm native_layer_norm batch_norm_with_update _batch_norm_no_update "
    "_fused_rms_norm rms_norm".split()
)
LAYOUT = frozenset(
    "view _unsafe_view reshape permute transpose t clone contiguous channel_shuffle squeeze unsqueeze expand".split()
)
LINEAR = NORMS | LAYOUT | frozenset("convolution add mul div native_dropout dropout alias".split())
SPLITS = frozenset("slice split split_with_sizes narrow select unbind chunk".split())
_ATTENTIONS = (
    "_scaled_dot_product",
    "_flash_attention",
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
)
_UPSAMPLINGS = frozenset(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle grid_sampler_2d grid_sampler_3d "
    "max_unpool2d max_unpool3d".split()
)


def iterates_its_children(module: nn.Module) -> bool:
    """Whether the module runs every child it holds, so that an added child would become a layer."""
    return isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def inside(flow: Dataflow, values: Iterable[int]) -> Iterator[tuple[int, Convolution]]:
    """The convolutions among `values`, in order, each with its kind."""
    for index in sorted(values):
        convolution = flow.values[index].convolution
        if convolution is not None:
            yield index, convolution


def convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values`, in order."""
    return [index for index, _ in inside(flow, values)]


def spatial_convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values` with a kernel larger than one, in order."""
    return [index for index, convolution in inside(flow, values) if convolution.spatial]


def is_activation(flow: Dataflow, index: int) -> bool:
    """Whether `index` is the output of an activation: a named operation, or one written by hand.

    By hand means x · σ(x), or another arithmetic operation on x and a curve of x: Snake's x +
    sin²(ax)/a, x − tanh(x), x / (1 + |x|).
    """
    value = flow.values[index]
    if len(_distinct(value)) == 1:
        return value.op in ACTIVATIONS and not _is_part_of_another(flow, index)
    return _is_written_by_hand(flow, value)


def _is_written_by_hand(flow: Dataflow, value: Value) -> bool:
    if value.op not in ("mul", "add", "sub", "rsub", "div") or len(_distinct(value)) != 2:
        return False
    path = _path_to_itself(flow, _distinct(value))
    # A product of x with itself is never linear. A sum is linear, as in x + dropout(x), unless a
    # curve lies between.
    return path is not None and (value.op == "mul" or any(flow.values[step].op in _CURVES for step in path))


def _is_part_of_another(flow: Dataflow, index: int) -> bool:
    """Whether an activation is a step of one written by hand, such as the σ in x · σ(x)."""
    while True:
        after = [flow.values[use] for use in flow.consumers[index]]
        if any(_is_written_by_hand(flow, use) and index == max(use.operands) for use in after):
            return True
        if len(after) != 1 or after[0].op not in ELEMENTWISE or len(_distinct(after[0])) != 1:
            return False
        index = after[0].index


def self_gated(flow: Dataflow, operands: list[int]) -> list[int]:
    """Of operands x and σ(x), only x; of any other two, both."""
    return operands if _path_to_itself(flow, operands) is None else [min(operands)]


def _path_to_itself(flow: Dataflow, operands: list[int]) -> list[int] | None:
    """The elementwise steps from the earlier of two operands to the later; None if anything else lies between."""
    early, at = sorted(operands)
    path = []
    while at > early:
        value = flow.values[at]
        before = _distinct(value)
        if value.op not in ELEMENTWISE or len(before) != 1:
            return None
        path.append(at)
        at = before[0]
    return path if at == early else None


def _distinct(value: Value) -> list[int]:
    return list(dict.fromkeys(value.operands))


def is_linear(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether `values` holds no activation; convolutions and normalisations alone are one linear map."""
    return not any(flow.values[index].op in ACTIVATIONS for index in values)


def attends(flow: Dataflow) -> bool:
    """Whether the network has attention: a softmax over products of tokens."""
    return first_attention(flow) is not None


def first_attention(flow: Dataflow) -> int | None:
    """The first value that attention makes; None in a network without attention."""
    multiplies = any(value.op in ("bmm", "baddbmm") for value in flow.values)
    for value in flow.values:
        if value.op.startswith(_ATTENTIONS) or (multiplies and value.op == "_softmax"):
            return value.index
    return None


def splits_channels(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether an operation among `values` takes a part of the channels."""
    return any(
        flow.values[index].op in SPLITS
        and flow.values[index].shape[1:2] != flow.values[flow.values[index].operands[0]].shape[1:2]
        for index in values
        if flow.values[index].operands
    )


def is_split(value: Value) -> bool:
    """Whether the value is a slice of another."""
    return value.op in SPLITS


def only_upsampled(flow: Dataflow, fork: int, target: int, own: frozenset[int]) -> bool:
    """Whether every path from `fork` to `target` within `own` passes an upsampling."""
    if not upsamples(flow, own):
        return False
    reached = {fork}
    for index in sorted(own):
        value = flow.values[index]
        if not _upsamples(value) and any(operand in reached for operand in value.operands):
            reached.add(index)
    return target not in reached


def upsamples(flow: Dataflow, values: Iterable[int]) -> bool:
    """Whether an operation among `values` enlarges a map."""
    return any(_upsamples(flow.values[index]) for index in values)


def _upsamples(value: Value) -> bool:
    return value.op in _UPSAMPLINGS or (value.convolution is not None and value.convolution.transposed)
