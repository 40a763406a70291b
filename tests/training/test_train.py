"""One training: what its folder holds, where it starts from, and that it can be resumed."""

import json
import math
import shutil

import lightning.pytorch as L
import pytest
import torch

from senet.block import SESpec
from senet.data.sources import open_data
from senet.evaluation.networks import NetworkSpec, make
from senet.files.run_folder import read_csv, write_csv
from senet.insertion import blocks
from senet.saving.saving import load, read_metadata
from senet.training.train import train
from senet.zoo import create

SHORT = {"epochs": 3, "batch_size": 8, "lr": 0.05, "devices": "cpu", "progress": False}


class Interrupt(L.Callback):
    """Stops a run like a power cut, before it can end epoch `epoch` (from 0)."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_):
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("the power is gone")


class Watch(L.Callback):
    """Keeps the batches and the plain weights that a run begins with."""

    def __init__(self):
        self.batches = []
        self.weights = {}

    def on_train_start(self, trainer, pl_module):
        self.weights = {k: v.clone() for k, v in pl_module.network.state_dict().items() if ".se." not in k}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append([part.clone() for part in batch])


def tensors(folder, name):
    network = create(name, num_classes=2)
    return load(folder / "model.safetensors", network).state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_folder_holds_everything(tiny, pictures, tmp_path):
    out = tmp_path / "run"
    result = train(tiny, pictures, out=out, spec=SESpec(), **SHORT)
    assert sorted(path.name for path in out.iterdir()) == [
        *(
            "best.safetensors",
            "metrics.csv",
            "model.safetensors",
            "predictions.csv",
            "result.json",
            "settings.json",
            "tensorboard",
        ),
    ]
    rows = read_csv(out / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert list(rows[0]) == columns
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert result.accuracy == pytest.approx(float(rows[-1]["val_accuracy"]))  # the last epoch's, not the best's
    written = json.loads((out / "result.json").read_text())
    assert (written["accuracy"], written["split"], written["images"]) == (result.accuracy, "val", 8)
    assert written["seconds"] == pytest.approx(sum(float(row["seconds"]) for row in rows))
    assert len(written["sites"]) == 2
    assert written["settings"]["seed"] == 0
    assert written["settings"]["se"]["start"] == "paper"
    predictions = read_csv(out / "predictions.csv")
    assert [row["image"] for row in predictions][:2] == ["val/dark/000.png", "val/dark/001.png"]
    assert sum(row["correct"] == "True" for row in predictions) == result.accuracy * 8
    metadata = read_metadata(out / "model.safetensors")
    assert metadata["metadata"]["classes"] == ["dark", "light"]
    assert metadata["metadata"]["preprocessing"] == {"size": 8, "resize": 8} | {
        key: value for key, value in metadata["metadata"]["preprocessing"].items() if key not in ("size", "resize")
    }
    assert list((out / "tensorboard").glob("events.*"))
    assert "val accuracy after 3 epochs" in str(result)
    assert str(out) in str(result)


def test_both_networks_see_the_same_and_start_from_the_same_weights(tiny, pictures, tmp_path):
    seen = []
    for name, spec, workers in (("plain", None, 0), ("se", SESpec(), 0), ("se_workers", SESpec(), 2)):
        watch = Watch()
        train(tiny, pictures, out=tmp_path / name, spec=spec, workers=workers, callbacks=[watch], **SHORT)
        seen.append(watch)
    plain, *others = seen
    assert len(plain.batches) == 9
    for other in others:
        assert same(plain.weights, other.weights)
        for one, two in zip(plain.batches, other.batches, strict=True):
            assert torch.equal(one[0], two[0])
            assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tiny, pictures, tmp_path, epoch, workers):
    asked = {**SHORT, "spec": SESpec(), "workers": workers}
    whole = train(tiny, pictures, out=tmp_path / "whole", **asked)
    with pytest.raises(RuntimeError, match="the power is gone"):
        train(tiny, pictures, out=tmp_path / "cut", callbacks=[Interrupt(epoch)], **asked)
    assert (tmp_path / "cut/checkpoints").exists() == (epoch > 0)
    assert not (tmp_path / "cut/result.json").exists()
    watch = Watch()
    resumed = train(tiny, pictures, out=tmp_path / "cut", callbacks=[watch], **asked)
    assert len(watch.batches) == 3 * (3 - epoch)  # what was done is not done again
    assert same(tensors(whole.folder, tiny), tensors(resumed.folder, tiny))
    assert resumed.correct == whole.correct
    metrics = [[{**row, "seconds": 0} for row in result.history] for result in (whole, resumed)]
    assert metrics[0] == metrics[1]
    assert not (tmp_path / "cut/checkpoints").exists()


@pytest.mark.parametrize("place", ["senet.training.recorder.write_csv", "senet.training.train.predict_all"])
def test_a_run_killed_after_its_last_epoch_is_only_measured_again(tiny, pictures, tmp_path, monkeypatch, place):
    whole = train(tiny, pictures, out=tmp_path / "whole", **SHORT)

    def killed(*given, **_):
        if place.endswith("write_csv") and len(given[1]) < len(whole.history):
            return write_csv(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny, pictures, out=tmp_path / "cut", **SHORT)
    watch = Watch()
    resumed = train(tiny, pictures, out=tmp_path / "cut", callbacks=[watch], **SHORT)
    assert watch.batches == []
    assert same(tensors(whole.folder, tiny), tensors(resumed.folder, tiny))
    assert train(tiny, pictures, out=tmp_path / "cut", **SHORT).history == resumed.history


def test_ctrl_c_is_a_keyboard_interrupt(tiny, pictures, tmp_path):
    class Press(L.Callback):
        def on_train_batch_end(self, *_):
            raise KeyboardInterrupt

    import signal

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny, pictures, out=tmp_path / "run", callbacks=[Press()], **SHORT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_finished_run_is_not_trained_again(tiny, pictures, tmp_path):
    first = train(tiny, pictures, out=tmp_path / "run", **SHORT)
    watch = Watch()
    again = train(tiny, pictures, out=tmp_path / "run", callbacks=[watch], **SHORT)
    assert watch.batches == []
    assert again == first


def test_a_run_that_goes_on_with_moved_pictures_is_read_again(tiny, pictures, tmp_path):
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=run, callbacks=[Interrupt(0)], **SHORT)
    scratch.mkdir()
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    (run / "checkpoints").symlink_to(scratch)
    with pytest.raises(RuntimeError, match="power"):
        train(tiny, pictures, out=run, callbacks=[Interrupt(1)], **SHORT)
    moved = pictures.rename(tmp_path / "elsewhere")
    first = train(tiny, moved, out=run, **SHORT)
    assert json.loads((run / "result.json").read_text())["settings"]["data"]["name"] == str(moved)
    assert train(tiny, moved, out=run, **SHORT) == first


def test_what_is_to_be_known_of_the_images_is_said_of_a_finished_run_too(tiny, pictures, tmp_path):
    shutil.copy(pictures / "train/dark/000.png", pictures / "val/dark/copy.png")
    first = train(tiny, pictures, out=tmp_path / "run", **SHORT)
    assert first.notes[0].startswith("1 of the 9 images of val are byte for byte images of train")
    assert train(tiny, pictures, out=tmp_path / "run", **SHORT) == first


def test_test_images_are_reported_and_val_images_watched(tiny, paint, tmp_path):
    folder = paint(
        {"train/a": 8, "train/b": 8, "val/a": 3, "val/b": 3, "test/a": 2, "test/b": 2},
    )
    result = train(tiny, folder, out=tmp_path / "run", **SHORT)
    assert (result.split, len(result.correct)) == ("test", 4)
    assert "val_accuracy" in result.history[0]


@pytest.mark.parametrize(("start", "given", "expected"), [
    (None, None, "identity"), ("paper", None, "paper"), (None, "paper", "paper"), ("identity", "paper", "identity"),
])  # fmt: skip
def test_from_weights_se_starts_as_the_identity_unless_asked(tiny, pictures, tmp_path, start, given, expected):
    torch.save(create(tiny, num_classes=5).state_dict(), tmp_path / "weights.pth")
    arm = NetworkSpec(tiny, str(tmp_path / "weights.pth"), SESpec(start=given)).with_start(start)
    assert arm.spec.start == expected
    made = make(arm, num_classes=2, size=8, seed=0)
    assert made.notes == (f"{tmp_path}/weights.pth: fc: 5 classes in the file, 2 wanted: starts fresh",)
    scales = {float(block.scale) for block in blocks(made.network).values()}
    assert scales == ({2.0} if expected == "identity" else {1.0})


def test_from_scratch_se_starts_as_in_the_paper_unless_asked(tiny):
    assert NetworkSpec(tiny, None, SESpec()).with_start(None).spec.start == "paper"
    assert NetworkSpec(tiny, None, SESpec()).with_start("identity").spec.start == "identity"
    with pytest.raises(ValueError, match="identity"):
        NetworkSpec(tiny, None, SESpec(gate="tanh")).with_start("identity")


def test_training_goes_on_from_a_run_and_keeps_its_preprocessing(tiny, pictures, paint, tmp_path):
    first = train(tiny, pictures, out=tmp_path / "first", size=16, **SHORT)
    photos = paint({"a": 8, "b": 8}, size=(70, 80), root="photos")
    watch = Watch()
    weights = first.folder / "model.safetensors"
    train(tiny, photos, out=tmp_path / "next", weights=weights, callbacks=[watch], **SHORT)
    assert watch.batches[0][0].shape == (8, 3, 16, 16)
    kept = tensors(first.folder, tiny)
    assert torch.equal(watch.weights["blocks.0.conv1.weight"], kept["blocks.0.conv1.weight"])


def test_the_callers_random_numbers_are_left_alone(tiny, pictures, tmp_path):
    before = torch.get_rng_state()
    train(tiny, open_data(pictures), out=tmp_path / "run", **SHORT)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_printed_unless_asked(tiny, pictures, tmp_path, capfd):
    train(tiny, pictures, out=tmp_path / "quiet", **SHORT)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    train(tiny, pictures, out=tmp_path / "loud", **{**SHORT, "epochs": 12, "progress": True})
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert 3 <= len(lines) <= 8
    assert "loud, epoch 12 of 12: training loss" in lines[-1]


@pytest.mark.parametrize(("size", "expected"), [(8, 1), (64, 3)])
def test_small_work_is_done_by_one_thread(tiny, pictures, tmp_path, size, expected):
    seen = []

    class Threads(L.Callback):
        def on_train_batch_start(self, *_):
            seen.append(torch.get_num_threads())

    torch.set_num_threads(3)
    train(tiny, pictures, out=tmp_path / "run", size=size, callbacks=[Threads()], **{**SHORT, "epochs": 1})
    assert set(seen) == {expected}
    assert torch.get_num_threads() == 3
