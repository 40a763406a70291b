"""A cache, in the user's cache folder, of facts about data that hold until the data changes."""

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

__all__ = ["alone", "cache_folder", "remembered"]


def cache_folder() -> Path:
    """The cache folder, which may be deleted at any time: $SENET_CACHE, else senet in $XDG_CACHE_HOME or ~/.cache.

    A leading ~ is the user's home. A user without a home, as in many containers, gets a folder
    among the temporary files. The folder is created, if possible, with access for this user only.
    """
    try:
        own, cache = os.environ.get("SENET_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = Path(own).expanduser() if own else Path(cache).expanduser() / "senet"
    except RuntimeError:  # there is no home: neither $HOME nor an entry in the user database
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
    return Path(tempfile.mkdtemp(prefix="senet-"))  # another user has taken that name


def remembered(kind: str, key: bytes, make: Callable[[], tuple[Any, bool]]) -> Any:
    """The plain values that `make` returns, or the cached ones from an earlier call with this key.

    If several processes ask at once, such as the ranks of a training, one computes and the others wait.

    Args:
        kind: the name of the subfolder.
        key: a value that changes whenever the result may.
        make: returns the result, and whether it may be cached.
    """
    file = cache_folder() / kind / f"{hashlib.sha256(key).hexdigest()[:32]}.json"
    if (held := _read(file)) is not None:
        return held["value"]
    with alone(file.with_suffix(".lock")):
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
def alone(file: Path) -> Iterator[None]:
    """A context that holds a lock between processes, if the file system has locks."""
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
