"""What senet shows to people: numbers with units, in a terminal and in a log."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from senet.words import printable

if TYPE_CHECKING:
    from typing import TextIO

    from rich.console import RenderableType

__all__ = [
    "Unbroken",
    "bytes_of",
    "console",
    "count",
    "plain_text",
    "share",
    "show",
    "silence",
]

WIDTH = 100  # of a table as text
LOG_WIDTH = 140  # of the command's output where it is no terminal


def count(number: int) -> str:
    """A number as people say it: 272, 12.30 k, 25.56 M, 4.09 G."""
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 0.99995 * 10**power:
            return f"{_digits(number / 10**power)} {unit}"
    return str(number)


def bytes_of(number: int) -> str:
    """Bytes in the unit that suits them: 512 B, 96.00 KiB, 103.4 MiB, 1.61 GiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(number) >= 0.99995 * 1024**power:
            return f"{_digits(number / 1024**power)} {unit}"
    return f"{number} B"


def share(fraction: float) -> str:
    """A fraction in per cent, to two digits that say something: 21 %, 9.0 %, 0.061 %."""
    percent = 100 * fraction
    if percent == 0 or abs(percent) >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:#.2g} %"


def _digits(number: float) -> str:
    return f"{number:.2f}" if abs(number) < 99.995 else f"{number:.1f}"


class Unbroken:
    """A stream whose writing never raises: once it cannot be written, what goes there goes nowhere.

    A training must not end because whoever read its progress has enough (`2>&1 | head -1`), or because the disk that
    its log lies on is full.

    Args:
        file: the stream, None where the process has none.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, or forget."""
        if self._file is not None:
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):  # ValueError: it is closed
                silence(self._file)
                self._file = None
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file is not None and not self._file.closed and self._file.isatty()

    def fileno(self) -> int:
        """Of the stream."""
        if self._file is None:
            raise io.UnsupportedOperation("fileno")
        return self._file.fileno()

    @property
    def encoding(self) -> str:
        """Of the stream."""
        return getattr(self._file, "encoding", None) or "utf-8"


def silence(file: TextIO) -> None:
    """Let what a stream still holds go nowhere: Python writes it when the process ends, and fails again."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def console(file: TextIO | None = None) -> Console:
    """The console that the command prints to: a terminal as it is, without colours and wide where it is none."""
    file = file or sys.stdout
    wide = None if file.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
    return Console(file=file, width=wide, highlight=False, emoji=False, markup=False)


def show(*renderables: RenderableType) -> None:
    """Print to standard output, in colours in a terminal, and as text without trailing spaces elsewhere."""
    renderables = _printable(renderables)
    to = console()
    if to.is_terminal:
        to.print(*renderables, sep="\n")
    else:
        print(plain_text(*renderables, width=to.width, wrap=False))


def plain_text(*renderables: RenderableType, width: int = WIDTH, wrap: bool = True) -> str:
    """What a terminal of that width would show, without colours; long lines outside of tables wrap on request."""
    file = io.StringIO()
    to = Console(file=file, width=width, color_system=None, force_terminal=False, highlight=False, markup=False)
    for renderable in _printable(renderables):
        to.print(renderable, soft_wrap=not wrap)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).strip("\n")


def _printable(renderables: tuple[RenderableType, ...]) -> tuple[RenderableType, ...]:
    return tuple(printable(each) if isinstance(each, str) else each for each in renderables)
