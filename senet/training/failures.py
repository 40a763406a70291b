"""What ends a training from outside, in the words of someone who waits for it."""

from __future__ import annotations

import contextlib
import errno
import re
from typing import TYPE_CHECKING

import torch

from senet.errors import StudyError
from senet.training.checkpointing import newest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from senet.recipe.recipe import Recipe

__all__ = ["in_plain_words"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def in_plain_words(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Within it a full disk and exhausted memory are a StudyError that says what to do, and where it then goes on."""
    try:
        yield
    except OSError as error:
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
        if re.search(r"DataLoader worker .*(killed|exited)", str(error)):
            raise StudyError(
                f"a process that loads images was ended from outside, perhaps for want of memory ({error}): fewer "
                f"--workers need less. {_goes_on(folder)}"
            ) from error
        raise


def _memory(text: str) -> bool:
    return bool(re.search(r"can't allocate memory|out of memory|not enough memory|bad_alloc", text, re.IGNORECASE))


def _goes_on(folder: Path) -> str:
    found = newest(folder).path
    if found is None:
        return "There is no checkpoint yet"
    return f"The last checkpoint, {found.name}, is whole: the same command goes on from it"
