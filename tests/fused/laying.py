"""The same values, laid in memory in all the ways in which PyTorch can hand them over."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor


def _last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _in(x: Tensor, sizes: list[int], step: int = 1) -> Tensor:
    """x as part of a tensor of NaN with those sizes, every `step`th of its last dimension."""
    big = x.new_full(sizes, float("nan"))
    part = big[tuple(slice(1, 1 + n * (step if i == x.dim() - 1 else 1)) for i, n in enumerate(x.shape))]
    part = part[..., ::step]
    part.copy_(x)
    return part


def _sliced(x: Tensor) -> Tensor:
    return _in(x, [n + 2 for n in x.shape])


def _odd(x: Tensor) -> Tensor:
    return _in(x, [*(n + 1 for n in x.shape[:-1]), 3 * x.shape[-1] + 1], 3)


def _chunk(x: Tensor) -> Tensor:
    """One of two chunks of channels, channels last: dense in no layout."""
    both = _last(torch.cat([torch.full_like(x, float("nan")), x], 1))
    return both[:, x.shape[1] :]


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


def _samples_last(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0)


def _offset(x: Tensor) -> Tensor:
    """Contiguous, but where no vector instruction would have it begin."""
    return torch.cat([x.new_full((1,), float("nan")), x.flatten()])[1:].view(x.shape)


def _offset_last(x: Tensor) -> Tensor:
    big = x.new_full((x.numel() + 3,), float("nan"))
    return big.as_strided(x.shape, _last(x).stride(), 3).copy_(x)


def _negated(x: Tensor) -> Tensor:
    """Bytes of −x, which PyTorch negates when it reads them, as those of a conjugate's imaginary part."""
    return torch._neg_view(-x)


def _strange(x: Tensor) -> Tensor:
    """Contiguous, with strides of another order where a dimension is 1."""
    strides = [stride if n > 1 else 7 for n, stride in zip(x.shape, x.contiguous().stride(), strict=True)]
    return x.contiguous().as_strided(x.shape, strides)


WAYS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": _last,
    "sliced": _sliced,
    "odd strides": _odd,
    "chunk": _chunk,
    "transposed": _transposed,
    "samples last": _samples_last,
    "offset": _offset,
    "offset channels last": _offset_last,
    "negated": _negated,
    "strange": _strange,
}
EXPANDED = {  # over dimensions whose values are then the same
    "expanded over samples": lambda x: x[:1].expand(x.shape),
    "expanded over space": lambda x: x[(..., *[slice(0, 1)] * (x.dim() - 2))].expand(x.shape),
    "expanded": lambda x: x.flatten()[0].expand(x.shape),
}
ways = st.sampled_from([*WAYS, *EXPANDED])
shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 8, 65]), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 3, 8, 65, 130]), st.integers(1, 8), st.integers(1, 8)),
    st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 4)] * 3),
)


def laid(x: Tensor, way: str) -> Tensor:
    return (WAYS.get(way) or EXPANDED[way])(x)


def vector(x: Tensor, way: str) -> Tensor:
    """The same for what has one dimension or two: parameters, statistics."""
    if way in ("odd strides", "sliced", "offset", "transposed"):
        wide = torch.full((*x.shape, 2), float("nan"), dtype=x.dtype)
        wide[..., 1] = x
        return wide[..., 1]
    if way.startswith("expanded"):
        return x.flatten()[0].expand(x.shape)
    return x.t().contiguous().t() if x.dim() == 2 and way == "channels last" else x
