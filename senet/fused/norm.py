"""Normalisation and SE in one pass, in training: the same function, at the cost of the normalisation alone.

v is what is normalised, n a sample, c a channel, S the number of positions. The normalisation gives
u = γ·inv·(v − center) + β, with center and inv = 1/√(var + ε) from statistics that are made of each map's own mean and
squared deviations. So the squeeze is γ·inv·(mean − center) + β: no second reading of u. With the gate s the output
s·u = (v − center)·(s·γ·inv) + s·β is one affine pass, and autograd keeps v, which the normalisation keeps anyway,
and not u.

Backwards, with dA = Σ dy·(v − center) and dB = Σ dy over space: ds = γ·inv·dA + β·dB; the two layers give dz; and with
du = s·dy + dz/S the normalisation's own backward pass is again affine in dy and v:

    dv = s·γ·inv·dy − inv²·⟨γ·du·xhat⟩·(v − center) + γ·inv·dz/S − inv·⟨γ·du⟩

where ⟨ ⟩ is the mean over whatever shares its statistics. The passes are passes.py's; all else here is of size (N, C).

Where a ReLU stands between the two, and the gate is always positive, s·relu(u) = relu(s·u). The squeeze is then
(γ·inv·Σ(v − center) + β·n)/S over the n positions that the ReLU passes, a reading of v; these two sums are what the
backward pass needs besides, as du = s·dy + dz/S there and 0 elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from senet.block import GATES, SEBlock, _se_gate
from senet.fused.normalisations import Statistics, statistics_of
from senet.fused.passes.choose import passes_for
from senet.fused.passes.pointers import dense, like
from senet.fused.passes.protocol import Passes, compute_dtype
from senet.fused.switch import report

__all__ = ["normalise_and_excite"]

_NO_GRADIENTS = (None,) * 7  # of the scale, which is a constant, of the plan and of the moments

# Back through a gate g of t, from its gradient d: PyTorch's own operations, whose constants are those of its gates.
_BACK: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda d, _, g: torch.ops.aten.sigmoid_backward(d, g),
    "hard_sigmoid": lambda d, t, _: torch.ops.aten.hardsigmoid_backward(d, t),
    "tanh": lambda d, _, g: torch.ops.aten.tanh_backward(d, g),
    "relu": lambda d, _, g: torch.ops.aten.threshold_backward(d, g, 0),
}


def normalise_and_excite(
    norm: nn.Module,
    kind: type[nn.Module],
    block: SEBlock | None,
    v: Tensor,
    other: Tensor | None = None,
    *,
    relu: bool = False,
    rectified: bool = False,
) -> Tensor | None:
    """SE of the normalisation of v, plus `other`, rectified, where it can be had in one pass.

    Running statistics are updated as the normalisation does it. Whether it may be done is for `can_fuse` to say.

    Shapes: (N, C, *space), the output like v.

    Args:
        norm: a batch, group or instance normalisation in training mode.
        kind: its class without SE.
        block: an SEBlock that averages; None for the normalisation alone.
        v: the activation; if it is not contiguous or channels last it is copied.
        other: what is added (the shortcut), of v's shape and dtype.
        relu: whether the sum is rectified.
        rectified: whether SE is given the rectified normalisation; nothing is added then.

    Returns:
        The output, or None where this machine or this normalisation has no such pass: nothing has been done then.
    """
    passes, statistics = passes_for(v), statistics_of(norm, kind)
    if passes is None or statistics is None:
        return None
    if rectified and (other is not None or block is None or not _always_positive(block)):
        return None
    v = dense(v)
    to = compute_dtype(v)
    with torch.no_grad():
        mean, m2 = passes.stats(v.detach())
        center, variance = statistics.of(mean, m2, _space(v))
        moments = _Moments(
            center.to(to),
            (center.to(to) - center).to(to),
            torch.rsqrt(variance + norm.eps).to(to),  # type: ignore[operator]
            mean.to(to),
            (mean - statistics.spread(center)).to(to),
        )
    gate, scale = (block.gate_function, block.scale) if block is not None else ("", None)
    plan = _Plan(passes, statistics, gate, relu or rectified, rectified, block)
    affine = (getattr(norm, "weight", None), getattr(norm, "bias", None))
    result: Tensor = _NormaliseAndExcite.apply(v, *affine, *_layers(block), other, scale, plan, *moments)  # type: ignore[no-untyped-call]
    return result


class _Moments(NamedTuple):
    """What a call knows of v, in the dtype of its sums; where a mean is large its rounding is accounted for.

    Attributes:
        center: the mean of what shares its statistics, rounded.
        rest: the rounded center less the exact one: v − exact = (v − center) + rest.
        inv: 1/√(variance + ε).
        mean: of each map, rounded.
        off: each map's mean less its center, both exact.
    """

    center: Tensor
    rest: Tensor
    inv: Tensor
    mean: Tensor
    off: Tensor


def _always_positive(block: SEBlock) -> bool:
    """Whether the gate is greater than 0, whatever it is given; the scale is read once, not in every step."""
    version, positive = _positive.get(block.scale, (-1, False))
    if version != block.scale._version:
        positive = float(block.scale) > 0
        _positive[block.scale] = block.scale._version, positive
    return positive and block.gate_function == "sigmoid"


_positive: Any = (
    WeakTensorKeyDictionary()
)  # of each scale: its version when it was read, and whether it was greater than 0


def _layers(block: SEBlock | None) -> tuple[Tensor | None, ...]:
    if block is None:
        return (None,) * 4
    return block.fc1.weight, block.fc1.bias, block.fc2.weight, block.fc2.bias


def _space(v: Tensor) -> int:
    return v.numel() // (v.shape[0] * v.shape[1])


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What one call of the function needs besides tensors."""

    passes: Passes
    statistics: Statistics
    gate: str  # "" without SE
    relu: bool  # of the output
    rectified: bool  # what SE is given
    block: SEBlock | None


def _exactly(v: Tensor) -> AbstractContextManager[Any]:
    """No autocast: the small layers are computed in the dtype of the sums."""
    device = v.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _NormaliseAndExcite(torch.autograd.Function):
    """See the module's docstring. Small tensors are in the sums' dtype; statistics are no inputs to differentiate."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        fc1_weight: Tensor | None,
        fc1_bias: Tensor | None,
        fc2_weight: Tensor | None,
        fc2_bias: Tensor | None,
        other: Tensor | None,
        scale: Tensor | None,
        plan: _Plan,
        *given: Tensor,
    ) -> Tensor:
        moments = _Moments(*given)
        with _exactly(v):
            to = moments.inv.dtype
            center, rest, inv = (plan.statistics.spread(x) for x in moments[:3])
            gain = inv if weight is None else inv * weight.to(to)
            hidden = argument = passed = None
            if fc1_weight is None or fc2_weight is None or scale is None:
                a = gain.expand_as(moments.off)
                b = rest * a if bias is None else rest * a + bias.to(to)
            else:
                if plan.rectified:
                    shift = rest * gain if bias is None else rest * gain + bias.to(to)
                    count, near = plan.passes.passed(v, center, gain, shift)
                    passed = torch.stack([count, near + rest * count]) / _space(v)
                squeezed = _squeezed(moments.off, passed, gain, bias)
                hidden = F.relu(_linear(squeezed, fc1_weight, fc1_bias))
                argument = _linear(hidden, fc2_weight, fc2_bias)
                s = GATES[plan.gate](argument) * scale.to(to)
                a = s * gain
                b = rest * a if bias is None else rest * a + s * bias.to(to)
            out = plan.passes.affine(v, center, a, b, other, plan.relu)
        if plan.block is not None and hidden is not None and argument is not None:
            kept = (moments.rest, moments.mean, moments.off, hidden, argument)
            report(plan.block, kept if passed is None else (*kept, passed))
        ctx.plan = plan
        ctx.save_for_backward(
            v,
            *(weight, bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, scale, hidden, argument, passed, *moments),
            out if plan.relu else None,
        )
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            return _differentiable(ctx, dy)
        with _exactly(dy):
            return _gradients(ctx, dy)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    v, weight, bias, w1, b1, w2, b2, scale, hidden, argument, passed, *shared, mean, off, out = ctx.saved_tensors
    plan: _Plan = ctx.plan
    need = ctx.needs_input_grad
    center, rest, inv = (plan.statistics.spread(x) for x in shared)
    space, to = _space(v), inv.dtype
    dy = like(dy, v)
    s0, s1, dy = plan.passes.sums(dy, v, mean, out, keep=need[7])
    mask = None if need[7] else out  # where dy was kept it is rectified already
    moment = (s1 + (mean - center + rest) * s0) * inv  # Σ dy·xhat
    gain = inv if weight is None else inv * weight.to(to)
    grads: dict[int, Tensor] = {}
    if w1 is None:
        ds0, ds1, a, dz = s0, moment, gain.expand_as(mean), None
    else:
        g = GATES[plan.gate](argument)
        s = g * scale.to(to)
        ds = moment if weight is None else moment * weight.to(to)
        ds = ds if bias is None else ds + s0 * bias.to(to)
        dt = _BACK[plan.gate](ds * scale.to(to), argument, g)
        dh = (dt @ w2.to(to)) * (hidden > 0)
        dz = dh @ w1.to(to)
        if need[3]:
            grads[3] = dh.T @ _squeezed(off, passed, gain, bias)
        if need[5]:
            grads[5] = dt.T @ hidden
        if need[4]:
            grads[4] = dh.sum(0)
        if need[6]:
            grads[6] = dt.sum(0)
        share, mean_off = (1.0, off) if passed is None else passed  # of the positions, and their mean deviation
        ds0, ds1, a = s * s0 + dz * share, s * moment + dz * mean_off * inv, s * gain
    if need[1]:
        grads[1] = ds1.sum(0)
    if need[2]:
        grads[2] = ds0.sum(0)
    if need[0]:
        if weight is not None:
            ds0, ds1 = ds0 * weight.to(to), ds1 * weight.to(to)
        m0, m1 = plan.statistics.averages(ds0, ds1, space)
        c1 = -inv * inv * m1
        c0 = rest * c1 - inv * m0
        extra = None
        if dz is not None and plan.rectified:
            extra = gain * dz / space
        elif dz is not None:
            c0 = c0 + gain * dz / space
        grads[0] = plan.passes.input(dy, v, center, a, c1, c0, mask, extra)
    if need[7]:
        grads[7] = dy
    given = (v, weight, bias, w1, b1, w2, b2)
    small = [grads[i].to(t.dtype) if i in grads else None for i, t in enumerate(given)]
    return (*small, grads.get(7), *_NO_GRADIENTS)


def _differentiable(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients as a graph that can be differentiated again: from the equations as they stand."""
    v, weight, bias, w1, b1, w2, b2, scale, *_, out = ctx.saved_tensors
    plan: _Plan = ctx.plan
    inputs = (v, weight, bias, w1, b1, w2, b2)
    wanted = [i for i, needed in enumerate(ctx.needs_input_grad[: len(inputs)]) if needed]
    dy = dy if out is None else torch.where(out <= 0, 0, dy)
    with _exactly(v):
        y = plan.statistics.normalised(v, weight, bias)
        y = F.relu(y) if plan.rectified else y
        if plan.gate:
            y = y * _se_gate(y, w1, b1, w2, b2, scale, "avg", plan.gate)
    found = torch.autograd.grad(y, [inputs[i] for i in wanted], dy, create_graph=True)
    grads = dict(zip(wanted, found, strict=True))
    other = dy if ctx.needs_input_grad[len(inputs)] else None
    return (*(grads.get(i) for i in range(len(inputs))), other, *_NO_GRADIENTS)


def _squeezed(off: Tensor, passed: Tensor | None, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Equation 2 of the normalisation, or of its ReLU: from means over space."""
    share, mean_off = (1.0, off) if passed is None else passed
    squeezed: Tensor = mean_off * gain
    return squeezed if bias is None else squeezed + share * bias.to(gain.dtype)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
