"""Packages that come with an extra, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from senet.errors import MissingPackageError

__all__ = ["extra"]


def extra(module: str, name: str = "") -> Any:
    """Import a module that the extra `name` installs, or that a person brings where there is no such extra.

    Raises:
        MissingPackageError: where it is not installed, with the command that installs it.
    """
    root = module.partition(".")[0]
    try:
        importlib.import_module(root)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        message = f"{error.name} is not installed: pip install " + (f"'senet[{name}]'" if name else root)
        raise MissingPackageError(message, name=error.name) from None
