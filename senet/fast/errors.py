"""What cannot be exported or made into an inference form."""

from __future__ import annotations

__all__ = ["ExportError", "OptimizeError"]


class ExportError(ValueError):
    """A network cannot be exported as asked; the message says why, and what would do."""


class OptimizeError(ValueError):
    """A network cannot be taken as a graph as asked; the message says what was found, and what would do."""
