"""Words for messages: lists, counts, and the nearest right spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

__all__ = ["counted", "did_you_mean", "kind_of", "lasting_repr", "listed", "nearest", "printable", "with_article"]

# A terminal obeys control characters, and a file's name, key or class may hold them. Lone surrogates cannot be encoded.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# A class is often named by letters, and "LSTM" begins with that of an "el". An ndarray is an n-d array.
_AN = re.compile(r"[aeioAEIO]|ndarray|[FHLMNRSX](?=[A-Z0-9])")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


def printable(text: str) -> str:
    """The text with control characters and direction marks escaped as in Python, so that no terminal obeys them."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def lasting_repr(value: object) -> str:
    """The representation of a value, without memory addresses, which differ in each process."""
    return _ADDRESS.sub("", repr(value))


def kind_of(value: object) -> str:
    """The type of a value with its article: "a list", "an int"."""
    return with_article(type(value).__name__)


def with_article(noun: str) -> str:
    """A noun behind its indefinite article, as it is said: "a list", "an int", "an LSTM"."""
    return f"{'an' if _AN.match(noun) else 'a'} {noun}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 place", "2 places"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first of some names, and how many more there are: "a, b and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def nearest(given: object, known: Iterable[str], most: int = 1) -> list[str]:
    """The names of `known` spelt most like `given`, nearest first; empty if none is near."""
    return difflib.get_close_matches(str(given), sorted(known), n=most)


def did_you_mean(given: object, known: Iterable[str], otherwise: str | None = None, most: int = 3) -> str:
    """The end of a message that suggests the names of `known` nearest to `given`.

    If none is near, it is `otherwise`, or lists some of `known` if that is None.
    """
    known = list(known)
    if near := nearest(given, known, most):
        return f"; did you mean {' or '.join(map(repr, near))}?"
    if otherwise is not None or not known:
        return otherwise or ""
    return f"; there is {', '.join(sorted(known)[:8])}{', …' if len(known) > 8 else ''}"
