"""Lightning's loggers by name, for the metrics of a training."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senet.errors import InputError, MissingPackageError, StudyError
from senet.files.atomic import atomic_write
from senet.files.records import read_text
from senet.files.run_folder import TENSORBOARD

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ["LOGGERS", "check_logger", "logger_for"]

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")
RUN_ID = "run-id.txt"
"""A file with the run's name in a logger's store, so that a resumed training stays one run there."""


def check_logger(name: str) -> str:
    """Check a logger's name, and return it.

    Raises:
        InputError: there is no such logger.
    """
    if name not in LOGGERS:
        raise InputError(f"logger is one of {', '.join(LOGGERS)}, not {name!r}")
    return name


def logger_for(name: str, folder: Path) -> Logger:
    """The logger of the run in `folder`, which keeps its files there unless its own settings say otherwise.

    Weights & Biases and MLflow read their own environment variables (WANDB_MODE=offline,
    MLFLOW_TRACKING_URI). Without these nothing leaves the machine.

    Raises:
        MissingPackageError: its package is not installed.
        StudyError: TensorBoard cannot write into the folder.
    """
    from lightning.pytorch import loggers

    label = f"{folder.resolve().parent.name}/{folder.resolve().name}"
    if name == "csv":
        return loggers.CSVLogger(folder, name="", version=_free(folder, "csv"))
    if name == "tensorboard":
        if any("\ud800" <= character <= "\udfff" for character in str(folder)):  # a byte that is not UTF-8
            raise StudyError(f"TensorBoard cannot write into {folder}, whose name is not UTF-8: choose another folder")
        # It writes through a link at this name; a link that stands for one of our files gives way too.
        hyperparameters = folder / TENSORBOARD / loggers.TensorBoardLogger.NAME_HPARAMS_FILE
        if hyperparameters.is_symlink():
            hyperparameters.unlink()
        return loggers.TensorBoardLogger(folder, name="", version=TENSORBOARD)
    own: dict[str, Any]
    try:
        if name == "wandb":
            offline = "WANDB_MODE" not in os.environ and "WANDB_API_KEY" not in os.environ and not _has_netrc()
            held = _held_id(folder) or secrets.token_hex(4)
            _write_id(folder, held)
            own = {"id": held, "resume": "allow", "offline": offline}
            return loggers.WandbLogger(name=label, save_dir=folder, project="senet", **own)
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        own = {"tracking_uri": uri or f"sqlite:///{folder.resolve()}/mlflow.db"}  # recent versions refuse plain files
        found = loggers.MLFlowLogger(experiment_name="senet", run_name=label, run_id=_held_id(folder), **own)
        if _held_id(folder) is None:
            _write_id(folder, str(found.run_id))
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"logger {name} needs its package: pip install {name}", name=name) from error
    return found


def _free(folder: Path, name: str) -> str:
    """An unused name, because Lightning's logger deletes an earlier session's files under the same name."""
    number = 0
    while os.path.lexists(folder / (found := f"{name}-{number}" if number else name)):
        number += 1
    return found


def _has_netrc() -> bool:
    """Whether Weights & Biases has stored a key, as `wandb login` does."""
    try:
        return "api.wandb.ai" in (Path.home() / ".netrc").read_text(encoding="utf-8", errors="replace")
    except (OSError, RuntimeError):
        return False


def _held_id(folder: Path) -> str | None:
    file = folder / RUN_ID
    return read_text(file, 1000).strip() or None if file.is_file() else None


def _write_id(folder: Path, value: str) -> None:
    with atomic_write(folder / RUN_ID, follow=False) as temporary:
        temporary.write_text(f"{value}\n", encoding="utf-8")
