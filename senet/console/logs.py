"""The logs of other libraries, turned down while we say what matters ourselves."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["turned_down"]


@contextlib.contextmanager
def turned_down(*names: str, to: int = logging.CRITICAL) -> Iterator[None]:
    """Within it the loggers of these names log only what is at least at the level `to`.

    The level of the root logger is put back too: OpenVINO's converter leaves it at ERROR, and
    whatever else the program logs would be lost.
    """
    levels = [(logger, logger.level) for logger in map(logging.getLogger, ("", *names))]
    for logger, _ in levels[1:]:
        logger.setLevel(to)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
