"""The memory of a process that trains on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # as in malloc.h


def keep_freed_memory() -> None:
    """Keep memory that is freed for the next step, which would otherwise go back to the system at once.

    PyTorch allocates each activation anew on the CPU. glibc takes the large ones from the system one by one and gives
    them back when they are freed, and the system clears every page that it hands out: a tenth to a quarter of a
    training step. The process keeps the most memory that it ever used until it ends, so this is for commands, not for
    calls in a process that goes on with something else.

    Other allocators are left alone, and so is this one where the environment tunes it (MALLOC_..., GLIBC_TUNABLES).
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it; Windows opens no process of None
        tune = ctypes.CDLL(None).mallopt
        tune.argtypes = [ctypes.c_int, ctypes.c_int]
        tune(_TRIM_THRESHOLD, -1)
        tune(_MMAP_MAX, 0)
