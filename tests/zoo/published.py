"""Networks with random weights under the names that others published theirs under."""

from __future__ import annotations

import re

import torch


def randomised(model):
    """`model` in eval mode, with running statistics that a mistake in them would show."""
    if next(model.parameters()).is_meta:
        return model
    generator = torch.Generator().manual_seed(1)
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.copy_(torch.randn(value.shape, generator=generator) / 10)
        elif name.endswith("running_var"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    for value in model.parameters():
        if value.dim() == 1:  # weights of normalisations, and biases
            value.data.add_(torch.randn(value.shape, generator=generator) / 10)
    return model.eval()


def legacy(state):
    """A state dict of ours under the keys of the authors' release as ported, without counters and scales."""
    renamed = {}
    for key, value in state.items():
        if key.endswith(("num_batches_tracked", ".se.scale")):
            continue
        key = re.sub(r"\.bn\d\.se\.", ".se_module.", key)
        key = re.sub(r"^(conv1|bn1)\.", r"layer0.\1.", key)
        renamed[re.sub(r"^fc\.", "last_linear.", key)] = value
    return renamed


@torch.no_grad()
def outputs(model, x):
    return model.eval()(x)


def close(one, other):
    """Equal to 1e-5 of the largest."""
    return one.shape == other.shape and ((one - other).abs().max() <= 1e-5 * other.abs().max()).item()


def same(one, other, tolerance=0.0):
    return one.keys() == other.keys() and all(
        one[key].shape == other[key].shape and torch.allclose(one[key], other[key], rtol=tolerance, atol=tolerance)
        for key in one
    )
