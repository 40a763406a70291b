"""Silence warnings while several threads decode images."""

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
    """A context that ignores warnings, safely nested across threads.

    Python's warning filters belong to the process. If two threads each saved and restored them, one
    could leave its "ignore" behind, or remove the other's too early. So the first thread to enter
    sets the filter, and the last to leave restores the old ones.
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
    """Reset in a forked process, whose single thread neither holds the lock nor is inside the context."""
    global _inside, _lock
    _lock = threading.Lock()
    if _inside:
        _filters.__exit__(None, None, None)
    _inside = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alone)
