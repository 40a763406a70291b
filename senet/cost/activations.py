"""Count the bytes kept for the backward pass, in all and because of SE blocks."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from senet.errors import InputError
from senet.fused.switch import unobtrusive, watching
from senet.running import as_call, describe, uncompiled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["kept_for_backward", "watched"]

_SINGLE_VALUE = "Expected more than 1 value per channel"  # batch norm's error on a single 1×1 map


@contextlib.contextmanager
def watched(
    found: Mapping[str, nn.Module], entered: Callable[[str, Tensor], None], left: Callable[[str, Tensor, Tensor], None]
) -> Iterator[None]:
    """A context that calls `entered(name, x)` before and `left(name, x, y)` after each call of an SE block.

    Blocks that run in their normalisation's fused pass are not called; see
    `senet.fused.switch.watching`.
    """

    def before(name: str) -> Callable[..., None]:
        return unobtrusive(lambda _, args, kwargs: entered(name, _first(args, kwargs)))

    def after(name: str) -> Callable[..., None]:
        return unobtrusive(lambda _, args, kwargs, y: left(name, _first(args, kwargs), y))

    with contextlib.ExitStack() as hooks:
        for name, block in found.items():
            hooks.enter_context(block.register_forward_pre_hook(before(name), with_kwargs=True))
            hooks.enter_context(block.register_forward_hook(after(name), with_kwargs=True))
        yield


def _first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The input of a block that may be called by keyword."""
    first: Tensor = args[0] if args else next(iter(kwargs.values()))
    return first


def kept_for_backward(model: nn.Module, found: Mapping[str, nn.Module], example: Any) -> tuple[int, dict[str, int]]:
    """The bytes that autograd keeps of one forward pass of `model` in its present mode.

    They are distinct storages without parameters and buffers. If batch norm refuses a batch of one
    on 1×1 maps, they are extrapolated from batches 2 and 3, because they grow linearly.

    Args:
        model: the network; its buffers change as in training.
        found: its SE blocks, by name.
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Returns:
        The total bytes, and for each SE block those that the network would not keep without it.

    Raises:
        ValueError: the network does not run on the example.
    """
    try:
        return _kept(model, found, example)
    except ValueError as error:
        if _SINGLE_VALUE not in str(error):
            raise _refused(model, example, error) from error
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise _refused(model, example, error) from error
    (two, two_for), (three, three_for) = (_kept(model, found, _repeated(example, n)) for n in (2, 3))
    return 2 * two - three, {name: 2 * two_for[name] - three_for[name] for name in found}


class _Kept:
    """The object that autograd holds in place of a kept tensor; it lives as long as the graph."""

    def __init__(self, tensor: Tensor, owner: str | None) -> None:
        self.tensor = tensor
        self.owner = owner  # the SE block during whose call it was kept


def _kept(model: nn.Module, found: Mapping[str, nn.Module], example: Any) -> tuple[int, dict[str, int]]:
    """The bytes kept of one forward pass, in all and because of each SE block."""
    within: list[str] = []
    references: list[weakref.ref[_Kept]] = []
    rescaled: list[tuple[str, torch.UntypedStorage, torch.UntypedStorage]] = []
    names = {block: name for name, block in found.items()}
    in_passing: dict[int, str] = {}  # storages kept because of a block that runs in its normalisation's pass

    def pack(tensor: Tensor) -> _Kept:
        item = _Kept(tensor.detach(), within[-1] if within else None)
        references.append(weakref.ref(item))
        return item

    def entered(name: str, _: Tensor) -> None:
        within.append(name)

    def left(name: str, x: Tensor, y: Tensor) -> None:
        within.pop()
        rescaled.append((name, x.untyped_storage(), y.untyped_storage()))  # kept alive, so that no address is reused

    def ran(block: nn.Module, kept: Sequence[Tensor]) -> None:
        if block in names:
            in_passing.update((tensor.untyped_storage()._cdata, names[block]) for tensor in kept)

    args, kwargs = as_call(example)
    with (
        torch.enable_grad(),
        uncompiled(),
        watching(ran),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item.tensor),
        watched(found, entered, left),
    ):
        output = model(*args, **kwargs)
    constant = {t.untyped_storage()._cdata for t in itertools.chain(model.parameters(), model.buffers())}
    size: dict[int, int] = {}
    owners: dict[int, set[str | None]] = {}
    for item in filter(None, (reference() for reference in references)):
        storage = item.tensor.untyped_storage()
        if (address := storage._cdata) not in constant:
            size[address] = storage.nbytes()
            owners.setdefault(address, set()).add(in_passing.get(address, item.owner))
    del output  # the graph, and so everything that it keeps, lived until here
    calls = [(name, x._cdata, y._cdata) for name, x, y in rescaled]
    return sum(size.values()), _because_of_se(size, owners, calls, found)


def _because_of_se(
    size: Mapping[int, int],
    owners: Mapping[int, set[str | None]],
    calls: Iterable[tuple[str, int, int]],
    found: Iterable[str],
) -> dict[str, int]:
    """For each SE block, the bytes that the network would not keep without it.

    These are storages that only SE blocks keep. Also, without the block its input is its output. So
    if other modules keep both, the network without SE would keep only one, and the other counts for
    the block.
    """
    bytes_for = dict.fromkeys(found, 0)
    for address, by in owners.items():
        if None not in by:
            bytes_for[min(name for name in by if name is not None)] += size[address]
    without_se = {address: None in by for address, by in owners.items()}  # kept by others, or identical to one that is
    for name, x, y in calls:
        if x != y:
            kept_x, kept_y = without_se.get(x, False), without_se.get(y, False)
            bytes_for[name] += size.get(y, 0) if kept_x and kept_y else 0
            without_se[x] = without_se[y] = kept_x or kept_y
    return bytes_for


def _refused(model: nn.Module, example: Any, error: Exception) -> InputError:
    return InputError(
        f"{type(model).__name__} does not run in training mode on the example, {describe(example)}: "
        f"{type(error).__name__}: {error}"
    )


def _repeated(example: Any, times: int) -> Any:
    return tree_map_only(Tensor, lambda x: torch.cat([x] * times) if x.dim() and len(x) == 1 else x, example)
