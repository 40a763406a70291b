"""Runs that end before they are done, and go on."""

import errno
import math
import os
import signal
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch import nn

from senet.block import SESpec
from senet.console.stopping import Stopped
from senet.data import signals
from senet.errors import StudyError
from senet.files.atomic import atomic_write
from senet.files.run_folder import read_json
from senet.saving.saving import load, read_metadata
from senet.training import recorder
from senet.training.checkpointing import newest, place, sweep
from senet.training.train import train
from senet.zoo import create
from tests.training.test_train import same, tensors

SHORT = {"epochs": 3, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False, "spec": SESpec()}
EVERY_STEP = {"checkpoint_minutes": 0.0}


class At(L.Callback):
    """Does something once, when step `step` (from 1) has ended; and lists the steps and batches of a session."""

    def __init__(self, step=0, do=lambda trainer, module: None):
        self.step, self.do = step, do
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append((trainer.global_step + 1, batch[0].clone()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            self.do(trainer, pl_module)


def _power_cut(*_):
    raise RuntimeError("the power is gone")


def _rows(result):
    return [{**row, "seconds": 0} for row in result.history]


VARIANTS = {
    "plain": {},
    "parts": {"accumulate": 2},
    "workers": {"workers": 2},
    "all": {
        "ema": 0.9,
        "mixup": 0.2,
        "cutmix": 1.0,
        "optimiser": "adamw",
        "freeze_statistics": 0.5,
        "trivial_augment": True,
        "random_erasing": 0.5,
        "clip": 1.0,
        "label_smoothing": 0.1,
        "decay_norms_and_biases": False,
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_cut_after_any_step_goes_on_at_the_next(tiny, pictures, tmp_path, variant):
    asked = {**SHORT, **EVERY_STEP, **VARIANTS[variant]}
    seen = At()
    whole = train(tiny, pictures, out=tmp_path / "whole", callbacks=[seen], **asked)
    cut, batches = tmp_path / "cut", []
    for step in (2, 4, 8, 9):  # Lightning calls us before the checkpoint of that step is written
        session = At(step, _power_cut)
        with pytest.raises(RuntimeError, match="power"):
            train(tiny, pictures, out=cut, callbacks=[session], **asked)
        batches += [item for item in session.batches if item[0] < step]
    session = At()
    resumed = train(tiny, pictures, out=cut, callbacks=[session], **asked)
    batches += session.batches
    assert [step for step, _ in batches] == [step for step, _ in seen.batches]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(batches, seen.batches, strict=True))
    assert same(tensors(whole.folder, tiny), tensors(resumed.folder, tiny))
    assert _rows(resumed) == _rows(whole)
    assert resumed.correct == whole.correct


def test_the_best_network_is_kept_beside_the_last(tiny, pictures, tmp_path):
    networks = []

    class Keep(L.Callback):
        def on_validation_end(self, trainer, pl_module):
            networks.append({key: value.clone() for key, value in pl_module.network.state_dict().items()})

    result = train(tiny, pictures, out=tmp_path / "run", callbacks=[Keep()], **SHORT)
    accuracies = [row["val_accuracy"] for row in result.history]
    best = accuracies.index(max(accuracies))
    path = result.folder / "best.safetensors"
    kept = load(path, create(tiny, num_classes=2)).state_dict()
    assert same(kept, networks[best])
    said = read_metadata(path)["metadata"]
    assert (said["epoch"], said["accuracy"], said["chosen_on"]) == (best + 1, max(accuracies), "val")


def test_a_checkpoint_is_due_after_its_minutes(tiny, pictures, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 7))
    monkeypatch.setattr(recorder.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(recorder, "sweep", lambda folder: None)
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[At(6, _power_cut)], checkpoint_minutes=0.2, **SHORT)
    assert len(list((tmp_path / "run/checkpoints").iterdir())) > 1


def test_broken_checkpoints_are_skipped_and_named(tiny, pictures, tmp_path, capsys):
    asked = {**SHORT, **EVERY_STEP}
    whole = train(tiny, pictures, out=tmp_path / "whole", **asked)
    cut = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=cut, callbacks=[At(6, _power_cut)], **asked)
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == [place(cut, i).name for i in (4, 5)]
    content = place(cut, 5).read_bytes()
    place(cut, 5).write_bytes(content[: len(content) // 2])
    (cut / "checkpoints/.senet-0123.ckpt").write_bytes(b"half")
    session = At()
    resumed = train(tiny, pictures, out=cut, callbacks=[session], **{**asked, "progress": True})
    said = capsys.readouterr().err
    assert "the checkpoint step-000000005.ckpt is not whole and is skipped" in said
    assert "cut resumes after step 4 of 9, from step-000000004.ckpt" in said
    assert session.batches[0][0] == 5
    assert same(tensors(whole.folder, tiny), tensors(resumed.folder, tiny))
    assert not (cut / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_stops(tiny, pictures, tmp_path, number, step):
    before = signal.getsignal(number)
    session = At(step, lambda *_: os.kill(os.getpid(), number))
    expected = KeyboardInterrupt if number == signal.SIGINT else Stopped
    with pytest.raises(expected) as stopped:
        train(tiny, pictures, out=tmp_path / "run", callbacks=[session], workers=1, **SHORT)
    if expected is Stopped:
        name = signal.Signals(number).name
        assert str(stopped.value) == f"stopped by {name} after step {step} of 9; a checkpoint is written"
        assert stopped.value.number == number
    assert newest(tmp_path / "run").path == place(tmp_path / "run", step)
    assert signal.getsignal(number) is before
    session = At()
    train(tiny, pictures, out=tmp_path / "run", callbacks=[session], **SHORT)
    assert session.batches[0][0] == step + 1


def test_a_second_ctrl_c_does_not_wait(tiny, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "AT_ONCE", -1.0)

    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[At(2, press)], **SHORT)
    assert newest(tmp_path / "run").path is None


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tiny, pictures, tmp_path):
    class Spoil(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                nn.init.constant_(pl_module.network.fc.bias, math.nan)

    words = r"the loss is nan at step 5 of 9 \(epoch 2, batch 2\).*smaller learning rate.*train/\w+/\d+\.png"
    with pytest.raises(StudyError, match=words):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[Spoil()], **SHORT, **EVERY_STEP)
    said = read_json(tmp_path / "run/not-finite.json")
    assert (said["step"], said["epoch"], said["batch"], len(said["images"])) == (5, 2, 2, 8)
    assert newest(tmp_path / "run").path == place(tmp_path / "run", 4)
    resumed = train(tiny, pictures, out=tmp_path / "run", **SHORT)
    assert len(resumed.history) == 3


def test_a_run_that_diverges_at_once_has_no_checkpoint_to_speak_of(tiny, pictures, tmp_path):
    class Spoil(L.Callback):
        def on_train_start(self, trainer, pl_module):
            nn.init.constant_(pl_module.network.fc.bias, math.nan)

    with pytest.raises(
        StudyError, match=r"the loss is nan at step 1 .*not-finite\.json\)\. There is no checkpoint yet$"
    ):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[Spoil()], **SHORT)


def test_scores_that_are_not_finite_are_no_result(tiny, pictures, tmp_path):
    def spoil(trainer, module):
        nn.init.constant_(module.network.blocks[0].bn1.running_var, math.nan)  # trains on, and measures nothing

    with pytest.raises(StudyError, match=r"scores of 8 of 8 images are not finite"):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[At(9, spoil)], **SHORT)
    assert not (tmp_path / "run/result.json").exists()


def test_weights_that_are_not_finite_are_never_written(tiny, pictures, tmp_path):
    def spoil(trainer, module):
        nn.init.constant_(module.network.fc.bias, math.inf)

    with pytest.raises(StudyError, match="a weight is nan at step 4"):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[At(4, spoil)], **SHORT, **EVERY_STEP)
    assert newest(tmp_path / "run").path == place(tmp_path / "run", 3)


def test_a_disk_that_is_full_at_the_end_is_said_too(tiny, pictures, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("senet.training.train.write_network", full)
        with pytest.raises(StudyError, match=r"disk of .*run is full .*: make room\. .*step-000000009\.ckpt, is whole"):
            train(tiny, pictures, out=tmp_path / "run", **SHORT)
    assert len(train(tiny, pictures, out=tmp_path / "run", **SHORT).history) == 3


def test_a_full_disk_is_said_and_the_last_checkpoint_is_whole(tiny, pictures, tmp_path, monkeypatch):
    original, fail = torch.save, []

    def save(content, file):
        if content["global_step"] == 4:
            fail.append(Path(file.name))
            raise OSError(errno.ENOSPC, "No space left on device", file.name)
        original(content, file)

    monkeypatch.setattr(torch, "save", save)
    words = r"the disk of .*run is full \(No space left on device\).*step-000000003\.ckpt, is whole"
    with pytest.raises(StudyError, match=words):
        train(tiny, pictures, out=tmp_path / "run", **SHORT, **EVERY_STEP)
    assert fail
    assert not fail[0].exists()
    monkeypatch.undo()
    assert len(train(tiny, pictures, out=tmp_path / "run", **SHORT).history) == 3


def test_a_batch_too_small_for_a_batch_normalisation_is_said(tiny, pictures, tmp_path):
    file = Path(tiny.removesuffix(":tiny"))
    pooled = "nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes)"
    file.write_text(f"{file.read_text()}\ndef pooled(num_classes=10):\n    return nn.Sequential({pooled})\n")
    words = r"one value per channel from a batch of 4 in 4 parts, which it cannot normalise: a larger --batch-size"
    with pytest.raises(StudyError, match=words):
        train(f"{file}:pooled", pictures, out=tmp_path / "run", epochs=1, batch_size=4, accumulate=4, devices="cpu")


@pytest.mark.parametrize("how", ["cpu", "gpu", "python", "loader"])
def test_exhausted_memory_is_said_and_the_last_checkpoint_is_whole(tiny, pictures, tmp_path, how):
    def exhaust(*_):
        if how == "cpu":
            torch.empty(2**60)
        raise {
            "gpu": torch.OutOfMemoryError("CUDA out of memory"),
            "python": MemoryError(),
            "loader": RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "),
        }[how]

    exhausted = "memory is exhausted by a batch of 8 in 1 part: in another folder, --accumulate 2 splits it into 2"
    words = "fewer --workers" if how == "loader" else exhausted
    with pytest.raises(StudyError, match=rf"{words}.*step-000000003\.ckpt, is whole"):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[At(4, exhaust)], **SHORT, **EVERY_STEP)


def test_memory_that_runs_out_when_the_run_is_measured_is_said(tiny, pictures, tmp_path, monkeypatch):
    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr("senet.training.train.predict_all", exhausted)
    with pytest.raises(StudyError, match=r"memory is exhausted by a batch of 8 .*step-000000003\.ckpt, is whole"):
        train(tiny, pictures, out=tmp_path / "run", **{**SHORT, "epochs": 1})


def test_what_others_write_beside_a_training_is_not_swept(tmp_path):
    with atomic_write(tmp_path / "best.onnx") as temporary:
        sweep(tmp_path)
        assert temporary.exists()
