"""The folder of a run or a comparison: its files, and whether its study can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import StudyError
from senet.files.hub import WEIGHTS, fetched, is_on_hub
from senet.files.own_code import imported_beside
from senet.files.paths import expanded
from senet.files.records import Record, read_csv, read_json, write_csv, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "StudyError",
    "digest_of",
    "named",
    "open_folder",
    "out_folder",
    "own_folder",
    "read_csv",
    "read_json",
    "refuse_inside",
    "refuse_link",
    "report_folder",
    "same_settings",
    "writable_folder",
    "write_csv",
    "write_json",
]

BEST = "best.safetensors"
METRICS = "metrics.csv"
MODEL = "model.safetensors"
NOT_FINITE = "not-finite.json"
PREDICTIONS = "predictions.csv"
RESULT = "result.json"
SETTINGS = "settings.json"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
_BESIDE = ", imports "  # in a digest of code, before that of the files beside it
LOGGED = (TENSORBOARD, "wandb", "mlflow.db")
"""What the loggers write by a name that is known beforehand."""


def open_folder(path: str | Path, settings: Mapping[str, Any], *, resume: bool, begin: bool = True) -> Path:
    """Make the folder, or check that its study has exactly these settings.

    Args:
        path: the folder.
        settings: everything that determines the result; written to settings.json.
        resume: whether to resume a study in the folder; False makes an existing one an error.
        begin: whether to write the settings of a new study; False leaves that to whoever trains.

    Raises:
        StudyError: the folder cannot be made or written, or holds files of these names without
            settings. Or it holds a study with other settings (all differences are named), or any
            study if `resume` is False.
    """
    folder = out_folder(path)
    writable_folder(folder)
    wanted = json.loads(json.dumps(settings))
    file = folder / SETTINGS
    _check_folders(folder)
    if file.exists():
        held = Record(file, read_json(file)).fields
        kinds = _kind(held), _kind(wanted)
        if kinds[0] != kinds[1]:
            raise StudyError(f"{folder} holds {kinds[0]}, and this is {kinds[1]}: choose another folder")
        differing = _differing(held, wanted)
        if differing:
            raise StudyError(
                f"{folder} holds a study with other settings: {'; '.join(differing)}. "
                "Give those settings again, or another folder"
            )
        if not resume:
            raise StudyError(f"{folder} holds a study already: choose another folder, or resume it")
        return folder
    of_training = (BEST, PREDICTIONS) if "seed" in wanted else ()
    written = (RESULT, METRICS, MODEL, CHECKPOINTS, *of_training)
    strangers = [name for name in written if (folder / name).exists()]
    if strangers:
        raise StudyError(f"{folder} has {', '.join(strangers)} but no {SETTINGS}: choose another output folder")
    if begin:
        write_json(file, wanted)
    return folder


def _check_folders(folder: Path) -> None:
    """Check the paths in which a training writes.

    Its checkpoints may be a link to a folder, say on a scratch disk: whoever made it wants them
    there, and they go when the training ends. Anything else would be written outside, and stay.

    Raises:
        StudyError: one is not what it should be.
    """
    path = folder / CHECKPOINTS
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        what = f"a link to {path.readlink()}, which is not a folder" if path.is_symlink() else "not a folder"
        raise StudyError(f"{path} is {what}: make that folder, or remove it")
    if not (folder / RESULT).is_file():  # a finished training writes nothing more
        for name in LOGGED:
            refuse_link(folder / name)
        if (folder / TENSORBOARD).exists() and not (folder / TENSORBOARD).is_dir():
            raise StudyError(f"{folder / TENSORBOARD} is not a folder: remove it")


def refuse_link(path: Path) -> None:
    """Check that a path within a study's folder does not lead out of it.

    Raises:
        StudyError: it is a link.
    """
    if path.is_symlink():
        raise StudyError(
            f"{path} is a link to {path.readlink()}, and a study writes only into its own folder (checkpoints/ alone "
            "may be a link): remove the link"
        )


def own_folder(path: Path) -> Path:
    """Make a folder within a study's folder if it is missing, and return it.

    Raises:
        StudyError: it is a link, or no folder.
    """
    refuse_link(path)
    if path.exists() and not path.is_dir():
        raise StudyError(f"{path} is not a folder: remove it")
    path.mkdir(exist_ok=True)
    return path


def _kind(settings: Any) -> str:
    """The kind of study that has such settings, in words."""
    study = settings.get("study", "comparison") if isinstance(settings, dict) else "comparison"
    names = {"comparison": "a comparison", "ablation": "an ablation", "judge": "a judgement"}
    if isinstance(settings, dict) and "seed" in settings:
        return "a training"
    return names.get(study, f"a study ({study})")


def refuse_inside(folder: Path, data: Path | None) -> None:
    """Check that an output folder does not lie in the folder of the images, where it would become a class.

    Raises:
        StudyError: it does.
    """
    if data is not None and folder.resolve().is_relative_to(data.resolve()):
        raise StudyError(f"the output folder {folder} lies inside the data {data}: choose another")


def out_folder(path: str | os.PathLike[str]) -> Path:
    """The path of an output folder.

    Raises:
        StudyError: it is empty, as where a shell's variable is not set; the files would go into the working directory.
    """
    if not os.fspath(path):
        raise StudyError("the output folder has no name: give one, such as runs/first, or . for this one")
    return expanded(path)


def writable_folder(folder: Path) -> None:
    """Make the folder.

    Raises:
        StudyError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StudyError(
            f"the output folder {folder} cannot be written ({error.strerror or error}): choose another"
        ) from error


def report_folder(path: str | os.PathLike[str], data: Path | None = None) -> Path:
    """Make a folder for a report on the images in the folder `data`, if they are in one; return it.

    Raises:
        StudyError: it holds a training or a study, whose files would be overwritten, lies inside
            the data, or cannot be made.
    """
    folder = out_folder(path)
    refuse_inside(folder, data)
    if (folder / SETTINGS).exists():
        raise StudyError(f"{folder} is the folder of a training or a study: choose another, such as a new one in it")
    writable_folder(folder)
    return folder


def named(name: str | Path | None, content: Any) -> dict[str, Any]:
    """A setting that names something, with a digest of it, since the same name may come to mean another thing."""
    return {"name": None if name is None else str(name), "content": content}


def same_settings(held: Any, wanted: Any) -> bool:
    """Whether two settings are those of one study; data and weights may have moved, and so have other names."""
    return not _differing(held, wanted)


def _differing(held: Any, wanted: Any, name: str = "") -> list[str]:
    """The differences between two settings, in words."""
    if not (isinstance(held, dict) and isinstance(wanted, dict)):
        same = held == wanted or [held] == wanted  # an earlier version kept one pattern of `where` as a text
        return [] if same else [f"{name} was {held!r} and is now {wanted!r}"]
    if "content" in wanted:
        if str(wanted["content"]).partition(_BESIDE)[0] == held.get("content"):
            held = {**held, "content": wanted["content"]}  # an earlier version read one file
        if held.get("content") == wanted["content"] and _function(held.get("name")) == _function(wanted.get("name")):
            return []
        if is_on_hub(wanted.get("name")) and held.get("content") == wanted["name"]:
            return []  # an earlier version kept only the name
        if held.get("name") == wanted.get("name"):
            return [f"{name} {wanted.get('name')} has changed since"]
        return [f"{name} was {held.get('name')!r} and is now {wanted.get('name')!r}"]
    return [
        words
        for key in {**held, **wanted}
        for words in _differing(held.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    ]


def _function(name: object) -> str:
    """The function in a name like "net.py:build"; the digest covers the whole file."""
    return str(name).rpartition(":")[2] if ".py:" in str(name) else ""


def digest_of(name: str | Path | None) -> str | None:
    """A short digest of the file, or of the run folder's network, that a name stands for; else the name itself."""
    if name is None:
        return None
    if is_on_hub(name):  # a branch may move, so the digest is of the present file
        name = fetched(str(name), WEIGHTS)
    path = expanded(str(name))
    if not path.exists() and ".py:" in str(name):
        path = expanded(str(name).rpartition(":")[0])
    if path.is_dir() and (path / MODEL).is_file():
        path = path / MODEL
    if not path.is_file():
        return str(name)
    with path.open("rb") as stream:
        digest = f"sha256 {hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
    beside = imported_beside(path) if path.suffix == ".py" else []
    content = b"".join(f"{each.name} ".encode() + each.read_bytes() for each in beside)
    return f"{digest}{_BESIDE}{hashlib.sha256(content).hexdigest()[:16]}" if beside else digest
