"""When normalisation and SE may share a pass: where nobody could tell but by the clock and the memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as every_module

from senet.block import SEBlock
from senet.fused.passes.pointers import layout
from senet.fused.passes.protocol import compute_dtype
from senet.fused.switch import fusing, needs_module_call

__all__ = ["can_fuse", "hooked", "is_being_traced"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def can_fuse(norm: nn.Module, block: nn.Module | None, v: Tensor) -> bool:
    """Whether the pass may be shared here and now.

    Not in eval mode, where the straightforward path is equal bit for bit to the plain network's; not while something
    looks at the operations (a compiler, a tracer, a dispatch mode, a function transform), which is given the
    equations as they stand; not where someone's hook wants to see the tensor between the two; not over small tensors,
    where it would take longer.

    Args:
        norm: a normalisation, or one that SE was joined to.
        block: the SE block; None for the normalisation alone.
        v: what the normalisation is given.
    """
    return (
        norm.training
        and type(v) is Tensor
        and v.dim() > 2
        and v.dtype in _DTYPES
        and v.shape[1] == getattr(norm, "num_features", getattr(norm, "num_channels", 0))
        and v.numel() > v.shape[1]  # one value per channel is refused, by the normalisation itself
        and bool(layout(v))
        and (block is None or _takes_part(block, v.shape[1]))
        and _parameters_fit([norm] if block is None else [norm, *block.children()], v)
        and fusing(v)
        and not is_being_traced()
    )


def _takes_part(block: nn.Module, channels: int) -> bool:
    return (
        type(block) is SEBlock
        and block.squeeze == "avg"
        and block.in_channels == channels
        and type(block.fc1) is nn.Linear
        and type(block.fc2) is nn.Linear
        and not hooked(block)
    )


def _parameters_fit(modules: list[nn.Module], v: Tensor) -> bool:
    """Parameters on v's device, of its dtype or the one that sums are taken in."""
    allowed = (v.dtype, compute_dtype(v))
    return all(
        tensor is None
        or not tensor.is_floating_point()
        or (tensor.dtype in allowed and tensor.device == v.device and type(tensor) in (nn.Parameter, Tensor))
        for module in modules
        for tensor in (*module._parameters.values(), *module._buffers.values())
    )


def hooked(module: nn.Module) -> bool:
    """Whether somebody's hook waits for this module's call."""
    kinds = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks and any(map(needs_module_call, hooks.values())) for hooks in kinds)


def is_being_traced() -> bool:
    """Whether something looks at single operations, or at every module."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.maybe_current_level() is not None
        or forward_ad._current_level >= 0
        or every_module._global_forward_hooks
        or every_module._global_forward_pre_hooks
        or every_module._global_backward_hooks
        or every_module._global_backward_pre_hooks
    )
