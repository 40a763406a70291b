"""Run a network and restore its modes, buffers and random state."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from senet.errors import InputError, InputTypeError, InsertionError
from senet.words import kind_of, with_article

__all__ = ["Batched", "as_call", "batch_dims", "before_calls", "changed", "check_module", "copy_of", "count_parameters"]
__all__ += ["describe", "devices_of", "meant", "noise", "random_kept", "run", "set_training", "sets_mode", "tensors_in"]
__all__ += ["uncompiled", "uninfluenced", "untouched"]


@dataclasses.dataclass(frozen=True, slots=True)
class Batched:
    """A tensor of an example with its batch dimension.

    If an example has a Batched tensor, all plain tensors beside it have no batch. `optimize` and
    `export` take such examples. Otherwise the batch is dimension 0 of every tensor that has the
    first map's length there.

    Args:
        tensor: the tensor that the network takes.
        dim: the batch dimension.
    """

    tensor: Tensor
    dim: int = 0


pytree.register_pytree_node(
    Batched,
    lambda given: ([given.tensor], given.dim),
    lambda tensors, dim: Batched(next(iter(tensors)), dim),
    serialized_type_name="senet.Batched",
)


def as_call(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from an example: a tensor (or any one object), a tuple, or a dict."""
    args: tuple[Any, ...] = (
        () if isinstance(example, Mapping) else example if isinstance(example, tuple) else (example,)
    )
    kwargs = dict(example) if isinstance(example, Mapping) else {}
    if any(_is_batched(leaf) for leaf in _leaves(example)):
        args, kwargs = pytree.tree_map(lambda x: x.tensor if _is_batched(x) else x, (args, kwargs), is_leaf=_is_batched)
    return args, kwargs


def batch_dims(example: Any) -> list[int | None]:
    """The batch dimension of each tensor of an example, in order; None for a tensor without one.

    Without Batched tensors, the batch size is that of the first floating-point tensor of two
    dimensions or more, else of the first tensor that has a dimension.

    Raises:
        InputError: a tensor has no such dimension.
    """
    leaves = [leaf for leaf in _leaves(example) if isinstance(leaf, Tensor | Batched)]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if len(tensors) < len(leaves):
        return [_dim(leaf) if isinstance(leaf, Batched) else None for leaf in leaves]
    maps = [x for x in tensors if x.dim() > 1]
    likely = (*(x for x in maps if x.is_floating_point()), *maps, *(x for x in tensors if x.dim()))
    return [0 if x.dim() and len(x) == len(likely[0]) else None for x in tensors]


def _dim(given: Batched) -> int:
    count = given.tensor.dim()
    if not -count <= given.dim < count:
        raise InputError(f"Batched(..., dim={given.dim}) holds {describe(given.tensor)}, which has no such dimension")
    return given.dim % count


def _leaves(example: Any) -> list[Any]:
    return pytree.tree_leaves(dict(example) if isinstance(example, Mapping) else example, is_leaf=_is_batched)


def _is_batched(given: Any) -> bool:
    return isinstance(given, Batched)


def describe(example: Any) -> str:
    """An example in words: dtypes and shapes, not values."""
    if isinstance(example, Batched):
        return f"{describe(example.tensor)} with its batch in dimension {example.dim}"
    if isinstance(example, Tensor):
        return f"{with_article(str(example.dtype).removeprefix('torch.'))} tensor of shape {tuple(example.shape)}"
    if isinstance(example, Mapping):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in example.items()) + "}"
    if isinstance(example, tuple | list):
        return "(" + ", ".join(map(describe, example)) + ")"
    return kind_of(example)


def tensors_in(value: Any, _seen: set[int] | None = None) -> list[Tensor]:
    """The tensors of a value: in containers, in mappings of any kind, and in the attributes of objects."""
    seen = set[int]() if _seen is None else _seen
    found: list[Tensor] = []
    for leaf in pytree.tree_leaves(value):
        inside = dict(leaf) if isinstance(leaf, Mapping) else getattr(leaf, "__dict__", None)
        opaque = isinstance(leaf, nn.Module | type | types.ModuleType) or callable(leaf) or id(leaf) in seen
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif inside and not opaque:
            seen.add(id(leaf))
            found += tensors_in(dict(inside), seen)
    return found


def devices_of(model: nn.Module) -> set[torch.device]:
    """The devices of the parameters and buffers of `model`."""
    return {tensor.device for tensors in (model.parameters(), model.buffers()) for tensor in tensors}


def copy_of(model: nn.Module, instead: str = "use inplace=True") -> nn.Module:
    """A deep copy of `model`, whose parameters can be trained even if it is made in inference mode.

    PyTorch does not copy results, such as a weight that `torch.nn.utils.weight_norm` or a pruning
    makes anew before each pass. Their values are copied.

    Raises:
        InsertionError: it cannot be copied; the message ends with `instead`.
    """
    attributes = [x for module in model.modules() for x in (*vars(module).values(), *module._buffers.values())]
    try:
        with torch.inference_mode(False):
            results = {id(x): x.detach().clone() for x in attributes if isinstance(x, Tensor) and not x.is_leaf}
            return copy.deepcopy(model, results)
    except Exception as error:
        raise InsertionError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}): {instead}"
        ) from error


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of `module`, trainable or frozen; shared ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in module.parameters())


# ultralytics' YOLO is an nn.Module whose `train` starts a training, and its `eval` calls `train`.
def set_training(model: nn.Module, training: bool) -> nn.Module:
    """Put `model` into training or eval mode, with its own `train` only if that sets a mode.

    Returns:
        `model`.
    """
    if type(model).train is not nn.Module.train and sets_mode(model):
        model.train(training)
    else:
        model.training = training
        for child in model.children():
            set_training(child, training)
    return model


def sets_mode(model: nn.Module) -> bool:
    """Whether the `train` of a module's class sets a mode, as `nn.Module.train` does, and starts no training."""
    try:
        _, *parameters = inspect.signature(type(model).train).parameters.values()
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first, *others = parameters
    named = first.name in ("mode", "training", "train", "flag") or isinstance(first.default, bool)
    alone = all(
        each.default is not each.empty or each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in others
    )
    return (named or first.kind is first.VAR_POSITIONAL) and alone


def meant(model: object) -> str:
    """A hint if `model` is an object that holds the network as `.model`, else ""."""
    inner = getattr(model, "model", None)
    return "; its attribute `model` is the network: give that" if isinstance(inner, nn.Module) else ""


def check_module(model: object) -> None:
    """Raise an InputTypeError unless `model` is a network."""
    if not isinstance(model, nn.Module):
        raise InputTypeError(f"model is an nn.Module, not {type(model).__name__}{meant(model)}")


@contextmanager
def untouched(model: nn.Module, *, training: bool = False) -> Iterator[None]:
    """A context in which `model` is in eval mode (or training mode, on request) and whose exit restores its state.

    It restores each module's `training` flag, every buffer's identity and value, and the random
    generators of the CPU, the model's devices, Python and NumPy; after training mode also the parameters.
    Gradients are not restored: run without them, or do not call `backward`.
    """
    flags = [(module, module.training) for module in model.modules()]
    held: list[tuple[dict[str, Any], str, Any]] = [
        (module._buffers, name, buffer) for module in model.modules() for name, buffer in module._buffers.items()
    ]
    if training:  # a codebook is learnt in the forward pass, and a first batch may initialise parameters
        held += [
            (module._parameters, name, parameter)
            for module in model.modules()
            for name, parameter in module._parameters.items()
            if type(parameter) is nn.Parameter  # no shard, which the run itself may exchange
        ]
    before = [
        (tensors, name, tensor, tensor.detach().clone())
        for tensors, name, tensor in held
        if tensor is not None and not tensor.is_meta
    ]
    generators = sorted({device.index for device in devices_of(model) if device.type == "cuda"})
    with torch.random.fork_rng(devices=generators), random_kept():
        try:
            set_training(model, training)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for tensors, name, tensor, value in before:
                    tensors[name] = tensor
                    if changed(tensor, value):  # a write would invalidate the caller's graph
                        tensor.copy_(value)


@contextmanager
def random_kept() -> Iterator[None]:
    """A context whose exit restores the random states of Python and, if it is loaded, of NumPy."""
    python, numpy = random.getstate(), sys.modules.get("numpy")
    other: Any = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(other)


def changed(tensor: Tensor, value: Tensor) -> bool:
    """Whether a tensor no longer has a value."""
    try:
        return not torch.equal(tensor, value)
    except NotImplementedError:  # PyTorch compares no sparse tensors
        return True


@contextmanager
def uninfluenced() -> Iterator[None]:
    """A context without the caller's autocast, inference mode and gradients: a capture would take them in."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def before_calls(modules: Mapping[str, nn.Module], look: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """A context that calls `look(name, args, kwargs)` before each call of the modules, given by name."""

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, args, kwargs: look(name, args, kwargs)

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(hook(name), with_kwargs=True))
        yield


_lock, _uncompiled, _stance = threading.Lock(), list[None](), ExitStack()


@contextmanager
def uncompiled(*, load: bool = False) -> Iterator[None]:
    """A context in which compiled networks run uncompiled: what was compiled before knows nothing of new hooks.

    Args:
        load: import Dynamo, which takes seconds, because a network may be compiled within the context.
    """
    if not load and "torch._dynamo" not in sys.modules:
        yield
        return
    with _lock:  # PyTorch has one stance for all threads, which holds until the last of them has left
        if not _uncompiled:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _uncompiled.append(None)
    try:
        yield
    finally:
        with _lock:
            _uncompiled.pop()
            if not _uncompiled:
                _stance.close()


def noise(*shape: int, draw: Callable[..., Tensor] = torch.randn) -> Tensor:
    """Noise of a shape, the same at every call, on the CPU whatever the default device is."""
    return draw(shape, generator=torch.Generator().manual_seed(0), device="cpu")


def run(model: nn.Module, example: Any) -> Any:
    """`model` on `example`, without gradients, uncompiled.

    Raises:
        InsertionError: the network refuses the example; the message has the example and the network's error.
    """
    args, kwargs = as_call(example)
    try:
        with torch.no_grad(), uncompiled():
            return model(*args, **kwargs)
    except InsertionError:  # from a block that is tried
        raise
    except Exception as error:
        raise InsertionError(
            f"{type(model).__name__} does not run on the example, {describe(example)}: "
            f"{type(error).__name__}: {str(error).strip() or 'no message'}. Give an example that the network "
            f"takes: a tensor, a tuple of positional arguments, or a dict of keyword arguments"
        ) from error
