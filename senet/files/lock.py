"""A lock on a folder, so that two processes never work in it at once, on one machine or on a shared disk."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from senet.errors import StudyError
from senet.files.records import read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LOCK", "locked"]

LOCK = ".lock"
_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""The errors of a file system without locks, on which we work unlocked."""


_held: set[int] = set()
"""The descriptors of this process's locks."""


def _close_in_fork() -> None:
    """Close the locks in a forked process.

    A worker that loads images outlives its killed parent by seconds and would keep the lock.
    """
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_fork)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context that locks the folder against other processes. The system releases a killed process's lock.

    Raises:
        StudyError: another process, which is named, holds the lock, or it cannot be written.
    """
    path = folder / LOCK
    try:
        descriptor = _acquired(path)
    except BlockingIOError:
        raise StudyError(f"{_holder(path)} is working in {folder}: wait for it, or choose another folder") from None
    except OSError as error:
        raise StudyError(f"{folder} cannot be locked ({error.strerror or error}): choose another folder") from error
    _held.add(descriptor)
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            _held.discard(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()  # Removed while held: a process that opened it before checks the path again.
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _acquired(path: Path) -> int:
    """Open and lock the lock's file; return its descriptor.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False)):
                    os.truncate(descriptor, 0)
                    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # it was removed or replaced meanwhile


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _WITHOUT:
            raise


def _holder(path: Path) -> str:
    """The holder of the lock, from its file."""
    with contextlib.suppress(StudyError):
        said = read_text(path, 200).strip()
        if said.startswith("process ") and said.isprintable() and len(said) < 100:
            return said
    return "another process"
