"""Compute the mean of a linear layer's output from its input.

Averaging is linear: mean(W h + b) = W mean(h) + b for a 1×1 convolution. With a larger kernel, each
tap sees the zero-padded map shifted. The sum over a shifted map is the whole sum minus border sums;
with a stride it is the sum of a strided subset. So the mean reads h once, and the first FC layer W1
folds in: W1 (W p + b) = (W1 W) p + W1 b.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad as constant_pad

from senet.inference.layers import Layer

__all__ = ["folded_fc", "window_means"]


def window_means(
    h: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The mean of the zero-padded `h` over the positions that each tap of a kernel sees.

    Shapes: (N, K, *space) -> (N, K, *kernel). Convolving the result with the kernel's weights gives
    one position: the mean of the convolution of `h`.

    Args:
        h: the convolution's input.
        kernel: the kernel's size.
        stride: the convolution's stride.
        padding: zeros before and after, for each dimension.
        dilation: the convolution's dilation.
        dtype: the dtype of the computation; None means that of `h`.
    """
    positions = 1
    for dim in reversed(range(len(kernel))):
        size, at = h.shape[dim + 2], dim + 2
        taps, step, gap, (before, after) = kernel[dim], stride[dim], dilation[dim], padding[dim]
        outputs = (size + before + after - gap * (taps - 1) - 1) // step + 1
        positions = positions * outputs
        if step == 1:
            h = _sums(
                h, at, [(max(0, j * gap - before), max(0, (taps - 1 - j) * gap - after)) for j in range(taps)], dtype
            )
        else:
            h = _strided_sums(h, at, taps, step, gap, before, outputs, dtype)
        dtype = None
    return h / positions


def _sums(h: Tensor, at: int, excluded: list[tuple[int, int]], dtype: torch.dtype | None) -> Tensor:
    """Replace a dimension by one sum per tap, each without its number of first and last positions."""
    total = h.sum(at, keepdim=True, dtype=dtype)
    if excluded == [(0, 0)]:
        return total
    sums = []
    for first, last in excluded:
        tap = total
        if first:
            tap = tap - _sum(_part(h, at, None, first), at, total.dtype)
        if last:
            tap = tap - _sum(_part(h, at, -last, None), at, total.dtype)
        sums.append(tap)
    return torch.cat(sums, at)


def _part(h: Tensor, at: int, start: int | None, stop: int | None, step: int = 1) -> Tensor:
    """A slice of one dimension, cut to the size of a smaller map."""
    return h[(slice(None),) * at + (slice(start, stop, step),)]


def _sum(border: Tensor, at: int, dtype: torch.dtype) -> Tensor:
    if isinstance(border.shape[at], int) and border.shape[at] == 1:
        return border.to(dtype)
    return border.sum(at, keepdim=True, dtype=dtype)


def _strided_sums(
    h: Tensor, at: int, taps: int, step: int, gap: int, before: int, outputs: int, dtype: torch.dtype | None
) -> Tensor:
    span = (outputs - 1) * step + 1
    if not isinstance(h.shape[at], int):
        # With a free size, the sign of a slice's end is free too, which some converters cannot
        # handle. With explicit zeros for the padding, no slice begins or ends before the map.
        h, before = constant_pad(h, (*(0, 0) * (h.dim() - 1 - at), before, 0)), 0
    sums = []
    for tap in range(taps):
        start = tap * gap - before
        stop = start + span
        if isinstance(h.shape[at], int):
            start, stop = (start % step if start < 0 else start), max(stop, 0)  # from the first position on the map
        sums.append(_part(h, at, start, stop, step).sum(at, keepdim=True, dtype=dtype))
    return torch.cat(sums, at) if taps > 1 else sums[0]


@torch.no_grad()
def folded_fc(layer: Layer, fc_weight: Tensor, fc_bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """W1 W and W1 b in float64: the FC layer on the flattened result of `window_means`.

    Shapes: weight (H, C), bias (H,) -> (H, K × taps), (H,).
    """
    first, weight = fc_weight.double(), layer.weight.double()
    hidden, groups = len(first), layer.groups
    taps = weight[0, 0].numel()
    grouped = weight.view(groups, len(weight) // groups, weight.shape[1], taps)
    folded = torch.einsum("hgc,gckt->hgkt", first.view(hidden, groups, -1), grouped).reshape(hidden, -1)
    bias = None if fc_bias is None else fc_bias.double()
    if layer.bias is not None:
        constant = first @ layer.bias.double()
        bias = constant if bias is None else bias + constant
    return folded, bias
