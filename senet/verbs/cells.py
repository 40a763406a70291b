"""Output of verbs whose studies have cells."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from senet.console import display

if TYPE_CHECKING:
    from collections.abc import Iterator

    from senet.study.cells.cell import CellOptions

__all__ = ["commands_alone", "show_cells"]


@contextlib.contextmanager
def commands_alone(cells: CellOptions) -> Iterator[None]:
    """A context in which only the requested commands go to standard output.

    A shell would execute whatever else the user's file prints.
    """
    with contextlib.redirect_stdout(sys.stderr) if cells.list_cells else contextlib.nullcontext():
        yield


def show_cells(found: Any) -> None:
    """Show a study's result, or the unwrapped lines in its place."""
    if isinstance(found, list):
        display.write("\n".join(found))
    else:
        display.show(*found.parts())
