"""Paths as people type them, and as libraries take them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["expanded", "utf8_name"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ~ as the home folder.

    A name such as `~draft.jpg`, whose ~ is no home, stays; `Path.expanduser` raises a RuntimeError there.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A context with a name of an existing file for libraries that take only UTF-8: its own, or its descriptor's.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as stream:
        name = str(path)
        try:
            name.encode()
        except UnicodeEncodeError:
            name = f"/dev/fd/{stream.fileno()}"
        yield name
