"""The Squeeze-and-Excitation block of the paper (arXiv 1709.01507, section 3) and its options."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from senet.block.equations import (
    GATES,
    cast_to,
    check_input,
    compute_dtype,
    counted_mask,
    is_jit_tracing,
    like_map,
    misses_padding,
    padding,
    se_gate,
    se_squeeze,
    size_of_layer,
    without_autocast,
)
from senet.block.kinds import SQUEEZES, note_kind, warn_of_kind
from senet.errors import InputError, whole_number
from senet.words import did_you_mean

__all__ = ["GATES", "PLACEMENTS", "SQUEEZES", "STARTS", "SEBlock", "SESpec", "hidden_width"]

PLACEMENTS = ("standard", "pre", "post", "identity", "inner")
STARTS = ("identity", "paper")


def _check_choice(name: str, given: object, options: Sequence[str]) -> None:
    if given not in options:
        known = ", ".join(map(repr, options))
        raise InputError(f"{name} is one of {known}, not {given!r}{did_you_mean(given, options, '', most=1)}")


def hidden_width(channels: int, reduction_ratio: int = 16, width: int | None = None, least_width: int = 1) -> int:
    """The number of hidden units between the two layers: `width`, or channels // reduction_ratio, at least 1.

    `least_width` raises that 1: in a narrow network a single hidden unit that dies takes the whole block with it.
    """
    return width if width is not None else max(least_width, channels // reduction_ratio)


@dataclasses.dataclass(frozen=True, kw_only=False)
class SESpec:
    """The kind of SE block and its placement: one variant of the paper's study (sections 3 and 6).

    Args:
        reduction_ratio: r of section 3.2; the hidden width is channels // r, never below 1.
        width: the hidden width, instead of the ratio.
        squeeze: "avg" (equation 2), "max" (table 11) or "none" (NoSqueeze, table 16).
        gate: "sigmoid" (equation 3), "hard_sigmoid", "tanh" or "relu" (table 12).
        bias: whether the two layers have biases. The authors' released networks do, but the paper advises against them.
        placement: "standard", "pre", "post", "identity" or "inner" (figure 5, tables 14 and 15).
        start: "identity" (every gate is exactly 1, and the network's output is unchanged), "paper"
            (He initialisation), or None: identity when inserting, paper when a network is created.
        least_width: the least hidden width that the ratio may give; 1 as in the paper.

    Raises:
        ValueError: a name is unknown, a ratio or width is not a positive whole number, or an
            identity start has a gate that is 0 at 0 (tanh, relu).
    """

    reduction_ratio: int = 16
    width: int | None = None
    squeeze: str = "avg"
    gate: str = "sigmoid"
    bias: bool = False
    placement: str = "standard"
    start: str | None = None
    least_width: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "reduction_ratio", whole_number("reduction_ratio", self.reduction_ratio))
        object.__setattr__(self, "least_width", whole_number("least_width", self.least_width))
        if self.width is not None:
            object.__setattr__(self, "width", whole_number("width", self.width))
        _check_choice("squeeze", self.squeeze, SQUEEZES)
        _check_choice("gate", self.gate, tuple(GATES))
        _check_choice("placement", self.placement, PLACEMENTS)
        if not isinstance(self.bias, bool):
            raise InputError(f"bias is True or False, not {self.bias!r}")
        if self.start is not None:
            _check_choice("start", self.start, STARTS)
        if self.start == "identity":
            check_identity_start(self.gate)

    def to_json(self) -> dict[str, Any]:
        """The options by name. Options added later are left out at their default, so that older files compare equal."""
        fields = dataclasses.asdict(self)
        if self.least_width == 1:
            del fields["least_width"]
        return fields

    def resolved_start(self, default: str) -> str:
        """`start`, or `default` if it is None.

        Raises:
            ValueError: it is an identity start, which this gate does not allow.
        """
        start = self.start or default
        if start == "identity":
            check_identity_start(self.gate)
        return start

    def block(
        self, channels: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SEBlock:
        """A new SEBlock of this kind for `channels` channels, with the paper's initialisation."""
        return SEBlock(
            channels,
            self.reduction_ratio,
            squeeze=self.squeeze,
            gate=self.gate,
            bias=self.bias,
            width=self.width,
            least_width=self.least_width,
            device=device,
            dtype=dtype,
        )


def check_identity_start(gate: str) -> None:
    """Raise a ValueError if the gate is 0 at 0 and so cannot start as the identity."""
    if gate not in ("sigmoid", "hard_sigmoid"):
        raise InputError(
            f"gate={gate!r} is 0 at 0 and cannot start as the identity: ask for start='paper', "
            f"or for gate='sigmoid' or 'hard_sigmoid'"
        )


_se_gate = se_gate  # the name in graphs traced by earlier versions
for _name in ("_se_gate", "cast_to", "check_input", "compute_dtype", "counted_mask", "like_map", "se_squeeze"):
    torch.fx.wrap(_name)

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_watched(layer: nn.Module) -> bool:
    """Whether a layer has to be called as a module: it is no plain `nn.Linear`, has a hook, or another forward."""
    return (
        type(layer) is not nn.Linear
        or "forward" in layer.__dict__
        or any(getattr(layer, kind, None) for kind in _HOOKS)
    )


def _dtype_of(layer: nn.Module, default: torch.dtype) -> torch.dtype:
    # A quantised layer's `weight` is a method, and the layer takes float32. A wrapper may have no weight.
    weight = getattr(layer, "weight", None)
    return weight.dtype if isinstance(weight, Tensor) and weight.is_floating_point() else default


def has_bias(layer: nn.Module) -> bool:
    """Whether a layer has a bias, quantised or not."""
    bias = getattr(layer, "bias", None)
    return (bias() if callable(bias) else bias) is not None


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
        squeeze: "avg", "max" or "none" (both layers are 1×1 convolutions on the full map).
        gate: "sigmoid", "hard_sigmoid", "tanh" or "relu".
        bias: whether the two layers have biases.
        width: the hidden width H, instead of the ratio.
        scale: a constant factor of the gate, saved with the weights; 2 in a block that starts as
            the identity, since σ(0) = ½.
        least_width: the least hidden width that the ratio may give.
        device: the parameters' device.
        dtype: the parameters' dtype.

    Attributes:
        fc1: the first layer, weight (H, C).
        fc2: the second layer, weight (C, H).
        scale: a buffer of no dimensions.

    A state dict in the other common form, 1×1 convolutions `excitation.0` and `excitation.2`, loads as well.

    Raises:
        ValueError: an argument is none of these, or later an input has another shape.
        TypeError: an input is not floating-point.
    """

    scale: Tensor
    _first_scale = 1.0  # of blocks pickled by earlier versions
    in_channels: int = size_of_layer("in_features", "in_channels")
    width: int = size_of_layer("out_features", "width")

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
        least_width: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        in_channels = whole_number("in_channels", in_channels)
        spec = SESpec(reduction_ratio, width, squeeze, gate, bias, least_width=least_width)  # checks them
        if not (isinstance(scale, int | float) and math.isfinite(scale)):
            raise InputError(f"scale is a finite number, not {scale!r}")
        self.reduction_ratio = spec.reduction_ratio
        hidden = hidden_width(in_channels, spec.reduction_ratio, spec.width, spec.least_width)
        vars(self).update(in_channels=in_channels, width=hidden)
        self.squeeze = spec.squeeze
        self.gate_function = spec.gate
        self.fc1 = nn.Linear(in_channels, hidden, bias=bias, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, in_channels, bias=bias, device=device, dtype=dtype)
        self._first_scale = float(scale)
        self.register_buffer("scale", self.fc1.weight.new_empty(()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation of both layers, biases zero, as the paper trains from scratch (section 5)."""
        nn.init.constant_(self.scale, self._first_scale)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def start_as_identity(self, squeezed: Tensor | None = None, expected: Tensor | None = None) -> None:
        """Make every gate exactly 1: the second layer zero, `scale` 2.

        The first layer's rows are then chosen so that each hidden unit is active on the given
        inputs: a unit whose ReLU is always off would never learn. Redrawn rows come from the CPU's
        global random state.

        Args:
            squeezed: (N, C) or (N, C, *space), the block's squeezed inputs on an example.
            expected: (C,) or (K, C), the means expected in training.

        Raises:
            ValueError: the gate is 0 at 0 (tanh, relu).
        """
        check_identity_start(self.gate_function)
        if squeezed is not None:
            seen = squeezed.cpu().double().transpose(0, 1).flatten(1).mean(1)
            given = [] if expected is None else list(expected.cpu().double().reshape(-1, self.in_channels))
            self.fc1.weight.copy_(_active_rows(self.fc1.weight, torch.stack([*given, seen])))
        nn.init.zeros_(self.fc2.weight)
        if self.fc2.bias is not None:
            nn.init.zeros_(self.fc2.bias)
        self.scale.fill_(2)

    def gate(
        self, x: Tensor, mask: Tensor | None = None, lengths: Tensor | Sequence[float] | None = None, *, axis: int = -1
    ) -> Tensor:
        """The channel weights s of `x` (equation 3), times `scale`.

        Shapes: (N, C, *space) -> (N, C, 1, ...), or (N, C, *space) without a squeeze; (N, C) -> (N, C).

        Args:
            x: the input.
            mask: as in `forward`.
            lengths: as in `forward`.
            axis: as in `forward`.
        """
        traced = isinstance(x, torch.fx.Proxy)  # a graph would keep this batch's lengths as constants
        if padding.lengths is not None and (traced or torch.compiler.is_compiling() or is_jit_tracing()):
            raise InputError("a network cannot be traced, exported or optimised inside senet.valid: leave it first")
        if misses_padding(self):
            raise InputError("senet.valid does not reach the threads of DataParallel: take DistributedDataParallel")
        if not (mask is None and lengths is None and padding.lengths is None):  # saves a node in a traced graph
            mask = counted_mask(x, mask, lengths, axis)
        if not self._calls_layers(x):
            layers = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
            return _se_gate(x, *layers, self.scale, self.squeeze, self.gate_function, mask)
        check_input(x, self.in_channels)
        with nullcontext() if traced else without_autocast(x):
            dtype = compute_dtype(x, x)
            z = se_squeeze(x, self.squeeze, dtype, mask)
            z = z.movedim(1, -1) if self.squeeze == "none" else z
            for number, layer in enumerate((self.fc1, self.fc2)):
                z = F.relu(z) if number else z
                z = cast_to(layer(cast_to(z, _dtype_of(layer, dtype))), dtype)
            s = GATES[self.gate_function](z) * cast_to(self.scale, dtype)
            return like_map(s.movedim(-1, 1) if self.squeeze == "none" else s, x)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, lengths: Tensor | Sequence[float] | None = None, *, axis: int = -1
    ) -> Tensor:
        """Equation 4: `x` rescaled channel by channel. Shapes: (N, C, *space) -> (N, C, *space).

        Args:
            x: the input.
            mask: (N, *space) or (N, 1, *space) of bool, true where a position counts. The squeeze
                covers only these, and padding may hold any value. None means all.
            lengths: instead of a mask: (N,), from 0 to 1, the fraction of each sample, from its
                start, that counts. Of L positions the first ⌈length · L⌉ count, so the same lengths
                hold after a stride.
            axis: the axis of `x` along which the lengths count.

        Raises:
            ValueError: `x`, the mask or the lengths have another shape, or both mask and lengths are given.
            TypeError: `x` is not floating-point, or the mask is not bool.
        """
        return x * self.gate(x, mask, lengths, axis=axis)

    def _calls_layers(self, x: Tensor | torch.fx.Proxy) -> bool:
        """Whether to call fc1 and fc2 as modules, rather than compute from their weights.

        They are called if they are hooked or wrapped, or if their dtype is that of the sums. Half
        precision is summed in float32, and NoSqueeze applies the weights as convolutions.
        """
        if is_watched(self.fc1) or is_watched(self.fc2):
            return True
        if isinstance(x, torch.fx.Proxy):
            return False
        squeezed = x.dim() == 2 or self.squeeze != "none"
        return squeezed and compute_dtype(x, self.fc1.weight) == self.fc1.weight.dtype == self.fc2.weight.dtype

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return (
            f"{self.in_channels}, width={self.width}, squeeze={self.squeeze!r}, gate={self.gate_function!r}, "
            f"bias={has_bias(self.fc1)}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        note_kind(destination, prefix, self.squeeze, self.gate_function)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, about: Any, *args: Any) -> None:
        _to_linear_form(state_dict, prefix, self.scale)
        warn_of_kind(about, self.squeeze, self.gate_function)
        super()._load_from_state_dict(state_dict, prefix, about, *args)


def _active_rows(weight: Tensor, means: Tensor) -> Tensor:
    """Rows like those of `weight` (H, C), each with a positive product with all `means` (K, C).

    A row is negated or, if the means disagree on its sign, redrawn (He initialisation). If no draw
    fits, the first mean decides.
    """
    rows = weight.cpu().double()  # in this order: Apple's GPUs have no float64
    means = means[means.abs().amax(1) > 0]
    if not len(means):
        return rows
    for _ in range(100):
        signs = (rows @ means.T).sign()
        torn = signs.amax(1) != signs.amin(1)
        if not torn.any():
            break
        fresh = torch.empty(int(torn.sum()), rows.shape[1], dtype=torch.float32, device="cpu")
        rows[torn] = nn.init.kaiming_normal_(fresh, nonlinearity="relu").double()
    return rows * torch.where(rows @ means[0] < 0, -1.0, 1.0)[:, None]


def _to_linear_form(state_dict: dict[str, Any], prefix: str, scale: Tensor, *, theirs: bool = False) -> None:
    """Rewrite 1×1 convolutions, and the names excitation.0 and .2, as fc1 and fc2 with scale 1.

    Parameters alone in our own form have lost their scale, which stays missing unless the block's is 1. With `theirs`
    they are another library's.
    """
    for ours, other in (("fc1", "excitation.0"), ("fc2", "excitation.2")):
        for kind in ("weight", "bias"):
            key = f"{prefix}{ours}.{kind}"
            theirs |= f"{prefix}{other}.{kind}" in state_dict
            value = state_dict.pop(f"{prefix}{other}.{kind}", state_dict.get(key))
            if kind == "weight" and value is not None and value.dim() > 2:
                theirs, value = True, value.flatten(1)
            if value is not None:
                state_dict[key] = value
    last, key = state_dict.get(f"{prefix}fc2.weight"), f"{prefix}scale"
    if last is not None and key not in state_dict and (theirs or scale.is_meta or bool((scale == 1).all())):
        # the device is the file's, since a block on the meta device may be assigned its tensors
        state_dict[key] = torch.ones_like(scale, device=last.device)
