"""What was found out about data once and is true until the data changes, kept in the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.files.atomic import atomic_write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["cache_folder", "remembered"]


def cache_folder() -> Path:
    """Where senet keeps what anyone may remove: $SENET_CACHE, else $XDG_CACHE_HOME/senet or ~/.cache/senet."""
    if own := os.environ.get("SENET_CACHE"):
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "senet"


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
            with contextlib.suppress(OSError), atomic_write(file) as temporary:  # a home that cannot be written is none
                temporary.write_text(json.dumps({"value": value}), encoding="utf-8")
    return value


def _read(file: Path) -> dict[str, Any] | None:
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
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
