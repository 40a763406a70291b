"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["expanded"]


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with a leading ~ as the home folder.

    A name such as `~draft.jpg`, whose ~ is no home, stays; `Path.expanduser` raises a RuntimeError there.
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111
