"""What senet raises where something cannot be done as asked; each message says what was given, and what would do."""

from __future__ import annotations

__all__ = ["ExportError", "InsertionError", "ModelError", "OptimizeError"]


class InsertionError(ValueError):
    """SE cannot go into this network as asked; the message says what was found and what would do."""


class ExportError(ValueError):
    """A network cannot be exported as asked; the message says why, and what would do."""


class OptimizeError(ValueError):
    """A network cannot be taken as a graph as asked; the message says what was found, and what would do."""


class ModelError(ValueError):
    """No network can be made as asked; the message says what was given and what would do."""
