"""Fused normalisation and SE in training: the same function at the cost of the normalisation alone.

v is the normalisation's input, n a sample, c a channel, and S the number of positions. The normalisation returns

    u = γ·inv·(v − center) + β        inv = 1/√(var + ε)

Its statistics come from each map's own mean and squared deviations. So the squeeze is known without
reading u:

    z = γ·inv·(mean − center) + β

With the gate s, the output is one affine pass. Autograd keeps v, as for the normalisation alone, but not u:

    s·u = (v − center)·(s·γ·inv) + s·β

`senet.fused.gradients` has the backward pass. The passes over activations are in `senet.fused.passes`; all
else here is of size (N, C).

If a ReLU is between the two and the gate is always positive, s·relu(u) = relu(s·u). The squeeze is
then (γ·inv·Σ(v − center) + β·n)/S over the n positions that pass the ReLU, which takes one reading
of v. The backward pass needs these two sums as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from senet.block import GATES, SEBlock
from senet.block.equations import without_autocast
from senet.fused.gradients import Inputs, Kept, Plan, coefficients, gradients, squeezed, twice_differentiable
from senet.fused.internals import is_batched, version
from senet.fused.normalisations import as_normalised, statistics_of
from senet.fused.passes.choose import passes_for
from senet.fused.passes.pointers import dense
from senet.fused.passes.protocol import compute_dtype, positions
from senet.fused.switch import notify

__all__ = ["normalise_and_excite"]


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
    """Apply normalisation and SE to v, add `other`, and rectify, if one pass can do it.

    Running statistics are updated as by the normalisation. Call it only if
    `senet.fused.conditions.can_fuse` allows.

    Shapes: (N, C, *space), the output like v.

    Args:
        norm: a batch, group or instance normalisation in training mode.
        kind: the normalisation's class without SE.
        block: an SEBlock that averages; None for the normalisation alone.
        v: the normalisation's input; if it is not contiguous or channels last, it is copied.
        other: the shortcut to add, with v's shape, dtype and device.
        relu: whether the sum is rectified.
        rectified: whether SE takes the rectified normalisation; `other` is then None.

    Returns:
        The output, or None, without any effect, if this device or this normalisation has no such pass.
    """
    passes, statistics = passes_for(v), statistics_of(norm, kind, v)
    if passes is None or statistics is None:
        return None
    if rectified and (other is not None or block is None or not _always_positive(block)):
        return None
    v = dense(as_normalised(kind, v))
    to = compute_dtype(v)
    with torch.no_grad():
        mean, m2 = passes.stats(v.detach())
        center, variance = statistics.of(mean, m2, positions(v))
        moments = _Moments(
            center.to(to),
            (center.to(to) - center).to(to),
            torch.rsqrt(variance + norm.eps).to(to),  # type: ignore[operator]
            mean.to(to),
            (mean - statistics.spread(center)).to(to),
        )
    plan = Plan(passes, statistics, "" if block is None else block.gate_function, relu or rectified, rectified)
    layers = (None,) * 4 if block is None else (block.fc1.weight, block.fc1.bias, block.fc2.weight, block.fc2.bias)
    inputs = Inputs._make((v, getattr(norm, "weight", None), getattr(norm, "bias", None), *layers, other))
    result: Tensor = _NormaliseAndExcite.apply(*inputs, plan, block, *moments)  # type: ignore[no-untyped-call]
    return result


class _Moments(NamedTuple):
    """A call's statistics of v, in the dtype of its sums. A large mean is rounded, so its remainder is kept too."""

    center: Tensor  # the mean of all values that share statistics, rounded
    rest: Tensor  # the rounded center less the exact one: v − exact = (v − center) + rest
    inv: Tensor  # 1/√(variance + ε)
    mean: Tensor  # of each map, rounded
    off: Tensor  # each map's mean less its center, both exact


def _always_positive(block: SEBlock) -> bool:
    """Whether the gate is greater than 0 for any input."""
    # Reading the scale synchronises with a GPU, so it is read again only after a write.
    known, positive = _positive.get(block.scale, (None, False))
    if known is None or known != version(block.scale):
        positive = float(block.scale) > 0
        _positive[block.scale] = version(block.scale), positive
    return positive and block.gate_function == "sigmoid"


_positive: Any = WeakTensorKeyDictionary()  # by scale: its version when read, and whether it was positive


class _NormaliseAndExcite(torch.autograd.Function):
    """See the module's docstring. Small tensors are in the sums' dtype; statistics have no gradient of their own."""

    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        inputs, plan, block = Inputs(*given[:8]), given[8], given[9]
        v, moments = inputs.v, _Moments(*given[10:])
        scale = None if block is None else block.scale
        hidden = argument = passed = s = None
        with without_autocast(v):
            to = moments.inv.dtype
            center, rest, inv = (plan.statistics.spread(x) for x in moments[:3])
            gain = inv if inputs.weight is None else inv * inputs.weight.to(to)
            if scale is not None:
                if plan.rectified:
                    count, near = plan.passes.passed(v, center, *coefficients(None, gain, rest, inputs.bias))
                    passed = torch.stack([count, near + rest * count]) / positions(v)
                z = squeezed(moments.off, passed, gain, inputs.bias)
                hidden = F.relu(_linear(z, inputs.fc1_weight, inputs.fc1_bias))
                argument = _linear(hidden, inputs.fc2_weight, inputs.fc2_bias)
                s = GATES[plan.gate](argument) * scale.to(to)
            out: Tensor = plan.passes.affine(
                v, center, *coefficients(s, gain, rest, inputs.bias), inputs.other, plan.relu
            )
        if block is not None and hidden is not None and argument is not None:
            small = (moments.rest, moments.mean, moments.off, hidden, argument)
            notify(block, small if passed is None else (*small, passed))
        ctx.plan = plan
        # A network may write into SE's own product, so where that is rectified the backward pass asks v again.
        rectified = out if plan.relu and not plan.rectified else None
        ctx.save_for_backward(*Kept(*inputs[:7], scale, hidden, argument, passed, *moments, rectified))
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, need = Kept(*ctx.saved_tensors), Inputs(*ctx.needs_input_grad[:8])
        if torch.is_grad_enabled() or is_batched(dy):
            found = twice_differentiable(kept, ctx.plan, need, dy)
        else:
            with without_autocast(dy):
                found = gradients(kept, ctx.plan, need, dy)
        return (*found, *(None,) * (len(ctx.needs_input_grad) - len(found)))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
