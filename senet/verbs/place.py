"""Where a verb writes its file: the folder is made, and another's file is not written over."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import InputError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Place", "is_exported", "is_inserted", "is_pruned"]


class Place:
    """A file that a verb is going to write.

    Args:
        out: the file.
        force: whether any file that is there may be written over.
        ours: whether a file that is there was written by the same verb, and may be.

    Raises:
        InputError: where another's file is there.
        OSError: where it cannot be written.
    """

    def __init__(self, out: str, *, force: bool, ours: Callable[[Path], bool]) -> None:
        self.path = Path(out).expanduser()
        if self.path.is_dir():
            raise IsADirectoryError(f"{out} is a folder; give the name of a file in it")
        if self.path.exists() and not force and not ours(self.path):
            raise InputError(
                f"{out} is there already, and this command did not write it: choose another name, or add --force to "
                "write over it"
            )
        above = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise NotADirectoryError(f"cannot write {out}: {above} is not a folder")
        if not os.access(above, os.W_OK):
            raise PermissionError(f"cannot write {out}: no permission to write in the folder {above}")

    def make(self) -> str:
        """Make the folder that is missing; the file's name, for whoever writes it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return str(self.path)


def is_inserted(path: Path) -> bool:
    """Whether a file holds a network with SE as `senet insert` leaves it: neither trained nor pruned."""
    header = _header(path)
    known = set(header["metadata"]) if header else set()
    return bool(header) and known <= {"classes", "preprocessing"} and not header["pruned"]


def is_pruned(path: Path) -> bool:
    """Whether a file holds a network that `senet prune` wrote."""
    return bool(_header(path).get("pruned"))


def is_exported(path: Path) -> bool:
    """Whether a file says of itself that `senet export` wrote it."""
    try:
        if path.suffix == ".pt2":
            return any(name.endswith("senet.json") for name in zipfile.ZipFile(path).namelist())
        content = path.read_bytes()
    except (OSError, zipfile.BadZipFile):
        return False
    return b"senet.torch" in content or b"<senet>" in content


def _header(path: Path) -> dict[str, Any]:
    from senet.saving import read_metadata

    try:
        return read_metadata(path)
    except WeightsError:
        return {}
