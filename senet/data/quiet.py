"""Warnings kept quiet while several threads decode images at once."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["without_warnings"]

_lock = threading.Lock()
_inside = 0
_filters = warnings.catch_warnings()


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Warnings are ignored within, also while other threads are within or leave.

    Python's filters are the process's. Two threads that each put them back as they found them would leave the
    "ignore" of one behind, or take it from under the other, where a filter "error" then makes a bad file of a whole
    one. So the first that comes sets it, and the last that goes puts back what was there.
    """
    global _inside, _filters
    with _lock:
        if not _inside:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.simplefilter("ignore")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _filters.__exit__(None, None, None)


def _alone() -> None:
    """A process that was forked has one thread: none of the others is within, or holds the lock."""
    global _inside, _lock
    _lock = threading.Lock()
    if _inside:
        _filters.__exit__(None, None, None)
    _inside = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
