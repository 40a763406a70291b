"""The compiled functions of inference: a map's squeeze and gates, and its rescaling in place.

Callers see to it that nothing observes or differentiates these operations.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from senet.fused.passes.library import library
from senet.fused.passes.pointers import UnfitError, address, layout, overlaps

__all__ = ["AFTER", "BEFORE", "FEW", "NOT", "Excitation", "excite", "excite_and_rescale", "rescale", "squeeze"]

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
    """The means of h, or of max(h, 0) with `relu`: (N, C, *space) -> (N, C) float32.

    None if h does not fit, or there was no memory.
    """
    given = _map(h, relu)
    if given is None:
        return None
    pooled = h.new_empty(h.shape[:2], dtype=_FLOAT)
    functions: Any = library()
    return pooled if getattr(functions, f"squeeze_{_DTYPES[h.dtype]}")(*given, address(pooled), threads) else None


def excite(threads: int, h: Tensor, relu: bool, excitation: Excitation) -> Tensor | None:
    """The gates of a few samples: outer(weight2 · inner(weight1 · mean(h) + bias1) + bias2), equations 2 and 3.

    Args:
        threads: how many threads may work.
        h: (N, C, *space) float32 or bfloat16, N at most `FEW`; the layers have its dtype.
        relu: whether max(h, 0) is squeezed.
        excitation: the layers and activations.

    Returns:
        (N, C', 1, ...); None if the tensors do not fit or there was no memory.
    """
    given, layers = _map(h, relu), _layers(h, excitation)
    if given is None or layers is None:
        return None
    gate = h.new_empty((len(h), len(excitation[3]), *[1] * excitation[6]))
    function: Any = getattr(library(), f"gates_{_DTYPES[h.dtype]}")
    return gate if function(*given, *layers, address(gate), threads) else None


def excite_and_rescale(
    threads: int, h: Tensor, excitation: Excitation, u: Tensor, x: Tensor | None, relu: int, factor: float = 1
) -> bool:
    """Write u * factor * gates + x over u, with the gates of `excite`; False, without any effect, if nothing fits.

    One call in place of two: between two convolutions, whose weights fill the caches, a call takes longer than what it
    computes for one image.

    Args:
        threads: how many threads may work.
        h: as in `excite`; with `BEFORE` it is u, and max(u, 0) is squeezed.
        excitation: the layers and activations.
        u: (N, C', *space), of the dtype of h.
        x: like u; None adds nothing.
        relu: `NOT`, `AFTER` or `BEFORE`.
        factor: of all gates.
    """
    given, layers, lies = _map(h, relu == BEFORE), _layers(h, excitation), _rescaled(u, x)
    if given is None or layers is None or lies is None or u.dtype is not h.dtype:
        return False
    if u.shape[:2] != (len(h), len(excitation[3])) or u.dim() != 2 + excitation[6]:
        return False
    at, kind, space = lies
    function: Any = getattr(library(), f"excited_{_DTYPES[h.dtype]}")
    return bool(function(*given[:-1], *layers, factor, *at, space, kind == "last", relu, threads))


def _layers(h: Tensor, excitation: Excitation) -> tuple[Any, ...] | None:
    """An excitation as the compiled functions take it for h; None if they do not."""
    weight1, bias1, inner, weight2, bias2, outer, _ = excitation
    (width, inputs), (outputs, hidden) = weight1.shape, weight2.shape
    if len(h) > FEW or h.shape[1] != inputs or hidden != width:
        return None
    if (bias1 is not None and len(bias1) != width) or (bias2 is not None and len(bias2) != outputs):
        return None
    if any(each is not None and each.dtype is not h.dtype for each in (weight1, bias1, weight2, bias2)):
        return None
    return address(weight1), address(bias1), width, inner, address(weight2), address(bias2), outputs, outer


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
    lies, maps = _rescaled(u, x), gate.numel()
    if lies is None or gate.dtype is not u.dtype or gate.requires_grad or not gate.is_contiguous():
        return False
    if gate.shape[:2] != u.shape[:2] or maps != u.shape[0] * u.shape[1]:
        return False
    try:
        scale = address(gate)
    except UnfitError:
        return False
    at, kind, space = lies
    sizes = (maps, space) if kind == "rows" else (u.shape[0], space, u.shape[1])
    getattr(library(), f"rescale_{kind}_{_DTYPES[u.dtype]}")(*at, *sizes, scale, relu, threads)
    return True


def _rescaled(u: Tensor, x: Tensor | None) -> tuple[tuple[int | None, int | None], str, int] | None:
    """Addresses of u and x, their layout, and the elements of a map, if compiled functions can add x to u in place."""
    shape, dtype, kind = u.shape, u.dtype, layout(u)
    if not kind or dtype not in _DTYPES or not u.is_cpu or u.requires_grad or len(shape) < 3 or not u.numel():
        return None
    if x is not None and (x.shape != shape or x.dtype is not dtype or not x.is_cpu or x.requires_grad):
        return None
    if x is not None and (layout(x) != kind or overlaps(u, x)):
        return None
    try:
        return (address(u), address(x)), kind, u.numel() // (shape[0] * shape[1])
    except UnfitError:
        return None
