"""Equations 2 and 3 of the paper (arXiv 1709.01507, section 3) as functions of tensors, with masks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from senet.errors import InputError, InputTypeError
from senet.words import kind_of

__all__ = [
    "GATES",
    "cast_to",
    "check_input",
    "check_lengths",
    "compute_dtype",
    "counted_mask",
    "in_valid",
    "is_jit_tracing",
    "like_map",
    "misses_padding",
    "padding",
    "se_excite",
    "se_gate",
    "se_squeeze",
    "size_of_layer",
    "valid_mask",
    "without_autocast",
]

GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
}


def size_of_layer(size: str, name: str) -> Any:
    """A property that reads a size from the block's first layer, since channel pruning tools change the layers."""
    return property(lambda block: getattr(block.fc1, size, None) or vars(block)[name])


def compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """At least float32, because sums over space and products with large averages overflow float16."""
    return torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32


def cast_to(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)  # saves a node in an exported graph


def se_squeeze(x: Tensor, kind: str, dtype: torch.dtype, mask: Tensor | None = None) -> Tensor:
    """Equation 2: (N, C, *space) -> (N, C), accumulated in `dtype`; "none" and (N, C) inputs pass as they are.

    With a `mask` (N, 1, *space), the squeeze covers the positions where it is true; over no
    positions it is 0.
    """
    if kind == "none" or x.dim() == 2:
        return cast_to(x, dtype)
    space = list(range(2, x.dim()))
    if mask is not None:
        counted = mask.expand(x.shape[0], 1, *x.shape[2:]).sum(space)
        if kind == "avg":
            # Padding may hold NaN, so it is replaced, not multiplied by 0.
            return torch.where(mask, x, 0).sum(space, dtype=dtype) / counted.clamp(min=1)
        return torch.where(counted > 0, cast_to(torch.where(mask, x, -torch.inf).amax(space), dtype), 0)
    # Mobile backends accept a reduction only with keepdim: XNNPACK cuts the graph at any other.
    exported = torch.compiler.is_exporting() or is_jit_tracing()
    if kind == "avg":
        z = x.mean(space, keepdim=exported, dtype=None if x.dtype == dtype else dtype)
    else:
        z = cast_to(x.amax(space, keepdim=exported), dtype)
    return z.flatten(1) if exported else z


def is_jit_tracing() -> bool:
    """Whether `torch.jit.trace` records, and no compiler does."""
    if torch.compiler.is_compiling():
        return False
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def se_excite(
    z: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    scale: Tensor,
    gate: str,
) -> Tensor:
    """Equation 3, times `scale`: (N, C) -> (N, C); for a map (NoSqueeze) the layers are 1×1 convolutions."""
    hidden = F.relu(_layer(z, fc1_weight, fc1_bias))
    return GATES[gate](_layer(hidden, fc2_weight, fc2_bias)) * cast_to(scale, z.dtype)


def _layer(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = cast_to(weight, z.dtype)
    bias = None if bias is None else cast_to(bias, z.dtype)
    if z.dim() == 2:
        return F.linear(z, weight, bias)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[z.dim() - 3]
    return convolution(z, weight[(...,) + (None,) * (z.dim() - 2)], bias)


def check_input(x: Tensor, channels: int) -> None:
    """Raise unless `x` is a floating-point (N, C, *space) with these channels."""
    if x.dim() not in (2, 3, 4, 5) or x.shape[1] != channels:
        raise InputError(
            f"this SE block has {channels} channels and takes (N, {channels}), (N, {channels}, L), "
            f"(N, {channels}, H, W) or (N, {channels}, D, H, W), not {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise InputTypeError(f"an SE block takes floating-point tensors, not {x.dtype}")


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context that turns autocast off if it is on for the device of `x`."""
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if autocast else nullcontext()


def like_map(s: Tensor, x: Tensor) -> Tensor:
    """Channel weights (N, C) in the dtype of `x`, with singleton dimensions for its space; a map keeps its shape."""
    s = cast_to(s, x.dtype)
    return s if s.dim() == x.dim() else s[(...,) + (None,) * (x.dim() - 2)]


def se_gate(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    scale: Tensor,
    squeeze: str,
    gate: str,
    mask: Tensor | None = None,
) -> Tensor:
    """The channel weights of `x`, in its dtype; a single node in a symbolic trace for any shape of x."""
    check_input(x, fc1_weight.shape[1])
    with without_autocast(x):
        z = se_squeeze(x, squeeze, compute_dtype(x, fc1_weight), mask)
        return like_map(se_excite(z, fc1_weight, fc1_bias, fc2_weight, fc2_bias, scale, gate), x)


class _Padding(threading.local):
    """The lengths that `senet.valid` sets for this thread's batch, and the axis along which they count."""

    lengths: Tensor | None = None
    axis: int = -1


padding = _Padding()
in_valid: list[Tensor] = []
"""The lengths of `senet.valid` in all threads."""
_ROUNDING = 0.01  # of a position: the most that float32 may add to length · L, up to L = 100,000


def misses_padding(block: object) -> bool:
    """Whether a block is a replica of DataParallel's, whose threads do not know the lengths of `senet.valid`."""
    return bool(in_valid and padding.lengths is None and getattr(block, "_is_replica", False))


def valid_mask(lengths: Tensor, x: Tensor, axis: int = -1) -> Tensor:
    """The mask (N, 1, *space) of the first ⌈length · L⌉ positions along an axis of x with L positions.

    Raises:
        ValueError: the lengths are not one per sample, or the axis is not a spatial one.
    """
    if lengths.shape != x.shape[:1]:
        raise InputError(
            f"lengths are one number per sample, ({x.shape[0]},) for an input of shape {tuple(x.shape)}, not "
            f"{tuple(lengths.shape)}"
        )
    dim = axis % x.dim() if -x.dim() <= axis < x.dim() else 0
    if dim < 2:
        raise InputError(f"axis={axis} is not a spatial axis of an input of shape {tuple(x.shape)}")
    last = torch.ceil(lengths.double() * x.shape[dim] - _ROUNDING).long().to(x.device)
    shape = [1] * x.dim()
    shape[dim] = x.shape[dim]
    return torch.arange(x.shape[dim], device=x.device).view(shape) < last.view(-1, *[1] * (x.dim() - 1))


def check_lengths(lengths: object) -> Tensor:
    """`lengths` as a tensor (N,) of relative lengths.

    Raises:
        ValueError: they are not numbers from 0 to 1, one per sample.
    """
    if isinstance(lengths, Tensor):
        lengths = lengths.cpu()  # Apple's GPUs have no float64
    try:
        given = torch.as_tensor(lengths, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        given = torch.full((1,), torch.nan, device="cpu")
    if given.dim() != 1 or not bool(((given >= 0) & (given <= 1)).all()):
        raise InputError(f"lengths are relative, one number from 0 to 1 per sample, not {lengths!r:.80}")
    return given


def counted_mask(x: Tensor, mask: Tensor | None, lengths: Any, axis: int) -> Tensor | None:
    """The mask for `x`: the given one, that of the lengths, or that of `senet.valid`.

    Raises:
        ValueError: both a mask and lengths are given, or one does not fit `x`.
        TypeError: the mask is not bool.
    """
    if mask is not None and lengths is not None:
        raise InputError("an SE block takes a mask or lengths, not both")
    if mask is not None:
        return _checked_mask(mask, x)
    if lengths is not None:
        return valid_mask(check_lengths(lengths), x, axis)
    if padding.lengths is None:
        return None
    return valid_mask(padding.lengths, x, padding.axis) if x.dim() > 2 else None


def _checked_mask(mask: object, x: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else kind_of(mask)
        raise InputTypeError(f"a mask is a tensor of bool, true where a position counts, not {given}")
    if mask.dim() == x.dim() - 1:
        mask = mask.unsqueeze(1)
    expected = (x.shape[0], 1, *x.shape[2:])
    if mask.dim() != x.dim() or any(n not in (1, m) for n, m in zip(mask.shape, expected, strict=True)):
        raise InputError(f"a mask for an input of shape {tuple(x.shape)} is {expected}, not {tuple(mask.shape)}")
    return mask
