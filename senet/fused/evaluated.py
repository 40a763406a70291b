"""SE behind a normalisation in inference, where nothing is differentiated.

The normalisation is PyTorch's own, and SE overwrites its output u, which nobody else holds. One
compiled call reads u, computes the gates s and writes

    relu(s·u + shortcut)

where the plain network takes two passes for the addition and the ReLU. A gate that is exactly 1
changes no bit: a network with SE that starts as the identity equals the plain one bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from senet.activations import ACTIVATIONS
from senet.block import SEBlock
from senet.fused.conditions import may_overwrite
from senet.fused.normalisations import dimensions_of
from senet.fused.passes import inference as compiled
from senet.fused.passes.library import library
from senet.fused.switch import notify

__all__ = ["normalise_then_excite"]

_NUMBERS = {each.op: each.native for each in ACTIVATIONS}


def normalise_then_excite(
    norm: nn.Module,
    kind: type[nn.Module],
    block: nn.Module,
    v: Tensor,
    other: Tensor | None = None,
    *,
    relu: bool = False,
    rectified: bool = False,
) -> Tensor | None:
    """Apply normalisation and SE to v, add `other`, and rectify, in inference.

    Shapes: (N, C, *space), the output like v.

    Args:
        norm: a normalisation in eval mode.
        kind: the normalisation's class without SE.
        block: the SE block.
        v: the normalisation's input.
        other: the shortcut to add, with v's shape, dtype and device.
        relu: whether the sum is rectified.
        rectified: whether SE takes the rectified normalisation; `other` is then None.

    Returns:
        The output, or None, without any effect, if the operations must run one by one.
    """
    if v.dim() != (dimensions_of(kind) or v.dim()) or not may_overwrite(norm, block, v) or library() is None:
        return None
    assert isinstance(block, SEBlock)
    u: Tensor = kind.forward(norm, v)
    notify(block, ())
    threads, ones = torch.get_num_threads(), u.dim() - 2
    layers = (block.fc1.weight, block.fc1.bias, block.fc2.weight, block.fc2.bias)
    rectify = compiled.BEFORE if rectified else compiled.AFTER if relu else compiled.NOT
    if all(x is None or x.is_contiguous() for x in layers):
        outer = _NUMBERS[block.gate_function.replace("_", "")]
        excitation = (*layers[:2], _NUMBERS["relu"], *layers[2:], outer, ones)
        if compiled.excite_and_rescale(threads, u, excitation, u, other, rectify, block.scale.item()):
            return u
    if (pooled := compiled.squeeze(threads, u, rectified)) is not None:
        gate = block.gate(pooled).to(u.dtype).view(*u.shape[:2], *[1] * ones)
    else:
        u, rectified = u.relu_() if rectified else u, False
        gate = block.gate(u)
        rectify = compiled.AFTER if relu else compiled.NOT
    if compiled.rescale(threads, u, gate, other, rectify):
        return u
    u = (u.relu_() if rectified else u).mul_(gate)
    u = u if other is None else u.add_(other)
    return u.relu_() if relu else u
