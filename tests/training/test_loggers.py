"""Where metrics go: Lightning's loggers by name, one run a folder in each, offline."""

from __future__ import annotations

import os
import sys
import types

import lightning.pytorch as L
import pytest
from lightning.pytorch import loggers

from senet.errors import InputError, MissingPackageError, StudyError
from senet.files.run_folder import read_csv
from senet.study import train
from senet.training.loggers import RUN_ID, logger_for

SHORT = {"epochs": 2, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


class Cut(L.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise RuntimeError("the power is gone")


def test_a_run_that_goes_on_keeps_what_its_csv_had(tiny, pictures, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=out, logger="csv", callbacks=[Cut()], **SHORT)
    train(tiny, pictures, out=out, logger="csv", **SHORT)
    rows = [row for name in ("csv", "csv-1") for row in read_csv(out / name / "metrics.csv") if row["val_accuracy"]]
    assert [row["step"] for row in rows] == ["1", "2"]
    assert [float(row["val_accuracy"]) for row in rows] == [
        float(row["val_accuracy"]) for row in read_csv(out / "metrics.csv")
    ]
    assert not (out / "tensorboard").exists()


def test_a_folder_that_tensorboard_cannot_write(tmp_path):
    with pytest.raises(StudyError, match=r"cannot write into .*caf\\udce9, whose name is not UTF-8: choose another"):
        logger_for("tensorboard", tmp_path / os.fsdecode(b"caf\xe9"))


def test_a_logger_that_there_is_none_of(tiny, pictures, tmp_path):
    with pytest.raises(InputError, match="logger is one of tensorboard, csv, wandb, mlflow, not 'csvv'"):
        train(tiny, pictures, out=tmp_path / "run", logger="csvv", **SHORT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, {"wandb": "WandbLogger", "mlflow": "MLFlowLogger"}[name], _missing)
    with pytest.raises(MissingPackageError, match=f"pip install {name}"):
        logger_for(name, tmp_path)


def _missing(**_):
    raise ModuleNotFoundError("not here")


def test_weights_and_biases_is_offline_without_a_key_and_has_one_run_a_folder(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(loggers, "WandbLogger", lambda **own: given.append(own))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    logger_for("wandb", tmp_path)
    logger_for("wandb", tmp_path)
    assert given[0] == given[1]
    assert given[0]["offline"] is True
    assert given[0]["id"] == (tmp_path / RUN_ID).read_text().strip()
    assert given[0]["resume"] == "allow"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    logger_for("wandb", tmp_path)
    assert given[2]["offline"] is False


def test_mlflow_goes_on_with_the_run_that_it_made(tmp_path, monkeypatch):
    given = []

    def made(**own):
        given.append(own)
        return types.SimpleNamespace(run_id=own["run_id"] or "abc")

    monkeypatch.setattr(loggers, "MLFlowLogger", made)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logger_for("mlflow", tmp_path)
    logger_for("mlflow", tmp_path)
    assert [own["run_id"] for own in given] == [None, "abc"]
    assert given[0]["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking")
    logger_for("mlflow", tmp_path)
    assert given[2]["tracking_uri"] == "http://tracking"
    assert "mlflow" not in sys.modules
