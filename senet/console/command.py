"""The typed command, for the reports that it writes."""

from __future__ import annotations

import contextlib
import contextvars
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["typed", "typing_in"]

_TYPED: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")


def typed() -> str:
    """The command, quoted for a shell; "" if nothing was typed."""
    return _TYPED.get()


@contextlib.contextmanager
def typing_in(command: str) -> Iterator[None]:
    """A context in which `typed()` is this command."""
    token = _TYPED.set(command)
    try:
        yield
    finally:
        _TYPED.reset(token)
