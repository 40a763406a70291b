"""Make the command's streams usable: open if they were closed, and able to show every character."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Mapping

from senet.console.display import silence
from senet.words import printable

__all__ = ["open_streams", "tell"]

_PLAIN: Mapping[str, str] = {"−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "±": "+-", "→": "->", "─": "-"}
"""Replacements for characters that the terminal's encoding lacks: a minus sign must not become a question mark."""


def open_streams() -> None:
    """Open those of descriptors 0 to 2 that are closed, and make output replace characters outside its encoding.

    If a descriptor is closed (`2>&-`), the next opened file gets its number. A library that writes
    to standard error would then write into a checkpoint.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 for the process's life
    codecs.register_error("senet.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="senet.plain")


def tell(text: str) -> None:
    """Print a line to standard error if it can be written; it may quote the name of any file."""
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = "".join(map(_spelt, error.object[error.start : error.end]))
    return text, error.end


def _spelt(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"
