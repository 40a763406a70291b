"""A network in a file that knows what it is."""

from senet.saving.saving import load, read_metadata, save

__all__ = ["load", "read_metadata", "save"]
