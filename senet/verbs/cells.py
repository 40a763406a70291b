"""What the verbs whose studies have cells show."""

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
    """Within it nothing but commands goes to standard output where these are asked for.

    A shell would run what a person's own file prints.
    """
    with contextlib.redirect_stdout(sys.stderr) if cells.list_cells else contextlib.nullcontext():
        yield


def show_cells(found: Any) -> None:
    """Show a study's result, or the lines that are there in place of one, each whole."""
    if isinstance(found, list):
        print("\n".join(found))
    else:
        display.show(*found.parts())
