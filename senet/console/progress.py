"""Progress of a study: a bar with the time left in a terminal, occasional lines in a log, or nothing."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from typing import TYPE_CHECKING, cast

from senet.console.display import Unbroken, console
from senet.words import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TextIO

    from rich.progress import Progress as Bar

__all__ = ["Progress", "alive"]

LINES = 4
"""The most lines that one run writes into a log; they are a whole number of epochs apart."""


class Progress:
    """Counts the training steps of all runs of a study.

    Args:
        show: whether to show progress.
        file: the stream; standard error by default.
    """

    def __init__(self, show: bool = True, file: TextIO | None = None) -> None:
        self._show = show
        self._console = console(cast("TextIO", Unbroken(file or sys.stderr)))
        self._bar: Bar | None = None
        self._total = 0
        self._done = 0
        self._worked = 0  # the steps that ran in this session
        self._begun = time.monotonic()
        self._run = ""
        self._epochs = 0

    @classmethod
    def of(cls, asked: bool | Progress, *, here: bool = True) -> Progress:
        """The progress that was given, or a new one, which shows something if asked to and if `here`."""
        return asked if isinstance(asked, Progress) else cls(asked and here)

    @contextlib.contextmanager
    def steps(self, total: int) -> Iterator[None]:
        """A context in which `total` steps are taken."""
        self._total, self._done, self._worked = total, 0, 0
        self._begun = time.monotonic()
        if not (self._show and self._console.is_terminal):
            yield
            return
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        with RichProgress(*columns, console=self._console, speed_estimate_period=120) as bar:
            bar.add_task("", total=total)
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def run(self, name: str, epochs: int = 0) -> None:
        """Begin a run of that name, with so many epochs if any."""
        self._run, self._epochs = name, epochs
        self._describe(1)

    def step(self, count: int = 1, *, worked: bool = True) -> None:
        """Count steps as done; not `worked` for those of an earlier session."""
        self._done += count
        self._worked += count * worked
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], count)

    def epoch(self, number: int, text: str = "") -> None:
        """Count epoch `number` of the run as done, with `text` about it."""
        self._describe(min(number + 1, self._epochs))
        every = math.ceil(self._epochs / LINES)
        if self._bar is None and (number % every == 0 or number == self._epochs):
            self.note(f"{self._run}, epoch {number} of {self._epochs}{': ' * bool(text)}{text}{self._left()}")

    def note(self, text: str) -> None:
        """Print one line of any length."""
        if self._show:
            self._console.print(printable(text), soft_wrap=True)

    def _describe(self, epoch: int) -> None:
        if self._bar is not None:
            text = f"{self._run}, epoch {epoch} of {self._epochs}" if self._epochs else self._run
            self._bar.update(self._bar.task_ids[0], description=text)

    def _left(self) -> str:
        if not self._worked or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._begun) / self._worked * (self._total - self._done)
        return f" ({duration(seconds)} left)"


@contextlib.contextmanager
def alive(every: float = 60.0, file: TextIO | None = None) -> Iterator[Callable[[str], None]]:
    """A context that shows the time of a step of unknown length: a clock in a terminal, occasional lines in a log.

    Args:
        every: seconds between two lines in a log.
        file: the stream; standard error by default.

    Yields:
        A function to call with each step's description as it begins.
    """
    where = console(cast("TextIO", Unbroken(file or sys.stderr)))
    if where.is_terminal:
        from rich.progress import Progress as RichProgress
        from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        # Output of other threads is left alone; a converter's is suppressed elsewhere.
        with RichProgress(*columns, console=where, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
            task = bar.add_task("", total=None)
            yield lambda step: bar.update(task, description=printable(step))
        return
    begun, ended = time.monotonic(), threading.Event()
    steps: list[str] = []

    def tell() -> None:
        while not ended.wait(every):
            if steps:
                where.print(printable(f"{steps[-1]}, {duration(time.monotonic() - begun)} so far"), soft_wrap=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield steps.append
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """A time in words: 8.3 s, 2 min 5 s, 1 h 12 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
