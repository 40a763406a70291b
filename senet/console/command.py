"""The typed command, for the reports that it writes."""

from __future__ import annotations

import contextlib
import contextvars
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["typed", "typing_in"]

_TYPED: contextvars.ContextVar[str] = contextvars.ContextVar("typed", default="")


def typed() -> str:
    """The command, quoted for a shell; "" if nothing was typed."""
    return _TYPED.get()


@contextlib.contextmanager
def typing_in(words: Sequence[str]) -> Iterator[None]:
    """A context in which `typed()` is `senet` with these words."""
    token = _TYPED.set(shlex.join(["senet", *words]))
    try:
        yield
    finally:
        _TYPED.reset(token)
