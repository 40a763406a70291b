"""What cannot be exported."""

from __future__ import annotations

__all__ = ["ExportError"]


class ExportError(ValueError):
    """A network cannot be exported as asked; the message says why, and what would do."""
