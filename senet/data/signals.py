"""Handle signals that ask a training to stop: it finishes its step, writes a checkpoint, and stops."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["StopRequest", "WorkerSignalShield"]

AT_ONCE = 1.0
"""Seconds within which a second Ctrl-C counts as the first, sent by both the terminal and our parent process."""

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""A closed terminal sends SIGHUP; SLURM's --signal usually sends one of the last two."""


class StopRequest:
    """Whether a signal asked to stop.

    Attributes:
        number: the signal's number, or 0. A second Ctrl-C does not wait for the end of the step.
    """

    def __init__(self) -> None:
        self.number = 0
        self._heard = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """A context that handles the signals and afterwards restores the previous handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals only to the main thread
            return
        before = {number: signal.getsignal(number) for number in _numbers()}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def listen(self) -> None:
        """Install the handlers again, in case another library replaced them."""
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                signal.signal(number, self._hear)

    def _hear(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.number == signal.SIGINT and now - self._heard > AT_ONCE:
            raise KeyboardInterrupt
        self.number, self._heard = number, now


def _numbers() -> list[signal.Signals]:
    """The signals to handle: without SIGHUP if `nohup` ignores it."""
    known = [number for name in _NAMES if (number := getattr(signal, name, None)) is not None]
    return [number for number in known if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


class WorkerSignalShield:
    """Lets image loading processes survive a signal that is sent to all processes of a job, while raised.

    The training needs its images to finish the step. While the shield is not raised, a worker ends
    when told to, as a finished loader does.
    """

    def __init__(self) -> None:
        self._up = multiprocessing.RawValue("b", 0)

    def __call__(self, _: int) -> None:
        """Install the handlers in a worker."""
        for number in _numbers():
            signal.signal(number, self._hear)

    def _hear(self, number: int, _: Any) -> None:
        if not self._up.value:
            os._exit(128 + number)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """A context in the training process that shields the workers."""
        self._up.value = 1
        try:
            yield
        finally:
            self._up.value = 0
