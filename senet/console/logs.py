"""Turn down the logs of other libraries."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["turned_down"]


@contextlib.contextmanager
def turned_down(*names: str, to: int = logging.CRITICAL) -> Iterator[None]:
    """A context in which the named loggers log only records of level `to` or higher.

    The root logger's level is restored too: OpenVINO's converter leaves it at ERROR, which would
    drop the program's other logs.
    """
    levels = [(logger, logger.level) for logger in map(logging.getLogger, ("", *names))]
    for logger, _ in levels[1:]:
        logger.setLevel(to)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
