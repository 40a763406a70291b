"""Networks given as Python objects: a network, or a function that returns one."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from senet.errors import InputTypeError, ModelError
from senet.files.code_digest import code_name, digest_of_code
from senet.files.own_code import raised_at
from senet.running import copy_of
from senet.words import kind_of

__all__ = ["Given", "digest_of_tensors", "given_model"]

Model = str | nn.Module | Callable[..., nn.Module]


@dataclasses.dataclass(frozen=True)
class Given:
    """The maker of a network that has no name.

    Attributes:
        content: a value that changes with the network.
        make: a function that returns it, or the network, which each call copies.
    """

    content: str
    make: Callable[..., nn.Module] | nn.Module

    def made(self, name: str, num_classes: int | None) -> nn.Module:
        """Make the network; `num_classes` is passed only to a function that takes it.

        Raises:
            ModelError: the network cannot be copied, or the function raises an error or returns no network.
        """
        options: dict[str, Any] = {}
        if num_classes is not None and "num_classes" in inspect.signature(self.make).parameters:
            options["num_classes"] = num_classes
        try:
            network: Any = (
                copy_of(self.make, "give a function that makes it")
                if isinstance(self.make, nn.Module)
                else self.make(**options)
            )
        except Exception as error:  # any error of the user's code
            words = " ".join(str(error).split()) or "no message"
            raise ModelError(f"{name} raised {type(error).__name__}: {words:.300}{raised_at(error)}") from error
        if not isinstance(network, nn.Module):
            raise ModelError(f"{name} returned {kind_of(network)}, not a torch.nn.Module")
        return network


def given_model(model: Model) -> tuple[str, Given | None]:
    """A network's name, and its maker if it was not given by name.

    Raises:
        InputTypeError: it is neither a name, a network nor a function.
        ModelError: the network has parameters without values.
    """
    if isinstance(model, str):
        return model, None
    if isinstance(model, nn.Module):
        if any(nn.parameter.is_lazy(each) or each.is_meta for each in model.parameters()):
            raise ModelError(
                f"{type(model).__name__} has parameters without values: lazy layers need a run on an input first, and "
                "a network on the meta device needs weights"
            )
        return f"{type(model).__name__}()", Given(digest_of_tensors(model, f"{model}"), model)
    if callable(model):
        return code_name(model), Given(digest_of_code(model), model)
    raise InputTypeError(
        f"a network is a name, a torch.nn.Module, or a function that returns one, not {kind_of(model)}"
    )


def digest_of_tensors(network: nn.Module, description: str = "") -> str:
    """A digest of a network's parameters and buffers, and of a description of it."""
    state = hashlib.sha256(description.encode())
    for key, tensor in network.state_dict().items():
        if hasattr(tensor, "detach"):
            plain = tensor.int_repr() if tensor.is_quantized else tensor.detach()
            state.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
            state.update(plain.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256 {state.hexdigest()[:16]}"
