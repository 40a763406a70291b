"""Record the gates of a network's SE blocks while it runs, or hold them at chosen values.

The paper does both in its section on the role of excitation. It plots the gates, and measures the
network when they no longer depend on the input. Both work on every SE block that `blocks` lists,
from any library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InsertionError
from senet.insertion.recognise import adds_input, blocks, channel_dim_of, channels_of, gate
from senet.running import before_calls, uncompiled
from senet.words import did_you_mean

__all__ = ["Hold", "holding", "recording"]

Hold = float | Tensor | Callable[[Tensor], Tensor]
"""The values at which a block's gates are held: see `holding`."""

_HELD = "_senet_held_gate"  # in the __dict__ of a block whose gates are held


@contextmanager
def recording(model: nn.Module, names: Sequence[str] | None = None) -> Iterator[Mapping[str, Tensor]]:
    """A context that records the gates of each SE block's latest forward pass, by the block's name.

    The mapping fills as the network runs, in the order in which the blocks first ran. Gates are (N,
    C) and include `scale`: they are the factors by which each channel of each sample was
    multiplied. Without a squeeze (NoSqueeze) gates vary over space, and their spatial mean is
    recorded. Held gates are recorded as held. All are detached copies on the network's device and
    in its dtype. A block that runs several times in one forward pass shows its last run. Each block
    computes its gates a second time, so in training mode a batch norm inside another library's
    block counts the batch twice. A compiled network runs uncompiled within the context.

    Args:
        model: a network with SE blocks, ours or another library's.
        names: the blocks to record; all by default.

    Raises:
        InsertionError: the network holds no SE, or no block of that name.
    """
    gates: dict[str, Tensor] = {}
    chosen = _chosen(model, names)

    def look(name: str, args: Any, kwargs: Any) -> None:
        held = chosen[name].__dict__.get(_HELD)
        with torch.no_grad():
            found = _computed(chosen[name], args, kwargs) if held is None else held(args, kwargs)
            flat = found.flatten(2).mean(2) if found.dim() > 2 else found
        gates[name] = flat.detach().clone()

    with uncompiled(), before_calls(chosen, look):
        yield gates


@contextmanager
def holding(model: nn.Module, at: Mapping[str, Hold]) -> Iterator[None]:
    """A context in which the named SE blocks use the gates in `at` instead of those they compute.

    - A number sets every gate of the block. At 1 the block has no effect.
    - A tensor (C,) sets each channel, and one of (N, C) each channel of each sample.
    - A callable takes the gates that the block computes: (N, C), or (N, C, *space) without a
      squeeze. It returns the gates to use, in the same shape or as (C,) or (N, C). `lambda s: 0.5 *
      s` scales them, and `lambda s: s.roll(1, 0)` gives each sample the gates of another.

    Gradients flow through the gates. A compiled network runs uncompiled within the context.

    Args:
        model: a network with SE blocks, ours or another library's. Afterwards it is unchanged.
        at: block names, as `blocks` lists them, with the values of their gates.

    Raises:
        InsertionError: a name is not an SE block of the network, a value has another type or shape,
            or the block's gates are held already.
    """
    chosen = _chosen(model, list(at))
    for name, block in chosen.items():
        _check(name, block, at[name])
    with uncompiled(), ExitStack() as stack:
        for name, block in chosen.items():
            stack.callback(_put_back, block, vars(block).get("forward"))
            block.__dict__[_HELD] = _held(name, block, at[name])
            block.__dict__["forward"] = _forward(block)
            stack.enter_context(block.register_forward_pre_hook(_seen))
        yield


def _put_back(block: nn.Module, forward: Any) -> None:
    """Let a block go, with the forward that another tool had assigned to it, if any."""
    del block.__dict__[_HELD], block.__dict__["forward"]
    if forward is not None:
        block.__dict__["forward"] = forward


def _chosen(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    found = blocks(model)
    if not found:
        raise InsertionError(
            f"{type(model).__name__} holds no SE block whose gates could be looked at; SE written into the forward of "
            f"a larger module, which `senet.blocks(model, example)` lists, cannot be"
        )
    if names is None:
        return found
    for name in names:
        if name not in found:
            hint = did_you_mean(name, found, ".", most=1)
            raise InsertionError(f"{name!r} is not an SE block of this network{hint} They are {', '.join(found)}")
    return {name: found[name] for name in names}


def _check(name: str, block: nn.Module, value: Any) -> None:
    if _HELD in block.__dict__:
        raise InsertionError(f"the gates of {name} are held already: give all that is to be held at once")
    if callable(value) and not isinstance(value, Tensor):
        return
    if isinstance(value, Tensor):
        channels = channels_of(block, value.shape[-1] if value.dim() else 0)
        if value.dim() not in (1, 2) or value.shape[-1] != channels:
            raise InsertionError(_misfit(name, channels, value))
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise InsertionError(f"the gates of {name} are held at a number, a tensor or a callable, not {value!r}")


def _misfit(name: str, c: int, value: Tensor) -> str:
    return f"the gates of {name} are held at a tensor ({c},) or (N, {c}), not one of shape {tuple(value.shape)}"


def _map_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The map that a block is called with."""
    found: Tensor = args[0] if args else kwargs.get("x", next(iter(kwargs.values())))
    return found


def _computed(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The gates that a block computes: (N, C), or (N, C, *space) where nothing is squeezed."""
    x = _map_of(args, kwargs)
    found = gate(block, x, *args[1:], **{key: value for key, value in kwargs.items() if value is not x})
    if channel_dim_of(block) == -1:
        found = found.movedim(-1, 1)
    return found.flatten(1) if found.shape[2:].numel() == 1 else found


def _held(name: str, block: nn.Module, value: Hold) -> Callable[[Any, Any], Tensor]:
    """A function from the block's arguments to its held gates: (N, C), or (N, C, *space) from a callable."""

    def to_use(args: Any, kwargs: Any) -> Tensor:
        x = _map_of(args, kwargs)
        samples, channels = x.shape[0], x.shape[channel_dim_of(block)]
        if isinstance(value, int | float):
            return x.new_full((samples, channels), value)
        given: Any = value if isinstance(value, Tensor) else value(_computed(block, args, kwargs))
        if not isinstance(given, Tensor):
            raise InsertionError(f"the gates of {name} are held at what a callable returns, a tensor, not {given!r}")
        found = given.to(x)
        if found.dim() == 1:
            found = found.expand(samples, -1)
        space = x.shape[2:] if channel_dim_of(block) == 1 else x.shape[1:-1]
        if tuple(found.shape[:2]) != (samples, channels) or (found.dim() > 2 and found.shape[2:] != space):
            raise InsertionError(f"{_misfit(name, channels, found)}, for an input of shape {tuple(x.shape)}")
        return found

    return to_use


def _seen(_block: nn.Module, _args: Any) -> None:
    """Do nothing. A block with a hook is called as a module, which a fused pass in training would skip."""


def _forward(block: nn.Module) -> Callable[..., Tensor]:
    """The block's forward (equation 4) with its held gates."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        x, found = _map_of(args, kwargs), block.__dict__[_HELD](args, kwargs)
        found = found.reshape(*found.shape, *(1,) * (x.dim() - found.dim()))
        if channel_dim_of(block) == -1:
            found = found.movedim(1, -1)
        y: Tensor = x * found
        return y + x if adds_input(block) else y

    return forward
