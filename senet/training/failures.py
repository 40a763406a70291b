"""Explain failures of the machine that end a training."""

from __future__ import annotations

import contextlib
import errno
import re
from typing import TYPE_CHECKING

import torch

from senet.data.sampling import worker_words
from senet.errors import BadImageError, StudyError
from senet.training.checkpointing import newest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from senet.recipe.recipe import Recipe

__all__ = ["in_plain_words"]

_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def in_plain_words(folder: Path, recipe: Recipe) -> Iterator[None]:
    """A context that turns failures of the machine into a StudyError with a remedy and the point of resumption.

    These are a full disk, exhausted memory or file descriptors, and an image that has become unreadable.
    """
    try:
        yield
    except BadImageError as error:
        words = f"{worker_words(error)}. It could be read when the run began: put it back"
        raise StudyError(f"{words}. {_goes_on(folder)}") from error
    except OSError as error:
        if error.errno in _DESCRIPTORS:
            raise StudyError(_few_descriptors(folder)) from error
        if error.errno not in _FULL:
            raise
        raise StudyError(f"the disk of {folder} is full ({error.strerror}): make room. {_goes_on(folder)}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _memory(str(error)):
            parts = 2 * recipe.accumulate
            raise StudyError(
                f"memory is exhausted by a batch of {recipe.batch_size} in {recipe.accumulate} parts: "
                f"--accumulate {parts} works it off in {parts}, a smaller --batch-size changes the training. "
                f"{_goes_on(folder)}"
            ) from error
        if re.search(r"Too many open files|ancdata", str(error)):
            raise StudyError(_few_descriptors(folder)) from error
        if words := worker_words(error):
            raise StudyError(f"{words}. {_goes_on(folder)}") from error
        raise


def _few_descriptors(folder: Path) -> str:
    return (
        "there are too few file descriptors: fewer --workers need less, and `ulimit -n 1024` allows more. "
        f"{_goes_on(folder)}"
    )


def _memory(text: str) -> bool:
    signs = r"can't allocate memory|can't start new thread|out of memory|not enough memory|bad_alloc"
    return bool(re.search(signs, text, re.IGNORECASE))


def _goes_on(folder: Path) -> str:
    found = newest(folder).path
    if found is None:
        return "There is no checkpoint yet"
    return f"The last checkpoint, {found.name}, is whole: the same command resumes from it"
