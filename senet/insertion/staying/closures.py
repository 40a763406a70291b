"""Find modules that another module holds in a closure, which copies of it do not copy."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from senet.insertion.staying.joined import TWO_HOSTS, attachment

__all__ = ["host_of_the_original"]


def host_of_the_original(module: nn.Module) -> nn.Module | None:
    """The other host of a module's block if it holds another block: `module` is then a copy that calls the original.

    Args:
        module: a module that holds SE.
    """
    found = attachment(module)
    mark = module.__dict__.get(TWO_HOSTS, True)
    if found is None or mark is True:
        return None
    block = getattr(module, found.child)
    for other in _reached(module):
        at = attachment(other) if other.__dict__.get(TWO_HOSTS) == mark else None
        if at is not None and getattr(other, at.child, block) is not block:
            return other
    return None


def _reached(module: nn.Module) -> Iterator[nn.Module]:
    """Every module that `module` can call: its children and modules held by functions."""
    seen: set[int] = set()
    todo: list[Any] = [module]
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, nn.Module):
            yield each
        todo += _held_by(each)


def _held_by(each: Any) -> Iterable[Any]:
    if isinstance(each, nn.Module):
        return (value for key, value in each.__dict__.items() if not key.startswith("_senet_"))
    if isinstance(each, dict):
        return each.values()
    if isinstance(each, list | tuple | set | frozenset):
        return each
    if isinstance(each, types.MethodType):
        return (each.__self__, each.__func__)
    if isinstance(each, functools.partial):
        return (each.func, each.args, each.keywords)
    if isinstance(each, types.FunctionType):
        cells = (cell.cell_contents for cell in each.__closure__ or () if cell != types.CellType())
        return (*cells, each.__defaults__, each.__kwdefaults__)
    return ()
