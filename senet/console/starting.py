"""Ctrl-C while the command's libraries are imported, before `main` can hear it: one line in place of a traceback.

PyTorch takes a second or two to import. `import senet` imports this first, which changes nothing in
a process that is not the command.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["is_command"]


def is_command(words: list[str]) -> bool:
    """Whether a process with these words, as in `sys.orig_argv`, is the command: `senet` or `python -m senet`."""
    for place, word in enumerate(words[1:], start=1):
        if word == "-m":
            return words[place + 1 : place + 2] == ["senet"]
        if word == "-c":
            return False
        if not word.startswith("-"):
            return os.path.basename(word) in ("senet", "senet.exe", "senet-script.py")  # noqa: PTH119 pathlib is slow here
    return False


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    elif sys.stderr is not None:
        print("\nsenet: interrupted", file=sys.stderr)


if is_command(sys.orig_argv) and sys.excepthook is sys.__excepthook__:
    sys.excepthook = _say
