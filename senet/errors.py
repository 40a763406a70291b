"""The errors and warnings of senet, and the check that every room makes.

Every error of senet is a `SenetError` and also the built-in error that fits, such as ValueError.
Its message is one line that says what was given and what would be right.
"""

from __future__ import annotations

import contextlib
import operator
import sys
import warnings
from pathlib import Path
from typing import SupportsIndex, cast

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
    "OutputError",
    "SEWarning",
    "SenetError",
    "StudyError",
    "WeightsError",
    "warn",
    "whole_number",
]


class SenetError(Exception):
    """The base of every error that senet raises for a user's request.

    Its text is made printable, because a message may quote a key or a class name from any file.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class SEWarning(UserWarning):
    """SE is lost, does not run, or takes weights of another kind; the message says which."""


def warn(message: str) -> None:
    """Raise an `SEWarning` at the line that called into senet or torch."""
    import torch

    ours = (*(str(Path(file).parent) for file in (__file__, torch.__file__)), contextlib.__file__)  # its decorators
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(ours):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, SEWarning, stacklevel=level)


class ChangedWarning(UserWarning):
    """A network was changed after it was created, so a file cannot name it; the message says where."""


class InputError(SenetError, ValueError):
    """A value is not allowed; the message says which are."""


class InputTypeError(SenetError, TypeError):
    """A value is of the wrong type; the message says which would be right."""


class MissingPackageError(SenetError, ImportError):
    """A package of an extra is not installed; the message has the command that installs it."""


class OutputError(SenetError, OSError):
    """Standard output cannot be written, such as on a full disk; the message has the reason."""


class InsertionError(SenetError, ValueError):
    """SE cannot be inserted as requested; the message says what was found and what would work."""


class ExportError(SenetError, ValueError):
    """A network cannot be exported as requested; the message says why, and what would work."""


class FileWriteError(ExportError, OSError):
    """A file cannot be written, for instance on a full disk; the message says why. No partial file is left."""


class OptimizeError(SenetError, ValueError):
    """A network cannot be captured as a graph; the message says what was found, and what would work."""


class ModelError(SenetError, ValueError):
    """A network cannot be created as requested; the message says what was given and what would work.

    Attributes:
        instead: if a saved network needs a function from a user's file, the given model and that
            function. The command then suggests the command to type instead.
    """

    instead: tuple[str, str] | None = None


class WeightsError(SenetError, ValueError):
    """A file of weights cannot be read or does not fit; the message says why, and what would work."""


class StudyError(SenetError, ValueError):
    """A study cannot be run or resumed as requested; the message says what would be right."""


class DataError(SenetError, ValueError):
    """Data cannot be found, read or used; the message says what would be right."""


class BadImageError(DataError):
    """One image cannot be read.

    Attributes:
        reason: the reason, without the image's name.
        lasting: whether the reason holds while the file is unchanged; False if the system failed to read it.
    """

    def __init__(self, message: str, reason: str = "", *, lasting: bool = True) -> None:
        super().__init__(message)  # one argument is enough, because a loader's workers send errors as text
        self.reason = reason or message
        self.lasting = lasting


def whole_number(name: str, given: object, least: int = 1) -> int:
    """A whole number of at least `least` as an int; NumPy's and PyTorch's count, True and 4.0 do not.

    Raises:
        InputError: it is anything else; the message begins with `name`.
    """
    try:
        value = operator.index(cast(SupportsIndex, given))
    except TypeError:
        value = least - 1
    if isinstance(given, bool) or value < least:
        raise InputError(f"{name} is a whole number of at least {least}, not {given!r}")
    return value
