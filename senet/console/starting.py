"""Ctrl-C while the command's libraries are imported, before `main` can hear it: one line in place of a traceback.

PyTorch takes a second or two to import. `import senet` imports this first, which changes nothing in
a process that is not the command.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["is_command", "loaded"]


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


def _end(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\nsenet: interrupted\n")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def loaded() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, which `main` hears."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# An import that a KeyboardInterrupt cuts short may swallow it, and the command would go on with half a library.
if is_command(sys.orig_argv) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    with contextlib.suppress(ValueError):  # of another thread than the main one
        signal.signal(signal.SIGINT, _end)
