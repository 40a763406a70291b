"""What a command says that was asked to stop. It needs no extra, so that the command can know it."""

from __future__ import annotations

__all__ = ["Stopped"]


class Stopped(Exception):  # noqa: N818 it is no error
    """A training that was asked to stop and has written a checkpoint.

    Attributes:
        number: the signal's.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
