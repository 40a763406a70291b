"""The Squeeze-and-Excitation block of the paper (arXiv 1709.01507, section 3), for 1-, 2- and 3-d signals.

Everything here is the paper's equations 2 to 4; nothing of ours is imported.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, SupportsIndex, cast

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from senet.errors import InputError, InputTypeError

__all__ = ["GATES", "PLACEMENTS", "SQUEEZES", "STARTS", "SEBlock", "SESpec", "hidden_width"]

GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
}
SQUEEZES = ("avg", "max", "none")
PLACEMENTS = ("standard", "pre", "post", "identity", "inner")
STARTS = ("identity", "paper")

_GATES_WITH_IDENTITY = ("sigmoid", "hard_sigmoid")


def _check_choice(name: str, given: object, options: Sequence[str]) -> None:
    if given in options:
        return
    close = difflib.get_close_matches(str(given), options, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise InputError(f"{name} is one of {', '.join(map(repr, options))}, not {given!r}{hint}")


def _positive_int(name: str, given: object) -> int:
    try:
        value = operator.index(cast(SupportsIndex, given))
    except TypeError:
        value = 0
    if isinstance(given, bool) or value < 1:
        raise InputError(f"{name} is a whole number of at least 1, not {given!r}")
    return value


def hidden_width(channels: int, reduction_ratio: int = 16, width: int | None = None) -> int:
    """The number of hidden units between the two layers: `width`, or channels // reduction_ratio, at least 1."""
    return width if width is not None else max(1, channels // reduction_ratio)


@dataclasses.dataclass(frozen=True, kw_only=False)
class SESpec:
    """Which SE block, and where: one variant of the paper's study (sections 3 and 6).

    Args:
        reduction_ratio: r of section 3.2; the hidden width is channels // r, never below 1.
        width: the hidden width itself, in place of the ratio.
        squeeze: "avg" (equation 2), "max" (table 11) or "none" (NoSqueeze, table 16).
        gate: "sigmoid" (equation 3), "hard_sigmoid", "tanh" or "relu" (table 12).
        bias: whether the two layers have biases; the authors' released networks do, the paper advises against.
        placement: "standard", "pre", "post", "identity" or "inner" (figure 5 and table 14).
        start: "identity" (every gate is exactly 1, the network computes what it did), "paper" (He
            initialisation), or None: identity when inserting, paper when a network is created.

    Raises:
        ValueError: on a name that is none of these, on a ratio or width that is no positive whole number,
            and on an identity start with a gate that is 0 at 0 (tanh, relu).
    """

    reduction_ratio: int = 16
    width: int | None = None
    squeeze: str = "avg"
    gate: str = "sigmoid"
    bias: bool = False
    placement: str = "standard"
    start: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reduction_ratio", _positive_int("reduction_ratio", self.reduction_ratio))
        if self.width is not None:
            object.__setattr__(self, "width", _positive_int("width", self.width))
        _check_choice("squeeze", self.squeeze, SQUEEZES)
        _check_choice("gate", self.gate, tuple(GATES))
        _check_choice("placement", self.placement, PLACEMENTS)
        if not isinstance(self.bias, bool):
            raise InputError(f"bias is True or False, not {self.bias!r}")
        if self.start is not None:
            _check_choice("start", self.start, STARTS)
        if self.start == "identity":
            check_identity_start(self.gate)

    def resolved_start(self, default: str) -> str:
        """`start`, or `default` where none was asked for.

        Raises:
            ValueError: where that is an identity start and the gate has none.
        """
        start = self.start or default
        if start == "identity":
            check_identity_start(self.gate)
        return start

    def block(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SEBlock:
        """An SEBlock of this kind for `channels` channels, with the paper's initialisation."""
        return SEBlock(
            channels,
            self.reduction_ratio,
            squeeze=self.squeeze,
            gate=self.gate,
            bias=self.bias,
            width=self.width,
            device=device,
            dtype=dtype,
        )


def check_identity_start(gate: str) -> None:
    """Raise the ValueError that says why a gate that is 0 at 0 cannot start as the identity."""
    if gate not in _GATES_WITH_IDENTITY:
        raise InputError(
            f"gate={gate!r} is 0 at 0 and cannot start as the identity: ask for start='paper', "
            f"or for gate='sigmoid' or 'hard_sigmoid'"
        )


def _compute_dtype(x: Tensor, weight: Tensor) -> torch.dtype:
    """At least float32: sums over space and products with 1e4-scale averages leave float16's range."""
    return torch.float64 if torch.float64 in (x.dtype, weight.dtype) else torch.float32


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)  # the test spares an exported graph a node


def se_squeeze(x: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    """Equation 2: (N, C, *space) -> (N, C), accumulated in `dtype`; "none" and (N, C) inputs pass as they are."""
    if kind == "none" or x.dim() == 2:
        return _cast(x, dtype)
    space = list(range(2, x.dim()))
    if kind == "avg":
        return x.mean(space, dtype=None if x.dtype == dtype else dtype)
    return _cast(x.amax(space), dtype)


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
    return GATES[gate](_layer(hidden, fc2_weight, fc2_bias)) * _cast(scale, z.dtype)


def _layer(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = _cast(weight, z.dtype)
    bias = None if bias is None else _cast(bias, z.dtype)
    if z.dim() == 2:
        return F.linear(z, weight, bias)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[z.dim() - 3]
    return convolution(z, weight[(...,) + (None,) * (z.dim() - 2)], bias)


def _se_gate(
    x: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    scale: Tensor,
    squeeze: str,
    gate: str,
) -> Tensor:
    """The channel weights of `x`, in its dtype: one node in a symbolic trace, whatever the shape of x."""
    channels = fc1_weight.shape[1]
    if x.dim() not in (2, 3, 4, 5) or x.shape[1] != channels:
        raise InputError(
            f"this SE block has {channels} channels and takes (N, {channels}), (N, {channels}, L), "
            f"(N, {channels}, H, W) or (N, {channels}, D, H, W), not {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise InputTypeError(f"an SE block takes floating-point tensors, not {x.dtype}")
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        z = se_squeeze(x, squeeze, _compute_dtype(x, fc1_weight))
        s = _cast(se_excite(z, fc1_weight, fc1_bias, fc2_weight, fc2_bias, scale, gate), x.dtype)
    return s if s.dim() == x.dim() else s[(...,) + (None,) * (x.dim() - 2)]


torch.fx.wrap("_se_gate")


class SEBlock(nn.Module):
    r"""Squeeze-and-Excitation: rescale each channel by a gate computed from all of them (section 3).

    .. math:: z_c = \operatorname{mean}_{space} u_c,\quad s = \sigma(W_2\,\mathrm{ReLU}(W_1 z)),\quad
        \tilde x_c = s_c u_c

    Shapes: input (N, C), (N, C, L), (N, C, H, W) or (N, C, D, H, W), any memory format; output the same.
    The squeeze and the excitation are computed in at least float32, also under autocast; the gate and the
    output have the input's dtype.

    Args:
        in_channels: C.
        reduction_ratio: r; the hidden width is C // r, never below 1.
        squeeze: "avg", "max" or "none" (both layers act as 1×1 convolutions on the full map).
        gate: "sigmoid", "hard_sigmoid", "tanh" or "relu".
        bias: whether the two layers have biases.
        width: the hidden width H itself, in place of the ratio.
        scale: a constant that multiplies the gate, saved with the weights; 2 in a block that starts as the
            identity, since σ(0) = ½.
        device: where the parameters are made.
        dtype: of the parameters.

    Attributes:
        fc1: the squeezing layer, weight (H, C).
        fc2: the exciting layer, weight (C, H).
        scale: a buffer of no dimensions.

    A state dict in the other common form, 1×1 convolutions `excitation.0` and `excitation.2`, loads as well.

    Raises:
        ValueError: on construction, on arguments outside these; in use, on an input of another shape.
        TypeError: on an input that is not floating-point.
    """

    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        reduction_ratio: int = 16,
        *,
        squeeze: str = "avg",
        gate: str = "sigmoid",
        bias: bool = False,
        width: int | None = None,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = _positive_int("in_channels", in_channels)
        spec = SESpec(reduction_ratio, width, squeeze, gate, bias)  # checks them
        if not (isinstance(scale, int | float) and math.isfinite(scale)):
            raise InputError(f"scale is a finite number, not {scale!r}")
        self.reduction_ratio = spec.reduction_ratio
        self.width = hidden_width(self.in_channels, spec.reduction_ratio, spec.width)
        self.squeeze = spec.squeeze
        self.gate_function = spec.gate
        self.fc1 = nn.Linear(self.in_channels, self.width, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(self.width, self.in_channels, bias=bias, device=device, dtype=dtype)
        weight = self.fc1.weight
        self.register_buffer("scale", torch.tensor(float(scale), device=weight.device, dtype=weight.dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of both layers, biases zero, as the paper trains from scratch (section 5)."""
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_as_identity(self, squeezed: Tensor | None = None, expected: Tensor | None = None) -> None:
        """Make every gate exactly 1: the second layer zero, `scale` 2.

        Rows of the first layer are then chosen so that each hidden unit is active on what it will see: a unit whose
        ReLU is off for every input would never learn. Redrawn rows come from the CPU's global random state.

        Args:
            squeezed: (N, C) or (N, C, *space), what the block squeezes on an example.
            expected: (C,) or (K, C), means that are expected in training.

        Raises:
            ValueError: where the gate is 0 at 0 (tanh, relu).
        """
        check_identity_start(self.gate_function)
        if squeezed is not None:
            seen = squeezed.transpose(0, 1).flatten(1).to("cpu", torch.float64).mean(1)
            given = [] if expected is None else list(expected.to("cpu", torch.float64).reshape(-1, self.in_channels))
            self.fc1.weight.copy_(_active_rows(self.fc1.weight, torch.stack([*given, seen])))
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)
        self.scale.fill_(2)

    def gate(self, x: Tensor) -> Tensor:
        """The channel weights s of `x` (equation 3), times `scale`.

        Shapes: (N, C, *space) -> (N, C, 1, ...), or (N, C, *space) where nothing is squeezed; (N, C) -> (N, C).
        """
        return _se_gate(
            x,
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            self.scale,
            self.squeeze,
            self.gate_function,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Equation 4: `x` rescaled channel by channel. Shapes: (N, C, *space) -> (N, C, *space)."""
        return x * self.gate(x)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return (
            f"{self.in_channels}, width={self.width}, squeeze={self.squeeze!r}, gate={self.gate_function!r}, "
            f"bias={self.fc1.bias is not None}"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        _to_linear_form(state_dict, prefix, self.scale)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _active_rows(weight: Tensor, means: Tensor, tries: int = 100) -> Tensor:
    """Rows like those of `weight` (H, C), each with a positive product with every one of `means` (K, C).

    A row is turned round or, where the means disagree about it, drawn anew (He initialisation); where that does not
    help within `tries`, the first mean decides.
    """
    rows = weight.to("cpu", torch.float64)
    means = means[means.abs().amax(1) > 0]
    if not len(means):
        return rows
    for _ in range(tries):
        signs = (rows @ means.T).sign()
        torn = signs.amax(1) != signs.amin(1)
        if not torn.any():
            break
        fresh = torch.empty(int(torn.sum()), rows.shape[1], dtype=torch.float32)
        rows[torn] = nn.init.kaiming_normal_(fresh, nonlinearity="relu").double()
    return rows * torch.where(rows @ means[0] < 0, -1.0, 1.0)[:, None]


def _to_linear_form(state_dict: dict[str, Any], prefix: str, scale: Tensor) -> None:
    """Rewrite 1×1 convolutions, and the names excitation.0 and .2, as fc1 and fc2; their scale is 1."""
    for ours, theirs in (("fc1", "excitation.0"), ("fc2", "excitation.2")):
        for kind in ("weight", "bias"):
            key = f"{prefix}{ours}.{kind}"
            value = state_dict.pop(f"{prefix}{theirs}.{kind}", state_dict.get(key))
            if value is None:
                continue
            state_dict[key] = value.flatten(1) if kind == "weight" and value.dim() > 2 else value
    if f"{prefix}fc2.weight" in state_dict:
        state_dict.setdefault(f"{prefix}scale", torch.ones_like(scale))
