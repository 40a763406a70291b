"""What senet raises where something cannot be done as asked.

Every error of senet is a `SenetError`, and beside it the built-in error that it would be elsewhere. Its message is one
line that says what was given and what would be right.
"""

from __future__ import annotations

from senet.words import printable

__all__ = [
    "BadImageError",
    "ChangedWarning",
    "DataError",
    "ExportError",
    "FileWriteError",
    "InputError",
    "InputTypeError",
    "InsertionError",
    "MissingPackageError",
    "ModelError",
    "OptimizeError",
    "SEWarning",
    "SenetError",
    "StudyError",
    "WeightsError",
]


class SenetError(Exception):
    """The base of every error that senet raises for what a person asked.

    Its text is printable: a message may name a key or a class of somebody else's file.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class SEWarning(UserWarning):
    """SE that was inserted is lost, or does not run; the message names it."""


class ChangedWarning(UserWarning):
    """A network was changed after it was made, and a file cannot name it; the message says where."""


class InputError(SenetError, ValueError):
    """A value is not allowed; the message says which are."""


class InputTypeError(SenetError, TypeError):
    """A value is of the wrong type; the message says which would be right."""


class MissingPackageError(SenetError, ImportError):
    """A package of an extra is not installed; the message is the command that installs it."""


class InsertionError(SenetError, ValueError):
    """SE cannot go into this network as asked; the message says what was found and what would do."""


class ExportError(SenetError, ValueError):
    """A network cannot be exported as asked; the message says why, and what would do."""


class FileWriteError(ExportError, OSError):
    """A file cannot be written, as on a full disk; the message says why, and nothing half written is left."""


class OptimizeError(SenetError, ValueError):
    """A network cannot be taken as a graph as asked; the message says what was found, and what would do."""


class ModelError(SenetError, ValueError):
    """No network can be made as asked; the message says what was given and what would do.

    Attributes:
        instead: where a saved network is a function's of somebody's file, what was given as the model, and that
            function: the command then says the command that would do.
    """

    instead: tuple[str, str] | None = None


class WeightsError(SenetError, ValueError):
    """A file of weights cannot be read, or does not fit; the message says why, and what would."""


class StudyError(SenetError, ValueError):
    """A study that cannot be run or gone on with as asked; the message says what would be right."""


class DataError(SenetError, ValueError):
    """Data that cannot be found, read or used; the message says what would be right."""


class BadImageError(DataError):
    """One image that cannot be read.

    Attributes:
        reason: why, without the image's name.
        lasting: whether that is so for as long as the file is the same; not where the system failed to read it.
    """

    def __init__(self, message: str, reason: str = "", *, lasting: bool = True) -> None:
        super().__init__(message)  # one argument is enough: a loader's workers send errors as their text
        self.reason = reason or message
        self.lasting = lasting
