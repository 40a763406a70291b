"""A second process for a test: this one, forked, which need not import PyTorch again."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

from senet.data.sampling import forking

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess


def forked(function: Callable[..., object], *arguments: object) -> tuple[ForkProcess, Connection]:
    """A running process that calls the function with one end of a pipe and the arguments, and the other end."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(function, ours, theirs, *arguments))
    with forking():
        process.start()
    theirs.close()  # so that reading ends when the process does
    return process, ours


def _run(function: Callable[..., object], ours: Connection, theirs: Connection, *arguments: object) -> None:
    ours.close()
    function(theirs, *arguments)
