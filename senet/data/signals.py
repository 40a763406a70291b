"""Signals that ask a training to stop: it ends its step, writes a checkpoint, and stops."""

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
"""Seconds within which a second Ctrl-C is the first, once from the terminal and once from who started us."""

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""A closed terminal sends SIGHUP; the last two are what SLURM's --signal is mostly told to send."""


class StopRequest:
    """Whether a signal has come that asks to stop.

    Attributes:
        number: the signal's, or 0. A second Ctrl-C does not wait for the end of the step.
    """

    def __init__(self) -> None:
        self.number = 0
        self._heard = 0.0

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Within it signals are listened to; then whoever handled them before does again."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.getsignal(number) for number in _numbers()}
        self.listen()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def listen(self) -> None:
        """Take the signals' handlers, which others may have taken since."""
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                signal.signal(number, self._hear)

    def _hear(self, number: int, _: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self.number == signal.SIGINT and now - self._heard > AT_ONCE:
            raise KeyboardInterrupt
        self.number, self._heard = number, now


def _numbers() -> list[signal.Signals]:
    """The signals that are listened to: not SIGHUP where `nohup` has it ignored."""
    known = [number for name in _NAMES if (number := getattr(signal, name, None)) is not None]
    return [number for number in known if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


class WorkerSignalShield:
    """Lets processes that load images outlive a signal that is sent to all processes of a job, while it is raised.

    The training needs its images to end the step. While it is not raised, a worker ends when it is told to, as the
    loader does that is done with it.
    """

    def __init__(self) -> None:
        self._up = multiprocessing.RawValue("b", 0)

    def __call__(self, _: int) -> None:
        """Take the signals' handlers, in a worker."""
        for number in _numbers():
            signal.signal(number, self._hear)

    def _hear(self, number: int, _: Any) -> None:
        if not self._up.value:
            os._exit(128 + number)

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Within it, in the process that trains, the workers are shielded."""
        self._up.value = 1
        try:
            yield
        finally:
            self._up.value = 0
