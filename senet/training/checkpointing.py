"""Checkpoints with a digest, so that a partial one from a killed process or a full disk is never used.

A checkpoint is a `torch.save` file of tensors and plain values, which
`torch.load(weights_only=True)` reads. The digest of all its bytes is appended as the ZIP format's
comment.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from senet.errors import StudyError
from senet.files.atomic import atomic_write
from senet.files.records import read_json, read_text
from senet.files.run_folder import CHECKPOINTS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Newest", "claim", "is_whole", "newest", "place", "read_checkpoint", "step_of", "sweep", "write_checkpoint"]

KEPT = 2
"""The newest and the one before, to resume from if the newest is damaged."""

OWNER = "run.txt"
"""A file in a folder that `checkpoints` links to, with a digest of its run's settings."""

_MARK = b"senet checkpoint, sha256 "
_COMMENT = len(_MARK) + 64
_NAME = re.compile(r"step-(\d{9,})\.ckpt")


def place(folder: Path, step: int) -> Path:
    """The path of the checkpoint after `step` steps of the run in `folder`."""
    return folder / CHECKPOINTS / f"step-{step:09}.ckpt"


def step_of(path: Path) -> int:
    """The number of steps before a checkpoint, from its name."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values to a new file, flush it to disk, and then replace the old one.

    Raises:
        OSError: it cannot be written, as on a full disk. The old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, follow=False) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(dict(content), file)
        except RuntimeError as error:  # from torch's writer; the file's own error is its cause
            raise _reason(error) from error
        with temporary.open("r+b") as file:
            file.seek(-2, os.SEEK_END)  # the comment's length, which ends a ZIP file without one
            file.write(_COMMENT.to_bytes(2, "little"))
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0, os.SEEK_END)
            file.write(_MARK + digest.encode())


def _reason(error: BaseException) -> BaseException:
    behind = error.__context__
    while behind is not None:
        if isinstance(behind, OSError):
            return behind
        behind = behind.__context__
    return error


def is_whole(path: Path) -> bool:
    """Whether a file is an intact checkpoint; a pipe is not opened."""
    try:
        left = path.stat().st_size - _COMMENT
        if left <= 0 or not path.is_file():
            return False
        state = hashlib.sha256()
        with path.open("rb") as file:
            while left and (chunk := file.read(min(left, 2**20))):
                state.update(chunk)
                left -= len(chunk)
            return file.read() == _MARK + state.hexdigest().encode()
    except OSError:
        return False


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, with its tensors on the CPU.

    Raises:
        StudyError: it is not intact; nothing of it is used.
    """
    if not is_whole(path):
        raise StudyError(f"the checkpoint {path} is not whole: remove it to resume from the one before")
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    step = content.get("global_step")
    if step is not None and _NAME.fullmatch(path.name) and step != step_of(path):
        raise StudyError(f"the checkpoint {path} is of step {step}: it was renamed. Remove it")
    return content


class Newest(NamedTuple):
    """The newest intact checkpoint, if any, and newer damaged ones."""

    path: Path | None
    broken: tuple[Path, ...]


def newest(folder: Path) -> Newest:
    """Find the checkpoint from which the run in `folder` resumes."""
    broken: list[Path] = []
    for path in reversed(_all(folder)):
        if is_whole(path):
            return Newest(path, tuple(broken))
        broken.append(path)
    return Newest(None, tuple(broken))


def sweep(folder: Path, *, kept: int = KEPT) -> None:
    """Remove all but the newest `kept` checkpoints, and leftovers of interrupted writers among them.

    Others may be writing into the run's folder, as an export of its best network is.
    """
    checkpoints = folder / CHECKPOINTS
    for path in [*_all(folder)[: -kept or None], *checkpoints.glob(".senet-*")]:
        path.unlink(missing_ok=True)
    if kept == 0 and checkpoints.is_dir():
        (checkpoints / OWNER).unlink(missing_ok=True)
        # Keep a link to a larger disk: the user made it, perhaps for other runs too.
        if not checkpoints.is_symlink() and not any(checkpoints.iterdir()):
            checkpoints.rmdir()


def claim(folder: Path) -> None:
    """Check that the checkpoints of the run in `folder` are its own, since two runs may link to one folder.

    Raises:
        StudyError: they belong to another run, which would lose them while this one resumed from them.
    """
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.is_symlink():
        return
    settings = read_json(folder / SETTINGS)
    wanted = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    try:
        held = read_text(checkpoints / OWNER, 100).strip()
    except StudyError:
        held = ""
    if not held and _all(folder):
        held = "?"
    if held and held != wanted:
        raise StudyError(
            f"{checkpoints} leads to {checkpoints.resolve()}, which holds another run's checkpoints: give each run a "
            "folder of its own there"
        )
    with atomic_write(checkpoints / OWNER, follow=False) as temporary:
        temporary.write_text(f"{wanted}\n", encoding="utf-8")


def _all(folder: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    found = [path for path in (folder / CHECKPOINTS).glob("*.ckpt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=step_of)
