"""The passes as Triton kernels, each reading a map once and writing at most once.

A program handles one or several maps (contiguous), or a run of positions of some channels (channels
last). One program sums over a map in a fixed order, so results are reproducible. Half precision is
read and written, and float32 computed in. protocol.py explains the arguments.
"""

import triton
import triton.language as tl


@triton.jit
def _at(n, c, i, channels, space, LAST: tl.constexpr):
    """The offset of element (n, c, i); n, c and i broadcast."""
    return (n * space + i) * channels + c if LAST else (n * channels + c) * space + i


@triton.jit
def stats(v, mean, m2, channels, space, LAST: tl.constexpr, DOUBLE: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(1).to(tl.int64)
    real = c < channels
    dtype: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    total = tl.zeros([C, S], dtype)
    for start in range(0, space, S):
        i = start + tl.arange(0, S)
        inside = real[:, None] & (i < space)[None, :]
        x = tl.load(v + _at(n, c[:, None], i[None, :], channels, space, LAST), mask=inside, other=0.0)
        total += x.to(dtype)
    near = tl.sum(total, 1) / space
    first = tl.zeros([C, S], dtype)
    second = tl.zeros([C, S], dtype)
    for start in range(0, space, S):
        i = start + tl.arange(0, S)
        inside = real[:, None] & (i < space)[None, :]
        x = tl.load(v + _at(n, c[:, None], i[None, :], channels, space, LAST), mask=inside, other=0.0)
        d = tl.where(inside, x.to(dtype) - near[:, None], 0.0)
        first += d
        second += d * d
    rest = tl.sum(first, 1).to(tl.float64) / space
    tl.store(mean + n * channels + c, near.to(tl.float64) + rest, mask=real)
    tl.store(m2 + n * channels + c, tl.sum(second, 1).to(tl.float64) - rest * rest * space, mask=real)


@triton.jit
def affine(
    v,
    other,
    out,
    center,
    scale,
    shift,
    channels,
    space,
    ADD: tl.constexpr,
    RELU: tl.constexpr,
    LAST: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    c = tl.program_id(0) * C + tl.arange(0, C)
    i = tl.program_id(1) * S + tl.arange(0, S)
    n = tl.program_id(2).to(tl.int64)
    real = c < channels
    inside = real[:, None] & (i < space)[None, :]
    at = _at(n, c[:, None], i[None, :], channels, space, LAST)
    m = tl.load(center + n * channels + c, mask=real, other=0.0)[:, None]
    a = tl.load(scale + n * channels + c, mask=real, other=0.0)[:, None]
    b = tl.load(shift + n * channels + c, mask=real, other=0.0)[:, None]
    y = (tl.load(v + at, mask=inside, other=0.0).to(a.dtype) - m) * a + b
    if ADD:
        y += tl.load(other + at, mask=inside, other=0.0).to(a.dtype)
    if RELU:
        y = tl.where(y < 0, 0.0, y)  # NaN stays NaN
    tl.store(out + at, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sums(
    dy,
    v,
    out,
    kept,
    mean,
    center,
    gain,
    shift,
    s0,
    s1,
    channels,
    space,
    RELU: tl.constexpr,
    KEEP: tl.constexpr,
    THROUGH: tl.constexpr,
    LAST: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(1).to(tl.int64)
    real = c < channels
    m = tl.load(mean + n * channels + c, mask=real, other=0.0)[:, None]
    if THROUGH:
        near = tl.load(center + n * channels + c, mask=real, other=0.0)[:, None]
        k = tl.load(gain + n * channels + c, mask=real, other=0.0)[:, None]
        e = tl.load(shift + n * channels + c, mask=real, other=0.0)[:, None]
    first = tl.zeros([C, S], m.dtype)
    second = tl.zeros([C, S], m.dtype)
    for start in range(0, space, S):
        i = start + tl.arange(0, S)
        inside = real[:, None] & (i < space)[None, :]
        at = _at(n, c[:, None], i[None, :], channels, space, LAST)
        d = tl.load(dy + at, mask=inside, other=0.0)
        if RELU:
            y = tl.load(out + at, mask=inside, other=0.0).to(m.dtype)
            d = tl.where(y <= 0, 0.0, d)
        if KEEP:
            tl.store(kept + at, d, mask=inside)
        d = d.to(m.dtype)
        x = tl.load(v + at, mask=inside, other=0.0).to(m.dtype)
        if THROUGH:
            d = tl.where((x - near) * k + e <= 0, 0.0, d)
        first += d
        second += d * (x - m)
    tl.store(s0 + n * channels + c, tl.sum(first, 1), mask=real)
    tl.store(s1 + n * channels + c, tl.sum(second, 1), mask=real)


@triton.jit
def passed(v, center, scale, shift, n0, n1, channels, space, LAST: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    c = tl.program_id(0) * C + tl.arange(0, C)
    n = tl.program_id(1).to(tl.int64)
    real = c < channels
    m = tl.load(center + n * channels + c, mask=real, other=0.0)[:, None]
    a = tl.load(scale + n * channels + c, mask=real, other=0.0)[:, None]
    b = tl.load(shift + n * channels + c, mask=real, other=0.0)[:, None]
    first = tl.zeros([C, S], m.dtype)
    second = tl.zeros([C, S], m.dtype)
    for start in range(0, space, S):
        i = start + tl.arange(0, S)
        inside = real[:, None] & (i < space)[None, :]
        d = tl.load(v + _at(n, c[:, None], i[None, :], channels, space, LAST), mask=inside, other=0.0).to(m.dtype) - m
        through = inside & ~(d * a + b <= 0)  # NaN passes
        first += tl.where(through, 1.0, 0.0)
        second += tl.where(through, d, 0.0)
    tl.store(n0 + n * channels + c, tl.sum(first, 1), mask=real)
    tl.store(n1 + n * channels + c, tl.sum(second, 1), mask=real)


@triton.jit
def input_gradient(
    dy,
    v,
    out,
    dv,
    center,
    scale,
    c1,
    c0,
    gain,
    shift,
    extra,
    channels,
    space,
    RELU: tl.constexpr,
    THROUGH: tl.constexpr,
    LAST: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    c = tl.program_id(0) * C + tl.arange(0, C)
    i = tl.program_id(1) * S + tl.arange(0, S)
    n = tl.program_id(2).to(tl.int64)
    real = c < channels
    inside = real[:, None] & (i < space)[None, :]
    at = _at(n, c[:, None], i[None, :], channels, space, LAST)
    m = tl.load(center + n * channels + c, mask=real, other=0.0)[:, None]
    a = tl.load(scale + n * channels + c, mask=real, other=0.0)[:, None]
    b = tl.load(c1 + n * channels + c, mask=real, other=0.0)[:, None]
    e = tl.load(c0 + n * channels + c, mask=real, other=0.0)[:, None]
    d = tl.load(dy + at, mask=inside, other=0.0).to(a.dtype) * a
    x = tl.load(v + at, mask=inside, other=0.0).to(a.dtype) - m
    if RELU:
        d = tl.where(tl.load(out + at, mask=inside, other=0.0).to(a.dtype) <= 0, 0.0, d)
    if THROUGH:
        k = tl.load(gain + n * channels + c, mask=real, other=0.0)[:, None]
        f = tl.load(shift + n * channels + c, mask=real, other=0.0)[:, None]
        h = tl.load(extra + n * channels + c, mask=real, other=0.0)[:, None]
        d = tl.where(x * k + f <= 0, 0.0, d + h)
    tl.store(dv + at, (d + (b * x + e)).to(dv.dtype.element_ty), mask=inside)
