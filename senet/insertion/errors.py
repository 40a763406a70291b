"""The one error of this room."""

from __future__ import annotations


class InsertionError(ValueError):
    """SE cannot go into this network as asked; the message says what was found and what would do."""
