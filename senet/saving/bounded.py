"""Bound the memory in which the network of an untrusted file is built by the size of the file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from senet.errors import WeightsError

__all__ = ["TooLargeError", "bounded", "check_sizes", "numbers_in"]


def check_sizes(sizes: Iterable[int], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuse a header that asks for sizes beyond the file's count of numbers, which would only fill the memory."""
    most = _numbers_of(tensors)
    for size in sizes:
        if size > most:
            raise WeightsError(f"{file} is damaged: its header asks for {size} where it holds {most} numbers")


def _numbers_of(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def numbers_in(options: Iterable[Any]) -> Iterator[int]:
    """The whole numbers among options, also within lists."""
    for value in options:
        if isinstance(value, list):
            yield from numbers_in(value)
        elif isinstance(value, int):
            yield value


class TooLargeError(WeightsError):
    """A network under construction has more numbers or modules than its file can fill."""


@contextlib.contextmanager
def bounded(tensors: Mapping[str, Tensor], file: Path) -> Iterator[None]:
    """A context in which a network under construction is at most a few times as large as the file's content.

    Raises:
        WeightsError: during construction, as soon as it is larger.
    """
    numbers, modules = 4 * _numbers_of(tensors) + 10**6, 64 * len(tensors) + 1000
    built = [0, 0]
    owner = threading.get_ident()

    def count(at: int, size: int, most: int, what: str) -> None:
        if threading.get_ident() != owner:
            return
        built[at] += size
        if built[at] > most:
            raise TooLargeError(
                f"{file} is damaged: its header asks for a network of more than {most} {what}, and it holds "
                f"{_numbers_of(tensors)} numbers in {len(tensors)} tensors"
            )

    def tensor(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        count(0, 0 if value is None or nn.parameter.is_lazy(value) else value.numel(), numbers, "numbers")

    def module(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        count(1, 1, modules, "modules")

    with contextlib.ExitStack() as stack:
        stack.callback(register_module_parameter_registration_hook(tensor).remove)
        stack.callback(register_module_buffer_registration_hook(tensor).remove)
        stack.callback(register_module_module_registration_hook(module).remove)
        yield
