"""What was found out about data once and is true until the data changes, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import StudyError
from senet.files.atomic import atomic_write
from senet.files.records import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["cache_folder", "remembered"]


def cache_folder() -> Path:
    """Where senet keeps what anyone may remove: $SENET_CACHE, else senet in $XDG_CACHE_HOME or ~/.cache.

    A leading ~ is the user's home. A user without one, as in many containers, gets a folder among the
    temporary files. It is made if it can be, for this user alone.
    """
    try:
        own, cache = os.environ.get("SENET_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(own).expanduser() if own else Path(cache).expanduser() / "senet"
    except RuntimeError:  # there is no home: neither $HOME nor an entry in the list of users
        folder = _without_home()
    # Compiled code is run from here, so even a umask of 002 must not let the group write.
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@functools.cache
def _without_home() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()) / f"senet-{user}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid == user and not folder.is_symlink():
            return folder
    return Path(tempfile.mkdtemp(prefix="senet-"))  # someone else has taken that name


def remembered(kind: str, key: bytes, make: Callable[[], tuple[Any, bool]]) -> Any:
    """What `make` returns, or returned when it was called with this key before: plain values.

    Of several processes that ask at once, such as the ranks of a training, one finds out and the others wait.

    Args:
        kind: the name of the folder for such values.
        key: changes with all that decides the value.
        make: returns the value, and whether it may be kept.
    """
    file = cache_folder() / kind / f"{hashlib.sha256(key).hexdigest()[:32]}.json"
    if (held := _read(file)) is not None:
        return held["value"]
    with _alone(file.with_suffix(".lock")):
        if (held := _read(file)) is not None:
            return held["value"]
        value, lasting = make()
        if lasting:
            # If the cache is not writable, do not cache.
            with contextlib.suppress(OSError), atomic_write(file) as temporary:
                temporary.write_text(json.dumps({"value": value}), encoding="utf-8")
    return value


def _read(file: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(read_text(file))
    except (StudyError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) and "value" in held else None


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Within it no other process is, as far as the file system can say."""
    try:
        import fcntl

        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    except (ImportError, OSError):
        yield
        return
    try:
        with contextlib.suppress(OSError):  # not every file system knows locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()
        os.close(descriptor)
