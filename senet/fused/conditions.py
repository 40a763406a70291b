"""When normalisation and SE may be fused: only where fusion changes nothing but time and memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from senet.block import SEBlock, is_watched
from senet.block.equations import misses_padding
from senet.fused.internals import hooks_of, is_being_traced, tensors_of
from senet.fused.passes.pointers import layout
from senet.fused.passes.protocol import compute_dtype
from senet.fused.switch import fusing, needs_module_call

__all__ = ["can_fuse", "hooked", "is_being_traced", "may_overwrite"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def can_fuse(norm: nn.Module, block: nn.Module | None, v: Tensor) -> bool:
    """Whether normalisation and SE may be fused now.

    They may not be
    - in eval mode, where the normalisation is PyTorch's own, bit for bit (see `may_overwrite`);
    - while something observes the operations (`is_being_traced`);
    - if a hook needs the tensor between normalisation and SE;
    - over small tensors, for which fusion takes longer.

    Args:
        norm: a normalisation, with or without joined SE.
        block: the SE block; None for the normalisation alone.
        v: the normalisation's input.
    """
    return (
        norm.training
        and type(v) is Tensor
        and v.layout is torch.strided
        and v.dim() > 2
        and v.dtype in _DTYPES
        and v.shape[1] == getattr(norm, "num_features", getattr(norm, "num_channels", 0))
        and v.numel() > v.shape[1]  # the normalisation itself raises on one value per channel
        and fusing(v)
        and not is_being_traced()  # before anything that relies on torch's internals
        and bool(layout(v))
        and (block is None or _takes_part(block, v.shape[1]))
        and _parameters_fit([norm] if block is None else [norm, *block.children()], v)
    )


def may_overwrite(norm: nn.Module, block: nn.Module, v: Tensor) -> bool:
    """Whether SE may now overwrite the normalisation's output in inference: on the CPU, unseen and undifferentiated.

    Args:
        norm: a normalisation, with or without joined SE.
        block: the SE block.
        v: the normalisation's input.
    """
    return (
        not norm.training
        and not torch.is_grad_enabled()
        and type(v) is Tensor
        and v.is_cpu
        and v.layout is torch.strided
        and v.dim() > 2
        and v.dtype in (torch.float32, torch.bfloat16)
        and fusing()  # small tensors too: a call takes longer than they do
        and not is_being_traced()
        and _takes_part(block, v.shape[1])
        and _parameters_fit([norm, *block.children()], v)
    )


def _takes_part(block: nn.Module, channels: int) -> bool:
    return (
        type(block) is SEBlock
        and not misses_padding(block)
        and block.squeeze == "avg"
        and block.in_channels == channels
        and not block.scale.requires_grad  # the pass has no gradient for it
        and not block.scale.dim()
        and "gate" not in block.__dict__
        and not hooked(block)
        and not is_watched(block.fc1)
        and not is_watched(block.fc2)
    )


def _parameters_fit(modules: list[nn.Module], v: Tensor) -> bool:
    """Whether all parameters are plain dense tensors on v's device, with its dtype or the dtype of sums."""
    allowed = (v.dtype, compute_dtype(v))
    return all(
        tensor is None
        or not tensor.is_floating_point()
        or (
            type(tensor) in (nn.Parameter, Tensor)
            and tensor.layout is torch.strided
            and tensor.dtype in allowed
            and tensor.device == v.device
        )
        for module in modules
        for tensor in tensors_of(module)
    )


def hooked(module: nn.Module) -> bool:
    """Whether a hook, an assigned `forward` or a compiled call needs this module to be called."""
    own = module.__dict__
    return "forward" in own or "_senet_forwards" in own or any(map(needs_module_call, hooks_of(module)))
