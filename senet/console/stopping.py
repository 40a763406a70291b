"""The exception of a training that was asked to stop. It needs no extra, so the command can import it."""

from __future__ import annotations

__all__ = ["Stopped"]


class Stopped(Exception):  # noqa: N818 it is no error
    """A training was asked to stop and has written a checkpoint.

    Attributes:
        number: the signal's number.
        resumable: whether the same command resumes it; not while a scheduler still trains.
    """

    def __init__(self, number: int, message: str, *, resumable: bool = True) -> None:
        super().__init__(message)
        self.number, self.resumable = number, resumable
