"""Show numbers with units, tables and text in a terminal or a log."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

from rich.console import Console

from senet.errors import OutputError
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from rich.console import RenderableType

__all__ = ["Unbroken", "bytes_of", "console", "count", "flush", "plain_text", "share", "show", "silence", "write"]

WIDTH = 100  # of a table in plain text
LOG_WIDTH = 140  # of the command's output if it is not a terminal


def count(number: int) -> str:
    """A number with a decimal unit: 272, 12.30 k, 25.56 M, 4.09 G."""
    for power, unit in ((9, "G"), (6, "M"), (3, "k")):
        if abs(number) >= 0.99995 * 10**power:
            return f"{_digits(number / 10**power)} {unit}"
    return str(number)


def bytes_of(number: int) -> str:
    """Bytes with a binary unit: 512 B, 96.00 KiB, 103.4 MiB, 1.61 GiB."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(number) >= 0.99995 * 1024**power:
            return f"{_digits(number / 1024**power)} {unit}"
    return f"{number} B"


def share(fraction: float) -> str:
    """A fraction in per cent, to two significant digits: 21 %, 9.0 %, 0.061 %."""
    percent = 100 * fraction
    if percent == 0 or abs(percent) >= 9.95:
        return f"{percent:.0f} %"
    return f"{percent:#.2g} %"


def _digits(number: float) -> str:
    return f"{number:.2f}" if abs(number) < 99.995 else f"{number:.1f}"


class Unbroken:
    """A stream that never raises on writing: once a write fails, later output is dropped.

    A training must not end because the reader of its progress closed the pipe (`2>&1 | head -1`) or
    the log's disk is full.

    Args:
        file: the stream; None if the process has none.
    """

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        if self._file is not None:
            try:
                self._file.write(text)
                self._file.flush()
            except (OSError, ValueError):  # ValueError: it is closed
                silence(self._file)
                self._file = None
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` flushes."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._file is not None and not self._file.closed and self._file.isatty()

    def fileno(self) -> int:
        """The stream's file descriptor."""
        if self._file is None:
            raise io.UnsupportedOperation("fileno")
        return self._file.fileno()

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self._file, "encoding", None) or "utf-8"


def silence(file: TextIO) -> None:
    """Drop what a stream still buffers, which Python would fail to write again at exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def console(file: TextIO | None = None) -> Console:
    """The console for the command's output; if it is not a terminal, wide and without colours."""
    file = file or sys.stdout
    wide = None if file.isatty() or "COLUMNS" in os.environ else LOG_WIDTH
    return Console(file=file, width=wide, highlight=False, emoji=False, markup=False)


def show(*renderables: RenderableType) -> None:
    """Print to standard output, with colours in a terminal and as text without trailing spaces elsewhere."""
    renderables = _printable(renderables)
    to = console()
    if to.is_terminal:
        with _output():
            to.print(*renderables, sep="\n")
    else:
        write(plain_text(*renderables, width=to.width, wrap=False))


def write(text: str, end: str = "\n") -> None:
    """Print a text to standard output as it is.

    Raises:
        OutputError: it cannot be written, such as on a full disk.
        BrokenPipeError: its reader has closed it.
    """
    with _output():
        print(text, end=end)


def flush() -> None:
    """Write what standard output still buffers; errors as in `write`.

    Python itself does so as it ends, too late for a message.
    """
    with _output():
        sys.stdout.flush()


@contextlib.contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise OutputError(
            f"standard output cannot be written ({error.strerror or error}): send it elsewhere"
        ) from error


def plain_text(*renderables: RenderableType, width: int = WIDTH, wrap: bool = True) -> str:
    """The output of a terminal of that width, without colours; long lines outside tables wrap on request."""
    file = io.StringIO()
    to = Console(
        file=file, width=width, color_system=None, force_terminal=False, highlight=False, emoji=False, markup=False
    )
    for renderable in _printable(renderables):
        to.print(renderable, soft_wrap=not wrap)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()).strip("\n")


def _printable(renderables: tuple[RenderableType, ...]) -> tuple[RenderableType, ...]:
    return tuple(printable(each) if isinstance(each, str) else each for each in renderables)
