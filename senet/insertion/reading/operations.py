"""What operations are: PyTorch's names for activations, normalisations, layouts; and questions about sets of values."""

from __future__ import annotations

from collections.abc import Iterable

from senet.insertion.reading.dataflow import Dataflow, Value

__all__ = [
    "ACTIVATIONS",
    "ELEMENTWISE",
    "LAYOUT",
    "LINEAR",
    "NORMS",
    "SPLITS",
    "attends",
    "convolutions",
    "is_activation",
    "is_linear",
    "is_split",
    "only_upsampled",
    "self_gated",
    "spatial_convolutions",
    "splits_channels",
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
LAYOUT = frozenset("view _unsafe_view reshape permute transpose clone contiguous channel_shuffle".split())
SPLITS = frozenset("slice split split_with_sizes narrow select unbind chunk".split())
_UPSAMPLINGS = frozenset(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa pixel_shuffle grid_sampler_2d grid_sampler_3d "
    "max_unpool2d max_unpool3d".split()
)


def convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values`, in order."""
    return [index for index in sorted(values) if flow.values[index].convolution is not None]


def spatial_convolutions(flow: Dataflow, values: Iterable[int]) -> list[int]:
    """The convolutions among `values` with a kernel larger than one, in order."""
    found = ((index, flow.values[index].convolution) for index in sorted(values))
    return [index for index, convolution in found if convolution is not None and convolution.spatial]


def is_activation(flow: Dataflow, index: int) -> bool:
    """Whether `index` is what an activation gives: an operation of that name, or x · σ(x) written by hand."""
    value = flow.values[index]
    operands = list(dict.fromkeys(value.operands))
    if value.op == "mul" and len(operands) == 2:
        return len(self_gated(flow, operands)) == 1
    if value.op not in ACTIVATIONS or len(operands) != 1:
        return False
    return not any(flow.values[i].op == "mul" and operands[0] in flow.values[i].operands for i in flow.consumers[index])


def self_gated(flow: Dataflow, operands: list[int]) -> list[int]:
    """Of x and σ(x), the x alone; of any other two operands, both."""
    early, late = sorted(operands)
    at: tuple[int, int] | None = (late, 1)
    while at is not None and at[0] > early:
        value = flow.values[at[0]]
        at = (value.operands[0], 1) if value.op in ELEMENTWISE and len(set(value.operands)) == 1 else None
    return [early] if at is not None and at[0] == early else operands


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
        flow.values[index].op in SPLITS
        and flow.values[index].shape[1:2] != flow.values[flow.values[index].operands[0]].shape[1:2]
        for index in values
        if flow.values[index].operands
    )


def is_split(value: Value) -> bool:
    """Whether the value is a part of another."""
    return value.op in SPLITS


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
