"""The compiled functions of inference: a map's squeeze and gates, and its rescaling in place.

Callers see to it that nothing observes or differentiates these operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from senet.fused.passes.library import library
from senet.fused.passes.pointers import UnfitError, address, layout, overlaps

__all__ = ["AFTER", "BEFORE", "FEW", "NOT", "Excitation", "excite", "rescale", "squeeze"]

Excitation = tuple[Tensor, Tensor | None, int, Tensor, Tensor | None, int, int]
"""weight1 (K, C), bias1 (K,), inner, weight2 (C', K), bias2 (C',), outer, ones.

Weights and biases are contiguous, `inner` and `outer` are numbers of activations in
`senet.activations`, and `ones` is the number of trailing dimensions of 1 of the gates.
"""

FEW = 8
"""Samples above which a library's matrix product is faster than one product per sample."""

NOT, AFTER, BEFORE = 0, 1, 2
"""Whether `rescale` rectifies its result, or the map before it is rescaled."""

_FLOAT = torch.float32
_DTYPES = {_FLOAT: "float32", torch.bfloat16: "bfloat16"}


def squeeze(threads: int, h: Tensor, relu: bool) -> Tensor | None:
    """The means of h, or of max(h, 0) with `relu`: (N, C, *space) -> (N, C) float32; None if h does not fit."""
    given = _map(h, relu)
    if given is None:
        return None
    pooled = h.new_empty(h.shape[:2], dtype=_FLOAT)
    functions: Any = library()
    getattr(functions, f"squeeze_{_DTYPES[h.dtype]}")(*given, address(pooled), threads)
    return pooled


def excite(threads: int, h: Tensor, relu: bool, excitation: Excitation) -> Tensor | None:
    """The gates of a few samples: outer(weight2 · inner(weight1 · mean(h) + bias1) + bias2), equations 2 and 3.

    Args:
        threads: how many threads may work.
        h: (N, C, *space) float32, N at most `FEW`.
        relu: whether max(h, 0) is squeezed.
        excitation: the layers and activations.

    Returns:
        (N, C', 1, ...); None if the tensors do not fit or there was no memory.
    """
    weight1, bias1, inner, weight2, bias2, outer, ones = excitation
    (width, inputs), (outputs, hidden) = weight1.shape, weight2.shape
    if h.dtype is not _FLOAT or weight1.dtype is not _FLOAT or len(h) > FEW or h.shape[1] != inputs or hidden != width:
        return None
    if (bias1 is not None and len(bias1) != width) or (bias2 is not None and len(bias2) != outputs):
        return None
    given = _map(h, relu)
    if given is None:
        return None
    functions: Any = library()
    gate = h.new_empty((len(h), outputs, *[1] * ones))
    done = functions.gates(
        *given,
        *(address(weight1), address(bias1), width, inner),
        *(address(weight2), address(bias2), outputs, outer),
        *(address(gate), threads),
    )
    return gate if done else None


def _map(h: Tensor, relu: bool) -> tuple[Any, ...] | None:
    """A map as the compiled functions take it; None if they do not."""
    kind = layout(h)
    if h.dtype not in _DTYPES or not h.is_cpu or h.requires_grad or not h.numel() or not kind:
        return None
    samples, channels, *_ = h.shape
    try:
        return address(h), samples, channels, h.numel() // (samples * channels), int(kind == "last"), int(relu)
    except UnfitError:
        return None


def rescale(threads: int, u: Tensor, gate: Tensor, x: Tensor | None, relu: int) -> bool:
    """Write u * gate + x over u; return False, without any effect, if the tensors do not fit.

    Args:
        threads: how many threads may work.
        u: (N, C, *space).
        gate: (N, C, 1, ...).
        x: like u; None adds nothing.
        relu: `NOT`, `AFTER` or `BEFORE`.
    """
    shape, dtype, kind = u.shape, u.dtype, layout(u)
    if not (kind and dtype in _DTYPES and gate.dtype is dtype and u.is_cpu) or u.requires_grad or gate.requires_grad:
        return False
    size, maps, channels = u.numel(), gate.numel(), shape[1] if len(shape) > 2 else 0
    if not size or gate.shape[:2] != shape[:2] or maps != shape[0] * channels or not gate.is_contiguous():
        return False
    if x is not None and (x.shape != shape or x.dtype is not dtype or not x.is_cpu or x.requires_grad):
        return False
    if x is not None and (layout(x) != kind or overlaps(u, x)):
        return False
    try:
        at, scale = (address(u), address(x)), address(gate)
    except UnfitError:
        return False
    sizes = (maps, size // maps) if kind == "rows" else (shape[0], size // maps, channels)
    getattr(library(), f"rescale_{kind}_{_DTYPES[dtype]}")(*at, *sizes, scale, relu, threads)
    return True
