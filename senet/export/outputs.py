"""A network's outputs in a form for files: tensors with unique names."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from senet.errors import ExportError
from senet.inference.shapes import Shapes

__all__ = ["TensorsOnly", "flat_outputs", "known_shapes", "meta_of", "name_of", "output_names", "without_tensors"]


def flat_outputs(output: Any) -> list[Tensor]:
    """The tensors in a network's output, in order."""
    return [leaf.detach() for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def without_tensors(output: Any) -> tuple[str, ...]:
    """The outputs other than tensors, in words: "output[1] = 3".

    Raises:
        ExportError: there are no tensors.
    """
    leaves = pytree.tree_leaves_with_path(output)
    if not any(isinstance(leaf, Tensor) for _, leaf in leaves):
        raise ExportError(f"the network returns {str(output)[:100]}, and a file gives tensors: return at least one")
    return tuple(
        f"output{pytree.keystr(path)} = {str(leaf)[:40]}" for path, leaf in leaves if not isinstance(leaf, Tensor)
    )


def output_names(output: Any, taken: Collection[str]) -> tuple[str, ...]:
    """A name for each output tensor: its key in a flat mapping, else `output` or `output0`.

    Args:
        output: the network's output.
        taken: the inputs' names. An output with such a name gets the suffix `_output`, because ONNX names are unique.
    """
    count = len(flat_outputs(output))
    names = ["output"] if count == 1 else [f"output{i}" for i in range(count)]
    if isinstance(output, Mapping) and all(pytree.tree_is_leaf(value) for value in output.values()):
        keys = [str(key) for key, value in output.items() if isinstance(value, Tensor)]
        names = [key or name for key, name in zip(keys, names, strict=True)]
    found: list[str] = []
    for name in names:
        while name in taken or name in found:
            name += "_output"
        found.append(name)
    return tuple(found)


def meta_of(model: nn.Module) -> dict[str, Any]:
    """What an inference form says of itself; empty for any other network, also for torchvision's feature extractors."""
    found: dict[str, Any] = getattr(model, "meta", {}) if isinstance(model, torch.fx.GraphModule | TensorsOnly) else {}
    return found


def known_shapes(model: nn.Module) -> Shapes | None:
    """The shapes of an inference form; None for any other network."""
    return meta_of(model).get("senet_shapes")


def name_of(model: nn.Module) -> str:
    """The name of a network's class, for messages."""
    return type(model.network if isinstance(model, TensorsOnly) else model).__name__


class TensorsOnly(nn.Module):
    """A wrapper that returns only a network's tensors, in order."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.meta = meta_of(network)

        @functools.wraps(network.forward)  # torch.export names inputs after the signature
        def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
            return _tensors(network(*args, **kwargs))

        self.forward = forward


def _tensors(output: Any) -> tuple[Tensor, ...]:
    for path, leaf in pytree.tree_leaves_with_path(output):
        if isinstance(leaf, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise ExportError(
                f"the network returns a number that depends on its input (output{pytree.keystr(path)}), and this "
                "file gives tensors: return it as a tensor, or leave it out"
            )
    return tuple(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
