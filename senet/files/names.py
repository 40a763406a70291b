"""Names of files for libraries that take only UTF-8."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["utf8_name"]


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A context with a name of an existing file in UTF-8: its own, else that of its descriptor.

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
