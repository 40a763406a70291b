"""The single place where tensors become pointers for compiled code, for C and Triton.

A compiled function trusts its pointers and sizes. A mismatch silently gives wrong numbers or reads
foreign memory. So tensors are checked here, right before the call, and no other code in senet takes
their address.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from senet.errors import InputError
from senet.words import kind_of

__all__ = ["LAST", "UnfitError", "address", "dense", "layout", "like", "overlaps", "per_map", "writable"]

LAST: Final = {4: torch.channels_last, 5: torch.channels_last_3d}


class UnfitError(InputError):
    """A tensor's memory is not what compiled code would assume."""


def layout(v: Tensor) -> str:
    """The memory layout of v: "rows" (contiguous), "last" (channels last) or "" (any other)."""
    if v.is_contiguous():
        return "rows"
    last = LAST.get(v.dim())
    return "last" if last is not None and v.is_contiguous(memory_format=last) else ""


def dense(v: Tensor) -> Tensor:
    """The activation v itself if it is contiguous or channels last in plain memory, else a contiguous copy."""
    return v if layout(v) and not _negated(v) else v.resolve_neg().contiguous()


def like(x: Tensor, v: Tensor) -> Tensor:
    """The values of x in v's dtype and layout: x itself if it has both, else a copy.

    Raises:
        UnfitError: x has another shape or lies on another device.
    """
    if x.shape != v.shape or x.device != v.device:
        raise UnfitError(f"{_described(x)} stands beside {_described(v)}: their shapes and devices must be equal")
    # Two dense tensors of one shape have the same element order exactly if `layout` agrees. Strides
    # do not tell, because those of dimensions of size 1 are arbitrary.
    if x.dtype == v.dtype and layout(x) == layout(v) and not _negated(x):
        return x
    return torch.empty_like(v).copy_(x)


def writable(x: Tensor, v: Tensor) -> Tensor:
    """X itself, checked to be a new tensor with v's shape, dtype and layout that compiled code may write.

    Raises:
        UnfitError: it differs; a copy would be written instead, and be lost.
    """
    if like(x, v) is not x:
        raise UnfitError(f"{_described(x)} does not lie as {_described(v)} does and cannot be written in its place")
    return x


def per_map(x: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous values per sample and channel of v: x (N, C), or broadcast to it, in `dtype`.

    Raises:
        UnfitError: x does not broadcast to (N, C), or lies on another device.
    """
    broadcasts = x.dim() <= 2 and all(n in (1, v.shape[1 - i]) for i, n in enumerate(reversed(x.shape)))
    if x.device != v.device or not broadcasts:
        raise UnfitError(f"{_described(x)} does not hold a value for each sample and channel of {_described(v)}")
    return x.expand(v.shape[:2]).to(dtype).resolve_neg().contiguous()


def address(x: Tensor | None) -> int | None:
    """The address of a dense tensor's elements; None for None.

    Raises:
        UnfitError: its memory was freed (as FSDP does with parameters), it is lazily negated (as
            the imaginary part of a conjugate), or it is a tensor subclass.
    """
    if x is None:
        return None
    if type(x) not in _PLAIN or x.layout is not torch.strided or _negated(x):
        raise UnfitError(f"compiled code cannot read {_described(x)}, {kind_of(x)}, as it lies")
    end = (x.storage_offset() + x.numel()) * x.element_size()
    if x.untyped_storage().nbytes() < end:
        raise UnfitError(f"{_described(x)} reaches beyond its storage: {x.untyped_storage().nbytes()} of {end} bytes")
    return x.data_ptr()


def overlaps(u: Tensor, x: Tensor) -> bool:
    """Whether writing an element of the dense tensor u changes another position's element of the dense x."""
    a, b = u.data_ptr(), x.data_ptr()
    if a == b and u.shape == x.shape and layout(u) == layout(x):
        return False
    return a < b + x.numel() * x.element_size() and b < a + u.numel() * u.element_size()


_PLAIN = (Tensor, torch.nn.Parameter)


def _negated(x: Tensor) -> bool:
    """Whether the bytes of x differ from its values, since PyTorch negates some views lazily."""
    return x.is_neg()


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} on {x.device}"
