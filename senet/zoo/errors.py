"""The error of this room, and the nearest right spelling in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ModelError", "did_you_mean"]


class ModelError(ValueError):
    """No network can be made as asked; the message says what was given and what would do."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message: the names of `known` nearest to `given`, or some of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there is {', '.join(known[:8])}{', …' if len(known) > 8 else ''}" if known else ""
