"""Save a network to a file that describes it, and load it again."""

from senet.saving.create import create
from senet.saving.saving import load, read_metadata, save

__all__ = ["create", "load", "read_metadata", "save"]
