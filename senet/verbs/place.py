"""The output file of a verb: its folder is made, and foreign files are not overwritten."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import InputError, WeightsError
from senet.files.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Place", "is_exported", "is_inserted", "is_pruned"]


class Place:
    """The output file of a verb.

    Args:
        out: the file.
        force: whether any existing file may be overwritten.
        ours: a test whether an existing file was written by the same verb, and so may be overwritten.
        files: all files that are written with it, itself first.

    Raises:
        InputError: a foreign file exists.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        out: str,
        *,
        force: bool,
        ours: Callable[[Path], bool],
        files: Callable[[Path], tuple[Path, ...]] = lambda path: (path,),
    ) -> None:
        self.path = expanded(out)
        if self.path.is_dir():
            raise IsADirectoryError(f"{out} is a folder; give the name of a file in it")
        there = next((path for path in files(self.path) if path.exists()), None)
        if there is not None and not force and not (self.path.exists() and ours(self.path)):
            raise InputError(
                f"{there} is there already, and this command did not write it: choose another name, or add --force to "
                "write over it"
            )
        above = next(folder for folder in self.path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise NotADirectoryError(f"cannot write {out}: {above} is not a folder")
        if not os.access(above, os.W_OK):
            raise PermissionError(f"cannot write {out}: no permission to write in the folder {above}")

    @contextlib.contextmanager
    def made(self) -> Iterator[str]:
        """A context with the file's name, in which its folder is there; a failure removes folders made for it."""
        missing = [folder for folder in self.path.absolute().parents if not folder.exists()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield str(self.path)
        except BaseException:
            for folder in missing:
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()
            raise


def is_inserted(path: Path) -> bool:
    """Whether `senet insert` wrote a file; a network that was trained and saved again lacks its mark."""
    return "inserted" in _header(path).get("metadata", {})


def is_pruned(path: Path) -> bool:
    """Whether `senet prune` wrote a file; a network that was trained and saved again lacks its mark."""
    return "pruned" in _header(path).get("metadata", {})


def is_exported(path: Path) -> bool:
    """Whether a file's metadata says that `senet export` wrote it."""
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
