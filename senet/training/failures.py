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
from senet.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from senet.recipe.recipe import Recipe

__all__ = ["in_plain_words"]

_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_MEMORY = re.compile("(?i)can't allocate memory|can't start new thread|out of memory|not enough memory|bad_alloc")


@contextlib.contextmanager
def in_plain_words(folder: Path, recipe: Recipe, processes: int = 1) -> Iterator[None]:
    """A context that turns failures that are no bug into a StudyError with a remedy and the point of resumption.

    These are a full disk, exhausted memory or file descriptors, an image that has become unreadable,
    and networks that a batch is too small for, or that several processes cannot train.
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
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)):
            raise StudyError(f"{_too_large(recipe, processes)}. {_goes_on(folder)}") from error
        if re.search(r"Too many open files|ancdata", str(error)):
            raise StudyError(_few_descriptors(folder)) from error
        if words := worker_words(error):
            raise StudyError(f"{words}. {_goes_on(folder)}") from error
        if "parameters that were not used in producing" in str(error):  # PyTorch's words and Lightning's
            raise StudyError(
                "the network has parameters that its scores do not depend on, such as an auxiliary classifier, and "
                "several devices cannot train those: train it on one, or without them"
            ) from error
        raise
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):  # PyTorch's words
            raise
        raise StudyError(
            f"a batch normalisation gets one value per channel from a batch of {recipe.batch_size} in "
            f"{counted(recipe.accumulate, 'part')}, which it cannot normalise: a larger --batch-size or --size, or a "
            "smaller --accumulate, gives it more, in another folder"
        ) from error


def _too_large(recipe: Recipe, processes: int) -> str:
    """What to do about a batch that does not fit into memory. A begun folder takes no other settings."""
    share, least = recipe.batch_size // processes, 2 * recipe.accumulate
    parts = next((parts for parts in range(least, share + 1) if share % parts == 0), None)
    remedy = "a smaller --size needs less"
    if parts is not None:
        remedy = f"--accumulate {parts} splits it into {parts}, and a smaller --batch-size changes the training"
    return (
        f"memory is exhausted by a batch of {recipe.batch_size} in {counted(recipe.accumulate, 'part')}: in another "
        f"folder, {remedy}"
    )


def _few_descriptors(folder: Path) -> str:
    return (
        "there are too few file descriptors: fewer --workers need less, and `ulimit -n 4096` allows more. "
        f"{_goes_on(folder)}"
    )


def _goes_on(folder: Path) -> str:
    found = newest(folder).path
    if found is None:
        return "There is no checkpoint yet"
    return f"The last checkpoint, {found.name}, is whole: the same command resumes from it"
