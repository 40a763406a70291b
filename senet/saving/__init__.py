"""A network in a file that knows what it is."""

from senet.saving.create import create
from senet.saving.saving import load, read_metadata, save

__all__ = ["create", "load", "read_metadata", "save"]
