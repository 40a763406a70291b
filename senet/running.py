"""Run a network and leave no trace: modes, buffers and random state are afterwards what they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from senet.errors import InsertionError

__all__ = ["as_call", "count_parameters", "describe", "devices_of", "run", "untouched"]


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from an example: a tensor (or any one object), a tuple, or a dict."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def describe(example: Any) -> str:
    """An example in words: dtypes and shapes, not values."""
    if isinstance(example, Tensor):
        return f"a {str(example.dtype).removeprefix('torch.')} tensor of shape {tuple(example.shape)}"
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in example.items()) + "}"
    if isinstance(example, tuple | list):
        return "(" + ", ".join(map(describe, example)) + ")"
    return f"a {type(example).__name__}"


def devices_of(model: nn.Module) -> set[torch.device]:
    """Where the parameters and buffers of `model` lie."""
    return {tensor.device for tensors in (model.parameters(), model.buffers()) for tensor in tensors}


def count_parameters(module: nn.Module) -> int:
    """How many numbers `module` can learn or has frozen: shared parameters once, buffers not."""
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def untouched(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """Within it `model` is in eval mode (or training mode, on request); on leaving all is as before.

    Kept: each module's own `training` flag, every buffer's identity and value, and the state of the random
    generators of the CPU and of the devices that the model lies on. Gradients are the caller's business: run
    without them, or without calling `backward`.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_meta
    ]
    generators = sorted({device.index for device in devices_of(model) if device.type == "cuda"})
    with torch.random.fork_rng(devices=generators):
        try:
            model.train(training)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if not torch.equal(buffer, value):  # a write would disturb a graph of the caller's
                        buffer.copy_(value)


def run(model: nn.Module, example: Any) -> Any:
    """`model` on `example`, without gradients.

    Raises:
        InsertionError: where the network refuses the example, with what was given and what it said.
    """
    args, kwargs = as_call(example)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except InsertionError:  # of a block that is tried
        raise
    except Exception as error:
        raise InsertionError(
            f"{type(model).__name__} does not run on the example, {describe(example)}: "
            f"{type(error).__name__}: {str(error).strip() or 'no message'}. Give an example that the network "
            f"takes: a tensor, a tuple of positional arguments, or a dict of keyword arguments"
        ) from error
