"""Modules in place of pruned SE blocks: constant gates, or nothing if a neighbouring layer absorbed them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InsertionError
from senet.insertion.recognise import channel_dim_of, channels_of, is_se

__all__ = ["KINDS", "ConstantGate", "Passing", "PrunedSE", "pruned", "replace"]


class Passing(nn.Identity):
    """An identity in place of a removed SE block that takes more than its map, such as a mask."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:  # type: ignore[override]
        """`x` as it is."""
        return x


class PrunedSE(nn.Identity):
    """An identity in place of an SE block whose constant gates were folded into a neighbouring layer."""


class ConstantGate(nn.Module):
    """x · s with constant gates s, in place of an SE block whose gates no neighbouring layer could absorb.

    Shapes: (N, C, *space) -> the same, or, with `channel_dim` -1, (N, *space, C).

    Args:
        channels: C.
        channel_dim: the channel dimension of the input, 1 or -1.
        device: the gates' device.
        dtype: the gates' dtype.

    Attributes:
        gates: (C,), a buffer, saved with the weights and not trained.
    """

    gates: Tensor

    def __init__(
        self,
        channels: int,
        channel_dim: int = 1,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.channel_dim = channel_dim
        self.register_buffer("gates", torch.ones(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """`x` with each channel multiplied by its gate; a mask that the block was given plays no part."""
        gates = self.gates.to(x.dtype)
        return x * (gates if self.channel_dim == -1 else gates.view(-1, *(1,) * (x.dim() - 2)))

    def extra_repr(self) -> str:
        """The number of channels, for `print(model)`."""
        return f"{len(self.gates)}"


KINDS: Mapping[str, type[nn.Module]] = {"folded": PrunedSE, "held": ConstantGate}
"""The module in place of a pruned block, by the word that a saved file has for it."""


def pruned(model: nn.Module) -> dict[str, str]:
    """The pruned SE blocks of `model`, "folded" or "held", by name, read from its modules.

    An inserted block whose gates were folded leaves no module, so it is not listed.
    """
    kind_of = {kind: name for name, kind in KINDS.items()}
    return {name: kind_of[type(module)] for name, module in model.named_modules() if type(module) in kind_of}


def replace(model: nn.Module, name: str, kind: str, channels: int) -> nn.Module:
    """Replace the SE block `name` of `model`, wherever it holds it, by a module of `KINDS` whose gates are 1 at first.

    Args:
        model: the network.
        name: one name of the block.
        kind: the word for the new module.
        channels: C, for a block that takes any number.

    Raises:
        InsertionError: `name` is not an SE block of the model, or there is no such kind. Nothing is
            changed.
    """
    try:
        block = model.get_submodule(name)
    except AttributeError:
        block = nn.Identity()
    if not name or not is_se(block):
        raise InsertionError(f"{name!r} is not an SE block of this {type(model).__name__}")
    if kind not in KINDS:
        raise InsertionError(f"a pruned block is {' or '.join(KINDS)}, not {kind!r}")
    new: nn.Module = PrunedSE()
    if kind == "held":
        like = next(itertools.chain(block.parameters(), block.buffers()))
        new = ConstantGate(channels_of(block, channels), channel_dim_of(block), device=like.device, dtype=like.dtype)
    new.train(block.training)
    for parent in list(model.modules()):
        for child, module in list(parent._modules.items()):
            if module is block:
                setattr(parent, child, new)
    return new
