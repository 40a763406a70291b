"""Words in messages: lists, counts, and the nearest right spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["counted", "did_you_mean"]


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 place", "2 places"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message: the names of `known` nearest to `given`, or some of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, n=3)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there is {', '.join(known[:8])}{', …' if len(known) > 8 else ''}" if known else ""
