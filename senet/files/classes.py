"""Files with the names of a network's classes."""

from __future__ import annotations

import json
from pathlib import Path

from senet.errors import DataError
from senet.files.paths import expanded

__all__ = ["class_pairs"]


def class_pairs(path: str | Path) -> list[tuple[str, int]]:
    """Read names with class indices from a JSON file: a list of names in order, or an object name -> index.

    Raises:
        DataError: the file is neither.
    """
    try:
        # Pairs, because a mapping would keep one of two equal names: ImageNet has two cranes.
        content = json.loads(expanded(path).read_text(encoding="utf-8-sig"), object_pairs_hook=tuple)
    except OSError as error:
        raise DataError(f"the classes file {path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"the classes file {path} is not JSON: {error}") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return [(name, index) for index, name in enumerate(content)]
    if isinstance(content, tuple) and all(type(index) is int and index >= 0 for _, index in content):
        return list(content)
    raise DataError(f"the classes file {path} holds neither a list of names nor an object name -> index")
