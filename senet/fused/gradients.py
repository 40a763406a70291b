"""The backward pass of fused normalisation and SE (`senet.fused.norm` has the forward pass and the symbols)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from senet.block import GATES, _se_gate
from senet.block.equations import without_autocast
from senet.fused.normalisations import Statistics
from senet.fused.passes.operations import TorchPasses
from senet.fused.passes.pointers import like
from senet.fused.passes.protocol import positions

__all__ = ["Inputs", "Kept", "Plan", "coefficients", "gradients", "squeezed", "twice_differentiable"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of one call, besides tensors."""

    passes: TorchPasses
    statistics: Statistics
    gate: str  # "" without SE
    relu: bool  # whether the output is rectified
    rectified: bool  # whether SE takes the rectified normalisation


class Inputs(NamedTuple):
    """The inputs that can have a gradient, or their gradients, or whether these are needed."""

    v: Any
    weight: Any
    bias: Any
    fc1_weight: Any
    fc1_bias: Any
    fc2_weight: Any
    fc2_bias: Any
    other: Any = None


class Kept(NamedTuple):
    """The tensors that the forward pass keeps: v, `out` with a ReLU behind all, and small ones."""

    v: Tensor
    weight: Tensor | None  # γ
    bias: Tensor | None  # β
    fc1_weight: Tensor | None
    fc1_bias: Tensor | None
    fc2_weight: Tensor | None
    fc2_bias: Tensor | None
    scale: Tensor | None  # of the gate
    hidden: Tensor | None  # after the first layer and its ReLU
    argument: Tensor | None  # of the gate
    passed: Tensor | None  # the share of positions that the ReLU lets through, and their mean of v − center
    center: Tensor
    rest: Tensor
    inv: Tensor
    mean: Tensor
    off: Tensor
    out: Tensor | None


# Back through a gate g = gate(t) from its gradient d: PyTorch's operations, with the constants of its gates.
_BACK: Mapping[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sigmoid": lambda d, _, g: torch.ops.aten.sigmoid_backward(d, g),
    "hard_sigmoid": lambda d, t, _: torch.ops.aten.hardsigmoid_backward(d, t),
    "tanh": lambda d, _, g: torch.ops.aten.tanh_backward(d, g),
    "relu": lambda d, _, g: torch.ops.aten.threshold_backward(d, g, 0),
}


def gradients(kept: Kept, plan: Plan, need: Inputs, dy: Tensor) -> Inputs:
    """The needed gradients, from the output's; the others are None.

    Only the first and the last pass read activations; all else is of size (N, C).
    """
    center, rest, inv = (plan.statistics.spread(x) for x in (kept.center, kept.rest, kept.inv))
    gain = _times(inv, kept.weight)
    dy = like(dy, kept.v)  # the gradient of a sum is expanded, and another layer's may have another layout
    through = coefficients(None, gain, rest, kept.bias) if plan.rectified else None
    total, about_mean, dy = plan.passes.sums(
        dy, kept.v, kept.mean, kept.out, keep=need.other, through=through and (center, *through)
    )
    out = None if need.other else kept.out  # a kept dy is already rectified
    moment = (about_mean + (kept.mean - center + rest) * total) * inv  # Σ dy·xhat

    layers, dz, s = _of_layers(kept, plan, need, total, moment, gain)
    if dz is None or s is None:
        scale, du, du_xhat = gain.expand_as(kept.mean), total, moment
    else:
        # Σ du and Σ du·xhat of each map, where du = s·dy + dz/S, or s·dy where the ReLU lets nothing through.
        share, mean_off = (1.0, kept.off) if kept.passed is None else kept.passed
        scale, du, du_xhat = s * gain, s * total + dz * share, s * moment + dz * mean_off * inv

    weight, bias = _of_affine(kept, need, du, du_xhat)
    dv = _of_input(kept, plan, (center, rest, inv), (scale, du, du_xhat), dz, dy, out, through) if need.v else None
    return Inputs._make((dv, weight, bias, *layers, dy if need.other else None))


def _of_layers(
    kept: Kept, plan: Plan, need: Inputs, total: Tensor, moment: Tensor, gain: Tensor
) -> tuple[tuple[Tensor | None, ...], Tensor | None, Tensor | None]:
    """The gradients of the two layers, dz of the squeeze, and the gate s; all None without SE.

    ds = γ·inv·dA + β·dB, with dA = Σ dy·(v − center) and dB = Σ dy. Then, with z the squeeze, h the
    hidden layer and t the gate's argument,

        dt = gate′(t)·ds    dW2 = dtᵀ·h    dh = (dt·W2)·[h > 0]    dW1 = dhᵀ·z    dz = dh·W1
    """
    w1, w2, scale, hidden, argument = (kept.fc1_weight, kept.fc2_weight, kept.scale, kept.hidden, kept.argument)
    if w1 is None or w2 is None or scale is None or hidden is None or argument is None:
        return (None,) * 4, None, None
    to = total.dtype
    gate = GATES[plan.gate](argument)
    ds = _times(moment, kept.weight)
    ds = ds if kept.bias is None else ds + total * kept.bias.to(to)
    dt = _BACK[plan.gate](ds * scale.to(to), argument, gate)
    dh = torch.ops.aten.threshold_backward(dt @ w2.to(to), hidden, 0)
    layers = (
        (dh.T @ squeezed(kept.off, kept.passed, gain, kept.bias)).to(w1.dtype) if need.fc1_weight else None,
        dh.sum(0).to(kept.fc1_bias.dtype) if need.fc1_bias and kept.fc1_bias is not None else None,
        (dt.T @ hidden).to(w2.dtype) if need.fc2_weight else None,
        dt.sum(0).to(kept.fc2_bias.dtype) if need.fc2_bias and kept.fc2_bias is not None else None,
    )
    return layers, dh @ w1.to(to), gate * scale.to(to)


def _of_affine(kept: Kept, need: Inputs, du: Tensor, du_xhat: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the normalisation's weight and bias: dγ = Σ du·xhat and dβ = Σ du, over samples and space."""
    weight, bias = kept.weight, kept.bias
    return (
        du_xhat.sum(0).to(weight.dtype) if need.weight and weight is not None else None,
        du.sum(0).to(bias.dtype) if need.bias and bias is not None else None,
    )


def _of_input(
    kept: Kept,
    plan: Plan,
    moments: tuple[Tensor, Tensor, Tensor],
    sums: tuple[Tensor, Tensor, Tensor],
    dz: Tensor | None,
    dy: Tensor,
    out: Tensor | None,
    through: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """The gradient of v: dv = s·γ·inv·dy − inv²·⟨γ·du·xhat⟩·(v − center) + γ·inv·dz/S − inv·⟨γ·du⟩.

    ⟨ ⟩ is the mean over all values that share statistics. If SE takes the rectified normalisation,
    the third term applies only at positions that pass the ReLU.
    """
    (center, rest, inv), (scale, du, du_xhat) = moments, sums
    space = positions(kept.v)
    mean, mean_xhat = plan.statistics.averages(_times(du, kept.weight), _times(du_xhat, kept.weight), space)
    c1 = -inv * inv * mean_xhat
    c0 = rest * c1 - inv * mean  # v is relative to the rounded center, which differs by `rest` from the exact one
    if dz is not None:
        spread = _times(inv, kept.weight) * dz / space
        if through is not None:
            return plan.passes.input(dy, kept.v, center, scale, c1, c0, through=(*through, spread))
        c0 = c0 + spread
    return plan.passes.input(dy, kept.v, center, scale, c1, c0, out)


def twice_differentiable(kept: Kept, plan: Plan, need: Inputs, dy: Tensor) -> Inputs:
    """The same gradients from the unfused equations, by operations that can be differentiated and vectorised."""
    inputs = Inputs(*kept[:7])
    wanted = [i for i, needed in enumerate(need[:7]) if needed]
    dy = dy if kept.out is None else torch.where(kept.out <= 0, 0, dy)
    if not wanted:
        return Inputs(*(None,) * 7, dy if need.other else None)
    with without_autocast(kept.v), torch.enable_grad():
        y = plan.statistics.normalised(kept.v, kept.weight, kept.bias)
        y = F.relu(y) if plan.rectified else y
        if plan.gate:
            y = y * _se_gate(y, *inputs[3:7], kept.scale, "avg", plan.gate)  # type: ignore[arg-type]
    again = torch.is_grad_enabled()
    found = dict(zip(wanted, torch.autograd.grad(y, [inputs[i] for i in wanted], dy, create_graph=again), strict=True))
    return Inputs._make((*map(found.get, range(7)), dy if need.other else None))


def squeezed(off: Tensor, passed: Tensor | None, gain: Tensor, bias: Tensor | None) -> Tensor:
    """Equation 2 applied to the normalisation, or to its ReLU, from means over space: (N, C)."""
    share, mean_off = (1.0, off) if passed is None else passed
    z: Tensor = mean_off * gain
    return z if bias is None else z + share * bias.to(gain.dtype)


def coefficients(s: Tensor | None, gain: Tensor, rest: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The factor of v − center and the summand of the affine pass that gives s·u; None for s stands for 1."""
    scale = gain if s is None else s * gain
    if bias is None:
        return scale, rest * scale
    bias = bias.to(gain.dtype)
    return scale, rest * scale + (bias if s is None else s * bias)


def _times(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight.to(x.dtype)
